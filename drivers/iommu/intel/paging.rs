// SPDX-License-Identifier: GPL-2.0-only

//! Domains with a page table of the kernel's, of the first stage or of the second.
//!
//! What a new one is like, and which units can use it, is decided by pure functions of flags and
//! capabilities. Mapping is the generic page tables' business; what is left is to tell the
//! hardware.

use core::marker::PhantomData;

use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Domain as OfCore,
            Kind,
            NewDomain,
            Owned, //
        },
        ops::{
            AllocFlags,
            DirtyOps,
            DirtyTable,
            DomainOps,
            DomainTable,
            Gather,
            Pasid,
            Served, //
        },
        user_data::UserData, //
    },
    prelude::*,
    sizes::{
        SZ_1G,
        SZ_2M,
        SZ_4K, //
    }, //
};

use crate::{
    attach::{
        self,
        Target, //
    },
    cache,
    caps::Caps,
    entries,
    ffi::{
        device::Device,
        domain::{
            DmarHead,
            Domain,
            FirstStageDomain,
            Guard,
            SecondStageDomain, //
        },
        pgtable::{
            Config,
            FirstHead,
            SecondHead, //
        },
        unit::superpages, //
    },
};

/// What a unit can do for domains.
#[derive(Clone, Copy)]
pub(crate) struct Abilities {
    pub(crate) caps: Caps,
    /// It works in scalable mode.
    pub(crate) scalable: bool,
    /// Its write buffer is to be flushed when something was mapped (section 6.8).
    pub(crate) write_buffer: bool,
}

impl Abilities {
    /// Legacy mode knows no first stage.
    fn first_stage(&self) -> bool {
        self.scalable && self.caps.ecap.first_stage().into_bool()
    }

    /// Legacy mode always has it.
    fn second_stage(&self) -> bool {
        !self.scalable || self.caps.ecap.second_stage().into_bool()
    }

    /// Whether it nests.
    pub(crate) fn nests(&self) -> bool {
        self.scalable && self.caps.ecap.nested().into_bool()
    }

    /// Whether its second stage has dirty flags, which are written coherently only.
    fn tracks_dirty(&self) -> bool {
        let ecap = self.caps.ecap;
        self.scalable && ecap.second_stage_dirty().into_bool() && ecap.walk_coherent().into_bool()
    }

    /// Whether it looks into the processors' caches when it walks a table of this stage.
    fn coherent(&self, stage: Stage) -> bool {
        match stage {
            Stage::Second if !self.scalable => self.caps.coherent(),
            _ => self.caps.ecap.walk_coherent().into_bool(),
        }
    }

    /// Levels of second-stage tables that it walks, fewest first, and the bits of an address that
    /// these translate.
    fn second_stage_levels(&self) -> impl Iterator<Item = (u8, u8)> {
        let sagaw = u8::from(self.caps.cap.second_stage_levels());
        (0..3u8)
            .filter(move |n| sagaw & 1 << n != 0)
            .map(|n| (n + 3, 39 + 9 * n))
    }

    /// Page sizes of a stage, a bit for each.
    fn page_sizes(&self, stage: Stage) -> usize {
        let cap = self.caps.cap;
        let (medium, large) = match stage {
            Stage::First => (true, cap.first_stage_1gib().into_bool()),
            Stage::Second => (
                cap.second_stage_2mib().into_bool(),
                cap.second_stage_1gib().into_bool(),
            ),
        };
        SZ_4K | if medium { SZ_2M } else { 0 } | if large { SZ_1G } else { 0 }
    }

    /// Whether what is mapped must be told it: where the write buffer is to be flushed, and where
    /// what is absent may be cached, which is not of first stages (section 6.1).
    fn hears_of_maps(&self, stage: Stage) -> bool {
        self.write_buffer || stage == Stage::Second && self.caps.caching_mode()
    }
}

/// Which stage of translation a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    First,
    Second,
}

/// What a domain is like, as it was decided when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    stage: Stage,
    /// Levels of the table.
    levels: u8,
    /// Bits of an IO virtual address.
    pub(crate) width: u8,
    /// It is written back from the processors' caches.
    pub(crate) incoherent: bool,
    /// What may be mapped, a bit for each size.
    page_sizes: usize,
    /// Units are told what was mapped.
    hears_of_maps: bool,
    /// Others may be nested on it.
    pub(crate) nest_parent: bool,
    /// It can track what was written to.
    tracks_dirty: bool,
}

impl Layout {
    /// What a domain is to be like: of the first stage if that will do.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the unit has nothing that will; there are flags or data that VT-d does not
    /// know.
    fn choose(unit: &Abilities, flags: AllocFlags, data: bool, superpages: bool) -> Result<Self> {
        if data {
            return Err(EOPNOTSUPP);
        }
        let known = AllocFlags::NEST_PARENT.or(AllocFlags::DIRTY_TRACKING);
        flags.only(known.or(AllocFlags::PASID))?;
        let nest_parent = flags.contains(AllocFlags::NEST_PARENT);
        let tracks_dirty = flags.contains(AllocFlags::DIRTY_TRACKING);
        let stage = if unit.first_stage() && !nest_parent && !tracks_dirty {
            Stage::First
        } else {
            Stage::Second
        };
        if stage == Stage::Second && !unit.second_stage()
            || nest_parent && !unit.nests()
            || tracks_dirty && !unit.tracks_dirty()
        {
            return Err(EOPNOTSUPP);
        }
        let (levels, width) = Self::reach(unit, stage).ok_or(EOPNOTSUPP)?;
        Ok(Self {
            stage,
            levels,
            width,
            incoherent: !unit.coherent(stage),
            page_sizes: if superpages {
                unit.page_sizes(stage)
            } else {
                SZ_4K
            },
            hears_of_maps: unit.hears_of_maps(stage),
            nest_parent,
            tracks_dirty,
        })
    }

    /// Levels, and bits of an address: the fewest levels that reach all that the unit takes, or the
    /// most that it can walk where none do (sections 3.6 and 3.7).
    fn reach(unit: &Abilities, stage: Stage) -> Option<(u8, u8)> {
        // CAST: MGAW has six bits.
        let most = unit.caps.guest_width() as u8;
        let (levels, width) = match stage {
            Stage::First if most > 48 && unit.caps.cap.first_stage_5_level().into_bool() => (5, 57),
            // Four levels are always there.
            Stage::First => (4, 48),
            Stage::Second => {
                let all = unit.second_stage_levels();
                let enough = unit.second_stage_levels().find(|(_, width)| *width >= most);
                enough.or(all.last()).filter(|_| most > 30)?
            }
        };
        Some((levels, width.min(most)))
    }

    /// Its levels as the generic page tables count them.
    pub(crate) fn top_level(&self) -> u32 {
        u32::from(self.levels) - 1
    }

    /// Whether a unit can use it, and all accesses are snooped there if they are to be.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it cannot.
    fn compatible(&self, unit: &Abilities, snoop: bool) -> Result {
        let caps = &unit.caps;
        let walks = match self.stage {
            Stage::First => {
                let deep = caps.cap.first_stage_5_level().into_bool();
                unit.first_stage() && (self.width <= 48 || deep)
            }
            Stage::Second => {
                let mut walked = unit.second_stage_levels();
                // CAST: MGAW has six bits.
                let most = caps.guest_width() as u8;
                unit.second_stage()
                    && self.width <= most
                    && walked.any(|(levels, _)| levels == self.levels)
            }
        };
        let fits = walks
            && (self.incoherent || unit.coherent(self.stage))
            && self.page_sizes & !unit.page_sizes(self.stage) == 0
            && (self.hears_of_maps || !unit.hears_of_maps(self.stage))
            && (!self.nest_parent || unit.nests())
            && (!self.tracks_dirty || unit.tracks_dirty())
            && (!snoop || caps.ecap.snoop_control().into_bool());
        if fits {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }
}

/// A domain with a table for one of the stages.
pub(crate) struct Paging<S> {
    layout: Layout,
    _stage: PhantomData<S>,
}

/// What one of the stages has of its own.
pub(crate) trait OfStage: Sized + Send + Sync + 'static {
    /// What its domains begin with.
    type Head: DmarHead<Config = Config>;

    /// The table of its domains' operations.
    fn table() -> &'static DomainTable<Paging<Self>>;

    /// A domain as something to attach to.
    fn target(domain: &OfCore<Paging<Self>>) -> Target<'_>;

    /// Has all accesses of a domain snooped that flags say so of, just now.
    fn snoop(domain: &OfCore<Paging<Self>>, guard: &Guard<'_>);
}

/// The first stage.
pub(crate) struct FirstStage;

/// The second one.
pub(crate) struct SecondStage;

/// A domain with a first-stage table.
pub(crate) type First = Paging<FirstStage>;

/// A domain with a second-stage table.
pub(crate) type Second = Paging<SecondStage>;

static FIRST: DomainTable<First> = DomainTable::new();
static SECOND: DomainTable<Second> = DomainTable::new();
static SECOND_DIRTY: DirtyTable<Second> = DirtyTable::new();

impl OfStage for FirstStage {
    type Head = FirstHead;

    fn table() -> &'static DomainTable<First> {
        &FIRST
    }

    fn target(domain: &OfCore<First>) -> Target<'_> {
        Target::First(FirstStageDomain::of(domain))
    }

    /// Entries of the table have no say in it, so the PASID entries change.
    fn snoop(_domain: &OfCore<First>, guard: &Guard<'_>) {
        guard.each_of_all(|dev, on, pasid| {
            if entries::force_snoop(dev, on, pasid).is_err() {
                dev.complain(c"PASID entry: snoop control failed");
            }
        });
    }
}

impl OfStage for SecondStage {
    type Head = SecondHead;

    fn table() -> &'static DomainTable<Second> {
        &SECOND
    }

    fn target(domain: &OfCore<Second>) -> Target<'_> {
        Target::Second(SecondStageDomain::of(domain))
    }

    /// Each entry of the table says it, those that are mapped from now on.
    fn snoop(domain: &OfCore<Second>, guard: &Guard<'_>) {
        SecondStageDomain::of(domain).map_snooped(guard);
    }
}

/// Makes a domain for a device.
///
/// # Errors
///
/// `EOPNOTSUPP` for what its unit cannot do and for data, which VT-d has none of; `ENOMEM`, those
/// of the page table.
pub(crate) fn alloc(
    dev: &Device<'_>,
    flags: AllocFlags,
    data: Option<&UserData>,
) -> Result<NewDomain> {
    let unit = dev.unit().abilities();
    let layout = Layout::choose(&unit, flags, data.is_some(), superpages())?;
    let config = Config::new(layout, dev);
    match layout.stage {
        Stage::First => Ok(First::new(&config, layout)?.into()),
        Stage::Second => {
            let mut domain = Second::new(&config, layout)?;
            if layout.tracks_dirty {
                domain.set_dirty_ops(&SECOND_DIRTY);
            }
            Ok(domain.into())
        }
    }
}

impl<S: OfStage> Paging<S> {
    fn new(config: &Config, layout: Layout) -> Result<Owned<Self>> {
        let this = Self {
            layout,
            _stage: PhantomData,
        };
        let mut domain = Owned::new(Kind::Unmanaged, config, this, GFP_KERNEL)?;
        domain.set_page_sizes(layout.page_sizes)?;
        Ok(domain)
    }

    /// Whether others may be nested on it.
    pub(crate) fn is_parent(&self) -> bool {
        self.layout.nest_parent
    }

    /// Whether it is written back from the processors' caches.
    pub(crate) fn incoherent(&self) -> bool {
        self.layout.incoherent
    }

    /// Whether it can be used for a device, and all accesses are snooped if they are to be.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it cannot.
    pub(crate) fn compatible(&self, dev: &Device<'_>, snoop: bool) -> Result {
        self.layout.compatible(&dev.unit().abilities(), snoop)
    }
}

/// For flushes whose callers cannot be told. What the hardware said of a descriptor that it refused
/// is in the log already (`qi_dump_fault()` of `dmar.c`).
pub(crate) fn logged(result: Result) {
    if let Err(e) = result {
        pr_debug!("a flush failed: {e:?}\n");
    }
}

#[vtable]
impl<S: OfStage> DomainOps for Paging<S> {
    type Head = S::Head;

    fn table() -> &'static DomainTable<Self> {
        S::table()
    }

    fn attach_dev(domain: &OfCore<Self>, dev: &Served, _old: Option<&AnyDomain>) -> Result {
        attach::device(&Device::of(dev)?, &S::target(domain))
    }

    fn set_dev_pasid(
        domain: &OfCore<Self>,
        dev: &Served,
        pasid: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        attach::pasid(&Device::of(dev)?, pasid, &S::target(domain), old)
    }

    #[inline]
    fn iotlb_sync(domain: &OfCore<Self>, gather: &mut Gather) {
        let (first, last) = gather.range();
        // Only leaves of the table changed if none of its pages fell out of use.
        let leaves = !gather.has_pages();
        logged(cache::flush_range(&Domain::of(domain), first, last, leaves));
        gather.free_pages();
    }

    #[inline]
    fn iotlb_sync_map(domain: &OfCore<Self>, iova: u64, len: usize) -> Result {
        if domain.layout.hears_of_maps {
            let last = iova + (len as u64 - 1);
            logged(cache::flush_new(&Domain::of(domain), iova, last));
        }
        Ok(())
    }

    fn flush_iotlb_all(domain: &OfCore<Self>) {
        logged(cache::flush_range(&Domain::of(domain), 0, u64::MAX, false));
    }

    fn enforce_cache_coherency(domain: &OfCore<Self>) -> bool {
        let guard = Domain::of(domain).lock();
        if guard.forces_snoop() {
            return true;
        }
        let able = guard.each(|dev, _, _| {
            let can = dev.unit().caps().ecap.snoop_control().into_bool();
            can.then_some(()).ok_or(EINVAL)
        });
        if able.is_ok() {
            guard.set_forces_snoop();
            S::snoop(domain, &guard);
        }
        able.is_ok()
    }
}

impl DirtyOps for Second {
    fn dirty_table() -> &'static DirtyTable<Self> {
        &SECOND_DIRTY
    }

    /// All entries of the domain, and of those that are nested on it.
    fn set_dirty_tracking(domain: &OfCore<Self>, enable: bool) -> Result {
        let parent = SecondStageDomain::of(domain);
        let guard = parent.any().lock();
        if guard.tracks_dirty() == enable {
            return Ok(());
        }
        let set = |listed: &Guard<'_>| {
            listed.each(|dev, on, pasid| entries::set_dirty_tracking(dev, on, pasid, enable))
        };
        let all = set(&guard).and_then(|()| guard.each_nested(&parent, set));
        if all.is_ok() {
            guard.set_tracks_dirty(enable);
            return Ok(());
        }
        let undo = |listed: &Guard<'_>| {
            listed.each_of_all(|dev, on, pasid| {
                if entries::set_dirty_tracking(dev, on, pasid, !enable).is_err() {
                    dev.complain(c"PASID entry: dirty tracking stays changed");
                }
            });
            Ok(())
        };
        let _ = undo(&guard).and_then(|()| guard.each_nested(&parent, undo));
        all
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_paging)]
mod tests {
    use super::*;

    // Bits of the capability registers (sections 11.4.2 and 11.4.3).
    const FS5LP: u64 = 1 << 60;
    const FS1GP: u64 = 1 << 56;
    const SSLPS_1G: u64 = 1 << 35;
    const SSLPS_2M: u64 = 1 << 34;
    const CM: u64 = 1 << 7;
    const SMPWCS: u64 = 1 << 48;
    const FSTS: u64 = 1 << 47;
    const SSTS: u64 = 1 << 46;
    const SSADS: u64 = 1 << 45;
    const NEST: u64 = 1 << 26;
    const SC: u64 = 1 << 7;
    const C: u64 = 1;

    const fn mgaw(bits: u64) -> u64 {
        (bits - 1) << 16
    }

    const fn sagaw(levels: u64) -> u64 {
        levels << 8
    }

    /// Four levels for 48 bits, and all page sizes.
    const CAP: u64 = mgaw(48) | sagaw(0b0100) | SSLPS_2M | SSLPS_1G | FS1GP;
    /// Both stages, with all that they can have.
    const ECAP: u64 = SMPWCS | FSTS | SSTS | SSADS | NEST | SC | C;

    fn unit(cap: u64, ecap: u64, scalable: bool) -> Abilities {
        Abilities {
            caps: Caps::new(cap, ecap),
            scalable,
            write_buffer: false,
        }
    }

    fn choose(unit: &Abilities, flags: AllocFlags) -> Result<Layout> {
        Layout::choose(unit, flags, false, true)
    }

    fn stage_of(unit: &Abilities, flags: AllocFlags) -> Result<Stage> {
        choose(unit, flags).map(|layout| layout.stage)
    }

    /// Each combination of flags on each kind of unit: the stage, or that there is none.
    #[test]
    fn flags_and_units() {
        const NO: Result<Stage> = Err(EOPNOTSUPP);
        const FIRST: Result<Stage> = Ok(Stage::First);
        const SECOND: Result<Stage> = Ok(Stage::Second);
        // (ECAP, scalable mode; plain, parent, dirty tracking, both)
        let table = [
            (ECAP, true, [FIRST, SECOND, SECOND, SECOND]),
            (ECAP & !NEST, true, [FIRST, NO, SECOND, NO]),
            (ECAP & !SSADS, true, [FIRST, SECOND, NO, NO]),
            // Dirty flags are written coherently or not at all.
            (ECAP & !SMPWCS, true, [FIRST, SECOND, NO, NO]),
            (ECAP & !FSTS, true, [SECOND; 4]),
            (ECAP & !SSTS, true, [FIRST, NO, NO, NO]),
            (ECAP & !FSTS & !SSTS, true, [NO; 4]),
            // Legacy mode has a second stage whatever the register says, and nothing else.
            (ECAP, false, [SECOND, NO, NO, NO]),
            (0, false, [SECOND, NO, NO, NO]),
        ];
        const PARENT: u32 = 1 << 0;
        const DIRTY: u32 = 1 << 1;
        // Whatever becomes of the page requests, which is bit 2, it is not asked of drivers.
        const PASID: u32 = 1 << 3;
        for (bit, flag) in [
            (PARENT, AllocFlags::NEST_PARENT),
            (DIRTY, AllocFlags::DIRTY_TRACKING),
            (PASID, AllocFlags::PASID),
        ] {
            assert!(AllocFlags::from_raw(bit) == flag);
        }
        for (ecap, scalable, row) in table {
            let unit = unit(CAP, ecap, scalable);
            // Those of the user API, and one that there is not.
            for raw in 0..1 << 5 {
                let known = raw & !(PARENT | DIRTY | PASID) == 0;
                let want = if known {
                    row[(raw & (PARENT | DIRTY)) as usize]
                } else {
                    NO
                };
                let flags = AllocFlags::from_raw(raw);
                assert_eq!(stage_of(&unit, flags), want);
                let with_data = Layout::choose(&unit, flags, true, true);
                assert_eq!(with_data, Err(EOPNOTSUPP));
                // No other one is known, whatever else is asked for.
                for bit in 5..32 {
                    let unknown = flags.or(AllocFlags::from_raw(1 << bit));
                    assert_eq!(stage_of(&unit, unknown), NO);
                }
            }
        }
    }

    /// MGAW and SAGAW in all combinations: levels no deeper than needed, and no address that the
    /// unit does not take.
    #[test]
    fn levels_of_the_second_stage() {
        for bits in 1..=64 {
            for levels in 0..16 {
                let unit = unit(mgaw(bits) | sagaw(levels), 0, false);
                let got = choose(&unit, AllocFlags::NONE);
                // Bit 0 would be 30 bits, which is reserved.
                if bits <= 30 || levels & 0b1110 == 0 {
                    assert_eq!(got, Err(EOPNOTSUPP));
                    continue;
                }
                let Ok(got) = got else {
                    assert!(false);
                    return;
                };
                let has = |n: u8| (3..=5).contains(&n) && levels & 1 << (n - 2) != 0;
                let reach = |n: u8| u64::from(n) * 9 + 12;
                assert!(has(got.levels));
                for other in 3..=5 {
                    if has(other) && other < got.levels {
                        assert!(reach(other) < bits);
                    }
                    if has(other) && other > got.levels {
                        assert!(reach(got.levels) >= bits);
                    }
                }
                assert_eq!(u64::from(got.width), bits.min(reach(got.levels)));
                assert!(got.compatible(&unit, false).is_ok());
            }
        }
    }

    #[test]
    fn levels_of_the_first_stage() {
        // (bits that the unit takes, its levels; levels, bits)
        let table = [
            (39, 0, 4, 39),
            (48, 0, 4, 48),
            (48, FS5LP, 4, 48),
            (52, 0, 4, 48),
            (52, FS5LP, 5, 52),
            (57, FS5LP, 5, 57),
            (64, FS5LP, 5, 57),
        ];
        for (bits, deep, levels, width) in table {
            let unit = unit(mgaw(bits) | deep, ECAP, true);
            let got = choose(&unit, AllocFlags::NONE);
            assert_eq!(
                got.map(|it| (it.stage, it.levels, it.width)),
                Ok((Stage::First, levels, width))
            );
            assert_eq!(got.map(|it| it.top_level()), Ok(u32::from(levels) - 1));
        }
    }

    #[test]
    fn page_sizes() {
        let (small, medium, large) = (SZ_4K, SZ_4K | SZ_2M, SZ_4K | SZ_2M | SZ_1G);
        // (capabilities, parent, what may be mapped)
        let table = [
            (0, false, medium),
            (FS1GP, false, large),
            (SSLPS_2M | SSLPS_1G, false, medium),
            (0, true, small),
            (SSLPS_2M, true, medium),
            (SSLPS_2M | SSLPS_1G, true, large),
            (FS1GP, true, small),
        ];
        for (cap, parent, want) in table {
            let unit = unit(mgaw(48) | sagaw(0b0100) | cap, ECAP, true);
            let flags = if parent {
                AllocFlags::NEST_PARENT
            } else {
                AllocFlags::NONE
            };
            for (superpages, want) in [(true, want), (false, small)] {
                let got = Layout::choose(&unit, flags, false, superpages);
                assert_eq!(got.map(|it| it.page_sizes), Ok(want));
            }
        }
    }

    /// Who is told of what was mapped: all where the write buffer is to be flushed, and second
    /// stages in caching mode.
    #[test]
    fn maps_that_are_heard_of() {
        for (cap, write_buffer, first, second) in [
            (0, false, false, false),
            (CM, false, false, true),
            (0, true, true, true),
            (CM, true, true, true),
        ] {
            let unit = Abilities {
                write_buffer,
                ..unit(CAP | cap, ECAP, true)
            };
            let heard = |flags| choose(&unit, flags).map(|it| it.hears_of_maps);
            assert_eq!(heard(AllocFlags::NONE), Ok(first));
            assert_eq!(heard(AllocFlags::NEST_PARENT), Ok(second));
        }
    }

    /// A domain of one unit on another one: only where that can do all that was decided.
    #[test]
    fn domains_on_other_units() {
        let both = AllocFlags::NEST_PARENT.or(AllocFlags::DIRTY_TRACKING);
        let this = unit(CAP, ECAP, true);
        let deep = unit(CAP | FS5LP, ECAP, true);
        let wide = unit(
            mgaw(57) | FS5LP | sagaw(0b1100) | (CAP & !mgaw(64)),
            ECAP,
            true,
        );
        let narrow = unit(
            mgaw(39) | sagaw(0b0010) | (CAP & !mgaw(64) & !sagaw(15)),
            ECAP,
            true,
        );
        let flushing = Abilities {
            write_buffer: true,
            ..this
        };
        let without = |ecap: u64| unit(CAP, ECAP & !ecap, true);
        // (other unit; may be used there: first stage, second stage, parent with dirty tracking)
        let table = [
            (this, [true, true, true]),
            (deep, [true, true, true]),
            (wide, [true, true, true]),
            (narrow, [true, false, false]),
            (flushing, [false, false, false]),
            (unit(CAP | CM, ECAP, true), [true, false, false]),
            (unit(CAP & !FS1GP, ECAP, true), [false, true, true]),
            (unit(CAP & !SSLPS_1G, ECAP, true), [true, false, false]),
            (without(FSTS), [false, true, true]),
            (without(SSTS), [true, false, false]),
            (without(NEST), [true, true, false]),
            (without(SSADS), [true, true, false]),
            (without(SMPWCS), [false, false, false]),
            (unit(CAP, ECAP, false), [false, true, false]),
        ];
        let second = choose(&without(FSTS), AllocFlags::NONE);
        let made = [choose(&this, AllocFlags::NONE), second, choose(&this, both)];
        for (other, row) in table {
            for (layout, fits) in made.into_iter().zip(row) {
                let want = if fits { Ok(()) } else { Err(EINVAL) };
                assert_eq!(layout.and_then(|it| it.compatible(&other, false)), want);
            }
        }
        // Where accesses are to be snooped, the unit must be able to see to that.
        for layout in made {
            for (ecap, want) in [(0, Ok(())), (SC, Err(EINVAL))] {
                let snooped = layout.and_then(|it| it.compatible(&without(ecap), true));
                assert_eq!(snooped, want);
            }
        }
        // What was written back for a unit that does not look into the caches suits all.
        let written_back = choose(&without(SMPWCS), AllocFlags::NONE);
        assert_eq!(
            written_back.and_then(|it| it.compatible(&this, false)),
            Ok(())
        );
        // Five levels are too deep for who walks four.
        let five = choose(&wide, AllocFlags::NONE);
        assert_eq!(five.and_then(|it| it.compatible(&this, false)), Err(EINVAL));
        assert_eq!(five.and_then(|it| it.compatible(&wide, false)), Ok(()));
    }
}
