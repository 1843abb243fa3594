//! Text → pretokens: the pieces within which bytes may merge.
//!
//! A [`Scheme`] is a splitting rule. Its pretokens cover the text without gaps, so a pretoken is
//! told by its end alone. A text is one stretch between special tokens: its end counts as the end
//! of everything for look-ahead.

mod pattern;

use crate::error::Result;
pub(crate) use pattern::O200K;
pub use pattern::Pattern;
use pattern::Walk;

/// A rule that splits text into pretokens.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// GPT-2's.
    Gpt2(Pattern),
    /// tiktoken's `cl100k_base`, as tiktoken 0.14 has it.
    Cl100k(Pattern),
    /// tiktoken's `o200k_base`.
    O200k(Pattern),
    /// Any other regular expression.
    Regex(Pattern),
}

impl Scheme {
    /// `gpt2`, `cl100k`, `o200k`, or a regular expression.
    pub fn new(name_or_regex: &str) -> Result<Self> {
        Ok(match name_or_regex {
            "gpt2" => Self::Gpt2(Pattern::new(pattern::GPT2)?),
            "cl100k" => Self::Cl100k(Pattern::new(pattern::CL100K)?),
            "o200k" => Self::O200k(Pattern::new(pattern::O200K)?),
            regex => Self::Regex(Pattern::new(regex)?),
        })
    }

    /// The name, or the regular expression: what [`Scheme::new`] takes and files record.
    pub fn name(&self) -> &str {
        match self {
            Self::Gpt2(_) => "gpt2",
            Self::Cl100k(_) => "cl100k",
            Self::O200k(_) => "o200k",
            Self::Regex(pattern) => pattern.as_str(),
        }
    }

    /// A scanner over `text`, from its start.
    pub fn scanner<'s, 't>(&'s self, text: &'t str) -> Scanner<'s, 't> {
        Scanner { scheme: self, text, at: 0, walk: Walk::default() }
    }

    /// Whether the boundary between these two neighbouring characters splits any text into two that
    /// can be pretokenized on their own: no pretoken spans it and none sees across it. It asks
    /// nothing else of the text, so that two readers of neighbouring slices find the same point.
    /// Always false for a [`Scheme::Regex`], of which nothing is known.
    pub fn is_cut(&self, before: char, after: char) -> bool {
        match self {
            Self::Gpt2(_) => !before.is_whitespace() && after.is_whitespace(),
            Self::Cl100k(_) | Self::O200k(_) => {
                !before.is_whitespace() && after.is_whitespace() && after != '\r' && after != '\n'
            }
            Self::Regex(_) => false,
        }
    }
}

/// Walks a text from pretoken to pretoken.
#[derive(Debug)]
pub struct Scanner<'s, 't> {
    scheme: &'s Scheme,
    text: &'t str,
    at: usize,
    walk: Walk,
}

impl Scanner<'_, '_> {
    /// Writes the ends (byte offsets in the text) of the next pretokens to `ends` and returns how
    /// many; fewer than `ends.len()` only when the text is used up.
    pub fn fill(&mut self, ends: &mut [usize]) -> Result<usize> {
        let pattern = match self.scheme {
            Scheme::Gpt2(p) | Scheme::Cl100k(p) | Scheme::O200k(p) | Scheme::Regex(p) => p,
        };
        let mut count = 0;
        while count < ends.len() && self.at < self.text.len() {
            self.at = self.walk.next_end(pattern, self.text, self.at)?;
            ends[count] = self.at;
            count += 1;
        }
        Ok(count)
    }
}
