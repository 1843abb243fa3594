//! Several pretokens under way together: each has a slot, and the slots take turns.

use std::ops::RangeInclusive;

use super::pairs::PackedPairs;
use super::{Merger, Word};

/// Slots of a thread.
pub(super) const SLOTS: usize = 8;

/// Where a pretoken is while it merges.
pub(super) trait Slot {
    /// Takes a pretoken.
    fn start(&mut self, merger: &Merger, pretoken: &[u8]);
    /// Merges a pair and asks for those it has made; false when the pretoken is done.
    fn advance(&mut self, merger: &Merger, pairs: &PackedPairs) -> bool;
    /// Appends the ids of the pretoken, which is done.
    fn give_out(&self, out: &mut Vec<u32>);
}

/// Appends the ids of those `words` of `text` that have such a length, in any order; each is told
/// where its own are.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled once for each set of instructions")]
pub(super) fn merge_in_turns<S: Slot>(
    slots: &mut [S; SLOTS],
    lengths: &RangeInclusive<usize>,
    (merger, pairs): (&Merger, &PackedPairs),
    text: &[u8],
    words: &mut [Word],
    out: &mut Vec<u32>,
) {
    let mut next = 0;
    let mut start = |slot: &mut S, words: &[Word]| {
        let mut left = words[next..].iter();
        let ahead = left.position(|word| lengths.contains(&word.text.len()))?;
        let number = next + ahead;
        next = number + 1;
        slot.start(merger, &text[words[number].text.clone()]);
        Some(number)
    };
    // Slots in use, and the number of the pretoken in each.
    let (mut busy, mut count) = ([(0, 0); SLOTS], 0);
    while count < SLOTS
        && let Some(word) = start(&mut slots[count], words)
    {
        busy[count] = (count, word);
        count += 1;
    }
    while count > 0 {
        let mut turn = 0;
        while turn < count {
            let (number, word) = busy[turn];
            let slot = &mut slots[number];
            if slot.advance(merger, pairs) {
                turn += 1;
                continue;
            }
            let first = out.len();
            slot.give_out(out);
            words[word].ids = first..out.len();
            if let Some(word) = start(slot, words) {
                busy[turn].1 = word;
                turn += 1;
            } else {
                count -= 1;
                busy[turn] = busy[count];
            }
        }
    }
}
