// SPDX-License-Identifier: GPL-2.0-only

//! The life of a PASID table entry, as a chain of steps that consume one another.
//!
//! ```text
//! Absent -> Fresh -> Present -> Changed -> (flushed) Present
//!                    Present -> Cleared -> Flushed -> Absent
//! ```
//!
//! Software owns an entry while P is 0 and nothing of it is cached; hardware may read it at any
//! other time (section 6.5.3.3). So P is written last and cleared first, and between P=0 and the
//! reuse of the words stands the invalidation. There is no other way round: each step takes the
//! one before.
//!
//! Writing takes the unit's lock, which [`Absent`] and [`Present`] hold, of the very unit whose the
//! entry is. Invalidating must not, since it waits for the hardware; meanwhile others find the
//! entry [`State::Leaving`], and keep off. Some of them wait for its end and cannot sleep, so
//! whoever takes an entry down is not preempted until it is done: [`Cleared`] and [`Flushed`] have
//! a [`NoPreempt`].

use core::hint::spin_loop;

use kernel::prelude::*;

use crate::{
    ffi::preempt::NoPreempt,
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

/// An entry's place in memory and the hardware that reads it. A PASID entry has [`WORDS`] words, a
/// context entry two.
pub(crate) trait Hardware: Sized {
    /// The same with the lock held under which the entry is written.
    type Locked: Locked<Unlocked = Self>;

    /// Takes that lock.
    fn lock(self) -> Self::Locked;

    /// Reads a word.
    fn load(&self, word: usize) -> u64;

    /// Invalidates.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue.
    fn flush(&mut self, plan: &Plan) -> Result;
}

/// An entry with the lock held under which it is written; dropping it unlocks.
pub(crate) trait Locked: Sized {
    /// The same without the lock.
    type Unlocked: Hardware<Locked = Self>;

    /// Gives the lock back.
    fn unlock(self) -> Self::Unlocked;

    /// Reads a word.
    fn load(&self, word: usize) -> u64;

    /// Writes a word, whole.
    fn store(&mut self, word: usize, value: u64);

    /// Makes the hardware see what was stored before it sees what is stored next.
    fn order(&mut self);

    /// Writes the processor's cache back, where the hardware does not look into it.
    fn write_back(&mut self);
}

fn read<L: Locked>(hw: &L) -> Entry {
    Entry {
        low: Low::from_raw(hw.load(0)),
        mid: Mid::from_raw(hw.load(1)),
        high: High::from_raw(hw.load(2)),
    }
}

/// Whether P is 0 and more than FPD is left of an entry whose word 0 this is.
fn leaving(word: u64) -> bool {
    let low = Low::from_raw(word);
    !low.present().into_bool() && low.with_fpd(false).into_raw() != 0
}

/// What an entry turned out to be.
pub(crate) enum State<L: Locked> {
    Absent(Absent<L>),
    Present(Present<L>),
    /// P is 0 and the words are there: somebody waits until the hardware has forgotten them.
    Leaving(Leaving<L::Unlocked>),
}

impl<L: Locked> State<L> {
    /// Looks at an entry.
    pub(crate) fn of(hw: L) -> Self {
        let entry = read(&hw);
        if entry.present() {
            Self::Present(Present { hw, entry })
        } else if leaving(entry.low.into_raw()) {
            Self::Leaving(Leaving::new(hw, leaving))
        } else {
            Self::Absent(Absent { hw, low: entry.low })
        }
    }
}

/// P is 0, and somebody is about to clear the rest. Of a PASID entry or of a context entry.
#[must_use]
pub(crate) struct Leaving<H> {
    hw: H,
    /// Whether word 0 says that it is so still.
    still: fn(u64) -> bool,
}

impl<H: Hardware> Leaving<H> {
    /// Gives the lock back, which who clears the rest needs.
    pub(crate) fn new(hw: H::Locked, still: fn(u64) -> bool) -> Self {
        Self {
            hw: hw.unlock(),
            still,
        }
    }

    /// Returns when nobody is any more, with the lock: soon, as that processor is not preempted.
    pub(crate) fn wait(self) -> H::Locked {
        while (self.still)(self.hw.load(0)) {
            spin_loop();
        }
        self.hw.lock()
    }
}

/// P is 0, nothing is cached, and nothing but FPD is left in it.
#[must_use]
pub(crate) struct Absent<L> {
    hw: L,
    low: Low,
}

impl<L: Locked> Absent<L> {
    /// Whether its faults are not reported, as is left behind when a process goes away that a
    /// device worked for.
    pub(crate) fn faults_off(&self) -> bool {
        self.low.fpd().into_bool()
    }

    /// Clears all of it, FPD too.
    pub(crate) fn reset(mut self) {
        wipe(&mut self.hw, Low::from_raw(0));
    }

    /// Makes it present: everything else first, P last.
    pub(crate) fn publish(mut self, entry: &Entry) -> Fresh<L::Unlocked> {
        let words = entry.words();
        for (n, word) in words.iter().enumerate().skip(1) {
            self.hw.store(n, *word);
        }
        self.hw.store(0, entry.low.with_present(false).into_raw());
        self.hw.write_back();
        self.hw.order();
        self.hw.store(0, entry.low.into_raw());
        self.hw.write_back();
        Fresh {
            hw: self.hw.unlock(),
            entry: *entry,
        }
    }
}

/// P is 1, and the hardware may have cached that it was not.
#[must_use]
pub(crate) struct Fresh<H> {
    hw: H,
    entry: Entry,
}

impl<H: Hardware> Fresh<H> {
    /// Invalidates what says that the entry is absent.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue, with the entry, which is present nonetheless.
    pub(crate) fn announce(mut self, scope: &Scope) -> Result<(), (Error, Present<H::Locked>)> {
        let plan = Plan::change(&Entry::EMPTY, &self.entry, scope);
        self.hw.flush(&plan).map_err(|e| {
            let present = Present {
                hw: self.hw.lock(),
                entry: self.entry,
            };
            (e, present)
        })
    }
}

/// P is 1 and hardware may use it.
#[must_use]
pub(crate) struct Present<L> {
    hw: L,
    entry: Entry,
}

impl<L: Locked> Present<L> {
    /// What it says.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Clears P. The rest stays until nothing of it is cached.
    pub(crate) fn clear(mut self) -> Cleared<L::Unlocked> {
        let stays = NoPreempt::new();
        self.hw
            .store(0, self.entry.low.with_present(false).into_raw());
        self.hw.order();
        self.hw.write_back();
        Cleared {
            hw: self.hw.unlock(),
            entry: self.entry,
            stays,
        }
    }

    /// Turns the second stage's accessed and dirty flags on or off (SSADE), which is one word.
    pub(crate) fn set_dirty_tracking(mut self, on: bool) -> Changed<L::Unlocked> {
        let old = self.entry;
        self.entry.low = old.low.with_ssade(on);
        self.hw.store(0, self.entry.low.into_raw());
        self.changed(old)
    }

    /// Makes all accesses to pages snooped (PGSNP), which is one word.
    pub(crate) fn force_snoop(mut self) -> Changed<L::Unlocked> {
        let old = self.entry;
        self.entry.mid = old.mid.with_pgsnp(true);
        self.hw.store(1, self.entry.mid.into_raw());
        self.changed(old)
    }

    fn changed(mut self, old: Entry) -> Changed<L::Unlocked> {
        self.hw.write_back();
        Changed {
            hw: self.hw.unlock(),
            old,
            new: self.entry,
        }
    }
}

/// P is 1 and caches may hold what the entry said before.
#[must_use]
pub(crate) struct Changed<H> {
    hw: H,
    old: Entry,
    new: Entry,
}

impl<H: Hardware> Changed<H> {
    /// Invalidates what the entry said before.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue.
    pub(crate) fn flush(mut self, scope: &Scope) -> Result {
        self.hw.flush(&Plan::change(&self.old, &self.new, scope))
    }
}

/// P is 0 and caches may hold what the entry said.
#[must_use]
pub(crate) struct Cleared<H> {
    hw: H,
    entry: Entry,
    stays: NoPreempt,
}

impl<H: Hardware> Cleared<H> {
    /// Invalidates the entry. What the hardware refuses it will refuse again, and the rest of a
    /// submission is done nonetheless ([`crate::ffi::unit::Unit::submit`]), so the words may be
    /// reused after a failure too; the error is for the caller to tell.
    pub(crate) fn flush(mut self, scope: &Scope) -> (Flushed<H>, Result) {
        let plan = Plan::change(&self.entry, &Entry::EMPTY, scope);
        let result = self.hw.flush(&plan);
        let flushed = Flushed {
            hw: self.hw,
            _stays: self.stays,
        };
        (flushed, result)
    }
}

/// P is 0, nothing is cached, the words are still there.
#[must_use]
pub(crate) struct Flushed<H> {
    hw: H,
    _stays: NoPreempt,
}

impl<H: Hardware> Flushed<H> {
    /// Clears the words; `faults_off` leaves FPD behind.
    pub(crate) fn reset(self, faults_off: bool) {
        wipe(&mut self.hw.lock(), Low::from_raw(0).with_fpd(faults_off));
    }
}

/// Clears all words of an absent entry but for what `low` holds.
fn wipe<L: Locked>(hw: &mut L, low: Low) {
    hw.store(0, low.into_raw());
    for n in 1..WORDS {
        hw.store(n, 0);
    }
    hw.write_back();
}

/// What a test gives a chain of steps instead of hardware.
#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
pub(crate) mod recorder {
    use super::*;

    /// What happened to an entry, in order.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Step {
        Nothing,
        Store(usize, u64),
        Order,
        WriteBack,
        Flush(usize),
        WriteBuffer,
        Desc(u64, u64),
    }

    /// Before anything happened.
    pub(crate) const NO_STEPS: [Step; 48] = [Step::Nothing; 48];

    /// Memory that remembers, and a queue that can fail.
    pub(crate) struct Recorder<'a, const N: usize> {
        pub(crate) words: &'a mut [u64; N],
        pub(crate) steps: &'a mut [Step; 48],
        pub(crate) count: &'a mut usize,
        pub(crate) fail: bool,
        /// Note what is flushed, too.
        pub(crate) tell: bool,
    }

    impl<const N: usize> Recorder<'_, N> {
        fn note(&mut self, step: Step) {
            self.steps[*self.count] = step;
            *self.count += 1;
        }
    }

    impl<'a, const N: usize> Hardware for Recorder<'a, N> {
        type Locked = LockedRecorder<'a, N>;

        fn lock(self) -> LockedRecorder<'a, N> {
            LockedRecorder(self)
        }

        fn load(&self, word: usize) -> u64 {
            self.words[word]
        }

        fn flush(&mut self, plan: &Plan) -> Result {
            self.note(Step::Flush(plan.batch.len()));
            if self.tell {
                if plan.write_buffer {
                    self.note(Step::WriteBuffer);
                }
                for desc in plan.batch.iter() {
                    self.note(Step::Desc(desc.0[0], desc.0[1]));
                }
            }
            if self.fail {
                Err(EIO)
            } else {
                Ok(())
            }
        }
    }

    pub(crate) struct LockedRecorder<'a, const N: usize>(Recorder<'a, N>);

    impl<'a, const N: usize> Locked for LockedRecorder<'a, N> {
        type Unlocked = Recorder<'a, N>;

        fn unlock(self) -> Recorder<'a, N> {
            self.0
        }

        fn load(&self, word: usize) -> u64 {
            self.0.load(word)
        }

        fn store(&mut self, word: usize, value: u64) {
            // Never a word of an entry that is present, but for those that change in place.
            self.0.words[word] = value;
            self.0.note(Step::Store(word, value));
        }

        fn order(&mut self) {
            self.0.note(Step::Order);
        }

        fn write_back(&mut self) {
            self.0.note(Step::WriteBack);
        }
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_pasid)]
mod tests {
    use core::cell::Cell;

    use kernel::num::Bounded;

    use super::{
        recorder::{
            LockedRecorder,
            Recorder,
            Step,
            NO_STEPS, //
        },
        *, //
    };
    use crate::{
        caps::Caps,
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
