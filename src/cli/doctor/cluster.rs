//! Checks of the API server, the user's rights, and Outcrop's objects.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::api::{Api, ListParams, LogParams};
use kube::{Client, Resource, ResourceExt as _};
use outcrop_agent::doctor::{Check, judge_clock, skew};
use outcrop_proto::clock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::Request;

use super::answers::some;
use super::bundle::Bundle;
use super::objects::{Objects, Read};
use crate::cli::tunnel::{Cluster, OUTCROP};
use crate::cluster::{error_message, review};

/// Timeout of a request to the API server.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Oldest supported version of Kubernetes.
const OLDEST: (u32, u32) = (1, 29);

/// Maximum number of objects of one kind that are read.
const MAX_OBJECTS: u32 = 2_000;

/// Maximum number of pods whose logs go into an archive, and limits per container.
const MAX_LOGGED: usize = 20;
const MAX_LINES: i64 = 1_000;
const MAX_LOG: i64 = 512 << 10;

/// Results of the checks of a cluster.
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    pub(super) version: Option<String>,
    /// Outcrop's objects.
    pub(super) objects: Option<Objects>,
    client: Option<Client>,
}

/// Checks the connection to the API server. Returns a client, and the server's version, if it answers.
pub(super) async fn look_at_api_server(cluster: &Cluster) -> (Vec<Check>, Option<(Client, String)>) {
    let client = match cluster.client().await {
        Ok(client) => client,
        Err(error) => {
            let todo = "check that kubectl works with the same kubeconfig; select another with --kubeconfig FILE or --context NAME";
            return (vec![Check::fail("kubeconfig", error, todo)], None);
        }
    };
    match version(&client).await {
        Ok((info, date)) => {
            let mut checks = vec![judge_version(&info)];
            if let Some(skew) = date.and_then(|date| skew(&date, clock::machine())) {
                checks.push(judge_clock("clock", skew, "the API server's"));
            }
            (checks, Some((client, info.git_version)))
        }
        Err(error) => {
            let todo = "run kubectl version with the same kubeconfig; check the address and the credentials";
            (vec![Check::fail("API server", error, todo)], None)
        }
    }
}

/// Checks the cluster and Outcrop's objects in it.
pub(super) async fn look(cluster: &Cluster, needs_token: bool) -> Found {
    let (checks, client) = look_at_api_server(cluster).await;
    let mut found = Found { checks, version: None, objects: None, client: None };
    let Some((client, version)) = client else { return found };
    found.version = Some(version);
    let namespace = match installed(&client, cluster).await {
        Ok(namespace) => namespace,
        Err(check) => {
            found.checks.push(*check);
            return found;
        }
    };
    // In a pod the account is the pod's own: its rights are not those of a user.
    if cluster.is_named() {
        found.checks.push(rights(&client, &namespace, needs_token).await);
    }
    let objects = Objects {
        deployments: labelled(&client, &namespace).await,
        daemon_sets: labelled(&client, &namespace).await,
        pods: labelled(&client, &namespace).await,
        services: labelled(&client, &namespace).await,
        slices: labelled(&client, &namespace).await,
        config_maps: labelled(&client, &namespace).await,
        claims: labelled(&client, &namespace).await,
        events: listed(&client, &namespace, ListParams::default()).await,
        nodes: list(&Api::all(client.clone()), ListParams::default()).await,
        namespace,
    };
    found.checks.extend(aggregator_rights(&client, &objects).await);
    found.checks.extend(objects.judge(clock::timestamp()));
    found.objects = Some(objects);
    found.client = Some(client);
    found
}

/// Returns the API server's version and the date of its response.
async fn version(client: &Client) -> Result<(Info, Option<String>), String> {
    let asked = async {
        let request = Request::get("/version").body(kube::client::Body::empty()).map_err(|error| error.to_string())?;
        let answer = client.send(request).await.map_err(|error| error_message(&error))?;
        let status = answer.status();
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok()).map(ToOwned::to_owned);
        let bytes = answer.into_body().collect_bytes().await.map_err(|error| error_message(&error))?;
        if !status.is_success() {
            return Err(format!("the response has status {status}"));
        }
        Ok((
            serde_json::from_slice(&bytes)
                .map_err(|error| format!("the response is not from an API server: {error}"))?,
            date,
        ))
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no response within {} s", PATIENCE.as_secs())))
}

fn judge_version(info: &Info) -> Check {
    const NAME: &str = "API server";
    // Some providers write `29+`.
    let number = |text: &str| text.trim_end_matches(|character: char| !character.is_ascii_digit()).parse::<u32>().ok();
    let found = format!("Kubernetes {}", info.git_version);
    match (number(&info.major), number(&info.minor)) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST => Check::fail(
            NAME,
            found,
            format!(
                "use Kubernetes {}.{} or later: tokens of earlier versions do not name the pod",
                OLDEST.0, OLDEST.1
            ),
        ),
        (Some(_), Some(_)) => Check::ok(NAME, found),
        _ => Check::warn(NAME, found, "this version cannot be compared with the oldest supported one"),
    }
}

/// Finds the namespace in which Outcrop is installed.
async fn installed(client: &Client, cluster: &Cluster) -> Result<String, Box<Check>> {
    const NAME: &str = "installation";
    let deployments: Api<Deployment> = match cluster.namespace() {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let all = list(&deployments, ListParams::default().labels(OUTCROP)).await.map_err(|error| {
        Box::new(Check::fail(
            NAME,
            error,
            "search one namespace with --outcrop-namespace NAMESPACE, or request permission to list deployments",
        ))
    })?;
    let namespaces: BTreeSet<String> = all.iter().filter_map(kube::ResourceExt::namespace).collect();
    match namespaces.len() {
        0 => Err(Box::new(Check::fail(
            NAME,
            "no Deployment of the chart found",
            "run helm install outcrop charts/outcrop -n outcrop --create-namespace, or name its namespace with --outcrop-namespace",
        ))),
        1 => Ok(namespaces.into_iter().next().unwrap_or_default()),
        _ => {
            let names: Vec<String> = namespaces.into_iter().collect();
            Err(Box::new(Check::fail(
                NAME,
                format!("found several installations, in namespaces {}", names.join(", ")),
                "select one with --outcrop-namespace NAMESPACE",
            )))
        }
    }
}

async fn labelled<K>(client: &Client, namespace: &str) -> Read<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    listed(client, namespace, ListParams::default().labels(OUTCROP)).await
}

async fn listed<K>(client: &Client, namespace: &str, parameters: ListParams) -> Read<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    list(&Api::namespaced(client.clone(), namespace), parameters).await
}

pub(super) async fn list<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, parameters: ListParams) -> Read<K> {
    let parameters = parameters.limit(MAX_OBJECTS);
    let listed = tokio::time::timeout(PATIENCE, api.list(&parameters)).await;
    let listed = listed.map_err(|_| "no response from the API server".to_owned())?;
    listed.map(|list| list.items).map_err(|error| error_message(&error))
}

/// A permission and what requires it.
pub(super) struct Right {
    pub(super) verb: &'static str,
    group: &'static str,
    pub(super) resource: &'static str,
    subresource: &'static str,
    /// Purpose, for the report.
    pub(super) what_for: &'static str,
    pub(super) necessary: bool,
}

pub(super) const fn right(
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    what_for: &'static str,
    necessary: bool,
) -> Right {
    Right { verb, group, resource, subresource: "", what_for, necessary }
}

const fn sub(
    verb: &'static str,
    resource: &'static str,
    subresource: &'static str,
    what_for: &'static str,
    necessary: bool,
) -> Right {
    Right { verb, group: "", resource, subresource, what_for, necessary }
}

/// Permissions that the command line needs.
const RIGHTS: &[Right] = &[
    right("list", "", "pods", "to find the aggregator", true),
    sub("get", "pods", "portforward", "to connect to the aggregator", true),
    sub("create", "pods", "portforward", "to connect to the aggregator on Kubernetes 1.35 or later", false),
    right("list", "", "configmaps", "to read its CA certificate", true),
    right("list", "", "serviceaccounts", "to find the account for viewers", true),
    sub("create", "serviceaccounts", "token", "to request a token of that account", true),
    right("list", "apps", "daemonsets", "for outcrop doctor only", false),
    right("list", "", "services", "for outcrop doctor only", false),
    right("list", "discovery.k8s.io", "endpointslices", "for outcrop doctor only", false),
    right("list", "", "events", "for outcrop doctor only", false),
    right("list", "", "persistentvolumeclaims", "for outcrop doctor only", false),
    sub("get", "pods", "log", "for --bundle only", false),
];

/// Checks that the user of the kubeconfig has the permissions in [`RIGHTS`].
async fn rights(client: &Client, namespace: &str, needs_token: bool) -> Check {
    let of_token = |right: &Right| right.resource == "serviceaccounts";
    let mut denied = Vec::new();
    for right in RIGHTS.iter().filter(|right| needs_token || !of_token(right)) {
        match may(client, right, Some(namespace), None).await {
            Ok(true) => {}
            Ok(false) => denied.push(right),
            Err(error) => return Check::skipped("rights", error),
        }
    }
    judge_rights(&denied, namespace)
}

/// Returns whether `who` (by default, the current user) has a permission in a namespace or, without one, in the whole cluster.
pub(super) async fn may(
    client: &Client,
    right: &Right,
    namespace: Option<&str>,
    who: Option<&str>,
) -> Result<bool, String> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let attributes = Some(ResourceAttributes {
        namespace: namespace.map(ToOwned::to_owned),
        verb: some(right.verb),
        group: some(right.group),
        resource: some(right.resource),
        subresource: some(right.subresource),
        ..ResourceAttributes::default()
    });
    let status = match who {
        None => {
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: attributes, ..Default::default() };
            review(client, SelfSubjectAccessReview { spec, ..Default::default() }).await?.status
        }
        Some(account) => {
            let mut groups = vec!["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()];
            groups.extend(
                account
                    .rsplit_once(':')
                    .and_then(|(before, _)| before.rsplit_once(':'))
                    .map(|(_, of)| format!("system:serviceaccounts:{of}")),
            );
            let spec = SubjectAccessReviewSpec {
                user: Some(account.to_owned()),
                groups: Some(groups),
                resource_attributes: attributes,
                ..Default::default()
            };
            review(client, SubjectAccessReview { spec, ..Default::default() }).await?.status
        }
    };
    Ok(status.is_some_and(|status| status.allowed))
}

/// Permissions that the aggregator needs in the namespaces it watches.
const WATCHED: &[Right] = &[
    right("list", "", "pods", "to join containers to pods", true),
    right("watch", "", "pods", "to join containers to pods", true),
    right("list", "apps", "replicasets", "to find the workload", true),
    right("list", "apps", "deployments", "to find the workload", true),
    right("list", "apps", "statefulsets", "to find the workload", true),
    right("list", "apps", "daemonsets", "to find the workload", true),
    right("list", "batch", "jobs", "to find the workload", true),
    right("list", "batch", "cronjobs", "to find the workload", true),
    right("list", "", "replicationcontrollers", "to find the workload", false),
];

/// Permissions that the aggregator needs in the whole cluster if it watches all namespaces.
const OF_CLUSTER: &[Right] = &[
    right("list", "", "nodes", "to find nodes without an agent", false),
    right("list", "", "namespaces", "to read owners from namespaces", false),
];

/// Permissions that the aggregator always needs.
const REVIEWS: &[Right] = &[
    right("create", "authentication.k8s.io", "tokenreviews", "to authenticate agents and users", true),
    right("create", "authorization.k8s.io", "subjectaccessreviews", "to authorize users", true),
];

/// Checks that the aggregator's account has the permissions it needs.
async fn aggregator_rights(client: &Client, objects: &Objects) -> Vec<Check> {
    const NAME: &str = "aggregator's rights";
    let Some((account, watched)) = objects.aggregator() else { return Vec::new() };
    let user = format!("system:serviceaccount:{}:{account}", objects.namespace);
    let places: Vec<Option<&str>> = match watched.is_empty() {
        true => vec![None],
        false => watched.iter().map(|namespace| Some(namespace.as_str())).collect(),
    };
    let everywhere = OF_CLUSTER.iter().filter(|_| watched.is_empty()).chain(REVIEWS).map(|right| (None, right));
    let all = places.iter().flat_map(|place| WATCHED.iter().map(move |right| (*place, right))).chain(everywhere);
    let mut denied = Vec::new();
    for (place, right) in all {
        match may(client, right, place, Some(&user)).await {
            Ok(true) => {}
            Ok(false) => denied.push((place, right)),
            Err(error) => return vec![Check::skipped(NAME, error)],
        }
    }
    if denied.is_empty() {
        return vec![Check::ok(NAME, format!("{user} has all permissions it needs"))];
    }
    let words = |(place, right): &(Option<&str>, &Right)| {
        let place = place.map(|place| format!(" in {place}")).unwrap_or_default();
        format!("{} {}{place} ({})", right.verb, right.resource, right.what_for)
    };
    let found = format!("{user} lacks permission to {}", some(&denied.iter().map(words).collect::<Vec<_>>()));
    let todo = "set rbac.create: true in the chart, or apply the ClusterRole of daemonset/manifests";
    vec![match denied.iter().any(|(_, right)| right.necessary) {
        true => Check::fail(NAME, found, todo),
        false => Check::warn(NAME, found, todo),
    }]
}

fn judge_rights(denied: &[&Right], namespace: &str) -> Check {
    const NAME: &str = "rights";
    let words = |right: &&Right| {
        let slash = if right.subresource.is_empty() { "" } else { "/" };
        format!("{} {}{slash}{} ({})", right.verb, right.resource, right.subresource, right.what_for)
    };
    let all: Vec<String> = denied.iter().map(words).collect();
    if denied.is_empty() {
        return Check::ok(NAME, format!("all permissions needed in namespace {namespace}"));
    }
    let found = format!("missing in namespace {namespace}: {}", all.join(", "));
    if denied.iter().any(|right| right.necessary) {
        Check::fail(
            NAME,
            found,
            "request a Role with these permissions, or connect directly with --server URL, --ca and --token-file",
        )
    } else {
        Check::warn(NAME, found, "the checks that need them are skipped")
    }
}

impl Found {
    /// Adds the objects and the logs of Outcrop's pods to an archive.
    pub(super) async fn pack(&self, bundle: &mut Bundle) {
        let Some(objects) = &self.objects else { return };
        bundle.objects("kubernetes/deployments.json", &packed(&objects.deployments));
        bundle.objects("kubernetes/daemonsets.json", &packed(&objects.daemon_sets));
        bundle.objects("kubernetes/services.json", &packed(&objects.services));
        bundle.objects("kubernetes/endpointslices.json", &packed(&objects.slices));
        bundle.objects("kubernetes/claims.json", &packed(&objects.claims));
        let empty = Vec::new();
        let pods = sorted(objects.pods.as_ref().unwrap_or(&empty));
        if let Some(client) = &self.client {
            let api: Api<Pod> = Api::namespaced(client.clone(), &objects.namespace);
            for pod in pods.iter().take(MAX_LOGGED) {
                logs(&api, pod, bundle).await;
            }
        }
        bundle.objects("kubernetes/pods.json", &packed(&objects.pods));
        bundle.objects("kubernetes/events.json", &packed(&objects.events));
    }
}

/// Returns the objects, or the error that prevented reading them.
fn packed<T: Serialize>(of: &Read<T>) -> Value {
    match of {
        Ok(objects) => serde_json::to_value(objects).unwrap_or_default(),
        Err(error) => json!({ "error": error }),
    }
}

/// Sorts the aggregator first, then pods that are not ready.
fn sorted(pods: &[Pod]) -> Vec<&Pod> {
    let rank = |pod: &&Pod| {
        let is_agent = pod.labels().get("app.kubernetes.io/component").is_some_and(|component| component == "agent");
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let is_ready = conditions.into_iter().any(|of| of.type_ == "Ready" && of.status == "True");
        (is_agent, is_ready)
    };
    let mut sorted: Vec<&Pod> = pods.iter().collect();
    sorted.sort_by_key(rank);
    sorted
}

async fn logs(api: &Api<Pod>, pod: &Pod, bundle: &mut Bundle) {
    let name = pod.name_any();
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.init_container_statuses.iter().chain(&status.container_statuses).flatten());
    for container in statuses {
        for previous in [false, true] {
            if previous && container.restart_count == 0 {
                continue;
            }
            let parameters = LogParams {
                container: Some(container.name.clone()),
                previous,
                tail_lines: Some(MAX_LINES),
                limit_bytes: Some(MAX_LOG),
                timestamps: true,
                ..LogParams::default()
            };
            let asked = tokio::time::timeout(PATIENCE, api.logs(&name, &parameters)).await;
            let text = match asked {
                Ok(Ok(text)) => text,
                Ok(Err(error)) => format!("reading the log: {}\n", error_message(&error)),
                Err(_) => "reading the log: no response from the API server\n".to_owned(),
            };
            let of = if previous { "-previous" } else { "" };
            bundle.log(&format!("logs/{name}-{}{of}.log", container.name), &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use outcrop_agent::doctor::Outcome;

    use super::*;

    #[test]
    fn unsupported_kubernetes_versions_fail() {
        for (major, minor, result) in [
            ("1", "34", Outcome::Ok),
            ("1", "29+", Outcome::Ok),
            ("1", "28", Outcome::Fail),
            ("2", "0", Outcome::Ok),
            ("", "", Outcome::Warn),
        ] {
            let info = Info {
                major: major.to_owned(),
                minor: minor.to_owned(),
                git_version: "v".to_owned(),
                ..Info::default()
            };
            assert_eq!(judge_version(&info).result, result, "{major}.{minor}");
        }
    }

    #[test]
    fn only_missing_required_permissions_fail() {
        let of = |subresource: &str| RIGHTS.iter().filter(|right| right.subresource == subresource).collect::<Vec<_>>();
        for (denied, result, says) in [
            (vec![], Outcome::Ok, "namespace n"),
            (of("log"), Outcome::Warn, "get pods/log (for --bundle only)"),
            (of("token"), Outcome::Fail, "create serviceaccounts/token"),
        ] {
            let check = judge_rights(&denied, "n");
            assert_eq!(check.result, result, "{check:?}");
            assert!(check.found.contains(says), "{check:?}");
        }
    }
}
