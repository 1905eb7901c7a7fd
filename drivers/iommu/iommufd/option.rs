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
        ucmd::{
            Reply,
            Ucmd, //
        }, //
    },
    ioas,
    ioctl::{
        Answer,
        Ioctl, //
    }, //
};
use core::mem::offset_of;
use kernel::prelude::*;

/// The value, and nothing else, is copied back.
pub(crate) struct Value;

impl Answer<OptionCmd> for Value {
    #[inline(always)]
    fn give(self, reply: Reply<'_, OptionCmd>) -> Result {
        reply.put_u64(offset_of!(OptionCmd, val64), reply.val64)
    }
}

impl Ioctl for OptionCmd {
    const NUMBER: u32 = handlers::number(uapi::CMD_OPTION);
    const MIN_SIZE: usize = end_of!(OptionCmd, val64);

    type Answer<'a> = Value;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Value> {
        if ucmd.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let ctx = ucmd.ctx();
        match ucmd.option_id {
            uapi::OPTION_RLIMIT_MODE => rlimit_mode(ctx, ucmd)?,
            uapi::OPTION_HUGE_PAGES => ioas::huge_pages(ucmd)?,
            _ => return Err(EOPNOTSUPP),
        }
        Ok(Value)
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
