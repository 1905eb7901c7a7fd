// SPDX-License-Identifier: GPL-2.0-only

//! Ranges of a user's array, gathered for one submission. All pure.

use kernel::page::PAGE_SIZE;

use crate::{
    ffi::stack::Stack,
    range::Range, //
};

/// Ranges of a submission.
pub(crate) const RANGES: usize = 16;

/// What the entries of a user's array ask for, in at most [`RANGES`] ranges, whatever their order.
///
/// Where there is no room, ranges that are near to one another become one with what is between
/// them, and stay so for the rest of the array: to invalidate too much is allowed, to wait again
/// and again costs more.
///
/// # Invariants
///
/// The ranges are in the order of their addresses, with more than `gap` bytes between them.
pub(crate) struct Gathered {
    ranges: Stack<Range, RANGES>,
    gap: u64,
}

impl Gathered {
    /// Nothing.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        // INVARIANT: There is none.
        Self {
            ranges: Stack::new(),
            gap: 0,
        }
    }

    /// What they ask for, and perhaps more.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Takes the range of one more entry in.
    pub(crate) fn add(&mut self, range: Option<Range>) {
        let Some(mut range) = range else {
            return;
        };
        // Most arrays go upwards, so the place is looked for from the end.
        let before = |other: &Range| other.ends_before(range, self.gap);
        let at = self.ranges.iter().rposition(before).map_or(0, |n| n + 1);
        let mut end = at;
        while let Some(near) = self
            .ranges
            .get(end)
            .filter(|r| !range.ends_before(**r, self.gap))
        {
            range = range.hull(*near);
            end += 1;
        }
        if end > at {
            // PANIC: `at < end`, and `end` is at most the length.
            self.ranges[at] = range;
            self.ranges.copy_within(end.., at + 1);
            self.ranges.truncate(self.ranges.len() - (end - at - 1));
        } else if self.ranges.push(range).is_ok() {
            // PANIC: It is one longer than it was, and `at` is at most that.
            self.ranges[at..].rotate_right(1);
        } else {
            self.make_room();
            self.add(Some(range));
        }
    }

    /// Makes one of ranges that are near to one another: of as few as there are at the smallest
    /// distance, a power of two, at which there are any.
    fn make_room(&mut self) {
        while self.ranges.len() == RANGES {
            self.gap = self.gap.saturating_mul(2).max(PAGE_SIZE as u64);
            let mut last = 0;
            for n in 1..RANGES {
                // PANIC: `last < n < RANGES`, which is the length.
                let (low, high) = (self.ranges[last], self.ranges[n]);
                if low.ends_before(high, self.gap) {
                    last += 1;
                    self.ranges[last] = high;
                } else {
                    self.ranges[last] = low.hull(high);
                }
            }
            self.ranges.truncate(last + 1);
        }
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kernel::macros::kunit_tests(vtd_gather)]
mod tests {
    use super::*;
    use kernel::prelude::*;

    fn page(n: u64) -> Result<Option<Range>> {
        Range::from_user(n << 12, 1, true)
    }

    #[test]
    fn neighbours_become_one() -> Result {
        let mut gathered = Gathered::new();
        for n in 0..1000 {
            gathered.add(page(n)?);
        }
        assert_eq!(gathered.ranges().len(), 1);
        // An entry of no pages takes no room.
        gathered.add(None);
        assert_eq!(gathered.ranges().len(), 1);
        Ok(())
    }

    #[test]
    fn room_ends() -> Result {
        let mut gathered = Gathered::new();
        let count = RANGES as u64;
        // Seven pages between any two, but for one and three in one place each.
        let at = |n: u64| 8 * n - 6 * u64::from(n > 3) - 4 * u64::from(n > 9);
        for n in 0..count {
            gathered.add(page(at(n))?);
            assert_eq!(gathered.ranges().len() as u64, n + 1);
        }
        // The last one can still grow.
        gathered.add(page(at(count - 1) + 1)?);
        assert_eq!(gathered.ranges().len(), RANGES);
        // One more: the nearest are joined, and the new one is by itself.
        gathered.add(page(1 << 20)?);
        let got = gathered.ranges();
        assert_eq!(got.len(), RANGES);
        assert!(got[2].ends() == (0x10000, 0x10fff));
        assert!(got[3].ends() == (0x18000, 0x1afff));
        assert!(got[4].ends() == (0x22000, 0x22fff));
        assert!(got[RANGES - 1].ends() == (1 << 32, (1 << 32) + 0xfff));
        // And another: those with three between them.
        gathered.add(page(1 << 21)?);
        let got = gathered.ranges();
        assert_eq!(got.len(), RANGES);
        assert!(got[8].ends() == (0x42000, 0x46fff));
        Ok(())
    }

    /// A page in each second place: one range, whatever their number.
    #[test]
    fn holes_close() -> Result {
        let mut gathered = Gathered::new();
        for n in 0..100_000 {
            gathered.add(page(2 * n)?);
        }
        assert_eq!(gathered.ranges().len(), 1);
        assert!(gathered.ranges()[0].ends() == (0, (199_999 << 12) - 1));
        Ok(())
    }

    /// Entries in any order give the same ranges, and none that nobody asked for while there is
    /// room.
    #[test]
    fn any_order() -> Result {
        // Sixteen pages of four groups, in the order of their distance from a moving point.
        let pages = |n: u64| (n % 4) << 30 | (n / 4) << 1;
        for step in [1, 3, 5, 7, 9, 11, 13, 15] {
            let mut gathered = Gathered::new();
            for n in 0..16 {
                gathered.add(page(pages(n * step % 16))?);
            }
            assert_eq!(gathered.ranges().len(), 16);
            // What is between those of a group: each becomes one.
            for n in 0..16 {
                gathered.add(page(pages(n * step % 16) + 1)?);
            }
            let got = gathered.ranges();
            assert_eq!(got.len(), 4);
            for (n, range) in got.iter().enumerate() {
                let start = (n as u64) << 42;
                assert!(range.ends() == (start, start + 0x7fff));
            }
        }
        Ok(())
    }

    /// Far more entries than room, from both ends in turn: what is named stays near them.
    #[test]
    fn two_groups_stay_two() -> Result {
        let mut gathered = Gathered::new();
        for n in 0..200 {
            gathered.add(page(if n & 1 == 0 { 2 * n } else { (1 << 40) + 2 * n })?);
        }
        assert!(gathered.ranges().len() <= RANGES);
        let far = |range: &Range| {
            let (start, last) = range.ends();
            start >> 52 != last >> 52
        };
        assert!(!gathered.ranges().iter().any(far));
        // All of it, and everything is one.
        gathered.add(Range::from_user(0, u64::MAX, false)?);
        assert_eq!(gathered.ranges().len(), 1);
        assert!(gathered.ranges()[0].ends() == (0, u64::MAX));
        gathered.add(page(7)?);
        assert_eq!(gathered.ranges().len(), 1);
        Ok(())
    }
}
