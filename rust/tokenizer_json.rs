//! Hugging Face's `tokenizer.json`: byte-level BPE in, byte-level BPE out.
//!
//! Reads what it can reproduce exactly and refuses the rest by name; writes what Hugging Face
//! `tokenizers` and `transformers` load as it is, giving the same ids.

mod features;
mod splitter;

use std::path::Path;

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use crate::byte_alphabet::unspell;
use crate::error::{Error, Result};
use crate::normalize::Normalizer;
use crate::vocabulary::Vocabulary;
use crate::vocabulary_files::{Entries, OrderedEntries, TokenizerParts, malformed};
use splitter::byte_level;
pub(crate) use splitter::splitter;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    truncation: Value,
    #[serde(default)]
    padding: Value,
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
    #[serde(default)]
    special: bool,
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
    if kind.get("model").is_none()
        && kind.as_object().is_some_and(|entries| entries.values().all(Value::is_i64))
    {
        let why = "a vocabulary without its merges; give the folder that holds both, or both files";
        return Err(malformed(path, why));
    }
    let file: File = serde_json::from_slice(bytes)
        .map_err(|why| malformed(path, format!("not a tokenizer.json of a BPE model: {why}")))?;
    if let Some(why) = features::unsupported(&file) {
        return Err(malformed(path, why));
    }
    let pattern = splitter::pattern_of(&file.pre_tokenizer).map_err(|why| malformed(path, why))?;
    let normalizer =
        features::normalizer_of(&file.normalizer).map_err(|why| malformed(path, why))?;
    let vocabulary = vocabulary_of(path, &file)?.ignoring_merges(file.model.ignore_merges);
    let remarks = features::remarks(&file);
    let special_tokens = file.added_tokens.into_iter().map(|added| (added.content, added.id));
    Ok(TokenizerParts {
        vocabulary,
        special_tokens: special_tokens.collect(),
        pattern: Some(pattern),
        normalizer,
        remarks,
    })
}

fn vocabulary_of(path: &Path, file: &File) -> Result<Vocabulary> {
    let mut tokens: Vec<(u32, Vec<u8>)> = Vec::with_capacity(file.model.vocab.0.len());
    let added: FxHashSet<(&str, u32)> =
        file.added_tokens.iter().map(|token| (token.content.as_str(), token.id)).collect();
    let known: FxHashMap<&str, u32> =
        file.model.vocab.0.iter().map(|(key, id)| (key.as_str(), *id)).collect();
    for (key, id) in &file.model.vocab.0 {
        let text = added.contains(&(key.as_str(), *id));
        let bytes = if text { None } else { unspell(key).ok() };
        if !text && bytes.is_none() && file.model.ignore_merges {
            let why = format!("token {key:?} is not in GPT-2's byte alphabet, so no text gives it");
            return Err(malformed(path, why));
        }
        tokens.push((*id, bytes.unwrap_or_else(|| key.clone().into_bytes())));
    }
    for token in &file.added_tokens {
        match known.get(token.content.as_str()) {
            None => tokens.push((token.id, token.content.clone().into_bytes())),
            Some(id) if *id == token.id => {}
            Some(id) => {
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

/// What a `tokenizer.json` is written from.
pub(crate) struct Content<'p> {
    /// All tokens, special ones included.
    pub(crate) entries: &'p Entries,
    /// The merges, each as its two spellings.
    pub(crate) merges: &'p [(String, String)],
    /// Whether a pretoken that is a token is that token.
    pub(crate) ignore_merges: bool,
    /// Special tokens and their ids.
    pub(crate) special_tokens: &'p [(String, u32)],
    /// The pre-tokenizer.
    pub(crate) splitter: &'p Value,
    /// What is done to text before.
    pub(crate) normalizer: Option<Normalizer>,
}

/// The bytes of a `tokenizer.json`.
pub(crate) fn write(content: &Content<'_>) -> serde_json::Result<Vec<u8>> {
    let Content { entries, merges, ignore_merges, special_tokens, splitter, normalizer } = content;
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
        normalizer: normalizer.map(|normalizer| json!({ "type": normalizer.name() })),
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
            ignore_merges: *ignore_merges,
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
    normalizer: Option<Value>,
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

/// `entries` as one JSON object, in their order.
pub(crate) fn object(entries: &Entries) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Ordered(entries))
}
