// SPDX-License-Identifier: GPL-2.0-only

//! vIOMMUs and vDEVICEs: a share of an IOMMU, and a device as a virtual machine sees it.

use crate::{
    ffi::{
        context::Ctx,
        device::Device,
        domain::UserBuffer,
        group::Locked,
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                VdeviceAlloc,
                ViommuAlloc, //
            }, //
        },
        ucmd::Ucmd,
        vdevice::{
            keep_device,
            Vacant, //
        },
        viommu::{
            Viommu,
            ViommuDriver, //
        }, //
    },
    hwpt::PagingHwpt,
    ioctl::{
        Ioctl,
        New,
        Publish, //
    },
    object::{
        lend,
        Built, //
    }, //
};
use kernel::prelude::*;

impl Ioctl for ViommuAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_VIOMMU_ALLOC);
    const MIN_SIZE: usize = end_of!(ViommuAlloc, out_viommu_id);
    type Answer<'a> = New<Built<'a>>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>> {
        if ucmd.flags != 0 || ucmd.type_ == uapi::VIOMMU_TYPE_DEFAULT {
            return Err(EOPNOTSUPP);
        }
        let ctx = ucmd.ctx();
        let device = lend::<Device>(ctx, ucmd.dev_id)?;
        let driver = ViommuDriver::of(&device, ucmd.type_)?;
        let parent = lend::<PagingHwpt>(ctx, ucmd.hwpt_id)?;
        if !parent.is_nest_parent() {
            return Err(EINVAL);
        }
        drop(device);
        let data = UserBuffer::new(ucmd.type_, ucmd.data_uptr, ucmd.data_len);
        let viommu = driver.build(ctx, &parent, ucmd.type_, &data)?;
        ucmd.out_viommu_id = viommu.id();
        Ok(New(viommu))
    }
}

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
    vacant: Vacant<'a>,
    dev_id: u32,
}

impl Publish for NewVdevice<'_> {
    /// # Errors
    ///
    /// Those that it had before, for the device may have gone meanwhile; what the driver says.
    fn publish(self) -> Result {
        let device = lend::<Device>(self.ctx, self.dev_id)?;
        if !device.is_behind(self.vacant.viommu()) {
            return Err(EINVAL);
        }
        {
            let group = device.group().lock();
            check_free(&device, &group)?;
            self.vacant.build(&device, &group)?.publish();
        }
        keep_device(device);
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
        let vacant = Vacant::reserve(ctx, &viommu, virt_id)?;
        ucmd.out_vdevice_id = vacant.id();
        Ok(New(NewVdevice {
            ctx,
            vacant,
            dev_id,
        }))
    }
}
