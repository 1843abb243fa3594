//! `Vocabulary`: bytes ↔ id, and the rule by which bytes merge into tokens.
//!
//! Ids are as given: gaps are allowed and no order is assumed. The constructors prove once that
//! every id fits an int32, every byte has a token, and every merge names known tokens; nothing
//! checks these again.

use rustc_hash::FxHashMap;

use crate::error::{Error, Result};

/// One merge: `left` and `right` side by side become `merged`. Its rank is its place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merge {
    /// Id of the left token.
    pub left: u32,
    /// Id of the right token.
    pub right: u32,
    /// Id of the concatenation.
    pub merged: u32,
}

/// What decides which adjacent tokens merge, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MergeRule {
    /// The merge list is the rule (Hugging Face's): the earliest listed pair first. Of a pair that
    /// is listed twice the later place counts, as in Hugging Face tokenizers.
    Merges(Vec<Merge>),
    /// A rank file without merges (tiktoken's rule): a pretoken that is a token is that token; else
    /// the adjacent pair whose concatenation has the smallest id merges first.
    Ranks,
}

/// Tokens by id, ids by token, and the merge rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    tokens: Vec<Option<Box<[u8]>>>,
    ids: FxHashMap<Box<[u8]>, u32>,
    byte_ids: [u32; 256],
    rule: MergeRule,
}

impl Vocabulary {
    /// A vocabulary whose merges are listed, each as its two byte strings.
    pub fn from_merges(
        tokens: impl IntoIterator<Item = (u32, Vec<u8>)>,
        merges: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<Self> {
        let mut vocabulary = Self::from_ranks(tokens)?;
        let merges = merges
            .into_iter()
            .enumerate()
            .map(|(position, (left, right))| vocabulary.merge_of(position, &left, &right))
            .collect::<Result<Vec<_>>>()?;
        vocabulary.rule = MergeRule::Merges(merges);
        Ok(vocabulary)
    }

    /// A vocabulary by tiktoken's rule: a smaller id merges first.
    pub fn from_ranks(tokens: impl IntoIterator<Item = (u32, Vec<u8>)>) -> Result<Self> {
        let mut ids = FxHashMap::default();
        let mut by_id: Vec<Option<Box<[u8]>>> = Vec::new();
        for (id, token) in tokens {
            if id > i32::MAX.unsigned_abs() {
                return Err(Error::IdTooLarge { id: id.into() });
            }
            if token.is_empty() {
                return Err(Error::EmptyToken { id });
            }
            let token: Box<[u8]> = token.into();
            if let Some(other) = ids.insert(token.clone(), id) {
                return Err(Error::DuplicateToken {
                    first: other.min(id),
                    second: other.max(id),
                    token: printable(&token),
                });
            }
            let place = id as usize;
            if by_id.len() <= place {
                by_id.resize(place + 1, None);
            }
            if let Some(other) = by_id[place].replace(token) {
                let second = by_id[place].as_deref().unwrap_or_default();
                return Err(Error::DuplicateId {
                    id,
                    first: printable(&other),
                    second: printable(second),
                });
            }
        }
        let mut byte_ids = [0; 256];
        for byte in 0..=255 {
            let id = ids.get(&[byte][..]).ok_or(Error::MissingByte { byte })?;
            byte_ids[usize::from(byte)] = *id;
        }
        Ok(Self { tokens: by_id, ids, byte_ids, rule: MergeRule::Ranks })
    }

    fn merge_of(&self, position: usize, left: &[u8], right: &[u8]) -> Result<Merge> {
        let id = |token: &[u8]| {
            self.id(token).ok_or_else(|| Error::UnknownMergeToken {
                position,
                left: printable(left),
                right: printable(right),
                missing: printable(token),
            })
        };
        Ok(Merge { left: id(left)?, right: id(right)?, merged: id(&[left, right].concat())? })
    }

    /// The bytes of token `id`.
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        self.tokens.get(id as usize)?.as_deref()
    }

    /// The id of the token with these bytes.
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// The ids of the 256 single bytes.
    pub fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }

    /// The merge rule.
    pub fn rule(&self) -> &MergeRule {
        &self.rule
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none; never so, since every vocabulary has the 256 bytes.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The largest id plus one: what a model's embedding needs.
    pub fn size(&self) -> usize {
        self.tokens.len()
    }

    /// Ids and tokens, by rising id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..).zip(&self.tokens).filter_map(|(id, token)| Some((id, token.as_deref()?)))
    }
}

/// Bytes as people can read them in a message: quoted text, escapes where they are no text.
pub(crate) fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}
