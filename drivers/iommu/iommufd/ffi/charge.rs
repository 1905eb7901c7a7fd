// SPDX-License-Identifier: GPL-2.0-only

//! Who pinned pages are charged to, and moving that to another process.
//!
//! C header: `drivers/iommu/iommufd/io_pagetable.h`

use super::{
    context::Ctx,
    ioas::Ioas,
    object::Kind, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    error::to_result,
    prelude::*,
    sync::rwsem::WriteGuard,
    types::Opaque, //
};

/// How many ways of accounting there are, see [`Pages::mode`].
pub(crate) const MODES: usize = bindings::IOPT_PAGES_ACCOUNT_MODE_NUM as usize;

/// Every IOAS of a context, locked against all changes of its mappings and of who pays for them.
///
/// The core locks a table, never two; here all are locked, in the order of their ids, under
/// `ioas_creation_lock`, which also keeps new ones away and a second caller out.
pub(crate) struct AllIoas<'a> {
    // In drop order: the inner locks, then the outer one. User space chose how many there are.
    all: KVVec<LockedIoas<'a>>,
    _creation: WriteGuard<'a>,
}

/// One of them.
struct LockedIoas<'a> {
    // In drop order: the lock, then the count that keeps it.
    _lock: WriteGuard<'a>,
    held: Held<'a>,
}

/// A hold on an IOAS.
struct Held<'a>(NonNull<Ioas>, PhantomData<&'a Ctx>);

impl Held<'_> {
    fn get(&self) -> &Ioas {
        // SAFETY: The count in `users` keeps it.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.get().object().users().dec();
    }
}

impl<'a> AllIoas<'a> {
    /// Locks them all. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn lock(ctx: &'a Ctx) -> Result<Self> {
        let creation = ctx.ioas_creation_lock().write();
        let mut this = Self {
            all: KVVec::new(),
            _creation: creation,
        };
        let mut from = 0;
        while let Some(held) = next(ctx, &mut from) {
            // SAFETY: `held` outlives the guard: it is dropped after it.
            let ioas = unsafe { held.0.as_ref() };
            let ioas = LockedIoas {
                _lock: ioas.iopt().iova_rwsem().write_nested(&this._creation),
                held,
            };
            this.all.push(ioas, GFP_KERNEL | __GFP_NOWARN)?;
        }
        Ok(this)
    }

    /// Calls `f` for the pages of each mapping; `None` for one that is being made. Pages that are
    /// mapped more than once come more than once.
    ///
    /// # Errors
    ///
    /// The first of `f`.
    pub(crate) fn each(&mut self, mut f: impl FnMut(Option<&mut Pages>) -> Result) -> Result {
        for ioas in &self.all {
            let tree = ioas.held.get().iopt().as_raw();
            // SAFETY: The lock that guards the tree is held for writing.
            let mut node = unsafe {
                bindings::interval_tree_iter_first(&raw mut (*tree).area_itree, 0, usize::MAX)
            };
            while !node.is_null() {
                // SAFETY: The node is the first field of an area, which the lock keeps.
                let pages = unsafe { (*node.cast::<bindings::iopt_area>()).pages };
                // INVARIANT: All tables that are there are locked, and no others can be made.
                //
                // SAFETY: The area keeps its pages, and nobody else has such a reference.
                f((!pages.is_null()).then(|| unsafe { &mut *pages.cast::<Pages>() }))?;
                // SAFETY: The lock that guards the tree is held.
                node = unsafe { bindings::interval_tree_iter_next(node, 0, usize::MAX) };
            }
        }
        Ok(())
    }
}

/// Takes a hold on the next IOAS from `from` on.
fn next<'a>(ctx: &'a Ctx, from: &mut usize) -> Option<Held<'a>> {
    let locked = ctx.objects().lock();
    while let Some(object) = locked.next(*from) {
        *from = object.id() as usize + 1;
        if object.kind() == Ioas::ID && object.users().inc_not_zero() {
            return Some(Held(NonNull::from(object).cast(), PhantomData));
        }
    }
    None
}

/// `struct iopt_pages`: memory that is pinned on behalf of a process.
///
/// # Invariants
///
/// All tables that map it are locked for writing.
#[repr(transparent)]
pub(crate) struct Pages(Opaque<bindings::iopt_pages>);

impl Pages {
    /// Whether they come from a file, and so need no process to be pinned again.
    pub(crate) fn of_file(&self) -> bool {
        // SAFETY: It does not change.
        let type_ = unsafe { (*self.0.get()).type_ };
        type_ == bindings::iopt_address_type_IOPT_ADDRESS_FILE
    }

    /// How they are accounted for, an index below [`MODES`].
    pub(crate) fn mode(&self) -> usize {
        // SAFETY: It does not change.
        usize::from(unsafe { (*self.0.get()).account_mode })
    }

    /// Whether somebody else than the current process pays for them.
    pub(crate) fn charged_to_other(&self) -> bool {
        let who = current();
        // SAFETY: By the type invariant nobody changes it.
        let is_other_mm = unsafe { (*self.0.get()).source_mm } != who.source_mm;
        // SAFETY: As above.
        let is_other_user = unsafe { (*self.0.get()).source_user } != who.source_user;
        match self.mode() as u32 {
            // Without a limit they still count in the process's `pinned_vm`.
            bindings::IOPT_PAGES_ACCOUNT_NONE | bindings::IOPT_PAGES_ACCOUNT_MM => is_other_mm,
            // The user's pages count in the process's `pinned_vm` too.
            _ => is_other_user || is_other_mm,
        }
    }

    /// The number of pages that are charged for, counted once: the next time it is 0.
    pub(crate) fn take_charged(&mut self) -> usize {
        let last = self.last_npinned();
        // SAFETY: By the type invariant nobody else looks at it.
        let npinned = unsafe { *last };
        // SAFETY: As above.
        unsafe { *last = 0 };
        npinned
    }

    /// Undoes [`Self::take_charged`].
    pub(crate) fn restore_charged(&mut self) {
        let npinned = self.npinned();
        // SAFETY: By the type invariant nobody else looks at it.
        unsafe { *self.last_npinned() = npinned };
    }

    fn npinned(&self) -> usize {
        // SAFETY: By the type invariant nobody changes it.
        unsafe { (*self.0.get()).npinned }
    }

    fn last_npinned(&mut self) -> *mut usize {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.0.get()).last_npinned }
    }

    /// Gives the charge of who pays now back, and undoes [`Self::take_charged`] with it.
    ///
    /// # Errors
    ///
    /// None that the core is known to have.
    pub(crate) fn uncharge(&mut self) -> Result {
        let npinned = self.npinned();
        // SAFETY: By the type invariant the core may change it.
        to_result(unsafe {
            bindings::iopt_pages_update_pinned(self.0.get(), npinned, false, core::ptr::null_mut())
        })
    }

    /// Makes the current process the one that pays.
    pub(crate) fn adopt(&mut self) {
        let (who, pages) = (current(), self.0.get());
        // The new references are taken before the old ones go: they may be the same.
        //
        // SAFETY: The current task keeps its mm.
        unsafe { bindings::mmgrab(who.source_mm) };
        // SAFETY: The current task keeps its leader.
        unsafe { bindings::get_task_struct(who.source_task) };
        // SAFETY: The current task keeps its user.
        unsafe { bindings::iommu_get_uid(who.source_user) };
        // SAFETY: A reference that the pages have.
        unsafe { bindings::mmdrop((*pages).source_mm) };
        // SAFETY: A reference that the pages have.
        unsafe { bindings::put_task_struct((*pages).source_task) };
        // SAFETY: A reference that the pages have.
        unsafe { bindings::free_uid((*pages).source_user) };
        // SAFETY: By the type invariant nobody else looks at it.
        unsafe { (*pages).source_mm = who.source_mm };
        // SAFETY: As above.
        unsafe { (*pages).source_task = who.source_task };
        // SAFETY: As above.
        unsafe { (*pages).source_user = who.source_user };
    }
}

/// Pages that the current process would pay for, without references.
fn current() -> bindings::iopt_pages {
    // SAFETY: There is always one.
    let task = unsafe { bindings::get_current() };
    // SAFETY: Integers and pointers may all be zero.
    let mut pages: bindings::iopt_pages = unsafe { core::mem::zeroed() };
    // SAFETY: It is about the current task.
    pages.source_mm = unsafe { bindings::iommu_current_mm() };
    // SAFETY: It does not change while the task runs here.
    pages.source_task = unsafe { (*task).group_leader };
    // SAFETY: It is about the current task.
    pages.source_user = unsafe { bindings::iommu_current_user() };
    pages
}

/// Charges the current process for pages, or takes that back.
///
/// # Errors
///
/// `ENOMEM` when that exceeds its limit.
pub(crate) fn charge_current(mode: usize, npages: usize, charge: bool) -> Result {
    let mut pages = current();
    pages.account_mode = mode as u8;
    // SAFETY: The core looks at who pays and how only.
    to_result(unsafe {
        bindings::iopt_pages_update_pinned(&mut pages, npages, charge, core::ptr::null_mut())
    })
}
