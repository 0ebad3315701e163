//! `outcrop scan`: what runs here, or what lies in a directory, in layers or in an SBOM.

mod containers;
mod directories;
mod judge;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use outcrop_agent::scan::Scanner;
use outcrop_agent::worker::{Program, enter_read_only, hide_memory};
use outcrop_proto::StackPackage;
use outcrop_proto::container::{Coverage, CoverageState};

pub(super) use judge::Judged;

use super::report::{Package, Report, Subject, Target};
use super::{Exit, Fatal, bom, print, table};
use crate::advisory::Severity;
use crate::export::cyclonedx::{self, Listed};

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs; the schema is docs/scan.schema.json
    Json,
    /// CycloneDX 1.6, JSON
    Cyclonedx,
}

/// A severity as one types it.
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
pub(super) struct Arguments {
    /// containerd's socket; without it the usual places are tried
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["rootfs", "layers", "sbom"])]
    containerd: Option<PathBuf>,

    /// Look only into this containerd namespace; may be given again
    #[arg(long, short, value_name = "NS", conflicts_with_all = ["rootfs", "layers", "sbom"])]
    namespace: Vec<String>,

    /// Scan only this container, by its ID or the beginning of it; may be given again
    #[arg(long, value_name = "ID", conflicts_with_all = ["rootfs", "layers", "sbom"])]
    container: Vec<String>,

    /// Scan one directory tree instead, as a container would see it
    #[arg(long, value_name = "DIR", conflicts_with_all = ["layers", "sbom"])]
    rootfs: Option<PathBuf>,

    /// Scan overlay layers instead, without mounting them: directories, newest first
    #[arg(long, value_name = "TOP:…:BASE", value_parser = directories::layers, conflicts_with = "sbom")]
    layers: Option<directories::Layers>,

    /// Match what an SBOM lists instead: CycloneDX, JSON
    #[arg(long, value_name = "FILE")]
    sbom: Option<PathBuf>,

    /// The advisory database, as outcrop db build makes it
    #[arg(long, value_name = "FILE", env = "OUTCROP_DB")]
    db: Option<PathBuf>,

    /// List packages only; needs no advisory database
    #[arg(long)]
    packages: bool,

    /// Show only findings at least this bad
    #[arg(long, value_name = "LEVEL", value_enum)]
    severity: Option<Level>,

    /// End with code 2 if there is a finding at least this bad
    #[arg(long, value_name = "LEVEL", value_enum)]
    fail_on: Option<Level>,

    /// Show only findings that a known version mends
    #[arg(long)]
    only_fixed: bool,

    /// Show also the findings of packages that the distribution installed and judges itself
    #[arg(long)]
    owned: bool,

    /// How to write the result
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
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
        packages,
        severity,
        fail_on,
        only_fixed,
        owned,
        output,
    } = arguments;
    let shown = judge::Wanted {
        severity: severity.map(Severity::from),
        fail_on: fail_on.map(Severity::from),
        only_fixed,
        owned,
    };
    let judge = judge::Judge::new(db, packages, shown)?;
    let directories = directories::chosen(rootfs, layers)?;
    hide_memory()
        .and_then(|()| enter_read_only())
        .map_err(|error| Fatal::failed(format!("giving up the right to write: {error}")))?;
    let mut scanner = Scanner::new(Program::this());
    let targets = match (sbom, directories) {
        (Some(path), _) => vec![of_sbom(&path, &judge)?],
        (None, Some(directories)) => vec![directories.scan(&mut scanner, &judge)?],
        (None, None) => {
            let wanted = containers::Wanted { socket: containerd, namespaces: namespace, ids: container };
            containers::scan(&wanted, &mut scanner, &judge)?
        }
    };
    let hint = match targets.as_slice() {
        [] => Some(
            "no container runs here, so there was nothing to scan. ctr namespaces ls shows where containers could be; \
             --rootfs DIR scans a directory"
                .to_owned(),
        ),
        targets => judge::staleness(targets),
    };
    let report = Report::new(judge.database()?, targets);
    match output {
        Output::Json => print(&json(&report)?)?,
        Output::Cyclonedx => print(&json(&bom::of(&report))?)?,
        Output::Table if packages => print(&table::packages(&report))?,
        Output::Table => print(&table::findings(&report))?,
    }
    if let Some(hint) = hint {
        // Beside the result, which says the same for programs; if nobody can be told, nothing is lost.
        let _ = writeln!(std::io::stderr(), "outcrop: {hint}");
    }
    let failed = |target: &Target| target.coverage.state == CoverageState::Failed;
    Ok(match () {
        () if report.targets.iter().any(|target| target.fails) => Exit::Findings,
        () if report.targets.iter().any(failed) => Exit::Failed,
        () => Exit::Done,
    })
}

fn json(value: &impl serde::Serialize) -> Result<String, Fatal> {
    let json = serde_json::to_string_pretty(value).map_err(|error| Fatal::failed(error.to_string()))?;
    Ok(format!("{json}\n"))
}

/// Most bytes of an SBOM.
const MAX_SBOM: u64 = 256 << 20;

/// The target that an SBOM describes.
fn of_sbom(path: &Path, judge: &judge::Judge) -> Result<Target, Fatal> {
    let fail = |reason: String| Fatal::failed(format!("{}: {reason}", path.display()));
    let file = File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_SBOM + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if bytes.len() as u64 > MAX_SBOM {
        return Err(fail(format!("larger than {MAX_SBOM} bytes")));
    }
    let Listed { distribution, packages, left_out } =
        cyclonedx::read(&bytes).map_err(|error| fail(error.to_string()))?;
    let packages: Vec<StackPackage> = packages
        .into_iter()
        .map(|(package, url)| StackPackage { package, evidence: vec![url.into_bytes()], layer: 0, owner: None })
        .collect();
    let judged = judge.judge(distribution.as_ref(), &packages)?;
    let coverage = match left_out {
        0 => Coverage::new(CoverageState::Scanned, ""),
        count => Coverage::new(
            CoverageState::Partial,
            format!("{count} components are of ecosystems that are not matched, or have no version"),
        ),
    };
    let mut target = Target::not_scanned(Subject::named(path.display().to_string()), coverage);
    target.assessed = judged.assessed;
    target.findings = judged.findings;
    target.withheld = judged.withheld;
    target.hidden = judged.hidden;
    target.fails = judged.fails;
    target.distro = distribution.as_ref().map(|distribution| distribution.name.clone());
    target.packages = packages.into_iter().map(|package| Package::new(package, distribution.as_ref())).collect();
    Ok(target)
}
