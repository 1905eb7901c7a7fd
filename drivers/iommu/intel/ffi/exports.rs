// SPDX-License-Identifier: GPL-2.0-only

//! What the rest of the driver calls, by the prototypes of its headers.
//!
//! Where a prototype has no room for an error it is logged, here or, in paths that run for each
//! unmapping, by the invalidation queue.

use core::ptr;

use kernel::{
    bindings,
    iommu::domain::AnyDomain,
    prelude::*, //
};

use super::{
    device::Device,
    domain::{
        Domain,
        Replaced, //
    },
    errno,
    table,
    tags::Key, //
};
use crate::{
    attach, cache, context, entries,
    paging::logged,
    pasid_entry::{
        FirstStage,
        Levels, //
    },
};

/// Runs `f` on a device, which is to be probed.
///
/// # Safety
///
/// `dev` is a device behind an IOMMU of this driver that is not released meanwhile.
unsafe fn on<'a>(dev: *mut bindings::device, f: impl FnOnce(&Device<'a>) -> Result) -> Result {
    // SAFETY: The device is one of this driver's, and stays as long as `f` runs.
    let dev = unsafe { Device::from_raw(dev) };
    f(&dev.ok_or(ENODEV)?)
}

/// The same for a caller who cannot be told: an error is in the log. With a device that is not
/// probed there is nothing to be done.
///
/// # Safety
///
/// `dev` is a device behind an IOMMU of this driver that is not released meanwhile.
unsafe fn tell<'a>(dev: *mut bindings::device, what: &CStr, f: impl FnOnce(&Device<'a>) -> Result) {
    // SAFETY: The device is one of this driver's, and stays as long as `f` runs.
    if let Some(dev) = unsafe { Device::from_raw(dev) } {
        if f(&dev).is_err() {
            dev.complain(what);
        }
    }
}

/// # Safety
///
/// `dev` is being probed; nobody else uses it.
#[export]
unsafe extern "C" fn intel_pasid_alloc_table(dev: *mut bindings::device) -> c_int {
    // SAFETY: A device that is being probed is not released meanwhile.
    errno(unsafe { on(dev, table::alloc) })
}

/// # Safety
///
/// `dev` is being released; no context entry names its directory, and no PASID entry is present.
#[export]
unsafe extern "C" fn intel_pasid_free_table(dev: *mut bindings::device) {
    // SAFETY: The device is there until its release ends.
    if let Some(dev) = unsafe { Device::from_raw(dev) } {
        // SAFETY: Its tables are nobody's any more.
        unsafe { table::free(&dev) };
    }
}

/// # Safety
///
/// `dev` is a device of this driver.
#[export]
unsafe extern "C" fn intel_pasid_get_table(
    dev: *mut bindings::device,
) -> *mut bindings::pasid_table {
    // SAFETY: Who asks for the table of a device keeps the device.
    let dev = unsafe { Device::from_raw(dev) };
    // SAFETY: The device is probed; the table comes with the probe and goes with the release.
    dev.map_or(ptr::null_mut(), |dev| unsafe { (*dev.info()).pasid_table })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn intel_pasid_tear_down_entry(
    _iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    pasid: u32,
    fault_ignore: bool,
) {
    // SAFETY: Who detaches a device keeps it probed.
    unsafe {
        tell(dev, c"PASID entry: invalidation failed", |dev| {
            entries::tear_down(dev, pasid, fault_ignore)
        })
    };
}

/// # Safety
///
/// `dev` is probed and has a PASID directory.
#[export]
unsafe extern "C" fn intel_pasid_setup_sm_context(dev: *mut bindings::device) -> c_int {
    // SAFETY: Who sets the device up keeps it probed.
    errno(unsafe { on(dev, context::set_up) })
}

/// # Safety
///
/// `dev` is probed and attached to nothing that anybody will want back.
#[export]
unsafe extern "C" fn intel_pasid_teardown_sm_context(dev: *mut bindings::device) {
    // SAFETY: The device is there until its release ends.
    unsafe {
        tell(
            dev,
            c"context entry: invalidation failed",
            context::tear_down,
        )
    };
}

/// # Safety
///
/// `domain` has an id on the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn cache_tag_assign(
    domain: *mut bindings::dmar_domain,
    did: u16,
    dev: *mut bindings::device,
    pasid: bindings::ioasid_t,
    kind: bindings::cache_tag_type,
) -> c_int {
    let key = Key::from_raw(kind, did, pasid);
    // SAFETY: Who attaches a device to a domain keeps both.
    errno(unsafe {
        on(dev, |dev| {
            cache::assign(&Domain::from_raw(domain), dev, key)
        })
    })
}

/// # Safety
///
/// `domain` is a domain of this driver.
#[export]
unsafe extern "C" fn cache_tag_flush_range(
    domain: *mut bindings::dmar_domain,
    start: c_ulong,
    end: c_ulong,
    ih: c_int,
) {
    // SAFETY: Who flushes what is cached of a domain keeps the domain.
    let domain = unsafe { Domain::from_raw(domain) };
    logged(cache::flush_range(
        &domain,
        start as u64,
        end as u64,
        ih != 0,
    ));
}

/// # Safety
///
/// `domain` is a domain of this driver.
#[export]
unsafe extern "C" fn cache_tag_flush_all(domain: *mut bindings::dmar_domain) {
    // SAFETY: Who flushes what is cached of a domain keeps the domain.
    let domain = unsafe { Domain::from_raw(domain) };
    logged(cache::flush_range(&domain, 0, u64::MAX, false));
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed; `fsptptr` is the root of a first-stage table.
/// `old` is what the PASID is attached to, or null.
#[export]
unsafe extern "C" fn __domain_setup_first_level(
    _iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    pasid: bindings::ioasid_t,
    did: u16,
    fsptptr: bindings::phys_addr_t,
    flags: c_int,
    old: *mut bindings::iommu_domain,
) -> c_int {
    // PASID_FLAG_FL5LP, PASID_FLAG_PAGE_SNOOP and PASID_FLAG_PWSNP.
    let flag = |bit: u32| flags & (1 << bit) != 0;
    // SAFETY: Who attaches a device keeps it probed.
    errno(unsafe {
        on(dev, |dev| {
            if !old.is_null() && entries::tear_down(dev, pasid, false).is_err() {
                dev.complain(c"PASID entry: invalidation failed");
            }
            let table = FirstStage {
                root: fsptptr,
                levels: if flag(1) { Levels::Five } else { Levels::Four },
                aw: dev.unit().agaw(),
                snoop_pages: flag(2),
                snoop_walk: flag(3),
            };
            entries::set_up_first_stage(dev, &table, pasid, did)
        })
    })
}

/// # Safety
///
/// `domain` is a domain of this driver, but no static one, `dev` is probed, and the mutex of its
/// group is held. Both stay until the PASID is removed.
#[export]
unsafe extern "C" fn domain_add_dev_pasid(
    domain: *mut bindings::iommu_domain,
    dev: *mut bindings::device,
    pasid: bindings::ioasid_t,
) -> *mut bindings::dev_pasid_info {
    // SAFETY: Who attaches a device to a domain keeps both.
    let (dev, domain) = unsafe { (Device::from_raw(dev), Domain::from_raw(domain.cast())) };
    let new = dev.ok_or(ENODEV);
    match new.and_then(|dev| attach::add_pasid(domain, &dev, pasid)) {
        Ok(new) => new.keep(false).cast(),
        Err(e) => e.to_ptr(),
    }
}

/// # Safety
///
/// `domain` is null or a domain of this driver, which the PASID of the device is attached to no
/// more; `dev` is probed, and the mutex of its group is held.
#[export]
unsafe extern "C" fn domain_remove_dev_pasid(
    domain: *mut bindings::iommu_domain,
    dev: *mut bindings::device,
    pasid: bindings::ioasid_t,
) {
    // SAFETY: Null, or a domain that is there.
    let domain = unsafe { AnyDomain::from_nullable(domain) };
    let domain = domain.and_then(|domain| Replaced::of(domain).ok()?.domain());
    // SAFETY: Who detaches a device keeps it probed.
    if let (Some(domain), Some(dev)) = (domain, unsafe { Device::from_raw(dev) }) {
        attach::remove_pasid(domain, &dev, pasid);
    }
}

/// # Safety
///
/// `dev` is probed, and the mutex of its group is held or it is being released.
#[export]
unsafe extern "C" fn device_block_translation(dev: *mut bindings::device) {
    // SAFETY: The device is there until its release ends.
    if let Some(dev) = unsafe { Device::from_raw(dev) } {
        attach::detach(&dev);
    }
}
