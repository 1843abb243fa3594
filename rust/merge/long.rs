//! A pretoken of any length → its ids, in time O(n log n) and about six bytes of memory a byte.
//!
//! The symbols stand where their ids will be given out, each at the place of its first byte, and a
//! bit a byte says where one begins: no links. A heap holds the pairs that merge, lowest rank first,
//! then leftmost; an entry whose pair has changed since is passed over when it comes up. The heap
//! has a fixed size. When it is full, the half of larger keys is forgotten, and the smallest of
//! these becomes the limit below which the heap knows all pairs; once it is empty they are found
//! again by a pass over the symbols. A run of a hundred million equal characters takes some dozen
//! passes; text of a few million bytes, one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Merger, NO_MERGE, Rank};
use crate::error::{Error, Result};
use crate::memory::{filled, reserve};
use crate::progress::Progress;

/// The heap holds so many entries, 32 MiB, or one for each [`BYTES_AN_ENTRY`] bytes of the pretoken.
const ENTRIES: usize = 1 << 22;
const BYTES_AN_ENTRY: usize = 4;
/// Steps between two looks at whether to stop.
const STEPS: u64 = 1 << 14;

/// Appends the ids of `pretoken`; returns how many pairs were looked at.
pub(super) fn merge_long(
    merger: &Merger,
    pretoken: &[u8],
    out: &mut Vec<u32>,
    progress: &Progress,
) -> Result<u64> {
    merge_with(merger, pretoken, out, progress, ENTRIES.max(pretoken.len() / BYTES_AN_ENTRY))
}

fn merge_with(
    merger: &Merger,
    pretoken: &[u8],
    out: &mut Vec<u32>,
    progress: &Progress,
    entries: usize,
) -> Result<u64> {
    if u32::try_from(pretoken.len()).is_err() {
        let why = "a pretoken of 4 GiB or more; no pattern should make one";
        return Err(Error::Usage(why.to_owned()));
    }
    let first = out.len();
    reserve(out, pretoken.len())?;
    out.extend(pretoken.iter().map(|&byte| merger.byte_id(byte)));
    let mut symbols = Symbols {
        merger,
        ids: &mut out[first..],
        begins: filled(pretoken.len().div_ceil(64), u64::MAX)?,
        heap: heap_of(entries.min(pretoken.len()))?,
        entries,
        limit: u64::MAX,
        steps: 0,
        progress,
    };
    if let last @ 1.. = pretoken.len() % 64 {
        symbols.begins[pretoken.len() / 64] = (1 << last) - 1;
    }
    symbols.merge_all()?;
    let (steps, left) = (symbols.steps, symbols.gather());
    out.truncate(first + left);
    Ok(steps)
}

fn heap_of(entries: usize) -> Result<BinaryHeap<Reverse<u64>>> {
    let mut all = Vec::new();
    // One more is there for a moment before the half is forgotten.
    reserve(&mut all, entries + 1)?;
    Ok(BinaryHeap::from(all))
}

struct Symbols<'m> {
    merger: &'m Merger,
    /// The id of each symbol where it begins; what stands elsewhere means nothing.
    ids: &'m mut [u32],
    /// A bit a byte: whether a symbol begins there.
    begins: Vec<u64>,
    /// Rank in the upper half, place in the lower; smallest first.
    heap: BinaryHeap<Reverse<u64>>,
    /// The most entries the heap may hold.
    entries: usize,
    /// The heap knows all pairs that merge with smaller keys.
    limit: u64,
    steps: u64,
    progress: &'m Progress,
}

impl Symbols<'_> {
    fn merge_all(&mut self) -> Result<()> {
        loop {
            self.limit = u64::MAX;
            self.find_pairs()?;
            while let Some(Reverse(key)) = self.heap.pop() {
                self.step()?;
                self.merge(key);
            }
            if self.limit == u64::MAX {
                return Ok(());
            }
        }
    }

    /// Merges the pair of `key`, unless one of its symbols is no more.
    fn merge(&mut self, key: u64) {
        let (rank, place) = unpack(key);
        if !self.begins_at(place) || self.rank_at(place) != rank {
            return;
        }
        let next = self.after(place).unwrap_or(place);
        self.begins[next / 64] &= !(1 << (next % 64));
        self.ids[place] = self.merger.merged(rank);
        self.push(place);
        if let Some(previous) = self.before(place) {
            self.push(previous);
        }
    }

    fn find_pairs(&mut self) -> Result<()> {
        for word in 0..self.begins.len() {
            let mut bits = self.begins[word];
            while bits != 0 {
                self.step()?;
                self.push(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
        Ok(())
    }

    /// Adds the pair of the symbol at `place` and the next one.
    fn push(&mut self, place: usize) {
        let rank = self.rank_at(place);
        let key = pack(rank, place);
        if rank == NO_MERGE || key >= self.limit {
            return;
        }
        self.heap.push(Reverse(key));
        if self.heap.len() > self.entries {
            let mut all = std::mem::take(&mut self.heap).into_vec();
            let half = all.len() / 2;
            let (_, Reverse(limit), _) = all.select_nth_unstable_by_key(half, |entry| entry.0);
            self.limit = *limit;
            all.truncate(half);
            self.heap = BinaryHeap::from(all);
        }
    }

    fn rank_at(&self, place: usize) -> Rank {
        match self.after(place) {
            Some(next) => self.merger.rank(self.ids[place], self.ids[next]),
            None => NO_MERGE,
        }
    }

    fn begins_at(&self, place: usize) -> bool {
        self.begins[place / 64] >> (place % 64) & 1 != 0
    }

    /// Where the next symbol begins.
    fn after(&self, place: usize) -> Option<usize> {
        let (mut word, mut bits) =
            (place / 64, self.begins[place / 64] & (u64::MAX << (place % 64) << 1));
        while bits == 0 {
            word += 1;
            bits = *self.begins.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    /// Where the previous symbol begins.
    fn before(&self, place: usize) -> Option<usize> {
        let (mut word, mut bits) =
            (place / 64, self.begins[place / 64] & ((1 << (place % 64)) - 1));
        while bits == 0 {
            word = word.checked_sub(1)?;
            bits = self.begins[word];
        }
        Some(word * 64 + 63 - bits.leading_zeros() as usize)
    }

    /// Moves the ids together; returns how many there are.
    fn gather(mut self) -> usize {
        let mut count = 0;
        for word in 0..self.begins.len() {
            while self.begins[word] != 0 {
                self.ids[count] = self.ids[word * 64 + self.begins[word].trailing_zeros() as usize];
                self.begins[word] &= self.begins[word] - 1;
                count += 1;
            }
        }
        count
    }

    fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS) { self.progress.check() } else { Ok(()) }
    }
}

fn pack(rank: Rank, place: usize) -> u64 {
    u64::from(rank) << 32 | place as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves")]
fn unpack(key: u64) -> (Rank, usize) {
    ((key >> 32) as u32, (key & u64::from(u32::MAX)) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::special_tokens::SpecialTokens;
    use crate::vocabulary::Vocabulary;

    /// The bytes, and all powers of two of `a` up to 2¹⁶.
    fn doubling() -> Merger {
        let tokens = (0..=255u8).map(|byte| vec![byte]);
        let long = (1..=16).map(|power| vec![b'a'; 1 << power]);
        let merges = (0..16).map(|power| (vec![b'a'; 1 << power], vec![b'a'; 1 << power]));
        let tokens: Vec<_> = (0..).zip(tokens.chain(long)).collect();
        let vocabulary = Vocabulary::from_merges(tokens, merges).unwrap();
        Merger::new(&vocabulary, &SpecialTokens::none())
    }

    fn merged(text: &[u8], entries: usize) -> (Vec<u32>, u64) {
        let mut out = vec![7];
        let steps = merge_with(&doubling(), text, &mut out, &Progress::default(), entries).unwrap();
        assert_eq!(out.remove(0), 7);
        (out, steps)
    }

    #[test]
    fn a_megabyte_of_one_character_takes_steps_in_proportion_to_its_length() {
        let text = vec![b'a'; 1 << 20];
        let (ids, steps) = merged(&text, ENTRIES);
        assert_eq!(ids, vec![271; 16]);
        assert!(steps <= 4 << 20, "{steps} steps");
        let (ids, steps) = merged(&text, text.len() / BYTES_AN_ENTRY);
        assert_eq!(ids, vec![271; 16]);
        assert!(steps <= 24 << 20, "{steps} steps in a small heap");
    }

    #[test]
    fn any_size_of_the_heap_gives_the_same() {
        let merger = doubling();
        for len in 1..200_usize {
            let text: Vec<u8> = (0..len).map(|i| if i % 7 == 6 { b'b' } else { b'a' }).collect();
            let (ids, _) = merged(&text, len);
            for entries in [1, 2, 3, 10] {
                assert_eq!(merged(&text, entries).0, ids, "{len} bytes, {entries} entries");
            }
            if len <= 64 {
                let (mut lanes, mut short) = (super::super::Lanes::new(), Vec::new());
                merger.merge(&text, &mut lanes, &mut short, &Progress::default()).unwrap();
                assert_eq!(short, ids);
            }
        }
    }
}
