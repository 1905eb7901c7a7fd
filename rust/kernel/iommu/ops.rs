// SPDX-License-Identifier: GPL-2.0

//! What an IOMMU driver implements, and the C tables that are made of it.
//!
//! - [`IommuOps`]: the driver. Which devices it serves, and which domains it makes for them.
//! - [`DomainOps`]: one type of domain. Attaching, and invalidating a user's translations.
//! - [`DirtyOps`]: a domain type that can track what was written to.
//! - [`ViommuOps`](super::viommu::ViommuOps): a share of the hardware, given to a virtual machine.
//!
//! A driver makes one `static` of [`IommuTable`], [`DomainTable`] and [`DirtyTable`] for each
//! implementation and returns it from `table()`. It must be a `static`: the core and
//! [`AnyDomain::downcast`] tell domains apart by the address of their table.
//!
//! Operations that a driver leaves out are `NULL` in the C table, as the core expects it.
//!
//! Attach operations run under the mutex of the device's group; allocation runs under none.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

pub use super::device::{
    Capability,
    Served, //
};

use super::{
    domain::{
        AnyDomain,
        Bare,
        Domain,
        Head,
        NewDomain,
        Owned,
        StaticDomain, //
    },
    user_data::{
        report,
        Handled,
        UserData,
        UserDataArray, //
    },
    viommu::{
        self,
        ViommuOps, //
    },
};
use crate::{
    bindings,
    device::Device,
    error::{
        from_result,
        VTABLE_DEFAULT_ERROR, //
    },
    mm::MmWithUser,
    prelude::*,
    types::Opaque,
    ModuleMetadata, //
};
use core::{
    marker::PhantomData,
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ptr::NonNull, //
};

/// A PASID, `NO_PASID` for DMA that has none.
pub type Pasid = bindings::ioasid_t;

/// DMA without a PASID.
pub const NO_PASID: Pasid = bindings::IOMMU_NO_PASID;

/// A type of domain.
///
/// All operations on an address space, except for mapping: that is the [`Head`]'s.
#[vtable]
pub trait DomainOps: Sized + Send + Sync + 'static {
    /// What its memory begins with.
    type Head: Head;

    /// The table of this type: always the same `static`.
    fn table() -> &'static DomainTable<Self>;

    /// Puts the DMA of `dev` that has no PASID into this domain. `old` is where it was.
    ///
    /// # Errors
    ///
    /// `EINVAL`: device and domain do not fit, others may; nothing has changed. What a lack of
    /// memory or the hardware answers: the DMA is where it was, or blocked if that cannot be.
    fn attach_dev(domain: &Domain<Self>, dev: &Served, old: Option<&AnyDomain>) -> Result;

    /// Puts the DMA of `dev` with this PASID into this domain. `old` is where it was.
    ///
    /// # Errors
    ///
    /// As for [`DomainOps::attach_dev`].
    fn set_dev_pasid(
        _domain: &Domain<Self>,
        _dev: &Served,
        _pasid: Pasid,
        _old: Option<&AnyDomain>,
    ) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Forgets what the hardware has cached of a user's page table. May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: entries of another type or length, or that make no sense. `EFAULT`: they cannot be
    /// read. `EOPNOTSUPP`: an unknown flag. Or what the hardware answers. The count says for how
    /// many entries the caches are clean all the same.
    fn cache_invalidate_user(_domain: &Domain<Self>, _requests: &UserDataArray) -> Handled {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Forgets what the hardware has cached of a range that was unmapped, and frees the page table
    /// pages of the gather when it has. Cannot fail. Must not sleep if the DMA API can use such a
    /// domain, for that unmaps in any context; iommufd calls where it may.
    fn iotlb_sync(_domain: &Domain<Self>, _gather: &mut Gather) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Makes what was mapped in `len` bytes of IO virtual addresses, from `iova` on, visible to the
    /// hardware. May not sleep, as [`DomainOps::iotlb_sync`].
    ///
    /// # Errors
    ///
    /// Those of the hardware: what was mapped is unmapped then.
    fn iotlb_sync_map(_domain: &Domain<Self>, _iova: u64, _len: usize) -> Result {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Forgets all that the hardware has cached of it. Cannot fail. May not sleep.
    fn flush_iotlb_all(_domain: &Domain<Self>) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Has all DMA of the domain snoop the CPU's caches from now on, whatever the device asks for.
    /// What was mapped before may stay as it is. Returns whether it does: not where it is attached
    /// to what cannot.
    fn enforce_cache_coherency(_domain: &Domain<Self>) -> bool {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// A range that was unmapped, and the page table pages that fell out of use with it.
#[repr(transparent)]
pub struct Gather(bindings::iommu_iotlb_gather);

impl Gather {
    /// The range in bytes of IO virtual address space, both ends included.
    #[inline]
    pub fn range(&self) -> (u64, u64) {
        (self.0.start as u64, self.0.end as u64)
    }

    /// Whether page table pages fell out of use.
    #[inline]
    pub fn has_pages(&self) -> bool {
        let head = &self.0.freelist.pages;
        !core::ptr::eq(head.next, head)
    }

    /// Frees the page table pages. The hardware must have forgotten them.
    #[inline]
    pub fn free_pages(&mut self) {
        // SAFETY: The list belongs to this gather, and its pages to nobody else.
        unsafe { bindings::iommu_put_pages_list(&mut self.0.freelist) };
    }
}

/// A type of domain that can track what was written to.
pub trait DirtyOps: DomainOps {
    /// The table of this type: always the same `static`.
    fn dirty_table() -> &'static DirtyTable<Self>;

    /// Begins or ends tracking; what it is already it may be told again. Dirty bits were cleared
    /// right before it begins.
    ///
    /// May sleep. iommufd holds the lock of the IOAS's IOVAs for reading, so two calls for one
    /// domain may meet, and devices may be attached and detached meanwhile.
    ///
    /// # Errors
    ///
    /// `EINVAL`: this domain cannot.
    fn set_dirty_tracking(domain: &Domain<Self>, enable: bool) -> Result;
}

/// One IOMMU, as the core knows it.
#[repr(transparent)]
pub struct IommuDevice(Opaque<bindings::iommu_device>);

// SAFETY: The core does its own locking.
unsafe impl Send for IommuDevice {}
// SAFETY: The core takes its own locks.
unsafe impl Sync for IommuDevice {}

impl IommuDevice {
    /// One that is not registered yet.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(Opaque::zeroed())
    }

    /// As C knows it.
    #[inline]
    pub const fn as_raw(&self) -> *mut bindings::iommu_device {
        self.0.get()
    }
}

/// What user space asks a new domain to be: `IOMMU_HWPT_ALLOC_*` of the user API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AllocFlags(u32);

impl AllocFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// A parent for nested domains.
    pub const NEST_PARENT: Self =
        Self(bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_NEST_PARENT);
    /// It tracks what was written to.
    pub const DIRTY_TRACKING: Self =
        Self(bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_DIRTY_TRACKING);
    /// It can be attached to a PASID.
    pub const PASID: Self = Self(bindings::iommufd_hwpt_alloc_flags_IOMMU_HWPT_ALLOC_PASID);

    /// What user space passed, not looked at yet.
    #[inline]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// Both sets together.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is asked for.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Refuses what the driver does not know.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: something is asked for that is not in `known`.
    pub fn only(self, known: Self) -> Result {
        if self.0 & !known.0 != 0 {
            return Err(EOPNOTSUPP);
        }
        Ok(())
    }
}

/// What a driver tells user space about its hardware.
///
/// # Invariants
///
/// `data` points to `len` initialised bytes that [`Kmalloc`] gave and nobody else knows of.
pub struct HwInfo {
    kind: u32,
    data: NonNull<c_void>,
    len: u32,
}

impl HwInfo {
    /// `kind` is the type of `data`, `enum iommu_hw_info_type` of the user API.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    #[inline]
    pub fn new<T: IntoBytes>(kind: u32, data: T) -> Result<Self> {
        const { assert!(size_of::<T>() != 0 && size_of::<T>() <= u32::MAX as usize) };
        let data = NonNull::from(KBox::leak(KBox::new(data, GFP_KERNEL)?)).cast();
        // INVARIANT: The type has no padding, and the box was given away.
        Ok(Self {
            kind,
            data,
            len: size_of::<T>() as u32,
        })
    }

    /// Gives the bytes away, to be freed with kfree(): their length, their type and where they are.
    #[inline]
    fn into_raw(self) -> (u32, u32, *mut c_void) {
        let this = ManuallyDrop::new(self);
        (this.len, this.kind, this.data.as_ptr())
    }
}

impl Drop for HwInfo {
    fn drop(&mut self) {
        // SAFETY: The bytes are ours, and `Kmalloc` gave them.
        unsafe { bindings::kfree(self.data.as_ptr()) };
    }
}

/// A driver.
#[vtable]
pub trait IommuOps: Sized + 'static {
    /// Its vIOMMUs.
    type Viommu: ViommuOps;

    /// The table of this driver: always the same `static`.
    fn table() -> &'static IommuTable<Self>;

    /// Whether it can do something for this device. A driver without has it in C, see
    /// [`IommuTable::with`].
    fn capable(_dev: &Served, _capability: Capability) -> bool {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// What hardware serves this device. `wanted` is the type of information that user space
    /// knows, 0 for any.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: there is no such information.
    fn hw_info(_dev: &Served, _wanted: u32) -> Result<HwInfo> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Makes a paging domain. `data` is what the driver's part of the user API carries.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it cannot do what is asked for.
    fn domain_alloc_paging_flags(
        dev: &Served,
        flags: AllocFlags,
        data: Option<&UserData>,
    ) -> Result<NewDomain>;

    /// Makes a nested domain on top of `parent`.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it cannot do what is asked for. `EINVAL`: not on this parent.
    fn domain_alloc_nested(
        _dev: &Served,
        _parent: &AnyDomain,
        _flags: AllocFlags,
        _data: &UserData,
    ) -> Result<NewDomain> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Makes a domain of the memory of a process, in which devices work by PASIDs. The core holds
    /// its mutex for that; may sleep.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the IOMMU cannot. `EINVAL`: the device cannot. `ENOMEM`.
    fn domain_alloc_sva(_dev: &Served, _mm: &MmWithUser) -> Result<NewDomain> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// The IOMMU that serves this device. The core asks once, when it sees the device, under its
    /// mutex for that; may sleep. The device is in no group yet, and attached to nothing. A driver
    /// without has it in C, see [`IommuTable::with`].
    ///
    /// # Errors
    ///
    /// `ENODEV`: none of this driver does.
    fn probe_device(_dev: &Device) -> Result<&'static IommuDevice> {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Tells the device how the page faults of a group, or the one that came alone, were answered.
    /// Under the mutex of the device's faults; may sleep, and cannot fail.
    ///
    /// `code` is `enum iommu_page_response_code`: 0, try again; 1, that access is invalid; 2, drop
    /// what else comes of this device.
    fn page_response(_dev: &Device, _pasid: Pasid, _group: u32, _code: u32) {
        build_error!(VTABLE_DEFAULT_ERROR)
    }

    /// Whether it can give this device a vIOMMU of this type, `enum iommu_viommu_type` of the user
    /// API. Without it none of its devices has any. If it can, [`ViommuOps::new`] may still refuse.
    fn has_viommu(_dev: &Served, _kind: u32) -> bool {
        build_error!(VTABLE_DEFAULT_ERROR)
    }
}

/// The C table of a domain type.
#[repr(transparent)]
pub struct DomainTable<T>(bindings::iommu_domain_ops, PhantomData<T>);

// SAFETY: It is never written to.
unsafe impl<T> Sync for DomainTable<T> {}

impl<T: DomainOps> DomainTable<T> {
    /// Makes the table. It belongs into a `static` that [`DomainOps::table`] returns.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        // SAFETY: All of its members may be zero.
        let mut ops: bindings::iommu_domain_ops = unsafe { MaybeUninit::zeroed().assume_init() };
        ops.attach_dev = Some(Self::attach_dev);
        ops.free = Some(Self::free);
        ops.iova_to_phys = T::Head::IOVA_TO_PHYS;
        if T::HAS_SET_DEV_PASID {
            ops.set_dev_pasid = Some(Self::set_dev_pasid);
        }
        if T::HAS_CACHE_INVALIDATE_USER {
            ops.cache_invalidate_user = Some(Self::cache_invalidate_user);
        }
        if T::HAS_IOTLB_SYNC {
            ops.iotlb_sync = Some(Self::iotlb_sync);
        }
        if T::HAS_IOTLB_SYNC_MAP {
            ops.iotlb_sync_map = Some(Self::iotlb_sync_map);
        }
        if T::HAS_FLUSH_IOTLB_ALL {
            ops.flush_iotlb_all = Some(Self::flush_iotlb_all);
        }
        if T::HAS_ENFORCE_CACHE_COHERENCY {
            ops.enforce_cache_coherency = Some(Self::enforce_cache_coherency);
        }
        Self(ops, PhantomData)
    }

    /// Makes the table of a type of which there is only a [`StaticDomain`]: the core frees every
    /// domain whose table says how.
    pub const fn of_static() -> Self {
        let mut table = Self::new();
        table.0.free = None;
        table
    }

    /// The table of a type that something else knows of, too: the core does not free a domain, but
    /// calls `put` with it in the end.
    ///
    /// # Safety
    ///
    /// `put` may be called once on each domain that was given to the core, or that was about to be
    /// ([`NewDomain`]). It lets it go with [`Owned::from_raw`], then or later.
    pub const unsafe fn freed_by(
        mut self,
        put: unsafe extern "C" fn(*mut bindings::iommu_domain),
    ) -> Self {
        self.0.free = Some(put);
        self
    }

    /// Whether the core frees domains with this table.
    pub(super) const fn frees(&self) -> bool {
        self.0.free.is_some()
    }

    /// The table as C knows it.
    #[inline]
    pub const fn as_raw(&'static self) -> *const bindings::iommu_domain_ops {
        &self.0
    }

    /// # Safety
    ///
    /// Called by the core on a domain that has this table, for a device of this driver.
    unsafe extern "C" fn attach_dev(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        old: *mut bindings::iommu_domain,
    ) -> c_int {
        // SAFETY: The domain has this table.
        let domain = unsafe { Domain::<T>::from_raw(domain) };
        // SAFETY: The core holds the mutex of the group.
        let dev = unsafe { Served::from_raw(dev) };
        // SAFETY: The device is still attached to it.
        let old = unsafe { AnyDomain::from_nullable(old) };
        from_result(|| T::attach_dev(domain, dev, old).map(|()| 0))
    }

    /// # Safety
    ///
    /// As for `attach_dev()`.
    unsafe extern "C" fn set_dev_pasid(
        domain: *mut bindings::iommu_domain,
        dev: *mut bindings::device,
        pasid: bindings::ioasid_t,
        old: *mut bindings::iommu_domain,
    ) -> c_int {
        // SAFETY: The domain has this table.
        let domain = unsafe { Domain::<T>::from_raw(domain) };
        // SAFETY: The core holds the mutex of the group.
        let dev = unsafe { Served::from_raw(dev) };
        // SAFETY: The PASID is still attached to it.
        let old = unsafe { AnyDomain::from_nullable(old) };
        from_result(|| T::set_dev_pasid(domain, dev, pasid, old).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by the core on a domain that has this table, with an array of its own.
    unsafe extern "C" fn cache_invalidate_user(
        domain: *mut bindings::iommu_domain,
        array: *mut bindings::iommu_user_data_array,
    ) -> c_int {
        // SAFETY: The domain has this table.
        let domain = unsafe { Domain::<T>::from_raw(domain) };
        // SAFETY: The array is on the stack of the caller.
        unsafe { report(array, |requests| T::cache_invalidate_user(domain, requests)) }
    }

    /// # Safety
    ///
    /// Called by the core on a domain that has this table, with a gather of its own.
    unsafe extern "C" fn iotlb_sync(
        domain: *mut bindings::iommu_domain,
        gather: *mut bindings::iommu_iotlb_gather,
    ) {
        // SAFETY: The domain has this table.
        let domain = unsafe { Domain::<T>::from_raw(domain) };
        // SAFETY: The type is transparent, and the gather is on the stack of the caller.
        T::iotlb_sync(domain, unsafe { &mut *gather.cast() });
    }

    /// # Safety
    ///
    /// Called by the core on a domain that has this table.
    unsafe extern "C" fn iotlb_sync_map(
        domain: *mut bindings::iommu_domain,
        iova: c_ulong,
        len: usize,
    ) -> c_int {
        // SAFETY: Only domains of this type have this table.
        let domain = unsafe { Domain::<T>::from_raw(domain) };
        from_result(|| T::iotlb_sync_map(domain, iova as u64, len).map(|()| 0))
    }

    /// # Safety
    ///
    /// Called by the core on a domain that has this table.
    unsafe extern "C" fn flush_iotlb_all(domain: *mut bindings::iommu_domain) {
        // SAFETY: Only domains of this type have this table.
        T::flush_iotlb_all(unsafe { Domain::<T>::from_raw(domain) });
    }

    /// # Safety
    ///
    /// Called by the core on a domain that has this table.
    unsafe extern "C" fn enforce_cache_coherency(domain: *mut bindings::iommu_domain) -> bool {
        // SAFETY: Only domains of this type have this table.
        T::enforce_cache_coherency(unsafe { Domain::<T>::from_raw(domain) })
    }

    /// # Safety
    ///
    /// Called by the core once, on a domain that has this table and is not attached.
    unsafe extern "C" fn free(domain: *mut bindings::iommu_domain) {
        // SAFETY: The core got it from `Owned::into_raw()`: static domains are never freed.
        drop(unsafe { Owned::<T>::from_raw(domain) });
    }
}

/// The C table of a domain type's dirty tracking.
#[repr(transparent)]
pub struct DirtyTable<T>(bindings::iommu_dirty_ops, PhantomData<T>);

// SAFETY: It is never written to.
unsafe impl<T> Sync for DirtyTable<T> {}

impl<T: DirtyOps> DirtyTable<T> {
    /// Makes the table. It belongs into a `static` that [`DirtyOps::dirty_table`] returns.
    ///
    /// The core collects dirty bits where it finds a table, so the head must be one that can:
    ///
    /// ```ignore,compile_fail,E0080
    /// use kernel::iommu::{
    ///     domain::{AnyDomain, Bare, Domain},
    ///     ops::{DirtyOps, DirtyTable, DomainOps, DomainTable, Served},
    /// };
    ///
    /// struct Clean;
    /// static TABLE: DomainTable<Clean> = DomainTable::new();
    /// static DIRTY: DirtyTable<Clean> = DirtyTable::new();
    ///
    /// # #[vtable]
    /// impl DomainOps for Clean {
    ///     type Head = Bare;
    /// #   fn table() -> &'static DomainTable<Self> {
    /// #       &TABLE
    /// #   }
    /// #   fn attach_dev(_: &Domain<Self>, _: &Served, _: Option<&AnyDomain>) -> Result {
    /// #       Ok(())
    /// #   }
    /// }
    ///
    /// impl DirtyOps for Clean {
    /// #   fn dirty_table() -> &'static DirtyTable<Self> {
    /// #       &DIRTY
    /// #   }
    /// #   fn set_dirty_tracking(_: &Domain<Self>, _: bool) -> Result {
    /// #       Ok(())
    /// #   }
    /// }
    /// ```
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        const { assert!(T::Head::READ_AND_CLEAR_DIRTY.is_some()) };
        Self(
            bindings::iommu_dirty_ops {
                set_dirty_tracking: Some(Self::set_dirty_tracking),
                read_and_clear_dirty: T::Head::READ_AND_CLEAR_DIRTY,
            },
            PhantomData,
        )
    }

    /// The table as C knows it.
    #[inline]
    pub const fn as_raw(&'static self) -> *const bindings::iommu_dirty_ops {
        &self.0
    }

    /// # Safety
    ///
    /// Called by the core on a domain that has this table.
    unsafe extern "C" fn set_dirty_tracking(
        domain: *mut bindings::iommu_domain,
        enable: bool,
    ) -> c_int {
        // SAFETY: The domain has this table, so it is of this type.
        let domain = unsafe { Domain::<T>::from_raw(domain) };
        from_result(|| T::set_dirty_tracking(domain, enable).map(|()| 0))
    }
}

/// The bit field with `user_pasid_table` set: bindgen's functions for that are not `const`.
const USER_PASID_TABLE: bindings::__BindgenBitfieldUnit<[u8; 1]> =
    bindings::__BindgenBitfieldUnit::new([1]);

/// The C table of a driver.
#[repr(transparent)]
pub struct IommuTable<T>(bindings::iommu_ops, PhantomData<T>);

// SAFETY: It is never written to.
unsafe impl<T> Sync for IommuTable<T> {}

impl<T: IommuOps> IommuTable<T> {
    /// Makes the table. It belongs into a `static` that [`IommuOps::table`] returns.
    #[expect(clippy::new_without_default)]
    pub const fn new() -> Self {
        // SAFETY: All of its members may be zero.
        let mut ops: bindings::iommu_ops = unsafe { MaybeUninit::zeroed().assume_init() };
        ops.owner = <T::OwnerModule as ModuleMetadata>::THIS_MODULE.as_ptr();
        if T::HAS_CAPABLE {
            ops.capable = Some(Self::capable);
        }
        ops.domain_alloc_paging_flags = Some(Self::domain_alloc_paging_flags);
        if T::HAS_PROBE_DEVICE {
            ops.probe_device = Some(Self::probe_device);
        }
        ops.device_group = Some(bindings::generic_device_group);
        if T::HAS_HW_INFO {
            ops.hw_info = Some(Self::hw_info);
        }
        if T::HAS_DOMAIN_ALLOC_NESTED {
            ops.domain_alloc_nested = Some(Self::domain_alloc_nested);
        }
        if T::HAS_DOMAIN_ALLOC_SVA {
            ops.domain_alloc_sva = Some(Self::domain_alloc_sva);
        }
        if T::HAS_PAGE_RESPONSE {
            ops.page_response = Some(Self::page_response);
        }
        if T::HAS_HAS_VIOMMU {
            ops.get_viommu_size = Some(Self::get_viommu_size);
            ops.viommu_init = Some(viommu::init::<T::Viommu>);
        }
        Self(ops, PhantomData)
    }

    /// Where devices are when nobody else drives them, and when they must not do any DMA.
    pub const fn blocked_by_default<B: DomainOps<Head = Bare>>(
        mut self,
        domain: &'static StaticDomain<B>,
    ) -> Self {
        self.0.default_domain = domain.as_raw();
        self.0.blocked_domain = domain.as_raw();
        self
    }

    /// Where devices are that must not do any DMA, and those that the driver is to release.
    pub const fn blocked<B: DomainOps<Head = Bare>>(
        mut self,
        domain: &'static StaticDomain<B>,
    ) -> Self {
        self.0.blocked_domain = domain.as_raw();
        self.0.release_domain = domain.as_raw();
        self
    }

    /// Where devices are whose addresses are physical ones.
    pub const fn identity<I: DomainOps<Head = Bare>>(
        mut self,
        domain: &'static StaticDomain<I>,
    ) -> Self {
        self.0.identity_domain = domain.as_raw();
        self
    }

    /// What the table has until now, for a driver that is partly C.
    pub const fn into_raw(self) -> bindings::iommu_ops {
        self.0
    }

    /// A table with operations of C besides, made of [`IommuTable::into_raw`].
    ///
    /// # Safety
    ///
    /// What C has put in can be called as `struct iommu_ops` says, for all devices of this driver,
    /// and what was there is unchanged, or does what this type would.
    pub const unsafe fn with(ops: bindings::iommu_ops) -> Self {
        Self(ops, PhantomData)
    }

    /// User space manages the PASID table, and faults come in through the device's own domain.
    pub const fn user_pasid_table(mut self) -> Self {
        self.0._bitfield_1 = USER_PASID_TABLE;
        self
    }

    /// The table as C knows it.
    #[inline]
    pub const fn as_raw(&'static self) -> *const bindings::iommu_ops {
        &self.0
    }

    /// # Safety
    ///
    /// Called by the core for a device of this driver.
    unsafe extern "C" fn capable(dev: *mut bindings::device, cap: bindings::iommu_cap) -> bool {
        // SAFETY: Who asks keeps the device bound, or has the mutex of its group.
        T::capable(unsafe { Served::from_raw(dev) }, Capability::from_raw(cap))
    }

    /// # Safety
    ///
    /// As for `capable()`.
    unsafe extern "C" fn hw_info(
        dev: *mut bindings::device,
        length: *mut u32,
        kind: *mut bindings::iommu_hw_info_type,
    ) -> *mut c_void {
        // SAFETY: The device is bound to who asks.
        let dev = unsafe { Served::from_raw(dev) };
        // SAFETY: The core passes both as pointers to its own variables.
        let wanted = unsafe { *kind };
        let info = match T::hw_info(dev, wanted) {
            Ok(info) => info,
            Err(why) => return why.to_ptr(),
        };
        let (len, type_, data) = info.into_raw();
        // SAFETY: `kind` is a variable of the core's, see above.
        unsafe { *kind = type_ };
        // SAFETY: And so is `length`.
        unsafe { *length = len };
        // The core frees it with kfree().
        data
    }

    /// # Safety
    ///
    /// As for `capable()`.
    unsafe extern "C" fn domain_alloc_paging_flags(
        dev: *mut bindings::device,
        flags: u32,
        data: *const bindings::iommu_user_data,
    ) -> *mut bindings::iommu_domain {
        // SAFETY: Who makes a domain for a device has it bound, or has the mutex of its group.
        let dev = unsafe { Served::from_raw(dev) };
        // SAFETY: Null, or on the stack of the caller.
        let data = (!data.is_null()).then(|| unsafe { UserData::from_raw(data) });
        give(T::domain_alloc_paging_flags(dev, AllocFlags(flags), data))
    }

    /// # Safety
    ///
    /// As for `capable()`.
    unsafe extern "C" fn domain_alloc_nested(
        dev: *mut bindings::device,
        parent: *mut bindings::iommu_domain,
        flags: u32,
        data: *const bindings::iommu_user_data,
    ) -> *mut bindings::iommu_domain {
        // SAFETY: The device is bound to who makes a domain for it.
        let dev = unsafe { Served::from_raw(dev) };
        // SAFETY: The caller holds the parent, if there is one.
        let Some(parent) = (unsafe { AnyDomain::from_nullable(parent) }) else {
            return EINVAL.to_ptr();
        };
        // SAFETY: On the stack of the caller.
        let data = unsafe { UserData::from_raw(data) };
        give(T::domain_alloc_nested(dev, parent, AllocFlags(flags), data))
    }

    /// # Safety
    ///
    /// As for `capable()`; `mm` is the memory of a process that has not ended.
    unsafe extern "C" fn domain_alloc_sva(
        dev: *mut bindings::device,
        mm: *mut bindings::mm_struct,
    ) -> *mut bindings::iommu_domain {
        // SAFETY: Who binds a process to a device drives the device.
        let dev = unsafe { Served::from_raw(dev) };
        // SAFETY: Who binds a process holds a reference to its users.
        let mm = unsafe { MmWithUser::from_raw(mm) };
        give(T::domain_alloc_sva(dev, mm))
    }

    /// # Safety
    ///
    /// As for `capable()`.
    unsafe extern "C" fn probe_device(dev: *mut bindings::device) -> *mut bindings::iommu_device {
        // SAFETY: The core holds the device.
        match T::probe_device(unsafe { Device::from_raw(dev) }) {
            Ok(iommu) => iommu.as_raw(),
            Err(why) => why.to_ptr(),
        }
    }

    /// # Safety
    ///
    /// As for `capable()`.
    unsafe extern "C" fn page_response(
        dev: *mut bindings::device,
        _fault: *mut bindings::iopf_fault,
        response: *mut bindings::iommu_page_response,
    ) {
        // SAFETY: The core holds the device.
        let dev = unsafe { Device::from_raw(dev) };
        // SAFETY: On the stack of the caller.
        let response = unsafe { &*response };
        T::page_response(dev, response.pasid, response.grpid, response.code);
    }

    /// # Safety
    ///
    /// As for `capable()`.
    unsafe extern "C" fn get_viommu_size(
        dev: *mut bindings::device,
        kind: bindings::iommu_viommu_type,
    ) -> usize {
        // SAFETY: The device is bound to who asks.
        if T::has_viommu(unsafe { Served::from_raw(dev) }, kind) {
            viommu::size::<T::Viommu>()
        } else {
            0
        }
    }
}

/// What the core wants of an allocation: a domain or an error.
pub(super) fn give<D: Into<NewDomain>>(domain: Result<D>) -> *mut bindings::iommu_domain {
    match domain {
        Ok(domain) => domain.into().into_raw(),
        Err(why) => why.to_ptr(),
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[macros::kunit_tests(rust_kernel_iommu_ops)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_are_known() {
        let every = AllocFlags::NEST_PARENT
            .or(AllocFlags::DIRTY_TRACKING)
            .or(AllocFlags::PASID);
        for (flags, known, result) in [
            (AllocFlags::NONE, AllocFlags::NONE, Ok(())),
            (AllocFlags::NONE, every, Ok(())),
            (every, every, Ok(())),
            (AllocFlags::PASID, every, Ok(())),
            (AllocFlags::PASID, AllocFlags::PASID, Ok(())),
            (AllocFlags::PASID, AllocFlags::NONE, Err(EOPNOTSUPP)),
            (AllocFlags::PASID, AllocFlags::NEST_PARENT, Err(EOPNOTSUPP)),
            (every, AllocFlags::PASID, Err(EOPNOTSUPP)),
            (AllocFlags::from_raw(1 << 31), every, Err(EOPNOTSUPP)),
            (AllocFlags::from_raw(u32::MAX), every, Err(EOPNOTSUPP)),
        ] {
            assert_eq!(flags.only(known), result);
        }
    }

    #[test]
    fn flags_that_are_in_others() {
        let two = AllocFlags::NEST_PARENT.or(AllocFlags::PASID);
        for (flags, other, expected) in [
            (AllocFlags::NONE, AllocFlags::NONE, true),
            (two, AllocFlags::NONE, true),
            (two, AllocFlags::PASID, true),
            (two, two, true),
            (two, AllocFlags::DIRTY_TRACKING, false),
            (AllocFlags::PASID, two, false),
            (AllocFlags::NONE, AllocFlags::PASID, false),
        ] {
            assert_eq!(flags.contains(other), expected);
        }
    }

    #[test]
    fn user_pasid_table_is_that_bit() {
        let mut ops = bindings::iommu_ops::default();
        assert_eq!(ops.user_pasid_table(), 0);
        ops._bitfield_1 = USER_PASID_TABLE;
        assert_eq!(ops.user_pasid_table(), 1);
    }
}
