//! The pairs that may still be merged: how often each occurs, where, and which comes first.
//!
//! Pairs rarer than a threshold are not kept at all. The heap is lazy: an entry whose count is out
//! of date goes back with the right one when it comes to the top, which is exact because counts
//! fall between merges; where one rises (see `repeated.rs`) an entry of its own is pushed.

use std::cmp::Ordering;

use rustc_hash::FxHashMap;

use super::TieBreak;
use super::words::Pair;

/// The tokens as bytes, by symbol: the 256 bytes in the order of their ids, then what is merged.
#[derive(Debug)]
pub(super) struct Tokens {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// How many bytes each has.
    pub(super) lens: Vec<u32>,
}

impl Tokens {
    pub(super) fn new(alphabet: &[u8]) -> Self {
        Self {
            bytes: alphabet.to_vec(),
            ends: (1..=alphabet.len()).collect(),
            lens: vec![1; alphabet.len()],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, symbol: u32) -> &[u8] {
        let symbol = symbol as usize;
        let start = if symbol == 0 { 0 } else { self.ends[symbol - 1] };
        &self.bytes[start..self.ends[symbol]]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    pub(super) fn push(&mut self, token: &[u8]) {
        self.bytes.extend_from_slice(token);
        self.ends.push(self.bytes.len());
        self.lens.push(u32::try_from(token.len()).unwrap_or(u32::MAX));
    }
}

/// One pair that may be merged.
#[derive(Debug)]
struct Record {
    pair: Pair,
    count: u64,
    /// How many entries of the heap name it; it is free to be used anew when none does.
    entries: u32,
    /// Where it was when its younger symbol was made, rising; many may be gone since.
    places: Vec<u32>,
}

/// What the heap holds: enough of a pair to compare most of them without looking further.
#[derive(Debug, Clone, Copy)]
struct Entry {
    count: u64,
    /// The larger comes first among equal counts, as far as eight bytes can tell.
    key: u64,
    record: u32,
}

/// What is to be merged next.
#[derive(Debug)]
pub(super) struct Best {
    pub(super) pair: Pair,
    pub(super) count: u64,
    pub(super) places: Vec<u32>,
    /// Whether more places of the pair wait for a turn of their own (Hugging Face's rule).
    pub(super) partial: bool,
}

/// All pairs of at least `threshold` occurrences.
#[derive(Debug)]
pub(super) struct Pairs {
    tie_break: TieBreak,
    threshold: u64,
    max_token_length: usize,
    records: Vec<Record>,
    free: Vec<u32>,
    by_pair: FxHashMap<Pair, u32>,
    heap: Vec<Entry>,
    /// Further places of a record, each with an entry of its own: they came into being by a later
    /// merge, and Hugging Face's trainer merges them as a step of its own.
    further: FxHashMap<u32, Vec<Vec<u32>>>,
}

impl Pairs {
    pub(super) fn new(
        tie_break: TieBreak,
        threshold: u64,
        max_token_length: Option<usize>,
    ) -> Self {
        Self {
            tie_break,
            threshold,
            max_token_length: max_token_length.unwrap_or(usize::MAX),
            records: Vec::new(),
            free: Vec::new(),
            by_pair: FxHashMap::default(),
            heap: Vec::new(),
            further: FxHashMap::default(),
        }
    }

    pub(super) fn threshold(&self) -> u64 {
        self.threshold
    }

    /// Whether a pair is one that may be merged: frequent enough, and not too long.
    #[inline]
    pub(super) fn takes(&self, (left, right): Pair, count: u64, tokens: &Tokens) -> bool {
        let len = |symbol: u32| tokens.lens[symbol as usize] as usize;
        count >= self.threshold && len(left) + len(right) <= self.max_token_length
    }

    pub(super) fn contains(&self, pair: Pair) -> bool {
        self.by_pair.contains_key(&pair)
    }

    /// Takes in a pair that is not here, and that it [takes](Self::takes); its places may follow.
    pub(super) fn insert(
        &mut self,
        pair: Pair,
        count: u64,
        places: Vec<u32>,
        tokens: &Tokens,
    ) -> u32 {
        let record = Record { pair, count, entries: 1, places };
        let index = if let Some(index) = self.free.pop() {
            self.records[index as usize] = record;
            index
        } else {
            self.records.push(record);
            u32::try_from(self.records.len() - 1).unwrap_or(u32::MAX)
        };
        self.by_pair.insert(pair, index);
        self.push(index, tokens);
        index
    }

    /// Adds a place to a record made by [`Pairs::insert`].
    #[inline]
    pub(super) fn add_place(&mut self, record: u32, place: u32) {
        self.records[record as usize].places.push(place);
    }

    /// `by` occurrences of `pair` are gone. Below the threshold it is forgotten.
    #[inline]
    pub(super) fn lower(&mut self, pair: Pair, by: u64) {
        if let Some(&index) = self.by_pair.get(&pair) {
            let record = &mut self.records[index as usize];
            record.count = record.count.saturating_sub(by);
            if record.count < self.threshold {
                self.forget(index);
            }
        }
    }

    /// `by` more occurrences of a pair that is here already, at `places`.
    pub(super) fn raise(&mut self, pair: Pair, by: u64, mut places: Vec<u32>, tokens: &Tokens) {
        let Some(&index) = self.by_pair.get(&pair) else { return };
        let record = &mut self.records[index as usize];
        record.count += by;
        record.entries += 1;
        match self.tie_break {
            TieBreak::Lexicographic => {
                record.places.append(&mut places);
                record.places.sort_unstable();
                record.places.dedup();
            }
            TieBreak::HuggingFace => self.further.entry(index).or_default().push(places),
        }
        self.push(index, tokens);
    }

    /// The pair that comes first, taken out; None when no pair reaches the threshold.
    pub(super) fn pop(&mut self, tokens: &Tokens) -> Option<Best> {
        loop {
            let entry = *self.heap.first()?;
            let record = &mut self.records[entry.record as usize];
            if record.count == 0 {
                record.entries -= 1;
                if record.entries == 0 {
                    self.free.push(entry.record);
                }
                self.remove_top(tokens);
            } else if record.count == entry.count {
                return Some(self.take_top(tokens));
            } else {
                self.heap[0].count = record.count;
                self.sink(0, tokens);
            }
        }
    }

    fn take_top(&mut self, tokens: &Tokens) -> Best {
        let index = self.heap[0].record;
        self.remove_top(tokens);
        let record = &mut self.records[index as usize];
        record.entries -= 1;
        let (pair, count) = (record.pair, record.count);
        let places = std::mem::take(&mut record.places);
        let partial = if let Some(further) = self.further.get_mut(&index) {
            record.places = further.remove(0);
            if further.is_empty() {
                self.further.remove(&index);
            }
            true
        } else {
            self.forget(index);
            false
        };
        Best { pair, count, places, partial }
    }

    /// A record leaves; its place is free once the heap has no entry of it.
    fn forget(&mut self, index: u32) {
        let record = &mut self.records[index as usize];
        record.count = 0;
        record.places = Vec::new();
        self.by_pair.remove(&record.pair);
        if record.entries == 0 {
            self.free.push(index);
        }
        if !self.further.is_empty() {
            self.further.remove(&index);
        }
    }

    fn push(&mut self, index: u32, tokens: &Tokens) {
        let Record { pair, count, .. } = self.records[index as usize];
        let key = match self.tie_break {
            TieBreak::Lexicographic => {
                let (left, mut prefix) = (tokens.get(pair.0), [0; 8]);
                let len = left.len().min(8);
                prefix[..len].copy_from_slice(&left[..len]);
                u64::from_be_bytes(prefix)
            }
            TieBreak::HuggingFace => !(u64::from(pair.0) << 32 | u64::from(pair.1)),
        };
        self.heap.push(Entry { count, key, record: index });
        let mut child = self.heap.len() - 1;
        while child > 0 {
            let parent = (child - 1) / 4;
            if self.order(child, parent, tokens) != Ordering::Greater {
                return;
            }
            self.heap.swap(child, parent);
            child = parent;
        }
    }

    fn remove_top(&mut self, tokens: &Tokens) {
        self.heap.swap_remove(0);
        if !self.heap.is_empty() {
            self.sink(0, tokens);
        }
    }

    fn sink(&mut self, mut parent: usize, tokens: &Tokens) {
        loop {
            let first = parent * 4 + 1;
            let children = first..self.heap.len().min(first + 4);
            let Some(best) = children.reduce(|best, child| {
                if self.order(child, best, tokens) == Ordering::Greater { child } else { best }
            }) else {
                return;
            };
            if self.order(best, parent, tokens) != Ordering::Greater {
                return;
            }
            self.heap.swap(best, parent);
            parent = best;
        }
    }

    /// Both rules: the more frequent, then by key, then (`lexicographic` alone) by all the bytes.
    fn order(&self, one: usize, other: usize, tokens: &Tokens) -> Ordering {
        let (one, other) = (&self.heap[one], &self.heap[other]);
        one.count.cmp(&other.count).then(one.key.cmp(&other.key)).then_with(|| {
            let bytes = |entry: &Entry| {
                let (left, right) = self.records[entry.record as usize].pair;
                (tokens.get(left), tokens.get(right))
            };
            match self.tie_break {
                TieBreak::Lexicographic => bytes(one).cmp(&bytes(other)),
                TieBreak::HuggingFace => Ordering::Equal,
            }
        })
    }
}
