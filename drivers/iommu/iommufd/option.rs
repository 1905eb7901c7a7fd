// SPDX-License-Identifier: GPL-2.0-only

//! `IOMMU_OPTION`: settings of a context and of an IOAS.

use crate::{
    ffi::{
        context::{
            AccountMode,
            Ctx, //
        },
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                OptionCmd, //
            }, //
        },
        ucmd::Ucmd, //
    },
    ioas,
    ioctl::Ioctl, //
};
use core::mem::offset_of;
use kernel::prelude::*;

impl Ioctl for OptionCmd {
    const NUMBER: u32 = handlers::number(uapi::CMD_OPTION);
    const MIN_SIZE: usize = end_of!(OptionCmd, val64);

    fn run(ucmd: &mut Ucmd<'_, Self>) -> Result {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let ctx = ucmd.ctx();
        match ucmd.option_id {
            uapi::OPTION_RLIMIT_MODE => rlimit_mode(ctx, ucmd)?,
            uapi::OPTION_HUGE_PAGES => ioas::huge_pages(ucmd)?,
            _ => return Err(EOPNOTSUPP),
        }
        ucmd.respond_at(offset_of!(OptionCmd, val64), &ucmd.val64.to_ne_bytes())
    }
}

/// `IOMMU_OPTION_RLIMIT_MODE`: may change only while the context has no objects.
fn rlimit_mode(ctx: &Ctx, option: &mut OptionCmd) -> Result {
    if option.object_id != 0 {
        return Err(EOPNOTSUPP);
    }
    match option.op.into() {
        uapi::OPTION_OP_GET => {
            option.val64 = u64::from(ctx.account_mode() == AccountMode::Mm);
            Ok(())
        }
        uapi::OPTION_OP_SET => {
            if !handlers::may_change_limits() {
                return Err(EPERM);
            }
            let locked = ctx.objects().lock();
            if !locked.is_empty() {
                return Err(EBUSY);
            }
            ctx.set_account_mode(mode_of(option.val64)?, &locked);
            Ok(())
        }
        _ => Err(EOPNOTSUPP),
    }
}

fn mode_of(value: u64) -> Result<AccountMode> {
    match value {
        0 => Ok(AccountMode::User),
        1 => Ok(AccountMode::Mm),
        _ => Err(EINVAL),
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_option)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert!(matches!(mode_of(0), Ok(AccountMode::User)));
        assert!(matches!(mode_of(1), Ok(AccountMode::Mm)));
        for value in [2, 3, 1 << 32, 1 | 1 << 63, u64::MAX] {
            assert_eq!(mode_of(value).err(), Some(EINVAL));
        }
    }
}
