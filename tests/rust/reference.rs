//! Byte-level BPE as a student could write it: slow, and plain enough to be believed.
//!
//! Everything fast in the crate answers to this file.

use std::collections::HashMap;
use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;

/// A tokenizer in plain collections.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    /// Tokens by id, special tokens included.
    pub(crate) ids: HashMap<Vec<u8>, u32>,
    /// The merges in order; `None`: a smaller id merges first.
    pub(crate) merges: Option<Vec<(Vec<u8>, Vec<u8>)>>,
    /// The special tokens.
    pub(crate) specials: Vec<String>,
    /// The regular expression that splits text.
    pub(crate) pattern: fancy_regex::Regex,
    /// Whether a pretoken that is a token is that token, though there are merges.
    pub(crate) ignore_merges: bool,
    /// Whether text between special tokens is brought into Unicode's form C first.
    pub(crate) nfc: bool,
}

impl Reference {
    /// The ids of `text`, special tokens as themselves.
    pub(crate) fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while at < text.len() {
            let here = self.specials.iter().filter(|token| text[at..].starts_with(*token));
            if let Some(token) = here.max_by_key(|token| token.len()) {
                ids.extend(self.encode_ordinary(&text[start..at]));
                ids.push(self.ids[token.as_bytes()]);
                at += token.len();
                start = at;
            } else {
                at += text[at..].chars().next().unwrap().len_utf8();
            }
        }
        ids.extend(self.encode_ordinary(&text[start..]));
        ids
    }

    /// The ids of `text`, in which nothing is special.
    pub(crate) fn encode_ordinary(&self, text: &str) -> Vec<u32> {
        let composed = if self.nfc { form_c(text) } else { String::new() };
        let text = if self.nfc { &composed } else { text };
        self.pretokens(text).into_iter().flat_map(|pretoken| self.merge(pretoken)).collect()
    }

    fn pretokens<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut pretokens = Vec::new();
        let mut end = 0;
        for found in self.pattern.find_iter(text) {
            let found = found.unwrap();
            if found.as_str().is_empty() {
                continue;
            }
            if found.start() > end {
                pretokens.push(&text[end..found.start()]);
            }
            pretokens.push(found.as_str());
            end = found.end();
        }
        if end < text.len() {
            pretokens.push(&text[end..]);
        }
        pretokens
    }

    fn merge(&self, pretoken: &str) -> Vec<u32> {
        let special = |token: &[u8]| self.specials.iter().any(|s| s.as_bytes() == token);
        let mut parts: Vec<Vec<u8>> = pretoken.bytes().map(|byte| vec![byte]).collect();
        // Of a merge that is listed twice the later place counts.
        let ranks: HashMap<(&[u8], &[u8]), usize> = self
            .merges
            .iter()
            .flatten()
            .enumerate()
            .map(|(rank, (left, right))| ((left.as_slice(), right.as_slice()), rank))
            .collect();
        let whole = pretoken.as_bytes();
        let takes_whole = self.merges.is_none() || self.ignore_merges;
        if takes_whole && !special(whole) && self.ids.contains_key(whole) {
            return vec![self.ids[whole]];
        }
        loop {
            let rank = |at: usize| {
                if self.merges.is_some() {
                    return ranks.get(&(&parts[at], &parts[at + 1])).copied();
                }
                let joined = [&*parts[at], &*parts[at + 1]].concat();
                let id = self.ids.get(&joined).filter(|_| !special(&joined));
                id.map(|id| *id as usize)
            };
            let best = (1..parts.len()).filter_map(|at| Some((rank(at - 1)?, at - 1))).min();
            let Some((_, at)) = best else { break };
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        parts.iter().map(|part| self.ids[part]).collect()
    }
}

/// Unicode's form C as version 9.0 has it: what came later stays, and parts what stands around it.
pub(crate) fn form_c(text: &str) -> String {
    static LATER: LazyLock<fancy_regex::Regex> =
        LazyLock::new(|| fancy_regex::Regex::new(r"[^\p{Age=9.0}]").unwrap());
    let (mut composed, mut end) = (String::new(), 0);
    for later in LATER.find_iter(text) {
        let later = later.unwrap();
        composed.extend(text[end..later.start()].nfc());
        composed.push_str(later.as_str());
        end = later.end();
    }
    composed.extend(text[end..].nfc());
    composed
}
