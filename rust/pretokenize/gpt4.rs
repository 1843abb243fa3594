//! The schemes of GPT-4 (`cl100k`), Llama 3, Qwen 2 and GPT-4o (`o200k`) by hand; their patterns stand
//! in `spellings.rs`.
//!
//! All take one character that is no letter, number or line break in front of a word, numbers by
//! threes (Qwen 2: one by one), line breaks after punctuation along with it, and whitespace up to the last line break
//! as one. `o200k` also parts a word before a capital that follows a small letter, takes marks for
//! letters, takes slashes after punctuation and line breaks too, and puts a contraction at the
//! word's end instead of apart.

use super::classes::{CASELESS, Class, Classes, LETTER, LOWER, MARK, NUMBER, SPACE, UPPER};
use super::window::{Rule, WIDTH, Wide, Window, bit, first_bytes, lowest};

/// The rule: four variants of one.
#[derive(Debug)]
pub(super) struct Gpt4 {
    classes: &'static Classes,
    /// `o200k`: words are parted by case.
    cased: bool,
    /// Whitespace at the text's end is one pretoken, line breaks or not.
    whole_end: bool,
    /// Each digit is a pretoken, instead of up to three of them.
    single_digits: bool,
}

impl Gpt4 {
    /// tiktoken 0.14's `cl100k_base`.
    pub(super) fn cl100k() -> Self {
        Self { classes: Classes::get(), cased: false, whole_end: true, single_digits: false }
    }

    /// `cl100k_base` as first published, and Llama 3's.
    pub(super) fn cl100k_first() -> Self {
        Self { classes: Classes::get(), cased: false, whole_end: false, single_digits: false }
    }

    /// Qwen 2's.
    pub(super) fn qwen2() -> Self {
        Self { single_digits: true, ..Self::cl100k_first() }
    }

    /// `o200k_base`.
    pub(super) fn o200k() -> Self {
        Self { classes: Classes::get(), cased: true, whole_end: false, single_digits: false }
    }

    /// Whether a pretoken ends between any two such neighbours, whatever stands around them, and
    /// the two sides tell nothing of each other.
    pub(super) fn is_cut(&self, before: Class, after: Class, after_char: char) -> bool {
        let cased = self.cased;
        let kind = |class: Class| match class {
            class if class & LETTER != 0 => LETTER,
            NUMBER => NUMBER,
            SPACE => SPACE,
            // A mark is a letter after a letter, and punctuation after punctuation.
            MARK if cased => MARK,
            _ => 0,
        };
        match (kind(before), kind(after)) {
            (NUMBER, NUMBER) => self.single_digits,
            (SPACE, _) | (LETTER, LETTER) => false,
            (NUMBER, _) | (_, NUMBER) | (LETTER, SPACE) => true,
            (_, SPACE) => after_char != '\r' && after_char != '\n',
            // In o200k an apostrophe may begin what belongs to the word before.
            (LETTER, 0) => !(cased && after_char == '\''),
            _ => false,
        }
    }

    /// What words are made of.
    #[inline]
    fn word(&self) -> Class {
        if self.cased { LETTER | MARK } else { LETTER }
    }

    /// The end of the word that starts at `at`.
    fn word_end(&self, text: &[u8], at: usize) -> usize {
        if !self.cased {
            return self.classes.run(text, at, LETTER);
        }
        // Capitals and what has no case, as far as they go; then small letters and what has none.
        // Without small letters the last character without case takes their part.
        let (mut end, mut after_caseless) = (at, None);
        while end < text.len() {
            let (class, length) = self.classes.at(text, end);
            match class {
                UPPER => end += length,
                CASELESS | MARK => {
                    end += length;
                    after_caseless = Some(end);
                }
                _ => break,
            }
        }
        let small = self.classes.run(text, end, LOWER | CASELESS | MARK);
        if small == end {
            end = after_caseless.unwrap_or(end);
        } else {
            end = small;
        }
        end + contraction(&text[end..]).unwrap_or(0)
    }

    /// The end of the whitespace pretoken that starts at `at`.
    fn whitespace_end(&self, text: &[u8], at: usize) -> usize {
        let end = self.classes.run(text, at, SPACE);
        if end == text.len() && self.whole_end {
            return end;
        }
        if let Some(line_break) = text[at..end].iter().rposition(|&byte| is_line_break(byte)) {
            return at + line_break + 1;
        }
        let last = (at..end).rev().find(|&at| text[at] & 0xc0 != 0x80).unwrap_or(at);
        if end == text.len() || last == at { end } else { last }
    }
}

fn is_line_break(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n'
}

/// The length of a contraction, when `rest` (from the apostrophe on) begins with one in either
/// case; the long s (U+017F) is an s to both patterns.
fn contraction(rest: &[u8]) -> Option<usize> {
    let [b'\'', rest @ ..] = rest else { return None };
    match rest {
        [b's' | b'S' | b'd' | b'D' | b'm' | b'M' | b't' | b'T', ..] => Some(2),
        [0xc5, 0xbf, ..]
        | [b'l' | b'L', b'l' | b'L', ..]
        | [b'v' | b'V' | b'r' | b'R', b'e' | b'E', ..] => Some(3),
        _ => None,
    }
}

impl Rule for Gpt4 {
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "the kernel's instructions are those of its caller")]
    fn ends<W: Window>(&self, bytes: &[u8; WIDTH], len: usize) -> u64 {
        let window = W::new(bytes);
        let text_ends = len < WIDTH;
        // 1. Which byte is what; words are letters, for o200k marks too.
        let mut words = window.letters();
        let mut numbers = window.within(b'0', b'9');
        let blanks = window.is(b' ');
        let mut spaces = window.within(b'\t', b'\r') | blanks;
        let line_breaks = window.is(b'\n') | window.is(b'\r');
        let mut capitals = if self.cased { window.within(b'A', b'Z') } else { 0 };
        let (mut caseless, mut marks, mut wide_numbers, mut continuation) = (0, 0, 0, 0);
        let mut known = len;
        let non_ascii = window.non_ascii();
        if non_ascii != 0 {
            let wide = Wide::new(window, self.classes, bytes, len, non_ascii);
            marks = if self.cased { wide.whole(wide.marks) } else { 0 };
            caseless = marks | wide.whole(wide.caseless);
            capitals |= wide.whole(wide.upper);
            words |= caseless | wide.whole(wide.upper | wide.lower);
            wide_numbers = wide.whole(wide.numbers);
            numbers |= wide_numbers;
            spaces |= wide.whole(wide.spaces);
            (known, continuation) = (wide.known, wide.continuation);
        }
        let inside = lowest(known);
        words &= inside;
        spaces &= inside;
        let mut others = inside & !(words | numbers | spaces);

        // 2. What is not certain here is not told: everything from `known` on.
        if self.cased {
            // Whether a mark after punctuation belongs to a word, and whether a capital after a
            // character without case begins one, can depend on anything before or after.
            let unclear = marks & others << 1 | capitals & caseless << 1;
            known = known.min(unclear.trailing_zeros() as usize);
        }
        if !self.single_digits {
            // Numbers beyond ASCII are not counted by threes here.
            let uncounted = wide_numbers & numbers << 1 | numbers & wide_numbers << 1;
            let uncounted = uncounted & !continuation;
            known = known.min(uncounted.trailing_zeros() as usize);
        }

        // 3. Line breaks (and slashes after them) that belong to the punctuation before.
        let slashes = if self.cased { window.is(b'/') } else { 0 };
        let swallowed = swallowed(others, line_breaks, slashes);
        others &= !swallowed;
        spaces &= !swallowed;
        let breaks = line_breaks & spaces;
        let inline = spaces & !line_breaks;

        // 4. One character in front of a word that joins it.
        let first_others = others & !(others << 1) & !(blanks << 1);
        let behind_first = if continuation == 0 {
            first_others << 1
        } else {
            (first_others << 1).wrapping_add(continuation) & !continuation
        };

        // 5. Starts.
        let first_numbers = numbers & !(numbers << 1);
        let mut starts = words & !(words << 1) & !(inline << 1) & !behind_first
            | first_numbers
            | first_others
            | spaces & !(spaces << 1);
        if self.single_digits {
            starts |= numbers & !continuation;
        } else {
            starts |= thirds(first_numbers, numbers & !wide_numbers);
        }
        if self.cased {
            starts |= capitals & (words & !capitals) << 1;
        }
        // The last whitespace character before anything else, unless it is a line break.
        let last_spaces = inline & (words | numbers | others) >> 1;
        starts |= first_bytes(last_spaces, continuation);
        // Whitespace after the last line break of its run.
        let after_breaks = inline & breaks << 1;
        let behind = inline.wrapping_add(after_breaks) & !inline & (words | numbers | others);
        if behind.count_ones() == after_breaks.count_ones() {
            starts |= after_breaks;
        } else {
            let text_end = (text_ends && !self.whole_end).then_some(len);
            starts |= last_of_runs(after_breaks, inline, line_breaks, known, text_end);
        }

        // 6. Contractions.
        let apostrophes = window.is(b'\'');
        if apostrophes != 0 {
            if self.cased {
                known =
                    known.min(suffixes(bytes, text_ends, apostrophes & words << 1, &mut starts));
            } else {
                apart(bytes, apostrophes & first_others & words >> 1, &mut starts);
            }
        }
        let end = if known == len { bit(len) } else { 0 };
        starts & lowest(known) & !1 | end
    }

    fn next_end(&self, text: &[u8], at: usize) -> usize {
        if !self.cased
            && let Some(length) = contraction(&text[at..])
        {
            return at + length;
        }
        let (class, length) = self.classes.at(text, at);
        if class & self.word() != 0 {
            return self.word_end(text, at);
        }
        if class == NUMBER {
            let mut end = at + length;
            for _ in 0..if self.single_digits { 0 } else { 2 } {
                if end < text.len()
                    && let (NUMBER, length) = self.classes.at(text, end)
                {
                    end += length;
                }
            }
            return end;
        }
        let next =
            if at + length < text.len() { self.classes.at(text, at + length).0 } else { SPACE };
        if next & self.word() != 0 && !is_line_break(text[at]) {
            return self.word_end(text, at + length);
        }
        if class == SPACE && (text[at] != b' ' || next & (NUMBER | SPACE) != 0) {
            return self.whitespace_end(text, at);
        }
        let others = self.classes.run_without(text, at + length, LETTER | NUMBER | SPACE);
        let swallowed = text[others..]
            .iter()
            .take_while(|&&byte| is_line_break(byte) || self.cased && byte == b'/');
        others + swallowed.count()
    }
}

/// Where every third digit of a run begins, but for its first.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a few instructions where it is used")]
fn thirds(first_numbers: u64, digits: u64) -> u64 {
    let by_threes = digits & digits << 1 & digits << 2 & digits << 3;
    let (mut all, mut next) = (0, first_numbers << 3 & by_threes);
    while next != 0 {
        all |= next;
        next = next << 3 & by_threes;
    }
    all
}

/// The line breaks, and slashes after these, that the punctuation before them takes along.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a few instructions where it is used")]
fn swallowed(others: u64, line_breaks: u64, slashes: u64) -> u64 {
    let first = line_breaks & others << 1;
    if slashes & line_breaks << 1 == 0 {
        // The sum carries through each run of line breaks that punctuation stands before.
        return line_breaks & !line_breaks.wrapping_add(first);
    }
    let (mut reached, mut open) = (first, line_breaks | slashes);
    for shift in [1, 2, 4, 8, 16, 32] {
        reached |= open & reached << shift;
        open &= open << shift;
    }
    reached
}

/// Of the stretches of `inline` whitespace that start at `stretches`, behind a line break, those
/// that are certain to have no other line break behind them in their run. What stretches beyond
/// `known` is not, unless it ends with the text and that counts.
fn last_of_runs(
    mut stretches: u64,
    inline: u64,
    line_breaks: u64,
    known: usize,
    text_end: Option<usize>,
) -> u64 {
    let mut last = 0;
    while stretches != 0 {
        let at = stretches.trailing_zeros() as usize;
        stretches &= stretches - 1;
        let end = at + (inline >> at).trailing_ones() as usize;
        if end < known && line_breaks & bit(end) == 0 || text_end == Some(end) {
            last |= bit(at);
        }
    }
    last
}

/// `cl100k`: a pretoken starts behind each contraction that a pretoken starts with.
fn apart(bytes: &[u8; WIDTH], mut apostrophes: u64, starts: &mut u64) {
    while apostrophes != 0 {
        let at = apostrophes.trailing_zeros() as usize;
        apostrophes &= apostrophes - 1;
        if let Some(length) = contraction(&bytes[at..]) {
            *starts |= bit(at + length);
        }
    }
}

/// `o200k`: no pretoken starts within a contraction that follows a word, but one does behind it.
/// Returns the first apostrophe of which this window does not show enough.
fn suffixes(bytes: &[u8; WIDTH], text_ends: bool, mut apostrophes: u64, starts: &mut u64) -> usize {
    let mut behind = 0;
    while apostrophes != 0 {
        let at = apostrophes.trailing_zeros() as usize;
        apostrophes &= apostrophes - 1;
        if at + 3 > WIDTH && !text_ends {
            return at;
        }
        // A second contraction does not follow a first: there it is a word with an apostrophe.
        if at == behind {
            continue;
        }
        if let Some(length) = contraction(&bytes[at..]) {
            behind = at + length;
            *starts = *starts & !(lowest(length) << at) | bit(behind);
        }
    }
    WIDTH
}
