//! Vocabularies on disk: GPT-2 style pairs, tokenizer folders and tiktoken rank files.
//!
//! Reads whole files into memory (a vocabulary of 50,000 takes about 30 ms) and checks everything
//! there is to check, so that what leaves here can be trusted. Hugging Face's `tokenizer.json` has a
//! file of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::byte_alphabet::{spell, unspell};
use crate::durable;
use crate::error::{Error, Result};
use crate::tokenizer_json;
use crate::vocabulary::{MergeRule, Vocabulary};

/// The files of a tokenizer folder.
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const TOKENIZER: &str = "tokenizer.json";
const LMKIT: &str = "lmkit.json";

/// What a tokenizer is made of, as files hold it.
#[derive(Debug, Clone)]
pub struct TokenizerParts {
    /// Tokens, ids and merges, special tokens included.
    pub vocabulary: Vocabulary,
    /// Special tokens and their ids.
    pub special_tokens: Vec<(String, u32)>,
    /// The pattern's name or regular expression, where the files tell.
    pub pattern: Option<String>,
}

impl TokenizerParts {
    /// Parts given in memory; a special token that `vocab` lacks gets the next id after the
    /// largest.
    pub fn in_memory(
        vocab: Vec<(i64, Vec<u8>)>,
        merges: Vec<(Vec<u8>, Vec<u8>)>,
        special_tokens: &[String],
        pattern: String,
    ) -> Result<Self> {
        let mut tokens = Vec::with_capacity(vocab.len());
        for (id, token) in vocab {
            tokens.push((u32::try_from(id).map_err(|_| Error::IdOutOfRange { id })?, token));
        }
        let vocabulary = Vocabulary::from_merges(tokens, merges)?;
        Self { vocabulary, special_tokens: Vec::new(), pattern: None }
            .with(Some(special_tokens), Some(pattern))
    }

    /// The same with other special tokens and another pattern, where given. A special token that
    /// the vocabulary lacks gets the next id after the largest.
    pub fn with(self, special_tokens: Option<&[String]>, pattern: Option<String>) -> Result<Self> {
        let pattern = pattern.or(self.pattern);
        let Some(named) = special_tokens else { return Ok(Self { pattern, ..self }) };
        let known = |token: &str| self.vocabulary.id(token.as_bytes());
        let special_tokens = number_specials(named, self.vocabulary.size(), known)?;
        let missing: Vec<(u32, Vec<u8>)> = special_tokens
            .iter()
            .filter(|(token, _)| known(token).is_none())
            .map(|(token, id)| (*id, token.clone().into_bytes()))
            .collect();
        Ok(Self { vocabulary: self.vocabulary.with_tokens(&missing)?, special_tokens, pattern })
    }
}

/// Reads whatever `path` is: a tokenizer folder, a `tokenizer.json`, or a `.tiktoken` file.
pub fn read(path: &Path) -> Result<TokenizerParts> {
    if path.is_dir() {
        return read_folder(path);
    }
    let bytes = read_bytes(path)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        return tokenizer_json::read(path, &bytes);
    }
    read_tiktoken(path, &bytes)
}

/// Reads a vocabulary (JSON, token → id) and merges (one a line), whatever their names.
///
/// `special_tokens` names those to treat as special; one that the vocabulary lacks gets the next id
/// after the largest. `None` takes the entries shaped `<|…|>` that no merge makes.
pub fn read_pair(
    vocab_path: &Path,
    merges_path: &Path,
    special_tokens: Option<&[String]>,
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
    Ok(TokenizerParts { vocabulary, special_tokens: specials, pattern: None })
}

/// Entries of a vocabulary file, in its order: the key as it stands there, and its id.
pub(crate) type Entries = Vec<(String, u32)>;

/// One merge of a file: its line (from 1) or place, and both sides in bytes.
pub(crate) type FileMerge = (usize, Vec<u8>, Vec<u8>);

/// Ids for the special tokens named, those not known numbered from `next` on.
fn number_specials(
    named: &[String],
    mut next: usize,
    known: impl Fn(&str) -> Option<u32>,
) -> Result<Vec<(String, u32)>> {
    let mut numbered: Vec<(String, u32)> = Vec::with_capacity(named.len());
    for token in named {
        let id = known(token).or_else(|| u32::try_from(next).ok());
        let id = id.ok_or_else(|| Error::Usage("no id is left for a special token".to_owned()))?;
        next += usize::from(known(token).is_none());
        numbered.push((token.clone(), id));
    }
    Ok(numbered)
}

/// The entries shaped `<|…|>` that no merge makes.
fn guess_specials(entries: &Entries, merges: &[FileMerge]) -> Vec<(String, u32)> {
    let shaped: Vec<_> = entries
        .iter()
        .filter(|(key, _)| key.len() > 4 && key.starts_with("<|") && key.ends_with("|>"))
        .collect();
    if shaped.is_empty() {
        return Vec::new();
    }
    let made: FxHashSet<String> =
        merges.iter().map(|(_, left, right)| spell(left) + &spell(right)).collect();
    shaped.into_iter().filter(|(key, _)| !made.contains(key)).cloned().collect()
}

/// The tokens of entries, and of specials that have none. The key of a special token is its text; any
/// other is spelt in GPT-2's alphabet, or, where it has characters beyond it, is taken as its UTF-8 too.
fn tokens_of(entries: Entries, specials: &[(String, u32)]) -> Vec<(u32, Vec<u8>)> {
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
fn assemble(
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
fn read_vocab(path: &Path) -> Result<Entries> {
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
                let mut seen = FxHashSet::default();
                while let Some((key, id)) = map.next_entry::<String, i64>()? {
                    let id = i32::try_from(id)
                        .ok()
                        .and_then(|id| u32::try_from(id).ok())
                        .ok_or_else(|| {
                            A::Error::custom(format!(
                                "token {key:?} has id {id}; ids go from 0 to 2147483647"
                            ))
                        })?;
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format!("token {key:?} stands there twice")));
                    }
                    entries.push((key, id));
                }
                Ok(OrderedEntries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Reads a merges file: two tokens a line, one space between. Only a first line that starts with
/// `#version` is a header.
fn read_merges(path: &Path) -> Result<Vec<FileMerge>> {
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

/// Reads a rank file: base64 of a token, a space, its rank; one a line.
fn read_tiktoken(path: &Path, bytes: &[u8]) -> Result<TokenizerParts> {
    let mut tokens = Vec::new();
    for (line, content) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let content = content.trim_ascii();
        if content.is_empty() {
            continue;
        }
        let parsed = memchr::memchr(b' ', content).and_then(|space| {
            let rank = std::str::from_utf8(&content[space + 1..]).ok()?.parse().ok()?;
            Some((rank, base64(&content[..space])?))
        });
        tokens.push(parsed.ok_or_else(|| {
            malformed(path, format!("line {line}: not a base64 token, a space and its rank"))
        })?);
    }
    let vocabulary =
        Vocabulary::from_ranks(tokens).map_err(|error| malformed(path, error.to_string()))?;
    Ok(TokenizerParts { vocabulary, special_tokens: Vec::new(), pattern: None })
}

/// What `lmkit.json` holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    lmkit_version: String,
    pattern: String,
    special_tokens: BTreeMap<String, u32>,
    #[serde(default, skip_serializing_if = "Rule::is_file")]
    merges: Rule,
    fingerprint: String,
}

/// Where a folder's merges are.
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rule {
    /// In `merges.txt`.
    #[default]
    File,
    /// Nowhere: ids are ranks, and any two tokens merge whose concatenation is one.
    Ranks,
}

impl Rule {
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

/// Reads a folder that [`write_folder`] wrote.
pub fn read_folder(folder: &Path) -> Result<TokenizerParts> {
    let path = folder.join(LMKIT);
    if !path.exists() {
        let json = folder.join(TOKENIZER);
        if json.exists() {
            return tokenizer_json::read(&json, &read_bytes(&json)?);
        }
        let why = format!("not a tokenizer folder: it has neither {LMKIT} nor {TOKENIZER}");
        return Err(malformed(folder, why));
    }
    let manifest: Manifest = serde_json::from_slice(&read_bytes(&path)?)
        .map_err(|why| malformed(&path, format!("not an lmkit tokenizer: {why}")))?;
    if manifest.format != 1 {
        let why = format!("format {}; this lmkit reads format 1", manifest.format);
        return Err(malformed(&path, why));
    }
    let (vocab_path, merges_path) = (folder.join(VOCAB), folder.join(MERGES));
    let entries = read_vocab(&vocab_path)?;
    let mut specials: Vec<(String, u32)> = manifest.special_tokens.into_iter().collect();
    specials.sort_by_key(|(_, id)| *id);
    for (token, id) in &specials {
        if !entries.contains(&(token.clone(), *id)) {
            let why = format!("special token {token:?} with id {id} is not in {VOCAB}");
            return Err(malformed(&path, why));
        }
    }
    let vocabulary = match manifest.merges {
        Rule::File => {
            let merges = read_merges(&merges_path)?;
            assemble(&vocab_path, &merges_path, entries, merges, &specials)?
        }
        Rule::Ranks => Vocabulary::from_ranks(tokens_of(entries, &specials))
            .map_err(|error| malformed(&vocab_path, error.to_string()))?,
    };
    Ok(TokenizerParts { vocabulary, special_tokens: specials, pattern: Some(manifest.pattern) })
}

/// The vocabulary's keys by rising id: the text of special tokens, the spelling of all others.
pub(crate) fn entries_of(parts: &TokenizerParts) -> Result<Entries> {
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

/// The merges of `parts`, each as its two spellings; None for a vocabulary of ranks, which has none.
fn spelled_merges(parts: &TokenizerParts) -> Option<Vec<(String, String)>> {
    let MergeRule::Merges(merges) = parts.vocabulary.rule() else { return None };
    let side = |id| spell(parts.vocabulary.token(id).unwrap_or_default());
    Some(merges.iter().map(|merge| (side(merge.left), side(merge.right))).collect())
}

/// Writes a tokenizer folder: `vocab.json`, `merges.txt`, `tokenizer.json` and `lmkit.json`. What
/// is there already is replaced only with `force`, and only if it is a tokenizer folder or empty.
/// Where no `tokenizer.json` can give the same ids it is left out; what is returned says why. A
/// vocabulary of ranks has no merges: `lmkit.json` says so, and only lmkit reads the folder.
pub fn write_folder(
    path: &Path,
    parts: &TokenizerParts,
    fingerprint: &str,
    force: bool,
) -> Result<Option<String>> {
    let entries = entries_of(parts)?;
    let merges = spelled_merges(parts);
    let pattern = parts.pattern.as_deref().unwrap_or("gpt2");
    let manifest = Manifest {
        format: 1,
        lmkit_version: env!("CARGO_PKG_VERSION").into(),
        pattern: pattern.into(),
        special_tokens: parts.special_tokens.iter().cloned().collect(),
        merges: if merges.is_some() { Rule::File } else { Rule::Ranks },
        fingerprint: fingerprint.into(),
    };
    let json = |why: serde_json::Error| malformed(path, why.to_string());
    let mut files = vec![
        (VOCAB, tokenizer_json::object(&entries).map_err(json)?),
        (LMKIT, serde_json::to_vec_pretty(&manifest).map_err(json)?),
    ];
    let written = match (&merges, tokenizer_json::splitter(pattern)) {
        (Some(merges), Ok(splitter)) => {
            let specials = &parts.special_tokens;
            let file = tokenizer_json::write(&entries, merges, specials, &splitter);
            files.push((TOKENIZER, file.map_err(json)?));
            Ok(())
        }
        (Some(_), Err(why)) => Err(format!("no {TOKENIZER}: {why}")),
        (None, _) => {
            Err(format!("no {MERGES} and no {TOKENIZER}: a vocabulary of ranks has no merges"))
        }
    };
    if let Some(merges) = merges {
        let mut list = String::from("#version: 0.2\n");
        for (left, right) in merges {
            let _ = writeln!(list, "{left} {right}");
        }
        files.push((MERGES, list.into_bytes()));
    }
    durable::write_folder(path, &files, |old| force && is_replaceable(old))?;
    Ok(written.err().map(|why| format!("{}: {why}", path.display())))
}

/// Refuses a folder that [`write_folder`] would refuse, before the work of making one: what is there
/// already, a parent that is not there or cannot be written to.
pub fn check_folder(path: &Path, force: bool) -> Result<()> {
    if path.symlink_metadata().is_ok() && !(force && is_replaceable(path)) {
        return Err(Error::OutputExists { path: path.to_owned() });
    }
    let probe = durable::temporary(path);
    let parent = durable::parent(path);
    fs::create_dir(&probe)
        .and_then(|()| fs::remove_dir(&probe))
        .map_err(|source| Error::io(parent, source))
}

/// Whether `path` is a tokenizer folder or an empty one: nothing else is ever replaced.
fn is_replaceable(path: &Path) -> bool {
    path.join(LMKIT).is_file()
        || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::io(path, source))
}

pub(crate) fn malformed(path: &Path, why: impl Into<String>) -> Error {
    Error::MalformedFile { path: path.to_owned(), why: why.into() }
}

/// Standard base64 with padding; `None` for anything else.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u32::from(c - b'A')),
        b'a'..=b'z' => Some(u32::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let pads = text.iter().rev().take_while(|&&c| c == b'=').take(2).count();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for (quad, chunk) in (1..).zip(text.chunks_exact(4)) {
        let last = quad == text.len() / 4;
        let keep = if last { 3 - pads } else { 3 };
        let mut word = 0;
        for (place, &c) in chunk.iter().enumerate() {
            let value = if last && place >= 4 - pads { 0 } else { digit(c)? };
            word = word << 6 | value;
        }
        bytes.extend_from_slice(&word.to_be_bytes()[1..=keep]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_reads_what_rank_files_hold() {
        assert_eq!(base64(b"IQ=="), Some(b"!".to_vec()));
        assert_eq!(base64(b"IHQ="), Some(b" t".to_vec()));
        assert_eq!(base64(b"aW5n"), Some(b"ing".to_vec()));
        for bad in [&b""[..], b"IQ=", b"I===", b"I!==", b"IQ==IQ=="] {
            assert_eq!(base64(bad), None, "{bad:?}");
        }
    }
}
