// SPDX-License-Identifier: GPL-2.0-only

//! Nested translation: a user's first stage on a second stage of the kernel's.
//!
//! User API: `struct iommu_hwpt_vtd_s1` and `struct iommu_hwpt_vtd_s1_invalidate`; for what is on a
//! vIOMMU `struct iommu_vtd_pasid_entry`.

use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Domain as OfCore,
            Kind,
            Owned, //
        },
        ops::{
            AllocFlags,
            DomainOps,
            DomainTable,
            Pasid,
            Served,
            NO_PASID, //
        },
        user_data::{
            Handled,
            UserData,
            UserDataArray,
            UserStruct, //
        }, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    types::ScopeGuard, //
};

use crate::{
    cache,
    entries,
    ffi::{
        device::Device,
        domain::{
            NestedDomain,
            Replaced, //
        },
        stack::Stack,
        user::{
            HwptVtdS1,
            HwptVtdS1Invalidate,
            NestedConfig,
            NestedHead,
            Parent, //
        },
        viommu::Did, //
    },
    pasid_entry::UserStage,
    range::Range,
    viommu::GuestStage, //
};

/// A nested domain: what its user described.
pub(crate) enum Nested {
    /// On a parent.
    OnParent(HwptVtdS1),
    /// On a vIOMMU.
    OnViommu(GuestStage),
}

static NESTED: DomainTable<Nested> = DomainTable::new();

impl Nested {
    /// Makes one, or says why not. `parent` is missing if what user space named cannot be one.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where units do not nest and for other flags and data; `EINVAL` for a parent
    /// that is none, and for a table that another domain of the parent's has in another mode;
    /// `EINVAL` and `EFAULT` for what cannot be read; `ENOMEM`.
    pub(crate) fn alloc(
        dev: &Device<'_>,
        parent: Option<Parent>,
        flags: AllocFlags,
        data: &UserData,
    ) -> Result<Owned<Self>> {
        if !dev.unit().nested_supported() {
            return Err(EOPNOTSUPP);
        }
        flags.only(AllocFlags::PASID)?;
        if data.data_type() != HwptVtdS1::TYPE {
            return Err(EOPNOTSUPP);
        }
        let parent = parent.ok_or(EINVAL)?;
        let asked = data.read()?;
        let config = NestedConfig {
            parent,
            asked,
            did: None,
        };
        Owned::new(
            Kind::Nested,
            &config,
            Self::OnParent(asked),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Makes one on a vIOMMU that is on `parent`, with the domain-id that `stage` keeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a table that another domain of the parent's has in another mode; `ENOMEM`.
    pub(crate) fn of_guest(
        parent: Parent,
        did: Arc<Did>,
        stage: GuestStage,
    ) -> Result<Owned<Self>> {
        let config = NestedConfig {
            parent,
            asked: HwptVtdS1::of(stage.stage()),
            did: Some(did),
        };
        Owned::new(
            Kind::Nested,
            &config,
            Self::OnViommu(stage),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The first stage that is to be in an entry of a device's. The mutex of its group is held.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the unit cannot do what the user asks, or is not that of the vIOMMU.
    fn stage_for(&self, domain: &NestedDomain<'_>, dev: &Device<'_>) -> Result<UserStage> {
        match self {
            Self::OnParent(asked) => entries::check_nested(dev, &domain.parent(), asked),
            Self::OnViommu(stage) => stage.stage_for(dev),
        }
    }

    /// Attaches a device to a nested domain, whatever it was attached to before. The mutex of its
    /// group is held. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENODEV` for a device that does its DMA in another's name, `EINVAL` when the parent does not
    /// suit the unit or the unit cannot do what the user asks; `ENOMEM`, `ENOSPC` when domain-ids
    /// are used up, those of page-request set-up: with the device attached as it was. Those of the
    /// invalidation queue: with the device blocked.
    fn attach<'a>(
        &self,
        domain: &NestedDomain<'a>,
        dev: &Device<'a>,
        old: Option<Replaced<'_>>,
    ) -> Result {
        if dev.real_dma_subdevice() {
            return Err(ENODEV);
        }
        domain.parent().compatible(dev).inspect_err(|_| {
            dev.complain(c"s2 domain is not compatible");
        })?;
        let user = self.stage_for(domain, dev)?;
        let on_unit = domain.attach_unit(dev).inspect_err(|_| {
            dev.complain(c"failed to attach domain to iommu");
        })?;
        cache::assign_domain(&on_unit.as_any(), dev, NO_PASID)?;
        let tags = ScopeGuard::new(|| cache::unassign_domain(&on_unit.as_any(), dev, NO_PASID));
        domain.set_iopf(dev)?;
        let iopf = ScopeGuard::new(|| domain.remove_iopf(dev));
        dev.block_translation();
        entries::set_up_nested(dev, &on_unit, &user, NO_PASID, || {
            domain.list(dev);
        })?;
        iopf.dismiss();
        tags.dismiss();
        on_unit.keep();
        if let Some(old) = old {
            old.remove_iopf(dev);
        }
        Ok(())
    }

    /// Attaches a PASID of a device to a nested domain in place of `old`, if any. The mutex of the
    /// device's group is held. Sleeps.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where there are no PASIDs, `EBUSY` while the device uses the tables of a
    /// crashed kernel, and those of [`Self::attach`]. After those of the invalidation queue the
    /// PASID is attached to nothing.
    fn attach_pasid<'a>(
        &self,
        domain: &NestedDomain<'a>,
        dev: &Device<'a>,
        pasid: Pasid,
        old: Option<Replaced<'_>>,
    ) -> Result {
        let unit = dev.unit();
        if !unit.pasid_supported() || dev.real_dma_subdevice() {
            return Err(EOPNOTSUPP);
        }
        if dev.inherited() {
            return Err(EBUSY);
        }
        domain.parent().compatible(dev)?;
        let user = self.stage_for(domain, dev)?;
        let listed = domain.add_pasid(dev, pasid)?;
        // Page requests end with the old entry, and are drained while there is a queue for them.
        domain.set_iopf(dev)?;
        let iopf = ScopeGuard::new(|| domain.remove_iopf(dev));
        if old.is_some() && entries::tear_down(dev, pasid, false).is_err() {
            dev.complain(c"PASID entry: invalidation failed");
        }
        entries::set_up_nested(dev, &listed, &user, pasid, || ())?;
        iopf.dismiss();
        listed.keep();
        if let Some(old) = old {
            old.remove_iopf(dev);
            old.remove_pasid(dev, pasid);
        }
        Ok(())
    }
}

#[vtable]
impl DomainOps for Nested {
    type Head = NestedHead;

    fn table() -> &'static DomainTable<Self> {
        &NESTED
    }

    fn attach_dev(domain: &OfCore<Self>, dev: &Served, old: Option<&AnyDomain>) -> Result {
        let (ours, old) = (Device::of(dev)?, old.map(Replaced::of).transpose()?);
        domain.attach(&NestedDomain::of(domain), &ours, old)
    }

    fn set_dev_pasid(
        domain: &OfCore<Self>,
        dev: &Served,
        pasid: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        let (ours, old) = (Device::of(dev)?, old.map(Replaced::of).transpose()?);
        domain.attach_pasid(&NestedDomain::of(domain), &ours, pasid, old)
    }

    /// All of the array is read and checked, then submitted once. An entry that is wrong ends the
    /// array, those before it count; when the hardware fails none does.
    fn cache_invalidate_user(domain: &OfCore<Self>, requests: &UserDataArray) -> Handled {
        let mut gathered = Gathered::new();
        let read = requests.each(|request| gathered.add_request(request));
        if !gathered.ranges().is_empty() {
            if let Err(e) = cache::flush_ranges(&NestedDomain::of(domain), gathered.ranges()) {
                return Handled::failed(0, e);
            }
        }
        read
    }
}

/// Ranges of a submission.
pub(crate) const RANGES: usize = 16;

/// What the entries of a user's array ask for, in at most [`RANGES`] ranges, whatever their order.
///
/// Where there is no room, ranges that are near to one another become one with what is between
/// them, and stay so for the rest of the array: to invalidate too much is allowed, to wait again
/// and again costs more.
///
/// # Invariants
///
/// The ranges are in the order of their addresses, with more than `gap` bytes between them.
pub(crate) struct Gathered {
    ranges: Stack<Range, RANGES>,
    gap: u64,
}

impl Gathered {
    /// Nothing.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        // INVARIANT: There is none.
        Self {
            ranges: Stack::new(),
            gap: 0,
        }
    }

    /// What they ask for, and perhaps more.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Takes the range of one more entry of a user's in.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for unknown flags and reserved bits, those of [`Range::from_user`].
    fn add_request(&mut self, request: HwptVtdS1Invalidate) -> Result {
        if request.flags & !HwptVtdS1Invalidate::LEAF != 0 || request.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let leaf = request.flags & HwptVtdS1Invalidate::LEAF != 0;
        self.add(Range::from_user(request.addr, request.npages, leaf)?);
        Ok(())
    }

    /// Takes the range of one more entry in.
    pub(crate) fn add(&mut self, range: Option<Range>) {
        let Some(mut range) = range else {
            return;
        };
        // Most arrays go upwards, so the place is looked for from the end.
        let before = |other: &Range| other.ends_before(range, self.gap);
        let at = self.ranges.iter().rposition(before).map_or(0, |n| n + 1);
        let mut end = at;
        while let Some(near) = self
            .ranges
            .get(end)
            .filter(|r| !range.ends_before(**r, self.gap))
        {
            range = range.hull(*near);
            end += 1;
        }
        if end > at {
            // PANIC: `at < end`, and `end` is at most the length.
            self.ranges[at] = range;
            self.ranges.copy_within(end.., at + 1);
            self.ranges.truncate(self.ranges.len() - (end - at - 1));
        } else if self.ranges.push(range).is_ok() {
            // PANIC: It is one longer than it was, and `at` is at most that.
            self.ranges[at..].rotate_right(1);
        } else {
            self.make_room();
            self.add(Some(range));
        }
    }

    /// Makes one of ranges that are near to one another: of as few as there are at the smallest
    /// distance, a power of two, at which there are any.
    fn make_room(&mut self) {
        while self.ranges.len() == RANGES {
            self.gap = self.gap.saturating_mul(2).max(PAGE_SIZE as u64);
            let mut last = 0;
            for n in 1..RANGES {
                // PANIC: `last < n < RANGES`, which is the length.
                let (low, high) = (self.ranges[last], self.ranges[n]);
                if low.ends_before(high, self.gap) {
                    last += 1;
                    self.ranges[last] = high;
                } else {
                    self.ranges[last] = low.hull(high);
                }
            }
            self.ranges.truncate(last + 1);
        }
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
            gathered.add(page(n)?);
        }
        assert_eq!(gathered.ranges().len(), 1);
        // An entry of no pages takes no room.
        gathered.add(None);
        assert_eq!(gathered.ranges().len(), 1);
        Ok(())
    }

    #[test]
    fn room_ends() -> Result {
        let mut gathered = Gathered::new();
        let count = RANGES as u64;
        // Seven pages between any two, but for one and three in one place each.
        let at = |n: u64| 8 * n - 6 * u64::from(n > 3) - 4 * u64::from(n > 9);
        for n in 0..count {
            gathered.add(page(at(n))?);
            assert_eq!(gathered.ranges().len() as u64, n + 1);
        }
        // The last one can still grow.
        gathered.add(page(at(count - 1) + 1)?);
        assert_eq!(gathered.ranges().len(), RANGES);
        // One more: the nearest are joined, and the new one is by itself.
        gathered.add(page(1 << 20)?);
        let got = gathered.ranges();
        assert_eq!(got.len(), RANGES);
        assert!(got[2].ends() == (0x10000, 0x10fff));
        assert!(got[3].ends() == (0x18000, 0x1afff));
        assert!(got[4].ends() == (0x22000, 0x22fff));
        assert!(got[RANGES - 1].ends() == (1 << 32, (1 << 32) + 0xfff));
        // And another: those with three between them.
        gathered.add(page(1 << 21)?);
        let got = gathered.ranges();
        assert_eq!(got.len(), RANGES);
        assert!(got[8].ends() == (0x42000, 0x46fff));
        Ok(())
    }

    /// A page in each second place: one range, whatever their number.
    #[test]
    fn holes_close() -> Result {
        let mut gathered = Gathered::new();
        for n in 0..100_000 {
            gathered.add(page(2 * n)?);
        }
        assert_eq!(gathered.ranges().len(), 1);
        assert!(gathered.ranges()[0].ends() == (0, (199_999 << 12) - 1));
        Ok(())
    }

    /// Entries in any order give the same ranges, and none that nobody asked for while there is
    /// room.
    #[test]
    fn any_order() -> Result {
        // Sixteen pages of four groups, in the order of their distance from a moving point.
        let pages = |n: u64| (n % 4) << 30 | (n / 4) << 1;
        for step in [1, 3, 5, 7, 9, 11, 13, 15] {
            let mut gathered = Gathered::new();
            for n in 0..16 {
                gathered.add(page(pages(n * step % 16))?);
            }
            assert_eq!(gathered.ranges().len(), 16);
            // What is between those of a group: each becomes one.
            for n in 0..16 {
                gathered.add(page(pages(n * step % 16) + 1)?);
            }
            let got = gathered.ranges();
            assert_eq!(got.len(), 4);
            for (n, range) in got.iter().enumerate() {
                let start = (n as u64) << 42;
                assert!(range.ends() == (start, start + 0x7fff));
            }
        }
        Ok(())
    }

    /// Far more entries than room, from both ends in turn: what is named stays near them.
    #[test]
    fn two_groups_stay_two() -> Result {
        let mut gathered = Gathered::new();
        for n in 0..200 {
            gathered.add(page(if n & 1 == 0 { 2 * n } else { (1 << 40) + 2 * n })?);
        }
        assert!(gathered.ranges().len() <= RANGES);
        let far = |range: &Range| range.start() >> 52 != range.last() >> 52;
        assert!(!gathered.ranges().iter().any(far));
        // All of it, and everything is one.
        gathered.add(Range::from_user(0, u64::MAX, false)?);
        assert_eq!(gathered.ranges().len(), 1);
        assert!(gathered.ranges()[0].ends() == (0, u64::MAX));
        gathered.add(page(7)?);
        assert_eq!(gathered.ranges().len(), 1);
        Ok(())
    }
}
