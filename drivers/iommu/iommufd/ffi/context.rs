// SPDX-License-Identifier: GPL-2.0-only

//! The context of an open `/dev/iommu`.

use super::{
    object::{
        KindId,
        Taken,
        Unpublished, //
    },
    table::{
        Locked,
        Table, //
    }, //
};
use core::{
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    c_str,
    prelude::*,
    static_lock_class,
    types::Opaque, //
};

/// `struct iommufd_ctx`, one for each open file.
///
/// # Invariants
///
/// Valid as long as a reference to its file is held; every object and every ioctl has one.
#[repr(transparent)]
pub(crate) struct Ctx(Opaque<bindings::iommufd_ctx>);

// SAFETY: Its parts have locks of their own.
unsafe impl Sync for Ctx {}
// SAFETY: Not bound to a thread.
unsafe impl Send for Ctx {}

impl Ctx {
    /// # Safety
    ///
    /// `ptr` must be a context whose file stays open for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_ctx) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_ctx {
        self.0.get()
    }

    /// Makes the context of `file`, which owns it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn create(
        file: *mut bindings::file,
        account_mode: u8,
    ) -> Result<*mut bindings::iommufd_ctx> {
        let ctx = KBox::<bindings::iommufd_ctx>::new(
            // SAFETY: All-zero bytes are a valid structure of integers and pointers.
            unsafe { core::mem::zeroed() },
            GFP_KERNEL_ACCOUNT,
        )?;
        let raw = KBox::into_raw(ctx);
        // SAFETY: The structure is ours alone until the file gets it.
        unsafe { (*raw).account_mode = account_mode };
        // SAFETY: As above.
        unsafe { (*raw).file = file };
        // SAFETY: As above; from here on it stays where it is. The name and the class are static.
        unsafe {
            bindings::__init_rwsem(
                &raw mut (*raw).ioas_creation_lock,
                c_str!("ioas_creation_lock").as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
        // SAFETY: As above.
        unsafe { Table::init(&raw mut (*raw).objects) };
        // SAFETY: As above.
        unsafe { bindings::iommu_xa_init_flags(&raw mut (*raw).groups, 0) };
        // SAFETY: As above.
        unsafe { bindings::mt_init_flags(&raw mut (*raw).mt_mmap, bindings::MT_FLAGS_ALLOC_RANGE) };
        // SAFETY: As above.
        unsafe {
            bindings::__mutex_init(
                &raw mut (*raw).sw_msi_lock,
                c_str!("sw_msi_lock").as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
        // SAFETY: As above.
        unsafe { bindings::INIT_LIST_HEAD(&raw mut (*raw).sw_msi_list) };
        Ok(raw)
    }

    /// Frees what is left of a context when its last reference is gone and all objects with it.
    ///
    /// # Safety
    ///
    /// `raw` must come from [`Self::create`] and not be used afterwards.
    pub(super) unsafe fn free(raw: *mut bindings::iommufd_ctx) {
        // SAFETY: By the caller.
        unsafe { Self::from_raw(raw) }.objects().destroy();
        // SAFETY: By the caller; there are no objects, so nobody uses any part of it.
        kernel::warn_on!(unsafe { !(*raw).groups.xa_head.is_null() });
        // SAFETY: As above.
        unsafe { bindings::mutex_destroy(&raw mut (*raw).sw_msi_lock) };
        // SAFETY: Only the address is taken.
        let list = unsafe { &raw mut (*raw).sw_msi_list };
        loop {
            // SAFETY: The list is initialised, and nobody else uses it.
            let item = unsafe { (*list).next };
            if ptr::eq(item, list) {
                break;
            }
            // SAFETY: It is on the list.
            unsafe { bindings::iommu_list_del(item) };
            // SAFETY: The link is the first field of a map, which came from kmalloc(); the list
            // owned it.
            unsafe { bindings::kfree(item.cast()) };
        }
        // SAFETY: It came from a box in `create`.
        drop(unsafe { KBox::from_raw(raw) });
    }

    /// What tells it from others.
    pub(crate) fn identity(&self) -> NonNull<c_void> {
        NonNull::from(self).cast()
    }

    /// The table of its objects.
    pub(crate) fn objects(&self) -> &Table {
        // SAFETY: Initialised in `create`, valid as long as `self`.
        unsafe { Table::from_raw(&raw mut (*self.as_raw()).objects) }
    }

    /// Reserves an id and `size` zeroed bytes for an object.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    #[inline]
    pub(super) fn reserve(&self, size: usize, kind: KindId) -> Result<Unpublished<'_>> {
        Unpublished::new(self.objects(), size, kind)
    }

    /// Forgets that VFIO compatibility uses this IOAS. Under the table's lock.
    pub(crate) fn forget_vfio_ioas(&self, taken: &Taken, _locked: &Locked<'_>) {
        // SAFETY: Only the address is taken.
        let ioas = unsafe { &raw mut (*self.as_raw()).vfio_ioas };
        // SAFETY: The field is guarded by the table's lock.
        if ptr::addr_eq(unsafe { *ioas }, taken.object().as_raw()) {
            // SAFETY: As above.
            unsafe { *ioas = ptr::null_mut() };
        }
    }

    /// How pinned memory is accounted for.
    pub(crate) fn account_mode(&self) -> AccountMode {
        // SAFETY: A byte that is read and written whole.
        match unsafe { ptr::read_volatile(&raw const (*self.as_raw()).account_mode) }.into() {
            ACCOUNT_MM => AccountMode::Mm,
            _ => AccountMode::User,
        }
    }

    /// Changes how pinned memory is accounted for. Under the table's lock.
    pub(crate) fn set_account_mode(&self, mode: AccountMode, _locked: &Locked<'_>) {
        let mode = match mode {
            AccountMode::User => ACCOUNT_USER,
            AccountMode::Mm => ACCOUNT_MM,
        };
        // SAFETY: A byte that is read and written whole.
        unsafe { ptr::write_volatile(&raw mut (*self.as_raw()).account_mode, mode as u8) }
    }
}

/// A reference to the file of a context, which keeps the context.
///
/// # Invariants
///
/// This owns one reference.
pub(crate) struct CtxRef(NonNull<Ctx>);

// SAFETY: Files are counted atomically, and may be let go of by any thread.
unsafe impl Send for CtxRef {}
// SAFETY: It gives a `&Ctx` at most.
unsafe impl Sync for CtxRef {}

impl CtxRef {
    /// Keeps a context.
    pub(crate) fn new(ctx: &Ctx) -> Self {
        // SAFETY: The context is open.
        unsafe { bindings::get_file((*ctx.as_raw()).file) };
        // INVARIANT: taken just now.
        Self(NonNull::from(ctx))
    }

    /// Takes a reference over.
    ///
    /// # Safety
    ///
    /// The caller owns a reference to this context, and gives it away.
    pub(super) unsafe fn adopt(ctx: NonNull<Ctx>) -> Self {
        // INVARIANT: By the caller.
        Self(ctx)
    }
}

impl Deref for CtxRef {
    type Target = Ctx;

    fn deref(&self) -> &Ctx {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for CtxRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::fput((*self.as_raw()).file) };
    }
}

const ACCOUNT_USER: u32 = bindings::IOPT_PAGES_ACCOUNT_USER;
const ACCOUNT_MM: u32 = bindings::IOPT_PAGES_ACCOUNT_MM;

/// Against whose limit pinned pages count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountMode {
    /// The user's `RLIMIT_MEMLOCK`, over all processes.
    User,
    /// The process's, as VFIO does.
    Mm,
}

impl AccountMode {
    /// What a new context starts with: as VFIO does on VFIO's own node. Elsewhere 0, which the
    /// page core takes for its own default, the user's limit.
    pub(super) const fn initial(vfio: bool) -> u8 {
        if vfio {
            ACCOUNT_MM as u8
        } else {
            0
        }
    }
}
