// SPDX-License-Identifier: GPL-2.0-only

//! What C calls: the prototypes of `iommufd_private.h` and of `include/linux/iommufd.h`.
//!
//! The symbols that modules use get their namespaces in `exports.c`, which C alone can say.
//! The callers' side of each contract is in those headers.

use super::{
    context::{
        self,
        Ctx, //
    },
    file,
    kinds,
    memory,
    object::{
        KindId,
        Loan,
        Object,
        Unpublished, //
    }, //
};
use crate::object;
use kernel::{
    bindings,
    prelude::*, //
};

fn err_ptr<T>(e: Error) -> *mut T {
    e.to_ptr()
}

fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// Allocates an object of `size` bytes; finalize or abort comes next.
///
/// # Safety
///
/// `ictx` must be open, and `size` that of the structure of the type.
#[export]
pub(crate) unsafe extern "C" fn _iommufd_object_alloc(
    ictx: *mut bindings::iommufd_ctx,
    size: usize,
    type_: bindings::iommufd_object_type,
) -> *mut bindings::iommufd_object {
    // SAFETY: The caller's context is open.
    match unsafe { Ctx::from_raw(ictx) }.reserve(size, KindId(type_)) {
        Ok(object) => object.into_raw(),
        Err(e) => err_ptr(e),
    }
}

/// The same, finalized or aborted when the ioctl ends.
///
/// # Safety
///
/// `ucmd` must be the ioctl in progress, and `size` that of the structure of the type.
#[export]
pub(crate) unsafe extern "C" fn _iommufd_object_alloc_ucmd(
    ucmd: *mut bindings::iommufd_ucmd,
    size: usize,
    type_: bindings::iommufd_object_type,
) -> *mut bindings::iommufd_object {
    // SAFETY: The caller runs an ioctl.
    let ucmd = unsafe { &mut *ucmd };
    if kernel::warn_on!(!ucmd.new_obj.is_null()) {
        return err_ptr(EBUSY);
    }
    // Their abort wants a lock of the ioctl's, which is not held when an ioctl has ended.
    if kernel::warn_on!(kinds::has_abort(KindId(type_))) {
        return err_ptr(EOPNOTSUPP);
    }
    // SAFETY: The context is open while an ioctl runs.
    match unsafe { Ctx::from_raw(ucmd.ictx) }.reserve(size, KindId(type_)) {
        Ok(object) => {
            ucmd.new_obj = object.into_raw();
            ucmd.new_obj
        }
        Err(e) => err_ptr(e),
    }
}

/// # Safety
///
/// `obj` must come from one of the two above, and the caller give it away here.
unsafe fn unpublished<'a>(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) -> Unpublished<'a> {
    // SAFETY: By the caller.
    unsafe { Unpublished::from_raw(obj, Ctx::from_raw(ictx).objects()) }
}

/// Publishes an object.
///
/// # Safety
///
/// `obj` must come from an allocation above and be complete; the caller gives it away.
#[export]
pub(crate) unsafe extern "C" fn iommufd_object_finalize(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) {
    // SAFETY: By the contract of the function.
    unsafe { unpublished(ictx, obj).built() }.publish();
}

/// Frees an object that was never published.
///
/// # Safety
///
/// `obj` must come from an allocation above; the caller gives it away.
#[export]
pub(crate) unsafe extern "C" fn iommufd_object_abort(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) {
    // SAFETY: By the contract of the function.
    drop(unsafe { unpublished(ictx, obj) });
}

/// Destroys and frees an object that was never published.
///
/// # Safety
///
/// `obj` must come from an allocation above and be complete; the caller gives it away.
#[export]
pub(crate) unsafe extern "C" fn iommufd_object_abort_and_destroy(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) {
    // SAFETY: By the contract of the function.
    drop(unsafe { unpublished(ictx, obj).built() });
}

/// Lends an object; iommufd_put_object() ends the loan.
///
/// # Safety
///
/// `ictx` must be open until the loan ends.
#[export]
pub(crate) unsafe extern "C" fn iommufd_get_object(
    ictx: *mut bindings::iommufd_ctx,
    id: u32,
    type_: bindings::iommufd_object_type,
) -> *mut bindings::iommufd_object {
    // SAFETY: The caller's context is open.
    let ctx = unsafe { Ctx::from_raw(ictx) };
    let object = object::lend::<Object>(ctx, id)
        .and_then(|object| of_kind(object, KindId(type_)).ok_or(ENOENT));
    match object {
        Ok(object) => object.into_raw(),
        Err(e) => err_ptr(e),
    }
}

fn of_kind(object: Loan<'_>, kind: KindId) -> Option<Loan<'_>> {
    (kind == KindId::ANY || object.kind() == kind).then_some(object)
}

/// Takes a hold on an object that the caller has no count on.
///
/// # Safety
///
/// `ictx` must be open, and `obj` kept valid by other means.
#[export]
pub(crate) unsafe extern "C" fn iommufd_try_inc_users(
    ictx: *mut bindings::iommufd_ctx,
    obj: *mut bindings::iommufd_object,
) -> c_int {
    // SAFETY: The caller's context is open, and it keeps the object by other means.
    errno(unsafe { object::try_hold(Ctx::from_raw(ictx), context::object(obj)) })
}

/// Destroys an object by id, or by a hold that the caller gives away.
///
/// # Safety
///
/// `ictx` must be open, and `to_destroy` null or an object that the caller has a hold on.
#[export]
pub(crate) unsafe extern "C" fn iommufd_object_remove(
    ictx: *mut bindings::iommufd_ctx,
    to_destroy: *mut bindings::iommufd_object,
    id: u32,
    flags: c_uint,
) -> c_int {
    // SAFETY: The caller's context is open.
    let ctx = unsafe { Ctx::from_raw(ictx) };
    if to_destroy.is_null() {
        return errno(object::destroy(ctx, id));
    }
    // SAFETY: The caller has a hold on the object, and gives it away here.
    let object = unsafe { context::object(to_destroy) };
    errno(if flags & bindings::REMOVE_WAIT != 0 {
        let keep_id = flags & bindings::REMOVE_OBJ_TOMBSTONE != 0;
        object::destroy_held(ctx, object, keep_id)
    } else {
        object::put_and_try_destroy(ctx, object)
    })
}

/// Takes another reference to a context.
///
/// # Safety
///
/// The caller must have one already.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_get(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: The caller has a reference already.
    unsafe { bindings::get_file((*ictx).file) };
}

/// Gives a reference to a context back.
///
/// # Safety
///
/// The caller must have one, and not use it afterwards.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_put(ictx: *mut bindings::iommufd_ctx) {
    // SAFETY: The caller gives its reference away.
    unsafe { bindings::fput((*ictx).file) };
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
            // SAFETY: As above.
            unsafe { bindings::get_file(file) };
            ctx
        }
        Err(e) => err_ptr(e),
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
        return err_ptr(EBADF);
    }
    // SAFETY: fget() gave a reference, which becomes the context's.
    unsafe { file::context_of(file) }.unwrap_or_else(|e| {
        // SAFETY: As above; nobody else gets it.
        unsafe { bindings::fput(file) };
        err_ptr(e)
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
    if let Err(e) = unsafe { memory::init() } {
        return e.to_errno();
    }
    let ret = file::init();
    if ret.is_err() {
        // SAFETY: As above.
        unsafe { memory::exit() };
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
    unsafe { memory::exit() };
}
