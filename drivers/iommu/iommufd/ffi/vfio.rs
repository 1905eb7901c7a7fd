// SPDX-License-Identifier: GPL-2.0-only

//! What VFIO's container needs to know of a context and of its IOAS.
//!
//! C header: [`include/uapi/linux/vfio.h`](srctree/include/uapi/linux/vfio.h)

use super::{context::Ctx, errno};
use crate::{
    hwpt::PagingHwpt,
    ioas::Ioas,
    vfio_compat, //
};
use kernel::{
    bindings,
    prelude::*, //
};

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
    // SAFETY: The caller has the context open.
    let ctx = unsafe { Ctx::from_raw(ictx) };
    errno(vfio_compat::ioas_id(ctx).map(|id| {
        // SAFETY: The caller lets us write there.
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
    // SAFETY: The caller has the context open.
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
    // SAFETY: The caller has the context open.
    errno(vfio_compat::create_ioas(unsafe { Ctx::from_raw(ictx) }))
}
