// SPDX-License-Identifier: GPL-2.0-only

//! Pinning memory: of a process, or of a file that lives in memory.
//!
//! Pins are counted for each page, so that any part of what was pinned can be given back.

use super::should_fail;
use crate::runs::{
    Run,
    Runs, //
};
use core::{
    mem,
    ptr, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    error::to_result,
    fs::file::{
        flags,
        LocalFile, //
    },
    mm::Mm,
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

/// How large a transparent huge page is, in bytes; a page where there are none.
#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
pub(crate) const HUGE_PAGE: usize = bindings::HPAGE_SIZE;
#[cfg(not(CONFIG_TRANSPARENT_HUGEPAGE))]
pub(crate) const HUGE_PAGE: usize = PAGE_SIZE;

/// Bytes of memory that is needed for a moment, at most.
pub(super) fn temp_limit() -> usize {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    return crate::selftest::memory_limit();
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    65536
}

/// Where memory is found.
pub(crate) enum Source {
    /// In a process, from this address on, a multiple of pages.
    User(ARef<Mm>, usize),
    /// In a file, from this byte on, a multiple of pages.
    File(PinnedFile, usize),
    /// Behind a dma-buf, from this byte on, a multiple of pages.
    DmaBuf(usize),
}

impl Source {
    /// The page, counted in what the source counts by, at which it begins.
    pub(crate) fn base(&self) -> usize {
        let (Self::User(_, at) | Self::File(_, at) | Self::DmaBuf(at)) = self;
        at / PAGE_SIZE
    }
}

/// A file that lives in memory, open as it has to be for what is done with its pages. While they
/// may be written it cannot be sealed against that.
pub(crate) struct PinnedFile {
    file: ARef<LocalFile>,
    writable: bool,
}

// SAFETY: Nothing of it depends on a file descriptor's position or thread.
unsafe impl Send for PinnedFile {}
// SAFETY: Nothing of it depends on a file descriptor's position or thread.
unsafe impl Sync for PinnedFile {}

impl PinnedFile {
    /// As mmap(MAP_SHARED) has it.
    ///
    /// # Errors
    ///
    /// `EBADF`: no file; `EINVAL`: its pages cannot be pinned; `EACCES`: it is not open for that;
    /// `EPERM`: it is sealed.
    pub(crate) fn get(fd: c_int, writable: bool) -> Result<Self> {
        // CAST: What is negative is no descriptor either.
        let file = LocalFile::fget(fd as u32)?;
        let raw = file.as_ptr();
        // SAFETY: The file is open.
        let is_known = unsafe { bindings::iommu_is_shmem(raw) || bindings::iommu_is_hugetlb(raw) };
        if !is_known {
            return Err(EINVAL);
        }
        let mode = file.flags() & flags::O_ACCMODE;
        let may_read = mode == flags::O_RDONLY || mode == flags::O_RDWR;
        let may_write = mode == flags::O_WRONLY || mode == flags::O_RDWR;
        // SAFETY: The file is open.
        let appends = may_write && unsafe { bindings::iommu_is_append(raw) };
        if !may_read || appends || (writable && !may_write) {
            return Err(EACCES);
        }
        if writable {
            // SAFETY: The file is open.
            to_result(unsafe { bindings::iommu_map_writable(raw) })?;
        }
        let this = Self { file, writable };
        let against = bindings::F_SEAL_WRITE | bindings::F_SEAL_FUTURE_WRITE;
        // SAFETY: The file is open.
        if writable && unsafe { bindings::iommu_seals(raw) } & against != 0 {
            return Err(EPERM);
        }
        Ok(this)
    }
}

impl Drop for PinnedFile {
    fn drop(&mut self) {
        if self.writable {
            // SAFETY: `get` has mapped it.
            unsafe { bindings::iommu_unmap_writable(self.file.as_ptr()) };
        }
    }
}

/// Pages that were pinned, and not handed on yet: from `next` on those of `all`.
struct Pages {
    all: KVec<*mut bindings::page>,
    next: usize,
}

/// The same of folios, of which the first has `offset` pages before those that are meant, and all
/// have `left` of those. They are pinned once each.
struct Folios {
    all: KVec<*mut bindings::folio>,
    next: usize,
    offset: usize,
    left: usize,
}

enum Ahead {
    Pages(Pages),
    Folios(Folios),
}

/// Pins memory of a source, in order. What was pinned and is not wanted is unpinned in the end.
pub(super) struct Pinner<'a> {
    source: &'a Source,
    writable: bool,
    ahead: Ahead,
}

impl<'a> Pinner<'a> {
    pub(super) fn new(source: &'a Source, writable: bool) -> Self {
        let ahead = match source {
            Source::File(..) => Ahead::Folios(Folios {
                all: KVec::new(),
                next: 0,
                offset: 0,
                left: 0,
            }),
            _ => Ahead::Pages(Pages {
                all: KVec::new(),
                next: 0,
            }),
        };
        Self {
            source,
            writable,
            ahead,
        }
    }

    /// Hands on pages from `index` on, up to `most`, as far as `runs` has room. Returns how many.
    /// What was handed on is pinned once for each page.
    ///
    /// # Errors
    ///
    /// `EFAULT`: there is no such memory; `EINVAL`: it cannot be pinned, or is not in the file;
    /// `ENOMEM`. Nothing was handed on.
    pub(super) fn take(&mut self, index: usize, most: usize, runs: &mut Runs) -> Result<usize> {
        let (source, writable) = (self.source, self.writable);
        match &mut self.ahead {
            Ahead::Pages(pages) => {
                if pages.next == pages.all.len() {
                    let huge = take_huge(source, writable, index, most, runs);
                    if huge != 0 {
                        return Ok(huge);
                    }
                    pages.pin(source, writable, index, most)?;
                }
                Ok(pages.give(runs))
            }
            Ahead::Folios(folios) => {
                if folios.left == 0 {
                    folios.pin(source, index, most)?;
                }
                folios.give(runs)
            }
        }
    }
}

/// GUP's flags for memory that devices read, or write, too.
fn gup_flags(writable: bool) -> c_uint {
    let write = if writable { bindings::FOLL_WRITE } else { 0 };
    bindings::FOLL_LONGTERM | write
}

/// Hands on huge pages of the current process's, of hugetlbfs, one by one instead of page by page.
/// Returns how many pages these have, 0 where there are none.
///
/// One page of a huge one stands for the rest: it is one entry of the process's page tables, and
/// all that may differ is the same for all of it: who may write it, whether it is shared or being
/// copied, and where it is, for it is moved as a whole before it is pinned, and not split nor moved
/// as long as it is. It is found under the lock of the mappings, so no other mapping takes its
/// place between the look and the pin.
fn take_huge(source: &Source, writable: bool, index: usize, most: usize, runs: &mut Runs) -> usize {
    /// Others may change mappings after so many.
    const AT_ONCE: usize = 64;
    /// The smallest is 2 MiB where pages have 4 KiB; less is not worth a look.
    const LEAST: usize = 512;
    let Source::User(mm, start) = source else {
        return 0;
    };
    let task = current!();
    let Some(mm) = task.mm().filter(|its| most >= LEAST && is(its, mm)) else {
        return 0;
    };
    let mut done = 0;
    let _lock = mm.mmap_read_lock();
    for _ in 0..AT_ONCE {
        let at = start + (index + done) * PAGE_SIZE;
        // SAFETY: The lock is held.
        if done == most || !unsafe { bindings::iommu_is_huge_mapping(mm.as_raw(), at) } {
            break;
        }
        let mut page = ptr::null_mut();
        // SAFETY: The lock is held; there is room for one; the address is checked.
        if unsafe { bindings::pin_user_pages(at, 1, gup_flags(writable), &mut page) } != 1 {
            break;
        }
        // SAFETY: It is pinned.
        let len = unsafe { bindings::iommu_huge_rest(page, at) }.min(most - done);
        let pfn = pfn_of(page);
        let more = u32::try_from(len - 1).unwrap_or(0);
        // SAFETY: It is pinned.
        let pinned = more == 0 || unsafe { bindings::iommu_add_pins(page, more) } == 0;
        let len = if pinned { len } else { 1 };
        if !runs.push(Run { pfn, len }) {
            // SAFETY: So many pins were just made.
            unsafe { unpin(Run { pfn, len }, false) };
            break;
        }
        done += len;
    }
    done
}

/// Room for up to `most` pointers, for a moment.
fn room<T>(vec: &mut KVec<*mut T>, most: usize) -> Result<usize> {
    vec.clear();
    let count = most.min(temp_limit() / size_of::<*mut T>()).max(1);
    if vec.capacity() == 0 {
        if should_fail() {
            return Err(ENOMEM);
        }
        vec.reserve(count, GFP_KERNEL | __GFP_NOWARN)
            .or_else(|_| vec.reserve(count.min(PAGE_SIZE / size_of::<*mut T>()), GFP_KERNEL))?;
    }
    if should_fail() {
        return Err(EFAULT);
    }
    Ok(count.min(vec.capacity()))
}

/// What a function says that pins: how many, or an error.
fn count(ret: c_long) -> Result<usize> {
    match ret {
        0 => {
            kernel::warn_on!(true);
            Err(EFAULT)
        }
        // CAST: An error number.
        ..0 => Err(Error::from_errno(ret as c_int)),
        // CAST: It is positive.
        _ => Ok(ret as usize),
    }
}

impl Pages {
    fn pin(&mut self, source: &Source, writable: bool, index: usize, most: usize) -> Result {
        let Source::User(mm, start) = source else {
            return Err(EINVAL);
        };
        self.next = 0;
        let most = room(&mut self.all, most)?;
        let at = start + index * PAGE_SIZE;
        let flags = gup_flags(writable);
        let array = self.all.as_mut_ptr();
        let pinned = if is_current(mm) {
            // CAST: At most what fits into `temp_limit()` bytes.
            //
            // SAFETY: There is room for so many; the address is checked.
            let ret = unsafe { bindings::pin_user_pages_fast(at, most as c_int, flags, array) };
            // CAST: It is wider.
            count(ret as c_long)?
        } else {
            let mm = mm.mmget_not_zero().ok_or(EFAULT)?;
            let mut locked = 1;
            let lock = mm.mmap_read_lock();
            // SAFETY: The process's memory is there, and its lock held; there is room for so many.
            let ret = unsafe {
                bindings::pin_user_pages_remote(mm.as_raw(), at, most, flags, array, &mut locked)
            };
            if locked == 0 {
                // It was let go of there.
                mem::forget(lock);
            }
            count(ret)?
        };
        // SAFETY: So many were written, for which there is room.
        unsafe { self.all.inc_len(pinned) };
        Ok(())
    }

    fn give(&mut self, runs: &mut Runs) -> usize {
        let rest = self.all.get(self.next..).unwrap_or(&[]);
        let mut pfn = rest.first().map_or(0, |&page| pfn_of(page));
        let mut done = 0;
        while done < rest.len() {
            let (mut end, mut after) = (done + 1, pfn + 1);
            let mut next = 0;
            while let Some(&page) = rest.get(end) {
                next = pfn_of(page);
                if next != after {
                    break;
                }
                (end, after) = (end + 1, after + 1);
            }
            let len = end - done;
            if !runs.push(Run { pfn, len }) {
                break;
            }
            (done, pfn) = (end, next);
        }
        self.next += done;
        done
    }
}

impl Folios {
    fn pin(&mut self, source: &Source, index: usize, most: usize) -> Result {
        let Source::File(file, start) = source else {
            return Err(EINVAL);
        };
        self.next = 0;
        let room = room(&mut self.all, most)?;
        let first = start + index * PAGE_SIZE;
        let last = first + most * PAGE_SIZE - 1;
        // CAST: An offset in a file is less than 2^63; what is not fails there.
        let (first, last) = (first as bindings::loff_t, last as bindings::loff_t);
        let (raw, array) = (file.file.as_ptr(), self.all.as_mut_ptr());
        // CAST: Less than 2^32, by `temp_limit()`.
        //
        // SAFETY: The file is open; there is room for so many.
        let pinned = count(unsafe {
            bindings::memfd_pin_folios(raw, first, last, array, room as c_uint, &mut self.offset)
        })?;
        // SAFETY: So many were written, for which there is room.
        unsafe { self.all.inc_len(pinned) };
        self.offset /= PAGE_SIZE;
        let pages: usize = self.all.iter().map(|&folio| pages_of(folio)).sum();
        self.left = (pages - self.offset).min(most);
        Ok(())
    }

    fn give(&mut self, runs: &mut Runs) -> Result<usize> {
        let before = self.left;
        while let Some(&folio) = self.all.get(self.next).filter(|_| self.left != 0) {
            let len = (pages_of(folio) - self.offset).min(self.left);
            // SAFETY: It is pinned.
            let pfn = unsafe { bindings::iommu_folio_pfn(folio) } + self.offset;
            // A pin more for each page but one, which the folio's is for.
            let more = u32::try_from(len - 1).map_err(|_| ENOMEM).and_then(|more| {
                to_result(match more {
                    0 => 0,
                    // SAFETY: It is pinned.
                    more => unsafe { bindings::folio_add_pins(folio, more) },
                })
            });
            if let Err(e) = more {
                return if self.left == before {
                    Err(e)
                } else {
                    Ok(before - self.left)
                };
            }
            if !runs.push(Run { pfn, len }) {
                // SAFETY: So many pins were just made.
                unsafe { unpin(Run { pfn, len: len - 1 }, false) };
                break;
            }
            self.left -= len;
            self.next += 1;
            self.offset = 0;
        }
        Ok(before - self.left)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        if let Some(rest) = self.all.as_mut_slice().get_mut(self.next..) {
            // SAFETY: These are pinned, and nobody else's.
            unsafe { bindings::unpin_user_pages(rest.as_mut_ptr(), rest.len()) };
        }
    }
}

impl Drop for Folios {
    fn drop(&mut self) {
        if let Some(rest) = self.all.as_mut_slice().get_mut(self.next..) {
            // SAFETY: These are pinned, and nobody else's.
            unsafe { bindings::unpin_folios(rest.as_mut_ptr(), rest.len()) };
        }
    }
}

fn pfn_of(page: *mut bindings::page) -> usize {
    // SAFETY: It is pinned.
    unsafe { bindings::page_to_pfn(page) }
}

fn pages_of(folio: *mut bindings::folio) -> usize {
    // SAFETY: It is pinned.
    unsafe { bindings::iommu_folio_nr_pages(folio) }
}

/// Whether both are the same memory.
fn is(one: &Mm, other: &Mm) -> bool {
    ptr::eq(one.as_raw(), other.as_raw())
}

/// Whether this is the memory of the current process.
pub(crate) fn is_current(mm: &Mm) -> bool {
    current!().mm().is_some_and(|its| is(its, mm))
}

/// Unpins each page once, after it was written to, if it may have been.
///
/// # Safety
///
/// Each of the pages is pinned on behalf of the caller, who gives that up.
pub(super) unsafe fn unpin(run: Run, dirty: bool) {
    if run.len != 0 {
        // SAFETY: The caller has these pages pinned, and gives the pins back.
        unsafe {
            let first = bindings::iommu_pfn_to_page(run.pfn);
            bindings::unpin_user_page_range_dirty_lock(first, run.len, dirty);
        }
    }
}

/// Copies between a buffer and a page.
///
/// # Safety
///
/// The page is pinned; `data` has `len` bytes, `offset` and `len` are inside of a page.
pub(super) unsafe fn copy_page(pfn: usize, offset: usize, data: *mut u8, len: usize, write: bool) {
    // SAFETY: The caller has it pinned, so there is a page, which stays. It is mapped while it is
    // copied; the bytes are in it, and the caller has as many at `data`.
    unsafe {
        let page = bindings::iommu_pfn_to_page(pfn);
        let mapped = bindings::kmap_local_page(page);
        let at = mapped.cast::<u8>().wrapping_add(offset);
        if write {
            ptr::copy_nonoverlapping(data, at, len);
            bindings::set_page_dirty_lock(page);
        } else {
            ptr::copy_nonoverlapping(at, data, len);
        }
        bindings::kunmap_local(mapped);
    }
}

/// Copies between a buffer and one page of another process, which is pinned meanwhile. `None` when
/// the process has no memory any more.
///
/// # Errors
///
/// `EFAULT`, and what else pinning says.
///
/// # Safety
///
/// As for [`copy_page`].
pub(super) unsafe fn copy_remote(
    mm: &Mm,
    at: usize,
    data: *mut u8,
    len: usize,
    write: bool,
) -> Option<Result> {
    let mm = mm.mmget_not_zero()?;
    if should_fail() {
        return Some(Err(EINVAL));
    }
    let flags = if write { bindings::FOLL_WRITE } else { 0 };
    let (offset, at) = (at % PAGE_SIZE, at & !(PAGE_SIZE - 1));
    let mut page = ptr::null_mut();
    let (raw, locked) = (mm.as_raw(), ptr::null_mut());
    let lock = mm.mmap_read_lock();
    // SAFETY: The process's memory is there, and its lock held; there is room for one.
    let ret = unsafe { bindings::pin_user_pages_remote(raw, at, 1, flags, &mut page, locked) };
    drop(lock);
    Some(count(ret).map(|_| {
        // SAFETY: It was pinned just now, for this; the caller has so many bytes.
        unsafe {
            copy_page(pfn_of(page), offset, data, len, write);
            bindings::unpin_user_page(page);
        }
    }))
}

/// Copies between a buffer and memory of the current process, or of one whose memory a kernel
/// thread takes for its own meanwhile. `None` when that process has no memory any more.
///
/// # Errors
///
/// `EFAULT`.
///
/// # Safety
///
/// `data` has `len` bytes, and the memory is the current process's, or the caller a kernel thread.
pub(super) unsafe fn copy_user(
    mm: &Mm,
    at: usize,
    data: *mut c_void,
    len: usize,
    write: bool,
) -> Option<Result> {
    let other = if is_current(mm) {
        None
    } else {
        let mm = mm.mmget_not_zero()?;
        // SAFETY: By the caller this is a kernel thread; the memory is there.
        unsafe { bindings::kthread_use_mm(mm.as_raw()) };
        Some(mm)
    };
    let user = ptr::without_provenance_mut::<c_void>(at);
    // SAFETY: By the caller; the address is checked.
    let left = unsafe {
        if write {
            bindings::copy_to_user(user, data, len)
        } else {
            bindings::copy_from_user(data, user, len)
        }
    };
    if let Some(mm) = other {
        // SAFETY: It was taken above.
        unsafe { bindings::kthread_unuse_mm(mm.as_raw()) };
    }
    Some(if left == 0 { Ok(()) } else { Err(EFAULT) })
}

/// Lets others run.
pub(super) fn cond_resched() {
    // SAFETY: The caller may sleep, as it holds mutexes only.
    unsafe { bindings::iommu_cond_resched() };
}
