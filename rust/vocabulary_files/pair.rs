//! GPT-2 style pairs: a vocabulary in JSON, and a list of merges.

use std::fmt::Write as _;
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Files, NamedToken, Parted, TokenizerParts, cannot_hold, malformed, read_bytes};
use crate::byte_alphabet::{spell, unspell};
use crate::error::{Error, Result};
use crate::merge::Merger;
use crate::special_tokens::SpecialTokens;
use crate::tokenizer_json;
use crate::vocabulary::Vocabulary;

/// The names of a vocabulary and of its merges, as most have it and as GPT-2 was published.
pub(super) const NAMES: [(&str, &str); 2] =
    [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")];

/// Reads a vocabulary (JSON, token → id) and merges (one a line), whatever their names.
///
/// `special_tokens` names those to treat as special; one that the vocabulary lacks gets the next id
/// after the largest. `None` takes the entries shaped `<|…|>` that no merge makes.
pub fn read_pair(
    vocab_path: &Path,
    merges_path: &Path,
    special_tokens: Option<&[NamedToken]>,
) -> Result<TokenizerParts> {
    let entries = read_vocab(vocab_path)?;
    let merges = read_merges(merges_path)?;
    let specials = match special_tokens {
        Some(named) => {
            let ids: FxHashMap<&str, u32> =
                entries.iter().map(|(key, id)| (key.as_str(), *id)).collect();
            let next = entries.iter().map(|(_, id)| *id as usize + 1).max().unwrap_or(0);
            // Spelt as any token, else as itself; but one character is the spelling of a byte.
            let known = |token: &str| {
                let as_text = || ids.get(token).filter(|_| token.chars().nth(1).is_some());
                ids.get(spell(token.as_bytes()).as_str()).or_else(as_text).copied()
            };
            number_specials(named, next, known)?
        }
        None => guess_specials(&entries, &merges),
    };
    let vocabulary = assemble(vocab_path, merges_path, entries, merges, &specials)?;
    Ok(TokenizerParts::new(vocabulary, specials, None))
}

/// Entries of a vocabulary file, in its order: the key as it stands there, and its id.
pub(crate) type Entries = Vec<(String, u32)>;

/// One merge of a file: its line (from 1) or place, and both sides in bytes.
pub(crate) type FileMerge = (usize, Vec<u8>, Vec<u8>);

/// Ids for the special tokens named: the vocabulary's, else the one asked for, else numbered from
/// `next` on, and behind those asked for.
pub(super) fn number_specials(
    named: &[NamedToken],
    next: usize,
    known: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<(String, u32)>> {
    let mut numbered: Vec<(String, u32)> = Vec::with_capacity(named.len());
    let asked = named.iter().filter_map(|(_, asked)| *asked).max();
    let mut next = asked.map_or(next, |asked| next.max(asked as usize + 1));
    for (token, asked) in named {
        let id = match (known(token), *asked) {
            (Some(id), Some(asked)) if id != asked => {
                return Err(Error::SpecialToken {
                    token: format!("{token:?}"),
                    why: format!("the vocabulary has it as id {id}, not {asked}"),
                });
            }
            (Some(id), _) | (None, Some(id)) => id,
            (None, None) => {
                next += 1;
                u32::try_from(next - 1)
                    .map_err(|_| Error::Usage("no id is left for a special token".to_owned()))?
            }
        };
        numbered.push((token.clone(), id));
    }
    Ok(numbered)
}

/// The entries shaped `<|…|>` that no merge makes.
fn guess_specials(entries: &Entries, merges: &[FileMerge]) -> Vec<(String, u32)> {
    let is_shaped = |key: &str| key.len() > 4 && key.starts_with("<|") && key.ends_with("|>");
    let mut shaped: Vec<_> = entries.iter().filter(|(key, _)| is_shaped(key)).collect();
    if !shaped.is_empty() {
        let made: FxHashSet<String> = merges
            .iter()
            .filter(|(_, left, right)| left.starts_with(b"<") && right.ends_with(b">"))
            .map(|(_, left, right)| spell(left) + &spell(right))
            .collect();
        shaped.retain(|(key, _)| !made.contains(key));
    }
    shaped.into_iter().cloned().collect()
}

/// The tokens of entries, and of specials that have none. The key of a special token is its text; any
/// other is spelt in GPT-2's alphabet, or, where it has characters beyond it, is taken as its UTF-8 too.
pub(super) fn tokens_of(entries: Entries, specials: &[(String, u32)]) -> Vec<(u32, Vec<u8>)> {
    let special: FxHashMap<u32, &str> = specials.iter().map(|(t, id)| (*id, t.as_str())).collect();
    let known: FxHashSet<u32> = entries.iter().map(|(_, id)| *id).collect();
    let missing = specials.iter().filter(|(_, id)| !known.contains(id)).cloned();
    entries
        .into_iter()
        .chain(missing)
        .map(|(key, id)| {
            let bytes = match special.get(&id) {
                Some(&token) if token == key => key.into_bytes(),
                _ => unspell(&key).unwrap_or_else(|_| key.into_bytes()),
            };
            (id, bytes)
        })
        .collect()
}

/// A vocabulary of entries and merges.
pub(super) fn assemble(
    vocab_path: &Path,
    merges_path: &Path,
    entries: Entries,
    merges: Vec<FileMerge>,
    specials: &[(String, u32)],
) -> Result<Vocabulary> {
    let tokens = tokens_of(entries, specials);
    let lines: Vec<usize> = merges.iter().map(|(line, ..)| *line).collect();
    let merges = merges.into_iter().map(|(_, left, right)| (left, right));
    Vocabulary::from_merges(tokens, merges).map_err(|error| match error {
        Error::UnknownMergeToken { position, left, right, missing } => malformed(
            merges_path,
            format!(
                "line {}: joins {left} and {right}, but {missing} is not in the vocabulary {}",
                lines[position],
                vocab_path.display()
            ),
        ),
        Error::MissingFile { .. } | Error::Io { .. } => error,
        other => malformed(vocab_path, other.to_string()),
    })
}

/// Reads a vocabulary file's entries.
pub(super) fn read_vocab(path: &Path) -> Result<Entries> {
    let bytes = read_bytes(path)?;
    if !bytes.trim_ascii_start().starts_with(b"{") {
        let merges = looks_like_merges(&bytes);
        let why = if merges {
            "not a JSON vocabulary but a list of merges; are the vocabulary and the merges swapped?"
        } else {
            "not a JSON object of tokens and their ids"
        };
        return Err(malformed(path, why));
    }
    parse_entries(&bytes).map_err(|why| malformed(path, format!("not a vocabulary: {why}")))
}

fn looks_like_merges(bytes: &[u8]) -> bool {
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()).take(3);
    bytes.starts_with(b"#version")
        || lines.map(|l| l.split(|&b| b == b' ').count() == 2).reduce(|a, b| a && b) == Some(true)
}

/// A JSON object of tokens and ids, in order; an id that is no number from 0 to 2^31 - 1, and a
/// token that stands twice, are refused.
fn parse_entries(bytes: &[u8]) -> serde_json::Result<Entries> {
    serde_json::from_slice::<OrderedEntries>(bytes).map(|ordered| ordered.0)
}

/// Deserializes a map without losing its order or its duplicates.
pub(crate) struct OrderedEntries(pub(crate) Entries);

impl<'de> Deserialize<'de> for OrderedEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = OrderedEntries;

            fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                formatter.write_str("an object of tokens and their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                use serde::de::Error as _;
                let mut entries = Entries::new();
                while let Some((key, id)) = map.next_entry::<String, i64>()? {
                    let id = i32::try_from(id)
                        .ok()
                        .and_then(|id| u32::try_from(id).ok())
                        .ok_or_else(|| {
                            A::Error::custom(format!(
                                "token {key:?} has id {id}; ids go from 0 to 2147483647"
                            ))
                        })?;
                    entries.push((key, id));
                }
                let mut seen = FxHashSet::default();
                seen.reserve(entries.len());
                if let Some((key, _)) = entries.iter().find(|(key, _)| !seen.insert(key.as_str())) {
                    return Err(A::Error::custom(format!("token {key:?} stands there twice")));
                }
                Ok(OrderedEntries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Reads a merges file: two tokens a line, one space between. Only a first line that starts with
/// `#version` is a header.
pub(super) fn read_merges(path: &Path) -> Result<Vec<FileMerge>> {
    let bytes = read_bytes(path)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        return Err(malformed(
            path,
            "not a list of merges but JSON; are the vocabulary and the merges swapped?",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        malformed(path, format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))
    })?;
    let mut merges = Vec::new();
    for (line, content) in (1..).zip(text.split('\n')) {
        let content = content.strip_suffix('\r').unwrap_or(content);
        if content.is_empty() || (line == 1 && content.starts_with("#version")) {
            continue;
        }
        let (left, right) = content
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
            .ok_or_else(|| {
                malformed(path, format!("line {line}: {content:?} is not two tokens and one space"))
            })?;
        let bytes = |side: &str| {
            unspell(side).map_err(|c| {
                malformed(path, format!("line {line}: {c:?} is not in GPT-2's byte alphabet"))
            })
        };
        merges.push((line, bytes(left)?, bytes(right)?));
    }
    Ok(merges)
}

/// The vocabulary's keys by rising id: the text of special tokens, the spelling of all others.
pub(super) fn entries_of(parts: &TokenizerParts) -> Result<Entries> {
    let special: FxHashMap<u32, &str> =
        parts.special_tokens.iter().map(|(token, id)| (*id, token.as_str())).collect();
    let key = |id: u32, bytes: &[u8]| match special.get(&id) {
        Some(&token) => token.to_owned(),
        None => spell(bytes),
    };
    let entries: Entries =
        parts.vocabulary.iter().map(|(id, bytes)| (key(id, bytes), id)).collect();
    let mut seen = FxHashMap::default();
    seen.reserve(entries.len());
    for (key, id) in &entries {
        if let Some(other) = seen.insert(key.as_str(), id) {
            return Err(Error::Usage(format!(
                "tokens {other} and {id} would both be written as {key:?}; \
                 a GPT-2 style vocabulary cannot hold both"
            )));
        }
    }
    Ok(entries)
}

/// The files of a pair that is all there is: it must say everything but the pattern and which
/// tokens are special.
pub(super) fn write(path: &Path, parts: &TokenizerParts) -> Result<Files> {
    let parted = Parted::of(parts)?;
    if let Some(normalizer) = parts.normalizer {
        let why = format!("text is normalized ({}) before it is split", normalizer.name());
        return Err(cannot_hold(path, "a vocabulary with merges", why));
    }
    let specials = SpecialTokens::new(parts.special_tokens.clone(), &parts.vocabulary)?;
    if Merger::new(&parts.vocabulary, &specials).whole_first() {
        let why = "whole tokens that no merges make are taken too (ignore_merges)".to_owned();
        return Err(cannot_hold(path, "a vocabulary with merges", why));
    }
    let vocab =
        tokenizer_json::object(&parted.entries).map_err(|why| malformed(path, why.to_string()))?;
    Ok(vec![(NAMES[0].0, vocab), (NAMES[0].1, merges_text(&parted.merges))])
}

/// A merges file.
pub(super) fn merges_text(merges: &[(String, String)]) -> Vec<u8> {
    let mut list = String::from("#version: 0.2\n");
    for (left, right) in merges {
        let _ = writeln!(list, "{left} {right}");
    }
    list.into_bytes()
}
