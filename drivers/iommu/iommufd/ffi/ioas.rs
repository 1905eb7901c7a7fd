// SPDX-License-Identifier: GPL-2.0-only

//! An IOAS as memory: `struct iommufd_ioas`.

use super::{
    context::Ctx,
    handlers::uapi,
    iopt::Iopt,
    object::{
        Built,
        Kind,
        KindId,
        Loan,
        Object, //
    },
    ucmd::Ucmd, //
};
use core::mem::size_of;
use kernel::{
    bindings,
    c_str,
    prelude::*,
    static_lock_class,
    sync::rwsem::RwSem,
    types::Opaque, //
};

/// An I/O address space.
#[repr(transparent)]
pub(crate) struct Ioas(Opaque<bindings::iommufd_ioas>);

// SAFETY: What it is made of has locks.
unsafe impl Sync for Ioas {}

// SAFETY: Objects of this kind are made below only, and are `struct iommufd_ioas`.
unsafe impl Kind for Ioas {
    const ID: KindId = KindId(bindings::iommufd_object_type_IOMMUFD_OBJ_IOAS);
}

impl Ioas {
    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_ioas {
        self.0.get()
    }

    /// Its IOVAs.
    pub(crate) fn iopt(&self) -> &Iopt {
        // SAFETY: Initialised in `build`.
        unsafe { Iopt::from_raw(&raw mut (*self.as_raw()).iopt) }
    }

    /// Its head.
    pub(crate) fn object(&self) -> &Object {
        // SAFETY: The head is first, and as valid as the whole.
        unsafe { Object::from_raw(self.as_raw().cast()) }
    }

    /// Makes one that is complete, but not visible.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn build(ctx: &Ctx) -> Result<Built<'_>> {
        let object = ctx.reserve(size_of::<bindings::iommufd_ioas>(), Self::ID)?;
        let raw = object.as_raw().cast::<bindings::iommufd_ioas>();
        // SAFETY: Zeroed memory of that size, ours alone, which stays where it is.
        unsafe { bindings::iopt_init_table(&raw mut (*raw).iopt) };
        // SAFETY: As above.
        unsafe { bindings::INIT_LIST_HEAD(&raw mut (*raw).hwpt_list) };
        // SAFETY: As above; the name and the class are static.
        unsafe {
            bindings::__mutex_init(
                &raw mut (*raw).mutex,
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
    let raw = obj.cast::<bindings::iommufd_ioas>();
    // SAFETY: By the caller.
    let ioas = unsafe { &*raw.cast::<Ioas>() };
    crate::ioas::unmap_at_end(ioas);
    // SAFETY: By the caller; nothing is mapped any more.
    unsafe { bindings::iopt_destroy_table(&raw mut (*raw).iopt) };
    // SAFETY: By the caller.
    unsafe { bindings::mutex_destroy(&raw mut (*raw).mutex) };
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
    #[cfg(CONFIG_IOMMUFD_NOIOMMU)]
    {
        let (mut address, mut length) = (0, most);
        // SAFETY: The table is valid, and the results are ours.
        kernel::error::to_result(unsafe {
            bindings::iopt_get_phys(ioas.iopt().as_raw(), iova, &mut address, &mut length)
        })?;
        Ok((address, length))
    }
    #[cfg(not(CONFIG_IOMMUFD_NOIOMMU))]
    {
        let _ = (ioas, iova, most);
        Err(EOPNOTSUPP)
    }
}
