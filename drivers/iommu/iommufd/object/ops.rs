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
        driver_objects::{
            HwQueue,
            Vdevice,
            Viommu, //
        },
        vevent::VeventQ, //
    },
    hwpt::{
        NestedHwpt,
        PagingHwpt, //
    },
    ioas::Ioas, //
};
use core::ptr::NonNull;
use kernel::bindings;

/// The operations of a kind.
pub(super) struct Ops {
    /// Stops long-time users before destroy waits for them; may run more than once.
    pub(super) pre_destroy: Option<fn(&Object)>,
    /// Drops an object of this kind that nobody else uses; its memory is left.
    pub(super) destroy: unsafe fn(NonNull<Object>),
}

impl Ops {
    const fn new(destroy: unsafe fn(NonNull<Object>)) -> Self {
        Self {
            pre_destroy: None,
            destroy,
        }
    }
}

const COUNT: usize = bindings::iommufd_object_type_IOMMUFD_OBJ_MAX as usize;

/// `IOMMUFD_OBJ_NONE` is in no table, so that it is never destroyed.
fn none(_: NonNull<Object>) {}

/// # Safety
///
/// `object` is a `T` that nobody else uses, and is not used again, but its head.
unsafe fn drop_as<T>(object: NonNull<Object>) {
    // SAFETY: It is a `T` that is not used again, by the contract of this function.
    unsafe { object.cast::<T>().drop_in_place() };
}

/// All kinds, made by [`Reserved`](super::new::Reserved).
macro_rules! kinds {
    ($($(#[$cfg:meta])* $id:ident => $type:ty,)*) => {
        $(
            $(#[$cfg])*
            // SAFETY: Only `Reserved` makes objects of this kind, of this type: a kind that is
            // here twice does not compile.
            unsafe impl Kind for $type {
                const TYPE: ObjectType = ObjectType(bindings::$id);
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
    iommufd_object_type_IOMMUFD_OBJ_HW_QUEUE => HwQueue,
    iommufd_object_type_IOMMUFD_OBJ_IOAS => Ioas,
    iommufd_object_type_IOMMUFD_OBJ_VDEVICE => Vdevice,
    iommufd_object_type_IOMMUFD_OBJ_VEVENTQ => VeventQ,
    iommufd_object_type_IOMMUFD_OBJ_VIOMMU => Viommu,
    #[cfg(CONFIG_IOMMUFD_TEST)]
    iommufd_object_type_IOMMUFD_OBJ_SELFTEST => SelftestObject,
}

static OPS: [Ops; COUNT] = {
    let mut ops = values([const { Ops::new(none) }; COUNT]);

    ops[bindings::iommufd_object_type_IOMMUFD_OBJ_DEVICE as usize].pre_destroy = Some(let_go);
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
