//! Outcrop's own objects in a cluster, and what they tell.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, Event, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use outcrop_agent::doctor::Check;

use super::answers::some;

/// Events that are older say nothing of now, seconds.
const RECENT: i64 = 3600;

/// Events that are told one by one.
const MAX_EVENTS: usize = 8;

/// What could be read of one kind of objects; else why not.
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

/// The label that says what a part is for.
const COMPONENT: &str = "app.kubernetes.io/component";

impl Objects {
    /// The name that agents call the aggregator by.
    pub(super) fn agents_name(&self) -> Option<String> {
        let service = self.services.as_ref().ok()?.first()?;
        Some(format!("{}.{}.svc", service.name_any(), self.namespace))
    }

    /// The aggregator's account, and the namespaces that it watches; none where it watches all.
    pub(super) fn aggregator(&self) -> Option<(String, Vec<String>)> {
        let pod = self.deployments.as_ref().ok()?.first()?.spec.as_ref()?.template.spec.as_ref()?;
        let arguments = pod.containers.iter().flat_map(|container| container.args.iter().flatten());
        let watched = arguments.filter_map(|argument| argument.strip_prefix("--watch-namespace="));
        Some((pod.service_account_name.clone()?, watched.map(ToOwned::to_owned).collect()))
    }

    /// What is seen in them.
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
        each("authority", self.config_maps.as_ref().map(|of| vec![authority(of)]));
        each("cluster's nodes", self.nodes.as_ref().map(|of| vec![ready(of)]));
        each("agents", self.daemon_sets.as_ref().map(|of| daemon_sets(of)));
        each("pods", self.pods.as_ref().map(|of| of.iter().filter_map(pod).collect()));
        each("events", self.events.as_ref().map(|of| events(of, &self.names(), now)));
        checks
    }

    /// All of them as events name them, each with since when it has been well. Pods that were never made are named by their owner.
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

/// Kind and name, and the second since which it has been well: warnings from before are over.
type Names = BTreeMap<(String, String), i64>;

/// Since when a pod has been ready, seconds since 1970; 0 where it is not.
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
        (0, _) => Check::fail(NAME, found, format!("kubectl scale --replicas=1 deployment/{}", of.name_any())),
        (_, 0) => {
            let conditions = of.status.iter().flat_map(|status| status.conditions.iter().flatten());
            let failed =
                conditions.filter(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
            let why: Vec<&str> = failed.filter_map(|condition| condition.message.as_deref()).collect();
            let found = if why.is_empty() { found } else { format!("{found}: {}", why.join("; ")) };
            Check::fail(NAME, found, "its pod's lines below say why; kubectl logs shows what it says itself")
        }
        _ => Check::ok(NAME, found),
    }
}

/// Whether the aggregator's data ends with its pod.
fn passing(of: &Deployment) -> Option<Check> {
    let volumes = of.spec.as_ref()?.template.spec.as_ref()?.volumes.as_ref()?;
    let is_passing = volumes.iter().any(|volume| volume.name == "data" && volume.empty_dir.is_some());
    is_passing.then(|| {
        Check::warn(
            "volume",
            "the aggregator's data lies in an emptyDir, and is gone with its pod: database, first seen, authority",
            "aggregator.persistence.enabled=true",
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
            "is there a default storage class? aggregator.persistence.storageClass names one, persistence.enabled=false does without",
        ),
    }
}

fn service(services: &[Service], slices: &[EndpointSlice]) -> Vec<Check> {
    const NAME: &str = "service";
    if services.is_empty() {
        return vec![Check::fail(NAME, "there is none: agents cannot find the aggregator", "install the chart again")];
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
                format!("{name} has no pod that is ready"),
                "agents wait until the aggregator is ready: see there",
            ),
            _ => Check::ok(NAME, format!("{name} leads to {ready} ready pod")),
        }
    };
    services.iter().map(judge).collect()
}

fn authority(maps: &[ConfigMap]) -> Check {
    const NAME: &str = "authority";
    let Some(map) = maps.iter().find(|map| map.name_any().ends_with("-ca")) else {
        return Check::fail(
            NAME,
            "there is no ConfigMap …-ca: agents' pods wait for it",
            "helm upgrade makes it again, and the aggregator writes the authority into it",
        );
    };
    match map.data.as_ref().and_then(|data| data.get("ca.crt")) {
        Some(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => {
            Check::ok(NAME, format!("published in the ConfigMap {}", map.name_any()))
        }
        Some(_) => Check::fail(
            NAME,
            format!("ca.crt in the ConfigMap {} is no certificate in PEM", map.name_any()),
            "remove the key: the aggregator writes it again",
        ),
        None => Check::fail(
            NAME,
            format!("the ConfigMap {} has no ca.crt: agents' pods wait for it", map.name_any()),
            "the aggregator writes it when it starts: does it run, and may it (Role …-publish)?",
        ),
    }
}

/// Whether the kubelets of all nodes are well: what is on one that is not cannot be.
fn ready(nodes: &[Node]) -> Check {
    const NAME: &str = "cluster's nodes";
    let state = |node: &Node| {
        let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.find(|of| of.type_ == "Ready");
        match ready {
            Some(of) if of.status == "True" => None,
            Some(of) => Some(format!("{} ({})", node.name_any(), of.message.as_deref().unwrap_or(&of.status))),
            None => Some(format!("{} (it says nothing)", node.name_any())),
        }
    };
    let bad: Vec<String> = nodes.iter().filter_map(state).collect();
    if bad.is_empty() {
        return Check::ok(NAME, format!("{} are ready", nodes.len()));
    }
    let found = format!("{} of {} are not ready: {}", bad.len(), nodes.len(), some(&bad));
    Check::warn(NAME, found, "look at the kubelet there; pods on such a node are not ready, either")
}

fn daemon_sets(sets: &[DaemonSet]) -> Vec<Check> {
    const NAME: &str = "agents";
    if sets.is_empty() {
        return vec![Check::fail(NAME, "there is no DaemonSet", "install the chart again")];
    }
    let judge = |set: &DaemonSet| {
        let name = set.name_any();
        let Some(status) = &set.status else {
            return Check::warn(NAME, format!("DaemonSet {name} has no state yet"), "wait a moment");
        };
        let (wanted, ready) = (status.desired_number_scheduled, status.number_ready);
        let current = status.updated_number_scheduled.unwrap_or(0);
        let found = format!("DaemonSet {name}: {ready} of {wanted} ready");
        if wanted == 0 {
            Check::warn(
                NAME,
                format!("{found}: it chooses no node"),
                "agent.nodeSelector, nodeExpressions, tolerations in the chart's values",
            )
        } else if ready < wanted {
            Check::fail(NAME, found, "their pods' lines and events below say why")
        } else if current < wanted {
            Check::warn(
                NAME,
                format!("{found}, {current} of the newest version"),
                "kubectl rollout status; updateStrategy OnDelete waits for you",
            )
        } else if status.number_misscheduled > 0 {
            Check::warn(
                NAME,
                format!("{found}, {} on nodes that it does not choose any more", status.number_misscheduled),
                "they end by themselves",
            )
        } else {
            Check::ok(NAME, found)
        }
    };
    sets.iter().map(judge).collect()
}

/// What is the matter with a pod, if anything is.
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
        let found = format!("it runs{on} and was started again {restarts} times: {}", last.join(", "));
        return (restarts > 0)
            .then(|| Check::warn(&name, found, "kubectl logs --previous says why; OOMKilled: raise the memory limit"));
    }
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let found = format!(
        "{phase}{on}, not ready: {}",
        if reasons.is_empty() { "no reason is told yet".to_owned() } else { some(&reasons) }
    );
    Some(Check::fail(&name, found.clone(), advice(&found, is_agent)))
}

/// Why a container does not run, or that it is not ready.
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
                format!("; it ended before with code {} {}", last.exit_code, last.reason.as_deref().unwrap_or_default())
            });
            Some(words(&waiting.reason, &waiting.message) + last.unwrap_or_default().trim_end())
        }
        (None, Some(ended)) if ended.exit_code != 0 => Some(words(&ended.reason, &ended.message)),
        (None, None) if !of.ready => Some(format!("{} runs and is not ready", of.name)),
        _ => None,
    }
}

/// What to do about what the kubelet or the scheduler says.
fn advice(found: &str, is_agent: bool) -> &'static str {
    let of = [
        (
            &["ErrImageNeverPull"][..],
            "bring the image to that node: ctr -n k8s.io images import; or set image.pullPolicy",
        ),
        (
            &["ImagePull", "InvalidImageName"],
            "image.registry and image.pullSecrets in the chart's values; without a registry pullPolicy: Never",
        ),
        (
            &["hostPath type check failed"],
            "a directory of the values is not on that node: agent.runtime, agent.paths, or agents for nodes that differ",
        ),
        (
            &["CreateContainerConfigError", "configmap", "ConfigMap"],
            "it waits for the aggregator's authority, or for an object that the values name",
        ),
        (
            &["CreateContainerError", "RunContainerError", "StartError"],
            "the container runtime refuses it: the security context, or mounts; see the node's containerd log",
        ),
        (&["CrashLoopBackOff", "Error"], "kubectl logs --previous says why it ends"),
        (&["OOMKilled"], "raise its memory limit in the chart's values"),
        (
            &["unbound immediate PersistentVolumeClaims", "persistentvolumeclaim"],
            "aggregator.persistence: storage class, existing claim, or enabled: false",
        ),
        (
            &["Insufficient"],
            "lower the requests in the chart's values, or agent.priorityClassName: system-node-critical",
        ),
        (&["didn't match", "untolerated taint"], "nodeSelector, affinity and tolerations in the chart's values"),
    ];
    let known = of.iter().find(|(words, _)| words.iter().any(|word| found.contains(word)));
    match known {
        Some((_, advice)) => advice,
        None if is_agent => "kubectl logs; kubectl exec POD -c reader -- outcrop-agent doctor",
        None => "kubectl describe pod, kubectl logs",
    }
}

/// Warnings of the last hour about Outcrop's own objects, one for each reason and text.
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
        // What is over is over: what is still wrong shows in the pods.
        Check::warn(
            "event",
            found,
            match reason.as_str() {
                "FailedCreate" if message.contains("PodSecurity") => {
                    "kubectl label namespace … pod-security.kubernetes.io/enforce=privileged: agents mount directories of their node"
                }
                "FailedCreate" => "an admission policy or a quota refuses the pods: the text names it",
                _ => advice(&format!("{reason} {message}"), false),
            },
        )
    };
    let mut checks: Vec<Check> = told.into_iter().take(MAX_EVENTS).map(check).collect();
    if more > 0 {
        checks.push(Check::warn(
            "event",
            format!("{more} more warnings"),
            "kubectl get events --field-selector type=Warning",
        ));
    }
    checks
}

/// When an event happened last.
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
    fn what_is_installed_has_to_be_ready() {
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
    fn warnings_about_what_is_ours_are_told_once() {
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
