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
use crate::context::{
    High,
    Low, //
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

    /// Bits 63:0.
    pub(crate) fn low(&self) -> Low {
        // SAFETY: By the invariant; words are read and written whole.
        Low::from_raw(unsafe { (&raw const (*self.at.as_ptr()).lo).read_volatile() })
    }

    /// The domain-id of a legacy-mode entry.
    pub(crate) fn did(&self) -> u16 {
        // SAFETY: By the invariant; words are read and written whole.
        let hi = unsafe { (&raw const (*self.at.as_ptr()).hi).read_volatile() };
        High::from_raw(hi).did().into()
    }

    /// Makes it present: P last.
    pub(crate) fn publish(mut self, low: Low, _guard: &Guard<'_>) {
        self.store(low.with_present(false), 0);
        self.write_back();
        dma_mb(Write);
        self.store_low(low);
        self.write_back();
    }

    /// Clears P; the rest stays until nothing of it is cached.
    pub(crate) fn clear_present(&mut self, _guard: &Guard<'_>) {
        self.store_low(self.low().with_present(false));
        dma_mb(Write);
        self.write_back();
    }

    /// Clears all of it, after P and the caches.
    pub(crate) fn reset(&mut self) {
        self.store(Low::from_raw(0), 0);
        self.write_back();
    }

    fn store(&mut self, low: Low, hi: u64) {
        // SAFETY: By the invariant; words are read and written whole.
        unsafe { (&raw mut (*self.at.as_ptr()).hi).write_volatile(hi) };
        self.store_low(low);
    }

    fn store_low(&mut self, low: Low) {
        // SAFETY: By the invariant; words are read and written whole.
        unsafe { (&raw mut (*self.at.as_ptr()).lo).write_volatile(low.into_raw()) };
    }

    fn write_back(&self) {
        // SAFETY: An entry has as many bytes.
        unsafe {
            self.unit.write_back(
                self.at.as_ptr().cast(),
                size_of::<bindings::context_entry>(),
            )
        };
    }
}
