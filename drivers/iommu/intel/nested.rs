// SPDX-License-Identifier: GPL-2.0-only

//! Nested translation: a user's first stage on a second stage of the kernel's.
//!
//! User API: `struct iommu_hwpt_vtd_s1` and `struct iommu_hwpt_vtd_s1_invalidate`.

use kernel::{
    prelude::*,
    types::ScopeGuard, //
};

use crate::{
    cache, entries,
    ffi::{
        device::Device,
        domain::{
            Domain,
            Replaced, //
        },
        user::Requests, //
    },
    range::Range,
};

/// PASID of requests that have none (`IOMMU_NO_PASID`).
const NO_PASID: u32 = 0;

/// Attaches a device to a nested domain, whatever it was attached to before.
///
/// # Errors
///
/// `EINVAL` when the parent does not suit the unit or the unit cannot do what the user asks,
/// with the device attached as it was; `ENOMEM`, `ENOSPC` when domain-ids are used up, those of
/// page-request set-up and of the invalidation queue, with the device blocked.
pub(crate) fn attach(domain: &Domain<'_>, dev: &Device<'_>) -> Result {
    domain.parent().compatible(dev).inspect_err(|_| {
        dev.complain(c"s2 domain is not compatible");
    })?;
    let user = entries::check_nested(dev, domain)?;
    dev.block_translation();
    let unit = dev.unit();
    domain.attach_unit(&unit).inspect_err(|_| {
        dev.complain(c"failed to attach domain to iommu");
    })?;
    let id = ScopeGuard::new(|| domain.detach_unit(&unit));
    cache::assign_domain(domain, dev, NO_PASID)?;
    let tags = ScopeGuard::new(|| cache::unassign_domain(domain, dev, NO_PASID));
    domain.set_iopf(dev)?;
    let iopf = ScopeGuard::new(|| domain.remove_iopf(dev));
    entries::set_up_nested(&unit, dev, domain, &user, NO_PASID, || domain.list(dev))?;
    iopf.dismiss();
    tags.dismiss();
    id.dismiss();
    Ok(())
}

/// Attaches a PASID of a device to a nested domain in place of `old`, if any.
///
/// # Errors
///
/// `EOPNOTSUPP` where there are no PASIDs, `EBUSY` while the device uses the tables of a crashed
/// kernel, and those of [`attach`]. The PASID is then attached to nothing.
pub(crate) fn set_pasid(
    domain: &Domain<'_>,
    dev: &Device<'_>,
    pasid: u32,
    old: Option<Replaced<'_>>,
) -> Result {
    let unit = dev.unit();
    let is = dev.snapshot();
    if !unit.pasid_supported() || dev.real_dma_subdevice() {
        return Err(EOPNOTSUPP);
    }
    if unit.context_copied(is.bus, is.devfn) {
        return Err(EBUSY);
    }
    domain.parent().compatible(dev)?;
    let user = entries::check_nested(dev, domain)?;
    domain.add_pasid(dev, pasid)?;
    let listed = ScopeGuard::new(|| domain.remove_pasid(dev, pasid));
    domain.replace_iopf(old, dev)?;
    let iopf = ScopeGuard::new(|| domain.restore_iopf(old, dev));
    if old.is_some() && entries::tear_down(&unit, dev, pasid, false).is_err() {
        dev.complain(c"PASID entry: invalidation failed");
    }
    entries::set_up_nested(&unit, dev, domain, &user, pasid, || ())?;
    iopf.dismiss();
    listed.dismiss();
    if let Some(old) = old {
        old.remove_pasid(dev, pasid);
    }
    Ok(())
}

/// Ranges gathered before a submission.
const GATHERED: usize = 16;

/// Ranges of consecutive entries of a user's array.
///
/// # Invariants
///
/// `len <= GATHERED`.
struct Gathered {
    ranges: [Range; GATHERED],
    len: usize,
    /// Entries of the array whose ranges are in.
    entries: u32,
}

impl Gathered {
    fn new() -> Self {
        // INVARIANT: 0 fits.
        Self {
            ranges: [Range::NOTHING; GATHERED],
            len: 0,
            entries: 0,
        }
    }

    /// Takes the range of one more entry in, or gives back that there is no room.
    fn add(&mut self, range: Option<Range>) -> Result<(), Option<Range>> {
        if let Some(range) = range {
            let last = self.len.checked_sub(1);
            let merged = last.and_then(|n| self.ranges.get(n)?.merge(range));
            if let (Some(n), Some(merged)) = (last, merged) {
                self.ranges[n] = merged;
            } else if let Some(slot) = self.ranges.get_mut(self.len) {
                *slot = range;
                // INVARIANT: there was a slot.
                self.len += 1;
            } else {
                return Err(Some(range));
            }
        }
        self.entries += 1;
        Ok(())
    }

    /// Invalidates what was gathered, and says for how many entries that was.
    fn flush(&mut self, domain: &Domain<'_>) -> Result<u32> {
        // PANIC: `len <= GATHERED` by the invariant.
        let ranges = &self.ranges[..self.len];
        if !ranges.is_empty() {
            cache::flush_ranges(domain, ranges)?;
        }
        let entries = self.entries;
        *self = Self::new();
        Ok(entries)
    }
}

/// Invalidates what a user's array asks for. Adjacent entries become one range, and up to
/// [`GATHERED`] ranges one submission.
///
/// Returns for how many entries the caches are clean, and whether that is all of them: an entry
/// that is wrong ends the array, those before it count.
///
/// # Errors
///
/// `EFAULT` and `EINVAL` for what cannot be read, `EOPNOTSUPP` for unknown flags and reserved
/// bits, `EINVAL` for ranges that [`Range::from_user`] refuses, those of the invalidation queue.
pub(crate) fn invalidate(domain: &Domain<'_>, requests: &Requests<'_>) -> (u32, Result) {
    let mut done = 0;
    let mut gathered = Gathered::new();
    let mut result = Ok(());
    for index in 0..requests.len() {
        match requests.range(index) {
            Ok(range) => {
                if let Err(range) = gathered.add(range) {
                    match gathered.flush(domain) {
                        Ok(entries) => done += entries,
                        Err(e) => return (done, Err(e)),
                    }
                    // There is room now.
                    let _ = gathered.add(range);
                }
            }
            Err(e) => {
                result = Err(e);
                break;
            }
        }
    }
    match gathered.flush(domain) {
        Ok(entries) => (done + entries, result),
        Err(e) => (done, Err(e)),
    }
}

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_nested)]
mod tests {
    use super::*;

    fn page(n: u64) -> Result<Option<Range>> {
        Range::from_user(n << 12, 1, true)
    }

    #[test]
    fn neighbours_become_one() -> Result {
        let mut gathered = Gathered::new();
        for n in 0..1000 {
            assert!(gathered.add(page(n)?).is_ok());
        }
        assert_eq!(gathered.len, 1);
        assert_eq!(gathered.entries, 1000);
        // An entry of no pages counts and takes no room.
        assert!(gathered.add(None).is_ok());
        assert_eq!(gathered.len, 1);
        assert_eq!(gathered.entries, 1001);
        Ok(())
    }

    #[test]
    fn room_ends() -> Result {
        let mut gathered = Gathered::new();
        for n in 0..GATHERED as u64 {
            assert!(gathered.add(page(2 * n)?).is_ok());
        }
        let over = page(1 << 20)?;
        assert!(gathered.add(over) == Err(over));
        assert_eq!(gathered.entries as usize, GATHERED);
        // The last one can still grow.
        assert!(gathered.add(page(2 * GATHERED as u64 - 1)?).is_ok());
        Ok(())
    }
}
