//! Records of a delivery, as `docs/deliver.md` and `docs/delivery.schema.json` describe them. They are an interface: kinds and fields are added, and
//! none changes its meaning.

use outcrop_proto::{Digest, Word as _};
use serde::Serialize;

use crate::store::{Change, Condition, FindingChange, FindingEvent, FindingRow, OutboxEvent, SubjectKey, Told};

/// A record: one line of a delivery.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// What it tells, such as `finding-opened`.
    pub(super) kind: &'static str,
    /// When it happened; absent in a snapshot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) at: Option<String>,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Empty {},
    SnapshotBegin {
        database: Option<String>,
    },
    PackageSet {
        package_set: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        distribution: Option<Distribution<'a>>,
        packages: u64,
        coverage: Coverage<'a>,
        /// The advisory database for which the findings are complete.
        database: Option<String>,
        /// Whether all findings of the package set follow; what was known of it before is void.
        replace: bool,
    },
    PackageSetGone {
        package_set: String,
    },
    Finding(Box<Finding<'a>>),
    Subject {
        subject: &'a SubjectKey,
        package_sets: Vec<String>,
    },
    SubjectGone {
        subject: &'a SubjectKey,
    },
    Problem {
        problem: &'a str,
    },
    Issue {
        workload: &'a crate::store::WorkloadKey,
        rule: &'a str,
        path: &'a str,
    },
    Event(WithoutKind<'a>),
}

#[derive(Debug, Serialize)]
struct Distribution<'a> {
    id: &'a str,
    version_id: &'a str,
    name: &'a str,
}

#[derive(Debug, Serialize)]
struct Coverage<'a> {
    state: &'static str,
    reason: &'a str,
}

#[derive(Debug, Serialize)]
struct Finding<'a> {
    package_set: String,
    vulnerability: &'a str,
    aliases: &'a [String],
    severity: &'static str,
    score: Option<f64>,
    status: &'static str,
    fixed_version: Option<&'a str>,
    #[serde(rename = "type")]
    package_type: &'a str,
    package: &'a str,
    version: &'a str,
    purl: &'a str,
    #[serde(flatten)]
    open: Option<Open<'a>>,
}

/// What only an open finding has.
#[derive(Debug, Serialize)]
struct Open<'a> {
    summary: &'a str,
    /// Paths that list the package.
    evidence: Vec<&'a str>,
    /// Index into the stack's layers, newest first.
    layer: u32,
    opened_at: String,
}

/// The fields of an event, whose kind is the record's.
#[derive(Debug)]
struct WithoutKind<'a>(&'a OutboxEvent);

impl Serialize for WithoutKind<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = serde_json::to_value(self.0).map_err(serde::ser::Error::custom)?;
        if let Some(fields) = value.as_object_mut() {
            fields.remove("kind");
        }
        value.serialize(serializer)
    }
}

/// Returns a time as RFC 3339 has it.
pub(super) fn time(at: i64) -> String {
    jiff::Timestamp::from_second(at).map(|at| at.to_string()).unwrap_or_default()
}

impl<'a> Record<'a> {
    /// Returns the record of a change.
    pub(super) fn of(Told { at, change }: &'a Told) -> Self {
        let text = |digest: &Digest| digest.to_string();
        let (kind, body) = match change {
            Change::SnapshotBegins { database } => {
                ("snapshot-begin", Body::SnapshotBegin { database: database.as_ref().map(text) })
            }
            Change::SnapshotEnds => ("snapshot-end", Body::Empty {}),
            Change::PackageSet { package_set: of, is_new } => {
                let distribution = of.distribution.as_ref().map(|distribution| Distribution {
                    id: &distribution.id,
                    version_id: &distribution.version_id,
                    name: &distribution.name,
                });
                let body = Body::PackageSet {
                    package_set: text(&of.identity),
                    distribution,
                    packages: of.packages,
                    coverage: Coverage { state: of.coverage.state.as_str(), reason: &of.coverage.reason },
                    database: of.matched.as_ref().map(text),
                    replace: *is_new,
                };
                ("package-set", body)
            }
            Change::PackageSetGone { package_set } => {
                ("package-set-gone", Body::PackageSetGone { package_set: text(package_set) })
            }
            Change::Finding { change, package_set, finding, opened } => {
                let kind = match change {
                    FindingChange::Present => "finding",
                    FindingChange::Opened => "finding-opened",
                    FindingChange::Changed => "finding-changed",
                };
                (kind, Body::Finding(Box::new(open(package_set, finding, *opened))))
            }
            Change::FindingClosed { package_set, finding } => {
                ("finding-closed", Body::Finding(Box::new(closed(package_set, finding))))
            }
            Change::Subject { subject, package_sets } => {
                let package_sets = package_sets.iter().map(text).collect();
                ("subject", Body::Subject { subject, package_sets })
            }
            Change::SubjectGone { subject } => ("subject-gone", Body::SubjectGone { subject }),
            Change::Condition(Condition::Problem { problem }) => ("problem-raised", Body::Problem { problem }),
            Change::Condition(Condition::Issue(issue)) => {
                let (workload, rule, path) = (&issue.workload, issue.rule.as_str(), issue.path.as_str());
                ("issue-opened", Body::Issue { workload, rule, path })
            }
            Change::Event(event) => (event.kind(), Body::Event(WithoutKind(event))),
        };
        Self { kind, at: at.map(time), body }
    }

    /// Returns a record that only shows that deliveries arrive.
    pub(super) fn test() -> Self {
        Self { kind: "test", at: None, body: Body::Empty {} }
    }
}

fn open<'a>(package_set: &Digest, row: &'a FindingRow, opened: i64) -> Finding<'a> {
    Finding {
        package_set: package_set.to_string(),
        vulnerability: &row.vulnerability,
        aliases: &row.aliases,
        severity: row.severity.word(),
        score: row.score,
        status: row.status.word(),
        fixed_version: row.fixed.as_deref(),
        package_type: &row.r#type,
        package: &row.package,
        version: &row.version,
        purl: &row.purl,
        open: Some(Open {
            summary: &row.summary,
            evidence: row.evidence.lines().collect(),
            layer: row.layer,
            opened_at: time(opened),
        }),
    }
}

fn closed<'a>(package_set: &Digest, event: &'a FindingEvent) -> Finding<'a> {
    Finding {
        package_set: package_set.to_string(),
        vulnerability: &event.vulnerability,
        aliases: &event.aliases,
        severity: event.severity.word(),
        score: event.score,
        status: event.status.word(),
        fixed_version: event.fixed.as_deref(),
        package_type: &event.package_type,
        package: &event.package,
        version: &event.version,
        purl: &event.purl,
        open: None,
    }
}
