// SPDX-License-Identifier: GPL-2.0-only

//! Nested domains as the core sees them, and what users hand over for them.

use core::marker::PhantomData;

use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    prelude::*, //
};

use super::{
    device::Device,
    domain::{
        Domain,
        Replaced, //
    },
};
use crate::{
    nested,
    range::Range, //
};

/// A user's array of `struct iommu_hwpt_vtd_s1_invalidate`.
///
/// # Invariants
///
/// `array` is valid for `'a` and of this type.
pub(crate) struct Requests<'a> {
    array: *const bindings::iommu_user_data_array,
    _lives: PhantomData<&'a ()>,
}

impl Requests<'_> {
    /// Entries.
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: By the invariant.
        unsafe { (*self.array).entry_num }
    }

    /// Reads and checks an entry; `None` is a range of no pages.
    ///
    /// # Errors
    ///
    /// `EFAULT` and `EINVAL` for what cannot be read, `E2BIG` for what a later version would
    /// mean, `EOPNOTSUPP` for unknown flags and reserved bits, those of [`Range::from_user`].
    pub(crate) fn range(&self, index: u32) -> Result<Option<Range>> {
        let mut entry = bindings::iommu_hwpt_vtd_s1_invalidate::default();
        // SAFETY: By the invariant; called in the context of the user whose array it is.
        to_result(unsafe { bindings::vtd_copy_invalidate(&mut entry, self.array, index) })?;
        let leaf = bindings::iommu_hwpt_vtd_s1_invalidate_flags_IOMMU_VTD_INV_FLAGS_LEAF;
        if entry.flags & !leaf != 0 || entry.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        Range::from_user(entry.addr, entry.npages, entry.flags & leaf != 0)
    }
}

static NESTED_OPS: bindings::iommu_domain_ops = bindings::iommu_domain_ops {
    attach_dev: Some(attach_dev),
    set_dev_pasid: Some(set_dev_pasid),
    free: Some(free),
    cache_invalidate_user: Some(cache_invalidate_user),
    ..pin_init::zeroed()
};

/// # Safety
///
/// `domain` is a nested domain, `dev` a probed device of this driver, `old` null or what it was
/// attached to; the group's mutex is held.
unsafe extern "C" fn attach_dev(
    domain: *mut bindings::iommu_domain,
    dev: *mut bindings::device,
    old: *mut bindings::iommu_domain,
) -> c_int {
    // SAFETY: By the safety requirement.
    let domain = unsafe { Domain::from_raw(domain.cast()) };
    // SAFETY: By the safety requirement.
    let dev = unsafe { Device::from_raw(dev) };
    // SAFETY: By the safety requirement.
    let old = unsafe { Replaced::from_raw(old) };
    from_result(|| {
        nested::attach(&domain, &dev.ok_or(ENODEV)?, old)?;
        Ok(0)
    })
}

/// # Safety
///
/// As of [`attach_dev`]; `old` is null or what the PASID is attached to.
unsafe extern "C" fn set_dev_pasid(
    domain: *mut bindings::iommu_domain,
    dev: *mut bindings::device,
    pasid: u32,
    old: *mut bindings::iommu_domain,
) -> c_int {
    // SAFETY: By the safety requirement.
    let domain = unsafe { Domain::from_raw(domain.cast()) };
    // SAFETY: By the safety requirement.
    let dev = unsafe { Device::from_raw(dev) };
    // SAFETY: By the safety requirement.
    let old = unsafe { Replaced::from_raw(old) };
    from_result(|| {
        nested::set_pasid(&domain, &dev.ok_or(ENODEV)?, pasid, old)?;
        Ok(0)
    })
}

/// # Safety
///
/// `domain` is a nested domain that nobody uses any more.
unsafe extern "C" fn free(domain: *mut bindings::iommu_domain) {
    // SAFETY: By the safety requirement.
    unsafe { bindings::vtd_nested_free(domain.cast()) };
}

/// # Safety
///
/// `domain` is a nested domain, `array` valid.
unsafe extern "C" fn cache_invalidate_user(
    domain: *mut bindings::iommu_domain,
    array: *mut bindings::iommu_user_data_array,
) -> c_int {
    // SAFETY: By the safety requirement.
    let domain = unsafe { Domain::from_raw(domain.cast()) };
    // SAFETY: By the safety requirement.
    let kind = unsafe { (*array).type_ };
    let (done, result) =
        if kind == bindings::iommu_hwpt_invalidate_data_type_IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 {
            let requests = Requests {
                array,
                _lives: PhantomData,
            };
            nested::invalidate(&domain, &requests)
        } else {
            (0, Err(EINVAL))
        };
    // SAFETY: By the safety requirement.
    unsafe { (*array).entry_num = done };
    from_result(|| {
        result?;
        Ok(0)
    })
}

/// Makes a nested domain, or says why not.
///
/// # Errors
///
/// `EOPNOTSUPP` where units do not nest and for other flags and data; `EINVAL` for a parent that
/// is none, and for what cannot be read; `EFAULT`; `ENOMEM`.
///
/// # Safety
///
/// `dev` is a probed device of this driver, `parent` and `data` are valid.
pub(super) unsafe fn alloc(
    dev: *mut bindings::device,
    parent: *mut bindings::iommu_domain,
    flags: u32,
    data: *const bindings::iommu_user_data,
) -> Result<*mut bindings::iommu_domain> {
    // SAFETY: By the safety requirement.
    let dev = unsafe { Device::from_raw(dev) }.ok_or(ENODEV)?;
    let known = bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID;
    if !dev.unit().nested_supported() || flags & !known != 0 {
        return Err(EOPNOTSUPP);
    }
    // SAFETY: By the safety requirement.
    if unsafe { (*data).type_ } != bindings::iommu_hwpt_data_type_IOMMU_HWPT_DATA_VTD_S1 {
        return Err(EOPNOTSUPP);
    }
    // SAFETY: By the safety requirement.
    if !unsafe { bindings::vtd_is_nest_parent(parent) } {
        return Err(EINVAL);
    }
    let mut cfg = bindings::iommu_hwpt_vtd_s1::default();
    // SAFETY: By the safety requirement; called in the context of the user.
    to_result(unsafe { bindings::vtd_copy_s1(&mut cfg, data) })?;
    // SAFETY: The parent is a paging domain of this driver and stays while others nest on it.
    let new = unsafe { bindings::vtd_nested_alloc(parent.cast(), &cfg, &NESTED_OPS) };
    if new.is_null() {
        return Err(ENOMEM);
    }
    Ok(new.cast())
}
