//! Text → stretches between special tokens.
//!
//! A special token is found as text, before anything is split or merged: the leftmost match, of
//! several that start together the longest. Searching costs one pass of a multi-pattern search.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::{Error, Result};
use crate::vocabulary::Vocabulary;

/// What to do with special tokens that stand in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpecialHandling {
    /// They become their ids: for data one owns.
    #[default]
    Encode,
    /// They are ordinary text: for text from strangers.
    AsText,
    /// They are an error.
    Refuse,
}

/// The special tokens of a tokenizer, ready to be searched for.
#[derive(Debug, Clone)]
pub struct SpecialTokens {
    tokens: Vec<(String, u32)>,
    search: Option<AhoCorasick>,
    longest: usize,
}

impl SpecialTokens {
    /// None at all.
    pub fn none() -> Self {
        Self { tokens: Vec::new(), search: None, longest: 0 }
    }

    /// From token texts and their ids, which must be those of `vocabulary`; refuses an empty text
    /// and one given twice.
    pub fn new(mut tokens: Vec<(String, u32)>, vocabulary: &Vocabulary) -> Result<Self> {
        tokens.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        let refuse = |token: &str, why: &str| {
            Err(Error::SpecialToken { token: format!("{token:?}"), why: why.to_owned() })
        };
        if tokens.iter().any(|(text, _)| text.is_empty()) {
            return refuse("", "it is empty");
        }
        if let Some(pair) = tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return refuse(&pair[1].0, "given twice");
        }
        for (text, id) in &tokens {
            if vocabulary.id(text.as_bytes()) != Some(*id) {
                return refuse(text, &format!("the vocabulary does not have it as id {id}"));
            }
        }
        let search = if tokens.is_empty() { None } else { Some(searcher(&tokens)?) };
        let longest = tokens.iter().map(|(text, _)| text.len()).max().unwrap_or(0);
        Ok(Self { tokens, search, longest })
    }

    /// The tokens and their ids, by rising id.
    pub fn tokens(&self) -> &[(String, u32)] {
        &self.tokens
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Whether `id` is that of a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.tokens.binary_search_by_key(&id, |(_, id)| *id).is_ok()
    }

    /// The length in bytes of the longest one; 0 without any.
    pub fn longest(&self) -> usize {
        self.longest
    }

    /// The first special token at or after `from`: `(start, end, id)`, of several that start
    /// together the longest.
    pub fn find(&self, text: &[u8], from: usize) -> Option<(usize, usize, u32)> {
        let input = aho_corasick::Input::new(text).span(from..text.len());
        let found = self.search.as_ref()?.find(input)?;
        Some((found.start(), found.end(), self.tokens[found.pattern().as_usize()].1))
    }
}

fn searcher(tokens: &[(String, u32)]) -> Result<AhoCorasick> {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .build(tokens.iter().map(|(text, _)| text))
        .map_err(|why| Error::SpecialToken {
            token: format!("{} of them", tokens.len()),
            why: why.to_string(),
        })
}
