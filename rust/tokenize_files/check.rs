//! What must hold before a run begins: options, tokenizer, inputs and outputs fit each other.

use std::collections::BTreeMap;

use super::{TokenizeOptions, end_id};
use crate::canonical;
use crate::encode::Tokenizer;
use crate::error::{Error, Result};
use crate::resume_point::{self, Found};
use crate::special_tokens::SpecialHandling;
use crate::text_source::{DecodeErrors, TextSource};
use crate::token_file::{Dtype, check_output};

/// Checks options against the tokenizer and the outputs; nothing is written.
pub fn check(tokenizer: &Tokenizer, source: &TextSource, options: &TokenizeOptions) -> Result<()> {
    let found = check_resume(tokenizer, source, options)?;
    // Of outputs that are put in place, the first may be there.
    let force = options.force || found.is_some_and(|found| found.position().is_whole);
    check_output(&options.output, force)?;
    if let Some((path, _)) = &options.validation {
        check_output(path, force)?;
        if *path == options.output {
            return Err(Error::Usage("--val_output_path is the output itself".to_owned()));
        }
    }
    for path in [Some(&options.output), options.validation.as_ref().map(|(path, _)| path)] {
        if path.is_some_and(|path| source.inputs().iter().any(|input| input.path == *path)) {
            return Err(Error::Usage("the output is one of the inputs".to_owned()));
        }
    }
    check_fit(tokenizer, source, options)
}

/// The same without the outputs.
pub fn check_fit(
    tokenizer: &Tokenizer,
    source: &TextSource,
    options: &TokenizeOptions,
) -> Result<()> {
    if let Some((_, fraction)) = &options.validation
        && !(*fraction > 0.0 && *fraction < 1.0)
    {
        return Err(Error::Usage(format!(
            "--val_fraction must be above 0 and below 1, not {fraction}"
        )));
    }
    let size = tokenizer.vocabulary().size();
    if options.dtype == Dtype::Uint16 && size > 1 << 16 {
        return Err(Error::Usage(format!(
            "--dtype uint16 holds ids below 65536, and the vocabulary has {size}; use int32"
        )));
    }
    if options.threads == Some(0) {
        return Err(Error::Usage("--num_threads must be at least 1".to_owned()));
    }
    check_specials(tokenizer, source, options)?;
    end_id(tokenizer, options).map(drop)
}

/// What a killed run left to resume, where that is asked for; it belongs to this job.
pub(super) fn check_resume(
    tokenizer: &Tokenizer,
    source: &TextSource,
    options: &TokenizeOptions,
) -> Result<Option<Found>> {
    if !options.resume {
        return Ok(None);
    }
    if options.in_memory {
        return Err(Error::Usage(
            "--resume has no effect with --method in-memory, which writes at the end".to_owned(),
        ));
    }
    let found = Found::beside(&options.output)?;
    let job = job_of(canonical::fingerprint(&tokenizer.parts()), source, options)?;
    if let Some(found) = &found {
        found.check(&job, &options.output)?;
    }
    Ok(found)
}

/// What a run must have in common with one that it resumes.
pub(super) fn job_of(
    fingerprint: String,
    source: &TextSource,
    options: &TokenizeOptions,
) -> Result<resume_point::Job> {
    let mut settings: BTreeMap<String, String> = source.settings().into_iter().collect();
    let (path, fraction) = match &options.validation {
        Some((path, fraction)) => (path.display().to_string(), fraction.to_string()),
        None => ("none".to_owned(), "none".to_owned()),
    };
    let special = format!("{:?}", options.special);
    let end = options.end_of_document.clone().unwrap_or_else(|| "none".to_owned());
    for (name, value) in [
        ("dtype", options.dtype.name().to_owned()),
        ("no_special_tokens", special),
        ("end_of_document", end),
        ("val_output_path", path),
        ("val_fraction", fraction),
    ] {
        settings.insert(name.to_owned(), value);
    }
    resume_point::Job::new(fingerprint, settings, source.inputs())
}

fn check_specials(
    tokenizer: &Tokenizer,
    source: &TextSource,
    options: &TokenizeOptions,
) -> Result<()> {
    if let Some(token) = options.end_of_document.as_deref()
        && !source.has_documents()
    {
        return Err(Error::Usage(format!(
            "--end_of_document {token} has no effect on a single text, which is kept as it is"
        )));
    }
    // Text is cut before it is decoded, so a token that decoding can make would be cut in two.
    let is_made = |(token, _): &(String, u32)| token.contains(char::REPLACEMENT_CHARACTER);
    if source.errors() == DecodeErrors::Replace
        && options.special != SpecialHandling::AsText
        && tokenizer.special_tokens().iter().any(is_made)
    {
        return Err(Error::Usage(
            "--errors replace cannot be used with a special token that holds U+FFFD".to_owned(),
        ));
    }
    Ok(())
}
