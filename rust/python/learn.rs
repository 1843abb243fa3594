//! `_core.Learner`: files, texts or saved counts → a tokenizer, step by step.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyIterator, PyString};

use super::job;
use super::parquet::Parquet;
use super::tokenizer::{Tokenizer, borrow};
use crate::count_pretokens::{self, Batch, HandOver, MemoryLimit};
use crate::error::{Error, Result};
use crate::learn_merges::{COUNTING, LearnOptions, SpecialIds, TieBreak};
use crate::progress::Progress;
use crate::text_source::RowFormat;
use crate::train_tokenizer::{TrainOptions, Trainer};
use crate::vocabulary_files::{self, Format};

/// How often texts from Python are interrupted for signals and progress.
const POLL: Duration = Duration::from_millis(50);

/// What is to be learned, checked; then from files, texts or counts.
#[pyclass(frozen, module = "lmkit._core")]
pub(super) struct Learner(Trainer);

/// What was counted; learning takes it.
#[pyclass(frozen, module = "lmkit._core")]
pub(super) struct Counts {
    inner: Mutex<count_pretokens::Counts>,
    /// How many pretokens were counted, repeats included.
    #[pyo3(get)]
    pretokens: u64,
    /// How many bytes of text they make up.
    #[pyo3(get)]
    text_bytes: u64,
    /// Pretokens and bytes that were dropped for want of memory, and the lowest count kept.
    #[pyo3(get)]
    pruned: (u64, u64, u64),
    /// Files of folders that hold no text.
    #[pyo3(get)]
    not_text: Vec<PathBuf>,
    /// Rows of tables that have no text.
    #[pyo3(get)]
    null_rows: u64,
}

impl Counts {
    fn new(inner: count_pretokens::Counts) -> Self {
        let pruned = inner.pruned;
        Self {
            pretokens: inner.learned.pretokens(),
            text_bytes: inner.learned.text_bytes(),
            pruned: (pruned.pretokens, pruned.text_bytes, pruned.lowest_kept),
            not_text: inner.not_text.clone(),
            null_rows: inner.null_rows,
            inner: Mutex::new(inner),
        }
    }
}

#[pymethods]
impl Learner {
    #[new]
    #[pyo3(signature = (
        vocab_size, special_tokens, pattern, tie_break, *, min_frequency, max_token_length,
        special_ids, extend, from_counts, sample, seed, holds_out, memory_limit, allow_pruning,
        num_threads
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, one an option")]
    fn new(
        vocab_size: i64,
        special_tokens: Option<Vec<String>>,
        pattern: Option<String>,
        tie_break: &str,
        min_frequency: u64,
        max_token_length: Option<usize>,
        special_ids: Option<&str>,
        extend: Option<PyRef<'_, Tokenizer>>,
        from_counts: Vec<PathBuf>,
        sample: Option<f64>,
        seed: u64,
        holds_out: bool,
        memory_limit: Option<u64>,
        allow_pruning: bool,
        num_threads: Option<usize>,
    ) -> PyResult<Self> {
        let vocab_size = usize::try_from(vocab_size)
            .map_err(|_| Error::Usage(format!("--vocab_size {vocab_size} is negative")))?;
        let limit = |bytes| MemoryLimit::new(bytes, allow_pruning);
        let learn = LearnOptions {
            vocab_size,
            tie_break: TieBreak::new(tie_break)?,
            min_frequency,
            max_token_length,
            special_ids: special_ids.map(SpecialIds::new).transpose()?,
            ..LearnOptions::default()
        };
        Ok(Self(Trainer::new(TrainOptions {
            learn,
            special_tokens,
            pattern,
            extend: extend.map(|base| base.inner().parts()),
            from_counts,
            sample,
            seed,
            holds_out,
            memory: memory_limit.map(limit).transpose()?,
            num_threads,
        })?))
    }

    /// `(files, bytes on disk)` that would be read; refuses an output folder that could not be
    /// written.
    fn plan(
        &self,
        py: Python<'_>,
        paths: Vec<PathBuf>,
        text_field: Option<String>,
        output_path: Option<PathBuf>,
        force: bool,
    ) -> PyResult<(usize, u64)> {
        py.detach(|| {
            let leave_out = output_path.as_slice();
            let sizes = if paths.is_empty() {
                (0, 0)
            } else {
                let source =
                    self.0.source(&paths, "strict", text_field, leave_out, Some(parquet()))?;
                (source.inputs().len(), source.total_bytes())
            };
            if let Some(output_path) = &output_path {
                vocabulary_files::check_output(output_path, Format::Folder, force)?;
            }
            Ok(sizes)
        })
    }

    fn count_files(
        &self,
        py: Python<'_>,
        paths: Vec<PathBuf>,
        errors: &str,
        text_field: Option<String>,
        leave_out: Vec<PathBuf>,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Counts> {
        let source = || self.0.source(&paths, errors, text_field, &leave_out, Some(parquet()));
        let source = if paths.is_empty() { None } else { Some(py.detach(source)?) };
        let state = Progress::default();
        let count = || self.0.count_source(source.as_ref(), &self.0.threads()?, &state);
        Ok(Counts::new(job::run(py, &state, progress.as_ref(), count)??))
    }

    fn count_texts(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyIterator>,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Counts> {
        let state = Progress::default();
        state.start(COUNTING, 0);
        let counts = self.0.count_batches(&state, |full| {
            let fed = feed(py, &self.0, texts, &state, progress.as_ref(), full);
            if fed.is_err() {
                state.cancel();
            }
            fed
        })?;
        Ok(Counts::new(counts))
    }

    /// Counts files to be reported on, instead of documents that were held out.
    fn hold_out(
        &self,
        py: Python<'_>,
        counts: &Counts,
        paths: Vec<PathBuf>,
        errors: &str,
        text_field: Option<String>,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let source =
            py.detach(|| self.0.source(&paths, errors, text_field, &[], Some(parquet())))?;
        let state = Progress::default();
        let count = || self.0.count_held_out(&source, &self.0.threads()?, &state);
        let held_out = job::run(py, &state, progress.as_ref(), count)??;
        counts.inner.lock().unwrap_or_else(PoisonError::into_inner).held_out = held_out;
        Ok(())
    }

    fn save_counts(&self, py: Python<'_>, counts: &Counts, path: PathBuf) -> PyResult<()> {
        let state = Progress::default();
        let save = || {
            let counts = counts.inner.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.save_counts(&counts, &path, &self.0.threads()?, &state)
        };
        Ok(job::run(py, &state, None, save)??)
    }

    /// Takes the counts, which are gone then.
    fn learn(
        &self,
        py: Python<'_>,
        counts: &Counts,
        progress: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Tokenizer> {
        let state = Progress::default();
        let learn = || -> Result<Tokenizer> {
            let taken = {
                let mut counts = counts.inner.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::take(&mut counts.learned)
            };
            Tokenizer::wrap(self.0.learn(taken, &self.0.threads()?, &state)?)
        };
        Ok(job::run(py, &state, progress.as_ref(), learn)??)
    }

    /// What a tokenizer makes of the text that was held out.
    fn report<'py>(
        &self,
        py: Python<'py>,
        tokenizer: PyRef<'py, Tokenizer>,
        counts: &Counts,
    ) -> PyResult<Bound<'py, PyDict>> {
        let state = Progress::default();
        let inner = tokenizer.inner();
        let report = || {
            let counts = counts.inner.lock().unwrap_or_else(PoisonError::into_inner);
            self.0.report(inner, &counts.held_out, &self.0.threads()?, &state)
        };
        let report = job::run(py, &state, None, report)??;
        let bytes = |id| PyBytes::new(py, inner.vocabulary().token(id).unwrap_or_default());
        let named = |listed: &[(u32, u64)]| -> Vec<_> {
            listed.iter().map(|&(id, count)| (id, bytes(id), count)).collect()
        };
        let dict = PyDict::new(py);
        dict.set_item("text_bytes", report.text_bytes)?;
        dict.set_item("growth", &report.growth)?;
        dict.set_item("commonest", named(&report.commonest))?;
        dict.set_item("longest", named(&report.longest))?;
        Ok(dict)
    }
}

fn parquet() -> Arc<dyn RowFormat> {
    Arc::new(Parquet)
}

/// Hands the texts over; the threads that count do not need the interpreter.
fn feed(
    py: Python<'_>,
    trainer: &Trainer,
    texts: &Bound<'_, PyIterator>,
    state: &Progress,
    progress: Option<&Bound<'_, PyAny>>,
    full: HandOver<'_>,
) -> PyResult<()> {
    let (counting, options) = trainer.counting();
    let (mut batch, mut polled) = (Batch::default(), Instant::now());
    let mut hand_over = |batch| -> PyResult<()> {
        py.detach(|| full(batch))?;
        Ok(())
    };
    for text in texts {
        let text = text?;
        let text = borrow(text.cast::<PyString>()?)?;
        counting.add_text(options, &mut batch, &text, &mut hand_over)?;
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
