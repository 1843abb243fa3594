//! The regular expressions that mean what a scanner by hand does, in all their known spellings.
//!
//! Libraries write one rule in many ways: with possessive quantifiers for speed, contractions folded
//! or listed, `\s` for `\s+` where only one character can be left. A spelling is a row of parts, each
//! with its forms, so that any mixture is recognised. Tests hold every mixture against its scanner.

use super::Scheme;

/// GPT-2's, as lmkit records it.
pub(super) const GPT2: &str =
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// tiktoken 0.14's `cl100k_base`.
pub(super) const CL100K: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+",
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
);
/// Llama 3's, which is `cl100k_base` as first published.
pub(super) const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// That of Qwen 2, 2.5 and 3.
pub(super) const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// tiktoken's `o200k_base`.
pub(crate) const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Forms of one part; an empty one says that the part may be missing.
type Forms = &'static [&'static str];

/// What ends all patterns: whitespace before text, and what is left of it.
const LAST: [Forms; 2] = [&[r"\s+(?!\S)|"], &[r"\s+", r"\s"]];
/// All whitespace at the text's end.
const WHOLE_END: Forms = &[r"\s++$|", r"\s+$|", ""];
const ANY_CASE: Forms =
    &["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:[sdmt]|ll|ve|re)", "(?i:'(?:[sdmt]|ll|ve|re))"];
/// The same where a question mark follows.
const GROUPED: Forms =
    &["(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:'(?:[sdmt]|ll|ve|re))", "(?:'(?i:[sdmt]|ll|ve|re))"];
const LINE_BREAKS: Forms = &[r"\s*[\r\n]+|", r"\s*[\r\n]|"];
const THREE_DIGITS: Forms = &[r"\p{N}{1,3}|", r"\p{N}{1,3}+|"];
const ONE_DIGIT: Forms = &[r"\p{N}|"];

const GPT2_PARTS: [Forms; 5] = [
    &["'(?:[sdmt]|ll|ve|re)|", "'s|'t|'re|'ve|'m|'ll|'d|"],
    &[r" ?\p{L}+|", r" ?\p{L}++|", r" ?[\p{L}]+|", r" ?[\p{L}]++|"],
    &[r" ?\p{N}+|", r" ?\p{N}++|", r" ?[\p{N}]+|", r" ?[\p{N}]++|"],
    &[r" ?[^\s\p{L}\p{N}]+|", r" ?[^\s\p{L}\p{N}]++|"],
    WHOLE_END,
];
const WORDS: [Forms; 4] = [
    ANY_CASE,
    &["|"],
    &[r"[^\r\n\p{L}\p{N}]?", r"[^\r\n\p{L}\p{N}]?+"],
    &[r"\p{L}+|", r"\p{L}++|"],
];
const PUNCTUATION: [Forms; 2] =
    [&[r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]++"], &[r"[\r\n]*|", r"[\r\n]*+|"]];
const CASED_WORDS: [Forms; 6] = [
    &[r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"],
    GROUPED,
    &["?|"],
    &[r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"],
    GROUPED,
    &["?|"],
];
const SLASHES: [Forms; 2] =
    [&[r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]++"], &[r"[\r\n/]*|", r"[\r\n/]*+|"]];

/// The scheme that `regex` is a known spelling of.
pub(super) fn known(regex: &str) -> Option<Scheme> {
    if take(regex, &GPT2_PARTS).is_some_and(ends) {
        return Some(Scheme::Gpt2);
    }
    if let Some(rest) = take(regex, &CASED_WORDS) {
        let rest = take(take(rest, &[THREE_DIGITS])?, &SLASHES)?;
        return ends(take(rest, &[LINE_BREAKS])?).then_some(Scheme::O200k);
    }
    let rest = take(regex, &WORDS)?;
    let (rest, single) = match take(rest, &[ONE_DIGIT]) {
        Some(rest) => (rest, true),
        None => (take(rest, &[THREE_DIGITS])?, false),
    };
    let rest = take(rest, &PUNCTUATION)?;
    let after = take(rest, &[WHOLE_END])?;
    let whole_end = after.len() < rest.len();
    if !ends(take(after, &[LINE_BREAKS])?) {
        return None;
    }
    match (single, whole_end) {
        (true, false) => Some(Scheme::Qwen2),
        (true, true) => None,
        (false, true) => Some(Scheme::Cl100k),
        (false, false) => Some(Scheme::Cl100kFirst),
    }
}

/// What follows the first form of each part that `regex` begins with, if it has all parts.
fn take<'r>(regex: &'r str, parts: &[Forms]) -> Option<&'r str> {
    parts.iter().try_fold(regex, |rest, forms| {
        let longest = forms.iter().filter(|form| rest.starts_with(**form)).max_by_key(|f| f.len());
        rest.strip_prefix(*longest?)
    })
}

/// Whether `rest` is how all patterns end.
fn ends(rest: &str) -> bool {
    take(rest, &LAST) == Some("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretokenize::Kernel;

    /// Every mixture of forms.
    fn all_spellings() -> Vec<String> {
        let gpt4 = |digits: Forms, whole_end: Forms| {
            [&WORDS[..], &[digits], &PUNCTUATION, &[whole_end, LINE_BREAKS], &LAST].concat()
        };
        let families = [
            [&GPT2_PARTS[..], &LAST].concat(),
            gpt4(THREE_DIGITS, WHOLE_END),
            gpt4(ONE_DIGIT, &[""]),
            [&CASED_WORDS[..], &[THREE_DIGITS], &SLASHES, &[LINE_BREAKS], &LAST].concat(),
        ];
        families.iter().flat_map(|parts| mixtures(parts)).collect()
    }

    fn mixtures(parts: &[Forms]) -> Vec<String> {
        let longer = |begun: Vec<String>, forms: &Forms| {
            let each = |head: &String| forms.iter().map(|form| head.clone() + form).collect();
            begun.iter().flat_map(|head| -> Vec<String> { each(head) }).collect()
        };
        parts.iter().fold(vec![String::new()], longer)
    }

    /// Texts of four pieces each, all that the patterns tell apart side by side.
    fn text(seed: usize) -> String {
        const PIECES: [&str; 26] = [
            "a", "Word", "don't", "'LL", "'\u{17f}", "É", "ʰ", "\u{301}", "中文", "1", "23",
            "4567", "٣½", "!", "/", "。👍", " ", " ", "  ", "\n", "\r\n", "\t", "\u{a0}",
            "\u{3000}", " \n ", "'",
        ];
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            PIECES[(state >> 33) % PIECES.len()]
        };
        (0..160).map(|_| next()).collect()
    }

    #[test]
    fn every_spelling_has_a_scanner_that_finds_what_it_finds() {
        let spellings = all_spellings();
        assert_eq!(spellings.len(), 384 + 1152 + 192 + 288);
        for (seed, spelling) in spellings.iter().enumerate() {
            let scheme = known(spelling).unwrap_or_else(|| panic!("unknown: {spelling}"));
            let (text, regex) = (text(seed), fancy_regex::Regex::new(spelling).unwrap());
            // A text that ends with whitespace of each kind, too.
            for text in [&text[..], &(text.clone() + " \n  "), &(text.clone() + "\n")] {
                let expected: Vec<usize> =
                    regex.find_iter(text).map(|found| found.unwrap().end()).collect();
                let mut found = vec![0; text.len()];
                let mut scanner = scheme.scanner(text).with_kernel(Kernel::best());
                let count = scanner.fill(&mut found).unwrap();
                assert_eq!(found[..count], expected, "{spelling} in {text:?}");
            }
        }
    }

    #[test]
    fn the_recorded_spellings_are_known() {
        for regex in [GPT2, CL100K, LLAMA3, QWEN2, O200K] {
            assert_eq!(known(regex).unwrap().regex(), regex);
        }
    }

    #[test]
    fn what_differs_by_a_character_is_not_known() {
        for regex in [GPT2, CL100K, LLAMA3, QWEN2, O200K] {
            for at in 0..regex.len() {
                let shorter = [&regex[..at], &regex[at + 1..]].concat();
                let means = known(&shorter).map(|scheme| scheme.regex().to_owned());
                assert!(means.is_none_or(|means| means == regex), "{shorter}");
            }
        }
    }
}
