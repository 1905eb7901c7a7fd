// SPDX-License-Identifier: GPL-2.0-only

//! Shared virtual memory: the page table of a process is a device's first stage. What the process
//! unmaps is invalidated as for any other domain; when it ends its PASIDs go, whoever still holds
//! them.

use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Domain as OfCore,
            Kind,
            NewDomain,
            Owned, //
        },
        ops::{
            DomainOps,
            DomainTable,
            Pasid,
            Served, //
        }, //
    },
    mm::MmWithUser,
    prelude::*, //
};

use crate::{
    attach::{
        self,
        Target, //
    },
    cache,
    caps::Caps,
    entries,
    ffi::{
        device::Device,
        domain::Domain,
        process::{
            self,
            ProcessHead, //
        }, //
    },
    paging::logged, //
};

/// What is in a process's page table, by the processor that walks it, too.
#[derive(Clone, Copy)]
pub(crate) struct Processor {
    /// Entries may map pages of 1 GiB.
    pub(crate) maps_1gib: bool,
    /// Tables have five levels.
    pub(crate) five_levels: bool,
}

/// What a device has, and has on.
#[derive(Clone, Copy)]
pub(crate) struct Features {
    pub(crate) pasid_on: bool,
    pub(crate) ats_on: bool,
    pub(crate) pri: bool,
    pub(crate) pri_on: bool,
}

impl Features {
    /// Whether it can work in a process's memory, where pages come and go. One without page
    /// requests may have ways of its own for those that are not there.
    fn suffice(self) -> bool {
        self.pasid_on && self.ats_on && (self.pri_on || !self.pri)
    }
}

/// Why a unit cannot walk the page tables of processes, if it cannot. Without PASIDs and coherent
/// walks that is no matter for complaint.
pub(crate) fn incompatible(caps: &Caps, processor: Processor) -> Option<&'static CStr> {
    if processor.maps_1gib && !caps.cap.first_stage_1gib().into_bool() {
        Some(c"incompatible 1GB page capability")
    } else if processor.five_levels && !caps.cap.first_stage_5_level().into_bool() {
        Some(c"incompatible paging mode")
    } else {
        None
    }
}

/// Whether a device can work in the memory of processes.
///
/// # Errors
///
/// `ENODEV`: its unit cannot. `EINVAL`: it lacks what that takes, or has it off.
pub(crate) fn supported(dev: &Device<'_>) -> Result {
    if !dev.unit().walks_processes() {
        return Err(ENODEV);
    }
    if !dev.features().suffice() {
        return Err(EINVAL);
    }
    Ok(())
}

/// A domain with the page table of a process.
pub(crate) struct Process;

static PROCESS: DomainTable<Process> = process::table();

/// Makes a domain of a process that is to be the first one to use it with a device.
///
/// # Errors
///
/// Those of [`supported`]; `ENOMEM`; `EINTR` when a signal came first.
pub(crate) fn alloc(dev: &Device<'_>, mm: &MmWithUser) -> Result<NewDomain> {
    supported(dev)?;
    let domain = Owned::new(Kind::Sva, &(), Process, GFP_KERNEL)?;
    process::follow(domain, mm)
}

/// What the processors forget of a range of the process's addresses (bytes, both ends inclusive)
/// devices have to, too. Page tables may have changed with it. Does not sleep.
pub(crate) fn forget(domain: &Domain<'_>, start: u64, last: u64) {
    logged(cache::flush_range(domain, start, last, false));
}

/// The process ends: its page table is about to be taken down, and nothing of that will be told.
/// Devices may still work, so that nobody wants to hear of their faults. Later the PASIDs are
/// removed as any others.
pub(crate) fn end(domain: &Domain<'_>) {
    domain.lock().each_of_all(|dev, _, pasid| {
        if entries::tear_down(dev, pasid, true).is_err() {
            dev.complain(c"PASID entry of a process that ends: invalidation failed");
        }
    });
}

#[vtable]
impl DomainOps for Process {
    type Head = ProcessHead;

    fn table() -> &'static DomainTable<Self> {
        &PROCESS
    }

    /// Without a PASID a device gets into no process.
    fn attach_dev(_domain: &OfCore<Self>, _dev: &Served, _old: Option<&AnyDomain>) -> Result {
        Err(ENODEV)
    }

    fn set_dev_pasid(
        domain: &OfCore<Self>,
        dev: &Served,
        pasid: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        let dev = Device::of(dev)?;
        supported(&dev)?;
        let table = process::first_stage(domain, &dev.unit());
        let to = Target::Process(Domain::of(domain), table);
        attach::pasid(&dev, pasid, &to, old)
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kernel::macros::kunit_tests(vtd_svm)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_needs() {
        // (PASID, ATS, has PRI, PRI on, suffices)
        for (pasid_on, ats_on, pri, pri_on, suffices) in [
            (true, true, true, true, true),
            (true, true, false, false, true),
            (true, true, true, false, false),
            (true, false, true, true, false),
            (true, false, false, false, false),
            (false, true, true, true, false),
            (false, false, false, false, false),
        ] {
            let has = Features {
                pasid_on,
                ats_on,
                pri,
                pri_on,
            };
            assert_eq!(has.suffice(), suffices);
        }
    }

    #[test]
    fn what_a_unit_needs() {
        const FS1GP: u64 = 1 << 56;
        const FS5LP: u64 = 1 << 60;
        // (capabilities, 1 GiB pages, five levels, can)
        for (cap, maps_1gib, five_levels, can) in [
            (0, false, false, true),
            (0, true, false, false),
            (0, false, true, false),
            (FS1GP, true, false, true),
            (FS1GP, true, true, false),
            (FS5LP, false, true, true),
            (FS5LP, true, true, false),
            (FS1GP | FS5LP, true, true, true),
        ] {
            let processor = Processor {
                maps_1gib,
                five_levels,
            };
            let why = incompatible(&Caps::new(cap, 0), processor);
            assert_eq!(why.is_none(), can);
        }
    }
}
