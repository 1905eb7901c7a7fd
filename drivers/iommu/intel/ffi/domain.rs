// SPDX-License-Identifier: GPL-2.0-only

//! A domain of this driver (`struct dmar_domain`).

use core::{
    marker::PhantomData,
    ops::Deref,
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

/// A domain with a second-stage table of the kernel's.
///
/// The parent of a nested one is, a nested one is not:
///
/// ```ignore,compile_fail,E0308
/// use crate::ffi::domain::{NestedDomain, SecondStageDomain};
///
/// fn misuse(domain: &NestedDomain<'_>) {
///     SecondStageDomain::second_stage(domain);
/// }
/// ```
///
/// # Invariants
///
/// `sspt` is what the domain's union holds.
#[derive(Clone, Copy)]
pub(crate) struct SecondStageDomain<'a>(Domain<'a>);

/// A domain with a user's first stage.
///
/// Only such a one has a parent:
///
/// ```ignore,compile_fail,E0308
/// use crate::ffi::domain::{Domain, NestedDomain};
///
/// fn misuse(domain: &Domain<'_>) {
///     NestedDomain::parent(domain);
/// }
/// ```
///
/// # Invariants
///
/// `s2_domain` is what the domain's union holds: one with a second stage, which stays as long.
#[derive(Clone, Copy)]
pub(crate) struct NestedDomain<'a>(Domain<'a>);

/// A domain that has a domain-id on a unit, and keeps it for `'a`.
///
/// What has none there cannot be asked for it:
///
/// ```ignore,compile_fail,E0308
/// use crate::ffi::domain::{Domain, OnUnit};
///
/// fn misuse(domain: &Domain<'_>) -> u16 {
///     OnUnit::<Domain<'_>>::did(domain)
/// }
/// ```
///
/// # Invariants
///
/// `did` is its id there, which does not change meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct OnUnit<'a, D> {
    domain: D,
    did: u16,
    _keeps: PhantomData<&'a ()>,
}

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

    /// Sees it as what it is if it has a user's first stage.
    pub(crate) fn as_nested(&self) -> Option<NestedDomain<'a>> {
        // INVARIANT: One of this type was given its parent when it was initialised.
        (self.kind() == bindings::IOMMU_DOMAIN_NESTED).then_some(NestedDomain(*self))
    }

    /// Whether it is a first stage of the kernel's.
    pub(crate) fn first_stage(&self) -> bool {
        // SAFETY: The domain is there by the invariant.
        unsafe { bindings::vtd_is_first_stage(self.as_raw()) }
    }

    /// Whether its IOTLB entries are found by PASID.
    pub(crate) fn by_pasid(&self) -> bool {
        self.as_nested().is_some()
            || self.kind() == bindings::IOMMU_DOMAIN_SVA
            || self.first_stage()
    }

    /// Takes the lock under which dirty tracking changes.
    pub(crate) fn lock(&self) -> Guard<'a> {
        // SAFETY: The domain is there by the invariant, its lock is initialised with it.
        unsafe { bindings::vtd_domain_lock(self.as_raw()) };
        Guard(*self)
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
}

impl<'a> SecondStageDomain<'a> {
    /// Wraps a pointer.
    ///
    /// # Safety
    ///
    /// `ptr` is a domain of this driver with a second-stage table that is there for `'a`.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::dmar_domain) -> Self {
        // INVARIANT: by the safety requirement.
        // SAFETY: It is not a static domain, as those have no table.
        Self(unsafe { Domain::from_raw(ptr) })
    }

    /// Its table, as of now.
    pub(crate) fn second_stage(&self) -> SecondStage {
        let mut out = bindings::vtd_second_stage::default();
        // SAFETY: The domain is there, and has such a table by the invariant.
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

    /// Whether it can be used for a device.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it cannot.
    pub(crate) fn compatible(&self, dev: &Device<'_>) -> Result {
        // SAFETY: The domain and the device are there by their invariants.
        to_result(unsafe { bindings::paging_domain_compatible(self.core(), dev.as_raw()) })
    }
}

impl<'a> Deref for SecondStageDomain<'a> {
    type Target = Domain<'a>;

    fn deref(&self) -> &Domain<'a> {
        &self.0
    }
}

impl<'a> NestedDomain<'a> {
    /// Sees a nested domain as C does.
    pub(crate) fn of<T: DomainOps<Head = NestedHead>>(domain: &'a OfCore<T>) -> Self {
        // INVARIANT: The head was given its parent when it was initialised.
        // SAFETY: Its head is a `struct dmar_domain` that was initialised with it.
        Self(unsafe { Domain::from_raw(domain.head().cast()) })
    }

    /// The domain that it is nested on.
    pub(crate) fn parent(&self) -> SecondStageDomain<'a> {
        // SAFETY: By the invariant that is the member of the union that is set.
        let parent = unsafe { (*self.as_raw()).__bindgen_anon_2.__bindgen_anon_2.s2_domain };
        // SAFETY: By the invariant it has a second stage, and stays as long.
        unsafe { SecondStageDomain::from_raw(parent) }
    }

    /// Gets it a domain-id on the unit of a device, or one more user of that. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC` when ids are used up.
    pub(crate) fn attach_unit(&self, dev: &Device<'a>) -> Result<Use<'a>> {
        // SAFETY: The domain and the unit are there by their invariants.
        to_result(unsafe { bindings::domain_attach_iommu(self.as_raw(), dev.unit().as_raw()) })?;
        Ok(Use {
            // SAFETY: It has an id there now, and until the use is dropped.
            on: unsafe { OnUnit::new(*self, self, &dev.unit()) },
            dev: *dev,
            pasid: None,
        })
    }

    /// Notes that a device uses it, where changes of dirty tracking look.
    pub(crate) fn list(&self, dev: &Device<'_>) {
        // SAFETY: The domain and the device are there by their invariants; the device is in no
        // list, having been blocked.
        unsafe { bindings::vtd_nested_attached(self.as_raw(), dev.info()) };
    }

    /// Notes that a PASID of a device uses it: a domain-id, cache tags, a place in the list.
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENOSPC` when ids are used up.
    pub(crate) fn add_pasid(&self, dev: &Device<'a>, pasid: u32) -> Result<Use<'a>> {
        // SAFETY: The domain and the device are there by their invariants.
        from_err_ptr(unsafe { bindings::domain_add_dev_pasid(self.core(), dev.as_raw(), pasid) })?;
        Ok(Use {
            // SAFETY: It has an id on the unit of the device now, and until the use is dropped.
            on: unsafe { OnUnit::new(*self, self, &dev.unit()) },
            dev: *dev,
            pasid: Some(pasid),
        })
    }
}

impl<'a> Deref for NestedDomain<'a> {
    type Target = Domain<'a>;

    fn deref(&self) -> &Domain<'a> {
        &self.0
    }
}

impl<D> OnUnit<'_, D> {
    /// Looks the id up. `any` is the domain, too.
    ///
    /// # Safety
    ///
    /// The domain has an id on the unit, and keeps it as long as this.
    pub(super) unsafe fn new(domain: D, any: &Domain<'_>, unit: &Unit<'_>) -> Self {
        // SAFETY: The domain and the unit are there by their invariants, and there is an id.
        let did = unsafe { bindings::vtd_domain_id(any.as_raw(), unit.as_raw()) };
        // INVARIANT: by the contract of this function.
        Self {
            domain,
            did,
            _keeps: PhantomData,
        }
    }

    /// The id.
    pub(crate) fn did(&self) -> u16 {
        self.did
    }
}

impl<'a> OnUnit<'_, NestedDomain<'a>> {
    /// Sees the domain as any other.
    pub(crate) fn as_any(&self) -> OnUnit<'_, Domain<'a>> {
        // INVARIANT: It is the same domain, and keeps its id as long.
        OnUnit {
            domain: *self.domain,
            did: self.did,
            _keeps: PhantomData,
        }
    }
}

impl<D> Deref for OnUnit<'_, D> {
    type Target = D;

    fn deref(&self) -> &D {
        &self.domain
    }
}

/// What gave a domain its id on a unit: an attachment that is being made. Dropping it undoes that,
/// which sleeps.
#[must_use]
pub(crate) struct Use<'a> {
    on: OnUnit<'a, NestedDomain<'a>>,
    dev: Device<'a>,
    /// The PASID that is listed; none of an attachment of the whole device.
    pasid: Option<u32>,
}

impl Use<'_> {
    /// The attachment is made.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }
}

impl<'a> Deref for Use<'a> {
    type Target = OnUnit<'a, NestedDomain<'a>>;

    fn deref(&self) -> &Self::Target {
        &self.on
    }
}

impl Drop for Use<'_> {
    fn drop(&mut self) {
        let domain = &self.on.domain;
        match self.pasid {
            // SAFETY: The domain and the device are there by their invariants, and the PASID was
            // listed.
            Some(pasid) => unsafe {
                bindings::domain_remove_dev_pasid(domain.core(), self.dev.as_raw(), pasid)
            },
            // SAFETY: The domain and the unit are there by their invariants, and this is the use
            // that was noted.
            None => unsafe {
                bindings::domain_detach_iommu(domain.as_raw(), self.dev.unit().as_raw())
            },
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: `Domain::lock()` took the lock, and a guard is dropped once.
        unsafe { bindings::vtd_domain_unlock(self.0.as_raw()) };
    }
}
