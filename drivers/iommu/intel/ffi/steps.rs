// SPDX-License-Identifier: GPL-2.0-only

//! What an attachment to a domain owns: a domain-id of the unit, and a place in the domain's lists.
//! Dropping it gives that back, which sleeps. What is listed was kept, and is taken back from
//! there.

use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    bindings,
    error::to_result,
    iommu::ops::Pasid,
    prelude::*,
    warn_on, //
};

use super::{
    device::Device,
    domain::{
        Domain,
        Guard,
        Iopf,
        OnUnit, //
    },
    unit::Unit, //
};
use crate::entries::DEFAULT_DID;

/// The domain-id of a domain on a unit, and one user of that.
///
/// # Invariants
///
/// It is counted in the domain's `iommu_array`, but for the domain of a process, which has none.
#[must_use]
pub(crate) struct Use<'a> {
    on: OnUnit<'a>,
    unit: Unit<'a>,
}

impl<'a> Use<'a> {
    /// Gets a domain an id on a unit, or one more user of that. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC` when ids are used up.
    pub(crate) fn new(domain: Domain<'a>, unit: Unit<'a>) -> Result<Self> {
        let did = if domain.is_sva() {
            DEFAULT_DID
        } else {
            Self::count(domain, unit)?
        };
        // INVARIANT: It was counted if it is to be.
        // SAFETY: It has this id there, until this is dropped.
        let on = unsafe { OnUnit::with(domain, did) };
        Ok(Self { on, unit })
    }

    fn count(domain: Domain<'a>, unit: Unit<'a>) -> Result<u16> {
        let new = bindings::iommu_domain_info {
            iommu: unit.as_raw(),
            refcnt: 1,
            did: 0,
        };
        let mut new = KBox::new(new, GFP_KERNEL)?;
        let ids = unit.lock_ids();
        if let Some(there) = ids.find(&domain) {
            // SAFETY: It is in the array, and changes under the mutex that is held.
            let there = unsafe { &mut *there.as_ptr() };
            there.refcnt += 1;
            return Ok(there.did);
        }
        let did = ids.alloc(false)?;
        new.did = did;
        ids.insert(&domain, new)?;
        Ok(did)
    }

    /// Notes that a PASID of a device uses it, where changes of the domain's flags look.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn list_pasid(self, dev: &Device<'a>, pasid: Pasid) -> Result<ListedPasid<'a>> {
        let info = bindings::dev_pasid_info {
            dev: dev.as_raw(),
            pasid,
            ..Default::default()
        };
        let info = NonNull::from(KBox::leak(KBox::new(info, GFP_KERNEL)?));
        let _guard = self.on.lock();
        // SAFETY: The lock of the list is held, and the memory is ours.
        unsafe { bindings::vtd_list_pasid(self.on.as_raw(), info.as_ptr()) };
        // INVARIANT: It is in the list now.
        Ok(ListedPasid { info, on: self })
    }
}

impl<'a> Deref for Use<'a> {
    type Target = OnUnit<'a>;

    fn deref(&self) -> &OnUnit<'a> {
        &self.on
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        if self.on.is_sva() {
            return;
        }
        let ids = self.unit.lock_ids();
        let Some(info) = ids.find(&self.on) else {
            return;
        };
        // SAFETY: It is in the array, and changes under the mutex that is held.
        let users = unsafe { &mut (*info.as_ptr()).refcnt };
        *users -= 1;
        if *users == 0 {
            ids.remove(&self.on);
        }
    }
}

/// The mutex of a unit's domain-ids is held.
pub(super) struct Ids<'a>(Unit<'a>);

impl<'a> Unit<'a> {
    /// Takes the mutex of its domain-ids.
    pub(super) fn lock_ids(&self) -> Ids<'a> {
        // SAFETY: The unit is there by the invariant, its mutex is initialised with it.
        unsafe { bindings::vtd_ids_lock(self.as_raw()) };
        Ids(*self)
    }

    fn index(&self) -> usize {
        // SAFETY: The unit is there by the invariant; its number does not change, and is small.
        unsafe { (*self.as_raw()).seq_id as usize }
    }
}

impl Ids<'_> {
    /// What a domain knows of the unit, if it has an id there.
    fn find(&self, domain: &Domain<'_>) -> Option<NonNull<bindings::iommu_domain_info>> {
        // SAFETY: The domain is there, and has such an array.
        let array = unsafe { &raw mut (*domain.as_raw()).iommu_array };
        // SAFETY: `array` points into the domain. What is in it for this unit changes under the
        // mutex only, which is held.
        NonNull::new(unsafe { bindings::xa_load(array, self.0.index()) }.cast())
    }

    /// A domain-id that is not in use. Guests get none of the upper half: theirs need no device
    /// that is attached, and without a limit a user could leave none to the kernel's own domains.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: all are in use; `ENOMEM`.
    pub(super) fn alloc(&self, of_guest: bool) -> Result<u16> {
        // SAFETY: The unit is there by the invariant, and the mutex is held.
        let did = unsafe { bindings::vtd_did_alloc(self.0.as_raw(), of_guest) };
        to_result(did.min(0))?;
        u16::try_from(did).map_err(|_| ENOSPC)
    }

    /// Gives back one that was allocated and that nobody uses any more.
    pub(super) fn free(&self, did: u16) {
        // SAFETY: The unit is there by the invariant, and the mutex is held.
        unsafe { bindings::vtd_did_free(self.0.as_raw(), did) };
    }

    /// Has a domain know what it uses of the unit, which is an id that was just allocated.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, upon which the id is free.
    fn insert(&self, domain: &Domain<'_>, info: KBox<bindings::iommu_domain_info>) -> Result {
        let did = info.did;
        let info = KBox::into_raw(info);
        // SAFETY: The domain is there; nothing is in its array for the unit, see `find()`.
        to_result(unsafe { bindings::vtd_domain_info_add(domain.as_raw(), info) }).inspect_err(
            |_| {
                // SAFETY: It is nobody else's.
                drop(unsafe { KBox::from_raw(info) });
                self.free(did);
            },
        )
    }

    /// Takes away what a domain knows of the unit, with its id.
    fn remove(&self, domain: &Domain<'_>) {
        // SAFETY: The domain is there, and has such an array.
        let array = unsafe { &raw mut (*domain.as_raw()).iommu_array };
        // SAFETY: `array` points into the domain.
        let info: *mut bindings::iommu_domain_info =
            unsafe { bindings::xa_erase(array, self.0.index()) }.cast();
        // SAFETY: `Ids::insert()` got it from a box, and nobody else has it any more.
        let info = unsafe { KBox::from_raw(info) };
        self.free(info.did);
    }
}

impl Drop for Ids<'_> {
    fn drop(&mut self) {
        // SAFETY: `Unit::lock_ids()` took the mutex.
        unsafe { bindings::vtd_ids_unlock(self.0.as_raw()) };
    }
}

/// A PASID of a device that a domain lists.
///
/// # Invariants
///
/// `info` came from a box and is in the domain's list, or was just taken from there.
#[must_use]
pub(crate) struct ListedPasid<'a> {
    info: NonNull<bindings::dev_pasid_info>,
    on: Use<'a>,
}

impl<'a> ListedPasid<'a> {
    /// Takes back what was kept, if there is such a one.
    pub(crate) fn find(domain: Domain<'a>, dev: &Device<'a>, pasid: Pasid) -> Option<Self> {
        let _guard = domain.lock();
        let mut info = ptr::null_mut();
        loop {
            // SAFETY: The lock of the list is held, and `info` is null or in it.
            info = unsafe { bindings::vtd_next_pasid(domain.as_raw(), info) };
            let there = NonNull::new(info)?;
            // SAFETY: It is in the list.
            let (of, id) = unsafe { ((*info).dev, (*info).pasid) };
            if of == dev.as_raw() && id == pasid {
                let unit = dev.unit();
                // INVARIANT: It is in the list, and what is there came from `Use::list_pasid()`.
                return Some(Self {
                    info: there,
                    // INVARIANT: It was counted when the PASID was listed.
                    on: Use {
                        // SAFETY: As it was counted, there is an id.
                        on: unsafe { OnUnit::new(domain, &unit) },
                        unit,
                    },
                });
            }
        }
    }

    /// The domain.
    pub(crate) fn on(&self) -> OnUnit<'a> {
        self.on.on
    }

    /// The attachment is made: it stays in the list.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }

    /// Shows it in debugfs.
    pub(crate) fn show(&self) {
        // SAFETY: It is complete and in the list.
        unsafe { bindings::vtd_debugfs_add_pasid(self.info.as_ptr()) };
    }
}

impl Drop for ListedPasid<'_> {
    fn drop(&mut self) {
        let guard = self.on.lock();
        // SAFETY: It is in the list, whose lock is held.
        unsafe { bindings::vtd_unlist_pasid(self.info.as_ptr()) };
        drop(guard);
        // SAFETY: It is nobody else's any more.
        unsafe { bindings::vtd_debugfs_remove_pasid(self.info.as_ptr()) };
        // SAFETY: By the invariant it came from a box.
        drop(unsafe { KBox::from_raw(self.info.as_ptr()) });
    }
}

/// What a device is attached to with its DMA that has no PASID.
pub(crate) enum Attached<'a> {
    /// Addresses are physical ones.
    Identity,
    /// A domain.
    To(Attachment<'a>),
}

/// The attachment of such DMA to a domain.
pub(crate) struct Attachment<'a> {
    iopf: Iopf<'a>,
    on: Use<'a>,
}

impl<'a> Attachment<'a> {
    /// Gets what it takes, but for an entry and cache tags. Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`Use::new`] and [`Iopf::set`].
    pub(crate) fn new(domain: Domain<'a>, dev: &Device<'a>) -> Result<Self> {
        let on = Use::new(domain, dev.unit()).inspect_err(|_| {
            dev.complain(c"failed to attach domain to iommu");
        })?;
        let iopf = Iopf::set(domain, *dev)?;
        Ok(Self { iopf, on })
    }

    /// The domain.
    pub(crate) fn on(&self) -> OnUnit<'a> {
        self.on.on
    }
}

impl<'a> Device<'a> {
    /// Notes what it is attached to, where changes of the domain's flags look. `guard` is that of
    /// the domain. It is attached to nothing; the mutex of its group is held.
    pub(crate) fn give(&self, attachment: Attachment<'a>, _guard: &Guard<'_>) {
        if warn_on!(self.attached()) {
            return core::mem::forget(attachment);
        }
        let Attachment { iopf, on } = attachment;
        iopf.keep();
        let on = ManuallyDrop::new(on);
        self.note(true, on.as_raw());
        // SAFETY: The lock of the list is held, and the device is in no other, see `take()`.
        unsafe { bindings::vtd_list_device(on.as_raw(), self.info()) };
    }

    /// Notes that its addresses are physical ones. The mutex of its group is held.
    pub(crate) fn give_identity(&self) {
        self.note(true, ptr::null_mut());
    }

    fn note(&self, attached: bool, domain: *mut bindings::dmar_domain) {
        // SAFETY: `info` is there by the invariant, and the mutex of the group is held.
        unsafe { (*self.info()).set_domain_attached(u8::from(attached)) };
        // SAFETY: `info` is there still, and the mutex of the group is held.
        unsafe { (*self.info()).domain = domain };
    }

    /// The domain that it is attached to, if any. The mutex of its group is held.
    pub(crate) fn on(&self) -> Option<OnUnit<'a>> {
        // SAFETY: `info` is there by the invariant.
        let domain = NonNull::new(unsafe { (*self.info()).domain })?;
        // SAFETY: The domain stays as long as the device is attached.
        let domain = unsafe { Domain::from_raw(domain.as_ptr()) };
        // SAFETY: It was counted when the device was attached, so there is an id.
        Some(unsafe { OnUnit::new(domain, &self.unit()) })
    }

    /// Whether it is attached to anything. The mutex of its group is held.
    pub(crate) fn attached(&self) -> bool {
        // SAFETY: `info` is there by the invariant.
        unsafe { (*self.info()).domain_attached() != 0 }
    }

    /// Takes it off what it is attached to, when no entry says so any more. The mutex of its group
    /// is held.
    pub(crate) fn take(&self) -> Option<Attached<'a>> {
        if !self.attached() {
            return None;
        }
        let on = self.on();
        self.note(false, ptr::null_mut());
        let Some(on) = on else {
            return Some(Attached::Identity);
        };
        let guard = on.lock();
        // SAFETY: It is in that list, whose lock is held.
        unsafe { bindings::vtd_unlist_device(self.info()) };
        drop(guard);
        Some(Attached::To(Attachment {
            iopf: Iopf::kept(*on, *self),
            // INVARIANT: It was counted when the device was attached.
            on: Use {
                on,
                unit: self.unit(),
            },
        }))
    }
}
