//! `outcrop-agent`: what runs on a node.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use outcrop_agent::arguments::{
    AgentArguments, DoctorArguments, ProbeArguments, ReaderArguments, RuntimeArguments, SelftestArguments,
};
use outcrop_agent::{agent, doctor, heartbeat, role, selftest};
use outcrop_proto::clock;

fn main() -> ExitCode {
    // A worker is this program, started again: nothing may happen before it is told apart.
    if let Some(code) = role::enter() {
        return code;
    }
    match clock::init() {
        Ok(Some(warning)) => drop(writeln!(std::io::stderr(), "outcrop-agent: warning: {warning}")),
        Ok(None) => {}
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outcrop-agent: {error}");
            return ExitCode::from(64);
        }
    }
    if let Err(error) = role::end_on_signals() {
        return fail(&format!("installing signal handlers: {error}"));
    }
    let command = std::env::args().nth(1).unwrap_or_default();
    match command.as_str() {
        "runtime" => with(1, |arguments: RuntimeArguments| {
            role::serve_joined(&arguments.listen, arguments.containerd.as_deref()).map_err(|error| error.to_string())
        }),
        "reader" => {
            with(1, |arguments: ReaderArguments| agent::run(arguments.config()).map_err(|error| error.to_string()))
        }
        "probe" => with(1, |arguments: ProbeArguments| heartbeat::probe(arguments.pid).and_then(|line| print(&line))),
        "doctor" => with(1, examine),
        "selftest" => with(1, |arguments: SelftestArguments| {
            selftest::run(arguments.through.as_deref()).and_then(|table| print(&table))
        }),
        _ => with(0, |arguments: AgentArguments| agent::run(arguments.config()).map_err(|error| error.to_string())),
    }
}

/// Does something with the command line, without its first `skipped` words.
fn with<A: Parser>(skipped: usize, act: impl FnOnce(A) -> Result<(), String>) -> ExitCode {
    let program = std::env::args_os().take(1);
    match A::try_parse_from(program.chain(std::env::args_os().skip(1 + skipped))) {
        Ok(arguments) => match act(arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Err(error) => {
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS }
        }
    }
}

fn examine(arguments: DoctorArguments) -> Result<(), String> {
    let json = arguments.json;
    let checks = doctor::examine(&arguments.subject());
    let text = match json {
        true => serde_json::to_string_pretty(&checks).map_err(|error| error.to_string())?,
        false => doctor::table(&checks).trim_end().to_owned(),
    };
    print(&text)?;
    match doctor::failed(&checks) {
        0 => Ok(()),
        failed => Err(format!("{failed} of {} checks fail", checks.len())),
    }
}

fn print(text: &str) -> Result<(), String> {
    writeln!(std::io::stdout(), "{text}").map_err(|error| error.to_string())
}

fn fail(error: &dyn Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "outcrop-agent: {error}");
    ExitCode::FAILURE
}
