//! A stream: texts in any pieces → the ids of the joined text.

use super::{Scratch, Tokenizer};
use crate::error::{Error, Result};
use crate::special_tokens::SpecialHandling;

/// Texts in any pieces → the ids of the joined text.
///
/// Holds text back until a cut that no later text can undo: for the known patterns the last
/// whitespace before a word or so, else the next special token. All buffers are made with it; they
/// grow only when a text has no cut for longer than [`StreamEncoder::HELD`] bytes.
#[derive(Debug)]
pub struct StreamEncoder {
    special: SpecialHandling,
    scratch: Scratch,
    held: String,
    /// No cut lies before this place in the text held.
    searched: usize,
    /// Bytes of the stream that were encoded before the text held.
    done: usize,
    ready: Vec<u32>,
}

impl StreamEncoder {
    /// How much text is held without asking for memory.
    pub const HELD: usize = 1 << 16;

    /// Buffers for `tokenizer`.
    pub(super) fn new(tokenizer: &Tokenizer) -> Result<Self> {
        Ok(Self {
            special: SpecialHandling::Encode,
            scratch: tokenizer.scratch()?,
            held: String::with_capacity(Self::HELD),
            searched: 0,
            done: 0,
            ready: Vec::with_capacity(Self::HELD + 4),
        })
    }

    /// Begins a new text; what was held back of another is forgotten.
    pub fn start(&mut self, special: SpecialHandling) {
        self.special = special;
        self.held.clear();
        self.ready.clear();
        (self.searched, self.done) = (0, 0);
    }

    /// Takes the next piece of text; what is certain now becomes ready. Large texts are best given
    /// in pieces of a few kilobytes, so that the ready ids stay few.
    pub fn push(&mut self, tokenizer: &Tokenizer, text: &str) -> Result<()> {
        self.held
            .try_reserve(text.len())
            .map_err(|_| Error::OutOfMemory { bytes: self.held.len() + text.len() })?;
        self.held.push_str(text);
        let rule = tokenizer.cuts(self.special);
        let certain = (self.held.len() + 1).saturating_sub(rule.context());
        if self.searched.max(1) >= certain {
            return Ok(());
        }
        let places = self.searched.max(1)..certain;
        if let Some(cut) = rule.last(self.held.as_bytes(), places) {
            return self.encode_to(tokenizer, cut);
        }
        self.searched = certain;
        Ok(())
    }

    /// Makes all that is left ready: no more text comes.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<()> {
        self.encode_to(tokenizer, self.held.len())
    }

    /// The ids that are certain, in order.
    pub fn ready(&self) -> &[u32] {
        &self.ready
    }

    /// Forgets the ready ids, which were taken.
    pub fn clear_ready(&mut self) {
        self.ready.clear();
    }

    fn encode_to(&mut self, tokenizer: &Tokenizer, cut: usize) -> Result<()> {
        let Self { held, scratch, ready, special, .. } = self;
        tokenizer.encode_into(&held[..cut], *special, scratch, ready).map_err(
            |error| match error {
                Error::SpecialTokenInText { token, offset } => {
                    Error::SpecialTokenInText { token, offset: offset + self.done }
                }
                other => other,
            },
        )?;
        self.held.drain(..cut);
        self.done += cut;
        self.searched = 0;
        Ok(())
    }
}
