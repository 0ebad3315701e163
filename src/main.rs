//! `outcrop`: the aggregator and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Workers are this program, started again, so the role is checked before anything else.
    outcrop_agent::role::enter().unwrap_or_else(outcrop::cli::main)
}
