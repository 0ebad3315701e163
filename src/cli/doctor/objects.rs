//! Checks of Outcrop's own objects in a cluster.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Event, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use outcrop_agent::doctor::Check;

use super::answers::some;

/// Maximum age of the events that are reported, seconds.
const RECENT: i64 = 3600;

/// Maximum number of events that are listed.
const MAX_EVENTS: usize = 8;

/// The objects of one kind, or the error that prevented reading them.
pub(super) type Read<T> = Result<Vec<T>, String>;

/// Outcrop's objects in its namespace.
#[derive(Debug)]
pub(super) struct Objects {
    /// Its namespace.
    pub(super) namespace: String,
    pub(super) deployments: Read<Deployment>,
    pub(super) daemon_sets: Read<DaemonSet>,
    pub(super) pods: Read<Pod>,
    pub(super) services: Read<Service>,
    pub(super) slices: Read<EndpointSlice>,
    pub(super) config_maps: Read<ConfigMap>,
    pub(super) claims: Read<PersistentVolumeClaim>,
    pub(super) events: Read<Event>,
    /// The cluster's nodes.
    pub(super) nodes: Read<Node>,
}

/// Label with the component of an object.
const COMPONENT: &str = "app.kubernetes.io/component";

impl Objects {
    /// Returns the host name that agents use for the aggregator.
    pub(super) fn agents_name(&self) -> Option<String> {
        let service = self.services.as_ref().ok()?.first()?;
        Some(format!("{}.{}.svc", service.name_any(), self.namespace))
    }

    /// Returns the aggregator's service account and the namespaces it watches; an empty list means all.
    pub(super) fn aggregator(&self) -> Option<(String, Vec<String>)> {
        let pod = self.deployments.as_ref().ok()?.first()?.spec.as_ref()?.template.spec.as_ref()?;
        let arguments = pod.containers.iter().flat_map(|container| container.args.iter().flatten());
        let watched = arguments.filter_map(|argument| argument.strip_prefix("--watch-namespace="));
        Some((pod.service_account_name.clone()?, watched.map(ToOwned::to_owned).collect()))
    }

    /// Checks all objects.
    pub(super) fn judge(&self, now: Timestamp) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut each = |name: &str, judged: Result<Vec<Check>, &String>| match judged {
            Ok(judged) => checks.extend(judged),
            Err(error) => checks.push(Check::skipped(name, error.clone())),
        };
        each("aggregator", self.deployments.as_ref().map(|of| of.iter().map(deployment).collect()));
        each("volume", self.deployments.as_ref().map(|of| of.iter().filter_map(passing).collect()));
        each("volume", self.claims.as_ref().map(|of| of.iter().map(claim).collect()));
        each("service", self.services.as_ref().and_then(|of| Ok(service(of, self.slices.as_ref()?))));
        each("CA certificate", self.config_maps.as_ref().map(|of| vec![authority(of)]));
        each("cluster nodes", self.nodes.as_ref().map(|of| vec![ready(of)]));
        each("agents", self.daemon_sets.as_ref().map(|of| daemon_sets(of)));
        each("pods", self.pods.as_ref().map(|of| of.iter().filter_map(pod).collect()));
        each("events", self.events.as_ref().map(|of| events(of, &self.names(), now)));
        checks
    }

    /// Returns the objects by the names that events use, each with the time since which it is healthy. Pods that were never created appear
    /// in the events of their owner.
    fn names(&self) -> Names {
        fn add<K: kube::Resource>(of: &Read<K>, kind: &str, since: impl Fn(&K) -> i64, into: &mut Names) {
            into.extend(of.iter().flatten().map(|of| ((kind.to_owned(), of.name_any()), since(of))));
        }
        let mut names = Names::new();
        add(&self.deployments, "Deployment", |_| 0, &mut names);
        add(&self.daemon_sets, "DaemonSet", |_| 0, &mut names);
        add(&self.pods, "Pod", ready_since, &mut names);
        let bound = |of: &PersistentVolumeClaim| {
            let phase = of.status.as_ref().and_then(|status| status.phase.as_deref());
            if phase == Some("Bound") { i64::MAX } else { 0 }
        };
        add(&self.claims, "PersistentVolumeClaim", bound, &mut names);
        names
    }
}

/// Kind and name of an object, and the second since which it is healthy: earlier warnings are resolved.
type Names = BTreeMap<(String, String), i64>;

/// Returns the time since which a pod is ready, in seconds since 1970, or 0 if it is not ready.
fn ready_since(pod: &Pod) -> i64 {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let ready = conditions.into_iter().find(|of| of.type_ == "Ready" && of.status == "True");
    ready.and_then(|of| of.last_transition_time.as_ref()).map_or(0, |time| time.0.as_second())
}

fn deployment(of: &Deployment) -> Check {
    const NAME: &str = "aggregator";
    let wanted = of.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = of.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let found = format!("Deployment {}: {ready} of {wanted} ready", of.name_any());
    match (wanted, ready) {
        (0, _) => Check::fail(NAME, found, format!("run kubectl scale --replicas=1 deployment/{}", of.name_any())),
        (_, 0) => {
            let conditions = of.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let failed =
                conditions.filter(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
            let why: Vec<&str> = failed.filter_map(|condition| condition.message.as_deref()).collect();
            let found = if why.is_empty() { found } else { format!("{found}: {}", why.join("; ")) };
            Check::fail(NAME, found, "see the lines of its pod below, and its log with kubectl logs")
        }
        _ => Check::ok(NAME, found),
    }
}

/// Warns if the aggregator's data is deleted with its pod.
fn passing(of: &Deployment) -> Option<Check> {
    let volumes = of.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    let is_passing = volumes.iter().any(|volume| volume.name == "data" && volume.empty_dir.is_some());
    is_passing.then(|| {
        Check::warn(
            "volume",
            "the aggregator's data is in an emptyDir and is deleted with the pod: the store, the advisory database and the CA",
            "set aggregator.persistence.enabled=true in the chart",
        )
    })
}

fn claim(of: &PersistentVolumeClaim) -> Check {
    let phase = of.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let found = format!("claim {} is {phase}", of.name_any());
    match phase {
        "Bound" => Check::ok("volume", found),
        _ => Check::fail(
            "volume",
            found,
            "check that a default storage class exists, or set aggregator.persistence.storageClass, or aggregator.persistence.enabled=false",
        ),
    }
}

fn service(services: &[Service], slices: &[EndpointSlice]) -> Vec<Check> {
    const NAME: &str = "service";
    if services.is_empty() {
        return vec![Check::fail(
            NAME,
            "no Service found: agents cannot connect to the aggregator",
            "reinstall the chart",
        )];
    }
    let judge = |service: &Service| {
        let name = service.name_any();
        let own = slices.iter().filter(|slice| slice.labels().get("kubernetes.io/service-name") == Some(&name));
        let endpoints = own.flat_map(|slice| slice.endpoints.iter());
        let is_ready = |ready: Option<bool>| ready != Some(false);
        let ready =
            endpoints.filter(|of| is_ready(of.conditions.as_ref().and_then(|conditions| conditions.ready))).count();
        match ready {
            0 => Check::fail(
                NAME,
                format!("Service {name} has no ready pod"),
                "agents wait for the aggregator; see its checks above",
            ),
            _ => Check::ok(NAME, format!("Service {name}: {ready} pods ready")),
        }
    };
    services.iter().map(judge).collect()
}

fn authority(maps: &[ConfigMap]) -> Check {
    const NAME: &str = "CA certificate";
    let Some(map) = maps.iter().find(|map| map.name_any().ends_with("-ca")) else {
        return Check::fail(
            NAME,
            "no ConfigMap …-ca found: the agents' pods wait for it",
            "run helm upgrade to create it; the aggregator then publishes its CA certificate there",
        );
    };
    match map.data.as_ref().and_then(|data| data.get("ca.crt")) {
        Some(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => {
            Check::ok(NAME, format!("published in ConfigMap {}", map.name_any()))
        }
        Some(_) => Check::fail(
            NAME,
            format!("ca.crt in ConfigMap {} is not a PEM certificate", map.name_any()),
            "delete the key; the aggregator writes it again",
        ),
        None => Check::fail(
            NAME,
            format!("ConfigMap {} has no key ca.crt: the agents' pods wait for it", map.name_any()),
            "the aggregator writes it at start; check that it is running and has the Role …-publish",
        ),
    }
}

/// Checks that all nodes are ready: pods on other nodes cannot be.
fn ready(nodes: &[Node]) -> Check {
    const NAME: &str = "cluster nodes";
    let state = |node: &Node| {
        let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.find(|of| of.type_ == "Ready");
        match ready {
            Some(of) if of.status == "True" => None,
            Some(of) => Some(format!("{} ({})", node.name_any(), of.message.as_deref().unwrap_or(&of.status))),
            None => Some(format!("{} (no condition Ready)", node.name_any())),
        }
    };
    let bad: Vec<String> = nodes.iter().filter_map(state).collect();
    if bad.is_empty() {
        return Check::ok(NAME, format!("all {} are ready", nodes.len()));
    }
    let found = format!("{} of {} are not ready: {}", bad.len(), nodes.len(), some(&bad));
    Check::warn(NAME, found, "check the kubelet on these nodes; pods there are not ready either")
}

fn daemon_sets(sets: &[DaemonSet]) -> Vec<Check> {
    const NAME: &str = "agents";
    if sets.is_empty() {
        return vec![Check::fail(NAME, "no DaemonSet found", "reinstall the chart")];
    }
    let judge = |set: &DaemonSet| {
        let name = set.name_any();
        let Some(status) = &set.status else {
            return Check::warn(
                NAME,
                format!("DaemonSet {name} has no status yet"),
                "run outcrop doctor again in a minute",
            );
        };
        let (wanted, ready) = (status.desired_number_scheduled, status.number_ready);
        let current = status.updated_number_scheduled.unwrap_or(0);
        let found = format!("DaemonSet {name}: {ready} of {wanted} ready");
        if wanted == 0 {
            Check::warn(
                NAME,
                format!("{found}: no node matches"),
                "check agent.nodeSelector, agent.nodeExpressions and agent.tolerations in the chart",
            )
        } else if ready < wanted {
            Check::fail(NAME, found, "see the lines of their pods and the events below")
        } else if current < wanted {
            Check::warn(
                NAME,
                format!("{found}, {current} updated"),
                "check kubectl rollout status; with updateStrategy OnDelete, delete the old pods",
            )
        } else if status.number_misscheduled > 0 {
            Check::warn(
                NAME,
                format!("{found}, {} on nodes that no longer match", status.number_misscheduled),
                "Kubernetes removes these pods by itself",
            )
        } else {
            Check::ok(NAME, found)
        }
    };
    sets.iter().map(judge).collect()
}

/// Checks one pod. Returns `None` if it is healthy.
fn pod(pod: &Pod) -> Option<Check> {
    let name = format!("pod {}", pod.name_any());
    let status = pod.status.as_ref()?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let on = node.map(|node| format!(" on {node}")).unwrap_or_default();
    let statuses = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let mut reasons: Vec<String> = statuses().filter_map(not_running).collect();
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    reasons.extend(unscheduled.filter_map(|condition| condition.message.clone()));
    let reason = [status.reason.clone(), status.message.clone()].into_iter().flatten().collect::<Vec<_>>().join(": ");
    if !reason.is_empty() {
        reasons.push(reason);
    }
    let is_ready = status.conditions.iter().flatten().any(|of| of.type_ == "Ready" && of.status == "True");
    let restarts: i32 = statuses().map(|of| of.restart_count).sum();
    let is_agent = pod.labels().get(COMPONENT).is_some_and(|component| component == "agent");
    if is_ready {
        let last = statuses()
            .filter_map(|of| of.last_state.as_ref()?.terminated.as_ref())
            .map(|of| format!("{} (code {})", of.reason.as_deref().unwrap_or("ended"), of.exit_code));
        let last: Vec<String> = last.collect();
        let found = format!("running{on}, restarted {restarts} times: {}", last.join(", "));
        return (restarts > 0).then(|| {
            Check::warn(&name, found, "see kubectl logs --previous; if the reason is OOMKilled, raise the memory limit")
        });
    }
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let found = format!(
        "{phase}{on}, not ready: {}",
        if reasons.is_empty() { "no reason reported yet".to_owned() } else { some(&reasons) }
    );
    Some(Check::fail(&name, found.clone(), advice(&found, is_agent)))
}

/// Returns why a container is not running or not ready.
fn not_running(of: &ContainerStatus) -> Option<String> {
    let state = of.state.as_ref()?;
    let words = |reason: &Option<String>, message: &Option<String>| {
        let all = [reason.clone(), message.clone()].into_iter().flatten();
        format!("{}: {}", of.name, all.collect::<Vec<_>>().join(", "))
    };
    match (&state.waiting, &state.terminated) {
        (Some(waiting), _) => {
            let last = of.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            let last = last.map(|last| {
                format!("; last exit code {} {}", last.exit_code, last.reason.as_deref().unwrap_or_default())
            });
            Some(words(&waiting.reason, &waiting.message) + last.unwrap_or_default().trim_end())
        }
        (None, Some(ended)) if ended.exit_code != 0 => Some(words(&ended.reason, &ended.message)),
        (None, None) if !of.ready => Some(format!("{} is running but not ready", of.name)),
        _ => None,
    }
}

/// Returns a hint for a message of the kubelet or the scheduler.
fn advice(found: &str, is_agent: bool) -> &'static str {
    let of = [
        (
            &["ErrImageNeverPull"][..],
            "import the image on that node with ctr -n k8s.io images import, or set image.pullPolicy",
        ),
        (
            &["ImagePull", "InvalidImageName"],
            "check image.registry and image.pullSecrets in the chart; without a registry set image.pullPolicy: Never",
        ),
        (
            &["hostPath type check failed"],
            "a configured directory does not exist on that node; check agent.runtime and agent.paths, or use agents for different nodes",
        ),
        (
            &["CreateContainerConfigError", "configmap", "ConfigMap"],
            "the pod waits for the aggregator's CA certificate or for an object named in the chart's values",
        ),
        (
            &["CreateContainerError", "RunContainerError", "StartError"],
            "the container runtime refuses the security context or a mount; see containerd's log on the node",
        ),
        (&["CrashLoopBackOff", "Error"], "see kubectl logs --previous"),
        (&["OOMKilled"], "raise the memory limit in the chart"),
        (
            &["unbound immediate PersistentVolumeClaims", "persistentvolumeclaim"],
            "set aggregator.persistence.storageClass or existingClaim, or aggregator.persistence.enabled=false",
        ),
        (
            &["Insufficient"],
            "lower the resource requests in the chart, or set agent.priorityClassName: system-node-critical",
        ),
        (&["didn't match", "untolerated taint"], "check nodeSelector, affinity and tolerations in the chart"),
    ];
    let known = of.iter().find(|(words, _)| words.iter().any(|word| found.contains(word)));
    match known {
        Some((_, advice)) => advice,
        None if is_agent => "see kubectl logs, then run kubectl exec POD -c reader -- outcrop-agent doctor",
        None => "see kubectl describe pod and kubectl logs",
    }
}

/// Returns the warnings of the last hour about Outcrop's own objects, one per reason and message.
fn events(events: &[Event], own: &Names, now: Timestamp) -> Vec<Check> {
    let mut told: BTreeMap<(String, String), (i64, String)> = BTreeMap::new();
    for event in events.iter().filter(|event| event.type_.as_deref() == Some("Warning")) {
        let object = &event.involved_object;
        let (kind, name) = (object.kind.clone().unwrap_or_default(), object.name.clone().unwrap_or_default());
        let at = last(event).map_or(0, |at| at.as_second());
        let is_over = own.get(&(kind.clone(), name.clone())).is_none_or(|well| at <= *well);
        if now.as_second() - at > RECENT || is_over {
            continue;
        }
        let key = (event.reason.clone().unwrap_or_default(), event.message.clone().unwrap_or_default());
        let newest = told.entry(key).or_default();
        if at >= newest.0 {
            *newest = (at, format!("{kind} {name}"));
        }
    }
    let mut told: Vec<_> = told.into_iter().collect();
    told.sort_by_key(|(_, (at, _))| std::cmp::Reverse(*at));
    let more = told.len().saturating_sub(MAX_EVENTS);
    let check = |((reason, message), (at, object)): ((String, String), (i64, String))| {
        let found = format!("{object}, {} s ago: {reason}: {}", now.as_second() - at, message.trim());
        // An event may be resolved already, so it only warns: current failures appear in the checks of the pods.
        Check::warn(
            "event",
            found,
            match reason.as_str() {
                "FailedCreate" if message.contains("PodSecurity") => {
                    "agents mount host directories; run kubectl label namespace NAMESPACE pod-security.kubernetes.io/enforce=privileged"
                }
                "FailedCreate" => "an admission policy or a quota, named in the message, refuses the pods",
                _ => advice(&format!("{reason} {message}"), false),
            },
        )
    };
    let mut checks: Vec<Check> = told.into_iter().take(MAX_EVENTS).map(check).collect();
    if more > 0 {
        checks.push(Check::warn(
            "event",
            format!("{more} more warnings"),
            "list them with kubectl get events --field-selector type=Warning",
        ));
    }
    checks
}

/// Returns the time of the last occurrence of an event.
fn last(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series
        .or(last)
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.first_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use outcrop_agent::doctor::Outcome;
    use serde_json::{Value, json};

    use super::*;

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_that_does_not_run_says_why_and_what_to_do() {
        let waiting = |reason: &str, message: &str| {
            json!([{ "name": "reader", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": { "waiting": { "reason": reason, "message": message } } }])
        };
        for (status, result, says, todo) in [
            (json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] }), None, "", ""),
            (
                json!({ "phase": "Pending", "containerStatuses": waiting("ErrImageNeverPull", "not present") }),
                Some(Outcome::Fail),
                "not present",
                "import",
            ),
            (
                json!({ "phase": "Pending", "containerStatuses": waiting("ImagePullBackOff", "x") }),
                Some(Outcome::Fail),
                "ImagePullBackOff",
                "registry",
            ),
            (
                json!({ "phase": "Running", "containerStatuses": waiting("CrashLoopBackOff", "back-off") }),
                Some(Outcome::Fail),
                "back-off",
                "--previous",
            ),
            (
                json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/2 nodes: Insufficient memory" }] }),
                Some(Outcome::Fail),
                "Insufficient memory",
                "requests",
            ),
            (
                json!({ "phase": "Failed", "reason": "Evicted", "message": "disk" }),
                Some(Outcome::Fail),
                "Evicted: disk",
                "describe",
            ),
            (
                json!({ "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }], "containerStatuses": [{ "name": "reader", "ready": true,
                "restartCount": 3, "image": "", "imageID": "", "lastState": { "terminated": { "exitCode": 137, "reason": "OOMKilled" } } }] }),
                Some(Outcome::Warn),
                "3 times: OOMKilled (code 137)",
                "memory limit",
            ),
        ] {
            let check = pod(&from(
                json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "a", "containers": [] }, "status": status.clone() }),
            ));
            assert_eq!(check.as_ref().map(|check| check.result), result, "{check:?}");
            if let Some(check) = check {
                assert!(check.found.contains(says) && check.todo.contains(todo), "{check:?}");
            }
        }
    }

    #[test]
    fn installed_objects_must_be_ready() {
        let set = |wanted: i32, ready: i32, current: i32| {
            let status = json!({ "desiredNumberScheduled": wanted, "numberReady": ready, "currentNumberScheduled": wanted,
                "numberMisscheduled": 0, "updatedNumberScheduled": current });
            daemon_sets(&[from(json!({ "metadata": { "name": "agent" }, "status": status }))])[0].clone()
        };
        let node = |status: &str| {
            let conditions =
                json!([{ "type": "Ready", "status": status, "message": "Kubelet stopped posting node status." }]);
            ready(&[from(json!({ "metadata": { "name": "a" }, "status": { "conditions": conditions } }))])
        };
        for (check, result) in [
            (set(2, 2, 2), Outcome::Ok),
            (set(2, 1, 2), Outcome::Fail),
            (set(2, 2, 1), Outcome::Warn),
            (set(0, 0, 0), Outcome::Warn),
            (daemon_sets(&[])[0].clone(), Outcome::Fail),
            (
                deployment(&from(
                    json!({ "spec": { "replicas": 1, "selector": {}, "template": {} }, "status": { "readyReplicas": 1 } }),
                )),
                Outcome::Ok,
            ),
            (
                deployment(&from(json!({ "spec": { "replicas": 1, "selector": {}, "template": {} }, "status": {} }))),
                Outcome::Fail,
            ),
            (
                deployment(&from(json!({ "spec": { "replicas": 0, "selector": {}, "template": {} }, "status": {} }))),
                Outcome::Fail,
            ),
            (claim(&from(json!({ "status": { "phase": "Bound" } }))), Outcome::Ok),
            (claim(&from(json!({ "status": { "phase": "Pending" } }))), Outcome::Fail),
            (
                authority(&[from(
                    json!({ "metadata": { "name": "outcrop-ca" }, "data": { "ca.crt": "-----BEGIN CERTIFICATE-----" } }),
                )]),
                Outcome::Ok,
            ),
            (
                authority(&[from(json!({ "metadata": { "name": "outcrop-ca" }, "data": { "ca.crt": "?" } }))]),
                Outcome::Fail,
            ),
            (authority(&[from(json!({ "metadata": { "name": "outcrop-ca" } }))]), Outcome::Fail),
            (authority(&[]), Outcome::Fail),
            (node("True"), Outcome::Ok),
            (node("Unknown"), Outcome::Warn),
        ] {
            assert_eq!(check.result, result, "{check:?}");
            assert_eq!(check.todo.is_empty(), matches!(result, Outcome::Ok | Outcome::Skipped), "{check:?}");
        }
        let keeping = |data: Value| -> Option<Check> {
            let pod = json!({ "spec": { "containers": [], "volumes": [data] } });
            passing(&from(json!({ "spec": { "selector": {}, "template": pod } })))
        };
        assert_eq!(keeping(json!({ "name": "data", "persistentVolumeClaim": { "claimName": "c" } })), None);
        let passes = keeping(json!({ "name": "data", "emptyDir": {} })).unwrap();
        assert_eq!((passes.result, passes.todo.is_empty()), (Outcome::Warn, false));
        let to: Service = from(json!({ "metadata": { "name": "outcrop" } }));
        let slice = |ready: bool| -> EndpointSlice {
            from(json!({ "metadata": { "labels": { "kubernetes.io/service-name": "outcrop" } }, "addressType": "IPv4",
                "endpoints": [{ "addresses": ["10.0.0.1"], "conditions": { "ready": ready } }] }))
        };
        for (services, slices, result) in [
            (vec![to.clone()], vec![slice(true)], Outcome::Ok),
            (vec![to.clone()], vec![slice(false)], Outcome::Fail),
            (vec![to], vec![], Outcome::Fail),
            (vec![], vec![], Outcome::Fail),
        ] {
            assert_eq!(service(&services, &slices)[0].result, result);
        }
    }

    #[test]
    fn warnings_about_own_objects_are_reported_once() {
        let event = |kind: &str, name: &str, at: &str, reason: &str, message: &str| -> Event {
            from(
                json!({ "metadata": {}, "involvedObject": { "kind": kind, "name": name }, "type": "Warning", "reason": reason, "message": message,
                "lastTimestamp": at }),
            )
        };
        let ready: Timestamp = "2026-01-01T11:58:30Z".parse().unwrap();
        let own = [("DaemonSet", "agent", 0), ("Pod", "p", 0), ("Pod", "ready", ready.as_second())];
        let own = own.map(|(kind, name, well)| ((kind.to_owned(), name.to_owned()), well)).into();
        let all = [
            event("DaemonSet", "agent", "2026-01-01T11:59:00Z", "FailedCreate", "violates PodSecurity \"restricted\""),
            event("DaemonSet", "agent", "2026-01-01T11:58:00Z", "FailedCreate", "violates PodSecurity \"restricted\""),
            event("Pod", "p", "2026-01-01T10:00:00Z", "FailedMount", "too long ago"),
            event("Pod", "ready", "2026-01-01T11:58:00Z", "FailedMount", "over"),
            event("Pod", "another", "2026-01-01T11:59:00Z", "BackOff", "not ours"),
        ];
        let checks = events(&all, &own, "2026-01-01T12:00:00Z".parse().unwrap());
        assert_eq!(checks.len(), 1, "{checks:?}");
        assert!(checks[0].found.contains("60 s ago") && checks[0].todo.contains("enforce=privileged"), "{checks:?}");
    }
}
