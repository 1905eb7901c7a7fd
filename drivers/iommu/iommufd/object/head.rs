// SPDX-License-Identifier: GPL-2.0-only

//! The head of every object, and going from it to the whole.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::refcount::Refcount;
use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    bindings,
    types::Opaque, //
};
use pin_init::PinInit;

/// What an object is, `enum iommufd_object_type`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct ObjectType(pub(super) bindings::iommufd_object_type);

impl ObjectType {
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
    /// The head of an object in the making: of no kind, in no table, and not to be found. It has
    /// no counts, so that nobody can hold it, until [`Reserved`](super::Reserved) gives it an id.
    pub(crate) fn new() -> impl PinInit<Self> {
        let init = |head: *mut Self| {
            let raw = head.cast::<bindings::iommufd_object>();
            // SAFETY: By the contract of an initialiser it is memory for a head, of which, if it
            // is `slab`'s, others look at `wait_cnt` alone, which is a count and stays zero.
            unsafe {
                Refcount::from_raw(&raw mut (*raw).wait_cnt).set(0);
                Refcount::from_raw(&raw mut (*raw).users).set(0);
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
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_object) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// The object as C knows it: all of it, not only the head.
    ///
    /// That a reference to the head is all that there is at hand does not matter: where objects
    /// come from their memory is exposed as a whole ([`slab::alloc`](super::slab::alloc)).
    pub(crate) fn as_raw(&self) -> *mut bindings::iommufd_object {
        ptr::with_exposed_provenance_mut(self.0.get().addr())
    }

    /// References of all sorts: the table's own, loans and holds.
    pub(super) fn users(&self) -> &Refcount {
        // SAFETY: By the type invariant; the field is only changed atomically.
        unsafe { Refcount::from_raw(&raw mut (*self.0.get()).users) }
    }

    /// The table's own reference and the loans: what destroy waits for.
    pub(super) fn wait_cnt(&self) -> &Refcount {
        // SAFETY: By the type invariant; the field is only changed atomically.
        unsafe { Refcount::from_raw(&raw mut (*self.0.get()).wait_cnt) }
    }

    pub(crate) fn kind(&self) -> ObjectType {
        // SAFETY: The object is valid, and its type does not change.
        ObjectType(unsafe { (*self.0.get()).type_ })
    }

    /// Whether it is of a kind.
    #[inline]
    pub(super) fn is_a<T: Kind>(&self) -> bool {
        T::TYPE == ObjectType::ANY || self.kind() == T::TYPE
    }

    /// Says what it is, before it is in a table.
    pub(super) fn set_type(&self, to: ObjectType) {
        // SAFETY: The object is valid, and nobody else looks at the type of one that is in no
        // table.
        unsafe { (*self.0.get()).type_ = to.0 };
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
}

/// A type that stands for one kind of object.
///
/// # Safety
///
/// Every object of this type must be a valid `Self`.
pub(crate) unsafe trait Kind: Head {
    /// What it is, or [`ObjectType::ANY`].
    const TYPE: ObjectType;
}

// SAFETY: The head is what all kinds have.
unsafe impl Kind for Object {
    const TYPE: ObjectType = ObjectType::ANY;
}

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
            const fn check(of: &$type) -> &impl $crate::object::Head {
                &of.$field
            }
            let _ = check;
        };
        // SAFETY: As was found right above.
        unsafe impl $crate::object::Head for $type {}
    };
}
pub(crate) use begins_with_head;

/// Asserts that fields lie where others look for them, by these names, in a structure of theirs.
macro_rules! assert_offsets {
    ($ours:ty as $theirs:ty: $($field:ident $(= $name:ident)?),* $(,)?) => {
        $(const _: () = assert!(
            core::mem::offset_of!($ours, $field)
                == $crate::object::assert_offsets!(@of $theirs, $field $($name)?)
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

/// A pointer that keeps nothing.
#[repr(transparent)]
pub(crate) struct Address<T>(NonNull<T>);

// SAFETY: Who follows it vouches for that.
unsafe impl<T: Sync> Send for Address<T> {}
// SAFETY: Who follows it vouches for that.
unsafe impl<T: Sync> Sync for Address<T> {}

impl<T> Address<T> {
    /// Where `of` is.
    pub(crate) fn of(of: &T) -> Self {
        Self(NonNull::from(of))
    }

    /// # Safety
    ///
    /// What is there must be the `T` that was there still, and stay for `'a`.
    pub(crate) unsafe fn follow<'a>(&self) -> &'a T {
        // SAFETY: The `T` is there for `'a`, by the contract of this function.
        unsafe { self.0.as_ref() }
    }
}
