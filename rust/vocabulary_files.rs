//! Vocabularies on disk: tokenizer folders, GPT-2 style pairs, tiktoken rank files, and Hugging
//! Face's `tokenizer.json`, which has a file of its own.
//!
//! Reads whole files into memory (a vocabulary of 50,000 takes about 30 ms) and checks everything
//! there is to check, so that what leaves here can be trusted. Writes each format where it can say
//! all that decides about ids, and refuses to where it cannot.

mod folder;
mod pair;
mod rank_file;

use std::fs;
use std::path::Path;

use crate::byte_alphabet::spell;
use crate::durable;
use crate::error::{Error, Result};
use crate::normalize::Normalizer;
use crate::ranks;
use crate::special_tokens::SpecialTokens;
use crate::tokenizer_json;
use crate::vocabulary::{Merge, MergeRule, Vocabulary};
use pair::number_specials;
pub use pair::read_pair;
pub(crate) use pair::{Entries, OrderedEntries};

/// Names of files, and their bytes.
type Files = Vec<(&'static str, Vec<u8>)>;

/// A special token that is asked for, with its id where that is told.
pub type NamedToken = (String, Option<u32>);

/// What a tokenizer is made of, as files hold it.
#[derive(Debug, Clone)]
pub struct TokenizerParts {
    /// Tokens, ids and merges, special tokens included.
    pub vocabulary: Vocabulary,
    /// Special tokens and their ids.
    pub special_tokens: Vec<(String, u32)>,
    /// The pattern's name or regular expression, where the files tell.
    pub pattern: Option<String>,
    /// What is done to text before it is split.
    pub normalizer: Option<Normalizer>,
    /// What the files held that decides about no ids and is not kept, a sentence each.
    pub remarks: Vec<String>,
}

impl TokenizerParts {
    /// Parts without a normalizer.
    pub fn new(
        vocabulary: Vocabulary,
        special_tokens: Vec<(String, u32)>,
        pattern: Option<String>,
    ) -> Self {
        Self { vocabulary, special_tokens, pattern, normalizer: None, remarks: Vec::new() }
    }

    /// Parts given in memory; a special token that `vocab` lacks gets the next id after the
    /// largest.
    pub fn in_memory(
        vocab: Vec<(i64, Vec<u8>)>,
        merges: Vec<(Vec<u8>, Vec<u8>)>,
        special_tokens: &[String],
        pattern: String,
    ) -> Result<Self> {
        let mut tokens = Vec::with_capacity(vocab.len());
        for (id, token) in vocab {
            tokens.push((u32::try_from(id).map_err(|_| Error::IdOutOfRange { id })?, token));
        }
        let vocabulary = Vocabulary::from_merges(tokens, merges)?;
        let named: Vec<NamedToken> =
            special_tokens.iter().map(|token| (token.clone(), None)).collect();
        Self::new(vocabulary, Vec::new(), None).with(Some(&named), Some(pattern))
    }

    /// The same with other special tokens and another pattern, where given. A special token that
    /// the vocabulary lacks gets the id asked for, or the next one after the largest.
    pub fn with(
        self,
        special_tokens: Option<&[NamedToken]>,
        pattern: Option<String>,
    ) -> Result<Self> {
        let pattern = pattern.or(self.pattern);
        let mut remarks = self.remarks;
        if pattern.is_none() {
            remarks.push("nothing there tells the pattern: GPT-2's is taken".to_owned());
        }
        let Some(named) = special_tokens else { return Ok(Self { pattern, remarks, ..self }) };
        let known = |token: &str| self.vocabulary.id(token.as_bytes());
        let special_tokens = number_specials(named, self.vocabulary.size(), known)?;
        let missing: Vec<(u32, Vec<u8>)> = special_tokens
            .iter()
            .filter(|(token, _)| known(token).is_none())
            .map(|(token, id)| (*id, token.clone().into_bytes()))
            .collect();
        let vocabulary = self.vocabulary.with_tokens(&missing)?;
        Ok(Self { vocabulary, special_tokens, pattern, remarks, ..self })
    }
}

/// Reads whatever `path` is: a folder with a tokenizer of ours, a `tokenizer.json`, or a vocabulary and
/// merges; a `tokenizer.json`; or a rank file.
pub fn read(path: &Path) -> Result<TokenizerParts> {
    if path.is_dir() {
        return folder::read(path);
    }
    let bytes = read_bytes(path)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        return tokenizer_json::read(path, &bytes);
    }
    rank_file::read(path, &bytes)
}

/// What tokenizers are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A tokenizer folder.
    Folder,
    /// Hugging Face's `tokenizer.json`.
    TokenizerJson,
    /// tiktoken's rank file.
    RankFile,
    /// A folder with `vocab.json` and `merges.txt`, as GPT-2 has it.
    Pair,
}

impl Format {
    /// `lmkit`, `huggingface`, `tiktoken` or `gpt2`.
    pub fn new(name: &str) -> Result<Self> {
        match name {
            "lmkit" => Ok(Self::Folder),
            "huggingface" => Ok(Self::TokenizerJson),
            "tiktoken" => Ok(Self::RankFile),
            "gpt2" => Ok(Self::Pair),
            _ => Err(Error::Usage(format!(
                "format {name:?}; it must be \"lmkit\", \"huggingface\", \"tiktoken\" or \"gpt2\""
            ))),
        }
    }

    fn is_folder(self) -> bool {
        matches!(self, Self::Folder | Self::Pair)
    }
}

/// Writes a tokenizer. What is there already is replaced only with `force`, and a folder only if it
/// holds nothing but a tokenizer's files. Where a folder's `tokenizer.json` could not give the same
/// ids it is left out, and what is returned says why.
pub fn write(
    path: &Path,
    format: Format,
    parts: &TokenizerParts,
    fingerprint: &str,
    force: bool,
) -> Result<Option<String>> {
    if format != Format::Folder {
        check_output(path, format, force)?;
    }
    let (files, left_out) = match format {
        Format::Folder => folder::files_of(path, parts, fingerprint)?,
        Format::Pair => (pair::write(path, parts)?, None),
        Format::RankFile => (vec![("", rank_file::write(path, parts)?)], None),
        Format::TokenizerJson => (vec![("", write_tokenizer_json(path, parts)?)], None),
    };
    if format.is_folder() {
        durable::write_folder(path, &files, |old| force && is_replaceable(old))?;
    } else {
        durable::write_file(path, &files[0].1)?;
    }
    Ok(left_out.map(|why| format!("{}: {why}", path.display())))
}

fn write_tokenizer_json(path: &Path, parts: &TokenizerParts) -> Result<Vec<u8>> {
    let splitter = tokenizer_json::splitter(parts.pattern.as_deref().unwrap_or("gpt2"))
        .map_err(|why| cannot_hold(path, "a tokenizer.json", why))?;
    let written = Parted::of(parts)?.tokenizer_json(parts, &splitter);
    written.map_err(|why| malformed(path, why.to_string()))
}

/// A tokenizer in the terms of files that have merges.
struct Parted {
    /// The keys of all tokens by rising id.
    entries: Entries,
    /// The merges, each as its two spellings.
    merges: Vec<(String, String)>,
    /// Whether a pretoken that is a token is that token, whatever the merges make of it.
    ignore_merges: bool,
}

impl Parted {
    fn of(parts: &TokenizerParts) -> Result<Self> {
        let vocabulary = &parts.vocabulary;
        let side = |id| spell(vocabulary.token(id).unwrap_or_default());
        let spelled = |merges: &[Merge]| {
            merges.iter().map(|merge| (side(merge.left), side(merge.right))).collect()
        };
        let (merges, ignore_merges) = match vocabulary.rule() {
            MergeRule::Merges(merges) => (spelled(merges), vocabulary.ignores_merges()),
            MergeRule::Ranks => {
                let specials = SpecialTokens::new(parts.special_tokens.clone(), vocabulary)?;
                let derived = ranks::merges_of(vocabulary, &specials)?;
                (spelled(&derived.merges), !derived.unmade.is_empty())
            }
        };
        Ok(Self { entries: pair::entries_of(parts)?, merges, ignore_merges })
    }

    fn tokenizer_json(
        &self,
        parts: &TokenizerParts,
        splitter: &serde_json::Value,
    ) -> serde_json::Result<Vec<u8>> {
        tokenizer_json::write(&tokenizer_json::Content {
            entries: &self.entries,
            merges: &self.merges,
            ignore_merges: self.ignore_merges,
            special_tokens: &parts.special_tokens,
            splitter,
            normalizer: parts.normalizer,
        })
    }
}

/// Refuses an output that [`write`] would refuse, before the work of making one: what is there
/// already, a parent that is not there or cannot be written to.
pub fn check_output(path: &Path, format: Format, force: bool) -> Result<()> {
    let may_go = || if format.is_folder() { is_replaceable(path) } else { path.is_file() };
    if path.symlink_metadata().is_ok() && !(force && may_go()) {
        return Err(Error::OutputExists { path: path.to_owned() });
    }
    let probe = durable::temporary(path);
    let parent = durable::parent(path);
    fs::create_dir(&probe)
        .and_then(|()| fs::remove_dir(&probe))
        .map_err(|source| Error::io(parent, source))
}

/// Whether `path` is a tokenizer folder, or one with nothing but its files, or an empty one: nothing
/// else is ever replaced.
fn is_replaceable(path: &Path) -> bool {
    path.join(folder::LMKIT).is_file()
        || fs::read_dir(path).is_ok_and(|mut entries| {
            entries.all(|entry| {
                entry.is_ok_and(|entry| folder::FILES.iter().any(|name| entry.file_name() == *name))
            })
        })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::io(path, source))
}

pub(crate) fn malformed(path: &Path, why: impl Into<String>) -> Error {
    Error::MalformedFile { path: path.to_owned(), why: why.into() }
}

/// That `path` would have to say what its format has no words for.
fn cannot_hold(path: &Path, format: &'static str, why: String) -> Error {
    Error::CannotHold { path: path.to_owned(), format, why }
}
