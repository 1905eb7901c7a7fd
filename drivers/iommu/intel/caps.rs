// SPDX-License-Identifier: GPL-2.0-only

//! What a remapping unit can do, as its capability registers say (sections 11.4.2 and 11.4.3).
//!
//! Only the fields that this crate decides by are named.

use kernel::bitfield;

bitfield! {
    /// Capability Register.
    pub(crate) struct Cap(u64) {
        /// FS5LP: first-stage tables may have five levels.
        60:60 first_stage_5_level;
        /// FS1GP: first-stage tables may map pages of 1 GiB.
        56:56 first_stage_1gib;
        /// DRD: IOTLB invalidations can drain reads.
        55:55 read_drain;
        /// DWD: IOTLB invalidations can drain writes.
        54:54 write_drain;
        /// MAMV: the largest address mask of a page-selective IOTLB invalidation.
        53:48 max_address_mask;
        /// PSI: IOTLB invalidations can be page-selective.
        39:39 page_selective;
        /// SSLPS, bit 1: second-stage tables may map pages of 1 GiB.
        35:35 second_stage_1gib;
        /// SSLPS, bit 0: and of 2 MiB.
        34:34 second_stage_2mib;
        /// MGAW: bits of an input address of the second stage, less one.
        21:16 max_guest_width;
        /// SAGAW, bits 1 to 3: second-stage tables may have 3, 4 and 5 levels.
        11:9 second_stage_levels;
        /// CM: entries that are not present may be cached.
        7:7 caching_mode;
        /// RWBF: the write buffer is to be flushed when something was mapped.
        4:4 write_buffer;
        /// ND: the unit tells 2^(2 ND + 4) domain-ids apart.
        2:0 domains;
    }
}

bitfield! {
    /// Extended Capability Register.
    pub(crate) struct Ecap(u64) {
        /// SMPWCS: page walks of second-stage tables can be coherent.
        48:48 walk_coherent;
        /// FSTS: first-stage translation.
        47:47 first_stage;
        /// SSTS: second-stage translation.
        46:46 second_stage;
        /// SSADS: accessed and dirty flags in second-stage tables.
        45:45 second_stage_dirty;
        /// SMTS: scalable mode.
        43:43 scalable;
        /// EAFS: the extended-accessed flag.
        34:34 extended_accessed;
        /// SRS: supervisor requests.
        31:31 supervisor;
        /// NEST: a first stage on a second one.
        26:26 nested;
        /// SC: snooping can be forced.
        7:7 snoop_control;
        /// C: the hardware snoops the processors' caches when it reads root, context and PASID
        /// structures.
        0:0 coherent;
    }
}

/// The capabilities of one remapping unit.
#[derive(Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) cap: Cap,
    pub(crate) ecap: Ecap,
}

impl Caps {
    /// Wraps the values of the two registers.
    pub(crate) const fn new(cap: u64, ecap: u64) -> Self {
        Self {
            cap: Cap::from_raw(cap),
            ecap: Ecap::from_raw(ecap),
        }
    }

    /// Whether absent entries may be cached, so that making one present needs invalidations
    /// (section 6.1).
    pub(crate) fn caching_mode(&self) -> bool {
        self.cap.caching_mode().into_bool()
    }

    /// Bits of an input address of the second stage.
    pub(crate) fn guest_width(&self) -> u32 {
        u32::from(u8::from(self.cap.max_guest_width())) + 1
    }

    /// Whether it can have this domain-id in use.
    pub(crate) fn has_domain_id(&self, did: u16) -> bool {
        let bits = u32::from(u8::from(self.cap.domains())) * 2 + 4;
        u32::from(did) < 1 << bits
    }

    /// Whether the unit reads its structures through the processors' caches.
    pub(crate) fn coherent(&self) -> bool {
        self.ecap.coherent().into_bool()
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kernel::macros::kunit_tests(vtd_caps)]
mod tests {
    use super::*;

    #[test]
    fn domain_ids() {
        // (ND, the last domain-id)
        for (nd, last) in [(0, 15), (2, 255), (4, 4095), (6, u16::MAX)] {
            let caps = Caps::new(nd, 0);
            assert!(caps.has_domain_id(0) && caps.has_domain_id(last));
            if let Some(next) = last.checked_add(1) {
                assert!(!caps.has_domain_id(next));
            }
        }
    }
}
