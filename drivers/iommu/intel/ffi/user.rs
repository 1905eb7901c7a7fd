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
        domain::Head,
        user_data::UserStruct, //
    },
    prelude::*, //
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

/// The domain that a new one is to be nested on.
///
/// # Invariants
///
/// Points to a paging domain of this driver that is a nest parent, and that stays as long as
/// domains are nested on it.
pub(crate) struct Parent(NonNull<bindings::dmar_domain>);

impl Parent {
    /// Wraps a domain that can be a parent.
    ///
    /// # Safety
    ///
    /// `ptr` is a domain, of any driver, and stays as long as domains are nested on it.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::iommu_domain) -> Option<Self> {
        // SAFETY: By the safety requirement.
        let suits = unsafe { bindings::vtd_is_nest_parent(ptr) };
        // INVARIANT: Only a paging domain of this driver has said yes.
        NonNull::new(ptr.cast()).filter(|_| suits).map(Self)
    }
}

/// `struct dmar_domain` as a nested domain begins with it.
#[repr(transparent)]
pub(crate) struct NestedHead(bindings::dmar_domain);

// SAFETY: A `struct dmar_domain` begins with the `iommu_domain`, and is of plain data. There are
// no such operations.
unsafe impl Head for NestedHead {
    type Config = (Parent, HwptVtdS1);

    /// `EINVAL`: another domain of the parent's has the same table in another mode.
    unsafe fn init(this: *mut Self, (parent, asked): &Self::Config) -> Result {
        let (this, asked) = (this.cast(), ptr::from_ref(asked).cast());
        // SAFETY: It is zero, and by the invariant of `Parent` that stays as long. What was asked
        // has the layout of the C structure, which is copied.
        to_result(unsafe { bindings::vtd_nested_init(this, parent.0.as_ptr(), asked) })
    }

    unsafe fn deinit(this: *mut Self) {
        // SAFETY: By the contract of this function.
        unsafe { bindings::vtd_nested_deinit(this.cast()) };
    }
}
