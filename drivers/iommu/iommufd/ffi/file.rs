// SPDX-License-Identifier: GPL-2.0-only

//! `/dev/iommu` as a character device: open, release, ioctl, mmap.
//!
//! Contexts are told by the address of their file operations, so these are one static.

use super::context::{
    AccountMode,
    Ctx, //
};
use crate::{
    ioctl,
    object::{
        destroy_all,
        Hold,
        Object, //
    }, //
};
use core::{
    cell::UnsafeCell,
    mem,
    pin::Pin,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    error::{
        from_result,
        to_result, //
    },
    io::PhysAddr,
    mm::virt::{
        flags,
        VmaRef, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    pr_info_once,
    prelude::*,
    types::ForeignOwnable,
    ModuleMetadata, //
};

/// Operations in a static, which lies where nobody can write.
#[repr(transparent)]
struct Fixed<T>(T);

// SAFETY: Nobody changes it, and what it points to are functions and the module.
unsafe impl<T> Sync for Fixed<T> {}

/// A C structure in a static that C reads and writes under its own rules.
#[repr(transparent)]
struct Shared<T>(UnsafeCell<T>);

// SAFETY: C looks into it, and `device`, at a field that does not change while anybody can ask.
unsafe impl<T> Sync for Shared<T> {}

#[cfg(MODULE)]
extern "C" {
    // A `struct module`, which is the module loader's: its address is all that is of use here.
    static __this_module: u8;
}

/// The module that this crate is part of; null where it is built in.
#[cfg(MODULE)]
const OWNER: *mut bindings::module = (&raw const __this_module).cast_mut().cast();
#[cfg(not(MODULE))]
const OWNER: *mut bindings::module = ptr::null_mut();

/// The same, as abstractions ask for it.
pub(crate) struct LocalModule;

impl ModuleMetadata for LocalModule {
    const NAME: &'static CStr = c"iommufd";

    // SAFETY: The module lives as long as its code runs; built-in code has a null pointer.
    const THIS_MODULE: ThisModule = unsafe { ThisModule::from_ptr(OWNER) };
}

static FOPS: Fixed<bindings::file_operations> = Fixed(bindings::file_operations {
    owner: LocalModule::THIS_MODULE.as_ptr(),
    open: Some(open),
    release: Some(release),
    unlocked_ioctl: Some(unlocked_ioctl),
    mmap: Some(mmap),
    // SAFETY: Null function pointers are absent operations.
    ..unsafe { mem::zeroed() }
});

static VM_OPS: Fixed<bindings::vm_operations_struct> = Fixed(bindings::vm_operations_struct {
    open: Some(vma_open),
    close: Some(vma_close),
    // SAFETY: Null function pointers are absent operations.
    ..unsafe { mem::zeroed() }
});

static IOMMU: Shared<bindings::miscdevice> = Shared(UnsafeCell::new(bindings::miscdevice {
    minor: bindings::MISC_DYNAMIC_MINOR as c_int,
    name: c"iommu".to_bytes_with_nul().as_ptr().cast(),
    nodename: c"iommu".to_bytes_with_nul().as_ptr().cast(),
    fops: &raw const FOPS.0,
    mode: 0o660,
    // SAFETY: The rest is C's to fill in.
    ..unsafe { mem::zeroed() }
}));

static VFIO: Shared<bindings::miscdevice> = Shared(UnsafeCell::new(bindings::miscdevice {
    minor: bindings::VFIO_MINOR as c_int,
    name: c"vfio".to_bytes_with_nul().as_ptr().cast(),
    nodename: c"vfio/vfio".to_bytes_with_nul().as_ptr().cast(),
    fops: &raw const FOPS.0,
    mode: 0o666,
    // SAFETY: The rest is C's to fill in.
    ..unsafe { mem::zeroed() }
}));

/// A registered device node; dropping it takes it away.
struct Node(&'static Shared<bindings::miscdevice>);

impl Node {
    fn register(device: &'static Shared<bindings::miscdevice>) -> Result<Self> {
        // SAFETY: A static that is not registered now.
        to_result(unsafe { bindings::misc_register(device.0.get()) })?;
        Ok(Self(device))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // SAFETY: It is registered.
        unsafe { bindings::misc_deregister(self.0 .0.get()) }
    }
}

const WITH_VFIO: bool = cfg!(CONFIG_IOMMUFD_VFIO_CONTAINER);

/// Makes the device nodes.
///
/// # Errors
///
/// Those of registering a device.
pub(super) fn init() -> Result {
    let iommu = Node::register(&IOMMU)?;
    let vfio = WITH_VFIO.then(|| Node::register(&VFIO)).transpose()?;
    // They stay until `exit`.
    mem::forget((iommu, vfio));
    Ok(())
}

/// Takes the device nodes away, when no context is open any more.
pub(super) fn exit() {
    drop(WITH_VFIO.then_some(Node(&VFIO)));
    drop(Node(&IOMMU));
}

/// A device for those who must name one and have none.
pub(super) fn device() -> *mut bindings::device {
    // SAFETY: Set by misc_register() before anybody can ask.
    unsafe { (*IOMMU.0.get()).this_device }
}

/// The context of a file, if it is one of ours.
///
/// # Safety
///
/// `file` must be an open file.
pub(super) unsafe fn context_of(file: *mut bindings::file) -> Result<*mut bindings::iommufd_ctx> {
    // SAFETY: By the caller; it does not change while a file is open.
    let operations = unsafe { (*file).f_op };
    // Another file's context would be taken for ours: EBADFD says so, and tells it from no file.
    if !ptr::eq(operations, &raw const FOPS.0) {
        return Err(Error::from_errno(-(bindings::EBADFD as c_int)));
    }
    // SAFETY: As above; set by `open`.
    Ok(unsafe { (*file).private_data }.cast())
}

/// # Safety
///
/// misc_open() calls it with the file that is being opened.
unsafe extern "C" fn open(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    from_result(|| {
        // SAFETY: The file is being opened; misc_open() left the device there.
        let private = unsafe { &raw mut (*file).private_data };
        // SAFETY: The file is being opened, by nobody else.
        let vfio = WITH_VFIO && ptr::addr_eq(unsafe { *private }, VFIO.0.get());
        if vfio {
            pr_info_once!("IOMMUFD is providing /dev/vfio/vfio, not VFIO.\n");
        }
        let owner = NonNull::new(file).ok_or(EINVAL)?;
        let ctx = Ctx::new(owner, AccountMode::initial(vfio))?;
        // SAFETY: The file is being opened, by nobody else.
        unsafe { *private = ctx.into_foreign() };
        Ok(0)
    })
}

/// # Safety
///
/// The VFS calls it once, when the last reference to the file is gone.
unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: Set by `open`; this was the last reference to the file.
    let ctx = unsafe { Pin::<KBox<Ctx>>::from_foreign((*file).private_data) };
    destroy_all(&ctx);
    0
}

/// # Safety
///
/// The VFS calls it on an open file.
unsafe extern "C" fn unlocked_ioctl(
    file: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: Set by `open`, and not changed.
    let raw = unsafe { (*file).private_data }.cast();
    // SAFETY: The file is open during an ioctl, and with it the context.
    let ctx = unsafe { Ctx::from_raw(raw) };
    match ioctl::dispatch(ctx, cmd, arg) {
        Ok(value) => value,
        Err(e) => e.to_errno() as c_long,
    }
}

/// The owner of a mapping's region, whose `users` each mapping holds one of.
///
/// # Safety
///
/// `vma` must be one that `mmap` below has set up.
unsafe fn owner_of<'a>(vma: *mut bindings::vm_area_struct) -> &'a Object {
    // SAFETY: By the caller `mmap` has put it there; the mapping's count keeps it.
    unsafe { Object::from_raw((*vma).vm_private_data.cast()) }
}

/// # Safety
///
/// Only for mappings that [`mmap`] has set up.
unsafe extern "C" fn vma_open(vma: *mut bindings::vm_area_struct) {
    // SAFETY: These operations are set by `mmap` only.
    let hold = Hold::new(unsafe { owner_of(vma) });
    // The mapping that this one is a copy of has one.
    kernel::warn_on!(hold.is_err());
    mem::forget(hold);
}

/// # Safety
///
/// Only for mappings that [`mmap`] has set up.
unsafe extern "C" fn vma_close(vma: *mut bindings::vm_area_struct) {
    // SAFETY: These operations are set by `mmap` only, and this is the mapping's count.
    drop(unsafe { Hold::adopt(owner_of(vma)) });
}

/// # Safety
///
/// The VFS calls it with an open file and a mapping that is being made.
unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    from_result(|| {
        // SAFETY: Set by `open`; the file is open.
        let ctx = unsafe { Ctx::from_raw((*file).private_data.cast()) };
        // SAFETY: A mapping that is being made is its caller's alone.
        unsafe { map_region(ctx, &mut *vma) }?;
        Ok(0)
    })
}

/// Maps a driver's MMIO region that was registered under the mapping's offset.
///
/// # Safety
///
/// `vma` is a mapping of the context's file that is being made.
unsafe fn map_region(ctx: &Ctx, vma: &mut bindings::vm_area_struct) -> Result {
    let (length, flags) = {
        // SAFETY: The caller has a mapping that is being made, and that nobody else has.
        let area = unsafe { VmaRef::from_raw(vma) };
        (area.end() - area.start(), area.flags())
    };
    if length % PAGE_SIZE != 0 || flags & flags::SHARED == 0 {
        return Err(EINVAL);
    }
    if flags & flags::EXEC != 0 {
        return Err(EPERM);
    }
    let (addr, owner) = region_at(ctx, vma.vm_pgoff, length).ok_or(ENXIO)?;
    vma.vm_pgoff = 0;
    vma.vm_private_data = owner.as_raw().cast();
    vma.vm_ops = &raw const VM_OPS.0;
    // SAFETY: A mapping that is being made; the driver vouches for the region.
    to_result(unsafe { bindings::iommu_remap_uncached(vma, addr) })?;
    // `vma_close` gives it back.
    mem::forget(owner);
    Ok(())
}

/// Where the region is that begins at a page offset and has this length, and a hold on its owner;
/// `None` when there is none, or its owner is not published yet or being destroyed.
fn region_at(ctx: &Ctx, pgoff: usize, length: usize) -> Option<(PhysAddr, Hold<Object>)> {
    let mut regions = ctx.head().regions.lock();
    let region = regions.load(pgoff << PAGE_SHIFT)?;
    // The tree gives a region for any offset within; only the whole of it may be mapped.
    if region.vm_pgoff != pgoff || region.length != length {
        return None;
    }
    // SAFETY: Regions leave the tree under its lock, before they and their owners are freed.
    let owner = unsafe { Object::from_raw(region.owner.as_ptr()) };
    Some((region.addr, Hold::of_published(owner)?))
}
