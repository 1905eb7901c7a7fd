// SPDX-License-Identifier: GPL-2.0-only

//! The page core: IOVAs to pinned pages (`io_pagetable.c`, `pages.c`), behind one safe type.
//!
//! It has its own locks, `domains_rwsem` before `iova_rwsem` before those of the pages; each
//! method here takes what it needs.

use super::context::Ctx;
use core::{
    marker::PhantomPinned,
    mem::MaybeUninit,
    pin::Pin,
    ptr, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    error::to_result,
    prelude::*,
    sync::rwsem::{
        ReadGuard,
        RwSem, //
    },
    types::Opaque, //
};

/// What a device may do with a mapping.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Access {
    /// The core's flags. There is no ioctl for cache maintenance, so DMA must be coherent; binding
    /// a device has checked that it can be.
    fn prot(self) -> c_int {
        let mut prot = bindings::IOMMU_CACHE;
        if self.read {
            prot |= bindings::IOMMU_READ;
        }
        if self.write {
            prot |= bindings::IOMMU_WRITE;
        }
        prot as c_int
    }
}

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// To this IOVA, or fail.
    At(usize),
    /// Wherever there is room.
    Anywhere,
}

impl Place {
    fn split(self) -> (usize, c_uint) {
        match self {
            Self::At(iova) => (iova, 0),
            Self::Anywhere => (0, bindings::IOPT_ALLOC_IOVA),
        }
    }
}

/// The IOVAs of an IOAS, `struct io_pagetable`. Lengths are in bytes.
#[repr(transparent)]
pub(crate) struct Iopt(Opaque<bindings::io_pagetable>);

// SAFETY: The page core has its own locks.
unsafe impl Sync for Iopt {}

impl Iopt {
    /// # Safety
    ///
    /// `ptr` must be an initialised table that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::io_pagetable) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::io_pagetable {
        self.0.get()
    }

    /// Maps memory of the caller's process; returns where.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length of 0 or what is not aligned; `EADDRINUSE`, `ENOSPC` when there is no
    /// room; `EOVERFLOW`; `ENOMEM`, also by the limit on pinned memory; `EFAULT`.
    pub(crate) fn map_user(
        &self,
        ctx: &Ctx,
        place: Place,
        address: u64,
        length: usize,
        access: Access,
    ) -> Result<usize> {
        let (mut iova, flags) = place.split();
        // SAFETY: Context and table are valid; the address is checked by who pins it.
        to_result(unsafe {
            bindings::iopt_map_user_pages(
                ctx.as_raw(),
                self.as_raw(),
                &mut iova,
                ptr::without_provenance_mut(address as usize),
                length,
                access.prot(),
                flags,
            )
        })?;
        Ok(iova)
    }

    /// Maps a part of a memfd or a dma-buf; returns where.
    ///
    /// # Errors
    ///
    /// As [`Self::map_user`]; `EBADF`; `EINVAL` for a file whose pages cannot be pinned.
    pub(crate) fn map_file(
        &self,
        ctx: &Ctx,
        place: Place,
        fd: c_int,
        start: usize,
        length: usize,
        access: Access,
    ) -> Result<usize> {
        let (mut iova, flags) = place.split();
        // SAFETY: Context and table are valid.
        to_result(unsafe {
            bindings::iopt_map_file_pages(
                ctx.as_raw(),
                self.as_raw(),
                &mut iova,
                fd,
                start,
                length,
                access.prot(),
                flags,
            )
        })?;
        Ok(iova)
    }

    /// Collects the pages of a range that is mapped without a hole.
    ///
    /// # Errors
    ///
    /// `ENOENT` for a hole; `EINVAL`, `EOVERFLOW`, `ENOMEM`.
    pub(crate) fn get_pages(&self, iova: usize, length: usize, into: Pin<&mut PageList>) -> Result {
        // SAFETY: The table is valid, and so is the list, which is empty or of the same sort.
        to_result(unsafe { bindings::iopt_get_pages(self.as_raw(), iova, length, into.head.get()) })
    }

    /// Maps pages that another table has; returns where.
    ///
    /// # Errors
    ///
    /// As [`Self::map_user`].
    pub(crate) fn map_pages(
        &self,
        place: Place,
        pages: Pin<&mut PageList>,
        length: usize,
        access: Access,
    ) -> Result<usize> {
        let (mut iova, flags) = place.split();
        // SAFETY: The table is valid, and so is the list.
        to_result(unsafe {
            bindings::iopt_map_pages(
                self.as_raw(),
                pages.head.get(),
                length,
                &mut iova,
                access.prot(),
                flags,
            )
        })?;
        Ok(iova)
    }

    /// Unmaps a range; returns how much was unmapped, also where that failed on the way.
    ///
    /// # Errors
    ///
    /// `ENOENT` when a mapping is only partly inside, `EBUSY` when one is being made, `EDEADLOCK`
    /// when a driver does not let go of its pages; `EINVAL`, `EOVERFLOW`.
    pub(crate) fn unmap(&self, iova: usize, length: usize) -> (usize, Result) {
        let mut unmapped = 0;
        // SAFETY: The table is valid.
        let ret = unsafe { bindings::iopt_unmap_iova(self.as_raw(), iova, length, &mut unmapped) };
        (unmapped, to_result(ret))
    }

    /// Unmaps everything; returns how much that was, also where it failed on the way.
    ///
    /// # Errors
    ///
    /// As [`Self::unmap`].
    pub(crate) fn unmap_all(&self) -> (usize, Result) {
        let mut unmapped = 0;
        // SAFETY: The table is valid.
        let ret = unsafe { bindings::iopt_unmap_all(self.as_raw(), &mut unmapped) };
        (unmapped, to_result(ret))
    }

    /// Replaces the ranges that must stay usable.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` when one of them is reserved already; then the old ones stay.
    pub(crate) fn set_allowed(&self, ranges: &mut Allowed) -> Result {
        // SAFETY: Both are valid; the core swaps the old tree into ours, or leaves it alone.
        to_result(unsafe { bindings::iopt_set_allow_iova(self.as_raw(), &mut ranges.0) })
    }

    /// Whether mappings may use pages larger than the smallest.
    pub(crate) fn large_pages(&self) -> bool {
        // SAFETY: A byte that is read whole.
        unsafe { ptr::read_volatile(&raw const (*self.as_raw()).disable_large_pages) == 0 }
    }

    /// Lets mappings use large pages, or not.
    ///
    /// # Errors
    ///
    /// `EINVAL` when a domain has something mapped already; `EADDRINUSE` when something is mapped
    /// that is not aligned well enough then.
    pub(crate) fn set_large_pages(&self, allow: bool) -> Result {
        if allow {
            // SAFETY: The table is valid.
            unsafe { bindings::iopt_enable_large_pages(self.as_raw()) };
            return Ok(());
        }
        // SAFETY: The table is valid.
        to_result(unsafe { bindings::iopt_disable_large_pages(self.as_raw()) })
    }

    /// The lock of the IOVAs.
    pub(super) fn iova_rwsem(&self) -> &RwSem {
        // SAFETY: Initialised with the table.
        unsafe { RwSem::from_raw(&raw mut (*self.as_raw()).iova_rwsem) }
    }

    /// Looks at which IOVAs are usable while they cannot change.
    pub(crate) fn usable(&self) -> Usable<'_> {
        Usable {
            _guard: self.iova_rwsem().read(),
            iopt: self,
        }
    }
}

/// The IOVAs of a table while nobody reserves or frees any.
pub(crate) struct Usable<'a> {
    iopt: &'a Iopt,
    _guard: ReadGuard<'a>,
}

impl Usable<'_> {
    /// What IOVAs and lengths must be multiples of, in bytes.
    pub(crate) fn alignment(&self) -> usize {
        // SAFETY: Changed under the write side of the lock that is held here.
        unsafe { (*self.iopt.as_raw()).iova_alignment }
    }

    /// The first `most` of the ranges, as `f` makes them.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn collect<T>(
        &self,
        most: usize,
        f: impl Fn((usize, usize)) -> T,
    ) -> Result<KVVec<T>> {
        let count = self.ranges().take(most).count();
        // User space chose how many ranges there are.
        let mut all = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        for range in self.ranges().take(count) {
            all.push(f(range), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(all)
    }

    /// The ranges that are not reserved, first and last IOVA, in order.
    pub(crate) fn ranges(&self) -> Ranges<'_> {
        let mut span = MaybeUninit::uninit();
        // SAFETY: The tree changes under the write side of the lock that is held here.
        unsafe {
            bindings::interval_tree_span_iter_first(
                span.as_mut_ptr(),
                &raw mut (*self.iopt.as_raw()).reserved_itree,
                0,
                usize::MAX,
            );
        }
        Ranges {
            // SAFETY: Initialised just now.
            span: unsafe { span.assume_init() },
            _usable: self,
        }
    }
}

/// Iterates over the ranges of [`Usable::ranges`].
pub(crate) struct Ranges<'a> {
    span: bindings::interval_tree_span_iter,
    _usable: &'a Usable<'a>,
}

impl Iterator for Ranges<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = match self.span.is_hole {
                // SAFETY: In a hole these are the members in use.
                1 => Some(unsafe {
                    (
                        self.span.__bindgen_anon_1.start_hole,
                        self.span.__bindgen_anon_2.last_hole,
                    )
                }),
                0 => None,
                _ => return None,
            };
            // SAFETY: Started in `Usable::ranges`, not at its end, and the lock is still held.
            unsafe { bindings::interval_tree_span_iter_next(&mut self.span) };
            if found.is_some() {
                return found;
            }
        }
    }
}

/// Ranges that must stay usable, not overlapping.
pub(crate) struct Allowed(bindings::rb_root_cached);

impl Allowed {
    pub(crate) fn new() -> Self {
        // SAFETY: An empty tree is all zero.
        Self(unsafe { core::mem::zeroed() })
    }

    /// Adds the range from `start` to `last`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is empty or overlaps one that is there; `ENOMEM`.
    pub(crate) fn insert(&mut self, start: u64, last: u64) -> Result {
        let (start, last) = (start as usize, last as usize);
        if start >= last {
            return Err(EINVAL);
        }
        // SAFETY: The tree is ours.
        let other = unsafe { bindings::interval_tree_iter_first(&mut self.0, start, last) };
        if !other.is_null() {
            return Err(EINVAL);
        }
        let allowed = KBox::<bindings::iopt_allowed>::new(
            // SAFETY: Integers and pointers may all be zero.
            unsafe { core::mem::zeroed() },
            GFP_KERNEL_ACCOUNT,
        )?;
        let node = KBox::into_raw(allowed).cast::<bindings::interval_tree_node>();
        // SAFETY: A fresh node, which is the entry's first field.
        unsafe { (*node).start = start };
        // SAFETY: As above.
        unsafe { (*node).last = last };
        // SAFETY: As above; from here the tree owns it, and with the tree the page core, which
        // frees it with kfree().
        unsafe { bindings::interval_tree_insert(node, &mut self.0) };
        Ok(())
    }
}

impl Drop for Allowed {
    fn drop(&mut self) {
        loop {
            // SAFETY: The tree is ours.
            let node = unsafe { bindings::interval_tree_iter_first(&mut self.0, 0, usize::MAX) };
            if node.is_null() {
                return;
            }
            // SAFETY: It is in the tree.
            unsafe { bindings::interval_tree_remove(node, &mut self.0) };
            // SAFETY: All nodes came from a box as in `insert`, or from the kmalloc() of the page
            // core, which is the same.
            drop(unsafe { KBox::from_raw(node.cast::<bindings::iopt_allowed>()) });
        }
    }
}

/// Pages of a range, kept while they are mapped elsewhere.
#[pin_data(PinnedDrop)]
pub(crate) struct PageList {
    #[pin]
    head: Opaque<bindings::list_head>,
    #[pin]
    _pin: PhantomPinned,
}

impl PageList {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            head <- Opaque::ffi_init(|head: *mut bindings::list_head| {
                // SAFETY: `head` is valid memory; an empty list points to itself.
                unsafe { head.write(bindings::list_head { next: head, prev: head }) }
            }),
            _pin: PhantomPinned,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for PageList {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The list is empty, or holds what the page core has put there.
        unsafe { bindings::iopt_free_pages_list(self.head.get()) }
    }
}
