// SPDX-License-Identifier: GPL-2.0-only

//! HW queues in memory: the core's part first, the driver's behind it.
//!
//! A HW queue holds its vIOMMU, and owns the memory that the hardware reads it from: an access of
//! the kernel's own, which has pinned all of it.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    client::map::PageSlots,
    context::Ctx,
    handlers::uapi::HwQueueAlloc,
    viommu::{
        checked,
        Viommu, //
    }, //
};
use crate::{
    access::{
        self,
        Access, //
    },
    hw_queue::whole_pages,
    ioas::Ioas,
    object::{
        Built,
        Hold,
        ObjectType,
        Unpublished, //
    }, //
};
use core::{
    mem::{
        size_of,
        ManuallyDrop, //
    },
    ptr, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    bindings,
    error::to_result,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

const HW_QUEUE: ObjectType = ObjectType(bindings::iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE);

impl Viommu {
    /// Reserves an object for a HW queue of a type.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the driver has none of this type; `ENOMEM`.
    pub(crate) fn reserve_queue<'a>(&self, ctx: &'a Ctx, type_: u32) -> Result<NewQueue<'a>> {
        let ops = self.ops().ok_or(EOPNOTSUPP)?;
        let get_size = ops.get_hw_queue_size.ok_or(EOPNOTSUPP)?;
        let init = ops.hw_queue_init_phys.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the vIOMMU's own operation.
        let size = unsafe { get_size(self.as_raw(), type_) };
        let size = checked(size, size_of::<bindings::iommufd_hw_queue>())?;
        Ok(NewQueue {
            object: Unpublished::new(ctx, size, HW_QUEUE)?,
            viommu: Hold::new(self),
            init,
        })
    }
}

/// Memory of the virtual machine that is pinned, and that cannot be unmapped meanwhile.
struct Pin<'a> {
    ctx: &'a Ctx,
    access: ManuallyDrop<Hold<Access>>,
    iova: usize,
    length: usize,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        access::unpin(&self.access, self.iova, self.length);
        access::detach(&self.access);
        // SAFETY: It is not used any more.
        let access = unsafe { ManuallyDrop::take(&mut self.access) };
        kernel::warn_on!(access.destroy(self.ctx, false).is_err());
    }
}

/// So many pages are known by an array that is no burden: one page long.
const FEW_PAGES: usize = PAGE_SIZE / size_of::<*mut bindings::page>();

/// Pinned memory and the pages that it consists of.
pub(crate) struct Pinned<'a> {
    pin: Pin<'a>,
    pages: KVVec<*mut bindings::page>,
}

impl<'a> Pinned<'a> {
    /// Pins `length` bytes from `iova` on, both whole pages.
    ///
    /// # Errors
    ///
    /// `EFAULT`: they are many, and surely not in one piece; `ENOMEM`; those of
    /// [`access::attach`] and [`access::pin`].
    pub(crate) fn new(ctx: &'a Ctx, ioas: &Ioas, iova: usize, length: usize) -> Result<Self> {
        let access = access::create(ctx, None)?;
        let pages = access::attach(&access, ioas)
            .and_then(|()| pin_all(&access, iova, length).inspect_err(|_| access::detach(&access)));
        match pages {
            Ok(pages) => {
                let pin = Pin {
                    ctx,
                    access: ManuallyDrop::new(access),
                    iova,
                    length,
                };
                Ok(Self { pin, pages })
            }
            Err(e) => {
                kernel::warn_on!(access.destroy(ctx, false).is_err());
                Err(e)
            }
        }
    }

    /// The physical address, if the pages follow each other in memory.
    pub(crate) fn contiguous(&self) -> Option<u64> {
        // SAFETY: The pages are pinned.
        let frame = |page: &*mut bindings::page| unsafe { bindings::page_to_pfn(*page) };
        let first = frame(self.pages.first()?);
        self.pages
            .iter()
            .enumerate()
            .all(|(i, page)| frame(page) == first + i)
            .then_some((first as u64) << PAGE_SHIFT)
    }

    /// Gives the memory to a queue, which lets it go in [`destroy_hw_queue`].
    fn into_raw(self) -> *mut bindings::iommufd_access {
        let pin = ManuallyDrop::new(self.pin);
        ptr::from_ref::<Access>(&pin.access).cast_mut().cast()
    }
}

/// Pins pages that are in one piece, if the first and the last may be; returns them.
///
/// # Errors
///
/// `EFAULT`: they are not; `ENOMEM`; those of [`access::pin`].
fn pin_all(access: &Access, iova: usize, length: usize) -> Result<KVVec<*mut bindings::page>> {
    let count = length / PAGE_SIZE;
    // User space chose the number: before there is memory for so many, there must be so many.
    if count > FEW_PAGES {
        let last = iova + (length - PAGE_SIZE);
        let (first, last) = (frame_at(access, iova)?, frame_at(access, last)?);
        if last.checked_sub(first) != Some(count - 1) {
            return Err(EFAULT);
        }
    }
    let mut pages = KVVec::with_capacity(count, GFP_KERNEL | __GFP_NOWARN)?;
    for _ in 0..count {
        pages.push(ptr::null_mut(), GFP_KERNEL)?;
    }
    let mut slots = PageSlots(pages.as_mut_ptr());
    access::pin(access, iova, length, &mut slots, 0)?;
    Ok(pages)
}

/// The number of the page that is mapped at a whole page's IOVA; it may change at once.
fn frame_at(access: &Access, iova: usize) -> Result<usize> {
    let mut page = ptr::null_mut();
    access::pin(access, iova, PAGE_SIZE, &mut PageSlots(&raw mut page), 0)?;
    // SAFETY: The page is pinned.
    let frame = unsafe { bindings::page_to_pfn(page) };
    access::unpin(access, iova, PAGE_SIZE);
    Ok(frame)
}

/// A HW queue without its memory.
pub(crate) struct NewQueue<'a> {
    object: Unpublished<'a>,
    viommu: Hold<Viommu>,
    init:
        unsafe extern "C" fn(*mut bindings::iommufd_hw_queue, u32, bindings::phys_addr_t) -> c_int,
}

impl<'a> NewQueue<'a> {
    /// Gives the queue its memory, which is at the physical address `base`, and the hardware the
    /// queue.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub(crate) fn build(
        self,
        cmd: &HwQueueAlloc,
        memory: Pinned<'_>,
        base: u64,
    ) -> Result<Built<'a>> {
        let raw = self.object.as_raw().cast::<bindings::iommufd_hw_queue>();
        // SAFETY: The object is at least as large as the structure. It is zeroed, and ours alone
        // but for the head, which lookups may see.
        unsafe {
            // `destroy_hw_queue` lets go of both.
            (*raw).viommu = self.viommu.into_raw().cast().as_ptr();
            (*raw).access = memory.into_raw();
            (*raw).type_ = cmd.type_;
            (*raw).length = cmd.length as usize;
            (*raw).base_addr = cmd.nesting_parent_iova;
        }
        // SAFETY: Initialised just now.
        let object = unsafe { self.object.built() };
        // SAFETY: The driver of the vIOMMU gets its own part to initialise.
        to_result(unsafe { (self.init)(raw, cmd.index, base) })?;
        Ok(object)
    }
}

/// Lets go of a queue's memory.
///
/// # Safety
///
/// `access` must come from [`Pinned::into_raw`] and not be used again, and the queue be one that
/// the hardware does not know any more.
unsafe fn unpin(
    ctx: &Ctx,
    queue: &bindings::iommufd_hw_queue,
    access: *mut bindings::iommufd_access,
) {
    // SAFETY: The queue has kept the access since it was pinned through.
    let access = unsafe { &*access.cast::<Access>() };
    // What was pinned once was a range that can be said. If not, the memory is lost, which is
    // better than undoing a pin of somebody else's.
    let range = whole_pages(queue.base_addr, queue.length as u64);
    if kernel::warn_on!(range.is_err()) {
        return;
    }
    let Ok((iova, length)) = range else { return };
    drop(Pin {
        ctx,
        // SAFETY: `Pinned::into_raw` gave the hold to the queue, which does not use it again.
        access: ManuallyDrop::new(unsafe { Hold::adopt(access) }),
        iova,
        length,
    });
}

/// Releases what a HW queue holds.
///
/// # Safety
///
/// `obj` must be a HW queue that nobody else refers to.
pub(crate) unsafe extern "C" fn destroy_hw_queue(obj: *mut bindings::iommufd_object) {
    let raw = obj.cast::<bindings::iommufd_hw_queue>();
    // SAFETY: Nobody else refers to the queue.
    if let Some(destroy) = unsafe { (*raw).destroy } {
        // SAFETY: The driver's own operation on what it has initialised.
        unsafe { destroy(raw) };
    }
    // SAFETY: Nobody else refers to the queue, and the driver does not use it any more. The hold is
    // what `NewQueue::build` gave it.
    let (queue, viommu) = unsafe { (&*raw, Hold::<Viommu>::adopt(&*(*raw).viommu.cast())) };
    // SAFETY: `NewQueue::build` gave it to the queue, and the driver has let go of it.
    unsafe { unpin(viommu.ctx(), queue, queue.access) };
}
