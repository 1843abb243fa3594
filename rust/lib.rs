//! From raw text to token ids: lmkit's core.

pub mod cut;
pub mod error;
pub mod pretokenize;
pub mod progress;
pub mod vocabulary;

#[cfg(feature = "python")]
mod python;
