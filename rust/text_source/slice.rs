//! `Slice`: raw bytes of one stretch of input → pieces of text, each to be encoded on its own.
//!
//! A slice is read in two steps: bytes and segments under the source's lock (or, for large files,
//! by position), then decoding and parsing here, by each thread for itself.

use std::ops::Range;
use std::sync::Arc;

use super::open::PlainFile;
use super::records;
use super::{DecodeErrors, Reading};
use crate::error::{Error, Result};

/// What a segment's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// One line of JSON, holding the text.
    Line,
    /// The text of one row of a table.
    Row,
}

/// A stretch of one document's raw bytes within a slice.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) range: Range<usize>,
    /// Place in the list of inputs.
    pub(super) input: usize,
    /// Where the stretch begins in the input's text.
    pub(super) offset: u64,
    /// One-based line it begins in, of the range that is read, 0 where nobody counted; of a row its
    /// number, from 0.
    pub(super) line: u64,
    pub(super) kind: Kind,
    pub(super) starts_document: bool,
    pub(super) ends_document: bool,
    /// Whether its document goes to validation; for a record found out when it is parsed.
    pub(super) in_validation: bool,
}

/// What a piece holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'s> {
    /// Text to encode on its own.
    Text(&'s str),
    /// A byte that is not part of valid UTF-8: a pretoken of its own.
    Byte(u8),
}

/// One piece of one document; no token crosses its borders.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "facts independent of each other")]
pub struct Piece<'s> {
    /// What it holds; empty text for an empty document or one that ended with the last slice.
    pub content: Content<'s>,
    /// Whether it is a document's first.
    pub starts_document: bool,
    /// Whether it is a document's last.
    pub ends_document: bool,
    /// Whether the document is a record, so that no separator divides it further.
    pub is_record: bool,
    /// Whether the document was chosen for validation.
    pub in_validation: bool,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts independent of each other")]
struct Span {
    range: Range<usize>,
    byte: Option<u8>,
    starts_document: bool,
    ends_document: bool,
    is_record: bool,
    in_validation: bool,
}

/// A stretch of input as pieces of text. One is reused for many slices.
#[derive(Debug, Default)]
pub struct Slice {
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    /// What an earlier slice held, to be read over: memory of the right size that need not be
    /// zeroed again.
    pub(super) used: Vec<u8>,
    pub(super) segments: Vec<Segment>,
    /// The plain file the only segment comes from, for its lines.
    pub(super) file: Option<Arc<PlainFile>>,
    text: String,
    spans: Vec<Span>,
    text_bytes: u64,
}

impl Slice {
    /// Its place in the input, from 0; also of the slice that could not be read.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How many bytes of text the inputs hold for it, before invalid ones are replaced.
    pub fn text_bytes(&self) -> u64 {
        self.text_bytes
    }

    /// The pieces, in order.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.spans.iter().map(|span| Piece {
            content: match span.byte {
                Some(byte) => Content::Byte(byte),
                None => Content::Text(&self.text[span.range.clone()]),
            },
            starts_document: span.starts_document,
            ends_document: span.ends_document,
            is_record: span.is_record,
            in_validation: span.in_validation,
        })
    }

    pub(super) fn clear(&mut self) {
        if self.bytes.capacity() < self.text.capacity() {
            self.bytes = std::mem::take(&mut self.text).into_bytes();
        }
        if self.used.capacity() < self.bytes.capacity() {
            self.used = std::mem::take(&mut self.bytes);
        }
        self.bytes.clear();
        self.text.clear();
        self.segments.clear();
        self.spans.clear();
        self.file = None;
        self.text_bytes = 0;
    }

    /// Bytes are appended next.
    pub(super) fn make_room(&mut self) {
        if self.bytes.capacity() < self.used.capacity() && self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, &mut self.used);
            self.bytes.clear();
        }
    }

    /// Bytes and segments → text and pieces.
    pub(super) fn decode(&mut self, reading: &Reading<'_>) -> Result<()> {
        let is_text = |segment: &Segment| segment.kind == Kind::Text;
        if self.segments.iter().all(is_text) && self.take_valid_text() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.bytes);
        let segments = std::mem::take(&mut self.segments);
        for segment in &segments {
            let raw = &bytes[segment.range.clone()];
            match segment.kind {
                Kind::Line => self.add_line(raw, segment, reading)?,
                Kind::Row => self.add_record(raw, segment, reading)?,
                Kind::Text => {
                    self.text_bytes += raw.len() as u64;
                    self.add_text(raw, segment, segment.in_validation, reading)?;
                }
            }
        }
        (self.bytes, self.segments) = (bytes, segments);
        Ok(())
    }

    /// The usual case: all of it is valid, and becomes the text without being copied.
    #[expect(unsafe_code, reason = "checked by a library that is faster than the standard one")]
    fn take_valid_text(&mut self) -> bool {
        if simdutf8::basic::from_utf8(&self.bytes).is_err() {
            return false;
        }
        // SAFETY: these bytes were just seen to be valid UTF-8.
        let text = unsafe { String::from_utf8_unchecked(std::mem::take(&mut self.bytes)) };
        if self.segments.iter().any(|segment| !text.is_char_boundary(segment.range.end)) {
            // Half a character at the end of one document and half at the start of the next.
            self.bytes = text.into_bytes();
            return false;
        }
        self.text_bytes = text.len() as u64;
        self.text = text;
        self.spans.extend(self.segments.iter().map(|segment| Span {
            range: segment.range.clone(),
            byte: None,
            starts_document: segment.starts_document,
            ends_document: segment.ends_document,
            is_record: false,
            in_validation: segment.in_validation,
        }));
        true
    }

    fn add_line(&mut self, line: &[u8], segment: &Segment, reading: &Reading<'_>) -> Result<()> {
        let path = &reading.inputs[segment.input].path;
        let malformed = |why| Error::MalformedFile { path: path.clone(), why };
        let malformed = |why| match reading.line_of(segment) {
            Ok(line) => malformed(format!("line {line}: {why}")),
            Err(error) => error,
        };
        if reading.errors == DecodeErrors::Strict
            && let Err(error) = std::str::from_utf8(line)
        {
            return Err(self.not_utf8(line, error.valid_up_to(), segment, reading));
        }
        let content = records::field(line, reading.text_field).map_err(malformed)?;
        if reading.errors == DecodeErrors::Strict && std::str::from_utf8(&content).is_err() {
            return Err(malformed("half a surrogate pair, which is no character".to_owned()));
        }
        self.add_record(&content, segment, reading)
    }

    /// Adds a document that is a record's text.
    fn add_record(&mut self, text: &[u8], segment: &Segment, reading: &Reading<'_>) -> Result<()> {
        let in_validation = reading.split.is_some_and(|split| split.chooses(text));
        self.text_bytes += text.len() as u64;
        self.add_text(text, segment, in_validation, reading)
    }

    /// Adds the pieces of `raw`, a stretch of one document.
    fn add_text(
        &mut self,
        raw: &[u8],
        segment: &Segment,
        in_validation: bool,
        reading: &Reading<'_>,
    ) -> Result<()> {
        let first = self.spans.len();
        let mut add = |text: &mut String, valid: &str, byte: Option<u8>| {
            let start = text.len();
            text.push_str(valid);
            self.spans.push(Span {
                range: start..text.len(),
                byte,
                starts_document: false,
                ends_document: false,
                is_record: segment.kind != Kind::Text,
                in_validation,
            });
        };
        match std::str::from_utf8(raw) {
            Ok(valid) => add_cut(&mut self.text, valid, reading, &mut add),
            Err(error) => match reading.errors {
                DecodeErrors::Strict => {
                    return Err(self.not_utf8(raw, error.valid_up_to(), segment, reading));
                }
                DecodeErrors::Replace => {
                    add_cut(&mut self.text, &String::from_utf8_lossy(raw), reading, &mut add);
                }
                DecodeErrors::Bytes => {
                    for chunk in raw.utf8_chunks() {
                        if !chunk.valid().is_empty() {
                            add_cut(&mut self.text, chunk.valid(), reading, &mut add);
                        }
                        for &byte in chunk.invalid() {
                            add(&mut self.text, "", Some(byte));
                        }
                    }
                }
            },
        }
        self.spans[first].starts_document = segment.starts_document;
        if let Some(last) = self.spans.last_mut() {
            last.ends_document = segment.ends_document;
        }
        Ok(())
    }

    fn not_utf8(&self, raw: &[u8], at: usize, segment: &Segment, reading: &Reading<'_>) -> Error {
        let path = &reading.inputs[segment.input].path;
        if segment.kind == Kind::Row {
            return Error::RowNotUtf8 { path: path.clone(), row: segment.line, offset: at };
        }
        let before = match &self.file {
            Some(file) if segment.line == 0 => file.lines_before(segment.offset).map(|n| n + 1),
            _ => reading.line_of(segment),
        };
        match before {
            Ok(before) => Error::NotUtf8 {
                path: path.clone(),
                line: before + memchr::memchr_iter(b'\n', &raw[..at]).count() as u64,
                offset: segment.offset + at as u64,
            },
            Err(error) => error,
        }
    }
}

/// Adds `valid` as pieces of at most about a slice each, so that a record of any length is encoded,
/// written and interrupted like other text.
fn add_cut(
    text: &mut String,
    mut valid: &str,
    reading: &Reading<'_>,
    add: &mut impl FnMut(&mut String, &str, Option<u8>),
) {
    let mut reach = reading.slice_bytes;
    let context = reading.cut.context();
    while valid.len() > reach.saturating_add(context) {
        match reading.cut.last(valid.as_bytes(), 1..reach) {
            Some(at) => {
                add(text, &valid[..at], None);
                valid = &valid[at..];
                reach = reading.slice_bytes;
            }
            None => reach = reach.saturating_mul(2),
        }
    }
    add(text, valid, None);
}
