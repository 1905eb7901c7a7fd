// SPDX-License-Identifier: GPL-2.0-only

//! Fault queues as memory, and groups of page faults as owned values.
//!
//! A group has one owner: the list of what is to be read, the table of what waits for an answer,
//! or the code that moves it from one to the other. Whoever drops it answers it.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::{
    context::Ctx,
    eventq::{
        EventQ,
        Fops,
        NewQueue,
        Ops, //
    },
    handlers::uapi::{
        HwptPgfault,
        PAGE_RESP_INVALID, //
    },
    object::{
        Kind,
        KindId, //
    },
    xarray::Entries, //
};
use core::{
    marker::PhantomData,
    mem::{
        size_of,
        ManuallyDrop, //
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
    interop::list::clist_create,
    prelude::*,
    static_lock_class,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// `struct iommufd_fault`.
#[repr(transparent)]
pub(crate) struct FaultQueue(Opaque<bindings::iommufd_fault>);

// SAFETY: What it is made of has locks.
unsafe impl Sync for FaultQueue {}

// SAFETY: Objects of this kind are made below only, and are `struct iommufd_fault`.
unsafe impl Kind for FaultQueue {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_FAULT);
}

static FOPS: Fops = Fops::new::<FaultQueue>();

impl Ops for FaultQueue {
    const NAME: &'static CStr = c"[iommufd-pgfault]";
    const FOPS: &'static Fops = &FOPS;
    const WRITABLE: bool = true;

    fn read(queue: &EventQ, to: usize, count: usize) -> Result<usize> {
        crate::fault::read(Self::of(queue), to, count)
    }

    fn write(queue: &EventQ, from: usize, count: usize) -> Result<usize> {
        crate::fault::write(Self::of(queue), from, count)
    }
}

impl FaultQueue {
    fn as_raw(&self) -> *mut bindings::iommufd_fault {
        self.0.get()
    }

    /// # Safety
    ///
    /// `ptr` must be a fault queue that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_fault) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// The fault queue whose file's queue this is.
    fn of(queue: &EventQ) -> &Self {
        // SAFETY: `FOPS` are for fault queues only, and the queue is the first field.
        unsafe { Self::from_raw(ptr::from_ref(queue).cast_mut().cast()) }
    }

    pub(crate) fn queue(&self) -> &EventQ {
        // SAFETY: The first field, initialised in `build`.
        unsafe { EventQ::from_raw(&raw mut (*self.as_raw()).common) }
    }

    /// Makes a queue and its file, which are not visible yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENFILE`, `EMFILE`; `EBUSY` when all ids are in use.
    pub(crate) fn build(ctx: &Ctx) -> Result<NewQueue<'_>> {
        let object = ctx.reserve(size_of::<bindings::iommufd_fault>(), Self::ID)?;
        let raw = object.as_raw().cast::<bindings::iommufd_fault>();
        // SAFETY: Zeroed memory of that size, ours alone, which stays where it is.
        unsafe { EventQ::init(&raw mut (*raw).common) };
        // SAFETY: Only the address is taken.
        let response = unsafe { &raw mut (*raw).response };
        // SAFETY: As for the queue.
        unsafe { bindings::iommu_xa_init_flags(response, bindings::XA_FLAGS_ALLOC1) };
        // SAFETY: As for the queue; the name and the class are static.
        unsafe {
            bindings::__mutex_init(
                &raw mut (*raw).mutex,
                c_str!("fault->mutex").as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
        // SAFETY: Initialised just now; there is no file yet, which is fine.
        let queue = unsafe { object.built() };
        // SAFETY: As above.
        let descriptor = unsafe { Self::from_raw(raw) }
            .queue()
            .make_file::<Self>(ctx)?;
        Ok(NewQueue { descriptor, queue })
    }

    /// Serialises reading and answering. May sleep.
    pub(crate) fn lock(&self) -> Responses<'_> {
        // SAFETY: Initialised in `build`; the guard gives it back.
        unsafe { bindings::mutex_lock(&raw mut (*self.as_raw()).mutex) };
        Responses(self, PhantomData)
    }

    /// Appends a group to what is to be read.
    pub(crate) fn push(&self, group: Group) {
        let mut list = self.queue().lock();
        let head = list.list();
        // SAFETY: The list is locked; the group's node is in no list, and the list owns it now.
        unsafe { bindings::list_add_tail(&raw mut (*group.into_raw()).node, head) };
    }

    /// Puts a group back to where it was taken from.
    pub(crate) fn put_back(&self, group: Group) {
        let mut list = self.queue().lock();
        let head = list.list();
        // SAFETY: The list is locked; before the first entry is behind the head. The group's node
        // is in no list, and the list owns it now.
        unsafe { bindings::list_add_tail(&raw mut (*group.into_raw()).node, (*head).next) };
    }

    /// Takes the first group of what is to be read.
    pub(crate) fn pop(&self) -> Option<Group> {
        let mut list = self.queue().lock();
        let node = list.first()?;
        // SAFETY: It is on the list, which is locked.
        unsafe { bindings::iommu_list_del(node) };
        // SAFETY: Entries of this list are groups.
        let group = unsafe { kernel::container_of!(node, bindings::iopf_group, node) };
        // SAFETY: The list owned it until now.
        Some(unsafe { Group::from_raw(group) })
    }

    /// Takes the groups that came by `handle`, or all, out of what is to be read.
    pub(crate) fn pop_all(&self, handle: Option<Handle>) -> Groups {
        let mut taken = Groups(ptr::null_mut());
        let mut list = self.queue().lock();
        let head = list.list();
        // SAFETY: The list is initialised and locked.
        let mut node = unsafe { (*head).next };
        while !ptr::eq(node, head) {
            // SAFETY: Entries of this list are groups.
            let group = unsafe { kernel::container_of!(node, bindings::iopf_group, node) };
            // SAFETY: The list is locked.
            let next = unsafe { (*node).next };
            // SAFETY: The list owns the group.
            if unsafe { came_by(group, handle) } {
                // SAFETY: It is on the list, which is locked.
                unsafe { bindings::iommu_list_del(node) };
                // SAFETY: The list owned it until now.
                taken.push(unsafe { Group::from_raw(group) });
            }
            node = next;
        }
        taken
    }
}

/// Whether a group came by `handle`, if one is given.
///
/// # Safety
///
/// `group` must be valid.
unsafe fn came_by(group: *const bindings::iopf_group, handle: Option<Handle>) -> bool {
    // SAFETY: By the caller. Set before the group was queued, and not changed after.
    let by = unsafe { (*group).attach_handle };
    handle.is_none_or(|handle| ptr::eq(by, handle.0))
}

/// Groups that were taken out, one after the other.
///
/// # Invariants
///
/// Owns the groups whose nodes are chained by `next` from here on, to one without.
pub(crate) struct Groups(*mut bindings::list_head);

impl Groups {
    fn push(&mut self, group: Group) {
        // SAFETY: By the type invariant of the group; only the address is taken.
        let node = unsafe { &raw mut (*group.into_raw()).node };
        // INVARIANT: The group was given away just now.
        // SAFETY: As above; the node is in no list.
        unsafe { (*node).next = self.0 };
        self.0 = node;
    }
}

impl Iterator for Groups {
    type Item = Group;

    fn next(&mut self) -> Option<Group> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: By the type invariant it is the node of a group.
        let group = unsafe { kernel::container_of!(self.0, bindings::iopf_group, node) };
        // SAFETY: By the type invariant.
        self.0 = unsafe { (*self.0).next };
        // SAFETY: By the type invariant, and the chain goes on behind it now.
        Some(unsafe { Group::from_raw(group) })
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        self.for_each(drop);
    }
}

/// One page fault of a group.
#[repr(transparent)]
struct Fault(Opaque<bindings::iopf_fault>);

impl Fault {
    /// What the device asked for.
    fn page(&self) -> &bindings::iommu_fault_page_request {
        // SAFETY: Complete before its group was reported, and not changed after.
        unsafe { &(*self.0.get()).fault.prm }
    }
}

/// An attachment, by which a device's faults find their queue. Only compared.
#[derive(Clone, Copy)]
pub(crate) struct Handle(pub(super) *mut bindings::iommu_attach_handle);

/// The groups that were read and wait for an answer, with the queue's mutex held.
#[must_use]
pub(crate) struct Responses<'a>(&'a FaultQueue, PhantomData<NotThreadSafe>);

impl Responses<'_> {
    fn xa(&self) -> *mut bindings::xarray {
        // SAFETY: Initialised in `build`; only the address is taken.
        unsafe { &raw mut (*self.0.as_raw()).response }
    }

    /// Puts a group there, to wait for its answer under a new cookie.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all cookies are in use. The group comes back then.
    pub(crate) fn insert(&mut self, group: Group) -> Result<Waiting<'_>, (Error, Group)> {
        let limit = bindings::xa_limit {
            max: u32::MAX,
            min: 0,
        };
        let raw = group.into_raw();
        // SAFETY: The table is initialised.
        unsafe { bindings::xa_lock(self.xa()) };
        // SAFETY: The lock is held; the table owns the group if there is room.
        let ret = unsafe {
            bindings::__xa_alloc(
                self.xa(),
                &raw mut (*raw).cookie,
                raw.cast(),
                limit,
                bindings::GFP_KERNEL,
            )
        };
        // SAFETY: The lock is held.
        unsafe { bindings::xa_unlock(self.xa()) };
        // SAFETY: The group was given away above, and is back if there was no room.
        let group = unsafe { Group::from_raw(raw) };
        match to_result(ret) {
            Ok(()) => Ok(Waiting {
                xa: self.xa(),
                group: ManuallyDrop::new(group),
                _table: PhantomData,
            }),
            Err(e) => Err((e, group)),
        }
    }

    /// Takes the group that waits for an answer with this cookie.
    pub(crate) fn take(&mut self, cookie: u32) -> Option<Group> {
        // SAFETY: Entries are groups, which the table owns until they are taken out.
        let group = unsafe { bindings::xa_erase(self.xa(), cookie as usize) };
        // SAFETY: As above.
        (!group.is_null()).then(|| unsafe { Group::from_raw(group.cast()) })
    }

    /// Takes the groups that wait for an answer, or those of them that came by `handle`.
    pub(crate) fn take_all(&mut self, handle: Option<Handle>) -> Groups {
        let mut taken = Groups(ptr::null_mut());
        // SAFETY: The table is initialised, and stays while the queue does.
        for (cookie, group) in unsafe { Entries::of(self.xa(), 0) } {
            // SAFETY: Entries are groups, which the mutex keeps in the table.
            if unsafe { came_by(group.cast().as_ptr(), handle) } {
                self.take(cookie as u32)
                    .into_iter()
                    .for_each(|group| taken.push(group));
            }
        }
        taken
    }
}

impl Drop for Responses<'_> {
    fn drop(&mut self) {
        // SAFETY: This value is the proof that it is held.
        unsafe { bindings::mutex_unlock(&raw mut (*self.0.as_raw()).mutex) }
    }
}

/// A group that waits for its answer, and goes on to when this is dropped.
///
/// # Invariants
///
/// The queue's mutex is held, so that the answer does not come before; the table has the group.
pub(crate) struct Waiting<'a> {
    xa: *mut bindings::xarray,
    group: ManuallyDrop<Group>,
    _table: PhantomData<&'a mut ()>,
}

impl Waiting<'_> {
    /// What user space answers it by.
    pub(crate) fn cookie(&self) -> u32 {
        // SAFETY: By the type invariant of the group; the field was set when it came to the table.
        unsafe { self.group.0.as_ref() }.cookie
    }

    /// Calls `f` with each fault as user space sees it.
    ///
    /// # Errors
    ///
    /// The first of `f`.
    pub(crate) fn each(&self, mut f: impl FnMut(&HwptPgfault) -> Result) -> Result {
        let (group, cookie) = (self.group.0.as_ptr(), self.cookie());
        // SAFETY: By the type invariant of the group; whoever attaches in this crate has such a
        // handle, and frees it after this group was answered under the queue's mutex.
        let handle = unsafe { (*group).attach_handle }.cast::<bindings::iommufd_attach_handle>();
        // SAFETY: As above; the mutex, which is held, keeps it from being led to another device.
        let idev = unsafe { (*handle).idev };
        // SAFETY: A device is not let go of before its attachment leads to another one, or ends.
        let dev_id = unsafe { (*idev).obj.id };
        // SAFETY: By the type invariant nobody else uses the list; its entries are faults.
        let faults =
            unsafe { clist_create!(&raw mut (*group).faults, Fault, bindings::iopf_fault, list) };
        faults.iter().try_for_each(|fault| {
            let page = fault.page();
            f(&HwptPgfault {
                flags: page.flags,
                dev_id,
                pasid: page.pasid,
                grpid: page.grpid,
                perm: page.perm,
                __reserved: 0,
                addr: page.addr,
                length: 0,
                cookie,
            })
        })
    }

    /// Takes it out again; the cookie is free.
    pub(crate) fn take_back(self) -> Group {
        // SAFETY: The table is initialised, and the entry ours as long as the mutex is held.
        unsafe { bindings::xa_erase(self.xa, self.cookie() as usize) };
        ManuallyDrop::into_inner(self.group)
    }
}

/// A group of page faults that is answered as one. Dropping it answers that it was invalid.
///
/// # Invariants
///
/// Owns a group that is in no list and no table.
pub(crate) struct Group(NonNull<bindings::iopf_group>);

impl Group {
    /// # Safety
    ///
    /// `raw` must be a group that the caller owns and gives away.
    pub(super) unsafe fn from_raw(raw: *mut bindings::iopf_group) -> Self {
        // SAFETY: By the caller.
        Self(unsafe { NonNull::new_unchecked(raw) })
    }

    fn into_raw(self) -> *mut bindings::iopf_group {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// How many faults there are.
    pub(crate) fn count(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }.fault_count
    }

    /// Answers the device.
    pub(crate) fn respond(self, code: u32) {
        let raw = self.into_raw();
        // SAFETY: By the type invariant.
        unsafe { bindings::iopf_group_response(raw, code) };
        // SAFETY: By the type invariant; it is not used any more.
        unsafe { bindings::iopf_free_group(raw) };
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; this one is forgotten.
        unsafe { Self::from_raw(self.0.as_ptr()) }.respond(PAGE_RESP_INVALID);
    }
}

/// Releases what a fault queue holds.
///
/// # Safety
///
/// `obj` must be a fault queue that nobody else refers to.
pub(super) unsafe extern "C" fn destroy(obj: *mut bindings::iommufd_object) {
    let raw = obj.cast::<bindings::iommufd_fault>();
    // SAFETY: By the caller.
    crate::fault::answer_all(unsafe { FaultQueue::from_raw(raw) }, None);
    // SAFETY: By the caller; it is empty.
    unsafe { bindings::xa_destroy(&raw mut (*raw).response) };
    // SAFETY: By the caller.
    unsafe { bindings::mutex_destroy(&raw mut (*raw).mutex) };
}

/// Queues a group of faults; the page-request code calls it for domains with a fault queue.
///
/// # Safety
///
/// `group` must be a group whose attachment has a domain of this crate with a fault queue.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fault_iopf_handler(
    group: *mut bindings::iopf_group,
) -> c_int {
    // SAFETY: By the caller.
    let handle = unsafe { (*group).attach_handle };
    // SAFETY: The attachment stays until its faults are answered.
    let domain = unsafe { (*handle).domain };
    // SAFETY: By the caller it is a domain of this crate.
    let hwpt = unsafe { bindings::iommu_domain_hwpt(domain) };
    // SAFETY: The domain's hwpt lives as long as it; the field does not change.
    let fault = unsafe { (*hwpt).fault };
    // SAFETY: By the caller it has a queue, which it holds.
    let fault = unsafe { FaultQueue::from_raw(fault) };
    // SAFETY: By the caller; it is on the list of what came by the attachment.
    unsafe { bindings::iopf_group_dequeue(group) };
    // SAFETY: Dequeued, the group is ours.
    crate::fault::deliver(fault, unsafe { Group::from_raw(group) });
    0
}
