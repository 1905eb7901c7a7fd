// SPDX-License-Identifier: GPL-2.0-only

//! Domains for devices without an IOMMU.
//!
//! No hardware walks their page tables. They are there so that user space can map as usual, and
//! ask for the physical address behind an IOVA to program its device with.
//!
//! UAPI: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use crate::ffi::software_table::SoftwareTable;
use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Domain,
            Kind,
            Owned, //
        },
        ops::{
            DomainOps,
            DomainTable,
            Gather,
            Served, //
        },
    },
    prelude::*,
};

/// A domain that no hardware knows.
pub(crate) struct Software;

static TABLE: DomainTable<Software> = DomainTable::new();

/// Makes one.
///
/// # Errors
///
/// `EOPNOTSUPP`: flags or data are given, and there is no driver to understand them; `ENOMEM`.
pub(crate) fn alloc(flags: u32, has_data: bool) -> Result<Owned<Software>> {
    if flags != 0 || has_data {
        return Err(EOPNOTSUPP);
    }
    Owned::new(Kind::Unmanaged, &(), Software, GFP_KERNEL)
}

#[vtable]
impl DomainOps for Software {
    type Head = SoftwareTable;

    fn table() -> &'static DomainTable<Self> {
        &TABLE
    }

    fn attach_dev(_domain: &Domain<Self>, _dev: &Served, _old: Option<&AnyDomain>) -> Result {
        // Such a device is attached in iommufd's books only.
        Err(ENODEV)
    }

    fn iotlb_sync(_domain: &Domain<Self>, gather: &mut Gather) {
        gather.free_pages();
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_noiommu)]
mod tests {
    use super::*;

    #[test]
    fn plain_only() {
        for bit in 0..32 {
            assert_eq!(alloc(1 << bit, false).err(), Some(EOPNOTSUPP));
        }
        assert_eq!(alloc(0, true).err(), Some(EOPNOTSUPP));
    }

    #[test]
    fn makes_and_frees() -> Result {
        // No driver owns it yet, so dropping it is what frees it.
        drop(alloc(0, false)?);
        Ok(())
    }
}
