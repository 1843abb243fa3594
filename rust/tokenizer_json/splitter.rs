//! Hugging Face's pre-tokenizers ↔ patterns: how text is split, in either's words.

use serde_json::{Value, json};

use crate::pretokenize::{O200K, Scheme};
use crate::regex_dialect::to_ruby;

/// `cl100k` in Ruby's dialect, which Hugging Face uses: there `{1,3}+` is no possessive and `$`
/// stands before every newline.
const CL100K_RUBY: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s+\z|\s*[\r\n]|\s+(?!\S)|\s",
);
/// `o200k` needs no translation.
const O200K_RUBY: &str = O200K;
/// What does not split at all.
const WHOLE_TEXT: &str = r"[\s\S]+";

/// The pattern's name or regular expression, from the pre-tokenizer; or why there is none.
pub(super) fn pattern_of(pre_tokenizer: &Value) -> Result<String, String> {
    let steps = steps_of(pre_tokenizer);
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("?")).collect();
    let Some((last, before)) = steps.split_last() else {
        return Err("it has no pre-tokenizer, so it is not byte-level BPE".into());
    };
    if last["type"] != "ByteLevel" {
        let kinds = kinds.join(", ");
        return Err(format!(
            "its pre-tokenizer ({kinds}) is not ByteLevel; lmkit has byte-level BPE only"
        ));
    }
    if last["add_prefix_space"] != false {
        return Err("it puts a space before text (add_prefix_space), which lmkit does not".into());
    }
    let splits = last["use_regex"].as_bool().unwrap_or(true);
    match before {
        [] if splits => Ok("gpt2".into()),
        [] => Ok(WHOLE_TEXT.into()),
        [split] if split["type"] == "Split" && !splits => split_pattern(split),
        _ => {
            Err(format!("it splits in several steps ({}), which lmkit does not", kinds.join(", ")))
        }
    }
}

/// The single steps, of sequences within sequences too.
fn steps_of(pre_tokenizer: &Value) -> Vec<&Value> {
    match pre_tokenizer["type"].as_str() {
        _ if pre_tokenizer.is_null() => Vec::new(),
        Some("Sequence") => {
            let inner = pre_tokenizer["pretokenizers"].as_array().into_iter().flatten();
            inner.flat_map(steps_of).collect()
        }
        _ => vec![pre_tokenizer],
    }
}

fn split_pattern(split: &Value) -> Result<String, String> {
    let Some(regex) = split["pattern"]["Regex"].as_str() else {
        return Err("it splits by a string, which lmkit does not".into());
    };
    let pattern = named(regex)?;
    match (split["behavior"].as_str(), split["invert"].as_bool()) {
        (Some("Isolated"), _) => Ok(pattern),
        // What the pattern does not match is dropped; the known ones match everything.
        (Some("Removed"), Some(true))
            if Scheme::new(&pattern).is_ok_and(|scheme| scheme.is_by_hand()) =>
        {
            Ok(pattern)
        }
        (behavior, _) => Err(format!(
            "its pieces are {}, where lmkit keeps each match and what lies between (Isolated)",
            behavior.unwrap_or("?")
        )),
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

/// How `pattern` splits in Hugging Face's terms; or why there are none.
pub(crate) fn splitter(pattern: &str) -> Result<Value, String> {
    let regex = match pattern {
        "gpt2" => return Ok(byte_level(true)),
        "cl100k" => CL100K_RUBY.to_owned(),
        "o200k" => O200K_RUBY.to_owned(),
        WHOLE_TEXT => return Ok(byte_level(false)),
        regex => to_ruby(regex).map_err(|culprit| {
            format!("its pattern has {culprit}, which Hugging Face's regular expressions read differently")
        })?,
    };
    let split = json!({
        "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false,
    });
    Ok(json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] }))
}

pub(super) fn byte_level(splits: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits })
}
