// SPDX-License-Identifier: GPL-2.0-only

//! vDEVICEs in memory: the core's part first, the driver's behind it.
//!
//! A vDEVICE holds its vIOMMU, and keeps a loan on its device, which the device's tear-down
//! revokes.
//!
//! Lock order: the device's group, then the xarray of the vIOMMU's vDEVICEs.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    context::Ctx,
    device::Device,
    group::Locked,
    viommu::{
        checked,
        Viommu, //
    }, //
};
use crate::object::{
    Built,
    Head,
    Hold,
    Loan,
    ObjectType,
    Unpublished, //
};
use core::{
    mem::{
        size_of,
        ManuallyDrop, //
    },
    ptr, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

const VDEVICE: ObjectType = ObjectType(bindings::iommufd_object_type_IOMMUFD_OBJ_VDEVICE);

type Init = unsafe extern "C" fn(*mut bindings::iommufd_vdevice) -> c_int;

impl Viommu {
    /// How the driver initialises vDEVICEs of this vIOMMU, and their size.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: a size without an initialisation, or too small a size, is the driver's bug.
    fn vdevice_ops(&self) -> Result<(usize, Option<Init>)> {
        const LEAST: usize = size_of::<bindings::iommufd_vdevice>();
        let Some(ops) = self.ops() else {
            return Ok((LEAST, None));
        };
        if ops.vdevice_size == 0 {
            return Ok((LEAST, ops.vdevice_init));
        }
        if kernel::warn_on_once!(ops.vdevice_init.is_none()) {
            return Err(EOPNOTSUPP);
        }
        Ok((checked(ops.vdevice_size, LEAST)?, ops.vdevice_init))
    }

    /// Calls `f` with the xarray of the vDEVICEs, its spinlock held. Where `f` has to allocate it
    /// may drop the lock.
    fn with_vdevs_locked<R>(&self, f: impl FnOnce(*mut bindings::xarray) -> R) -> R {
        // SAFETY: It was initialised with the vIOMMU.
        unsafe { bindings::xa_lock(self.vdevs()) };
        let result = f(self.vdevs());
        // SAFETY: It is held.
        unsafe { bindings::xa_unlock(self.vdevs()) };
        result
    }
}

/// A vDEVICE with an id, but without a device, so that nobody knows of it. Dropping it frees both.
pub(crate) struct Vacant<'a> {
    object: Unpublished<'a>,
    viommu: Hold<Viommu>,
    virt_id: usize,
    init: Option<Init>,
}

impl<'a> Vacant<'a> {
    /// Reserves an id and memory for a vDEVICE of a vIOMMU.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use; `EOPNOTSUPP` for a bug of the driver's.
    pub(crate) fn reserve(ctx: &'a Ctx, viommu: &Viommu, virt_id: usize) -> Result<Self> {
        let (size, init) = viommu.vdevice_ops()?;
        Ok(Self {
            object: Unpublished::new(ctx, size, VDEVICE)?,
            viommu: Hold::new(viommu),
            virt_id,
            init,
        })
    }

    /// The number that user space will know it by.
    pub(crate) fn id(&self) -> u32 {
        self.object.id()
    }

    /// What it is a device of.
    pub(crate) fn viommu(&self) -> &Viommu {
        &self.viommu
    }

    /// Completes it under the lock of its device's group, which must outlive it.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the vIOMMU has one with this virtual id; what the driver says; `ENOMEM`.
    pub(crate) fn build<'g>(self, device: &Device, group: &'g Locked<'_>) -> Result<Built<'g>>
    where
        'a: 'g,
    {
        let raw = self.object.as_raw().cast::<bindings::iommufd_vdevice>();
        // `abort_vdevice` lets go of it.
        let viommu = self.viommu.into_raw();
        // SAFETY: The object is at least as large as the structure. It is zeroed, and ours alone
        // but for the head, which lookups may see.
        unsafe {
            (*raw).virt_id = self.virt_id as u64;
            (*raw).viommu = viommu.cast().as_ptr();
            (*raw).idev = device.as_raw();
        }
        device.set_vdev(group, raw);
        // SAFETY: Initialised just now.
        let object = unsafe { self.object.built() };
        // SAFETY: The hold, which the vDEVICE has now, keeps it.
        let slot = Slot::reserve(unsafe { viommu.as_ref() }, self.virt_id)?;
        if let Some(init) = self.init {
            // SAFETY: The driver of the vIOMMU gets its own part to initialise.
            to_result(unsafe { init(raw) })?;
        }
        // Only now may the driver find it.
        slot.fill(raw);
        Ok(object)
    }
}

/// A virtual id that is reserved in a vIOMMU. Dropping it frees it.
struct Slot<'a> {
    viommu: &'a Viommu,
    virt_id: usize,
}

impl<'a> Slot<'a> {
    /// # Errors
    ///
    /// `EEXIST`: it is taken; `ENOMEM`.
    fn reserve(viommu: &'a Viommu, virt_id: usize) -> Result<Self> {
        let ret = viommu.with_vdevs_locked(|xa| {
            // SAFETY: The lock is held. Null stands for a reserved entry, which reads as absent.
            unsafe { bindings::__xa_insert(xa, virt_id, ptr::null_mut(), bindings::GFP_KERNEL) }
        });
        match to_result(ret) {
            Ok(()) => Ok(Self { viommu, virt_id }),
            Err(EBUSY) => Err(EEXIST),
            Err(e) => Err(e),
        }
    }

    fn fill(self, vdevice: *mut bindings::iommufd_vdevice) {
        let this = ManuallyDrop::new(self);
        // SAFETY: The slot is reserved, so that nothing is allocated; `abort_vdevice` empties it.
        unsafe {
            bindings::xa_store(
                this.viommu.vdevs(),
                this.virt_id,
                vdevice.cast(),
                bindings::GFP_KERNEL,
            )
        };
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // SAFETY: The slot is ours.
        unsafe { bindings::xa_erase(self.viommu.vdevs(), self.virt_id) };
    }
}

/// Lets a vDEVICE that was published keep the loan on its device.
pub(crate) fn keep_device(device: Loan<'_, Device>) {
    // `destroy_vdevice` ends it.
    device.leave();
}

/// Undoes a vDEVICE that was not published. With the lock of its device's group.
///
/// # Safety
///
/// `obj` must be a vDEVICE that nobody else refers to, and the lock of its device's group be held.
pub(crate) unsafe extern "C" fn abort_vdevice(obj: *mut bindings::iommufd_object) {
    let raw = obj.cast::<bindings::iommufd_vdevice>();
    // SAFETY: Nobody else refers to the vDEVICE.
    if let Some(destroy) = unsafe { (*raw).destroy } {
        // SAFETY: The driver's own operation on what it has initialised.
        unsafe { destroy(raw) };
    }
    // SAFETY: Nobody else refers to the vDEVICE, and its driver does not any more. The hold is what
    // `Vacant::build` gave it.
    let (viommu, device, virt_id) = unsafe {
        let viommu = Hold::<Viommu>::adopt(&*(*raw).viommu.cast());
        (viommu, (*raw).idev, (*raw).virt_id)
    };
    viommu.with_vdevs_locked(|xa| {
        let virt_id = virt_id as usize;
        // SAFETY: The lock is held. The slot is ours if it has this vDEVICE; otherwise making it
        // failed before it was filled, and it may be another's, which stays.
        unsafe {
            bindings::__xa_cmpxchg(
                xa,
                virt_id,
                raw.cast(),
                ptr::null_mut(),
                bindings::GFP_ATOMIC,
            )
        }
    });
    // SAFETY: The group's lock guards the field; the loan or the caller keeps the device.
    unsafe { (*device).vdev = ptr::null_mut() };
}

/// Undoes a vDEVICE and ends the loan on its device.
///
/// # Safety
///
/// `obj` must be a vDEVICE that nobody else refers to.
pub(crate) unsafe extern "C" fn destroy_vdevice(obj: *mut bindings::iommufd_object) {
    // SAFETY: Nobody else refers to the vDEVICE, whose device does not change.
    let device = unsafe { (*obj.cast::<bindings::iommufd_vdevice>()).idev };
    // SAFETY: The loan keeps the device.
    let device = unsafe { &*device.cast::<Device>() };
    let group = device.group().lock();
    // SAFETY: By the caller; the lock is held.
    unsafe { abort_vdevice(obj) };
    drop(group);
    // SAFETY: The loan that `keep_device` gave to the vDEVICE.
    drop(unsafe { Loan::<Device>::adopt(device.ctx(), device.object()) });
}
