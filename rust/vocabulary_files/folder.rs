//! Tokenizer folders: `vocab.json`, `merges.txt`, `tokenizer.json` and `lmkit.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pair::{assemble, merges_text, read_merges, read_vocab, tokens_of};
use super::{Files, Parted, TokenizerParts, malformed, pair, read_bytes};
use crate::error::Result;
use crate::normalize::Normalizer;
use crate::tokenizer_json;
use crate::vocabulary::{MergeRule, Vocabulary};

/// The files of a tokenizer folder.
const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const TOKENIZER: &str = "tokenizer.json";
pub(super) const LMKIT: &str = "lmkit.json";
/// All of them, and no more.
pub(super) const FILES: [&str; 4] = [VOCAB, MERGES, TOKENIZER, LMKIT];

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
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ignore_merges: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normalizer: Option<String>,
    fingerprint: String,
}

/// Where a folder's merges are.
#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rule {
    /// In `merges.txt`.
    #[default]
    File,
    /// Ids are ranks, and any two tokens merge whose concatenation is one.
    Ranks,
}

impl Rule {
    fn is_file(&self) -> bool {
        *self == Self::File
    }
}

/// Reads a folder that [`files_of`] describes, or what another tool wrote: a folder with a
/// `tokenizer.json`, or else with a vocabulary and merges.
pub(super) fn read(folder: &Path) -> Result<TokenizerParts> {
    let path = folder.join(LMKIT);
    if !path.exists() {
        let json = folder.join(TOKENIZER);
        if json.exists() {
            return tokenizer_json::read(&json, &read_bytes(&json)?);
        }
        for (vocab, merges) in pair::NAMES.map(|(v, m)| (folder.join(v), folder.join(m))) {
            if vocab.exists() && merges.exists() {
                return pair::read_pair(&vocab, &merges, None);
            }
        }
        let why = format!(
            "not a tokenizer folder: it has neither {LMKIT} nor {TOKENIZER}, nor {VOCAB} and {MERGES}"
        );
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
    let normalizer = manifest.normalizer.map(|name| {
        let unknown = || malformed(&path, format!("normalizer {name:?}; this lmkit has NFC alone"));
        Normalizer::new(&name).ok_or_else(unknown)
    });
    Ok(TokenizerParts {
        normalizer: normalizer.transpose()?,
        ..TokenizerParts::new(
            vocabulary.ignoring_merges(manifest.ignore_merges),
            specials,
            Some(manifest.pattern),
        )
    })
}

/// A folder's files, and why some that others read are not among them. Of a vocabulary of ranks the
/// merges are derived for others; `lmkit.json` says that they are not the rule.
pub(super) fn files_of(
    path: &Path,
    parts: &TokenizerParts,
    fingerprint: &str,
) -> Result<(Files, Option<String>)> {
    let parted = Parted::of(parts)?;
    let pattern = parts.pattern.as_deref().unwrap_or("gpt2");
    let is_ranks = *parts.vocabulary.rule() == MergeRule::Ranks;
    let manifest = Manifest {
        format: 1,
        lmkit_version: env!("CARGO_PKG_VERSION").into(),
        pattern: pattern.into(),
        special_tokens: parts.special_tokens.iter().cloned().collect(),
        merges: if is_ranks { Rule::Ranks } else { Rule::File },
        ignore_merges: parts.vocabulary.ignores_merges(),
        normalizer: parts.normalizer.map(|normalizer| normalizer.name().to_owned()),
        fingerprint: fingerprint.into(),
    };
    let json = |why: serde_json::Error| malformed(path, why.to_string());
    let mut files = vec![
        (VOCAB, tokenizer_json::object(&parted.entries).map_err(json)?),
        (LMKIT, serde_json::to_vec_pretty(&manifest).map_err(json)?),
    ];
    // Merges alone would give other ids where whole tokens count that they do not make.
    if !(is_ranks && parted.ignore_merges) {
        files.push((MERGES, merges_text(&parted.merges)));
    }
    let left_out = match tokenizer_json::splitter(pattern) {
        Ok(splitter) => {
            files.push((TOKENIZER, parted.tokenizer_json(parts, &splitter).map_err(json)?));
            None
        }
        Err(why) => Some(format!("no {TOKENIZER}: {why}")),
    };
    Ok((files, left_out))
}
