// SPDX-License-Identifier: GPL-2.0-only

//! The head of an object, as far as dependencies go.

use core::ptr;
use kernel::{
    bindings,
    types::Opaque, //
};

/// `struct iommufd_object`.
///
/// # Invariants
///
/// The object is initialised, and its kind does not change any more.
#[repr(transparent)]
pub(crate) struct Object(Opaque<bindings::iommufd_object>);

impl Object {
    /// # Safety
    ///
    /// `ptr` must be an object that stays valid for `'a`, with its kind set.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_object) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_object {
        self.0.get()
    }

    /// Whether both are one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        ptr::eq(self, other)
    }

    /// What kind it is of, `enum iommufd_object_type`.
    pub(crate) fn kind(&self) -> u32 {
        // SAFETY: The object is valid, and its kind does not change.
        unsafe { (*self.as_raw()).type_ }
    }

    /// Takes a count, so that user space gets `EBUSY` for destroying it.
    pub(crate) fn hold(&self) {
        // SAFETY: The object is valid, and the caller has a count on it.
        unsafe { bindings::refcount_inc(&raw mut (*self.as_raw()).users) }
    }

    /// Gives such a count back.
    pub(crate) fn release(&self) {
        // SAFETY: By the type invariant; there is another count as long as the object lives.
        unsafe { bindings::refcount_dec(&raw mut (*self.as_raw()).users) }
    }
}
