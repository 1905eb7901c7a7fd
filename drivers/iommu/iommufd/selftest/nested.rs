// SPDX-License-Identifier: GPL-2.0-only

//! Domains with a page table that user space manages, with a software IOTLB that it can watch.

use super::{
    device,
    uapi::{
        self,
        HwptData,
        HwptInvalidate, //
    },
    viommu::MockViommu, //
};
use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Bare,
            Domain,
            Kind,
            Owned, //
        },
        ops::{
            DomainOps,
            DomainTable,
            Pasid,
            Served, //
        },
        user_data::{
            Handled,
            UserData,
            UserDataArray, //
        },
        viommu::Hold, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// A nested domain.
pub(crate) struct Nested {
    /// The vIOMMU that it was made on, if on one.
    viommu: Option<Hold<MockViommu>>,
    /// What the hardware would have cached.
    iotlb: [Atomic<u32>; uapi::IOTLB_ENTRIES],
}

static NESTED: DomainTable<Nested> = DomainTable::new();

impl Nested {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the data is of another driver. `EINVAL`, `EFAULT`: see [`UserData::read`].
    pub(super) fn alloc(data: &UserData, viommu: Option<Hold<MockViommu>>) -> Result<Owned<Self>> {
        if data.data_type() != uapi::HWPT_DATA_SELFTEST {
            return Err(EOPNOTSUPP);
        }
        let wanted: HwptData = data.read()?;
        let iotlb = core::array::from_fn(|_| Atomic::new(wanted.iotlb));
        Owned::new(Kind::Nested, &(), Self { viommu, iotlb }, GFP_KERNEL)
    }

    /// The vIOMMU that it was made on.
    pub(super) fn viommu(&self) -> Option<&Hold<MockViommu>> {
        self.viommu.as_ref()
    }

    /// What the hardware has cached in this entry.
    pub(super) fn iotlb(&self, entry: u32) -> Option<u32> {
        self.iotlb
            .get(entry as usize)
            .map(|slot| slot.load(Relaxed))
    }

    fn invalidate(&self, request: HwptInvalidate) -> Result {
        forget(&self.iotlb, request.flags, request.iotlb_id)
    }
}

/// Forgets one entry of a cache, or all.
///
/// # Errors
///
/// `EOPNOTSUPP`: an unknown flag. `EINVAL`: no such entry, even where all are to be forgotten.
pub(super) fn forget(cache: &[Atomic<u32>], flags: u32, entry: u32) -> Result {
    if flags & !uapi::INVALIDATE_ALL != 0 {
        return Err(EOPNOTSUPP);
    }
    let one = cache.get(entry as usize).ok_or(EINVAL)?;
    if flags & uapi::INVALIDATE_ALL != 0 {
        cache.iter().for_each(|slot| slot.store(0, Relaxed));
    } else {
        one.store(0, Relaxed);
    }
    Ok(())
}

#[vtable]
impl DomainOps for Nested {
    type Head = Bare;

    fn table() -> &'static DomainTable<Self> {
        &NESTED
    }

    fn attach_dev(domain: &Domain<Self>, dev: &Served, _old: Option<&AnyDomain>) -> Result {
        device::attach(domain.as_any(), dev)
    }

    fn set_dev_pasid(
        domain: &Domain<Self>,
        dev: &Served,
        pasid: Pasid,
        old: Option<&AnyDomain>,
    ) -> Result {
        device::attach_pasid(domain.as_any(), dev, pasid, old)
    }

    fn cache_invalidate_user(domain: &Domain<Self>, requests: &UserDataArray) -> Handled {
        requests.each(|request| domain.invalidate(request))
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_mock_cache)]
mod tests {
    use super::*;

    fn full() -> [Atomic<u32>; 4] {
        core::array::from_fn(|_| Atomic::new(7))
    }

    fn values(cache: &[Atomic<u32>; 4]) -> [u32; 4] {
        core::array::from_fn(|at| cache[at].load(Relaxed))
    }

    #[test]
    fn forgets_what_it_is_told() {
        // (flags, entry, what is left, result)
        let table = [
            (0, 0, [0, 7, 7, 7], Ok(())),
            (0, 3, [7, 7, 7, 0], Ok(())),
            (0, 4, [7, 7, 7, 7], Err(EINVAL)),
            (0, u32::MAX, [7, 7, 7, 7], Err(EINVAL)),
            (1, 0, [0, 0, 0, 0], Ok(())),
            (1, 4, [7, 7, 7, 7], Err(EINVAL)),
            (2, 0, [7, 7, 7, 7], Err(EOPNOTSUPP)),
            (3, 9, [7, 7, 7, 7], Err(EOPNOTSUPP)),
        ];
        for (flags, entry, left, result) in table {
            let cache = full();
            assert_eq!(forget(&cache, flags, entry), result);
            assert_eq!(values(&cache), left);
        }
    }
}
