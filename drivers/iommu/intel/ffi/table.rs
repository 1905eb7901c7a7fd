// SPDX-License-Identifier: GPL-2.0-only

//! A device's PASID directory, the tables below it, and the entries in those.
//!
//! Tables are added by compare-and-exchange of a directory entry and stay until the device is
//! released, so an entry that was found stays where it is.

use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    prelude::*,
    sync::barrier::{
        dma_mb,
        Write, //
    },
};

use super::{
    device::Device,
    unit::{
        Guard,
        Unit, //
    },
};
use crate::{
    flush_plan::Plan,
    pasid::Hardware,
    pasid_entry::WORDS, //
};

/// PASIDs in a table.
const TABLE_PASIDS: u32 = 64;
/// Bytes of a table, and of a page of the directory.
const PAGE: usize = 4096;
/// P of a directory entry (section 9.5); the address is in bits 63:12.
const PRESENT: u64 = 1;

/// A PASID directory.
///
/// # Invariants
///
/// `table` points to a `struct pasid_table` whose directory has an entry for each 64 PASIDs below
/// `max_pasid`. Directory entries are 0 or name a table.
pub(crate) struct Directory<'a> {
    table: NonNull<bindings::pasid_table>,
    unit: Unit<'a>,
}

impl<'a> Directory<'a> {
    /// Wraps a directory.
    ///
    /// # Safety
    ///
    /// `table` was made by [`alloc`] for a device behind `unit` and is there for `'a`.
    pub(super) unsafe fn from_raw(table: NonNull<bindings::pasid_table>, unit: Unit<'a>) -> Self {
        // INVARIANT: by the safety requirement.
        Self { table, unit }
    }

    /// How many PASIDs it has room for.
    pub(crate) fn max_pasid(&self) -> u32 {
        // SAFETY: By the invariant; does not change.
        unsafe { (*self.table.as_ptr()).max_pasid }
    }

    /// Its physical address.
    pub(crate) fn phys(&self) -> u64 {
        // SAFETY: By the invariant the directory is memory of the kernel's.
        unsafe { bindings::vtd_phys(self.entries().cast()) }
    }

    fn entries(&self) -> *mut u64 {
        // SAFETY: By the invariant; does not change.
        unsafe { (*self.table.as_ptr()).table.cast() }
    }

    /// The table of an entry of the directory, if there is one.
    ///
    /// # Safety
    ///
    /// `at` points to an entry of the directory.
    unsafe fn load(at: *mut u64) -> Option<NonNull<u64>> {
        // SAFETY: By the safety requirement; entries are whole words that change once.
        let entry = unsafe { at.read_volatile() };
        if entry & PRESENT == 0 {
            return None;
        }
        // SAFETY: A present entry names a table.
        NonNull::new(unsafe { bindings::vtd_virt(entry & !0xfff) }.cast())
    }

    /// The table that a PASID is in, made if need be. Does not sleep.
    fn table_of(&self, pasid: u32) -> Option<NonNull<u64>> {
        // CAST: A PASID fits.
        let n = (pasid / TABLE_PASIDS) as usize;
        // SAFETY: The caller has checked that the PASID is below `max_pasid`.
        let at = unsafe { self.entries().add(n) };
        // SAFETY: As above.
        if let Some(table) = unsafe { Self::load(at) } {
            return Some(table);
        }
        let new = Flushed::new(&self.unit)?;
        // SAFETY: `at` is an entry of the directory.
        let Some(table) = (unsafe { new.publish(at) }) else {
            // SAFETY: `at` is an entry of the directory, and somebody else filled it.
            return unsafe { Self::load(at) };
        };
        // SAFETY: An entry has as many bytes.
        unsafe { self.unit.write_back(at.cast(), size_of::<u64>()) };
        Some(table)
    }
}

/// A new table whose zeros are in memory, whatever of the processor's caches the unit looks into.
/// No other can be published.
///
/// # Invariants
///
/// `table` is [`PAGE`] bytes that nobody else knows of.
struct Flushed(NonNull<c_void>);

impl Flushed {
    fn new(unit: &Unit<'_>) -> Option<Self> {
        // SAFETY: The unit is there.
        let new = unsafe { bindings::vtd_alloc_table(unit.as_raw(), PAGE, true) };
        // INVARIANT: It was made just now.
        let new = Self(NonNull::new(new)?);
        // SAFETY: A table has as many bytes.
        unsafe { unit.write_back(new.0.as_ptr(), PAGE) };
        Some(new)
    }

    /// Makes the directory's entry name the table, unless it names one already.
    ///
    /// # Safety
    ///
    /// `at` points to an entry of the directory.
    unsafe fn publish(self, at: *mut u64) -> Option<NonNull<u64>> {
        // SAFETY: The table is memory of the kernel's.
        let entry = unsafe { bindings::vtd_phys(self.0.as_ptr()) } | PRESENT;
        // SAFETY: By the safety requirement.
        if !unsafe { bindings::vtd_cmpxchg(at, 0, entry) } {
            return None;
        }
        Some(ManuallyDrop::new(self).0.cast())
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        // SAFETY: By the invariant nobody saw it.
        unsafe { bindings::vtd_free_table(self.0.as_ptr()) };
    }
}

/// A PASID table entry of a device.
///
/// # Invariants
///
/// `at` points to the [`WORDS`] words of an entry that stays for `'a`.
pub(crate) struct Slot<'a> {
    at: NonNull<u64>,
    unit: Unit<'a>,
    _lives: PhantomData<&'a ()>,
}

impl<'a> Slot<'a> {
    /// The entry of a PASID. None, with a warning, when the directory does not reach so far, and
    /// when there is no memory for the table. Does not sleep.
    pub(crate) fn find(dev: &Device<'a>, unit: &Unit<'a>, pasid: u32) -> Option<Self> {
        let dir = dev.directory();
        if kernel::warn_on!(dir.as_ref().is_none_or(|dir| pasid >= dir.max_pasid())) {
            return None;
        }
        let table = dir?.table_of(pasid)?;
        // CAST: Less than 64.
        let n = (pasid % TABLE_PASIDS) as usize * WORDS;
        // INVARIANT: Tables stay until the device is released.
        Some(Self {
            // SAFETY: A table has 64 entries.
            at: unsafe { table.add(n) },
            unit: *unit,
            _lives: PhantomData,
        })
    }

    fn word(&self, n: usize) -> *mut u64 {
        kernel::build_assert::static_assert!(WORDS == 8);
        // SAFETY: Callers stay below `WORDS`, as the trait wants it.
        unsafe { self.at.add(n & (WORDS - 1)) }.as_ptr()
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
            self.unit
                .write_back(self.at.as_ptr().cast(), WORDS * size_of::<u64>())
        };
    }

    fn flush(&mut self, plan: &Plan) -> Result {
        self.unit.flush(plan)
    }
}

/// Gives a device a PASID directory. Sleeps; nobody else may do this to the device meanwhile.
///
/// # Errors
///
/// `ENODEV` for what is not on PCI, `EEXIST` when it has one, `ENOMEM`.
pub(super) fn alloc(dev: &Device<'_>) -> Result {
    if kernel::warn_on!(!dev.is_pci()) {
        return Err(ENODEV);
    }
    if kernel::warn_on!(dev.directory().is_some()) {
        return Err(EEXIST);
    }
    let max = if dev.snapshot().pasid_supported {
        // SAFETY: The device is there, and on PCI.
        unsafe { bindings::vtd_max_pasids(dev.as_raw()) }
    } else {
        0
    };
    // An entry of 8 bytes for 64 PASIDs; a power of two of pages.
    // CAST: Less than 2^20.
    let size = ((max / 8) as usize).max(PAGE).next_power_of_two();
    let unit = dev.unit();
    let table = KBox::new(
        bindings::pasid_table {
            table: core::ptr::null_mut(),
            // CAST: At most 2^20.
            max_pasid: (size * 8) as u32,
        },
        GFP_KERNEL,
    )?;
    // SAFETY: The unit is there.
    let dir = unsafe { bindings::vtd_alloc_table(unit.as_raw(), size, false) };
    if dir.is_null() {
        return Err(ENOMEM);
    }
    // SAFETY: A directory has as many bytes.
    unsafe { unit.write_back(dir, size) };
    let table = KBox::into_raw(table);
    // SAFETY: `table` is ours still.
    unsafe { (*table).table = dir };
    // SAFETY: Nobody else sets it meanwhile.
    unsafe { (*dev.info()).pasid_table = table };
    Ok(())
}

/// Takes a device's PASID directory away, if it has one, with all tables.
///
/// # Safety
///
/// No context entry names it, nothing of it is cached, and nobody uses an entry.
pub(super) unsafe fn free(dev: &Device<'_>) {
    let Some(dir) = dev.directory() else {
        return;
    };
    // SAFETY: Nobody uses it any more.
    unsafe { (*dev.info()).pasid_table = core::ptr::null_mut() };
    for n in 0..dir.max_pasid() / TABLE_PASIDS {
        // CAST: At most 2^14.
        // SAFETY: The directory has so many entries.
        let at = unsafe { dir.entries().add(n as usize) };
        // SAFETY: As above.
        if let Some(table) = unsafe { Directory::load(at) } {
            // SAFETY: Nobody uses it any more.
            unsafe { bindings::vtd_free_table(table.as_ptr().cast()) };
        }
    }
    // SAFETY: Nobody uses it any more.
    unsafe { bindings::vtd_free_table(dir.entries().cast()) };
    // SAFETY: `alloc()` made it from a box.
    drop(unsafe { KBox::from_raw(dir.table.as_ptr()) });
}
