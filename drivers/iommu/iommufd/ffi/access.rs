// SPDX-License-Identifier: GPL-2.0-only

//! Accesses: drivers that reach an IOAS's memory with the CPU.
//!
//! An [`Access`] has a mutex that guards which IOAS it is on; it is taken before the page core's
//! locks. While it moves from one to another, new pins are refused and old ones can still be
//! undone: that is a [`Change`]. A [`Map`] is an IOAS whose map is held still for reading.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

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
};
use crate::access;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::{
        offset_of,
        size_of, //
    },
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

/// Whether the CPU will write, `IOMMUFD_ACCESS_RW_WRITE`.
pub(crate) const WRITE: u32 = bindings::IOMMUFD_ACCESS_RW_WRITE;

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
    context: Option<CtxRef>,
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
            // SAFETY: As above; the operations are valid.
            unsafe {
                if (*client.ops).needs_pin_pages() == 0 {
                    (*this).iova_alignment = 1;
                }
                (*this).ictx = ctx.as_raw();
                (*this).ops = client.ops;
                (*this).data = client.data;
                (&raw mut (*this).context).write(Some(CtxRef::new(ctx)));
            }
        };
        // SAFETY: `init` fills in all fields but those that may be zero.
        unsafe { Reserved::new(ctx, init) }
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

/// An access whose mutex is held.
pub(crate) struct Locked<'a> {
    access: &'a Access,
    _guard: Guard<'a, (), MutexBackend>,
}

impl<'a> Locked<'a> {
    /// The IOAS that can be pinned; `None` also while the access moves.
    pub(crate) fn ioas(&self) -> Option<&Ioas> {
        // SAFETY: By the type invariant, under the mutex.
        unsafe { (*self.access.ioas.get()).as_ref() }
    }

    /// The IOAS that pins can be undone in.
    pub(crate) fn unpin_ioas(&self) -> Option<&Ioas> {
        // SAFETY: By the type invariant, under the mutex.
        unsafe { (*self.access.ioas_unpin.get()).as_ref() }
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
            let raw = ptr::from_ref(access).cast_mut().cast();
            // SAFETY: Both are valid. On success it sets `list_id`, which the mutex guards.
            to_result(unsafe { bindings::iopt_add_access(new.iopt().as_raw(), raw) })?;
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
        let raw = ptr::from_ref(access).cast_mut().cast();
        if let Some(old) = self.locked.unpin_ioas() {
            // SAFETY: Both are valid, and it is on that list under that number.
            unsafe { bindings::iopt_remove_access(old.iopt().as_raw(), raw, self.old_list_id) };
            // SAFETY: By the type invariant of `Access` this count belongs to the field, which is
            // written below.
            drop(unsafe { Hold::adopt(old) });
        }
        let new = self
            .new
            .map_or(ptr::null_mut(), |new| new.into_raw().as_ptr());
        // SAFETY: The mutex guards both fields.
        unsafe {
            *access.ioas.get() = new;
            *access.ioas_unpin.get() = new;
        }
    }
}

/// An IOAS whose map does not change.
pub(crate) struct Map<'a>(&'a Ioas);

impl Ioas {
    /// Holds the map still.
    pub(crate) fn read(&self) -> Map<'_> {
        // SAFETY: The semaphore is initialised as long as the IOAS lives.
        unsafe { bindings::down_read(&raw mut (*self.iopt().as_raw()).iova_rwsem) };
        Map(self)
    }
}

impl Map<'_> {
    /// What is mapped from `first` to `last`, both included, as far as there is no hole.
    pub(crate) fn spans(&self, first: usize, last: usize) -> Spans<'_> {
        Spans {
            map: self,
            iter: bindings::iopt_area_contig_iter {
                cur_iova: first,
                last_iova: last,
                area: ptr::null_mut(),
            },
            is_begun: false,
        }
    }
}

impl Drop for Map<'_> {
    fn drop(&mut self) {
        // SAFETY: This value is the proof that it is held.
        unsafe { bindings::up_read(&raw mut (*self.0.iopt().as_raw()).iova_rwsem) };
    }
}

/// Walks what is mapped in a range, one mapping after the other.
pub(crate) struct Spans<'m> {
    map: &'m Map<'m>,
    iter: bindings::iopt_area_contig_iter,
    is_begun: bool,
}

impl<'m> Spans<'m> {
    /// The next one; `None` at the end, or where a hole begins.
    pub(crate) fn next(&mut self) -> Option<Span<'m>> {
        let area = if self.is_begun {
            // SAFETY: The map is held still.
            unsafe { bindings::iopt_area_contig_next(&mut self.iter) }
        } else {
            self.is_begun = true;
            let (first, last) = (self.iter.cur_iova, self.iter.last_iova);
            let iopt = self.map.0.iopt().as_raw();
            // SAFETY: As above.
            unsafe { bindings::iopt_area_contig_init(&mut self.iter, iopt, first, last) }
        };
        Some(Span {
            area: NonNull::new(area)?,
            first: self.iter.cur_iova,
            wanted: self.iter.last_iova,
            _map: PhantomData,
        })
    }

    /// Where the walk is: all before this was walked.
    pub(crate) fn at(&self) -> usize {
        self.iter.cur_iova
    }

    /// Whether it came to the end without a hole.
    pub(crate) fn is_done(&self) -> bool {
        // SAFETY: The map is held still.
        unsafe { self.iter.area.as_ref() }.is_some_and(|area| self.iter.last_iova <= area.node.last)
    }
}

/// The part of one mapping that is in a range.
///
/// # Invariants
///
/// `area` is in a map that is held still, and `first` is in it.
pub(crate) struct Span<'m> {
    area: NonNull<bindings::iopt_area>,
    first: usize,
    wanted: usize,
    _map: PhantomData<&'m Map<'m>>,
}

impl Span<'_> {
    fn area(&self) -> &bindings::iopt_area {
        // SAFETY: By the type invariant; what is read of it does not change meanwhile.
        unsafe { self.area.as_ref() }
    }

    fn last(&self) -> usize {
        self.wanted.min(self.area().node.last)
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.last() - self.first + 1
    }

    /// How far into the memory behind the mapping an address is, in bytes.
    fn byte(&self, iova: usize) -> usize {
        let area = self.area();
        iova - area.node.start + area.page_offset as usize + area.pages_node.start * PAGE_SIZE
    }

    fn indexes(&self) -> (usize, usize) {
        (
            self.byte(self.first) / PAGE_SIZE,
            self.byte(self.last()) / PAGE_SIZE,
        )
    }

    /// Whether the CPU may not touch it, now or ever.
    pub(crate) fn is_locked_away(&self) -> bool {
        self.area().prevent_access()
    }

    /// Whether it is mapped for what `flags` ask for.
    pub(crate) fn allows(&self, flags: u32) -> bool {
        let wanted = if flags & WRITE != 0 {
            bindings::IOMMU_WRITE
        } else {
            bindings::IOMMU_READ
        };
        self.area().iommu_prot as u32 & wanted != 0
    }

    /// Whether it begins and, unless it is the last, ends with a whole page.
    pub(crate) fn is_page_aligned(&self) -> bool {
        let end = self.area().node.last;
        self.byte(self.first) % PAGE_SIZE == 0
            && (self.wanted <= end || self.byte(end) % PAGE_SIZE == PAGE_SIZE - 1)
    }

    /// Pins its pages and hands them out.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EFAULT`: there is no memory behind it; `EINVAL`: that cannot be pinned.
    pub(crate) fn pin(&self, out: &mut PageSlots, flags: u32, lock: bool) -> Result {
        let (first, last) = self.indexes();
        // SAFETY: By the type invariant; whoever made `out` has room for all pages of the range.
        to_result(unsafe {
            bindings::iopt_area_add_access(self.area.as_ptr(), first, last, out.0, flags, lock)
        })?;
        // Null stays null: then only the pin is wanted.
        out.0 = out.0.wrapping_add(last - first + 1);
        Ok(())
    }

    /// Undoes [`Self::pin`] of the same span.
    pub(crate) fn unpin(&self, unlock: bool) {
        let (first, last) = self.indexes();
        // SAFETY: By the type invariant.
        unsafe { bindings::iopt_area_remove_access(self.area.as_ptr(), first, last, unlock) };
    }

    /// Copies between `buffer` and the memory.
    ///
    /// # Errors
    ///
    /// `EFAULT`: there is no memory behind it; `ENOMEM`; `EPERM`: it must not be written.
    pub(crate) fn copy(&self, buffer: &mut Buffer, flags: u32) -> Result {
        let (start, len) = (self.byte(self.first), self.len());
        // SAFETY: By the type invariant; whoever made `buffer` has room for the range.
        to_result(unsafe {
            bindings::iopt_pages_rw_access(self.area().pages, start, buffer.0, len, flags)
        })?;
        buffer.0 = buffer.0.wrapping_byte_add(len);
        Ok(())
    }
}

/// Where a driver wants the pages that it pins; has room for all of them.
pub(crate) struct PageSlots(pub(super) *mut *mut bindings::page);

/// Where a driver wants data from or to; has room for all of it.
pub(crate) struct Buffer(*mut c_void);

/// Calls `f` for each access on an IOAS's list that a driver has, with a loan on it but without
/// locks, in the order of the list.
fn for_each(iopt: *mut bindings::io_pagetable, mut f: impl FnMut(&Access)) {
    // SAFETY: Only the address is taken.
    let list = unsafe { &raw mut (*iopt).access_list };
    let mut index = 0;
    loop {
        // SAFETY: The list is initialised.
        unsafe { bindings::xa_lock(list) };
        // SAFETY: As above.
        let found =
            unsafe { bindings::xa_find(list, &mut index, usize::MAX, bindings::XA_PRESENT) };
        // SAFETY: The list has accesses, which leave it before they are freed.
        let access = unsafe { found.cast::<Access>().as_ref() };
        let loan = access.and_then(|it| Loan::<'_, Access>::new(it.ctx()?, it.object()));
        // SAFETY: It is held.
        unsafe { bindings::xa_unlock(list) };
        if access.is_none() {
            return;
        }
        if let Some(access) = loan {
            f(&access);
        }
        index += 1;
    }
}

fn errno(result: Result) -> c_int {
    result.map_or_else(Error::to_errno, |()| 0)
}

/// Has every driver undo its pins in a range, which is about to be unmapped.
///
/// # Safety
///
/// `iopt` is an IOAS's.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_notify_unmap(
    iopt: *mut bindings::io_pagetable,
    iova: c_ulong,
    length: c_ulong,
) {
    for_each(iopt, |access| access.unmap(iova, length));
}

fn created(access: Result<Hold<Access>>, id: Option<&mut u32>) -> *mut bindings::iommufd_access {
    match access {
        Ok(access) => {
            if let Some(id) = id {
                *id = access.id();
            }
            access.into_raw().as_ptr().cast()
        }
        Err(e) => e.to_ptr(),
    }
}

/// Makes an access of the kernel's own.
///
/// # Safety
///
/// `ictx` is open.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_create_internal(
    ictx: *mut bindings::iommufd_ctx,
) -> *mut bindings::iommufd_access {
    // SAFETY: By the contract of this function.
    created(access::create(unsafe { Ctx::from_raw(ictx) }, None), None)
}

/// Makes an access for a driver; the id of the new object goes to `id`.
///
/// # Safety
///
/// `ictx` is open, `ops` valid until it is destroyed, and `id` may be written.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_create(
    ictx: *mut bindings::iommufd_ctx,
    ops: *const bindings::iommufd_access_ops,
    data: *mut c_void,
    id: *mut u32,
) -> *mut bindings::iommufd_access {
    // SAFETY: By the contract of this function.
    let (ctx, id) = unsafe { (Ctx::from_raw(ictx), &mut *id) };
    // INVARIANT: by the contract of this function.
    created(access::create(ctx, Some(Client { ops, data })), Some(id))
}

/// Destroys an access. Its driver does not use it any more.
///
/// # Safety
///
/// `access` was made by [`iommufd_access_create`], and is not used again.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_destroy(access: *mut bindings::iommufd_access) {
    // SAFETY: By the contract of this function; create gave the caller a hold.
    let access = unsafe { Hold::adopt(&*access.cast::<Access>()) };
    // SAFETY: The access keeps it; a context is not freed before those who call from it return.
    let ctx = unsafe { Ctx::from_raw(access.ictx) };
    kernel::warn_on!(access.destroy(ctx, false).is_err());
}

/// Takes an access off its IOAS.
///
/// # Safety
///
/// `access` is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_detach(access: *mut bindings::iommufd_access) {
    // SAFETY: By the contract of this function.
    access::detach(unsafe { &*access.cast() });
}

/// Puts an access on an IOAS.
///
/// # Safety
///
/// `access` is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_attach(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: By the contract of this function.
    errno(access::attach_id(unsafe { &*access.cast() }, ioas_id))
}

/// Puts an access of the kernel's own on an IOAS.
///
/// # Safety
///
/// `access` is the caller's, who has a count on `ioas`.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_attach_internal(
    access: *mut bindings::iommufd_access,
    ioas: *mut bindings::iommufd_ioas,
) -> c_int {
    // SAFETY: By the contract of this function.
    errno(unsafe { access::attach(&*access.cast(), &*ioas.cast()) })
}

/// Moves an access to another IOAS.
///
/// # Safety
///
/// `access` is the caller's.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_replace(
    access: *mut bindings::iommufd_access,
    ioas_id: u32,
) -> c_int {
    // SAFETY: By the contract of this function.
    errno(access::replace_id(unsafe { &*access.cast() }, ioas_id))
}

/// Undoes a pin.
///
/// # Safety
///
/// `access` is the caller's, who pinned exactly this.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_unpin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
) {
    // SAFETY: By the contract of this function.
    access::unpin(unsafe { &*access.cast() }, iova, length);
}

/// Pins pages and hands them out.
///
/// # Safety
///
/// `access` is the caller's, and `out_pages` has room for all pages of the range.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_pin_pages(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    length: c_ulong,
    out_pages: *mut *mut bindings::page,
    flags: c_uint,
) -> c_int {
    let mut out = PageSlots(out_pages);
    // SAFETY: By the contract of this function.
    errno(access::pin(
        unsafe { &*access.cast() },
        iova,
        length,
        &mut out,
        flags,
    ))
}

/// Reads or writes through an IOAS.
///
/// # Safety
///
/// `access` is the caller's, and `data` has `length` bytes.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_rw(
    access: *mut bindings::iommufd_access,
    iova: c_ulong,
    data: *mut c_void,
    length: usize,
    flags: c_uint,
) -> c_int {
    let mut buffer = Buffer(data);
    // SAFETY: By the contract of this function.
    errno(access::copy(
        unsafe { &*access.cast() },
        iova,
        length,
        &mut buffer,
        flags,
    ))
}

/// Destroys an access.
///
/// # Safety
///
/// `obj` is an access that the caller gives away.
#[export]
pub(crate) unsafe extern "C" fn iommufd_access_destroy_object(obj: *mut bindings::iommufd_object) {
    // SAFETY: By the contract of this function.
    unsafe { obj.cast::<Access>().drop_in_place() };
}
