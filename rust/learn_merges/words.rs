//! All different pretokens as one array of cells that never moves, one cell a byte.
//!
//! Before each word stands a sentinel. A token's symbol stands in its first and in its last cell,
//! so that both neighbours of a token are one look away; the cells between hold what is left of
//! earlier merges. A merge writes three cells and moves nothing, so a place in the array stays true
//! for as long as the token that starts there.
//!
//! Words are sorted by their count, so a place's weight is its run's, found by walking along them.

use rayon::ThreadPool;
use rayon::prelude::*;

use super::start::{Scratch, Spelling};
use crate::count_pretokens::{Counted, PretokenCounts};
use crate::error::{Error, Result};
use crate::memory::{filled, prefetch};
use crate::progress::Progress;

/// How far ahead of a merge the cells it will touch are asked for.
const AHEAD: usize = 12;
/// How many cells or places, a few milliseconds of work, are gone through between two looks at
/// whether the run was cancelled.
const UNCHECKED: usize = 1 << 20;

/// What a cell is made of: 16 bits while the vocabulary is small, 32 otherwise.
pub(super) trait Cell: Copy + Eq + Send + Sync + 'static {
    /// Between words.
    const SENTINEL: Self;
    /// The first cell of a token that has become the right half of another.
    const DEAD: Self;

    fn new(symbol: u32) -> Self;
    fn symbol(self) -> u32;
}

impl Cell for u16 {
    const SENTINEL: Self = Self::MAX;
    const DEAD: Self = Self::MAX - 1;

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "chosen when all symbols are below DEAD")]
    fn new(symbol: u32) -> Self {
        symbol as Self
    }

    #[inline]
    fn symbol(self) -> u32 {
        self.into()
    }
}

impl Cell for u32 {
    const SENTINEL: Self = Self::MAX;
    const DEAD: Self = Self::MAX - 1;

    #[inline]
    fn new(symbol: u32) -> Self {
        symbol
    }

    #[inline]
    fn symbol(self) -> u32 {
        self
    }
}

/// Two neighbouring symbols.
pub(super) type Pair = (u32, u32);

/// One merge as the words see it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joined {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) merged: u32,
    pub(super) left_len: u32,
    pub(super) right_len: u32,
}

/// The words and how often each occurs.
#[derive(Debug)]
pub(super) struct Words<C> {
    cells: Vec<C>,
    runs: Runs,
}

/// Where each stretch of words of one count starts, and that count; an end mark last.
#[derive(Debug, Default)]
struct Runs {
    starts: Vec<u32>,
    counts: Vec<u64>,
}

impl<C: Cell> Words<C> {
    /// The words of two bytes and more, as `spelling` writes them. Takes the counts, to give their
    /// memory back.
    pub(super) fn new(
        counts: PretokenCounts,
        spelling: &Spelling,
        lens: &[u32],
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Self> {
        let order = counts.divisible(threads, progress)?;
        let stripe = order.len().div_ceil(threads.current_num_threads() * 8).max(1 << 10);
        let sizes: Vec<usize> = threads.install(|| {
            order
                .par_chunks(stripe)
                .map(|words| words.iter().map(|&word| counts.len_of(word) + 1).sum())
                .collect()
        });
        let total = sizes.iter().sum::<usize>() + 1;
        if u32::try_from(total).is_err() {
            return Err(Error::Usage(format!(
                "the different words of the text take {total} bytes, more than the 4294967295 that \
                 can be learned from at once; use less text"
            )));
        }
        let mut cells = filled(total, C::SENTINEL)?;
        let mut parts = Vec::with_capacity(sizes.len());
        let mut rest = &mut cells[..];
        for (&size, words) in sizes.iter().zip(order.chunks(stripe)) {
            let (part, others) = rest.split_at_mut(size);
            parts.push((part, words));
            rest = others;
        }
        // Of each part: its runs, with places counted from the part's beginning.
        let runs: Result<Vec<Runs>> = threads.install(|| {
            let write = |scratch: &mut Scratch, (part, words): (&mut [C], &[Counted])| {
                progress.check()?;
                let (mut runs, mut at) = (Runs::default(), 0);
                for &word in words {
                    runs.begin(at, word.count);
                    at += counts.with_bytes(word, |bytes| {
                        let cells = &mut part[at + 1..=at + bytes.len()];
                        spelling.write(bytes, cells, lens, scratch, progress)?;
                        Ok::<_, Error>(bytes.len() + 1)
                    })?;
                }
                Ok(runs)
            };
            parts.into_par_iter().map_init(Scratch::default, write).collect()
        });
        Ok(Self { cells, runs: Runs::joined(&runs?, &sizes, total) })
    }

    /// How many cells there are; a place is less than this.
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// Calls `found(place, left, right, weight)` for each two neighbouring tokens that start in
    /// `from..to`, from left to right; both must be places of sentinels, or the end.
    pub(super) fn for_each_pair(
        &self,
        from: usize,
        to: usize,
        lens: &[u32],
        progress: &Progress,
        mut found: impl FnMut(u32, u32, u32, u64),
    ) -> Result<()> {
        let mut weights = Weights::new(&self.runs);
        let (mut at, mut before) = (from, None);
        while at < to {
            progress.check()?;
            let stop = to.min(at + UNCHECKED);
            while at < stop {
                let cell = self.cells[at];
                if cell == C::SENTINEL {
                    before = None;
                    at += 1;
                    continue;
                }
                let symbol = cell.symbol();
                if let Some((left, start)) = before {
                    found(start, left, symbol, weights.at(start));
                }
                before = Some((symbol, place(at)));
                at += lens[symbol as usize] as usize;
            }
        }
        Ok(())
    }

    /// Stretches of about equal size, cut at sentinels.
    pub(super) fn stretches(&self, count: usize) -> Vec<(usize, usize)> {
        let mut stretches = Vec::with_capacity(count);
        let mut from = 0;
        for part in 1..=count {
            let mut to = (self.cells.len() * part / count).max(from);
            while to < self.cells.len() && self.cells[to] != C::SENTINEL {
                to += 1;
            }
            stretches.push((from, to));
            from = to;
        }
        stretches
    }

    /// Merges at those of `places` (rising) where the two tokens still stand side by side, and
    /// calls `merged(left neighbour, right neighbour, place, weight)` after each; a neighbour is
    /// None at the word's ends, and may itself have been made by this call.
    #[inline]
    pub(super) fn merge_at(
        &mut self,
        places: &[u32],
        joined: Joined,
        progress: &Progress,
        mut merged: impl FnMut(Option<u32>, Option<u32>, u32, u64),
    ) -> Result<()> {
        let (left, right, new) = (C::new(joined.left), C::new(joined.right), C::new(joined.merged));
        let (left_len, right_len) = (joined.left_len as usize, joined.right_len as usize);
        let cells = &mut self.cells[..];
        let mut weights = Weights::new(&self.runs);
        for (index, &place) in places.iter().enumerate() {
            if index % UNCHECKED == 0 {
                progress.check()?;
            }
            if let Some(&soon) = places.get(index + AHEAD) {
                prefetch(cells, soon as usize);
            }
            let start = place as usize;
            let middle = start + left_len;
            if cells[start] != left || cells[middle] != right {
                continue;
            }
            let end = middle + right_len;
            let (before, after) = (cells[start - 1], cells[end]);
            // In this order: the last cell may be the middle one.
            cells[middle] = C::DEAD;
            cells[start] = new;
            cells[end - 1] = new;
            merged(neighbour(before), neighbour(after), place, weights.at(place));
        }
        Ok(())
    }

    /// All places of `pair` in the words in which `places` lie, rising.
    pub(super) fn places_in_words_of(
        &self,
        places: &[u32],
        pair: Pair,
        lens: &[u32],
        progress: &Progress,
    ) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        let mut done = 0;
        for &place in places {
            let place = place as usize;
            if place < done {
                continue;
            }
            let is_sentinel = |cell: &C| *cell == C::SENTINEL;
            let start = self.cells[..place].iter().rposition(is_sentinel).unwrap_or(0);
            let len = self.cells[place..].iter().position(is_sentinel);
            done = len.map_or(self.cells.len(), |len| place + len);
            self.for_each_pair(start, done, lens, progress, |place, left, right, _| {
                if (left, right) == pair {
                    all.push(place);
                }
            })?;
        }
        Ok(all)
    }
}

impl Runs {
    /// Notes that from `start` on every word occurs `count` times.
    fn begin(&mut self, start: usize, count: u64) {
        if self.counts.last() != Some(&count) {
            self.starts.push(place(start));
            self.counts.push(count);
        }
    }

    /// The runs of all parts, which have these sizes, and the mark of the end.
    fn joined(parts: &[Self], sizes: &[usize], end: usize) -> Self {
        let (mut all, mut base) = (Self::default(), 0);
        for (part, size) in parts.iter().zip(sizes) {
            for (&start, &count) in part.starts.iter().zip(&part.counts) {
                all.begin(base + start as usize, count);
            }
            base += size;
        }
        all.begin(end, 0);
        all
    }
}

/// Walks along the runs with rising places.
struct Weights<'a> {
    runs: &'a Runs,
    index: usize,
    end: u32,
    count: u64,
}

impl<'a> Weights<'a> {
    fn new(runs: &'a Runs) -> Self {
        Self { runs, index: 0, end: 0, count: 0 }
    }

    /// How often the word at `place` occurs; a place must not be less than the one before it.
    #[inline]
    fn at(&mut self, place: u32) -> u64 {
        if place >= self.end {
            self.seek(place);
        }
        self.count
    }

    /// Steps that double, then a search between the last two.
    fn seek(&mut self, place: u32) {
        let starts = &self.runs.starts;
        let mut step = 1;
        let mut low = self.index;
        while low + step < starts.len() && starts[low + step] <= place {
            low += step;
            step *= 2;
        }
        let high = starts.len().min(low + step);
        self.index = low + starts[low..high].partition_point(|&start| start <= place) - 1;
        self.end = starts[self.index + 1];
        self.count = self.runs.counts[self.index];
    }
}

#[inline]
fn neighbour<C: Cell>(cell: C) -> Option<u32> {
    (cell != C::SENTINEL).then(|| cell.symbol())
}

#[expect(clippy::cast_possible_truncation, reason = "the constructor refuses more than 2^32 cells")]
fn place(at: usize) -> u32 {
    at as u32
}
