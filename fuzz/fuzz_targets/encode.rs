//! Any vocabulary and any text: the ids of the slow reference, whole, in pieces, and again with the
//! tables full.
#![no_main]

use std::collections::{BTreeSet, HashMap};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use lmkit::encode::Tokenizer;
use lmkit::normalize::Normalizer;
use lmkit::special_tokens::SpecialHandling;
use lmkit::vocabulary::Vocabulary;
use lmkit::vocabulary_files::TokenizerParts;

#[path = "../../tests/rust/reference.rs"]
mod reference;

use reference::Reference;

const GPT2: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const SPECIALS: [&str; 4] = ["<|x|>", "<|x|><|x|>", "ab a", "b a\n"];
/// The reference takes the square of a pretoken's length.
const LONGEST: usize = 2000;
/// The least a cache may be given, so that texts fill it.
const CACHE_BYTES: usize = 1 << 16;

#[derive(Debug, Arbitrary)]
struct Case<'d> {
    /// Characters that tokens are made of, beside single bytes.
    letters: [char; 4],
    /// Two places among the tokens so far, whose concatenation is the next token; whether it has a
    /// merge, and how far its id is from the last.
    joins: Vec<(u8, u8, bool, u8)>,
    ranks: bool,
    regex_of_its_own: bool,
    specials: u8,
    text: &'d str,
    cuts: Vec<u16>,
}

impl Case<'_> {
    /// The same vocabulary in plain collections, and as tokens by id.
    fn vocabulary(&self) -> (Reference, Vec<(u32, Vec<u8>)>) {
        let bytes = (0..=255_u8).map(|byte| vec![byte]);
        let mut tokens: Vec<(u32, Vec<u8>)> = (0..).zip(bytes).collect();
        let mut known: BTreeSet<Vec<u8>> = tokens.iter().map(|(_, token)| token.clone()).collect();
        let mut id = 255;
        let mut merges = Vec::new();
        let letters = self.letters.iter().map(|letter| letter.to_string().into_bytes());
        let mut parts: Vec<Vec<u8>> =
            letters.chain([b" ", b"a", b"b", b"'"].map(|part| part.to_vec())).collect();
        for &(left, right, has_merge, gap) in self.joins.iter().take(60) {
            let left = parts[usize::from(left) % parts.len()].clone();
            let right = parts[usize::from(right) % parts.len()].clone();
            for token in [&left, &right, &[&*left, &*right].concat()] {
                if token.len() <= 24 && known.insert(token.clone()) {
                    id += 1 + u32::from(gap % 3);
                    tokens.push((id, token.clone()));
                }
            }
            let joined = [&*left, &*right].concat();
            if joined.len() <= 24 {
                parts.push(joined);
                if has_merge {
                    merges.push((left, right));
                }
            }
        }
        let chosen = SPECIALS.iter().enumerate().filter(|(at, _)| self.specials >> at & 1 == 1);
        let specials: Vec<String> = chosen.map(|(_, token)| (*token).to_owned()).collect();
        for special in &specials {
            if known.insert(special.clone().into_bytes()) {
                id += 1;
                tokens.push((id, special.clone().into_bytes()));
            }
        }
        let reference = Reference {
            ids: tokens.iter().map(|(id, token)| (token.clone(), *id)).collect::<HashMap<_, _>>(),
            merges: (!self.ranks).then_some(merges),
            specials,
            pattern: fancy_regex::Regex::new(self.pattern()).expect("a pattern"),
            ignore_merges: !self.ranks && self.specials >> 6 & 1 == 1,
            nfc: self.specials >> 7 & 1 == 1,
        };
        (reference, tokens)
    }

    fn pattern(&self) -> &'static str {
        if self.regex_of_its_own { r"\w+|[^\w\s]" } else { GPT2 }
    }

    /// The text in the pieces that the cuts make.
    fn pieces(&self) -> Vec<&str> {
        let mut places: Vec<usize> = self
            .cuts
            .iter()
            .map(|&cut| usize::from(cut) % (self.text.len() + 1))
            .filter(|&cut| self.text.is_char_boundary(cut))
            .chain([0, self.text.len()])
            .collect();
        places.sort_unstable();
        places.windows(2).map(|ends| &self.text[ends[0]..ends[1]]).collect()
    }
}

fuzz_target!(|case: Case<'_>| {
    if case.text.len() > LONGEST {
        return;
    }
    let (reference, tokens) = case.vocabulary();
    let vocabulary = match &reference.merges {
        Some(merges) => Vocabulary::from_merges(tokens, merges.iter().cloned()),
        None => Vocabulary::from_ranks(tokens),
    }
    .expect("a vocabulary")
    .ignoring_merges(reference.ignore_merges);
    let numbered = reference.specials.iter();
    let specials = numbered.map(|token| (token.clone(), reference.ids[token.as_bytes()])).collect();
    let parts = TokenizerParts {
        normalizer: reference.nfc.then_some(Normalizer::Nfc),
        ..TokenizerParts::new(vocabulary, specials, Some(case.pattern().to_owned()))
    };
    let tokenizer = Tokenizer::from_parts(parts).expect("a tokenizer");
    let expected = reference.encode(case.text);
    let mut scratch = tokenizer.scratch_with(CACHE_BYTES).expect("memory");
    for _ in 0..2 {
        let mut ids = Vec::new();
        tokenizer
            .encode_into(case.text, SpecialHandling::Encode, &mut scratch, &mut ids)
            .expect("ids");
        assert_eq!(ids, expected);
    }
    let mut stream = tokenizer.stream().expect("memory");
    stream.start(SpecialHandling::Encode);
    let mut ids = Vec::new();
    for piece in case.pieces() {
        stream.push(&tokenizer, piece).expect("ids");
        ids.extend_from_slice(stream.ready());
        stream.clear_ready();
    }
    stream.finish(&tokenizer).expect("ids");
    ids.extend_from_slice(stream.ready());
    assert_eq!(ids, expected, "in pieces {:?}", case.pieces());
});
