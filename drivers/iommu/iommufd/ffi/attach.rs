// SPDX-License-Identifier: GPL-2.0-only

//! What the IOMMU core knows about an attachment.
//!
//! A [`Handle`] is in the core's tables from attach to detach, and leads page faults and software
//! MSIs to the device. It is a value: who has it knows that the hardware uses the domain. It is
//! bound to be given to [`Handle::detach`]; dropped otherwise it leaks, rather than free what the
//! core still refers to.
//!
//! All of it runs under the group's mutex, and takes the core's own.
//!
//! C header: [`drivers/iommu/iommu-priv.h`](srctree/drivers/iommu/iommu-priv.h)

use super::{
    device::Device,
    hwpt::Hwpt, //
};
use core::ptr::NonNull;
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

/// `struct iommufd_attach_handle`, known to the core.
///
/// # Invariants
///
/// It came from a `KBox`, and the core refers to it.
#[must_use = "the core refers to it until it is detached"]
pub(crate) struct Handle(NonNull<Raw>);

/// Makes one that the core does not know yet.
fn make(device: &Device) -> Result<KBox<Raw>> {
    let raw = Raw {
        handle: Default::default(),
        idev: device.as_raw(),
    };
    Ok(KBox::new(raw, GFP_KERNEL)?)
}

impl Handle {
    /// # Safety
    ///
    /// The core refers to it.
    unsafe fn known(handle: KBox<Raw>) -> Self {
        // INVARIANT: by the contract of this function.
        // SAFETY: `into_raw()` is not null.
        Self(unsafe { NonNull::new_unchecked(KBox::into_raw(handle)) })
    }

    /// Has DMA of the device with this PASID, or that of its whole group without one, go through
    /// the domain of `hwpt`.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the domain does not fit the device; `EBUSY`: somebody else attached it; `ENOMEM`.
    pub(crate) fn attach(hwpt: &Hwpt, device: &Device, pasid: Pasid) -> Result<Self> {
        let mut handle = make(device)?;
        let (domain, raw) = (hwpt.domain().as_raw(), &raw mut handle.handle);
        to_result(if pasid == NO_PASID {
            // SAFETY: All are valid, and the handle stays where it is.
            unsafe { bindings::iommu_attach_group_handle(domain, device.group().core(), raw) }
        } else {
            let dev = device.dev().as_raw();
            // SAFETY: As above.
            unsafe { bindings::iommu_attach_device_pasid(domain, dev, pasid, raw) }
        })?;
        // SAFETY: The core took it.
        Ok(unsafe { Self::known(handle) })
    }

    /// Has the DMA go through the domain of `new`, without a moment in which it goes nowhere.
    /// Page faults on `old` that were not answered yet are.
    ///
    /// # Errors
    ///
    /// As [`Self::attach`]; nothing has changed then.
    pub(crate) fn replace(
        &mut self,
        new: &Hwpt,
        old: &Hwpt,
        device: &Device,
        pasid: Pasid,
    ) -> Result {
        let mut handle = make(device)?;
        let (domain, raw) = (new.domain().as_raw(), &raw mut handle.handle);
        to_result(if pasid == NO_PASID {
            // SAFETY: All are valid, and the handle stays where it is.
            unsafe { bindings::iommu_replace_group_handle(device.group().core(), domain, raw) }
        } else {
            let dev = device.dev().as_raw();
            // SAFETY: As above.
            unsafe { bindings::iommu_replace_device_pasid(domain, dev, pasid, raw) }
        })?;
        // SAFETY: The core took it.
        let old_handle = core::mem::replace(self, unsafe { Self::known(handle) });
        // SAFETY: The core knows the new one instead.
        unsafe { old_handle.retire(old) };
        Ok(())
    }

    /// Leads faults and software MSIs of the group to another of its devices.
    pub(crate) fn lead_to(&self, device: &Device) {
        // SAFETY: By the type invariant it is valid; the field is read and written whole.
        unsafe { (&raw mut (*self.0.as_ptr()).idev).write_volatile(device.as_raw()) };
    }

    /// Blocks the DMA. Page faults that were not answered yet are.
    pub(crate) fn detach(self, hwpt: &Hwpt, device: &Device, pasid: Pasid) {
        let domain = hwpt.domain().as_raw();
        if pasid == NO_PASID {
            // SAFETY: All are valid; this is attached.
            unsafe { bindings::iommu_detach_group_handle(domain, device.group().core()) };
        } else {
            // SAFETY: As above.
            unsafe { bindings::iommu_detach_device_pasid(domain, device.dev().as_raw(), pasid) };
        }
        // SAFETY: The core forgot it.
        unsafe { self.retire(hwpt) };
    }

    /// # Safety
    ///
    /// The core does not refer to it any more.
    unsafe fn retire(self, hwpt: &Hwpt) {
        // SAFETY: Both are valid; no faults are reported for this handle any more.
        unsafe { bindings::iommufd_auto_response_faults(hwpt.as_raw(), self.0.as_ptr()) };
        // SAFETY: It came from a `KBox`, and nobody refers to it.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}
