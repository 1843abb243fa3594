//! Any bytes as a `tokenizer.json`, or as the JSON that checkpoints carry: an error, or a tokenizer
//! that encodes.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lmkit::byte_alphabet::spell;
use lmkit::canonical;
use lmkit::encode::Tokenizer;
use lmkit::special_tokens::SpecialHandling;
use lmkit::vocabulary_files::{self, TokenizerParts};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));

/// The entries of the 256 bytes, which no vocabulary is without and no fuzzer finds.
static BYTES: LazyLock<String> = LazyLock::new(|| {
    let entries = (0..=255_u8).map(|byte| {
        let spelling = spell(&[byte]).replace('\\', r"\\").replace('"', r#"\""#);
        format!("\"{spelling}\":{byte}")
    });
    entries.collect::<Vec<_>>().join(",")
});

/// What the file holds.
#[derive(Debug, Arbitrary)]
enum File<'d> {
    /// Anything.
    Any(&'d [u8]),
    /// A tokenizer but for these parts.
    Parts { vocab: &'d str, merges: &'d str, added: &'d str, splitter: &'d str, more: &'d str },
}

fuzz_target!(|file: File<'_>| {
    let bytes = &*BYTES;
    let json = match file {
        File::Any(json) => json.to_vec(),
        File::Parts { vocab, merges, added, splitter, more } => format!(
            r#"{{"model":{{"type":"BPE","vocab":{{{bytes}{vocab}}},"merges":[{merges}]{more}}},
            "added_tokens":[{added}],"pre_tokenizer":{{"type":"ByteLevel"{splitter}}}}}"#
        )
        .into_bytes(),
    };
    let path = FOLDER.path().join("tokenizer.json");
    fs::write(&path, &json).expect("a write");
    let read = vocabulary_files::read(&path).ok();
    let carried = std::str::from_utf8(&json).ok().and_then(|text| canonical::from_json(text).ok());
    for parts in read.into_iter().chain(carried) {
        check(parts);
    }
});

fn check(parts: TokenizerParts) {
    let again = canonical::from_json(&canonical::to_json(&parts)).expect("what was written");
    assert_eq!(canonical::fingerprint(&again), canonical::fingerprint(&parts));
    if let Ok(tokenizer) = Tokenizer::from_parts(parts) {
        let _ = tokenizer.encode("a text, <|endoftext|> 世界", SpecialHandling::Encode);
    }
}
