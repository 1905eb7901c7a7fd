// SPDX-License-Identifier: GPL-2.0-only

//! The objects that drivers see: vIOMMUs, vDEVICEs and HW queues as `include/linux/iommufd.h` lays
//! them out, and the driver's operations on them.
//!
//! Each begins with the core's part, which is here, and may end with the driver's. The driver says
//! how large the whole is, and initialises and cleans up its own part; the core allocates and
//! frees. What is done with them is in `viommu.rs`, `vdevice.rs` and `hw_queue.rs`.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    context::Ctx,
    device::Device,
    domain::{
        Domain,
        UserArray,
        UserBuffer,
        UserData, //
    },
    group::Locked,
    handlers::uapi::HwQueueAlloc, //
};
use crate::{
    access::Access,
    hw_queue,
    hwpt::PagingHwpt,
    object::{
        assert_offsets,
        begins_with_head,
        Hold,
        KeptLoan,
        Loan,
        Object,
        Reserved, //
    }, //
};
use core::{
    cell::UnsafeCell,
    mem::size_of,
    pin::Pin,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::to_result,
    interop::list::CListHead,
    new_rwsem,
    prelude::*,
    static_assert,
    sync::rwsem::RwSem,
    types::Opaque, //
};

/// The driver must have room for the core's part of an object, a `T`; another size is a bug of the
/// driver's.
///
/// # Errors
///
/// `EOPNOTSUPP`: the driver has none (0), or that bug.
fn checked<T>(size: usize) -> Result<usize> {
    if size == 0 || kernel::warn_on_once!(size < size_of::<T>()) {
        return Err(EOPNOTSUPP);
    }
    Ok(size)
}

/// How the driver cleans its part of a `C` up; it says so when it initialises that.
#[repr(transparent)]
struct CleanUp<C>(UnsafeCell<Option<unsafe extern "C" fn(*mut C)>>);

impl<C> CleanUp<C> {
    fn none() -> Self {
        Self(UnsafeCell::new(None))
    }

    /// Has it cleaned up, if there is anything, once.
    ///
    /// # Safety
    ///
    /// `of` is what this is in, and nobody else uses it.
    unsafe fn run(&self, of: *mut C) {
        // SAFETY: By the contract of this function nobody writes the field now, and the driver's
        // own operation gets its own part.
        unsafe {
            if let Some(op) = (*self.0.get()).take() {
                op(of);
            }
        }
    }
}

/// A share of the hardware, given to a virtual machine: `struct iommufd_viommu`.
///
/// It holds its nest parent, and is held by what is made on it.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Viommu {
    #[pin]
    object: Object,
    ctx: NonNull<Ctx>,
    iommu_dev: NonNull<bindings::iommu_device>,
    parent: Hold<PagingHwpt>,
    /// Set by the driver.
    ops: UnsafeCell<*const bindings::iommufd_viommu_ops>,
    /// vDEVICEs by their virtual ids. The xarray's spinlock is a leaf.
    #[pin]
    vdevs: Opaque<bindings::xarray>,
    #[pin]
    veventqs: CListHead,
    #[pin]
    veventqs_rwsem: RwSem,
    type_: u32,
}

begins_with_head!(Viommu, object);
assert_offsets!(
    Viommu as bindings::iommufd_viommu:
    ctx = ictx,
    iommu_dev,
    parent = hwpt,
    ops,
    vdevs,
    veventqs,
    veventqs_rwsem,
    type_,
);
static_assert!(size_of::<Viommu>() == size_of::<bindings::iommufd_viommu>());

// SAFETY: What changes of it has locks, and IOMMUs are not bound to a thread.
unsafe impl Send for Viommu {}
// SAFETY: What changes of it has locks, and IOMMUs are not bound to a thread.
unsafe impl Sync for Viommu {}

impl Viommu {
    fn as_raw(&self) -> *mut bindings::iommufd_viommu {
        self.object.as_raw().cast()
    }

    /// The IOMMU that it is a share of.
    pub(super) fn iommu_dev(&self) -> *mut bindings::iommu_device {
        self.iommu_dev.as_ptr()
    }

    fn ops(&self) -> Option<&bindings::iommufd_viommu_ops> {
        // SAFETY: The driver sets it before the object is published; tables are static.
        unsafe { (*self.ops.get()).as_ref() }
    }

    /// Its context.
    pub(crate) fn ctx(&self) -> &Ctx {
        // SAFETY: A context outlives its objects.
        unsafe { self.ctx.as_ref() }
    }

    /// The nest parent that it is on.
    pub(crate) fn parent(&self) -> &PagingHwpt {
        &self.parent
    }

    /// The list of its event queues, which the semaphore guards.
    pub(super) fn veventqs(&self) -> (&CListHead, &RwSem) {
        (&self.veventqs, &self.veventqs_rwsem)
    }

    /// Makes a domain whose page table user space manages.
    ///
    /// # Errors
    ///
    /// What the driver says; `EOPNOTSUPP` when it makes none.
    pub(crate) fn alloc_nested(&self, flags: u32, data: &UserData<'_>) -> Result<Domain> {
        let op = self
            .ops()
            .and_then(|ops| ops.alloc_domain_nested)
            .ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the vIOMMU's own operation, and only reads the data. What it returns is
        // what it allocated, and the driver is that of the IOMMU.
        unsafe {
            let raw = op(self.as_raw(), flags, data.as_raw());
            Domain::adopt(raw, self.iommu_dev.as_ref().ops)
        }
    }

    /// As [`Domain::cache_invalidate`], for everything that the vIOMMU has.
    #[inline]
    pub(crate) fn cache_invalidate(&self, requests: &mut UserArray) -> Option<Result> {
        let op = self.ops()?.cache_invalidate?;
        // SAFETY: It is the vIOMMU's own operation, and the array is ours.
        Some(to_result(unsafe { op(self.as_raw(), requests.as_raw()) }))
    }
}

#[pinned_drop]
impl PinnedDrop for Viommu {
    fn drop(self: Pin<&mut Self>) {
        if let Some(destroy) = self.ops().and_then(|ops| ops.destroy) {
            // SAFETY: The driver's own operation; vDEVICEs and queues have held it, so there are
            // none.
            unsafe { destroy(self.as_raw()) };
        }
        // SAFETY: Nobody has a vDEVICE of it, so nobody looks for one.
        unsafe { bindings::xa_destroy(self.vdevs.get()) };
    }
}

/// How the driver of a device makes vIOMMUs of a type.
pub(crate) struct ViommuDriver {
    iommu_dev: NonNull<bindings::iommu_device>,
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
        let iommu_dev = NonNull::new(device.dev().iommu_dev());
        if device.is_noiommu() || kernel::warn_on_once!(iommu_dev.is_none()) {
            return Err(EOPNOTSUPP);
        }
        let iommu_dev = iommu_dev.ok_or(EOPNOTSUPP)?;
        // SAFETY: The device is bound, so that its IOMMU stays, which has operations. Their tables
        // are static.
        let ops = unsafe { &*iommu_dev.as_ref().ops };
        let get_size = ops.get_viommu_size.ok_or(EOPNOTSUPP)?;
        let init = ops.viommu_init.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the driver of the device.
        let size = unsafe { get_size(device.dev().as_raw(), type_) };
        Ok(Self {
            iommu_dev,
            size: checked::<Viommu>(size)?,
            init,
        })
    }

    /// Makes a vIOMMU on a nest parent. The driver reads and writes user memory meanwhile where
    /// there are data, so the device may not be lent any more then. Without data it still is, for
    /// an IOMMU that can be unplugged.
    ///
    /// # Errors
    ///
    /// What the driver says; `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn build<'a>(
        &self,
        ctx: &'a Ctx,
        parent: &PagingHwpt,
        type_: u32,
        data: &UserBuffer,
    ) -> Result<Reserved<'a, Viommu>> {
        let hold = Hold::new(parent)?;
        let init = pin_init!(Viommu {
            object <- Object::new(),
            ctx: NonNull::from(ctx),
            // A pluggable IOMMU would count its users itself.
            iommu_dev: self.iommu_dev,
            parent: hold,
            ops: UnsafeCell::new(ptr::null()),
            // SAFETY: Memory for one, which does not move.
            vdevs <- Opaque::ffi_init(|xa| unsafe { bindings::iommu_xa_init_flags(xa, 0) }),
            veventqs <- CListHead::new(),
            veventqs_rwsem <- new_rwsem!((), "viommu->veventqs_rwsem"),
            type_,
        });
        let viommu = Reserved::with_driver_part(ctx, self.size, init)?;
        let (domain, data) = (parent.domain().as_raw(), data.as_raw());
        // SAFETY: The IOMMU's driver gets its own part to initialise, for which there is room.
        to_result(unsafe { (self.init)(viommu.as_raw(), domain, data) })?;
        if kernel::warn_on_once!(viommu.ops().is_none()) {
            return Err(EOPNOTSUPP);
        }
        Ok(viommu)
    }
}

/// A device as a virtual machine sees it: `struct iommufd_vdevice`.
///
/// It holds its vIOMMU, and has a loan on its device, which the device's tear-down revokes.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Vdevice {
    #[pin]
    object: Object,
    viommu: Hold<Viommu>,
    /// None until the vDEVICE is published.
    device: Option<KeptLoan<Device>>,
    virt_id: u64,
    destroy: CleanUp<bindings::iommufd_vdevice>,
}

begins_with_head!(Vdevice, object);
assert_offsets!(
    Vdevice as bindings::iommufd_vdevice:
    viommu,
    device = idev,
    virt_id,
    destroy,
);
static_assert!(size_of::<Vdevice>() == size_of::<bindings::iommufd_vdevice>());

// SAFETY: The vDEVICE does not change once it is published.
unsafe impl Send for Vdevice {}
// SAFETY: The vDEVICE does not change once it is published.
unsafe impl Sync for Vdevice {}

type InitVdevice = unsafe extern "C" fn(*mut bindings::iommufd_vdevice) -> c_int;

impl Viommu {
    /// How the driver initialises vDEVICEs of this vIOMMU, and their size.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: a size without an initialisation, or too small a size, is the driver's bug.
    fn vdevice_ops(&self) -> Result<(usize, Option<InitVdevice>)> {
        let Some(ops) = self.ops() else {
            return Ok((size_of::<Vdevice>(), None));
        };
        if ops.vdevice_size == 0 {
            return Ok((size_of::<Vdevice>(), ops.vdevice_init));
        }
        if kernel::warn_on_once!(ops.vdevice_init.is_none()) {
            return Err(EOPNOTSUPP);
        }
        Ok((checked::<Vdevice>(ops.vdevice_size)?, ops.vdevice_init))
    }
}

impl Vdevice {
    /// Reserves an id and memory for a vDEVICE of a vIOMMU, which has no device yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use; `EOPNOTSUPP` for a bug of the driver's.
    pub(crate) fn reserve<'a>(
        ctx: &'a Ctx,
        viommu: &Viommu,
        virt_id: usize,
    ) -> Result<Reserved<'a, Self>> {
        let (size, _) = viommu.vdevice_ops()?;
        let viommu = Hold::new(viommu)?;
        let init = pin_init!(Self {
            object <- Object::new(),
            viommu,
            device: None,
            virt_id: virt_id as u64,
            destroy: CleanUp::none(),
        });
        Reserved::with_driver_part(ctx, size, init)
    }

    fn as_raw(&self) -> *mut bindings::iommufd_vdevice {
        self.object.as_raw().cast()
    }

    /// What it is a device of.
    pub(crate) fn viommu(&self) -> &Viommu {
        &self.viommu
    }

    /// Gives it its device and has the driver initialise its part, under the lock of the device's
    /// group. It must be published before that is given back.
    ///
    /// # Errors
    ///
    /// `EEXIST`: the vIOMMU has one with this virtual id; what the driver says; `ENOMEM`.
    pub(crate) fn connect(
        mut self: Pin<&mut Self>,
        device: Loan<'_, Device>,
        group: &mut Locked<'_>,
    ) -> Result {
        self.viommu.reserve_virt_id(self.virt_id)?;
        // SAFETY: Both are objects of one context. Who destroys the device destroys the vDEVICE
        // first, by `Device::retire_vdev`.
        *self.as_mut().project().device = Some(unsafe { device.keep() });
        if let Err(e) = self.init() {
            self.viommu.set_vdev(self.virt_id, None);
            *self.project().device = None;
            return Err(e);
        }
        // Only now may the driver find it.
        self.viommu.set_vdev(self.virt_id, Some(&self));
        if let Some(device) = &self.device {
            device.set_vdev(group, Some(&self));
        }
        Ok(())
    }

    fn init(&self) -> Result {
        let (_, Some(init)) = self.viommu.vdevice_ops()? else {
            return Ok(());
        };
        // SAFETY: The vIOMMU's driver gets its own part to initialise, for which there is room.
        to_result(unsafe { init(self.as_raw()) }).inspect_err(|_| {
            // SAFETY: Nobody else knows of the vDEVICE, which this is a field of.
            unsafe { self.destroy.run(self.as_raw()) };
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Vdevice {
    fn drop(self: Pin<&mut Self>) {
        let Some(device) = &self.device else { return };
        let mut group = device.group().lock();
        // SAFETY: Nobody else refers to the vDEVICE, which this is a field of.
        unsafe { self.destroy.run(self.as_raw()) };
        self.viommu.set_vdev(self.virt_id, None);
        device.set_vdev(&mut group, None);
    }
}

impl Viommu {
    /// Reserves a virtual id, which reads as absent.
    ///
    /// # Errors
    ///
    /// `EEXIST`: it is taken; `ENOMEM`.
    fn reserve_virt_id(&self, virt_id: u64) -> Result {
        let xa = self.vdevs.get();
        // SAFETY: It is initialised. Null stands for a reserved entry.
        let ret = unsafe {
            bindings::xa_lock(xa);
            let null = ptr::null_mut();
            let ret = bindings::__xa_insert(xa, virt_id as usize, null, bindings::GFP_KERNEL);
            bindings::xa_unlock(xa);
            ret
        };
        to_result(ret).map_err(|e| if e == EBUSY { EEXIST } else { e })
    }

    /// Says which vDEVICE a virtual id leads to that was reserved; `None` frees the id.
    fn set_vdev(&self, virt_id: u64, vdev: Option<&Vdevice>) {
        let (xa, index) = (self.vdevs.get(), virt_id as usize);
        // SAFETY: It is initialised, and has an entry there, so that nothing is allocated. vDEVICEs
        // take themselves out before they are freed.
        unsafe {
            match vdev {
                Some(vdev) => {
                    let vdev = vdev.as_raw().cast();
                    bindings::xa_store(xa, index, vdev, bindings::GFP_KERNEL)
                }
                None => bindings::xa_erase(xa, index),
            }
        };
    }
}

/// A virtual machine's queue that the hardware serves by itself: `struct iommufd_hw_queue`.
///
/// It holds its vIOMMU, and owns the memory that the hardware reads it from: an access of the
/// kernel's own, which has pinned all of it.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct HwQueue {
    #[pin]
    object: Object,
    viommu: Hold<Viommu>,
    access: Option<Hold<Access>>,
    base_addr: u64,
    length: usize,
    type_: u32,
    destroy: CleanUp<bindings::iommufd_hw_queue>,
}

begins_with_head!(HwQueue, object);
assert_offsets!(
    HwQueue as bindings::iommufd_hw_queue:
    viommu,
    access,
    base_addr,
    length,
    type_,
    destroy,
);
static_assert!(size_of::<HwQueue>() == size_of::<bindings::iommufd_hw_queue>());

// SAFETY: The queue does not change once it is published.
unsafe impl Send for HwQueue {}
// SAFETY: The queue does not change once it is published.
unsafe impl Sync for HwQueue {}

impl HwQueue {
    fn as_raw(&self) -> *mut bindings::iommufd_hw_queue {
        self.object.as_raw().cast()
    }

    /// What it is a queue of.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn viommu(&self) -> &Viommu {
        &self.viommu
    }
}

#[pinned_drop]
impl PinnedDrop for HwQueue {
    fn drop(mut self: Pin<&mut Self>) {
        // SAFETY: Nobody else refers to the queue, which this is a field of.
        unsafe { self.destroy.run(self.as_raw()) };
        let (base, length) = (self.base_addr, self.length);
        if let Some(access) = self.as_mut().project().access.take() {
            hw_queue::unpin(self.viommu.ctx(), access, base, length as u64);
        }
    }
}

/// A HW queue without its memory.
pub(crate) struct NewQueue<'a> {
    queue: Reserved<'a, HwQueue>,
    init:
        unsafe extern "C" fn(*mut bindings::iommufd_hw_queue, u32, bindings::phys_addr_t) -> c_int,
}

impl<'a> NewQueue<'a> {
    /// Reserves an id and memory for a HW queue of a vIOMMU.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the driver has none of this type; `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn reserve(ctx: &'a Ctx, viommu: &Viommu, cmd: &HwQueueAlloc) -> Result<Self> {
        let ops = viommu.ops().ok_or(EOPNOTSUPP)?;
        let get_size = ops.get_hw_queue_size.ok_or(EOPNOTSUPP)?;
        let init = ops.hw_queue_init_phys.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the vIOMMU's own operation.
        let size = unsafe { get_size(viommu.as_raw(), cmd.type_) };
        let size = checked::<HwQueue>(size)?;
        let viommu = Hold::new(viommu)?;
        let queue = pin_init!(HwQueue {
            object <- Object::new(),
            viommu,
            access: None,
            base_addr: cmd.nesting_parent_iova,
            length: cmd.length as usize,
            type_: cmd.type_,
            destroy: CleanUp::none(),
        });
        let queue = Reserved::with_driver_part(ctx, size, queue)?;
        Ok(Self { queue, init })
    }

    /// Gives the queue its memory, which is at the physical address `base`, and the hardware the
    /// queue.
    ///
    /// # Errors
    ///
    /// What the driver says.
    pub(crate) fn build(
        mut self,
        access: Hold<Access>,
        index: u32,
        base: u64,
    ) -> Result<Reserved<'a, HwQueue>> {
        *self.queue.as_mut().project().access = Some(access);
        // SAFETY: The vIOMMU's driver gets its own part to initialise, for which there is room.
        to_result(unsafe { (self.init)(self.queue.as_raw(), index, base) })?;
        Ok(self.queue)
    }
}
