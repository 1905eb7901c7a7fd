// SPDX-License-Identifier: GPL-2.0-only

//! Registers of devices behind dma-bufs.
//!
//! Who exports a dma-buf may revoke it at any time; then nothing of it is mapped any more when that
//! returns.

use super::{
    exports,
    pages::Pages, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};

/// A reference to a dma-buf.
pub(crate) struct DmaBuf(NonNull<bindings::dma_buf>);

impl DmaBuf {
    /// The one that a descriptor is of, if it is of one.
    pub(crate) fn get(fd: c_int) -> Option<Self> {
        // SAFETY: It may be called for any number.
        let raw = from_err_ptr(unsafe { bindings::dma_buf_get(fd) }).ok()?;
        NonNull::new(raw).map(Self)
    }

    fn resv(&self) -> *mut bindings::dma_resv {
        // SAFETY: The reference keeps it; the field does not change.
        unsafe { (*self.0.as_ptr()).resv }
    }

    fn lock(&self) -> Locked<'_> {
        // SAFETY: The reference keeps it. Without a context this does not fail.
        unsafe { bindings::dma_resv_lock(self.resv(), core::ptr::null_mut()) };
        Locked(self)
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        // SAFETY: This reference is not used again.
        unsafe { bindings::dma_buf_put(self.0.as_ptr()) };
    }
}

/// A dma-buf whose reservation lock is held.
struct Locked<'a>(&'a DmaBuf);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: It is held.
        unsafe { bindings::dma_resv_unlock(self.0.resv()) };
    }
}

/// Pages that are attached to a dma-buf.
///
/// # Invariants
///
/// They are, by `raw`.
struct Attached {
    raw: NonNull<bindings::dma_buf_attachment>,
    buf: DmaBuf,
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: It is attached, and not used again.
        unsafe { bindings::dma_buf_detach(self.buf.0.as_ptr(), self.raw.as_ptr()) };
    }
}

/// The same when it is pinned.
pub(super) struct Attachment(Attached);

// SAFETY: Attachments may be used from anywhere.
unsafe impl Send for Attachment {}

impl Drop for Attachment {
    fn drop(&mut self) {
        let _locked = self.0.buf.lock();
        // SAFETY: It is pinned, and the lock is held.
        unsafe { bindings::dma_buf_unpin(self.0.raw.as_ptr()) };
    }
}

/// Called when the registers must not be used any more.
///
/// # Safety
///
/// Called by the core of dma-bufs for what is attached, with the reservation lock held.
unsafe extern "C" fn revoked(attachment: *mut bindings::dma_buf_attachment) {
    // SAFETY: They are what was attached, and are detached before they go.
    let pages = unsafe { &*(*attachment).importer_priv.cast::<Pages>() };
    pages.revoke();
}

struct Ops(bindings::dma_buf_attach_ops);

// SAFETY: They are only read.
unsafe impl Sync for Ops {}

static OPS: Ops = Ops(bindings::dma_buf_attach_ops {
    allow_peer2peer: true,
    invalidate_mappings: Some(revoked),
});

/// Where the registers are: `EOPNOTSUPP` when nobody tells.
fn address(raw: *mut bindings::dma_buf_attachment) -> Result<bindings::phys_vec> {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    {
        // SAFETY: The attachment is pinned, and the reservation lock held.
        let found = unsafe { super::selftest::dmabuf::phys_of((*raw).dmabuf) };
        if !matches!(found, Err(EOPNOTSUPP)) {
            return found;
        }
    }
    #[cfg(CONFIG_VFIO_PCI_DMABUF)]
    {
        let mut phys = pin_init::zeroed();
        // SAFETY: The attachment is pinned, and the reservation lock held.
        to_result(unsafe { bindings::iommu_vfio_dma_buf_map(raw, &mut phys) })?;
        Ok(phys)
    }
    #[cfg(not(CONFIG_VFIO_PCI_DMABUF))]
    {
        let _ = raw;
        Err(EOPNOTSUPP)
    }
}

/// `length` bytes from the byte `start` of a dma-buf on.
///
/// # Errors
///
/// `EINVAL`: it does not have so many; what its exporter says; `ENOMEM`.
pub(crate) fn import(
    buf: DmaBuf,
    start: usize,
    length: usize,
    writable: bool,
) -> Result<Arc<Pages>> {
    // SAFETY: The reference keeps it; the field does not change.
    let size = unsafe { (*buf.0.as_ptr()).size };
    if size <= start + (length - 1) || length / PAGE_SIZE >= u32::MAX as usize {
        return Err(EINVAL);
    }
    let inside = start % PAGE_SIZE;
    let pages = Pages::new_mmio(start - inside, inside, length, writable)?;
    let private = Arc::as_ptr(&pages).cast_mut().cast();
    // SAFETY: The operations are static; the pages are detached before they go.
    let raw = from_err_ptr(unsafe {
        let dev = exports::iommufd_global_device();
        bindings::dma_buf_dynamic_attach(buf.0.as_ptr(), dev, &OPS.0, private)
    })?;
    let raw = NonNull::new(raw).ok_or(EINVAL)?;
    // INVARIANT: as was done.
    let attached = Attached { raw, buf };
    {
        let _locked = attached.buf.lock();
        pages.touch_lock();
        // SAFETY: It is attached, and the lock is held.
        to_result(unsafe { bindings::dma_buf_pin(raw.as_ptr()) })?;
        let phys = address(raw.as_ptr()).inspect_err(|_| {
            // SAFETY: It was pinned just now, and the lock is held.
            unsafe { bindings::dma_buf_unpin(raw.as_ptr()) };
        })?;
        if phys.len != 0 {
            pages.set_mmio(phys.paddr);
        }
    }
    pages.set_attachment(Attachment(attached));
    Ok(pages)
}
