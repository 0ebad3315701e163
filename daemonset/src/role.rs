//! A program that starts itself again: the first thing that `main` asks is which role it was started in.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::runtime::{Error, containerd, role};
use crate::worker::{CageError, Caged, Program, enter_runtime_cage};

/// First argument of a child process. Nobody types it.
pub(crate) const ARGUMENT: &str = "--outcrop-role";

/// The role of a [worker](crate::worker).
pub(crate) const WORKER: &str = "worker";

/// The role of the process that holds the container runtime's socket. The socket's path may follow.
pub(crate) const RUNTIME: &str = "runtime";

/// Roles that enter a cage and try in vain to leave it, for `outcrop-agent selftest`.
pub(crate) const READER_SELFTEST: &str = "selftest-reader";
pub(crate) const RUNTIME_SELFTEST: &str = "selftest-runtime";

/// Plays the role that this process was started in, if it was started in one. Call this first in `main`, before any
/// thread, and end with the code that it returns.
pub fn enter() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let role = arguments.next()?;
    Some(match role.to_str() {
        Some(WORKER) => crate::worker::main(),
        Some(RUNTIME) => runtime(arguments.next().map(PathBuf::from)),
        Some(READER_SELFTEST) => crate::selftest::child(Caged::Reader, arguments.map(PathBuf::from)),
        Some(RUNTIME_SELFTEST) => crate::selftest::child(Caged::Runtime, arguments.map(PathBuf::from)),
        _ => ExitCode::FAILURE,
    })
}

/// Ends this process at once on SIGTERM and SIGINT, also where it is the first of its PID namespace, for which the kernel has
/// no default. There is nothing to put in order: its children end with their pipes, and nothing was written anywhere.
///
/// # Errors
/// When the kernel refuses.
pub fn end_on_signals() -> std::io::Result<()> {
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 0, Arc::new(AtomicBool::new(true)))?;
    }
    Ok(())
}

/// Listens at `listen` for the one process that reads storage, and answers its questions until it hangs up.
///
/// # Errors
/// When the two cannot be joined, containerd is not there, or rights cannot be given up; and at the end, since the other
/// process, when it is started again, has to be joined anew.
pub fn serve_joined(listen: &Path, socket: Option<&Path>) -> Result<(), Error> {
    crate::worker::hide_memory().map_err(|error| Error::SiblingEnded(error.to_string()))?;
    let stream = crate::runtime::accept(listen)?;
    let _ = role::serve::<containerd::Client, _>(stream, socket, caged);
    Err(Error::Join(listen.to_owned(), "the process at the other end has ended".to_owned()))
}

/// The command that starts `program` as the process that speaks to containerd, at `socket` or at the known places.
pub fn runtime_command(program: &Program, socket: Option<&Path>) -> Command {
    let mut command = program.command(RUNTIME);
    command.args(socket);
    command
}

fn runtime(socket: Option<PathBuf>) -> ExitCode {
    match role::from_stdin() {
        Ok(stream) => role::serve::<containerd::Client, _>(stream, socket.as_deref(), caged),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Gives up the rights of the process that speaks to containerd.
fn caged() -> Result<String, CageError> {
    enter_runtime_cage().map(|cage| cage.to_string())
}
