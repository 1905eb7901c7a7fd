// SPDX-License-Identifier: GPL-2.0-only

//! The drivers behind accesses, and the list of those that may pin pages of an IOAS.
//!
//! What is behind an address is in [`map`], what C calls in [`exports`].
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

pub(crate) mod exports;
pub(crate) mod map;

use super::xarray::Entries;
use crate::{
    access::Access,
    object::{
        Head,
        Loan, //
    }, //
};
use core::{
    pin::Pin,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// The driver that an access is for.
///
/// # Invariants
///
/// `ops` is valid until the access is destroyed, and its operations may be called with `data`, from
/// any thread.
pub(crate) struct Client {
    ops: NonNull<bindings::iommufd_access_ops>,
    data: *mut c_void,
}

// SAFETY: Its operations may be called from any thread.
unsafe impl Send for Client {}
// SAFETY: Its operations may be called from any thread.
unsafe impl Sync for Client {}

impl Client {
    /// Whether it pins pages, and does not only copy.
    pub(crate) fn needs_pin_pages(&self) -> bool {
        // SAFETY: The table is valid as long as the access.
        unsafe { bindings::iommufd_access_ops::needs_pin_pages_raw(self.ops.as_ptr()) != 0 }
    }

    fn unmap_op(&self) -> Option<unsafe extern "C" fn(*mut c_void, c_ulong, c_ulong)> {
        // SAFETY: The table is valid as long as the access.
        unsafe { self.ops.as_ref() }.unmap
    }

    /// Whether it can be told to undo its pins.
    pub(crate) fn can_unmap(&self) -> bool {
        self.unmap_op().is_some()
    }

    /// Has it undo its pins in a range, if it can be told. Sleeps, and takes the access's mutex.
    pub(crate) fn unmap(&self, iova: usize, length: usize) {
        if let Some(op) = self.unmap_op() {
            // SAFETY: It is the driver's own operation, with the driver's data.
            unsafe { op(self.data, iova, length) };
        }
    }
}

/// The accesses that may pin pages of an IOAS, by numbers.
///
/// # Invariants
///
/// All on it are accesses, which leave it before they are freed.
#[pin_data(PinnedDrop)]
pub(crate) struct AccessList {
    #[pin]
    xa: Opaque<bindings::xarray>,
}

// SAFETY: It has a lock of its own.
unsafe impl Send for AccessList {}
// SAFETY: It has a lock of its own.
unsafe impl Sync for AccessList {}

impl AccessList {
    /// An empty one.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            xa <- Opaque::ffi_init(|xa| {
                // SAFETY: Memory for one, which does not move.
                unsafe { bindings::iommu_xa_init_flags(xa, bindings::XA_FLAGS_ALLOC) }
            }),
        })
    }

    /// Adds an access; returns its number.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when there are 65536.
    pub(crate) fn add(&self, access: &Access) -> Result<u32> {
        let mut id = 0;
        let limit = bindings::xa_limit {
            min: 0,
            max: u16::MAX.into(),
        };
        let entry = ptr::from_ref(access).cast_mut().cast();
        // INVARIANT: It is an access.
        //
        // SAFETY: The array is initialised.
        let done = unsafe {
            bindings::xa_lock(self.xa.get());
            let gfp = bindings::GFP_KERNEL_ACCOUNT;
            let done = bindings::__xa_alloc(self.xa.get(), &mut id, entry, limit, gfp);
            bindings::xa_unlock(self.xa.get());
            done
        };
        to_result(done)?;
        Ok(id)
    }

    /// Takes an access off.
    pub(crate) fn remove(&self, id: u32) {
        // SAFETY: The array is initialised.
        let was = unsafe { bindings::xa_erase(self.xa.get(), id as usize) };
        kernel::warn_on!(was.is_null());
    }

    /// What all of them want mappings to be aligned to, while none comes or goes.
    pub(crate) fn alignment(&self) -> usize {
        // SAFETY: It is initialised, and by the caller does not change.
        let all = unsafe { Entries::of(self.xa.get(), 0) };
        // SAFETY: All on it are accesses, which leave it before they are freed.
        let of = |(_, it): (usize, NonNull<c_void>)| unsafe { it.cast::<Access>().as_ref() };
        all.map(|it| of(it).iova_alignment()).fold(1, usize::max)
    }

    /// Has every driver undo its pins in a range, which is about to be unmapped.
    pub(crate) fn notify_unmap(&self, iova: usize, length: usize) {
        self.for_each(|access| access.unmap(iova, length));
    }

    /// Calls `f` for each that a driver has, with a loan on it but without locks, in the order of
    /// their numbers.
    fn for_each(&self, mut f: impl FnMut(&Access)) {
        let list = self.xa.get();
        // SAFETY: It is initialised.
        let mut accesses = unsafe { Entries::of(list, 0) };
        loop {
            // SAFETY: It is initialised.
            unsafe { bindings::xa_lock(list) };
            let found = accesses.next();
            // SAFETY: By the type invariant, under the lock.
            let access = found.map(|(_, access)| unsafe { access.cast::<Access>().as_ref() });
            let loan = access.and_then(|it| Loan::<'_, Access>::of(it.ctx()?, it.object()));
            // SAFETY: It is held.
            unsafe { bindings::xa_unlock(list) };
            if found.is_none() {
                return;
            }
            if let Some(access) = loan {
                f(&access);
            }
        }
    }
}

#[pinned_drop]
impl PinnedDrop for AccessList {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is initialised, and nobody uses it any more.
        kernel::warn_on!(unsafe { Entries::of(self.xa.get(), 0) }.next().is_some());
        // SAFETY: It is initialised, and nobody uses it any more.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}
