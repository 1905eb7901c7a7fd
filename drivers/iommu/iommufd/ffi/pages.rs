// SPDX-License-Identifier: GPL-2.0-only

//! The pages behind mappings: pinned once, however many page tables and drivers have them.
//!
//! [`Pages`] are an array of page frames of one source, shared by all mappings of it. A page is
//! held by each page table that it is in and by each driver that has pinned it; while it is held
//! its frame is the same for all. Two trees know what is held: the accesses, which have the frames
//! themselves, and the mappings that have filled page tables, of which one is read to find them.
//!
//! The rule of this file, which all its `unsafe` code keeps: **a page is pinned once if it is in an
//! interval of one of the trees, and else not.** Who adds the first interval pins, who removes the
//! last one unpins, under the lock of the pages, and only after no page table has the page.
//!
//! Nothing that takes something away can fail or needs memory.

use super::{
    client::map::PageSlots,
    dmabuf::Attachment,
    payer::{
        Mode,
        Payer, //
    },
    pgtable::{
        Mapper,
        PageTable,
        Prot, //
    },
    pin::{
        cond_resched,
        copy_page,
        temp_limit,
        unpin,
        Pinner,
        Source, //
    },
    should_fail, //
};
use crate::{
    area::Extent,
    fit::{
        holes,
        merged, //
    },
    runs::{
        Granule,
        Run,
        Runs, //
    }, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    interval_tree::{
        Found,
        Linked,
        Member,
        OwningTree,
        Slot,
        Tree, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// The frames of an access, in order.
enum Frames {
    /// One after the other.
    Run(usize),
    Each(KVVec<usize>),
}

impl Frames {
    /// Adds `len` of them, without the first `skip`, as far as there is room.
    fn give(&self, skip: usize, len: usize, runs: &mut Runs) {
        match self {
            Self::Run(pfn) => {
                runs.push(Run {
                    pfn: pfn + skip,
                    len,
                });
            }
            Self::Each(all) => {
                for &pfn in all.iter().skip(skip).take(len) {
                    if !runs.push(Run { pfn, len: 1 }) {
                        return;
                    }
                }
            }
        }
    }
}

/// A driver's access to a range of pages.
struct Access {
    users: u32,
    frames: Frames,
}

/// A mapping that is in page tables, of which `storage` is one.
pub(crate) struct Filled {
    storage: PageTable,
    iova: usize,
    offset: u16,
    granule: Granule,
}

// There may be millions, and the next size of kmalloc() is 128.
const _: () = assert!(Slot::<Member<Filled>>::SIZE <= 96);

impl Filled {
    fn new(storage: PageTable, extent: &Extent, granule: Granule) -> Self {
        Self {
            storage,
            iova: extent.iova(),
            // CAST: Less than a page.
            offset: extent.offset_of(extent.index()) as u16,
            granule,
        }
    }

    /// Adds the frames from `at` to `last` of a mapping that begins at the page `first`, as far as
    /// there is room. `base` is the page of the source that has index 0.
    fn give(&self, base: usize, first: usize, at: usize, last: usize, runs: &mut Runs) {
        let mut at = at;
        // Where the first page would be mapped if it were so as a whole.
        let start = self.iova.wrapping_sub(usize::from(self.offset));
        let mut iova = start.wrapping_add((at - first) * PAGE_SIZE);
        if at == first {
            iova = self.iova;
        }
        while at <= last {
            let len = self.granule.rest(base + at).min(last - at + 1);
            // CAST: Physical addresses have less than 64 bits.
            let pfn = self.storage.phys(iova) as usize / PAGE_SIZE;
            if !runs.push(Run { pfn, len }) {
                return;
            }
            at += len;
            iova = start.wrapping_add((at - first) * PAGE_SIZE);
            // Every 2 MiB, if there are as many.
            if at & 511 == 0 {
                cond_resched();
            }
        }
    }
}

/// How a mapping is in page tables.
pub(crate) enum Filling {
    Memory(Linked<Filled>),
    Mmio,
}

/// What holds pages of memory.
struct Memory {
    accesses: OwningTree<Access>,
    mappings: Tree<Filled>,
    /// Pages that are pinned.
    pinned: usize,
    /// Pages that are paid for.
    charged: usize,
    mode: Mode,
    payer: Payer,
}

/// Registers of a device behind a dma-buf, which may be revoked at any time.
struct Mmio {
    /// Where they begin; `None` when they are revoked.
    phys: Option<u64>,
    attachment: Option<Attachment>,
    /// The page tables that they are in, and where.
    users: KVec<(PageTable, Extent)>,
}

/// What is guarded of [`Pages`].
enum Held {
    Memory(Memory),
    Mmio(Mmio),
}

/// Memory that can be mapped.
#[pin_data(PinnedDrop)]
pub(crate) struct Pages {
    source: Source,
    /// How many there are.
    count: usize,
    writable: bool,
    #[pin]
    held: Mutex<Held>,
}

/// Who holds pages.
enum Holder<'a> {
    Access(Found<'a, Access>),
    Mapping(Found<'a, Filled>),
    Nobody,
}

impl Memory {
    /// Who holds the page `at`, and up to which page, `last` at most, it is the same.
    fn holder(&self, at: usize, last: usize) -> (Holder<'_>, usize) {
        let mut last = last;
        if let Some(access) = self.accesses.overlaps(at, last).next() {
            if access.first <= at {
                last = last.min(access.last);
                return (Holder::Access(access), last);
            }
            last = access.first - 1;
        }
        if let Some(mapping) = self.mappings.overlaps(at, last).next() {
            if mapping.first <= at {
                last = last.min(mapping.last);
                return (Holder::Mapping(mapping), last);
            }
            last = mapping.first - 1;
        }
        (Holder::Nobody, last)
    }

    /// A mapping holds its pages from now on.
    fn add(
        &mut self,
        extent: &Extent,
        filled: Filled,
        slot: Slot<Member<Filled>>,
    ) -> Linked<Filled> {
        let (first, last) = (extent.index(), extent.last_index());
        self.mappings.insert(first, last, filled, slot)
    }

    /// The parts of a range that nobody holds.
    fn unheld(&self, first: usize, last: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let accesses = self.accesses.overlaps(first, last);
        let mappings = self.mappings.overlaps(first, last);
        let used = merged(
            accesses.map(|it| (it.first, it.last)),
            mappings.map(|it| (it.first, it.last)),
        );
        holes(first, last, used)
    }

    /// Pays for what is pinned now.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: the limit; `EINVAL`: who would pay is gone. Nothing has changed then.
    fn settle(&mut self) -> Result {
        if self.pinned > self.charged {
            if should_fail() {
                return Err(ENOMEM);
            }
            self.payer.charge(self.mode, self.pinned - self.charged)?;
        } else if self.pinned < self.charged {
            self.payer.uncharge(self.mode, self.charged - self.pinned);
        }
        self.charged = self.pinned;
        Ok(())
    }

    /// The same when pages were unpinned.
    fn settle_less(&mut self) {
        if !kernel::warn_on!(self.pinned > self.charged) {
            // What is given back is never refused.
            let _ = self.settle();
        }
    }

    /// Unpins the pages of `runs`, the first of which is `first`, that nobody holds.
    ///
    /// # Safety
    ///
    /// They are pinned, were held until now or pinned just now, and are in no page table.
    unsafe fn release(&mut self, runs: &Runs, first: usize, dirty: bool) {
        if runs.total() == 0 {
            return;
        }
        let last = first + runs.total() - 1;
        let mut released = 0;
        for (from, to) in self.unheld(first, last) {
            released += to - from + 1;
            if (from, to) == (first, last) {
                // SAFETY: By the caller; nobody holds them.
                runs.iter().for_each(|run| unsafe { unpin(run, dirty) });
                break;
            }
            for run in runs.part(from - first, to - from + 1) {
                // SAFETY: By the caller; nobody holds them.
                unsafe { unpin(run, dirty) };
            }
        }
        self.pinned -= released;
    }
}

/// Reads frames, batch by batch.
struct Batches<'a> {
    base: usize,
    pinner: Pinner<'a>,
    runs: Runs,
    /// The pages that are in `runs`: from the first one to before the second one.
    from: usize,
    to: usize,
    last: usize,
}

impl<'a> Batches<'a> {
    fn new(pages: &'a Pages, first: usize, last: usize) -> Self {
        Self {
            base: pages.source.base(),
            pinner: Pinner::new(&pages.source, pages.writable),
            runs: room_for_runs(last - first + 1),
            from: first,
            to: first,
            last,
        }
    }

    /// Reads the next ones; pins those that nobody holds. `false` when there are no more.
    ///
    /// # Errors
    ///
    /// Those of [`Pinner::take`]; what is in `runs` then is to be released, too.
    fn next(&mut self, memory: &mut Memory) -> Result<bool> {
        self.from = self.to;
        self.runs.clear();
        while self.to <= self.last {
            let before = self.runs.total();
            let (holder, last) = memory.holder(self.to, self.last);
            match holder {
                Holder::Access(it) => {
                    let (skip, len) = (self.to - it.first, last - self.to + 1);
                    it.value.frames.give(skip, len, &mut self.runs);
                }
                Holder::Mapping(it) => {
                    it.value
                        .give(self.base, it.first, self.to, last, &mut self.runs);
                }
                Holder::Nobody => {
                    let most = last - self.to + 1;
                    memory.pinned += self.pinner.take(self.to, most, &mut self.runs)?;
                }
            }
            self.to = self.from + self.runs.total();
            if self.runs.total() == before {
                break;
            }
        }
        Ok(self.to != self.from)
    }
}

/// As many as the memory for a moment has room for.
fn room_for_runs(pages: usize) -> Runs {
    Runs::new(pages.min(temp_limit() / size_of::<Run>()))
}

/// Maps runs, of which the first begins at the page `from`.
///
/// # Errors
///
/// Those of [`Mapper::finish`]; nothing of it is mapped then.
fn map_runs(
    table: PageTable,
    extent: &Extent,
    prot: Prot,
    large: bool,
    from: usize,
    runs: &Runs,
) -> Result {
    let start = extent.iova_of(from);
    let (mut iova, mut skip) = (start, extent.offset_of(from));
    let mut mapper = Mapper::new(table, start, prot);
    let done = runs.try_each(|run| {
        let size = (run.len * PAGE_SIZE - skip - 1).min(extent.last() - iova) + 1;
        let phys = (run.pfn * PAGE_SIZE + skip) as u64;
        iova = iova.wrapping_add(size);
        skip = 0;
        if large {
            return mapper.add(phys, size);
        }
        // So that each of these can be unmapped.
        (0..size)
            .step_by(PAGE_SIZE)
            .try_for_each(|at| mapper.add(phys + at as u64, PAGE_SIZE.min(size - at)))
    });
    let done = done.and_then(|()| mapper.finish());
    if done.is_err() && mapper.end() != start {
        table.unmap(start, mapper.end().wrapping_sub(1));
    }
    done
}

impl Pages {
    /// `length` bytes of memory, the first of which is at `start` in the first page.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length that no memory has; `ENOMEM`.
    pub(crate) fn new(
        source: Source,
        start: usize,
        length: usize,
        writable: bool,
        payer: Payer,
        mode: Mode,
    ) -> Result<Arc<Self>> {
        let count = count(start, length)?;
        let memory = Memory {
            accesses: OwningTree::new(),
            mappings: Tree::new(),
            pinned: 0,
            charged: 0,
            mode,
            payer,
        };
        Arc::pin_init(
            pin_init!(Self {
                source,
                count,
                writable,
                held <- new_mutex!(Held::Memory(memory), "iommufd_pages"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The same of registers behind a dma-buf, which begin at the byte `at` of it. Its lock has a
    /// class of its own: it is taken when they are revoked, under locks that are taken under the
    /// other one.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub(super) fn new_mmio(
        at: usize,
        start: usize,
        length: usize,
        writable: bool,
    ) -> Result<Arc<Self>> {
        let count = count(start, length)?;
        let mmio = Mmio {
            phys: None,
            attachment: None,
            users: KVec::new(),
        };
        Arc::pin_init(
            pin_init!(Self {
                source: Source::DmaBuf(at),
                count,
                writable,
                held <- new_mutex!(Held::Mmio(mmio), "iommufd_dmabuf_pages"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Whether they may be written.
    pub(crate) fn writable(&self) -> bool {
        self.writable
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Where their memory is aligned to, which mappings do well to follow.
    pub(crate) fn hint(&self, start: usize) -> usize {
        let (Source::User(_, at) | Source::File(_, at) | Source::DmaBuf(at)) = &self.source;
        at.wrapping_add(start)
    }

    /// Whether they are behind a dma-buf.
    pub(crate) fn is_mmio(&self) -> bool {
        matches!(self.source, Source::DmaBuf(_))
    }

    /// Whether they come from a file.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, Source::File(..))
    }

    /// Puts a mapping into all page tables, of which there is at least one. It is in none.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, also by the limit on pinned memory; what pinning and mapping say. Nothing has
    /// changed then.
    pub(crate) fn fill(
        &self,
        extent: &Extent,
        prot: Prot,
        large: bool,
        tables: &[PageTable],
    ) -> Result<Filling> {
        let Some(&storage) = tables.first() else {
            return Err(EINVAL);
        };
        let slot = (!self.is_mmio())
            .then(|| Slot::new(GFP_KERNEL_ACCOUNT))
            .transpose()?;
        let held = &mut *self.held.lock();
        match (held, slot) {
            (Held::Memory(memory), Some(slot)) => {
                let granule = self.fill_memory(memory, extent, prot, large, tables)?;
                let filled = Filled::new(storage, extent, granule);
                Ok(Filling::Memory(memory.add(extent, filled, slot)))
            }
            (Held::Mmio(mmio), _) => {
                mmio.fill(&self.source, extent, prot, large, tables)?;
                Ok(Filling::Mmio)
            }
            (Held::Memory(_), None) => Err(EINVAL),
        }
    }

    fn fill_memory(
        &self,
        memory: &mut Memory,
        extent: &Extent,
        prot: Prot,
        large: bool,
        tables: &[PageTable],
    ) -> Result<Granule> {
        let base = self.source.base();
        let first = extent.index();
        let mut granule = Granule::MAX;
        let mut batches = Batches::new(self, first, extent.last_index());
        // Tables that have the current batch, too.
        let mut mapped = 0;
        let mut fill = || -> Result {
            while batches.next(memory)? {
                // Where two batches meet there may be a boundary, or not.
                if batches.from != first {
                    granule.cut(base + batches.from);
                }
                granule.cut_between(base + batches.from, &batches.runs);
                for &table in tables {
                    map_runs(table, extent, prot, large, batches.from, &batches.runs)?;
                    mapped += 1;
                }
                mapped = 0;
                cond_resched();
            }
            memory.settle()
        };
        let Err(e) = fill() else {
            return Ok(granule);
        };
        // First no page table has any of it; then what nobody holds is unpinned.
        let done = batches.from;
        let unmap = |table: PageTable, end: usize| {
            if end > first {
                table.unmap(extent.iova(), extent.last_iova_of(end - 1));
            }
        };
        if let Some((&last, others)) = tables.split_last() {
            for (n, &table) in others.iter().enumerate() {
                unmap(table, if n < mapped { batches.to } else { done });
            }
            if done > first {
                let filled = Filled::new(last, extent, granule);
                // SAFETY: It has these pages, and no other table does but those of who holds them.
                unsafe { self.unfill_memory(memory, extent, &filled, done - 1) };
            }
        }
        // SAFETY: These were read just now, and are in no table any more.
        unsafe { memory.release(&batches.runs, batches.from, self.writable) };
        memory.settle_less();
        Err(e)
    }

    /// Takes the pages up to `last` out of a page table, and unpins those that nobody holds.
    ///
    /// # Safety
    ///
    /// The table has them, and they were held by the mapping or pinned for it.
    unsafe fn unfill_memory(
        &self,
        memory: &mut Memory,
        extent: &Extent,
        filled: &Filled,
        last: usize,
    ) {
        let (base, first) = (self.source.base(), extent.index());
        let table = filled.storage;
        let mut runs = room_for_runs(last - first + 1);
        let mut at = first;
        while at <= last {
            if memory.unheld(at, last).next().is_none() {
                // Others hold all the rest.
                table.unmap(extent.iova_of(at), extent.last_iova_of(last));
                return;
            }
            runs.clear();
            // This ends between two runs, so no entry of the table has pages on both sides.
            filled.give(base, first, at, last, &mut runs);
            let end = at + runs.total();
            table.unmap(extent.iova_of(at), extent.last_iova_of(end - 1));
            // SAFETY: They were held by the mapping, and this table was the last that has them for
            // it.
            unsafe { memory.release(&runs, at, self.writable) };
            at = end;
            cond_resched();
        }
    }

    /// Puts a mapping into one page table more.
    ///
    /// # Errors
    ///
    /// As [`Self::fill`].
    pub(crate) fn fill_more(
        &self,
        extent: &Extent,
        prot: Prot,
        large: bool,
        table: PageTable,
        filling: &mut Option<Filling>,
    ) -> Result {
        let Some(_) = filling else {
            *filling = Some(self.fill(extent, prot, large, &[table])?);
            return Ok(());
        };
        match &mut *self.held.lock() {
            Held::Memory(memory) => self
                .fill_memory(memory, extent, prot, large, &[table])
                .map(drop),
            Held::Mmio(mmio) => mmio.fill(&self.source, extent, prot, large, &[table]),
        }
    }

    /// Takes a mapping out of a page table; `other` is one that it stays in.
    pub(crate) fn unfill_one(
        &self,
        extent: &Extent,
        table: PageTable,
        other: PageTable,
        filling: &mut Filling,
    ) {
        match &mut *self.held.lock() {
            Held::Memory(memory) => {
                if let Filling::Memory(linked) = filling {
                    if let Some(filled) = memory.mappings.get_mut(linked) {
                        if filled.storage == table {
                            filled.storage = other;
                        }
                    }
                }
                // Without the lock nobody would read from it either, but this is not long.
                table.unmap(extent.iova(), extent.last());
            }
            Held::Mmio(mmio) => mmio.unfill(extent, &[table]),
        }
    }

    /// Takes a mapping out of all page tables that it is in.
    pub(crate) fn unfill(&self, extent: &Extent, tables: &[PageTable], filling: Filling) {
        match (&mut *self.held.lock(), filling) {
            (Held::Memory(memory), Filling::Memory(linked)) => {
                let Ok((filled, _)) = memory.mappings.remove(linked) else {
                    kernel::warn_on!(true);
                    return;
                };
                for &table in tables {
                    if table != filled.storage {
                        table.unmap(extent.iova(), extent.last());
                    }
                }
                // SAFETY: The mapping held them until now; only this table has them for it.
                unsafe { self.unfill_memory(memory, extent, &filled, extent.last_index()) };
                memory.settle_less();
            }
            (Held::Mmio(mmio), _) => mmio.unfill(extent, tables),
            (Held::Memory(_), Filling::Mmio) => {
                kernel::warn_on!(true);
            }
        }
    }

    /// Makes two mappings of one that is in page tables, without a change to these. `slot` is for
    /// the second one.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is none of these pages.
    pub(crate) fn split(
        &self,
        filling: Filling,
        parts: (&Extent, &Extent),
        slot: Slot<Member<Filled>>,
    ) -> Result<(Filling, Filling)> {
        let (Held::Memory(memory), Filling::Memory(linked)) = (&mut *self.held.lock(), filling)
        else {
            return Err(EINVAL);
        };
        let (filled, first) = memory.mappings.remove(linked).map_err(|_| EINVAL)?;
        let mut insert = |part: &Extent, slot| {
            let filled = Filled::new(filled.storage, part, filled.granule);
            Filling::Memory(memory.add(part, filled, slot))
        };
        Ok((insert(parts.0, first), insert(parts.1, slot)))
    }

    /// Pins pages for a driver and hands them out.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EFAULT`: there is no memory behind it; `EINVAL`: it cannot be pinned; `EPERM`: it
    /// must not be written.
    pub(super) fn pin(
        &self,
        first: usize,
        last: usize,
        write: bool,
        out: &mut PageSlots,
    ) -> Result {
        if write && !self.writable {
            return Err(EPERM);
        }
        let held = &mut *self.held.lock();
        let Held::Memory(memory) = held else {
            return Err(EINVAL);
        };
        if let Some(access) = memory.accesses.get_mut(first, last) {
            access.users += 1;
            access.frames.hand_out(last - first + 1, out);
            return Ok(());
        }
        let slot = Slot::new(GFP_KERNEL_ACCOUNT)?;
        let mut batches = Batches::new(self, first, last);
        let mut gathered = Gathered::new(last - first + 1);
        let mut gather = || -> Result {
            while batches.next(memory)? {
                gathered.add(&batches.runs)?;
                batches.from = batches.to;
            }
            memory.settle()
        };
        if let Err(e) = gather() {
            // SAFETY: These were read just now, and nobody has seen them.
            unsafe { gathered.release(memory, first) };
            if batches.from != batches.to {
                // SAFETY: These were read just now, and nobody has seen them.
                unsafe { memory.release(&batches.runs, batches.from, false) };
            }
            memory.settle_less();
            return Err(e);
        }
        let frames = gathered.frames;
        frames.hand_out(last - first + 1, out);
        let access = Access { users: 1, frames };
        memory.accesses.insert(first, last, access, slot);
        Ok(())
    }

    /// Undoes [`Self::pin`] of the same pages.
    pub(super) fn unpin(&self, first: usize, last: usize) {
        let held = &mut *self.held.lock();
        let Held::Memory(memory) = held else {
            return;
        };
        let Some(access) = memory.accesses.get_mut(first, last) else {
            kernel::warn_on!(true);
            return;
        };
        access.users -= 1;
        if access.users != 0 {
            return;
        }
        let Some((access, _)) = memory.accesses.remove(first, last) else {
            return;
        };
        let mut runs = room_for_runs(last - first + 1);
        let mut at = first;
        while at <= last {
            runs.clear();
            access.frames.give(at - first, last - at + 1, &mut runs);
            // SAFETY: The access held them until now, and has put them into no page table.
            unsafe { memory.release(&runs, at, self.writable) };
            at += runs.total();
        }
        memory.settle_less();
    }

    /// Copies between a buffer and the memory from the byte `start` on, without a regard for what
    /// the source has there by now: what devices see.
    ///
    /// # Errors
    ///
    /// Those of pinning.
    ///
    /// # Safety
    ///
    /// `data` has `len` bytes.
    pub(super) unsafe fn copy(
        &self,
        start: usize,
        data: *mut u8,
        len: usize,
        write: bool,
    ) -> Result {
        let held = &mut *self.held.lock();
        let Held::Memory(memory) = held else {
            return Err(EINVAL);
        };
        let (first, last) = (start / PAGE_SIZE, (start + len - 1) / PAGE_SIZE);
        let (mut data, mut left, mut offset) = (data, len, start % PAGE_SIZE);
        let mut batches = Batches::new(self, first, last);
        let result = loop {
            match batches.next(memory) {
                Ok(true) => (),
                Ok(false) => break Ok(()),
                Err(e) => break Err(e),
            }
            for run in batches.runs.iter() {
                for pfn in run.pfn..run.pfn + run.len {
                    let now = left.min(PAGE_SIZE - offset);
                    // SAFETY: It is pinned; by the caller.
                    unsafe { copy_page(pfn, offset, data, now, write) };
                    data = data.wrapping_add(now);
                    left -= now;
                    offset = 0;
                }
            }
            // SAFETY: Those that nobody holds were pinned just now.
            unsafe { memory.release(&batches.runs, batches.from, self.writable) };
        };
        if result.is_err() {
            // SAFETY: These were read just now, and nothing else holds them.
            unsafe { memory.release(&batches.runs, batches.from, self.writable) };
        }
        result
    }

    /// Where they are found.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Runs `f` while nothing is revoked, with whether nothing is.
    pub(crate) fn while_there<T>(&self, f: impl FnOnce(bool) -> T) -> T {
        let held = self.held.lock();
        f(!matches!(&*held, Held::Mmio(Mmio { phys: None, .. })))
    }

    /// The registers are at this address until they are revoked. The reservation lock is held.
    pub(super) fn set_mmio(&self, address: u64) {
        if let Held::Mmio(mmio) = &mut *self.held.lock() {
            mmio.phys = Some(address);
        }
    }

    /// Keeps what the registers are reached by.
    pub(super) fn set_attachment(&self, attachment: Attachment) {
        if let Held::Mmio(mmio) = &mut *self.held.lock() {
            mmio.attachment = Some(attachment);
        }
    }

    /// Lets lockdep see under which locks those of a dma-buf are taken.
    pub(super) fn touch_lock(&self) {
        if cfg!(CONFIG_LOCKDEP) {
            drop(self.held.lock());
        }
    }

    /// The registers behind the dma-buf must not be used any more.
    pub(super) fn revoke(&self) {
        if let Held::Mmio(mmio) = &mut *self.held.lock() {
            if mmio.phys.take().is_some() {
                for (table, extent) in &mmio.users {
                    table.unmap(extent.iova(), extent.last());
                }
            }
        }
    }
}

/// Pages of so many bytes from a byte of the first one on.
fn count(start: usize, length: usize) -> Result<usize> {
    if length == 0 || length > usize::MAX - PAGE_SIZE {
        return Err(EINVAL);
    }
    Ok((length - 1 + start) / PAGE_SIZE + 1)
}

impl Frames {
    fn hand_out(&self, len: usize, out: &mut PageSlots) {
        match self {
            Self::Run(pfn) => (*pfn..*pfn + len).for_each(|pfn| out.put(pfn)),
            Self::Each(all) => all.iter().for_each(|&pfn| out.put(pfn)),
        }
    }
}

/// Frames of an access that is being made.
struct Gathered {
    frames: Frames,
    len: usize,
    wanted: usize,
}

impl Gathered {
    fn new(wanted: usize) -> Self {
        Self {
            frames: Frames::Run(0),
            len: 0,
            wanted,
        }
    }

    /// Adds all of `runs`, or nothing.
    fn add(&mut self, runs: &Runs) -> Result {
        let mut all = runs.iter();
        let first = all.next().map_or(0, |run| run.pfn);
        if self.len == 0 && all.next().is_none() && runs.total() == self.wanted {
            self.frames = Frames::Run(first);
            self.len = self.wanted;
            return Ok(());
        }
        if self.len == 0 {
            if should_fail() {
                return Err(EINVAL);
            }
            let flags = GFP_KERNEL_ACCOUNT | __GFP_NOWARN;
            self.frames = Frames::Each(KVVec::with_capacity(self.wanted, flags)?);
        }
        if let Frames::Each(all) = &mut self.frames {
            for pfn in runs.iter().flat_map(|run| run.pfn..run.pfn + run.len) {
                // There is room for all.
                let _ = all.push_within_capacity(pfn);
            }
            self.len += runs.total();
        }
        Ok(())
    }

    /// Unpins those that nobody holds.
    ///
    /// # Safety
    ///
    /// They were read just now, the first one for the page `first`.
    unsafe fn release(&self, memory: &mut Memory, first: usize) {
        let mut runs = room_for_runs(self.len);
        let mut done = 0;
        while done < self.len {
            runs.clear();
            self.frames.give(done, self.len - done, &mut runs);
            // SAFETY: The caller says that nobody else holds what was pinned here.
            unsafe { memory.release(&runs, first + done, false) };
            done += runs.total();
        }
    }
}

impl Mmio {
    fn fill(
        &mut self,
        source: &Source,
        extent: &Extent,
        prot: Prot,
        large: bool,
        tables: &[PageTable],
    ) -> Result {
        self.users.reserve(tables.len(), GFP_KERNEL)?;
        if let Some(phys) = self.phys {
            let mut runs = Runs::new(1);
            runs.push(Run {
                // CAST: Physical addresses have less than 64 bits.
                pfn: phys as usize / PAGE_SIZE + source.base() + extent.index(),
                len: extent.last_index() - extent.index() + 1,
            });
            for (n, &table) in tables.iter().enumerate() {
                let from = extent.index();
                if let Err(e) = map_runs(table, extent, prot.of_mmio(), large, from, &runs) {
                    for &table in tables.iter().take(n) {
                        table.unmap(extent.iova(), extent.last());
                    }
                    return Err(e);
                }
            }
        }
        for &table in tables {
            // There is room.
            let _ = self.users.push_within_capacity((table, *extent));
        }
        Ok(())
    }

    fn unfill(&mut self, extent: &Extent, tables: &[PageTable]) {
        for &table in tables {
            if self.phys.is_some() {
                table.unmap(extent.iova(), extent.last());
            }
            self.users.retain(|user| *user != (table, *extent));
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Pages {
    fn drop(self: Pin<&mut Self>) {
        let attachment = match &mut *self.held.lock() {
            Held::Memory(memory) => {
                let is_held = !memory.accesses.is_empty() || !memory.mappings.is_empty();
                kernel::warn_on!(is_held || memory.pinned != 0);
                None
            }
            Held::Mmio(mmio) => {
                kernel::warn_on!(!mmio.users.is_empty());
                mmio.attachment.take()
            }
        };
        // Until this is done they may be revoked, which takes the lock.
        drop(attachment);
    }
}

/// What a process pays for pages, and letting another one do it. Tables that map them are locked.
impl Pages {
    fn with_memory<T>(&self, f: impl FnOnce(&mut Memory) -> T) -> Option<T> {
        match &mut *self.held.lock() {
            Held::Memory(memory) => Some(f(memory)),
            Held::Mmio(_) => None,
        }
    }

    /// How they are accounted for, if they are.
    pub(crate) fn mode(&self) -> Mode {
        self.with_memory(|memory| memory.mode).unwrap_or(Mode::None)
    }

    /// Whether somebody else than the current process pays for them.
    pub(crate) fn charged_to_other(&self) -> bool {
        self.with_memory(|memory| memory.payer.is_other(memory.mode))
            .unwrap_or(false)
    }

    /// The number of pages that are charged for, counted once: the next time it is 0.
    pub(crate) fn take_charged(&self) -> usize {
        self.with_memory(|memory| core::mem::take(&mut memory.charged))
            .unwrap_or(0)
    }

    /// Undoes [`Self::take_charged`].
    pub(crate) fn restore_charged(&self) {
        self.with_memory(|memory| memory.charged = memory.pinned);
    }

    /// Makes `payer` pay, who was charged, and gives the charge of who paid back, if that was
    /// another one.
    pub(crate) fn hand_over(&self, payer: Payer) {
        self.with_memory(|memory| {
            if memory.payer.is_other(memory.mode) {
                memory.payer.uncharge(memory.mode, memory.pinned);
                memory.charged = memory.pinned;
            }
            memory.payer = payer;
        });
    }
}
