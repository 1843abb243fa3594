//! Pretokens already merged → their ids, within a byte budget.
//!
//! Text repeats itself: of English pretokens 94 % are among the commonest 16 thousand. A key is the
//! pretoken's bytes with their number in the last byte, 16 bytes in all, so that equal keys are
//! equal pretokens; longer ones are not kept. Two entries with up to four ids each share a cache
//! line; a second, small table holds those of five to eleven ids. A newcomer replaces what stood in
//! its place, so the size is fixed when the cache is made and hostile text costs time, never memory.
//!
//! The memory comes zeroed from the system and is first touched where it is first used: a large
//! cache costs a short text nothing.
#![expect(unsafe_code, reason = "zeroed memory whose allocation may fail")]

use std::alloc::{Layout, alloc_zeroed};

use crate::error::{Error, Result};
use crate::memory::prefetch;

/// A pretoken of more bytes is not kept.
pub(crate) const LONGEST_KEY: usize = 15;
/// Words in a cache line.
const LINE: usize = 8;
/// No id: ids fit an int32.
const NONE: u32 = u32::MAX;

/// A pretoken of at most [`LONGEST_KEY`] bytes, with its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key {
    low: u64,
    high: u64,
}

impl Key {
    /// The key of `text[start..end]`, which must be 1 to [`LONGEST_KEY`] bytes long.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a u128")]
    pub(crate) fn new(text: &[u8], start: usize, end: usize) -> Self {
        let len = end - start;
        let mut wide = [0; 16];
        let bytes = if let Some(sixteen) = text.get(start..start + 16) {
            wide.copy_from_slice(sixteen);
            u128::from_le_bytes(wide) & ((1 << (8 * len)) - 1)
        } else {
            wide[..len].copy_from_slice(&text[start..end]);
            u128::from_le_bytes(wide)
        };
        let bytes = bytes | ((len as u128) << 120);
        Self { low: bytes as u64, high: (bytes >> 64) as u64 }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "both halves of the product are used")]
    fn hash(self) -> u64 {
        let product = u128::from(self.low ^ 0x9e37_79b9_7f4a_7c15)
            * u128::from(self.high ^ 0xd6e8_feb8_6659_fd93);
        (product as u64) ^ ((product >> 64) as u64)
    }
}

/// Where a key belongs in both tables.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place {
    short: u32,
    long: u32,
}

/// A table from pretokens to ids whose size never changes.
#[derive(Debug)]
pub(crate) struct PretokenCache {
    short: Lines,
    long: Lines,
}

impl PretokenCache {
    /// A cache that takes at most `budget` bytes (and at least four kilobytes).
    pub(crate) fn with_budget(budget: usize) -> Result<Self> {
        let lines = (budget / 64).max(64);
        let short = 1 << (lines - lines / 8).ilog2();
        let long = 1 << (lines / 8).ilog2();
        Ok(Self { short: Lines::new(short)?, long: Lines::new(long)? })
    }

    /// How many bytes the tables take.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        (self.short.words.len() + self.long.words.len()) * 8
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> Result<()> {
        *self =
            Self { short: Lines::new(self.short.mask + 1)?, long: Lines::new(self.long.mask + 1)? };
        Ok(())
    }

    /// Where `key` belongs; tells the processor that it will be asked for.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "a place is some bits of the hash")]
    pub(crate) fn place(&self, key: Key) -> Place {
        let hash = key.hash();
        let place = Place { short: (hash >> 32) as u32, long: hash as u32 };
        prefetch(&self.short.words, self.short.start(place.short));
        place
    }

    /// Appends the ids of `key`, if they are known.
    #[inline]
    pub(crate) fn emit(&self, key: Key, place: Place, out: &mut Vec<u32>) -> bool {
        let line = self.short.line(place.short);
        if line[0] == key.low && line[1] == key.high {
            emit_four(line[2], line[3], out);
            return true;
        }
        if line[4] == key.low && line[5] == key.high {
            emit_four(line[6], line[7], out);
            return true;
        }
        self.emit_long(key, place, out)
    }

    #[inline(never)]
    fn emit_long(&self, key: Key, place: Place, out: &mut Vec<u32>) -> bool {
        let line = self.long.line(place.long);
        if line[0] != key.low || line[1] != key.high {
            return false;
        }
        out.extend(line[2..].iter().flat_map(|word| halves(*word)).take_while(|id| *id != NONE));
        true
    }

    /// Remembers the ids of `key`, in place of something else; more than eleven are not kept.
    pub(crate) fn insert(&mut self, key: Key, place: Place, ids: &[u32]) {
        match ids.len() {
            1..=4 => {
                let line = self.short.line_mut(place.short);
                // The newer entry is looked at first; the older one gets the second place.
                line.copy_within(0..4, 4);
                write(&mut line[..4], key, ids);
            }
            5..=11 => write(self.long.line_mut(place.long), key, ids),
            _ => {}
        }
    }
}

fn write(entry: &mut [u64], key: Key, ids: &[u32]) {
    entry[0] = key.low;
    entry[1] = key.high;
    for (place, word) in entry[2..].iter_mut().enumerate() {
        let id = |at: usize| u64::from(ids.get(at).copied().unwrap_or(NONE));
        *word = id(2 * place) | (id(2 * place + 1) << 32);
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// Writes four and takes back what is no id: no branch on how many there are.
#[inline]
fn emit_four(first: u64, second: u64, out: &mut Vec<u32>) {
    let ([a, b], [c, d]) = (halves(first), halves(second));
    let end =
        out.len() + 1 + usize::from(b != NONE) + usize::from(c != NONE) + usize::from(d != NONE);
    out.extend_from_slice(&[a, b, c, d]);
    out.truncate(end);
}

/// A power of two of cache lines, each on a line of its own.
#[derive(Debug)]
struct Lines {
    words: Box<[u64]>,
    /// The first word that lies on a line's edge.
    base: usize,
    mask: usize,
}

impl Lines {
    fn new(lines: usize) -> Result<Self> {
        let words = zeroed((lines + 1) * LINE)?;
        let base = words.as_ptr().align_offset(64).min(LINE);
        Ok(Self { words, base, mask: lines - 1 })
    }

    /// Where the line for `place` begins.
    #[inline]
    fn start(&self, place: u32) -> usize {
        self.base + (place as usize & self.mask) * LINE
    }

    #[inline]
    fn line(&self, place: u32) -> &[u64; LINE] {
        let start = self.start(place);
        self.words[start..start + LINE].try_into().expect("a slice of eight words")
    }

    fn line_mut(&mut self, place: u32) -> &mut [u64] {
        let start = self.start(place);
        &mut self.words[start..start + LINE]
    }
}

/// Zeroed words, or an error: `vec!` would end the process instead.
#[expect(clippy::cast_ptr_alignment, reason = "allocated with the layout of u64")]
fn zeroed(words: usize) -> Result<Box<[u64]>> {
    let refused = || Error::OutOfMemory { bytes: words.saturating_mul(8) };
    let layout = Layout::array::<u64>(words).map_err(|_| refused())?;
    // SAFETY: the caller asks for at least one line, so the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) }.cast::<u64>();
    if start.is_null() {
        return Err(refused());
    }
    // SAFETY: `start` came from the global allocator with the layout of `words` u64, all of which
    // are zero and thus valid; nothing else owns it.
    Ok(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(start, words)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &[u8]) -> Key {
        Key::new(text, 0, text.len())
    }

    #[test]
    fn keys_are_equal_only_for_equal_pretokens() {
        assert_ne!(key(b"a"), key(b"a\0"));
        assert_ne!(key(b"\0"), key(b"\0\0"));
        assert_eq!(Key::new(b"xxabcdefghijklmnopqrstuvw", 2, 5), key(b"abc"));
        assert_eq!(Key::new(b"abcdefghijklmnopqrs", 0, 15), key(b"abcdefghijklmno"));
    }

    #[test]
    fn what_was_inserted_last_is_found_and_the_size_stays() {
        let mut cache = PretokenCache::with_budget(1 << 14).unwrap();
        let bytes = cache.bytes();
        assert!(bytes <= 1 << 14);
        for number in 0..100_000_u32 {
            let text = number.to_string();
            let ids: Vec<u32> = (0..=number % 11).map(|place| number + place).collect();
            let key = key(text.as_bytes());
            let place = cache.place(key);
            cache.insert(key, place, &ids);
            let mut found = Vec::new();
            assert!(cache.emit(key, place, &mut found));
            assert_eq!(found, ids);
        }
        assert_eq!(cache.bytes(), bytes);
    }

    #[test]
    fn ids_that_are_too_many_are_not_kept() {
        let mut cache = PretokenCache::with_budget(1 << 14).unwrap();
        let key = key(b"twelve");
        let place = cache.place(key);
        cache.insert(key, place, &[1; 12]);
        assert!(!cache.emit(key, place, &mut Vec::new()));
    }
}
