// SPDX-License-Identifier: GPL-2.0-only

//! What exists once: the mock bus, the mock IOMMU, its queue of page faults, and the knob for
//! fault injection. All of it is there as long as the module is.
//!
//! C headers: [`include/linux/iommu.h`](srctree/include/linux/iommu.h),
//! [`include/linux/fault-inject.h`](srctree/include/linux/fault-inject.h)

use crate::selftest;
use core::{
    mem::MaybeUninit,
    ptr::null_mut, //
};
use kernel::{
    bindings,
    device::Device,
    error::{
        from_err_ptr,
        to_result, //
    },
    iommu::ops::{
        IommuDevice,
        Pasid,
        NO_PASID, //
    },
    prelude::*,
    types::{
        Opaque,
        ScopeGuard, //
    }, //
};

/// What exists once.
///
/// # Invariants
///
/// `faults`, `platform` and `debugfs` are only written to by [`register`] and [`unregister`],
/// while there is no mock device.
struct Instance {
    bus: Opaque<bindings::bus_type>,
    notifier: Opaque<bindings::notifier_block>,
    iommu: IommuDevice,
    fail: Opaque<bindings::fault_attr>,
    faults: Opaque<*mut bindings::iopf_queue>,
    platform: Opaque<*mut bindings::platform_device>,
    debugfs: Opaque<*mut bindings::dentry>,
}

// SAFETY: The C structures do their own locking; for the pointers see the invariants.
unsafe impl Sync for Instance {}

static INSTANCE: Instance = Instance {
    bus: Opaque::new({
        // SAFETY: All of its members may be zero.
        let mut bus: bindings::bus_type = unsafe { MaybeUninit::zeroed().assume_init() };
        bus.name = c"iommufd_mock".to_bytes_with_nul().as_ptr().cast();
        bus
    }),
    notifier: Opaque::zeroed(),
    iommu: IommuDevice::new(),
    fail: Opaque::zeroed(),
    faults: Opaque::new(null_mut()),
    platform: Opaque::new(null_mut()),
    debugfs: Opaque::new(null_mut()),
};

/// The mock bus.
pub(super) fn bus() -> *const bindings::bus_type {
    INSTANCE.bus.get()
}

/// The mock IOMMU.
pub(crate) fn iommu() -> &'static IommuDevice {
    &INSTANCE.iommu
}

/// Whether the caller should fail now.
pub(crate) fn should_fail() -> bool {
    // SAFETY: It lives as long as the module.
    unsafe { bindings::should_fail(INSTANCE.fail.get(), 1) }
}

fn faults() -> *mut bindings::iopf_queue {
    // SAFETY: See the invariants of `Instance`.
    unsafe { *INSTANCE.faults.get() }
}

/// Makes room for the page faults of a device.
///
/// # Errors
///
/// `ENODEV`: there is no queue. `ENOMEM`: no memory.
pub(crate) fn add_fault_source(dev: &Device) -> Result {
    if faults().is_null() {
        return Err(ENODEV);
    }
    // SAFETY: Both are alive.
    to_result(unsafe { bindings::iopf_queue_add_device(faults(), raw(dev)) })
}

/// Takes back what [`add_fault_source`] made.
pub(crate) fn remove_fault_source(dev: &Device) {
    // SAFETY: Both are alive.
    unsafe { bindings::iopf_queue_remove_device(faults(), raw(dev)) };
}

fn raw(dev: &Device) -> *mut bindings::device {
    core::ptr::from_ref(dev).cast_mut().cast()
}

/// A page fault.
pub(crate) struct PageFault {
    /// With which PASID.
    pub(crate) pasid: Pasid,
    /// Which group it is the last of.
    pub(crate) group: u32,
    /// What the access was.
    pub(crate) perm: u32,
    /// Where it was.
    pub(crate) addr: u64,
}

/// Reports a page fault of a device, the way an interrupt handler does: at any time.
pub(crate) fn report_fault(dev: &Device, fault: &PageFault) {
    let mut event = bindings::iopf_fault::default();
    event.fault.type_ = bindings::iommu_fault_type_IOMMU_FAULT_PAGE_REQ;
    let request = &mut event.fault.prm;
    request.flags = bindings::IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE;
    if fault.pasid != NO_PASID {
        request.flags |= bindings::IOMMU_FAULT_PAGE_REQUEST_PASID_VALID;
    }
    request.pasid = fault.pasid;
    request.grpid = fault.group;
    request.perm = fault.perm;
    request.addr = fault.addr;
    // A fault that nobody takes is answered by the core.
    // SAFETY: The device is alive; the event is copied.
    let _ = unsafe { bindings::iommu_report_device_fault(raw(dev), &mut event) };
}

/// Brings everything up.
///
/// # Errors
///
/// `ENOMEM`, or what registering runs into; nothing is left behind then.
pub(super) fn register() -> Result {
    let this = &INSTANCE;
    // SAFETY: Nobody uses it yet.
    unsafe { bindings::init_fault_attr(this.fail.get()) };
    // SAFETY: It lives as long as the module, and the entry goes before.
    let debugfs = unsafe {
        bindings::fault_create_debugfs_attr(
            c"fail_iommufd".as_char_ptr(),
            null_mut(),
            this.fail.get(),
        )
    };
    // SAFETY: An error pointer is fine, too.
    let undo_debugfs = ScopeGuard::new(|| unsafe { bindings::debugfs_remove(debugfs) });

    let info = bindings::platform_device_info {
        name: c"iommufd_selftest_iommu".as_char_ptr(),
        ..Default::default()
    };
    // SAFETY: All that it needs is there.
    let platform = from_err_ptr(unsafe { bindings::platform_device_register_full(&info) })?;
    // SAFETY: It was just registered.
    let undo_platform =
        ScopeGuard::new(move || unsafe { bindings::platform_device_unregister(platform) });

    // SAFETY: The bus lives as long as the module.
    to_result(unsafe { bindings::bus_register(bus()) })?;
    // SAFETY: It was just registered.
    let undo_bus = ScopeGuard::new(|| unsafe { bindings::bus_unregister(bus()) });

    // SAFETY: The platform device is alive.
    let parent = unsafe { Device::from_raw(&raw mut (*platform).dev) };
    // SAFETY: The format fits the argument.
    to_result(unsafe {
        bindings::iommu_device_sysfs_add(
            this.iommu.as_raw(),
            raw(parent),
            null_mut(),
            c"%s".as_char_ptr(),
            parent.name().as_char_ptr(),
        )
    })?;
    // SAFETY: It was just added.
    let undo_sysfs =
        ScopeGuard::new(|| unsafe { bindings::iommu_device_sysfs_remove(this.iommu.as_raw()) });

    // SAFETY: All of them live as long as the module.
    to_result(unsafe {
        bindings::iommu_device_register_bus(
            this.iommu.as_raw(),
            selftest::IOMMU.as_raw(),
            bus(),
            this.notifier.get(),
        )
    })?;

    // SAFETY: The name lives forever. Without a queue there are no page faults.
    let faults = unsafe { bindings::iopf_queue_alloc(c"mock-iopfq".as_char_ptr()) };
    // SAFETY: There is no mock device yet.
    unsafe { *this.faults.get() = faults };
    // SAFETY: There is no mock device yet, so nobody else looks there.
    unsafe { *this.platform.get() = platform };
    // SAFETY: There is no mock device yet, so nobody else looks there.
    unsafe { *this.debugfs.get() = debugfs };
    // SAFETY: There is no mock device yet, so nobody else looks there.
    unsafe { (*this.iommu.as_raw()).max_pasids = 1 << bindings::MOCK_PASID_WIDTH };

    undo_sysfs.dismiss();
    undo_bus.dismiss();
    undo_platform.dismiss();
    undo_debugfs.dismiss();
    Ok(())
}

/// Takes everything down.
///
/// # Safety
///
/// [`register`] succeeded, and there is no mock device any more.
pub(super) unsafe fn unregister() {
    let this = &INSTANCE;
    if !faults().is_null() {
        // SAFETY: No device is on it.
        unsafe { bindings::iopf_queue_free(faults()) };
        // SAFETY: There is no mock device.
        unsafe { *this.faults.get() = null_mut() };
    }
    kernel::warn_on!(selftest::viommu::in_use());
    // SAFETY: `register()` added it, and so on below.
    unsafe { bindings::iommu_device_sysfs_remove(this.iommu.as_raw()) };
    // SAFETY: See above.
    unsafe {
        bindings::iommu_device_unregister_bus(this.iommu.as_raw(), bus(), this.notifier.get())
    };
    // SAFETY: See above.
    unsafe { bindings::bus_unregister(bus()) };
    // SAFETY: See above.
    unsafe { bindings::platform_device_unregister(*this.platform.get()) };
    // SAFETY: See above.
    unsafe { bindings::debugfs_remove(*this.debugfs.get()) };
}
