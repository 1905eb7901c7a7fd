// SPDX-License-Identifier: GPL-2.0

//! What user space hands to an IOMMU driver through iommufd.
//!
//! A driver defines its own structures in `include/uapi/linux/iommufd.h`, and they grow at the
//! end. [`UserData`] is one of them, [`UserDataArray`] is an array of invalidation requests. Both
//! carry a type, a user address and lengths, none of which the core has looked at: the checks are
//! here, once, and a driver only ever sees a complete value of its own type.
//!
//! No locks are taken. User memory is read, so callers may sleep.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use core::{
    mem::MaybeUninit,
    slice, //
};

use crate::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// The most memory that copying an array in one piece may take, in bytes.
const MAX_COPY: usize = 16 << 20;

/// How many entries are copied at once, on the stack.
const CHUNK: usize = 32;

/// A structure of the user API which a driver defines.
///
/// Bytes that an older user space does not know yet read as zero.
pub trait UserStruct: FromBytes + IntoBytes {
    /// What user space puts into the type field that goes with it.
    const TYPE: u32;

    /// Its size in bytes when it was first defined: user space never passes less.
    const MIN_LEN: usize;
}

/// Checks a length from user space against the versions of `T`.
///
/// # Errors
///
/// `EINVAL`: shorter than the first version, or longer than the one known here.
fn check_len<T: UserStruct>(len: usize) -> Result {
    if len < T::MIN_LEN || len > size_of::<T>() {
        return Err(EINVAL);
    }
    Ok(())
}

/// Reads bytes. Without a cursor, which is most of the cost where it is a few of them.
///
/// # Errors
///
/// `EFAULT`: the memory cannot be read.
#[inline]
fn copy(from: UserPtr, to: &mut [u8]) -> Result {
    let len = to.len();
    // SAFETY: There is room for the bytes; the address is checked.
    match unsafe { bindings::copy_from_user(to.as_mut_ptr().cast(), from.as_const_ptr(), len) } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}

/// Reads the first `len` bytes of a `T`; the rest is zero.
///
/// # Errors
///
/// `EFAULT`: the memory cannot be read. `EINVAL`: `len` is more than `T` has.
fn read_prefix<T: UserStruct>(from: UserPtr, len: usize) -> Result<T> {
    let mut value = T::new_zeroed();
    let bytes = value.as_mut_bytes().get_mut(..len).ok_or(EINVAL)?;
    copy(from, bytes)?;
    Ok(value)
}

/// Reads a `T` of whatever version: what is missing is zero, what is new must be.
///
/// # Errors
///
/// `E2BIG`: what is new says something. `EFAULT`: the memory cannot be read.
fn copy_struct<T: UserStruct>(from: UserPtr, len: usize, to: &mut MaybeUninit<T>) -> Result {
    // SAFETY: There is room for a `T`; the address is checked.
    to_result(unsafe {
        bindings::copy_struct_from_user(
            to.as_mut_ptr().cast(),
            size_of::<T>(),
            from.as_const_ptr(),
            len,
        )
    })
}

/// One structure in user memory, or in the core's where it was copied already.
///
/// # Invariants
///
/// The C structure is not changed while this exists, nor what it leads to in the kernel.
#[repr(transparent)]
pub struct UserData(Opaque<bindings::iommu_user_data>);

impl UserData {
    /// Borrows what the core passed.
    ///
    /// # Safety
    ///
    /// `ptr` is valid and its target is not written to for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *const bindings::iommu_user_data) -> &'a Self {
        // SAFETY: By the contract of this function; the type is transparent.
        // INVARIANT: the caller promises that nobody writes to it.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    fn fields(&self) -> &bindings::iommu_user_data {
        // SAFETY: By the type invariant it is valid and not written to.
        unsafe { &*self.0.get() }
    }

    /// The type that user space says it is of.
    #[inline]
    pub fn data_type(&self) -> u32 {
        self.fields().type_
    }

    /// Reads the structure.
    ///
    /// # Errors
    ///
    /// `EINVAL`: another type, or a length that no version of it has. `EFAULT`: the memory cannot
    /// be read.
    pub fn read<T: UserStruct>(&self) -> Result<T> {
        let data = self.fields();
        if data.type_ != T::TYPE {
            return Err(EINVAL);
        }
        check_len::<T>(data.len)?;
        if data.copy.is_null() {
            return read_prefix(UserPtr::from_ptr(data.uptr), data.len);
        }
        const { assert!(size_of::<T>() <= bindings::IOMMU_USER_DATA_MAX as usize) };
        // SAFETY: The core has copied all bytes, and nobody writes to them.
        let bytes = unsafe { slice::from_raw_parts(data.copy.cast::<u8>(), data.len) };
        let mut value = T::new_zeroed();
        let to = value.as_mut_bytes().get_mut(..data.len).ok_or(EINVAL)?;
        to.copy_from_slice(bytes);
        Ok(value)
    }

    /// Writes the structure back, as much of it as user space knows.
    ///
    /// # Errors
    ///
    /// As [`UserData::read`].
    pub fn write<T: UserStruct + zerocopy::Immutable>(&self, value: &T) -> Result {
        let data = self.fields();
        if data.type_ != T::TYPE {
            return Err(EINVAL);
        }
        check_len::<T>(data.len)?;
        let bytes = value.as_bytes().get(..data.len).ok_or(EINVAL)?;
        UserSlice::new(UserPtr::from_ptr(data.uptr), data.len)
            .writer()
            .write_slice(bytes)
    }
}

/// How far a driver came with an array of requests.
///
/// User space learns the count in any case, also when a request failed.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Handled {
    count: u32,
    result: Result,
}

impl Handled {
    /// All `count` requests were handled.
    pub const fn all(count: u32) -> Self {
        Self {
            count,
            result: Ok(()),
        }
    }

    /// `count` requests were handled, the next one failed.
    pub const fn failed(count: u32, why: Error) -> Self {
        Self {
            count,
            result: Err(why),
        }
    }

    /// The number of requests that were handled.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Why it did not go on.
    pub const fn result(&self) -> Result {
        self.result
    }
}

/// An array of requests in user memory, each `entry_len` bytes long.
///
/// # Invariants
///
/// The C structure is not changed while this is borrowed.
#[repr(transparent)]
pub struct UserDataArray(Opaque<bindings::iommu_user_data_array>);

impl UserDataArray {
    /// Borrows what the core passed.
    ///
    /// # Safety
    ///
    /// `ptr` is valid and its target is not written to for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *const bindings::iommu_user_data_array) -> &'a Self {
        // SAFETY: By the contract of this function; the type is transparent.
        // INVARIANT: the caller promises that nobody writes to it.
        unsafe { &*ptr.cast() }
    }

    #[inline]
    fn fields(&self) -> &bindings::iommu_user_data_array {
        // SAFETY: By the type invariant it is valid and not written to.
        unsafe { &*self.0.get() }
    }

    /// The type that user space says all entries are of.
    #[inline]
    pub fn data_type(&self) -> u32 {
        self.fields().type_
    }

    /// The size of an entry in bytes.
    #[inline]
    pub fn entry_len(&self) -> usize {
        self.fields().entry_len
    }

    /// The number of entries.
    #[inline]
    pub fn len(&self) -> u32 {
        self.fields().entry_num
    }

    /// Whether there are none; user space does that to ask whether a type is known.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the entry at `index`.
    ///
    /// # Errors
    ///
    /// `EINVAL`: another type, no such entry, or a length that no version of `T` has. `EFAULT`:
    /// the memory cannot be read, or the entry lies behind the end of the address space.
    pub fn get<T: UserStruct>(&self, index: u32) -> Result<T> {
        let array = self.fields();
        if array.type_ != T::TYPE || index >= array.entry_num {
            return Err(EINVAL);
        }
        check_len::<T>(array.entry_len)?;
        read_prefix(self.address(index)?, array.entry_len)
    }

    /// Where the entry at `index` begins.
    #[inline]
    fn address(&self, index: u32) -> Result<UserPtr> {
        let array = self.fields();
        let offset = array.entry_len.checked_mul(index as usize).ok_or(EFAULT)?;
        let at = (array.uptr as usize).checked_add(offset).ok_or(EFAULT)?;
        Ok(UserPtr::from_addr(at))
    }

    /// Reads all entries in one piece, for a driver that submits them as one.
    ///
    /// # Errors
    ///
    /// `EINVAL`: another type. `E2BIG`: entries longer than `T` that hold more than zeroes there.
    /// `ENOMEM`: more than 16 MiB, or no memory. `EFAULT`: the memory cannot be read.
    pub fn read_all<T: UserStruct>(&self) -> Result<KVVec<T>> {
        let array = self.fields();
        if array.type_ != T::TYPE {
            return Err(EINVAL);
        }
        let count = array.entry_num as usize;
        if count
            .checked_mul(size_of::<T>())
            .is_none_or(|size| size > MAX_COPY)
        {
            return Err(ENOMEM);
        }
        let mut entries = KVVec::with_capacity(count, GFP_KERNEL)?;
        if array.entry_len == size_of::<T>() {
            let room = entries.spare_capacity_mut().get_mut(..count);
            self.get_some::<T>(0, room.ok_or(ENOMEM)?)?;
            // SAFETY: There is room for that many, and all of them were read.
            unsafe { entries.inc_len(count) };
            return Ok(entries);
        }
        for index in 0..array.entry_num {
            let room = entries.spare_capacity_mut().first_mut().ok_or(ENOMEM)?;
            copy_struct(self.address(index)?, array.entry_len, room)?;
            // SAFETY: There is room for it, and all of its bytes were written; any are a `T`.
            unsafe { entries.inc_len(1) };
        }
        Ok(entries)
    }

    /// Copies entries from `index` on, as many as `to` has room for. The caller has looked at their
    /// type.
    ///
    /// # Errors
    ///
    /// `EINVAL`: entries of another version of `T`. `EFAULT`: the memory cannot be read.
    #[inline]
    fn get_some<'a, T: UserStruct>(
        &self,
        index: u32,
        to: &'a mut [MaybeUninit<T>],
    ) -> Result<&'a mut [T]> {
        let array = self.fields();
        let left = array.entry_num.checked_sub(index).ok_or(EINVAL)? as usize;
        if array.entry_len != size_of::<T>() {
            return Err(EINVAL);
        }
        let some = to.len().min(left);
        let to = to.get_mut(..some).ok_or(EINVAL)?;
        let from = self.address(index)?.as_const_ptr();
        // SAFETY: There is room for the bytes; the address is checked.
        if unsafe { bindings::copy_from_user(to.as_mut_ptr().cast(), from, size_of_val(to)) } != 0 {
            return Err(EFAULT);
        }
        // SAFETY: All bytes were written, and any are a `T`.
        Ok(unsafe { slice::from_raw_parts_mut(to.as_mut_ptr().cast(), some) })
    }

    /// Hands the entries to `f`, some at a time and in their order, until it fails. They are of
    /// exactly the size of `T`, and each is copied once. An entry that cannot be read ends the
    /// array; those before it are handled.
    ///
    /// No memory is copied while `f` runs. Where `f` does not handle all of what it gets, it says
    /// how many entries it has handled and what is wrong with the next one.
    pub fn chunks<T: UserStruct + Copy>(
        &self,
        mut f: impl FnMut(&[T]) -> Result<(), (usize, Error)>,
    ) -> Handled {
        if self.data_type() != T::TYPE {
            return Handled::failed(0, EINVAL);
        }
        let mut room = [const { MaybeUninit::uninit() }; CHUNK];
        let (mut done, mut at_once) = (0, CHUNK);
        while done < self.len() {
            let Some(part) = room.get_mut(..at_once) else {
                break;
            };
            let entries = match self.get_some(done, part) {
                Ok(entries) => entries,
                Err(EFAULT) if at_once > 1 => {
                    // One by one from here on, up to the one that it is.
                    at_once = 1;
                    continue;
                }
                Err(why) => return Handled::failed(done, why),
            };
            // CAST: No more than there are entries.
            if let Err((count, why)) = f(entries) {
                return Handled::failed(done + count.min(entries.len()) as u32, why);
            }
            done += entries.len() as u32;
        }
        Handled::all(done)
    }

    /// Hands each entry to `f`, one by one, until one fails. `EINVAL` for another type, also where
    /// there are no entries.
    ///
    /// Entries of the size known here are copied several at once, see [`Self::chunks`].
    pub fn each<T: UserStruct + Copy>(&self, mut f: impl FnMut(T) -> Result) -> Handled {
        if self.entry_len() == size_of::<T>() {
            return self.chunks(|entries| {
                for (index, &entry) in entries.iter().enumerate() {
                    f(entry).map_err(|why| (index, why))?;
                }
                Ok(())
            });
        }
        if self.data_type() != T::TYPE {
            return Handled::failed(0, EINVAL);
        }
        for index in 0..self.len() {
            if let Err(why) = self.get(index).and_then(&mut f) {
                return Handled::failed(index, why);
            }
        }
        Handled::all(self.len())
    }
}

/// Runs a driver's invalidation and reports how far it came.
///
/// # Safety
///
/// `array` is valid, and nobody else uses it.
pub(super) unsafe fn report(
    array: *mut bindings::iommu_user_data_array,
    f: impl FnOnce(&UserDataArray) -> Handled,
) -> c_int {
    // SAFETY: By the contract of this function; the borrow ends before the write below.
    let handled = f(unsafe { UserDataArray::from_raw(array) });
    // SAFETY: The caller has the array, and the borrow of it has ended.
    unsafe { (*array).entry_num = handled.count() };
    match handled.result() {
        Ok(()) => 0,
        Err(why) => why.to_errno(),
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[macros::kunit_tests(rust_kernel_iommu_user_data)]
mod tests {
    use super::*;

    /// It had one word at first.
    #[derive(Clone, Copy, FromBytes, IntoBytes)]
    #[repr(C)]
    struct Grown([u32; 3]);

    impl UserStruct for Grown {
        const TYPE: u32 = 7;
        const MIN_LEN: usize = 4;
    }

    #[test]
    fn lengths_of_versions() {
        for (len, result) in [
            (0, Err(EINVAL)),
            (3, Err(EINVAL)),
            (4, Ok(())),
            (5, Ok(())),
            (11, Ok(())),
            (12, Ok(())),
            (13, Err(EINVAL)),
            (usize::MAX, Err(EINVAL)),
        ] {
            assert_eq!(check_len::<Grown>(len), result);
        }
    }

    #[test]
    fn copied_before() {
        let bytes = [1u32, 2, 3];
        for (type_, len, expected) in [
            (Grown::TYPE, 3, Err(EINVAL)),
            (Grown::TYPE, 4, Ok([1, 0, 0])),
            (Grown::TYPE, 8, Ok([1, 2, 0])),
            (Grown::TYPE, 12, Ok([1, 2, 3])),
            (Grown::TYPE, 13, Err(EINVAL)),
            (8, 12, Err(EINVAL)),
        ] {
            let raw = bindings::iommu_user_data {
                type_,
                len,
                copy: bytes.as_ptr().cast(),
                ..Default::default()
            };
            // SAFETY: It is valid, and nobody writes to it or to the bytes.
            let data = unsafe { UserData::from_raw(&raw) };
            assert_eq!(data.read::<Grown>().map(|value| value.0), expected);
        }
        // What could not be copied cannot be read either.
        let raw = bindings::iommu_user_data {
            type_: Grown::TYPE,
            uptr: core::ptr::without_provenance_mut(usize::MAX),
            len: 4,
            ..Default::default()
        };
        // SAFETY: It is valid, and nobody writes to it.
        let data = unsafe { UserData::from_raw(&raw) };
        assert_eq!(data.read::<Grown>().err(), Some(EFAULT));
    }

    #[test]
    fn how_far_it_came() {
        for (handled, count, result) in [
            (Handled::all(0), 0, Ok(())),
            (Handled::all(u32::MAX), u32::MAX, Ok(())),
            (Handled::failed(0, EINVAL), 0, Err(EINVAL)),
            (Handled::failed(3, EFAULT), 3, Err(EFAULT)),
        ] {
            assert_eq!(handled.count(), count);
            assert_eq!(handled.result(), result);
        }
    }

    #[test]
    fn arrays_without_entries() {
        for (type_, result) in [(Grown::TYPE, Ok(0)), (0, Err(EINVAL)), (8, Err(EINVAL))] {
            let raw = bindings::iommu_user_data_array {
                type_,
                ..Default::default()
            };
            // SAFETY: It is valid, and nobody writes to it.
            let array = unsafe { UserDataArray::from_raw(&raw) };
            assert!(array.is_empty());
            assert_eq!(array.read_all::<Grown>().map(|all| all.len()), result);
            let handled = array.each(|_: Grown| Err(EIO));
            assert_eq!(handled.count(), 0);
            assert_eq!(handled.result(), result.map(|_| ()));
            let handled = array.chunks(|_: &[Grown]| Err((0, EIO)));
            assert_eq!(handled.count(), 0);
            assert_eq!(handled.result(), result.map(|_| ()));
        }
    }
}
