//! The operator's choice of containers to scan.

use outcrop_proto::container::{Container, Coverage, CoverageState};

/// The operator's choice. Excluded containers are still reported, with the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Runtime namespaces to scan; all if empty.
    pub namespaces: Vec<String>,
    /// Runtime namespaces not to scan.
    pub exclude_namespaces: Vec<String>,
    /// Kubernetes namespaces not to scan.
    pub exclude_kubernetes_namespaces: Vec<String>,
}

impl Filter {
    /// Returns the reason if the operator excluded the container.
    pub(super) fn excludes(&self, container: &Container) -> Option<Coverage> {
        let kubernetes = container.pod.as_ref().map(|pod| &pod.namespace);
        let kubernetes = kubernetes.filter(|namespace| self.exclude_kubernetes_namespaces.contains(namespace));
        self.excludes_namespace(&container.key.namespace).or_else(|| {
            let namespace = kubernetes?;
            Some(excluded(format!("Kubernetes namespace {namespace:?} is excluded on this node")))
        })
    }

    /// Like [`Self::excludes`], by the runtime namespace alone.
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
