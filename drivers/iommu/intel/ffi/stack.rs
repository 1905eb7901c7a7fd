// SPDX-License-Identifier: GPL-2.0-only

//! Values on the stack, of which only those that are there are initialised: to fill the room for
//! forty descriptors takes longer than to make one.

use core::{
    mem::MaybeUninit,
    ops::{
        Deref,
        DerefMut, //
    }, //
};

/// Up to `N` values.
///
/// # Invariants
///
/// `len <= N`; the first `len` items are initialised.
pub(crate) struct Stack<T: Copy, const N: usize> {
    items: [MaybeUninit<T>; N],
    len: usize,
}

impl<T: Copy, const N: usize> Stack<T, N> {
    /// None.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        // INVARIANT: no item is there.
        Self {
            items: [const { MaybeUninit::uninit() }; N],
            len: 0,
        }
    }

    /// Adds one.
    ///
    /// # Errors
    ///
    /// Gives the value back when there is no room.
    #[inline]
    pub(crate) fn push(&mut self, value: T) -> Result<(), T> {
        let Some(slot) = self.items.get_mut(self.len) else {
            return Err(value);
        };
        slot.write(value);
        // INVARIANT: there was a slot, which was written.
        self.len += 1;
        Ok(())
    }

    /// Forgets those behind the first `len`.
    #[inline]
    pub(crate) fn truncate(&mut self, len: usize) {
        // INVARIANT: no more than there were.
        self.len = self.len.min(len);
    }
}

impl<T: Copy, const N: usize> Deref for Stack<T, N> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: By the invariant.
        unsafe { core::slice::from_raw_parts(self.items.as_ptr().cast(), self.len) }
    }
}

impl<T: Copy, const N: usize> DerefMut for Stack<T, N> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: By the invariant.
        unsafe { core::slice::from_raw_parts_mut(self.items.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kernel::macros::kunit_tests(vtd_stack)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let mut stack = Stack::<u64, 24>::new();
        for n in 0..24 {
            assert_eq!(stack.len() as u64, n);
            assert!(stack.push(n) == Ok(()));
        }
        assert!(stack.push(77) == Err(77));
        assert!(stack.iter().copied().eq(0..24));
        stack[3] = 99;
        stack.truncate(25);
        assert_eq!(stack.len(), 24);
        stack.truncate(4);
        assert!(*stack == [0, 1, 2, 99]);
        stack.truncate(0);
        assert!(stack.is_empty());
    }
}
