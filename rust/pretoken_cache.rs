//! Pretokens already merged → their ids, within a byte budget.
//!
//! Text repeats itself: of English pretokens 94 % are among the commonest 16 thousand. So a round of
//! pretokens is first hashed ([`PretokenCache::ask`]), which tells the processor what will be
//! read, and only then looked up ([`PretokenCache::emit`]): a look-up right after its hash would
//! wait for memory each time.
//!
//! Two tables, both of cache lines, so that a look-up reads one line:
//! - *short*: a line holds two entries of sixteen bytes of key (the pretoken, its length in the last
//!   byte, so that equal keys are equal pretokens) and up to four ids. Both are compared without a
//!   branch; of the pretokens of English all but one in a thousand belong here.
//! - *long*: a line is one entry of 32 bytes of key and up to eight ids, for what is longer or
//!   falls into more ids.
//!
//! A newcomer takes the second place of its line and whoever stood there goes, so the size is fixed
//! when the cache is made and hostile text costs time, never memory. The memory comes zeroed from
//! the system, in huge pages where it has some, and is first touched where it is first used: a
//! large cache costs a short text next to nothing.
#![expect(unsafe_code, reason = "cache lines in plain memory; writing without a branch")]

use std::marker::PhantomData;

use crate::error::Result;
use crate::memory::{prefetch, reserve, use_huge_pages, zeroed};

/// A pretoken of more bytes is not in the short table.
pub(crate) const SHORT: usize = 15;
/// A pretoken of more bytes is not kept at all.
pub(crate) const LONGEST: usize = 31;
/// The most ids an entry of the long table holds.
const MOST_IDS: usize = 8;
/// No id: ids fit an int32.
const NONE: u32 = u32::MAX;

/// A pretoken of at most [`SHORT`] bytes, and in the last byte its length. An entry's key says there
/// too how many ids follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Key {
    low: u64,
    high: u64,
}

/// Where an entry's key says how many ids there are beyond the first; asked keys have zeros there.
const COUNT_SHIFT: u32 = 60;
const COUNT: u64 = 3 << COUNT_SHIFT;
/// Set in an entry's key to say that the ids stand in the long table.
const IS_LONG: u64 = 1 << 62;
/// Set in the key that is asked for what cannot be in the short table: equal to no entry's.
const NOWHERE: u64 = 1 << 63;

/// For each length the bytes of a key that belong to the pretoken, and the last byte.
const MASKS: [(Key, u64); SHORT + 2] = {
    let mut masks = [(Key { low: 0, high: 0 }, NOWHERE); SHORT + 2];
    let mut len = 1;
    while len <= SHORT {
        let (low, high) = match len {
            ..8 => ((1 << (8 * len)) - 1, 0),
            _ => (u64::MAX, (1 << (8 * (len - 8))) - 1),
        };
        masks[len] = (Key { low, high }, (len as u64) << 56);
        len += 1;
    }
    masks
};

impl Key {
    /// The key of the first `len` of these bytes.
    #[inline]
    fn new(bytes: &[u8; 16], len: usize) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let (mask, last) = &MASKS[len.min(SHORT + 1)];
        Self {
            low: u64::from_le_bytes(words[0]) & mask.low,
            high: u64::from_le_bytes(words[1]) & mask.high | last,
        }
    }

    #[inline]
    fn hash(self) -> u32 {
        let mixed = (self.low ^ self.high.rotate_left(25)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as u32
    }
}

/// A pretoken that was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    key: Key,
    /// Some bits of it number the line of the short table.
    hash: u32,
}

impl Asked {
    /// Of the `len` first bytes of these.
    #[inline]
    fn new(sixteen: &[u8; 16], len: usize) -> Self {
        let key = Key::new(sixteen, len);
        Self { key, hash: key.hash() }
    }
}

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
    pub(crate) fn sixteen<'t>(&'t self, text: &'t [u8], start: usize) -> &'t [u8; 16] {
        let found = match text.get(start..start + 16) {
            Some(sixteen) => sixteen.first_chunk(),
            None => self.bytes[(start - self.base) & 15..].first_chunk(),
        };
        found.expect("sixteen bytes")
    }
}

/// Tables from pretokens to ids whose size never changes.
#[derive(Debug)]
pub(crate) struct PretokenCache {
    short: Table<[ShortEntry; 2]>,
    long: Table<LongEntry>,
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(32))]
struct ShortEntry {
    /// All zeros: there is none.
    key: Key,
    ids: [u32; 4],
}

impl ShortEntry {
    /// Whether this is the entry of what was asked for, and its ids are here.
    #[inline]
    fn is_of(&self, key: Key) -> bool {
        (self.key.low ^ key.low) | (self.key.high ^ key.high) & !COUNT == 0
    }

    /// How many ids there are.
    #[inline]
    fn count(&self) -> usize {
        (self.key.high >> COUNT_SHIFT & 3) as usize + 1
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct LongEntry {
    key: [Key; 2],
    /// Followed by [`NONE`] where there are fewer.
    ids: [u32; MOST_IDS],
}

impl PretokenCache {
    /// A cache that takes at most `budget` bytes (and at least four kilobytes).
    pub(crate) fn with_budget(budget: usize) -> Result<Self> {
        let lines = (budget / 64).max(64);
        Ok(Self { short: Table::new(lines - lines / 8)?, long: Table::new(lines / 8)? })
    }

    /// How many bytes the tables take.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        (self.short.lines + self.long.lines) * 64
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let (short, long) = (self.short.lines, self.long.lines);
        *self = Self { short: Table::new(short)?, long: Table::new(long)? };
        Ok(())
    }

    /// Prepares the look-up of `text[start..end]`, and of all that follow up to the other `ends`.
    /// What is long is left out: the look-up will not find it.
    #[inline]
    pub(crate) fn ask(
        &self,
        text: &[u8],
        tail: &Tail,
        mut start: usize,
        ends: &[usize],
        asked: &mut [Asked],
    ) {
        let mut places = ends.iter().zip(asked);
        // Almost all have sixteen bytes to read, and need not ask whether they have.
        let last = text.len().saturating_sub(16);
        if ends.last().is_some_and(|&end| end <= last) {
            for (&end, asked) in places {
                debug_assert!(start <= last);
                // SAFETY: ends rise, so `start`, which is less than the last of them, has sixteen
                // bytes of `text` behind it.
                let sixteen = unsafe { &*text.as_ptr().add(start).cast::<[u8; 16]>() };
                *asked = Asked::new(sixteen, end - start);
                self.short.prefetch(asked.hash);
                start = end;
            }
            return;
        }
        for (&end, asked) in &mut places {
            *asked = Asked::new(tail.sixteen(text, start), end - start);
            self.short.prefetch(asked.hash);
            start = end;
        }
    }

    /// Appends the ids of what was asked for, up to the first that is not known; returns how many
    /// were.
    #[inline]
    pub(crate) fn emit(&self, asked: &[Asked], out: &mut Vec<u32>) -> Result<usize> {
        reserve(out, asked.len() * 4)?;
        let begin = out.as_mut_ptr();
        let mut len = out.len();
        let mut known = 0;
        for Asked { key, hash } in asked {
            let [first, second] = self.short.line(*hash);
            // Which of the two it is cannot be foretold, so neither may be a branch.
            let entry = if first.is_of(*key) { first } else { second };
            if !entry.is_of(*key) {
                break;
            }
            // SAFETY: room for four more for each of `asked` was made above, and each round adds
            // at most four to `len`.
            unsafe { begin.add(len).cast::<[u32; 4]>().write_unaligned(entry.ids) };
            // No branch on how many there are: the rest is overwritten by the next.
            len += entry.count();
            known += 1;
        }
        // SAFETY: all up to `len` was there before or written above.
        unsafe { out.set_len(len) };
        Ok(known)
    }

    /// Appends the ids of a single pretoken, which begins these `sixteen` bytes, if they are known.
    /// Looks at the neighbouring line too, and brings what it finds there home.
    #[inline]
    pub(crate) fn emit_one(
        &mut self,
        pretoken: &[u8],
        sixteen: &[u8; 16],
        out: &mut Vec<u32>,
    ) -> bool {
        if pretoken.len() > SHORT {
            return self.emit_long(pretoken, out);
        }
        let key = Key::new(sixteen, pretoken.len());
        let Some(entry) = self.find(key) else { return false };
        if entry.key.high & IS_LONG != 0 {
            return self.emit_long(pretoken, out);
        }
        let end = out.len() + entry.count();
        out.extend_from_slice(&entry.ids);
        out.truncate(end);
        true
    }

    /// The entry of `key`, which may also say that its ids are in the long table.
    #[inline]
    fn find(&mut self, key: Key) -> Option<ShortEntry> {
        let hash = key.hash();
        let is_of = |entry: &ShortEntry| {
            entry.is_of(Key { high: key.high | entry.key.high & IS_LONG, ..key })
        };
        if let Some(entry) = self.short.line(hash).iter().find(|&entry| is_of(entry)) {
            return Some(*entry);
        }
        let other = self.short.neighbour_mut(hash);
        let place = other.iter().position(is_of)?;
        let entry = other[place];
        let home = &mut self.short.line_mut(hash)[1];
        let moved = std::mem::replace(home, entry);
        self.short.neighbour_mut(hash)[place] = moved;
        Some(entry)
    }

    #[inline(never)]
    fn emit_long(&self, pretoken: &[u8], out: &mut Vec<u32>) -> bool {
        let Some(key) = long_key(pretoken) else { return false };
        let entry = self.long.line(long_hash(key));
        if entry.key != key {
            return false;
        }
        out.extend(entry.ids.iter().take_while(|id| **id != NONE));
        true
    }

    /// Remembers the ids of a pretoken, in place of something else; what is too long is not kept.
    pub(crate) fn insert(&mut self, pretoken: &[u8], ids: &[u32]) {
        let is_short = ids.len() <= 4;
        if pretoken.len() <= SHORT && ids.len() <= MOST_IDS {
            let mut key = short_key(pretoken);
            let hash = key.hash();
            key.high |= if is_short { (ids.len() as u64 - 1) << COUNT_SHIFT } else { IS_LONG };
            let entry = ShortEntry { key, ids: if is_short { padded(ids) } else { [NONE; 4] } };
            // Who came first stays: the vocabulary's own tokens, and what is common.
            let [first, second] = self.short.line_mut(hash);
            let place = if first.key == Key::default() { first } else { second };
            let evicted = std::mem::replace(place, entry);
            if evicted.key != Key::default() {
                let [first, second] = self.short.neighbour_mut(hash);
                *if first.key == Key::default() { first } else { second } = evicted;
            }
        }
        if !(is_short && pretoken.len() <= SHORT)
            && ids.len() <= MOST_IDS
            && let Some(key) = long_key(pretoken)
        {
            *self.long.line_mut(long_hash(key)) = LongEntry { key, ids: padded(ids) };
        }
    }
}

fn padded<const N: usize>(ids: &[u32]) -> [u32; N] {
    let mut all = [NONE; N];
    all[..ids.len()].copy_from_slice(ids);
    all
}

#[inline]
fn short_key(pretoken: &[u8]) -> Key {
    let mut bytes = [0; 16];
    bytes[..pretoken.len()].copy_from_slice(pretoken);
    Key::new(&bytes, pretoken.len())
}

/// The key in the long table; none for what is longer.
fn long_key(pretoken: &[u8]) -> Option<[Key; 2]> {
    let mut bytes = [0; LONGEST + 1];
    bytes.get_mut(..pretoken.len()).filter(|room| room.len() <= LONGEST)?.copy_from_slice(pretoken);
    bytes[LONGEST] = u8::try_from(pretoken.len()).ok()?;
    let (words, _) = bytes.as_chunks::<8>();
    let word = |at: usize| u64::from_le_bytes(words[at]);
    Some([Key { low: word(0), high: word(1) }, Key { low: word(2), high: word(3) }])
}

fn long_hash([start, end]: [Key; 2]) -> u32 {
    let folded = Key {
        low: start.low ^ end.high.wrapping_mul(0xd6e8_feb8_6659_fd93),
        high: start.high ^ end.low.wrapping_mul(0xa076_1d64_78bd_642f),
    };
    folded.hash()
}

/// Marks what is a cache line of plain numbers, for which zeros are a valid value.
trait Line: Copy {}
impl Line for [ShortEntry; 2] {}
impl Line for LongEntry {}

/// An even number of cache lines, each on a line of its own.
#[derive(Debug)]
struct Table<L> {
    words: Box<[u64]>,
    /// The first word that lies on a line's edge.
    base: usize,
    lines: usize,
    of: PhantomData<L>,
}

impl<L: Line> Table<L> {
    /// Words in a line.
    const LINE: usize = size_of::<L>() / size_of::<u64>();

    fn new(lines: usize) -> Result<Self> {
        let lines = (lines & !1).clamp(2, 1 << 30);
        const { assert!(size_of::<L>() == 64 && align_of::<L>() <= 64) };
        let mut words = zeroed::<u64>((lines + 1) * Self::LINE)?;
        use_huge_pages(&mut words);
        let base = words.as_ptr().align_offset(64).min(Self::LINE);
        Ok(Self { words, base, lines, of: PhantomData })
    }

    /// Where the line for `hash` begins, or its neighbour.
    #[inline]
    fn start(&self, hash: u32, neighbour: usize) -> usize {
        let line = ((u64::from(hash) * self.lines as u64) >> 32) as usize;
        self.base + (line ^ neighbour) * Self::LINE
    }

    #[inline]
    fn prefetch(&self, hash: u32) {
        prefetch(&self.words, self.start(hash, 0));
    }

    #[inline]
    fn line(&self, hash: u32) -> &L {
        // SAFETY: `new` made room for `lines` whole lines from `base` on, which it aligned, and they
        // are an even number, so that each has a neighbour; they were zeroed or written as an `L` since, and every bit pattern is an `L`.
        unsafe { &*self.words.as_ptr().add(self.start(hash, 0)).cast::<L>() }
    }

    fn line_mut(&mut self, hash: u32) -> &mut L {
        self.either_mut(hash, 0)
    }

    /// The line beside the one for `hash`.
    fn neighbour_mut(&mut self, hash: u32) -> &mut L {
        self.either_mut(hash, 1)
    }

    fn either_mut(&mut self, hash: u32, neighbour: usize) -> &mut L {
        let start = self.start(hash, neighbour);
        // SAFETY: as in `line`; `self` is borrowed for as long.
        unsafe { &mut *self.words.as_mut_ptr().add(start).cast::<L>() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cache: &mut PretokenCache, pretoken: &[u8]) -> Option<Vec<u32>> {
        let (tail, mut ids) = (Tail::new(pretoken), Vec::new());
        cache.emit_one(pretoken, tail.sixteen(pretoken, 0), &mut ids).then_some(ids)
    }

    /// The same through a round of one.
    fn found_in_a_round(cache: &PretokenCache, pretoken: &[u8]) -> Option<Vec<u32>> {
        let (mut asked, mut ids) = ([Asked::default()], Vec::new());
        cache.ask(pretoken, &Tail::new(pretoken), 0, &[pretoken.len()], &mut asked);
        (cache.emit(&asked, &mut ids).unwrap() == 1).then_some(ids)
    }

    #[test]
    fn keys_are_equal_only_for_equal_pretokens() {
        assert_ne!(short_key(b"a"), short_key(b"a\0"));
        assert_ne!(short_key(b"\0"), short_key(b"\0\0"));
        assert_ne!(long_key(b"a"), long_key(b"a\0"));
        assert_eq!(long_key(&[b'a'; 32]), None);
        let text = b"xxabcdefghijklmnopqrstuvw";
        let (tail, mut asked) = (Tail::new(text), [Asked::default(); 3]);
        let cache = PretokenCache::with_budget(1 << 14).unwrap();
        cache.ask(text, &tail, 2, &[5, 20, 25], &mut asked);
        let keys = asked.map(|asked| asked.key);
        assert_eq!(keys, [b"abc".as_slice(), b"defghijklmnopqr", b"stuvw"].map(short_key));
    }

    #[test]
    fn what_was_inserted_last_is_found_and_the_size_stays() {
        let mut cache = PretokenCache::with_budget(1 << 14).unwrap();
        let bytes = cache.bytes();
        assert!(bytes <= 1 << 14);
        for number in 0..100_000_u32 {
            let text = format!("{number:0width$}", width = 1 + (number % 31) as usize);
            let ids: Vec<u32> = (0..=number % 8).map(|place| number + place).collect();
            cache.insert(text.as_bytes(), &ids);
            assert_eq!(found(&mut cache, text.as_bytes()).as_ref(), Some(&ids));
            if text.len() <= SHORT && ids.len() <= 4 {
                assert_eq!(found_in_a_round(&cache, text.as_bytes()), Some(ids));
            }
        }
        assert_eq!(cache.bytes(), bytes);
    }

    #[test]
    fn a_round_ends_where_one_is_not_known() {
        let mut cache = PretokenCache::with_budget(1 << 14).unwrap();
        cache.insert(b"known", &[7, 8]);
        cache.insert(b"!", &[9]);
        let (text, mut asked, mut ids) = (b"known!knew!", [Asked::default(); 4], vec![1]);
        cache.ask(text, &Tail::new(text), 0, &[5, 6, 10, 11], &mut asked);
        assert_eq!(cache.emit(&asked, &mut ids).unwrap(), 2);
        assert_eq!(cache.emit(&asked[3..], &mut ids).unwrap(), 1);
        assert_eq!(ids, [1, 7, 8, 9, 9]);
    }

    #[test]
    fn what_is_too_long_or_too_many_is_not_kept() {
        let mut cache = PretokenCache::with_budget(1 << 14).unwrap();
        cache.insert(&[b'a'; 32], &[1]);
        cache.insert(b"nine", &[1; 9]);
        assert_eq!(found(&mut cache, &[b'a'; 32]), None);
        assert_eq!(found(&mut cache, b"nine"), None);
    }
}
