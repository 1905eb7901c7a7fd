// SPDX-License-Identifier: GPL-2.0-only

//! What an IOAS has mapped, for those who reach it with the CPU.
//!
//! A [`Map`] is an IOAS whose IOVAs are held for reading, so that its mappings stay; a [`Span`] is
//! the part of one mapping that is in a range. Pinning and copying take the locks of the pages
//! inside it, and may sleep.

use crate::{
    access::{
        self,
        Access, //
    },
    area::Extent,
    ffi::{
        pages::Pages,
        pin::{
            copy_remote,
            copy_user,
            is_current,
            Source, //
        }, //
    },
    io_pagetable::{
        Area,
        Iovas, //
    },
    ioas::Ioas, //
};
use core::ptr;
use kernel::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    page::PAGE_SIZE,
    prelude::*,
    sync::rwsem::ReadGuard, //
};

/// Whether the CPU will write, `IOMMUFD_ACCESS_RW_WRITE`.
pub(crate) const WRITE: u32 = bindings::IOMMUFD_ACCESS_RW_WRITE;

/// An IOAS whose map does not change.
pub(crate) struct Map<'a>(ReadGuard<'a, Iovas>);

impl Ioas {
    /// Holds the map still.
    pub(crate) fn read(&self) -> Map<'_> {
        Map(self.iopt().read())
    }
}

impl Map<'_> {
    /// What is mapped from `first` to `last`, both included, as far as there is no hole.
    pub(crate) fn spans(&self, first: usize, last: usize) -> Spans<'_> {
        Spans {
            map: self,
            at: first,
            last,
            is_done: false,
        }
    }
}

/// Walks what is mapped in a range, one mapping after the other.
pub(crate) struct Spans<'m> {
    map: &'m Map<'m>,
    /// All before this was walked.
    at: usize,
    last: usize,
    is_done: bool,
}

impl<'m> Spans<'m> {
    /// The next one; `None` at the end, or where a hole begins.
    pub(crate) fn next(&mut self) -> Option<Span<'m>> {
        if self.is_done {
            return None;
        }
        let (extent, area) = self.map.0.at(self.at)?;
        let span = Span {
            extent,
            area,
            pages: area.pages()?,
            first: self.at,
            wanted: self.last,
        };
        Some(span)
    }

    /// The last one that was given was dealt with.
    pub(crate) fn pass(&mut self, span: &Span<'_>) {
        match span.last().checked_add(1) {
            Some(next) if span.last() < self.last => self.at = next,
            _ => self.is_done = true,
        }
    }

    /// Where the walk is: all before this was walked.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Whether it came to the end without a hole.
    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }
}

/// The part of one mapping that is in a range, of which `first` is an IOVA.
pub(crate) struct Span<'m> {
    extent: Extent,
    area: &'m Area,
    pages: &'m Pages,
    first: usize,
    wanted: usize,
}

impl Span<'_> {
    fn last(&self) -> usize {
        self.wanted.min(self.extent.last())
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.last() - self.first + 1
    }

    fn indexes(&self) -> (usize, usize) {
        let extent = &self.extent;
        (
            extent.byte(self.first) / PAGE_SIZE,
            extent.byte(self.last()) / PAGE_SIZE,
        )
    }

    /// Whether the CPU may not touch it, now or ever.
    pub(crate) fn is_locked_away(&self) -> bool {
        self.area.prevents_access()
    }

    /// Whether it is mapped for what `flags` ask for.
    pub(crate) fn allows(&self, flags: u32) -> bool {
        if flags & WRITE != 0 {
            self.area.prot().writes()
        } else {
            self.area.prot().reads()
        }
    }

    /// Whether it begins and, unless it is the last, ends with a whole page.
    pub(crate) fn is_page_aligned(&self) -> bool {
        let extent = &self.extent;
        extent.byte(self.first) % PAGE_SIZE == 0
            && (self.wanted <= extent.last()
                || extent.byte(extent.last()) % PAGE_SIZE == PAGE_SIZE - 1)
    }

    /// Pins its pages and hands them out.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EFAULT`: there is no memory behind it; `EINVAL`: that cannot be pinned.
    pub(crate) fn pin(&self, out: &mut PageSlots, flags: u32, lock: bool) -> Result {
        let (first, last) = self.indexes();
        self.pages.pin(first, last, flags & WRITE != 0, out)?;
        self.area.pinned(lock);
        Ok(())
    }

    /// Undoes [`Self::pin`] of the same span.
    pub(crate) fn unpin(&self, unlock: bool) {
        let (first, last) = self.indexes();
        self.pages.unpin(first, last);
        self.area.unpinned(unlock);
    }

    /// Copies between `buffer` and the memory.
    ///
    /// # Errors
    ///
    /// `EFAULT`: there is no memory behind it; `ENOMEM`; `EPERM`: it must not be written; `EINVAL`:
    /// it is no memory.
    pub(crate) fn copy(&self, buffer: &mut Buffer, flags: u32) -> Result {
        let (start, len) = (self.extent.byte(self.first), self.len());
        let write = flags & WRITE != 0;
        if write && !self.pages.writable() {
            return Err(EPERM);
        }
        // SAFETY: Whoever made `buffer` has room for the range.
        let fast = unsafe { self.copy_fast(buffer, start, len, flags) };
        fast.unwrap_or_else(|| {
            // SAFETY: The caller's buffer has so many bytes left.
            unsafe { self.pages.copy(start, buffer.0.cast(), len, write) }
        })?;
        buffer.0 = buffer.0.wrapping_byte_add(len);
        Ok(())
    }

    /// By way of the process, whatever is pinned. `None` where that is not possible.
    ///
    /// # Safety
    ///
    /// The buffer has room for `len` bytes.
    unsafe fn copy_fast(
        &self,
        buffer: &Buffer,
        start: usize,
        len: usize,
        flags: u32,
    ) -> Option<Result> {
        let Source::User(mm, address) = self.pages.source() else {
            return None;
        };
        let (at, write) = (address + start, flags & WRITE != 0);
        let slow =
            cfg!(CONFIG_IOMMUFD_TEST) && flags & bindings::__IOMMUFD_ACCESS_RW_SLOW_PATH != 0;
        let kthread = flags & bindings::IOMMUFD_ACCESS_RW_KTHREAD != 0;
        if kthread || is_current(mm) && !slow {
            // SAFETY: By the caller, who is a kernel thread if the flags say so.
            return unsafe { copy_user(mm, at, buffer.0, len, write) };
        }
        if at / PAGE_SIZE != (at + len - 1) / PAGE_SIZE {
            return None;
        }
        // SAFETY: The caller's buffer has so many bytes left.
        unsafe { copy_remote(mm, at, buffer.0.cast(), len, write) }
    }
}

/// Where a driver wants the pages that it pins; has room for all of them.
pub(crate) struct PageSlots(pub(in crate::ffi) *mut *mut bindings::page);

impl PageSlots {
    /// Hands a page out.
    pub(in crate::ffi) fn put(&mut self, pfn: usize) {
        // SAFETY: The frame is one of memory that is pinned.
        let page = unsafe { bindings::iommu_pfn_to_page(pfn) };
        // SAFETY: By whoever made it there is room.
        unsafe { self.0.write(page) };
        self.0 = self.0.wrapping_add(1);
    }
}

/// Pages that were pinned. Who pinned them unpins them.
pub(crate) struct PinnedPages(KVVec<*mut bindings::page>);

impl PinnedPages {
    /// Pins `count` pages from a whole page's IOVA on.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; those of [`access::pin`].
    pub(crate) fn pin(access: &Access, iova: usize, count: usize) -> Result<Self> {
        let length = count.checked_mul(PAGE_SIZE).ok_or(EOVERFLOW)?;
        let mut pages = KVVec::with_capacity(count, GFP_KERNEL | __GFP_NOWARN)?;
        for _ in 0..count {
            pages.push(ptr::null_mut(), GFP_KERNEL)?;
        }
        // There is room: only whole pages are pinned.
        let mut slots = PageSlots(pages.as_mut_ptr());
        access::pin(access, iova, length, &mut slots, 0)?;
        Ok(Self(pages))
    }

    /// The numbers of their frames.
    pub(crate) fn frames(&self) -> impl Iterator<Item = usize> + '_ {
        // SAFETY: These are pages, and a page has a number as long as the machine has the memory.
        let number = |page: &*mut bindings::page| unsafe { bindings::page_to_pfn(*page) };
        self.0.iter().map(number)
    }
}

/// Where a driver wants data from or to; has room for all of it.
pub(crate) struct Buffer(pub(super) *mut c_void);
