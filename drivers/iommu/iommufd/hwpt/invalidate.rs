// SPDX-License-Identifier: GPL-2.0-only

//! User space's requests to forget what the hardware cached of its page tables.
//!
//! UAPI: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use super::NestedHwpt;
use crate::{
    ffi::{
        context::Ctx,
        domain::UserArray,
        driver_objects::Viommu,
        handlers::{
            self,
            end_of,
            uapi::hwpt::{
                self as uapi,
                HwptInvalidate, //
            }, //
        },
        ucmd::{
            Reply,
            Ucmd, //
        }, //
    },
    ioctl::{
        Answer,
        Ioctl, //
    },
    object::{
        downcast,
        lend,
        Loan,
        Object, //
    }, //
};
use core::mem::offset_of;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The most requests of one invalidation, so that none keeps a CPU busy for ever.
const MAX_REQUESTS: u32 = 1 << 19;

/// Checks the shape of an array of invalidation requests. One without requests has none: user
/// space asks that way whether a type is known.
///
/// # Errors
///
/// `EOPNOTSUPP`: reserved bits; `EINVAL`: no address, or a length or count that is no good.
fn check_requests(cmd: &HwptInvalidate) -> Result {
    if cmd.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    if cmd.entry_num == 0 {
        return Ok(());
    }
    let is_good = cmd.data_uptr != 0
        && (1..=PAGE_SIZE as u32).contains(&cmd.entry_len)
        && cmd.entry_num <= MAX_REQUESTS;
    is_good.then_some(()).ok_or(EINVAL)
}

/// Has the driver of a nested hwpt or of a vIOMMU handle the requests; returns how many it did,
/// and why it stopped.
///
/// # Errors
///
/// `ENOENT`: no such object; `EINVAL`: another kind; `EOPNOTSUPP`: its driver takes no requests.
fn invalidate(ctx: &Ctx, cmd: &HwptInvalidate) -> Result<(u32, Result)> {
    check_requests(cmd)?;
    let mut requests = UserArray::new(cmd.data_type, cmd.data_uptr, cmd.entry_len, cmd.entry_num);
    let of: Loan<'_, Object> = lend(ctx, cmd.hwpt_id)?;
    let result = if let Some(nested) = downcast::<NestedHwpt>(&of) {
        nested.domain().cache_invalidate(&mut requests)
    } else if let Some(viommu) = downcast::<Viommu>(&of) {
        viommu.cache_invalidate(&mut requests)
    } else {
        return Err(EINVAL);
    };
    Ok((requests.count(), result.ok_or(EOPNOTSUPP)?))
}

/// How many requests were handled, which user space learns in any case, and why no more.
pub(crate) struct Handled {
    count: u32,
    result: Result,
}

impl Answer<HwptInvalidate> for Handled {
    #[inline(always)]
    fn give(self, reply: Reply<'_, HwptInvalidate>) -> Result {
        reply.put_u32(offset_of!(HwptInvalidate, entry_num), self.count)?;
        self.result
    }
}

/// `IOMMU_HWPT_INVALIDATE`
impl Ioctl for HwptInvalidate {
    const NUMBER: u32 = handlers::number(uapi::CMD_INVALIDATE);
    const MIN_SIZE: usize = end_of!(HwptInvalidate, __reserved);
    type Answer<'a> = Handled;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Handled> {
        let (count, result) = invalidate(ucmd.ctx(), ucmd).unwrap_or_else(|e| (0, Err(e)));
        Ok(Handled { count, result })
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_hwpt_invalidate)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let page = PAGE_SIZE as u32;
        for (reserved, uptr, len, num, expected) in [
            (0, 0, 0, 0, Ok(())),
            (1, 0, 0, 0, Err(EOPNOTSUPP)),
            (1, 0, 0, 1, Err(EOPNOTSUPP)),
            // Without requests nothing else matters.
            (0, 0, u32::MAX, 0, Ok(())),
            (0, 0, 1, 1, Err(EINVAL)),
            (0, 1, 0, 1, Err(EINVAL)),
            (0, 1, 1, 1, Ok(())),
            (0, u64::MAX, page, 1, Ok(())),
            (0, 1, page + 1, 1, Err(EINVAL)),
            (0, 1, u32::MAX, 1, Err(EINVAL)),
            (0, 1, 1, MAX_REQUESTS, Ok(())),
            (0, 1, 1, MAX_REQUESTS + 1, Err(EINVAL)),
            (0, 1, 1, u32::MAX, Err(EINVAL)),
        ] {
            let cmd = HwptInvalidate {
                __reserved: reserved,
                data_uptr: uptr,
                entry_len: len,
                entry_num: num,
                ..Default::default()
            };
            assert_eq!(check_requests(&cmd), expected);
        }
    }
}
