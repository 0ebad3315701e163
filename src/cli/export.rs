//! `outcrop export`: documents for other tools.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::client::{Parameters, Server};
use super::{Exit, Fatal};
use crate::export::Content;

/// Content of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Bill of materials of images: cyclonedx (default; with findings) or spdx
    Sbom,
    /// Findings: csv (default) or sarif
    #[value(aliases = ["finding", "vulns"])]
    Findings,
    /// Packages: csv
    #[value(aliases = ["package", "pkgs"])]
    Packages,
    /// Statements of advisories about images: openvex
    Vex,
    /// Short for findings --format sarif
    Sarif,
    /// Short for findings --format csv
    Csv,
    /// Images with coverage, packages and findings: json
    Report,
}

impl Kind {
    /// Returns the content, and the format that the kind itself names.
    const fn content(self) -> (Content, Option<&'static str>) {
        match self {
            Self::Sbom => (Content::Sbom, None),
            Self::Findings => (Content::Findings, None),
            Self::Packages => (Content::Packages, None),
            Self::Vex => (Content::Vex, None),
            Self::Sarif => (Content::Findings, Some("sarif")),
            Self::Csv => (Content::Findings, Some("csv")),
            Self::Report => (Content::Report, None),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  outcrop export sbom --workload deploy/web -n shop -o web.cdx.json
  outcrop export sbom --format spdx --image registry.example/shop/web:1.2
  outcrop export sarif -n shop --severity high -o shop.sarif
  outcrop export vex -o cluster.openvex.json
  outcrop export report > report.json")]
pub(super) struct Arguments {
    /// Content: sbom, findings, packages, vex, sarif, csv or report
    #[arg(value_enum, hide_possible_values = true)]
    kind: Kind,

    /// Format, if the content has several: cyclonedx or spdx of an sbom, csv or sarif of findings; default: the first
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,

    /// File to write; it is replaced once the document is complete; default: standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Select by namespace of the pods
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Cover all namespaces (the default)
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Select by workload: NAME or KIND/NAME, as in deploy/web
    #[arg(long, value_name = "WORKLOAD")]
    workload: Option<String>,

    /// Select by image: its name with or without registry, tag and digest, or its digest
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Select by labels of the workload: app=web,tier!=test
    #[arg(long, short = 'l', value_name = "LABELS")]
    selector: Option<String>,

    /// Select by owner of the workload
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,

    /// Select by node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,

    /// Minimum severity of findings: negligible, low, medium, high, critical
    #[arg(long, value_name = "SEVERITY")]
    severity: Option<String>,

    #[command(flatten)]
    server: Server,
}

/// Returns the parameters of the request. A format that the content does not have is an error before the request is sent.
fn parameters(arguments: &Arguments) -> Result<(Content, Parameters), Fatal> {
    let (content, named) = arguments.kind.content();
    let mut parameters = Parameters::new();
    let format = match (named, arguments.format.as_deref()) {
        (Some(named), Some(other)) if named != other => {
            return Err(Fatal::usage(format!("--format {other} contradicts {named}: omit it")));
        }
        (named, other) => other.or(named),
    };
    if let Some(name) = format {
        let formats: Vec<&str> = content.formats().iter().map(|format| format.as_str()).collect();
        if !formats.contains(&name) {
            let known = formats.join(" or ");
            return Err(Fatal::usage(format!(
                "invalid value {name:?} for --format: {} is available as {known}",
                content.as_str()
            )));
        }
        parameters.push(("format".to_owned(), name.to_owned()));
    }
    for (name, value) in [
        ("namespace", &arguments.namespace),
        ("workload", &arguments.workload),
        ("image", &arguments.image),
        ("labels", &arguments.selector),
        ("owner", &arguments.owner),
        ("node", &arguments.node),
        ("severity", &arguments.severity),
    ] {
        parameters.extend(value.iter().map(|value| (name.to_owned(), value.clone())));
    }
    Ok((content, parameters))
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Fatal> {
    let (content, parameters) = parameters(arguments)?;
    let client = arguments.server.connect()?;
    let mut document = client.download(&format!("/api/v1/exports/{}", content.as_str()), &parameters)?;
    let Some(path) = &arguments.output else {
        let mut output = io::stdout().lock();
        return match io::copy(&mut document, &mut output).and_then(|_| output.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
            Err(error) => Err(incomplete("standard output", &error)),
            Ok(()) => Ok(Exit::Done),
        };
    };
    // A file of this name is never a part of a document.
    let place = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.display().to_string();
    let mut file = tempfile::NamedTempFile::new_in(place).map_err(|error| incomplete(&name, &error))?;
    io::copy(&mut document, &mut file).and_then(|_| file.flush()).map_err(|error| incomplete(&name, &error))?;
    file.persist(path).map_err(|error| incomplete(&name, &error.error))?;
    Ok(Exit::Done)
}

fn incomplete(name: &str, error: &io::Error) -> Fatal {
    Fatal::failed(format!("writing the document to {name}: {error}; it is incomplete, see the log of the aggregator"))
}
