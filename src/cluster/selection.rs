//! Excludes workloads from scanning, as an administrator configured. Excluded workloads are counted, with the reason.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Workload;
use super::objects::{EXCLUDE, Marks};
use super::policy_file::PolicyFile;

/// The configured exclusions.
#[derive(Debug, Default)]
pub struct Selection {
    /// Excluded namespaces.
    pub excluded_namespaces: BTreeSet<String>,
    /// Namespaces in which the annotation [`EXCLUDE`] is honored: anybody who may annotate a workload there can exclude it.
    pub annotations_in: BTreeSet<String>,
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
        if self.excluded_namespaces.contains(name) {
            return Some(format!("namespace {name} is excluded").into());
        }
        if self.annotations_in.contains(name) {
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

    #[test]
    fn everything_is_in_view_unless_an_administrator_says_otherwise() {
        let hidden = marks(&[(EXCLUDE, "true")]);
        let none = Marks::default();
        let default = Selection::default();
        for namespace in ["shop", "kube-system", "openshifty"] {
            assert_eq!(default.excluded(&workload(namespace, "Deployment"), &hidden, Some(&hidden)), None);
        }
        let chosen = Selection {
            excluded_namespaces: ["kube-system".to_owned()].into(),
            annotations_in: ["shop".to_owned()].into(),
            policy: None,
        };
        for (namespace, kind, own, of_namespace, says) in [
            ("kube-system", "Deployment", &none, &none, "namespace kube-system is excluded"),
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
