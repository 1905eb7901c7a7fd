// SPDX-License-Identifier: GPL-2.0-only

//! Bitmaps of user space's that say which IOVAs were written to: a bit for each page, whose size
//! user space has chosen.
//!
//! Bits are set where the memory is pinned. That is a part of the bitmap, the window, since a
//! bitmap may be larger than what anybody should pin. The window goes to where bits are set, so
//! whoever sets them in order pins each part once.
//!
//! Pinning waits for user memory, which may take any time. A caller with locks that others need
//! cannot have that: between [`Bitmap::begin`] and the end only what is pinned is set, and the
//! window moves between two calls, see [`Bitmap::go_on`].
//!
//! C header: [`include/linux/iova_bitmap.h`](srctree/include/linux/iova_bitmap.h)

use core::ops::ControlFlow;
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

const BITS_PER_PAGE: usize = PAGE_SIZE * 8;

/// The memory that bitmaps are in, of which some pages in a row are pinned, or none.
pub(crate) trait Memory {
    /// Pages that are pinned at a time, at most.
    const MOST: usize;

    /// Pins up to `pages` pages from the one with the user address `at` on, instead of those that
    /// are pinned. Returns how many: fewer where there are no more.
    ///
    /// # Errors
    ///
    /// `EFAULT`: not even the first can be written. None is pinned then.
    fn pin(&mut self, at: usize, pages: usize) -> Result<usize>;

    /// Sets `count` bits from `first` on in a pinned page; there is none behind those.
    fn set(&mut self, page: usize, first: usize, count: usize);
}

/// Which bits a bitmap has, and where.
pub(crate) struct Extent {
    /// The IOVA that the first one is about.
    iova: usize,
    /// How many bytes of IOVAs there are; 0: it has no bits.
    length: usize,
    /// A bit is about `1 << shift` bytes.
    shift: u32,
    /// The user address of the first bit.
    data: usize,
}

/// A byte of a bitmap, and all behind it.
struct Rest {
    iova: usize,
    at: usize,
    bytes: usize,
}

/// The part of a bitmap that is pinned.
struct Window {
    /// The IOVA that its first bit is about.
    iova: usize,
    /// How many bytes of IOVAs it has bits for; 0: nothing is pinned.
    length: usize,
    /// Where its first bit is in the pinned pages.
    bit: usize,
}

impl Extent {
    /// A bitmap at the user address `data`, for `length` bytes of IOVAs from `iova` on. IOVAs that
    /// do not exist have no bits.
    ///
    /// # Errors
    ///
    /// `EINVAL`: no page has the size 0.
    pub(crate) fn new(iova: usize, length: usize, page_size: usize, data: usize) -> Result<Self> {
        if page_size == 0 {
            return Err(EINVAL);
        }
        Ok(Self {
            iova,
            length: length.min((usize::MAX - iova).saturating_add(1)),
            shift: page_size.trailing_zeros(),
            data,
        })
    }

    /// In how many pages it is.
    pub(crate) fn pages(&self) -> usize {
        pages(self.data, self.bytes())
    }

    fn bytes(&self) -> usize {
        match self.length {
            0 => 0,
            length => ((length - 1) >> self.shift) / 8 + 1,
        }
    }

    /// The IOVAs of a range that have bits, from the first to the last; none of those below `from`.
    fn cut(&self, from: usize, iova: usize, length: usize) -> Option<(usize, usize)> {
        let last = iova.checked_add(length.checked_sub(1)?)?;
        let end = self.iova + self.length.checked_sub(1)?;
        let (first, last) = (iova.max(from), last.min(end));
        (first <= last).then_some((first, last))
    }

    /// From the byte on in which an IOVA has its bit, which is one of [`Self::cut`]'s.
    ///
    /// # Errors
    ///
    /// `EFAULT`: there is no such user address; `EINVAL`: the bitmap has no bits.
    fn rest(&self, iova: usize) -> Result<Rest> {
        let byte = ((iova - self.iova) >> self.shift) / 8;
        if self.length == 0 {
            return Err(EINVAL);
        }
        Ok(Rest {
            iova: self.iova + ((byte * 8) << self.shift),
            at: self.data.checked_add(byte).ok_or(EFAULT)?,
            bytes: self.bytes() - byte,
        })
    }

    /// What of the rest is in its first so many pages.
    fn window(&self, rest: Rest, pages: usize) -> Window {
        let skip = rest.at % PAGE_SIZE;
        let bits = (pages * PAGE_SIZE - skip) * 8;
        let left = self.length - (rest.iova - self.iova);
        Window {
            iova: rest.iova,
            // The bitmap may end before its last page, and the IOVAs before its last bit does.
            // Bits are compared: lengths might overflow.
            length: if bits > (left - 1) >> self.shift {
                left
            } else {
                bits << self.shift
            },
            bit: skip * 8,
        }
    }
}

/// In how many pages so many bytes are.
fn pages(at: usize, bytes: usize) -> usize {
    (at % PAGE_SIZE + bytes).div_ceil(PAGE_SIZE)
}

impl Window {
    const NONE: Self = Self {
        iova: 0,
        length: 0,
        bit: 0,
    };

    fn has(&self, iova: usize) -> bool {
        iova >= self.iova && iova - self.iova < self.length
    }
}

/// A bitmap.
pub(crate) struct Bitmap<M> {
    window: Window,
    extent: Extent,
    memory: M,
    /// Nothing may be pinned now.
    is_pinned: bool,
    /// IOVAs below have no bits, or have been done with.
    from: usize,
    /// Where the first range begins that could not be done with as a whole.
    again: usize,
    /// Bits could not be set.
    is_lossy: bool,
}

/// A range of IOVAs: the first one, and how many.
pub(crate) type Range = (usize, usize);

impl<M: Memory> Bitmap<M> {
    pub(crate) fn new(extent: Extent, memory: M) -> Self {
        Self {
            window: Window::NONE,
            memory,
            is_pinned: false,
            from: extent.iova,
            again: extent.iova,
            is_lossy: false,
            extent,
        }
    }

    /// What it is about.
    pub(crate) fn range(&self) -> Range {
        (self.extent.iova, self.extent.length)
    }

    /// Whether all bits could be set so far.
    ///
    /// # Errors
    ///
    /// `EFAULT`: they could not.
    pub(crate) fn complete(&self) -> Result {
        if self.is_lossy {
            return Err(EFAULT);
        }
        Ok(())
    }

    /// Sets the bits of a range of IOVAs. What it has no bits for is passed over.
    ///
    /// # Errors
    ///
    /// `EFAULT`: the user memory cannot be written; `EAGAIN`: it is not pinned, see
    /// [`Self::begin`].
    #[inline]
    pub(crate) fn set(&mut self, iova: usize, length: usize) -> Result {
        let Window {
            iova: base,
            length: most,
            bit,
        } = self.window;
        let shift = self.extent.shift;
        let first = iova.wrapping_sub(base);
        let last = first.wrapping_add(length).wrapping_sub(1);
        // Most ranges have one bit, in what is pinned.
        if first <= last && last < most && first >> shift == last >> shift {
            let bit = bit + (first >> shift);
            self.memory.set(bit / BITS_PER_PAGE, bit % BITS_PER_PAGE, 1);
            return Ok(());
        }
        self.set_parts(iova, length)
    }

    /// The same of any range.
    #[cold]
    fn set_parts(&mut self, iova: usize, length: usize) -> Result {
        self.each_part(iova, length, set_bits)
    }

    /// Whether [`Self::set`] could set the bits of a range, whose memory is pinned for that.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) fn probe(&mut self, iova: usize, length: usize) -> Result {
        self.each_part(iova, length, |_, _, _| {})
    }

    /// Moves the window over a range and calls `f` for what is in it then: with the numbers of the
    /// first and last bit.
    fn each_part(
        &mut self,
        iova: usize,
        length: usize,
        f: impl Fn(&mut M, usize, usize),
    ) -> Result {
        let Some((mut first, last)) = self.extent.cut(self.from, iova, length) else {
            return Ok(());
        };
        loop {
            if !self.window.has(first) {
                if self.is_pinned {
                    self.from = first;
                    self.again = iova.max(self.extent.iova);
                    return Err(EAGAIN);
                }
                self.pin(first)?;
            }
            let Window { iova, length, bit } = self.window;
            let end = last.min(iova + (length - 1));
            let bit_of = |at: usize| bit + ((at - iova) >> self.extent.shift);
            f(&mut self.memory, bit_of(first), bit_of(end));
            if end == last {
                return Ok(());
            }
            first = end + 1;
        }
    }

    /// Moves the window to where the bit of an IOVA is.
    fn pin(&mut self, iova: usize) -> Result {
        self.window = Window::NONE;
        let pinned = self.extent.rest(iova).and_then(|rest| {
            let most = pages(rest.at, rest.bytes).min(M::MOST);
            let pages = self.memory.pin(rest.at, most)?;
            Ok(self.extent.window(rest, pages))
        });
        self.is_lossy |= pinned.is_err();
        self.window = pinned?;
        Ok(())
    }

    /// From now on nothing is pinned while ranges are set or probed. Returns what is to be done:
    /// all of it. Whoever does that calls [`Self::go_on`] afterwards.
    pub(crate) fn begin(&mut self) -> Range {
        self.is_pinned = true;
        self.again = self.extent.iova;
        self.range()
    }

    /// Goes on after what was to be done ended with `result`: pins where it could not set or probe,
    /// and says what is left, from the beginning of the range on that was too long for the window.
    /// The rest of that is passed over which has been done with.
    ///
    /// It ends with a result that is not `EAGAIN`, or one that has nothing to do with this.
    pub(crate) fn go_on(&mut self, result: Result) -> ControlFlow<Result, Range> {
        let result = match result {
            Err(e) if e == EAGAIN && !self.window.has(self.from) => self.pin(self.from),
            ends => return self.end(ends),
        };
        match result {
            Ok(()) => {
                let done = self.again - self.extent.iova;
                ControlFlow::Continue((self.again, self.extent.length - done))
            }
            ends => self.end(ends),
        }
    }

    fn end(&mut self, result: Result) -> ControlFlow<Result, Range> {
        self.is_pinned = false;
        self.from = self.extent.iova;
        ControlFlow::Break(result)
    }
}

/// Sets the bits from `bit` to `last` of what is pinned, page by page.
fn set_bits<M: Memory>(memory: &mut M, mut bit: usize, last: usize) {
    while bit <= last {
        let first = bit % BITS_PER_PAGE;
        let count = (last - bit + 1).min(BITS_PER_PAGE - first);
        memory.set(bit / BITS_PER_PAGE, first, count);
        bit += count;
    }
}

#[cfg(CONFIG_KUNIT = "y")]
#[kunit_tests(rust_iommufd_driver_bitmap)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    /// IOVAs of a page of a bitmap for pages of 4 KiB.
    const PART: usize = BITS_PER_PAGE << 12;

    type Pairs = &'static [(usize, usize)];

    /// Memory with nothing from a page on, that remembers what is done with it.
    struct Recorder {
        hole: usize,
        /// The first pinned page.
        at: usize,
        pages: usize,
        /// What was to be pinned: from where, how many pages.
        pins: KVec<(usize, usize)>,
        /// What was set: from which bit on, counted from address 0, how many.
        bits: KVec<(usize, usize)>,
    }

    impl Memory for Recorder {
        const MOST: usize = 2;

        fn pin(&mut self, at: usize, pages: usize) -> Result<usize> {
            assert!(pages != 0 && pages <= Self::MOST);
            self.pins.push((at, pages), GFP_KERNEL)?;
            self.at = at & !(PAGE_SIZE - 1);
            self.pages = pages.min(self.hole.saturating_sub(self.at) / PAGE_SIZE);
            if self.pages == 0 {
                return Err(EFAULT);
            }
            Ok(self.pages)
        }

        fn set(&mut self, page: usize, first: usize, count: usize) {
            assert!(page < self.pages && count != 0 && first + count <= BITS_PER_PAGE);
            let bit = (self.at + page * PAGE_SIZE) * 8 + first;
            assert!(self.bits.push((bit, count), GFP_KERNEL).is_ok());
        }
    }

    fn bitmap(extent: Extent, hole: usize) -> Bitmap<Recorder> {
        let memory = Recorder {
            hole,
            at: 0,
            pages: 0,
            pins: KVec::new(),
            bits: KVec::new(),
        };
        Bitmap::new(extent, memory)
    }

    /// One with bits for pages of 4 KiB.
    fn usual(iova: usize, length: usize, data: usize, hole: usize) -> Bitmap<Recorder> {
        bitmap(
            Extent {
                iova,
                length,
                shift: 12,
                data,
            },
            hole,
        )
    }

    #[test]
    fn extents() -> Result {
        assert!(matches!(Extent::new(0, 1, 0, 0), Err(e) if e == EINVAL));
        // (IOVA, length, page size, address), (bytes, pages)
        let table = [
            ((0, 0, 4096, PAGE_SIZE), (0, 0)),
            ((0, 1, 4096, PAGE_SIZE), (1, 1)),
            ((7, 8 * 4096, 4096, PAGE_SIZE), (1, 1)),
            ((7, 8 * 4096 + 1, 4096, PAGE_SIZE), (2, 1)),
            ((0, 9 * 4096, 4096, 2 * PAGE_SIZE - 1), (2, 2)),
            ((0, PART, 4096, PAGE_SIZE), (PAGE_SIZE, 1)),
            ((0, PART, 4096, PAGE_SIZE + 1), (PAGE_SIZE, 2)),
            ((0, PART + 1, 4096, PAGE_SIZE), (PAGE_SIZE + 1, 2)),
            ((0, PART, 8192, PAGE_SIZE), (PAGE_SIZE / 2, 1)),
            ((0, 9, 1, 0), (2, 1)),
            ((0, usize::MAX, 1 << 63, 0), (1, 1)),
            // What does not exist has no bits.
            ((usize::MAX - 4095, 9 * 4096, 4096, 0), (1, 1)),
            ((1, usize::MAX, 4096, 0), (1 << 49, 1 << 37)),
        ];
        for ((iova, length, page_size, data), expected) in table {
            let extent = Extent::new(iova, length, page_size, data)?;
            assert_eq!((extent.bytes(), extent.pages()), expected);
        }
        Ok(())
    }

    /// Which bits a range has, all in the first page or two.
    #[test]
    fn places() {
        const A: usize = 16 * MIB;
        const END: usize = usize::MAX - 4095;
        const DATA: usize = 3 * PAGE_SIZE;
        const BIT: usize = DATA * 8;
        // (IOVA, length, shift, address), range, what is set
        let table: [(_, _, Pairs); 30] = [
            // The first bit, the last one, what is next to them.
            ((A, MIB, 12, DATA), (A, 4096), &[(BIT, 1)]),
            ((A, MIB, 12, DATA), (A, 1), &[(BIT, 1)]),
            ((A, MIB, 12, DATA), (A - 4096, 4096), &[]),
            ((A, MIB, 12, DATA), (A - 1, 2), &[(BIT, 1)]),
            ((A, MIB, 12, DATA), (A + MIB - 1, 1), &[(BIT + 255, 1)]),
            ((A, MIB, 12, DATA), (A + MIB - 1, 2), &[(BIT + 255, 1)]),
            ((A, MIB, 12, DATA), (A + MIB, 4096), &[]),
            // All, and more than all.
            ((A, MIB, 12, DATA), (A, MIB), &[(BIT, 256)]),
            ((A, MIB, 12, DATA), (0, usize::MAX), &[(BIT, 256)]),
            // A part of a page has its bit.
            ((A, MIB, 12, DATA), (A + 8191, 1), &[(BIT + 1, 1)]),
            ((A, MIB, 12, DATA), (A + 8191, 2), &[(BIT + 1, 2)]),
            ((A, MIB - 1, 12, DATA), (A, MIB), &[(BIT, 256)]),
            ((A, MIB - 4095, 12, DATA), (A, MIB), &[(BIT, 256)]),
            ((A, MIB - 4096, 12, DATA), (A, MIB), &[(BIT, 255)]),
            // Nothing, and what does not exist.
            ((A, MIB, 12, DATA), (A, 0), &[]),
            ((A, MIB, 12, DATA), (A + 5, 0), &[]),
            ((0, MIB, 12, DATA), (0, 0), &[]),
            ((A, 0, 12, DATA), (A, 4096), &[]),
            ((0, 0, 12, DATA), (0, usize::MAX), &[]),
            ((A, MIB, 12, DATA), (A + 4096, usize::MAX), &[]),
            // A bit is where its page is counted from the first IOVA on.
            ((A + 100, MIB, 12, DATA), (A + 4095, 1), &[(BIT, 1)]),
            ((A + 100, MIB, 12, DATA), (A + 4196, 1), &[(BIT + 1, 1)]),
            // The end of all IOVAs.
            ((END, 4096, 12, DATA), (usize::MAX, 1), &[(BIT, 1)]),
            ((END, 4096, 12, DATA), (0, usize::MAX), &[(BIT, 1)]),
            // Other sizes of pages.
            ((A, MIB, 16, DATA), (A + 0x2ffff, 2), &[(BIT + 2, 2)]),
            ((A, MIB, 63, DATA), (A, MIB), &[(BIT, 1)]),
            ((A, 100, 0, DATA), (A + 98, 9), &[(BIT + 98, 2)]),
            // Addresses inside of a word, and around the end of a page.
            ((A, MIB, 12, DATA + 3), (A, 4096), &[(BIT + 24, 1)]),
            (
                (A, MIB, 12, DATA - 1),
                (A + 7 * 4096, 8192),
                &[(BIT - 1, 1), (BIT, 1)],
            ),
            (
                (A, MIB, 12, DATA - 2),
                (A, MIB),
                &[(BIT - 16, 16), (BIT, 240)],
            ),
        ];
        for ((iova, length, shift, data), (first, count), expected) in table {
            // Again when it is pinned.
            for passes in 1..=2 {
                let mut bitmap = bitmap(
                    Extent {
                        iova,
                        length,
                        shift,
                        data,
                    },
                    usize::MAX,
                );
                if passes == 2 {
                    assert_eq!(bitmap.probe(iova, length), Ok(()));
                    assert!(bitmap.memory.bits.is_empty());
                }
                assert_eq!(bitmap.set(first, count), Ok(()));
                assert_eq!(bitmap.complete(), Ok(()));
                assert_eq!(bitmap.memory.bits.as_slice(), expected);
                assert!(bitmap.memory.pins.len() <= 1);
            }
        }
    }

    /// Five pages and a half, of which two are pinned at a time.
    #[test]
    fn windows() {
        const A: usize = 1 << 30;
        const DATA: usize = PAGE_SIZE + PAGE_SIZE / 2;
        const BIT: usize = DATA * 8;
        const HALF: usize = PART / 2;
        const LENGTH: usize = 5 * PART;
        let new = || usual(A, LENGTH, DATA, usize::MAX);

        let mut all = new();
        assert_eq!(all.set(A, LENGTH), Ok(()));
        let pins = [(DATA, 2), (3 * PAGE_SIZE, 2), (5 * PAGE_SIZE, 2)];
        assert_eq!(all.memory.pins.as_slice(), pins);
        let mut next = BIT;
        for &(bit, count) in &all.memory.bits {
            assert_eq!(bit, next);
            next += count;
        }
        assert_eq!(next, BIT + 5 * BITS_PER_PAGE);

        // One bit more than a window has.
        let mut more = usual(A, 2 * PART + 1, PAGE_SIZE, usize::MAX);
        assert_eq!(more.set(A, 3 * PART), Ok(()));
        assert_eq!(
            more.memory.pins.as_slice(),
            [(PAGE_SIZE, 2), (3 * PAGE_SIZE, 1)]
        );
        assert_eq!(more.memory.bits.last(), Some(&(3 * PAGE_SIZE * 8, 1)));

        // (ranges), pins: not more pages than the bitmap is in, from the byte with the bit on.
        let table: [(Pairs, Pairs); 7] = [
            (&[(A, 1), (A + PART + HALF - 1, 1)], &[(DATA, 2)]),
            (&[(A + PART + HALF - 1, 2)], &[(3 * PAGE_SIZE - 1, 2)]),
            (
                &[(A, 1), (A + PART + HALF - 1, 2)],
                &[(DATA, 2), (3 * PAGE_SIZE, 2)],
            ),
            (
                &[(A, 1), (A + PART + HALF, 1)],
                &[(DATA, 2), (3 * PAGE_SIZE, 2)],
            ),
            (&[(A + LENGTH - 1, 9)], &[(DATA + 5 * PAGE_SIZE - 1, 1)]),
            // Its byte is pinned, the one before it is not.
            (&[(A + 15 * 4096, 1), (A + 8 * 4096, 1)], &[(DATA + 1, 2)]),
            (
                &[(A + 8 * 4096, 1), (A + 8 * 4096 - 1, 1)],
                &[(DATA + 1, 2), (DATA, 2)],
            ),
        ];
        for (ranges, pins) in table {
            let mut bitmap = new();
            for &(iova, length) in ranges {
                assert_eq!(bitmap.set(iova, length), Ok(()));
            }
            assert_eq!(bitmap.memory.pins.as_slice(), pins);
        }
    }

    /// Bits before a hole are set, those behind it are lost, and that is told.
    #[test]
    fn holes() {
        const DATA: usize = PAGE_SIZE;
        for pages in 0..4 {
            let mut bitmap = usual(0, 4 * PART, DATA, DATA + pages * PAGE_SIZE);
            assert_eq!(bitmap.set(0, 4 * PART), Err(EFAULT));
            let set: usize = bitmap.memory.bits.iter().map(|bits| bits.1).sum();
            assert_eq!(set, pages * BITS_PER_PAGE);
            let first = bitmap.set(0, 1);
            assert_eq!(first, if pages == 0 { Err(EFAULT) } else { Ok(()) });
            assert_eq!(bitmap.complete(), Err(EFAULT));
        }
        let mut bitmap = usual(0, 4 * PART, DATA, DATA + 4 * PAGE_SIZE);
        assert_eq!(bitmap.set(0, 4 * PART), Ok(()));
        assert_eq!(bitmap.complete(), Ok(()));
        // There are no such addresses.
        let mut bitmap = usual(0, 4 * PART, usize::MAX - 9, usize::MAX);
        assert_eq!(bitmap.set(PART, 1), Err(EFAULT));
        assert!(bitmap.memory.pins.is_empty());
    }

    /// Calls `f` with what is to be done while nothing may be pinned, until it ends.
    fn run(
        bitmap: &mut Bitmap<Recorder>,
        f: impl Fn(&mut Bitmap<Recorder>, Range) -> Result,
    ) -> Result {
        let mut range = bitmap.begin();
        loop {
            let pins = bitmap.memory.pins.len();
            let result = f(bitmap, range);
            assert_eq!(bitmap.memory.pins.len(), pins);
            match bitmap.go_on(result) {
                ControlFlow::Continue(rest) => range = rest,
                ControlFlow::Break(result) => return result,
            }
        }
    }

    /// Entries of any size are set as a whole, once, though the window moves meanwhile.
    #[test]
    fn nothing_is_pinned_meanwhile() {
        const A: usize = 1 << 30;
        const DATA: usize = PAGE_SIZE + 8;
        const LENGTH: usize = 5 * PART;
        for entry in [3 * 4096, PART / 4, PART, 3 * PART, 8 * PART] {
            let mut bitmap = usual(A, LENGTH, DATA, usize::MAX);
            for is_probe in [true, false] {
                let result = run(&mut bitmap, |bitmap, (iova, length)| {
                    // The last range ends where the bitmap does; a range begins with an entry.
                    assert_eq!(iova + length, A + LENGTH);
                    assert_eq!((iova - A) % entry, 0);
                    assert!(bitmap.from - iova < entry);
                    let mut at = iova;
                    while at < A + LENGTH {
                        if is_probe {
                            bitmap.probe(at, entry)?;
                        } else {
                            bitmap.set(at, entry)?;
                        }
                        at += entry;
                    }
                    Ok(())
                });
                assert_eq!(result, Ok(()));
                assert_eq!(bitmap.memory.bits.is_empty(), is_probe);
            }
            let mut next = DATA * 8;
            for &(bit, count) in &bitmap.memory.bits {
                assert_eq!(bit, next);
                next += count;
            }
            assert_eq!(next, DATA * 8 + 5 * BITS_PER_PAGE);
            // Three windows, which were probed and set.
            assert_eq!(bitmap.memory.pins.len(), 6);
            // Afterwards all of it has bits again, and may be pinned.
            assert_eq!(bitmap.set(A, 1), Ok(()));
            assert_eq!(bitmap.memory.bits.last(), Some(&(DATA * 8, 1)));
        }
    }

    /// What the caller fails with ends it, and what cannot be pinned.
    #[test]
    fn ends() {
        const DATA: usize = PAGE_SIZE;
        for hole in 0..4 {
            let mut bitmap = usual(0, 4 * PART, DATA, DATA + hole * PAGE_SIZE);
            let result = run(&mut bitmap, |bitmap, (iova, length)| {
                bitmap.set(iova, length)
            });
            assert_eq!(result, Err(EFAULT));
            assert!(!bitmap.is_pinned);
        }
        for error in [ENOMEM, EFAULT, EAGAIN] {
            let mut bitmap = usual(0, 4 * PART, DATA, usize::MAX);
            let result = run(&mut bitmap, |bitmap, _| {
                bitmap.set(0, 1)?;
                Err(error)
            });
            assert_eq!(result, Err(error));
            assert!(!bitmap.is_pinned);
        }
        // An end of the caller's own before anything is pinned leaves nothing out.
        let mut bitmap = usual(0, 4 * PART, DATA, usize::MAX);
        for _ in 0..2 {
            let result = run(&mut bitmap, |bitmap, (iova, length)| {
                if bitmap.window.length == 0 {
                    return Err(EAGAIN);
                }
                (iova..iova + length)
                    .step_by(PART)
                    .try_for_each(|at| bitmap.set(at, PART))
            });
            assert_eq!(result, Ok(()));
            let set: usize = bitmap.memory.bits.iter().map(|bits| bits.1).sum();
            assert_eq!(set, 4 * BITS_PER_PAGE);
            bitmap.memory.bits.clear();
            bitmap.window = Window::NONE;
        }
        // One without bits.
        for data in [DATA, DATA + 1] {
            let mut bitmap = usual(4096, 0, data, usize::MAX);
            assert_eq!(run(&mut bitmap, |_, _| Err(EAGAIN)), Err(EINVAL));
            assert_eq!(run(&mut bitmap, |bitmap, _| bitmap.set(0, 8192)), Ok(()));
        }
    }
}
