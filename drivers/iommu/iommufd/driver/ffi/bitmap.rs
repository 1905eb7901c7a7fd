// SPDX-License-Identifier: GPL-2.0-only

//! Bitmaps in user memory, and what VFIO, IOMMU drivers and `/dev/iommu` call for them.
//!
//! The symbols get their namespace in `exports.c`. `struct iova_bitmap` is known by pointers only:
//! it is a [`Bitmap`].

use crate::bitmap::{
    self,
    Extent,
    Memory, //
};
use core::ops::ControlFlow;
use kernel::{
    bindings,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Pages in a row of the current process, pinned to be written to.
///
/// # Invariants
///
/// Each is pinned once for this.
struct Pinned(KVec<*mut bindings::page>);

impl Pinned {
    /// Room for some pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn with_room(pages: usize) -> Result<Self> {
        // INVARIANT: There is none.
        Ok(Self(KVec::with_capacity(pages, GFP_KERNEL)?))
    }

    fn unpin(&mut self) {
        let (pages, count) = (self.0.as_mut_ptr(), self.0.len());
        self.0.clear();
        if count != 0 {
            // SAFETY: By the type invariant they are pinned, and this was their last use: the
            // vector, which is as it was behind its length, has none now.
            unsafe { bindings::unpin_user_pages(pages, count) };
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.unpin();
    }
}

impl Memory for Pinned {
    /// What fits into a page: 2 MiB of a bitmap where pages have 4 KiB.
    const MOST: usize = PAGE_SIZE / size_of::<*mut bindings::page>();

    fn pin(&mut self, at: usize, pages: usize) -> Result<usize> {
        self.unpin();
        // CAST: At most `MOST`.
        let most = pages.min(self.0.capacity()) as c_int;
        let room = self.0.as_mut_ptr();
        // SAFETY: There is room for so many pointers. The address is checked.
        let pinned = unsafe { bindings::pin_user_pages_fast(at, most, bindings::FOLL_WRITE, room) };
        let pinned = usize::try_from(pinned).map_err(|_| EFAULT)?;
        // INVARIANT: These were just pinned.
        //
        // SAFETY: So many pointers were written, for which there is room.
        unsafe { self.0.inc_len(pinned) };
        if pinned == 0 {
            return Err(EFAULT);
        }
        Ok(pinned)
    }

    #[inline]
    fn set(&mut self, page: usize, first: usize, count: usize) {
        if let Some(&page) = self.0.get(page) {
            // CAST: A page has fewer bits.
            //
            // SAFETY: By the type invariant it is pinned, and it has these bits. User space may
            // read and write them meanwhile: it is C that sets them.
            unsafe { bindings::iommu_set_bits(page, first as c_uint, count as c_uint) };
        }
    }
}

/// What a `struct iova_bitmap` is.
type Bitmap = bitmap::Bitmap<Pinned>;

fn errno(result: Result) -> c_int {
    result.map_or_else(Error::to_errno, |()| 0)
}

/// # Safety
///
/// It must be one of [`iova_bitmap_alloc`]'s that is not freed, and nobody else use it for `'a`.
unsafe fn borrow<'a>(bitmap: *mut bindings::iova_bitmap) -> &'a mut Bitmap {
    // SAFETY: By the contract of the function, and such a pointer is one to this type.
    unsafe { &mut *bitmap.cast() }
}

fn alloc(iova: usize, length: usize, page_size: usize, data: usize) -> Result<KBox<Bitmap>> {
    let extent = Extent::new(iova, length, page_size, data)?;
    let room = Pinned::with_room(extent.pages().min(Pinned::MOST))?;
    Ok(KBox::new(Bitmap::new(extent, room), GFP_KERNEL)?)
}

/// A bitmap at the user address `data` of the current process, with a bit for each `page_size`
/// bytes of the IOVAs from `iova` on; `ENOMEM` as a pointer if there is no memory. Nothing is
/// pinned yet.
#[export]
pub(crate) extern "C" fn iova_bitmap_alloc(
    iova: c_ulong,
    length: usize,
    page_size: c_ulong,
    data: *mut u64,
) -> *mut bindings::iova_bitmap {
    alloc(iova, length, page_size, data.addr())
        .map_or_else(Error::to_ptr, |bitmap| KBox::into_raw(bitmap).cast())
}

/// Frees a bitmap.
///
/// # Safety
///
/// It must be one of [`iova_bitmap_alloc`]'s that nobody uses any more.
#[export]
pub(crate) unsafe extern "C" fn iova_bitmap_free(bitmap: *mut bindings::iova_bitmap) {
    // SAFETY: By the contract of the function; it was made from a box of this type.
    drop(unsafe { KBox::<Bitmap>::from_raw(bitmap.cast()) });
}

/// Has `fn_` set the bits of all that a bitmap is about. Returns what that returns, or `EFAULT` if
/// bits could not be set.
///
/// # Safety
///
/// It must be one of [`iova_bitmap_alloc`]'s that is the caller's, and `fn_` take it and `opaque`.
#[export]
pub(crate) unsafe extern "C" fn iova_bitmap_for_each(
    bitmap: *mut bindings::iova_bitmap,
    opaque: *mut c_void,
    fn_: bindings::iova_bitmap_fn_t,
) -> c_int {
    let Some(f) = fn_ else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the contract of the function.
    let (iova, length) = unsafe { borrow(bitmap) }.range();
    // SAFETY: By the contract of the function. The bitmap is not borrowed now: `f` does that.
    let ret = unsafe { f(bitmap, iova, length, opaque) };
    if ret != 0 {
        return ret;
    }
    // SAFETY: By the contract of the function; `f` has returned.
    errno(unsafe { borrow(bitmap) }.complete())
}

/// The same for an `fn_` with locks that others need. Nothing is pinned while it runs: it ends with
/// `EAGAIN` where that is missing, and is called again for what is left.
///
/// # Safety
///
/// As for [`iova_bitmap_for_each`].
#[export]
pub(crate) unsafe extern "C" fn iova_bitmap_for_each_pinned(
    bitmap: *mut bindings::iova_bitmap,
    opaque: *mut c_void,
    fn_: bindings::iova_bitmap_fn_t,
) -> c_int {
    let Some(f) = fn_ else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the contract of the function.
    let (mut iova, mut length) = unsafe { borrow(bitmap) }.begin();
    loop {
        // SAFETY: By the contract of the function. The bitmap is not borrowed now: `f` does that.
        let ret = unsafe { f(bitmap, iova, length, opaque) };
        // SAFETY: By the contract of the function; `f` has returned.
        match unsafe { borrow(bitmap) }.go_on(to_result(ret)) {
            ControlFlow::Continue(rest) => (iova, length) = rest,
            ControlFlow::Break(result) => return errno(result),
        }
    }
}

/// Whether the bits of some IOVAs could be set: pins the memory that they are in, part by part.
/// Returns 0 or what [`iova_bitmap_set`] does.
///
/// # Safety
///
/// It must be one of [`iova_bitmap_alloc`]'s that is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iova_bitmap_probe(
    bitmap: *mut bindings::iova_bitmap,
    iova: c_ulong,
    length: usize,
) -> c_int {
    // SAFETY: By the contract of the function.
    errno(unsafe { borrow(bitmap) }.probe(iova, length))
}

/// Sets the bits of some IOVAs. Returns 0, `EFAULT` if the user memory cannot be written, or
/// `EAGAIN`, which is for [`iova_bitmap_for_each_pinned`].
///
/// # Safety
///
/// It must be one of [`iova_bitmap_alloc`]'s that is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iova_bitmap_set(
    bitmap: *mut bindings::iova_bitmap,
    iova: c_ulong,
    length: usize,
) -> c_int {
    // SAFETY: By the contract of the function.
    errno(unsafe { borrow(bitmap) }.set(iova, length))
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_driver_user_bitmap)]
mod tests {
    use super::*;
    use core::ptr;
    use kernel::uaccess::{
        UserPtr,
        UserSlice, //
    };

    /// As much of a bitmap as is pinned at a time.
    const WINDOW: usize = Pinned::MOST * PAGE_SIZE;
    const WRITABLE: u32 = bindings::PROT_READ | bindings::PROT_WRITE;

    /// New memory of the test's process, which goes with the test.
    fn map(pages: usize, access: u32) -> usize {
        let flags = bindings::MAP_PRIVATE | bindings::MAP_ANONYMOUS;
        // CAST: They are wider.
        let (length, access, flags) = (pages * PAGE_SIZE, access as c_ulong, flags as c_ulong);
        // SAFETY: A test is running, and this is new memory.
        let at = unsafe {
            let test = bindings::kunit_get_current_test();
            bindings::kunit_vm_mmap(test, ptr::null_mut(), 0, length, access, flags, 0)
        };
        assert!(at != 0 && at % PAGE_SIZE == 0);
        at
    }

    fn byte(at: usize) -> Result<u8> {
        UserSlice::new(UserPtr::from_addr(at), 1).reader().read()
    }

    /// How many bits of so many bytes are set.
    fn count_bits(at: usize, bytes: usize) -> Result<usize> {
        let mut all = KVVec::new();
        UserSlice::new(UserPtr::from_addr(at), bytes).read_all(&mut all, GFP_KERNEL)?;
        // CAST: There are 8 at most.
        Ok(all.iter().map(|byte| byte.count_ones() as usize).sum())
    }

    /// What a driver of VFIO reports: ranges that were written to, and then how that ended.
    type Report<'a> = (&'a [bitmap::Range], c_int);

    /// # Safety
    ///
    /// `bitmap` must be one that is in use, and `opaque` a [`Report`].
    unsafe extern "C" fn report(
        bitmap: *mut bindings::iova_bitmap,
        _: c_ulong,
        _: usize,
        opaque: *mut c_void,
    ) -> c_int {
        // SAFETY: By the contract of the function.
        let (ranges, end) = unsafe { *opaque.cast::<Report<'_>>() };
        for &(iova, length) in ranges {
            // SAFETY: By the contract of the function. VFIO's drivers do not look what it says.
            unsafe { iova_bitmap_set(bitmap, iova, length) };
        }
        end
    }

    /// As VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT.
    fn log(
        (iova, length): bitmap::Range,
        page_size: usize,
        data: usize,
        mut of: Report<'_>,
    ) -> c_int {
        let bitmap = iova_bitmap_alloc(iova, length, page_size, ptr::without_provenance_mut(data));
        assert!(!bitmap.is_null());
        // SAFETY: It is new, and `report` takes it and what it is given.
        let ret = unsafe { iova_bitmap_for_each(bitmap, (&raw mut of).cast(), Some(report)) };
        // SAFETY: Nobody else has it.
        unsafe { iova_bitmap_free(bitmap) };
        ret
    }

    #[test]
    fn several_windows() -> Result {
        const A: usize = 1 << 30;
        // What a window has bits for.
        const LENGTH: usize = WINDOW * 8 * 4096;
        // Unaligned: the windows end with pages.
        let at = map(2 * Pinned::MOST + 2, WRITABLE) + 24;
        let split = A + LENGTH - 24 * 8 * 4096;
        let end = A + 2 * LENGTH + 4096;
        let ranges = [
            (A, 4096),
            (split - 4096, 8192),
            (end - 4096, 8192),
            (split + LENGTH - 4096, 8192),
            (A + 2 * 4096, 4096),
        ];
        assert_eq!(log((A, end - A), 4096, at, (&ranges, 0)), 0);
        assert_eq!(byte(at)?, 0b101);
        assert_eq!(byte(at + WINDOW - 24 - 1)?, 0x80);
        assert_eq!(byte(at + WINDOW - 24)?, 1);
        assert_eq!(byte(at + 2 * WINDOW - 24 - 1)?, 0x80);
        assert_eq!(byte(at + 2 * WINDOW - 24)?, 1);
        assert_eq!(byte(at + 2 * WINDOW)?, 1);
        assert_eq!(count_bits(at - 24, 2 * WINDOW + PAGE_SIZE)?, 7);
        Ok(())
    }

    /// A bitmap around the end of a page, which no word is.
    #[test]
    fn other_page_sizes() -> Result {
        const A: usize = 1 << 40;
        let at = map(2, WRITABLE);
        for shift in [12, 16, 21, 30] {
            for before in [1, 3, 8, PAGE_SIZE - 1] {
                let data = at + PAGE_SIZE - before;
                let middle = A + ((before * 8) << shift);
                let ranges = [
                    (A, 1),
                    (middle - 1, 2),
                    (middle + (7 << shift), usize::MAX >> 1),
                ];
                let length = ((before + 1) * 8) << shift;
                assert_eq!(log((A, length), 1 << shift, data, (&ranges, 0)), 0);
                if before != 1 {
                    assert_eq!(byte(data)?, 1);
                    assert_eq!(byte(at + PAGE_SIZE - 1)?, 0x80);
                } else {
                    assert_eq!(byte(data)?, 0x81);
                }
                assert_eq!(byte(at + PAGE_SIZE)?, 0x81);
                assert_eq!(count_bits(at, 2 * PAGE_SIZE)?, 4);
                UserSlice::new(UserPtr::from_addr(at), 2 * PAGE_SIZE)
                    .writer()
                    .write_slice(&[0; 2 * PAGE_SIZE])?;
            }
        }
        Ok(())
    }

    #[test]
    fn no_place_for_bits() -> Result {
        const PART: usize = PAGE_SIZE * 8 * 4096;
        let fault = EFAULT.to_errno();
        // The second page is a hole; bits that nobody sets need no place.
        let at = map(2, WRITABLE);
        // SAFETY: It is the test's memory.
        assert_eq!(unsafe { bindings::vm_munmap(at + PAGE_SIZE, PAGE_SIZE) }, 0);
        let before: Report<'_> = (&[(PART - 4096, 4096)], 0);
        assert_eq!(log((0, 2 * PART), 4096, at, before), 0);
        for ranges in [[(0, 2 * PART)], [(PART, 1)], [(2 * PART - 1, 1)]] {
            assert_eq!(log((0, 2 * PART), 4096, at, (&ranges, 0)), fault);
        }
        assert_eq!(count_bits(at, PAGE_SIZE)?, PAGE_SIZE * 8);

        let at = map(1, bindings::PROT_READ);
        assert_eq!(log((0, PART), 4096, at, (&[], 0)), 0);
        assert_eq!(log((0, PART), 4096, at, (&[(0, 1)], 0)), fault);
        assert_eq!(count_bits(at, PAGE_SIZE)?, 0);
        assert_eq!(log((0, PART), 4096, 0, (&[(0, 1)], 0)), fault);
        assert_eq!(
            log((0, PART), 4096, usize::MAX, (&[(PART - 1, 1)], 0)),
            fault
        );
        // What the driver says comes first.
        let end = ENODEV.to_errno();
        assert_eq!(log((0, PART), 4096, at, (&[(0, 1)], end)), end);
        assert_eq!(log((0, PART), 4096, at, (&[], 7)), 7);
        Ok(())
    }

    /// # Safety
    ///
    /// `bitmap` must be one that is in use.
    unsafe extern "C" fn set_all(
        bitmap: *mut bindings::iova_bitmap,
        iova: c_ulong,
        length: usize,
        calls: *mut c_void,
    ) -> c_int {
        // SAFETY: By the contract of the function.
        unsafe { *calls.cast::<usize>() += 1 };
        // SAFETY: By the contract of the function.
        unsafe { iova_bitmap_set(bitmap, iova, length) }
    }

    #[test]
    fn nothing_is_pinned_meanwhile() -> Result {
        const LENGTH: usize = 2 * WINDOW * 8 * 4096;
        let at = map(2 * Pinned::MOST + 1, WRITABLE);
        let bitmap = iova_bitmap_alloc(0, LENGTH, 4096, ptr::without_provenance_mut(at));
        let mut calls = 0usize;
        let count = (&raw mut calls).cast();
        // SAFETY: It is new, and `set_all` takes it.
        let ret = unsafe { iova_bitmap_for_each_pinned(bitmap, count, Some(set_all)) };
        // SAFETY: Nobody else has it.
        unsafe { iova_bitmap_free(bitmap) };
        assert_eq!(ret, 0);
        assert_eq!(calls, 3);
        assert_eq!(count_bits(at, 2 * WINDOW + PAGE_SIZE)?, 2 * WINDOW * 8);
        Ok(())
    }

    /// What was pinned is unpinned when something else is, and in the end.
    #[test]
    fn unpins() -> Result {
        let at = map(2, WRITABLE);
        let mut one = Pinned::with_room(1)?;
        assert_eq!(one.pin(at, 1), Ok(1));
        let page = one.0[0];
        // What else holds the page for a while, such as a list of pages that are new, has one
        // reference of it; who has pinned it has many.
        let pins = || {
            // SAFETY: It is pinned.
            let users = unsafe { bindings::page_ref_count(page) };
            users / bindings::GUP_PIN_COUNTING_BIAS as c_int
        };
        let before = pins();
        let mut other = Pinned::with_room(2)?;
        for _ in 0..3 {
            assert_eq!(other.pin(at, 2), Ok(2));
            assert!(pins() > before);
        }
        assert_eq!(other.pin(at + PAGE_SIZE, 1), Ok(1));
        assert_eq!(pins(), before);
        assert_eq!(other.pin(at, 1), Ok(1));
        // SAFETY: It is the test's memory. Who has pinned a page keeps it.
        assert_eq!(unsafe { bindings::vm_munmap(at + PAGE_SIZE, PAGE_SIZE) }, 0);
        assert_eq!(other.pin(at + PAGE_SIZE, 1), Err(EFAULT));
        assert_eq!(pins(), before);
        assert_eq!(other.pin(at, 2), Ok(1));
        drop(other);
        assert_eq!(pins(), before);
        Ok(())
    }
}
