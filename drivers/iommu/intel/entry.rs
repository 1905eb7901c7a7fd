// SPDX-License-Identifier: GPL-2.0-only

//! The life of an entry that a unit reads, as a chain of steps that consume one another: of a PASID
//! table entry ([`crate::pasid`]) and of a context entry ([`crate::context`]).
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

use core::{
    hint::spin_loop,
    marker::PhantomData, //
};

use kernel::prelude::*;

use crate::{
    ffi::preempt::NoPreempt,
    flush_plan::Plan, //
};

/// An entry's place in memory and the hardware that reads it.
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

/// P, in word 0 of either kind.
const P: u64 = 1;

/// What the words of an entry say.
pub(crate) trait Format: Copy {
    /// The words, all of them.
    type Words: AsRef<[u64]>;

    /// Bits of word 0 that mean something while P is 0.
    const STAYS: u64;

    /// From the words, which are read by their number.
    fn read(load: impl Fn(usize) -> u64) -> Self;

    /// As they lie in memory.
    fn words(&self) -> Self::Words;
}

/// Whether P is 0 and more is left of an entry whose word 0 this is than what may stay.
fn leaving<F: Format>(word: u64) -> bool {
    word & P == 0 && word & !F::STAYS != 0
}

/// What an entry turned out to be.
pub(crate) enum State<L: Locked, F> {
    Absent(Absent<L, F>),
    Present(Present<L, F>),
    /// P is 0 and the words are there: somebody waits until the hardware has forgotten them.
    Leaving(Leaving<L::Unlocked, F>),
}

impl<L: Locked, F: Format> State<L, F> {
    /// Looks at an entry.
    pub(crate) fn of(hw: L) -> Self {
        let word = hw.load(0);
        if word & P != 0 {
            let entry = F::read(|n| if n == 0 { word } else { hw.load(n) });
            Self::Present(Present { hw, entry })
        } else if leaving::<F>(word) {
            // Who clears the rest needs the lock.
            Self::Leaving(Leaving(hw.unlock(), PhantomData))
        } else {
            Self::Absent(Absent(hw, PhantomData))
        }
    }
}

/// P is 0, and somebody is about to clear the rest.
#[must_use]
pub(crate) struct Leaving<H, F>(H, PhantomData<F>);

impl<H: Hardware, F: Format> Leaving<H, F> {
    /// Returns when nobody is any more, with the lock: soon, as that processor is not preempted.
    pub(crate) fn wait(self) -> H::Locked {
        while leaving::<F>(self.0.load(0)) {
            spin_loop();
        }
        self.0.lock()
    }
}

/// P is 0, nothing is cached but that it is, and nothing is left in it but what may stay.
#[must_use]
pub(crate) struct Absent<L, F>(L, PhantomData<F>);

impl<L: Locked, F: Format> Absent<L, F> {
    /// What has stayed of word 0.
    pub(crate) fn stayed(&self) -> u64 {
        self.0.load(0)
    }

    /// Clears all words but for these bits of word 0.
    pub(crate) fn wipe(&mut self, stays: u64) {
        let Self(hw, _) = self;
        hw.store(0, stays & F::STAYS);
        for n in 1..size_of::<F::Words>() / size_of::<u64>() {
            hw.store(n, 0);
        }
        hw.write_back();
    }

    /// Makes it present: everything else first, P last.
    pub(crate) fn publish(self, entry: &F) -> Fresh<L::Unlocked, F> {
        let Self(mut hw, _) = self;
        let words = entry.words();
        let mut first = 0;
        for (n, word) in words.as_ref().iter().enumerate() {
            match n {
                0 => first = *word,
                n => hw.store(n, *word),
            }
        }
        hw.store(0, first & !P);
        hw.write_back();
        hw.order();
        hw.store(0, first);
        hw.write_back();
        Fresh {
            hw: hw.unlock(),
            entry: *entry,
        }
    }
}

/// P is 1, and the hardware may have cached that it was not.
#[must_use]
pub(crate) struct Fresh<H, F> {
    hw: H,
    entry: F,
}

impl<H: Hardware, F: Format> Fresh<H, F> {
    /// Invalidates what says that the entry is absent, by a plan for what it is.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue, with the entry, which is present nonetheless.
    pub(crate) fn announce_by(
        mut self,
        plan: impl FnOnce(&F) -> Plan,
    ) -> Result<(), (Error, Present<H::Locked, F>)> {
        self.hw.flush(&plan(&self.entry)).map_err(|e| {
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
pub(crate) struct Present<L, F> {
    hw: L,
    entry: F,
}

impl<L: Locked, F: Format> Present<L, F> {
    /// What it says.
    pub(crate) fn entry(&self) -> &F {
        &self.entry
    }

    /// Changes one word in place. P stays.
    pub(crate) fn change(mut self, word: usize, to: u64) -> Changed<L::Unlocked, F> {
        self.hw.store(word, to);
        self.hw.write_back();
        let new = F::read(|n| self.hw.load(n));
        Changed {
            hw: self.hw.unlock(),
            old: self.entry,
            new,
        }
    }

    /// Clears P. The rest stays until nothing of it is cached.
    pub(crate) fn clear(mut self) -> Cleared<L::Unlocked, F> {
        let stays = NoPreempt::new();
        let word = self.hw.load(0);
        self.hw.store(0, word & !P);
        self.hw.order();
        self.hw.write_back();
        Cleared {
            hw: self.hw.unlock(),
            entry: self.entry,
            stays,
        }
    }
}

/// P is 1 and caches may hold what the entry said before.
#[must_use]
pub(crate) struct Changed<H, F> {
    hw: H,
    old: F,
    new: F,
}

impl<H: Hardware, F: Format> Changed<H, F> {
    /// Invalidates what the entry said before, by a plan for that and for what it says now.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue.
    pub(crate) fn flush_by(mut self, plan: impl FnOnce(&F, &F) -> Plan) -> Result {
        self.hw.flush(&plan(&self.old, &self.new))
    }
}

/// P is 0 and caches may hold what the entry said.
#[must_use]
pub(crate) struct Cleared<H, F> {
    hw: H,
    entry: F,
    stays: NoPreempt,
}

impl<H: Hardware, F: Format> Cleared<H, F> {
    /// Invalidates the entry, by a plan for what it was. What the hardware refuses it will refuse
    /// again, and the rest of a submission is done nonetheless
    /// ([`crate::ffi::unit::Unit::submit`]), so the words may be reused after a failure too; the
    /// error is for the caller to tell.
    pub(crate) fn flush_by(mut self, plan: impl FnOnce(&F) -> Plan) -> (Flushed<H, F>, Result) {
        let result = self.hw.flush(&plan(&self.entry));
        let flushed = Flushed {
            hw: self.hw,
            _stays: self.stays,
            _of: PhantomData,
        };
        (flushed, result)
    }
}

/// P is 0, nothing is cached, the words are still there.
#[must_use]
pub(crate) struct Flushed<H, F> {
    hw: H,
    _stays: NoPreempt,
    _of: PhantomData<F>,
}

impl<H: Hardware, F: Format> Flushed<H, F> {
    /// Clears the words but for these bits of word 0.
    pub(crate) fn reset_but(self, stays: u64) -> Absent<H::Locked, F> {
        let mut absent = Absent(self.hw.lock(), PhantomData);
        absent.wipe(stays);
        absent
    }
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
