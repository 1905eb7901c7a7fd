// SPDX-License-Identifier: GPL-2.0-only

//! The head of every object, and who may free it.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    context::Ctx,
    count::Count,
    kinds,
    memory,
    table::Table,
    typed::Head, //
};
use crate::ioctl::Publish;
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*,
    types::Opaque, //
};
use pin_init::{
    raw_init,
    PinInit, //
};

/// The kinds of objects, `enum iommufd_object_type`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct KindId(pub(super) bindings::iommufd_object_type);

impl KindId {
    /// Matches every kind in a lookup.
    pub(crate) const ANY: Self = Self(bindings::iommufd_object_type_IOMMUFD_OBJ_ANY);
}

/// `struct iommufd_object`, the head of every object.
///
/// # Invariants
///
/// Valid for at least as long as a count on it is held, or the lock of the table that it is in or
/// that of the tree with its mmap() region.
/// Without either, but in an RCU read-side section that found it in a table, `wait_cnt` alone may
/// be looked at. `type` and `id` do not change once it can be found.
#[repr(transparent)]
pub(crate) struct Object(Opaque<bindings::iommufd_object>);

// SAFETY: What changes after publication is atomic.
unsafe impl Sync for Object {}
// SAFETY: Objects are not bound to a thread.
unsafe impl Send for Object {}

impl Object {
    /// The head of an object in the making: of no kind, in no table, and not to be found.
    pub(crate) fn new() -> impl PinInit<Self> {
        let init = |head: *mut Self| {
            let raw = head.cast::<bindings::iommufd_object>();
            // SAFETY: By the contract of an initialiser it is memory for a head, of which, if it
            // is [`memory`]'s, others look at `wait_cnt` alone, which is a count and stays zero.
            unsafe {
                Count::from_raw(&raw mut (*raw).wait_cnt).set(0);
                Count::from_raw(&raw mut (*raw).users).set(1);
                (*raw).type_ = bindings::iommufd_object_type_IOMMUFD_OBJ_NONE;
                (*raw).id = 0;
            }
            Ok(())
        };
        // SAFETY: All fields are initialised.
        unsafe { pin_init::pin_init_from_closure(init) }
    }

    /// # Safety
    ///
    /// `ptr` must be an object that stays valid for `'a`, by a count, a lock or RCU.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_object) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// The object as C knows it: all of it, not only the head.
    ///
    /// That a reference to the head is all that there is at hand does not matter: where objects
    /// come from their memory is exposed as a whole ([`memory::alloc`]).
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_object {
        ptr::with_exposed_provenance_mut(self.0.get().addr())
    }

    /// References of all sorts: the table's own, loans and holds.
    pub(super) fn users(&self) -> &Count {
        // SAFETY: By the type invariant; the field is only changed atomically.
        unsafe { Count::from_raw(&raw mut (*self.0.get()).users) }
    }

    /// The table's own reference and the loans: what destroy waits for.
    pub(super) fn wait_cnt(&self) -> &Count {
        // SAFETY: By the type invariant; the field is only changed atomically.
        unsafe { Count::from_raw(&raw mut (*self.0.get()).wait_cnt) }
    }

    pub(crate) fn kind(&self) -> KindId {
        // SAFETY: The object is valid, and its type does not change.
        KindId(unsafe { (*self.0.get()).type_ })
    }

    /// Whether it is of a kind.
    #[inline]
    pub(super) fn is_a<T: Kind>(&self) -> bool {
        T::ID == KindId::ANY || self.kind() == T::ID
    }

    pub(crate) fn id(&self) -> u32 {
        // SAFETY: The object is valid, and its id does not change.
        unsafe { (*self.0.get()).id }
    }

    /// Whether the table shows it: from when it is complete until it is about to leave. What was
    /// written before it was complete is seen then.
    pub(super) fn can_be_found(&self) -> bool {
        !self.wait_cnt().is_zero_acquire()
    }

    /// Stops those who may hold the object for long (`pre_destroy` of its kind).
    pub(super) fn pre_destroy(&self) {
        if let Some(op) = kinds::ops(self.kind()).pre_destroy {
            op(self);
        }
    }

    /// Takes the object for good when the caller's is the last count on it.
    ///
    /// Afterwards no lookup can get a count any more: they all start from a count that is not 0.
    pub(super) fn take(&self) -> Option<Taken> {
        // INVARIANT: `users` is 0 from here on.
        self.users()
            .dec_if_one()
            .then(|| Taken(NonNull::from(self)))
    }
}

/// A type that stands for one kind of object.
///
/// # Safety
///
/// Every object of kind `ID` must be a valid `Self`.
pub(crate) unsafe trait Kind: Head {
    /// The kind, or [`KindId::ANY`].
    const ID: KindId;
}

// SAFETY: The head is what all kinds have.
unsafe impl Kind for Object {
    const ID: KindId = KindId::ANY;
}

/// One count in `wait_cnt`: the object is not freed before it is given back.
///
/// # Invariants
///
/// Owns the count.
pub(crate) struct Counted<'a> {
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
        let count: *const Count = self.object().wait_cnt();
        if self.object().wait_cnt().dec_and_test() {
            Count::wake(count);
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
    pub(crate) fn new(counted: Counted<'a>) -> Option<Self> {
        let object = counted.object();
        if !object.is_a::<T>() {
            return None;
        }
        // After the count that destroy waits for: see `super::destroy` for why.
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
    pub(super) unsafe fn adopt(_ctx: &'a Ctx, object: &Object) -> Self {
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
    pub(super) fn leave(self) {
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

/// An object that was published and now belongs to whoever destroys it.
///
/// # Invariants
///
/// `users` is zero, so that only RCU readers which will not get a count can still see it.
///
/// What may be done with it is up to [`destroy`](super::destroy), which waits for loans first:
///
/// ```ignore,compile_fail,E0624
/// use crate::ffi::object::Object;
///
/// fn misuse(object: &Object) {
///     if let Some(taken) = object.take() {
///         taken.destroy();
///     }
/// }
/// ```
#[must_use = "an object that was taken must be destroyed"]
pub(crate) struct Taken(NonNull<Object>);

impl Taken {
    pub(crate) fn object(&self) -> &Object {
        // SAFETY: By the type invariant nobody else frees it.
        unsafe { self.0.as_ref() }
    }

    /// Runs the kind's destroy and frees the memory. There may be no loans any more.
    pub(super) fn destroy(self) {
        let raw = self.object().as_raw();
        // SAFETY: The object is valid, of the kind that the op is for, and ours alone.
        unsafe { (kinds::ops(self.object().kind()).destroy)(raw) };
        // SAFETY: Both counts are zero, and nobody can get one on what left the table.
        unsafe { memory::free(NonNull::new_unchecked(raw)) };
    }
}

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
    pub(super) fn new(table: &'a Table, size: usize, kind: KindId) -> Result<Self> {
        let raw = memory::alloc_zeroed(size).ok_or(ENOMEM)?;
        // SAFETY: There is room for a head, and nobody else knows of it.
        unsafe { raw_init(raw.as_ptr().cast(), Object::new()) };
        // SAFETY: It was made just now, and is in no table.
        unsafe { Self::insert(table, raw, kind) }.inspect_err(|_| {
            // SAFETY: It came from there, and nobody refers to it.
            unsafe { memory::free(raw) }
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
    /// `raw` is [`memory`]'s, begins with a new head, and belongs to the caller, who gives it away.
    pub(super) unsafe fn insert(
        table: &'a Table,
        raw: NonNull<bindings::iommufd_object>,
        kind: KindId,
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
    pub(super) unsafe fn built(self) -> Built<'a> {
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
            unsafe { memory::free(self.raw) };
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
        let ops = kinds::ops(self.kind());
        // SAFETY: The object is valid, of the kind that the op is for, and ours alone.
        unsafe { (ops.abort.unwrap_or(ops.destroy))(self.as_raw()) };
        // SAFETY: It is not used any more.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}
