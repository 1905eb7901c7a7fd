// SPDX-License-Identifier: GPL-2.0

//! Read-write semaphores: many readers or one writer, all of whom may sleep.
//!
//! A [`RwSem`] has the data that it guards, and gives it out by a [`ReadGuard`] or by a
//! [`WriteGuard`]. One that is in a C structure has none: whoever wraps such a structure gives out
//! what is guarded together with a guard.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)
//!
//! # Examples
//!
//! ```
//! use kernel::{new_rwsem, sync::rwsem::RwSem};
//!
//! let limits = KBox::pin_init(new_rwsem!([1, 2]), GFP_KERNEL)?;
//! limits.write()[1] = 5;
//! let (one, other) = (limits.read(), limits.read());
//! assert_eq!(one[1], other[1]);
//! # Ok::<(), Error>(())
//! ```

use crate::{
    bindings,
    prelude::*,
    str::CStr,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};
use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
    pin::Pin, //
};
use pin_init::{
    pin_data,
    pin_init,
    PinInit, //
};

/// Makes a [`RwSem`] with a lock class of its own, and its name if one is given.
#[macro_export]
macro_rules! new_rwsem {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::sync::rwsem::RwSem::new(
            $inner, $crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}

/// A `struct rw_semaphore` and what it guards. Taking it may sleep.
///
/// # Invariants
///
/// The semaphore is initialised.
#[pin_data]
#[repr(C)]
pub struct RwSem<T = ()> {
    #[pin]
    sem: Opaque<bindings::rw_semaphore>,
    data: UnsafeCell<T>,
}

// SAFETY: It may be moved between threads, with its data, while nobody holds it.
unsafe impl<T: Send> Send for RwSem<T> {}

// SAFETY: Readers on several threads share the data, and a writer has it alone.
unsafe impl<T: Send + Sync> Sync for RwSem<T> {}

impl<T> RwSem<T> {
    /// Makes one that guards `data`.
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: That is what the function is for.
        pin_init!(Self {
            sem <- Opaque::ffi_init(|sem| {
                // SAFETY: `sem` is memory for one that does not move; name and key are static.
                unsafe { bindings::__init_rwsem(sem, name.as_char_ptr(), key.as_ptr()) }
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Shares it with other readers.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: By the type invariant; the guard gives it back.
        unsafe { bindings::down_read(self.sem.get()) };
        ReadGuard(self, NotThreadSafe)
    }

    /// Excludes everybody else.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: By the type invariant; the guard gives it back.
        unsafe { bindings::down_write(self.sem.get()) };
        WriteGuard(self, NotThreadSafe)
    }

    /// Excludes everybody else, as one of any number of semaphores of one class that are taken
    /// under `outer`, which must not be given back before.
    #[inline]
    pub fn write_nested<'a, U>(&'a self, outer: &WriteGuard<'a, U>) -> WriteGuard<'a, T> {
        // SAFETY: By the type invariant of both, and the outer one is held; the guard gives this
        // one back.
        unsafe { bindings::down_write_nest_lock(self.sem.get(), outer.0.sem.get()) };
        WriteGuard(self, NotThreadSafe)
    }

    /// The data, of which the caller is the only user.
    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        self.data.get_mut()
    }
}

impl RwSem {
    /// Looks at a semaphore of a C structure.
    ///
    /// # Safety
    ///
    /// `ptr` must be an initialised semaphore that stays valid for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::rw_semaphore) -> &'a Self {
        // SAFETY: By the caller; the semaphore is all that there is.
        unsafe { &*ptr.cast() }
    }
}

/// A semaphore that is held for reading.
#[must_use = "the semaphore is given back when the guard is unused"]
pub struct ReadGuard<'a, T = ()>(&'a RwSem<T>, NotThreadSafe);

// SAFETY: A shared guard gives shared data only.
unsafe impl<T: Sync> Sync for ReadGuard<'_, T> {}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: It is held, so nobody writes.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This guard holds it.
        unsafe { bindings::up_read(self.0.sem.get()) }
    }
}

/// A semaphore that is held for writing.
#[must_use = "the semaphore is given back when the guard is unused"]
pub struct WriteGuard<'a, T = ()>(&'a RwSem<T>, NotThreadSafe);

// SAFETY: A shared guard gives shared data only.
unsafe impl<T: Sync> Sync for WriteGuard<'_, T> {}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: It is held, so nobody else writes.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: It is held, so nobody else reads or writes.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: This guard holds it.
        unsafe { bindings::up_write(self.0.sem.get()) }
    }
}
