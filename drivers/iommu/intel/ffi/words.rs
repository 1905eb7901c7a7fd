// SPDX-License-Identifier: GPL-2.0-only

//! An entry of a table in memory, and the unit that reads it.

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    prelude::*,
    sync::barrier::{
        dma_mb,
        Write, //
    },
};

use super::unit::{
    Guard,
    Unit, //
};
use crate::{
    entry::{
        Hardware,
        Locked, //
    },
    flush_plan::Plan,
};

/// The `N` words of an entry, `N` being a power of two.
///
/// # Invariants
///
/// `at` points to so many words of a table of `unit`, which stay for `'a`.
pub(crate) struct Words<'a, const N: usize> {
    at: NonNull<u64>,
    unit: Unit<'a>,
    _lives: PhantomData<&'a ()>,
}

impl<'a, const N: usize> Words<'a, N> {
    /// Wraps an entry.
    ///
    /// # Safety
    ///
    /// `at` points to `N` words of a table of `unit`, which stay for `'a`.
    pub(super) unsafe fn new(at: NonNull<u64>, unit: Unit<'a>) -> Self {
        const { assert!(N.is_power_of_two()) };
        // INVARIANT: by the safety requirement.
        Self {
            at,
            unit,
            _lives: PhantomData,
        }
    }

    fn word(&self, n: usize) -> *mut u64 {
        // SAFETY: It is less than `N`, whatever the caller says.
        unsafe { self.at.add(n & (N - 1)) }.as_ptr()
    }
}

impl<'a, const N: usize> Hardware for Words<'a, N> {
    type Locked = LockedWords<'a, N>;

    fn lock(self) -> LockedWords<'a, N> {
        let _guard = self.unit.lock();
        LockedWords {
            words: self,
            _guard,
        }
    }

    fn load(&self, word: usize) -> u64 {
        // SAFETY: By the invariant; words are read and written whole.
        unsafe { self.word(word).read_volatile() }
    }

    fn flush(&mut self, plan: &Plan) -> Result {
        self.unit.flush(plan)
    }
}

/// An entry with the lock of its unit held, so that it can be written.
///
/// There is no writing without that lock, nor with that of another unit:
///
/// ```ignore,compile_fail,E0599
/// use crate::{entry::Locked, ffi::words::Words};
///
/// fn misuse(entry: &mut Words<'_, 8>) {
///     entry.store(0, 0);
/// }
/// ```
///
/// ```ignore,compile_fail,E0451
/// use crate::ffi::{
///     unit::Unit,
///     words::{LockedWords, Words},
/// };
///
/// fn misuse<'a>(words: Words<'a, 8>, other: &Unit<'a>) {
///     LockedWords { words, _guard: other.lock() };
/// }
/// ```
pub(crate) struct LockedWords<'a, const N: usize> {
    words: Words<'a, N>,
    _guard: Guard<'a>,
}

impl<'a, const N: usize> LockedWords<'a, N> {
    /// Wraps an entry of the unit whose lock is held.
    ///
    /// # Safety
    ///
    /// `at` points to `N` words of a table of that unit, which stay for `'a`.
    pub(super) unsafe fn new(at: NonNull<u64>, guard: Guard<'a>) -> Self {
        Self {
            // SAFETY: The caller has so many words of a table of that unit.
            words: unsafe { Words::new(at, guard.unit()) },
            _guard: guard,
        }
    }
}

impl<'a, const N: usize> Locked for LockedWords<'a, N> {
    type Unlocked = Words<'a, N>;

    fn unlock(self) -> Words<'a, N> {
        self.words
    }

    fn load(&self, word: usize) -> u64 {
        self.words.load(word)
    }

    fn store(&mut self, word: usize, value: u64) {
        // SAFETY: By the invariant of `words`; words are read and written whole.
        unsafe { self.words.word(word).write_volatile(value) };
    }

    fn order(&mut self) {
        dma_mb(Write);
    }

    fn write_back(&mut self) {
        let words = &self.words;
        // SAFETY: An entry has as many bytes.
        unsafe {
            words
                .unit
                .write_back(words.at.as_ptr().cast(), N * size_of::<u64>())
        };
    }
}
