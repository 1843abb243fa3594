//! One regular expression, two readers: ours (the `regex` crate's syntax) and Oniguruma's Ruby
//! dialect, in which Hugging Face tokenizers split.
//!
//! The two read some things differently: `$` and `^` stand at every line in Ruby, `x{1,3}+` is a
//! repetition there and no possessive, `\w` is another set, `(?s)` is spelt `(?m)`. [`to_ruby`] says
//! the same in Ruby's dialect, or names what it cannot say. Case-insensitive letters are taken to
//! mean the same, which holds for ASCII text.

use std::iter::Peekable;
use std::str::Chars;

/// `\w` as the `regex` crate has it, as members of a set.
const WORD: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200C}\x{200D}";

/// The expression that means to Oniguruma what `regex` means to us; or what stands in the way.
pub(crate) fn to_ruby(regex: &str) -> Result<String, String> {
    let mut translation = Translation {
        rest: regex.chars().peekable(),
        out: String::new(),
        atom: 0,
        open: Vec::new(),
    };
    while let Some(next) = translation.rest.next() {
        translation.step(next)?;
    }
    Ok(translation.out)
}

struct Translation<'r> {
    rest: Peekable<Chars<'r>>,
    out: String,
    /// Where the last atom begins in `out`: what a quantifier refers to.
    atom: usize,
    /// Where the groups that are open begin.
    open: Vec<usize>,
}

impl Translation<'_> {
    fn step(&mut self, next: char) -> Result<(), String> {
        match next {
            '*' | '+' | '?' | '|' => self.out.push(next),
            '{' => self.counted()?,
            ')' => {
                self.out.push(')');
                self.atom = self.open.pop().unwrap_or(0);
            }
            _ => {
                self.atom = self.out.len();
                match next {
                    '^' => self.out.push_str(r"\A"),
                    '$' => self.out.push_str(r"\z"),
                    '\\' => self.escape(false)?,
                    '[' => self.set()?,
                    '(' => self.group()?,
                    literal => self.out.push(literal),
                }
            }
        }
        Ok(())
    }

    /// `{n}`, `{n,}`, `{n,m}`, each perhaps lazy or possessive; Ruby has the latter as a group only.
    fn counted(&mut self) -> Result<(), String> {
        let mut count = String::from("{");
        loop {
            match self.rest.next() {
                Some('}') => break,
                Some(c) if c.is_ascii_digit() || (c == ',' && count.len() > 1) => count.push(c),
                _ => return Err("braces that are no count".to_owned()),
            }
        }
        count.push('}');
        if self.rest.next_if_eq(&'+').is_some() {
            self.out.insert_str(self.atom, "(?>");
            self.out.push_str(&count);
            self.out.push(')');
        } else {
            // `x{n}?` is greedy in Ruby: a choice of none or n.
            if self.rest.peek() == Some(&'?') && !count.contains(',') {
                return Err(format!("{count}?"));
            }
            self.out.push_str(&count);
        }
        Ok(())
    }

    fn escape(&mut self, in_set: bool) -> Result<(), String> {
        let Some(letter) = self.rest.next() else { return Err("a last backslash".to_owned()) };
        match letter {
            'w' if in_set => self.out.push_str(WORD),
            'w' => self.out.extend(["[", WORD, "]"]),
            'W' => self.out.extend(["[^", WORD, "]"]),
            'd' => self.out.push_str(r"\p{Nd}"),
            'D' => self.out.push_str(r"\P{Nd}"),
            's' | 'S' | 'n' | 'r' | 't' | 'f' | 'v' | 'A' | 'z' | '0'..='9' => {
                self.out.extend(['\\', letter]);
            }
            'p' | 'P' => self.property(letter)?,
            'x' => self.code_point()?,
            letter if letter.is_ascii_alphanumeric() => return Err(format!("\\{letter}")),
            sign => self.out.extend(['\\', sign]),
        }
        Ok(())
    }

    /// `\pL` and `\p{…}`; Ruby knows the braces only.
    fn property(&mut self, letter: char) -> Result<(), String> {
        let name = match self.rest.next() {
            Some('{') => self.until('}')?,
            Some(short) => short.to_string(),
            None => return Err(format!("\\{letter}")),
        };
        if name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '^') {
            return Err(format!("\\{letter}{{{name}}}"));
        }
        self.out.extend(['\\', letter]);
        self.out.extend(["{", &name, "}"]);
        Ok(())
    }

    fn code_point(&mut self) -> Result<(), String> {
        let digits = match self.rest.next() {
            Some('{') => self.until('}')?,
            Some(first) => [first].into_iter().chain(self.rest.next()).collect(),
            None => return Err("\\x".to_owned()),
        };
        self.out.extend([r"\x{", &digits, "}"]);
        Ok(())
    }

    fn until(&mut self, end: char) -> Result<String, String> {
        let mut text = String::new();
        for next in self.rest.by_ref() {
            if next == end {
                return Ok(text);
            }
            text.push(next);
        }
        Err(format!("no {end} at the end"))
    }

    /// A set of characters, sets within it included.
    fn set(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        if self.rest.next_if_eq(&']').is_some() {
            self.out.push_str(r"\]");
        }
        loop {
            match self.rest.next() {
                None => return Err("a set without an end".to_owned()),
                Some(']') => {
                    self.out.push(']');
                    return Ok(());
                }
                Some('[') if self.rest.peek() == Some(&':') => return Err("[:…:]".to_owned()),
                Some('[') => self.set()?,
                Some('\\') => self.escape(true)?,
                Some(sign @ ('&' | '-' | '~')) => {
                    if self.rest.peek() == Some(&sign) {
                        return Err(format!("{sign}{sign} in a set"));
                    }
                    self.out.push(sign);
                }
                Some(literal) => self.out.push(literal),
            }
        }
    }

    fn group(&mut self) -> Result<(), String> {
        self.open.push(self.out.len());
        self.out.push('(');
        if self.rest.next_if_eq(&'?').is_none() {
            return Ok(());
        }
        self.out.push('?');
        match self.rest.next() {
            Some(kind @ (':' | '=' | '!' | '>')) => self.out.push(kind),
            Some('<') if matches!(self.rest.peek(), Some('=' | '!')) => self.out.push('<'),
            Some(mut flag) => loop {
                match flag {
                    's' => self.out.push('m'),
                    'i' | '-' => self.out.push(flag),
                    ':' => {
                        self.out.push(flag);
                        break;
                    }
                    ')' if self.open == [0] => {
                        self.out.push(flag);
                        self.open.pop();
                        break;
                    }
                    // In Ruby they end with their alternative, not with their group.
                    ')' => return Err("flags in the middle".to_owned()),
                    other => return Err(format!("(?{other}")),
                }
                flag = self.rest.next().unwrap_or('\0');
            },
            None => return Err("(?".to_owned()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::to_ruby;

    #[test]
    fn what_both_read_alike_stays_as_it_is() {
        for regex in [
            r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            crate::pretokenize::O200K,
            r"(?i:'s|'t)|[\]\[-a]+|\x{41}|(a(?<!b)c)*?\.\1",
            r"a++b*+c?+(?>d|e)",
        ] {
            assert_eq!(to_ruby(regex).as_deref(), Ok(regex));
        }
    }

    #[test]
    fn what_they_read_differently_is_said_in_rubys_words() {
        for (ours, ruby) in [
            (r"\s+$|^a", r"\s+\z|\Aa"),
            (r"\p{N}{1,3}+b", r"(?>\p{N}{1,3})b"),
            (r"(ab|[cd]){2}+", r"(?>(ab|[cd]){2})"),
            (r"(?s).(?-s:.)", r"(?m).(?-m:.)"),
            (r"\pL\d", r"\p{L}\p{Nd}"),
            (r"[$^]", r"[$^]"),
            (r"[]a]", r"[\]a]"),
        ] {
            assert_eq!(to_ruby(ours).as_deref(), Ok(ruby));
        }
    }

    #[test]
    fn what_cannot_be_said_is_named() {
        for (regex, culprit) in [
            (r"a\bb", r"\b"),
            ("(?m)^a", "(?m"),
            ("(?x) a", "(?x"),
            ("a(?i)b|c", "flags in the middle"),
            ("[[:alpha:]]", "[:…:]"),
            ("[a--b]", "-- in a set"),
            ("a{2}?", "{2}?"),
            (r"\p{Script=Greek}", r"\p{Script=Greek}"),
        ] {
            assert_eq!(to_ruby(regex), Err(culprit.to_owned()));
        }
    }
}
