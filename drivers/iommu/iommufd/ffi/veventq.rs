// SPDX-License-Identifier: GPL-2.0-only

//! vEVENTQs as memory, and their events as owned values.
//!
//! Drivers append events (`iommufd_driver`), bounded by the queue's depth; what does not fit is
//! told by one entry for lost events, which is part of the queue and moves to its end.
//!
//! Lock order: the vIOMMU's `veventqs_rwsem`, then the queue's spinlock.

use super::{
    context::Ctx,
    eventq::{
        EventQ,
        Fops,
        NewQueue,
        Ops, //
    },
    handlers::uapi::{
        VeventHeader,
        VEVENTQ_FLAG_LOST_EVENTS, //
    },
    hwpt::Viommu,
    object::{
        Kind,
        KindId, //
    },
    typed::Head, //
};
use core::{
    mem::size_of,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    interop::list::clist_create,
    prelude::*,
    sync::rwsem::{
        RwSem,
        WriteGuard, //
    },
    types::Opaque, //
};

/// The list of a vIOMMU's event queues, locked for writing.
pub(crate) struct Queues<'a> {
    viommu: &'a Viommu,
    _guard: WriteGuard<'a>,
}

impl Viommu {
    /// Locks the list of event queues. May sleep.
    pub(crate) fn queues(&self) -> Queues<'_> {
        // SAFETY: Initialised with the vIOMMU.
        let lock = unsafe { RwSem::from_raw(&raw mut (*self.as_raw()).veventqs_rwsem) };
        Queues {
            viommu: self,
            _guard: lock.write(),
        }
    }
}

impl<'a> Queues<'a> {
    /// Whether there is a queue of this type.
    pub(crate) fn has(&self, type_: u32) -> bool {
        // SAFETY: The list is initialised and locked, and its entries are vEVENTQs.
        let queues =
            unsafe { clist_create!(self.list(), VeventQ, bindings::iommufd_veventq, node) };
        // SAFETY: As above; the type is set before a queue is put on the list.
        queues
            .iter()
            .any(|queue| unsafe { (*queue.as_raw()).type_ } == type_)
    }

    fn list(&self) -> *mut bindings::list_head {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.viommu.as_raw()).veventqs }
    }

    /// Makes a queue and its file, in the list but not visible to user space yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `ENFILE`, `EMFILE`; `EBUSY` when all ids are in use.
    pub(crate) fn build(self, ctx: &Ctx, type_: u32, depth: u32) -> Result<NewQueue<'_>> {
        let object = ctx.reserve(size_of::<bindings::iommufd_veventq>(), VeventQ::ID)?;
        let raw = object.as_raw().cast::<bindings::iommufd_veventq>();
        self.viommu.object().users().inc();
        // SAFETY: Zeroed memory of that size, ours alone, which stays where it is.
        unsafe { EventQ::init(&raw mut (*raw).common) };
        // SAFETY: As above.
        unsafe { (*raw).type_ = type_ };
        // SAFETY: As above.
        unsafe { (*raw).viommu = self.viommu.as_raw() };
        // SAFETY: As above.
        unsafe { (*raw).depth = depth };
        // SAFETY: As above.
        unsafe { (*raw).lost_events_header.header.flags = VEVENTQ_FLAG_LOST_EVENTS };
        // SAFETY: The list is locked, and the queue is on none.
        unsafe { bindings::list_add_tail(&raw mut (*raw).node, self.list()) };
        // From here on drivers find it. What fails takes the lock again to undo this.
        drop(self);
        // SAFETY: Initialised just now; there is no file yet, which is fine.
        let queue = unsafe { object.built() };
        // SAFETY: As above.
        let descriptor = unsafe { &*raw.cast::<VeventQ>() }
            .queue()
            .make_file::<VeventQ>(ctx)?;
        Ok(NewQueue { descriptor, queue })
    }
}

/// `struct iommufd_veventq`.
#[repr(transparent)]
pub(crate) struct VeventQ(Opaque<bindings::iommufd_veventq>);

// SAFETY: What it is made of has locks.
unsafe impl Sync for VeventQ {}

// SAFETY: Objects of this kind are made above only, and are `struct iommufd_veventq`.
unsafe impl Kind for VeventQ {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_VEVENTQ);
}

static FOPS: Fops = Fops::new::<VeventQ>();

impl Ops for VeventQ {
    const NAME: &'static CStr = c"[iommufd-viommu-event]";
    const FOPS: &'static Fops = &FOPS;
    const WRITABLE: bool = false;

    fn read(queue: &EventQ, to: usize, count: usize) -> Result<usize> {
        // SAFETY: `FOPS` are for vEVENTQs only, and the queue is the first field.
        let queue = unsafe { &*ptr::from_ref(queue).cast::<Self>() };
        crate::veventq::read(queue, to, count)
    }

    fn write(_: &EventQ, _: usize, _: usize) -> Result<usize> {
        Err(EINVAL)
    }
}

/// What a reader takes out of a queue.
pub(crate) enum Taken {
    /// An event.
    Event(Event),
    /// Events were lost before what comes next.
    Lost(VeventHeader),
}

impl VeventQ {
    fn as_raw(&self) -> *mut bindings::iommufd_veventq {
        self.0.get()
    }

    fn viommu(&self) -> &Viommu {
        // SAFETY: Set when the queue was built; the queue's count on it keeps it.
        unsafe { &*(*self.as_raw()).viommu.cast::<Viommu>() }
    }

    fn queue(&self) -> &EventQ {
        // SAFETY: The first field, initialised when the queue was built.
        unsafe { EventQ::from_raw(&raw mut (*self.as_raw()).common) }
    }

    /// The entry for lost events, as a node of the list.
    fn lost(&self) -> *mut bindings::list_head {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.as_raw()).lost_events_header.node }
    }

    /// Takes the first entry. The one for lost events is copied, so that it can be used again.
    pub(crate) fn pop(&self) -> Option<Taken> {
        let mut list = self.queue().lock();
        let node = list.first()?;
        // SAFETY: It is on the list, which is locked.
        unsafe { bindings::iommu_list_del(node) };
        // SAFETY: Entries are events.
        let event = unsafe { kernel::container_of!(node, bindings::iommufd_vevent, node) };
        if ptr::eq(node, self.lost()) {
            // SAFETY: The queue's own entry, guarded by the list's lock.
            return Some(Taken::Lost(unsafe { (*event).header }));
        }
        // INVARIANT: The list owned it until now.
        NonNull::new(event).map(|event| Taken::Event(Event(event)))
    }

    /// Puts back what was taken. Lost events need no second mention when others came meanwhile,
    /// whose sequence numbers tell.
    pub(crate) fn put_back(&self, taken: Taken) {
        let mut list = self.queue().lock();
        let head = list.list();
        let node = match taken {
            Taken::Event(event) => {
                let event = core::mem::ManuallyDrop::new(event);
                // SAFETY: Only the address is taken.
                unsafe { &raw mut (*event.0.as_ptr()).node }
            }
            Taken::Lost(_) if list.is_empty() => self.lost(),
            Taken::Lost(_) => return,
        };
        // SAFETY: The list is locked; before the first entry is behind the head.
        unsafe { bindings::list_add_tail(node, (*head).next) };
    }

    /// One event less counts against the depth.
    pub(crate) fn delivered(&self) {
        let _list = self.queue().lock();
        // SAFETY: Guarded by the list's lock.
        unsafe { (*self.as_raw()).num_events -= 1 };
    }
}

/// An event that is in no queue.
///
/// # Invariants
///
/// Owns the memory, which came from kmalloc().
pub(crate) struct Event(NonNull<bindings::iommufd_vevent>);

impl Event {
    pub(crate) fn header(&self) -> VeventHeader {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }.header
    }

    /// What the driver said, as the UAPI header defines for the queue's type.
    pub(crate) fn data(&self) -> &[u8] {
        let event = self.0.as_ptr();
        // SAFETY: Only the address is taken.
        let data = unsafe { &raw const (*event).event_data }.cast::<u8>();
        // SAFETY: By the type invariant.
        let len = unsafe { (*event).data_len } as usize;
        // SAFETY: By the type invariant; so many bytes lie behind the structure.
        unsafe { core::slice::from_raw_parts(data, len) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::kfree(self.0.as_ptr().cast()) }
    }
}

/// Releases what a queue holds.
///
/// # Safety
///
/// `obj` must be a vEVENTQ that nobody else refers to but its vIOMMU's list.
pub(super) unsafe extern "C" fn destroy(obj: *mut bindings::iommufd_object) {
    // SAFETY: By the caller.
    let queue = unsafe { &*obj.cast::<VeventQ>() };
    let viommu = queue.viommu();
    let queues = viommu.queues();
    // SAFETY: It is on the list since it was made, and the list is locked.
    unsafe { bindings::iommu_list_del(&raw mut (*queue.as_raw()).node) };
    drop(queues);
    // Nobody can find it any more.
    while let Some(taken) = queue.pop() {
        drop(taken);
    }
    // The lock was given back: without the count the vIOMMU may go, and its lock with it.
    viommu.object().users().dec();
}
