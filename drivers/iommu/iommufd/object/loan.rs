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
    mem::ManuallyDrop,
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

    /// Leaves the loan to an object that refers to this one.
    ///
    /// # Safety
    ///
    /// The object is one of the same context, and is destroyed when this one is about to be.
    pub(crate) unsafe fn keep(self) -> KeptLoan<T> {
        // INVARIANT: Both counts are given away.
        KeptLoan(ManuallyDrop::new(self).whole())
    }

    fn whole(&self) -> NonNull<T> {
        let object = self.counted.object().as_raw();
        // SAFETY: It is where an object is.
        unsafe { NonNull::new_unchecked(object.cast()) }
    }
}

impl<T: Kind> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The counts keep the object, which is of kind `T`.
        unsafe { self.whole().as_ref() }
    }
}

impl<T: Kind> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        // Then `counted` goes. In this order: who sees no `wait_cnt` must see no `users` either.
        self.counted.object().users().dec();
    }
}

/// A loan that an object keeps: the pointer to what is lent, and nothing else.
///
/// # Invariants
///
/// Owns one count in `wait_cnt` and one in `users`.
#[repr(transparent)]
pub(crate) struct KeptLoan<T: Kind>(NonNull<T>);

impl<T: Kind> Deref for KeptLoan<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The counts keep the object.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Kind> Drop for KeptLoan<T> {
    fn drop(&mut self) {
        // INVARIANT: The counts are what this owned.
        drop(Loan::<T> {
            counted: Counted {
                object: NonNull::from(self.object()),
                _table: PhantomData,
            },
            _kind: PhantomData,
        });
    }
}
