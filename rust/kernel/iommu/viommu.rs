// SPDX-License-Identifier: GPL-2.0

//! vIOMMUs: a share of an IOMMU that a virtual machine drives itself.
//!
//! iommufd owns the objects, one allocation for each: its own structure first, then the driver's
//! data. [`Viommu`] and [`HwQueue`] are that allocation, seen from a driver. iommufd keeps them
//! alive through their `users` count, and a driver that refers to one takes its own: a [`Hold`].
//! As long as there is one, user space gets `EBUSY` for trying to destroy the object.
//!
//! The lock of the vdevice table is taken in [`Viommu::with_vdev`], as a spinlock inside of
//! everything else.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::{
    device::Served,
    domain::{
        AnyDomain,
        Owned, //
    },
    ops::{
        give,
        AllocFlags,
        DomainOps, //
    },
    pages::ContiguousPages,
    user_data::{
        report,
        Handled,
        UserData,
        UserDataArray, //
    },
};
use crate::{
    bindings,
    device::Device,
    error::{
        from_result,
        to_result,
        VTABLE_DEFAULT_ERROR, //
    },
    prelude::*,
    types::Opaque, //
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    mem::MaybeUninit,
    ops::Deref,
    ptr::NonNull, //
};

/// A type of vIOMMU. The value is the driver's data of one.
#[vtable]
pub trait ViommuOps: Sized + Send + Sync + 'static {
    /// The nested domains on it.
    type Nested: DomainOps;

    /// The driver's data of one of its hardware queues, `()` when there are none. Dropped when
    /// the queue is destroyed.
    type HwQueue: Send + Sync + 'static;

    /// The table of this type: always the same `static`.
    fn table() -> &'static ViommuTable<Self>;

    /// Makes one on top of `parent`, in place.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with `data`; the vIOMMU is gone then.
    fn new(
        viommu: &NewViommu<'_, Self>,
        parent: &AnyDomain,
        data: Option<&UserData>,
    ) -> impl PinInit<Self, Error>;

    /// Makes a nested domain on it.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it cannot do what is asked for.
    fn alloc_domain_nested(
        _viommu: &Viommu<Self>,
        _flags: AllocFlags,
        _data: &UserData,
    ) -> Result<Owned<Self::Nested>> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The virtual machine is to call a device `id`. No other device of the vIOMMU has that name,
    /// and this one has no other. May sleep.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the name or with the device; it does not get it then.
    fn add_vdevice(_viommu: &Viommu<Self>, _dev: &Served, _id: u64) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Takes the name away that [`ViommuOps::add_vdevice`] gave, before the device is unbound. May
    /// sleep.
    fn remove_vdevice(_viommu: &Viommu<Self>, _dev: &Served, _id: u64) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Forgets what the hardware has cached for the virtual machine. May sleep.
    ///
    /// # Errors
    ///
    /// As for [`DomainOps::cache_invalidate_user`].
    fn cache_invalidate(_viommu: &Viommu<Self>, _requests: &UserDataArray) -> Handled {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Whether it has hardware queues of this type, `enum iommu_hw_queue_type` of the user API. It
    /// comes with [`ViommuOps::new_hw_queue`]; without, there are none.
    fn has_hw_queue(_viommu: &Viommu<Self>, _kind: u32) -> bool {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Makes a hardware queue of a type that [`ViommuOps::has_hw_queue`] knows. `base` is where it
    /// lies in physical memory, in one piece and pinned until the queue is gone; `index` is the
    /// number that user space gives it. May sleep; two calls for one vIOMMU may meet.
    ///
    /// # Errors
    ///
    /// `EINVAL`: there is no queue of that number. `EEXIST`: it is in use. `EIO`: it cannot be used
    /// before another one. `EFAULT`: `base` is not where the hardware would look for it.
    fn new_hw_queue(
        _queue: &NewHwQueue<'_, Self>,
        _index: u32,
        _base: bindings::phys_addr_t,
    ) -> Result<Self::HwQueue> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// Pages that user space may map, as long as the vIOMMU lives.
struct Region {
    pages: ContiguousPages,
    offset: c_ulong,
}

/// A vIOMMU.
///
/// # Invariants
///
/// iommufd has set up `core`. `region` is only written to while it is made and when it is gone.
/// `data` is complete, except in [`NewViommu`].
#[repr(C)]
pub struct Viommu<T> {
    core: Opaque<bindings::iommufd_viommu>,
    region: UnsafeCell<Option<Region>>,
    data: MaybeUninit<T>,
}

// SAFETY: `core` does its own locking, `region` is not touched while it is shared.
unsafe impl<T: ViommuOps> Send for Viommu<T> {}
// SAFETY: A shared reference leads to `core` with its own locks, and to `T`, which is `Sync`.
unsafe impl<T: ViommuOps> Sync for Viommu<T> {}

impl<T: ViommuOps> Viommu<T> {
    /// # Safety
    ///
    /// `ptr` is the core of a complete `Viommu<T>` that lives for `'a`.
    unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_viommu) -> &'a Self {
        // SAFETY: The core is at offset 0.
        unsafe { &*ptr.cast() }
    }

    fn users(&self) -> *mut bindings::refcount_t {
        // SAFETY: By the type invariant `core` is valid.
        unsafe { &raw mut (*self.core.get()).obj.users }
    }

    /// Keeps it from being destroyed.
    pub fn hold(&self) -> Hold<T> {
        // SAFETY: It is alive, so the count is not zero.
        unsafe { bindings::refcount_inc(self.users()) };
        // INVARIANT: counted right above.
        Hold(NonNull::from(self))
    }

    /// The domain that it is on top of.
    #[cfg(CONFIG_IOMMUFD)]
    pub fn parent(&self) -> &AnyDomain {
        // SAFETY: By the type invariant `core` is valid; iommufd holds the parent.
        let domain = unsafe { (*(*self.core.get()).hwpt).common.domain };
        // SAFETY: iommufd keeps the domain of a parent as long as the parent.
        unsafe { AnyDomain::from_raw(domain) }
    }

    /// What the virtual machine calls this device.
    ///
    /// # Errors
    ///
    /// `ENOENT`: it has no name for it.
    pub fn vdev_id(&self, dev: &Device) -> Result<u64> {
        let mut id = 0;
        // SAFETY: Both are valid.
        to_result(unsafe {
            bindings::iommufd_viommu_get_vdev_id(self.core.get(), dev.as_raw(), &mut id)
        })?;
        Ok(id as u64)
    }

    /// Does something with the device that the virtual machine calls `id`, if there is one.
    ///
    /// `f` runs under a spinlock.
    pub fn with_vdev<R>(&self, id: u64, f: impl FnOnce(&Served) -> R) -> Option<R> {
        let core = self.core.get();
        // SAFETY: By the type invariant `core` is valid, and so is its table.
        unsafe { bindings::xa_lock(&raw mut (*core).vdevs) };
        // SAFETY: The lock of the table is held.
        let dev = unsafe { bindings::iommufd_viommu_find_dev(core, id as c_ulong) };
        // SAFETY: A device leaves the table before it is unbound, which takes the lock.
        let result = (!dev.is_null()).then(|| f(unsafe { Served::from_raw(dev) }));
        // SAFETY: It was taken above.
        unsafe { bindings::xa_unlock(&raw mut (*core).vdevs) };
        result
    }

    /// Tells user space that something happened: `kind` is `enum iommu_veventq_type` of the user
    /// API, and says what `event` is. That the queue is full is no error, user space learns how
    /// many were lost.
    ///
    /// May sleep, so not from an interrupt handler but from its thread. Memory is not waited for.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: nobody listens to events of this type, or there is no iommufd. `ENOMEM`: it
    /// was lost.
    pub fn report_event<E: IntoBytes + zerocopy::Immutable>(&self, kind: u32, event: &E) -> Result {
        const { assert!(size_of::<E>() != 0) };
        let bytes = event.as_bytes();
        // SAFETY: The event is only read, and no further than its length.
        to_result(unsafe {
            bindings::iommufd_viommu_report_event(
                self.core.get(),
                kind,
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
            )
        })
    }
}

impl<T: ViommuOps> Deref for Viommu<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant it is complete.
        unsafe { self.data.assume_init_ref() }
    }
}

/// Keeps a vIOMMU from being destroyed.
///
/// # Invariants
///
/// It stands for one of the object's `users`.
pub struct Hold<T: ViommuOps>(NonNull<Viommu<T>>);

// SAFETY: It is a counted reference to something that is both.
unsafe impl<T: ViommuOps> Send for Hold<T> {}
// SAFETY: What a hold gives out is a reference to the vIOMMU, which is `Sync`.
unsafe impl<T: ViommuOps> Sync for Hold<T> {}

impl<T: ViommuOps> Clone for Hold<T> {
    fn clone(&self) -> Self {
        self.hold()
    }
}

impl<T: ViommuOps> Deref for Hold<T> {
    type Target = Viommu<T>;

    fn deref(&self) -> &Viommu<T> {
        // SAFETY: By the type invariant it is alive.
        unsafe { self.0.as_ref() }
    }
}

impl<T: ViommuOps> Drop for Hold<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this is one of the counts, and never the last one.
        unsafe { bindings::refcount_dec(self.users()) };
    }
}

/// A vIOMMU that is being made: iommufd's part is there, the driver's is not.
///
/// # Invariants
///
/// `this` is valid for `'a`, and complete but for `data`, which is being written meanwhile. This is
/// the only value that refers to it, and stays with the thread that makes it.
pub struct NewViommu<'a, T> {
    this: *mut Viommu<T>,
    _life: PhantomData<&'a mut Viommu<T>>,
}

impl<T: ViommuOps> NewViommu<'_, T> {
    /// The IOMMU that it is a share of. It need not stay: a driver whose IOMMUs can be unplugged
    /// sees to that itself.
    pub fn iommu_device(&self) -> *mut bindings::iommu_device {
        // SAFETY: The vIOMMU is being made, and its beginning is there.
        unsafe { (*(*self.this).core.get()).iommu_dev }
    }

    /// Lets user space map `pages`, and gives the offset at which. It can when the vIOMMU is
    /// complete and iommufd has said so to user space.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there are some already. `ENOMEM`: no memory. `EOPNOTSUPP`: there is no iommufd.
    pub fn map_pages(&self, pages: ContiguousPages) -> Result<u64> {
        // SAFETY: By the type invariant nobody else refers to it, and the borrow ends here.
        let region = unsafe { &mut *(*self.this).region.get() };
        if region.is_some() {
            return Err(EBUSY);
        }
        // SAFETY: The vIOMMU is being made, and its beginning is there.
        let core = unsafe { (*self.this).core.get() };
        let mut offset = 0;
        // SAFETY: `core` is valid; the pages stay until the region is gone.
        to_result(unsafe {
            bindings::_iommufd_alloc_mmap(
                (*core).ictx,
                &raw mut (*core).obj,
                pages.phys(),
                pages.len(),
                &mut offset,
            )
        })?;
        *region = Some(Region { pages, offset });
        Ok(offset as u64)
    }
}

/// Takes the pages of a vIOMMU back that user space could map.
///
/// # Safety
///
/// `this` is valid but for `data`, and nobody else uses it. Nothing of it is mapped.
unsafe fn unmap_pages<T>(this: *mut Viommu<T>) {
    // SAFETY: The vIOMMU is there, and nobody uses it any more.
    let core = unsafe { (*this).core.get() };
    // SAFETY: For the same reason nobody else looks at the region.
    if let Some(region) = unsafe { &mut *(*this).region.get() }.take() {
        // SAFETY: It is what `_iommufd_alloc_mmap()` gave.
        unsafe {
            bindings::_iommufd_destroy_mmap((*core).ictx, &raw mut (*core).obj, region.offset)
        };
        drop(region.pages);
    }
}

/// A hardware queue of a vIOMMU: iommufd's part, then the driver's.
#[repr(C)]
struct HwQueue<Q> {
    core: Opaque<bindings::iommufd_hw_queue>,
    data: MaybeUninit<Q>,
}

/// A hardware queue that is being made.
///
/// # Invariants
///
/// `core` is valid, and its vIOMMU is a complete `Viommu<T>`.
pub struct NewHwQueue<'a, T> {
    core: *mut bindings::iommufd_hw_queue,
    _viommu: PhantomData<&'a Viommu<T>>,
}

impl<T: ViommuOps> NewHwQueue<'_, T> {
    /// The vIOMMU it is of.
    pub fn viommu(&self) -> &Viommu<T> {
        // SAFETY: The queue is of a vIOMMU of this driver, which it keeps.
        unsafe { Viommu::from_raw((*self.core).viommu) }
    }

    /// Where the virtual machine says it lies.
    pub fn base_addr(&self) -> u64 {
        // SAFETY: iommufd has set it before it asked the driver.
        unsafe { (*self.core).base_addr }
    }

    /// Where the page table of the virtual machine has it: the hardware would look there.
    #[cfg(CONFIG_IOMMUFD_RUST)]
    pub fn phys(&self) -> bindings::phys_addr_t {
        // SAFETY: iommufd has pinned the queue's pages until the queue is gone, and does not
        // unmap what is pinned.
        unsafe { self.viommu().parent().iova_to_phys(self.base_addr()) }
    }

    /// iommufd's part.
    pub fn as_raw(&self) -> *mut bindings::iommufd_hw_queue {
        self.core
    }
}

/// The size of the allocation that iommufd makes for one: what `get_viommu_size()` returns. A
/// driver whose `struct iommu_ops` is in C says it and calls [`init`] itself.
pub const fn size<T: ViommuOps>() -> usize {
    size_of::<Viommu<T>>()
}

/// Makes the driver's part of a vIOMMU: `viommu_init()` of `struct iommu_ops`.
///
/// # Safety
///
/// `core` is the head of [`size`] zeroed bytes, set up by iommufd, `parent` is held by it, and
/// `data` is null or on the stack of the caller.
pub unsafe extern "C" fn init<T: ViommuOps>(
    core: *mut bindings::iommufd_viommu,
    parent: *mut bindings::iommu_domain,
    data: *const bindings::iommu_user_data,
) -> c_int {
    let this: *mut Viommu<T> = core.cast();
    // SAFETY: It is ours to write to.
    unsafe { (*this).region.get().write(None) };
    // INVARIANT: All but `data` is complete, and nobody else knows it before this is done.
    let new = NewViommu::<T> {
        this,
        _life: PhantomData,
    };
    // SAFETY: The caller holds it.
    let parent = unsafe { AnyDomain::from_raw(parent) };
    // SAFETY: Null, or on the stack of the caller.
    let data = (!data.is_null()).then(|| unsafe { UserData::from_raw(data) });
    // SAFETY: It is ours to write to.
    let place = unsafe { &raw mut (*this).data }.cast::<T>();
    // INVARIANT: this completes it.
    // SAFETY: It stays there until `destroy()` drops it, and nothing of it is used on failure.
    match unsafe { pin_init::raw_try_init(place, T::new(&new, parent, data)) } {
        Ok(()) => {
            // SAFETY: Nobody else knows the vIOMMU yet.
            unsafe { (*core).ops = T::table().as_raw() };
            0
        }
        Err(why) => {
            // SAFETY: Nobody else knows it, and what is not published cannot be mapped.
            unsafe { unmap_pages(this) };
            why.to_errno()
        }
    }
}

/// The C table of a type of vIOMMU.
#[repr(transparent)]
pub struct ViommuTable<T>(bindings::iommufd_viommu_ops, PhantomData<T>);

// SAFETY: It is never written to.
unsafe impl<T> Sync for ViommuTable<T> {}

impl<T: ViommuOps> ViommuTable<T> {
    /// Makes the table. It belongs into a `static` that [`ViommuOps::table`] returns.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        // SAFETY: All of its members may be zero.
        let mut ops: bindings::iommufd_viommu_ops = unsafe { MaybeUninit::zeroed().assume_init() };
        ops.destroy = Some(Self::destroy);
        if T::HAS_ALLOC_DOMAIN_NESTED {
            ops.alloc_domain_nested = Some(Self::alloc_domain_nested);
        }
        if T::HAS_CACHE_INVALIDATE {
            ops.cache_invalidate = Some(Self::cache_invalidate);
        }
        if T::HAS_ADD_VDEVICE {
            ops.vdevice_init = Some(Self::vdevice_init);
        }
        if T::HAS_HAS_HW_QUEUE {
            ops.get_hw_queue_size = Some(Self::get_hw_queue_size);
            ops.hw_queue_init_phys = Some(Self::hw_queue_init_phys);
        }
        Self(ops, PhantomData)
    }

    const fn as_raw(&'static self) -> *const bindings::iommufd_viommu_ops {
        &self.0
    }

    /// # Safety
    ///
    /// Called by iommufd on a vIOMMU that has this table.
    unsafe extern "C" fn destroy(core: *mut bindings::iommufd_viommu) {
        let this: *mut Viommu<T> = core.cast();
        // SAFETY: Nobody else refers to it, as a mapping of its pages would, and iommufd frees the
        // memory right after.
        unsafe {
            (*this).data.assume_init_drop();
            unmap_pages(this);
        }
    }

    /// # Safety
    ///
    /// As for `destroy()`.
    unsafe extern "C" fn alloc_domain_nested(
        core: *mut bindings::iommufd_viommu,
        flags: u32,
        data: *const bindings::iommu_user_data,
    ) -> *mut bindings::iommu_domain {
        // SAFETY: It has this table.
        let viommu = unsafe { Viommu::<T>::from_raw(core) };
        // SAFETY: On the stack of the caller.
        let data = unsafe { UserData::from_raw(data) };
        give(T::alloc_domain_nested(
            viommu,
            AllocFlags::from_raw(flags),
            data,
        ))
    }

    /// # Safety
    ///
    /// As for `destroy()`.
    unsafe extern "C" fn cache_invalidate(
        core: *mut bindings::iommufd_viommu,
        array: *mut bindings::iommu_user_data_array,
    ) -> c_int {
        // SAFETY: It has this table.
        let viommu = unsafe { Viommu::<T>::from_raw(core) };
        // SAFETY: On the stack of the caller.
        unsafe { report(array, |requests| T::cache_invalidate(viommu, requests)) }
    }

    /// # Safety
    ///
    /// Called by iommufd on a vDEVICE of a vIOMMU that has this table, complete but for what this
    /// does, whose device it does not unbind meanwhile.
    unsafe extern "C" fn vdevice_init(vdev: *mut bindings::iommufd_vdevice) -> c_int {
        // SAFETY: By the contract of this function it is a vDEVICE that was set up.
        let (viommu, dev, id) = unsafe { Self::parts(vdev) };
        from_result(|| {
            T::add_vdevice(viommu, dev, id)?;
            if T::HAS_REMOVE_VDEVICE {
                // SAFETY: Nobody else uses the vDEVICE before it is complete.
                unsafe { (*vdev).destroy = Some(Self::vdevice_destroy) };
            }
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by iommufd, once, on a vDEVICE that [`Self::vdevice_init`] was called on, whose
    /// device it does not unbind meanwhile.
    unsafe extern "C" fn vdevice_destroy(vdev: *mut bindings::iommufd_vdevice) {
        // SAFETY: By the contract of this function it is a vDEVICE that was set up.
        let (viommu, dev, id) = unsafe { Self::parts(vdev) };
        T::remove_vdevice(viommu, dev, id);
    }

    /// What a vDEVICE is of, and its name.
    ///
    /// # Safety
    ///
    /// `vdev` is a vDEVICE of a vIOMMU that has this table, whose device is not unbound for `'a`.
    unsafe fn parts<'a>(vdev: *mut bindings::iommufd_vdevice) -> (&'a Viommu<T>, &'a Served, u64) {
        // SAFETY: Both fields are set, and do not change.
        let (viommu, id) = unsafe { ((*vdev).viommu, (*vdev).virt_id) };
        // SAFETY: It has this table, and the vDEVICE keeps it.
        let viommu = unsafe { Viommu::from_raw(viommu) };
        // SAFETY: The vDEVICE has a device.
        let dev = unsafe { bindings::iommufd_vdevice_to_device(vdev) };
        // SAFETY: It is valid, and stays bound for `'a`.
        (viommu, unsafe { Served::from_raw(dev) }, id)
    }

    /// # Safety
    ///
    /// As for `destroy()`.
    unsafe extern "C" fn get_hw_queue_size(
        core: *mut bindings::iommufd_viommu,
        kind: bindings::iommu_hw_queue_type,
    ) -> usize {
        // SAFETY: It has this table.
        if T::has_hw_queue(unsafe { Viommu::<T>::from_raw(core) }, kind) {
            size_of::<HwQueue<T::HwQueue>>()
        } else {
            0
        }
    }

    /// # Safety
    ///
    /// As for `destroy()`.
    unsafe extern "C" fn hw_queue_init_phys(
        core: *mut bindings::iommufd_hw_queue,
        index: u32,
        base: bindings::phys_addr_t,
    ) -> c_int {
        // INVARIANT: iommufd has set up its part, and the vIOMMU has this table.
        let new = NewHwQueue::<T> {
            core,
            _viommu: PhantomData,
        };
        from_result(|| {
            let data = T::new_hw_queue(&new, index, base)?;
            let this: *mut HwQueue<T::HwQueue> = core.cast();
            // SAFETY: iommufd allocated what `get_hw_queue_size()` said.
            unsafe { (&raw mut (*this).data).cast::<T::HwQueue>().write(data) };
            // SAFETY: The queue is complete, and nobody else knows it yet.
            unsafe { (*core).destroy = Some(Self::hw_queue_destroy) };
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// Called by iommufd once, on a queue that `hw_queue_init_phys()` completed.
    unsafe extern "C" fn hw_queue_destroy(core: *mut bindings::iommufd_hw_queue) {
        let this: *mut HwQueue<T::HwQueue> = core.cast();
        // SAFETY: Nobody else refers to it, and iommufd frees the memory right after.
        unsafe { (*this).data.assume_init_drop() };
    }
}
