// SPDX-License-Identifier: GPL-2.0-only

//! Domains with a page table that the kernel manages, and the one that lets nothing through.
//!
//! A page table is of the generic ones, so mapping, unmapping and collecting dirty bits is not
//! this driver's business at all. What is: which aperture and page sizes it shows, and where
//! devices are attached.

use super::{
    device::{
        self,
        MockDevice, //
    },
    uapi::{
        self,
        HwptData, //
    },
};
use crate::ffi::selftest::pagetable::{
    Amdv1,
    Config, //
};
use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Bare,
            Domain,
            Kind,
            Owned,
            StaticDomain, //
        },
        ops::{
            AllocFlags,
            DirtyOps,
            DirtyTable,
            DomainOps,
            DomainTable,
            Gather,
            Pasid,
            Served, //
        },
        user_data::UserData, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// The format's page table: 56 bits to 51 bits, three levels at first.
const FORMAT: Config = Config {
    va_bits: 56,
    pa_bits: 51,
    starting_level: 2,
};

/// A domain with a page table.
pub(crate) struct Paging {
    /// Whether it tracks what was written to.
    tracking: Atomic<bool>,
}

static PAGING: DomainTable<Paging> = DomainTable::new();
static PAGING_DIRTY: DirtyTable<Paging> = DirtyTable::new();

impl Paging {
    /// Makes one for `dev`.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: flags, or a kind of data or of page table, that the mock does not have, or
    /// dirty tracking for a device without. `EINVAL`, `EFAULT`: see [`UserData::read`].
    pub(super) fn alloc(
        dev: &MockDevice,
        flags: AllocFlags,
        data: Option<&UserData>,
    ) -> Result<Owned<Self>> {
        let known = AllocFlags::NEST_PARENT
            .or(AllocFlags::DIRTY_TRACKING)
            .or(AllocFlags::PASID);
        flags.only(known)?;
        let wants_tracking = flags.contains(AllocFlags::DIRTY_TRACKING);
        if wants_tracking && !dev.has_dirty_tracking() {
            return Err(EOPNOTSUPP);
        }
        let wanted = match data {
            Some(data) => Self::read(data)?,
            None => HwptData::default(),
        };
        let mut domain = Self::with_pages(wanted.pagetable_type)?;
        if wants_tracking {
            domain.set_dirty_ops(Self::dirty_table());
        }
        Ok(domain)
    }

    fn read(data: &UserData) -> Result<HwptData> {
        match data.data_type() {
            uapi::HWPT_DATA_NONE | uapi::HWPT_DATA_SELFTEST => data.read(),
            _ => Err(EOPNOTSUPP),
        }
    }

    /// Makes one with this kind of page table.
    fn with_pages(kind: u32) -> Result<Owned<Self>> {
        if !matches!(kind, uapi::IOMMUPT_DEFAULT | uapi::IOMMUPT_HUGE) {
            return Err(EOPNOTSUPP);
        }
        let tracking = Atomic::new(false);
        let mut domain = Owned::new(Kind::Unmanaged, &FORMAT, Self { tracking }, GFP_KERNEL)?;
        if kind == uapi::IOMMUPT_HUGE {
            // iommufd takes no domain that cannot map a page of the CPU's.
            domain.set_page_sizes(uapi::HUGE_PAGE_SIZE | PAGE_SIZE)?;
        } else {
            // Smaller than the format's, so that tests can hit its ends.
            domain.set_aperture(uapi::APERTURE_FIRST, uapi::APERTURE_LAST)?;
        }
        Ok(domain)
    }

    /// Whether it tracks what was written to.
    pub(super) fn is_tracking(&self) -> bool {
        self.tracking.load(Relaxed)
    }
}

#[vtable]
impl DomainOps for Paging {
    type Head = Amdv1;

    fn table() -> &'static DomainTable<Self> {
        &PAGING
    }

    fn attach_dev(domain: &Domain<Self>, dev: &Served, _old: Option<&AnyDomain>) -> Result {
        device::attach(domain.as_any(), dev)
    }

    fn set_dev_pasid(
        domain: &Domain<Self>,
        dev: &Served,
        pasid: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        device::attach_pasid(domain.as_any(), dev, pasid, old)
    }

    fn iotlb_sync(_domain: &Domain<Self>, gather: &mut Gather) {
        // There is no IOTLB of this page table.
        gather.free_pages();
    }
}

impl DirtyOps for Paging {
    fn dirty_table() -> &'static DirtyTable<Self> {
        &PAGING_DIRTY
    }

    fn set_dirty_tracking(domain: &Domain<Self>, enable: bool) -> Result {
        if enable && !domain.as_any().has_dirty_tracking() {
            return Err(EINVAL);
        }
        domain.tracking.store(enable, Relaxed);
        Ok(())
    }
}

/// The domain that lets nothing through.
pub(super) struct Blocking;

static BLOCKING: DomainTable<Blocking> = DomainTable::of_static();

/// Where devices are that nobody has attached.
pub(super) static BLOCKED: StaticDomain<Blocking> =
    StaticDomain::new(Kind::Blocked, &BLOCKING, Blocking);

#[vtable]
impl DomainOps for Blocking {
    type Head = Bare;

    fn table() -> &'static DomainTable<Self> {
        &BLOCKING
    }

    fn attach_dev(domain: &Domain<Self>, dev: &Served, _old: Option<&AnyDomain>) -> Result {
        device::attach(domain.as_any(), dev)
    }

    fn set_dev_pasid(
        domain: &Domain<Self>,
        dev: &Served,
        pasid: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        device::attach_pasid(domain.as_any(), dev, pasid, old)
    }
}
