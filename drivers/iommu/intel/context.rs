// SPDX-License-Identifier: GPL-2.0-only

//! Context entries (sections 9.3 and 9.4): what names a device's PASID directory.
//!
//! The words are pure; set-up and tear-down work on what [`crate::ffi::context`] finds. The
//! unit's lock is held while an entry is written.

use kernel::{
    bitfield,
    num::Bounded,
    prelude::*, //
};

use crate::{
    ffi::{
        context::Slot,
        device::Device,
        table::Directory, //
    },
    flush_plan::Plan,
    invalidate::NO_PASID,
};

bitfield! {
    /// Scalable-mode context entry, bits 63:0. P and FPD are where legacy mode has them.
    pub(crate) struct Low(u64) {
        /// PASIDDIRPTR: page frame of the PASID directory.
        63:12 directory;
        /// PDTS: the directory has 2^(PDTS + 7) entries.
        11:9 size;
        /// PRE: page requests.
        4:4 page_requests;
        /// PASIDE: requests with PASID.
        3:3 pasid;
        /// DTE: the device may cache translations.
        2:2 device_tlb;
        /// P.
        0:0 present;
    }
}

bitfield! {
    /// Legacy-mode context entry, bits 127:64. In scalable mode this word is RID_PASID, 0.
    pub(crate) struct High(u64) {
        /// DID.
        23:8 did;
    }
}

/// PDTS for a directory of so many PASIDs, 64 of them in each of its entries.
fn directory_size(max_pasid: u32) -> Bounded<u64, 3> {
    let size = (max_pasid >> 6)
        .checked_ilog2()
        .map_or(0, |n| n.saturating_sub(7));
    Bounded::try_new(size.into()).unwrap_or(Bounded::<u64, 3>::new::<7>())
}

/// The low word for a device.
fn low(dev: &Device<'_>, dir: &Directory<'_>) -> Low {
    let is = dev.snapshot();
    Low::from_raw(0)
        .with_directory(Bounded::<u64, 64>::from(dir.phys()).shr::<12, 52>())
        .with_size(directory_size(dir.max_pasid()))
        .with_device_tlb(is.ats_supported)
        .with_pasid(is.pasid_supported)
        .with_page_requests(is.pri_supported)
        .with_present(true)
}

/// Names the device's PASID directory in the context entry of `bus` and `devfn`. One that does
/// so already is left alone.
///
/// # Errors
///
/// `ENOMEM` when there is no memory for the context table, `ENODEV` when there is no directory,
/// those of the invalidation queue.
pub(crate) fn set_up(dev: &Device<'_>, bus: u8, devfn: u8) -> Result {
    let unit = dev.unit();
    let dir = dev.directory().ok_or(ENODEV)?;
    let sid = u16::from(bus) << 8 | u16::from(devfn);
    {
        let guard = unit.lock();
        let mut slot = Slot::find(&unit, bus, devfn, true, &guard).ok_or(ENOMEM)?;
        let inherited = unit.context_copied(bus, devfn);
        if slot.low().present().into_bool() && !inherited {
            return Ok(());
        }
        if inherited {
            // The tables of the crashed kernel may be cached, and DMA may have been in flight.
            slot.clear_present(&guard);
            unit.flush(&Plan::inherited_context(sid, &dev.scope(NO_PASID)))?;
            slot.reset();
            // The driver's probe has reset the device by now.
            unit.forget_copied(bus, devfn);
        }
        slot.publish(low(dev, &dir), &guard);
    }
    unit.flush(&Plan::new_context(sid, &unit.caps()))
}

/// Clears the context entry of `bus` and `devfn`, if there is one.
pub(crate) fn tear_down(dev: &Device<'_>, bus: u8, devfn: u8) {
    let unit = dev.unit();
    let guard = unit.lock();
    let Some(mut slot) = Slot::find(&unit, bus, devfn, false, &guard) else {
        return;
    };
    let did = slot.did();
    slot.clear_present(&guard);
    drop(guard);
    let sid = u16::from(bus) << 8 | u16::from(devfn);
    if flush(dev, did, sid).is_err() {
        dev.complain(c"context entry: invalidation failed");
    }
    slot.reset();
}

/// Invalidates a context entry that was present, when no PASID entry below it is any more.
///
/// `sid` may be that of an alias of the device.
///
/// # Errors
///
/// Those of the invalidation queue.
pub(crate) fn flush(dev: &Device<'_>, did: u16, sid: u16) -> Result {
    let unit = dev.unit();
    let twice = dev.snapshot().extra_inval;
    let plan = Plan::context(sid, did, &dev.scope(NO_PASID), !unit.scalable(), twice);
    unit.flush(&plan)
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_context)]
mod tests {
    use super::*;

    #[test]
    fn directory_sizes() {
        // (PASIDs, PDTS)
        let table = [
            (0, 0),
            (64, 0),
            (1 << 13, 0),
            ((1 << 14) - 1, 0),
            (1 << 14, 1),
            (1 << 15, 2),
            (1 << 19, 6),
            (1 << 20, 7),
            (u32::MAX, 7),
        ];
        for (pasids, want) in table {
            assert_eq!(directory_size(pasids).get(), want);
        }
    }
}
