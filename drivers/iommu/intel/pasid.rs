// SPDX-License-Identifier: GPL-2.0-only

//! The life of a PASID table entry: [`crate::entry`], and what this kind has besides. Of an absent
//! one FPD may be left behind, and two flags of a present one change in place.

use kernel::prelude::*;

use crate::{
    entry::{
        self,
        Format,
        Hardware,
        Locked, //
    },
    flush_plan::{
        Plan,
        Scope, //
    },
    pasid_entry::{
        Entry,
        High,
        Low,
        Mid,
        WORDS, //
    },
};

impl Format for Entry {
    type Words = [u64; WORDS];

    /// FPD.
    const STAYS: u64 = 1 << 1;

    fn read(load: impl Fn(usize) -> u64) -> Self {
        Self {
            low: Low::from_raw(load(0)),
            mid: Mid::from_raw(load(1)),
            high: High::from_raw(load(2)),
        }
    }

    fn words(&self) -> Self::Words {
        Self::words(self)
    }
}

/// What a PASID entry turned out to be.
pub(crate) type State<L> = entry::State<L, Entry>;

impl<L: Locked> entry::Absent<L, Entry> {
    /// Whether its faults are not reported, as is left behind when a process goes away that a
    /// device worked for.
    pub(crate) fn faults_off(&self) -> bool {
        Low::from_raw(self.stayed()).fpd().into_bool()
    }

    /// Clears all of it, FPD too.
    pub(crate) fn reset(mut self) {
        self.wipe(0);
    }
}

impl<H: Hardware> entry::Fresh<H, Entry> {
    /// Invalidates what says that the entry is absent.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue, with the entry, which is present nonetheless.
    pub(crate) fn announce(
        self,
        scope: &Scope,
    ) -> Result<(), (Error, entry::Present<H::Locked, Entry>)> {
        self.announce_by(|new| Plan::change(&Entry::EMPTY, new, scope))
    }
}

impl<L: Locked> entry::Present<L, Entry> {
    /// Turns the second stage's accessed and dirty flags on or off (SSADE), which is one word.
    pub(crate) fn set_dirty_tracking(self, on: bool) -> entry::Changed<L::Unlocked, Entry> {
        let low = self.entry().low.with_ssade(on);
        self.change(0, low.into_raw())
    }

    /// Makes all accesses to pages snooped (PGSNP), which is one word.
    pub(crate) fn force_snoop(self) -> entry::Changed<L::Unlocked, Entry> {
        let mid = self.entry().mid.with_pgsnp(true);
        self.change(1, mid.into_raw())
    }
}

impl<H: Hardware> entry::Changed<H, Entry> {
    /// Invalidates what the entry said before.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue.
    pub(crate) fn flush(self, scope: &Scope) -> Result {
        self.flush_by(|old, new| Plan::change(old, new, scope))
    }
}

impl<H: Hardware> entry::Cleared<H, Entry> {
    /// Invalidates the entry, see [`Self::flush_by`].
    pub(crate) fn flush(self, scope: &Scope) -> (entry::Flushed<H, Entry>, Result) {
        self.flush_by(|old| Plan::change(old, &Entry::EMPTY, scope))
    }
}

impl<H: Hardware> entry::Flushed<H, Entry> {
    /// Clears the words; `faults_off` leaves FPD behind.
    pub(crate) fn reset(self, faults_off: bool) {
        drop(self.reset_but(if faults_off { Entry::STAYS } else { 0 }));
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_pasid)]
mod tests {
    use core::cell::Cell;

    use kernel::num::Bounded;

    use super::*;
    use crate::{
        caps::Caps,
        entry::recorder::{
            LockedRecorder,
            Recorder,
            Step,
            NO_STEPS, //
        },
        ffi::preempt,
        invalidate::{
            DevTlb,
            NO_PASID, //
        },
        pasid_entry::{
            FirstStage,
            Levels,
            SecondStage,
            UserStage, //
        },
    };

    fn entry() -> Entry {
        let table = SecondStage {
            root: 0x5000,
            aw: Bounded::<u64, 3>::new::<2>(),
            snoop_walk: true,
            dirty: false,
            force_snoop: false,
        };
        Entry::second_stage(&table, 7)
    }

    fn scope() -> Scope {
        Scope {
            caps: Caps::new(1 << 7, 0),
            pasid: NO_PASID,
            device: Some(DevTlb::new(8, 8, 0)),
        }
    }

    /// Runs `f` on an entry of `words` and gives what it did.
    fn record(
        words: &mut [u64; WORDS],
        fail: bool,
        f: impl FnOnce(State<LockedRecorder<'_, WORDS>>),
    ) -> ([Step; 48], usize) {
        let mut steps = NO_STEPS;
        let mut count = 0;
        let hw = Recorder {
            words,
            steps: &mut steps,
            count: &mut count,
            fail,
            tell: false,
        };
        f(State::of(hw.lock()));
        (steps, count)
    }

    #[test]
    fn publish_in_order() {
        let mut words = [0; WORDS];
        let want = entry().words();
        let (steps, count) = record(&mut words, false, |state| {
            let State::Absent(absent) = state else {
                assert!(false);
                return;
            };
            assert!(absent.publish(&entry()).announce(&scope()).is_ok());
        });
        assert_eq!(count, 13);
        for n in 1..WORDS {
            assert!(steps[n - 1] == Step::Store(n, want[n]));
        }
        assert!(
            steps[7..13]
                == [
                    Step::Store(0, want[0] & !1),
                    Step::WriteBack,
                    Step::Order,
                    Step::Store(0, want[0]),
                    Step::WriteBack,
                    Step::Flush(3),
                ]
        );
        assert!(words == want);
    }

    #[test]
    fn tear_down_in_order() {
        let want = entry().words();
        for fail in [false, true] {
            for fpd in [false, true] {
                let mut words = want;
                let (steps, count) = record(&mut words, fail, |state| {
                    let State::Present(present) = state else {
                        assert!(false);
                        return;
                    };
                    assert_eq!(present.entry().did(), 7);
                    let (flushed, result) = present.clear().flush(&scope());
                    assert_eq!(result.is_err(), fail);
                    flushed.reset(fpd);
                });
                assert_eq!(count, 13);
                assert!(
                    steps[..5]
                        == [
                            // P goes, the rest stays until the caches are cold.
                            Step::Store(0, want[0] & !1),
                            Step::Order,
                            Step::WriteBack,
                            Step::Flush(3),
                            Step::Store(0, if fpd { 2 } else { 0 }),
                        ]
                );
                assert!(steps[12] == Step::WriteBack);
                assert!(words[1..].iter().all(|w| *w == 0));
            }
        }
    }

    /// One entry of each kind, and the IOTLB descriptor that its removal takes (table 28).
    fn kinds() -> [(Entry, u64); 4] {
        let second = SecondStage {
            root: 0x5000,
            aw: Bounded::<u64, 3>::new::<2>(),
            snoop_walk: true,
            dirty: false,
            force_snoop: false,
        };
        let first = FirstStage {
            root: 0x6000,
            levels: Levels::Four,
            aw: Bounded::<u64, 3>::new::<2>(),
            snoop_pages: false,
            snoop_walk: true,
        };
        let user = UserStage {
            root: 0x7000,
            levels: Levels::Five,
            supervisor: false,
            write_protect: false,
            extended_accessed: false,
            snoop: false,
        };
        [
            // PASID-selective, of PASID 5.
            (Entry::first_stage(&first, 1), 0x5_0001_0026),
            // Domain-selective.
            (Entry::second_stage(&second, 2), 0x2_0022),
            (Entry::nested(&user, &second, 3), 0x3_0022),
            (
                Entry::pass_through(&Caps::new(0, 0), Bounded::<u64, 3>::new::<2>(), 1),
                0x5_0001_0026,
            ),
        ]
    }

    /// A whole life of each kind, with caching mode and without: each write and each descriptor.
    #[test]
    fn life_of_each_kind() {
        for cm in [false, true] {
            let scope = Scope {
                caps: Caps::new(u64::from(cm) << 7, 0),
                pasid: Bounded::<u64, 20>::new::<5>(),
                device: Some(DevTlb::new(8, 8, 0)),
            };
            for (entry, iotlb) in kinds() {
                life(&entry, iotlb, cm, &scope);
            }
        }
    }

    fn life(entry: &Entry, iotlb: u64, cm: bool, scope: &Scope) {
        let mut words = [0; WORDS];
        let mut steps = NO_STEPS;
        let mut count = 0;
        let hw = Recorder {
            words: &mut words,
            steps: &mut steps,
            count: &mut count,
            fail: false,
            tell: true,
        };
        if let State::Absent(absent) = State::of(hw.lock()) {
            assert!(absent.publish(entry).announce(scope).is_ok());
        }
        let hw = Recorder {
            words: &mut words,
            steps: &mut steps,
            count: &mut count,
            fail: false,
            tell: true,
        };
        if let State::Present(present) = State::of(hw.lock()) {
            let (flushed, result) = present.clear().flush(scope);
            assert!(result.is_ok());
            flushed.reset(false);
        }
        let want = entry.words();
        let did = u64::from(entry.did()) << 16;
        let pasid_cache = Step::Desc(0x5_0000_0017 | did, 0);
        let mut at = 0;
        let mut next = |step| {
            assert!(steps[at] == step);
            at += 1;
        };
        (1..WORDS).for_each(|n| next(Step::Store(n, want[n])));
        next(Step::Store(0, want[0] & !1));
        next(Step::WriteBack);
        next(Step::Order);
        next(Step::Store(0, want[0]));
        next(Step::WriteBack);
        if cm {
            // Section 6.1: by the new entry, whatever its type; and domain-id 0, by which it is
            // cached that there was none (6.2.3).
            next(Step::Flush(3));
            next(Step::Desc(0x5_0000_0017, 0));
            next(pasid_cache);
            next(Step::Desc(0x5_0000_0026 | did, 0));
        } else {
            next(Step::Flush(0));
            next(Step::WriteBuffer);
        }
        next(Step::Store(0, want[0] & !1));
        next(Step::Order);
        next(Step::WriteBack);
        next(Step::Flush(3));
        next(pasid_cache);
        next(Step::Desc(iotlb, 0));
        next(Step::Desc(0x0005_0008_8008, 0x7fff_ffff_ffff_f800));
        (0..WORDS).for_each(|n| next(Step::Store(n, 0)));
        next(Step::WriteBack);
        assert_eq!(at, count);
        assert!(words == [0; WORDS]);
    }

    #[test]
    fn change_in_place() {
        let want = entry().words();
        let mut words = want;
        let (steps, count) = record(&mut words, false, |state| {
            if let State::Present(present) = state {
                let changed = present.set_dirty_tracking(true);
                assert!(changed.flush(&scope()).is_ok());
            }
        });
        assert_eq!(count, 3);
        assert!(steps[0] == Step::Store(0, want[0] | 1 << 9));
        assert!(steps[1..3] == [Step::WriteBack, Step::Flush(3)]);

        let (steps, _) = record(&mut words, true, |state| {
            if let State::Present(present) = state {
                assert!(present.force_snoop().flush(&scope()) == Err(EIO));
            }
        });
        assert!(steps[0] == Step::Store(1, want[1] | 1 << 24));
    }

    #[test]
    fn failed_announcement_gives_the_entry_back() {
        let mut words = [0; WORDS];
        let (steps, count) = record(&mut words, true, |state| {
            if let State::Absent(absent) = state {
                match absent.publish(&entry()).announce(&scope()) {
                    Err((e, present)) => {
                        assert!(e == EIO);
                        present.clear().flush(&scope()).0.reset(false);
                    }
                    Ok(()) => assert!(false),
                }
            }
        });
        assert!(steps[count - 1] == Step::WriteBack);
        assert!(words == [0; WORDS]);
    }

    #[test]
    fn faults_off_is_absent() {
        let mut words = [0; WORDS];
        words[0] = 2;
        record(&mut words, false, |state| {
            if let State::Absent(absent) = state {
                assert!(absent.faults_off());
                absent.reset();
            }
        });
        assert!(words == [0; WORDS]);
    }

    /// Who takes an entry down stays on the processor, as others may spin until it is done.
    #[test]
    fn not_preempted_while_leaving() {
        let mut words = entry().words();
        assert!(preempt::preemptible());
        record(&mut words, false, |state| {
            let State::Present(present) = state else {
                assert!(false);
                return;
            };
            let cleared = present.clear();
            assert!(!preempt::preemptible());
            let (flushed, _) = cleared.flush(&scope());
            assert!(!preempt::preemptible());
            flushed.reset(false);
        });
        assert!(preempt::preemptible());
    }

    /// An entry that another processor clears when it was looked at so many times.
    struct Later<'a>(&'a Cell<usize>, u64);

    impl<'a> Hardware for Later<'a> {
        type Locked = LockedLater<'a>;

        fn lock(self) -> LockedLater<'a> {
            LockedLater(self)
        }

        fn load(&self, _word: usize) -> u64 {
            let left = self.0.get();
            self.0.set(left.saturating_sub(1));
            if left > 0 {
                0x5000
            } else {
                self.1
            }
        }

        fn flush(&mut self, _plan: &Plan) -> Result {
            Ok(())
        }
    }

    struct LockedLater<'a>(Later<'a>);

    impl<'a> Locked for LockedLater<'a> {
        type Unlocked = Later<'a>;

        fn unlock(self) -> Later<'a> {
            self.0
        }

        fn load(&self, word: usize) -> u64 {
            self.0.load(word)
        }

        fn store(&mut self, _word: usize, _value: u64) {}

        fn order(&mut self) {}

        fn write_back(&mut self) {}
    }

    /// Waiting ends when the words are gone, but for FPD, or another life has begun.
    #[test]
    fn waits_while_leaving() {
        for after in [0, 2, 0x5001] {
            let left = Cell::new(100);
            match State::of(Later(&left, after).lock()) {
                State::Leaving(leaving) => drop(leaving.wait()),
                _ => assert!(false),
            }
            assert_eq!(left.get(), 0);
        }
    }

    /// What another processor sees while one waits for the hardware: nothing to write to.
    #[test]
    fn leaving_is_nobody_elses() {
        for (entry, _) in kinds() {
            let mut words = entry.words();
            words[0] &= !1;
            for fpd in [0, 2] {
                words[0] = words[0] & !2 | fpd;
                let (_, count) = record(&mut words, false, |state| {
                    assert!(matches!(state, State::Leaving(_)));
                });
                assert_eq!(count, 0);
            }
        }
    }
}
