//! Inputs → the places at which they are cut into shards: between two documents, or two files.
//!
//! Aims at equal stretches of bytes on disk and takes the first document end from each aim on: a
//! line end in lines of JSON, a separator in other plain text. Files that cannot be entered in the
//! middle (compressed, of rows, or one document) fall to one side whole. Reads a little at each aim, and no
//! byte twice: a document longer than several shards is passed once.

use std::fs;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use aho_corasick::{AhoCorasick, Match, MatchKind};

use super::open::{self, Opened, PlainFile};
use super::{DecodeErrors, Input, SourceOptions, TextSource};
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::progress::Progress;

/// How much is read at an aim at first; four times as much, up to `MOST`, where no document ends.
const LOOK: u64 = 64 << 10;
const MOST: u64 = 4 << 20;

/// A place between two documents: before byte `offset` of an input, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Cut {
    /// Number of the input.
    pub input: usize,
    /// Byte of its file; 0 for the place before all of it.
    pub offset: u64,
}

/// How a file can be entered.
enum Entry {
    /// At each line.
    Lines(Arc<PlainFile>),
    /// After each separator.
    Separators(Arc<PlainFile>),
    /// Only at its start.
    Whole,
}

impl TextSource {
    /// The `count + 1` cuts that divide the inputs into `count` parts of about equal size; some of
    /// which are empty where documents are long. `separator`, one of `specials`, ends a document
    /// within a text.
    pub fn document_cuts(
        &self,
        count: usize,
        separator: Option<&str>,
        specials: &[&str],
        progress: &Progress,
    ) -> Result<Vec<Cut>> {
        let inputs = self.inputs();
        let separators = separator.map(|token| Separators::new(token, specials)).transpose()?;
        let total: u128 = inputs.iter().map(|input| u128::from(input.size)).sum();
        let end = Cut { input: inputs.len(), offset: 0 };
        let mut cuts = vec![Cut::default()];
        let mut file = File { source: self, separators, progress, number: usize::MAX, entry: None };
        let (mut number, mut before) = (0, 0_u128);
        for part in 1..count {
            progress.check()?;
            let aim = total * part as u128 / count as u128;
            while number < inputs.len() && before + u128::from(inputs[number].size) <= aim {
                before += u128::from(inputs[number].size);
                number += 1;
            }
            let last = cuts[part - 1];
            // The aim lies in this input, whose size is 64 bits.
            let offset = u64::try_from(aim - before).unwrap_or(u64::MAX);
            cuts.push(match () {
                () if number == inputs.len() => end,
                () if last >= (Cut { input: number, offset }) => last,
                () => file.first_cut(number, offset)?.max(last),
            });
        }
        cuts.push(end);
        Ok(cuts)
    }
}

impl TextSource {
    /// About `bytes` of text from place `number` of `count` that are spread evenly over the inputs;
    /// None where there is no text.
    pub fn sample(
        &self,
        number: u64,
        count: u64,
        bytes: u64,
        progress: &Progress,
    ) -> Result<Option<Sample>> {
        let total: u128 = self.inputs().iter().map(|input| u128::from(input.size)).sum();
        let mut offset = total * u128::from(2 * number + 1) / u128::from(2 * count);
        let found = self.inputs().iter().find(|input| {
            let is_here = offset < u128::from(input.size);
            offset -= if is_here { 0 } else { u128::from(input.size) };
            is_here
        });
        let Some(input) = found else { return Ok(None) };
        let offset = u64::try_from(offset).unwrap_or(u64::MAX);
        if input.is_named_parquet() {
            let part = vec![Input { range: Some(0..input.size), ..input.clone() }];
            let source = Self::planned(part, true, self.options.clone())?;
            return Ok(Some(Sample { source, bytes: None }));
        }
        let (range, errors, is_exact) = match open::open(input, progress)? {
            Opened::NotText => return Ok(None),
            Opened::Stream { .. } => (0..input.size, self.options.errors, false),
            Opened::Plain(file) if self.is_jsonl(input) => {
                let line_end = |from: u64| match from {
                    0 => Ok(0),
                    _ => scan(&file, from, (1, 0), progress, first_line_end)
                        .map(|end| end.unwrap_or(input.size)),
                };
                let start = line_end(offset)?;
                let start = if start < input.size { start } else { 0 };
                (start..line_end((start + bytes).min(input.size))?, self.options.errors, true)
            }
            // What is cut in two at either end counts for next to nothing.
            Opened::Plain(_) => {
                (offset..(offset + bytes).min(input.size), DecodeErrors::Bytes, true)
            }
        };
        let bytes = is_exact.then(|| range.end - range.start);
        let part = vec![Input { range: Some(range), ..input.clone() }];
        let source = Self::planned(part, true, SourceOptions { errors, ..self.options.clone() })?;
        Ok(Some(Sample { source, bytes }))
    }

    /// That each input can be read again, by another process too.
    pub fn check_again(&self) -> Result<()> {
        for input in self.inputs() {
            if input.is_stdin() || !fs::metadata(&input.path).is_ok_and(|found| found.is_file()) {
                let path = input.path.display();
                let name =
                    if input.is_stdin() { "standard input".to_owned() } else { path.to_string() };
                return Err(Error::Usage(format!(
                    "--shards needs inputs that can be read again, not {name}"
                )));
            }
        }
        Ok(())
    }
}

/// Some of the text.
pub struct Sample {
    /// The text.
    pub source: TextSource,
    /// Its bytes on disk; None of a compressed file or one of rows, which goes on for longer than was asked.
    pub bytes: Option<u64>,
}

/// The input that aims lie in.
struct File<'s> {
    source: &'s TextSource,
    separators: Option<Separators>,
    progress: &'s Progress,
    number: usize,
    entry: Option<Entry>,
}

impl File<'_> {
    /// The first cut of input `number` from `offset` on; the place after it where it has none.
    fn first_cut(&mut self, number: usize, offset: u64) -> Result<Cut> {
        let (before, after) =
            (Cut { input: number, offset: 0 }, Cut { input: number + 1, offset: 0 });
        if offset == 0 {
            return Ok(before);
        }
        let input = &self.source.inputs()[number];
        if self.number != number {
            (self.entry, self.number) = (Some(self.enter(input)?), number);
        }
        let found = match &self.entry {
            Some(Entry::Lines(file)) => scan(file, offset, (1, 0), self.progress, first_line_end)?,
            Some(Entry::Separators(file)) => self.first_separator(file, offset)?,
            _ => None,
        };
        Ok(match (&self.entry, found) {
            (_, Some(offset)) if offset < input.size => Cut { input: number, offset },
            (Some(Entry::Whole), _) if offset < input.size / 2 => before,
            _ => after,
        })
    }

    fn enter(&self, input: &Input) -> Result<Entry> {
        if input.is_named_parquet() {
            return Ok(Entry::Whole);
        }
        Ok(match open::open(input, self.progress)? {
            Opened::Plain(file) if self.source.is_jsonl(input) => Entry::Lines(file),
            Opened::Plain(file) if self.separators.is_some() => Entry::Separators(file),
            _ => Entry::Whole,
        })
    }

    fn first_separator(&self, file: &PlainFile, offset: u64) -> Result<Option<u64>> {
        let Some(separators) = &self.separators else { return Ok(None) };
        let longest = separators.longest;
        scan(file, offset, (2 * longest, longest), self.progress, |text, ends| {
            separators.first_end(text, ends)
        })
    }
}

/// The first document end from `offset` on, where `find(text, ends)` sees the first of a stretch of
/// text within `ends`, by what lies up to so many bytes before it and after it.
fn scan(
    file: &PlainFile,
    offset: u64,
    (before, after): (u64, u64),
    progress: &Progress,
    find: impl Fn(&[u8], RangeInclusive<usize>) -> Option<usize>,
) -> Result<Option<u64>> {
    let mut text = Vec::new();
    let (mut from, mut step) = (offset, LOOK);
    loop {
        progress.check()?;
        let base = from.saturating_sub(before);
        let end = (from + after + step).min(file.size);
        let last = if end == file.size { end } else { end - after };
        read(file, base..end, &mut text)?;
        if let Some(found) = find(&text, place(from - base)..=place(last - base)) {
            return Ok(Some(base + found as u64));
        }
        if end == file.size {
            return Ok(None);
        }
        (from, step) = (last + 1, (step * 4).min(MOST));
    }
}

fn read(file: &PlainFile, range: Range<u64>, text: &mut Vec<u8>) -> Result<()> {
    let length = place(range.end - range.start);
    text.clear();
    reserve(text, length)?;
    text.resize(length, 0);
    file.read_exact_at(text, range.start)
}

#[expect(clippy::cast_possible_truncation, reason = "a distance within bytes in memory")]
fn place(distance: u64) -> usize {
    distance as usize
}

fn first_line_end(text: &[u8], ends: RangeInclusive<usize>) -> Option<usize> {
    // A newline is the last byte of its line.
    let first = ends.start() - 1;
    memchr::memchr(b'\n', &text[first..*ends.end()]).map(|at| first + at + 1)
}

/// Finds separators that are certainly taken as such by the encoder.
struct Separators {
    /// Overlapping occurrences of all special tokens; the separator is the first.
    specials: AhoCorasick,
    longest: u64,
}

impl Separators {
    fn new(separator: &str, specials: &[&str]) -> Result<Self> {
        let others = specials.iter().copied().filter(|&token| token != separator);
        let tokens: Vec<&str> = [separator].into_iter().chain(others).collect();
        let longest = tokens.iter().map(|token| token.len() as u64).max().unwrap_or(0);
        let built = AhoCorasick::builder().match_kind(MatchKind::Standard).build(tokens);
        let specials = built.map_err(|error| Error::Usage(format!("special tokens: {error}")))?;
        Ok(Self { specials, longest })
    }

    /// The end of the first separator in `text` that lies within `ends`. One that overlaps another
    /// occurrence of a special token is left out, since which of them the encoder takes depends on
    /// what comes before.
    fn first_end(&self, text: &[u8], ends: RangeInclusive<usize>) -> Option<usize> {
        let mut recent: Vec<Match> = Vec::new();
        let mut candidate: Option<Match> = None;
        // By rising end.
        for found in self.specials.find_overlapping_iter(text) {
            if let Some(clear) = candidate
                && found.end() as u64 >= clear.end() as u64 + self.longest
            {
                return Some(clear.end());
            }
            if candidate.is_some_and(|candidate| found.start() < candidate.end()) {
                candidate = None;
            }
            recent.retain(|earlier| earlier.end() > found.start());
            let is_clear = recent.is_empty();
            recent.push(found);
            if candidate.is_none()
                && is_clear
                && found.pattern().as_u32() == 0
                && ends.contains(&found.end())
            {
                candidate = Some(found);
            }
        }
        candidate.map(|clear| clear.end())
    }
}
