// SPDX-License-Identifier: GPL-2.0-only

//! The IOVAs of an IOAS: what is mapped, what may be, and the page tables that have it.
//!
//! A mapping is an [`Area`], in a tree by its IOVAs. It is made in three steps, so that nothing is
//! held for writing while memory is pinned: its IOVAs are taken, its pages are put into the page
//! tables, it gets them. It goes the same way back. In between it has no pages, and the semaphore
//! of the page tables is held for reading; who holds that for writing meets such areas only before
//! their pages are in any table.
//!
//! # Lock order
//!
//! `domains`, `iovas`, the lock of the pages. Drivers that have pinned pages are told to let go of
//! them without any.

use crate::{
    access,
    area::{
        last_of,
        Extent, //
    },
    ffi::{
        client::AccessList,
        context::Ctx,
        dirty::{
            self,
            UserBitmap, //
        },
        dmabuf::{
            self,
            DmaBuf, //
        },
        pages::{
            Filling,
            Pages, //
        },
        payer::{
            Mode,
            Payer, //
        },
        pgtable::{
            PageTable,
            Prot, //
        },
        pin::{
            PinnedFile,
            Source, //
        }, //
    },
    fit::{
        holes,
        merged,
        Wanted,
        FIRST,
        LAST, //
    }, //
};
use kernel::{
    alloc::flags::__GFP_NOWARN,
    interval_tree::{
        Found,
        OwningTree,
        Slot, //
    },
    new_rwsem,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rwsem::{
            ReadGuard,
            RwSem,
            WriteGuard, //
        },
        Arc, //
    }, //
};

/// What a device may do with a mapping.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Access {
    fn prot(self) -> Prot {
        Prot::new(self.read, self.write)
    }
}

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// To this IOVA, or fail.
    At(usize),
    /// Wherever there is room.
    Anywhere,
}

/// Who has reserved IOVAs: an address that is only compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(pub(crate) usize);

/// The pages of an area, and how they are in the page tables, if there are any.
struct Mapped {
    pages: Arc<Pages>,
    filling: Option<Filling>,
}

/// A mapping. Where it is the tree knows.
pub(crate) struct Area {
    /// The byte of its pages at which it begins.
    start: usize,
    prot: Prot,
    /// `None` while it is made or taken away.
    mapped: Option<Mapped>,
    /// Drivers must not pin its pages any more. This is for good.
    prevent_access: bool,
    /// How often drivers have pinned pages of it.
    accesses: Atomic<u32>,
    /// How often the kernel has done so for itself; then it stays mapped.
    locks: Atomic<u32>,
}

// There may be millions, and the next size of kmalloc() is 128.
const _: () = assert!(Slot::<Area>::SIZE <= 96);

impl Area {
    /// Where it is, of which the tree has the IOVAs.
    fn extent(&self, first: usize, last: usize) -> Extent {
        Extent::again(first, last, self.start)
    }

    /// What may be done with it.
    pub(crate) fn prot(&self) -> Prot {
        self.prot
    }

    /// Its pages; `None` while it is made or taken away.
    pub(crate) fn pages(&self) -> Option<&Pages> {
        self.mapped.as_ref().map(|it| &*it.pages)
    }

    /// Whether drivers must not pin its pages.
    pub(crate) fn prevents_access(&self) -> bool {
        self.prevent_access
    }

    /// A driver has pinned pages of it; `lock` when that is the kernel itself.
    pub(crate) fn pinned(&self, lock: bool) {
        self.accesses.fetch_add(1, Relaxed);
        if lock {
            self.locks.fetch_add(1, Relaxed);
        }
    }

    /// Undoes [`Self::pinned`].
    pub(crate) fn unpinned(&self, lock: bool) {
        kernel::warn_on!(self.accesses.fetch_sub(1, Relaxed) == 0);
        if lock {
            kernel::warn_on!(self.locks.fetch_sub(1, Relaxed) == 0);
        }
    }
}

/// The page tables of an IOAS.
pub(crate) struct Domains {
    tables: KVec<PageTable>,
}

/// The IOVAs of an IOAS.
pub(crate) struct Iovas {
    areas: OwningTree<Area>,
    /// Nobody may reserve these. When there are any, only these are chosen.
    allowed: OwningTree<()>,
    /// These cannot be mapped.
    reserved: OwningTree<Owner>,
    /// What all areas are aligned to, a power of two up to a page.
    alignment: usize,
}

/// See above.
#[pin_data]
pub(crate) struct IoPagetable {
    #[pin]
    domains: RwSem<Domains>,
    #[pin]
    iovas: RwSem<Iovas>,
    /// Whether page tables may have entries that are larger than a page. It changes as the next
    /// one does, and may be looked at by who holds neither and must not wait for either.
    large: Atomic<bool>,
    /// Who may pin pages. It changes while both semaphores are held for writing.
    #[pin]
    accesses: AccessList,
}

/// Memory that is to be mapped, `length` bytes from its byte `start` on.
pub(crate) struct Part {
    pages: Arc<Pages>,
    start: usize,
    length: usize,
    slot: Option<Slot<Area>>,
    extent: Option<Extent>,
    filling: Option<Filling>,
}

impl Part {
    fn new(pages: Arc<Pages>, start: usize, length: usize) -> Self {
        Self {
            pages,
            start,
            length,
            slot: None,
            extent: None,
            filling: None,
        }
    }
}

fn range<T>(found: Found<'_, T>) -> (usize, usize) {
    (found.first, found.last)
}

impl Iovas {
    /// The area that an IOVA is in, and where that is.
    pub(crate) fn at(&self, iova: usize) -> Option<(Extent, &Area)> {
        self.areas(iova, iova).next()
    }

    /// The areas that have an IOVA in the range, in order.
    pub(crate) fn areas(&self, first: usize, last: usize) -> impl Iterator<Item = (Extent, &Area)> {
        let areas = self.areas.overlaps(first, last);
        areas.map(|it| (it.value.extent(it.first, it.last), it.value))
    }

    /// Where those are that have pages.
    fn mapped(&self, first: usize, last: usize) -> impl Iterator<Item = Extent> + '_ {
        let mapped = self.areas(first, last).filter(|it| it.1.mapped.is_some());
        mapped.map(|it| it.0)
    }

    /// What IOVAs and lengths must be multiples of, in bytes.
    pub(crate) fn alignment(&self) -> usize {
        self.alignment
    }

    /// The ranges that are not reserved, in order.
    pub(crate) fn usable(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let reserved = self.reserved.overlaps(0, usize::MAX).map(range);
        holes(0, usize::MAX, reserved)
    }

    /// Up to `most` of these without the first `skip`, as `f` makes them.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn collect<T>(
        &self,
        skip: usize,
        most: usize,
        f: impl Fn((usize, usize)) -> T,
    ) -> Result<KVVec<T>> {
        let count = self.usable().skip(skip).take(most).count();
        // User space chose how many ranges there are.
        let mut all = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
        for range in self.usable().skip(skip).take(count) {
            all.push(f(range), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(all)
    }

    /// Whether a range can be mapped.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is not aligned, or reserved; `EOVERFLOW`; `EEXIST`: something is mapped there.
    fn check(&self, iova: usize, length: usize) -> Result {
        if iova & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        let last = last_of(iova, length)?;
        if self.reserved.overlaps(iova, last).next().is_some() {
            return Err(EINVAL);
        }
        if self.areas.overlaps(iova, last).next().is_some() {
            return Err(EEXIST);
        }
        Ok(())
    }

    /// Room for so many bytes, aligned like the memory at `hint`.
    ///
    /// # Errors
    ///
    /// `ENOSPC`: there is none; those of [`Wanted::new`].
    fn choose(&self, hint: usize, length: usize) -> Result<usize> {
        let wanted = Wanted::new(hint, length, self.alignment)?;
        let fit = |(first, last)| {
            let reserved = self.reserved.overlaps(first, last).map(range);
            let areas = self.areas.overlaps(first, last).map(range);
            holes(first, last, merged(reserved, areas)).find_map(|(a, b)| wanted.fit(a, b))
        };
        let found = if self.allowed.is_empty() {
            fit((FIRST, LAST))
        } else {
            // Those that touch are one.
            let allowed = self.allowed.overlaps(FIRST, LAST).map(range);
            holes(FIRST, LAST, holes(FIRST, LAST, allowed))
                .filter(|&(first, last)| wanted.fit(first, last).is_some())
                .find_map(fit)
        };
        found.ok_or(ENOSPC)
    }

    /// Adds an area that has no pages yet.
    ///
    /// # Errors
    ///
    /// `EPERM`: the pages must not be written; `EINVAL`: they are not aligned; `EOVERFLOW`.
    fn insert(&mut self, iova: usize, prot: Prot, part: &mut Part) -> Result {
        if prot.writes() && !part.pages.writable() {
            return Err(EPERM);
        }
        if (part.start % PAGE_SIZE) & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        let extent = Extent::new(iova, part.start, part.length)?;
        if kernel::warn_on!(extent.last_index() >= part.pages.count()) {
            return Err(EOVERFLOW);
        }
        let slot = part.slot.take().ok_or(ENOMEM)?;
        self.put(extent, prot, None, slot);
        part.extent = Some(extent);
        Ok(())
    }

    fn put(&mut self, extent: Extent, prot: Prot, mapped: Option<Mapped>, slot: Slot<Area>) {
        let area = Area {
            start: extent.start(),
            prot,
            mapped,
            prevent_access: false,
            accesses: Atomic::new(0),
            locks: Atomic::new(0),
        };
        self.areas.insert(extent.iova(), extent.last(), area, slot);
    }

    fn remove(&mut self, extent: &Extent) -> Option<Area> {
        let removed = self.areas.remove(extent.iova(), extent.last());
        removed.map(|(area, _)| area)
    }

    /// Keeps a range from being mapped.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: something is mapped there, or it is allowed; `ENOMEM`.
    pub(crate) fn reserve(&mut self, first: usize, last: usize, owner: Owner) -> Result {
        if self.areas.overlaps(first, last).next().is_some()
            || self.allowed.overlaps(first, last).next().is_some()
        {
            return Err(EADDRINUSE);
        }
        let slot = Slot::new(GFP_KERNEL_ACCOUNT)?;
        self.reserved.insert(first, last, owner, slot);
        Ok(())
    }

    /// Gives back all that was reserved.
    pub(crate) fn unreserve(&mut self, owner: Owner) {
        while self.reserved.remove_if(|it| *it == owner).is_some() {}
    }

    /// Lets all areas be aligned to `wanted` from now on.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: one is not.
    fn align(&mut self, wanted: usize) -> Result {
        let is_aligned = |(extent, _): (Extent, &Area)| extent.is_aligned(wanted);
        if wanted > self.alignment && !self.areas(0, usize::MAX).all(is_aligned) {
            return Err(EADDRINUSE);
        }
        self.alignment = wanted;
        Ok(())
    }
}

impl Domains {
    /// What its tables want all areas to be aligned to.
    fn alignment(&self, large: bool) -> usize {
        let least = if large { 1 } else { PAGE_SIZE };
        let all = self.tables.iter().map(|table| table.smallest_page());
        all.fold(least, usize::max)
    }
}

impl IoPagetable {
    /// One in which nothing is mapped. All IOVAs can be, as there is no page table yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            domains <- new_rwsem!(
                Domains {
                    tables: KVec::new(),
                },
                "domains_rwsem"
            ),
            iovas <- new_rwsem!(
                Iovas {
                    areas: OwningTree::new(),
                    allowed: OwningTree::new(),
                    reserved: OwningTree::new(),
                    alignment: 1,
                },
                "iova_rwsem"
            ),
            large: Atomic::new(true),
            accesses <- AccessList::new(),
        })
    }

    /// Its IOVAs, while they cannot change.
    pub(crate) fn read(&self) -> ReadGuard<'_, Iovas> {
        self.iovas.read()
    }

    /// Its IOVAs, to be changed.
    pub(crate) fn write(&self) -> WriteGuard<'_, Iovas> {
        self.iovas.write()
    }

    /// The same below another lock, under which all of a context are locked.
    pub(crate) fn write_nested<'a>(&'a self, outer: &WriteGuard<'a>) -> WriteGuard<'a, Iovas> {
        self.iovas.write_nested(outer)
    }

    /// Maps memory of the caller's process; returns where.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a length of 0 or what is not aligned; `EADDRINUSE`, `ENOSPC` when there is no
    /// room; `EOVERFLOW`; `ENOMEM`, also by the limit on pinned memory; `EFAULT`.
    pub(crate) fn map_user(
        &self,
        ctx: &Ctx,
        place: Place,
        address: u64,
        length: usize,
        access: Access,
    ) -> Result<usize> {
        // CAST: Both have 64 bits.
        let address = address as usize;
        address.checked_add(length).ok_or(EOVERFLOW)?;
        let inside = address % PAGE_SIZE;
        let payer = Payer::current()?;
        let source = Source::User(payer.mm(), address - inside);
        let mode = Mode::of_current(ctx.account_mode());
        let pages = Pages::new(source, inside, length, access.write, payer, mode)?;
        let mut part = [Part::new(pages, inside, length)];
        self.map(place, &mut part, length, access)
    }

    /// Maps a part of a memfd or a dma-buf; returns where.
    ///
    /// # Errors
    ///
    /// As [`Self::map_user`]; `EBADF`; `EINVAL` for a file whose pages cannot be pinned; `EACCES`
    /// and `EPERM` for one that is not open for that, or sealed.
    pub(crate) fn map_file(
        &self,
        ctx: &Ctx,
        place: Place,
        fd: c_int,
        start: usize,
        length: usize,
        access: Access,
    ) -> Result<usize> {
        last_of(start, length)?;
        let inside = start % PAGE_SIZE;
        let pages = if let Some(buf) = DmaBuf::get(fd) {
            dmabuf::import(buf, start, length, access.write)?
        } else {
            let file = PinnedFile::get(fd, access.write)?;
            let source = Source::File(file, start - inside);
            let mode = Mode::of_current(ctx.account_mode());
            Pages::new(
                source,
                inside,
                length,
                access.write,
                Payer::current()?,
                mode,
            )?
        };
        let mut part = [Part::new(pages, inside, length)];
        self.map(place, &mut part, length, access)
    }

    /// Collects the pages of a range that is mapped without a hole.
    ///
    /// # Errors
    ///
    /// `ENOENT` for a hole; `EINVAL`, `EOVERFLOW`, `ENOMEM`.
    pub(crate) fn get_pages(&self, iova: usize, length: usize) -> Result<KVec<Part>> {
        let last = last_of(iova, length)?;
        let mut parts = KVec::new();
        let iovas = self.read();
        let mut at = Some(iova);
        for (extent, area) in iovas.areas(iova, last) {
            let first = at.ok_or(ENOENT)?;
            let mapped = area.mapped.as_ref().ok_or(ENOENT)?;
            if extent.iova() > first {
                return Err(ENOENT);
            }
            let length = last.min(extent.last()) - first + 1;
            let part = Part::new(mapped.pages.clone(), extent.byte(first), length);
            parts.push(part, GFP_KERNEL_ACCOUNT | __GFP_NOWARN)?;
            at = extent.last().checked_add(1);
        }
        if at.is_some_and(|at| at <= last) {
            return Err(ENOENT);
        }
        Ok(parts)
    }

    /// Takes the IOVAs for all parts.
    fn take_iovas(
        &self,
        place: Place,
        parts: &mut [Part],
        length: usize,
        prot: Prot,
    ) -> Result<usize> {
        for part in parts.iter_mut() {
            part.slot = Some(Slot::new(GFP_KERNEL_ACCOUNT)?);
        }
        let mut iovas = self.write();
        if length == 0 || length & (iovas.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        let iova = match place {
            Place::At(iova) => {
                iovas.check(iova, length)?;
                iova
            }
            Place::Anywhere => {
                let first = parts.first().ok_or(EINVAL)?;
                iovas.choose(first.pages.hint(first.start), length)?
            }
        };
        let mut at = iova;
        for part in parts.iter_mut() {
            iovas.insert(at, prot, part)?;
            at = at.wrapping_add(part.length);
        }
        Ok(iova)
    }

    /// Maps all parts, one behind the other, `length` bytes in all; returns where.
    ///
    /// # Errors
    ///
    /// As [`Self::map_user`]. Nothing has changed then.
    pub(crate) fn map(
        &self,
        place: Place,
        parts: &mut [Part],
        length: usize,
        access: Access,
    ) -> Result<usize> {
        let prot = access.prot();
        let result = self
            .take_iovas(place, parts, length, prot)
            .and_then(|iova| {
                let domains = self.domains.read();
                self.fill(&domains, parts, prot)?;
                let mut iovas = self.write();
                for part in parts.iter_mut() {
                    let Some(extent) = part.extent.take() else {
                        continue;
                    };
                    if let Some(area) = iovas.areas.get_mut(extent.iova(), extent.last()) {
                        area.mapped = Some(Mapped {
                            pages: part.pages.clone(),
                            filling: part.filling.take(),
                        });
                    }
                }
                Ok(iova)
            });
        if result.is_err() {
            let mut iovas = self.write();
            for extent in parts.iter().filter_map(|part| part.extent.as_ref()) {
                iovas.remove(extent);
            }
        }
        result
    }

    /// Puts all parts into all page tables.
    fn fill(&self, domains: &Domains, parts: &mut [Part], prot: Prot) -> Result {
        let tables = &domains.tables;
        if tables.is_empty() {
            return Ok(());
        }
        let large = self.large_pages();
        let mut done = 0;
        let result = parts.iter_mut().try_for_each(|part| {
            let extent = part.extent.as_ref().ok_or(EINVAL)?;
            part.filling = Some(part.pages.fill(extent, prot, large, tables)?);
            done += 1;
            Ok(())
        });
        if result.is_err() {
            for part in parts.iter_mut().take(done) {
                if let (Some(extent), Some(filling)) = (&part.extent, part.filling.take()) {
                    part.pages.unfill(extent, tables, filling);
                }
            }
        }
        result
    }

    /// Unmaps a range; returns how much was unmapped, also where that failed on the way.
    ///
    /// # Errors
    ///
    /// `ENOENT` when a mapping is only partly inside, `EBUSY` when one is being made, `EDEADLOCK`
    /// when a driver does not let go of its pages; `EINVAL`, `EOVERFLOW`.
    pub(crate) fn unmap(&self, iova: usize, length: usize) -> (usize, Result) {
        match last_of(iova, length) {
            Ok(last) => self.unmap_range(iova, last),
            Err(e) => (0, Err(e)),
        }
    }

    /// Unmaps everything; returns how much that was, also where it failed on the way.
    ///
    /// # Errors
    ///
    /// As [`Self::unmap`].
    pub(crate) fn unmap_all(&self) -> (usize, Result) {
        self.unmap_range(0, usize::MAX)
    }

    fn unmap_range(&self, first: usize, last: usize) -> (usize, Result) {
        /// How often drivers are told to let go of an area's pages.
        const TRIES: u32 = 100;
        let mut first = first;
        let mut unmapped = 0usize;
        let mut tries = 0;
        let result = loop {
            let ((from, to), in_use) = match self.unmap_first(first, last) {
                Ok(Some(done)) => done,
                Ok(None) => break Ok(()),
                Err(e) => break Err(e),
            };
            if from != first {
                tries = 0;
            }
            if in_use {
                first = from;
                self.accesses
                    .notify_unmap(from, (to - from).wrapping_add(1));
                tries += 1;
                if kernel::warn_on!(tries > TRIES) {
                    break Err(EDEADLK);
                }
                continue;
            }
            unmapped = unmapped.wrapping_add((to - from).wrapping_add(1));
            // What is mapped behind us meanwhile stays.
            if to >= last {
                break Ok(());
            }
            first = to + 1;
            tries = 0;
        };
        (unmapped, result)
    }

    /// Unmaps the first area in a range. Returns where it was or, when drivers have pinned pages of
    /// it, is: then they cannot pin any more, and have to be told.
    fn unmap_first(&self, first: usize, last: usize) -> Result<Option<((usize, usize), bool)>> {
        let domains = self.domains.read();
        let mut iovas = self.write();
        let Some((from, to, area)) = iovas.areas.overlaps_mut(first, last).next() else {
            return Ok(None);
        };
        if area.mapped.is_none() || area.locks.load(Relaxed) != 0 {
            return Err(EBUSY);
        }
        if from < first || to > last {
            return Err(ENOENT);
        }
        if area.accesses.load(Relaxed) != 0 {
            area.prevent_access = true;
            return Ok(Some(((from, to), true)));
        }
        let extent = area.extent(from, to);
        let Some(Mapped { pages, filling }) = area.mapped.take() else {
            return Err(EBUSY);
        };
        drop(iovas);
        if let Some(filling) = filling {
            pages.unfill(&extent, &domains.tables, filling);
        }
        self.write().remove(&extent);
        Ok(Some(((from, to), false)))
    }

    /// Replaces the ranges that must stay usable; the old ones end up in `ranges`.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE` when one of them is reserved already; then the old ones stay.
    pub(crate) fn set_allowed(&self, ranges: &mut Allowed) -> Result {
        let mut iovas = self.write();
        let is_free =
            |it: Found<'_, ()>| iovas.reserved.overlaps(it.first, it.last).next().is_none();
        if !ranges.0.overlaps(0, usize::MAX).all(is_free) {
            return Err(EADDRINUSE);
        }
        core::mem::swap(&mut iovas.allowed, &mut ranges.0);
        Ok(())
    }

    /// Whether mappings may use entries larger than a page.
    pub(crate) fn large_pages(&self) -> bool {
        self.large.load(Relaxed)
    }

    /// Lets mappings use large entries, or not.
    ///
    /// # Errors
    ///
    /// `EINVAL` when a domain has something mapped already; `EADDRINUSE` when something is mapped
    /// that is not aligned well enough then.
    pub(crate) fn set_large_pages(&self, allow: bool) -> Result {
        let domains = self.domains.write();
        let mut iovas = self.write();
        if self.large_pages() == allow {
            return Ok(());
        }
        if !allow && !domains.tables.is_empty() && !iovas.areas.is_empty() {
            return Err(EINVAL);
        }
        self.large.store(allow, Relaxed);
        self.realign(&domains, &mut iovas)
            .inspect_err(|_| self.large.store(!allow, Relaxed))
    }

    /// Aligns to what page tables and accesses need.
    fn realign(&self, domains: &Domains, iovas: &mut Iovas) -> Result {
        let tables = domains.alignment(self.large_pages());
        iovas.align(tables.max(self.accesses.alignment()))
    }

    /// The page sizes that all its domains have, a bit each, and what mappings are aligned to.
    pub(crate) fn page_sizes(&self) -> (usize, usize) {
        let domains = self.domains.read();
        let sizes = domains.tables.iter().map(|table| table.sizes());
        (
            sizes.fold(usize::MAX, |all, it| all & it),
            self.read().alignment,
        )
    }

    /// Maps everything into a page table, and from then on what is mapped later.
    ///
    /// # Errors
    ///
    /// `EINVAL`: its smallest page is larger than ours; `EADDRINUSE`: something is mapped that it
    /// cannot translate, or that is not aligned well enough for it; `ENOMEM`; what mapping says.
    pub(crate) fn add_domain(&self, table: PageTable) -> Result {
        let mut domains = self.domains.write();
        let iovas = &mut *self.write();
        if kernel::warn_on!(domains.tables.contains(&table)) {
            return Err(EEXIST);
        }
        let alignment = iovas.alignment.max(table.smallest_page());
        if alignment > PAGE_SIZE {
            return Err(EINVAL);
        }
        let before = iovas.alignment;
        iovas.align(alignment)?;
        let result = self.add_aligned(&mut domains, iovas, table);
        if result.is_err() {
            iovas.unreserve(table.owner());
            iovas.alignment = before;
        }
        result
    }

    fn add_aligned(&self, domains: &mut Domains, iovas: &mut Iovas, table: PageTable) -> Result {
        let large = self.large_pages();
        let (first, last) = table.aperture();
        if first != 0 {
            iovas.reserve(0, first - 1, table.owner())?;
        }
        if last != usize::MAX {
            iovas.reserve(last + 1, usize::MAX, table.owner())?;
        }
        domains.tables.reserve(1, GFP_KERNEL)?;
        let mut done = None;
        for (first, last, area) in iovas.areas.overlaps_mut(0, usize::MAX) {
            let extent = area.extent(first, last);
            let Some(Mapped { pages, filling }) = &mut area.mapped else {
                continue;
            };
            let filled = pages.fill_more(&extent, area.prot, large, table, filling);
            if let Err(e) = filled {
                if let Some(done) = done {
                    Self::remove_from(iovas, done, domains.tables.first(), table);
                }
                return Err(e);
            }
            done = Some(first);
        }
        // There is room.
        domains
            .tables
            .push_within_capacity(table)
            .map_err(|_| ENOMEM)
    }

    /// Takes all areas that begin up to `last` out of a page table; `other` is one that they stay
    /// in.
    fn remove_from(iovas: &mut Iovas, last: usize, other: Option<&PageTable>, table: PageTable) {
        for (first, last, area) in iovas.areas.overlaps_mut(0, last) {
            let extent = area.extent(first, last);
            let Some(Mapped { pages, filling }) = &mut area.mapped else {
                continue;
            };
            match (other, &mut *filling) {
                (Some(&other), Some(filling)) => {
                    pages.unfill_one(&extent, table, other, filling);
                }
                _ => {
                    if let Some(filling) = filling.take() {
                        pages.unfill(&extent, &[table], filling);
                    }
                }
            }
        }
    }

    /// Unmaps all of it again.
    pub(crate) fn remove_domain(&self, table: PageTable) {
        let mut domains = self.domains.write();
        let iovas = &mut *self.write();
        let Some(at) = domains.tables.iter().position(|it| *it == table) else {
            kernel::warn_on!(true);
            return;
        };
        // The order means nothing.
        if let Some(last) = domains.tables.pop() {
            if let Some(place) = domains.tables.get_mut(at) {
                *place = last;
            }
        }
        Self::remove_from(iovas, usize::MAX, domains.tables.first(), table);
        iovas.unreserve(table.owner());
        kernel::warn_on!(self.realign(&domains, iovas).is_err());
    }

    /// Lets an access pin pages.
    ///
    /// # Errors
    ///
    /// `EADDRINUSE`: something is mapped that is not aligned well enough; `ENOMEM`.
    pub(crate) fn add_access(&self, access: &access::Access) -> Result<u32> {
        let domains = self.domains.write();
        let mut iovas = self.write();
        let id = self.accesses.add(access)?;
        self.realign(&domains, &mut iovas)
            .inspect_err(|_| self.accesses.remove(id))?;
        Ok(id)
    }

    /// Undoes [`Self::add_access`].
    pub(crate) fn remove_access(&self, id: u32) {
        let domains = self.domains.write();
        let mut iovas = self.write();
        self.accesses.remove(id);
        kernel::warn_on!(self.realign(&domains, &mut iovas).is_err());
    }

    /// Makes sure that no mapping goes across these IOVAs: they are the last ones of a part.
    ///
    /// # Errors
    ///
    /// `EBUSY` for a mapping that is being made or unmapped; `EOPNOTSUPP` for one of a dma-buf;
    /// `EINVAL` where the cut is not aligned, a driver has pinned pages, or a domain may have large
    /// ones; `ENOMEM`.
    pub(crate) fn cut(&self, iovas: &[usize]) -> Result {
        let mut all = self.write();
        let large = self.large_pages();
        for &iova in iovas {
            all.split(iova, large)?;
        }
        Ok(())
    }

    /// Calls `f` with where an area is that has pages, while these stay where they are.
    #[cfg(CONFIG_IOMMUFD_TEST)]
    pub(crate) fn while_mapped<T>(&self, iova: usize, f: impl FnOnce(&Extent) -> T) -> Option<T> {
        let iovas = self.read();
        let (extent, area) = iovas.at(iova)?;
        let pages = area.pages()?;
        Some(pages.while_there(|_| f(&extent)))
    }

    /// The physical address at an IOVA and how many bytes follow it there, at least one and at most
    /// `most`, for devices without an IOMMU.
    ///
    /// # Errors
    ///
    /// `ENOENT` when nothing is mapped there; `EINVAL` for what is revoked; `EOPNOTSUPP` when it is
    /// in the page table of an IOMMU, or in none.
    pub(crate) fn physical(&self, iova: usize, most: u64) -> Result<(u64, u64)> {
        let domains = self.domains.read();
        let iovas = self.read();
        let (extent, area) = iovas.at(iova).ok_or(ENOENT)?;
        let mapped = area.mapped.as_ref().ok_or(ENOENT)?;
        mapped.pages.while_there(|is_there| {
            if !is_there {
                return Err(EINVAL);
            }
            let table = domains.tables.first().filter(|_| mapped.filling.is_some());
            let table = table.filter(|it| it.is_identity()).ok_or(EOPNOTSUPP)?;
            let start = table.phys(iova);
            let last = extent.last();
            let mut length = PAGE_SIZE - iova % PAGE_SIZE;
            // As far as the next page follows in memory.
            while (length as u64) < most && length <= last - iova {
                let next = table.phys(iova + length);
                if next == 0 || next != start + length as u64 {
                    break;
                }
                length += PAGE_SIZE;
            }
            let length = length.min((last - iova).saturating_add(1)) as u64;
            Ok((start, length.min(most)))
        })
    }

    /// Begins or ends recording what is written to through a page table.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it cannot.
    pub(crate) fn set_dirty_tracking(&self, table: PageTable, enable: bool) -> Result {
        let iovas = self.read();
        if enable {
            // What was written before is not meant.
            dirty::forget(table, |reading| {
                let done = iovas
                    .mapped(0, usize::MAX)
                    .try_for_each(|extent| reading.read(extent.iova(), extent.last()));
                reading.sync();
                done
            })?;
        }
        table.set_dirty_tracking(enable)
    }

    /// Puts what was written to into user space's bitmap, and forgets it unless `flags` say no.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is empty, not aligned, or a page size is no power of two; `EOVERFLOW`: it
    /// wraps; `EOPNOTSUPP`: the domain cannot; `ENOMEM`; `EFAULT`: the bitmap cannot be written.
    pub(crate) fn read_dirty(&self, table: PageTable, flags: u32, bitmap: UserBitmap) -> Result {
        let (first, last) = (bitmap.iova, last_of(bitmap.iova, bitmap.length)?);
        let aligned = |to: usize| (first | last.wrapping_add(1)) & (to - 1) == 0;
        let page_size = bitmap.page_size;
        let alignment = self.read().alignment;
        if !aligned(alignment) || !page_size.is_power_of_two() || !aligned(page_size) {
            return Err(EINVAL);
        }
        dirty::read(table, flags, bitmap, &mut |reading, first, last| {
            let iovas = self.read();
            let done = iovas.mapped(first, last).try_for_each(|extent| {
                reading.read(extent.iova().max(first), extent.last().min(last))
            });
            reading.sync();
            done
        })
    }
}

impl Iovas {
    /// Makes two of the area that `iova` is in, which becomes the last one of the first of them.
    fn split(&mut self, iova: usize, large: bool) -> Result {
        let Some((first, last, area)) = self.areas.overlaps_mut(iova, iova).next() else {
            return Ok(());
        };
        if iova == first || iova == last {
            return Ok(());
        }
        let Some(mapped) = area.mapped.as_ref().filter(|_| !area.prevent_access) else {
            return Err(EBUSY);
        };
        if mapped.pages.is_mmio() {
            return Err(EOPNOTSUPP);
        }
        let (at, extent) = (iova + 1, area.extent(first, last));
        if (at | extent.byte(at)) & (self.alignment - 1) != 0 {
            return Err(EINVAL);
        }
        let (areas, fillings) = (
            Slot::new(GFP_KERNEL_ACCOUNT)?,
            Slot::new(GFP_KERNEL_ACCOUNT)?,
        );
        // What drivers have pinned of it is not known well enough to be split, and entries that may
        // be large are not either.
        if area.accesses.load(Relaxed) != 0 || mapped.filling.is_some() && large {
            return Err(EINVAL);
        }
        let prot = area.prot;
        let (left, right) = extent.split(at);
        let Some((area, slot)) = self.areas.remove(first, last) else {
            return Err(EINVAL);
        };
        let Some(Mapped { pages, filling }) = area.mapped else {
            return Err(EINVAL);
        };
        let (one, other) = match filling {
            Some(filling) => {
                let (one, other) = pages.split(filling, (&left, &right), fillings)?;
                (Some(one), Some(other))
            }
            None => (None, None),
        };
        let mapped = |pages, filling| Some(Mapped { pages, filling });
        self.put(left, prot, mapped(pages.clone(), one), slot);
        self.put(right, prot, mapped(pages, other), areas);
        Ok(())
    }
}

/// Ranges that must stay usable, not overlapping.
pub(crate) struct Allowed(OwningTree<()>);

impl Allowed {
    pub(crate) fn new() -> Self {
        Self(OwningTree::new())
    }

    /// Adds the range from `start` to `last`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it is empty or overlaps one that is there; `ENOMEM`.
    pub(crate) fn insert(&mut self, start: u64, last: u64) -> Result {
        // CAST: Both have 64 bits.
        let (start, last) = (start as usize, last as usize);
        if start >= last || self.0.overlaps(start, last).next().is_some() {
            return Err(EINVAL);
        }
        self.0
            .insert(start, last, (), Slot::new(GFP_KERNEL_ACCOUNT)?);
        Ok(())
    }
}
