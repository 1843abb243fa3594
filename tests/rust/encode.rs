//! Text → ids, against the slow reference: any vocabulary, any text, any cut, any thread count.

use std::collections::{BTreeSet, HashMap};

use lmkit::decode::{StreamDecoder, decode_bytes, text_of};
use lmkit::encode::Tokenizer;
use lmkit::error::{Error, ErrorKind};
use lmkit::merge::{Lanes, Merger};
use lmkit::normalize::Normalizer;
use lmkit::pretokenize::Scheme;
use lmkit::progress::Progress;
use lmkit::special_tokens::{SpecialHandling, SpecialTokens};
use lmkit::vocabulary::Vocabulary;
use lmkit::vocabulary_files::TokenizerParts;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::reference::{Reference, form_c};

/// The known schemes as they are published, and two of a user's own.
const PATTERNS: [(&str, &str); 7] = [
    ("gpt2", r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
    (
        "cl100k",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    ),
    (
        "o200k",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "llama3",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (
        "qwen2",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ),
    (r"\w+|[^\w\s]", r"\w+|[^\w\s]"),
    (r"(?s).+", r"(?s).+"),
];

/// What random texts and tokens are made of: few characters, so that merges happen.
const PIECES: [&str; 34] = [
    "a", "a", "a", "b", "b", "c", "A", "e", " ", " ", " ", "\n", "\r\n", "\t", "'", "'s", "'LL",
    "1", "22", "é", "e\u{301}", "世", "界", "の", "🦀", "\u{a0}", "\u{3000}", "\0", "<|", "|>",
    "!?", "\u{301}", "\u{212b}", "=\u{338}",
];
const SPECIALS: [&str; 5] = ["<|x|>", "<|x|><|x|>", "ab a", "b a\n", "🦀"];

fn text() -> impl Strategy<Value = String> {
    let pieces: Vec<&str> = PIECES.iter().chain(&SPECIALS).copied().collect();
    let short = prop::collection::vec(select(pieces), 0..60).prop_map(|pieces| pieces.concat());
    let runs = (select(PIECES.to_vec()), 1..300_usize).prop_map(|(piece, n)| piece.repeat(n));
    let parts = prop_oneof![6 => short, 1 => runs, 1 => any::<String>()];
    prop::collection::vec(parts, 0..4).prop_map(|parts| parts.concat())
}

/// A vocabulary with everything a file may bring: ids in no order and with gaps, merges in no
/// order, twice, or missing.
#[derive(Debug, Clone)]
struct Wild {
    reference: Reference,
    tokens: Vec<(u32, Vec<u8>)>,
    pattern: String,
}

fn wild() -> impl Strategy<Value = Wild> {
    let joins = prop::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 0..60);
    let specials = prop::sample::subsequence(SPECIALS.to_vec(), 0..=SPECIALS.len());
    let seed = any::<u64>();
    (joins, specials, select(PATTERNS.to_vec()), any::<bool>(), any::<bool>(), seed).prop_map(
        |(joins, specials, (pattern, regex), ranks, tidy, seed)| {
            let mut alphabet: Vec<Vec<u8>> = PIECES.iter().map(|p| p.as_bytes().to_vec()).collect();
            alphabet.extend(PIECES.concat().bytes().map(|byte| vec![byte]));
            let mut merges = Vec::new();
            let mut known: BTreeSet<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
            for (left, right, kind) in joins {
                let left = left.get(&alphabet).clone();
                let right = right.get(&alphabet).clone();
                let joined = [&*left, &*right].concat();
                if joined.len() > 24 {
                    continue;
                }
                alphabet.push(joined.clone());
                known.extend([left.clone(), right.clone(), joined]);
                if kind > 25 {
                    merges.push((left.clone(), right.clone()));
                }
                if kind > 230 {
                    merges.insert(merges.len() / 2, (left, right));
                }
            }
            known.extend(specials.iter().map(|token| token.as_bytes().to_vec()));
            let mut random = seed;
            let mut next = || {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (random >> 40) as u32
            };
            if !tidy {
                let mut keyed: Vec<_> = merges.into_iter().map(|m| (next(), m)).collect();
                keyed.sort();
                merges = keyed.into_iter().map(|(_, merge)| merge).collect();
            }
            let mut keyed: Vec<_> =
                known.into_iter().map(|token| (if tidy { 0 } else { next() }, token)).collect();
            keyed.sort();
            let mut id = 0;
            let mut tokens = Vec::new();
            for (_, token) in keyed {
                id += if tidy { 1 } else { 1 + next() % 3 };
                tokens.push((id, token));
            }
            let ids: HashMap<_, _> =
                tokens.iter().map(|(id, token)| (token.clone(), *id)).collect();
            let reference = Reference {
                ids,
                merges: (!ranks).then_some(merges),
                specials: specials.into_iter().map(str::to_owned).collect(),
                pattern: fancy_regex::Regex::new(regex).unwrap(),
                ignore_merges: !ranks && seed & 1 != 0,
                nfc: seed & 6 == 0,
            };
            Wild { reference, tokens, pattern: pattern.to_owned() }
        },
    )
}

impl Wild {
    fn tokenizer(&self) -> Tokenizer {
        let tokens = self.tokens.iter().map(|(id, token)| (*id, token));
        let vocabulary = match &self.reference.merges {
            Some(merges) => Vocabulary::from_merges(tokens, merges.iter().cloned()),
            None => Vocabulary::from_ranks(tokens),
        };
        let specials = self.reference.specials.iter();
        let specials = specials.map(|s| (s.clone(), self.reference.ids[s.as_bytes()])).collect();
        let vocabulary = vocabulary.unwrap().ignoring_merges(self.reference.ignore_merges);
        let normalizer = self.reference.nfc.then_some(Normalizer::Nfc);
        let parts = TokenizerParts::new(vocabulary, specials, Some(self.pattern.clone()));
        Tokenizer::from_parts(TokenizerParts { normalizer, ..parts }).unwrap()
    }

    /// What encoding and decoding make of a text.
    fn decoded(&self, text: &str) -> String {
        if self.reference.nfc { form_c(text) } else { text.to_owned() }
    }
}

proptest! {
    #[test]
    fn ids_equal_the_reference(wild in wild(), texts in prop::collection::vec(text(), 1..4)) {
        let tokenizer = wild.tokenizer();
        let mut tiny = tokenizer.scratch_with(1 << 12).unwrap();
        // The second time round the cache knows what the first time merged.
        for text in texts.iter().chain(&texts) {
            let expected = wild.reference.encode(text);
            prop_assert_eq!(&tokenizer.encode(text, SpecialHandling::Encode).unwrap(), &expected);
            let mut ids = vec![7];
            tokenizer.encode_into(text, SpecialHandling::Encode, &mut tiny, &mut ids).unwrap();
            prop_assert_eq!(&ids[1..], &expected[..]);
            let plain = tokenizer.encode(text, SpecialHandling::AsText).unwrap();
            prop_assert_eq!(&plain, &wild.reference.encode_ordinary(text));
            let bytes = decode_bytes(tokenizer.vocabulary(), &plain);
            prop_assert_eq!(text_of(bytes.unwrap()), wild.decoded(text));
            if !wild.reference.nfc {
                let bytes = decode_bytes(tokenizer.vocabulary(), &expected);
                prop_assert_eq!(text_of(bytes.unwrap()), text.as_str());
            }
        }
    }

    #[test]
    fn streams_equal_the_joined_text_wherever_it_is_cut(
        wild in wild(),
        text in text(),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        as_text: bool,
    ) {
        let tokenizer = wild.tokenizer();
        let special = if as_text { SpecialHandling::AsText } else { SpecialHandling::Encode };
        let mut cuts: Vec<usize> =
            cuts.iter().map(|cut| text.floor_char_boundary(cut.index(text.len() + 1))).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let mut stream = tokenizer.stream().unwrap();
        // A stream that was left in the middle starts anew.
        stream.push(&tokenizer, "left over a").unwrap();
        stream.start(special);
        let mut ids = Vec::new();
        for piece in cuts.windows(2) {
            stream.push(&tokenizer, &text[piece[0]..piece[1]]).unwrap();
            ids.extend_from_slice(stream.ready());
            stream.clear_ready();
        }
        stream.finish(&tokenizer).unwrap();
        ids.extend_from_slice(stream.ready());
        prop_assert_eq!(ids, tokenizer.encode(&text, special).unwrap());
    }

    #[test]
    fn batches_equal_their_texts(
        wild in wild(),
        texts in prop::collection::vec(text(), 0..8),
        large in text(),
        threads in prop::option::of(1..4_usize),
    ) {
        let tokenizer = wild.tokenizer();
        let large = large.repeat(300_000 / (large.len() + 1));
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts.insert(texts.len() / 2, &large);
        let encode = SpecialHandling::Encode;
        let (ids, offsets) =
            tokenizer.encode_batch(&texts, encode, threads, &Progress::default()).unwrap();
        prop_assert_eq!(offsets.len(), texts.len() + 1);
        for (text, ends) in texts.iter().zip(offsets.windows(2)) {
            let row = &ids[usize::try_from(ends[0]).unwrap()..usize::try_from(ends[1]).unwrap()];
            prop_assert_eq!(row, &tokenizer.encode(text, encode).unwrap()[..]);
        }
    }

    #[test]
    fn decoding_one_by_one_gives_the_same_text(bytes: Vec<u8>, cuts in prop::collection::vec(1..9_usize, 0..200)) {
        let mut decoder = StreamDecoder::new();
        let (mut text, mut rest) = (String::new(), &bytes[..]);
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            text += &decoder.push(piece);
            rest = after;
        }
        text += &decoder.push(rest);
        text += &decoder.finish();
        prop_assert_eq!(text, text_of(bytes));
    }
}

/// The bytes, and the merges given.
fn vocabulary(merges: &[(&str, &str)]) -> Vocabulary {
    let joined = merges.iter().map(|(left, right)| [left.as_bytes(), right.as_bytes()].concat());
    let tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).chain(joined).collect();
    Vocabulary::from_merges((0..).zip(tokens), merges.iter().copied()).unwrap()
}

fn tokenizer(vocabulary: Vocabulary, specials: &[&str]) -> Tokenizer {
    let first = u32::try_from(vocabulary.size()).unwrap();
    let specials: Vec<_> = specials.iter().map(|token| (*token).to_owned()).zip(first..).collect();
    let tokens: Vec<_> =
        specials.iter().map(|(token, id)| (*id, token.clone().into_bytes())).collect();
    let vocabulary = vocabulary.with_tokens(&tokens).unwrap();
    Tokenizer::new(vocabulary, specials, Scheme::new("gpt2").unwrap()).unwrap()
}

#[test]
fn a_cancelled_call_ends_with_interrupted() {
    let tokenizer = tokenizer(vocabulary(&[]), &[]);
    let progress = Progress::default();
    progress.cancel();
    let encoded = tokenizer.encode_watched("abc", SpecialHandling::Encode, &progress);
    assert_eq!(encoded.unwrap_err().kind(), ErrorKind::Interrupted);
}

#[test]
fn a_refused_special_token_is_named_with_its_place_in_the_whole_stream() {
    let tokenizer = tokenizer(vocabulary(&[]), &["<|x|>"]);
    let error = tokenizer.encode("ab <|x|>", SpecialHandling::Refuse).unwrap_err();
    assert!(matches!(error, Error::SpecialTokenInText { offset: 3, .. }), "{error}");
    let mut stream = tokenizer.stream().unwrap();
    stream.start(SpecialHandling::Refuse);
    let result = ["some words go first ", "<|", "x", "|>"]
        .iter()
        .try_for_each(|piece| stream.push(&tokenizer, piece))
        .and_then(|()| stream.finish(&tokenizer));
    let error = result.unwrap_err();
    assert!(matches!(error, Error::SpecialTokenInText { offset: 20, .. }), "{error}");
}

#[test]
fn a_scratch_of_another_tokenizer_is_taken_over() {
    let one = tokenizer(vocabulary(&[("a", "b")]), &[]);
    let other = tokenizer(vocabulary(&[("b", "a")]), &[]);
    let mut scratch = one.scratch_with(1 << 12).unwrap();
    for (tokenizer, expected) in [(&one, vec![256, 97]), (&other, vec![97, 256])] {
        let mut ids = Vec::new();
        tokenizer.encode_into("aba", SpecialHandling::Encode, &mut scratch, &mut ids).unwrap();
        assert_eq!(ids, expected);
    }
}

#[test]
fn special_tokens_must_be_in_the_vocabulary() {
    for (token, id, why) in [("", 0, "empty"), ("<|x|>", 7, "does not have it")] {
        let specials = vec![(token.to_owned(), id)];
        let error = Tokenizer::new(vocabulary(&[]), specials, Scheme::new("gpt2").unwrap());
        assert!(error.unwrap_err().to_string().contains(why));
    }
}

#[test]
fn a_long_random_pretoken_equals_the_reference_and_a_megabyte_ends() {
    let merges =
        [("a", "b"), ("c", "d"), ("ab", "cd"), ("b", "c"), ("a", "a"), ("aa", "ab"), ("d", "d")];
    let vocabulary = vocabulary(&merges);
    let mut random = 1_u64;
    let letters: Vec<u8> = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b"abcd"[(random >> 62) as usize]
    })
    .take(1 << 20)
    .collect();
    let reference = Reference {
        ids: vocabulary.iter().map(|(id, token)| (token.to_vec(), id)).collect(),
        merges: Some(
            merges.iter().map(|(left, right)| ((*left).into(), (*right).into())).collect(),
        ),
        specials: Vec::new(),
        pattern: fancy_regex::Regex::new("(?s).+").unwrap(),
        ignore_merges: false,
        nfc: false,
    };
    let kernel = Merger::new(&vocabulary, &SpecialTokens::none());
    let (mut scratch, progress) = (Lanes::new(), Progress::default());
    for len in [95, 96, 97, 1000] {
        let mut ids = Vec::new();
        kernel.merge(&letters[..len], &mut scratch, &mut ids, &progress).unwrap();
        let text = std::str::from_utf8(&letters[..len]).unwrap();
        assert_eq!(ids, reference.encode_ordinary(text));
    }
    let mut ids = Vec::new();
    kernel.merge(&letters, &mut scratch, &mut ids, &progress).unwrap();
    let bytes = decode_bytes(&vocabulary, &ids).unwrap();
    assert_eq!(bytes, letters);
}

#[test]
fn scattered_ids_take_no_memory_of_their_own() {
    let far = i32::MAX.unsigned_abs();
    let tokens = (0..=255).map(|byte| (u32::from(byte), vec![byte])).chain([(far, b"ab".to_vec())]);
    let vocabulary = Vocabulary::from_merges(tokens, [(b"a", b"b")]).unwrap();
    assert_eq!(vocabulary.size(), 1 << 31);
    let tokenizer = Tokenizer::new(vocabulary, Vec::new(), Scheme::new("gpt2").unwrap()).unwrap();
    assert_eq!(tokenizer.encode("abb", SpecialHandling::Encode).unwrap(), [far, 98]);
}

/// The bytes, tokens of 2 to 40 bytes by rising id, and one token with the id `last`.
fn tokens_of_all_lengths(last: u32) -> Vocabulary {
    let bytes = (0..=255).map(|byte| (u32::from(byte), vec![byte]));
    let longer = (2..=40).map(|len| (300 + u32::from(len), (0..len).collect::<Vec<u8>>()));
    Vocabulary::from_ranks(bytes.chain(longer).chain([(last, b"the last".to_vec())])).unwrap()
}

#[test]
fn tokens_of_any_length_decode_to_their_bytes() {
    for last in [400, i32::MAX.unsigned_abs()] {
        let vocabulary = tokens_of_all_lengths(last);
        let known: Vec<u32> = vocabulary.iter().map(|(id, _)| id).collect();
        // Steps through all of them in changing order, for more than a few thousand ids.
        let ids: Vec<i64> = (0..30_000).map(|at| known[at * at % known.len()].into()).collect();
        for len in [0, 1, 2, 100, ids.len()] {
            let token = |id: &i64| vocabulary.token(u32::try_from(*id).unwrap()).unwrap();
            let expected: Vec<u8> = ids[..len].iter().flat_map(token).copied().collect();
            assert_eq!(decode_bytes(&vocabulary, &ids[..len]).unwrap(), expected);
        }
    }
}

#[test]
fn unknown_ids_are_named_with_their_index() {
    // Those between the known ones too, and those after thousands of others.
    for last in [400, i32::MAX.unsigned_abs()] {
        let vocabulary = tokens_of_all_lengths(last);
        for bad in [-1, 256, 399, i64::from(last) - 1, i64::from(last) + 1, i64::MAX, i64::MIN] {
            for place in [0, 1, 10_000] {
                let mut ids = vec![1; 10_001];
                ids[place] = bad;
                let error = decode_bytes(&vocabulary, &ids).unwrap_err();
                assert!(
                    matches!(error, Error::UnknownId { id, index, .. } if (id, index) == (bad, place)),
                    "{error}"
                );
            }
        }
    }
}
