// SPDX-License-Identifier: GPL-2.0-only

//! A device that is bound to a context, as VFIO binds devices.
//!
//! It is attached and detached by the in-kernel API, as VFIO does it: the compiler makes one body
//! of these functions for the API alone, and a worse one for two callers.

use crate::{
    device,
    ffi::{
        context::Ctx,
        device::{
            unbind,
            Device as IdDevice, //
        },
        domain::PhysDev, //
    },
    object::{
        Head,
        Hold, //
    }, //
};
use core::mem::ManuallyDrop;
use kernel::{
    bindings,
    device::Device,
    error::{
        from_err_ptr,
        to_result, //
    },
    iommu::{
        domain::AnyDomain,
        ops::Pasid, //
    },
    prelude::*, //
};

/// A device that is bound to a context. Dropping it unbinds the device, which waits for the
/// ioctls that use it.
pub(crate) struct BoundDevice(ManuallyDrop<Hold<IdDevice>>);

impl BoundDevice {
    /// Binds a device; gives its id as well.
    ///
    /// # Errors
    ///
    /// `ENODEV`: no IOMMU serves it. `EPERM`: interrupts are not isolated. `ENOMEM`: no memory.
    pub(crate) fn bind(ctx: &Ctx, dev: &Device) -> Result<(Self, u32)> {
        // SAFETY: The mock's devices are there until they are unbound here, and no other driver is
        // bound to them.
        let dev = unsafe { PhysDev::from_raw(core::ptr::from_ref(dev).cast_mut().cast()) };
        let bound = device::bind(ctx, dev)?;
        let id = bound.id();
        Ok((Self(ManuallyDrop::new(bound)), id))
    }

    /// Attaches to the IOAS or page table with this id; gives the id of the page table.
    ///
    /// # Errors
    ///
    /// `ENOENT`: no such object. `EBUSY`, `EINVAL`: it is attached, or does not fit.
    pub(crate) fn attach(&mut self, pasid: Pasid, mut pt_id: u32) -> Result<u32> {
        let device = self.0.as_raw();
        // SAFETY: It is bound until this is dropped.
        to_result(unsafe { bindings::iommufd_device_attach(device, pasid, &mut pt_id) })?;
        Ok(pt_id)
    }

    /// Moves from where it is attached to; otherwise as [`BoundDevice::attach`].
    ///
    /// # Errors
    ///
    /// As for [`BoundDevice::attach`]; it stays where it was then.
    pub(crate) fn replace(&mut self, pasid: Pasid, mut pt_id: u32) -> Result<u32> {
        let device = self.0.as_raw();
        // SAFETY: It is bound until this is dropped.
        to_result(unsafe { bindings::iommufd_device_replace(device, pasid, &mut pt_id) })?;
        Ok(pt_id)
    }

    /// Detaches, if it is attached.
    pub(crate) fn detach(&mut self, pasid: Pasid) {
        // SAFETY: It is bound until this is dropped.
        unsafe { bindings::iommufd_device_detach(self.0.as_raw(), pasid) };
    }

    /// Whether it is attached to this domain, or to none.
    pub(crate) fn is_attached_to(&self, pasid: Pasid, domain: Option<&AnyDomain>) -> bool {
        // SAFETY: The group is alive as long as the device is bound.
        let handle = unsafe { bindings::iommu_attach_handle_get(self.0.group().core(), pasid, 0) };
        let attached = match from_err_ptr(handle) {
            // SAFETY: Only `attach()`, `replace()` and `detach()` end a handle, and they need
            // exclusive access.
            Ok(handle) => unsafe { (*handle).domain },
            Err(_) => core::ptr::null_mut(),
        };
        attached == domain.map_or(core::ptr::null_mut(), AnyDomain::as_raw)
    }
}

impl Drop for BoundDevice {
    fn drop(&mut self) {
        // SAFETY: It is not used again.
        unbind(unsafe { ManuallyDrop::take(&mut self.0) });
    }
}
