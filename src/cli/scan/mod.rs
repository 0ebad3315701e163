//! `outcrop scan`: scans the containers on this node, a directory, image layers or an SBOM.

mod containers;
mod directories;
mod documents;
mod lock_files;
mod matcher;

use std::fs::File;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use outcrop_agent::scan::Scanner;
use outcrop_agent::worker::{Program, enter_read_only, hide_memory};
use outcrop_proto::escape::escape_json;
use outcrop_proto::{Coverage, CoverageState, Severity, StackPackage};

use lock_files::Unread;
pub(super) use matcher::MatchResult;
use matcher::{FindingFilter, Matcher};

use super::progress::{self, Progress, Step};
use super::report::{Package, Report, Subject, Target};
use super::{Exit, Fatal, print, table, text, unreadable};
use crate::advisory;
use crate::export::Format;
use crate::export::cyclonedx::{self, Listed};

/// Output format of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Table
    Table,
    /// JSON; the schema is docs/scan.schema.json
    Json,
    /// CycloneDX 1.6, JSON, with vulnerabilities
    Cyclonedx,
    /// SPDX 2.3, JSON
    Spdx,
    /// SARIF 2.1.0
    Sarif,
    /// OpenVEX 0.2.0
    Openvex,
    /// CSV: a line for each finding, or with --packages for each package
    Csv,
}

/// Severity on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Negligible,
    Low,
    Medium,
    High,
    Critical,
}

impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::Negligible => Self::Negligible,
            Level::Low => Self::Low,
            Level::Medium => Self::Medium,
            Level::High => Self::High,
            Level::Critical => Self::Critical,
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  outcrop scan --db advisories.db
  outcrop scan --db advisories.db --rootfs / --severity high
  outcrop scan --db advisories.db --sbom app.cdx.json --fail-on critical
  outcrop scan --packages --output cyclonedx --rootfs image/rootfs")]
pub(super) struct Arguments {
    /// Path of containerd's socket; default: the first existing socket of the common locations
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["rootfs", "layers", "sbom"])]
    containerd: Option<PathBuf>,

    /// containerd namespace to scan (repeatable); default: all
    #[arg(long, short, value_name = "NS", conflicts_with_all = ["rootfs", "layers", "sbom"])]
    namespace: Vec<String>,

    /// ID, or its prefix, of a container to scan (repeatable); default: all
    #[arg(long, value_name = "ID", conflicts_with_all = ["rootfs", "layers", "sbom"])]
    container: Vec<String>,

    /// Directory to scan instead of containers: a root file system, or a program with its installed packages; lock files are not read
    #[arg(long, value_name = "DIR", conflicts_with_all = ["layers", "sbom"])]
    rootfs: Option<PathBuf>,

    /// Overlay layers to scan instead of containers: directories separated by colons, top layer first; nothing is mounted
    #[arg(long, value_name = "TOP:…:BASE", value_parser = directories::layers, conflicts_with = "sbom")]
    layers: Option<directories::Layers>,

    /// SBOM to match instead of containers: CycloneDX JSON
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,

    /// Path of the advisory database (see `outcrop db build`)
    #[arg(long, value_name = "FILE", env = "OUTCROP_DB")]
    db: Option<PathBuf>,

    /// Day, as YYYY-MM-DD, on which the age of the advisory database is judged; default: today; for a demo, or to repeat an old report
    #[arg(long, value_name = "DATE", requires = "db", value_parser = advisory::parse_date)]
    db_as_of: Option<jiff::civil::Date>,

    /// List packages only; requires no advisory database
    #[arg(long, conflicts_with_all = ["severity", "fail_on", "only_fixed", "owned", "db_as_of"])]
    packages: bool,

    /// Minimum severity of the findings to show
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true)]
    severity: Option<Level>,

    /// Exit with code 2 if a finding has at least this severity
    #[arg(long, value_name = "LEVEL", value_enum, ignore_case = true)]
    fail_on: Option<Level>,

    /// Show only findings with a fixed version
    #[arg(long)]
    only_fixed: bool,

    /// Also show withheld findings: those of application packages that an OS package owns
    #[arg(long)]
    owned: bool,

    /// Output format
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,

    #[command(flatten)]
    progress: progress::Flags,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let Arguments {
        containerd,
        namespace,
        container,
        rootfs,
        layers,
        sbom,
        db,
        db_as_of,
        packages,
        severity,
        fail_on,
        only_fixed,
        owned,
        output,
        progress,
    } = arguments;
    let filter = FindingFilter {
        severity: severity.map(Severity::from),
        fail_on: fail_on.map(Severity::from),
        only_fixed,
        owned,
    };
    if packages && matches!(output, Output::Sarif | Output::Openvex) {
        return Err(Fatal::usage(
            "--packages lists no findings, and SARIF and OpenVEX contain nothing else: choose another --output",
        ));
    }
    let matcher = Matcher::new(db, db_as_of, packages, filter)?;
    let directories = directories::chosen(rootfs, layers)?;
    hide_memory()
        .and_then(|()| enter_read_only())
        .map_err(|error| Fatal::failed(format!("dropping write access: {error}")))?;
    let program = Program::this();
    let mut scanner = Scanner::new(program.clone());
    let progress = Progress::start(progress, move || {
        let counts = program.counters().now();
        Step { done: None, text: format!("layers read: {}, files read: {}", counts.layers, counts.files) }
    });
    let mut unread = None;
    let chosen = sbom.is_some() || directories.is_some();
    let targets = match (sbom, directories) {
        (Some(path), _) => vec![scan_sbom(&path, &matcher)?],
        (None, Some(directories)) => {
            let (target, lock_files) = directories.scan(&mut scanner, &matcher)?;
            unread = lock_files;
            vec![target]
        }
        (None, None) => {
            let selection =
                containers::ContainerSelection { socket: containerd, namespaces: namespace, ids: container };
            containers::scan(&selection, &mut scanner, &matcher, &progress)?
        }
    };
    drop(progress);
    let mut hints = Vec::new();
    if targets.is_empty() {
        hints.push(
            "no containers found; check the namespaces with ctr namespaces ls, or scan a directory with --rootfs DIR"
                .to_owned(),
        );
    }
    hints.extend(unread.as_ref().map(Unread::hint));
    if unread.is_none() && chosen {
        hints.extend(targets.iter().filter_map(describe_empty));
    }
    hints.extend(db_as_of.map(advisory::as_of_warning));
    hints.extend(matcher::staleness(&targets));
    let report = Report::new(matcher.database()?, targets);
    match output {
        Output::Json => print_json(&report)?,
        Output::Cyclonedx => print_document(&report, Format::CycloneDx)?,
        Output::Spdx => print_document(&report, Format::Spdx)?,
        Output::Sarif => print_document(&report, Format::Sarif)?,
        Output::Openvex => print_document(&report, Format::OpenVex)?,
        Output::Csv if packages => print_document(&report, Format::PackagesCsv)?,
        Output::Csv => print_document(&report, Format::FindingsCsv)?,
        Output::Table if packages => print(&table::packages(&report))?,
        Output::Table => print(&table::findings(&report))?,
    }
    for hint in hints {
        // The report contains the same information, so a closed standard error loses nothing.
        let _ = writeln!(std::io::stderr(), "outcrop: {}", text::escape(&hint));
    }
    let failed = |target: &Target| target.coverage.state == CoverageState::Failed;
    // A directory of which nothing was read must not pass a gate.
    let nothing_read = unread.is_some_and(|unread| unread.is_all());
    Ok(match () {
        () if report.targets.iter().any(|target| target.fails) => Exit::Findings,
        () if nothing_read || report.targets.iter().any(failed) => Exit::Failed,
        () => Exit::Done,
    })
}

/// Returns a hint about a directory or an SBOM that a person chose and that has no package: it may be another one than they meant.
fn describe_empty(target: &Target) -> Option<String> {
    let is_scanned = target.coverage.state == CoverageState::Scanned;
    // A distribution without packages is an image that somebody made so.
    let is_empty = is_scanned && target.packages.is_empty() && target.distro.is_none();
    is_empty.then(|| {
        format!(
            "{}: no package was found; check that it is the root of a file system, an installed program, or an SBOM with package URLs",
            target.subject.name
        )
    })
}

/// Escapes characters that could mislead in the JSON that is written through it. A serializer writes whole strings at a time, so no character is cut.
struct EscapedJson<W>(W);

impl<W: Write> Write for EscapedJson<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.0.write_all(escape_json(text).as_bytes())?,
            Err(_) => self.0.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Writes a value to standard output as JSON, while it is formatted: a report may be large.
fn print_json(value: &impl serde::Serialize) -> Result<(), Fatal> {
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let written = serde_json::to_writer_pretty(EscapedJson(&mut output), value).map_err(std::io::Error::from);
    match written.and_then(|()| writeln!(output)).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fatal::failed(format!("writing to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes the report to standard output in a format of other tools, piece by piece.
fn print_document(report: &Report, format: Format) -> Result<(), Fatal> {
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    let written = documents::write(report, format, |text| output.write_all(text.as_bytes()));
    match written.and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Fatal::failed(format!("writing to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Maximum size of an SBOM, bytes.
const MAX_SBOM: u64 = 256 << 20;

/// Reads an SBOM and matches its packages.
fn scan_sbom(path: &Path, matcher: &Matcher) -> Result<Target, Fatal> {
    let fail = |reason: String| Fatal::failed(format!("reading SBOM {}: {reason}", path.display()));
    let file = File::open(path).map_err(|error| unreadable("reading SBOM", path, &error))?;
    let mut bytes = Vec::new();
    file.take(MAX_SBOM + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if bytes.len() as u64 > MAX_SBOM {
        return Err(fail(format!("the file is larger than the limit of {MAX_SBOM} bytes")));
    }
    let Listed { distribution, packages, left_out } =
        cyclonedx::read(&bytes).map_err(|error| fail(error.to_string()))?;
    let packages: Vec<StackPackage> = packages
        .into_iter()
        .map(|(package, url)| StackPackage { package, evidence: vec![url.into_bytes()], layer: 0, owner: None })
        .collect();
    let matched = matcher.match_packages(distribution.as_ref(), &packages)?;
    let coverage = match left_out {
        0 => Coverage::new(CoverageState::Scanned, ""),
        count => Coverage::new(
            CoverageState::Partial,
            format!(
                "{count} components have no package URL, have no version, or belong to an ecosystem that is not matched"
            ),
        ),
    };
    let coverage = matched.limit(coverage);
    let mut target = Target::not_scanned(Subject::named(path.display().to_string()), coverage);
    target.assessed = matched.assessed;
    target.findings = matched.findings;
    target.withheld = matched.withheld;
    target.hidden = matched.hidden;
    target.fails = matched.fails;
    target.distro = distribution.as_ref().map(|distribution| distribution.name.clone());
    target.packages = packages.into_iter().map(|package| Package::new(package, distribution.as_ref())).collect();
    Ok(target)
}
