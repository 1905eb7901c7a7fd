// SPDX-License-Identifier: GPL-2.0-only

//! What hwpts and attachments use of an IOAS: its domains, its reserved ranges, its dirty bits.
//!
//! The IOAS's mutex guards the list of its hwpts, which are both its domains and what automatic
//! attachment chooses from. [`Locked`] is the proof that it is held. It is taken before a group's
//! mutex and before the page core's locks.
//!
//! C header: `drivers/iommu/iommufd/iommufd_private.h`

use super::{
    domain::{
        Domain,
        PhysDev, //
    },
    hwpt::PagingHwpt,
    ioas::Ioas,
    typed::Head,
};
use kernel::{
    bindings,
    error::to_result,
    interop::list::CList,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    }, //
};

// SAFETY: It has locks of its own, and is not bound to a thread.
unsafe impl Send for Ioas {}
// SAFETY: The C structure begins with the head.
unsafe impl Head for Ioas {}

impl Ioas {
    /// Takes the mutex.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: It is initialised as long as the IOAS lives.
        let mutex = unsafe { Mutex::<()>::from_raw(&raw mut (*self.as_raw()).mutex) };
        Locked {
            ioas: self,
            _guard: mutex.lock(),
        }
    }

    /// Maps all of the IOAS into a domain, and from then on what is mapped later.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what mapping runs into.
    pub(super) fn add_domain(&self, domain: &Domain) -> Result {
        // SAFETY: Both are valid; the page core does its own locking.
        to_result(unsafe { bindings::iopt_table_add_domain(self.iopt().as_raw(), domain.as_raw()) })
    }

    /// Unmaps all of it again.
    pub(super) fn remove_domain(&self, domain: &Domain) {
        // SAFETY: The domain was added; the page core does its own locking.
        unsafe { bindings::iopt_table_remove_domain(self.iopt().as_raw(), domain.as_raw()) };
    }

    /// Begins or ends recording what is written to through a domain.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the domain cannot.
    pub(super) fn set_dirty_tracking(&self, domain: &Domain, enable: bool) -> Result {
        // SAFETY: Both are valid; the page core does its own locking.
        to_result(unsafe {
            bindings::iopt_set_dirty_tracking(self.iopt().as_raw(), domain.as_raw(), enable)
        })
    }

    /// Puts what was written to into user space's bitmap, and forgets it unless `flags` say no.
    ///
    /// # Errors
    ///
    /// `EINVAL`: not aligned, or not all of the range is mapped; `EOVERFLOW`: it wraps;
    /// `EOPNOTSUPP`: the domain cannot; `ENOMEM`; `EFAULT`: the bitmap cannot be written.
    pub(super) fn read_dirty(
        &self,
        domain: &Domain,
        flags: u32,
        request: &mut bindings::iommu_hwpt_get_dirty_bitmap,
    ) -> Result {
        // SAFETY: All are valid; the page core does its own locking.
        to_result(unsafe {
            bindings::iopt_read_and_clear_dirty_data(
                self.iopt().as_raw(),
                domain.as_raw(),
                flags as c_ulong,
                request,
            )
        })
    }

    /// Keeps user space from mapping where the hardware cannot translate for `dev`.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: something is mapped there; `ENOMEM`.
    pub(crate) fn reserve_for(&self, dev: &PhysDev) -> Result {
        // SAFETY: Nothing is to be written.
        unsafe { self.reserve_with_msi(dev, core::ptr::null_mut()) }
    }

    /// The same; where the window for software MSIs begins goes to `start`.
    ///
    /// # Errors
    ///
    /// As [`Self::reserve_for`].
    ///
    /// # Safety
    ///
    /// `start` must be null or writable.
    pub(super) unsafe fn reserve_with_msi(
        &self,
        dev: &PhysDev,
        start: *mut bindings::phys_addr_t,
    ) -> Result {
        // SAFETY: All are valid, `start` by the caller; the page core does its own locking.
        to_result(unsafe {
            bindings::iopt_table_enforce_dev_resv_regions(self.iopt().as_raw(), dev.as_raw(), start)
        })
    }

    /// Gives back what was reserved for `dev`, if anything was.
    pub(crate) fn unreserve_for(&self, dev: &PhysDev) {
        // SAFETY: The device is only used as a key; the page core does its own locking.
        unsafe { bindings::iopt_remove_reserved_iova(self.iopt().as_raw(), dev.as_raw().cast()) };
    }
}

/// An IOAS whose mutex is held.
pub(crate) struct Locked<'a> {
    ioas: &'a Ioas,
    _guard: Guard<'a, (), MutexBackend>,
}

impl Locked<'_> {
    /// The IOAS.
    pub(crate) fn ioas(&self) -> &Ioas {
        self.ioas
    }

    fn list(&self) -> *mut bindings::list_head {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.ioas.as_raw()).hwpt_list }
    }

    /// The hwpts on this IOAS, in the order in which they were made. Some may be on their way out:
    /// they cannot be freed while the mutex is held, but their counts may be zero.
    pub(crate) fn hwpts(&self) -> impl Iterator<Item = &PagingHwpt> {
        // SAFETY: The list is initialised and guarded by the mutex; all on it are paging hwpts,
        // linked by this field, which leave it before they are freed.
        let list = unsafe { CList::<PagingHwpt, { PagingHwpt::ITEM }>::from_raw(self.list()) };
        list.iter()
    }

    /// Puts a hwpt on the list, which it is not on yet.
    pub(super) fn link(&self, hwpt: &PagingHwpt) {
        // SAFETY: The mutex guards the list and the links of all on it; the hwpt is on none.
        unsafe { bindings::list_add_tail(hwpt.item(), self.list()) };
    }

    /// Takes a hwpt off the list that it is on.
    pub(super) fn unlink(&self, hwpt: &PagingHwpt) {
        // SAFETY: The mutex guards the list, which the hwpt is on.
        unsafe { bindings::iommu_list_del(hwpt.item()) };
        // SAFETY: It is on no list; so [`PagingHwpt`] sees that it is on none.
        unsafe { bindings::INIT_LIST_HEAD(hwpt.item()) };
    }
}
