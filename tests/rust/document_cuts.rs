//! Inputs are cut into shards where documents end, as the encoder sees them, and nowhere else.

use std::fs;
use std::path::PathBuf;

use aho_corasick::{AhoCorasick, MatchKind};
use lmkit::progress::Progress;
use lmkit::text_source::{Cut, SourceOptions, TextSource};
use proptest::prelude::*;
use tempfile::TempDir;

const SEPARATOR: &str = "<|e|>";
/// Some that begin, end or hold the separator, so that it may not be what the encoder takes.
const SPECIALS: [&str; 5] = [SEPARATOR, "<|e|><|e|>", "a<|e", "|>b", "<|other|>"];

fn cuts(texts: &[String], ending: &str, count: usize, specials: &[&str]) -> Vec<Cut> {
    let folder = TempDir::new().unwrap();
    let paths: Vec<PathBuf> =
        (0..texts.len()).map(|n| folder.path().join(format!("{n:03}.{ending}"))).collect();
    for (path, text) in paths.iter().zip(texts) {
        fs::write(path, text).unwrap();
    }
    let source = TextSource::new(&paths, SourceOptions::default()).unwrap();
    let separator = specials.first().copied();
    source.document_cuts(count, separator, specials, &Progress::default()).unwrap()
}

fn check_order(cuts: &[Cut], count: usize, texts: &[String]) {
    assert_eq!(cuts.len(), count + 1);
    assert_eq!((cuts[0], cuts[count]), (Cut::default(), Cut { input: texts.len(), offset: 0 }));
    assert!(cuts.is_sorted(), "{cuts:?}");
    for cut in cuts.iter().filter(|cut| cut.offset > 0) {
        assert!(cut.offset < texts[cut.input].len() as u64, "{cut:?}");
    }
}

proptest! {
    #[test]
    fn texts_are_cut_where_the_encoder_sees_a_separator(
        texts in prop::collection::vec("((<\\|e\\|>)|(<\\|other\\|>)|[ab<|>]){0,60}", 1..5),
        count in 1..9_usize,
        many in any::<bool>(),
    ) {
        let specials = if many { &SPECIALS[..] } else { &SPECIALS[..1] };
        let found = cuts(&texts, "txt", count, specials);
        check_order(&found, count, &texts);
        let encoder =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(specials).unwrap();
        for cut in found.iter().filter(|cut| cut.offset > 0) {
            let ends: Vec<u64> = encoder
                .find_iter(&texts[cut.input])
                .filter(|found| found.pattern().as_u32() == 0)
                .map(|found| found.end() as u64)
                .collect();
            prop_assert!(ends.contains(&cut.offset), "{cut:?} of {:?}", texts[cut.input]);
        }
    }

    #[test]
    fn records_are_cut_where_lines_end(
        texts in prop::collection::vec("(\\{\"text\": \"a{0,9}\"\\}\n{1,3}){0,9}", 1..5),
        count in 1..9_usize,
    ) {
        let found = cuts(&texts, "jsonl", count, &[]);
        check_order(&found, count, &texts);
        for cut in found.iter().filter(|cut| cut.offset > 0) {
            let before = &texts[cut.input].as_bytes()[..usize::try_from(cut.offset).unwrap()];
            prop_assert_eq!(before.last(), Some(&b'\n'));
        }
    }
}

#[test]
fn parts_are_about_equal() {
    let document = format!("{}{SEPARATOR}", "x".repeat(995));
    let found = cuts(&[document.repeat(1000)], "txt", 10, &[SEPARATOR]);
    let offsets: Vec<u64> = found.iter().take(10).map(|cut| cut.offset).collect();
    assert_eq!(offsets, (0..10).map(|part| part * 100_000).collect::<Vec<u64>>());
}

#[test]
fn an_end_is_found_far_beyond_the_aim() {
    let long = format!("{}{SEPARATOR}rest", "x".repeat(9_000_000));
    let end = Cut { input: 0, offset: 9_000_000 + SEPARATOR.len() as u64 };
    let after = Cut { input: 1, offset: 0 };
    assert_eq!(cuts(&[long], "txt", 3, &[SEPARATOR]), [Cut::default(), end, end, after]);
}

#[test]
fn one_document_stays_whole() {
    let texts = vec!["x".repeat(100), "y".repeat(300)];
    let found = cuts(&texts, "txt", 4, &[]);
    let places: Vec<_> = found.iter().map(|cut| (cut.input, cut.offset)).collect();
    assert_eq!(places, [(0, 0), (1, 0), (1, 0), (2, 0), (2, 0)]);
}
