//! tiktoken's rank files: base64 of a token, a space, its rank; one a line.

use std::fmt::Write as _;
use std::path::Path;

use super::{TokenizerParts, cannot_hold, malformed};
use crate::error::Result;
use crate::ranks;
use crate::special_tokens::SpecialTokens;
use crate::vocabulary::Vocabulary;

/// Reads a rank file: base64 of a token, a space, its rank; one a line.
pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<TokenizerParts> {
    let mut tokens = Vec::new();
    for (line, content) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        let content = content.trim_ascii();
        if content.is_empty() {
            continue;
        }
        let parsed = memchr::memchr(b' ', content).and_then(|space| {
            let rank = std::str::from_utf8(&content[space + 1..]).ok()?.parse().ok()?;
            Some((rank, base64(&content[..space])?))
        });
        tokens.push(parsed.ok_or_else(|| {
            let why = if tokens.is_empty() {
                "neither JSON nor a rank file of base64 tokens, each with a space and its rank; a \
                 SentencePiece model is no byte-level BPE"
                    .to_owned()
            } else {
                format!("line {line}: not a base64 token, a space and its rank")
            };
            malformed(path, why)
        })?);
    }
    let vocabulary =
        Vocabulary::from_ranks(tokens).map_err(|error| malformed(path, error.to_string()))?;
    Ok(TokenizerParts::new(vocabulary, Vec::new(), None))
}

/// The lines of `parts`, but for its special tokens, by rising id. What its pattern and its special
/// tokens are must be told elsewhere.
pub(super) fn write(path: &Path, parts: &TokenizerParts) -> Result<Vec<u8>> {
    let specials = SpecialTokens::new(parts.special_tokens.clone(), &parts.vocabulary)?;
    if let Some(why) = refusal(parts, &specials)? {
        return Err(cannot_hold(path, "a rank file", why));
    }
    let mut lines = String::new();
    for (id, token) in parts.vocabulary.iter().filter(|(id, _)| !specials.is_special(*id)) {
        let _ = writeln!(lines, "{} {id}", to_base64(token));
    }
    Ok(lines.into_bytes())
}

/// Why no rank file can give the same ids.
fn refusal(parts: &TokenizerParts, specials: &SpecialTokens) -> Result<Option<String>> {
    if let Some(normalizer) = parts.normalizer {
        return Ok(Some(format!("text is normalized ({}) before it is split", normalizer.name())));
    }
    if let Some((token, _)) = specials.tokens().iter().find(|(token, _)| token.len() == 1) {
        return Ok(Some(format!(
            "the special token {token:?} is a single byte, which needs a rank"
        )));
    }
    ranks::refusal(&parts.vocabulary, specials)
}

/// Standard base64 with padding; `None` for anything else.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => Some(u32::from(c - b'A')),
        b'a'..=b'z' => Some(u32::from(c - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(c - b'0') + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if text.is_empty() || !text.len().is_multiple_of(4) {
        return None;
    }
    let pads = text.iter().rev().take_while(|&&c| c == b'=').take(2).count();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    for (quad, chunk) in (1..).zip(text.chunks_exact(4)) {
        let last = quad == text.len() / 4;
        let keep = if last { 3 - pads } else { 3 };
        let mut word = 0;
        for (place, &c) in chunk.iter().enumerate() {
            let value = if last && place >= 4 - pads { 0 } else { digit(c)? };
            word = word << 6 | value;
        }
        bytes.extend_from_slice(&word.to_be_bytes()[1..=keep]);
    }
    Some(bytes)
}

/// The same, backwards.
fn to_base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            let digit = word >> (18 - 6 * place) & 63;
            let is_pad = place > chunk.len();
            text.push(if is_pad { '=' } else { char::from(DIGITS[digit as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_reads_what_rank_files_hold() {
        assert_eq!(base64(b"IQ=="), Some(b"!".to_vec()));
        assert_eq!(base64(b"IHQ="), Some(b" t".to_vec()));
        assert_eq!(base64(b"aW5n"), Some(b"ing".to_vec()));
        for bad in [&b""[..], b"IQ=", b"I===", b"I!==", b"IQ==IQ=="] {
            assert_eq!(base64(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn base64_goes_both_ways() {
        for length in 1..40 {
            let bytes: Vec<u8> =
                (0..length).map(|place: u8| place.wrapping_mul(37).wrapping_add(200)).collect();
            assert_eq!(base64(to_base64(&bytes).as_bytes()), Some(bytes));
        }
    }
}
