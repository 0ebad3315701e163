//! Memory and processor time of processes, from `/proc` (proc(5)).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Memory and processor time of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Resident memory, bytes.
    pub resident: u64,
    /// Processor time since its start, milliseconds.
    pub cpu_milliseconds: u64,
}

/// This process's own usage. Its file is opened early, since a process in its cage may be unable to open it later.
#[derive(Debug)]
pub struct OwnUsage {
    statm: Option<File>,
    page: u64,
}

impl OwnUsage {
    /// Opens the file that [`Self::now`] reads.
    pub fn open() -> Self {
        warm_up();
        Self { statm: File::open("/proc/self/statm").ok(), page: rustix::param::page_size() as u64 }
    }

    /// Returns the current usage; memory is 0 where `/proc` cannot be read.
    pub fn now(&self) -> Usage {
        Usage { resident: self.resident().unwrap_or(0), cpu_milliseconds: milliseconds(cpu()) }
    }

    fn resident(&self) -> Option<u64> {
        let mut buffer = [0; 128];
        let length = self.statm.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(buffer.get(..length)?).ok()?;
        let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(pages * self.page)
    }
}

/// Reads the clocks once: the first read needs the process's auxiliary vector, which the cage forbids.
pub(crate) fn warm_up() {
    let _ = (cpu(), rustix::param::page_size(), rustix::param::clock_ticks_per_second());
}

/// Returns the processor time of this process so far.
pub(crate) fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Returns the processor time of all children that have ended, milliseconds.
pub(crate) fn ended_children() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may contain anything; `cutime` and `cstime` are the fields 16 and 17, which are 14 and 15 after it.
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks: u64 = fields.split(' ').skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)
}

/// Returns the peak of a running process's resident memory, bytes.
pub(crate) fn peak_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    kilobytes.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let used = OwnUsage::open().now();
        let peak = peak_of(std::process::id()).unwrap();
        assert!(used.resident > 100_000 && used.resident <= peak, "{used:?}, at most {peak}");
        let before = ended_children();
        assert!(std::process::Command::new("/bin/true").status().unwrap().success());
        assert!(ended_children() >= before);
    }
}
