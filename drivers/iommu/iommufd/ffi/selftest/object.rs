// SPDX-License-Identifier: GPL-2.0-only

//! iommufd's objects, as the mock driver looks them up.
//!
//! A [`Loan`] is a short reference inside of one ioctl: destroying the object waits for it.
//!
//! C header: `drivers/iommu/iommufd/iommufd_private.h`

use crate::selftest::{
    binding::Binding,
    test_ioctl::TestCmd, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    device::Device,
    error::{
        from_err_ptr,
        to_result, //
    },
    iommu::domain::AnyDomain,
    prelude::*,
    types::Opaque,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// An open `/dev/iommu`.
///
/// # Invariants
///
/// It is alive as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct Ctx(Opaque<bindings::iommufd_ctx>);

impl Ctx {
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_ctx {
        self.0.get()
    }

    fn get_raw(
        &self,
        id: u32,
        kind: bindings::iommufd_object_type,
    ) -> Result<NonNull<bindings::iommufd_object>> {
        // SAFETY: By the type invariant the context is alive.
        let object =
            from_err_ptr(unsafe { bindings::iommufd_get_object(self.as_raw(), id, kind) })?;
        NonNull::new(object).ok_or(ENOENT)
    }

    /// Borrows the object with this id.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is none of this kind, or it is just being destroyed.
    pub(crate) fn get<T: Kind>(&self, id: u32) -> Result<Loan<'_, T>> {
        // INVARIANT: it is of this kind.
        Ok(Loan {
            ctx: self,
            object: self.get_raw(id, T::TYPE)?,
            kind: PhantomData,
        })
    }

    /// Borrows the page table with this id, whether paging or nested.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is no object of this id. `EINVAL`: it is not a page table.
    pub(crate) fn get_hwpt(&self, id: u32) -> Result<Loan<'_, Hwpt>> {
        let object = self.get_raw(id, bindings::iommufd_object_type_IOMMUFD_OBJ_NONE)?;
        // INVARIANT: checked below, and no more than `AnyHwpt` is done with it before.
        let loan = Loan {
            ctx: self,
            object,
            kind: PhantomData,
        };
        // SAFETY: The loan keeps it alive.
        match unsafe { object.as_ref() }.type_ {
            bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING
            | bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED => Ok(loan),
            _ => Err(EINVAL),
        }
    }
}

/// A kind of object.
///
/// # Safety
///
/// All objects of type `TYPE` begin with the structure that this wraps.
pub(crate) unsafe trait Kind {
    /// The type that the object says it is of.
    const TYPE: bindings::iommufd_object_type;
}

/// A short reference to an object: destroying it waits.
///
/// # Invariants
///
/// It stands for one of the object's `users` and one of its `wait_cnt`.
pub(crate) struct Loan<'a, T> {
    ctx: &'a Ctx,
    object: NonNull<bindings::iommufd_object>,
    kind: PhantomData<&'a T>,
}

impl<T: Kind> Deref for Loan<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: It is alive and begins with what `T` wraps, see `Kind`.
        unsafe { self.object.cast().as_ref() }
    }
}

impl<T> Drop for Loan<'_, T> {
    fn drop(&mut self) {
        let object = self.object.as_ptr();
        // Users first: a waiter must never see users without a `wait_cnt`.
        // SAFETY: By the type invariant this is not the last one.
        unsafe { bindings::refcount_dec(&raw mut (*object).users) };
        // SAFETY: By the type invariant it is counted.
        if unsafe { bindings::refcount_dec_and_test(&raw mut (*object).wait_cnt) } {
            let queue = self.ctx.as_raw();
            // SAFETY: The context outlives the loan.
            unsafe {
                bindings::__wake_up(
                    &raw mut (*queue).destroy_wait,
                    bindings::TASK_INTERRUPTIBLE,
                    0,
                    core::ptr::null_mut(),
                )
            };
        }
    }
}

/// An address space.
#[repr(transparent)]
pub(crate) struct Ioas(Opaque<bindings::iommufd_ioas>);

// SAFETY: It wraps what such objects are.
unsafe impl Kind for Ioas {
    const TYPE: bindings::iommufd_object_type = bindings::iommufd_object_type_IOMMUFD_OBJ_IOAS;
}

impl Ioas {
    fn iopt(&self) -> *mut bindings::io_pagetable {
        // SAFETY: It is alive.
        unsafe { &raw mut (*self.0.get()).iopt }
    }

    /// Keeps a range from being mapped; both ends included.
    ///
    /// # Errors
    ///
    /// `EINVAL`: something is mapped there. `ENOMEM`: no memory.
    pub(crate) fn reserve(&self, first: usize, last: usize) -> Result {
        let iopt = self.iopt();
        // SAFETY: It is alive.
        unsafe { bindings::down_write(&raw mut (*iopt).iova_rwsem) };
        // SAFETY: The lock is held.
        let done = unsafe { bindings::iopt_reserve_iova(iopt, first, last, core::ptr::null_mut()) };
        // SAFETY: It was taken above.
        unsafe { bindings::up_write(&raw mut (*iopt).iova_rwsem) };
        to_result(done)
    }

    /// Where the `nth` mapping begins.
    pub(crate) fn nth_area(&self, nth: u32) -> Option<usize> {
        // SAFETY: It is alive.
        unsafe { nth_area(self.iopt(), nth) }
    }
}

/// Where the `nth` mapping begins.
///
/// # Safety
///
/// `iopt` is alive.
pub(super) unsafe fn nth_area(iopt: *mut bindings::io_pagetable, nth: u32) -> Option<usize> {
    // SAFETY: By the contract of this function.
    unsafe { bindings::down_read(&raw mut (*iopt).iova_rwsem) };
    // SAFETY: The lock is held.
    let mut node =
        unsafe { bindings::interval_tree_iter_first(&raw mut (*iopt).area_itree, 0, usize::MAX) };
    for _ in 0..nth {
        if node.is_null() {
            break;
        }
        // SAFETY: The lock is held, so the node is still in the tree.
        node = unsafe { bindings::interval_tree_iter_next(node, 0, usize::MAX) };
    }
    // SAFETY: As above.
    let start = (!node.is_null()).then(|| unsafe { (*node).start });
    // SAFETY: It was taken above.
    unsafe { bindings::up_read(&raw mut (*iopt).iova_rwsem) };
    start
}

/// A device that is bound to the context.
#[repr(transparent)]
pub(crate) struct IdDevice(Opaque<bindings::iommufd_device>);

// SAFETY: It wraps what such objects are.
unsafe impl Kind for IdDevice {
    const TYPE: bindings::iommufd_object_type = bindings::iommufd_object_type_IOMMUFD_OBJ_DEVICE;
}

impl IdDevice {
    /// The physical device.
    pub(crate) fn device(&self) -> &Device {
        // SAFETY: The object holds the device.
        unsafe { Device::from_raw((*self.0.get()).dev) }
    }
}

/// A page table of any kind.
#[repr(transparent)]
pub(crate) struct Hwpt(Opaque<bindings::iommufd_hw_pagetable>);

// SAFETY: It wraps what paging and nested ones begin with. Looking for one by this type finds
// the paging ones.
unsafe impl Kind for Hwpt {
    const TYPE: bindings::iommufd_object_type =
        bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING;
}

impl Hwpt {
    /// Its domain.
    pub(crate) fn domain(&self) -> &AnyDomain {
        // SAFETY: The object is complete and owns the domain.
        unsafe { AnyDomain::from_raw((*self.0.get()).domain) }
    }
}

/// A page table of user space.
#[repr(transparent)]
pub(crate) struct NestedHwpt(Hwpt);

// SAFETY: It wraps what such objects begin with.
unsafe impl Kind for NestedHwpt {
    const TYPE: bindings::iommufd_object_type =
        bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED;
}

impl Deref for NestedHwpt {
    type Target = Hwpt;

    fn deref(&self) -> &Hwpt {
        &self.0
    }
}

/// A hardware queue.
#[repr(transparent)]
struct RawHwQueue(Opaque<bindings::iommufd_hw_queue>);

// SAFETY: It wraps what such objects begin with.
unsafe impl Kind for RawHwQueue {
    const TYPE: bindings::iommufd_object_type = bindings::iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE;
}

/// Keeps one hardware queue alive as long as another.
///
/// # Invariants
///
/// `dependent` stands for one of the `users` of `depended`, and is dropped with its data.
pub(crate) struct QueueDependency {
    dependent: NonNull<bindings::iommufd_object>,
    depended: NonNull<bindings::iommufd_object>,
}

// SAFETY: It is a counted reference, and the counts are atomic.
unsafe impl Send for QueueDependency {}
// SAFETY: As above.
unsafe impl Sync for QueueDependency {}

impl Drop for QueueDependency {
    fn drop(&mut self) {
        // SAFETY: By the type invariant both are alive.
        unsafe {
            bindings::_iommufd_object_undepend(self.dependent.as_ptr(), self.depended.as_ptr())
        };
    }
}

/// What the mock driver does with a hardware queue besides.
pub(crate) trait QueueExt {
    /// The id of its object.
    fn id(&self) -> u32;

    /// Keeps the queue with this id alive as long as this one.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is none, or not of this vIOMMU. `EINVAL`: it is this one.
    fn depend_on(&self, id: u32) -> Result<QueueDependency>;
}

impl<T: kernel::iommu::viommu::ViommuOps> QueueExt for kernel::iommu::viommu::NewHwQueue<'_, T> {
    fn id(&self) -> u32 {
        // SAFETY: iommufd has set up its part.
        unsafe { (*self.as_raw()).obj.id }
    }

    fn depend_on(&self, id: u32) -> Result<QueueDependency> {
        // SAFETY: As above.
        let viommu = unsafe { (*self.as_raw()).viommu };
        // SAFETY: The vIOMMU is alive and in a context that is.
        let ctx: &Ctx = unsafe { &*(*viommu).ictx.cast() };
        let other = ctx.get::<RawHwQueue>(id)?;
        // SAFETY: The loan keeps it alive.
        if unsafe { (*other.0.get()).viommu } != viommu {
            return Err(ENOENT);
        }
        // SAFETY: iommufd has set up its part.
        let dependent = unsafe { NonNull::new_unchecked(&raw mut (*self.as_raw()).obj) };
        // SAFETY: Both are alive.
        to_result(unsafe {
            bindings::_iommufd_object_depend(dependent.as_ptr(), other.object.as_ptr())
        })?;
        // INVARIANT: counted right above.
        Ok(QueueDependency {
            dependent,
            depended: other.object,
        })
    }
}

/// A mock device in a context: what user space destroys to be rid of it.
#[repr(C)]
pub(crate) struct SelftestObject {
    object: Opaque<bindings::iommufd_object>,
    binding: Option<Pin<KBox<Binding>>>,
}

// SAFETY: Such objects are only made by `Reserved`, with this layout.
unsafe impl Kind for SelftestObject {
    const TYPE: bindings::iommufd_object_type = bindings::iommufd_object_type_IOMMUFD_OBJ_SELFTEST;
}

impl Deref for SelftestObject {
    type Target = Binding;

    fn deref(&self) -> &Binding {
        // PANIC: only an object with a binding is published.
        self.binding.as_ref().unwrap()
    }
}

/// An id of a mock device that does not exist yet.
///
/// # Invariants
///
/// It points to a `SelftestObject` that is not published.
pub(crate) struct Reserved<'a> {
    ctx: &'a Ctx,
    object: NonNull<SelftestObject>,
}

impl<'a> Reserved<'a> {
    /// Takes an id.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and `EBUSY` when all are taken.
    pub(crate) fn new(ctx: &'a Ctx) -> Result<Self> {
        // SAFETY: The context is alive.
        let object = from_err_ptr(unsafe {
            bindings::_iommufd_object_alloc(
                ctx.as_raw(),
                size_of::<SelftestObject>(),
                SelftestObject::TYPE,
            )
        })?;
        let object: NonNull<SelftestObject> = NonNull::new(object.cast()).ok_or(ENOMEM)?;
        // SAFETY: It is that large, and nobody else knows it.
        unsafe { (&raw mut (*object.as_ptr()).binding).write(None) };
        // INVARIANT: complete.
        Ok(Self { ctx, object })
    }

    /// The id.
    pub(crate) fn id(&self) -> u32 {
        // SAFETY: By the type invariant it is alive.
        unsafe { (*self.object.cast::<bindings::iommufd_object>().as_ptr()).id }
    }

    /// Makes the device known by its id.
    pub(crate) fn publish(self, binding: Pin<KBox<Binding>>) {
        // SAFETY: By the type invariant nobody else knows it.
        unsafe { (*self.object.as_ptr()).binding = Some(binding) };
        // SAFETY: It is complete now.
        unsafe {
            bindings::iommufd_object_finalize(self.ctx.as_raw(), self.object.cast().as_ptr())
        };
        core::mem::forget(self);
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is not published, and there is no binding.
        unsafe { bindings::iommufd_object_abort(self.ctx.as_raw(), self.object.cast().as_ptr()) };
    }
}

/// Takes the mock device of an object down.
///
/// # Safety
///
/// `object` is a `SelftestObject` that nobody refers to any more.
pub(super) unsafe fn destroy(object: *mut bindings::iommufd_object) {
    let object: *mut SelftestObject = object.cast();
    // SAFETY: By the contract of this function.
    unsafe { (*object).binding = None };
}

/// One test ioctl.
///
/// # Invariants
///
/// `raw` is an ioctl in progress whose command buffer is large enough for a [`TestCmd`].
pub(crate) struct Ucmd<'a> {
    raw: *mut bindings::iommufd_ucmd,
    _life: PhantomData<&'a mut bindings::iommufd_ucmd>,
}

const _: () = assert!(size_of::<TestCmd>() == size_of::<bindings::iommu_test_cmd>());
const _: () = assert!(align_of::<TestCmd>() == align_of::<bindings::iommu_test_cmd>());

impl<'a> Ucmd<'a> {
    /// # Safety
    ///
    /// `raw` is an ioctl in progress, for `'a`, that nobody else uses.
    pub(super) unsafe fn from_raw(raw: *mut bindings::iommufd_ucmd) -> Self {
        // INVARIANT: iommufd has one buffer for all ioctls, which is larger.
        Self {
            raw,
            _life: PhantomData,
        }
    }

    /// The context.
    pub(crate) fn ctx(&self) -> &'a Ctx {
        // SAFETY: The context outlives the ioctl.
        unsafe { &*(*self.raw).ictx.cast() }
    }

    /// The command.
    pub(crate) fn cmd(&mut self) -> &mut TestCmd {
        // SAFETY: By the type invariant; all bits are valid for a command.
        unsafe { &mut *(*self.raw).cmd.cast() }
    }

    /// Writes the command back to user space.
    ///
    /// # Errors
    ///
    /// `EFAULT`: it cannot be written to.
    pub(crate) fn respond(&mut self) -> Result {
        // SAFETY: By the type invariant.
        let (to, len) = unsafe { ((*self.raw).ubuffer, (*self.raw).user_size as usize) };
        let bytes = self.cmd().as_bytes();
        let len = len.min(bytes.len());
        UserSlice::new(UserPtr::from_ptr(to), len)
            .writer()
            .write_slice(bytes.get(..len).ok_or(EINVAL)?)
    }
}
