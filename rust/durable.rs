//! Files and folders that appear under their final name only when whole.
//!
//! Bytes go to a temporary name beside the final one, are fsynced and renamed into place, and the
//! folder is fsynced: a crash at any moment leaves the old file or the new one.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folder that holds `path`; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The temporary name of `path` in this process: hidden, beside it, recognisable as ours.
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.{}.lmkit-tmp", std::process::id()))
}

/// Makes a rename inside `folder` survive a power cut.
pub fn sync_folder(folder: &Path) -> Result<()> {
    // Windows cannot open a folder as a file; its renames are durable once the file is.
    if cfg!(windows) {
        return Ok(());
    }
    File::open(folder).and_then(|file| file.sync_all()).map_err(|source| Error::io(folder, source))
}

/// Writes `bytes` to `path`, replacing what is there.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Has `write` fill a file that then replaces what is at `path`. An [`Error`] of ours passes
/// through as it is.
pub fn write_with(path: &Path, write: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    let partial = temporary(path);
    let written = File::create(&partial)
        .and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&partial, path));
    if let Err(source) = written {
        // The write failed; a partial file that cannot be removed either changes nothing.
        let _ = fs::remove_file(&partial);
        return Err(source.downcast().unwrap_or_else(|source| Error::io(path, source)));
    }
    sync_folder(parent(path))
}

/// Writes a folder of named files to `path`. A folder that is there already is replaced when
/// `replaceable` says it may be, and is otherwise [`Error::OutputExists`].
pub fn write_folder(
    path: &Path,
    files: &[(&str, Vec<u8>)],
    replaceable: impl Fn(&Path) -> bool,
) -> Result<()> {
    let exists = path.symlink_metadata().is_ok();
    if exists && !replaceable(path) {
        return Err(Error::OutputExists { path: path.to_owned() });
    }
    let partial = temporary(path);
    let made = (|| {
        clear(&partial)?;
        fs::create_dir(&partial).map_err(|source| Error::io(parent(path), source))?;
        for (name, bytes) in files {
            write_file(&partial.join(name), bytes)?;
        }
        let old = temporary(&path.with_extension("replaced"));
        if exists {
            clear(&old)?;
            fs::rename(path, &old).map_err(|source| Error::io(path, source))?;
        }
        fs::rename(&partial, path).map_err(|source| Error::io(path, source))?;
        clear(&old)?;
        sync_folder(parent(path))
    })();
    if made.is_err() {
        let _ = clear(&partial);
    }
    made
}

fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::io(folder, source)),
        _ => Ok(()),
    }
}
