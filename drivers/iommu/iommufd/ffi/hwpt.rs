// SPDX-License-Identifier: GPL-2.0-only

//! Hardware page tables, in memory as `iommufd_private.h` has them.
//!
//! The structures are declared here field by field, so that what a hwpt owns is what its fields
//! are: a [`Domain`], [`Hold`]s on the fault queue and on what is below it. Dropping the fields in
//! their order is the teardown: the domain goes first, then what it refers to.
//!
//! C header: `drivers/iommu/iommufd/iommufd_private.h`

use super::{
    context::Ctx,
    domain::{
        Domain,
        UserArray,
        UserData, //
    },
    ioas::Ioas,
    object::{
        Kind,
        KindId,
        Object, //
    },
    space::Locked,
    typed::{
        begins_with_head,
        downcast,
        Head,
        Hold,
        Reserved, //
    },
    ucmd::UserStruct,
};
use crate::fault::FaultQueue;
use core::{
    mem::{
        offset_of,
        size_of,
        ManuallyDrop, //
    },
    pin::Pin,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    interop::list::CListHead,
    prelude::*,
    static_assert,
    types::Opaque, //
};

/// The structures and constants of the user API for hwpts.
pub(crate) mod uapi {
    use kernel::bindings;

    pub(crate) use bindings::{
        iommu_hwpt_alloc as HwptAlloc,
        iommu_hwpt_data_type_IOMMU_HWPT_DATA_NONE as DATA_NONE,
        iommu_hwpt_get_dirty_bitmap as GetDirtyBitmap,
        iommu_hwpt_invalidate as HwptInvalidate,
        iommu_hwpt_set_dirty_tracking as SetDirtyTracking,
        iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING as DIRTY_TRACKING,
        iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT as NEST_PARENT,
        iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID as PASID,
        iommufd_hwpt_alloc_flags_IOMMU_HWPT_FAULT_ID_VALID as FAULT_ID_VALID,
        iommufd_hwpt_get_dirty_bitmap_flags_IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR as NO_CLEAR,
        iommufd_hwpt_set_dirty_tracking_flags_IOMMU_HWPT_DIRTY_TRACKING_ENABLE as TRACKING_ENABLE,
        IOMMUFD_CMD_HWPT_ALLOC as CMD_ALLOC,
        IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP as CMD_GET_DIRTY_BITMAP,
        IOMMUFD_CMD_HWPT_INVALIDATE as CMD_INVALIDATE,
        IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING as CMD_SET_DIRTY_TRACKING, //
    };
}

// SAFETY: The UAPI header gives it integers of fixed size only, without padding.
unsafe impl UserStruct for uapi::HwptAlloc {}
// SAFETY: As above.
unsafe impl UserStruct for uapi::GetDirtyBitmap {}
// SAFETY: As above.
unsafe impl UserStruct for uapi::HwptInvalidate {}
// SAFETY: As above.
unsafe impl UserStruct for uapi::SetDirtyTracking {}

/// `struct iommufd_viommu`: a share of the hardware, given to a virtual machine.
#[repr(transparent)]
pub(crate) struct Viommu(Opaque<bindings::iommufd_viommu>);

// SAFETY: It has locks of its own.
unsafe impl Send for Viommu {}
// SAFETY: As above.
unsafe impl Sync for Viommu {}
// SAFETY: The C structure begins with the head.
unsafe impl Head for Viommu {}
// SAFETY: This is what C has for the kind.
unsafe impl Kind for Viommu {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_VIOMMU);
}

impl Viommu {
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_viommu {
        self.0.get()
    }

    /// The IOMMU that it is a share of.
    pub(super) fn iommu_dev(&self) -> *mut bindings::iommu_device {
        // SAFETY: It does not change once the object is published.
        unsafe { (*self.as_raw()).iommu_dev }
    }

    pub(super) fn ops(&self) -> Option<&bindings::iommufd_viommu_ops> {
        // SAFETY: It does not change once the object is published; tables are static.
        unsafe { (*self.as_raw()).ops.as_ref() }
    }

    /// The nest parent that it is on.
    pub(super) fn parent(&self) -> NonNull<PagingHwpt> {
        // SAFETY: The vIOMMU has a hold on it, and it does not change.
        unsafe { NonNull::new_unchecked((*self.as_raw()).hwpt.cast()) }
    }

    /// Makes a domain whose page table user space manages.
    ///
    /// # Errors
    ///
    /// What the driver says; `EOPNOTSUPP` when it makes none.
    pub(crate) fn alloc_nested(&self, flags: u32, data: &UserData) -> Result<Domain> {
        let op = self
            .ops()
            .and_then(|ops| ops.alloc_domain_nested)
            .ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the vIOMMU's own operation, and only reads the data.
        let raw = unsafe { op(self.as_raw(), flags, &data.as_raw()) };
        // SAFETY: It is what the driver allocated, and the driver is that of the IOMMU.
        unsafe { Domain::adopt(raw, (*self.iommu_dev()).ops) }
    }

    /// As [`Domain::cache_invalidate`], for everything that the vIOMMU has.
    #[inline]
    pub(crate) fn cache_invalidate(&self, requests: &mut UserArray) -> Option<Result> {
        let op = self.ops()?.cache_invalidate?;
        // SAFETY: It is the vIOMMU's own operation, and the array is ours.
        Some(to_result(unsafe { op(self.as_raw(), requests.as_raw()) }))
    }
}

/// `struct iommufd_hw_pagetable`: what paging and nested hwpts have in common.
///
/// # Invariants
///
/// It is the beginning of a [`PagingHwpt`] or of a [`NestedHwpt`], as its kind says, and does not
/// change once it is published. While `fault` is there the domain has a fault handler.
#[pin_data]
#[repr(C)]
pub(crate) struct Hwpt {
    #[pin]
    object: Object,
    domain: Domain,
    fault: Option<Hold<FaultQueue>>,
    pasid_compat: bool,
}

static_assert!(size_of::<Hwpt>() == size_of::<bindings::iommufd_hw_pagetable>());
static_assert!(offset_of!(Hwpt, domain) == offset_of!(bindings::iommufd_hw_pagetable, domain));
static_assert!(offset_of!(Hwpt, fault) == offset_of!(bindings::iommufd_hw_pagetable, fault));

begins_with_head!(Hwpt, object);

impl Hwpt {
    /// Any hwpt, paging or nested.
    pub(crate) fn of(object: &Object) -> Option<&Self> {
        downcast::<PagingHwpt>(object)
            .map(|hwpt| &hwpt.common)
            .or_else(|| downcast::<NestedHwpt>(object).map(|hwpt| &hwpt.common))
    }

    /// What hwpts have in common.
    fn new(parts: Parts) -> impl PinInit<Self> {
        if parts.fault.is_some() {
            parts.domain.set_fault_handler();
        }
        pin_init!(&this in Self {
            object <- Object::new(),
            domain: {
                // SAFETY: This is where the domain will be, for good.
                unsafe { parts.domain.set_hwpt(this.as_ptr()) };
                parts.domain
            },
            fault: parts.fault,
            pasid_compat: parts.pasid_compat,
        })
    }

    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_hw_pagetable {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// Its domain.
    #[inline]
    pub(crate) fn domain(&self) -> &Domain {
        &self.domain
    }

    /// Where page faults are delivered to, if user space answers them.
    pub(super) fn fault(&self) -> Option<&FaultQueue> {
        self.fault.as_deref()
    }

    /// Whether page faults are delivered to user space.
    pub(crate) fn has_fault_queue(&self) -> bool {
        self.fault.is_some()
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
pub(crate) struct Parts {
    /// Its domain.
    pub(crate) domain: Domain,
    /// Where page faults are delivered to.
    pub(crate) fault: Option<Hold<FaultQueue>>,
    /// Whether it may be attached to a PASID.
    pub(crate) pasid_compat: bool,
}

/// `struct iommufd_hwpt_paging`: a page table that follows an IOAS.
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
    present_sw_msi: Opaque<bindings::iommufd_sw_msi_maps>,
}

static_assert!(size_of::<PagingHwpt>() == size_of::<bindings::iommufd_hwpt_paging>());
static_assert!(
    offset_of!(PagingHwpt, present_sw_msi)
        == offset_of!(bindings::iommufd_hwpt_paging, present_sw_msi)
);

begins_with_head!(PagingHwpt, common);

/// What a paging hwpt is made of.
pub(crate) struct PagingParts {
    /// What every hwpt has.
    pub(crate) common: Parts,
    /// Whether DMA that does not snoop is forbidden in its domain.
    pub(crate) enforce_cache_coherency: bool,
    /// Whether nested hwpts can be made on it.
    pub(crate) nest_parent: bool,
    /// Whether the kernel makes it for an attachment to an IOAS.
    pub(crate) auto_domain: bool,
}

impl PagingHwpt {
    fn reserve<'a>(ctx: &'a Ctx, ioas: &Ioas, parts: PagingParts) -> Result<Reserved<'a, Self>> {
        let init = pin_init!(Self {
            common <- Hwpt::new(parts.common),
            ioas: Hold::new(ioas),
            auto_domain: parts.auto_domain,
            enforce_cache_coherency: parts.enforce_cache_coherency,
            nest_parent: parts.nest_parent,
            item <- CListHead::new(),
            present_sw_msi: Opaque::zeroed(),
        });
        Reserved::new(ctx, init)
    }

    /// The IOAS that it follows.
    pub(crate) fn ioas(&self) -> &Ioas {
        &self.ioas
    }

    #[cfg(CONFIG_IRQ_MSI_IOMMU)]
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_hwpt_paging {
        core::ptr::from_ref(self).cast_mut().cast()
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
    pub(crate) fn read_dirty(&self, request: &mut uapi::GetDirtyBitmap) -> Result {
        self.ioas.read_dirty(self.domain(), request.flags, request)
    }

    /// Whether it enforces that DMA is coherent with caches.
    pub(crate) fn is_coherent(&self) -> bool {
        self.enforce_cache_coherency
    }

    /// Where the link of an IOAS's list is.
    pub(super) const ITEM: usize = offset_of!(Self, item);

    pub(super) fn item(&self) -> *mut bindings::list_head {
        self.item.as_raw()
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
pub(crate) struct NewPaging<'a, 'l> {
    hwpt: ManuallyDrop<Reserved<'a, PagingHwpt>>,
    ioas: &'l Locked<'l>,
}

impl<'a, 'l> NewPaging<'a, 'l> {
    /// Puts the parts together. Nothing is mapped yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn new(ctx: &'a Ctx, ioas: &'l Locked<'l>, parts: PagingParts) -> Result<Self> {
        let hwpt = PagingHwpt::reserve(ctx, ioas.ioas(), parts)?;
        Ok(Self {
            hwpt: ManuallyDrop::new(hwpt),
            ioas,
        })
    }

    /// The hwpt.
    pub(crate) fn hwpt(&self) -> &PagingHwpt {
        &self.hwpt
    }

    /// Maps what the IOAS has. Once, and before it is published.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what mapping runs into.
    pub(crate) fn fill(&self) -> Result {
        self.hwpt.enlist(self.ioas)
    }

    /// Has page faults delivered to a queue. Nothing may be attached yet.
    pub(crate) fn deliver_faults(&mut self, fault: Hold<FaultQueue>) {
        self.hwpt.domain().set_fault_handler();
        // SAFETY: It is not published, and who finds it on the IOAS's list, whose mutex is held,
        // does not look at the field.
        unsafe { (&raw mut (*self.hwpt.as_ptr()).common.fault).write(Some(fault)) };
    }

    /// Has it outlive the lock. Until it is published it is on the IOAS's list, but no attachment
    /// finds it there; dropping it takes the lock again.
    pub(crate) fn unlock(self) -> Reserved<'a, PagingHwpt> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, and not dropped.
        unsafe { ManuallyDrop::take(&mut this.hwpt) }
    }

    /// Lets it be found, which cannot fail.
    pub(crate) fn publish(self) {
        self.unlock().publish();
    }
}

impl Drop for NewPaging<'_, '_> {
    fn drop(&mut self) {
        self.hwpt.delist(self.ioas);
        // SAFETY: It is dropped once.
        unsafe { ManuallyDrop::drop(&mut self.hwpt) };
    }
}

/// What a nested hwpt is on: a nest parent, directly or by way of a vIOMMU.
///
/// # Invariants
///
/// It owns a hold on the vIOMMU if there is one, which has one on the parent; on the parent
/// otherwise.
#[repr(C)]
pub(crate) struct Below {
    parent: NonNull<PagingHwpt>,
    viommu: Option<Hold<Viommu>>,
}

// SAFETY: It is a hold.
unsafe impl Send for Below {}
// SAFETY: As above.
unsafe impl Sync for Below {}

impl Below {
    /// Directly on a nest parent.
    pub(crate) fn parent(parent: &PagingHwpt) -> Self {
        // INVARIANT: the hold is kept as a pointer.
        Self {
            parent: Hold::new(parent).into_raw(),
            viommu: None,
        }
    }

    /// On a vIOMMU.
    pub(crate) fn viommu(viommu: &Viommu) -> Self {
        Self {
            parent: viommu.parent(),
            viommu: Some(Hold::new(viommu)),
        }
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        if self.viommu.is_none() {
            // SAFETY: By the type invariant this owns a hold on the parent.
            drop(unsafe { Hold::adopt(self.parent.as_ref()) });
        }
    }
}

/// `struct iommufd_hwpt_nested`: a user's page table on top of a paging hwpt.
#[pin_data]
#[repr(C)]
pub(crate) struct NestedHwpt {
    #[pin]
    common: Hwpt,
    below: Below,
}

static_assert!(size_of::<NestedHwpt>() == size_of::<bindings::iommufd_hwpt_nested>());
static_assert!(
    offset_of!(NestedHwpt, below.parent) == offset_of!(bindings::iommufd_hwpt_nested, parent)
);
static_assert!(
    offset_of!(NestedHwpt, below.viommu) == offset_of!(bindings::iommufd_hwpt_nested, viommu)
);

begins_with_head!(NestedHwpt, common);

impl NestedHwpt {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn reserve(ctx: &Ctx, below: Below, parts: Parts) -> Result<Reserved<'_, Self>> {
        let init = pin_init!(Self {
            common <- Hwpt::new(parts),
            below,
        });
        Reserved::new(ctx, init)
    }

    /// Its domain.
    #[inline]
    pub(crate) fn domain(&self) -> &Domain {
        &self.common.domain
    }

    /// The paging hwpt that it is on.
    pub(crate) fn parent(&self) -> &PagingHwpt {
        // SAFETY: By the type invariant of `Below` it cannot be freed.
        unsafe { self.below.parent.as_ref() }
    }
}
