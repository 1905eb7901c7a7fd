// SPDX-License-Identifier: GPL-2.0-only

//! What a guest writes for its own VT-d, and what of it is for the hardware.
//!
//! User API: `include/uapi/linux/iommufd_vtd.h`. Nothing here has a side effect.

use kernel::prelude::*;

use crate::{
    invalidate::{
        DevTlbLow,
        IotlbHigh,
        IotlbLow,
        Pasid,
        PasidDevTlbLow,
        NO_PASID, //
    },
    pasid_entry::{
        frame_addr,
        High,
        Levels,
        Low,
        Mid,
        Pgtt,
        UserStage,
        WORDS, //
    },
    range::Span, //
};

/// Bits of the first three words of a PASID-table entry that a guest may set (section 9.6). Of the
/// others those that lead to a second stage are reserved to who has none, and those that say how
/// memory is cached to a unit without memory types.
const ALLOWED: [u64; 3] = [
    // PGTT, AW, FPD, P
    0x1df,
    // PGSNP, PWSNP, DID
    0x0180_ffff,
    // FSPTPTR, EAFE, WPE, FSPM, SRE
    !0xfff | 0x9d,
];

/// An entry of a guest's PASID table.
pub(crate) struct GuestEntry {
    /// Its first stage.
    pub(crate) stage: UserStage,
    /// The guest's domain-id.
    pub(crate) did: u16,
}

impl GuestEntry {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// `EINVAL`: reserved bits and values. `EOPNOTSUPP`: no first stage.
    pub(crate) fn read(words: &[u64; WORDS]) -> Result<Self> {
        let [low, mid, high, rest @ ..] = words;
        let reserved = low & !ALLOWED[0] | mid & !ALLOWED[1] | high & !ALLOWED[2];
        if reserved != 0 || rest.iter().any(|word| *word != 0) {
            return Err(EINVAL);
        }
        let (low, mid, high) = (
            Low::from_raw(*low),
            Mid::from_raw(*mid),
            High::from_raw(*high),
        );
        if !low.present().into_bool() || low.pgtt() != Ok(Pgtt::FirstStage) {
            return Err(EOPNOTSUPP);
        }
        Ok(Self {
            stage: UserStage {
                root: frame_addr(high.fsptptr()),
                levels: Levels::from_fspm(high.fspm()).ok_or(EINVAL)?,
                supervisor: high.sre().into_bool(),
                write_protect: high.wpe().into_bool(),
                extended_accessed: high.eafe().into_bool(),
                snoop: mid.pgsnp().into_bool(),
            },
            did: mid.did().into(),
        })
    }
}

/// What a guest's invalidation descriptor asks for, in the guest's names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// What the IOTLB has of a PASID in a domain.
    PasidIotlb {
        did: u16,
        pasid: Pasid,
        span: Span,
        /// Only leaves of the table changed.
        leaf: bool,
    },
    /// What it has of a domain.
    Domain { did: u16 },
    /// What it has of all domains.
    AllDomains,
    /// What a device has.
    DevTlb {
        sid: u16,
        /// None for all of them.
        pasid: Option<Pasid>,
        span: Span,
    },
}

/// Bits of the two words of a descriptor that are not reserved.
type Mask = [u64; 2];

/// Types 2, 3, 6 and 8 (sections 6.5.2.3 to 6.5.2.6).
const IOTLB: Mask = [0xffff_00ff, !0xf80];
const DEV_TLB: Mask = [0xfff0_ffff_001f_f00f, !0xffe];
const PASID_IOTLB: Mask = [0x000f_ffff_ffff_003f, !0xf80];
const PASID_DEV_TLB: Mask = [0xffff_ffff_ffff_f1ff, !0x7fe];

impl Ask {
    /// Reads a descriptor of a queue of 256-bit ones, or of 128-bit ones (not `wide`).
    ///
    /// # Errors
    ///
    /// `EINVAL`: hardware would take it for an invalid descriptor. `EOPNOTSUPP`: it is for the VMM.
    #[inline(always)]
    pub(crate) fn read(words: &[u64; 4], wide: bool) -> Result<Self> {
        let [low, high, rest @ ..] = *words;
        let only = |mask: Mask| {
            let reserved = low & !mask[0] | high & !mask[1] | rest[0] | rest[1];
            (reserved == 0).then_some(()).ok_or(EINVAL)
        };
        match (low & 0xf | low >> 5 & 0x70, wide) {
            (2, _) => {
                only(IOTLB)?;
                Self::iotlb(false, IotlbLow::from_raw(low), IotlbHigh::from_raw(high))
            }
            (3, _) => {
                only(DEV_TLB)?;
                let low = DevTlbLow::from_raw(low);
                Ok(Self::DevTlb {
                    sid: low.sid().into(),
                    pasid: Some(NO_PASID),
                    span: Span::from_ats(high, high & 1 != 0),
                })
            }
            (6, true) => {
                only(PASID_IOTLB)?;
                Self::iotlb(true, IotlbLow::from_raw(low), IotlbHigh::from_raw(high))
            }
            (8, true) => {
                only(PASID_DEV_TLB)?;
                let low = PasidDevTlbLow::from_raw(low);
                Ok(Self::DevTlb {
                    sid: low.sid().into(),
                    pasid: (high & 1 == 0).then(|| low.pasid()),
                    span: Span::from_ats(high, high & 1 << 11 != 0),
                })
            }
            (1 | 4 | 5, _) | (7 | 9, true) => Err(EOPNOTSUPP),
            _ => Err(EINVAL),
        }
    }

    #[inline(always)]
    fn iotlb(by_pasid: bool, low: IotlbLow, high: IotlbHigh) -> Result<Self> {
        let did = low.did().into();
        // The granularity as it lies there: 0 is reserved, for both.
        match (by_pasid, low.into_raw() >> 4 & 3) {
            (false, 1) => Ok(Self::AllDomains),
            (false, 2 | 3) => Ok(Self::Domain { did }),
            (true, granularity @ (2 | 3)) => {
                let span = if granularity == 2 {
                    Span::ALL
                } else {
                    // A mask of more than 51 leaves no bit of the address.
                    Span::block(frame_addr(high.frame()), u8::from(high.mask()).into())
                };
                Ok(Self::PasidIotlb {
                    did,
                    pasid: low.pasid(),
                    span,
                    leaf: !span.is_all() && high.hint().into_bool(),
                })
            }
            _ => Err(EINVAL),
        }
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_guest)]
mod tests {
    use super::*;
    use crate::{
        caps::Caps,
        pasid_entry::{
            Entry,
            SecondStage, //
        },
    };
    use kernel::num::Bounded;

    /// P and PGTT of a first stage.
    const FIRST: u64 = 1 | 1 << 6;

    fn read(at: usize, bits: u64) -> Result<GuestEntry> {
        let mut words = [FIRST, 0, 0, 0, 0, 0, 0, 0];
        words[at] |= bits;
        GuestEntry::read(&words)
    }

    /// Each bit of an entry by itself, on top of what makes it a first stage.
    #[test]
    fn each_bit() {
        for bit in 0..512 {
            let got = read(bit / 64, 1 << (bit % 64)).map(|_| ());
            let want = match bit {
                // P, FPD, AW, and PGTT as it is
                0..=4 | 6 => Ok(()),
                // another PGTT
                7 | 8 => Err(EOPNOTSUPP),
                // DID, PWSNP, PGSNP
                64..=79 | 87 | 88 => Ok(()),
                // SRE, FSPM of 5 levels, WPE, EAFE, FSPTPTR
                128 | 130 | 132 | 135 | 140..=191 => Ok(()),
                _ => Err(EINVAL),
            };
            assert_eq!(got, want);
        }
    }

    #[test]
    fn types() {
        for low in 0..0x200u64 {
            let got = GuestEntry::read(&[low, 0, 0, 0, 0, 0, 0, 0]).map(|_| ());
            let want = match (low & 1 << 5, low & 1, low >> 6) {
                (0, 1, 1) => Ok(()),
                (0, ..) => Err(EOPNOTSUPP),
                _ => Err(EINVAL),
            };
            assert_eq!(got, want);
        }
        // Reserved bits come first: the guest is told of them whatever the type.
        assert_eq!(
            GuestEntry::read(&[0, 1 << 16, 0, 0, 0, 0, 0, 0]).err(),
            Some(EINVAL)
        );
        // Two levels of first-stage tables are none.
        for fspm in [2, 3] {
            assert_eq!(read(2, fspm << 2).err(), Some(EINVAL));
        }
    }

    /// What becomes of an entry: the guest's first stage on the kernel's second one, under the
    /// domain-id of the hardware, and nothing else of the guest's.
    #[test]
    fn what_the_hardware_gets() -> Result {
        let parent = |force_snoop| SecondStage {
            root: 0x1234_5000,
            aw: Bounded::<u64, 3>::new::<2>(),
            snoop_walk: false,
            dirty: false,
            force_snoop,
        };
        let high = 0x7654_3000 | 0x91;
        for (mid, force_snoop, want) in [
            (0, false, 0),
            (1 << 24, false, 1 << 24),
            (0, true, 1 << 24),
            // The kernel's own walks do not snoop.
            (1 << 23, false, 0),
        ] {
            let words = [FIRST | 3 << 2 | 2, 0xbeef | mid, high, 0, 0, 0, 0, 0];
            let guest = GuestEntry::read(&words)?;
            assert_eq!(guest.did, 0xbeef);
            let got = Entry::nested(&guest.stage, &parent(force_snoop), 0x55);
            let want = [0x1234_50c9, 0x55 | want, high, 0, 0, 0, 0, 0];
            assert!(got.words() == want);
        }
        // WPE is for supervisor requests, which are not served here.
        let guest = read(2, 1 << 4)?;
        let got = Entry::nested(&guest.stage, &parent(false), 0);
        assert_eq!(got.words()[2], 0);
        Ok(())
    }

    /// A unit without snoop control has PGSNP reserved.
    #[test]
    fn snoop_control() -> Result {
        let parent = SecondStage {
            root: 0,
            aw: Bounded::<u64, 3>::new::<2>(),
            snoop_walk: false,
            dirty: false,
            force_snoop: false,
        };
        let (with, without) = (Caps::new(47 << 16, 1 << 7), Caps::new(47 << 16, 0));
        let (plain, snooped) = (read(1, 0)?.stage, read(1, 1 << 24)?.stage);
        assert!(plain.lacks(&without, &parent).is_none());
        assert!(snooped.lacks(&with, &parent).is_none());
        assert!(snooped.lacks(&without, &parent).is_some());
        Ok(())
    }

    fn ask(low: u64, high: u64) -> Result<Ask> {
        Ask::read(&[low, high, 0, 0], true)
    }

    /// Each type in queues of both widths.
    #[test]
    fn descriptor_types() {
        for kind in 0..0x80u64 {
            // A granularity that each type has, without bits that one of them has reserved.
            let granularity = if matches!(kind, 2 | 6) { 2 << 4 } else { 0 };
            let words = [kind & 0xf | (kind & 0x70) << 5 | granularity, 0, 0, 0];
            for wide in [true, false] {
                let want = match (kind, wide) {
                    (2 | 3, _) | (6 | 8, true) => None,
                    (1 | 4 | 5, _) | (7 | 9, true) => Some(EOPNOTSUPP),
                    _ => Some(EINVAL),
                };
                assert_eq!(Ask::read(&words, wide).err(), want);
            }
        }
    }

    /// Each bit by itself, on top of a type and its granularity.
    #[test]
    fn descriptor_bits() {
        let known = |kind, bit| match kind {
            // G, DW, DR; DID; AM, IH, ADDR
            2 => matches!(bit, 4..=7 | 16..=31 | 64..=70 | 76..=127),
            // PFSID, MIP, SID; S, ADDR
            3 => matches!(bit, 12..=20 | 32..=47 | 52..=63 | 64 | 76..=127),
            // G, DID, PASID; AM, IH, ADDR
            6 => matches!(bit, 4 | 5 | 16..=31 | 32..=51 | 64..=70 | 76..=127),
            // MIP, PFSID, SID, PASID; GI, S, ADDR
            _ => matches!(bit, 4..=8 | 12..=63 | 64 | 75..=127),
        };
        for kind in [2u64, 3, 6, 8] {
            let granularity = if matches!(kind, 2 | 6) { 2 << 4 } else { 0 };
            for bit in 4..256 {
                let mut words = [kind | granularity, 0, 0, 0];
                words[bit / 64] ^= 1 << (bit % 64);
                // G becomes 0 with this one.
                let none = matches!(kind, 2 | 6) && bit == 5;
                let got = Ask::read(&words, true).is_ok();
                assert_eq!(got, known(kind, bit) && !none);
            }
        }
        // Granularities: type 2 knows a global one, type 6 does not, and 0 is none's.
        for (kind, granularity, good) in [
            (2, 0, false),
            (2, 1, true),
            (2, 3, true),
            (6, 0, false),
            (6, 1, false),
            (6, 3, true),
        ] {
            assert_eq!(ask(kind | granularity << 4, 0).is_ok(), good);
        }
    }

    #[test]
    fn what_is_asked() {
        let pasid = |n| Pasid::try_new(n).unwrap_or(NO_PASID);
        let page = |at: u64| Span::cover(at, at);
        let pages = |start: u64, order: u32| Span::cover(start, start | ((4096u64 << order) - 1));
        let of_pasid = |span, leaf| Ask::PasidIotlb {
            did: 0xbeef,
            pasid: pasid(0xf_0001),
            span,
            leaf,
        };
        let six = 0x000f_0001_beef_0006u64;
        let of_device = |pasid, span| Ask::DevTlb {
            sid: 0x1234,
            pasid,
            span,
        };
        let (three, eight) = (0x1234_0000_0003u64, 0x000f_0001_1234_0008u64);
        let table = [
            // Of all pages the hint says nothing.
            (six | 2 << 4, 0x7040, of_pasid(Span::ALL, false)),
            (six | 3 << 4, 0x7000, of_pasid(page(0x7000), false)),
            (six | 3 << 4, 0x7040, of_pasid(page(0x7000), true)),
            // What the mask covers of the address is ignored.
            (six | 3 << 4, 0x7049, of_pasid(pages(0, 9), true)),
            (
                six | 3 << 4,
                0xffff_ffff_ffff_f000,
                of_pasid(page(!0xfff), false),
            ),
            (six | 3 << 4, 51, of_pasid(pages(0, 51), false)),
            (six | 3 << 4, 52, of_pasid(Span::ALL, false)),
            (six | 3 << 4, 63 | 1 << 6, of_pasid(Span::ALL, false)),
            (0x1234_0012, 0, Ask::AllDomains),
            (0x1234_00e2, 0, Ask::Domain { did: 0x1234 }),
            (0x1234_0032, 0x7045, Ask::Domain { did: 0x1234 }),
            (three, 0x7000, of_device(Some(NO_PASID), page(0x7000))),
            (three, 0x6001, of_device(Some(NO_PASID), pages(0x6000, 1))),
            (three, 0x7001, of_device(Some(NO_PASID), pages(0, 4))),
            (
                three,
                0x7fff_ffff_ffff_f001,
                of_device(Some(NO_PASID), Span::ALL),
            ),
            (
                three,
                0xffff_ffff_ffff_f001,
                of_device(Some(NO_PASID), Span::ALL),
            ),
            (
                eight,
                0x7000,
                of_device(Some(pasid(0xf_0001)), page(0x7000)),
            ),
            (
                eight,
                0x6800,
                of_device(Some(pasid(0xf_0001)), pages(0x6000, 1)),
            ),
            (eight, 0x7fff_ffff_ffff_f801, of_device(None, Span::ALL)),
        ];
        for (low, high, want) in table {
            assert!(ask(low, high) == Ok(want));
        }
    }
}
