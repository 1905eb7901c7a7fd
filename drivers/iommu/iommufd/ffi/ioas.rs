// SPDX-License-Identifier: GPL-2.0-only

//! An IOAS as memory.

use super::{
    context::Ctx,
    handlers::uapi,
    object::{
        Loan,
        Object, //
    },
    typed::{
        begins_with_head,
        Reserved, //
    },
    ucmd::Ucmd, //
};
use crate::io_pagetable::IoPagetable;
use core::pin::Pin;
use kernel::{
    bindings,
    interop::list::CListHead,
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

/// An I/O address space.
#[pin_data(PinnedDrop)]
#[repr(C)]
pub(crate) struct Ioas {
    #[pin]
    object: Object,
    #[pin]
    pub(super) hwpts: Mutex<CListHead>,
    #[pin]
    iopt: IoPagetable,
}

begins_with_head!(Ioas, object);

impl Ioas {
    /// Its IOVAs.
    pub(crate) fn iopt(&self) -> &IoPagetable {
        &self.iopt
    }

    /// Makes one that is complete, but not visible.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EBUSY` when all ids are in use.
    pub(crate) fn build(ctx: &Ctx) -> Result<Reserved<'_, Self>> {
        let init = pin_init!(Self {
            object <- Object::new(),
            hwpts <- new_mutex!(CListHead::new(), "ioas->mutex"),
            iopt <- IoPagetable::new(),
        });
        Reserved::new(ctx, init)
    }
}

#[pinned_drop]
impl PinnedDrop for Ioas {
    fn drop(self: Pin<&mut Self>) {
        crate::ioas::unmap_at_end(&self);
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
