// SPDX-License-Identifier: GPL-2.0-only

//! A device that is bound to a context: the in-kernel API that VFIO uses, too.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use crate::ffi::context::Ctx;
use core::ptr::NonNull;
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
///
/// # Invariants
///
/// It is what `iommufd_device_bind()` gave.
pub(crate) struct BoundDevice(NonNull<bindings::iommufd_device>);

// SAFETY: iommufd does its own locking.
unsafe impl Send for BoundDevice {}
// SAFETY: iommufd does its own locking.
unsafe impl Sync for BoundDevice {}

impl BoundDevice {
    /// Binds a device; gives its id as well.
    ///
    /// # Errors
    ///
    /// `ENODEV`: no IOMMU serves it. `EPERM`: interrupts are not isolated. `ENOMEM`: no memory.
    pub(crate) fn bind(ctx: &Ctx, dev: &Device) -> Result<(Self, u32)> {
        let mut id = 0;
        let dev = core::ptr::from_ref(dev).cast_mut().cast();
        // SAFETY: Both are alive; iommufd takes its own references.
        let bound =
            from_err_ptr(unsafe { bindings::iommufd_device_bind(ctx.as_raw(), dev, &mut id) })?;
        // INVARIANT: just bound.
        Ok((Self(NonNull::new(bound).ok_or(ENODEV)?), id))
    }

    /// Attaches to the IOAS or page table with this id; gives the id of the page table.
    ///
    /// # Errors
    ///
    /// `ENOENT`: no such object. `EBUSY`, `EINVAL`: it is attached, or does not fit.
    pub(crate) fn attach(&mut self, pasid: Pasid, mut pt_id: u32) -> Result<u32> {
        // SAFETY: It is bound until this is dropped.
        to_result(unsafe { bindings::iommufd_device_attach(self.0.as_ptr(), pasid, &mut pt_id) })?;
        Ok(pt_id)
    }

    /// Moves from where it is attached to; otherwise as [`BoundDevice::attach`].
    ///
    /// # Errors
    ///
    /// As for [`BoundDevice::attach`]; it stays where it was then.
    pub(crate) fn replace(&mut self, pasid: Pasid, mut pt_id: u32) -> Result<u32> {
        // SAFETY: It is bound until this is dropped.
        to_result(unsafe { bindings::iommufd_device_replace(self.0.as_ptr(), pasid, &mut pt_id) })?;
        Ok(pt_id)
    }

    /// Detaches, if it is attached.
    pub(crate) fn detach(&mut self, pasid: Pasid) {
        // SAFETY: It is bound until this is dropped.
        unsafe { bindings::iommufd_device_detach(self.0.as_ptr(), pasid) };
    }

    /// Whether it is attached to this domain, or to none.
    pub(crate) fn is_attached_to(&self, pasid: Pasid, domain: Option<&AnyDomain>) -> bool {
        // SAFETY: By the type invariant; a bound device is in a group.
        let group = unsafe { (*(*self.0.as_ptr()).dev).iommu_group };
        // SAFETY: The group is alive.
        let handle = unsafe { bindings::iommu_attach_handle_get(group, pasid, 0) };
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
        // SAFETY: It is bound, and not used again.
        unsafe { bindings::iommufd_device_unbind(self.0.as_ptr()) };
    }
}
