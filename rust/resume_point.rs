//! How far a run had come when it was killed → where the next one goes on.
//!
//! While a token file is written, a thread of its own makes what is written so far durable every
//! two seconds and then notes, in a *journal* beside the partial file, how many slices of the input
//! the partial file holds. The note costs the encoders nothing: syncing goes on beside them, and a
//! run of less than two seconds writes none. A run that is to resume claims the journal of a dead
//! process, checks that it belongs to the same job (tokenizer, options, inputs), cuts the partial
//! file to what the journal says, reads it once for its checksum, and lets the reader pass over the
//! slices that are in it. Slices are cut the same way every time, so that the result is the same,
//! byte for byte. It is the wrong tool for inputs that cannot be read again, such as a pipe.
//!
//! A journal is claimed by renaming it to this process's own name: of two runs one wins. The partial
//! files are renamed after it, and looked for under both names, so that a run killed in between can
//! be resumed as well.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::durable::{self, NOBODY};
use crate::error::{Error, ErrorKind, Result};
use crate::text_source::Input;
use crate::token_file::{Counts, sidecar};

/// How often a run notes how far it is.
pub const EVERY: Duration = Duration::from_secs(2);

/// So many inputs are noted one by one, to name the one that changed; of more, a hash is.
const NAMED_INPUTS: usize = 1000;

/// The way out of every refusal.
const ANEW: &str = "without --resume it begins anew";

/// Another one says that slices were cut in another way.
const FORMAT: u32 = 2;

/// What two runs must have in common for one to go on with the other's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    lmkit: String,
    tokenizer: String,
    /// Every option that decides about the bytes, by the name of its flag.
    options: BTreeMap<String, String>,
    inputs: Vec<InputIdentity>,
    all_inputs: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct InputIdentity {
    path: PathBuf,
    size: u64,
    modified_ns: u64,
}

impl Job {
    /// The job of encoding `inputs`, as they were found, with this tokenizer and these options.
    pub fn new(
        tokenizer: String,
        options: BTreeMap<String, String>,
        inputs: &[Input],
    ) -> Result<Self> {
        let mut hash = Xxh3::new();
        let mut named = Vec::new();
        for input in inputs {
            let identity = InputIdentity::of(input)?;
            hash.update(identity.path.as_os_str().as_encoded_bytes());
            hash.update(&[0]);
            hash.update(&identity.size.to_le_bytes());
            hash.update(&identity.modified_ns.to_le_bytes());
            if inputs.len() <= NAMED_INPUTS {
                named.push(identity);
            }
        }
        Ok(Self {
            lmkit: env!("CARGO_PKG_VERSION").to_owned(),
            tokenizer,
            options,
            inputs: named,
            all_inputs: format!("{:032x}", hash.digest128()),
        })
    }

    /// [`Error::Mismatch`] naming the first thing in which `self`, the run asked for, differs from
    /// the one that was begun.
    fn check_same(&self, begun: &Self, output: &Path) -> Result<()> {
        let differs = |what: String| {
            let output = output.display();
            Err(Error::Mismatch(format!("{output}: cannot resume: {what}; {ANEW}")))
        };
        if self.lmkit != begun.lmkit {
            return differs(format!(
                "it was begun by lmkit {}, and this is {}",
                begun.lmkit, self.lmkit
            ));
        }
        if self.tokenizer != begun.tokenizer {
            return differs("it was begun with another tokenizer".to_owned());
        }
        for (name, value) in &self.options {
            let old = begun.options.get(name).map_or("not known", String::as_str);
            if old != value {
                return differs(format!("--{name} was {old}, and is now {value}"));
            }
        }
        if self.all_inputs == begun.all_inputs {
            return Ok(());
        }
        let changed = self.inputs.iter().zip(&begun.inputs).find(|(now, then)| now != then);
        differs(match changed {
            Some((now, then)) if now.path == then.path => {
                format!("{} has changed since", now.path.display())
            }
            Some((now, then)) => {
                format!("it was begun from {}, not {}", then.path.display(), now.path.display())
            }
            None => "it was begun from other inputs".to_owned(),
        })
    }
}

impl InputIdentity {
    fn of(input: &Input) -> Result<Self> {
        let Input { path, size, modified_ns, .. } = input;
        let again = |name: &str| {
            Err(Error::Usage(format!("--resume needs inputs that can be read again, not {name}")))
        };
        if input.is_stdin() {
            return again("standard input");
        }
        if !input.is_regular {
            return again(&format!("{}, which is no regular file", path.display()));
        }
        Ok(Self { path: path.clone(), size: *size, modified_ns: *modified_ns })
    }
}

/// How far a run is: so many slices, which are in the outputs as so many bytes and counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Slices that the outputs hold.
    pub slices: u64,
    /// What the token file holds.
    pub train: Counts,
    /// What the validation file holds.
    pub validation: Counts,
    /// Whether that is everything, and the files are being put in place.
    pub is_whole: bool,
}

/// A journal: what is on disk beside the partial files.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    format: u32,
    /// Whose name the partial files had when this was written.
    process: u32,
    slice_bytes: usize,
    job: Job,
    position: Position,
}

/// The journal of a dead run, before it is claimed.
#[derive(Debug)]
pub struct Found {
    path: PathBuf,
    /// The process that it is named after.
    process: u32,
    journal: Journal,
}

impl Found {
    /// The journal that a dead process left of its work on `output`, the one that got farthest;
    /// None where there is none.
    pub fn beside(output: &Path) -> Result<Option<Self>> {
        let mut best: Option<Self> = None;
        for (process, path) in durable::dead_temporaries(&journal_of(output)) {
            let bytes = fs::read(&path).map_err(|source| Error::io(&path, source))?;
            let journal: Journal = serde_json::from_slice(&bytes).map_err(|why| {
                Error::Mismatch(format!(
                    "{}: the notes of the run to resume are damaged: {why}; {ANEW}",
                    path.display()
                ))
            })?;
            if journal.format != FORMAT {
                return Err(Error::Mismatch(format!(
                    "{}: cannot resume: another version of lmkit began it; {ANEW}",
                    output.display()
                )));
            }
            let slices = journal.position.slices;
            if best.as_ref().is_none_or(|best| best.journal.position.slices < slices) {
                best = Some(Self { path, process, journal });
            }
        }
        Ok(best)
    }

    /// How much text a slice held: slices must be cut the same way again.
    pub fn slice_bytes(&self) -> usize {
        self.journal.slice_bytes
    }

    /// How far the run had come.
    pub fn position(&self) -> Position {
        self.journal.position
    }

    /// That it belongs to `job`.
    pub fn check(&self, job: &Job, output: &Path) -> Result<()> {
        job.check_same(&self.journal.job, output)
    }

    /// Makes it this process's own, and with it the partial files of `outputs`.
    pub fn claim(self, outputs: &[&Path]) -> Result<Position> {
        let output = outputs[0];
        let refused = |source| Error::io(output, source);
        for output in outputs {
            // Of an earlier process with our number.
            let _ = fs::remove_file(durable::temporary(output));
        }
        fs::rename(&self.path, durable::temporary(&journal_of(output))).map_err(refused)?;
        for output in outputs {
            let names = [self.process, self.journal.process];
            let partials = names.map(|process| durable::temporary_of(output, process));
            let is_whole = self.journal.position.is_whole;
            // One that was in place already is put there again, like the others.
            let in_place = is_whole.then(|| (*output).to_owned());
            let Some(partial) = partials.into_iter().chain(in_place).find(|path| path.exists())
            else {
                return Err(Error::Mismatch(format!(
                    "{}: cannot resume: what the killed run had written is gone; {ANEW}",
                    output.display()
                )));
            };
            fs::rename(partial, durable::temporary(output)).map_err(refused)?;
        }
        Ok(self.journal.position)
    }
}

/// Where the journal of a run that writes `output` would be, if it were a file like others; its
/// temporary name is the journal's.
fn journal_of(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".journal");
    output.with_file_name(name)
}

/// Where the next journal is until it takes the last one's place.
fn next(journal: &Path) -> PathBuf {
    journal.with_extension("next-journal")
}

/// Whether somebody left a journal of work on `output` that a run can resume.
pub fn is_left(output: &Path) -> bool {
    durable::temporary_of(&journal_of(output), NOBODY).exists()
}

/// Removes what dead processes left of their work on `output`.
pub fn sweep(output: &Path) {
    let journal = journal_of(output);
    for name in [output, &sidecar(output), &journal, &next(&journal)] {
        for (_, path) in durable::dead_temporaries(name) {
            // One that stays is swept by the next run.
            let _ = fs::remove_file(path);
        }
    }
}

/// Notes now and then, on a thread of its own, how far a run is.
pub struct Keeper {
    outputs: Vec<PathBuf>,
    files: Vec<File>,
    slice_bytes: usize,
    every: Duration,
    /// None where nothing is noted, because the inputs cannot be read again.
    job: Option<Job>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The position to note next.
    offered: Option<Position>,
    /// When the last one was noted, or the run begun.
    noted: Instant,
    /// Whether there is a journal.
    is_noted: bool,
    is_over: bool,
    failure: Option<Error>,
}

impl Keeper {
    /// Keeps the journal of a run that writes `outputs` through `files`, their partial files.
    /// `is_noted`: whether there is one already, from the run that is resumed.
    pub fn new(
        outputs: Vec<PathBuf>,
        files: Vec<File>,
        slice_bytes: usize,
        every: Duration,
        job: Option<Job>,
        is_noted: bool,
    ) -> Self {
        let state =
            State { offered: None, noted: Instant::now(), is_noted, is_over: false, failure: None };
        let (state, changed) = (Mutex::new(state), Condvar::new());
        Self { outputs, files, slice_bytes, every, job, state, changed }
    }

    /// Does `work` while what it offers is noted beside it. The notes stay if it fails in a way
    /// that another attempt may survive.
    pub fn beside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        thread::scope(|scope| {
            let noting = thread::Builder::new().spawn_scoped(scope, || self.note_what_is_offered());
            let _over = Over(self);
            noting.map_err(|error| Error::io(&self.outputs[0], error))?;
            work()
        })
    }

    /// Tells how far the run is, where it is time to: `position` first hands everything up to there
    /// to the system. Does not wait until it is noted.
    pub fn offer(&self, position: impl FnOnce() -> Result<Position>) -> Result<()> {
        let mut state = self.state();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if self.job.is_some() && state.noted.elapsed() >= self.every {
            state.offered = Some(position()?);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Notes that the outputs are whole, if anything was noted before: from here on a killed run is
    /// resumed by putting them in place.
    pub fn finish(&self, position: Position) -> Result<()> {
        if self.state().is_noted {
            return self.note(Position { is_whole: true, ..position });
        }
        Ok(())
    }

    /// Removes the journal: the outputs are in place, or given up.
    pub fn remove(&self) {
        // Without outputs beside it, one that stays says nothing, and is swept by the next run.
        let _ = fs::remove_file(durable::temporary(&journal_of(&self.outputs[0])));
    }

    /// After `failure`: leaves journal and partial files to whoever resumes, also in this process,
    /// and says so, where there are any and it may help.
    pub fn release(&self, failure: &Error) -> bool {
        let may_help = !matches!(
            failure.kind(),
            ErrorKind::Malformed | ErrorKind::Usage | ErrorKind::Mismatch | ErrorKind::MissingFile
        );
        let is_kept = may_help && self.state().is_noted;
        if is_kept {
            let journal = journal_of(&self.outputs[0]);
            for path in self.outputs.iter().chain([&journal]) {
                // What keeps its name is swept or claimed once this process is dead.
                let _ = fs::rename(durable::temporary(path), durable::temporary_of(path, NOBODY));
            }
        }
        is_kept
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_what_is_offered(&self) {
        loop {
            let mut state = self.state();
            while state.offered.is_none() && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                return;
            }
            let Some(position) = state.offered.take() else { continue };
            drop(state);
            let noted = self.note(position);
            let mut state = self.state();
            // What was offered meanwhile waits for its turn.
            (state.offered, state.noted) = (None, Instant::now());
            state.failure = noted.err();
        }
    }

    /// Makes the outputs up to `position` durable, then the note that they are.
    fn note(&self, position: Position) -> Result<()> {
        let Some(job) = &self.job else { return Ok(()) };
        for (file, output) in self.files.iter().zip(&self.outputs) {
            file.sync_data().map_err(|source| Error::io(output, source))?;
            if !self.state().is_noted {
                durable::sync_folder(durable::parent(output))?;
            }
        }
        let journal = Journal {
            format: FORMAT,
            process: std::process::id(),
            slice_bytes: self.slice_bytes,
            job: job.clone(),
            position,
        };
        let bytes = serde_json::to_vec(&journal)
            .map_err(|why| Error::Internal(format!("journal: {why}")))?;
        let name = journal_of(&self.outputs[0]);
        let journal = durable::temporary(&name);
        durable::replace(&journal, &durable::temporary(&next(&name)), &bytes)?;
        durable::sync_folder(durable::parent(&journal))?;
        self.state().is_noted = true;
        Ok(())
    }
}

/// Ends the noting when the work ends, also by a panic.
struct Over<'k>(&'k Keeper);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_one();
    }
}
