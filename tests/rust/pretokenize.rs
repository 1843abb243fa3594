//! Text → pretokens: every scanner against the regular expression it stands for.

use lmkit::pretokenize::Scheme;

/// The pretokens of `text`, asked for `room` at a time.
fn pretokens_by<'t>(scheme: &Scheme, text: &'t str, room: usize) -> Vec<&'t str> {
    let (mut scanner, mut ends) = (scheme.scanner(text), vec![0; room]);
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
    pretokens_by(scheme, text, 256)
}

fn scheme(name_or_regex: &str) -> Scheme {
    Scheme::new(name_or_regex).unwrap()
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
    assert_eq!(pretokens_by(&scheme("[a-z]+"), "..ab1cd--", 1), ["..", "ab", "1", "cd", "--"]);
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
