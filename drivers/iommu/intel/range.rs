// SPDX-License-Identifier: GPL-2.0-only

//! Ranges of IOVA and the naturally aligned blocks that descriptors can name.
//!
//! All pure. Addresses are bytes, ranges are inclusive at both ends.

use kernel::{
    num::Bounded,
    prelude::*, //
};

const PAGE_SHIFT: u32 = 12;
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// A block of 2^order pages at a multiple of its size, or everything.
///
/// # Invariants
///
/// `start` is a multiple of 4 KiB << `order`; `order` is at most 51, or [`Self::EVERYTHING`] with
/// a `start` of 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    start: u64,
    order: u32,
}

impl Span {
    /// The order of a span that is the whole address space.
    const EVERYTHING: u32 = 64 - PAGE_SHIFT;

    /// The whole address space.
    // INVARIANT: as the type wants it.
    pub(crate) const ALL: Self = Self {
        start: 0,
        order: Self::EVERYTHING,
    };

    /// The smallest block that holds all pages from that of `start` to that of `last`.
    pub(crate) fn cover(start: u64, last: u64) -> Self {
        let start = start & !PAGE_MASK;
        let bits = u64::BITS - (start ^ last).leading_zeros();
        // INVARIANT: the bits below the highest that differs are cleared.
        if bits <= PAGE_SHIFT {
            Self { start, order: 0 }
        } else if bits >= u64::BITS {
            Self::ALL
        } else {
            Self {
                start: start >> bits << bits,
                order: bits - PAGE_SHIFT,
            }
        }
    }

    /// The block of 2^`order` pages that an address is in; everything where `order` is more than
    /// 51.
    #[inline(always)]
    pub(crate) fn block(addr: u64, order: u32) -> Self {
        if order >= Self::EVERYTHING {
            return Self::ALL;
        }
        // INVARIANT: the bits below a multiple of its size are cleared.
        Self {
            start: addr & (u64::MAX << (PAGE_SHIFT + order)),
            order,
        }
    }

    /// Whether it is the whole address space.
    #[inline]
    pub(crate) fn is_all(self) -> bool {
        self.order == Self::EVERYTHING
    }

    /// First byte.
    pub(crate) fn start(self) -> u64 {
        self.start
    }

    /// Pages, as a power of two; 52 for everything.
    pub(crate) fn order(self) -> u32 {
        self.order
    }

    /// Its size as an address mask (AM), unless it is everything.
    pub(crate) fn mask(self) -> Option<Bounded<u64, 6>> {
        // What is less than 52 has six bits.
        (!self.is_all()).then(|| Bounded::<u64, 6>::from_expr(u64::from(self.order) & 0x3f))
    }

    /// Its first page frame.
    pub(crate) fn frame(self) -> Bounded<u64, 52> {
        Bounded::<u64, 64>::from(self.start).shr::<12, 52>()
    }

    /// The block that ATS names by an address, of which the bits below the page do not count; more
    /// than a page when `large`, the bit S (section 6.5.2.5).
    pub(crate) fn from_ats(addr: u64, large: bool) -> Self {
        let start = addr & !PAGE_MASK;
        if !large {
            return Self::cover(start, start);
        }
        // The lowest clear bit, and those below it.
        let below = (start | PAGE_MASK) ^ (start | PAGE_MASK).wrapping_add(1);
        Self::cover(start & !below, start | below)
    }

    /// Whether it is a single page.
    pub(crate) fn one_page(self) -> bool {
        self.order == 0
    }

    /// Address and size in one, as ATS has them: the lowest clear bit from bit 12 on tells the
    /// size (section 6.5.2.5).
    pub(crate) fn ats(self) -> u64 {
        match self.order {
            0 => self.start,
            order => self.start | (((1 << (PAGE_SHIFT + order - 1)) - 1) & !PAGE_MASK),
        }
    }
}

/// A range of pages that a user wants invalidated.
///
/// # Invariants
///
/// `start <= last`, `start` is a multiple of 4 KiB and `last` is one below a multiple.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    start: u64,
    last: u64,
    leaf: bool,
}

impl Range {
    /// Everything, and not only leaves.
    // INVARIANT: as the type wants it.
    pub(crate) const ALL: Self = Self {
        start: 0,
        last: u64::MAX,
        leaf: false,
    };

    /// First byte and last.
    pub(crate) fn ends(self) -> (u64, u64) {
        (self.start, self.last)
    }

    /// Whether it lies before `other` with more than `gap` bytes between them.
    pub(crate) fn ends_before(self, other: Self, gap: u64) -> bool {
        self.last < other.start && other.start - self.last - 1 > gap
    }

    /// Checks an entry of a user's array (`struct iommu_hwpt_vtd_s1_invalidate`). `None` is a
    /// range of no pages.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the address is no multiple of 4 KiB, when the range leaves the address
    /// space, or when all pages are wanted from another address than 0.
    pub(crate) fn from_user(addr: u64, npages: u64, leaf: bool) -> Result<Option<Self>> {
        if addr & PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        // INVARIANT: `addr` is aligned, so `last` is one below a multiple; the sum does not wrap.
        match npages {
            0 => Ok(None),
            u64::MAX if addr != 0 => Err(EINVAL),
            u64::MAX => Ok(Some(Self {
                start: 0,
                last: u64::MAX,
                leaf,
            })),
            _ => {
                let pages = npages - 1;
                if pages >= 1 << (64 - PAGE_SHIFT) {
                    return Err(EINVAL);
                }
                let more = pages << PAGE_SHIFT | PAGE_MASK;
                let last = addr.checked_add(more).ok_or(EINVAL)?;
                Ok(Some(Self {
                    start: addr,
                    last,
                    leaf,
                }))
            }
        }
    }

    /// Both and what is between them. Only leaves changed if that holds for both.
    pub(crate) fn hull(self, other: Self) -> Self {
        // INVARIANT: the ends are ends of the parts.
        Self {
            start: self.start.min(other.start),
            last: self.last.max(other.last),
            leaf: self.leaf && other.leaf,
        }
    }

    /// Whether only leaves changed.
    pub(crate) fn leaf(self) -> bool {
        self.leaf
    }

    /// One block, or the two sides of the highest boundary that the range straddles when one
    /// block would be more than four times the range.
    pub(crate) fn spans(self) -> (Span, Option<Span>) {
        let whole = Span::cover(self.start, self.last);
        let pages = ((self.last - self.start) >> PAGE_SHIFT) + 1;
        if whole.order() <= pages.ilog2() + 2 {
            return (whole, None);
        }
        // The highest bit that differs; `order` is not 0, for the two would not differ.
        let middle = self.last & (u64::MAX << (PAGE_SHIFT + whole.order() - 1));
        (
            Span::cover(self.start, middle - 1),
            Some(Span::cover(middle, self.last)),
        )
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_range)]
mod tests {
    use super::*;

    const GIB2: u64 = 1 << 31;
    const TOP: u64 = u64::MAX;

    #[test]
    fn cover() {
        let table = [
            (0, 0, 0, 0),
            (0, 0xfff, 0, 0),
            (0xfff, 0xfff, 0, 0),
            (0x1000, 0x2fff, 0, 2),
            (0x2000, 0x3fff, 0x2000, 1),
            (0, 0x1000, 0, 1),
            (GIB2, 2 * GIB2 - 1, GIB2, 19),
            (GIB2 - 0x1000, GIB2, 0, 20),
            (1 << 52, (1 << 52) + 0xfff, 1 << 52, 0),
            ((1 << 52) - 0x1000, 1 << 52, 0, 41),
            (TOP - 0xfff, TOP, TOP - 0xfff, 0),
            (1 << 63, TOP, 1 << 63, 51),
            ((1 << 63) - 1, 1 << 63, 0, 52),
            (0, TOP, 0, 52),
        ];
        for (start, last, want, order) in table {
            let span = Span::cover(start, last);
            assert_eq!(span.start(), want);
            assert_eq!(span.order(), order);
            assert_eq!(span.mask().is_none(), order == 52);
        }
    }

    /// What ATS is told of a block is that block.
    #[test]
    fn ats_and_back() {
        for order in 0..=52u32 {
            let size = u64::MAX >> (52 - order);
            for start in [0, size.wrapping_add(1), !size] {
                let span = Span::cover(start, start | size);
                assert!(Span::from_ats(span.ats(), !span.one_page()) == span);
            }
        }
    }

    #[test]
    fn from_user() {
        // (addr, npages, last, or what is wrong with it)
        let table = [
            (0, 1, Ok(0xfff)),
            (0x1000, 1, Ok(0x1fff)),
            (1, 1, Err(EINVAL)),
            (0xfff, 1, Err(EINVAL)),
            (0, TOP, Ok(TOP)),
            (0x1000, TOP, Err(EINVAL)),
            (0, 1 << 52, Ok(TOP)),
            (0, (1 << 52) - 1, Ok(TOP - 0x1000)),
            (0, (1 << 52) + 1, Err(EINVAL)),
            (0x1000, 1 << 52, Err(EINVAL)),
            (0x1000, (1 << 52) - 1, Ok(TOP)),
            (TOP - 0xfff, 1, Ok(TOP)),
            (TOP - 0xfff, 2, Err(EINVAL)),
            (0, TOP - 1, Err(EINVAL)),
            (GIB2, 1 << 19, Ok(2 * GIB2 - 1)),
        ];
        for (addr, npages, want) in table {
            match (Range::from_user(addr, npages, true), want) {
                (Ok(Some(range)), Ok(last)) => {
                    assert_eq!(range.start, addr);
                    assert_eq!(range.last, last);
                }
                (Err(got), Err(want)) => assert!(got == want),
                _ => assert!(false),
            }
        }
        assert!(Range::from_user(0x1000, 0, true) == Ok(None));
        assert!(Range::from_user(1, 0, true) == Err(EINVAL));
    }

    fn range(start: u64, last: u64, leaf: bool) -> Range {
        Range { start, last, leaf }
    }

    #[test]
    fn distance() {
        let a = range(0x1000, 0x1fff, true);
        // (start, last, bytes between: none when they overlap or lie the other way round)
        let table = [
            (0x2000, 0x2fff, Some(0)),
            (0x3000, 0x3fff, Some(0x1000)),
            (TOP - 0xfff, TOP, Some(TOP - 0x2fff)),
            (0x1000, 0x1fff, None),
            (0, TOP, None),
            (0, 0xfff, None),
        ];
        for (start, last, between) in table {
            let b = range(start, last, true);
            for gap in [0, 0xfff, 0x1000, TOP - 0x3000, TOP - 0x2fff, TOP] {
                assert_eq!(a.ends_before(b, gap), between.is_some_and(|n| n > gap));
            }
        }
        assert!(range(0, 0xfff, false).hull(a) == range(0, 0x1fff, false));
        assert!(range(0, TOP, true).hull(a) == range(0, TOP, true));
    }

    /// Pages at which something changes: 2 GiB, the widths of tables, 2^52, the end.
    const EDGES: [u64; 12] = [
        0,
        0x1000,
        GIB2,
        2 * GIB2,
        1 << 47,
        1 << 48,
        1 << 51,
        1 << 52,
        1 << 53,
        1 << 57,
        1 << 63,
        TOP - 0xfff,
    ];

    fn has(span: Span, addr: u64) -> bool {
        let size = 12 + span.order();
        size >= 64 || addr >> size == span.start() >> size
    }

    /// Calls `f` for each range whose ends are within two pages of edges.
    fn each_range(mut f: impl FnMut(Range)) {
        let near = |n: usize| EDGES[n / 5].wrapping_add((n as u64 % 5).wrapping_sub(2) << 12);
        for a in 0..EDGES.len() * 5 {
            for b in 0..EDGES.len() * 5 {
                let (start, last) = (near(a), near(b) | 0xfff);
                if start <= last {
                    f(range(start, last, true));
                }
            }
        }
    }

    #[test]
    fn spans_at_edges() {
        each_range(|r| {
            let whole = Span::cover(r.start, r.last);
            assert!(has(whole, r.start) && has(whole, r.last));
            // Aligned, and no smaller block would do.
            assert!(whole.order() == 52 || whole.start().trailing_zeros() >= 12 + whole.order());
            let half = 11 + whole.order();
            assert!(whole.order() == 0 || r.start >> half != r.last >> half);
            let (a, b) = r.spans();
            let Some(b) = b else {
                assert!(a == whole);
                return;
            };
            // Two blocks have both ends, touch or leave out only what is not in the range, and
            // are not more than one would be.
            assert!(has(a, r.start) && has(b, r.last) && !has(a, r.last) && !has(b, r.start));
            let end = a.start() + (0x1000 << a.order());
            assert!(end == b.start());
            assert!(a.order() < whole.order() && b.order() < whole.order());
        });
    }

    #[test]
    fn hulls_at_edges() {
        let fixed = [
            range(0, 0xfff, true),
            range(GIB2 - 0x1000, GIB2 - 1, true),
            range((1 << 52) - 0x1000, (1 << 52) + 0xfff, false),
            range(TOP - 0xfff, TOP, true),
        ];
        each_range(|r| {
            for other in fixed {
                assert!(r.hull(other) == other.hull(r));
                let apart = (r.last < other.start && other.start - r.last > 1)
                    || (other.last < r.start && r.start - other.last > 1);
                assert!((r.ends_before(other, 0) || other.ends_before(r, 0)) == apart);
                let hull = r.hull(other);
                assert!(hull.start <= r.start && hull.start <= other.start);
                assert!(hull.last >= r.last && hull.last >= other.last);
                assert!(hull.leaf == other.leaf);
            }
        });
    }

    #[test]
    fn spans() {
        type Block = (u64, u32);
        // (start, last, blocks of (start, order))
        let table: [(u64, u64, Block, Option<Block>); 7] = [
            (0, 0xfff, (0, 0), None),
            (0x1000, 0x2fff, (0, 2), None),
            (0x3000, 0x4fff, (0, 3), None),
            (0x7000, 0x8fff, (0x7000, 0), Some((0x8000, 0))),
            (
                GIB2 - 0x1000,
                GIB2 + 0xfff,
                (GIB2 - 0x1000, 0),
                Some((GIB2, 0)),
            ),
            (
                (1 << 52) - 0x2000,
                (1 << 52) + 0xfff,
                ((1 << 52) - 0x2000, 1),
                Some((1 << 52, 0)),
            ),
            (0, TOP, (0, 52), None),
        ];
        for (start, last, first, second) in table {
            let (a, b) = range(start, last, false).spans();
            assert!((a.start(), a.order()) == first);
            assert!(b.map(|s| (s.start(), s.order())) == second);
        }
    }
}
