// SPDX-License-Identifier: GPL-2.0-only

//! What the mock driver needs of C, and what C calls in it.
//!
//! Each submodule makes one facility safe. The functions that the rest of iommufd calls by their
//! C prototype are the `#[export]`s here; each only turns its arguments into Rust and hands them
//! on.
//!
//! C header: `drivers/iommu/iommufd/iommufd_private.h`

use crate::selftest::{
    self,
    uapi, //
};
use kernel::{
    bindings,
    error::from_result,
    iommu::user_data::UserStruct,
    prelude::*, //
};

pub(crate) mod access;
pub(crate) mod bound;
pub(crate) mod device;
pub(crate) mod dmabuf;
pub(crate) mod object;
pub(crate) mod page;
pub(crate) mod pagetable;
pub(crate) mod registration;

// `uapi` says the same as the C header.
macro_rules! same {
    (values: $($rust:expr => $c:ident),* $(,)?) => {
        $(const _: () = assert!($rust as u64 == bindings::$c as u64);)*
    };
    (structs: $($rust:ident => $c:ident),* $(,)?) => {
        $(const _: () = assert!(size_of::<uapi::$rust>() == size_of::<bindings::$c>());)*
    };
    (args: $($rust:ident { $($field:ident),* } => $c:ident),* $(,)?) => {
        $($(const _: () = assert!(
            core::mem::offset_of!(uapi::$rust, $field)
                + core::mem::offset_of!(bindings::iommu_test_cmd, __bindgen_anon_1)
                == core::mem::offset_of!(bindings::iommu_test_cmd, __bindgen_anon_1.$c.$field)
        );)*)*
    };
}
same!(values:
    uapi::HWPT_DATA_NONE => iommu_hwpt_data_type_IOMMU_HWPT_DATA_NONE,
    uapi::HWPT_DATA_SELFTEST => IOMMU_HWPT_DATA_SELFTEST,
    uapi::HW_INFO_TYPE_DEFAULT => iommu_hw_info_type_IOMMU_HW_INFO_TYPE_DEFAULT,
    uapi::HW_INFO_TYPE_SELFTEST => IOMMU_HW_INFO_TYPE_SELFTEST,
    uapi::HW_INFO_REGVAL => IOMMU_HW_INFO_SELFTEST_REGVAL,
    uapi::VIOMMU_TYPE_SELFTEST => IOMMU_VIOMMU_TYPE_SELFTEST,
    uapi::VEVENTQ_TYPE_SELFTEST => IOMMU_VEVENTQ_TYPE_SELFTEST,
    uapi::HW_QUEUE_TYPE_SELFTEST => IOMMU_HW_QUEUE_TYPE_SELFTEST,
    uapi::HW_QUEUES => IOMMU_TEST_HW_QUEUE_MAX,
    uapi::IOTLB_ENTRIES => MOCK_NESTED_DOMAIN_IOTLB_NUM,
    uapi::CACHE_ENTRIES => MOCK_DEV_CACHE_NUM,
    uapi::CACHE_DEFAULT => IOMMU_TEST_DEV_CACHE_DEFAULT,
    uapi::INVALIDATE_ALL => IOMMU_TEST_INVALIDATE_FLAG_ALL,
    uapi::PASID_RESERVED => IOMMU_TEST_PASID_RESERVED,
    uapi::PASID_WIDTH => MOCK_PASID_WIDTH,
    uapi::IOMMUPT_DEFAULT => MOCK_IOMMUPT_DEFAULT,
    uapi::IOMMUPT_HUGE => MOCK_IOMMUPT_HUGE,
    uapi::APERTURE_FIRST => MOCK_APERTURE_START,
    uapi::APERTURE_LAST => MOCK_APERTURE_LAST,
    uapi::HUGE_PAGE_SIZE => MOCK_HUGE_PAGE_SIZE,
    uapi::DEVICE_NO_DIRTY => MOCK_FLAGS_DEVICE_NO_DIRTY,
    uapi::DEVICE_PASID => MOCK_FLAGS_DEVICE_PASID,
    uapi::ACCESS_NEEDS_PIN_PAGES => MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES,
    uapi::ACCESS_WRITE => MOCK_FLAGS_ACCESS_WRITE,
    uapi::ACCESS_WRITE => IOMMUFD_ACCESS_RW_WRITE,
    uapi::ACCESS_SLOW_PATH => __IOMMUFD_ACCESS_RW_SLOW_PATH,
    uapi::ACCESS_SYZ => MOCK_FLAGS_ACCESS_SYZ,
    uapi::HwptInvalidate::TYPE => IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
    uapi::ViommuInvalidate::TYPE => IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
    uapi::op::ADD_RESERVED => IOMMU_TEST_OP_ADD_RESERVED,
    uapi::op::MOCK_DOMAIN => IOMMU_TEST_OP_MOCK_DOMAIN,
    uapi::op::MD_CHECK_MAP => IOMMU_TEST_OP_MD_CHECK_MAP,
    uapi::op::MD_CHECK_REFS => IOMMU_TEST_OP_MD_CHECK_REFS,
    uapi::op::CREATE_ACCESS => IOMMU_TEST_OP_CREATE_ACCESS,
    uapi::op::DESTROY_ACCESS_PAGES => IOMMU_TEST_OP_DESTROY_ACCESS_PAGES,
    uapi::op::ACCESS_PAGES => IOMMU_TEST_OP_ACCESS_PAGES,
    uapi::op::ACCESS_RW => IOMMU_TEST_OP_ACCESS_RW,
    uapi::op::SET_TEMP_MEMORY_LIMIT => IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT,
    uapi::op::MOCK_DOMAIN_REPLACE => IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
    uapi::op::ACCESS_REPLACE_IOAS => IOMMU_TEST_OP_ACCESS_REPLACE_IOAS,
    uapi::op::MOCK_DOMAIN_FLAGS => IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
    uapi::op::DIRTY => IOMMU_TEST_OP_DIRTY,
    uapi::op::MD_CHECK_IOTLB => IOMMU_TEST_OP_MD_CHECK_IOTLB,
    uapi::op::TRIGGER_IOPF => IOMMU_TEST_OP_TRIGGER_IOPF,
    uapi::op::DEV_CHECK_CACHE => IOMMU_TEST_OP_DEV_CHECK_CACHE,
    uapi::op::TRIGGER_VEVENT => IOMMU_TEST_OP_TRIGGER_VEVENT,
    uapi::op::PASID_ATTACH => IOMMU_TEST_OP_PASID_ATTACH,
    uapi::op::PASID_REPLACE => IOMMU_TEST_OP_PASID_REPLACE,
    uapi::op::PASID_DETACH => IOMMU_TEST_OP_PASID_DETACH,
    uapi::op::PASID_CHECK_HWPT => IOMMU_TEST_OP_PASID_CHECK_HWPT,
    uapi::op::DMABUF_GET => IOMMU_TEST_OP_DMABUF_GET,
    uapi::op::DMABUF_REVOKE => IOMMU_TEST_OP_DMABUF_REVOKE,
);
same!(structs:
    HwptData => iommu_hwpt_selftest,
    HwptInvalidate => iommu_hwpt_invalidate_selftest,
    ViommuInvalidate => iommu_viommu_invalidate_selftest,
    ViommuData => iommu_viommu_selftest,
    Vevent => iommu_viommu_event_selftest,
    HwInfoData => iommu_test_hw_info,
);
same!(args:
    AddReserved { start, length } => add_reserved,
    MockDomain { out_stdev_id, out_hwpt_id, out_idev_id, dev_flags } => mock_domain_flags,
    CheckMap { iova, length, uptr } => check_map,
    CheckRefs { length, uptr, refs } => check_refs,
    CreateAccess { out_access_fd, flags } => create_access,
    AccessPages { flags, out_access_pages_id, iova, length, uptr } => access_pages,
    AccessRw { iova, length, uptr, flags } => access_rw,
    Dirty { flags, iova, length, page_size, uptr, out_nr_dirty } => dirty,
    TriggerIopf { dev_id, pasid, grpid, perm, addr } => trigger_iopf,
    PasidPt { pasid, pt_id } => pasid_attach,
    DmabufGet { length, open_flags } => dmabuf_get,
    DmabufRevoke { dmabuf_fd, revoked } => dmabuf_revoke,
);

#[cfg(MODULE)]
#[link_section = ".modinfo"]
#[used(compiler)]
static IMPORTS: [u8; 27] = *b"import_ns=GENERIC_PT_IOMMU\0";

/// The ioctl.
///
/// # Safety
///
/// `ucmd` is an ioctl of this context that carries a `struct iommu_test_cmd`.
pub(crate) unsafe extern "C" fn test(ucmd: *mut bindings::iommufd_ucmd) -> c_int {
    // SAFETY: The ioctl is on the stack of the caller, and nobody else uses it.
    let mut ucmd = unsafe { object::Ucmd::from_raw(ucmd) };
    from_result(|| selftest::test_ioctl::run(&mut ucmd))
}

/// Brings the mock IOMMU up.
#[export]
pub(crate) extern "C" fn iommufd_test_init() -> c_int {
    from_result(|| registration::register().map(|()| 0))
}

/// Takes the mock IOMMU down.
///
/// # Safety
///
/// `iommufd_test_init()` succeeded, and no descriptor of `/dev/iommu` is open.
#[export]
pub(crate) unsafe extern "C" fn iommufd_test_exit() {
    // SAFETY: No descriptor is open, and so there is no mock device.
    unsafe { registration::unregister() };
}
