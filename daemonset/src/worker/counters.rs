//! Counters of a program's workers.

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

/// Snapshot of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workers started.
    pub started: u64,
    /// Workers that died while reading.
    pub died: u64,
    /// Layers that were read completely.
    pub layers: u64,
    /// Files that workers announced to parse.
    pub files: u64,
    /// Peak of a worker's resident memory, as far as it was observed; bytes.
    pub peak: u64,
}

impl Counters {
    /// Returns a snapshot.
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

    /// Records the memory of a running worker.
    pub(super) fn look(&self, pid: u32) {
        if let Some(peak) = usage::peak_of(pid) {
            self.peak.fetch_max(peak, Ordering::Relaxed);
        }
    }
}
