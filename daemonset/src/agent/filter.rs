//! Which containers the operator wants looked into.

use outcrop_proto::container::{Container, Coverage, CoverageState};

/// The operator's choice. Whoever is left out is still told of, with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// containerd namespaces to look into; all where none is named.
    pub namespaces: Vec<String>,
    /// containerd namespaces not to look into.
    pub exclude_namespaces: Vec<String>,
    /// Kubernetes namespaces not to look into.
    pub exclude_kubernetes_namespaces: Vec<String>,
}

impl Filter {
    /// Why a container is not looked into, if the operator left it out.
    pub(super) fn excludes(&self, container: &Container) -> Option<Coverage> {
        let kubernetes = container.pod.as_ref().map(|pod| &pod.namespace);
        let kubernetes = kubernetes.filter(|namespace| self.exclude_kubernetes_namespaces.contains(namespace));
        self.excludes_namespace(&container.key.namespace).or_else(|| {
            let namespace = kubernetes?;
            Some(excluded(format!("Kubernetes namespace {namespace:?} is excluded on this node")))
        })
    }

    /// The same by the containerd namespace alone.
    pub(super) fn excludes_namespace(&self, namespace: &str) -> Option<Coverage> {
        let named = |list: &[String]| list.iter().any(|name| name == namespace);
        if named(&self.exclude_namespaces) {
            return Some(excluded(format!("containerd namespace {namespace:?} is excluded on this node")));
        }
        if !self.namespaces.is_empty() && !named(&self.namespaces) {
            let reason = format!("containerd namespace {namespace:?} is not among the namespaces to scan");
            return Some(excluded(reason));
        }
        None
    }
}

fn excluded(reason: String) -> Coverage {
    Coverage::new(CoverageState::Excluded, reason)
}
