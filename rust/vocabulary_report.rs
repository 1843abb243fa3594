//! A tokenizer and counted text → what the vocabulary is worth: bytes a token as it grows, and
//! which tokens are the commonest and the longest.
//!
//! Only different pretokens are merged, once for each size that is asked about, so a report on a
//! hundredth of the text costs little beside learning from the rest. The text should be text that
//! was not learned from: on what was, every vocabulary looks better than it is.

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::count_pretokens::PretokenCounts;
use crate::encode::Tokenizer;
use crate::error::Result;
use crate::merge::{Lanes, Merger};
use crate::progress::Progress;
use crate::special_tokens::SpecialTokens;
use crate::vocabulary::{MergeRule, Vocabulary};

/// How many of the commonest and of the longest tokens are listed.
const LISTED: usize = 20;

/// What a vocabulary is worth on some text.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// How many bytes of text it was measured on, special tokens left out.
    pub text_bytes: u64,
    /// How many tokens the vocabulary has, and how many the text then is: for the vocabulary
    /// without merges, at each power of two, and as it is.
    pub growth: Vec<(usize, u64)>,
    /// Ids of the commonest tokens in the text, and how often each occurs.
    pub commonest: Vec<(u32, u64)>,
    /// Ids of the longest tokens, by length, then by id, and how often each occurs in the text.
    pub longest: Vec<(u32, u64)>,
}

/// Measures `tokenizer` on what was counted.
pub fn report(
    tokenizer: &Tokenizer,
    counts: &PretokenCounts,
    threads: &ThreadPool,
    progress: &Progress,
) -> Result<Report> {
    let vocabulary = tokenizer.vocabulary();
    let specials = SpecialTokens::new(tokenizer.special_tokens().to_vec(), vocabulary)?;
    let merges = vocabulary.merges().len();
    let mut growth = Vec::new();
    let mut occurrences = Vec::new();
    for kept in sizes(vocabulary.len(), merges) {
        let smaller = shortened(vocabulary, kept)?;
        occurrences = count_tokens(&smaller, &specials, counts, threads, progress)?;
        growth.push((vocabulary.len() - merges + kept, occurrences.iter().sum()));
    }
    let listed = |mut ids: Vec<u32>, key: &dyn Fn(u32) -> u64| {
        ids.sort_by_key(|&id| (std::cmp::Reverse(key(id)), id));
        ids.truncate(LISTED);
        ids.into_iter().map(|id| (id, occurrences[id as usize])).collect()
    };
    let is_ordinary = |id: &u32| !specials.is_special(*id);
    let ordinary: Vec<u32> = vocabulary.iter().map(|(id, _)| id).filter(is_ordinary).collect();
    let seen = ordinary.iter().copied().filter(|&id| occurrences[id as usize] > 0).collect();
    Ok(Report {
        text_bytes: counts.text_bytes(),
        growth,
        commonest: listed(seen, &|id| occurrences[id as usize]),
        longest: listed(ordinary, &|id| vocabulary.token(id).map_or(0, |token| token.len() as u64)),
    })
}

/// How many merges there are at each size that is told.
fn sizes(tokens: usize, merges: usize) -> Vec<usize> {
    let without = tokens - merges;
    let powers = (0..usize::BITS - 1).map(|power| 1 << power);
    let between = powers.filter(|&size| without < size && size < tokens);
    let mut sizes = vec![0];
    sizes.extend(between.map(|size: usize| size - without));
    if merges > 0 {
        sizes.push(merges);
    }
    sizes
}

/// The vocabulary with its first `kept` merges alone; the tokens stay.
fn shortened(vocabulary: &Vocabulary, kept: usize) -> Result<Vocabulary> {
    let token = |id| vocabulary.token(id).unwrap_or_default();
    let merges = match vocabulary.rule() {
        MergeRule::Merges(merges) => &merges[..kept],
        MergeRule::Ranks => &[],
    };
    let merges = merges.iter().map(|merge| (token(merge.left), token(merge.right)));
    Vocabulary::from_merges(vocabulary.iter(), merges)
}

/// By id: how often each token occurs in the text.
fn count_tokens(
    vocabulary: &Vocabulary,
    specials: &SpecialTokens,
    counts: &PretokenCounts,
    threads: &ThreadPool,
    progress: &Progress,
) -> Result<Vec<u64>> {
    let merger = Merger::new(vocabulary, specials);
    let words = counts.different(threads, progress)?;
    let none = || vec![0_u64; vocabulary.size()];
    let stripe = words.len().div_ceil(threads.current_num_threads()).max(1);
    threads.install(|| {
        words
            .par_chunks(stripe)
            .map(|words| {
                let (mut lanes, mut ids, mut occurrences) = (Lanes::default(), Vec::new(), none());
                for &word in words {
                    progress.check()?;
                    ids.clear();
                    counts.with_bytes(word, |bytes| {
                        merger.merge(bytes, &mut lanes, &mut ids, progress)
                    })?;
                    for &id in &ids {
                        occurrences[id as usize] += word.count;
                    }
                }
                Ok(occurrences)
            })
            .try_reduce(none, |mut sum, more| {
                sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
                Ok(sum)
            })
    })
}
