// SPDX-License-Identifier: GPL-2.0-only

//! The table of the driver's operations: what is Rust, and what has stayed C.
//!
//! C finds devices and lets them go: probing, reserved regions, groups and quirks are about PCI and
//! firmware. Of domains it decides which kind a device gets by default, and that one with the
//! tables of a crashed kernel keeps them for now. The page request queue is C's `prq.c`.

use kernel::{
    bindings,
    iommu::{
        domain::{
            AnyDomain,
            NewDomain, //
        },
        ops::{
            AllocFlags,
            IommuOps,
            IommuTable,
            Served, //
        },
        user_data::UserData, //
    },
    mm::MmWithUser,
    prelude::*, //
};

use super::{
    device::Device,
    user::Parent, //
};
#[cfg(CONFIG_INTEL_IOMMU_SVM)]
use crate::svm;
use crate::{
    attach,
    nested::Nested,
    paging,
    viommu::Vtd, //
};

/// The driver.
pub(super) struct IntelIommu;

/// The name that C knows it by.
#[allow(non_upper_case_globals)]
#[no_mangle]
pub(super) static intel_iommu_ops: IommuTable<IntelIommu> = {
    let mut ops = IommuTable::<IntelIommu>::new()
        .blocked(&attach::BLOCKED)
        .identity(&attach::IDENTITY)
        .into_raw();
    ops.capable = Some(bindings::intel_iommu_capable);
    ops.hw_info = Some(bindings::intel_iommu_hw_info);
    ops.probe_device = Some(bindings::intel_iommu_probe_device);
    ops.probe_finalize = Some(bindings::intel_iommu_probe_finalize);
    ops.release_device = Some(bindings::intel_iommu_release_device);
    ops.get_resv_regions = Some(bindings::intel_iommu_get_resv_regions);
    ops.device_group = Some(bindings::intel_iommu_device_group);
    ops.is_attach_deferred = Some(bindings::intel_iommu_is_attach_deferred);
    ops.def_domain_type = Some(bindings::intel_iommu_def_domain_type);
    ops.page_response = Some(bindings::intel_iommu_page_response);
    // SAFETY: These are the driver's, for its devices.
    unsafe { IommuTable::with(ops) }
};

#[vtable]
impl IommuOps for IntelIommu {
    type Viommu = Vtd;

    fn table() -> &'static IommuTable<Self> {
        &intel_iommu_ops
    }

    fn domain_alloc_paging_flags(
        dev: &Served,
        flags: AllocFlags,
        data: Option<&UserData>,
    ) -> Result<NewDomain> {
        paging::alloc(&Device::of(dev)?, flags, data)
    }

    fn domain_alloc_nested(
        dev: &Served,
        parent: &AnyDomain,
        flags: AllocFlags,
        data: &UserData,
    ) -> Result<NewDomain> {
        // SAFETY: The core keeps it as long as the new domain is there.
        let parent = unsafe { Parent::of(parent) };
        Ok(Nested::alloc(&Device::of(dev)?, parent, flags, data)?.into())
    }

    fn domain_alloc_sva(dev: &Served, mm: &MmWithUser) -> Result<NewDomain> {
        let dev = Device::of(dev)?;
        #[cfg(CONFIG_INTEL_IOMMU_SVM)]
        return svm::alloc(&dev, mm);
        #[cfg(not(CONFIG_INTEL_IOMMU_SVM))]
        {
            let _ = (dev, mm);
            Err(ENODEV)
        }
    }

    fn has_viommu(dev: &Served, kind: u32) -> bool {
        Device::of(dev).is_ok_and(|dev| Vtd::offered(&dev, kind))
    }
}
