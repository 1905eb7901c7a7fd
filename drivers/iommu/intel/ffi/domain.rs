// SPDX-License-Identifier: GPL-2.0-only

//! A domain of this driver (`struct dmar_domain`).

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    iommu::{
        domain::{
            AnyDomain,
            Domain as OfCore, //
        },
        ops::DomainOps, //
    },
    num::Bounded,
    prelude::*, //
};

use super::{
    device::Device,
    unit::Unit,
    user::NestedHead, //
};
use crate::pasid_entry::SecondStage;

/// A domain that stays for `'a`.
///
/// # Invariants
///
/// Points to an initialised `struct dmar_domain`.
#[derive(Clone, Copy)]
pub(crate) struct Domain<'a>(NonNull<bindings::dmar_domain>, PhantomData<&'a ()>);

/// Any domain of this driver, the static ones included, that a PASID is attached to.
///
/// # Invariants
///
/// Points to an initialised `struct iommu_domain` of this driver, or to a static one.
#[derive(Clone, Copy)]
pub(crate) struct Replaced<'a>(NonNull<bindings::iommu_domain>, PhantomData<&'a ()>);

impl<'a> Replaced<'a> {
    /// Sees a domain as this driver does.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is another driver's.
    pub(crate) fn of(domain: &'a AnyDomain) -> Result<Self> {
        let raw = domain.as_raw();
        // SAFETY: The domain is borrowed.
        let own = unsafe { bindings::vtd_is_own_domain(raw) };
        // INVARIANT: It is of this driver, or a static one that is nothing but the core's part.
        NonNull::new(raw)
            .filter(|_| own)
            .map(|domain| Self(domain, PhantomData))
            .ok_or(EINVAL)
    }

    /// Ends page requests for it, if it handles them. Nothing translates by it any more. Sleeps.
    pub(crate) fn remove_iopf(&self, dev: &Device<'_>) {
        // SAFETY: The domain and the device are there by their invariants.
        unsafe { bindings::vtd_iopf_remove(self.0.as_ptr(), dev.as_raw()) };
    }

    /// Takes a PASID off it. Sleeps.
    pub(crate) fn remove_pasid(&self, dev: &Device<'_>, pasid: u32) {
        // SAFETY: The domain and the device are there by their invariants.
        unsafe { bindings::domain_remove_dev_pasid(self.0.as_ptr(), dev.as_raw(), pasid) };
    }
}

/// Proof that a domain's `lock` is held; dropping it unlocks.
pub(crate) struct Guard<'a>(Domain<'a>);

impl<'a> Domain<'a> {
    /// Wraps a pointer.
    ///
    /// # Safety
    ///
    /// `ptr` is a domain of this driver, other than the static ones, that is there for `'a`.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::dmar_domain) -> Self {
        // INVARIANT: by the safety requirement.
        // SAFETY: A domain has an address.
        Self(unsafe { NonNull::new_unchecked(ptr) }, PhantomData)
    }

    /// Sees a nested domain as C does.
    pub(crate) fn of<T: DomainOps<Head = NestedHead>>(domain: &'a OfCore<T>) -> Self {
        // SAFETY: Its head is a `struct dmar_domain` that was initialised with it.
        unsafe { Self::from_raw(domain.head().cast()) }
    }

    /// The C structure.
    pub(super) fn as_raw(&self) -> *mut bindings::dmar_domain {
        self.0.as_ptr()
    }

    /// The core's part.
    pub(super) fn core(&self) -> *mut bindings::iommu_domain {
        self.0.as_ptr().cast()
    }

    fn kind(&self) -> u32 {
        // SAFETY: The domain is there by the invariant; its type does not change.
        unsafe { (*self.core()).type_ }
    }

    /// Whether it is a user's first stage.
    pub(crate) fn nested(&self) -> bool {
        self.kind() == bindings::IOMMU_DOMAIN_NESTED
    }

    /// Whether it is a first stage of the kernel's.
    pub(crate) fn first_stage(&self) -> bool {
        // SAFETY: The domain is there by the invariant.
        unsafe { bindings::vtd_is_first_stage(self.as_raw()) }
    }

    /// Whether its IOTLB entries are found by PASID.
    pub(crate) fn by_pasid(&self) -> bool {
        self.nested() || self.kind() == bindings::IOMMU_DOMAIN_SVA || self.first_stage()
    }

    /// Its domain-id on a unit. It is attached there.
    pub(crate) fn did(&self, unit: &Unit<'_>) -> u16 {
        // SAFETY: The domain and the unit are there by their invariants.
        unsafe { bindings::vtd_domain_id(self.as_raw(), unit.as_raw()) }
    }

    /// Its second-stage table, as of now.
    pub(crate) fn second_stage(&self) -> SecondStage {
        let mut out = bindings::vtd_second_stage::default();
        // SAFETY: The domain is there by the invariant.
        unsafe { bindings::vtd_read_second_stage(self.as_raw(), &mut out) };
        SecondStage {
            root: out.root,
            // The table's format has three to five levels.
            aw: Bounded::try_new(out.aw.into()).unwrap_or(Bounded::<u64, 3>::new::<2>()),
            snoop_walk: !out.incoherent,
            dirty: out.dirty_tracking,
            force_snoop: out.force_snooping,
        }
    }

    /// The parent of a nested domain.
    pub(crate) fn parent(&self) -> Domain<'a> {
        // SAFETY: The domain is there by the invariant.
        let nested = unsafe { &raw const (*self.as_raw()).__bindgen_anon_2.__bindgen_anon_2 };
        // SAFETY: Set when the domain was made, and the parent stays as long.
        let parent = unsafe { (*nested).s2_domain };
        // SAFETY: As above.
        unsafe { Domain::from_raw(parent) }
    }

    /// Takes the lock under which dirty tracking changes.
    pub(crate) fn lock(&self) -> Guard<'a> {
        // SAFETY: The domain is there by the invariant, its lock is initialised with it.
        unsafe { bindings::vtd_domain_lock(self.as_raw()) };
        Guard(*self)
    }

    /// Whether it can be used for a device.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it cannot.
    pub(crate) fn compatible(&self, dev: &Device<'_>) -> Result {
        // SAFETY: The domain and the device are there by their invariants.
        to_result(unsafe { bindings::paging_domain_compatible(self.core(), dev.as_raw()) })
    }

    /// Gets it a domain-id on a unit, or one more user of that. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC` when ids are used up.
    pub(crate) fn attach_unit(&self, unit: &Unit<'_>) -> Result {
        // SAFETY: The domain and the unit are there by their invariants.
        to_result(unsafe { bindings::domain_attach_iommu(self.as_raw(), unit.as_raw()) })
    }

    /// Undoes [`Self::attach_unit`]. Sleeps.
    pub(crate) fn detach_unit(&self, unit: &Unit<'_>) {
        // SAFETY: The domain and the unit are there by their invariants.
        unsafe { bindings::domain_detach_iommu(self.as_raw(), unit.as_raw()) };
    }

    /// Notes that a device uses it, where changes of dirty tracking look.
    pub(crate) fn list(&self, dev: &Device<'_>) {
        // SAFETY: The domain and the device are there by their invariants; the device is in no
        // list, having been blocked.
        unsafe { bindings::vtd_nested_attached(self.as_raw(), dev.info()) };
    }

    /// Gets page requests going, if the domain handles them. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device has none, those of the queue.
    pub(crate) fn set_iopf(&self, dev: &Device<'_>) -> Result {
        // SAFETY: The domain and the device are there by their invariants.
        to_result(unsafe { bindings::vtd_iopf_set(self.core(), dev.as_raw()) })
    }

    /// Undoes [`Self::set_iopf`]. Sleeps.
    pub(crate) fn remove_iopf(&self, dev: &Device<'_>) {
        // SAFETY: The domain and the device are there by their invariants.
        unsafe { bindings::vtd_iopf_remove(self.core(), dev.as_raw()) };
    }

    /// Notes that a PASID of a device uses it: a domain-id, cache tags, a place in the list.
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC` when ids are used up.
    pub(crate) fn add_pasid(&self, dev: &Device<'_>, pasid: u32) -> Result {
        // SAFETY: The domain and the device are there by their invariants.
        from_err_ptr(unsafe { bindings::domain_add_dev_pasid(self.core(), dev.as_raw(), pasid) })?;
        Ok(())
    }

    /// Undoes [`Self::add_pasid`]. Sleeps.
    pub(crate) fn remove_pasid(&self, dev: &Device<'_>, pasid: u32) {
        // SAFETY: The domain and the device are there by their invariants.
        unsafe { bindings::domain_remove_dev_pasid(self.core(), dev.as_raw(), pasid) };
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: `Domain::lock()` took the lock, and a guard is dropped once.
        unsafe { bindings::vtd_domain_unlock(self.0.as_raw()) };
    }
}
