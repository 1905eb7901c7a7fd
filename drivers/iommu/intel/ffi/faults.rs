// SPDX-License-Identifier: GPL-2.0-only

//! The devices that guests have names for, and the faults of these devices.
//!
//! A mutex guards the table. It is held while a guest is told of a fault, so that who takes a name
//! away knows that it is in use no more. Inside it the vIOMMU's `veventqs_rwsem` is taken; outside
//! of it the mutex of an iommufd group may be held.

use core::ptr::NonNull;

use kernel::{
    bindings,
    error::to_result,
    iommu::viommu::Hold,
    prelude::*,
    types::NotThreadSafe, //
};

use super::unit::Unit;
use crate::{
    fault::Record,
    viommu::Vtd, //
};

/// What a guest calls a device.
pub(crate) struct Named {
    /// Whose guest.
    pub(crate) viommu: Hold<Vtd>,
    /// The guest's source-id of it.
    pub(crate) sid: u16,
}

/// The table, locked. Dropping it unlocks.
struct Table(NotThreadSafe);

impl Table {
    fn lock() -> Self {
        // SAFETY: It may sleep here, and the mutex is not held.
        unsafe { bindings::vtd_named_lock() };
        Self(NotThreadSafe)
    }

    fn at(&self, unit: &Unit<'_>, sid: u16) -> Option<&Named> {
        // SAFETY: The unit is there; the mutex is held.
        let named = unsafe { bindings::vtd_named_find(unit.as_raw(), sid) };
        // SAFETY: All that is in the table came from `KBox::into_raw()` of a `Named`, and stays
        // there as long as the mutex is held.
        unsafe { named.cast::<Named>().as_ref() }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: `lock()` took the mutex.
        unsafe { bindings::vtd_named_unlock() };
    }
}

/// Has the guest told of faults of the device that has this source-id on the unit. Sleeps.
///
/// # Errors
///
/// `EBUSY`: a guest has it; `ENOMEM`.
pub(crate) fn name(unit: &Unit<'_>, sid: u16, named: Named) -> Result {
    let _table = Table::lock();
    let named = KBox::into_raw(KBox::new(named, GFP_KERNEL_ACCOUNT)?);
    // SAFETY: The unit is there; the mutex is held. The table owns what it takes.
    to_result(unsafe { bindings::vtd_named_add(unit.as_raw(), sid, named.cast()) }).inspect_err(
        // SAFETY: The table has not taken it, which came from `KBox::into_raw()`.
        |_| drop(unsafe { KBox::from_raw(named) }),
    )
}

/// Ends that. When it returns no guest is told of a fault by this name. Sleeps.
pub(crate) fn unname(unit: &Unit<'_>, sid: u16) {
    let _table = Table::lock();
    // SAFETY: The unit is there; the mutex is held.
    let named = unsafe { bindings::vtd_named_remove(unit.as_raw(), sid) };
    if let Some(named) = NonNull::new(named) {
        // SAFETY: It came from `KBox::into_raw()` of a `Named`, and is not in the table any more.
        drop(unsafe { KBox::from_raw(named.as_ptr().cast::<Named>()) });
    }
}

/// Tells the guest whose device a fault is of, if it is one of a guest's and for it. Returns
/// whether it was told.
///
/// # Safety
///
/// `unit` is a unit of this driver's that stays meanwhile. May sleep.
#[export]
unsafe extern "C" fn intel_iommu_tell_guest(
    unit: *mut bindings::intel_iommu,
    low: u64,
    high: u64,
) -> bool {
    let record = Record::new(low, high);
    if !record.is_for_guest() {
        return false;
    }
    // SAFETY: The unit is there.
    let unit = unsafe { Unit::from_raw(unit) };
    let table = Table::lock();
    table
        .at(&unit, record.sid())
        .is_some_and(|named| Vtd::tell(&named.viommu, &record, named.sid).is_ok())
}
