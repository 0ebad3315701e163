//! `outcrop-agent`: the agent of a node, and its diagnostic commands.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use outcrop_agent::arguments::{AgentCommand, CommandLine, DoctorArguments};
use outcrop_agent::logging::{self, LogFormat, SERVICE_FILTER, safe};
use outcrop_agent::role::{self, Signals};
use outcrop_agent::{agent, doctor, heartbeat, selftest};
use outcrop_proto::clock;
use outcrop_proto::escape::{escape, escape_json, escape_lines};

/// Exit code for wrong usage (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    // A worker is this program, started again: nothing may happen before its role is known.
    if let Some(code) = role::enter() {
        return code;
    }
    let clock = match clock::init() {
        Ok(warning) => warning,
        Err(error) => {
            fail(&error);
            return ExitCode::from(USAGE);
        }
    };
    let signals = match Signals::install() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("installing signal handlers: {error}")),
    };
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match command {
        AgentCommand::Run(arguments) => service(arguments.log_format(), clock, || {
            agent::run(arguments.config(), signals).map_err(|error| error.to_string())
        }),
        AgentCommand::Reader(arguments) => service(arguments.log_format(), clock, || {
            agent::run(arguments.config(), signals).map_err(|error| error.to_string())
        }),
        AgentCommand::Runtime(arguments) => service(arguments.log_format(), clock, || {
            role::serve_joined(&arguments.listen, arguments.containerd.as_deref(), signals)
                .map_err(|error| error.to_string())
        }),
        AgentCommand::Probe(arguments) => done(heartbeat::probe(arguments.pid).and_then(|line| print(&line))),
        AgentCommand::Doctor(arguments) => done(examine(arguments)),
        AgentCommand::Selftest(arguments) => {
            done(selftest::run(arguments.through.as_deref()).and_then(|table| print(&table)))
        }
    }
}

/// Runs a role that logs. Its failure is an event, so that a log collector sees it as it sees everything else.
fn service(format: LogFormat, warning: Option<String>, run: impl FnOnce() -> Result<(), String>) -> ExitCode {
    if let Err(error) = logging::init(format, SERVICE_FILTER) {
        fail(&error);
        return ExitCode::from(USAGE);
    }
    logging::log_panics();
    if let Some(warning) = warning {
        tracing::warn!(warning, "clock shifted");
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(reason = %safe(&error), "agent failed");
            ExitCode::FAILURE
        }
    }
}

/// Ends a command that a person runs.
fn done(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn examine(arguments: DoctorArguments) -> Result<(), String> {
    let json = arguments.json;
    let checks = doctor::examine(&arguments.subject());
    let text = match json {
        true => {
            let json = serde_json::to_string_pretty(&checks).map_err(|error| error.to_string())?;
            escape_json(&json).into_owned()
        }
        false => doctor::table(&checks).trim_end().to_owned(),
    };
    print(&text)?;
    match doctor::failed(&checks) {
        0 => Ok(()),
        failed => Err(format!("{failed} of {} checks failed", checks.len())),
    }
}

fn print(text: &str) -> Result<(), String> {
    writeln!(std::io::stdout(), "{}", escape_lines(text))
        .map_err(|error| format!("writing to standard output: {error}"))
}

fn fail(error: &dyn Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "outcrop-agent: {}", escape(&error.to_string()));
    ExitCode::FAILURE
}
