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
//! change what merges on the other, so the ids are the same. Asked is only in front of characters of
//! three bytes or more: words of others are short and worth being remembered whole.

use crate::vocabulary::{MergeRule, Vocabulary};

/// The first byte of a character of three bytes or more.
const WIDE: u8 = 0xe0;

/// Whether two characters of three bytes stand side by side in `text`, so that dividing it is worth
/// while: single dashes and quotes of that size are common in English.
#[inline]
pub(crate) fn any_run(text: &[u8]) -> bool {
    let pairs = text.iter().zip(text.get(3..).unwrap_or_default());
    // The largest of them is found sixteen at a time; a loop that asks each could stop at any.
    pairs.fold(0, |largest, (one, other)| largest.max(*one.min(other))) >= WIDE
}

/// Whether a character of three bytes or more begins with one of the first two bytes.
#[inline]
pub(crate) fn begins_wide(pretoken: &[u8]) -> bool {
    pretoken.iter().take(2).any(|&byte| byte >= WIDE)
}

/// What the tokens of a vocabulary hold around places where a wide character begins.
#[derive(Debug)]
pub(crate) struct Seams {
    /// Whether some token holds these two bytes.
    pairs: Set,
    /// Whether these two bytes are a token.
    tokens: Set,
    /// Whether some token holds these three bytes, the last of which begins a character.
    before: Set,
    /// Whether some token holds these three bytes, the second of which begins a character.
    after: Set,
}

impl Seams {
    /// What the tokens that merging in `vocabulary` can produce hold.
    pub(crate) fn new(vocabulary: &Vocabulary) -> Self {
        let mut seams =
            Self { pairs: Set::new(), tokens: Set::new(), before: Set::new(), after: Set::new() };
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
            self.pairs.add(pair(x, y));
            if token.len() == 2 {
                self.tokens.add(pair(x, y));
            }
            if at > 1 {
                self.before.add(triple(token[at - 2], x, y));
            }
            if at + 1 < token.len() {
                self.after.add(triple(x, y, token[at + 1]));
            }
        }
    }

    /// The first seam in `pretoken` from `at` on, which must be at least 1; its end where there is
    /// none.
    #[inline]
    pub(crate) fn next(&self, pretoken: &[u8], mut at: usize) -> usize {
        while at < pretoken.len() {
            if pretoken[at] >= WIDE && self.is_seam(pretoken, at) {
                return at;
            }
            at += 1;
        }
        pretoken.len()
    }

    #[inline]
    fn is_seam(&self, pretoken: &[u8], at: usize) -> bool {
        let (x, y) = (pretoken[at - 1], pretoken[at]);
        if !self.pairs.has(pair(x, y)) {
            return true;
        }
        if self.tokens.has(pair(x, y)) {
            return false;
        }
        let before = at > 1 && self.before.has(triple(pretoken[at - 2], x, y));
        let after = at + 1 < pretoken.len() && self.after.has(triple(x, y, pretoken[at + 1]));
        !before && !after
    }
}

/// Two bytes as a number.
#[inline]
fn pair(x: u8, y: u8) -> u16 {
    u16::from_be_bytes([x, y])
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
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            at = seams.next(text.as_bytes(), at + 1);
            found.push(at);
        }
        found
    }

    #[test]
    fn without_tokens_every_wide_character_begins_at_a_seam() {
        assert_eq!(all(&vocabulary(&[]), "世界 é界"), [3, 9, 12]);
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
