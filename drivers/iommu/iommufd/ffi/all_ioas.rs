// SPDX-License-Identifier: GPL-2.0-only

//! All IOASes of a context, to move what they have pinned to another process.

use super::{
    context::Ctx,
    pages::Pages, //
};
use crate::{
    io_pagetable::Iovas,
    ioas::Ioas,
    object::Hold, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    prelude::*,
    sync::rwsem::WriteGuard, //
};

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
    iovas: WriteGuard<'a, Iovas>,
    _held: Hold<Ioas>,
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
            let ioas = unsafe { &*core::ptr::from_ref::<Ioas>(&*held) };
            let ioas = LockedIoas {
                iovas: ioas.iopt().write_nested(&this._creation),
                _held: held,
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
    pub(crate) fn each(&self, mut f: impl FnMut(Option<&Pages>) -> Result) -> Result {
        for ioas in &self.all {
            for (_, area) in ioas.iovas.areas(0, usize::MAX) {
                f(area.pages())?;
            }
        }
        Ok(())
    }
}

/// Takes a hold on the next IOAS from `from` on.
fn next(ctx: &Ctx, from: &mut usize) -> Option<Hold<Ioas>> {
    let locked = ctx.objects().lock();
    while let Some(object) = locked.next(*from) {
        *from = object.id() as usize + 1;
        if let Some(ioas) = Hold::of_found(object) {
            return Some(ioas);
        }
    }
    None
}
