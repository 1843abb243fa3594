//! Merges ↔ ranks: where lmkit says that both give the same ids, they do on any text.

use lmkit::merge::{Lanes, Merger};
use lmkit::progress::Progress;
use lmkit::ranks::{merges_of, refusal};
use lmkit::special_tokens::SpecialTokens;
use lmkit::vocabulary::Vocabulary;
use proptest::prelude::*;
use proptest::sample::Index;

type Pair = (Vec<u8>, Vec<u8>);

/// All bytes, then these tokens.
fn tokens(more: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
    (0..).zip((0..=255).map(|byte| vec![byte]).chain(more.iter().cloned())).collect()
}

/// Different tokens of few letters, so that they overlap and repeat.
fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec("[ab]{2,6}|[abc]{2,4}", 1..24).prop_map(|words| {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for word in words {
            if !all.contains(&word.clone().into_bytes()) {
                all.push(word.into_bytes());
            }
        }
        all
    })
}

/// Tokens each made of two earlier ones, and those two.
fn grown() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<Pair>)> {
    prop::collection::vec((any::<Index>(), any::<Index>()), 1..24).prop_map(|joins| {
        let mut known: Vec<Vec<u8>> = [b"a", b"b", b"c"].map(|byte| byte.to_vec()).to_vec();
        let (mut words, mut merges) = (Vec::new(), Vec::new());
        for (left, right) in joins {
            let (left, right) = (left.get(&known).clone(), right.get(&known).clone());
            let joined = [&*left, &*right].concat();
            if joined.len() > 12 {
                continue;
            }
            if !known.contains(&joined) {
                known.push(joined.clone());
                words.push(joined);
            }
            merges.push((left, right));
        }
        (words, merges)
    })
}

/// All pairs of tokens whose concatenation is a token, by its id: what some converters write.
fn all_splits(tokens: &[(u32, Vec<u8>)], turned: bool) -> Vec<Pair> {
    let id = |bytes: &[u8]| tokens.iter().find(|(_, token)| token == bytes).map(|(id, _)| *id);
    let mut merges = Vec::new();
    for (_, token) in tokens {
        let mut splits: Vec<_> = (1..token.len())
            .filter_map(|at| Some((id(&token[..at])?, id(&token[at..])?, token.split_at(at))))
            .collect();
        splits.sort();
        if turned {
            splits.reverse();
        }
        merges.extend(splits.into_iter().map(|(_, _, (l, r))| (l.to_vec(), r.to_vec())));
    }
    merges
}

/// Merges pretokens as a tokenizer of this vocabulary does.
struct Merging<'v>(&'v Vocabulary, Merger);

impl<'v> Merging<'v> {
    fn new(vocabulary: &'v Vocabulary) -> Self {
        Self(vocabulary, Merger::new(vocabulary, &SpecialTokens::none()))
    }

    fn ids(&self, pretoken: &str) -> Vec<u32> {
        let Self(vocabulary, merger) = self;
        if merger.whole_first()
            && let Some(id) = vocabulary.id(pretoken.as_bytes())
        {
            return vec![id];
        }
        let mut ids = Vec::new();
        let (bytes, progress) = (pretoken.as_bytes(), Progress::default());
        merger.merge(bytes, &mut Lanes::new(), &mut ids, &progress).unwrap();
        ids
    }
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[ab]{0,40}|[abc]{0,40}|(aab){1,12}|a{1,40}", 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn derived_merges_give_the_ids_of_ranks(words in words(), texts in texts(), more in texts()) {
        let tokens = tokens(&words);
        let ranks = Vocabulary::from_ranks(tokens.clone()).unwrap();
        let derived = merges_of(&ranks, &SpecialTokens::none()).unwrap();
        let bytes = |id| ranks.token(id).unwrap();
        let pairs = derived.merges.iter().map(|merge| (bytes(merge.left), bytes(merge.right)));
        let listed = Vocabulary::from_merges(tokens, pairs).unwrap();
        let ignoring = listed.clone().ignoring_merges(true);
        let [by_ranks, by_list, by_both] = [&ranks, &listed, &ignoring].map(Merging::new);
        let wordy = words.iter().map(|word| String::from_utf8(word.clone()).unwrap());
        for text in texts.into_iter().chain(more).chain(wordy) {
            prop_assert_eq!(by_both.ids(&text), by_ranks.ids(&text));
            if derived.unmade.is_empty() {
                prop_assert_eq!(by_list.ids(&text), by_ranks.ids(&text));
            }
        }
        prop_assert_eq!(refusal(&ignoring, &SpecialTokens::none()).unwrap(), None);
        let unmade = refusal(&listed, &SpecialTokens::none()).unwrap();
        prop_assert_eq!(unmade.is_none(), derived.unmade.is_empty());
    }

    #[test]
    fn what_is_not_refused_gives_the_same_ids(
        (words, mut merges) in grown(),
        kind in 0..4,
        swap in any::<(Index, Index)>(),
        texts in texts(),
    ) {
        let tokens = tokens(&words);
        match kind {
            0 => {}
            1 => {
                let len = merges.len();
                merges.swap(swap.0.index(len), swap.1.index(len));
            }
            _ => merges = all_splits(&tokens, kind == 3),
        }
        let listed = Vocabulary::from_merges(tokens.clone(), merges).unwrap();
        let ranks = Vocabulary::from_ranks(tokens).unwrap();
        let by_ranks = Merging::new(&ranks);
        for listed in [listed.clone(), listed.ignoring_merges(true)] {
            if refusal(&listed, &SpecialTokens::none()).unwrap().is_some() {
                continue;
            }
            let by_list = Merging::new(&listed);
            for text in &texts {
                prop_assert_eq!(by_list.ids(text), by_ranks.ids(text));
            }
        }
    }
}

fn listed(words: &[&str], merges: &[(&str, &str)]) -> Vocabulary {
    let words: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
    Vocabulary::from_merges(tokens(&words), merges.iter().copied()).unwrap()
}

#[test]
fn a_refusal_says_why() {
    for (vocabulary, why) in [
        (listed(&["ab"], &[]), "\"a\") and token 98 (\"b\") would merge, since token 256"),
        (listed(&["ab", "bc"], &[("b", "c"), ("a", "b")]), "token 256 (\"ab\") is merged after"),
        (listed(&["ab", "xyz"], &[("a", "b")]), "no merges make token 257 (\"xyz\")"),
        (
            listed(&["ab", "bc", "abc"], &[("a", "bc"), ("a", "b"), ("b", "c"), ("ab", "c")]),
            "the merge of token 97 (\"a\") and token 257 (\"bc\") comes before",
        ),
    ] {
        let said = refusal(&vocabulary, &SpecialTokens::none()).unwrap().unwrap();
        assert!(said.contains(why), "{said}");
    }
    let vocabulary = listed(&["ab"], &[("a", "b")]);
    let special = SpecialTokens::new(vec![("ab".to_owned(), 256)], &vocabulary).unwrap();
    let said = refusal(&vocabulary, &special).unwrap().unwrap();
    assert!(said.contains("a merge makes token 256 (\"ab\"), which is a special token"), "{said}");
}

#[test]
fn special_tokens_have_no_merge() {
    let words = ["ab", "abc"].map(|word| word.as_bytes().to_vec());
    let ranks = Vocabulary::from_ranks(tokens(&words)).unwrap();
    let special = SpecialTokens::new(vec![("ab".to_owned(), 256)], &ranks).unwrap();
    let derived = merges_of(&ranks, &special).unwrap();
    assert!(derived.merges.is_empty());
    assert_eq!(derived.unmade, [257]);
    // As the merger has it.
    let (merger, mut ids) = (Merger::new(&ranks, &special), Vec::new());
    merger.merge(b"abc", &mut Lanes::new(), &mut ids, &Progress::default()).unwrap();
    assert_eq!(ids, [97, 98, 99]);
}

#[test]
fn a_token_too_long_to_watch_is_refused() {
    let ranks = Vocabulary::from_ranks(tokens(&[vec![b'a'; 1 << 15]])).unwrap();
    let error = merges_of(&ranks, &SpecialTokens::none()).unwrap_err().to_string();
    assert!(error.contains("token 256 has 32768 bytes"), "{error}");
}
