//! A round: some hundred pretokens of a text, asked for and looked up together.
//!
//! Scanning and asking take turns every few dozen pretokens: while the scanner computes, the memory
//! that was asked for arrives, and never so much is asked for at once that asking waits.

use std::ops::Range;

use crate::error::Result;
use crate::pretoken_cache::{Gap, Key, PretokenCache, Tail};
use crate::pretokenize::Scanner;

/// A round is full from so many pretokens on.
const FULL: usize = 256;
/// The scanner pauses after so many pretokens.
const TURN: usize = 48;
/// The most that one turn of the scanner brings: it finishes its window.
const MOST: usize = TURN + 64;

/// Pretokens of one text, or parts of such between two seams, and their places in the cache.
#[derive(Debug)]
pub(crate) struct Round {
    /// Where the first one starts.
    start: usize,
    ends: Box<[usize; FULL + MOST]>,
    /// What the cache is asked for: keys, and places of its lines.
    keys: Box<[Key; FULL + MOST]>,
    places: Box<[u32; FULL + MOST]>,
    count: usize,
    /// What the cache has answered: ids, and what it does not know.
    ids: Box<[u32; 4 * (FULL + MOST)]>,
    known: usize,
    gaps: Box<[Gap; FULL + MOST]>,
    missed: usize,
    /// Where the next one starts.
    at: usize,
}

impl Round {
    /// The most pretokens it holds.
    pub(crate) const MOST: usize = FULL + MOST;

    /// An empty round, for any text.
    pub(crate) fn new() -> Self {
        Self {
            start: 0,
            ends: Box::new([0; FULL + MOST]),
            keys: Box::new([Key::default(); FULL + MOST]),
            places: Box::new([0; FULL + MOST]),
            count: 0,
            ids: Box::new([0; 4 * (FULL + MOST)]),
            known: 0,
            gaps: Box::new([Gap::default(); FULL + MOST]),
            missed: 0,
            at: 0,
        }
    }

    /// Begins a new text.
    pub(crate) fn restart(&mut self) {
        (self.start, self.count, self.at) = (0, 0, 0);
    }

    /// The next pretokens of `text`, which `scanner` walks; false where there are no more.
    pub(crate) fn fill(
        &mut self,
        scanner: &mut Scanner<'_, '_>,
        text: &[u8],
        tail: &Tail,
        cache: &PretokenCache,
    ) -> Result<bool> {
        (self.start, self.count) = (self.at, 0);
        while self.count < FULL {
            let first = self.count;
            let found = scanner.fill_some(&mut self.ends[first..], TURN)?;
            if found == 0 {
                break;
            }
            self.count += found;
            let new = first..self.count;
            let asked = (&mut self.keys[new.clone()], &mut self.places[new.clone()]);
            cache.ask(text, tail, self.at, &self.ends[new], asked);
            self.at = self.ends[self.count - 1];
        }
        Ok(self.count > 0)
    }

    /// Looks up what the cache was asked for.
    #[inline]
    pub(crate) fn look_up(&mut self, cache: &PretokenCache) {
        let asked = (&self.keys[..self.count], &self.places[..self.count]);
        (self.known, self.missed) = cache.emit(asked, &mut self.ids[..], &mut self.gaps[..]);
    }

    /// The ids of all that were found.
    #[inline]
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids[..self.known]
    }

    /// What was not found, in order.
    #[inline]
    pub(crate) fn gaps(&self) -> &[Gap] {
        &self.gaps[..self.missed]
    }

    /// The one numbered `number`: where it stands in the text, and what was asked for.
    #[inline]
    pub(crate) fn one(&self, number: u32) -> (Range<usize>, (Key, u32)) {
        let number = number as usize;
        let start = if number == 0 { self.start } else { self.ends[number - 1] };
        (start..self.ends[number], (self.keys[number], self.places[number]))
    }
}
