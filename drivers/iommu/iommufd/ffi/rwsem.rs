// SPDX-License-Identifier: GPL-2.0-only

//! Read-write semaphores inside C structures, taken as guards.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)

use core::marker::PhantomData;
use kernel::{
    bindings,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// A `struct rw_semaphore`. Taking it may sleep.
#[repr(transparent)]
pub(crate) struct RwSem(Opaque<bindings::rw_semaphore>);

// SAFETY: A semaphore is made to be shared.
unsafe impl Sync for RwSem {}

impl RwSem {
    /// # Safety
    ///
    /// `ptr` must be an initialised semaphore that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::rw_semaphore) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// Shares it with other readers.
    pub(crate) fn read(&self) -> ReadGuard<'_> {
        // SAFETY: The semaphore is initialised; the guard gives it back.
        unsafe { bindings::down_read(self.0.get()) };
        ReadGuard(self, PhantomData)
    }

    /// Excludes everybody else.
    pub(crate) fn write(&self) -> WriteGuard<'_> {
        // SAFETY: The semaphore is initialised; the guard gives it back.
        unsafe { bindings::down_write(self.0.get()) };
        WriteGuard(self, PhantomData)
    }

    /// Excludes everybody else, as one of several of its class under `_outer`.
    pub(crate) fn write_nested<'a>(&'a self, _outer: &WriteGuard<'_>) -> WriteGuard<'a> {
        // SAFETY: Both are initialised, and the outer one is held; the guard gives this one back.
        unsafe { bindings::iommu_down_write_nest_lock(self.0.get(), _outer.0 .0.get()) };
        WriteGuard(self, PhantomData)
    }
}

/// The semaphore is held for reading.
#[must_use]
pub(crate) struct ReadGuard<'a>(&'a RwSem, PhantomData<NotThreadSafe>);

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: This guard holds it.
        unsafe { bindings::up_read(self.0 .0.get()) }
    }
}

/// The semaphore is held for writing.
#[must_use]
pub(crate) struct WriteGuard<'a>(&'a RwSem, PhantomData<NotThreadSafe>);

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: This guard holds it.
        unsafe { bindings::up_write(self.0 .0.get()) }
    }
}
