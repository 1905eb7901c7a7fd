// SPDX-License-Identifier: GPL-2.0-only

//! Groups of devices that the hardware cannot tell apart.
//!
//! A [`Group`] is what a context knows about one group of the IOMMU core: what its devices are
//! attached to, and where its window for software MSIs is. It lives as long as a device of it is
//! bound to the context. Its mutex is taken after an IOAS's and before the page core's locks.
//!
//! C header: `drivers/iommu/iommufd/iommufd_private.h`

use super::{
    context::Ctx,
    count::Count,
    domain::PhysDev,
    hwpt::PagingHwpt,
    ioas::Ioas, //
};
use crate::attach::Attachments;
use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr::{
        self,
        NonNull, //
    }, //
};
use kernel::{
    bindings,
    c_str,
    prelude::*,
    static_lock_class,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
    types::Opaque, //
};

/// A reference to a group of the IOMMU core.
///
/// # Invariants
///
/// This owns one reference.
struct CoreGroup(NonNull<bindings::iommu_group>);

impl CoreGroup {
    /// The group that a device is in.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is in none.
    fn of(dev: &PhysDev) -> Result<Self> {
        // SAFETY: The device is valid.
        let raw = unsafe { bindings::iommu_group_get(dev.as_raw()) };
        // INVARIANT: the core gave a reference.
        NonNull::new(raw).map(Self).ok_or(ENODEV)
    }

    fn id(&self) -> usize {
        // SAFETY: By the type invariant.
        unsafe { bindings::iommu_group_id(self.0.as_ptr()) as usize }
    }
}

impl Drop for CoreGroup {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::iommu_group_put(self.0.as_ptr()) };
    }
}

/// `struct iommufd_group`, and what C does not need to know of it.
///
/// # Invariants
///
/// The C part is initialised; its `group` is `core`'s, or null. `attachments` is guarded by the
/// mutex. Its context outlives it, as each device of it has a reference to that.
#[repr(C)]
pub(crate) struct Group {
    c: Opaque<bindings::iommufd_group>,
    core: Option<CoreGroup>,
    attachments: UnsafeCell<Attachments>,
}

/// There is no window for software MSIs.
const NO_SW_MSI: bindings::phys_addr_t = bindings::phys_addr_t::MAX;

impl Group {
    fn make(ctx: &Ctx, core: Option<CoreGroup>) -> Result<GroupRef> {
        let group = KBox::new(
            Self {
                c: Opaque::zeroed(),
                core,
                attachments: UnsafeCell::new(Attachments::new()),
            },
            GFP_KERNEL,
        )?;
        let this = KBox::into_raw(group);
        // SAFETY: It was just allocated, and stays where it is.
        let c = unsafe { (*this).c.get() };
        // SAFETY: As above.
        let core = unsafe { (*this).core.as_ref() };
        // SAFETY: As above; all of its fields may be written.
        unsafe { (*c).group = core.map_or(ptr::null_mut(), |core| core.0.as_ptr()) };
        // SAFETY: As above.
        unsafe { (*c).ictx = ctx.as_raw() };
        // SAFETY: As above.
        unsafe { (*c).sw_msi_start = NO_SW_MSI };
        // SAFETY: As above; the mutex does not move from here on.
        unsafe {
            bindings::__mutex_init(
                &raw mut (*c).lock,
                c_str!("iommufd_group").as_char_ptr(),
                static_lock_class!().as_ptr(),
            )
        };
        // SAFETY: `into_raw()` is not null.
        let group = GroupRef(unsafe { NonNull::new_unchecked(this) });
        // INVARIANT: this is the reference of `group`.
        group.count().set(1);
        Ok(group)
    }

    fn count(&self) -> &Count {
        // SAFETY: The structure is valid, and the count is only changed atomically.
        unsafe { Count::from_raw(&raw mut (*self.c.get()).ref_.refcount) }
    }

    pub(super) fn core(&self) -> *mut bindings::iommu_group {
        // SAFETY: By the type invariant; it does not change.
        unsafe { (*self.c.get()).group }
    }

    /// Whether it is the IOMMU core's `group`.
    pub(super) fn is(&self, group: *mut bindings::iommu_group) -> bool {
        ptr::eq(self.core(), group)
    }

    /// Whether there is no IOMMU, and this group was made up for one device.
    pub(crate) fn is_noiommu(&self) -> bool {
        self.core.is_none()
    }

    /// Whether the devices' interrupts cannot reach others than those who may have them.
    pub(crate) fn has_isolated_msi(&self) -> bool {
        // SAFETY: By the type invariant; only asked when there is an IOMMU.
        self.core.is_some() && unsafe { bindings::iommu_group_has_isolated_msi(self.core()) }
    }

    /// Takes the mutex.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: By the type invariant.
        let mutex = unsafe { Mutex::<()>::from_raw(&raw mut (*self.c.get()).lock) };
        Locked {
            group: self,
            _guard: mutex.lock(),
        }
    }

    /// Takes the group out of its context's table. The last reference is gone.
    fn forget(&self) {
        let Some(core) = &self.core else { return };
        // SAFETY: By the type invariant; it does not change.
        let ctx = unsafe { (*self.c.get()).ictx };
        // SAFETY: By the type invariant the context is valid.
        let groups = unsafe { &raw mut (*ctx).groups };
        let this = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: The table is initialised. Somebody may have put a new group in its place.
        unsafe { bindings::xa_lock(groups) };
        // SAFETY: The lock is held; storing nothing allocates nothing.
        unsafe {
            bindings::__xa_cmpxchg(
                groups,
                core.id(),
                this,
                ptr::null_mut(),
                bindings::GFP_KERNEL,
            )
        };
        // SAFETY: As above.
        unsafe { bindings::xa_unlock(groups) };
    }
}

/// A group whose mutex is held.
pub(crate) struct Locked<'a> {
    group: &'a Group,
    _guard: Guard<'a, (), MutexBackend>,
}

impl Locked<'_> {
    /// As [`Ioas::reserve_for`], and learns where the window for software MSIs is.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn reserve_for(&mut self, ioas: &Ioas, dev: &PhysDev) -> Result {
        // SAFETY: Only the address is taken: who prepares an MSI may be reading it.
        let sw_msi_start = unsafe { &raw mut (*self.group.c.get()).sw_msi_start };
        if let Some(start) = ioas.reserve_with_msi(dev)? {
            // SAFETY: The mutex keeps others from writing there.
            unsafe { sw_msi_start.write_volatile(start) };
        }
        Ok(())
    }

    /// Maps all the pages that the group's devices signal MSIs through.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; what mapping runs into.
    #[cfg(CONFIG_IRQ_MSI_IOMMU)]
    pub(crate) fn map_sw_msi(&self, hwpt: &PagingHwpt) -> Result {
        let c = self.group.c.get();
        // SAFETY: The mutex guards the field.
        let start = unsafe { (*c).sw_msi_start };
        if start == NO_SW_MSI {
            return Ok(());
        }
        // SAFETY: The context is valid.
        let ctx = unsafe { (*c).ictx };
        // SAFETY: As above.
        let _guard = unsafe { Mutex::<()>::from_raw(&raw mut (*ctx).sw_msi_lock) }.lock();
        // SAFETY: As above.
        let list = unsafe { &raw mut (*ctx).sw_msi_list };
        // SAFETY: The lock guards the list and the bitmaps.
        let mut item = unsafe { (*list).next };
        while !ptr::eq(item, list) {
            // The item is the map's first field.
            let map: *mut bindings::iommufd_sw_msi_map = item.cast();
            // SAFETY: As above.
            let its_start = unsafe { (*map).sw_msi_start };
            // SAFETY: As above.
            let id = unsafe { (*map).id };
            // SAFETY: As above; ids are below the number of the bitmap's bits.
            let required = unsafe { (*c).required_sw_msi.bitmap[0] } & (1 << id) != 0;
            if its_start == start && required {
                // SAFETY: The lock is held, and all are valid.
                kernel::error::to_result(unsafe {
                    bindings::iommufd_sw_msi_install(ctx, hwpt.as_raw(), map)
                })?;
            }
            // SAFETY: The lock guards the list.
            item = unsafe { (*item).next };
        }
        Ok(())
    }

    /// On this machine MSIs do not go through page tables.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(CONFIG_IRQ_MSI_IOMMU))]
    pub(crate) fn map_sw_msi(&self, _hwpt: &PagingHwpt) -> Result {
        Ok(())
    }
}

impl Deref for Locked<'_> {
    type Target = Attachments;

    fn deref(&self) -> &Attachments {
        // SAFETY: The mutex guards it.
        unsafe { &*self.group.attachments.get() }
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Attachments {
        // SAFETY: The mutex guards it, and `self` is borrowed for itself.
        unsafe { &mut *self.group.attachments.get() }
    }
}

/// A reference to a group.
///
/// # Invariants
///
/// This owns one count, of a group in memory of `KBox`.
#[repr(transparent)]
pub(crate) struct GroupRef(NonNull<Group>);

impl GroupRef {
    /// The context's group for `dev`: the one that is there, or a new one.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the device is in no group; `ENOMEM`.
    pub(crate) fn of(ctx: &Ctx, dev: &PhysDev) -> Result<Self> {
        let core = CoreGroup::of(dev)?;
        let (id, raw) = (core.id(), core.0.as_ptr());
        let table = GroupTable(ctx);
        if let Some(group) = table.lock().get(id, raw) {
            return Ok(group);
        }
        let new = Group::make(ctx, Some(core))?;
        let locked = table.lock();
        let mut stale = ptr::null_mut();
        loop {
            let found = locked.replace(id, stale, &new)?;
            if ptr::eq(found, stale) {
                return Ok(new);
            }
            // SAFETY: It is what the table has, and the lock is held.
            if let Some(group) = unsafe { locked.try_get(found, raw) } {
                // The new one must be dropped without the lock.
                drop(locked);
                return Ok(group);
            }
            stale = found;
        }
    }

    /// A group for a device without an IOMMU.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn without_iommu(ctx: &Ctx) -> Result<Self> {
        Group::make(ctx, None)
    }
}

impl Deref for GroupRef {
    type Target = Group;

    fn deref(&self) -> &Group {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for GroupRef {
    fn drop(&mut self) {
        if !self.count().dec_and_test() {
            return;
        }
        self.forget();
        // Rather leak it than free what the hardware still uses.
        if kernel::warn_on!(!self.lock().is_empty()) {
            return;
        }
        // SAFETY: The mutex is not used again.
        unsafe { bindings::mutex_destroy(&raw mut (*self.c.get()).lock) };
        // SAFETY: By the type invariant; this was the last reference.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}

/// The groups of a context, by the number that the IOMMU core gives them.
struct GroupTable<'a>(&'a Ctx);

impl<'a> GroupTable<'a> {
    fn raw(&self) -> *mut bindings::xarray {
        // SAFETY: Only the address is taken.
        unsafe { &raw mut (*self.0.as_raw()).groups }
    }

    fn lock(&self) -> GroupTableLocked<'_, 'a> {
        // SAFETY: The table is initialised.
        unsafe { bindings::xa_lock(self.raw()) };
        GroupTableLocked(self)
    }
}

struct GroupTableLocked<'t, 'a>(&'t GroupTable<'a>);

impl GroupTableLocked<'_, '_> {
    /// The group with this number, unless it is on its way out.
    fn get(&self, id: usize, core: *mut bindings::iommu_group) -> Option<GroupRef> {
        // SAFETY: The table is initialised.
        let found = unsafe { bindings::xa_load(self.0.raw(), id) };
        // SAFETY: It is what the table has, and the lock is held.
        unsafe { self.try_get(found, core) }
    }

    /// # Safety
    ///
    /// `found` is null or in the table, whose lock was held since it was found.
    unsafe fn try_get(
        &self,
        found: *mut c_void,
        core: *mut bindings::iommu_group,
    ) -> Option<GroupRef> {
        let found = NonNull::new(found)?.cast::<Group>();
        // SAFETY: Groups leave the table under its lock before they are freed.
        let group = unsafe { found.as_ref() };
        // Numbers are not used again while somebody has a reference.
        if kernel::warn_on!(!group.is(core)) || !group.count().inc_not_zero() {
            return None;
        }
        // INVARIANT: the count was taken just now.
        Some(GroupRef(found))
    }

    /// Puts `new` into the place of `old`; returns what was there. May let go of the lock to get
    /// memory, before it looks.
    fn replace(&self, id: usize, old: *mut c_void, new: &GroupRef) -> Result<*mut c_void> {
        let gfp = bindings::GFP_KERNEL;
        // SAFETY: The lock is held; what is stored is a group.
        let found =
            unsafe { bindings::__xa_cmpxchg(self.0.raw(), id, old, new.0.as_ptr().cast(), gfp) };
        // SAFETY: It takes any entry.
        kernel::error::to_result(unsafe { bindings::xa_err(found) })?;
        Ok(found)
    }
}

impl Drop for GroupTableLocked<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: This value is the proof that the lock is held.
        unsafe { bindings::xa_unlock(self.0.raw()) };
    }
}
