// SPDX-License-Identifier: GPL-2.0-only

//! vEVENTQs as memory, and their events as owned values.
//!
//! Drivers append events (`iommufd_driver`), bounded by the queue's depth; what does not fit is
//! told by one entry for lost events, which is part of the queue and moves to its end.
//!
//! Lock order: the vIOMMU's `veventqs_rwsem`, then the queue's spinlock.

use super::{
    context::Ctx,
    driver_objects::Viommu,
    eventq::{
        EventQ,
        Fops,
        Queue, //
    },
    handlers::uapi::{
        VeventHeader,
        VEVENTQ_FLAG_LOST_EVENTS, //
    }, //
};
use crate::object::{
    assert_offsets,
    begins_with_head,
    Hold,
    Reserved, //
};
use core::{
    cell::UnsafeCell,
    mem::offset_of,
    pin::Pin,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    interop::list::{
        CList,
        CListHead, //
    },
    prelude::*,
    sync::rwsem::WriteGuard,
    types::Opaque, //
};

/// The list of a vIOMMU's event queues, locked for writing.
pub(crate) struct Queues<'a> {
    viommu: &'a Viommu,
    list: &'a CListHead,
    _guard: WriteGuard<'a>,
}

impl Viommu {
    /// Locks the list of event queues. May sleep.
    pub(crate) fn queues(&self) -> Queues<'_> {
        let (list, lock) = self.veventqs();
        Queues {
            viommu: self,
            list,
            _guard: lock.write(),
        }
    }
}

impl<'a> Queues<'a> {
    /// Whether there is a queue of this type.
    pub(crate) fn has(&self, type_: u32) -> bool {
        // SAFETY: The list is initialised and locked, and its entries are vEVENTQs.
        let queues = unsafe {
            CList::<VeventQ, { offset_of!(VeventQ, node) }>::from_raw(self.list.as_raw())
        };
        queues.iter().any(|queue| queue.type_ == type_)
    }

    /// Makes a queue, in the list but not visible to user space yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn reserve<'c>(
        self,
        ctx: &'c Ctx,
        type_: u32,
        depth: u32,
    ) -> Result<Reserved<'c, VeventQ>> {
        let viommu = Hold::new(self.viommu)?;
        let queue = Reserved::new(
            ctx,
            pin_init!(VeventQ {
                common <- EventQ::new(ctx, CListHead::new()),
                viommu,
                node <- CListHead::new(),
                type_,
                depth,
                num_events: UnsafeCell::new(0),
                sequence: UnsafeCell::new(0),
                lost <- lost_events(),
            }),
        )?;
        // SAFETY: The list is locked, and the queue is on none.
        unsafe { bindings::list_add_tail(queue.node.as_raw(), self.list.as_raw()) };
        // From here on drivers find it. What fails takes the lock again to undo this.
        Ok(queue)
    }
}

/// As `struct iommufd_veventq` has it: `iommufd_driver` appends events.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct VeventQ {
    #[pin]
    common: EventQ<CListHead>,
    viommu: Hold<Viommu>,
    #[pin]
    node: CListHead,
    type_: u32,
    depth: u32,
    num_events: UnsafeCell<u32>,
    sequence: UnsafeCell<u32>,
    /// The entry for lost events.
    #[pin]
    lost: Opaque<bindings::iommufd_vevent>,
}

assert_offsets!(
    VeventQ as bindings::iommufd_veventq:
    viommu,
    node,
    type_,
    depth,
    num_events,
    sequence,
    lost = lost_events_header,
);

// SAFETY: What changes of it after it is published is guarded by locks.
unsafe impl Send for VeventQ {}
// SAFETY: What changes of it after it is published is guarded by locks.
unsafe impl Sync for VeventQ {}

begins_with_head!(VeventQ, common);

/// The entry for lost events, on no list.
fn lost_events() -> impl PinInit<Opaque<bindings::iommufd_vevent>> {
    Opaque::ffi_init(|lost: *mut bindings::iommufd_vevent| {
        // SAFETY: Memory for one, of which all bytes may be zero.
        unsafe {
            lost.write_bytes(0, 1);
            (*lost).header.flags = VEVENTQ_FLAG_LOST_EVENTS;
        }
    })
}

static FOPS: Fops = Fops::new::<VeventQ>();

impl Queue for VeventQ {
    type List = CListHead;
    const NAME: &'static CStr = c"[iommufd-viommu-event]";
    const FOPS: &'static Fops = &FOPS;
    const WRITABLE: bool = false;

    fn common(&self) -> &EventQ<CListHead> {
        &self.common
    }

    fn is_empty(&self) -> bool {
        !self.common.lock().is_linked()
    }

    fn read(&self, to: usize, count: usize) -> Result<usize> {
        crate::veventq::read(self, to, count)
    }

    fn write(&self, _: usize, _: usize) -> Result<usize> {
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
    /// The entry for lost events, as a node of the list.
    fn lost(&self) -> *mut bindings::list_head {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.lost.get()).node }
    }

    /// Takes the first entry. The one for lost events is copied, so that it can be used again.
    pub(crate) fn pop(&self) -> Option<Taken> {
        let list = self.common.lock();
        if !list.is_linked() {
            return None;
        }
        let node = list.next().as_raw();
        // SAFETY: It is on the list, which is locked; entries are events.
        let event = unsafe {
            bindings::iommu_list_del(node);
            kernel::container_of!(node, bindings::iommufd_vevent, node)
        };
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
        let list = self.common.lock();
        let node = match taken {
            Taken::Event(event) => {
                let event = core::mem::ManuallyDrop::new(event);
                // SAFETY: Only the address is taken.
                unsafe { &raw mut (*event.0.as_ptr()).node }
            }
            Taken::Lost(_) if !list.is_linked() => self.lost(),
            Taken::Lost(_) => return,
        };
        // SAFETY: The list is locked; before the first entry is behind the head.
        unsafe { bindings::list_add_tail(node, list.next().as_raw()) };
    }

    /// One event less counts against the depth.
    pub(crate) fn delivered(&self) {
        let _list = self.common.lock();
        // SAFETY: Guarded by the list's lock.
        unsafe { *self.num_events.get() -= 1 };
    }
}

#[pinned_drop]
impl PinnedDrop for VeventQ {
    fn drop(self: Pin<&mut Self>) {
        if self.node.is_linked() {
            let _queues = self.viommu.queues();
            // SAFETY: It is on the list, which is locked.
            unsafe { bindings::iommu_list_del(self.node.as_raw()) };
        }
        // Nobody can find it any more.
        while let Some(taken) = self.pop() {
            drop(taken);
        }
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
        // SAFETY: This owns the event.
        unsafe { self.0.as_ref() }.header
    }

    /// What the driver said, as the UAPI header defines for the queue's type.
    pub(crate) fn data(&self) -> &[u8] {
        let event = self.0.as_ptr();
        // SAFETY: Only the address is taken.
        let data = unsafe { &raw const (*event).event_data }.cast::<u8>();
        // SAFETY: This owns the event.
        let len = unsafe { (*event).data_len } as usize;
        // SAFETY: By the type invariant; so many bytes lie behind the structure.
        unsafe { core::slice::from_raw_parts(data, len) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: This owns the event, which came from kmalloc().
        unsafe { bindings::kfree(self.0.as_ptr().cast()) }
    }
}
