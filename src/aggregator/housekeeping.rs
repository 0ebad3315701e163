//! The housekeeping service: runs, the store's health, old rows, the list of problems, the certificate.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outcrop_proto::{Digest, LayerId, clock};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::fleet::{Node, Picture, Stack};
use super::in_flight::SET_ASIDE;
use super::{Aggregator, now};
use crate::authority;
use crate::cluster::keep_published;
use crate::problems::{ProblemKind, Problems};
use crate::store::{DayCount, Retention, Run, StoreError};
use crate::web::listen::Certificate;

/// Interval at which problems are checked.
const INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which changed runs are stored. The first-seen dates of findings follow from runs.
const HISTORY: Duration = Duration::from_millis(100);

/// Interval at which old rows are removed.
const TIDY: Duration = Duration::from_secs(3600);

/// Interval at which the open findings of the day are counted.
const DAY_COUNT: Duration = Duration::from_secs(600);

/// Maximum number of degraded nodes, and of silent ones, with a problem of their own; one more counts the others.
const MAX_NODES: usize = 10;

/// Time after which a silent node is a problem: longer than an agent's update or a node's restart takes.
const SILENT: Duration = Duration::from_secs(600);

/// Days for which daily counts are stored.
const DAYS_KEPT: i64 = 400;

/// Maximum number of nodes that a problem names.
const NAMED: usize = 5;

/// Pauses before a store that does not accept writes is probed again.
const PROBE: Duration = Duration::from_secs(1);

impl Aggregator {
    /// Stores runs that have changed, at most ten times per second, and at shutdown.
    pub(super) async fn keep_history(self: Arc<Self>, stop: CancellationToken) {
        // Runs that could not be stored come before later ones, so that a run which ended and started again has not ended.
        let mut waiting: Option<(Vec<Run>, Vec<Run>)> = None;
        loop {
            let stops = tokio::time::timeout(HISTORY, stop.cancelled()).await.is_ok();
            while self.store.health().is_accepting() {
                let is_late = waiting.is_some();
                let (begun, ended) = match waiting.take() {
                    Some(runs) => runs,
                    None => self.fleet.call(|fleet| fleet.take_runs()).await,
                };
                if let Err(error) = self.store.record_runs(&begun, &ended).await {
                    warn!(%error, begun = begun.len(), ended = ended.len(), "runs not stored; retried");
                    waiting = Some((begun, ended));
                    break;
                }
                if !is_late {
                    break;
                }
            }
            if stops {
                return;
            }
        }
    }

    /// Raises outages of the store as a problem, probes the store until it accepts writes again, and then starts the work that has waited.
    pub(super) async fn keep_store(self: Arc<Self>) {
        let mut states = self.store.health().subscribe();
        loop {
            let outage = states.borrow_and_update().outage().map(|outage| outage.reason.clone());
            let is_out = outage.is_some();
            self.problems.set(ProblemKind::Store, "", outage);
            if !is_out {
                if states.changed().await.is_err() {
                    return;
                }
                continue;
            }
            tokio::time::sleep(PROBE).await;
            if self.store.probe().await.is_ok() {
                self.fleet.call(|fleet| fleet.retry()).await;
                self.matching.request();
                self.changed.notify_one();
            }
        }
    }

    /// Checks once per second for problems that come and go with time: a certificate expires, a resumed watch reports nothing, and agents
    /// report what they cannot do.
    pub(super) async fn keep_problems(self: Arc<Self>) {
        loop {
            check_certificates(&self.problems, &self.certificates);
            let picture = self.picture();
            let nodes = [degraded(&picture), silent(&picture, Instant::now())].concat();
            self.problems.replace(ProblemKind::Nodes, nodes);
            if let Some(watch) = &self.watch {
                self.problems.replace(ProblemKind::Watch, watch.problems());
                self.problems.replace(ProblemKind::Policy, watch.policy_problems());
            }
            let set_aside = if self.in_flight.has_suspects() { set_aside(&self.picture()) } else { Vec::new() };
            self.problems.replace(ProblemKind::Merging, set_aside);
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Renews the self-issued certificate, if there is one.
    pub(super) async fn renew_certificate(self: Arc<Self>) {
        let (dir, names) = (self.config.data.join("tls"), self.config.tls_names.clone());
        let mut pause = authority::RENEWED;
        loop {
            tokio::time::sleep(pause).await;
            let (dir, names) = (dir.clone(), names.clone());
            let renewed = tokio::task::spawn_blocking(move || authority::certify(&dir, &names).map(|_| ())).await;
            let problem = match renewed {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            // The certificate in use is still valid for a long time.
            pause = if problem.is_some() { TIDY } else { authority::RENEWED };
            info!(renewed = problem.is_none(), "certificate renewal tried");
            let problem = problem.map(|error| format!("renewing the certificate: {error}; the one in use stays"));
            self.problems.set(ProblemKind::Certificate, "renewal", problem);
        }
    }

    /// Publishes the CA certificate in the ConfigMap that agents mount.
    pub(super) async fn keep_authority(
        self: Arc<Self>,
        client: kube::Client,
        (namespace, name): (String, String),
        authority: PathBuf,
    ) {
        let report = |problem| self.problems.set(ProblemKind::Publishing, "", problem);
        keep_published(client, &namespace, &name, &authority, report).await;
    }

    /// Counts the day's open findings by namespace and severity, for charts.
    pub(super) async fn keep_days(self: Arc<Self>) {
        loop {
            if self.store.health().is_accepting()
                && let Err(error) = self.count_day().await
            {
                warn!(%error, "daily counts not stored; retried");
            }
            tokio::time::sleep(DAY_COUNT).await;
        }
    }

    async fn count_day(&self) -> Result<(), StoreError> {
        let day = clock::today();
        let counts: Vec<DayCount> = self.picture().day_counts(day);
        // Before nodes have reported, the counts of an earlier process stay.
        if counts.is_empty() {
            return Ok(());
        }
        self.store.record_day(day, &counts).await
    }

    /// Removes rows that are older than the configured retention, once an hour.
    pub(super) async fn keep_tidy(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TIDY).await;
            // A merge or a match may be about to refer to removed rows, so none may be in progress. The lock is tried repeatedly, because waiting for it
            // would block later merges as well.
            let _at_rest = loop {
                match self.numbers.try_write() {
                    Ok(at_rest) => break at_rest,
                    Err(_) => tokio::time::sleep(INTERVAL).await,
                }
            };
            match self.tidy().await {
                Ok(()) => debug!("store tidied"),
                Err(error) => warn!(%error, "store not tidied; retried in an hour"),
            }
        }
    }

    async fn tidy(&self) -> Result<(), StoreError> {
        let since = now().unix;
        let present: Vec<i64> = self.fleet.call(|fleet| fleet.present_ids()).await;
        let before = |kept: Duration| since - i64::try_from(kept.as_secs()).unwrap_or(i64::MAX);
        let today = clock::today();
        let retention = Retention {
            runs_since: before(self.config.keep_history),
            unused_since: before(self.config.keep_unused),
            days_since: today.saturating_sub(jiff::Span::new().days(DAYS_KEPT)),
        };
        self.store.tidy(&retention, &present).await?;
        if let Some(matchmaker) = self.matching.matchmaker() {
            matchmaker.forget();
        }
        let layers = self
            .store
            .layers()
            .await?
            .into_iter()
            .map(|layer| layer.id)
            .collect::<std::collections::HashSet<LayerId>>();
        let stacks = self.store.stacks().await?.into_iter().filter(|summary| summary.catalogers > 0);
        let stacks: std::collections::HashSet<Digest> = stacks.map(|summary| summary.chain).collect();
        self.fleet.call(move |fleet| fleet.keep_only(&layers, &stacks, since)).await;
        Ok(())
    }
}

/// Returns a problem for each stack that was set aside, or has a layer that was, with the nodes that read or have its layers.
fn set_aside(picture: &Picture) -> Vec<(String, String)> {
    let problem = |(digest, stack): (&Digest, &Stack)| {
        let reason = Some(picture.coverage(digest).reason).filter(|reason| reason.contains(SET_ASIDE))?;
        let reader = |id: &LayerId| picture.layer(id)?.read().map(|layer| layer.node.as_str());
        let readers: Option<BTreeSet<&str>> = stack.layers().iter().map(reader).collect();
        let nodes = readers.unwrap_or_else(|| stack.nodes().map(|node| &**node).collect());
        let nodes = nodes.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        Some((digest.to_string(), format!("{reason}; its layers come from {nodes}; see docs/troubleshooting.md")))
    };
    picture.present().filter_map(problem).collect()
}

/// Returns the problems of degraded nodes, each by the node's name.
fn degraded(fleet: &Picture) -> Vec<(String, String)> {
    let nodes = fleet.nodes().filter_map(|(name, node)| {
        let (first, more) = node.problems().split_first()?;
        let more = if more.is_empty() { String::new() } else { format!(", and {} more problems", more.len()) };
        Some((name.to_owned(), format!("node {name} is degraded: {}{more}", first.message)))
    });
    bounded(nodes, "degraded")
}

/// Returns the problems of nodes that have been silent for long, each by the node's name.
fn silent(fleet: &Picture, at: Instant) -> Vec<(String, String)> {
    let is_silent = |node: &Node| !node.attached && at.saturating_duration_since(node.last_message) >= SILENT;
    let nodes = fleet.nodes().filter(|(_, node)| is_silent(node)).map(|(name, _)| {
        let minutes = SILENT.as_secs() / 60;
        let message = format!(
            "node {name} has been silent for more than {minutes} minutes: its containers are shown as they were; check the node and its agent"
        );
        (name.to_owned(), message)
    });
    bounded(nodes, "silent")
}

/// Returns the problems of some nodes in this state, and one that counts the others.
fn bounded(mut nodes: impl Iterator<Item = (String, String)>, state: &str) -> Vec<(String, String)> {
    let mut problems: Vec<(String, String)> = nodes.by_ref().take(MAX_NODES).collect();
    let others = nodes.count();
    if others > 0 {
        let hint = format!("list them with outcrop get nodes --field-selector state={state} -o wide");
        problems.push((format!("more {state}"), format!("{others} more nodes are {state}; {hint}")));
    }
    problems
}

/// Raises and clears the problems of served certificates, each by its path. The renewal has a key of its own.
fn check_certificates(problems: &Problems, certificates: &[Arc<Certificate>]) {
    for certificate in certificates {
        problems.set(ProblemKind::Certificate, &certificate.path().display().to_string(), certificate.problem());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use outcrop_proto::wire::v1;

    use super::super::fleet::{Fleet, Rules};
    use super::*;

    #[test]
    fn degraded_nodes_are_problems_by_name_and_many_are_counted() {
        let mut fleet = Fleet::new(Rules::default(), [], [], []);
        for number in 0..30_u32 {
            let node = format!("node-{number:02}");
            fleet.attach(&node, &v1::Hello::default(), 1, now());
            let problem = |message: &str| v1::Problem { message: message.to_owned(), since: 0 };
            let problems = if number < 15 { vec![problem("slow"), problem("failing")] } else { Vec::new() };
            fleet.metrics(&node, v1::Metrics { problems, ..v1::Metrics::default() });
        }
        let problems = degraded(&fleet);
        assert_eq!(problems.len(), MAX_NODES + 1);
        let (node, message) = &problems[0];
        assert_eq!(
            (node.as_str(), message.as_str()),
            ("node-00", "node node-00 is degraded: slow, and 1 more problems")
        );
        assert!(problems[MAX_NODES].1.starts_with("5 more nodes are degraded"), "{problems:?}");
        fleet.detach("node-00", 1, now());
        assert_eq!(degraded(&fleet)[0].0, "node-01", "a silent node reports nothing");
    }

    #[test]
    fn nodes_that_are_silent_for_ten_minutes_are_problems_until_they_attach() {
        let mut fleet = Fleet::new(Rules::default(), [], [], []);
        let at = now();
        let attach = |fleet: &mut Fleet, count: usize, at| {
            for number in 0..count {
                fleet.attach(&format!("node-{number:02}"), &v1::Hello::default(), 1, at);
            }
        };
        attach(&mut fleet, 12, at);
        let later = |minutes: u64| at.instant + Duration::from_secs(minutes * 60);
        assert_eq!(silent(&fleet, later(60)), [], "they are attached");
        for number in 0..12 {
            fleet.detach(&format!("node-{number:02}"), 1, at);
        }
        assert_eq!(silent(&fleet, later(9)), []);
        let problems = silent(&fleet, later(10));
        assert_eq!(problems.len(), MAX_NODES + 1);
        assert!(
            problems[0].0 == "node-00" && problems[0].1.contains("silent for more than 10 minutes"),
            "{problems:?}"
        );
        assert!(problems[MAX_NODES].1.starts_with("2 more nodes are silent"), "{problems:?}");
        attach(&mut fleet, 11, at);
        assert_eq!(silent(&fleet, later(10)).iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["node-11"]);
    }

    #[test]
    fn a_failed_renewal_stays_a_problem_while_the_served_certificate_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| dir.path().join(name));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&certificate, made.cert.pem()).unwrap();
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let served = Certificate::open(&certificate, &key).unwrap();
        let problems = Problems::default();
        let keys = |problems: &Problems| problems.list().iter().map(|problem| problem.key()).collect::<Vec<_>>();
        problems.raise(ProblemKind::Certificate, "renewal", "the volume is full");
        check_certificates(&problems, &[Arc::clone(&served)]);
        assert_eq!(keys(&problems), ["certificate renewal"]);
        fs::write(&key, "no key").unwrap();
        served.refresh();
        check_certificates(&problems, &[Arc::clone(&served)]);
        let path = format!("certificate {}", certificate.display());
        assert_eq!(keys(&problems), [path.as_str(), "certificate renewal"]);
        fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        served.refresh();
        check_certificates(&problems, &[served]);
        assert_eq!(keys(&problems), ["certificate renewal"]);
    }
}
