// SPDX-License-Identifier: GPL-2.0-only

//! A dma-buf whose memory can be taken away.
//!
//! The buffer's reservation lock is held while its memory is asked for and while it is revoked.
//!
//! C header: [`include/linux/dma-buf.h`](srctree/include/linux/dma-buf.h)

use crate::ffi::file::LocalModule;
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::from_err_ptr,
    iommu::pages::ContiguousPages,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    ModuleMetadata, //
};

/// What is behind a buffer.
struct Exported {
    pages: ContiguousPages,
    revoked: Atomic<bool>,
}

/// The table of such buffers; they are told apart from others by its address.
#[repr(transparent)]
struct Table(bindings::dma_buf_ops);

// SAFETY: It is never written to.
unsafe impl Sync for Table {}

static TABLE: Table = {
    // SAFETY: All of its members may be zero.
    let mut ops: bindings::dma_buf_ops = unsafe { MaybeUninit::zeroed().assume_init() };
    ops.attach = Some(attach);
    ops.detach = Some(detach);
    ops.map_dma_buf = Some(map);
    ops.unmap_dma_buf = Some(unmap);
    ops.release = Some(release);
    Table(ops)
};

extern "C" fn attach(
    _dmabuf: *mut bindings::dma_buf,
    _attachment: *mut bindings::dma_buf_attachment,
) -> c_int {
    0
}

extern "C" fn detach(
    _dmabuf: *mut bindings::dma_buf,
    _attachment: *mut bindings::dma_buf_attachment,
) {
}

/// There is no DMA address: only iommufd can use such a buffer, by its physical address.
extern "C" fn map(
    _attachment: *mut bindings::dma_buf_attachment,
    _dir: bindings::dma_data_direction,
) -> *mut bindings::sg_table {
    EOPNOTSUPP.to_ptr()
}

extern "C" fn unmap(
    _attachment: *mut bindings::dma_buf_attachment,
    _sgt: *mut bindings::sg_table,
    _dir: bindings::dma_data_direction,
) {
}

/// # Safety
///
/// Called once, when a buffer with our table goes.
unsafe extern "C" fn release(dmabuf: *mut bindings::dma_buf) {
    // SAFETY: `export()` put it there, and the buffer is gone.
    drop(unsafe { KBox::<Exported>::from_raw((*dmabuf).priv_.cast()) });
}

/// What is behind a buffer of ours.
///
/// # Errors
///
/// `EOPNOTSUPP`: it is not ours.
///
/// # Safety
///
/// `dmabuf` is alive for `'a`.
unsafe fn exported<'a>(dmabuf: *mut bindings::dma_buf) -> Result<&'a Exported> {
    // SAFETY: The caller keeps the buffer, whose table does not change.
    if !core::ptr::eq(unsafe { (*dmabuf).ops }, &TABLE.0) {
        return Err(EOPNOTSUPP);
    }
    // SAFETY: Only `export()` makes buffers with our table, and it put it there.
    Ok(unsafe { &*(*dmabuf).priv_.cast() })
}

/// Where the memory of a buffer is.
///
/// # Errors
///
/// `EOPNOTSUPP`: it is not ours. `ENODEV`: it was revoked.
///
/// # Safety
///
/// `dmabuf` is alive, and its reservation lock is held.
pub(crate) unsafe fn phys_of(dmabuf: *mut bindings::dma_buf) -> Result<bindings::phys_vec> {
    // SAFETY: The caller keeps the buffer.
    let exported = unsafe { exported(dmabuf) }?;
    if exported.revoked.load(Relaxed) {
        return Err(ENODEV);
    }
    Ok(bindings::phys_vec {
        paddr: exported.pages.phys(),
        len: exported.pages.len(),
    })
}

/// A reference to a buffer.
///
/// # Invariants
///
/// It is counted.
struct DmaBuf(NonNull<bindings::dma_buf>);

impl Drop for DmaBuf {
    fn drop(&mut self) {
        // SAFETY: This reference is not used again.
        unsafe { bindings::dma_buf_put(self.0.as_ptr()) };
    }
}

/// Makes a buffer, and a descriptor of it.
///
/// # Errors
///
/// `ENOMEM`, `EMFILE`: no memory, or no descriptor.
pub(crate) fn export(pages: ContiguousPages, flags: i32) -> Result<i32> {
    let size = pages.len();
    let exported = KBox::new(
        Exported {
            pages,
            revoked: Atomic::new(false),
        },
        GFP_KERNEL,
    )?;
    let exported = KBox::into_raw(exported);
    let info = bindings::dma_buf_export_info {
        exp_name: c"iommufd".as_char_ptr(),
        owner: LocalModule::THIS_MODULE.as_ptr(),
        ops: &TABLE.0,
        size,
        flags,
        priv_: exported.cast(),
        ..Default::default()
    };
    // SAFETY: All that it needs is there.
    let dmabuf = match from_err_ptr(unsafe { bindings::dma_buf_export(&info) }) {
        Ok(dmabuf) => dmabuf,
        Err(why) => {
            // SAFETY: It came from `into_raw()`, and nobody took it.
            drop(unsafe { KBox::from_raw(exported) });
            return Err(why);
        }
    };
    // INVARIANT: the count that a new buffer begins with.
    let dmabuf = DmaBuf(NonNull::new(dmabuf).ok_or(ENOMEM)?);
    // SAFETY: The buffer is alive.
    let fd = unsafe { bindings::dma_buf_fd(dmabuf.0.as_ptr(), flags) };
    if fd < 0 {
        return Err(Error::from_errno(fd));
    }
    // The descriptor has the count now.
    core::mem::forget(dmabuf);
    Ok(fd)
}

/// Takes the memory of a buffer away, or gives it back.
///
/// # Errors
///
/// `EBADF`, `EINVAL`: not the descriptor of a buffer. `EOPNOTSUPP`: not of ours.
pub(crate) fn revoke(fd: i32, revoked: bool) -> Result {
    // SAFETY: Any number may be passed.
    let dmabuf = from_err_ptr(unsafe { bindings::dma_buf_get(fd) })?;
    // INVARIANT: `dma_buf_get()` counted it.
    let dmabuf = DmaBuf(NonNull::new(dmabuf).ok_or(EBADF)?);
    let raw = dmabuf.0.as_ptr();
    // SAFETY: It is alive as long as `dmabuf` is.
    let exported = unsafe { exported(raw) }?;
    // SAFETY: The buffer is alive.
    let resv = unsafe { (*raw).resv };
    // SAFETY: As above; without an acquire context it cannot fail.
    unsafe { bindings::dma_resv_lock(resv, core::ptr::null_mut()) };
    exported.revoked.store(revoked, Relaxed);
    // SAFETY: The lock is held.
    unsafe { bindings::dma_buf_invalidate_mappings(raw) };
    // SAFETY: It was taken above.
    unsafe { bindings::dma_resv_unlock(resv) };
    Ok(())
}
