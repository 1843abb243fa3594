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
//!
//! Each thread has its own. A table of all threads beside them, in which one finds what another has
//! merged (lines with versions, nobody waits), cost as much as it saved with two threads: 1.65
//! against 1.61 CPU seconds for 400 MB of English. To keep short pretokens, six of ten but few different
//! ones, together on few pages changed nothing either.
#![expect(unsafe_code, reason = "cache lines in plain memory; writing without a branch")]

mod kernel;
mod key;

use std::marker::PhantomData;

use crate::error::Result;
use crate::memory::{prefetch, use_huge_pages, zeroed};
use kernel::{Kernel, LINE, Lines};
use key::COMPARED;
pub(crate) use key::{Key, Tail};

/// A pretoken of more bytes is not in the short table.
pub(crate) const SHORT: usize = 15;
/// A pretoken of more bytes is not kept at all.
pub(crate) const LONGEST: usize = 31;
/// The most ids an entry of the long table holds.
const MOST_IDS: usize = 8;
/// No id: ids fit an int32.
const NONE: u32 = u32::MAX;

/// Where the last byte of an entry's key says how many ids there are.
const COUNT_SHIFT: u32 = 4;
/// Set in the last byte of an entry's key to say that the ids stand in the long table. No key that
/// is asked for has it, so that such entries are found by [`PretokenCache::emit_one`] alone.
const IS_LONG: u8 = 0x80;
/// The last byte of the key of what cannot be in the short table: equal to no entry's.
const NOWHERE: u8 = 0x80;

/// A pretoken that a round did not find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Gap {
    /// Which of those asked for.
    pub(crate) number: u32,
    /// How many ids that were found stand before its own.
    pub(crate) before: u32,
}

impl Gap {
    #[expect(clippy::cast_possible_truncation, reason = "numbers in a round")]
    fn new(number: usize, before: usize) -> Self {
        Self { number: number as u32, before: before as u32 }
    }
}

/// Tables from pretokens to ids whose size never changes.
#[derive(Debug)]
pub(crate) struct PretokenCache {
    kernel: Kernel,
    short: Table<ShortLine>,
    long: Table<LongEntry>,
}

/// Two entries: their keys, then their ids. A key of zeros: there is none.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct ShortLine {
    keys: [Key; 2],
    ids: [[u32; 4]; 2],
}

/// An entry of the short table, on its way from one line to another.
#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    ids: [u32; 4],
}

impl ShortLine {
    fn entry(&self, number: usize) -> Entry {
        Entry { key: self.keys[number], ids: self.ids[number] }
    }

    /// Puts an entry where another stood, and returns that.
    fn replace(&mut self, number: usize, by: Entry) -> Entry {
        let before = self.entry(number);
        (self.keys[number], self.ids[number]) = (by.key, by.ids);
        before
    }

    /// Which of the two is that of a key, whether its ids are here or in the long table.
    fn find(&self, key: Key) -> Option<usize> {
        self.keys.iter().position(|entry| {
            entry.0[..SHORT] == key.0[..SHORT]
                && entry.0[SHORT] & COMPARED & !IS_LONG == key.0[SHORT]
        })
    }

    /// Where a newcomer goes: who came first stays, the vocabulary's own tokens and what is common.
    fn place_for_new(&self) -> usize {
        usize::from(self.keys[0] != Key::default())
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct LongEntry {
    key: [u64; 4],
    /// Followed by [`NONE`] where there are fewer.
    ids: [u32; MOST_IDS],
}

impl PretokenCache {
    /// A cache that takes at most `budget` bytes (and at least four kilobytes).
    pub(crate) fn with_budget(budget: usize) -> Result<Self> {
        let lines = (budget / LINE).max(64);
        let kernel = Kernel::best();
        Ok(Self { kernel, short: Table::new(lines - lines / 8)?, long: Table::new(lines / 8)? })
    }

    /// How many bytes the tables take.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        (self.short.lines + self.long.lines) * LINE
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> Result<()> {
        let (short, long) = (Table::new(self.short.lines)?, Table::new(self.long.lines)?);
        *self = Self { kernel: self.kernel, short, long };
        Ok(())
    }

    /// Prepares the look-up of `text[start..end]`, and of all that follow up to the other `ends`:
    /// writes their keys and the places of their lines. What is long is left out: the look-up will
    /// not find it.
    #[inline]
    pub(crate) fn ask(
        &self,
        text: &[u8],
        tail: &Tail,
        start: usize,
        ends: &[usize],
        asked: (&mut [Key], &mut [u32]),
    ) {
        self.kernel.ask(text, tail, start, ends, self.lines(), asked);
    }

    /// Writes the ids of what was asked for of this cache to `out`, which has room for four for each,
    /// and to `gaps`, with room for all, what is not known; returns how many of both there are.
    #[inline]
    pub(crate) fn emit(
        &self,
        asked: (&[Key], &[u32]),
        out: &mut [u32],
        gaps: &mut [Gap],
    ) -> (usize, usize) {
        // SAFETY: places come from `ask`, and the size of a table never changes.
        unsafe { self.kernel.emit(asked, self.lines(), out, gaps) }
    }

    fn lines(&self) -> Lines<'_> {
        Lines { all: self.short.all() }
    }

    /// Says that a single pretoken will be looked up soon, with [`PretokenCache::emit_one`].
    #[inline]
    pub(crate) fn ask_one(&self, pretoken: &[u8], (_, place): (Key, u32)) {
        if pretoken.len() <= SHORT {
            prefetch(self.short.all(), place as usize / LINE);
            prefetch(self.short.all(), neighbour(place) as usize / LINE);
        } else if let Some(key) = long_key(pretoken) {
            prefetch(self.long.all(), self.long_place(key));
        }
    }

    /// Appends the ids of a single pretoken that was asked for, if they are known. Looks at the
    /// neighbouring line too, and brings what it finds there home.
    #[inline]
    pub(crate) fn emit_one(
        &mut self,
        pretoken: &[u8],
        (key, place): (Key, u32),
        out: &mut Vec<u32>,
    ) -> bool {
        if pretoken.len() > SHORT {
            return self.emit_long(pretoken, out);
        }
        let Some(entry) = self.find(key, place) else { return false };
        let last = entry.key.0[SHORT];
        if last & IS_LONG != 0 {
            return self.emit_long(pretoken, out);
        }
        out.extend_from_slice(&entry.ids[..usize::from(last >> COUNT_SHIFT)]);
        true
    }

    /// The entry of `key`.
    #[inline]
    fn find(&mut self, key: Key, place: u32) -> Option<Entry> {
        if let Some(number) = self.short.line_mut(place).find(key) {
            return Some(self.short.line_mut(place).entry(number));
        }
        let number = self.short.line_mut(neighbour(place)).find(key)?;
        let entry = self.short.line_mut(neighbour(place)).entry(number);
        let moved = self.short.line_mut(place).replace(1, entry);
        self.short.line_mut(neighbour(place)).replace(number, moved);
        Some(entry)
    }

    #[inline(never)]
    fn emit_long(&self, pretoken: &[u8], out: &mut Vec<u32>) -> bool {
        let Some(key) = long_key(pretoken) else { return false };
        let entry = self.long.all()[self.long_place(key)];
        if entry.key != key {
            return false;
        }
        out.extend(entry.ids.iter().take_while(|id| **id != NONE));
        true
    }

    /// Remembers the ids of a pretoken that was asked for, in place of something else; what is too
    /// long is not kept.
    pub(crate) fn insert(&mut self, pretoken: &[u8], (key, place): (Key, u32), ids: &[u32]) {
        let is_short = ids.len() <= 4;
        if pretoken.len() <= SHORT && ids.len() <= MOST_IDS {
            let mut key = key;
            #[expect(clippy::cast_possible_truncation, reason = "at most four")]
            let mark = if is_short { (ids.len() as u8) << COUNT_SHIFT } else { IS_LONG };
            key.0[SHORT] |= mark;
            let entry = Entry { key, ids: if is_short { padded(ids) } else { [NONE; 4] } };
            let line = self.short.line_mut(place);
            let evicted = line.replace(line.place_for_new(), entry);
            if evicted.key != Key::default() {
                let other = self.short.line_mut(neighbour(place));
                other.replace(other.place_for_new(), evicted);
            }
        }
        if !(is_short && pretoken.len() <= SHORT)
            && ids.len() <= MOST_IDS
            && let Some(key) = long_key(pretoken)
        {
            let place = self.long_place(key);
            self.long.all_mut()[place] = LongEntry { key, ids: padded(ids) };
        }
    }

    /// The number of a key's line among those of the long table.
    fn long_place(&self, [first, second, third, fourth]: [u64; 4]) -> usize {
        let low = first ^ fourth.wrapping_mul(0xd6e8_feb8_6659_fd93);
        let high = second ^ third.wrapping_mul(0xa076_1d64_78bd_642f);
        let mixed = (low ^ high.rotate_left(25)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (((mixed >> 32) * self.long.lines as u64) >> 32) as usize
    }
}

/// The place of the line beside the one at `place`.
fn neighbour(place: u32) -> u32 {
    const { assert!(LINE == 64) };
    place ^ 64
}

fn padded<const N: usize>(ids: &[u32]) -> [u32; N] {
    let mut all = [NONE; N];
    all[..ids.len()].copy_from_slice(ids);
    all
}

/// The key in the long table; none for what is longer.
fn long_key(pretoken: &[u8]) -> Option<[u64; 4]> {
    let mut bytes = [0; LONGEST + 1];
    bytes.get_mut(..pretoken.len()).filter(|room| room.len() <= LONGEST)?.copy_from_slice(pretoken);
    bytes[LONGEST] = u8::try_from(pretoken.len()).ok()?;
    let (words, _) = bytes.as_chunks::<8>();
    Some([0, 1, 2, 3].map(|at| u64::from_le_bytes(words[at])))
}

/// Marks what is a cache line of plain numbers, for which zeros are a valid value.
trait Line: Copy {}
impl Line for ShortLine {}
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
    const WORDS: usize = LINE / size_of::<u64>();

    /// At most 4 GB of them: places are told in bytes.
    fn new(lines: usize) -> Result<Self> {
        let lines = (lines & !1).clamp(2, (1 << 32) / LINE);
        const { assert!(size_of::<L>() == LINE && align_of::<L>() <= LINE) };
        // By words, since memory of a larger alignment would be zeroed by hand, all of it.
        let mut words = zeroed::<u64>((lines + 1) * Self::WORDS)?;
        use_huge_pages(&mut words);
        let base = words.as_ptr().align_offset(LINE).min(Self::WORDS);
        Ok(Self { words, base, lines, of: PhantomData })
    }

    #[inline]
    fn all(&self) -> &[L] {
        // SAFETY: `new` made room for `lines` whole lines from `base` on, which it aligned; they were
        // zeroed or written as an `L` since, and every bit pattern is an `L`.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().add(self.base).cast(), self.lines) }
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [L] {
        // SAFETY: as in `all`; `self` is borrowed for as long.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.words.as_mut_ptr().add(self.base).cast(),
                self.lines,
            )
        }
    }

    #[inline]
    fn line_mut(&mut self, place: u32) -> &mut L {
        &mut self.all_mut()[place as usize / LINE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::level;

    fn asked(cache: &PretokenCache, pretoken: &[u8]) -> (Key, u32) {
        let (mut key, mut place) = ([Key::default()], [0]);
        let tail = Tail::new(pretoken);
        cache.ask(pretoken, &tail, 0, &[pretoken.len()], (&mut key, &mut place));
        (key[0], place[0])
    }

    fn insert(cache: &mut PretokenCache, pretoken: &[u8], ids: &[u32]) {
        cache.insert(pretoken, asked(cache, pretoken), ids);
    }

    fn found(cache: &mut PretokenCache, pretoken: &[u8]) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        cache.emit_one(pretoken, asked(cache, pretoken), &mut ids).then_some(ids)
    }

    /// The same through a round of one.
    fn found_in_a_round(cache: &PretokenCache, pretoken: &[u8]) -> Option<Vec<u32>> {
        let (key, place) = asked(cache, pretoken);
        let (mut ids, mut gaps) = ([0; 4], [Gap::default()]);
        let (count, missed) = cache.emit((&[key], &[place]), &mut ids, &mut gaps);
        (missed == 0).then(|| ids[..count].to_vec())
    }

    fn caches() -> impl Iterator<Item = PretokenCache> {
        let cache = || PretokenCache::with_budget(1 << 14).unwrap();
        level::ALL.into_iter().map(move |level| level::at_most(level, cache))
    }

    #[test]
    fn keys_are_equal_only_for_equal_pretokens_and_by_all_kernels() {
        let key = |pretoken: &[u8]| {
            let mut keys = caches().map(|cache| asked(&cache, pretoken).0);
            let key = keys.next().unwrap();
            assert!(keys.all(|other| other == key));
            key
        };
        assert_ne!(key(b"a"), key(b"a\0"));
        assert_ne!(key(b"\0"), key(b"\0\0"));
        assert_ne!(key(&[0; 15]), key(&[0; 16]));
        assert_ne!(long_key(b"a"), long_key(b"a\0"));
        assert_eq!(long_key(&[b'a'; 32]), None);
        let text = b"xxabcdefghijklmnopqrstuvwxyz0123456789, and sixteen bytes more";
        // Of all lengths that tell kernels apart, more than the fastest takes at a time.
        let ends = [5, 20, 21, 37, 39];
        for cache in caches() {
            // With room behind the last one and without; all of them, and only some.
            for (text, count) in [(text.as_slice(), 5), (&text[..39], 5), (text, 4), (text, 3)] {
                let (mut keys, mut places) = ([Key::default(); 5], [0; 5]);
                let asked_for = (&mut keys[..count], &mut places[..count]);
                cache.ask(text, &Tail::new(text), 2, &ends[..count], asked_for);
                let starts = [2].into_iter().chain(ends);
                for (number, (start, end)) in starts.zip(ends).take(count).enumerate() {
                    let expected = asked(&cache, &text[start..end]);
                    assert_eq!((keys[number], places[number]), expected);
                }
            }
        }
    }

    /// Words of up to 20 bytes, some of them again and again.
    fn words() -> (Vec<u8>, Vec<usize>) {
        let mixed = |at: usize| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let text: Vec<u8> = (0..80_000).map(|at| b"ab"[mixed(at) % 2]).collect();
        let (mut ends, mut end) = (Vec::new(), 0);
        while end < text.len() {
            end = (end + 1 + mixed(end) % 20).min(text.len());
            ends.push(end);
        }
        (text, ends)
    }

    #[test]
    fn every_kernel_gives_what_was_inserted_and_those_of_one_hash_the_same_gaps() {
        let (text, ends) = words();
        let ids_of = |word: &[u8]| vec![u32::try_from(word.len()).unwrap(); word.len() % 5 + 1];
        let answers = caches().map(|mut cache| {
            let (mut known, mut gaps_of_all) = (0, Vec::new());
            let mut start = 0;
            for (round, ends) in ends.chunks(97).enumerate() {
                let (mut keys, mut places) = (vec![Key::default(); 97], vec![0; 97]);
                let asked = (&mut keys[..ends.len()], &mut places[..ends.len()]);
                cache.ask(&text, &Tail::new(&text), start, ends, asked);
                let (mut ids, mut gaps) = (vec![0; 4 * 97], vec![Gap::default(); 97]);
                let asked = (&keys[..ends.len()], &places[..ends.len()]);
                let (count, missed) = cache.emit(asked, &mut ids, &mut gaps);
                let (mut at, mut next) = (0, gaps[..missed].iter().peekable());
                for (number, &end) in ends.iter().enumerate() {
                    let word = &text[start..end];
                    start = end;
                    if next.next_if(|gap| gap.number as usize == number).is_some() {
                        cache.insert(word, (keys[number], places[number]), &ids_of(word));
                    } else {
                        let expected = ids_of(word);
                        assert_eq!(ids[at..at + expected.len()], expected, "round {round}");
                        (at, known) = (at + expected.len(), known + 1);
                    }
                }
                assert_eq!((at, next.next()), (count, None));
                gaps_of_all.extend_from_slice(&gaps[..missed]);
            }
            assert!(known > ends.len() / 4, "{known} of {}", ends.len());
            gaps_of_all
        });
        let answers: Vec<_> = answers.collect();
        assert!(answers[1..].windows(2).all(|two| two[0] == two[1]));
    }

    #[test]
    fn what_was_inserted_last_is_found_and_the_size_stays() {
        for mut cache in caches() {
            let bytes = cache.bytes();
            assert!(bytes <= 1 << 14);
            for number in 0..100_000_u32 {
                let text = format!("{number:0width$}", width = 1 + (number % 31) as usize);
                let ids: Vec<u32> = (0..=number % 8).map(|place| number + place).collect();
                insert(&mut cache, text.as_bytes(), &ids);
                if text.len() <= SHORT && ids.len() <= 4 {
                    assert_eq!(found_in_a_round(&cache, text.as_bytes()).as_ref(), Some(&ids));
                } else {
                    assert_eq!(found_in_a_round(&cache, text.as_bytes()), None);
                }
                assert_eq!(found(&mut cache, text.as_bytes()), Some(ids));
            }
            assert_eq!(cache.bytes(), bytes);
        }
    }

    #[test]
    fn places_are_spread_over_all_lines() {
        for cache in caches() {
            let mut seen = vec![0_u32; cache.short.lines];
            for number in 0..100 * cache.short.lines {
                let (_, place) = asked(&cache, number.to_string().as_bytes());
                seen[place as usize / LINE] += 1;
            }
            assert!(seen.iter().all(|&count| (30..300).contains(&count)), "{seen:?}");
        }
    }

    #[test]
    fn what_is_not_known_leaves_a_gap() {
        for mut cache in caches() {
            insert(&mut cache, b"known", &[7, 8]);
            insert(&mut cache, b"!", &[9]);
            let text = b"known!knew!a word that is too long";
            let (mut keys, mut places) = ([Key::default(); 5], [0; 5]);
            let ends = [5, 6, 10, 11, text.len()];
            cache.ask(text, &Tail::new(text), 0, &ends, (&mut keys, &mut places));
            let (mut ids, mut gaps) = ([0; 20], [Gap::default(); 5]);
            assert_eq!(cache.emit((&keys, &places), &mut ids, &mut gaps), (4, 2));
            assert_eq!(ids[..4], [7, 8, 9, 9]);
            assert_eq!(gaps[..2], [Gap { number: 2, before: 3 }, Gap { number: 4, before: 4 }]);
        }
    }

    #[test]
    fn what_is_too_long_or_too_many_is_not_kept() {
        for mut cache in caches() {
            insert(&mut cache, &[b'a'; 32], &[1]);
            insert(&mut cache, b"nine", &[1; 9]);
            assert_eq!(found(&mut cache, &[b'a'; 32]), None);
            assert_eq!(found(&mut cache, b"nine"), None);
        }
    }
}
