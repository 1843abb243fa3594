//! Text → how often each pretoken occurs, a table a thread, joined without copying a table.
//!
//! Time is linear in the text; memory is 43 to 85 bytes a thread for each of its different
//! pretokens, and their own bytes where they are longer than 15. Counts are 64 bits wide.

mod table;

use crate::error::Result;
use crate::pretokenize::Scheme;
use crate::progress::Progress;
use table::Table;

/// Pretokens asked of the scanner at a time.
const ENDS: usize = 512;

/// What one thread counts.
#[derive(Debug, Default)]
pub struct PretokenCounter {
    table: Table,
    pretokens: u64,
}

impl PretokenCounter {
    /// Counts the pretokens of `text`, one stretch between special tokens.
    pub fn count(&mut self, scheme: &Scheme, text: &str) -> Result<()> {
        let (mut scanner, mut ends, mut start) = (scheme.scanner(text), [0; ENDS], 0);
        loop {
            let filled = scanner.fill(&mut ends)?;
            let Some(&last) = ends[..filled].last() else { return Ok(()) };
            self.table.count(text.as_bytes(), start, &ends[..filled]);
            self.pretokens += filled as u64;
            start = last;
        }
    }

    /// Adds `count` occurrences of one pretoken, for counts that were made elsewhere.
    pub fn add(&mut self, pretoken: &[u8], count: u64) {
        if !pretoken.is_empty() && count > 0 {
            self.table.add(pretoken, count);
            self.pretokens += count;
        }
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
    pub(crate) fn sorted(
        &self,
        threads: &rayon::ThreadPool,
        progress: &Progress,
    ) -> Result<Vec<Counted>> {
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
            let mut all = Vec::with_capacity(parts.iter().map(Vec::len).sum());
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
