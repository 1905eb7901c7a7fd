// SPDX-License-Identifier: GPL-2.0-only

//! What each kind of object does at the end of its life.

use super::{
    fault,
    hw_queue,
    ioas,
    object::KindId,
    vdevice,
    veventq,
    viommu, //
};
use core::mem::offset_of;
use kernel::bindings;

type Op = unsafe extern "C" fn(*mut bindings::iommufd_object);

/// The operations of a kind. Each op takes a valid object of its kind that is not freed meanwhile.
pub(super) struct Ops {
    /// Stops long-time users before destroy waits for them; may run more than once.
    pub(super) pre_destroy: Option<Op>,
    /// Releases what the object holds, not its memory.
    pub(super) destroy: Op,
    /// The same for an object that never was published, where that differs.
    pub(super) abort: Option<Op>,
    /// Where the `struct file *` of an event queue is.
    pub(super) file_offset: Option<usize>,
}

impl Ops {
    const fn new(destroy: Op) -> Self {
        Self {
            pre_destroy: None,
            destroy,
            abort: None,
            file_offset: None,
        }
    }
}

const COUNT: usize = bindings::iommufd_object_type_IOMMUFD_OBJ_MAX as usize;

/// `IOMMUFD_OBJ_NONE` is in no table, so that it is never destroyed.
///
/// # Safety
///
/// None is asked for.
unsafe extern "C" fn none(_: *mut bindings::iommufd_object) {}

static OPS: [Ops; COUNT] = {
    let mut ops = [const { Ops::new(none) }; COUNT];

    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_ACCESS as usize] =
        Ops::new(bindings::iommufd_access_destroy_object);
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_DEVICE as usize] = Ops {
        pre_destroy: Some(bindings::iommufd_device_pre_destroy),
        ..Ops::new(bindings::iommufd_device_destroy)
    };
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_FAULT as usize] = Ops {
        file_offset: Some(offset_of!(bindings::iommufd_fault, common.filep)),
        ..Ops::new(fault::destroy)
    };
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE as usize] =
        Ops::new(hw_queue::destroy_hw_queue);
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING as usize] =
        Ops::new(bindings::iommufd_hwpt_paging_destroy);
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED as usize] =
        Ops::new(bindings::iommufd_hwpt_nested_destroy);
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_IOAS as usize] = Ops::new(ioas::destroy);
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_VDEVICE as usize] = Ops {
        abort: Some(vdevice::abort_vdevice),
        ..Ops::new(vdevice::destroy_vdevice)
    };
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_VEVENTQ as usize] = Ops {
        file_offset: Some(offset_of!(bindings::iommufd_veventq, common.filep)),
        ..Ops::new(veventq::destroy)
    };
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_VIOMMU as usize] =
        Ops::new(viommu::destroy_viommu);
    #[cfg(CONFIG_IOMMUFD_TEST)]
    {
        ops[bindings::iommufd_object_type_IOMMUFD_OBJ_SELFTEST as usize] =
            Ops::new(bindings::iommufd_selftest_destroy);
    }
    ops
};

pub(super) fn ops(kind: KindId) -> &'static Ops {
    // PANIC: Objects are only made with a kind of the enumeration.
    &OPS[kind.0 as usize]
}
