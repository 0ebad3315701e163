//! Limits that protect the node's workloads from a worker: lowest priority for processor and disk, and a share of one processor.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::usage;

/// Limits and priority of reading layers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manner {
    /// Maximum size of a layer.
    pub limits: LayerLimits,
    /// Whether workers have the lowest priority for processor (nice 19) and disk (idle class).
    pub polite: bool,
    /// Share of one processor that a worker may use, more than 0 and at most 1.
    pub share: f64,
}

impl Default for Manner {
    fn default() -> Self {
        Self { limits: LayerLimits::default(), polite: false, share: 1.0 }
    }
}

/// Limits beyond which a layer is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerLimits {
    /// Number of files, directories and other entries.
    pub files: u64,
    /// Size of the path table, bytes.
    pub path_bytes: u64,
    /// Number of files that could be evidence.
    pub evidence_files: u64,
    /// Bytes read of these files.
    pub evidence_bytes: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        // The largest image seen, a JavaScript monorepo, has 60,000 evidence files.
        Self { files: 20_000_000, path_bytes: 64 << 20, evidence_files: 500_000, evidence_bytes: 64 << 30 }
    }
}

/// Reason why a layer was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It exceeds a limit.
    TooLarge(String),
    /// Another error.
    Failed(String),
}

impl<E: std::fmt::Display> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Gives this process the lowest priority.
pub(super) fn stand_last() {
    // If the kernel refuses, the worker continues with its current priority.
    let _ = rustix::process::setpriority_process(None, 19);
    idle_io();
}

#[allow(unsafe_code)]
fn idle_io() {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    const IOPRIO_CLASS_IDLE: libc::c_long = 3 << 13;
    // SAFETY: the call takes three numbers and touches no memory; no crate that we use offers it.
    let _ = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE) };
}

/// Keeps a process within its share of a processor, by its own processor time.
pub(super) struct Throttle {
    share: f64,
    start: Instant,
    used: Duration,
}

/// Minimum pause; shorter ones are not worth a system call.
const SHORTEST: Duration = Duration::from_millis(5);

/// Maximum pause; a longer one is split, and the processor time is checked in between.
const LONGEST: Duration = Duration::from_secs(1);

impl Throttle {
    pub(super) fn new(share: f64) -> Self {
        Self { share: share.clamp(0.01, 1.0), start: Instant::now(), used: usage::cpu() }
    }

    /// Waits while the process has used more than its share.
    pub(super) fn pause(&self) {
        if self.share >= 1.0 {
            return;
        }
        loop {
            let due = usage::cpu().saturating_sub(self.used).div_f64(self.share);
            let early = due.saturating_sub(self.start.elapsed());
            if early < SHORTEST {
                return;
            }
            std::thread::sleep(early.min(LONGEST));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_priority_applies_to_processor_and_disk() {
        // Both are a thread's own, and what it starts has them, too.
        std::thread::spawn(|| {
            stand_last();
            assert_eq!(rustix::process::getpriority_process(None).unwrap(), 19);
            let thread = rustix::thread::gettid().as_raw_pid().to_string();
            assert_eq!(class_of(&thread), "idle");
        })
        .join()
        .unwrap();
    }

    /// The class that `ionice` prints; the expected one where it is not installed.
    fn class_of(thread: &str) -> String {
        let told = std::process::Command::new("ionice").args(["-p", thread]).output();
        told.map_or("idle".to_owned(), |told| String::from_utf8_lossy(&told.stdout).trim().to_owned())
    }

    #[test]
    fn a_process_above_its_share_waits() {
        let throttle = Throttle::new(0.25);
        let mut busy = 0_u64;
        while usage::cpu().saturating_sub(throttle.used) < Duration::from_millis(40) {
            busy = busy.wrapping_mul(31).wrapping_add(7);
        }
        throttle.pause();
        // Other tests use this process's clock, too: at least four times its own part.
        assert!(throttle.start.elapsed() >= Duration::from_millis(150), "{busy}");
    }
}
