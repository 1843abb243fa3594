//! Any bytes as vocabulary and merges, or as a rank file: an error, or a tokenizer that is the same
//! when it has been saved and read again.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lmkit::byte_alphabet::spell;
use lmkit::canonical;
use lmkit::encode::Tokenizer;
use lmkit::special_tokens::SpecialHandling;
use lmkit::vocabulary_files::{self, Format, TokenizerParts};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));

/// The entries of the 256 bytes, which no vocabulary is without and no fuzzer finds.
static BYTES: LazyLock<(String, String)> = LazyLock::new(|| {
    let bytes = 0..=255_u8;
    let spelled = bytes.clone().map(|byte| {
        let spelling = spell(&[byte]).replace('\\', r"\\").replace('"', r#"\""#);
        format!("\"{spelling}\":{byte}")
    });
    let ranks = bytes.map(|byte| format!("{} {byte}\n", base64(byte)));
    (spelled.collect::<Vec<_>>().join(","), ranks.collect())
});

/// What the two files hold.
#[derive(Debug, Arbitrary)]
enum Files<'d> {
    /// Anything.
    Pair(&'d [u8], &'d [u8]),
    Ranks(&'d [u8]),
    /// The bytes, and then anything.
    LargerPair(&'d str, &'d [u8]),
    LargerRanks(&'d [u8]),
}

fuzz_target!(|files: Files<'_>| {
    let (vocab, merges) = (FOLDER.path().join("vocab"), FOLDER.path().join("merges"));
    let (spelled, ranks) = &*BYTES;
    let (first, second) = match files {
        Files::Pair(first, second) => (first.to_vec(), Some(second)),
        Files::Ranks(first) => (first.to_vec(), None),
        Files::LargerPair(more, second) => {
            (format!("{{{spelled}{more}}}").into_bytes(), Some(second))
        }
        Files::LargerRanks(more) => ([ranks.as_bytes(), more].concat(), None),
    };
    fs::write(&vocab, first).expect("a write");
    let read = match second {
        None => vocabulary_files::read(&vocab),
        Some(second) => {
            fs::write(&merges, second).expect("a write");
            vocabulary_files::read_pair(&vocab, &merges, None)
        }
    };
    if let Ok(parts) = read {
        check(&parts);
    }
});

/// The base64 of one byte.
fn base64(byte: u8) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |at: u8| char::from(DIGITS[usize::from(at)]);
    format!("{}{}==", digit(byte >> 2), digit(byte << 4 & 0x3f))
}

fn check(parts: &TokenizerParts) {
    let fingerprint = canonical::fingerprint(parts);
    let text = canonical::to_json(parts);
    let again = canonical::from_json(&text).expect("what was written");
    assert_eq!(canonical::fingerprint(&again), fingerprint);
    let folder = FOLDER.path().join("saved");
    // Refused only where two tokens would be spelt alike.
    let write = |path: &Path, format| {
        vocabulary_files::write(path, format, parts, &fingerprint, true).is_ok()
    };
    if write(&folder, Format::Folder) {
        let again = vocabulary_files::read(&folder).expect("what was written");
        assert_eq!(canonical::fingerprint(&again), fingerprint);
    }
    let file = FOLDER.path().join("other");
    for format in [Format::TokenizerJson, Format::RankFile] {
        if write(&file, format) {
            vocabulary_files::read(&file).expect("what was written");
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_parts(parts.clone()) {
        let _ = tokenizer.encode("a text, <|endoftext|> 世界", SpecialHandling::Encode);
    }
}
