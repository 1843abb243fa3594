//! Hugging Face's `tokenizer.json`: byte-level BPE in, byte-level BPE out.
//!
//! Reads what it can reproduce exactly and refuses the rest by name; writes what Hugging Face
//! `tokenizers` and `transformers` load as it is, giving the same ids.

use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::byte_alphabet::unspell;
use crate::error::{Error, Result};
use crate::regex_dialect::to_ruby;
use crate::vocabulary::Vocabulary;
use crate::vocabulary_files::{Entries, OrderedEntries, TokenizerParts, malformed};

/// `cl100k` in Ruby's dialect, which Hugging Face uses: there `{1,3}+` is no possessive and `$`
/// stands before every newline.
const CL100K_RUBY: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s",
);
/// `o200k` needs no translation.
const O200K_RUBY: &str = crate::pretokenize::O200K;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the fields of the format")]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    vocab: OrderedEntries,
    merges: Vec<Pair>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Joined(String),
    Sides(String, String),
}

/// Reads `bytes`, the content of the file at `path`.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<TokenizerParts> {
    let kind = serde_json::from_slice::<Value>(bytes)
        .map_err(|why| malformed(path, format!("not a tokenizer.json: {why}")))?;
    if let Some(kind) = kind["model"]["type"].as_str().filter(|&kind| kind != "BPE") {
        let why = format!("a {kind} model; lmkit has byte-level BPE only");
        return Err(malformed(path, why));
    }
    let file: File = serde_json::from_slice(bytes)
        .map_err(|why| malformed(path, format!("not a tokenizer.json of a BPE model: {why}")))?;
    if let Some(why) = unsupported(&file) {
        return Err(malformed(path, why));
    }
    let pattern = pattern_of(&file.pre_tokenizer).map_err(|why| malformed(path, why))?;
    let vocabulary = vocabulary_of(path, &file)?;
    let special_tokens = file.added_tokens.into_iter().map(|added| (added.content, added.id));
    Ok(TokenizerParts {
        vocabulary,
        special_tokens: special_tokens.collect(),
        pattern: Some(pattern),
    })
}

/// The first feature that would change ids and that lmkit does not have.
fn unsupported(file: &File) -> Option<String> {
    let model = &file.model;
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Some("not a BPE model".into());
    }
    if !file.normalizer.is_null() {
        return Some(format!(
            "has a normalizer ({}), which lmkit does not",
            file.normalizer["type"]
        ));
    }
    if model.dropout.is_some_and(|dropout| dropout > 0.0) {
        return Some("merges with dropout, which gives other ids at every call".into());
    }
    let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|text| !text.is_empty());
    if affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return Some("marks the parts of words, so it is not byte-level BPE".into());
    }
    if model.byte_fallback {
        return Some("falls back to bytes, so it is not byte-level BPE".into());
    }
    if model.ignore_merges {
        return Some(
            "takes whole words before merging (ignore_merges), which lmkit does not".into(),
        );
    }
    if let Some((first, second)) = overlapping_kinds(&file.added_tokens) {
        return Some(format!(
            "added tokens {first:?} and {second:?} may overlap, and only one of them is \
             \"normalized\": which one wins depends on the order of two searches, which lmkit does \
             not have"
        ));
    }
    let odd = file.added_tokens.iter().find(|t| t.single_word || t.lstrip || t.rstrip)?;
    Some(format!(
        "added token {:?} strips or matches whole words, which lmkit does not",
        odd.content
    ))
}

/// Two added tokens that can overlap in a text and are searched for one kind after the other.
fn overlapping_kinds(added: &[Added]) -> Option<(&str, &str)> {
    let overlap = |one: &str, other: &str| {
        one.contains(other)
            || other.contains(one)
            || (1..one.len().min(other.len())).any(|shared| {
                one.as_bytes().ends_with(&other.as_bytes()[..shared])
                    || other.as_bytes().ends_with(&one.as_bytes()[..shared])
            })
    };
    let (late, early): (Vec<_>, Vec<_>) = added.iter().partition(|token| token.normalized);
    late.iter().find_map(|one| {
        let other = early.iter().find(|other| overlap(&one.content, &other.content))?;
        Some((one.content.as_str(), other.content.as_str()))
    })
}

/// The pattern's name or regular expression, from the pre-tokenizer.
fn pattern_of(pre_tokenizer: &Value) -> Result<String, String> {
    let steps: Vec<&Value> = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => {
            pre_tokenizer["pretokenizers"].as_array().into_iter().flatten().collect()
        }
        _ => vec![pre_tokenizer],
    };
    let byte_level = |step: &Value, splits: bool| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] == false
            && step["use_regex"].as_bool().unwrap_or(true) == splits
    };
    match steps[..] {
        [only] if byte_level(only, true) => Ok("gpt2".into()),
        [split, last]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] == false
                && byte_level(last, false) =>
        {
            match split["pattern"]["Regex"].as_str() {
                Some(regex) => named(regex),
                None => Err("splits by a string, which lmkit does not".into()),
            }
        }
        _ => Err("its pre-tokenizer is not byte-level splitting by one pattern".into()),
    }
}

/// The name of a known pattern, or one that means to us what it means to Hugging Face.
fn named(regex: &str) -> Result<String, String> {
    match regex {
        CL100K_RUBY => Ok("cl100k".into()),
        O200K_RUBY => Ok("o200k".into()),
        _ if to_ruby(regex).as_deref() == Ok(regex) => Ok(regex.into()),
        _ => {
            Err(format!("its pattern {regex:?} holds what Hugging Face and lmkit read differently"))
        }
    }
}

fn vocabulary_of(path: &Path, file: &File) -> Result<Vocabulary> {
    let mut tokens: Vec<(u32, Vec<u8>)> = Vec::with_capacity(file.model.vocab.0.len());
    let added =
        |id: u32, key: &str| file.added_tokens.iter().any(|t| t.id == id && t.content == key);
    for (key, id) in &file.model.vocab.0 {
        let text = added(*id, key);
        let bytes = if text { None } else { unspell(key).ok() };
        tokens.push((*id, bytes.unwrap_or_else(|| key.clone().into_bytes())));
    }
    for token in &file.added_tokens {
        let known = file.model.vocab.0.iter().find(|(key, _)| *key == token.content);
        match known {
            None => tokens.push((token.id, token.content.clone().into_bytes())),
            Some((_, id)) if *id == token.id => {}
            Some((_, id)) => {
                let why = format!("added token {:?} has ids {id} and {}", token.content, token.id);
                return Err(malformed(path, why));
            }
        }
    }
    let mut merges = Vec::with_capacity(file.model.merges.len());
    for (place, pair) in file.model.merges.iter().enumerate() {
        let sides = match pair {
            Pair::Joined(text) => text.split_once(' '),
            Pair::Sides(left, right) => Some((left.as_str(), right.as_str())),
        };
        let bytes = sides.and_then(|(l, r)| Some((unspell(l).ok()?, unspell(r).ok()?)));
        merges.push(bytes.ok_or_else(|| {
            malformed(path, format!("merge {place} is not two tokens in GPT-2's byte alphabet"))
        })?);
    }
    Vocabulary::from_merges(tokens, merges).map_err(|error| match error {
        Error::UnknownMergeToken { .. } => malformed(path, error.to_string()),
        other => malformed(path, other.to_string()),
    })
}

/// How `pattern` splits in Hugging Face's terms; or why there are none.
pub(crate) fn splitter(pattern: &str) -> Result<Value, String> {
    let regex = match pattern {
        "gpt2" => return Ok(byte_level(true)),
        "cl100k" => CL100K_RUBY.to_owned(),
        "o200k" => O200K_RUBY.to_owned(),
        regex => to_ruby(regex).map_err(|culprit| {
            format!("its pattern has {culprit}, which Hugging Face's regular expressions read differently")
        })?,
    };
    let split = json!({
        "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false,
    });
    Ok(json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] }))
}

/// The bytes of a `tokenizer.json`.
pub(crate) fn write(
    entries: &Entries,
    merges: &[(String, String)],
    special_tokens: &[(String, u32)],
    splitter: &Value,
) -> serde_json::Result<Vec<u8>> {
    let added: Vec<Value> = special_tokens
        .iter()
        .map(|(content, id)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true,
            })
        })
        .collect();
    let file = Written {
        version: "1.0",
        truncation: None,
        padding: None,
        added_tokens: added,
        normalizer: None,
        pre_tokenizer: splitter,
        post_processor: None,
        decoder: byte_level(true),
        model: WrittenModel {
            kind: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: false,
            vocab: Ordered(entries),
            merges,
        },
    };
    serde_json::to_vec(&file)
}

/// A `tokenizer.json` as it is written: in this order, and without a tree of it in memory.
#[derive(Serialize)]
struct Written<'w> {
    version: &'w str,
    truncation: Option<()>,
    padding: Option<()>,
    added_tokens: Vec<Value>,
    normalizer: Option<()>,
    pre_tokenizer: &'w Value,
    post_processor: Option<()>,
    decoder: Value,
    model: WrittenModel<'w>,
}

#[derive(Serialize)]
struct WrittenModel<'w> {
    #[serde(rename = "type")]
    kind: &'w str,
    dropout: Option<()>,
    unk_token: Option<()>,
    continuing_subword_prefix: Option<()>,
    end_of_word_suffix: Option<()>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ordered<'w>,
    merges: &'w [(String, String)],
}

/// Entries as one JSON object, in their order.
struct Ordered<'w>(&'w Entries);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, id)| (key, id)))
    }
}

fn byte_level(splits: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits })
}

/// `entries` as one JSON object, in their order.
pub(crate) fn object(entries: &Entries) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Ordered(entries))
}
