//! `outcrop scan`

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use outcrop_agent::scan::{LayerPlace, Scanner, StackPlace};
use outcrop_agent::worker::{Program, enter_read_only};
use outcrop_proto::container::Coverage;
use overlayfs_reader::MarkNamespace;

use super::report::{Layer, Report, Target};
use super::table::table;
use super::{Exit, Fatal, print};

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs; the schema is docs/scan.schema.json.
    Json,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["rootfs", "layers"])))]
pub(super) struct Arguments {
    /// Scan one directory tree, as a container would see it
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,

    /// Scan overlay layers without mounting them: directories, newest first
    #[arg(long, value_name = "TOP:…:BASE", value_parser = layers)]
    layers: Option<Layers>,

    /// List packages only; needs no advisory database
    #[arg(long)]
    packages: bool,

    /// How to write the result
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

/// The directories of `--layers`.
#[derive(Clone, Debug)]
struct Layers(Vec<PathBuf>);

fn layers(value: &str) -> Result<Layers, String> {
    overlayfs_reader::parse_lowerdir(value.as_bytes()).map(Layers).map_err(|error| error.to_string())
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let Arguments { rootfs, layers, packages, output } = arguments;
    if !packages {
        return Err(Fatal::usage("matching needs an advisory database, which is not built yet: add --packages"));
    }
    let (name, roots) = match (rootfs, layers) {
        (Some(rootfs), _) => (rootfs.display().to_string(), vec![rootfs]),
        (None, Some(Layers(roots))) => {
            let names: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
            (names.join(":"), roots)
        }
        (None, None) => return Err(Fatal::usage("nothing to scan: give --rootfs or --layers")),
    };
    for root in &roots {
        check_directory(root)?;
    }
    enter_read_only().map_err(|error| Fatal::failed(format!("giving up the right to write: {error}")))?;
    let mut scanner = Scanner::new(Program::this());
    let stack = StackPlace {
        layers: roots.into_iter().map(|root| LayerPlace { id: None, root }).collect(),
        marks: MarkNamespace::Trusted,
        upper: None,
        mounted: None,
    };
    let layers = stack.layers.iter().map(|place| Layer::from(place.id)).collect();
    let (target, exit) = match scanner.scan(&stack) {
        Ok(scanned) => (Target::scanned(String::new(), name, layers, scanned), Exit::Done),
        Err(error) => (Target::not_scanned(String::new(), name, Coverage::failed(error.to_string())), Exit::Failed),
    };
    let report = Report::new(vec![target]);
    match output {
        Output::Json => {
            let json = serde_json::to_string_pretty(&report).map_err(|error| Fatal::failed(error.to_string()))?;
            print(&format!("{json}\n"))?;
        }
        Output::Table => print(&as_tables(&report))?,
    }
    Ok(exit)
}

/// Says what is wrong with a directory that a person named.
fn check_directory(path: &Path) -> Result<(), Fatal> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Fatal::failed(format!("{} is not a directory", path.display()))),
        Err(error) => Err(Fatal::failed(format!("{}: {error}", path.display()))),
    }
}

fn as_tables(report: &Report) -> String {
    let mut out = String::new();
    for target in &report.targets {
        let rows: Vec<Vec<String>> = target
            .packages
            .iter()
            .map(|package| {
                let evidence = package.evidence.first().cloned().unwrap_or_default();
                let owner = package.owner.clone().unwrap_or_default();
                vec![package.r#type.to_owned(), package.name.clone(), package.version.clone(), evidence, owner]
            })
            .collect();
        let distro = target.distro.as_deref().unwrap_or("unknown distribution");
        out.push_str(&format!(
            "{} ({}): {} packages, {}",
            super::text::escape(&target.name),
            super::text::escape(distro),
            rows.len(),
            target.coverage.state
        ));
        if !target.coverage.reason.is_empty() {
            out.push_str(&format!(": {}", super::text::escape(&target.coverage.reason)));
        }
        out.push('\n');
        if !rows.is_empty() {
            out.push_str(&table(&["TYPE", "NAME", "VERSION", "EVIDENCE", "OWNER"], &rows));
        }
        for warning in &target.warnings {
            out.push_str(&format!(
                "warning: {}: {}\n",
                super::text::escape(&warning.path),
                super::text::escape(&warning.message)
            ));
        }
    }
    out
}
