// SPDX-License-Identifier: GPL-2.0-only

//! An IOAS as memory.

use super::{
    context::Ctx,
    handlers::uapi,
    object::{
        Built,
        Kind,
        KindId,
        Loan,
        Object, //
    },
    ucmd::Ucmd, //
};
use crate::io_pagetable::IoPagetable;
use core::{
    marker::PhantomPinned,
    mem::size_of, //
};
use kernel::{
    bindings,
    c_str,
    prelude::*,
    static_lock_class,
    sync::rwsem::RwSem,
    types::Opaque, //
};
use pin_init::PinInit;

/// An I/O address space.
#[repr(C)]
pub(crate) struct Ioas {
    head: Opaque<bindings::iommufd_object>,
    pub(super) mutex: Opaque<bindings::mutex>,
    pub(super) hwpts: Opaque<bindings::list_head>,
    iopt: IoPagetable,
    _pin: PhantomPinned,
}

// SAFETY: What it is made of has locks.
unsafe impl Sync for Ioas {}

// SAFETY: Objects of this kind are made below only.
unsafe impl Kind for Ioas {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_IOAS);
}

impl Ioas {
    /// Its IOVAs.
    pub(crate) fn iopt(&self) -> &IoPagetable {
        &self.iopt
    }

    /// Its head.
    pub(crate) fn object(&self) -> &Object {
        // SAFETY: The head is first, and as valid as the whole.
        unsafe { Object::from_raw(self.head.get()) }
    }

    /// Makes one that is complete, but not visible.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn build(ctx: &Ctx) -> Result<Built<'_>> {
        let object = ctx.reserve(size_of::<Self>(), Self::ID)?;
        let raw = object.as_raw().cast::<Self>();
        // SAFETY: Zeroed memory of that size, ours alone, which stays where it is; this has no way
        // to fail.
        let Ok(()) = unsafe { IoPagetable::new().__init(&raw mut (*raw).iopt) };
        // SAFETY: As above.
        unsafe { bindings::INIT_LIST_HEAD((*raw).hwpts.get()) };
        // SAFETY: As above; the name and the class are static.
        unsafe {
            bindings::__mutex_init(
                (*raw).mutex.get(),
                c_str!("ioas->mutex").as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
        // SAFETY: Initialised just now.
        Ok(unsafe { object.built() })
    }
}

/// Releases what an IOAS holds.
///
/// # Safety
///
/// `obj` must be an IOAS that nobody else refers to.
pub(super) unsafe extern "C" fn destroy(obj: *mut bindings::iommufd_object) {
    let raw = obj.cast::<Ioas>();
    // SAFETY: By the caller.
    crate::ioas::unmap_at_end(unsafe { &*raw });
    // SAFETY: By the caller; nothing is mapped any more, and nobody looks at it again.
    unsafe { (&raw mut (*raw).iopt).drop_in_place() };
    // SAFETY: By the caller.
    unsafe { bindings::mutex_destroy((*raw).mutex.get()) };
}

impl Ctx {
    /// Held for reading while an IOAS is published, for writing while all are locked.
    pub(crate) fn ioas_creation_lock(&self) -> &RwSem {
        // SAFETY: Initialised with the context.
        unsafe { RwSem::from_raw(&raw mut (*self.as_raw()).ioas_creation_lock) }
    }
}

/// Lets a fuzzer name an IOVA by the number of its mapping. Test kernels only.
pub(crate) fn fuzzer_iova(ucmd: &mut Ucmd<'_, uapi::IoasCopy>) {
    #[cfg(CONFIG_IOMMUFD_TEST)]
    {
        let (id, mut iova, mut flags) = (ucmd.src_ioas_id, ucmd.src_iova, ucmd.flags);
        // SAFETY: The ioctl is in progress; the others are ours.
        unsafe {
            bindings::iommufd_test_syz_conv_iova_id(ucmd.as_raw(), id, &mut iova, &mut flags)
        };
        ucmd.src_iova = iova;
        ucmd.flags = flags;
    }
    #[cfg(not(CONFIG_IOMMUFD_TEST))]
    let _ = ucmd;
}

/// The physical address at an IOVA and how many bytes follow it there, at least one and at most
/// `most`, for devices without an IOMMU.
///
/// # Errors
///
/// `ENOENT` when nothing is mapped there; `EOPNOTSUPP` when this kernel cannot tell.
pub(crate) fn physical(ioas: &Loan<'_, Ioas>, iova: usize, most: u64) -> Result<(u64, u64)> {
    ioas.iopt().physical(iova, most)
}
