// SPDX-License-Identifier: GPL-2.0-only

//! Accesses: how drivers without DMA reach the memory of an IOAS.
//!
//! A driver pins pages or copies through an access. Before memory is unmapped, every driver that
//! may have pinned it is told to let go, and must have when its callback returns. The access's
//! mutex is dropped around the callback, as undoing pins takes it; the map's semaphore is taken
//! for reading inside it.
//!
//! Moving to another IOAS is a [`Change`]: everything that can fail is done before it begins, so
//! that an access is never left with half of a new IOAS.
//!
//! [`Change`]: crate::ffi::access::Change

use crate::{
    area::last_of,
    ffi::{
        access::{
            map::{
                Buffer,
                Map,
                PageSlots,
                Span, //
            },
            Access,
            Client,
            Locked, //
        },
        context::Ctx,
        ioas::Ioas,
        typed::Hold, //
    },
    object::lend, //
};
use kernel::prelude::*;

/// Makes an access for a driver, or for the kernel itself. The hold is the caller's, until it
/// destroys it.
///
/// # Errors
///
/// `ENOMEM`; `EBUSY` when all ids are in use.
pub(crate) fn create(ctx: &Ctx, client: Option<Client>) -> Result<Hold<Access>> {
    let access = Access::reserve(ctx, client)?;
    let hold = Hold::new(&*access);
    access.publish();
    Ok(hold)
}

/// Moves to another IOAS, or to none.
///
/// # Errors
///
/// `EBUSY`: it is moving already; what [`Locked::begin`] says.
fn change(access: Locked<'_>, new: Option<&Ioas>) -> Result {
    let (ioas, old) = (access.ioas(), access.unpin_ioas());
    let same = |a: Option<&Ioas>, b: Option<&Ioas>| match (a, b) {
        (Some(a), Some(b)) => core::ptr::eq(a, b),
        (None, None) => true,
        _ => false,
    };
    if !same(ioas, old) {
        return Err(EBUSY);
    }
    if same(ioas, new) {
        return Ok(());
    }
    let has_old = old.is_some();
    let change = access.begin(new)?;
    // Nothing can fail any more.
    if has_old { change.drain() } else { change }.finish();
    Ok(())
}

/// Takes an access that is being destroyed off its IOAS.
pub(crate) fn leave(access: &Access) {
    let locked = access.lock();
    if locked.ioas().is_some() {
        kernel::warn_on!(change(locked, None).is_err());
    }
}

/// Takes an access off its IOAS, on which it is.
pub(crate) fn detach(access: &Access) {
    let locked = access.lock();
    if !kernel::warn_on!(locked.ioas().is_none()) {
        kernel::warn_on!(change(locked, None).is_err());
    }
}

/// Puts an access, which is on none, on an IOAS.
///
/// # Errors
///
/// `EINVAL`: it is on one, which is a bug of the caller's; what [`Locked::begin`] says.
pub(crate) fn attach(access: &Access, ioas: &Ioas) -> Result {
    let locked = access.lock();
    if kernel::warn_on!(locked.ioas().is_some()) {
        return Err(EINVAL);
    }
    change(locked, Some(ioas))
}

/// The same, by the IOAS's id.
///
/// # Errors
///
/// As [`attach`]; `ENOENT`: there is no such IOAS.
pub(crate) fn attach_id(access: &Access, id: u32) -> Result {
    let ctx = access.ctx().ok_or(EINVAL)?;
    let locked = access.lock();
    if kernel::warn_on!(locked.ioas().is_some()) {
        return Err(EINVAL);
    }
    let ioas = lend::<Ioas>(ctx, id)?;
    change(locked, Some(&ioas))
}

/// Moves an access from its IOAS to another.
///
/// # Errors
///
/// `ENOENT`: it is on none, or there is no such IOAS; what [`Locked::begin`] says.
pub(crate) fn replace_id(access: &Access, id: u32) -> Result {
    let ctx = access.ctx().ok_or(EINVAL)?;
    let locked = access.lock();
    if locked.ioas().is_none() {
        return Err(ENOENT);
    }
    let ioas = lend::<Ioas>(ctx, id)?;
    change(locked, Some(&ioas))
}

/// Calls `f` for each mapping in a range.
///
/// # Errors
///
/// Where the walk stopped, and why: `ENOENT` for a hole.
fn for_each_span(
    map: &Map<'_>,
    first: usize,
    last: usize,
    mut f: impl FnMut(&Span<'_>) -> Result,
) -> Result<(), (usize, Error)> {
    let mut spans = map.spans(first, last);
    while let Some(span) = spans.next() {
        f(&span).map_err(|e| (spans.at(), e))?;
        spans.pass(&span);
    }
    if spans.is_done() {
        Ok(())
    } else {
        Err((spans.at(), ENOENT))
    }
}

fn unpin_range(map: &Map<'_>, first: usize, last: usize, unlock: bool) {
    let done = for_each_span(map, first, last, |span| {
        span.unpin(unlock);
        Ok(())
    });
    // What was pinned was mapped, and stays so.
    kernel::warn_on!(done.is_err());
}

/// Undoes [`pin`] of the same range.
pub(crate) fn unpin(access: &Access, iova: usize, length: usize) {
    let Ok(last) = last_of(iova, length) else {
        kernel::warn_on!(true);
        return;
    };
    let locked = access.lock();
    match locked.unpin_ioas() {
        Some(ioas) => unpin_range(&ioas.read(), iova, last, access.is_internal()),
        None => {
            kernel::warn_on!(true);
        }
    }
}

/// Checks that a mapping may be touched.
///
/// # Errors
///
/// `EINVAL`: not now, or not in whole pages; `EPERM`: not in this way.
fn check(span: &Span<'_>, flags: u32, whole_pages: bool) -> Result {
    if span.is_locked_away() || (whole_pages && !span.is_page_aligned()) {
        return Err(EINVAL);
    }
    if !span.allows(flags) {
        return Err(EPERM);
    }
    Ok(())
}

/// Pins the pages behind a range and hands them out.
///
/// # Errors
///
/// `EINVAL`: an empty range, one that does not consist of whole pages, or an access that was not
/// made for it; `EOVERFLOW`: it wraps; `ENOENT`: the access is on no IOAS, or there is a hole;
/// `EPERM`: it is not mapped for what `flags` ask for; `ENOMEM`; `EFAULT`. Nothing is pinned then.
pub(crate) fn pin(
    access: &Access,
    iova: usize,
    length: usize,
    out: &mut PageSlots,
    flags: u32,
) -> Result {
    if cfg!(CONFIG_IOMMUFD_TEST) && kernel::warn_on!(!access.may_pin()) {
        return Err(EINVAL);
    }
    let last = last_of(iova, length)?;
    let lock = access.is_internal();
    let locked = access.lock();
    let map = locked.ioas().ok_or(ENOENT)?.read();
    for_each_span(&map, iova, last, |span| {
        check(span, flags, true)?;
        span.pin(out, flags, lock)
    })
    .map_err(|(at, e)| {
        if iova < at {
            unpin_range(&map, iova, at - 1, lock);
        }
        e
    })
}

/// Copies between a driver's buffer and the memory behind a range.
///
/// # Errors
///
/// `EINVAL`: an empty range, or one that may not be touched now; `EOVERFLOW`: it wraps; `ENOENT`:
/// the access is on no IOAS, or there is a hole; `EPERM`: it is not mapped for what `flags` ask
/// for; `ENOMEM`; `EFAULT`. What was before the error is copied.
pub(crate) fn copy(
    access: &Access,
    iova: usize,
    length: usize,
    buffer: &mut Buffer,
    flags: u32,
) -> Result {
    let last = last_of(iova, length)?;
    let locked = access.lock();
    let map = locked.ioas().ok_or(ENOENT)?.read();
    for_each_span(&map, iova, last, |span| {
        check(span, flags, false)?;
        span.copy(buffer, flags)
    })
    .map_err(|(_, e)| e)
}
