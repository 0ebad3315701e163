//! Checks of a node: kernel, containerd, storage, rights.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::thread::CapabilitySet;

use super::{Check, Standing};
use crate::heartbeat;
use crate::runtime;
use crate::runtime::containerd::{Client, PLACES};
use crate::worker::{Landlock, Program, Started, WorkerError};

/// Root directories of containerd: its own default, and those of k3s, RKE2, k0s, `MicroK8s`.
const ROOTS: &[&str] = &[
    "/var/lib/containerd",
    "/var/lib/rancher/k3s/agent/containerd",
    "/var/lib/rancher/rke2/agent/containerd",
    "/var/lib/k0s/containerd",
    "/var/snap/microk8s/common/var/lib/containerd",
];

/// The kernel and the machine.
pub(super) fn kernel() -> Check {
    let system = rustix::system::uname();
    let [release, machine] = [system.release(), system.machine()].map(|text| text.to_string_lossy().into_owned());
    Check::ok("kernel", format!("Linux {release}, {machine}"))
}

/// containerd's socket, and where its snapshotters say that they keep their storage.
pub(super) async fn socket(standing: Standing, socket: Option<&Path>) -> (Check, Vec<PathBuf>) {
    const NAME: &str = "containerd";
    if standing == Standing::Reader && socket.is_none() {
        return (
            Check::skipped(NAME, "the socket is not mounted here, by design: the container named runtime has it"),
            Vec::new(),
        );
    }
    let client = match Client::connect(socket).await {
        Ok(client) => client,
        Err(error) => return (no_socket(standing, socket, &error), Vec::new()),
    };
    let at = client.socket().display();
    match client.storage_drivers().await {
        Ok(snapshotters) => {
            let names: Vec<&str> = snapshotters.iter().map(|of| of.name.as_str()).collect();
            let found = format!("{} at {at}, snapshotters {}", client.version(), names.join(", "));
            (Check::ok(NAME, found), snapshotters.into_iter().filter_map(|of| of.root).collect())
        }
        Err(error) => (
            Check::fail(
                NAME,
                format!("{} at {at}: listing snapshotters: {error}", client.version()),
                "check containerd's log on the node",
            ),
            Vec::new(),
        ),
    }
}

fn no_socket(standing: Standing, socket: Option<&Path>, error: &runtime::Error) -> Check {
    let todo = match (standing, error) {
        (Standing::Machine, runtime::Error::Permission(_)) => "run the command as root".to_owned(),
        (Standing::Machine, _) => {
            "check systemctl status containerd, or pass --containerd SOCKET if it listens elsewhere".to_owned()
        }
        _ => "set agent.runtime or agent.paths.socket in the chart to the socket of the node's containerd".to_owned(),
    };
    let found = match (error, socket) {
        (runtime::Error::NoSocket(_), None) => format!("no socket found at {}", PLACES.join(", ")),
        _ => error.to_string(),
    };
    Check::fail("containerd", found, todo)
}

/// A directory with storage.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    path: PathBuf,
    /// Why it cannot be read, if so.
    error: Option<String>,
    /// Set if it does not exist.
    is_missing: bool,
    /// Whether its mount is read-only.
    read_only: bool,
    /// Mounts below it that are not.
    writable_below: usize,
}

/// The directories with layers: those that containerd names, those that it usually has, and what else is mounted below `host`.
pub(super) fn storage(standing: Standing, host: &Path, told: &[PathBuf]) -> Vec<Check> {
    const NAME: &str = "storage";
    if standing == Standing::Runtime {
        return vec![Check::skipped(NAME, "storage is not mounted here, by design: the container named reader has it")];
    }
    let mountinfo = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = mounts(&mountinfo);
    let below = |path: &Path| host.join(path.strip_prefix("/").unwrap_or(path));
    let mut paths: Vec<PathBuf> = told.iter().map(|path| below(path)).collect();
    if paths.is_empty() {
        paths.extend(ROOTS.iter().map(|path| below(Path::new(path))).filter(|path| path.exists()));
    }
    if standing == Standing::Reader {
        // Below a root every container's filesystem may be mounted: only the outermost count.
        let mounted = mounts.iter().filter(|mount| mount.at.starts_with(host) && mount.at != host);
        for mount in mounted {
            if !paths.iter().any(|path| mount.at.starts_with(path)) {
                paths.push(mount.at.clone());
            }
        }
    }
    paths.sort();
    paths.dedup();
    let root = |path: PathBuf| {
        let error = std::fs::read_dir(&path).err();
        let is_missing = error.as_ref().is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        let error = error.map(|error| error.to_string());
        let around =
            mounts.iter().filter(|mount| path.starts_with(&mount.at)).max_by_key(|mount| mount.at.as_os_str().len());
        let inner = mounts.iter().filter(|mount| mount.at.starts_with(&path) && mount.at != path && !mount.read_only);
        let read_only = around.is_some_and(|mount| mount.read_only);
        Root { error, is_missing, read_only, writable_below: inner.count(), path }
    };
    // A remote snapshotter's directory may be missing; what is missing of all of them is told as one.
    let roots: Vec<Root> = paths.into_iter().map(root).collect();
    if roots.is_empty() {
        return vec![Check::fail(
            NAME,
            format!("none of {} exists below {}", ROOTS.join(", "), host.display()),
            "set agent.paths.root in the chart, or pass --host DIR, so that the node's layers are found",
        )];
    }
    roots.iter().map(|root| judge_root(standing, root)).collect()
}

fn judge_root(standing: Standing, root: &Root) -> Check {
    let name = format!("storage {}", root.path.display());
    if let Some(error) = &root.error {
        let todo = match standing {
            _ if root.is_missing => {
                "set --host to the directory below which the node's root file system is; by default /"
            }
            Standing::Machine => "run the command as root",
            _ => {
                "add CAP_DAC_READ_SEARCH to the container; if SELinux is enforced, set agent.seLinuxOptions in the chart"
            }
        };
        return Check::fail(&name, format!("not readable: {error}"), todo);
    }
    match (standing, root.read_only, root.writable_below) {
        (Standing::Machine, ..) => Check::ok(&name, "readable"),
        (_, false, _) => Check::warn(
            &name,
            "readable, mounted writable; the agent drops the right to write",
            "mount it read-only, as the chart does",
        ),
        (_, true, 0) => Check::ok(&name, "readable, mounted read-only"),
        (_, true, below) => Check::ok(
            &name,
            format!(
                "readable, mounted read-only; {below} mounts below are writable, the agent drops the right to write"
            ),
        ),
    }
}

/// A mount, as `/proc/self/mountinfo` tells it (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    read_only: bool,
}

fn mounts(mountinfo: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ').skip(4);
        let at = unescape(fields.next()?);
        let read_only = fields.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
        Some(Mount { at: PathBuf::from(std::ffi::OsStr::from_bytes(&at)), read_only })
    };
    mountinfo.split(|byte| *byte == b'\n').filter_map(mount).collect()
}

/// Blanks and their like are three octal digits there.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if *byte == b'\\' => {
                out.push(escaped);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

/// The capabilities of this process, which are those that the agent is started with.
pub(super) fn capabilities(standing: Standing) -> Check {
    match rustix::thread::capabilities(None) {
        Ok(sets) => judge_capabilities(standing, sets.effective),
        Err(error) => Check::fail("capabilities", format!("reading the capabilities: {error}"), ""),
    }
}

fn judge_capabilities(standing: Standing, held: CapabilitySet) -> Check {
    const NAME: &str = "capabilities";
    let reads = held.intersects(CapabilitySet::DAC_READ_SEARCH | CapabilitySet::DAC_OVERRIDE);
    let more = held - CapabilitySet::DAC_READ_SEARCH - CapabilitySet::SYS_ADMIN;
    match standing {
        Standing::Runtime if held.is_empty() => Check::ok(NAME, "none, as intended"),
        Standing::Runtime => Check::warn(
            NAME,
            "capabilities that the agent does not need and drops",
            "set drop: [ALL], as the chart does",
        ),
        _ if !reads => Check::fail(
            NAME,
            "CAP_DAC_READ_SEARCH is missing: files of other users are not readable",
            match standing {
                Standing::Machine => "run the command as root, or with AmbientCapabilities=CAP_DAC_READ_SEARCH",
                _ => "set add: [DAC_READ_SEARCH] in the security context of the container reader, as the chart does",
            },
        ),
        Standing::Reader if !more.is_empty() => Check::warn(
            NAME,
            "CAP_DAC_READ_SEARCH, and capabilities that the agent does not need and drops",
            "set drop: [ALL] and add: [DAC_READ_SEARCH], as the chart does",
        ),
        _ => Check::ok(NAME, "CAP_DAC_READ_SEARCH"),
    }
}

/// Starts a worker to check its sandbox, and whether it can see overlay's marks.
pub(super) fn cage(standing: Standing) -> Vec<Check> {
    judge_cage(standing, &Program::this().started())
}

fn judge_cage(standing: Standing, started: &Result<Started, WorkerError>) -> Vec<Check> {
    let started = match started {
        Ok(started) => started,
        Err(error) => {
            return vec![Check::fail(
                "sandbox",
                format!("starting a worker: {error}"),
                "allow seccomp(2) and the Landlock system calls in the seccomp profile, as RuntimeDefault does; then run outcrop-agent selftest",
            )];
        }
    };
    let cage = match started.cage.landlock {
        Landlock::Full => Check::ok("sandbox", started.cage.to_string()),
        Landlock::Partial => Check::warn(
            "sandbox",
            format!("{}: the Landlock of this kernel lacks some rights", started.cage),
            "use Linux 6.12 or later; outcrop-agent selftest shows the possible actions",
        ),
        Landlock::Missing => Check::warn(
            "sandbox",
            format!("{}: this kernel has no Landlock", started.cage),
            "use Linux 6.12 or later with landlock in the kernel parameter lsm=; outcrop-agent selftest shows the possible actions",
        ),
    };
    let marks = match (standing, started.marks) {
        (Standing::Runtime, _) => Check::skipped("overlay marks", "the container named reader reads layers"),
        (_, true) => Check::ok("overlay marks", "readable"),
        // That is how the chart installs it: they are checked in mounted roots instead.
        (_, false) => Check::ok(
            "overlay marks",
            "not readable without CAP_SYS_ADMIN: affected paths are checked in containers' mounted root file systems",
        ),
    };
    vec![cage, marks]
}

/// Returns whether an agent lives here.
pub(super) fn processes(standing: Standing) -> Check {
    match (heartbeat::probe(None), standing) {
        (Ok(line), _) => Check::ok("agent", line),
        (Err(line), Standing::Machine) if line.starts_with("no agent") => {
            Check::skipped("agent", "no agent is running here")
        }
        (Err(line), _) => Check::fail("agent", line, "check the agent's log; a liveness probe restarts it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;
    use crate::worker::Cage;

    #[test]
    fn what_has_to_be_held_depends_on_where_it_is() {
        use CapabilitySet as C;
        use Standing::{Machine, Reader, Runtime};
        for (standing, held, result) in [
            (Runtime, C::empty(), Outcome::Ok),
            (Runtime, C::DAC_READ_SEARCH, Outcome::Warn),
            (Reader, C::empty(), Outcome::Fail),
            (Reader, C::DAC_READ_SEARCH, Outcome::Ok),
            (Reader, C::DAC_READ_SEARCH | C::SYS_ADMIN, Outcome::Ok),
            (Reader, C::DAC_READ_SEARCH | C::NET_ADMIN, Outcome::Warn),
            (Machine, C::empty(), Outcome::Fail),
            (Machine, C::all(), Outcome::Ok),
        ] {
            assert_eq!(judge_capabilities(standing, held).result, result, "{standing:?} {held:?}");
        }
    }

    #[test]
    fn storage_is_readable_and_in_a_pod_read_only() {
        let root = |error: Option<&str>, read_only, writable_below| Root {
            path: "/host/var/lib/containerd".into(),
            error: error.map(ToOwned::to_owned),
            is_missing: error.is_some_and(|error| error.starts_with("No such file")),
            read_only,
            writable_below,
        };
        for (standing, root, result, says) in [
            (Standing::Reader, root(None, true, 0), Outcome::Ok, "read-only"),
            (Standing::Reader, root(None, true, 3), Outcome::Ok, "3 mounts below"),
            (Standing::Reader, root(None, false, 0), Outcome::Warn, "writable"),
            (Standing::Reader, root(Some("Permission denied"), true, 0), Outcome::Fail, "Permission denied"),
            (Standing::Machine, root(None, false, 9), Outcome::Ok, "readable"),
            (Standing::Machine, root(Some("No such file"), false, 0), Outcome::Fail, "No such file"),
        ] {
            let check = judge_root(standing, &root);
            assert_eq!(check.result, result, "{check:?}");
            assert!(check.found.contains(says), "{check:?}");
            assert_eq!(check.todo.is_empty(), result == Outcome::Ok, "{check:?}");
        }
    }

    #[test]
    fn a_mount_is_read_only_by_its_own_option() {
        let text = b"36 35 98:0 /mnt1 /host/a\\040b rw,noatime master:1 - ext4 /dev/root ro,errors=continue\n\
                     37 35 98:0 / /host/c ro,relatime - ext4 /dev/root rw\nbroken\n";
        let mount = |at: &str, read_only| Mount { at: at.into(), read_only };
        assert_eq!(mounts(text), [mount("/host/a b", false), mount("/host/c", true)]);
    }

    #[test]
    fn a_weaker_cage_is_told_with_what_to_do() {
        let started = |landlock, marks| Ok(Started { cage: Cage { landlock }, marks });
        for (started, cage, marks) in [
            (started(Landlock::Full, true), Outcome::Ok, Some(Outcome::Ok)),
            (started(Landlock::Full, false), Outcome::Ok, Some(Outcome::Ok)),
            (started(Landlock::Partial, false), Outcome::Warn, Some(Outcome::Ok)),
            (started(Landlock::Missing, false), Outcome::Warn, Some(Outcome::Ok)),
            (Err(WorkerError::Answer("nothing".to_owned())), Outcome::Fail, None),
        ] {
            let checks = judge_cage(Standing::Reader, &started);
            assert_eq!(checks[0].result, cage, "{checks:?}");
            assert_eq!(checks.get(1).map(|check| check.result), marks, "{checks:?}");
        }
    }
}
