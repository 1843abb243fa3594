//! What the cache answers, round after round, and what it did not know → ids, each where it belongs.
//!
//! One in a hundred pretokens of English is met for the first time, or has been displaced, and what
//! it needs is far away: the other line of the cache, then pair after pair. So the ids of several
//! rounds are held back until there are enough gaps among them, and these are treated together: all
//! are asked for before the first is looked up, and the new ones merge side by side. A round of its
//! own has two or three, and most of merging would be waiting.

use std::ops::Range;

use super::Tokenizer;
use crate::error::Result;
use crate::memory::reserve;
use crate::merge::{Lanes, Word};
use crate::pretoken_cache::{Gap, Key, PretokenCache};
use crate::progress::Progress;
use crate::round::Round;

/// Ids held back at most: they stay in the cache nearest to the processor.
const HELD: usize = 4096;
/// Gaps that are enough to be filled.
const ENOUGH: usize = 32;
/// A pretoken of more bytes goes where its ids belong at once: they are never held twice.
const LONG: usize = 256;

/// Buffers, reused from round to round. They are made at their largest, and touched as they are needed:
/// encoding shall take memory for ids alone.
#[derive(Debug)]
pub(super) struct Answers {
    /// Ids that were found.
    held: Box<[u32; HELD]>,
    known: usize,
    /// What was not found, in order.
    missing: Vec<Missing>,
    /// The gaps of a round.
    gaps: Box<[Gap; Round::MOST]>,
    lanes: Lanes,
    /// Of each that is missing: where its ids are.
    sources: Vec<Source>,
    /// What is met for the first time, in order.
    new: Vec<Word>,
    /// Which of these, plus one, was the last to ask for a place; all places share a few.
    newest: Box<[u16; 256]>,
    /// Ids of all that were missing, in any order.
    ids: Vec<u32>,
}

/// A pretoken that the cache did not know.
#[derive(Debug, Clone)]
struct Missing {
    /// How many of the ids held stand before its own.
    before: usize,
    place: Range<usize>,
    asked: (Key, u32),
}

/// Where the ids of one that was missing are.
#[derive(Debug, Clone)]
enum Source {
    /// Here.
    Known(Range<usize>),
    /// With this one of those that are new, for the first time or again.
    New(usize),
    Same(usize),
    /// Nowhere yet.
    Long,
}

impl Answers {
    pub(super) fn new() -> Self {
        const { assert!(HELD >= 2 * 4 * Round::MOST) };
        let most = ENOUGH + Round::MOST;
        Self {
            held: Box::new([0; HELD]),
            known: 0,
            missing: Vec::with_capacity(most),
            gaps: Box::new([Gap::default(); Round::MOST]),
            lanes: Lanes::new(),
            sources: Vec::with_capacity(most),
            new: Vec::with_capacity(most),
            newest: Box::new([0; 256]),
            ids: Vec::with_capacity(most * LONG),
        }
    }

    /// Forgets what is held, which an error may have left.
    pub(super) fn clear(&mut self) {
        self.known = 0;
        self.missing.clear();
    }

    /// Looks up a round.
    #[inline]
    pub(super) fn take(&mut self, round: &Round, cache: &PretokenCache) {
        let (found, missed) =
            round.look_up(cache, &mut self.held[self.known..], &mut self.gaps[..]);
        for gap in &self.gaps[..missed] {
            let (place, asked) = round.one(gap.number);
            self.missing.push(Missing { before: self.known + gap.before as usize, place, asked });
        }
        self.known += found;
    }

    /// Whether there is no room for another round, or enough to be done.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.known + 4 * Round::MOST > HELD || self.missing.len() >= ENOUGH
    }

    /// Appends the ids of all rounds over `text` that were taken, and tells the cache what is new.
    #[inline]
    pub(super) fn settle(
        &mut self,
        tokenizer: &Tokenizer,
        text: &[u8],
        cache: &mut PretokenCache,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        let mut done = 0;
        if !self.missing.is_empty() {
            done = self.fill(tokenizer, text, cache, out, progress)?;
        }
        let left = &self.held[done..self.known];
        reserve(out, left.len())?;
        out.extend_from_slice(left);
        self.clear();
        Ok(())
    }

    /// Appends the ids of all up to the last that is missing; returns how many of those held these are.
    #[inline(never)]
    fn fill(
        &mut self,
        tokenizer: &Tokenizer,
        text: &[u8],
        cache: &mut PretokenCache,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<usize> {
        self.look_up(tokenizer, text, cache)?;
        let Self { held, missing, lanes, sources, new, ids, .. } = self;
        tokenizer.merger.merge_all(text, new, lanes, ids, progress)?;
        let mut done = 0;
        for (Missing { before, place, asked }, source) in missing.iter().zip(sources) {
            let found = &held[done..*before];
            done = *before;
            reserve(out, found.len() + place.len())?;
            out.extend_from_slice(found);
            match source {
                Source::Known(known) => out.extend_from_slice(&ids[known.clone()]),
                Source::New(number) => {
                    let of_word = &ids[new[*number].ids.clone()];
                    cache.insert(&text[place.clone()], *asked, of_word);
                    out.extend_from_slice(of_word);
                }
                Source::Same(number) => out.extend_from_slice(&ids[new[*number].ids.clone()]),
                Source::Long => {
                    tokenizer.merger.merge(&text[place.clone()], lanes, out, progress)?;
                }
            }
        }
        Ok(done)
    }

    /// Finds out which of them are known after all.
    fn look_up(
        &mut self,
        tokenizer: &Tokenizer,
        text: &[u8],
        cache: &mut PretokenCache,
    ) -> Result<()> {
        let Self { missing, sources, new, newest, ids, .. } = self;
        sources.clear();
        new.clear();
        newest.fill(0);
        ids.clear();
        for Missing { place, asked, .. } in &*missing {
            cache.ask_one(&text[place.clone()], *asked);
        }
        for Missing { place, asked, .. } in &*missing {
            let (pretoken, first) = (&text[place.clone()], ids.len());
            reserve(ids, pretoken.len().min(LONG))?;
            let source = if cache.emit_one(pretoken, *asked, ids) {
                Source::Known(first..ids.len())
            } else if let Some(id) = tokenizer.whole(pretoken) {
                ids.push(id);
                cache.insert(pretoken, *asked, &[id]);
                Source::Known(first..ids.len())
            } else if pretoken.len() > LONG {
                Source::Long
            } else {
                let newest = &mut newest[asked.1 as usize / 64 % 256];
                let same = usize::from(*newest).checked_sub(1);
                if let Some(same) = same.filter(|&same| &text[new[same].text.clone()] == pretoken) {
                    Source::Same(same)
                } else {
                    new.push(Word { text: place.clone(), ids: 0..0 });
                    *newest = u16::try_from(new.len()).unwrap_or(0);
                    Source::New(new.len() - 1)
                }
            };
            sources.push(source);
        }
        Ok(())
    }
}
