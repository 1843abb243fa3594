//! One thread's table: pretoken → how often it was met.
//!
//! Linear probing over entries of 32 bytes, half a cache line: 16 bytes of key with its length, a
//! 64-bit count, and for pretokens of more than 15 bytes their place in an arena. The place comes
//! from the hash's top bits, so that two tables list equal pretokens in nearly the same order,
//! which makes looking one up in the other a walk instead of a jump.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::Result;
use crate::memory::{filled, prefetch, reserve};

/// Pretokens up to this long are their own key.
pub(super) const SHORT: usize = 15;
/// In a key's top byte: the key is a hash and a length, the bytes are in the arena.
const LONG: u64 = 0xff << 56;
/// Pretokens whose keys are made and prefetched before the first of them is looked up.
const BATCH: usize = 128;
const FIRST_ENTRIES: usize = 1 << 13;
/// Entries start on a cache line, so that none straddles two.
const LINE_WORDS: usize = 8;

type Key = [u64; 2];

/// Key (two words, zero where the slot is free), count, place in the arena.
type Entry = [u64; 4];

/// A pretoken on its way into the table: its key, its slot unless another has it, where it stands.
#[derive(Debug, Clone, Copy, Default)]
struct Met {
    key: Key,
    home: usize,
    start: usize,
    end: usize,
}

/// Pretokens and their counts.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Entries,
    pub(super) len: usize,
    arena: Vec<u8>,
}

impl Table {
    /// Counts the pretokens of `text` that end at `ends`, the first of which starts at `start`.
    pub(crate) fn count(&mut self, text: &[u8], mut start: usize, ends: &[usize]) -> Result<()> {
        let mut met = [Met::default(); BATCH];
        for ends in ends.chunks(BATCH) {
            self.make_room(BATCH)?;
            let mut long = 0;
            for (&end, met) in ends.iter().zip(&mut met) {
                let key = key_at(text, start, end);
                if key[1] >= LONG {
                    long += end - start;
                }
                let home = self.entries.home(hash(key));
                prefetch(self.entries.all(), home);
                *met = Met { key, home, start, end };
                start = end;
            }
            if long > 0 {
                reserve(&mut self.arena, long)?;
            }
            for met in &met[..ends.len()] {
                // Most are at home: no call for them.
                let entry = &mut self.entries.all_mut()[met.home];
                if entry[0] == met.key[0] && entry[1] == met.key[1] && met.key[1] < LONG {
                    entry[2] += 1;
                } else {
                    self.add_key(met.key, met.home, &text[met.start..met.end], 1);
                }
            }
        }
        Ok(())
    }

    /// Adds `count` to what `pretoken` has.
    pub(crate) fn add(&mut self, pretoken: &[u8], count: u64) -> Result<()> {
        self.make_room(1)?;
        reserve(&mut self.arena, pretoken.len())?;
        let key = key_at(pretoken, 0, pretoken.len());
        self.add_key(key, self.entries.home(hash(key)), pretoken, count);
        Ok(())
    }

    #[inline(never)]
    fn add_key(&mut self, key: Key, home: usize, pretoken: &[u8], count: u64) {
        let mask = self.entries.slots - 1;
        let (entries, mut slot) = (self.entries.all_mut(), home);
        loop {
            let entry = &mut entries[slot];
            if entry[0] == key[0] && entry[1] == key[1] && same(&self.arena, entry, pretoken) {
                entry[2] += count;
                // A hotter entry takes the place of the one at home, to be found at once from now
                // on. Every slot between the two is taken, so both can still be reached.
                if slot != home && entries[slot][2] > entries[home][2] {
                    entries.swap(slot, home);
                }
                return;
            }
            if entry[1] == 0 {
                *entry = [key[0], key[1], count, self.arena.len() as u64];
                if key[1] >= LONG {
                    self.arena.extend_from_slice(pretoken);
                }
                self.len += 1;
                return;
            }
            slot = (slot + 1) & mask;
        }
    }

    /// Makes room for `more` entries: at most three of four slots are taken.
    fn make_room(&mut self, more: usize) -> Result<()> {
        let slots = self.slots();
        if (self.len + more) * 4 > slots * 3 {
            let larger = Entries::new((slots * 2).max(FIRST_ENTRIES))?;
            let old = std::mem::replace(&mut self.entries, larger);
            for entry in old.all().iter().filter(|entry| entry[1] != 0) {
                self.entries.place(*entry);
            }
        }
        Ok(())
    }

    /// The count of slot `slot`'s pretoken; 0 where the slot is free.
    pub(crate) fn count_at(&self, slot: usize) -> u64 {
        self.entries.all()[slot][2]
    }

    /// How many bytes the pretokens have that are not their own key.
    pub(super) fn arena_len(&self) -> usize {
        self.arena.len()
    }

    /// How many slots there are, free ones included.
    pub(crate) fn slots(&self) -> usize {
        self.entries.slots
    }

    /// Every slot once, in an order that has nothing to do with hashes: what goes from one table
    /// into a smaller one in the order of its slots piles up, each entry behind the one before.
    pub(super) fn scattered_slots(&self) -> impl Iterator<Item = usize> + use<> {
        let slots = self.slots();
        // An odd factor visits all of a power of two.
        (0..slots).map(move |number| number.wrapping_mul(0x9e37_79b1) & (slots - 1))
    }

    /// How many bytes the pretoken at `slot` has.
    pub(crate) fn len_at(&self, slot: usize) -> usize {
        len_of(&self.entries.all()[slot])
    }

    /// Hands the bytes of the pretoken at `slot` to `take`.
    pub(crate) fn with_bytes_at<T>(&self, slot: usize, take: impl FnOnce(&[u8]) -> T) -> T {
        let entry = &self.entries.all()[slot];
        if entry[1] >= LONG {
            take(arena_bytes(&self.arena, entry))
        } else {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&entry[0].to_le_bytes());
            bytes[8..].copy_from_slice(&entry[1].to_le_bytes());
            take(&bytes[..len_of(entry)])
        }
    }

    /// The count here of the pretoken at `slot` of `other`; 0 where it was never met.
    pub(crate) fn count_of(&self, other: &Self, slot: usize) -> u64 {
        if self.len == 0 {
            return 0;
        }
        let theirs = &other.entries.all()[slot];
        let mut place = self.entries.home(hash([theirs[0], theirs[1]]));
        loop {
            let entry = &self.entries.all()[place];
            if entry[1] == 0 {
                return 0;
            }
            if entry[..2] == theirs[..2]
                && (entry[1] < LONG
                    || arena_bytes(&self.arena, entry) == arena_bytes(&other.arena, theirs))
            {
                return entry[2];
            }
            place = (place + 1) & (self.entries.slots - 1);
        }
    }
}

/// The slots, a power of two of them.
#[derive(Debug, Default)]
struct Entries {
    words: Vec<u64>,
    first: usize,
    slots: usize,
    shift: u32,
}

impl Entries {
    fn new(slots: usize) -> Result<Self> {
        let words = filled(slots * 4 + LINE_WORDS, 0_u64)?;
        let first = words.as_ptr().align_offset(LINE_WORDS * 8).min(LINE_WORDS);
        Ok(Self { words, first, slots, shift: 64 - slots.trailing_zeros() })
    }

    fn all(&self) -> &[Entry] {
        self.words[self.first..][..self.slots * 4].as_chunks().0
    }

    fn all_mut(&mut self) -> &mut [Entry] {
        self.words[self.first..][..self.slots * 4].as_chunks_mut().0
    }

    #[expect(clippy::cast_possible_truncation, reason = "the shift leaves a slot's number")]
    fn home(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }

    /// Puts an entry that is not there yet into the first free slot from its home.
    fn place(&mut self, entry: Entry) {
        let (mut slot, mask) = (self.home(hash([entry[0], entry[1]])), self.slots - 1);
        let entries = self.all_mut();
        while entries[slot][1] != 0 {
            slot = (slot + 1) & mask;
        }
        entries[slot] = entry;
    }
}

/// The key of `text[start..end]`: its bytes and, in the last one, its length; or a hash of them,
/// their number and the mark of a long one. Never zero in its second word.
#[inline(always)]
#[expect(clippy::inline_always, reason = "called for every pretoken")]
fn key_at(text: &[u8], start: usize, end: usize) -> Key {
    let len = end - start;
    if len > SHORT {
        return [xxh3_64(&text[start..end]), LONG | len as u64];
    }
    let mut bytes = [0; 16];
    if let Some(near) = text.get(start..start + 16) {
        bytes.copy_from_slice(near);
    } else {
        bytes[..len].copy_from_slice(&text[start..end]);
    }
    let (halves, _) = bytes.as_chunks::<8>();
    let mask = &KEPT[len];
    let first = u64::from_le_bytes(halves[0]) & mask[0];
    [first, u64::from_le_bytes(halves[1]) & mask[1] | (len as u64) << 56]
}

/// By length: which bits of a key's two halves are the pretoken's. Looked up, since shifts of 128
/// bits take a dozen instructions.
static KEPT: [Key; SHORT + 1] = {
    let mut kept = [[0; 2]; SHORT + 1];
    let mut len = 0;
    while len <= SHORT {
        let bits = !(u128::MAX << (len * 8));
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        {
            kept[len] = [bits as u64, (bits >> 64) as u64];
        }
        len += 1;
    }
    kept
};

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a product")]
fn hash(key: Key) -> u64 {
    const ONE: u64 = 0x9e37_79b9_7f4a_7c15;
    const TWO: u64 = 0xd6e8_feb8_6659_fd93;
    let product = u128::from(key[0] ^ ONE) * u128::from(key[1] ^ TWO);
    let folded = (product as u64) ^ ((product >> 64) as u64);
    folded.wrapping_mul(ONE)
}

fn len_of(entry: &Entry) -> usize {
    if entry[1] >= LONG { (entry[1] & !LONG) as usize } else { (entry[1] >> 56) as usize }
}

#[expect(clippy::cast_possible_truncation, reason = "a place in the arena that was a usize")]
fn arena_bytes<'a>(arena: &'a [u8], entry: &Entry) -> &'a [u8] {
    &arena[entry[3] as usize..][..len_of(entry)]
}

#[inline]
fn same(arena: &[u8], entry: &Entry, pretoken: &[u8]) -> bool {
    entry[1] < LONG || arena_bytes(arena, entry) == pretoken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(table: &Table) -> Vec<(Vec<u8>, u64)> {
        let mut words: Vec<_> = (0..table.slots())
            .filter(|&slot| table.count_at(slot) > 0)
            .map(|slot| (table.with_bytes_at(slot, <[u8]>::to_vec), table.count_at(slot)))
            .collect();
        words.sort_unstable();
        words
    }

    #[test]
    fn counts_survive_growth_whatever_the_length() {
        let (mut table, mut expected) = (Table::default(), Vec::new());
        for number in 0..40_000_usize {
            let word = format!("{number:0width$}", width = 1 + number % 40).into_bytes();
            for _ in 0..=number % 3 {
                table.add(&word, 2).unwrap();
            }
            expected.push((word, 2 * (number % 3 + 1) as u64));
        }
        expected.sort_unstable();
        expected.dedup_by(|next, kept| {
            next.0 == kept.0 && {
                kept.1 += next.1;
                true
            }
        });
        assert_eq!(table.len, expected.len());
        assert_eq!(words(&table), expected);
    }

    #[test]
    fn bytes_of_zero_and_ends_of_the_text_are_told_apart() {
        let mut table = Table::default();
        table.count(b"a\0\0b\0", 0, &[1, 2, 4, 5]).unwrap();
        table.count(b"a", 0, &[1]).unwrap();
        table.count(b"aa\0", 1, &[3]).unwrap();
        let expected =
            [(&b"\0"[..], 2), (b"\0b", 1), (b"a", 2), (b"a\0", 1)].map(|(w, n)| (w.to_vec(), n));
        assert_eq!(words(&table), expected);
    }
}
