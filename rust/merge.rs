//! Pretokens → their ids: the byte-level BPE kernel.
//!
//! Again and again the adjacent pair of lowest rank merges, the leftmost of equals, until no pair
//! is left. Words are short, so the pair is found by a scan (O(n²) in the pretoken's bytes, but a
//! few nanoseconds a step), several words side by side ([`lanes`], and `rows` where there is AVX-512);
//! beyond [`LONG`] bytes [`long`] takes over, O(n log n), which takes a megabyte without a break in
//! stride.
//!
//! Of one word alone the least rank was found by vectors a seventh slower: they read what was just
//! written in smaller pieces, and such a load waits for the store. Side by side others have their turn
//! in between.
//!
//! Not by the longest token of a trie, taken back where it and the token before do not stand beside each
//! other (the way of the crate `bpe`): the same ids for 330 ns a word instead of 215, on the different
//! words of 40 MB of English. Of 2.3 tokens a word 4.6 are tried, and no try can be foretold.

mod lanes;
mod long;
mod pairs;
#[cfg(target_arch = "x86_64")]
mod rows;
mod turns;

use std::ops::Range;

use rustc_hash::FxHashSet;

use crate::error::Result;
use crate::progress::Progress;
use crate::special_tokens::SpecialTokens;
use crate::vocabulary::{MergeRule, Vocabulary};
pub use lanes::Lanes;
use long::merge_long;
use pairs::Pairs;

/// Beyond this many bytes the heap takes over; the scan keeps its symbols as bits of a word.
const LONG: usize = 64;

/// The place of a pair in the order of merging: the smallest merges first.
pub(crate) type Rank = u32;
/// No rank.
pub(crate) const NO_MERGE: Rank = u32::MAX;

/// A vocabulary's merges, ready to be applied.
#[derive(Debug, Clone)]
pub struct Merger {
    pairs: Pairs,
    merged: Merged,
    /// The ranks of pairs of single bytes, by first and second byte: what every pretoken starts with.
    of_bytes: Box<[Rank; 1 << 16]>,
    byte_ids: [u32; 256],
    /// Whether a pretoken that is a token is that token, whatever the pairs say.
    whole_first: bool,
}

/// What the pair of each rank becomes.
#[derive(Debug, Clone)]
enum Merged {
    /// Ids in the order of the ranks, from this one on, as almost all vocabularies have them.
    InOrder(u32),
    Any(Vec<u32>),
}

impl Merged {
    fn new(all: Vec<u32>) -> Self {
        let first = all.first().copied().unwrap_or(0);
        let is_in_order = (first..=u32::MAX).zip(&all).all(|(id, &merged)| id == merged);
        if is_in_order { Self::InOrder(first) } else { Self::Any(all) }
    }
}

/// A pretoken to merge: where it stands in a text, and where its ids will.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Its bytes.
    pub text: Range<usize>,
    /// Its ids.
    pub ids: Range<usize>,
}

impl Word {
    /// Whether it has pairs, and few enough that a lane holds it.
    fn is_short(&self) -> bool {
        (2..=LONG).contains(&self.text.len())
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
        Self { pairs, merged: Merged::new(merged), of_bytes, byte_ids, whole_first: false }
    }

    /// Whether the bytes of each of these tokens merge into that token.
    fn make_all<'t>(&self, mut tokens: impl Iterator<Item = (u32, &'t [u8])>) -> bool {
        let (mut lanes, mut ids) = (Lanes::new(), Vec::new());
        tokens.all(|(id, token)| {
            ids.clear();
            let merged = self.merge(token, &mut lanes, &mut ids, &Progress::default());
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
        lanes: &mut Lanes,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        let mut word = [Word { text: 0..pretoken.len(), ids: 0..0 }];
        self.merge_all(pretoken, &mut word, lanes, out, progress)
    }

    /// Appends the ids of all `words` of `text`, in any order; each is told where its own are.
    pub fn merge_all(
        &self,
        text: &[u8],
        words: &mut [Word],
        lanes: &mut Lanes,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        for word in &mut *words {
            let (pretoken, first) = (&text[word.text.clone()], out.len());
            match (pretoken, &self.pairs) {
                ([], _) => {}
                (&[byte], _) => out.push(self.byte_id(byte)),
                (_, Pairs::Packed(_)) if word.is_short() => continue,
                _ => drop(merge_long(self, pretoken, out, progress)?),
            }
            word.ids = first..out.len();
        }
        if let Pairs::Packed(pairs) = &self.pairs {
            lanes.merge((self, pairs), text, words, out);
        }
        Ok(())
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
        match &self.merged {
            Merged::InOrder(first) => first + rank,
            Merged::Any(all) => all[rank as usize],
        }
    }

    /// The same; of a rank that there is not, any number, and without a branch.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    fn merged_or_any(&self, rank: Rank) -> u32 {
        match &self.merged {
            Merged::InOrder(first) => first.wrapping_add(rank),
            Merged::Any(all) => all[(rank as usize).min(all.len() - 1)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                    let mut lanes = Lanes::new();
                    merger
                        .merge(text.as_bytes(), &mut lanes, &mut ids, &Progress::default())
                        .unwrap();
                    ids
                };
                let larger: Vec<_> = ids(&small).iter().map(|id| id + first).collect();
                assert_eq!(ids(&large), larger, "{text}");
            }
        }
    }
}
