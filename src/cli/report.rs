//! The report of a scan, in the form of `--output json`. The schema is `docs/scan.schema.json`.

use outcrop_agent::scan::Scanned;
use outcrop_proto::container::Coverage;
use outcrop_proto::{Digest, Distribution, FindingStatus, Runtime, Severity, StackPackage};
use serde::Serialize;

use super::scan::MatchResult;
use super::text;
use crate::advisory::{self, Assessed, SourceInfo};
use crate::export::purl;

/// Version of the JSON form.
const VERSION: u32 = 1;

/// A report.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: u32,
    /// The advisory database; `None` with `--packages`.
    pub(super) database: Option<DatabaseInfo>,
    pub(super) targets: Vec<Target>,
}

/// Path and sources of the advisory database.
#[derive(Debug, Serialize)]
pub(super) struct DatabaseInfo {
    pub(super) path: String,
    /// The day on which its age is judged, if not today.
    pub(super) as_of: Option<String>,
    pub(super) sources: Vec<SourceInfo>,
}

impl Report {
    pub(super) fn new(database: Option<DatabaseInfo>, targets: Vec<Target>) -> Self {
        Self { version: VERSION, database, targets }
    }
}

/// Identity of a target.
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
    /// Returns the identity of a target that is not a container.
    pub(super) fn named(name: String) -> Self {
        Self { name, ..Self::default() }
    }
}

/// A scanned directory, stack or container.
#[derive(Debug, Serialize)]
pub(super) struct Target {
    #[serde(flatten)]
    pub(super) subject: Subject,
    pub(super) cage: Option<String>,
    pub(super) marks: Option<&'static str>,
    pub(super) coverage: Coverage,
    pub(super) assessed: Vec<Assessed>,
    pub(super) warnings: Vec<Warning>,
    /// Number of withheld findings.
    pub(super) withheld: usize,
    /// Number of findings that `--severity` or `--only-fixed` excludes.
    pub(super) hidden: usize,
    /// Whether a finding reaches the severity of `--fail-on`.
    #[serde(skip)]
    pub(super) fails: bool,
    /// Number of packages without a name.
    pub(super) unidentified: usize,
    pub(super) distro: Option<String>,
    pub(super) layers: Vec<Layer>,
    pub(super) packages: Vec<Package>,
    pub(super) findings: Vec<Finding>,
}

/// A path that could not be read.
#[derive(Debug, Serialize)]
pub(super) struct Warning {
    pub(super) path: String,
    pub(super) message: String,
}

/// A layer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Layer {
    /// Diff ID, if it is proved.
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

/// A vulnerability of a package.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    pub(super) id: String,
    pub(super) aliases: Vec<String>,
    pub(super) package: String,
    pub(super) purl: String,
    pub(super) installed: String,
    pub(super) status: FindingStatus,
    pub(super) fixed: Option<String>,
    pub(super) severity: Severity,
    pub(super) score: Option<f64>,
    /// Index into the target's layers.
    pub(super) layer: usize,
    pub(super) summary: String,
    /// Whether the package is owned but the distribution has no advisory for the vulnerability.
    pub(super) not_assessed_by_distribution: bool,
    /// With `--owned`: the package that owns this one. The finding is withheld.
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
    /// Returns a scanned target. `chain` contains the chain IDs of the layers, top first, `diff_ids` the proved diff IDs,
    /// bottom first; both may be empty.
    pub(super) fn scanned(
        subject: Subject,
        layers: usize,
        chain: &[Digest],
        diff_ids: &[Digest],
        scanned: Scanned,
        matched: MatchResult,
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
            coverage: matched.limit(coverage),
            assessed: matched.assessed,
            withheld: matched.withheld,
            hidden: matched.hidden,
            fails: matched.fails,
            findings: matched.findings,
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

    /// Returns a target that was not scanned.
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
