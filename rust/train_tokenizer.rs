//! Text, counts of text, or both → a tokenizer: what the options of `train-tokenizer` mean together.
//!
//! Three steps, each with progress of its own: text is counted and counts are read
//! ([`Trainer::count_source`], [`Trainer::count_batches`]), merges are learned from what was counted
//! ([`Trainer::learn`]), and what the vocabulary is worth is measured on text that was held out
//! ([`Trainer::report`]). What is not said is taken from the tokenizer to extend, else from the
//! saved counts; what is said and does not fit them is an error before anything is read.

use std::path::PathBuf;
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::count_pretokens::{
    CountOptions, Counting, Counts, HandOver, MemoryLimit, PretokenCounter, PretokenCounts,
};
use crate::counts_file::{self, Header};
use crate::encode::Tokenizer;
use crate::error::{Error, Result};
use crate::learn_merges::{COUNTING, LearnOptions, learn_merges};
use crate::pretokenize::Scheme;
use crate::progress::Progress;
use crate::text_source::{DecodeErrors, RowFormat, SourceOptions, Split, TextSource};
use crate::vocabulary_files::TokenizerParts;
use crate::vocabulary_report::{self, Report};

/// The special token of a tokenizer of which nothing else is said; documents end with it.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Of a hundred documents so many are learned from where the others serve a report.
const LEARNED_SHARE: f64 = 0.99;

/// What is asked for; `None` where nothing was said.
#[derive(Debug, Clone, Default)]
pub struct TrainOptions {
    /// How much to learn, and by which rule. Its special tokens and its tokenizer to extend are
    /// those below.
    pub learn: LearnOptions,
    /// The special tokens.
    pub special_tokens: Option<Vec<String>>,
    /// A pattern's name, or a regular expression.
    pub pattern: Option<String>,
    /// A tokenizer whose tokens and merges come first.
    pub extend: Option<TokenizerParts>,
    /// Files of counts, which add up.
    pub from_counts: Vec<PathBuf>,
    /// The share of the documents that is learned from.
    pub sample: Option<f64>,
    /// Which documents those are.
    pub seed: u64,
    /// Whether documents are held out for a report.
    pub holds_out: bool,
    /// How much memory may be taken.
    pub memory: Option<MemoryLimit>,
    /// How many threads work; one a core where nothing is said.
    pub num_threads: Option<usize>,
}

/// Checked options, ready to train.
#[derive(Debug)]
pub struct Trainer {
    learn: LearnOptions,
    scheme: Scheme,
    counting: Counting,
    count: CountOptions,
    from_counts: Vec<(PathBuf, Header)>,
    sample: Option<f64>,
    num_threads: usize,
}

impl Trainer {
    /// Refuses what cannot be learned, before any text is read.
    pub fn new(options: TrainOptions) -> Result<Self> {
        if options.num_threads == Some(0) {
            return Err(Error::Usage("--num_threads must be at least 1".to_owned()));
        }
        if options.sample.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(Error::Usage("--sample must be above 0 and at most 1".to_owned()));
        }
        let from_counts = options
            .from_counts
            .iter()
            .map(|path| Ok((path.clone(), counts_file::read_header(path)?)))
            .collect::<Result<Vec<_>>>()?;
        let pattern = pattern_of(&options, &from_counts)?;
        let scheme = Scheme::new(&pattern)?;
        let special_tokens = special_tokens_of(&options, &from_counts)?;
        let learn = LearnOptions {
            special_tokens: special_tokens.clone(),
            extend: options.extend,
            ..options.learn
        };
        learn.check()?;
        let counting = Counting::new(scheme.clone(), &special_tokens)?;
        let share = options.sample.or(options.holds_out.then_some(LEARNED_SHARE));
        let split = share.map(|share| {
            let specials: Vec<&str> = special_tokens.iter().map(String::as_str).collect();
            let separator = specials.iter().find(|&&token| token == END_OF_TEXT);
            let separator = separator.or(specials.first()).copied();
            Split::seeded(share, options.seed, separator, &specials)
        });
        let count = CountOptions {
            split: split.transpose()?,
            holds_out: options.holds_out,
            memory: options.memory,
        };
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let most = options.memory.map_or(usize::MAX, MemoryLimit::max_threads);
        Ok(Self {
            learn,
            scheme,
            counting,
            count,
            from_counts,
            sample: options.sample,
            num_threads: options.num_threads.unwrap_or(cores).min(most),
        })
    }

    /// What `paths` name, without what this run itself will write; `parquet` reads such files.
    pub fn source(
        &self,
        paths: &[PathBuf],
        errors: &str,
        text_field: Option<String>,
        leave_out: &[PathBuf],
        parquet: Option<Arc<dyn RowFormat>>,
    ) -> Result<TextSource> {
        let errors = DecodeErrors::new(errors)?;
        let mut options = SourceOptions {
            errors,
            text_field,
            parquet,
            long_record_hint: "cut it into documents, or give another --pattern",
            ..SourceOptions::default()
        };
        if let Some(memory) = self.count.memory
            && memory.max_record_bytes() < options.max_record_bytes
        {
            options.max_record_bytes = memory.max_record_bytes();
            options.long_record_hint = "a larger --memory_limit allows more";
        }
        let mut source = TextSource::new(paths, options)?;
        source.leave_out(leave_out);
        source.check_rows()?;
        Ok(source)
    }

    /// A pool of its own for each call, so that a forked child has none that lost its threads.
    pub fn threads(&self) -> Result<ThreadPool> {
        ThreadPoolBuilder::new().num_threads(self.num_threads).build().map_err(|why| Error::Io {
            path: "new threads".into(),
            source: std::io::Error::other(why),
        })
    }

    /// Counts `source`, and adds the saved counts.
    pub fn count_source(
        &self,
        source: Option<&TextSource>,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Counts> {
        progress.start(COUNTING, self.bytes_to_read(source));
        let mut counts = match source {
            Some(source) => self.counting.count_source(source, &self.count, threads, progress)?,
            None => Counts::default(),
        };
        self.check_split(&counts)?;
        self.add_saved(&mut counts, progress)?;
        Ok(counts)
    }

    /// Counts texts that come one after another, each a document, and adds the saved counts.
    pub fn count_batches<E: From<Error>>(
        &self,
        progress: &Progress,
        feed: impl FnOnce(HandOver<'_>) -> Result<(), E>,
    ) -> Result<Counts, E> {
        progress.start(COUNTING, 0);
        let mut counts =
            self.counting.count_batches(&self.count, self.num_threads, progress, feed)?;
        self.check_split(&counts)?;
        self.add_saved(&mut counts, progress)?;
        Ok(counts)
    }

    /// Counts all of `source`, to measure on it; nothing of it is learned.
    pub fn count_held_out(
        &self,
        source: &TextSource,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<PretokenCounts> {
        progress.start(COUNTING, source.total_bytes());
        let options = CountOptions { memory: self.count.memory, ..CountOptions::default() };
        let counts = self.counting.count_source(source, &options, threads, progress)?;
        check_held_out(&counts.learned)?;
        Ok(counts.learned)
    }

    /// How texts that come one after another are cut into batches.
    pub fn counting(&self) -> (&Counting, &CountOptions) {
        (&self.counting, &self.count)
    }

    /// Saves counts, for `from_counts` of another run.
    pub fn save_counts(
        &self,
        counts: &Counts,
        path: &std::path::Path,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<()> {
        if counts.learned.pretokens() == 0 {
            return Err(Error::EmptyCorpus);
        }
        let specials = &self.learn.special_tokens;
        let pattern = self.scheme.name();
        counts_file::write(
            path,
            &counts.learned,
            pattern,
            specials,
            counts.pruned,
            threads,
            progress,
        )
    }

    /// Learns a tokenizer from what was counted.
    pub fn learn(
        &self,
        counts: PretokenCounts,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Tokenizer> {
        let learned = learn_merges(counts, &self.learn, threads, progress)?;
        Tokenizer::new(learned.vocabulary()?, learned.special_tokens, self.scheme.clone())
    }

    /// What `tokenizer` makes of text that it did not learn from.
    pub fn report(
        &self,
        tokenizer: &Tokenizer,
        held_out: &PretokenCounts,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Report> {
        vocabulary_report::report(tokenizer, held_out, threads, progress)
    }

    fn bytes_to_read(&self, source: Option<&TextSource>) -> u64 {
        let text = source.map_or(Some(0), |source| Some(source.total_bytes()).filter(|&n| n > 0));
        let saved = self
            .from_counts
            .iter()
            .map(|(path, _)| std::fs::metadata(path).map_or(0, |metadata| metadata.len()));
        text.map_or(0, |text| text + saved.sum::<u64>())
    }

    fn check_split(&self, counts: &Counts) -> Result<()> {
        let share = self.sample.unwrap_or(1.0);
        if self.sample.is_some() && counts.learned.pretokens() == 0 {
            return Err(Error::Usage(format!(
                "--sample {share} chose no text; give a larger share, or another --seed"
            )));
        }
        if self.count.holds_out { check_held_out(&counts.held_out) } else { Ok(()) }
    }

    fn add_saved(&self, counts: &mut Counts, progress: &Progress) -> Result<()> {
        if self.from_counts.is_empty() {
            return Ok(());
        }
        let mut saved = PretokenCounter::default();
        for (path, _) in &self.from_counts {
            let header = counts_file::read(path, &mut saved, progress)?;
            counts.pruned.add(header.pruned());
            saved.keep_within(self.count.memory, &mut counts.pruned, progress)?;
        }
        counts.learned.extend(PretokenCounts::new(vec![saved]));
        counts.learned.keep_within(self.count.memory, &mut counts.pruned, progress)
    }
}

fn check_held_out(held_out: &PretokenCounts) -> Result<()> {
    if held_out.pretokens() > 0 {
        return Ok(());
    }
    let why = "--report needs text that was not learned from, and none was held out; name some \
               with --held_out";
    Err(Error::Usage(why.to_owned()))
}

/// The pattern that was asked for; else that of the tokenizer to extend or of the counts, which all
/// must be the same.
fn pattern_of(options: &TrainOptions, from_counts: &[(PathBuf, Header)]) -> Result<String> {
    let said = options.pattern.as_deref().map(Scheme::new).transpose()?;
    let said = said.as_ref().map(|scheme| ("--pattern".to_owned(), scheme.name().to_owned()));
    let extended = options.extend.as_ref().map(|base| {
        let pattern = base.pattern.clone().unwrap_or_else(|| "gpt2".to_owned());
        ("the tokenizer to extend".to_owned(), pattern)
    });
    let counted = from_counts
        .iter()
        .map(|(path, header)| (path.display().to_string(), header.pattern.clone()));
    let mut all = said.into_iter().chain(extended).chain(counted);
    let Some((first, pattern)) = all.next() else { return Ok("gpt2".to_owned()) };
    match all.find(|(_, other)| *other != pattern) {
        None => Ok(pattern),
        Some((name, other)) => {
            Err(Error::Mismatch(format!("{first} splits text by {pattern}, but {name} by {other}")))
        }
    }
}

/// The special tokens that were asked for, with those of the tokenizer to extend before them; else
/// those of the counts, which must have been cut out of the text alike.
fn special_tokens_of(
    options: &TrainOptions,
    from_counts: &[(PathBuf, Header)],
) -> Result<Vec<String>> {
    let mut tokens: Vec<String> = options.extend.as_ref().map_or_else(Vec::new, |base| {
        base.special_tokens.iter().map(|(token, _)| token.clone()).collect()
    });
    let is_known = |tokens: &[String], token: &String| tokens.contains(token);
    match (&options.special_tokens, options.extend.is_some(), from_counts.first()) {
        (Some(said), true, _) => {
            let new: Vec<_> =
                said.iter().filter(|&token| !is_known(&tokens, token)).cloned().collect();
            tokens.extend(new);
        }
        (Some(said), false, _) => tokens.clone_from(said),
        (None, true, _) => {}
        (None, false, Some((_, header))) => tokens.clone_from(&header.special_tokens),
        (None, false, None) => tokens.push(END_OF_TEXT.to_owned()),
    }
    for (path, header) in from_counts {
        let sorted = |tokens: &[String]| {
            let mut tokens = tokens.to_vec();
            tokens.sort_unstable();
            tokens
        };
        if sorted(&header.special_tokens) != sorted(&tokens) {
            return Err(Error::Mismatch(format!(
                "{}: the special tokens {:?} were cut out of its text, not {tokens:?}",
                path.display(),
                header.special_tokens
            )));
        }
    }
    Ok(tokens)
}
