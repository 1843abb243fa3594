//! Ids → bytes → text.
//!
//! Bytes that are no UTF-8 become U+FFFD as in Python's `bytes.decode(errors="replace")`: one for
//! each longest beginning of a character. [`StreamDecoder`] does the same for ids that come one by
//! one, and holds back half a character until the rest has come.

use std::str;

use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::progress::Progress;
use crate::vocabulary::{ROW, Row, Vocabulary};

/// Ids decoded between two looks at whether to stop, and into room made at once: what that is for
/// the longest tokens of a row stays in the processor's nearest cache.
const ROUND: usize = 1 << 10;

/// The bytes that `ids` stand for, end to end.
pub fn decode_bytes(vocabulary: &Vocabulary, ids: &[impl Copy + Into<i64>]) -> Result<Vec<u8>> {
    decode_watched(vocabulary, ids, &Progress::default())
}

/// The bytes that `ids` stand for, end to end; ends with [`Error::Interrupted`] soon after
/// `progress` is cancelled.
pub fn decode_watched(
    vocabulary: &Vocabulary,
    ids: &[impl Copy + Into<i64>],
    progress: &Progress,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for (round, part) in ids.chunks(ROUND).enumerate() {
        progress.check()?;
        decode_round(vocabulary, part, &mut bytes).map_err(|error| match error {
            Error::UnknownId { id, index, len } => {
                Error::UnknownId { id, index: round * ROUND + index, len }
            }
            other => other,
        })?;
    }
    Ok(bytes)
}

fn decode_round(
    vocabulary: &Vocabulary,
    ids: &[impl Copy + Into<i64>],
    bytes: &mut Vec<u8>,
) -> Result<()> {
    let rows = vocabulary.rows()?;
    let (mut done, mut end) = (0, bytes.len());
    grow(bytes, ids.len() * (ROW - 1) + ROW)?;
    loop {
        let (count, written) = copy_rows(rows, &ids[done..], &mut bytes[end..]);
        (done, end) = (done + count, end + written);
        let Some(&id) = ids.get(done) else { break };
        let id = id.into();
        let token = u32::try_from(id).ok().and_then(|id| vocabulary.token(id));
        let token = token.ok_or(Error::UnknownId { id, index: done, len: vocabulary.len() })?;
        grow(bytes, token.len())?;
        bytes[end..end + token.len()].copy_from_slice(token);
        (done, end) = (done + 1, end + token.len());
    }
    bytes.truncate(end);
    Ok(())
}

fn grow(bytes: &mut Vec<u8>, more: usize) -> Result<()> {
    reserve(bytes, more)?;
    bytes.resize(bytes.len() + more, 0);
    Ok(())
}

/// Writes the tokens of `ids` up to one that has no row; returns how many, and how many bytes.
///
/// Most tokens are short: a whole row is copied whatever the length, and the next overwrites what
/// was too much. A copy of just the length would be a call for each token; to ask all lengths first,
/// so as to make just the room needed, was slower by half, and no faster without checking bounds.
fn copy_rows(rows: &[Row], ids: &[impl Copy + Into<i64>], out: &mut [u8]) -> (usize, usize) {
    let mut end = 0;
    for (index, id) in ids.iter().enumerate() {
        let row = usize::try_from((*id).into()).ok().and_then(|id| rows.get(id));
        let Some(row) = row else { return (index, end) };
        let len = usize::from(row[ROW - 1]);
        if len == 0 {
            return (index, end);
        }
        let Some(room) = out[end..].first_chunk_mut() else { return (index, end) };
        *room = *row;
        end += len;
    }
    (ids.len(), end)
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
