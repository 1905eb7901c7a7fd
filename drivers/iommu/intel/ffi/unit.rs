// SPDX-License-Identifier: GPL-2.0-only

//! A remapping unit (`struct intel_iommu`): its capabilities, its lock, its queue.

use core::{
    marker::PhantomData,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    error::to_result,
    num::Bounded,
    prelude::*, //
};

use crate::{
    caps::Caps,
    flush_plan::Plan,
    invalidate::Desc,
    paging::Abilities, //
};

/// A remapping unit that stays for `'a`.
///
/// # Invariants
///
/// Points to an initialised `struct intel_iommu`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unit<'a>(NonNull<bindings::intel_iommu>, PhantomData<&'a ()>);

/// TE of the Global Command Register (section 11.4.4.1), as the driver last wrote it.
const GCMD_TE: u32 = 1 << 31;

/// Whether page tables may map pages that are larger than 4 KiB: the user may forbid it.
pub(crate) fn superpages() -> bool {
    // SAFETY: A word that changes while the command line is read only.
    unsafe { (&raw const bindings::intel_iommu_superpage).read_volatile() != 0 }
}

/// Proof that `intel_iommu::lock` of a unit is held; dropping it unlocks.
pub(crate) struct Guard<'a>(Unit<'a>);

impl<'a> Guard<'a> {
    /// The unit.
    pub(crate) fn unit(&self) -> Unit<'a> {
        self.0
    }
}

impl<'a> Unit<'a> {
    /// Wraps a pointer.
    ///
    /// # Safety
    ///
    /// `ptr` is a unit that is there for `'a`.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::intel_iommu) -> Self {
        // INVARIANT: by the safety requirement.
        // SAFETY: A unit has an address.
        Self(unsafe { NonNull::new_unchecked(ptr) }, PhantomData)
    }

    /// The C structure.
    pub(super) fn as_raw(&self) -> *mut bindings::intel_iommu {
        self.0.as_ptr()
    }

    /// What it can do; does not change.
    pub(crate) fn caps(&self) -> Caps {
        // SAFETY: The unit is there by the invariant; both were set before anybody got it.
        let (cap, ecap) = unsafe { ((*self.as_raw()).cap, (*self.as_raw()).ecap) };
        Caps::new(cap, ecap)
    }

    /// Its address width as AW wants it.
    pub(crate) fn agaw(&self) -> Bounded<u64, 3> {
        // SAFETY: The unit is there by the invariant; `agaw` was set before anybody got it.
        let agaw = unsafe { (*self.as_raw()).agaw };
        let agaw = u64::try_from(agaw).ok();
        // The driver refuses units with anything else.
        agaw.and_then(Bounded::try_new)
            .unwrap_or(Bounded::<u64, 3>::new::<2>())
    }

    /// The greatest address width that it can walk tables of, as AW wants it.
    pub(crate) fn max_agaw(&self) -> Bounded<u64, 3> {
        // SAFETY: The unit is there by the invariant; `msagaw` was set before anybody got it.
        let msagaw = u64::try_from(unsafe { (*self.as_raw()).msagaw }).ok();
        msagaw
            .and_then(Bounded::try_new)
            .unwrap_or(Bounded::<u64, 3>::new::<2>())
    }

    /// What it can do for domains.
    pub(crate) fn abilities(&self) -> Abilities {
        let caps = self.caps();
        // SAFETY: A word that changes while PCI's quirks run, before there are domains.
        let quirk = unsafe { (&raw const bindings::intel_iommu_rwbf_quirk).read_volatile() != 0 };
        Abilities {
            caps,
            scalable: self.scalable(),
            write_buffer: quirk || caps.cap.write_buffer().into_bool(),
        }
    }

    /// Whether it works in scalable mode.
    pub(crate) fn scalable(&self) -> bool {
        // SAFETY: A word that changes while the units are set up only.
        let wanted = unsafe { (&raw const bindings::intel_iommu_sm).read_volatile() != 0 };
        wanted && self.caps().ecap.scalable().into_bool()
    }

    /// Whether it knows PASIDs.
    pub(crate) fn pasid_supported(&self) -> bool {
        // SAFETY: The unit is there by the invariant.
        unsafe { bindings::vtd_pasid_supported(self.as_raw()) }
    }

    /// Whether translation is on. While it is not, devices are not to be asked to invalidate
    /// (section 4.3).
    pub(super) fn translating(&self) -> bool {
        // SAFETY: The unit is there by the invariant.
        let gcmd = unsafe { (&raw const (*self.as_raw()).gcmd).read_volatile() };
        gcmd & GCMD_TE != 0
    }

    /// Takes the lock under which context and PASID entries are written.
    pub(crate) fn lock(&self) -> Guard<'a> {
        // SAFETY: The unit is there by the invariant, its lock is initialised with it.
        unsafe { bindings::vtd_lock(self.as_raw()) };
        Guard(*self)
    }

    /// Whether the context entry of a device is that of a crashed kernel.
    pub(crate) fn context_copied(&self, bus: u8, devfn: u8) -> bool {
        // SAFETY: The unit is there by the invariant; the map comes before devices are found, and
        // does not go.
        let none = unsafe { (*self.as_raw()).copied_tables }.is_null();
        // SAFETY: The unit is there by the invariant.
        !none && unsafe { bindings::vtd_context_copied(self.as_raw(), bus, devfn) }
    }

    /// Notes that the context entry is ours. It was copied.
    pub(crate) fn forget_copied(&self, bus: u8, devfn: u8) {
        // SAFETY: The unit is there by the invariant, and has a map of what was copied.
        unsafe { bindings::vtd_clear_context_copied(self.as_raw(), bus, devfn) };
    }

    /// Flushes the write buffer, where that is needed.
    pub(crate) fn flush_write_buffer(&self) {
        // SAFETY: The unit is there by the invariant.
        unsafe { bindings::iommu_flush_write_buffer(self.as_raw()) };
    }

    /// Does what a plan says.
    ///
    /// # Errors
    ///
    /// Those of [`Self::submit`].
    pub(crate) fn flush(&self, plan: &Plan) -> Result {
        if plan.write_buffer {
            self.flush_write_buffer();
        }
        self.submit(&plan.batch)
    }

    /// Hands descriptors to the hardware and waits, once, until they are done. Any context.
    ///
    /// A unit without an invalidation queue has registers for contexts and the IOTLB; there is
    /// no way to say anything else to it.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a descriptor that the hardware refuses, `EIO` for what a unit without a queue
    /// cannot be told, `ETIMEDOUT` where a device that a descriptor is for is gone or does not
    /// answer (section 6.5.2.11): the other descriptors are done nonetheless.
    #[inline]
    pub(crate) fn submit(&self, descs: &[Desc]) -> Result {
        if descs.is_empty() {
            return Ok(());
        }
        // SAFETY: The unit is there by the invariant; `qi` changes only while nothing is
        // attached.
        if unsafe { (*self.as_raw()).qi }.is_null() {
            return self.submit_by_registers(descs);
        }
        // `qi_submit_sync()` reads the descriptors only.
        let first: *mut bindings::qi_desc = descs.as_ptr().cast_mut().cast();
        // CAST: A batch has less than the queue.
        let count = descs.len() as c_uint;
        // SAFETY: `first` points to `count` descriptors of the layout that is checked below.
        to_result(unsafe { bindings::qi_submit_sync(self.as_raw(), first, count, 0) })
    }

    /// Does what registers can, and goes on where they cannot.
    ///
    /// # Errors
    ///
    /// `EIO`: there was something that they cannot.
    #[cold]
    fn submit_by_registers(&self, descs: &[Desc]) -> Result {
        let by_register = |all: Result, desc| all.and(self.by_register(desc));
        descs.iter().fold(Ok(()), by_register)
    }

    fn by_register(&self, desc: &Desc) -> Result {
        // SAFETY: The unit is there by the invariant; its functions are set with `qi`.
        let flush = unsafe { &raw const (*self.as_raw()).flush };
        if let Some((sid, did)) = desc.as_context() {
            let kind = 3u64 << bindings::DMA_CCMD_INVL_GRANU_OFFSET;
            // SAFETY: `flush` points into the unit, which is there.
            if let Some(f) = unsafe { (*flush).flush_context } {
                // SAFETY: Called as its type wants it, with the unit whose it is.
                unsafe { f(self.as_raw(), did, sid, 0, kind) };
            }
        } else if let Some(part) = desc.as_iotlb() {
            let kind = part.granularity << bindings::DMA_TLB_FLUSH_GRANU_OFFSET;
            // SAFETY: `flush` points into the unit, which is there.
            if let Some(f) = unsafe { (*flush).flush_iotlb } {
                // SAFETY: Called as its type wants it, with the unit whose it is.
                unsafe { f(self.as_raw(), part.did, part.addr, part.mask.into(), kind) };
            }
        } else {
            return Err(EIO);
        }
        Ok(())
    }

    /// Writes processor caches back to where a unit reads that does not look into them.
    ///
    /// # Safety
    ///
    /// `at` points to `size` bytes of memory.
    pub(super) unsafe fn write_back(&self, at: *mut c_void, size: usize) {
        if !self.caps().coherent() {
            // CAST: No table has 4 GiB.
            // SAFETY: The caller says that there are so many bytes.
            unsafe { bindings::vtd_write_back(at, size as c_uint) };
        }
    }
}

const _: () = assert!(size_of::<Desc>() == size_of::<bindings::qi_desc>());
const _: () = assert!(align_of::<Desc>() == align_of::<bindings::qi_desc>());

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: `Unit::lock()` took the lock, and a guard is dropped once.
        unsafe { bindings::vtd_unlock(self.0.as_raw()) };
    }
}
