//! Excludes workloads from scanning, as an administrator configured. Excluded workloads are counted, with the reason.

use std::sync::Arc;

use super::Workload;
use super::objects::{EXCLUDE, Marks};
use super::policy_file::PolicyFile;
use crate::patterns::NamespacePatterns;

/// The configured exclusions.
#[derive(Debug, Default)]
pub struct Selection {
    /// Included namespaces; all if there are none.
    pub included_namespaces: NamespacePatterns,
    /// Excluded namespaces, also of the included ones.
    pub excluded_namespaces: NamespacePatterns,
    /// Namespaces in which the annotation [`EXCLUDE`] is honored: anybody who may annotate a workload there can exclude it.
    pub annotations_in: NamespacePatterns,
    /// A policy that excludes what it does not select.
    pub policy: Option<Arc<PolicyFile>>,
}

impl Selection {
    /// Returns why a workload is excluded, if it is, by its own labels and annotations and by those of its namespace. The policy is not evaluated
    /// here: that takes long, and the caller holds a lock.
    pub(super) fn excluded(&self, workload: &Workload, of: &Marks, namespace: Option<&Marks>) -> Option<Arc<str>> {
        let name = &workload.namespace;
        if is_openshift(name) {
            return Some(format!("namespace {name} belongs to OpenShift").into());
        }
        if self.excluded_namespaces.matches(name) {
            return Some(format!("namespace {name} is excluded").into());
        }
        if !self.included_namespaces.is_empty() && !self.included_namespaces.matches(name) {
            return Some(format!("namespace {name} is not included").into());
        }
        if self.annotations_in.matches(name) {
            let says = |marks: &Marks| marks.annotations.get(EXCLUDE).is_some_and(|value| value == "true");
            if says(of) {
                return Some(format!("excluded by its annotation {EXCLUDE}").into());
            }
            if namespace.is_some_and(says) {
                return Some(format!("excluded by the annotation {EXCLUDE} of namespace {name}").into());
            }
        }
        None
    }
}

/// Returns whether a namespace is reserved by OpenShift, which lets nobody else create it.
fn is_openshift(namespace: &str) -> bool {
    namespace == "openshift" || namespace.starts_with("openshift-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(namespace: &str, kind: &str) -> Workload {
        let [group, name, uid] = ["apps", "web", "1"].map(ToOwned::to_owned);
        Workload { namespace: namespace.to_owned(), group, kind: kind.to_owned(), name, uid }
    }

    fn marks(annotations: &[(&str, &str)]) -> Marks {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Marks { annotations, ..Marks::default() }
    }

    fn patterns(texts: &[&str]) -> NamespacePatterns {
        NamespacePatterns::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn everything_is_in_view_unless_an_administrator_says_otherwise() {
        let hidden = marks(&[(EXCLUDE, "true")]);
        let none = Marks::default();
        let default = Selection::default();
        for namespace in ["shop", "kube-system", "openshifty"] {
            assert_eq!(default.excluded(&workload(namespace, "Deployment"), &hidden, Some(&hidden)), None);
        }
        let chosen = Selection {
            included_namespaces: patterns(&["shop", "bank", "kube-*", "openshift-dns", "team-?"]),
            excluded_namespaces: patterns(&["kube-*"]),
            annotations_in: patterns(&["shop"]),
            policy: None,
        };
        for (namespace, kind, own, of_namespace, says) in [
            ("kube-system", "Deployment", &none, &none, "namespace kube-system is excluded"),
            ("team-10", "Deployment", &none, &none, "namespace team-10 is not included"),
            ("team-1", "Deployment", &none, &none, ""),
            ("openshift-dns", "Deployment", &none, &none, "OpenShift"),
            ("shop", "Deployment", &hidden, &none, "its annotation"),
            ("shop", "Deployment", &none, &hidden, "of namespace shop"),
            ("shop", "Deployment", &marks(&[(EXCLUDE, "false")]), &none, ""),
            ("bank", "Deployment", &hidden, &hidden, ""),
        ] {
            let excluded = chosen.excluded(&workload(namespace, kind), own, Some(of_namespace));
            assert_eq!(excluded.is_some(), !says.is_empty(), "{namespace} {kind}: {excluded:?}");
            assert!(excluded.unwrap_or_default().contains(says));
        }
    }
}
