//! Files → slices: nothing is lost, doubled or cut in two, whatever the slice size and threads.

use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::{Arc, Mutex};

use flate2::Compression;
use flate2::write::GzEncoder;
use lmkit::cut::CutRule;
use lmkit::error::{Error, Result};
use lmkit::pretokenize::Scheme;
use lmkit::progress::Progress;
use lmkit::text_source::{
    Content, DecodeErrors, RowBatch, RowFormat, RowReader, Slice, SourceOptions, Split, TextSource,
};
use proptest::prelude::*;
use tempfile::TempDir;

const SEPARATOR: &str = "<|e|>";

fn options(slice_bytes: usize) -> SourceOptions {
    SourceOptions { slice_bytes, ..SourceOptions::default() }
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Document {
    bytes: Vec<u8>,
    /// Bytes of each piece.
    pieces: Vec<usize>,
    in_validation: bool,
}

/// Reads everything on `threads` threads and puts the documents together again.
fn read_with(
    paths: &[PathBuf],
    options: SourceOptions,
    split: Option<&Split>,
    threads: usize,
) -> Result<Vec<Document>> {
    let cut = CutRule::new(Scheme::new("gpt2").unwrap(), [SEPARATOR]).unwrap();
    let progress = Progress::default();
    let source = TextSource::new(paths, options)?;
    let slices = source.slices(&cut, split, &progress);
    let read = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut slice = Slice::default();
                loop {
                    let end = match slices.next(&mut slice) {
                        Ok(true) => false,
                        Ok(false) => break,
                        Err(error) => {
                            read.lock().unwrap().push((slice.number(), Err(error)));
                            true
                        }
                    };
                    if end {
                        break;
                    }
                    let pieces: Vec<_> = slice
                        .pieces()
                        .map(|piece| {
                            let bytes = match piece.content {
                                Content::Text(text) => text.as_bytes().to_vec(),
                                Content::Byte(byte) => vec![byte],
                            };
                            let flags = (piece.starts_document, piece.ends_document);
                            (bytes, flags, piece.in_validation)
                        })
                        .collect();
                    read.lock().unwrap().push((slice.number(), Ok(pieces)));
                }
            });
        }
    });
    let mut read = read.into_inner().unwrap();
    read.sort_by_key(|(number, _)| *number);
    let mut documents: Vec<Document> = Vec::new();
    let mut is_open = false;
    for (place, (number, pieces)) in read.into_iter().enumerate() {
        assert_eq!(number, place as u64, "slices are numbered without gaps");
        for (bytes, (starts, ends), in_validation) in pieces? {
            assert_eq!(starts, !is_open, "a document starts where none is open");
            is_open = !ends;
            if starts {
                documents.push(Document { in_validation, ..Document::default() });
            }
            let document = documents.last_mut().unwrap();
            document.pieces.push(bytes.len());
            document.bytes.extend(bytes);
            assert_eq!(document.in_validation, in_validation);
        }
    }
    assert!(!is_open, "every document ends");
    assert!(split.is_some() || progress.read().1 >= source.total_bytes());
    Ok(documents)
}

fn texts(paths: &[PathBuf], options: SourceOptions) -> Vec<String> {
    let documents = read_with(paths, options, None, 2).unwrap();
    documents.into_iter().map(|document| String::from_utf8(document.bytes).unwrap()).collect()
}

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn some_text() -> String {
    let mut text = String::new();
    for i in 0..500 {
        write!(text, "word{i} déjà\u{3000}vu {SEPARATOR}\n\n  l'été 日本語 {i}\t").unwrap();
    }
    text
}

#[test]
fn any_slice_size_and_thread_count_reads_the_whole_text() {
    let folder = TempDir::new().unwrap();
    let text = some_text();
    let path = write(&folder, "a.txt", &text);
    for slice_bytes in [1, 2, 3, 7, 64, 1000, 1 << 20] {
        for threads in [1, 2, 5] {
            let read = read_with(from_ref(&path), options(slice_bytes), None, threads).unwrap();
            assert_eq!(read.len(), 1);
            assert_eq!(String::from_utf8(read[0].bytes.clone()).unwrap(), text);
            if slice_bytes == 64 {
                assert!(read[0].pieces.len() > 100, "it is cut: {:?}", read[0].pieces);
            }
        }
    }
}

#[test]
fn compressed_files_read_like_plain_ones() {
    let folder = TempDir::new().unwrap();
    let text = some_text();
    // In the middle of a character.
    let (first, second) = text.as_bytes().split_at(text.find("déjà").unwrap() + 2);
    let paths = [
        write(&folder, "one.gz", gzip(text.as_bytes())),
        write(&folder, "members", [gzip(first), gzip(second)].concat()),
        write(&folder, "one.zst", zstd(text.as_bytes())),
        write(&folder, "frames", [zstd(first), zstd(second)].concat()),
    ];
    for slice_bytes in [64, 1 << 20] {
        assert_eq!(texts(&paths, options(slice_bytes)), vec![text.clone(); 4]);
    }
}

#[test]
fn truncated_and_damaged_archives_are_malformed() {
    let folder = TempDir::new().unwrap();
    let text = some_text();
    for (format, archive) in [("gzip", gzip(text.as_bytes())), ("zstd", zstd(text.as_bytes()))] {
        for cut in [5, archive.len() / 2, archive.len() - 3] {
            let path = write(&folder, "cut", &archive[..cut]);
            let error = read_with(&[path], options(1 << 20), None, 2).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, Error::MalformedFile { .. }), "{error:?}");
            assert!(text.contains(&format!("the {format} data is cut off")), "{text}");
        }
        let mut damaged = archive.clone();
        damaged[archive.len() / 2] ^= 0x55;
        let path = write(&folder, "damaged", damaged);
        let error = read_with(&[path], options(1 << 20), None, 2).unwrap_err();
        assert!(matches!(error, Error::MalformedFile { .. } | Error::NotUtf8 { .. }), "{error:?}");
    }
}

#[test]
fn folders_are_read_recursively_in_order_and_what_is_no_text_is_named() {
    let folder = TempDir::new().unwrap();
    write(&folder, "b.txt", "b");
    write(&folder, "a/z.txt", "az");
    write(&folder, "a/b/c.txt", "abc");
    write(&folder, "d.txt.gz", gzip(b"d"));
    write(&folder, "empty", "");
    write(&folder, "picture.png", b"\x89PNG\0\0");
    write(&folder, ".hidden", "hidden");
    let root = folder.path().to_owned();
    let expected = ["abc", "az", "b", "d", ""];
    assert_eq!(texts(from_ref(&root), options(1 << 20)), expected);
    assert_eq!(texts(from_ref(&root), options(1)), expected);

    let source = TextSource::new(from_ref(&root), options(1 << 20)).unwrap();
    assert!(source.has_documents());
    assert_eq!(source.skipped(), [root.join(".hidden")]);
    let cut = CutRule::new(Scheme::new("gpt2").unwrap(), [SEPARATOR]).unwrap();
    let progress = Progress::default();
    let slices = source.slices(&cut, None, &progress);
    while slices.next(&mut Slice::default()).unwrap() {}
    assert_eq!(slices.not_text(), [root.join("picture.png")]);
}

#[test]
fn a_folder_is_read_by_the_order_of_whole_paths() {
    let folder = TempDir::new().unwrap();
    let names = ["a.txt", "a/b.c", "a/b/c", "a-b", "a!/x", "B/é", "a/é", "aa/1", "b", "é"];
    let mut paths: Vec<PathBuf> = names.iter().map(|name| write(&folder, name, name)).collect();
    paths.sort();
    for root in [folder.path().to_owned(), folder.path().join("")] {
        let source = TextSource::new(&[root], options(1 << 20)).unwrap();
        let found: Vec<&Path> = source.inputs().iter().map(|input| input.path.as_path()).collect();
        assert_eq!(found, paths);
    }
}

/// What comes of a folder whose file `a` changes between listing and reading.
fn read_after(change: impl Fn(&Path)) -> Result<Vec<String>> {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a", "as it was");
    write(&folder, "b", "another");
    let source = TextSource::new(&[folder.path().to_owned()], options(1 << 10)).unwrap();
    change(&path);
    let cut = CutRule::new(Scheme::new("gpt2").unwrap(), [SEPARATOR]).unwrap();
    let progress = Progress::default();
    let slices = source.slices(&cut, None, &progress);
    let (mut slice, mut read) = (Slice::default(), String::new());
    while slices.next(&mut slice)? {
        for piece in slice.pieces() {
            read += if piece.starts_document { "|" } else { "" };
            read += match piece.content {
                Content::Text(text) => text,
                Content::Byte(_) => "?",
            };
        }
    }
    Ok(read.split('|').skip(1).map(str::to_owned).collect())
}

#[test]
fn a_small_file_is_read_as_it_is_when_it_is_opened() {
    assert_eq!(read_after(|_| ()).unwrap(), ["as it was", "another"]);
    for now in ["", "as", "as it was.", &"word ".repeat(10_000)] {
        let read = read_after(|path| fs::write(path, now).unwrap()).unwrap();
        assert_eq!(read, [now, "another"]);
    }
    let packed = gzip("word ".repeat(10_000).as_bytes());
    let read = read_after(|path| fs::write(path, &packed).unwrap()).unwrap();
    assert_eq!(read[0], "word ".repeat(10_000));
    let large = "word ".repeat((16 << 20) / 5 + 1);
    for (now, expected) in [
        (large.as_bytes(), "has grown since the run began"),
        (&gzip(large.as_bytes()), "more than 16 MB of text; under a name that ends in .gz"),
    ] {
        let error = read_after(|path| fs::write(path, now).unwrap()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let read = read_after(|path| fs::write(path, b"as\0it was").unwrap()).unwrap();
    assert_eq!(read, ["another"], "it is no text any more");
    let error = read_after(|path| fs::remove_file(path).unwrap()).unwrap_err();
    assert!(matches!(error, Error::MissingFile { .. }), "{error:?}");
    let error = read_after(|path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    });
    assert!(error.unwrap_err().to_string().contains("a: is a folder"));
}

#[test]
fn small_files_of_every_kind_come_in_order_whatever_the_slices() {
    let folder = TempDir::new().unwrap();
    let mut expected = Vec::new();
    for number in 0..200 {
        let text = format!("{number} é ").repeat(number * 7 % 60);
        match number % 10 {
            3 => drop(write(&folder, &format!("{number:03}.gz"), gzip(text.as_bytes()))),
            // Compressed, and not named so.
            5 => drop(write(&folder, &format!("{number:03}"), zstd(text.as_bytes()))),
            7 => {
                write(&folder, &format!("{number:03}"), format!("{text}\0"));
                continue;
            }
            _ => drop(write(&folder, &format!("{number:03}"), &text)),
        }
        expected.push(text);
    }
    let root = [folder.path().to_owned()];
    for slice_bytes in [1, 10, 100, 1000, 1 << 20] {
        assert_eq!(texts(&root, options(slice_bytes)), expected);
    }
}

#[test]
fn globs_match_files_and_a_name_with_brackets_is_a_name() {
    let folder = TempDir::new().unwrap();
    write(&folder, "x2.txt", "2");
    write(&folder, "x1.txt", "1");
    write(&folder, "sub/x3.txt", "3");
    let odd = write(&folder, "odd[1].txt", "odd");
    assert_eq!(texts(&[folder.path().join("x*.txt")], options(9)), ["1", "2"]);
    assert_eq!(texts(&[folder.path().join("**/x*.txt")], options(9)), ["3", "1", "2"]);
    assert_eq!(texts(&[odd], options(9)), ["odd"]);
    let missing = TextSource::new(&[folder.path().join("y*")], options(9)).unwrap_err();
    assert!(matches!(missing, Error::MissingFile { .. }), "{missing:?}");
}

#[test]
fn json_lines_give_their_field() {
    let folder = TempDir::new().unwrap();
    let lines = "{\"text\": \"a b\\nc\"}\r\n\n{\"id\": 1, \"text\": \"\"}\n{\"text\":\"\\u00e9\"}";
    let plain = write(&folder, "a.jsonl", lines);
    let packed = write(&folder, "b.jsonl.gz", gzip(lines.as_bytes()));
    for slice_bytes in [1, 10, 1 << 20] {
        let read = texts(&[plain.clone(), packed.clone()], options(slice_bytes));
        assert_eq!(read, ["a b\nc", "", "é", "a b\nc", "", "é"]);
    }
    let body = write(&folder, "c.jsonl", "{\"body\": \"x\"}\n");
    let text_field = Some("body".to_owned());
    assert_eq!(texts(from_ref(&body), SourceOptions { text_field, ..options(9) }), ["x"]);
    let error = read_with(&[body], options(9), None, 1).unwrap_err().to_string();
    assert!(
        error.ends_with("line 1: no field \"text\"; --text_field names the field with the text")
    );

    let bad = write(&folder, "d.jsonl", "{\"text\": \"fine\"}\n{\"text\": 7}\n");
    let error = read_with(&[bad], options(9), None, 1).unwrap_err().to_string();
    assert!(error.contains("line 2: invalid type: integer `7`, expected a string"), "{error}");
    let half = write(&folder, "e.jsonl", "{\"text\": \"\\ud800\"}\n");
    let error = read_with(&[half], options(9), None, 1).unwrap_err().to_string();
    assert!(error.contains("line 1: half a surrogate pair"), "{error}");
}

#[test]
fn a_long_record_comes_in_pieces() {
    let folder = TempDir::new().unwrap();
    let text = "word ".repeat(1000);
    let path = write(&folder, "a.jsonl", format!("{{\"text\": \"{text}\"}}\n"));
    let read = read_with(&[path], options(100), None, 1).unwrap();
    assert_eq!(read[0].bytes, text.as_bytes());
    assert!(read[0].pieces.iter().all(|&bytes| bytes <= 200), "{:?}", read[0].pieces);
}

#[test]
fn text_field_without_json_lines_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.txt", "a");
    let text_field = Some("text".to_owned());
    let error = TextSource::new(&[path], SourceOptions { text_field, ..options(9) }).unwrap_err();
    assert!(error.to_string().contains("--text_field text has no effect"), "{error}");
}

fn place_of(error: &Error) -> (u64, u64) {
    match error {
        Error::NotUtf8 { line, offset, .. } => (*line, *offset),
        other => panic!("{other:?}"),
    }
}

#[test]
fn invalid_utf8_is_found_with_line_and_offset_wherever_it_stands() {
    let folder = TempDir::new().unwrap();
    let valid = "line one é\nline two\n".repeat(50);
    for at in [0, 11, 500, 650, valid.len()] {
        let mut text = valid.clone().into_bytes();
        text.insert(at, 0xff);
        let line = 1 + memchr::memchr_iter(b'\n', &text[..at]).count() as u64;
        let paths = [
            write(&folder, "a.txt", &text),
            write(&folder, "a.gz", gzip(&text)),
            write(&folder, "a.zst", zstd(&text)),
        ];
        for path in paths {
            for slice_bytes in [1, 16, 64, 300, 1 << 20] {
                let error = read_with(from_ref(&path), options(slice_bytes), None, 3).unwrap_err();
                assert_eq!(place_of(&error), (line, at as u64), "{error} slices {slice_bytes}");
            }
        }
    }
    let line = write(&folder, "a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n");
    let error = read_with(&[line], options(64), None, 1).unwrap_err();
    assert_eq!(place_of(&error), (2, 24));
}

#[test]
fn half_characters_at_the_border_of_two_files_do_not_make_a_whole_one() {
    let folder = TempDir::new().unwrap();
    let paths = [write(&folder, "a", b"x\xc3"), write(&folder, "b", b"\xa9y")];
    let error = read_with(&paths, options(1 << 20), None, 1).unwrap_err();
    assert!(error.to_string().contains("a: not UTF-8 at line 1, byte offset 1"), "{error}");
}

#[test]
fn invalid_bytes_are_replaced_or_kept_as_asked() {
    let folder = TempDir::new().unwrap();
    let raw = b"a \xf0\x9f\x98 b\xff\xfe c \xed\xa0\x80 d \xe2\x82";
    let path = write(&folder, "a", raw);
    let line = write(&folder, "b.jsonl", [b"{\"text\": \"", &raw[..], b"\"}"].concat());
    let expected = String::from_utf8_lossy(raw).into_owned();
    for slice_bytes in [1, 3, 1 << 20] {
        let paths = [path.clone(), line.clone()];
        let replace = SourceOptions { errors: DecodeErrors::Replace, ..options(slice_bytes) };
        assert_eq!(texts(&paths, replace), [expected.clone(), expected.clone()]);
        let bytes = SourceOptions { errors: DecodeErrors::Bytes, ..options(slice_bytes) };
        for document in read_with(&paths, bytes, None, 2).unwrap() {
            assert_eq!(document.bytes, raw);
        }
    }
}

#[test]
fn a_stretch_longer_than_a_record_may_be_is_refused_wherever_it_stands() {
    let folder = TempDir::new().unwrap();
    let text = format!("{} {} {}", "ab ".repeat(40), "x".repeat(300), "cd ".repeat(200));
    let paths = [write(&folder, "a.txt", &text), write(&folder, "a.gz", gzip(text.as_bytes()))];
    for path in paths {
        for slice_bytes in [10, 64, 100, 250, 1 << 20] {
            let limited =
                |max_record_bytes| SourceOptions { max_record_bytes, ..options(slice_bytes) };
            let error = read_with(from_ref(&path), limited(290), None, 2).unwrap_err();
            assert!(
                error.to_string().contains("from byte offset 119 on, more than 290 bytes"),
                "{error} slices {slice_bytes}"
            );
            let read = read_with(from_ref(&path), limited(302), None, 2).unwrap();
            assert_eq!(read[0].bytes, text.as_bytes());
        }
    }
    let line = write(&folder, "a.jsonl", format!("{{\"text\": \"{}\"}}", "x ".repeat(200)));
    let limited = SourceOptions { max_record_bytes: 100, ..options(1 << 20) };
    let error = read_with(&[line], limited, None, 1).unwrap_err();
    assert!(error.to_string().contains("more than 100 bytes"), "{error}");
}

#[test]
fn a_file_that_changes_its_size_is_an_error() {
    let folder = TempDir::new().unwrap();
    for grows in [false, true] {
        let path = write(&folder, "a.txt", "word ".repeat(1000));
        let source = TextSource::new(from_ref(&path), options(100)).unwrap();
        let cut = CutRule::new(Scheme::new("gpt2").unwrap(), [SEPARATOR]).unwrap();
        let progress = Progress::default();
        let slices = source.slices(&cut, None, &progress);
        let mut slice = Slice::default();
        assert!(slices.next(&mut slice).unwrap());
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(if grows { 6000 } else { 4000 })
            .unwrap();
        let error = loop {
            match slices.next(&mut slice) {
                Ok(true) => {}
                Ok(false) => panic!("the change went unseen"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("changed its size"), "{error}");
    }
}

#[test]
fn documents_are_split_whole_and_the_same_way_whatever_the_slices() {
    let folder = TempDir::new().unwrap();
    let mut text = String::new();
    for i in 0..400 {
        write!(text, "document {i} {}{SEPARATOR}", "and so on ".repeat(i * 7 % 800)).unwrap();
    }
    let documents: Vec<&str> = text.split_inclusive(SEPARATOR).collect();
    let plain = write(&folder, "a.txt", &text);
    let packed = write(&folder, "a.gz", gzip(text.as_bytes()));
    let split = Split::new(0.2, Some(SEPARATOR), &[SEPARATOR, "<|e|><|e|>"]).unwrap();
    let expected = read_with(from_ref(&plain), options(1 << 20), Some(&split), 1).unwrap();
    let read: Vec<&str> = expected.iter().map(|d| std::str::from_utf8(&d.bytes).unwrap()).collect();
    assert_eq!(read, documents);
    let chosen = expected.iter().filter(|document| document.in_validation).count();
    assert!((40..120).contains(&chosen), "{chosen} of 400");
    for (path, slice_bytes) in [(&plain, 50), (&plain, 5000), (&packed, 50), (&packed, 5000)] {
        let read = read_with(from_ref(path), options(slice_bytes), Some(&split), 3).unwrap();
        let same = read
            .iter()
            .zip(&expected)
            .all(|(a, b)| a.bytes == b.bytes && a.in_validation == b.in_validation);
        assert!(same && read.len() == expected.len(), "slices of {slice_bytes}");
    }
}

#[test]
fn missing_and_empty_inputs() {
    let folder = TempDir::new().unwrap();
    let missing = TextSource::new(&[PathBuf::from("no/such/file")], options(9)).unwrap_err();
    assert!(matches!(missing, Error::MissingFile { .. }), "{missing:?}");
    let nothing = TextSource::new(&[folder.path().to_owned()], options(9)).unwrap_err();
    assert!(nothing.to_string().contains("the folder holds no files"), "{nothing}");
    let empty = write(&folder, "empty.txt", "");
    assert_eq!(texts(&[empty], options(9)), [""]);
    let twice = TextSource::new(&["-".into(), "-".into()], options(9)).unwrap_err();
    assert!(twice.to_string().contains("named twice"), "{twice}");
}

#[test]
fn a_cancelled_run_stops() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.txt", "word ".repeat(1000));
    let source = TextSource::new(&[path], options(100)).unwrap();
    let cut = CutRule::new(Scheme::new("gpt2").unwrap(), [SEPARATOR]).unwrap();
    let progress = Progress::default();
    let slices = source.slices(&cut, None, &progress);
    assert!(slices.next(&mut Slice::default()).unwrap());
    progress.cancel();
    let error = slices.next(&mut Slice::default()).unwrap_err();
    assert!(matches!(error, Error::Interrupted));
}

proptest! {
    #[test]
    fn any_bytes_come_back_from_any_container(
        parts in prop::collection::vec(
            prop_oneof![
                "[a-z ]{0,12}", Just(SEPARATOR.to_owned()), Just("<|e".to_owned()),
                "\\PC{0,3}", Just("\u{3000}".to_owned()), Just("\u{85}\n".to_owned()),
            ].prop_map(String::into_bytes).boxed()
                .prop_union(prop::collection::vec(any::<u8>(), 0..3).boxed()),
            0..60,
        ),
        slice_bytes in 1_usize..80,
        threads in 1_usize..4,
    ) {
        let raw = parts.concat();
        let folder = TempDir::new().unwrap();
        // What looks like an archive is one.
        let raw = if raw.starts_with(b"\x1f\x8b") { raw[2..].to_vec() } else { raw };
        let paths: Vec<PathBuf> =
            vec![write(&folder, "a", &raw), write(&folder, "b", gzip(&raw))];
        let bytes = SourceOptions { errors: DecodeErrors::Bytes, ..options(slice_bytes) };
        for document in read_with(&paths, bytes.clone(), None, threads).unwrap() {
            prop_assert_eq!(&document.bytes, &raw);
        }
        let split = Split::new(0.5, Some(SEPARATOR), &[SEPARATOR]).unwrap();
        let divided = read_with(&paths, bytes, Some(&split), threads).unwrap();
        let whole: Vec<u8> = divided.into_iter().flat_map(|document| document.bytes).collect();
        prop_assert_eq!(whole, [raw.clone(), raw.clone()].concat());
        let replace = SourceOptions { errors: DecodeErrors::Replace, ..options(slice_bytes) };
        for document in read_with(&paths, replace, None, threads).unwrap() {
            let expected = String::from_utf8_lossy(&raw).into_owned();
            prop_assert_eq!(document.bytes, expected.into_bytes());
        }
    }
}

#[test]
fn inputs_name_themselves() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "a.txt", "abc");
    let source = TextSource::new(from_ref(&path), options(9)).unwrap();
    assert_eq!(source.inputs()[0].path, path);
    assert_eq!(source.total_bytes(), 3);
    assert!(!source.has_documents());
    let stdin = TextSource::new(&["-".into()], options(9)).unwrap();
    assert!(stdin.inputs()[0].is_stdin());
    assert_eq!(stdin.total_bytes(), 0);
    assert_eq!(Path::new(lmkit::text_source::STDIN), stdin.inputs()[0].path);
}

/// A format of rows whose files are lists of words; `-` is a row without text.
#[derive(Debug)]
struct Words {
    /// How many rows come at once.
    at_once: usize,
}

impl RowFormat for Words {
    fn check(&self, path: &Path, field: &str) -> Result<()> {
        if field == "text" { Ok(()) } else { Err(Error::MissingFile { path: path.to_owned() }) }
    }

    fn open(&self, path: &Path, _: &str) -> Result<Box<dyn RowReader>> {
        let words = fs::read_to_string(path).unwrap();
        let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        let batches = words.chunks(self.at_once).map(<[String]>::to_vec).collect::<Vec<_>>();
        Ok(Box::new(WordReader { batches: batches.into_iter(), number: 0 }))
    }
}

struct WordReader {
    batches: std::vec::IntoIter<Vec<String>>,
    number: u64,
}

impl RowReader for WordReader {
    fn read(&mut self) -> Result<Option<RowBatch>> {
        let Some(words) = self.batches.next() else { return Ok(None) };
        let mut batch = RowBatch { file_bytes: 1, ..RowBatch::default() };
        for word in words {
            let start = batch.text.len();
            if word == "-" {
                batch.nulls += 1;
            } else {
                batch.text.extend_from_slice(word.as_bytes());
                batch.rows.push((self.number, start..batch.text.len()));
            }
            self.number += 1;
        }
        Ok(Some(batch))
    }
}

#[test]
fn slices_of_rows_do_not_depend_on_the_batches_they_come_in() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let words: Vec<String> =
        (0..500).map(|n| if n % 7 == 3 { "-".to_owned() } else { "word".repeat(n % 11) }).collect();
    fs::write(&path, words.join(" ")).unwrap();
    let read = |at_once| {
        let parquet: Option<Arc<dyn RowFormat>> = Some(Arc::new(Words { at_once }));
        let source =
            TextSource::new(from_ref(&path), SourceOptions { parquet, ..options(64) }).unwrap();
        source.check_rows().unwrap();
        let cut = CutRule::new(Scheme::new("gpt2").unwrap(), [SEPARATOR]).unwrap();
        let progress = Progress::default();
        let slices = source.slices(&cut, None, &progress);
        let (mut slice, mut seen) = (Slice::default(), Vec::new());
        while slices.next(&mut slice).unwrap() {
            let text = |content| match content {
                Content::Text(text) => str::to_owned(text),
                Content::Byte(byte) => panic!("{byte} is text"),
            };
            assert!(slice.pieces().all(|piece| piece.starts_document && piece.ends_document));
            seen.push(slice.pieces().map(|piece| text(piece.content)).collect::<Vec<_>>());
        }
        assert_eq!(slices.nulls(), 71);
        seen
    };
    let seen = read(1);
    assert!(seen.len() > 100);
    let rows: Vec<&String> = words.iter().filter(|word| *word != "-").collect();
    assert_eq!(seen.iter().flatten().collect::<Vec<_>>(), rows);
    for at_once in [2, 17, 500] {
        assert_eq!(read(at_once), seen);
    }
}

#[test]
fn rows_without_a_reader_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    fs::write(&path, "a b").unwrap();
    let source = TextSource::new(from_ref(&path), options(9)).unwrap();
    assert!(source.check_rows().unwrap_err().to_string().contains("reads Parquet"));
}
