//! `_core.Learner`: files or texts → a tokenizer.

use std::io;
use std::path::PathBuf;
use std::slice;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyString};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::job;
use super::tokenizer::{Tokenizer, borrow};
use crate::count_pretokens::{Batch, Counting, HandOver, PretokenCounts};
use crate::encode;
use crate::error::{Error, Result};
use crate::learn_merges::{COUNTING, LearnOptions, TieBreak, learn_merges};
use crate::pretokenize::Scheme;
use crate::progress::Progress;
use crate::text_source::{DecodeErrors, SourceOptions, TextSource};
use crate::vocabulary_files;

/// How often texts from Python are interrupted for signals and progress.
const POLL: Duration = Duration::from_millis(50);

/// What is to be learned, checked; then from files or from texts.
#[pyclass(frozen, module = "lmkit._core")]
pub(super) struct Learner {
    options: LearnOptions,
    scheme: Scheme,
    num_threads: usize,
}

/// What was learned from how much.
#[pyclass(frozen, get_all, module = "lmkit._core")]
pub(super) struct Lesson {
    tokenizer: Py<Tokenizer>,
    /// How many pretokens were counted, repeats included.
    pretokens: u64,
    /// Files of folders that hold no text.
    not_text: Vec<PathBuf>,
}

#[pymethods]
impl Learner {
    #[new]
    fn new(
        vocab_size: i64,
        special_tokens: Vec<String>,
        pattern: &str,
        tie_break: &str,
        min_frequency: u64,
        num_threads: Option<usize>,
    ) -> PyResult<Self> {
        let vocab_size = usize::try_from(vocab_size)
            .map_err(|_| Error::Usage(format!("--vocab_size {vocab_size} is negative")))?;
        if num_threads == Some(0) {
            return Err(Error::Usage("--num_threads must be at least 1".to_owned()).into());
        }
        let tie_break = TieBreak::new(tie_break)?;
        let options = LearnOptions { vocab_size, special_tokens, tie_break, min_frequency };
        options.check()?;
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let num_threads = num_threads.unwrap_or(cores);
        Ok(Self { options, scheme: Scheme::new(pattern)?, num_threads })
    }

    /// `(files, bytes on disk)` that would be read; refuses an output folder that could not be
    /// written.
    #[staticmethod]
    fn plan(
        py: Python<'_>,
        paths: Vec<PathBuf>,
        text_field: Option<String>,
        output_path: PathBuf,
        force: bool,
    ) -> PyResult<(usize, u64)> {
        py.detach(|| {
            let source = source(&paths, "strict", text_field, slice::from_ref(&output_path))?;
            vocabulary_files::check_folder(&output_path, force)?;
            Ok((source.inputs().len(), source.total_bytes()))
        })
    }

    fn learn_files(
        &self,
        py: Python<'_>,
        paths: Vec<PathBuf>,
        errors: &str,
        text_field: Option<String>,
        leave_out: Vec<PathBuf>,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Lesson> {
        let source = py.detach(|| source(&paths, errors, text_field, &leave_out))?;
        let state = Progress::default();
        state.start(COUNTING, source.total_bytes());
        let learn = || {
            let threads = self.threads()?;
            let counting = Counting::new(self.scheme.clone(), &self.options.special_tokens)?;
            let (counts, not_text) = counting.count_source(&source, &threads, &state)?;
            let pretokens = counts.pretokens();
            Ok((self.learn(counts, &threads, &state)?, pretokens, not_text))
        };
        let (tokenizer, pretokens, not_text) = job::run(py, &state, progress.as_ref(), learn)??;
        Ok(Lesson { tokenizer: Py::new(py, tokenizer)?, pretokens, not_text })
    }

    fn learn_texts(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyIterator>,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Lesson> {
        let state = Progress::default();
        state.start(COUNTING, 0);
        let counting = Counting::new(self.scheme.clone(), &self.options.special_tokens)?;
        let counts = counting.count_batches(self.num_threads, &state, |full| {
            let fed = feed(py, &counting, texts, &state, progress.as_ref(), full);
            if fed.is_err() {
                state.cancel();
            }
            fed
        })?;
        let pretokens = counts.pretokens();
        let learn = || self.learn(counts, &self.threads()?, &state);
        let tokenizer = job::run(py, &state, progress.as_ref(), learn)??;
        Ok(Lesson { tokenizer: Py::new(py, tokenizer)?, pretokens, not_text: Vec::new() })
    }
}

impl Learner {
    /// A pool of its own for each call, so that a forked child has none that lost its threads.
    fn threads(&self) -> Result<ThreadPool> {
        ThreadPoolBuilder::new()
            .num_threads(self.num_threads)
            .build()
            .map_err(|why| Error::Io { path: "new threads".into(), source: io::Error::other(why) })
    }

    fn learn(
        &self,
        counts: PretokenCounts,
        threads: &ThreadPool,
        progress: &Progress,
    ) -> Result<Tokenizer> {
        let learned = learn_merges(counts, &self.options, threads, progress)?;
        let vocabulary = learned.vocabulary()?;
        let tokenizer =
            encode::Tokenizer::new(vocabulary, learned.special_tokens, self.scheme.clone())?;
        Tokenizer::wrap(tokenizer)
    }
}

/// What `paths` name, without what this call itself will write.
fn source(
    paths: &[PathBuf],
    errors: &str,
    text_field: Option<String>,
    leave_out: &[PathBuf],
) -> Result<TextSource> {
    let errors = DecodeErrors::new(errors)?;
    let options = SourceOptions { errors, text_field, ..SourceOptions::default() };
    let mut source = TextSource::new(paths, options)?;
    source.leave_out(leave_out);
    Ok(source)
}

/// Hands the texts over; the threads that count do not need the interpreter.
fn feed(
    py: Python<'_>,
    counting: &Counting,
    texts: &Bound<'_, PyIterator>,
    state: &Progress,
    progress: Option<&Bound<'_, PyAny>>,
    full: HandOver<'_>,
) -> PyResult<()> {
    let (mut batch, mut polled) = (Batch::default(), Instant::now());
    let mut hand_over = |batch| -> PyResult<()> {
        py.detach(|| full(batch))?;
        Ok(())
    };
    for text in texts {
        let text = text?;
        let text = borrow(text.cast::<PyString>()?)?;
        counting.add_text(&mut batch, &text, &mut hand_over)?;
        if polled.elapsed() >= POLL {
            polled = Instant::now();
            py.check_signals()?;
            if let Some(progress) = progress {
                progress.call1(state.read())?;
            }
        }
    }
    hand_over(batch)
}
