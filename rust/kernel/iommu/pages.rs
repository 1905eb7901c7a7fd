// SPDX-License-Identifier: GPL-2.0

//! Physically contiguous memory that a driver lends to user space or to hardware.
//!
//! C header: [`include/linux/gfp.h`](srctree/include/linux/gfp.h)

use crate::{
    bindings,
    page::PAGE_SIZE,
    prelude::*, //
};
use core::ptr::NonNull;

/// Whole pages, contiguous in physical memory and zero at first.
///
/// # Invariants
///
/// `at` is what `alloc_pages_exact()` gave for `len` bytes.
pub struct ContiguousPages {
    at: NonNull<c_void>,
    len: usize,
}

// SAFETY: It owns the memory and refers to nothing else.
unsafe impl Send for ContiguousPages {}
// SAFETY: Nothing can be read through a shared reference.
unsafe impl Sync for ContiguousPages {}

impl ContiguousPages {
    /// Takes `len` bytes of the kernel's own memory (`GFP_KERNEL`), charged to nobody. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: not a positive number of whole pages. `ENOMEM`: no memory.
    pub fn new(len: usize) -> Result<Self> {
        if len == 0 || len % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let gfp = (GFP_KERNEL | __GFP_ZERO).as_raw();
        // SAFETY: No requirements.
        let at = unsafe { bindings::alloc_pages_exact_noprof(len, gfp) };
        // INVARIANT: just allocated.
        let at = NonNull::new(at).ok_or(ENOMEM)?;
        Ok(Self { at, len })
    }

    /// The length in bytes.
    #[expect(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where it is in physical memory.
    pub fn phys(&self) -> bindings::phys_addr_t {
        // SAFETY: It is memory of the page allocator, so it is in the linear map.
        unsafe { bindings::virt_to_phys(self.at.as_ptr()) }
    }

    /// Puts a number into the first four bytes.
    pub fn set_first(&mut self, value: u32) {
        // SAFETY: It is at least a page, page aligned, and nobody else has it.
        unsafe { self.at.cast().write_volatile(value) };
    }
}

impl Drop for ContiguousPages {
    fn drop(&mut self) {
        // SAFETY: This owns the pages, which are not used again.
        unsafe { bindings::free_pages_exact(self.at.as_ptr(), self.len) };
    }
}
