//! The command line: one file per subcommand.

mod aggregator;
mod ask;
mod client;
mod columns;
mod db;
mod deliver;
mod describe;
mod doctor;
mod export;
mod failure;
mod get;
mod listing;
mod node;
mod output;
mod progress;
mod report;
mod scan;
mod selftest;
mod store;
mod table;
mod text;
mod token;
mod tunnel;
mod unmatched;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use outcrop_proto::clock;

use crate::aggregator::trial;

/// Exit codes, as documented in `docs/architecture.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done.
    Done = 0,
    /// The command failed.
    Failed = 1,
    /// Findings at or above `--fail-on`.
    Findings = 2,
    /// The command line was wrong.
    Usage = 64,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Find known vulnerabilities in running containers, without pulling images
#[derive(Debug, Parser)]
#[command(name = "outcrop", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Scan the containers on this node, a directory, image layers or an SBOM for known vulnerabilities
    Scan(Box<scan::Arguments>),
    /// Build, inspect, verify or push an advisory database
    Db(db::Arguments),
    /// Run the aggregator: collect inventories from agents, match them against advisories, serve the API and the web pages
    Aggregator(Box<aggregator::Arguments>),
    /// Show nodes, coverage, findings, the advisory database and current problems
    Status(ask::StatusArguments),
    /// List the containers that contain a package, a version of a package, or a vulnerability
    WhoHas(ask::WhoHasArguments),
    /// List workloads, configuration issues, nodes, containers, images, layers, packages or findings, or show one advisory
    Get(Box<get::Arguments>),
    /// Show one workload: its containers, findings and configuration issues
    Describe(describe::Arguments),
    /// Export bills of materials, findings and VEX for other tools: CycloneDX, SPDX, SARIF, OpenVEX, CSV
    Export(Box<export::Arguments>),
    /// Distrust a node's inventories, or trust them again
    Node(node::Arguments),
    /// List, test and resynchronize targets of deliveries; list, replay and drop refused deliveries
    Deliver(Box<deliver::Arguments>),
    /// Back up the aggregator's store, or assign it to another cluster
    Store(store::Arguments),
    /// Create tokens for nodes and for users of the API
    Token(token::Arguments),
    /// Check the cluster, the aggregator and its nodes, or this machine, and report problems with their fixes
    Doctor(Box<doctor::Arguments>),
    /// Try every forbidden action inside a worker's sandbox and print what stopped it
    Selftest,
    /// Repeat a job of the aggregator during which an earlier process ended
    #[command(hide = true, name = trial::ARGUMENT)]
    Trial,
}

/// An error that ends the command: one line with the cause and a hint.
#[derive(Debug)]
struct Fatal {
    exit: Exit,
    message: String,
}

impl Fatal {
    fn failed(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }
}

/// Returns the error for a file that a person named and that cannot be read, with a hint.
fn unreadable(doing: &str, path: &Path, error: &std::io::Error) -> Fatal {
    let path = path.display();
    Fatal::failed(match error.kind() {
        std::io::ErrorKind::NotFound => format!("{doing} {path}: no such file or directory; check the path"),
        std::io::ErrorKind::PermissionDenied => {
            format!("{doing} {path}: permission denied; check its owner and permissions, or run as root")
        }
        _ => format!("{doing} {path}: {error}"),
    })
}

/// Parses the address to listen on.
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected IP:PORT, as in 127.0.0.1:7480 or [::]:7480")
}

/// Returns the commands with their flags; `docs/configuration.md` is generated from them.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if let Err(error) = clock::init() {
        let _ = writeln!(std::io::stderr(), "outcrop: {}", text::escape(&error.to_string()));
        return Exit::Usage.into();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are not errors. If standard error is closed, the exit code remains.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let result = match arguments.command {
        Command::Scan(arguments) => scan::run(*arguments),
        Command::Db(arguments) => db::run(arguments),
        Command::Aggregator(arguments) => aggregator::run(*arguments),
        Command::Status(arguments) => ask::status(&arguments),
        Command::WhoHas(arguments) => ask::who_has(&arguments),
        Command::Store(arguments) => store::run(arguments),
        Command::Token(arguments) => token::run(arguments),
        Command::Get(arguments) => get::run(&arguments),
        Command::Describe(arguments) => describe::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
        Command::Deliver(arguments) => deliver::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Selftest => selftest::run(),
        Command::Trial => match trial::run() {
            Ok(()) => Ok(Exit::Done),
            Err(error) => Err(Fatal::failed(error.to_string())),
        },
    };
    match result {
        Ok(exit) => exit.into(),
        Err(Fatal { exit, message }) => {
            let _ = writeln!(std::io::stderr(), "outcrop: {}", text::escape(&message));
            exit.into()
        }
    }
}

/// Writes to standard output. A reader that closes the pipe early, such as `head`, is not an error.
fn print(output: &str) -> Result<(), Fatal> {
    output::emit(output).map(|_| ())
}
