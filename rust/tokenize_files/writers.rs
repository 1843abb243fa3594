//! The outputs of a run: ids and counts, slice by slice in order → token files, whole or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Checksums, LARGEST_KEPT, Summary, TokenizeOptions};
use crate::document_ends::EndsWriter;
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::resume_point::{self, Found, Position};
use crate::token_file::{Counts, Origin, TokenWriter};

/// One slice's ids, on their way from an encoder to the writer.
#[derive(Default)]
pub(super) struct Output {
    pub(super) number: u64,
    pub(super) train: Part,
    pub(super) validation: Part,
    /// Why there is nothing of this slice; told when its turn comes, so that of several errors
    /// the first in the text is the one.
    pub(super) failure: Option<Error>,
}

#[derive(Default)]
pub(super) struct Part {
    pub(super) ids: Vec<u32>,
    pub(super) counts: Counts,
    /// Where documents end, counted from the first of `ids`; of a shard only.
    pub(super) ends: Vec<u64>,
}

impl Output {
    pub(super) fn clear(&mut self) {
        for part in [&mut self.train, &mut self.validation] {
            part.ids.clear();
            // One that a long record has swollen.
            part.ids.shrink_to(LARGEST_KEPT / 4);
            part.ends.clear();
            part.counts = Counts::default();
        }
        self.failure = None;
    }
}

/// The outputs, and what they hold so far.
pub(super) struct Writers {
    train: TokenWriter,
    validation: Option<TokenWriter>,
    /// Of a shard: the document ends of both.
    ends: Option<(EndsWriter, Option<EndsWriter>)>,
    pub(super) paths: Vec<PathBuf>,
    pub(super) position: Position,
    /// With `--method in-memory`: the ids, until the end.
    held: Option<(Vec<u32>, Vec<u32>)>,
}

impl Writers {
    /// New outputs, or those of the run that was found.
    pub(super) fn open(options: &TokenizeOptions, found: Option<Found>) -> Result<Self> {
        let validation = options.validation.as_ref().map(|(path, _)| path);
        let paths: Vec<&Path> =
            [&options.output].into_iter().chain(validation).map(PathBuf::as_path).collect();
        let position = found.map(|found| found.claim(&paths)).transpose()?;
        for path in &paths {
            resume_point::sweep(path);
        }
        let dtype = options.dtype;
        let open = |path: &Path, tokens: fn(&Position) -> u64| match &position {
            Some(position) => {
                TokenWriter::resume(path, dtype, tokens(position) * dtype.size() as u64)
            }
            None => TokenWriter::create(path, dtype),
        };
        Ok(Self {
            train: open(&options.output, |position| position.train.tokens)?,
            validation: validation
                .map(|path| open(path, |position| position.validation.tokens))
                .transpose()?,
            ends: options
                .is_shard
                .then(|| -> Result<_> {
                    let validation = validation.map(|path| EndsWriter::create(path)).transpose()?;
                    Ok((EndsWriter::create(&options.output)?, validation))
                })
                .transpose()?,
            paths: paths.into_iter().map(Path::to_owned).collect(),
            position: Position { is_whole: false, ..position.unwrap_or_default() },
            held: options.in_memory.then(Default::default),
        })
    }

    pub(super) fn files(&self) -> Result<Vec<File>> {
        [&self.train].into_iter().chain(&self.validation).map(TokenWriter::file).collect()
    }

    pub(super) fn write(&mut self, output: &Output) -> Result<()> {
        if let Some((train, validation)) = &mut self.ends {
            train.write(self.position.train.tokens, &output.train.ends)?;
            if let Some(validation) = validation {
                validation.write(self.position.validation.tokens, &output.validation.ends)?;
            }
        }
        self.position.slices += 1;
        self.position.train.add(&output.train.counts);
        self.position.validation.add(&output.validation.counts);
        if let Some((train, validation)) = &mut self.held {
            return hold(train, &output.train.ids)
                .and_then(|()| hold(validation, &output.validation.ids));
        }
        self.write_ids(&output.train.ids, &output.validation.ids)
    }

    fn write_ids(&mut self, train: &[u32], validation: &[u32]) -> Result<()> {
        self.train.write(train)?;
        match &mut self.validation {
            Some(writer) => writer.write(validation),
            None => Ok(()),
        }
    }

    /// Hands everything written so far to the system, and says how far that is.
    pub(super) fn flush(&mut self) -> Result<Position> {
        self.train.flush()?;
        if let Some(writer) = &mut self.validation {
            writer.flush()?;
        }
        Ok(self.position)
    }

    pub(super) fn keep(self) {
        self.train.keep();
        self.validation.into_iter().for_each(TokenWriter::keep);
    }

    pub(super) fn finish(&mut self, origin: &Origin) -> Result<Summary> {
        if let Some((train, validation)) = self.held.take() {
            self.write_ids(&train, &validation)?;
        }
        let Position { train, validation, .. } = self.position;
        let mut checksums = Checksums::default();
        let mut val_checksums = Checksums::default();
        if let Some((train, validation)) = &mut self.ends {
            checksums.document_ends = train.finish()?;
            if let Some(validation) = validation {
                val_checksums.document_ends = validation.finish()?;
            }
        }
        if let Some(writer) = &mut self.validation {
            val_checksums.ids = writer.finish(&validation, origin)?;
        }
        checksums.ids = self.train.finish(&train, origin)?;
        Ok(Summary { train, validation, checksums, val_checksums, ..Summary::default() })
    }
}

fn hold(held: &mut Vec<u32>, ids: &[u32]) -> Result<()> {
    reserve(held, ids.len())?;
    held.extend_from_slice(ids);
    Ok(())
}
