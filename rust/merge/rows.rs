//! Pretokens of at most sixteen bytes → their ids, several side by side as in [`super::lanes`], with
//! vectors of 512 bits (AVX-512): one holds the symbols of a pretoken, without gaps, and another the
//! ranks of their pairs.
//!
//! So what stood behind a merge moves up with one instruction, and both slots that may hold a pair are
//! compared at once. Whether a pair merges, and whether a pretoken is done, cannot be foretold: the first
//! is no branch, and the second is one a turn later, when the answer has long been there. On a Zen 4
//! a word of English takes 149 instead of 190 ns. Loading the symbols and first ranks by gathers instead
//! of a loop made it 144, but processors differ widely in these.
#![expect(unsafe_code, reason = "vector instructions that were detected at run time")]

use std::arch::x86_64::{
    _mm256_cmpeq_epi64_mask, _mm256_load_si256, _mm256_set1_epi64x, _mm256_srli_epi64,
    _mm512_cmpeq_epi32_mask, _mm512_load_si512, _mm512_loadu_si512, _mm512_mask_compress_epi32,
    _mm512_mask_set1_epi32, _mm512_reduce_min_epu32, _mm512_set1_epi32, _mm512_store_si512,
    _mm512_storeu_si512,
};

use super::pairs::{Asked, Bucket, PackedPairs, Pair};
use super::turns::{SLOTS, Slot, merge_in_turns};
use super::{Merger, NO_MERGE, Rank, Word};

/// The most bytes of a pretoken here, and so symbols.
pub(super) const ROW: usize = 16;
/// Where there is no symbol; no id is as large.
const NONE: u32 = Pair::NO_ID;

/// The rows of a thread, reused from pretoken to pretoken.
#[derive(Debug)]
pub(super) struct Rows(Box<[Row; SLOTS]>);

/// The symbols of a pretoken.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Row {
    /// Of the pair that begins with each symbol; [`NO_MERGE`] where there is none.
    ranks: [Rank; ROW],
    /// Between two, or more, that are [`NONE`].
    ids: [u32; ROW + 2],
    len: usize,
    /// The pairs that were made last, and where the second begins; the first begins before it.
    made: [Asked; 2],
    at: usize,
    is_done: bool,
}

impl Rows {
    /// Rows without pretokens.
    pub(super) fn new() -> Self {
        let row = Row {
            ranks: [NO_MERGE; ROW],
            ids: [NONE; ROW + 2],
            len: 0,
            made: [Asked::NOTHING; 2],
            at: ROW,
            is_done: true,
        };
        Self(Box::new([row; SLOTS]))
    }

    /// Appends the ids of those `words` of `text` that have two bytes to sixteen, in any order.
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn merge(
        &mut self,
        merger: (&Merger, &PackedPairs),
        text: &[u8],
        words: &mut [Word],
        out: &mut Vec<u32>,
    ) {
        merge_in_turns(&mut self.0, &(2..=ROW), merger, text, words, out);
    }
}

#[expect(clippy::inline_always, reason = "the instructions are those of `Rows::merge`")]
impl Slot for Row {
    #[inline(always)]
    fn start(&mut self, merger: &Merger, pretoken: &[u8]) {
        self.len = pretoken.len();
        self.ranks.fill(NO_MERGE);
        self.ids.fill(NONE);
        for (id, &byte) in self.ids[1..].iter_mut().zip(pretoken) {
            *id = merger.byte_id(byte);
        }
        for (rank, two) in self.ranks.iter_mut().zip(pretoken.windows(2)) {
            *rank = merger.of_bytes[usize::from(two[0]) << 8 | usize::from(two[1])];
        }
        (self.made, self.at) = ([Asked::NOTHING; 2], ROW + 1);
        self.is_done = false;
    }

    #[inline(always)]
    fn advance(&mut self, merger: &Merger, pairs: &PackedPairs) -> bool {
        if self.is_done {
            return false;
        }
        // SAFETY: reached through `Rows::merge` alone, so the processor has these features.
        unsafe { self.merge_least(merger, pairs) };
        true
    }

    #[inline(always)]
    fn give_out(&self, out: &mut Vec<u32>) {
        out.extend_from_slice(&self.ids[1..=self.len]);
    }
}

impl Row {
    /// Merges the pair of lowest rank, the leftmost of equals, or finds that no pair is left.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512dq,avx512vl")]
    #[expect(clippy::cast_possible_truncation, reason = "sixteen bits")]
    fn merge_least(&mut self, merger: &Merger, pairs: &PackedPairs) {
        let [before, after] = ranks(pairs, self.made);
        // SAFETY: an array of sixteen ranks, which is aligned; behind the first of `ids` are sixteen
        // and one more.
        let (ranks, ids) = unsafe {
            let ids = _mm512_loadu_si512(self.ids[1..].as_ptr().cast());
            (_mm512_load_si512(self.ranks.as_ptr().cast()), ids)
        };
        let made = (1_u32 << self.at) as u16;
        let before_it = ((1_u32 << self.at) >> 1) as u16;
        let ranks = _mm512_mask_set1_epi32(ranks, before_it, before.cast_signed());
        let ranks = _mm512_mask_set1_epi32(ranks, made, after.cast_signed());
        let least = _mm512_reduce_min_epu32(ranks);
        let places = _mm512_cmpeq_epi32_mask(ranks, _mm512_set1_epi32(least.cast_signed()));
        let at = places.trailing_zeros() as usize % ROW;
        // A bit where there is something to merge; where there is none nothing changes.
        let live = u32::from(least != NO_MERGE);
        let id = merger.merged_or_any(least);
        let (left, right) = (self.ids[at], self.ids[at + 2 + live as usize]);
        let stay = !(live << 1 << at) as u16;
        let ids = _mm512_mask_compress_epi32(_mm512_set1_epi32(NONE.cast_signed()), stay, ids);
        let ids = _mm512_mask_set1_epi32(ids, (live << at) as u16, id.cast_signed());
        let none = _mm512_set1_epi32(NO_MERGE.cast_signed());
        let ranks = _mm512_mask_compress_epi32(none, stay, ranks);
        // SAFETY: as above.
        unsafe {
            _mm512_storeu_si512(self.ids[1..].as_mut_ptr().cast(), ids);
            _mm512_store_si512(self.ranks.as_mut_ptr().cast(), ranks);
        }
        let left = if left == NONE { Pair::NONE } else { Pair::new(left, id) };
        let right = if right == NONE { Pair::NONE } else { Pair::new(id, right) };
        self.made = [pairs.ask(left), pairs.ask(right)];
        self.at = at;
        self.len -= live as usize;
        self.is_done = live == 0;
    }
}

/// The ranks of two pairs that were asked for; [`NO_MERGE`] for one that does not merge.
#[inline]
#[target_feature(enable = "avx2,bmi1,avx512f,avx512vl")]
fn ranks(pairs: &PackedPairs, asked: [Asked; 2]) -> [Rank; 2] {
    let mut is_elsewhere = false;
    let ranks = asked.map(|asked| {
        let slots = pairs.bucket(asked);
        // SAFETY: four slots of eight bytes, aligned to 32.
        let all = unsafe { _mm256_load_si256(slots.0.as_ptr().cast()) };
        let pair = _mm256_set1_epi64x(asked.word().cast_signed());
        let found = _mm256_cmpeq_epi64_mask(
            _mm256_srli_epi64::<{ PackedPairs::RANK_BITS.cast_signed() }>(all),
            pair,
        );
        let slot = slots.0[found.trailing_zeros() as usize % 4];
        is_elsewhere |= found == 0 && slots.is_full();
        // All ones where it was not found.
        Bucket::rank(slot) | 0_u32.wrapping_sub(u32::from(found == 0))
    });
    if is_elsewhere { asked.map(|asked| pairs.get(asked)) } else { ranks }
}
