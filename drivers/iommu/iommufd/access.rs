// SPDX-License-Identifier: GPL-2.0-only

//! Accesses: how drivers without DMA reach the memory of an IOAS.
//!
//! A driver pins pages or copies through an access. Before memory is unmapped, every driver that
//! may have pinned it is told to let go, and must have when its callback returns. The access's
//! mutex is dropped around the callback, as undoing pins takes it; the map's semaphore is taken
//! for reading inside it.
//!
//! On the way from one IOAS to another new pins are refused, and old ones can still be undone.
//! Everything that can fail is done before, so that an access is never left with half of a new
//! IOAS.

use crate::{
    area::last_of,
    ffi::{
        client::{
            map::{
                Buffer,
                Map,
                PageSlots,
                Span, //
            },
            Client, //
        },
        context::{
            Ctx,
            CtxRef, //
        }, //
    },
    ioas::Ioas,
    object::{
        begins_with_head,
        lend,
        Hold,
        Object,
        Reserved, //
    }, //
};
use core::pin::Pin;
use kernel::{
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Mutex,
        MutexGuard, //
    }, //
};

/// A driver's way to an IOAS, or the kernel's own.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Access {
    #[pin]
    object: Object,
    /// None for the kernel's own, whose pins keep memory mapped.
    client: Option<Client>,
    iova_alignment: usize,
    #[pin]
    place: Mutex<Place>,
    /// The kernel's own do not keep it: they are part of other objects.
    context: Option<CtxRef>,
}

begins_with_head!(Access, object);

/// Where an access is.
struct Place {
    /// The IOAS that pins can be undone in, and the access's number on the list there.
    ioas: Option<(Hold<Ioas>, u32)>,
    /// It is on its way to another: nothing can be pinned there any more.
    moves: bool,
}

impl Place {
    /// Where pins can be undone.
    fn unpin_ioas(&self) -> Option<&Ioas> {
        self.ioas.as_ref().map(|(ioas, _)| &**ioas)
    }

    /// Where pages can be pinned.
    fn ioas(&self) -> Option<&Ioas> {
        self.unpin_ioas().filter(|_| !self.moves)
    }
}

impl Access {
    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock()
    }

    /// The context; `None` for the kernel's own.
    pub(crate) fn ctx(&self) -> Option<&Ctx> {
        self.context.as_deref()
    }

    /// Calls `f` with the IOAS that it is on, if there is one.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn with_ioas<T>(&self, f: impl FnOnce(&Ioas) -> Option<T>) -> Option<T> {
        self.lock().ioas().and_then(f)
    }

    /// What mappings must be aligned to for it, in bytes.
    pub(crate) fn iova_alignment(&self) -> usize {
        self.iova_alignment
    }

    /// Whether it is the kernel's own.
    fn is_internal(&self) -> bool {
        self.client.is_none()
    }

    /// Whether its driver said that it would pin pages, and can be told to stop.
    fn may_pin(&self) -> bool {
        self.iova_alignment == PAGE_SIZE && self.client.as_ref().is_none_or(Client::can_unmap)
    }

    /// Has the driver undo its pins in a range, if it can be told.
    pub(crate) fn unmap(&self, iova: usize, length: usize) {
        if let Some(client) = &self.client {
            client.unmap(iova, length);
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Access {
    fn drop(self: Pin<&mut Self>) {
        let place = self.lock();
        if place.ioas().is_some() {
            kernel::warn_on!(change(&self, place, None).is_err());
        }
    }
}

/// Makes an access for a driver, or for the kernel itself. The hold is the caller's, until it
/// destroys it.
///
/// # Errors
///
/// `ENOMEM`; `EBUSY` when all ids are in use.
pub(crate) fn create(ctx: &Ctx, client: Option<Client>) -> Result<Hold<Access>> {
    let copies = client.as_ref().is_some_and(|it| !it.needs_pin_pages());
    let access = Reserved::new(
        ctx,
        pin_init!(Access {
            object <- Object::new(),
            iova_alignment: if copies { 1 } else { PAGE_SIZE },
            place <- new_mutex!(Place { ioas: None, moves: false }, "iommufd_access"),
            context: client.as_ref().map(|_| CtxRef::new(ctx)),
            client,
        }),
    )?;
    let hold = access.hold();
    access.publish();
    Ok(hold)
}

/// Moves to another IOAS, or to none.
///
/// # Errors
///
/// `EBUSY`: it is moving already; `EADDRINUSE`: something is mapped that is not aligned well
/// enough; `ENOMEM`. Nothing has changed then.
fn change<'a>(access: &'a Access, mut place: MutexGuard<'a, Place>, new: Option<&Ioas>) -> Result {
    if place.moves {
        return Err(EBUSY);
    }
    if place.ioas().map(core::ptr::from_ref) == new.map(core::ptr::from_ref) {
        return Ok(());
    }
    let new = match new {
        Some(ioas) => Some((Hold::new(ioas)?, ioas.iopt().add_access(access)?)),
        None => None,
    };
    // Nothing can fail any more.
    place.moves = true;
    if place.ioas.is_some() && access.client.as_ref().is_some_and(Client::can_unmap) {
        // Undoing pins takes the mutex.
        drop(place);
        access.unmap(0, usize::MAX);
        place = access.lock();
    }
    if let Some((old, number)) = core::mem::replace(&mut place.ioas, new) {
        old.iopt().remove_access(number);
    }
    place.moves = false;
    Ok(())
}

/// Takes an access off its IOAS, on which it is.
pub(crate) fn detach(access: &Access) {
    let place = access.lock();
    if !kernel::warn_on!(place.ioas().is_none()) {
        kernel::warn_on!(change(access, place, None).is_err());
    }
}

/// Puts an access, which is on none, on an IOAS.
///
/// # Errors
///
/// `EINVAL`: it is on one, which is a bug of the caller's; what [`change`] says.
pub(crate) fn attach(access: &Access, ioas: &Ioas) -> Result {
    let place = access.lock();
    if kernel::warn_on!(place.ioas().is_some()) {
        return Err(EINVAL);
    }
    change(access, place, Some(ioas))
}

/// The same, by the IOAS's id.
///
/// # Errors
///
/// As [`attach`]; `ENOENT`: there is no such IOAS.
pub(crate) fn attach_id(access: &Access, id: u32) -> Result {
    let ctx = access.ctx().ok_or(EINVAL)?;
    let place = access.lock();
    if kernel::warn_on!(place.ioas().is_some()) {
        return Err(EINVAL);
    }
    let ioas = lend::<Ioas>(ctx, id)?;
    change(access, place, Some(&ioas))
}

/// Moves an access from its IOAS to another.
///
/// # Errors
///
/// `ENOENT`: it is on none, or there is no such IOAS; what [`change`] says.
pub(crate) fn replace_id(access: &Access, id: u32) -> Result {
    let ctx = access.ctx().ok_or(EINVAL)?;
    let place = access.lock();
    if place.ioas().is_none() {
        return Err(ENOENT);
    }
    let ioas = lend::<Ioas>(ctx, id)?;
    change(access, place, Some(&ioas))
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
    let place = access.lock();
    match place.unpin_ioas() {
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
    let place = access.lock();
    let map = place.ioas().ok_or(ENOENT)?.read();
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
    let place = access.lock();
    let map = place.ioas().ok_or(ENOENT)?.read();
    for_each_span(&map, iova, last, |span| {
        check(span, flags, false)?;
        span.copy(buffer, flags)
    })
    .map_err(|(_, e)| e)
}
