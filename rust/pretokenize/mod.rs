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
use classes::Classes;
use gpt2::Gpt2;
use gpt4::Gpt4;
pub use pattern::Pattern;
use pattern::Walk;
pub(crate) use spellings::O200K;
use spellings::{CL100K, GPT2, LLAMA3, QWEN2};
pub use window::Kernel;

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
        Scanner { rule, kernel: Kernel::best(), text, at: 0 }
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
    text: &'t str,
    at: usize,
}

#[derive(Debug)]
enum Rule<'s> {
    Gpt2(Gpt2),
    Gpt4(Gpt4),
    Regex(&'s Pattern, Walk),
}

impl Scanner<'_, '_> {
    /// The same with the instructions of `kernel`: to compare kernels, which all find the same.
    #[must_use]
    pub fn with_kernel(self, kernel: Kernel) -> Self {
        Self { kernel, ..self }
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
        let text = self.text.as_bytes();
        match &mut self.rule {
            Rule::Gpt2(rule) => Ok(self.kernel.fill(rule, text, &mut self.at, ends, enough)),
            Rule::Gpt4(rule) => Ok(self.kernel.fill(rule, text, &mut self.at, ends, enough)),
            Rule::Regex(pattern, walk) => {
                let mut count = 0;
                while count < enough && self.at < self.text.len() {
                    self.at = walk.next_end(pattern, self.text, self.at)?;
                    ends[count] = self.at;
                    count += 1;
                }
                Ok(count)
            }
        }
    }
}
