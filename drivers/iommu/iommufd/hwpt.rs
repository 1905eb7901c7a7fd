// SPDX-License-Identifier: GPL-2.0-only

//! Hardware page tables.
//!
//! A paging hwpt follows an IOAS; a nested one is a page table of user space's on top of a paging
//! one. What a hwpt owns is what its fields are: dropping them in their order is the teardown, in
//! which the domain goes first, then what it refers to.
//!
//! How they are made is in [`alloc`], what user space does with them in [`dirty`] and
//! [`invalidate`].

mod alloc;
mod dirty;
mod invalidate;

pub(crate) use alloc::{
    new_paging,
    PagingRequest, //
};

use crate::{
    fault::FaultQueue,
    ffi::{
        context::Ctx,
        domain::Domain,
        driver_objects::Viommu,
        handlers::uapi::hwpt::GetDirtyBitmap,
        ioas_domains::Locked,
        shared::{
            DoorbellSet,
            HwptHead, //
        }, //
    },
    ioas::Ioas,
    object::{
        assert_offsets,
        begins_with_head,
        downcast,
        Address,
        Hold,
        Object,
        Reserved, //
    }, //
};
use core::{
    mem::offset_of,
    pin::Pin, //
};
use kernel::{
    interop::list::CListHead,
    prelude::*,
    sync::SetOnce,
    types::ScopeGuard, //
};

/// What paging and nested hwpts have in common. It does not change once it is published.
#[pin_data]
#[repr(C)]
pub(crate) struct Hwpt {
    #[pin]
    object: Object,
    domain: Domain,
    /// For drivers: the hwpt that a nested one is on.
    parent: Option<Address<PagingHwpt>>,
    /// For drivers: the doorbells that a paging one has.
    present_sw_msi: DoorbellSet,
    fault: SetOnce<Hold<FaultQueue>>,
    pasid_compat: bool,
}

begins_with_head!(Hwpt, object);
assert_offsets!(Hwpt as HwptHead: domain, parent, present_sw_msi = present);

impl Hwpt {
    /// Any hwpt, paging or nested.
    pub(crate) fn of(object: &Object) -> Option<&Self> {
        downcast::<PagingHwpt>(object)
            .map(|hwpt| &hwpt.common)
            .or_else(|| downcast::<NestedHwpt>(object).map(|hwpt| &hwpt.common))
    }

    fn new(parts: Parts, parent: Option<&PagingHwpt>) -> impl PinInit<Self> {
        let parent = parent.map(Address::of);
        pin_init!(Self {
            object <- Object::new(),
            domain: parts.domain,
            parent,
            present_sw_msi: DoorbellSet::new(),
            fault: SetOnce::new(),
            pasid_compat: parts.pasid_compat,
        })
    }

    /// Has the domain lead back to this, and its page faults to `fault`. Nothing may be attached.
    fn complete(&self, fault: Option<Hold<FaultQueue>>) {
        self.domain.set_hwpt(self);
        if let Some(fault) = fault {
            self.deliver_faults(fault);
        }
    }

    /// Has page faults delivered to a queue, once. Nothing may be attached.
    fn deliver_faults(&self, fault: Hold<FaultQueue>) {
        self.fault.populate(fault);
        self.domain.set_fault_handler();
    }

    /// Its domain.
    #[inline]
    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Where page faults are delivered to, if user space answers them.
    pub(crate) fn fault(&self) -> Option<&FaultQueue> {
        self.fault.as_ref().map(|fault| &**fault)
    }

    /// Whether page faults are delivered to user space.
    pub(crate) fn has_fault_queue(&self) -> bool {
        self.fault().is_some()
    }

    /// Whether it may be attached to a PASID, or to a device whose PASIDs are attached.
    pub(crate) fn is_pasid_compat(&self) -> bool {
        self.pasid_compat
    }

    /// The paging hwpt that decides what is mapped: this one, or the one that it is nested on.
    pub(crate) fn stage2(&self) -> Option<&PagingHwpt> {
        match downcast::<PagingHwpt>(&self.object) {
            Some(paging) => Some(paging),
            None => downcast::<NestedHwpt>(&self.object).map(NestedHwpt::parent),
        }
    }

    /// Whether the kernel made it for an attachment to an IOAS, and destroys it after the last.
    pub(crate) fn is_auto_domain(&self) -> bool {
        downcast::<PagingHwpt>(&self.object).is_some_and(PagingHwpt::is_auto_domain)
    }
}

/// What every new hwpt is made of.
struct Parts {
    /// Its domain.
    domain: Domain,
    /// Whether it may be attached to a PASID.
    pasid_compat: bool,
}

/// A page table that follows an IOAS.
///
/// # Invariants
///
/// While `item` is on the list of the IOAS, the domain has all that the IOAS maps.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct PagingHwpt {
    #[pin]
    common: Hwpt,
    ioas: Hold<Ioas>,
    auto_domain: bool,
    enforce_cache_coherency: bool,
    nest_parent: bool,
    #[pin]
    item: CListHead,
}

begins_with_head!(PagingHwpt, common);

/// What a paging hwpt is made of.
struct PagingParts {
    /// What every hwpt has.
    common: Parts,
    /// Whether DMA that does not snoop is forbidden in its domain.
    enforce_cache_coherency: bool,
    /// Whether nested hwpts can be made on it.
    nest_parent: bool,
    /// Whether the kernel makes it for an attachment to an IOAS.
    auto_domain: bool,
}

impl PagingHwpt {
    fn reserve<'a>(ctx: &'a Ctx, ioas: &Ioas, parts: PagingParts) -> Result<Reserved<'a, Self>> {
        let ioas = Hold::new(ioas)?;
        let init = pin_init!(Self {
            common <- Hwpt::new(parts.common, None),
            ioas,
            auto_domain: parts.auto_domain,
            enforce_cache_coherency: parts.enforce_cache_coherency,
            nest_parent: parts.nest_parent,
            item <- CListHead::new(),
        });
        let hwpt = Reserved::new(ctx, init)?;
        hwpt.common.complete(None);
        Ok(hwpt)
    }

    /// The IOAS that it follows.
    pub(crate) fn ioas(&self) -> &Ioas {
        &self.ioas
    }

    /// What it has in common with nested ones.
    pub(crate) fn common(&self) -> &Hwpt {
        &self.common
    }

    /// Its domain.
    pub(crate) fn domain(&self) -> &Domain {
        &self.common.domain
    }

    /// Whether the kernel made it for an attachment to an IOAS.
    pub(crate) fn is_auto_domain(&self) -> bool {
        self.auto_domain
    }

    /// Whether nested hwpts can be made on it.
    pub(crate) fn is_nest_parent(&self) -> bool {
        self.nest_parent
    }

    /// Begins or ends recording what is written to.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: its domain cannot.
    pub(crate) fn set_dirty_tracking(&self, enable: bool) -> Result {
        self.ioas.set_dirty_tracking(self.domain(), enable)
    }

    /// Puts what was written to into user space's bitmap.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EOVERFLOW`: the range is no good; `EOPNOTSUPP`: its domain cannot; `ENOMEM`;
    /// `EFAULT`: the bitmap cannot be written.
    pub(crate) fn read_dirty(&self, request: &mut GetDirtyBitmap) -> Result {
        self.ioas.read_dirty(self.domain(), request.flags, request)
    }

    /// Whether it enforces that DMA is coherent with caches.
    pub(crate) fn is_coherent(&self) -> bool {
        self.enforce_cache_coherency
    }

    /// Where the link of an IOAS's list is.
    pub(crate) const ITEM: usize = offset_of!(Self, item);
    pub(crate) fn item(&self) -> &CListHead {
        &self.item
    }

    /// Whether it is on its IOAS's list. Who asks has the hwpt for itself.
    fn is_listed(&self) -> bool {
        self.item.is_linked()
    }

    /// Maps what the IOAS has and puts the hwpt on its list.
    fn enlist(&self, ioas: &Locked<'_>) -> Result {
        self.ioas.add_domain(self.domain())?;
        ioas.link(self);
        Ok(())
    }

    /// Undoes [`Self::enlist`], if it was done.
    fn delist(&self, ioas: &Locked<'_>) {
        if self.is_listed() {
            ioas.unlink(self);
            self.ioas.remove_domain(self.domain());
        }
    }
}

#[pinned_drop]
impl PinnedDrop for PagingHwpt {
    fn drop(self: Pin<&mut Self>) {
        if self.is_listed() {
            self.ioas.lock().unlink(&self);
            self.ioas.remove_domain(self.domain());
        }
    }
}

/// A paging hwpt that is being made, under the mutex of its IOAS.
pub(crate) struct NewPaging<'a, 'l>(ScopeGuard<Making<'a, 'l>, fn(Making<'a, 'l>)>);

struct Making<'a, 'l> {
    hwpt: Reserved<'a, PagingHwpt>,
    ioas: &'l Locked<'l>,
}

impl Making<'_, '_> {
    /// Undoes it without taking the mutex, which is held.
    fn undo(self) {
        self.hwpt.delist(self.ioas);
    }
}

impl<'a, 'l> NewPaging<'a, 'l> {
    /// Puts the parts together. Nothing is mapped yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    fn new(ctx: &'a Ctx, ioas: &'l Locked<'l>, parts: PagingParts) -> Result<Self> {
        let hwpt = PagingHwpt::reserve(ctx, ioas.ioas(), parts)?;
        let making = Making { hwpt, ioas };
        Ok(Self(ScopeGuard::new_with_data(making, Making::undo)))
    }

    /// The hwpt.
    pub(crate) fn hwpt(&self) -> &PagingHwpt {
        &self.0.hwpt
    }

    /// Maps what the IOAS has. Once, and before it is published.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what mapping runs into.
    pub(crate) fn fill(&self) -> Result {
        self.0.hwpt.enlist(self.0.ioas)
    }

    /// Has page faults delivered to a queue. Nothing may be attached yet.
    fn deliver_faults(&self, fault: Hold<FaultQueue>) {
        self.hwpt().common.deliver_faults(fault);
    }

    /// Has it outlive the lock. Until it is published it is on the IOAS's list, but no attachment
    /// finds it there; dropping it takes the lock again.
    fn unlock(self) -> Reserved<'a, PagingHwpt> {
        self.0.dismiss().hwpt
    }

    /// Lets it be found, which cannot fail.
    pub(crate) fn publish(self) {
        self.unlock().publish();
    }
}

/// What a nested hwpt is on: a nest parent, directly or by way of a vIOMMU.
enum Below {
    Parent(Hold<PagingHwpt>),
    Viommu(Hold<Viommu>),
}

impl Below {
    fn parent(&self) -> &PagingHwpt {
        match self {
            Self::Parent(parent) => parent,
            Self::Viommu(viommu) => viommu.parent(),
        }
    }
}

/// A user's page table on top of a paging hwpt.
#[pin_data]
#[repr(C)]
pub(crate) struct NestedHwpt {
    #[pin]
    common: Hwpt,
    below: Below,
}

begins_with_head!(NestedHwpt, common);

impl NestedHwpt {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    fn reserve(
        ctx: &Ctx,
        below: Below,
        parts: Parts,
        fault: Option<Hold<FaultQueue>>,
    ) -> Result<Reserved<'_, Self>> {
        let init = pin_init!(Self {
            common <- Hwpt::new(parts, Some(below.parent())),
            below,
        });
        let hwpt = Reserved::new(ctx, init)?;
        hwpt.common.complete(fault);
        Ok(hwpt)
    }

    /// Its domain.
    #[inline]
    pub(crate) fn domain(&self) -> &Domain {
        &self.common.domain
    }

    /// The paging hwpt that it is on.
    pub(crate) fn parent(&self) -> &PagingHwpt {
        self.below.parent()
    }
}
