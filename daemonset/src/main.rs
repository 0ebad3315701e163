//! `outcrop-agent`: what runs on a node.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The service comes with the roles `runtime` and `reader`; until then the program is what `outcrop` starts again.
    outcrop_agent::role::enter().unwrap_or(ExitCode::from(64))
}
