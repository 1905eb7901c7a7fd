// SPDX-License-Identifier: GPL-2.0-only

//! What must be invalidated when a PASID entry changes (section 6.5.3.3, table 28, "Guidance to
//! Software for Invalidations", and sections 6.1 and 6.8), as a value.
//!
//! | old | new | change | invalidations |
//! |---|---|---|---|
//! | absent | absent | | none |
//! | absent | present | caching mode | PASID-cache twice (6.2.3), PASID-IOTLB (6.1) |
//! | absent | present | none | write-buffer flush where required (6.8) |
//! | present | present | none | none |
//! | present | present | SSADE | PASID-cache, IOTLB by type, device-TLB |
//! | present | present | PGSNP or PWSNP with a first stage | PASID-cache, PASID-IOTLB, device-TLB |
//! | present | present | the same without | PASID-cache, IOTLB by type, device-TLB |
//! | present | other table, type or domain-id | | as for absent |
//! | present | absent | | PASID-cache, IOTLB by type, device-TLB |
//!
//! "IOTLB by type" is domain-selective for second-stage and nested entries and PASID-selective
//! for first-stage and pass-through ones.
//!
//! Order matters: what a cache was filled from goes first. Device-TLBs come last, since their
//! requests could be served from a stale IOTLB (6.5.2.5). The hardware keeps that order within a
//! submission (6.5.2.12) but for one pair, between which [`Batch`] puts a fence.

use kernel::warn_on;

use crate::{
    caps::Caps,
    invalidate::{
        Batch,
        Desc,
        DevTlb,
        Pasid, //
    },
    pasid_entry::Entry,
    range::Span, //
};

/// Whom a change of an entry concerns.
pub(crate) struct Scope {
    pub(crate) caps: Caps,
    pub(crate) pasid: Pasid,
    /// The device's own cache: none without ATS, for a device that is gone, and while
    /// translation is off (4.3).
    pub(crate) device: Option<DevTlb>,
}

impl Scope {
    /// All that the device has cached for the PASID.
    fn device_tlb(&self) -> Option<Desc> {
        self.device
            .map(|dev| Desc::device_tlb(&dev, self.pasid, Span::ALL))
    }
}

/// Descriptors of a plan, at most, with a fence.
const MOST: usize = 6;

/// What to submit.
pub(crate) struct Plan {
    /// One submission, one wait.
    pub(crate) batch: Batch<MOST>,
    /// The write buffer is to be flushed where the unit requires it.
    pub(crate) write_buffer: bool,
}

/// Which IOTLB invalidation a change takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Iotlb {
    Domain,
    Pasid,
}

impl Iotlb {
    fn of(entry: &Entry) -> Self {
        if entry.through_second_stage() {
            Self::Domain
        } else {
            Self::Pasid
        }
    }
}

impl Plan {
    #[inline(always)]
    pub(crate) const fn nothing() -> Self {
        Self {
            batch: Batch::new(),
            write_buffer: false,
        }
    }

    /// Adds those that there are, for which there is room.
    #[inline(always)]
    fn with<const M: usize>(mut self, descs: [Option<Desc>; M]) -> Self {
        const { assert!(M < MOST) };
        for desc in descs.into_iter().flatten() {
            let fits = self.batch.push(desc);
            // Only a plan that is filled twice could see this.
            warn_on!(fits.is_err());
        }
        self
    }

    /// What a change from `old` to `new` takes.
    pub(crate) fn change(old: &Entry, new: &Entry, scope: &Scope) -> Self {
        match (old.present(), new.present()) {
            (false, false) => Self::nothing(),
            (false, true) if scope.caps.caching_mode() => Self::new_entry(new.did(), scope),
            (false, true) => Self {
                write_buffer: true,
                ..Self::nothing()
            },
            (true, _) if old == new => Self::nothing(),
            (true, true) if same_table(old, new) && old.low == new.low && old.has_first_stage() => {
                Self::entry(old.did(), Iotlb::Pasid, scope)
            }
            (true, _) => Self::entry(old.did(), Iotlb::of(old), scope),
        }
    }

    fn entry(did: u16, iotlb: Iotlb, scope: &Scope) -> Self {
        Self::nothing().with([
            Some(Desc::pasid_cache(did, scope.pasid)),
            Some(match iotlb {
                Iotlb::Domain => Desc::iotlb_domain(&scope.caps, did),
                Iotlb::Pasid => Desc::pasid_iotlb(did, scope.pasid),
            }),
            scope.device_tlb(),
        ])
    }

    /// What a new entry takes in caching mode. That there was none is cached for domain-id 0
    /// (6.2.3); emulators that shadow an entry look for it by the new domain-id.
    fn new_entry(did: u16, scope: &Scope) -> Self {
        Self::nothing().with([
            Some(Desc::pasid_cache(0, scope.pasid)),
            Some(Desc::pasid_cache(did, scope.pasid)),
            Some(Desc::pasid_iotlb(did, scope.pasid)),
        ])
    }

    /// What the change or removal of a context entry takes that was present, when no PASID entry
    /// below it is: in legacy mode the context-cache and the domain's IOTLB, in scalable mode the
    /// context-cache alone or, in caching mode, what says that there are no PASID entries, too
    /// (table 28); and the device's own cache, twice where the device needs that.
    pub(crate) fn context(sid: u16, did: u16, scope: &Scope, legacy: bool, twice: bool) -> Self {
        let absent = !legacy && scope.caps.caching_mode();
        // The domain-id of what is absent.
        let did = if absent { 0 } else { did };
        Self::nothing().with([
            Some(Desc::context(sid, did)),
            absent.then(|| Desc::pasid_cache_domain(did)),
            (legacy || absent).then(|| Desc::iotlb_domain(&scope.caps, did)),
            scope.device_tlb(),
            scope.device_tlb().filter(|_| twice),
        ])
    }

    /// What a context entry takes that a crashed kernel left behind: nobody knows which PASIDs
    /// and domain-ids its tables hold.
    pub(crate) fn inherited_context(sid: u16, scope: &Scope) -> Self {
        Self::nothing().with([
            Some(Desc::context(sid, 0)),
            Some(Desc::pasid_cache_all()),
            Some(Desc::iotlb_all(&scope.caps)),
            scope.device_tlb(),
        ])
    }

    /// What a legacy-mode context entry of a domain takes that was not present: in caching mode
    /// that is cached for domain-id 0 (6.1), and so is what its new domain did not map; without it
    /// the write buffer is to be flushed where the unit requires it (6.8).
    pub(crate) fn new_legacy_context(sid: u16, did: u16, caps: &Caps) -> Self {
        if !caps.caching_mode() {
            return Self {
                write_buffer: true,
                ..Self::nothing()
            };
        }
        Self::nothing().with([
            Some(Desc::context(sid, 0)),
            Some(Desc::iotlb_domain(caps, did)),
        ])
    }

    /// What a scalable-mode context entry takes that was not present: in caching mode that is
    /// cached (6.2.2), and without it no PASID entry was found, which is cached for domain-id 0
    /// (6.2.3).
    pub(crate) fn new_context(sid: u16, caps: &Caps) -> Self {
        if !caps.caching_mode() {
            return Self::nothing();
        }
        Self::nothing().with([
            Some(Desc::context(sid, 0)),
            Some(Desc::pasid_cache_domain(0)),
            Some(Desc::iotlb_domain(caps, 0)),
        ])
    }
}

/// Whether both translate by the same tables for the same domain-id.
fn same_table(old: &Entry, new: &Entry) -> bool {
    old.did() == new.did() && old.high == new.high && old.low.ssptptr() == new.low.ssptptr()
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kernel::macros::kunit_tests(vtd_flush_plan)]
mod tests {
    use kernel::num::Bounded;

    use super::*;
    use crate::{
        cache_model::{
            Cache,
            Item,
            Model, //
        },
        ffi::stack::Stack,
        invalidate::NO_PASID,
        pasid_entry::{
            FirstStage,
            Levels,
            SecondStage,
            UserStage, //
        },
    };

    const AW: Bounded<u64, 3> = Bounded::<u64, 3>::new::<2>();
    const CM: u64 = 1 << 7;

    /// One of each kind and, for each kind, what may change in place or be replaced.
    fn entries() -> [Entry; 14] {
        let first = |root, snoop_pages, snoop_walk| {
            let table = FirstStage {
                root,
                levels: Levels::Four,
                aw: AW,
                snoop_pages,
                snoop_walk,
            };
            Entry::first_stage(&table, 1)
        };
        let second = |dirty, force_snoop| SecondStage {
            root: 0x2000,
            aw: AW,
            snoop_walk: true,
            dirty,
            force_snoop,
        };
        let incoherent = SecondStage {
            snoop_walk: false,
            ..second(false, false)
        };
        let user = UserStage {
            root: 0x3000,
            levels: Levels::Five,
            supervisor: false,
            write_protect: false,
            extended_accessed: false,
            snoop: false,
        };
        [
            Entry::EMPTY,
            first(0x1000, false, true),
            first(0x1000, true, true),
            first(0x1000, false, false),
            first(0x9000, false, true),
            Entry::second_stage(&second(false, false), 2),
            Entry::second_stage(&second(true, false), 2),
            Entry::second_stage(&incoherent, 2),
            Entry::second_stage(&second(false, false), 4),
            Entry::nested(&user, &second(false, false), 3),
            Entry::nested(&user, &second(true, false), 3),
            Entry::nested(&user, &second(false, true), 3),
            Entry::nested(&user, &second(false, false), 5),
            Entry::pass_through(&Caps::new(0, 0), AW, 1),
        ]
    }

    /// What the specification says of a pair, by the numbers that `entries()` gives them:
    /// N nothing, F a new entry, P by PASID, D by domain.
    ///
    /// From absent: sections 6.1 and 6.8. From present, section 6.5.3.3, table 28: to absent and
    /// to anything else by the old entry's type; a change of SSADE alone likewise; a change of
    /// PGSNP or PWSNP alone by PASID where a first stage translates, else by type.
    #[rustfmt::skip]
    const TABLE: [[u8; 14]; 14] = [
        // to: - 1111 2222 nnnn p   from:
        *b"NFFFFFFFFFFFFF", // absent
        *b"PNPPPPPPPPPPPP", // first-stage
        *b"PPNPPPPPPPPPPP", // the same with PGSNP
        *b"PPPNPPPPPPPPPP", // the same without PWSNP
        *b"PPPPNPPPPPPPPP", // another table
        *b"DDDDDNDDDDDDDD", // second-stage
        *b"DDDDDDNDDDDDDD", // the same with SSADE
        *b"DDDDDDDNDDDDDD", // the same without PWSNP and SSADE
        *b"DDDDDDDDNDDDDD", // another domain-id
        *b"DDDDDDDDDNDPDD", // nested
        *b"DDDDDDDDDDNDDD", // the same with SSADE
        *b"DDDDDDDDDPDNDD", // the same with PGSNP, without SSADE
        *b"DDDDDDDDDDDDND", // another domain-id
        *b"PPPPPPPPPPPPPN", // pass-through
    ];

    const SID: u16 = 8;

    /// Calls `f` for a device with and without a TLB, with and without PASID, in each unit.
    fn each_scope(mut f: impl FnMut(&Scope)) {
        for bits in 0..16u64 {
            // CM, DWD, DRD; a device-TLB.
            let cap = (bits & 1) << 7 | (bits >> 1 & 3) << 54;
            let caps = Caps::new(cap, 0);
            let device = (bits & 8 != 0).then(|| DevTlb::new(SID, SID, 0));
            for pasid in [NO_PASID, Bounded::<u64, 20>::new::<0xfffff>()] {
                f(&Scope {
                    caps,
                    pasid,
                    device,
                });
            }
        }
    }

    #[test]
    fn each_pair_in_each_unit() {
        let all = entries();
        each_scope(|scope| {
            for (old, row) in all.iter().zip(TABLE) {
                for (new, what) in all.iter().zip(row) {
                    check(old, new, what, scope);
                }
            }
        });
    }

    #[test]
    fn new_legacy_contexts() {
        let caps = Caps::new(CM, 0);
        let cached = Plan::new_legacy_context(SID, 7, &caps);
        let want = [Desc::context(SID, 0), Desc::iotlb_domain(&caps, 7)];
        assert!(!cached.write_buffer && *cached.batch == want);
        let not = Plan::new_legacy_context(SID, 7, &Caps::new(0, 0));
        assert!(not.write_buffer && not.batch.is_empty());
    }

    /// The descriptors of `plan` without the one at `leave_out`, and each as `f` makes it.
    fn altered(plan: &Plan, leave_out: usize, f: impl Fn(Desc) -> Desc) -> Stack<Desc, MOST> {
        let mut descs = Stack::new();
        for (n, desc) in plan.batch.iter().enumerate() {
            if n != leave_out {
                assert!(descs.push(f(*desc)).is_ok());
            }
        }
        descs
    }

    /// Nothing stale is left of any pair, whatever the hardware fetches in between and in whatever
    /// order it executes what it may. And it takes all of the plan: something stale may be left
    /// when the wait is not waited for, a descriptor is left out or names another domain, PASID
    /// or device, when the order is reversed, and when reads and writes are not drained.
    #[test]
    fn nothing_stale_is_left() {
        const ALL: usize = usize::MAX;
        let all = entries();
        each_scope(|scope| {
            for (old, new) in all
                .iter()
                .flat_map(|old| all.iter().map(move |new| (old, new)))
            {
                let plan = Plan::change(old, new, scope);
                let model = Model::entry(old, new, scope, SID);
                let stale = |descs: &[Desc]| model.stale_after(descs);
                assert!(!stale(&plan.batch));
                // Nothing waited for is nothing done.
                assert_eq!(model.stale(), !plan.batch.is_empty());
                assert!(plan.batch.is_empty() || stale(&[]));
                let mut reverse = altered(&plan, ALL, |desc| desc);
                reverse.reverse();
                assert!(plan.batch.len() < 2 || !old.present() || stale(&reverse));
                for (n, desc) in plan.batch.iter().enumerate() {
                    // What a new entry takes beyond the first is for emulators.
                    if !old.present() && n > 0 {
                        continue;
                    }
                    assert!(stale(&altered(&plan, n, |desc| desc)));
                    let other = |bit: u32| {
                        stale(&altered(&plan, ALL, |d| {
                            if d == *desc {
                                Desc([d.0[0] ^ 1 << bit, d.0[1], 0, 0])
                            } else {
                                d
                            }
                        }))
                    };
                    // A bit of the domain-id, the PASID or the source-id; FN.
                    assert!(match desc.0[0] & 0xf {
                        2 => other(16),
                        3 => other(32),
                        5 => other(6),
                        6 | 7 => other(16) && other(32),
                        8 => other(16) && other(32),
                        _ => false,
                    });
                    // DR and DW, which are clear where the unit does not have them both.
                    let drains = desc.0[0] & 0xcf == 0xc2;
                    assert!(!drains || other(6) && other(7));
                }
            }
        });
    }

    /// The same of context entries. `was` may be cached of what the entry said until now.
    fn context_model(was: &[Item]) -> Model {
        let mut model = Model::new();
        let memory = model.add(Item::new(Cache::Memory, SID, 0, 0));
        let mut from = memory;
        for item in was {
            from = model.add(Item {
                stale: true,
                from,
                ..*item
            });
        }
        model.becomes(memory, 0);
        model
    }

    #[test]
    fn nothing_stale_is_left_of_contexts() {
        let item = |cache, did| Item::new(cache, SID, did, 0);
        let needs = |plan: Plan, was: &[Item], all: bool| {
            let model = context_model(was);
            assert!(!model.stale_after(&plan.batch));
            assert!(was.is_empty() || model.stale());
            for n in 0..plan.batch.len() {
                let less = altered(&plan, n, |desc| desc);
                assert!(!all || model.stale_after(&less));
            }
        };
        each_scope(|scope| {
            if scope.pasid != NO_PASID {
                return;
            }
            let legacy = |item| Item {
                legacy: true,
                ..item
            };
            let cm = scope.caps.caching_mode();
            // Legacy mode: the entry translates.
            let was = [
                legacy(item(Cache::Context, 2)),
                item(Cache::Iotlb, 2),
                item(Cache::DevTlb, 0),
            ];
            let was = &was[..2 + usize::from(scope.device.is_some())];
            needs(Plan::context(SID, 2, scope, true, false), was, true);
            // Scalable mode: there is no PASID entry, which is cached in caching mode.
            let was = [item(Cache::Context, 0), item(Cache::Pasid, 0)];
            let was = &was[..1 + usize::from(cm)];
            needs(Plan::context(SID, 2, scope, false, false), was, false);
            // A new one: in caching mode it is cached that there was none.
            let was = if cm { was } else { &[] };
            needs(Plan::new_context(SID, &scope.caps), was, false);
            // Of a crashed kernel: any PASID, any domain-id.
            let was = [
                item(Cache::Context, 0),
                Item::new(Cache::Pasid, SID, 7, 9),
                Item {
                    first_stage: true,
                    ..Item::new(Cache::Iotlb, SID, 7, 9)
                },
                item(Cache::DevTlb, 0),
            ];
            let was = &was[..3 + usize::from(scope.device.is_some())];
            needs(Plan::inherited_context(SID, scope), was, true);
        });
    }

    fn check(old: &Entry, new: &Entry, what: u8, scope: &Scope) {
        let plan = Plan::change(old, new, scope);
        let got = &plan.batch;
        let cm = scope.caps.caching_mode();
        assert_eq!(plan.write_buffer, what == b'F' && !cm);
        let did = if what == b'F' { new.did() } else { old.did() };
        if what == b'N' || what == b'F' && !cm {
            assert!(got.is_empty());
            return;
        }
        let mut want = Stack::<Desc, 4>::new();
        let mut next = |desc| assert!(want.push(desc).is_ok());
        if what == b'F' {
            // What says that the entry is absent has domain-id 0 (6.2.3).
            next(Desc::pasid_cache(0, scope.pasid));
        }
        next(Desc::pasid_cache(did, scope.pasid));
        next(match what {
            b'D' => Desc::iotlb_domain(&scope.caps, did),
            _ => Desc::pasid_iotlb(did, scope.pasid),
        });
        if let Some(dev) = scope.device.filter(|_| what != b'F') {
            if what == b'P' && scope.pasid == NO_PASID {
                // Of these two alone the hardware does not keep the order (6.5.2.12): a wait with
                // FN (6.5.2.9).
                next(Desc([0x45, 0, 0, 0]));
            }
            next(Desc::device_tlb(&dev, scope.pasid, Span::ALL));
        }
        assert!(**got == *want);
    }

    #[test]
    fn contexts() {
        let device = Some(DevTlb::new(8, 8, 0));
        let scope = |cap, device| Scope {
            caps: Caps::new(cap, 0),
            pasid: NO_PASID,
            device,
        };
        let is = |plan: Plan, want: &[[u64; 2]]| {
            let same = |(got, want): (&Desc, &[u64; 2])| got.0 == [want[0], want[1], 0, 0];
            assert_eq!(plan.batch.len(), want.len());
            assert!(plan.batch.iter().zip(want).all(same));
            assert!(!plan.write_buffer);
        };
        // Of source-id 0x1ff and domain-id 2; the device names itself.
        let context = [0x1ff_0002_0031, 0];
        let iotlb = [0x2_0022, 0];
        let device_tlb = [0x8_0000_8003, 0x7fff_ffff_ffff_f001];
        is(
            Plan::context(0x1ff, 2, &scope(0, None), false, true),
            &[context],
        );
        is(
            Plan::context(0x1ff, 2, &scope(0, None), true, true),
            &[context, iotlb],
        );
        is(
            Plan::context(0x1ff, 2, &scope(0, device), true, false),
            &[context, iotlb, device_tlb],
        );
        is(
            Plan::context(0x1ff, 2, &scope(0, device), false, true),
            &[context, device_tlb, device_tlb],
        );
        // In caching mode it is cached, for domain-id 0, that PASID entries are not there.
        let absent = [[0x1ff_0000_0031, 0], [0x7, 0], [0x22, 0], device_tlb];
        is(
            Plan::context(0x1ff, 2, &scope(CM, None), false, true),
            &absent[..3],
        );
        is(
            Plan::context(0x1ff, 2, &scope(CM, device), false, false),
            &absent,
        );
        is(
            Plan::context(0x1ff, 2, &scope(CM, device), true, false),
            &[context, iotlb, device_tlb],
        );
        // Of a crashed kernel: the whole PASID-cache and the whole IOTLB.
        let inherited = [[0x1ff_0000_0031, 0], [0x37, 0], [0x12, 0], device_tlb];
        is(
            Plan::inherited_context(0x1ff, &scope(0, None)),
            &inherited[..3],
        );
        is(
            Plan::inherited_context(0x1ff, &scope(0, device)),
            &inherited,
        );
        is(Plan::new_context(0x1ff, &Caps::new(0, 0)), &[]);
        is(Plan::new_context(0x1ff, &Caps::new(CM, 0)), &absent[..3]);
    }
}
