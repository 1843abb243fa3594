//! What a `tokenizer.json` asks for beyond vocabulary, merges and pattern: what would change ids and
//! is not to be had is refused by name; what changes none and is not kept is remarked upon.

use serde_json::Value;

use super::{Added, File};
use crate::normalize::Normalizer;

/// The first feature that would change ids and that lmkit does not have.
pub(super) fn unsupported(file: &File) -> Option<String> {
    let model = &file.model;
    if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Some("not a BPE model".into());
    }
    let normalizer = match normalizer_of(&file.normalizer) {
        Ok(normalizer) => normalizer,
        Err(why) => return Some(why),
    };
    if model.dropout.is_some_and(|dropout| dropout > 0.0) {
        return Some("merges with dropout, which gives other ids at every call".into());
    }
    let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|text| !text.is_empty());
    if affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return Some(
            "marks the parts of words (continuing_subword_prefix or end_of_word_suffix), so it is \
             not byte-level BPE"
                .into(),
        );
    }
    if model.byte_fallback {
        return Some(
            "falls back to bytes (byte_fallback), as SentencePiece does, so it is not byte-level BPE"
                .into(),
        );
    }
    if let Some(normalizer) = normalizer
        && let Some(token) = late(&file.added_tokens).find(|t| !normalizer.keeps(&t.content))
    {
        return Some(format!(
            "added token {:?} is \"normalized\": it is searched for after {}, which can make or \
             break it; lmkit searches before",
            token.content,
            normalizer.name()
        ));
    }
    if let Some((first, second)) = overlapping_kinds(&file.added_tokens) {
        return Some(format!(
            "added tokens {first:?} and {second:?} may overlap, and only one of them is \
             \"normalized\": which one wins depends on the order of two searches, which lmkit does \
             not have"
        ));
    }
    let odd = file.added_tokens.iter().find(|t| t.single_word || t.lstrip || t.rstrip)?;
    let flag = if odd.lstrip {
        "takes whitespace before it along (lstrip)"
    } else if odd.rstrip {
        "takes whitespace behind it along (rstrip)"
    } else {
        "matches whole words only (single_word)"
    };
    Some(format!("added token {:?} {flag}, which lmkit's do not", odd.content))
}

/// What is done to text before it is split; or why that cannot be had.
pub(super) fn normalizer_of(normalizer: &Value) -> Result<Option<Normalizer>, String> {
    let steps = match normalizer["type"].as_str() {
        None => return Ok(None),
        Some("Sequence") => {
            normalizer["normalizers"].as_array().map_or(&[][..], |steps| &steps[..])
        }
        Some(_) => std::slice::from_ref(normalizer),
    };
    let names: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("?")).collect();
    let known = match names[..] {
        [] => return Ok(None),
        [only] => Normalizer::new(only),
        _ => None,
    };
    known.map(Some).ok_or_else(|| {
        let names = names.join(", ");
        format!("normalizes text by {names}, which lmkit does not; of normalizers it has NFC alone")
    })
}

/// The added tokens that are searched for last.
fn late(added: &[Added]) -> impl Iterator<Item = &Added> {
    added.iter().filter(|token| token.normalized)
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
    late(added).find_map(|one| {
        let mut early = added.iter().filter(|token| !token.normalized);
        let other = early.find(|other| overlap(&one.content, &other.content))?;
        Some((one.content.as_str(), other.content.as_str()))
    })
}

/// What changes no ids of text and is not kept, a sentence each.
pub(super) fn remarks(file: &File) -> Vec<String> {
    let mut remarks = Vec::new();
    let post = kinds(&file.post_processor, "processors");
    if let Some(kind) = post.iter().find(|&&kind| kind != "ByteLevel") {
        remarks.push(format!(
            "left out: its post-processor ({kind}), which puts special tokens around a text; lmkit \
             puts none"
        ));
    }
    for (name, value) in [("truncation", &file.truncation), ("padding", &file.padding)] {
        if !value.is_null() {
            remarks.push(format!("left out: its {name}"));
        }
    }
    let ordinary: Vec<&Added> = file.added_tokens.iter().filter(|token| !token.special).collect();
    if let Some(first) = ordinary.first() {
        let more = match ordinary.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        remarks.push(format!(
            "added token {:?}{more}: not marked as special there; to lmkit all added tokens are",
            first.content
        ));
    }
    let decoder = kinds(&file.decoder, "decoders");
    if !decoder.is_empty() && decoder != ["ByteLevel"] {
        remarks
            .push(format!("left out: its decoder ({}); lmkit decodes bytes", decoder.join(", ")));
    }
    remarks
}

/// What kinds of steps a part of the file has.
fn kinds<'f>(part: &'f Value, steps: &str) -> Vec<&'f str> {
    match part["type"].as_str() {
        None => Vec::new(),
        Some("Sequence") => {
            let inner = part[steps].as_array().into_iter().flatten();
            inner.filter_map(|step| step["type"].as_str()).collect()
        }
        Some(kind) => vec![kind],
    }
}
