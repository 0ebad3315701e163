//! The command line: one file a subcommand.

mod aggregator;
mod ask;
mod bom;
mod client;
mod db;
mod describe;
mod doctor;
mod get;
mod listing;
mod node;
mod output;
mod report;
mod scan;
mod selftest;
mod table;
mod text;
mod token;
mod tunnel;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use outcrop_proto::clock;

/// Exit codes, as `docs/architecture.md` promises them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// Done.
    Done = 0,
    /// Something went wrong.
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

/// Tells which known vulnerabilities run on this node, without pulling one image.
#[derive(Debug, Parser)]
#[command(name = "outcrop", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell which known vulnerabilities run on this node, or lie in a directory, layers or an SBOM
    Scan(Box<scan::Arguments>),
    /// Make an advisory database, look into one, or push it to an aggregator
    Db(db::Arguments),
    /// Take what agents tell, match it, and answer questions about all nodes
    Aggregator(Box<aggregator::Arguments>),
    /// Tell the state of everything that an aggregator knows
    Status(ask::StatusArguments),
    /// Tell which containers have a package, a version of it, or a problem
    WhoHas(ask::WhoHasArguments),
    /// List workloads, nodes, containers, images, layers, packages, findings, configuration issues, or what an advisory touches
    Get(Box<get::Arguments>),
    /// Tell all of one workload: its containers, what is found in them, and how it is configured
    Describe(describe::Arguments),
    /// Believe a node no more, or again
    Node(node::Arguments),
    /// Make tokens for nodes, and for callers of the API
    Token(token::Arguments),
    /// Look at the cluster, the aggregator and its nodes, or at this machine; say what is wrong and what to do
    Doctor(Box<doctor::Arguments>),
    /// Try every forbidden act in a worker's cage, and print what stopped it
    Selftest,
}

/// An error that ends the command: one line, and what to do next.
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

/// The commands with their flags, from which `docs/configuration.md` is made.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match clock::init() {
        Ok(Some(warning)) => drop(writeln!(std::io::stderr(), "outcrop: warning: {warning}")),
        Ok(None) => {}
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outcrop: {}", text::escape(&error.to_string()));
            return Exit::Usage.into();
        }
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are not errors. If nobody can be told, the code still tells.
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
        Command::Token(arguments) => token::run(arguments),
        Command::Get(arguments) => get::run(&arguments),
        Command::Describe(arguments) => describe::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Selftest => selftest::run(),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(Fatal { exit, message }) => {
            let _ = writeln!(std::io::stderr(), "outcrop: {}", text::escape(&message));
            exit.into()
        }
    }
}

/// Writes to standard output. A reader that went away, as `head` does, is no failure of ours.
fn print(output: &str) -> Result<(), Fatal> {
    output::emit(output).map(|_| ())
}
