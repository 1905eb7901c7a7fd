// SPDX-License-Identifier: GPL-2.0-only

//! The caches that hold translations of a domain, and their invalidation.
//!
//! Each attachment leaves a tag for each cache that it fills. A flush walks the tags under RCU
//! and takes no lock, so interrupts are on while the hardware answers and flushes of one domain
//! do not wait for one another. Whoever takes a tag away returns when no flush uses it any more,
//! so a device that was detached gets no more invalidations; flushes are counted, so that this
//! hardly ever takes a grace period.

use kernel::prelude::*;

use crate::{
    caps::Caps,
    ffi::{
        device::Device,
        domain::{
            Domain,
            OnUnit, //
        },
        stack::Stack,
        tags::{
            settle,
            Key,
            New,
            Tag,
            Trace,
            Walk, //
        },
        unit::Unit, //
    },
    gather::RANGES,
    invalidate::{
        Batch,
        Desc,
        DevTlb,
        Pasid, //
    },
    range::{
        Range,
        Span, //
    },
};

/// Where a cache is and what fills it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The unit's IOTLB.
    Iotlb,
    /// The device's.
    DevTlb,
    /// The unit's IOTLB, filled through a stage 1 that is nested on this domain.
    NestingIotlb,
    /// The device's, the same way.
    NestingDevTlb,
}

impl Kind {
    /// Whether the cache is in the device.
    pub(crate) fn in_device(self) -> bool {
        matches!(self, Self::DevTlb | Self::NestingDevTlb)
    }
}

/// What a tag tells a flush.
struct Target {
    kind: Kind,
    did: u16,
    pasid: Pasid,
    /// None for a cache in the unit, and for a device that must not be asked. With it whether the
    /// device needs everything twice.
    device: Option<(DevTlb, bool)>,
}

impl Target {
    /// Which block is to be named. What a change of stage 2 does to the nested translations
    /// that a device caches cannot be told, so they all go.
    fn span(&self, span: Span) -> Span {
        if self.kind == Kind::NestingDevTlb {
            Span::ALL
        } else {
            span
        }
    }

    /// Calls `f` with each descriptor for one block; `by_pasid` when a first stage is the domain's
    /// own.
    #[inline(always)]
    fn each_desc(
        &self,
        caps: &Caps,
        by_pasid: bool,
        span: Span,
        leaf: bool,
        mut f: impl FnMut(Desc),
    ) {
        if self.kind.in_device() {
            if let Some(device) = &self.device {
                ask(device, self.pasid, self.span(span), f);
            }
        } else if by_pasid {
            f(Desc::pasid_iotlb_pages(self.did, self.pasid, span, leaf));
        } else {
            f(Desc::iotlb_pages(caps, self.did, span, leaf));
        }
    }

    /// Calls `f` for each block that is to be named for `ranges`, with the range it is of.
    fn each_block(&self, ranges: &[Range], mut f: impl FnMut(Range, Span)) {
        if self.kind.in_device() && ranges.iter().flat_map(blocks).count() > DEVICE_BLOCKS {
            return f(Range::ALL, Span::ALL);
        }
        for range in ranges {
            for span in blocks(range) {
                f(*range, span);
            }
        }
    }
}

/// Calls `f` with each descriptor that has a device invalidate a block of what it caches for a
/// PASID. Returns how many those are.
#[inline(always)]
fn ask((dev, twice): &(DevTlb, bool), pasid: Pasid, span: Span, mut f: impl FnMut(Desc)) -> usize {
    let desc = Desc::device_tlb(dev, pasid, span);
    f(desc);
    if *twice {
        f(desc);
    }
    1 + usize::from(*twice)
}

fn blocks(range: &Range) -> impl Iterator<Item = Span> {
    let (first, second) = range.spans();
    [Some(first), second].into_iter().flatten()
}

/// Descriptors of a submission for a page table's change: one for the unit's cache, one or two for
/// each device's, and a fence between.
const DESCS: usize = 16;

/// Blocks that a device is asked to invalidate one by one; when there are more it is asked for
/// everything, since it takes few at a time and the unit waits for each.
const DEVICE_BLOCKS: usize = 8;

/// Descriptors of a submission for a user: two blocks for each range, or for each of
/// [`DEVICE_BLOCKS`] one and two for a device; a fence between; and room for three more devices.
const USER_DESCS: usize = 2 * RANGES + 8;

/// Descriptors on their way to one unit after the other, up to `N` in a submission. The first
/// failure is kept.
struct Queue<'a, const N: usize> {
    unit: Option<Unit<'a>>,
    batch: Batch<N>,
    result: Result,
}

impl<'a, const N: usize> Queue<'a, N> {
    #[inline(always)]
    fn new() -> Self {
        Self {
            unit: None,
            batch: Batch::new(),
            result: Ok(()),
        }
    }

    /// What is pushed next is for `unit`. Tells whether it was not before.
    fn aim(&mut self, unit: Unit<'a>) -> bool {
        let other = self.unit != Some(unit);
        if other {
            self.submit();
            self.unit = Some(unit);
        }
        other
    }

    #[inline(always)]
    fn push(&mut self, desc: Desc) {
        if let Err(desc) = self.batch.push(desc) {
            self.push_after_submit(desc);
        }
    }

    #[cold]
    fn push_after_submit(&mut self, desc: Desc) {
        self.submit();
        // There is room now.
        let _ = self.batch.push(desc);
    }

    #[inline]
    fn submit(&mut self) {
        if let Some(unit) = &self.unit {
            self.result = self.result.and(unit.submit(&self.batch));
        }
        self.batch.clear();
    }

    fn finish(&mut self) -> Result {
        self.submit();
        self.result
    }
}

fn target(tag: &Tag<'_>) -> Target {
    Target {
        kind: tag.kind(),
        did: tag.did(),
        pasid: tag.pasid(),
        device: tag.device(),
    }
}

/// Invalidates ranges that a user of a nested domain names, up to [`RANGES`] of them. That is one
/// submission, unless many devices with caches of their own are attached.
///
/// # Errors
///
/// Those of the invalidation queue ([`Unit::submit`]); the rest was invalidated nonetheless.
pub(crate) fn flush_ranges(domain: &Domain<'_>, ranges: &[Range]) -> Result {
    let by_pasid = domain.by_pasid();
    let mut queue = Queue::<USER_DESCS>::new();
    let (walk, trace) = (domain.walk(), Trace::new());
    for tag in walk.tags() {
        let unit = tag.unit();
        queue.aim(unit);
        let (target, caps) = (target(&tag), unit.caps());
        target.each_block(ranges, |range, span| {
            target.each_desc(&caps, by_pasid, span, range.leaf(), |desc| queue.push(desc));
            trace.flush(&tag, range.ends(), span);
        });
    }
    queue.finish()
}

/// Invalidates what is cached of a range (bytes, both ends inclusive) that was unmapped or
/// changed. `leaf` says that only leaves of the table did.
///
/// Any context.
///
/// # Errors
///
/// Those of the invalidation queue ([`Unit::submit`]); the rest was invalidated nonetheless.
pub(crate) fn flush_range(domain: &Domain<'_>, start: u64, last: u64, leaf: bool) -> Result {
    let by_pasid = domain.by_pasid();
    let span = Span::cover(start, last);
    let mut queue = Queue::<DESCS>::new();
    let (walk, trace) = (domain.walk(), Trace::new());
    for tag in walk.tags() {
        let unit = tag.unit();
        queue.aim(unit);
        target(&tag).each_desc(&unit.caps(), by_pasid, span, leaf, |desc| queue.push(desc));
        trace.flush(&tag, (start, last), span);
    }
    queue.finish()
}

/// Makes a range visible that was mapped: invalidates it where units cache what is absent
/// (section 6.1; not of first-stage tables), flushes write buffers elsewhere (6.8).
///
/// Any context.
///
/// # Errors
///
/// Those of the invalidation queue ([`Unit::submit`]); the rest was invalidated nonetheless.
pub(crate) fn flush_new(domain: &Domain<'_>, start: u64, last: u64) -> Result {
    let by_pasid = domain.by_pasid();
    let first_stage = domain.first_stage();
    let span = Span::cover(start, last);
    let mut queue = Queue::<DESCS>::new();
    let (walk, trace) = (domain.walk(), Trace::new());
    for tag in walk.tags() {
        let unit = tag.unit();
        let new = queue.aim(unit);
        if first_stage || !unit.caps().caching_mode() {
            if new {
                unit.flush_write_buffer();
            }
            continue;
        }
        if !tag.kind().in_device() {
            target(&tag).each_desc(&unit.caps(), by_pasid, span, false, |desc| queue.push(desc));
        }
        trace.flush_new(&tag, (start, last), span);
    }
    queue.finish()
}

/// The domain-ids of the unit that one of a guest's stands for: of tables behind which the guest
/// invalidates Device-TLBs itself, and of those where it does not know of any.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dids {
    pub(crate) with_ats: Option<u16>,
    pub(crate) without: Option<u16>,
}

impl Dids {
    /// It stands for nothing.
    pub(crate) const NONE: Self = Self {
        with_ats: None,
        without: None,
    };

    fn all(&self) -> impl Iterator<Item = u16> {
        [self.with_ats, self.without].into_iter().flatten()
    }
}

/// What a guest asks for, in the names of its unit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// What the IOTLB has of a PASID in a domain.
    PasidIotlb {
        dids: Dids,
        pasid: Pasid,
        span: Span,
        leaf: bool,
    },
    /// What it has of a domain.
    Domain { dids: Dids },
    /// What a device has, of one PASID or all.
    DevTlb {
        sid: u16,
        pasid: Option<Pasid>,
        span: Span,
    },
}

impl Step {
    /// What goes with it in the cache of a device whose guest does not know of that cache, for
    /// tables of a domain-id and a PASID.
    fn implies(&self, did: u16, pasid: Pasid) -> Option<Span> {
        match *self {
            Self::PasidIotlb {
                dids,
                pasid: of,
                span,
                ..
            } if dids.without == Some(did) && of == pasid => Some(span),
            Self::Domain { dids } if dids.without == Some(did) => Some(Span::ALL),
            _ => None,
        }
    }

    /// Whether there are such tables.
    fn may_imply(&self) -> bool {
        match self {
            Self::PasidIotlb { dids, .. } | Self::Domain { dids } => dids.without.is_some(),
            Self::DevTlb { .. } => false,
        }
    }
}

/// Does what a guest asks for, in its order, with one wait, until enough devices were asked for a
/// while. `parent` is what all its domains are nested on. Returns how many steps that were.
///
/// Devices are found by the tags that attachments leave with the parent, so that none is asked that
/// was detached. What the guest does not ask of them itself comes behind all that it asks for.
///
/// # Errors
///
/// Those of the invalidation queue ([`Unit::submit`]); the rest was invalidated nonetheless.
#[inline]
pub(crate) fn flush_for_guest<'a>(
    parent: &Domain<'a>,
    unit: Unit<'a>,
    steps: &[Step],
) -> (usize, Result) {
    let caps = unit.caps();
    let walk = parent.walk();
    let mut queue = Queue::<USER_DESCS>::new();
    queue.aim(unit);
    let (mut done, mut asked, mut implied) = (0, 0, false);
    for step in steps {
        if asked >= DEVICE_BLOCKS {
            break;
        }
        done += 1;
        implied |= step.may_imply();
        match *step {
            Step::PasidIotlb {
                dids,
                pasid,
                span,
                leaf,
            } => {
                for did in dids.all() {
                    queue.push(Desc::pasid_iotlb_pages(did, pasid, span, leaf));
                }
            }
            Step::Domain { dids } => {
                for did in dids.all() {
                    queue.push(Desc::iotlb_domain(&caps, did));
                }
            }
            Step::DevTlb { sid, pasid, span } => {
                for tag in walk.tags() {
                    if tag.unit() != unit || pasid.is_some_and(|pasid| tag.pasid() != pasid) {
                        continue;
                    }
                    if let Some(device) = tag.device().filter(|(dev, _)| dev.sid == sid) {
                        asked += ask(&device, tag.pasid(), span, |desc| queue.push(desc));
                    }
                }
            }
        }
    }
    if implied {
        // PANIC: No more were done than there are.
        ask_implied(&walk, &mut queue, unit, &steps[..done]);
    }
    (done, queue.finish())
}

/// Has devices invalidate what goes with steps, block by block, or all of it where that is more
/// than [`DEVICE_BLOCKS`].
#[inline(always)]
fn ask_implied<const N: usize>(
    walk: &Walk<'_>,
    queue: &mut Queue<'_, N>,
    unit: Unit<'_>,
    steps: &[Step],
) {
    for tag in walk.tags() {
        if tag.kind() != Kind::NestingDevTlb || tag.unit() != unit {
            continue;
        }
        let (did, pasid) = (tag.did(), tag.pasid());
        let mut spans = Stack::<Span, DEVICE_BLOCKS>::new();
        let mut all = false;
        for span in steps.iter().filter_map(|step| step.implies(did, pasid)) {
            all = span.is_all() || spans.push(span).is_err();
            if all {
                break;
            }
        }
        let spans = if all { &[Span::ALL] } else { &*spans };
        if spans.is_empty() {
            continue;
        }
        if let Some(device) = tag.device() {
            for span in spans {
                ask(&device, pasid, *span, |desc| queue.push(desc));
            }
        }
    }
}

/// Adds a tag, or a user to the one that is there.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn assign(domain: &Domain<'_>, dev: &Device<'_>, key: Key) -> Result {
    let new = New::alloc()?;
    // The spare one is freed after the lock is.
    let _spare = domain.lock_tags().add(dev, key, new);
    Ok(())
}

/// A tag of the unit's cache, and one of the device's.
type Pair = (Key, Key);

/// Tags for both the unit's cache and the device's, if it has one: that it is not in use yet, or no
/// more, is seen by who flushes.
fn assign_pair(domain: &Domain<'_>, dev: &Device<'_>, pair: Pair) -> Result {
    assign(domain, dev, pair.0)?;
    if dev.may_have_tlb() {
        assign(domain, dev, pair.1).inspect_err(|_| unassign_pair(domain, dev, pair))?;
    }
    Ok(())
}

/// Takes the tags of a pair away that are there: ATS may have been turned off since. Sleeps until
/// no flush uses them.
fn unassign_pair(domain: &Domain<'_>, dev: &Device<'_>, pair: Pair) {
    let gone = [pair.0, pair.1].map(|key| domain.lock_tags().remove(dev, key));
    settle(gone);
}

/// The tags of an attachment: of the domain, and of the parent of a nested one.
struct Keys {
    own: Pair,
    parent: Pair,
}

impl Keys {
    fn new(did: u16, pasid: u32) -> Self {
        let key = |kind| Key { kind, did, pasid };
        Self {
            own: (key(Kind::Iotlb), key(Kind::DevTlb)),
            parent: (key(Kind::NestingIotlb), key(Kind::NestingDevTlb)),
        }
    }
}

/// The tags of an attachment. Dropping them takes them away, and sleeps until no flush uses them.
#[must_use]
pub(crate) struct Tags<'a> {
    on: OnUnit<'a>,
    dev: Device<'a>,
    pasid: u32,
}

impl<'a> Tags<'a> {
    /// Adds them, for a domain that has an id on the device's unit.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, with no tag added.
    pub(crate) fn assign(on: OnUnit<'a>, dev: &Device<'a>, pasid: u32) -> Result<Self> {
        let keys = Keys::new(on.did(), pasid);
        assign_pair(&on, dev, keys.own)?;
        if let Some(nested) = on.as_nested() {
            assign_pair(&nested.parent().any(), dev, keys.parent)
                .inspect_err(|_| unassign_pair(&on, dev, keys.own))?;
        }
        Ok(Self::kept(on, dev, pasid))
    }

    /// Those that were kept.
    pub(crate) fn kept(on: OnUnit<'a>, dev: &Device<'a>, pasid: u32) -> Self {
        let dev = *dev;
        Self { on, dev, pasid }
    }

    /// They stay.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Tags<'_> {
    fn drop(&mut self) {
        let Self { on, dev, pasid } = self;
        let keys = Keys::new(on.did(), *pasid);
        unassign_pair(on, dev, keys.own);
        if let Some(nested) = on.as_nested() {
            unassign_pair(&nested.parent().any(), dev, keys.parent);
        }
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_cache)]
mod tests {
    use super::*;
    use crate::{
        cache_model::{
            Cache,
            Item,
            Model, //
        },
        ffi::stack::Stack,
        gather::Gathered,
        invalidate::NO_PASID, //
    };

    /// The address of everything (section 6.5.2.5), with S.
    const ALL_OF_DEVICE: u64 = 0x7fff_ffff_ffff_f001;

    #[test]
    fn descriptors_of_a_tag() {
        let caps = Caps::new(1 << 39 | 9 << 48, 0);
        let span = Span::cover(0x3000, 0x3fff);
        let to = |kind, device| Target {
            kind,
            did: 5,
            pasid: NO_PASID,
            device,
        };
        let dev = DevTlb::new(8, 8, 0);
        let check = |to: Target, by_pasid, want: &[Desc]| {
            let mut got = Stack::<Desc, 4>::new();
            to.each_desc(&caps, by_pasid, span, true, |desc| {
                assert!(got.push(desc).is_ok());
            });
            assert!(*got == *want);
        };
        for kind in [Kind::Iotlb, Kind::NestingIotlb] {
            check(to(kind, None), false, &[Desc([0x5_0032, 0x3040, 0, 0])]);
            check(to(kind, None), true, &[Desc([0x5_0036, 0x3040, 0, 0])]);
        }
        for (kind, named) in [(Kind::DevTlb, 0x3000), (Kind::NestingDevTlb, ALL_OF_DEVICE)] {
            let want = [Desc([0x8_0000_8003, named, 0, 0]); 2];
            check(to(kind, Some((dev, false))), true, &want[..1]);
            check(to(kind, Some((dev, true))), false, &want);
            // A device that is gone.
            check(to(kind, None), false, &[]);
        }
    }

    /// Nothing stale is left of a block of a table that changed: no 4 KiB piece of a page, nothing
    /// that was nested on it, no table that may be freed unless it is said that only leaves
    /// changed. A descriptor takes no less than that: with the hint or half the block something
    /// may be left.
    #[test]
    fn nothing_stale_is_left_of_a_block() {
        let dev = DevTlb::new(8, 8, 0);
        let kinds = [
            (Kind::Iotlb, true),
            (Kind::Iotlb, false),
            (Kind::NestingIotlb, false),
            (Kind::DevTlb, true),
            (Kind::NestingDevTlb, false),
        ];
        let masks = [0, 1 << 39, 1 << 39 | 9 << 48, 1 << 39 | 63 << 48];
        let pasids = [NO_PASID, Pasid::new::<5>()];
        for number in 0..kinds.len() * masks.len() * pasids.len() * 2 * 53 {
            let mut rest = number;
            let mut pick = |of: usize| {
                let n = rest % of;
                rest /= of;
                n
            };
            let (kind, by_pasid) = kinds[pick(kinds.len())];
            let caps = Caps::new(masks[pick(masks.len())], 0);
            let pasid = pasids[pick(pasids.len())];
            let leaf = pick(2) == 1;
            let size = u64::MAX >> (52 - pick(53));
            // The second block of that size, so that there is one beside it.
            let start = if size >> 63 != 0 { 0 } else { size + 1 };
            let span = Span::cover(start, start | size);
            let nesting = matches!(kind, Kind::NestingIotlb | Kind::NestingDevTlb);
            let mut model = Model::new();
            let memory = model.add(Item::new(Cache::Memory, 8, 5, 0));
            for page in [start, start + (size >> 1 & !0xfff), (start | size) & !0xfff] {
                // What a stage 1 makes of it can be at any address.
                let input = if nesting { 0x7000 } else { page };
                let item = |cache, addr: u64, size: u64, stale| Item {
                    first_stage: by_pasid || nesting,
                    addrs: (addr & !size, addr | size),
                    from: memory,
                    stale,
                    ..Item::new(cache, 8, 5, pasid.get())
                };
                // The tables that hold the entries of a 2 MiB and a 1 GiB block.
                let (table, directory) = ((1 << 21) - 1, (1 << 30) - 1);
                if kind.in_device() {
                    model.add(item(Cache::DevTlb, input, 0xfff, true));
                    continue;
                }
                model.add(item(Cache::Iotlb, input, 0xfff, true));
                for size in [table, directory] {
                    if by_pasid || nesting {
                        model.add(item(Cache::FirstStage, input, size, nesting || !leaf));
                    }
                    if !by_pasid {
                        model.add(item(Cache::SecondStage, page, size, !leaf));
                    }
                }
            }
            model.becomes(memory, 0);
            let target = Target {
                kind,
                did: 5,
                pasid,
                device: kind.in_device().then_some((dev, false)),
            };
            target.each_desc(&caps, by_pasid, span, leaf, |desc| {
                assert!(model.stale() && !model.stale_after(&[desc]));
                let [low, high, ..] = desc.0;
                // Page-selective.
                if !kind.in_device() && low >> 4 & 3 == 3 {
                    let hinted = Desc([low, high | 1 << 6, 0, 0]);
                    assert_eq!(model.stale_after(&[hinted]), !leaf);
                    let half = Desc([low, high.wrapping_sub(1), 0, 0]);
                    assert!(high & 0x3f == 0 || nesting || model.stale_after(&[half]));
                }
                let other = Desc([low ^ 1 << 16, high, 0, 0]);
                // Type 3 has no domain-id and no PASID there.
                assert!(low & 0xf == 3 || model.stale_after(&[other]));
            });
        }
    }

    /// Arrays of 1 to 512 entries far from one another: one submission for a unit and a device
    /// that needs everything twice, and each entry is in a block.
    #[test]
    fn one_submission() -> Result {
        let caps = Caps::new(1 << 39 | 9 << 48, 0);
        let dev = DevTlb::new(8, 8, 0);
        let to = |kind, device| Target {
            kind,
            did: 5,
            pasid: NO_PASID,
            device,
        };
        let targets = [to(Kind::Iotlb, None), to(Kind::DevTlb, Some((dev, true)))];
        // 7 pages that straddle a boundary, so two blocks, 16 MiB from one another.
        let entry = |n: u64| (n << 24) + (1 << 23) - 0x1000;
        for entries in [
            1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 31, 32, 33, 100, 255, 256, 511, 512,
        ] {
            let mut gathered = Gathered::new();
            for n in 0..entries {
                gathered.add(Range::from_user(entry(n), 7, true)?);
            }
            assert!(gathered.ranges().len() <= RANGES);
            let mut batch = Batch::<USER_DESCS>::new();
            for target in &targets {
                let mut found = 0;
                target.each_block(gathered.ranges(), |range, span| {
                    target.each_desc(&caps, true, span, range.leaf(), |desc| {
                        assert!(batch.push(desc).is_ok());
                    });
                    let size = 12 + span.order();
                    let has = |addr: u64| size >= 64 || addr >> size == span.start() >> size;
                    for n in 0..entries {
                        found += u64::from(has(entry(n))) + u64::from(has(entry(n) + 0x6000));
                    }
                });
                assert!(found >= 2 * entries);
            }
            // Requests without PASID: the device forgets when the unit has forgotten.
            assert_eq!(batch.iter().filter(|desc| desc.0[0] == 0x45).count(), 1);
        }
        Ok(())
    }
}
