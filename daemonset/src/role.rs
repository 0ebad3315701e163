//! Roles of a program that starts itself again. `main` first checks the role in which it was started.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::logging::safe;
use crate::runtime::role::End;
use crate::runtime::{Error, containerd, role};
use crate::worker::{CageError, Caged, Program, enter_runtime_cage};

/// First argument of a child process; not for users.
pub(crate) const ARGUMENT: &str = "--outcrop-role";

/// The role of a [worker](crate::worker).
pub(crate) const WORKER: &str = "worker";

/// The role of the process that holds the container runtime's socket. The path of the socket may follow.
pub(crate) const RUNTIME: &str = "runtime";

/// Roles that enter a cage and attempt every forbidden action, for `outcrop-agent selftest`.
pub(crate) const READER_SELFTEST: &str = "selftest-reader";
pub(crate) const RUNTIME_SELFTEST: &str = "selftest-runtime";

/// Runs the role that this process was started in, if any. Call this first in `main`, before any thread starts, and exit with the returned
/// code.
pub fn enter() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let role = arguments.next()?;
    close_inherited();
    Some(match role.to_str() {
        Some(WORKER) => crate::worker::main(),
        Some(RUNTIME) => runtime(arguments.next().map(PathBuf::from)),
        Some(READER_SELFTEST) => crate::selftest::child(Caged::Reader, arguments.map(PathBuf::from)),
        Some(RUNTIME_SELFTEST) => crate::selftest::child(Caged::Runtime, arguments.map(PathBuf::from)),
        _ => ExitCode::FAILURE,
    })
}

/// Closes every descriptor above standard error: a role gets all that it works on through standard input and output. Another descriptor
/// was inherited from whatever started this program, would be open in spite of the cage, and counts towards the limit of open files.
#[allow(unsafe_code)]
fn close_inherited() {
    const FIRST: libc::c_int = 3;
    // SAFETY: no other thread runs yet, and nothing in this process owns a descriptor from `FIRST` on.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if closed < 0 {
        // Linux before 5.9.
        let open = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(1 << 16);
        for descriptor in FIRST..libc::c_int::try_from(open).unwrap_or(1 << 16) {
            // SAFETY: as above; a number that is not open is an error without effect.
            let _ = unsafe { libc::close(descriptor) };
        }
    }
}

/// Signals that end a process: SIGTERM and SIGINT.
///
/// Until [`Self::defer`] is called, the first signal ends the process at once with exit code 0. That also holds for the first process
/// of a PID namespace, for which the kernel has no default action.
#[derive(Debug)]
pub struct Signals {
    /// Whether the next signal ends the process.
    at_once: Arc<AtomicBool>,
    /// One byte for each signal.
    received: UnixStream,
}

impl Signals {
    /// Registers handlers. Call it before the process gives up rights.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn install() -> std::io::Result<Self> {
        let (received, sender) = UnixStream::pair()?;
        received.set_nonblocking(true)?;
        let at_once = Arc::new(AtomicBool::new(true));
        for signal in [SIGTERM, SIGINT] {
            signal_hook::flag::register_conditional_shutdown(signal, 0, Arc::clone(&at_once))?;
            // A second signal ends the process while the first one is still handled.
            signal_hook::flag::register(signal, Arc::clone(&at_once))?;
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { at_once, received })
    }

    /// Leaves the next signal to the caller, who waits until the returned stream is readable and ends within five seconds. A second
    /// signal ends the process at once.
    pub fn defer(&self) -> &UnixStream {
        self.at_once.store(false, Ordering::SeqCst);
        &self.received
    }
}

/// Time for which the runtime role still serves the reader after SIGTERM, so that the reader can complete its work.
const LINGER: Duration = Duration::from_secs(4);

/// Listens at `listen` for the one process that reads storage, and serves it until it closes the stream, or for a short time
/// after SIGTERM.
///
/// # Errors
/// When the two cannot be joined, containerd is not there, or rights cannot be given up; and when the reader closes the stream: a
/// restarted reader has to be joined anew.
pub fn serve_joined(listen: &Path, socket: Option<&Path>, signals: Signals) -> Result<(), Error> {
    crate::worker::hide_memory()
        .map_err(|error| Error::Sibling(format!("protecting the memory of the process: {error}")))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %safe(&listen.to_string_lossy()), "runtime role started");
    let stream = crate::runtime::accept(listen)?;
    tracing::info!("reader connected");
    let stop = signals.defer().try_clone().map_err(Error::Spawn)?;
    let end = role::serve::<containerd::Client, _>(stream, socket, Some((stop, LINGER)), caged);
    match end {
        Ok(End::Stopped) => {
            tracing::info!("runtime role stopped");
            Ok(())
        }
        Ok(End::HungUp) => Err(Error::Join(listen.to_owned(), "the reader has closed the stream".to_owned())),
        Err(reason) => Err(Error::Sibling(reason)),
    }
}

/// Returns the command that starts `program` as the process that talks to containerd, on `socket` or on the first known path.
pub fn runtime_command(program: &Program, socket: Option<&Path>) -> Command {
    let mut command = program.command(RUNTIME);
    command.args(socket);
    command
}

fn runtime(socket: Option<PathBuf>) -> ExitCode {
    match role::from_stdin() {
        // Signals for the whole process group are the parent's to handle: this process ends with its stream.
        Ok(stream) => match ignore_signals()
            .map_err(|error| error.to_string())
            .and_then(|()| role::serve::<containerd::Client, _>(stream, socket.as_deref(), None, caged))
        {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(_) => ExitCode::FAILURE,
    }
}

fn ignore_signals() -> std::io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, Arc::default())?;
    }
    Ok(())
}

/// Gives up the rights of the process that talks to containerd.
fn caged() -> Result<String, CageError> {
    enter_runtime_cage().map(|cage| cage.to_string())
}
