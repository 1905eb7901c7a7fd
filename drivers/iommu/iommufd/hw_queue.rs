// SPDX-License-Identifier: GPL-2.0-only

//! HW queues: a virtual machine's queue that the hardware serves by itself.
//!
//! The hardware knows physical addresses only. So the queue's memory must be one piece, and is
//! pinned in a way that unmapping waits for: a mapping that went under the hardware's hands would
//! give it the memory of somebody else.

use crate::{
    ffi::{
        handlers::{
            self,
            end_of,
            uapi::{
                self,
                HwQueueAlloc, //
            }, //
        },
        hw_queue::Pinned,
        ucmd::Ucmd,
        viommu::Viommu, //
    },
    ioctl::{
        Ioctl,
        New, //
    },
    object::{
        lend,
        Built, //
    }, //
};
use kernel::{
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*, //
};

impl Ioctl for HwQueueAlloc {
    const NUMBER: u32 = handlers::number(uapi::CMD_HW_QUEUE_ALLOC);
    const MIN_SIZE: usize = end_of!(HwQueueAlloc, length);
    type Answer<'a> = New<Built<'a>>;

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
        let queue = viommu.reserve_queue(ctx, ucmd.type_)?;
        let (iova, length) = whole_pages(ucmd.nesting_parent_iova, ucmd.length)?;
        let memory = Pinned::new(ctx, viommu.ioas(), iova, length)?;
        let offset = ucmd.nesting_parent_iova - iova as u64;
        let base = memory.contiguous().ok_or(EFAULT)? + offset;
        let queue = queue.build(ucmd, memory, base)?;
        ucmd.out_hw_queue_id = queue.id();
        Ok(New(queue))
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
