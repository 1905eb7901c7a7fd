// SPDX-License-Identifier: GPL-2.0-only

//! vIOMMUs in memory: the core's part first, the driver's behind it.
//!
//! The driver says how large its structure is and initialises its part; the core allocates and
//! frees. A vIOMMU holds its nest parent, and is held by what is made on it.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    context::Ctx,
    device::Device,
    domain::{
        Domain,
        UserArray,
        UserBuffer,
        UserData, //
    }, //
};
use crate::{
    hwpt::PagingHwpt,
    ioas::Ioas,
    object::{
        Built,
        Head,
        Hold,
        Kind,
        ObjectType,
        Unpublished, //
    }, //
};
use core::mem::size_of;
use kernel::{
    bindings,
    c_str,
    error::to_result,
    prelude::*,
    static_lock_class,
    types::Opaque, //
};

/// `struct iommufd_viommu`: a share of the hardware, given to a virtual machine.
#[repr(transparent)]
pub(crate) struct Viommu(Opaque<bindings::iommufd_viommu>);

// SAFETY: It has locks of its own.
unsafe impl Send for Viommu {}
// SAFETY: It has locks of its own.
unsafe impl Sync for Viommu {}
// SAFETY: The C structure begins with the head.
unsafe impl Head for Viommu {}
// SAFETY: This is what C has for the kind.
unsafe impl Kind for Viommu {
    const ID: ObjectType = ObjectType(bindings::iommufd_object_type_IOMMUFD_OBJ_VIOMMU);
}

impl Viommu {
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_viommu {
        self.0.get()
    }

    /// The IOMMU that it is a share of.
    pub(super) fn iommu_dev(&self) -> *mut bindings::iommu_device {
        // SAFETY: It does not change once the object is published.
        unsafe { (*self.as_raw()).iommu_dev }
    }

    pub(super) fn ops(&self) -> Option<&bindings::iommufd_viommu_ops> {
        // SAFETY: It does not change once the object is published; tables are static.
        unsafe { (*self.as_raw()).ops.as_ref() }
    }

    /// Its context.
    pub(super) fn ctx(&self) -> &Ctx {
        // SAFETY: It does not change, and a context outlives its objects.
        unsafe { Ctx::from_raw((*self.as_raw()).ictx) }
    }

    /// The nest parent that it is on.
    pub(crate) fn parent(&self) -> &PagingHwpt {
        // SAFETY: The vIOMMU has a hold on it, and it does not change.
        unsafe { &*(*self.as_raw()).hwpt.cast() }
    }

    /// Makes a domain whose page table user space manages.
    ///
    /// # Errors
    ///
    /// What the driver says; `EOPNOTSUPP` when it makes none.
    pub(crate) fn alloc_nested(&self, flags: u32, data: &UserData<'_>) -> Result<Domain> {
        let op = self
            .ops()
            .and_then(|ops| ops.alloc_domain_nested)
            .ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the vIOMMU's own operation, and only reads the data.
        let raw = unsafe { op(self.as_raw(), flags, data.as_raw()) };
        // SAFETY: It is what the driver allocated, and the driver is that of the IOMMU.
        unsafe { Domain::adopt(raw, (*self.iommu_dev()).ops) }
    }

    /// As [`Domain::cache_invalidate`], for everything that the vIOMMU has.
    #[inline]
    pub(crate) fn cache_invalidate(&self, requests: &mut UserArray) -> Option<Result> {
        let op = self.ops()?.cache_invalidate?;
        // SAFETY: It is the vIOMMU's own operation, and the array is ours.
        Some(to_result(unsafe { op(self.as_raw(), requests.as_raw()) }))
    }
}

const VIOMMU: ObjectType = ObjectType(bindings::iommufd_object_type_IOMMUFD_OBJ_VIOMMU);

/// The driver's structure must have room for the core's; another size is a bug of the driver's.
///
/// # Errors
///
/// `EOPNOTSUPP`: the driver has none (0), or that bug.
pub(super) fn checked(size: usize, least: usize) -> Result<usize> {
    if size == 0 || kernel::warn_on_once!(size < least) {
        return Err(EOPNOTSUPP);
    }
    Ok(size)
}

/// How the driver of a device makes vIOMMUs of a type.
pub(crate) struct ViommuDriver {
    iommu_dev: *mut bindings::iommu_device,
    size: usize,
    init: unsafe extern "C" fn(
        *mut bindings::iommufd_viommu,
        *mut bindings::iommu_domain,
        *const bindings::iommu_user_data,
    ) -> c_int,
}

impl ViommuDriver {
    /// # Errors
    ///
    /// `EOPNOTSUPP`: there is no IOMMU, or its driver makes none of this type.
    pub(crate) fn of(device: &Device, type_: u32) -> Result<Self> {
        let iommu_dev = device.dev().iommu_dev();
        if device.is_noiommu() || kernel::warn_on_once!(iommu_dev.is_null()) {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The device is bound, so that its IOMMU stays.
        let ops = unsafe { (*iommu_dev).ops };
        // SAFETY: Tables are static, and an IOMMU that has devices has one.
        let ops = unsafe { &*ops };
        let get_size = ops.get_viommu_size.ok_or(EOPNOTSUPP)?;
        let init = ops.viommu_init.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the driver of the device.
        let size = unsafe { get_size(device.dev().as_raw(), type_) };
        Ok(Self {
            iommu_dev,
            size: checked(size, size_of::<bindings::iommufd_viommu>())?,
            init,
        })
    }

    /// Makes a vIOMMU on a nest parent. The driver reads and writes user memory meanwhile, so the
    /// device may not be lent any more; it is not needed.
    ///
    /// # Errors
    ///
    /// What the driver says; `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn build<'a>(
        &self,
        ctx: &'a Ctx,
        parent: &PagingHwpt,
        type_: u32,
        data: &UserBuffer,
    ) -> Result<Built<'a>> {
        let object = Unpublished::new(ctx, self.size, VIOMMU)?;
        let raw = object.as_raw().cast::<bindings::iommufd_viommu>();
        // `destroy_viommu` lets go of it.
        let hold = Hold::new(parent).into_raw();
        // SAFETY: `size` is at least that of the structure. It is zeroed, ours alone but for the
        // head, which lookups may see, and stays where it is; the name and the class are static.
        unsafe {
            (*raw).type_ = type_;
            (*raw).ictx = ctx.as_raw();
            (*raw).hwpt = hold.as_ptr().cast();
            // A pluggable IOMMU would count its users itself.
            (*raw).iommu_dev = self.iommu_dev;
            bindings::iommu_xa_init_flags(&raw mut (*raw).vdevs, 0);
            bindings::INIT_LIST_HEAD(&raw mut (*raw).veventqs);
            bindings::__init_rwsem(
                &raw mut (*raw).veventqs_rwsem,
                c_str!("viommu->veventqs_rwsem").as_char_ptr(),
                static_lock_class!().as_ptr(),
            );
        }
        // SAFETY: Initialised just now; without the driver's part there are no operations.
        let object = unsafe { object.built() };
        // SAFETY: The driver of the IOMMU gets its own part to initialise.
        to_result(unsafe { (self.init)(raw, parent.domain().as_raw(), data.as_raw()) })?;
        // SAFETY: Nobody else knows the object yet.
        let ops = unsafe { (*raw).ops };
        if kernel::warn_on_once!(ops.is_null()) {
            return Err(EOPNOTSUPP);
        }
        Ok(object)
    }
}

/// Releases what a vIOMMU holds.
///
/// # Safety
///
/// `obj` must be a vIOMMU that nobody else refers to.
pub(crate) unsafe extern "C" fn destroy_viommu(obj: *mut bindings::iommufd_object) {
    // SAFETY: The caller gives a vIOMMU away, which is complete.
    let viommu = unsafe { &*obj.cast::<Viommu>() };
    if let Some(destroy) = viommu.ops().and_then(|ops| ops.destroy) {
        // SAFETY: The driver's own operation; vDEVICEs and queues have held it, so there are none.
        unsafe { destroy(viommu.as_raw()) };
    }
    let parent = viommu.parent();
    // SAFETY: Nobody has a vDEVICE of it, so nobody looks for one.
    unsafe { bindings::xa_destroy(viommu.vdevs()) };
    // SAFETY: The hold that `ViommuDriver::build` gave to the vIOMMU.
    drop(unsafe { Hold::adopt(parent) });
}

impl Viommu {
    /// Its vDEVICEs by their virtual ids. The xarray has a spinlock, which is a leaf.
    pub(super) fn vdevs(&self) -> *mut bindings::xarray {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.as_raw()).vdevs }
    }

    /// The IOVAs of the virtual machine: those of the nest parent.
    pub(crate) fn ioas(&self) -> &Ioas {
        self.parent().ioas()
    }
}
