// SPDX-License-Identifier: GPL-2.0-only

//! vIOMMUs of the mock: nested domains on them, the caches of their devices, and hardware queues
//! that depend on each other in a row.

use super::{
    device,
    nested::Nested,
    uapi::{
        self,
        ViommuData,
        ViommuInvalidate, //
    },
};
use crate::ffi::selftest::object::{
    QueueDependency,
    QueueExt, //
};
use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Owned, //
        },
        ops::AllocFlags,
        pages::ContiguousPages,
        user_data::{
            Handled,
            UserData,
            UserDataArray, //
        },
        viommu::{
            Hold,
            NewHwQueue,
            NewViommu,
            Viommu,
            ViommuOps,
            ViommuTable, //
        },
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Mutex, //
    },
};

/// How much of it user space can map, in bytes.
const MAPPED: usize = 2 * PAGE_SIZE;

/// How many there are.
static COUNT: Atomic<u32> = Atomic::new(0);

/// Whether there are any.
pub(crate) fn in_use() -> bool {
    COUNT.load(Relaxed) != 0
}

/// Counts a vIOMMU as long as it is there.
struct Counted;

impl Counted {
    fn new() -> Self {
        COUNT.fetch_add(1, Relaxed);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Relaxed);
    }
}

/// A vIOMMU.
#[pin_data]
pub(crate) struct MockViommu {
    /// The ids of the hardware queues that are in use, by their index.
    #[pin]
    queues: Mutex<[Option<u32>; uapi::HW_QUEUES]>,
    _counted: Counted,
}

static VIOMMU: ViommuTable<MockViommu> = ViommuTable::new();

/// A hardware queue. All but the first keep the one before them alive.
pub(crate) struct HwQueue {
    viommu: Hold<MockViommu>,
    index: usize,
    _previous: Option<QueueDependency>,
}

impl Drop for HwQueue {
    fn drop(&mut self) {
        if let Some(slot) = self.viommu.queues.lock().get_mut(self.index) {
            *slot = None;
        }
    }
}

/// Lets user space map two pages, and answers with the number that it sent in both.
fn loopback(viommu: &NewViommu<'_, MockViommu>, data: &UserData) -> Result {
    let mut request: ViommuData = data.read()?;
    let mut pages = ContiguousPages::new(MAPPED)?;
    pages.set_first(request.in_data);
    request.out_mmap_offset = viommu.map_pages(pages)?;
    request.out_mmap_length = MAPPED as u64;
    request.out_data = request.in_data;
    data.write(&request)
}

fn invalidate(viommu: &Viommu<MockViommu>, request: &ViommuInvalidate) -> Result {
    // What is wrong with the request comes before what is wrong with the device. (An entry that
    // is none is `EINVAL`, as no device is.)
    if request.flags & !uapi::INVALIDATE_ALL != 0 {
        return Err(EOPNOTSUPP);
    }
    viommu
        .with_vdev(request.vdev_id.into(), |dev| {
            device::of(dev)?.invalidate(request.flags, request.cache_id)
        })
        .unwrap_or(Err(EINVAL))
}

#[vtable]
impl ViommuOps for MockViommu {
    type Nested = Nested;
    type HwQueue = HwQueue;

    fn table() -> &'static ViommuTable<Self> {
        &VIOMMU
    }

    fn new(
        viommu: &NewViommu<'_, Self>,
        _parent: &AnyDomain,
        data: Option<&UserData>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            queues <- new_mutex!([None; uapi::HW_QUEUES]),
            _counted: {
                if let Some(data) = data {
                    loopback(viommu, data)?;
                }
                Counted::new()
            },
        })
    }

    fn alloc_domain_nested(
        viommu: &Viommu<Self>,
        flags: AllocFlags,
        data: &UserData,
    ) -> Result<Owned<Nested>> {
        flags.only(AllocFlags::PASID)?;
        Nested::alloc(data, Some(viommu.hold()))
    }

    fn cache_invalidate(viommu: &Viommu<Self>, requests: &UserDataArray) -> Handled {
        let all: KVVec<ViommuInvalidate> = match requests.read_all() {
            Ok(all) => all,
            Err(why) => return Handled::failed(0, why),
        };
        for (done, request) in (0..).zip(&all) {
            if let Err(why) = invalidate(viommu, request) {
                return Handled::failed(done, why);
            }
        }
        Handled::all(requests.len())
    }

    fn has_hw_queue(_viommu: &Viommu<Self>, kind: u32) -> bool {
        kind == uapi::HW_QUEUE_TYPE_SELFTEST
    }

    fn new_hw_queue(queue: &NewHwQueue<'_, Self>, index: u32, base: u64) -> Result<HwQueue> {
        let viommu = queue.viommu();
        let index = index as usize;
        let mut ids = viommu.queues.lock();
        if ids.get(index).ok_or(EINVAL)?.is_some() {
            return Err(EEXIST);
        }
        let previous = match index.checked_sub(1).and_then(|before| ids.get(before)) {
            Some(before) => Some(before.ok_or(EIO)?),
            None => None,
        };
        // The core must have translated it as the page table does.
        if base != queue.phys() {
            return Err(EFAULT);
        }
        let previous = match previous {
            Some(id) => Some(queue.depend_on(id).map_err(|_| EIO)?),
            None => None,
        };
        if let Some(slot) = ids.get_mut(index) {
            *slot = Some(queue.id());
        }
        Ok(HwQueue {
            viommu: viommu.hold(),
            index,
            _previous: previous,
        })
    }
}
