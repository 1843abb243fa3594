//! Any text: every scanner, with every kernel, finds what its regular expression finds.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lmkit::pretokenize::{Kernel, Scheme};

const NAMES: [&str; 3] = ["gpt2", "cl100k", "o200k"];
const LONGEST: usize = 4000;

static SCHEMES: LazyLock<Vec<(fancy_regex::Regex, Scheme)>> = LazyLock::new(|| {
    let both = NAMES.iter().map(|name| {
        let scheme = Scheme::new(name).expect("a known scheme");
        (fancy_regex::Regex::new(scheme.regex()).expect("its regular expression"), scheme)
    });
    both.collect()
});

fn pretokens<'t>(scheme: &Scheme, kernel: Kernel, text: &'t str, room: usize) -> Vec<&'t str> {
    let (mut scanner, mut ends) = (scheme.scanner(text).with_kernel(kernel), vec![0; room]);
    let (mut pretokens, mut start) = (Vec::new(), 0);
    loop {
        let count = scanner.fill(&mut ends).expect("pretokens");
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

fuzz_target!(|text: &str| {
    if text.len() > LONGEST {
        return;
    }
    for (regex, scheme) in SCHEMES.iter() {
        let expected: Vec<&str> =
            regex.find_iter(text).map(|found| found.expect("a match").as_str()).collect();
        for kernel in [Kernel::best(), Kernel::PORTABLE] {
            for room in [256, 3] {
                let found = pretokens(scheme, kernel, text, room);
                assert_eq!(found, expected, "{} {kernel:?} {room}", scheme.name());
            }
        }
    }
});
