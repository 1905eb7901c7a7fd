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
            Served, //
        },
        user_data::{
            Handled,
            UserData,
            UserDataArray,
            UserStruct, //
        }, //
    },
    prelude::*,
    sync::Arc, //
};

use crate::{
    attach::{
        self,
        Target, //
    },
    cache,
    entries,
    ffi::{
        device::Device,
        domain::NestedDomain,
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
        supported(dev.unit().abilities().nests(), flags, data.data_type())?;
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

    /// What to attach a device to. The mutex of its group is held.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the unit cannot do what the user asks, or is not that of the vIOMMU.
    fn target<'a>(domain: &'a OfCore<Self>, dev: &Device<'_>) -> Result<Target<'a>> {
        let of_driver = NestedDomain::of(domain);
        let stage = match &**domain {
            Self::OnParent(asked) => {
                entries::check_nested(dev, &of_driver.parent().table(), asked)?
            }
            Self::OnViommu(stage) => stage.stage_for(dev)?,
        };
        Ok(Target::Nested(of_driver, stage))
    }
}

/// Whether there are such nested domains on a unit that `nests`, or does not.
///
/// # Errors
///
/// `EOPNOTSUPP`: there are none.
fn supported(nests: bool, flags: AllocFlags, data_type: u32) -> Result {
    flags.only(AllocFlags::PASID)?;
    if !nests || data_type != HwptVtdS1::TYPE {
        return Err(EOPNOTSUPP);
    }
    Ok(())
}

#[vtable]
impl DomainOps for Nested {
    type Head = NestedHead;

    fn table() -> &'static DomainTable<Self> {
        &NESTED
    }

    fn attach_dev(domain: &OfCore<Self>, dev: &Served, _old: Option<&AnyDomain>) -> Result {
        let dev = Device::of(dev)?;
        attach::device(&dev, &Self::target(domain, &dev)?)
    }

    fn set_dev_pasid(
        domain: &OfCore<Self>,
        dev: &Served,
        pasid: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        let dev = Device::of(dev)?;
        attach::pasid(&dev, pasid, &Self::target(domain, &dev)?, old)
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

#[cfg(CONFIG_INTEL_IOMMU_RUST_KUNIT_TEST)]
#[kunit_tests(vtd_nested)]
mod tests {
    use super::*;

    /// Each combination of flags and types of data, and some that there are not.
    #[test]
    fn flags_and_types() {
        const PASID: u32 = 1 << 3;
        assert!(AllocFlags::from_raw(PASID) == AllocFlags::PASID);
        let known = |data_type, raw| data_type == HwptVtdS1::TYPE && raw & !PASID == 0;
        for data_type in 0..8 {
            // Those of the user API, and one that there is not.
            for raw in 0..1 << 5 {
                let flags = AllocFlags::from_raw(raw);
                let want = known(data_type, raw).then_some(()).ok_or(EOPNOTSUPP);
                assert_eq!(supported(true, flags, data_type), want);
                assert_eq!(supported(false, flags, data_type), Err(EOPNOTSUPP));
                for bit in 5..32 {
                    let unknown = flags.or(AllocFlags::from_raw(1 << bit));
                    assert_eq!(supported(true, unknown, data_type), Err(EOPNOTSUPP));
                }
            }
        }
    }
}
