//! Every way lmkit's core can fail, one variant each, naming the culprit, the limit and the way out.
//!
//! A variant belongs to one [`ErrorKind`], which decides the exit code of the command line and the
//! class of the Python exception.

use std::path::PathBuf;

/// What the core's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Which of the exit codes an error stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// An option out of range, a missing input, an output that exists: exit 2.
    Usage,
    /// A missing input file: exit 2, and `FileNotFoundError` in Python.
    MissingFile,
    /// An input that is not what it should be: exit 3.
    Malformed,
    /// The system refused: disk full, no permission, I/O: exit 4.
    System,
    /// Two files do not belong together: exit 5.
    Mismatch,
    /// Stopped on request (Ctrl-C).
    Interrupted,
    /// Memory that could not be had: exit 1, and `MemoryError` in Python.
    OutOfMemory,
    /// Failed while working: exit 1.
    Failed,
}

/// A failure of the core.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A vocabulary lacks one of the 256 single bytes.
    #[error("the vocabulary has no token for byte 0x{byte:02x}; byte-level BPE needs all 256")]
    MissingByte {
        /// The first byte without a token.
        byte: u8,
    },
    /// Two ids stand for the same bytes.
    #[error("ids {first} and {second} are both {token}; a token must have one id")]
    DuplicateToken {
        /// The smaller id.
        first: u32,
        /// The larger id.
        second: u32,
        /// The token, printable.
        token: String,
    },
    /// One id stands for two tokens.
    #[error("token id {id} is given to both {first} and {second}")]
    DuplicateId {
        /// The id.
        id: u32,
        /// The token that had it, printable.
        first: String,
        /// The token that was given it too, printable.
        second: String,
    },
    /// An id that an int32 cannot hold.
    #[error("token id {id} is outside 0 to 2147483647, the ids an int32 holds")]
    IdOutOfRange {
        /// The id.
        id: i64,
    },
    /// Text with half a surrogate pair, which no UTF-8 can hold.
    #[error("the text holds a lone surrogate at index {index}, which is no character")]
    LoneSurrogate {
        /// Index in the Python string.
        index: usize,
    },
    /// A token of no bytes.
    #[error("token id {id} is empty; a token has at least one byte")]
    EmptyToken {
        /// Its id.
        id: u32,
    },
    /// A merge names a token that is not in the vocabulary.
    #[error("merge {position} joins {left} and {right}, but {missing} is not in the vocabulary")]
    UnknownMergeToken {
        /// Zero-based position in the merge list.
        position: usize,
        /// The left token, printable.
        left: String,
        /// The right token, printable.
        right: String,
        /// The token that is missing (left, right or their concatenation), printable.
        missing: String,
    },
    /// An id that is not in the vocabulary.
    #[error(
        "token id {id} at index {index} is not in the vocabulary of {len} tokens; \
         was it made with another vocabulary?"
    )]
    UnknownId {
        /// The id.
        id: i64,
        /// Where in the input it stood.
        index: usize,
        /// How many tokens there are.
        len: usize,
    },
    /// A special token that is empty, or given twice.
    #[error("special token {token}: {why}")]
    SpecialToken {
        /// The token, printable.
        token: String,
        /// What is wrong with it.
        why: String,
    },
    /// Text holds a special token where that was refused.
    #[error("the text holds the special token {token} at byte {offset}")]
    SpecialTokenInText {
        /// The token.
        token: String,
        /// Byte offset in the text.
        offset: usize,
    },
    /// A pattern that is neither a known name nor a regular expression.
    #[error("pattern {pattern:?}: {why}")]
    Pattern {
        /// What was given.
        pattern: String,
        /// What the regex library said.
        why: String,
    },
    /// A file that should exist does not.
    #[error("{}: no such file or folder", path.display())]
    MissingFile {
        /// The path as given.
        path: PathBuf,
    },
    /// A file whose content is not what it should be.
    #[error("{}: {why}", path.display())]
    MalformedFile {
        /// The path as given.
        path: PathBuf,
        /// What is wrong, with line or offset.
        why: String,
    },
    /// An input that is not UTF-8.
    #[error("{}: not UTF-8 at line {line}, byte offset {offset}", path.display())]
    NotUtf8 {
        /// The path as given.
        path: PathBuf,
        /// One-based line.
        line: u64,
        /// Byte offset in the (decompressed) text.
        offset: u64,
    },
    /// A row whose text is not UTF-8.
    #[error("{}: row {row} is not UTF-8 at byte {offset} of its text", path.display())]
    RowNotUtf8 {
        /// The path as given.
        path: PathBuf,
        /// The row's number, from 0.
        row: u64,
        /// Byte offset in the row's text.
        offset: usize,
    },
    /// A reader of a format that is not the core's own failed.
    #[error("{message}")]
    Reader {
        /// Which kind of failure that is.
        kind: ErrorKind,
        /// What it said.
        message: String,
        /// What it said to do about it.
        hint: Option<String>,
    },
    /// Nothing to learn from.
    #[error("the input holds no text to learn from")]
    EmptyCorpus,
    /// An output that exists already.
    #[error("{}: already exists", path.display())]
    OutputExists {
        /// The path as given.
        path: PathBuf,
    },
    /// An output of a format that cannot say all that decides about ids.
    #[error("{}: {format} cannot give the same ids: {why}", path.display())]
    CannotHold {
        /// The path as given.
        path: PathBuf,
        /// The format, with its article.
        format: &'static str,
        /// What it cannot say.
        why: String,
    },
    /// The system refused a read or a write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path as given.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An option's value cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Two things do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// Memory that could not be had.
    #[error("out of memory: {bytes} bytes could not be had")]
    OutOfMemory {
        /// How many were asked for.
        bytes: usize,
    },
    /// A limit on memory that the text does not fit into.
    #[error("{different} different pretokens do not fit into --memory_limit {limit}")]
    MemoryLimit {
        /// The limit, as it is typed.
        limit: String,
        /// How many different pretokens there were by then.
        different: usize,
    },
    /// Stopped on request.
    #[error("interrupted")]
    Interrupted,
    /// A bug of ours: a thread panicked.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

impl Error {
    /// The kind this error belongs to.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::SpecialToken { .. }
            | Self::SpecialTokenInText { .. }
            | Self::Pattern { .. }
            | Self::OutputExists { .. }
            | Self::CannotHold { .. }
            | Self::MemoryLimit { .. }
            | Self::Usage(_) => ErrorKind::Usage,
            Self::MissingFile { .. } => ErrorKind::MissingFile,
            Self::MissingByte { .. }
            | Self::DuplicateToken { .. }
            | Self::DuplicateId { .. }
            | Self::IdOutOfRange { .. }
            | Self::LoneSurrogate { .. }
            | Self::EmptyToken { .. }
            | Self::UnknownMergeToken { .. }
            | Self::UnknownId { .. }
            | Self::MalformedFile { .. }
            | Self::EmptyCorpus
            | Self::RowNotUtf8 { .. }
            | Self::NotUtf8 { .. } => ErrorKind::Malformed,
            Self::Reader { kind, .. } => *kind,
            Self::Io { .. } => ErrorKind::System,
            Self::Mismatch(_) => ErrorKind::Mismatch,
            Self::OutOfMemory { .. } => ErrorKind::OutOfMemory,
            Self::Interrupted => ErrorKind::Interrupted,
            Self::Internal(_) => ErrorKind::Failed,
        }
    }

    /// What to do about it, where there is something to say.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::CannotHold { .. } => Some("a tokenizer folder holds every tokenizer"),
            Self::OutputExists { .. } => Some("choose another name, or replace it with --force"),
            Self::Reader { hint, .. } => hint.as_deref(),
            Self::NotUtf8 { .. } | Self::RowNotUtf8 { .. } => {
                Some("--errors replace or --errors bytes takes such text")
            }
            Self::MemoryLimit { .. } => {
                Some("raise the limit, or let --allow_pruning drop the rarest")
            }
            _ => None,
        }
    }

    /// `source` as an [`Error`], telling a missing file from a refusal.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        let path = path.into();
        if source.kind() == std::io::ErrorKind::NotFound {
            Self::MissingFile { path }
        } else {
            Self::Io { path, source }
        }
    }
}
