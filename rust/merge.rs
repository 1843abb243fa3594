//! One pretoken → its ids: the byte-level BPE kernel.
//!
//! Again and again the adjacent pair of lowest rank merges, the leftmost of equals, until no pair
//! is left. Words are short, so the pair is found by a scan (O(n²) in the pretoken's bytes, but a
//! few nanoseconds a step); beyond [`LONG`] bytes [`crate::merge_long`] takes over, O(n log n), which
//! takes a megabyte without a break in stride.

use rustc_hash::FxHashSet;

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
const FREE: u64 = u64::MAX;

/// All pairs that merge: open addressing by the packed pair, at most half full. Most pairs that are
/// looked up do not merge, so the keys stand by themselves: eight to a cache line.
#[derive(Debug, Clone)]
struct Pairs {
    keys: Vec<u64>,
    ranks: Vec<Rank>,
    shift: u32,
}

impl Pairs {
    fn with_room_for(pairs: usize) -> Self {
        let len = (pairs * 2).next_power_of_two().max(16);
        Self { keys: vec![FREE; len], ranks: vec![NO_MERGE; len], shift: 64 - len.trailing_zeros() }
    }

    /// A later insertion of the same pair replaces the earlier one.
    fn insert(&mut self, left: u32, right: u32, rank: Rank) {
        let key = pack(left, right);
        let mut slot = self.home(key);
        while self.keys[slot] != FREE && self.keys[slot] != key {
            slot = (slot + 1) & (self.keys.len() - 1);
        }
        self.keys[slot] = key;
        self.ranks[slot] = rank;
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Rank {
        let key = pack(left, right);
        let mut slot = self.home(key);
        loop {
            let found = self.keys[slot];
            if found == key {
                return self.ranks[slot];
            }
            if found == FREE {
                return NO_MERGE;
            }
            slot = (slot + 1) & (self.keys.len() - 1);
        }
    }

    /// The upper bits of a product, to which both ids contribute.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "shifted down to the table's size")]
    fn home(&self, key: u64) -> usize {
        ((key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
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
                let pairs =
                    merges.iter().zip(0..).map(|(merge, rank)| (merge.left, merge.right, rank));
                let results = merges.iter().map(|merge| merge.merged).collect();
                Self::of_pairs(merges.len(), pairs, results, vocabulary)
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
                Self::of_pairs(splits.len(), splits, merged, vocabulary)
            }
        };
        // Of most vocabularies the pairs make every token, and then the rule says nothing.
        let whole_first = vocabulary.takes_whole_tokens() && !by_pairs.make_all(ordinary());
        Self { whole_first, ..by_pairs }
    }

    fn of_pairs(
        count: usize,
        all: impl IntoIterator<Item = (u32, u32, Rank)>,
        merged: Vec<u32>,
        vocabulary: &Vocabulary,
    ) -> Self {
        let byte_ids = *vocabulary.byte_ids();
        let mut pairs = Pairs::with_room_for(count);
        for (left, right, rank) in all {
            pairs.insert(left, right, rank);
        }
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
        match pretoken.len() {
            0 => {}
            1 => out.push(self.byte_ids[usize::from(pretoken[0])]),
            2..=LONG => self.merge_short(pretoken, &mut scratch.0, out),
            _ => merge_long(self, pretoken, out, progress).map(drop)?,
        }
        Ok(())
    }

    /// For at most [`LONG`] bytes. Nothing moves when symbols merge: `alive` has a bit for each
    /// symbol's first byte.
    fn merge_short(&self, pretoken: &[u8], symbols: &mut Symbols, out: &mut Vec<u32>) {
        let Symbols { ids, ranks } = symbols;
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
                self.pairs.get(ids[at], ids[beyond.trailing_zeros() as usize])
            };
            let before = alive & ((1 << at) - 1);
            if before != 0 {
                let previous = LONG - 1 - before.leading_zeros() as usize;
                ranks[previous] = self.pairs.get(ids[previous], ids[at]);
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
