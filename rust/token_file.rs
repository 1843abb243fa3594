//! Ids → a token file (`.npy` or `.bin`) and its sidecar, whole or not at all.
//!
//! Bytes go to a temporary name beside the final one; [`TokenWriter::finish`] writes the header,
//! fsyncs, puts the sidecar in place, and renames. The sidecar comes first, so that no file is ever
//! without its own: a sidecar that is one step ahead describes a file of another size and time, which
//! readers see, or none at all. A writer that is dropped before leaves nothing; [`TokenWriter::keep`]
//! leaves what another can go on with ([`TokenWriter::resume`]).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::block_writer::BlockWriter;
use crate::durable;
use crate::error::{Error, Result};

/// The header of a `.npy` file, padded so that the numbers begin at a multiple of 64.
pub(crate) const HEADER_BYTES: usize = 128;

/// How an id is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// Four bytes, signed.
    Int32,
    /// Two bytes, for vocabularies of at most 65,536 ids.
    Uint16,
    /// Four bytes, unsigned.
    Uint32,
}

impl Dtype {
    /// `int32`, `uint16` or `uint32`.
    pub fn new(name: &str) -> Result<Self> {
        match name {
            "int32" => Ok(Self::Int32),
            "uint16" => Ok(Self::Uint16),
            "uint32" => Ok(Self::Uint32),
            _ => Err(Error::Usage(format!("--dtype {name:?} is none of int32, uint16, uint32"))),
        }
    }

    /// The name that [`Dtype::new`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int32 => "int32",
            Self::Uint16 => "uint16",
            Self::Uint32 => "uint32",
        }
    }

    /// Bytes of one id.
    pub fn size(self) -> usize {
        if self == Self::Uint16 { 2 } else { 4 }
    }

    fn descr(self) -> &'static str {
        match self {
            Self::Int32 => "<i4",
            Self::Uint16 => "<u2",
            Self::Uint32 => "<u4",
        }
    }

    /// Writes as many of `ids` as fit to `room`, little-endian; returns how many bytes they take.
    #[expect(clippy::cast_possible_truncation, reason = "checked against the vocabulary's size")]
    fn put(self, ids: &[u32], room: &mut [u8]) -> usize {
        let count = ids.len().min(room.len() / self.size());
        let room = &mut room[..count * self.size()];
        if self == Self::Uint16 {
            for (bytes, id) in room.as_chunks_mut::<2>().0.iter_mut().zip(ids) {
                *bytes = (*id as u16).to_le_bytes();
            }
        } else {
            for (bytes, id) in room.as_chunks_mut::<4>().0.iter_mut().zip(ids) {
                *bytes = id.to_le_bytes();
            }
        }
        room.len()
    }
}

/// What a part of a token file holds, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// How many ids.
    pub tokens: u64,
    /// How many documents begin in it.
    pub documents: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Smallest and largest id; `None` where there are none.
    pub range: Option<(u32, u32)>,
}

impl Counts {
    /// Counts `ids`; returns how many of them are `separator`.
    pub fn add_ids(&mut self, ids: &[u32], separator: Option<u32>) -> u64 {
        self.tokens += ids.len() as u64;
        let (mut least, mut largest) = self.range.unwrap_or((u32::MAX, 0));
        // No id is as large.
        let separator = separator.unwrap_or(u32::MAX);
        let mut separators = 0;
        // One pass, in stretches that a small counter suffices for: so vectors take all three.
        for ids in ids.chunks(1 << 16) {
            let mut count = 0_u32;
            for &id in ids {
                (least, largest) = (least.min(id), largest.max(id));
                count += u32::from(id == separator);
            }
            separators += u64::from(count);
        }
        if least <= largest {
            self.range = Some((least, largest));
        }
        separators
    }

    /// Adds what another part holds.
    pub fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.documents += other.documents;
        self.text_bytes += other.text_bytes;
        self.range = match (self.range, other.range) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
    }
}

/// What the sidecar says of where the ids come from.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    /// The tokenizer's fingerprint.
    pub tokenizer: String,
    /// The tokenizer's largest id plus one.
    pub vocab_size: usize,
    /// The inputs as they were named.
    pub inputs: Vec<String>,
}

#[derive(Serialize)]
struct Sidecar<'a> {
    format: u32,
    dtype: &'static str,
    tokens: u64,
    documents: u64,
    text_bytes: u64,
    smallest_id: Option<u32>,
    largest_id: Option<u32>,
    checksum: String,
    file_bytes: u64,
    modified_ns: u64,
    #[serde(flatten)]
    origin: &'a Origin,
    lmkit: &'static str,
}

/// The path of the sidecar of `path`.
pub fn sidecar(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".json");
    name.into()
}

/// Refuses an output that cannot be written: a name that is neither `.npy` nor `.bin`, a folder
/// that is not there, a file that is (unless `force`).
pub fn check_output(path: &Path, force: bool) -> Result<()> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    if !matches!(ending, "npy" | "bin") {
        return Err(Error::Usage(format!("{}: a token file ends in .npy or .bin", path.display())));
    }
    let folder = durable::parent(path);
    if !folder.is_dir() {
        return Err(Error::MissingFile { path: folder.to_owned() });
    }
    if path.is_dir() || (path.exists() && !force) {
        return Err(Error::OutputExists { path: path.to_owned() });
    }
    Ok(())
}

/// Writes one token file.
pub struct TokenWriter {
    path: PathBuf,
    partial: PathBuf,
    file: Option<BlockWriter>,
    dtype: Dtype,
    header: bool,
    hash: Box<Xxh3>,
    written: u64,
    is_kept: bool,
}

impl TokenWriter {
    /// Begins a file that will be at `path`.
    pub fn create(path: &Path, dtype: Dtype) -> Result<Self> {
        let partial = durable::temporary(path);
        let refused = |source| Error::io(path, source);
        let mut file = BlockWriter::create(&partial, path)?;
        let header = path.extension().is_some_and(|ending| ending == "npy");
        if header {
            file.append(|_| HEADER_BYTES).map_err(refused)?;
        }
        Ok(Self {
            path: path.to_owned(),
            partial,
            file: Some(file),
            dtype,
            header,
            hash: Box::new(Xxh3::new()),
            written: 0,
            is_kept: false,
        })
    }

    /// Goes on with the partial file of a killed run, which has this process's name by now and
    /// holds `written` bytes of ids; what it holds beyond is cut off. Reads it once, for the
    /// checksum.
    pub fn resume(path: &Path, dtype: Dtype, written: u64) -> Result<Self> {
        let refused = |source| Error::io(path, source);
        let header = path.extension().is_some_and(|ending| ending == "npy");
        let begin = if header { HEADER_BYTES as u64 } else { 0 };
        let partial = durable::temporary(path);
        let mut file = File::open(&partial).map_err(refused)?;
        let length = file.metadata().map_err(refused)?.len();
        if length < begin + written {
            let whole = begin + written;
            return Err(Error::Mismatch(format!(
                "{}: cannot resume: {length} bytes are left of the {whole} that were written; \
                 without --resume it begins anew",
                path.display()
            )));
        }
        file.seek(SeekFrom::Start(begin)).map_err(refused)?;
        let mut file = file.take(written);
        let mut hash = Box::new(Xxh3::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer).map_err(refused)?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
        }
        let file = Some(BlockWriter::reopen(&partial, path, begin + written)?);
        Ok(Self {
            path: path.to_owned(),
            partial,
            file,
            dtype,
            header,
            hash,
            written,
            is_kept: false,
        })
    }

    /// Hands everything written so far to the system.
    pub fn flush(&mut self) -> Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.flush().map_err(|source| Error::io(&self.path, source))
    }

    /// The partial file, to be made durable by whoever notes how far it is.
    pub fn file(&self) -> Result<File> {
        File::open(&self.partial).map_err(|source| Error::io(&self.path, source))
    }

    /// Leaves the partial file where it is.
    pub fn keep(mut self) {
        self.is_kept = true;
    }

    /// Appends ids.
    pub fn write(&mut self, mut ids: &[u32]) -> Result<()> {
        let Self { file: Some(file), dtype, hash, written, .. } = self else { return Ok(()) };
        while !ids.is_empty() {
            let put = |room: &mut [u8]| {
                let bytes = dtype.put(ids, room);
                hash.update(&room[..bytes]);
                *written += bytes as u64;
                ids = &ids[bytes / dtype.size()..];
                bytes
            };
            file.append(put).map_err(|source| Error::io(&self.path, source))?;
        }
        Ok(())
    }

    /// Puts the file in place with its sidecar; returns its checksum.
    pub fn finish(&mut self, counts: &Counts, origin: &Origin) -> Result<String> {
        let checksum = format!("xxh3-128:{:032x}", self.hash.digest128());
        let Some(file) = self.file.take() else { return Ok(checksum) };
        let modified = self.complete(file).map_err(|source| Error::io(&self.path, source))?;
        let described = Sidecar {
            format: 1,
            dtype: self.dtype.name(),
            tokens: counts.tokens,
            documents: counts.documents,
            text_bytes: counts.text_bytes,
            smallest_id: counts.range.map(|range| range.0),
            largest_id: counts.range.map(|range| range.1),
            checksum: checksum.clone(),
            file_bytes: self.written + if self.header { HEADER_BYTES as u64 } else { 0 },
            modified_ns: modified,
            origin,
            lmkit: env!("CARGO_PKG_VERSION"),
        };
        let mut json = serde_json::to_vec_pretty(&described)
            .map_err(|why| Error::Internal(format!("sidecar: {why}")))?;
        json.push(b'\n');
        let beside = sidecar(&self.path);
        durable::replace(&beside, &durable::temporary(&beside), &json)?;
        fs::rename(&self.partial, &self.path).map_err(|source| Error::io(&self.path, source))?;
        durable::sync_folder(durable::parent(&self.path))?;
        Ok(checksum)
    }

    fn complete(&self, file: BlockWriter) -> std::io::Result<u64> {
        let header = npy_header(self.dtype.descr(), self.written / self.dtype.size() as u64);
        let file = file.finish(if self.header { &header } else { &[] })?;
        let age = file.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(age.as_nanos()).unwrap_or_default())
    }
}

impl Drop for TokenWriter {
    fn drop(&mut self) {
        if !self.is_kept && (self.file.take().is_some() || self.partial.exists()) {
            // The error that led here is the one to tell; a file that stays is swept later.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

/// The header of `.npy` format 1.0 for `count` numbers in one dimension.
pub(crate) fn npy_header(descr: &str, count: u64) -> [u8; HEADER_BYTES] {
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({count},), }}");
    let mut bytes = [b' '; HEADER_BYTES];
    bytes[..8].copy_from_slice(b"\x93NUMPY\x01\x00");
    bytes[8..10].copy_from_slice(&118_u16.to_le_bytes());
    bytes[10..10 + text.len()].copy_from_slice(text.as_bytes());
    bytes[HEADER_BYTES - 1] = b'\n';
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_numpy_writes() {
        let bytes = npy_header(Dtype::Int32.descr(), 12);
        assert!(bytes.starts_with(
            b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (12,), }"
        ));
        assert_eq!(bytes.len() % 64, 0);
        assert_eq!(bytes[127], b'\n');
    }
}
