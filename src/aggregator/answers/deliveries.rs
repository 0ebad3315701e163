//! Targets and deliveries.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tracing::info;

use super::{Aggregator, is, now, time};
use crate::aggregator::delivering::{Delivering, FAILURES, explain};
use crate::deliver::{Verdict, readable};
use crate::store::{DeliveryId, DeliveryRow};
use crate::web::list::{DELIVERIES, TARGETS, page};
use crate::web::{DeliveryChanged, DeliveryDetail, DeliveryItem, Failure, List, Page, Scope, TargetItem, TargetTest};

/// Bytes of a delivery that are shown.
const SHOWN: u64 = 256 << 10;

/// Deliveries that a list covers at most. A person drops or replays them before there are more.
const LISTED: usize = 10_000;

impl Aggregator {
    /// Returns the targets. Whoever may read some namespaces only sees none: their state tells of all others.
    pub(super) fn targets(&self, scope: &Scope) -> Vec<TargetItem> {
        if *scope != Scope::All {
            return Vec::new();
        }
        self.deliveries.iter().map(|to| target(to)).collect()
    }

    pub(super) fn list_targets(&self, scope: &Scope, list: &List) -> Result<Page<TargetItem>, Failure> {
        let items = self
            .targets(scope)
            .into_iter()
            .filter(|item| is(list, "name", &item.name) && is(list, "state", &item.state));
        page(&TARGETS, list, items.map(|item| (item.name.clone(), item)))
    }

    pub(super) async fn list_deliveries(&self, scope: &Scope, list: &List) -> Result<Page<DeliveryItem>, Failure> {
        let rows = match scope {
            Scope::All => self.store.deliveries(0, LISTED).await?,
            Scope::Namespaces(_) => Vec::new(),
        };
        let items = rows.into_iter().map(delivery);
        let items = items.filter(|item| is(list, "target", &item.target) && is(list, "state", &item.state));
        page(&DELIVERIES, list, items.map(|item| (item.id, item)))
    }

    pub(super) async fn delivery_now(&self, scope: &Scope, id: DeliveryId) -> Result<DeliveryDetail, Failure> {
        let found = match scope {
            Scope::All => self.store.delivery(id).await?,
            Scope::Namespaces(_) => None,
        };
        let (row, body) = found.ok_or_else(|| missing(id))?;
        let mut content = readable(&body, SHOWN + 1);
        let limit = usize::try_from(SHOWN).unwrap_or(usize::MAX);
        let truncated = content.len() > limit;
        if truncated {
            content.truncate(content.floor_char_boundary(limit));
        }
        Ok(DeliveryDetail { delivery: delivery(row), content, truncated })
    }

    /// Has a refused delivery sent again, or removes it.
    pub(super) async fn settle_delivery(&self, id: DeliveryId, again: bool) -> Result<DeliveryChanged, Failure> {
        let (row, _) = self.store.delivery(id).await?.ok_or_else(|| missing(id))?;
        if !self.store.settle_refused(id, again).await? {
            return Err(Failure::Refused(format!("delivery {id} waits for its target and was not refused")));
        }
        info!(target = row.target, key = row.key, again, "refused delivery settled");
        if let Some(to) = self.deliveries.iter().find(|to| to.config.name == row.target) {
            to.wake();
        }
        Ok(DeliveryChanged { target: row.target })
    }

    /// Has a target get a snapshot.
    pub(super) async fn resync_target(&self, name: &str) -> Result<DeliveryChanged, Failure> {
        let to = self.target_named(name)?;
        self.store.resync(to.id()?).await?;
        info!(target = name, "snapshot requested");
        to.wake();
        Ok(DeliveryChanged { target: name.to_owned() })
    }

    /// Sends a sample to a target.
    pub(super) async fn try_target(&self, name: &str) -> Result<TargetTest, Failure> {
        let to = self.target_named(name)?;
        let started = Instant::now();
        let outcome = self.test_target(to).await;
        let (accepted, status, answer) = match outcome {
            Ok(answer) if answer.verdict == Verdict::Accepted => (true, Some(answer.status), answer.text),
            Ok(answer) => (false, Some(answer.status), explain(&answer)),
            Err(error) => (false, None, error.to_string()),
        };
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(TargetTest { target: name.to_owned(), accepted, status, answer, milliseconds })
    }

    fn target_named(&self, name: &str) -> Result<&Arc<Delivering>, Failure> {
        let found = self.deliveries.iter().find(|to| to.config.name == name);
        found.ok_or_else(|| Failure::Missing(format!("target {name:?} not found; outcrop deliver list shows all")))
    }
}

fn missing(id: DeliveryId) -> Failure {
    Failure::Missing(format!("delivery {id} not found; outcrop deliver list shows all that wait"))
}

fn target(to: &Delivering) -> TargetItem {
    let state = to.state().clone();
    let word = match (state.failures, state.in_snapshot) {
        (FAILURES.., _) => "failing",
        (1.., _) => "retrying",
        (0, true) => "snapshot",
        (0, false) => "ok",
    };
    let at = now();
    let counts = &to.counts;
    TargetItem {
        name: to.config.name.clone(),
        kind: to.config.kind.word().to_owned(),
        address: to.config.kind.address(),
        state: word.to_owned(),
        waiting_events: state.backlog.events,
        waiting_deliveries: state.backlog.deliveries,
        oldest_seconds: state.backlog.oldest.map(|oldest| u64::try_from(at.unix - oldest).unwrap_or_default()),
        refused: state.backlog.refused,
        dropped: state.dropped,
        accepted: counts.accepted.load(Relaxed),
        refusals: counts.refused.load(Relaxed),
        failures: counts.failed.load(Relaxed),
        records: counts.records.load(Relaxed),
        bytes: counts.bytes.load(Relaxed),
        accepted_at: state.delivered_at.map(time),
        error: state.error,
        next_attempt_seconds: state.next.map(|next| next.saturating_duration_since(at.instant).as_secs()),
    }
}

fn delivery(row: DeliveryRow) -> DeliveryItem {
    let DeliveryRow { id, target, key, sequence, at, records, bytes, refused } = row;
    let (reason, refused_at) = refused.unzip();
    DeliveryItem {
        id,
        target,
        state: if refused_at.is_some() { "refused" } else { "waiting" }.to_owned(),
        key,
        sequence,
        made_at: time(at),
        records,
        bytes,
        refused_at: refused_at.map(time),
        reason: reason.unwrap_or_default(),
    }
}
