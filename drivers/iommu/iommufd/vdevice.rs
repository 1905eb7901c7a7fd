// SPDX-License-Identifier: GPL-2.0-only

//! vDEVICEs: devices as a virtual machine sees them.
//!
//! Lock order: the device's group, then the xarray of the vIOMMU's vDEVICEs.

use crate::{
    ffi::{
        context::Ctx,
        device::Device,
        driver_objects::{
            Vdevice,
            Viommu, //
        },
        group::Locked,
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                VdeviceAlloc, //
            }, //
        },
        ucmd::Ucmd, //
    },
    ioctl::{
        Ioctl,
        New,
        Publish, //
    },
    object::{
        lend,
        Head,
        Loan,
        Reserved, //
    }, //
};
use kernel::prelude::*;

/// Whether a device may get a vDEVICE.
///
/// # Errors
///
/// `ENOENT`: it is being unbound; `EEXIST`: it has one.
fn check_free(device: &Device, group: &Locked<'_>) -> Result {
    if device.is_retired(group) {
        return Err(ENOENT);
    }
    if device.has_vdev(group) {
        return Err(EEXIST);
    }
    Ok(())
}

/// A vDEVICE with an id, but without its device. Unbinding a device destroys its vDEVICE, which
/// must be published for that; so they come together only when user space has the id.
pub(crate) struct NewVdevice<'a> {
    ctx: &'a Ctx,
    vdevice: Reserved<'a, Vdevice>,
    dev_id: u32,
}

impl Publish for NewVdevice<'_> {
    /// # Errors
    ///
    /// Those that it had before, for the device may have gone meanwhile; what the driver says.
    fn publish(self) -> Result {
        let mut vdevice = self.vdevice;
        let device = lend::<Device>(self.ctx, self.dev_id)?;
        if !device.is_behind(vdevice.viommu()) {
            return Err(EINVAL);
        }
        let kept = Loan::of(self.ctx, device.object()).ok_or(ENOENT)?;
        let mut group = device.group().lock();
        check_free(&device, &group)?;
        vdevice.as_mut().connect(kept, &mut group)?;
        vdevice.publish();
        Ok(())
    }
}

impl Ioctl for VdeviceAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_VDEVICE_ALLOC);
    const MIN_SIZE: usize = end_of!(VdeviceAlloc, virt_id);
    type Answer<'a> = New<NewVdevice<'a>>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>> {
        let virt_id = usize::try_from(ucmd.virt_id).map_err(|_| EINVAL)?;
        let ctx = ucmd.ctx();
        let viommu = lend::<Viommu>(ctx, ucmd.viommu_id)?;
        let dev_id = ucmd.dev_id;
        let device = lend::<Device>(ctx, dev_id)?;
        if !device.is_behind(&viommu) {
            return Err(EINVAL);
        }
        check_free(&device, &device.group().lock())?;
        let vdevice = Vdevice::reserve(ctx, &viommu, virt_id)?;
        ucmd.out_vdevice_id = vdevice.id();
        Ok(New(NewVdevice {
            ctx,
            vdevice,
            dev_id,
        }))
    }
}
