//! Counts saved and read again: the same counts, the same bytes, and no damage that goes unseen.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lmkit::count_pretokens::{PretokenCounter, PretokenCounts, Pruned};
use lmkit::counts_file::{read, read_header, write};
use lmkit::error::{ErrorKind, Result};
use lmkit::progress::Progress;
use proptest::prelude::*;

type Words = BTreeMap<Vec<u8>, u64>;

fn save(words: &Words, threads: usize, path: &Path) {
    let mut counters: Vec<_> = (0..threads).map(|_| PretokenCounter::default()).collect();
    for (index, (word, &count)) in words.iter().enumerate() {
        counters[index % threads].add(word, count / 2).unwrap();
        counters[index * 7 / 3 % threads].add(word, count - count / 2).unwrap();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let pruned = Pruned { pretokens: 5, text_bytes: 9, lowest_kept: 2 };
    let counts = PretokenCounts::new(counters);
    let specials = ["<|e|>".to_owned()];
    write(path, &counts, "gpt2", &specials, pruned, &pool, &Progress::default()).unwrap();
}

/// The sums of what a file holds; its words are compared by saving them again.
fn load(path: &Path) -> Result<PretokenCounter> {
    let mut counter = PretokenCounter::default();
    read(path, &mut counter, &Progress::default())?;
    Ok(counter)
}

fn words() -> impl Strategy<Value = Words> {
    let word = prop_oneof![
        prop::collection::vec(prop::sample::select(&b"ab"[..]), 1..6),
        prop::collection::vec(any::<u8>(), 1..40),
    ];
    prop::collection::btree_map(word, prop_oneof![1..300_u64, Just(1 << 40)], 0..30)
}

proptest! {
    #[test]
    fn what_is_read_is_what_was_saved(words in words(), threads in 1..4_usize) {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        save(&words, threads, &one);
        let counter = load(&one).unwrap();
        prop_assert_eq!(counter.pretokens(), words.values().sum::<u64>());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let header = read_header(&one).unwrap();
        let (counts, pruned) = (PretokenCounts::new(vec![counter]), header.pruned());
        let specials = &header.special_tokens;
        write(&other, &counts, &header.pattern, specials, pruned, &pool, &Progress::default())
            .unwrap();
        prop_assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
    }

    #[test]
    fn any_damage_is_found(words in words(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counts");
        save(&words, 1, &path);
        let whole = fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        fs::write(&path, &bytes).unwrap();
        prop_assert_eq!(load(&path).unwrap_err().kind(), ErrorKind::Malformed);
        fs::write(&path, &whole[..at]).unwrap();
        prop_assert_eq!(load(&path).unwrap_err().kind(), ErrorKind::Malformed);
    }
}

#[test]
fn the_bytes_are_those_that_are_documented() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts");
    let words = [(&b"the"[..], 300), (b"then", 1), (b"\xff", 2)];
    save(&words.into_iter().map(|(word, n)| (word.to_vec(), n)).collect(), 2, &path);
    let bytes = fs::read(&path).unwrap();
    let header = concat!(
        r#"{"pattern":"gpt2","special_tokens":["<|e|>"],"pretokens":303,"different":3,"#,
        r#""text_bytes":906,"pruned_pretokens":5,"pruned_text_bytes":9,"lowest_kept":2,"#,
        r#""lmkit_version":""#,
    );
    let header = format!("{header}{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(bytes[..12], *b"\x89lmkcnt\n\x01\0\0\0");
    assert_eq!(bytes[12..16], u32::try_from(header.len()).unwrap().to_le_bytes());
    let (text, rest) = bytes[16..].split_at(header.len());
    assert_eq!(String::from_utf8_lossy(text), header);
    assert_eq!(rest[..rest.len() - 16], *b"\0\x03the\xac\x02\x03\x01n\x01\0\x01\xff\x02");
    let sum = xxhash_rust::xxh3::xxh3_128(&bytes[..bytes.len() - 16]);
    assert_eq!(rest[rest.len() - 16..], sum.to_le_bytes());
}

#[test]
fn what_is_not_a_counts_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts");
    assert_eq!(load(&path).unwrap_err().kind(), ErrorKind::MissingFile);
    for (bytes, why) in [
        (&b"some text"[..], "not a file of counts"),
        (b"\x89lmkcnt\n\x02\0\0\0", "format 2; this lmkit reads 1"),
        (b"\x89lmkcnt\n\x01\0\0\0\xff\xff\xff\xff", "too long"),
        (b"\x89lmkcnt\n\x01\0\0\0\x02\0\0\0{}", "missing field"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = load(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains(why), "{error}");
    }
}
