// SPDX-License-Identifier: GPL-2.0-only

//! The objects that ids of user space stand for, and the four ways to refer to one.
//!
//! | handle | what it is |
//! |---|---|
//! | [`Reserved`] | complete, with an id, but not to be found; dropping it undoes it |
//! | [`Loan`] | a short reference; destroy waits for it |
//! | [`Hold`] | a long reference; destroy is refused, `EBUSY` |
//! | `Taken` | the last reference: the object goes |
//!
//! Who may have one, and for how long:
//!
//! - `Reserved`: the ioctl that makes the object, until user space knows the id.
//! - `Loan`: an ioctl, from its lookup until it has its answer, before that is written to user
//!   memory; a vDEVICE on its device, which revokes it in `pre_destroy`.
//! - `Hold`: an object that needs this one, as a field; a file; a mapping of user space; the
//!   driver that bound the device or made the access.
//! - `Taken`: `destroy` alone, which waits for loans first.
//!
//! An [`Object`] has two counts, as `struct iommufd_object` in C: `users` has all references, and
//! `wait_cnt` those that destroy waits for, with one of the table's own as long as the object may
//! be found. Nobody but this folder changes them. In `destroy` is how an object goes, and why
//! lookups do without a lock; its memory is `slab`'s, and the ids are in [`Table`].
//!
//! A file without `unsafe` can only count by making one of these, and count back by dropping it.
//! An object that is on its way out, or that `Reserved` did not make, cannot be held.

mod destroy;
mod head;
mod hold;
mod loan;
mod new;
mod ops;
mod refcount;
mod slab;
mod table;

pub(crate) use self::{
    destroy::destroy_all,
    head::{
        assert_offsets,
        begins_with_head,
        downcast,
        Address,
        Head,
        Kind,
        Object, //
    },
    hold::Hold,
    loan::{
        KeptLoan,
        Loan, //
    },
    new::Reserved,
    slab::{
        exit,
        init, //
    },
    table::{
        Locked,
        Table, //
    },
};

use crate::{
    ffi::{
        context::Ctx,
        handlers::{
            self,
            end_of,
            uapi::{
                Destroy,
                CMD_DESTROY, //
            }, //
        },
        should_fail,
        ucmd::Ucmd, //
    },
    ioctl::Ioctl, //
};
use kernel::prelude::*;

/// Looks an object up for the length of an ioctl.
///
/// # Errors
///
/// `ENOENT` when there is none, it is of another kind, or it is being destroyed.
#[inline]
pub(crate) fn lend<T: Kind>(ctx: &Ctx, id: u32) -> Result<Loan<'_, T>> {
    if should_fail() {
        return Err(ENOENT);
    }
    ctx.objects().lend(id).ok_or(ENOENT)
}

impl Ioctl for Destroy {
    const NUMBER: u32 = handlers::number(CMD_DESTROY);
    const MIN_SIZE: usize = end_of!(Destroy, id);

    type Answer<'a> = ();

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result {
        destroy::destroy(ucmd.ctx(), ucmd.id)
    }
}
