// SPDX-License-Identifier: GPL-2.0-only

//! A device's PASID directory, the tables below it, and the entries in those.
//!
//! Tables are added by compare-and-exchange of a directory entry and stay until the device is
//! released, so an entry that was found stays where it is.

use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    prelude::*, //
};

use super::{
    device::Device,
    unit::Unit,
    words::Words, //
};
use crate::pasid_entry::WORDS;

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

    /// The table that a PASID is in. With `make` it is made if need be. Does not sleep.
    fn table_of(&self, pasid: u32, make: bool) -> Option<NonNull<u64>> {
        // CAST: A PASID fits.
        let n = (pasid / TABLE_PASIDS) as usize;
        // SAFETY: The caller has checked that the PASID is below `max_pasid`.
        let at = unsafe { self.entries().add(n) };
        // SAFETY: `at` is an entry of the directory.
        let found = unsafe { Self::load(at) };
        if found.is_some() || !make {
            return found;
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
        // SAFETY: The entry is a word of the directory that only changes this way.
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

/// The entry of a PASID, whose table is made if need be. Does not sleep.
///
/// # Errors
///
/// `ENODEV`, with a warning: the directory does not reach so far. `ENOMEM`.
pub(crate) fn entry<'a>(dev: &Device<'a>, pasid: u32) -> Result<Words<'a, WORDS>> {
    look_up(dev, pasid, true)
}

/// The entry of a PASID. None, with a warning, when the directory does not reach so far, and when
/// there is no table with it. Does not sleep.
pub(crate) fn find<'a>(dev: &Device<'a>, pasid: u32) -> Option<Words<'a, WORDS>> {
    look_up(dev, pasid, false).ok()
}

fn look_up<'a>(dev: &Device<'a>, pasid: u32, make: bool) -> Result<Words<'a, WORDS>> {
    let dir = dev.directory().filter(|dir| pasid < dir.max_pasid());
    kernel::warn_on!(dir.is_none());
    let table = dir.ok_or(ENODEV)?.table_of(pasid, make).ok_or(ENOMEM)?;
    // CAST: Less than 64.
    let n = (pasid % TABLE_PASIDS) as usize * WORDS;
    // SAFETY: A table has 64 entries.
    let at = unsafe { table.add(n) };
    // SAFETY: Tables stay until the device is released, and are of its unit.
    Ok(unsafe { Words::new(at, dev.unit()) })
}

/// Bytes of a directory for as many PASIDs, at most 2^20: a word for each table of them, in a power
/// of two of pages.
fn directory_size(pasids: u32) -> usize {
    // CAST: At most 2^17.
    let bytes = (pasids.div_ceil(TABLE_PASIDS) as usize) * size_of::<u64>();
    bytes.max(PAGE).next_power_of_two()
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
    let size = directory_size(max);
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
        // SAFETY: `at` is an entry of the directory, which is there still.
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

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_table)]
mod tests {
    use super::*;

    #[test]
    fn directory_has_room() {
        // (PASIDs, bytes)
        let table = [
            (0, 4096),
            (1, 4096),
            (32768, 4096),
            (32769, 8192),
            (65536, 8192),
            (65537, 16384),
            ((1 << 20) - 1, 1 << 17),
            (1 << 20, 1 << 17),
        ];
        for (pasids, bytes) in table {
            assert_eq!(directory_size(pasids), bytes);
            assert!(directory_size(pasids) * 8 >= pasids as usize);
        }
    }
}
