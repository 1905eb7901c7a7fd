// SPDX-License-Identifier: GPL-2.0-only

//! What the rest of the driver calls, by the prototypes of its headers.
//!
//! Where a prototype has no room for an error it is logged, here or, in paths that run for each
//! unmapping, by the invalidation queue.

use kernel::{
    bindings,
    prelude::*, //
};

use super::{
    device::Device,
    domain::Domain,
    errno,
    table,
    tags::Key, //
};
use crate::{
    attach,
    cache,
    context, //
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
/// `dev` is probed, and the mutex of its group is held or it is being released.
#[export]
unsafe extern "C" fn device_block_translation(dev: *mut bindings::device) {
    // SAFETY: The device is there until its release ends.
    if let Some(dev) = unsafe { Device::from_raw(dev) } {
        attach::detach(&dev);
    }
}
