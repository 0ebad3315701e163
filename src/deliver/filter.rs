//! What a target is told.

use std::collections::{BTreeMap, HashMap};

use outcrop_proto::{FindingStatus, Severity, Word};
use serde::{Deserialize, Serialize, Serializer};

use super::config::word;
use crate::patterns::NamespacePatterns;
use crate::store::{FindingEvent, NoticeFilter, OutboxEvent, Selects, SubjectKey, WorkloadKey};

/// Classes of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Class {
    /// Package sets, their findings, and who has them.
    Vulnerability,
    /// Configuration issues of workloads.
    Configuration,
    /// The advisory database, problems of Outcrop itself, and who changed what.
    Operation,
}

/// What a target is told. Every part that is given has to match.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    /// The mildest severity of findings.
    #[serde(deserialize_with = "word", serialize_with = "as_word")]
    min_severity: Option<Severity>,
    /// The status of findings.
    #[serde(deserialize_with = "word", serialize_with = "as_word")]
    status: Option<FindingStatus>,
    /// Whether there is a fixed version.
    fixable: Option<bool>,
    /// Namespaces or globs; with any, everything that belongs to no namespace is left out.
    namespaces: Vec<String>,
    /// Owners of workloads.
    owners: Vec<String>,
    /// Labels of workloads.
    labels: BTreeMap<String, String>,
    /// Classes; all if there are none.
    classes: Vec<Class>,
}

/// Labels and owner of a workload.
pub type WorkloadFacts = (BTreeMap<String, String>, Option<String>);

/// What is known of workloads.
pub type Workloads = HashMap<WorkloadKey, WorkloadFacts>;

impl Filter {
    /// Returns what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        NamespacePatterns::parse(&self.namespaces).map(|_| ()).map_err(|error| format!("filter.namespaces: {error}"))
    }

    /// Returns whether the selection asks for labels or owners.
    pub fn asks_for_workloads(&self) -> bool {
        !self.owners.is_empty() || !self.labels.is_empty()
    }

    /// Returns whether it selects some workloads only.
    fn is_narrow(&self) -> bool {
        !self.namespaces.is_empty() || self.asks_for_workloads()
    }

    /// Returns the selection, which takes labels and owners from `workloads`.
    pub fn selection<'a>(&'a self, workloads: &'a Workloads) -> impl Selects + 'a {
        Selection {
            filter: self,
            namespaces: NamespacePatterns::parse(&self.namespaces).unwrap_or_default(),
            workloads,
        }
    }

    /// Leaves out what people need not be told at once, unless it is configured.
    pub(super) fn tell_people(&mut self) {
        self.min_severity.get_or_insert(Severity::Critical);
    }

    /// Returns the part of it that selects findings.
    pub fn notices(&self) -> NoticeFilter {
        let at_least = self.min_severity.unwrap_or_default();
        NoticeFilter { at_least, status: self.status, fixable: self.fixable }
    }

    fn has(&self, class: Class) -> bool {
        self.classes.is_empty() || self.classes.contains(&class)
    }
}

/// Writes the word of a closed set.
#[allow(clippy::ref_option, reason = "serde passes the field")]
fn as_word<W: Word, S: Serializer>(word: &Option<W>, serializer: S) -> Result<S::Ok, S::Error> {
    word.map(W::word).serialize(serializer)
}

struct Selection<'a> {
    filter: &'a Filter,
    namespaces: NamespacePatterns,
    workloads: &'a Workloads,
}

impl Selection<'_> {
    fn workload(&self, workload: &WorkloadKey) -> bool {
        let Filter { namespaces, owners, labels, .. } = self.filter;
        if !namespaces.is_empty() && !self.namespaces.matches(&workload.namespace) {
            return false;
        }
        if !self.filter.asks_for_workloads() {
            return true;
        }
        let Some((has, owner)) = self.workloads.get(workload) else { return false };
        (owners.is_empty() || owner.as_ref().is_some_and(|owner| owners.contains(owner)))
            && labels.iter().all(|(key, value)| has.get(key) == Some(value))
    }
}

impl Selects for Selection<'_> {
    fn subject(&self, subject: &SubjectKey) -> bool {
        let is_selected = match subject.workload() {
            Some(workload) => self.workload(workload),
            None => !self.filter.is_narrow(),
        };
        self.filter.has(Class::Vulnerability) && is_selected
    }

    fn finding(&self, finding: &FindingEvent) -> bool {
        let Filter { min_severity, status, fixable, .. } = self.filter;
        min_severity.is_none_or(|least| finding.severity >= least)
            && status.is_none_or(|status| finding.status == status)
            && fixable.is_none_or(|fixable| finding.fixed.is_some() == fixable)
    }

    fn event(&self, event: &OutboxEvent) -> bool {
        match event {
            OutboxEvent::IssueOpened(issue) | OutboxEvent::IssueClosed(issue) => {
                self.filter.has(Class::Configuration) && self.workload(&issue.workload)
            }
            // What belongs to no workload is for those who are told everything.
            _ => self.filter.has(Class::Operation) && !self.filter.is_narrow(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::IssueEvent;

    fn workload(namespace: &str, name: &str) -> WorkloadKey {
        WorkloadKey { namespace: namespace.into(), group: "apps".into(), kind: "Deployment".into(), name: name.into() }
    }

    #[test]
    fn every_part_of_a_filter_has_to_match() {
        // Only web is known: it is the shop team's and of the tier `front`.
        let known = (BTreeMap::from([("tier".to_owned(), "front".to_owned())]), Some("shop-team".to_owned()));
        let facts: Workloads = ["shop", "bank"].map(|namespace| (workload(namespace, "web"), known.clone())).into();
        let subject = |namespace: &str, name: &str| SubjectKey::WorkloadContainer {
            workload: workload(namespace, name),
            container: "main".into(),
        };
        let plain = SubjectKey::Container { node: "n".into(), namespace: "shop".into(), container: "c".into() };
        let issue = |namespace: &str| {
            let (workload, rule) = (workload(namespace, "web"), "privileged".to_owned());
            OutboxEvent::IssueOpened(IssueEvent { workload, rule, path: String::new() })
        };
        let database = OutboxEvent::DatabaseChanged { database: "sha256:1".to_owned() };
        // Of web and db in shop, web in bank, a container without a pod, an issue in shop and the database.
        for (yaml, expected) in [
            ("{}", [true; 6]),
            ("namespaces: [sh*]", [true, true, false, false, true, false]),
            ("owners: [shop-team, other]", [true, false, true, false, true, false]),
            ("labels: {tier: front}", [true, false, true, false, true, false]),
            ("{namespaces: [bank], labels: {tier: front}}", [false, false, true, false, false, false]),
            ("labels: {tier: back}", [false; 6]),
            ("classes: [vulnerability]", [true, true, true, true, false, false]),
            ("classes: [configuration]", [false, false, false, false, true, false]),
            ("classes: [operation]", [false, false, false, false, false, true]),
        ] {
            let filter: Filter = serde_saphyr::from_str(yaml).unwrap();
            let selects = filter.selection(&facts);
            let selected = [
                selects.subject(&subject("shop", "web")),
                selects.subject(&subject("shop", "db")),
                selects.subject(&subject("bank", "web")),
                selects.subject(&plain),
                selects.event(&issue("shop")),
                selects.event(&database),
            ];
            assert_eq!(selected, expected, "{yaml}");
        }
    }

    #[test]
    fn findings_are_selected_by_severity_status_and_fix() {
        let finding = FindingEvent {
            package_set: 1,
            vulnerability: "CVE-1".to_owned(),
            aliases: Vec::new(),
            severity: Severity::High,
            score: None,
            status: FindingStatus::Fixed,
            fixed: Some("2".to_owned()),
            package_type: "npm".to_owned(),
            package: "a".to_owned(),
            version: "1".to_owned(),
            purl: "pkg:npm/a@1".to_owned(),
        };
        for (yaml, expected) in [
            ("{}", true),
            ("minSeverity: high", true),
            ("minSeverity: critical", false),
            ("status: fixed", true),
            ("status: affected", false),
            ("fixable: true", true),
            ("fixable: false", false),
            ("{minSeverity: low, fixable: false}", false),
        ] {
            let filter: Filter = serde_saphyr::from_str(yaml).unwrap();
            assert_eq!(filter.selection(&HashMap::new()).finding(&finding), expected, "{yaml}");
        }
    }
}
