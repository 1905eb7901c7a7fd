// SPDX-License-Identifier: GPL-2.0-only

//! Accesses: drivers that reach an IOAS's memory with the CPU.
//!
//! An [`Access`] has a mutex that guards which IOAS it is on; it is taken before the page core's
//! locks. While it moves from one to another, new pins are refused and old ones can still be
//! undone: that is a [`Change`]. What is behind an address is in [`map`], what C calls in
//! [`exports`].
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

pub(crate) mod exports;
pub(crate) mod map;

use super::{
    context::Ctx,
    device::CtxRef,
    ioas::Ioas,
    object::{
        Kind,
        KindId,
        Loan,
        Object, //
    },
    typed::{
        Head,
        Hold,
        Reserved, //
    },
    xarray::Entries, //
};
use crate::access;
use core::{
    cell::UnsafeCell,
    mem::{
        offset_of,
        size_of, //
    },
    pin::Pin,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    c_str,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    static_assert,
    static_lock_class,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
    types::Opaque, //
};

/// `struct iommufd_access`.
///
/// # Invariants
///
/// `ioas_unpin` is null or owns a count of `users` of an IOAS whose list this is on under
/// `list_id`. `ioas` is either that, or null while the access moves. The mutex guards all three;
/// the rest does not change once it is published.
#[repr(C)]
pub(crate) struct Access {
    object: Object,
    ictx: *mut bindings::iommufd_ctx,
    ioas: UnsafeCell<*mut Ioas>,
    ioas_unpin: UnsafeCell<*mut Ioas>,
    ioas_lock: Opaque<bindings::mutex>,
    ops: *const bindings::iommufd_access_ops,
    data: *mut c_void,
    iova_alignment: usize,
    list_id: UnsafeCell<u32>,
    // What C does not need to know.
    context: UnsafeCell<Option<CtxRef>>,
}

macro_rules! assert_offsets {
    ($($ours:ident = $theirs:ident),* $(,)?) => {
        $(static_assert!(
            offset_of!(Access, $ours) == offset_of!(bindings::iommufd_access, $theirs)
        );)*
    };
}
assert_offsets!(
    ictx = ictx,
    ioas = ioas,
    ioas_unpin = ioas_unpin,
    ioas_lock = ioas_lock,
    ops = ops,
    data = data,
    iova_alignment = iova_alignment,
    list_id = iopt_access_list_id,
);
static_assert!(size_of::<Access>() >= size_of::<bindings::iommufd_access>());

// SAFETY: What changes after it is published is guarded by the mutex.
unsafe impl Send for Access {}
// SAFETY: As above.
unsafe impl Sync for Access {}
// SAFETY: It begins with the head.
unsafe impl Head for Access {}
// SAFETY: Only `reserve()` makes objects of this kind.
unsafe impl Kind for Access {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_ACCESS);
}

/// The driver that an access is for.
///
/// # Invariants
///
/// `ops` is valid until the access is destroyed, and its operations may be called with `data`.
pub(crate) struct Client {
    ops: *const bindings::iommufd_access_ops,
    data: *mut c_void,
}

impl Access {
    /// Makes one for a driver, or for the kernel itself, whose pins keep memory mapped.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn reserve<'a>(ctx: &'a Ctx, client: Option<Client>) -> Result<Reserved<'a, Self>> {
        let init = |this: *mut Self| {
            // SAFETY: `this` is zeroed memory for an access, and does not move.
            unsafe {
                bindings::__mutex_init(
                    (*this).ioas_lock.get(),
                    c_str!("iommufd_access").as_char_ptr(),
                    static_lock_class!().as_ptr(),
                )
            };
            // SAFETY: As above.
            unsafe { (*this).iova_alignment = PAGE_SIZE };
            let Some(client) = client else { return };
            // SAFETY: By the type invariant of `Client`.
            if unsafe { bindings::iommufd_access_ops::needs_pin_pages_raw(client.ops) } == 0 {
                // SAFETY: As for the mutex.
                unsafe { (*this).iova_alignment = 1 };
            }
            // SAFETY: As for the mutex.
            unsafe { (*this).ictx = ctx.as_raw() };
            // SAFETY: As for the mutex.
            unsafe { (*this).ops = client.ops };
            // SAFETY: As for the mutex.
            unsafe { (*this).data = client.data };
            let context = UnsafeCell::new(Some(CtxRef::new(ctx)));
            // SAFETY: As for the mutex.
            unsafe { (&raw mut (*this).context).write(context) };
        };
        // SAFETY: `init` fills in all fields but those that may be zero.
        unsafe { Reserved::new(ctx, init) }
    }

    /// Takes its reference to the context over.
    ///
    /// # Safety
    ///
    /// Only for who destroys an access.
    unsafe fn take_context(&self) -> Option<CtxRef> {
        // SAFETY: By the caller nobody else looks at the field.
        unsafe { (*self.context.get()).take() }
    }

    /// The context, which the kernel's own accesses do not keep.
    pub(crate) fn ctx(&self) -> Option<&Ctx> {
        // SAFETY: By the type invariant a context that is named is kept.
        (!self.ictx.is_null()).then(|| unsafe { Ctx::from_raw(self.ictx) })
    }

    /// Whether it is the kernel's own.
    pub(crate) fn is_internal(&self) -> bool {
        self.ictx.is_null()
    }

    /// Whether its driver said that it would pin pages, and can be told to stop.
    pub(crate) fn may_pin(&self) -> bool {
        self.iova_alignment == PAGE_SIZE && (self.is_internal() || self.unmap_op().is_some())
    }

    fn unmap_op(&self) -> Option<unsafe extern "C" fn(*mut c_void, c_ulong, c_ulong)> {
        // SAFETY: By the type invariant of `Client`.
        unsafe { self.ops.as_ref() }?.unmap
    }

    /// Has the driver undo its pins in a range, if it can be told.
    pub(crate) fn unmap(&self, iova: usize, length: usize) {
        if let Some(op) = self.unmap_op() {
            // SAFETY: By the type invariant of `Client`.
            unsafe { op(self.data, iova, length) };
        }
    }

    /// Takes the mutex.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: It is initialised as long as the access lives.
        let mutex = unsafe { Mutex::<()>::from_raw(self.ioas_lock.get()) };
        Locked {
            access: self,
            _guard: mutex.lock(),
        }
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        access::leave(self);
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
// SAFETY: As above.
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
        // SAFETY: By the type invariant.
        let of = |(_, it): (usize, NonNull<c_void>)| unsafe { it.cast::<Access>().as_ref() };
        all.map(|it| of(it).iova_alignment).fold(1, usize::max)
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
        // SAFETY: As above.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}

/// An access whose mutex is held.
pub(crate) struct Locked<'a> {
    access: &'a Access,
    _guard: Guard<'a, (), MutexBackend>,
}

impl<'a> Locked<'a> {
    /// The IOAS that can be pinned; `None` also while the access moves.
    pub(crate) fn ioas(&self) -> Option<&Ioas> {
        // SAFETY: The mutex guards the field.
        let ioas = unsafe { *self.access.ioas.get() };
        // SAFETY: By the type invariant, under the mutex.
        unsafe { ioas.as_ref() }
    }

    /// The IOAS that pins can be undone in.
    pub(crate) fn unpin_ioas(&self) -> Option<&Ioas> {
        // SAFETY: The mutex guards the field.
        let ioas = unsafe { *self.access.ioas_unpin.get() };
        // SAFETY: By the type invariant, under the mutex.
        unsafe { ioas.as_ref() }
    }

    /// Begins to move to another IOAS, or to none: puts the access on the new one's list, and
    /// refuses new pins from here on.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: something is mapped that is not aligned well enough; `ENOMEM`. Nothing has
    /// changed then.
    pub(crate) fn begin(self, new: Option<&Ioas>) -> Result<Change<'a>> {
        let access = self.access;
        // SAFETY: The mutex guards the field.
        let old_list_id = unsafe { *access.list_id.get() };
        if let Some(new) = new {
            let id = new.iopt().add_access(|list| list.add(access))?;
            // SAFETY: The mutex guards the field.
            unsafe { *access.list_id.get() = id };
        }
        // SAFETY: The mutex guards the field.
        unsafe { *access.ioas.get() = ptr::null_mut() };
        Ok(Change {
            locked: self,
            new: new.map(Hold::new),
            old_list_id,
        })
    }
}

/// An access on its way from one IOAS to another, and on the lists of both.
#[must_use = "it has to arrive"]
pub(crate) struct Change<'a> {
    locked: Locked<'a>,
    new: Option<Hold<Ioas>>,
    old_list_id: u32,
}

impl<'a> Change<'a> {
    /// Has the driver undo all its pins, which needs the mutex.
    pub(crate) fn drain(self) -> Self {
        let access = self.locked.access;
        if access.is_internal() || access.unmap_op().is_none() {
            return self;
        }
        let Self {
            locked,
            new,
            old_list_id,
        } = self;
        drop(locked);
        access.unmap(0, usize::MAX);
        Self {
            locked: access.lock(),
            new,
            old_list_id,
        }
    }

    /// Arrives: leaves the list of the old IOAS, and lets go of it.
    pub(crate) fn finish(self) {
        let access = self.locked.access;
        if let Some(old) = self.locked.unpin_ioas() {
            old.iopt().remove_access(self.old_list_id);
            // SAFETY: By the type invariant of `Access` this count belongs to the field, which is
            // written below.
            drop(unsafe { Hold::adopt(old) });
        }
        let new = self
            .new
            .map_or(ptr::null_mut(), |new| new.into_raw().as_ptr());
        // SAFETY: The mutex guards the field.
        unsafe { *access.ioas.get() = new };
        // SAFETY: As above.
        unsafe { *access.ioas_unpin.get() = new };
    }
}
