// SPDX-License-Identifier: GPL-2.0-only

//! Objects that nobody can find yet.

use super::{
    head::{
        Kind,
        Object, //
    },
    hold::Hold,
    slab,
    table::Table, //
};
use crate::{
    ffi::context::Ctx,
    ioctl::Publish, //
};
use core::{
    marker::PhantomData,
    mem::{
        size_of,
        ManuallyDrop, //
    },
    ops::Deref,
    pin::Pin,
    ptr::NonNull, //
};
use kernel::prelude::*;
use pin_init::{
    raw_init,
    PinInit, //
};

/// An object that is complete but cannot be found. Dropping it undoes it, its id included.
///
/// # Invariants
///
/// `object` is a complete `T` in memory of [`slab`]'s. Only this value and `table` refer to it, and
/// its `wait_cnt` is zero.
#[must_use]
pub(crate) struct Reserved<'a, T: Kind> {
    object: NonNull<T>,
    table: &'a Table,
    _owned: PhantomData<T>,
}

impl<'a, T: Kind> Reserved<'a, T> {
    /// Makes an object by its initialiser, whose head is [`Object::new`], and gives it an id.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    #[inline]
    pub(crate) fn new(ctx: &'a Ctx, init: impl PinInit<T>) -> Result<Self> {
        Self::with_driver_part(ctx, size_of::<T>(), init)
    }

    /// The same with `size` bytes of memory, of which those behind the `T` are zero: a driver's.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    #[inline]
    pub(crate) fn with_driver_part(
        ctx: &'a Ctx,
        size: usize,
        init: impl PinInit<T>,
    ) -> Result<Self> {
        let raw = slab::alloc(size.max(size_of::<T>())).ok_or(ENOMEM)?;
        let object = raw.cast::<T>();
        // SAFETY: It is new memory, with room for a `T`, which does not move, and `size` bytes.
        // Others look at its `wait_cnt` at most, which the initialiser of the head leaves zero.
        unsafe {
            raw_init(object.as_ptr(), init);
            let behind = object.add(1).cast::<u8>();
            behind.write_bytes(0, size.saturating_sub(size_of::<T>()));
        }
        // SAFETY: It is complete, and nobody else knows of it.
        let head = unsafe { object.as_ref() }.object();
        head.set_type(T::TYPE);
        head.users().set(1);
        if let Err(e) = ctx.objects().insert(head) {
            // SAFETY: Nobody else knows of it.
            unsafe {
                object.drop_in_place();
                slab::free(raw);
            }
            return Err(e);
        }
        // INVARIANT: As was found or done above.
        Ok(Self {
            object,
            table: ctx.objects(),
            _owned: PhantomData,
        })
    }

    /// Holds on to it.
    pub(crate) fn hold(&self) -> Hold<T> {
        Hold::counted(self)
    }

    /// The object, to be changed.
    pub(crate) fn as_mut(&mut self) -> Pin<&mut T> {
        // SAFETY: By the type invariant nobody else refers to it, but to `wait_cnt` in its head,
        // which is atomic; it does not move.
        unsafe { Pin::new_unchecked(self.object.as_mut()) }
    }

    /// Lets it be found. From here on anybody may use or destroy it.
    #[inline]
    pub(crate) fn publish(self) {
        ManuallyDrop::new(self).object().wait_cnt().set_release(1);
    }
}

impl<T: Kind> Publish for Reserved<'_, T> {
    #[inline(always)]
    fn publish(self) -> Result {
        Reserved::publish(self);
        Ok(())
    }
}

impl<T: Kind> Deref for Reserved<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: It is a complete `T`, which nobody changes meanwhile.
        unsafe { self.object.as_ref() }
    }
}

impl<T: Kind> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        let raw = self.object.cast();
        // SAFETY: By the type invariant nobody else uses it; it is not used again, but its head.
        unsafe { self.object.drop_in_place() };
        // SAFETY: The memory stays an object's until it is freed below.
        let head = unsafe { Object::from_raw(raw.as_ptr()) };
        self.table.take_back(head);
        // Somebody took a count on what they could not see, and would use it after the free.
        if !kernel::warn_on!(!head.users().dec_and_test()) {
            // SAFETY: Nobody refers to it, by the type invariant.
            unsafe { slab::free(raw) };
        }
    }
}
