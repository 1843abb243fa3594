//! Text → pretokens, bytes a second: each scheme by each kernel.
//!
//! The texts are built here, a megabyte each: prose as of a novel, code, Chinese. `LMKIT_BENCH_TEXT`
//! names a file to take instead. Before the clock starts the pretokens are compared to what the
//! scheme's regular expression finds, which is too slow to be timed here.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use lmkit::pretokenize::{Kernel, Scheme};

const SIZE: usize = 1 << 20;

const PROSE: &str = "It was late in the afternoon when the old man came down to the harbour, and \
    nobody on the quay knew him. \"You've been away,\" said the boatman; \"twenty years, or 21?\"\n\n\
    He didn't answer at once. The wind had turned, the gulls were crying over the roofs, and \
    somewhere behind the church a bell struck four -- slowly, as if it weren't sure of it.\n";
const CODE: &str = "static int parse_header(struct reader *in, size_t len)\n{\n\tif (len < 16 || \
    in->buf[0] != 0x7f)\n\t\treturn -EINVAL;\n\n\tfor (int i = 0; i < 4; i++) {\n\t\tin->sum += \
    in->buf[i] << (8 * i);\t/* little endian */\n\t}\n\treturn 0;\n}\n\n";
const CHINESE: &str = "春天的早晨，河边的柳树刚刚发芽，老人慢慢地走在石板路上。他想起三十年前的那个下午，\
    也是这样的风，也是这样的光。「你还记得吗？」他问。没有人回答，只有水声。\n";

/// A megabyte of each kind, or the file that the environment names.
fn texts() -> Vec<(String, String)> {
    if let Ok(path) = std::env::var("LMKIT_BENCH_TEXT") {
        let text = std::fs::read_to_string(&path).expect("LMKIT_BENCH_TEXT names a text file");
        return vec![("file".to_owned(), text)];
    }
    [("prose", PROSE), ("code", CODE), ("chinese", CHINESE)]
        .map(|(name, piece)| (name.to_owned(), piece.repeat(SIZE / piece.len())))
        .into()
}

/// The ends of all pretokens, in batches as the encoder takes them.
fn scan(scheme: &Scheme, kernel: Kernel, text: &str, mut each: impl FnMut(&[usize])) {
    let mut scanner = scheme.scanner(text).with_kernel(kernel);
    let mut ends = [0; 256];
    loop {
        let count = scanner.fill(&mut ends).expect("a scanner by hand does not fail");
        each(&ends[..count]);
        if count < ends.len() {
            return;
        }
    }
}

fn ends(scheme: &Scheme, kernel: Kernel, text: &str) -> Vec<usize> {
    let mut all = Vec::new();
    scan(scheme, kernel, text, |ends| all.extend_from_slice(ends));
    all
}

fn ends_by_regex(regex: &fancy_regex::Regex, text: &str) -> Vec<usize> {
    regex.find_iter(text).map(|found| found.expect("no pattern here backtracks").end()).collect()
}

fn pretokenize(criterion: &mut Criterion) {
    for (kind, text) in texts() {
        let mut group = criterion.benchmark_group(&kind);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        group.sample_size(20);
        for name in ["gpt2", "cl100k", "o200k"] {
            let scheme = Scheme::new(name).expect("a known scheme");
            let regex = fancy_regex::Regex::new(scheme.regex()).expect("a known pattern");
            let length: usize = text.chars().take(1 << 15).map(char::len_utf8).sum();
            let sample = &text[..length];
            for (label, kernel) in [("best", Kernel::best()), ("portable", Kernel::PORTABLE)] {
                assert_eq!(ends(&scheme, kernel, sample), ends_by_regex(&regex, sample));
                group.bench_function(format!("{name}/{label}"), |bencher| {
                    bencher.iter(|| {
                        scan(&scheme, kernel, &text, |ends| {
                            black_box(ends);
                        });
                    });
                });
            }
        }
        group.finish();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    pretokenize(&mut criterion);
    criterion.final_summary();
}
