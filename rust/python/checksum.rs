//! `_core.Checksum`: bytes as they come → the checksum that sidecars and manifests hold of ids.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use xxhash_rust::xxh3::Xxh3;

/// Sums up bytes in order; `text()` may be asked at any time.
#[pyclass(frozen, module = "lmkit._core")]
pub(super) struct Checksum(Mutex<Box<Xxh3>>);

#[pymethods]
impl Checksum {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(Box::new(Xxh3::new())))
    }

    fn update(&self, py: Python<'_>, data: PyBackedBytes) {
        py.detach(|| self.0.lock().unwrap_or_else(PoisonError::into_inner).update(&data));
    }

    fn text(&self) -> String {
        let sum = self.0.lock().unwrap_or_else(PoisonError::into_inner).digest128();
        format!("xxh3-128:{sum:032x}")
    }
}
