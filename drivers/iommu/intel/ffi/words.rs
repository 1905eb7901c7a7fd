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
    flush_plan::Plan,
    pasid::Hardware, //
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
    type Guard = Guard<'a>;

    fn load(&self, word: usize) -> u64 {
        // SAFETY: By the invariant; words are read and written whole.
        unsafe { self.word(word).read_volatile() }
    }

    fn store(&mut self, word: usize, value: u64) {
        // SAFETY: By the invariant; words are read and written whole.
        unsafe { self.word(word).write_volatile(value) };
    }

    fn order(&mut self) {
        dma_mb(Write);
    }

    fn write_back(&mut self) {
        // SAFETY: An entry has as many bytes.
        unsafe {
            self.unit
                .write_back(self.at.as_ptr().cast(), N * size_of::<u64>())
        };
    }

    fn flush(&mut self, plan: &Plan) -> Result {
        self.unit.flush(plan)
    }
}
