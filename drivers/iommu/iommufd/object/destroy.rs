// SPDX-License-Identifier: GPL-2.0-only

//! The ways to destroy an object.
//!
//! A loan counts in `wait_cnt` and in `users`, takes them in that order, and gives them back in the
//! other. There are two ways to destroy:
//!
//! - [`destroy_held`], for drivers, who cannot be refused: `wait_cnt` is brought to zero first, and
//!   `users` looked at then. No lookup touches `users` any more, so one that loses the race cannot
//!   make this fail.
//! - [`destroy`] and [`put_and_try_destroy`], which may be refused: under the table's lock `users`
//!   is taken from one to zero, so that no lookup gets a loan, and the object out of the table;
//!   then `wait_cnt` is waited for. A loan at that moment is `EBUSY`.
//!
//! Lookups do without the table's lock because the memory stays an object's ([`slab`]):
//! one that comes too late may count in the `wait_cnt` of whatever object is there now, and lets go
//! of it at once.

use super::{
    head::Object,
    ops,
    slab,
    table::Locked, //
};
use crate::ffi::context::Ctx;
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    time::msecs_to_jiffies, //
};

/// How long destroy waits for loans before it calls them a bug, in milliseconds.
const PATIENCE: u32 = 60_000;

/// An object that was published and now belongs to whoever destroys it.
///
/// # Invariants
///
/// `users` is zero, so that only RCU readers which will not get a count can still see it.
///
/// Destroying it comes after waiting for loans, so that is up to this file:
///
/// ```ignore,compile_fail,E0624
/// use crate::object::Object;
///
/// fn misuse(object: &Object) {
///     if let Some(taken) = object.take() {
///         drop(taken);
///     }
/// }
/// ```
#[must_use = "an object that was taken must be destroyed"]
pub(super) struct Taken(NonNull<Object>);

impl Taken {
    pub(super) fn object(&self) -> &Object {
        // SAFETY: By the type invariant nobody else frees it.
        unsafe { self.0.as_ref() }
    }

    /// Drops the object and frees the memory. There may be no loans any more.
    fn destroy(self) {
        let object = self.object();
        let raw = object.as_raw();
        // SAFETY: The object is valid, of the kind that the op is for, and ours alone: both counts
        // are zero, and nobody can get one on what left the table.
        unsafe {
            let raw = NonNull::new_unchecked(raw);
            (ops::of(object.kind()).destroy)(raw.cast());
            slab::free(raw);
        }
    }
}

impl Object {
    /// Takes the object for good when the caller's is the last count on it.
    ///
    /// Afterwards no lookup can get a count any more: they all start from a count that is not 0.
    pub(super) fn take(&self) -> Option<Taken> {
        // INVARIANT: `users` is 0 from here on.
        self.users()
            .dec_if_one()
            .then(|| Taken(NonNull::from(self)))
    }
}

/// Destroys the object `id` if nothing depends on it.
///
/// # Errors
///
/// `ENOENT` when there is none; `EBUSY` when something depends on it.
pub(super) fn destroy(ctx: &Ctx, id: u32) -> Result {
    let taken = {
        let mut locked = ctx.objects().lock();
        let taken = locked.find(id).ok_or(ENOENT)?.take(false).ok_or(EBUSY)?;
        ctx.forget_vfio_ioas(taken.object(), &locked);
        taken
    };
    finish(taken)
}

/// Gives the caller's hold back, and destroys the object if that was the last one.
///
/// # Errors
///
/// `EBUSY` when something else depends on it.
pub(super) fn put_and_try_destroy(ctx: &Ctx, object: &Object) -> Result {
    let taken = take_held(ctx, object, &mut ctx.objects().lock(), false)?;
    finish(taken)
}

/// Gives the caller's hold back and destroys the object, waiting for loans to end; with `keep_id`
/// its id is not used again.
///
/// # Errors
///
/// `EBUSY` when something else depends on it, or uses it for ever, which is a bug of the kernel's.
/// The object then leaves the table, for what it stands for may be gone with the caller's hold, and
/// is never freed: rather a leak than a use after free.
pub(super) fn destroy_held(ctx: &Ctx, object: &Object, keep_id: bool) -> Result {
    let waited = wait_for_loans(object);
    let taken = {
        let mut locked = ctx.objects().lock();
        let taken = match waited {
            Ok(()) => take_held(ctx, object, &mut locked, keep_id),
            Err(e) => {
                object.users().dec();
                Err(e)
            }
        };
        taken.inspect_err(|_| locked.forget(object))?
    };
    taken.destroy();
    Ok(())
}

/// Gives a hold back and takes the object, both under the lock so that nobody comes between. An
/// object stays valid until the lock is given back.
///
/// # Errors
///
/// `EBUSY` when something else depends on it; `ENOENT` when the table has another object at its
/// id, which is a bug.
fn take_held(ctx: &Ctx, object: &Object, locked: &mut Locked<'_>, keep_id: bool) -> Result<Taken> {
    object.users().dec();
    let slot = locked.slot_of(object);
    if kernel::warn_on!(slot.is_none()) {
        return Err(ENOENT);
    }
    let taken = slot.and_then(|slot| slot.take(keep_id)).ok_or(EBUSY)?;
    ctx.forget_vfio_ioas(taken.object(), locked);
    Ok(taken)
}

/// Waits for the loans on an object that left the table, and destroys it.
#[inline]
fn finish(taken: Taken) -> Result {
    if let Err(e) = wait_for_loans(taken.object()) {
        // Somebody uses it for ever: `taken` goes unused, for rather a leak than a use after free.
        kernel::warn_on!(true);
        return Err(e);
    }
    taken.destroy();
    Ok(())
}

/// Drops the table's own `wait_cnt` and waits until it is zero.
#[inline]
fn wait_for_loans(object: &Object) -> Result {
    if object.wait_cnt().dec_and_test() {
        return Ok(());
    }
    // Stops those who may hold the object for long.
    if let Some(op) = ops::of(object.kind()).pre_destroy {
        op(object);
    }
    if object.wait_cnt().wait_for_zero(msecs_to_jiffies(PATIENCE)) {
        return Ok(());
    }
    pr_crit!("Time out waiting for iommufd object to become free\n");
    Err(EBUSY)
}

/// Destroys everything in a context that is being closed, dependents first.
pub(crate) fn destroy_all(ctx: &Ctx) {
    loop {
        let (mut seen, mut destroyed) = (false, false);
        let mut from = 0;
        while let Some((id, taken)) = next(ctx, from) {
            seen = true;
            from = id as usize + 1;
            if let Some(taken) = taken {
                // A lookup in another context, which took it for what had been there before, may
                // have a count for a moment.
                destroyed |= finish(taken).is_ok();
            }
        }
        // Only ids that nobody may use again are left.
        if !seen {
            return;
        }
        // A cycle, or a hold that nobody gave back.
        if kernel::warn_on!(!destroyed) {
            return;
        }
    }
}

/// The next object in the table, taken out of it if nothing depends on it.
fn next(ctx: &Ctx, from: usize) -> Option<(u32, Option<Taken>)> {
    let mut locked = ctx.objects().lock();
    let object = locked.next(from)?;
    let (id, taken) = (object.id(), object.take());
    if let Some(taken) = &taken {
        locked.remove(taken);
    }
    Some((id, taken))
}
