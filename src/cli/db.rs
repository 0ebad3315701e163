//! `outcrop db`: make an advisory database, and look into one.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Subcommand;

use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, print};
use crate::advisory::{self, Database};

/// How many unusable records are told one by one.
const MAX_TOLD: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compile OSV records into one database file
    Build {
        /// A folder, a .json or .yaml record, an all.zip as osv.dev publishes it, or a .tar.zst; may be given again
        #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
        from: Vec<PathBuf>,
        /// The file to write; it appears whole or not at all
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Tell every record that could not be used, not only the first
        #[arg(long)]
        verbose: bool,
    },
    /// Tell what a database has, per source
    Info {
        /// The database
        file: PathBuf,
    },
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    match arguments.command {
        Command::Build { from, out, verbose } => {
            let report = advisory::build(&from, &out).map_err(|error| Fatal::failed(error.to_string()))?;
            let told = if verbose { usize::MAX } else { MAX_TOLD };
            let mut text = String::new();
            for unusable in report.unusable.iter().take(told) {
                let _ = writeln!(text, "unusable: {}: {}", escape(&unusable.file), escape(&unusable.reason));
            }
            if let Some(more) = report.unusable.len().checked_sub(told).filter(|more| *more > 0) {
                let _ = writeln!(text, "unusable: {more} more; --verbose tells them all");
            }
            let _ = writeln!(
                text,
                "{}: {} records ({} withdrawn, {} about nothing that is matched, {} older copies, {} unusable)",
                out.display(),
                report.records,
                report.withdrawn,
                report.irrelevant,
                report.superseded,
                report.unusable.len()
            );
            print(&text)?;
        }
        Command::Info { file } => {
            let database = Database::open(&file).map_err(|error| Fatal::failed(error.to_string()))?;
            let sources = database.sources().map_err(|error| Fatal::failed(error.to_string()))?;
            let rows: Vec<Vec<String>> = sources
                .into_iter()
                .map(|source| vec![source.ecosystem, source.records.to_string(), source.newest, source.origins])
                .collect();
            print(&table(&["SOURCE", "RECORDS", "NEWEST", "FROM"], &rows))?;
        }
    }
    Ok(Exit::Done)
}
