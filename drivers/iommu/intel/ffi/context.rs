// SPDX-License-Identifier: GPL-2.0-only

//! A context entry of a unit (`struct context_entry`).

use core::ptr::NonNull;

use kernel::{
    bindings,
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

/// A context entry.
///
/// # Invariants
///
/// `at` points to an entry of a context table of `unit`; those stay as long as the unit.
pub(crate) struct Slot<'a> {
    at: NonNull<bindings::context_entry>,
    unit: Unit<'a>,
}

impl<'a> Slot<'a> {
    /// The entry of a source-id. With `make`, the table that it is in is made if need be; none
    /// without memory. Does not sleep.
    pub(crate) fn find(
        unit: &Unit<'a>,
        bus: u8,
        devfn: u8,
        make: bool,
        _guard: &Guard<'_>,
    ) -> Option<Self> {
        // SAFETY: The unit is there and its lock is held, as the guard shows.
        let at =
            unsafe { bindings::iommu_context_addr(unit.as_raw(), bus, devfn, c_int::from(make)) };
        // INVARIANT: It is what the unit says.
        Some(Self {
            at: NonNull::new(at)?,
            unit: *unit,
        })
    }

    fn word(&self, n: usize) -> *mut u64 {
        let at = self.at.as_ptr();
        if n == 0 {
            // SAFETY: By the invariant.
            unsafe { &raw mut (*at).lo }
        } else {
            // SAFETY: By the invariant.
            unsafe { &raw mut (*at).hi }
        }
    }
}

impl<'a> Hardware for Slot<'a> {
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
            self.unit.write_back(
                self.at.as_ptr().cast(),
                size_of::<bindings::context_entry>(),
            )
        };
    }

    fn flush(&mut self, plan: &Plan) -> Result {
        self.unit.flush(plan)
    }
}
