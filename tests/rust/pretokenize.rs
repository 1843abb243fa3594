//! Text → pretokens: every scanner against the regular expression it stands for.

use lmkit::pretokenize::{Kernel, Scheme};
use proptest::prelude::*;

/// The pretokens of `text`, asked for `room` at a time.
fn pretokens_by<'t>(scheme: &Scheme, kernel: Kernel, text: &'t str, room: usize) -> Vec<&'t str> {
    let (mut scanner, mut ends) = (scheme.scanner(text).with_kernel(kernel), vec![0; room]);
    let (mut pretokens, mut start) = (Vec::new(), 0);
    loop {
        let count = scanner.fill(&mut ends).unwrap();
        for &end in &ends[..count] {
            pretokens.push(&text[start..end]);
            start = end;
        }
        if count < room {
            assert_eq!(start, text.len(), "the pretokens cover the text");
            return pretokens;
        }
    }
}

fn pretokens<'t>(scheme: &Scheme, text: &'t str) -> Vec<&'t str> {
    pretokens_by(scheme, Kernel::best(), text, 256)
}

fn scheme(name_or_regex: &str) -> Scheme {
    Scheme::new(name_or_regex).unwrap()
}

/// What the regular expression's own library finds.
fn found_by_regex<'t>(regex: &fancy_regex::Regex, text: &'t str) -> Vec<&'t str> {
    regex.find_iter(text).map(|found| found.unwrap().as_str()).collect()
}

/// The ways the known schemes are written elsewhere, each with what it must be taken for.
const KNOWN: [(&str, &str); 10] = [
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "gpt2"),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "gpt2"),
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", "gpt2"),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s", "gpt2"),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        "cl100k",
    ),
    (FIRST_CL100K, FIRST_CL100K),
    (QWEN2, QWEN2),
    (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        FIRST_CL100K,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        FIRST_CL100K,
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "o200k",
    ),
];
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const FIRST_CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every known way to write a scheme, compiled, with the scheme.
fn known() -> Vec<(fancy_regex::Regex, Scheme)> {
    KNOWN
        .iter()
        .map(|&(regex, _)| (fancy_regex::Regex::new(regex).unwrap(), scheme(regex)))
        .collect()
}

/// Compares on `text` every scanner, with every kernel, to every regular expression it stands for.
fn compare(known: &[(fancy_regex::Regex, Scheme)], text: &str) {
    for (regex, scheme) in known {
        let expected = found_by_regex(regex, text);
        for kernel in [Kernel::best(), Kernel::PORTABLE] {
            for room in [256, 3] {
                let found = pretokens_by(scheme, kernel, text, room);
                if found != expected {
                    let first = found.iter().zip(&expected).position(|(a, b)| a != b).unwrap_or(0);
                    panic!(
                        "{} ({kernel:?}, {room} at a time) differs at pretoken {first}: {:?}, \
                         not {:?}; in {text:?}",
                        scheme.name(),
                        found.get(first),
                        expected.get(first),
                    );
                }
            }
        }
    }
}

/// What texts are made of: every kind of character the patterns tell apart.
const PIECES: [&str; 74] = [
    "a", "b", "s", "t", "l", "v", "e", "r", "d", "m", "S", "T", "L", "E", "R", "A", "Z", "word",
    "Word", "WORD", "k", "\u{17f}", "\u{212a}", "é", "É", "ß", "ǅ", "ʰ", "ª", "ж", "Ж", "中", "文",
    "あ", "ア", "ー", "한", "ا", "ह", "\u{301}", "\u{93f}", "\u{fe0f}", "1", "23", "4567", "٣",
    "½", "Ⅷ", "𝟗", "'", "'", "'s", "'ll", "'RE", "'\u{17f}", "!", "/", ".", "\"", "—", "。", "👍",
    "\u{200d}", " ", " ", "  ", "\n", "\r\n", "\t", "\u{85}", "\u{a0}", "\u{3000}", "\u{2003}",
    "\0",
];

/// Texts of repeated pieces: short runs mostly, sometimes ones that reach beyond a window.
fn texts() -> impl Strategy<Value = String> {
    let run = prop_oneof![8 => Just(1usize), 3 => 1..5usize, 1 => 20..70usize];
    let piece = (prop::sample::select(&PIECES[..]), run).prop_map(|(piece, run)| piece.repeat(run));
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

/// How many random examples: `LMKIT_EXAMPLES`, or a few.
fn examples() -> ProptestConfig {
    let cases = std::env::var("LMKIT_EXAMPLES").ok().and_then(|count| count.parse().ok());
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases.unwrap_or(128)) }
}

proptest! {
    #![proptest_config(examples())]

    #[test]
    fn scanners_find_what_their_regex_finds(text in texts()) {
        compare(&known(), &text);
    }

    #[test]
    fn scanners_find_what_their_regex_finds_in_any_unicode(text in "\\PC{0,200}") {
        compare(&known(), &text);
    }

    #[test]
    fn scanners_find_what_their_regex_finds_in_dense_text(text in "[ \n\r\t'sStlLeaA1/.!\u{17f}é\u{301}中]{0,200}") {
        compare(&known(), &text);
    }

    #[test]
    fn a_cut_changes_nothing(text in texts()) {
        for (_, scheme) in known() {
            let whole = pretokens(&scheme, &text);
            let characters: Vec<(usize, char)> = text.char_indices().collect();
            for pair in characters.windows(2) {
                let [(_, before), (at, after)] = *pair else { unreachable!("windows of two") };
                if scheme.is_cut(before, after) {
                    let mut parts = pretokens(&scheme, &text[..at]);
                    parts.extend(pretokens(&scheme, &text[at..]));
                    prop_assert_eq!(&parts, &whole, "{} cut at byte {}", scheme.name(), at);
                }
            }
        }
    }
}

#[test]
fn known_regexes_get_scanners_by_hand_and_keep_their_meaning() {
    for (regex, name) in KNOWN {
        let found = scheme(regex);
        assert!(!matches!(found, Scheme::Regex(_)), "{regex}");
        assert_eq!(found.name(), name);
        assert_eq!(scheme(found.name()).name(), name);
        assert_eq!(scheme(found.regex()).name(), name);
    }
    for (name, regex) in [("llama3", FIRST_CL100K), ("qwen2", QWEN2)] {
        assert_eq!(scheme(name).regex(), regex);
    }
    let text = "a \n  ";
    assert_eq!(pretokens(&scheme("cl100k"), text), ["a", " \n  "]);
    assert_eq!(pretokens(&scheme(FIRST_CL100K), text), ["a", " \n", "  "]);
}

#[test]
fn every_whitespace_between_every_two_neighbours() {
    let known = known();
    let spaces: Vec<char> = ('\0'..=char::MAX).filter(|c| c.is_whitespace()).collect();
    assert_eq!(spaces.len(), 25);
    for space in spaces {
        let mut text = String::new();
        for left in ["a", "1", "!", "\n", " ", "中", "'"] {
            for right in ["b", "2", "?", "\r\n", " ", "文", "'s"] {
                for between in [1, 2, 3] {
                    text.push_str(left);
                    text.extend(std::iter::repeat_n(space, between));
                    text.push_str(right);
                }
            }
        }
        compare(&known, &text);
        text.push(space);
        compare(&known, &text);
    }
}

#[test]
fn every_joint_at_every_place_of_a_window() {
    let known = known();
    for joint in [
        "x's y",
        "x'll y",
        "x'lL y",
        "x'\u{17f} y",
        "don't's't",
        "a  b",
        "a \n b",
        "a\n  b",
        "a\n \n b",
        "!\n\n b",
        "!\n/\n/b",
        "!/\n/\n//\r/!",
        "a\u{3000}\u{3000}b",
        "a 👍b",
        "aB",
        "中B",
        "中Bc",
        "!\u{301}b",
        "12345b",
        "1٣456",
        "“a”",
        "\u{3000}a",
        "\u{a0}'s",
        "a\n\u{3000} b",
        "!é",
        "  !",
        "\n",
        " ",
        "é",
    ] {
        for before in 0..70 {
            for filler in ["x", " x", "-", "中", "\n"] {
                let text = filler.repeat(before.min(70 / filler.len() + 1)) + joint;
                compare(&known, &text);
                compare(&known, &(text + &"y z".repeat(30)));
            }
        }
    }
}

#[test]
fn a_million_of_one_character_takes_no_time() {
    for unit in [
        "a", "A", "1", "!", " ", "\n", "\t ", "中", "\u{301}", "中A", "'", "'s", "!\n/", " \n",
        "\u{a0}",
    ] {
        let text = unit.repeat(1_000_000 / unit.len());
        for text in [text.clone(), text.clone() + "x", format!("x{text}!")] {
            for (_, scheme) in known() {
                for kernel in [Kernel::best(), Kernel::PORTABLE] {
                    let began = std::time::Instant::now();
                    let found = pretokens_by(&scheme, kernel, &text, 256);
                    assert!(!found.is_empty());
                    let took = began.elapsed().as_secs_f64();
                    assert!(took < 2.0, "{unit:?} with {} took {took} s", scheme.name());
                }
            }
        }
    }
}

#[test]
fn fill_takes_any_room_and_ends_with_nothing() {
    let (scheme, text) = (scheme("gpt2"), "one two  three's\n".repeat(20));
    let whole = pretokens(&scheme, &text);
    for room in 1..80 {
        assert_eq!(pretokens_by(&scheme, Kernel::best(), &text, room), whole);
    }
    let mut scanner = scheme.scanner(&text);
    assert_eq!(scanner.fill(&mut []).unwrap(), 0);
    assert_eq!(scanner.fill(&mut vec![0; 1000]).unwrap(), whole.len());
    assert_eq!(scanner.fill(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn known_splits() {
    let split = |name: &str, text: &'static str| pretokens(&scheme(name), text);
    let text = "I'll say  it's 12345 o'clock!!\n\n \tNow";
    assert_eq!(
        split("gpt2", text),
        [
            "I", "'ll", " say", " ", " it", "'s", " 12345", " o", "'", "clock", "!!", "\n\n ",
            "\t", "Now"
        ]
    );
    assert_eq!(
        split("cl100k", text),
        [
            "I", "'ll", " say", " ", " it", "'s", " ", "123", "45", " o", "'clock", "!!\n\n", " ",
            "\tNow"
        ]
    );
    assert_eq!(
        split("o200k", text),
        ["I'll", " say", " ", " it's", " ", "123", "45", " o", "'clock", "!!\n\n", " ", "\tNow"]
    );
}

#[test]
fn text_that_no_branch_matches_is_a_pretoken_of_its_own() {
    assert_eq!(pretokens(&scheme("[a-z]+"), "..ab1cd--"), ["..", "ab", "1", "cd", "--"]);
    let one_by_one = pretokens_by(&scheme("[a-z]+"), Kernel::best(), "..ab1cd--", 1);
    assert_eq!(one_by_one, ["..", "ab", "1", "cd", "--"]);
    assert_eq!(pretokens(&scheme("x"), "nothing"), ["nothing"]);
    assert_eq!(pretokens(&scheme("x*"), "éxxé"), ["é", "xx", "é"], "empty matches are skipped");
    assert!(pretokens(&scheme("x"), "").is_empty());
}

#[test]
fn a_regex_that_does_not_compile_is_named() {
    let error = Scheme::new("(unclosed").unwrap_err().to_string();
    assert!(error.starts_with("pattern \"(unclosed\": "), "{error}");
    assert!(!error.contains('\n'), "{error}");
}

#[test]
fn a_regex_that_backtracks_without_end_is_an_error_that_says_where() {
    let text = format!("ok {}!", "a".repeat(64));
    let hopeless = scheme(r"ok|(?:(a|a)*)*(?=b)");
    let mut scanner = hopeless.scanner(&text);
    let error = scanner.fill(&mut [0; 8]).unwrap_err().to_string();
    assert!(error.contains("gave up at byte 2 of the text"), "{error}");
}
