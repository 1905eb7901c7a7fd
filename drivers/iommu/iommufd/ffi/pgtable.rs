// SPDX-License-Identifier: GPL-2.0-only

//! The page table of a domain, as an IOAS fills it.

use super::domain::Domain;
use crate::io_pagetable::Owner;
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::to_result,
    prelude::*, //
};

/// A domain that is one of an IOAS's.
///
/// # Invariants
///
/// The domain is valid: who puts one on an IOAS takes it off before it goes, and nothing of the
/// IOAS has it from then on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageTable(NonNull<bindings::iommu_domain>);

// SAFETY: Drivers do their own locking.
unsafe impl Send for PageTable {}
// SAFETY: Domains are not bound to a thread, and drivers do their own locking.
unsafe impl Sync for PageTable {}

/// What a device may do, and with what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prot(c_int);

impl Prot {
    /// Of memory. There is no ioctl for cache maintenance, so DMA must be coherent; binding a
    /// device has checked that it can be.
    pub(crate) fn new(read: bool, write: bool) -> Self {
        let mut prot = bindings::IOMMU_CACHE;
        if read {
            prot |= bindings::IOMMU_READ;
        }
        if write {
            prot |= bindings::IOMMU_WRITE;
        }
        // CAST: Small bits.
        Self(prot as c_int)
    }

    /// The same of registers of a device.
    pub(crate) fn of_mmio(self) -> Self {
        // CAST: Small bits.
        Self(self.0 & !(bindings::IOMMU_CACHE as c_int) | bindings::IOMMU_MMIO as c_int)
    }

    /// Whether it may write.
    pub(crate) fn writes(self) -> bool {
        // CAST: Small bits.
        self.0 as u32 & bindings::IOMMU_WRITE != 0
    }

    /// Whether it may read.
    pub(crate) fn reads(self) -> bool {
        // CAST: Small bits.
        self.0 as u32 & bindings::IOMMU_READ != 0
    }
}

impl PageTable {
    /// The page table of a domain.
    ///
    /// # Safety
    ///
    /// The caller keeps the type's invariant.
    pub(super) unsafe fn new(domain: &Domain) -> Self {
        // INVARIANT: By the caller.
        //
        // SAFETY: A domain has one.
        Self(unsafe { NonNull::new_unchecked(domain.as_raw()) })
    }

    pub(super) fn as_raw(self) -> *mut bindings::iommu_domain {
        self.0.as_ptr()
    }

    /// Unmaps from `iova` to `last`, both included, which begins and ends where mappings do; when
    /// this returns no device reaches the memory any more.
    pub(crate) fn unmap(self, iova: usize, last: usize) {
        let size = (last - iova).wrapping_add(1);
        // SAFETY: The domain is valid as long as this is used.
        let done = unsafe { bindings::iommu_unmap(self.as_raw(), iova, size) };
        // A bug here or in the driver, which may not fail nor need memory for this.
        kernel::warn_on!(done != size);
    }

    /// The physical address behind an IOVA that is mapped.
    pub(crate) fn phys(self, iova: usize) -> u64 {
        // SAFETY: The domain is valid as long as this is used.
        unsafe { bindings::iommu_iova_to_phys(self.as_raw(), iova as u64) }
    }

    /// The smallest page that it has, in bytes.
    pub(crate) fn smallest_page(self) -> usize {
        1 << self.sizes().trailing_zeros().min(usize::BITS - 1)
    }

    /// The page sizes that it has, a bit each.
    pub(crate) fn sizes(self) -> usize {
        // SAFETY: The domain is valid, and its page sizes do not change once it is attached.
        unsafe { (*self.as_raw()).pgsize_bitmap }
    }

    /// The first and the last IOVA that it translates.
    pub(crate) fn aperture(self) -> (usize, usize) {
        // SAFETY: The domain is valid, and its aperture does not change once it is attached.
        let geometry = unsafe { (*self.as_raw()).geometry };
        // CAST: Both have 64 bits.
        (
            geometry.aperture_start as usize,
            geometry.aperture_end as usize,
        )
    }

    /// Whether it is one for devices without an IOMMU, whose addresses are physical ones.
    pub(crate) fn is_identity(self) -> bool {
        #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
        // SAFETY: The domain is valid, and its owner does not change.
        return unsafe {
            core::ptr::eq(
                (*self.as_raw()).owner,
                &raw const bindings::iommufd_noiommu_ops,
            )
        };
        #[cfg(not(CONFIG_IOMMUFD_NOIOMMU))]
        false
    }

    /// Whose IOVAs are reserved that it cannot translate.
    pub(crate) fn owner(self) -> Owner {
        Owner(self.as_raw().addr())
    }

    /// Begins or ends recording what is written to.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it cannot; what the driver says.
    pub(crate) fn set_dirty_tracking(self, enable: bool) -> Result {
        // SAFETY: By the type invariant; tables of operations do not change.
        let ops = unsafe { (*self.as_raw()).dirty_ops.as_ref() }.ok_or(EOPNOTSUPP)?;
        let op = ops.set_dirty_tracking.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the domain's own operation.
        to_result(unsafe { op(self.as_raw(), enable) })
    }
}

/// Ranges that are mapped in one call: half a KiB of stack.
const AT_ONCE: usize = 32;

/// Maps physical ranges one behind the other, some in each walk of the page table. Each of them can
/// be unmapped by itself.
pub(crate) struct Mapper {
    table: PageTable,
    prot: Prot,
    /// Where what waits goes.
    iova: usize,
    waiting: [MaybeUninit<bindings::phys_vec>; AT_ONCE],
    count: usize,
    size: usize,
}

impl Mapper {
    /// One that begins at an IOVA.
    pub(crate) fn new(table: PageTable, iova: usize, prot: Prot) -> Self {
        Self {
            table,
            prot,
            iova,
            waiting: [const { MaybeUninit::uninit() }; AT_ONCE],
            count: 0,
            size: 0,
        }
    }

    /// Has `size` bytes mapped, at least one. May sleep.
    ///
    /// # Errors
    ///
    /// As [`Self::finish`].
    #[inline]
    pub(crate) fn add(&mut self, phys: u64, size: usize) -> Result {
        if self.count == AT_ONCE {
            self.finish()?;
        }
        if let Some(next) = self.waiting.get_mut(self.count) {
            next.write(bindings::phys_vec {
                paddr: phys,
                len: size,
            });
            self.count += 1;
            self.size = self.size.wrapping_add(size);
        }
        Ok(())
    }

    /// Maps what waits. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, what the driver says; nothing is mapped from [`Self::end`] on.
    pub(crate) fn finish(&mut self) -> Result {
        if self.count == 0 {
            return Ok(());
        }
        // SAFETY: By the type invariant of the table; `count` ranges were written, none of which is
        // empty.
        to_result(unsafe {
            bindings::iommu_map_phys_vec(
                self.table.as_raw(),
                self.iova,
                self.waiting.as_ptr().cast(),
                self.count,
                self.prot.0,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })?;
        self.iova = self.iova.wrapping_add(self.size);
        (self.count, self.size) = (0, 0);
        Ok(())
    }

    /// The IOVA behind what is mapped.
    pub(crate) fn end(&self) -> usize {
        self.iova
    }
}
