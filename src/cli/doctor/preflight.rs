//! Checks of a cluster before Outcrop is installed in it: the conditions under which `helm install --wait` would time out ("context deadline exceeded").

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};
use outcrop_agent::doctor::Check;

use super::answers::some;
use super::cluster::{PATIENCE, Right, list, look_at_api_server, may, right};
use crate::cli::tunnel::Cluster;
use crate::cluster::error_message;

/// Namespace of the chart's documentation.
const NAMESPACE: &str = "outcrop";

/// Label of a namespace with its Pod Security level (<https://kubernetes.io/docs/concepts/security/pod-security-admission/>).
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Annotation of the default storage class (<https://kubernetes.io/docs/concepts/storage/storage-classes/#default-storageclass>).
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Permissions to install the chart, in its namespace.
const IN_NAMESPACE: &[Right] = &[
    right("create", "apps", "deployments", "the aggregator", true),
    right("create", "apps", "daemonsets", "the agents", true),
    right("create", "", "services", "the aggregator", true),
    right("create", "", "serviceaccounts", "both programs", true),
    right("create", "", "configmaps", "the CA certificate", true),
    right("create", "", "secrets", "Helm's release", true),
    right("create", "", "persistentvolumeclaims", "aggregator.persistence", false),
    right("create", "networking.k8s.io", "networkpolicies", "networkPolicy.create", false),
    right("create", "rbac.authorization.k8s.io", "roles", "rbac.create", true),
    right("create", "rbac.authorization.k8s.io", "rolebindings", "rbac.create", true),
];

/// Permissions to install the chart, in the whole cluster.
const IN_CLUSTER: &[Right] = &[
    right("create", "rbac.authorization.k8s.io", "clusterroles", "rbac.create", true),
    right("create", "rbac.authorization.k8s.io", "clusterrolebindings", "rbac.create", true),
];

/// Checks the cluster and the namespace in which Outcrop will be installed.
pub(super) async fn look(cluster: &Cluster) -> Vec<Check> {
    let (mut checks, client) = look_at_api_server(cluster).await;
    let Some((client, _)) = client else { return checks };
    let name = cluster.namespace().unwrap_or(NAMESPACE);
    let api: Api<Namespace> = Api::all(client.clone());
    let asked = tokio::time::timeout(PATIENCE, api.get_opt(name)).await;
    let namespace = match asked {
        Ok(answer) => answer.map_err(|error| error_message(&error)),
        Err(_) => Err("no response from the API server".to_owned()),
    };
    checks.push(judge_rights(&denied(&client, name, namespace.as_ref().is_ok_and(Option::is_none)).await, name));
    checks.push(judge_namespace(name, &namespace.map(|namespace| namespace.map(|found| found.labels().clone()))));
    checks.push(judge_storage(&list(&Api::<StorageClass>::all(client.clone()), ListParams::default()).await));
    checks.push(judge_runtimes(&list(&Api::<Node>::all(client), ListParams::default()).await));
    checks
}

/// Returns the permissions that the user lacks, or why that is unknown.
async fn denied(client: &Client, namespace: &str, is_new: bool) -> Result<Vec<&'static Right>, String> {
    const NEW: &Right = &right("create", "", "namespaces", "--create-namespace", true);
    let everywhere = IN_CLUSTER.iter().chain(Some(NEW).filter(|_| is_new)).map(|right| (None, right));
    let mut denied = Vec::new();
    for (place, right) in IN_NAMESPACE.iter().map(|right| (Some(namespace), right)).chain(everywhere) {
        if !may(client, right, place, None).await? {
            denied.push(right);
        }
    }
    Ok(denied)
}

fn judge_rights(denied: &Result<Vec<&Right>, String>, namespace: &str) -> Check {
    const NAME: &str = "rights to install";
    let denied = match denied {
        Ok(denied) => denied,
        Err(error) => return Check::skipped(NAME, error),
    };
    if denied.is_empty() {
        return Check::ok(NAME, format!("all permissions needed to install the chart in namespace {namespace}"));
    }
    let words: Vec<String> =
        denied.iter().map(|right| format!("{} {} ({})", right.verb, right.resource, right.what_for)).collect();
    let found = format!("missing for namespace {namespace}: {}", words.join(", "));
    match denied.iter().any(|right| right.necessary) {
        true => Check::fail(NAME, found, "install as a cluster administrator, or have one apply daemonset/manifests"),
        false => Check::warn(NAME, found, "switch off the values in parentheses, or request the permissions"),
    }
}

/// Judges the Pod Security level of the namespace: agents mount directories of the host, which only `privileged` allows.
fn judge_namespace(name: &str, labels: &Result<Option<BTreeMap<String, String>>, String>) -> Check {
    const NAME: &str = "Pod Security";
    let labels = match labels {
        Ok(Some(labels)) => labels,
        Ok(None) => {
            return Check::ok(
                NAME,
                format!(
                    "namespace {name} does not exist yet, so it enforces no level, unless the cluster has a default level"
                ),
            );
        }
        Err(error) => return Check::skipped(NAME, error),
    };
    match labels.get(ENFORCE).map(String::as_str) {
        None => Check::ok(NAME, format!("namespace {name} enforces no level, unless the cluster has a default level")),
        Some("privileged") => Check::ok(NAME, format!("namespace {name} enforces privileged")),
        Some(level) => Check::fail(
            NAME,
            format!(
                "namespace {name} enforces {level}, which refuses the agents' host directories: no agent would start"
            ),
            format!("run kubectl label --overwrite namespace {name} {ENFORCE}=privileged, or use another namespace"),
        ),
    }
}

/// Judges the storage classes: without a default one, the aggregator's claim stays pending.
fn judge_storage(classes: &Result<Vec<StorageClass>, String>) -> Check {
    const NAME: &str = "default StorageClass";
    let classes = match classes {
        Ok(classes) => classes,
        Err(error) => return Check::skipped(NAME, error),
    };
    let is_default =
        |class: &&StorageClass| class.annotations().get(DEFAULT_CLASS).is_some_and(|value| value == "true");
    if let Some(class) = classes.iter().find(is_default) {
        return Check::ok(NAME, class.name_any());
    }
    let found = match classes.is_empty() {
        true => "the cluster has no StorageClass: the aggregator's claim would stay pending".to_owned(),
        false => {
            let names: Vec<String> = classes.iter().map(kube::ResourceExt::name_any).collect();
            format!("none of {} is the default: the aggregator's claim would stay pending", some(&names))
        }
    };
    Check::fail(
        NAME,
        found,
        "set aggregator.persistence.storageClass, or aggregator.persistence.enabled=false, which loses the data with the pod",
    )
}

/// Judges the container runtimes of the nodes.
fn judge_runtimes(nodes: &Result<Vec<Node>, String>) -> Check {
    const NAME: &str = "container runtime";
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return Check::skipped(NAME, error),
    };
    let runtime = |node: &Node| {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        info.map(|info| info.container_runtime_version.clone()).unwrap_or_default()
    };
    let other: Vec<String> = nodes
        .iter()
        .map(|node| (node, runtime(node)))
        .filter(|(_, runtime)| !runtime.starts_with("containerd://"))
        .map(|(node, runtime)| format!("{} ({runtime})", node.name_any()))
        .collect();
    if other.is_empty() {
        return Check::ok(NAME, format!("containerd on {} nodes", nodes.len()));
    }
    Check::warn(
        NAME,
        format!("not containerd: {}", some(&other)),
        "agents cannot read the containers of these nodes; exclude them with agent.nodeSelector",
    )
}

#[cfg(test)]
mod tests {
    use outcrop_agent::doctor::Outcome;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_level_that_refuses_agents_fails() {
        for (level, result) in [
            (Some(None), Outcome::Ok),
            (Some(Some("privileged")), Outcome::Ok),
            (Some(Some("baseline")), Outcome::Fail),
            (Some(Some("restricted")), Outcome::Fail),
            (None, Outcome::Ok),
        ] {
            let labels =
                level.map(|level| level.map(|level| (ENFORCE.to_owned(), level.to_owned())).into_iter().collect());
            let check = judge_namespace("n", &Ok(labels));
            assert_eq!(check.result, result, "{level:?}: {check:?}");
            assert!(check.found.contains("namespace n"), "{check:?}");
        }
        assert_eq!(judge_namespace("n", &Err("forbidden".to_owned())).result, Outcome::Skipped);
    }

    #[test]
    fn a_cluster_without_a_default_storage_class_fails() {
        let class = |name: &str, default: &str| -> StorageClass {
            let metadata = json!({ "name": name, "annotations": { DEFAULT_CLASS: default } });
            serde_json::from_value(json!({ "metadata": metadata, "provisioner": "x" })).unwrap()
        };
        for (classes, result, words) in [
            (vec![], Outcome::Fail, "no StorageClass"),
            (vec![class("slow", "false")], Outcome::Fail, "none of slow is the default"),
            (vec![class("slow", "false"), class("fast", "true")], Outcome::Ok, "fast"),
        ] {
            let check = judge_storage(&Ok(classes));
            assert_eq!(check.result, result, "{check:?}");
            assert!(check.found.contains(words), "{check:?}");
        }
        assert_eq!(judge_storage(&Err("forbidden".to_owned())).result, Outcome::Skipped);
    }

    #[test]
    fn missing_permissions_are_named_with_what_needs_them() {
        let of = |necessary: bool| Ok(IN_NAMESPACE.iter().filter(|right| right.necessary == necessary).collect());
        for (denied, result, words) in [
            (Ok(vec![]), Outcome::Ok, "namespace n"),
            (of(false), Outcome::Warn, "create persistentvolumeclaims (aggregator.persistence)"),
            (of(true), Outcome::Fail, "create daemonsets (the agents)"),
            (Err("no response".to_owned()), Outcome::Skipped, "no response"),
        ] {
            let check = judge_rights(&denied, "n");
            assert_eq!(check.result, result, "{check:?}");
            assert!(check.found.contains(words), "{check:?}");
        }
    }

    #[test]
    fn nodes_with_another_runtime_are_named() {
        let node = |name: &str, runtime: &str| -> Node {
            serde_json::from_value(json!({ "metadata": { "name": name }, "status": { "nodeInfo": {
                "containerRuntimeVersion": runtime, "architecture": "", "bootID": "", "kernelVersion": "", "kubeProxyVersion": "",
                "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": "" } } }))
            .unwrap()
        };
        let all = judge_runtimes(&Ok(vec![node("a", "containerd://2.4.2"), node("b", "containerd://1.6.20")]));
        assert_eq!((all.result, &*all.found), (Outcome::Ok, "containerd on 2 nodes"));
        let mixed = judge_runtimes(&Ok(vec![node("a", "containerd://2.4.2"), node("b", "cri-o://1.30.0")]));
        assert_eq!(mixed.result, Outcome::Warn);
        assert!(mixed.found.contains("b (cri-o://1.30.0)") && !mixed.found.contains("a ("), "{mixed:?}");
    }
}
