// SPDX-License-Identifier: GPL-2.0-only

//! Where a mapping is, in IOVAs and in the pages behind it. All pure.
//!
//! IOVAs are bytes, pages are counted from the first one of their memory by an index. A mapping may
//! begin and end inside of a page.

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// The last address of a range.
///
/// # Errors
///
/// `EINVAL`: it is empty; `EOVERFLOW`: it goes beyond the end of the address space.
pub(crate) fn last_of(first: usize, length: usize) -> Result<usize> {
    let more = length.checked_sub(1).ok_or(EINVAL)?;
    first.checked_add(more).ok_or(EOVERFLOW)
}

/// A range of IOVAs and where in its pages that begins.
///
/// # Invariants
///
/// `iova <= last`; `offset` is less than a page; the bytes from the first page's beginning to the
/// end can be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    iova: usize,
    last: usize,
    /// The first page.
    index: usize,
    /// Bytes of the first page before it begins.
    offset: usize,
}

impl Extent {
    /// `length` bytes at `iova`, from the byte `start` of the memory on.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` where anything wraps.
    pub(crate) fn new(iova: usize, start: usize, length: usize) -> Result<Self> {
        let more = length.checked_sub(1).ok_or(EOVERFLOW)?;
        let last = iova.checked_add(more).ok_or(EOVERFLOW)?;
        start.checked_add(more).ok_or(EOVERFLOW)?;
        // INVARIANT: as was checked.
        Ok(Self {
            iova,
            last,
            index: start / PAGE_SIZE,
            offset: start % PAGE_SIZE,
        })
    }

    /// What [`Self::new`] has made before, by its first and last IOVA and [`Self::start`].
    pub(crate) fn again(iova: usize, last: usize, start: usize) -> Self {
        // INVARIANT: as was checked then.
        Self {
            iova,
            last,
            index: start / PAGE_SIZE,
            offset: start % PAGE_SIZE,
        }
    }

    /// The byte of the memory at which it begins.
    pub(crate) fn start(&self) -> usize {
        self.index * PAGE_SIZE + self.offset
    }

    /// The first IOVA.
    pub(crate) fn iova(&self) -> usize {
        self.iova
    }

    /// The last IOVA.
    pub(crate) fn last(&self) -> usize {
        self.last
    }

    /// The first page.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The last page.
    pub(crate) fn last_index(&self) -> usize {
        self.index + (self.offset + (self.last - self.iova)) / PAGE_SIZE
    }

    /// Which byte of the memory is behind an IOVA, which is in it.
    pub(crate) fn byte(&self, iova: usize) -> usize {
        self.start() + (iova - self.iova)
    }

    /// The first IOVA of a page, which is in it.
    pub(crate) fn iova_of(&self, index: usize) -> usize {
        if index == self.index {
            self.iova
        } else {
            let pages = (index - self.index) * PAGE_SIZE;
            self.iova.wrapping_add(pages).wrapping_sub(self.offset)
        }
    }

    /// The last IOVA of a page, which is in it.
    pub(crate) fn last_iova_of(&self, index: usize) -> usize {
        if index == self.last_index() {
            self.last
        } else {
            self.iova_of(index + 1).wrapping_sub(1)
        }
    }

    /// How many bytes of a page are before it.
    pub(crate) fn offset_of(&self, index: usize) -> usize {
        if index == self.index {
            self.offset
        } else {
            0
        }
    }

    /// Whether both ends are multiples of `align`, a power of two up to a page, and the memory
    /// behind them, too.
    pub(crate) fn is_aligned(&self, align: usize) -> bool {
        (self.iova | self.last.wrapping_add(1) | self.offset) & (align - 1) == 0
    }

    /// The parts before and from `at` on, which is in it and not its first IOVA.
    pub(crate) fn split(&self, at: usize) -> (Self, Self) {
        // Parts of what was right.
        (
            Self {
                last: at - 1,
                ..*self
            },
            Self::again(at, self.last, self.byte(at)),
        )
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_area)]
mod tests {
    use super::*;

    const MAX: usize = usize::MAX;
    const P: usize = PAGE_SIZE;

    #[test]
    fn ranges() {
        for (iova, length, expected) in [
            (0, 0, Err(EINVAL)),
            (MAX, 0, Err(EINVAL)),
            (0, 1, Ok(0)),
            (0, MAX, Ok(MAX - 1)),
            (1, MAX, Ok(MAX)),
            (2, MAX, Err(EOVERFLOW)),
            (MAX, 1, Ok(MAX)),
            (MAX, 2, Err(EOVERFLOW)),
            (MAX, MAX, Err(EOVERFLOW)),
        ] {
            assert_eq!(last_of(iova, length), expected);
        }
    }

    #[test]
    fn wraps() {
        let wrong = |iova, start, length| Extent::new(iova, start, length) == Err(EOVERFLOW);
        assert!(wrong(0, 0, 0) && wrong(MAX, 0, 2) && wrong(0, MAX, 2) && wrong(2, 0, MAX));
        assert!(!wrong(MAX, 0, 1) && !wrong(0, MAX, 1) && !wrong(1, 0, MAX));
    }

    /// Byte by byte: three pages at the end of the address space, with each way to begin and end.
    #[test]
    fn each_byte() -> Result {
        for (iova, start, length) in [
            (0, 0, 1),
            (P, 5 * P, P),
            (0x800, 0x800, 2 * P),
            (MAX - 2 * P + 1, 7 * P, 2 * P),
            (MAX - 2 * P - 0x7ff, 3 * P + 0x800, 2 * P + 0x800),
            (MAX - P - 0x7ff, 0x800, P + 0x400),
        ] {
            let extent = Extent::new(iova, start, length)?;
            assert_eq!(extent.start(), start);
            assert_eq!(Extent::again(iova, extent.last(), start), extent);
            assert_eq!(extent.index(), start / P);
            assert_eq!(extent.last_index(), (start + length - 1) / P);
            for n in Iterator::chain((0..length).step_by(0x100), [length - 1]) {
                let (at, byte) = (iova + n, start + n);
                assert_eq!(extent.byte(at), byte);
                let index = byte / P;
                assert!(extent.iova_of(index) <= at && at <= extent.last_iova_of(index));
                let first = extent.iova_of(index);
                assert_eq!(extent.byte(first), index * P + extent.offset_of(index));
                assert_eq!(extent.byte(first) / P, index);
                assert_eq!(extent.byte(extent.last_iova_of(index)) / P, index);
                if n == 0 {
                    continue;
                }
                let (left, right) = extent.split(at);
                assert!(left == Extent::new(iova, start, n)?);
                assert!(right == Extent::new(at, byte, length - n)?);
            }
        }
        Ok(())
    }

    #[test]
    fn alignment() -> Result {
        for (iova, start, length, least) in [
            (P, 0, P, P),
            (0x800, 0x800, P, 0x800),
            (P, 0x400, P, 0x400),
            (P, 0, 0x200, 0x200),
            (0x100, 0, P - 0x100, 0x100),
            (MAX - P + 1, 0, P, P),
        ] {
            let extent = Extent::new(iova, start, length)?;
            for order in 0..=12 {
                assert_eq!(extent.is_aligned(1 << order), 1 << order <= least);
            }
        }
        Ok(())
    }
}
