// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's generic page tables, in the format that the mock IOMMU has: AMD v1 with pages
//! of 2 KiB.
//!
//! C header: [`include/linux/generic_pt/iommu.h`](srctree/include/linux/generic_pt/iommu.h)

use super::object::Mapped;
use kernel::{
    bindings,
    error::to_result,
    iommu::{
        domain::{
            Domain,
            Head,
            IovaToPhys,
            ReadAndClearDirty, //
        },
        ops::DomainOps, //
    },
    prelude::*, //
};

/// How large the addresses are.
pub(crate) struct Config {
    /// Bits of an IO virtual address.
    pub(crate) va_bits: u8,
    /// Bits of a physical address.
    pub(crate) pa_bits: u8,
    /// How many levels the table begins with, less one.
    pub(crate) starting_level: u32,
}

/// Such a page table.
#[repr(transparent)]
pub(crate) struct Amdv1(bindings::pt_iommu_amdv1);

const _: () = assert!(core::mem::offset_of!(bindings::pt_iommu_amdv1, iommu) == 0);
const _: () = assert!(core::mem::offset_of!(bindings::pt_iommu, domain) == 0);

// SAFETY: The `iommu_domain` is at offset 0, see above, and the functions are those of the format.
unsafe impl Head for Amdv1 {
    type Config = Config;

    const IOVA_TO_PHYS: Option<IovaToPhys> = Some(bindings::pt_iommu_amdv1_mock_iova_to_phys);

    const READ_AND_CLEAR_DIRTY: Option<ReadAndClearDirty> =
        Some(bindings::pt_iommu_amdv1_mock_read_and_clear_dirty);

    unsafe fn init(this: *mut Self, config: &Config) -> Result {
        let table: *mut bindings::pt_iommu_amdv1 = this.cast();
        // SAFETY: By the contract of this function it is ours.
        unsafe { (*table).iommu.nid = bindings::NUMA_NO_NODE };
        let mut cfg = bindings::pt_iommu_amdv1_cfg::default();
        cfg.common.hw_max_vasz_lg2 = config.va_bits;
        cfg.common.hw_max_oasz_lg2 = config.pa_bits;
        cfg.starting_level = config.starting_level;
        // SAFETY: It is zero but for what may be set before.
        to_result(unsafe { bindings::pt_iommu_amdv1_mock_init(table, &cfg, bindings::GFP_KERNEL) })
    }

    unsafe fn deinit(this: *mut Self) {
        // SAFETY: `init()` has made the table, and nobody uses it any more.
        unsafe { bindings::pt_iommu_deinit(this.cast()) };
    }
}

/// Makes an address look as if the hardware had written there; `mapped` is around it, in the same
/// domain.
///
/// It fails if another thread is faster, which is not an error of the caller's.
///
/// # Errors
///
/// `EINVAL`: the format has no dirty bits, or the address is not in the mapping, or that not in the
/// domain.
pub(crate) fn set_dirty<T: DomainOps<Head = Amdv1>>(
    domain: &Domain<T>,
    mapped: &Mapped<'_>,
    iova: usize,
) -> Result {
    if !mapped.is_in(domain.as_any()) || !mapped.contains(iova) {
        return Err(EINVAL);
    }
    let table: *mut bindings::pt_iommu = domain.head().cast();
    // SAFETY: The domain is complete, so there are operations.
    let op = unsafe { (*(*table).ops).set_dirty }.ok_or(EINVAL)?;
    // SAFETY: Nothing is mapped or unmapped there while there is `mapped`: that is the range lock
    // which generic page tables ask for.
    unsafe { op(table, iova as u64) };
    Ok(())
}
