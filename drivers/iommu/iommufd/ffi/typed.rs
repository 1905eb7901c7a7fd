// SPDX-License-Identifier: GPL-2.0-only

//! Objects by their type: going from a head to the whole object, holding on to one, building one.
//!
//! A [`Hold`] is one count of `users`, kept as a field by the object that depends on it. A
//! [`Reserved`] is a complete object with an id that nobody can look up yet.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    context::Ctx,
    destroy, memory,
    object::{
        Built,
        Kind,
        Object,
        Unpublished, //
    },
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
use kernel::prelude::*;
use pin_init::{
    raw_init,
    PinInit, //
};

/// A structure that begins with an object's head.
///
/// # Safety
///
/// The type is `repr(C)` or `repr(transparent)`, and an [`Object`] lies at offset 0.
pub(crate) unsafe trait Head: Sized {
    /// The head.
    #[inline]
    fn object(&self) -> &Object {
        // SAFETY: By the contract of the trait it lies at offset 0, and lives as long as `self`.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// The number that user space knows it by.
    #[inline]
    fn id(&self) -> u32 {
        self.object().id()
    }
}

// SAFETY: It is the head.
unsafe impl Head for Object {}

/// Implements [`Head`] for a structure whose field at offset 0 does so already.
macro_rules! begins_with_head {
    ($type:ty, $field:ident) => {
        const _: () = {
            assert!(core::mem::offset_of!($type, $field) == 0);
            // The field is a head, or begins with one.
            const fn check(of: &$type) -> &impl $crate::ffi::typed::Head {
                &of.$field
            }
            let _ = check;
        };
        // SAFETY: As was found right above.
        unsafe impl $crate::ffi::typed::Head for $type {}
    };
}
pub(crate) use begins_with_head;

/// Asserts that fields lie where others look for them, by these names, in a structure of theirs.
macro_rules! assert_offsets {
    ($ours:ty as $theirs:ty: $($field:ident $(= $name:ident)?),* $(,)?) => {
        $(const _: () = assert!(
            core::mem::offset_of!($ours, $field)
                == $crate::ffi::typed::assert_offsets!(@of $theirs, $field $($name)?)
        );)*
    };
    (@of $theirs:ty, $field:ident) => { core::mem::offset_of!($theirs, $field) };
    (@of $theirs:ty, $field:ident $name:ident) => { core::mem::offset_of!($theirs, $name) };
}
pub(crate) use assert_offsets;

/// The whole object, if it is of this kind.
#[inline]
pub(crate) fn downcast<T: Kind>(object: &Object) -> Option<&T> {
    // SAFETY: By the contract of `Kind` every object that says so is a `T`.
    object
        .is_a::<T>()
        .then(|| unsafe { &*object.as_raw().cast() })
}

/// A long reference: the object cannot be destroyed while this exists.
///
/// Dropping it wakes nobody, as nobody waits for `users`.
///
/// It is a reference that several threads may have, so it is as mobile as the object is:
///
/// ```ignore,compile_fail,E0277
/// use crate::ffi::{object::Object, typed::{Head, Hold}};
/// use core::cell::Cell;
///
/// #[repr(C)]
/// struct Counting(Object, Cell<u32>);
///
/// // SAFETY: It begins with the head.
/// unsafe impl Head for Counting {}
///
/// fn send(_: impl Send) {}
///
/// fn misuse(hold: Hold<Counting>) {
///     send(hold);
/// }
/// ```
///
/// # Invariants
///
/// This owns one count of `users` of the object.
#[repr(transparent)]
pub(crate) struct Hold<T: Head>(NonNull<T>);

// SAFETY: The count is atomic. Whoever has the hold has a `&T`, and may be the one who drops the
// `T` in the end.
unsafe impl<T: Head + Send + Sync> Send for Hold<T> {}
// SAFETY: Whoever has a reference to the hold has a `&T`, and may take a hold of its own by that.
unsafe impl<T: Head + Send + Sync> Sync for Hold<T> {}

impl<T: Head> Hold<T> {
    /// Holds on to an object on which the caller has a count, or which it keeps in the table.
    pub(crate) fn new(of: &T) -> Self {
        // INVARIANT: this is the count.
        of.object().users().inc();
        Self(NonNull::from(of))
    }

    /// Holds on to an object that is of this kind and not on its way out, of a locked table.
    pub(crate) fn of_found(object: &Object) -> Option<Self>
    where
        T: Kind,
    {
        let of = downcast::<T>(object)?;
        // INVARIANT: this is the count.
        object
            .users()
            .inc_not_zero()
            .then(|| Self(NonNull::from(of)))
    }

    /// Takes over a count that the caller has.
    ///
    /// # Safety
    ///
    /// The caller owns one count of `users`, and gives it away.
    pub(super) unsafe fn adopt(of: &T) -> Self {
        // INVARIANT: by the contract of this function.
        Self(NonNull::from(of))
    }

    /// Gives the count away; [`Self::adopt`] takes it back.
    pub(super) fn into_raw(self) -> NonNull<T> {
        ManuallyDrop::new(self).0
    }

    /// Lets go of it, and destroys the object if nothing else depends on it.
    pub(crate) fn put_and_try_destroy(self, ctx: &Ctx) {
        let this = ManuallyDrop::new(self);
        // `EBUSY` is no error: somebody else depends on it, and will do this again.
        let _ = destroy::put_and_try_destroy(ctx, this.object());
    }

    /// Lets go of it and destroys the object, once its loans have ended. With `keep_id` its id is
    /// not used again.
    ///
    /// # Errors
    ///
    /// `EBUSY`: something else depends on it, which is a bug of the caller's.
    pub(crate) fn destroy(self, ctx: &Ctx, keep_id: bool) -> Result {
        let this = ManuallyDrop::new(self);
        destroy::destroy_held(ctx, this.object(), keep_id)
    }
}

impl Hold<Object> {
    /// Holds on to an object that the caller knows, but has no count on; `None` when it is not in
    /// the table any more.
    pub(crate) fn of_known(ctx: &Ctx, object: &Object) -> Option<Self> {
        let mut locked = ctx.objects().lock();
        locked.slot_of(object)?;
        Some(Self::new(object))
    }
}

impl<T: Head> Deref for Hold<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant it cannot be freed.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Head> Drop for Hold<T> {
    fn drop(&mut self) {
        self.object().users().dec();
    }
}

/// A pointer that drivers follow, and this crate does not.
#[repr(transparent)]
pub(crate) struct Address<T>(NonNull<T>);

// SAFETY: It is not followed.
unsafe impl<T> Send for Address<T> {}
// SAFETY: It is not followed.
unsafe impl<T> Sync for Address<T> {}

impl<T> Address<T> {
    /// Where `of` is.
    pub(crate) fn of(of: &T) -> Self {
        Self(NonNull::from(of))
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
        let raw = memory::alloc(size_of::<T>()).ok_or(ENOMEM)?;
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
            unsafe { memory::free(raw) };
        })?;
        // INVARIANT: It was made just now.
        Ok(Self {
            object,
            _complete: PhantomData,
        })
    }

    pub(super) fn as_ptr(&self) -> *mut T {
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
