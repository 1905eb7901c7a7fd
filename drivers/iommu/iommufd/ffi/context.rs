// SPDX-License-Identifier: GPL-2.0-only

//! The context of an open `/dev/iommu`.

use super::{
    group::Groups,
    shared::CtxHead, //
};
use crate::{
    ioas::Ioas,
    object::{
        Head,
        Loan,
        Locked,
        Object,
        Table, //
    }, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    new_mutex,
    new_rwsem,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rwsem::RwSem,
        Mutex, //
    }, //
};

/// A context, one for each open file.
#[pin_data]
#[repr(C)]
pub(crate) struct Ctx {
    #[pin]
    head: CtxHead,
    /// Who owns it.
    file: NonNull<bindings::file>,
    #[pin]
    objects: Table,
    #[pin]
    groups: Mutex<Groups>,
    #[pin]
    ioas_creation_lock: RwSem,
    /// Pinned pages are accounted as VFIO does.
    account_mm: Atomic<bool>,
    /// The id of VFIO's IOAS, or 0. Changed under the table's lock.
    vfio_ioas: Atomic<u32>,
    /// VFIO's container is for devices without an IOMMU. Changed under the table's lock.
    no_iommu: Atomic<bool>,
}

// SAFETY: Its parts have locks of their own, and are not bound to a thread.
unsafe impl Send for Ctx {}
// SAFETY: Its parts have locks of their own, and are not bound to a thread.
unsafe impl Sync for Ctx {}

impl Ctx {
    /// # Safety
    ///
    /// `ptr` must be a context whose file stays open for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_ctx) -> &'a Self {
        // SAFETY: By the caller; that is what C has an opaque type for.
        unsafe { &*ptr.cast() }
    }

    /// As C knows it.
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_ctx {
        core::ptr::from_ref(self).cast_mut().cast()
    }

    /// Makes the context of `file`, which owns it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(super) fn new(
        file: NonNull<bindings::file>,
        account: AccountMode,
    ) -> Result<Pin<KBox<Self>>> {
        KBox::pin_init(
            pin_init!(Self {
                head <- CtxHead::new(),
                file,
                objects <- Table::new(),
                groups <- new_mutex!(Groups::new()),
                ioas_creation_lock <- new_rwsem!((), "ioas_creation_lock"),
                account_mm: Atomic::new(account == AccountMode::Mm),
                vfio_ioas: Atomic::new(0),
                no_iommu: Atomic::new(false),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// What tells it from others.
    pub(crate) fn identity(&self) -> NonNull<c_void> {
        NonNull::from(self).cast()
    }

    /// What drivers use of it.
    pub(super) fn head(&self) -> &CtxHead {
        &self.head
    }

    /// The file that owns it.
    pub(super) fn file(&self) -> *mut bindings::file {
        self.file.as_ptr()
    }

    /// The table of its objects.
    #[inline]
    pub(crate) fn objects(&self) -> &Table {
        &self.objects
    }

    /// Its groups.
    pub(crate) fn groups(&self) -> &Mutex<Groups> {
        &self.groups
    }

    /// Held for reading while an IOAS is published, for writing while all are locked.
    pub(crate) fn ioas_creation_lock(&self) -> &RwSem {
        &self.ioas_creation_lock
    }

    /// How pinned memory is accounted for.
    pub(crate) fn account_mode(&self) -> AccountMode {
        if self.account_mm.load(Relaxed) {
            AccountMode::Mm
        } else {
            AccountMode::User
        }
    }

    /// Changes how pinned memory is accounted for. Under the table's lock.
    pub(crate) fn set_account_mode(&self, mode: AccountMode, _locked: &Locked<'_>) {
        self.account_mm.store(mode == AccountMode::Mm, Relaxed);
    }

    /// Lends the IOAS that the container's ioctls work on, if there is one.
    pub(crate) fn lend_vfio_ioas<'a>(&'a self, _locked: &Locked<'_>) -> Option<Loan<'a, Ioas>> {
        self.objects.lend(self.vfio_ioas.load(Relaxed))
    }

    /// Whether the container has had an IOAS set.
    pub(crate) fn has_vfio_ioas(&self, _locked: &Locked<'_>) -> bool {
        self.vfio_ioas.load(Relaxed) != 0
    }

    /// Sets or clears the container's IOAS.
    pub(crate) fn set_vfio_ioas(&self, ioas: Option<&Ioas>, _locked: &Locked<'_>) {
        self.vfio_ioas.store(ioas.map_or(0, Ioas::id), Relaxed);
    }

    /// Forgets that VFIO compatibility uses this IOAS. Under the table's lock.
    pub(crate) fn forget_vfio_ioas(&self, taken: &Object, _locked: &Locked<'_>) {
        if self.vfio_ioas.load(Relaxed) == taken.id() {
            self.vfio_ioas.store(0, Relaxed);
        }
    }

    /// Whether the container is for devices without an IOMMU.
    pub(crate) fn no_iommu(&self) -> bool {
        self.no_iommu.load(Relaxed)
    }

    /// Makes the container one for devices without an IOMMU, for good.
    pub(crate) fn set_no_iommu(&self, _locked: &Locked<'_>) {
        self.no_iommu.store(true, Relaxed);
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
        unsafe { bindings::get_file(ctx.file()) };
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
        // SAFETY: The reference to its file keeps it.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for CtxRef {
    fn drop(&mut self) {
        // SAFETY: This owns a reference, which is not used again.
        unsafe { bindings::fput(self.file()) };
    }
}

/// Against whose limit pinned pages count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccountMode {
    /// The user's `RLIMIT_MEMLOCK`, over all processes.
    User,
    /// The process's, as VFIO does.
    Mm,
}

impl AccountMode {
    /// What a new context starts with: as VFIO does on VFIO's own node, the user's limit elsewhere.
    pub(super) const fn initial(vfio: bool) -> Self {
        if vfio {
            Self::Mm
        } else {
            Self::User
        }
    }
}
