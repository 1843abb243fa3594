//! Where the documents of a token file end → `NAME.docs.npy` beside it.
//!
//! One int64 a document: the number of the file's tokens up to and with the document's last. They
//! never fall, since an empty document may have no token, and the last is the file's number of
//! tokens. Written as token files are, beside the final name and renamed; buffered, since there is
//! one for every thousand tokens or so.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::durable;
use crate::error::{Error, Result};
use crate::token_file::{HEADER_BYTES, npy_header};

/// The file of document ends that belongs to the token file `path`.
pub fn beside(path: &Path) -> PathBuf {
    path.with_extension("docs.npy")
}

/// Writes the document ends of one token file.
pub struct EndsWriter {
    path: PathBuf,
    partial: PathBuf,
    file: Option<BufWriter<File>>,
    hash: Box<Xxh3>,
    documents: u64,
}

impl EndsWriter {
    /// Begins the file for the token file `tokens`.
    pub fn create(tokens: &Path) -> Result<Self> {
        let path = beside(tokens);
        let partial = durable::temporary(&path);
        let refused = |source| Error::io(&path, source);
        let mut file = BufWriter::new(File::create_new(&partial).map_err(refused)?);
        file.write_all(&[0; HEADER_BYTES]).map_err(refused)?;
        Ok(Self { path, partial, file: Some(file), hash: Box::new(Xxh3::new()), documents: 0 })
    }

    /// Appends ends that count from token `first` of the file.
    pub fn write(&mut self, first: u64, ends: &[u64]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        for end in ends {
            let bytes = (first + end).to_le_bytes();
            self.hash.update(&bytes);
            file.write_all(&bytes).map_err(|source| Error::io(&self.path, source))?;
        }
        self.documents += ends.len() as u64;
        Ok(())
    }

    /// Puts the file in place; returns its checksum.
    pub fn finish(&mut self) -> Result<String> {
        let checksum = format!("xxh3-128:{:032x}", self.hash.digest128());
        let Some(mut file) = self.file.take() else { return Ok(checksum) };
        let header = npy_header("<i8", self.documents);
        let mut complete = || {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header)?;
            file.flush()?;
            file.get_ref().sync_all()?;
            fs::rename(&self.partial, &self.path)
        };
        complete().map_err(|source| Error::io(&self.path, source))?;
        Ok(checksum)
    }
}

impl Drop for EndsWriter {
    fn drop(&mut self) {
        if self.partial.exists() {
            // The error that led here is the one to tell.
            let _ = fs::remove_file(&self.partial);
        }
    }
}
