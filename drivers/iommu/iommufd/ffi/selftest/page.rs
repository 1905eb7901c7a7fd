// SPDX-License-Identifier: GPL-2.0-only

//! Pages of the calling process, to compare with what was mapped.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    error::to_result,
    page::PAGE_SIZE,
    prelude::*, //
};

/// Whether the calling process is being killed.
pub(crate) fn is_killed() -> bool {
    // SAFETY: No requirements.
    unsafe { bindings::iommu_current_is_killed() }
}

/// A page of the calling process.
///
/// # Invariants
///
/// It stands for one of the page's references.
pub(crate) struct UserPage(NonNull<bindings::page>);

impl UserPage {
    /// The page at this address.
    ///
    /// # Errors
    ///
    /// `EFAULT`: there is none.
    pub(crate) fn at(addr: usize) -> Result<Self> {
        let mut page = core::ptr::null_mut();
        // SAFETY: There is room for the one page that it may give.
        let got = unsafe { bindings::get_user_pages_fast(addr, 1, 0, &mut page) };
        to_result(got)?;
        // INVARIANT: `get_user_pages_fast()` took the reference.
        NonNull::new(page).map(Self).ok_or(EFAULT)
    }

    /// Its physical address.
    pub(crate) fn phys(&self) -> u64 {
        // SAFETY: By the type invariant it is alive.
        unsafe { bindings::page_to_pfn(self.0.as_ptr()) as u64 * PAGE_SIZE as u64 }
    }

    /// How often it is pinned; for compound pages nobody can tell.
    pub(crate) fn pins(&self) -> Option<u32> {
        // SAFETY: By the type invariant it is alive.
        if unsafe { bindings::PageCompound(self.0.as_ptr()) } {
            return None;
        }
        // SAFETY: The reference keeps the page.
        let references = unsafe { bindings::page_ref_count(self.0.as_ptr()) };
        // CAST: C divides as unsigned numbers, too.
        Some(references as u32 / bindings::GUP_PIN_COUNTING_BIAS)
    }
}

impl Drop for UserPage {
    fn drop(&mut self) {
        // SAFETY: This reference is not used again.
        unsafe { bindings::put_page(self.0.as_ptr()) };
    }
}

/// Room for the pages that an access pins.
pub(crate) struct PageArray(KVVec<*mut bindings::page>);

impl PageArray {
    /// Room for `count` pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory.
    pub(crate) fn new(count: usize) -> Result<Self> {
        Ok(Self(KVVec::from_elem(
            core::ptr::null_mut(),
            count,
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// How many there is room for.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut *mut bindings::page {
        self.0.as_mut_ptr()
    }

    /// Whether these are the pages that the calling process has from `addr` on.
    ///
    /// # Errors
    ///
    /// `EBADE`: they are not. `EFAULT`: it has none there.
    pub(crate) fn compare(&self, addr: usize) -> Result {
        let mut at = addr;
        for page in &self.0 {
            if UserPage::at(at)?.0.as_ptr() != *page {
                return Err(EBADE);
            }
            at = at.wrapping_add(PAGE_SIZE);
        }
        Ok(())
    }
}
