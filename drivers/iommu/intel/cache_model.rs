// SPDX-License-Identifier: GPL-2.0-only

//! What hardware may still remember when a plan is done: a model of its caches, for KUnit.
//!
//! The hardware of the model is as unkind as the specification lets it be. It fills a cache from
//! memory or from another cache at any time, keeps all that no descriptor names, and executes
//! descriptors in any order that section 6.5.2.12 allows. So the model does not follow one
//! execution: it has the set of all [`Item`]s that may be cached, to which everything comes back
//! that can be filled from what is there. What a descriptor takes away is told by the tags of
//! tables 17, 23 and 24. A plan is right when in each order nothing that is stale is left.

use kernel::warn_on;

use crate::{
    ffi::stack::Stack,
    flush_plan::Scope,
    invalidate::Desc,
    pasid_entry::Entry, //
};

/// Where something is remembered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cache {
    /// The table itself, which is no cache, but what they are filled from.
    Memory,
    /// 6.2.2
    Context,
    /// 6.2.3
    Pasid,
    /// 6.2.4
    Iotlb,
    /// 6.2.5, first-stage and combined entries.
    FirstStage,
    /// 6.2.5, second-stage entries.
    SecondStage,
    /// The device's.
    DevTlb,
    /// Not a cache: reads and writes that were translated and are not done (6.5.4).
    InFlight,
}

/// Something that may be remembered, with its tags.
#[derive(Clone, Copy)]
pub(crate) struct Item {
    pub(crate) cache: Cache,
    pub(crate) sid: u16,
    pub(crate) did: u16,
    pub(crate) pasid: u64,
    /// Whether domain-ids are tags of the context-cache, too.
    pub(crate) legacy: bool,
    /// Whether a first stage translates, alone or before a second one.
    pub(crate) first_stage: bool,
    /// The input addresses that it is for (bytes, inclusive).
    pub(crate) addrs: (u64, u64),
    /// The items of which one is enough to fill it: a bit for each.
    pub(crate) from: u64,
    /// Whether it is wrong to use it.
    pub(crate) stale: bool,
}

impl Item {
    /// Something about every address that nothing fills.
    pub(crate) fn new(cache: Cache, sid: u16, did: u16, pasid: u64) -> Self {
        Self {
            cache,
            sid,
            did,
            pasid,
            legacy: false,
            first_stage: false,
            addrs: (0, u64::MAX),
            from: 0,
            stale: false,
        }
    }

    /// Whether the blocks have an address in common.
    fn meets(&self, start: u64, last: u64) -> bool {
        self.addrs.0 <= last && start <= self.addrs.1
    }

    /// Whether `desc` makes sure that it is gone. In doubt it does not.
    pub(crate) fn is_taken_by(&self, desc: &Desc) -> bool {
        let [low, high, ..] = desc.0;
        // CAST: Fields of 16 bits.
        let (did, sid) = ((low >> 16) as u16, (low >> 32) as u16);
        let (granularity, hint) = (low >> 4 & 3, high & 1 << 6 != 0);
        let pages = || {
            let size = 1u64 << 12 << (high & 0x3f);
            let start = high & !0xfff & !(size - 1);
            self.meets(start, start | (size - 1))
        };
        let domain = did == self.did;
        let pasid = low >> 32 & 0xf_ffff == self.pasid;
        // As ATS has it: the lowest clear bit from bit 12 on tells the size.
        let device = |many: u64| {
            let bits = match high & many {
                0 => 12,
                _ => 13 + (high >> 12).trailing_ones(),
            };
            let low = u64::MAX.checked_shr(64 - bits.min(64)).unwrap_or(0);
            self.meets(high & !low, high | low)
        };
        match (low & 0xf, self.cache) {
            (1, Cache::Context) => match granularity {
                1 => true,
                2 => domain || !self.legacy,
                3 => sid == self.sid && (domain || !self.legacy),
                _ => false,
            },
            (7, Cache::Pasid) => match granularity {
                0 => domain,
                1 => domain && pasid,
                3 => true,
                _ => false,
            },
            // Table 23.
            (2, Cache::Iotlb | Cache::FirstStage | Cache::SecondStage) => match granularity {
                1 => true,
                2 => domain,
                3 if self.cache == Cache::SecondStage => domain && pages() && !hint,
                3 => domain && (self.first_stage || pages()),
                _ => false,
            },
            // DR and DW.
            (2, Cache::InFlight) => (granularity == 1 || domain) && low >> 6 & 3 == 3,
            // Table 24.
            (6, Cache::Iotlb | Cache::FirstStage) => match granularity {
                2 => domain && pasid,
                3 if self.cache == Cache::FirstStage => domain && pasid && pages() && !hint,
                3 => domain && pasid && self.first_stage && pages(),
                _ => false,
            },
            (6, Cache::InFlight) => domain && pasid,
            (3, Cache::DevTlb) => self.pasid == 0 && sid == self.sid && device(1),
            // CAST: A field of 16 bits.
            (8, Cache::DevTlb) => pasid && (low >> 16) as u16 == self.sid && device(1 << 11),
            _ => false,
        }
    }
}

/// Whether hardware finishes `ahead` before it executes `desc`, which is behind it (6.5.2.12).
fn in_order(ahead: &Desc, desc: &Desc) -> bool {
    let kind = |desc: &Desc| desc.0[0] & 0xf;
    match (kind(ahead), kind(desc)) {
        (1, 2 | 6 | 7) | (7, 2 | 6) | (2, 3 | 8) | (6, 8) => true,
        // A wait waits for all, and with FN all wait for it.
        (_, 5) => true,
        (5, _) => ahead.0[0] & 1 << 6 != 0,
        _ => false,
    }
}

/// What may be remembered: up to 24 items.
pub(crate) struct Model {
    items: Stack<Item, 24>,
    /// A bit for each item that may be there.
    there: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            items: Stack::new(),
            there: 0,
        }
    }

    /// Adds an item, and gives its bit.
    pub(crate) fn add(&mut self, item: Item) -> u64 {
        let bit = 1 << self.items.len();
        warn_on!(self.items.push(item).is_err());
        bit
    }

    /// With all that can be filled from what is there.
    fn filled(&self, mut there: u64) -> u64 {
        loop {
            let before = there;
            for (n, item) in self.items.iter().enumerate() {
                there |= u64::from(there & item.from != 0) << n;
            }
            if there == before {
                return there;
            }
        }
    }

    /// Memory, of which hardware saw `before` until now, becomes `now` (bits of items).
    pub(crate) fn becomes(&mut self, before: u64, now: u64) {
        let there = self.filled(self.there | before);
        self.there = self.filled(there & !before | now);
    }

    fn has_stale(&self, there: u64) -> bool {
        let mut items = self.items.iter().enumerate();
        items.any(|(n, item)| item.stale && there >> n & 1 != 0)
    }

    /// Whether something stale may be there now.
    pub(crate) fn stale(&self) -> bool {
        self.has_stale(self.there)
    }

    /// Whether something stale may be there after `descs` and a wait, in any order that the
    /// hardware may choose.
    pub(crate) fn stale_after(&self, descs: &[Desc]) -> bool {
        self.search(descs, 0, self.there)
    }

    /// The same, when those whose bits are in `done` are done and left what is `there`.
    fn search(&self, descs: &[Desc], done: u64, there: u64) -> bool {
        if done.count_ones() as usize == descs.len() {
            return self.has_stale(there);
        }
        let open = |n: usize| done >> n & 1 == 0;
        descs.iter().enumerate().any(|(n, desc)| {
            let waits = |m: usize| open(m) && in_order(&descs[m], desc);
            open(n) && !(0..n).any(waits) && {
                let mut left = there;
                for (m, item) in self.items.iter().enumerate() {
                    left &= !(u64::from(item.is_taken_by(desc)) << m);
                }
                self.search(descs, done | 1 << n, self.filled(left))
            }
        })
    }

    /// A PASID entry that changes from `old` to `new`.
    pub(crate) fn entry(old: &Entry, new: &Entry, scope: &Scope, sid: u16) -> Self {
        let mut model = Self::new();
        let before = model.version(old, Some(new), scope, sid);
        let now = model.version(new, None, scope, sid);
        model.becomes(before, now);
        model
    }

    /// Adds what may be remembered of an entry, which `other` takes the place of; gives the bit of
    /// its memory.
    fn version(&mut self, entry: &Entry, other: Option<&Entry>, scope: &Scope, sid: u16) -> u64 {
        let differs = |what: fn(&Entry) -> [u64; 3]| other.is_some_and(|o| what(o) != what(entry));
        // An absent entry is cached in caching mode only, for domain-id 0 (6.2.3).
        let did = if entry.present() { entry.did() } else { 0 };
        let tags = Item {
            first_stage: entry.has_first_stage(),
            stale: differs(|e| [e.low.into_raw(), e.mid.into_raw(), e.high.into_raw()]),
            ..Item::new(Cache::Memory, sid, did, scope.pasid.get())
        };
        let memory = self.add(Item {
            stale: false,
            ..tags
        });
        if !entry.present() && !scope.caps.caching_mode() {
            return memory;
        }
        let mut add = |cache, from, stale| {
            self.add(Item {
                cache,
                from,
                stale,
                ..tags
            })
        };
        let cached = add(Cache::Pasid, memory, tags.stale);
        if !entry.present() {
            return memory;
        }
        if entry.through_second_stage() {
            // Of an entry with the same domain-id and table it is the same (6.2.3.1), but for
            // SSADE.
            let stale = differs(|e| [e.low.into_raw(), e.did().into(), 0]);
            add(Cache::SecondStage, cached, stale);
        }
        if entry.has_first_stage() {
            let stale = differs(|e| [e.low.into_raw(), e.did().into(), e.high.into_raw()]);
            add(Cache::FirstStage, cached, stale);
        }
        let iotlb = add(Cache::Iotlb, cached, tags.stale);
        let cap = scope.caps.cap;
        let drains = cap.read_drain().into_bool() && cap.write_drain().into_bool();
        if drains || !entry.through_second_stage() {
            add(Cache::InFlight, iotlb, tags.stale);
        }
        if scope.device.is_some() {
            add(Cache::DevTlb, iotlb, tags.stale);
        }
        memory
    }
}
