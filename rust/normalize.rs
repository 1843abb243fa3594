//! Text → the same text in Unicode's form C, for tokenizers that were trained on such text.
//!
//! What is in form C already, as nearly all text is, is found out by a look at each character and
//! copied nowhere. Else only the stretches are composed that need it: from the character before one
//! that may change up to the next that cannot (Unicode Standard Annex 15, section 9.1). Ids of text
//! that is not in form C decode to its form C.
//!
//! The form is that of Unicode 9.0, since that is what Hugging Face tokenizers 0.23 has: characters
//! that came later are left as they are, in the order they stand in. By Unicode's promise of stability
//! all others are composed as in any version.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::{canonical_combining_class, decompose_canonical};
use unicode_normalization::{IsNormalized, is_nfc_quick};

use crate::error::Result;
use crate::memory::reserve_text;

/// What is done to text before it is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalizer {
    /// Unicode's normalization form C: letters and their marks are one character where there is one.
    Nfc,
}

impl Normalizer {
    /// The one of this name.
    pub fn new(name: &str) -> Option<Self> {
        (name == "NFC").then_some(Self::Nfc)
    }

    /// Its name, in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nfc => "NFC",
        }
    }

    /// `text`, normalized.
    pub fn apply(self, text: &str) -> Result<Cow<'_, str>> {
        match self {
            Self::Nfc => compose(text),
        }
    }

    /// Whether what stands before and after the boundary between these two characters is normalized
    /// on its own, and both characters stay what they are, whatever stands around them.
    pub fn is_cut(self, before: char, after: char) -> bool {
        let Self::Nfc = self;
        let properties = Properties::get();
        !properties.may_change(before) && !properties.may_change(after) && !properties.joins(after)
    }

    /// Whether `text` stands in the normalized text exactly where it stands in the other.
    pub fn keeps(self, text: &str) -> bool {
        let Self::Nfc = self;
        let properties = Properties::get();
        text.chars().all(|character| {
            !properties.may_change(character)
                && !properties.joins(character)
                && !properties.is_made(character)
        })
    }
}

/// Characters below U+0300 never change, so that is the least first byte, in UTF-8, worth a look.
const FIRST_BYTE: u8 = 0xcc;
/// From here on no character changes, or arises from another.
const END: u32 = 0x3_0000;

/// `text` in form C.
fn compose(text: &str) -> Result<Cow<'_, str>> {
    let Some(mut stretch) = next_stretch(text, 0) else { return Ok(Cow::Borrowed(text)) };
    let mut composed = String::new();
    reserve_text(&mut composed, text.len() + 16)?;
    let mut done = 0;
    loop {
        composed.push_str(&text[done..stretch.0]);
        for character in text[stretch.0..stretch.1].nfc() {
            reserve_text(&mut composed, 4)?;
            composed.push(character);
        }
        done = stretch.1;
        match next_stretch(text, done) {
            Some(next) => stretch = next,
            None => break,
        }
    }
    reserve_text(&mut composed, text.len() - done)?;
    composed.push_str(&text[done..]);
    Ok(Cow::Owned(composed))
}

/// The first stretch from `from` on that has to be composed, as (start, end).
fn next_stretch(text: &str, from: usize) -> Option<(usize, usize)> {
    let properties = Properties::get();
    let bytes = text.as_bytes();
    let mut at = from;
    while at < bytes.len() {
        // U+5000..U+9FFF, by their first bytes, are Chinese and never change either.
        if bytes[at] < FIRST_BYTE || (0xe5..=0xe9).contains(&bytes[at]) {
            at += 1;
            continue;
        }
        let character = text[at..].chars().next()?;
        if properties.may_change(character) {
            // A later character joins nothing, whatever today's tables say.
            let before = text[from..at].chars().next_back().filter(|&c| properties.is_known(c));
            let before = before.map_or(0, char::len_utf8);
            let end = text[at..]
                .char_indices()
                .find(|&(_, next)| !properties.may_change(next))
                .map_or(text.len(), |(offset, _)| at + offset);
            return Some((at - before, end));
        }
        at += character.len_utf8();
    }
    None
}

/// What matters of each character, a bit each.
struct Properties {
    /// It may change, or join the one before: not "Yes" in the quick check of form C, or a mark that
    /// may be reordered.
    changing: Vec<u64>,
    /// It may become another together with what follows.
    joining: Vec<u64>,
    /// It may arise from another.
    made: Vec<u64>,
    /// Unicode 9.0 has it.
    known: Vec<u64>,
}

impl Properties {
    fn get() -> &'static Self {
        static PROPERTIES: LazyLock<Properties> = LazyLock::new(Properties::build);
        &PROPERTIES
    }

    fn may_change(&self, character: char) -> bool {
        has(&self.changing, character)
    }

    fn joins(&self, character: char) -> bool {
        has(&self.joining, character)
    }

    fn is_made(&self, character: char) -> bool {
        has(&self.made, character)
    }

    fn is_known(&self, character: char) -> bool {
        has(&self.known, character)
    }

    fn build() -> Self {
        let none = || vec![0; END as usize / 64];
        let mut properties =
            Self { changing: none(), joining: none(), made: none(), known: none() };
        let add = |set: &mut Vec<u64>, character: char| {
            set[character as usize / 64] |= 1 << (character as u32 % 64);
        };
        for character in known_characters() {
            add(&mut properties.known, character);
            let is_safe = canonical_combining_class(character) == 0
                && is_nfc_quick([character].into_iter()) == IsNormalized::Yes;
            if !is_safe {
                add(&mut properties.changing, character);
            }
            let (mut first, mut parts) = (None, 0);
            decompose_canonical(character, |part| {
                first.get_or_insert(part);
                parts += 1;
                if part != character {
                    add(&mut properties.made, part);
                }
            });
            if let Some(first) = first
                && (parts > 1 || first != character)
            {
                // What has been composed may be composed again.
                add(&mut properties.joining, first);
                add(&mut properties.joining, character);
                add(&mut properties.made, character);
            }
        }
        properties
    }
}

/// The characters of Unicode 9.0 before [`END`].
fn known_characters() -> impl Iterator<Item = char> {
    let parsed = regex_syntax::parse(r"\p{Age=9.0}").expect("an age of our own");
    let HirKind::Class(Class::Unicode(class)) = parsed.into_kind() else {
        unreachable!("a class of many characters parses to a class")
    };
    let ranges: Vec<(char, char)> =
        class.ranges().iter().map(|range| (range.start(), range.end())).collect();
    let all = ranges.into_iter().flat_map(|(first, last)| first..=last);
    all.take_while(|&character| u32::from(character) < END)
}

/// Whether a character is in a set; from [`END`] on none is.
fn has(set: &[u64], character: char) -> bool {
    let point = character as usize;
    set.get(point / 64).is_some_and(|word| word >> (point % 64) & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn from_the_end_on_no_character_changes() {
        for character in (END..=u32::from(char::MAX)).filter_map(char::from_u32) {
            assert_eq!(canonical_combining_class(character), 0, "{character:?}");
            assert_eq!(is_nfc_quick([character].into_iter()), IsNormalized::Yes, "{character:?}");
        }
    }

    #[test]
    fn bytes_that_are_passed_over_begin_characters_that_stay() {
        for point in (0..0x300).chain(0x5000..0xa000) {
            let character = char::from_u32(point).unwrap();
            assert!(!Properties::get().may_change(character), "{character:?}");
        }
    }

    #[test]
    fn text_in_form_c_is_not_copied() {
        for text in ["", "plain", "é世界한글 🦀", "ﬁ"] {
            assert!(matches!(Normalizer::Nfc.apply(text), Ok(Cow::Borrowed(_))), "{text}");
        }
    }

    /// Letters, marks of several classes, jamo, and characters that decompose.
    fn texts() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            prop::sample::select(vec![
                'a',
                'e',
                'A',
                '<',
                '=',
                ';',
                'K',
                ' ',
                '\n',
                '1',
                'é',
                'â',
                '\u{300}',
                '\u{301}',
                '\u{302}',
                '\u{323}',
                '\u{338}',
                '\u{345}',
                '\u{3099}',
                'か',
                '\u{1100}',
                '\u{1161}',
                '\u{11a8}',
                '가',
                '각',
                '\u{212a}',
                '\u{37e}',
                '\u{2126}',
                '\u{fb1d}',
                '\u{f900}',
                '中',
                '\u{1d15e}',
                '\u{1d165}',
                '\u{105d2}',
                '\u{16d67}',
                '\u{7fd}',
                '\u{899}',
                '\u{1df6}',
                '\u{11131}',
                '\u{11127}',
                '\u{9be}',
            ]),
            any::<char>(),
            proptest::char::range('\u{300}', '\u{1fff}'),
        ];
        prop::collection::vec(character, 0..40).prop_map(|all| all.into_iter().collect())
    }

    /// What stands between later characters composed by the library, and these as they are.
    fn composed_between_later_ones(text: &str) -> String {
        let is_later = |c: char| u32::from(c) < END && !Properties::get().is_known(c);
        text.split_inclusive(is_later)
            .flat_map(|part| {
                let (part, later) = match part.char_indices().next_back() {
                    Some((at, last)) if is_later(last) => part.split_at(at),
                    _ => (part, ""),
                };
                part.nfc().chain(later.chars()).collect::<Vec<char>>()
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_composed_equals_the_whole_text_composed(text in texts()) {
            prop_assert_eq!(compose(&text).unwrap(), composed_between_later_ones(&text));
        }

        #[test]
        fn a_cut_changes_nothing(text in texts()) {
            let whole = compose(&text).unwrap();
            let characters: Vec<(usize, char)> = text.char_indices().collect();
            for pair in characters.windows(2) {
                let [(_, before), (at, after)] = *pair else { unreachable!("windows of two") };
                if Normalizer::Nfc.is_cut(before, after) {
                    let (left, right) = text.split_at(at);
                    let (left, right) = (compose(left).unwrap(), compose(right).unwrap());
                    prop_assert!(left.ends_with(before) && right.starts_with(after));
                    prop_assert_eq!(left.into_owned() + &right, whole.clone());
                }
            }
        }

        #[test]
        fn what_is_kept_stands_where_it_stood(
            before in texts(),
            kept in "[ \n中🦀。|]{1,3}",
            after in texts(),
        ) {
            prop_assert!(Normalizer::Nfc.keeps(&kept));
            let text = [&*before, &kept, &after].concat();
            let (before, after) = (compose(&before).unwrap(), compose(&after).unwrap());
            let whole = compose(&text).unwrap();
            prop_assert_eq!(&whole, &[&*before, &kept, &after].concat());
            prop_assert_eq!(whole.matches(&kept).count(), text.matches(&kept).count());
        }
    }

    #[test]
    fn what_may_arise_or_vanish_is_not_kept() {
        for text in ["K", ";", "<", "e", "é", "\u{301}", "\u{1161}", "각"] {
            assert!(!Normalizer::Nfc.keeps(text), "{text}");
        }
    }
}
