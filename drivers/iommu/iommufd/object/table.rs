// SPDX-License-Identifier: GPL-2.0-only

//! The object table: ids to objects.
//!
//! An id is free, not to be used again (a zero entry) or leads to an object. It does from the time
//! when the object is begun, so nothing can fail later; but while an object's `wait_cnt` is zero,
//! because it is not complete yet or about to leave, nobody finds it here.
//!
//! The table's spinlock is the innermost lock; it guards changes and what must be decided together
//! with them. Lookups take no lock.
//!
//! C header: [`include/linux/xarray.h`](srctree/include/linux/xarray.h)

use super::{
    destroy::Taken,
    head::{
        Kind,
        Object, //
    },
    loan::{
        Counted,
        Loan, //
    },
};
use crate::ffi::xarray::Entries;
use core::{
    pin::Pin,
    ptr, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::rcu,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// `XA_ZERO_ENTRY`, an internal entry that reads as absent.
const ZERO_ENTRY: usize = (257 << 2) | 2;

/// `XAS_RESTART`: the walk begins at the top.
const RESTART: usize = 3;

/// An entry that keeps an index without leading anywhere.
fn zero_entry() -> *mut c_void {
    ptr::without_provenance_mut(ZERO_ENTRY)
}

/// `XA_RETRY_ENTRY`, which a walk under RCU finds in a node that is not in use any more.
fn retry_entry() -> *mut c_void {
    ptr::without_provenance_mut((256 << 2) | 2)
}

/// The object that an entry leads to, whether it is to be found or not.
///
/// # Safety
///
/// `entry` must come from a table whose lock the caller holds for `'a`, or from one that it reads
/// under RCU for `'a`.
unsafe fn object_at<'a>(entry: *mut c_void) -> Option<&'a Object> {
    if entry.is_null() || ptr::eq(entry, zero_entry()) {
        return None;
    }
    // SAFETY: All other entries are objects. They leave the table under its lock before they are
    // freed, and their memory stays an object's for a grace period, see [`slab`](super::slab).
    Some(unsafe { Object::from_raw(entry.cast()) })
}

/// An xarray of objects that allocates ids from 1.
#[pin_data(PinnedDrop)]
pub(crate) struct Table {
    #[pin]
    xa: Opaque<bindings::xarray>,
}

// SAFETY: The xarray has a lock of its own, and objects are `Send` and `Sync`.
unsafe impl Sync for Table {}

impl Table {
    /// An empty one.
    pub(crate) fn new() -> impl PinInit<Self> {
        const FLAGS: u32 = bindings::XA_FLAGS_ALLOC1 | bindings::XA_FLAGS_ACCOUNT;
        pin_init!(Self {
            // SAFETY: Memory for one, which does not move.
            xa <- Opaque::ffi_init(|xa| unsafe { bindings::iommu_xa_init_flags(xa, FLAGS) }),
        })
    }

    /// Takes the table's lock.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: The xarray is initialised.
        unsafe { bindings::xa_lock(self.xa.get()) };
        Locked {
            table: self,
            _context: NotThreadSafe,
        }
    }

    /// Looks an object up for a short time; `None` when there is none, or it is of another kind.
    #[inline]
    pub(crate) fn lend<T: Kind>(&self, id: u32) -> Option<Loan<'_, T>> {
        self.count(id).and_then(Loan::new)
    }

    /// Looks an object up and takes a count of what destroy waits for.
    fn count(&self, id: u32) -> Option<Counted<'_>> {
        let _guard = rcu::read_lock();
        loop {
            let mut cursor = self.cursor(id);
            // SAFETY: The xarray is initialised, and RCU keeps its nodes.
            let raw = unsafe { bindings::xas_load(&mut cursor) };
            // The table shrank under the walk, which has to begin again.
            if ptr::eq(raw, retry_entry()) {
                continue;
            }
            // SAFETY: The guard is there as long as what is looked at without a count.
            let counted = Counted::new(unsafe { object_at(raw) }?)?;
            // The memory may have become another object, even another context's, between the two.
            // Now that it is counted it stays what it is.
            //
            // SAFETY: The xarray is initialised, and RCU keeps its nodes still.
            if ptr::eq(unsafe { bindings::iommu_xas_reload(&mut cursor) }, raw) {
                return Some(counted);
            }
        }
    }

    /// Nothing in it, not even an object that is not complete.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: A single read.
        unsafe { ptr::read_volatile(&raw const (*self.xa.get()).xa_head).is_null() }
    }

    /// Gives an object the lowest free id. Its `wait_cnt` is zero.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(super) fn insert(&self, object: &Object) -> Result {
        let limit = bindings::xa_limit {
            max: i32::MAX as u32,
            min: 0,
        };
        // SAFETY: Only the address is taken.
        let id = unsafe { &raw mut (*object.as_raw()).id };
        let _locked = self.lock();
        // SAFETY: The lock is held; `__xa_alloc` drops it where it has to sleep. Nobody else looks
        // at the id of an object that cannot be found.
        to_result(unsafe {
            bindings::__xa_alloc(
                self.xa.get(),
                id,
                object.as_raw().cast(),
                limit,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })
    }

    /// Where an id is looked for, before it was.
    fn cursor(&self, id: u32) -> bindings::xa_state {
        bindings::xa_state {
            xa: self.xa.get(),
            xa_index: id as usize,
            xa_shift: 0,
            xa_sibs: 0,
            xa_offset: 0,
            xa_pad: 0,
            xa_node: ptr::without_provenance_mut(RESTART),
            xa_alloc: ptr::null_mut(),
            xa_update: None,
            xa_lru: ptr::null_mut(),
        }
    }

    /// Takes an object out that could not be found yet.
    pub(super) fn take_back(&self, object: &Object) {
        self.lock().erase(object);
    }
}

#[pinned_drop]
impl PinnedDrop for Table {
    fn drop(self: Pin<&mut Self>) {
        // Ids that are not used again may be left.
        //
        // SAFETY: The xarray is initialised, and nobody uses it any more.
        unsafe { bindings::xa_destroy(self.xa.get()) }
    }
}

/// The table with its lock held.
pub(crate) struct Locked<'a> {
    table: &'a Table,
    _context: NotThreadSafe,
}

impl Locked<'_> {
    /// The first object at `from` or behind it.
    pub(crate) fn next(&self, from: usize) -> Option<&Object> {
        self.iter_from(from).next()
    }

    /// All objects, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Object> {
        self.iter_from(0)
    }

    fn iter_from(&self, from: usize) -> impl Iterator<Item = &Object> {
        // SAFETY: The table is initialised, and outlives what borrows it.
        let entries = unsafe { Entries::of(self.table.xa.get(), from) };
        entries
            // SAFETY: The lock is held as long as `self` is borrowed.
            .filter_map(|(_, entry)| unsafe { object_at(entry.as_ptr()) })
            .filter(|object| object.can_be_found())
    }

    /// Finds an object that may be about to leave.
    pub(super) fn find(&mut self, id: u32) -> Option<Slot<'_>> {
        self.slot(id).filter(|slot| slot.object.can_be_found())
    }

    /// Where an object is that the caller has a count on, or that cannot leave without its lock;
    /// `None` when it left.
    pub(super) fn slot_of(&mut self, object: &Object) -> Option<Slot<'_>> {
        self.slot(object.id())
            .filter(|slot| ptr::eq(slot.object, object))
    }

    fn slot(&mut self, id: u32) -> Option<Slot<'_>> {
        let mut cursor = self.table.cursor(id);
        // SAFETY: The lock is held.
        let raw = unsafe { bindings::xas_load(&mut cursor) };
        // SAFETY: The lock is held as long as the borrow.
        let object = unsafe { object_at(raw) }?;
        Some(Slot { object, cursor })
    }

    /// Takes an object out of the table that nobody may find any more, and that is not freed. Its
    /// id is not used again.
    pub(super) fn forget(&mut self, object: &Object) {
        if let Some(mut slot) = self.slot_of(object) {
            // SAFETY: The lock is held since the cursor was placed; the slot is there, so nothing
            // is allocated.
            unsafe { bindings::xas_store(&mut slot.cursor, zero_entry()) };
        }
    }

    /// Takes an object out of the table, its id included.
    pub(super) fn remove(&mut self, taken: &Taken) {
        self.erase(taken.object());
    }

    fn erase(&mut self, object: &Object) {
        let mut cursor = self.table.cursor(object.id());
        // SAFETY: The lock is held; the slot is there, so nothing is allocated.
        let old = unsafe { bindings::xas_store(&mut cursor, ptr::null_mut()) };
        kernel::warn_on!(!ptr::eq(old, object.as_raw().cast()));
    }

    /// Nothing in it, not even an object that is not complete.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: This value is the proof that the lock is held.
        unsafe { bindings::xa_unlock(self.table.xa.get()) }
    }
}

/// An object in a locked table, and where it lies.
pub(super) struct Slot<'l> {
    object: &'l Object,
    cursor: bindings::xa_state,
}

impl Slot<'_> {
    /// Takes the object for good and out of the table when the caller's is the last count on it;
    /// with `keep_id` its id is not used again.
    #[inline]
    pub(super) fn take(mut self, keep_id: bool) -> Option<Taken> {
        let taken = self.object.take()?;
        let entry = if keep_id {
            zero_entry()
        } else {
            ptr::null_mut()
        };
        // SAFETY: The lock is held since the cursor was placed; the slot is there, so nothing is
        // allocated.
        unsafe { bindings::xas_store(&mut self.cursor, entry) };
        Some(taken)
    }
}
