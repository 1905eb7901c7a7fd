// SPDX-License-Identifier: GPL-2.0-only

//! Groups of page faults as owned values.
//!
//! A group has one owner: the list of what is to be read, the table of what waits for an answer,
//! or the code that moves it from one to the other. Whoever drops it answers it.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::{
    handlers::uapi::{
        HwptPgfault,
        PAGE_RESP_INVALID, //
    },
    xarray::Entries, //
};
use crate::hwpt::Hwpt;
use core::{
    mem::ManuallyDrop,
    pin::Pin,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::to_result,
    interop::list::{
        clist_create,
        CListHead, //
    },
    prelude::*,
    types::Opaque, //
};

/// Groups in a list.
///
/// # Invariants
///
/// Owns the groups whose nodes are on it.
#[pin_data(PinnedDrop)]
pub(crate) struct GroupList {
    #[pin]
    head: CListHead,
}

impl GroupList {
    /// An empty one.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            head <- CListHead::new(),
        })
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        !self.head.is_linked()
    }

    /// Puts a group before the node `next`.
    ///
    /// # Safety
    ///
    /// `next` is on the list, or its head.
    unsafe fn insert(self: Pin<&mut Self>, group: Group, next: *mut bindings::list_head) {
        // INVARIANT: The list owns it now.
        //
        // SAFETY: By the caller; the group's node is in no list.
        unsafe { bindings::list_add_tail(&raw mut (*group.into_raw()).node, next) };
    }

    /// Appends a group.
    pub(crate) fn push_back(self: Pin<&mut Self>, group: Group) {
        let head = self.head.as_raw();
        // SAFETY: It is the head.
        unsafe { self.insert(group, head) };
    }

    /// Puts a group before all others.
    pub(crate) fn push_front(self: Pin<&mut Self>, group: Group) {
        let first = self.head.next().as_raw();
        // SAFETY: It is the first one, or the head.
        unsafe { self.insert(group, first) };
    }

    /// Takes the group of a node out.
    ///
    /// # Safety
    ///
    /// `node` is on the list.
    unsafe fn remove(self: Pin<&mut Self>, node: *mut bindings::list_head) -> Group {
        // SAFETY: By the caller, and by the type invariant it is the node of a group, which the
        // list owns until here.
        unsafe {
            bindings::iommu_list_del(node);
            Group::from_raw(kernel::container_of!(node, bindings::iopf_group, node))
        }
    }

    /// Takes the first group.
    pub(crate) fn pop_front(self: Pin<&mut Self>) -> Option<Group> {
        let first = self.head.next().as_raw();
        // SAFETY: It is on the list, unless that is empty.
        (!self.is_empty()).then(|| unsafe { self.remove(first) })
    }

    /// Takes the groups that came by `handle`, or all.
    pub(crate) fn take_all(mut self: Pin<&mut Self>, handle: Option<Handle>) -> Groups {
        let mut taken = Groups(ptr::null_mut());
        let head = self.head.as_raw();
        let mut node = self.head.next().as_raw();
        while !ptr::eq(node, head) {
            // SAFETY: By the type invariant it is the node of a group.
            let (next, came_by) = unsafe {
                let group = kernel::container_of!(node, bindings::iopf_group, node);
                ((*node).next, came_by(group, handle))
            };
            if came_by {
                // SAFETY: It is on the list.
                taken.push(unsafe { self.as_mut().remove(node) });
            }
            node = next;
        }
        taken
    }
}

#[pinned_drop]
impl PinnedDrop for GroupList {
    fn drop(self: Pin<&mut Self>) {
        drop(self.take_all(None));
    }
}

// SAFETY: Groups are not bound to a thread.
unsafe impl Send for GroupList {}

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
        // SAFETY: It is the node of a group that this owns.
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

/// The groups that were read and wait for an answer, by their cookies.
///
/// # Invariants
///
/// Owns the groups in it.
#[pin_data(PinnedDrop)]
pub(crate) struct Responses {
    #[pin]
    xa: Opaque<bindings::xarray>,
}

// SAFETY: Groups are not bound to a thread.
unsafe impl Send for Responses {}

impl Responses {
    /// None.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            xa <- Opaque::ffi_init(|xa| {
                // SAFETY: Memory for one, which does not move.
                unsafe { bindings::iommu_xa_init_flags(xa, bindings::XA_FLAGS_ALLOC1) }
            }),
        })
    }

    /// Puts a group there, to wait for its answer under a new cookie.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all cookies are in use. The group comes back then.
    pub(crate) fn insert(
        self: Pin<&mut Self>,
        group: Group,
    ) -> Result<Waiting<'_>, (Error, Group)> {
        let limit = bindings::xa_limit {
            max: u32::MAX,
            min: 0,
        };
        let (xa, raw) = (self.xa.get(), group.into_raw());
        // SAFETY: The table is initialised; it owns the group if there is room.
        let ret = unsafe {
            bindings::xa_lock(xa);
            let cookie = &raw mut (*raw).cookie;
            let ret = bindings::__xa_alloc(xa, cookie, raw.cast(), limit, bindings::GFP_KERNEL);
            bindings::xa_unlock(xa);
            ret
        };
        // SAFETY: The group was given away above, and is back if there was no room.
        let group = unsafe { Group::from_raw(raw) };
        match to_result(ret) {
            Ok(()) => Ok(Waiting {
                responses: self,
                group: ManuallyDrop::new(group),
            }),
            Err(e) => Err((e, group)),
        }
    }

    /// Takes the group that waits for an answer with this cookie.
    pub(crate) fn take(self: Pin<&mut Self>, cookie: u32) -> Option<Group> {
        // SAFETY: The table is initialised.
        let group = unsafe { bindings::xa_erase(self.xa.get(), cookie as usize) };
        // SAFETY: By the type invariant it is a group, which the table owned until here.
        (!group.is_null()).then(|| unsafe { Group::from_raw(group.cast()) })
    }

    /// Takes the groups that wait for an answer, or those of them that came by `handle`.
    pub(crate) fn take_all(mut self: Pin<&mut Self>, handle: Option<Handle>) -> Groups {
        let mut taken = Groups(ptr::null_mut());
        // SAFETY: The table is initialised, and stays.
        for (cookie, group) in unsafe { Entries::of(self.xa.get(), 0) } {
            // SAFETY: By the type invariant it is a group, which nobody else takes meanwhile.
            if unsafe { came_by(group.cast().as_ptr(), handle) } {
                let group = self.as_mut().take(cookie as u32);
                group.into_iter().for_each(|group| taken.push(group));
            }
        }
        taken
    }
}

#[pinned_drop]
impl PinnedDrop for Responses {
    fn drop(mut self: Pin<&mut Self>) {
        drop(self.as_mut().take_all(None));
        // SAFETY: It is initialised, and nobody uses it any more.
        unsafe { bindings::xa_destroy(self.xa.get()) };
    }
}

/// A group that waits for its answer, and goes on to when this is dropped. The answer does not come
/// before: that would take [`Responses`] for itself, too.
///
/// # Invariants
///
/// The table has the group.
pub(crate) struct Waiting<'a> {
    responses: Pin<&'a mut Responses>,
    group: ManuallyDrop<Group>,
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
        // SAFETY: By the type invariant of the group. Whoever attaches in this crate has such a
        // handle, and frees it after this group was answered under the queue's mutex, which is held
        // and keeps it from being led to another device. The device is let go of after that.
        let dev_id = unsafe {
            let handle = (*group)
                .attach_handle
                .cast::<bindings::iommufd_attach_handle>();
            (*(*handle).idev).obj.id
        };
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
    pub(crate) fn take_back(self) -> Option<Group> {
        let cookie = self.cookie();
        self.responses.take(cookie)
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
        // SAFETY: The caller has a group, so it is not null.
        Self(unsafe { NonNull::new_unchecked(raw) })
    }

    fn into_raw(self) -> *mut bindings::iopf_group {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// How many faults there are.
    pub(crate) fn count(&self) -> usize {
        // SAFETY: This owns the group.
        unsafe { self.0.as_ref() }.fault_count
    }

    /// Answers the device.
    pub(crate) fn respond(self, code: u32) {
        let raw = self.into_raw();
        // SAFETY: This owned the group, which is in no list.
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

/// Queues a group of faults; the page-request code calls it for domains with a fault queue.
///
/// # Safety
///
/// `group` must be a group whose attachment has a domain of this crate with a fault queue.
#[export]
pub(crate) unsafe extern "C" fn iommufd_fault_iopf_handler(
    group: *mut bindings::iopf_group,
) -> c_int {
    // SAFETY: By the caller; the attachment, and with it the domain, stays until its faults are
    // answered.
    let hwpt = unsafe { bindings::iommu_domain_hwpt((*(*group).attach_handle).domain) };
    // SAFETY: By the caller it is one of this crate, which leads back to its hwpt.
    let hwpt = unsafe { &*hwpt.cast::<Hwpt>() };
    // By the caller there is one.
    let Some(fault) = hwpt.fault() else {
        return EINVAL.to_errno();
    };
    // SAFETY: By the caller; it is on the list of what came by the attachment.
    unsafe { bindings::iopf_group_dequeue(group) };
    // SAFETY: Dequeued, the group is ours.
    crate::fault::deliver(fault, unsafe { Group::from_raw(group) });
    0
}
