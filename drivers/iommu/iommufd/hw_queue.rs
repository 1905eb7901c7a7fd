// SPDX-License-Identifier: GPL-2.0-only

//! HW queues: a virtual machine's queue that the hardware serves by itself.
//!
//! The hardware knows physical addresses only. So the queue's memory must be one piece, and is
//! pinned in a way that unmapping waits for: a mapping that went under the hardware's hands would
//! give it the memory of somebody else.

use crate::{
    access::{
        self,
        Access, //
    },
    ffi::{
        client::map::PinnedPages,
        context::Ctx,
        driver_objects::{
            HwQueue,
            NewQueue,
            Viommu, //
        },
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                HwQueueAlloc, //
            }, //
        },
        ucmd::Ucmd, //
    },
    ioas::Ioas,
    ioctl::{
        Ioctl,
        New, //
    },
    object::{
        lend,
        Head,
        Hold,
        Reserved, //
    }, //
};
use kernel::{
    page::{
        PAGE_MASK,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    types::ScopeGuard, //
};

impl Ioctl for HwQueueAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_HW_QUEUE_ALLOC);
    const MIN_SIZE: usize = end_of!(HwQueueAlloc, length);
    type Answer<'a> = New<Reserved<'a, HwQueue>>;

    fn run<'a>(ucmd: &mut Ucmd<'a, Self>) -> Result<Self::Answer<'a>> {
        if ucmd.flags != 0 || ucmd.type_ == uapi::HW_QUEUE_TYPE_DEFAULT {
            return Err(EOPNOTSUPP);
        }
        let more = ucmd.length.checked_sub(1).ok_or(EINVAL)?;
        ucmd.nesting_parent_iova
            .checked_add(more)
            .ok_or(EOVERFLOW)?;
        let ctx = ucmd.ctx();
        let viommu = lend::<Viommu>(ctx, ucmd.viommu_id)?;
        let queue = NewQueue::reserve(ctx, &viommu, ucmd)?;
        let (iova, length) = whole_pages(ucmd.nesting_parent_iova, ucmd.length)?;
        let (access, base) = pin(ctx, viommu.ioas(), iova, length)?;
        let offset = ucmd.nesting_parent_iova - iova as u64;
        let queue = queue.build(access, ucmd.index, base + offset)?;
        ucmd.out_hw_queue_id = queue.id();
        Ok(New(queue))
    }
}

/// So many pages are known by an array that is no burden: one page long.
const FEW_PAGES: usize = PAGE_SIZE / size_of::<usize>();

/// Pins `length` bytes from `iova` on, both whole pages, in a way that unmapping waits for. Returns
/// what keeps them pinned until [`unpin`], and their physical address.
///
/// # Errors
///
/// `EFAULT`: they are not in one piece; `ENOMEM`; those of [`access::attach`] and [`access::pin`].
fn pin(ctx: &Ctx, ioas: &Ioas, iova: usize, length: usize) -> Result<(Hold<Access>, u64)> {
    let access = ScopeGuard::new_with_data(access::create(ctx, None)?, |access| {
        kernel::warn_on!(access.destroy(ctx, false).is_err());
    });
    access::attach(&access, ioas)?;
    let attached = ScopeGuard::new_with_data(access, |access| access::detach(&access));
    let base = pin_in_one_piece(&attached, iova, length)?;
    Ok((attached.dismiss().dismiss(), base))
}

/// Pins pages if they are in one piece; returns their physical address.
///
/// # Errors
///
/// `EFAULT`: they are not; `ENOMEM`; those of [`access::pin`]. Nothing is pinned then.
fn pin_in_one_piece(access: &Access, iova: usize, length: usize) -> Result<u64> {
    let count = length / PAGE_SIZE;
    // User space chose the number: before there is memory for so many, there must be so many.
    if count > FEW_PAGES {
        let last = iova + (length - PAGE_SIZE);
        let (first, last) = (frame_at(access, iova)?, frame_at(access, last)?);
        if last.checked_sub(first) != Some(count - 1) {
            return Err(EFAULT);
        }
    }
    let pages = PinnedPages::pin(access, iova, count)?;
    let pages = ScopeGuard::new_with_data(pages, |_| access::unpin(access, iova, length));
    let first = pages.frames().next().ok_or(EFAULT)?;
    if !pages.frames().eq(first..first + count) {
        return Err(EFAULT);
    }
    pages.dismiss();
    Ok((first as u64) << PAGE_SHIFT)
}

/// The number of the page that is mapped at a whole page's IOVA; it may change at once.
fn frame_at(access: &Access, iova: usize) -> Result<usize> {
    let frame = PinnedPages::pin(access, iova, 1)?.frames().next();
    access::unpin(access, iova, PAGE_SIZE);
    frame.ok_or(EFAULT)
}

/// Lets go of the memory of a queue that the hardware does not know any more.
pub(crate) fn unpin(ctx: &Ctx, access: Hold<Access>, base: u64, length: u64) {
    match whole_pages(base, length) {
        Ok((iova, length)) => {
            access::unpin(&access, iova, length);
            access::detach(&access);
            kernel::warn_on!(access.destroy(ctx, false).is_err());
        }
        // What was pinned once was a range that can be said. If not, the memory is lost, which is
        // better than undoing a pin of somebody else's.
        Err(_) => {
            kernel::warn_on!(true);
        }
    }
}

/// The whole pages around `length` bytes from `iova` on: where they start, and their length in
/// bytes.
///
/// # Errors
///
/// `ERANGE`: that is more than an address can say.
pub(crate) fn whole_pages(iova: u64, length: u64) -> Result<(usize, usize)> {
    let iova = usize::try_from(iova).map_err(|_| ERANGE)?;
    let length = usize::try_from(length).map_err(|_| ERANGE)?;
    let start = iova & PAGE_MASK;
    let end = (iova - start).checked_add(length).ok_or(ERANGE)?;
    let length = end.checked_next_multiple_of(PAGE_SIZE).ok_or(ERANGE)?;
    Ok((start, length))
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_hw_queue)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let page = PAGE_SIZE as u64;
        for (iova, length, expected) in [
            (0, 1, Ok((0, PAGE_SIZE))),
            (0, page, Ok((0, PAGE_SIZE))),
            (0, page + 1, Ok((0, 2 * PAGE_SIZE))),
            (1, page, Ok((0, 2 * PAGE_SIZE))),
            (page - 1, 1, Ok((0, PAGE_SIZE))),
            (page - 1, 2, Ok((0, 2 * PAGE_SIZE))),
            (page, page, Ok((PAGE_SIZE, PAGE_SIZE))),
            (0, u64::MAX, Err(ERANGE)),
            (1, u64::MAX, Err(ERANGE)),
            (u64::MAX, 1, Ok((usize::MAX & PAGE_MASK, PAGE_SIZE))),
            (0, u64::MAX - page + 1, Ok((0, usize::MAX & PAGE_MASK))),
            (0, u64::MAX - page + 2, Err(ERANGE)),
        ] {
            assert_eq!(whole_pages(iova, length), expected);
        }
    }
}
