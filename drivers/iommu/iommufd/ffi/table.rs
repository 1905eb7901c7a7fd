// SPDX-License-Identifier: GPL-2.0-only

//! The object table: ids to objects.
//!
//! An id is free, reserved (a zero entry) or leads to an object. Its spinlock is the innermost
//! lock; it guards changes and what must be decided together with them. Lookups use RCU.
//!
//! C header: [`include/linux/xarray.h`](srctree/include/linux/xarray.h)

use super::object::{
    Object,
    Taken, //
};
use core::ptr;
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

/// An entry that keeps an index without leading anywhere.
pub(super) fn zero_entry() -> *mut c_void {
    ptr::without_provenance_mut(ZERO_ENTRY)
}

/// An xarray of objects that allocates ids from 1.
#[repr(transparent)]
pub(crate) struct Table(Opaque<bindings::xarray>);

// SAFETY: The xarray has a lock of its own, and objects are `Send` and `Sync`.
unsafe impl Sync for Table {}

impl Table {
    /// Initialises an xarray in place.
    ///
    /// # Safety
    ///
    /// `xa` must be valid memory that nobody uses yet.
    pub(super) unsafe fn init(xa: *mut bindings::xarray) {
        // SAFETY: By the caller.
        unsafe {
            bindings::iommu_xa_init_flags(
                xa,
                bindings::XA_FLAGS_ALLOC1 | bindings::XA_FLAGS_ACCOUNT,
            )
        }
    }

    /// # Safety
    ///
    /// `xa` must have been initialised by [`Self::init`], hold objects only, and be valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(xa: *mut bindings::xarray) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*xa.cast() }
    }

    /// Takes the table's lock.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: The xarray is initialised.
        unsafe { bindings::xa_lock(self.0.get()) };
        Locked {
            table: self,
            _context: NotThreadSafe,
        }
    }

    /// Looks an object up; it can be used until the guard goes, or longer with a count on it.
    pub(crate) fn load<'g>(&self, id: u32, _guard: &'g rcu::Guard) -> Option<&'g Object> {
        // SAFETY: The xarray is initialised; it returns null or an object, which is freed after a
        // grace period.
        let raw = unsafe { bindings::xa_load(self.0.get(), id as usize) };
        // SAFETY: As above.
        (!raw.is_null()).then(|| unsafe { Object::from_raw(raw.cast()) })
    }

    /// The first object at `from` or behind it.
    pub(crate) fn next<'g>(&self, from: usize, _guard: &'g rcu::Guard) -> Option<&'g Object> {
        let mut index = from;
        // SAFETY: As in `load`; zero entries are passed over.
        let raw = unsafe {
            bindings::xa_find(self.0.get(), &mut index, usize::MAX, bindings::XA_PRESENT)
        };
        // SAFETY: As in `load`.
        (!raw.is_null()).then(|| unsafe { Object::from_raw(raw.cast()) })
    }

    /// Nothing in it, not even a reserved id.
    pub(crate) fn is_empty(&self) -> bool {
        // SAFETY: A single read.
        unsafe { ptr::read_volatile(&raw const (*self.0.get()).xa_head).is_null() }
    }

    /// Reserves the lowest free id.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(super) fn reserve(&self, id: &mut u32) -> Result {
        let limit = bindings::xa_limit {
            max: i32::MAX as u32,
            min: 0,
        };
        let _locked = self.lock();
        // SAFETY: The lock is held; `__xa_alloc` drops it where it has to sleep.
        to_result(unsafe {
            bindings::__xa_alloc(
                self.0.get(),
                id,
                zero_entry(),
                limit,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })
    }

    /// Puts an object at its reserved id.
    pub(super) fn publish(&self, object: &Object) {
        let _locked = self.lock();
        // A reserved id has its slot, so nothing is allocated and nothing can fail.
        //
        // SAFETY: The lock is held; what is stored is an object.
        let old = unsafe {
            bindings::__xa_store(
                self.0.get(),
                object.id() as usize,
                object.as_raw().cast(),
                0,
            )
        };
        // A zero entry reads as absent.
        kernel::warn_on!(!old.is_null());
    }

    /// Gives a reserved id back.
    pub(super) fn unreserve(&self, id: u32) {
        self.lock().erase(id);
    }

    /// Frees what reserved ids occupy. Only for a table that nobody uses any more.
    pub(super) fn destroy(&self) {
        // SAFETY: The xarray is initialised.
        unsafe { bindings::xa_destroy(self.0.get()) }
    }
}

/// The table with its lock held.
pub(crate) struct Locked<'a> {
    table: &'a Table,
    _context: NotThreadSafe,
}

impl Locked<'_> {
    /// The object at an id, valid while the lock is held.
    pub(crate) fn load(&self, id: u32) -> Option<&Object> {
        // SAFETY: Objects leave the table under its lock, and are freed later.
        let raw = unsafe { bindings::xa_load(self.table.0.get(), id as usize) };
        // SAFETY: As above.
        (!raw.is_null()).then(|| unsafe { Object::from_raw(raw.cast()) })
    }

    /// Takes an object out of the table; with `keep_id` the id stays reserved.
    pub(crate) fn remove(&mut self, taken: &Taken, keep_id: bool) {
        let id = taken.object().id();
        if keep_id {
            // Storing nothing in a table that allocates ids leaves a reserved one; the slot is
            // there, so nothing is allocated.
            //
            // SAFETY: The lock is held.
            unsafe { bindings::__xa_store(self.table.0.get(), id as usize, ptr::null_mut(), 0) };
        } else {
            self.erase(id);
        }
    }

    fn erase(&mut self, id: u32) {
        // SAFETY: The lock is held.
        unsafe { bindings::__xa_erase(self.table.0.get(), id as usize) };
    }

    /// Nothing in it, not even a reserved id.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: This value is the proof that the lock is held.
        unsafe { bindings::xa_unlock(self.table.0.get()) }
    }
}
