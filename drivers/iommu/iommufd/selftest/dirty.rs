// SPDX-License-Identifier: GPL-2.0-only

//! Plays the hardware that writes: marks pages as written to.

use super::{
    memory::{
        go_on,
        paging, //
    },
    uapi::Dirty, //
};
use crate::{
    ffi::selftest::{
        object::{
            Mapped,
            PagingExt,
            Ucmd, //
        },
        pagetable::set_dirty, //
    },
    hwpt::PagingHwpt,
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

/// How many pages are marked before others may map and unmap.
const AT_ONCE: usize = 512;

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
/// bitmap cannot be read. `EINTR`: the caller was killed.
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
    let (base, page_size) = (args.iova, args.page_size);
    // CAST: an address of the IOAS has as many bits as one of the CPU's.
    let iova_of = |bit: u64| base.wrapping_add(bit * page_size) as usize;
    let mut bits = bits(&bitmap, count).peekable();
    while let Some(&first) = bits.peek() {
        go_on()?;
        let mut some = |mapped: Option<&Mapped<'_>>| -> Result {
            let goes_along = |bit: &u64| match mapped {
                Some(mapped) => mapped.contains(iova_of(*bit)),
                None => *bit == first,
            };
            for _ in 0..AT_ONCE {
                let Some(bit) = bits.next_if(goes_along) else {
                    break;
                };
                // Where nothing is mapped nothing gets dirty, and the bit counts all the same.
                if let Some(mapped) = mapped {
                    set_dirty(domain, mapped, iova_of(bit))?;
                }
                args.out_nr_dirty += 1;
            }
            Ok(())
        };
        match hwpt.while_mapped(iova_of(first), |mapped| some(Some(mapped))) {
            Some(done) => done?,
            None => some(None)?,
        }
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
