// SPDX-License-Identifier: GPL-2.0-only

//! Devices that are bound to a context.
//!
//! A [`Device`] owns the DMA of its group, then its place in the group, then the context: that is
//! the order in which they are given back. The group's mutex guards what a vIOMMU keeps here.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    attach_handle::Pasid,
    context::{
        Ctx,
        CtxRef, //
    },
    domain::{
        Driver,
        PhysDev, //
    },
    driver_objects::{
        Vdevice,
        Viommu, //
    },
    errno,
    group::{
        Group,
        GroupRef,
        Locked, //
    },
    shared::{
        DeviceHead,
        GroupHead, //
    },
    ucmd::UserStruct, //
};
use crate::{
    attach::{
        self,
        Attachments, //
    },
    change_pt::{
        change_pt,
        How, //
    },
    device,
    object::{
        assert_offsets,
        begins_with_head,
        downcast,
        Address,
        Head,
        Hold,
        Object,
        Reserved, //
    }, //
};
use core::{
    pin::Pin,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    iommu::device::DmaOwner,
    prelude::*,
    sync::{
        aref::ARef,
        LockedBy, //
    }, //
};

/// The structures and constants of the user API for devices.
pub(crate) mod uapi {
    use kernel::bindings;

    pub(crate) use bindings::{
        iommu_hw_info as HwInfo,
        iommu_hw_info_type_IOMMU_HW_INFO_TYPE_DEFAULT as TYPE_DEFAULT,
        iommufd_hw_capabilities_IOMMU_HW_CAP_DIRTY_TRACKING as CAP_DIRTY_TRACKING,
        iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED as CAP_NO_ATS,
        iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_PASID_EXEC as CAP_PASID_EXEC,
        iommufd_hw_capabilities_IOMMU_HW_CAP_PCI_PASID_PRIV as CAP_PASID_PRIV,
        iommufd_hw_info_flags_IOMMU_HW_INFO_FLAG_INPUT_TYPE as INPUT_TYPE,
        IOMMUFD_CMD_GET_HW_INFO as CMD_GET_HW_INFO,
        PCI_PASID_CTRL_ENABLE as PASID_ENABLED,
        PCI_PASID_CTRL_EXEC as PASID_EXEC,
        PCI_PASID_CTRL_PRIV as PASID_PRIV, //
    };
}

// SAFETY: The UAPI header gives it integers of fixed size only, without padding.
unsafe impl UserStruct for uapi::HwInfo {}

/// The type of information that user space asks for.
pub(crate) fn in_type(cmd: &uapi::HwInfo) -> u32 {
    // SAFETY: Both names of the union are the same integer.
    unsafe { cmd.__bindgen_anon_1.in_data_type }
}

/// Tells user space the type of information that it gets.
pub(crate) fn set_out_type(cmd: &mut uapi::HwInfo, kind: u32) {
    cmd.__bindgen_anon_1.out_data_type = kind;
}

/// A device, bound to a context: C's `struct iommufd_device`. It begins with a [`DeviceHead`].
///
/// # Invariants
///
/// `ctx` lives until it is destroyed, `dev` as long as this.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Device {
    #[pin]
    object: Object,
    ctx: NonNull<Ctx>,
    group_head: NonNull<GroupHead>,
    dev: NonNull<bindings::device>,
    // What drivers do not need to know.
    enforce_cache_coherency: bool,
    vdev: LockedBy<OfVdevice, Attachments>,
    group: GroupRef,
    owner: Option<DmaOwner<'static>>,
    context: Option<CtxRef>,
    // Keeps `dev`.
    _dev: ARef<kernel::device::Device>,
}

assert_offsets!(Device as DeviceHead: ctx, group_head = group, dev);

// SAFETY: What changes after it is published is guarded by the group's mutex, and what it refers
// to is not bound to a thread.
unsafe impl Send for Device {}
// SAFETY: What changes after it is published is guarded by the group's mutex, and what it refers
// to is not bound to a thread.
unsafe impl Sync for Device {}
begins_with_head!(Device, object);

/// What a device knows of its vDEVICE.
#[derive(Default)]
struct OfVdevice {
    /// Where it is, if there is one.
    at: Option<Address<Vdevice>>,
    /// The device is being destroyed, so that no vDEVICE may refer to it any more.
    is_retired: bool,
}

/// What a device is made of.
pub(crate) struct Parts<'a> {
    /// The ownership of its DMA; there is none without an IOMMU.
    pub(crate) owner: Option<DmaOwner<'a>>,
    /// Its place in its group.
    pub(crate) group: GroupRef,
    /// Whether domains for it must forbid DMA that does not snoop.
    pub(crate) enforce_cache_coherency: bool,
}

impl Device {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn reserve<'a>(
        ctx: &'a Ctx,
        dev: &PhysDev,
        parts: Parts<'_>,
    ) -> Result<Reserved<'a, Self>> {
        // The selftest's devices go away with the context, so they cannot keep it.
        let context = (!dev.is_mock()).then(|| CtxRef::new(ctx));
        // SAFETY: It lasts until the device is destroyed, which its driver has done before it lets
        // go of the device.
        let owner = unsafe {
            core::mem::transmute::<Option<DmaOwner<'_>>, Option<DmaOwner<'static>>>(parts.owner)
        };
        let kept = dev.as_device().into();
        let init = pin_init!(Self {
            object <- Object::new(),
            ctx: NonNull::from(ctx),
            group_head: NonNull::from(parts.group.head()),
            dev: NonNull::from(dev).cast(),
            enforce_cache_coherency: parts.enforce_cache_coherency,
            vdev: parts.group.guard(OfVdevice::default()),
            group: parts.group,
            owner,
            context,
            _dev: kept,
        });
        Reserved::new(ctx, init)
    }

    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_device {
        ptr::from_ref(self).cast_mut().cast()
    }

    /// The context that it is bound to.
    pub(crate) fn ctx(&self) -> &Ctx {
        // SAFETY: The context lives until its devices are destroyed.
        unsafe { self.ctx.as_ref() }
    }

    /// The physical device.
    pub(crate) fn dev(&self) -> &PhysDev {
        // SAFETY: The device is there as long as this, and bound until this is destroyed.
        unsafe { PhysDev::from_raw(self.dev.as_ptr()) }
    }

    /// Its group.
    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// Whether there is no IOMMU, and the device's DMA goes where it likes.
    pub(crate) fn is_noiommu(&self) -> bool {
        self.group.is_noiommu()
    }

    /// Whether domains for it must forbid DMA that does not snoop.
    pub(crate) fn enforces_cache_coherency(&self) -> bool {
        self.enforce_cache_coherency
    }

    /// The driver that makes domains for it.
    ///
    /// # Errors
    ///
    /// `ENODEV`: none does any more.
    pub(crate) fn driver(&self) -> Result<Driver<'_>> {
        #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
        if self.is_noiommu() {
            return Ok(super::software_table::driver());
        }
        Driver::of(self.dev())
    }

    /// Whether the vIOMMU is a share of the IOMMU that serves this device.
    pub(crate) fn is_behind(&self, viommu: &Viommu) -> bool {
        let iommu_dev = self.dev().iommu_dev();
        !self.is_noiommu() && !iommu_dev.is_null() && ptr::eq(iommu_dev, viommu.iommu_dev())
    }

    /// Whether the device is being destroyed, so that no vDEVICE may refer to it any more.
    pub(crate) fn is_retired(&self, group: &Locked<'_>) -> bool {
        self.vdev.access(group).is_retired
    }

    /// Whether there is a vDEVICE of the device.
    pub(crate) fn has_vdev(&self, group: &Locked<'_>) -> bool {
        self.vdev.access(group).at.is_some()
    }

    /// Names the vDEVICE of the device. It takes itself out again.
    pub(super) fn set_vdev(&self, group: &mut Locked<'_>, vdev: Option<&Vdevice>) {
        self.vdev.access_mut(group).at = vdev.map(Address::of);
    }

    /// Has vIOMMUs refer to the device no more; returns the vDEVICE that does. It may be on its
    /// way out, which [`Hold::of_known`] tells.
    pub(crate) fn retire_vdev<'a>(&self, group: &'a mut Locked<'_>) -> Option<&'a Vdevice> {
        let vdev = self.vdev.access_mut(group);
        vdev.is_retired = true;
        // SAFETY: It takes itself out of the field, under the mutex, before it is freed.
        vdev.at.as_ref().map(|vdev| unsafe { vdev.follow() })
    }
}

#[pinned_drop]
impl PinnedDrop for Device {
    fn drop(self: Pin<&mut Self>) {
        // Before the group, which goes before the context: that one the caller has, see
        // `iommufd_device_unbind`.
        *self.project().owner = None;
    }
}

/// Whether user space lets devices be bound whose interrupts are not isolated: the module's
/// parameter.
pub(crate) fn allows_unsafe_interrupts() -> bool {
    // SAFETY: A byte that is written whole.
    unsafe { ptr::read_volatile(&raw const bindings::iommufd_allow_unsafe_interrupts) }
}

/// Zeroes user memory.
///
/// # Errors
///
/// `EFAULT`.
pub(crate) fn clear_user(at: usize, len: usize) -> Result {
    // SAFETY: It checks the range.
    match unsafe { bindings::clear_user(at as *mut c_void, len) } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}

/// Binds a device to a context; the id of the new object goes to `id`.
///
/// # Safety
///
/// `ictx` is open, the caller is the driver that is bound to `dev`, and undoes this before it is
/// not any more, and `id` may be written.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_bind(
    ictx: *mut bindings::iommufd_ctx,
    dev: *mut bindings::device,
    id: *mut u32,
) -> *mut bindings::iommufd_device {
    // SAFETY: The caller has the context open.
    let ctx = unsafe { Ctx::from_raw(ictx) };
    // SAFETY: The caller is the driver that is bound to the device.
    let dev = unsafe { PhysDev::from_raw(dev) };
    match device::bind(ctx, dev) {
        Ok(device) => {
            // SAFETY: The caller lets us write there.
            unsafe { *id = device.id() };
            device.into_raw().as_ptr().cast()
        }
        Err(e) => e.to_ptr(),
    }
}

/// Undoes a bind.
pub(super) fn unbind(device: Hold<Device>) {
    // SAFETY: `_context` keeps it, as the device's own reference may be the last one. The
    // selftest's devices have none, and are unbound by ioctls of the context or by its end.
    let ctx = unsafe { device.ctx.as_ref() };
    let _context = device.context.as_ref().map(|_| CtxRef::new(ctx));
    device::unbind(ctx, device);
}

/// Undoes a bind.
///
/// # Safety
///
/// `idev` was bound, and is not used again.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_unbind(idev: *mut bindings::iommufd_device) {
    // SAFETY: The caller has bound the device, which stays until it is unbound. Bind gave the
    // caller a hold.
    unbind(unsafe { Hold::adopt(&*idev.cast::<Device>()) });
}

/// Whether a device of the group is bound to the context.
///
/// # Safety
///
/// `ictx` is open, or null.
#[export]
pub(crate) unsafe extern "C" fn iommufd_ctx_has_group(
    ictx: *mut bindings::iommufd_ctx,
    group: *mut bindings::iommu_group,
) -> bool {
    if ictx.is_null() || group.is_null() {
        return false;
    }
    // SAFETY: The caller has the context open.
    let ctx = unsafe { Ctx::from_raw(ictx) };
    // What is in the table is complete while its lock is held.
    let objects = ctx.objects().lock();
    let mut devices = objects.iter().filter_map(downcast::<Device>);
    devices.any(|device| device.group.is(group))
}

/// The context that a device is bound to.
///
/// # Safety
///
/// `idev` is bound.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_to_ictx(
    idev: *mut bindings::iommufd_device,
) -> *mut bindings::iommufd_ctx {
    // SAFETY: The caller has bound the device.
    unsafe { &*idev.cast::<Device>() }.ctx().as_raw()
}

/// The id of a device.
///
/// # Safety
///
/// `idev` is bound.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_to_id(idev: *mut bindings::iommufd_device) -> u32 {
    // SAFETY: The caller has bound the device.
    unsafe { &*idev.cast::<Device>() }.id()
}

/// # Safety
///
/// `idev` is bound, and `pt_id` may be read and written.
unsafe fn change(
    idev: *mut bindings::iommufd_device,
    pasid: Pasid,
    pt_id: *mut u32,
    how: How,
) -> c_int {
    // SAFETY: The caller has bound the device, which stays until it is unbound.
    let device = unsafe { &*idev.cast::<Device>() };
    // SAFETY: The caller lets us read and write there, and nobody else does.
    let pt_id = unsafe { &mut *pt_id };
    errno(change_pt(device, pasid, *pt_id, how).map(|id| *pt_id = id))
}

/// Attaches a device or a PASID to a hwpt or an IOAS; `pt_id` becomes that of the hwpt.
///
/// # Safety
///
/// `idev` is bound, and `pt_id` may be read and written.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_attach(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
    pt_id: *mut u32,
) -> c_int {
    // SAFETY: The caller has bound the device, and lets us read and write `pt_id`.
    unsafe { change(idev, pasid, pt_id, How::Attach) }
}

/// The same for one that is attached.
///
/// # Safety
///
/// `idev` is bound, and `pt_id` may be read and written.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_replace(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
    pt_id: *mut u32,
) -> c_int {
    // SAFETY: The caller has bound the device, and lets us read and write `pt_id`.
    unsafe { change(idev, pasid, pt_id, How::Replace) }
}

/// Undoes an attach.
///
/// # Safety
///
/// `idev` is bound.
#[export]
pub(crate) unsafe extern "C" fn iommufd_device_detach(
    idev: *mut bindings::iommufd_device,
    pasid: bindings::ioasid_t,
) {
    // SAFETY: The caller has bound the device, which stays until it is unbound.
    let device = unsafe { &*idev.cast::<Device>() };
    if let Some(hwpt) = attach::detach(device, pasid) {
        attach::release(device.ctx(), hwpt);
    }
}
