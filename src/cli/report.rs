//! The result of a scan, as `--output json` prints it. The schema is `docs/scan.schema.json`.

use outcrop_agent::scan::Scanned;
use outcrop_proto::container::Coverage;
use outcrop_proto::{Digest, Distribution, Runtime, StackPackage};
use serde::Serialize;

use super::scan::Judged;
use super::text;
use crate::advisory::{self, Assessed, Severity, SourceInfo, Status};
use crate::export::purl;

/// Version of the JSON form.
const VERSION: u32 = 1;

/// A whole scan.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: u32,
    /// What was matched against; nothing with `--packages`.
    pub(super) database: Option<DatabaseInfo>,
    pub(super) targets: Vec<Target>,
}

/// The database that was matched against.
#[derive(Debug, Serialize)]
pub(super) struct DatabaseInfo {
    pub(super) path: String,
    pub(super) sources: Vec<SourceInfo>,
}

impl Report {
    pub(super) fn new(database: Option<DatabaseInfo>, targets: Vec<Target>) -> Self {
        Self { version: VERSION, database, targets }
    }
}

/// Who was scanned.
#[derive(Debug, Default, Serialize)]
pub(super) struct Subject {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) runtime: Option<Runtime>,
    pub(super) runtime_namespace: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) image: Option<String>,
    pub(super) storage_driver: Option<String>,
}

impl Subject {
    /// Something that is no container.
    pub(super) fn named(name: String) -> Self {
        Self { name, ..Self::default() }
    }
}

/// One thing that was scanned: a directory, a stack, a container.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    #[serde(flatten)]
    pub(super) subject: Subject,
    pub(super) cage: Option<String>,
    pub(super) marks: Option<&'static str>,
    pub(super) coverage: Coverage,
    pub(super) assessed: Vec<Assessed>,
    pub(super) warnings: Vec<Warning>,
    /// Findings of owned packages, left to the distribution.
    pub(super) withheld: usize,
    /// Findings that `--severity` or `--only-fixed` leave out.
    pub(super) hidden: usize,
    /// Whether a finding is as bad as `--fail-on` says.
    #[serde(skip)]
    pub(super) fails: bool,
    /// Packages without identity.
    pub(super) unidentified: usize,
    pub(super) distro: Option<String>,
    pub(super) layers: Vec<Layer>,
    pub(super) packages: Vec<Package>,
    pub(super) findings: Vec<Finding>,
}

/// Something that could not be read.
#[derive(Debug, Serialize)]
pub(super) struct Warning {
    pub(super) path: String,
    pub(super) message: String,
}

/// A layer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Layer {
    /// Only where it is proved.
    pub(super) diff_id: Option<String>,
    pub(super) chain_id: Option<String>,
}

/// A package.
#[derive(Debug, Serialize)]
pub(super) struct Package {
    pub(super) r#type: &'static str,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) arch: Option<String>,
    pub(super) source: Option<Source>,
    pub(super) purl: String,
    pub(super) licenses: Vec<String>,
    pub(super) evidence: Vec<String>,
    /// Index into the target's layers.
    pub(super) layer: usize,
    pub(super) owner: Option<String>,
}

/// A source package.
#[derive(Debug, Serialize)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) version: String,
}

/// A problem of a package.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) id: String,
    pub(super) aliases: Vec<String>,
    pub(super) package: String,
    pub(super) purl: String,
    pub(super) installed: String,
    pub(super) status: Status,
    pub(super) fixed: Option<String>,
    pub(super) severity: Severity,
    pub(super) score: Option<f64>,
    /// Index into the target's layers.
    pub(super) layer: usize,
    pub(super) summary: String,
    /// The package is owned, but its distribution's source has no record of the problem.
    pub(super) not_assessed_by_distribution: bool,
    /// With `--owned`: the package that owns this one; the finding does not count.
    pub(super) withheld_for: Option<String>,
}

impl Finding {
    pub(super) fn new(
        finding: advisory::Finding,
        package: &StackPackage,
        purl: String,
        withheld_for: Option<String>,
    ) -> Self {
        Self {
            id: finding.id,
            aliases: finding.aliases,
            package: package.package.name.clone(),
            purl,
            installed: package.package.version.clone(),
            status: finding.status,
            fixed: finding.fixed,
            severity: finding.rating.severity,
            score: finding.rating.score,
            layer: package.layer,
            summary: finding.summary,
            not_assessed_by_distribution: finding.not_assessed_by_distribution,
            withheld_for,
        }
    }
}

impl Package {
    pub(super) fn new(package: StackPackage, distribution: Option<&Distribution>) -> Self {
        let StackPackage { package, evidence, layer, owner } = package;
        Self {
            r#type: package.kind.as_str(),
            purl: purl(&package, distribution),
            name: package.name,
            version: package.version,
            arch: package.arch,
            source: package.source.map(|source| Source { name: source.name, version: source.version }),
            licenses: package.licenses,
            evidence: evidence.iter().map(|path| text::path(path)).collect(),
            layer,
            owner: owner.map(|owner| purl(&owner.package, distribution)),
        }
    }
}

impl Target {
    /// A target that was scanned. Of its `layers`, `chain` names the chain IDs, newest first, and `diff_ids` the proved diff IDs,
    /// base first; both may be empty.
    pub(super) fn scanned(
        subject: Subject,
        layers: usize,
        chain: &[Digest],
        diff_ids: &[Digest],
        scanned: Scanned,
        judged: Judged,
    ) -> Self {
        let Scanned { merged, coverage, cage, marks, layers_read: _ } = scanned;
        let distribution = merged.distribution;
        let text = |digest: Option<&Digest>| digest.map(ToString::to_string);
        let layer = |at: usize| Layer {
            diff_id: text(diff_ids.len().checked_sub(at + 1).and_then(|at| diff_ids.get(at))),
            chain_id: text(chain.get(at)),
        };
        Self {
            subject,
            cage: cage.map(|cage| cage.to_string()),
            marks: Some(if marks { "readable" } else { "unreadable" }),
            coverage,
            assessed: judged.assessed,
            withheld: judged.withheld,
            hidden: judged.hidden,
            fails: judged.fails,
            findings: judged.findings,
            warnings: merged
                .warnings
                .into_iter()
                .map(|(path, message)| Warning { path: text::path(&path), message })
                .collect(),
            unidentified: merged.unidentified.len(),
            distro: distribution.as_ref().map(|distribution| distribution.name.clone()),
            packages: merged.packages.into_iter().map(|package| Package::new(package, distribution.as_ref())).collect(),
            layers: (0..layers).map(layer).collect(),
        }
    }

    /// A target that was not.
    pub(super) fn not_scanned(subject: Subject, coverage: Coverage) -> Self {
        Self {
            subject,
            cage: None,
            marks: None,
            coverage,
            assessed: Vec::new(),
            warnings: Vec::new(),
            withheld: 0,
            hidden: 0,
            fails: false,
            unidentified: 0,
            distro: None,
            layers: Vec::new(),
            packages: Vec::new(),
            findings: Vec::new(),
        }
    }
}
