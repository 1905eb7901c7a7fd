// SPDX-License-Identifier: GPL-2.0-only

//! A reference count that may be zero while somebody still looks at it.
//!
//! C header: [`include/linux/refcount.h`](srctree/include/linux/refcount.h)

use kernel::{
    bindings,
    sync::atomic::{
        Acquire,
        Atomic, //
    },
    time::Jiffies,
    types::Opaque, //
};

/// A `refcount_t` inside an object.
///
/// Every operation is atomic, so a shared reference suffices. Misuse (increment from zero,
/// decrement below it) warns and saturates, as in C.
///
/// It may keep an object, so nobody changes it but [`object`](super), by what a loan or a hold is:
///
/// ```ignore,compile_fail,E0624
/// use crate::{hwpt::Hwpt, object::Head};
///
/// fn misuse(hwpt: &Hwpt) {
///     hwpt.object().users().dec();
/// }
/// ```
#[repr(transparent)]
pub(super) struct Refcount(Opaque<bindings::refcount_t>);

// SAFETY: All operations are atomic.
unsafe impl Sync for Refcount {}

impl Refcount {
    /// Looks at a count of a C structure.
    ///
    /// # Safety
    ///
    /// `ptr` must be an initialised `refcount_t` that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::refcount_t) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// Whether it is zero. If not, what was written before [`Self::set_release`] is seen.
    pub(super) fn is_zero_acquire(&self) -> bool {
        // SAFETY: A `refcount_t` is an atomic integer and nothing else.
        unsafe { Atomic::from_ptr(self.0.get().cast::<i32>()) }.load(Acquire) == 0
    }

    /// Increments unless it is zero; returns whether it did.
    pub(super) fn inc_not_zero(&self) -> bool {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::refcount_inc_not_zero(self.0.get()) }
    }

    /// The same. What was written before [`Self::set_release`] is seen afterwards.
    pub(super) fn inc_not_zero_acquire(&self) -> bool {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::refcount_inc_not_zero_acquire(self.0.get()) }
    }

    /// Increments a count that the caller knows not to be zero.
    pub(super) fn inc(&self) {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::refcount_inc(self.0.get()) }
    }

    /// Decrements a count that somebody else keeps above zero.
    pub(super) fn dec(&self) {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::refcount_dec(self.0.get()) }
    }

    /// Decrements; returns whether that made it zero.
    pub(super) fn dec_and_test(&self) -> bool {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::refcount_dec_and_test(self.0.get()) }
    }

    /// Takes it from one to zero; returns whether it was one. Then what others did before they
    /// gave their counts back is seen.
    pub(super) fn dec_if_one(&self) -> bool {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::iommu_refcount_dec_if_one(self.0.get()) }
    }

    /// Sets a count that nobody else can change now.
    pub(super) fn set(&self, n: i32) {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::refcount_set(self.0.get(), n) }
    }

    /// Sets a count that is zero, after everything that was written before.
    pub(super) fn set_release(&self, n: i32) {
        // SAFETY: `self` is a valid `refcount_t`.
        unsafe { bindings::refcount_set_release(self.0.get(), n) }
    }

    /// Waits until it is zero; returns whether it is. Then what others did before they gave their
    /// counts back is seen.
    pub(super) fn wait_for_zero(&self, timeout: Jiffies) -> bool {
        // SAFETY: `self` is a valid `refcount_t`, and this may sleep.
        unsafe { bindings::iommu_wait_refcount_zero(self.0.get(), timeout) != 0 }
    }

    /// Wakes those who wait in [`Self::wait_for_zero`] for the count that was here.
    ///
    /// Whoever waited may have freed it by now: only the address matters.
    pub(super) fn wake(count: *const Self) {
        // SAFETY: The address is looked for among those that are waited on, and not followed.
        unsafe { bindings::iommu_wake_refcount(count.cast_mut().cast()) }
    }
}
