//! Names of what is to be brought up to date: the body of a delivery.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::path;
use crate::store::{Change, SubjectKey, Told};

/// Something whose documents are to be brought up to date. What is gone has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// A package set by its identity: its packages and its findings.
    PackageSet(String),
    /// The findings of a package set by its identity.
    Findings(String),
    /// A subject, with the other containers of its workload.
    Subject(SubjectKey),
    /// The report of a day, `YYYY-MM-DD`.
    Report(String),
    /// Everything that the snapshot did not contain, and is gone.
    Gone,
}

/// Returns what is to be brought up to date after changes, in their order, each once.
pub fn names(told: &[Told]) -> Vec<Name> {
    // A package set is complete with its packages: its findings are not named as well.
    let whole: HashSet<String> = told.iter().filter_map(|told| whole(&told.change)).collect();
    let mut seen = HashSet::new();
    let mut names = Vec::new();
    for Told { change, .. } in told {
        let (key, name) = match change {
            Change::Finding { package_set, .. } | Change::FindingClosed { package_set, .. } => {
                let identity = package_set.to_string();
                if whole.contains(&identity) {
                    continue;
                }
                (identity.clone(), Name::Findings(identity))
            }
            Change::Subject { subject, .. } | Change::SubjectGone { subject } => {
                (path::subject(subject), Name::Subject(subject.clone()))
            }
            Change::SnapshotEnds => (String::new(), Name::Gone),
            Change::SnapshotBegins { .. } | Change::Condition(_) | Change::Event(_) => continue,
            Change::PackageSet { .. } | Change::PackageSetGone { .. } => {
                let Some(identity) = self::whole(change) else { continue };
                (identity.clone(), Name::PackageSet(identity))
            }
        };
        if seen.insert(key) {
            names.push(name);
        }
    }
    names
}

/// Returns the identity of a package set whose packages may have changed.
fn whole(change: &Change) -> Option<String> {
    match change {
        Change::PackageSet { package_set, .. } => Some(package_set.identity.to_string()),
        Change::PackageSetGone { package_set } => Some(package_set.to_string()),
        _ => None,
    }
}

/// Returns names as the body of a delivery.
///
/// # Errors
/// When a value cannot be written as JSON, which does not happen.
pub fn encode(names: &[Name]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(names)
}

/// Returns the names in the body of a delivery.
///
/// # Errors
/// When it is the body of another kind of target: the target's kind was changed while the delivery waited.
pub fn decode(body: &[u8]) -> Result<Vec<Name>, serde_json::Error> {
    serde_json::from_slice(body)
}

#[cfg(test)]
mod tests {
    use outcrop_proto::{Coverage, CoverageState, Digest, FindingStatus, Severity};

    use super::*;
    use crate::store::{FindingEvent, PackageSetState, WorkloadKey};

    fn told(change: Change) -> Told {
        Told { at: None, change }
    }

    fn subject(container: &str) -> SubjectKey {
        let workload = WorkloadKey {
            namespace: "shop".into(),
            group: "apps".into(),
            kind: "Deployment".into(),
            name: "web".into(),
        };
        SubjectKey::WorkloadContainer { workload, container: container.into() }
    }

    #[test]
    fn each_document_is_named_once_however_much_of_it_changed() {
        let (one, two) = (Digest([1; 32]), Digest([2; 32]));
        let set = PackageSetState {
            identity: one,
            distribution: None,
            packages: 1,
            coverage: Coverage::new(CoverageState::Scanned, ""),
            matched: None,
        };
        let closed = |package_set| Change::FindingClosed { package_set, finding: finding() };
        let changes = [
            Change::SnapshotBegins { database: None },
            closed(two),
            closed(one),
            Change::PackageSet { package_set: set, is_new: true },
            closed(two),
            Change::Subject { subject: subject("app"), package_sets: vec![one] },
            Change::SubjectGone { subject: subject("sidecar") },
            Change::PackageSetGone { package_set: one },
            Change::SnapshotEnds,
        ];
        let named = names(&changes.map(told));
        assert_eq!(
            named,
            [
                Name::Findings(two.to_string()),
                Name::PackageSet(one.to_string()),
                Name::Subject(subject("app")),
                Name::Gone
            ]
        );
        assert_eq!(decode(&encode(&named).unwrap()).unwrap(), named);
        assert!(decode(&[0x28, 0xb5, 0x2f, 0xfd]).is_err());
    }

    fn finding() -> FindingEvent {
        FindingEvent {
            package_set: 1,
            vulnerability: "CVE-1".into(),
            aliases: Vec::new(),
            severity: Severity::High,
            score: None,
            status: FindingStatus::Fixed,
            fixed: None,
            package_type: "deb".into(),
            package: "a".into(),
            version: "1".into(),
            purl: "pkg:deb/debian/a@1".into(),
        }
    }
}
