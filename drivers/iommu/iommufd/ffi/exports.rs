// SPDX-License-Identifier: GPL-2.0-only

//! What C calls: the prototypes of `iommufd_private.h` and of `include/linux/iommufd.h`.
//!
//! The symbols that modules use get their namespaces in `exports.c`, which C alone can say.
//! The callers' side of each contract is in those headers.

use super::{
    context::{
        Ctx,
        CtxRef, //
    },
    errno,
    file, //
};
use crate::object;
use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// Takes another reference to a context.
///
/// # Safety
///
/// The caller must have one already.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_get(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: The caller has a reference already.
    core::mem::forget(CtxRef::new(unsafe { Ctx::from_raw(ictx) }));
}

/// Gives a reference to a context back.
///
/// # Safety
///
/// The caller must have one, and not use it afterwards.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_put(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: The caller has a reference, and gives it away.
    drop(unsafe { CtxRef::adopt(NonNull::from(Ctx::from_raw(ictx))) });
}

/// Takes a reference to the context of a file; `EBADFD` when it has none.
///
/// # Safety
///
/// `file` must be open.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_from_file(
    file: *mut bindings::file,
) -> *mut bindings::iommufd_ctx {
    // SAFETY: The caller has the file open.
    match unsafe { file::context_of(file) } {
        Ok(ctx) => {
            // SAFETY: The caller has the file open.
            unsafe { bindings::get_file(file) };
            ctx
        }
        Err(e) => e.to_ptr(),
    }
}

/// Takes a reference to the context of a descriptor; `EBADF`, `EBADFD` when it has none.
///
/// # Safety
///
/// Any number is good.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_from_fd(fd: c_int) -> *mut bindings::iommufd_ctx {
    // SAFETY: Any number is good.
    let file = unsafe { bindings::fget(fd as c_uint) };
    if file.is_null() {
        return EBADF.to_ptr();
    }
    // SAFETY: fget() gave a reference, which becomes the context's.
    unsafe { file::context_of(file) }.unwrap_or_else(|e| {
        // SAFETY: As above; nobody else gets it.
        unsafe { bindings::fput(file) };
        e.to_ptr()
    })
}

/// The device of `/dev/iommu`.
///
/// # Safety
///
/// It must be registered.
#[export]
pub(crate) unsafe extern "C" fn iommufd_global_device() -> *mut bindings::device {
    file::device()
}

/// Called by `exports.c` when the kernel boots or the module is loaded.
///
/// # Safety
///
/// Once, by `exports.c`.
#[export]
pub(crate) unsafe extern "C" fn iommufd_rust_init() -> c_int {
    // SAFETY: There is no device node yet, and so no object.
    if let Err(e) = unsafe { object::init() } {
        return e.to_errno();
    }
    let ret = file::init();
    if ret.is_err() {
        // SAFETY: There is no device node, and so no object.
        unsafe { object::exit() };
    }
    errno(ret)
}

/// Called by `exports.c` when the module is unloaded.
///
/// # Safety
///
/// Once, by `exports.c`, after initialisation succeeded.
#[export]
pub(crate) unsafe extern "C" fn iommufd_rust_exit() {
    file::exit();
    // SAFETY: Each object belongs to an open file, which would keep the module.
    unsafe { object::exit() };
}
