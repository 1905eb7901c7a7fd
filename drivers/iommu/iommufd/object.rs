// SPDX-License-Identifier: GPL-2.0-only

//! One way to refer to an object.
//!
//! | type | stands for |
//! |---|---|
//! | [`Unpublished`] | an id and memory for an object; dropping it frees both |
//! | [`Built`] | the object is complete; dropping it undoes it, [`publish`] cannot fail |
//! | published | what the table shows |
//! | [`Loan`] | a short reference in one ioctl; destroy waits for it |
//! | hold | a count of `users` alone, kept by a dependent object; destroy is refused |
//! | [`Taken`] | the last reference: to be destroyed |
//!
//! How an object is destroyed, and what its two counts have to do with it, is in
//! [`crate::ffi::destroy`].
//!
//! [`Unpublished`]: crate::ffi::object::Unpublished
//! [`Built`]: crate::ffi::object::Built
//! [`publish`]: crate::ffi::object::Built::publish

use crate::ffi::{
    context::Ctx,
    destroy::destroy,
    handlers::{
        self,
        end_of,
        uapi::{
            Destroy,
            CMD_DESTROY, //
        }, //
    },
    object::{
        Kind,
        Loan, //
    },
    should_fail,
    ucmd::Ucmd, //
};
use crate::ioctl::Ioctl;
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
    ctx.objects().lend(id).and_then(Loan::new).ok_or(ENOENT)
}

impl Ioctl for Destroy {
    const NUMBER: u32 = handlers::number(CMD_DESTROY);
    const MIN_SIZE: usize = end_of!(Destroy, id);

    type Answer<'a> = ();

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result {
        destroy(ucmd.ctx(), ucmd.id)
    }
}
