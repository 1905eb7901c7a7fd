// SPDX-License-Identifier: GPL-2.0-only

//! Page tables of the kernel's: `struct dmar_domain` as paging domains begin with it. What they map
//! and how is the generic page tables' business.

use kernel::{
    bindings,
    error::to_result,
    iommu::domain::{
        Head,
        IovaToPhys,
        ReadAndClearDirty, //
    },
    prelude::*, //
};

use super::{
    device::Device,
    domain::DmarHead, //
};
use crate::paging::Layout;

/// What a table is made of.
pub(crate) struct Config {
    layout: Layout,
    /// For its node, which is looked up, and its DMA operations, which x86 does not use.
    dev: *mut bindings::device,
    node: c_int,
}

impl Config {
    /// A table like this, near a device.
    pub(crate) fn new(layout: Layout, dev: &Device<'_>) -> Self {
        Self {
            layout,
            dev: dev.as_raw(),
            // SAFETY: The device is there by its invariant.
            node: unsafe { bindings::vtd_node(dev.as_raw()) },
        }
    }
}

const _: () = assert!(core::mem::offset_of!(bindings::pt_iommu, domain) == 0);

/// The bits of an output address that entries have room for.
const OUTPUT_BITS: u8 = 52;

/// What both formats are told.
///
/// # Safety
///
/// `domain` is zero but for the core's part.
unsafe fn begin(domain: *mut bindings::dmar_domain, config: &Config) -> bindings::pt_iommu_cfg {
    // SAFETY: The caller has a whole structure, which is zero but for the core's part.
    unsafe { bindings::vtd_domain_init(domain) };
    let table: *mut bindings::pt_iommu = domain.cast();
    // SAFETY: It begins with that, and is nobody else's.
    unsafe { (*table).iommu_device = config.dev };
    // SAFETY: It is ours still.
    unsafe { (*table).nid = config.node };
    let mut features = 1 << bindings::pt_features_PT_FEAT_FLUSH_RANGE;
    if config.layout.incoherent {
        features |= 1 << bindings::pt_features_PT_FEAT_DMA_INCOHERENT;
    }
    bindings::pt_iommu_cfg {
        features,
        hw_max_vasz_lg2: config.layout.width,
        hw_max_oasz_lg2: OUTPUT_BITS,
    }
}

/// One with a first-stage table.
#[repr(transparent)]
pub(crate) struct FirstHead(bindings::dmar_domain);

// SAFETY: A `struct dmar_domain` begins with the `iommu_domain`, and is of plain data. The function
// is that of the format.
unsafe impl Head for FirstHead {
    type Config = Config;

    const IOVA_TO_PHYS: Option<IovaToPhys> = Some(bindings::pt_iommu_x86_64_iova_to_phys);

    unsafe fn init(this: *mut Self, config: &Config) -> Result {
        // SAFETY: Who makes a domain has cleared its memory but for the core's part.
        let mut common = unsafe { begin(this.cast(), config) };
        common.features |= 1 << bindings::pt_features_PT_FEAT_SIGN_EXTEND;
        let cfg = bindings::pt_iommu_x86_64_cfg {
            common,
            top_level: config.layout.top_level(),
        };
        // SAFETY: It is zero but for what may be set before.
        to_result(unsafe {
            bindings::pt_iommu_x86_64_init(this.cast(), &cfg, bindings::GFP_KERNEL)
        })
    }

    unsafe fn deinit(this: *mut Self) {
        // SAFETY: `init()` has made the table, and nobody uses it any more.
        unsafe { bindings::pt_iommu_deinit(this.cast()) };
    }
}

// SAFETY: It is one, and `init()` does that.
unsafe impl DmarHead for FirstHead {}

/// One with a second-stage table.
#[repr(transparent)]
pub(crate) struct SecondHead(bindings::dmar_domain);

// SAFETY: A `struct dmar_domain` begins with the `iommu_domain`, and is of plain data. The
// functions are those of the format.
unsafe impl Head for SecondHead {
    type Config = Config;

    const IOVA_TO_PHYS: Option<IovaToPhys> = Some(bindings::pt_iommu_vtdss_iova_to_phys);

    const READ_AND_CLEAR_DIRTY: Option<ReadAndClearDirty> =
        Some(bindings::pt_iommu_vtdss_read_and_clear_dirty);

    unsafe fn init(this: *mut Self, config: &Config) -> Result {
        let domain: *mut bindings::dmar_domain = this.cast();
        // SAFETY: Who makes a domain has cleared its memory but for the core's part.
        let mut common = unsafe { begin(domain, config) };
        // SAFETY: It was initialised just now, and may become a parent.
        unsafe { bindings::vtd_parent_init(domain) };
        if config.layout.nest_parent {
            // No entry of a parent may be read-only: a nested walk sets accessed and dirty flags
            // in it even so (erratum 772415 of Sapphire Rapids).
            common.features |= 1 << bindings::PT_FEAT_VTDSS_FORCE_WRITEABLE;
        }
        let cfg = bindings::pt_iommu_vtdss_cfg {
            common,
            top_level: config.layout.top_level(),
        };
        // SAFETY: It is zero but for what may be set before.
        to_result(unsafe { bindings::pt_iommu_vtdss_init(this.cast(), &cfg, bindings::GFP_KERNEL) })
    }

    unsafe fn deinit(this: *mut Self) {
        // SAFETY: `init()` has made the table, and nobody uses it any more.
        unsafe { bindings::pt_iommu_deinit(this.cast()) };
    }
}

// SAFETY: It is one, and `init()` does that.
unsafe impl DmarHead for SecondHead {}
