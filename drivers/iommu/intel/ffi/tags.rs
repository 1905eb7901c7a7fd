// SPDX-License-Identifier: GPL-2.0-only

//! Cache tags (`struct cache_tag`) in the list of a domain.
//!
//! Tags are linked and unlinked under the domain's `cache_lock`, walked under it or under RCU,
//! and freed when no walk is under way or, else, after a grace period. `users` belongs to the
//! lock; the rest of a linked tag does not change.

use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ptr::NonNull, //
};

use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        barrier::smp_mb,
        rcu, //
    }, //
};

use super::{
    device::Device,
    domain::Domain,
    unit::Unit, //
};
use crate::{
    cache::Kind,
    invalidate::{
        DevTlb,
        Pasid,
        NO_PASID, //
    },
    range::Span,
};

/// What makes a tag, besides the device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) kind: Kind,
    pub(crate) did: u16,
    pub(crate) pasid: u32,
}

impl Kind {
    fn from_raw(raw: bindings::cache_tag_type) -> Self {
        match raw {
            bindings::cache_tag_type_CACHE_TAG_DEVTLB => Self::DevTlb,
            bindings::cache_tag_type_CACHE_TAG_NESTING_IOTLB => Self::NestingIotlb,
            bindings::cache_tag_type_CACHE_TAG_NESTING_DEVTLB => Self::NestingDevTlb,
            _ => Self::Iotlb,
        }
    }

    fn as_raw(self) -> bindings::cache_tag_type {
        match self {
            Self::Iotlb => bindings::cache_tag_type_CACHE_TAG_IOTLB,
            Self::DevTlb => bindings::cache_tag_type_CACHE_TAG_DEVTLB,
            Self::NestingIotlb => bindings::cache_tag_type_CACHE_TAG_NESTING_IOTLB,
            Self::NestingDevTlb => bindings::cache_tag_type_CACHE_TAG_NESTING_DEVTLB,
        }
    }
}

impl Key {
    /// From the values that C passes.
    pub(super) fn from_raw(kind: bindings::cache_tag_type, did: u16, pasid: u32) -> Self {
        Self {
            kind: Kind::from_raw(kind),
            did,
            pasid,
        }
    }
}

/// A linked tag.
///
/// # Invariants
///
/// Points to a tag that is not freed during `'a`.
pub(crate) struct Tag<'a>(*mut bindings::cache_tag, PhantomData<&'a ()>);

impl<'a> Tag<'a> {
    fn as_raw(&self) -> *mut bindings::cache_tag {
        self.0
    }

    /// Where the cache is.
    pub(crate) fn kind(&self) -> Kind {
        // SAFETY: By the invariant; does not change.
        Kind::from_raw(unsafe { (*self.as_raw()).type_ })
    }

    /// The domain-id of what is cached.
    pub(crate) fn did(&self) -> u16 {
        // SAFETY: By the invariant; does not change.
        unsafe { (*self.as_raw()).domain_id }
    }

    fn raw_pasid(&self) -> u32 {
        // SAFETY: By the invariant; does not change.
        unsafe { (*self.as_raw()).pasid }
    }

    /// The PASID of what is cached.
    pub(crate) fn pasid(&self) -> Pasid {
        // The PASID was attached, so it was in the table.
        Pasid::try_new(self.raw_pasid().into()).unwrap_or(NO_PASID)
    }

    /// The unit.
    pub(crate) fn unit(&self) -> Unit<'a> {
        // SAFETY: By the invariant; does not change.
        let unit = unsafe { (*self.as_raw()).iommu };
        // SAFETY: A unit stays while a device behind it is attached.
        unsafe { Unit::from_raw(unit) }
    }

    /// The device's cache, and whether it needs everything twice; none for a cache in the unit,
    /// and while the device is not to be asked. For hot paths: the device itself is not asked, and
    /// nothing else of it is looked at.
    #[inline(always)]
    pub(crate) fn device(&self) -> Option<(DevTlb, bool)> {
        if !self.kind().in_device() {
            return None;
        }
        let mut out = MaybeUninit::<bindings::vtd_tlb>::uninit();
        // SAFETY: By the invariant the tag is there, and its device does not change. That is
        // probed: it is released after it was detached, which took the tag away and waited for who
        // uses it.
        if !unsafe { bindings::vtd_read_tlb((*self.as_raw()).dev, out.as_mut_ptr()) } {
            return None;
        }
        // SAFETY: It was filled in.
        let is = unsafe { out.assume_init() };
        let tlb = DevTlb::new(is.sid, is.pfsid, is.ats_qdep.into());
        Some((tlb, is.extra_inval))
    }

    fn matches(&self, dev: &Device<'_>, key: Key) -> bool {
        if self.kind() != key.kind || self.did() != key.did || self.raw_pasid() != key.pasid {
            false
        } else if key.kind.in_device() {
            // SAFETY: By the invariant; does not change.
            unsafe { (*self.as_raw()).dev == dev.as_raw() }
        } else {
            self.unit() == dev.unit()
        }
    }
}

/// The tags of a domain, one after the other.
///
/// # Invariants
///
/// `at` is `head`, that of a domain's list of tags, or the node of a tag in it that is not freed
/// during `'a`.
pub(crate) struct Tags<'a> {
    head: *mut bindings::list_head,
    at: *mut bindings::list_head,
    _tags: PhantomData<&'a ()>,
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Tag<'a>> {
        // SAFETY: By the invariant the node is there. Others may link to it meanwhile.
        let next = unsafe { (&raw const (*self.at).next).read_volatile() };
        if core::ptr::eq(next, self.head) {
            return None;
        }
        // `node` is the first member.
        const { assert!(core::mem::offset_of!(bindings::cache_tag, node) == 0) };
        // INVARIANT: A tag that is reached under RCU or the lock stays until that ends.
        self.at = next;
        // INVARIANT: It is the tag that was reached just now.
        Some(Tag(next.cast(), PhantomData))
    }
}

impl<'a> Domain<'a> {
    /// Begins a walk over the tags.
    #[inline]
    pub(crate) fn walk(&self) -> Walk<'_> {
        let rcu = rcu::read_lock();
        self.flushes().fetch_add(1, Full);
        Walk {
            domain: *self,
            _rcu: rcu,
        }
    }

    /// The tags, for who keeps them from being freed.
    #[inline]
    fn tags(&self) -> Tags<'a> {
        // SAFETY: The domain is there by the invariant.
        let head = unsafe { &raw mut (*self.as_raw()).cache_tags };
        // INVARIANT: None was reached yet.
        Tags {
            head,
            at: head,
            _tags: PhantomData,
        }
    }

    /// How many walks there are.
    fn flushes(&self) -> &Atomic<i32> {
        // SAFETY: The domain is there by the invariant.
        let counter = unsafe { &raw mut (*self.as_raw()).flushes.counter };
        // SAFETY: It lives as long as the domain, and is used as an atomic only.
        unsafe { Atomic::from_ptr(counter) }
    }

    /// Takes the lock under which tags come and go.
    pub(crate) fn lock_tags(&self) -> Locked<'a> {
        // SAFETY: The domain is there by the invariant, its lock is initialised with it.
        let flags = unsafe { bindings::vtd_tags_lock(self.as_raw()) };
        Locked {
            domain: *self,
            flags,
        }
    }
}

/// A walk over the tags of a domain, under RCU; it is counted until it is dropped.
///
/// What was changed in a page table before it began is seen by who adds a tag that it does not
/// see.
pub(crate) struct Walk<'a> {
    domain: Domain<'a>,
    _rcu: rcu::Guard,
}

impl Walk<'_> {
    /// The tags.
    #[inline]
    pub(crate) fn tags(&self) -> Tags<'_> {
        self.domain.tags()
    }
}

/// The trace events of a flush.
#[derive(Clone, Copy)]
pub(crate) struct Trace {
    on: bool,
}

impl Trace {
    /// Looks whether anybody reads them.
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            // SAFETY: No requirements.
            on: unsafe { bindings::vtd_flushes_traced() },
        }
    }

    /// The trace event of a flush. C calls the order `mask`.
    #[inline]
    pub(crate) fn flush(self, tag: &Tag<'_>, (start, last): (u64, u64), span: Span) {
        if !self.on {
            return;
        }
        let (addr, order) = (span.start() as usize, span.order() as usize);
        // SAFETY: The tag is there by its invariant.
        unsafe {
            bindings::vtd_trace_flush(tag.as_raw(), start as usize, last as usize, addr, order)
        };
    }

    /// The trace event of a flush of what was not present before.
    #[inline]
    pub(crate) fn flush_new(self, tag: &Tag<'_>, (start, last): (u64, u64), span: Span) {
        if !self.on {
            return;
        }
        let (addr, order) = (span.start() as usize, span.order() as usize);
        // SAFETY: The tag is there by its invariant.
        unsafe {
            bindings::vtd_trace_flush_np(tag.as_raw(), start as usize, last as usize, addr, order)
        };
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        // What was read of the tags was read before.
        self.domain.flushes().fetch_sub(1, Release);
    }
}

/// The list of tags, locked; dropping it unlocks.
pub(crate) struct Locked<'a> {
    domain: Domain<'a>,
    flags: usize,
}

impl<'a> Locked<'a> {
    fn iter(&self) -> Tags<'_> {
        self.domain.tags()
    }

    /// Adds a tag, or a user to the one that is there. Tags of a unit are kept together, so that
    /// their invalidations become one submission. Gives `new` back when it is not needed.
    pub(crate) fn add(self, dev: &Device<'_>, key: Key, new: New) -> Option<New> {
        let unit = dev.unit();
        let mut after = core::ptr::null_mut();
        for tag in self.iter() {
            if tag.matches(dev, key) {
                // SAFETY: `users` belongs to the lock, which is held.
                unsafe { (*tag.as_raw()).users += 1 };
                // SAFETY: The tag is there.
                unsafe { bindings::vtd_trace_assign(tag.as_raw()) };
                return Some(new);
            }
            if tag.unit() == unit {
                after = tag.as_raw();
            }
        }
        let tag = new.fill(dev, key);
        // SAFETY: `tag` is linked nowhere, `after` is null or in the list; the lock is held.
        unsafe { bindings::vtd_tag_link(self.domain.as_raw(), after, tag) };
        // SAFETY: The tag is there.
        unsafe { bindings::vtd_trace_assign(tag) };
        // The caller uses the table afterwards: one of the two sees the other.
        smp_mb(Full);
        None
    }

    /// Takes a user off a tag; the last one unlinks it.
    pub(crate) fn remove(self, dev: &Device<'_>, key: Key) -> Option<Removed<'a>> {
        let tag = self.iter().find(|tag| tag.matches(dev, key))?;
        // SAFETY: The tag is there.
        unsafe { bindings::vtd_trace_unassign(tag.as_raw()) };
        // SAFETY: `users` belongs to the lock, which is held.
        let users = unsafe { &mut (*tag.as_raw()).users };
        *users -= 1;
        if *users > 0 {
            return None;
        }
        // SAFETY: The tag is in the list; the lock is held.
        unsafe { bindings::vtd_tag_unlink(tag.as_raw()) };
        // INVARIANT: It was in this list, and is unlinked.
        Some(Removed {
            tag: tag.0,
            of: self.domain,
        })
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: `lock_tags()` took the lock and gave these flags.
        unsafe { bindings::vtd_tags_unlock(self.domain.as_raw(), self.flags) };
    }
}

/// A tag that is linked nowhere yet.
pub(crate) struct New(NonNull<bindings::cache_tag>);

impl New {
    /// Gets memory. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn alloc() -> Result<Self> {
        // SAFETY: No requirements.
        NonNull::new(unsafe { bindings::vtd_tag_alloc() })
            .map(Self)
            .ok_or(ENOMEM)
    }

    fn fill(self, dev: &Device<'_>, key: Key) -> *mut bindings::cache_tag {
        let unit = dev.unit().as_raw();
        let owner = if key.kind.in_device() {
            dev.as_raw()
        } else {
            // SAFETY: The unit is there; its device does not change.
            unsafe { (*unit).iommu.dev }
        };
        let tag = self.0.as_ptr();
        core::mem::forget(self);
        // SAFETY: The tag is ours alone.
        unsafe {
            (*tag).type_ = key.kind.as_raw();
            (*tag).iommu = unit;
            (*tag).dev = owner;
            (*tag).domain_id = key.did;
            (*tag).pasid = key.pasid;
            (*tag).users = 1;
        }
        tag
    }
}

impl Drop for New {
    fn drop(&mut self) {
        // SAFETY: The tag is ours alone.
        unsafe { bindings::vtd_tag_free(self.0.as_ptr()) };
    }
}

/// A tag that was unlinked, which flushes of the domain that it was of may still use.
///
/// # Invariants
///
/// `tag` points to a tag that is in no list, and was in that of `of` last.
#[must_use]
pub(crate) struct Removed<'a> {
    tag: *mut bindings::cache_tag,
    of: Domain<'a>,
}

/// Waits until no flush uses any of these tags, then frees them. Sleeps, if there are a tag and a
/// flush.
pub(crate) fn settle<const N: usize>(gone: [Option<Removed<'_>>; N]) {
    if gone.iter().all(Option::is_none) {
        return;
    }
    // Who begins to walk after this counts before it looks, and does not find the tags.
    smp_mb(Full);
    if gone
        .iter()
        .flatten()
        .any(|tag| tag.of.flushes().load(Acquire) != 0)
    {
        // SAFETY: No lock is held and no RCU reader is this one: callers may sleep.
        unsafe { bindings::vtd_tags_settle() };
    }
    for removed in gone.into_iter().flatten() {
        // SAFETY: It is in no list, and who reached it before is done.
        unsafe { bindings::vtd_tag_free(removed.tag) };
    }
}
