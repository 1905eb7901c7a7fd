// SPDX-License-Identifier: GPL-2.0-only

//! Runs of page frames that follow one another in memory, on their way from where frames are found
//! to where they are mapped or unpinned.
//!
//! Everything that is done with frames is done by runs, so what a page of 1 GiB costs does not
//! depend on its size. All pure.

use kernel::{
    alloc::flags::__GFP_NOWARN,
    prelude::*, //
};

/// `len` page frames from the number `pfn` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) pfn: usize,
    pub(crate) len: usize,
}

impl Run {
    /// None.
    const EMPTY: Self = Self { pfn: 0, len: 0 };

    /// The frame behind its last one.
    fn end(self) -> usize {
        self.pfn.wrapping_add(self.len)
    }

    /// Up to `len` of its frames, without the first `skip`.
    fn part(self, skip: usize, len: usize) -> Self {
        let skip = skip.min(self.len);
        Self {
            pfn: self.pfn.wrapping_add(skip),
            len: len.min(self.len - skip),
        }
    }
}

/// Runs in order, none of which continues the one before it.
///
/// One needs no memory. There is room for more as long as memory can be had.
pub(crate) struct Runs {
    /// All but the last.
    done: KVec<Run>,
    last: Run,
    /// Frames in all.
    total: usize,
    /// Runs, at most.
    most: usize,
}

impl Runs {
    /// Room for up to `most` runs, at least for one.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            done: KVec::new(),
            last: Run::EMPTY,
            total: 0,
            most,
        }
    }

    /// Frames in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.done.clear();
        self.last = Run::EMPTY;
        self.total = 0;
    }

    /// Adds all of a run, or nothing: then there is no room, and there was something before.
    #[inline]
    pub(crate) fn push(&mut self, run: Run) -> bool {
        if self.last.end() == run.pfn && self.last.len != 0 {
            self.last.len += run.len;
        } else if self.last.len == 0 {
            self.last = run;
        } else if self.make_room() {
            // There is room now.
            let _ = self.done.push_within_capacity(self.last);
            self.last = run;
        } else {
            return false;
        }
        self.total += run.len;
        true
    }

    #[inline]
    fn make_room(&mut self) -> bool {
        self.done.len() < self.done.capacity() || self.grow()
    }

    /// Makes room for all that there may be or, if there is no memory for so much, for fewer.
    #[cold]
    fn grow(&mut self) -> bool {
        let flags = GFP_KERNEL | __GFP_NOWARN;
        let more = self.most.saturating_sub(1 + self.done.len());
        more != 0 && self.done.reserve(more, flags).is_ok()
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Run> + '_ {
        let last = (self.last.len != 0).then_some(self.last);
        Iterator::chain(self.done.iter().copied(), last)
    }

    /// Calls `f` with each until it fails.
    #[inline(always)]
    pub(crate) fn try_each(&self, mut f: impl FnMut(Run) -> Result) -> Result {
        for run in &self.done {
            f(*run)?;
        }
        if self.last.len != 0 {
            f(self.last)?;
        }
        Ok(())
    }

    /// Up to `len` frames, without the first `skip`.
    pub(crate) fn part(&self, skip: usize, len: usize) -> impl Iterator<Item = Run> + '_ {
        let (mut skip, mut left) = (skip, len);
        self.iter().filter_map(move |run| {
            let part = run.part(skip, left);
            skip -= skip.min(run.len);
            left -= part.len;
            (part.len != 0).then_some(part)
        })
    }
}

/// How large the blocks of 2^n pages of a source are of which no two are in the same run only by
/// half: where a run begins or ends, a block does. So one look at a block finds all of its frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Granule(u8);

impl Granule {
    /// Of frames without any boundary.
    pub(crate) const MAX: Self = Self(usize::BITS as u8 - 1);

    /// A run ends and another begins at this page of the source.
    pub(crate) fn cut(&mut self, page: usize) {
        // CAST: Less than 65.
        self.0 = self.0.min(page.trailing_zeros() as u8);
    }

    /// The same between these, the first of which begins at this page of the source.
    pub(crate) fn cut_between(&mut self, page: usize, runs: &Runs) {
        let mut at = page;
        for run in &runs.done {
            if self.0 == 0 {
                return;
            }
            at += run.len;
            self.cut(at);
        }
    }

    /// How many pages there are from this page of the source to the end of its block.
    #[inline]
    pub(crate) fn rest(self, page: usize) -> usize {
        // The order is less than the bits of a number.
        let mask = 1usize.wrapping_shl(self.0.into()) - 1;
        mask - (page & mask) + 1
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_runs)]
mod tests {
    use super::*;

    fn run(pfn: usize, len: usize) -> Run {
        Run { pfn, len }
    }

    #[test]
    fn merge_and_fill() {
        for most in [0, 1, 2, 3, 100] {
            let mut runs = Runs::new(most);
            assert!(runs.iter().next().is_none());
            // One fits always, and what continues it.
            assert!(runs.push(run(5, 3)) && runs.push(run(8, 1)));
            assert_eq!(runs.total(), 4);
            // Backwards and with a hole, even of one frame, are others.
            for (n, pfn) in [4, 10, 12, 12].into_iter().enumerate() {
                let fits = n + 2 <= most;
                assert_eq!(runs.push(run(pfn, 1)), fits);
                assert_eq!(runs.iter().count(), (n + 2).min(most.max(1)));
            }
            assert!(runs
                .iter()
                .eq([run(5, 4), run(4, 1), run(10, 1), run(12, 1), run(12, 1)]
                    .into_iter()
                    .take(most.max(1))));
            runs.clear();
            assert_eq!(runs.total(), 0);
            assert!(runs.iter().next().is_none());
            assert!(runs.push(run(0, usize::MAX)));
        }
    }

    /// Each part of three runs against the frames one by one.
    #[test]
    fn parts() {
        let all = [run(10, 3), run(2, 1), run(7, 2)];
        let mut runs = Runs::new(9);
        for part in all {
            assert!(runs.push(part));
        }
        let frame = |n: usize| [10, 11, 12, 2, 7, 8][n];
        for skip in 0..8 {
            for len in 0..8 {
                let mut n = skip;
                for part in runs.part(skip, len) {
                    assert!(part.len != 0);
                    for pfn in part.pfn..part.end() {
                        assert_eq!(pfn, frame(n));
                        n += 1;
                    }
                }
                assert_eq!(n - skip, len.min(6usize.saturating_sub(skip)));
            }
        }
    }

    #[test]
    fn granules() {
        let mut granule = Granule::MAX;
        assert_eq!(granule.rest(0), 1 << 63);
        assert_eq!(granule.rest(usize::MAX), 1);
        let cuts = [
            (1 << 20, 1 << 20),
            (3 << 9, 512),
            (0, 512),
            (512, 512),
            (8, 8),
            (7, 1),
        ];
        for (page, size) in cuts {
            granule.cut(page);
            assert_eq!(granule.rest(0), size);
            assert_eq!(granule.rest(size * 5), size);
            assert_eq!(granule.rest(size * 5 - 1), 1);
            assert_eq!(granule.rest(size * 5 + size / 2), size - size / 2);
        }
    }
}
