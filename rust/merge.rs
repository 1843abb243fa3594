//! One pretoken → its ids: the byte-level BPE kernel.
//!
//! Again and again the adjacent pair of lowest rank merges, the leftmost of equals, until no pair
//! is left. Words are short, so the pair is found by a scan (O(n²) in the pretoken's bytes, but a
//! few nanoseconds a step); beyond [`LONG`] bytes [`crate::merge_long`] takes over, O(n log n), which
//! takes a megabyte without a break in stride.
//!
//! Half of the time goes to memory, waiting for pairs. To find the least rank by vectors was slower by
//! a seventh: they read what was just written in smaller pieces, and such a load waits for the store.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::Result;
use crate::merge_long::merge_long;
use crate::progress::Progress;
use crate::special_tokens::SpecialTokens;
use crate::vocabulary::{MergeRule, Vocabulary};

/// Beyond this many bytes the heap takes over; the scan keeps its symbols as bits of a word.
const LONG: usize = 64;

/// The place of a pair in the order of merging: the smallest merges first.
pub(crate) type Rank = u32;
/// No rank.
pub(crate) const NO_MERGE: Rank = u32::MAX;

/// All pairs that merge, and their ranks.
#[derive(Debug, Clone)]
enum Pairs {
    Packed(PackedPairs),
    /// Of a vocabulary with millions of tokens or with ids as large.
    Wide(FxHashMap<u64, Rank>),
}

/// A hash table whose slots are left id, right id and rank in one word. Whether a pair merges cannot
/// be foretold, so the four slots of a bucket are compared without a branch; a full bucket's
/// overflow is in the next.
#[derive(Debug, Clone)]
struct PackedPairs {
    buckets: Vec<Bucket>,
    shift: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Bucket([u64; 4]);

impl PackedPairs {
    const ID_BITS: u32 = 21;
    const RANK_BITS: u32 = u64::BITS - 2 * Self::ID_BITS;
    /// A slot without a pair; no pair's word begins with so many ones.
    const FREE: u64 = u64::MAX;

    /// Half full at most.
    fn with_room_for(pairs: usize) -> Self {
        let len = (pairs / 2).next_power_of_two().max(4);
        Self { buckets: vec![Bucket([Self::FREE; 4]); len], shift: 64 - len.trailing_zeros() }
    }

    /// Whether the words have room for ids and ranks up to these.
    fn holds(id: u32, rank: Option<Rank>) -> bool {
        id < (1 << Self::ID_BITS) - 1 && rank.is_none_or(|rank| rank < 1 << Self::RANK_BITS)
    }

    fn key(left: u32, right: u32) -> u64 {
        u64::from(left) << Self::ID_BITS | u64::from(right)
    }

    /// A later insertion of the same pair replaces the earlier one.
    fn insert(&mut self, left: u32, right: u32, rank: Rank) {
        let key = Self::key(left, right);
        let mut home = self.home(key);
        loop {
            for slot in &mut self.buckets[home].0 {
                if *slot == Self::FREE || *slot >> Self::RANK_BITS == key {
                    *slot = key << Self::RANK_BITS | u64::from(rank);
                    return;
                }
            }
            home = (home + 1) & (self.buckets.len() - 1);
        }
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Rank {
        let key = Self::key(left, right);
        let mut home = self.home(key);
        loop {
            let Bucket(slots) = &self.buckets[home];
            let mut rank = NO_MERGE;
            for slot in slots {
                let found = (slot & ((1 << Self::RANK_BITS) - 1)) as Rank;
                rank = if slot >> Self::RANK_BITS == key { found } else { rank };
            }
            if slots[3] == Self::FREE || rank != NO_MERGE {
                return rank;
            }
            home = (home + 1) & (self.buckets.len() - 1);
        }
    }

    /// The upper bits of a product, to which both ids contribute.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "shifted down to the table's size")]
    fn home(&self, key: u64) -> usize {
        ((key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

impl Pairs {
    /// A later one of the same pair replaces the earlier one. What is looked up has no larger ids
    /// than `largest`.
    fn new(all: &[(u32, u32, Rank)], largest: u32) -> Self {
        debug_assert!(all.iter().all(|&(left, right, _)| left.max(right) <= largest));
        if !PackedPairs::holds(largest, all.iter().map(|&(.., rank)| rank).max()) {
            return Self::Wide(
                all.iter().map(|&(left, right, rank)| (pack(left, right), rank)).collect(),
            );
        }
        let mut packed = PackedPairs::with_room_for(all.len());
        for &(left, right, rank) in all {
            packed.insert(left, right, rank);
        }
        Self::Packed(packed)
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Rank {
        match self {
            Self::Packed(pairs) => pairs.get(left, right),
            Self::Wide(pairs) => pairs.get(&pack(left, right)).copied().unwrap_or(NO_MERGE),
        }
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
    /// What the pair of each rank becomes.
    merged: Vec<u32>,
    /// The ranks of pairs of single bytes, by first and second byte: what every pretoken starts with.
    of_bytes: Box<[Rank; 1 << 16]>,
    byte_ids: [u32; 256],
    /// Whether a pretoken that is a token is that token, whatever the pairs say.
    whole_first: bool,
}

/// Buffers of the kernel, reused from pretoken to pretoken.
#[derive(Debug)]
pub struct MergeScratch(Box<Symbols>);

/// The symbols of a short pretoken, each where its first byte stood, and the rank of the pair that
/// begins with it; [`NO_MERGE`] where no symbol begins.
#[derive(Debug)]
struct Symbols {
    ids: [u32; LONG],
    ranks: [Rank; LONG],
}

impl MergeScratch {
    /// Buffers that suffice for every pretoken of at most [`LONG`] bytes; others bring their own.
    pub fn new() -> Self {
        Self(Box::new(Symbols { ids: [0; LONG], ranks: [NO_MERGE; LONG] }))
    }
}

impl Default for MergeScratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Merger {
    /// The merges of `vocabulary`. By the rank rule every split of a token into two tokens is a
    /// pair; special tokens take no part in it, nor as whole pretokens (single bytes always do).
    pub fn new(vocabulary: &Vocabulary, specials: &SpecialTokens) -> Self {
        let special: FxHashSet<u32> = specials.tokens().iter().map(|(_, id)| *id).collect();
        let ordinary = || vocabulary.iter().filter(|(id, _)| !special.contains(id));
        let by_pairs = match vocabulary.rule() {
            MergeRule::Merges(merges) => {
                let pairs: Vec<_> = (merges.iter().zip(0..))
                    .map(|(merge, rank)| (merge.left, merge.right, rank))
                    .collect();
                let results = merges.iter().map(|merge| merge.merged).collect();
                Self::of_pairs(&pairs, results, vocabulary)
            }
            MergeRule::Ranks => {
                let mut splits = Vec::new();
                for ((_, token), rank) in ordinary().zip(0..) {
                    for middle in 1..token.len() {
                        let (left, right) = token.split_at(middle);
                        let Some(left) = vocabulary.id(left) else { continue };
                        let Some(right) = vocabulary.id(right) else { continue };
                        splits.push((left, right, rank));
                    }
                }
                let merged = ordinary().map(|(id, _)| id).collect();
                Self::of_pairs(&splits, merged, vocabulary)
            }
        };
        // Of most vocabularies the pairs make every token, and then the rule says nothing.
        let whole_first = vocabulary.takes_whole_tokens() && !by_pairs.make_all(ordinary());
        Self { whole_first, ..by_pairs }
    }

    fn of_pairs(all: &[(u32, u32, Rank)], merged: Vec<u32>, vocabulary: &Vocabulary) -> Self {
        let byte_ids = *vocabulary.byte_ids();
        let in_pairs = all.iter().flat_map(|&(left, right, _)| [left, right]);
        let largest = in_pairs.chain(byte_ids).chain(merged.iter().copied()).max();
        let pairs = Pairs::new(all, largest.unwrap_or(0));
        let mut of_bytes = vec![NO_MERGE; 1 << 16];
        for (place, rank) in of_bytes.iter_mut().enumerate() {
            *rank = pairs.get(byte_ids[place >> 8], byte_ids[place & 0xff]);
        }
        let of_bytes = of_bytes.try_into().expect("one for every two bytes");
        Self { pairs, merged, of_bytes, byte_ids, whole_first: false }
    }

    /// Whether the bytes of each of these tokens merge into that token.
    fn make_all<'t>(&self, mut tokens: impl Iterator<Item = (u32, &'t [u8])>) -> bool {
        let (mut scratch, mut ids) = (MergeScratch::new(), Vec::new());
        tokens.all(|(id, token)| {
            ids.clear();
            let merged = self.merge(token, &mut scratch, &mut ids, &Progress::default());
            merged.is_ok() && ids == [id]
        })
    }

    /// Whether a pretoken that is a token is that token, whatever the pairs say: the rank rule, or
    /// that of a vocabulary that ignores merges, with tokens that the pairs do not make.
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
        match (pretoken.len(), &self.pairs) {
            (0, _) => {}
            (1, _) => out.push(self.byte_ids[usize::from(pretoken[0])]),
            (..=LONG, Pairs::Packed(pairs)) => {
                self.merge_short(pretoken, pairs, &mut scratch.0, out);
            }
            _ => merge_long(self, pretoken, out, progress).map(drop)?,
        }
        Ok(())
    }

    /// For at most [`LONG`] bytes. Nothing moves when symbols merge: `alive` has a bit for each
    /// symbol's first byte.
    fn merge_short(
        &self,
        pretoken: &[u8],
        pairs: &PackedPairs,
        Symbols { ids, ranks }: &mut Symbols,
        out: &mut Vec<u32>,
    ) {
        let len = pretoken.len();
        let (ids, ranks) = (&mut ids[..len], &mut ranks[..len]);
        for (id, byte) in ids.iter_mut().zip(pretoken) {
            *id = self.byte_ids[usize::from(*byte)];
        }
        for (rank, two) in ranks.iter_mut().zip(pretoken.windows(2)) {
            *rank = self.of_bytes[usize::from(two[0]) << 8 | usize::from(two[1])];
        }
        ranks[len - 1] = NO_MERGE;
        let mut alive = u64::MAX >> (LONG - len);
        loop {
            let (mut best, mut at) = (NO_MERGE, 0);
            for (place, &rank) in ranks.iter().enumerate() {
                (best, at) = if rank < best { (rank, place) } else { (best, at) };
            }
            if best == NO_MERGE {
                break;
            }
            let behind = alive & (u64::MAX << at << 1);
            let next = behind.trailing_zeros() as usize;
            ids[at] = self.merged[best as usize];
            ranks[next] = NO_MERGE;
            alive &= !(1 << next);
            let beyond = behind & behind.wrapping_sub(1);
            ranks[at] = if beyond == 0 {
                NO_MERGE
            } else {
                pairs.get(ids[at], ids[beyond.trailing_zeros() as usize])
            };
            let before = alive & ((1 << at) - 1);
            if before != 0 {
                let previous = LONG - 1 - before.leading_zeros() as usize;
                ranks[previous] = pairs.get(ids[previous], ids[at]);
            }
        }
        while alive != 0 {
            out.push(ids[alive.trailing_zeros() as usize]);
            alive &= alive - 1;
        }
    }

    /// The id of a single byte.
    #[inline]
    pub(crate) fn byte_id(&self, byte: u8) -> u32 {
        self.byte_ids[usize::from(byte)]
    }

    /// The rank of a pair; [`NO_MERGE`] where it does not merge.
    #[inline]
    pub(crate) fn rank(&self, left: u32, right: u32) -> Rank {
        self.pairs.get(left, right)
    }

    /// What the pair of this rank becomes.
    #[inline]
    pub(crate) fn merged(&self, rank: Rank) -> u32 {
        self.merged[rank as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Small ids fill the buckets of a small table; large ones go to the other table.
        #[test]
        fn pairs_are_found_and_no_others(
            all in vec((0_u32..40, 0_u32..40, 0_u32..1000), 0..600),
            base in prop_oneof![Just(0), Just((1 << 21) - 42), Just(1 << 21), Just(u32::MAX - 40)],
        ) {
            let all: Vec<_> =
                all.iter().map(|&(left, right, rank)| (base + left, base + right, rank)).collect();
            let pairs = Pairs::new(&all, base + 40);
            prop_assert_eq!(matches!(pairs, Pairs::Packed(_)), base < 1 << 21);
            let known: FxHashMap<_, _> =
                all.iter().map(|&(left, right, rank)| ((left, right), rank)).collect();
            for left in base..=base + 40 {
                for right in base..=base + 40 {
                    let expected = known.get(&(left, right)).copied().unwrap_or(NO_MERGE);
                    prop_assert_eq!(pairs.get(left, right), expected);
                }
            }
        }
    }

    #[test]
    fn ids_of_any_size_make_the_same_tokens() {
        let words: [&[u8]; 6] = [b"ab", b"abc", b"cab", b"bc", b"aa", b"abab"];
        let bytes = (0..=255_u8).map(|byte| vec![byte]);
        let tokens: Vec<_> = bytes.chain(words.map(<[u8]>::to_vec)).collect();
        let merger = |first: u32| {
            let tokens = (first..).zip(&tokens).map(|(id, token)| (id, token.clone()));
            let vocabulary = Vocabulary::from_ranks(tokens).unwrap();
            Merger::new(&vocabulary, &SpecialTokens::new(Vec::new(), &vocabulary).unwrap())
        };
        // Beyond 2^21 pairs are kept otherwise; about there, some ids are on either side.
        let small = merger(0);
        for first in [(1 << 21) - 258, (1 << 21) - 200, 1 << 23] {
            let large = merger(first);
            for text in ["a", "ab", "abcab", "cababcaabc", "aaaaa", "bcabcabab", "xyz"] {
                let ids = |merger: &Merger| {
                    let mut ids = Vec::new();
                    let mut scratch = MergeScratch::new();
                    merger
                        .merge(text.as_bytes(), &mut scratch, &mut ids, &Progress::default())
                        .unwrap();
                    ids
                };
                let larger: Vec<_> = ids(&small).iter().map(|id| id + first).collect();
                assert_eq!(ids(&large), larger, "{text}");
            }
        }
    }
}
