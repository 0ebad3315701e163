//! Liveness without a listener and without a file: each process writes the time of its last loop into its own name, where
//! `outcrop-agent probe` reads it (`/proc/PID/comm`, proc(5)).

use std::ffi::CString;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Prefix of the time in a name. The kernel keeps 15 bytes of a name.
const PREFIX: &str = "outcrop:";

/// Interval of heartbeats of an idle process.
pub(crate) const BEAT: Duration = Duration::from_secs(15);

/// Age of a heartbeat, seconds, at which a process counts as hung: longer than any request to containerd may take, since a restart of the
/// agent would not help there.
const OLDEST: u64 = 180;

/// Writes a heartbeat. The main thread must call this.
pub(crate) fn beat() {
    if let Ok(name) = CString::new(format!("{PREFIX}{:x}", now())) {
        // If the name cannot be set, the probe reports it.
        let _ = rustix::thread::set_name(&name);
    }
}

/// Returns the seconds since the machine started, the same for all of its processes.
fn now() -> u64 {
    u64::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(0)
}

/// Checks the agent's processes in this PID namespace, or the given one, and returns a summary.
///
/// # Errors
/// When a process hangs, or none is found.
pub fn probe(pid: Option<u32>) -> Result<String, String> {
    let pids: Vec<u32> = match pid {
        Some(pid) => vec![pid],
        None => std::fs::read_dir("/proc")
            .map_err(|error| format!("reading /proc: {error}"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect(),
    };
    let beat = |pid: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((*pid, u64::from_str_radix(name.trim_end().strip_prefix(PREFIX)?, 16).ok()?))
    };
    judge(&pids.iter().filter_map(beat).collect::<Vec<_>>(), now())
}

fn judge(beats: &[(u32, u64)], now: u64) -> Result<String, String> {
    let age = |(pid, beat): &(u32, u64)| (now.saturating_sub(*beat), *pid);
    match beats.iter().map(age).max() {
        None => Err("no agent is running here; run the command in the agent's container".to_owned()),
        Some((age, pid)) if age > OLDEST => {
            Err(format!("process {pid} of the agent has not made progress for {age} s"))
        }
        Some((age, _)) => {
            Ok(format!("{} processes of the agent are alive, the oldest heartbeat is {age} s old", beats.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_that_hangs_is_enough_to_fail() {
        assert!(judge(&[], 1000).is_err());
        assert!(judge(&[(7, 1000), (8, 990)], 1000).is_ok());
        assert!(judge(&[(7, 1000), (8, 700)], 1000).unwrap_err().contains("process 8"));
        // A clock that was read a moment later in the other process.
        assert!(judge(&[(7, 1001)], 1000).is_ok());
    }

    #[test]
    fn a_process_that_says_that_it_lives_is_found() {
        // Each test has a thread of its own, and the process's name is its main thread's: a thread's is beside it.
        beat();
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert!(name.starts_with(PREFIX) && name.len() <= 16, "{name}");
        assert!(probe(Some(u32::MAX)).is_err());
    }
}
