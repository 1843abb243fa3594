//! The words → all pairs at or above a threshold, counted and located from nothing: at the start,
//! and again where the threshold has to come down.

use rayon::ThreadPool;
use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use super::words::{Cell, Pair, Words};
use crate::error::Result;
use crate::memory::filled;
use crate::progress::Progress;

/// A pair that was found: its count, and its places, rising.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) pair: Pair,
    pub(super) count: u64,
    pub(super) places: Vec<u32>,
}

/// How often, and at how many places.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    count: u64,
    places: u32,
}

/// Which pairs are asked for, each with a number of its own.
enum Numbering {
    /// Two symbols of a byte each.
    Bytes,
    /// These.
    Listed(FxHashMap<Pair, usize>),
}

impl Numbering {
    #[inline]
    fn of(&self, left: u32, right: u32) -> Option<usize> {
        match self {
            Self::Bytes => Some((left << 8 | right) as usize),
            Self::Listed(numbers) => numbers.get(&(left, right)).copied(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Bytes => 1 << 16,
            Self::Listed(numbers) => numbers.len(),
        }
    }

    /// The pairs by their numbers.
    fn pairs(&self) -> Vec<Pair> {
        match self {
            Self::Bytes => (0..1 << 16).map(|number| (number >> 8, number & 0xff)).collect(),
            Self::Listed(numbers) => {
                let mut pairs = vec![(0, 0); numbers.len()];
                for (&pair, &number) in numbers {
                    pairs[number] = pair;
                }
                pairs
            }
        }
    }
}

/// All pairs of a text whose every symbol is one byte. `threshold` is told the highest count.
pub(super) fn byte_pairs<C: Cell>(
    words: &Words<C>,
    lens: &[u32],
    threads: &ThreadPool,
    progress: &Progress,
    threshold: impl FnOnce(u64) -> u64,
) -> Result<(u64, Vec<Found>)> {
    census(words, lens, threads, progress, &Numbering::Bytes, threshold)
}

/// All pairs of at least `threshold`, which is told the highest count.
pub(super) fn all_pairs<C: Cell>(
    words: &Words<C>,
    lens: &[u32],
    threads: &ThreadPool,
    progress: &Progress,
    threshold: impl FnOnce(u64) -> u64,
) -> Result<(u64, Vec<Found>)> {
    let mut counts: FxHashMap<Pair, u64> = FxHashMap::default();
    words.for_each_pair(0, words.len(), lens, progress, |_, left, right, weight| {
        *counts.entry((left, right)).or_default() += weight;
    })?;
    let threshold = threshold(counts.values().copied().max().unwrap_or(0));
    let kept = counts.into_iter().filter(|&(_, count)| count >= threshold).map(|(pair, _)| pair);
    Ok((threshold, listed_pairs(words, lens, threads, progress, kept)?))
}

/// These pairs, also those that occur nowhere.
pub(super) fn listed_pairs<C: Cell>(
    words: &Words<C>,
    lens: &[u32],
    threads: &ThreadPool,
    progress: &Progress,
    pairs: impl IntoIterator<Item = Pair>,
) -> Result<Vec<Found>> {
    let pairs: FxHashSet<Pair> = pairs.into_iter().collect();
    let numbers = Numbering::Listed(pairs.into_iter().zip(0..).collect());
    Ok(census(words, lens, threads, progress, &numbers, |_| 0)?.1)
}

fn census<C: Cell>(
    words: &Words<C>,
    lens: &[u32],
    threads: &ThreadPool,
    progress: &Progress,
    numbers: &Numbering,
    threshold: impl FnOnce(u64) -> u64,
) -> Result<(u64, Vec<Found>)> {
    let stretches = words.stretches(threads.current_num_threads());
    let tallies: Result<Vec<Vec<Tally>>> = threads.install(|| {
        stretches
            .par_iter()
            .map(|&(from, to)| {
                let mut tallies = vec![Tally::default(); numbers.len()];
                words.for_each_pair(from, to, lens, progress, |_, left, right, weight| {
                    if let Some(number) = numbers.of(left, right) {
                        tallies[number].count += weight;
                        tallies[number].places += 1;
                    }
                })?;
                Ok(tallies)
            })
            .collect()
    });
    let tallies = tallies?;
    let count_of = |number: usize| tallies.iter().map(|tallies| tallies[number].count).sum::<u64>();
    let highest = (0..numbers.len()).map(count_of).max().unwrap_or(0);
    let threshold = threshold(highest);
    let mut found = Vec::new();
    // One window a stretch and pair: the part of the pair's places that lie in the stretch.
    let mut places: Vec<Vec<u32>> = Vec::with_capacity(numbers.len());
    for number in 0..numbers.len() {
        let count = count_of(number);
        let number_of_places = tallies.iter().map(|tallies| tallies[number].places as usize).sum();
        places.push(if count >= threshold { filled(number_of_places, 0)? } else { Vec::new() });
    }
    let mut windows: Vec<Vec<&mut [u32]>> =
        stretches.iter().map(|_| Vec::with_capacity(numbers.len())).collect();
    for (number, places) in places.iter_mut().enumerate() {
        let mut rest = &mut places[..];
        for (tallies, windows) in tallies.iter().zip(&mut windows) {
            let (own, others) = rest.split_at_mut(rest.len().min(tallies[number].places as usize));
            windows.push(own);
            rest = others;
        }
    }
    threads.install(|| {
        stretches.par_iter().zip(&mut windows).try_for_each(|(&(from, to), windows)| {
            words.for_each_pair(from, to, lens, progress, |place, left, right, _| {
                let Some(number) = numbers.of(left, right) else { return };
                if let Some((next, rest)) = std::mem::take(&mut windows[number]).split_first_mut() {
                    *next = place;
                    windows[number] = rest;
                }
            })
        })
    })?;
    for (number, (pair, places)) in numbers.pairs().into_iter().zip(places).enumerate() {
        let count = count_of(number);
        if count >= threshold {
            found.push(Found { pair, count, places });
        }
    }
    Ok((threshold, found))
}
