// SPDX-License-Identifier: GPL-2.0-only

//! Mock devices: what the driver knows of each, and how they are attached.
//!
//! C header: `drivers/iommu/iommufd/iommufd_test.h`

use super::{
    nested::{
        forget,
        Nested, //
    },
    uapi,
    viommu::MockViommu, //
};
use crate::ffi::selftest::{
    device::{
        from_device,
        RegisteredDevice, //
    },
    registration::{
        add_fault_source,
        remove_fault_source, //
    },
};
use kernel::{
    device::Device,
    iommu::{
        domain::{
            AnyDomain,
            Kind, //
        },
        ops::Pasid,
        viommu::Hold, //
    },
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex, //
    },
};

/// Names of devices count up.
static NEXT_NUMBER: Atomic<u32> = Atomic::new(0);

/// Where the device's events go.
struct Route {
    viommu: Hold<MockViommu>,
    /// What the virtual machine calls the device.
    vdev_id: u64,
}

/// Who makes page faults of the device be handled.
#[derive(Default)]
struct FaultUsers {
    /// Attached domains that handle them.
    count: u32,
    /// Whether the domain without PASID is one of them.
    without_pasid: bool,
}

/// What the driver knows of a device.
#[pin_data]
pub(crate) struct MockDevice {
    flags: u32,
    /// What the device would have cached.
    cache: [Atomic<u32>; uapi::CACHE_ENTRIES],
    /// Attaching [`uapi::PASID_RESERVED`] the next time fails.
    fail_next: Atomic<bool>,
    #[pin]
    route: Mutex<Option<Route>>,
    #[pin]
    faults: Mutex<FaultUsers>,
}

/// What the driver knows of this device.
///
/// # Errors
///
/// `ENODEV`: it is not a mock device.
pub(super) fn of(dev: &Device) -> Result<&MockDevice> {
    from_device(dev).ok_or(ENODEV)
}

/// Makes a device with `MOCK_FLAGS_DEVICE_*`.
///
/// # Errors
///
/// `EINVAL`: unknown flags. `ENOMEM`: no memory.
pub(super) fn create(flags: u32) -> Result<RegisteredDevice> {
    if flags & !(uapi::DEVICE_NO_DIRTY | uapi::DEVICE_PASID) != 0 {
        return Err(EINVAL);
    }
    let pasid_bits = if flags & uapi::DEVICE_PASID != 0 {
        uapi::PASID_WIDTH
    } else {
        0
    };
    let number = NEXT_NUMBER.fetch_add(1, Relaxed);
    RegisteredDevice::new(number, pasid_bits, MockDevice::new(flags))
}

impl MockDevice {
    fn new(flags: u32) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            flags,
            cache: core::array::from_fn(|_| Atomic::new(uapi::CACHE_DEFAULT)),
            fail_next: Atomic::new(false),
            route <- new_mutex!(None),
            faults <- new_mutex!(FaultUsers::default()),
        }? Error)
    }

    /// Whether it can track what it writes.
    pub(super) fn has_dirty_tracking(&self) -> bool {
        self.flags & uapi::DEVICE_NO_DIRTY == 0
    }

    /// What it has cached in this entry.
    pub(super) fn cache(&self, entry: u32) -> Option<u32> {
        self.cache
            .get(entry as usize)
            .map(|slot| slot.load(Relaxed))
    }

    /// Forgets one entry of its cache, or all.
    ///
    /// # Errors
    ///
    /// As for [`forget`].
    pub(super) fn invalidate(&self, flags: u32, entry: u32) -> Result {
        forget(&self.cache, flags, entry)
    }

    /// Tells the virtual machine that something happened.
    ///
    /// # Errors
    ///
    /// `ENOENT`: the device is with none, or has no name there. Otherwise see
    /// [`report_event`](kernel::iommu::viommu::Viommu::report_event).
    pub(super) fn event(&self) -> Result {
        let route = self.route.lock();
        let route = route.as_ref().filter(|route| route.vdev_id != 0);
        let route = route.ok_or(ENOENT)?;
        let event = uapi::Vevent {
            // CAST: the structure of the user API has 32 bits for it.
            virt_id: route.vdev_id as u32,
        };
        route
            .viommu
            .report_event(uapi::VEVENTQ_TYPE_SELFTEST, &event)
    }

    /// Counts a domain that the device is attached to now.
    fn enable_faults(&self, dev: &Device, domain: &AnyDomain) -> Result {
        if !domain.handles_faults() {
            return Ok(());
        }
        let mut users = self.faults.lock();
        if users.count == 0 {
            add_fault_source(dev)?;
        }
        users.count += 1;
        Ok(())
    }

    /// Takes [`MockDevice::enable_faults`] back, for a domain that handled them.
    fn disable_faults(&self, dev: &Device) {
        let mut users = self.faults.lock();
        users.count -= 1;
        if users.count == 0 {
            remove_fault_source(dev);
        }
    }

    /// Notes whether the new domain without PASID handles faults; tells whether the old one did.
    fn swap_without_pasid(&self, handles: bool) -> bool {
        core::mem::replace(&mut self.faults.lock().without_pasid, handles)
    }

    /// Whether this time is one that fails. The first time does not, the second does, and so on;
    /// so a test sees how the core rolls back.
    fn fails_now(&self, kind: Kind) -> bool {
        if kind == Kind::Blocked {
            self.fail_next.store(false, Relaxed);
            return false;
        }
        let fails = self.fail_next.load(Relaxed);
        self.fail_next.store(!fails, Relaxed);
        fails
    }
}

/// Where events go when the device is in this domain.
fn route_of(domain: &AnyDomain, dev: &Device) -> Result<Option<Route>> {
    let Some(viommu) = domain
        .downcast::<Nested>()
        .and_then(|nested| nested.viommu())
    else {
        return Ok(None);
    };
    Ok(Some(Route {
        vdev_id: viommu.vdev_id(dev)?,
        viommu: viommu.clone(),
    }))
}

/// Attaches the DMA of a device that has no PASID. The group's mutex is held.
///
/// # Errors
///
/// `EINVAL`: a device that cannot track in a domain that does. `ENOENT`: the vIOMMU of the domain
/// does not know the device. `ENODEV`, `ENOMEM`: page faults cannot be handled.
pub(super) fn attach(domain: &AnyDomain, dev: &Device) -> Result {
    let mock = of(dev)?;
    if domain.has_dirty_tracking() && !mock.has_dirty_tracking() {
        return Err(EINVAL);
    }
    let route = route_of(domain, dev)?;
    mock.enable_faults(dev, domain)?;

    let old = core::mem::replace(&mut *mock.route.lock(), route);
    drop(old);
    if mock.swap_without_pasid(domain.handles_faults()) {
        mock.disable_faults(dev);
    }
    Ok(())
}

/// Attaches the DMA of a device that has this PASID. The group's mutex is held.
///
/// # Errors
///
/// `ENOMEM`: every second time for [`uapi::PASID_RESERVED`]. `ENODEV`: page faults cannot be
/// handled.
pub(super) fn attach_pasid(
    domain: &AnyDomain,
    dev: &Device,
    pasid: Pasid,
    old: Option<&AnyDomain>,
) -> Result {
    let mock = of(dev)?;
    if pasid == uapi::PASID_RESERVED && mock.fails_now(domain.kind()) {
        return Err(ENOMEM);
    }
    mock.enable_faults(dev, domain)?;
    if old.is_some_and(AnyDomain::handles_faults) {
        mock.disable_faults(dev);
    }
    Ok(())
}
