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
    fault::FaultQueue,
    ioas::Ioas,
    object::{
        Kind,
        KindId,
        Object, //
    },
    space::Locked,
    typed::{
        downcast,
        Head,
        Hold,
        Reserved, //
    },
    ucmd::UserStruct,
};
use core::{
    mem::{
        offset_of,
        size_of,
        ManuallyDrop, //
    },
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
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

// SAFETY: It has locks of its own, and is not bound to a thread.
unsafe impl Send for FaultQueue {}
// SAFETY: The C structure begins with the head.
unsafe impl Head for FaultQueue {}

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
#[repr(C)]
pub(crate) struct Hwpt {
    object: Object,
    domain: Domain,
    fault: Option<Hold<FaultQueue>>,
    pasid_compat: bool,
}

static_assert!(size_of::<Hwpt>() == size_of::<bindings::iommufd_hw_pagetable>());
static_assert!(offset_of!(Hwpt, domain) == offset_of!(bindings::iommufd_hw_pagetable, domain));
static_assert!(offset_of!(Hwpt, fault) == offset_of!(bindings::iommufd_hw_pagetable, fault));

// SAFETY: It begins with the head.
unsafe impl Head for Hwpt {}

impl Hwpt {
    /// Any hwpt, paging or nested.
    pub(crate) fn of(object: &Object) -> Option<&Self> {
        downcast::<PagingHwpt>(object)
            .map(|hwpt| &hwpt.common)
            .or_else(|| downcast::<NestedHwpt>(object).map(|hwpt| &hwpt.common))
    }

    /// Fills in what hwpts have in common.
    ///
    /// # Safety
    ///
    /// `this` is zeroed memory for a hwpt, with its head in place.
    unsafe fn init(this: *mut Self, parts: Parts) {
        // SAFETY: By the contract of this function `this` is where the domain will be.
        unsafe { parts.domain.set_hwpt(this) };
        if parts.fault.is_some() {
            parts.domain.set_fault_handler();
        }
        // SAFETY: By the contract of this function.
        unsafe { (&raw mut (*this).domain).write(parts.domain) };
        // SAFETY: As above.
        unsafe { (&raw mut (*this).fault).write(parts.fault) };
        // SAFETY: As above.
        unsafe { (&raw mut (*this).pasid_compat).write(parts.pasid_compat) };
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
    pub(crate) fn is_automatic(&self) -> bool {
        downcast::<PagingHwpt>(&self.object).is_some_and(PagingHwpt::is_automatic)
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

/// The bits of the C structure's bit field.
const AUTO_DOMAIN: u8 = 1 << 0;
const ENFORCE_CACHE_COHERENCY: u8 = 1 << 1;
const IS_NEST_PARENT: u8 = 1 << 2;

/// `struct iommufd_hwpt_paging`: a page table that follows an IOAS.
///
/// # Invariants
///
/// While `item` is on the list of the IOAS, the domain has all that the IOAS maps.
#[repr(C)]
pub(crate) struct PagingHwpt {
    common: Hwpt,
    ioas: Hold<Ioas>,
    flags: u8,
    item: Opaque<bindings::list_head>,
    present_sw_msi: Opaque<bindings::iommufd_sw_msi_maps>,
}

static_assert!(size_of::<PagingHwpt>() == size_of::<bindings::iommufd_hwpt_paging>());
static_assert!(offset_of!(PagingHwpt, ioas) == offset_of!(bindings::iommufd_hwpt_paging, ioas));
static_assert!(
    offset_of!(PagingHwpt, item) == offset_of!(bindings::iommufd_hwpt_paging, hwpt_item)
);
static_assert!(
    offset_of!(PagingHwpt, flags) == offset_of!(bindings::iommufd_hwpt_paging, _bitfield_1)
);

// SAFETY: It begins with the head.
unsafe impl Head for PagingHwpt {}
// SAFETY: Only `reserve()` makes objects of this kind.
unsafe impl Kind for PagingHwpt {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING);
}

/// What a paging hwpt is made of.
pub(crate) struct PagingParts {
    /// What every hwpt has.
    pub(crate) common: Parts,
    /// Whether DMA that does not snoop is forbidden in its domain.
    pub(crate) enforce_cache_coherency: bool,
    /// Whether nested hwpts can be made on it.
    pub(crate) nest_parent: bool,
    /// Whether the kernel makes it for an attachment to an IOAS.
    pub(crate) automatic: bool,
}

impl PagingHwpt {
    fn reserve<'a>(ctx: &'a Ctx, ioas: &Ioas, parts: PagingParts) -> Result<Reserved<'a, Self>> {
        let mut flags = 0;
        for (is_set, bit) in [
            (parts.automatic, AUTO_DOMAIN),
            (parts.enforce_cache_coherency, ENFORCE_CACHE_COHERENCY),
            (parts.nest_parent, IS_NEST_PARENT),
        ] {
            flags |= if is_set { bit } else { 0 };
        }
        let init = |this: *mut Self| {
            // SAFETY: `this` is zeroed memory for a hwpt.
            unsafe { Hwpt::init(this.cast(), parts.common) };
            // SAFETY: As above.
            unsafe { (&raw mut (*this).ioas).write(Hold::new(ioas)) };
            // SAFETY: As above.
            unsafe { (&raw mut (*this).flags).write(flags) };
            // SAFETY: As above; only the address is taken.
            let item: *mut bindings::list_head = unsafe { &raw mut (*this).item }.cast();
            // SAFETY: As above. An item that is on no list leads to itself.
            unsafe { (*item).next = item };
            // SAFETY: As above.
            unsafe { (*item).prev = item };
        };
        // SAFETY: `init` fills in all fields; what is left is a bitmap, which may be zero.
        unsafe { Reserved::new(ctx, init) }
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
    pub(crate) fn is_automatic(&self) -> bool {
        self.flags & AUTO_DOMAIN != 0
    }

    /// Whether nested hwpts can be made on it.
    pub(crate) fn is_nest_parent(&self) -> bool {
        self.flags & IS_NEST_PARENT != 0
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
        self.flags & ENFORCE_CACHE_COHERENCY != 0
    }

    /// Where the link of an IOAS's list is.
    pub(super) const ITEM: usize = offset_of!(Self, item);

    pub(super) fn item(&self) -> *mut bindings::list_head {
        self.item.get()
    }

    /// Whether it is on its IOAS's list. Who asks has the hwpt for itself.
    fn is_listed(&self) -> bool {
        let item = self.item();
        // SAFETY: Only who has the hwpt for itself changes whether it is on a list.
        !core::ptr::eq(unsafe { (*item).next }, item)
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

impl Drop for PagingHwpt {
    fn drop(&mut self) {
        if self.is_listed() {
            self.ioas.lock().unlink(self);
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
#[repr(C)]
pub(crate) struct NestedHwpt {
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

// SAFETY: It begins with the head.
unsafe impl Head for NestedHwpt {}
// SAFETY: Only `reserve()` makes objects of this kind.
unsafe impl Kind for NestedHwpt {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED);
}

impl NestedHwpt {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn reserve(ctx: &Ctx, below: Below, parts: Parts) -> Result<Reserved<'_, Self>> {
        let init = |this: *mut Self| {
            // SAFETY: `this` is zeroed memory for a hwpt.
            unsafe { Hwpt::init(this.cast(), parts) };
            // SAFETY: As above.
            unsafe { (&raw mut (*this).below).write(below) };
        };
        // SAFETY: `init` fills in all fields.
        unsafe { Reserved::new(ctx, init) }
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

/// Destroys a paging hwpt that was published.
///
/// # Safety
///
/// As the C prototype asks for.
#[export]
pub(crate) unsafe extern "C" fn iommufd_hwpt_paging_destroy(obj: *mut bindings::iommufd_object) {
    // SAFETY: The table gives the object away; it is complete and of this kind.
    unsafe { obj.cast::<PagingHwpt>().drop_in_place() };
}

/// Destroys a nested hwpt.
///
/// # Safety
///
/// As the C prototype asks for.
#[export]
pub(crate) unsafe extern "C" fn iommufd_hwpt_nested_destroy(obj: *mut bindings::iommufd_object) {
    // SAFETY: The table gives the object away; it is complete and of this kind.
    unsafe { obj.cast::<NestedHwpt>().drop_in_place() };
}
