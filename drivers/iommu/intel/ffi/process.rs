// SPDX-License-Identifier: GPL-2.0-only

//! What [`svm`] has of C: the domain of a process as the memory management knows it, by a notifier
//! which also decides when its memory is free; the process's page table; and whether units and
//! devices can work with that.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use kernel::{
    bindings,
    container_of,
    error::to_result,
    iommu::{
        domain::{
            Domain as OfCore,
            Head,
            NewDomain,
            Owned, //
        },
        ops::DomainTable, //
    },
    mm::MmWithUser,
    pr_err,
    prelude::*, //
};

use super::{
    device::Device,
    domain::{
        DmarHead,
        Domain, //
    },
    unit::Unit, //
};
use crate::{
    pasid_entry::{
        FirstStage,
        Levels, //
    },
    svm::{
        self,
        Features,
        Process,
        Processor, //
    },
};

/// `struct dmar_domain` as a process's domain begins with it.
#[repr(transparent)]
pub(crate) struct ProcessHead(bindings::dmar_domain);

// SAFETY: A `struct dmar_domain` begins with the `iommu_domain`, and is of plain data. There are
// no such operations.
unsafe impl Head for ProcessHead {
    type Config = ();

    unsafe fn init(this: *mut Self, _config: &()) -> Result {
        // SAFETY: It is zero but for the core's part.
        unsafe { bindings::vtd_domain_init(this.cast()) };
        // SAFETY: It is ours still.
        unsafe { (*notifier(this.cast())).ops = &raw const NOTIFIER };
        Ok(())
    }

    unsafe fn deinit(_this: *mut Self) {}
}

// SAFETY: It is one, and `init()` does that.
unsafe impl DmarHead for ProcessHead {}

/// The member of the union that a process's domain has.
///
/// # Safety
///
/// `domain` points to memory for a whole structure.
unsafe fn notifier(domain: *mut bindings::dmar_domain) -> *mut bindings::mmu_notifier {
    // SAFETY: It stays in the structure.
    unsafe { &raw mut (*domain).__bindgen_anon_2.__bindgen_anon_3.notifier }
}

/// The domain that a notifier is in.
///
/// # Safety
///
/// `notifier` is in a domain with a [`ProcessHead`].
unsafe fn domain_of(notifier: *mut bindings::mmu_notifier) -> *mut bindings::dmar_domain {
    // SAFETY: By the safety requirement it is that member.
    unsafe {
        container_of!(
            notifier,
            bindings::dmar_domain,
            __bindgen_anon_2.__bindgen_anon_3.notifier
        )
    }
}

static NOTIFIER: bindings::mmu_notifier_ops = {
    let mut ops: bindings::mmu_notifier_ops = pin_init::zeroed();
    ops.release = Some(release);
    ops.arch_invalidate_secondary_tlbs = Some(invalidate);
    ops.free_notifier = Some(free);
    ops
};

/// The table of these domains: the core does not free one, but gives the notifier up.
pub(crate) const fn table() -> DomainTable<Process> {
    // SAFETY: The core gets none that `follow()` has not registered, and what is registered is
    // freed when the notifier is.
    unsafe { DomainTable::new().freed_by(put) }
}

/// Has a new domain told of all that the process unmaps, and of its end.
///
/// # Errors
///
/// `ENOMEM`, `EINTR`.
pub(crate) fn follow(domain: Owned<Process>, mm: &MmWithUser) -> Result<NewDomain> {
    // SAFETY: It has such a head.
    let notifier = unsafe { notifier(domain.as_any().as_raw().cast()) };
    // SAFETY: The notifier is initialised, and stays until it is given up; the process has its
    // memory still.
    to_result(unsafe { bindings::mmu_notifier_register(notifier, mm.as_raw()) })?;
    Ok(domain.into())
}

/// # Safety
///
/// Called by the core once, on a domain with [`table`] that is not attached.
unsafe extern "C" fn put(domain: *mut bindings::iommu_domain) {
    // SAFETY: It was registered, and this is the one reference to it. The domain is freed when all
    // calls are over.
    unsafe { bindings::mmu_notifier_put(notifier(domain.cast())) };
}

/// # Safety
///
/// Called once on a notifier of ours, to which no call is under way.
unsafe extern "C" fn free(notifier: *mut bindings::mmu_notifier) {
    // SAFETY: It is in a domain that the core has let go.
    let domain = unsafe { domain_of(notifier) };
    // SAFETY: It came from `Owned::into_raw()`.
    drop(unsafe { Owned::<Process>::from_raw(domain.cast()) });
}

/// # Safety
///
/// Called on a notifier of ours, which is not freed meanwhile.
unsafe extern "C" fn release(notifier: *mut bindings::mmu_notifier, _mm: *mut bindings::mm_struct) {
    // SAFETY: The domain is there as long as its notifier.
    svm::end(&unsafe { Domain::from_raw(domain_of(notifier)) });
}

/// # Safety
///
/// Called on a notifier of ours, which is not freed meanwhile.
unsafe extern "C" fn invalidate(
    notifier: *mut bindings::mmu_notifier,
    _mm: *mut bindings::mm_struct,
    start: c_ulong,
    end: c_ulong,
) {
    // SAFETY: The domain is there as long as its notifier.
    let domain = unsafe { Domain::from_raw(domain_of(notifier)) };
    // `end` is the byte behind it, or all ones for all there is.
    let last = if end == c_ulong::MAX {
        end
    } else {
        end.wrapping_sub(1)
    };
    svm::forget(&domain, start as u64, last as u64);
}

/// The table of its process, for a device behind a unit.
pub(crate) fn first_stage(domain: &OfCore<Process>, unit: &Unit<'_>) -> FirstStage {
    FirstStage {
        // SAFETY: The core has noted the process, whose table is freed after the domain.
        root: unsafe { bindings::vtd_process_root(domain.as_any().as_raw()) },
        levels: Levels::new(processor().five_levels),
        aw: unit.agaw(),
        snoop_pages: false,
        snoop_walk: true,
    }
}

/// What processors put into page tables here.
fn processor() -> Processor {
    // SAFETY: It reads what does not change.
    let (maps_1gib, five_levels) =
        unsafe { (bindings::vtd_maps_1gib(), bindings::vtd_five_levels()) };
    Processor {
        maps_1gib,
        five_levels,
    }
}

impl Unit<'_> {
    /// Whether it can walk the page tables of processes, as [`intel_svm_check`] found.
    pub(crate) fn walks_processes(&self) -> bool {
        // SAFETY: The unit is there by the invariant; the flag is set before anybody got it.
        unsafe { (*self.as_raw()).flags & bindings::VTD_FLAG_SVM_CAPABLE != 0 }
    }
}

impl Device<'_> {
    /// What it has for working in a process's memory. The mutex of its group is held, or it is in
    /// use by who asks.
    pub(crate) fn features(&self) -> Features {
        // SAFETY: `info` is there by the invariant.
        let info = unsafe { &*self.info() };
        Features {
            pasid_on: info.pasid_enabled() != 0,
            ats_on: info.ats_enabled() != 0,
            pri: info.pri_supported() != 0,
            pri_on: info.pri_enabled() != 0,
        }
    }
}

/// Finds out whether a unit can walk the page tables of processes.
///
/// # Safety
///
/// `iommu` is a unit that is being set up, and that nobody else uses.
#[export]
unsafe extern "C" fn intel_svm_check(iommu: *mut bindings::intel_iommu) {
    // SAFETY: The unit is there.
    let unit = unsafe { Unit::from_raw(iommu) };
    let caps = unit.caps();
    if !unit.pasid_supported() || !caps.ecap.walk_coherent().into_bool() {
        return;
    }
    if let Some(why) = svm::incompatible(&caps, processor()) {
        // SAFETY: The name was set before, and ends in NUL.
        let name = unsafe { CStr::from_char_ptr((&raw const (*iommu).name).cast()) };
        pr_err!("{name} SVM disabled, {why}\n");
        return;
    }
    // SAFETY: Nobody else uses it yet.
    unsafe { (*iommu).flags |= bindings::VTD_FLAG_SVM_CAPABLE };
}
