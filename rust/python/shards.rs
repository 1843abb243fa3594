//! `_core.ShardInputs`: the inputs of a sharded data set, and where they are cut.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;

use super::job;
use super::parquet::Parquet;
use super::tokenizer::{Tokenizer, handling};
use crate::progress::Progress;
use crate::resume_point;
use crate::text_source::{DecodeErrors, SourceOptions, TextSource};
use crate::token_file::Dtype;
use crate::tokenize_files::{self, TokenizeOptions};

/// Inputs, found and not yet opened.
#[pyclass(frozen, module = "lmkit._core")]
pub(super) struct ShardInputs {
    source: TextSource,
}

#[pymethods]
impl ShardInputs {
    #[new]
    #[pyo3(signature = (paths, *, errors, text_field, max_record_bytes, left_out))]
    fn new(
        paths: Vec<PathBuf>,
        errors: &str,
        text_field: Option<String>,
        max_record_bytes: u64,
        left_out: Vec<PathBuf>,
    ) -> PyResult<Self> {
        let errors = DecodeErrors::new(errors)?;
        let reading = SourceOptions {
            errors,
            text_field,
            max_record_bytes,
            parquet: Some(Arc::new(Parquet)),
            ..SourceOptions::default()
        };
        let mut source = TextSource::new(&paths, reading)?;
        source.leave_out(&left_out);
        source.check_again()?;
        source.check_rows()?;
        Ok(Self { source })
    }

    /// Path, size, time of change and whether it was found in a folder, of each.
    #[getter]
    fn files(&self) -> Vec<(OsString, u64, u64, bool)> {
        let inputs = self.source.inputs().iter();
        inputs
            .map(|input| (input.path.clone().into(), input.size, input.modified_ns, input.found))
            .collect()
    }

    /// Whether documents come one by one.
    #[getter]
    fn has_documents(&self) -> bool {
        self.source.has_documents()
    }

    /// What folders hold beside files that are read.
    #[getter]
    fn skipped(&self) -> Vec<OsString> {
        self.source.skipped().iter().map(|path| path.clone().into()).collect()
    }

    /// Checks options against tokenizer and inputs; returns the token written after each document.
    #[pyo3(signature = (tokenizer, *, dtype, special, end_of_document, val_fraction, num_threads))]
    fn check(
        &self,
        tokenizer: &Bound<'_, Tokenizer>,
        dtype: &str,
        special: &str,
        end_of_document: Option<String>,
        val_fraction: Option<f64>,
        num_threads: Option<usize>,
    ) -> PyResult<Option<String>> {
        let tokenizer = tokenizer.get().inner();
        let end = tokenize_files::end_of_document(end_of_document, tokenizer, &self.source);
        let options = TokenizeOptions {
            output: PathBuf::new(),
            validation: val_fraction.map(|fraction| (PathBuf::new(), fraction)),
            dtype: Dtype::new(dtype)?,
            special: handling(special)?,
            end_of_document: end.clone(),
            threads: num_threads,
            in_memory: false,
            force: false,
            resume: false,
            note_every: resume_point::EVERY,
            is_shard: true,
        };
        tokenize_files::check_fit(tokenizer, &self.source, &options)?;
        Ok(end)
    }

    /// Where the inputs are cut into so many shards: number of the input and byte of each cut.
    fn cuts(
        &self,
        py: Python<'_>,
        tokenizer: &Bound<'_, Tokenizer>,
        special: &str,
        count: usize,
    ) -> PyResult<Vec<(usize, u64)>> {
        let (watch, special) = (Progress::default(), handling(special)?);
        let tokenizer = tokenizer.get().inner();
        let work = || tokenize_files::shard_cuts(tokenizer, &self.source, special, count, &watch);
        let cuts = job::run(py, &watch, None, work)??;
        Ok(cuts.into_iter().map(|cut| (cut.input, cut.offset)).collect())
    }

    /// How many tokens a sample has, of how many bytes on disk.
    fn sample(
        &self,
        py: Python<'_>,
        tokenizer: &Bound<'_, Tokenizer>,
        special: &str,
    ) -> PyResult<(u64, u64)> {
        let (watch, special) = (Progress::default(), handling(special)?);
        let tokenizer = tokenizer.get().inner();
        let work = || tokenize_files::sample(tokenizer, &self.source, special, &watch);
        Ok(job::run(py, &watch, None, work)??)
    }
}
