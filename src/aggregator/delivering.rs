//! The delivery service: one task for each target, and one that keeps the outbox small.
//!
//! A delivery is stored before it is sent, and removed after the target accepted it. A target that does not answer is retried with growing pauses;
//! it delays no other one, and nothing else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use outcrop_proto::{clock, hex};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::answers::owner;
use super::fleet::workload_key;
use super::{Aggregator, now};
use crate::cluster::Pods;
use crate::deliver::document::{self, Name};
use crate::deliver::{
    self, Answer, Client, Encoded, Family, Notification, Origin, SendError, Stream, TargetConfig, Verdict, WhenFull,
    Workloads, encode,
};
use crate::problems::ProblemKind;
use crate::store::{
    Backlog, BacklogLimit, DeliveryRow, ErrorKind, NewDelivery, Portion, PortionLimit, Progress, Store, StoreError,
    TargetId, TargetSpec,
};
use crate::supervise::panic_message;

/// Interval at which the outbox is tidied, and the backlog of targets counted.
const TIDY: Duration = Duration::from_secs(5);

/// Interval at which notices are forgotten.
const FORGET: Duration = Duration::from_secs(3_600);

/// Shortest time for which changes are collected: the store is asked as often.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// Pause after a failure of the store.
const STORE: Duration = Duration::from_secs(2);

/// Failures in a row from which on the target is failing: people are shown a problem.
pub(super) const FAILURES: u32 = 3;

/// Longest reason of a failure, in characters.
const REASON: usize = 300;

/// A target to which is delivered.
#[derive(Debug)]
pub(super) struct Delivering {
    pub(super) config: TargetConfig,
    /// Its row id, once the store has it.
    id: OnceLock<TargetId>,
    pub(super) client: Client,
    state: Mutex<State>,
    /// Wakes the task.
    wake: Notify,
    pub(super) counts: Counts,
}

/// The state of a target at the moment.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) backlog: Backlog,
    pub(super) dropped: u64,
    /// Set while a snapshot is not complete.
    pub(super) in_snapshot: bool,
    pub(super) delivered_at: Option<i64>,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Why the last attempt failed.
    pub(super) error: Option<String>,
    /// When the next attempt is made.
    pub(super) next: Option<Instant>,
    /// The last day whose report was written or is named by a delivery.
    pub(super) reported: Option<Date>,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Attempts after which the delivery is sent again.
    pub(super) failed: AtomicU64,
    /// Records in accepted deliveries.
    pub(super) records: AtomicU64,
    /// Bytes of accepted deliveries, as they were sent.
    pub(super) bytes: AtomicU64,
}

impl Delivering {
    pub(super) fn new(config: &TargetConfig) -> Arc<Self> {
        Arc::new(Self {
            config: config.clone(),
            id: OnceLock::new(),
            client: Client::new(config.connection.clone()),
            state: Mutex::default(),
            wake: Notify::new(),
            counts: Counts::default(),
        })
    }

    /// Returns the row id.
    ///
    /// # Errors
    /// When the store has accepted no write since the target is configured.
    pub(super) fn id(&self) -> Result<TargetId, StoreError> {
        let missing = || StoreError::new("reading a target", ErrorKind::Paused, "it is not stored yet");
        self.id.get().copied().ok_or_else(missing)
    }

    /// Makes these the targets of the store.
    ///
    /// # Errors
    /// When the store fails, or accepts no write.
    pub(super) async fn register(targets: &[Arc<Self>], store: &dyn Store) -> Result<(), StoreError> {
        let spec = |to: &Arc<Self>| TargetSpec { name: to.config.name.clone(), selection: to.config.selection() };
        let specs: Vec<TargetSpec> = targets.iter().map(spec).collect();
        for (to, row) in targets.iter().zip(store.set_targets(&specs).await?) {
            // Another task may have been faster, with the same outcome.
            if to.id.set(row.id).is_ok() {
                let mut state = to.state();
                (state.delivered_at, state.dropped) = (row.delivered_at, row.dropped);
            }
        }
        Ok(())
    }

    /// Returns the state.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the task look for something to send at once.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sends in a thread of its own. Several attempts may run at the same time: a test beside a delivery.
    async fn send(self: &Arc<Self>, key: String, body: Encoded) -> Result<Answer, SendError> {
        let to = Arc::clone(self);
        let sent = tokio::task::spawn_blocking(move || to.config.kind.send(&to.client, &key, &body)).await;
        // A defect of the client concerns this target alone: it is retried as if no answer had come.
        sent.unwrap_or_else(|error| Err(SendError(panic_message(error))))
    }

    fn limit(&self, most: usize) -> PortionLimit {
        let batch = self.config.batch;
        PortionLimit { changes: batch.records.min(most), bytes: batch.bytes }
    }
}

impl Aggregator {
    /// Delivers to one target.
    pub(super) async fn deliver_to(self: Arc<Self>, to: Arc<Delivering>) {
        // Set if the last portion took all that there was: then changes are collected for a while.
        let mut is_drained = false;
        loop {
            let next = async {
                if to.id.get().is_none() {
                    Delivering::register(&self.deliveries, &*self.store).await?;
                }
                self.store.next_delivery(to.id()?).await
            };
            let pause = match next.await {
                Ok(Some((row, body))) => self.attempt(&to, row, Encoded(body)).await,
                Ok(None) if is_drained => {
                    is_drained = false;
                    Some(to.config.batch.wait.max(SHORTEST_WAIT))
                }
                Ok(None) => match self.prepare(&to).await {
                    Ok(is_last) => {
                        is_drained = is_last;
                        None
                    }
                    Err(error) => {
                        not_stored(to.config.name.as_str(), &error, "delivery not prepared; retried");
                        Some(STORE)
                    }
                },
                Err(error) => {
                    not_stored(to.config.name.as_str(), &error, "deliveries not read; retried");
                    Some(STORE)
                }
            };
            if let Some(pause) = pause {
                let _ = tokio::time::timeout(pause, to.wake.notified()).await;
            }
        }
    }

    /// Stores the next delivery. Returns whether nothing more waits.
    async fn prepare(&self, to: &Arc<Delivering>) -> Result<bool, StoreError> {
        match to.config.kind.family() {
            Family::Stream(stream) => self.prepare_portion(to, Some(stream)).await,
            Family::Files(_) => self.prepare_portion(to, None).await,
            Family::Notifier(_) => self.prepare_message(to).await,
        }
    }

    /// Stores the next records of a stream, or names of files where there is none.
    async fn prepare_portion(&self, to: &Delivering, stream: Option<&dyn Stream>) -> Result<bool, StoreError> {
        let (filter, limit) = (&to.config.filter, to.limit(stream.map_or(usize::MAX, Stream::most_records)));
        let workloads = self.workload_facts(filter.asks_for_workloads());
        let portion = self.store.portion(to.id()?, &filter.selection(&workloads), limit).await?;
        let Portion { target, told, progress } = portion;
        to.state().in_snapshot = target.snapshot.is_some() && progress.is_some();
        let at = now().unix;
        let (body, records) = match stream {
            Some(_) if told.is_empty() => (Ok(None), 0),
            Some(stream) => {
                let key = new_key();
                let sequence = target.sequence.saturating_add(1);
                let origin = Origin { cluster: self.store.cluster(), target: &target.name, key: &key, sequence, at };
                (encode(origin, &told, stream).map(|Encoded(body)| Some((key, body))), told.len())
            }
            None => {
                let mut names = document::names(&told);
                let day = jiff::Timestamp::from_second(at).unwrap_or_default().to_zoned(jiff::tz::TimeZone::UTC).date();
                if target.snapshot.is_none() && self.is_report_due(to, day).await? {
                    names.push(Name::Report(day.to_string()));
                    to.state().reported = Some(day);
                }
                match names.is_empty() {
                    true => (Ok(None), 0),
                    false => {
                        let body = document::encode(&names).map_err(std::io::Error::other);
                        (body.map(|body| Some((new_key(), body))), names.len())
                    }
                }
            }
        };
        let delivery = match body {
            Ok(body) => body.map(|(key, body)| NewDelivery { key, records, body, at }),
            Err(error) => {
                // No value that the store returns does this; if one does, the target has to be told everything anew.
                warn!(target = target.name, %error, "records not written; the target gets a snapshot");
                self.store.resync(to.id()?).await?;
                return Ok(true);
            }
        };
        let progress = match (progress, &delivery) {
            (Some(progress), _) => progress,
            (None, Some(_)) => Progress::none(&target),
            (None, None) => return Ok(true),
        };
        let (is_full, is_stored) = (told.len() >= limit.changes, delivery.is_some());
        self.store.enqueue(&target, progress, delivery).await?;
        Ok(is_stored && !is_full && target.snapshot.is_none())
    }

    /// Sends a delivery once, and stores the outcome. Returns the pause before the next attempt of anything.
    async fn attempt(&self, to: &Arc<Delivering>, row: DeliveryRow, body: Encoded) -> Option<Duration> {
        let name = &to.config.name;
        let (outcome, bytes) = match to.config.kind.family() {
            Family::Stream(_) | Family::Notifier(_) => {
                let bytes = body.0.len() as u64;
                (to.send(row.key.clone(), body).await, bytes)
            }
            Family::Files(_) => self.send_files(to, &body.0).await,
        };
        let (reason, asked) = match &outcome {
            Ok(answer) if answer.verdict == Verdict::Accepted => {
                debug!(target = name, key = row.key, records = row.records, bytes, "delivery accepted");
                let at = now().unix;
                while let Err(error) = self.store.delivered(row.id, at).await {
                    // Sent again with the same key if the process ends meanwhile.
                    warn!(target = name, key = row.key, %error, "acceptance not stored; retried");
                    tokio::time::sleep(STORE).await;
                }
                to.counts.accepted.fetch_add(1, Relaxed);
                to.counts.records.fetch_add(row.records, Relaxed);
                to.counts.bytes.fetch_add(bytes, Relaxed);
                let failures = {
                    let mut state = to.state();
                    (state.error, state.next, state.delivered_at) = (None, None, Some(at));
                    std::mem::take(&mut state.failures)
                };
                if failures >= FAILURES {
                    info!(target = name, failures, "deliveries accepted again");
                }
                self.problems.clear(ProblemKind::Delivery, name);
                return None;
            }
            Ok(answer) => (explain(answer), answer.retry_after),
            Err(error) => (shorten(&error.to_string()), None),
        };
        if outcome.as_ref().is_ok_and(|answer| answer.verdict == Verdict::Refused) {
            warn!(target = name, key = row.key, reason, "delivery refused; it is kept, and others go on");
            if let Err(error) = self.store.refuse(row.id, &reason, now().unix).await {
                warn!(target = name, key = row.key, %error, "refusal not stored; the delivery is sent again");
                return Some(STORE);
            }
            to.counts.refused.fetch_add(1, Relaxed);
            to.state().error = Some(reason);
            return None;
        }
        to.counts.failed.fetch_add(1, Relaxed);
        let (failures, pause) = {
            let mut state = to.state();
            state.failures = state.failures.saturating_add(1);
            let pause = deliver::pause(state.failures, random(), asked);
            (state.error, state.next) = (Some(reason.clone()), Some(Instant::now() + pause));
            (state.failures, pause)
        };
        let seconds = pause.as_secs();
        match failures < FAILURES {
            true => debug!(target = name, key = row.key, reason, failures, seconds, "delivery failed; retried"),
            false => {
                warn!(target = name, key = row.key, reason, failures, seconds, "delivery failed; retried");
                let hint = format!("run outcrop deliver test {name}");
                self.problems.raise(ProblemKind::Delivery, name, format!("{reason}; retried; {hint}"));
            }
        }
        Some(pause)
    }

    /// Removes events that every target was told, bounds what waits, and counts it.
    pub(super) async fn keep_outbox(self: Arc<Self>) {
        let mut forgotten: Option<Instant> = None;
        loop {
            if self.store.health().is_accepting() {
                if forgotten.is_none_or(|at| at.elapsed() >= FORGET) {
                    forgotten = Some(Instant::now());
                    if let Err(error) = self.store.forget_notices(now().unix).await {
                        warn!(%error, "notices not forgotten; retried in an hour");
                    }
                }
                for to in self.deliveries.iter().filter(|to| to.id.get().is_some()) {
                    if let Err(error) = self.bound(to).await {
                        warn!(target = to.config.name, %error, "backlog not counted; retried");
                    }
                }
                loop {
                    match self.store.remove_told().await {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => {
                            warn!(%error, "delivered events not removed; retried");
                            break;
                        }
                    }
                }
            }
            tokio::time::sleep(TIDY).await;
        }
    }

    /// Bounds what waits for a target.
    async fn bound(&self, to: &Delivering) -> Result<(), StoreError> {
        let (id, limit) = (to.id()?, to.config.backlog);
        let age = i64::try_from(limit.age.as_secs()).unwrap_or(i64::MAX);
        let since = now().unix.saturating_sub(age);
        let mut backlog = self.store.backlog(id).await?;
        if backlog.events > limit.events || backlog.oldest_event.is_some_and(|oldest| oldest < since) {
            let drop_oldest = limit.when_full == WhenFull::DropOldest;
            let bound = BacklogLimit { events: limit.events, since, drop_oldest };
            let events = self.store.limit_backlog(id, bound).await?;
            if events > 0 && drop_oldest {
                warn!(target = to.config.name, events, "oldest events dropped: too many wait for the target");
                to.state().dropped += events;
            } else if events > 0 {
                warn!(
                    target = to.config.name,
                    events, "too many events wait for the target: it gets a snapshot instead"
                );
            }
            backlog = self.store.backlog(id).await?;
        }
        to.state().backlog = backlog;
        Ok(())
    }

    /// Sends a marked sample to a target.
    pub(super) async fn test_target(&self, to: &Arc<Delivering>) -> Result<Answer, SendError> {
        let key = new_key();
        let (cluster, target, at) = (self.store.cluster(), &to.config.name, now().unix);
        let body = match to.config.kind.family() {
            Family::Stream(stream) => deliver::sample(Origin { cluster, target, key: &key, sequence: 0, at }, stream),
            Family::Notifier(_) => {
                let message = serde_json::to_vec(&Notification::test(&cluster.name, target, at));
                message.map(Encoded).map_err(Into::into)
            }
            Family::Files(_) => return self.test_files(to, &key).await,
        };
        to.send(key, body.map_err(|error| SendError(error.to_string()))?).await
    }

    /// Returns labels and owners of all workloads, if a filter asks for them.
    pub(super) fn workload_facts(&self, is_asked: bool) -> Workloads {
        let Some(watch) = self.watch.as_ref().filter(|_| is_asked) else { return Workloads::new() };
        let (cluster, keys) = (watch.cluster(), self.owner_keys());
        let facts = |of: &Pods| {
            let labels = cluster.marks(of).map(|marks| marks.labels.clone()).unwrap_or_default();
            (workload_key(&of.workload), (labels, owner(&cluster, of, keys).map(ToOwned::to_owned)))
        };
        cluster.workloads().map(facts).collect()
    }
}

/// Logs a failure of the store. That it accepts no writes is logged once by whoever watches it, and not by each target every two seconds.
fn not_stored(target: &str, error: &StoreError, what: &str) {
    match error.kind {
        ErrorKind::Paused => debug!(target, %error, "{what}"),
        _ => warn!(target, %error, "{what}"),
    }
}

/// Returns an answer that is no acceptance as one line.
pub(super) fn explain(answer: &Answer) -> String {
    let name = axum::http::StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    let status = format!("{} {}", answer.status, name.unwrap_or_default());
    let hint = match answer.status {
        301 | 302 | 303 | 307 | 308 => "redirects are not followed; set the URL to the final address",
        401 | 403 | 407 => "check the credentials of the target",
        404 => "check the URL",
        413 => "lower batch.bytes or batch.records",
        415 => "check format and compression",
        _ => "",
    };
    let parts = [status.trim(), answer.text.as_str(), hint];
    shorten(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; "))
}

/// Returns the beginning of a text on one line. It may come from a target.
fn shorten(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(REASON).collect()
}

/// Returns a new idempotency key.
pub(super) fn new_key() -> String {
    let mut bytes = [0; 16];
    // It fails only where the system has no random numbers; then the time tells two keys apart.
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bytes = clock::timestamp().as_nanosecond().to_be_bytes();
    }
    hex(&bytes)
}

/// Returns a random number below 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = SystemRandom::new().fill(&mut bytes);
    f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
