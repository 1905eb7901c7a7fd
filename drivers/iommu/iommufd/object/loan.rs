// SPDX-License-Identifier: GPL-2.0-only

//! Short references: by counts that destroy waits for.

use super::{
    head::{
        Kind,
        Object, //
    },
    refcount::Refcount,
    table::Table, //
};
use crate::ffi::context::Ctx;
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};

/// One count in `wait_cnt`: the object is not freed before it is given back.
///
/// # Invariants
///
/// Owns the count.
pub(super) struct Counted<'a> {
    object: NonNull<Object>,
    _table: PhantomData<&'a Table>,
}

impl Counted<'_> {
    /// Counts, unless the object is not published, or being destroyed.
    pub(super) fn new(object: &Object) -> Option<Self> {
        // INVARIANT: The count was taken just now.
        object.wait_cnt().inc_not_zero_acquire().then(|| Self {
            object: NonNull::from(object),
            _table: PhantomData,
        })
    }

    fn object(&self) -> &Object {
        // SAFETY: The count keeps the object.
        unsafe { self.object.as_ref() }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let count: *const Refcount = self.object().wait_cnt();
        if self.object().wait_cnt().dec_and_test() {
            Refcount::wake(count);
        }
    }
}

/// A reference for the length of an ioctl. Destroy waits for it.
///
/// # Invariants
///
/// Owns one count in `wait_cnt` and one in `users` of an object of kind `T`.
#[must_use]
pub(crate) struct Loan<'a, T: Kind = Object> {
    counted: Counted<'a>,
    _kind: PhantomData<&'a T>,
}

impl<'a, T: Kind> Loan<'a, T> {
    /// Borrows an object that cannot be freed meanwhile; `None` when it is of another kind, or
    /// being destroyed.
    pub(super) fn new(counted: Counted<'a>) -> Option<Self> {
        let object = counted.object();
        if !object.is_a::<T>() {
            return None;
        }
        // After the count that destroy waits for: see [`destroy`](super::destroy) for why.
        if !object.users().inc_not_zero() {
            return None;
        }
        // INVARIANT: Both counts were taken just now.
        Some(Self {
            counted,
            _kind: PhantomData,
        })
    }

    /// Borrows an object of `ctx` that somebody else keeps at the moment, for longer.
    pub(crate) fn of(_ctx: &'a Ctx, object: &Object) -> Option<Self> {
        Self::new(Counted::new(object)?)
    }

    /// Takes a loan over.
    ///
    /// # Safety
    ///
    /// The object must be a `T`, and the loan one that [`Self::leave`] left, once.
    pub(crate) unsafe fn adopt(_ctx: &'a Ctx, object: &Object) -> Self {
        // INVARIANT: By the contract of this function.
        Self {
            counted: Counted {
                object: NonNull::from(object),
                _table: PhantomData,
            },
            _kind: PhantomData,
        }
    }

    /// Leaves the loan to an object that refers to this one, and ends it by [`Self::adopt`].
    pub(crate) fn leave(self) {
        core::mem::forget(self);
    }
}

impl<T: Kind> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The counts keep the object, which is of kind `T`.
        unsafe { &*self.counted.object().as_raw().cast() }
    }
}

impl<T: Kind> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        // Then `counted` goes. In this order: who sees no `wait_cnt` must see no `users` either.
        self.counted.object().users().dec();
    }
}
