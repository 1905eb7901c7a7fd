// SPDX-License-Identifier: GPL-2.0-only

//! What the IOMMU core knows about an attachment.
//!
//! A [`Handle`] is in the core's tables from attach to detach, and leads page faults and software
//! MSIs to the device. It is a value: who has it knows that the hardware uses the domain, and it
//! has the hold on the domain's hwpt, so that its faults are looked for in the right queue. It is
//! bound to be given to [`Handle::detach`]; dropped otherwise it leaks, rather than free what the
//! core still refers to.
//!
//! All of it runs under the group's mutex, and takes the core's own and a fault queue's.
//!
//! C header: [`drivers/iommu/iommu-priv.h`](srctree/drivers/iommu/iommu-priv.h)

use super::{
    device::Device,
    iopf, //
};
use crate::{
    fault::FaultQueue,
    hwpt::Hwpt,
    object::Hold, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// A process address space of a device; [`NO_PASID`] is the one that plain DMA uses.
pub(crate) type Pasid = bindings::ioasid_t;

/// DMA without a PASID.
pub(crate) const NO_PASID: Pasid = bindings::IOMMU_NO_PASID;

type Raw = bindings::iommufd_attach_handle;

/// What is attached. `raw` is a `struct iommufd_attach_handle`; `None` where there is no IOMMU.
///
/// # Invariants
///
/// `raw` came from a `KBox`, and the core refers to it and to the domain of `hwpt`.
#[must_use = "the core refers to it until it is detached"]
pub(crate) struct Handle {
    raw: Option<NonNull<Raw>>,
    hwpt: ManuallyDrop<Hold<Hwpt>>,
}

/// Makes one that the core does not know yet.
fn make(device: &Device) -> Result<KBox<Raw>> {
    let raw = Raw {
        handle: Default::default(),
        idev: device.as_raw(),
    };
    Ok(KBox::new(raw, GFP_KERNEL)?)
}

impl Handle {
    /// One that the core knows by now, if there is an IOMMU.
    fn known(raw: Option<KBox<Raw>>, hwpt: Hold<Hwpt>) -> Self {
        // INVARIANT: by the callers, who gave both to the core.
        Self {
            raw: raw.and_then(|raw| NonNull::new(KBox::into_raw(raw))),
            hwpt: ManuallyDrop::new(hwpt),
        }
    }

    /// What the DMA goes through.
    pub(crate) fn hwpt(&self) -> &Hwpt {
        &self.hwpt
    }

    /// Has DMA of the device with this PASID, or that of its whole group without one, go through
    /// the domain of `hwpt`.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the domain does not fit the device; `EBUSY`: somebody else attached it; `ENOMEM`.
    pub(crate) fn attach(hwpt: &Hwpt, device: &Device, pasid: Pasid) -> Result<Self> {
        let hold = Hold::new(hwpt)?;
        if device.is_noiommu() {
            return Ok(Self::known(None, hold));
        }
        let mut handle = make(device)?;
        let (domain, raw) = (hwpt.domain().as_raw(), &raw mut handle.handle);
        to_result(if pasid == NO_PASID {
            // SAFETY: All are valid, and the handle stays where it is.
            unsafe { bindings::iommu_attach_group_handle(domain, device.group().core(), raw) }
        } else {
            let dev = device.dev().as_raw();
            // SAFETY: All are valid, and the handle stays where it is.
            unsafe { bindings::iommu_attach_device_pasid(domain, dev, pasid, raw) }
        })?;
        Ok(Self::known(Some(handle), hold))
    }

    /// Has the DMA go through the domain of `new`, without a moment in which it goes nowhere, and
    /// returns the hold on what it went through before. Page faults on that which were not
    /// answered yet are.
    ///
    /// # Errors
    ///
    /// As [`Self::attach`]; nothing has changed then.
    pub(crate) fn replace(
        &mut self,
        new: &Hwpt,
        device: &Device,
        pasid: Pasid,
    ) -> Result<Hold<Hwpt>> {
        let hold = Hold::new(new)?;
        if self.raw.is_none() {
            let old = core::mem::replace(&mut self.hwpt, ManuallyDrop::new(hold));
            return Ok(ManuallyDrop::into_inner(old));
        }
        let mut handle = make(device)?;
        let (domain, raw) = (new.domain().as_raw(), &raw mut handle.handle);
        to_result(if pasid == NO_PASID {
            // SAFETY: All are valid, and the handle stays where it is.
            unsafe { bindings::iommu_replace_group_handle(device.group().core(), domain, raw) }
        } else {
            let dev = device.dev().as_raw();
            // SAFETY: All are valid, and the handle stays where it is.
            unsafe { bindings::iommu_replace_device_pasid(domain, dev, pasid, raw) }
        })?;
        let old = core::mem::replace(self, Self::known(Some(handle), hold));
        // SAFETY: The core finds the new one instead.
        Ok(unsafe { old.retire() })
    }

    /// Leads faults and software MSIs of the group to another of its devices. May sleep.
    pub(crate) fn lead_to(&self, device: &Device) {
        let Some(raw) = self.raw else { return };
        // Who reads faults looks at the device under this mutex. Who prepares an MSI does so under
        // that of the core's group, which a device takes when it gives the ownership of its DMA
        // back, and so before it is freed.
        let _reading = self.hwpt.fault().map(FaultQueue::lock);
        // SAFETY: By the type invariant it is valid; the field is read and written whole.
        unsafe { (&raw mut (*raw.as_ptr()).idev).write_volatile(device.as_raw()) };
    }

    /// Blocks the DMA, and returns the hold on what it went through. Page faults that were not
    /// answered yet are.
    pub(crate) fn detach(self, device: &Device, pasid: Pasid) -> Hold<Hwpt> {
        let domain = self.hwpt.domain().as_raw();
        if self.raw.is_none() {
            // There is no IOMMU to tell.
        } else if pasid == NO_PASID {
            // SAFETY: All are valid; this is attached.
            unsafe { bindings::iommu_detach_group_handle(domain, device.group().core()) };
        } else {
            // SAFETY: All are valid; this is attached.
            unsafe { bindings::iommu_detach_device_pasid(domain, device.dev().as_raw(), pasid) };
        }
        // SAFETY: The core does not find it.
        unsafe { self.retire() }
    }

    /// Answers the faults that came by it, frees it, and returns what it kept. May sleep.
    ///
    /// # Safety
    ///
    /// The core does not find it any more.
    #[inline]
    unsafe fn retire(self) -> Hold<Hwpt> {
        if let Some(raw) = self.raw {
            if let Some(queue) = self.hwpt.fault() {
                // SAFETY: By the type invariant it is valid; only the address is taken.
                let handle = iopf::Handle(unsafe { &raw mut (*raw.as_ptr()).handle });
                crate::fault::answer_all(queue, handle);
            }
            // SAFETY: It came from a `KBox`. By the caller nobody finds it. The core waited for who
            // had found it, and the queue knows of no fault of theirs any more.
            drop(unsafe { KBox::from_raw(raw.as_ptr()) });
        }
        ManuallyDrop::into_inner(self.hwpt)
    }
}
