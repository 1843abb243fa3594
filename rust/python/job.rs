//! A long call on another thread: work → result, while this thread lets Python breathe.
//!
//! The work runs with the interpreter lock released. The calling thread wakes every 50 ms, lets
//! Python handle its signals and calls the progress callback. On Ctrl-C (or a callback that raises)
//! it asks the work to stop through [`Progress`], waits for it and raises. For calls of less than a
//! few milliseconds it is the wrong tool: a thread is started for each.

use std::any::Any;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use pyo3::prelude::*;

use crate::error::{Error, Result};
use crate::progress::Progress;

const POLL: Duration = Duration::from_millis(50);

/// Runs `work` on another thread; `callback(phase, done, total)` is called while it runs and once
/// after it. The outer error is Python's (an interrupt, a callback that raised), the inner one ours.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    progress: &Progress,
    callback: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<Result<T>> {
    let report = || match callback {
        Some(callback) => callback.call1(progress.read()).map(drop),
        None => Ok(()),
    };
    thread::scope(|scope| {
        let (alive, ended) = bounded::<()>(0);
        let worker =
            thread::Builder::new().name("lmkit-job".to_owned()).spawn_scoped(scope, || {
                // Dropped when the work ends, also by a panic: that is the signal.
                let _alive = alive;
                work()
            })?;
        let mut raised = None;
        while py.detach(|| ended.recv_timeout(POLL)) == Err(RecvTimeoutError::Timeout) {
            if raised.is_none() {
                raised = py.check_signals().and_then(|()| report()).err();
                if raised.is_some() {
                    progress.cancel();
                }
            }
        }
        let result = py.detach(|| worker.join()).unwrap_or_else(|panic| Err(internal(&*panic)));
        if let Some(error) = raised {
            return Err(error);
        }
        py.check_signals()?;
        if result.is_ok() {
            report()?;
        }
        Ok(result)
    })
}

/// A panic is a bug of ours: it becomes an exception like any other failure.
fn internal(panic: &(dyn Any + Send)) -> Error {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    Error::Internal(message.unwrap_or_else(|| "a panic without a message".to_owned()))
}
