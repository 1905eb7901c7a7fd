// SPDX-License-Identifier: GPL-2.0-only

//! The C-facing layer: the only place with `unsafe` and `bindings::`.
//!
//! The rest of the driver is C and shares its structures with this crate. Each is wrapped in a
//! type that gives out what its locks and lifetimes allow. What bindgen cannot see of the
//! driver's headers comes through `vtd_shim.c`.
//!
//! C headers: `drivers/iommu/intel/iommu.h`, `drivers/iommu/intel/pasid.h`.

pub(crate) mod context;
pub(crate) mod device;
pub(crate) mod domain;
pub(crate) mod exports;
pub(crate) mod faults;
mod ops;
pub(crate) mod pgtable;
pub(crate) mod preempt;
#[cfg(CONFIG_INTEL_IOMMU_SVM)]
pub(crate) mod process;
pub(crate) mod stack;
pub(crate) mod steps;
pub(crate) mod table;
pub(crate) mod tags;
pub(crate) mod unit;
pub(crate) mod user;
pub(crate) mod viommu;
pub(crate) mod words;

use core::ptr;

use kernel::{
    prelude::*,
    ModuleMetadata, //
};

/// A result as C has it: 0, or the negative number of the error.
fn errno(result: Result) -> c_int {
    result.map_or_else(|why| why.to_errno(), |()| 0)
}

/// What `#[vtable]` asks for: this driver is always built in.
pub(crate) struct LocalModule;

impl ModuleMetadata for LocalModule {
    const NAME: &'static CStr = c"intel_iommu";

    // SAFETY: Built-in code has a null pointer.
    const THIS_MODULE: ThisModule = unsafe { ThisModule::from_ptr(ptr::null_mut()) };
}
