// SPDX-License-Identifier: GPL-2.0-only

//! One ioctl: its structure, copied from user space and back.
//!
//! C header: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use super::context::Ctx;
use crate::ioctl::{
    Answer,
    Ioctl, //
};
use core::{
    marker::PhantomData,
    mem::{
        size_of,
        MaybeUninit, //
    },
    ops::{
        Deref,
        DerefMut, //
    }, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// A structure of the user API.
///
/// # Safety
///
/// Every bit pattern must be valid, and there must be no padding.
pub(crate) unsafe trait UserStruct: Sized + 'static {}

/// Room for the largest structure of any ioctl.
#[repr(C, align(8))]
pub(crate) struct Buffer([MaybeUninit<u8>; Buffer::SIZE]);

impl Buffer {
    pub(crate) const SIZE: usize = 128;

    pub(crate) const fn new() -> Self {
        Self([MaybeUninit::uninit(); Self::SIZE])
    }
}

/// Runs one ioctl on what was copied into its buffer.
pub(crate) type Execute = unsafe extern "C" fn(*mut bindings::iommufd_ucmd) -> c_int;

/// An ioctl in progress.
///
/// # Invariants
///
/// `raw` is valid, its context open, and its `cmd` points to an initialised `T`.
pub(crate) struct Ucmd<'a, T> {
    raw: &'a mut bindings::iommufd_ucmd,
    _cmd: PhantomData<&'a mut T>,
}

impl<'a, T: UserStruct> Ucmd<'a, T> {
    /// The context that the ioctl was issued on.
    pub(crate) fn ctx(&self) -> &'a Ctx {
        // SAFETY: By the type invariant; the file is open while an ioctl runs.
        unsafe { Ctx::from_raw(self.raw.ictx) }
    }
}

/// The way back to user space of an ioctl that holds nothing any more: there is one only when its
/// `run` has returned.
#[derive(Clone, Copy)]
pub(crate) struct Reply<'r, T>(&'r Ucmd<'r, T>);

impl<'r, T: UserStruct> Reply<'r, T> {
    /// Copies the structure back, as much of it as user space has room for.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline(always)]
    pub(crate) fn respond(self) -> Result {
        let raw = &*self.0.raw;
        let length = size_of::<T>().min(raw.user_size as usize);
        // SAFETY: By the invariant of `Ucmd` `cmd` has that many initialised bytes.
        match unsafe { bindings::copy_to_user(raw.ubuffer, raw.cmd, length) } {
            0 => Ok(()),
            _ => Err(EFAULT),
        }
    }

    /// Writes one field that user space surely has, at an offset of its structure.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline]
    pub(crate) fn put_u32(self, offset: usize, value: u32) -> Result {
        let to = self.0.raw.ubuffer.wrapping_byte_add(offset);
        // SAFETY: The address is checked.
        to_result(unsafe { bindings::iommu_put_user(value, to.cast()) })
    }

    /// The same for 64 bits.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    #[inline]
    pub(crate) fn put_u64(self, offset: usize, value: u64) -> Result {
        let to = self.0.raw.ubuffer.wrapping_byte_add(offset);
        // SAFETY: The address is checked.
        to_result(unsafe { bindings::iommu_put_user_u64(value, to.cast()) })
    }
}

impl<T: UserStruct> Deref for Reply<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

/// Reads a structure at a user address.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn read_struct<T: UserStruct>(from: usize) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: There is room for the bytes; the address is checked.
    match unsafe {
        bindings::copy_from_user(
            value.as_mut_ptr().cast(),
            core::ptr::without_provenance(from),
            size_of::<T>(),
        )
    } {
        // SAFETY: All bytes were written, and any are valid.
        0 => Ok(unsafe { value.assume_init() }),
        _ => Err(EFAULT),
    }
}

/// Writes a structure to a user address.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn write_struct<T: UserStruct>(to: usize, value: &T) -> Result {
    write_structs(to, core::slice::from_ref(value))
}

/// Writes an array of them, in one copy.
///
/// # Errors
///
/// `EFAULT`: not all were written.
pub(crate) fn write_structs<T: UserStruct>(to: usize, values: &[T]) -> Result {
    // SAFETY: The values are initialised, and have no padding; the address is checked.
    match unsafe {
        bindings::copy_to_user(
            core::ptr::without_provenance_mut(to),
            values.as_ptr().cast(),
            size_of_val(values),
        )
    } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}

/// Writes a structure at a user address, if the memory is there: nobody is waited for.
///
/// # Errors
///
/// `EFAULT`.
#[inline]
pub(crate) fn write_resident<T: UserStruct>(to: usize, value: &T) -> Result {
    // SAFETY: The value is initialised, and has no padding; the address is checked.
    match unsafe {
        bindings::copy_to_user_nofault(
            core::ptr::without_provenance_mut(to),
            core::ptr::from_ref(value).cast(),
            size_of::<T>(),
        )
    } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}

/// Has user memory be there, for the moment, to be written to.
///
/// # Errors
///
/// `EFAULT`.
#[cold]
pub(crate) fn fault_in(at: usize, length: usize) -> Result {
    // SAFETY: It checks the range.
    match unsafe { bindings::fault_in_writeable(core::ptr::without_provenance_mut(at), length) } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}

/// Writes bytes at a user address.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn write_bytes(to: usize, bytes: &[u8]) -> Result {
    let to = core::ptr::without_provenance_mut(to);
    // SAFETY: The bytes are initialised; the address is checked.
    match unsafe { bindings::copy_to_user(to, bytes.as_ptr().cast(), bytes.len()) } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}

impl<T: UserStruct> Deref for Ucmd<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The buffer has an initialised `T`, and is this ioctl's alone.
        unsafe { &*self.raw.cmd.cast() }
    }
}

impl<T: UserStruct> DerefMut for Ucmd<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant; `self` is borrowed mutably.
        unsafe { &mut *self.raw.cmd.cast() }
    }
}

/// The [`Execute`] of an ioctl.
///
/// # Safety
///
/// `raw` must satisfy the invariants of `Ucmd<'_, T>`.
pub(crate) unsafe extern "C" fn run<T: Ioctl>(raw: *mut bindings::iommufd_ucmd) -> c_int {
    let mut ucmd = Ucmd::<T> {
        // SAFETY: The caller's ioctl is in progress, and nobody else's.
        raw: unsafe { &mut *raw },
        _cmd: PhantomData,
    };
    // What `run` has lent and locked is given back before user memory is written to.
    match T::run(&mut ucmd).and_then(|answer| answer.give(Reply(&ucmd))) {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}

/// Copies an ioctl's structure in and runs it.
///
/// Of a structure that is shorter than ours the rest is zero; of one that is longer the rest must
/// be zero, or it is `E2BIG`.
pub(crate) fn execute(
    ctx: &Ctx,
    arg: usize,
    user_size: u32,
    op: &crate::ioctl::Entry,
    buffer: &mut Buffer,
) -> Result<isize> {
    let mut raw = bindings::iommufd_ucmd {
        ictx: ctx.as_raw(),
        ubuffer: arg as *mut c_void,
        user_size,
        cmd: buffer.0.as_mut_ptr().cast(),
        // Objects are values here, and published by who makes them.
        new_obj: core::ptr::null_mut(),
    };
    // SAFETY: The buffer has room for each structure, see `Entry::new`.
    to_result(unsafe {
        bindings::copy_struct_from_user(raw.cmd, op.size, raw.ubuffer, user_size as usize)
    })?;
    // SAFETY: `raw` is what `execute` asks for: `op.size` bytes are initialised.
    let ret = unsafe { (op.execute)(&mut raw) };
    // A test ioctl gives a descriptor; the others give 0.
    to_result(ret).map(|()| ret as isize)
}
