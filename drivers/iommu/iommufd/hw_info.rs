// SPDX-License-Identifier: GPL-2.0-only

//! `IOMMU_GET_HW_INFO`: what hardware serves a device.
//!
//! The driver's own structure goes to user space as it is, and user space learns its length also
//! when it gave less room. What it gave more is zeroed.
//!
//! UAPI: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use crate::{
    ffi::{
        device::{
            clear_user,
            in_type,
            set_out_type,
            uapi::{
                self,
                HwInfo, //
            },
            Device, //
        },
        domain::{
            HwInfo as Info,
            PhysDev, //
        },
        handlers::{
            self,
            end_of, //
        },
        ucmd::{
            write_bytes,
            Reply,
            Ucmd, //
        }, //
    },
    ioctl::{
        Answer,
        Ioctl, //
    },
    object::lend, //
};
use kernel::{
    iommu::device::{
        is_capable,
        Capability, //
    },
    prelude::*, //
};

/// Checks what user space asks for.
///
/// # Errors
///
/// `EOPNOTSUPP`: an unknown flag, or reserved bits.
fn check(cmd: &HwInfo) -> Result {
    if cmd.flags & !uapi::INPUT_TYPE != 0 || cmd.__reserved != [0; 3] {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

/// The type of information that user space wants; without the flag the field says nothing.
fn wanted(cmd: &HwInfo) -> u32 {
    if cmd.flags & uapi::INPUT_TYPE != 0 {
        in_type(cmd)
    } else {
        uapi::TYPE_DEFAULT
    }
}

/// How many bits a PASID has, 0 when PASIDs are not enabled.
#[inline]
fn pasid_bits(max_pasids: u32) -> u8 {
    max_pasids.checked_ilog2().unwrap_or(0) as u8
}

/// What the PASID capability's control register says, as `IOMMU_HW_CAP_*`.
fn pasid_capabilities(control: u32) -> u64 {
    let mut capabilities = 0;
    if control & uapi::PASID_EXEC != 0 {
        capabilities |= uapi::CAP_PASID_EXEC;
    }
    if control & uapi::PASID_PRIV != 0 {
        capabilities |= uapi::CAP_PASID_PRIV;
    }
    capabilities.into()
}

/// How many bits a PASID of the device has, and what `IOMMU_HW_CAP_*` says of PASIDs: nothing of
/// those that the driver could not enable, as where there is no ACS.
#[inline]
fn pasids(dev: &PhysDev) -> (u8, u64) {
    let max_pasids = dev.max_pasids();
    if max_pasids == 0 {
        return (0, 0);
    }
    let bits = pasid_bits(max_pasids);
    match dev.pasid_control() {
        None => (bits, 0),
        Some(Ok(control)) if control & uapi::PASID_ENABLED != 0 => {
            (bits, pasid_capabilities(control))
        }
        Some(_) => (0, 0),
    }
}

/// What the hardware can do for the device, as `IOMMU_HW_CAP_*`.
#[inline(always)]
fn capabilities(dev: &PhysDev) -> u64 {
    let mut capabilities = 0;
    if is_capable(dev.as_device(), Capability::DirtyTracking) {
        capabilities |= u64::from(uapi::CAP_DIRTY_TRACKING);
    }
    if !is_capable(dev.as_device(), Capability::PciAts) {
        capabilities |= u64::from(uapi::CAP_NO_ATS);
    }
    capabilities
}

/// Writes as much of the driver's structure as there is room for, and zeroes behind it.
#[inline(always)]
fn write(at: u64, room: u32, bytes: &[u8]) -> Result {
    let (at, room) = (at as usize, room as usize);
    let bytes = bytes.get(..room).unwrap_or(bytes);
    write_bytes(at, bytes)?;
    match room - bytes.len() {
        0 => Ok(()),
        rest => clear_user(at.wrapping_add(bytes.len()), rest),
    }
}

/// What the driver tells, and for how many bytes of it user space has room.
pub(crate) struct Told {
    info: Info,
    room: u32,
}

impl Answer<HwInfo> for Told {
    #[inline(always)]
    fn give(self, reply: Reply<'_, HwInfo>) -> Result {
        write(reply.data_uptr, self.room, self.info.bytes())?;
        reply.respond()
    }
}

impl Ioctl for HwInfo {
    const NUMBER: u32 = handlers::number(uapi::CMD_GET_HW_INFO);
    const MIN_SIZE: usize = end_of!(HwInfo, __reserved);

    type Answer<'a> = Told;

    #[inline(always)]
    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Told> {
        check(ucmd)?;
        let wanted = wanted(ucmd);
        let device = lend::<Device>(ucmd.ctx(), ucmd.dev_id)?;
        if device.is_noiommu() {
            return Err(EOPNOTSUPP);
        }
        let dev = device.dev();
        let info = device.driver()?.hw_info(dev, wanted)?;
        let cmd: &mut Self = ucmd;
        let room = cmd.data_len;
        set_out_type(cmd, info.kind());
        cmd.data_len = info.bytes().len() as u32;
        let (bits, of_pasids) = pasids(dev);
        cmd.out_capabilities = capabilities(dev) | of_pasids;
        cmd.out_max_pasid_log2 = bits;
        Ok(Told { info, room })
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_hw_info)]
mod tests {
    use super::*;

    #[test]
    fn flags() {
        for bit in 0..32 {
            let cmd = HwInfo {
                flags: 1 << bit,
                ..Default::default()
            };
            let known = cmd.flags == uapi::INPUT_TYPE;
            assert_eq!(check(&cmd), if known { Ok(()) } else { Err(EOPNOTSUPP) });
        }
        for index in 0..3 {
            let mut cmd = HwInfo::default();
            cmd.__reserved[index] = 0x80;
            assert_eq!(check(&cmd), Err(EOPNOTSUPP));
        }
        assert_eq!(check(&HwInfo::default()), Ok(()));
    }

    #[test]
    fn pasid_width() {
        for (max_pasids, expected) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 1),
            (1 << 19, 19),
            ((1 << 20) - 1, 19),
            (1 << 20, 20),
            (u32::MAX, 31),
        ] {
            assert_eq!(pasid_bits(max_pasids), expected);
        }
    }

    #[test]
    fn pasid_control() {
        let both = u64::from(uapi::CAP_PASID_EXEC | uapi::CAP_PASID_PRIV);
        assert_eq!(pasid_capabilities(0), 0);
        assert_eq!(pasid_capabilities(uapi::PASID_ENABLED), 0);
        assert_eq!(
            pasid_capabilities(uapi::PASID_EXEC),
            uapi::CAP_PASID_EXEC.into()
        );
        assert_eq!(
            pasid_capabilities(uapi::PASID_PRIV),
            uapi::CAP_PASID_PRIV.into()
        );
        assert_eq!(pasid_capabilities(u32::MAX), both);
    }
}
