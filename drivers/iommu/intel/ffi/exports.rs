// SPDX-License-Identifier: GPL-2.0-only

//! What the rest of the driver calls, by the prototypes of its headers.
//!
//! Where a prototype has no room for an error it is logged, here or, in paths that run for each
//! unmapping, by the invalidation queue.

use core::ptr;

use kernel::{
    bindings,
    error::from_result,
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
    table,
    tags::Key,
    unit::Unit,
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
    // SAFETY: By the safety requirement.
    let dev = unsafe { Device::from_raw(dev) };
    f(&dev.ok_or(ENODEV)?)
}

/// For flushes whose callers cannot be told: a refused descriptor is in the log already, with what
/// the hardware said of it (`qi_dump_fault()` of `dmar.c`).
fn logged(_of_the_queue: Result) {}

fn errno(result: Result) -> c_int {
    from_result(|| {
        result?;
        Ok(0)
    })
}

/// # Safety
///
/// `dev` is being probed; nobody else uses it.
#[export]
unsafe extern "C" fn intel_pasid_alloc_table(dev: *mut bindings::device) -> c_int {
    // SAFETY: By the safety requirement.
    errno(unsafe { on(dev, table::alloc) })
}

/// # Safety
///
/// `dev` is being released; its context entry is gone.
#[export]
unsafe extern "C" fn intel_pasid_free_table(dev: *mut bindings::device) {
    // SAFETY: By the safety requirement.
    if let Some(dev) = unsafe { Device::from_raw(dev) } {
        // SAFETY: By the safety requirement.
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
    // SAFETY: By the safety requirement.
    let dev = unsafe { Device::from_raw(dev) };
    // SAFETY: The device is probed; the table comes with the probe and goes with the release.
    dev.map_or(ptr::null_mut(), |dev| unsafe { (*dev.info()).pasid_table })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed; `fsptptr` is the root of a first-stage table.
#[export]
unsafe extern "C" fn intel_pasid_setup_first_level(
    iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    fsptptr: bindings::phys_addr_t,
    pasid: u32,
    did: u16,
    flags: c_int,
) -> c_int {
    // SAFETY: By the safety requirement.
    let unit = unsafe { Unit::from_raw(iommu) };
    // PASID_FLAG_FL5LP, PASID_FLAG_PAGE_SNOOP and PASID_FLAG_PWSNP.
    let flag = |bit: u32| flags & (1 << bit) != 0;
    let table = FirstStage {
        root: fsptptr,
        levels: if flag(1) { Levels::Five } else { Levels::Four },
        aw: unit.agaw(),
        snoop_pages: flag(2),
        snoop_walk: flag(3),
    };
    // SAFETY: By the safety requirement.
    errno(unsafe {
        on(dev, |dev| {
            entries::set_up_first_stage(&unit, dev, &table, pasid, did)
        })
    })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed; `domain` has a second-stage table and an id on
/// the unit.
#[export]
unsafe extern "C" fn intel_pasid_setup_second_level(
    iommu: *mut bindings::intel_iommu,
    domain: *mut bindings::dmar_domain,
    dev: *mut bindings::device,
    pasid: u32,
) -> c_int {
    // SAFETY: By the safety requirement.
    let unit = unsafe { Unit::from_raw(iommu) };
    // SAFETY: The domain has such a table, and is there.
    let domain = unsafe { SecondStageDomain::from_raw(domain) };
    // SAFETY: The caller has given it an id on the unit, and keeps that.
    let domain = unsafe { OnUnit::new(domain, &domain, &unit) };
    // SAFETY: By the safety requirement.
    errno(unsafe {
        on(dev, |dev| {
            entries::set_up_second_stage(&unit, dev, &domain, pasid)
        })
    })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed; `domain`, with an id on the unit, stays.
#[export]
unsafe extern "C" fn intel_pasid_setup_dirty_tracking(
    iommu: *mut bindings::intel_iommu,
    domain: *mut bindings::dmar_domain,
    dev: *mut bindings::device,
    pasid: u32,
    enabled: bool,
) -> c_int {
    // SAFETY: By the safety requirement.
    let unit = unsafe { Unit::from_raw(iommu) };
    // SAFETY: The domain is there: it lists the device.
    let domain = unsafe { Domain::from_raw(domain) };
    // SAFETY: What lists the device has an id on its unit, and keeps it while the lock is held.
    let domain = unsafe { OnUnit::new(domain, &domain, &unit) };
    // SAFETY: By the safety requirement.
    errno(unsafe {
        on(dev, |dev| {
            entries::set_dirty_tracking(&unit, dev, &domain, pasid, enabled)
        })
    })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn intel_pasid_setup_pass_through(
    iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    pasid: u32,
) -> c_int {
    // SAFETY: By the safety requirement.
    let unit = unsafe { Unit::from_raw(iommu) };
    // SAFETY: By the safety requirement.
    errno(unsafe { on(dev, |dev| entries::set_up_pass_through(&unit, dev, pasid)) })
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn intel_pasid_setup_page_snoop_control(
    iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    pasid: u32,
) {
    // SAFETY: By the safety requirement.
    let unit = unsafe { Unit::from_raw(iommu) };
    // SAFETY: By the safety requirement.
    let Some(dev) = (unsafe { Device::from_raw(dev) }) else {
        return;
    };
    if entries::force_snoop(&unit, &dev, pasid).is_err() {
        dev.complain(c"PASID entry: snoop control failed");
    }
}

/// # Safety
///
/// `iommu` is the unit of `dev`, which is probed.
#[export]
unsafe extern "C" fn intel_pasid_tear_down_entry(
    iommu: *mut bindings::intel_iommu,
    dev: *mut bindings::device,
    pasid: u32,
    fault_ignore: bool,
) {
    // SAFETY: By the safety requirement.
    let unit = unsafe { Unit::from_raw(iommu) };
    // SAFETY: By the safety requirement.
    let Some(dev) = (unsafe { Device::from_raw(dev) }) else {
        return;
    };
    if entries::tear_down(&unit, &dev, pasid, fault_ignore).is_err() {
        dev.complain(c"PASID entry: invalidation failed");
    }
}

/// # Safety
///
/// `dev` is probed and has a PASID directory.
#[export]
unsafe extern "C" fn intel_pasid_setup_sm_context(dev: *mut bindings::device) -> c_int {
    // SAFETY: By the safety requirement.
    errno(unsafe { on(dev, context::set_up) })
}

/// # Safety
///
/// `dev` is probed; no PASID entry of it is present.
#[export]
unsafe extern "C" fn intel_pasid_teardown_sm_context(dev: *mut bindings::device) {
    // SAFETY: By the safety requirement.
    if let Some(dev) = unsafe { Device::from_raw(dev) } {
        context::tear_down(&dev);
    }
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
    // SAFETY: By the safety requirement.
    let dev = unsafe { (*info).dev };
    // SAFETY: By the safety requirement.
    let Some(dev) = (unsafe { Device::from_raw(dev) }) else {
        return;
    };
    if context::flush(&dev, did, sid).is_err() {
        dev.complain(c"context entry: invalidation failed");
    }
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
    // SAFETY: By the safety requirement.
    let domain = unsafe { Domain::from_raw(domain) };
    let key = Key::from_raw(kind, did, pasid);
    // SAFETY: By the safety requirement.
    errno(unsafe { on(dev, |dev| cache::assign(&domain, dev, key)) })
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
    // SAFETY: By the safety requirement.
    let domain = unsafe { Domain::from_raw(domain) };
    // SAFETY: By the safety requirement.
    let Some(dev) = (unsafe { Device::from_raw(dev) }) else {
        return ENODEV.to_errno();
    };
    // SAFETY: The caller got it an id there, and keeps that.
    let on_unit = unsafe { OnUnit::new(domain, &domain, &dev.unit()) };
    errno(cache::assign_domain(&on_unit, &dev, pasid))
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
    // SAFETY: By the safety requirement.
    let domain = unsafe { Domain::from_raw(domain) };
    // SAFETY: By the safety requirement.
    if let Some(dev) = unsafe { Device::from_raw(dev) } {
        // SAFETY: The caller gives the id back afterwards.
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
    // SAFETY: By the safety requirement.
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
    // SAFETY: By the safety requirement.
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
    // SAFETY: By the safety requirement.
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
    // SAFETY: By the safety requirement.
    let parent = unsafe { Parent::from_raw(parent) };
    // SAFETY: By the safety requirement; called in the context of the user.
    let data = unsafe { UserData::from_raw(user_data) };
    // SAFETY: By the safety requirement.
    let dev = unsafe { Device::from_raw(dev) }.ok_or(ENODEV);
    match dev.and_then(|dev| Nested::alloc(&dev, parent, flags, data)) {
        Ok(domain) => domain.into_raw(),
        Err(e) => e.to_ptr(),
    }
}
