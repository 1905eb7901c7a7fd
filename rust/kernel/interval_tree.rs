// SPDX-License-Identifier: GPL-2.0

//! Interval trees: values that are found by ranges of numbers, which may overlap.
//!
//! A value that is put into a [`Tree`] is owned by the [`Linked`] that this returns. The tree only
//! finds it, so an owner that knows where its value is takes it out without a search.
//!
//! C header: [`include/linux/interval_tree.h`](srctree/include/linux/interval_tree.h)
//!
//! # Examples
//!
//! ```
//! use kernel::interval_tree::{Slot, Tree};
//!
//! let mut tree = Tree::new();
//! let low = tree.insert(10, 19, 'a', Slot::new(GFP_KERNEL)?);
//! let high = tree.insert(15, 29, 'b', Slot::new(GFP_KERNEL)?);
//! // Both ends are included, and the one that begins first comes first.
//! let found = |first, last| tree.overlaps(first, last).next().map(|it| *it.value);
//! assert_eq!(found(0, 9), None);
//! assert_eq!(found(0, 15), Some('a'));
//! assert_eq!(found(20, usize::MAX), Some('b'));
//! assert_eq!(tree.overlaps(15, 19).count(), 2);
//!
//! let (value, room) = tree.remove(low).ok().ok_or(EINVAL)?;
//! assert_eq!(value, 'a');
//! // A tree knows its own.
//! let mut other = Tree::new();
//! let again = other.insert(0, 0, 'a', room);
//! let again = tree.remove(again).err().ok_or(EINVAL)?;
//! assert!(other.remove(again).is_ok());
//! assert!(tree.remove(high).is_ok() && tree.is_empty());
//! # Ok::<(), Error>(())
//! ```

use crate::{
    alloc::{
        AllocError,
        Flags, //
    },
    bindings,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull, //
};

/// A value and its place in a tree.
#[repr(C)]
struct Node<V> {
    node: bindings::interval_tree_node,
    value: V,
}

/// Memory for one value, which may be had before anything is locked: of an [`OwningTree`], or as a
/// [`Member`] of a [`Tree`].
pub struct Slot<V>(KBox<MaybeUninit<Node<V>>>);

impl<V> Slot<V> {
    /// Bytes that are allocated for it.
    pub const SIZE: usize = size_of::<Node<V>>();

    /// Allocates it.
    ///
    /// # Errors
    ///
    /// [`AllocError`] when there is no memory.
    #[inline]
    pub fn new(flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(KBox::new_uninit(flags)?))
    }
}

/// A tree of nodes that somebody owns.
///
/// # Invariants
///
/// All nodes are from [`Self::insert`] and were not removed.
struct Root<V> {
    root: Opaque<bindings::rb_root_cached>,
    _values: PhantomData<KBox<V>>,
}

// Nodes do not point to the root, which may move.
impl<V> Unpin for Root<V> {}

// SAFETY: Its values may be reached from another thread when they may be there.
unsafe impl<V: Send> Send for Root<V> {}
// SAFETY: A shared tree gives shared references only.
unsafe impl<V: Sync> Sync for Root<V> {}

impl<V> Root<V> {
    #[inline]
    fn new() -> Self {
        // INVARIANT: It is empty.
        Self {
            root: Opaque::zeroed(),
            _values: PhantomData,
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        // SAFETY: Nobody changes a tree that is borrowed.
        unsafe { (*self.root.get()).rb_root.rb_node.is_null() }
    }

    #[inline]
    fn insert(&mut self, first: usize, last: usize, value: V, slot: Slot<V>) -> NonNull<Node<V>> {
        let node = KBox::write(
            slot.0,
            Node {
                node: bindings::interval_tree_node {
                    start: first,
                    last,
                    ..pin_init::zeroed()
                },
                value,
            },
        );
        let node = NonNull::from(KBox::leak(node));
        // SAFETY: A new node, and a tree that is ours.
        unsafe { bindings::interval_tree_insert(node.as_ptr().cast(), self.root.get()) };
        node
    }

    /// Takes a node out.
    ///
    /// # Safety
    ///
    /// It is in this tree.
    #[inline]
    unsafe fn remove(&mut self, node: NonNull<Node<V>>) -> (V, Slot<V>) {
        let node = node.as_ptr();
        // SAFETY: By the contract of the function.
        unsafe { bindings::interval_tree_remove(node.cast(), self.root.get()) };
        // SAFETY: It was in the tree, so it has a value. Nobody finds it any more, and the memory
        // has no value from here on.
        let value = unsafe { (&raw const (*node).value).read() };
        // SAFETY: By the type invariant it was made of a slot, which nobody has now.
        (value, Slot(unsafe { KBox::from_raw(node.cast()) }))
    }

    #[inline]
    fn overlaps(&self, first: usize, last: usize) -> Nodes<'_, V> {
        Nodes {
            root: self,
            at: None,
            first,
            last,
        }
    }
}

/// Iterates over nodes that have a number in common with a range.
///
/// # Invariants
///
/// `at` is in the tree.
struct Nodes<'a, V> {
    root: &'a Root<V>,
    at: Option<NonNull<Node<V>>>,
    first: usize,
    last: usize,
}

impl<'a, V> Iterator for Nodes<'a, V> {
    type Item = Found<'a, V>;

    #[inline]
    fn next(&mut self) -> Option<Found<'a, V>> {
        let (first, last) = (self.first, self.last);
        let next = match self.at {
            // SAFETY: Nobody changes a tree that is borrowed.
            None => unsafe {
                bindings::interval_tree_iter_first(self.root.root.get(), first, last)
            },
            // SAFETY: Nobody changes a tree that is borrowed; by the type invariant the node is in
            // it.
            Some(at) => unsafe {
                bindings::interval_tree_iter_next(at.as_ptr().cast(), first, last)
            },
        };
        let next = NonNull::new(next)?.cast::<Node<V>>();
        // INVARIANT: It was just found there.
        self.at = Some(next);
        // SAFETY: It is the first field of a node, in a tree that is borrowed for as long.
        let node: &'a Node<V> = unsafe { next.as_ref() };
        Some(Found {
            first: node.node.start,
            last: node.node.last,
            value: &node.value,
        })
    }
}

/// What a tree finds.
pub struct Found<'a, T> {
    /// First number of the range.
    pub first: usize,
    /// Last number of the range.
    pub last: usize,
    /// What was put there.
    pub value: &'a T,
}

/// A value in a [`Tree`], which knows the tree by its number.
pub struct Member<T> {
    tree: u64,
    value: T,
}

/// A value in a tree, until it is taken out. When this is dropped the value is leaked, and stays
/// where it is.
///
/// # Invariants
///
/// Points to a node that this owns and that is in the tree whose number it has, which may be gone.
/// The range of the node does not change.
#[must_use = "the value is leaked when it is not taken out"]
pub struct Linked<T>(NonNull<Node<Member<T>>>);

// SAFETY: It owns the value, which is reached by way of the tree only.
unsafe impl<T: Send> Send for Linked<T> {}
// SAFETY: Nothing but the range can be reached by a shared reference.
unsafe impl<T: Send> Sync for Linked<T> {}

impl<T> Linked<T> {
    /// The first number of its range.
    #[inline]
    pub fn first(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.0.as_ptr()).node.start }
    }

    /// The last number of its range.
    #[inline]
    pub fn last(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { (*self.0.as_ptr()).node.last }
    }
}

/// A tree of values that others own.
///
/// # Invariants
///
/// The tree has nodes of [`Linked`]s with the number `id`, which no other tree has.
pub struct Tree<T> {
    root: Root<Member<T>>,
    id: u64,
}

/// One more than the number of the newest tree. 64 bits do not wrap.
static NEXT: Atomic<u64> = Atomic::new(0);

impl<T> Tree<T> {
    /// An empty tree.
    #[inline]
    pub fn new() -> Self {
        // INVARIANT: It is empty, and the number is new.
        Self {
            root: Root::new(),
            id: NEXT.fetch_add(1, Relaxed),
        }
    }

    /// Whether there is nothing in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Adds a value for the numbers from `first` to `last`, which is not less.
    #[inline]
    pub fn insert(
        &mut self,
        first: usize,
        last: usize,
        value: T,
        slot: Slot<Member<T>>,
    ) -> Linked<T> {
        let tree = self.id;
        // INVARIANT: It is in this tree now.
        Linked(self.root.insert(first, last, Member { tree, value }, slot))
    }

    /// Takes a value out, which gives its memory back, too.
    ///
    /// # Errors
    ///
    /// The value when it is in another tree.
    #[inline]
    pub fn remove(&mut self, linked: Linked<T>) -> Result<(T, Slot<Member<T>>), Linked<T>> {
        // SAFETY: By the type invariant of `Linked`.
        if unsafe { linked.0.as_ref() }.value.tree != self.id {
            return Err(linked);
        }
        // SAFETY: By the numbers it is in this tree.
        let (member, slot) = unsafe { self.root.remove(linked.0) };
        Ok((member.value, slot))
    }

    /// A value of this tree; `None` when it is in another one.
    #[inline]
    pub fn get_mut<'a>(&'a mut self, linked: &'a mut Linked<T>) -> Option<&'a mut T> {
        let node = linked.0.as_ptr();
        // SAFETY: By the type invariant of `Linked`.
        if unsafe { (*node).value.tree } != self.id {
            return None;
        }
        // SAFETY: It is in this tree, all of which is borrowed for writing.
        Some(unsafe { &mut (*node).value.value })
    }

    /// What has a number in common with the range from `first` to `last`, by where it begins.
    #[inline]
    pub fn overlaps(&self, first: usize, last: usize) -> impl Iterator<Item = Found<'_, T>> + '_ {
        self.root.overlaps(first, last).map(|it| Found {
            first: it.first,
            last: it.last,
            value: &it.value.value,
        })
    }
}

/// A tree that owns its values, which are found by their ranges.
///
/// # Examples
///
/// ```
/// use kernel::interval_tree::{OwningTree, Slot};
///
/// let mut tree = OwningTree::new();
/// tree.insert(10, 19, 1, Slot::new(GFP_KERNEL)?);
/// tree.insert(10, 29, 2, Slot::new(GFP_KERNEL)?);
/// // Only what has exactly this range.
/// assert!(tree.get_mut(10, 18).is_none());
/// *tree.get_mut(10, 29).ok_or(EINVAL)? += 1;
/// assert_eq!(tree.remove(10, 29).map(|(value, _)| value), Some(3));
/// assert!(tree.remove(10, 29).is_none());
/// assert_eq!(tree.overlaps(0, 10).count(), 1);
/// // The other one goes with the tree.
/// # Ok::<(), Error>(())
/// ```
///
/// # Invariants
///
/// Nobody else has its nodes.
pub struct OwningTree<T>(Root<T>);

impl<T> OwningTree<T> {
    /// An empty tree.
    #[inline]
    pub fn new() -> Self {
        // INVARIANT: It has none.
        Self(Root::new())
    }

    /// Whether there is nothing in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a value for the numbers from `first` to `last`, which is not less.
    #[inline]
    pub fn insert(&mut self, first: usize, last: usize, value: T, slot: Slot<T>) {
        // INVARIANT: The pointer is forgotten.
        let _ = self.0.insert(first, last, value, slot);
    }

    /// What has a number in common with the range from `first` to `last`, by where it begins.
    #[inline]
    pub fn overlaps(&self, first: usize, last: usize) -> impl Iterator<Item = Found<'_, T>> + '_ {
        self.0.overlaps(first, last)
    }

    /// The first one in a range that `which` wants.
    fn find(
        &self,
        first: usize,
        last: usize,
        which: impl FnMut(&Found<'_, T>) -> bool,
    ) -> Option<NonNull<Node<T>>> {
        let mut all = self.0.overlaps(first, last);
        all.find(which)?;
        all.at
    }

    /// The one of exactly this range, the first one if there are more.
    fn find_exactly(&self, first: usize, last: usize) -> Option<NonNull<Node<T>>> {
        self.find(first, last, |it| it.first == first && it.last == last)
    }

    /// The value of exactly this range, the first one if there are more.
    #[inline]
    pub fn get_mut(&mut self, first: usize, last: usize) -> Option<&mut T> {
        let node = self.find_exactly(first, last)?.as_ptr();
        // SAFETY: It is in this tree, all of which is borrowed for writing.
        Some(unsafe { &mut (*node).value })
    }

    /// What [`Self::overlaps`] says, to be changed.
    #[inline]
    pub fn overlaps_mut(&mut self, first: usize, last: usize) -> OverlapsMut<'_, T> {
        OverlapsMut(self.0.overlaps(first, last))
    }

    /// Takes the value of exactly this range out, which gives its memory back, too.
    #[inline]
    pub fn remove(&mut self, first: usize, last: usize) -> Option<(T, Slot<T>)> {
        let node = self.find_exactly(first, last)?;
        // SAFETY: It was found in this tree.
        Some(unsafe { self.0.remove(node) })
    }

    /// Takes the first value out that `which` wants.
    pub fn remove_if(&mut self, mut which: impl FnMut(&T) -> bool) -> Option<T> {
        let node = self.find(0, usize::MAX, |it| which(it.value))?;
        // SAFETY: It was found in this tree.
        Some(unsafe { self.0.remove(node) }.0)
    }
}

/// Iterates over what [`OwningTree::overlaps_mut`] finds: first and last number, and the value.
pub struct OverlapsMut<'a, T>(Nodes<'a, T>);

impl<'a, T> Iterator for OverlapsMut<'a, T> {
    type Item = (usize, usize, &'a mut T);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Found { first, last, .. } = self.0.next()?;
        let node = self.0.at?.as_ptr();
        // SAFETY: It is in a tree that is borrowed for writing as long, and comes once.
        Some((first, last, unsafe { &mut (*node).value }))
    }
}

impl<T> Default for OwningTree<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for OwningTree<T> {
    fn drop(&mut self) {
        while let Some(Found { first, last, .. }) = self.0.overlaps(0, usize::MAX).next() {
            drop(self.remove(first, last));
        }
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self::new()
    }
}
