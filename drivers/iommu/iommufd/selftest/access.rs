// SPDX-License-Identifier: GPL-2.0-only

//! Access without DMA: reading, writing and pinning what is mapped.
//!
//! The pins of an access are under one mutex, which is held while pages are pinned. So when
//! iommufd unmaps a range, either the pin is not there yet and will fail, or it is on the list
//! and goes away; it can never be in between.

use super::{
    test_ioctl::area_number,
    uapi::{
        self,
        AccessPages,
        AccessRw,
        CreateAccess, //
    },
};
use crate::ffi::selftest::{
    access::{
        open,
        Access,
        OpenAccess, //
    },
    object::Ucmd,
    page::PageArray, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    fs::file::{
        flags::O_CLOEXEC,
        FileDescriptorReservation, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::Mutex,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// The most that one request may touch, in bytes.
const MAX_LENGTH: u64 = 16 << 20;

/// A range that is pinned.
struct PinnedRange {
    id: u32,
    iova: usize,
    length: usize,
}

impl PinnedRange {
    /// Whether it has an address in common with a range; both ends included.
    fn touches(&self, first: usize, last: usize) -> bool {
        // `pin_pages()` refused what is empty or wraps.
        first <= self.iova + (self.length - 1) && last >= self.iova
    }
}

struct PinList {
    /// As many as user space likes, so they need not be in one piece of memory.
    items: KVVec<PinnedRange>,
    next_id: u32,
}

/// The ranges that are pinned through an access.
#[pin_data]
pub(crate) struct Pins {
    #[pin]
    list: Mutex<PinList>,
}

impl Pins {
    /// None.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_mutex!(PinList { items: KVVec::new(), next_id: 0 }),
        })
    }

    /// Unpins all that has to do with a range of `length` bytes.
    pub(crate) fn unmap(&self, access: &Access, iova: usize, length: usize) {
        let last = iova.saturating_add(length.saturating_sub(1));
        self.list.lock().items.retain(|item| {
            let goes = item.touches(iova, last);
            if goes {
                access.unpin_pages(item.iova, item.length);
            }
            !goes
        });
    }

    /// Unpins the range with this id.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is none.
    fn unpin(&self, access: &Access, id: u32) -> Result {
        let mut list = self.list.lock();
        let at = list
            .items
            .iter()
            .position(|item| item.id == id)
            .ok_or(ENOENT)?;
        let item = list.items.remove(at).map_err(|_| ENOENT)?;
        access.unpin_pages(item.iova, item.length);
        Ok(())
    }

    /// Pins a range; `accept` gets its pages and the id that it will have.
    ///
    /// # Errors
    ///
    /// See [`Access::pin_pages`], and whatever `accept` fails with.
    fn pin(
        &self,
        access: &Access,
        (iova, length): (usize, usize),
        write: bool,
        accept: impl FnOnce(&PageArray, u32) -> Result,
    ) -> Result {
        let mut pages = PageArray::new(page_count(iova, length)?)?;
        let mut list = self.list.lock();
        // Without a word where it would be more than any request may have.
        list.items.reserve(1, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        let id = list.next_id;
        access.pin_pages(iova, length, &mut pages, write)?;
        let item = PinnedRange { id, iova, length };
        let done =
            accept(&pages, id).and_then(|()| Ok(list.items.push(item, GFP_KERNEL_ACCOUNT)?));
        match done {
            Ok(()) => list.next_id = id.wrapping_add(1),
            Err(_) => access.unpin_pages(iova, length),
        }
        done
    }
}

/// How many pages a range touches.
///
/// # Errors
///
/// `EINVAL`: it is empty. `EOVERFLOW`: it wraps.
pub(crate) fn page_count(iova: usize, length: usize) -> Result<usize> {
    let more = length.checked_sub(1).ok_or(EINVAL)?;
    let last = iova.checked_add(more).ok_or(EOVERFLOW)?;
    Ok(last / PAGE_SIZE - iova / PAGE_SIZE + 1)
}

/// The address that is meant: with [`uapi::ACCESS_SYZ`] it is the number of a mapping and an
/// offset, which a fuzzer can guess.
fn address(access: &Access, iova: u64, flags: u32) -> Result<usize> {
    if flags & uapi::ACCESS_SYZ == 0 {
        return Ok(usize::try_from(iova)?);
    }
    let (nth, offset) = area_number(iova);
    Ok(access
        .nth_area(nth)
        .map_or(0, |start| start.wrapping_add(offset)))
}

/// `CREATE_ACCESS`.
///
/// # Errors
///
/// `EOPNOTSUPP`: unknown flags. `ENOMEM`: no descriptor. See also [`Access::attach`].
pub(super) fn create(ucmd: &mut Ucmd<'_>) -> Result {
    let mut args: CreateAccess = ucmd.cmd().args()?;
    if args.flags & !uapi::ACCESS_NEEDS_PIN_PAGES != 0 {
        return Err(EOPNOTSUPP);
    }
    let can_pin = args.flags & uapi::ACCESS_NEEDS_PIN_PAGES != 0;
    let fd = FileDescriptorReservation::get_unused_fd_flags(O_CLOEXEC).map_err(|_| ENOMEM)?;
    let access = Access::create(ucmd.ctx(), can_pin)?;
    access.attach(ucmd.cmd().id)?;
    let file = open(access)?;
    args.out_access_fd = fd.reserved_fd();
    ucmd.cmd().set_args(&args)?;
    ucmd.respond()?;
    fd.fd_install(file);
    Ok(())
}

/// `ACCESS_REPLACE_IOAS`.
///
/// # Errors
///
/// `EBADFD`: not an access. See also [`Access::replace`].
pub(super) fn replace_ioas(ucmd: &mut Ucmd<'_>) -> Result {
    let ioas_id = ucmd.cmd().args()?;
    OpenAccess::from_fd(ucmd.cmd().id)?.replace(ioas_id)
}

/// `ACCESS_PAGES`: pins a range, and compares it with the caller's memory.
///
/// # Errors
///
/// `ENOMEM`: too long, or no memory. `EOPNOTSUPP`: unknown flags, or an access that cannot pin.
/// `EBADFD`: not an access. `EBADE`: the pages are others.
pub(super) fn pin(ucmd: &mut Ucmd<'_>) -> Result {
    let mut args: AccessPages = ucmd.cmd().args()?;
    if args.length > MAX_LENGTH {
        return Err(ENOMEM);
    }
    if args.flags & !(uapi::ACCESS_WRITE | uapi::ACCESS_SYZ) != 0 {
        return Err(EOPNOTSUPP);
    }
    let access = OpenAccess::from_fd(ucmd.cmd().id)?;
    if !access.can_pin() {
        return Err(EOPNOTSUPP);
    }
    let iova = address(&access, args.iova, args.flags)?;
    let range = (iova, usize::try_from(args.length)?);
    let write = args.flags & uapi::ACCESS_WRITE != 0;
    let uptr = usize::try_from(args.uptr)?;
    access.pins().pin(&access, range, write, |pages, id| {
        // A fuzzer has no idea of the right address, so it may leave it out.
        if uptr != 0 {
            pages.compare(uptr.wrapping_sub(iova % PAGE_SIZE))?;
        }
        args.out_access_pages_id = id;
        ucmd.cmd().set_args(&args)?;
        ucmd.respond()
    })
}

/// `DESTROY_ACCESS_PAGES`.
///
/// # Errors
///
/// `EBADFD`: not an access. `ENOENT`: nothing is pinned by this id.
pub(super) fn unpin(ucmd: &mut Ucmd<'_>) -> Result {
    let id = ucmd.cmd().args()?;
    let access = OpenAccess::from_fd(ucmd.cmd().id)?;
    access.pins().unpin(&access, id)
}

/// `ACCESS_RW`: copies between the caller's memory and what is mapped.
///
/// # Errors
///
/// `ENOMEM`: too long, or no memory. `EOPNOTSUPP`: unknown flags. `EBADFD`: not an access.
/// `EFAULT`: the caller's memory is not there. See also [`Access::rw`].
pub(super) fn rw(ucmd: &mut Ucmd<'_>) -> Result {
    let args: AccessRw = ucmd.cmd().args()?;
    if args.length > MAX_LENGTH {
        return Err(ENOMEM);
    }
    let to_core = uapi::ACCESS_WRITE | uapi::ACCESS_SLOW_PATH;
    if args.flags & !(to_core | uapi::ACCESS_SYZ) != 0 {
        return Err(EOPNOTSUPP);
    }
    let access = OpenAccess::from_fd(ucmd.cmd().id)?;
    let length = usize::try_from(args.length)?;
    let user = UserSlice::new(UserPtr::from_addr(usize::try_from(args.uptr)?), length);
    let mut data = KVVec::from_elem(0u8, length, GFP_KERNEL_ACCOUNT)?;
    let (mut reader, mut writer) = user.reader_writer();
    let write = args.flags & uapi::ACCESS_WRITE != 0;
    if write {
        reader.read_slice(&mut data)?;
    }
    let iova = address(&access, args.iova, args.flags)?;
    access.rw(iova, &mut data, args.flags & to_core)?;
    if !write {
        writer.write_slice(&data)?;
    }
    Ok(())
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_mock_access)]
mod tests {
    use super::*;

    #[test]
    fn counts_pages() {
        let table = [
            (0, 0, Err(EINVAL)),
            (0, 1, Ok(1)),
            (0, PAGE_SIZE, Ok(1)),
            (0, PAGE_SIZE + 1, Ok(2)),
            (PAGE_SIZE - 1, 1, Ok(1)),
            (PAGE_SIZE - 1, 2, Ok(2)),
            (usize::MAX, 1, Ok(1)),
            (usize::MAX, 2, Err(EOVERFLOW)),
            (1, usize::MAX, Ok(usize::MAX / PAGE_SIZE + 1)),
            (2, usize::MAX, Err(EOVERFLOW)),
        ];
        for (iova, length, count) in table {
            assert_eq!(page_count(iova, length), count);
        }
    }

    #[test]
    fn touches_at_the_edges() {
        let item = PinnedRange {
            id: 0,
            iova: 100,
            length: 10,
        };
        assert!(!item.touches(0, 99));
        assert!(item.touches(0, 100));
        assert!(item.touches(109, 200));
        assert!(!item.touches(110, usize::MAX));
        assert!(item.touches(0, usize::MAX));
    }
}
