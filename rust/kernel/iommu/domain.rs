// SPDX-License-Identifier: GPL-2.0

//! IOMMU domains: an address space that devices can be attached to.
//!
//! [`AnyDomain`] is a domain of any driver, as the core hands it out. [`Domain`] is one that a
//! Rust driver made: the C structure first, then the driver's data. [`AnyDomain::downcast`] goes
//! from the one to the other and fails for the domains of others, static ones included.
//! [`Owned`] is a [`Domain`] that the core does not know yet.
//!
//! A domain is freed by the core, through the table that it was made with, when no device is
//! attached to it any more. Attaching is serialized by the group's mutex, which is the only lock
//! that matters here, and it is the core that takes it.
//!
//! C header: [`include/linux/iommu.h`](srctree/include/linux/iommu.h)

use super::ops::{
    DirtyOps,
    DirtyTable,
    DomainOps,
    DomainTable,
    IommuOps,
    IommuTable, //
};
use crate::{
    alloc::Flags,
    bindings,
    prelude::*,
    types::Opaque, //
};
use core::{
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ops::Deref,
    ptr::NonNull, //
};

/// What a domain is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Nothing gets through.
    Blocked,
    /// Addresses are physical addresses.
    Identity,
    /// A page table that the kernel's user maps and unmaps in.
    Unmanaged,
    /// A user's page table on top of a paging domain.
    Nested,
    /// The memory of a process.
    Sva,
    /// Something else: DMA API or a platform's own.
    Other(u32),
}

impl Kind {
    const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Blocked,
            bindings::__IOMMU_DOMAIN_PT => Self::Identity,
            bindings::__IOMMU_DOMAIN_PAGING => Self::Unmanaged,
            bindings::__IOMMU_DOMAIN_NESTED => Self::Nested,
            bindings::__IOMMU_DOMAIN_SVA => Self::Sva,
            other => Self::Other(other),
        }
    }

    const fn into_raw(self) -> u32 {
        match self {
            Self::Blocked => 0,
            Self::Identity => bindings::__IOMMU_DOMAIN_PT,
            Self::Unmanaged => bindings::__IOMMU_DOMAIN_PAGING,
            Self::Nested => bindings::__IOMMU_DOMAIN_NESTED,
            Self::Sva => bindings::__IOMMU_DOMAIN_SVA,
            Self::Other(raw) => raw,
        }
    }
}

/// A domain of any driver.
///
/// # Invariants
///
/// The domain lives as long as it is borrowed. Its kind, table, owner and fault handler do not
/// change while it can be attached.
#[repr(transparent)]
pub struct AnyDomain(Opaque<bindings::iommu_domain>);

// SAFETY: The fields that are read through it do not change, see the invariants.
unsafe impl Send for AnyDomain {}
// SAFETY: They are read only, by whatever thread.
unsafe impl Sync for AnyDomain {}

impl AnyDomain {
    /// Borrows a domain from its C pointer.
    ///
    /// # Safety
    ///
    /// `ptr` is a complete domain that lives for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::iommu_domain) -> &'a Self {
        // SAFETY: By the contract of this function; the type is transparent.
        unsafe { &*ptr.cast() }
    }

    /// Borrows a domain from a C pointer that may be null.
    ///
    /// # Safety
    ///
    /// `ptr` is null or as for [`AnyDomain::from_raw`].
    #[inline]
    pub unsafe fn from_nullable<'a>(ptr: *mut bindings::iommu_domain) -> Option<&'a Self> {
        // SAFETY: It is not null, so it is a domain that lives as long.
        (!ptr.is_null()).then(|| unsafe { Self::from_raw(ptr) })
    }

    /// The C pointer.
    #[inline]
    pub fn as_raw(&self) -> *mut bindings::iommu_domain {
        self.0.get()
    }

    /// What the domain is for.
    #[inline]
    pub fn kind(&self) -> Kind {
        // SAFETY: By the type invariant the domain is valid.
        Kind::from_raw(unsafe { (*self.as_raw()).type_ })
    }

    /// Whether the core maps and unmaps in it.
    #[inline]
    pub fn is_paging(&self) -> bool {
        self.kind().into_raw() & bindings::__IOMMU_DOMAIN_PAGING != 0
    }

    /// Whether it can record what was written to.
    #[inline]
    pub fn has_dirty_tracking(&self) -> bool {
        // SAFETY: By the type invariant the domain is valid.
        !unsafe { (*self.as_raw()).dirty_ops }.is_null()
    }

    /// Whether page faults on it are handled, so that devices must be able to report them.
    #[inline]
    pub fn handles_faults(&self) -> bool {
        // SAFETY: By the type invariant the domain is valid.
        unsafe { (*self.as_raw()).iopf_handler }.is_some()
    }

    /// The smallest page that can be mapped, in bytes.
    #[inline]
    pub fn min_page_size(&self) -> Option<usize> {
        // SAFETY: By the type invariant the domain is valid.
        let sizes = unsafe { (*self.as_raw()).pgsize_bitmap };
        (sizes != 0).then(|| 1 << sizes.trailing_zeros())
    }

    /// The physical address behind an IO virtual address, 0 when there is none, or when the domain
    /// has no page table that the kernel can read.
    ///
    /// A driver that only has the domain cannot know who unmaps meanwhile:
    ///
    /// ```ignore,compile_fail,E0133
    /// use kernel::iommu::domain::AnyDomain;
    ///
    /// pub fn walk(domain: &AnyDomain) -> u64 {
    ///     domain.iova_to_phys(0)
    /// }
    /// ```
    ///
    /// # Safety
    ///
    /// The page table is walked without a lock, so nothing is mapped or unmapped at `iova` until
    /// this returns, where something could be: iommufd's lock of the IOAS's IOVAs sees to that, or
    /// that the pages there are pinned.
    #[inline]
    pub unsafe fn iova_to_phys(&self, iova: u64) -> bindings::phys_addr_t {
        // SAFETY: By the type invariant the domain is valid.
        let ops = unsafe { (*self.as_raw()).ops };
        // Of the others C asks no operation.
        let asks = !matches!(self.kind(), Kind::Identity | Kind::Blocked);
        // SAFETY: The table of a complete domain is a static one.
        if asks && unsafe { (*ops).iova_to_phys }.is_none() {
            return 0;
        }
        // SAFETY: There is an operation if one is asked, and by the contract of this function the
        // tables that it walks are not freed meanwhile.
        unsafe { bindings::iommu_iova_to_phys(self.as_raw(), iova) }
    }

    /// Whether the driver with this table made it.
    #[inline]
    pub fn is_of<T: IommuOps>(&self, table: &'static IommuTable<T>) -> bool {
        // SAFETY: By the type invariant the domain is valid.
        core::ptr::eq(unsafe { (*self.as_raw()).owner }, table.as_raw())
    }

    /// The driver's own domain, if it is of that type.
    #[inline]
    pub fn downcast<T: DomainOps>(&self) -> Option<&Domain<T>> {
        // SAFETY: By the type invariant the domain is valid.
        let ops = unsafe { (*self.as_raw()).ops };
        // SAFETY: Only `Domain<T>` is ever made with the table of `T`.
        core::ptr::eq(ops, T::table().as_raw()).then(|| unsafe { Domain::from_raw(self.as_raw()) })
    }
}

/// The operation of a page table that translates (`struct iommu_domain_ops`).
pub type IovaToPhys = unsafe extern "C" fn(
    *mut bindings::iommu_domain,
    bindings::dma_addr_t,
) -> bindings::phys_addr_t;

/// The one that collects dirty bits (`struct iommu_dirty_ops`).
pub type ReadAndClearDirty = unsafe extern "C" fn(
    *mut bindings::iommu_domain,
    c_ulong,
    usize,
    c_ulong,
    *mut bindings::iommu_dirty_bitmap,
) -> c_int;

/// What a domain's memory begins with: a C structure whose first member is the `iommu_domain`.
///
/// That is [`Bare`] for a domain without a page table, and one of the generic page tables or a C
/// driver's structure otherwise.
///
/// # Safety
///
/// The `iommu_domain` is at offset 0, the type has no drop glue, and `IOVA_TO_PHYS` and
/// `READ_AND_CLEAR_DIRTY` may be called on a domain that begins with it.
pub unsafe trait Head {
    /// What making it needs to know.
    type Config;

    /// Translates, if it has a page table.
    const IOVA_TO_PHYS: Option<IovaToPhys> = None;

    /// Collects dirty bits, if its page table has some.
    const READ_AND_CLEAR_DIRTY: Option<ReadAndClearDirty> = None;

    /// Makes it. The domain's kind and table are set already.
    ///
    /// # Errors
    ///
    /// What building a page table can run into; nothing is left behind then.
    ///
    /// # Safety
    ///
    /// `this` points to memory of this type, zero but for the kind and the table.
    unsafe fn init(this: *mut Self, config: &Self::Config) -> Result;

    /// Takes it down.
    ///
    /// # Safety
    ///
    /// `this` was made by [`Head::init`], and nobody uses it any more.
    unsafe fn deinit(this: *mut Self);
}

/// A domain that is nothing but the core's structure.
pub type Bare = bindings::iommu_domain;

// SAFETY: It is the `iommu_domain`.
unsafe impl Head for Bare {
    type Config = ();

    unsafe fn init(_this: *mut Self, _config: &()) -> Result {
        Ok(())
    }

    unsafe fn deinit(_this: *mut Self) {}
}

/// A domain of a Rust driver: the C structure, then the driver's data.
///
/// # Invariants
///
/// The head's table is `T::table()`, and both head and data are complete.
#[repr(C)]
pub struct Domain<T: DomainOps> {
    head: Opaque<T::Head>,
    data: T,
}

// SAFETY: The head is only used through the core, which does its own locking; `T` is both.
unsafe impl<T: DomainOps> Send for Domain<T> {}
// SAFETY: The core does its own locking of the head, and `T` is `Sync`.
unsafe impl<T: DomainOps> Sync for Domain<T> {}

impl<T: DomainOps> Domain<T> {
    /// Borrows a domain from its C pointer.
    ///
    /// # Safety
    ///
    /// `ptr` is the head of a `Domain<T>` that lives for `'a`.
    #[inline]
    pub unsafe fn from_raw<'a>(ptr: *mut bindings::iommu_domain) -> &'a Self {
        // SAFETY: The head is at offset 0, and the `iommu_domain` at offset 0 of that.
        unsafe { &*ptr.cast() }
    }

    /// As the core sees it.
    #[inline]
    pub fn as_any(&self) -> &AnyDomain {
        // SAFETY: It is a complete domain that lives as long as `self`.
        unsafe { AnyDomain::from_raw(self.head.get().cast()) }
    }

    /// The C structure that it begins with.
    #[inline]
    pub fn head(&self) -> *mut T::Head {
        self.head.get()
    }
}

impl<T: DomainOps> Deref for Domain<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

/// A domain that was just made and that the core does not know yet.
///
/// # Invariants
///
/// It points to a `Domain<T>` in memory of `kmalloc()` that nobody else refers to.
pub struct Owned<T: DomainOps>(NonNull<Domain<T>>);

impl<T: DomainOps> Owned<T> {
    /// Makes a domain, in memory of `flags`. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or what [`Head::init`] fails with. `EINVAL`: the table of the type is that of a
    /// static domain.
    pub fn new(
        kind: Kind,
        config: &<T::Head as Head>::Config,
        data: T,
        flags: Flags,
    ) -> Result<Self> {
        if !T::table().frees() {
            return Err(EINVAL);
        }
        let memory = KBox::<Domain<T>>::new_uninit(flags | __GFP_ZERO)?;
        let this: *mut Domain<T> = KBox::into_raw(memory).cast();
        // SAFETY: It was just allocated.
        let head = unsafe { (*this).head.get() };
        let domain: *mut bindings::iommu_domain = head.cast();
        // SAFETY: The head begins with the `iommu_domain`.
        unsafe { (*domain).type_ = kind.into_raw() };
        // SAFETY: It is memory of ours that has an `iommu_domain` there, see above.
        unsafe { (*domain).ops = T::table().as_raw() };
        // SAFETY: The head is zero but for what was set above.
        if let Err(why) = unsafe { Head::init(head, config) } {
            // SAFETY: It came from `into_raw()`, with the same layout.
            drop(unsafe { KBox::from_raw(this.cast::<MaybeUninit<Domain<T>>>()) });
            return Err(why);
        }
        // SAFETY: It was just allocated, and is not initialised.
        unsafe { (&raw mut (*this).data).write(data) };
        // INVARIANT: head and data are complete.
        // SAFETY: `into_raw()` is not null.
        Ok(Self(unsafe { NonNull::new_unchecked(this) }))
    }

    fn domain(&mut self) -> &mut bindings::iommu_domain {
        // SAFETY: By the type invariant nobody else refers to it.
        unsafe { &mut *self.0.as_ptr().cast() }
    }

    /// Leaves only some of the page sizes that can be mapped, a bit for each: bit n is for pages of
    /// 2^n bytes. Bits that the page table's format has not stay out.
    ///
    /// # Errors
    ///
    /// `ERANGE`: the format has none of them; it is as it was.
    pub fn set_page_sizes(&mut self, sizes: usize) -> Result {
        let can = &mut self.domain().pgsize_bitmap;
        let left = *can & sizes as c_ulong;
        if left == 0 {
            return Err(ERANGE);
        }
        *can = left;
        Ok(())
    }

    /// The addresses that can be mapped, in bytes, both ends included: IO virtual ones.
    ///
    /// # Errors
    ///
    /// `ERANGE`: not within what the page table can map.
    pub fn set_aperture(&mut self, first: u64, last: u64) -> Result {
        let geometry = &mut self.domain().geometry;
        if first > last || first < geometry.aperture_start || last > geometry.aperture_end {
            return Err(ERANGE);
        }
        geometry.aperture_start = first;
        geometry.aperture_end = last;
        Ok(())
    }

    /// Makes it a domain that can track what was written to.
    pub fn set_dirty_ops(&mut self, table: &'static DirtyTable<T>)
    where
        T: DirtyOps,
    {
        self.domain().dirty_ops = table.as_raw();
    }

    /// As the core will see it.
    #[inline]
    pub fn as_any(&self) -> &AnyDomain {
        // SAFETY: By the type invariant it is complete, and lives as long as `self`.
        unsafe { AnyDomain::from_raw(self.0.as_ptr().cast()) }
    }

    /// Gives it to the core, which frees it through the table.
    pub fn into_raw(self) -> *mut bindings::iommu_domain {
        let raw = self.0.as_ptr().cast();
        core::mem::forget(self);
        raw
    }

    /// Takes back a domain that [`Owned::into_raw`] gave away; dropping it frees it.
    ///
    /// # Safety
    ///
    /// `raw` came from there, and nobody refers to it any more.
    pub unsafe fn from_raw(raw: *mut bindings::iommu_domain) -> Self {
        // INVARIANT: the caller gives back what the type described before.
        // SAFETY: It came from `into_raw()`, so it is not null.
        Self(unsafe { NonNull::new_unchecked(raw.cast()) })
    }
}

impl<T: DomainOps> Drop for Owned<T> {
    fn drop(&mut self) {
        let this = self.0.as_ptr();
        // SAFETY: By the type invariant nobody else uses it.
        unsafe { Head::deinit((*this).head.get()) };
        // SAFETY: It came from `KBox::into_raw()`; a head has no drop glue.
        drop(unsafe { KBox::from_raw(this) });
    }
}

/// A domain of any type of a driver's that the core does not know yet: what an operation makes that
/// has several to choose from.
///
/// # Invariants
///
/// It points to what [`Owned::into_raw`] gave away, and nobody else refers to it.
pub struct NewDomain(NonNull<bindings::iommu_domain>);

impl<T: DomainOps> From<Owned<T>> for NewDomain {
    fn from(domain: Owned<T>) -> Self {
        // INVARIANT: It was given away just now.
        // SAFETY: A domain has an address.
        Self(unsafe { NonNull::new_unchecked(domain.into_raw()) })
    }
}

impl NewDomain {
    /// Gives it to the core, which frees it through its table.
    pub(super) fn into_raw(self) -> *mut bindings::iommu_domain {
        ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Drop for NewDomain {
    fn drop(&mut self) {
        // SAFETY: It has the table of its type, which says how to free it, see `Owned::new()`.
        if let Some(free) = unsafe { (*(*self.0.as_ptr()).ops).free } {
            // SAFETY: By the type invariant nobody else refers to it.
            unsafe { free(self.0.as_ptr()) };
        }
    }
}

/// A domain that exists once and is never freed: blocking or identity.
#[repr(transparent)]
pub struct StaticDomain<T: DomainOps<Head = Bare>>(Domain<T>);

impl<T: DomainOps<Head = Bare>> StaticDomain<T> {
    /// Makes it; `ops` is `T::table()`, which cannot be called in a constant. It was made by
    /// [`DomainTable::of_static`], or this does not compile.
    pub const fn new(kind: Kind, ops: &'static DomainTable<T>, data: T) -> Self {
        assert!(!ops.frees());
        // SAFETY: All of its members may be zero.
        let mut domain: bindings::iommu_domain = unsafe { MaybeUninit::zeroed().assume_init() };
        domain.type_ = kind.into_raw();
        domain.ops = ops.as_raw();
        // INVARIANT: there is no more to a bare head.
        Self(Domain {
            head: Opaque::new(domain),
            data,
        })
    }

    pub(super) const fn as_raw(&'static self) -> *mut bindings::iommu_domain {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[macros::kunit_tests(rust_kernel_iommu_domain)]
mod tests {
    use super::{
        super::ops::Served,
        *, //
    };

    /// What the format of [`Sizes`] can map: pages of 4 KiB and 2 MiB.
    const FORMAT: c_ulong = 1 << 12 | 1 << 21;

    /// A head that maps nothing, but has a format.
    #[repr(transparent)]
    struct Sizes(bindings::iommu_domain);

    // SAFETY: It is an `iommu_domain`, and has no operations.
    unsafe impl Head for Sizes {
        type Config = ();

        unsafe fn init(this: *mut Self, _config: &()) -> Result {
            // SAFETY: By the contract of this function it is ours.
            unsafe { (*this).0.pgsize_bitmap = FORMAT };
            Ok(())
        }

        unsafe fn deinit(_this: *mut Self) {}
    }

    struct Mapping;

    static TABLE: DomainTable<Mapping> = DomainTable::new();

    #[vtable]
    impl DomainOps for Mapping {
        type Head = Sizes;

        fn table() -> &'static DomainTable<Self> {
            &TABLE
        }

        fn attach_dev(_domain: &Domain<Self>, _dev: &Served, _old: Option<&AnyDomain>) -> Result {
            Err(ENODEV)
        }
    }

    #[test]
    fn page_sizes_are_those_of_the_format() -> Result {
        // (asked for, what comes of it)
        for (asked, expected) in [
            (0, Err(ERANGE)),
            (1 << 11, Err(ERANGE)),
            (1 << 13 | 1 << 63, Err(ERANGE)),
            (1 << 12, Ok(1 << 12)),
            (1 << 21 | 1 << 30, Ok(1 << 21)),
            (usize::MAX, Ok(FORMAT)),
        ] {
            let mut domain = Owned::new(Kind::Unmanaged, &(), Mapping, GFP_KERNEL)?;
            let done = domain.set_page_sizes(asked);
            assert_eq!(done, expected.map(|_| ()));
            assert_eq!(domain.domain().pgsize_bitmap, expected.unwrap_or(FORMAT));
        }
        Ok(())
    }
}
