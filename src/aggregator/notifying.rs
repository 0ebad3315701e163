//! Messages of notification targets: what changes → notices in the store → a message, when it is time for one.

use std::sync::Arc;

use jiff::Timestamp;
use outcrop_proto::clock;
use tracing::{info, warn};

use super::delivering::{Delivering, new_key};
use super::{Aggregator, now};
use crate::deliver::{Composer, Notification, Occasion, Workloads};
use crate::problems::ProblemKind;
use crate::store::{
    FindingEvent, NewDelivery, NoticeScope, OutboxEvent, PendingNotices, PortionLimit, Selects, StoreError, SubjectKey,
};

/// Changes that are noted in one transaction: each of them may concern thousands of workloads.
const LIMIT: PortionLimit = PortionLimit { changes: 200, bytes: 4 << 20 };

/// Maximum number of problems that a message lists.
const PROBLEMS: usize = 10;

/// A selection without the problem of one target: a message cannot say that messages do not arrive.
struct Others<S> {
    selects: S,
    own: String,
}

impl<S: Selects> Selects for Others<S> {
    fn subject(&self, subject: &SubjectKey) -> bool {
        self.selects.subject(subject)
    }

    fn finding(&self, finding: &FindingEvent) -> bool {
        self.selects.finding(finding)
    }

    fn event(&self, event: &OutboxEvent) -> bool {
        match event {
            OutboxEvent::ProblemRaised { problem, .. } | OutboxEvent::ProblemCleared { problem }
                if *problem == self.own =>
            {
                false
            }
            event => self.selects.event(event),
        }
    }
}

impl Aggregator {
    /// Notes what changed, or stores the next message if it is time for one. Returns whether nothing more is to be done now.
    pub(super) async fn prepare_message(&self, to: &Arc<Delivering>) -> Result<bool, StoreError> {
        let (id, config) = (to.id()?, &to.config);
        let filter = &config.filter;
        let workloads = self.workload_facts(filter.asks_for_workloads());
        let own = format!("{} {}", ProblemKind::Delivery.as_str(), config.name);
        let selects = Others { selects: filter.selection(&workloads), own };
        let portion = self.store.portion(id, &selects, LIMIT).await?;
        to.state().in_snapshot = portion.target.snapshot.is_some() && portion.progress.is_some();
        if portion.progress.is_some() {
            self.store.note(portion, filter.notices(), now().unix).await?;
            return Ok(false);
        }
        if !self.is_due(to, &self.store.pending_notices(id, now().unix).await?) {
            return Ok(true);
        }
        self.store.settle_notices(id).await?;
        let pending = self.store.pending_notices(id, now().unix).await?;
        if pending.oldest.is_none() {
            return Ok(true);
        }
        let message = self.compose(to, &pending).await?;
        let body = match serde_json::to_vec(&message) {
            Ok(body) => body,
            // No message does this.
            Err(error) => {
                warn!(target = config.name, %error, "message not written");
                return Ok(true);
            }
        };
        let delivery = NewDelivery { key: new_key(), records: message.records(), body, at: message.at };
        self.store.tell_notices(id, pending.last, delivery).await?;
        info!(
            target = config.name,
            vulnerabilities = message.vulnerabilities.len() as u64 + message.more_vulnerabilities,
            workloads = message.workloads,
            problems = message.problems.len() as u64 + message.more_problems,
            "message stored"
        );
        Ok(false)
    }

    /// Returns whether a message may go out.
    fn is_due(&self, to: &Delivering, pending: &PendingNotices) -> bool {
        let Some(oldest) = pending.oldest else { return false };
        let time = |at: i64| Timestamp::from_second(at).unwrap_or_default();
        let sent: Vec<Timestamp> = pending.sent.iter().copied().map(time).collect();
        let now = clock::timestamp();
        to.config.notify.due(time(oldest), pending.summary, &sent, now) <= now
    }

    async fn compose(&self, to: &Delivering, pending: &PendingNotices) -> Result<Notification, StoreError> {
        let (id, config) = (to.id()?, &to.config);
        let (scope, occasion) = match (pending.summary, &config.notify.digest) {
            (true, _) => (NoticeScope::All, Occasion::Summary),
            (false, Some(_)) => (NoticeScope::Pending(pending.last), Occasion::Digest),
            (false, None) => (NoticeScope::Pending(pending.last), Occasion::News),
        };
        let workloads: Workloads = self.workload_facts(true);
        let mut composer = Composer::default();
        let mut each = |row: crate::store::NoticeRow| {
            let owner = workloads.get(&row.workload).and_then(|(_, owner)| owner.clone());
            composer.add(row, owner.as_deref());
        };
        self.store.notices(id, scope, config.notify.vulnerabilities, &mut each).await?;
        let totals = self.store.total_notices(id, scope).await?;
        let problems = self.store.problem_notices(id, PROBLEMS).await?;
        let message = Notification::new(occasion, &self.store.cluster().name, &config.name, now().unix);
        Ok(composer.compose(message, &totals, problems, config.notify.base_url.as_ref()))
    }
}
