// SPDX-License-Identifier: GPL-2.0-only

//! Who doorbells of MSIs are for: the device that is attached, and its page table.

use super::shared::{
    CtxHead,
    DeviceHead,
    Doorbell,
    DoorbellSet,
    GroupHead,
    HwptHead, //
};
use crate::sw_msi;
use core::ptr;
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    io::PhysAddr,
    page::PAGE_SIZE,
    prelude::*, //
};

/// A page table of the kernel's, a paging hwpt.
///
/// # Invariants
///
/// It is of the context the mutex of whose doorbells is held whenever it is changed.
pub(crate) struct Table<'a>(&'a HwptHead);

impl Table<'_> {
    /// The page table that a domain's MSIs go through: its own, or the parent's.
    ///
    /// # Safety
    ///
    /// `domain` must be one of iommufd's, in use for `'a`.
    unsafe fn of(domain: *mut bindings::iommu_domain) -> Self {
        // SAFETY: By the caller; hwpts begin with it.
        let hwpt = unsafe { &*bindings::iommu_domain_hwpt(domain).cast::<HwptHead>() };
        match hwpt.parent {
            // SAFETY: A nested hwpt has a hold on its parent.
            Some(parent) => Self(unsafe { parent.as_ref() }),
            None => Self(hwpt),
        }
    }

    /// The doorbells that it has.
    pub(crate) fn present(&self) -> &DoorbellSet {
        &self.0.present
    }

    /// Maps the physical page `addr` at `iova`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what the driver says.
    pub(crate) fn map(&self, iova: usize, addr: PhysAddr) -> Result {
        let prot = bindings::IOMMU_WRITE | bindings::IOMMU_READ | bindings::IOMMU_MMIO;
        // SAFETY: A page table has its domain as long as it lives.
        to_result(unsafe {
            bindings::iommu_map(
                self.0.domain.as_ptr(),
                iova,
                addr,
                PAGE_SIZE,
                prot as c_int,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })
    }
}

/// A device that is attached, with its group's mutex held, so that it stays attached.
pub(crate) struct Attached<'a>(&'a DeviceHead);

impl Attached<'_> {
    /// The device that `/dev/iommu` has attached for `dev`; `None` when somebody else did.
    ///
    /// # Safety
    ///
    /// `dev` must be a device whose IOMMU group's mutex is held for `'a`, and on a domain of
    /// iommufd's.
    unsafe fn find(dev: *mut bindings::device) -> Option<Self> {
        // SAFETY: The caller has the device, whose group it has locked.
        unsafe { bindings::iommu_group_mutex_assert(dev) };
        // SAFETY: The caller has the device, which stays in its group.
        let group = unsafe { (*dev).iommu_group };
        // SAFETY: The group's mutex is held.
        let handle =
            unsafe { bindings::iommu_attach_handle_get(group, bindings::IOMMU_NO_PASID, 0) };
        let handle = from_err_ptr(handle).ok()?;
        // The handles of iommufd's attachments begin with the IOMMU core's.
        let handle = handle.cast::<bindings::iommufd_attach_handle>();
        // SAFETY: By the caller, who knows that iommufd has attached it. The field may change, from
        // one device of the group to another, and is read and written whole.
        let idev = unsafe { ptr::read_volatile(&raw const (*handle).idev) };
        // SAFETY: A device that was there takes the core's mutex, which is held, once more before
        // it is freed.
        Some(Self(unsafe { &*idev.cast() }))
    }

    /// What its context knows of its group.
    pub(crate) fn group(&self) -> &GroupHead {
        // SAFETY: Its group outlives the device.
        unsafe { self.0.group.as_ref() }
    }

    /// Its context.
    pub(crate) fn ctx(&self) -> &CtxHead {
        // SAFETY: Its context outlives the device.
        unsafe { self.0.ctx.as_ref() }
    }
}

/// Gives the MSI of a descriptor an IOVA to go to, if the device's MSIs are translated.
///
/// # Errors
///
/// As [`sw_msi::translate`].
///
/// # Safety
///
/// As for [`super::exports::iommufd_sw_msi`].
pub(super) unsafe fn translate(
    domain: *mut bindings::iommu_domain,
    desc: *mut bindings::msi_desc,
    addr: PhysAddr,
) -> Result {
    // SAFETY: The caller has the descriptor, whose device does not change.
    let dev = unsafe { (*desc).dev };
    // SAFETY: The caller holds the mutex of the device's group; the domain is iommufd's.
    let Some(device) = (unsafe { Attached::find(dev) }) else {
        return Ok(());
    };
    // SAFETY: The caller has a domain of iommufd's, which the device is on.
    let table = unsafe { Table::of(domain) };
    if let Some(iova) = sw_msi::translate(&device, &table, addr)? {
        // SAFETY: By the caller the descriptor is being prepared.
        unsafe { bindings::msi_desc_set_iommu_msi_iova(desc, iova as u64, bindings::PAGE_SHIFT) };
    }
    Ok(())
}

/// Maps a doorbell in a page table that has it not yet.
///
/// # Errors
///
/// As [`sw_msi::install`].
///
/// # Safety
///
/// As for [`super::exports::iommufd_sw_msi_install`].
pub(super) unsafe fn install(
    table: *mut bindings::iommufd_hwpt_paging,
    map: *mut bindings::iommufd_sw_msi_map,
) -> Result {
    // SAFETY: By the caller; hwpts begin with it.
    //
    // INVARIANT: By the caller.
    let table = Table(unsafe { &*table.cast() });
    // SAFETY: By the caller, who holds the mutex of the context's doorbells; `/dev/iommu` says so
    // with one of them.
    let doorbell = unsafe { &*map.cast::<Doorbell>() };
    sw_msi::install(&table, doorbell)
}
