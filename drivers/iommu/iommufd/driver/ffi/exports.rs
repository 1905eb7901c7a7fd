// SPDX-License-Identifier: GPL-2.0-only

//! What drivers call: the prototypes of `include/linux/iommufd.h`.
//!
//! The symbols get their namespaces in `exports.c`, which C alone can say. The callers' side of
//! each contract is in that header.

use super::{
    object::Object,
    shared::CtxHead,
    viommu::{
        Dev,
        Vdevice,
        Vdevs,
        Viommu, //
    }, //
};
use crate::{
    depend,
    events,
    mmap,
    vdevs, //
};
use core::{
    ptr,
    slice, //
};
use kernel::{
    bindings,
    prelude::*, //
};

fn errno(result: Result) -> c_int {
    result.map_or_else(Error::to_errno, |()| 0)
}

/// Keeps one object of a driver's until another one of the same kind does not need it any more.
///
/// # Safety
///
/// Both must be objects of the caller's.
#[export]
pub(crate) unsafe extern "C" fn _iommufd_object_depend(
    obj_dependent: *mut bindings::iommufd_object,
    obj_depended: *mut bindings::iommufd_object,
) -> c_int {
    // SAFETY: By the contract of the function.
    let dependent = unsafe { Object::from_raw(obj_dependent) };
    // SAFETY: The caller has this object, and outlives the call.
    let depended = unsafe { Object::from_raw(obj_depended) };
    errno(depend::depend(dependent, depended))
}

/// Undoes [`_iommufd_object_depend`].
///
/// # Safety
///
/// Both must be objects of the caller's, the second one kept by the first.
#[export]
pub(crate) unsafe extern "C" fn _iommufd_object_undepend(
    obj_dependent: *mut bindings::iommufd_object,
    obj_depended: *mut bindings::iommufd_object,
) {
    // SAFETY: By the contract of the function.
    let dependent = unsafe { Object::from_raw(obj_dependent) };
    // SAFETY: The caller has this object, and outlives the call.
    let depended = unsafe { Object::from_raw(obj_depended) };
    depend::undepend(dependent, depended);
}

/// Lets user space map a region of MMIO; its offset for mmap() goes to `offset`.
///
/// # Safety
///
/// `ictx` must be open, `owner` an object of its that outlives the region, and `offset` writable.
#[export]
pub(crate) unsafe extern "C" fn _iommufd_alloc_mmap(
    ictx: *mut bindings::iommufd_ctx,
    owner: *mut bindings::iommufd_object,
    mmio_addr: bindings::phys_addr_t,
    length: usize,
    offset: *mut c_ulong,
) -> c_int {
    // SAFETY: By the contract of the function.
    let ctx = unsafe { CtxHead::of(ictx) };
    // SAFETY: The caller has this object, and outlives the call.
    let owner = unsafe { Object::from_raw(owner) };
    errno(mmap::alloc(ctx, owner, mmio_addr, length).map(|start| {
        // SAFETY: The caller lets us write there.
        unsafe { *offset = start };
    }))
}

/// Takes such a region back.
///
/// # Safety
///
/// `ictx` must be open, and the region one of `owner`'s that nobody has mapped.
#[export]
pub(crate) unsafe extern "C" fn _iommufd_destroy_mmap(
    ictx: *mut bindings::iommufd_ctx,
    owner: *mut bindings::iommufd_object,
    offset: c_ulong,
) {
    // SAFETY: By the contract of the function.
    let ctx = unsafe { CtxHead::of(ictx) };
    // SAFETY: The caller has this object, and outlives the call.
    let owner = unsafe { Object::from_raw(owner) };
    mmap::destroy(ctx, owner, offset);
}

/// The device behind a vDEVICE.
///
/// # Safety
///
/// `vdev` must be a vDEVICE.
#[export]
pub(crate) unsafe extern "C" fn iommufd_vdevice_to_device(
    vdev: *mut bindings::iommufd_vdevice,
) -> *mut bindings::device {
    // SAFETY: By the contract of the function.
    unsafe { Vdevice::from_raw(vdev) }.dev().0
}

/// The device that a virtual machine knows by an id; null when there is none.
///
/// # Safety
///
/// `viommu` must be a vIOMMU, and the spinlock of its vDEVICEs be held until the device is not
/// used any more.
#[export]
pub(crate) unsafe extern "C" fn iommufd_viommu_find_dev(
    viommu: *mut bindings::iommufd_viommu,
    vdev_id: c_ulong,
) -> *mut bindings::device {
    // SAFETY: By the contract of the function.
    let viommu = unsafe { Viommu::from_raw(viommu) };
    // SAFETY: The caller holds the spinlock of the vDEVICEs.
    let vdevs = unsafe { Vdevs::held(viommu) };
    vdevs
        .get(vdev_id)
        .map_or(ptr::null_mut(), |vdev| vdev.dev().0)
}

/// The id that a virtual machine knows a device by goes to `vdev_id`; `ENOENT` when it does not.
///
/// # Safety
///
/// `viommu` must be a vIOMMU, and `vdev_id` null or writable.
#[export]
pub(crate) unsafe extern "C" fn iommufd_viommu_get_vdev_id(
    viommu: *mut bindings::iommufd_viommu,
    dev: *mut bindings::device,
    vdev_id: *mut c_ulong,
) -> c_int {
    if kernel::warn_on_once!(vdev_id.is_null()) {
        return EINVAL.to_errno();
    }
    // SAFETY: By the contract of the function.
    let viommu = unsafe { Viommu::from_raw(viommu) };
    let id = viommu.with_vdevs(|vdevs| vdevs::id_of(vdevs, Dev(dev)));
    errno(id.map(|id| {
        // SAFETY: By the contract of the function; it is not null.
        unsafe { *vdev_id = id };
    }))
}

/// Reports an event to the user space of a virtual machine, from a context that may sleep.
///
/// # Safety
///
/// `viommu` must be a vIOMMU, and `event_data` null or have `data_len` bytes.
#[export]
pub(crate) unsafe extern "C" fn iommufd_viommu_report_event(
    viommu: *mut bindings::iommufd_viommu,
    type_: bindings::iommu_veventq_type,
    event_data: *mut c_void,
    data_len: usize,
) -> c_int {
    if kernel::warn_on_once!(data_len == 0 || event_data.is_null()) {
        return EINVAL.to_errno();
    }
    // SAFETY: By the contract of the function.
    let viommu = unsafe { Viommu::from_raw(viommu) };
    // SAFETY: As above; nobody changes the driver's data meanwhile.
    let data = unsafe { slice::from_raw_parts(event_data.cast::<u8>(), data_len) };
    errno(events::report(viommu, type_, data))
}

/// Makes the doorbell of an MSI reachable through the domain that its device is on, where the
/// platform translates MSIs.
///
/// # Safety
///
/// `domain` must be one of iommufd's that the device of `desc` is on, and the mutex of the
/// device's IOMMU group be held.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
#[export]
pub(crate) unsafe extern "C" fn iommufd_sw_msi(
    domain: *mut bindings::iommu_domain,
    desc: *mut bindings::msi_desc,
    msi_addr: bindings::phys_addr_t,
) -> c_int {
    // SAFETY: By the contract of the function.
    errno(unsafe { super::sw_msi::translate(domain, desc, msi_addr) })
}

/// Maps a doorbell in a page table that has it not yet. For `/dev/iommu` only.
///
/// # Safety
///
/// All must be of one context, the mutex of whose doorbells is held, and the page table in use;
/// `msi_map` is a [`Doorbell`](super::shared::Doorbell).
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
#[export]
pub(crate) unsafe extern "C" fn iommufd_sw_msi_install(
    _ictx: *mut bindings::iommufd_ctx,
    hwpt_paging: *mut bindings::iommufd_hwpt_paging,
    msi_map: *mut bindings::iommufd_sw_msi_map,
) -> c_int {
    // SAFETY: By the contract of the function.
    errno(unsafe { super::sw_msi::install(hwpt_paging, msi_map) })
}
