//! What the aggregator does by itself: leases, merges, matches, tells the store, and looks whether something has changed.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use outcrop_proto::wire::v1;
use outcrop_proto::{Coverage, Digest, LayerId, clock};

use tokio::sync::OwnedSemaphorePermit;

use super::advisories::{Current, Offer, Refusal};
use super::fleet::{LEASE_SECONDS, Ready};
use super::matching::{MatchError, Matchmaker};
use super::memory::{give_back, in_background};
use super::merging::{Outcome, Stack, merge_stack};
use super::{Aggregator, TICK, now};
use crate::advisory::Database;
use crate::advisory::trust::signature_beside;
use crate::lock::lock;
use crate::store::{RematchRow, Retention, StoreError, Summary};

/// How often the advisory database's file is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// The least time between two looks at everything, however much changes.
const PAUSE: Duration = Duration::from_millis(50);

/// How often nodes that have been silent for too long, and what nobody has, are looked for in memory.
const SWEEP: Duration = Duration::from_secs(10);

/// How often what nobody needs any more is removed from the store.
const TIDY: Duration = Duration::from_secs(3600);

/// Days for which daily counts are kept.
const DAYS_KEPT: i64 = 400;

/// Stacks that are matched at a time when all are.
const MATCHED_AT_ONCE: usize = 4;

impl Aggregator {
    /// Leases to `node` what it has and nobody reads, and merges the stacks whose layers are known.
    pub(super) fn advance(self: &Arc<Self>, node: &str) {
        if self.store.health().is_accepting() {
            let layers = self.fleet().lease(node, now());
            self.order_lease(node, layers);
        }
        self.merge_ready();
    }

    fn order_lease(&self, node: &str, layers: Vec<LayerId>) {
        if !layers.is_empty() {
            let lease = v1::Lease { layers: layers.into_iter().map(Into::into).collect(), seconds: LEASE_SECONDS };
            self.send(node, v1::order::Order::Lease(lease));
        }
    }

    fn merge_ready(self: &Arc<Self>) {
        let ready = self.fleet().ready(now());
        for Ready { stack, .. } in ready {
            self.merge(stack, None);
        }
    }

    /// Looks now and then at everything that no report tells of.
    pub(super) async fn tick(self: Arc<Self>) {
        let mut swept = Instant::now();
        loop {
            // What changes all the time is looked at often enough.
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(TICK, self.changed.notified()).await;
            self.expel();
            self.recover().await;
            if self.store.health().is_accepting() {
                let leased = self.fleet().lease_again(now());
                for (node, layers) in leased {
                    self.order_lease(&node, layers);
                }
                let asked = self.fleet().cross_reads(now());
                for (node, layer) in asked {
                    let cross_read = v1::CrossRead { layers: vec![layer.into()], seconds: LEASE_SECONDS };
                    self.send(&node, v1::order::Order::CrossRead(cross_read));
                }
            }
            self.fleet().wake(now());
            self.merge_ready();
            self.record_runs().await;
            if swept.elapsed() >= SWEEP {
                self.fleet().tidy(now());
                swept = Instant::now();
            }
        }
    }

    /// Tells the store who ran what. What it cannot take is told again before anything that came after it: what ended in between and began
    /// again has not ended.
    async fn record_runs(&self) {
        let waiting = lock(&self.runs).take();
        let is_late = waiting.is_some();
        let (begun, ended) = waiting.unwrap_or_else(|| self.fleet().take_runs());
        if self.store.record_runs(&begun, &ended).await.is_err() {
            *lock(&self.runs) = Some((begun, ended));
        } else if is_late {
            self.changed.notify_one();
        }
    }

    /// Resumes when the store accepts writes again.
    async fn recover(&self) {
        if !self.store.health().is_accepting() && self.store.probe().await.is_ok() {
            self.fleet().retry();
        }
    }

    /// Merges a stack; `answers` are what a node said about what its layers leave open.
    pub(super) fn merge(self: &Arc<Self>, stack: Digest, answers: Option<(v1::Answers, OwnedSemaphorePermit)>) {
        let Some(layers) = self.fleet().stack(&stack).map(|stack| stack.layers().to_vec()) else { return };
        let aggregator = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(_turn) = aggregator.merging.acquire().await else { return };
            let (answers, _held) = answers.unzip();
            match aggregator.merge_now(stack, layers, answers).await {
                Ok(Some(summary)) => aggregator.fleet().merged(stack, Ok(summary)),
                Ok(None) => {}
                Err(coverage) => aggregator.fleet().merged(stack, Err(coverage)),
            }
            aggregator.merge_ready();
        });
    }

    /// What is kept of a stack; `None` if a node has to be asked first.
    async fn merge_now(
        self: &Arc<Self>,
        stack: Digest,
        layers: Vec<LayerId>,
        answers: Option<v1::Answers>,
    ) -> Result<Option<Summary>, Coverage> {
        let failed = |error: StoreError| Coverage::failed(error.to_string());
        let inventories = self.store.inventories(&layers).await.map_err(failed)?;
        let inventories = inventories.ok_or_else(|| Coverage::failed("one of its layers is not in the store"))?;
        let job = Stack { id: stack, layers, inventories, answers };
        let outcome = in_background(move || merge_stack(job)).await;
        match outcome.map_err(|error| Coverage::failed(error.to_string()))? {
            Outcome::Ask(check) => {
                let asked = self.fleet().ask(stack, now());
                if let Some(node) = asked {
                    self.send(&node, v1::order::Order::Check(check));
                }
                Ok(None)
            }
            Outcome::Failed(coverage) => Err(coverage),
            Outcome::Done(merged) => {
                let _alone = self.keep(&stack).await;
                let mut summary = self.store.put_stack(&merged, now().unix).await.map_err(failed)?;
                self.match_stack(&mut summary).await?;
                Ok(Some(summary))
            }
        }
    }

    /// Waits until nobody else keeps what the stack holds and what is found in it.
    async fn keep(&self, stack: &Digest) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        let [first, ..] = stack.0;
        let stripe = self.keeping.get(usize::from(first) % self.keeping.len())?;
        Some(stripe.lock().await)
    }

    fn matchmaker(&self) -> Option<Arc<Matchmaker>> {
        self.matchmaker.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Matches a stack until that is against the database that is used now.
    async fn match_stack(&self, summary: &mut Summary) -> Result<(), Coverage> {
        loop {
            let Some(matchmaker) = self.matchmaker() else { return Ok(()) };
            let matched = matchmaker.match_stack(&*self.store, summary.id, summary.layers.len(), now().unix).await;
            match matched {
                Ok((counts, ..)) => summary.counts = counts,
                Err(error) => return Err(Coverage::failed(error.to_string())),
            }
            if self.matchmaker().is_some_and(|now| now.digest == matchmaker.digest) {
                return Ok(());
            }
        }
    }

    /// Takes up the database that was in use, or the watched one where there was none: before anything is told of findings.
    pub(super) async fn take_up_advisories(self: &Arc<Self>) {
        let Some(current) = self.advisories.current() else { return self.watch_advisories().await };
        // Whatever was matched against it already is not matched again.
        let is_done = lock(&self.last_rematch).as_ref().is_some_and(|(digest, _)| *digest == current.digest)
            && self.store.stacks_to_match(&current.digest).await.is_ok_and(|stacks| stacks.is_empty());
        if self.use_database(&current) && !is_done {
            let aggregator = Arc::clone(self);
            tokio::spawn(async move { aggregator.rematch(&current).await });
        }
    }

    /// Takes up every good database that is put in the place of the one in use.
    pub(super) async fn keep_advisories(self: Arc<Self>) {
        loop {
            self.watch_advisories().await;
            tokio::time::sleep(WATCH).await;
            self.match_again().await;
        }
    }

    async fn watch_advisories(self: &Arc<Self>) {
        let Some(path) = self.config.database.clone() else { return };
        let aggregator = Arc::clone(self);
        let seen = tokio::task::spawn_blocking(move || aggregator.advisories.watch(&path)).await;
        if let Ok(Some(Ok(Offer::New(current)))) = seen
            && self.use_database(&current)
        {
            self.rematch(&current).await;
        }
    }

    /// Takes a database that somebody brought, and matches everything against it.
    pub(super) async fn take_database(
        self: &Arc<Self>,
        file: std::path::PathBuf,
        by: String,
        allow_shrink: bool,
    ) -> Result<(Digest, Option<RematchRow>), Refusal> {
        let aggregator = Arc::clone(self);
        let offered = tokio::task::spawn_blocking(move || {
            let signature =
                signature_beside(&file).map_err(|reason| Refusal::Signature { file: file.clone(), reason })?;
            aggregator.advisories.offer(&file, signature.as_deref(), &by, allow_shrink)
        });
        let ended = |error: tokio::task::JoinError| Refusal::Keep {
            path: self.config.data.clone(),
            source: std::io::Error::other(error),
        };
        match offered.await.map_err(ended)?? {
            Offer::New(current) if self.use_database(&current) => {
                let rematch = self.rematch(&current).await;
                Ok((current.digest, rematch))
            }
            Offer::New(current) => Ok((current.digest, None)),
            Offer::Same => Ok((self.advisories.current().map_or(Digest([0; 32]), |current| current.digest), None)),
        }
    }

    /// From now on stacks are matched against this database. `false` where it cannot be opened, which it could a moment ago.
    fn use_database(&self, current: &Current) -> bool {
        let Ok(database) = Database::open(&current.path) else { return false };
        let matchmaker = Arc::new(Matchmaker::new(current.digest, database));
        let mut used = self.matchmaker.write().unwrap_or_else(PoisonError::into_inner);
        // Another one may have been brought since.
        if self.advisories.current().is_none_or(|newest| newest.digest != current.digest) {
            return false;
        }
        *used = Some(matchmaker);
        true
    }

    /// Matches everything against the database that is used now. No node reads anything for it.
    async fn rematch(self: &Arc<Self>, current: &Current) -> Option<RematchRow> {
        let _turn = self.rematching.lock().await;
        let matchmaker = self.matchmaker().filter(|matchmaker| matchmaker.digest == current.digest)?;
        let (started, at) = (Instant::now(), now().unix);
        let outcome = async {
            let id = self.store.begin_rematch(&current.digest, at).await?;
            let stacks = self.store.stacks_to_match(&current.digest).await?;
            let mut row = RematchRow { at, seconds: 0.0, stacks: stacks.len() as u64, appeared: 0, went: 0 };
            let mut waiting = stacks.into_iter();
            let mut running = tokio::task::JoinSet::new();
            loop {
                while running.len() < MATCHED_AT_ONCE
                    && let Some(summary) = waiting.next()
                {
                    let (aggregator, matchmaker) = (Arc::clone(self), Arc::clone(&matchmaker));
                    running.spawn(async move {
                        let store = &*aggregator.store;
                        let _alone = aggregator.keep(&summary.chain).await;
                        let layers = summary.layers.len();
                        let (counts, appeared, went) = matchmaker.match_stack(store, summary.id, layers, at).await?;
                        aggregator.fleet().counted(&summary.chain, counts);
                        Ok::<_, MatchError>((appeared, went))
                    });
                }
                let Some(matched) = running.join_next().await else { break };
                let (appeared, went) = matched??;
                row.appeared += appeared;
                row.went += went;
            }
            row.seconds = started.elapsed().as_secs_f64();
            self.store.end_rematch(id, &row).await?;
            Ok::<_, MatchError>(row)
        };
        match outcome.await {
            Ok(row) => {
                *lock(&self.last_rematch) = Some((current.digest, row.clone()));
                give_back().await;
                Some(row)
            }
            Err(error) => {
                if matches!(error, MatchError::Store(_)) {
                    self.unmatched.store(true, Relaxed);
                }
                None
            }
        }
    }

    /// Matches everything once more where that has failed, when the store takes something again.
    async fn match_again(self: &Arc<Self>) {
        if self.store.health().is_accepting()
            && self.unmatched.swap(false, Relaxed)
            && let Some(current) = self.advisories.current()
        {
            self.rematch(&current).await;
        }
    }

    /// Removes now and then what nobody needs any more.
    pub(super) async fn keep_tidy(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TIDY).await;
            // Numbers are given anew: nobody may match meanwhile.
            let _turn = self.rematching.lock().await;
            let Ok(_alone) = self.merging.acquire_many(super::DECODED_AT_ONCE as u32).await else { return };
            let present: Vec<i64> = {
                let fleet = self.fleet();
                fleet.present().filter_map(|(_, stack)| stack.summary().map(|summary| summary.id)).collect()
            };
            let before = |kept: Duration| now().unix - i64::try_from(kept.as_secs()).unwrap_or(i64::MAX);
            let (history, unused) = (before(self.config.keep_history), before(self.config.keep_unused));
            let since = now().unix;
            let tidied = async {
                let days_since = clock::today().saturating_sub(jiff::Span::new().days(DAYS_KEPT));
                let retention = Retention { runs_since: history, unused_since: unused, days_since };
                self.store.tidy(&retention, &present).await?;
                if let Some(matchmaker) = self.matchmaker() {
                    matchmaker.forget();
                }
                let layers = self.store.layers().await?.into_iter().map(|layer| layer.id).collect();
                let stacks = self.store.stacks().await?.into_iter();
                let stacks = stacks.filter(|summary| summary.cataloguers > 0).map(|summary| summary.chain).collect();
                self.fleet().keep_only(&layers, &stacks, since);
                Ok::<_, StoreError>(())
            };
            // Tried again in an hour.
            let _ = tidied.await;
        }
    }
}
