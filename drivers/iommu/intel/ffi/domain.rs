// SPDX-License-Identifier: GPL-2.0-only

//! A domain of this driver (`struct dmar_domain`): what C's parts of the driver, the cache tags and
//! the hardware know of it, whatever its kind.

use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    error::to_result,
    iommu::{
        domain::{
            AnyDomain,
            Domain as OfCore,
            Head, //
        },
        ops::{
            DomainOps,
            Pasid,
            NO_PASID, //
        }, //
    },
    num::Bounded,
    prelude::*,
    warn_on, //
};

use super::{
    device::Device,
    unit::Unit,
    user::NestedHead, //
};
use crate::{
    paging::{
        First,
        Second, //
    },
    pasid_entry::{
        FirstStage,
        Levels,
        SecondStage, //
    },
};

/// What a domain begins with whose memory is a `struct dmar_domain`.
///
/// # Safety
///
/// It is one, which [`Head::init`] has initialised.
pub(crate) unsafe trait DmarHead: Head {}

/// A domain that stays for `'a`: any but the static ones.
///
/// # Invariants
///
/// Points to an initialised `struct dmar_domain`.
#[derive(Clone, Copy)]
pub(crate) struct Domain<'a>(NonNull<bindings::dmar_domain>, PhantomData<&'a ()>);

/// A domain with a first-stage table of the kernel's.
#[derive(Clone, Copy)]
pub(crate) struct FirstStageDomain<'a>(&'a OfCore<First>);

/// A domain with a second-stage table of the kernel's.
///
/// The parent of a nested one is, a nested one is not:
///
/// ```ignore,compile_fail,E0308
/// use crate::ffi::domain::{NestedDomain, SecondStageDomain};
///
/// fn misuse(domain: &NestedDomain<'_>) {
///     SecondStageDomain::table(domain);
/// }
/// ```
#[derive(Clone, Copy)]
pub(crate) struct SecondStageDomain<'a>(&'a OfCore<Second>);

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
/// `s2_domain` is what the domain's union holds: a [`Second`], which stays as long.
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
///     OnUnit::did(domain)
/// }
/// ```
///
/// # Invariants
///
/// `did` is its id there, which does not change meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct OnUnit<'a> {
    domain: Domain<'a>,
    did: u16,
}

/// Proof that a domain's `lock` is held: its lists stay as they are, and what units are told of its
/// flags is what they say. Dropping it unlocks.
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

    /// Sees a domain of the core's as this driver does.
    pub(crate) fn of<T: DomainOps<Head: DmarHead>>(domain: &'a OfCore<T>) -> Self {
        // SAFETY: Its head is such a structure, which is there as long as it is borrowed.
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

    fn as_any(&self) -> &'a AnyDomain {
        // SAFETY: The domain is there by the invariant.
        unsafe { AnyDomain::from_raw(self.core()) }
    }

    fn kind(&self) -> u32 {
        // SAFETY: The domain is there by the invariant; its type does not change.
        unsafe { (*self.core()).type_ }
    }

    /// Whether its table is a process's own.
    pub(crate) fn is_sva(&self) -> bool {
        self.kind() == bindings::IOMMU_DOMAIN_SVA
    }

    /// Sees it as what it is if it has a user's first stage.
    pub(crate) fn as_nested(&self) -> Option<NestedDomain<'a>> {
        // INVARIANT: One of this type was given its parent when it was initialised.
        (self.kind() == bindings::IOMMU_DOMAIN_NESTED).then_some(NestedDomain(*self))
    }

    /// Whether it is a first stage of the kernel's.
    pub(crate) fn first_stage(&self) -> bool {
        self.as_any().downcast::<First>().is_some()
    }

    /// Whether its IOTLB entries are found by PASID.
    pub(crate) fn by_pasid(&self) -> bool {
        self.as_nested().is_some() || self.is_sva() || self.first_stage()
    }

    /// Whether every access is to be snooped, as of now.
    pub(crate) fn forces_snoop(&self) -> bool {
        // SAFETY: The domain is there by the invariant.
        unsafe { (*self.as_raw()).force_snooping() != 0 }
    }

    /// Whether dirty tracking is on, as of now.
    pub(crate) fn tracks_dirty(&self) -> bool {
        // SAFETY: The domain is there by the invariant.
        unsafe { (*self.as_raw()).dirty_tracking() != 0 }
    }

    /// Takes the lock of its lists and flags.
    pub(crate) fn lock(&self) -> Guard<'a> {
        // SAFETY: The domain is there by the invariant, its lock is initialised with it.
        unsafe { bindings::vtd_domain_lock(self.as_raw()) };
        Guard(*self)
    }
}

impl<'a> Guard<'a> {
    /// Notes whether dirty tracking is on.
    pub(crate) fn set_tracks_dirty(&self, on: bool) {
        // SAFETY: The domain is there, and its lock is held, under which the flags change.
        unsafe { (*self.0.as_raw()).set_dirty_tracking(u8::from(on)) };
    }

    /// Notes that every access is to be snooped.
    pub(crate) fn set_forces_snoop(&self) {
        // SAFETY: The domain is there, and its lock is held, under which the flags change.
        unsafe { (*self.0.as_raw()).set_force_snooping(1) };
    }

    /// Calls `f` for each device and PASID that is listed, or attached with what its table maps.
    ///
    /// # Errors
    ///
    /// The first of `f`, which ends it.
    pub(crate) fn each(
        &self,
        mut f: impl FnMut(&Device<'a>, &OnUnit<'_>, Pasid) -> Result,
    ) -> Result {
        let domain = self.0;
        let mut call = |dev: *mut bindings::device, pasid| {
            // SAFETY: What is listed is probed, and stays listed while the lock is held.
            let dev = unsafe { Device::from_raw(dev) }.ok_or(ENODEV)?;
            // SAFETY: What is listed stands for an id on its unit.
            let on = unsafe { OnUnit::new(domain, &dev.unit()) };
            f(&dev, &on, pasid)
        };
        let mut info = core::ptr::null_mut();
        loop {
            // SAFETY: The lock of the list is held, and `info` is null or in it.
            info = unsafe { bindings::vtd_next_device(domain.as_raw(), info) };
            if info.is_null() {
                break;
            }
            // SAFETY: It is in the list.
            call(unsafe { (*info).dev }, NO_PASID)?;
        }
        let mut info = core::ptr::null_mut();
        loop {
            // SAFETY: The lock of the list is held, and `info` is null or in it.
            info = unsafe { bindings::vtd_next_pasid(domain.as_raw(), info) };
            if info.is_null() {
                break Ok(());
            }
            // SAFETY: It is in the list.
            let (dev, pasid) = unsafe { ((*info).dev, (*info).pasid) };
            call(dev, pasid)?;
        }
    }

    /// The same for what cannot fail.
    pub(crate) fn each_of_all(&self, mut f: impl FnMut(&Device<'a>, &OnUnit<'_>, Pasid)) {
        let all = self.each(|dev, on, pasid| {
            f(dev, on, pasid);
            Ok(())
        });
        // What is listed is probed.
        warn_on!(all.is_err());
    }

    /// Calls `f` for each domain that is nested on this one, with its lock held.
    ///
    /// # Errors
    ///
    /// The first of `f`, which ends it.
    pub(crate) fn each_nested(
        &self,
        parent: &SecondStageDomain<'a>,
        mut f: impl FnMut(&Guard<'_>) -> Result,
    ) -> Result {
        let parent = parent.any();
        // SAFETY: A second-stage domain has such a list, and a lock of it.
        unsafe { bindings::vtd_nested_lock(parent.as_raw()) };
        let mut result = Ok(());
        let mut nested = core::ptr::null_mut();
        while result.is_ok() {
            // SAFETY: The lock of the list is held, and `nested` is null or in it.
            nested = unsafe { bindings::vtd_next_nested(parent.as_raw(), nested) };
            if nested.is_null() {
                break;
            }
            // SAFETY: It is there as long as it is in the list.
            result = f(&unsafe { Domain::from_raw(nested) }.lock());
        }
        // SAFETY: The lock was taken above.
        unsafe { bindings::vtd_nested_unlock(parent.as_raw()) };
        result
    }
}

impl<'a> Deref for Guard<'a> {
    type Target = Domain<'a>;

    /// What is read of it stays so meanwhile.
    fn deref(&self) -> &Domain<'a> {
        &self.0
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: `Domain::lock()` took the lock, and a guard is dropped once.
        unsafe { bindings::vtd_domain_unlock(self.0.as_raw()) };
    }
}

impl<'a> FirstStageDomain<'a> {
    /// Sees a domain as C does.
    pub(crate) fn of(domain: &'a OfCore<First>) -> Self {
        Self(domain)
    }

    /// As any other.
    pub(crate) fn any(&self) -> Domain<'a> {
        Domain::of(self.0)
    }

    /// Its table, as of now, for a device behind a unit. Who must not miss a change of the flags
    /// holds its lock.
    pub(crate) fn table(&self, unit: &Unit<'_>) -> FirstStage {
        let mut hw = bindings::pt_iommu_x86_64_hw_info::default();
        let table: *mut bindings::pt_iommu_x86_64 = self.any().as_raw().cast();
        // SAFETY: A first-stage domain begins with such a table.
        unsafe { bindings::pt_iommu_x86_64_hw_info(table, &mut hw) };
        FirstStage {
            root: hw.gcr3_pt,
            levels: Levels::new(hw.levels == 5),
            aw: unit.agaw(),
            snoop_pages: self.any().forces_snoop(),
            snoop_walk: !self.incoherent(),
        }
    }
}

impl<'a> Deref for FirstStageDomain<'a> {
    type Target = OfCore<First>;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl<'a> SecondStageDomain<'a> {
    /// Sees a domain as C does.
    pub(crate) fn of(domain: &'a OfCore<Second>) -> Self {
        Self(domain)
    }

    /// Wraps a pointer.
    ///
    /// # Safety
    ///
    /// `ptr` is a [`Second`] of the core's that is there for `'a`.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::dmar_domain) -> Self {
        // SAFETY: By the safety requirement, as the `iommu_domain` is at offset 0.
        Self(unsafe { OfCore::from_raw(ptr.cast()) })
    }

    /// As any other.
    pub(crate) fn any(&self) -> Domain<'a> {
        Domain::of(self.0)
    }

    /// Its table, as of now. Who must not miss a change of the flags holds its lock.
    pub(crate) fn table(&self) -> SecondStage {
        let domain = self.any();
        let mut hw = bindings::pt_iommu_vtdss_hw_info::default();
        // SAFETY: A second-stage domain begins with such a table.
        unsafe { bindings::pt_iommu_vtdss_hw_info(domain.as_raw().cast(), &mut hw) };
        SecondStage {
            root: hw.ssptptr,
            // The table's format has three to five levels.
            aw: Bounded::try_new(hw.aw.into()).unwrap_or(Bounded::<u64, 3>::new::<2>()),
            snoop_walk: !self.incoherent(),
            dirty: domain.tracks_dirty(),
            force_snoop: domain.forces_snoop(),
        }
    }

    /// Has what is mapped from now on say that accesses are to be snooped.
    pub(crate) fn map_snooped(&self, _guard: &Guard<'_>) {
        let table: *mut bindings::pt_iommu_vtdss = self.any().as_raw().cast();
        // SAFETY: A second-stage domain begins with such a table. Its features change under the
        // lock of the domain, which is held.
        let features = unsafe { &raw mut (*table).vtdss_pt.common.features };
        // SAFETY: `features` points into the domain.
        unsafe { *features |= 1 << bindings::PT_FEAT_VTDSS_FORCE_COHERENCE };
    }
}

impl<'a> Deref for SecondStageDomain<'a> {
    type Target = OfCore<Second>;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl<'a> NestedDomain<'a> {
    /// Sees a nested domain as C does.
    pub(crate) fn of<T: DomainOps<Head = NestedHead>>(domain: &'a OfCore<T>) -> Self {
        // INVARIANT: The head was given its parent when it was initialised.
        Self(Domain::of(domain))
    }

    /// The domain that it is nested on.
    pub(crate) fn parent(&self) -> SecondStageDomain<'a> {
        // SAFETY: By the invariant that is the member of the union that is set.
        let parent = unsafe { (*self.as_raw()).__bindgen_anon_2.__bindgen_anon_2.s2_domain };
        // SAFETY: By the invariant it is one, and stays as long.
        unsafe { SecondStageDomain::from_raw(parent) }
    }
}

impl<'a> Deref for NestedDomain<'a> {
    type Target = Domain<'a>;

    fn deref(&self) -> &Domain<'a> {
        &self.0
    }
}

impl<'a> OnUnit<'a> {
    /// Looks the id up.
    ///
    /// # Safety
    ///
    /// The domain has an id on the unit, and keeps it as long as this.
    pub(super) unsafe fn new(domain: Domain<'a>, unit: &Unit<'_>) -> Self {
        // SAFETY: The domain and the unit are there by their invariants, and there is an id.
        let did = unsafe { bindings::vtd_domain_id(domain.as_raw(), unit.as_raw()) };
        // SAFETY: The caller sees to it that it is kept.
        unsafe { Self::with(domain, did) }
    }

    /// Does without.
    ///
    /// # Safety
    ///
    /// `did` is the domain's id on a unit, which it keeps as long as this.
    pub(super) unsafe fn with(domain: Domain<'a>, did: u16) -> Self {
        // INVARIANT: by the contract of this function.
        Self { domain, did }
    }

    /// The id.
    pub(crate) fn did(&self) -> u16 {
        self.did
    }
}

impl<'a> Deref for OnUnit<'a> {
    type Target = Domain<'a>;

    fn deref(&self) -> &Domain<'a> {
        &self.domain
    }
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

    /// The domain, unless it is a static one.
    pub(crate) fn domain(&self) -> Option<Domain<'a>> {
        // SAFETY: The domain is there by the invariant.
        let kind = unsafe { (*self.0.as_ptr()).type_ };
        let fixed = [
            bindings::IOMMU_DOMAIN_BLOCKED,
            bindings::IOMMU_DOMAIN_IDENTITY,
        ];
        // INVARIANT: All others of this driver's begin with that.
        (!fixed.contains(&kind)).then_some(Domain(self.0.cast(), PhantomData))
    }
}

/// Page requests of a device that a domain handles, if it does. Dropping it ends them, which
/// sleeps.
#[must_use]
pub(crate) struct Iopf<'a>(Domain<'a>, Device<'a>);

impl<'a> Iopf<'a> {
    /// Gets them going. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENODEV` when the device has none, those of the queue.
    pub(crate) fn set(domain: Domain<'a>, dev: Device<'a>) -> Result<Self> {
        // SAFETY: The domain and the device are there by their invariants.
        to_result(unsafe { bindings::vtd_iopf_set(domain.core(), dev.as_raw()) })?;
        Ok(Self(domain, dev))
    }

    /// Those that were kept, of a domain that the device, or a PASID of it, is attached to.
    pub(crate) fn kept(domain: Domain<'a>, dev: Device<'a>) -> Self {
        Self(domain, dev)
    }

    /// They go on.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Iopf<'_> {
    fn drop(&mut self) {
        // SAFETY: The domain and the device are there by their invariants.
        unsafe { bindings::vtd_iopf_remove(self.0.core(), self.1.as_raw()) };
    }
}
