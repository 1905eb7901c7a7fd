// SPDX-License-Identifier: GPL-2.0-only

//! The mock IOMMU driver: what backs every test of iommufd that needs no hardware, and an example
//! of how an IOMMU driver is written in Rust.
//!
//! # Read it as a driver author
//!
//! A driver is a few types that implement traits of `kernel::iommu`. Nothing in it is `unsafe`,
//! and it never sees a raw pointer: what the C core hands in arrives as a typed reference, and
//! what an operation fails with is an [`Error`]. In the order in which you will need them:
//!
//! 1. **The driver**, here: [`Mock`] implements [`IommuOps`], and the `static` [`IOMMU`] is the
//!    table that the C core gets. Operations that are left out of the `impl` are `NULL` in the
//!    table. Which IOMMU serves a device, what it can do, and which domains to make for it.
//! 2. **Your data of a device**: the core calls with a [`Device`], and
//!    [`device::of`] finds the [`device::MockDevice`] behind it, or fails for a device that is
//!    not ours.
//! 3. **Domains**, [`domain`]: a type for each kind. [`domain::Paging`] has a page table of the
//!    kernel's generic ones in front of its own data, chosen by [`DomainOps::Head`]. Its
//!    aperture, its page sizes and its dirty tracking are set on the [`Owned`] domain, before the
//!    core knows it. [`domain::Blocking`] exists once, in a `static`.
//! 4. **Attaching**, [`device`]: both ways, with PASID and without, do all that can fail first
//!    and change state last, so an error leaves the device where it was.
//! 5. **A user's page table**, [`nested`]: allocated with data of your own, which
//!    [`UserData::read`] checks and copies, old versions of it included. `cache_invalidate_user`
//!    gets an array; [`Handled`] says how far it came, and why no further.
//! 6. **A share for a virtual machine**, [`viommu`]: the data of a vIOMMU and of its queues is
//!    dropped when user space destroys them. To refer to a vIOMMU take a
//!    [`Hold`](kernel::iommu::viommu::Hold); until it is dropped, user space gets `EBUSY`.
//!
//! A domain that the core hands in may be another driver's or a static one.
//! [`AnyDomain::downcast`] finds out; there is no other way to get at your own data.
//!
//! The rest is the test ioctl, which plays the part of a device driver like VFIO, of hardware,
//! and of an observer: [`test_ioctl`] with [`binding`], [`access`], [`memory`] and [`dirty`].
//! It is as hostile an interface as any other ioctl, and treated as one.
//!
//! # Lock order
//!
//! `binding::Attached` -> iommufd's and the group's mutexes ->
//! `faults`, `route` of [`device::MockDevice`] -> the vIOMMU's table of devices. `access::Pins` and
//! `viommu::Queues` nest in iommufd's locks only.
//!
//! [`DomainOps::Head`]: kernel::iommu::ops::DomainOps::Head
//! [`AnyDomain::downcast`]: kernel::iommu::domain::AnyDomain::downcast

use crate::ffi::selftest::registration::iommu;
use kernel::{
    device::Device,
    iommu::{
        domain::{
            AnyDomain,
            NewDomain, //
        },
        ops::{
            AllocFlags,
            Capability,
            HwInfo,
            IommuDevice,
            IommuOps,
            IommuTable,
            Pasid,
            Served, //
        },
        user_data::UserData, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

#[cfg(doc)]
use kernel::iommu::user_data::Handled;

pub(crate) mod access;
pub(crate) mod binding;
pub(crate) mod device;
mod dirty;
mod domain;
mod memory;
mod nested;
pub(crate) mod test_ioctl;
pub(crate) mod uapi;
pub(crate) mod viommu;

/// The driver.
pub(crate) struct Mock;

/// The driver's table.
pub(crate) static IOMMU: IommuTable<Mock> = IommuTable::new()
    .blocked_by_default(&domain::BLOCKED)
    .user_pasid_table();

#[vtable]
impl IommuOps for Mock {
    type Viommu = viommu::MockViommu;

    fn table() -> &'static IommuTable<Self> {
        &IOMMU
    }

    fn capable(dev: &Served, capability: Capability) -> bool {
        match capability {
            Capability::CacheCoherency => true,
            Capability::DirtyTracking => {
                device::of(dev).is_ok_and(|mock| mock.has_dirty_tracking())
            }
            _ => false,
        }
    }

    fn hw_info(_dev: &Served, wanted: u32) -> Result<HwInfo> {
        if !matches!(
            wanted,
            uapi::HW_INFO_TYPE_DEFAULT | uapi::HW_INFO_TYPE_SELFTEST
        ) {
            return Err(EOPNOTSUPP);
        }
        let info = uapi::HwInfoData {
            flags: 0,
            test_reg: uapi::HW_INFO_REGVAL,
        };
        HwInfo::new(uapi::HW_INFO_TYPE_SELFTEST, info)
    }

    fn domain_alloc_paging_flags(
        dev: &Served,
        flags: AllocFlags,
        data: Option<&UserData>,
    ) -> Result<NewDomain> {
        Ok(domain::Paging::alloc(device::of(dev)?, flags, data)?.into())
    }

    fn domain_alloc_nested(
        _dev: &Served,
        parent: &AnyDomain,
        flags: AllocFlags,
        data: &UserData,
    ) -> Result<NewDomain> {
        flags.only(AllocFlags::PASID)?;
        // A nested domain only makes sense on a page table of this driver.
        parent.downcast::<domain::Paging>().ok_or(EINVAL)?;
        Ok(nested::Nested::alloc(data, None)?.into())
    }

    fn probe_device(dev: &Device) -> Result<&'static IommuDevice> {
        device::of(dev).map(|_| iommu())
    }

    fn page_response(_dev: &Device, _pasid: Pasid, _group: u32, _code: u32) {
        // There is no hardware that waits for an answer.
    }

    fn has_viommu(_dev: &Served, kind: u32) -> bool {
        kind == uapi::VIOMMU_TYPE_SELFTEST
    }
}

static MEMORY_LIMIT: Atomic<usize> = Atomic::new(65536);

/// How much memory the page core may use for temporary arrays, in bytes.
pub(crate) fn memory_limit() -> usize {
    MEMORY_LIMIT.load(Relaxed)
}
