// SPDX-License-Identifier: GPL-2.0-only

//! vIOMMUs: shares of an IOMMU, for virtual machines.

use crate::{
    ffi::{
        device::Device,
        domain::UserBuffer,
        driver_objects::{
            Viommu,
            ViommuDriver, //
        },
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                ViommuAlloc, //
            }, //
        },
        ucmd::Ucmd, //
    },
    hwpt::PagingHwpt,
    ioas::Ioas,
    ioctl::{
        Ioctl,
        New, //
    },
    object::{
        lend,
        Head,
        Reserved, //
    }, //
};
use kernel::prelude::*;

impl Ioctl for ViommuAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_VIOMMU_ALLOC);
    const MIN_SIZE: usize = end_of!(ViommuAlloc, out_viommu_id);
    type Answer<'a> = New<Reserved<'a, Viommu>>;

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
        // Where there are data the driver copies them, and the device must not wait for that. Where
        // there are none the device keeps its IOMMU there, until the driver has done so.
        let _device = (ucmd.data_len == 0).then_some(device);
        let data = UserBuffer::new(ucmd.type_, ucmd.data_uptr, ucmd.data_len);
        let viommu = driver.build(ctx, &parent, ucmd.type_, &data)?;
        ucmd.out_viommu_id = viommu.id();
        Ok(New(viommu))
    }
}

impl Viommu {
    /// The IOVAs of the virtual machine: those of the nest parent.
    pub(crate) fn ioas(&self) -> &Ioas {
        self.parent().ioas()
    }
}
