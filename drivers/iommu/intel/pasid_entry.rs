// SPDX-License-Identifier: GPL-2.0-only

//! Scalable-mode PASID table entries (section 9.6), as values.
//!
//! An [`Entry`] is made by one of four pure functions, one for each translation type. Nothing
//! here touches memory that the hardware reads; that is [`crate::pasid`]'s part.

use kernel::{
    bitfield,
    num::Bounded,
    prelude::*, //
};

use crate::caps::Caps;

/// PASID Granular Translation Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pgtt {
    FirstStage = 1,
    SecondStage = 2,
    Nested = 3,
    PassThrough = 4,
}

impl Pgtt {
    /// Whether IOTLB entries made from this type are found by domain-id rather than by PASID
    /// (section 6.2.3.1).
    pub(crate) fn through_second_stage(self) -> bool {
        matches!(self, Self::SecondStage | Self::Nested)
    }
}

impl TryFrom<Bounded<u64, 3>> for Pgtt {
    type Error = u64;

    fn try_from(value: Bounded<u64, 3>) -> Result<Self, u64> {
        match value.get() {
            1 => Ok(Self::FirstStage),
            2 => Ok(Self::SecondStage),
            3 => Ok(Self::Nested),
            4 => Ok(Self::PassThrough),
            other => Err(other),
        }
    }
}

impl From<Pgtt> for Bounded<u64, 3> {
    fn from(value: Pgtt) -> Self {
        match value {
            Pgtt::FirstStage => Bounded::<u64, 3>::new::<1>(),
            Pgtt::SecondStage => Bounded::<u64, 3>::new::<2>(),
            Pgtt::Nested => Bounded::<u64, 3>::new::<3>(),
            Pgtt::PassThrough => Bounded::<u64, 3>::new::<4>(),
        }
    }
}

bitfield! {
    /// Bits 63:0 of an entry.
    pub(crate) struct Low(u64) {
        /// SSPTPTR: page frame of the second-stage table.
        63:12 ssptptr;
        /// SSADE: accessed and dirty flags of the second stage.
        9:9 ssade;
        /// PGTT.
        8:6 pgtt ?=> Pgtt;
        /// AW: levels of the second stage, less two.
        4:2 aw;
        /// FPD: faults are not reported.
        1:1 fpd;
        /// P: present.
        0:0 present;
    }
}

bitfield! {
    /// Bits 127:64 of an entry.
    pub(crate) struct Mid(u64) {
        /// PGSNP (bit 88): accesses to pages are snooped whatever the tables say.
        24:24 pgsnp;
        /// PWSNP (bit 87): page walks are snooped.
        23:23 pwsnp;
        /// DID.
        15:0 did;
    }
}

bitfield! {
    /// Bits 191:128 of an entry.
    pub(crate) struct High(u64) {
        /// FSPTPTR: page frame of the first-stage table.
        63:12 fsptptr;
        /// EAFE: extended-accessed flag.
        7:7 eafe;
        /// WPE: read-only pages are so for supervisor requests too.
        4:4 wpe;
        /// FSPM: 0 for four levels, 1 for five.
        3:2 fspm;
        /// SRE: supervisor requests are served.
        0:0 sre;
    }
}

/// The words of an entry that have meaning; the other five are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) low: Low,
    pub(crate) mid: Mid,
    pub(crate) high: High,
}

/// Words of 64 bits in an entry of 512.
pub(crate) const WORDS: usize = 8;

/// The page frame of an address; the bits below it are dropped, so they cannot reach the fields
/// beside a pointer.
pub(crate) fn frame(addr: u64) -> Bounded<u64, 52> {
    Bounded::<u64, 64>::from(addr).shr::<12, 52>()
}

/// The address of a page frame.
pub(crate) fn frame_addr(frame: Bounded<u64, 52>) -> u64 {
    frame.get() << 12
}

/// Whether an address has bits from this one on.
fn has_bits_from(addr: u64, bit: u32) -> bool {
    addr.checked_shr(bit).is_some_and(|high| high != 0)
}

/// Levels of a first-stage table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Levels {
    Four,
    Five,
}

impl Levels {
    /// Five or four.
    pub(crate) fn new(five: bool) -> Self {
        if five {
            Self::Five
        } else {
            Self::Four
        }
    }

    /// From the address width that `struct iommu_hwpt_vtd_s1` carries.
    pub(crate) fn from_width(bits: u32) -> Option<Self> {
        match bits {
            48 => Some(Self::Four),
            57 => Some(Self::Five),
            _ => None,
        }
    }

    /// The address width of such tables.
    pub(crate) fn width(self) -> u32 {
        match self {
            Self::Four => 48,
            Self::Five => 57,
        }
    }

    /// Whether a unit walks tables of this depth.
    pub(crate) fn fits(self, caps: &Caps) -> bool {
        self == Self::Four || caps.cap.first_stage_5_level().into_bool()
    }

    /// From FSPM of an entry.
    pub(crate) fn from_fspm(fspm: Bounded<u64, 2>) -> Option<Self> {
        match fspm.get() {
            0 => Some(Self::Four),
            1 => Some(Self::Five),
            _ => None,
        }
    }

    fn fspm(self) -> Bounded<u64, 2> {
        match self {
            Self::Four => Bounded::<u64, 2>::new::<0>(),
            Self::Five => Bounded::<u64, 2>::new::<1>(),
        }
    }
}

/// A first-stage table of the kernel's.
pub(crate) struct FirstStage {
    /// Physical address of its root, 4 KiB aligned.
    pub(crate) root: u64,
    pub(crate) levels: Levels,
    /// The unit's address width, which means nothing to this type. Where there is no second stage
    /// it is reserved(0) even (section 9.6), but the one unit that has none, QEMU's, takes it for
    /// the width of what the first stage translates: with 0, what is above 512 MiB faults.
    pub(crate) aw: Bounded<u64, 3>,
    pub(crate) snoop_pages: bool,
    pub(crate) snoop_walk: bool,
}

impl FirstStage {
    /// What the unit lacks for this table, if anything.
    pub(crate) fn lacks(&self, caps: &Caps) -> Option<&'static CStr> {
        if !caps.ecap.first_stage().into_bool() {
            Some(c"no first level translation support")
        } else if !self.levels.fits(caps) {
            Some(c"no 5-level paging support for first-level")
        } else if self.snoop_pages && !caps.ecap.snoop_control().into_bool() {
            // PGSNP is reserved there.
            Some(c"no snoop control")
        } else {
            None
        }
    }
}

/// A second-stage table, alone or below a user's first stage.
#[derive(Clone, Copy)]
pub(crate) struct SecondStage {
    /// Physical address of its root, 4 KiB aligned.
    pub(crate) root: u64,
    /// Levels less two, as AW wants them.
    pub(crate) aw: Bounded<u64, 3>,
    /// Its walks are coherent, because it was built without cache maintenance.
    pub(crate) snoop_walk: bool,
    /// Dirty tracking is on.
    pub(crate) dirty: bool,
    /// Every access must be snooped.
    pub(crate) force_snoop: bool,
}

/// What a user asks of the first stage (`struct iommu_hwpt_vtd_s1`, `struct
/// iommu_vtd_pasid_entry`).
#[derive(Clone, Copy)]
pub(crate) struct UserStage {
    /// Guest-physical address of its root.
    pub(crate) root: u64,
    pub(crate) levels: Levels,
    /// IOMMU_VTD_S1_SRE
    pub(crate) supervisor: bool,
    /// IOMMU_VTD_S1_WPE; means something with the former only
    pub(crate) write_protect: bool,
    /// IOMMU_VTD_S1_EAFE
    pub(crate) extended_accessed: bool,
    /// Every access is to be snooped, also where the parent does not ask for that.
    pub(crate) snoop: bool,
}

impl UserStage {
    /// What the unit or the parent lacks for this table, if anything: the entry must not make the
    /// hardware fault, whatever the user says (sections 6.2.3.1 and 7.1.3, SPT.4).
    pub(crate) fn lacks(&self, caps: &Caps, parent: &SecondStage) -> Option<&'static CStr> {
        self.out_of_reach(caps, parent)
            .or_else(|| self.unsupported(caps))
    }

    /// What is wrong with where the table is, if anything.
    pub(crate) fn out_of_reach(&self, caps: &Caps, parent: &SecondStage) -> Option<&'static CStr> {
        if self.root & 0xfff != 0 {
            Some(c"stage-1 table is not aligned")
        } else if has_bits_from(self.root, parent.width().min(caps.guest_width())) {
            Some(c"stage-1 table beyond stage 2")
        } else {
            None
        }
    }

    /// What the unit lacks for such a table, if anything.
    pub(crate) fn unsupported(&self, caps: &Caps) -> Option<&'static CStr> {
        if !self.levels.fits(caps) {
            Some(c"5-level paging not supported")
        } else if self.supervisor && !caps.ecap.supervisor().into_bool() {
            Some(c"no supervisor request support")
        } else if self.extended_accessed && !caps.ecap.extended_accessed().into_bool() {
            Some(c"no extended access flag support")
        } else if self.snoop && !caps.ecap.snoop_control().into_bool() {
            Some(c"no snoop control")
        } else {
            None
        }
    }
}

impl Entry {
    /// An absent entry.
    pub(crate) const EMPTY: Self = Self {
        low: Low::from_raw(0),
        mid: Mid::from_raw(0),
        high: High::from_raw(0),
    };

    /// First-stage translation only.
    pub(crate) fn first_stage(table: &FirstStage, did: u16) -> Self {
        Self {
            low: Low::from_raw(0)
                .with_pgtt(Pgtt::FirstStage)
                .with_aw(table.aw)
                .with_present(true),
            mid: Mid::from_raw(0)
                .with_did(did)
                .with_pgsnp(table.snoop_pages)
                .with_pwsnp(table.snoop_walk),
            high: High::from_raw(0)
                .with_fsptptr(frame(table.root))
                .with_fspm(table.levels.fspm()),
        }
    }

    /// Second-stage translation only. Snooping is in the table's own entries.
    pub(crate) fn second_stage(table: &SecondStage, did: u16) -> Self {
        Self {
            low: table.low(Pgtt::SecondStage),
            mid: table.mid(did),
            high: High::from_raw(0),
        }
    }

    /// A user's first stage on a second stage of the kernel's.
    pub(crate) fn nested(user: &UserStage, parent: &SecondStage, did: u16) -> Self {
        Self {
            low: parent.low(Pgtt::Nested),
            mid: parent.mid(did).with_pgsnp(parent.force_snoop || user.snoop),
            high: High::from_raw(0)
                .with_fsptptr(frame(user.root))
                .with_fspm(user.levels.fspm())
                .with_sre(user.supervisor)
                .with_wpe(user.supervisor && user.write_protect)
                .with_eafe(user.extended_accessed),
        }
    }

    /// Requests go untranslated.
    pub(crate) fn pass_through(caps: &Caps, aw: Bounded<u64, 3>, did: u16) -> Self {
        Self {
            low: Low::from_raw(0)
                .with_pgtt(Pgtt::PassThrough)
                .with_aw(aw)
                .with_present(true),
            mid: Mid::from_raw(0)
                .with_did(did)
                .with_pwsnp(caps.ecap.walk_coherent()),
            high: High::from_raw(0),
        }
    }

    /// The entry as it lies in memory.
    pub(crate) fn words(&self) -> [u64; WORDS] {
        [
            self.low.into_raw(),
            self.mid.into_raw(),
            self.high.into_raw(),
            0,
            0,
            0,
            0,
            0,
        ]
    }

    /// Whether hardware uses it.
    pub(crate) fn present(&self) -> bool {
        self.low.present().into_bool()
    }

    /// The domain-id that tags what is cached of it.
    pub(crate) fn did(&self) -> u16 {
        self.mid.did().into()
    }

    /// Whether a first stage translates, alone or before a second one.
    pub(crate) fn has_first_stage(&self) -> bool {
        matches!(self.low.pgtt(), Ok(Pgtt::FirstStage | Pgtt::Nested))
    }

    /// Whether its IOTLB entries are found by domain-id.
    pub(crate) fn through_second_stage(&self) -> bool {
        self.low.pgtt().is_ok_and(Pgtt::through_second_stage)
    }
}

impl SecondStage {
    /// Bits of an address that it translates.
    fn width(&self) -> u32 {
        // CAST: AW has three bits.
        30 + 9 * self.aw.get() as u32
    }

    fn low(&self, pgtt: Pgtt) -> Low {
        Low::from_raw(0)
            .with_ssptptr(frame(self.root))
            .with_aw(self.aw)
            .with_pgtt(pgtt)
            .with_ssade(self.dirty)
            .with_present(true)
    }

    fn mid(&self, did: u16) -> Mid {
        Mid::from_raw(0).with_did(did).with_pwsnp(self.snoop_walk)
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_pasid_entry)]
mod tests {
    use super::*;

    const ROOTS: [(u64, u64); 4] = [
        (0, 0),
        (0x1000, 0x1000),
        (0xffff_ffff_ffff_f000, 0xffff_ffff_ffff_f000),
        // Bits below the page are no business of the fields beside the pointer.
        (0x1234_5fff, 0x1234_5000),
    ];

    fn aw(levels: u64) -> Bounded<u64, 3> {
        Bounded::<u64, 3>::try_new(levels - 2).unwrap_or(Bounded::<u64, 3>::new::<0>())
    }

    // (does the rest of the words stay zero, and nothing but P tells present?)
    fn sane(entry: &Entry) {
        assert!(entry.present());
        assert!(entry.words()[3..].iter().all(|w| *w == 0));
        assert_eq!(entry.words()[0] & 0b10, 0);
    }

    #[test]
    fn first_stage() {
        for (root, want) in ROOTS {
            for did in [0u16, 1, 0x7fff, 0xffff] {
                for bits in 0..8u32 {
                    let five = bits & 1 != 0;
                    let entry = Entry::first_stage(
                        &FirstStage {
                            root,
                            levels: Levels::new(five),
                            aw: aw(5),
                            snoop_pages: bits & 2 != 0,
                            snoop_walk: bits & 4 != 0,
                        },
                        did,
                    );
                    sane(&entry);
                    let w = entry.words();
                    assert_eq!(w[0], 1 | 3 << 2 | 1 << 6);
                    let snoop = u64::from(bits >> 1 & 1) << 24 | u64::from(bits >> 2) << 23;
                    assert_eq!(w[1], u64::from(did) | snoop);
                    assert_eq!(w[2], want | u64::from(five) << 2);
                    assert!(!entry.through_second_stage());
                }
            }
        }
    }

    #[test]
    fn second_stage() {
        for (root, want) in ROOTS {
            for levels in 3..=5u64 {
                for bits in 0..16u64 {
                    let did = if bits & 8 != 0 { 0xffff } else { 0 };
                    let entry = Entry::second_stage(
                        &SecondStage {
                            root,
                            aw: aw(levels),
                            snoop_walk: bits & 1 != 0,
                            dirty: bits & 2 != 0,
                            force_snoop: bits & 4 != 0,
                        },
                        did,
                    );
                    sane(&entry);
                    let w = entry.words();
                    let flags = (levels - 2) << 2 | 2 << 6 | (bits >> 1 & 1) << 9;
                    assert_eq!(w[0], want | flags | 1);
                    // Forced snooping is in the leaves.
                    assert_eq!(w[1], u64::from(did) | (bits & 1) << 23);
                    assert_eq!(w[2], 0);
                    assert!(entry.through_second_stage());
                }
            }
        }
    }

    #[test]
    fn nested() {
        for (root, want) in ROOTS {
            for bits in 0..256u64 {
                let on = |n: u64| bits >> n & 1 != 0;
                let entry = Entry::nested(
                    &UserStage {
                        root,
                        levels: Levels::new(on(0)),
                        supervisor: on(1),
                        write_protect: on(2),
                        extended_accessed: on(3),
                        snoop: false,
                    },
                    &SecondStage {
                        root: 0xffff_ffff_ffff_ffff,
                        aw: aw(if on(6) { 9 } else { 2 }),
                        snoop_walk: on(7),
                        dirty: on(4),
                        force_snoop: on(5),
                    },
                    if on(7) { 0xffff } else { 0 },
                );
                sane(&entry);
                let w = entry.words();
                let frame = 0xffff_ffff_ffff_f000;
                let aw = if on(6) { 7 << 2 } else { 0 };
                assert_eq!(w[0], frame | u64::from(on(4)) << 9 | 3 << 6 | aw | 1);
                let did = if on(7) { 0xffff | 1 << 23 } else { 0 };
                assert_eq!(w[1], did | u64::from(on(5)) << 24);
                let wpe = on(1) && on(2);
                let low = u64::from(on(3)) << 7 | u64::from(wpe) << 4 | u64::from(on(0)) << 2;
                assert_eq!(w[2], want | low | u64::from(on(1)));
                assert!(entry.through_second_stage());
            }
        }
    }

    #[test]
    fn pass_through() {
        for (ecap, snoop) in [
            (0, 0),
            (1 << 48, 1 << 23),
            (!(1 << 48), 0),
            (u64::MAX, 1 << 23),
        ] {
            let entry = Entry::pass_through(&Caps::new(0, ecap), aw(4), 1);
            sane(&entry);
            assert_eq!(entry.words()[0], 4 << 6 | 2 << 2 | 1);
            assert_eq!(entry.words()[1], 1 | snoop);
            assert_eq!(entry.words()[2], 0);
            assert!(!entry.through_second_stage());
        }
    }

    #[test]
    fn first_stage_needs() {
        let (fsts, sc, five) = (1 << 47, 1 << 7, 1 << 60);
        // (CAP, ECAP, five levels, PGSNP, whether the unit can)
        let table = [
            (0, fsts, false, false, true),
            (five, 0, false, false, false),
            (0, fsts, true, false, false),
            (five, fsts, true, false, true),
            // PGSNP is reserved(0) without SC (section 9.6).
            (five, fsts, false, true, false),
            (five, !sc, true, true, false),
            (0, fsts | sc, false, true, true),
            (five, fsts | sc, true, true, true),
        ];
        for (cap, ecap, five, snoop_pages, can) in table {
            let table = FirstStage {
                root: 0x1000,
                levels: Levels::new(five),
                aw: aw(4),
                snoop_pages,
                snoop_walk: true,
            };
            assert_eq!(table.lacks(&Caps::new(cap, ecap)).is_none(), can);
        }
    }

    /// A second stage of so many levels.
    fn parent(levels: u64) -> SecondStage {
        SecondStage {
            root: 0x1000,
            aw: aw(levels),
            snoop_walk: true,
            dirty: false,
            force_snoop: false,
        }
    }

    /// Where a user's table may lie: below 2^X, X being the lesser of what the parent's AW and
    /// MGAW say (section 7.1.3, SPT.4.4), at a page.
    #[test]
    fn user_stage_roots() {
        // (levels of the parent, MGAW, lowest bit that an address must not have)
        let table = [
            (3, 48, 39),
            (3, 39, 39),
            (4, 48, 48),
            (4, 39, 39),
            (4, 57, 48),
            (5, 57, 57),
            (5, 52, 52),
            (5, 64, 57),
        ];
        for (levels, mgaw, first) in table {
            let caps = Caps::new((mgaw - 1) << 16, 0);
            let takes = |root| {
                let user = UserStage {
                    root,
                    levels: Levels::Four,
                    supervisor: false,
                    write_protect: false,
                    extended_accessed: false,
                    snoop: false,
                };
                user.lacks(&caps, &parent(levels)).is_none()
            };
            assert!(takes(0) && takes(0x1000));
            assert!(takes((1 << first) - 0x1000));
            for bit in 0..64 {
                assert_eq!(takes(1 << bit), bit >= 12 && bit < first);
                assert_eq!(takes(1 << bit | 0x1000), bit >= 12 && bit < first);
            }
        }
    }

    #[test]
    fn user_stage_needs() {
        let user = |levels, supervisor, extended_accessed| UserStage {
            root: 0,
            levels,
            supervisor,
            write_protect: false,
            extended_accessed,
            snoop: false,
        };
        let bare = Caps::new(47 << 16, 0);
        let full = Caps::new(1 << 60 | 47 << 16, 1 << 31 | 1 << 34);
        let lacks = |user: UserStage, caps| user.lacks(caps, &parent(4)).is_some();
        assert!(!lacks(user(Levels::Four, false, false), &bare));
        assert!(lacks(user(Levels::Five, false, false), &bare));
        assert!(lacks(user(Levels::Four, true, false), &bare));
        assert!(lacks(user(Levels::Four, false, true), &bare));
        assert!(!lacks(user(Levels::Five, true, true), &full));
        for (width, known) in [
            (0, false),
            (39, false),
            (47, false),
            (48, true),
            (49, false),
        ] {
            assert_eq!(Levels::from_width(width).is_some(), known);
        }
        assert!(Levels::from_width(57) == Some(Levels::Five));
        assert!(Levels::from_width(u32::MAX).is_none());
    }
}
