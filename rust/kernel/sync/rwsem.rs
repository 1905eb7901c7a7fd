// SPDX-License-Identifier: GPL-2.0

//! Read-write semaphores that C structures have, taken as guards.
//!
//! A [`RwSem`] is a semaphore which C initialised, and what it guards is up to the C structure that
//! it is in. Whoever wraps such a structure gives out what is guarded together with a [`ReadGuard`]
//! or a [`WriteGuard`].
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)

use crate::{
    bindings,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::marker::PhantomData;

/// A `struct rw_semaphore`. Taking it may sleep.
///
/// # Invariants
///
/// It is initialised.
#[repr(transparent)]
pub struct RwSem(Opaque<bindings::rw_semaphore>);

// SAFETY: A semaphore may be moved between threads while nobody holds it.
unsafe impl Send for RwSem {}

// SAFETY: A semaphore is made to be shared.
unsafe impl Sync for RwSem {}

impl RwSem {
    /// Looks at a semaphore of a C structure.
    ///
    /// # Safety
    ///
    /// `ptr` must be an initialised semaphore that stays valid for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::rw_semaphore) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// Shares it with other readers.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariant; the guard gives it back.
        unsafe { bindings::down_read(self.0.get()) };
        ReadGuard(self, PhantomData)
    }

    /// Excludes everybody else.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_> {
        // SAFETY: By the type invariant; the guard gives it back.
        unsafe { bindings::down_write(self.0.get()) };
        WriteGuard(self, PhantomData)
    }

    /// Excludes everybody else, as one of any number of semaphores of one class that are taken
    /// under `outer`, which must not be given back before.
    #[inline]
    pub fn write_nested<'a>(&'a self, outer: &WriteGuard<'a>) -> WriteGuard<'a> {
        // SAFETY: By the type invariant of both, and the outer one is held; the guard gives this
        // one back.
        unsafe { bindings::down_write_nest_lock(self.0.get(), outer.0 .0.get()) };
        WriteGuard(self, PhantomData)
    }
}

/// A semaphore that is held for reading.
#[must_use = "the semaphore is given back when the guard is unused"]
pub struct ReadGuard<'a>(&'a RwSem, PhantomData<NotThreadSafe>);

// SAFETY: A shared guard can do nothing.
unsafe impl Sync for ReadGuard<'_> {}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This guard holds it.
        unsafe { bindings::up_read(self.0 .0.get()) }
    }
}

/// A semaphore that is held for writing.
#[must_use = "the semaphore is given back when the guard is unused"]
pub struct WriteGuard<'a>(&'a RwSem, PhantomData<NotThreadSafe>);

// SAFETY: A shared guard can do nothing but vouch that the semaphore is held.
unsafe impl Sync for WriteGuard<'_> {}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This guard holds it.
        unsafe { bindings::up_write(self.0 .0.get()) }
    }
}
