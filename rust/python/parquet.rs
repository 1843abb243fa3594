//! `.parquet` files → batches of text, through `lmkit.parquet` and its pyarrow, which a thread a
//! file calls; it has the interpreter lock for a batch at a time.

use std::path::Path;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::PyIterator;

use crate::error::{Error, ErrorKind, Result};
use crate::memory::reserve;
use crate::text_source::{RowBatch, RowFormat, RowReader};

/// What Python's pyarrow reads.
#[derive(Debug)]
pub(super) struct Parquet;

impl RowFormat for Parquet {
    fn check(&self, path: &Path, field: &str) -> Result<()> {
        Python::attach(|py| {
            let checked = py
                .import("lmkit.parquet")
                .and_then(|reader| reader.call_method1("check", (path, field)));
            checked.map(drop).map_err(|error| failure(py, &error))
        })
    }

    fn open(&self, path: &Path, field: &str) -> Result<Box<dyn RowReader>> {
        let batches = Python::attach(|py| {
            py.import("lmkit.parquet")
                .and_then(|reader| reader.call_method1("batches", (path, field)))
                .and_then(|batches| batches.try_iter().map(Bound::unbind))
                .map_err(|error| failure(py, &error))
        })?;
        let (full, batches_read) = bounded(1);
        let reader = thread::Builder::new()
            .name("lmkit-parquet".to_owned())
            .spawn(move || read_all(&batches, &full))
            .map_err(|error| Error::io(path, error))?;
        Ok(Box::new(Batches { read: Some(batches_read), reader: Some(reader) }))
    }
}

/// Batches that a thread of its own reads ahead. pyarrow keeps freed memory for the thread that
/// asked for it, so that a file read by each encoder in turn would be kept by each.
struct Batches {
    read: Option<Receiver<Result<Option<RowBatch>>>>,
    reader: Option<JoinHandle<()>>,
}

impl RowReader for Batches {
    fn read(&mut self) -> Result<Option<RowBatch>> {
        let told = self.read.as_ref().and_then(|read| read.recv().ok());
        // One that goes without saying that it has read all has panicked.
        told.unwrap_or_else(|| Err(Error::Internal("the thread that read Parquet died".to_owned())))
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // The reader ends when nobody listens; it is never dropped by one who holds the lock.
        self.read = None;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read_all(batches: &Py<PyIterator>, full: &Sender<Result<Option<RowBatch>>>) {
    let mut next_row = 0;
    loop {
        let batch = Python::attach(|py| {
            let yielded = batches.bind(py).clone().next()?;
            let yielded = yielded.and_then(|yielded| yielded.extract::<Yielded<'_>>());
            Some(
                yielded
                    .map_err(|error| failure(py, &error))
                    .and_then(|yielded| taken(&yielded, &mut next_row)),
            )
        });
        let batch = batch.transpose();
        let is_last = !matches!(batch, Ok(Some(_)));
        if full.send(batch).is_err() || is_last {
            return;
        }
    }
}

/// What `lmkit.parquet.batches` yields: bytes of text, where each row's begin and the last one's
/// end, which rows have text (None: all), how much of the file that is.
type Yielded<'py> = (
    PyReadonlyArray1<'py, u8>,
    PyReadonlyArray1<'py, i64>,
    Option<PyReadonlyArray1<'py, bool>>,
    u64,
);

fn taken(yielded: &Yielded<'_>, next_row: &mut u64) -> Result<RowBatch> {
    let (text, offsets, has_text, file_bytes) = yielded;
    let torn = |_| Error::Internal("pyarrow gave an array that is not contiguous".to_owned());
    let text = text.as_slice().map_err(torn)?;
    let offsets = offsets.as_slice().map_err(torn)?;
    let has_text = has_text.as_ref().map(PyReadonlyArray1::as_slice).transpose().map_err(torn)?;
    let mut batch = RowBatch { file_bytes: *file_bytes, ..RowBatch::default() };
    reserve(&mut batch.text, text.len())?;
    batch.text.extend_from_slice(text);
    for (place, ends) in offsets.windows(2).enumerate() {
        let number = *next_row;
        *next_row += 1;
        if has_text.is_some_and(|has_text| !has_text[place]) {
            batch.nulls += 1;
            continue;
        }
        let range = usize::try_from(ends[0]).ok().zip(usize::try_from(ends[1]).ok());
        match range {
            Some((start, end)) if start <= end && end <= text.len() => {
                batch.rows.push((number, start..end));
            }
            _ => return Err(Error::Internal(format!("pyarrow misplaced row {number}"))),
        }
    }
    Ok(batch)
}

/// An exception of the reader as an error of the core, which becomes the same exception again.
fn failure(py: Python<'_>, error: &PyErr) -> Error {
    let value = error.value(py);
    let is_missing = value.is_instance_of::<pyo3::exceptions::PyFileNotFoundError>();
    let code = value.getattr("exit_code").and_then(|code| code.extract::<u8>()).ok();
    let kind = match code {
        Some(2) if is_missing => ErrorKind::MissingFile,
        Some(2) => ErrorKind::Usage,
        Some(3) => ErrorKind::Malformed,
        Some(4) => ErrorKind::System,
        Some(5) => ErrorKind::Mismatch,
        _ if value.is_instance_of::<PyMemoryError>() => ErrorKind::OutOfMemory,
        _ => ErrorKind::Failed,
    };
    let hint = value.getattr("hint").and_then(|hint| hint.extract()).unwrap_or_default();
    let message = if code.is_some() { value.to_string() } else { error.to_string() };
    Error::Reader { kind, message, hint }
}
