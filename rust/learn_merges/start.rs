//! What there is before the first merge: the 256 bytes, or the tokens of a tokenizer to extend, and
//! how a word is written with them.

use rustc_hash::{FxHashMap, FxHashSet};

use super::pairs::Tokens;
use super::words::Cell;
use super::{LearnOptions, SpecialIds, TieBreak};
use crate::byte_alphabet::gpt2_order;
use crate::error::Result;
use crate::merge::{Lanes, Merger};
use crate::progress::Progress;
use crate::special_tokens::SpecialTokens;

/// The tokens to begin with, by symbol, and how words are written with them.
pub(super) struct Start {
    pub(super) tokens: Tokens,
    pub(super) spelling: Spelling,
}

/// How a word is written before anything is learned.
pub(super) enum Spelling {
    /// A symbol for each byte.
    Bytes(Box<[u32; 256]>),
    /// As the tokenizer to extend merges it. By id: the symbol.
    Merged { merger: Box<Merger>, symbols: FxHashMap<u32, u32> },
}

impl Start {
    pub(super) fn new(options: &LearnOptions) -> Result<Self> {
        let Some(base) = &options.extend else { return Ok(Self::bytes(options)) };
        let special: FxHashSet<u32> = base.special_tokens.iter().map(|(_, id)| *id).collect();
        let made = base.vocabulary.merged_ids();
        let (mut tokens, mut symbols) = (Tokens::new(&[]), FxHashMap::default());
        for (id, token) in base.vocabulary.iter() {
            if token.len() == 1 || !special.contains(&id) || made.contains(&id) {
                symbols.insert(id, u32::try_from(tokens.len()).unwrap_or(u32::MAX));
                tokens.push(token);
            }
        }
        let specials = SpecialTokens::new(base.special_tokens.clone(), &base.vocabulary)?;
        let merger = Box::new(Merger::new(&base.vocabulary, &specials));
        Ok(Self { tokens, spelling: Spelling::Merged { merger, symbols } })
    }

    fn bytes(options: &LearnOptions) -> Self {
        let alphabet = alphabet(options);
        let mut symbols = [0; 256];
        for (symbol, &byte) in (0..).zip(&alphabet) {
            symbols[usize::from(byte)] = symbol;
        }
        Self { tokens: Tokens::new(&alphabet), spelling: Spelling::Bytes(Box::new(symbols)) }
    }
}

/// What one thread needs to write words.
#[derive(Default)]
pub(super) struct Scratch {
    lanes: Lanes,
    ids: Vec<u32>,
}

impl Spelling {
    /// Writes `word` into as many cells as it has bytes: a token's symbol in its first and its last
    /// cell, between them nothing that could be taken for the end of a word.
    pub(super) fn write<C: Cell>(
        &self,
        word: &[u8],
        cells: &mut [C],
        lens: &[u32],
        scratch: &mut Scratch,
        progress: &Progress,
    ) -> Result<()> {
        match self {
            Self::Bytes(symbols) => {
                for (cell, &byte) in cells.iter_mut().zip(word) {
                    *cell = C::new(symbols[usize::from(byte)]);
                }
            }
            Self::Merged { merger, symbols } => {
                scratch.ids.clear();
                merger.merge(word, &mut scratch.lanes, &mut scratch.ids, progress)?;
                let mut at = 0;
                for id in &scratch.ids {
                    let symbol = symbols[id];
                    let end = at + lens[symbol as usize] as usize;
                    cells[at..end].fill(C::DEAD);
                    cells[at] = C::new(symbol);
                    cells[end - 1] = C::new(symbol);
                    at = end;
                }
            }
        }
        Ok(())
    }
}

/// The bytes in the order of their ids.
fn alphabet(options: &LearnOptions) -> [u8; 256] {
    // GPT-2's order of the bytes is also that of the characters that stand for them.
    let mut bytes: Vec<u8> = gpt2_order().collect();
    if options.tie_break == TieBreak::HuggingFace && options.special_ids() == SpecialIds::First {
        // A special token of one byte comes before, with the others.
        let place = |byte: u8| options.special_tokens.iter().position(|t| t.as_bytes() == [byte]);
        bytes.sort_by_key(|&byte| place(byte).unwrap_or(usize::MAX));
    }
    let mut alphabet = [0; 256];
    alphabet.copy_from_slice(&bytes);
    alphabet
}
