//! Short pretokens → their ids, several side by side.
//!
//! Merging one pretoken is waiting: each merge makes two pairs, and both stand somewhere in a table of
//! a megabyte. So each pretoken has a lane, and the lanes take turns: one merges, asks for the
//! pairs it has made, and by the time it is its turn again they have arrived.
#![expect(unsafe_code, reason = "instructions that were detected at run time")]

use super::pairs::{Asked, PackedPairs, Pair};
#[cfg(target_arch = "x86_64")]
use super::rows::{ROW, Rows};
use super::{LONG, Merger, NO_MERGE, Rank, Word};
#[cfg(target_arch = "x86_64")]
use crate::processor::{has_avx2, has_avx512};

/// Pretokens under way together.
const LANES: usize = 8;

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
    lanes: Box<[Lane; LANES]>,
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
    /// The number of the pretoken.
    word: usize,
}

impl Lanes {
    /// Lanes without pretokens.
    pub fn new() -> Self {
        let (order, ids, made) = ([NONE; LONG], [0; LONG], [(Asked::NOTHING, 0); 2]);
        Self {
            lanes: Box::new([Lane { order, ids, len: 0, alive: 0, made, word: 0 }; LANES]),
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
        if has_avx2() {
            let mut least = 2;
            if has_avx512() {
                // SAFETY: these features were just detected.
                unsafe { self.rows.merge(merger, text, words, out) };
                least = ROW + 1;
            }
            // SAFETY: these features were just detected.
            return unsafe { self.merge_avx2(least, merger, text, words, out) };
        }
        self.merge_in_turns(2, merger, text, words, out);
    }

    /// The same code; vectors find the least of eight ranks at a time.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
    fn merge_avx2(
        &mut self,
        least: usize,
        merger: (&Merger, &PackedPairs),
        text: &[u8],
        words: &mut [Word],
        out: &mut Vec<u32>,
    ) {
        self.merge_in_turns(least, merger, text, words, out);
    }

    /// Of those words that have at least so many bytes.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled once for each set of instructions")]
    fn merge_in_turns(
        &mut self,
        least: usize,
        (merger, pairs): (&Merger, &PackedPairs),
        text: &[u8],
        words: &mut [Word],
        out: &mut Vec<u32>,
    ) {
        let (mut next, mut busy, mut count) = (0, [0; LANES], 0);
        for number in 0..LANES {
            if !self.lanes[number].start(least, merger, text, words, &mut next) {
                break;
            }
            busy[count] = number;
            count += 1;
        }
        while count > 0 {
            let mut turn = 0;
            while turn < count {
                let lane = &mut self.lanes[busy[turn]];
                if lane.advance(merger, pairs) {
                    turn += 1;
                    continue;
                }
                let first = out.len();
                lane.give_out(out);
                words[lane.word].ids = first..out.len();
                if lane.start(least, merger, text, words, &mut next) {
                    turn += 1;
                } else {
                    count -= 1;
                    busy[turn] = busy[count];
                }
            }
        }
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new()
    }
}

impl Lane {
    /// Takes the next pretoken that has the right length; false where there is none.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled once for each set of instructions")]
    fn start(
        &mut self,
        least: usize,
        merger: &Merger,
        text: &[u8],
        words: &[Word],
        next: &mut usize,
    ) -> bool {
        let mut left = words[*next..].iter();
        let Some(ahead) = left.position(|word| (least..=LONG).contains(&word.text.len())) else {
            *next = words.len();
            return false;
        };
        self.word = *next + ahead;
        *next = self.word + 1;
        let pretoken = &text[words[self.word].text.clone()];
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
        true
    }

    /// Merges the pair of lowest rank, the leftmost of equals; false where no pair is left.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled once for each set of instructions")]
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
    #[expect(clippy::inline_always, reason = "compiled once for each set of instructions")]
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

    type Kernel = fn(&mut Lanes, (&Merger, &PackedPairs), &[u8], &mut [Word], &mut Vec<u32>);

    /// All that this processor can run.
    fn kernels() -> Vec<Kernel> {
        let portable: Kernel =
            |lanes, merger, text, words, out| lanes.merge_in_turns(2, merger, text, words, out);
        let mut all = vec![Lanes::merge, portable];
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            // SAFETY: its features were just detected.
            all.push(|lanes, merger, text, words, out| unsafe {
                lanes.merge_avx2(2, merger, text, words, out);
            });
        }
        all
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
            for kernel in kernels() {
                let (mut words, mut ids) = (places.clone(), vec![7]);
                kernel(&mut Lanes::new(), (&merger, pairs), text.as_bytes(), &mut words, &mut ids);
                for word in words.iter().filter(|word| word.is_short()) {
                    let mut expected = Vec::new();
                    let pretoken = &text.as_bytes()[word.text.clone()];
                    merge_long(&merger, pretoken, &mut expected, &Progress::default()).unwrap();
                    prop_assert_eq!(&ids[word.ids.clone()], &expected);
                }
            }
        }
    }
}
