// SPDX-License-Identifier: GPL-2.0-only

//! A device behind a unit (`struct device` with its `struct device_domain_info`).

use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    bindings,
    error::to_result,
    iommu::device::Served,
    prelude::*, //
};

use super::{
    ops,
    table::Directory,
    unit::Unit, //
};
use crate::{
    flush_plan::Scope,
    invalidate::{
        DevTlb,
        Pasid, //
    },
};

/// A device that the driver has probed and that stays so for `'a`.
///
/// # Invariants
///
/// `info` is that of `dev`, which is probed.
#[derive(Clone, Copy)]
pub(crate) struct Device<'a> {
    dev: NonNull<bindings::device>,
    info: NonNull<bindings::device_domain_info>,
    _lives: PhantomData<&'a ()>,
}

impl<'a> Device<'a> {
    /// Wraps a device, unless it is not probed.
    ///
    /// # Safety
    ///
    /// `dev` is a device behind an IOMMU of this driver, and is not released during `'a`.
    pub(super) unsafe fn from_raw(dev: *mut bindings::device) -> Option<Self> {
        // SAFETY: By the safety requirement `dev` is a device.
        let iommu = NonNull::new(unsafe { (*dev).iommu })?;
        // SAFETY: The core's part of a device that is not released.
        let info: *mut bindings::device_domain_info = unsafe { (*iommu.as_ptr()).priv_ }.cast();
        // INVARIANT: It is what the device says.
        Some(Self {
            dev: NonNull::new(dev)?,
            info: NonNull::new(info)?,
            _lives: PhantomData,
        })
    }

    /// Sees a device of the core's as this driver does.
    ///
    /// # Errors
    ///
    /// `ENODEV`: another driver serves it.
    pub(crate) fn of(dev: &'a Served) -> Result<Self> {
        // SAFETY: It is probed as long as it is borrowed, so that the core knows its unit.
        let iommu = NonNull::new(unsafe { (*(*dev.as_raw()).iommu).iommu_dev }).ok_or(ENODEV)?;
        // SAFETY: The core's part of a unit, which stays while devices are behind it.
        let by = unsafe { (*iommu.as_ptr()).ops };
        if !ptr::eq(by, ops::intel_iommu_ops.as_raw()) {
            return Err(ENODEV);
        }
        // SAFETY: It is of this driver, and not released as long as it is borrowed.
        unsafe { Self::from_raw(dev.as_raw()) }.ok_or(ENODEV)
    }

    /// The C structure.
    pub(super) fn as_raw(&self) -> *mut bindings::device {
        self.dev.as_ptr()
    }

    /// What the driver knows of it.
    pub(super) fn info(&self) -> *mut bindings::device_domain_info {
        self.info.as_ptr()
    }

    /// Its unit.
    pub(crate) fn unit(&self) -> Unit<'a> {
        // SAFETY: `info` is there by the invariant; `iommu` does not change.
        let unit = unsafe { (*self.info()).iommu };
        // SAFETY: A unit stays while devices are behind it.
        unsafe { Unit::from_raw(unit) }
    }

    /// Its names and what it can do, as of now.
    pub(crate) fn snapshot(&self) -> bindings::vtd_device {
        let mut out = bindings::vtd_device::default();
        // SAFETY: `info` is there by the invariant.
        unsafe { bindings::vtd_read_info(self.info(), &mut out) };
        out
    }

    /// Whether it is on PCI.
    pub(super) fn is_pci(&self) -> bool {
        // SAFETY: The device is there by the invariant.
        unsafe { bindings::vtd_is_pci(self.as_raw()) }
    }

    /// Whether it is a bridge.
    pub(crate) fn is_bridge(&self) -> bool {
        // SAFETY: The device is there by the invariant, and on PCI.
        self.is_pci() && unsafe { bindings::vtd_is_bridge(self.as_raw()) }
    }

    /// Whether its context entry is that of a crashed kernel still.
    pub(crate) fn inherited(&self) -> bool {
        // SAFETY: `info` is there by the invariant; these do not change.
        let (bus, devfn) = unsafe { ((*self.info()).bus, (*self.info()).devfn) };
        self.unit().context_copied(bus, devfn)
    }

    /// Whether both are the same device.
    pub(crate) fn is(&self, other: &Device<'_>) -> bool {
        self.dev == other.dev
    }

    /// Calls `f` for each source-id that the device's requests may come with, and the device whose
    /// name that is: itself, or a bridge on the way to the root, none if that is not probed.
    ///
    /// # Errors
    ///
    /// The first of `f`, which ends it.
    pub(crate) fn each_source_id<F>(&self, f: F) -> Result
    where
        F: FnMut(Option<&Device<'_>>, u16) -> Result,
    {
        let mut names = Names { of: *self, f };
        if !self.is_pci() {
            return (names.f)(Some(self), self.source_id());
        }
        // SAFETY: The device is there, and on PCI; the callback gets what it asks for.
        to_result(unsafe {
            bindings::vtd_for_each_alias(
                self.as_raw(),
                Some(on_source_id::<F>),
                (&raw mut names).cast(),
            )
        })
    }

    /// Whether `f` says so of another PCI device of its group that does DMA in its own name. The
    /// mutex of the group is held. Looks at all PCI devices, so this is not for hot paths.
    pub(crate) fn any_other_of_group<F>(&self, mut f: F) -> bool
    where
        F: FnMut(&Device<'_>) -> bool,
    {
        // SAFETY: The device is there, and in a group; the callback gets what it asks for.
        let found = unsafe {
            bindings::vtd_for_each_in_group(self.as_raw(), Some(on_other::<F>), (&raw mut f).cast())
        };
        found != 0
    }

    /// Its source-id. Any context.
    pub(crate) fn source_id(&self) -> u16 {
        self.snapshot().sid
    }

    /// Whether its requests come with its own source-id and no other.
    pub(crate) fn has_own_source_id(&self) -> bool {
        let own = self.source_id();
        let only = |dev: Option<&Device<'_>>, id| match dev {
            Some(dev) if dev.is(self) && id == own => Ok(()),
            _ => Err(EOPNOTSUPP),
        };
        !self.real_dma_subdevice() && self.each_source_id(only).is_ok()
    }

    /// Whether it does its DMA in another device's name.
    pub(crate) fn real_dma_subdevice(&self) -> bool {
        // SAFETY: The device is there by the invariant.
        unsafe { bindings::vtd_is_real_dma_subdevice(self.as_raw()) }
    }

    /// The cache in the device, if it has one in use, is there to answer, and the unit
    /// translates. Asks the device, so this is not for hot paths.
    fn answering_tlb(&self) -> Option<DevTlb> {
        let is = self.snapshot();
        if !is.ats_enabled || !self.unit().translating() {
            return None;
        }
        // SAFETY: The device is there by the invariant; only a PCI device has ATS.
        let present = unsafe { bindings::vtd_is_present(self.as_raw()) };
        present.then(|| DevTlb::new(is.sid, is.pfsid, is.ats_qdep))
    }

    /// Whom a change of one of its entries concerns.
    pub(crate) fn scope(&self, pasid: Pasid) -> Scope {
        Scope {
            caps: self.unit().caps(),
            pasid,
            device: self.answering_tlb(),
        }
    }

    /// Its PASID directory, if it has one.
    pub(crate) fn directory(&self) -> Option<Directory<'a>> {
        // SAFETY: `info` is there by the invariant; the table comes with the probe and goes with
        // the release.
        let table = unsafe { (*self.info()).pasid_table };
        // SAFETY: It was made for this device, which is not released during `'a`.
        NonNull::new(table).map(|table| unsafe { Directory::from_raw(table, self.unit()) })
    }

    /// Waits until nothing of the PASID is in the page request queue. Sleeps.
    pub(crate) fn drain_page_requests(&self, pasid: u32) {
        // SAFETY: The device is there by the invariant.
        unsafe { bindings::intel_iommu_drain_pasid_prq(self.as_raw(), pasid) };
    }

    /// Whether it has a cache of its own, or will have as soon as it is attached: in legacy mode
    /// its cache is in use only while it is.
    pub(crate) fn may_have_tlb(&self) -> bool {
        // SAFETY: `info` is there by the invariant, and the mutex of the group is held.
        let info = unsafe { &*self.info() };
        if self.unit().scalable() {
            info.ats_enabled() != 0
        } else {
            info.ats_supported() != 0
        }
    }

    /// Lets it use its cache, if it has one. The mutex of its group is held.
    pub(crate) fn enable_ats(&self) {
        // SAFETY: `info` is there by the invariant.
        unsafe { bindings::iommu_enable_pci_ats(self.info()) };
    }

    /// It uses it no more. The mutex of its group is held.
    pub(crate) fn disable_ats(&self) {
        // SAFETY: `info` is there by the invariant.
        unsafe { bindings::iommu_disable_pci_ats(self.info()) };
    }

    /// Says what is wrong with it, now and then.
    pub(crate) fn complain(&self, what: &CStr) {
        // SAFETY: The device is there by the invariant; `what` ends in NUL.
        unsafe { bindings::vtd_dev_err_ratelimited(self.as_raw(), what.as_char_ptr()) };
    }
}

/// # Safety
///
/// `dev` is a device of a group whose mutex is held; `f` is an `F` that nobody else uses.
unsafe extern "C" fn on_other<F>(dev: *mut bindings::device, f: *mut c_void) -> c_int
where
    F: FnMut(&Device<'_>) -> bool,
{
    // SAFETY: By the safety requirement nobody else uses it.
    let f = unsafe { &mut *f.cast::<F>() };
    // SAFETY: It is valid. All of a group are served by one driver, once they are probed.
    let serves = unsafe { bindings::vtd_serves(dev) };
    // SAFETY: It is of this driver if it serves it, and not released while the mutex is held.
    let other = serves.then(|| unsafe { Device::from_raw(dev) }).flatten();
    c_int::from(other.is_some_and(|other| !other.real_dma_subdevice() && f(&other)))
}

/// Whom the source-ids are of, and what is called with each.
struct Names<'a, F> {
    of: Device<'a>,
    f: F,
}

/// # Safety
///
/// `pdev` is the device that `names` is of, or a bridge before it, which is not released before it;
/// `names` is a [`Names`] of `F` that nobody else uses.
unsafe extern "C" fn on_source_id<F>(
    pdev: *mut bindings::pci_dev,
    source_id: u16,
    names: *mut c_void,
) -> c_int
where
    F: FnMut(Option<&Device<'_>>, u16) -> Result,
{
    // SAFETY: By the safety requirement nobody else uses it.
    let Names { of, f } = unsafe { &mut *names.cast::<Names<'_, F>>() };
    // SAFETY: `pdev` is valid; only the address is taken.
    let dev = unsafe { &raw mut (*pdev).dev };
    // The core does not say yet who serves a device that is being probed.
    let whose = if ptr::eq(dev, of.as_raw()) {
        Some(*of)
    } else {
        // SAFETY: It is valid. A bridge may be behind no IOMMU, or one of another driver's.
        let serves = unsafe { bindings::vtd_serves(dev) };
        // SAFETY: It is of this driver if it serves it, and not released meanwhile.
        serves.then(|| unsafe { Device::from_raw(dev) }).flatten()
    };
    match f(whose.as_ref(), source_id) {
        Ok(()) => 0,
        Err(e) => e.to_errno(),
    }
}
