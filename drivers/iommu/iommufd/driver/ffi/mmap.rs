// SPDX-License-Identifier: GPL-2.0-only

//! A context's regions of MMIO: a maple tree, by their offset for mmap().

use super::{
    object::Object,
    shared::{
        CtxHead,
        Region, //
    }, //
};
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    io::PhysAddr,
    page::PAGE_SHIFT,
    prelude::*, //
};

impl Region {
    /// One that has no offset yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(owner: &Object, addr: PhysAddr, length: usize) -> Result<KBox<Self>> {
        let region = Self {
            owner: NonNull::new(owner.as_raw()).ok_or(EINVAL)?,
            vm_pgoff: 0,
            addr,
            length,
        };
        Ok(KBox::new(region, GFP_KERNEL)?)
    }

    /// Whether this object keeps it.
    pub(crate) fn is_of(&self, owner: &Object) -> bool {
        ptr::eq(self.owner.as_ptr(), owner.as_raw())
    }
}

impl CtxHead {
    /// # Safety
    ///
    /// `ctx` must be a context that stays open for `'a`.
    pub(super) unsafe fn of<'a>(ctx: *mut bindings::iommufd_ctx) -> &'a Self {
        // SAFETY: By the caller; contexts begin with it.
        unsafe { &*ctx.cast() }
    }

    /// Puts a region where there is room, at an offset of `min` or above, and returns its offset.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY`: there is no room left.
    pub(crate) fn insert(&self, region: KBox<Region>, min: usize) -> Result<usize> {
        let offset = self
            .regions
            .alloc_range(region.length, region, min.., GFP_KERNEL)?;
        if let Some(region) = self.regions.lock().load(offset) {
            region.vm_pgoff = offset >> PAGE_SHIFT;
        }
        Ok(offset)
    }

    /// Takes out the region around an offset.
    pub(crate) fn remove(&self, offset: usize) -> Option<KBox<Region>> {
        self.regions.erase(offset)
    }
}
