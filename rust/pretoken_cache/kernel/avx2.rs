//! Vectors of 256 bits: a pretoken at a time, and the two keys of a line.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_aesenc_si128, _mm_and_si128, _mm_cvtsi128_si32, _mm_load_si128,
    _mm_loadu_si128, _mm_or_si128, _mm_set_epi64x, _mm_store_si128, _mm_storeu_si128,
    _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_castsi256_pd, _mm256_cmpeq_epi64,
    _mm256_load_si256, _mm256_movemask_pd, _mm256_shuffle_epi32,
};

use super::{COMPARED, COUNT_SHIFT, Gap, Key, LINE, Lines, SHORT, Shape, Tail};

/// What is mixed into a hash, the lower half first.
pub(super) const SALT: [i64; 2] = [0x517c_c1b7_2722_0a95, 0x6c62_272e_07bb_0142];

/// Bits of an entry's key that are compared, the lower half first.
#[expect(clippy::cast_possible_wrap, reason = "bits, no number")]
pub(super) const COMPARED_BITS: [i64; 2] = [-1, ((COMPARED as u64) << 56 | u64::MAX >> 8) as i64];

/// Makes one key and asks for its line.
#[inline]
#[target_feature(enable = "avx2,aes,bmi1")]
#[expect(clippy::cast_sign_loss, reason = "bits, no number")]
pub(super) fn ask_one(sixteen: &[u8; 16], len: usize, lines: Lines<'_>, key: &mut Key) -> u32 {
    let shape = Shape::of(len);
    // SAFETY: each of the four is sixteen bytes long, and the last three are aligned to them.
    let bytes = unsafe {
        let bytes = _mm_loadu_si128(sixteen.as_ptr().cast());
        let belongs = _mm_load_si128(shape.bytes.as_ptr().cast());
        let last = _mm_load_si128(shape.last.as_ptr().cast());
        let bytes = _mm_or_si128(_mm_and_si128(bytes, belongs), last);
        _mm_store_si128(key.0.as_mut_ptr().cast(), bytes);
        bytes
    };
    // After two rounds each bit of the hash depends on every byte.
    let salt = _mm_set_epi64x(SALT[1], SALT[0]);
    let mixed = _mm_aesenc_si128(_mm_aesenc_si128(bytes, salt), salt);
    lines.ask(_mm_cvtsi128_si32(mixed) as u32)
}

#[target_feature(enable = "avx2,aes,bmi1")]
pub(super) fn ask(
    text: &[u8],
    tail: &Tail,
    mut start: usize,
    ends: &[usize],
    lines: Lines<'_>,
    (keys, places): (&mut [Key], &mut [u32]),
) {
    let all = ends.iter().zip(keys).zip(places);
    // Almost all have sixteen bytes to read, and need not ask whether they have.
    let last = text.len().saturating_sub(16);
    if ends.last().is_some_and(|&end| end <= last) {
        for ((&end, key), place) in all {
            debug_assert!(start <= last);
            // SAFETY: ends rise, so `start`, which is less than the last of them, has sixteen
            // bytes of `text` behind it.
            let sixteen = unsafe { &*text.as_ptr().add(start).cast::<[u8; 16]>() };
            *place = ask_one(sixteen, end - start, lines, key);
            start = end;
        }
    } else {
        for ((&end, key), place) in all {
            *place = ask_one(tail.sixteen(text, start), end - start, lines, key);
            start = end;
        }
    }
}

/// # Safety
///
/// As for [`super::Kernel::emit`], which has made sure that there is room for all.
#[target_feature(enable = "avx2,aes,bmi1")]
#[expect(clippy::cast_sign_loss, reason = "bits, no numbers")]
pub(super) unsafe fn emit(
    keys: &[Key],
    places: &[u32],
    lines: Lines<'_>,
    out: &mut [u32],
    gaps: &mut [Gap],
) -> (usize, usize) {
    let compared = _mm256_broadcastsi128_si256(_mm_set_epi64x(COMPARED_BITS[1], COMPARED_BITS[0]));
    let find = |both, asked| {
        let asked = _mm256_broadcastsi128_si256(asked);
        let halves = _mm256_cmpeq_epi64(_mm256_and_si256(both, compared), asked);
        let whole = _mm256_and_si256(halves, _mm256_shuffle_epi32::<0x4e>(halves));
        _mm256_movemask_pd(_mm256_castsi256_pd(whole)) as u32
    };
    // SAFETY: asked of the caller; a bit of the mask is set only for a half of a key that is equal.
    unsafe { emit_found(keys, places, lines, out, gaps, find) }
}

/// Writes the ids of those whose key `find` sees among both of a line: it returns their four halves
/// as bits, of which the lowest that is set tells which of the two it is.
///
/// # Safety
///
/// As for [`super::Kernel::emit`], which has made sure that there is room for all; `find` returns
/// nothing but 0 and numbers whose lowest bit set is the first or the third. The processor has AVX2.
#[inline(always)]
#[expect(clippy::inline_always, reason = "the kernel's instructions are those of its caller")]
#[expect(clippy::cast_ptr_alignment, reason = "half a line is aligned to that")]
pub(super) unsafe fn emit_found(
    keys: &[Key],
    places: &[u32],
    lines: Lines<'_>,
    out: &mut [u32],
    gaps: &mut [Gap],
    find: impl Fn(__m256i, __m128i) -> u32,
) -> (usize, usize) {
    let base = lines.all.as_ptr().cast::<u8>();
    let out = out.as_mut_ptr();
    let (mut written, mut missed) = (0, 0);
    for (number, (key, &place)) in keys.iter().zip(places).enumerate() {
        // SAFETY: the place is that of a line, which is aligned; its keys come first, the ids of
        // both after them, and what is read of these follows from a key that was found. There
        // is room for four ids for each key, and at most four count.
        unsafe {
            let line = base.add(place as usize);
            let asked = _mm_load_si128(key.0.as_ptr().cast());
            let found = find(_mm256_load_si256(line.cast()), asked);
            if found == 0 {
                gaps[missed] = Gap::new(number, written);
                missed += 1;
                continue;
            }
            // Which of the two it is cannot be foretold, so there may be no branch.
            let entry = line.add(found.trailing_zeros() as usize * 8);
            let ids = _mm_load_si128(entry.add(LINE / 2).cast::<__m128i>());
            _mm_storeu_si128(out.add(written).cast(), ids);
            // Nor on how many ids there are: the rest is overwritten by the next.
            written += usize::from(*entry.add(SHORT) >> COUNT_SHIFT);
        }
    }
    (written, missed)
}
