//! The door to Python: borrow, release, call, wrap. Nothing outside this folder knows Python.

mod checksum;
mod errors;
mod job;
mod learn;
mod parquet;
mod shards;
mod tokenize_files;
mod tokenizer;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<checksum::Checksum>()?;
    module.add_class::<learn::Learner>()?;
    module.add_class::<learn::Counts>()?;
    module.add_class::<shards::ShardInputs>()?;
    module.add_class::<tokenize_files::TokenizeJob>()?;
    module.add_class::<tokenizer::Tokenizer>()?;
    module.add_class::<tokenizer::EncodeIterator>()?;
    module.add_class::<tokenizer::StreamDecoder>()
}
