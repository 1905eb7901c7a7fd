// SPDX-License-Identifier: GPL-2.0-only

//! The rows of the dispatch table, and the ioctls that are still C.

use super::{
    context::Ctx,
    ucmd::{
        Ucmd,
        UserStruct, //
    }, //
};
use crate::ioctl::Entry;
use core::mem::size_of;
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
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

macro_rules! c_entry {
    ($nr:ident, $execute:ident, $struct:ident, $last:ident) => {
        Entry::new(
            number(bindings::$nr),
            size_of::<bindings::$struct>(),
            end_of!(bindings::$struct, $last),
            bindings::$execute,
        )
    };
}

/// All ioctls of `/dev/iommu`.
pub(crate) const ALL: &[Entry] = &[
    Entry::of::<uapi::Destroy>(),
    c_entry!(
        IOMMUFD_CMD_FAULT_QUEUE_ALLOC,
        iommufd_fault_alloc,
        iommu_fault_alloc,
        out_fault_fd
    ),
    c_entry!(
        IOMMUFD_CMD_GET_HW_INFO,
        iommufd_get_hw_info,
        iommu_hw_info,
        __reserved
    ),
    c_entry!(
        IOMMUFD_CMD_HW_QUEUE_ALLOC,
        iommufd_hw_queue_alloc_ioctl,
        iommu_hw_queue_alloc,
        length
    ),
    c_entry!(
        IOMMUFD_CMD_HWPT_ALLOC,
        iommufd_hwpt_alloc,
        iommu_hwpt_alloc,
        __reserved
    ),
    c_entry!(
        IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP,
        iommufd_hwpt_get_dirty_bitmap,
        iommu_hwpt_get_dirty_bitmap,
        data
    ),
    c_entry!(
        IOMMUFD_CMD_HWPT_INVALIDATE,
        iommufd_hwpt_invalidate,
        iommu_hwpt_invalidate,
        __reserved
    ),
    c_entry!(
        IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING,
        iommufd_hwpt_set_dirty_tracking,
        iommu_hwpt_set_dirty_tracking,
        __reserved
    ),
    c_entry!(
        IOMMUFD_CMD_IOAS_ALLOC,
        iommufd_ioas_alloc_ioctl,
        iommu_ioas_alloc,
        out_ioas_id
    ),
    c_entry!(
        IOMMUFD_CMD_IOAS_ALLOW_IOVAS,
        iommufd_ioas_allow_iovas,
        iommu_ioas_allow_iovas,
        allowed_iovas
    ),
    c_entry!(
        IOMMUFD_CMD_IOAS_CHANGE_PROCESS,
        iommufd_ioas_change_process,
        iommu_ioas_change_process,
        __reserved
    ),
    c_entry!(
        IOMMUFD_CMD_IOAS_COPY,
        iommufd_ioas_copy,
        iommu_ioas_copy,
        src_iova
    ),
    c_entry!(
        IOMMUFD_CMD_IOAS_IOVA_RANGES,
        iommufd_ioas_iova_ranges,
        iommu_ioas_iova_ranges,
        out_iova_alignment
    ),
    c_entry!(IOMMUFD_CMD_IOAS_MAP, iommufd_ioas_map, iommu_ioas_map, iova),
    c_entry!(
        IOMMUFD_CMD_IOAS_MAP_FILE,
        iommufd_ioas_map_file,
        iommu_ioas_map_file,
        iova
    ),
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    c_entry!(
        IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA,
        iommufd_ioas_noiommu_get_pa,
        iommu_ioas_noiommu_get_pa,
        out_phys
    ),
    #[cfg(not(CONFIG_IOMMUFD_NOIOMMU))]
    Entry::new(
        number(bindings::IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA),
        size_of::<bindings::iommu_ioas_noiommu_get_pa>(),
        end_of!(bindings::iommu_ioas_noiommu_get_pa, out_phys),
        unsupported,
    ),
    c_entry!(
        IOMMUFD_CMD_IOAS_UNMAP,
        iommufd_ioas_unmap,
        iommu_ioas_unmap,
        length
    ),
    Entry::of::<uapi::OptionCmd>(),
    c_entry!(
        IOMMUFD_CMD_VDEVICE_ALLOC,
        iommufd_vdevice_alloc_ioctl,
        iommu_vdevice_alloc,
        virt_id
    ),
    c_entry!(
        IOMMUFD_CMD_VEVENTQ_ALLOC,
        iommufd_veventq_alloc,
        iommu_veventq_alloc,
        out_veventq_fd
    ),
    c_entry!(
        IOMMUFD_CMD_VFIO_IOAS,
        iommufd_vfio_ioas,
        iommu_vfio_ioas,
        __reserved
    ),
    c_entry!(
        IOMMUFD_CMD_VIOMMU_ALLOC,
        iommufd_viommu_alloc_ioctl,
        iommu_viommu_alloc,
        out_viommu_id
    ),
    #[cfg(CONFIG_IOMMUFD_TEST)]
    Entry::new(
        number(CMD_BASE + 32),
        size_of::<bindings::iommu_test_cmd>(),
        end_of!(bindings::iommu_test_cmd, last),
        bindings::iommufd_test,
    ),
];

/// What this kernel was built without.
///
/// # Safety
///
/// None is asked for.
#[cfg(not(CONFIG_IOMMUFD_NOIOMMU))]
unsafe extern "C" fn unsupported(_: *mut bindings::iommufd_ucmd) -> c_int {
    EOPNOTSUPP.to_errno()
}

/// An ioctl outside of the table: VFIO's container.
pub(crate) fn vfio(ctx: &Ctx, number: u32, arg: usize) -> Result<isize> {
    // SAFETY: The context is open; `arg` is checked there as a user address.
    let ret = unsafe { bindings::iommufd_vfio_ioctl(ctx.as_raw(), number, arg) };
    if ret < 0 {
        return Err(Error::from_errno(ret));
    }
    Ok(ret as isize)
}

/// `IOMMU_OPTION` of an IOAS.
///
/// # Errors
///
/// As the option's description says.
pub(crate) fn ioas_option(ucmd: &mut Ucmd<'_, uapi::OptionCmd>) -> Result {
    // SAFETY: The ioctl in progress is valid, and of that structure.
    to_result(unsafe { bindings::iommufd_ioas_option(ucmd.as_raw()) })
}

/// Whether the caller may change what it is limited by (`CAP_SYS_RESOURCE`).
pub(crate) fn may_change_limits() -> bool {
    // SAFETY: Asks about the current task.
    unsafe { bindings::capable(bindings::CAP_SYS_RESOURCE as c_int) }
}

/// The first word of every structure: its size in user space, in bytes.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn user_size(arg: usize) -> Result<u32> {
    UserSlice::new(UserPtr::from_addr(arg), size_of::<u32>())
        .reader()
        .read()
}

/// The structures and constants of the user API, under the names that the logic uses.
pub(crate) mod uapi {
    use kernel::bindings;

    pub(crate) use bindings::{
        iommu_destroy as Destroy,
        iommu_option as OptionCmd,
        iommufd_option_IOMMU_OPTION_HUGE_PAGES as OPTION_HUGE_PAGES,
        iommufd_option_IOMMU_OPTION_RLIMIT_MODE as OPTION_RLIMIT_MODE,
        iommufd_option_ops_IOMMU_OPTION_OP_GET as OPTION_OP_GET,
        iommufd_option_ops_IOMMU_OPTION_OP_SET as OPTION_OP_SET,
        IOMMUFD_CMD_DESTROY as CMD_DESTROY,
        IOMMUFD_CMD_OPTION as CMD_OPTION, //
    };
}

macro_rules! user_structs {
    ($($name:ident),* $(,)?) => {
        // SAFETY: The UAPI header gives them integers of fixed size only, without padding.
        $(unsafe impl UserStruct for uapi::$name {})*
    };
}
user_structs!(Destroy, OptionCmd);
