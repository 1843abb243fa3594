//! Vectors of 512 bits: the keys of four pretokens at a time, with the hashes of the AVX2 kernel.
//!
//! Where AVX2 takes some twenty instructions to a key, four of them together take forty: what belongs to
//! a pretoken is a comparison of all four lengths, and both rounds of AES mix four keys.

use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm_set_epi64x, _mm_storeu_si128, _mm256_alignr_epi64,
    _mm256_and_si256, _mm256_broadcast_i64x2, _mm256_castsi128_si256, _mm256_cmpeq_epi64_mask,
    _mm256_cvtepi64_epi32, _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_min_epu64,
    _mm256_mul_epu32, _mm256_set1_epi64x, _mm256_srli_epi64, _mm256_sub_epi64,
    _mm512_aesenc_epi128, _mm512_broadcast_i32x4, _mm512_castsi256_si512, _mm512_castsi512_si256,
    _mm512_cmplt_epu8_mask, _mm512_inserti64x4, _mm512_loadu_si512, _mm512_mask_shuffle_epi8,
    _mm512_maskz_mov_epi8, _mm512_permutexvar_epi8, _mm512_permutexvar_epi64, _mm512_set_epi64,
    _mm512_storeu_si512,
};

use super::avx2::{self, COMPARED_BITS, SALT, emit_found};
use super::{Gap, Key, LINE, Lines, NOWHERE, SHORT, Tail};

/// How many at a time.
const FOUR: usize = 4;

/// Sixteen bytes, four times.
const fn four_times(sixteen: [u8; 16]) -> [u8; 64] {
    let mut all = [0; 64];
    let mut at = 0;
    while at < 64 {
        all[at] = sixteen[at % 16];
        at += 1;
    }
    all
}

const SIXTEEN: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The number of each byte in its sixteen.
const RISING: [u8; 64] = four_times(SIXTEEN);

/// The last byte of a key by length; what is too long counts as zero here.
const LASTS: [u8; 64] = {
    let mut lasts = SIXTEEN;
    lasts[0] = NOWHERE;
    four_times(lasts)
};

/// Where the length of a byte's pretoken stands, among words of eight.
const SPREAD: [u8; 64] = {
    let mut all = [0; 64];
    let mut at = 16;
    while at < 64 {
        all[at] = all[at - 16] + 8;
        at += 1;
    }
    all
};

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes, and the load asks for no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Four times sixteen bytes of `text`.
///
/// # Safety
///
/// Each of `starts` has sixteen bytes of `text` behind it.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
unsafe fn gather(text: &[u8], starts: [usize; FOUR]) -> __m512i {
    // SAFETY: asked of the caller.
    let [a, b, c, d] =
        starts.map(|start| unsafe { _mm_loadu_si128(text.as_ptr().add(start).cast()) });
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

#[target_feature(enable = "avx2,bmi1,bmi2,aes,avx512f,avx512bw,avx512vl,avx512vbmi,vaes")]
#[expect(clippy::cast_possible_wrap, reason = "bits, no numbers")]
pub(super) fn ask(
    text: &[u8],
    tail: &Tail,
    mut start: usize,
    ends: &[usize],
    lines: Lines<'_>,
    (keys, places): (&mut [Key], &mut [u32]),
) {
    // Almost all have sixteen bytes to read. A text's last ones go one by one.
    let last = text.len().saturating_sub(16);
    let has_room = ends.last().is_some_and(|&end| end <= last);
    let done = if has_room { ends.len() / FOUR * FOUR } else { 0 };
    let (fours, rest) = ends.split_at(done);
    let (keys, rest_of_keys) = keys.split_at_mut(done);
    let (places, rest_of_places) = places.split_at_mut(done);

    let (rising, lasts, spread) = (load(&RISING), load(&LASTS), load(&SPREAD));
    let salt = _mm512_broadcast_i32x4(_mm_set_epi64x(SALT[1], SALT[0]));
    let low_words = _mm512_set_epi64(0, 0, 0, 0, 6, 4, 2, 0);
    let count = _mm256_set1_epi64x(lines.all.len() as i64);
    let mut ends_before = _mm256_set1_epi64x(start as i64);
    let fours = fours.as_chunks::<FOUR>().0.iter();
    let fours = fours.zip(keys.as_chunks_mut::<FOUR>().0).zip(places.as_chunks_mut::<FOUR>().0);
    for ((ends, keys), places) in fours {
        let starts = [start, ends[0], ends[1], ends[2]];
        start = ends[FOUR - 1];
        debug_assert!(starts.iter().all(|&start| start <= last));
        // SAFETY: ends rise, so all starts, which are less than the last of all ends, have sixteen
        // bytes of `text` behind them; and four ends are 32 bytes.
        let (bytes, ends) =
            unsafe { (gather(text, starts), _mm256_loadu_si256(ends.as_ptr().cast())) };
        let lengths = _mm256_sub_epi64(ends, _mm256_alignr_epi64::<3>(ends, ends_before));
        ends_before = ends;
        // What is too long counts as zero.
        let lengths = _mm256_min_epu64(lengths, _mm256_set1_epi64x(SHORT as i64 + 1));
        let lengths = _mm256_and_si256(lengths, _mm256_set1_epi64x(SHORT as i64));
        let lengths = _mm512_permutexvar_epi8(spread, _mm512_castsi256_si512(lengths));
        let belongs = _mm512_cmplt_epu8_mask(rising, lengths);
        let bytes = _mm512_maskz_mov_epi8(belongs, bytes);
        let bytes = _mm512_mask_shuffle_epi8(bytes, 0x8000_8000_8000_8000, lasts, lengths);
        let mixed = _mm512_aesenc_epi128(_mm512_aesenc_epi128(bytes, salt), salt);
        let hashes = _mm512_castsi512_si256(_mm512_permutexvar_epi64(low_words, mixed));
        // As `Lines::ask` has it.
        let shares = _mm256_mul_epu32(hashes, count);
        let found = _mm256_srli_epi64::<{ 32 - LINE.trailing_zeros() as i32 }>(shares);
        let found = _mm256_and_si256(found, _mm256_set1_epi64x(!(LINE as i64 - 1)));
        // SAFETY: four keys are 64 bytes and four places sixteen, and no store asks for alignment.
        unsafe {
            _mm512_storeu_si512(keys.as_mut_ptr().cast(), bytes);
            _mm_storeu_si128(places.as_mut_ptr().cast(), _mm256_cvtepi64_epi32(found));
        }
        for &place in &*places {
            lines.prefetch(place);
        }
    }
    avx2::ask(text, tail, start, rest, lines, (rest_of_keys, rest_of_places));
}

/// # Safety
///
/// As for [`super::Kernel::emit`], which has made sure that there is room for all.
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512vl,avx512dq")]
pub(super) unsafe fn emit(
    keys: &[Key],
    places: &[u32],
    lines: Lines<'_>,
    out: &mut [u32],
    gaps: &mut [Gap],
) -> (usize, usize) {
    let compared = _mm256_broadcast_i64x2(_mm_set_epi64x(COMPARED_BITS[1], COMPARED_BITS[0]));
    let find = |both, asked| {
        let both = _mm256_and_si256(both, compared);
        let halves = u32::from(_mm256_cmpeq_epi64_mask(both, _mm256_broadcast_i64x2(asked)));
        halves & halves >> 1 & 0b101
    };
    // SAFETY: asked of the caller; bits of the mask are set only for the lower half of an equal key.
    unsafe { emit_found(keys, places, lines, out, gaps, find) }
}
