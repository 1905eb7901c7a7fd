// SPDX-License-Identifier: GPL-2.0

//! Objects, their memory and their tables: what the driver has under these names.

use crate::{
    count::{Count, Queue},
    weaken::{ordering, weak, Weakening::*},
};
use loom::{
    cell::UnsafeCell,
    sync::{
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
        Mutex, MutexGuard, RwLock,
    },
};

/// `XA_ZERO_ENTRY`. Other entries are the number of the memory, and one more.
const ZERO: usize = usize::MAX;

pub const EBUSY: i32 = 16;
pub const ENOENT: i32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    None,
    /// Of no special kind.
    Any,
    /// Has a vDEVICE end its loan (`pre_destroy`).
    Device,
    /// Has a loan of a device, and ends it when it is destroyed.
    Vdevice {
        device: usize,
    },
}

/// What does not change once the object can be found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub kind: Kind,
    pub id: usize,
    pub table: usize,
}

/// Memory of a slab that has objects of one size, one after the other.
pub struct Memory {
    /// Whether it is the slab's. Each access that is not ordered with the slab's coming and going
    /// is a data race here.
    there: UnsafeCell<bool>,
    wait_cnt: Count,
    users: Count,
    head: UnsafeCell<Head>,
    /// The rest of the object: how often it was written to.
    body: UnsafeCell<usize>,
}

impl Memory {
    fn new() -> Self {
        Self {
            there: UnsafeCell::new(false),
            // What was in the page before.
            wait_cnt: Count::new(7),
            users: Count::new(7),
            head: UnsafeCell::new(Head {
                kind: Kind::None,
                id: 0,
                table: 0,
            }),
            body: UnsafeCell::new(0),
        }
    }

    fn touch(&self) {
        // SAFETY: loom looks for accesses at the same time.
        assert!(
            self.there.with(|there| unsafe { *there }),
            "the slab is gone"
        );
    }

    pub fn wait_cnt(&self) -> &Count {
        self.touch();
        &self.wait_cnt
    }

    pub fn users(&self) -> &Count {
        self.touch();
        &self.users
    }

    pub fn head(&self) -> Head {
        self.touch();
        // SAFETY: loom looks for accesses at the same time.
        self.head.with(|head| unsafe { *head })
    }

    fn change_head(&self, f: impl FnOnce(&mut Head)) {
        self.touch();
        // SAFETY: loom looks for accesses at the same time.
        self.head.with_mut(|head| f(unsafe { &mut *head }));
    }

    /// Reads what a lock or the object's own atomics do not guard.
    pub fn read(&self) -> usize {
        self.touch();
        // SAFETY: loom looks for accesses at the same time.
        self.body.with(|body| unsafe { *body })
    }

    pub fn write(&self) {
        self.touch();
        // SAFETY: loom looks for accesses at the same time.
        self.body.with_mut(|body| unsafe { *body += 1 });
    }
}

/// A cache of memory, of which some is in use. The memory that was freed last comes back first.
struct Slab {
    free: Mutex<Vec<usize>>,
}

struct Table {
    lock: Mutex<()>,
    /// Ids from 1.
    entries: Vec<AtomicUsize>,
}

/// All that there is.
pub struct World {
    pub memory: Vec<Memory>,
    /// Where somebody waits for a `wait_cnt`, by its address.
    queues: Vec<Queue>,
    slab: Slab,
    tables: Vec<Table>,
    /// The lock of the devices' group, and the vDEVICE of the device.
    pub group: Mutex<Option<usize>>,
    /// RCU, where a scenario is about the slab.
    rcu: Option<RwLock<()>>,
}

impl World {
    /// With memory for so many objects, contexts, and ids in each.
    pub fn new(memory: usize, tables: usize, ids: usize, rcu: bool) -> Self {
        let table = |_| Table {
            lock: Mutex::new(()),
            entries: (0..ids).map(|_| AtomicUsize::new(0)).collect(),
        };
        Self {
            memory: (0..memory).map(|_| Memory::new()).collect(),
            queues: (0..memory).map(|_| Queue::new()).collect(),
            slab: Slab {
                free: Mutex::new((0..memory).rev().collect()),
            },
            tables: (0..tables).map(table).collect(),
            group: Mutex::new(None),
            rcu: rcu.then(|| RwLock::new(())),
        }
    }

    // memory.rs

    fn alloc(&self) -> usize {
        let at = self.slab.free.lock().unwrap().pop().expect("memory");
        let memory = &self.memory[at];
        // SAFETY: loom looks for accesses at the same time.
        if !memory.there.with(|there| unsafe { *there }) {
            memory.there.with_mut(|there| unsafe { *there = true });
            // The slab's constructor.
            memory.wait_cnt.set(0);
        }
        at
    }

    fn free(&self, at: usize) {
        assert_eq!(self.memory[at].wait_cnt().read(), 0, "freed with a loan");
        self.slab.free.lock().unwrap().push(at);
    }

    /// Gives memory back to the page allocator that is in use by nobody.
    pub fn shrink(&self) {
        let at = self.slab.free.lock().unwrap().pop().expect("memory");
        if !weak(&[NoGrace]) {
            drop(self.rcu.as_ref().unwrap().write().unwrap());
        }
        // SAFETY: loom looks for accesses at the same time.
        self.memory[at]
            .there
            .with_mut(|there| unsafe { *there = false });
    }

    // object.rs: Unpublished, Built

    /// Makes an object that nobody can find yet, with the lowest id.
    pub fn reserve(&self, table: usize, kind: Kind) -> usize {
        let at = self.alloc();
        let memory = &self.memory[at];
        memory.wait_cnt().set(0);
        memory.users().set(1);
        memory.change_head(|head| *head = Head { kind, id: 0, table });
        let locked = self.lock(table);
        let entries = &self.tables[table].entries;
        let id = 1 + entries
            .iter()
            .position(|e| e.load(Relaxed) == 0)
            .expect("an id");
        memory.change_head(|head| head.id = id);
        locked.store(id, at + 1);
        at
    }

    pub fn publish(&self, at: usize) {
        self.memory[at].wait_cnt().set_release(1);
    }

    /// Drops an object that was never published.
    pub fn take_back(&self, at: usize) {
        let memory = &self.memory[at];
        self.lock(memory.head().table).store(memory.head().id, 0);
        assert!(memory.users().dec_and_test());
        self.free(at);
    }

    // table.rs

    fn lock(&self, table: usize) -> Locked<'_> {
        Locked {
            world: self,
            table: &self.tables[table],
            _guard: self.tables[table].lock.lock().unwrap(),
        }
    }

    fn lend(&self, table: usize, id: usize) -> Option<Counted<'_>> {
        let rcu = self.rcu.as_ref().filter(|_| !weak(&[NoRcu]));
        let _guard = rcu.map(|rcu| rcu.read().unwrap());
        let entry = &self.tables[table].entries[id - 1];
        loop {
            // The dependency of rcu_dereference().
            let raw = entry.load(ordering(&[LoadRelaxed], Acquire));
            let object_at = match raw {
                0 | ZERO => None,
                at => Some(at - 1),
            };
            let early = weak(&[ReloadFirst]).then(|| entry.load(Relaxed));
            let counted = Counted::new(self, object_at?)?;
            if weak(&[NoReload]) || early.unwrap_or_else(|| entry.load(Relaxed)) == raw {
                return Some(counted);
            }
        }
    }

    /// An ioctl's lookup.
    pub fn lookup(&self, table: usize, id: usize) -> Option<Loan<'_>> {
        if weak(&[UsersFirst]) {
            let at = self.lock(table).slot(id)?;
            let users = self.memory[at].users();
            if !users.inc_not_zero(Relaxed) {
                return None;
            }
            let counted = self.lend(table, id);
            if counted.is_none() {
                users.dec();
            }
            return Some(Loan {
                counted: Some(counted?),
                memory: &self.memory[at],
            });
        }
        Loan::new(self.lend(table, id)?)
    }

    /// What is seen of the object `id` by who has the lock of the table and no count.
    pub fn find(&self, table: usize, id: usize) -> Option<(Head, usize)> {
        let locked = self.lock(table);
        let memory = &self.memory[locked.find(id)?];
        Some((memory.head(), memory.read()))
    }

    // destroy.rs

    /// IOMMU_DESTROY.
    pub fn destroy(&self, table: usize, id: usize) -> Result<(), i32> {
        let taken = {
            let locked = self.lock(table);
            let at = locked.find(id).ok_or(ENOENT)?;
            locked.take(at, false).ok_or(EBUSY)?
        };
        self.finish(taken);
        Ok(())
    }

    /// Gives the caller's hold back, and destroys the object if it was the last.
    pub fn put_and_try_destroy(&self, at: usize) -> Result<(), i32> {
        let table = self.memory[at].head().table;
        if weak(&[PutUnlocked]) {
            self.memory[at].users().dec();
        }
        let taken = self.take_held(at, &self.lock(table), false)?;
        self.finish(taken);
        Ok(())
    }

    /// A driver's way, who cannot be refused, as unbind.
    pub fn destroy_held(&self, at: usize, keep_id: bool) {
        let table = self.memory[at].head().table;
        if !weak(&[TakeFirst]) {
            self.wait_for_loans(at);
        }
        let taken = self.take_held(at, &self.lock(table), keep_id);
        let taken = taken.expect("who cannot be refused was");
        if weak(&[TakeFirst]) {
            self.wait_for_loans(at);
        }
        self.end(taken);
    }

    fn take_held(&self, at: usize, locked: &Locked<'_>, keep_id: bool) -> Result<Taken, i32> {
        if !weak(&[PutUnlocked]) {
            self.memory[at].users().dec();
        }
        assert!(locked.is_in(at), "another object is at its id");
        locked.take(at, keep_id).ok_or(EBUSY)
    }

    fn finish(&self, taken: Taken) {
        if !weak(&[NoWait, NoRewait]) {
            self.wait_for_loans(taken.0);
        } else {
            self.memory[taken.0].wait_cnt().dec_and_test();
        }
        self.end(taken);
    }

    fn wait_for_loans(&self, at: usize) {
        if !weak(&[KeepWaitCnt]) && self.memory[at].wait_cnt().dec_and_test() {
            return;
        }
        if self.memory[at].head().kind == Kind::Device && !weak(&[NoRevoke]) {
            self.let_go();
        }
        self.queues[at].wait_for_zero(self.memory[at].wait_cnt());
    }

    /// Taken::destroy().
    fn end(&self, taken: Taken) {
        let memory = &self.memory[taken.0];
        if let Kind::Vdevice { device } = memory.head().kind {
            *self.group.lock().unwrap() = None;
            drop(Loan::adopt(self, device));
        }
        // What others did to it is seen, and they do nothing any more.
        memory.write();
        self.free(taken.0);
    }

    // device.rs

    fn let_go(&self) {
        let vdev = {
            let group = self.group.lock().unwrap();
            group.filter(|&vdev| self.hold_known(vdev))
        };
        if let Some(vdev) = vdev {
            self.destroy_held(vdev, true);
        }
    }

    /// Hold::of_known().
    fn hold_known(&self, at: usize) -> bool {
        let locked = self.lock(self.memory[at].head().table);
        let known = locked.is_in(at) || weak(&[HoldUnknown]);
        if known {
            self.memory[at].users().inc();
        }
        known
    }
}

struct Locked<'a> {
    world: &'a World,
    table: &'a Table,
    _guard: MutexGuard<'a, ()>,
}

impl Locked<'_> {
    /// rcu_assign_pointer()
    fn store(&self, id: usize, entry: usize) {
        self.table.entries[id - 1].store(entry, ordering(&[InsertRelaxed], Release));
    }

    fn slot(&self, id: usize) -> Option<usize> {
        match self.table.entries[id - 1].load(Relaxed) {
            0 | ZERO => None,
            at => Some(at - 1),
        }
    }

    fn find(&self, id: usize) -> Option<usize> {
        self.slot(id)
            .filter(|&at| !self.world.memory[at].wait_cnt().is_zero_acquire())
    }

    fn is_in(&self, at: usize) -> bool {
        self.slot(self.world.memory[at].head().id) == Some(at)
    }

    fn take(&self, at: usize, keep_id: bool) -> Option<Taken> {
        let memory = &self.world.memory[at];
        if !memory.users().dec_if_one() {
            return None;
        }
        if !weak(&[KeepEntry]) {
            self.store(memory.head().id, if keep_id { ZERO } else { 0 });
        }
        Some(Taken(at))
    }
}

struct Taken(usize);

struct Counted<'a> {
    world: &'a World,
    at: usize,
}

impl<'a> Counted<'a> {
    fn new(world: &'a World, at: usize) -> Option<Self> {
        let acquire = ordering(&[CountRelaxed, RecountRelaxed], Acquire);
        let counted = world.memory[at].wait_cnt().inc_not_zero(acquire);
        counted.then(|| Self { world, at })
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let memory = &self.world.memory[self.at];
        if memory.wait_cnt().dec_and_test() {
            if weak(&[WakeFollows]) {
                memory.head();
            }
            self.world.queues[self.at].wake();
        }
    }
}

/// A reference for the length of an ioctl, or until it is revoked.
pub struct Loan<'a> {
    counted: Option<Counted<'a>>,
    pub memory: &'a Memory,
}

impl<'a> Loan<'a> {
    fn new(counted: Counted<'a>) -> Option<Self> {
        let memory = &counted.world.memory[counted.at];
        // is_a()
        assert_ne!(memory.head().kind, Kind::None);
        memory.users().inc_not_zero(Relaxed).then(|| Self {
            counted: Some(counted),
            memory,
        })
    }

    fn adopt(world: &'a World, at: usize) -> Self {
        Self {
            counted: Some(Counted { world, at }),
            memory: &world.memory[at],
        }
    }

    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        if weak(&[PutWaitFirst]) {
            self.counted = None;
        }
        self.memory.users().dec();
    }
}
