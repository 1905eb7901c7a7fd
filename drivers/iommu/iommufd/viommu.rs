// SPDX-License-Identifier: GPL-2.0-only

//! vIOMMUs and vDEVICEs: a share of an IOMMU, and a device as a virtual machine sees it.

use crate::{
    ffi::{
        device::Device,
        domain::UserData,
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                VdeviceAlloc,
                ViommuAlloc, //
            }, //
        },
        hwpt::{
            PagingHwpt,
            Viommu, //
        },
        ucmd::Ucmd,
        vdevice::keep_device,
        viommu::ViommuDriver, //
    },
    ioctl::Ioctl,
    object::lend, //
};
use kernel::prelude::*;

impl Ioctl for ViommuAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_VIOMMU_ALLOC);
    const MIN_SIZE: usize = end_of!(ViommuAlloc, out_viommu_id);

    fn run(ucmd: &mut Ucmd<'_, Self>) -> Result {
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
        let data = UserData::new(ucmd.type_, ucmd.data_uptr, ucmd.data_len);
        let viommu = driver.build(ctx, &parent, ucmd.type_, &data)?;
        ucmd.out_viommu_id = viommu.id();
        ucmd.respond()?;
        viommu.publish();
        Ok(())
    }
}

impl Ioctl for VdeviceAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_VDEVICE_ALLOC);
    const MIN_SIZE: usize = end_of!(VdeviceAlloc, virt_id);

    fn run(ucmd: &mut Ucmd<'_, Self>) -> Result {
        let virt_id = usize::try_from(ucmd.virt_id).map_err(|_| EINVAL)?;
        let ctx = ucmd.ctx();
        let viommu = lend::<Viommu>(ctx, ucmd.viommu_id)?;
        let device = lend::<Device>(ctx, ucmd.dev_id)?;
        if !device.is_behind(&viommu) {
            return Err(EINVAL);
        }
        {
            let group = device.group().lock();
            if device.is_retired(&group) {
                return Err(ENOENT);
            }
            if device.has_vdev(&group) {
                return Err(EEXIST);
            }
            let vdevice = viommu.build_vdevice(ctx, &device, &group, virt_id)?;
            ucmd.out_vdevice_id = vdevice.id();
            ucmd.respond()?;
            vdevice.publish();
        }
        keep_device(device);
        Ok(())
    }
}
