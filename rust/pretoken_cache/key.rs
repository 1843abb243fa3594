//! Pretokens as keys of sixteen bytes.

use super::{NOWHERE, SHORT};

/// A pretoken of at most [`SHORT`] bytes, filled up with zeros, and in the last byte its length. An
/// entry's key says there too how many ids follow, in bits that keys to look up have as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C, align(16))]
pub(crate) struct Key(pub(super) [u8; 16]);

/// What a pretoken's length makes of the sixteen bytes that begin with it: which of them belong to
/// it, and the last byte of its key.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Shape {
    pub(super) bytes: [u8; 16],
    pub(super) last: [u8; 16],
}

impl Shape {
    /// By length; the last is that of all longer ones, which no table holds by this key.
    const ALL: [Self; SHORT + 2] = {
        let mut all = [Self { bytes: [0; 16], last: [0; 16] }; SHORT + 2];
        let mut len: u8 = 0;
        while (len as usize) <= SHORT {
            let mut at = 0;
            while at < len {
                all[len as usize].bytes[at as usize] = 0xff;
                at += 1;
            }
            all[len as usize].last[SHORT] = len;
            len += 1;
        }
        all[SHORT + 1].last[SHORT] = NOWHERE;
        all
    };

    /// That of a pretoken of `len` bytes.
    #[inline]
    pub(super) fn of(len: usize) -> &'static Self {
        const { &Self::ALL }.get(len).unwrap_or(const { &Self::ALL[SHORT + 1] })
    }
}

/// Bits of the last byte of an entry's key that are compared: not the count of its ids.
pub(super) const COMPARED: u8 = 0x8f;

/// The last bytes of a text with room behind them, so that sixteen can be read from any place.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: [u8; 32],
    /// Where in the text they begin.
    base: usize,
}

impl Tail {
    /// The tail of `text`.
    #[inline]
    pub(crate) fn new(text: &[u8]) -> Self {
        let base = text.len().saturating_sub(16);
        let mut bytes = [0; 32];
        bytes[..text.len() - base].copy_from_slice(&text[base..]);
        Self { bytes, base }
    }

    /// Sixteen bytes of `text`, whose tail this is, from `start` on; what lies behind its end is 0.
    #[inline]
    pub(super) fn sixteen<'t>(&'t self, text: &'t [u8], start: usize) -> &'t [u8; 16] {
        let found = match text.get(start..start + 16) {
            Some(sixteen) => sixteen.first_chunk(),
            None => self.bytes[(start - self.base) & 15..].first_chunk(),
        };
        found.expect("sixteen bytes")
    }
}
