// SPDX-License-Identifier: GPL-2.0-only

//! What a nested domain is to C, and what its users hand over.

use core::{
    mem::offset_of,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    bindings,
    error::to_result,
    iommu::{
        domain::{
            AnyDomain,
            Head, //
        },
        user_data::UserStruct, //
    },
    prelude::*,
    sync::Arc, //
};
use zerocopy_derive::Immutable;

use super::{
    domain::{
        DmarHead,
        SecondStageDomain, //
    },
    viommu::Did, //
};
use crate::{
    paging::Second,
    pasid_entry::{
        UserStage,
        WORDS, //
    },
};

/// `struct iommu_hwpt_vtd_s1`: a first stage of a user's.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes)]
pub(crate) struct HwptVtdS1 {
    flags: u64,
    /// Where its root is: a guest-physical address in bytes.
    pub(crate) pgtbl_addr: u64,
    /// Bits of an address that it translates.
    pub(crate) addr_width: u32,
    __reserved: u32,
}

const _: () = {
    type Raw = bindings::iommu_hwpt_vtd_s1;
    assert!(size_of::<HwptVtdS1>() == size_of::<Raw>());
    assert!(offset_of!(HwptVtdS1, flags) == offset_of!(Raw, flags));
    assert!(offset_of!(HwptVtdS1, pgtbl_addr) == offset_of!(Raw, pgtbl_addr));
    assert!(offset_of!(HwptVtdS1, addr_width) == offset_of!(Raw, addr_width));
};

impl UserStruct for HwptVtdS1 {
    const TYPE: u32 = bindings::iommu_hwpt_data_type_IOMMU_HWPT_DATA_VTD_S1;
    const MIN_LEN: usize = size_of::<Self>();
}

impl HwptVtdS1 {
    /// What a user would ask for to have this first stage.
    pub(crate) fn of(stage: &UserStage) -> Self {
        let flag = |on, flag: u32| if on { u64::from(flag) } else { 0 };
        Self {
            flags: flag(
                stage.supervisor,
                bindings::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_SRE,
            ) | flag(
                stage.write_protect,
                bindings::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_WPE,
            ) | flag(
                stage.extended_accessed,
                bindings::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_EAFE,
            ),
            pgtbl_addr: stage.root,
            addr_width: stage.levels.width(),
            __reserved: 0,
        }
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// `IOMMU_VTD_S1_SRE`: accesses by the supervisor.
    pub(crate) fn supervisor(&self) -> bool {
        self.has(bindings::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_SRE)
    }

    /// `IOMMU_VTD_S1_WPE`: the supervisor heeds write protection.
    pub(crate) fn write_protect(&self) -> bool {
        self.has(bindings::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_WPE)
    }

    /// `IOMMU_VTD_S1_EAFE`: extended accessed flags.
    pub(crate) fn extended_accessed(&self) -> bool {
        self.has(bindings::iommu_hwpt_vtd_s1_flags_IOMMU_VTD_S1_EAFE)
    }
}

/// `struct iommu_hwpt_vtd_s1_invalidate`: a range of which a user changed the translations.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes)]
pub(crate) struct HwptVtdS1Invalidate {
    /// The first address in bytes.
    pub(crate) addr: u64,
    /// How much, in 4 KiB; all ones means everything.
    pub(crate) npages: u64,
    /// `IOMMU_VTD_INV_FLAGS_*`.
    pub(crate) flags: u32,
    /// Zero.
    pub(crate) __reserved: u32,
}

const _: () = {
    type Raw = bindings::iommu_hwpt_vtd_s1_invalidate;
    assert!(size_of::<HwptVtdS1Invalidate>() == size_of::<Raw>());
    assert!(offset_of!(HwptVtdS1Invalidate, flags) == offset_of!(Raw, flags));
};

impl HwptVtdS1Invalidate {
    /// `IOMMU_VTD_INV_FLAGS_LEAF`: only leaves of the table changed.
    pub(crate) const LEAF: u32 =
        bindings::iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF;
}

impl UserStruct for HwptVtdS1Invalidate {
    const TYPE: u32 = bindings::iommu_hwpt_invalidate_data_type_IOMMU_HWPT_INVALIDATE_DATA_VTD_S1;
    const MIN_LEN: usize = size_of::<Self>();
}

/// `struct iommu_vtd_pasid_entry`: an entry of a guest's PASID table.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes)]
pub(crate) struct VtdPasidEntry {
    /// `IOMMU_VTD_PE_*`.
    pub(crate) flags: u32,
    /// Zero.
    pub(crate) __reserved: u32,
    /// Its words.
    pub(crate) pe: [u64; WORDS],
}

const _: () = {
    type Raw = bindings::iommu_vtd_pasid_entry;
    assert!(size_of::<VtdPasidEntry>() == size_of::<Raw>());
    assert!(offset_of!(VtdPasidEntry, pe) == offset_of!(Raw, pe));
};

impl UserStruct for VtdPasidEntry {
    const TYPE: u32 = bindings::IOMMU_VTD_HWPT_DATA_PE;
    const MIN_LEN: usize = size_of::<Self>();
}

impl VtdPasidEntry {
    /// `IOMMU_VTD_PE_GUEST_ATS`: the guest invalidates Device-TLBs itself.
    pub(crate) const GUEST_ATS: u32 = bindings::iommu_vtd_pasid_entry_flags_IOMMU_VTD_PE_GUEST_ATS;
}

/// `struct iommu_vtd_inv_desc`: a descriptor of a queue of 256-bit ones.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes)]
pub(crate) struct WideDesc {
    /// Its words.
    pub(crate) qw: [u64; 4],
}

/// Its first half: a descriptor of a queue of 128-bit ones.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes)]
pub(crate) struct NarrowDesc {
    /// Its words.
    pub(crate) qw: [u64; 2],
}

const _: () = assert!(size_of::<WideDesc>() == size_of::<bindings::iommu_vtd_inv_desc>());

impl UserStruct for WideDesc {
    const TYPE: u32 = bindings::IOMMU_VTD_INVALIDATE_QI;
    const MIN_LEN: usize = size_of::<Self>();
}

impl UserStruct for NarrowDesc {
    const TYPE: u32 = WideDesc::TYPE;
    const MIN_LEN: usize = size_of::<Self>();
}

/// `struct iommu_vtd_fault`: a fault of a guest's device.
#[repr(C)]
#[derive(Immutable, IntoBytes)]
pub(crate) struct VtdFault {
    /// `IOMMU_VTD_FAULT_*`.
    pub(crate) flags: u32,
    /// Zero.
    pub(crate) __reserved: u32,
    /// The record's words.
    pub(crate) frcd: [u64; 2],
}

const _: () = {
    type Raw = bindings::iommu_vtd_fault;
    assert!(size_of::<VtdFault>() == size_of::<Raw>());
    assert!(offset_of!(VtdFault, frcd) == offset_of!(Raw, frcd));
};

impl VtdFault {
    /// The type of queue that these are for.
    pub(crate) const TYPE: u32 = bindings::IOMMU_VTD_VEVENTQ_FRCD;

    /// `IOMMU_VTD_FAULT_OVERFLOW`: others may have been lost before.
    pub(crate) const OVERFLOW: u32 = bindings::iommu_vtd_fault_flags_IOMMU_VTD_FAULT_OVERFLOW;
}

/// The most descriptors of a call.
pub(crate) const MAX_DESCS: u32 = bindings::IOMMU_VTD_INVALIDATE_QI_MAX;

/// The type of a guest's VT-d, which none that upstream counts up to can have.
pub(crate) const VIOMMU_TYPE: u32 = bindings::IOMMU_VTD_VIOMMU_TYPE;

const _: () = assert!(VIOMMU_TYPE > 0xffff && VtdPasidEntry::TYPE > 0xffff);
const _: () = assert!(WideDesc::TYPE > 0xffff && VtdFault::TYPE > 0xffff);

/// The domain that a new one is to be nested on.
///
/// # Invariants
///
/// Points to a [`Second`] that is a nest parent, and that stays as long as
/// domains are nested on it.
#[derive(Clone, Copy)]
pub(crate) struct Parent(NonNull<bindings::dmar_domain>);

impl Parent {
    /// Wraps a domain that can be a parent.
    ///
    /// # Safety
    ///
    /// `domain`, of whatever driver, stays as long as domains are nested on it.
    pub(super) unsafe fn of(domain: &AnyDomain) -> Option<Self> {
        let suits = domain
            .downcast::<Second>()
            .is_some_and(|domain| domain.is_parent());
        // INVARIANT: It is one, and stays as long.
        NonNull::new(domain.as_raw().cast())
            .filter(|_| suits)
            .map(Self)
    }

    /// The domain.
    pub(crate) fn domain(&self) -> SecondStageDomain<'_> {
        // SAFETY: By the invariant it is a paging domain; first stages are no parents.
        unsafe { SecondStageDomain::from_raw(self.0.as_ptr()) }
    }
}

// SAFETY: It is a pointer to a domain, which any thread may use.
unsafe impl Send for Parent {}
// SAFETY: A domain has locks of its own.
unsafe impl Sync for Parent {}

/// What a nested domain is made of.
pub(crate) struct NestedConfig {
    /// What it is nested on.
    pub(crate) parent: Parent,
    /// The first stage.
    pub(crate) asked: HwptVtdS1,
    /// The domain-id that it has in common with others; the domain's data keep it. With none the
    /// domain gets one of its own on each unit that it is used on.
    pub(crate) did: Option<Arc<Did>>,
}

/// `struct dmar_domain` as a nested domain begins with it.
#[repr(transparent)]
pub(crate) struct NestedHead(bindings::dmar_domain);

// SAFETY: A `struct dmar_domain` begins with the `iommu_domain`, and is of plain data. There are
// no such operations.
unsafe impl Head for NestedHead {
    type Config = NestedConfig;

    /// `EINVAL`: another domain of the parent's has the same table in another mode.
    unsafe fn init(this: *mut Self, config: &NestedConfig) -> Result {
        let domain: *mut bindings::dmar_domain = this.cast();
        let asked = ptr::from_ref(&config.asked).cast();
        // SAFETY: It is zero but for the core's part.
        unsafe { bindings::vtd_domain_init(domain) };
        // SAFETY: By the invariant of `Parent` that stays as long. What was asked has the layout
        // of the C structure, which is copied.
        to_result(unsafe { bindings::vtd_nested_init(domain, config.parent.0.as_ptr(), asked) })?;
        let Some(did) = &config.did else {
            return Ok(());
        };
        let unit = did.unit().as_raw();
        // SAFETY: It was initialised just now; the id is one of the unit's, which stays meanwhile.
        to_result(unsafe { bindings::vtd_nested_set_did(domain, unit, did.get()) }).inspect_err(
            // SAFETY: It was initialised, and nobody else knows it.
            |_| unsafe { bindings::vtd_nested_deinit(domain) },
        )
    }

    unsafe fn deinit(this: *mut Self) {
        // SAFETY: The caller has a nested domain that nobody uses any more.
        unsafe { bindings::vtd_nested_deinit(this.cast()) };
    }
}

// SAFETY: It is one, and `init()` does that.
unsafe impl DmarHead for NestedHead {}
