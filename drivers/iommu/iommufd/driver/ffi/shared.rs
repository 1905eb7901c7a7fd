// SPDX-License-Identifier: GPL-2.0-only

//! What `/dev/iommu` has, and what is built in for drivers looks at: each crate includes this file.
//!
//! A context begins with a [`CtxHead`], what a context knows of a group with a [`GroupHead`], a
//! hwpt with what [`HwptHead`] says, and a device with what [`DeviceHead`] says.

use core::ptr::NonNull;
use kernel::{
    bindings,
    io::PhysAddr,
    maple_tree::MapleTreeAlloc,
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex, //
    },
    types::Opaque, //
};

/// What a context begins with.
#[pin_data]
#[repr(C)]
pub(crate) struct CtxHead {
    /// The places of doorbells. What each has been mapped in changes under the mutex, too.
    #[pin]
    pub(crate) doorbells: Mutex<KVec<Doorbell>>,
    /// What user space may map, by the offset for mmap().
    #[pin]
    pub(crate) regions: MapleTreeAlloc<KBox<Region>>,
}

impl CtxHead {
    /// Nothing.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            doorbells <- new_mutex!(KVec::new(), "sw_msi_lock"),
            regions <- MapleTreeAlloc::new(),
        })
    }
}

/// What a context knows of a group begins with it.
#[repr(C)]
pub(crate) struct GroupHead {
    /// The first IOVA of the window for doorbells; [`PhysAddr::MAX`]: there is none.
    window: Atomic<PhysAddr>,
    /// The doorbells that the group uses.
    pub(crate) required: DoorbellSet,
}

impl GroupHead {
    /// Without a window.
    pub(crate) fn new() -> Self {
        Self {
            window: Atomic::new(PhysAddr::MAX),
            required: DoorbellSet(Atomic::new(0)),
        }
    }

    /// The window, if there is one. It does not change while a device is attached.
    pub(crate) fn window(&self) -> Option<PhysAddr> {
        let start = self.window.load(Relaxed);
        (start != PhysAddr::MAX).then_some(start)
    }

    /// Says where the window is.
    pub(crate) fn set_window(&self, start: PhysAddr) {
        self.window.store(start, Relaxed);
    }
}

/// What a hwpt begins with.
#[repr(C)]
pub(crate) struct HwptHead {
    pub(crate) object: Opaque<bindings::iommufd_object>,
    pub(crate) domain: NonNull<bindings::iommu_domain>,
    /// The hwpt that a nested one is on.
    pub(crate) parent: Option<NonNull<HwptHead>>,
    /// The doorbells that a paging one has.
    pub(crate) present: DoorbellSet,
}

/// What a device begins with. It does not change, and its context and group outlive it.
#[repr(C)]
pub(crate) struct DeviceHead {
    pub(crate) object: Opaque<bindings::iommufd_object>,
    pub(crate) ctx: NonNull<CtxHead>,
    /// What its context knows of its group.
    pub(crate) group: NonNull<GroupHead>,
    pub(crate) dev: NonNull<bindings::device>,
}

/// Where a doorbell's page is: which page of which window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Place {
    /// The first IOVA of the window.
    pub(crate) window: PhysAddr,
    /// The number of the page in it.
    pub(crate) page: u32,
}

/// A physical page with doorbells of MSIs. It has the same place in all page tables of a context.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Doorbell {
    /// Where it is mapped.
    pub(crate) place: Place,
    /// The physical page.
    pub(crate) addr: PhysAddr,
    /// Its number in the context, less than [`DoorbellSet::BITS`].
    pub(crate) id: u32,
}

/// Doorbells by their numbers, as `struct iommufd_sw_msi_maps` has them. Changed under the mutex of
/// the context's doorbells.
#[repr(transparent)]
pub(crate) struct DoorbellSet(Atomic<u64>);

impl DoorbellSet {
    /// How many doorbells there can be.
    pub(crate) const BITS: u32 = u64::BITS;

    /// None.
    pub(crate) fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Whether it is in the set.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.0.load(Relaxed) & (1 << id) != 0
    }

    /// Puts it there.
    pub(crate) fn insert(&self, id: u32) {
        self.0.store(self.0.load(Relaxed) | 1 << id, Relaxed);
    }
}

/// MMIO that user space may map, at the offset that leads to it.
pub(crate) struct Region {
    /// The object that keeps it, and that mappings keep.
    pub(crate) owner: NonNull<bindings::iommufd_object>,
    /// The offset for mmap(), in pages; 0 until it has one.
    pub(crate) vm_pgoff: usize,
    /// Where it is in memory.
    pub(crate) addr: PhysAddr,
    /// How many bytes, whole pages.
    pub(crate) length: usize,
}

// SAFETY: Objects are not bound to a thread; who follows the pointer says why it may.
unsafe impl Send for Region {}
// SAFETY: Objects are not bound to a thread; who follows the pointer says why it may.
unsafe impl Sync for Region {}
