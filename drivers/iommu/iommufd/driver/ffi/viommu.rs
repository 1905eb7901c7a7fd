// SPDX-License-Identifier: GPL-2.0-only

//! A vIOMMU and its vDEVICEs, as drivers look at them.
//!
//! C header: [`include/linux/iommufd.h`](srctree/include/linux/iommufd.h)

use super::shared::DeviceHead;
use core::{
    iter,
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::rwsem::{
        ReadGuard,
        RwSem, //
    },
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// `struct iommufd_viommu`.
///
/// # Invariants
///
/// The core's part of it is initialised.
#[repr(transparent)]
pub(crate) struct Viommu(Opaque<bindings::iommufd_viommu>);

impl Viommu {
    /// # Safety
    ///
    /// `ptr` must be an initialised vIOMMU that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_viommu) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::iommufd_viommu {
        self.0.get()
    }

    /// Takes the semaphore of its event queues for reading. May sleep.
    pub(super) fn read_queues(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariant; only the address is taken.
        let sem = unsafe { &raw mut (*self.as_raw()).veventqs_rwsem };
        // SAFETY: By the type invariant it is initialised.
        unsafe { RwSem::from_raw(sem) }.read()
    }

    fn xarray(&self) -> *mut bindings::xarray {
        // SAFETY: By the type invariant; only the address is taken.
        unsafe { &raw mut (*self.as_raw()).vdevs }
    }

    /// Calls `f` with the spinlock of the vDEVICEs held.
    pub(crate) fn with_vdevs<R>(&self, f: impl FnOnce(&Vdevs<'_>) -> R) -> R {
        let xa = self.xarray();
        // SAFETY: By the type invariant it is initialised.
        unsafe { bindings::xa_lock(xa) };
        // INVARIANT: It is held until `f` has returned.
        let result = f(&Vdevs {
            xa,
            _locked: PhantomData,
        });
        // SAFETY: It is held.
        unsafe { bindings::xa_unlock(xa) };
        result
    }
}

/// The vDEVICEs of a vIOMMU by their virtual ids.
///
/// # Invariants
///
/// The xarray's spinlock is held for `'a`, so that entries neither come nor go; they are vDEVICEs.
pub(crate) struct Vdevs<'a> {
    xa: *mut bindings::xarray,
    _locked: PhantomData<(&'a Viommu, NotThreadSafe)>,
}

impl<'a> Vdevs<'a> {
    /// # Safety
    ///
    /// The caller must hold the spinlock for `'a`.
    pub(super) unsafe fn held(viommu: &'a Viommu) -> Self {
        let xa = viommu.xarray();
        // SAFETY: Only the address is taken.
        let lock = unsafe { &raw mut (*xa).xa_lock };
        // SAFETY: By the type invariant of the vIOMMU it is initialised.
        unsafe { bindings::spin_assert_is_held(lock) };
        // INVARIANT: By the caller.
        Self {
            xa,
            _locked: PhantomData,
        }
    }

    /// The one with this virtual id. An id that is reserved for a vDEVICE in the making has none.
    pub(crate) fn get(&self, virt_id: usize) -> Option<&Vdevice> {
        // SAFETY: By the type invariant; a reserved entry reads as null.
        let entry = unsafe { bindings::xa_load(self.xa, virt_id) };
        // SAFETY: Entries are vDEVICEs, which stay while the spinlock is held.
        unsafe { entry.cast::<Vdevice>().as_ref() }
    }

    /// All of them. Reserved ids are left out.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Vdevice> {
        let (xa, mut index) = (self.xa, 0);
        // SAFETY: The xarray is initialised, and its spinlock held.
        let first = unsafe { bindings::xa_find(xa, &mut index, usize::MAX, bindings::XA_PRESENT) };
        let next = move |_: &NonNull<c_void>| {
            // SAFETY: The xarray is initialised, and its spinlock held.
            let entry = unsafe {
                bindings::xa_find_after(xa, &mut index, usize::MAX, bindings::XA_PRESENT)
            };
            NonNull::new(entry)
        };
        // SAFETY: Entries are vDEVICEs, which stay while the spinlock is held.
        iter::successors(NonNull::new(first), next).map(|it| unsafe { it.cast().as_ref() })
    }
}

/// `struct iommufd_vdevice`.
///
/// # Invariants
///
/// It is initialised, and keeps its device.
#[repr(transparent)]
pub(crate) struct Vdevice(Opaque<bindings::iommufd_vdevice>);

impl Vdevice {
    /// # Safety
    ///
    /// `ptr` must be an initialised vDEVICE that stays valid for `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *mut bindings::iommufd_vdevice) -> &'a Self {
        // SAFETY: By the caller; the layouts are the same.
        unsafe { &*ptr.cast() }
    }

    /// Its id in the virtual machine.
    pub(crate) fn virt_id(&self) -> usize {
        // SAFETY: By the type invariant; it does not change.
        unsafe { (*self.0.get()).virt_id as usize }
    }

    /// The device of the machine.
    pub(crate) fn dev(&self) -> Dev {
        // SAFETY: By the type invariant the device is kept, and neither field changes.
        let device = unsafe { &*(*self.0.get()).idev.cast::<DeviceHead>() };
        Dev(device.dev.as_ptr())
    }
}

/// Which device: to compare, and to hand on to C.
#[derive(Clone, Copy)]
pub(crate) struct Dev(pub(super) *mut bindings::device);

impl PartialEq for Dev {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}
