// SPDX-License-Identifier: GPL-2.0-only

//! Doorbells of MSIs in memory: a context's list of them, and which a page table has.
//!
//! The context's `sw_msi_lock` guards all of it. `/dev/iommu` frees the list with the context.

use crate::sw_msi::{
    self,
    Place, //
};
use core::{
    marker::PhantomData,
    mem::size_of,
    ptr, //
};
use kernel::{
    bindings,
    clist_create,
    error::{
        from_err_ptr,
        to_result, //
    },
    io::PhysAddr,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
    types::Opaque, //
};

/// `struct iommufd_sw_msi_map`: a doorbell and its place.
///
/// # Invariants
///
/// It is initialised and does not change; [`Doorbell::id`] is a bit of a [`Set`].
#[repr(transparent)]
pub(crate) struct Doorbell(Opaque<bindings::iommufd_sw_msi_map>);

impl Doorbell {
    fn get(&self) -> &bindings::iommufd_sw_msi_map {
        // SAFETY: By the type invariant. The list's links are not looked at through it.
        unsafe { &*self.0.get() }
    }

    /// The physical page that it is in.
    pub(crate) fn addr(&self) -> PhysAddr {
        self.get().msi_addr
    }

    /// Its number in the context.
    pub(crate) fn id(&self) -> u32 {
        self.get().id
    }

    /// Where it is mapped.
    pub(crate) fn place(&self) -> Place {
        Place {
            window: self.get().sw_msi_start,
            page: self.get().pgoff,
        }
    }
}

/// A set of doorbells, `struct iommufd_sw_msi_maps`.
///
/// # Invariants
///
/// Valid for `'a`, during which the context's `sw_msi_lock` is held whenever it is used.
pub(crate) struct Set<'a>(*mut bindings::iommufd_sw_msi_maps, PhantomData<&'a ()>);

impl Set<'_> {
    /// How many doorbells there can be.
    const BITS: u32 = u8::BITS * size_of::<bindings::iommufd_sw_msi_maps>() as u32;

    /// The word that a doorbell's bit is in, and the bit.
    fn word(&self, id: u32) -> (*mut c_ulong, c_ulong) {
        let words = self.0.cast::<c_ulong>();
        let word = words.wrapping_add((id / c_ulong::BITS) as usize);
        (word, 1 << (id % c_ulong::BITS))
    }

    /// Whether it is in the set.
    pub(crate) fn has(&self, id: u32) -> bool {
        let (word, bit) = self.word(id);
        // SAFETY: By the type invariants of both.
        unsafe { *word & bit != 0 }
    }

    /// Puts it there.
    pub(crate) fn insert(&self, id: u32) {
        let (word, bit) = self.word(id);
        // SAFETY: By the type invariants of both.
        unsafe { *word |= bit };
    }
}

/// A page table of the kernel's, `struct iommufd_hwpt_paging`.
///
/// # Invariants
///
/// Valid for `'a`, and of the context whose `sw_msi_lock` is held whenever it is changed.
pub(crate) struct Table<'a>(*mut bindings::iommufd_hwpt_paging, PhantomData<&'a ()>);

impl Table<'_> {
    /// The page table that a domain's MSIs go through: its own, or the parent's.
    ///
    /// # Safety
    ///
    /// `domain` must be one of iommufd's, in use for `'a`.
    unsafe fn of(domain: *mut bindings::iommu_domain) -> Result<Self> {
        // SAFETY: By the caller.
        let hwpt = unsafe { bindings::iommu_domain_hwpt(domain) };
        // SAFETY: By the caller its object is valid.
        let table = match unsafe { (*hwpt).obj.type_ } {
            bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_PAGING => hwpt.cast(),
            bindings::iommufd_object_type_IOMMUFD_OBJ_HWPT_NESTED => {
                let nested = hwpt.cast::<bindings::iommufd_hwpt_nested>();
                // SAFETY: That is what it is; it has a hold on its parent.
                unsafe { (*nested).parent }
            }
            _ => return Err(EINVAL),
        };
        Ok(Self(table, PhantomData))
    }

    /// The doorbells that it has.
    pub(crate) fn present(&self) -> Set<'_> {
        // SAFETY: By the type invariant; only the address is taken.
        let set = unsafe { &raw mut (*self.0).present_sw_msi };
        Set(set, PhantomData)
    }

    /// Maps the physical page `addr` at `iova`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what the driver says.
    pub(crate) fn map(&self, iova: usize, addr: PhysAddr) -> Result {
        let prot = bindings::IOMMU_WRITE | bindings::IOMMU_READ | bindings::IOMMU_MMIO;
        // SAFETY: By the type invariant.
        let domain = unsafe { (*self.0).common.domain };
        // SAFETY: A page table has its domain as long as it lives.
        to_result(unsafe {
            bindings::iommu_map(
                domain,
                iova,
                addr,
                PAGE_SIZE,
                prot as c_int,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })
    }
}

/// A context's doorbells, with `sw_msi_lock` held.
pub(crate) struct Maps<'a> {
    ctx: *mut bindings::iommufd_ctx,
    _guard: Guard<'a, (), MutexBackend>,
}

impl Maps<'_> {
    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Doorbell> {
        // SAFETY: Only the address is taken.
        let head = unsafe { &raw mut (*self.ctx).sw_msi_list };
        // SAFETY: The lock is held, so that the list does not change; its entries are doorbells,
        // linked by that field, and `Doorbell` is transparent.
        let list =
            unsafe { clist_create!(head, Doorbell, bindings::iommufd_sw_msi_map, sw_msi_item) };
        list.iter()
    }

    /// Adds the doorbells of a physical page.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW`: there are as many as can be counted; `ENOMEM`.
    pub(crate) fn add(&mut self, place: Place, addr: PhysAddr) -> Result<&Doorbell> {
        // SAFETY: Guarded by the lock.
        let next_id = unsafe { &mut (*self.ctx).sw_msi_id };
        if *next_id >= Set::BITS {
            return Err(EOVERFLOW);
        }
        let mut map = KBox::new(bindings::iommufd_sw_msi_map::default(), GFP_KERNEL)?;
        map.sw_msi_start = place.window;
        map.msi_addr = addr;
        map.pgoff = place.page;
        map.id = *next_id;
        *next_id += 1;
        let map = KBox::into_raw(map);
        // SAFETY: Only the address is taken.
        let node = unsafe { &raw mut (*map).sw_msi_item };
        // SAFETY: As above.
        let head = unsafe { &raw mut (*self.ctx).sw_msi_list };
        // SAFETY: The lock guards the list, which owns it from here on.
        unsafe { bindings::list_add_tail(node, head) };
        // SAFETY: Nothing leaves the list while the context is open.
        Ok(unsafe { &*map.cast() })
    }
}

/// A device that is attached, with its group's mutex held, so that it stays attached.
///
/// # Invariants
///
/// Valid for `'a`, as are its group and its context.
pub(crate) struct Attached<'a>(*mut bindings::iommufd_device, PhantomData<&'a ()>);

impl Attached<'_> {
    /// The device that `/dev/iommu` has attached for `dev`; `None` when somebody else did.
    ///
    /// # Safety
    ///
    /// `dev` must be a device whose IOMMU group's mutex is held for `'a`, and on a domain of
    /// iommufd's.
    unsafe fn find(dev: *mut bindings::device) -> Option<Self> {
        // SAFETY: By the caller.
        unsafe { bindings::iommu_group_mutex_assert(dev) };
        // SAFETY: By the caller.
        let group = unsafe { (*dev).iommu_group };
        // SAFETY: The group's mutex is held.
        let handle =
            unsafe { bindings::iommu_attach_handle_get(group, bindings::IOMMU_NO_PASID, 0) };
        let handle = from_err_ptr(handle).ok()?;
        // The handles of iommufd's attachments begin with the IOMMU core's.
        let handle = handle.cast::<bindings::iommufd_attach_handle>();
        // SAFETY: By the caller, who knows that iommufd has attached it. The field may change, from
        // one device of the group to another, and is read and written whole.
        let idev = unsafe { ptr::read_volatile(&raw const (*handle).idev) };
        // INVARIANT: A device that was there takes the core's mutex, which is held, once more
        // before it is freed. It keeps the other two.
        Some(Self(idev, PhantomData))
    }

    fn group(&self) -> *mut bindings::iommufd_group {
        // SAFETY: By the type invariant.
        unsafe { (*self.0).igroup }
    }

    /// The first IOVA of the window for doorbells, if there is one.
    pub(crate) fn window(&self) -> Option<PhysAddr> {
        // SAFETY: By the type invariant; it does not change while a device is attached.
        let start = unsafe { (*self.group()).sw_msi_start };
        (start != PhysAddr::MAX).then_some(start)
    }

    /// The doorbells that the group uses, to be changed under `sw_msi_lock`.
    pub(crate) fn required(&self) -> Set<'_> {
        // SAFETY: By the type invariant; only the address is taken.
        let set = unsafe { &raw mut (*self.group()).required_sw_msi };
        Set(set, PhantomData)
    }

    /// Locks the doorbells of its context. May sleep.
    pub(crate) fn maps(&self) -> Maps<'_> {
        // SAFETY: By the type invariant.
        let ctx = unsafe { (*self.0).ictx };
        // SAFETY: Only the address is taken.
        let lock = unsafe { &raw mut (*ctx).sw_msi_lock };
        // SAFETY: By the type invariant it is initialised.
        let lock = unsafe { Mutex::<()>::from_raw(lock) };
        Maps {
            ctx,
            _guard: lock.lock(),
        }
    }
}

/// Gives the MSI of a descriptor an IOVA to go to, if the device's MSIs are translated.
///
/// # Errors
///
/// As [`sw_msi::translate`].
///
/// # Safety
///
/// As for [`super::exports::iommufd_sw_msi`].
pub(super) unsafe fn translate(
    domain: *mut bindings::iommu_domain,
    desc: *mut bindings::msi_desc,
    addr: PhysAddr,
) -> Result {
    // SAFETY: By the caller.
    let dev = unsafe { (*desc).dev };
    // SAFETY: By the caller.
    let Some(device) = (unsafe { Attached::find(dev) }) else {
        return Ok(());
    };
    // SAFETY: By the caller.
    let table = unsafe { Table::of(domain) }?;
    if let Some(iova) = sw_msi::translate(&device, &table, addr)? {
        // SAFETY: By the caller the descriptor is being prepared.
        unsafe { bindings::msi_desc_set_iommu_msi_iova(desc, iova as u64, bindings::PAGE_SHIFT) };
    }
    Ok(())
}

/// Maps a doorbell in a page table that has it not yet.
///
/// # Errors
///
/// As [`sw_msi::install`].
///
/// # Safety
///
/// As for [`super::exports::iommufd_sw_msi_install`].
pub(super) unsafe fn install(
    ctx: *mut bindings::iommufd_ctx,
    table: *mut bindings::iommufd_hwpt_paging,
    map: *mut bindings::iommufd_sw_msi_map,
) -> Result {
    // SAFETY: Only the address is taken.
    let lock = unsafe { &raw mut (*ctx).sw_msi_lock };
    // SAFETY: By the caller it is initialised.
    unsafe { bindings::mutex_assert_is_held(lock) };
    // SAFETY: By the caller; the layouts are the same.
    let doorbell = unsafe { &*map.cast::<Doorbell>() };
    // INVARIANT: By the caller.
    sw_msi::install(&Table(table, PhantomData), doorbell)
}
