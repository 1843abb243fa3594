//! Ids → bytes → text.
//!
//! Bytes that are no UTF-8 become U+FFFD as in Python's `bytes.decode(errors="replace")`: one for
//! each longest beginning of a character. [`StreamDecoder`] does the same for ids that come one by
//! one, and holds back half a character until the rest has come.

use std::str;

use crate::error::{Error, Result};
use crate::vocabulary::Vocabulary;

/// The bytes that `ids` stand for, end to end.
pub fn decode_bytes(
    vocabulary: &Vocabulary,
    ids: impl IntoIterator<Item = i64>,
) -> Result<Vec<u8>> {
    let ids = ids.into_iter();
    let mut bytes = Vec::new();
    bytes
        .try_reserve(ids.size_hint().0.saturating_mul(4))
        .map_err(|_| Error::OutOfMemory { bytes: ids.size_hint().0.saturating_mul(4) })?;
    for (index, id) in ids.enumerate() {
        let token = u32::try_from(id).ok().and_then(|id| vocabulary.token(id));
        let token = token.ok_or_else(|| Error::UnknownId { id, index, len: vocabulary.len() })?;
        if bytes.capacity() - bytes.len() < token.len() {
            bytes
                .try_reserve(token.len())
                .map_err(|_| Error::OutOfMemory { bytes: bytes.len() + token.len() })?;
        }
        bytes.extend_from_slice(token);
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
