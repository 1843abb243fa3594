//! Seams: places within a pretoken that no token can span, so that both sides can be merged, and
//! remembered, on their own.
//!
//! Chinese, Japanese and Thai are written without spaces. Their pretokens are whole clauses, nine in
//! ten of them met only once, so that remembering them helps nothing and each has to be merged. But
//! of all that merging can produce hardly anything holds two such characters side by side: with
//! GPT-2's vocabulary 99 of 100 boundaries between Chinese characters are seams, and what lies
//! between two of them is a single character, known after its first time.
//!
//! Let the bytes around a boundary be `wx|yz`. A token that spans it holds `xy`; if no token that
//! merging can produce does, it is a seam. If some do, but `xy` itself is no token, one that spans
//! it also holds `wxy` or `xyz`; if none does, it is a seam too. Merges on one side of a seam never
//! change what merges on the other, so the ids are the same.
//!
//! Asked is only in front of characters of three bytes or more that follow one beyond ASCII: other
//! words are short and worth being remembered whole, and so are the dashes and quotes of that size
//! that follow ASCII in English.

use crate::vocabulary::{MergeRule, Vocabulary};

/// The first byte of a character of three bytes or more is at least this.
pub(crate) const WIDE: u8 = 0xe0;

/// What two bytes around a boundary tell of it: it is a seam,
const SEAM: u8 = 1;
/// it is one unless their neighbours say otherwise,
const UNSURE: u8 = 2;
/// or it is none.
const NONE: u8 = 0;

/// What the tokens of a vocabulary hold around places where a wide character begins.
#[derive(Debug)]
pub(crate) struct Seams {
    /// What two bytes tell, the second of which begins a character.
    pairs: Box<[u8; 0x20 << 8]>,
    /// Whether some token holds these three bytes, the last of which begins a character.
    before: Set,
    /// Whether some token holds these three bytes, the second of which begins a character.
    after: Set,
}

impl Seams {
    /// What the tokens that merging in `vocabulary` can produce hold.
    pub(crate) fn new(vocabulary: &Vocabulary) -> Self {
        let mut seams =
            Self { pairs: Box::new([SEAM; 0x20 << 8]), before: Set::new(), after: Set::new() };
        match vocabulary.rule() {
            MergeRule::Merges(merges) => {
                for merge in merges {
                    seams.add(vocabulary.token(merge.merged).unwrap_or_default());
                }
            }
            MergeRule::Ranks => vocabulary.iter().for_each(|(_, token)| seams.add(token)),
        }
        seams
    }

    fn add(&mut self, token: &[u8]) {
        for at in (1..token.len()).filter(|&at| token[at] >= WIDE) {
            let (x, y) = (token[at - 1], token[at]);
            let pair = &mut self.pairs[pair(x, y)];
            *pair = if token.len() == 2 || *pair == NONE { NONE } else { UNSURE };
            if at > 1 {
                self.before.add(triple(token[at - 2], x, y));
            }
            if at + 1 < token.len() {
                self.after.add(triple(x, y, token[at + 1]));
            }
        }
    }

    /// The first seam in `pretoken` in front of a wide character that follows one beyond ASCII; its
    /// end where there is none.
    pub(crate) fn next(&self, pretoken: &[u8]) -> usize {
        (1..pretoken.len())
            .find(|&at| {
                pretoken[at] >= WIDE && pretoken[at - 1] >= 0x80 && self.is_seam(pretoken, at)
            })
            .unwrap_or(pretoken.len())
    }

    /// Those of the boundaries in front of `firsts` that are seams: wide characters in a window,
    /// none of them at its very beginning or end.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a few instructions in the loop of windows")]
    pub(crate) fn among(&self, window: &[u8; 64], mut firsts: u64) -> u64 {
        let (mut seams, mut unsure) = (0, 0);
        while firsts != 0 {
            let at = firsts.trailing_zeros() as usize;
            firsts &= firsts - 1;
            // The remainder changes nothing; it tells the compiler what it need not check.
            let told = self.pairs[pair(window[(at - 1) % 64], window[at])];
            seams |= u64::from(told & SEAM) << at;
            unsure |= u64::from(told / UNSURE) << at;
        }
        while unsure != 0 {
            let at = unsure.trailing_zeros() as usize;
            unsure &= unsure - 1;
            seams |= u64::from(self.is_seam(window, at)) << at;
        }
        seams
    }

    fn is_seam(&self, text: &[u8], at: usize) -> bool {
        let (x, y) = (text[at - 1], text[at]);
        match self.pairs[pair(x, y)] {
            SEAM => true,
            NONE => false,
            _ => {
                let before = at > 1 && self.before.has(triple(text[at - 2], x, y));
                let after = at + 1 < text.len() && self.after.has(triple(x, y, text[at + 1]));
                !before && !after
            }
        }
    }
}

/// A place in [`Seams::pairs`].
#[inline]
fn pair(x: u8, y: u8) -> usize {
    usize::from(u16::from_le_bytes([x, y]) & 0x1fff)
}

/// Three bytes as a hash.
#[inline]
fn triple(x: u8, y: u8, z: u8) -> u16 {
    (u32::from_be_bytes([0, x, y, z]).wrapping_mul(0x9e37_79b1) >> 16) as u16
}

/// A set of pairs, or of triples: of these it may seem to have some that were never added, which
/// hides a seam and changes no id. Eight kilobytes, so that it stays close at hand.
#[derive(Debug)]
struct Set(Box<[u64; 1024]>);

impl Set {
    fn new() -> Self {
        Self(Box::new([0; 1024]))
    }

    fn add(&mut self, number: u16) {
        self.0[usize::from(number >> 6)] |= 1 << (number & 63);
    }

    #[inline]
    fn has(&self, number: u16) -> bool {
        self.0[usize::from(number >> 6)] >> (number & 63) & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(more: &[&str]) -> Vocabulary {
        let bytes = (0..=255_u8).map(|byte| vec![byte]);
        let tokens = bytes.chain(more.iter().map(|token| token.as_bytes().to_vec()));
        Vocabulary::from_ranks((0..).zip(tokens)).unwrap()
    }

    fn all(vocabulary: &Vocabulary, text: &str) -> Vec<usize> {
        let seams = Seams::new(vocabulary);
        let (mut found, mut at) = (Vec::new(), 0);
        while at < text.len() {
            at += seams.next(&text.as_bytes()[at..]);
            found.push(at);
        }
        found
    }

    #[test]
    fn without_tokens_every_wide_character_behind_one_beyond_ascii_begins_at_a_seam() {
        assert_eq!(all(&vocabulary(&[]), "世界 世é界"), [3, 12, 15]);
    }

    #[test]
    fn what_a_token_spans_is_no_seam() {
        assert_eq!(all(&vocabulary(&["世界"]), "世界世界"), [6, 12]);
    }

    #[test]
    fn the_same_two_bytes_between_others_are_a_seam() {
        // U+4E16 U+754C is E4 B8 96 | E7 95 8C. U+5E96 U+7E8C is E5 BA 96 | E7 BA 8C.
        assert_eq!(all(&vocabulary(&["世界"]), "庖續"), [3, 6]);
        // With one neighbour alike it is not certain.
        assert_eq!(all(&vocabulary(&["世界"]), "世續"), [6]);
    }
}
