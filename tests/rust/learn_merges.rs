//! Counted pretokens → merges, against a learner that recounts everything at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lmkit::byte_alphabet::gpt2_order;
use lmkit::count_pretokens::{PretokenCounter, PretokenCounts};
use lmkit::error::{Error, ErrorKind, Result};
use lmkit::learn_merges::{LearnOptions, Learned, SpecialIds, TieBreak, learn_merges};
use lmkit::pretokenize::Scheme;
use lmkit::progress::Progress;
use lmkit::vocabulary_files::TokenizerParts;
use proptest::prelude::*;

type Counts = BTreeMap<Vec<u8>, u64>;
type Merges = Vec<(Vec<u8>, Vec<u8>)>;

fn options(vocab_size: usize, tie_break: TieBreak) -> LearnOptions {
    LearnOptions { vocab_size, tie_break, min_frequency: 1, ..LearnOptions::default() }
}

/// Learns from words dealt out to `threads` tables.
fn learn(counts: &Counts, options: &LearnOptions, threads: usize) -> Result<Learned> {
    let mut counters: Vec<_> = (0..threads).map(|_| PretokenCounter::default()).collect();
    for (index, (word, &count)) in counts.iter().enumerate() {
        counters[index % threads].add(word, count / 2).unwrap();
        counters[index * 7 / 3 % threads].add(word, count - count / 2).unwrap();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    learn_merges(PretokenCounts::new(counters), options, &pool, &Progress::default())
}

fn text_counts(text: &str) -> Counts {
    let mut counts = Counts::new();
    for word in text.split_inclusive(' ') {
        *counts.entry(word.as_bytes().to_vec()).or_default() += 1;
    }
    counts
}

/// What a student would write: tokens are bytes, and all is counted anew for every merge.
fn reference_lexicographic(counts: &Counts, options: &LearnOptions) -> Merges {
    let LearnOptions { vocab_size, min_frequency, .. } = *options;
    let longest = options.max_token_length.unwrap_or(usize::MAX);
    let mut words: Vec<(Vec<Vec<u8>>, u64)> =
        counts.iter().map(|(word, &n)| (word.iter().map(|&b| vec![b]).collect(), n)).collect();
    let mut tokens: BTreeSet<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let mut merges = Merges::new();
    while tokens.len() < vocab_size {
        let mut pairs: BTreeMap<(Vec<u8>, Vec<u8>), u64> = BTreeMap::new();
        for (word, count) in &words {
            for pair in word.windows(2) {
                *pairs.entry((pair[0].clone(), pair[1].clone())).or_default() += count;
            }
        }
        pairs.retain(|(left, right), _| left.len() + right.len() <= longest);
        let best = pairs.into_iter().max_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        let Some((pair, count)) = best else { break };
        if count < min_frequency.max(1) {
            break;
        }
        for (word, _) in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if word[at] == pair.0 && word[at + 1] == pair.1 {
                    let right = word.remove(at + 1);
                    word[at].extend(right);
                }
                at += 1;
            }
        }
        tokens.insert([&pair.0[..], &pair.1].concat());
        merges.push(pair);
    }
    merges
}

/// Hugging Face's bookkeeping, each queue entry with the words it was made for, and its numbering.
fn reference_huggingface(counts: &Counts, options: &LearnOptions) -> Merges {
    let LearnOptions { vocab_size, min_frequency, .. } = *options;
    let longest = options.max_token_length.unwrap_or(usize::MAX);
    let mut tokens: Vec<Vec<u8>> = gpt2_order().map(|byte| vec![byte]).collect();
    let id_of = |tokens: &[Vec<u8>], token: &[u8]| tokens.iter().position(|t| t == token);
    let mut words: Vec<(Vec<usize>, u64)> = counts
        .iter()
        .map(|(word, &n)| (word.iter().map(|&b| id_of(&tokens, &[b]).unwrap()).collect(), n))
        .collect();
    let mut believed: BTreeMap<(usize, usize), i64> = BTreeMap::new();
    let mut seen_in: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
    for (index, (word, count)) in words.iter().enumerate() {
        for pair in word.windows(2) {
            *believed.entry((pair[0], pair[1])).or_default() += i64::try_from(*count).unwrap();
            seen_in.entry((pair[0], pair[1])).or_default().insert(index);
        }
    }
    let mut queue: Vec<_> = seen_in.into_iter().collect();
    let mut merges = Merges::new();
    while tokens.len() < vocab_size {
        let order = |pair: &(usize, usize)| (believed[pair], std::cmp::Reverse(*pair));
        // Of equal entries the first, which is the oldest.
        let best = (0..queue.len()).rev().max_by_key(|&index| order(&queue[index].0));
        let Some(best) = best else { break };
        let (pair, indices) = queue.remove(best);
        if believed[&pair] < i64::try_from(min_frequency.max(1)).unwrap() {
            break;
        }
        let token = [&tokens[pair.0][..], &tokens[pair.1]].concat();
        let joined = id_of(&tokens, &token).unwrap_or(tokens.len());
        if joined == tokens.len() {
            tokens.push(token);
        }
        merges.push((tokens[pair.0].clone(), tokens[pair.1].clone()));
        let mut arisen: BTreeMap<(usize, usize), BTreeSet<usize>> = BTreeMap::new();
        for index in indices {
            let (word, count) = &mut words[index];
            let count = i64::try_from(*count).unwrap();
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == pair {
                    word[at] = joined;
                    word.remove(at + 1);
                    let mut neighbours = Vec::new();
                    if at > 0 {
                        neighbours.push(((word[at - 1], pair.0), (word[at - 1], joined)));
                    }
                    if at + 1 < word.len() {
                        neighbours.push(((pair.1, word[at + 1]), (joined, word[at + 1])));
                    }
                    for (old, new) in neighbours {
                        *believed.entry(old).or_default() -= count;
                        if tokens[new.0].len() + tokens[new.1].len() <= longest {
                            *believed.entry(new).or_default() += count;
                            arisen.entry(new).or_default().insert(index);
                        }
                    }
                }
                at += 1;
            }
        }
        queue.extend(arisen.into_iter().filter(|(pair, _)| believed[pair] > 0));
    }
    merges
}

fn reference(counts: &Counts, options: &LearnOptions) -> Merges {
    match options.tie_break {
        TieBreak::Lexicographic => reference_lexicographic(counts, options),
        TieBreak::HuggingFace => reference_huggingface(counts, options),
    }
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop::sample::select(&b"ab"[..]), 1..14),
        prop::collection::vec(prop::sample::select(&b"abc \xff"[..]), 1..20),
        (prop::collection::vec(prop::sample::select(&b"abc"[..]), 1..4), 1..9_usize)
            .prop_map(|(part, times)| part.repeat(times)),
    ]
}

fn counts() -> impl Strategy<Value = Counts> {
    prop::collection::btree_map(word(), prop_oneof![1..4_u64, 1..60_u64, 1..100_000_u64], 1..30)
}

fn tie_break() -> impl Strategy<Value = TieBreak> {
    prop::sample::select(&[TieBreak::Lexicographic, TieBreak::HuggingFace][..])
}

#[test]
fn a_cancelled_call_ends_with_interrupted_whatever_it_was_at() {
    let counts: Counts =
        (0..20_000_u64).map(|word| (format!("{:x}", word * word).into_bytes(), 1 + word)).collect();
    let options = options(600, TieBreak::Lexicographic);
    let expected = learn(&counts, &options, 2).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    let mut interrupted = 0;
    for delay in (0..12).map(|step| Duration::from_micros((1 << step) - 1)) {
        let mut counter = PretokenCounter::default();
        for (word, &count) in &counts {
            counter.add(word, count).unwrap();
        }
        let progress = Progress::default();
        let learned = std::thread::scope(|scope| {
            let canceller = scope.spawn(|| {
                std::thread::sleep(delay);
                progress.cancel();
            });
            if delay.is_zero() {
                canceller.join().unwrap();
            }
            learn_merges(PretokenCounts::new(vec![counter]), &options, &pool, &progress)
        });
        match learned {
            Err(Error::Interrupted) => interrupted += 1,
            learned => assert_eq!(learned.unwrap(), expected),
        }
    }
    assert!(interrupted > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(examples()))]

    #[test]
    fn merges_equal_the_reference_whatever_the_threads(
        counts in counts(),
        tie_break in tie_break(),
        vocab_size in prop_oneof![256..400_usize, Just(70_000)],
        min_frequency in 0..30_u64,
        max_token_length in prop_oneof![Just(None), (2..9_usize).prop_map(Some)],
        threads in 1..4_usize,
    ) {
        let limits = options(vocab_size, tie_break);
        let options = LearnOptions { min_frequency, max_token_length, ..limits };
        let learned = learn(&counts, &options, threads).unwrap();
        prop_assert_eq!(learned.merges, reference(&counts, &options));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(examples() / 2))]

    #[test]
    fn what_is_extended_goes_on_as_if_it_had_never_stopped(
        counts in counts(),
        (first, more) in (257..300_usize, 0..60_usize),
        threads in 1..4_usize,
    ) {
        let until = |vocab_size| LearnOptions {
            special_tokens: vec!["<|e|>".to_owned()],
            special_ids: Some(SpecialIds::First),
            ..options(vocab_size, TieBreak::Lexicographic)
        };
        let whole = learn(&counts, &until(first + more), threads).unwrap();
        let base = learn(&counts, &until(first), threads).unwrap();
        let extend = Some(parts(&base));
        let extended = LearnOptions { extend, ..until(first + more) };
        prop_assert_eq!(learn(&counts, &extended, threads).unwrap(), whole);
    }
}

fn parts(learned: &Learned) -> TokenizerParts {
    let special_tokens = learned.special_tokens.clone();
    TokenizerParts::new(learned.vocabulary().unwrap(), special_tokens, None)
}

#[test]
fn what_is_extended_keeps_its_ids() {
    let specials = |tokens: &[&str]| tokens.iter().map(|&token| token.to_owned()).collect();
    let base = LearnOptions {
        special_tokens: specials(&["<|e|>"]),
        ..options(259, TieBreak::Lexicographic)
    };
    let base = learn(&text_counts("low low lower "), &base, 1).unwrap();
    for (special_ids, new_special, new_merge) in
        [(None, 261, 259), (Some(SpecialIds::First), 259, 260)]
    {
        let more = LearnOptions {
            special_tokens: specials(&["<|e|>", "<|new|>"]),
            special_ids,
            extend: Some(parts(&base)),
            ..options(262, TieBreak::Lexicographic)
        };
        let learned = learn(&text_counts("newest newest widest low "), &more, 1).unwrap();
        assert_eq!(learned.tokens[..259], base.tokens);
        assert_eq!(learned.merges[..base.merges.len()], base.merges);
        assert_eq!(
            learned.special_tokens,
            [("<|e|>".to_owned(), 258), ("<|new|>".to_owned(), new_special)]
        );
        assert_eq!(learned.tokens[new_merge].1, b"t ");
        assert_eq!(learned.vocabulary().unwrap().len(), 262);
    }
    let full = LearnOptions { extend: Some(parts(&base)), ..options(258, TieBreak::Lexicographic) };
    assert_eq!(
        learn(&text_counts("x y"), &full, 1).unwrap_err().to_string(),
        "--vocab_size 258 is too small for the 259 tokens to extend and 0 special tokens; give at \
         least 259"
    );
}

fn examples() -> u32 {
    std::env::var("LMKIT_EXAMPLES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

#[test]
fn overlapping_repeats_merge_from_the_left() {
    for text in ["aaa", "aaaa aaaaa aaaaaaa", "ababab ababa babab", "abcabcabc cabcab bcabca"] {
        for tie_break in [TieBreak::Lexicographic, TieBreak::HuggingFace] {
            let (counts, options) = (text_counts(text), options(300, tie_break));
            let learned = learn(&counts, &options, 2).unwrap();
            assert_eq!(learned.merges, reference(&counts, &options), "{text:?} {tie_break:?}");
        }
    }
}

#[test]
fn the_course_example_learns_its_merges() {
    let text = "low low low low low lower lower widest widest widest newest newest newest newest \
                newest newest";
    let mut counts = Counts::new();
    for word in text.split(' ') {
        *counts.entry(word.as_bytes().to_vec()).or_default() += 1;
    }
    let learned = learn(&counts, &options(262, TieBreak::Lexicographic), 1).unwrap();
    let merges: Vec<_> = learned
        .merges
        .iter()
        .map(|(left, right)| [left.as_slice(), b" ", right].concat())
        .map(|merge| String::from_utf8(merge).unwrap())
        .collect();
    assert_eq!(merges, ["s t", "e st", "o w", "l ow", "w est", "n e"]);
}

#[test]
fn ids_follow_the_rule() {
    let specials = ["<|end|>".to_owned(), "!".to_owned(), "<|pad|>".to_owned()];
    let counts = text_counts("aaab aaab ");
    let learned = |tie_break| {
        let special_tokens = specials.to_vec();
        let options = LearnOptions { special_tokens, ..options(260, tie_break) };
        learn(&counts, &options, 1).unwrap()
    };
    let lexicographic = learned(TieBreak::Lexicographic);
    let token = |learned: &Learned, id: usize| learned.tokens[id].1.clone();
    assert_eq!(token(&lexicographic, 0), b"!");
    assert_eq!(token(&lexicographic, 255), b"\xad");
    assert_eq!(token(&lexicographic, 256), b"aa");
    assert_eq!(token(&lexicographic, 258), b"<|end|>");
    assert_eq!(lexicographic.special_tokens[1], ("!".to_owned(), 0), "a byte has its token");
    let huggingface = learned(TieBreak::HuggingFace);
    assert_eq!(token(&huggingface, 0), b"<|end|>");
    assert_eq!(token(&huggingface, 1), b"!");
    assert_eq!(token(&huggingface, 2), b"<|pad|>");
    assert_eq!(token(&huggingface, 3), b"\"");
    assert_eq!(token(&huggingface, 258), b"aa");
    let placed = |tie_break, special_ids| {
        let special_tokens = specials.to_vec();
        let special_ids = Some(special_ids);
        let options = LearnOptions { special_tokens, special_ids, ..options(260, tie_break) };
        learn(&counts, &options, 1)
    };
    let first = placed(TieBreak::Lexicographic, SpecialIds::First).unwrap();
    assert_eq!((token(&first, 0), token(&first, 1)), (b"<|end|>".to_vec(), b"!".to_vec()));
    assert_eq!((token(&first, 3), token(&first, 258)), (b"\"".to_vec(), b"aa".to_vec()));
    let last = placed(TieBreak::HuggingFace, SpecialIds::Last).unwrap();
    assert_eq!((token(&last, 0), token(&last, 256)), (b"!".to_vec(), b"aa".to_vec()));
    assert_eq!((token(&last, 258), token(&last, 259)), (b"<|end|>".to_vec(), b"<|pad|>".to_vec()));
    for learned in [lexicographic, huggingface, first, last] {
        assert_eq!(learned.tokens.len(), 260);
        assert_eq!(learned.vocabulary().unwrap().len(), 260);
    }
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let counts = text_counts("some text");
    let refused = |options: &LearnOptions| {
        let error = learn(&counts, options, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    };
    let with = |special_tokens: &[&str]| LearnOptions {
        special_tokens: special_tokens.iter().map(|&token| token.to_owned()).collect(),
        ..options(256, TieBreak::Lexicographic)
    };
    assert_eq!(
        refused(&with(&["<|endoftext|>"])),
        "--vocab_size 256 is too small for 256 bytes and 1 special token; give at least 257"
    );
    assert!(refused(&with(&["<a>", "<a>"])).contains("given twice"));
    assert!(refused(&with(&[""])).contains("at least one byte"));
    let short = LearnOptions { max_token_length: Some(1), ..with(&[]) };
    assert_eq!(refused(&short), "--max_token_length must be at least 2");
    assert!(refused(&options(1 << 31, TieBreak::Lexicographic)).contains("2147483647"));
    let empty = learn(&Counts::new(), &options(300, TieBreak::Lexicographic), 1).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Malformed);
}

#[test]
fn a_text_without_pairs_gives_the_bytes() {
    let learned = learn(&text_counts("a"), &options(300, TieBreak::Lexicographic), 2).unwrap();
    assert_eq!((learned.tokens.len(), learned.merges.len()), (256, 0));
}

#[test]
fn a_cancelled_learner_stops() {
    let mut counter = PretokenCounter::default();
    counter.add(b"words", 1).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let progress = Progress::default();
    progress.cancel();
    let options = options(300, TieBreak::Lexicographic);
    let error = learn_merges(PretokenCounts::new(vec![counter]), &options, &pool, &progress);
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Interrupted);
}

#[test]
fn counting_text_counts_every_pretoken() {
    let scheme = Scheme::new("gpt2").unwrap();
    let text = "It's a  text, isn't it?\n\n  'Tis 123 \u{e9}t\u{e9}\u{2003}x".repeat(700);
    let mut counter = PretokenCounter::default();
    counter.count(&scheme, &text, &Progress::default()).unwrap();
    let (mut scanner, mut ends, mut pretokens) = (scheme.scanner(&text), [0; 100], 0);
    let mut by_hand = PretokenCounter::default();
    let mut start = 0;
    loop {
        let filled = scanner.fill(&mut ends).unwrap();
        for &end in &ends[..filled] {
            by_hand.add(&text.as_bytes()[start..end], 1).unwrap();
            start = end;
        }
        pretokens += filled as u64;
        if filled < ends.len() {
            break;
        }
    }
    assert_eq!(counter.pretokens(), pretokens);
    let learn = |counter| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let counts = PretokenCounts::new(vec![counter]);
        learn_merges(counts, &options(290, TieBreak::HuggingFace), &pool, &Progress::default())
            .unwrap()
    };
    assert_eq!(learn(counter), learn(by_hand));
}
