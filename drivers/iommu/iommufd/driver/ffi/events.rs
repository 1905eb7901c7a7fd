// SPDX-License-Identifier: GPL-2.0-only

//! A vIOMMU's event queues, from the side that fills them.
//!
//! `/dev/iommu` makes the queues, reads them and frees the events. A queue's entry for lost events
//! is part of the queue; it is in the list while events are lost behind the last one.
//!
//! Lock order: the vIOMMU's `veventqs_rwsem`, then a queue's spinlock.

use super::viommu::Viommu;
use crate::events::next_number;
use core::{
    alloc::Layout,
    mem::{
        align_of,
        offset_of,
        ManuallyDrop, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    alloc::{
        allocator::Kmalloc,
        flags::__GFP_ZERO,
        Allocator,
        NumaNode, //
    },
    bindings,
    clist_create,
    prelude::*,
    sync::{
        rwsem::ReadGuard,
        SpinLock,
        SpinLockGuard, //
    },
    types::Opaque, //
};

/// An event that is in no queue yet.
///
/// # Invariants
///
/// Owns an event from kmalloc(), all of which is initialised.
pub(crate) struct Event(NonNull<bindings::iommufd_vevent>);

impl Event {
    /// Makes one of what the driver says, without waiting for memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(data: &[u8]) -> Result<Self> {
        let size = offset_of!(bindings::iommufd_vevent, event_data)
            .checked_add(data.len())
            .ok_or(ENOMEM)?;
        let layout = Layout::from_size_align(size, align_of::<bindings::iommufd_vevent>())
            .map_err(|_| ENOMEM)?;
        let memory = Kmalloc::alloc(layout, GFP_NOWAIT | __GFP_ZERO, NumaNode::NO_NODE)?;
        let event = memory.cast::<bindings::iommufd_vevent>();
        // SAFETY: The memory is ours, and large enough for the head.
        unsafe { (*event.as_ptr()).data_len = data.len() as isize };
        // SAFETY: Only the address is taken.
        let to = unsafe { &raw mut (*event.as_ptr()).event_data }.cast::<u8>();
        // SAFETY: There is room for them behind the head; new memory overlaps with nothing.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        // INVARIANT: What is not set above is zero.
        Ok(Self(event))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: The event is this value's own, from kmalloc().
        unsafe { bindings::kfree(self.0.as_ptr().cast()) }
    }
}

/// The event queues of a vIOMMU, none of which comes or goes.
pub(crate) struct Queues<'a> {
    viommu: &'a Viommu,
    _guard: ReadGuard<'a>,
}

impl Viommu {
    /// Its event queues. May sleep.
    pub(crate) fn queues(&self) -> Queues<'_> {
        Queues {
            viommu: self,
            _guard: self.read_queues(),
        }
    }
}

impl Queues<'_> {
    /// The one of a type, of which there is at most one.
    pub(crate) fn find(&self, type_: u32) -> Option<&Queue> {
        // SAFETY: Only the address is taken.
        let head = unsafe { &raw mut (*self.viommu.as_raw()).veventqs };
        // SAFETY: The semaphore is held, so that the list does not change; its entries are queues,
        // linked by that field, and `Queue` is transparent.
        let list = unsafe { clist_create!(head, Queue, bindings::iommufd_veventq, node) };
        list.iter().find(|queue| queue.type_() == type_)
    }
}

/// `struct iommufd_veventq`.
///
/// # Invariants
///
/// It is initialised, and in the list of its vIOMMU.
#[repr(transparent)]
pub(crate) struct Queue(Opaque<bindings::iommufd_veventq>);

impl Queue {
    fn as_raw(&self) -> *mut bindings::iommufd_veventq {
        self.0.get()
    }

    fn type_(&self) -> u32 {
        // SAFETY: By the type invariant; it does not change.
        unsafe { (*self.as_raw()).type_ }
    }

    /// Takes the spinlock.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: Only the address is taken.
        let lock = unsafe { &raw mut (*self.as_raw()).common.lock };
        // SAFETY: By the type invariant it is initialised.
        let lock = unsafe { SpinLock::<()>::from_raw(lock) };
        Locked {
            queue: self,
            _guard: lock.lock(),
        }
    }
}

/// A queue whose spinlock is held. Nothing may sleep.
#[must_use]
pub(crate) struct Locked<'a> {
    queue: &'a Queue,
    _guard: SpinLockGuard<'a, ()>,
}

impl Locked<'_> {
    /// Whether user space has to read before another event fits.
    pub(crate) fn is_full(&self) -> bool {
        let queue = self.queue.as_raw();
        // SAFETY: Guarded by the lock.
        let count = unsafe { (*queue).num_events };
        // SAFETY: It does not change once the queue is in its list.
        count == unsafe { (*queue).depth }
    }

    /// Appends an event.
    pub(crate) fn push(&mut self, event: Event) {
        // SAFETY: Guarded by the lock.
        unsafe { (*self.queue.as_raw()).num_events += 1 };
        // Who reads the queue frees it.
        self.append(ManuallyDrop::new(event).0.as_ptr());
    }

    /// Says at the end of the queue that an event was lost.
    pub(crate) fn lose(&mut self) {
        // SAFETY: Only the address is taken.
        let lost = unsafe { &raw mut (*self.queue.as_raw()).lost_events_header };
        self.append(lost);
    }

    /// Takes the entry for lost events out of the list, where it can only be the last one. What
    /// comes next has a number that tells as much.
    fn take_lost(&mut self) {
        let queue = self.queue.as_raw();
        // SAFETY: The list is initialised and guarded by the lock.
        unsafe {
            let lost = &raw mut (*queue).lost_events_header.node;
            if ptr::eq((*queue).common.deliver.prev, lost) {
                bindings::iommu_list_del(lost);
            }
        }
    }

    /// Appends an entry that is not in the list, or the one for lost events, with the next number,
    /// and wakes who waits for events.
    fn append(&mut self, entry: *mut bindings::iommufd_vevent) {
        let queue = self.queue.as_raw();
        self.take_lost();
        // SAFETY: The lock guards the number and the list. The entry is ours, or guarded too, and
        // in no list; the wait queue is initialised.
        unsafe {
            let number = &mut (*queue).sequence;
            (*entry).header.sequence = *number;
            *number = next_number(*number);
            bindings::list_add_tail(&raw mut (*entry).node, &raw mut (*queue).common.deliver);
            let wait = &raw mut (*queue).common.wait_queue;
            bindings::__wake_up(wait, bindings::TASK_INTERRUPTIBLE, 1, ptr::null_mut());
        }
    }
}
