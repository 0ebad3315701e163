//! `outcrop`

use std::process::ExitCode;

fn main() -> ExitCode {
    // A worker is this program, started again: nothing may happen before it is told apart.
    outcrop_agent::role::enter().unwrap_or_else(outcrop::cli::main)
}
