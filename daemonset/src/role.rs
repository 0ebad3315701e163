//! A program that starts itself again: the first thing that `main` asks is which role it was started in.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::worker::{CageError, Program, enter_runtime_cage};

/// First argument of a child process. Nobody types it.
pub(crate) const ARGUMENT: &str = "--outcrop-role";

/// The role of a [worker](crate::worker).
pub(crate) const WORKER: &str = "worker";

/// The role of the process that holds the container runtime's socket. The socket's path may follow.
pub(crate) const RUNTIME: &str = "runtime";

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
        _ => ExitCode::FAILURE,
    })
}

/// The command that starts `program` as the process that speaks to containerd, at `socket` or at the known places.
pub fn runtime_command(program: &Program, socket: Option<&Path>) -> Command {
    let mut command = program.command(RUNTIME);
    command.args(socket);
    command
}

fn runtime(socket: Option<PathBuf>) -> ExitCode {
    match crate::runtime::role::from_stdin() {
        Ok(stream) => crate::runtime::role::serve(stream, socket.as_deref(), caged),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Gives up the rights of the process that speaks to containerd.
fn caged() -> Result<String, CageError> {
    enter_runtime_cage().map(|cage| cage.to_string())
}
