//! What a user names → the files meant, in order: files, folders, globs, `-`.

use std::fs::{self, Metadata};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::durable;
use crate::error::{Error, Result};

/// The name of standard input.
pub const STDIN: &str = "-";

/// One file to read.
#[derive(Debug, Clone)]
pub struct Input {
    /// As messages name it; `-` is standard input.
    pub path: PathBuf,
    /// Bytes on disk; 0 where the system cannot say.
    pub size: u64,
    /// Found in a folder: files that are not text are passed over, and said so.
    pub found: bool,
    /// Its time of change, in nanoseconds since 1970; 0 where the system cannot say.
    pub modified_ns: u64,
    /// Of a shard's inputs: which of its bytes are read; all of them, or a part of plain text. Size
    /// and time are its plan's then, and a file that has others is refused.
    pub range: Option<Range<u64>>,
    /// A link, found in a folder.
    pub(crate) is_link: bool,
    /// A regular file, when it was found.
    pub(crate) is_regular: bool,
}

/// The time of change of a file, in nanoseconds since 1970; 0 where the system cannot say.
pub fn modified_ns(metadata: &Metadata) -> u64 {
    let modified = metadata.modified().ok();
    let age = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    u64::try_from(age.as_nanos()).unwrap_or_default()
}

impl Input {
    /// All of a regular file that was named.
    pub fn new(path: PathBuf, size: u64, modified_ns: u64) -> Self {
        let (found, is_link, is_regular) = (false, false, true);
        Self { path, size, found, modified_ns, range: None, is_link, is_regular }
    }

    /// How many bytes on disk are read of it.
    pub fn bytes(&self) -> u64 {
        self.range.as_ref().map_or(self.size, |range| range.end - range.start)
    }

    /// About how much text that is: to a quarter of its size it is usually compressed.
    pub(super) fn likely_text_bytes(&self) -> u64 {
        self.bytes() * if self.is_named_compressed() { 4 } else { 1 }
    }

    /// Whether this is standard input.
    pub fn is_stdin(&self) -> bool {
        self.path.as_os_str() == STDIN
    }

    /// Whether the name says that every line is a JSON record.
    pub(super) fn is_named_jsonl(&self) -> bool {
        let unpacked = self.path.file_stem().filter(|_| self.is_named_compressed());
        ends_in(unpacked.map_or(&self.path, Path::new), &["jsonl", "ndjson"])
    }

    /// Whether the name says that this is compressed.
    pub(super) fn is_named_compressed(&self) -> bool {
        ends_in(&self.path, &["gz", "zst"])
    }

    /// Whether the name says that this is a table of Parquet.
    pub(super) fn is_named_parquet(&self) -> bool {
        ends_in(&self.path, &["parquet"])
    }
}

fn ends_in(name: &Path, endings: &[&str]) -> bool {
    name.extension().is_some_and(|ending| endings.iter().any(|e| ending.eq_ignore_ascii_case(e)))
}

/// All files to read.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) list: Vec<Input>,
    /// Whether a folder or a glob was named.
    pub(super) gathered: bool,
    /// What folders hold beside regular, visible files.
    pub(super) skipped: Vec<PathBuf>,
}

/// What a folder holds.
enum Entry {
    File(Input),
    Folder(PathBuf),
}

impl Entry {
    /// Its name, for comparison with others of its folder, whose path has `start` bytes.
    fn name(&self, start: usize) -> &[u8] {
        let (Self::File(Input { path, .. }) | Self::Folder(path)) = self;
        &path.as_os_str().as_encoded_bytes()[start..]
    }
}

impl Inputs {
    /// Resolves `paths` in the order given; what a folder or a glob holds is sorted.
    pub(super) fn resolve(paths: &[PathBuf]) -> Result<Self> {
        if paths.is_empty() {
            return Err(Error::Usage("no input was named".to_owned()));
        }
        let mut inputs = Self::default();
        for path in paths {
            inputs.add(path)?;
        }
        if inputs.list.iter().filter(|input| input.is_stdin()).count() > 1 {
            return Err(Error::Usage("standard input (-) is named twice".to_owned()));
        }
        Ok(inputs)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str() == STDIN {
            self.list.push(Input { is_regular: false, ..Input::new(path.to_owned(), 0, 0) });
            return Ok(());
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => self.add_folder(path),
            Ok(metadata) => {
                self.add_file(path.to_owned(), &metadata);
                Ok(())
            }
            Err(error) => match path.to_str().filter(|name| name.contains(['*', '?', '['])) {
                Some(pattern) => self.add_glob(path, pattern),
                None => Err(Error::io(path, error)),
            },
        }
    }

    fn add_file(&mut self, path: PathBuf, metadata: &Metadata) {
        let is_regular = metadata.is_file();
        let size = if is_regular { metadata.len() } else { 0 };
        self.list.push(Input { is_regular, ..Input::new(path, size, modified_ns(metadata)) });
    }

    fn add_glob(&mut self, path: &Path, pattern: &str) -> Result<()> {
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let matches = glob::glob_with(pattern, options)
            .map_err(|error| Error::Usage(format!("{pattern}: {error}")))?;
        let mut files = Vec::new();
        for found in matches {
            let found = found.map_err(|error| Error::io(error.path().to_owned(), error.into()))?;
            let metadata = fs::metadata(&found).map_err(|error| Error::io(&found, error))?;
            if !metadata.is_dir() {
                files.push((found, metadata));
            }
        }
        if files.is_empty() {
            return Err(Error::MissingFile { path: path.to_owned() });
        }
        files.sort_by(|left, right| left.0.cmp(&right.0));
        self.gathered = true;
        for (file, metadata) in files {
            self.add_file(file, &metadata);
        }
        Ok(())
    }

    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let before = self.list.len();
        self.walk(folder)?;
        if self.list.len() == before {
            return Err(Error::Usage(format!("{}: the folder holds no files", folder.display())));
        }
        self.gathered = true;
        Ok(())
    }

    /// Hidden entries and whatever is neither folder nor regular file are skipped; links to files
    /// are followed, links to folders are not, since they may lead in a circle. By names, folder by
    /// folder, which is the order of whole paths.
    fn walk(&mut self, folder: &Path) -> Result<()> {
        let refused = |error| Error::io(folder, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(|error| Error::io(&path, error))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                self.skipped.push(path);
            } else if kind.is_dir() {
                entries.push(Entry::Folder(path));
            } else {
                let is_link = kind.is_symlink();
                // An entry's own look-up costs less than one by its path, and follows no link.
                let metadata = if is_link { fs::metadata(&path) } else { entry.metadata() };
                match metadata {
                    Ok(metadata) if metadata.is_file() => entries.push(Entry::File(Input {
                        found: true,
                        is_link,
                        ..Input::new(path, metadata.len(), modified_ns(&metadata))
                    })),
                    _ => self.skipped.push(path),
                }
            }
        }
        let start = folder.as_os_str().len();
        entries.sort_unstable_by(|left, right| left.name(start).cmp(right.name(start)));
        for entry in entries {
            match entry {
                Entry::File(input) => self.list.push(input),
                Entry::Folder(path) => self.walk(&path)?,
            }
        }
        Ok(())
    }

    /// Leaves out of the folders' files those named, or in a folder named: a run's own outputs.
    pub(super) fn leave_out(&mut self, paths: &[PathBuf]) {
        let outputs: Vec<PathBuf> =
            paths.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let is_output = |path: PathBuf| outputs.iter().any(|output| path.starts_with(output));
        if !outputs.is_empty() {
            let mut folder = RealFolder::default();
            self.list.retain(|input| !input.found || !folder.real(input).is_some_and(&is_output));
        }
    }
}

/// The folder of the file before, and its real path: a look-up for each file would cost as much as
/// to open it, and most files share the folder.
#[derive(Default)]
struct RealFolder {
    path: PathBuf,
    real: Option<PathBuf>,
}

impl RealFolder {
    fn real(&mut self, input: &Input) -> Option<PathBuf> {
        if input.is_link {
            return fs::canonicalize(&input.path).ok();
        }
        let folder = durable::parent(&input.path);
        if self.real.is_none() || self.path != folder {
            self.real = fs::canonicalize(folder).ok();
            folder.clone_into(&mut self.path);
        }
        Some(self.real.as_ref()?.join(input.path.file_name()?))
    }
}
