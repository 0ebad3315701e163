//! Every forbidden act, tried from inside the cage.
//!
//! What is not denied here would not be denied to a parser that an image has taken over.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use serde::{Deserialize, Serialize};

use super::job::Frame;
use super::pipe::Pipe;

/// One act and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// What was tried, as one would say it.
    pub act: String,
    /// What stopped it, with the kernel's answer; `None` when nothing did.
    pub stopped_by: Option<String>,
}

/// The one act that the filter leaves to the kernel.
const TAKE_BACK: &str = "take a capability back";

type Act<'a> = (&'static str, Box<dyn Fn() -> io::Result<()> + 'a>);

/// Tries every forbidden act; `root` is the one directory that may be read.
pub(super) fn try_everything(
    root: &OwnedFd,
    outside: &[(String, Vec<u8>)],
    pipe: &mut Pipe,
) -> Result<Vec<u8>, String> {
    let mut attempts: Vec<Attempt> = Vec::new();
    for (act, attempt) in acts(root.as_fd()) {
        // Named like a path before it is parsed: if this process does not survive the act, one can tell which it was.
        Frame::Paths(vec![act.into()]).write(pipe).map_err(|error| error.to_string())?;
        attempts.push(judge(act.to_owned(), attempt()));
    }
    for (what, path) in outside {
        attempts.push(judge(format!("open {what}"), open(path.as_slice())));
    }
    postcard::to_stdvec(&attempts).map_err(|error| error.to_string())
}

/// The filter answers EPERM and Landlock EACCES, so that one can tell which of them it was.
fn judge(act: String, outcome: io::Result<()>) -> Attempt {
    let stopped_by = outcome.err().map(|error| match error.raw_os_error() {
        Some(libc::EPERM) if act == TAKE_BACK => "capabilities (EPERM)".to_owned(),
        Some(libc::EPERM) => "seccomp (EPERM)".to_owned(),
        Some(libc::EACCES) => "Landlock (EACCES)".to_owned(),
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
    let mut add = |act: &'static str, attempt: Box<dyn Fn() -> io::Result<()> + 'a>| acts.push((act, attempt));
    let create = OFlags::WRONLY | OFlags::CREATE;
    let name = "outcrop-selftest";
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };

    add("open a file outside the layer", Box::new(|| open(b"/etc/passwd")));
    add(
        "open a path above the layer's root",
        Box::new(move || {
            let how = ResolveFlags::BENEATH;
            Ok(rustix::fs::openat2(root, "..", OFlags::RDONLY, Mode::empty(), how).map(drop)?)
        }),
    );
    add("list the root directory", Box::new(|| open(b"/")));
    add(
        "read the parent's memory",
        Box::new(|| {
            let parent = rustix::process::getppid().map_or(1, rustix::process::Pid::as_raw_pid);
            open(format!("/proc/{parent}/mem").as_bytes())
        }),
    );
    add(
        "create a file in the layer",
        Box::new(move || Ok(rustix::fs::openat(root, name, create, Mode::RUSR).map(drop)?)),
    );
    add(
        "create a file in the layer with openat2",
        Box::new(move || Ok(rustix::fs::openat2(root, name, create, Mode::RUSR, ResolveFlags::BENEATH).map(drop)?)),
    );
    add("write into the layer's directory", Box::new(move || Ok(rustix::io::write(root, b"x").map(drop)?)));
    add("change a mode", Box::new(move || Ok(rustix::fs::fchmod(root, Mode::RWXU)?)));
    add("change a mode by name", Box::new(move || Ok(rustix::fs::chmodat(root, ".", Mode::RWXU, AtFlags::empty())?)));
    add("change an owner", Box::new(move || Ok(rustix::fs::fchown(root, Some(Uid::ROOT), Some(Gid::ROOT))?)));
    add(
        "change times",
        Box::new(move || Ok(rustix::fs::futimens(root, &Timestamps { last_access: now, last_modification: now })?)),
    );
    add(
        "set an attribute",
        Box::new(move || Ok(rustix::fs::fsetxattr(root, "user.outcrop", b"x", XattrFlags::empty())?)),
    );
    add("remove an attribute", Box::new(move || Ok(rustix::fs::fremovexattr(root, "user.outcrop")?)));
    add("truncate a file", Box::new(move || Ok(rustix::fs::ftruncate(root, 0)?)));
    add(
        "drop pages from the cache",
        Box::new(move || Ok(rustix::fs::fadvise(root, 0, None, rustix::fs::Advice::DontNeed)?)),
    );
    add("make a directory", Box::new(move || Ok(rustix::fs::mkdirat(root, name, Mode::RWXU)?)));
    add(
        "make a device",
        Box::new(move || Ok(rustix::fs::mknodat(root, name, FileType::CharacterDevice, Mode::RUSR, 0)?)),
    );
    add("make a symbolic link", Box::new(move || Ok(rustix::fs::symlinkat("x", root, name)?)));
    add("make a hard link", Box::new(move || Ok(rustix::fs::linkat(root, ".", root, name, AtFlags::empty())?)));
    add("rename", Box::new(move || Ok(rustix::fs::renameat(root, name, root, "other")?)));
    add("unlink", Box::new(move || Ok(rustix::fs::unlinkat(root, name, AtFlags::empty())?)));
    add(
        "open an internet socket",
        Box::new(|| Ok(rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).map(drop)?)),
    );
    add(
        "open a unix socket",
        Box::new(|| Ok(rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).map(drop)?)),
    );
    add("start a program", Box::new(|| std::process::Command::new("/bin/true").status().map(drop)));
    add("start a thread", Box::new(|| std::thread::Builder::new().spawn(|| ()).map(drop)));
    add(
        "signal the parent",
        Box::new(|| {
            let parent = rustix::process::getppid().ok_or(Errno::SRCH)?;
            Ok(rustix::process::test_kill_process(parent)?)
        }),
    );
    add(
        TAKE_BACK,
        Box::new(|| {
            let mut sets = rustix::thread::capabilities(None)?;
            sets.permitted |= rustix::thread::CapabilitySet::SYS_ADMIN;
            sets.effective = sets.permitted;
            Ok(rustix::thread::set_capabilities(None, sets)?)
        }),
    );
    add("change the working directory", Box::new(move || Ok(rustix::process::fchdir(root)?)));
    add(
        "hard-link by the empty path",
        Box::new(move || Ok(rustix::fs::linkat(root, "", CWD, name, AtFlags::EMPTY_PATH)?)),
    );
    for (act, number) in RAW_CALLS {
        add(act, Box::new(move || raw(*number, root)));
    }
    acts
}

/// Acts that no safe wrapper offers. Their arguments are all zero but the first, a directory's handle: a kernel that let
/// them pass would answer with another error than EPERM, and the attempt would show it.
const RAW_CALLS: &[(&str, i64)] = &[
    ("mount", libc::SYS_mount),
    ("unmount", libc::SYS_umount2),
    ("clone a mount", libc::SYS_open_tree),
    ("open a new file system", libc::SYS_fsopen),
    ("change a mount", libc::SYS_mount_setattr),
    ("open a file by its inode", libc::SYS_open_by_handle_at),
    ("trace a process", libc::SYS_ptrace),
    ("read another process's memory", libc::SYS_process_vm_readv),
    ("write another process's memory", libc::SYS_process_vm_writev),
    ("use io_uring", libc::SYS_io_uring_setup),
    ("load a BPF program", libc::SYS_bpf),
    ("run ioctl", libc::SYS_ioctl),
    ("enter a namespace", libc::SYS_setns),
    ("leave a namespace", libc::SYS_unshare),
    ("change the root", libc::SYS_chroot),
    ("take another identity", libc::SYS_setuid),
    ("start a program in place", libc::SYS_execve),
    ("send a handle away", libc::SYS_sendmsg),
    ("make executable memory", libc::SYS_memfd_create),
    ("trace the system", libc::SYS_perf_event_open),
];

#[allow(unsafe_code)]
fn raw(number: i64, handle: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: every pointer argument is null and every length zero, so the kernel reads and writes no memory of ours; the
    // calls are on the list because the filter refuses them.
    let result = unsafe { libc::syscall(number, handle.as_fd().as_raw_fd(), 0, 0, 0, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
