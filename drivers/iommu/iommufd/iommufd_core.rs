// SPDX-License-Identifier: GPL-2.0-only

//! `/dev/iommu`: the user API to I/O page tables.
//!
//! | layer | files |
//! |---|---|
//! | what C sees, and all `unsafe` but the objects' | [`ffi`] and below |
//! | page tables in hardware | [`hwpt`] |
//! | devices | [`device`], [`hw_info`], [`attach`], [`change_pt`], `noiommu` |
//! | drivers without DMA | [`access`] |
//! | objects, and how to refer to them | [`object`] and below |
//! | I/O address spaces | [`ioas`], [`io_pagetable`], [`change_process`] |
//! | runs of frames, room for them, where a mapping is | [`runs`], [`fit`], [`area`] |
//! | event queues | [`fault`], [`veventq`] |
//! | vIOMMUs | [`viommu`], [`vdevice`], [`hw_queue`] |
//! | VFIO's container | [`vfio_compat`] |
//! | the character device: dispatch, context, mmap | [`ioctl`], [`ffi::file`], [`option`] |
//!
//! # Lock order
//!
//! From the outermost to the innermost; who takes two takes them in this order:
//!
//! 1. a context's `ioas_creation_lock`
//! 2. an IOAS's mutex
//! 3. a group's mutex
//! 4. a vIOMMU's `veventqs_rwsem`
//! 5. a fault queue's mutex
//! 6. an access's mutex
//! 7. the mutex of the IOMMU core's group
//! 8. a context's `sw_msi_lock`
//! 9. an IOAS's `domains_rwsem`
//! 10. its `iova_rwsem`; all of a context are taken under its `ioas_creation_lock`
//! 11. the lock of pages
//! 12. spinlocks: those of the object table, of the lists of groups, accesses, vDEVICEs and
//!     regions, and of an event queue. None of them is taken under another, and they are held for a
//!     few instructions; lookups take no lock
//! 13. the lock of a wait queue: the last loan wakes who waits for it, also under those
//!
//! No user memory is copied under any of them that somebody outside of the context may wait for,
//! nor while a device is lent: see [`ioctl::Answer`]. What remains is under the locks of an IOAS
//! (9 and 11), where user memory is pinned that is to be mapped.

mod access;
mod area;
mod attach;
mod change_process;
mod change_pt;
mod device;
mod fault;
mod ffi;
mod fit;
mod hw_info;
mod hw_queue;
mod hwpt;
mod io_pagetable;
mod ioas;
mod ioctl;
#[cfg(CONFIG_IOMMUFD_NOIOMMU)]
mod noiommu;
mod object;
mod option;
mod runs;
#[cfg(CONFIG_IOMMUFD_TEST)]
mod selftest;
mod vdevice;
mod veventq;
mod vfio_compat;
mod viommu;

// What `#[vtable]` of a driver's operations takes for their owner.
#[cfg(any(CONFIG_IOMMUFD_NOIOMMU, CONFIG_IOMMUFD_TEST))]
use ffi::file::LocalModule;

const __LOG_PREFIX: &[u8] = b"iommufd\0";
