// SPDX-License-Identifier: GPL-2.0-only

//! A mock device in a context, with what it is attached to.
//!
//! The test ioctl plays the part of VFIO here: it binds the device, attaches it with and without
//! PASIDs, and must have detached all of them before it unbinds. [`Binding`] remembers each
//! PASID, so tear-down by whatever way leaves none behind.

use super::device;
use crate::ffi::{
    context::Ctx,
    selftest::{
        bound::BoundDevice,
        device::RegisteredDevice, //
    },
};
use kernel::{
    iommu::{
        domain::AnyDomain,
        ops::Pasid, //
    },
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::Mutex, //
};

/// A bound device and its attached PASIDs, the one for DMA without PASID included.
struct Attached {
    bound: BoundDevice,
    pasids: RBTree<Pasid, ()>,
}

/// A mock device in a context.
///
/// When it is dropped the device is detached, unbound and gone, in this order.
#[pin_data(PinnedDrop)]
pub(crate) struct Binding {
    #[pin]
    attached: Mutex<Attached>,
    _device: RegisteredDevice,
}

impl Binding {
    /// Makes a device and binds it; gives the id that iommufd knows it by as well.
    ///
    /// # Errors
    ///
    /// `EINVAL`: unknown flags. `ENOMEM`: no memory.
    pub(super) fn new(ctx: &Ctx, flags: u32) -> Result<(Pin<KBox<Self>>, u32)> {
        // Memory first: once the device is bound nothing may fail, for then it would have to be
        // unbound before it goes.
        let memory = KBox::new_uninit(GFP_KERNEL)?;
        let device = device::create(flags)?;
        let (bound, id) = BoundDevice::bind(ctx, device.device())?;
        let attached = Attached {
            bound,
            pasids: RBTree::new(),
        };
        let binding = memory.write_pin_init(pin_init!(Self {
            attached <- new_mutex!(attached),
            _device: device,
        }))?;
        Ok((binding, id))
    }

    /// Attaches to an IOAS or a page table; gives the id of the page table.
    ///
    /// # Errors
    ///
    /// See [`BoundDevice::attach`].
    pub(super) fn attach(&self, pasid: Pasid, pt_id: u32) -> Result<u32> {
        let node = RBTreeNode::new(pasid, (), GFP_KERNEL)?;
        let mut attached = self.attached.lock();
        let hwpt_id = attached.bound.attach(pasid, pt_id)?;
        attached.pasids.insert(node);
        Ok(hwpt_id)
    }

    /// Moves to another IOAS or page table; gives the id of the page table.
    ///
    /// # Errors
    ///
    /// See [`BoundDevice::replace`].
    pub(super) fn replace(&self, pasid: Pasid, pt_id: u32) -> Result<u32> {
        let mut attached = self.attached.lock();
        attached.bound.replace(pasid, pt_id)
    }

    /// Detaches, if it is attached.
    pub(super) fn detach(&self, pasid: Pasid) {
        let mut attached = self.attached.lock();
        attached.pasids.remove(&pasid);
        attached.bound.detach(pasid);
    }

    /// Whether it is attached to this domain, or to none.
    pub(super) fn is_attached_to(&self, pasid: Pasid, domain: Option<&AnyDomain>) -> bool {
        self.attached.lock().bound.is_attached_to(pasid, domain)
    }
}

#[pinned_drop]
impl PinnedDrop for Binding {
    fn drop(self: Pin<&mut Self>) {
        let mut attached = self.attached.lock();
        while let Some(first) = attached.pasids.cursor_front_mut() {
            let (pasid, ()) = first.remove_current().1.to_key_value();
            attached.bound.detach(pasid);
        }
    }
}
