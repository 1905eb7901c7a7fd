// SPDX-License-Identifier: GPL-2.0-only

//! The C-facing layer: the only place with `unsafe` and `bindings::`.
//!
//! All structures but those of [`bitmap`] and [`shared`] are those of `iommufd_private.h` and
//! `include/linux/iommufd.h`. Whoever made them, `/dev/iommu` or a driver, keeps them for as long
//! as it calls from here.

pub(crate) mod bitmap;
pub(crate) mod events;
pub(crate) mod exports;
pub(crate) mod mmap;
pub(crate) mod object;
// Each crate uses its side of it.
#[allow(dead_code)]
pub(crate) mod shared;
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
pub(crate) mod sw_msi;
pub(crate) mod viommu;
