// SPDX-License-Identifier: GPL-2.0-only

//! What was written to through a paging hwpt.
//!
//! UAPI: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use super::PagingHwpt;
use crate::{
    ffi::{
        handlers::{
            self,
            end_of,
            uapi::hwpt::{
                self as uapi,
                GetDirtyBitmap,
                SetDirtyTracking, //
            }, //
        },
        ucmd::Ucmd, //
    },
    ioctl::Ioctl,
    object::lend, //
};
use kernel::prelude::*;

/// `IOMMU_HWPT_SET_DIRTY_TRACKING`
impl Ioctl for SetDirtyTracking {
    const NUMBER: u32 = handlers::number(uapi::CMD_SET_DIRTY_TRACKING);
    const MIN_SIZE: usize = end_of!(SetDirtyTracking, __reserved);
    type Answer<'a> = ();

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result {
        if ucmd.flags & !uapi::TRACKING_ENABLE != 0 {
            return Err(EOPNOTSUPP);
        }
        let enable = ucmd.flags & uapi::TRACKING_ENABLE != 0;
        lend::<PagingHwpt>(ucmd.ctx(), ucmd.hwpt_id)?.set_dirty_tracking(enable)
    }
}

/// `IOMMU_HWPT_GET_DIRTY_BITMAP`
impl Ioctl for GetDirtyBitmap {
    const NUMBER: u32 = handlers::number(uapi::CMD_GET_DIRTY_BITMAP);
    const MIN_SIZE: usize = end_of!(GetDirtyBitmap, data);
    type Answer<'a> = ();

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result {
        if ucmd.flags & !uapi::NO_CLEAR != 0 || ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        lend::<PagingHwpt>(ucmd.ctx(), ucmd.hwpt_id)?.read_dirty(ucmd)
    }
}
