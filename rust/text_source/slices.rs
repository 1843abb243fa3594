//! A source's slices, handed out in order to any number of threads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::open::{self, Opened, PlainFile, Small};
use super::rows::{RowBatch, RowStream};
use super::slice::{Kind, Segment, Slice};
use super::stream::{self, Stream};
use super::{MOST_SEGMENTS, Reading, TextSource, grid};
use crate::error::Result;

/// The slices of a source, for any number of threads.
pub struct Slices<'s> {
    pub(super) source: &'s TextSource,
    pub(super) reading: Reading<'s>,
    pub(super) feed: Mutex<Feed<'s>>,
}

#[derive(Default)]
pub(super) struct Feed<'s> {
    next_input: usize,
    next_number: u64,
    current: Option<Current<'s>>,
    has_ended: bool,
    not_text: Vec<PathBuf>,
    nulls: u64,
}

enum Current<'s> {
    Cells { input: usize, file: Arc<PlainFile>, next: u64 },
    Stream(Box<Stream<'s>>),
    Rows(Box<RowStream>),
}

struct Cell {
    input: usize,
    file: Arc<PlainFile>,
    number: u64,
}

impl<'s> Slices<'s> {
    /// The same in slices of about `bytes`, as an earlier run had them.
    #[must_use]
    pub fn of(mut self, bytes: usize) -> Self {
        let limit = usize::try_from(self.reading.max_record_bytes).unwrap_or(usize::MAX);
        self.reading.slice_bytes = bytes.min(limit);
        self
    }

    /// Passes over the first `count` slices, without decoding them; of large plain files without
    /// reading them. False where there are fewer.
    pub fn skip(&self, count: u64) -> Result<bool> {
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slice = Slice::default();
        while feed.next_number < count {
            self.reading.progress.check()?;
            match self.take(&mut feed, &mut slice)? {
                Taken::End => return Ok(false),
                Taken::Cell(cell) => self.tell_read(&cell),
                Taken::Stretch => {}
            }
            feed.next_number += 1;
            slice.clear();
        }
        Ok(true)
    }

    /// Reads the next slice into `slice`; false where there is none. Slices are numbered from 0
    /// without gaps, the one that cannot be read included; none follows it.
    pub fn next(&self, slice: &mut Slice) -> Result<bool> {
        slice.clear();
        let cell = {
            let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
            if feed.has_ended {
                return Ok(false);
            }
            slice.number = feed.next_number;
            let taken = self.reading.progress.check().and_then(|()| self.take(&mut feed, slice));
            match taken {
                Ok(Taken::End) => {
                    feed.has_ended = true;
                    return Ok(false);
                }
                Ok(taken) => {
                    feed.next_number += 1;
                    if let Taken::Cell(cell) = taken { Some(cell) } else { None }
                }
                Err(error) => {
                    feed.has_ended = true;
                    return Err(error);
                }
            }
        };
        if let Some(cell) = cell {
            self.read_cell(cell, slice)?;
        }
        slice.decode(&self.reading)?;
        Ok(true)
    }

    /// Files of the folders that turned out to hold no text, and were passed over.
    pub fn not_text(&self) -> Vec<PathBuf> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner).not_text.clone()
    }

    /// How many rows so far had no text, and were passed over.
    pub fn nulls(&self) -> u64 {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner).nulls
    }

    fn take(&self, feed: &mut Feed<'s>, slice: &mut Slice) -> Result<Taken> {
        while slice.bytes.len() <= self.reading.slice_bytes / 2
            && slice.segments.len() < MOST_SEGMENTS
        {
            match &mut feed.current {
                None => {
                    if feed.next_input == self.source.inputs.list.len() {
                        let is_empty = slice.segments.is_empty();
                        return Ok(if is_empty { Taken::End } else { Taken::Stretch });
                    }
                    if !self.take_small(feed, slice)? {
                        self.open_next(feed)?;
                    }
                }
                Some(Current::Cells { .. }) if !slice.segments.is_empty() => break,
                Some(Current::Cells { input, file, next }) => {
                    let cell = Cell { input: *input, file: Arc::clone(file), number: *next };
                    *next += 1;
                    if *next * self.reading.slice_bytes as u64 >= file.size {
                        feed.current = None;
                    }
                    return Ok(Taken::Cell(cell));
                }
                Some(Current::Stream(stream)) => {
                    slice.make_room();
                    if !stream.fill(slice, &self.reading)? {
                        feed.current = None;
                    }
                }
                Some(Current::Rows(rows)) => {
                    slice.make_room();
                    if !rows.fill(slice, &self.reading, &mut feed.nulls)? {
                        feed.current = None;
                    }
                }
            }
        }
        Ok(Taken::Stretch)
    }

    /// Adds the whole next input to the slice, if it is a small file of text; false where it is not.
    fn take_small(&self, feed: &mut Feed<'s>, slice: &mut Slice) -> Result<bool> {
        let place = feed.next_input;
        let input = &self.source.inputs.list[place];
        let is_small = input.size <= self.reading.slice_bytes as u64 / 2
            && input.range.as_ref().is_none_or(|range| *range == (0..input.size));
        if !is_small
            || self.reading.split.is_some()
            || self.source.has_records(input)
            || !input.is_regular
            || input.is_named_compressed()
        {
            return Ok(false);
        }
        self.reading.progress.check()?;
        slice.make_room();
        let start = slice.bytes.len();
        match open::read_small(input, &mut slice.bytes)? {
            Small::Other => return Ok(false),
            Small::NotText => feed.not_text.push(input.path.clone()),
            Small::Text => slice.segments.push(Segment {
                range: start..slice.bytes.len(),
                input: place,
                offset: 0,
                line: 1,
                kind: Kind::Text,
                starts_document: true,
                ends_document: true,
                in_validation: false,
            }),
        }
        feed.next_input += 1;
        self.reading.progress.add(input.size);
        Ok(true)
    }

    fn open_next(&self, feed: &mut Feed<'s>) -> Result<()> {
        let place = feed.next_input;
        let input = &self.source.inputs.list[place];
        feed.next_input += 1;
        if input.is_named_parquet() {
            let format = self.source.row_format(input)?;
            open::check_planned(input)?;
            feed.current = Some(Current::Rows(Box::new(RowStream {
                input: place,
                path: input.path.clone(),
                reader: format.open(&input.path, self.source.text_field())?,
                batch: RowBatch::default(),
                taken: 0,
            })));
            return Ok(());
        }
        let is_jsonl = self.source.is_jsonl(input);
        let (mut start, mut ends_input) = (0, true);
        let (reader, compression): (Box<dyn std::io::Read + Send + 's>, _) =
            match open::open(input, self.reading.progress)? {
                Opened::NotText => {
                    feed.not_text.push(input.path.clone());
                    self.reading.progress.add(input.bytes());
                    return Ok(());
                }
                Opened::Plain(file) if self.is_read_in_cells(&file, is_jsonl) => {
                    feed.current = Some(Current::Cells { input: place, file, next: 0 });
                    return Ok(());
                }
                Opened::Plain(file) => {
                    (start, ends_input) = (file.start, file.ends_file());
                    (Box::new(file.reader(self.reading.progress)), None)
                }
                Opened::Stream { reader, compression } => (reader, compression),
            };
        feed.current = Some(Current::Stream(Box::new(Stream {
            input: place,
            path: input.path.clone(),
            reader,
            compression,
            is_jsonl,
            ends_input,
            place: stream::Place::at(start),
        })));
        Ok(())
    }

    /// Small files are packed into one slice instead; documents are told apart in order.
    fn is_read_in_cells(&self, file: &PlainFile, is_jsonl: bool) -> bool {
        !is_jsonl && self.reading.split.is_none() && file.size > self.reading.slice_bytes as u64
    }

    fn tell_read(&self, cell: &Cell) {
        let begin = cell.number * self.reading.slice_bytes as u64;
        self.reading.progress.add((self.reading.slice_bytes as u64).min(cell.file.size - begin));
    }

    fn read_cell(&self, cell: Cell, slice: &mut Slice) -> Result<()> {
        slice.bytes = std::mem::take(&mut slice.used);
        let range = grid::read_cell(&cell.file, cell.number, &mut slice.bytes, &self.reading)?;
        self.tell_read(&cell);
        if let Some(range) = range {
            slice.segments.push(Segment {
                range: 0..slice.bytes.len(),
                input: cell.input,
                offset: cell.file.start + range.start,
                line: 0,
                kind: Kind::Text,
                starts_document: range.start == 0,
                ends_document: range.end == cell.file.size && cell.file.ends_file(),
                in_validation: false,
            });
            slice.file = Some(cell.file);
        }
        Ok(())
    }
}

enum Taken {
    End,
    /// The slice was filled.
    Stretch,
    /// To be read outside the lock.
    Cell(Cell),
}
