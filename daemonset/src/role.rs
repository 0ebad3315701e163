//! A program that starts itself again: the first thing that `main` asks is which role it was started in.

use std::process::ExitCode;

/// First argument of a child process. Nobody types it.
pub(crate) const ARGUMENT: &str = "--outcrop-role";

/// The role of a [worker](crate::worker).
pub(crate) const WORKER: &str = "worker";

/// Plays the role that this process was started in, if it was started in one. Call this first in `main`, before any
/// thread, and end with the code that it returns.
pub fn enter() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != ARGUMENT {
        return None;
    }
    let role = arguments.next()?;
    Some(if role == WORKER { crate::worker::main() } else { ExitCode::FAILURE })
}
