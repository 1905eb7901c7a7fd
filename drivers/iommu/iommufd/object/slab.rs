// SPDX-License-Identifier: GPL-2.0-only

//! The memory of objects.
//!
//! A lookup takes no lock, so it may look at an object that is freed at that moment. Waiting for a
//! grace period before each free would cost more than the lookup saves; instead, the memory of an
//! object stays one: its slab is not given back before the grace period ends, and what is
//! allocated from it meanwhile is an object again, whose `wait_cnt` is where the old one's was.
//! A [`Table`]'s lookup takes a count first and sees then whose it is.
//!
//! Where a driver's structure begins with an object, it is the driver's as if it came from
//! kmalloc(), but for its size: no more than 16384 bytes.
//!
//! C header: [`include/linux/slab.h`](srctree/include/linux/slab.h), `SLAB_TYPESAFE_BY_RCU`
//!
//! [`Table`]: super::table::Table

use core::{
    cell::UnsafeCell,
    mem::size_of,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    c_str,
    prelude::*, //
};

/// Objects of up to `size` bytes share a cache.
struct Class {
    size: usize,
    name: &'static CStr,
}

macro_rules! classes {
    ($($size:literal),*) => {
        [$(Class {
            size: $size,
            name: c_str!(concat!("iommufd_object-", $size)),
        }),*]
    };
}

/// The sizes of kmalloc() from the smallest object to the largest that a driver may ask for.
const CLASSES: [Class; 9] = classes!(64, 96, 128, 192, 256, 512, 1024, 4096, 16384);

/// The cache of each class, made when the module is loaded.
struct Caches(UnsafeCell<[*mut bindings::kmem_cache; CLASSES.len()]>);

// SAFETY: Written by `init` and `exit` only, when there are no objects.
unsafe impl Sync for Caches {}

static CACHES: Caches = Caches(UnsafeCell::new([ptr::null_mut(); CLASSES.len()]));

/// New memory has no count that keeps it.
///
/// # Safety
///
/// `object` is memory of one of the caches, that nobody has looked at yet.
unsafe extern "C" fn clear_wait_cnt(object: *mut c_void) {
    // SAFETY: By the contract of this function; an object will be there.
    unsafe { (*object.cast::<bindings::iommufd_object>()).wait_cnt = pin_init::zeroed() };
}

/// Makes the caches.
///
/// # Safety
///
/// Nobody may allocate yet.
///
/// # Errors
///
/// `ENOMEM`; none is left then.
pub(crate) unsafe fn init() -> Result {
    for (index, class) in CLASSES.iter().enumerate() {
        // SAFETY: The name is a static one. The free pointer goes behind the head, whose counts
        // are what may be looked at, and what `clear_wait_cnt` is called with is an object's.
        let cache = unsafe {
            bindings::iommu_type_stable_cache(
                class.name.as_char_ptr(),
                class.size as u32,
                size_of::<bindings::iommufd_object>() as u32,
                Some(clear_wait_cnt),
            )
        };
        if cache.is_null() {
            // SAFETY: Nobody has allocated from those that there are.
            unsafe { exit() };
            return Err(ENOMEM);
        }
        // SAFETY: Nobody allocates yet, and so nobody else looks at it.
        unsafe { (*CACHES.0.get())[index] = cache };
    }
    Ok(())
}

/// Frees the caches.
///
/// # Safety
///
/// There may be no objects any more, and nobody may allocate.
pub(crate) unsafe fn exit() {
    // SAFETY: Nobody allocates any more, and so nobody else looks at it.
    for cache in unsafe { &mut *CACHES.0.get() } {
        // SAFETY: It is empty, or null, which is passed over.
        unsafe { bindings::kmem_cache_destroy(*cache) };
        *cache = ptr::null_mut();
    }
}

/// Memory for an object of `size` bytes, its head among them; `None` when there is none, or it
/// would be larger than the largest class, which is a driver's bug. Only `wait_cnt` is initialised.
///
/// Somebody who has not noticed yet that it was freed may try to get a count on what was there
/// before, so `wait_cnt` must stay zero until all of the object is ready to be found. It is zero
/// already; who writes it again does so atomically.
pub(super) fn alloc(size: usize) -> Option<NonNull<bindings::iommufd_object>> {
    let class = CLASSES.iter().position(|class| size <= class.size);
    if kernel::warn_on_once!(class.is_none()) {
        return None;
    }
    let class = class?;
    // SAFETY: There are no changes while objects are made, see `init` and `exit`.
    let cache = unsafe { (*CACHES.0.get())[class] };
    // SAFETY: The cache is there as long as the module.
    let raw = unsafe { bindings::kmem_cache_alloc_noprof(cache, bindings::GFP_KERNEL_ACCOUNT) };
    let raw = NonNull::new(raw.cast::<bindings::iommufd_object>())?;
    // A reference to the head leads to all of it, see `Object::as_raw`.
    raw.as_ptr().expose_provenance();
    Some(raw)
}

/// Frees an object's memory.
///
/// # Safety
///
/// It must come from [`alloc`], its `wait_cnt` be zero, and nobody use anything else of it.
pub(super) unsafe fn free(raw: NonNull<bindings::iommufd_object>) {
    // SAFETY: kfree() takes what comes from any cache.
    unsafe { bindings::kfree(raw.as_ptr().cast()) };
}
