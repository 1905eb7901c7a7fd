// SPDX-License-Identifier: GPL-2.0-only

//! Reading, from a page table, what was written to.

use super::pgtable::PageTable;
use core::{
    cell::Cell,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    types::Opaque, //
};

/// A bitmap of user space's.
///
/// # Invariants
///
/// It is a valid one, that this owns.
struct Bitmap(NonNull<bindings::iova_bitmap>);

impl Drop for Bitmap {
    fn drop(&mut self) {
        // SAFETY: This owns the bitmap, which is not used again.
        unsafe { bindings::iova_bitmap_free(self.0.as_ptr()) };
    }
}

/// Reading from a page table.
///
/// # Invariants
///
/// The operation is the table's, and `gather` is initialised.
pub(crate) struct Reading<'a> {
    table: PageTable,
    op: Op,
    bitmap: Option<&'a Bitmap>,
    /// Nothing is read yet, but the bitmap is looked at.
    is_probe: Cell<bool>,
    /// It points to itself.
    gather: Opaque<bindings::iommu_iotlb_gather>,
    flags: u32,
}

type Op = unsafe extern "C" fn(
    *mut bindings::iommu_domain,
    c_ulong,
    usize,
    c_ulong,
    *mut bindings::iommu_dirty_bitmap,
) -> c_int;

/// A bitmap in user space.
pub(crate) struct UserBitmap {
    /// What its first bit is about.
    pub(crate) iova: usize,
    /// How many bytes it is about.
    pub(crate) length: usize,
    /// How many bytes a bit is about, a power of two.
    pub(crate) page_size: usize,
    /// The user address.
    pub(crate) data: usize,
}

/// Reads a range with a [`Reading`], from the first number to the last.
type With<'a> = dyn FnMut(&Reading<'_>, usize, usize) -> Result + 'a;

impl<'a> Reading<'a> {
    fn begin<T>(
        table: PageTable,
        flags: u32,
        bitmap: Option<&'a Bitmap>,
        f: impl FnOnce(&Self) -> T,
    ) -> Result<T> {
        // SAFETY: The domain is valid; its tables of operations do not change.
        let ops = unsafe { (*table.as_raw()).dirty_ops.as_ref() }.ok_or(EOPNOTSUPP)?;
        // INVARIANT: as is done just below.
        let reading = Self {
            table,
            op: ops.read_and_clear_dirty.ok_or(EOPNOTSUPP)?,
            bitmap,
            is_probe: Cell::new(false),
            gather: Opaque::uninit(),
            flags,
        };
        // SAFETY: It is ours, and does not move: nobody but this function has it.
        unsafe { bindings::iommu_iotlb_gather_init(reading.gather.get()) };
        Ok(f(&reading))
    }
}

/// Has the table forget what was written to; `f` reads all that is mapped.
///
/// # Errors
///
/// `EOPNOTSUPP`: the domain cannot tell; what `f` says.
pub(crate) fn forget(table: PageTable, f: impl FnOnce(&Reading<'_>) -> Result) -> Result {
    Reading::begin(table, 0, None, f)?
}

/// Puts what was written to through a page table into a bitmap, and forgets it, unless `flags` say
/// no. `f` is called for the parts of the bitmap that are pinned, one after the other, and more
/// than once for each: it reads what is mapped there, and takes the locks for that. No user memory
/// is touched meanwhile.
///
/// # Errors
///
/// `EOPNOTSUPP`: the domain cannot tell; `ENOMEM`; `EFAULT`: the bitmap cannot be written, and
/// nothing is forgotten; what `f` says.
pub(crate) fn read(table: PageTable, flags: u32, bitmap: UserBitmap, f: &mut With<'_>) -> Result {
    let bitmap = Bitmap::new(bitmap)?;
    Reading::begin(table, flags, Some(&bitmap), |reading| {
        let mut call = (f, reading);
        for is_probe in [true, false] {
            reading.is_probe.set(is_probe);
            let (raw, call) = (bitmap.0.as_ptr(), (&raw mut call).cast());
            // SAFETY: It is a valid one, and calls what it is told to with what it is told to.
            to_result(unsafe { bindings::iova_bitmap_for_each_pinned(raw, call, Some(called)) })?;
        }
        Ok(())
    })?
}

/// # Safety
///
/// Called by `iova_bitmap_for_each_pinned` with what [`read`] has given it.
unsafe extern "C" fn called(
    _: *mut bindings::iova_bitmap,
    iova: c_ulong,
    length: usize,
    call: *mut c_void,
) -> c_int {
    // SAFETY: `read` gave it these, which it has until the call returns.
    let (f, reading) = unsafe { &mut *call.cast::<(&mut With<'_>, &Reading<'_>)>() };
    let last = iova.wrapping_add(length).wrapping_sub(1);
    f(reading, iova, last).err().map_or(0, |e| e.to_errno())
}

impl Bitmap {
    fn new(of: UserBitmap) -> Result<Self> {
        let data = core::ptr::without_provenance_mut(of.data);
        // SAFETY: The page size is a power of two; the address is checked.
        let raw = unsafe { bindings::iova_bitmap_alloc(of.iova, of.length, of.page_size, data) };
        // INVARIANT: It is new.
        let raw = from_err_ptr(raw).map_err(|_| ENOMEM)?;
        NonNull::new(raw).map(Self).ok_or(ENOMEM)
    }
}

impl Reading<'_> {
    /// Reads from `first` to `last`, all of which is mapped, or looks whether the bitmap has a
    /// place for it.
    ///
    /// # Errors
    ///
    /// What the driver says; `EFAULT`: the bitmap cannot be written; `EAGAIN`: it is for another
    /// part of it to go on with.
    pub(crate) fn read(&self, first: usize, last: usize) -> Result {
        let length = (last - first).wrapping_add(1);
        let bitmap = self
            .bitmap
            .map_or(core::ptr::null_mut(), |it| it.0.as_ptr());
        if self.is_probe.get() {
            // SAFETY: It is a valid one.
            return to_result(unsafe { bindings::iova_bitmap_probe(bitmap, first, length) });
        }
        let mut dirty = bindings::iommu_dirty_bitmap {
            bitmap,
            gather: self.gather.get(),
        };
        let (domain, flags) = (self.table.as_raw(), self.flags as c_ulong);
        // SAFETY: By the type invariant; bitmap and gather are valid.
        to_result(unsafe { (self.op)(domain, first, length, flags, &mut dirty) })
    }

    /// Has the hardware forget, too, what was read.
    pub(crate) fn sync(&self) {
        if !self.is_probe.get() && self.flags & bindings::IOMMU_DIRTY_NO_CLEAR == 0 {
            // SAFETY: Both are valid.
            unsafe { bindings::iommu_iotlb_sync(self.table.as_raw(), self.gather.get()) };
        }
    }
}
