// SPDX-License-Identifier: GPL-2.0-only

//! Making hwpts.
//!
//! A paging hwpt is made under its IOAS's mutex, which is held until all is mapped in it. A nested
//! one needs no lock.
//!
//! User memory may not answer, so the device is lent only while its driver makes the domain: what
//! the driver reads was copied before, and what the IOAS maps is pinned after.
//!
//! Everything that can fail for user space's sake is asked first, in the order in which the user
//! API documents the errors: flags, then the driver, then what is mapped, then the fault queue.
//!
//! UAPI: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use super::{
    Below,
    NestedHwpt,
    NewPaging,
    PagingHwpt,
    PagingParts,
    Parts, //
};
use crate::{
    fault::FaultQueue,
    ffi::{
        context::Ctx,
        device::Device,
        domain::{
            Domain,
            UserData,
            UserRoom, //
        },
        driver_objects::Viommu,
        handlers::{
            self,
            end_of,
            uapi::hwpt::{
                self as uapi,
                HwptAlloc, //
            }, //
        },
        ioas_domains::Locked,
        ucmd::Ucmd, //
    },
    ioas::Ioas,
    ioctl::{
        Ioctl,
        New,
        Publish, //
    },
    object::{
        downcast,
        lend,
        Head,
        Hold,
        Loan,
        Object,
        Reserved, //
    }, //
};
use kernel::{
    iommu::device::{
        is_capable,
        Capability, //
    },
    prelude::*, //
};

/// What a paging hwpt can be asked to be.
const PAGING_FLAGS: u32 =
    uapi::NEST_PARENT | uapi::DIRTY_TRACKING | uapi::FAULT_ID_VALID | uapi::PASID;

/// What a nested hwpt can be asked to be.
const NESTED_FLAGS: u32 = uapi::FAULT_ID_VALID | uapi::PASID;

/// Checks what user space says that its data is.
///
/// # Errors
///
/// `EINVAL`: data without a type, or a type without data.
#[inline]
fn check_data(kind: u32, len: u32) -> Result {
    if (kind == uapi::DATA_NONE) != (len == 0) {
        return Err(EINVAL);
    }
    Ok(())
}

/// Checks what a paging hwpt is asked to be, before its driver is.
///
/// # Errors
///
/// `EOPNOTSUPP`: unknown flags, or some that do not go together, or that the driver cannot do.
fn check_paging(
    flags: u32,
    has_data: bool,
    driver_takes_flags: bool,
    tracks_dirty: impl FnOnce() -> bool,
) -> Result {
    let queue_on_parent = uapi::FAULT_ID_VALID | uapi::NEST_PARENT;
    let asks_driver = flags != 0 || has_data;
    if (asks_driver && !driver_takes_flags)
        || flags & !PAGING_FLAGS != 0
        || flags & queue_on_parent == queue_on_parent
        || (flags & uapi::DIRTY_TRACKING != 0 && !tracks_dirty())
    {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// Checks what a nested hwpt is asked to be, before its driver is.
///
/// # Errors
///
/// `EOPNOTSUPP`: unknown flags, or no description of the user's page table.
#[inline]
fn check_nested(flags: u32, has_data: bool) -> Result {
    if flags & !NESTED_FLAGS != 0 || !has_data {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// Flags as drivers know them: the fault queue is none of their business.
#[inline]
fn driver_flags(flags: u32) -> u32 {
    flags & !uapi::FAULT_ID_VALID
}

/// Makes a paging hwpt for a device on an IOAS. Nothing is mapped yet: that is
/// [`NewPaging::fill`]'s, and page faults go nowhere yet.
///
/// # Errors
///
/// `ENODEV`: the device has no IOMMU any more; `EOPNOTSUPP`: `flags` or `data` are not what the
/// driver can do; `ENOMEM`; what the driver says.
pub(crate) fn new_paging<'a, 'l>(
    ctx: &'a Ctx,
    ioas: &'l Locked<'l>,
    device: &Device,
    request: &PagingRequest<'_>,
) -> Result<NewPaging<'a, 'l>> {
    let (dev, driver, flags) = (device.dev(), device.driver()?, request.flags);
    check_paging(flags, request.data.is_some(), driver.takes_flags(), || {
        is_capable(dev.as_device(), Capability::DirtyTracking)
    })?;
    let domain = driver.alloc_paging(dev, driver_flags(flags), request.data)?;
    // Before anything is mapped, as some have a bit for it in each entry; unchanged afterwards. A
    // device that does not need it can use a domain that has it, but not the other way round.
    let enforce_cache_coherency = device.enforces_cache_coherency();
    if enforce_cache_coherency && kernel::warn_on!(!domain.enforce_cache_coherency()) {
        return Err(EINVAL);
    }
    let parts = PagingParts {
        common: Parts {
            domain,
            pasid_compat: flags & uapi::PASID != 0,
        },
        enforce_cache_coherency,
        nest_parent: flags & uapi::NEST_PARENT != 0,
        auto_domain: request.auto_domain,
    };
    NewPaging::new(ctx, ioas, parts)
}

/// What a paging hwpt is to be.
#[derive(Default)]
pub(crate) struct PagingRequest<'a> {
    /// `IOMMU_HWPT_ALLOC_*`.
    pub(crate) flags: u32,
    /// What the driver's part of the user API carries.
    pub(crate) data: Option<&'a UserData<'a>>,
    /// Whether the kernel makes it for an attachment to an IOAS.
    pub(crate) auto_domain: bool,
}

/// Has the device's driver make a domain on a nest parent.
#[inline]
fn nested_domain(
    parent: &PagingHwpt,
    device: &Device,
    flags: u32,
    data: &UserData<'_>,
) -> Result<Domain> {
    let driver = device.driver()?;
    check_nested(flags, !data.is_empty())?;
    if !driver.nests() {
        return Err(EOPNOTSUPP);
    }
    if parent.is_auto_domain() || !parent.is_nest_parent() || !parent.domain().is_of(driver) {
        return Err(EINVAL);
    }
    driver.alloc_nested(device.dev(), parent.domain(), driver_flags(flags), data)
}

/// Has the vIOMMU's driver make a domain on it.
fn viommu_domain(
    viommu: &Viommu,
    device: &Device,
    flags: u32,
    data: &UserData<'_>,
) -> Result<Domain> {
    if !device.is_behind(viommu) {
        return Err(EINVAL);
    }
    check_nested(flags, !data.is_empty())?;
    viommu.alloc_nested(driver_flags(flags), data)
}

/// The fault queue that user space names, if it does.
#[inline]
fn fault_queue(ctx: &Ctx, cmd: &HwptAlloc) -> Result<Option<Hold<FaultQueue>>> {
    if cmd.flags & uapi::FAULT_ID_VALID == 0 {
        return Ok(None);
    }
    Hold::new(&*lend::<FaultQueue>(ctx, cmd.fault_id)?).map(Some)
}

/// A hwpt that is complete, and not to be found.
pub(crate) enum NewHwpt<'a> {
    Paging(Reserved<'a, PagingHwpt>),
    Nested(Reserved<'a, NestedHwpt>),
}

impl NewHwpt<'_> {
    fn id(&self) -> u32 {
        match self {
            Self::Paging(hwpt) => hwpt.id(),
            Self::Nested(hwpt) => hwpt.id(),
        }
    }
}

impl Publish for NewHwpt<'_> {
    #[inline(always)]
    fn publish(self) -> Result {
        match self {
            Self::Paging(hwpt) => hwpt.publish(),
            Self::Nested(hwpt) => hwpt.publish(),
        }
        Ok(())
    }
}

fn alloc_paging<'a>(
    ctx: &'a Ctx,
    cmd: &HwptAlloc,
    device: Loan<'_, Device>,
    ioas: &Ioas,
    data: &UserData<'_>,
) -> Result<NewHwpt<'a>> {
    let ioas = ioas.lock();
    let request = PagingRequest {
        flags: cmd.flags,
        data: (!data.is_empty()).then_some(data),
        auto_domain: false,
    };
    let new = new_paging(ctx, &ioas, &device, &request)?;
    drop(device);
    new.fill()?;
    if let Some(fault) = fault_queue(ctx, cmd)? {
        new.deliver_faults(fault);
    }
    Ok(NewHwpt::Paging(new.unlock()))
}

#[inline]
fn alloc_nested<'a>(
    ctx: &'a Ctx,
    cmd: &HwptAlloc,
    domain: Domain,
    below: Below,
) -> Result<NewHwpt<'a>> {
    if kernel::warn_on_once!(!domain.is_nested()) {
        return Err(EOPNOTSUPP);
    }
    let fault = fault_queue(ctx, cmd)?;
    let parts = Parts {
        domain,
        pasid_compat: cmd.flags & uapi::PASID != 0,
    };
    Ok(NewHwpt::Nested(NestedHwpt::reserve(
        ctx, below, parts, fault,
    )?))
}

/// `IOMMU_HWPT_ALLOC`
impl Ioctl for HwptAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_ALLOC);
    const MIN_SIZE: usize = end_of!(HwptAlloc, __reserved);
    type Answer<'a> = New<NewHwpt<'a>>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>> {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        check_data(ucmd.data_type, ucmd.data_len)?;
        let mut room = UserRoom::new();
        let data = UserData::copy(&mut room, ucmd.data_type, ucmd.data_uptr, ucmd.data_len);
        let ctx = ucmd.ctx();
        let device = lend::<Device>(ctx, ucmd.dev_id)?;
        let on: Loan<'_, Object> = lend(ctx, ucmd.pt_id).map_err(|_| EINVAL)?;
        let new = if let Some(ioas) = downcast::<Ioas>(&on) {
            alloc_paging(ctx, ucmd, device, ioas, &data)?
        } else if let Some(parent) = downcast::<PagingHwpt>(&on) {
            let domain = nested_domain(parent, &device, ucmd.flags, &data)?;
            alloc_nested(ctx, ucmd, domain, Below::Parent(Hold::new(parent)?))?
        } else if let Some(viommu) = downcast::<Viommu>(&on) {
            let domain = viommu_domain(viommu, &device, ucmd.flags, &data)?;
            alloc_nested(ctx, ucmd, domain, Below::Viommu(Hold::new(viommu)?))?
        } else {
            return Err(EINVAL);
        };
        ucmd.out_hwpt_id = new.id();
        Ok(New(new))
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_hwpt)]
mod tests {
    use super::*;

    const KNOWN: [u32; 4] = [
        uapi::NEST_PARENT,
        uapi::DIRTY_TRACKING,
        uapi::FAULT_ID_VALID,
        uapi::PASID,
    ];

    #[test]
    fn data() {
        for (kind, len, expected) in [
            (uapi::DATA_NONE, 0, Ok(())),
            (uapi::DATA_NONE, 1, Err(EINVAL)),
            (uapi::DATA_NONE, u32::MAX, Err(EINVAL)),
            (1, 0, Err(EINVAL)),
            (1, 1, Ok(())),
            (u32::MAX, u32::MAX, Ok(())),
        ] {
            assert_eq!(check_data(kind, len), expected);
        }
    }

    #[test]
    fn paging_flags() {
        // A driver that takes no flags gets none, and no data either.
        assert_eq!(check_paging(0, false, false, || false), Ok(()));
        assert_eq!(check_paging(0, true, false, || true), Err(EOPNOTSUPP));
        for bit in 0..32 {
            let flag = 1u32 << bit;
            assert_eq!(check_paging(flag, false, false, || true), Err(EOPNOTSUPP));
            let expected = if KNOWN.contains(&flag) {
                Ok(())
            } else {
                Err(EOPNOTSUPP)
            };
            assert_eq!(check_paging(flag, false, true, || true), expected);
            assert_eq!(check_paging(flag, true, true, || true), expected);
        }
        // Tracking is asked for only when wanted, and refused when the device cannot.
        assert_eq!(
            check_paging(uapi::DIRTY_TRACKING, false, true, || false),
            Err(EOPNOTSUPP)
        );
        assert_eq!(check_paging(uapi::PASID, false, true, || false), Ok(()));
        // A nest parent has no queue of its own.
        for more in [
            0,
            uapi::DIRTY_TRACKING,
            uapi::PASID,
            uapi::PASID | uapi::DIRTY_TRACKING,
        ] {
            let both = uapi::NEST_PARENT | uapi::FAULT_ID_VALID | more;
            assert_eq!(check_paging(both, false, true, || true), Err(EOPNOTSUPP));
            assert_eq!(
                check_paging(uapi::NEST_PARENT | more, false, true, || true),
                Ok(())
            );
        }
    }

    #[test]
    fn nested_flags() {
        for bit in 0..32 {
            let flag = 1u32 << bit;
            let known = flag == uapi::FAULT_ID_VALID || flag == uapi::PASID;
            let expected = if known { Ok(()) } else { Err(EOPNOTSUPP) };
            assert_eq!(check_nested(flag, true), expected);
            assert_eq!(check_nested(flag, false), Err(EOPNOTSUPP));
        }
        assert_eq!(check_nested(0, true), Ok(()));
        assert_eq!(check_nested(NESTED_FLAGS, true), Ok(()));
        assert_eq!(driver_flags(u32::MAX), !uapi::FAULT_ID_VALID);
    }
}
