// SPDX-License-Identifier: GPL-2.0-only

//! The page table behind [`crate::noiommu`], and its place among the drivers.
//!
//! The format is AMD v1, which has the most page sizes of all; nothing but the kernel reads it.
//!
//! C header: [`include/linux/generic_pt/iommu.h`](srctree/include/linux/generic_pt/iommu.h)

use super::domain::Driver;
use crate::noiommu;
use core::mem::{
    offset_of,
    MaybeUninit, //
};
use kernel::{
    bindings,
    c_str,
    error::to_result,
    iommu::domain::{
        Head,
        IovaToPhys, //
    },
    prelude::*,
    static_assert,
    static_lock_class, //
};

/// A page table that grows at its top, under a lock of its own.
#[repr(C)]
pub(crate) struct SoftwareTable {
    amdv1: bindings::pt_iommu_amdv1,
    top_lock: bindings::spinlock_t,
}

static_assert!(offset_of!(SoftwareTable, amdv1) == 0);
static_assert!(offset_of!(bindings::pt_iommu_amdv1, iommu) == 0);
static_assert!(offset_of!(bindings::pt_iommu, domain) == 0);

struct TopOps(bindings::pt_iommu_driver_ops);

// SAFETY: It is never written to.
unsafe impl Sync for TopOps {}

static TOP_OPS: TopOps = TopOps(bindings::pt_iommu_driver_ops {
    change_top: Some(change_top),
    get_top_lock: Some(get_top_lock),
});

/// There is no hardware to tell.
///
/// # Safety
///
/// None is asked for.
unsafe extern "C" fn change_top(
    _table: *mut bindings::pt_iommu,
    _top: bindings::phys_addr_t,
    _level: c_uint,
) {
}

/// The lock of the table's top.
///
/// # Safety
///
/// `table` is a [`SoftwareTable`]'s.
unsafe extern "C" fn get_top_lock(table: *mut bindings::pt_iommu) -> *mut bindings::spinlock_t {
    // SAFETY: The table is at offset 0; only an address is taken.
    unsafe { &raw mut (*table.cast::<SoftwareTable>()).top_lock }
}

const FEATURES: u32 = 1 << bindings::pt_features_PT_FEAT_DYNAMIC_TOP
    | 1 << bindings::PT_FEAT_AMDV1_ENCRYPT_TABLES
    | 1 << bindings::PT_FEAT_AMDV1_FORCE_COHERENCE;

// SAFETY: The `iommu_domain` is at offset 0, see above, and the functions are those of the format.
unsafe impl Head for SoftwareTable {
    type Config = ();

    const IOVA_TO_PHYS: Option<IovaToPhys> = Some(bindings::pt_iommu_amdv1_iova_to_phys);

    unsafe fn init(this: *mut Self, _config: &()) -> Result {
        // SAFETY: The table is ours alone until it is initialised, and does not move; the name and
        // the class are static.
        unsafe {
            bindings::__spin_lock_init(
                &raw mut (*this).top_lock,
                c_str!("iommufd_noiommu").as_char_ptr(),
                static_lock_class!().as_ptr(),
            );
            (*this).amdv1.iommu.nid = bindings::NUMA_NO_NODE;
            (*this).amdv1.iommu.driver_ops = &TOP_OPS.0;
        }
        let mut cfg = bindings::pt_iommu_amdv1_cfg::default();
        cfg.common.features = FEATURES;
        cfg.common.hw_max_vasz_lg2 = 64;
        cfg.common.hw_max_oasz_lg2 = 52;
        cfg.starting_level = 2;
        // SAFETY: It is zero but for what may be set before.
        to_result(unsafe {
            bindings::pt_iommu_amdv1_init(&raw mut (*this).amdv1, &cfg, bindings::GFP_KERNEL)
        })
    }

    unsafe fn deinit(this: *mut Self) {
        // SAFETY: `init()` has made the table, and nobody uses it any more.
        unsafe { bindings::pt_iommu_deinit(this.cast()) };
    }
}

#[repr(transparent)]
pub(crate) struct Ops(bindings::iommu_ops);

// SAFETY: It is never written to.
unsafe impl Sync for Ops {}

/// The page core tells by it which domains no hardware knows.
#[no_mangle]
pub(crate) static iommufd_noiommu_ops: Ops = Ops({
    // SAFETY: All of its members may be zero.
    let mut ops: bindings::iommu_ops = unsafe { MaybeUninit::zeroed().assume_init() };
    ops.domain_alloc_paging_flags = Some(alloc);
    ops
});

/// Makes a domain.
///
/// # Safety
///
/// None is asked for: the device does not matter, and the data is not looked at.
unsafe extern "C" fn alloc(
    _dev: *mut bindings::device,
    flags: u32,
    data: *const bindings::iommu_user_data,
) -> *mut bindings::iommu_domain {
    match noiommu::alloc(flags, !data.is_null()) {
        Ok(domain) => domain.into_raw(),
        Err(e) => e.to_ptr(),
    }
}

/// What stands in for a driver.
pub(super) fn driver() -> Driver<'static> {
    Driver(&iommufd_noiommu_ops.0)
}
