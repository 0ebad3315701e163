//! The matching service: matches stacks against the advisory database in use.
//!
//! The transaction that stores the findings of a stack also stores the database for which they are complete. A rematch therefore matches all stacks
//! whose stored database differs from the one in use. After a failure, a panic or a power loss it continues with the remaining stacks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use outcrop_proto::Digest;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{Instrument as _, info, info_span};

use super::advisories::{Current, Offer, Refusal};
use super::matching::{MatchError, Matchmaker};
use super::memory::give_back;
use super::{Aggregator, now};
use crate::advisory::Database;
use crate::advisory::trust::signature_beside;
use crate::problems::ProblemKind;
use crate::store::{AuditOutcome, RematchRow, Summary};
use crate::supervise::panic_message;

/// Interval at which the watched advisory database is checked for changes.
const WATCH: Duration = Duration::from_secs(1);

/// Number of stacks that a rematch matches concurrently.
const MATCHED_AT_ONCE: usize = 4;

/// Pauses before failed matching is retried.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The result of the last rematch.
#[derive(Clone, Debug)]
struct Attempt {
    database: Digest,
    outcome: Result<RematchRow, String>,
}

/// The state of the matching service.
#[derive(Debug)]
pub(super) struct Matching {
    /// The matcher; `None` if there is no database.
    matchmaker: ArcSwapOption<Matchmaker>,
    /// The last complete rematch, with its database.
    last: ArcSwapOption<(Digest, RematchRow)>,
    /// Wakes the service.
    wanted: Notify,
    attempts: watch::Sender<Option<Attempt>>,
}

impl Matching {
    /// Returns the service's state at start; `last` is what the store knows of the last complete rematch.
    pub(super) fn new(last: Option<(Digest, RematchRow)>) -> Self {
        Self {
            matchmaker: ArcSwapOption::empty(),
            last: ArcSwapOption::from_pointee(last),
            wanted: Notify::new(),
            attempts: watch::Sender::new(None),
        }
    }

    /// Returns the result of the last complete rematch.
    pub(super) fn last(&self) -> Option<RematchRow> {
        self.last.load().as_ref().map(|last| last.1.clone())
    }

    /// Returns the current matcher.
    pub(super) fn matchmaker(&self) -> Option<Arc<Matchmaker>> {
        self.matchmaker.load_full()
    }

    /// Requests that stacks without complete findings are matched.
    pub(super) fn request(&self) {
        self.wanted.notify_one();
    }
}

/// The result of a pushed database.
#[derive(Debug)]
pub(super) enum Taken {
    /// It is the one in use.
    Same(Digest),
    /// It is in use, and all stacks were matched against it; `None` if a newer database has replaced it meanwhile.
    Matched(Digest, Option<RematchRow>),
    /// It is in use, and matching failed; it is retried.
    Failed(Digest, String),
}

impl Aggregator {
    /// Matches a merged stack. If that fails, the stack stays pending until matching succeeds.
    pub(super) async fn match_merged(&self, mut summary: Summary) -> Summary {
        loop {
            let Some(matchmaker) = self.matching.matchmaker() else { return summary };
            let started = Instant::now();
            let matched = matchmaker.match_stack(&*self.store, &summary, now().unix).await;
            self.metrics.matching.observe(started.elapsed().as_secs_f64());
            match matched {
                Ok(matched) => (summary.counts, summary.matched) = (matched.counts, Some(matchmaker.digest)),
                Err(error) => {
                    self.matching_failed(&error);
                    self.matching.request();
                    return summary;
                }
            }
            if self.matching.matchmaker().is_some_and(|current| current.digest == matchmaker.digest) {
                return summary;
            }
        }
    }

    fn matching_failed(&self, error: &MatchError) {
        let message = format!("matching stacks against the advisory database: {error}; it is retried");
        self.problems.raise(ProblemKind::Matching, "", message);
    }

    /// Loads the database that was in use, or else the watched one, before the first request for findings is answered.
    pub(super) async fn load_advisories(&self) {
        let Some(current) = self.advisories.current() else { return self.watch_advisories().await };
        if self.use_database(&current).await {
            self.matching.wanted.notify_one();
        }
    }

    /// Loads each valid database that replaces the watched file.
    pub(super) async fn keep_advisories(self: Arc<Self>) {
        loop {
            self.watch_advisories().await;
            tokio::time::sleep(WATCH).await;
        }
    }

    async fn watch_advisories(&self) {
        let Some(path) = self.config.database.clone() else { return };
        let advisories = Arc::clone(&self.advisories);
        let seen = tokio::task::spawn_blocking(move || advisories.watch(&path)).await;
        match seen {
            Ok(Some(Ok(Offer::New(current)))) if self.use_database(&current).await => self.matching.wanted.notify_one(),
            Ok(_) => {}
            Err(error) => self.problems.raise(ProblemKind::Database, "", panic_message(error)),
        }
        self.problems.set(ProblemKind::Database, "refused", self.advisories.refused());
    }

    /// Loads a pushed database, and waits until all stacks were matched against it.
    pub(super) async fn take_database(&self, file: PathBuf, by: String, allow_shrink: bool) -> Result<Taken, Refusal> {
        let advisories = Arc::clone(&self.advisories);
        let offered = tokio::task::spawn_blocking(move || {
            let signature =
                signature_beside(&file).map_err(|reason| Refusal::Signature { file: file.clone(), reason })?;
            let offer = advisories.offer(&file, signature.as_deref(), &by, allow_shrink)?;
            Ok::<_, Refusal>((offer, by))
        });
        let ended = |error: tokio::task::JoinError| Refusal::Keep {
            path: self.config.data.clone(),
            source: std::io::Error::other(error),
        };
        let (offer, by) = offered.await.map_err(ended)?.map_err(Refusal::of_pushed)?;
        let is_new = matches!(offer, Offer::New(_));
        let current = match offer {
            Offer::New(current) => Some(current),
            Offer::Same => self.advisories.current(),
        };
        let digest = current.as_ref().map_or(Digest([0; 32]), |current| current.digest);
        self.audit(&by, "push-database", &digest.to_string(), AuditOutcome::Done).await;
        let Some(current) = current.filter(|_| is_new) else { return Ok(Taken::Same(digest)) };
        let mut attempts = self.matching.attempts.subscribe();
        if !self.use_database(&current).await {
            return Ok(Taken::Matched(current.digest, None));
        }
        self.matching.wanted.notify_one();
        loop {
            let attempt = attempts.borrow_and_update().clone().filter(|attempt| attempt.database == current.digest);
            if let Some(attempt) = attempt {
                return Ok(match attempt.outcome {
                    Ok(row) => Taken::Matched(current.digest, Some(row)),
                    Err(reason) => Taken::Failed(current.digest, reason),
                });
            }
            let is_current = self.matching.matchmaker().is_some_and(|used| used.digest == current.digest);
            if !is_current || attempts.changed().await.is_err() {
                return Ok(Taken::Matched(current.digest, None));
            }
        }
    }

    /// Starts to use a database for matching. Returns `false` if it is not the newest one any more, or cannot be opened.
    async fn use_database(&self, current: &Current) -> bool {
        let database = match Database::open(&current.path) {
            Ok(database) => database,
            Err(error) => {
                self.problems.raise(ProblemKind::Database, "", error.to_string());
                return false;
            }
        };
        // Another database may have been pushed since.
        if self.advisories.current().is_none_or(|newest| newest.digest != current.digest) {
            return false;
        }
        self.problems.clear(ProblemKind::Database, "");
        self.matching.matchmaker.store(Some(Arc::new(Matchmaker::new(current.digest, database))));
        // Before any question is answered, or matching begins.
        self.fleet.publish(|fleet| fleet.use_database()).await;
        info!(database = %current.digest, sources = current.sources.len(), "advisory database loaded");
        true
    }

    /// Matches stacks that are not matched against the database in use, at each request, and retries until that has succeeded.
    pub(super) async fn keep_matching(self: Arc<Self>) {
        let pauses =
            || ExponentialBuilder::new().with_min_delay(RETRY.0).with_max_delay(RETRY.1).without_max_times().build();
        let (mut retry, mut pause) = (pauses(), None);
        loop {
            match pause {
                None => self.matching.wanted.notified().await,
                Some(pause) => {
                    let _ = tokio::time::timeout(pause, self.matching.wanted.notified()).await;
                }
            }
            let Some(matchmaker) = self.matching.matchmaker() else { continue };
            let database = matchmaker.digest;
            let outcome = match self.completed(&database).await {
                Ok(Some(row)) => Ok(row),
                Ok(None) => self.rematch(matchmaker).instrument(info_span!("rematch", %database)).await,
                Err(error) => Err(error),
            };
            // A client that reads the end of the rematch must also read its counts.
            self.fleet.publish(|_| ()).await;
            pause = match &outcome {
                Ok(row) => {
                    self.problems.clear(ProblemKind::Matching, "");
                    self.matching.last.store(Some(Arc::new((database, row.clone()))));
                    retry = pauses();
                    None
                }
                Err(error) => {
                    self.matching_failed(error);
                    retry.next()
                }
            };
            let outcome = outcome.map_err(|error| error.to_string());
            self.matching.attempts.send_replace(Some(Attempt { database, outcome }));
            give_back().await;
        }
    }

    /// Returns the result of the last rematch if it was against `database` and the store has no stack left to match. A crash between a merge and its
    /// match, or the return of an earlier database, leaves such stacks.
    async fn completed(&self, database: &Digest) -> Result<Option<RematchRow>, MatchError> {
        let last = self.matching.last.load_full();
        let Some(last) = last.filter(|last| last.0 == *database) else { return Ok(None) };
        let left = self.store.stacks_to_match(database).await?;
        Ok(left.is_empty().then(|| last.1.clone()))
    }

    /// Matches the stacks whose findings are not complete for this database. No node reads anything for it.
    async fn rematch(self: &Arc<Self>, matchmaker: Arc<Matchmaker>) -> Result<RematchRow, MatchError> {
        let _numbers = self.numbers.read().await;
        let (started, at) = (Instant::now(), now().unix);
        let id = self.store.begin_rematch(&matchmaker.digest, at).await?;
        let stacks = self.store.stacks_to_match(&matchmaker.digest).await?;
        let mut row = RematchRow { at, seconds: 0.0, stacks: stacks.len() as u64, appeared: 0, went: 0 };
        let mut waiting = stacks.into_iter();
        let mut running: JoinSet<Result<(u64, u64), MatchError>> = JoinSet::new();
        let mut failed = None;
        loop {
            while failed.is_none()
                && running.len() < MATCHED_AT_ONCE
                && let Some(summary) = waiting.next()
            {
                let (aggregator, matchmaker) = (Arc::clone(self), Arc::clone(&matchmaker));
                running.spawn(async move { aggregator.match_again(&matchmaker, &summary, at).await }.in_current_span());
            }
            match running.join_next().await {
                None => break,
                Some(Ok(Ok((appeared, went)))) => {
                    row.appeared += appeared;
                    row.went += went;
                }
                // Waits for running matches.
                Some(Ok(Err(error))) => failed = failed.or(Some(error)),
                Some(Err(error)) => failed = failed.or(Some(MatchError::Ended(panic_message(error)))),
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        row.seconds = started.elapsed().as_secs_f64();
        self.store.end_rematch(id, &row).await?;
        let RematchRow { stacks, appeared, went, seconds, .. } = row;
        info!(stacks, appeared, went, seconds, "stacks matched");
        Ok(row)
    }

    async fn match_again(
        &self,
        matchmaker: &Arc<Matchmaker>,
        summary: &Summary,
        at: i64,
    ) -> Result<(u64, u64), MatchError> {
        let chain = summary.chain;
        let _alone = self.stripe(&chain).lock().await;
        let matched = matchmaker.match_stack(&*self.store, summary, at).await?;
        let database = matchmaker.digest;
        let (appeared, went) = (matched.appeared, matched.went);
        self.fleet.call(move |fleet| fleet.matched(&chain, matched.counts, database)).await;
        Ok((appeared, went))
    }
}
