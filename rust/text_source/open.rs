//! A file → its text as a stream of bytes, or a plain file to read in slices: decompression by
//! content, and a file that changes its size meanwhile is an error.

use std::fs::{File, Metadata};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::inputs::{Input, modified_ns};
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::progress::Progress;

/// How much of a file is looked at to tell text from other things.
const HEAD: usize = 8192;

/// What a file turned out to be.
pub(super) enum Opened<'p> {
    /// A regular file of uncompressed text.
    Plain(Arc<PlainFile>),
    /// Anything else that is read from start to end.
    Stream { reader: Box<dyn Read + Send + 'p>, compression: Option<&'static str> },
    /// Found in a folder, and no text.
    NotText,
}

/// Opens `input`; reading adds to `progress` and stops when it is cancelled.
pub(super) fn open<'p>(input: &Input, progress: &'p Progress) -> Result<Opened<'p>> {
    let refused = |error| Error::io(&input.path, error);
    let file = if input.is_stdin() { stdin() } else { open_file(&input.path) };
    let file = file.map_err(refused)?;
    let metadata = file.metadata().map_err(refused)?;
    if metadata.is_dir() {
        return Err(Error::Usage(format!("{}: is a folder", input.path.display())));
    }
    if !metadata.is_file() || input.is_stdin() {
        let pipe = Pipe { file, progress };
        return by_content(pipe, input);
    }
    check_unchanged(input, &metadata)?;
    let whole = metadata.len();
    let range = input.range.clone().unwrap_or(0..whole);
    let path = input.path.clone();
    let (start, size) = (range.start, range.end - range.start);
    let file = Arc::new(PlainFile { file, path, start, size, whole });
    let mut head = vec![0; HEAD.min(usize::try_from(whole).unwrap_or(HEAD))];
    file.read_absolute(&mut head, 0)?;
    match compression_of(&head) {
        Some(_) if size < whole => Err(Error::Internal(format!(
            "{}: a part of a compressed file was asked for",
            input.path.display()
        ))),
        Some(_) => by_content(file.reader(progress), input),
        None if input.found && holds_nul(&head) => Ok(Opened::NotText),
        None => Ok(Opened::Plain(file)),
    }
}

/// What [`read_small`] made of a file.
pub(super) enum Small {
    /// All of it was read.
    Text,
    /// Found in a folder, and no text.
    NotText,
    /// Nothing was read: it is not what its size and its name said, and [`open`] looks closer.
    Other,
}

/// Appends all of a file of uncompressed text to `bytes`: opened, read once, closed. For a file of a
/// few kilobytes, what [`open`] and its readers ask of the system costs more than to encode it.
pub(super) fn read_small(input: &Input, bytes: &mut Vec<u8>) -> Result<Small> {
    let base = bytes.len();
    let Ok(file) = open_file(&input.path) else { return Ok(Small::Other) };
    if input.range.is_some() {
        let metadata = file.metadata().map_err(|error| Error::io(&input.path, error))?;
        check_unchanged(input, &metadata)?;
    }
    // One byte more is asked for: that it does not come tells that the file is as long as was said.
    let Ok(size) = usize::try_from(input.size) else { return Ok(Small::Other) };
    reserve(bytes, size + 1)?;
    bytes.resize(base + size + 1, 0);
    let count = read_at(&file, &mut bytes[base..], 0);
    bytes.truncate(base + size);
    let text = &bytes[base..];
    let is_whole = count.is_ok_and(|count| count == size);
    let small = if !is_whole || compression_of(text).is_some() {
        Small::Other
    } else if input.found && holds_nul(text) {
        Small::NotText
    } else {
        return Ok(Small::Text);
    };
    bytes.truncate(base);
    Ok(small)
}

/// Whether a file that begins like this is no text.
fn holds_nul(start: &[u8]) -> bool {
    memchr::memchr(0, &start[..start.len().min(HEAD)]).is_some()
}

/// That a file which others will open is whole, and as it was when it was planned.
pub(super) fn check_planned(input: &Input) -> Result<()> {
    let metadata = std::fs::metadata(&input.path).map_err(|error| Error::io(&input.path, error))?;
    check_unchanged(input, &metadata)?;
    match &input.range {
        Some(range) if *range != (0..metadata.len()) => Err(Error::Internal(format!(
            "{}: a part of a file of rows was asked for",
            input.path.display()
        ))),
        _ => Ok(()),
    }
}

/// That a file which a plan speaks of is as it was then.
fn check_unchanged(input: &Input, metadata: &Metadata) -> Result<()> {
    let is_same = metadata.len() == input.size && modified_ns(metadata) == input.modified_ns;
    if input.range.is_none() || is_same {
        return Ok(());
    }
    let path = input.path.display();
    Err(Error::Mismatch(format!("{path}: has changed since the shards were planned")))
}

/// How many line ends come before `offset` in the plain file at `path`.
pub(super) fn lines_before(path: &Path, offset: u64) -> Result<u64> {
    let refused = |error| Error::io(path, error);
    let file = open_file(path).map_err(refused)?;
    let whole = file.metadata().map_err(refused)?.len();
    let file = PlainFile { file, path: path.to_owned(), start: 0, size: whole, whole };
    file.lines_before(offset)
}

fn by_content<'p>(mut raw: impl Read + Send + 'p, input: &Input) -> Result<Opened<'p>> {
    let refused = |error| converted(&input.path, None, error);
    let mut head = Vec::new();
    raw.by_ref().take(4).read_to_end(&mut head).map_err(refused)?;
    let compression = compression_of(&head);
    let raw = Cursor::new(head).chain(raw);
    let reader: Box<dyn Read + Send> = match compression {
        Some("gzip") => Box::new(flate2::read::MultiGzDecoder::new(raw)),
        Some(_) => Box::new(zstd::stream::read::Decoder::new(raw).map_err(refused)?),
        None => Box::new(raw),
    };
    Ok(Opened::Stream { reader, compression })
}

/// By the first bytes, none of which begins UTF-8 text. (A skippable zstd frame's would, if text
/// began with `P*M` and a control character.)
fn compression_of(head: &[u8]) -> Option<&'static str> {
    match head {
        [0x1f, 0x8b, ..] => Some("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some("zstd"),
        _ => None,
    }
}

/// An error of a reader made here: one of ours in disguise, damaged data, or the system's.
pub(super) fn converted(path: &Path, compression: Option<&str>, error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => ours,
        Err(error) => match compression {
            Some(format) if error.raw_os_error().is_none() => {
                let why = if error.kind() == io::ErrorKind::UnexpectedEof {
                    format!("the {format} data is cut off")
                } else {
                    format!("damaged {format} data: {error}")
                };
                Error::MalformedFile { path: path.to_owned(), why }
            }
            _ => Error::io(path, error),
        },
    }
}

/// A regular file of known size, or a range of one, read by position from any thread. Positions
/// count from the range's start.
#[derive(Debug)]
pub(super) struct PlainFile {
    file: File,
    pub(super) path: PathBuf,
    /// Where in the file the range begins.
    pub(super) start: u64,
    /// Bytes of the range.
    pub(super) size: u64,
    /// Bytes of the file.
    whole: u64,
}

impl PlainFile {
    /// Whether the range ends where the file does.
    pub(super) fn ends_file(&self) -> bool {
        self.start + self.size == self.whole
    }

    /// Fills `buffer` from `offset`, all of which lies below `size`.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.read_absolute(buffer, self.start + offset)
    }

    /// The same from `offset` in the file.
    fn read_absolute(&self, mut buffer: &mut [u8], mut offset: u64) -> Result<()> {
        while !buffer.is_empty() {
            match read_at(&self.file, buffer, offset) {
                Ok(0) => return Err(self.changed()),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(&self.path, error)),
            }
        }
        Ok(())
    }

    /// That the file still has the size it was opened with; asked when its end was read.
    pub(super) fn check_size(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|error| Error::io(&self.path, error))?;
        if metadata.len() == self.whole { Ok(()) } else { Err(self.changed()) }
    }

    /// How many line ends come before `offset` in the file; for messages, since it reads all of it.
    pub(super) fn lines_before(&self, offset: u64) -> Result<u64> {
        let mut buffer = vec![0; 1 << 16];
        let (mut at, mut lines) = (0, 0);
        while at < offset {
            let count = usize::try_from(offset - at).map_or(buffer.len(), |n| n.min(buffer.len()));
            self.read_absolute(&mut buffer[..count], at)?;
            lines += memchr::memchr_iter(b'\n', &buffer[..count]).count() as u64;
            at += count as u64;
        }
        Ok(lines)
    }

    /// The whole range as a stream.
    pub(super) fn reader<'p>(
        self: &Arc<Self>,
        progress: &'p Progress,
    ) -> impl Read + Send + use<'p> {
        SizedReader { file: Arc::clone(self), at: 0, progress }
    }

    fn changed(&self) -> Error {
        let source = io::Error::other("the file changed its size while it was read");
        Error::Io { path: self.path.clone(), source }
    }
}

struct SizedReader<'p> {
    file: Arc<PlainFile>,
    at: u64,
    progress: &'p Progress,
}

impl Read for SizedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.progress.check().map_err(io::Error::other)?;
        let left = self.file.size - self.at;
        let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.file.read_exact_at(&mut buffer[..count], self.at).map_err(io::Error::other)?;
        self.at += count as u64;
        self.progress.add(count as u64);
        if count == 0 && !buffer.is_empty() {
            self.file.check_size().map_err(io::Error::other)?;
        }
        Ok(count)
    }
}

/// Standard input, a named pipe, a device: may have nothing to say for a long time, and the wait
/// must end when the run is cancelled.
struct Pipe<'p> {
    file: File,
    progress: &'p Progress,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.progress.check().map_err(io::Error::other)?;
            if !is_readable(&self.file)? {
                continue;
            }
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.progress.add(count as u64);
                    return Ok(count);
                }
            }
        }
    }
}

/// Opens a file; a named pipe too without waiting for its writer, for whom [`Pipe`] waits.
#[cfg(unix)]
fn open_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(not(unix))]
fn open_file(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn stdin() -> io::Result<File> {
    use std::os::fd::AsFd;
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

#[cfg(windows)]
fn stdin() -> io::Result<File> {
    use std::os::windows::io::AsHandle;
    Ok(File::from(io::stdin().as_handle().try_clone_to_owned()?))
}

/// Waits up to 50 ms for something to read, or the end.
#[cfg(unix)]
#[expect(unsafe_code, reason = "the standard library cannot wait for a pipe with a time limit")]
fn is_readable(file: &File) -> io::Result<bool> {
    use std::os::fd::AsRawFd;
    let mut wanted = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: `wanted` is one valid pollfd, ours alone for the call, and `file` keeps its
    // descriptor open.
    let ready = unsafe { libc::poll(&raw mut wanted, 1, 50) };
    match ready {
        0 => Ok(false),
        1.. => Ok(true),
        _ => {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) }
        }
    }
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the other systems' can fail")]
fn is_readable(_file: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}
