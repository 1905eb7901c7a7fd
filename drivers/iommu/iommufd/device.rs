// SPDX-License-Identifier: GPL-2.0-only

//! Binding devices to a context, and unbinding them.
//!
//! A bound device belongs to the driver that bound it: user space can name it, but not destroy it.
//! It is bound only when nobody else can do DMA with its group, when its DMA is coherent, and when
//! its interrupts reach nobody else.

use crate::{
    ffi::{
        context::Ctx,
        device::{
            allows_unsafe_interrupts,
            Device,
            Parts, //
        },
        domain::PhysDev,
        group::{
            Group,
            GroupRef, //
        }, //
    },
    object::Hold, //
};
use kernel::{
    iommu::device::{
        is_capable,
        Capability,
        DmaOwner, //
    },
    prelude::*, //
};

/// Binds a device. The hold is the caller's, until [`unbind`].
///
/// # Errors
///
/// `EINVAL`: its DMA is not coherent; `ENODEV`: it is in no group; `EPERM`: its interrupts are not
/// isolated, or another context or driver owns its group; `EBUSY`: a driver of the kernel's uses
/// the group; `ENOMEM`.
pub(crate) fn bind(ctx: &Ctx, dev: &PhysDev) -> Result<Hold<Device>> {
    let parts = if cfg!(CONFIG_IOMMUFD_NOIOMMU) && !dev.has_iommu() {
        without_iommu(ctx)?
    } else {
        with_iommu(ctx, dev)?
    };
    let device = Device::reserve(ctx, dev, parts)?;
    let hold = device.hold();
    device.publish();
    Ok(hold)
}

fn with_iommu<'a>(ctx: &Ctx, dev: &'a PhysDev) -> Result<Parts<'a>> {
    // User space could not make it coherent again.
    if !is_capable(dev.as_device(), Capability::CacheCoherency) {
        return Err(EINVAL);
    }
    let group = GroupRef::of(ctx, dev)?;
    check_interrupts(dev, &group)?;
    Ok(Parts {
        owner: Some(DmaOwner::claim(dev.as_device(), ctx.identity())?),
        group,
        enforce_cache_coherency: is_capable(dev.as_device(), Capability::EnforceCacheCoherency),
    })
}

/// There is no IOMMU, and nothing to own: the group is made up, so that attaching goes the same
/// way.
fn without_iommu(ctx: &Ctx) -> Result<Parts<'static>> {
    Ok(Parts {
        owner: None,
        group: GroupRef::without_iommu(ctx)?,
        enforce_cache_coherency: false,
    })
}

/// Checks that a write of the device's reaches no interrupt but those of this context.
///
/// # Errors
///
/// `EPERM`: it may, and the administrator did not allow that.
fn check_interrupts(dev: &PhysDev, group: &Group) -> Result {
    if dev.is_mock() || group.has_isolated_msi() {
        return Ok(());
    }
    if !allows_unsafe_interrupts() {
        return Err(EPERM);
    }
    dev_warn!(
        dev.as_device(),
        "MSI interrupts are not secure, they cannot be isolated by the platform. \
         Check that platform features like interrupt remapping are enabled. \
         Use the \"allow_unsafe_interrupts\" module parameter to override\n"
    );
    Ok(())
}

/// Unbinds a device. Its driver does not use it any more.
pub(crate) fn unbind(ctx: &Ctx, device: Hold<Device>) {
    // Otherwise it is still attached, and stays until the context is closed.
    kernel::warn_on!(device.destroy(ctx, false).is_err());
}

/// Destroys the vDEVICE of a device that is about to be destroyed, which would wait for it.
///
/// User space may be destroying it too: then it is not in the table any more, and destroying the
/// device waits until it is gone.
pub(crate) fn let_go(device: &Device) {
    let vdev = {
        let mut group = device.group().lock();
        device
            .retire_vdev(&mut group)
            .and_then(|vdev| Hold::of_known(device.ctx(), vdev))
    };
    if let Some(vdev) = vdev {
        kernel::warn_on!(vdev.destroy(device.ctx(), true).is_err());
    }
}
