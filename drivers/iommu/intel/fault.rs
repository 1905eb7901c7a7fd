// SPDX-License-Identifier: GPL-2.0-only

//! Fault records, and which of them are a guest's business.
//!
//! User API: `struct iommu_vtd_fault`. Nothing here has a side effect.

use kernel::bitfield;

use crate::invalidate::{
    Pasid,
    NO_PASID, //
};

bitfield! {
    /// Fault Recording Register (11.4.7.6), high word.
    struct High(u64) {
        /// PV: the PASID of the request.
        59:40 pasid;
        /// FR: the reason (table 30).
        39:32 reason;
        /// PP: it had one.
        31:31 pasid_present;
        /// SID: the source-id of who was refused.
        15:0 sid;
    }
}

/// What a unit has recorded of a fault, as it lies there.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    low: u64,
    high: High,
}

impl Record {
    /// From both words.
    pub(crate) fn new(low: u64, high: u64) -> Self {
        Self {
            low,
            high: High::from_raw(high),
        }
    }

    /// Who was refused.
    pub(crate) fn sid(&self) -> u16 {
        self.high.sid().into()
    }

    /// The PASID whose entry the request went by.
    pub(crate) fn pasid(&self) -> Pasid {
        if self.high.pasid_present().into_bool() {
            self.high.pasid()
        } else {
            NO_PASID
        }
    }

    /// Both words, for a guest that knows the device by another source-id. The address is one that
    /// the device has used.
    pub(crate) fn words_for(&self, sid: u16) -> [u64; 2] {
        [self.low, self.high.with_sid(sid).into_raw()]
    }

    /// Whether it is for the guest whose device this was, for the cause can be in what the guest
    /// wrote: its first-stage tables, or a PASID-table entry that it has not. All else is the
    /// kernel's own: a second stage, context entries, interrupts. So are reasons that nobody knows.
    pub(crate) fn is_for_guest(&self) -> bool {
        match u8::from(self.high.reason()) {
            // No PASID-directory or PASID-table entry.
            0x51 | 0x59 => true,
            // A request to execute, or by the supervisor, that the entry does not allow.
            0x5c | 0x5d => true,
            // First-stage entries: not readable, absent, with reserved bits or beyond the second
            // stage; 75h to 77h: the second stage refuses the table.
            0x70..=0x77 => true,
            // An address that is not canonical, or the supervisor's.
            0x80 | 0x81 => true,
            // No right to write: either stage's. To read is what a first stage always allows.
            0x85 => true,
            // A page where interrupts are.
            0x87 => true,
            // Accessed and dirty flags of a first stage.
            0x90 | 0x91 => true,
            _ => false,
        }
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kernel::macros::kunit_tests(vtd_fault)]
mod tests {
    use super::*;

    /// All reasons; a bit for each in the order of their numbers, from 0 in each row of 16.
    #[test]
    fn reasons() {
        let rows = |row| match row {
            // SPD.2, SPT.2, SPT.5, SPT.6
            0x5 => 0x3202,
            // SFS.1 to SFS.8
            0x7 => 0x00ff,
            // SGN.1, SGN.2, SGN.6, SGN.8
            0x8 => 0x00a3,
            // SFS.9, SFS.10
            0x9 => 0x0003,
            _ => 0u32,
        };
        for reason in 0..=0xffu64 {
            // Every other bit is set, to see that none of them counts.
            let record = Record::new(u64::MAX, !(0xff << 32) | reason << 32);
            let want = rows(reason >> 4) >> (reason & 0xf) & 1;
            assert_eq!(u32::from(record.is_for_guest()), want);
        }
    }

    /// Of what the guest is told the source-id is its own, and all else as it was.
    #[test]
    fn words() {
        let record = Record::new(0x0123_4567_89ab_c000, 0xc0fe_dcba_9876_4321);
        assert_eq!(record.sid(), 0x4321);
        assert!(record.pasid().get() == 0xfedc);
        let want = [0x0123_4567_89ab_c000, 0xc0fe_dcba_9876_beef];
        assert_eq!(record.words_for(0xbeef), want);
        // Without PP there is none.
        let record = Record::new(0, !(1 << 31));
        assert!(record.pasid() == NO_PASID);
        let record = Record::new(0, 0);
        assert_eq!(record.words_for(0xffff), [0, 0xffff]);
    }
}
