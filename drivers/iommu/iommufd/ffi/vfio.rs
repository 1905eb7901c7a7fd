// SPDX-License-Identifier: GPL-2.0-only

//! What VFIO's container needs to know of a context and of its IOAS.
//!
//! C header: [`include/uapi/linux/vfio.h`](srctree/include/uapi/linux/vfio.h)

use super::{
    context::Ctx,
    errno,
    hwpt::PagingHwpt,
    ioas::Ioas,
    object::{
        Loan,
        Object, //
    },
    table::Locked,
    typed::Head, //
};
use crate::vfio_compat;
use core::ptr;
use kernel::{
    bindings,
    prelude::*, //
};

impl Ctx {
    /// Lends the IOAS that the container's ioctls work on, if there is one.
    pub(crate) fn lend_vfio_ioas<'a>(&'a self, _locked: &Locked<'_>) -> Option<Loan<'a, Ioas>> {
        // SAFETY: The field is guarded by the table's lock; it is cleared under it before the
        // IOAS is freed.
        let ioas = unsafe { (*self.as_raw()).vfio_ioas };
        if ioas.is_null() {
            return None;
        }
        // SAFETY: As above.
        Loan::of(self, unsafe { Object::from_raw(ioas.cast()) })
    }

    /// Whether the container has had an IOAS set.
    pub(crate) fn has_vfio_ioas(&self, _locked: &Locked<'_>) -> bool {
        // SAFETY: The field is guarded by the table's lock.
        !unsafe { (*self.as_raw()).vfio_ioas }.is_null()
    }

    /// Whether the container has an IOAS that is not being destroyed.
    pub(crate) fn has_live_vfio_ioas(&self, locked: &Locked<'_>) -> bool {
        self.lend_vfio_ioas(locked).is_some()
    }

    /// Sets or clears the container's IOAS, which is in the table, or about to be.
    pub(crate) fn set_vfio_ioas(&self, ioas: Option<&Ioas>, _locked: &Locked<'_>) {
        let raw = ioas.map_or(ptr::null_mut(), |ioas| ioas.object().as_raw().cast());
        // SAFETY: The field is guarded by the table's lock; a loan keeps the IOAS in the table.
        unsafe { (*self.as_raw()).vfio_ioas = raw };
    }

    /// Whether the container is for devices without an IOMMU.
    pub(crate) fn no_iommu(&self) -> bool {
        // SAFETY: A byte that is read whole.
        unsafe { ptr::read_volatile(&raw const (*self.as_raw()).no_iommu_mode) != 0 }
    }

    /// Makes the container one for devices without an IOMMU, for good.
    pub(crate) fn set_no_iommu(&self, _locked: &Locked<'_>) {
        // SAFETY: A byte that is written whole, under the table's lock.
        unsafe { ptr::write_volatile(&raw mut (*self.as_raw()).no_iommu_mode, 1) };
    }
}

impl Ioas {
    /// Whether all its tables enforce that DMA is coherent with caches. May sleep.
    pub(crate) fn is_coherent(&self) -> bool {
        self.lock().hwpts().all(PagingHwpt::is_coherent)
    }
}

/// The id of the container's IOAS, for VFIO; `ENODEV` when there is none.
///
/// # Safety
///
/// `ictx` must be open, and `out_ioas_id` valid.
#[export]
pub(crate) unsafe extern "C" fn iommufd_vfio_compat_ioas_get_id(
    ictx: *mut bindings::iommufd_ctx,
    out_ioas_id: *mut u32,
) -> c_int {
    // SAFETY: By the caller.
    let ctx = unsafe { Ctx::from_raw(ictx) };
    errno(vfio_compat::ioas_id(ctx).map(|id| {
        // SAFETY: By the caller.
        unsafe { *out_ioas_id = id };
    }))
}

/// Called when a device without an IOMMU joins the container; `EINVAL` when it has an IOAS.
///
/// # Safety
///
/// `ictx` must be open.
#[export]
pub(crate) unsafe extern "C" fn iommufd_vfio_compat_set_no_iommu(
    ictx: *mut bindings::iommufd_ctx,
) -> c_int {
    // SAFETY: By the caller.
    errno(vfio_compat::set_no_iommu(unsafe { Ctx::from_raw(ictx) }))
}

/// Makes the container's IOAS unless there is one; `EINVAL` for one without an IOMMU.
///
/// # Safety
///
/// `ictx` must be open.
#[export]
pub(crate) unsafe extern "C" fn iommufd_vfio_compat_ioas_create(
    ictx: *mut bindings::iommufd_ctx,
) -> c_int {
    // SAFETY: By the caller.
    errno(vfio_compat::create_ioas(unsafe { Ctx::from_raw(ictx) }))
}
