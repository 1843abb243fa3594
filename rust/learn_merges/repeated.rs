//! A merge whose string is a token already, spelled by other halves: it takes that token's symbol.
//!
//! Rare in real text, so slow and plain: counts can rise here, pairs come back that were merged
//! before, and pairs that nobody listed are looked for in all words. What Hugging Face's trainer
//! does then is followed to the letter, its turns and its leftover counts included.

use rustc_hash::{FxHashMap, FxHashSet};

use super::census;
use super::pairs::Best;
use super::words::{Cell, Joined, Pair};
use super::{Learner, TieBreak};
use crate::error::Result;

/// What the merge did to one pair.
#[derive(Debug, Default)]
struct Change {
    gained: u64,
    lost: u64,
    /// Where it arose.
    places: Vec<u32>,
}

impl<C: Cell> Learner<'_, C> {
    pub(super) fn merge_into_known(&mut self, mut best: Best, joined: Joined) -> Result<()> {
        let Joined { left: a, right: b, merged: m, .. } = joined;
        let places = self.turn(&mut best)?;
        let mut changes: FxHashMap<Pair, Change> = FxHashMap::default();
        let lens = &self.tokens.lens;
        self.words.merge_at(&places, joined, self.progress, |before, after, place, weight| {
            if let Some(before) = before {
                changes.entry((before, a)).or_default().lost += weight;
                let change = changes.entry((before, m)).or_default();
                change.gained += weight;
                change.places.push(place - lens[before as usize]);
            }
            if let Some(after) = after {
                changes.entry((b, after)).or_default().lost += weight;
                let change = changes.entry((m, after)).or_default();
                change.gained += weight;
                change.places.push(place);
            }
        })?;
        let overlapping = changes.get(&best.pair).map_or(0, |change| change.lost);
        self.believe(&best, overlapping);
        let mut unlisted = FxHashMap::default();
        for (pair, mut change) in changes {
            change.places.sort_unstable();
            change.places.dedup();
            if self.pairs.contains(pair) {
                if change.gained > 0 {
                    self.pairs.raise(pair, change.gained, change.places, &self.tokens);
                }
                self.pairs.lower(pair, change.lost);
            } else if change.gained > 0 {
                unlisted.insert(pair, change.places);
            }
        }
        if unlisted.is_empty() { Ok(()) } else { self.list(unlisted) }
    }

    /// Counts pairs that were too rare to be listed, and lists those that no longer are. They have
    /// just arisen at the places given, and may have been elsewhere before.
    fn list(&mut self, arisen: FxHashMap<Pair, Vec<u32>>) -> Result<()> {
        let pairs = arisen.keys().copied();
        let (words, lens) = (&self.words, &self.tokens.lens);
        let found = census::listed_pairs(words, lens, self.threads, self.progress, pairs)?;
        for found in found {
            let count = found.count + self.believed.get(&found.pair).copied().unwrap_or(0);
            if !self.pairs.takes(found.pair, count, &self.tokens) {
                continue;
            }
            match self.options.tie_break {
                TieBreak::Lexicographic => {
                    self.pairs.insert(found.pair, count, found.places, &self.tokens);
                }
                TieBreak::HuggingFace => {
                    let new: FxHashSet<u32> = arisen[&found.pair].iter().copied().collect();
                    let mut old = found.places;
                    old.retain(|place| !new.contains(place));
                    let new = arisen[&found.pair].clone();
                    if old.is_empty() {
                        self.pairs.insert(found.pair, count, new, &self.tokens);
                    } else {
                        self.pairs.insert(found.pair, count, old, &self.tokens);
                        self.pairs.raise(found.pair, 0, new, &self.tokens);
                    }
                }
            }
        }
        Ok(())
    }
}
