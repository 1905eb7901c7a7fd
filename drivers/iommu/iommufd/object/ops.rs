// SPDX-License-Identifier: GPL-2.0-only

//! Which type each kind of object is, and what becomes of it at its end: `iommufd_object_ops`.

use super::head::{
    downcast,
    Kind,
    Object,
    ObjectType, //
};
#[cfg(CONFIG_IOMMUFD_TEST)]
use crate::ffi::selftest::object::SelftestObject;
use crate::{
    access::Access,
    fault::FaultQueue,
    ffi::{
        device::Device,
        hw_queue,
        vdevice,
        vevent::VeventQ,
        viommu, //
    },
    hwpt::{
        NestedHwpt,
        PagingHwpt, //
    },
    ioas::Ioas, //
};
use kernel::bindings;

type Op = unsafe extern "C" fn(*mut bindings::iommufd_object);

/// The operations of a kind.
pub(super) struct Ops {
    /// Stops long-time users before destroy waits for them; may run more than once.
    pub(super) pre_destroy: Option<fn(&Object)>,
    /// Releases what the object holds, not its memory. For an object of this kind that nobody else
    /// uses.
    pub(super) destroy: Op,
    /// The same for an object that never was published, where that differs.
    pub(super) abort: Option<Op>,
}

impl Ops {
    const fn new(destroy: Op) -> Self {
        Self {
            pre_destroy: None,
            destroy,
            abort: None,
        }
    }
}

const COUNT: usize = bindings::iommufd_object_type_IOMMUFD_OBJ_MAX as usize;

/// `IOMMUFD_OBJ_NONE` is in no table, so that it is never destroyed.
extern "C" fn none(_: *mut bindings::iommufd_object) {}

/// # Safety
///
/// `object` is a `T` that nobody else uses, and is not used again.
unsafe extern "C" fn drop_as<T>(object: *mut bindings::iommufd_object) {
    // SAFETY: The caller gives a `T` away that nobody else uses.
    unsafe { object.cast::<T>().drop_in_place() };
}

/// The kinds that are Rust values, made by [`Reserved`](super::new::Reserved) and dropped at
/// their end.
macro_rules! kinds {
    ($($(#[$cfg:meta])* $id:ident => $type:ty,)*) => {
        $(
            $(#[$cfg])*
            // SAFETY: Only `Reserved` makes objects of this kind, of this type: a kind that is
            // here twice does not compile.
            unsafe impl Kind for $type {
                const ID: ObjectType = ObjectType(bindings::$id);
            }
        )*

        const _: () = {
            #[allow(dead_code, non_camel_case_types)]
            enum Once {
                $($(#[$cfg])* $id,)*
            }
        };

        const fn values(mut ops: [Ops; COUNT]) -> [Ops; COUNT] {
            $(
                $(#[$cfg])*
                {
                    ops[bindings::$id as usize] = Ops::new(drop_as::<$type>);
                }
            )*
            ops
        }
    };
}

kinds! {
    iommufd_object_type_IOMMUFD_OBJ_ACCESS => Access,
    iommufd_object_type_IOMMUFD_OBJ_DEVICE => Device,
    iommufd_object_type_IOMMUFD_OBJ_FAULT => FaultQueue,
    iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED => NestedHwpt,
    iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING => PagingHwpt,
    iommufd_object_type_IOMMUFD_OBJ_IOAS => Ioas,
    iommufd_object_type_IOMMUFD_OBJ_VEVENTQ => VeventQ,
    #[cfg(CONFIG_IOMMUFD_TEST)]
    iommufd_object_type_IOMMUFD_OBJ_SELFTEST => SelftestObject,
}

static OPS: [Ops; COUNT] = {
    let mut ops = values([const { Ops::new(none) }; COUNT]);

    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_DEVICE as usize].pre_destroy = Some(let_go);
    // What begins with the core's part and ends with the driver's.
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE as usize] =
        Ops::new(hw_queue::destroy_hw_queue);
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_VDEVICE as usize] = Ops {
        abort: Some(vdevice::abort_vdevice),
        ..Ops::new(vdevice::destroy_vdevice)
    };
    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_VIOMMU as usize] =
        Ops::new(viommu::destroy_viommu);
    ops
};

/// Has vIOMMUs let go of a device.
fn let_go(object: &Object) {
    if let Some(device) = downcast::<Device>(object) {
        crate::device::let_go(device);
    }
}

pub(super) fn of(kind: ObjectType) -> &'static Ops {
    // PANIC: Objects are only made with a kind of the enumeration.
    &OPS[kind.0 as usize]
}
