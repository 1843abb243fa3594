//! Kernels that make keys and hashes of pretokens, and compare a key to the two of a line: AVX-512 or
//! AVX2 with AES, chosen at run time, and words of eight bytes, which run anywhere. Their hashes may
//! differ, so a table is filled and read by one of them.
//!
//! Most pretokens are found at once, so what counts is the number of instructions. With words of
//! eight bytes a pretoken took about seventy from its bounds to its ids; a vector holds a key, and two
//! rounds of AES are a hash in two instructions: together half as many, and encoding English
//! 17 % faster, code 20 %. AVX-512, four keys at a time, took another 6 % off English on a Zen 4.
#![expect(unsafe_code, reason = "vector instructions that were detected at run time")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::key::{COMPARED, Key, Shape, Tail};
use super::{COUNT_SHIFT, Gap, NOWHERE, SHORT, ShortLine};
use crate::memory::prefetch_at;
#[cfg(target_arch = "x86_64")]
use crate::processor::{has_avx2, has_avx512};

/// The lines of a table as a kernel sees them.
#[derive(Clone, Copy)]
pub(super) struct Lines<'l> {
    pub(super) all: &'l [ShortLine],
}

/// A place of a line is told in bytes, which saves a shift where it is used.
pub(super) const LINE: usize = size_of::<ShortLine>();

impl<'l> Lines<'l> {
    /// The line at a place.
    #[inline]
    fn at(self, place: u32) -> &'l ShortLine {
        &self.all[place as usize / LINE]
    }

    /// The place of the line for a hash, which is asked for.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few instructions where it is used")]
    #[expect(clippy::cast_possible_truncation, reason = "no table is larger than 4 GB")]
    fn ask(self, hash: u32) -> u32 {
        // As a share of 2^32 of all lines, and 64 bytes to a line.
        let place = ((u64::from(hash) * self.all.len() as u64) >> (32 - LINE.trailing_zeros()))
            as u32
            & !(LINE as u32 - 1);
        self.prefetch(place);
        place
    }

    #[inline]
    fn prefetch(self, place: u32) {
        prefetch_at(self.all.as_ptr().cast::<u8>().wrapping_add(place as usize));
    }
}

/// The instructions a cache uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kernel(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    /// The fastest that this processor can run.
    pub(super) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() && is_x86_feature_detected!("aes") {
            return Self(if has_avx512() { Kind::Avx512 } else { Kind::Avx2 });
        }
        Self::PORTABLE
    }

    /// The one that every processor runs.
    pub(super) const PORTABLE: Self = Self(Kind::Portable);

    /// Writes the keys of `text[start..end]` and of all that follow up to the other `ends`, and the
    /// places of their lines, which are asked for.
    #[inline]
    pub(super) fn ask(
        self,
        text: &[u8],
        tail: &Tail,
        start: usize,
        ends: &[usize],
        lines: Lines<'_>,
        asked: (&mut [Key], &mut [u32]),
    ) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as below.
            Kind::Avx512 => unsafe { avx512::ask(text, tail, start, ends, lines, asked) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only `best` makes this kernel, and only where these features were detected.
            Kind::Avx2 => unsafe { avx2::ask(text, tail, start, ends, lines, asked) },
            Kind::Portable => portable::ask(text, tail, start, ends, lines, asked),
        }
    }

    /// Writes the ids of what was asked for to `out`, and to `gaps` what is not known; returns how
    /// many of both there are. Of `out`, more is written than counts.
    ///
    /// # Safety
    ///
    /// The places are those of `lines`.
    #[inline]
    pub(super) unsafe fn emit(
        self,
        (keys, places): (&[Key], &[u32]),
        lines: Lines<'_>,
        out: &mut [u32],
        gaps: &mut [Gap],
    ) -> (usize, usize) {
        debug_assert!(places.iter().all(|&place| (place as usize) < lines.all.len() * LINE));
        assert!(out.len() >= 4 * keys.len() && gaps.len() >= keys.len(), "room for all");
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as below.
            Kind::Avx512 => unsafe { avx512::emit(keys, places, lines, out, gaps) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as for `ask`; the rest is asked of the caller.
            Kind::Avx2 => unsafe { avx2::emit(keys, places, lines, out, gaps) },
            Kind::Portable => portable::emit(keys, places, lines, out, gaps),
        }
    }
}

mod portable {
    use super::{COMPARED, COUNT_SHIFT, Gap, Key, Lines, SHORT, Shape, Tail};

    fn words(bytes: [u8; 16]) -> [u64; 2] {
        let (words, _) = bytes.as_chunks::<8>();
        [u64::from_le_bytes(words[0]), u64::from_le_bytes(words[1])]
    }

    #[inline]
    fn ask_one(sixteen: &[u8; 16], len: usize, lines: Lines<'_>, key: &mut Key) -> u32 {
        let shape = Shape::of(len);
        let ([low, high], [low_mask, high_mask]) = (words(*sixteen), words(shape.bytes));
        let (low, high) = (low & low_mask, high & high_mask | words(shape.last)[1]);
        key.0[..8].copy_from_slice(&low.to_le_bytes());
        key.0[8..].copy_from_slice(&high.to_le_bytes());
        let mixed = (low ^ high.rotate_left(25)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        lines.ask((mixed >> 32) as u32)
    }

    pub(super) fn ask(
        text: &[u8],
        tail: &Tail,
        mut start: usize,
        ends: &[usize],
        lines: Lines<'_>,
        (keys, places): (&mut [Key], &mut [u32]),
    ) {
        for ((&end, key), place) in ends.iter().zip(keys).zip(places) {
            *place = ask_one(tail.sixteen(text, start), end - start, lines, key);
            start = end;
        }
    }

    pub(super) fn emit(
        keys: &[Key],
        places: &[u32],
        lines: Lines<'_>,
        out: &mut [u32],
        gaps: &mut [Gap],
    ) -> (usize, usize) {
        let (mut written, mut missed) = (0, 0);
        for (number, (key, &place)) in keys.iter().zip(places).enumerate() {
            let line = lines.at(place);
            let [low, high] = words(key.0);
            let differs = |entry: usize| {
                let [of_low, of_high] = words(line.keys[entry].0);
                let count = u64::from(!COMPARED) << 56;
                (of_low ^ low) | (of_high ^ high) & !count
            };
            // Which of the two it is cannot be foretold, so neither may be a branch.
            let entry = usize::from(differs(0) != 0);
            if differs(entry) != 0 {
                gaps[missed] = Gap::new(number, written);
                missed += 1;
                continue;
            }
            out[written..written + 4].copy_from_slice(&line.ids[entry]);
            written += usize::from(line.keys[entry].0[SHORT] >> COUNT_SHIFT);
        }
        (written, missed)
    }
}
