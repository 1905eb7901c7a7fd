// SPDX-License-Identifier: GPL-2.0-only

//! `/dev/iommu`: the user API to I/O page tables.
//!
//! | layer | files |
//! |---|---|
//! | what C sees, and all `unsafe` | [`ffi`] and below |
//! | page tables in hardware | [`hwpt`] |
//! | devices | [`device`], [`hw_info`], [`attach`], [`target`], `noiommu` |
//! | drivers without DMA | [`access`] |
//! | the object model | [`object`] |
//! | I/O address spaces | [`ioas`], [`change_process`] |
//! | event queues | [`fault`], [`veventq`] |
//! | vIOMMUs | [`viommu`], [`hw_queue`] |
//! | VFIO's container | [`vfio_compat`] |
//! | the character device: dispatch, context, mmap | [`ioctl`], [`ffi::file`], [`option`] |
//!
//! # Lock order
//!
//! `ioas_creation_lock` -> an IOAS's `domains_rwsem` -> its `iova_rwsem` -> the page core's
//! mutexes; an IOAS's mutex -> a group's lock. The object table's spinlock is innermost and is
//! held for a few instructions only; lookups take no lock.

mod access;
mod attach;
mod change_process;
mod device;
mod fault;
mod ffi;
mod hw_info;
mod hw_queue;
mod hwpt;
mod ioas;
mod ioctl;
#[cfg(CONFIG_IOMMUFD_NOIOMMU)]
mod noiommu;
mod object;
mod option;
#[cfg(CONFIG_IOMMUFD_TEST)]
mod selftest;
mod target;
mod veventq;
mod vfio_compat;
mod viommu;

// What `#[vtable]` of a driver's operations takes for their owner.
#[cfg(any(CONFIG_IOMMUFD_NOIOMMU, CONFIG_IOMMUFD_TEST))]
use ffi::file::LocalModule;

const __LOG_PREFIX: &[u8] = b"iommufd\0";
