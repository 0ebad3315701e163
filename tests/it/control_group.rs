//! Control groups that limit the memory of a test's processes: the kernel kills a process that exceeds the limit.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A control group, removed when it is dropped. The processes in it must have ended before.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    /// The file that counts the processes that the kernel has killed.
    events: &'static str,
}

impl Group {
    /// Creates a group whose processes may take `limit` bytes of memory together, and no swap. Returns `None` where this process may not.
    pub(crate) fn new(limit: u64) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap_or_default();
        // Version 2, or version 1, where the second limit is that of memory and swap together.
        let (parent, events, memory, swap) = if controllers.split_whitespace().any(|name| name == "memory") {
            ("/sys/fs/cgroup", "memory.events", "memory.max", ("memory.swap.max", 0))
        } else {
            let swap = ("memory.memsw.limit_in_bytes", limit);
            ("/sys/fs/cgroup/memory", "memory.oom_control", "memory.limit_in_bytes", swap)
        };
        let name = format!("outcrop-test-{}-{}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(parent).join(name);
        fs::create_dir(&path).ok()?;
        let group = Self { path, events };
        fs::write(group.path.join(memory), limit.to_string()).ok()?;
        // A kernel without swap has no limit of it.
        let _ = fs::write(group.path.join(swap.0), swap.1.to_string());
        Some(group)
    }

    /// Returns a command that runs `program` in the group from its first instruction on, as the same process.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]).arg(self.path.join("cgroup.procs")).arg(program);
        command
    }

    /// Returns how many processes of the group the kernel has killed because they took too much memory.
    pub(crate) fn kills(&self) -> u64 {
        let events = fs::read_to_string(self.path.join(self.events)).unwrap();
        events.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel needs a moment to forget a process that has ended.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_process_that_takes_more_than_the_limit_of_its_group_is_killed_and_counted() {
    let Some(group) = Group::new(64 << 20) else { return crate::skip::skip("root", "limiting memory") };
    let takes = |bytes: u64| {
        // dd has one buffer of this size.
        let mut dd = group.command("dd");
        dd.args(["if=/dev/zero", "of=/dev/null", "count=1", &format!("bs={bytes}"), "status=none"]);
        dd.status().unwrap().success()
    };
    assert!(takes(16 << 20));
    assert_eq!(group.kills(), 0);
    assert!(!takes(256 << 20));
    assert_eq!(group.kills(), 1);
    let path = group.path.clone();
    drop(group);
    assert!(!path.exists());
}
