//! What a round did not find → its ids, put where they belong.
//!
//! One in a hundred pretokens of English is met for the first time, or has been displaced, and what
//! it needs is far away: the other line of the cache, then pair after pair. So those of a round are
//! treated together: all are asked for before the first is looked up, and the new ones merge side
//! by side.

use std::ops::Range;

use super::Tokenizer;
use crate::error::Result;
use crate::memory::reserve;
use crate::merge::{Lanes, Word};
use crate::pretoken_cache::PretokenCache;
use crate::progress::Progress;
use crate::round::Round;

/// A pretoken of more bytes goes where its ids belong at once: they are never held twice.
const LONG: usize = 256;

/// Buffers, reused from round to round. They are made at their largest, and touched as they are needed:
/// encoding shall take memory for ids alone.
#[derive(Debug)]
pub(super) struct Missed {
    lanes: Lanes,
    /// Of each gap: where its ids are.
    sources: Vec<Source>,
    /// What is met for the first time, in order.
    new: Vec<Word>,
    /// Ids of all of them, in any order.
    ids: Vec<u32>,
}

/// Where the ids of one that was missed are.
#[derive(Debug, Clone)]
enum Source {
    /// Here.
    Known(Range<usize>),
    /// With the next of those that are new.
    New,
    /// Nowhere yet.
    Long,
}

impl Missed {
    pub(super) fn new() -> Self {
        Self {
            lanes: Lanes::new(),
            sources: Vec::with_capacity(Round::MOST),
            new: Vec::with_capacity(Round::MOST),
            ids: Vec::with_capacity(Round::MOST * LONG),
        }
    }

    /// Appends the ids of a round over `text`, with gaps, and tells the cache what is new in it.
    #[inline(never)]
    pub(super) fn fill(
        &mut self,
        tokenizer: &Tokenizer,
        text: &[u8],
        round: &Round,
        cache: &mut PretokenCache,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        self.look_up(tokenizer, text, round, cache)?;
        let Self { lanes, sources, new, ids } = self;
        tokenizer.merger.merge_all(text, new, lanes, ids, progress)?;
        let (mut new, mut done) = (new.iter(), 0);
        for (gap, source) in round.gaps().iter().zip(sources) {
            let (place, asked) = round.one(gap.number);
            let before = &round.ids()[done..gap.before as usize];
            done = gap.before as usize;
            reserve(out, before.len() + place.len())?;
            out.extend_from_slice(before);
            match source {
                Source::Known(known) => out.extend_from_slice(&ids[known.clone()]),
                Source::New => {
                    let word = new.next().expect("one for each that is new");
                    cache.insert(&text[place], asked, &ids[word.ids.clone()]);
                    out.extend_from_slice(&ids[word.ids.clone()]);
                }
                Source::Long => tokenizer.merger.merge(&text[place], lanes, out, progress)?,
            }
        }
        reserve(out, round.ids().len() - done)?;
        out.extend_from_slice(&round.ids()[done..]);
        Ok(())
    }

    /// Finds out which of them are known after all.
    fn look_up(
        &mut self,
        tokenizer: &Tokenizer,
        text: &[u8],
        round: &Round,
        cache: &mut PretokenCache,
    ) -> Result<()> {
        let Self { sources, new, ids, .. } = self;
        sources.clear();
        new.clear();
        ids.clear();
        for gap in round.gaps() {
            cache.ask_one(&text[round.one(gap.number).0]);
        }
        for gap in round.gaps() {
            let (place, asked) = round.one(gap.number);
            let (pretoken, first) = (&text[place.clone()], ids.len());
            reserve(ids, pretoken.len().min(LONG))?;
            let source = if cache.emit_one(pretoken, asked, ids) {
                Source::Known(first..ids.len())
            } else if let Some(id) = tokenizer.whole(pretoken) {
                ids.push(id);
                cache.insert(pretoken, asked, &[id]);
                Source::Known(first..ids.len())
            } else if pretoken.len() > LONG {
                Source::Long
            } else {
                new.push(Word { text: place, ids: 0..0 });
                Source::New
            };
            sources.push(source);
        }
        Ok(())
    }
}
