//! Pretoken counts ↔ a file, so that text is counted once, or on many machines, and learned from
//! many times.
//!
//! The pretokens stand in the order of their bytes, each as what it does not share with the one
//! before, so that equal counts give equal files and English takes about 7 bytes a pretoken. The
//! bytes are described in ARCHITECTURE.md. Writing sorts all pretokens once (16 to 32 bytes of
//! memory for each); reading is one pass. A checksum ends the file: what cannot be told by looking,
//! such as a changed count, is found as well.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use rayon::ThreadPool;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::count_pretokens::{PretokenCounter, PretokenCounts, Pruned};
use crate::durable;
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::progress::Progress;

/// What every counts file begins with; no text does.
const MAGIC: [u8; 8] = *b"\x89lmkcnt\n";
const FORMAT: u32 = 1;
/// A header is longer only in a file that is not ours.
const LONGEST_HEADER: u32 = 1 << 24;
/// How often, in pretokens, a long read or write looks whether it was cancelled.
const CHECK_EVERY: u64 = 1 << 12;

/// How the text was cut, which all counts that are added up must share, and how much there was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The pattern's name or regular expression.
    pub pattern: String,
    /// The special tokens that were cut out of the text.
    pub special_tokens: Vec<String>,
    /// How many pretokens were counted, repeats included.
    pub pretokens: u64,
    /// How many different ones the file holds.
    pub different: u64,
    /// How many bytes of text they make up.
    pub text_bytes: u64,
    /// How many pretokens were dropped for want of memory, repeats included.
    pub pruned_pretokens: u64,
    /// How many bytes of text those made up.
    pub pruned_text_bytes: u64,
    /// The lowest count that was kept then; 0 where nothing was dropped.
    pub lowest_kept: u64,
    /// The version that wrote the file.
    pub lmkit_version: String,
}

impl Header {
    /// What was dropped for want of memory.
    pub fn pruned(&self) -> Pruned {
        Pruned {
            pretokens: self.pruned_pretokens,
            text_bytes: self.pruned_text_bytes,
            lowest_kept: self.lowest_kept,
        }
    }
}

/// Writes `counts`, of text cut by `pattern` and `special_tokens`, to `path`, which appears whole.
pub fn write(
    path: &Path,
    counts: &PretokenCounts,
    pattern: &str,
    special_tokens: &[String],
    pruned: Pruned,
    threads: &ThreadPool,
    progress: &Progress,
) -> Result<()> {
    let words = counts.by_bytes(threads, progress)?;
    let header = Header {
        pattern: pattern.to_owned(),
        special_tokens: special_tokens.to_vec(),
        pretokens: counts.pretokens(),
        different: words.len() as u64,
        text_bytes: counts.text_bytes(),
        pruned_pretokens: pruned.pretokens,
        pruned_text_bytes: pruned.text_bytes,
        lowest_kept: pruned.lowest_kept,
        lmkit_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    durable::write_with(path, |file| {
        let mut out = Checked { inner: BufWriter::new(file), sum: Xxh3::new() };
        let text = serde_json::to_vec(&header).map_err(std::io::Error::other)?;
        let len = u32::try_from(text.len()).map_err(std::io::Error::other)?;
        out.write_all(&MAGIC)?;
        out.write_all(&FORMAT.to_le_bytes())?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(&text)?;
        let mut before: Vec<u8> = Vec::new();
        for (number, &word) in (0..).zip(&words) {
            if number % CHECK_EVERY == 0 {
                progress.check().map_err(std::io::Error::other)?;
            }
            counts.with_bytes(word, |bytes| {
                let shared = before.iter().zip(bytes).take_while(|(one, other)| one == other);
                let shared = shared.count();
                write_number(&mut out, shared as u64)?;
                write_number(&mut out, (bytes.len() - shared) as u64)?;
                out.write_all(&bytes[shared..])?;
                write_number(&mut out, word.count)?;
                before.truncate(shared);
                before.extend_from_slice(&bytes[shared..]);
                std::io::Result::Ok(())
            })?;
        }
        let sum = out.sum.digest128();
        out.inner.write_all(&sum.to_le_bytes())?;
        out.inner.flush()
    })
}

/// What a file says of itself.
pub fn read_header(path: &Path) -> Result<Header> {
    Reader::open(path)?.header()
}

/// Adds the counts of a file to `counter`; `progress` is told the bytes read.
pub fn read(path: &Path, counter: &mut PretokenCounter, progress: &Progress) -> Result<Header> {
    let mut reader = Reader::open(path)?;
    let header = reader.header()?;
    let (mut word, mut pretokens, mut text_bytes) = (Vec::new(), 0_u64, 0_u64);
    let mut told = 0;
    for number in 0..header.different {
        if number % CHECK_EVERY == 0 {
            progress.check()?;
            progress.add(reader.at - told);
            told = reader.at;
        }
        let count = reader.word(&mut word, number == 0)?;
        let bytes = count.checked_mul(word.len() as u64);
        let sums = (pretokens.checked_add(count), bytes.and_then(|n| text_bytes.checked_add(n)));
        let (Some(more_pretokens), Some(more_bytes)) = sums else {
            return Err(reader.malformed("counts that no 64 bits can hold together"));
        };
        (pretokens, text_bytes) = (more_pretokens, more_bytes);
        counter.add(&word, count)?;
    }
    reader.end()?;
    if (pretokens, text_bytes) != (header.pretokens, header.text_bytes) {
        return Err(reader.malformed("the counts do not add up to what the header says"));
    }
    progress.add(reader.at - told);
    Ok(header)
}

/// A number in groups of seven bits, the lowest first; all but the last have the top bit set.
fn write_number(out: &mut impl Write, mut number: u64) -> std::io::Result<()> {
    let (mut bytes, mut len) = ([0; 10], 0);
    loop {
        bytes[len] = (number & 0x7f) as u8 | 0x80;
        number >>= 7;
        len += 1;
        if number == 0 {
            bytes[len - 1] &= 0x7f;
            return out.write_all(&bytes[..len]);
        }
    }
}

/// Sums up what is written.
struct Checked<W> {
    inner: W,
    sum: Xxh3,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Reads a file from start to end, knowing where it is.
struct Reader<'p> {
    path: &'p Path,
    inner: BufReader<File>,
    sum: Xxh3,
    at: u64,
}

impl<'p> Reader<'p> {
    fn open(path: &'p Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let inner = BufReader::with_capacity(1 << 18, file);
        Ok(Self { path, inner, sum: Xxh3::new(), at: 0 })
    }

    fn header(&mut self) -> Result<Header> {
        let mut magic = [0; MAGIC.len()];
        let is_ours = self.inner.read_exact(&mut magic).is_ok() && magic == MAGIC;
        if !is_ours {
            let why = "not a file of counts, such as --save_counts writes".to_owned();
            return Err(Error::MalformedFile { path: self.path.to_owned(), why });
        }
        self.sum.update(&magic);
        self.at = MAGIC.len() as u64;
        let format = self.fixed()?;
        if format != FORMAT {
            return Err(self.malformed(&format!("format {format}; this lmkit reads {FORMAT}")));
        }
        let len = self.fixed()?;
        if len > LONGEST_HEADER {
            return Err(self.malformed("a header too long to be true"));
        }
        let mut text = vec![0; len as usize];
        self.exact(&mut text)?;
        serde_json::from_slice(&text).map_err(|why| self.malformed(&format!("its header: {why}")))
    }

    /// Turns `word` into the one that follows it and returns its count.
    fn word(&mut self, word: &mut Vec<u8>, is_first: bool) -> Result<u64> {
        let (shared, more) = (self.length()?, self.length()?);
        if shared > word.len() {
            return Err(self.malformed("a pretoken that shares more than the one before it has"));
        }
        let last = word.get(shared).copied();
        word.truncate(shared);
        // As much as is really there, whatever the length says.
        let mut left = more;
        while left > 0 {
            let step = left.min(1 << 16);
            reserve(word, step)?;
            let from = word.len();
            word.resize(from + step, 0);
            let mut part = std::mem::take(word);
            let read = self.exact(&mut part[from..]);
            *word = part;
            read?;
            left -= step;
        }
        if !is_first && (more == 0 || last.is_some_and(|last| word[shared] <= last)) {
            return Err(self.malformed("pretokens out of order"));
        }
        let count = self.number()?;
        if count == 0 || word.is_empty() {
            return Err(self.malformed("a pretoken of no bytes, or one that was never counted"));
        }
        Ok(count)
    }

    /// The checksum, and nothing after it.
    fn end(&mut self) -> Result<()> {
        let sum = self.sum.digest128();
        let mut written = [0; 16];
        self.exact(&mut written)?;
        if u128::from_le_bytes(written) != sum {
            return Err(self.malformed("its checksum does not match; the file is damaged"));
        }
        let more = self.inner.read(&mut [0]).map_err(|error| Error::io(self.path, error))?;
        if more == 0 { Ok(()) } else { Err(self.malformed("more follows the end")) }
    }

    fn fixed(&mut self) -> Result<u32> {
        let mut bytes = [0; 4];
        self.exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn length(&mut self) -> Result<usize> {
        let number = self.number()?;
        usize::try_from(number).map_err(|_| self.malformed("a length beyond all memory"))
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.exact(&mut byte)?;
            let bits = u64::from(byte[0] & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte[0] < 0x80 {
                return Ok(number);
            }
        }
        Err(self.malformed("a number of more than 64 bits"))
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.inner.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.malformed("the file is cut off"),
            _ => Error::io(self.path, error),
        })?;
        self.sum.update(bytes);
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn malformed(&self, why: &str) -> Error {
        let why = format!("at byte {}: {why}", self.at);
        Error::MalformedFile { path: self.path.to_owned(), why }
    }
}
