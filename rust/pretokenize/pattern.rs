//! Any regular expression as a splitting rule, through the `fancy-regex` crate.
//!
//! Some hundred times slower than the scanners by hand, whose oracle it is in the tests. A pattern
//! may backtrack a million times for one pretoken; then it is given up with an error.

use crate::error::{Error, Result};

/// A compiled regular expression.
#[derive(Debug, Clone)]
pub struct Pattern(fancy_regex::Regex);

impl Pattern {
    /// Compiles `regex`.
    pub fn new(regex: &str) -> Result<Self> {
        fancy_regex::Regex::new(regex)
            .map(Self)
            .map_err(|why| Error::Pattern { pattern: regex.to_owned(), why: one_line(&why) })
    }

    /// The regular expression as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The next match at or after `from` that is not empty, as (start, end).
    fn next_match(&self, text: &str, mut from: usize) -> Result<Option<(usize, usize)>> {
        loop {
            let found = self.0.find_from_pos(text, from).map_err(|why| Error::Pattern {
                pattern: self.as_str().to_owned(),
                why: format!("gave up at byte {from} of the text: {}", one_line(&why)),
            })?;
            let Some(found) = found else { return Ok(None) };
            if found.end() > found.start() {
                return Ok(Some((found.start(), found.end())));
            }
            let Some(skipped) = text[found.end()..].chars().next() else { return Ok(None) };
            from = found.end() + skipped.len_utf8();
        }
    }
}

/// Walks a text by a [`Pattern`]. What lies between two matches is a pretoken too.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The match that follows the pretoken handed out last, when that was unmatched text.
    ahead: Option<usize>,
}

impl Walk {
    /// The end of the pretoken that starts at `start`, which is where the last one ended.
    pub(super) fn next_end(
        &mut self,
        pattern: &Pattern,
        text: &str,
        start: usize,
    ) -> Result<usize> {
        if let Some(end) = self.ahead.take() {
            return Ok(end);
        }
        match pattern.next_match(text, start)? {
            None => Ok(text.len()),
            Some((found, end)) if found == start => Ok(end),
            Some((found, end)) => {
                self.ahead = Some(end);
                Ok(found)
            }
        }
    }
}

/// What the library said, without the line breaks of its longer messages.
fn one_line(why: &fancy_regex::Error) -> String {
    why.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
