//! Ids → bytes → text.
//!
//! Bytes that are no UTF-8 become U+FFFD as in Python's `bytes.decode(errors="replace")`: one for
//! each longest beginning of a character. [`StreamDecoder`] does the same for ids that come one by
//! one, and holds back half a character until the rest has come.

use std::str;

use crate::error::{Error, Result};
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
    let unknown =
        |index: usize| Error::UnknownId { id: ids[index].into(), index, len: vocabulary.len() };
    let mut bytes = Vec::new();
    for (round, part) in ids.chunks(ROUND).enumerate() {
        progress.check()?;
        let mut needed = 0;
        for (place, id) in part.iter().enumerate() {
            let id = u32::try_from((*id).into()).ok();
            let token = id.and_then(|id| vocabulary.token(id));
            needed += token.ok_or_else(|| unknown(round * ROUND + place))?.len();
        }
        bytes
            .try_reserve(needed)
            .map_err(|_| Error::OutOfMemory { bytes: bytes.len() + needed })?;
        for id in part {
            // The first loop has seen that all are known.
            let token = u32::try_from((*id).into()).ok().and_then(|id| vocabulary.token(id));
            bytes.extend_from_slice(token.unwrap_or_default());
        }
    }
    Ok(bytes)
}

/// `bytes` as text, U+FFFD for what is no UTF-8.
pub fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
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
