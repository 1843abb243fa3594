//! All pairs that merge → their ranks: the table that merging waits for.

use rustc_hash::FxHashMap;

use super::{NO_MERGE, Rank};
use crate::memory::prefetch;

/// All pairs that merge, and their ranks.
#[derive(Debug, Clone)]
pub(super) enum Pairs {
    Packed(PackedPairs),
    /// Of a vocabulary with millions of tokens or with ids as large.
    Wide(FxHashMap<u64, Rank>),
}

/// A hash table whose slots are left id, right id and rank in one word. Whether a pair merges cannot
/// be foretold, so the four slots of a bucket are compared without a branch; a full bucket's
/// overflow is in the next.
#[derive(Debug, Clone)]
pub(super) struct PackedPairs {
    buckets: Vec<Bucket>,
    shift: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Bucket(pub(super) [u64; 4]);

impl Bucket {
    /// The rank of the pair in a slot.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lowest 22 bits")]
    pub(super) fn rank(slot: u64) -> Rank {
        slot as Rank & ((1 << PackedPairs::RANK_BITS) - 1)
    }

    /// Whether what is not here may be in the next.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.0[3] != PackedPairs::FREE
    }
}

/// Two ids in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair(u64);

impl Pair {
    /// No id is as large.
    pub(super) const NO_ID: u32 = (1 << PackedPairs::ID_BITS) - 1;
    /// One that never merges.
    pub(super) const NONE: Self = Self::new(Self::NO_ID, 0);

    #[inline]
    pub(super) const fn new(left: u32, right: u32) -> Self {
        Self((left as u64) << PackedPairs::ID_BITS | right as u64)
    }
}

/// A pair that will be looked up soon.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pair: Pair,
    home: usize,
}

impl Asked {
    /// What never merges.
    pub(super) const NOTHING: Self = Self { pair: Pair::NONE, home: 0 };

    /// Both ids, as slots have them above the rank.
    #[inline]
    pub(super) fn word(self) -> u64 {
        self.pair.0
    }
}

impl PackedPairs {
    const ID_BITS: u32 = 21;
    pub(super) const RANK_BITS: u32 = u64::BITS - 2 * Self::ID_BITS;
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

    /// A later insertion of the same pair replaces the earlier one.
    fn insert(&mut self, left: u32, right: u32, rank: Rank) {
        let pair = Pair::new(left, right);
        let mut home = self.home(pair);
        loop {
            for slot in &mut self.buckets[home].0 {
                if *slot == Self::FREE || *slot >> Self::RANK_BITS == pair.0 {
                    *slot = pair.0 << Self::RANK_BITS | u64::from(rank);
                    return;
                }
            }
            home = (home + 1) & (self.buckets.len() - 1);
        }
    }

    /// Asks for the memory where this pair stands, if it does.
    #[inline]
    pub(super) fn ask(&self, pair: Pair) -> Asked {
        let home = self.home(pair);
        prefetch(&self.buckets, home);
        Asked { pair, home }
    }

    /// The bucket where a pair stands, unless that is full.
    #[inline]
    pub(super) fn bucket(&self, asked: Asked) -> &Bucket {
        &self.buckets[asked.home]
    }

    /// The rank of a pair; [`NO_MERGE`] where it does not merge.
    #[inline]
    pub(super) fn get(&self, Asked { pair, mut home }: Asked) -> Rank {
        loop {
            let bucket = &self.buckets[home];
            let mut rank = NO_MERGE;
            for slot in bucket.0 {
                rank = if slot >> Self::RANK_BITS == pair.0 { Bucket::rank(slot) } else { rank };
            }
            if !bucket.is_full() || rank != NO_MERGE {
                return rank;
            }
            home = (home + 1) & (self.buckets.len() - 1);
        }
    }

    /// The upper bits of a product, to which both ids contribute.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "shifted down to the table's size")]
    fn home(&self, Pair(key): Pair) -> usize {
        ((key ^ key >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }
}

impl Pairs {
    /// A later one of the same pair replaces the earlier one. What is looked up has no larger ids
    /// than `largest`.
    pub(super) fn new(all: &[(u32, u32, Rank)], largest: u32) -> Self {
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
    pub(super) fn get(&self, left: u32, right: u32) -> Rank {
        match self {
            Self::Packed(pairs) => pairs.get(pairs.ask(Pair::new(left, right))),
            Self::Wide(pairs) => pairs.get(&pack(left, right)).copied().unwrap_or(NO_MERGE),
        }
    }
}

#[inline]
fn pack(upper: u32, lower: u32) -> u64 {
    (u64::from(upper) << 32) | u64::from(lower)
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
}
