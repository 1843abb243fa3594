//! Files and folders that appear under their final name only when whole.
//!
//! Bytes go to a temporary name beside the final one, are fsynced and renamed into place, and the
//! folder is fsynced: a crash at any moment leaves the old file or the new one.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;

use crate::error::{Error, Result};

/// The folder that holds `path`; `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The temporary name of `path` in this process: hidden, beside it, recognisable as ours.
pub fn temporary(path: &Path) -> PathBuf {
    temporary_of(path, std::process::id())
}

/// The process that owns what nobody is working on.
pub const NOBODY: u32 = 0;

/// The temporary name of `path` in that process.
pub fn temporary_of(path: &Path, process: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    parent(path).join(format!(".{name}.{process}.lmkit-tmp"))
}

/// The temporary files of `path` that dead processes, or nobody, left, with the process of each.
pub fn dead_temporaries(path: &Path) -> Vec<(u32, PathBuf)> {
    let Some(name) = path.file_name().map(|name| format!(".{}.", name.to_string_lossy())) else {
        return Vec::new();
    };
    let mut dead = Vec::new();
    for entry in fs::read_dir(parent(path)).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let process = found.to_str().and_then(|found| found.strip_prefix(&name));
        let process = process.and_then(|rest| rest.strip_suffix(".lmkit-tmp"));
        if let Some(process) = process.and_then(|id| id.parse::<u32>().ok())
            && (process == NOBODY || !is_alive(process))
        {
            dead.push((process, entry.path()));
        }
    }
    dead
}

/// Whether a process of this number runs; where nobody can say, it does.
#[cfg(unix)]
#[expect(unsafe_code, reason = "kill(2) with signal 0 only asks")]
fn is_alive(process: u32) -> bool {
    let Ok(process) = i32::try_from(process) else { return false };
    // SAFETY: signal 0 sends nothing; kill has no other requirements.
    let answer = unsafe { libc::kill(process, 0) };
    answer == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

#[cfg(not(unix))]
fn is_alive(_process: u32) -> bool {
    true
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
    replace_with(path, &temporary(path), write)?;
    sync_folder(parent(path))
}

/// Replaces what is at `path` by `bytes`, under a temporary name of the caller's choice and without
/// syncing the folder, where another rename in it follows.
pub fn replace(path: &Path, partial: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, partial, |file| file.write_all(bytes))
}

fn replace_with(
    path: &Path,
    partial: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let written = File::create(partial)
        .and_then(|mut file| write(&mut file).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(partial, path));
    if let Err(source) = written {
        // The write failed; a partial file that cannot be removed either changes nothing.
        let _ = fs::remove_file(partial);
        return Err(source.downcast().unwrap_or_else(|source| Error::io(path, source)));
    }
    Ok(())
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
        write_side_by_side(&partial, files)?;
        sync_folder(&partial)?;
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

/// Writes and fsyncs all files at once: a file system that is asked so commits them together.
fn write_side_by_side(folder: &Path, files: &[(&str, Vec<u8>)]) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        let mut file = File::create(&path).map_err(|source| Error::io(&path, source))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|why| Error::io(&path, why))
    };
    thread::scope(|scope| {
        let writers: Vec<_> =
            files.iter().map(|(name, bytes)| scope.spawn(|| write(name, bytes))).collect();
        writers.into_iter().try_for_each(|writer| {
            writer.join().unwrap_or_else(|_| Err(Error::Internal("a writer panicked".to_owned())))
        })
    })
}

fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::io(folder, source)),
        _ => Ok(()),
    }
}
