// SPDX-License-Identifier: GPL-2.0-only

//! An access: how a driver without DMA, such as a software device, reaches what is mapped.
//!
//! User space holds it by a descriptor of its own. iommufd calls back when a range that may be
//! pinned is unmapped; the callback must have unpinned it when it returns.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    object::IoasExt,
    page::PageArray, //
};
use crate::{
    ffi::context::Ctx,
    selftest::access::{
        page_count,
        Pins, //
    },
};
use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::file::{
        flags::O_RDWR,
        File,
        LocalFile, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// An access with the ranges that are pinned through it.
///
/// # Invariants
///
/// `raw` is null in [`Access::create`] and after that what `iommufd_access_create()` gave.
#[pin_data(PinnedDrop)]
pub(crate) struct Access {
    raw: UnsafeCell<*mut bindings::iommufd_access>,
    can_pin: bool,
    #[pin]
    pins: Pins,
}

// SAFETY: iommufd does its own locking; `raw` does not change while it is shared.
unsafe impl Send for Access {}
// SAFETY: iommufd does its own locking; `raw` does not change while it is shared.
unsafe impl Sync for Access {}

#[repr(transparent)]
struct Table(bindings::iommufd_access_ops);

// SAFETY: It is never written to.
unsafe impl Sync for Table {}

const fn table(pins: u8) -> Table {
    Table(bindings::iommufd_access_ops {
        _bitfield_align_1: [],
        _bitfield_1: bindings::__BindgenBitfieldUnit::new([pins]),
        unmap: Some(unmap),
    })
}

static PINNING: Table = table(1);
static PLAIN: Table = table(0);

/// # Safety
///
/// Called by iommufd for an access of [`Access::create`].
unsafe extern "C" fn unmap(data: *mut c_void, iova: c_ulong, length: c_ulong) {
    // SAFETY: The access is destroyed before its memory goes.
    let access: &Access = unsafe { &*data.cast() };
    access.pins.unmap(access, iova, length);
}

impl Access {
    /// Makes an access.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: no memory, or no id.
    pub(crate) fn create(ctx: &Ctx, can_pin: bool) -> Result<Pin<KBox<Self>>> {
        let this = KBox::try_pin_init(
            try_pin_init!(Self {
                raw: UnsafeCell::new(core::ptr::null_mut()),
                can_pin,
                pins <- Pins::new(),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        let table = if can_pin { &PINNING } else { &PLAIN };
        let data = core::ptr::from_ref(&*this).cast_mut().cast();
        let mut id = 0;
        // SAFETY: `data` is pinned and goes after the access.
        let raw = from_err_ptr(unsafe {
            bindings::iommufd_access_create(ctx.as_raw(), &table.0, data, &mut id)
        })?;
        // INVARIANT: just made.
        // SAFETY: Nothing is called back before it is attached.
        unsafe { *this.raw.get() = raw };
        Ok(this)
    }

    fn as_raw(&self) -> *mut bindings::iommufd_access {
        // SAFETY: By the type invariant it does not change.
        unsafe { *self.raw.get() }
    }

    /// Whether pages may be pinned through it.
    pub(crate) fn can_pin(&self) -> bool {
        self.can_pin
    }

    /// The ranges that are pinned.
    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Attaches to an IOAS.
    ///
    /// # Errors
    ///
    /// `ENOENT`: no such IOAS. `EINVAL`: it is attached.
    pub(crate) fn attach(&self, ioas_id: u32) -> Result {
        // SAFETY: It is an access that is not destroyed before this is dropped.
        to_result(unsafe { bindings::iommufd_access_attach(self.as_raw(), ioas_id) })
    }

    /// Moves to another IOAS.
    ///
    /// # Errors
    ///
    /// `ENOENT`: no such IOAS.
    pub(crate) fn replace(&self, ioas_id: u32) -> Result {
        // SAFETY: It is an access that is not destroyed before this is dropped.
        to_result(unsafe { bindings::iommufd_access_replace(self.as_raw(), ioas_id) })
    }

    /// Pins a range; there is room for all of its pages in `pages`.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `ENOENT`, `EPERM`: it is not mapped like that. `EOVERFLOW`: it wraps.
    pub(crate) fn pin_pages(
        &self,
        iova: usize,
        length: usize,
        pages: &mut PageArray,
        write: bool,
    ) -> Result {
        if page_count(iova, length)? > pages.len() {
            return Err(EINVAL);
        }
        let flags = if write {
            bindings::IOMMUFD_ACCESS_RW_WRITE
        } else {
            0
        };
        // SAFETY: By the type invariant, and there is room, see above.
        to_result(unsafe {
            bindings::iommufd_access_pin_pages(
                self.as_raw(),
                iova,
                length,
                pages.as_mut_ptr(),
                flags,
            )
        })
    }

    /// Unpins a range that was pinned as a whole.
    pub(crate) fn unpin_pages(&self, iova: usize, length: usize) {
        // SAFETY: It is an access that is not destroyed before this is dropped.
        unsafe { bindings::iommufd_access_unpin_pages(self.as_raw(), iova, length) };
    }

    /// Copies from or to a range, by `IOMMUFD_ACCESS_RW_*`.
    ///
    /// # Errors
    ///
    /// As for [`Access::pin_pages`].
    pub(crate) fn rw(&self, iova: usize, data: &mut [u8], flags: u32) -> Result {
        // SAFETY: By the type invariant; it stays within `data`.
        to_result(unsafe {
            bindings::iommufd_access_rw(
                self.as_raw(),
                iova,
                data.as_mut_ptr().cast(),
                data.len(),
                flags,
            )
        })
    }

    /// Where the `nth` mapping of its IOAS begins.
    pub(crate) fn nth_area(&self, nth: u32) -> Option<usize> {
        // SAFETY: It is an access that is not destroyed before this is dropped.
        let access = unsafe { &*self.as_raw().cast::<crate::access::Access>() };
        access.with_ioas(|ioas| ioas.nth_area(nth))
    }
}

#[pinned_drop]
impl PinnedDrop for Access {
    fn drop(self: Pin<&mut Self>) {
        let raw = self.as_raw();
        if raw.is_null() {
            return;
        }
        self.pins.unmap(&self, 0, usize::MAX);
        // SAFETY: By the type invariant; nothing is pinned any more.
        unsafe { bindings::iommufd_access_destroy(raw) };
    }
}

/// The table of such descriptors; they are told apart from others by its address.
#[repr(transparent)]
struct Fops(bindings::file_operations);

// SAFETY: It is never written to.
unsafe impl Sync for Fops {}

static FOPS: Fops = {
    // SAFETY: All of its members may be zero.
    let mut fops: bindings::file_operations = unsafe { MaybeUninit::zeroed().assume_init() };
    fops.release = Some(release);
    Fops(fops)
};

/// # Safety
///
/// Called once, for a file of [`open`].
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: `open()` put it there, and nobody uses the file any more.
    drop(unsafe { KBox::<Access>::from_raw((*file).private_data.cast()) });
    0
}

/// Makes a file that owns the access.
///
/// # Errors
///
/// `ENOMEM`, `ENFILE`: no memory, or too many files.
pub(crate) fn open(access: Pin<KBox<Access>>) -> Result<ARef<File>> {
    // SAFETY: It is not moved out of its box again.
    let access = KBox::into_raw(unsafe { Pin::into_inner_unchecked(access) });
    // SAFETY: `release()` takes the access back.
    let file = from_err_ptr(unsafe {
        bindings::anon_inode_getfile(
            c"[iommufd_test_staccess]".as_char_ptr(),
            &FOPS.0,
            access.cast(),
            // CAST: a flag of open(2).
            O_RDWR as c_int,
        )
    });
    match file {
        Ok(file) => {
            let file = NonNull::new(file.cast::<File>()).ok_or(ENFILE)?;
            // SAFETY: It is a new file, and its reference is ours.
            Ok(unsafe { ARef::from_raw(file) })
        }
        Err(why) => {
            // SAFETY: It came from `into_raw()`, and nobody took it.
            drop(unsafe { KBox::from_raw(access) });
            Err(why)
        }
    }
}

/// The access behind a descriptor.
///
/// # Invariants
///
/// The file is one of [`open`].
pub(crate) struct OpenAccess(ARef<LocalFile>);

impl OpenAccess {
    /// Looks a descriptor of the calling process up.
    ///
    /// # Errors
    ///
    /// `EBADFD`: it is not open, or not an access.
    pub(crate) fn from_fd(fd: u32) -> Result<Self> {
        let file = LocalFile::fget(fd).map_err(|_| EBADFD)?;
        // SAFETY: The file is alive.
        if !core::ptr::eq(unsafe { (*file.as_ptr()).f_op }, &FOPS.0) {
            return Err(EBADFD);
        }
        // INVARIANT: only `open()` makes files with our table.
        Ok(Self(file))
    }
}

impl Deref for OpenAccess {
    type Target = Access;

    fn deref(&self) -> &Access {
        // SAFETY: By the type invariant `open()` put it there; it goes with the file.
        unsafe { &*(*self.0.as_ptr()).private_data.cast() }
    }
}
