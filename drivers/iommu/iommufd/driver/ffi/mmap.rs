// SPDX-License-Identifier: GPL-2.0-only

//! A context's regions of MMIO: a maple tree, by their offset for mmap().

use super::object::Object;
use core::ptr;
use kernel::{
    bindings,
    io::PhysAddr,
    maple_tree::MapleTreeAlloc,
    page::PAGE_SHIFT,
    prelude::*, //
};

/// One region. The tree's entries are `struct iommufd_mmap`.
#[repr(transparent)]
pub(crate) struct Region(bindings::iommufd_mmap);

impl Region {
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(owner: &Object, addr: PhysAddr, length: usize) -> Result<KBox<Self>> {
        Ok(KBox::new(
            Self(bindings::iommufd_mmap {
                owner: owner.as_raw(),
                // Set when it has one; no region has 0.
                vm_pgoff: 0,
                mmio_addr: addr,
                length,
            }),
            GFP_KERNEL,
        )?)
    }

    /// Whether this object keeps it.
    pub(crate) fn is_of(&self, owner: &Object) -> bool {
        ptr::eq(self.0.owner, owner.as_raw())
    }
}

/// All regions of a context. The tree's spinlock guards what is in it.
pub(crate) struct Regions<'a>(&'a MapleTreeAlloc<KBox<Region>>);

impl<'a> Regions<'a> {
    /// # Safety
    ///
    /// `ctx` must be a context that stays open for `'a`.
    pub(super) unsafe fn of(ctx: *mut bindings::iommufd_ctx) -> Self {
        // SAFETY: Only the address is taken.
        let tree = unsafe { &raw mut (*ctx).mt_mmap };
        // SAFETY: The context's tree was initialised for allocation, and both types are transparent
        // around it. Its entries come from kmalloc(), are made here only and go through
        // [`Self::remove`]; other code reads them under the tree's lock.
        Self(unsafe { &*tree.cast() })
    }

    /// Puts a region where there is room, at an offset of `min` or above, and returns its offset.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY`: there is no room left.
    pub(crate) fn insert(&self, region: KBox<Region>, min: usize) -> Result<usize> {
        let offset = self
            .0
            .alloc_range(region.0.length, region, min.., GFP_KERNEL)?;
        if let Some(region) = self.0.lock().load(offset) {
            region.0.vm_pgoff = offset >> PAGE_SHIFT;
        }
        Ok(offset)
    }

    /// Takes out the region around an offset.
    pub(crate) fn remove(&self, offset: usize) -> Option<KBox<Region>> {
        self.0.erase(offset)
    }
}
