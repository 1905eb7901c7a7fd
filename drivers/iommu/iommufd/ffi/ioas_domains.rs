// SPDX-License-Identifier: GPL-2.0-only

//! What hwpts and attachments use of an IOAS: its domains, its reserved ranges, its dirty bits.
//!
//! The IOAS's mutex guards the list of its hwpts, which are both its domains and what automatic
//! attachment chooses from. [`Locked`] is the proof that it is held. It is taken before a group's
//! mutex and before the page core's locks.

use super::domain::{
    Domain,
    PhysDev, //
};
use crate::{
    ffi::{
        dirty::UserBitmap,
        pgtable::PageTable,
        should_fail, //
    },
    hwpt::PagingHwpt,
    io_pagetable::Owner,
    ioas::Ioas, //
};
use core::mem::offset_of;
use kernel::{
    bindings,
    interop::list::{
        CList,
        CListHead, //
    },
    prelude::*,
    sync::MutexGuard,
    types::Opaque, //
};
use pin_init::stack_pin_init;

impl Ioas {
    /// Takes the mutex.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            ioas: self,
            list: self.hwpts().lock(),
        }
    }

    /// Maps all of the IOAS into a domain, and from then on what is mapped later.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what mapping runs into.
    pub(crate) fn add_domain(&self, domain: &Domain) -> Result {
        self.iopt().add_domain(table(domain))
    }

    /// Unmaps all of it again.
    pub(crate) fn remove_domain(&self, domain: &Domain) {
        self.iopt().remove_domain(table(domain));
    }

    /// Begins or ends recording what is written to through a domain.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the domain cannot.
    pub(crate) fn set_dirty_tracking(&self, domain: &Domain, enable: bool) -> Result {
        self.iopt().set_dirty_tracking(table(domain), enable)
    }

    /// Puts what was written to into user space's bitmap, and forgets it unless `flags` say no.
    ///
    /// # Errors
    ///
    /// `EINVAL`: not aligned, or not all of the range is mapped; `EOVERFLOW`: it wraps;
    /// `EOPNOTSUPP`: the domain cannot; `ENOMEM`; `EFAULT`: the bitmap cannot be written.
    pub(crate) fn read_dirty(
        &self,
        domain: &Domain,
        flags: u32,
        request: &mut bindings::iommu_hwpt_get_dirty_bitmap,
    ) -> Result {
        // CAST: All have 64 bits.
        let bitmap = UserBitmap {
            iova: request.iova as usize,
            length: request.length as usize,
            page_size: request.page_size as usize,
            data: request.data as usize,
        };
        self.iopt().read_dirty(table(domain), flags, bitmap)
    }

    /// Keeps user space from mapping where the hardware cannot translate for `dev`.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: something is mapped there; `ENOMEM`.
    pub(crate) fn reserve_for(&self, dev: &PhysDev) -> Result {
        self.reserve_regions(dev, false).map(drop)
    }

    /// The same; returns where the window for software MSIs begins, if there is one.
    ///
    /// # Errors
    ///
    /// As [`Self::reserve_for`]; `EINVAL`: the device has both software and hardware MSIs.
    pub(super) fn reserve_with_msi(&self, dev: &PhysDev) -> Result<Option<u64>> {
        self.reserve_regions(dev, true)
    }

    fn reserve_regions(&self, dev: &PhysDev, msi: bool) -> Result<Option<u64>> {
        if should_fail() {
            return Err(EINVAL);
        }
        let (mut hw, mut sw, mut start) = (0, 0, None);
        let mut iovas = self.iopt().write();
        let mut take = |region: &bindings::iommu_resv_region| {
            match region.type_ {
                bindings::iommu_resv_type_IOMMU_RESV_DIRECT_RELAXABLE => return Ok(()),
                bindings::iommu_resv_type_IOMMU_RESV_MSI if msi => hw += 1,
                bindings::iommu_resv_type_IOMMU_RESV_SW_MSI if msi => {
                    start = Some(region.start);
                    sw += 1;
                }
                _ => (),
            }
            // CAST: Both have 64 bits.
            let first = region.start as usize;
            let last = (region.length.wrapping_sub(1)).wrapping_add(first);
            iovas.reserve(first, last, owner(dev))
        };
        let mut result = each_region(dev, &mut take);
        // Drivers must offer sane combinations.
        if result.is_ok() && kernel::warn_on!(sw != 0 && hw != 0 || sw > 1) {
            result = Err(EINVAL);
        }
        result.inspect_err(|_| iovas.unreserve(owner(dev)))?;
        Ok(start)
    }

    /// Gives back what was reserved for `dev`, if anything was.
    pub(crate) fn unreserve_for(&self, dev: &PhysDev) {
        self.iopt().write().unreserve(owner(dev));
    }
}

/// The page table of a hwpt's domain.
fn table(domain: &Domain) -> PageTable {
    // SAFETY: A hwpt takes its domain off the IOAS before either goes.
    unsafe { PageTable::new(domain) }
}

/// Whose the regions of a device are.
fn owner(dev: &PhysDev) -> Owner {
    Owner(dev.as_raw().addr())
}

/// Calls `f` for each region of a device, until it fails.
fn each_region(dev: &PhysDev, f: &mut dyn FnMut(&bindings::iommu_resv_region) -> Result) -> Result {
    const LINK: usize = offset_of!(bindings::iommu_resv_region, list);
    stack_pin_init!(let head = CListHead::new());
    // SAFETY: Both are valid. Drivers allocate what they add, and link it by this field.
    unsafe { bindings::iommu_get_resv_regions(dev.as_raw(), head.as_raw()) };
    // SAFETY: As above; nobody else has the list.
    let list =
        unsafe { CList::<Opaque<bindings::iommu_resv_region>, LINK>::from_raw(head.as_raw()) };
    // SAFETY: Nobody changes the regions.
    let result = list
        .iter()
        .try_for_each(|region| f(unsafe { &*region.get() }));
    // SAFETY: As above; this frees them.
    unsafe { bindings::iommu_put_resv_regions(dev.as_raw(), head.as_raw()) };
    result
}

/// An IOAS whose mutex is held.
pub(crate) struct Locked<'a> {
    ioas: &'a Ioas,
    list: MutexGuard<'a, CListHead>,
}

impl Locked<'_> {
    /// The IOAS.
    pub(crate) fn ioas(&self) -> &Ioas {
        self.ioas
    }

    /// The hwpts on this IOAS, in the order in which they were made. Some may be on their way out:
    /// they cannot be freed while the mutex is held, but their counts may be zero.
    pub(crate) fn hwpts(&self) -> impl Iterator<Item = &PagingHwpt> {
        // SAFETY: The list is initialised and guarded by the mutex; all on it are paging hwpts,
        // linked by this field, which leave it before they are freed.
        let list =
            unsafe { CList::<PagingHwpt, { PagingHwpt::ITEM }>::from_raw(self.list.as_raw()) };
        list.iter()
    }

    /// Puts a hwpt on the list, which it is not on yet.
    pub(crate) fn link(&self, hwpt: &PagingHwpt) {
        if kernel::warn_on!(hwpt.item().is_linked()) {
            return;
        }
        // SAFETY: The mutex guards the list and the links of all on it; the hwpt is on none.
        unsafe { bindings::list_add_tail(hwpt.item().as_raw(), self.list.as_raw()) };
    }

    /// Takes a hwpt off the list that it is on.
    pub(crate) fn unlink(&self, hwpt: &PagingHwpt) {
        // SAFETY: The mutex guards the list, which the hwpt is on.
        unsafe { bindings::iommu_list_del(hwpt.item().as_raw()) };
        // SAFETY: It is on no list; so [`PagingHwpt`] sees that it is on none.
        unsafe { bindings::INIT_LIST_HEAD(hwpt.item().as_raw()) };
    }
}
