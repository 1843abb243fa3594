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
        let mut asked = 0;
        loop {
            let found = scanner.fill_some(&mut self.ends[self.count..], TURN)?;
            self.count += found;
            let is_last = found < TURN || self.count >= FULL;
            // By fours, as the fastest kernel takes them.
            let new = asked..if is_last { self.count } else { self.count & !3 };
            asked = new.end;
            if let Some(&last) = self.ends[new.clone()].last() {
                let to = (&mut self.keys[new.clone()], &mut self.places[new.clone()]);
                cache.ask(text, tail, self.at, &self.ends[new], to);
                self.at = last;
            }
            if is_last {
                return Ok(self.count > 0);
            }
        }
    }

    /// Looks up what the cache was asked for: writes ids to `out`, which has room for four for each
    /// that a round may hold, and what is not known to `gaps`; returns how many of both there are.
    #[inline]
    pub(crate) fn look_up(
        &self,
        cache: &PretokenCache,
        out: &mut [u32],
        gaps: &mut [Gap],
    ) -> (usize, usize) {
        cache.emit((&self.keys[..self.count], &self.places[..self.count]), out, gaps)
    }

    /// The one numbered `number`: where it stands in the text, and what was asked for.
    #[inline]
    pub(crate) fn one(&self, number: u32) -> (Range<usize>, (Key, u32)) {
        let number = number as usize;
        let start = if number == 0 { self.start } else { self.ends[number - 1] };
        (start..self.ends[number], (self.keys[number], self.places[number]))
    }
}
