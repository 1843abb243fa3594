//! Text files → a token file, in order, in bounded memory.
//!
//! Every encoder thread takes an output buffer from a ring first (else the ring could deadlock),
//! then the next slice of the input, encodes it, and hands both over; this thread writes them in
//! order. As many encoders as asked for, and buffers for a few slices more: memory does not depend
//! on the input's size. Output does not depend on the number of threads.

mod check;
mod shards;
mod writers;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use crate::canonical;
use crate::encode::{CACHE_BYTES, Scratch, Tokenizer};
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::resume_point::{Found, Keeper, Position};
use crate::special_tokens::SpecialHandling;
use crate::text_source::{Content, Piece, Slice, Slices, Split, TextSource};
use crate::token_file::{Counts, Dtype, Origin};
pub use check::{check, check_fit};
use check::{check_resume, job_of};
pub use shards::{sample, shard_cuts};
use writers::{Output, Writers};

/// Text in the slices of all threads together.
const SLICES: usize = 4 << 20;

/// Pretoken caches of all threads together.
const CACHES: usize = 64 << 20;

/// Output buffers for each encoder, at most. One in work and one on its way would do if a disk were
/// always as fast as on average; a block that takes five times as long is not waited for with these.
/// On a busy disk 400 MB of English took 1.19 s with five and 1.69 s with three.
const RING: usize = 5;

/// Bytes of text for which an encoder is started.
const LEAST_WORK: u64 = 1 << 16;

/// Bytes of text for each byte of a cache. Memory that is touched for the first time costs up to
/// 2.6 ms a megabyte where a host has to find it, as much as to encode a megabyte: a large cache
/// has to earn that.
const TEXT_PER_CACHE: u64 = 4;

/// A buffer is not kept larger than this.
const LARGEST_KEPT: usize = 4 << 20;

/// What to write, and how.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "options independent of each other")]
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
    /// This is one shard of a larger set: document ends are written beside each token file, and one
    /// side of the split may stay empty.
    pub is_shard: bool,
}

/// Checksums of one output.
#[derive(Debug, Clone, Default)]
pub struct Checksums {
    /// Of the ids.
    pub ids: String,
    /// Of the document ends of a shard.
    pub document_ends: String,
}

/// What was written.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// What the token file holds.
    pub train: Counts,
    /// What the validation file holds.
    pub validation: Counts,
    /// The token file's checksums.
    pub checksums: Checksums,
    /// The validation file's.
    pub val_checksums: Checksums,
    /// Files of folders that hold no text and were passed over.
    pub skipped: Vec<PathBuf>,
    /// Rows of tables that have no text and were passed over.
    pub null_rows: u64,
    /// How much text of these was there already, from a killed run.
    pub resumed_bytes: u64,
    /// From the first read to the last rename.
    pub seconds: f64,
}

fn end_id(tokenizer: &Tokenizer, options: &TokenizeOptions) -> Result<Option<u32>> {
    let Some(token) = &options.end_of_document else { return Ok(None) };
    let found = tokenizer.special_tokens().iter().find(|(text, _)| text == token);
    found.map(|(_, id)| Some(*id)).ok_or_else(|| {
        Error::Usage(format!("--end_of_document {token:?} is not one of the special tokens"))
    })
}

/// How much text a slice should hold so that all threads' buffers together stay bounded.
pub fn slice_bytes(threads: Option<usize>) -> usize {
    (SLICES / or_cores(threads.filter(|&threads| threads > 0))).clamp(1 << 16, 1 << 20)
}

/// As many threads as asked for, else one a core.
fn or_cores(threads: Option<usize>) -> usize {
    threads.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
}

/// Encoder threads, and the byte budget of each one's cache.
#[derive(Debug, Clone, Copy)]
struct Crew {
    encoders: usize,
    cache_bytes: usize,
}

impl Crew {
    /// No more encoders than there is work for, which would only be started and ended, and caches
    /// that pay off. Nobody knows how much a pipe will bring.
    fn new(options: &TokenizeOptions, source: &TextSource) -> Self {
        let text = source.likely_text_bytes().unwrap_or(u64::MAX);
        let fitting = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let encoders = or_cores(options.threads).min(fitting(text / LEAST_WORK).saturating_add(1));
        // Those of a shard are left to the next one, so they are all alike.
        let text = if options.is_shard { u64::MAX } else { text };
        let earned = fitting(text / encoders as u64 / TEXT_PER_CACHE);
        let cache_bytes = earned.min(CACHES / encoders).clamp(1 << 20, CACHE_BYTES);
        Self { encoders, cache_bytes }
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
    let noted = if options.in_memory || options.is_shard {
        None
    } else {
        job_of(fingerprint.clone(), source, options).ok()
    };
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
        crew: Crew::new(options, source),
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
    summary.null_rows = slices.nulls();
    summary.seconds = start.elapsed().as_secs_f64();
    Ok(summary)
}

/// That validation got something, and training too.
fn check_split(options: &TokenizeOptions, training: u64, validation: u64) -> Result<()> {
    let documents = training + validation;
    let Some((_, fraction)) = options.validation.as_ref().filter(|_| !options.is_shard) else {
        return Ok(());
    };
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
    let (separator, specials) = separators(tokenizer, options.special);
    Split::new(*fraction, separator, &specials).map(Some)
}

/// What ends a document within a text, if anything does, and the special tokens in it.
fn separators(tokenizer: &Tokenizer, special: SpecialHandling) -> (Option<&str>, Vec<&str>) {
    let specials: Vec<&str> = match special {
        SpecialHandling::AsText => Vec::new(),
        _ => tokenizer.special_tokens().iter().map(|(text, _)| text.as_str()).collect(),
    };
    (specials.iter().copied().find(|&token| token == SEPARATOR), specials)
}

/// What separates documents within a text.
pub const SEPARATOR: &str = "<|endoftext|>";

struct Job<'j, 's> {
    tokenizer: &'j Tokenizer,
    slices: &'j Slices<'s>,
    options: &'j TokenizeOptions,
    crew: Crew,
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
        let encoders = self.crew.encoders;
        let ring = RING * encoders;
        let (free, empty) = bounded(ring);
        let (done, full) = bounded(ring);
        let unmade = AtomicUsize::new(ring);
        let buffers = Buffers { empty, unmade: &unmade };
        thread::scope(|scope| {
            for _ in 0..encoders {
                let (buffers, done) = (buffers.clone(), done.clone());
                let work = move || self.encode_slices(&buffers, &done);
                thread::Builder::new().spawn_scoped(scope, work).map_err(|error| {
                    Error::Usage(format!("--num_threads {encoders}: cannot start them: {error}"))
                })?;
            }
            drop((buffers, done));
            // Gives up the channels when it ends, so that no encoder waits for it any more.
            write_in_order(full, free, writers, keeper)
        })
    }

    fn encode_slices(&self, buffers: &Buffers<'_>, done: &Sender<Output>) {
        let _alarm = Alarm(done);
        let cache_bytes = self.crew.cache_bytes;
        let mut scratch = if self.options.is_shard {
            self.tokenizer.warm_scratch(cache_bytes)
        } else {
            self.tokenizer.scratch_with(cache_bytes)
        };
        self.encode_with(&mut scratch, buffers, done);
        if let Ok(scratch) = scratch
            && self.options.is_shard
        {
            self.tokenizer.leave_warm(cache_bytes, scratch, CACHES);
        }
    }

    fn encode_with(
        &self,
        scratch: &mut Result<Scratch>,
        buffers: &Buffers<'_>,
        done: &Sender<Output>,
    ) {
        let mut slice = Slice::default();
        // Either channel closes early only because writing has ended.
        while let Some(mut output) = buffers.take() {
            output.clear();
            let encoded = match (&mut *scratch, self.slices.next(&mut slice)) {
                (_, Ok(false)) => return,
                (Ok(scratch), Ok(true)) => self.encode(&slice, scratch, &mut output),
                (_, Err(error)) => Err(error),
                (Err(_), Ok(true)) => Err(Error::OutOfMemory { bytes: self.crew.cache_bytes }),
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
            let separators = part.counts.add_ids(ids, self.separator_id);
            part.counts.documents += self.documents_in(&piece, ids.last().copied(), separators);
            if self.options.is_shard {
                self.add_ends(&piece, first, ids, &mut part.ends);
            }
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

    /// Where documents end in the piece, whose `ids` begin at `first` of the slice.
    fn add_ends(&self, piece: &Piece<'_>, first: usize, ids: &[u32], ends: &mut Vec<u64>) {
        let end = (first + ids.len()) as u64;
        if piece.is_record || self.options.validation.is_some() {
            ends.extend(piece.ends_document.then_some(end));
            return;
        }
        let separators = ids.iter().enumerate().filter(|(_, id)| Some(**id) == self.separator_id);
        ends.extend(separators.map(|(place, _)| (first + place + 1) as u64));
        let goes_on = ids.last().is_some_and(|&id| Some(id) != self.separator_id);
        ends.extend((piece.ends_document && goes_on).then_some(end));
    }

    /// How many documents end in the piece: at separators, and with the input.
    fn documents_in(&self, piece: &Piece<'_>, last: Option<u32>, separators: u64) -> u64 {
        if piece.is_record || self.options.validation.is_some() {
            return u64::from(piece.starts_document);
        }
        let goes_on = last.is_some() && last != self.separator_id;
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

/// The ring: output buffers that the writer has given back, and how many more may be made. One is made
/// only when none is there: where the writer keeps up they are few, and their memory stays warm.
#[derive(Clone)]
struct Buffers<'u> {
    empty: Receiver<Output>,
    unmade: &'u AtomicUsize,
}

impl Buffers<'_> {
    /// A buffer, as soon as there is one; none when writing has ended.
    fn take(&self) -> Option<Output> {
        match self.empty.try_recv() {
            Ok(output) => return Some(output),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
        let one_less = |unmade: usize| unmade.checked_sub(1);
        match self.unmade.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Some(Output::default()),
            Err(_) => self.empty.recv().ok(),
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
