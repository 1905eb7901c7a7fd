// SPDX-License-Identifier: GPL-2.0-only

//! What the mock driver needs of C, and what C calls in it.
//!
//! Each submodule makes one facility safe. The functions that the rest of iommufd calls by their
//! C prototype are the `#[export]`s here; each only turns its arguments into Rust and hands them
//! on.
//!
//! C header: `drivers/iommu/iommufd/iommufd_private.h`

use crate::selftest;
use kernel::{
    bindings,
    device::Device,
    error::from_result,
    prelude::*, //
};

pub(crate) mod access;
pub(crate) mod bound;
pub(crate) mod device;
pub(crate) mod dmabuf;
pub(crate) mod object;
pub(crate) mod page;
pub(crate) mod pagetable;
pub(crate) mod registration;

/// How much memory the page core may use for temporary arrays, in bytes; it reads this.
#[no_mangle]
static mut iommufd_test_memory_limit: usize = 65536;

/// Sets how much memory the page core may use for temporary arrays, in bytes.
pub(crate) fn set_memory_limit(limit: usize) {
    // SAFETY: One aligned word, which the page core reads without a lock as well.
    unsafe { (&raw mut iommufd_test_memory_limit).write_volatile(limit) };
}

#[cfg(MODULE)]
#[link_section = ".modinfo"]
#[used(compiler)]
static IMPORTS: [u8; 27] = *b"import_ns=GENERIC_PT_IOMMU\0";

/// The ioctl.
///
/// # Safety
///
/// `ucmd` is an ioctl of this context that carries a `struct iommu_test_cmd`.
#[export]
pub(crate) unsafe extern "C" fn iommufd_test(ucmd: *mut bindings::iommufd_ucmd) -> c_int {
    // SAFETY: The ioctl is on the stack of the caller, and nobody else uses it.
    let mut ucmd = unsafe { object::Ucmd::from_raw(ucmd) };
    from_result(|| selftest::test_ioctl::run(&mut ucmd))
}

/// Takes a mock device down.
///
/// # Safety
///
/// `obj` is an `IOMMUFD_OBJ_SELFTEST`, and its id is gone.
#[export]
pub(crate) unsafe extern "C" fn iommufd_selftest_destroy(obj: *mut bindings::iommufd_object) {
    // SAFETY: By the contract of this function.
    unsafe { object::destroy(obj) };
}

/// Makes a random IOVA one that may be mapped.
///
/// # Safety
///
/// `ucmd` is an ioctl in progress; `iova` and `flags` point into it.
#[export]
pub(crate) unsafe extern "C" fn iommufd_test_syz_conv_iova_id(
    ucmd: *mut bindings::iommufd_ucmd,
    ioas_id: c_uint,
    iova: *mut u64,
    flags: *mut u32,
) {
    // SAFETY: By the contract of this function.
    let (iova, flags) = unsafe { (&mut *iova, &mut *flags) };
    // SAFETY: As above.
    let ucmd = unsafe { object::Ucmd::from_raw(ucmd) };
    if let Some(real) = selftest::test_ioctl::convert_iova(ucmd.ctx(), ioas_id, *iova, flags) {
        *iova = real;
    }
}

/// Whether the caller should fail, to see what happens then.
#[export]
pub(crate) extern "C" fn iommufd_should_fail() -> bool {
    registration::should_fail()
}

/// Brings the mock IOMMU up.
#[export]
pub(crate) extern "C" fn iommufd_test_init() -> c_int {
    from_result(|| registration::register().map(|()| 0))
}

/// Takes the mock IOMMU down.
///
/// # Safety
///
/// `iommufd_test_init()` succeeded, and no descriptor of `/dev/iommu` is open.
#[export]
pub(crate) unsafe extern "C" fn iommufd_test_exit() {
    // SAFETY: By the contract of this function.
    unsafe { registration::unregister() };
}

/// Whether it is a mock device.
///
/// # Safety
///
/// `dev` is a device that the caller holds.
#[export]
pub(crate) unsafe extern "C" fn iommufd_selftest_is_mock_dev(dev: *mut bindings::device) -> bool {
    // SAFETY: By the contract of this function.
    device::from_device(unsafe { Device::from_raw(dev) }).is_some()
}

/// Where the memory of a mock dma-buf is.
///
/// # Safety
///
/// `attachment` is one whose reservation lock the caller holds, and `phys` is its own.
#[export]
pub(crate) unsafe extern "C" fn iommufd_test_dma_buf_iommufd_map(
    attachment: *mut bindings::dma_buf_attachment,
    phys: *mut bindings::phys_vec,
) -> c_int {
    from_result(|| {
        // SAFETY: By the contract of this function.
        let found = unsafe { dmabuf::phys_of((*attachment).dmabuf) }?;
        // SAFETY: As above.
        unsafe { *phys = found };
        Ok(0)
    })
}
