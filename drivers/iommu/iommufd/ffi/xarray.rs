// SPDX-License-Identifier: GPL-2.0-only

//! Walking an xarray from its first entry to its last.
//!
//! C header: [`include/linux/xarray.h`](srctree/include/linux/xarray.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*, //
};

/// The entries of an xarray and their indexes, in order. Reserved ones are passed over.
///
/// # Invariants
///
/// The xarray is initialised.
pub(crate) struct Entries {
    xa: *mut bindings::xarray,
    from: Option<usize>,
}

impl Entries {
    /// Begins with the first from the index `from` on. What is stored or erased meanwhile is seen
    /// or not.
    ///
    /// # Safety
    ///
    /// `xa` must be initialised, and stay so as long as this is used.
    pub(crate) unsafe fn of(xa: *mut bindings::xarray, from: usize) -> Self {
        // INVARIANT: By the caller.
        Self {
            xa,
            from: Some(from),
        }
    }
}

impl Iterator for Entries {
    type Item = (usize, NonNull<c_void>);

    fn next(&mut self) -> Option<Self::Item> {
        let mut index = self.from?;
        // SAFETY: The xarray is initialised, and stays so.
        let entry =
            unsafe { bindings::xa_find(self.xa, &mut index, usize::MAX, bindings::XA_PRESENT) };
        self.from = index.checked_add(1);
        Some((index, NonNull::new(entry)?))
    }
}
