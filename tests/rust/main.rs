//! One integration binary: a module per behaviour.
#![expect(clippy::unwrap_used, reason = "a test that fails to unwrap has failed")]

mod counts_file;
mod document_cuts;
mod encode;
mod learn_merges;
mod pretokenize;
mod ranks;
mod reference;
mod text_source;
