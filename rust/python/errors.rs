//! A failure of the core → the exception of `lmkit.errors` that stands for its kind.

use pyo3::exceptions::{PyKeyboardInterrupt, PyMemoryError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{Error, ErrorKind};

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        let class = match error.kind() {
            ErrorKind::Interrupted => return PyKeyboardInterrupt::new_err(()),
            ErrorKind::OutOfMemory => return PyMemoryError::new_err(error.to_string()),
            ErrorKind::Usage => "UsageError",
            ErrorKind::MissingFile => "MissingFileError",
            ErrorKind::Malformed => "MalformedError",
            ErrorKind::System => "SystemRefusedError",
            ErrorKind::Mismatch => "MismatchError",
            ErrorKind::Failed => "LmkitError",
        };
        Python::attach(|py| {
            let made = (|| {
                let hint = PyDict::new(py);
                hint.set_item("hint", error.hint())?;
                let class = py.import("lmkit.errors")?.getattr(class)?;
                class.call((error.to_string(),), Some(&hint))
            })();
            made.map_or_else(|failure| failure, Self::from_value)
        })
    }
}
