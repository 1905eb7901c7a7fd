// SPDX-License-Identifier: GPL-2.0-only

//! iommufd's objects, as the tests see them, and the test ioctl itself.
//!
//! C header: `drivers/iommu/iommufd/iommufd_private.h`

use crate::{
    ffi::{
        context::Ctx,
        device::Device as IdDevice,
        driver_objects::HwQueue, //
    },
    hwpt::{
        Hwpt,
        PagingHwpt, //
    },
    io_pagetable::Owner,
    ioas::Ioas,
    object::{
        begins_with_head,
        lend,
        Head,
        Hold,
        Object,
        Reserved, //
    },
    selftest::{
        binding::Binding,
        test_ioctl::TestCmd, //
    }, //
};
use core::{
    marker::PhantomData,
    ops::{
        Deref,
        RangeInclusive, //
    }, //
};
use kernel::{
    bindings,
    device::Device,
    error::to_result,
    iommu::{
        domain::AnyDomain,
        viommu::{
            NewHwQueue,
            ViommuOps, //
        },
    },
    prelude::*,
    sync::SetOnce,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

/// The domain of a page table, as a driver knows it.
pub(crate) fn domain(hwpt: &Hwpt) -> &AnyDomain {
    // SAFETY: The page table is complete and owns the domain.
    unsafe { AnyDomain::from_raw(hwpt.domain().as_raw()) }
}

/// The physical device behind a bound one, as a driver knows it.
pub(crate) fn physical(device: &IdDevice) -> &Device {
    device.dev().as_device()
}

/// What a test does with an IOAS besides.
pub(crate) trait IoasExt {
    /// Keeps a range from being mapped; both ends included.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: something is mapped there. `ENOMEM`: no memory.
    fn reserve(&self, first: usize, last: usize) -> Result;

    /// Where the `nth` mapping begins.
    fn nth_area(&self, nth: u32) -> Option<usize>;
}

/// What a test does with a page table besides.
pub(crate) trait PagingExt {
    /// Calls `f` with the mapping around an address, if there is one.
    fn while_mapped<T>(&self, iova: usize, f: impl FnOnce(&Mapped<'_>) -> T) -> Option<T>;
}

/// A mapping that stays as it is in all page tables of its IOAS, so that they can be walked.
///
/// Nothing may touch user memory meanwhile, whose lock comes before those that are held.
///
/// # Invariants
///
/// The locks of the mapping's IOAS and pages are held, `range` is mapped, and `domain` is one of
/// the page tables.
pub(crate) struct Mapped<'a> {
    domain: &'a AnyDomain,
    range: RangeInclusive<usize>,
}

impl Mapped<'_> {
    /// Whether this address is in it.
    pub(crate) fn contains(&self, iova: usize) -> bool {
        self.range.contains(&iova)
    }

    /// Whether it is one of this domain's page table.
    pub(super) fn is_in(&self, domain: &AnyDomain) -> bool {
        core::ptr::eq(self.domain, domain)
    }

    /// Where in memory an address of the mapping leads.
    pub(crate) fn phys(&self, iova: usize) -> Option<bindings::phys_addr_t> {
        // SAFETY: By the type invariant nothing is mapped or unmapped there.
        self.contains(iova)
            .then(|| unsafe { self.domain.iova_to_phys(iova as u64) })
    }
}

impl IoasExt for Ioas {
    fn reserve(&self, first: usize, last: usize) -> Result {
        self.iopt().write().reserve(first, last, Owner(0))
    }

    fn nth_area(&self, nth: u32) -> Option<usize> {
        let iovas = self.iopt().read();
        let (extent, _) = iovas.areas(0, usize::MAX).nth(nth as usize)?;
        Some(extent.iova())
    }
}

impl PagingExt for PagingHwpt {
    fn while_mapped<T>(&self, iova: usize, f: impl FnOnce(&Mapped<'_>) -> T) -> Option<T> {
        let domain = domain(self.common());
        self.ioas().iopt().while_mapped(iova, |extent| {
            // INVARIANT: That is what the function is for.
            f(&Mapped {
                domain,
                range: extent.iova()..=extent.last(),
            })
        })
    }
}

/// Keeps a hardware queue alive that another one depends on.
///
/// Dropping it does what `_iommufd_object_undepend()` does, which wants to see the dependent one,
/// too: this may outlive that.
pub(crate) struct QueueDependency(#[expect(dead_code)] Hold<HwQueue>);

/// What the mock driver does with a hardware queue besides.
pub(crate) trait QueueExt {
    /// The id of its object.
    fn id(&self) -> u32;

    /// Keeps the queue with this id alive as long as this one.
    ///
    /// # Errors
    ///
    /// `ENOENT`: there is none, or not of this vIOMMU. `EINVAL`: it is this one.
    fn depend_on(&self, id: u32) -> Result<QueueDependency>;
}

impl<T: ViommuOps> QueueExt for NewHwQueue<'_, T> {
    fn id(&self) -> u32 {
        // SAFETY: iommufd has set up its part.
        unsafe { (*self.as_raw()).obj.id }
    }

    fn depend_on(&self, id: u32) -> Result<QueueDependency> {
        // SAFETY: iommufd has set up its part, which does not change.
        let viommu = unsafe { (*self.as_raw()).viommu };
        // SAFETY: The vIOMMU is alive and in a context that is.
        let ctx = unsafe { Ctx::from_raw((*viommu).ictx) };
        let other = lend::<HwQueue>(ctx, id)?;
        if !core::ptr::eq(other.viommu(), viommu.cast()) {
            return Err(ENOENT);
        }
        // SAFETY: iommufd has set up its part.
        let dependent = unsafe { &raw mut (*self.as_raw()).obj };
        let depended = other.object().as_raw();
        // SAFETY: Both are alive, and this counts in the second.
        unsafe {
            to_result(bindings::_iommufd_object_depend(dependent, depended))?;
            Ok(QueueDependency(Hold::adopt(&other)))
        }
    }
}

/// A mock device in a context: what user space destroys to be rid of it.
#[pin_data]
#[repr(C)]
pub(crate) struct SelftestObject {
    #[pin]
    object: Object,
    binding: SetOnce<Pin<KBox<Binding>>>,
}

begins_with_head!(SelftestObject, object);

impl SelftestObject {
    /// Takes an id for a device that does not exist yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and `EBUSY` when all are taken.
    pub(crate) fn reserve(ctx: &Ctx) -> Result<Reserved<'_, Self>> {
        Reserved::new(
            ctx,
            pin_init!(Self {
                object <- Object::new(),
                binding: SetOnce::new(),
            }),
        )
    }

    /// The device, once, before it is known by the id.
    pub(crate) fn set(&self, binding: Pin<KBox<Binding>>) {
        self.binding.populate(binding);
    }
}

impl Deref for SelftestObject {
    type Target = Binding;

    fn deref(&self) -> &Binding {
        // PANIC: only an object with a binding is published.
        self.binding.as_ref().unwrap()
    }
}

/// One test ioctl.
///
/// # Invariants
///
/// `raw` is an ioctl in progress whose command buffer is large enough for a [`TestCmd`].
pub(crate) struct Ucmd<'a> {
    raw: *mut bindings::iommufd_ucmd,
    _life: PhantomData<&'a mut bindings::iommufd_ucmd>,
}

const _: () = assert!(size_of::<TestCmd>() == size_of::<bindings::iommu_test_cmd>());
const _: () = assert!(align_of::<TestCmd>() == align_of::<bindings::iommu_test_cmd>());

impl<'a> Ucmd<'a> {
    /// # Safety
    ///
    /// `raw` is an ioctl in progress, for `'a`, that nobody else uses.
    pub(super) unsafe fn from_raw(raw: *mut bindings::iommufd_ucmd) -> Self {
        // INVARIANT: iommufd has one buffer for all ioctls, which is larger.
        Self {
            raw,
            _life: PhantomData,
        }
    }

    /// The context.
    pub(crate) fn ctx(&self) -> &'a Ctx {
        // SAFETY: The context outlives the ioctl.
        unsafe { Ctx::from_raw((*self.raw).ictx) }
    }

    /// The command.
    pub(crate) fn cmd(&mut self) -> &mut TestCmd {
        // SAFETY: By the type invariant; all bits are valid for a command.
        unsafe { &mut *(*self.raw).cmd.cast() }
    }

    /// Writes the command back to user space.
    ///
    /// # Errors
    ///
    /// `EFAULT`: it cannot be written to.
    pub(crate) fn respond(&mut self) -> Result {
        // SAFETY: It is an ioctl in progress, which nobody else uses.
        let (to, len) = unsafe { ((*self.raw).ubuffer, (*self.raw).user_size as usize) };
        let bytes = self.cmd().as_bytes();
        let len = len.min(bytes.len());
        UserSlice::new(UserPtr::from_ptr(to), len)
            .writer()
            .write_slice(bytes.get(..len).ok_or(EINVAL)?)
    }
}
