// SPDX-License-Identifier: GPL-2.0-only

//! One way to refer to an object.
//!
//! | type | stands for |
//! |---|---|
//! | [`Reserved`] | complete, with an id, but not to be found; dropping it undoes it |
//! | [`Loan`] | a short reference in one ioctl; destroy waits for it |
//! | [`Hold`] | a count of `users` alone, kept by a dependent object; destroy is refused |
//! | [`Taken`] | the last reference: to be destroyed |
//!
//! Objects that end with a driver's part are an [`Unpublished`] first, and [`Built`] then.
//!
//! How an object is destroyed, and what its two counts have to do with it, is in
//! [`crate::ffi::destroy`].
//!
//! [`Reserved`]: crate::ffi::typed::Reserved
//! [`Hold`]: crate::ffi::typed::Hold
//! [`Taken`]: crate::ffi::object::Taken
//! [`Unpublished`]: crate::ffi::object::Unpublished
//! [`Built`]: crate::ffi::object::Built

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
