// SPDX-License-Identifier: GPL-2.0-only

//! Domains as iommufd owns them, and the driver that makes them for a device.
//!
//! [`Domain`] is a domain that iommufd allocated, freed when dropped: no device may be attached to
//! it then. [`Driver`] is the table of operations of the driver that serves a device. Whether a
//! driver has an operation is asked here, where it is called: one that is missing is an error
//! value, never a jump to nowhere.
//!
//! None of this takes locks of its own; drivers may sleep.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use crate::hwpt::Hwpt;
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    device::Bound,
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    types::Opaque, //
};

/// A physical device. Its driver bound it to iommufd, and unbinds it before it lets go of it.
///
/// # Invariants
///
/// A driver is bound to the device as long as it is borrowed.
#[repr(transparent)]
pub(crate) struct PhysDev(Opaque<bindings::device>);

// SAFETY: Devices may be used from anywhere.
unsafe impl Send for PhysDev {}
// SAFETY: Devices have their own locks, so several threads may use one.
unsafe impl Sync for PhysDev {}

impl PhysDev {
    /// # Safety
    ///
    /// `raw` is a device that a driver is bound to for `'a`.
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::device) -> &'a Self {
        // INVARIANT: By the contract of this function.
        // SAFETY: A device that is bound is valid; the type is transparent.
        unsafe { &*raw.cast() }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::device {
        self.0.get()
    }

    /// The device as the rest of the kernel's abstractions know it.
    pub(crate) fn as_device(&self) -> &kernel::device::Device<Bound> {
        // SAFETY: By the type invariant it is valid, and bound.
        unsafe { kernel::device::Device::from_raw(self.as_raw()) }
    }

    /// What the IOMMU core keeps for it, some of which others change; `None` when no driver serves
    /// it. It is valid as long as the device, which is bound to iommufd and so keeps its IOMMU.
    fn iommu(&self) -> Option<NonNull<bindings::dev_iommu>> {
        // SAFETY: It is a valid device, whose IOMMU does not change while it is bound.
        NonNull::new(unsafe { (*self.as_raw()).iommu })
    }

    /// Whether a driver of an IOMMU serves it. There may be a group without one.
    pub(crate) fn has_iommu(&self) -> bool {
        self.iommu().is_some()
    }

    /// The IOMMU that serves it, or null.
    pub(super) fn iommu_dev(&self) -> *mut bindings::iommu_device {
        // SAFETY: See `iommu`; it does not change.
        let of = |iommu: NonNull<bindings::dev_iommu>| unsafe { (*iommu.as_ptr()).iommu_dev };
        self.iommu().map_or(core::ptr::null_mut(), of)
    }

    /// The number of PASIDs that are enabled, 0 when the device has none.
    pub(crate) fn max_pasids(&self) -> u32 {
        // SAFETY: See `iommu`; it does not change.
        self.iommu()
            .map_or(0, |iommu| unsafe { (*iommu.as_ptr()).max_pasids })
    }

    /// Whether it is one that the selftest made up.
    pub(crate) fn is_mock(&self) -> bool {
        #[cfg(CONFIG_IOMMUFD_TEST)]
        return super::selftest::device::from_device(self.as_device()).is_some();
        #[cfg(not(CONFIG_IOMMUFD_TEST))]
        false
    }

    fn pci(&self) -> Option<*mut bindings::pci_dev> {
        // SAFETY: It is a valid device.
        let is_pci = unsafe { bindings::dev_is_pci(self.as_raw()) };
        // SAFETY: A PCI device begins before its device.
        is_pci.then(|| unsafe {
            self.as_raw()
                .byte_sub(core::mem::offset_of!(bindings::pci_dev, dev))
                .cast()
        })
    }

    /// Whether it is a virtual function with a page request interface, which is that of its
    /// physical function.
    pub(crate) fn shares_page_requests(&self) -> bool {
        let Some(pci) = self.pci() else { return false };
        // SAFETY: It is a valid PCI device.
        if unsafe { (*pci).is_virtfn() } == 0 {
            return false;
        }
        // SAFETY: It is a valid PCI device, as was found above.
        unsafe { bindings::pci_pri_supported(pci) }
    }

    /// The bits of the PASID capability's control register; `None` for no PCI device.
    #[inline(always)]
    pub(crate) fn pasid_control(&self) -> Option<Result<u32>> {
        // SAFETY: It is a valid PCI device.
        let control = unsafe { bindings::pci_pasid_status(self.pci()?) };
        Some(to_result(control.min(0)).map(|()| control as u32))
    }
}

/// Room for a structure that a driver defines.
pub(crate) struct UserRoom(MaybeUninit<[u8; UserRoom::SIZE]>);

impl UserRoom {
    /// No driver's structure is longer; what is longer it refuses for that, and does not look at.
    const SIZE: usize = bindings::IOMMU_USER_DATA_MAX as usize;

    /// With nothing in it.
    #[inline]
    pub(crate) const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

/// A structure that a driver defines, as it was in user space: drivers are asked while their device
/// is lent, and user memory may never answer.
pub(crate) struct UserData<'a>(bindings::iommu_user_data, PhantomData<&'a UserRoom>);

impl<'a> UserData<'a> {
    /// Copies `len` bytes from the user address `at`; what they mean is up to the driver and
    /// `kind`. What cannot be read is an error when the driver wants it, after its other checks.
    #[inline]
    pub(crate) fn copy(room: &'a mut UserRoom, kind: u32, at: u64, len: u32) -> Self {
        let mut data = bindings::iommu_user_data {
            type_: kind,
            // No user memory is there: who tries to read it gets `EFAULT` at once.
            uptr: core::ptr::without_provenance_mut(usize::MAX),
            len: len as usize,
            copy: core::ptr::null(),
        };
        if (1..=UserRoom::SIZE).contains(&data.len) {
            let from = core::ptr::without_provenance(at as usize);
            let to: *mut c_void = room.0.as_mut_ptr().cast();
            // SAFETY: There is room for the bytes; the address is checked.
            if unsafe { bindings::copy_from_user(to, from, data.len) } == 0 {
                data.uptr = core::ptr::null_mut();
                data.copy = to.cast_const();
            }
        }
        Self(data, PhantomData)
    }

    /// Whether user space gave none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// As drivers get it. It is valid as long as `self` is.
    #[inline]
    pub(super) fn as_raw(&self) -> &bindings::iommu_user_data {
        &self.0
    }
}

/// A structure in user space that a driver reads and writes. No device may be lent meanwhile, nor
/// anything else that others wait for.
pub(crate) struct UserBuffer(bindings::iommu_user_data);

impl UserBuffer {
    /// `len` bytes at the user address `at`; what they mean is up to the driver and `kind`.
    pub(crate) fn new(kind: u32, at: u64, len: u32) -> Self {
        Self(bindings::iommu_user_data {
            type_: kind,
            uptr: core::ptr::without_provenance_mut(at as usize),
            len: len as usize,
            copy: core::ptr::null(),
        })
    }

    /// As drivers get it; null when user space gave none.
    pub(super) fn as_raw(&self) -> *const bindings::iommu_user_data {
        if self.0.len == 0 {
            return core::ptr::null();
        }
        &self.0
    }
}

/// An array in user space of requests that a driver defines.
pub(crate) struct UserArray(bindings::iommu_user_data_array);

impl UserArray {
    /// `entry_num` entries of `entry_len` bytes each at the user address `at`.
    #[inline]
    pub(crate) fn new(kind: u32, at: u64, entry_len: u32, entry_num: u32) -> Self {
        Self(bindings::iommu_user_data_array {
            type_: kind,
            uptr: at as usize as *mut c_void,
            entry_len: entry_len as usize,
            entry_num,
        })
    }

    /// How many entries there are, or how many the driver has handled.
    #[inline]
    pub(crate) fn count(&self) -> u32 {
        self.0.entry_num
    }

    #[inline]
    pub(super) fn as_raw(&mut self) -> *mut bindings::iommu_user_data_array {
        &mut self.0
    }
}

/// A domain of iommufd's own.
///
/// # Invariants
///
/// It is a valid domain that this owns. While it is a field of a hwpt, `iommufd_hwpt` of the
/// domain leads back to that.
#[repr(transparent)]
pub(crate) struct Domain(NonNull<bindings::iommu_domain>);

// SAFETY: Domains are not bound to a thread, and drivers do their own locking.
unsafe impl Send for Domain {}
// SAFETY: What changes of a domain after it was made is the core's, under its locks.
unsafe impl Sync for Domain {}

impl Domain {
    /// # Safety
    ///
    /// `raw` is what a driver's allocation returned, a domain or an error, and `owner` its table.
    pub(super) unsafe fn adopt(
        raw: *mut bindings::iommu_domain,
        owner: *const bindings::iommu_ops,
    ) -> Result<Self> {
        let raw = NonNull::new(from_err_ptr(raw)?).ok_or(EOPNOTSUPP)?;
        // SAFETY: By the contract of this function it is a new domain.
        unsafe { (*raw.as_ptr()).owner = owner };
        // SAFETY: Nobody else knows the domain yet.
        unsafe {
            (*raw.as_ptr()).cookie_type = bindings::iommu_domain_cookie_type_IOMMU_COOKIE_IOMMUFD
        };
        // INVARIANT: nobody else has it.
        Ok(Self(raw))
    }

    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::iommu_domain {
        self.0.as_ptr()
    }

    /// Makes the domain lead back to the hwpt that it is a part of. Nothing may be attached yet.
    pub(crate) fn set_hwpt(&self, hwpt: &Hwpt) {
        let hwpt = core::ptr::from_ref(hwpt).cast_mut().cast();
        // SAFETY: By the type invariant. A hwpt does not move, and frees its domain first.
        unsafe { (*self.as_raw()).__bindgen_anon_1.iommufd_hwpt = hwpt };
    }

    /// Has page faults handled by the hwpt's queue.
    pub(crate) fn set_fault_handler(&self) {
        // SAFETY: By the type invariant; nobody is attached yet.
        unsafe { (*self.as_raw()).iopf_handler = Some(bindings::iommufd_fault_iopf_handler) };
    }

    /// Whether it is a user's page table on top of a paging domain.
    pub(crate) fn is_nested(&self) -> bool {
        // SAFETY: The domain is ours until this is dropped, and its type does not change.
        unsafe { (*self.as_raw()).type_ == bindings::__IOMMU_DOMAIN_NESTED }
    }

    /// Whether `driver` made it.
    pub(crate) fn is_of(&self, driver: Driver<'_>) -> bool {
        // SAFETY: The domain is ours until this is dropped, and its owner does not change.
        core::ptr::eq(unsafe { (*self.as_raw()).owner }, driver.0)
    }

    /// Forbids DMA that does not snoop. Returns whether the hardware does.
    pub(crate) fn enforce_cache_coherency(&self) -> bool {
        // SAFETY: By the type invariant the table is valid.
        match unsafe { (*(*self.as_raw()).ops).enforce_cache_coherency } {
            // SAFETY: It is the domain's own operation.
            Some(op) => unsafe { op(self.as_raw()) },
            None => false,
        }
    }

    /// Has the driver forget what the hardware cached of a user's page table. On return the
    /// array's count is that of the requests that were handled.
    ///
    /// # Errors
    ///
    /// `None`: the driver cannot, and the count says nothing.
    #[inline]
    pub(crate) fn cache_invalidate(&self, requests: &mut UserArray) -> Option<Result> {
        // SAFETY: By the type invariant; a domain may have no table.
        let ops = unsafe { (*self.as_raw()).ops.as_ref() }?;
        let op = ops.cache_invalidate_user?;
        // SAFETY: It is the domain's own operation, and the array is ours.
        Some(to_result(unsafe { op(self.as_raw(), requests.as_raw()) }))
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this owns it.
        unsafe { bindings::iommu_domain_free(self.as_raw()) };
    }
}

/// The driver of the IOMMU that serves a device.
#[derive(Clone, Copy)]
pub(crate) struct Driver<'a>(pub(super) &'a bindings::iommu_ops);

impl<'a> Driver<'a> {
    /// The driver that serves `dev`.
    ///
    /// # Errors
    ///
    /// `ENODEV`: none does, or does any more.
    pub(crate) fn of(dev: &'a PhysDev) -> Result<Self> {
        // SAFETY: A device that is bound to iommufd keeps its IOMMU.
        let iommu_dev = unsafe { dev.iommu_dev().as_ref() }.ok_or(ENODEV)?;
        // SAFETY: An IOMMU has its table since it was registered, and tables are static.
        Ok(Self(unsafe { &*iommu_dev.ops }))
    }

    /// What hardware serves the device, of the type that user space wants, 0 for any. Of a driver
    /// that does not tell it is nothing, of type `IOMMU_HW_INFO_TYPE_NONE`.
    ///
    /// # Errors
    ///
    /// What the driver says: `EOPNOTSUPP` for a type that it does not have. The same, with a
    /// warning, for a driver that tells something of no type.
    #[inline]
    pub(crate) fn hw_info(self, dev: &PhysDev, wanted: u32) -> Result<HwInfo> {
        const NONE: u32 = bindings::iommu_hw_info_type_IOMMU_HW_INFO_TYPE_NONE;
        let (mut len, mut kind) = (0, wanted);
        let data = match self.0.hw_info {
            // SAFETY: It is the operation of the device's own driver.
            Some(op) => from_err_ptr(unsafe { op(dev.as_raw(), &mut len, &mut kind) })?,
            None => {
                kind = NONE;
                core::ptr::null_mut()
            }
        };
        // INVARIANT: that is what the operation returns.
        let info = HwInfo { kind, data, len };
        if kind == NONE && self.0.hw_info.is_some() {
            kernel::warn_on_once!(true);
            return Err(EOPNOTSUPP);
        }
        Ok(info)
    }

    /// Whether domains can be asked to be something in particular.
    pub(crate) fn takes_flags(self) -> bool {
        self.0.domain_alloc_paging_flags.is_some()
    }

    /// Makes a domain whose page table the kernel manages. `flags` are `IOMMU_HWPT_ALLOC_*`.
    ///
    /// # Errors
    ///
    /// What the driver says: `EOPNOTSUPP` for what it cannot do.
    pub(crate) fn alloc_paging(
        self,
        dev: &PhysDev,
        flags: u32,
        data: Option<&UserData<'_>>,
    ) -> Result<Domain> {
        let data = data.map_or(core::ptr::null(), |data| core::ptr::from_ref(data.as_raw()));
        let raw = match self.0.domain_alloc_paging_flags {
            // SAFETY: It is the operation of the device's own driver; it only reads the data.
            Some(op) => unsafe { op(dev.as_raw(), flags, data) },
            // SAFETY: The device is valid.
            None => unsafe { bindings::iommu_paging_domain_alloc_flags(dev.as_raw(), 0) },
        };
        // SAFETY: It is what the driver allocated.
        unsafe { Domain::adopt(raw, self.0) }
    }

    /// Whether it can put a user's page table on top of a paging domain.
    pub(crate) fn nests(self) -> bool {
        self.0.domain_alloc_nested.is_some()
    }

    /// Makes a domain whose page table user space manages, on top of `parent`.
    ///
    /// # Errors
    ///
    /// What the driver says; `EOPNOTSUPP` when it cannot nest.
    #[inline]
    pub(crate) fn alloc_nested(
        self,
        dev: &PhysDev,
        parent: &Domain,
        flags: u32,
        data: &UserData<'_>,
    ) -> Result<Domain> {
        let op = self.0.domain_alloc_nested.ok_or(EOPNOTSUPP)?;
        // SAFETY: It is the operation of the device's own driver, and the parent is its domain.
        let raw = unsafe { op(dev.as_raw(), parent.as_raw(), flags, data.as_raw()) };
        // SAFETY: It is what the driver allocated.
        unsafe { Domain::adopt(raw, self.0) }
    }
}

/// What a driver tells about its hardware.
///
/// # Invariants
///
/// `data` is memory of `kmalloc()` with `len` initialised bytes, or null and `len` is 0.
pub(crate) struct HwInfo {
    kind: u32,
    data: *mut c_void,
    len: u32,
}

impl HwInfo {
    /// `enum iommu_hw_info_type` of the user API.
    pub(crate) fn kind(&self) -> u32 {
        self.kind
    }

    /// The driver's structure.
    pub(crate) fn bytes(&self) -> &[u8] {
        if self.data.is_null() {
            return &[];
        }
        // SAFETY: The driver gave so many bytes, which are ours now.
        unsafe { core::slice::from_raw_parts(self.data.cast(), self.len as usize) }
    }
}

impl Drop for HwInfo {
    fn drop(&mut self) {
        // SAFETY: The driver gave them, from kmalloc(), to be freed by us, or there are none.
        unsafe { bindings::kfree(self.data) };
    }
}
