// SPDX-License-Identifier: GPL-2.0-only

//! Devices on the mock bus: a `struct device` with a [`MockDevice`] behind it.
//!
//! The driver core counts the references to a device and frees it with the last one; until then
//! the [`MockDevice`] is there, too.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h)

use super::registration;
use crate::selftest::device::MockDevice;
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    device::Device,
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// The allocation of one device.
#[repr(C)]
struct Embedded {
    dev: Opaque<bindings::device>,
    data: MockDevice,
}

/// A mock device that is registered. Dropping it unregisters the device.
///
/// # Invariants
///
/// The device is registered, and this stands for the reference that it began with.
pub(crate) struct RegisteredDevice(NonNull<Embedded>);

// SAFETY: It is a counted reference to something that is both.
unsafe impl Send for RegisteredDevice {}
// SAFETY: Devices are not bound to a thread, and have their own locks.
unsafe impl Sync for RegisteredDevice {}

impl RegisteredDevice {
    /// Makes a device and adds it to the mock bus, behind the mock IOMMU.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and what the IOMMU core answers to a new device.
    pub(crate) fn new(
        number: u32,
        pasid_bits: u32,
        data: impl PinInit<MockDevice, Error>,
    ) -> Result<Self> {
        let this = KBox::<Embedded>::new_uninit(GFP_KERNEL | __GFP_ZERO)?;
        let this: *mut Embedded = KBox::into_raw(this).cast();
        // SAFETY: It is ours and will not move any more.
        if let Err(why) = unsafe { pin_init::raw_try_init(&raw mut (*this).data, data) } {
            // SAFETY: It came from `into_raw()`; nothing in it needs to be dropped.
            drop(unsafe { KBox::from_raw(this.cast::<core::mem::MaybeUninit<Embedded>>()) });
            return Err(why);
        }
        // SAFETY: It is ours.
        let dev = unsafe { (*this).dev.get() };
        // SAFETY: It is zeroed memory.
        unsafe { bindings::device_initialize(dev) };
        // SAFETY: Nobody else knows it yet.
        unsafe { (*dev).release = Some(release) };
        // SAFETY: The device is not registered yet, and ours alone.
        unsafe { (*dev).bus = registration::bus() };
        // SAFETY: As above. From here on `release()` frees it.
        match unsafe { add(dev, number, pasid_bits) } {
            // INVARIANT: just registered.
            // SAFETY: It came from `into_raw()`, so it is not null.
            Ok(()) => Ok(Self(unsafe { NonNull::new_unchecked(this) })),
            Err(why) => {
                // SAFETY: This is the reference that it began with.
                unsafe { bindings::put_device(dev) };
                Err(why)
            }
        }
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        // SAFETY: By the type invariant it is alive.
        unsafe { Device::from_raw((*self.0.as_ptr()).dev.get()) }
    }
}

impl Deref for RegisteredDevice {
    type Target = MockDevice;

    fn deref(&self) -> &MockDevice {
        // SAFETY: By the type invariant it is alive.
        unsafe { &(*self.0.as_ptr()).data }
    }
}

impl Drop for RegisteredDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; this puts the reference, too.
        unsafe { bindings::device_unregister((*self.0.as_ptr()).dev.get()) };
    }
}

/// Gives a device its name and its properties, and registers it.
///
/// # Safety
///
/// `dev` is initialised and not registered.
unsafe fn add(dev: *mut bindings::device, number: u32, pasid_bits: u32) -> Result {
    // SAFETY: The format fits the argument.
    to_result(unsafe { bindings::dev_set_name(dev, c"iommufd_mock%u".as_char_ptr(), number) })?;
    let mut properties = [bindings::property_entry::default(); 2];
    properties[0].name = c"pasid-num-bits".as_char_ptr();
    properties[0].length = size_of::<u32>();
    properties[0].is_inline = true;
    properties[0].type_ = bindings::dev_prop_type_DEV_PROP_U32;
    properties[0].__bindgen_anon_1.value = bindings::property_entry__bindgen_ty_1__bindgen_ty_1 {
        u32_data: [pasid_bits, 0],
    };
    // SAFETY: The last entry is empty; they are copied.
    to_result(unsafe {
        bindings::device_create_managed_software_node(dev, properties.as_ptr(), core::ptr::null())
    })?;
    // SAFETY: The mock IOMMU is registered as long as there is a test ioctl.
    to_result(unsafe { bindings::iommu_mock_device_add(dev, registration::iommu().as_raw()) })
        // SAFETY: The device is not registered.
        .inspect_err(|_| unsafe { forget_iommu(dev) })
}

/// Frees what `iommu_mock_device_add()` leaves behind when it runs out of memory half way.
///
/// # Safety
///
/// `dev` is initialised and not registered.
unsafe fn forget_iommu(dev: *mut bindings::device) {
    // SAFETY: By the contract of this function nobody else uses it.
    let iommu = unsafe { core::mem::replace(&mut (*dev).iommu, core::ptr::null_mut()) };
    // SAFETY: It came from `kmalloc()`, or is null. Nothing hangs off it yet, or the core had freed
    // it itself.
    unsafe { bindings::kfree(iommu.cast()) };
}

/// # Safety
///
/// Called by the driver core with the last reference.
unsafe extern "C" fn release(dev: *mut bindings::device) {
    // SAFETY: Only devices of `RegisteredDevice` have this function.
    drop(unsafe { KBox::<Embedded>::from_raw(dev.cast()) });
}

/// The mock device behind a device, if it is one.
pub(crate) fn from_device(dev: &Device) -> Option<&MockDevice> {
    let raw: *mut bindings::device = core::ptr::from_ref(dev).cast_mut().cast();
    // SAFETY: The device is alive.
    if !core::ptr::eq(unsafe { (*raw).bus }, registration::bus()) {
        return None;
    }
    // SAFETY: Only devices of `RegisteredDevice` are on the mock bus, and `dev` is at offset 0.
    Some(unsafe { &(*raw.cast::<Embedded>()).data })
}
