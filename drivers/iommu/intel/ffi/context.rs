// SPDX-License-Identifier: GPL-2.0-only

//! Context entries of a unit (`struct context_entry`).

use core::ptr::NonNull;

use kernel::{
    bindings,
    prelude::*, //
};

use super::{
    unit::Unit,
    words::LockedWords, //
};

/// Words of an entry: `lo` and `hi`.
const WORDS: usize = 2;
const _: () = assert!(size_of::<bindings::context_entry>() == WORDS * size_of::<u64>());
const _: () = assert!(core::mem::offset_of!(bindings::context_entry, lo) == 0);

/// The entry of a source-id in the tables of a unit, whose lock it takes. With `make`, the table
/// that it is in is made if need be; none without memory. Does not sleep.
pub(crate) fn entry<'a>(
    unit: &Unit<'a>,
    bus: u8,
    devfn: u8,
    make: bool,
) -> Option<LockedWords<'a, WORDS>> {
    let guard = unit.lock();
    // SAFETY: The unit is there and its lock is held, as the guard shows.
    let at = unsafe { bindings::iommu_context_addr(unit.as_raw(), bus, devfn, c_int::from(make)) };
    let at = NonNull::new(at.cast())?;
    // SAFETY: Context tables stay as long as the unit.
    Some(unsafe { LockedWords::new(at, guard) })
}
