// SPDX-License-Identifier: GPL-2.0-only

//! What IOMMU drivers call: dependencies between objects, MMIO for user space, vDEVICEs, events,
//! bitmaps of what was written to. VFIO drivers call the latter, too.
//!
//! These functions are always built in, as the drivers that call them may be; `/dev/iommu` itself
//! may be a module. So this is a crate of its own, which shares nothing with the other one but
//! [`ffi::shared`] and the structures of `iommufd_private.h`.
//!
//! | layer | files |
//! |---|---|
//! | what C sees, and all `unsafe` | [`ffi`] and below |
//! | an object that needs another one | [`depend`] |
//! | regions of MMIO that user space may map | [`mmap`] |
//! | vDEVICEs of a vIOMMU | [`vdevs`] |
//! | events for user space | [`events`] |
//! | doorbells of MSIs behind a page table | `sw_msi` |
//! | bitmaps of what was written to | [`bitmap`] |
//!
//! # Lock order
//!
//! That of `iommufd_core.rs`.

mod bitmap;
mod depend;
mod events;
mod ffi;
mod mmap;
#[cfg(any(CONFIG_IRQ_MSI_IOMMU, CONFIG_KUNIT = "y"))]
mod sw_msi;
mod vdevs;

const __LOG_PREFIX: &[u8] = b"iommufd_driver\0";
