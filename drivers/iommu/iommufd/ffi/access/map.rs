// SPDX-License-Identifier: GPL-2.0-only

//! What an IOAS has mapped, for those who reach it with the CPU.
//!
//! A [`Map`] is an IOAS whose `iova_rwsem` is held for reading, so that its mappings stay; a
//! [`Span`] is the part of one mapping that is in a range. Pinning and copying take the locks of
//! the pages inside it, and may sleep.
//!
//! C header: `drivers/iommu/iommufd/io_pagetable.h`

use crate::ffi::ioas::Ioas;
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    sync::rwsem::ReadGuard, //
};

/// Whether the CPU will write, `IOMMUFD_ACCESS_RW_WRITE`.
pub(crate) const WRITE: u32 = bindings::IOMMUFD_ACCESS_RW_WRITE;

/// An IOAS whose map does not change.
pub(crate) struct Map<'a> {
    ioas: &'a Ioas,
    _guard: ReadGuard<'a>,
}

impl Ioas {
    /// Holds the map still.
    pub(crate) fn read(&self) -> Map<'_> {
        Map {
            ioas: self,
            _guard: self.iopt().iova_rwsem().read(),
        }
    }
}

impl Map<'_> {
    /// What is mapped from `first` to `last`, both included, as far as there is no hole.
    pub(crate) fn spans(&self, first: usize, last: usize) -> Spans<'_> {
        Spans {
            map: self,
            iter: bindings::iopt_area_contig_iter {
                cur_iova: first,
                last_iova: last,
                area: ptr::null_mut(),
            },
            is_begun: false,
        }
    }
}

/// Walks what is mapped in a range, one mapping after the other.
pub(crate) struct Spans<'m> {
    map: &'m Map<'m>,
    iter: bindings::iopt_area_contig_iter,
    is_begun: bool,
}

impl<'m> Spans<'m> {
    /// The next one; `None` at the end, or where a hole begins.
    pub(crate) fn next(&mut self) -> Option<Span<'m>> {
        let area = if self.is_begun {
            // SAFETY: The map is held still.
            unsafe { bindings::iopt_area_contig_next(&mut self.iter) }
        } else {
            self.is_begun = true;
            let (first, last) = (self.iter.cur_iova, self.iter.last_iova);
            let iopt = self.map.ioas.iopt().as_raw();
            // SAFETY: As above.
            unsafe { bindings::iopt_area_contig_init(&mut self.iter, iopt, first, last) }
        };
        Some(Span {
            area: NonNull::new(area)?,
            first: self.iter.cur_iova,
            wanted: self.iter.last_iova,
            _map: PhantomData,
        })
    }

    /// Where the walk is: all before this was walked.
    pub(crate) fn at(&self) -> usize {
        self.iter.cur_iova
    }

    /// Whether it came to the end without a hole.
    pub(crate) fn is_done(&self) -> bool {
        // SAFETY: The map is held still, and what it has mapped stays in place.
        let ends_at = |area: NonNull<bindings::iopt_area>| unsafe { (*area.as_ptr()).node.last };
        NonNull::new(self.iter.area).is_some_and(|area| self.iter.last_iova <= ends_at(area))
    }
}

/// The part of one mapping that is in a range.
///
/// # Invariants
///
/// `area` is in a map that is held still, and `first` is in it.
pub(crate) struct Span<'m> {
    area: NonNull<bindings::iopt_area>,
    first: usize,
    wanted: usize,
    _map: PhantomData<&'m Map<'m>>,
}

impl Span<'_> {
    /// The last IOVA of the mapping. Like all that is read of one here it does not change while the
    /// map is held still; other fields do.
    fn end(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.area.as_ptr()).node.last }
    }

    fn last(&self) -> usize {
        self.wanted.min(self.end())
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.last() - self.first + 1
    }

    /// How far into the memory behind the mapping an address is, in bytes.
    fn byte(&self, iova: usize) -> usize {
        let area = self.area.as_ptr();
        // SAFETY: By the type invariant.
        let start = unsafe { (*area).node.start };
        // SAFETY: As above.
        let page_offset = unsafe { (*area).page_offset } as usize;
        // SAFETY: As above.
        let first_page = unsafe { (*area).pages_node.start };
        iova - start + page_offset + first_page * PAGE_SIZE
    }

    fn indexes(&self) -> (usize, usize) {
        (
            self.byte(self.first) / PAGE_SIZE,
            self.byte(self.last()) / PAGE_SIZE,
        )
    }

    /// Whether the CPU may not touch it, now or ever.
    pub(crate) fn is_locked_away(&self) -> bool {
        // SAFETY: By the type invariant; the bit is changed under the write side of the lock.
        unsafe { bindings::iopt_area::prevent_access_raw(self.area.as_ptr()) }
    }

    /// Whether it is mapped for what `flags` ask for.
    pub(crate) fn allows(&self, flags: u32) -> bool {
        let wanted = if flags & WRITE != 0 {
            bindings::IOMMU_WRITE
        } else {
            bindings::IOMMU_READ
        };
        // SAFETY: By the type invariant.
        let prot = unsafe { (*self.area.as_ptr()).iommu_prot };
        prot as u32 & wanted != 0
    }

    /// Whether it begins and, unless it is the last, ends with a whole page.
    pub(crate) fn is_page_aligned(&self) -> bool {
        let end = self.end();
        self.byte(self.first) % PAGE_SIZE == 0
            && (self.wanted <= end || self.byte(end) % PAGE_SIZE == PAGE_SIZE - 1)
    }

    /// Pins its pages and hands them out.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EFAULT`: there is no memory behind it; `EINVAL`: that cannot be pinned.
    pub(crate) fn pin(&self, out: &mut PageSlots, flags: u32, lock: bool) -> Result {
        let (first, last) = self.indexes();
        // SAFETY: By the type invariant; whoever made `out` has room for all pages of the range.
        to_result(unsafe {
            bindings::iopt_area_add_access(self.area.as_ptr(), first, last, out.0, flags, lock)
        })?;
        out.0 = out.0.wrapping_add(last - first + 1);
        Ok(())
    }

    /// Undoes [`Self::pin`] of the same span.
    pub(crate) fn unpin(&self, unlock: bool) {
        let (first, last) = self.indexes();
        // SAFETY: By the type invariant.
        unsafe { bindings::iopt_area_remove_access(self.area.as_ptr(), first, last, unlock) };
    }

    /// Copies between `buffer` and the memory.
    ///
    /// # Errors
    ///
    /// `EFAULT`: there is no memory behind it; `ENOMEM`; `EPERM`: it must not be written.
    pub(crate) fn copy(&self, buffer: &mut Buffer, flags: u32) -> Result {
        let (start, len) = (self.byte(self.first), self.len());
        // SAFETY: By the type invariant.
        let pages = unsafe { (*self.area.as_ptr()).pages };
        // SAFETY: By the type invariant; whoever made `buffer` has room for the range.
        to_result(unsafe { bindings::iopt_pages_rw_access(pages, start, buffer.0, len, flags) })?;
        buffer.0 = buffer.0.wrapping_byte_add(len);
        Ok(())
    }
}

/// Where a driver wants the pages that it pins; has room for all of them.
pub(crate) struct PageSlots(pub(in crate::ffi) *mut *mut bindings::page);

/// Where a driver wants data from or to; has room for all of it.
pub(crate) struct Buffer(pub(super) *mut c_void);
