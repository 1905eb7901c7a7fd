// SPDX-License-Identifier: GPL-2.0-only

//! The structures and numbers of `iommufd_test.h`, as user space sends them.
//!
//! All of them are plain data: any bits are valid, and no member is trusted before it was
//! checked. That they agree with the C header is checked when this crate is compiled, in
//! `ffi/selftest.rs`.

use kernel::{
    iommu::user_data::UserStruct,
    prelude::*, //
};
use zerocopy_derive::Immutable;

/// `IOMMU_HWPT_DATA_*`: none.
pub(crate) const HWPT_DATA_NONE: u32 = 0;
/// `IOMMU_HWPT_DATA_SELFTEST`.
pub(crate) const HWPT_DATA_SELFTEST: u32 = 0xdead;
/// `IOMMU_HW_INFO_TYPE_*`: any.
pub(crate) const HW_INFO_TYPE_DEFAULT: u32 = 0;
/// `IOMMU_HW_INFO_TYPE_SELFTEST`.
pub(crate) const HW_INFO_TYPE_SELFTEST: u32 = 0xfeed_beef;
/// `IOMMU_HW_INFO_SELFTEST_REGVAL`: what the hardware's register reads.
pub(crate) const HW_INFO_REGVAL: u32 = 0xdead_beef;
/// `IOMMU_VIOMMU_TYPE_SELFTEST`.
pub(crate) const VIOMMU_TYPE_SELFTEST: u32 = 0xdead_beef;
/// `IOMMU_VEVENTQ_TYPE_SELFTEST`.
pub(crate) const VEVENTQ_TYPE_SELFTEST: u32 = 0xbeef_beef;
/// `IOMMU_HW_QUEUE_TYPE_SELFTEST`.
pub(crate) const HW_QUEUE_TYPE_SELFTEST: u32 = 0xdead_beef;
/// `IOMMU_TEST_HW_QUEUE_MAX`: how many hardware queues a vIOMMU has.
pub(crate) const HW_QUEUES: usize = 2;
/// `MOCK_NESTED_DOMAIN_IOTLB_NUM`: entries of the software IOTLB.
pub(crate) const IOTLB_ENTRIES: usize = 4;
/// `MOCK_DEV_CACHE_NUM`: entries of a device's cache.
pub(crate) const CACHE_ENTRIES: usize = 4;
/// `IOMMU_TEST_DEV_CACHE_DEFAULT`: what a device's cache holds at first.
pub(crate) const CACHE_DEFAULT: u32 = 0x00ba_ddad;
/// `IOMMU_TEST_INVALIDATE_FLAG_ALL`: all entries instead of one.
pub(crate) const INVALIDATE_ALL: u32 = 1;
/// `IOMMU_TEST_PASID_RESERVED`: attaching this one fails every second time.
pub(crate) const PASID_RESERVED: u32 = 1024;
/// `MOCK_PASID_WIDTH`: bits of a PASID.
pub(crate) const PASID_WIDTH: u32 = 20;
/// `MOCK_IOMMUPT_DEFAULT`: a page table with a small aperture.
pub(crate) const IOMMUPT_DEFAULT: u32 = 0;
/// `MOCK_IOMMUPT_HUGE`: a page table for large pages.
pub(crate) const IOMMUPT_HUGE: u32 = 1;
/// `MOCK_APERTURE_START`.
pub(crate) const APERTURE_FIRST: u64 = 1 << 24;
/// `MOCK_APERTURE_LAST`.
pub(crate) const APERTURE_LAST: u64 = (1 << 31) - 1;
/// `MOCK_HUGE_PAGE_SIZE`.
pub(crate) const HUGE_PAGE_SIZE: usize = 512 * 2048;
/// `MOCK_FLAGS_DEVICE_NO_DIRTY`: the device cannot track what it writes.
pub(crate) const DEVICE_NO_DIRTY: u32 = 1 << 0;
/// `MOCK_FLAGS_DEVICE_PASID`: the device has PASIDs.
pub(crate) const DEVICE_PASID: u32 = 1 << 2;
/// `MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES`.
pub(crate) const ACCESS_NEEDS_PIN_PAGES: u32 = 1 << 0;
/// `MOCK_FLAGS_ACCESS_WRITE`, `MOCK_ACCESS_RW_WRITE`.
pub(crate) const ACCESS_WRITE: u32 = 1 << 0;
/// `MOCK_ACCESS_RW_SLOW_PATH`.
pub(crate) const ACCESS_SLOW_PATH: u32 = 1 << 2;
/// `MOCK_FLAGS_ACCESS_SYZ`: the IOVA is the number of a mapping and an offset.
pub(crate) const ACCESS_SYZ: u32 = 1 << 16;

/// The numbers of the commands, `IOMMU_TEST_OP_*`.
pub(crate) mod op {
    pub(crate) const ADD_RESERVED: u32 = 1;
    pub(crate) const MOCK_DOMAIN: u32 = 2;
    pub(crate) const MD_CHECK_MAP: u32 = 3;
    pub(crate) const MD_CHECK_REFS: u32 = 4;
    pub(crate) const CREATE_ACCESS: u32 = 5;
    pub(crate) const DESTROY_ACCESS_PAGES: u32 = 6;
    pub(crate) const ACCESS_PAGES: u32 = 7;
    pub(crate) const ACCESS_RW: u32 = 8;
    pub(crate) const SET_TEMP_MEMORY_LIMIT: u32 = 9;
    pub(crate) const MOCK_DOMAIN_REPLACE: u32 = 10;
    pub(crate) const ACCESS_REPLACE_IOAS: u32 = 11;
    pub(crate) const MOCK_DOMAIN_FLAGS: u32 = 12;
    pub(crate) const DIRTY: u32 = 13;
    pub(crate) const MD_CHECK_IOTLB: u32 = 14;
    pub(crate) const TRIGGER_IOPF: u32 = 15;
    pub(crate) const DEV_CHECK_CACHE: u32 = 16;
    pub(crate) const TRIGGER_VEVENT: u32 = 17;
    pub(crate) const PASID_ATTACH: u32 = 18;
    pub(crate) const PASID_REPLACE: u32 = 19;
    pub(crate) const PASID_DETACH: u32 = 20;
    pub(crate) const PASID_CHECK_HWPT: u32 = 21;
    pub(crate) const DMABUF_GET: u32 = 22;
    pub(crate) const DMABUF_REVOKE: u32 = 23;
}

/// `struct iommu_hwpt_selftest`.
#[repr(C)]
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
pub(crate) struct HwptData {
    /// What the software IOTLB holds at first.
    pub(crate) iotlb: u32,
    /// `MOCK_IOMMUPT_*`.
    pub(crate) pagetable_type: u32,
}

impl UserStruct for HwptData {
    const TYPE: u32 = HWPT_DATA_SELFTEST;
    const MIN_LEN: usize = 4;
}

/// `struct iommu_hwpt_invalidate_selftest`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
pub(crate) struct HwptInvalidate {
    /// `IOMMU_TEST_INVALIDATE_FLAG_*`.
    pub(crate) flags: u32,
    /// Which entry.
    pub(crate) iotlb_id: u32,
}

impl UserStruct for HwptInvalidate {
    const TYPE: u32 = 0xdead_beef;
    const MIN_LEN: usize = 8;
}

/// `struct iommu_viommu_invalidate_selftest`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
pub(crate) struct ViommuInvalidate {
    /// `IOMMU_TEST_INVALIDATE_FLAG_*`.
    pub(crate) flags: u32,
    /// What the virtual machine calls the device.
    pub(crate) vdev_id: u32,
    /// Which entry.
    pub(crate) cache_id: u32,
}

impl UserStruct for ViommuInvalidate {
    const TYPE: u32 = 0xdead_beef;
    const MIN_LEN: usize = 12;
}

/// `struct iommu_viommu_selftest`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
pub(crate) struct ViommuData {
    /// Any number.
    pub(crate) in_data: u32,
    /// The same number.
    pub(crate) out_data: u32,
    /// Where to mmap().
    pub(crate) out_mmap_offset: u64,
    /// How much of it, in bytes.
    pub(crate) out_mmap_length: u64,
}

impl UserStruct for ViommuData {
    const TYPE: u32 = VIOMMU_TYPE_SELFTEST;
    const MIN_LEN: usize = 8;
}

/// `struct iommu_viommu_event_selftest`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
pub(crate) struct Vevent {
    /// What the virtual machine calls the device.
    pub(crate) virt_id: u32,
}

/// `struct iommu_test_hw_info`.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
pub(crate) struct HwInfoData {
    /// None.
    pub(crate) flags: u32,
    /// What the register reads.
    pub(crate) test_reg: u32,
}

macro_rules! args {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
            pub(crate) struct $name {
                $(#[doc = concat!("`", stringify!($field), "` of the C structure.")]
                pub(crate) $field: $type,)*
            }
        )*
    };
}

args! {
    /// Arguments of `ADD_RESERVED`.
    AddReserved { start: u64, length: u64 }
    /// Arguments of `MOCK_DOMAIN` and `MOCK_DOMAIN_FLAGS`; the former has no flags.
    MockDomain { out_stdev_id: u32, out_hwpt_id: u32, out_idev_id: u32, dev_flags: u32 }
    /// Arguments of `MD_CHECK_MAP`.
    CheckMap { iova: u64, length: u64, uptr: u64 }
    /// Arguments of `MD_CHECK_REFS`.
    CheckRefs { length: u64, uptr: u64, refs: u32, pad: u32 }
    /// Arguments of `CREATE_ACCESS`.
    CreateAccess { out_access_fd: u32, flags: u32 }
    /// Arguments of `ACCESS_PAGES`.
    AccessPages { flags: u32, out_access_pages_id: u32, iova: u64, length: u64, uptr: u64 }
    /// Arguments of `ACCESS_RW`.
    AccessRw { iova: u64, length: u64, uptr: u64, flags: u32, pad: u32 }
    /// Arguments of `DIRTY`.
    Dirty {
        flags: u32,
        pad: u32,
        iova: u64,
        length: u64,
        page_size: u64,
        uptr: u64,
        out_nr_dirty: u64,
    }
    /// Arguments of `MD_CHECK_IOTLB` and `DEV_CHECK_CACHE`.
    CheckEntry { id: u32, value: u32 }
    /// Arguments of `TRIGGER_IOPF`.
    TriggerIopf { dev_id: u32, pasid: u32, grpid: u32, perm: u32, addr: u64 }
    /// Arguments of `PASID_ATTACH`, `PASID_REPLACE` and `PASID_CHECK_HWPT`.
    PasidPt { pasid: u32, pt_id: u32 }
    /// Arguments of `DMABUF_GET`.
    DmabufGet { length: u32, open_flags: u32 }
    /// Arguments of `DMABUF_REVOKE`.
    DmabufRevoke { dmabuf_fd: i32, revoked: u32 }
}
