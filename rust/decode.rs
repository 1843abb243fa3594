//! Ids → bytes → text.
//!
//! Bytes that are no UTF-8 become U+FFFD as in Python's `bytes.decode(errors="replace")`: one for
//! each longest beginning of a character. [`StreamDecoder`] does the same for ids that come one by
//! one, and holds back half a character until the rest has come.

use std::{str, thread};

use crate::error::{Error, Result};
use crate::memory::{use_huge_pages, zeroed};
use crate::progress::Progress;
use crate::vocabulary::Vocabulary;

/// Ids decoded between two looks at whether to stop.
const ROUND: usize = 1 << 16;
/// A thread is worth its start from so many ids on.
const PART: usize = 1 << 17;
/// More threads wait for memory, not for each other.
const THREADS: usize = 8;

/// The bytes that `ids` stand for, end to end.
pub fn decode_bytes(
    vocabulary: &Vocabulary,
    ids: &[impl Copy + Into<i64> + Sync],
) -> Result<Vec<u8>> {
    decode_watched(vocabulary, ids, &Progress::default())
}

/// The bytes that `ids` stand for, end to end; ends with [`Error::Interrupted`] soon after
/// `progress` is cancelled. Many ids are decoded on several threads.
///
/// Two passes, the first of which checks the ids and adds up lengths: so the bytes go straight to
/// their places, in memory that each thread is the first to touch.
pub fn decode_watched(
    vocabulary: &Vocabulary,
    ids: &[impl Copy + Into<i64> + Sync],
    progress: &Progress,
) -> Result<Vec<u8>> {
    let threads = match ids.len() / PART {
        ..2 => 1,
        parts => thread::available_parallelism().map_or(1, usize::from).min(parts).min(THREADS),
    };
    let part_len = ids.len().div_ceil(threads).max(1);
    let parts: Vec<_> = ids.chunks(part_len).collect();
    let lens = side_by_side(parts.iter().map(|&part| move || measure(vocabulary, part, progress)));
    let mut total = 0;
    let lens = lens.into_iter().enumerate().map(|(number, len)| {
        let len = len.map_err(|error| match error {
            Error::UnknownId { id, index, len } => {
                Error::UnknownId { id, index: number * part_len + index, len }
            }
            other => other,
        })?;
        total += len;
        Ok(len)
    });
    let lens = lens.collect::<Result<Vec<_>>>()?;
    let mut bytes = zeroed(total)?.into_vec();
    use_huge_pages(&mut bytes);
    let mut rest = &mut bytes[..];
    let written = parts.into_iter().zip(lens).map(|(part, len)| {
        let (own, others) = std::mem::take(&mut rest).split_at_mut(len);
        rest = others;
        move || write(vocabulary, part, own, progress)
    });
    side_by_side(written).into_iter().collect::<Result<()>>()?;
    Ok(bytes)
}

/// What each of `works` gives; all but the first on a thread of its own.
fn side_by_side<T: Send>(works: impl Iterator<Item = impl FnOnce() -> T + Send>) -> Vec<T> {
    let mut works = works.collect::<Vec<_>>().into_iter();
    let Some(first) = works.next() else { return Vec::new() };
    thread::scope(|scope| {
        let others: Vec<_> = works.map(|work| scope.spawn(work)).collect();
        let mut all = vec![first()];
        all.extend(
            others
                .into_iter()
                .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))),
        );
        all
    })
}

fn token_of(vocabulary: &Vocabulary, id: impl Into<i64>) -> Option<(usize, &[u8])> {
    vocabulary.token_and_room(u32::try_from(id.into()).ok()?)
}

/// How many bytes `ids` stand for, all of which must have a token.
fn measure(
    vocabulary: &Vocabulary,
    ids: &[impl Copy + Into<i64>],
    progress: &Progress,
) -> Result<usize> {
    let mut bytes = 0;
    for (index, &id) in ids.iter().enumerate() {
        if index % ROUND == 0 {
            progress.check()?;
        }
        let Some((len, _)) = token_of(vocabulary, id) else {
            return Err(Error::UnknownId { id: id.into(), index, len: vocabulary.len() });
        };
        bytes += len;
    }
    Ok(bytes)
}

/// Writes the bytes of `ids`, which were measured, to `out`.
///
/// Most tokens are short: sixteen bytes are copied whatever the length, and the next token
/// overwrites what was too much. A copy of just the length would be a call for each token.
fn write(
    vocabulary: &Vocabulary,
    ids: &[impl Copy + Into<i64>],
    out: &mut [u8],
    progress: &Progress,
) -> Result<()> {
    const ROOM: usize = Vocabulary::ROOM;
    let mut at = 0;
    for (index, &id) in ids.iter().enumerate() {
        if index % ROUND == 0 {
            progress.check()?;
        }
        let Some((len, token)) = token_of(vocabulary, id) else { continue };
        match out.get_mut(at..at + ROOM) {
            Some(place) if len <= ROOM => place.copy_from_slice(&token[..ROOM]),
            _ => out[at..at + len].copy_from_slice(&token[..len]),
        }
        at += len;
    }
    Ok(())
}

/// `bytes` as text, U+FFFD for what is no UTF-8.
#[expect(unsafe_code, reason = "checked by a library that is faster than the standard one")]
pub fn text_of(bytes: Vec<u8>) -> String {
    match simdutf8::basic::from_utf8(&bytes) {
        // SAFETY: these bytes were just seen to be valid UTF-8.
        Ok(_) => unsafe { String::from_utf8_unchecked(bytes) },
        Err(_) => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Text from ids that come one by one.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    /// The beginning of a character: at most three bytes between calls.
    held: Vec<u8>,
}

impl StreamDecoder {
    /// With nothing held back.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of the next token and returns the text that is certain now.
    pub fn push(&mut self, token: &[u8]) -> String {
        self.held.extend_from_slice(token);
        let mut text = String::new();
        let mut done = 0;
        loop {
            match str::from_utf8(&self.held[done..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    done = self.held.len();
                    break;
                }
                Err(error) => {
                    let valid = done + error.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.held[done..valid]));
                    done = valid;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += bad;
                }
            }
        }
        self.held.drain(..done);
        text
    }

    /// What is left when no more ids come: one U+FFFD for a half character.
    pub fn finish(&mut self) -> String {
        text_of(std::mem::take(&mut self.held))
    }
}
