//! A tokenizer as one JSON text: what pickles and checkpoints carry, and what a fingerprint is of.
//!
//! One form for one tokenizer: `{"pattern", "tokens", "merges", "special_tokens"}` in this order and
//! without spaces, tokens as `[id, spelling]` by rising id, merges as `[left id, right id]` in their
//! order (`null` for a rank vocabulary), special tokens as `[text, id]` by rising id. Spellings are
//! GPT-2's, which hold any bytes. `"ignore_merges": true` and `"normalizer": "NFC"` follow where a
//! tokenizer has them, so that the fingerprints of all others stay what they were.

use std::fmt::Write as _;

use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::byte_alphabet::{spell_into, unspell};
use crate::error::{Error, Result};
use crate::normalize::Normalizer;
use crate::vocabulary::{Merge, MergeRule, Vocabulary};
use crate::vocabulary_files::TokenizerParts;

/// As it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Canonical {
    pattern: String,
    tokens: Vec<(u32, String)>,
    merges: Option<Vec<(u32, u32)>>,
    special_tokens: Vec<(String, u32)>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    normalizer: Option<String>,
}

/// As it is written, from where the parts lie.
#[derive(Serialize)]
struct Written<'p> {
    pattern: &'p str,
    tokens: Tokens<'p>,
    merges: Option<Merges<'p>>,
    special_tokens: Vec<&'p (String, u32)>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ignore_merges: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    normalizer: Option<&'static str>,
}

struct Tokens<'p>(&'p Vocabulary);

impl Serialize for Tokens<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut spelling = String::new();
        for (id, token) in self.0.iter() {
            spelling.clear();
            spell_into(token, &mut spelling);
            list.serialize_element(&(id, &spelling))?;
        }
        list.end()
    }
}

struct Merges<'p>(&'p [Merge]);

impl Serialize for Merges<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|merge| (merge.left, merge.right)))
    }
}

/// `parts` in canonical form.
pub fn to_json(parts: &TokenizerParts) -> String {
    let merges = match parts.vocabulary.rule() {
        MergeRule::Merges(merges) => Some(Merges(merges)),
        MergeRule::Ranks => None,
    };
    let mut special_tokens: Vec<_> = parts.special_tokens.iter().collect();
    special_tokens.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    let canonical = Written {
        pattern: parts.pattern.as_deref().unwrap_or("gpt2"),
        tokens: Tokens(&parts.vocabulary),
        merges,
        special_tokens,
        ignore_merges: parts.vocabulary.ignores_merges(),
        normalizer: parts.normalizer.map(Normalizer::name),
    };
    serde_json::to_string(&canonical).unwrap_or_default()
}

/// The parts that `text`, made by [`to_json`], describes.
pub fn from_json(text: &str) -> Result<TokenizerParts> {
    let refuse = |why: String| Error::MalformedFile { path: "tokenizer JSON".into(), why };
    let canonical: Canonical = serde_json::from_str(text).map_err(|why| refuse(why.to_string()))?;
    let mut tokens = Vec::with_capacity(canonical.tokens.len());
    for (id, spelling) in canonical.tokens {
        let bytes = unspell(&spelling)
            .map_err(|c| refuse(format!("token {id}: {c:?} is not in GPT-2's byte alphabet")))?;
        tokens.push((id, bytes));
    }
    let vocabulary = match canonical.merges {
        None => Vocabulary::from_ranks(tokens)?,
        Some(merges) => {
            let ranks = Vocabulary::from_ranks(tokens.iter().cloned())?;
            let side = |id: u32| {
                let token = ranks.token(id).map(<[u8]>::to_vec);
                token.ok_or_else(|| refuse(format!("a merge names id {id}, which has no token")))
            };
            let pairs = merges.into_iter().map(|(left, right)| Ok((side(left)?, side(right)?)));
            Vocabulary::from_merges(tokens, pairs.collect::<Result<Vec<_>>>()?)?
        }
    };
    let normalizer = canonical
        .normalizer
        .map(|name| Normalizer::new(&name).ok_or_else(|| refuse(format!("no normalizer {name:?}"))))
        .transpose()?;
    Ok(TokenizerParts {
        vocabulary: vocabulary.ignoring_merges(canonical.ignore_merges),
        special_tokens: canonical.special_tokens,
        pattern: Some(canonical.pattern),
        normalizer,
        remarks: Vec::new(),
    })
}

/// The sha256 of the canonical form, in hexadecimal.
pub fn fingerprint(parts: &TokenizerParts) -> String {
    Sha256::digest(to_json(parts)).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
