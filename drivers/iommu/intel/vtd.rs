// SPDX-License-Identifier: GPL-2.0-only

//! VT-d: domains and attaching, PASID and context entries, cache invalidation, nested translation.
//!
//! Decide purely, then act once:
//!
//! | layer | files |
//! |---|---|
//! | words of the hardware | [`caps`], [`pasid_entry`], [`context`], [`invalidate`] |
//! | decisions, no side effects | [`flush_plan`], [`range`], [`gather`] |
//! | the life of an entry, and what is done with it | [`entry`], [`pasid`], [`entries`] |
//! | domains, and attaching to them | [`paging`], [`nested`], `svm`, [`attach`] |
//! | caches of a domain | [`cache`] |
//! | a guest that has a VT-d | [`guest`], [`fault`], [`viommu`] |
//! | the hardware's caches, for tests | [`cache_model`] |
//! | what C sees, and all `unsafe` | [`ffi`] and below |
//!
//! Sections and tables are those of the Intel Virtualization Technology for Directed I/O
//! architecture specification, revision 5.10.
//!
//! # Lock order
//!
//! `intel_iommu::did_lock`; parent domain's `lock` -> its `s1_lock` -> nested domain's `lock` ->
//! `intel_iommu::lock` -> invalidation queue. A domain's `cache_lock` is a leaf: it is held to link
//! and unlink cache tags, never while the hardware answers. Flushes walk the tags under RCU.

mod attach;
mod cache;
#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
mod cache_model;
mod caps;
mod context;
mod entries;
mod entry;
mod fault;
mod ffi;
mod flush_plan;
mod gather;
mod guest;
mod invalidate;
mod nested;
mod paging;
mod pasid;
mod pasid_entry;
mod range;
#[cfg(CONFIG_INTEL_IOMMU_SVM)]
mod svm;
mod viommu;

use ffi::LocalModule;

const __LOG_PREFIX: &[u8] = b"DMAR\0";
