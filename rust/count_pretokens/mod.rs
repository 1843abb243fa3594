//! Text → how often each pretoken occurs, a table a thread, joined without copying a table.
//!
//! Time is linear in the text; memory is 43 to 85 bytes a thread for each of its different
//! pretokens, and their own bytes where they are longer than 15. Counts are 64 bits wide.

mod table;

use std::path::PathBuf;

use aho_corasick::{AhoCorasick, MatchKind};
use crossbeam_channel::bounded;
use rayon::ThreadPool;

use crate::cut::CutRule;
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::pretokenize::Scheme;
use crate::progress::Progress;
use crate::text_source::{Content, Slice, TextSource};
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

    /// Counts all of `source`; `progress` is told the bytes read. Also gives the files of its
    /// folders that turned out to hold no text.
    pub fn count_source(
        &self,
        source: &TextSource,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<(PretokenCounts, Vec<PathBuf>)> {
        let slices = source.slices(&self.cut, None, progress);
        let counters = threads.broadcast(|_| {
            let (mut counter, mut slice) = (PretokenCounter::default(), Slice::default());
            while slices.next(&mut slice)? {
                for piece in slice.pieces() {
                    match piece.content {
                        Content::Text(text) => self.count(&mut counter, text, progress)?,
                        Content::Byte(byte) => counter.add(&[byte], 1)?,
                    }
                }
            }
            Ok(counter)
        });
        // Of several errors the cause, not the call to stop that followed it.
        let (counters, errors): (Vec<_>, Vec<_>) = counters.into_iter().partition(Result::is_ok);
        let mut errors: Vec<Error> = errors.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| matches!(error, Error::Interrupted));
        if let Some(error) = errors.into_iter().next() {
            return Err(error);
        }
        let counters = counters.into_iter().collect::<Result<_>>()?;
        Ok((PretokenCounts::new(counters), slices.not_text()))
    }

    /// Counts texts that come one after another: `feed` is called on this thread and hands its
    /// batches over, waiting where `threads` are busy.
    pub fn count_batches<E: From<Error>>(
        &self,
        threads: usize,
        progress: &Progress,
        feed: impl FnOnce(HandOver<'_>) -> Result<(), E>,
    ) -> Result<PretokenCounts, E> {
        std::thread::scope(|scope| {
            // Both ends live in here: where a thread cannot be started, the others see the end.
            let (sender, receiver) = bounded::<Batch>(threads);
            let workers = (0..threads)
                .map(|_| {
                    let receiver = receiver.clone();
                    let work = move || -> Result<PretokenCounter> {
                        let mut counter = PretokenCounter::default();
                        for batch in receiver {
                            for text in batch.texts() {
                                self.count(&mut counter, text, progress)?;
                            }
                            progress.add(batch.text.len() as u64);
                        }
                        Ok(counter)
                    };
                    std::thread::Builder::new()
                        .name("lmkit-count".to_owned())
                        .spawn_scoped(scope, work)
                        .map_err(|source| Error::Io { path: "a new thread".into(), source })
                })
                .collect::<Result<Vec<_>>>()?;
            drop(receiver);
            // Nobody receives any more only when all workers have failed; they say how.
            let delivered = feed(&mut |batch| sender.send(batch).map_err(|_| Error::Interrupted));
            drop(sender);
            let counters = workers
                .into_iter()
                .map(|worker| {
                    let panicked = |_| Error::Internal("a counting thread panicked".to_owned());
                    worker.join().map_err(panicked)?
                })
                .collect::<Result<Vec<_>>>();
            match (delivered, counters) {
                (_, Err(error)) if !matches!(error, Error::Interrupted) => Err(error.into()),
                (Err(error), _) => Err(error),
                (Ok(()), counters) => Ok(PretokenCounts::new(counters?)),
            }
        })
    }

    /// Cuts `text`, a document of its own, into stretches that can be counted apart, and adds them
    /// to `batch`, which is handed to `full` whenever it is.
    pub fn add_text<E: From<Error>>(
        &self,
        batch: &mut Batch,
        mut text: &str,
        mut full: impl FnMut(Batch) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reach = BATCH_BYTES;
        while text.len() > reach.saturating_add(self.cut.context()) {
            if let Some(at) = self.cut.last(text.as_bytes(), 1..reach) {
                batch.push(&text[..at])?;
                full(std::mem::take(batch))?;
                text = &text[at..];
                reach = BATCH_BYTES;
            } else {
                reach = reach.saturating_mul(2);
            }
        }
        batch.push(text)?;
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
    ends: Vec<usize>,
}

impl Batch {
    fn push(&mut self, text: &str) -> Result<()> {
        let bytes = self.text.len() + text.len();
        self.text.try_reserve(text.len()).map_err(|_| Error::OutOfMemory { bytes })?;
        self.text.push_str(text);
        self.ends.push(bytes);
        Ok(())
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.text[start..end])
    }
}

/// What one thread counts.
#[derive(Debug, Default)]
pub struct PretokenCounter {
    table: Table,
    pretokens: u64,
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
            start = last;
        }
    }

    /// Adds `count` occurrences of one pretoken, for counts that were made elsewhere.
    pub fn add(&mut self, pretoken: &[u8], count: u64) -> Result<()> {
        if !pretoken.is_empty() && count > 0 {
            self.table.add(pretoken, count)?;
            self.pretokens += count;
        }
        Ok(())
    }

    /// How many pretokens were counted, repeats included.
    pub fn pretokens(&self) -> u64 {
        self.pretokens
    }
}

/// The counts of several threads, taken together; a pretoken may stand in several tables.
#[derive(Debug)]
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

    /// The different pretokens, the most frequent first.
    pub(crate) fn sorted(&self, threads: &ThreadPool, progress: &Progress) -> Result<Vec<Counted>> {
        use rayon::prelude::*;
        const STRIPE: usize = 1 << 14;
        let stripes: Vec<(usize, usize)> = self
            .counters
            .iter()
            .enumerate()
            .flat_map(|(table, counter)| {
                (0..counter.table.slots()).step_by(STRIPE).map(move |start| (table, start))
            })
            .collect();
        let mut all = threads.install(|| {
            let mut parts = stripes
                .into_par_iter()
                .map(|(table, start)| {
                    progress.check()?;
                    let slots = self.counters[table].table.slots();
                    Ok((start..slots.min(start + STRIPE))
                        .filter_map(|slot| self.counted(table, slot))
                        .collect::<Vec<_>>())
                })
                .collect::<Result<Vec<_>>>()?;
            let mut all = Vec::new();
            reserve(&mut all, parts.iter().map(Vec::len).sum())?;
            parts.drain(..).for_each(|part| all.extend(part));
            Ok(all)
        })?;
        debug_assert_eq!(
            all.iter().map(|word: &Counted| word.count).sum::<u64>(),
            self.pretokens()
        );
        progress.check()?;
        // By place among equals: those words' bytes are then read in the order they lie in memory.
        threads.install(|| {
            all.par_sort_unstable_by_key(|word| {
                (std::cmp::Reverse(word.count), word.table, word.slot)
            });
        });
        Ok(all)
    }

    /// The pretoken at one slot with what all tables have of it, unless the slot is free or an
    /// earlier table has it too.
    fn counted(&self, table: usize, slot: usize) -> Option<Counted> {
        let (earlier, later) = self.counters.split_at(table);
        let (own, later) = later.split_first()?;
        let mut count = own.table.count_at(slot);
        if count == 0 || earlier.iter().any(|other| other.table.count_of(&own.table, slot) > 0) {
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
