//! What became of a program's workers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::usage;

/// Counts of all workers of a program.
#[derive(Debug, Default)]
pub struct Counters {
    started: AtomicU64,
    died: AtomicU64,
    layers: AtomicU64,
    files: AtomicU64,
    peak: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workers started.
    pub started: u64,
    /// Those that died of what they read.
    pub died: u64,
    /// Layers that were read completely.
    pub layers: u64,
    /// Files that workers announced to parse.
    pub files: u64,
    /// The most resident memory that one of them was seen to have, bytes.
    pub peak: u64,
}

impl Counters {
    /// The counts now.
    pub fn now(&self) -> Counts {
        Counts {
            started: self.started.load(Ordering::Relaxed),
            died: self.died.load(Ordering::Relaxed),
            layers: self.layers.load(Ordering::Relaxed),
            files: self.files.load(Ordering::Relaxed),
            peak: self.peak.load(Ordering::Relaxed),
        }
    }

    pub(super) fn starts(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn completes_layer(&self) {
        self.layers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn announces(&self, files: usize) {
        self.files.fetch_add(files as u64, Ordering::Relaxed);
    }

    pub(super) fn dies(&self) {
        self.died.fetch_add(1, Ordering::Relaxed);
    }

    /// Looks at a worker that lives.
    pub(super) fn look(&self, pid: u32) {
        if let Some(peak) = usage::peak_of(pid) {
            self.peak.fetch_max(peak, Ordering::Relaxed);
        }
    }
}
