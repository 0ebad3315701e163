//! The conditions service: writes an event to the outbox when a problem or a configuration issue begins or ends.
//!
//! The store contains neither problems nor issues, only the open conditions: those whose beginning was written. The service compares them with the
//! current conditions and writes the difference. A condition that ends while the aggregator does not run, or while the store accepts no writes, is
//! therefore reported later, and no event is written twice. A condition that begins and ends in between is not reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::answers::newest;
use super::fleet::workload_key;
use super::{Aggregator, now};
use crate::cluster::Cluster;
use crate::store::{AuditOutcome, Condition, IssueEvent, OutboxEvent, Store};

/// How often configuration issues are compared, where the cluster has changed; and the pause after a write that failed.
const INTERVAL: Duration = Duration::from_secs(2);

/// Events that are written in one transaction.
const BATCH: usize = 1000;

impl Aggregator {
    /// Tells problems and configuration issues as they begin and end.
    pub(super) async fn keep_conditions(self: Arc<Self>) {
        let mut told = loop {
            match self.store.open_conditions().await {
                Ok(told) => break told,
                Err(error) => warn!(%error, "open conditions not read; retried"),
            }
            tokio::time::sleep(INTERVAL).await;
        };
        // Of the cluster's state whose issues were compared.
        let mut compared = None;
        loop {
            let mut current = self.problem_events();
            let revision = self.watch.as_ref().filter(|watch| watch.is_whole()).map(|watch| watch.revision());
            let is_compared = revision.is_some() && revision != compared;
            if let Some(watch) = self.watch.as_ref().filter(|_| is_compared) {
                current.extend(issue_events(&watch.cluster()));
            }
            // Before everything was listed, an issue that is not there may only not be known.
            let is_judged = |condition: &Condition| is_compared || matches!(condition, Condition::Problem { .. });
            let events = difference(&told, current, is_judged);
            match tell(&*self.store, &events, &mut told).await {
                true => compared = revision.or(compared),
                false => tokio::time::sleep(INTERVAL).await,
            }
            let _ = tokio::time::timeout(INTERVAL, self.problems.changed()).await;
        }
    }

    fn problem_events(&self) -> BTreeMap<Condition, OutboxEvent> {
        let problems = self.problems.list().into_iter();
        begun(problems.map(|problem| OutboxEvent::ProblemRaised { problem: problem.key(), message: problem.message }))
    }

    /// Records who tried to change what, where no write of the store records it.
    pub(super) async fn audit(&self, who: &str, action: &str, target: &str, outcome: AuditOutcome) {
        let [actor, action, target] = [who, action, target].map(ToOwned::to_owned);
        let event = OutboxEvent::Audit { actor, action, target, outcome };
        if let Err(error) = self.store.append(&[event], now().unix).await {
            warn!(who, %error, "audit event not stored");
        }
    }
}

/// Writes events, and notes them in `told`. Returns `false` where the store did not take them all.
async fn tell(store: &dyn Store, events: &[OutboxEvent], told: &mut BTreeSet<Condition>) -> bool {
    for batch in events.chunks(BATCH) {
        if !store.health().is_accepting() {
            return false;
        }
        if let Err(error) = store.append(batch, now().unix).await {
            warn!(%error, events = batch.len(), "events not stored; retried");
            return false;
        }
        for (condition, begins) in batch.iter().filter_map(OutboxEvent::condition) {
            if begins {
                told.insert(condition)
            } else {
                told.remove(&condition)
            };
        }
    }
    true
}

/// Returns the configuration issues that lists show.
fn issue_events(cluster: &Cluster) -> BTreeMap<Condition, OutboxEvent> {
    let shown = cluster.workloads().filter_map(|of| Some((of, newest(cluster, of)?)));
    let shown = shown.filter(|(_, pod)| pod.excluded.is_none());
    begun(shown.flat_map(|(of, pod)| {
        pod.issues.list.iter().map(|issue| {
            let (workload, rule, path) = (workload_key(&of.workload), issue.rule.id.to_owned(), issue.path.clone());
            OutboxEvent::IssueOpened(IssueEvent { workload, rule, path })
        })
    }))
}

/// Returns events by the conditions that they begin.
fn begun(events: impl Iterator<Item = OutboxEvent>) -> BTreeMap<Condition, OutboxEvent> {
    events.filter_map(|event| Some((event.condition()?.0, event))).collect()
}

/// Returns the events that lead from `told` to `current`: first the ends. Nothing is said of conditions that are not judged.
fn difference(
    told: &BTreeSet<Condition>,
    current: BTreeMap<Condition, OutboxEvent>,
    is_judged: impl Fn(&Condition) -> bool,
) -> Vec<OutboxEvent> {
    let ended = told.iter().filter(|condition| is_judged(condition) && !current.contains_key(*condition));
    let mut events: Vec<OutboxEvent> = ended.cloned().map(Condition::ended).collect();
    events.extend(current.into_iter().filter(|(condition, _)| !told.contains(condition)).map(|(_, event)| event));
    events
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::{Selection, Watch};
    use crate::store::{ClusterIdentity, Options, Sqlite};

    /// A pod of its own workload, with a container that is privileged or not.
    fn pod(watch: &Watch, privileged: bool) {
        watch.set_pod(json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "u1" },
            "spec": { "nodeName": "node", "containers": [{
                "name": "app", "image": "app:1", "securityContext": { "privileged": privileged } }] },
            "status": { "phase": "Running" },
        }));
    }

    fn is_privileged(event: &OutboxEvent, opened: bool) -> bool {
        match event {
            OutboxEvent::IssueOpened(issue) if opened => issue.rule == "privileged" && &*issue.workload.name == "web",
            OutboxEvent::IssueClosed(issue) if !opened => issue.rule == "privileged" && &*issue.workload.name == "web",
            _ => false,
        }
    }

    /// Tells the difference, and returns the rows that the store has of it.
    async fn told_now(store: &dyn Store, watch: &Watch, told: &mut BTreeSet<Condition>) -> Vec<OutboxEvent> {
        let last = store.outbox(0, 1000).await.unwrap().last().map_or(0, |row| row.id);
        let events = difference(told, issue_events(&watch.cluster()), |_| true);
        assert!(tell(store, &events, told).await);
        assert_eq!(store.open_conditions().await.unwrap(), *told, "the next process knows as much");
        store.outbox(last, 1000).await.unwrap().into_iter().map(|row| row.event).collect()
    }

    #[tokio::test]
    async fn an_issue_is_told_when_it_appears_and_when_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterIdentity { key: "test".to_owned(), name: "test".to_owned() };
        let options = Options { cluster, outbox: true, write_duration: None };
        let store = Sqlite::open(&dir.path().join("outcrop.db"), options).await.unwrap();
        let watch = Watch::new(Selection::default(), &BTreeSet::new());
        let mut told = BTreeSet::new();
        assert_eq!(told_now(&store, &watch, &mut told).await, []);
        let revision = watch.revision();
        pod(&watch, true);
        assert_ne!(watch.revision(), revision, "otherwise nobody compares");
        let opened = told_now(&store, &watch, &mut told).await;
        assert_eq!(opened.iter().filter(|event| is_privileged(event, true)).count(), 1, "{opened:?}");
        assert_eq!(told_now(&store, &watch, &mut told).await, [], "nothing changed");
        pod(&watch, false);
        let closed = told_now(&store, &watch, &mut told).await;
        assert!(closed.iter().any(|event| is_privileged(event, false)), "{closed:?}");
        watch.remove_pod("u1");
        let gone = told_now(&store, &watch, &mut told).await;
        assert!(!gone.is_empty() && told.is_empty(), "every other issue closes with the workload: {told:?}");
    }

    #[test]
    fn issues_are_not_closed_before_everything_is_listed() {
        let problem = |key: &str| Condition::Problem { problem: key.to_owned() };
        let workload = crate::store::WorkloadKey {
            namespace: "shop".into(),
            group: "apps".into(),
            kind: "Deployment".into(),
            name: "web".into(),
        };
        let issue = Condition::Issue(IssueEvent { workload, rule: "privileged".to_owned(), path: String::new() });
        let told = BTreeSet::from([issue.clone(), problem("store"), problem("tokens")]);
        let raised = ["tokens", "watch"]
            .map(|key| OutboxEvent::ProblemRaised { problem: key.to_owned(), message: "m".to_owned() });
        let current = begun(raised.iter().cloned());
        let problems_only = |condition: &Condition| matches!(condition, Condition::Problem { .. });
        let events = difference(&told, current.clone(), problems_only);
        assert_eq!(events, [problem("store").ended(), raised[1].clone()]);
        let events = difference(&told, current, |_| true);
        assert_eq!(events, [issue.ended(), problem("store").ended(), raised[1].clone()]);
    }
}
