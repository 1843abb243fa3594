//! Text → how often each pretoken occurs, a table a thread, joined without copying a table.
//!
//! Time is linear in the text; memory is 43 to 85 bytes a thread for each of its different
//! pretokens, and their own bytes where they are longer than 15; a [`MemoryLimit`] bounds it.
//! Counts are 64 bits wide.

mod limit;
mod table;

use std::cmp::Ordering;
use std::path::PathBuf;

use aho_corasick::{AhoCorasick, MatchKind};
use crossbeam_channel::bounded;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::cut::CutRule;
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::pretokenize::Scheme;
use crate::progress::Progress;
use crate::text_source::{Content, Slice, Split, TextSource};
use limit::Gate;
pub use limit::{MemoryLimit, Pruned};
use table::Table;

/// Pretokens asked of the scanner at a time.
const ENDS: usize = 512;

/// About how much text from memory a thread is given at a time.
const BATCH_BYTES: usize = 1 << 20;
/// No more texts than this are given at a time; they may all be empty.
const BATCH_TEXTS: usize = 1 << 14;

/// How text becomes pretokens: special tokens are cut out, the rest is split.
#[derive(Debug)]
pub struct Counting {
    scheme: Scheme,
    specials: Option<AhoCorasick>,
    cut: CutRule,
}

impl Counting {
    /// Splits by `scheme` what lies between `special_tokens`.
    pub fn new(scheme: Scheme, special_tokens: &[String]) -> Result<Self> {
        let specials = if special_tokens.is_empty() {
            None
        } else {
            let built =
                AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(special_tokens);
            Some(built.map_err(|error| Error::Usage(format!("special tokens: {error}")))?)
        };
        let cut = CutRule::new(scheme.clone(), special_tokens)?;
        Ok(Self { scheme, specials, cut })
    }

    /// Counts what `source` holds; `progress` is told the bytes read. Of a text that is divided, the
    /// documents that `split` chooses are counted and the others held out, or passed over.
    pub fn count_source(
        &self,
        source: &TextSource,
        options: &CountOptions,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Counts> {
        let slices = source.slices(&self.cut, options.split.as_ref(), progress);
        let gate = Gate::new(options, threads.current_num_threads());
        let results = threads.broadcast(|worker| {
            gate.work(worker.index(), progress, |door| {
                let mut slice = Slice::default();
                while slices.next(&mut slice)? {
                    door.count(slice.number(), |counters| {
                        for piece in slice.pieces() {
                            let is_chosen = piece.in_validation || options.split.is_none();
                            let Some(counter) = counters.of(is_chosen) else { continue };
                            match piece.content {
                                Content::Text(text) => self.count(counter, text, progress)?,
                                Content::Byte(byte) => counter.add(&[byte], 1)?,
                            }
                        }
                        Ok(())
                    })?;
                }
                Ok(())
            })
        });
        first_cause(results)?;
        let (not_text, null_rows) = (slices.not_text(), slices.nulls());
        Ok(Counts { not_text, null_rows, ..gate.finish(progress)? })
    }

    /// Counts texts that come one after another: `feed` is called on this thread and hands its
    /// batches over, waiting where `threads` are busy. Each text is a document.
    pub fn count_batches<E: From<Error>>(
        &self,
        options: &CountOptions,
        threads: usize,
        progress: &Progress,
        feed: impl FnOnce(HandOver<'_>) -> Result<(), E>,
    ) -> Result<Counts, E> {
        let gate = Gate::new(options, threads);
        std::thread::scope(|scope| -> Result<(), E> {
            // Both ends live in here: where a thread cannot be started, the others see the end.
            let (sender, receiver) = bounded::<(u64, Batch)>(threads);
            let workers = (0..threads)
                .map(|index| {
                    let (receiver, gate) = (receiver.clone(), &gate);
                    let work = move || -> Result<()> {
                        gate.work(index, progress, |door| {
                            for (number, batch) in receiver {
                                door.count(number, |counters| {
                                    for (text, is_chosen) in batch.texts() {
                                        let Some(counter) = counters.of(is_chosen) else {
                                            continue;
                                        };
                                        self.count(counter, text, progress)?;
                                    }
                                    Ok(())
                                })?;
                                progress.add(batch.text.len() as u64);
                            }
                            Ok(())
                        })
                    };
                    std::thread::Builder::new()
                        .name("lmkit-count".to_owned())
                        .spawn_scoped(scope, work)
                        .map_err(|source| Error::Io { path: "a new thread".into(), source })
                })
                .collect::<Result<Vec<_>>>()?;
            drop(receiver);
            // Nobody receives any more only when all workers have failed; they say how.
            let mut number = 0;
            let delivered = feed(&mut |batch| {
                number += 1;
                sender.send((number - 1, batch)).map_err(|_| Error::Interrupted)
            });
            drop(sender);
            let counted = first_cause(workers.into_iter().map(|worker| {
                let panicked = |_| Error::Internal("a counting thread panicked".to_owned());
                worker.join().map_err(panicked)?
            }));
            match (delivered, counted) {
                (_, Err(error)) if !matches!(error, Error::Interrupted) => Err(error.into()),
                (Err(error), _) => Err(error),
                (Ok(()), counted) => Ok(counted?),
            }
        })?;
        Ok(gate.finish(progress)?)
    }

    /// Cuts `text`, a document of its own, into stretches that can be counted apart, and adds them
    /// to `batch`, which is handed to `full` whenever it is.
    pub fn add_text<E: From<Error>>(
        &self,
        options: &CountOptions,
        batch: &mut Batch,
        mut text: &str,
        mut full: impl FnMut(Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let is_chosen = options.split.as_ref().is_none_or(|split| split.chooses(text.as_bytes()));
        if !is_chosen && !options.holds_out {
            return Ok(());
        }
        let mut reach = BATCH_BYTES;
        while text.len() > reach.saturating_add(self.cut.context()) {
            if let Some(at) = self.cut.last(text.as_bytes(), 1..reach) {
                batch.push(&text[..at], is_chosen)?;
                full(std::mem::take(batch))?;
                text = &text[at..];
                reach = BATCH_BYTES;
            } else {
                reach = reach.saturating_mul(2);
            }
        }
        batch.push(text, is_chosen)?;
        if batch.text.len() >= BATCH_BYTES || batch.ends.len() >= BATCH_TEXTS {
            full(std::mem::take(batch))?;
        }
        Ok(())
    }

    fn count(&self, counter: &mut PretokenCounter, text: &str, progress: &Progress) -> Result<()> {
        let mut start = 0;
        if let Some(specials) = &self.specials {
            for special in specials.find_iter(text) {
                counter.count(&self.scheme, &text[start..special.start()], progress)?;
                start = special.end();
            }
        }
        counter.count(&self.scheme, &text[start..], progress)
    }
}

/// Gives a batch to a thread that counts, waiting for one.
pub type HandOver<'a> = &'a mut (dyn FnMut(Batch) -> Result<()> + Send);

/// Some texts, each to be counted on its own.
#[derive(Debug, Default)]
pub struct Batch {
    text: String,
    /// Where each text ends, and whether it was chosen to be learned from.
    ends: Vec<(usize, bool)>,
}

impl Batch {
    fn push(&mut self, text: &str, is_chosen: bool) -> Result<()> {
        let bytes = self.text.len() + text.len();
        self.text.try_reserve(text.len()).map_err(|_| Error::OutOfMemory { bytes })?;
        self.text.push_str(text);
        self.ends.push((bytes, is_chosen));
        Ok(())
    }

    fn texts(&self) -> impl Iterator<Item = (&str, bool)> {
        let starts = [0].into_iter().chain(self.ends.iter().map(|(end, _)| *end));
        starts.zip(&self.ends).map(|(start, &(end, chosen))| (&self.text[start..end], chosen))
    }
}

/// Which documents are counted, and within how much memory.
#[derive(Debug, Default)]
pub struct CountOptions {
    /// Chooses the documents that are counted; all are where there is none.
    pub split: Option<Split>,
    /// Whether the others are counted apart.
    pub holds_out: bool,
    /// How much memory learning may take, from here to the last merge.
    pub memory: Option<MemoryLimit>,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct Counts {
    /// What there is to learn from.
    pub learned: PretokenCounts,
    /// What the split did not choose.
    pub held_out: PretokenCounts,
    /// What was dropped for want of memory.
    pub pruned: Pruned,
    /// Files of folders that turned out to hold no text.
    pub not_text: Vec<PathBuf>,
    /// Rows of tables that have no text.
    pub null_rows: u64,
}

/// Of several errors the cause, not the call to stop that followed it.
fn first_cause(results: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut errors: Vec<Error> = results.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(|error| matches!(error, Error::Interrupted));
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// What one thread counts.
#[derive(Debug, Default)]
pub struct PretokenCounter {
    table: Table,
    pretokens: u64,
    text_bytes: u64,
}

impl PretokenCounter {
    /// Counts the pretokens of `text`, one stretch between special tokens; stops soon after
    /// `progress` is cancelled.
    pub fn count(&mut self, scheme: &Scheme, text: &str, progress: &Progress) -> Result<()> {
        let (mut scanner, mut ends, mut start) = (scheme.scanner(text), [0; ENDS], 0);
        loop {
            let filled = scanner.fill(&mut ends)?;
            let Some(&last) = ends[..filled].last() else { return Ok(()) };
            progress.check()?;
            self.table.count(text.as_bytes(), start, &ends[..filled])?;
            self.pretokens += filled as u64;
            self.text_bytes += (last - start) as u64;
            start = last;
        }
    }

    /// Adds `count` occurrences of one pretoken, for counts that were made elsewhere.
    pub fn add(&mut self, pretoken: &[u8], count: u64) -> Result<()> {
        if !pretoken.is_empty() && count > 0 {
            self.table.add(pretoken, count)?;
            self.pretokens += count;
            self.text_bytes += count * pretoken.len() as u64;
        }
        Ok(())
    }

    /// How many pretokens were counted, repeats included.
    pub fn pretokens(&self) -> u64 {
        self.pretokens
    }
}

/// The counts of several threads, taken together; a pretoken may stand in several tables.
#[derive(Debug, Default)]
pub struct PretokenCounts {
    counters: Vec<PretokenCounter>,
}

/// Where one different pretoken stands, with its whole count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) count: u64,
    table: u32,
    slot: u32,
}

impl PretokenCounts {
    /// The counts of all these.
    pub fn new(counters: Vec<PretokenCounter>) -> Self {
        Self { counters }
    }

    /// How many pretokens were counted, repeats included.
    pub fn pretokens(&self) -> u64 {
        self.counters.iter().map(|counter| counter.pretokens).sum()
    }

    /// How many bytes of text they make up, repeats included.
    pub fn text_bytes(&self) -> u64 {
        self.counters.iter().map(|counter| counter.text_bytes).sum()
    }

    /// Takes these counts in too.
    pub fn extend(&mut self, more: Self) {
        self.counters.extend(more.counters.into_iter().filter(|counter| counter.pretokens > 0));
    }

    /// The different pretokens of two bytes and more, the most frequent first.
    pub(crate) fn divisible(
        &self,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Vec<Counted>> {
        let mut all = self.all_of(2, threads, progress)?;
        // By place among equals: those words' bytes are then read in the order they lie in memory.
        let place = |word: &Counted| (word.table, word.slot);
        threads.install(|| {
            all.par_sort_unstable_by(until_cancelled(progress, |one: &Counted, other| {
                other.count.cmp(&one.count).then_with(|| place(one).cmp(&place(other)))
            }));
        });
        progress.check()?;
        Ok(all)
    }

    /// The different pretokens by their bytes: one order, however they were counted.
    pub(crate) fn by_bytes(
        &self,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Vec<Counted>> {
        let words = self.different(threads, progress)?;
        let mut keyed = Vec::new();
        reserve(&mut keyed, words.len())?;
        // Eight bytes tell most words apart without a look at the tables.
        keyed.extend(words.into_iter().map(|word| (self.with_bytes(word, first_eight), word)));
        threads.install(|| {
            keyed.par_sort_unstable_by(until_cancelled(
                progress,
                |(one_key, one): &(u64, Counted), (other_key, other)| {
                    one_key.cmp(other_key).then_with(|| {
                        self.with_bytes(*one, |one| self.with_bytes(*other, |other| one.cmp(other)))
                    })
                },
            ));
        });
        progress.check()?;
        Ok(keyed.into_iter().map(|(_, word)| word).collect())
    }

    /// Every different pretoken once, in no order.
    pub(crate) fn different(
        &self,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Vec<Counted>> {
        let all = self.all_of(1, threads, progress)?;
        debug_assert_eq!(all.iter().map(|word| word.count).sum::<u64>(), self.pretokens());
        Ok(all)
    }

    /// Every different pretoken of at least so many bytes.
    fn all_of(
        &self,
        least_len: usize,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Vec<Counted>> {
        const STRIPE: usize = 1 << 14;
        let stripes: Vec<(usize, usize)> = self
            .counters
            .iter()
            .enumerate()
            .flat_map(|(table, counter)| {
                (0..counter.table.slots()).step_by(STRIPE).map(move |start| (table, start))
            })
            .collect();
        let all = threads.install(|| {
            let mut parts = stripes
                .into_par_iter()
                .map(|(table, start)| {
                    progress.check()?;
                    let own = &self.counters[table].table;
                    Ok((start..own.slots().min(start + STRIPE))
                        .filter(|&slot| own.count_at(slot) > 0 && own.len_at(slot) >= least_len)
                        .filter_map(|slot| self.counted(table, slot))
                        .collect::<Vec<_>>())
                })
                .collect::<Result<Vec<_>>>()?;
            let mut all = Vec::new();
            reserve(&mut all, parts.iter().map(Vec::len).sum())?;
            parts.drain(..).for_each(|part| all.extend(part));
            Ok(all)
        })?;
        progress.check()?;
        Ok(all)
    }

    /// The pretoken at one slot, which is not free, with what all tables have of it, unless an
    /// earlier table has it too.
    fn counted(&self, table: usize, slot: usize) -> Option<Counted> {
        let (earlier, later) = self.counters.split_at(table);
        let (own, later) = later.split_first()?;
        let mut count = own.table.count_at(slot);
        if earlier.iter().any(|other| other.table.count_of(&own.table, slot) > 0) {
            return None;
        }
        count += later.iter().map(|other| other.table.count_of(&own.table, slot)).sum::<u64>();
        #[expect(clippy::cast_possible_truncation, reason = "tables of 2^32 slots take 128 GiB")]
        Some(Counted { count, table: table as u32, slot: slot as u32 })
    }

    /// How many bytes a pretoken has.
    pub(crate) fn len_of(&self, word: Counted) -> usize {
        self.counters[word.table as usize].table.len_at(word.slot as usize)
    }

    /// Hands a pretoken's bytes to `take`.
    pub(crate) fn with_bytes<T>(&self, word: Counted, take: impl FnOnce(&[u8]) -> T) -> T {
        self.counters[word.table as usize].table.with_bytes_at(word.slot as usize, take)
    }
}

/// `order`, by which everything is equal once the run was cancelled: the sort that uses it then ends
/// after a look at each, in some order that nobody sees.
fn until_cancelled<T>(
    progress: &Progress,
    order: impl Fn(&T, &T) -> Ordering + Sync,
) -> impl Fn(&T, &T) -> Ordering + Sync {
    move |one, other| if progress.is_cancelled() { Ordering::Equal } else { order(one, other) }
}

/// The first eight bytes as a number that sorts like them.
fn first_eight(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = bytes.len().min(8);
    first[..len].copy_from_slice(&bytes[..len]);
    u64::from_be_bytes(first)
}
