//! Bytes → a new file, in blocks of four megabytes past the page cache.
//!
//! A token file is written once and not read soon. Through the page cache its bytes are copied, take
//! memory from others, and reach the disk when it is synced, after the work; direct I/O sends them
//! while the encoders go on. It wants aligned buffers, offsets and lengths, so blocks are gathered in
//! one buffer, and what is left at the end is written as usual. File systems that refuse direct I/O
//! get ordinary writes throughout, and so do outputs of less than a block.
//!
//! On a virtual disk of 1.9 GB/s, `lmkit tokenize` of 400 MB of English took 1.10 s with it and 1.53 s
//! with ordinary writes, fsync included (medians of five, in turn). A memory map is no alternative: a
//! full disk would be a signal instead of an error.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};
use crate::memory::zeroed;

/// Bytes of a block; smaller ones are slower.
const BLOCK: usize = 4 << 20;
/// What direct I/O is aligned to: the page size, a multiple of every sector size.
const ALIGNMENT: usize = 4096;

/// A file that is being written, from its start on.
pub(crate) struct BlockWriter {
    file: File,
    /// The same file without the page cache; none where that is refused.
    direct: Option<File>,
    buffer: Box<[u8]>,
    /// Where in the buffer the block begins.
    base: usize,
    /// Bytes of the block that are filled.
    filled: usize,
    /// Where in the file the block belongs.
    offset: u64,
}

impl BlockWriter {
    /// Creates the file at `path`, where none may be; errors name `shown`.
    pub(crate) fn create(path: &Path, shown: &Path) -> Result<Self> {
        // New, so that two threads of one process do not write the same file.
        let file = File::create_new(path).map_err(|source| Error::io(shown, source))?;
        Self::of(file, path)
    }

    /// Goes on with a file that a writer of this kind began and that is whole up to `end`; what it
    /// holds beyond is cut off.
    pub(crate) fn reopen(path: &Path, shown: &Path, end: u64) -> Result<Self> {
        let refused = |source| Error::io(shown, source);
        let file = File::options().read(true).write(true).open(path).map_err(refused)?;
        file.set_len(end).map_err(refused)?;
        let mut writer = Self::of(file, path)?;
        writer.offset = end / BLOCK as u64 * BLOCK as u64;
        while writer.offset + (writer.filled as u64) < end {
            let room = &mut writer.buffer[writer.base..][writer.filled..BLOCK];
            let at = writer.offset + writer.filled as u64;
            writer.filled += read_at(&writer.file, room, at).map_err(refused)?;
        }
        Ok(writer)
    }

    fn of(file: File, path: &Path) -> Result<Self> {
        let buffer = zeroed::<u8>(BLOCK + ALIGNMENT)?;
        let base = buffer.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Ok(Self { file, direct: open_direct(path), buffer, base, filled: 0, offset: 0 })
    }

    /// Hands everything to the system that was appended.
    pub(crate) fn flush(&self) -> io::Result<()> {
        write_all_at(&self.file, &self.buffer[self.base..][..self.filled], self.offset)
    }

    /// Appends what `fill` writes to the room it is given, at least a byte, and returns the count of.
    pub(crate) fn append(&mut self, fill: impl FnOnce(&mut [u8]) -> usize) -> io::Result<()> {
        let block = &mut self.buffer[self.base..][..BLOCK];
        self.filled += fill(&mut block[self.filled..]);
        if self.filled < BLOCK {
            return Ok(());
        }
        if let Some(direct) = &self.direct
            && let Err(error) = write_all_at(direct, block, self.offset)
        {
            // Some file systems take the flag and refuse the write.
            if error.kind() != ErrorKind::InvalidInput {
                return Err(error);
            }
            self.direct = None;
        }
        if self.direct.is_none() {
            write_all_at(&self.file, block, self.offset)?;
        }
        self.offset += BLOCK as u64;
        self.filled = 0;
        Ok(())
    }

    /// Writes what is left, and `header` over the file's first bytes; syncs, and returns the file.
    pub(crate) fn finish(self, header: &[u8]) -> io::Result<File> {
        self.flush()?;
        write_all_at(&self.file, header, 0)?;
        self.file.sync_all()?;
        Ok(self.file)
    }
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path) -> Option<File> {
    None
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(direct: bool, len: usize) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut writer = BlockWriter::create(&path, &path).unwrap();
        if !direct {
            writer.direct = None;
        }
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let fill = |room: &mut [u8]| {
                let count = room.len().min(rest.len()).min(1_000_000);
                room[..count].copy_from_slice(&rest[..count]);
                rest = &rest[count..];
                count
            };
            writer.append(fill).unwrap();
        }
        writer.finish(&[255; 3]).unwrap();
        let read = std::fs::read(path).unwrap();
        assert_eq!(read[3..], bytes[3..]);
        assert_eq!(read[..3], [255; 3]);
        read
    }

    #[test]
    fn a_file_that_was_flushed_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..=250).cycle().take(BLOCK + 5000).collect();
        let mut written = Vec::new();
        for end in [100, BLOCK - 3, BLOCK, BLOCK + 4096] {
            let mut writer = if written.is_empty() {
                BlockWriter::create(&path, &path).unwrap()
            } else {
                BlockWriter::reopen(&path, &path, written.len() as u64).unwrap()
            };
            for part in [&bytes[written.len()..end], &[0; 77]] {
                let fill = |room: &mut [u8]| {
                    let count = part.len().min(room.len());
                    room[..count].copy_from_slice(&part[..count]);
                    count
                };
                writer.append(fill).unwrap();
            }
            writer.flush().unwrap();
            written = bytes[..end].to_vec();
            assert_eq!(std::fs::read(&path).unwrap()[..end], written);
        }
    }

    #[test]
    fn direct_and_ordinary_writes_leave_the_same_file() {
        for len in [3, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 12345] {
            assert_eq!(written(true, len), written(false, len));
        }
    }
}
