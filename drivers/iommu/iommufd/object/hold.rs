// SPDX-License-Identifier: GPL-2.0-only

//! Long references: by counts that destroy is refused for.

use super::{
    destroy,
    head::{
        downcast,
        Head,
        Kind,
        Object, //
    },
    loan::Counted, //
};
use crate::ffi::context::Ctx;
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::prelude::*;

/// A long reference: the object cannot be destroyed while this exists.
///
/// Dropping it wakes nobody, as nobody waits for `users`.
///
/// It is a reference that several threads may have, so it is as mobile as the object is:
///
/// ```ignore,compile_fail,E0277
/// use crate::object::{Head, Hold, Object};
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
    /// Holds on to an object.
    ///
    /// # Errors
    ///
    /// `ENOENT`: it is on its way out, or was never given an id.
    #[inline]
    pub(crate) fn new(of: &T) -> Result<Self> {
        // INVARIANT: this is the count.
        of.object()
            .users()
            .inc_not_zero()
            .then(|| Self(NonNull::from(of)))
            .ok_or(ENOENT)
    }

    /// The same where the caller has a count.
    pub(super) fn counted(of: &T) -> Self {
        // INVARIANT: this is the count.
        of.object().users().inc();
        Self(NonNull::from(of))
    }

    /// Holds on to an object that the caller knows, but has no count on; `None` when it is not in
    /// the table any more.
    pub(crate) fn of_known(ctx: &Ctx, of: &T) -> Option<Self> {
        let mut locked = ctx.objects().lock();
        locked.slot_of(of.object())?;
        Self::new(of).ok()
    }

    /// Holds on to an object that is of this kind and not on its way out, of a locked table.
    pub(crate) fn of_found(object: &Object) -> Option<Self>
    where
        T: Kind,
    {
        Self::new(downcast::<T>(object)?).ok()
    }

    /// Takes over a count that the caller has.
    ///
    /// # Safety
    ///
    /// The caller owns one count of `users`, and gives it away.
    pub(crate) unsafe fn adopt(of: &T) -> Self {
        // INVARIANT: by the contract of this function.
        Self(NonNull::from(of))
    }

    /// Gives the count away; [`Self::adopt`] takes it back.
    pub(crate) fn into_raw(self) -> NonNull<T> {
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
    /// Holds on to an object that the caller knows to be valid; `None` when it is not published
    /// yet or being destroyed.
    ///
    /// One that is still being made has `users`, too, but may be gone at any time, whoever else
    /// counts: when its ioctl fails.
    pub(crate) fn of_published(object: &Object) -> Option<Self> {
        // Zero until it is published. Given back at once: nobody waits for a hold.
        let _counted = Counted::new(object)?;
        Self::of_found(object)
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

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_object)]
mod tests {
    use super::*;

    #[test]
    fn without_an_id_is_not_held() -> Result {
        let object = KBox::pin_init(Object::new(), GFP_KERNEL)?;
        assert!(Hold::new(&*object).is_err());
        assert!(Hold::of_published(&object).is_none());
        Ok(())
    }
}
