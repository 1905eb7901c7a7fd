// SPDX-License-Identifier: GPL-2.0-only

//! What the rest of the driver calls, by the prototypes of its headers.
//!
//! Where a prototype has no room for an error it is logged, here or, in paths that run for each
//! unmapping, by the invalidation queue.

use core::ptr;

use kernel::{
    bindings,
    iommu::{
        ops::AllocFlags,
        user_data::UserData, //
    },
    prelude::*, //
};

use super::{
    device::Device,
    domain::{
        Domain,
        OnUnit,
        SecondStageDomain, //
    },
    errno,
    table,
    tags::Key,
    user::Parent, //
};
use crate::{
    cache, context, entries,
    nested::Nested,
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

/// For flushes whose callers cannot be told. What the hardware said of a descriptor that it refused
/// is in the log already (`qi_dump_fault()` of `dmar.c`).
fn logged(result: Result) {
    if let Err(e) = result {
        pr_debug!("a flush failed: {e:?}\n");
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
/// `iommu` is the unit of `dev`, which is probed; `fsptptr` is the root of a first-stage table.
#[export]
unsafe extern "C" fn intel_pasid_setup_first_level(
    _iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    fsptptr: bindings::phys_addr_t,
    pasid: u32,
    did: u16,
    flags: c_int,
) -> c_int {
    // PASID_FLAG_FL5LP, PASID_FLAG_PAGE_SNOOP and PASID_FLAG_PWSNP.
    let flag = |bit: u32| flags & (1 << bit) != 0;
    // SAFETY: Who attaches a device keeps it probed.
    errno(unsafe {
        on(dev, |dev| {
            let unit = dev.unit();
            let table = FirstStage {
                root: fsptptr,
                levels: if flag(1) { Levels::Five } else { Levels::Four },
                aw: unit.agaw(),
                snoop_pages: flag(2),
                snoop_walk: flag(3),
            };
            entries::set_up_first_stage(dev, &table, pasid, did)
        })
    })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed; `domain` has a second-stage table and an id on
/// the unit.
#[export]
unsafe extern "C" fn intel_pasid_setup_second_level(
    _iommu: *mut bindings::intel_iommu,
    domain: *mut bindings::dmar_domain,
    dev: *mut bindings::device,
    pasid: u32,
) -> c_int {
    // SAFETY: Who attaches a device to a domain keeps both. The domain has a second-stage table,
    // and was given an id on the unit of the device first.
    errno(unsafe {
        on(dev, |dev| {
            let (unit, domain) = (dev.unit(), SecondStageDomain::from_raw(domain));
            let domain = OnUnit::new(domain, &domain, &unit);
            entries::set_up_second_stage(dev, &domain, pasid)
        })
    })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed; `domain`, with an id on the unit, stays.
#[export]
unsafe extern "C" fn intel_pasid_setup_dirty_tracking(
    _iommu: *mut bindings::intel_iommu,
    domain: *mut bindings::dmar_domain,
    dev: *mut bindings::device,
    pasid: u32,
    enabled: bool,
) -> c_int {
    // SAFETY: The lock of the domain that lists the device is held, so it stays in the list, and
    // what lists it has an id on its unit.
    errno(unsafe {
        on(dev, |dev| {
            let (unit, domain) = (dev.unit(), Domain::from_raw(domain));
            let domain = OnUnit::new(domain, &domain, &unit);
            entries::set_dirty_tracking(dev, &domain, pasid, enabled)
        })
    })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn intel_pasid_setup_pass_through(
    _iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    pasid: u32,
) -> c_int {
    // SAFETY: Who attaches a device keeps it probed.
    errno(unsafe { on(dev, |dev| entries::set_up_pass_through(dev, pasid)) })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn intel_pasid_setup_page_snoop_control(
    _iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    pasid: u32,
) {
    // SAFETY: The lock of the domain that lists the device is held, so it stays attached.
    unsafe {
        tell(dev, c"PASID entry: snoop control failed", |dev| {
            entries::force_snoop(dev, pasid)
        })
    };
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
/// `info` is that of a probed device; the context entry is the caller's.
#[export]
unsafe extern "C" fn intel_context_flush_no_pasid(
    info: *mut bindings::device_domain_info,
    _context: *mut bindings::context_entry,
    did: u16,
    sid: u16,
) {
    // SAFETY: It is the driver's data of a probed device, which it names.
    unsafe {
        tell((*info).dev, c"context entry: invalidation failed", |dev| {
            context::flush(dev, did, sid)
        })
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
/// `domain` has an id on the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn cache_tag_assign_domain(
    domain: *mut bindings::dmar_domain,
    dev: *mut bindings::device,
    pasid: bindings::ioasid_t,
) -> c_int {
    // SAFETY: Who attaches a device to a domain keeps both, and got the domain an id on the unit of
    // the device first.
    errno(unsafe {
        on(dev, |dev| {
            let domain = Domain::from_raw(domain);
            let on_unit = OnUnit::new(domain, &domain, &dev.unit());
            cache::assign_domain(&on_unit, dev, pasid)
        })
    })
}

/// # Safety
///
/// `domain` has an id on the unit of `dev`, which is probed. May sleep.
#[export]
unsafe extern "C" fn cache_tag_unassign_domain(
    domain: *mut bindings::dmar_domain,
    dev: *mut bindings::device,
    pasid: bindings::ioasid_t,
) {
    // SAFETY: Who detaches a device from a domain keeps both.
    let (dev, domain) = unsafe { (Device::from_raw(dev), Domain::from_raw(domain)) };
    if let Some(dev) = dev {
        // SAFETY: The id on the unit is given back afterwards.
        let on_unit = unsafe { OnUnit::new(domain, &domain, &dev.unit()) };
        cache::unassign_domain(&on_unit, &dev, pasid);
    }
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
/// `domain` is a domain of this driver.
#[export]
unsafe extern "C" fn cache_tag_flush_range_np(
    domain: *mut bindings::dmar_domain,
    start: c_ulong,
    end: c_ulong,
) {
    // SAFETY: Who flushes what is cached of a domain keeps the domain.
    let domain = unsafe { Domain::from_raw(domain) };
    logged(cache::flush_new(&domain, start as u64, end as u64));
}

/// # Safety
///
/// `dev` is a probed device of this driver, `user_data` is valid, `parent` is a domain that stays
/// as long as domains are nested on it.
#[export]
unsafe extern "C" fn intel_iommu_domain_alloc_nested(
    dev: *mut bindings::device,
    parent: *mut bindings::iommu_domain,
    flags: u32,
    user_data: *const bindings::iommu_user_data,
) -> *mut bindings::iommu_domain {
    let flags = AllocFlags::from_raw(flags);
    // SAFETY: The core keeps the device, and the parent, also as long as the new domain is there;
    // the data is on its stack, in the context of the user.
    let (parent, data, dev) = unsafe {
        (
            Parent::from_raw(parent),
            UserData::from_raw(user_data),
            Device::from_raw(dev).ok_or(ENODEV),
        )
    };
    match dev.and_then(|dev| Nested::alloc(&dev, parent, flags, data)) {
        Ok(domain) => domain.into_raw(),
        Err(e) => e.to_ptr(),
    }
}
