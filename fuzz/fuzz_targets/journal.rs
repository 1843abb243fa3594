//! Any bytes as the notes that a killed run left: an error, or a position.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lmkit::resume_point::Found;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| TempDir::new().expect("a folder"));

fuzz_target!(|journal: &[u8]| {
    let output = FOLDER.path().join("a.npy");
    fs::write(FOLDER.path().join(".a.npy.journal.0.lmkit-tmp"), journal).expect("a write");
    if let Ok(Some(found)) = Found::beside(&output) {
        let _ = (found.position(), found.slice_bytes());
    }
});
