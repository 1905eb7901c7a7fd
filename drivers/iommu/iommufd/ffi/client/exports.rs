// SPDX-License-Identifier: GPL-2.0-only

//! Accesses as C calls them: the prototypes of `include/linux/iommufd.h` and `iommufd_private.h`.
//!
//! The symbols that modules use get their namespaces in `exports.c`. The callers' side of each
//! contract is in those headers.

use super::{
    map::{
        Buffer,
        PageSlots, //
    },
    Client, //
};
use crate::{
    access::{
        self,
        Access, //
    },
    ffi::{
        context::{
            Ctx,
            CtxRef, //
        },
        errno, //
    },
    object::{
        Head,
        Hold, //
    }, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// Makes an access for a driver; the id of the new object goes to `id`.
///
/// # Safety
///
/// `ictx` is open, `ops` valid until it is destroyed, and `id` may be written.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_create(
    ictx: *mut bindings::iommufd_ctx,
    ops: *const bindings::iommufd_access_ops,
    data: *mut c_void,
    id: *mut u32,
) -> *mut bindings::iommufd_access {
    // SAFETY: The caller has the context open.
    let ctx = unsafe { Ctx::from_raw(ictx) };
    let Some(ops) = NonNull::new(ops.cast_mut()) else {
        return EINVAL.to_ptr();
    };
    // INVARIANT: by the contract of this function.
    match access::create(ctx, Some(Client { ops, data })) {
        Ok(access) => {
            // SAFETY: The caller lets us write there.
            unsafe { *id = access.id() };
            access.into_raw().as_ptr().cast()
        }
        Err(e) => e.to_ptr(),
    }
}

/// Destroys an access. Its driver does not use it any more.
///
/// # Safety
///
/// `access` was made by [`iommufd_access_create`], and is not used again.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_destroy(access: *mut bindings::iommufd_access) {
    // SAFETY: The access is the caller's, who has not destroyed it.
    let access = unsafe { &*access.cast::<Access>() };
    // SAFETY: As above; create gave the caller a hold.
    let access = unsafe { Hold::adopt(access) };
    // The access's own reference may be the last one.
    let Some(ctx) = access.ctx().map(CtxRef::new) else {
        return;
    };
    kernel::warn_on!(access.destroy(&ctx, false).is_err());
}

/// Takes an access off its IOAS.
///
/// # Safety
///
/// `access` is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_detach(access: *mut bindings::iommufd_access) {
    // SAFETY: The access is the caller's, who has not destroyed it.
    let access = unsafe { &*access.cast() };
    access::detach(access);
}

/// Puts an access on an IOAS.
///
/// # Safety
///
/// `access` is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_attach(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: The access is the caller's, who has not destroyed it.
    let access = unsafe { &*access.cast() };
    errno(access::attach_id(access, ioas_id))
}

/// Moves an access to another IOAS.
///
/// # Safety
///
/// `access` is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_replace(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: The access is the caller's, who has not destroyed it.
    let access = unsafe { &*access.cast() };
    errno(access::replace_id(access, ioas_id))
}

/// Undoes a pin.
///
/// # Safety
///
/// `access` is the caller's, who pinned exactly this.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_unpin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
) {
    // SAFETY: The access is the caller's, who has not destroyed it.
    let access = unsafe { &*access.cast() };
    access::unpin(access, iova, length);
}

/// Pins pages and hands them out.
///
/// # Safety
///
/// `access` is the caller's, and `out_pages` has room for all pages of the range.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_pin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
    out_pages: *mut *mut bindings::page,
    flags: c_uint,
) -> c_int {
    let mut out = PageSlots(out_pages);
    // SAFETY: The access is the caller's, who has not destroyed it.
    let access = unsafe { &*access.cast() };
    errno(access::pin(access, iova, length, &mut out, flags))
}

/// Reads or writes through an IOAS.
///
/// # Safety
///
/// `access` is the caller's, and `data` has `length` bytes.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_rw(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    data: *mut c_void,
    length: usize,
    flags: c_uint,
) -> c_int {
    let mut buffer = Buffer(data);
    // SAFETY: The access is the caller's, who has not destroyed it.
    let access = unsafe { &*access.cast() };
    errno(access::copy(access, iova, length, &mut buffer, flags))
}
