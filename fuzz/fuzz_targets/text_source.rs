//! Any bytes as a text file, plain, packed or lines of JSON: an error, or text of which nothing is
//! lost, however it is cut.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lmkit::cut::CutRule;
use lmkit::error::Result;
use lmkit::pretokenize::Scheme;
use lmkit::progress::Progress;
use lmkit::text_source::{Content, DecodeErrors, Slice, SourceOptions, Split, TextSource};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));
const SEPARATOR: &str = "<|e|>";

#[derive(Debug, Arbitrary)]
struct Case<'d> {
    is_jsonl: bool,
    is_split: bool,
    errors: u8,
    slice_bytes: u8,
    skip: u8,
    bytes: &'d [u8],
}

fuzz_target!(|case: Case<'_>| {
    let path = FOLDER.path().join(if case.is_jsonl { "a.jsonl" } else { "a.txt" });
    fs::write(&path, case.bytes).expect("a write");
    let errors = [DecodeErrors::Strict, DecodeErrors::Replace, DecodeErrors::Bytes]
        [usize::from(case.errors % 3)];
    let options = SourceOptions {
        errors,
        slice_bytes: usize::from(case.slice_bytes) + 1,
        max_record_bytes: 1 << 16,
        ..SourceOptions::default()
    };
    let source = TextSource::new(&[path], options).expect("a source");
    let split = Split::new(0.5, Some(SEPARATOR), &[SEPARATOR]).expect("a split");
    let split = case.is_split.then_some(&split);
    let Ok(slices) = read(&source, split, 0) else { return };
    let packed = matches!(case.bytes, [0x1f, 0x8b, ..] | [0x28, 0xb5, ..] | [0x50..=0x5f, ..]);
    if errors != DecodeErrors::Replace && !case.is_jsonl && !packed {
        assert_eq!(slices.concat(), case.bytes);
    }
    let skip = usize::from(case.skip) % (slices.len() + 1);
    let rest = read(&source, split, skip as u64).expect("the same text");
    assert_eq!(rest, slices[skip..], "after {skip} slices");
});

/// The text of each slice after the first `skip`.
fn read(source: &TextSource, split: Option<&Split>, skip: u64) -> Result<Vec<Vec<u8>>> {
    let cut = CutRule::new(Scheme::new("gpt2").expect("a scheme"), [SEPARATOR]).expect("a rule");
    let progress = Progress::default();
    let slices = source.slices(&cut, split, &progress);
    assert!(slices.skip(skip)?, "there are as many");
    let (mut texts, mut slice) = (Vec::new(), Slice::default());
    while slices.next(&mut slice)? {
        let mut text = Vec::new();
        for piece in slice.pieces() {
            match piece.content {
                Content::Text(valid) => text.extend_from_slice(valid.as_bytes()),
                Content::Byte(byte) => text.push(byte),
            }
        }
        texts.push(text);
    }
    Ok(texts)
}
