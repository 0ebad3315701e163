//! `outcrop db`: builds, inspects and verifies an advisory database, and pushes it to an aggregator.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use outcrop_proto::Digest;
use sha2::{Digest as _, Sha256};

use super::ask::describe_rematch;
use super::client::Server;
use super::progress::{self, Progress, Step};
use super::table::table;
use super::text::escape;
use super::{Exit, Fatal, print, unreadable};
use crate::advisory::trust::{PublicKey, Signature, signature_beside, signature_path};
use crate::advisory::{self, BuildProgress, BuildReport, Database};
use crate::web::Pushed;

/// Number of unusable records that are listed individually without `--verbose`.
const MAX_LISTED: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build an advisory database from OSV records
    Build {
        /// Source of OSV records: a directory, a .json or .yaml record, an all.zip from osv.dev, or a .tar.zst (repeatable)
        #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
        from: Vec<PathBuf>,
        /// Path of the database to write; the file is replaced atomically
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// List every unusable record; default: the first 20
        #[arg(long)]
        verbose: bool,
        #[command(flatten)]
        progress: progress::Flags,
    },
    /// Show the digest and the sources of an advisory database
    Info {
        /// Path of the database
        file: PathBuf,
    },
    /// Verify the minisign signature of an advisory database, read from FILE.minisig
    Verify {
        /// Path of the database
        file: PathBuf,
        /// Minisign public key, as base64 or as a .pub file (repeatable)
        #[arg(long, value_name = "KEY", required = true)]
        key: Vec<String>,
    },
    /// Push an advisory database, and FILE.minisig if present, to an aggregator; everything is matched again, no node rescans
    Push {
        /// Path of the database
        file: PathBuf,
        /// Accept a database that is older than the current one, or in which a source has far fewer records
        #[arg(long)]
        allow_shrink: bool,
        #[command(flatten)]
        progress: progress::Flags,
        #[command(flatten)]
        server: Server,
    },
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    match arguments.command {
        Command::Build { from, out, verbose, progress } => {
            let report = build(&from, &out, progress)?;
            let listed = if verbose { usize::MAX } else { MAX_LISTED };
            let mut text = String::new();
            for unusable in report.unusable.iter().take(listed) {
                let _ = writeln!(text, "unusable: {}: {}", escape(&unusable.file), escape(&unusable.reason));
            }
            if let Some(more) = report.unusable.len().checked_sub(listed).filter(|more| *more > 0) {
                let _ = writeln!(text, "unusable: {more} more; use --verbose to list all");
            }
            let _ = writeln!(
                text,
                "{}: {} records ({} withdrawn, {} for ecosystems that are not matched, {} superseded, {} unusable)",
                out.display(),
                report.records,
                report.withdrawn,
                report.irrelevant,
                report.superseded,
                report.unusable.len()
            );
            print(&text)?;
        }
        Command::Push { file, allow_shrink, progress, server } => push(&file, allow_shrink, progress, &server)?,
        Command::Info { file } => {
            let database = Database::open(&file).map_err(|error| Fatal::failed(error.to_string()))?;
            let sources = database.sources().map_err(|error| Fatal::failed(error.to_string()))?;
            let rows: Vec<Vec<String>> = sources
                .into_iter()
                .map(|source| vec![source.ecosystem, source.records.to_string(), source.newest, source.origins])
                .collect();
            print(&format!("{}\n\n", digest(&file)?))?;
            print(&table(&["SOURCE", "RECORDS", "NEWEST", "FROM"], &rows))?;
        }
        Command::Verify { file, key } => {
            let failed = |error: advisory::trust::TrustError| Fatal::failed(error.to_string());
            let keys: Vec<PublicKey> = key
                .iter()
                .map(|key| PublicKey::from_argument(key))
                .collect::<Result<_, _>>()
                .map_err(|error| Fatal::usage(format!("invalid value for --key: {error}")))?;
            let signature = signature_beside(&file).map_err(failed)?.ok_or_else(|| {
                Fatal::failed(format!(
                    "{} is not signed: {} does not exist",
                    file.display(),
                    signature_path(&file).display()
                ))
            })?;
            let wrong = |reason: String| Fatal::failed(format!("{}: {reason}", file.display()));
            let signature = Signature::parse(&signature).map_err(|error| wrong(error.to_string()))?;
            let mut reader = File::open(&file).map_err(|error| wrong(error.to_string()))?;
            let signed = signature.verify(&mut reader, &keys).map_err(|error| wrong(error.to_string()))?;
            print(&format!("{}: signed with key {}: {}\n", file.display(), signed.key, escape(&signed.comment)))?;
        }
    }
    Ok(Exit::Done)
}

/// Computes the SHA-256 of a file.
fn digest(path: &Path) -> Result<Digest, Fatal> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut read = || -> std::io::Result<()> {
        let mut file = File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                count => hash.update(buffer.get(..count).unwrap_or_default()),
            }
        }
    };
    read().map_err(|error| unreadable("reading", path, &error))?;
    Ok(Digest(hash.finalize().into()))
}

/// Builds a database and shows the progress.
fn build(from: &[PathBuf], out: &Path, flags: progress::Flags) -> Result<BuildReport, Fatal> {
    let counts = Arc::new(BuildProgress::default());
    let seen = Arc::clone(&counts);
    let progress = Progress::start(flags, move || {
        let [read, written, to_write] =
            [&seen.read, &seen.written, &seen.to_write].map(|count| count.load(Ordering::Relaxed));
        match to_write {
            0 => Step { done: None, text: format!("{read} records read") },
            total => Step { done: Some((written, total)), text: format!("{written} of {total} records written") },
        }
    });
    let report = advisory::build_with(from, out, &counts);
    drop(progress);
    report.map_err(|error| Fatal::failed(error.to_string()))
}

fn push(path: &Path, allow_shrink: bool, flags: progress::Flags, server: &Server) -> Result<(), Fatal> {
    let fail = |error: std::io::Error| unreadable("reading", path, &error);
    let file = File::open(path).map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(Fatal::usage(format!("{} is not a file; pass the path of an advisory database", path.display())));
    }
    let size = metadata.len();
    let client = server.connect()?;
    // A duplicated descriptor shares the offset, which is how much of the file was sent.
    let mut sent = file.try_clone().map_err(fail)?;
    let query = [("allow-shrink".to_owned(), allow_shrink.to_string())];
    let signature = signature_beside(path).map_err(|error| Fatal::failed(error.to_string()))?;
    let signature = signature.map(|signature| STANDARD.encode(signature));
    let mut headers = vec![("Content-Type", "application/vnd.sqlite3")];
    headers.extend(signature.as_deref().map(|signature| ("Outcrop-Signature", signature)));
    let progress = Progress::start(flags, move || match sent.stream_position() {
        Ok(sent) if sent < size => {
            Step { done: Some((sent, size)), text: format!("{} of {} MiB sent", sent >> 20, size.div_ceil(1 << 20)) }
        }
        _ => Step { done: None, text: "sent, matching everything again".to_owned() },
    });
    let pushed: Pushed = client.post("/api/v1/database", &query, &headers, file)?;
    drop(progress);
    let digest = escape(&pushed.digest);
    let summary = match &pushed.rematch {
        Some(rematch) => format!("{digest}: {}\n", describe_rematch(rematch)),
        None => format!("{digest} is already in use: nothing changed\n"),
    };
    print(&summary)
}
