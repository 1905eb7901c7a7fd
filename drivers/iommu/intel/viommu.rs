// SPDX-License-Identifier: GPL-2.0-only

//! vIOMMUs: a guest's share of a unit, with names of its own.
//!
//! User API: `include/uapi/linux/iommufd_vtd.h`. A guest's domain-id stands for one of the unit's
//! as long as there is a nested domain that names it. Sharing that is safe: all that is under it is
//! on the same second stage, and a guest that uses a domain-id for two tables with one PASID mixes
//! up no one's caches but its own.
//!
//! The mutex of the domain-ids is a leaf but for `did_lock` of the unit and the queue. It is held
//! while descriptors are translated, and while one that is for all domains is done; never while
//! user memory is copied.

use kernel::{
    iommu::{
        domain::{
            AnyDomain,
            Owned, //
        },
        ops::{
            AllocFlags,
            Served, //
        },
        user_data::{
            Handled,
            UserData,
            UserDataArray,
            UserStruct, //
        },
        viommu::{
            Hold,
            NewViommu,
            Viommu,
            ViommuOps,
            ViommuTable, //
        }, //
    },
    new_mutex,
    prelude::*,
    rbtree::RBTree,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    }, //
};

use crate::{
    cache::{
        self,
        Dids,
        Step, //
    },
    entries,
    fault::Record,
    ffi::{
        device::Device,
        faults::{
            self,
            Named, //
        },
        preempt::pause,
        stack::Stack,
        user::{
            NarrowDesc,
            VtdFault,
            VtdPasidEntry,
            WideDesc,
            MAX_DESCS,
            VIOMMU_TYPE, //
        },
        viommu::{
            Did,
            Share, //
        }, //
    },
    guest::{
        Ask,
        GuestEntry, //
    },
    nested::Nested,
    pasid_entry::UserStage, //
};

/// The most domain-ids of a guest that are in use at a time, where the unit has many.
const MAX_DIDS: usize = 1024;

/// A vIOMMU.
#[pin_data]
pub(crate) struct Vtd {
    share: Share,
    #[pin]
    names: Mutex<Names>,
    /// Which of the unit's overflows the guest knows of.
    overflows: Atomic<u32>,
}

/// A guest's domain-id, and whether the guest invalidates Device-TLBs itself where it is used.
#[derive(Clone, Copy)]
struct Name {
    did: u16,
    ats: bool,
}

/// The guest's domain-ids in use, and what they stand for.
struct Names {
    by_guest: RBTree<u16, Meaning>,
    /// Domain-ids of the unit that these are.
    count: usize,
}

impl Names {
    /// What a guest's domain-id stands for.
    #[inline(always)]
    fn find(&self, did: u16) -> Dids {
        self.by_guest
            .get(&did)
            .map_or(Dids::NONE, |meaning| meaning.dids())
    }

    fn get(&mut self, name: Name) -> Option<&mut Shared> {
        self.by_guest.get_mut(&name.did)?.of(name.ats).as_mut()
    }

    /// Adds one that is not there.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn add(&mut self, name: Name, shared: Shared) -> Result {
        if let Some(meaning) = self.by_guest.get_mut(&name.did) {
            *meaning.of(name.ats) = Some(shared);
        } else {
            let mut meaning = Meaning::default();
            *meaning.of(name.ats) = Some(shared);
            self.by_guest
                .try_create_and_insert(name.did, meaning, GFP_KERNEL_ACCOUNT)?;
        }
        self.count += 1;
        Ok(())
    }

    /// One use less; the last one takes it away.
    fn put(&mut self, name: Name) {
        let Some(meaning) = self.by_guest.get_mut(&name.did) else {
            return;
        };
        let slot = meaning.of(name.ats);
        let Some(shared) = slot else {
            return;
        };
        shared.users -= 1;
        if shared.users == 0 {
            *slot = None;
            self.count -= 1;
            if meaning.dids() == Dids::NONE {
                self.by_guest.remove(&name.did);
            }
        }
    }
}

/// What a guest's domain-id stands for.
#[derive(Default)]
struct Meaning {
    with_ats: Option<Shared>,
    without: Option<Shared>,
}

impl Meaning {
    fn of(&mut self, ats: bool) -> &mut Option<Shared> {
        if ats {
            &mut self.with_ats
        } else {
            &mut self.without
        }
    }

    #[inline(always)]
    fn dids(&self) -> Dids {
        let did = |shared: &Option<Shared>| shared.as_ref().map(|shared| shared.did.get());
        Dids {
            with_ats: did(&self.with_ats),
            without: did(&self.without),
        }
    }
}

/// A domain-id of the unit, and how many nested domains use it.
struct Shared {
    did: Arc<Did>,
    users: usize,
}

static VIOMMU: ViommuTable<Vtd> = ViommuTable::new();

impl Vtd {
    /// Whether a device can have a vIOMMU of this type.
    pub(crate) fn offered(dev: &Device<'_>, kind: u32) -> bool {
        kind == VIOMMU_TYPE && dev.unit().abilities().nests()
    }

    /// Tells the guest of a fault of a device of its that it knows by `sid`, and of others that
    /// were lost.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it does not want to know, or the device is attached to a table of the
    /// kernel's; `ENOMEM`.
    pub(crate) fn tell(viommu: &Viommu<Self>, record: &Record, sid: u16) -> Result {
        let is_the_kernels = |dev: &Served| {
            let dev = Device::of(dev);
            dev.is_ok_and(|dev| entries::is_the_kernels(&dev, record.pasid()))
        };
        if viommu.with_vdev(sid.into(), is_the_kernels) == Some(true) {
            return Err(EOPNOTSUPP);
        }
        let overflows = viommu.share.overflows();
        let lost = viommu.overflows.load(Relaxed) != overflows;
        let fault = VtdFault {
            flags: if lost { VtdFault::OVERFLOW } else { 0 },
            __reserved: 0,
            frcd: record.words_for(sid),
        };
        let told = viommu.report_event(VtdFault::TYPE, &fault);
        viommu.share.trace_fault(record.sid(), &fault, told);
        told?;
        viommu.overflows.store(overflows, Relaxed);
        Ok(())
    }
}

/// One use of a guest's domain-id. Dropping it ends it.
struct DidUse {
    viommu: Hold<Vtd>,
    name: Name,
    did: Arc<Did>,
}

impl DidUse {
    /// Finds what a guest's domain-id stands for, or gives it a meaning.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: too many are in use; `ENOMEM`.
    fn new(viommu: &Viommu<Vtd>, name: Name) -> Result<Self> {
        let mut names = viommu.names.lock();
        let did = if let Some(shared) = names.get(name) {
            shared.users += 1;
            shared.did.clone()
        } else {
            if names.count >= MAX_DIDS.min(viommu.share.domain_ids() / 4) {
                return Err(ENOSPC);
            }
            let did = Arc::new(Did::alloc(&viommu.share)?, GFP_KERNEL_ACCOUNT)?;
            let shared = Shared {
                did: did.clone(),
                users: 1,
            };
            names.add(name, shared)?;
            did
        };
        Ok(Self {
            viommu: viommu.hold(),
            name,
            did,
        })
    }
}

impl Drop for DidUse {
    fn drop(&mut self) {
        self.viommu.names.lock().put(self.name);
    }
}

/// A first stage of a guest's, under a domain-id of the guest's.
pub(crate) struct GuestStage {
    stage: UserStage,
    did: DidUse,
}

impl GuestStage {
    /// The first stage.
    pub(crate) fn stage(&self) -> &UserStage {
        &self.stage
    }

    /// The first stage, for a device that is to be attached. The mutex of its group is held.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is behind another unit.
    pub(crate) fn stage_for(&self, dev: &Device<'_>) -> Result<UserStage> {
        // It needs no vDEVICE, which may go first: after a reset of the device the core attaches
        // it again to what it was attached to, and that must not fail.
        if self.did.viommu.share.unit() != dev.unit() {
            return Err(EINVAL);
        }
        Ok(self.stage)
    }
}

/// The most descriptors that are translated at once.
const STEPS: usize = 32;

/// A part of a guest's invalidation queue, while it is worked off.
struct GuestQueue<'a> {
    viommu: &'a Viommu<Vtd>,
    /// Something was done before in this call.
    begun: bool,
    /// All domains were invalidated in this call. What the guest changed it changed before, so once
    /// is enough.
    all_done: bool,
}

impl<'a> GuestQueue<'a> {
    fn new(viommu: &'a Viommu<Vtd>) -> Self {
        Self {
            viommu,
            begun: false,
            all_done: false,
        }
    }

    /// Does descriptors, in their order.
    ///
    /// # Errors
    ///
    /// How many were done, and what is wrong with the next one.
    fn run<T>(
        &mut self,
        descs: &[T],
        read: impl Fn(&T) -> Result<Ask>,
    ) -> Result<(), (usize, Error)> {
        let mut done = 0;
        let mut steps = Stack::new();
        while done < descs.len() {
            if self.begun {
                pause().map_err(|why| (done, why))?;
            }
            self.begun = true;
            let result = self.translate(&descs[done..], &read, &mut steps);
            let (count, submitted) = self.submit(&steps);
            done += count;
            match submitted.and(result).map_err(|why| (done, why))? {
                Next::Chunk => {}
                Next::AllDomains => {
                    self.all_domains().map_err(|why| (done, why))?;
                    done += 1;
                }
            }
        }
        Ok(())
    }

    /// Translates descriptors up to one that is no good, or that is for all domains. With an error
    /// those in `steps` are to be done nonetheless.
    #[inline(always)]
    fn translate<T>(
        &self,
        descs: &[T],
        read: impl Fn(&T) -> Result<Ask>,
        steps: &mut Stack<Step, STEPS>,
    ) -> Result<Next> {
        steps.truncate(0);
        let names = self.viommu.names.lock();
        for desc in descs {
            match read(desc).and_then(|ask| self.step(&names, ask)) {
                Ok(Some(step)) if steps.push(step).is_ok() => {}
                Ok(Some(_)) => break,
                Ok(None) => return Ok(Next::AllDomains),
                Err(why) => return Err(why),
            }
        }
        Ok(Next::Chunk)
    }

    /// Translates what is not for all domains.
    ///
    /// # Errors
    ///
    /// `ENODEV`: the guest has no such device.
    #[inline(always)]
    fn step(&self, names: &Names, ask: Ask) -> Result<Option<Step>> {
        Ok(Some(match ask {
            Ask::AllDomains => return Ok(None),
            Ask::PasidIotlb {
                did,
                pasid,
                span,
                leaf,
            } => Step::PasidIotlb {
                dids: names.find(did),
                pasid,
                span,
                leaf,
            },
            Ask::Domain { did } => Step::Domain {
                dids: names.find(did),
            },
            Ask::DevTlb { sid, pasid, span } => Step::DevTlb {
                sid: self
                    .viommu
                    .with_vdev(sid.into(), |dev| Ok(Device::of(dev)?.source_id()))
                    .unwrap_or(Err(ENODEV))?,
                pasid,
                span,
            },
        }))
    }

    /// Has the hardware do steps. Those of a submission that failed are done again one by one,
    /// which does no harm and tells which it was.
    #[inline(never)]
    fn submit(&self, steps: &[Step]) -> (usize, Result) {
        let share = &self.viommu.share;
        let (parent, unit) = (share.second_stage().any(), share.unit());
        // Up to `again` they are done one by one.
        let (mut done, mut again) = (0, 0);
        while done < steps.len() {
            let alone = done < again;
            let most = if alone { 1 } else { steps.len() - done };
            match cache::flush_for_guest(&parent, unit, &steps[done..done + most]) {
                (count, Ok(())) => done += count,
                (_, Err(why)) if alone => return (done, Err(why)),
                (count, Err(_)) => again = done + count,
            }
            if done < steps.len() {
                if let Err(why) = pause() {
                    return (done, Err(why));
                }
            }
        }
        (done, Ok(()))
    }

    /// Invalidates all domains of the guest, unless that was done.
    ///
    /// # Errors
    ///
    /// Those of the invalidation queue; `EINTR`.
    fn all_domains(&mut self) -> Result {
        if self.all_done {
            return Ok(());
        }
        let names = self.viommu.names.lock();
        let mut steps = Stack::<Step, STEPS>::new();
        for (_, meaning) in names.by_guest.iter() {
            let dids = meaning.dids();
            if let Err(step) = steps.push(Step::Domain { dids }) {
                self.submit(&steps).1?;
                steps.truncate(0);
                // There is room now.
                let _ = steps.push(step);
            }
        }
        self.submit(&steps).1?;
        self.all_done = true;
        Ok(())
    }
}

/// What comes behind descriptors that were translated.
enum Next {
    /// More of them, or the end.
    Chunk,
    /// One that is for all domains.
    AllDomains,
}

#[vtable]
impl ViommuOps for Vtd {
    type Nested = Nested;
    type HwQueue = ();

    fn table() -> &'static ViommuTable<Self> {
        &VIOMMU
    }

    fn new(
        viommu: &NewViommu<'_, Self>,
        parent: &AnyDomain,
        data: Option<&UserData>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            share: {
                if data.is_some() {
                    return Err(EOPNOTSUPP);
                }
                Share::new(viommu, parent)?
            },
            names <- new_mutex!(Names { by_guest: RBTree::new(), count: 0 }),
            overflows: Atomic::new(share.overflows()),
        })
    }

    fn alloc_domain_nested(
        viommu: &Viommu<Self>,
        flags: AllocFlags,
        data: &UserData,
    ) -> Result<Owned<Nested>> {
        flags.only(AllocFlags::PASID)?;
        if data.data_type() != VtdPasidEntry::TYPE {
            return Err(EOPNOTSUPP);
        }
        let asked: VtdPasidEntry = data.read()?;
        if asked.flags & !VtdPasidEntry::GUEST_ATS != 0 || asked.__reserved != 0 {
            return Err(EOPNOTSUPP);
        }
        let GuestEntry { stage, did } = GuestEntry::read(&asked.pe)?;
        let (share, caps) = (&viommu.share, viommu.share.unit().caps());
        if stage
            .out_of_reach(&caps, &share.second_stage().table())
            .is_some()
        {
            return Err(EINVAL);
        }
        if stage.unsupported(&caps).is_some() {
            return Err(EOPNOTSUPP);
        }
        let ats = asked.flags & VtdPasidEntry::GUEST_ATS != 0;
        let did = DidUse::new(viommu, Name { did, ats })?;
        let shared = did.did.clone();
        Nested::of_guest(share.parent(), shared, GuestStage { stage, did })
    }

    fn cache_invalidate(viommu: &Viommu<Self>, requests: &UserDataArray) -> Handled {
        let mut queue = GuestQueue::new(viommu);
        let handled = if requests.len() > MAX_DESCS {
            Handled::failed(0, EINVAL)
        } else if requests.entry_len() == size_of::<NarrowDesc>() {
            requests.chunks(|descs: &[NarrowDesc]| {
                queue.run(descs, |desc| {
                    Ask::read(&[desc.qw[0], desc.qw[1], 0, 0], false)
                })
            })
        } else {
            requests.chunks(|descs: &[WideDesc]| queue.run(descs, |desc| Ask::read(&desc.qw, true)))
        };
        viommu.share.trace_queue(requests.len(), &handled);
        handled
    }

    fn add_vdevice(viommu: &Viommu<Self>, dev: &Served, id: u64) -> Result {
        let sid = u16::try_from(id).map_err(|_| EINVAL)?;
        let dev = Device::of(dev)?;
        if !dev.has_own_source_id() {
            return Err(EOPNOTSUPP);
        }
        let viommu = viommu.hold();
        faults::name(&dev.unit(), dev.source_id(), Named { viommu, sid })
    }

    fn remove_vdevice(_viommu: &Viommu<Self>, dev: &Served, _id: u64) {
        if let Ok(dev) = Device::of(dev) {
            faults::unname(&dev.unit(), dev.source_id());
        }
    }
}
