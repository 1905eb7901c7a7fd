// SPDX-License-Identifier: GPL-2.0-only

//! The rows of the dispatch table, and the user API under the names that the logic uses.

use super::{
    device,
    ucmd::UserStruct, //
};
use crate::ioctl::Entry;
use core::{
    mem::size_of,
    ptr, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

pub(crate) const CMD_BASE: u32 = bindings::IOMMUFD_CMD_BASE;

/// `_IO(IOMMUFD_TYPE, nr)`: the structures carry their sizes themselves.
#[inline(always)]
pub(crate) const fn number(nr: u32) -> u32 {
    kernel::ioctl::_IO(b';' as u32, nr)
}

/// The size of the field that `_get` gives, in bytes.
pub(crate) const fn field_size<S, F>(_get: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// The offset behind a field, in bytes.
macro_rules! end_of {
    ($struct:ty, $field:ident) => {
        core::mem::offset_of!($struct, $field)
            + $crate::ffi::handlers::field_size(|s: &$struct| &s.$field)
    };
}
pub(crate) use end_of;

/// All ioctls of `/dev/iommu`.
pub(crate) const ALL: &[Entry] = &[
    Entry::of::<uapi::Destroy>(),
    Entry::of::<uapi::FaultAlloc>(),
    Entry::of::<device::uapi::HwInfo>(),
    Entry::of::<uapi::HwQueueAlloc>(),
    Entry::of::<uapi::hwpt::HwptAlloc>(),
    Entry::of::<uapi::hwpt::GetDirtyBitmap>(),
    Entry::of::<uapi::hwpt::HwptInvalidate>(),
    Entry::of::<uapi::hwpt::SetDirtyTracking>(),
    Entry::of::<uapi::IoasAlloc>(),
    Entry::of::<uapi::IoasAllowIovas>(),
    Entry::of::<uapi::IoasChangeProcess>(),
    Entry::of::<uapi::IoasCopy>(),
    Entry::of::<uapi::IoasIovaRanges>(),
    Entry::of::<uapi::IoasMap>(),
    Entry::of::<uapi::IoasMapFile>(),
    Entry::of::<uapi::IoasNoiommuGetPa>(),
    Entry::of::<uapi::IoasUnmap>(),
    Entry::of::<uapi::OptionCmd>(),
    Entry::of::<uapi::VdeviceAlloc>(),
    Entry::of::<uapi::VeventqAlloc>(),
    Entry::of::<uapi::VfioIoas>(),
    Entry::of::<uapi::ViommuAlloc>(),
    #[cfg(CONFIG_IOMMUFD_TEST)]
    Entry::new(
        number(CMD_BASE + 32),
        size_of::<bindings::iommu_test_cmd>(),
        end_of!(bindings::iommu_test_cmd, last),
        super::selftest::test,
    ),
];

/// The first bytes of a structure, as many as there is room for.
pub(crate) fn head_of<T: UserStruct>(value: &T, room: usize) -> &[u8] {
    let length = size_of::<T>().min(room);
    // SAFETY: Such structures have no padding, and are at least that long.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(value).cast(), length) }
}

/// Whether the caller may change what it is limited by (`CAP_SYS_RESOURCE`).
pub(crate) fn may_change_limits() -> bool {
    // SAFETY: Asks about the current task.
    unsafe { bindings::capable(bindings::CAP_SYS_RESOURCE as c_int) }
}

/// Whether the caller may see physical addresses (`CAP_SYS_RAWIO`).
pub(crate) fn may_see_physical() -> bool {
    // SAFETY: Asks about the current task.
    unsafe { bindings::capable(bindings::CAP_SYS_RAWIO as c_int) }
}

/// The first word of every structure: its size in user space, in bytes.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn user_size(arg: usize) -> Result<u32> {
    let mut size = 0;
    // SAFETY: The address is checked.
    to_result(unsafe { bindings::iommu_get_user(&mut size, ptr::without_provenance(arg)) })?;
    Ok(size)
}

/// The structures and constants of the user API, under the names that the logic uses.
pub(crate) mod uapi {
    use kernel::bindings;

    pub(crate) use bindings::{
        iommu_destroy as Destroy,
        iommu_fault_alloc as FaultAlloc,
        iommu_hw_queue_alloc as HwQueueAlloc,
        iommu_hw_queue_type_IOMMU_HW_QUEUE_TYPE_DEFAULT as HW_QUEUE_TYPE_DEFAULT,
        iommu_hwpt_page_response as HwptPageResponse,
        iommu_hwpt_pgfault as HwptPgfault,
        iommu_ioas_alloc as IoasAlloc,
        iommu_ioas_allow_iovas as IoasAllowIovas,
        iommu_ioas_change_process as IoasChangeProcess,
        iommu_ioas_copy as IoasCopy,
        iommu_ioas_iova_ranges as IoasIovaRanges,
        iommu_ioas_map as IoasMap,
        iommu_ioas_map_file as IoasMapFile,
        iommu_ioas_noiommu_get_pa as IoasNoiommuGetPa,
        iommu_ioas_unmap as IoasUnmap,
        iommu_iova_range as IovaRange,
        iommu_option as OptionCmd,
        iommu_vdevice_alloc as VdeviceAlloc,
        iommu_veventq_alloc as VeventqAlloc,
        iommu_veventq_flag_IOMMU_VEVENTQ_FLAG_LOST_EVENTS as VEVENTQ_FLAG_LOST_EVENTS,
        iommu_veventq_type_IOMMU_VEVENTQ_TYPE_DEFAULT as VEVENTQ_TYPE_DEFAULT,
        iommu_vfio_ioas as VfioIoas,
        iommu_viommu_alloc as ViommuAlloc,
        iommu_viommu_type_IOMMU_VIOMMU_TYPE_DEFAULT as VIOMMU_TYPE_DEFAULT,
        iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA as MAP_FIXED_IOVA,
        iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE as MAP_READABLE,
        iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE as MAP_WRITEABLE,
        iommufd_option_IOMMU_OPTION_HUGE_PAGES as OPTION_HUGE_PAGES,
        iommufd_option_IOMMU_OPTION_RLIMIT_MODE as OPTION_RLIMIT_MODE,
        iommufd_option_ops_IOMMU_OPTION_OP_GET as OPTION_OP_GET,
        iommufd_option_ops_IOMMU_OPTION_OP_SET as OPTION_OP_SET,
        iommufd_page_response_code_IOMMUFD_PAGE_RESP_INVALID as PAGE_RESP_INVALID,
        iommufd_page_response_code_IOMMUFD_PAGE_RESP_SUCCESS as PAGE_RESP_SUCCESS,
        iommufd_vevent_header as VeventHeader,
        IOMMUFD_CMD_DESTROY as CMD_DESTROY,
        IOMMUFD_CMD_FAULT_QUEUE_ALLOC as CMD_FAULT_QUEUE_ALLOC,
        IOMMUFD_CMD_HW_QUEUE_ALLOC as CMD_HW_QUEUE_ALLOC,
        IOMMUFD_CMD_IOAS_ALLOC as CMD_IOAS_ALLOC,
        IOMMUFD_CMD_IOAS_ALLOW_IOVAS as CMD_IOAS_ALLOW_IOVAS,
        IOMMUFD_CMD_IOAS_CHANGE_PROCESS as CMD_IOAS_CHANGE_PROCESS,
        IOMMUFD_CMD_IOAS_COPY as CMD_IOAS_COPY,
        IOMMUFD_CMD_IOAS_IOVA_RANGES as CMD_IOAS_IOVA_RANGES,
        IOMMUFD_CMD_IOAS_MAP as CMD_IOAS_MAP,
        IOMMUFD_CMD_IOAS_MAP_FILE as CMD_IOAS_MAP_FILE,
        IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA as CMD_IOAS_NOIOMMU_GET_PA,
        IOMMUFD_CMD_IOAS_UNMAP as CMD_IOAS_UNMAP,
        IOMMUFD_CMD_OPTION as CMD_OPTION,
        IOMMUFD_CMD_VDEVICE_ALLOC as CMD_VDEVICE_ALLOC,
        IOMMUFD_CMD_VEVENTQ_ALLOC as CMD_VEVENTQ_ALLOC,
        IOMMUFD_CMD_VFIO_IOAS as CMD_VFIO_IOAS,
        IOMMUFD_CMD_VIOMMU_ALLOC as CMD_VIOMMU_ALLOC, //
    };

    // VFIO's.
    pub(crate) use bindings::{
        iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_CLEAR as VFIO_IOAS_CLEAR,
        iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_GET as VFIO_IOAS_GET,
        iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_SET as VFIO_IOAS_SET,
        vfio_info_cap_header as VfioCapHeader,
        vfio_iommu_type1_dma_map as VfioDmaMap,
        vfio_iommu_type1_dma_unmap as VfioDmaUnmap,
        vfio_iommu_type1_info as VfioInfo,
        vfio_iommu_type1_info_cap_iova_range as VfioIovaCap,
        vfio_iommu_type1_info_dma_avail as VfioDmaAvail,
        vfio_iova_range as VfioIovaRange,
        VFIO_TYPE1v2_IOMMU as VFIO_TYPE1V2_IOMMU,
        VFIO_API_VERSION,
        VFIO_DMA_CC_IOMMU,
        VFIO_DMA_MAP_FLAG_READ,
        VFIO_DMA_MAP_FLAG_WRITE,
        VFIO_DMA_UNMAP_FLAG_ALL,
        VFIO_IOMMU_INFO_CAPS,
        VFIO_IOMMU_INFO_PGSIZES,
        VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
        VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
        VFIO_NOIOMMU_IOMMU,
        VFIO_TYPE1_IOMMU,
        VFIO_UNMAP_ALL, //
    };

    pub(crate) use super::hwpt_uapi as hwpt;

    const fn vfio(nr: u32) -> u32 {
        super::number(bindings::VFIO_BASE + nr)
    }
    pub(crate) const VFIO_GET_API_VERSION: u32 = vfio(0);
    pub(crate) const VFIO_CHECK_EXTENSION: u32 = vfio(1);
    pub(crate) const VFIO_SET_IOMMU: u32 = vfio(2);
    pub(crate) const VFIO_IOMMU_GET_INFO: u32 = vfio(12);
    pub(crate) const VFIO_IOMMU_MAP_DMA: u32 = vfio(13);
    pub(crate) const VFIO_IOMMU_UNMAP_DMA: u32 = vfio(14);
}

/// Those for hwpts.
pub(crate) mod hwpt_uapi {
    pub(crate) use kernel::bindings::{
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

macro_rules! user_structs {
    ($($($name:ident)::+),* $(,)?) => {
        // SAFETY: The UAPI header gives them integers of fixed size only, without padding.
        $(unsafe impl UserStruct for uapi::$($name)::+ {})*
    };
}
user_structs!(
    hwpt::GetDirtyBitmap,
    hwpt::HwptAlloc,
    hwpt::HwptInvalidate,
    hwpt::SetDirtyTracking,
    Destroy,
    FaultAlloc,
    HwQueueAlloc,
    HwptPageResponse,
    HwptPgfault,
    IoasAlloc,
    IoasAllowIovas,
    IoasChangeProcess,
    IoasCopy,
    IoasIovaRanges,
    IoasMap,
    IoasMapFile,
    IoasNoiommuGetPa,
    IoasUnmap,
    IovaRange,
    OptionCmd,
    VdeviceAlloc,
    VeventHeader,
    VeventqAlloc,
    VfioDmaAvail,
    VfioDmaMap,
    VfioDmaUnmap,
    VfioInfo,
    VfioIoas,
    VfioIovaCap,
    VfioIovaRange,
    ViommuAlloc,
);

// SAFETY: Integers.
unsafe impl<const N: usize> UserStruct for [u32; N] {}
