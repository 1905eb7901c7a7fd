// SPDX-License-Identifier: GPL-2.0-only

//! Descriptors of the invalidation queue (section 6.5.2) and batches of them.
//!
//! A [`Batch`] lies on the stack of whoever invalidates; nothing here waits for hardware.

use core::ops::Deref;

use kernel::{
    bitfield,
    num::Bounded,
    prelude::*, //
};

use crate::{
    caps::Caps,
    ffi::stack::Stack,
    range::Span, //
};

/// A PASID, which has 20 bits.
pub(crate) type Pasid = Bounded<u64, 20>;

/// PASID 0 stands for requests without PASID (`IOMMU_NO_PASID`, RID_PASID).
pub(crate) const NO_PASID: Pasid = Bounded::<u64, 20>::new::<0>();

/// Checks a PASID that C hands over.
///
/// # Errors
///
/// `EINVAL` when it has more than 20 bits.
pub(crate) fn pasid(raw: u32) -> Result<Pasid> {
    Pasid::try_new(raw.into()).ok_or(EINVAL)
}

/// How much of the context-cache or IOTLB goes (G).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Granularity {
    Global,
    Domain,
    Selective,
}

impl From<Granularity> for Bounded<u64, 2> {
    fn from(value: Granularity) -> Self {
        match value {
            Granularity::Global => Bounded::<u64, 2>::new::<1>(),
            Granularity::Domain => Bounded::<u64, 2>::new::<2>(),
            Granularity::Selective => Bounded::<u64, 2>::new::<3>(),
        }
    }
}

impl From<Bounded<u64, 2>> for Granularity {
    fn from(value: Bounded<u64, 2>) -> Self {
        match value.get() {
            2 => Self::Domain,
            3 => Self::Selective,
            // 0 is reserved.
            _ => Self::Global,
        }
    }
}

bitfield! {
    /// Context-cache Invalidate Descriptor (6.5.2.1), low word.
    struct ContextLow(u64) {
        47:32 sid;
        31:16 did;
        /// 3: device-selective.
        5:4 granularity;
        3:0 kind;
    }
}

bitfield! {
    /// PASID-cache Invalidate Descriptor (6.5.2.2), low word.
    struct PasidCacheLow(u64) {
        51:32 pasid;
        31:16 did;
        /// 1: PASID-selective within the domain; 3: global.
        5:4 granularity;
        3:0 kind;
    }
}

bitfield! {
    /// IOTLB (6.5.2.3) and PASID-based IOTLB (6.5.2.4) Invalidate Descriptor, low word. The
    /// former has no PASID, the latter does not drain.
    pub(crate) struct IotlbLow(u64) {
        51:32 pasid;
        31:16 did;
        7:7 drain_reads;
        6:6 drain_writes;
        5:4 granularity => Granularity;
        3:0 kind;
    }
}

bitfield! {
    /// The same two, high word.
    pub(crate) struct IotlbHigh(u64) {
        63:12 frame;
        /// IH: only leaves changed.
        6:6 hint;
        /// AM: 2^AM pages.
        5:0 mask;
    }
}

bitfield! {
    /// Device-TLB Invalidate Descriptor (6.5.2.5), low word.
    pub(crate) struct DevTlbLow(u64) {
        63:52 pfsid_high;
        47:32 sid;
        20:16 depth;
        15:12 pfsid_low;
        3:0 kind;
    }
}

bitfield! {
    /// Invalidation Wait Descriptor (6.5.2.9), low word.
    struct WaitLow(u64) {
        /// FN: what follows begins when what came before is done.
        6:6 fence;
        3:0 kind;
    }
}

bitfield! {
    /// PASID-based Device-TLB Invalidate Descriptor (6.5.2.6), low word.
    pub(crate) struct PasidDevTlbLow(u64) {
        63:52 pfsid_high;
        51:32 pasid;
        31:16 sid;
        15:12 pfsid_low;
        8:4 depth;
        3:0 kind;
    }
}

/// One descriptor, 256 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Desc(pub(crate) [u64; 4]);

/// A device's translation cache, as descriptors name it.
#[derive(Clone, Copy)]
pub(crate) struct DevTlb {
    /// Source-id.
    pub(crate) sid: u16,
    /// Source-id of the physical function.
    pub(crate) pfsid: u16,
    /// Invalidations it takes at a time, 0 standing for 32.
    depth: Bounded<u64, 5>,
}

impl DevTlb {
    /// A device that takes `depth` invalidations at a time; 32 and more are written as 0.
    pub(crate) fn new(sid: u16, pfsid: u16, depth: u16) -> Self {
        Self {
            sid,
            pfsid,
            depth: Bounded::try_new(depth.into()).unwrap_or(Bounded::<u64, 5>::new::<0>()),
        }
    }

    fn pfsid_low(&self) -> Bounded<u64, 4> {
        Bounded::<u64, 4>::from_expr(u64::from(self.pfsid) & 0xf)
    }

    fn pfsid_high(&self) -> Bounded<u64, 12> {
        Bounded::<u64, 16>::from(self.pfsid).shr::<4, 12>()
    }
}

/// An IOTLB invalidation in parts. The hint is left out, for that is one only.
pub(crate) struct Iotlb {
    pub(crate) did: u16,
    pub(crate) addr: u64,
    pub(crate) mask: u8,
    /// 1: global, 2: domain-selective, 3: page-selective.
    pub(crate) granularity: u64,
}

impl Desc {
    /// Device-selective invalidation of the context-cache. Scalable mode ignores the domain-id.
    pub(crate) fn context(sid: u16, did: u16) -> Self {
        let low = ContextLow::from_raw(0)
            .with_const_kind::<1>()
            .with_const_granularity::<3>()
            .with_did(did)
            .with_sid(sid);
        Self([low.into_raw(), 0, 0, 0])
    }

    /// PASID-selective-within-domain invalidation of the PASID-cache.
    pub(crate) fn pasid_cache(did: u16, pasid: Pasid) -> Self {
        let low = PasidCacheLow::from_raw(0)
            .with_const_kind::<7>()
            .with_const_granularity::<1>()
            .with_did(did)
            .with_pasid(pasid);
        Self([low.into_raw(), 0, 0, 0])
    }

    /// Domain-selective invalidation of the PASID-cache.
    pub(crate) fn pasid_cache_domain(did: u16) -> Self {
        let low = PasidCacheLow::from_raw(0)
            .with_const_kind::<7>()
            .with_const_granularity::<0>()
            .with_did(did);
        Self([low.into_raw(), 0, 0, 0])
    }

    /// Invalidation of the whole PASID-cache.
    pub(crate) fn pasid_cache_all() -> Self {
        let low = PasidCacheLow::from_raw(0)
            .with_const_kind::<7>()
            .with_const_granularity::<3>();
        Self([low.into_raw(), 0, 0, 0])
    }

    /// Invalidation of the whole IOTLB.
    pub(crate) fn iotlb_all(caps: &Caps) -> Self {
        let low = Self::iotlb_low(caps, 0).with_granularity(Granularity::Global);
        Self([low.into_raw(), 0, 0, 0])
    }

    /// Domain-selective invalidation of the IOTLB.
    pub(crate) fn iotlb_domain(caps: &Caps, did: u16) -> Self {
        let low = Self::iotlb_low(caps, did).with_granularity(Granularity::Domain);
        Self([low.into_raw(), 0, 0, 0])
    }

    /// Page-selective-within-domain invalidation of the IOTLB, or domain-selective where the
    /// unit cannot select pages or not as many.
    ///
    /// `leaf` says that no table above the leaves changed.
    pub(crate) fn iotlb_pages(caps: &Caps, did: u16, span: Span, leaf: bool) -> Self {
        let selective = caps.cap.page_selective().into_bool();
        match span.mask() {
            Some(mask) if selective && mask <= caps.cap.max_address_mask() => {
                let low = Self::iotlb_low(caps, did).with_granularity(Granularity::Selective);
                let high = IotlbHigh::from_raw(0)
                    .with_frame(span.frame())
                    .with_hint(leaf)
                    .with_mask(mask);
                Self([low.into_raw(), high.into_raw(), 0, 0])
            }
            _ => Self::iotlb_domain(caps, did),
        }
    }

    fn iotlb_low(caps: &Caps, did: u16) -> IotlbLow {
        IotlbLow::from_raw(0)
            .with_const_kind::<2>()
            .with_drain_reads(caps.cap.read_drain())
            .with_drain_writes(caps.cap.write_drain())
            .with_did(did)
    }

    /// PASID-selective invalidation of the IOTLB.
    pub(crate) fn pasid_iotlb(did: u16, pasid: Pasid) -> Self {
        let low = Self::pasid_iotlb_low(did, pasid).with_granularity(Granularity::Domain);
        Self([low.into_raw(), 0, 0, 0])
    }

    /// Page-selective-within-PASID invalidation of the IOTLB; of the whole PASID when the span
    /// is everything.
    pub(crate) fn pasid_iotlb_pages(did: u16, pasid: Pasid, span: Span, leaf: bool) -> Self {
        let Some(mask) = span.mask() else {
            return Self::pasid_iotlb(did, pasid);
        };
        let low = Self::pasid_iotlb_low(did, pasid).with_granularity(Granularity::Selective);
        let high = IotlbHigh::from_raw(0)
            .with_frame(span.frame())
            .with_hint(leaf)
            .with_mask(mask);
        Self([low.into_raw(), high.into_raw(), 0, 0])
    }

    fn pasid_iotlb_low(did: u16, pasid: Pasid) -> IotlbLow {
        IotlbLow::from_raw(0)
            .with_const_kind::<6>()
            .with_did(did)
            .with_pasid(pasid)
    }

    /// Invalidation of a device's own cache, for requests of one PASID or, with [`NO_PASID`],
    /// of those that have none.
    pub(crate) fn device_tlb(dev: &DevTlb, pasid: Pasid, span: Span) -> Self {
        let (low, size) = if pasid == NO_PASID {
            let low = DevTlbLow::from_raw(0)
                .with_const_kind::<3>()
                .with_sid(dev.sid)
                .with_depth(dev.depth)
                .with_pfsid_low(dev.pfsid_low())
                .with_pfsid_high(dev.pfsid_high());
            (low.into_raw(), 1)
        } else {
            let low = PasidDevTlbLow::from_raw(0)
                .with_const_kind::<8>()
                .with_pasid(pasid)
                .with_sid(dev.sid)
                .with_depth(dev.depth)
                .with_pfsid_low(dev.pfsid_low())
                .with_pfsid_high(dev.pfsid_high());
            (low.into_raw(), 1 << 11)
        };
        let high = span.ats() | if span.one_page() { 0 } else { size };
        Self([low, high, 0, 0])
    }

    /// A fence, which tells nobody: a wait without a status write (7.10 has the same).
    fn fence() -> Self {
        let low = WaitLow::from_raw(0).with_const_kind::<5>().with_fence(true);
        Self([low.into_raw(), 0, 0, 0])
    }

    /// Its type.
    #[inline(always)]
    fn kind(&self) -> u64 {
        self.0[0] & 0xf
    }

    /// If this is an IOTLB invalidation, which registers can do too.
    pub(crate) fn as_iotlb(&self) -> Option<Iotlb> {
        let low = IotlbLow::from_raw(self.0[0]);
        let high = IotlbHigh::from_raw(self.0[1]);
        (low.kind().get() == 2).then(|| Iotlb {
            did: low.did().into(),
            addr: high.frame().get() << 12,
            mask: high.mask().into(),
            granularity: Bounded::<u64, 2>::from(low.granularity()).get(),
        })
    }

    /// The same of the context-cache: source-id and domain-id.
    pub(crate) fn as_context(&self) -> Option<(u16, u16)> {
        let low = ContextLow::from_raw(self.0[0]);
        (low.kind().get() == 1).then(|| (low.sid().into(), low.did().into()))
    }
}

/// Up to `N` descriptors that go to the hardware together, with one wait.
///
/// The queue has room for 254, but whoever submits `N` waits until so many places are free and
/// keeps interrupts off until all are done, so `N` should be small.
///
/// # Invariants
///
/// Between a PASID-based IOTLB invalidation (type 6) and a Device-TLB invalidation of requests
/// without PASID (type 3) behind it there is a fence, unless `unfenced` says that there is no such
/// type 3 yet. That order is the one that the hardware does not keep by itself (6.5.2.12), and
/// without it the device might ask for what the IOTLB still holds (6.5.2.5).
pub(crate) struct Batch<const N: usize> {
    descs: Stack<Desc, N>,
    unfenced: bool,
}

impl<const N: usize> Batch<N> {
    /// None.
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        // INVARIANT: There is nothing to be kept in order.
        Self {
            descs: Stack::new(),
            unfenced: false,
        }
    }

    /// Adds one, and a fence before it where the order of the two needs that.
    ///
    /// # Errors
    ///
    /// Gives the descriptor back when there is no room.
    #[inline]
    pub(crate) fn push(&mut self, desc: Desc) -> Result<(), Desc> {
        if self.unfenced && desc.kind() == 3 {
            if self.descs.len() + 2 > N {
                return Err(desc);
            }
            self.descs.push(Desc::fence())?;
            // INVARIANT: All types 6 are before the fence.
            self.unfenced = false;
        }
        self.descs.push(desc)?;
        // INVARIANT: A type 6 is behind all fences that there are.
        self.unfenced |= desc.kind() == 6;
        Ok(())
    }

    /// Forgets all of them.
    #[inline]
    pub(crate) fn clear(&mut self) {
        // INVARIANT: as in `new()`.
        self.descs.truncate(0);
        self.unfenced = false;
    }
}

impl<const N: usize> Deref for Batch<N> {
    type Target = [Desc];

    #[inline]
    fn deref(&self) -> &[Desc] {
        &self.descs
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_invalidate)]
mod tests {
    use super::*;

    const PASID_MAX: Pasid = Bounded::<u64, 20>::new::<0xfffff>();
    // Page-selective with masks up to 9.
    const PSI: u64 = 1 << 39 | 9 << 48;

    #[test]
    fn words() {
        let caps = Caps::new(PSI | 1 << 54 | 1 << 55, 0);
        let bare = Caps::new(PSI, 0);
        let page = Span::cover(0x7000, 0x7fff);
        let table = [
            (Desc::context(0xffff, 0x1234), 0x0000_ffff_1234_0031, 0),
            (
                Desc::pasid_cache(0xffff, PASID_MAX),
                0x000f_ffff_ffff_0017,
                0,
            ),
            (Desc::pasid_cache_domain(0x1234), 0x1234_0007, 0),
            (Desc::pasid_cache_all(), 0x37, 0),
            (Desc::fence(), 0x45, 0),
            (Desc::iotlb_all(&caps), 0xd2, 0),
            (Desc::iotlb_domain(&caps, 0x8001), 0x8001_00e2, 0),
            (Desc::iotlb_domain(&bare, 1), 0x1_0022, 0),
            (Desc::iotlb_pages(&bare, 1, page, false), 0x1_0032, 0x7000),
            (Desc::iotlb_pages(&bare, 1, page, true), 0x1_0032, 0x7040),
            (Desc::pasid_iotlb(2, PASID_MAX), 0x000f_ffff_0002_0026, 0),
            (
                Desc::pasid_iotlb_pages(2, NO_PASID, page, true),
                0x2_0036,
                0x7040,
            ),
            (
                Desc::pasid_iotlb_pages(2, NO_PASID, Span::ALL, true),
                0x2_0026,
                0,
            ),
        ];
        for (n, (desc, low, high)) in table.iter().enumerate() {
            if desc.0 != [*low, *high, 0, 0] {
                pr_err!("row {n}: {:#x} {:#x}\n", desc.0[0], desc.0[1]);
            }
            assert!(desc.0 == [*low, *high, 0, 0]);
        }
    }

    #[test]
    fn mask_limits() {
        let caps = Caps::new(PSI, 0);
        let none = Caps::new(0, 0);
        let at = |order: u32| Span::cover(0, (0x1000 << order) - 1);
        assert!(Desc::iotlb_pages(&caps, 1, at(9), false).0[1] == 9);
        assert!(Desc::iotlb_pages(&caps, 1, at(10), true) == Desc::iotlb_domain(&caps, 1));
        assert!(Desc::iotlb_pages(&none, 1, at(0), true) == Desc::iotlb_domain(&none, 1));
        assert!(Desc::iotlb_pages(&caps, 1, Span::ALL, true) == Desc::iotlb_domain(&caps, 1));
        // First-stage invalidations take any mask (section 6.5.2.4).
        for order in 0..51 {
            let desc = Desc::pasid_iotlb_pages(1, NO_PASID, at(order), false);
            assert_eq!(desc.0[1], u64::from(order));
        }
    }

    /// Each order at each MAMV: the page where the address mask can say it, else the domain.
    #[test]
    fn each_mask_at_each_limit() {
        for limit in 0..64u64 {
            let caps = Caps::new(1 << 39 | limit << 48, 0);
            for order in 0..52u32 {
                // The last block of that size.
                let start = u64::MAX << (12 + order);
                let span = Span::cover(start, u64::MAX);
                let got = Desc::iotlb_pages(&caps, 0xffff, span, true);
                if u64::from(order) <= limit {
                    assert!(got.0 == [0xffff_0032, start | 1 << 6 | u64::from(order), 0, 0]);
                } else {
                    assert!(got == Desc::iotlb_domain(&caps, 0xffff));
                }
            }
        }
    }

    /// Each field of each kind at both of its ends, beside neighbours at the other.
    #[test]
    fn fields_at_bounds() {
        let bare = Caps::new(PSI, 0);
        let one = Bounded::<u64, 20>::new::<1>();
        let top = Span::cover(u64::MAX, u64::MAX);
        // (descriptor, low word, high word)
        let table = [
            // 6.5.2.1: SID 47:32, DID 31:16, G 5:4, type 0x01.
            (Desc::context(0, 0xffff), 0xffff_0031, 0),
            (Desc::context(0xffff, 0), 0xffff_0000_0031, 0),
            // 6.5.2.2: PASID 51:32, DID 31:16, G 5:4 (1: PASID-selective), type 0x07.
            (Desc::pasid_cache(0, PASID_MAX), 0xf_ffff_0000_0017, 0),
            (Desc::pasid_cache(0xffff, NO_PASID), 0xffff_0017, 0),
            (Desc::pasid_cache(1, one), 0x1_0001_0017, 0),
            // 6.5.2.3: DID 31:16, DR 7, DW 6, G 5:4, type 0x02; ADDR 63:12, IH 6, AM 5:0.
            (Desc::iotlb_domain(&bare, 0), 0x22, 0),
            (Desc::iotlb_domain(&bare, 0xffff), 0xffff_0022, 0),
            (Desc::iotlb_domain(&Caps::new(1 << 55, 0), 0), 0xa2, 0),
            (Desc::iotlb_domain(&Caps::new(1 << 54, 0), 0), 0x62, 0),
            (
                Desc::iotlb_pages(&bare, 0, top, false),
                0x32,
                0xffff_ffff_ffff_f000,
            ),
            // 6.5.2.4: PASID 51:32, DID 31:16, G 5:4 (2: PASID, 3: pages), type 0x06.
            (Desc::pasid_iotlb(0xffff, NO_PASID), 0xffff_0026, 0),
            (Desc::pasid_iotlb(0, PASID_MAX), 0xf_ffff_0000_0026, 0),
            (
                Desc::pasid_iotlb_pages(0, PASID_MAX, top, false),
                0xf_ffff_0000_0036,
                0xffff_ffff_ffff_f000,
            ),
            (
                Desc::pasid_iotlb_pages(0xffff, NO_PASID, Span::cover(1 << 63, u64::MAX), true),
                0xffff_0036,
                1 << 63 | 1 << 6 | 51,
            ),
        ];
        for (n, (desc, low, high)) in table.iter().enumerate() {
            if desc.0 != [*low, *high, 0, 0] {
                pr_err!("row {n}: {:#x} {:#x}\n", desc.0[0], desc.0[1]);
            }
            assert!(desc.0 == [*low, *high, 0, 0]);
        }
        // 6.5.2.5 and 6.5.2.6: SID, PFSID in two parts, MIP with 0 for 32; type 0x03 and 0x08.
        // (sid, pfsid, depth, without PASID, with the highest PASID)
        let devices = [
            (0, 0, 0, 0x3, 0xf_ffff_0000_0008),
            (0xffff, 0, 0, 0xffff_0000_0003, 0xf_ffff_ffff_0008),
            (0, 0xf, 0, 0xf003, 0xf_ffff_0000_f008),
            (0, 0xfff0, 0, 0xfff0_0000_0000_0003, 0xffff_ffff_0000_0008),
            (0, 0, 1, 0x1_0003, 0xf_ffff_0000_0018),
            (0, 0, 31, 0x1f_0003, 0xf_ffff_0000_01f8),
            (0, 0, 32, 0x3, 0xf_ffff_0000_0008),
            (0, 0, 0xffff, 0x3, 0xf_ffff_0000_0008),
        ];
        for (sid, pfsid, depth, plain, tagged) in devices {
            let dev = DevTlb::new(sid, pfsid, depth);
            let all = 0x7fff_ffff_ffff_f000u64;
            let got = Desc::device_tlb(&dev, NO_PASID, Span::ALL);
            assert!(got.0 == [plain, all | 1, 0, 0]);
            let got = Desc::device_tlb(&dev, PASID_MAX, Span::ALL);
            assert!(got.0 == [tagged, all | 1 << 11, 0, 0]);
        }
    }

    /// Whether a type 3 is behind a type 6 without a fence between.
    fn out_of_order(descs: &[Desc]) -> bool {
        let mut open = false;
        descs.iter().any(|desc| {
            match desc.kind() {
                6 => open = true,
                // FN.
                5 if desc.0[0] & 1 << 6 != 0 => open = false,
                _ => {}
            }
            open && desc.kind() == 3
        })
    }

    /// Each order of six descriptors of five types: fences where the hardware does not keep the
    /// order (6.5.2.12), and nowhere else.
    #[test]
    fn fences() {
        let caps = Caps::new(PSI, 0);
        let dev = DevTlb::new(8, 8, 0);
        let kinds = [
            Desc::pasid_cache(1, NO_PASID),
            Desc::iotlb_domain(&caps, 1),
            Desc::pasid_iotlb(1, NO_PASID),
            Desc::device_tlb(&dev, NO_PASID, Span::ALL),
            Desc::device_tlb(&dev, PASID_MAX, Span::ALL),
        ];
        for number in 0..5usize.pow(6) {
            let mut batch = Batch::<9>::new();
            // Fences that are needed: one for each change from type 6 to type 3.
            let (mut want, mut open) = (0, false);
            for n in 0..6 {
                let desc = kinds[number / 5usize.pow(n) % 5];
                want += usize::from(open && desc.kind() == 3);
                open = desc.kind() == 6 || open && desc.kind() != 3;
                assert!(batch.push(desc).is_ok());
            }
            assert!(!out_of_order(&batch));
            assert_eq!(batch.len(), 6 + want);
        }
    }

    /// A fence takes room, and what comes first in the next submission needs none.
    #[test]
    fn fences_and_room() {
        let dev = DevTlb::new(8, 8, 0);
        let (first, second) = (
            Desc::pasid_iotlb(1, NO_PASID),
            Desc::device_tlb(&dev, NO_PASID, Span::ALL),
        );
        let mut batch = Batch::<2>::new();
        assert!(batch.push(first) == Ok(()));
        // One of the two would fit.
        assert!(batch.push(second) == Err(second));
        assert!(*batch == [first]);
        batch.clear();
        assert!(batch.push(second) == Ok(()));
        assert!(*batch == [second]);
        assert!(batch.push(second) == Ok(()));
        assert!(batch.push(first) == Err(first));
        assert!(*batch == [second, second]);
    }

    #[test]
    fn device_tlb() {
        let dev = DevTlb::new(0x1234, 0xabcd, 31);
        let low = 0xabc0_1234_001f_d003;
        let pasid_low = 0xabcf_ffff_1234_d1f8;
        let table = [
            (0, 0xfff, 0, 0),
            (0x5000, 0x5fff, 0x5000, 0),
            (0, 0x1fff, 0, 1),
            (0x4000, 0x7fff, 0x5000, 1),
            (0, u64::MAX, 0x7fff_ffff_ffff_f000, 1),
        ];
        for (start, last, addr, many) in table {
            let span = Span::cover(start, last);
            let plain = Desc::device_tlb(&dev, NO_PASID, span);
            assert!(plain.0 == [low, addr | many, 0, 0]);
            let tagged = Desc::device_tlb(&dev, PASID_MAX, span);
            assert!(tagged.0 == [pasid_low, addr | many << 11, 0, 0]);
        }
        // A depth of 32 is written as 0.
        let deep = Desc::device_tlb(&DevTlb::new(0, 0, 32), NO_PASID, Span::ALL);
        assert_eq!(deep.0[0], 3);
    }
}
