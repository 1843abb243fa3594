//! One pretoken → its ids: the byte-level BPE kernel.
//!
//! Again and again the adjacent pair of lowest rank merges, the leftmost of equals, until no pair
//! is left. Words are short, so the pair is found by a scan (O(n²) in the pretoken's bytes, but a
//! few nanoseconds a step); from [`LONG`] bytes on by a heap over a linked list, O(n log n), which
//! takes a megabyte without a break in stride.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::FxHashSet;

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::special_tokens::SpecialTokens;
use crate::vocabulary::{MergeRule, Vocabulary};

/// From this many bytes on the heap takes over.
const LONG: usize = 96;
/// Buffers that grew past this many bytes for one long pretoken are given back.
const KEEP: usize = 1 << 16;

/// What a pair of neighbours becomes: the rank in the upper half, the merged id in the lower, so
/// that the smallest is the one that merges first.
type Outcome = u64;
const NO_MERGE: Outcome = u64::MAX;
const FREE: u64 = u64::MAX;

#[expect(clippy::cast_possible_truncation, reason = "the lower half is the id")]
fn merged_id(outcome: Outcome) -> u32 {
    outcome as u32
}

/// All pairs that merge: open addressing by the packed pair, at most half full.
#[derive(Debug, Clone)]
struct Pairs {
    slots: Vec<(u64, Outcome)>,
    shift: u32,
}

impl Pairs {
    fn with_room_for(pairs: usize) -> Self {
        let len = (pairs * 2).next_power_of_two().max(16);
        Self { slots: vec![(FREE, NO_MERGE); len], shift: 64 - len.trailing_zeros() }
    }

    /// A later insertion of the same pair replaces the earlier one.
    fn insert(&mut self, left: u32, right: u32, rank: u32, merged: u32) {
        let key = pack(left, right);
        let mut slot = self.home(key);
        while self.slots[slot].0 != FREE && self.slots[slot].0 != key {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = (key, pack(rank, merged));
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Outcome {
        let key = pack(left, right);
        let mut slot = self.home(key);
        loop {
            let (found, outcome) = self.slots[slot];
            if found == key {
                return outcome;
            }
            if found == FREE {
                return NO_MERGE;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// The upper bits of a product, folded once so that both ids reach them.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "shifted down to the table's size")]
    fn home(&self, key: u64) -> usize {
        let mixed = (key ^ (key >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93) >> self.shift) as usize
    }
}

#[inline]
fn pack(upper: u32, lower: u32) -> u64 {
    (u64::from(upper) << 32) | u64::from(lower)
}

/// A vocabulary's merges, ready to be applied.
#[derive(Debug, Clone)]
pub struct Merger {
    pairs: Pairs,
    byte_ids: [u32; 256],
    /// Whether a pretoken that is a token is that token, whatever the pairs say.
    whole_first: bool,
}

/// Buffers of the kernel, reused from pretoken to pretoken.
#[derive(Debug, Default)]
pub struct MergeScratch {
    ids: Vec<u32>,
    outcomes: Vec<Outcome>,
    before: Vec<u32>,
    after: Vec<u32>,
    /// Rank in the upper half, position in the lower: lowest rank first, then leftmost.
    heap: BinaryHeap<Reverse<u64>>,
    /// How many pairs were looked at since these buffers were made; what tests count.
    steps: u64,
}

impl MergeScratch {
    /// Buffers that suffice for every pretoken shorter than the heap's.
    pub fn new() -> Self {
        Self {
            ids: Vec::with_capacity(LONG),
            outcomes: Vec::with_capacity(LONG),
            ..Self::default()
        }
    }
}

impl Merger {
    /// The merges of `vocabulary`. By the rank rule every split of a token into two tokens is a
    /// pair; special tokens take no part in it, nor as whole pretokens (single bytes always do).
    pub fn new(vocabulary: &Vocabulary, specials: &SpecialTokens) -> Self {
        let byte_ids = *vocabulary.byte_ids();
        match vocabulary.rule() {
            MergeRule::Merges(merges) => {
                let mut pairs = Pairs::with_room_for(merges.len());
                for (rank, merge) in (0..).zip(merges) {
                    pairs.insert(merge.left, merge.right, rank, merge.merged);
                }
                Self { pairs, byte_ids, whole_first: false }
            }
            MergeRule::Ranks => {
                let special: FxHashSet<u32> = specials.tokens().iter().map(|(_, id)| *id).collect();
                let mut splits = Vec::new();
                for (id, token) in vocabulary.iter().filter(|(id, _)| !special.contains(id)) {
                    for middle in 1..token.len() {
                        let (left, right) = token.split_at(middle);
                        let Some(left) = vocabulary.id(left) else { continue };
                        let Some(right) = vocabulary.id(right) else { continue };
                        splits.push((left, right, id));
                    }
                }
                let mut pairs = Pairs::with_room_for(splits.len());
                for (left, right, id) in splits {
                    pairs.insert(left, right, id, id);
                }
                Self { pairs, byte_ids, whole_first: true }
            }
        }
    }

    /// Whether a pretoken that is a token is that token, whatever the pairs say (the rank rule).
    pub fn whole_first(&self) -> bool {
        self.whole_first
    }

    /// Appends the ids of one pretoken.
    pub fn merge(
        &self,
        pretoken: &[u8],
        scratch: &mut MergeScratch,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        match pretoken.len() {
            0 => {}
            1 => out.push(self.byte_ids[usize::from(pretoken[0])]),
            2..LONG => {
                self.merge_short(pretoken, scratch);
                out.extend_from_slice(&scratch.ids);
            }
            _ => self.merge_long(pretoken, scratch, out, progress)?,
        }
        Ok(())
    }

    fn merge_short(&self, pretoken: &[u8], scratch: &mut MergeScratch) {
        let MergeScratch { ids, outcomes, steps, .. } = scratch;
        ids.clear();
        ids.extend(pretoken.iter().map(|byte| self.byte_ids[usize::from(*byte)]));
        outcomes.clear();
        outcomes.extend(ids.windows(2).map(|pair| self.pairs.get(pair[0], pair[1])));
        loop {
            let mut best = NO_MERGE;
            let mut at = 0;
            for (place, outcome) in outcomes.iter().enumerate() {
                if *outcome < best {
                    (best, at) = (*outcome, place);
                }
            }
            *steps += outcomes.len() as u64;
            if best == NO_MERGE {
                return;
            }
            ids[at] = merged_id(best);
            ids.remove(at + 1);
            outcomes.remove(at);
            if at > 0 {
                outcomes[at - 1] = self.pairs.get(ids[at - 1], ids[at]);
            }
            if at < outcomes.len() {
                outcomes[at] = self.pairs.get(ids[at], ids[at + 1]);
            }
        }
    }

    /// Each symbol stands where its first byte stood; `before` and `after` lead to its neighbours.
    fn merge_long(
        &self,
        pretoken: &[u8],
        scratch: &mut MergeScratch,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        let len = u32::try_from(pretoken.len()).map_err(|_| {
            Error::Usage("a pretoken of 4 GiB or more; no pattern should make one".to_owned())
        })?;
        scratch.prepare_long(pretoken.len())?;
        let MergeScratch { ids, before, after, heap, steps, .. } = scratch;
        ids.extend(pretoken.iter().map(|byte| self.byte_ids[usize::from(*byte)]));
        before.extend((0..len).map(|place| place.wrapping_sub(1)));
        after.extend(1..=len);
        let mut first = std::mem::take(heap).into_vec();
        for (place, pair) in (0..).zip(ids.windows(2)) {
            let outcome = self.pairs.get(pair[0], pair[1]);
            if outcome != NO_MERGE {
                first.push(Reverse(with_place(outcome, place)));
            }
        }
        *heap = BinaryHeap::from(first);
        while let Some(Reverse(entry)) = heap.pop() {
            *steps += 1;
            if steps.is_multiple_of(1 << 14) {
                progress.check()?;
            }
            let place = merged_id(entry);
            let at = place as usize;
            // A symbol that was swallowed leads nowhere; one whose pair has changed since has
            // another entry of its own.
            let next = after[at];
            if next >= len {
                continue;
            }
            let outcome = self.pairs.get(ids[at], ids[next as usize]);
            if outcome == NO_MERGE || with_place(outcome, place) != entry {
                continue;
            }
            ids[at] = merged_id(outcome);
            let beyond = after[next as usize];
            after[next as usize] = GONE;
            after[at] = beyond;
            if beyond < len {
                before[beyond as usize] = place;
                push(heap, self.pairs.get(ids[at], ids[beyond as usize]), place);
            }
            let previous = before[at];
            if previous < len {
                push(heap, self.pairs.get(ids[previous as usize], ids[at]), previous);
            }
        }
        let mut place = 0;
        while place < len {
            out.push(ids[place as usize]);
            place = after[place as usize];
        }
        scratch.give_back();
        Ok(())
    }
}

/// Marks a symbol that its left neighbour has swallowed.
const GONE: u32 = u32::MAX;

fn with_place(outcome: Outcome, place: u32) -> u64 {
    (outcome & !u64::from(u32::MAX)) | u64::from(place)
}

fn push(heap: &mut BinaryHeap<Reverse<u64>>, outcome: Outcome, place: u32) {
    if outcome != NO_MERGE {
        heap.push(Reverse(with_place(outcome, place)));
    }
}

impl MergeScratch {
    fn prepare_long(&mut self, len: usize) -> Result<()> {
        self.ids.clear();
        self.before.clear();
        self.after.clear();
        self.heap.clear();
        // Every merge takes one entry off the heap and adds at most two.
        self.ids
            .try_reserve_exact(len)
            .and_then(|()| self.before.try_reserve_exact(len))
            .and_then(|()| self.after.try_reserve_exact(len))
            .and_then(|()| self.heap.try_reserve_exact(2 * len))
            .map_err(|_| Error::OutOfMemory { bytes: len * 28 })
    }

    fn give_back(&mut self) {
        self.ids.clear();
        self.ids.shrink_to(KEEP / 4);
        self.before = Vec::new();
        self.after = Vec::new();
        self.heap = BinaryHeap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes, and all powers of two of `a` up to 2¹⁶.
    fn doubling() -> Merger {
        let tokens = (0..=255u8).map(|byte| vec![byte]);
        let long = (1..=16).map(|power| vec![b'a'; 1 << power]);
        let merges = (0..16).map(|power| (vec![b'a'; 1 << power], vec![b'a'; 1 << power]));
        let tokens: Vec<_> = (0..).zip(tokens.chain(long)).collect();
        let vocabulary = Vocabulary::from_merges(tokens, merges).unwrap();
        Merger::new(&vocabulary, &SpecialTokens::none())
    }

    #[test]
    fn a_megabyte_of_one_character_takes_steps_in_proportion_to_its_length() {
        let merger = doubling();
        let (mut scratch, mut out) = (MergeScratch::new(), Vec::new());
        let text = vec![b'a'; 1 << 20];
        merger.merge(&text, &mut scratch, &mut out, &Progress::default()).unwrap();
        assert_eq!(out, vec![271; 16]);
        assert!(scratch.steps <= 3 << 20, "{} steps", scratch.steps);
    }

    #[test]
    fn scan_and_heap_agree_at_every_length() {
        let merger = doubling();
        for len in 2..200 {
            let text: Vec<u8> = (0..len).map(|i| if i % 7 == 6 { b'b' } else { b'a' }).collect();
            let (mut short, mut scratch, mut long) =
                (MergeScratch::new(), MergeScratch::new(), Vec::new());
            merger.merge_short(&text, &mut short);
            merger.merge_long(&text, &mut scratch, &mut long, &Progress::default()).unwrap();
            assert_eq!(short.ids, long);
        }
    }
}
