//! Counted pretokens → merges: byte-pair encoding learned exactly, most frequent pair first.
//!
//! All words lie in one array that never moves ([`words`]). A merge visits the places where its
//! pair was seen when the younger of its symbols was made, and adds up what changes by neighbour,
//! so that the table of pairs is touched once for each different neighbour ([`pairs`]). Pairs too
//! rare to be merged before the vocabulary is full are neither listed nor counted: should the most
//! frequent one ever fall below that threshold, everything is counted anew under a lower one.
//!
//! Memory: 2 bytes (4 from 65,534 tokens on) for each byte of the different words, 4 bytes for each
//! place of a pair that is kept. One thread does the merging; the others help to set out.

mod census;
mod pairs;
mod repeated;
mod start;
mod words;

use rayon::ThreadPool;
use rustc_hash::FxHashMap;

use crate::count_pretokens::PretokenCounts;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::vocabulary::{MergeRule, Vocabulary};
use crate::vocabulary_files::TokenizerParts;
use pairs::{Best, Pairs, Tokens};
use start::{Spelling, Start};
use words::{Cell, Joined, Pair, Words};

/// Which of the most frequent pairs is merged first, and how ids are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TieBreak {
    /// The greatest (left bytes, right bytes), the rule of the CS336 course. Ids: the 256 bytes in
    /// GPT-2's order, the merges, the special tokens.
    #[default]
    Lexicographic,
    /// The smallest (left id, right id), the rule of Hugging Face's `BpeTrainer`. Ids: the special
    /// tokens, the 256 bytes by the code point that stands for them, the merges.
    HuggingFace,
}

/// Where the ids of special tokens stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialIds {
    /// Before the bytes; of a tokenizer that is extended, before the new merges.
    First,
    /// After the merges.
    Last,
}

impl SpecialIds {
    /// `first` or `last`.
    pub fn new(name: &str) -> Result<Self> {
        match name {
            "first" => Ok(Self::First),
            "last" => Ok(Self::Last),
            _ => Err(Error::Usage(format!("--special_ids {name:?} is none of first, last"))),
        }
    }
}

impl TieBreak {
    /// The rule called `name`.
    pub fn new(name: &str) -> Result<Self> {
        match name {
            "lexicographic" => Ok(Self::Lexicographic),
            "huggingface" => Ok(Self::HuggingFace),
            _ => Err(Error::Usage(format!(
                "--tie_break {name:?} is none of lexicographic, huggingface"
            ))),
        }
    }
}

/// What to learn.
#[derive(Debug, Clone, Default)]
pub struct LearnOptions {
    /// How many tokens the vocabulary shall have, bytes and special tokens included.
    pub vocab_size: usize,
    /// Tokens that stand for themselves and are cut out of the text before counting.
    pub special_tokens: Vec<String>,
    /// The rule among equally frequent pairs.
    pub tie_break: TieBreak,
    /// Pairs rarer than this are not merged.
    pub min_frequency: u64,
    /// No token that is learned has more bytes than this; none where there is no limit.
    pub max_token_length: Option<usize>,
    /// Where the ids of special tokens stand; where the rule has them, if nothing is said.
    pub special_ids: Option<SpecialIds>,
    /// A tokenizer whose tokens keep their ids, and whose merges come first.
    pub extend: Option<TokenizerParts>,
}

impl LearnOptions {
    /// Refuses what cannot be learned, before any text is read.
    pub fn check(&self) -> Result<()> {
        let specials = &self.special_tokens;
        for (index, token) in specials.iter().enumerate() {
            let why = if token.is_empty() {
                "a special token has at least one byte"
            } else if specials[..index].contains(token) {
                "is given twice"
            } else {
                continue;
            };
            return Err(Error::SpecialToken { token: format!("{token:?}"), why: why.to_owned() });
        }
        if self.max_token_length.is_some_and(|length| length < 2) {
            return Err(Error::Usage("--max_token_length must be at least 2".to_owned()));
        }
        let least = self.least();
        if self.vocab_size < least {
            let own = match &self.extend {
                Some(base) => format!("the {} tokens to extend", base.vocabulary.len()),
                None => "256 bytes".to_owned(),
            };
            return Err(Error::Usage(format!(
                "--vocab_size {} is too small for {own} and {}; give at least {least}",
                self.vocab_size,
                match self.new_specials() {
                    1 => "1 special token".to_owned(),
                    more => format!("{more} special tokens"),
                },
            )));
        }
        if let Some(base) = &self.extend
            && *base.vocabulary.rule() == MergeRule::Ranks
        {
            let why = "--extend: a vocabulary of ranks has no merges to go on from";
            return Err(Error::Usage(why.to_owned()));
        }
        if let Some(base) = &self.extend
            && (base.vocabulary.ignores_merges() || base.normalizer.is_some())
        {
            let what = match base.normalizer {
                Some(normalizer) => format!("text that it normalizes ({})", normalizer.name()),
                None => "whole tokens that no merge makes (ignore_merges)".to_owned(),
            };
            return Err(Error::Usage(format!(
                "--extend: the tokenizer takes {what}, which learning does not"
            )));
        }
        if u32::try_from(self.vocab_size).is_ok_and(|size| size <= i32::MAX.unsigned_abs()) {
            Ok(())
        } else {
            Err(Error::Usage(format!(
                "--vocab_size {} is larger than 2147483647, the most that int32 ids can tell apart",
                self.vocab_size
            )))
        }
    }

    /// The tokens that are there before anything is learned.
    fn least(&self) -> usize {
        self.extend.as_ref().map_or(256, |base| base.vocabulary.len()) + self.new_specials()
    }

    /// The special tokens that have no token yet; single bytes always have one.
    fn new_specials(&self) -> usize {
        let is_known = |token: &str| {
            let base = self.extend.as_ref();
            token.len() == 1
                || base.is_some_and(|base| base.vocabulary.id(token.as_bytes()).is_some())
        };
        self.special_tokens.iter().filter(|token| !is_known(token)).count()
    }

    fn special_ids(&self) -> SpecialIds {
        self.special_ids.unwrap_or(match self.tie_break {
            TieBreak::Lexicographic => SpecialIds::Last,
            TieBreak::HuggingFace => SpecialIds::First,
        })
    }
}

/// What was learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Learned {
    /// Every token with its id, the special ones included, by rising id.
    pub tokens: Vec<(u32, Vec<u8>)>,
    /// The merges in the order they were learned.
    pub merges: Vec<(Vec<u8>, Vec<u8>)>,
    /// The special tokens and their ids, in the order they were given.
    pub special_tokens: Vec<(String, u32)>,
}

impl Learned {
    /// The vocabulary.
    pub fn vocabulary(&self) -> Result<Vocabulary> {
        let tokens = self.tokens.iter().map(|(id, token)| (*id, token));
        Vocabulary::from_merges(tokens, self.merges.iter().map(|(left, right)| (left, right)))
    }
}

/// The phase of [`Progress`] in which text is read and counted, in bytes.
pub const COUNTING: u64 = 0;
/// The phase of [`Progress`] in which merges are learned, in tokens.
pub const MERGING: u64 = 1;

/// Learns a vocabulary. The calling thread and `threads` work.
pub fn learn_merges(
    counts: PretokenCounts,
    options: &LearnOptions,
    threads: &ThreadPool,
    progress: &Progress,
) -> Result<Learned> {
    options.check()?;
    if counts.pretokens() == 0 {
        return Err(Error::EmptyCorpus);
    }
    let to_learn = options.vocab_size - options.least();
    progress.start(MERGING, to_learn as u64);
    let start = Start::new(options)?;
    let room = start.tokens.len() + to_learn;
    // Two values of a cell are taken.
    let (tokens, merges) = if room < usize::from(u16::MAX) - 1 {
        Learner::<u16>::new(counts, start, room, options, threads, progress)?.learn()?
    } else {
        Learner::<u32>::new(counts, start, room, options, threads, progress)?.learn()?
    };
    Ok(numbered(&tokens, &merges, options))
}

struct Learner<'a, C> {
    options: &'a LearnOptions,
    room: usize,
    threads: &'a ThreadPool,
    progress: &'a Progress,
    words: Words<C>,
    pairs: Pairs,
    tokens: Tokens,
    symbols: FxHashMap<Vec<u8>, u32>,
    merges: Vec<Pair>,
    left: Neighbours,
    right: Neighbours,
    /// What Hugging Face's trainer still believes of pairs that it has merged.
    believed: FxHashMap<Pair, u64>,
}

impl<'a, C: Cell> Learner<'a, C> {
    fn new(
        counts: PretokenCounts,
        start: Start,
        room: usize,
        options: &'a LearnOptions,
        threads: &'a ThreadPool,
        progress: &'a Progress,
    ) -> Result<Self> {
        let Start { tokens, spelling } = start;
        let words = Words::new(counts, &spelling, &tokens.lens, threads, progress)?;
        progress.check()?;
        let least = options.min_frequency.max(1);
        let threshold = |highest: u64| (highest / (2 * options.vocab_size as u64)).max(least);
        let (threshold, found) = match spelling {
            Spelling::Bytes(_) => {
                census::byte_pairs(&words, &tokens.lens, threads, progress, threshold)?
            }
            Spelling::Merged { .. } => {
                census::all_pairs(&words, &tokens.lens, threads, progress, threshold)?
            }
        };
        let mut pairs = Pairs::new(options.tie_break, threshold, options.max_token_length);
        for found in found {
            if pairs.takes(found.pair, found.count, &tokens) {
                pairs.insert(found.pair, found.count, found.places, &tokens);
            }
        }
        Ok(Self {
            options,
            room,
            threads,
            progress,
            words,
            pairs,
            symbols: tokens
                .iter()
                .zip(0..)
                .map(|(token, symbol)| (token.to_vec(), symbol))
                .collect(),
            tokens,
            merges: Vec::new(),
            left: Neighbours::default(),
            right: Neighbours::default(),
            believed: FxHashMap::default(),
        })
    }

    fn learn(mut self) -> Result<(Tokens, Vec<Pair>)> {
        while self.tokens.len() < self.room {
            self.progress.check()?;
            let Some(best) = self.pairs.pop(&self.tokens) else {
                if self.count_anew()? {
                    continue;
                }
                break;
            };
            self.merge(best)?;
        }
        Ok((self.tokens, self.merges))
    }

    /// Lowers the threshold; false when it was as low as it goes.
    fn count_anew(&mut self) -> Result<bool> {
        let least = self.options.min_frequency.max(1);
        if self.pairs.threshold() <= least {
            return Ok(false);
        }
        let threshold = (self.pairs.threshold() / 4).max(least);
        self.pairs = Pairs::new(self.options.tie_break, threshold, self.options.max_token_length);
        let lens = &self.tokens.lens;
        let (words, threads, progress) = (&self.words, self.threads, self.progress);
        for found in census::all_pairs(words, lens, threads, progress, |_| threshold)?.1 {
            let count = found.count + self.believed.get(&found.pair).copied().unwrap_or(0);
            if self.pairs.takes(found.pair, count, &self.tokens) {
                self.pairs.insert(found.pair, count, found.places, &self.tokens);
            }
        }
        Ok(true)
    }

    fn merge(&mut self, best: Best) -> Result<()> {
        let (left, right) = best.pair;
        self.merges.push(best.pair);
        let token = [self.tokens.get(left), self.tokens.get(right)].concat();
        let known = self.symbols.get(&token).copied();
        let merged = known.unwrap_or_else(|| u32::try_from(self.tokens.len()).unwrap_or(u32::MAX));
        let lens = &self.tokens.lens;
        let joined = Joined {
            left,
            right,
            merged,
            left_len: lens[left as usize],
            right_len: lens[right as usize],
        };
        if known.is_some() {
            self.merge_into_known(best, joined)
        } else {
            self.tokens.push(&token);
            self.symbols.insert(token, merged);
            self.progress.add(1);
            self.merge_into_new(best, joined)
        }
    }

    fn merge_into_new(&mut self, mut best: Best, joined: Joined) -> Result<()> {
        let Joined { left: a, right: b, merged: m, .. } = joined;
        let places = self.turn(&mut best)?;
        let Self { words, pairs, tokens, left, right, progress, .. } = self;
        left.make_room(tokens.len());
        right.make_room(tokens.len());
        // Of `m` side by side: the left one was met as a left neighbour, after it had been told as
        // `m` with the right neighbour `a`.
        let lens = &tokens.lens;
        words.merge_at(&places, joined, progress, |before, after, place, weight| {
            if let Some(before) = before {
                left.add(before, place - lens[before as usize], weight);
            }
            if let Some(after) = after {
                right.add(after, place, weight);
            }
        })?;
        drop(places);
        let chained = left.weight(m);
        let overlapping = if a == b { right.weight(a) } else { 0 };
        for neighbour in left.touched.iter().copied().filter(|&neighbour| neighbour != m) {
            pairs.lower((neighbour, a), left.weight(neighbour));
        }
        for &neighbour in &right.touched {
            pairs.lower((b, neighbour), right.weight(neighbour));
        }
        if let Some(weight) = right.weight_mut(a) {
            *weight -= chained;
        }
        left.settle(pairs, tokens, |neighbour| (neighbour, m));
        right.settle(pairs, tokens, |neighbour| (m, neighbour));
        self.believe(&best, overlapping);
        Ok(())
    }

    /// The places to merge at now: those of this turn, or, where others have turns of their own,
    /// all in the words of this turn, since Hugging Face's trainer merges word by word.
    fn turn(&self, best: &mut Best) -> Result<Vec<u32>> {
        let places = std::mem::take(&mut best.places);
        if best.partial {
            let lens = &self.tokens.lens;
            self.words.places_in_words_of(&places, best.pair, lens, self.progress)
        } else {
            Ok(places)
        }
    }

    /// Hugging Face's trainer does not take what it merges from the merged pair's own count, except
    /// where two places overlap; the rest is counted in should the pair ever come back.
    fn believe(&mut self, best: &Best, overlapping: u64) {
        if self.options.tie_break == TieBreak::HuggingFace && !best.partial {
            self.believed.insert(best.pair, best.count.saturating_sub(overlapping));
        }
    }
}

/// What one merge changes, by the neighbour on one side.
#[derive(Debug, Default)]
struct Neighbours {
    changes: Vec<Change>,
    touched: Vec<u32>,
    /// Neighbour and place of each new pair, in the order they arose.
    log: Vec<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Change {
    weight: u64,
    places: u32,
    record: Option<u32>,
}

impl Neighbours {
    fn make_room(&mut self, symbols: usize) {
        if self.changes.len() < symbols {
            self.changes.resize(symbols.next_power_of_two(), Change::default());
        }
    }

    #[inline]
    fn add(&mut self, neighbour: u32, place: u32, weight: u64) {
        let change = &mut self.changes[neighbour as usize];
        if change.places == 0 {
            self.touched.push(neighbour);
        }
        change.places += 1;
        change.weight += weight;
        self.log.push((neighbour, place));
    }

    fn weight(&self, neighbour: u32) -> u64 {
        self.changes[neighbour as usize].weight
    }

    fn weight_mut(&mut self, neighbour: u32) -> Option<&mut u64> {
        let change = &mut self.changes[neighbour as usize];
        (change.places > 0).then_some(&mut change.weight)
    }

    /// Enters the new pairs that are frequent enough, with lists of exactly their size, and is
    /// empty again.
    fn settle(&mut self, pairs: &mut Pairs, tokens: &Tokens, pair: impl Fn(u32) -> Pair) {
        for &neighbour in &self.touched {
            let change = &mut self.changes[neighbour as usize];
            let pair = pair(neighbour);
            if pairs.takes(pair, change.weight, tokens) {
                let places = Vec::with_capacity(change.places as usize);
                change.record = Some(pairs.insert(pair, change.weight, places, tokens));
            }
        }
        for (neighbour, place) in self.log.drain(..) {
            if let Some(record) = self.changes[neighbour as usize].record {
                pairs.add_place(record, place);
            }
        }
        for neighbour in self.touched.drain(..) {
            self.changes[neighbour as usize] = Change::default();
        }
    }
}

/// The final ids.
fn numbered(tokens: &Tokens, merges: &[Pair], options: &LearnOptions) -> Learned {
    let base = options.extend.as_ref().map(|base| &base.vocabulary);
    let known: Vec<(u32, &[u8])> = base.into_iter().flat_map(Vocabulary::iter).collect();
    let mut ids: FxHashMap<&[u8], u32> = known.iter().map(|&(id, token)| (token, id)).collect();
    let mut by_id: Vec<(u32, Vec<u8>)> =
        known.into_iter().map(|(id, token)| (id, token.to_vec())).collect();
    let specials = options.special_tokens.iter().map(String::as_bytes);
    let ordered: Vec<&[u8]> = match options.special_ids() {
        SpecialIds::First => specials.chain(tokens.iter()).collect(),
        SpecialIds::Last => tokens.iter().chain(specials).collect(),
    };
    let mut next = base.map_or(0, |base| u32::try_from(base.size()).unwrap_or(u32::MAX));
    for token in ordered {
        ids.entry(token).or_insert_with(|| {
            by_id.push((next, token.to_vec()));
            next += 1;
            next - 1
        });
    }
    let token_of = |id: u32| base.and_then(|base| base.token(id)).unwrap_or_default().to_vec();
    let first = base.map_or(&[][..], Vocabulary::merges);
    let first = first.iter().map(|merge| (token_of(merge.left), token_of(merge.right)));
    let learned = merges.iter();
    let learned =
        learned.map(|&(left, right)| (tokens.get(left).to_vec(), tokens.get(right).to_vec()));
    Learned {
        merges: first.chain(learned).collect(),
        special_tokens: options
            .special_tokens
            .iter()
            .map(|token| (token.clone(), ids[token.as_bytes()]))
            .collect(),
        tokens: by_id,
    }
}
