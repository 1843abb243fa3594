//! A source's slices, handed out in order to any number of threads.

use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::open::{self, Opened, PlainFile, Small};
use super::rows::{RowBatch, RowStream};
use super::slice::{Kind, Segment, Slice};
use super::stream::{self, Stream};
use super::{Input, MOST_SEGMENTS, Reading, TextSource, grid};
use crate::error::{Error, Result};

/// The most text that is taken of a file that turns out not to be the small one it was listed as, but
/// compressed under another name, or grown since.
const MOST_UNFORESEEN: u64 = 16 << 20;

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
    /// Places in the list of inputs.
    not_text: Vec<usize>,
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
        let mut slice = Slice::default();
        loop {
            let mut feed = self.feed();
            if feed.next_number == count {
                return Ok(true);
            }
            self.reading.progress.check()?;
            let taken = self.take(&mut feed, &mut slice)?;
            feed.next_number += 1;
            drop(feed);
            match taken {
                Taken::End => return Ok(false),
                Taken::Cell(cell) => self.tell_read(&cell),
                // Which of them are no text is told at the end.
                Taken::Files(files) => self.read_files(files, &mut slice)?,
                Taken::Stretch => {}
            }
            slice.clear();
        }
    }

    /// Reads the next slice into `slice`; false where there is none. Slices are numbered from 0
    /// without gaps, the one that cannot be read included; none follows it.
    pub fn next(&self, slice: &mut Slice) -> Result<bool> {
        slice.clear();
        let taken = {
            let mut feed = self.feed();
            if feed.has_ended {
                return Ok(false);
            }
            slice.number = feed.next_number;
            let taken = self.reading.progress.check().and_then(|()| self.take(&mut feed, slice));
            feed.has_ended = matches!(taken, Ok(Taken::End) | Err(_));
            feed.next_number += u64::from(!feed.has_ended);
            taken?
        };
        match taken {
            Taken::End => return Ok(false),
            Taken::Stretch => {}
            Taken::Cell(cell) => self.read_cell(cell, slice)?,
            Taken::Files(files) => self.read_files(files, slice)?,
        }
        slice.decode(&self.reading)?;
        Ok(true)
    }

    /// Files of the folders that turned out to hold no text, and were passed over.
    pub fn not_text(&self) -> Vec<PathBuf> {
        let mut places = self.feed().not_text.clone();
        places.sort_unstable();
        places.into_iter().map(|place| self.source.inputs.list[place].path.clone()).collect()
    }

    /// How many rows so far had no text, and were passed over.
    pub fn nulls(&self) -> u64 {
        self.feed().nulls
    }

    fn feed(&self) -> MutexGuard<'_, Feed<'s>> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
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
                    let files = self.small_files(feed.next_input, slice);
                    if !files.is_empty() {
                        feed.next_input = files.end;
                        return Ok(Taken::Files(files));
                    }
                    self.open_next(feed)?;
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

    /// The small files of text from the input at `first` on that fit into the slice, by what is known
    /// without opening them: of these all may be read side by side.
    fn small_files(&self, first: usize, slice: &Slice) -> Range<usize> {
        let half = self.reading.slice_bytes as u64 / 2;
        let mut bytes = slice.bytes.len() as u64;
        let most = MOST_SEGMENTS - slice.segments.len();
        let fit = self.source.inputs.list[first..].iter().take(most).take_while(|input| {
            let fits = bytes <= half && self.is_small_text(input);
            bytes += input.size;
            fits
        });
        first..first + fit.count()
    }

    fn is_small_text(&self, input: &Input) -> bool {
        input.size <= self.reading.slice_bytes as u64 / 2
            && input.range.as_ref().is_none_or(|range| *range == (0..input.size))
            && self.reading.split.is_none()
            && !self.source.has_records(input)
            && input.is_regular
            && !input.is_named_compressed()
    }

    /// Adds whole small files to the slice.
    fn read_files(&self, files: Range<usize>, slice: &mut Slice) -> Result<()> {
        slice.make_room();
        for place in files {
            self.reading.progress.check()?;
            let input = &self.source.inputs.list[place];
            let start = slice.bytes.len();
            let small = match open::read_small(input, &mut slice.bytes)? {
                Small::Other => self.read_unforeseen(input, &mut slice.bytes)?,
                small => {
                    self.reading.progress.add(input.size);
                    small
                }
            };
            if matches!(small, Small::NotText) {
                self.feed().not_text.push(place);
                continue;
            }
            slice.segments.push(Segment {
                range: start..slice.bytes.len(),
                input: place,
                offset: 0,
                line: 1,
                kind: Kind::Text,
                starts_document: true,
                ends_document: true,
                in_validation: false,
            });
        }
        Ok(())
    }

    /// Appends the text of a file that is not what its size and name said. The slices behind it may be
    /// taken already, so all of it belongs to this one.
    fn read_unforeseen(&self, input: &Input, bytes: &mut Vec<u8>) -> Result<Small> {
        let progress = self.reading.progress;
        let (reader, compression): (Box<dyn Read + Send>, _) = match open::open(input, progress)? {
            Opened::NotText => {
                progress.add(input.bytes());
                return Ok(Small::NotText);
            }
            Opened::Plain(file) => (Box::new(file.reader(progress)), None),
            Opened::Stream { reader, compression } => (reader, compression),
        };
        let read = reader.take(MOST_UNFORESEEN + 1).read_to_end(bytes);
        let read = read.map_err(|error| open::converted(&input.path, compression, error))?;
        if read as u64 <= MOST_UNFORESEEN {
            return Ok(Small::Text);
        }
        let why = match compression {
            Some(format) => format!(
                "{format} data of {} bytes, more than {} MB of text; under a name that ends in .gz or \
                 .zst it is read in pieces",
                input.size,
                MOST_UNFORESEEN >> 20
            ),
            None => "the file has grown since the run began".to_owned(),
        };
        Err(Error::MalformedFile { path: input.path.clone(), why })
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
                    feed.not_text.push(place);
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
    /// Small files, by their places in the list of inputs, to be read outside the lock too.
    Files(Range<usize>),
}
