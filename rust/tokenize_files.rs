//! Text files → a token file, in order, in bounded memory.
//!
//! Every encoder thread takes an output buffer from a ring first (else the ring could deadlock),
//! then the next slice of the input, encodes it, and hands both over; this thread writes them in
//! order. As many encoders as asked for, and buffers for a few slices more: memory does not depend
//! on the input's size. Output does not depend on the number of threads.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::canonical;
use crate::encode::{CACHE_BYTES, Scratch, Tokenizer};
use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::progress::Progress;
use crate::resume_point::{self, Found, Keeper, Position};
use crate::special_tokens::SpecialHandling;
use crate::text_source::{Content, DecodeErrors, Piece, Slice, Slices, Split, TextSource};
use crate::token_file::{Counts, Dtype, Origin, TokenWriter, check_output};

/// Text in the slices of all threads together.
const SLICES: usize = 4 << 20;

/// Pretoken caches of all threads together.
const CACHES: usize = 64 << 20;

/// A buffer is not kept larger than this.
const LARGEST_KEPT: usize = 4 << 20;

/// What to write, and how.
#[derive(Debug, Clone)]
pub struct TokenizeOptions {
    /// The token file.
    pub output: PathBuf,
    /// Where documents kept for validation go, and which share of them.
    pub validation: Option<(PathBuf, f64)>,
    /// How ids are stored.
    pub dtype: Dtype,
    /// Whether special tokens in the text count as such.
    pub special: SpecialHandling,
    /// The special token written after each document that does not end with it.
    pub end_of_document: Option<String>,
    /// Encoder threads; `None`: one a core.
    pub threads: Option<usize>,
    /// Hold everything in memory and write at the end.
    pub in_memory: bool,
    /// Replace outputs that are there already.
    pub force: bool,
    /// Go on where a killed run of the same job was; from the start where there was none.
    pub resume: bool,
    /// How often it is noted how far the run is.
    pub note_every: Duration,
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// What the token file holds.
    pub train: Counts,
    /// What the validation file holds.
    pub validation: Counts,
    /// The token file's checksum.
    pub checksum: String,
    /// Files of folders that hold no text and were passed over.
    pub skipped: Vec<PathBuf>,
    /// How much text of these was there already, from a killed run.
    pub resumed_bytes: u64,
    /// From the first read to the last rename.
    pub seconds: f64,
}

/// Checks options against the tokenizer and the outputs; nothing is written.
pub fn check(tokenizer: &Tokenizer, source: &TextSource, options: &TokenizeOptions) -> Result<()> {
    let found = check_resume(tokenizer, source, options)?;
    // Of outputs that are put in place, the first may be there.
    let force = options.force || found.is_some_and(|found| found.position().is_whole);
    check_output(&options.output, force)?;
    if let Some((path, fraction)) = &options.validation {
        check_output(path, force)?;
        if *path == options.output {
            return Err(Error::Usage("--val_output_path is the output itself".to_owned()));
        }
        if !(*fraction > 0.0 && *fraction < 1.0) {
            return Err(Error::Usage(format!(
                "--val_fraction must be above 0 and below 1, not {fraction}"
            )));
        }
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
    for path in [Some(&options.output), options.validation.as_ref().map(|(path, _)| path)] {
        if path.is_some_and(|path| source.inputs().iter().any(|input| input.path == *path)) {
            return Err(Error::Usage("the output is one of the inputs".to_owned()));
        }
    }
    check_specials(tokenizer, source, options)?;
    end_id(tokenizer, options).map(drop)
}

/// What a killed run left to resume, where that is asked for; it belongs to this job.
fn check_resume(
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
fn job_of(
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

fn end_id(tokenizer: &Tokenizer, options: &TokenizeOptions) -> Result<Option<u32>> {
    let Some(token) = &options.end_of_document else { return Ok(None) };
    let found = tokenizer.special_tokens().iter().find(|(text, _)| text == token);
    found.map(|(_, id)| Some(*id)).ok_or_else(|| {
        Error::Usage(format!("--end_of_document {token:?} is not one of the special tokens"))
    })
}

/// How many encoder threads there are.
fn encoders(options: &TokenizeOptions) -> usize {
    options.threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// How much text a slice should hold so that all threads' buffers together stay bounded.
pub fn slice_bytes(threads: Option<usize>) -> usize {
    let threads = threads.filter(|&threads| threads > 0);
    let threads = threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    (SLICES / threads).clamp(1 << 16, 1 << 20)
}

/// One slice's ids, on their way from an encoder to the writer.
#[derive(Default)]
struct Output {
    number: u64,
    train: Part,
    validation: Part,
    /// Why there is nothing of this slice; told when its turn comes, so that of several errors
    /// the first in the text is the one.
    failure: Option<Error>,
}

#[derive(Default)]
struct Part {
    ids: Vec<u32>,
    counts: Counts,
}

impl Output {
    fn clear(&mut self) {
        for part in [&mut self.train, &mut self.validation] {
            part.ids.clear();
            // One that a long record has swollen.
            part.ids.shrink_to(LARGEST_KEPT / 4);
            part.counts = Counts::default();
        }
        self.failure = None;
    }
}

/// Runs the job. `progress` is told the bytes read; nothing appears unless all went well.
pub fn tokenize_files(
    tokenizer: &Tokenizer,
    source: &TextSource,
    options: &TokenizeOptions,
    progress: &Progress,
) -> Result<Summary> {
    let start = Instant::now();
    check(tokenizer, source, options)?;
    progress.start(0, source.total_bytes());
    let split = split_of(tokenizer, options)?;
    let found = check_resume(tokenizer, source, options)?;
    let slice_bytes = found.as_ref().map_or(source.slice_bytes(), Found::slice_bytes);
    let slices = source.slices(tokenizer.cuts(options.special), split.as_ref(), progress);
    let slices = slices.of(slice_bytes);
    let is_resumed = found.is_some();
    let mut writers = Writers::open(options, found)?;
    let begun = writers.position;
    let fingerprint = canonical::fingerprint(&tokenizer.parts());
    let noted =
        if options.in_memory { None } else { job_of(fingerprint.clone(), source, options).ok() };
    let keeper = Keeper::new(
        writers.paths.clone(),
        writers.files()?,
        slice_bytes,
        options.note_every,
        noted,
        is_resumed,
    );
    let job = Job {
        tokenizer,
        slices: &slices,
        options,
        end_id: end_id(tokenizer, options)?,
        separator_id: separator_id(tokenizer, options),
        progress,
    };
    let origin = Origin {
        tokenizer: fingerprint,
        vocab_size: tokenizer.vocabulary().size(),
        inputs: source.inputs().iter().map(|input| input.path.display().to_string()).collect(),
    };
    let finished = keeper.beside(|| job.run(&mut writers, &keeper)).and_then(|()| {
        let Position { train, validation, .. } = writers.position;
        check_split(options, train.documents, validation.documents)?;
        keeper.finish(writers.position)?;
        writers.finish(&origin)
    });
    let mut summary = match finished {
        Ok(summary) => summary,
        Err(failure) => {
            if keeper.release(&failure) {
                writers.keep();
            } else {
                keeper.remove();
            }
            return Err(failure);
        }
    };
    keeper.remove();
    summary.resumed_bytes = begun.train.text_bytes + begun.validation.text_bytes;
    summary.skipped = slices.not_text();
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

/// That validation got something, and training too.
fn check_split(options: &TokenizeOptions, training: u64, validation: u64) -> Result<()> {
    let documents = training + validation;
    let Some((_, fraction)) = &options.validation else { return Ok(()) };
    if documents < 2 {
        return Err(Error::Usage(format!(
            "--val_fraction needs several documents, and the text is one; \
             within a text, {SEPARATOR} ends a document"
        )));
    }
    if training == 0 || validation == 0 {
        let side = if training == 0 { "training" } else { "validation" };
        return Err(Error::Usage(format!(
            "--val_fraction {fraction} leaves none of the {documents} documents for {side}"
        )));
    }
    Ok(())
}

/// What to write after each document: `asked`, where an empty text means nothing; by default
/// `<|endoftext|>` where documents come one by one and the tokenizer has it.
pub fn end_of_document(
    asked: Option<String>,
    tokenizer: &Tokenizer,
    source: &TextSource,
) -> Option<String> {
    if let Some(token) = asked {
        return Some(token).filter(|token| !token.is_empty());
    }
    let known = tokenizer.special_tokens().iter().any(|(text, _)| text == SEPARATOR);
    (known && source.has_documents()).then(|| SEPARATOR.to_owned())
}

fn separator_id(tokenizer: &Tokenizer, options: &TokenizeOptions) -> Option<u32> {
    let mut specials = tokenizer.special_tokens().iter();
    let separator = specials.find(|(text, _)| text == SEPARATOR).map(|(_, id)| *id);
    separator.filter(|_| options.special != SpecialHandling::AsText)
}

fn split_of(tokenizer: &Tokenizer, options: &TokenizeOptions) -> Result<Option<Split>> {
    let Some((_, fraction)) = &options.validation else { return Ok(None) };
    let specials: Vec<&str> = match options.special {
        SpecialHandling::AsText => Vec::new(),
        _ => tokenizer.special_tokens().iter().map(|(text, _)| text.as_str()).collect(),
    };
    let separator = specials.iter().copied().find(|&token| token == SEPARATOR);
    Split::new(*fraction, separator, &specials).map(Some)
}

/// What separates documents within a text.
pub const SEPARATOR: &str = "<|endoftext|>";

struct Job<'j, 's> {
    tokenizer: &'j Tokenizer,
    slices: &'j Slices<'s>,
    options: &'j TokenizeOptions,
    end_id: Option<u32>,
    separator_id: Option<u32>,
    progress: &'j Progress,
}

impl Job<'_, '_> {
    fn run(&self, writers: &mut Writers, keeper: &Keeper) -> Result<()> {
        let done = writers.position.slices;
        if !self.slices.skip(done)? {
            return Err(Error::Mismatch(format!(
                "{}: cannot resume: the inputs have less text than the killed run had read",
                self.options.output.display()
            )));
        }
        let encoders = encoders(self.options);
        let ring = 3 * encoders;
        let (free, empty) = bounded(ring);
        let (done, full) = bounded(ring);
        for _ in 0..ring {
            let _ = free.send(Output::default());
        }
        thread::scope(|scope| {
            for _ in 0..encoders {
                let (empty, done) = (empty.clone(), done.clone());
                let work = move || self.encode_slices(&empty, &done);
                thread::Builder::new().spawn_scoped(scope, work).map_err(|error| {
                    Error::Usage(format!("--num_threads {encoders}: cannot start them: {error}"))
                })?;
            }
            drop((empty, done));
            // Gives up the channels when it ends, so that no encoder waits for it any more.
            write_in_order(full, free, writers, keeper)
        })
    }

    fn encode_slices(&self, empty: &Receiver<Output>, done: &Sender<Output>) {
        let _alarm = Alarm(done);
        let cache_bytes = (CACHES / encoders(self.options)).clamp(1 << 20, CACHE_BYTES);
        let mut scratch = self.tokenizer.scratch_with(cache_bytes);
        let mut slice = Slice::default();
        // Either channel closes early only because writing has ended.
        while let Ok(mut output) = empty.recv() {
            output.clear();
            let encoded = match (&mut scratch, self.slices.next(&mut slice)) {
                (_, Ok(false)) => return,
                (Ok(scratch), Ok(true)) => self.encode(&slice, scratch, &mut output),
                (_, Err(error)) => Err(error),
                (Err(_), Ok(true)) => Err(Error::OutOfMemory { bytes: cache_bytes }),
            };
            output.number = slice.number();
            output.failure = encoded.err();
            let failed = output.failure.is_some();
            if done.send(output).is_err() || failed {
                return;
            }
        }
    }

    fn encode(&self, slice: &Slice, scratch: &mut Scratch, output: &mut Output) -> Result<()> {
        for piece in slice.pieces() {
            let part = if piece.in_validation { &mut output.validation } else { &mut output.train };
            let first = part.ids.len();
            self.encode_piece(&piece, scratch, &mut part.ids)?;
            let ids = &part.ids[first..];
            part.counts.add_ids(ids);
            part.counts.documents += self.documents_in(&piece, ids);
            part.counts.text_bytes += match piece.content {
                Content::Text(text) => text.len() as u64,
                Content::Byte(_) => 1,
            };
        }
        self.progress.check()
    }

    fn encode_piece(
        &self,
        piece: &Piece<'_>,
        scratch: &mut Scratch,
        ids: &mut Vec<u32>,
    ) -> Result<()> {
        let first = ids.len();
        match piece.content {
            Content::Text(text) => {
                let special = self.options.special;
                self.tokenizer.encode_checked(text, special, scratch, ids, self.progress)?;
            }
            Content::Byte(byte) => {
                ids.push(self.tokenizer.vocabulary().byte_ids()[usize::from(byte)]);
            }
        }
        if let Some(end) = self.end_id
            && piece.ends_document
            && ids[first..].last() != Some(&end)
        {
            ids.push(end);
        }
        Ok(())
    }

    /// How many documents end in the piece: at separators, and with the input.
    fn documents_in(&self, piece: &Piece<'_>, ids: &[u32]) -> u64 {
        if piece.is_record || self.options.validation.is_some() {
            return u64::from(piece.starts_document);
        }
        let separators = ids.iter().filter(|&&id| Some(id) == self.separator_id).count() as u64;
        let goes_on = ids.last().is_some_and(|&id| Some(id) != self.separator_id);
        separators + u64::from(piece.ends_document && goes_on)
    }
}

/// Tells the writer of a thread that panicked, whose slice would be waited for in vain.
struct Alarm<'d>(&'d Sender<Output>);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let failure = Some(Error::Internal("an encoder thread panicked".to_owned()));
            let _ = self.0.send(Output { number: u64::MAX, failure, ..Output::default() });
        }
    }
}

/// Writes outputs by rising number and gives their buffers back, until the encoders have gone.
fn write_in_order(
    full: Receiver<Output>,
    free: Sender<Output>,
    writers: &mut Writers,
    keeper: &Keeper,
) -> Result<()> {
    let mut waiting = BTreeMap::new();
    for mut output in full {
        if output.number == u64::MAX
            && let Some(error) = output.failure.take()
        {
            return Err(error);
        }
        waiting.insert(output.number, output);
        while let Some(mut output) = waiting.remove(&writers.position.slices) {
            if let Some(error) = output.failure.take() {
                return Err(error);
            }
            writers.write(&output)?;
            keeper.offer(|| writers.flush())?;
            let _ = free.send(output);
        }
    }
    Ok(())
}

/// The outputs, and what they hold so far.
struct Writers {
    train: TokenWriter,
    validation: Option<TokenWriter>,
    paths: Vec<PathBuf>,
    position: Position,
    /// With `--method in-memory`: the ids, until the end.
    held: Option<(Vec<u32>, Vec<u32>)>,
}

impl Writers {
    /// New outputs, or those of the run that was found.
    fn open(options: &TokenizeOptions, found: Option<Found>) -> Result<Self> {
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
            paths: paths.into_iter().map(Path::to_owned).collect(),
            position: Position { is_whole: false, ..position.unwrap_or_default() },
            held: options.in_memory.then(Default::default),
        })
    }

    fn files(&self) -> Result<Vec<File>> {
        [&self.train].into_iter().chain(&self.validation).map(TokenWriter::file).collect()
    }

    fn write(&mut self, output: &Output) -> Result<()> {
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
    fn flush(&mut self) -> Result<Position> {
        self.train.flush()?;
        if let Some(writer) = &mut self.validation {
            writer.flush()?;
        }
        Ok(self.position)
    }

    fn keep(self) {
        self.train.keep();
        self.validation.into_iter().for_each(TokenWriter::keep);
    }

    fn finish(&mut self, origin: &Origin) -> Result<Summary> {
        if let Some((train, validation)) = self.held.take() {
            self.write_ids(&train, &validation)?;
        }
        let Position { train, validation, .. } = self.position;
        if let Some(writer) = &mut self.validation {
            writer.finish(&validation, origin)?;
        }
        let checksum = self.train.finish(&train, origin)?;
        Ok(Summary { train, validation, checksum, ..Summary::default() })
    }
}

fn hold(held: &mut Vec<u32>, ids: &[u32]) -> Result<()> {
    reserve(held, ids.len())?;
    held.extend_from_slice(ids);
    Ok(())
}
