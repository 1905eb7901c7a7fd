// SPDX-License-Identifier: GPL-2.0-only

//! Where in an IOVA space there is room. All pure; ranges are of bytes, with both ends included.

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The largest alignment that is tried, so that memory of large pages can be mapped with large
/// entries.
const MOST: usize = crate::ffi::pin::HUGE_PAGE;

/// IOVAs that are chosen lie in here: 0 is never chosen, nor what could wrap.
pub(crate) const FIRST: usize = PAGE_SIZE;
pub(crate) const LAST: usize = usize::MAX - PAGE_SIZE;

/// What is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    length: usize,
    /// A power of two.
    align: usize,
    /// How far behind a multiple of a page it begins.
    offset: usize,
}

impl Wanted {
    /// Room for `length` bytes of memory at `addr`, aligned like that memory. `least` is what
    /// everything is aligned to.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` for a length that no range has; `EINVAL` for memory that is not aligned enough.
    pub(crate) fn new(addr: usize, length: usize, least: usize) -> Result<Self> {
        if length == 0 || length >= usize::MAX / 2 {
            return Err(EOVERFLOW);
        }
        let of_memory = if addr == 0 {
            usize::MAX
        } else {
            1 << addr.trailing_zeros()
        };
        let align = length.next_power_of_two().min(of_memory).min(MOST);
        if align < least {
            return Err(EINVAL);
        }
        Ok(Self {
            length,
            align,
            offset: addr % PAGE_SIZE,
        })
    }

    /// Where it begins in a range, if it has room.
    pub(crate) fn fit(&self, first: usize, last: usize) -> Option<usize> {
        let up = first.checked_add(self.align - 1)? & !(self.align - 1);
        let at = up | self.offset;
        (at < last && last - at >= self.length - 1).then_some(at)
    }
}

/// The parts of the range from `first` to `last` in which none of `used` is, ranges that begin in
/// order.
pub(crate) fn holes(
    first: usize,
    last: usize,
    mut used: impl Iterator<Item = (usize, usize)>,
) -> impl Iterator<Item = (usize, usize)> {
    // Where the next hole may begin; none when all is passed.
    let mut at = Some(first);
    core::iter::from_fn(move || loop {
        let from = at.filter(|&at| at <= last)?;
        let Some((start, until)) = used.next() else {
            at = None;
            return Some((from, last));
        };
        if until >= from {
            at = until.checked_add(1);
        }
        if start > from {
            return Some((from, last.min(start - 1)));
        }
    })
}

/// Both of two sequences of ranges that begin in order.
pub(crate) fn merged(
    mut a: impl Iterator<Item = (usize, usize)>,
    mut b: impl Iterator<Item = (usize, usize)>,
) -> impl Iterator<Item = (usize, usize)> {
    let (mut next_a, mut next_b) = (a.next(), b.next());
    core::iter::from_fn(move || match (next_a, next_b) {
        (Some(one), other) if other.is_none_or(|other| one.0 <= other.0) => {
            next_a = a.next();
            Some(one)
        }
        (_, other) => {
            next_b = b.next();
            other
        }
    })
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_fit)]
mod tests {
    use super::*;

    const MAX: usize = usize::MAX;

    #[test]
    fn alignment() {
        let align = |addr, length, least| Wanted::new(addr, length, least).map(|it| it.align);
        for (addr, length, least, expected) in [
            (0, 0, 1, Err(EOVERFLOW)),
            (0, MAX / 2, 1, Err(EOVERFLOW)),
            (0, 1, 1, Ok(1)),
            (0, 3, 1, Ok(4)),
            (0, MAX / 2 - 1, 1, Ok(MOST)),
            (0x1000, 1 << 30, 1, Ok(0x1000)),
            (0x3000, 0x800, 1, Ok(0x800)),
            (1 << 40, 1 << 30, 0x1000, Ok(MOST)),
            (0x1800, 0x2000, 0x1000, Err(EINVAL)),
            (0x1000, 0x800, 0x1000, Err(EINVAL)),
        ] {
            assert_eq!(align(addr, length, least), expected);
        }
    }

    #[test]
    fn fits() {
        let at = |addr, length, first, last| {
            Wanted::new(addr, length, 1)
                .ok()
                .and_then(|it| it.fit(first, last))
        };
        assert_eq!(at(0, 0x1000, 0x1000, 0x1fff), Some(0x1000));
        assert_eq!(at(0, 0x1000, 0x1000, 0x1ffe), None);
        assert_eq!(at(0, 0x1000, 0x1001, 0x2fff), Some(0x2000));
        assert_eq!(at(0, 0x1000, MAX - 0x1000, MAX), Some(MAX - 0xfff));
        assert_eq!(at(0, 0x1000, MAX - 0xffe, MAX), None);
        assert_eq!(at(0x10_0800, 0x800, 0x1000, 0x1fff), Some(0x1800));
    }

    /// Each choice of up to two used ranges among eight numbers, number by number, at both ends of
    /// the address space.
    #[test]
    fn every_hole() {
        let ranges =
            |base: usize| (0..8usize).flat_map(move |a| (a..8).map(move |b| (base + a, base + b)));
        for base in [0, MAX - 7] {
            for (first, last) in ranges(base) {
                for one in ranges(base) {
                    for other in ranges(base) {
                        let used = [one.min(other), one.max(other)];
                        let mut expected = 0u32;
                        for n in 0..8 {
                            let at = base + n;
                            let is_used = used.iter().any(|(a, b)| (*a..=*b).contains(&at));
                            expected |= u32::from((first..=last).contains(&at) && !is_used) << n;
                        }
                        let mut got = 0u32;
                        let mut before = None;
                        let all = merged([used[0]].into_iter(), [used[1]].into_iter());
                        for (a, b) in holes(first, last, all) {
                            // In order, not empty, and not to be merged.
                            assert!(a <= b && before.is_none_or(|before| before + 1 < a));
                            before = Some(b);
                            for at in a..=b {
                                got |= 1 << (at - base);
                            }
                        }
                        assert_eq!(got, expected);
                    }
                }
            }
        }
        assert!(holes(3, MAX, [].into_iter()).eq([(3, MAX)]));
    }
}
