// SPDX-License-Identifier: GPL-2.0-only

//! Groups of devices that the hardware cannot tell apart.
//!
//! A [`Group`] is what a context knows about one group of the IOMMU core: what its devices are
//! attached to, and where its window for software MSIs is. It lives as long as a device of it is
//! bound to the context. Its mutex is taken after an IOAS's and before the page core's locks.

#[cfg(CONFIG_IRQ_MSI_IOMMU)]
use super::shared::Doorbell;
use super::{
    context::Ctx,
    domain::PhysDev,
    shared::GroupHead, //
};
use crate::{
    attach::Attachments,
    hwpt::PagingHwpt,
    ioas::Ioas, //
};
use core::{
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};
#[cfg(CONFIG_IRQ_MSI_IOMMU)]
use kernel::error::to_result;
use kernel::{
    bindings,
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    },
    sync::{
        Arc,
        LockedBy,
        Mutex,
        MutexGuard, //
    }, //
};

/// A reference to a group of the IOMMU core.
///
/// # Invariants
///
/// This owns one reference.
struct CoreGroup(NonNull<bindings::iommu_group>);

impl CoreGroup {
    /// The group that a device is in.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is in none.
    fn of(dev: &PhysDev) -> Result<Self> {
        // SAFETY: The device is valid.
        let raw = unsafe { bindings::iommu_group_get(dev.as_raw()) };
        // INVARIANT: the core gave a reference.
        NonNull::new(raw).map(Self).ok_or(ENODEV)
    }

    fn id(&self) -> usize {
        // SAFETY: This owns a reference.
        unsafe { bindings::iommu_group_id(self.0.as_ptr()) as usize }
    }
}

impl Drop for CoreGroup {
    fn drop(&mut self) {
        // SAFETY: This owns a reference, which is not used again.
        unsafe { bindings::iommu_group_put(self.0.as_ptr()) };
    }
}

/// What a context knows of a group.
///
/// # Invariants
///
/// Its context outlives it, as each device of it is one of the context's objects.
#[pin_data]
#[repr(C)]
pub(crate) struct Group {
    head: GroupHead,
    ctx: NonNull<Ctx>,
    core: Option<CoreGroup>,
    #[pin]
    attachments: Mutex<Attachments>,
}

// SAFETY: Groups of the core are not bound to a thread, and contexts are `Sync`.
unsafe impl Send for Group {}
// SAFETY: Groups of the core are not bound to a thread, and contexts are `Sync`.
unsafe impl Sync for Group {}

impl Group {
    fn new(ctx: &Ctx, core: Option<CoreGroup>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                head: GroupHead::new(),
                ctx: NonNull::from(ctx),
                core,
                attachments <- new_mutex!(Attachments::new(), "iommufd_group"),
            }),
            GFP_KERNEL,
        )
    }

    /// What drivers use of it.
    pub(super) fn head(&self) -> &GroupHead {
        &self.head
    }

    fn ctx(&self) -> &Ctx {
        // SAFETY: The context outlives its groups.
        unsafe { self.ctx.as_ref() }
    }

    pub(super) fn core(&self) -> *mut bindings::iommu_group {
        self.core
            .as_ref()
            .map_or(ptr::null_mut(), |core| core.0.as_ptr())
    }

    /// Whether it is the IOMMU core's `group`.
    pub(super) fn is(&self, group: *mut bindings::iommu_group) -> bool {
        ptr::eq(self.core(), group)
    }

    /// Whether there is no IOMMU, and this group was made up for one device.
    pub(crate) fn is_noiommu(&self) -> bool {
        self.core.is_none()
    }

    /// Whether the devices' interrupts cannot reach others than those who may have them.
    pub(crate) fn has_isolated_msi(&self) -> bool {
        // SAFETY: By the type invariant; only asked when there is an IOMMU.
        self.core.is_some() && unsafe { bindings::iommu_group_has_isolated_msi(self.core()) }
    }

    /// Has the mutex guard something of a device.
    pub(super) fn guard<T>(&self, data: T) -> LockedBy<T, Attachments> {
        LockedBy::new(&self.attachments, data)
    }

    /// Takes the mutex.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            group: self,
            attachments: self.attachments.lock(),
        }
    }
}

/// A group whose mutex is held.
pub(crate) struct Locked<'a> {
    group: &'a Group,
    attachments: MutexGuard<'a, Attachments>,
}

impl Locked<'_> {
    /// As [`Ioas::reserve_for`], and learns where the window for software MSIs is.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn reserve_for(&mut self, ioas: &Ioas, dev: &PhysDev) -> Result {
        if let Some(start) = ioas.reserve_with_msi(dev)? {
            self.group.head.set_window(start);
        }
        Ok(())
    }

    /// Maps all the pages that the group's devices signal MSIs through.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what mapping runs into.
    #[cfg(CONFIG_IRQ_MSI_IOMMU)]
    pub(crate) fn map_sw_msi(&self, hwpt: &PagingHwpt) -> Result {
        let (head, ctx) = (&self.group.head, self.group.ctx());
        let Some(window) = head.window() else {
            return Ok(());
        };
        let hwpt = ptr::from_ref(hwpt).cast_mut().cast();
        let doorbells = ctx.head().doorbells.lock();
        let required = |it: &&Doorbell| it.place.window == window && head.required.has(it.id);
        doorbells.iter().filter(required).try_for_each(|doorbell| {
            let doorbell = ptr::from_ref(doorbell).cast_mut().cast();
            // SAFETY: The mutex is held, and all are valid.
            to_result(unsafe { bindings::iommufd_sw_msi_install(ctx.as_raw(), hwpt, doorbell) })
        })
    }

    /// On this machine MSIs do not go through page tables.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(CONFIG_IRQ_MSI_IOMMU))]
    pub(crate) fn map_sw_msi(&self, _hwpt: &PagingHwpt) -> Result {
        Ok(())
    }
}

impl Deref for Locked<'_> {
    type Target = Attachments;

    fn deref(&self) -> &Attachments {
        &self.attachments
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Attachments {
        &mut self.attachments
    }
}

/// The groups of a context, by the number that the IOMMU core gives them, and how many devices of
/// each are bound.
pub(crate) struct Groups(RBTree<usize, (Arc<Group>, usize)>);

impl Groups {
    /// None.
    pub(crate) fn new() -> Self {
        Self(RBTree::new())
    }
}

/// A device's place in its group, which leaves the context with the last of them.
pub(crate) struct GroupRef(Arc<Group>);

impl GroupRef {
    /// The context's group for `dev`: the one that is there, or a new one.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the device is in no group; `ENOMEM`.
    pub(crate) fn of(ctx: &Ctx, dev: &PhysDev) -> Result<Self> {
        let core = CoreGroup::of(dev)?;
        let mut groups = ctx.groups().lock();
        if let Some((group, devices)) = groups.0.get_mut(&core.id()) {
            // Numbers are not used again while somebody has a reference.
            kernel::warn_on!(!group.is(core.0.as_ptr()));
            *devices += 1;
            return Ok(Self(group.clone()));
        }
        let (id, node) = (core.id(), RBTreeNodeReservation::new(GFP_KERNEL)?);
        let group = Group::new(ctx, Some(core))?;
        groups.0.insert(node.into_node(id, (group.clone(), 1)));
        Ok(Self(group))
    }

    /// A group for a device without an IOMMU.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn without_iommu(ctx: &Ctx) -> Result<Self> {
        Group::new(ctx, None).map(Self)
    }
}

impl Deref for GroupRef {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.0
    }
}

impl Drop for GroupRef {
    fn drop(&mut self) {
        let is_last = match &self.core {
            Some(core) => {
                let mut groups = self.ctx().groups().lock();
                let left = groups.0.get_mut(&core.id()).map(|(_, devices)| {
                    *devices -= 1;
                    *devices
                });
                if left == Some(0) {
                    // What is in the tree is not the last reference.
                    drop(groups.0.remove(&core.id()));
                }
                left == Some(0)
            }
            None => true,
        };
        if is_last && kernel::warn_on!(!self.lock().is_empty()) {
            // Rather leak it than free what the hardware still uses.
            core::mem::forget(self.0.clone());
        }
    }
}
