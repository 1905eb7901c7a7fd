// SPDX-License-Identifier: GPL-2.0-only

//! Objects that nobody can find yet.

use super::{
    head::{
        Kind,
        Object,
        ObjectType, //
    },
    ops,
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
    ptr::NonNull, //
};
use kernel::{
    bindings,
    prelude::*, //
};
use pin_init::{
    raw_init,
    PinInit, //
};

/// An object with an id that nobody can find yet. Dropping it frees both.
///
/// # Invariants
///
/// Only this value and `table` refer to the object, whose `wait_cnt` is zero.
pub(crate) struct Unpublished<'a> {
    raw: NonNull<bindings::iommufd_object>,
    table: &'a Table,
    _owned: PhantomData<Object>,
}

impl<'a> Unpublished<'a> {
    /// Allocates `size` zeroed bytes that start with an object's head, which gets an id.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn new(ctx: &'a Ctx, size: usize, kind: ObjectType) -> Result<Self> {
        let table = ctx.objects();
        let raw = slab::alloc_zeroed(size).ok_or(ENOMEM)?;
        // SAFETY: There is room for a head, and nobody else knows of it.
        unsafe { raw_init(raw.as_ptr().cast(), Object::new()) };
        // SAFETY: It was made just now, and is in no table.
        unsafe { Self::insert(table, raw, kind) }.inspect_err(|_| {
            // SAFETY: It came from there, and nobody refers to it.
            unsafe { slab::free(raw) }
        })
    }

    /// Gives an object its kind and an id.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use. The object is the caller's again then.
    ///
    /// # Safety
    ///
    /// `raw` is [`slab`]'s, begins with a new head, and belongs to the caller, who gives it away.
    unsafe fn insert(
        table: &'a Table,
        raw: NonNull<bindings::iommufd_object>,
        kind: ObjectType,
    ) -> Result<Self> {
        // SAFETY: By the caller nobody looks at the type of an object that is in no table.
        unsafe { (*raw.as_ptr()).type_ = kind.0 };
        // SAFETY: By the caller it is an object.
        table.insert(unsafe { Object::from_raw(raw.as_ptr()) })?;
        // INVARIANT: By the caller, and as the table refers to it now.
        Ok(Self {
            raw,
            table,
            _owned: PhantomData,
        })
    }

    /// Says that the object is complete: from here on its kind's operations work on it.
    ///
    /// # Safety
    ///
    /// Everything that the kind's abort or destroy looks at must be initialised.
    pub(crate) unsafe fn built(self) -> Built<'a> {
        Built(ManuallyDrop::new(self))
    }
}

impl Deref for Unpublished<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        // SAFETY: Only this refers to the object, and is there as long as the reference.
        unsafe { Object::from_raw(self.raw.as_ptr()) }
    }
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        self.table.take_back(self);
        // Somebody took a count on what they could not see, and would use it after the free.
        if !kernel::warn_on!(!self.users().dec_and_test()) {
            // SAFETY: Nobody refers to it, see the type invariant.
            unsafe { slab::free(self.raw) };
        }
    }
}

/// A complete object that nobody can find yet. Dropping it undoes and frees it.
///
/// # Invariants
///
/// The operations of its kind work on the object.
#[must_use]
pub(crate) struct Built<'a>(ManuallyDrop<Unpublished<'a>>);

impl<'a> Built<'a> {
    /// Lets it be found; from here on anybody may use or destroy it. Cannot fail.
    #[inline]
    pub(crate) fn publish(self) {
        ManuallyDrop::new(self).wait_cnt().set_release(1);
    }
}

impl Publish for Built<'_> {
    #[inline(always)]
    fn publish(self) -> Result {
        Built::publish(self);
        Ok(())
    }
}

impl Deref for Built<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.0
    }
}

impl Drop for Built<'_> {
    fn drop(&mut self) {
        let ops = ops::of(self.kind());
        // SAFETY: The object is valid, of the kind that the op is for, and ours alone.
        unsafe { (ops.abort.unwrap_or(ops.destroy))(self.as_raw()) };
        // SAFETY: It is not used any more.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

/// An object that is complete but cannot be found. Dropping it undoes it, its id included.
///
/// # Invariants
///
/// The memory is a complete `T`, and nobody else uses it.
pub(crate) struct Reserved<'a, T: Kind> {
    object: Built<'a>,
    _complete: PhantomData<T>,
}

impl<'a, T: Kind> Reserved<'a, T> {
    /// Makes an object by its initialiser, whose head is [`Object::new`], and gives it an id.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn new(ctx: &'a Ctx, init: impl PinInit<T>) -> Result<Self> {
        let raw = slab::alloc(size_of::<T>()).ok_or(ENOMEM)?;
        // SAFETY: There is room for a `T`, which does not move; others look at its `wait_cnt` at
        // most, which the initialiser of the head leaves zero.
        unsafe { raw_init(raw.as_ptr().cast::<T>(), init) };
        // SAFETY: It is new, and its head is, too.
        let object = unsafe { Unpublished::insert(ctx.objects(), raw, T::ID) };
        // SAFETY: It is complete, and this is what the operations of its kind expect.
        let object = object.map(|object| unsafe { object.built() });
        let object = object.inspect_err(|_| {
            // SAFETY: Nobody else knows of it.
            unsafe { raw.cast::<T>().drop_in_place() };
            // SAFETY: As above; it is not used again.
            unsafe { slab::free(raw) };
        })?;
        // INVARIANT: It was made just now.
        Ok(Self {
            object,
            _complete: PhantomData,
        })
    }

    fn as_ptr(&self) -> *mut T {
        self.object.as_raw().cast()
    }

    /// Lets it be found. From here on anybody may use or destroy it.
    pub(crate) fn publish(self) {
        self.object.publish();
    }
}

impl<T: Kind> Deref for Reserved<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The memory is a complete `T`, and nobody writes to it.
        unsafe { &*self.as_ptr() }
    }
}
