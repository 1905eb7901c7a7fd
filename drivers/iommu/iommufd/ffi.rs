// SPDX-License-Identifier: GPL-2.0-only

//! The C-facing layer: with [`object`](crate::object) the only place with `unsafe` and
//! `bindings::`.
//!
//! What drivers see of an object has the layout of `include/linux/iommufd.h`, and what the crate
//! that is built in for them looks at is in [`shared`]. All else is Rust's own.

use kernel::prelude::*;

/// The number by which C knows a result: 0, or an errno below it.
fn errno(result: Result) -> c_int {
    result.map_or_else(Error::to_errno, |()| 0)
}

/// Whether a test wants something to fail here. May be called from any context.
pub(crate) fn should_fail() -> bool {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    return selftest::registration::should_fail();
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    false
}

pub(crate) mod all_ioas;
pub(crate) mod attach_handle;
pub(crate) mod client;
pub(crate) mod context;
pub(crate) mod device;
pub(crate) mod dirty;
pub(crate) mod dmabuf;
pub(crate) mod domain;
pub(crate) mod driver_objects;
pub(crate) mod eventq;
pub(crate) mod exports;
pub(crate) mod file;
pub(crate) mod group;
pub(crate) mod handlers;
pub(crate) mod ioas_domains;
pub(crate) mod iopf;
pub(crate) mod pages;
pub(crate) mod payer;
pub(crate) mod pgtable;
pub(crate) mod pin;
#[cfg(CONFIG_IOMMUFD_TEST)]
pub(crate) mod selftest;
// Each crate uses its side of it.
#[allow(dead_code)]
#[path = "driver/ffi/shared.rs"]
pub(crate) mod shared;
#[cfg(CONFIG_IOMMUFD_NOIOMMU)]
pub(crate) mod software_table;
pub(crate) mod ucmd;
pub(crate) mod vevent;
pub(crate) mod vfio;
pub(crate) mod xarray;
