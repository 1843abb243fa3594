//! From raw text to token ids: lmkit's core.

mod block_writer;
pub mod byte_alphabet;
pub mod canonical;
pub mod count_pretokens;
pub mod counts_file;
pub mod cut;
pub mod decode;
pub mod document_ends;
pub mod durable;
pub mod encode;
pub mod error;
pub mod learn_merges;
mod memory;
pub mod merge;
pub mod normalize;
mod pretoken_cache;
pub mod pretokenize;
mod processor;
pub mod progress;
pub mod ranks;
mod regex_dialect;
pub mod resume_point;
mod round;
mod seams;
pub mod special_tokens;
pub mod text_source;
pub mod token_file;
pub mod tokenize_files;
mod tokenizer_json;
pub mod train_tokenizer;
pub mod vocabulary;
pub mod vocabulary_files;
pub mod vocabulary_report;

#[cfg(feature = "python")]
mod python;
