//! Text → ids: special tokens, pretokens, cache, merge; batches over threads, streams in pieces.
//!
//! A [`Tokenizer`] never changes and is shared freely. What changes while encoding lives in a
//! [`Scratch`], one a thread: the pretoken cache with its byte budget and buffers of fixed size. So
//! encoding takes memory for its ids alone. Pretokens go by rounds of some hundred: all are asked for
//! before the first is looked up, since a look-up right after its hash would wait for memory.

mod answers;
mod stream;

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rayon::prelude::*;

use crate::cut::CutRule;
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::merge::Merger;
use crate::normalize::Normalizer;
use crate::pretoken_cache::{PretokenCache, Tail};
use crate::pretokenize::Scheme;
use crate::progress::Progress;
use crate::round::Round;
use crate::seams::Seams;
use crate::special_tokens::{SpecialHandling, SpecialTokens};
use crate::vocabulary::Vocabulary;
use crate::vocabulary_files::TokenizerParts;
use answers::Answers;
pub use stream::StreamEncoder;

/// The byte budget of a [`Scratch`]'s cache. Memory is taken from the system as it is first
/// touched, so short texts cost far less.
pub const CACHE_BYTES: usize = 16 << 20;
/// A batch is split into parts of about this many bytes.
const PART: usize = 1 << 18;

/// Text → ids by one vocabulary, one set of special tokens and one pattern.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Vocabulary,
    specials: SpecialTokens,
    /// What is done to text between special tokens before it is split.
    normalizer: Option<Normalizer>,
    scheme: Scheme,
    merger: Merger,
    seams: Seams,
    /// Where text may be cut, with special tokens and without.
    cuts: [CutRule; 2],
    /// Tells the scratch of one tokenizer from that of another.
    serial: u64,
    /// Made ready so that an encode call finds its buffers.
    scratches: Mutex<Vec<Scratch>>,
    /// What the threads of a shard leave to those of the next, with the bytes of each cache.
    warm: Mutex<Vec<(usize, Scratch)>>,
    threads: Mutex<Option<Threads>>,
}

/// Threads of our own: the global pool does not survive a fork, and neither do these, so they know
/// the process that made them.
#[derive(Debug)]
struct Threads {
    process: u32,
    pool: Arc<rayon::ThreadPool>,
}

/// What changes while encoding: the pretoken cache and buffers. One a thread.
#[derive(Debug)]
pub struct Scratch {
    serial: u64,
    cache: PretokenCache,
    round: Round,
    answers: Answers,
}

impl Tokenizer {
    /// A tokenizer of `vocabulary`, split by `scheme`. Each special token must be in the vocabulary
    /// under the id given.
    pub fn new(
        vocabulary: Vocabulary,
        special_tokens: Vec<(String, u32)>,
        scheme: Scheme,
    ) -> Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let specials = SpecialTokens::new(special_tokens, &vocabulary)?;
        let tokenizer = Self {
            merger: Merger::new(&vocabulary, &specials),
            seams: Seams::new(&vocabulary),
            cuts: [
                CutRule::new(scheme.clone(), specials.tokens().iter().map(|(text, _)| text))?,
                CutRule::new(scheme.clone(), [""; 0])?,
            ],
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            scratches: Mutex::new(Vec::new()),
            warm: Mutex::new(Vec::new()),
            threads: Mutex::new(None),
            vocabulary,
            specials,
            normalizer: None,
            scheme,
        };
        // What is built on first use, such as the tables of characters, is built now: encoding
        // shall take memory for ids alone.
        let mut scratch = tokenizer.scratch()?;
        let warm = "Wärm  up 1 世\u{3000}'s🦀!\n";
        tokenizer.encode_into(warm, SpecialHandling::Encode, &mut scratch, &mut Vec::new())?;
        tokenizer.keep(scratch);
        Ok(tokenizer)
    }

    /// A tokenizer of what files hold; the pattern is GPT-2's where they do not tell.
    pub fn from_parts(parts: TokenizerParts) -> Result<Self> {
        let scheme = Scheme::new(parts.pattern.as_deref().unwrap_or("gpt2"))?;
        let tokenizer = Self::new(parts.vocabulary, parts.special_tokens, scheme)?;
        Ok(tokenizer.normalized(parts.normalizer))
    }

    /// The same, but text is normalized before it is split.
    fn normalized(self, normalizer: Option<Normalizer>) -> Self {
        let cuts = self.cuts.map(|rule| rule.normalized(normalizer));
        Self { normalizer, cuts, ..self }
    }

    /// What this tokenizer is made of.
    pub fn parts(&self) -> TokenizerParts {
        TokenizerParts {
            vocabulary: self.vocabulary.clone(),
            special_tokens: self.special_tokens().to_vec(),
            pattern: Some(self.scheme.name().to_owned()),
            normalizer: self.normalizer,
            remarks: Vec::new(),
        }
    }

    /// The tokens and merges.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The special tokens and their ids, by rising id.
    pub fn special_tokens(&self) -> &[(String, u32)] {
        self.specials.tokens()
    }

    /// The splitting rule.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// What is done to text between special tokens before it is split.
    pub fn normalizer(&self) -> Option<Normalizer> {
        self.normalizer
    }

    /// Where text may be cut so that its parts can be encoded on their own.
    pub fn cuts(&self, special: SpecialHandling) -> &CutRule {
        &self.cuts[usize::from(special == SpecialHandling::AsText)]
    }

    /// Buffers for one thread, with a cache of [`CACHE_BYTES`].
    pub fn scratch(&self) -> Result<Scratch> {
        self.scratch_with(CACHE_BYTES)
    }

    /// Buffers for one thread, with a cache of at most `cache_bytes`.
    pub fn scratch_with(&self, cache_bytes: usize) -> Result<Scratch> {
        Ok(Scratch {
            serial: self.serial,
            cache: PretokenCache::with_budget(cache_bytes)?,
            round: Round::new(),
            answers: Answers::new(),
        })
    }

    /// Buffers that [`Tokenizer::leave_warm`] kept, or new ones: a cache that knows the text already
    /// saves a shard the time to fill its own.
    pub(crate) fn warm_scratch(&self, cache_bytes: usize) -> Result<Scratch> {
        let kept = self.warm.try_lock().ok().and_then(|mut warm| {
            let place = warm.iter().position(|(bytes, _)| *bytes == cache_bytes)?;
            Some(warm.swap_remove(place).1)
        });
        kept.map_or_else(|| self.scratch_with(cache_bytes), Ok)
    }

    /// Keeps buffers for the next shard; all that are kept have caches of at most `most` bytes.
    pub(crate) fn leave_warm(&self, cache_bytes: usize, scratch: Scratch, most: usize) {
        if let Ok(mut warm) = self.warm.try_lock() {
            warm.push((cache_bytes, scratch));
            while warm.iter().map(|(bytes, _)| bytes).sum::<usize>() > most {
                warm.remove(0);
            }
        }
    }

    /// The ids of `text`.
    pub fn encode(&self, text: &str, special: SpecialHandling) -> Result<Vec<u32>> {
        self.encode_watched(text, special, &Progress::default())
    }

    /// The ids of `text`; ends with [`Error::Interrupted`] soon after `progress` is cancelled.
    pub fn encode_watched(
        &self,
        text: &str,
        special: SpecialHandling,
        progress: &Progress,
    ) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.with_scratch(|scratch| {
            self.encode_checked(text, special, scratch, &mut ids, progress)
        })?;
        Ok(ids)
    }

    /// Appends the ids of `text` to `out`. On an error `out` holds the ids of what came before.
    pub fn encode_into(
        &self,
        text: &str,
        special: SpecialHandling,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) -> Result<()> {
        self.encode_checked(text, special, scratch, out, &Progress::default())
    }

    /// The ids of all `texts`, end to end, and where each text's begin (one offset more than there
    /// are texts), on `threads` threads, or as many as the machine has.
    pub fn encode_batch(
        &self,
        texts: &[&str],
        special: SpecialHandling,
        threads: Option<usize>,
        progress: &Progress,
    ) -> Result<(Vec<u32>, Vec<i64>)> {
        let parts = split_batch(texts);
        let encode = |texts: &[&str]| {
            let (mut ids, mut ends) = (Vec::new(), Vec::with_capacity(texts.len()));
            self.with_scratch(|scratch| {
                texts.iter().try_for_each(|text| {
                    self.encode_checked(text, special, scratch, &mut ids, progress)?;
                    ends.push(ids.len());
                    Ok(())
                })
            })?;
            Ok((ids, ends))
        };
        let encoded = if parts.len() < 2 || threads == Some(1) {
            parts.into_iter().map(encode).collect::<Result<Vec<_>>>()?
        } else {
            let pool = self.pool(threads)?;
            pool.install(|| parts.into_par_iter().map(encode).collect::<Result<Vec<_>>>())?
        };
        join_batch(encoded, texts.len())
    }

    /// A stream: texts in any pieces → the ids of the joined text.
    pub fn stream(&self) -> Result<StreamEncoder> {
        StreamEncoder::new(self)
    }

    /// As [`Tokenizer::encode_into`]; ends with [`Error::Interrupted`] soon after `progress` is
    /// cancelled.
    pub fn encode_checked(
        &self,
        text: &str,
        special: SpecialHandling,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        if scratch.serial != self.serial {
            scratch.cache.clear()?;
            scratch.serial = self.serial;
        }
        let mut start = 0;
        while special != SpecialHandling::AsText
            && let Some((from, to, id)) = self.specials.find(text.as_bytes(), start)
        {
            if special == SpecialHandling::Refuse {
                let token = text[from..to].to_owned();
                return Err(Error::SpecialTokenInText { token, offset: from });
            }
            self.encode_stretch(&text[start..from], scratch, out, progress)?;
            reserve(out, 1)?;
            out.push(id);
            start = to;
        }
        self.encode_stretch(&text[start..], scratch, out, progress)
    }

    /// A text without special tokens.
    fn encode_stretch(
        &self,
        text: &str,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        match self.normalizer {
            None => self.encode_normalized(text, scratch, out, progress),
            Some(normalizer) => {
                self.encode_normalized(&normalizer.apply(text)?, scratch, out, progress)
            }
        }
    }

    /// A text without special tokens, as it is split.
    fn encode_normalized(
        &self,
        text: &str,
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
        progress: &Progress,
    ) -> Result<()> {
        let bytes = text.as_bytes();
        let tail = Tail::new(bytes);
        // What is a token of its own only as a whole pretoken must stay whole.
        let seams = (!self.merger.whole_first()).then_some(&self.seams);
        let mut scanner = self.scheme.scanner(text).parted(seams);
        let Scratch { cache, round, answers, .. } = scratch;
        round.restart();
        answers.clear();
        while round.fill(&mut scanner, bytes, &tail, cache)? {
            progress.check()?;
            answers.take(round, cache);
            if answers.is_full() {
                answers.settle(self, bytes, cache, out, progress)?;
            }
        }
        answers.settle(self, bytes, cache, out, progress)
    }

    /// The id of a pretoken that is a token, where that is all that counts.
    fn whole(&self, pretoken: &[u8]) -> Option<u32> {
        let id = self.merger.whole_first().then(|| self.vocabulary.id(pretoken))??;
        (!self.specials.is_special(id)).then_some(id)
    }

    /// Calls `work` with a scratch that lies ready, or a new one where all are in use.
    fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> Result<T>) -> Result<T> {
        // Never waits: after a fork the lock may be held by a thread that is no more.
        let ready = self.scratches.try_lock().ok().and_then(|mut ready| ready.pop());
        let mut scratch = match ready {
            Some(scratch) => scratch,
            None => self.scratch()?,
        };
        let result = work(&mut scratch);
        self.keep(scratch);
        result
    }

    fn keep(&self, scratch: Scratch) {
        if let Ok(mut ready) = self.scratches.try_lock() {
            ready.push(scratch);
        }
    }

    fn pool(&self, threads: Option<usize>) -> Result<Arc<rayon::ThreadPool>> {
        let Ok(mut kept) = self.threads.try_lock() else { return new_pool(threads) };
        if let Some(Threads { process, pool }) = &*kept {
            if *process != process::id() {
                // Forked: the threads are not here, and dropping the pool would wait for them.
                std::mem::forget(kept.take());
            } else if threads.is_none_or(|threads| threads == pool.current_num_threads()) {
                return Ok(Arc::clone(pool));
            }
        }
        let pool = new_pool(threads)?;
        *kept = Some(Threads { process: process::id(), pool: Arc::clone(&pool) });
        Ok(pool)
    }
}

fn new_pool(threads: Option<usize>) -> Result<Arc<rayon::ThreadPool>> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .thread_name(|number| format!("lmkit-encode-{number}"))
        .build()
        .map(Arc::new)
        .map_err(|why| Error::Usage(format!("cannot start threads: {why}")))
}

/// `texts` in parts of about [`PART`] bytes.
fn split_batch<'a, 't>(texts: &'a [&'t str]) -> Vec<&'a [&'t str]> {
    let mut parts = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (place, text) in texts.iter().enumerate() {
        bytes += text.len() + 16;
        if bytes >= PART {
            parts.push(&texts[first..=place]);
            (first, bytes) = (place + 1, 0);
        }
    }
    if first < texts.len() {
        parts.push(&texts[first..]);
    }
    parts
}

/// The ids of all parts in one array, and the offsets of each text in it.
fn join_batch(parts: Vec<(Vec<u32>, Vec<usize>)>, texts: usize) -> Result<(Vec<u32>, Vec<i64>)> {
    let mut ids = Vec::new();
    reserve(&mut ids, parts.iter().map(|(ids, _)| ids.len()).sum())?;
    let mut offsets = Vec::with_capacity(texts + 1);
    offsets.push(0);
    for (part, ends) in parts {
        let base = ids.len();
        offsets.extend(ends.iter().map(|end| i64::try_from(base + end).unwrap_or(i64::MAX)));
        ids.extend_from_slice(&part);
    }
    Ok((ids, offsets))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::processor::level;

    const PIECES: [&str; 16] = [
        "the",
        " the",
        "a",
        " a",
        "ab",
        "ba",
        "'s",
        " ",
        "\n",
        "12",
        "!?",
        "é",
        "世界",
        "が",
        "🦀",
        "a word of more bytes than the table of short ones takes",
    ];

    proptest! {
        #[test]
        fn ids_do_not_depend_on_what_the_processor_can_do(
            pieces in vec((select(&PIECES[..]), 1..40_usize), 0..60),
            tokens in vec("[abeht ]{2,9}", 0..60),
        ) {
            let text: String = pieces.iter().map(|(piece, times)| piece.repeat(*times)).collect();
            let bytes = (0..=255_u8).map(|byte| vec![byte]);
            let mut all: Vec<Vec<u8>> = bytes.chain(tokens.iter().map(|t| t.clone().into_bytes())).collect();
            let mut seen = std::collections::HashSet::new();
            all.retain(|token| seen.insert(token.clone()));
            let ids = |level| level::at_most(level, || {
                let vocabulary = Vocabulary::from_ranks((0..).zip(all.clone())).unwrap();
                let tokenizer = Tokenizer::new(vocabulary, Vec::new(), Scheme::Gpt2).unwrap();
                let mut scratch = tokenizer.scratch_with(1 << 14).unwrap();
                let mut ids = Vec::new();
                // At first all is new, then some is known.
                for _ in 0..2 {
                    let handling = SpecialHandling::AsText;
                    tokenizer.encode_into(&text, handling, &mut scratch, &mut ids).unwrap();
                }
                ids
            });
            let [expected, others @ ..] = level::ALL.map(ids);
            for other in others {
                prop_assert_eq!(&other, &expected);
            }
        }
    }
}
