//! Text → pretokens: the pieces within which bytes may merge.
//!
//! A [`Scheme`] is a splitting rule. Its pretokens cover the text without gaps, so a pretoken is
//! told by its end alone. A text is one stretch between special tokens: its end counts as the end
//! of everything for look-ahead.
//!
//! The known schemes have scanners by hand ([`gpt2`], [`gpt4`]), which ask the kernels of
//! [`window`] what 64 bytes at a time are; any other regular expression goes through a library
//! ([`pattern`]). Each scanner by hand is two: one by windows, and one by character for what the
//! windows leave (pretokens longer than one, and rare marks and digits). Tests hold both against
//! the regular expression.

mod classes;
mod gpt2;
mod gpt4;
mod pattern;
mod spellings;
mod window;

use crate::error::Result;
use crate::seams::Seams;
use classes::Classes;
use gpt2::Gpt2;
use gpt4::Gpt4;
pub use pattern::Pattern;
use pattern::Walk;
pub(crate) use spellings::O200K;
use spellings::{CL100K, GPT2, LLAMA3, QWEN2};
pub use window::Kernel;
use window::Place;

/// A rule that splits text into pretokens.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// GPT-2's, which is also that of `r50k_base` and `p50k_base`.
    Gpt2,
    /// tiktoken's `cl100k_base`, as tiktoken 0.14 has it: whitespace at the end of a text is one
    /// pretoken, line breaks or not.
    Cl100k,
    /// `cl100k_base` as first published, which parts whitespace at the end after a line break. It is
    /// Llama 3's too.
    Cl100kFirst,
    /// The same with each digit apart: that of Qwen 2, 2.5 and 3.
    Qwen2,
    /// tiktoken's `o200k_base`.
    O200k,
    /// Any other regular expression.
    Regex(Pattern),
}

impl Scheme {
    /// `gpt2`, `cl100k`, `o200k`, `llama3`, `qwen2`, or a regular expression, which gets a scanner by
    /// hand where it is known to mean the same as one.
    pub fn new(name_or_regex: &str) -> Result<Self> {
        Ok(match name_or_regex {
            "gpt2" => Self::Gpt2,
            "cl100k" => Self::Cl100k,
            "o200k" => Self::O200k,
            "llama3" => Self::Cl100kFirst,
            "qwen2" => Self::Qwen2,
            regex => match spellings::known(regex) {
                Some(scheme) => scheme,
                None => Self::Regex(Pattern::new(regex)?),
            },
        })
    }

    /// The name, or the regular expression where files record that: what [`Scheme::new`] takes.
    pub fn name(&self) -> &str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::O200k => "o200k",
            Self::Cl100kFirst | Self::Qwen2 | Self::Regex(_) => self.regex(),
        }
    }

    /// The regular expression that says the same, for files of other tools.
    pub fn regex(&self) -> &str {
        match self {
            Self::Gpt2 => GPT2,
            Self::Cl100k => CL100K,
            Self::Cl100kFirst => LLAMA3,
            Self::Qwen2 => QWEN2,
            Self::O200k => O200K,
            Self::Regex(pattern) => pattern.as_str(),
        }
    }

    /// Whether it has a scanner by hand; a library's is some hundred times slower.
    pub fn is_by_hand(&self) -> bool {
        !matches!(self, Self::Regex(_))
    }

    /// A scanner over `text`, from its start.
    pub fn scanner<'s, 't>(&'s self, text: &'t str) -> Scanner<'s, 't> {
        let rule = match self {
            Self::Gpt2 => Rule::Gpt2(Gpt2::new()),
            Self::Cl100k => Rule::Gpt4(Gpt4::cl100k()),
            Self::Cl100kFirst => Rule::Gpt4(Gpt4::cl100k_first()),
            Self::Qwen2 => Rule::Gpt4(Gpt4::qwen2()),
            Self::O200k => Rule::Gpt4(Gpt4::o200k()),
            Self::Regex(pattern) => Rule::Regex(pattern, Walk::default()),
        };
        Scanner { rule, kernel: Kernel::best(), seams: None, text, place: Place::default() }
    }

    /// Whether the boundary between these two neighbouring characters splits any text into two that
    /// can be pretokenized on their own: no pretoken spans it and none sees across it. It asks
    /// nothing else of the text, so that two readers of neighbouring slices find the same point.
    /// Always false for a [`Scheme::Regex`], of which nothing is known.
    pub fn is_cut(&self, before: char, after: char) -> bool {
        let class = |character| Classes::get().of(u32::from(character));
        let (left, right) = (class(before), class(after));
        match self {
            Self::Gpt2 => Gpt2::is_cut(left, right, before == '\''),
            Self::Cl100k | Self::Cl100kFirst => Gpt4::cl100k().is_cut(left, right, after),
            Self::Qwen2 => Gpt4::qwen2().is_cut(left, right, after),
            Self::O200k => Gpt4::o200k().is_cut(left, right, after),
            Self::Regex(_) => false,
        }
    }
}

/// Walks a text from pretoken to pretoken.
#[derive(Debug)]
pub struct Scanner<'s, 't> {
    rule: Rule<'s>,
    kernel: Kernel,
    seams: Option<&'s Seams>,
    text: &'t str,
    place: Place,
}

#[derive(Debug)]
enum Rule<'s> {
    Gpt2(Gpt2),
    Gpt4(Gpt4),
    Regex(&'s Pattern, Walk),
}

impl<'s> Scanner<'s, '_> {
    /// The same with the instructions of `kernel`: to compare kernels, which all find the same.
    #[must_use]
    pub fn with_kernel(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
    }

    /// The same, but pretokens are parted at those of `seams` that lie between two characters beyond
    /// ASCII: their parts take their place.
    pub(crate) fn parted(self, seams: Option<&'s Seams>) -> Self {
        Self { seams, ..self }
    }

    /// Writes the ends (byte offsets in the text) of the next pretokens to `ends` and returns how
    /// many; fewer than `ends.len()` only when the text is used up.
    pub fn fill(&mut self, ends: &mut [usize]) -> Result<usize> {
        self.fill_some(ends, ends.len())
    }

    /// As [`Scanner::fill`], but pauses once there are `enough`. To have room for 64 more saves work:
    /// the scanner then pauses between two windows.
    pub fn fill_some(&mut self, ends: &mut [usize], enough: usize) -> Result<usize> {
        let enough = enough.min(ends.len());
        let (text, seams, place) = (self.text.as_bytes(), self.seams, &mut self.place);
        match &mut self.rule {
            Rule::Gpt2(rule) => Ok(self.kernel.fill(rule, seams, text, place, ends, enough)),
            Rule::Gpt4(rule) => Ok(self.kernel.fill(rule, seams, text, place, ends, enough)),
            Rule::Regex(pattern, walk) => {
                let mut count = 0;
                while count < enough && place.at < text.len() {
                    ends[count] = if let Some(end) = place.pass_rest(text, seams) {
                        end
                    } else {
                        let end = walk.next_end(pattern, self.text, place.at)?;
                        place.pass(text, end, seams)
                    };
                    count += 1;
                }
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;
    use crate::seams;
    use crate::vocabulary::Vocabulary;

    const PIECES: [&str; 16] = [
        "a", " ", "1", "'s", "!", "\n", "é", "世", "世", "界", "，", "\u{3000}", "９", "が", "한",
        "🦀",
    ];

    fn ends(mut scanner: Scanner<'_, '_>, room: usize) -> BTreeSet<usize> {
        let (mut all, mut ends) = (BTreeSet::new(), vec![0; room]);
        loop {
            let count = scanner.fill(&mut ends).unwrap();
            assert!(ends[..count].iter().all(|&end| all.insert(end)), "no end comes twice");
            if count < room {
                return all;
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_scanner_that_parts_finds_all_ends_and_every_plain_seam_but_no_other_place(
            pieces in prop::collection::vec((select(&PIECES[..]), prop_oneof![9 => 1..3_usize, 1 => 3..40_usize]), 0..60),
            tokens in prop::collection::vec((any::<Index>(), 2..7_usize), 0..6),
        ) {
            let text: String = pieces.iter().map(|(piece, times)| piece.repeat(*times)).collect();
            let bytes = (0..=255_u8).map(|byte| vec![byte]);
            let tokens: BTreeSet<Vec<u8>> = tokens
                .iter()
                .filter(|_| !text.is_empty())
                .map(|(at, len)| text.as_bytes()[at.index(text.len())..].iter().take(*len))
                .map(|token| token.copied().collect())
                .filter(|token: &Vec<u8>| token.len() > 1)
                .collect();
            let vocabulary = Vocabulary::from_ranks((0..).zip(bytes.chain(tokens.clone()))).unwrap();
            let seams = Seams::new(&vocabulary);
            let spans = |at: usize| tokens.iter().any(|token| {
                (1..token.len()).any(|before| {
                    at >= before && text.as_bytes()[at - before..].starts_with(token)
                })
            });
            let holds = |pair: &[u8]| tokens.iter().any(|token| token.windows(2).any(|two| two == pair));
            for name in ["gpt2", "cl100k", "o200k", "(?s).+", "\\w+|[^\\w\\s]"] {
                let scheme = Scheme::new(name).unwrap();
                let plain = ends(scheme.scanner(&text), 256);
                for (kernel, room) in [Kernel::best(), Kernel::PORTABLE].into_iter().zip([256, 3]) {
                    let scanner = scheme.scanner(&text).with_kernel(kernel).parted(Some(&seams));
                    let parted = ends(scanner, room);
                    prop_assert!(parted.is_superset(&plain), "{name}");
                    for &at in parted.difference(&plain) {
                        prop_assert!(text.is_char_boundary(at) && !spans(at), "{name} at {at}");
                    }
                    for at in (1..text.len()).filter(|at| !parted.contains(at)) {
                        let two = &text.as_bytes()[at - 1..=at];
                        let may_be_seam = two[0] >= 0x80 && two[1] >= seams::WIDE;
                        prop_assert!(!may_be_seam || holds(two), "{name} at {at}");
                    }
                }
            }
        }
    }
}
