//! Short pretokens → their ids, several side by side.
//!
//! Merging one pretoken is waiting: each merge makes two pairs, and both stand somewhere in a table of
//! a megabyte. So each pretoken has a lane, and the lanes take turns: one merges, asks for the
//! pairs it has made, and by the time it is its turn again they have arrived.
#![expect(unsafe_code, reason = "instructions that were detected at run time")]

#[cfg(target_arch = "x86_64")]
use std::ops::RangeInclusive;

use super::pairs::{Asked, PackedPairs, Pair};
#[cfg(target_arch = "x86_64")]
use super::rows::{ROW, Rows};
use super::turns::{SLOTS, Slot, merge_in_turns};
use super::{LONG, Merger, NO_MERGE, Rank, Word};
#[cfg(target_arch = "x86_64")]
use crate::processor::{has_avx2, has_avx512};

/// The rank of a pair and, in the lowest bits, where it begins: the least of all tells where to merge.
type Order = u32;

/// From here on there is no pair. Ranks are below 2^22, so that they and the place fit.
const NONE: Order = NO_MERGE << LONG.trailing_zeros();

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a place is below 64")]
fn order(rank: Rank, at: usize) -> Order {
    rank << LONG.trailing_zeros() | at as u32
}

/// The lanes of a thread, reused from pretoken to pretoken.
#[derive(Debug)]
pub struct Lanes {
    lanes: Box<[Lane; SLOTS]>,
    /// Where they are better for the shortest.
    #[cfg(target_arch = "x86_64")]
    rows: Rows,
}

/// The symbols of a pretoken, each where its first byte stood. Nothing moves when symbols merge.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Lane {
    /// Of the pair that begins with the symbol; [`NONE`] or more where there is none.
    order: [Order; LONG],
    ids: [u32; LONG],
    len: usize,
    /// A bit for each symbol's first byte.
    alive: u64,
    /// The pairs that were made last, and where they begin.
    made: [(Asked, usize); 2],
}

impl Lanes {
    /// Lanes without pretokens.
    pub fn new() -> Self {
        let (order, ids, made) = ([NONE; LONG], [0; LONG], [(Asked::NOTHING, 0); 2]);
        Self {
            lanes: Box::new([Lane { order, ids, len: 0, alive: 0, made }; SLOTS]),
            #[cfg(target_arch = "x86_64")]
            rows: Rows::new(),
        }
    }

    /// Appends the ids of those `words` of `text` that are short, in any order.
    pub(super) fn merge(
        &mut self,
        merger: (&Merger, &PackedPairs),
        text: &[u8],
        words: &mut [Word],
        out: &mut Vec<u32>,
    ) {
        #[cfg(target_arch = "x86_64")]
        if has_avx512() {
            // SAFETY: these features were just detected.
            unsafe {
                self.rows.merge(merger, text, words, out);
                self.merge_avx2(&(ROW + 1..=LONG), merger, text, words, out);
            }
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            // SAFETY: these features were just detected.
            return unsafe { self.merge_avx2(&(2..=LONG), merger, text, words, out) };
        }
        merge_in_turns(&mut self.lanes, &(2..=LONG), merger, text, words, out);
    }

    /// The same code; vectors find the least of eight ranks at a time.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
    fn merge_avx2(
        &mut self,
        lengths: &RangeInclusive<usize>,
        merger: (&Merger, &PackedPairs),
        text: &[u8],
        words: &mut [Word],
        out: &mut Vec<u32>,
    ) {
        merge_in_turns(&mut self.lanes, lengths, merger, text, words, out);
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new()
    }
}

#[expect(clippy::inline_always, reason = "compiled once for each set of instructions")]
impl Slot for Lane {
    #[inline(always)]
    fn start(&mut self, merger: &Merger, pretoken: &[u8]) {
        let len = pretoken.len();
        for (id, &byte) in self.ids.iter_mut().zip(pretoken) {
            *id = merger.byte_id(byte);
        }
        for (place, two) in pretoken.windows(2).enumerate() {
            let rank = merger.of_bytes[usize::from(two[0]) << 8 | usize::from(two[1])];
            self.order[place] = order(rank, place);
        }
        self.order[len - 1..len.next_multiple_of(8)].fill(NONE);
        (self.len, self.alive) = (len, u64::MAX >> (LONG - len));
        self.made = [(Asked::NOTHING, len - 1); 2];
    }

    /// Merges the pair of lowest rank, the leftmost of equals; false where no pair is left.
    #[inline(always)]
    fn advance(&mut self, merger: &Merger, pairs: &PackedPairs) -> bool {
        for (pair, at) in self.made {
            self.order[at % LONG] = order(pairs.get(pair), at);
        }
        let mut least = [NONE; 8];
        for eight in self.order[..self.len.next_multiple_of(8).min(LONG)].as_chunks::<8>().0 {
            for (least, slot) in least.iter_mut().zip(eight) {
                *least = (*slot).min(*least);
            }
        }
        let best = least.into_iter().fold(NONE, Order::min);
        if best >= NONE {
            return false;
        }
        let at = best as usize % LONG;
        let behind = self.alive & (u64::MAX << at << 1);
        let next = behind.trailing_zeros() as usize % LONG;
        self.alive &= !(1 << next);
        self.order[next] = NONE;
        let id = merger.merged(best >> LONG.trailing_zeros());
        self.ids[at] = id;
        // That there is none on a side cannot be foretold, so neither may be a branch.
        let behind = behind & behind.wrapping_sub(1);
        let right = Pair::new(id, self.ids[behind.trailing_zeros() as usize % LONG]);
        let right = if behind == 0 { Pair::NONE } else { right };
        let before = self.alive & ((1 << at) - 1);
        let previous = (LONG - 1).wrapping_sub(before.leading_zeros() as usize) % LONG;
        let left = Pair::new(self.ids[previous], id);
        let (left, previous) = if before == 0 { (Pair::NONE, at) } else { (left, previous) };
        self.made = [(pairs.ask(left), previous), (pairs.ask(right), at)];
        true
    }

    #[inline(always)]
    fn give_out(&self, out: &mut Vec<u32>) {
        let mut alive = self.alive;
        while alive != 0 {
            out.push(self.ids[alive.trailing_zeros() as usize % LONG]);
            alive &= alive - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::Pairs;
    use super::super::long::merge_long;
    use super::*;
    use crate::processor::level;
    use crate::progress::Progress;
    use crate::special_tokens::SpecialTokens;
    use crate::vocabulary::Vocabulary;

    /// The bytes, in this order, and what these merges make of them.
    fn merger(merges: &[(&str, &str)], first: u32) -> Merger {
        let bytes = (0..=255_u8).map(|byte| vec![byte]);
        let made = merges.iter().map(|(left, right)| format!("{left}{right}").into_bytes());
        let tokens: Vec<_> = (first..).zip(bytes.chain(made)).collect();
        let both =
            |(left, right): &(&str, &str)| (left.as_bytes().to_vec(), right.as_bytes().to_vec());
        let vocabulary = Vocabulary::from_merges(tokens, merges.iter().map(both)).unwrap();
        Merger::new(&vocabulary, &SpecialTokens::none())
    }

    proptest! {
        /// Words of all lengths, more than there are lanes: each kernel gives each its own ids, those
        /// that the heap finds.
        #[test]
        fn side_by_side_words_merge_as_one_by_one(
            words in vec("[abc ]{0,18}|[abc ]{0,70}", 0..30),
            first in prop_oneof![Just(0), Just(1_000_000)],
        ) {
            let merges = [
                ("a", "b"), ("c", "a"), ("b", "c"), (" ", "a"), ("ab", "c"), ("ca", "ca"), (" ", " "),
                ("  ", "  "), (" a", "b"), ("abc", "abc"), ("caca", "b"), ("a", "a"), ("aa", "aa"),
            ];
            let merger = merger(&merges, first);
            let Pairs::Packed(pairs) = &merger.pairs else { panic!("few tokens are packed") };
            let text = words.concat();
            let mut at = 0;
            let places: Vec<_> = words.iter().map(|word| {
                at += word.len();
                Word { text: at - word.len()..at, ids: 0..0 }
            }).collect();
            for level in level::ALL {
                let (mut words, mut ids) = (places.clone(), vec![7]);
                let (merger, text) = ((&merger, pairs), text.as_bytes());
                level::at_most(level, || Lanes::new().merge(merger, text, &mut words, &mut ids));
                for word in words.iter().filter(|word| word.is_short()) {
                    let mut expected = Vec::new();
                    let pretoken = &text[word.text.clone()];
                    merge_long(merger.0, pretoken, &mut expected, &Progress::default()).unwrap();
                    prop_assert_eq!(&ids[word.ids.clone()], &expected);
                }
            }
        }
    }
}
