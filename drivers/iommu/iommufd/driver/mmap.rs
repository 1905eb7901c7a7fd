// SPDX-License-Identifier: GPL-2.0-only

//! Regions of MMIO that a driver lets user space map through the context's file.
//!
//! A region is known by the offset for mmap(), which the driver hands to user space. No region has
//! offset 0, so that an offset which nobody set is seen.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use crate::ffi::{
    object::Object,
    shared::{
        CtxHead,
        Region, //
    }, //
};
use kernel::{
    io::PhysAddr,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Whether the CPU can map exactly that: whole pages, and some.
fn is_mappable(addr: PhysAddr, length: usize) -> bool {
    addr % PAGE_SIZE as PhysAddr == 0 && length != 0 && length % PAGE_SIZE == 0
}

/// Registers `length` bytes of MMIO from the physical address `addr` on, which `owner` keeps.
/// Returns their offset for mmap(), in bytes. May sleep.
///
/// # Errors
///
/// `EINVAL`: that is no number of whole pages; `ENOMEM`; `EBUSY`: there is no room left.
pub(crate) fn alloc(ctx: &CtxHead, owner: &Object, addr: PhysAddr, length: usize) -> Result<usize> {
    if !is_mappable(addr, length) {
        return Err(EINVAL);
    }
    ctx.insert(Region::new(owner, addr, length)?, PAGE_SIZE)
}

/// Takes a region back, which is no longer mapped: mappings keep its owner.
pub(crate) fn destroy(ctx: &CtxHead, owner: &Object, offset: usize) {
    let region = ctx.remove(offset);
    kernel::warn_on!(!region.is_some_and(|region| region.is_of(owner)));
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_driver_mmap)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages() {
        const PAGE: PhysAddr = PAGE_SIZE as PhysAddr;
        for (addr, length, expected) in [
            (0, 0, false),
            (0, 1, false),
            (0, PAGE_SIZE - 1, false),
            (0, PAGE_SIZE, true),
            (0, PAGE_SIZE + 1, false),
            (0, usize::MAX, false),
            (0, usize::MAX - PAGE_SIZE + 1, true),
            (1, PAGE_SIZE, false),
            (PAGE - 1, PAGE_SIZE, false),
            (PAGE, PAGE_SIZE, true),
            (PhysAddr::MAX, PAGE_SIZE, false),
            (PhysAddr::MAX - PAGE + 1, PAGE_SIZE, true),
        ] {
            assert_eq!(is_mappable(addr, length), expected);
        }
    }
}
