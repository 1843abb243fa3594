//! `_core.TokenizeJob`: inputs, tokenizer and options, checked; then run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::job;
use super::parquet::Parquet;
use super::tokenizer::{Tokenizer, handling};
use crate::error::Result;
use crate::progress::Progress;
use crate::resume_point;
use crate::text_source::{DecodeErrors, Input, SourceOptions, TextSource};
use crate::token_file::{self, Counts, Dtype};
use crate::tokenize_files::{self, Checksums, TokenizeOptions};

/// A checked job.
#[pyclass(frozen, module = "lmkit._core")]
pub(super) struct TokenizeJob {
    tokenizer: Py<Tokenizer>,
    source: TextSource,
    options: TokenizeOptions,
}

#[pymethods]
impl TokenizeJob {
    #[new]
    #[pyo3(signature = (
        tokenizer, inputs, output, *, val_output, val_fraction, dtype, special, end_of_document,
        num_threads, in_memory, force, resume, note_every, errors, text_field, max_record_bytes, slice_bytes
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, one an option")]
    fn new(
        py: Python<'_>,
        tokenizer: Py<Tokenizer>,
        inputs: Vec<PathBuf>,
        output: PathBuf,
        val_output: PathBuf,
        val_fraction: Option<f64>,
        dtype: &str,
        special: &str,
        end_of_document: Option<String>,
        num_threads: Option<usize>,
        in_memory: bool,
        force: bool,
        resume: bool,
        note_every: Option<f64>,
        errors: &str,
        text_field: Option<String>,
        max_record_bytes: u64,
        slice_bytes: Option<usize>,
    ) -> PyResult<Self> {
        let reading = SourceOptions {
            errors: DecodeErrors::new(errors)?,
            text_field,
            parquet: Some(Arc::new(Parquet)),
            max_record_bytes,
            slice_bytes: slice_bytes.unwrap_or_else(|| tokenize_files::slice_bytes(num_threads)),
            ..SourceOptions::default()
        };
        let mut source = TextSource::new(&inputs, reading)?;
        let outputs = [&output, &val_output];
        let beside = outputs.map(|path| token_file::sidecar(path));
        source.leave_out(&[&[output.clone(), val_output.clone()], &beside[..]].concat());
        let inner = tokenizer.get().inner();
        let options = TokenizeOptions {
            output,
            validation: val_fraction.map(|fraction| (val_output, fraction)),
            dtype: Dtype::new(dtype)?,
            special: handling(special)?,
            end_of_document: tokenize_files::end_of_document(end_of_document, inner, &source),
            threads: num_threads,
            in_memory,
            force,
            resume,
            note_every: note_every.map_or(resume_point::EVERY, Duration::from_secs_f64),
            is_shard: false,
        };
        py.detach(|| {
            tokenize_files::check(inner, &source, &options)?;
            source.check_rows()
        })?;
        Ok(Self { tokenizer, source, options })
    }

    /// The job of one shard: files with size, time of change, whether they were found in a folder,
    /// and which of their bytes are read.
    #[staticmethod]
    #[pyo3(signature = (
        tokenizer, files, output, *, has_documents, val_output, val_fraction, dtype, special,
        end_of_document, num_threads, in_memory, errors, text_field, max_record_bytes
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments, one an option")]
    fn of_shard(
        py: Python<'_>,
        tokenizer: Py<Tokenizer>,
        files: Vec<(PathBuf, u64, u64, bool, u64, u64)>,
        output: PathBuf,
        has_documents: bool,
        val_output: PathBuf,
        val_fraction: Option<f64>,
        dtype: &str,
        special: &str,
        end_of_document: Option<String>,
        num_threads: Option<usize>,
        in_memory: bool,
        errors: &str,
        text_field: Option<String>,
        max_record_bytes: u64,
    ) -> PyResult<Self> {
        let reading = SourceOptions {
            errors: DecodeErrors::new(errors)?,
            text_field,
            parquet: Some(Arc::new(Parquet)),
            max_record_bytes,
            slice_bytes: tokenize_files::slice_bytes(num_threads),
            ..SourceOptions::default()
        };
        let files = files.into_iter().map(|(path, size, modified_ns, found, start, end)| Input {
            found,
            range: Some(start..end),
            ..Input::new(path, size, modified_ns)
        });
        let source = TextSource::planned(files.collect(), has_documents, reading)?;
        let options = TokenizeOptions {
            output,
            validation: val_fraction.map(|fraction| (val_output, fraction)),
            dtype: Dtype::new(dtype)?,
            special: handling(special)?,
            end_of_document,
            threads: num_threads,
            in_memory,
            force: false,
            resume: false,
            note_every: resume_point::EVERY,
            is_shard: true,
        };
        let inner = tokenizer.get().inner();
        py.detach(|| tokenize_files::check(inner, &source, &options))?;
        Ok(Self { tokenizer, source, options })
    }

    /// How many input files there are.
    #[getter]
    fn files(&self) -> usize {
        self.source.inputs().len()
    }

    /// Bytes on disk of the inputs; 0 where one cannot say.
    #[getter]
    fn total_bytes(&self) -> u64 {
        self.source.total_bytes()
    }

    /// The token written after each document, if one is.
    #[getter]
    fn end_of_document(&self) -> Option<&str> {
        self.options.end_of_document.as_deref()
    }

    /// Whether this process left something for a run to resume.
    #[getter]
    fn is_resumable(&self) -> bool {
        resume_point::is_left(&self.options.output)
    }

    fn run<'py>(
        &self,
        py: Python<'py>,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let watch = Progress::default();
        let tokenizer = self.tokenizer.get().inner();
        let work = || -> Result<_> {
            tokenize_files::tokenize_files(tokenizer, &self.source, &self.options, &watch)
        };
        let summary = job::run(py, &watch, progress, work)??;
        let is_shard = self.options.is_shard;
        let result = counts(py, &summary.train)?;
        result.set_item("checksum", &summary.checksums.ids)?;
        if is_shard {
            result.set_item("documents_checksum", &summary.checksums.document_ends)?;
        }
        result.set_item("seconds", summary.seconds)?;
        if self.options.resume {
            result.set_item("resumed_bytes", summary.resumed_bytes)?;
        }
        let skipped: Vec<String> = self
            .source
            .skipped()
            .iter()
            .chain(&summary.skipped)
            .map(|path| path.display().to_string())
            .collect();
        result.set_item("skipped", skipped)?;
        result.set_item("null_rows", summary.null_rows)?;
        if self.options.validation.is_some() {
            let validation = counts(py, &summary.validation)?;
            if is_shard {
                let Checksums { ids, document_ends } = &summary.val_checksums;
                validation.set_item("checksum", ids)?;
                validation.set_item("documents_checksum", document_ends)?;
            }
            result.set_item("validation", validation)?;
        }
        Ok(result)
    }
}

fn counts<'py>(py: Python<'py>, counts: &Counts) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("tokens", counts.tokens)?;
    dict.set_item("documents", counts.documents)?;
    dict.set_item("text_bytes", counts.text_bytes)?;
    dict.set_item("smallest_id", counts.range.map(|range| range.0))?;
    dict.set_item("largest_id", counts.range.map(|range| range.1))?;
    Ok(dict)
}
