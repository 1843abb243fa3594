//! The GPT-2 scheme by hand:
//! `'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//!
//! Runs of letters, of numbers, of whitespace and of the rest; what remains are three things. One
//! 0x20 before a run that is not whitespace belongs to it. Of whitespace before text the last
//! character is therefore apart: it joins, or else stands alone. A contraction is tried where a
//! pretoken starts and only there, and what follows it begins anew.

use super::classes::{Class, Classes, LETTER, NUMBER, SPACE};
use super::window::{Rule, WIDTH, Wide, Window, bit, first_bytes, lowest};

/// The rule.
#[derive(Debug)]
pub(super) struct Gpt2 {
    classes: &'static Classes,
}

impl Gpt2 {
    pub(super) fn new() -> Self {
        Self { classes: Classes::get() }
    }

    /// Whether a pretoken ends between any two such neighbours, whatever stands around them, and
    /// the two sides tell nothing of each other.
    pub(super) fn is_cut(before: Class, after: Class, before_is_apostrophe: bool) -> bool {
        let kind = |class: Class| match class {
            class if class & LETTER != 0 => LETTER,
            NUMBER => NUMBER,
            SPACE => SPACE,
            _ => 0,
        };
        kind(before) != kind(after)
            && before != SPACE
            && !(before_is_apostrophe && kind(after) == LETTER)
    }
}

/// The length of a contraction, when `rest` (from the apostrophe on) begins with one.
fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'\'', b's' | b'd' | b'm' | b't', ..] => Some(2),
        [b'\'', b'l', b'l', ..] | [b'\'', b'v' | b'r', b'e', ..] => Some(3),
        _ => None,
    }
}

impl Rule for Gpt2 {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the kernel's instructions are those of its caller")]
    fn ends<W: Window>(&self, bytes: &[u8; WIDTH], len: usize) -> u64 {
        let window = W::new(bytes);
        let mut letters = window.letters();
        let mut numbers = window.within(b'0', b'9');
        let blanks = window.is(b' ');
        let mut spaces = window.within(b'\t', b'\r') | blanks;
        let (mut known, mut continuation) = (len, 0);
        let non_ascii = window.non_ascii();
        if non_ascii != 0 {
            let wide = Wide::new(window, self.classes, bytes, len, non_ascii);
            letters |= wide.whole(wide.upper | wide.lower | wide.caseless);
            numbers |= wide.whole(wide.numbers);
            spaces |= wide.whole(wide.spaces);
            (known, continuation) = (wide.known, wide.continuation);
            // What is not known counts as whitespace: nothing certain follows from it.
            spaces |= !lowest(known);
        }
        let others = !(letters | numbers | spaces);
        let in_run = letters & letters << 1
            | numbers & numbers << 1
            | others & others << 1
            | spaces & spaces << 1;
        let joined = !spaces & blanks << 1;
        let mut last_spaces = spaces & !(spaces >> 1 | 1 << (WIDTH - 1));
        if continuation != 0 {
            last_spaces = first_bytes(last_spaces, continuation);
        }
        let mut starts = !(in_run | joined) | last_spaces;

        let mut apostrophes = starts & window.is(b'\'') & letters >> 1;
        while apostrophes != 0 {
            let at = apostrophes.trailing_zeros() as usize;
            apostrophes &= apostrophes - 1;
            match contraction(&bytes[at..]) {
                Some(length) => starts = starts & !bit(at + 1) | bit(at + length),
                // Whether this is one stands in the next window.
                None if at == WIDTH - 2 => starts &= !bit(at + 1),
                None => {}
            }
        }
        starts & lowest(known) & !1 | bit(len)
    }

    fn next_end(&self, text: &[u8], at: usize) -> usize {
        if let Some(length) = contraction(&text[at..]) {
            return at + length;
        }
        let (mut class, length) = self.classes.at(text, at);
        let mut start = at;
        if text[at] == b' ' && at + 1 < text.len() {
            let (next, _) = self.classes.at(text, at + 1);
            if next != SPACE {
                (class, start) = (next, at + 1);
            }
        }
        match class {
            SPACE => {
                let end = self.classes.run(text, at, SPACE);
                if end == text.len() || end == at + length {
                    return end;
                }
                // All but the last character, which goes with what follows or stands alone.
                (at..end).rev().find(|&at| text[at] & 0xc0 != 0x80).unwrap_or(end)
            }
            NUMBER => self.classes.run(text, start, NUMBER),
            class if class & LETTER != 0 => self.classes.run(text, start, LETTER),
            _ => self.classes.run_without(text, start, LETTER | NUMBER | SPACE),
        }
    }
}
