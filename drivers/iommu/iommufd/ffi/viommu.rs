// SPDX-License-Identifier: GPL-2.0-only

//! vIOMMUs, vDEVICEs and HW queues in memory: the core's part first, the driver's behind it.
//!
//! The driver says how large its structures are and initialises its part; the core allocates and
//! frees. A vDEVICE keeps a loan on its device, which the device's tear-down revokes.
//!
//! Lock order: a device's group, then the core's xarrays.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    access::{
        Access,
        PageSlots, //
    },
    context::Ctx,
    device::Device,
    domain::UserData,
    group::Locked,
    handlers::uapi::HwQueueAlloc,
    hwpt::{
        PagingHwpt,
        Viommu, //
    },
    ioas::Ioas,
    object::{
        Built,
        KindId,
        Loan,
        Unpublished, //
    },
    typed::{
        Head,
        Hold, //
    }, //
};
use crate::access;
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
    c_str,
    error::to_result,
    prelude::*,
    static_lock_class, //
};

const VIOMMU: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_VIOMMU);
const VDEVICE: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_VDEVICE);
const HW_QUEUE: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE);

/// The driver's structure must have room for the core's; another size is a bug of the driver's.
///
/// # Errors
///
/// `EOPNOTSUPP`: the driver has none (0), or that bug.
fn checked(size: usize, least: usize) -> Result<usize> {
    if size == 0 || kernel::warn_on!(size < least) {
        return Err(EOPNOTSUPP);
    }
    Ok(size)
}

/// How the driver of a device makes vIOMMUs of a type.
pub(crate) struct ViommuDriver {
    iommu_dev: *mut bindings::iommu_device,
    size: usize,
    init: unsafe extern "C" fn(
        *mut bindings::iommufd_viommu,
        *mut bindings::iommu_domain,
        *const bindings::iommu_user_data,
    ) -> c_int,
}

impl ViommuDriver {
    /// # Errors
    ///
    /// `EOPNOTSUPP`: there is no IOMMU, or its driver makes none of this type.
    pub(crate) fn of(device: &Device, type_: u32) -> Result<Self> {
        let iommu_dev = device.dev().iommu_dev();
        if device.is_noiommu() || kernel::warn_on!(iommu_dev.is_null()) {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: The device is bound, so that its IOMMU stays; tables are static.
        let ops = unsafe { &*(*iommu_dev).ops };
        let get_size = ops.get_viommu_size.ok_or(EOPNOTSUPP)?;
        let init = ops.viommu_init.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the driver of the device.
        let size = unsafe { get_size(device.dev().as_raw(), type_) };
        Ok(Self {
            iommu_dev,
            size: checked(size, size_of::<bindings::iommufd_viommu>())?,
            init,
        })
    }

    /// Makes a vIOMMU on a nest parent.
    ///
    /// # Errors
    ///
    /// What the driver says; `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn build<'a>(
        &self,
        ctx: &'a Ctx,
        parent: &PagingHwpt,
        type_: u32,
        data: &UserData,
    ) -> Result<Built<'a>> {
        let object = ctx.reserve(self.size, VIOMMU)?;
        let raw = object.as_raw().cast::<bindings::iommufd_viommu>();
        // SAFETY: Zeroed memory of at least that size, ours alone; each field is initialised in
        // its place. The hold on the parent goes with `destroy_viommu`.
        unsafe {
            bindings::iommu_xa_init_flags(&raw mut (*raw).vdevs, 0);
            (*raw).type_ = type_;
            (*raw).ictx = ctx.as_raw();
            (*raw).hwpt = Hold::new(parent).into_raw().as_ptr().cast();
            bindings::INIT_LIST_HEAD(&raw mut (*raw).veventqs);
            bindings::__init_rwsem(
                &raw mut (*raw).veventqs_rwsem,
                c_str!("viommu->veventqs_rwsem").as_char_ptr(),
                static_lock_class!().as_ptr(),
            );
            // A pluggable IOMMU would count its users itself.
            (*raw).iommu_dev = self.iommu_dev;
        }
        // SAFETY: Initialised just now; without the driver's part there are no operations.
        let object = unsafe { object.built() };
        let data = if data.is_empty() {
            ptr::null()
        } else {
            data.as_raw()
        };
        // SAFETY: The driver of the IOMMU gets its own part to initialise.
        to_result(unsafe { (self.init)(raw, parent.domain().as_raw(), data) })?;
        // SAFETY: The driver has set it, or it has a bug.
        let ops = unsafe { (*raw).ops };
        if kernel::warn_on!(ops.is_null()) {
            return Err(EOPNOTSUPP);
        }
        Ok(object)
    }
}

/// Releases what a vIOMMU holds.
///
/// # Safety
///
/// `obj` must be a vIOMMU that nobody else refers to.
pub(super) unsafe extern "C" fn destroy_viommu(obj: *mut bindings::iommufd_object) {
    let raw = obj.cast::<bindings::iommufd_viommu>();
    // SAFETY: By the caller; vDEVICEs and queues have held it, so there are none.
    unsafe {
        if let Some(destroy) = (*raw).ops.as_ref().and_then(|ops| ops.destroy) {
            destroy(raw);
        }
        drop(Hold::adopt((*raw.cast::<Viommu>()).parent().as_ref()));
        bindings::xa_destroy(&raw mut (*raw).vdevs);
    }
}

impl Viommu {
    fn vdevs(&self) -> *mut bindings::xarray {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.as_raw()).vdevs }
    }

    /// The IOVAs of the virtual machine: those of the nest parent.
    pub(crate) fn ioas(&self) -> &Ioas {
        // SAFETY: The vIOMMU has a hold on its parent.
        unsafe { self.parent().as_ref() }.ioas()
    }

    /// How the driver initialises vDEVICEs of this vIOMMU, and their size.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: a size without an initialisation, or too small a size, is the driver's bug.
    fn vdevice_ops(
        &self,
    ) -> Result<(
        usize,
        Option<unsafe extern "C" fn(*mut bindings::iommufd_vdevice) -> c_int>,
    )> {
        const LEAST: usize = size_of::<bindings::iommufd_vdevice>();
        let Some(ops) = self.ops() else {
            return Ok((LEAST, None));
        };
        if ops.vdevice_size == 0 {
            return Ok((LEAST, ops.vdevice_init));
        }
        if kernel::warn_on!(ops.vdevice_init.is_none()) {
            return Err(EOPNOTSUPP);
        }
        Ok((checked(ops.vdevice_size, LEAST)?, ops.vdevice_init))
    }

    /// Makes a vDEVICE under the lock of the device's group, which must outlive it.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the vIOMMU has one with this virtual id; what the driver says; `ENOMEM`.
    pub(crate) fn build_vdevice<'a>(
        &self,
        ctx: &'a Ctx,
        device: &Device,
        group: &'a Locked<'_>,
        virt_id: usize,
    ) -> Result<Built<'a>> {
        let (size, init) = self.vdevice_ops()?;
        let object = ctx.reserve(size, VDEVICE)?;
        let raw = object.as_raw().cast::<bindings::iommufd_vdevice>();
        self.object().users().inc();
        // SAFETY: Zeroed memory of at least that size, ours alone.
        unsafe {
            (*raw).virt_id = virt_id as u64;
            (*raw).viommu = self.as_raw();
            (*raw).idev = device.as_raw();
        }
        device.set_vdev(group, raw);
        // SAFETY: Initialised just now.
        let object = unsafe { object.built() };
        let slot = Slot::reserve(self, virt_id)?;
        if let Some(init) = init {
            // SAFETY: The driver of the vIOMMU gets its own part to initialise.
            to_result(unsafe { init(raw) })?;
        }
        // Only now may the driver find it.
        slot.fill(raw);
        Ok(object)
    }

    /// Reserves an object for a HW queue of a type.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the driver has none of this type; `ENOMEM`.
    pub(crate) fn reserve_queue<'a>(&'a self, ctx: &'a Ctx, type_: u32) -> Result<NewQueue<'a>> {
        let ops = self.ops().ok_or(EOPNOTSUPP)?;
        let get_size = ops.get_hw_queue_size.ok_or(EOPNOTSUPP)?;
        let init = ops.hw_queue_init_phys.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the vIOMMU's own operation.
        let size = unsafe { get_size(self.as_raw(), type_) };
        let size = checked(size, size_of::<bindings::iommufd_hw_queue>())?;
        Ok(NewQueue {
            object: ctx.reserve(size, HW_QUEUE)?,
            viommu: self,
            init,
        })
    }
}

/// A virtual id that is reserved in a vIOMMU. Dropping it frees it.
struct Slot<'a> {
    viommu: &'a Viommu,
    virt_id: usize,
}

impl<'a> Slot<'a> {
    fn reserve(viommu: &'a Viommu, virt_id: usize) -> Result<Self> {
        // Nothing stands for a reserved entry, which reads as absent.
        //
        // SAFETY: The xarray is initialised; the lock is dropped where the call has to sleep.
        let ret = unsafe {
            bindings::xa_lock(viommu.vdevs());
            let ret = bindings::__xa_insert(
                viommu.vdevs(),
                virt_id,
                ptr::null_mut(),
                bindings::GFP_KERNEL,
            );
            bindings::xa_unlock(viommu.vdevs());
            ret
        };
        match to_result(ret) {
            Ok(()) => Ok(Self { viommu, virt_id }),
            Err(EBUSY) => Err(EEXIST),
            Err(e) => Err(e),
        }
    }

    fn fill(self, vdevice: *mut bindings::iommufd_vdevice) {
        let this = ManuallyDrop::new(self);
        // SAFETY: The slot is reserved, so that nothing is allocated; `abort_vdevice` empties it.
        unsafe {
            bindings::xa_store(
                this.viommu.vdevs(),
                this.virt_id,
                vdevice.cast(),
                bindings::GFP_KERNEL,
            )
        };
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // SAFETY: The slot is ours.
        unsafe { bindings::xa_erase(self.viommu.vdevs(), self.virt_id) };
    }
}

/// Lets a vDEVICE that was published keep the loan on its device.
pub(crate) fn keep_device(device: Loan<'_, Device>) {
    // `destroy_vdevice` ends it.
    device.into_raw();
}

/// Undoes a vDEVICE that was not published. With the lock of its device's group.
///
/// # Safety
///
/// `obj` must be a vDEVICE that nobody else refers to, and the lock of its device's group be held.
pub(super) unsafe extern "C" fn abort_vdevice(obj: *mut bindings::iommufd_object) {
    let raw = obj.cast::<bindings::iommufd_vdevice>();
    // SAFETY: By the caller. The slot is ours if it holds this vDEVICE; otherwise making it failed
    // before it was filled, and it may be another's.
    unsafe {
        if let Some(destroy) = (*raw).destroy {
            destroy(raw);
        }
        let viommu = &*(*raw).viommu.cast::<Viommu>();
        bindings::xa_lock(viommu.vdevs());
        bindings::__xa_cmpxchg(
            viommu.vdevs(),
            (*raw).virt_id as usize,
            raw.cast(),
            ptr::null_mut(),
            bindings::GFP_ATOMIC,
        );
        bindings::xa_unlock(viommu.vdevs());
        viommu.object().users().dec();
        (*(*raw).idev).vdev = ptr::null_mut();
    }
}

/// Undoes a vDEVICE and ends the loan on its device.
///
/// # Safety
///
/// `obj` must be a vDEVICE that nobody else refers to.
pub(super) unsafe extern "C" fn destroy_vdevice(obj: *mut bindings::iommufd_object) {
    // SAFETY: By the caller; the loan keeps the device.
    let device = unsafe {
        &*(*obj.cast::<bindings::iommufd_vdevice>())
            .idev
            .cast::<Device>()
    };
    let group = device.group().lock();
    // SAFETY: By the caller; the lock is held.
    unsafe { abort_vdevice(obj) };
    drop(group);
    // SAFETY: The loan that `keep_device` gave to the vDEVICE.
    drop(unsafe { Loan::<Device>::from_raw(device.ctx(), device.object()) });
}

/// So many pages are known by an array that is no burden: one page long.
const FEW_PAGES: usize = kernel::page::PAGE_SIZE / size_of::<*mut bindings::page>();

/// Memory of the virtual machine that cannot be unmapped, as whole pages.
pub(crate) struct Pinned<'a> {
    ctx: &'a Ctx,
    access: ManuallyDrop<Hold<Access>>,
    iova: usize,
    length: usize,
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
            Ok(pages) => Ok(Self {
                ctx,
                access: ManuallyDrop::new(access),
                iova,
                length,
                pages,
            }),
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
            .then_some((first as u64) << bindings::PAGE_SHIFT)
    }
}

/// Pins pages that are in one piece, if the first and the last may be; returns them.
///
/// # Errors
///
/// `EFAULT`: they are not; `ENOMEM`; those of [`access::pin`].
fn pin_all(access: &Access, iova: usize, length: usize) -> Result<KVVec<*mut bindings::page>> {
    let count = length / kernel::page::PAGE_SIZE;
    // User space chose the number: before there is memory for so many, there must be so many.
    if count > FEW_PAGES {
        let last = iova + (length - kernel::page::PAGE_SIZE);
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
    access::pin(
        access,
        iova,
        kernel::page::PAGE_SIZE,
        &mut PageSlots(&raw mut page),
        0,
    )?;
    // SAFETY: The page is pinned.
    let frame = unsafe { bindings::page_to_pfn(page) };
    access::unpin(access, iova, kernel::page::PAGE_SIZE);
    Ok(frame)
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        access::unpin(&self.access, self.iova, self.length);
        access::detach(&self.access);
        // SAFETY: It is not used any more.
        let access = unsafe { ManuallyDrop::take(&mut self.access) };
        kernel::warn_on!(access.destroy(self.ctx, false).is_err());
    }
}

/// A HW queue without its memory.
pub(crate) struct NewQueue<'a> {
    object: Unpublished<'a>,
    viommu: &'a Viommu,
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
        let memory = ManuallyDrop::new(memory);
        // SAFETY: Zeroed memory of at least that size, ours alone. The pages and the vIOMMU are
        // let go in `destroy_hw_queue`, which finds them by these fields.
        unsafe {
            (*raw).viommu = self.viommu.as_raw();
            self.viommu.object().users().inc();
            (*raw).access = ptr::from_ref::<Access>(&memory.access).cast_mut().cast();
            (*raw).type_ = cmd.type_;
            (*raw).length = cmd.length as usize;
            (*raw).base_addr = cmd.nesting_parent_iova;
        }
        // The array of pages is not needed again.
        //
        // SAFETY: `memory` is not dropped, and this field not used again.
        drop(unsafe { ptr::read(&memory.pages) });
        // SAFETY: Initialised just now.
        let object = unsafe { self.object.built() };
        // SAFETY: The driver of the vIOMMU gets its own part to initialise.
        to_result(unsafe { (self.init)(raw, cmd.index, base) })?;
        Ok(object)
    }
}

/// Releases what a HW queue holds.
///
/// # Safety
///
/// `obj` must be a HW queue that nobody else refers to.
pub(super) unsafe extern "C" fn destroy_hw_queue(obj: *mut bindings::iommufd_object) {
    let raw = obj.cast::<bindings::iommufd_hw_queue>();
    // SAFETY: By the caller; the fields are those that `NewQueue::build` has set.
    unsafe {
        if let Some(destroy) = (*raw).destroy {
            destroy(raw);
        }
        let viommu = &*(*raw).viommu.cast::<Viommu>();
        let (iova, length) =
            crate::hw_queue::whole_pages((*raw).base_addr, (*raw).length as u64).unwrap_or((0, 0));
        drop(Pinned {
            ctx: Ctx::from_raw((*viommu.as_raw()).ictx),
            access: ManuallyDrop::new(Hold::adopt(&*(*raw).access.cast::<Access>())),
            iova,
            length,
            pages: KVVec::new(),
        });
        viommu.object().users().dec();
    }
}
