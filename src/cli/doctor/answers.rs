//! Checks of the aggregator's status and of its nodes.

use std::collections::BTreeSet;

use outcrop_agent::doctor::Check;
use outcrop_proto::{AssessedState, NodeState};

use crate::problems::ProblemKind;
use crate::web::{NodeItem, SourceStatus, Status};

/// Maximum number of names that are listed; the others are counted.
const MAX_NAMES: usize = 5;

/// Time after which a pending container is reported, seconds.
const MAX_PENDING: u64 = 3600;

/// Joins the first [`MAX_NAMES`] names and counts the others.
pub(super) fn some<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Returns the major and the minor version: `0.1.7` is of 0.1.
fn minor(version: &str) -> Vec<&str> {
    version.split('.').take(2).collect()
}

/// Checks the response of `GET /api/v1/status`. Sources older than `max_age` days are reported.
pub(super) fn status(status: &Status, own_version: &str, max_age: i64) -> Vec<Check> {
    let version = status.version.as_str();
    let mut checks = vec![if minor(version) == minor(own_version) {
        Check::ok("API", format!("aggregator {version} in cluster {}", status.cluster))
    } else {
        Check::warn(
            "API",
            format!("the aggregator has version {version}, this program has version {own_version}"),
            "use the command line of the same version as the aggregator",
        )
    }];
    checks.push(match status.store_error.as_deref() {
        Some(error) => {
            Check::fail("store", error, "free space on the volume or enlarge it; the aggregator resumes by itself")
        }
        None => Check::ok("store", "accepts inventories"),
    });
    checks.extend(problems(status));
    checks.extend(database(status, max_age));
    checks.extend(kubernetes(status));
    let disputed = status.layers.disputed;
    if disputed > 0 {
        let found = format!("{disputed} layers are disputed: nodes report different contents");
        checks.push(Check::warn(
            "layers",
            found,
            "find the nodes with outcrop get layers -o wide, then run outcrop node distrust NAME",
        ));
    }
    if let Some(seconds) = status.oldest_unscanned_seconds.filter(|seconds| *seconds > MAX_PENDING) {
        let found = format!("a container has been pending for {seconds} s");
        checks.push(Check::warn("layers", found, "see the reasons with outcrop get layers -o wide"));
    }
    checks
}

/// Checks the current problems. Failed watches are combined: they usually have one cause.
fn problems(status: &Status) -> Vec<Check> {
    const NAME: &str = "problem";
    // Those of the store, of the database and of nodes have checks of their own.
    let has_check = |kind| matches!(kind, Some(ProblemKind::Store | ProblemKind::Database | ProblemKind::Nodes));
    let all = status.problems.iter().filter(|problem| !has_check(problem.kind.known()));
    let (watches, others): (Vec<_>, Vec<_>) = all.partition(|problem| problem.kind == ProblemKind::Watch);
    let watches: Vec<&str> = watches.into_iter().map(|problem| problem.message.as_str()).collect();
    let todo = |kind| match kind {
        Some(ProblemKind::Certificate | ProblemKind::Tokens | ProblemKind::Policy) => {
            "correct the file or the permission; the last valid version stays in use until then"
        }
        Some(ProblemKind::Publishing) => "check the aggregator's rights above; it retries by itself",
        Some(ProblemKind::Matching) => "the aggregator retries by itself; its log has the cause",
        // The message says what to do.
        _ => "see docs/troubleshooting.md",
    };
    let mut checks: Vec<Check> =
        others.iter().map(|problem| Check::warn(NAME, problem.message.as_str(), todo(problem.kind.known()))).collect();
    if let Some(first) = watches.first() {
        let more = match watches.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more watches"),
        };
        let todo = "the aggregator retries by itself; if the problem persists, check the API server and the aggregator's rights above";
        checks.push(Check::warn(NAME, format!("{first}{more}"), todo));
    }
    checks
}

fn database(status: &Status, max_age: i64) -> Vec<Check> {
    const NAME: &str = "database";
    const AGE: &str = "database age";
    let mut checks = Vec::new();
    if let Some(error) = &status.database_error {
        checks.push(Check::warn(
            NAME,
            format!("the last offered database was refused: {error}"),
            "see docs/operations.md, Advisory databases",
        ));
    }
    let Some(database) = &status.database else {
        checks.push(Check::fail(
            NAME,
            "no advisory database: nothing is matched",
            "run outcrop db push FILE, or set aggregator.advisories.volume in the chart",
        ));
        return checks;
    };
    let origin = format!("{}, {}", database.brought_by, database.brought_at);
    checks.push(match &database.signed_by {
        Some(key) => Check::ok(NAME, format!("from {origin}, signed by {key}")),
        None => Check::warn(
            NAME,
            format!("from {origin}, not signed"),
            "sign it with minisign; see docs/operations.md, Sign databases",
        ),
    });
    let is_used = |source: &&SourceStatus| status.assessed.iter().any(|count| count.ecosystem == source.ecosystem);
    let used = database.sources.iter().filter(is_used);
    let ages: Vec<(&str, Option<i64>)> = used.map(|source| (source.ecosystem.as_str(), source.age_days)).collect();
    let old = |(_, age): &&(&str, Option<i64>)| age.is_none_or(|age| age > max_age);
    let stale: Vec<String> = ages
        .iter()
        .filter(old)
        .map(|(name, age)| match age {
            Some(age) => format!("{name} {age} days"),
            None => format!("{name} without a date"),
        })
        .collect();
    checks.push(if ages.is_empty() {
        Check::skipped(AGE, "no ecosystem in use has a source in the database, or nothing was matched yet")
    } else if stale.is_empty() {
        let oldest = ages.iter().filter_map(|(_, age)| *age).max().unwrap_or(0);
        Check::ok(AGE, format!("{} sources in use, the oldest is {oldest} days old", ages.len()))
    } else {
        Check::warn(
            AGE,
            some(&stale),
            format!("fetch the feeds and rebuild the database; advisories newer than {max_age} days may be missing"),
        )
    });
    let unmatched = status.assessed.iter().filter(|count| count.state == AssessedState::Unmatched);
    let unmatched: BTreeSet<String> =
        unmatched.map(|count| format!("{} ({})", count.ecosystem, count.reason)).collect();
    if !unmatched.is_empty() {
        let unmatched: Vec<String> = unmatched.into_iter().collect();
        checks.push(Check::warn(
            "matching",
            format!("not matched: {}", some(&unmatched)),
            "add feeds for these ecosystems; without them, zero findings has no meaning",
        ));
    }
    checks
}

fn kubernetes(status: &Status) -> Vec<Check> {
    const NAME: &str = "pods and containers";
    let Some(counts) = &status.kubernetes else { return Vec::new() };
    if !counts.synced {
        return vec![Check::warn(
            NAME,
            "the aggregator's first list of the API server's objects is not complete",
            "wait a minute, then check the aggregator's log and its ClusterRole",
        )];
    }
    let (untold, strays) = (counts.untold, counts.strays);
    let mut checks = Vec::new();
    if untold > 0 {
        checks.push(Check::warn(
            NAME,
            format!("{untold} containers run according to the API server, but no node reports them"),
            "see the reasons with outcrop get containers -o wide: usually a node without an agent, or a containerd namespace that is not scanned",
        ));
    }
    if strays > 0 {
        checks.push(Check::warn(
            NAME,
            format!("{strays} containers belong to pods that the API server does not know"),
            "pods that just ended disappear by themselves; otherwise check that the agents run in this cluster",
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok(NAME, format!("{} pods; nodes report all of their containers", counts.pods)));
    }
    checks
}

/// Checks the response of `GET /api/v1/nodes`, which belongs to the response `status`.
pub(super) fn nodes(nodes: &[NodeItem], status: &Status) -> Vec<Check> {
    let (refused, aggregator) = (status.reports.refused, status.version.as_str());
    let named = |filter: &dyn Fn(&NodeItem) -> bool, text: &dyn Fn(&NodeItem) -> String| -> Vec<String> {
        nodes.iter().filter(|node| filter(node)).map(text).collect()
    };
    let name = |node: &NodeItem| node.name.clone();
    let has_agent = |node: &NodeItem| !node.agent_version.is_empty();
    let is_registered = |node: &NodeItem| node.kubernetes.is_some();
    let attached = nodes.iter().filter(|node| node.attached).count();
    if !nodes.iter().any(has_agent) && status.restricted {
        let found = "this account may read some namespaces only, and no agent has reported a container of them";
        return vec![Check::skipped("nodes", found)];
    }
    if !nodes.iter().any(has_agent) {
        let refusals = if refused > 0 { format!("; {refused} streams were refused") } else { String::new() };
        return vec![Check::fail(
            "nodes",
            format!("no agent has attached{refusals}"),
            if status.kubernetes.is_some() {
                "check the agents with kubectl get pods and kubectl logs, then kubectl exec POD -c reader -- outcrop-agent doctor"
            } else {
                "start outcrop-agent on a node; if one runs, outcrop-agent doctor there says what keeps it from attaching"
            },
        )];
    }
    let expected = nodes.iter().filter(|node| has_agent(node)).count();
    let found = format!("{attached} of {} attached", nodes.len());
    let mut checks = vec![match attached {
        0 => Check::fail("nodes", found, "start outcrop-agent on the nodes; what they reported before is not updated"),
        _ if attached < expected => Check::warn("nodes", found, "see the silent nodes below"),
        _ => Check::ok("nodes", found),
    }];
    let silence = |node: &NodeItem| format!("{} for {} s", node.name, node.silent_seconds);
    let silent = named(&|node| has_agent(node) && !node.attached && is_registered(node), &silence);
    if !silent.is_empty() {
        checks.push(Check::fail(
            "silent nodes",
            some(&silent),
            "check the agent's log on each node, then kubectl exec POD -c reader -- outcrop-agent doctor",
        ));
    }
    let gone = named(&|node| has_agent(node) && !node.attached && !is_registered(node), &silence);
    if !gone.is_empty() {
        checks.push(Check::warn(
            "silent nodes",
            some(&gone),
            "start their agents; in Kubernetes a removed node disappears with its Node object, elsewhere after --forget-after",
        ));
    }
    let degraded = named(&|node| node.state == NodeState::Degraded, &|node| {
        let first = node.problems.first().map_or("no reason given", |problem| problem.message.as_str());
        format!("{} ({first})", node.name)
    });
    if !degraded.is_empty() {
        checks.push(Check::warn(
            "degraded nodes",
            some(&degraded),
            "check the container runtime on each node, then kubectl exec POD -c runtime -- outcrop-agent doctor",
        ));
    }
    let blind = |node: &NodeItem| format!("{} ({})", node.name, node.blind.as_deref().unwrap_or_default());
    let blind = named(&|node| node.blind.is_some(), &blind);
    if !blind.is_empty() {
        checks.push(Check::warn(
            "blind nodes",
            format!("no agent can run on {}", some(&blind)),
            "their containers are counted as unsupported, with this reason",
        ));
    }
    let bare = named(&|node| !has_agent(node) && node.blind.is_none(), &name);
    if !bare.is_empty() {
        checks.push(Check::fail(
            "nodes without agent",
            some(&bare),
            "check that a DaemonSet selects these nodes (agent.nodeSelector, nodeExpressions, agents in the chart) and that its pods are scheduled",
        ));
    }
    let cages = named(&|node| has_agent(node) && node.cage != "landlock+seccomp", &|node| {
        format!("{} ({})", node.name, node.cage)
    });
    checks.push(if cages.is_empty() {
        Check::ok("sandboxes", "Landlock and seccomp are in force on every node")
    } else {
        Check::warn("sandboxes", some(&cages), "use Linux 6.12 or later with landlock in the kernel parameter lsm=")
    });
    let distrusted = named(&|node| node.distrusted, &name);
    if !distrusted.is_empty() {
        checks.push(Check::warn(
            "distrusted nodes",
            some(&distrusted),
            "after you have checked them, run outcrop node trust NAME",
        ));
    }
    let others = named(&|node| has_agent(node) && minor(&node.agent_version) != minor(aggregator), &|node| {
        format!("{} has {}", node.name, node.agent_version)
    });
    if !others.is_empty() {
        checks.push(Check::warn(
            "agent versions",
            some(&others),
            format!("update them to the aggregator's version, {aggregator}"),
        ));
    }
    let deaths = |node: &NodeItem| node.agent.as_ref().map_or(0, |agent| agent.worker_deaths);
    let dying = named(&|node| deaths(node) > 0, &|node| format!("{} {}", node.name, deaths(node)));
    if !dying.is_empty() {
        checks.push(Check::warn(
            "workers",
            format!("worker processes died on {}", some(&dying)),
            "see what could not be read with outcrop get layers -o wide; check the memory limit of the container reader",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use outcrop_agent::doctor::Outcome;
    use serde_json::{Value, json};

    use super::*;

    fn result<'a>(checks: &'a [Check], name: &str) -> Option<&'a Check> {
        checks.iter().filter(|check| check.check == name).max_by_key(|check| check.result)
    }

    /// A status without anything to report.
    fn healthy() -> Value {
        let source = |ecosystem: &str, age: i64| json!({ "ecosystem": ecosystem, "records": 1, "newest": "2026", "age_days": age });
        json!({
            "version": "0.1.3", "cluster": "c", "uptime_seconds": 1, "restricted": false, "problems": [], "store_error": null, "database_error": null,
            "database": { "digest": "sha256:00", "brought_at": "2026", "brought_by": "me", "signed_by": "RWQ",
                          "sources": [source("Debian:12", 2), source("npm", 900)] },
            "assessed": [{ "ecosystem": "Debian:12", "state": "matched", "reason": "", "containers": 1 }],
            "kubernetes": { "synced": true, "workloads": 2, "pods": 4, "untold": 0, "strays": 0 },
            "nodes": { "known": 1, "attached": 1, "silent": 0, "weak_cage": 0, "distrusted": 0, "without_agent": 0 },
            "layers": { "known": 1, "leased": 0, "waiting": 0, "failed": 0, "disputed": 0, "outdated": 0 },
            "reports": { "inventories": 1, "verified": 0, "contradicted": 0, "unasked": 0, "refused": 0 },
            "lifetimes": { "seen": 1, "ended": {}, "gone_before_reading": 0 },
            "containers": 1, "coverage": [], "reasons": [], "findings": {}, "withheld": 0,
            "offline": null, "oldest_unscanned_seconds": null, "rematch": null,
        })
    }

    #[test]
    fn a_status_is_judged_field_by_field() {
        let healthy = healthy();
        let status = |value: &Value| super::status(&serde_json::from_value(value.clone()).unwrap(), "0.1.0", 7);
        let checks = status(&healthy);
        assert!(checks.iter().all(|check| check.result == Outcome::Ok), "{checks:?}");
        for (pointer, value, check, outcome) in [
            ("/version", json!("0.3.0"), "API", Outcome::Warn),
            ("/store_error", json!("the volume is full"), "store", Outcome::Fail),
            (
                "/problems",
                json!([{ "kind": "tokens", "subject": "", "message": "line 3", "since": 0 }]),
                "problem",
                Outcome::Warn,
            ),
            (
                "/problems",
                json!([{ "kind": "watch", "subject": "0", "message": "pods", "since": 0 }]),
                "problem",
                Outcome::Warn,
            ),
            // Of a newer aggregator.
            (
                "/problems",
                json!([{ "kind": "quota", "subject": "", "message": "used up", "since": 0 }]),
                "problem",
                Outcome::Warn,
            ),
            ("/database", json!(null), "database", Outcome::Fail),
            ("/database/signed_by", json!(null), "database", Outcome::Warn),
            ("/database_error", json!("smaller"), "database", Outcome::Warn),
            ("/database/sources/0/age_days", json!(8), "database age", Outcome::Warn),
            ("/database/sources/0/age_days", json!(null), "database age", Outcome::Warn),
            ("/assessed/0/state", json!("unmatched"), "matching", Outcome::Warn),
            ("/kubernetes/synced", json!(false), "pods and containers", Outcome::Warn),
            ("/kubernetes/untold", json!(2), "pods and containers", Outcome::Warn),
            ("/kubernetes/strays", json!(1), "pods and containers", Outcome::Warn),
            ("/layers/disputed", json!(1), "layers", Outcome::Warn),
            ("/oldest_unscanned_seconds", json!(7200), "layers", Outcome::Warn),
        ] {
            let mut changed = healthy.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            let checks = status(&changed);
            let found = result(&checks, check).unwrap();
            assert_eq!(found.result, outcome, "{pointer}: {checks:?}");
            assert!(!found.todo.is_empty(), "{pointer} says what to do");
        }
    }

    #[test]
    fn every_node_that_says_nothing_is_named_with_what_to_do() {
        let node = |change: Value| {
            let kubernetes = json!({ "kubelet": "v1.34.0", "runtime": "containerd://2", "system": "linux",
                "architecture": "amd64", "image": "Debian", "kernel": "6.12" });
            let agent = json!({ "roles": [], "layers_read": 0, "layers_verified": 0, "layers_failed": 0, "worker_deaths": 0,
                "gone_before_reading": 0, "queue": 0 });
            let mut node = json!({ "name": "n", "agent_version": "0.1.0", "catalogers": 1, "cage": "landlock+seccomp",
                "marks": true, "attached": true, "distrusted": false, "silent_seconds": 0, "containers": 1, "layers_read": 1,
                "blind": null, "kubernetes": kubernetes, "agent": agent });
            for (key, value) in change.as_object().unwrap() {
                match value {
                    Value::Object(fields) => node[key].as_object_mut().unwrap().extend(fields.clone()),
                    _ => node[key] = value.clone(),
                }
            }
            serde_json::from_value::<NodeItem>(node).unwrap()
        };
        let good = node(json!({}));
        let status = |change: &[(&str, Value)]| {
            let mut status = healthy();
            status["version"] = json!("0.1.0");
            change.iter().for_each(|(pointer, value)| *status.pointer_mut(pointer).unwrap() = value.clone());
            serde_json::from_value::<Status>(status).unwrap()
        };
        let of = |change: Value| nodes(&[good.clone(), node(change)], &status(&[]));
        assert!(of(json!({})).iter().all(|check| check.result == Outcome::Ok));
        for (change, check, outcome) in [
            (json!({ "attached": false, "silent_seconds": 90 }), "silent nodes", Outcome::Fail),
            (json!({ "attached": false, "kubernetes": null }), "silent nodes", Outcome::Warn),
            (
                json!({ "state": "degraded", "problems": [{ "message": "containerd did not respond", "began_at": "" }] }),
                "degraded nodes",
                Outcome::Warn,
            ),
            (json!({ "agent_version": "", "attached": false, "cage": "" }), "nodes without agent", Outcome::Fail),
            (json!({ "agent_version": "", "attached": false, "blind": "Windows" }), "blind nodes", Outcome::Warn),
            (json!({ "cage": "seccomp only" }), "sandboxes", Outcome::Warn),
            (json!({ "distrusted": true }), "distrusted nodes", Outcome::Warn),
            (json!({ "agent_version": "0.2.0" }), "agent versions", Outcome::Warn),
            (json!({ "agent": { "worker_deaths": 2 } }), "workers", Outcome::Warn),
        ] {
            let checks = of(change.clone());
            let found = result(&checks, check).unwrap_or_else(|| panic!("{change}: {checks:?}"));
            assert_eq!(found.result, outcome, "{checks:?}");
            assert!(found.found.contains('n') && !found.todo.is_empty(), "{found:?}");
        }
        let killed = of(json!({ "attached": false, "silent_seconds": 1 }));
        assert_eq!(result(&killed, "nodes").unwrap().result, Outcome::Warn, "not ok, if only for a moment: {killed:?}");
        let alone = nodes(&[node(json!({ "attached": false, "kubernetes": null }))], &status(&[]));
        assert_eq!(result(&alone, "nodes").unwrap().result, Outcome::Fail, "0 of 1 is not ok: {alone:?}");
        let none = nodes(&[node(json!({ "agent_version": "" }))], &status(&[("/reports/refused", json!(3))]));
        assert_eq!((none.len(), none[0].result), (1, Outcome::Fail));
        assert!(none[0].found.contains("3 streams"), "{none:?}");
        // Who may read some namespaces only is not told that no node has an agent.
        let hidden = nodes(&[], &status(&[("/restricted", json!(true))]));
        assert_eq!((hidden.len(), hidden[0].result), (1, Outcome::Skipped), "{hidden:?}");
    }

    #[test]
    fn long_lists_of_names_are_shortened() {
        assert_eq!(some(&["a", "b"]), "a, b");
        assert_eq!(some(&["a", "b", "c", "d", "e", "f", "g"]), "a, b, c, d, e and 2 more");
    }
}
