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
        user::{
            HwptVtdS1,
            HwptVtdS1Invalidate,
            NestedConfig,
            NestedHead,
            Parent, //
        },
        viommu::Did, //
    },
    gather::Gathered,
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
        let read = requests.each(|request| range(request).map(|range| gathered.add(range)));
        if !gathered.ranges().is_empty() {
            if let Err(e) = cache::flush_ranges(&NestedDomain::of(domain), gathered.ranges()) {
                return Handled::failed(0, e);
            }
        }
        read
    }
}

/// The range that an entry of a user's array asks for.
///
/// # Errors
///
/// `EOPNOTSUPP` for unknown flags and reserved bits, those of [`Range::from_user`].
fn range(request: HwptVtdS1Invalidate) -> Result<Option<Range>> {
    if request.flags & !HwptVtdS1Invalidate::LEAF != 0 || request.__reserved != 0 {
        return Err(EOPNOTSUPP);
    }
    let leaf = request.flags & HwptVtdS1Invalidate::LEAF != 0;
    Range::from_user(request.addr, request.npages, leaf)
}
