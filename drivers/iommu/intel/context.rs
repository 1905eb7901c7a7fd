// SPDX-License-Identifier: GPL-2.0-only

//! Context entries (sections 9.3 and 9.4): what names a device's PASID directory, or in legacy mode
//! its second-stage table.
//!
//! An entry's life is a chain of steps ([`crate::entry`]). While the hardware forgets an entry
//! others find it leaving: whoever shares its source-id and is being probed then.

use kernel::{
    bitfield,
    iommu::ops::NO_PASID as RID,
    num::Bounded,
    prelude::*, //
};

use crate::{
    entries::{
        self,
        DEFAULT_DID, //
    },
    entry::{
        self,
        Format, //
    },
    ffi::{
        self,
        device::Device,
        domain::OnUnit,
        table::Directory, //
    },
    flush_plan::Plan,
    invalidate::NO_PASID,
    pasid_entry::{
        frame,
        SecondStage, //
    }, //
};

bitfield! {
    /// Scalable-mode context entry, bits 63:0. P and FPD are where legacy mode has them.
    pub(crate) struct Low(u64) {
        /// PASIDDIRPTR: page frame of the PASID directory.
        63:12 directory;
        /// PDTS: the directory has 2^(PDTS + 7) entries.
        11:9 size;
        /// PRE: page requests.
        4:4 page_requests;
        /// PASIDE: requests with PASID.
        3:3 pasid;
        /// DTE: the device may cache translations.
        2:2 device_tlb;
        /// P.
        0:0 present;
    }
}

bitfield! {
    /// Legacy-mode context entry, bits 63:0.
    pub(crate) struct LegacyLow(u64) {
        /// SSPTPTR: page frame of the second-stage table.
        63:12 table;
        /// TT: what happens to requests.
        3:2 translation;
        /// P.
        0:0 present;
    }
}

/// TT: they are translated, and the device may not ask for translations.
const UNTRANSLATED: Bounded<u64, 2> = Bounded::<u64, 2>::new::<0>();
/// TT: they are translated, and it may.
const ALL: Bounded<u64, 2> = Bounded::<u64, 2>::new::<1>();
/// TT: they go through.
const PASS_THROUGH: Bounded<u64, 2> = Bounded::<u64, 2>::new::<2>();

bitfield! {
    /// Legacy-mode context entry, bits 127:64. In scalable mode this word is RID_PASID, 0.
    pub(crate) struct High(u64) {
        /// DID.
        23:8 did;
        /// AW: levels of the table, less two.
        2:0 aw;
    }
}

/// PDTS for a directory of so many PASIDs, 64 of them in each of its entries.
fn directory_size(max_pasid: u32) -> Bounded<u64, 3> {
    let size = (max_pasid >> 6)
        .checked_ilog2()
        .map_or(0, |n| n.saturating_sub(7));
    Bounded::try_new(size.into()).unwrap_or(Bounded::<u64, 3>::new::<7>())
}

/// The entry of a device.
fn of_device(dev: &Device<'_>, dir: &Directory<'_>) -> Context {
    let is = dev.snapshot();
    Context {
        low: Low::from_raw(0)
            .with_directory(frame(dir.phys()))
            .with_size(directory_size(dir.max_pasid()))
            .with_device_tlb(is.ats_supported)
            .with_pasid(is.pasid_supported)
            .with_page_requests(is.pri_supported)
            .with_present(true),
        high: High::from_raw(0),
    }
}

/// A context entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Context {
    low: Low,
    high: High,
}

impl Context {
    /// Translation by a second-stage table in legacy mode; `ats` lets the device ask for it.
    fn second_stage(table: &SecondStage, did: u16, ats: bool) -> Self {
        let low = LegacyLow::from_raw(0)
            .with_table(frame(table.root))
            .with_translation(if ats { ALL } else { UNTRANSLATED })
            .with_present(true);
        Self {
            low: Low::from_raw(low.into_raw()),
            high: High::from_raw(0).with_did(did).with_aw(table.aw),
        }
    }

    /// No translation in legacy mode: AW must be the largest that the unit has, the table is not
    /// looked at.
    fn pass_through(aw: Bounded<u64, 3>) -> Self {
        let low = LegacyLow::from_raw(0)
            .with_translation(PASS_THROUGH)
            .with_present(true);
        Self {
            low: Low::from_raw(low.into_raw()),
            high: High::from_raw(0).with_did(DEFAULT_DID).with_aw(aw),
        }
    }

    /// The domain-id of a legacy-mode entry.
    fn did(&self) -> u16 {
        self.high.did().into()
    }

    /// Whether it names the PASID directory at a physical address.
    fn names(&self, directory: u64) -> bool {
        self.low.directory() == frame(directory)
    }
}

impl Format for Context {
    type Words = [u64; 2];

    const STAYS: u64 = 0;

    fn read(load: impl Fn(usize) -> u64) -> Self {
        Self {
            low: Low::from_raw(load(0)),
            high: High::from_raw(load(1)),
        }
    }

    fn words(&self) -> Self::Words {
        [self.low.into_raw(), self.high.into_raw()]
    }
}

/// What a context entry turned out to be.
type State<L> = entry::State<L, Context>;

/// Names a PASID directory in the context entry of each source-id that the device's requests may
/// come with.
///
/// Bridges to conventional buses forward requests in a name that the devices behind them share, and
/// that may be the own one of one of them. As these are in one group with the bridge, its directory
/// says what theirs say, and stays when one of them goes. Of a bridge that still has the tables of
/// a crashed kernel it says nothing yet, and of one behind another unit nothing to this one.
///
/// # Errors
///
/// `ENOMEM` when there is no memory for the context table, `ENODEV` when there is no directory,
/// those of the invalidation queue.
pub(crate) fn set_up(dev: &Device<'_>) -> Result {
    let unit = dev.unit();
    // First, as one of them may be the device's own, too.
    dev.each_source_id(|whose, sid| match whose {
        Some(own) if own.is(dev) => Ok(()),
        Some(bridge)
            if bridge.unit() == unit && bridge.directory().is_some() && !bridge.inherited() =>
        {
            name(bridge, dev, sid)
        }
        _ => name(dev, dev, sid),
    })?;
    dev.each_source_id(|whose, sid| match whose {
        Some(own) if own.is(dev) => name(dev, dev, sid),
        _ => Ok(()),
    })
}

/// Names the directory of `named` in the context entry of a source-id of `dev`. An entry that is
/// there already is left alone, unless a crashed kernel has left it.
fn name(named: &Device<'_>, dev: &Device<'_>, sid: u16) -> Result {
    let dir = named.directory().ok_or(ENODEV)?;
    write(
        dev,
        sid,
        &of_device(named, &dir),
        |_, inherited| !inherited,
        // Its tables may be cached, and DMA may have been in flight.
        |_, _| Plan::inherited_context(sid, &dev.scope(NO_PASID)),
        Plan::new_context(sid, &dev.unit().caps()),
    )
}

/// Makes the context entry of a source-id of a device present, unless there is one that `stays`.
/// What the end of another one takes is `gone`, and `came` what the new one does. Both are told
/// whether a crashed kernel has left what is there.
///
/// # Errors
///
/// `ENOMEM` when there is no memory for the context table, those of the invalidation queue.
fn write(
    dev: &Device<'_>,
    sid: u16,
    entry: &Context,
    stays: impl Fn(&Context, bool) -> bool,
    gone: impl Fn(&Context, bool) -> Plan,
    came: Plan,
) -> Result {
    let unit = dev.unit();
    let [bus, devfn] = sid.to_be_bytes();
    let mut slot = ffi::context::entry(&unit, bus, devfn, true).ok_or(ENOMEM)?;
    let absent = loop {
        match State::of(slot) {
            State::Absent(absent) => break absent,
            State::Leaving(leaving) => slot = leaving.wait(),
            State::Present(present) => {
                let inherited = unit.context_copied(bus, devfn);
                if stays(present.entry(), inherited) {
                    return Ok(());
                }
                let (flushed, result) = present.clear().flush_by(|was| gone(was, inherited));
                if inherited {
                    // The driver's probe has reset the device by now.
                    unit.forget_copied(bus, devfn);
                }
                let absent = flushed.reset_but(0);
                result?;
                break absent;
            }
        }
    };
    absent
        .publish(entry)
        .announce_by(|_| came)
        .map_err(|(e, _)| e)
}

/// Clears all context entries that name the device's PASID directory, and its PASID entry before:
/// a device for which firmware has reserved memory is attached to the identity domain when it
/// goes, so that entry is present, and caches hold it.
///
/// # Errors
///
/// The first of the invalidation queue; the entries are absent nonetheless.
pub(crate) fn tear_down(dev: &Device<'_>) -> Result {
    let Some(dir) = dev.directory() else {
        return Ok(());
    };
    let its = |entry: &Context, _| entry.names(dir.phys());
    let mut result = entries::tear_down(dev, RID, false);
    result = result.and(clear_each(dev, its));
    if dev.is_bridge() {
        // In whose name it forwarded is not known any more: its secondary bus went before it.
        for bus in 0..=u8::MAX {
            result = result.and(clear(dev, u16::from(bus) << 8, its));
        }
    }
    result
}

/// Clears the context entry of a source-id of a device, if it is `its`, which is told whether a
/// crashed kernel has left it.
///
/// # Errors
///
/// Those of the invalidation queue; the entry is absent nonetheless.
fn clear(dev: &Device<'_>, sid: u16, its: impl Fn(&Context, bool) -> bool) -> Result {
    let unit = dev.unit();
    let [bus, devfn] = sid.to_be_bytes();
    let inherited = unit.context_copied(bus, devfn);
    // A copy is found only by who would make an entry.
    let Some(slot) = ffi::context::entry(&unit, bus, devfn, inherited) else {
        return Ok(());
    };
    let present = match State::of(slot) {
        State::Present(present) if its(present.entry(), inherited) => present,
        _ => return Ok(()),
    };
    let (flushed, result) = present
        .clear()
        .flush_by(|entry| plan(dev, entry.did(), sid, inherited));
    if inherited {
        unit.forget_copied(bus, devfn);
    }
    drop(flushed.reset_but(0));
    result
}

/// The same for each source-id that the device's requests may come with.
///
/// # Errors
///
/// The first of the invalidation queue; the entries are absent nonetheless.
fn clear_each(dev: &Device<'_>, its: impl Fn(&Context, bool) -> bool) -> Result {
    let mut result = Ok(());
    dev.each_source_id(|_, sid| {
        result = result.and(clear(dev, sid, &its));
        Ok(())
    })?;
    result
}

/// What the end of a context entry takes, when no PASID entry below it is present any more. Of a
/// domain-id of a crashed kernel's that there is not, nothing is cached.
fn plan(dev: &Device<'_>, did: u16, sid: u16, inherited: bool) -> Plan {
    if inherited && !dev.unit().caps().has_domain_id(did) {
        return Plan::nothing();
    }
    let twice = dev.snapshot().extra_inval;
    Plan::context(
        sid,
        did,
        &dev.scope(NO_PASID),
        !dev.unit().scalable(),
        twice,
    )
}

/// Has nothing of a crashed kernel's say where the DMA of a device goes: in scalable mode the
/// directory that it has here does, in legacy mode nothing any more.
///
/// # Errors
///
/// Those of [`set_up`] in scalable mode, of the invalidation queue in legacy mode, upon which the
/// entries are absent nonetheless.
pub(crate) fn take_over(dev: &Device<'_>) -> Result {
    if dev.unit().scalable() {
        return set_up(dev);
    }
    clear_each(dev, |_, inherited| inherited)
}

/// Makes sure that there is room for the context entry of each source-id that the device's requests
/// may come with. Does not sleep.
///
/// # Errors
///
/// `ENOMEM`.
pub(crate) fn make_room(dev: &Device<'_>) -> Result {
    let unit = dev.unit();
    dev.each_source_id(|_, sid| {
        let [bus, devfn] = sid.to_be_bytes();
        let entry = ffi::context::entry(&unit, bus, devfn, true);
        entry.map(|_| ()).ok_or(ENOMEM)
    })
}

/// Translates by a second-stage table for a domain-id, in legacy mode.
///
/// # Errors
///
/// Those of [`write`].
pub(crate) fn map(dev: &Device<'_>, table: &SecondStage, did: u16) -> Result {
    let (own, ats) = (dev.source_id(), dev.snapshot().ats_supported);
    dev.each_source_id(|_, sid| {
        // Only the device's own requests can be for translations.
        write_legacy(
            dev,
            sid,
            &Context::second_stage(table, did, ats && sid == own),
        )
    })
}

/// Lets requests through, in legacy mode.
///
/// # Errors
///
/// Those of [`write`].
pub(crate) fn pass_through(dev: &Device<'_>) -> Result {
    let entry = Context::pass_through(dev.unit().max_agaw());
    dev.each_source_id(|_, sid| write_legacy(dev, sid, &entry))
}

/// Makes the legacy-mode context entry of a source-id say what a device of its group is attached
/// to.
///
/// An entry that devices of a group share belongs to the group, whose devices go from one domain
/// to another one by one: it says what the others are attached to until the last of them comes
/// along. One that goes for good and is parked on the identity domain, as firmware has reserved
/// memory for it, does not take them along.
///
/// # Errors
///
/// Those of [`write`].
fn write_legacy(dev: &Device<'_>, sid: u16, entry: &Context) -> Result {
    let caps = dev.unit().caps();
    let theirs = |was: Context| was.did() != entry.did() && shared(dev, sid, was.did());
    if present(dev, sid).is_some_and(theirs) {
        return Ok(());
    }
    write(
        dev,
        sid,
        entry,
        // Another device of the group has made it say so.
        |was, _| was == entry,
        |was, inherited| plan(dev, was.did(), sid, inherited),
        Plan::new_legacy_context(sid, entry.did(), &caps),
    )
}

/// The context entry of a source-id of a device, as of now, if it is present.
fn present(dev: &Device<'_>, sid: u16) -> Option<Context> {
    let [bus, devfn] = sid.to_be_bytes();
    match State::of(ffi::context::entry(&dev.unit(), bus, devfn, false)?) {
        State::Present(present) => Some(*present.entry()),
        _ => None,
    }
}

/// Clears the legacy-mode context entries that say that a device is in a domain, or passed through.
///
/// An entry that devices of a group share stays if it says something else already, and as long as
/// another device needs it.
///
/// # Errors
///
/// The first of the invalidation queue; the entries are absent nonetheless.
pub(crate) fn unmap(dev: &Device<'_>, domain: Option<OnUnit<'_>>) -> Result {
    let did = domain.map_or(DEFAULT_DID, |domain| domain.did());
    let mut result = Ok(());
    dev.each_source_id(|_, sid| {
        if !shared(dev, sid, did) {
            result = result.and(clear(dev, sid, |entry, _| entry.did() == did));
        }
        Ok(())
    })?;
    result
}

/// Whether another device behind the same unit that is attached to the domain with this id has this
/// source-id, too. It is in the same group then, whose mutex is held.
fn shared(dev: &Device<'_>, sid: u16, did: u16) -> bool {
    dev.any_other_of_group(|other| {
        let attached = other.attached() && other.unit() == dev.unit();
        attached
            && other.on().map_or(DEFAULT_DID, |on| on.did()) == did
            && other
                .each_source_id(|_, its| if its == sid { Err(EBUSY) } else { Ok(()) })
                .is_err()
    })
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_context)]
mod tests {
    use super::*;
    use crate::{
        entry::{
            recorder::{
                Recorder,
                Step,
                NO_STEPS, //
            },
            Hardware, //
        },
        ffi::preempt, //
    };

    #[test]
    fn directory_sizes() {
        // (PASIDs, PDTS)
        let table = [
            (0, 0),
            (64, 0),
            (1 << 13, 0),
            ((1 << 14) - 1, 0),
            (1 << 14, 1),
            (1 << 15, 2),
            (1 << 19, 6),
            (1 << 20, 7),
            (u32::MAX, 7),
        ];
        for (pasids, want) in table {
            assert_eq!(directory_size(pasids).get(), want);
        }
    }

    #[test]
    fn legacy_entries() {
        let table = |root, aw| SecondStage {
            root,
            aw,
            snoop_walk: false,
            dirty: false,
            force_snoop: true,
        };
        let aw = |n| Bounded::<u64, 3>::try_new(n).unwrap_or(Bounded::<u64, 3>::new::<0>());
        // (root, levels less two, domain-id, ATS; the words)
        let entries = [
            (0x5000, 1, 7, false, [0x5001, 0x701]),
            (0x5000, 2, 7, true, [0x5005, 0x702]),
            (
                0xffff_ffff_ffff_f000,
                3,
                0xffff,
                true,
                [0xffff_ffff_ffff_f005, 0xff_ff03],
            ),
            // Bits below the page are no business of the fields beside the pointer.
            (0x5fff, 2, 0, false, [0x5001, 2]),
        ];
        for (root, levels, did, ats, words) in entries {
            let entry = Context::second_stage(&table(root, aw(levels)), did, ats);
            assert_eq!(entry.words(), words);
            assert_eq!(entry.did(), did);
        }
        for levels in 1..4 {
            let entry = Context::pass_through(aw(levels));
            assert_eq!(entry.words(), [0b1001, 0x100 | levels]);
        }
    }

    /// A whole life, in caching mode: each write and each descriptor.
    #[test]
    fn life() {
        let entry = Context {
            low: Low::from_raw(0x7000 | 3 << 9 | 1 << 3 | 1),
            high: High::from_raw(0),
        };
        for fail in [false, true] {
            let (mut words, mut count) = ([0, 0], 0);
            let mut steps = NO_STEPS;
            let hw = Recorder {
                words: &mut words,
                steps: &mut steps,
                count: &mut count,
                fail,
                tell: true,
            };
            if let State::Absent(absent) = State::of(hw.lock()) {
                drop(absent.publish(&entry));
            }
            let hw = Recorder {
                words: &mut words,
                steps: &mut steps,
                count: &mut count,
                fail,
                tell: true,
            };
            let scope = crate::flush_plan::Scope {
                caps: crate::caps::Caps::new(1 << 7, 0),
                pasid: NO_PASID,
                device: None,
            };
            match State::of(hw.lock()) {
                State::Present(present) => {
                    assert!(present.entry().names(0x7000) && !present.entry().names(0x8000));
                    let plan = |was: &Context| Plan::context(9, was.did(), &scope, false, false);
                    let (flushed, result) = present.clear().flush_by(plan);
                    assert_eq!(result.is_err(), fail);
                    drop(flushed.reset_but(0));
                }
                State::Absent(_) | State::Leaving(_) => assert!(false),
            }
            let want = [
                Step::Store(1, 0),
                Step::Store(0, 0x7608),
                Step::WriteBack,
                Step::Order,
                Step::Store(0, 0x7609),
                Step::WriteBack,
                Step::Store(0, 0x7608),
                Step::Order,
                Step::WriteBack,
                Step::Flush(3),
                Step::Desc(9 << 32 | 0x31, 0),
                Step::Desc(0x7, 0),
                Step::Desc(0x22, 0),
                Step::Store(0, 0),
                Step::Store(1, 0),
                Step::WriteBack,
            ];
            assert_eq!(count, want.len());
            assert!(steps[..count] == want);
        }
    }

    /// Between P=0 and the end of the invalidation the entry is nobody else's: who is about to
    /// name a directory in it, as its source-id is shared, does not find it absent, so that what
    /// is cleared afterwards is not theirs.
    #[test]
    fn leaving_is_nobody_elses() {
        let entry = 0x7000 | 3 << 9 | 1 << 3;
        for (first, leaves) in [(entry | 1, true), (entry, true), (0, false)] {
            let (mut words, mut count) = ([first, 0], 0);
            let mut steps = NO_STEPS;
            let mut look = |words: &mut [u64; 2]| {
                let hw = Recorder {
                    words,
                    steps: &mut steps,
                    count: &mut count,
                    fail: false,
                    tell: false,
                };
                match State::of(hw.lock()) {
                    State::Present(present) => {
                        assert!(preempt::preemptible());
                        let cleared = present.clear();
                        assert!(!preempt::preemptible());
                        drop(cleared);
                        None
                    }
                    State::Leaving(_) => Some(true),
                    State::Absent(_) => Some(false),
                }
            };
            // It is left just after P was cleared, as another processor may find it.
            let found = look(&mut words).or_else(|| look(&mut words));
            assert!(found == Some(leaves));
        }
    }
}
