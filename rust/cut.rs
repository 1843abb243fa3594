//! Where text may be cut so that both parts can be encoded on their own: a position in bytes.
//!
//! Two kinds of cut are exact. *Breaks*: a boundary of two characters that [`Scheme::is_cut`]
//! allows and that no special token spans. *Special cuts*: right before or after a special token
//! that is certainly taken as one. Each asks only for [`CutRule::context`] bytes on both sides, so
//! two readers of neighbouring slices find the same point without talking to each other. Text here
//! is bytes, since a reader cuts before it decodes; a cut never stands beside a byte that is not
//! part of a valid character.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use crate::error::{Error, Result};
use crate::normalize::Normalizer;
use crate::pretokenize::Scheme;

/// The cuts of one scheme and one set of special tokens.
#[derive(Debug, Clone)]
pub struct CutRule {
    scheme: Scheme,
    /// What is done to the text before the scheme splits it.
    normalizer: Option<Normalizer>,
    /// Finds overlapping occurrences; none where there are no special tokens.
    specials: Option<AhoCorasick>,
    longest: usize,
}

impl CutRule {
    /// The rule for text split by `scheme` around `specials`.
    pub fn new<S: AsRef<[u8]>>(
        scheme: Scheme,
        specials: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let specials: Vec<S> = specials.into_iter().collect();
        let longest = specials.iter().map(|token| token.as_ref().len()).max().unwrap_or(0);
        let automaton = if specials.is_empty() {
            None
        } else {
            let built = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&specials);
            Some(built.map_err(|error| Error::Usage(format!("special tokens: {error}")))?)
        };
        Ok(Self { scheme, normalizer: None, specials: automaton, longest })
    }

    /// The same for text that is normalized before it is split.
    #[must_use]
    pub fn normalized(self, normalizer: Option<Normalizer>) -> Self {
        Self { normalizer, ..self }
    }

    /// How many bytes on each side of a position decide whether it is a cut, at most. Where text
    /// ends sooner, it must be the end of the text, or a cut.
    pub fn context(&self) -> usize {
        (2 * self.longest).max(4)
    }

    /// The first cut at a position in `positions` of `window`: a break, and where there is none, a
    /// special cut.
    pub fn first(&self, window: &[u8], positions: Range<usize>) -> Option<usize> {
        self.first_break(window, positions.clone())
            .or_else(|| self.special_cuts(window, positions).min())
    }

    /// The last cut at a position in `positions` of `window`: a break, and where there is none, a
    /// special cut.
    pub fn last(&self, window: &[u8], positions: Range<usize>) -> Option<usize> {
        positions
            .clone()
            .rev()
            .find(|&at| self.is_break(window, at))
            .or_else(|| self.special_cuts(window, positions).max())
    }

    /// The first break at a position in `positions` of `window`.
    pub fn first_break(&self, window: &[u8], mut positions: Range<usize>) -> Option<usize> {
        positions.find(|&at| self.is_break(window, at))
    }

    fn is_break(&self, window: &[u8], at: usize) -> bool {
        let Some(after) = char_at(window, at) else { return false };
        let Some(before) = char_before(window, at) else { return false };
        self.scheme.is_cut(before, after)
            && self.normalizer.is_none_or(|normalizer| normalizer.is_cut(before, after))
            && !self.is_spanned(window, at)
    }

    /// Positions before and after the special tokens that are certainly taken as such: none spans
    /// their start, and they are the longest there.
    fn special_cuts(&self, window: &[u8], positions: Range<usize>) -> impl Iterator<Item = usize> {
        let first = positions.start.saturating_sub(self.longest);
        let end = window.len().min(positions.end + self.longest);
        self.specials
            .iter()
            .flat_map(move |specials| specials.find_overlapping_iter(&window[first..end]))
            .map(move |found| first + found.start()..first + found.end())
            .filter(|found| !self.is_spanned(window, found.start))
            .filter(|found| self.longest_at(window, found.start) == found.end)
            .flat_map(|found| [found.start, found.end])
            .filter(move |at| positions.contains(at))
    }

    /// Whether a special token, chosen or not, starts before `at` and ends after it.
    fn is_spanned(&self, window: &[u8], at: usize) -> bool {
        let Some(specials) = &self.specials else { return false };
        let first = (at + 1).saturating_sub(self.longest);
        let end = window.len().min(at + self.longest - 1);
        specials
            .find_overlapping_iter(&window[first..end.max(first)])
            .any(|found| first + found.start() < at && at < first + found.end())
    }

    fn longest_at(&self, window: &[u8], start: usize) -> usize {
        let end = window.len().min(start + self.longest);
        self.specials
            .iter()
            .flat_map(|specials| specials.find_overlapping_iter(&window[start..end]))
            .filter(|found| found.start() == 0)
            .map(|found| start + found.end())
            .max()
            .unwrap_or(start)
    }
}

/// The character that starts at `at`, if a whole valid one does.
fn char_at(text: &[u8], at: usize) -> Option<char> {
    let first = *text.get(at)?;
    let width = match first {
        0..=0x7f => return Some(char::from(first)),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    std::str::from_utf8(text.get(at..at + width)?).ok()?.chars().next()
}

/// The character that ends at `at`, if a whole valid one does.
fn char_before(text: &[u8], at: usize) -> Option<char> {
    let last = *text.get(at.checked_sub(1)?)?;
    if last.is_ascii() {
        return Some(char::from(last));
    }
    (2..=at.min(4))
        .find(|width| text[at - width] & 0xc0 != 0x80)
        .and_then(|width| std::str::from_utf8(&text[at - width..at]).ok()?.chars().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, specials: &[&str]) -> CutRule {
        CutRule::new(Scheme::new(pattern).unwrap(), specials).unwrap()
    }

    fn all(rule: &CutRule, text: &str) -> Vec<usize> {
        (0..=text.len()).filter(|&at| rule.first(text.as_bytes(), at..at + 1).is_some()).collect()
    }

    #[test]
    fn breaks_stand_before_whitespace() {
        assert_eq!(all(&rule("gpt2", &[]), "a b  c\u{3000}d"), [1, 3, 6]);
    }

    #[test]
    fn no_break_inside_a_special_token() {
        assert_eq!(all(&rule("gpt2", &["x y"]), "a x y b"), [1, 2, 5]);
    }

    #[test]
    fn special_cuts_serve_any_pattern() {
        let rule = rule(r"\w+|\W+", &["<|e|>"]);
        assert_eq!(all(&rule, "ab<|e|>cd"), [2, 7]);
        assert_eq!(rule.last(b"ab<|e|>cd", 0..7), Some(2));
    }

    #[test]
    fn a_special_token_that_may_not_be_taken_gives_no_cut() {
        let rule = rule(".", &["ab", "bc", "abcd"]);
        assert_eq!(all(&rule, "abc"), [0, 2]);
        assert_eq!(all(&rule, "xabcdx"), [1, 5]);
    }

    #[test]
    fn no_cut_beside_invalid_bytes() {
        assert_eq!(rule("gpt2", &[]).first(b"\xe2\x82 x", 0..4), None);
        assert_eq!(rule("gpt2", &[]).first(b"\xe2\x82\xac x", 0..4), Some(3));
    }
}
