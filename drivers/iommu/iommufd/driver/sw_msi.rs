// SPDX-License-Identifier: GPL-2.0-only

//! Doorbells of MSIs where the platform translates their address too.
//!
//! A device's group has a window of IOVAs for them. Each physical page with a doorbell gets one
//! page of the window, the same in all page tables of a context, and is mapped there when the first
//! device that uses it asks.

use crate::ffi::shared::Place;
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
use crate::ffi::{
    shared::{
        Doorbell,
        DoorbellSet, //
    },
    sw_msi::{
        Attached,
        Table, //
    }, //
};
use kernel::{
    io::PhysAddr,
    page::PAGE_SIZE,
    prelude::*, //
};

impl Place {
    /// Its first IOVA.
    pub(crate) fn iova(self) -> usize {
        self.window as usize + self.page as usize * PAGE_SIZE
    }
}

/// Looks for the page of the window that is for the physical page `addr`, and if there is none yet
/// says which one is the next.
///
/// `taken` are the places that there are, with what is mapped there and something for the caller.
fn find<T>(
    taken: impl Iterator<Item = (Place, PhysAddr, T)>,
    window: PhysAddr,
    addr: PhysAddr,
) -> Result<T, Place> {
    let mut page = 0;
    for (place, its, it) in taken {
        if place.window != window {
            continue;
        }
        if its == addr {
            return Ok(it);
        }
        page = page.max(place.page + 1);
    }
    Err(Place { window, page })
}

/// The physical page that an address is in.
fn page_of(addr: PhysAddr) -> PhysAddr {
    addr - addr % PAGE_SIZE as PhysAddr
}

/// The doorbell of a physical page, which gets its place now if it has none.
///
/// # Errors
///
/// `EOVERFLOW`: the context has as many doorbells as it can count; `ENOMEM`.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
fn doorbell(all: &mut KVec<Doorbell>, window: PhysAddr, addr: PhysAddr) -> Result<Doorbell> {
    match find(all.iter().map(|it| (it.place, it.addr, *it)), window, addr) {
        Ok(doorbell) => Ok(doorbell),
        Err(place) => {
            let id = all.len() as u32;
            if id >= DoorbellSet::BITS {
                return Err(EOVERFLOW);
            }
            let doorbell = Doorbell { place, addr, id };
            all.push(doorbell, GFP_KERNEL)?;
            Ok(doorbell)
        }
    }
}

/// Maps a doorbell in a page table that has it not yet, under the context's `sw_msi_lock`.
///
/// # Errors
///
/// `ENOMEM`; what mapping runs into.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
pub(crate) fn install(table: &Table<'_>, doorbell: &Doorbell) -> Result {
    if !table.present().has(doorbell.id) {
        table.map(doorbell.place.iova(), doorbell.addr)?;
        table.present().insert(doorbell.id);
    }
    Ok(())
}

/// Makes a doorbell reachable for a device and returns its page's IOVA; `None` when the device's
/// MSIs are not translated.
///
/// `addr` is the doorbell's physical address. The caller has seen to it that its page may be given
/// to a device.
///
/// # Errors
///
/// `EOVERFLOW`: the context has as many doorbells as it can count; `ENOMEM`; what mapping runs
/// into.
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
pub(crate) fn translate(
    device: &Attached<'_>,
    table: &Table<'_>,
    addr: PhysAddr,
) -> Result<Option<usize>> {
    let Some(window) = device.group().window() else {
        return Ok(None);
    };
    let mut all = device.ctx().doorbells.lock();
    let doorbell = doorbell(&mut all, window, page_of(addr))?;
    install(table, &doorbell)?;
    device.group().required.insert(doorbell.id);
    Ok(Some(doorbell.place.iova()))
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_driver_sw_msi)]
mod tests {
    use super::*;

    const PAGE: PhysAddr = PAGE_SIZE as PhysAddr;
    const WINDOW: PhysAddr = 0x8000000;
    const OTHER: PhysAddr = 0xa000000;

    #[test]
    fn pages() {
        for (addr, expected) in [
            (0, 0),
            (PAGE - 1, 0),
            (PAGE, PAGE),
            (PAGE + 0x40, PAGE),
            (PhysAddr::MAX, PhysAddr::MAX - PAGE + 1),
        ] {
            assert_eq!(page_of(addr), expected);
        }
    }

    #[test]
    fn iovas() {
        for (page, expected) in [(0, 0), (1, PAGE_SIZE), (63, 63 * PAGE_SIZE)] {
            let place = Place {
                window: WINDOW,
                page,
            };
            assert_eq!(place.iova(), WINDOW as usize + expected);
        }
    }

    #[test]
    fn places() {
        let at = |window, page| Place { window, page };
        let full = [
            (at(WINDOW, 0), PAGE, 0),
            (at(OTHER, 0), PAGE, 1),
            (at(WINDOW, 1), 2 * PAGE, 2),
            (at(OTHER, 1), 3 * PAGE, 3),
            (at(OTHER, 2), 4 * PAGE, 4),
        ];
        for (count, window, addr, expected) in [
            // The first of all, and the first of its window.
            (0, WINDOW, PAGE, Err(at(WINDOW, 0))),
            (1, OTHER, PAGE, Err(at(OTHER, 0))),
            // What is there; the same doorbell has a place in each window.
            (1, WINDOW, PAGE, Ok(0)),
            (5, OTHER, PAGE, Ok(1)),
            (5, WINDOW, 2 * PAGE, Ok(2)),
            // The next place; those of other windows do not count.
            (4, WINDOW, 3 * PAGE, Err(at(WINDOW, 2))),
            (5, OTHER, 2 * PAGE, Err(at(OTHER, 3))),
        ] {
            assert_eq!(find(full.into_iter().take(count), window, addr), expected);
        }
    }
}
