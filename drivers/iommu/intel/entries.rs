// SPDX-License-Identifier: GPL-2.0-only

//! What the rest of the driver asks of a device's PASID entries.
//!
//! Each function finds the entry, decides what it is to become and walks it through its life
//! ([`crate::pasid`]). `intel_iommu::lock` of the device's unit is taken for the writes and is free
//! while the hardware invalidates.

use kernel::{
    iommu::ops::NO_PASID,
    prelude::*, //
};

use crate::{
    entry::Hardware,
    ffi::{
        device::Device,
        domain::OnUnit,
        table,
        user::HwptVtdS1,
        words::Words, //
    },
    invalidate::{
        pasid as checked,
        Pasid, //
    },
    pasid::State,
    pasid_entry::{
        Entry,
        FirstStage,
        Levels,
        Low,
        Pgtt,
        SecondStage,
        UserStage,
        WORDS, //
    },
};

/// The domain-id of first-stage and pass-through entries (`FLPT_DEFAULT_DID`).
pub(crate) const DEFAULT_DID: u16 = 1;

/// Makes an entry present and tells the hardware.
///
/// # Errors
///
/// `ENODEV` when there is no such entry, `ENOMEM` when there is no memory for it, `EBUSY` when it
/// is present already or about to leave, those of the invalidation queue, upon which the entry is
/// absent again.
fn publish(dev: &Device<'_>, pasid: u32, entry: &Entry) -> Result {
    let scope = dev.scope(checked(pasid)?);
    let slot = table::entry(dev, pasid)?;
    let State::Absent(absent) = State::of(slot.lock()) else {
        return Err(EBUSY);
    };
    let Err((e, present)) = absent.publish(entry).announce(&scope) else {
        return Ok(());
    };
    // The hardware may still think that the entry is absent, so make that true.
    let (flushed, _) = present.clear().flush(&scope);
    flushed.reset(false);
    Err(e)
}

/// First-stage translation by a table of the kernel's.
///
/// # Errors
///
/// `EINVAL` when the unit cannot, and those of [`publish`].
pub(crate) fn set_up_first_stage(
    dev: &Device<'_>,
    table: &FirstStage,
    pasid: u32,
    did: u16,
) -> Result {
    if let Some(what) = table.lacks(&dev.unit().caps()) {
        dev.complain(what);
        return Err(EINVAL);
    }
    publish(dev, pasid, &Entry::first_stage(table, did))
}

/// Whether a PASID is translated by the kernel's tables alone, or by none, as of now. Does not
/// sleep.
pub(crate) fn is_the_kernels(dev: &Device<'_>, pasid: Pasid) -> bool {
    // CAST: A PASID fits.
    let pasid = pasid.get() as u32;
    // A device may send what there is no room for.
    let reaches = dev.directory().is_some_and(|dir| pasid < dir.max_pasid());
    let entry = reaches.then(|| table::find(dev, pasid)).flatten();
    entry.is_some_and(|entry| {
        let pgtt = Low::from_raw(entry.load(0)).pgtt();
        pgtt.is_ok_and(|pgtt| pgtt != Pgtt::Nested)
    })
}

/// Makes sure that there is a place for the entry of requests without PASID. Does not sleep.
///
/// # Errors
///
/// `ENODEV`: the device has no directory; `ENOMEM`.
pub(crate) fn make_room(dev: &Device<'_>) -> Result {
    table::entry(dev, NO_PASID).map(|_| ())
}

/// Second-stage translation. The lock is held under which the table's flags change.
///
/// # Errors
///
/// Those of [`publish`].
pub(crate) fn set_up_second_stage(
    dev: &Device<'_>,
    table: &SecondStage,
    pasid: u32,
    did: u16,
) -> Result {
    publish(dev, pasid, &Entry::second_stage(table, did))
}

/// No translation.
///
/// # Errors
///
/// Those of [`publish`].
pub(crate) fn set_up_pass_through(dev: &Device<'_>, pasid: u32) -> Result {
    let unit = dev.unit();
    let entry = Entry::pass_through(&unit.caps(), unit.agaw(), DEFAULT_DID);
    publish(dev, pasid, &entry)
}

/// Checks what the user of a nested domain asks for against what the unit and the parent can do.
///
/// # Errors
///
/// `EINVAL` when they cannot.
pub(crate) fn check_nested(
    dev: &Device<'_>,
    parent: &SecondStage,
    asked: &HwptVtdS1,
) -> Result<UserStage> {
    let Some(levels) = Levels::from_width(asked.addr_width) else {
        dev.complain(c"invalid stage-1 address width");
        return Err(EINVAL);
    };
    let user = UserStage {
        root: asked.pgtbl_addr,
        levels,
        supervisor: asked.supervisor(),
        write_protect: asked.write_protect(),
        extended_accessed: asked.extended_accessed(),
        snoop: false,
    };
    if let Some(what) = user.lacks(&dev.unit().caps(), parent) {
        dev.complain(what);
        return Err(EINVAL);
    }
    Ok(user)
}

/// A user's first stage on its parent's second one. The lock is held under which the parent's flags
/// change.
///
/// # Errors
///
/// Those of [`publish`].
pub(crate) fn set_up_nested(
    dev: &Device<'_>,
    parent: &SecondStage,
    user: &UserStage,
    pasid: u32,
    did: u16,
) -> Result {
    publish(dev, pasid, &Entry::nested(user, parent, did))
}

/// The entry of a device that a domain lists. One that does its DMA in another one's name has none.
fn of_listed<'a>(dev: &Device<'a>, pasid: u32) -> Option<Words<'a, WORDS>> {
    if dev.real_dma_subdevice() {
        return None;
    }
    table::find(dev, pasid)
}

/// Turns dirty tracking on or off in an entry of a domain, which lists the device. The lock of the
/// domain that user space named is held: `domain` itself or its parent.
///
/// An entry that is absent, or another domain's, belongs to a device that is being attached or
/// detached: it is listed before its entry is there and after. Who makes the entry waits for the
/// lock and reads then what was set.
///
/// # Errors
///
/// `EOPNOTSUPP` when the entry has no second stage, those of the invalidation queue.
pub(crate) fn set_dirty_tracking(
    dev: &Device<'_>,
    domain: &OnUnit<'_>,
    pasid: u32,
    on: bool,
) -> Result {
    let id = checked(pasid)?;
    let Some(slot) = of_listed(dev, pasid) else {
        return Ok(());
    };
    let changed = match State::of(slot.lock()) {
        State::Present(present) if present.entry().did() != domain.did() => return Ok(()),
        State::Present(present) if present.entry().through_second_stage() => {
            if present.entry().low.ssade().into_bool() == on {
                return Ok(());
            }
            present.set_dirty_tracking(on)
        }
        State::Absent(_) | State::Leaving(_) => return Ok(()),
        State::Present(present) => {
            drop(present);
            dev.complain(c"dirty tracking not supported on this translation type");
            return Err(EOPNOTSUPP);
        }
    };
    changed.flush(&dev.scope(id))
}

/// Makes all accesses through an entry of a domain snooped, whose lock is held. As for
/// [`set_dirty_tracking`] an entry that is absent, or another domain's, is passed over.
///
/// # Errors
///
/// Those of the invalidation queue.
pub(crate) fn force_snoop(dev: &Device<'_>, domain: &OnUnit<'_>, pasid: u32) -> Result {
    let id = checked(pasid)?;
    let Some(slot) = of_listed(dev, pasid) else {
        return Ok(());
    };
    match State::of(slot.lock()) {
        State::Present(present) if present.entry().did() == domain.did() => {
            present.force_snoop().flush(&dev.scope(id))
        }
        State::Present(_) | State::Absent(_) | State::Leaving(_) => Ok(()),
    }
}

/// Takes an entry out of use, if there is one and it is in use, and drains its page requests.
///
/// `faults_off` leaves an entry behind whose faults are not reported, for a process that goes
/// away while its device still works; the next call clears that and drains.
///
/// # Errors
///
/// `EINVAL` for what is no PASID, those of the invalidation queue, upon which the entry is absent
/// nonetheless.
pub(crate) fn tear_down(dev: &Device<'_>, pasid: u32, faults_off: bool) -> Result {
    let id = checked(pasid)?;
    let Some(slot) = table::find(dev, pasid) else {
        return Ok(());
    };
    let mut slot = slot.lock();
    let cleared = loop {
        match State::of(slot) {
            State::Present(present) => break present.clear(),
            State::Absent(absent) if absent.faults_off() => {
                absent.reset();
                dev.drain_page_requests(pasid);
                return Ok(());
            }
            State::Absent(_) => return Ok(()),
            // As long as the hardware takes: the caller frees what the entry names.
            State::Leaving(leaving) => slot = leaving.wait(),
        }
    };
    let (flushed, result) = cleared.flush(&dev.scope(id));
    flushed.reset(faults_off);
    if !faults_off {
        dev.drain_page_requests(pasid);
    }
    result
}
