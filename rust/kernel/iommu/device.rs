// SPDX-License-Identifier: GPL-2.0

//! Devices behind an IOMMU: what the hardware can do for them, and whose their DMA is.
//!
//! Both are asked of the IOMMU core, which takes its own locks and may sleep. What it keeps for a
//! device stays while a driver is bound to it, so that is what is asked for here.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use crate::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    error::to_result,
    prelude::*, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};

/// What an IOMMU and its driver can do for one device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Capability {
    /// DMA snoops the CPU's caches.
    CacheCoherency,
    /// No-snoop DMA can be forbidden.
    EnforceCacheCoherency,
    /// Domains can track what was written to.
    DirtyTracking,
    /// The device may use ATS.
    PciAts,
    /// Something that this abstraction has no name for yet.
    Other(u32),
}

impl Capability {
    pub(super) const fn from_raw(raw: bindings::iommu_cap) -> Self {
        match raw {
            bindings::iommu_cap_IOMMU_CAP_CACHE_COHERENCY => Self::CacheCoherency,
            bindings::iommu_cap_IOMMU_CAP_ENFORCE_CACHE_COHERENCY => Self::EnforceCacheCoherency,
            bindings::iommu_cap_IOMMU_CAP_DIRTY_TRACKING => Self::DirtyTracking,
            bindings::iommu_cap_IOMMU_CAP_PCI_ATS_SUPPORTED => Self::PciAts,
            other => Self::Other(other),
        }
    }

    const fn as_raw(self) -> bindings::iommu_cap {
        match self {
            Self::CacheCoherency => bindings::iommu_cap_IOMMU_CAP_CACHE_COHERENCY,
            Self::EnforceCacheCoherency => bindings::iommu_cap_IOMMU_CAP_ENFORCE_CACHE_COHERENCY,
            Self::DirtyTracking => bindings::iommu_cap_IOMMU_CAP_DIRTY_TRACKING,
            Self::PciAts => bindings::iommu_cap_IOMMU_CAP_PCI_ATS_SUPPORTED,
            Self::Other(other) => other,
        }
    }
}

/// A device that an IOMMU driver serves, as the core hands it to the operations of a domain.
///
/// # Invariants
///
/// The core has probed the device with its IOMMU driver, and does not have it released while this
/// is borrowed: the mutex of its group is held, or it stays bound to a driver.
#[repr(transparent)]
pub struct Served(Device);

impl Served {
    /// Borrows a device from its C pointer.
    ///
    /// # Safety
    ///
    /// `dev` is probed by its IOMMU driver, and for `'a` the mutex of its group is held or it is
    /// bound to a driver.
    #[inline]
    pub(super) unsafe fn from_raw<'a>(dev: *mut bindings::device) -> &'a Self {
        // INVARIANT: by the contract of this function.
        // SAFETY: A probed device is a valid one; both types are transparent.
        unsafe { &*dev.cast() }
    }

    /// The device as C knows it.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::device {
        self.0.as_raw()
    }
}

impl Deref for Served {
    type Target = Device;

    #[inline]
    fn deref(&self) -> &Device {
        &self.0
    }
}

/// Asks what the IOMMU can do for a device: nothing, where there is none.
///
/// A reference to a device does not keep its IOMMU:
///
/// ```ignore,compile_fail,E0308
/// use kernel::{device::Device, iommu::device};
///
/// pub fn ask(dev: &Device) -> bool {
///     device::is_capable(dev, device::Capability::CacheCoherency)
/// }
/// ```
#[inline]
pub fn is_capable(dev: &Device<Bound>, capability: Capability) -> bool {
    // SAFETY: The device is valid, and what the core keeps for it stays while it is bound.
    unsafe { bindings::device_iommu_capable(dev.as_raw(), capability.as_raw()) }
}

/// The ownership of the DMA of a device and of all others in its group. Dropping it gives it back,
/// when none of these devices may be attached to a domain of the owner's any more.
///
/// The group is found by the device, so it is given back while the device is bound:
///
/// ```ignore,compile_fail,E0521
/// use core::{ffi::c_void, ptr::NonNull};
/// use kernel::{device::{Bound, Device}, iommu::device::DmaOwner};
///
/// fn drop_some_time(_owner: DmaOwner<'static>) {}
///
/// pub fn keep(dev: &Device<Bound>, me: NonNull<c_void>) -> Result {
///     drop_some_time(DmaOwner::claim(dev, me)?);
///     Ok(())
/// }
/// ```
///
/// # Invariants
///
/// It was claimed for the device, and this is the only value that stands for that claim.
pub struct DmaOwner<'a>(&'a Device<Bound>);

impl<'a> DmaOwner<'a> {
    /// Has the DMA of the device's group be nobody's but `owner`'s, who may claim it for several
    /// devices of the group. Who the owner is only matters in that others are not: the pointer is
    /// never followed.
    ///
    /// # Errors
    ///
    /// `EBUSY`: it is somebody else's, such as that of a driver which uses the DMA API; `ENODEV`:
    /// the device is in no group; `ENOMEM`.
    pub fn claim(dev: &'a Device<Bound>, owner: NonNull<c_void>) -> Result<Self> {
        // SAFETY: The device is bound, so it stays in its group, and the owner is not null.
        to_result(unsafe { bindings::iommu_device_claim_dma_owner(dev.as_raw(), owner.as_ptr()) })?;
        // INVARIANT: Claimed just now.
        Ok(Self(dev))
    }
}

impl Drop for DmaOwner<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it was claimed for this device, which is bound still.
        unsafe { bindings::iommu_device_release_dma_owner(self.0.as_raw()) };
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[macros::kunit_tests(rust_kernel_iommu_device)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_of_c() {
        for raw in 0..64 {
            assert_eq!(Capability::from_raw(raw).as_raw(), raw);
        }
    }
}
