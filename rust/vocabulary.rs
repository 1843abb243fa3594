//! `Vocabulary`: bytes ↔ id, and the rule by which bytes merge into tokens.
//!
//! Ids are as given: gaps are allowed and no order is assumed. The constructors prove once that
//! every id fits an int32, every byte has a token, and every merge names known tokens; nothing
//! checks these again. All tokens lie in one buffer and both directions are one look-up, so that a
//! vocabulary of 50,000 tokens is built in milliseconds.

use std::sync::OnceLock;

use rustc_hash::{FxHashMap, FxHashSet};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::memory::reserve;

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
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// All tokens, end to end, by rising id.
    bytes: Vec<u8>,
    /// Each token's id and where its bytes end, by rising id.
    entries: Vec<(u32, u32)>,
    by_id: ById,
    /// Made when first asked for: who only encodes needs none.
    rows: OnceLock<Vec<Row>>,
    /// Open addressing: a hash of the token's bytes → its place in `entries`.
    by_token: Vec<u32>,
    byte_ids: [u32; 256],
    rule: MergeRule,
    ignores_merges: bool,
}

/// From an id to its bytes: an array unless the ids are too scattered for one.
#[derive(Debug, Clone)]
enum ById {
    /// With empty spans for ids that are none.
    Dense(Vec<Span>),
    Sparse(FxHashMap<u32, Span>),
}

/// Where a token's bytes stand among all of them. A token has at least one.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

/// Bytes of a [`Row`].
pub(crate) const ROW: usize = 16;

/// A token of at most fifteen bytes, and its length in the last byte; 0 there where it is longer, or
/// there is none. One look tells all of it.
pub(crate) type Row = [u8; ROW];

const NOWHERE: u32 = u32::MAX;

impl Vocabulary {
    /// A vocabulary whose merges are listed, each as its two byte strings.
    pub fn from_merges(
        tokens: impl IntoIterator<Item = (u32, impl AsRef<[u8]>)>,
        merges: impl IntoIterator<Item = (impl AsRef<[u8]>, impl AsRef<[u8]>)>,
    ) -> Result<Self> {
        let mut vocabulary = Self::from_ranks(tokens)?;
        let mut joined = Vec::new();
        let merges = merges
            .into_iter()
            .enumerate()
            .map(|(position, (left, right))| {
                vocabulary.merge_of(position, left.as_ref(), right.as_ref(), &mut joined)
            })
            .collect::<Result<Vec<_>>>()?;
        vocabulary.rule = MergeRule::Merges(merges);
        Ok(vocabulary)
    }

    /// A vocabulary by tiktoken's rule: a smaller id merges first.
    pub fn from_ranks(tokens: impl IntoIterator<Item = (u32, impl AsRef<[u8]>)>) -> Result<Self> {
        let mut tokens: Vec<_> = tokens.into_iter().collect();
        tokens.sort_by_key(|(id, _)| *id);
        let mut bytes = Vec::new();
        let mut entries = Vec::with_capacity(tokens.len());
        for (place, (id, token)) in tokens.iter().enumerate() {
            let (id, token) = (*id, token.as_ref());
            if id > i32::MAX.unsigned_abs() {
                return Err(Error::IdOutOfRange { id: id.into() });
            }
            if token.is_empty() {
                return Err(Error::EmptyToken { id });
            }
            bytes.extend_from_slice(token);
            let end = u32::try_from(bytes.len())
                .map_err(|_| Error::Usage("a vocabulary of more than 4 GiB of text".to_owned()))?;
            if entries.last().is_some_and(|(other, _)| *other == id) {
                return Err(Error::DuplicateId {
                    id,
                    first: printable(tokens[place - 1].1.as_ref()),
                    second: printable(token),
                });
            }
            entries.push((id, end));
        }
        let mut vocabulary = Self {
            bytes,
            by_id: index_ids(&entries),
            rows: OnceLock::new(),
            entries,
            by_token: Vec::new(),
            byte_ids: [0; 256],
            rule: MergeRule::Ranks,
            ignores_merges: false,
        };
        vocabulary.index_tokens()?;
        for byte in 0..=255 {
            let id = vocabulary.id(&[byte]).ok_or(Error::MissingByte { byte })?;
            vocabulary.byte_ids[usize::from(byte)] = id;
        }
        Ok(vocabulary)
    }

    /// The same vocabulary and rule with more tokens, which no merge makes.
    pub fn with_tokens(self, more: &[(u32, Vec<u8>)]) -> Result<Self> {
        if more.is_empty() {
            return Ok(self);
        }
        let own = self.iter();
        let more = more.iter().map(|(id, token)| (*id, token.as_slice()));
        let larger = Self::from_ranks(own.chain(more))?;
        Ok(Self { rule: self.rule, ignores_merges: self.ignores_merges, ..larger })
    }

    /// The same, but a pretoken that is a token is that token, whatever the listed merges make of it
    /// (`ignore_merges` of Hugging Face tokenizers). The rank rule has it so in any case.
    #[must_use]
    pub fn ignoring_merges(self, ignores_merges: bool) -> Self {
        Self { ignores_merges, ..self }
    }

    /// Whether a pretoken that is a token is that token, whatever the listed merges make of it.
    pub fn ignores_merges(&self) -> bool {
        self.ignores_merges
    }

    fn index_tokens(&mut self) -> Result<()> {
        let mask = (self.entries.len() * 2).next_power_of_two().max(512) - 1;
        let mut slots = vec![NOWHERE; mask + 1];
        for place in 0..self.entries.len() {
            let token = self.token_at(place);
            let mut slot = hash(token) & mask;
            while slots[slot] != NOWHERE {
                let other = slots[slot] as usize;
                if self.token_at(other) == token {
                    return Err(Error::DuplicateToken {
                        first: self.entries[other].0,
                        second: self.entries[place].0,
                        token: printable(token),
                    });
                }
                slot = (slot + 1) & mask;
            }
            slots[slot] = index(place);
        }
        self.by_token = slots;
        Ok(())
    }

    fn merge_of(
        &self,
        position: usize,
        left: &[u8],
        right: &[u8],
        joined: &mut Vec<u8>,
    ) -> Result<Merge> {
        joined.clear();
        joined.extend_from_slice(left);
        joined.extend_from_slice(right);
        let id = |token: &[u8]| {
            self.id(token).ok_or_else(|| Error::UnknownMergeToken {
                position,
                left: printable(left),
                right: printable(right),
                missing: printable(token),
            })
        };
        Ok(Merge { left: id(left)?, right: id(right)?, merged: id(joined)? })
    }

    fn token_at(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.entries[place - 1].1 };
        &self.bytes[start as usize..self.entries[place].1 as usize]
    }

    /// The bytes of token `id`.
    #[inline]
    pub fn token(&self, id: u32) -> Option<&[u8]> {
        let Span { start, len } = self.span(id)?;
        Some(&self.bytes[start as usize..][..len as usize])
    }

    /// Each id's token for decoding; empty where ids are too scattered for an array.
    pub(crate) fn rows(&self) -> Result<&[Row]> {
        if let Some(rows) = self.rows.get() {
            return Ok(rows);
        }
        let mut rows = Vec::new();
        if let ById::Dense(spans) = &self.by_id {
            reserve(&mut rows, spans.len())?;
            rows.extend(spans.iter().map(|&span| self.row(span)));
        }
        Ok(self.rows.get_or_init(|| rows))
    }

    fn row(&self, Span { start, len }: Span) -> Row {
        let token = &self.bytes[start as usize..][..len as usize];
        let mut row = [0; ROW];
        if let Some(room) = row[..ROW - 1].get_mut(..token.len()) {
            room.copy_from_slice(token);
            row[ROW - 1] = u8::try_from(token.len()).unwrap_or_default();
        }
        row
    }

    #[inline]
    fn span(&self, id: u32) -> Option<Span> {
        match &self.by_id {
            ById::Dense(spans) => spans.get(id as usize).copied().filter(|span| span.len > 0),
            ById::Sparse(spans) => spans.get(&id).copied(),
        }
    }

    /// The id of the token with these bytes.
    pub fn id(&self, token: &[u8]) -> Option<u32> {
        let mask = self.by_token.len() - 1;
        let mut slot = hash(token) & mask;
        loop {
            let place = self.by_token[slot];
            if place == NOWHERE {
                return None;
            }
            if self.token_at(place as usize) == token {
                return Some(self.entries[place as usize].0);
            }
            slot = (slot + 1) & mask;
        }
    }

    /// The ids of the 256 single bytes.
    pub fn byte_ids(&self) -> &[u32; 256] {
        &self.byte_ids
    }

    /// The merge rule.
    pub fn rule(&self) -> &MergeRule {
        &self.rule
    }

    /// Whether a pretoken that is a token is that token: by the rank rule, or ignoring merges.
    pub fn takes_whole_tokens(&self) -> bool {
        self.ignores_merges || self.rule == MergeRule::Ranks
    }

    /// The listed merges; none where ranks are the rule.
    pub fn merges(&self) -> &[Merge] {
        match &self.rule {
            MergeRule::Merges(merges) => merges,
            MergeRule::Ranks => &[],
        }
    }

    /// The ids that some listed merge makes.
    pub fn merged_ids(&self) -> FxHashSet<u32> {
        self.merges().iter().map(|merge| merge.merged).collect()
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; never so, since every vocabulary has the 256 bytes.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The largest id plus one: what a model's embedding needs.
    pub fn size(&self) -> usize {
        self.entries.last().map_or(0, |(id, _)| *id as usize + 1)
    }

    /// Ids and tokens, by rising id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[u8])> {
        (0..self.entries.len()).map(|place| (self.entries[place].0, self.token_at(place)))
    }
}

impl PartialEq for Vocabulary {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
            && self.bytes == other.bytes
            && self.rule == other.rule
            && self.ignores_merges == other.ignores_merges
    }
}

impl Eq for Vocabulary {}

fn index_ids(entries: &[(u32, u32)]) -> ById {
    let starts = [0].into_iter().chain(entries.iter().map(|(_, end)| *end));
    let spans = entries
        .iter()
        .zip(starts)
        .map(|((id, end), start)| (*id, Span { start, len: end - start }));
    let size = entries.last().map_or(0, |(id, _)| *id as usize + 1);
    if size > (1 << 20) + 4 * entries.len() {
        return ById::Sparse(spans.collect());
    }
    let mut dense = vec![Span::default(); size];
    for (id, span) in spans {
        dense[id as usize] = span;
    }
    ById::Dense(dense)
}

/// A place in the entries, of which there are fewer than 2³¹ since each has an id of its own.
#[expect(clippy::cast_possible_truncation, reason = "ids are distinct and below 2^31")]
fn index(place: usize) -> u32 {
    place as u32
}

#[expect(clippy::cast_possible_truncation, reason = "a hash; the low bits are what is used")]
fn hash(token: &[u8]) -> usize {
    xxh3_64(token) as usize
}

/// Bytes as people can read them in a message: quoted text, escapes where they are no text.
pub(crate) fn printable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("b\"{}\"", bytes.escape_ascii()),
    }
}
