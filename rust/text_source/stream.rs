//! A reader of text → slices, in order: for whatever cannot be read by position, for records, and
//! where documents are told apart.

use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;

use super::open::converted;
use super::slice::{Kind, Segment, Slice};
use super::{HASHED_BYTES, Reading, reserve};
use crate::error::Result;

/// How much is read between two looks at whether the run was cancelled.
const READ_BYTES: usize = 1 << 20;

/// One input being read from start to end.
pub(super) struct Stream<'p> {
    pub(super) input: usize,
    pub(super) path: PathBuf,
    pub(super) reader: Box<dyn Read + Send + 'p>,
    pub(super) compression: Option<&'static str>,
    pub(super) is_jsonl: bool,
    /// Whether its end is that of the input, and not of a range that ends within it.
    pub(super) ends_input: bool,
    pub(super) place: Place,
}

/// How far a stream is.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts independent of each other")]
pub(super) struct Place {
    /// Read, and left for the next slice.
    carry: Vec<u8>,
    /// Of the carry's first byte, in the text.
    offset: u64,
    /// Line ends before it, in the input or the range that is read of it.
    lines: u64,
    /// The stream has ended.
    ended: bool,
    /// A document began and has not ended.
    in_document: bool,
    /// Any document began.
    any_document: bool,
    /// Whether the current document goes to validation.
    in_validation: bool,
}

impl Place {
    /// At `offset` of the input.
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, ..Self::default() }
    }
}

impl Stream<'_> {
    /// Adds the next stretch of the input to `slice`; false once the input is used up.
    pub(super) fn fill(&mut self, slice: &mut Slice, reading: &Reading<'_>) -> Result<bool> {
        let base = slice.bytes.len();
        slice.bytes.append(&mut self.place.carry);
        let mut target = base.max(reading.slice_bytes);
        let end = loop {
            self.read_to(&mut slice.bytes, target, reading)?;
            let length = slice.bytes.len() - base;
            let end = if self.is_jsonl {
                self.add_records(slice, base, reading)?
            } else {
                self.add_text(slice, base, reading)?
            };
            if let Some(end) = end {
                break end;
            }
            // Beyond the cut, so much must be in memory before it can be told that there is none.
            let unsure = match (self.is_jsonl, reading.split) {
                (true, _) => 0,
                (false, None) => reading.cut.context(),
                (false, Some(_)) => reading.cut.context() + HASHED_BYTES,
            };
            let uncut = length.saturating_sub(unsure) as u64;
            reading.check_record(&self.path, self.place.offset, uncut)?;
            let longest = usize::try_from(reading.max_record_bytes).unwrap_or(usize::MAX);
            let limit = longest.saturating_add(unsure + 1);
            target = base + length.saturating_mul(2).max(length + 64).min(limit);
        };
        let read = &slice.bytes[base..base + end];
        self.place.offset += end as u64;
        self.place.lines += memchr::memchr_iter(b'\n', read).count() as u64;
        self.place.carry.extend_from_slice(&slice.bytes[base + end..]);
        slice.bytes.truncate(base + end);
        Ok(!self.place.ended || !self.place.carry.is_empty())
    }

    fn read_to(&mut self, bytes: &mut Vec<u8>, target: usize, reading: &Reading<'_>) -> Result<()> {
        while bytes.len() < target && !self.place.ended {
            reading.progress.check()?;
            let wanted = (target - bytes.len()).min(READ_BYTES);
            reserve(bytes, wanted)?;
            let count = self
                .reader
                .by_ref()
                .take(wanted as u64)
                .read_to_end(bytes)
                .map_err(|error| converted(&self.path, self.compression, error))?;
            self.place.ended = count < wanted;
        }
        Ok(())
    }

    /// Adds segments for the text from `base` up to a cut and returns the cut, relative to `base`;
    /// None where more must be read first.
    fn add_text(
        &mut self,
        slice: &mut Slice,
        base: usize,
        reading: &Reading<'_>,
    ) -> Result<Option<usize>> {
        let Slice { bytes, segments, .. } = slice;
        let text = &bytes[base..];
        let Some(mut end) = self.cut(text, reading)? else { return Ok(None) };
        let first = segments.len();
        let mut at = 0;
        if let Some(split) = reading.split {
            while let Some(separator) = split.separator(text, at..end) {
                if !self.place.in_document {
                    self.place.in_validation = split.chooses(&text[at..separator.start]);
                }
                segments.push(self.segment(base, at..separator.end, true));
                at = separator.end;
            }
            if !self.place.in_document {
                if !self.place.ended && end - at < HASHED_BYTES {
                    end = at;
                } else {
                    self.place.in_validation = split.chooses(&text[at..end]);
                }
            }
        }
        let is_owed = self.place.in_document || !self.place.any_document;
        if at < end || (self.place.ended && is_owed) {
            segments.push(self.segment(base, at..end, self.place.ended && self.ends_input));
        }
        let mut line = self.place.lines + 1;
        for segment in &mut segments[first..] {
            segment.line = line;
            line += memchr::memchr_iter(b'\n', &bytes[segment.range.clone()]).count() as u64;
        }
        Ok((end > 0 || self.place.ended).then_some(end))
    }

    /// Where the text read so far is cut; None where it has no cut yet.
    fn cut(&self, text: &[u8], reading: &Reading<'_>) -> Result<Option<usize>> {
        if !self.place.ended {
            let positions = 1..text.len().saturating_sub(reading.cut.context()).max(1);
            return Ok(reading.cut.last(text, positions));
        }
        if text.len() as u64 > reading.max_record_bytes {
            let last = reading.cut.last(text, 1..text.len()).unwrap_or(0);
            let offset = self.place.offset + last as u64;
            reading.check_record(&self.path, offset, (text.len() - last) as u64)?;
        }
        Ok(Some(text.len()))
    }

    fn segment(&mut self, base: usize, range: Range<usize>, ends_document: bool) -> Segment {
        let segment = Segment {
            input: self.input,
            offset: self.place.offset + range.start as u64,
            range: base + range.start..base + range.end,
            line: 0,
            kind: Kind::Text,
            starts_document: !self.place.in_document,
            ends_document,
            in_validation: self.place.in_validation,
        };
        self.place.in_document = !ends_document;
        self.place.any_document = true;
        segment
    }

    /// Adds a segment for each whole line from `base` on and returns where they end; None where
    /// none has ended yet.
    fn add_records(
        &mut self,
        slice: &mut Slice,
        base: usize,
        reading: &Reading<'_>,
    ) -> Result<Option<usize>> {
        let text = &slice.bytes[base..];
        let end = match memchr::memrchr(b'\n', text) {
            _ if self.place.ended => text.len(),
            Some(last) => last + 1,
            None => return Ok(None),
        };
        let mut start = 0;
        for (number, line) in (self.place.lines + 1..).zip(text[..end].split(|&b| b == b'\n')) {
            let offset = self.place.offset + start as u64;
            reading.check_record(&self.path, offset, line.len() as u64)?;
            if !line.trim_ascii().is_empty() {
                slice.segments.push(Segment {
                    range: base + start..base + start + line.len(),
                    input: self.input,
                    offset,
                    line: number,
                    kind: Kind::Line,
                    starts_document: true,
                    ends_document: true,
                    in_validation: false,
                });
            }
            start += line.len() + 1;
        }
        Ok(Some(end))
    }
}
