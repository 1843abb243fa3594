//! Code point → the few classes the splitting rules ask for.
//!
//! Two levels: the last six bits of a code point, which are the last byte of its UTF-8 form, choose
//! within a leaf; the rest chooses the leaf. Equal leaves are one, so the letters of Chinese share
//! one cache line. The tables are filled on first use, in a fraction of a millisecond, from those of
//! the `regex-syntax` crate: Unicode 16.0, the version every pattern of `fancy-regex` sees too.
//! Generated source would save that and could disagree with the regex crates after an update.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// A set of classes, a bit each. A character has at most one; none is punctuation and the like.
pub(super) type Class = u8;
/// `\p{Lu}` and `\p{Lt}`.
pub(super) const UPPER: Class = 1;
/// `\p{Ll}`.
pub(super) const LOWER: Class = 2;
/// `\p{Lm}` and `\p{Lo}`.
pub(super) const CASELESS: Class = 4;
/// `\p{L}`.
pub(super) const LETTER: Class = UPPER | LOWER | CASELESS;
/// `\p{M}`.
pub(super) const MARK: Class = 8;
/// `\p{N}`.
pub(super) const NUMBER: Class = 16;
/// `\s`.
pub(super) const SPACE: Class = 32;

const PROPERTIES: [(&str, Class); 6] = [
    (r"[\p{Lu}\p{Lt}]", UPPER),
    (r"\p{Ll}", LOWER),
    (r"[\p{Lm}\p{Lo}]", CASELESS),
    (r"\p{M}", MARK),
    (r"\p{N}", NUMBER),
    (r"\s", SPACE),
];

const LEAF: usize = 64;

/// The tables.
#[derive(Debug)]
pub(super) struct Classes {
    leaf_of: Vec<u16>,
    leaves: Vec<[Class; LEAF]>,
}

impl Classes {
    /// The one instance.
    pub(super) fn get() -> &'static Self {
        static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::build);
        &CLASSES
    }

    /// The class of a code point.
    #[inline]
    pub(super) fn of(&self, code_point: u32) -> Class {
        let code_point = code_point as usize;
        self.leaves[usize::from(self.leaf_of[code_point / LEAF])][code_point % LEAF]
    }

    /// The class and the length in bytes of the character at `at`, which must lie on a boundary of
    /// valid UTF-8.
    #[inline]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (Class, usize) {
        let first = text[at];
        if first < 0x80 {
            return (self.leaves[usize::from(first >> 6)][usize::from(first) % LEAF], 1);
        }
        let rest = |index: usize| u32::from(text[at + index] & 0x3f);
        let first = u32::from(first);
        match first {
            ..0xe0 => (self.of((first & 0x1f) << 6 | rest(1)), 2),
            0xe0..0xf0 => (self.of((first & 0x0f) << 12 | rest(1) << 6 | rest(2)), 3),
            _ => (self.of((first & 7) << 18 | rest(1) << 12 | rest(2) << 6 | rest(3)), 4),
        }
    }

    /// The class of the character beyond ASCII at `at` in a window that holds all of it.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "called for every character of most languages")]
    pub(super) fn at_in(&self, bytes: &[u8; 64], at: usize) -> Class {
        // The remainders change nothing; they tell the compiler what it need not check.
        let byte = |index: usize| u32::from(bytes[(at + index) % 64]);
        let rest = |index: usize| byte(index) & 0x3f;
        self.of(match bytes[at % 64] {
            ..0xe0 => (byte(0) & 0x1f) << 6 | rest(1),
            0xe0..0xf0 => (byte(0) & 0x0f) << 12 | rest(1) << 6 | rest(2),
            _ => (byte(0) & 7) << 18 | rest(1) << 12 | rest(2) << 6 | rest(3),
        })
    }

    /// The end of the run of characters of the given classes that starts at `at`.
    #[inline]
    pub(super) fn run(&self, text: &[u8], mut at: usize, within: Class) -> usize {
        while at < text.len() {
            let (class, length) = self.at(text, at);
            if class & within == 0 {
                break;
            }
            at += length;
        }
        at
    }

    /// The end of the run of characters of none of the given classes that starts at `at`.
    #[inline]
    pub(super) fn run_without(&self, text: &[u8], mut at: usize, without: Class) -> usize {
        while at < text.len() {
            let (class, length) = self.at(text, at);
            if class & without != 0 {
                break;
            }
            at += length;
        }
        at
    }

    fn build() -> Self {
        let mut runs: Vec<(usize, usize, Class)> = Vec::new();
        for (property, class) in PROPERTIES {
            runs.extend(ranges(property).into_iter().map(|(first, last)| (first, last, class)));
        }
        runs.sort_unstable();
        let mut known: HashMap<[Class; LEAF], u16> = HashMap::new();
        let (mut leaf_of, mut leaves) = (Vec::new(), Vec::new());
        let mut next_run = 0;
        for start in (0..=char::MAX as usize).step_by(LEAF) {
            let mut leaf = [0; LEAF];
            while let Some(&(first, last, class)) = runs.get(next_run) {
                if first >= start + LEAF {
                    break;
                }
                leaf[first.max(start) - start..=last.min(start + LEAF - 1) - start].fill(class);
                if last >= start + LEAF {
                    break;
                }
                next_run += 1;
            }
            leaf_of.push(*known.entry(leaf).or_insert_with(|| {
                leaves.push(leaf);
                u16::try_from(leaves.len() - 1).expect("a few hundred leaves")
            }));
        }
        Self { leaf_of, leaves }
    }
}

/// The bytes of the character that begins with this one.
#[inline]
pub(super) fn utf8_length(first: u8) -> usize {
    match first {
        ..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    }
}

/// The code points of a character class of one property, as inclusive ranges.
fn ranges(property: &str) -> Vec<(usize, usize)> {
    let parsed = regex_syntax::parse(property).expect("a property of our own list");
    match parsed.kind() {
        HirKind::Class(HirClass::Unicode(class)) => class
            .ranges()
            .iter()
            .map(|range| (range.start() as usize, range.end() as usize))
            .collect(),
        _ => unreachable!("a class of many characters parses to a class"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_windows_know_without_the_tables_is_what_these_say() {
        for code_point in (0x4000..0x4dc0).chain(0x4e00..0xa000).chain(0xb000..0xd000) {
            assert_eq!(Classes::get().of(code_point), CASELESS, "U+{code_point:04X}");
        }
        let punctuation = [0x3001..=0x3003, 0x3008..=0x3020, 0xff01..=0xff0f, 0xff1a..=0xff20];
        for code_point in punctuation.into_iter().flatten() {
            assert_eq!(Classes::get().of(code_point), 0, "U+{code_point:04X}");
        }
    }

    #[test]
    fn every_code_point_is_of_the_class_that_the_regex_crates_say() {
        for (property, class) in PROPERTIES.into_iter().chain([(r"\p{L}", LETTER)]) {
            let regex = fancy_regex::Regex::new(property).unwrap();
            for character in '\0'..=char::MAX {
                let text = character.to_string();
                let (found, length) = Classes::get().at(text.as_bytes(), 0);
                assert_eq!(found & class != 0, regex.is_match(&text).unwrap(), "{character:?}");
                assert_eq!(length, text.len());
                if class == SPACE {
                    assert_eq!(found & class != 0, character.is_whitespace());
                }
            }
        }
    }
}
