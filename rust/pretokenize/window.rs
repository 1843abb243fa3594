//! 64 bytes at a time: which of them are what, as the bits of a `u64`; bit i is byte i.
//!
//! A scanner lays a window at a pretoken's start, asks for masks of its bytes, finds with shifts
//! and carries every start of a pretoken that is certain within it, and lays the next window at the
//! last of these. A window is thus a text of its own and nothing is carried from one to the next:
//! what that costs, the bytes of the last pretoken looked at twice, buys all the traps at block
//! edges. A pretoken longer than a window is left to [`Rule::next_end`], which walks by character.
//!
//! [`Window`] is the only thing that knows the processor. The kernels: AVX2, chosen at run time,
//! and words of eight bytes, which run anywhere. One of AVX-512 was tried on a Sapphire Rapids: 0.83
//! instead of 0.66 ms a megabyte, for what waits is the next window for the last bit of this one. On
//! a Zen 4 it was as fast as AVX2, with positions written by compression too.

#![expect(unsafe_code, reason = "vector instructions that were detected at run time")]

use super::classes::{CASELESS, Classes, LOWER, MARK, NUMBER, SPACE, UPPER, utf8_length};
#[cfg(target_arch = "x86_64")]
use crate::processor::has_avx2;
use crate::seams::{self, Seams};

/// Bytes in a window.
pub(super) const WIDTH: usize = 64;

/// 64 bytes that can be asked where they are what.
pub(super) trait Window: Copy {
    /// Looks at these bytes.
    fn new(bytes: &[u8; WIDTH]) -> Self;
    /// Where a byte is this one, below 0x80.
    fn is(self, byte: u8) -> u64;
    /// Where a byte is one of these, both ends included and below 0x80.
    fn within(self, first: u8, last: u8) -> u64;
    /// Where a byte is one of these, both ends included and from 0x80 on.
    fn within_high(self, first: u8, last: u8) -> u64;
    /// Where a byte is an ASCII letter.
    fn letters(self) -> u64;
    /// Where a byte is part of a character beyond ASCII.
    fn non_ascii(self) -> u64;
}

/// A splitting rule: what it makes of a window, and of a single pretoken.
pub(super) trait Rule {
    /// The ends of pretokens in a window that begins with a pretoken, bit by bit: what is set is
    /// certain, and all before the last one set are there. The window is filled up with spaces after
    /// `len`; `len` < 64 tells that the text ends there, which is then an end too (bit `len`).
    fn ends<W: Window>(&self, bytes: &[u8; WIDTH], len: usize) -> u64;

    /// The end of the pretoken that starts at `at`, found character by character.
    fn next_end(&self, text: &[u8], at: usize) -> usize;
}

/// The instructions a scanner uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Kernel {
    /// The fastest that this processor can run.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if has_avx2() {
            return Self(Kind::Avx2);
        }
        Self::PORTABLE
    }

    /// The one that every processor runs.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// Writes the ends of the pretokens from `place` on to `ends`, as many as fit or until there are
    /// `enough`, moves `place` behind the last of them, and returns how many there are.
    pub(super) fn fill<R: Rule>(
        self,
        rule: &R,
        seams: Option<&Seams>,
        text: &[u8],
        place: &mut Place,
        ends: &mut [usize],
        enough: usize,
    ) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: only `best` makes this kernel, and only where these features were detected.
            Kind::Avx2 => unsafe { fill_avx2(rule, seams, text, place, ends, enough) },
            Kind::Portable => fill::<Portable, R>(rule, seams, text, place, ends, enough),
        }
    }
}

/// Where a scanner is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    /// Where the next pretoken, or part of one, starts.
    pub(super) at: usize,
    /// The end of the pretoken that lies open there; else not beyond `at`.
    open: usize,
}

impl Place {
    /// Moves to the end of the pretoken that starts here and ends at `end`, or, where there are
    /// `seams`, of its first part.
    #[inline]
    pub(super) fn pass(&mut self, text: &[u8], end: usize, seams: Option<&Seams>) -> usize {
        self.open = end;
        self.at = seams.map_or(end, |seams| self.at + seams.next(&text[self.at..end]));
        self.at
    }

    /// The end of what is left of an open pretoken, or of the next part of it.
    #[inline]
    pub(super) fn pass_rest(&mut self, text: &[u8], seams: Option<&Seams>) -> Option<usize> {
        (self.at < self.open).then(|| self.pass(text, self.open, seams))
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn fill_avx2<R: Rule>(
    rule: &R,
    seams: Option<&Seams>,
    text: &[u8],
    place: &mut Place,
    ends: &mut [usize],
    enough: usize,
) -> usize {
    fill::<Avx2, R>(rule, seams, text, place, ends, enough)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "the kernel's instructions are those of its caller")]
fn fill<W: Window, R: Rule>(
    rule: &R,
    seams: Option<&Seams>,
    text: &[u8],
    place: &mut Place,
    ends: &mut [usize],
    enough: usize,
) -> usize {
    let mut count = 0;
    while place.at < text.len() && count < enough {
        if let Some(end) = place.pass_rest(text, seams) {
            ends[count] = end;
            count += 1;
            continue;
        }
        let at = place.at;
        let rest = &text[at..];
        let (whole, found) = if let Some(window) = rest.first_chunk::<WIDTH>() {
            ends_and_seams::<W, R>(rule, seams, window, WIDTH)
        } else {
            let mut window = [b' '; WIDTH];
            window[..rest.len()].copy_from_slice(rest);
            ends_and_seams::<W, R>(rule, seams, &window, rest.len())
        };
        if found == 0 {
            ends[count] = place.pass(text, rule.next_end(text, at), seams);
            count += 1;
        } else {
            let written = write_positions(found, at, &mut ends[count..]);
            count += written;
            // Where the next window lies is what the processor waits for: the last bit tells it
            // sooner than the last position, which is written after all others.
            place.at = if written == found.count_ones() as usize {
                at + WIDTH - 1 - found.leading_zeros() as usize
            } else {
                let last = ends[count - 1];
                // Which may be that of a part: what is left of its pretoken cannot be scanned alone.
                place.open = at + (whole & !lowest(last - at)).trailing_zeros() as usize;
                last
            };
        }
    }
    count
}

/// The ends of pretokens in a window, and these with the seams before the last of them.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the kernel's instructions are those of its caller")]
fn ends_and_seams<W: Window, R: Rule>(
    rule: &R,
    seams: Option<&Seams>,
    bytes: &[u8; WIDTH],
    len: usize,
) -> (u64, u64) {
    let ends = rule.ends::<W>(bytes, len);
    let Some(seams) = seams else { return (ends, ends) };
    let window = W::new(bytes);
    let non_ascii = window.non_ascii();
    if non_ascii == 0 || ends == 0 {
        return (ends, ends);
    }
    let inside = lowest(WIDTH - 1 - ends.leading_zeros() as usize) & !ends;
    let firsts = window.within_high(seams::WIDE, 0xff) & non_ascii << 1 & inside;
    (ends, ends | seams.among(bytes, firsts))
}

/// Writes `base` + the position of each bit, as many as fit, and returns how many were written.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the kernel's instructions are those of its caller")]
fn write_positions(mut bits: u64, base: usize, out: &mut [usize]) -> usize {
    let count = bits.count_ones() as usize;
    let mut position = || {
        let position = base + bits.trailing_zeros() as usize;
        bits &= bits.wrapping_sub(1);
        position
    };
    // Sixteen without a question, then eight by eight: a loop that ends after as many rounds as
    // there are bits is mispredicted once a window. English has thirteen.
    let Some(room) = out.get_mut(..count.next_multiple_of(8).max(16)) else {
        let fitting = count.min(out.len());
        out[..fitting].fill_with(position);
        return fitting;
    };
    let (first, more) = room.split_at_mut(16);
    first.fill_with(&mut position);
    for eight in more.chunks_exact_mut(8) {
        eight.fill_with(&mut position);
    }
    count
}

/// The lowest `count` bits; all of them from 64 on.
#[inline(always)]
#[expect(clippy::inline_always, reason = "one instruction where it is used")]
pub(super) fn lowest(count: usize) -> u64 {
    if count >= WIDTH { !0 } else { (1 << count) - 1 }
}

/// The bit at `position`; none from 64 on.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a few instructions where it is used")]
pub(super) fn bit(position: usize) -> u64 {
    if position < WIDTH { 1 << position } else { 0 }
}

/// What a window holds beyond ASCII, by the first bytes of the characters.
#[derive(Default)]
pub(super) struct Wide {
    /// Where a byte continues a character.
    pub(super) continuation: u64,
    /// Where the first character begins that reaches beyond the window; else the text's length in it.
    pub(super) known: usize,
    pub(super) upper: u64,
    pub(super) lower: u64,
    pub(super) caseless: u64,
    pub(super) marks: u64,
    pub(super) numbers: u64,
    pub(super) spaces: u64,
}

impl Wide {
    /// Looks at the characters that begin or continue where `non_ascii` says.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the kernel's instructions are those of its caller")]
    pub(super) fn new<W: Window>(
        window: W,
        classes: &Classes,
        bytes: &[u8; WIDTH],
        len: usize,
        non_ascii: u64,
    ) -> Self {
        let continuation = window.within_high(0x80, 0xbf);
        let mut firsts = non_ascii & !continuation;
        let mut wide = Self { continuation, known: len, ..Self::default() };
        let last = WIDTH - 1 - firsts.leading_zeros() as usize;
        if last + utf8_length(bytes[last]) > WIDTH {
            wide.known = last;
            firsts &= lowest(last);
        }
        // U+4000..U+9FFF but for the hexagrams at U+4DC0, and U+B000..U+CFFF: Chinese and Korean,
        // letters without case all of them.
        let hexagrams = window.within_high(0xb7, 0xb7) >> 1;
        let known_letters = window.within_high(0xe4, 0xe4) & !hexagrams
            | window.within_high(0xe5, 0xe9)
            | window.within_high(0xeb, 0xec);
        wide.caseless = firsts & known_letters;
        firsts &= !known_letters;
        // U+3001..U+3003, U+3008..U+3020, U+FF01..U+FF0F and U+FF1A..U+FF20, of no class: the
        // punctuation of Chinese and Japanese.
        let narrow = window.within_high(0xe3, 0xe3) & window.within_high(0x80, 0x80) >> 1;
        let full = window.within_high(0xef, 0xef) & window.within_high(0xbc, 0xbc) >> 1;
        let punctuation = narrow
            & (window.within_high(0x81, 0x83) | window.within_high(0x88, 0xa0)) >> 2
            | full & (window.within_high(0x81, 0x8f) | window.within_high(0x9a, 0xa0)) >> 2;
        firsts &= !punctuation;
        while firsts != 0 {
            let at = firsts.trailing_zeros() as usize;
            firsts &= firsts - 1;
            let class = u64::from(classes.at_in(bytes, at));
            let when = |shift: u32| (class >> shift & 1) << at;
            wide.upper |= when(UPPER.trailing_zeros());
            wide.lower |= when(LOWER.trailing_zeros());
            wide.caseless |= when(CASELESS.trailing_zeros());
            wide.marks |= when(MARK.trailing_zeros());
            wide.numbers |= when(NUMBER.trailing_zeros());
            wide.spaces |= when(SPACE.trailing_zeros());
        }
        wide
    }

    /// All bytes of the characters with these first ones.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few instructions where it is used")]
    pub(super) fn whole(&self, firsts: u64) -> u64 {
        let two = firsts | firsts << 1 & self.continuation;
        let three = two | two << 1 & self.continuation;
        three | three << 1 & self.continuation
    }
}

/// Moves the bits that stand on the last byte of a character to its first. `continuation` are the
/// bytes of characters that are not their first.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a few instructions where it is used")]
pub(super) fn first_bytes(mut last: u64, continuation: u64) -> u64 {
    // A character has at most three bytes that continue it.
    for _ in 0..3 {
        last = (last & !continuation) | (last & continuation) >> 1;
    }
    last
}

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Avx2([std::arch::x86_64::__m256i; 2]);

#[cfg(target_arch = "x86_64")]
#[expect(clippy::inline_always, reason = "the instructions are those of `fill_avx2`")]
#[expect(clippy::cast_possible_wrap, clippy::cast_sign_loss, reason = "bytes and bits, no numbers")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
        _mm256_or_si256, _mm256_set1_epi8, _mm256_sub_epi8,
    };

    use super::{Avx2, WIDTH, Window};

    impl Window for Avx2 {
        #[inline(always)]
        fn new(bytes: &[u8; WIDTH]) -> Self {
            let (low, high) = bytes.split_at(WIDTH / 2);
            // SAFETY: both halves are 32 bytes long and the load asks for no alignment; the code is
            // reached through `fill_avx2` alone, so the processor has AVX2.
            unsafe {
                Self([
                    _mm256_loadu_si256(low.as_ptr().cast()),
                    _mm256_loadu_si256(high.as_ptr().cast()),
                ])
            }
        }

        // No closures over the halves: one is compiled without AVX2 and its instructions are calls.
        #[inline(always)]
        fn is(self, byte: u8) -> u64 {
            let Self([low, high]) = self;
            // SAFETY: reached through `fill_avx2` alone, so the processor has AVX2.
            unsafe {
                let byte = _mm256_set1_epi8(byte as i8);
                bits(_mm256_cmpeq_epi8(low, byte), _mm256_cmpeq_epi8(high, byte))
            }
        }

        #[inline(always)]
        fn within(self, first: u8, last: u8) -> u64 {
            let Self([low, high]) = self;
            bits(within(low, first, last), within(high, first, last))
        }

        #[inline(always)]
        fn within_high(self, first: u8, last: u8) -> u64 {
            self.within(first, last)
        }

        #[inline(always)]
        fn letters(self) -> u64 {
            let Self([low, high]) = self;
            // SAFETY: reached through `fill_avx2` alone, so the processor has AVX2.
            unsafe {
                let case = _mm256_set1_epi8(0x20);
                Self([_mm256_or_si256(low, case), _mm256_or_si256(high, case)]).within(b'a', b'z')
            }
        }

        #[inline(always)]
        fn non_ascii(self) -> u64 {
            let Self([low, high]) = self;
            bits(low, high)
        }
    }

    #[inline(always)]
    fn within(half: __m256i, first: u8, last: u8) -> __m256i {
        // SAFETY: reached through `fill_avx2` alone, so the processor has AVX2.
        unsafe {
            let above = _mm256_sub_epi8(half, _mm256_set1_epi8(first as i8));
            let capped = _mm256_min_epu8(above, _mm256_set1_epi8((last - first) as i8));
            _mm256_cmpeq_epi8(capped, above)
        }
    }

    /// The highest bit of each byte.
    #[inline(always)]
    fn bits(low: __m256i, high: __m256i) -> u64 {
        // SAFETY: reached through `fill_avx2` alone, so the processor has AVX2.
        let [low, high] =
            unsafe { [_mm256_movemask_epi8(low) as u32, _mm256_movemask_epi8(high) as u32] };
        u64::from(high) << 32 | u64::from(low)
    }
}

/// Eight words of eight bytes.
#[derive(Clone, Copy)]
struct Portable([u64; 8]);

/// This byte in each of eight.
const fn repeat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

impl Portable {
    /// Where the highest bit of a byte is set in what `highest` makes of a word.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a dozen instructions in a loop of eight")]
    fn bits(self, highest: impl Fn(u64) -> u64) -> u64 {
        self.0.iter().rev().fold(0, |bits, &word| {
            // The product brings the bit of byte i to bit 56 + i, and no two to the same place.
            let gathered =
                ((highest(word) & repeat(0x80)) >> 7).wrapping_mul(0x0102_0408_1020_4080);
            bits << 8 | gathered >> 56
        })
    }
}

impl Window for Portable {
    #[inline]
    fn new(bytes: &[u8; WIDTH]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        Self(std::array::from_fn(|index| u64::from_le_bytes(words[index])))
    }

    #[inline]
    fn is(self, byte: u8) -> u64 {
        self.bits(|word| {
            let differs = word ^ repeat(byte);
            !(((differs & repeat(0x7f)) + repeat(0x7f)) | differs)
        })
    }

    #[inline]
    fn within(self, first: u8, last: u8) -> u64 {
        self.bits(|word| {
            let ascii = word & repeat(0x7f);
            (ascii + repeat(0x80 - first)) & !(ascii + repeat(0x7f - last)) & !word
        })
    }

    #[inline]
    fn within_high(self, first: u8, last: u8) -> u64 {
        self.bits(|word| {
            let low = word & repeat(0x7f);
            (low + repeat(0x80 - (first & 0x7f))) & !(low + repeat(0x7f - (last & 0x7f))) & word
        })
    }

    #[inline]
    fn letters(self) -> u64 {
        Self(self.0.map(|word| word | repeat(0x20))).within(b'a', b'z')
    }

    #[inline]
    fn non_ascii(self) -> u64 {
        self.bits(|word| word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<W: Window>(bytes: &[u8; WIDTH]) {
        let window = W::new(bytes);
        let naive = |test: &dyn Fn(u8) -> bool| {
            (0..WIDTH).fold(0, |bits, index| bits | u64::from(test(bytes[index])) << index)
        };
        assert_eq!(window.letters(), naive(&|byte| byte.is_ascii_alphabetic()));
        assert_eq!(window.non_ascii(), naive(&|byte| !byte.is_ascii()));
        for wanted in 0..0x80 {
            assert_eq!(window.is(wanted), naive(&|byte| byte == wanted));
            for last in wanted..0x80 {
                let range = wanted..=last;
                assert_eq!(window.within(wanted, last), naive(&|byte| range.contains(&byte)));
                let range = wanted + 0x80..=last + 0x80;
                let found = window.within_high(wanted + 0x80, last + 0x80);
                assert_eq!(found, naive(&|byte| range.contains(&byte)));
            }
        }
    }

    #[test]
    fn every_kernel_finds_every_byte_and_range_at_every_place() {
        for start in 0..=255u8 {
            let bytes = std::array::from_fn(|index| {
                start.wrapping_add(u8::try_from(index).unwrap().wrapping_mul(37))
            });
            check::<Portable>(&bytes);
            #[cfg(target_arch = "x86_64")]
            if Kernel::best() != Kernel::PORTABLE {
                #[target_feature(enable = "avx2")]
                fn check_avx2(bytes: &[u8; WIDTH]) {
                    check::<Avx2>(bytes);
                }
                // SAFETY: `best` chose AVX2, so it was detected.
                unsafe { check_avx2(&bytes) };
            }
        }
    }
}
