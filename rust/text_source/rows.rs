//! A file of rows in a format that others read (Parquet) → slices; its text comes in batches of
//! any size, and slices do not depend on them.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::slice::{Kind, Segment, Slice};
use super::{MOST_SEGMENTS, Reading, reserve};
use crate::error::{Error, Result};

/// Reads the files of a format of rows, one column of which holds text.
pub trait RowFormat: fmt::Debug + Send + Sync {
    /// Refuses a file that is not of this format, or has no text in a column named `field`.
    fn check(&self, path: &Path, field: &str) -> Result<()>;

    /// The text of the column named `field`.
    fn open(&self, path: &Path, field: &str) -> Result<Box<dyn RowReader>>;
}

/// The text of one file's rows, in order.
pub trait RowReader: Send {
    /// The next rows; `None` where none are left.
    fn read(&mut self) -> Result<Option<RowBatch>>;
}

/// Some rows in a row.
#[derive(Debug, Default)]
pub struct RowBatch {
    /// The bytes of their text.
    pub text: Vec<u8>,
    /// Of each row that has text: its number, from 0, and where its text is.
    pub rows: Vec<(u64, Range<usize>)>,
    /// How many have none.
    pub nulls: u64,
    /// How much of the file they stand for.
    pub file_bytes: u64,
}

/// One file being read from its first row to its last.
pub(super) struct RowStream {
    pub(super) input: usize,
    pub(super) path: PathBuf,
    pub(super) reader: Box<dyn RowReader>,
    pub(super) batch: RowBatch,
    /// How many of the batch's rows are in slices.
    pub(super) taken: usize,
}

impl RowStream {
    /// Adds rows to `slice` until it is full, and rows without text to `nulls`; false once there
    /// are no more.
    pub(super) fn fill(
        &mut self,
        slice: &mut Slice,
        reading: &Reading<'_>,
        nulls: &mut u64,
    ) -> Result<bool> {
        loop {
            while self.taken < self.batch.rows.len() {
                if slice.bytes.len() >= reading.slice_bytes || slice.segments.len() >= MOST_SEGMENTS
                {
                    return Ok(true);
                }
                self.add_row(slice, reading)?;
            }
            reading.progress.check()?;
            self.taken = 0;
            self.batch = RowBatch::default();
            match self.reader.read()? {
                Some(batch) => self.batch = batch,
                None => return Ok(false),
            }
            *nulls += self.batch.nulls;
            reading.progress.add(self.batch.file_bytes);
        }
    }

    fn add_row(&mut self, slice: &mut Slice, reading: &Reading<'_>) -> Result<()> {
        let (number, range) = &self.batch.rows[self.taken];
        let text = &self.batch.text[range.clone()];
        if text.len() as u64 > reading.max_record_bytes {
            let why = format!(
                "row {number} has {} bytes of text, more than {}; {}",
                text.len(),
                reading.max_record_bytes,
                reading.long_record_hint
            );
            return Err(Error::MalformedFile { path: self.path.clone(), why });
        }
        let start = slice.bytes.len();
        reserve(&mut slice.bytes, text.len())?;
        slice.bytes.extend_from_slice(text);
        slice.segments.push(Segment {
            range: start..slice.bytes.len(),
            input: self.input,
            offset: 0,
            line: *number,
            kind: Kind::Row,
            starts_document: true,
            ends_document: true,
            in_validation: false,
        });
        self.taken += 1;
        Ok(())
    }
}
