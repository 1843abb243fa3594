//! The door to Python: borrow, release, call, wrap. Nothing outside this folder knows Python.

#[allow(dead_code, reason = "its first callers are being written")]
mod errors;
mod job;
mod tokenizer;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<tokenizer::Tokenizer>()?;
    module.add_class::<tokenizer::EncodeIterator>()?;
    module.add_class::<tokenizer::StreamDecoder>()
}
