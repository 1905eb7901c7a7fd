// SPDX-License-Identifier: GPL-2.0-only

//! Plays the hardware that writes: marks pages as written to.

use super::{
    memory::paging,
    uapi::Dirty, //
};
use crate::{
    ffi::{
        hwpt::PagingHwpt,
        selftest::{
            object::Ucmd,
            pagetable::set_dirty, //
        },
    },
    object::lend, //
};
use kernel::{
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// The most pages in one request: a bitmap of 16 MiB.
const MAX_PAGES: u64 = (16 << 20) * 8;

/// How many pages a request is about.
///
/// # Errors
///
/// `EINVAL`: none, or not whole pages. `EOVERFLOW`: too many.
fn page_count(args: &Dirty) -> Result<u64> {
    let odd = |value: u64| {
        value
            .checked_rem(args.page_size)
            .is_none_or(|rest| rest != 0)
    };
    if args.length == 0 || odd(args.iova) || odd(args.length) || args.uptr == 0 {
        return Err(EINVAL);
    }
    let pages = args.length / args.page_size;
    if pages > MAX_PAGES {
        return Err(EOVERFLOW);
    }
    Ok(pages)
}

/// The numbers of the bits that are set, among the first `count`.
fn bits(bitmap: &[u8], count: u64) -> impl Iterator<Item = u64> + '_ {
    (0..count).filter(|&bit| {
        bitmap
            .get((bit / 8) as usize)
            .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
    })
}

/// `DIRTY`: marks the pages of a bitmap as written to, and says how many.
///
/// # Errors
///
/// See [`page_count`]. `ENOENT`: no such page table. `EINVAL`: it does not track. `EFAULT`: the
/// bitmap cannot be read.
pub(super) fn mark(ucmd: &mut Ucmd<'_>) -> Result {
    let mut args: Dirty = ucmd.cmd().args()?;
    let count = page_count(&args)?;
    let hwpt = lend::<PagingHwpt>(ucmd.ctx(), ucmd.cmd().id)?;
    let domain = paging(&hwpt)?;
    if !domain.is_tracking() {
        return Err(EINVAL);
    }
    let len = usize::try_from(count.div_ceil(8))?;
    let mut bitmap = KVVec::from_elem(0u8, len, GFP_KERNEL_ACCOUNT)?;
    UserSlice::new(UserPtr::from_addr(usize::try_from(args.uptr)?), len)
        .reader()
        .read_slice(&mut bitmap)?;
    args.out_nr_dirty = 0;
    for bit in bits(&bitmap, count) {
        set_dirty(domain, args.iova.wrapping_add(bit * args.page_size))?;
        args.out_nr_dirty += 1;
    }
    ucmd.cmd().set_args(&args)?;
    ucmd.respond()
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_mock_dirty)]
mod tests {
    use super::*;

    fn request(iova: u64, length: u64, page_size: u64, uptr: u64) -> Dirty {
        Dirty {
            flags: 0,
            pad: 0,
            iova,
            length,
            page_size,
            uptr,
            out_nr_dirty: 0,
        }
    }

    #[test]
    fn counts_pages() {
        let table = [
            (request(0, 4096, 4096, 1), Ok(1)),
            (request(4096, 8192, 4096, 1), Ok(2)),
            (request(0, 0, 4096, 1), Err(EINVAL)),
            (request(0, 4096, 0, 1), Err(EINVAL)),
            (request(1, 4096, 4096, 1), Err(EINVAL)),
            (request(0, 4097, 4096, 1), Err(EINVAL)),
            (request(0, 4096, 4096, 0), Err(EINVAL)),
            (request(0, MAX_PAGES, 1, 1), Ok(MAX_PAGES)),
            (request(0, MAX_PAGES + 1, 1, 1), Err(EOVERFLOW)),
            (request(0, u64::MAX, 1, 1), Err(EOVERFLOW)),
        ];
        for (args, count) in table {
            assert_eq!(page_count(&args), count);
        }
    }

    #[test]
    fn finds_bits() {
        let bitmap = [0b1000_0001, 0b0000_0010];
        assert!(bits(&bitmap, 16).eq([0, 7, 9]));
        assert!(bits(&bitmap, 9).eq([0, 7]));
        assert!(bits(&bitmap, 0).eq([]));
        assert!(bits(&bitmap, 99).eq([0, 7, 9]));
    }
}
