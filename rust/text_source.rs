//! Files → slices of text cut where no token can cross.
//!
//! Paths are files, folders, globs or `-`; gzip and zstd are known by their content; `.jsonl` files
//! give one field of each line, `.parquet` files one column, through a [`RowFormat`]. Any number of
//! threads take slices from one [`Slices`]: large plain files are read by position and small ones by the
//! hundred, outside the lock; everything else is read (and decompressed) in order by whichever
//! thread asks next, while the others work. A slice holds about a megabyte, however long
//! the input or short its documents. Memory is one slice a thread, and the longest stretch without
//! a cut.

mod document_cuts;
mod grid;
mod inputs;
mod open;
mod records;
mod rows;
mod slice;
mod slices;
mod stream;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use aho_corasick::{AhoCorasick, Input as Haystack, MatchKind};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::cut::CutRule;
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::progress::Progress;
pub use document_cuts::{Cut, Sample};
use inputs::Inputs;
pub use inputs::{Input, STDIN, modified_ns};
pub use rows::{RowBatch, RowFormat, RowReader};
use slice::Segment;
pub use slice::{Content, Piece, Slice};
use slices::Feed;
pub use slices::Slices;

/// How much of a document decides whether it goes to validation.
const HASHED_BYTES: usize = 4096;

/// No further file is packed into a slice that holds so many documents: they may all be empty.
const MOST_SEGMENTS: usize = 1 << 14;

/// What happens to bytes that are not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DecodeErrors {
    /// They are an error with file, line and offset.
    #[default]
    Strict,
    /// They become U+FFFD, as Python's `errors="replace"` has it.
    Replace,
    /// Each is a pretoken of its own, so that nothing is lost.
    Bytes,
}

impl DecodeErrors {
    /// `strict`, `replace` or `bytes`.
    pub fn new(name: &str) -> Result<Self> {
        match name {
            "strict" => Ok(Self::Strict),
            "replace" => Ok(Self::Replace),
            "bytes" => Ok(Self::Bytes),
            _ => Err(Error::Usage(format!("--errors {name:?} is none of strict, replace, bytes"))),
        }
    }
}

/// How text is read.
#[derive(Debug, Clone)]
pub struct SourceOptions {
    /// What happens to bytes that are not UTF-8.
    pub errors: DecodeErrors,
    /// The field of a JSON line, or the column, that holds the text; `text` where none is given.
    /// Standard input is read as JSON lines if one is.
    pub text_field: Option<String>,
    /// What reads `.parquet` files; without it they are refused.
    pub parquet: Option<Arc<dyn RowFormat>>,
    /// The longest line of JSON, or stretch of text without a cut, that is taken.
    pub max_record_bytes: u64,
    /// What somebody whose text has a longer one can do.
    pub long_record_hint: &'static str,
    /// About how much text a slice holds.
    pub slice_bytes: usize,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            errors: DecodeErrors::Strict,
            text_field: None,
            parquet: None,
            max_record_bytes: 1 << 30,
            long_record_hint: "--max_record_bytes sets the limit",
            slice_bytes: 1 << 20,
        }
    }
}

/// The files to read, and how.
#[derive(Debug)]
pub struct TextSource {
    inputs: Inputs,
    options: SourceOptions,
}

impl TextSource {
    /// Finds the files that `paths` (files, folders, globs, `-`) name; none is opened yet.
    pub fn new(paths: &[PathBuf], options: SourceOptions) -> Result<Self> {
        Self::of(Inputs::resolve(paths)?, options)
    }

    /// The files of one shard, as its plan has them. `has_documents`: whether all of the plan's
    /// inputs together come as documents of their own.
    pub fn planned(files: Vec<Input>, has_documents: bool, options: SourceOptions) -> Result<Self> {
        let inputs = Inputs { list: files, gathered: has_documents, skipped: Vec::new() };
        // The field was asked for of the whole, and this part of it may have no records.
        let text_field = options.text_field.clone();
        let mut source = Self::of(inputs, SourceOptions { text_field: None, ..options })?;
        source.options.text_field = text_field;
        Ok(source)
    }

    fn of(inputs: Inputs, options: SourceOptions) -> Result<Self> {
        if options.max_record_bytes == 0 || options.slice_bytes == 0 {
            return Err(Error::Usage("max_record_bytes must be at least 1".to_owned()));
        }
        let source = Self { inputs, options };
        if let Some(field) = &source.options.text_field
            && !source.inputs.list.iter().any(|input| source.has_records(input))
        {
            return Err(Error::Usage(format!(
                "--text_field {field} has no effect: no input is .jsonl, .parquet or standard input"
            )));
        }
        Ok(source)
    }

    /// The files, in order.
    pub fn inputs(&self) -> &[Input] {
        &self.inputs.list
    }

    /// What happens to bytes that are not UTF-8.
    pub fn errors(&self) -> DecodeErrors {
        self.options.errors
    }

    /// About how much text a slice holds.
    pub fn slice_bytes(&self) -> usize {
        self.options.slice_bytes
    }

    /// The options that decide about the text, by the names of their flags.
    pub fn settings(&self) -> [(String, String); 3] {
        let errors = format!("{:?}", self.options.errors).to_lowercase();
        [
            ("errors".to_owned(), errors),
            ("text_field".to_owned(), self.text_field().to_owned()),
            ("max_record_bytes".to_owned(), self.options.max_record_bytes.to_string()),
        ]
    }

    /// What the folders hold beside regular, visible files; it is not read.
    pub fn skipped(&self) -> &[PathBuf] {
        &self.inputs.skipped
    }

    /// Leaves `paths` out of what folders hold: a run's own outputs.
    pub fn leave_out(&mut self, paths: &[PathBuf]) {
        self.inputs.leave_out(paths);
    }

    /// Refuses files of rows that cannot be read, or have no text, before hours of work: looks at
    /// what each says of itself.
    pub fn check_rows(&self) -> Result<()> {
        for input in self.inputs.list.iter().filter(|input| input.is_named_parquet()) {
            self.row_format(input)?.check(&input.path, self.text_field())?;
        }
        Ok(())
    }

    fn text_field(&self) -> &str {
        self.options.text_field.as_deref().unwrap_or("text")
    }

    fn row_format(&self, input: &Input) -> Result<&dyn RowFormat> {
        self.options.parquet.as_deref().ok_or_else(|| {
            let path = input.path.display();
            Error::Usage(format!("{path}: nothing here reads Parquet; lmkit does from Python"))
        })
    }

    /// Bytes on disk; 0 where an input cannot say.
    pub fn total_bytes(&self) -> u64 {
        if self.inputs.list.iter().any(Input::is_stdin) {
            return 0;
        }
        self.inputs.list.iter().map(Input::bytes).sum()
    }

    /// About how much text there is; none where an input, such as a pipe, cannot say.
    pub fn likely_text_bytes(&self) -> Option<u64> {
        let known = self.inputs.list.iter().all(|input| input.is_regular);
        known.then(|| self.inputs.list.iter().map(Input::likely_text_bytes).sum())
    }

    /// Whether the inputs come as documents of their own: lines of JSON, rows, a folder, a glob,
    /// or several files.
    pub fn has_documents(&self) -> bool {
        self.inputs.gathered
            || self.inputs.list.len() > 1
            || self.inputs.list.iter().any(|input| self.has_records(input))
    }

    /// The text in slices, cut by `cut`; with `split` told apart by document. Reading adds the
    /// bytes read to `progress` and ends when it is cancelled.
    pub fn slices<'s>(
        &'s self,
        cut: &'s CutRule,
        split: Option<&'s Split>,
        progress: &'s Progress,
    ) -> Slices<'s> {
        let limit = usize::try_from(self.options.max_record_bytes).unwrap_or(usize::MAX);
        let reading = Reading {
            inputs: &self.inputs.list,
            errors: self.options.errors,
            text_field: self.text_field(),
            max_record_bytes: self.options.max_record_bytes,
            long_record_hint: self.options.long_record_hint,
            slice_bytes: self.options.slice_bytes.min(limit),
            cut,
            split,
            progress,
        };
        Slices { source: self, reading, feed: Mutex::new(Feed::default()) }
    }

    fn is_jsonl(&self, input: &Input) -> bool {
        input.is_named_jsonl() || (input.is_stdin() && self.options.text_field.is_some())
    }

    /// Whether each record of `input` is a document.
    fn has_records(&self, input: &Input) -> bool {
        self.is_jsonl(input) || input.is_named_parquet()
    }
}

/// Which documents go to validation (or into a sample): those whose first 4,096 bytes hash low.
#[derive(Debug)]
pub struct Split {
    fraction: f64,
    seed: u64,
    /// Finds special tokens as the encoder does; the first of them ends a document.
    specials: Option<AhoCorasick>,
}

impl Split {
    /// Sends about `fraction` of the documents to validation. Within a text, documents end with
    /// `separator`, one of `specials`.
    pub fn new(fraction: f64, separator: Option<&str>, specials: &[&str]) -> Result<Self> {
        Self::seeded(fraction, 0, separator, specials)
    }

    /// The same, with another choice for each `seed`.
    pub fn seeded(
        fraction: f64,
        seed: u64,
        separator: Option<&str>,
        specials: &[&str],
    ) -> Result<Self> {
        let specials = match separator {
            None => None,
            Some(separator) => {
                let others = specials.iter().copied().filter(|&token| token != separator);
                let tokens: Vec<&str> = [separator].into_iter().chain(others).collect();
                let built =
                    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(tokens);
                Some(built.map_err(|error| Error::Usage(format!("special tokens: {error}")))?)
            }
        };
        Ok(Self { fraction, seed, specials })
    }

    fn separator(&self, text: &[u8], range: Range<usize>) -> Option<Range<usize>> {
        let specials = self.specials.as_ref()?;
        specials
            .find_iter(Haystack::new(text).range(range))
            .find(|found| found.pattern().as_u32() == 0)
            .map(|found| found.range())
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "53 of the hash's bits, which a float holds exactly"
    )]
    pub(crate) fn chooses(&self, document: &[u8]) -> bool {
        let head = &document[..document.len().min(HASHED_BYTES)];
        let hash = xxh3_64_with_seed(head, self.seed);
        ((hash >> 11) as f64) < self.fraction * (1_u64 << 53) as f64
    }
}

/// What all parts of reading need to know.
struct Reading<'s> {
    inputs: &'s [Input],
    errors: DecodeErrors,
    text_field: &'s str,
    max_record_bytes: u64,
    long_record_hint: &'s str,
    slice_bytes: usize,
    cut: &'s CutRule,
    split: Option<&'s Split>,
    progress: &'s Progress,
}

impl Reading<'_> {
    /// The one-based line of its file in which `segment` begins; for messages, since of a range it
    /// reads all that comes before.
    fn line_of(&self, segment: &Segment) -> Result<u64> {
        let input = &self.inputs[segment.input];
        match &input.range {
            Some(range) if range.start > 0 => {
                Ok(segment.line + open::lines_before(&input.path, range.start)?)
            }
            _ => Ok(segment.line),
        }
    }

    fn check_record(&self, path: &Path, offset: u64, length: u64) -> Result<()> {
        if length <= self.max_record_bytes {
            return Ok(());
        }
        let (limit, hint) = (self.max_record_bytes, self.long_record_hint);
        let why = format!(
            "from byte offset {offset} on, more than {limit} bytes of text cannot be divided; {hint}"
        );
        Err(Error::MalformedFile { path: path.to_owned(), why })
    }
}
