//! `outcrop scan`: what runs here, or what lies in a directory or a stack of layers.

mod containers;
mod directories;

use std::path::PathBuf;

use clap::ValueEnum;
use outcrop_agent::scan::Scanner;
use outcrop_agent::worker::{Program, enter_read_only, hide_memory};
use outcrop_proto::container::CoverageState;

use super::report::{Report, Target};
use super::{Exit, Fatal, print, table};

/// How the result is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs; the schema is docs/scan.schema.json
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// containerd's socket; without it the usual places are tried
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["rootfs", "layers"])]
    containerd: Option<PathBuf>,

    /// Look only into this containerd namespace; may be given again
    #[arg(long, short, value_name = "NS", conflicts_with_all = ["rootfs", "layers"])]
    namespace: Vec<String>,

    /// Scan only this container, by its ID or the beginning of it; may be given again
    #[arg(long, value_name = "ID", conflicts_with_all = ["rootfs", "layers"])]
    container: Vec<String>,

    /// Scan one directory tree instead, as a container would see it
    #[arg(long, value_name = "DIR", conflicts_with = "layers")]
    rootfs: Option<PathBuf>,

    /// Scan overlay layers instead, without mounting them: directories, newest first
    #[arg(long, value_name = "TOP:…:BASE", value_parser = directories::layers)]
    layers: Option<directories::Layers>,

    /// List packages only; needs no advisory database
    #[arg(long)]
    packages: bool,

    /// How to write the result
    #[arg(long, short, value_enum, default_value = "table")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<Exit, Fatal> {
    let Arguments { containerd, namespace, container, rootfs, layers, packages, output } = arguments;
    if !packages {
        return Err(Fatal::usage("matching needs an advisory database, which is not built yet: add --packages"));
    }
    let directories = directories::chosen(rootfs, layers)?;
    hide_memory()
        .and_then(|()| enter_read_only())
        .map_err(|error| Fatal::failed(format!("giving up the right to write: {error}")))?;
    let mut scanner = Scanner::new(Program::this());
    let targets = match directories {
        Some(directories) => vec![directories.scan(&mut scanner)],
        None => {
            let wanted = containers::Wanted { socket: containerd, namespaces: namespace, ids: container };
            containers::scan(&wanted, &mut scanner)?
        }
    };
    let report = Report::new(targets);
    match output {
        Output::Json => {
            let json = serde_json::to_string_pretty(&report).map_err(|error| Fatal::failed(error.to_string()))?;
            print(&format!("{json}\n"))?;
        }
        Output::Table => print(&table::packages(&report))?,
    }
    let failed = |target: &Target| target.coverage.state == CoverageState::Failed;
    Ok(if report.targets.iter().any(failed) { Exit::Failed } else { Exit::Done })
}
