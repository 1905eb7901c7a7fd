// SPDX-License-Identifier: GPL-2.0-only

//! A vIOMMU's share of a unit.

use core::ptr::NonNull;

use kernel::{
    bindings,
    container_of,
    iommu::{
        domain::AnyDomain,
        user_data::Handled,
        viommu::NewViommu, //
    },
    prelude::*, //
};

use super::{
    domain::SecondStageDomain,
    errno,
    unit::Unit,
    user::{
        Parent,
        VtdFault, //
    }, //
};
use crate::viommu::Vtd;

/// A unit that is not unplugged meanwhile.
///
/// # Invariants
///
/// Points to an initialised `struct intel_iommu`, and stands for one of its `viommus`.
struct Kept(NonNull<bindings::intel_iommu>);

// SAFETY: A unit may be used by any thread.
unsafe impl Send for Kept {}
// SAFETY: A unit has locks of its own.
unsafe impl Sync for Kept {}

impl Kept {
    fn unit(&self) -> Unit<'_> {
        // SAFETY: By the invariant it is there.
        unsafe { Unit::from_raw(self.0.as_ptr()) }
    }
}

impl Clone for Kept {
    fn clone(&self) -> Self {
        // SAFETY: By the invariant the unit is there.
        unsafe { bindings::vtd_unit_get(self.0.as_ptr()) };
        // INVARIANT: It was counted just now.
        Self(self.0)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // SAFETY: By the invariant the unit is there, and this is one of its counts.
        unsafe { bindings::vtd_unit_put(self.0.as_ptr()) };
    }
}

/// What a vIOMMU has of a unit.
///
/// # Invariants
///
/// It is a part of a vIOMMU that is on `parent`.
pub(crate) struct Share {
    unit: Kept,
    parent: Parent,
}

impl Share {
    /// The share of a vIOMMU that is being made on `parent`, for which it is, without data of the
    /// user's.
    ///
    /// # Errors
    ///
    /// `EINVAL`: nothing of this driver's can be nested on it.
    pub(crate) fn new(viommu: &NewViommu<'_, Vtd>, parent: &AnyDomain) -> Result<Self> {
        let of_core = viommu.iommu_device();
        // SAFETY: Such a vIOMMU is made by an operation of this driver's units only, and all of
        // them are in a `struct intel_iommu`.
        let unit = unsafe { container_of!(of_core, bindings::intel_iommu, iommu) };
        // SAFETY: iommufd keeps the parent as long as there is the vIOMMU.
        let parent = unsafe { Parent::of(parent) }.ok_or(EINVAL)?;
        let unit = NonNull::new(unit).ok_or(EINVAL)?;
        // SAFETY: There are no data, so that the core still lends a device of the unit's, which is
        // there as long.
        unsafe { bindings::vtd_unit_get(unit.as_ptr()) };
        // INVARIANT: It was counted just now, and the vIOMMU is made on the parent.
        Ok(Self {
            unit: Kept(unit),
            parent,
        })
    }

    /// The unit.
    pub(crate) fn unit(&self) -> Unit<'_> {
        self.unit.unit()
    }

    /// The parent, for what is nested on it.
    pub(crate) fn parent(&self) -> Parent {
        self.parent
    }

    /// The domain with the second stage.
    pub(crate) fn second_stage(&self) -> SecondStageDomain<'_> {
        self.parent.domain()
    }

    /// How often the unit may have lost faults.
    pub(crate) fn overflows(&self) -> u32 {
        // SAFETY: The unit is there; only the work that reads its records writes to it.
        unsafe { (&raw const (*self.unit().as_raw()).fault_overflows).read_volatile() }
    }

    /// For who traces it: what became of a part of the guest's queue.
    pub(crate) fn trace_queue(&self, asked: u32, handled: &Handled) {
        let (done, ret) = (handled.count(), errno(handled.result()));
        // SAFETY: The unit is there.
        unsafe { bindings::vtd_trace_guest_queue(self.unit().as_raw(), asked, done, ret) };
    }

    /// For who traces it: what the guest was told of a fault of the device with this source-id of
    /// the host's, or why not.
    pub(crate) fn trace_fault(&self, sid: u16, fault: &VtdFault, told: Result) {
        let ([low, high], flags, ret) = (fault.frcd, fault.flags, errno(told));
        // SAFETY: The unit is there.
        unsafe {
            bindings::vtd_trace_guest_fault(self.unit().as_raw(), sid, low, high, flags, ret)
        };
    }

    /// Domain-ids that the unit has, all told.
    pub(crate) fn domain_ids(&self) -> usize {
        // SAFETY: The unit is there; the number was set before anybody got it.
        unsafe { (*self.unit().as_raw()).max_domain_id }
    }
}

/// A domain-id of a unit's, for domains of which none owns it. Dropping it frees it.
///
/// # Invariants
///
/// It was allocated on the unit.
pub(crate) struct Did {
    unit: Kept,
    did: u16,
}

impl Did {
    /// Takes one. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: all that guests may have are in use; `ENOMEM`.
    pub(crate) fn alloc(share: &Share) -> Result<Self> {
        let did = share.unit().lock_ids().alloc(true)?;
        // INVARIANT: It was allocated just now.
        Ok(Self {
            unit: share.unit.clone(),
            did,
        })
    }

    /// The number.
    pub(crate) fn get(&self) -> u16 {
        self.did
    }

    /// The unit that it is of.
    pub(crate) fn unit(&self) -> Unit<'_> {
        self.unit.unit()
    }
}

impl Drop for Did {
    fn drop(&mut self) {
        self.unit().lock_ids().free(self.did);
    }
}
