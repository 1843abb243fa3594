//! How a long call tells how far it is, and how it is told to stop.
//!
//! The worker adds to the counters and asks [`Progress::check`] every few milliseconds of work; the
//! caller reads the counters and calls [`Progress::cancel`] from any thread. Nothing here blocks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::error::{Error, Result};

/// Shared counters of one long call.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU64,
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Starts phase number `phase` (meaning the caller's), of `total` units; 0 where unknown.
    pub fn start(&self, phase: u64, total: u64) {
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
        self.phase.store(phase, Relaxed);
    }

    /// Adds `units` to what is done.
    pub fn add(&self, units: u64) {
        self.done.fetch_add(units, Relaxed);
    }

    /// `(phase, done, total)` as of now.
    pub fn read(&self) -> (u64, u64, u64) {
        (self.phase.load(Relaxed), self.done.load(Relaxed), self.total.load(Relaxed))
    }

    /// Asks the call to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    /// Whether the call was asked to stop.
    #[inline]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Relaxed)
    }

    /// [`Error::Interrupted`] once the call was asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
