//! The cage: the rights that a process of Outcrop gives up, and how much of that this kernel enforces.
//!
//! Landlock decides which files can be opened, seccomp which system calls can be made. Neither is enough alone: Landlock does not cover
//! mode, owner, times and attributes, and seccomp cannot see the flags of `openat2`. Both bind the calling thread and everything that it
//! starts later, so a process enters its cage in `main`, before it starts any thread but the one that watches the pipe.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use serde::{Deserialize, Serialize};

/// The newest Landlock ABI that is requested; older kernels enforce the part that they know.
const ABI_WANTED: ABI = ABI::V6;

/// Maximum data memory of a worker, bytes. RLIMIT_AS would also count reserved address space.
const MAX_DATA: u64 = 192 << 20;

/// Maximum processor time of a worker, seconds.
const MAX_CPU: u64 = 120;

/// Maximum number of open files of a worker: the largest stack that overlayfs accepts, and some more.
pub(super) const MAX_FILES: u64 = 640;

/// The enforced part of Landlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Landlock {
    /// This kernel has no Landlock, or it is disabled: only seccomp and limits hold.
    Missing,
    /// An older Landlock that lacks some rights.
    Partial,
    /// All requested rights are enforced.
    Full,
}

/// The cage of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cage {
    /// The enforced part of Landlock.
    pub landlock: Landlock,
}

impl Cage {
    /// Parses the text form of [`Display`](std::fmt::Display); an unknown text gives the weakest cage.
    pub fn from_words(words: &str) -> Self {
        let cages = [Landlock::Full, Landlock::Partial].map(|landlock| Self { landlock });
        cages.into_iter().find(|cage| cage.to_string() == words).unwrap_or(Self { landlock: Landlock::Missing })
    }

    /// Returns the weaker of two cages.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        Self { landlock: self.landlock.min(other.landlock) }
    }
}

impl std::fmt::Display for Cage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.landlock {
            Landlock::Full => "landlock+seccomp",
            Landlock::Partial => "landlock (partial)+seccomp",
            Landlock::Missing => "seccomp only",
        })
    }
}

/// Reason why a process could not give up rights. The process must end.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    /// Landlock is available and refused the rules.
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The filter could not be built or installed.
    #[error("seccomp: {0}")]
    Seccomp(String),
    /// A limit, capability or flag could not be set.
    #[error("{what}: {source}")]
    System {
        /// Name of the limit, capability or flag.
        what: &'static str,
        /// Error of the kernel.
        source: rustix::io::Errno,
    },
}

fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> CageError {
    move |source| CageError::System { what, source }
}

/// Sets a worker's limits and hides its memory from other processes.
pub(super) fn limit() -> Result<(), CageError> {
    let limits = [
        (Resource::Data, MAX_DATA, "RLIMIT_DATA"),
        (Resource::Cpu, MAX_CPU, "RLIMIT_CPU"),
        (Resource::Nofile, MAX_FILES, "RLIMIT_NOFILE"),
        (Resource::Fsize, 0, "RLIMIT_FSIZE"),
        (Resource::Core, 0, "RLIMIT_CORE"),
    ];
    for (resource, value, what) in limits {
        // A lower limit that was there before stays.
        let hard = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let value = Some(value.min(hard));
        setrlimit(resource, Rlimit { current: value, maximum: value }).map_err(system(what))?;
    }
    hide_memory()
}

/// Hides this process's memory from other processes, also from a worker where Landlock is missing.
pub fn hide_memory() -> Result<(), CageError> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(system("PR_SET_DUMPABLE"))
}

/// Drops all capabilities of this thread except `keep`.
pub(super) fn keep_capabilities(keep: CapabilitySet) -> Result<(), CageError> {
    keep_for_children(keep, CapabilitySet::empty())
}

/// Like [`keep_capabilities`], and keeps other capabilities permitted for children: a child of root regains what is permitted.
fn keep_for_children(keep: CapabilitySet, children: CapabilitySet) -> Result<(), CageError> {
    let sets = capabilities(None).map_err(system("capget"))?;
    let permitted = sets.permitted & (keep | children);
    let sets = CapabilitySets { effective: permitted & keep, permitted, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).map_err(system("capset"))
}

/// Restricts this thread, and everything that it starts later, to opening files below `readable` for reading. It cannot open other files,
/// bind or connect TCP ports, or signal foreign processes.
pub(super) fn enter_landlock(readable: &[BorrowedFd<'_>]) -> Result<Cage, CageError> {
    let mut rules = ruleset(AccessNet::from_all(ABI_WANTED))?;
    for root in readable {
        rules = rules.add_rule(PathBeneath::new(*root, AccessFs::ReadFile | AccessFs::ReadDir))?;
    }
    enforce(rules)
}

/// Restricts this thread, and everything that it starts later, to reading and executing files: it can change nothing in the file system.
pub fn enter_read_only() -> Result<Cage, CageError> {
    read_only(AccessNet::from_all(ABI_WANTED), Vec::new())
}

/// Like [`enter_read_only`], for the process that talks to the aggregator: it may connect over TCP and UDP, but not listen, and it may open
/// no socket of another kind except a socket pair per worker. It keeps the capability to read foreign files, and for its workers the
/// capability to see overlay's marks, if it has that.
pub fn enter_reader_cage() -> Result<Cage, CageError> {
    let internet = [libc::AF_INET, libc::AF_INET6];
    let others = internet.map(|family| condition(0, Op::Ne, family as u64));
    let pair = condition(0, Op::Ne, libc::AF_UNIX as u64)?;
    let mut rules = vec![
        (libc::SYS_socket, vec![rule(others.into_iter().collect::<Result<_, _>>()?)?]),
        (libc::SYS_socketpair, vec![rule(vec![pair])?]),
    ];
    rules
        .extend([libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4].map(|call| (call, Vec::new())));
    let cage = read_only(AccessNet::BindTcp.into(), rules)?;
    keep_for_children(CapabilitySet::DAC_READ_SEARCH, CapabilitySet::SYS_ADMIN)?;
    Ok(cage)
}

fn read_only(no_net: BitFlags<AccessNet>, more: Vec<Entry>) -> Result<Cage, CageError> {
    let mut rules = ruleset(no_net)?;
    if let Ok(root) = PathFd::new("/") {
        rules = rules.add_rule(PathBeneath::new(root, AccessFs::from_read(ABI_WANTED)))?;
    }
    // The null device discards unwanted output of children.
    if let Ok(null) = PathFd::new("/dev/null") {
        rules = rules.add_rule(PathBeneath::new(null, AccessFs::ReadFile | AccessFs::WriteFile))?;
    }
    let cage = enforce(rules)?;
    install(deny_changes(more)?)?;
    Ok(cage)
}

fn ruleset(no_net: BitFlags<AccessNet>) -> Result<landlock::RulesetCreated, CageError> {
    Ok(Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI_WANTED))?
        .handle_access(no_net)?
        .scope(Scope::from_all(ABI_WANTED))?
        .create()?)
}

fn enforce(rules: landlock::RulesetCreated) -> Result<Cage, CageError> {
    // Sets no_new_privs as well, also where Landlock is missing.
    let landlock = match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Landlock::Full,
        RulesetStatus::PartiallyEnforced => Landlock::Partial,
        RulesetStatus::NotEnforced => Landlock::Missing,
    };
    Ok(Cage { landlock })
}

/// Installs the worker's allow-list on every thread of this process.
pub(super) fn enter_worker_seccomp() -> Result<(), CageError> {
    install(allow_list(WORKER_CALLS, worker_rules()?)?)
}

/// Restricts the process that talks to the container runtime to unix sockets, which it needs to reconnect to a restarted runtime: it can
/// open no file and no other socket, and it has no capability.
pub fn enter_runtime_cage() -> Result<Cage, CageError> {
    let cage = enter_landlock(&[])?;
    keep_capabilities(CapabilitySet::empty())?;
    hide_memory()?;
    let calls = [RUNTIME_CALLS, older::WAITING].concat();
    let own = [
        (libc::SYS_ioctl, vec![rule(vec![equals(1, libc::FIONBIO)?])?]),
        (libc::SYS_socket, vec![rule(vec![equals(0, libc::AF_UNIX as u64)?])?]),
        // A socket pair connects to nothing else; tokio creates one if it was built with signals.
        (libc::SYS_socketpair, vec![rule(vec![equals(0, libc::AF_UNIX as u64)?])?]),
        (libc::SYS_prctl, vec![rule(vec![equals(0, libc::PR_SET_NAME as u64)?])?]),
    ];
    let rules = own.map(Ok).into_iter().chain(shared_rules()).collect::<Result<_, CageError>>()?;
    install(allow_list(&calls, rules)?)?;
    Ok(cage)
}

fn install(program: BpfProgram) -> Result<(), CageError> {
    seccompiler::apply_filter_all_threads(&program).map_err(|error| CageError::Seccomp(error.to_string()))
}

/// System calls of every process: memory, its own threads and handles, time.
const COMMON_CALLS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_read,
    libc::SYS_close,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
];

/// Reading through handles. Landlock restricts `openat2`, whose flags lie in memory where a filter cannot see them.
const WORKER_CALLS: &[i64] = &[
    libc::SYS_pread64,
    libc::SYS_preadv2,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_getxattr,
    libc::SYS_listxattr,
    libc::SYS_openat2,
    libc::SYS_capset,
    libc::SYS_capget,
    libc::SYS_dup,
];

/// Connections, an event loop, and `pread64` for the file with this process's own memory use.
const RUNTIME_CALLS: &[i64] = &[
    libc::SYS_connect,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_ppoll,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_sched_getaffinity,
];

/// Older forms of the calls above, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
mod older {
    pub(super) const WAITING: &[i64] = &[libc::SYS_poll, libc::SYS_epoll_wait];
    pub(super) const CHANGING: &[i64] = &[
        libc::SYS_chmod,
        libc::SYS_chown,
        libc::SYS_lchown,
        libc::SYS_utime,
        libc::SYS_utimes,
        libc::SYS_futimesat,
        libc::SYS_rename,
        libc::SYS_link,
        libc::SYS_symlink,
        libc::SYS_unlink,
        libc::SYS_rmdir,
        libc::SYS_mkdir,
        libc::SYS_mknod,
    ];

    /// If the kernel has the x32 ABI, each call has a second number: the same with this bit, and for a few calls another one
    /// (arch/x86/entry/syscalls/syscall_64.tbl). A deny-list must contain them.
    pub(super) fn under_other_numbers(table: &mut super::Rules) {
        const X32: i64 = 0x4000_0000;
        let own = [
            (libc::SYS_ioctl, 514),
            (libc::SYS_ptrace, 521),
            (libc::SYS_kexec_load, 528),
            (libc::SYS_process_vm_readv, 539),
            (libc::SYS_process_vm_writev, 540),
        ];
        let same = table.iter().map(|(call, rules)| (call | X32, rules.clone()));
        let own = own.iter().filter_map(|(call, number)| Some((number | X32, table.get(call)?.clone())));
        let others: Vec<_> = same.chain(own).collect();
        table.extend(others);
    }
}
#[cfg(not(target_arch = "x86_64"))]
mod older {
    pub(super) const WAITING: &[i64] = &[];
    pub(super) const CHANGING: &[i64] = &[];

    pub(super) fn under_other_numbers(_: &mut super::Rules) {}
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Entry = (i64, Vec<SeccompRule>);

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, CageError> {
    SeccompRule::new(conditions).map_err(|error| CageError::Seccomp(error.to_string()))
}

fn condition(argument: u8, operator: Op, value: u64) -> Result<SeccompCondition, CageError> {
    SeccompCondition::new(argument, Len::Dword, operator, value).map_err(|error| CageError::Seccomp(error.to_string()))
}

fn equals(argument: u8, value: u64) -> Result<SeccompCondition, CageError> {
    condition(argument, Op::Eq, value)
}

/// Rules on arguments that every process shares: no new executable memory; only harmless `fcntl`.
fn shared_rules() -> impl Iterator<Item = Result<Entry, CageError>> {
    let no_exec = |call| Ok((call, vec![rule(vec![condition(2, Op::MaskedEq(libc::PROT_EXEC as u64), 0)?])?]));
    let fcntl = || {
        let commands = [libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
        let rules = commands.into_iter().map(|command| rule(vec![equals(1, command as u64)?]));
        Ok((libc::SYS_fcntl, rules.collect::<Result<_, CageError>>()?))
    };
    // An abort raises a signal in the process itself; the thread id cannot be known here, but no foreign process can be
    // reached either: Landlock's scope holds where it is, and a worker has no CAP_KILL.
    let abort = || Ok((libc::SYS_tgkill, vec![rule(vec![equals(2, libc::SIGABRT as u64)?])?]));
    [no_exec(libc::SYS_mmap), no_exec(libc::SYS_mprotect), fcntl(), abort()].into_iter()
}

fn worker_rules() -> Result<Vec<Entry>, CageError> {
    let to_pipe = |call| Ok((call, vec![rule(vec![equals(0, libc::STDOUT_FILENO as u64)?])?]));
    // Only O_RDONLY is allowed, without flags that create or truncate a file.
    let forbidden = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_TMPFILE & !libc::O_DIRECTORY;
    let read_only = |call| Ok((call, vec![rule(vec![condition(2, Op::MaskedEq(forbidden as u64), 0)?])?]));
    // Advice about one's own reading; advice to drop pages would reach those of who runs here.
    let advise = Ok((libc::SYS_fadvise64, vec![rule(vec![equals(3, libc::POSIX_FADV_RANDOM as u64)?])?]));
    let own = [to_pipe(libc::SYS_write), to_pipe(libc::SYS_writev), read_only(libc::SYS_openat), advise];
    own.into_iter().chain(shared_rules()).collect()
}

/// Builds a filter that refuses every call except these.
fn allow_list(calls: &[i64], rules: Vec<Entry>) -> Result<BpfProgram, CageError> {
    let mut table: Rules = COMMON_CALLS.iter().chain(calls).map(|call| (*call, Vec::new())).collect();
    table.extend(rules);
    compile(table, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

/// Builds a filter that allows every call except `more` and those that change files' metadata or the machine, which Landlock does not
/// cover.
fn deny_changes(more: Vec<Entry>) -> Result<BpfProgram, CageError> {
    // Through others, attributes of files could be set.
    let harmless = [libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ];
    let ioctl = harmless.map(|request| condition(1, Op::Ne, request)).into_iter().collect::<Result<_, _>>()?;
    let mut table: Rules = CHANGING_CALLS.iter().chain(older::CHANGING).map(|call| (*call, Vec::new())).collect();
    table.insert(libc::SYS_ioctl, vec![rule(ioctl)?]);
    // Dropping pages would slow down containers that share them.
    table.insert(libc::SYS_fadvise64, vec![rule(vec![equals(3, libc::POSIX_FADV_DONTNEED as u64)?])?]);
    table.extend(more);
    older::under_other_numbers(&mut table);
    compile(table, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))
}

/// Calls that change something on the node, or access other processes.
const CHANGING_CALLS: &[i64] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fsconfig,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_swapon,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_chroot,
    libc::SYS_fchmodat2,
    SYS_SETXATTRAT,
    SYS_REMOVEXATTRAT,
    SYS_FILE_SETATTR,
    libc::SYS_delete_module,
    libc::SYS_kexec_file_load,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_fanotify_init,
    libc::SYS_userfaultfd,
    libc::SYS_pidfd_getfd,
    libc::SYS_process_madvise,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
];

/// Calls that `libc` does not name yet; newer calls have the same number on all architectures.
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_FILE_SETATTR: i64 = 469;

fn compile(table: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, CageError> {
    let fail = |error: String| CageError::Seccomp(error);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| fail(error.to_string()))?;
    let filter = SeccompFilter::new(table, otherwise, matched, arch).map_err(|error| fail(error.to_string()))?;
    filter.try_into().map_err(|error: seccompiler::BackendError| fail(error.to_string()))
}
