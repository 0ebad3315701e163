//! Attempts every forbidden action from inside a cage.
//!
//! An action that is possible here would be possible for a parser that an image has taken over.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::job::Frame;
use super::pipe::Pipe;

/// One forbidden action and what stopped it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Description of the action.
    pub act: String,
    /// The mechanism that stopped the action, with the kernel's error; `None` if the action was possible.
    pub stopped_by: Option<String>,
}

/// Actions that the filter leaves to the kernel.
const TAKE_BACK: &str = "take a capability back";
const OTHER_CAPABILITY: &str = "take another capability";
const OTHER_IDENTITY: &str = "take another identity";
const SIGNAL: &str = "signal the parent";

/// The role whose cage is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caged {
    Worker,
    Reader,
    Runtime,
}

/// The roles for which an action is forbidden.
type To = &'static [Caged];
const ALL: To = &[Caged::Worker, Caged::Reader, Caged::Runtime];
/// To who needs no files but those whose handles it has.
const NO_FILES: To = &[Caged::Worker, Caged::Runtime];
const WORKER: To = &[Caged::Worker];
const READER: To = &[Caged::Reader];
const BUT_RUNTIME: To = &[Caged::Worker, Caged::Reader];

type Act<'a> = (To, &'static str, Box<dyn Fn() -> io::Result<()> + 'a>);

/// Attempts every forbidden action; `root` is the only readable directory.
pub(super) fn try_everything(
    root: &OwnedFd,
    outside: &[(String, Vec<u8>)],
    pipe: &mut Pipe,
) -> Result<Vec<u8>, String> {
    // Named like a path before it is parsed: if this process does not survive the act, one can tell which it was.
    let mut name = |act: &str| Frame::Paths(vec![act.into()]).write(pipe).map_err(|error| error.to_string());
    let mut attempts = attempts(Caged::Worker, root.as_fd(), &mut name)?;
    for (what, path) in outside {
        attempts.push(judge(Caged::Worker, format!("open {what}"), open(path.as_slice())));
    }
    postcard::to_stdvec(&attempts).map_err(|error| error.to_string())
}

/// Attempts the actions that are forbidden in this process's cage; `root` is a directory, and `name` gets each action before the attempt.
pub(crate) fn attempts(
    caged: Caged,
    root: BorrowedFd<'_>,
    name: &mut dyn FnMut(&str) -> Result<(), String>,
) -> Result<Vec<Attempt>, String> {
    let mut attempts = Vec::new();
    for (to, act, attempt) in acts(root) {
        if to.contains(&caged) {
            name(act)?;
            attempts.push(judge(caged, act.to_owned(), attempt()));
        }
    }
    Ok(attempts)
}

/// Returns what stopped an action: the filter answers EPERM, Landlock EACCES.
fn judge(caged: Caged, act: String, outcome: io::Result<()>) -> Attempt {
    let reader = caged == Caged::Reader;
    let stopped_by = outcome.err().map(|error| match error.raw_os_error() {
        Some(libc::EPERM)
            if [TAKE_BACK, OTHER_CAPABILITY].contains(&act.as_str()) || reader && act == OTHER_IDENTITY =>
        {
            "capabilities (EPERM)".to_owned()
        }
        Some(libc::EPERM) if reader && act == SIGNAL => "Landlock (EPERM)".to_owned(),
        Some(libc::EPERM) => "seccomp (EPERM)".to_owned(),
        Some(libc::EACCES) => "Landlock (EACCES)".to_owned(),
        Some(libc::EROFS) => "read-only mount (EROFS)".to_owned(),
        Some(libc::EXDEV) => "lookup beneath the layer's root (EXDEV)".to_owned(),
        Some(libc::EMFILE) => "limit of open files (EMFILE)".to_owned(),
        _ => error.to_string(),
    });
    Attempt { act, stopped_by }
}

fn open(path: &[u8]) -> io::Result<()> {
    // `openat`, which the filter allows for reading: it is Landlock that has to refuse.
    Ok(rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop)?)
}

fn acts<'a>(root: BorrowedFd<'a>) -> Vec<Act<'a>> {
    let mut acts: Vec<Act<'a>> = Vec::new();
    let mut add =
        |to: To, act: &'static str, attempt: Box<dyn Fn() -> io::Result<()> + 'a>| acts.push((to, act, attempt));
    let create = OFlags::WRONLY | OFlags::CREATE;
    let name = "outcrop-selftest";
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };

    add(NO_FILES, "open a file outside the layer", Box::new(|| open(b"/etc/passwd")));
    add(
        WORKER,
        "open a path above the layer's root",
        Box::new(move || {
            let how = ResolveFlags::BENEATH;
            Ok(rustix::fs::openat2(root, "..", OFlags::RDONLY, Mode::empty(), how).map(drop)?)
        }),
    );
    add(NO_FILES, "list the root directory", Box::new(|| open(b"/")));
    add(
        ALL,
        "read the parent's memory",
        Box::new(|| {
            let parent = rustix::process::getppid().map_or(1, rustix::process::Pid::as_raw_pid);
            open(format!("/proc/{parent}/mem").as_bytes())
        }),
    );
    add(
        ALL,
        "create a file in the layer",
        Box::new(move || Ok(rustix::fs::openat(root, name, create, Mode::RUSR).map(drop)?)),
    );
    add(
        ALL,
        "create a file in the layer with openat2",
        Box::new(move || Ok(rustix::fs::openat2(root, name, create, Mode::RUSR, ResolveFlags::BENEATH).map(drop)?)),
    );
    add(ALL, "write into the layer's directory", Box::new(move || Ok(rustix::io::write(root, b"x").map(drop)?)));
    add(ALL, "change a mode", Box::new(move || Ok(rustix::fs::fchmod(root, Mode::RWXU)?)));
    add(
        ALL,
        "change a mode by name",
        Box::new(move || Ok(rustix::fs::chmodat(root, ".", Mode::RWXU, AtFlags::empty())?)),
    );
    add(ALL, "change an owner", Box::new(move || Ok(rustix::fs::fchown(root, Some(Uid::ROOT), Some(Gid::ROOT))?)));
    add(
        ALL,
        "change times",
        Box::new(move || Ok(rustix::fs::futimens(root, &Timestamps { last_access: now, last_modification: now })?)),
    );
    add(
        ALL,
        "set an attribute",
        Box::new(move || Ok(rustix::fs::fsetxattr(root, "user.outcrop", b"x", XattrFlags::empty())?)),
    );
    add(ALL, "remove an attribute", Box::new(move || Ok(rustix::fs::fremovexattr(root, "user.outcrop")?)));
    add(ALL, "truncate a file", Box::new(move || Ok(rustix::fs::ftruncate(root, 0)?)));
    add(
        ALL,
        "drop pages from the cache",
        Box::new(move || Ok(rustix::fs::fadvise(root, 0, None, rustix::fs::Advice::DontNeed)?)),
    );
    add(ALL, "make a directory", Box::new(move || Ok(rustix::fs::mkdirat(root, name, Mode::RWXU)?)));
    add(
        ALL,
        "make a device",
        Box::new(move || Ok(rustix::fs::mknodat(root, name, FileType::CharacterDevice, Mode::RUSR, 0)?)),
    );
    add(ALL, "make a symbolic link", Box::new(move || Ok(rustix::fs::symlinkat("x", root, name)?)));
    add(ALL, "make a hard link", Box::new(move || Ok(rustix::fs::linkat(root, ".", root, name, AtFlags::empty())?)));
    add(ALL, "rename", Box::new(move || Ok(rustix::fs::renameat(root, name, root, "other")?)));
    add(ALL, "unlink", Box::new(move || Ok(rustix::fs::unlinkat(root, name, AtFlags::empty())?)));
    add(
        NO_FILES,
        "open an internet socket",
        Box::new(|| Ok(rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).map(drop)?)),
    );
    add(
        BUT_RUNTIME,
        "open a unix socket",
        Box::new(|| Ok(rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).map(drop)?)),
    );
    add(NO_FILES, "start a program", Box::new(|| std::process::Command::new("/bin/true").status().map(drop)));
    add(NO_FILES, "start a thread", Box::new(|| std::thread::Builder::new().spawn(|| ()).map(drop)));
    add(
        ALL,
        SIGNAL,
        Box::new(|| {
            let parent = rustix::process::getppid().ok_or(Errno::SRCH)?;
            Ok(rustix::process::test_kill_process(parent)?)
        }),
    );
    add(NO_FILES, TAKE_BACK, Box::new(|| take(CapabilitySet::SYS_ADMIN)));
    // It keeps CAP_SYS_ADMIN for its workers, if the operator gave it.
    add(READER, OTHER_CAPABILITY, Box::new(|| take(CapabilitySet::SYS_PTRACE)));
    add(NO_FILES, "change the working directory", Box::new(move || Ok(rustix::process::fchdir(root)?)));
    add(
        ALL,
        "hard-link by the empty path",
        Box::new(move || Ok(rustix::fs::linkat(root, "", CWD, name, AtFlags::EMPTY_PATH)?)),
    );
    for (name, family) in [("netlink", AddressFamily::NETLINK), ("packet", AddressFamily::PACKET)] {
        let act = if name == "netlink" { "open a netlink socket" } else { "open a packet socket" };
        add(ALL, act, Box::new(move || Ok(rustix::net::socket(family, SocketType::RAW, None).map(drop)?)));
    }
    let internet = || rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
    let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    add(READER, "bind a port", Box::new(move || Ok(rustix::net::bind(internet()?, &loopback)?)));
    add(READER, "listen", Box::new(move || Ok(rustix::net::listen(internet()?, 1)?)));
    add(READER, "accept a connection", Box::new(move || Ok(rustix::net::accept(internet()?).map(drop)?)));
    for (to, act, number) in RAW_CALLS {
        add(to, act, Box::new(move || raw(*number, root)));
    }
    acts
}

fn take(capability: CapabilitySet) -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.permitted |= capability;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Actions without a safe wrapper. All arguments but the first, a directory's handle, are zero: a kernel that lets the call pass answers
/// with another error than EPERM, and the attempt shows it.
const RAW_CALLS: &[(To, &str, i64)] = &[
    (ALL, "mount", libc::SYS_mount),
    #[cfg(target_arch = "x86_64")]
    (ALL, "mount by the x32 ABI", libc::SYS_mount | 0x4000_0000),
    (ALL, "unmount", libc::SYS_umount2),
    (ALL, "clone a mount", libc::SYS_open_tree),
    (ALL, "open a new file system", libc::SYS_fsopen),
    (ALL, "change a mount", libc::SYS_mount_setattr),
    (ALL, "open a file by its inode", libc::SYS_open_by_handle_at),
    (ALL, "trace a process", libc::SYS_ptrace),
    (ALL, "read another process's memory", libc::SYS_process_vm_readv),
    (ALL, "write another process's memory", libc::SYS_process_vm_writev),
    (ALL, "use io_uring", libc::SYS_io_uring_setup),
    (ALL, "load a BPF program", libc::SYS_bpf),
    (ALL, "run ioctl", libc::SYS_ioctl),
    (ALL, "set an attribute of a file", 469),
    (ALL, "enter a namespace", libc::SYS_setns),
    (ALL, "leave a namespace", libc::SYS_unshare),
    (ALL, "change the root", libc::SYS_chroot),
    (ALL, OTHER_IDENTITY, libc::SYS_setuid),
    (NO_FILES, "execute a program in this process", libc::SYS_execve),
    (WORKER, "send a file descriptor", libc::SYS_sendmsg),
    (NO_FILES, "make executable memory", libc::SYS_memfd_create),
    (ALL, "trace the system", libc::SYS_perf_event_open),
];

#[allow(unsafe_code)]
fn raw(number: i64, handle: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: every pointer argument is null and every length zero, so the kernel reads and writes no memory of ours; the
    // calls are on the list because the filter refuses them.
    let result = unsafe { libc::syscall(number, handle.as_fd().as_raw_fd(), 0, 0, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
