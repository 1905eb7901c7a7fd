// SPDX-License-Identifier: GPL-2.0-only

//! The ioctls of `/dev/iommu`: one type each, and the table made from them.
//!
//! A copy to user space may take for ever, for another process may have to supply the page
//! (userfaultfd, FUSE), while unbinding a device waits for loans, and drivers for locks. So an
//! ioctl returns its [`Answer`] as a value, and the copy is made when [`Ioctl::run`] has given
//! back what it held.
//!
//! UAPI: [`include/uapi/linux/iommufd.h`](srctree/include/uapi/linux/iommufd.h)

use crate::{
    ffi::{
        context::Ctx,
        handlers,
        ucmd::{
            self,
            Buffer,
            Execute,
            Reply,
            Ucmd,
            UserStruct, //
        }, //
    },
    vfio_compat, //
};
use core::mem::size_of;
use kernel::{
    ioctl::_IOC_NR,
    prelude::*, //
};

/// An ioctl: its structure knows its number and its size, and what to do.
pub(crate) trait Ioctl: UserStruct {
    /// The whole ioctl number.
    const NUMBER: u32;
    /// The size of the structure in the first kernel that had it, in bytes.
    const MIN_SIZE: usize;
    /// What it tells user space. It has no loans and no locks.
    type Answer<'a>: Answer<Self>;

    /// Does it. Nothing of user space's structure was checked but its size.
    ///
    /// # Errors
    ///
    /// As the ioctl's description in the UAPI header says.
    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>>;
}

/// What is left to do of an ioctl that holds nothing any more. Dropping it instead undoes the
/// ioctl.
pub(crate) trait Answer<T> {
    /// Tells user space, and does what could only be done then.
    ///
    /// # Errors
    ///
    /// `EFAULT`, after undoing what user space cannot know of.
    fn give(self, reply: Reply<'_, T>) -> Result;
}

/// There is nothing to tell.
impl<T> Answer<T> for () {
    #[inline(always)]
    fn give(self, _reply: Reply<'_, T>) -> Result {
        Ok(())
    }
}

/// There may be nothing to tell.
impl<T, A: Answer<T>> Answer<T> for Option<A> {
    #[inline(always)]
    fn give(self, reply: Reply<'_, T>) -> Result {
        self.map_or(Ok(()), |answer| answer.give(reply))
    }
}

/// The structure is copied back.
pub(crate) struct Respond;

impl<T: UserStruct> Answer<T> for Respond {
    #[inline(always)]
    fn give(self, reply: Reply<'_, T>) -> Result {
        reply.respond()
    }
}

/// Something new, whose id is in the structure that is copied back.
pub(crate) struct New<P>(pub(crate) P);

/// What user space must know before others may see it.
pub(crate) trait Publish {
    /// Lets it be found.
    ///
    /// # Errors
    ///
    /// Where that can fail, see there.
    fn publish(self) -> Result;
}

impl<T: UserStruct, P: Publish> Answer<T> for New<P> {
    #[inline(always)]
    fn give(self, reply: Reply<'_, T>) -> Result {
        reply.respond()?;
        self.0.publish()
    }
}

/// A row of the dispatch table.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) number: u32,
    /// What the kernel copies, in bytes.
    pub(crate) size: usize,
    /// What user space must give, in bytes.
    pub(crate) min_size: usize,
    pub(crate) execute: Execute,
}

impl Entry {
    pub(crate) const fn new(number: u32, size: usize, min_size: usize, execute: Execute) -> Self {
        assert!(size <= Buffer::SIZE && min_size <= size && min_size >= size_of::<u32>());
        Self {
            number,
            size,
            min_size,
            execute,
        }
    }

    /// The row of an ioctl in Rust.
    pub(crate) const fn of<T: Ioctl>() -> Self {
        Self::new(T::NUMBER, size_of::<T>(), T::MIN_SIZE, ucmd::run::<T>)
    }

    /// Whether this is the ioctl that user space asks for, with a structure long enough.
    ///
    /// # Errors
    ///
    /// `ENOIOCTLCMD` for another ioctl, `EINVAL` for a structure that is too short.
    fn accept(&self, number: u32, user_size: u32) -> Result {
        if self.number != number {
            return Err(ENOIOCTLCMD);
        }
        if (user_size as usize) < self.min_size {
            return Err(EINVAL);
        }
        Ok(())
    }
}

/// The number of the first ioctl of `/dev/iommu`; those of VFIO are below.
const BASE: u32 = handlers::CMD_BASE;
/// Rows up to the last ioctl that this kernel has.
const COUNT: usize = {
    let (mut last, mut i) = (0, 0);
    while i < handlers::ALL.len() {
        let nr = _IOC_NR(handlers::ALL[i].number) - BASE;
        if nr > last {
            last = nr;
        }
        i += 1;
    }
    last as usize + 1
};

static TABLE: [Option<Entry>; COUNT] = {
    let mut table = [None; COUNT];
    let mut i = 0;
    while i < handlers::ALL.len() {
        let entry = handlers::ALL[i];
        let slot = &mut table[(_IOC_NR(entry.number) - BASE) as usize];
        assert!(slot.is_none());
        *slot = Some(entry);
        i += 1;
    }
    table
};

/// Finds the row of an ioctl number; `None` when it is none of ours, but maybe VFIO's.
fn find(number: u32) -> Option<&'static Option<Entry>> {
    TABLE.get(_IOC_NR(number).checked_sub(BASE)? as usize)
}

/// Runs the ioctl `number` with the structure at the user address `arg`.
///
/// # Errors
///
/// `EFAULT`; `ENOIOCTLCMD` for an unknown one; `EINVAL` and `E2BIG` for structures that are too
/// short, or longer than the kernel knows and not zero there; what the ioctl says.
pub(crate) fn dispatch(ctx: &Ctx, number: u32, arg: usize) -> Result<isize> {
    let Some(row) = find(number) else {
        return vfio_compat::ioctl(ctx, number, arg);
    };
    let user_size = handlers::user_size(arg)?;
    let entry = row.as_ref().ok_or(ENOIOCTLCMD)?;
    entry.accept(number, user_size)?;
    let mut buffer = Buffer::new();
    ucmd::execute(ctx, arg, user_size, entry, &mut buffer)
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_ioctl)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for entry in TABLE.iter().flatten() {
            let min = entry.min_size as u32;
            for (size, expected) in [
                (0, Err(EINVAL)),
                (1, Err(EINVAL)),
                (min - 1, Err(EINVAL)),
                (min, Ok(())),
                (entry.size as u32, Ok(())),
                (entry.size as u32 + 1, Ok(())),
                (u32::MAX, Ok(())),
            ] {
                assert_eq!(entry.accept(entry.number, size), expected);
            }
            // The number is compared whole: type, direction and size bits too.
            for bit in 0..32 {
                assert_eq!(
                    entry.accept(entry.number ^ (1 << bit), min),
                    Err(ENOIOCTLCMD)
                );
            }
        }
    }

    #[test]
    fn numbers() {
        assert!(find(0).is_none());
        assert!(find(BASE - 1).is_none());
        assert!(find(BASE).is_some_and(Option::is_some));
        assert!(find(BASE + COUNT as u32 - 1).is_some());
        assert!(find(BASE + COUNT as u32).is_none());
        assert!(find(255).is_none());
        for entry in TABLE.iter().flatten() {
            let found = find(entry.number).and_then(Option::as_ref);
            assert_eq!(found.map(|e| e.number), Some(entry.number));
        }
    }
}
