//! A limit on memory → counting that stays below it, the same at any number of threads.
//!
//! Without a limit each thread counts for itself, and nothing here costs anything. With one, the
//! slices of text are counted in rounds: no thread begins a slice of the next round before all of
//! this one are counted, so that what the tables hold together then depends on the text alone. At
//! the end of a round tables that have grown large are joined, which loses nothing; if they are
//! still too large, the text does not fit. That is an error, or, where pruning is allowed, the
//! rarest pretokens are dropped, down to half of what fits. A round is as long as the limit allows:
//! text of nothing but different pretokens must not outgrow it before the round ends.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::table::SHORT;
use super::{CountOptions, Counts, PretokenCounter, PretokenCounts};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What the program itself takes: the interpreter, and each thread's slice of text.
const PROGRAM: u64 = 64 << 20;
/// The smallest limit that leaves room for anything.
const LEAST: u64 = 128 << 20;
/// The most that tables grow by a slice of a megabyte, all of whose pretokens are different.
const GROWTH: u64 = 24 << 20;
/// An entry of a table that is three eighths full, the least it can be; its arena may be half empty.
const ENTRY: u64 = 86;
/// How often a thread that waits for the others looks whether the run was cancelled.
const POLL: Duration = Duration::from_millis(50);

/// How much memory may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimit {
    bytes: u64,
    allow_pruning: bool,
}

impl MemoryLimit {
    /// At most `bytes` in the whole process; what does not fit is dropped with `allow_pruning`, and
    /// otherwise an error.
    pub fn new(bytes: u64, allow_pruning: bool) -> Result<Self> {
        if bytes < LEAST {
            return Err(Error::Usage(format!(
                "--memory_limit of {bytes} bytes is too small; give at least {}",
                in_words(LEAST)
            )));
        }
        Ok(Self { bytes, allow_pruning })
    }

    /// The most bytes of a record that are taken: it stands in memory more than once.
    pub fn max_record_bytes(self) -> u64 {
        self.available() / 8
    }

    /// The most threads that count: each has a slice of text, and tables that begin somewhere.
    pub fn max_threads(self) -> usize {
        usize::try_from(self.bytes / (24 << 20)).unwrap_or(usize::MAX).max(1)
    }

    fn available(self) -> u64 {
        self.bytes - PROGRAM
    }

    /// What all tables may take together between two rounds. They grow by half of that within a
    /// round, and while one is made anew, at twice its size, both are there.
    fn tables(self) -> u64 {
        self.available() / 3
    }

    fn slices_a_round(self) -> u64 {
        (self.tables() / 2 / GROWTH).max(1)
    }
}

/// What was dropped for want of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many pretokens, repeats included.
    pub pretokens: u64,
    /// How many bytes of text they made up.
    pub text_bytes: u64,
    /// What was counted fewer times than this, at some time, was dropped, and of what was counted
    /// as many times a part; 0 where nothing was.
    pub lowest_kept: u64,
}

impl Pruned {
    /// Takes in what was dropped elsewhere.
    pub fn add(&mut self, more: Self) {
        self.pretokens += more.pretokens;
        self.text_bytes += more.text_bytes;
        self.lowest_kept = self.lowest_kept.max(more.lowest_kept);
    }
}

/// What one thread counts into.
#[derive(Debug, Default)]
pub(super) struct Counters {
    learned: PretokenCounter,
    held_out: Option<PretokenCounter>,
}

impl Counters {
    /// The counter for a document; None where it is passed over.
    pub(super) fn of(&mut self, is_chosen: bool) -> Option<&mut PretokenCounter> {
        if is_chosen { Some(&mut self.learned) } else { self.held_out.as_mut() }
    }
}

/// Where the threads that count meet.
pub(super) struct Gate {
    limit: Option<MemoryLimit>,
    counters: Vec<Mutex<Counters>>,
    round: Mutex<Round>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Round {
    /// Slices counted so far.
    done: u64,
    /// The number of the first slice of the next round.
    end: u64,
    pruned: Pruned,
    /// A thread gave up, so the round will never end.
    failed: bool,
}

/// One thread's way through the gate.
pub(super) struct Door<'g> {
    gate: &'g Gate,
    index: usize,
    progress: &'g Progress,
}

impl Gate {
    pub(super) fn new(options: &CountOptions, threads: usize) -> Self {
        let counters = || Counters {
            held_out: options.holds_out.then(PretokenCounter::default),
            ..Counters::default()
        };
        let end = options.memory.map_or(u64::MAX, MemoryLimit::slices_a_round);
        Self {
            limit: options.memory,
            counters: (0..threads).map(|_| Mutex::new(counters())).collect(),
            round: Mutex::new(Round { end, ..Round::default() }),
            moved: Condvar::new(),
        }
    }

    /// Runs thread `index`'s `work`; the others do not wait for one that fails or panics.
    pub(super) fn work(
        &self,
        index: usize,
        progress: &Progress,
        work: impl FnOnce(&Door<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut guard = FailUnlessDone { gate: self, done: false };
        let result = work(&Door { gate: self, index, progress });
        guard.done = result.is_ok();
        result
    }

    /// All that was counted, small enough to be learned from.
    pub(super) fn finish(self, progress: &Progress) -> Result<Counts> {
        let mut round = self.round.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (mut learned, mut held_out) = (Vec::new(), Vec::new());
        for counters in self.counters {
            let counters = counters.into_inner().unwrap_or_else(PoisonError::into_inner);
            learned.push(counters.learned);
            held_out.extend(counters.held_out);
        }
        if let Some(limit) = self.limit {
            fit(&mut learned, limit, limit.available(), &mut round.pruned, progress)?;
        }
        Ok(Counts {
            learned: PretokenCounts::new(learned),
            held_out: PretokenCounts::new(held_out),
            pruned: round.pruned,
            ..Counts::default()
        })
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        self.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, number: u64, progress: &Progress) -> Result<()> {
        let mut round = self.round();
        while number >= round.end {
            progress.check()?;
            if round.failed {
                return Err(Error::Interrupted);
            }
            let waited = self.moved.wait_timeout(round, POLL);
            round = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    fn counted(&self, limit: MemoryLimit, progress: &Progress) -> Result<()> {
        let mut round = self.round();
        round.done += 1;
        if round.done < round.end {
            return Ok(());
        }
        // All slices of the round are counted, and nobody has begun another: no table is in use.
        let mut guards: Vec<_> = self
            .counters
            .iter()
            .map(|counters| counters.lock().unwrap_or_else(PoisonError::into_inner))
            .collect();
        // By what the tables hold, not by how they happen to have grown: whether text fits must not
        // depend on the number of threads. What all hold together is never more than this sum.
        if guards.iter().map(|counters| counters.learned.table_bytes()).sum::<u64>()
            > limit.tables()
        {
            let mut learned: Vec<_> =
                guards.iter_mut().map(|counters| std::mem::take(&mut counters.learned)).collect();
            fit(&mut learned, limit, limit.available() / 2, &mut round.pruned, progress)?;
            for (counters, learned) in guards.iter_mut().zip(learned) {
                counters.learned = learned;
            }
        }
        round.end += limit.slices_a_round();
        self.moved.notify_all();
        Ok(())
    }
}

struct FailUnlessDone<'g> {
    gate: &'g Gate,
    done: bool,
}

impl Drop for FailUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.gate.round().failed = true;
            self.gate.moved.notify_all();
        }
    }
}

impl Door<'_> {
    /// Has `count` count slice `number`, when its turn has come. Slices are numbered from 0 without
    /// gaps, and taken in order.
    pub(super) fn count(
        &self,
        number: u64,
        count: impl FnOnce(&mut Counters) -> Result<()>,
    ) -> Result<()> {
        let Some(limit) = self.gate.limit else { return count(&mut self.counters()) };
        self.gate.wait_for(number, self.progress)?;
        count(&mut self.counters())?;
        self.gate.counted(limit, self.progress)
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        // No other thread has this index.
        self.gate.counters[self.index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Joins the counters' tables into the first one, and drops what is rarest where it is allowed and
/// learning from them would take more than `available`, or their table more than it may.
fn fit(
    counters: &mut [PretokenCounter],
    limit: MemoryLimit,
    available: u64,
    pruned: &mut Pruned,
    progress: &Progress,
) -> Result<()> {
    let fits = |counters: &[PretokenCounter]| {
        counters.iter().map(PretokenCounter::table_bytes).sum::<u64>() <= limit.tables()
            && counters.iter().map(PretokenCounter::memory_to_learn).sum::<u64>() <= available
    };
    if fits(counters) {
        return Ok(());
    }
    // Into the largest, which stays as it is.
    if let Some(largest) = (0..counters.len()).max_by_key(|&at| counters[at].table.len) {
        counters.swap(0, largest);
    }
    let Some((joined, others)) = counters.split_first_mut() else { return Ok(()) };
    for other in others {
        progress.check()?;
        joined.absorb(std::mem::take(other))?;
    }
    if fits(std::slice::from_ref(joined)) {
        return Ok(());
    }
    if !limit.allow_pruning {
        return Err(Error::MemoryLimit {
            limit: in_words(limit.bytes),
            different: joined.table.len,
        });
    }
    progress.check()?;
    pruned.add(joined.prune(available / 2, limit.tables() / 2)?);
    Ok(())
}

impl PretokenCounter {
    /// Drops what `memory` has no room for, or says that it has none.
    pub(crate) fn keep_within(
        &mut self,
        memory: Option<MemoryLimit>,
        pruned: &mut Pruned,
        progress: &Progress,
    ) -> Result<()> {
        let Some(limit) = memory else { return Ok(()) };
        fit(std::slice::from_mut(self), limit, limit.available(), pruned, progress)
    }

    /// About how much memory learning from these pretokens takes, at most.
    fn memory_to_learn(&self) -> u64 {
        self.words().map(|(len, _)| weight(len)).sum()
    }

    /// About how much memory the table takes, at most.
    fn table_bytes(&self) -> u64 {
        ENTRY * self.table.len as u64 + 2 * self.table.arena_len() as u64
    }

    /// The length and count of every different pretoken.
    fn words(&self) -> impl Iterator<Item = (usize, u64)> {
        let counted = |&slot: &usize| self.table.count_at(slot) > 0;
        let word = |slot| (self.table.len_at(slot), self.table.count_at(slot));
        (0..self.table.slots()).filter(counted).map(word)
    }

    /// Takes all of `other` in.
    pub(crate) fn absorb(&mut self, other: Self) -> Result<()> {
        if self.table.len == 0 {
            *self = other;
            return Ok(());
        }
        for slot in other.table.scattered_slots() {
            let count = other.table.count_at(slot);
            if count > 0 {
                other.table.with_bytes_at(slot, |bytes| self.add(bytes, count))?;
            }
        }
        Ok(())
    }

    /// Drops the rarest until learning takes no more than `available` and the table no more than
    /// `bytes`. Of the count at which that is reached, those stay whose hash is low: which they are
    /// depends on nothing but the pretokens.
    fn prune(&mut self, available: u64, bytes: u64) -> Result<Pruned> {
        let mut by_count: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for (len, count) in self.words() {
            let class = by_count.entry(count).or_default();
            class.0 += weight(len);
            class.1 += ENTRY + if len > SHORT { 2 * len as u64 } else { 0 };
        }
        let (mut to_learn, mut in_table, mut lowest_kept, mut share) = (available, bytes, 0, 0.0);
        for (&count, class) in by_count.iter().rev() {
            let fits = f64::min(ratio(to_learn, class.0), ratio(in_table, class.1));
            if fits < 1.0 {
                (lowest_kept, share) = (count, fits);
                break;
            }
            (to_learn, in_table) = (to_learn - class.0, in_table - class.1);
        }
        let mut kept = Self::default();
        for slot in self.table.scattered_slots() {
            let count = self.table.count_at(slot);
            let stays = |bytes: &[u8]| {
                count > lowest_kept
                    || ratio(xxh3_64_with_seed(bytes, lowest_kept), u64::MAX) < share
            };
            if count >= lowest_kept.max(1) {
                self.table.with_bytes_at(slot, |bytes| {
                    if stays(bytes) { kept.add(bytes, count) } else { Ok(()) }
                })?;
            }
        }
        let old = std::mem::replace(self, kept);
        Ok(Pruned {
            pretokens: old.pretokens - self.pretokens,
            text_bytes: old.text_bytes - self.text_bytes,
            lowest_kept,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share, of which a few digits matter")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

impl PretokenCounts {
    /// Drops what `memory` has no room for, or says that it has none.
    pub(crate) fn keep_within(
        &mut self,
        memory: Option<MemoryLimit>,
        pruned: &mut Pruned,
        progress: &Progress,
    ) -> Result<()> {
        let Some(limit) = memory else { return Ok(()) };
        fit(&mut self.counters, limit, limit.available(), pruned, progress)
    }
}

/// What learning takes for a pretoken of `len` bytes, at most: first its place in its table and in
/// the order by count, and its cells; then, when the table is gone, its cells and the places of
/// pairs, as they come and go.
fn weight(len: usize) -> u64 {
    (104 + 4 * len as u64).max(16 * len as u64)
}

/// `bytes` as `4G` or `256M`, the way the limit is typed; exactly, where it is not whole.
fn in_words(bytes: u64) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 30) => format!("{}G", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ => format!("{bytes}"),
    }
}
