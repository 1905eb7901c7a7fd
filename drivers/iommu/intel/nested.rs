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

/// Ranges of a submission.
pub(crate) const RANGES: usize = 16;

/// What the entries of a user's array ask for, in at most [`RANGES`] ranges.
///
/// # Invariants
///
/// `len <= RANGES`.
pub(crate) struct Gathered {
    ranges: [Range; RANGES],
    len: usize,
    entries: u32,
}

impl Gathered {
    /// Nothing.
    pub(crate) fn new() -> Self {
        // INVARIANT: 0 fits.
        Self {
            ranges: [Range::NOTHING; RANGES],
            len: 0,
            entries: 0,
        }
    }

    /// Entries that are in.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// What they ask for, and perhaps more.
    pub(crate) fn ranges(&self) -> &[Range] {
        // PANIC: `len <= RANGES` by the invariant.
        &self.ranges[..self.len]
    }

    /// Takes the range of one more entry in: into that of the entry before, if they overlap or
    /// touch. Where there is no room, each two neighbours become one range with what is between
    /// them. To invalidate too much is allowed; to wait again and again costs more.
    pub(crate) fn add(&mut self, range: Option<Range>) {
        self.entries += 1;
        let Some(range) = range else {
            return;
        };
        // PANIC: `len <= RANGES` by the invariant.
        if let Some(last) = self.ranges[..self.len].last_mut() {
            if let Some(merged) = last.merge(range) {
                *last = merged;
                return;
            }
        }
        if self.len == RANGES {
            self.join();
        }
        // PANIC: there is room now.
        self.ranges[self.len] = range;
        // INVARIANT: there was room.
        self.len += 1;
    }

    fn join(&mut self) {
        for n in 0..RANGES / 2 {
            // PANIC: both are below `RANGES`.
            self.ranges[n] = self.ranges[2 * n].hull(self.ranges[2 * n + 1]);
        }
        // INVARIANT: less than `RANGES`.
        self.len = RANGES / 2;
    }
}

/// Invalidates what a user's array asks for: all of it is read and checked, then submitted once.
///
/// Returns for how many entries the caches are clean, and whether that is all of them: an entry
/// that is wrong ends the array, those before it count. When the hardware fails none does.
///
/// # Errors
///
/// `EFAULT` and `EINVAL` for what cannot be read, `EOPNOTSUPP` for unknown flags and reserved
/// bits, `EINVAL` for ranges that [`Range::from_user`] refuses, those of the invalidation queue.
pub(crate) fn invalidate(domain: &Domain<'_>, requests: &Requests<'_>) -> (u32, Result) {
    let mut gathered = Gathered::new();
    let mut result = Ok(());
    for index in 0..requests.len() {
        match requests.range(index) {
            Ok(range) => gathered.add(range),
            Err(e) => {
                result = Err(e);
                break;
            }
        }
    }
    if !gathered.ranges().is_empty() {
        if let Err(e) = cache::flush_ranges(domain, gathered.ranges()) {
            return (0, Err(e));
        }
    }
    (gathered.entries(), result)
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
            gathered.add(page(n)?);
        }
        assert_eq!(gathered.ranges().len(), 1);
        assert_eq!(gathered.entries(), 1000);
        // An entry of no pages counts and takes no room.
        gathered.add(None);
        assert_eq!(gathered.ranges().len(), 1);
        assert_eq!(gathered.entries(), 1001);
        Ok(())
    }

    #[test]
    fn room_ends() -> Result {
        let mut gathered = Gathered::new();
        let count = RANGES as u64;
        for n in 0..count {
            gathered.add(page(2 * n)?);
            assert_eq!(gathered.ranges().len() as u64, n + 1);
        }
        // The last one can still grow.
        gathered.add(page(2 * count - 1)?);
        assert_eq!(gathered.ranges().len(), RANGES);
        // One more: pairs are joined, and the new one is by itself.
        gathered.add(page(1 << 20)?);
        assert_eq!(gathered.ranges().len(), RANGES / 2 + 1);
        assert!(gathered.ranges()[0].ends() == (0, 0x2fff));
        assert!(gathered.ranges()[1].ends() == (0x4000, 0x6fff));
        assert!(gathered.ranges()[RANGES / 2].ends() == (1 << 32, (1 << 32) + 0xfff));
        assert_eq!(gathered.entries() as usize, RANGES + 2);
        Ok(())
    }
}
