//! Ids → bytes → text.
//!
//! Bytes that are no UTF-8 become U+FFFD as in Python's `bytes.decode(errors="replace")`: one for
//! each longest beginning of a character. [`StreamDecoder`] does the same for ids that come one by
//! one, and holds back half a character until the rest has come.

use std::str;

use crate::error::{Error, Result};
use crate::memory::reserve;
use crate::progress::Progress;
use crate::vocabulary::Vocabulary;

/// Ids decoded between two looks at whether to stop.
const ROUND: usize = 1 << 16;

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

/// Most tokens are short: sixteen bytes are copied whatever the length, and the next token
/// overwrites what was too much. A copy of just the length would be a call for each token.
fn decode_round(
    vocabulary: &Vocabulary,
    ids: &[impl Copy + Into<i64>],
    bytes: &mut Vec<u8>,
) -> Result<()> {
    const ROOM: usize = Vocabulary::ROOM;
    let token = |index: usize| {
        u32::try_from(ids[index].into()).ok().and_then(|id| vocabulary.token_and_room(id))
    };
    let unknown =
        |index: usize| Error::UnknownId { id: ids[index].into(), index, len: vocabulary.len() };
    let mut end = bytes.len();
    let mut needed = end + ROOM;
    for index in 0..ids.len() {
        let Some((len, _)) = token(index) else { return Err(unknown(index)) };
        needed += len;
    }
    reserve(bytes, needed - end)?;
    bytes.resize(needed, 0);
    for index in 0..ids.len() {
        let Some((len, token)) = token(index) else { return Err(unknown(index)) };
        if len <= ROOM {
            bytes[end..end + ROOM].copy_from_slice(&token[..ROOM]);
        } else {
            bytes[end..end + len].copy_from_slice(&token[..len]);
        }
        end += len;
    }
    bytes.truncate(end);
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
