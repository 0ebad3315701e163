//! The merging service: merges stacks whose layers have been read, and stores their packages.
//!
//! Each merge is a task of its own: if an unexpected inventory makes it panic, only this stack fails.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use outcrop_proto::wire::v1;
use outcrop_proto::{Coverage, Digest, LayerId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tracing::{Instrument as _, debug, info_span, warn};

use super::in_flight::{SET_ASIDE, Work};
use super::memory::in_background;
use super::merging::{Checked, Outcome, Stack, merge_stack};
use super::trial::Trial;
use super::{Aggregator, DECODED_AT_ONCE, now};
use crate::store::StoreError;
use crate::supervise::panic_message;

/// A stack to merge. The fleet creates at most one job per stack at a time.
#[derive(Debug)]
pub(super) struct MergeJob {
    /// The stack's identity.
    pub(super) stack: Digest,
    /// Its layers, newest first.
    pub(super) layers: Arc<[LayerId]>,
    /// A node's answers to paths that the layers do not decide, with the permit for their memory.
    pub(super) answers: Option<(Checked, OwnedSemaphorePermit)>,
}

/// Result of a merge that did not store the stack.
#[derive(Debug)]
enum NotMerged {
    /// A node has to check paths first.
    Checking,
    /// The merge failed permanently.
    Failed(Coverage),
    /// The store failed temporarily.
    Store(StoreError),
}

impl From<StoreError> for NotMerged {
    fn from(error: StoreError) -> Self {
        if error.kind.is_transient() { Self::Store(error) } else { Self::Failed(Coverage::failed(error.to_string())) }
    }
}

/// Pause before stacks are merged again whose merge the store refused while it accepts writes.
const RETRY: Duration = Duration::from_secs(5);

/// Interval at which waiting jobs are assigned to nodes again.
const ASSIGN_INTERVAL: Duration = Duration::from_secs(1);

/// The jobs that wait. Nodes take turns, so that one with thousands of images delays another by one merge only.
#[derive(Debug, Default)]
struct Queue {
    /// The jobs of each node that has any, oldest first.
    by_node: HashMap<Arc<str>, VecDeque<MergeJob>>,
    /// The same nodes, in the order of their turns.
    turns: VecDeque<Arc<str>>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds a job for the one of these nodes that has the fewest jobs. If there is no node, the job is dropped.
    fn push(&mut self, job: MergeJob, nodes: &[Arc<str>]) {
        let waiting = |node: &&Arc<str>| self.by_node.get(*node).map_or(0, VecDeque::len);
        let Some(node) = nodes.iter().min_by_key(waiting).cloned() else { return };
        let jobs = self.by_node.entry(Arc::clone(&node)).or_default();
        if jobs.is_empty() {
            self.turns.push_back(node);
        }
        jobs.push_back(job);
    }

    /// Removes the oldest job of the node whose turn it is.
    fn pop(&mut self) -> Option<MergeJob> {
        let node = self.turns.pop_front()?;
        let jobs = self.by_node.get_mut(&node)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.by_node.remove(&node);
        } else {
            self.turns.push_back(node);
        }
        job
    }

    /// Removes all jobs, in the order of their turns.
    fn drain(&mut self) -> impl Iterator<Item = MergeJob> {
        std::iter::from_fn(|| self.pop())
    }
}

impl Aggregator {
    /// Queues a merge.
    pub(super) fn merge(&self, job: MergeJob) {
        // Sending fails only while the process shuts down.
        let _ = self.merges.send(job);
    }

    /// Merges queued stacks, a few at a time, until all senders are dropped.
    pub(super) async fn merge_stacks(self: Arc<Self>, mut jobs: mpsc::UnboundedReceiver<MergeJob>) {
        let mut running: JoinSet<Result<u64, NotMerged>> = JoinSet::new();
        let mut stacks: HashMap<Id, Digest> = HashMap::new();
        let mut retry_at: Option<Instant> = None;
        let mut queue = Queue::default();
        let mut assigned_at = Instant::now();
        let spawn = |running: &mut JoinSet<Result<u64, NotMerged>>, job: MergeJob| {
            let (aggregator, stack) = (Arc::clone(&self), job.stack);
            let span = info_span!("merge", %stack, layers = job.layers.len());
            (running.spawn(async move { aggregator.merge_now(job).await }.instrument(span)).id(), stack)
        };
        loop {
            let mut new: Vec<MergeJob> = std::iter::from_fn(|| jobs.try_recv().ok()).collect();
            if assigned_at.elapsed() >= ASSIGN_INTERVAL {
                // Nodes have got and lost stacks meanwhile.
                new = queue.drain().chain(new).collect();
                assigned_at = Instant::now();
            }
            self.enqueue(&mut queue, new).await;
            while running.len() < DECODED_AT_ONCE
                && let Some(job) = queue.pop()
            {
                stacks.extend([spawn(&mut running, job)]);
            }
            // One at a time, so that a stack that somebody runs waits for at most one merge.
            if running.is_empty()
                && queue.is_empty()
                && jobs.is_empty()
                && self.store.health().is_accepting()
                && let Some(ready) = self.fleet.call(|fleet| fleet.next_unmerged(now())).await
            {
                stacks.extend([spawn(
                    &mut running,
                    MergeJob { stack: ready.stack, layers: ready.layers, answers: None },
                )]);
            }
            tokio::select! {
                Some(job) = jobs.recv() => self.enqueue(&mut queue, vec![job]).await,
                Some(ended) = running.join_next_with_id() => {
                    let (id, merged) = match ended {
                        Ok(ended) => ended,
                        Err(error) => (error.id(), Err(NotMerged::Failed(Coverage::failed(panic_message(error))))),
                    };
                    let Some(stack) = stacks.remove(&id) else { continue };
                    let failure = match merged {
                        Ok(packages) => {
                            debug!(%stack, packages, "stack merged");
                            None
                        }
                        Err(NotMerged::Checking) => continue,
                        Err(NotMerged::Failed(coverage)) => Some(coverage),
                        Err(NotMerged::Store(error)) => {
                            // The store may have recovered already, and then its recovery does not trigger the retry.
                            retry_at.get_or_insert_with(|| Instant::now() + RETRY);
                            Some(Coverage::failed(error.to_string()))
                        }
                    };
                    if let Some(coverage) = failure {
                        warn!(%stack, reason = coverage.reason, "stack not merged");
                        self.fleet.call(move |fleet| fleet.merged(stack, Err(coverage))).await;
                    }
                    self.merge_ready().await;
                }
                () = at(retry_at), if retry_at.is_some() => {
                    retry_at = None;
                    // Otherwise they are retried when the store accepts writes again.
                    if self.store.health().is_accepting() {
                        self.fleet.call(|fleet| fleet.retry()).await;
                        self.merge_ready().await;
                    }
                }
                else => return,
            }
        }
    }

    /// Adds jobs to the queue. Those whose stack no node has any more are dropped.
    async fn enqueue(&self, queue: &mut Queue, jobs: Vec<MergeJob>) {
        if jobs.is_empty() {
            return;
        }
        let stacks: Vec<Digest> = jobs.iter().map(|job| job.stack).collect();
        let nodes = self.fleet.call(move |fleet| fleet.nodes_to_merge_for(&stacks)).await;
        for (job, nodes) in jobs.into_iter().zip(nodes) {
            queue.push(job, &nodes);
        }
    }

    /// Merges a stack, stores and matches it, and reports it to the fleet. Returns the number of its packages.
    async fn merge_now(&self, job: MergeJob) -> Result<u64, NotMerged> {
        let MergeJob { stack, layers, answers } = job;
        let (answers, _memory) = answers.unzip();
        // Prevents the store from deleting rows that this merge refers to.
        let _numbers = self.numbers.read().await;
        let turn = self.intake.decode_turn().await;
        let inventories = self.store.inventories(&layers).await?;
        let missing = || NotMerged::Failed(Coverage::failed("one of its layers is not in the store"));
        let mut inventories = inventories.ok_or_else(missing)?;
        let doubted = self.picture().doubted(&stack);
        for (row, _) in inventories.iter_mut().zip(layers.iter()).filter(|(_, id)| doubted.contains(*id)) {
            row.marks = false;
        }
        let job = Stack { id: stack, layers: layers.to_vec(), inventories, answers };
        let work = Work::stack(&stack);
        if self.in_flight.is_suspect(&work) {
            let tried = Trial::of_stack(&job).run().await;
            tried.map_err(|reason| NotMerged::Failed(Coverage::failed(format!("{SET_ASIDE}: {reason}"))))?;
            self.in_flight.acquit(&work);
        }
        let mark = self.in_flight.begin(&work);
        let started = Instant::now();
        let merged = in_background(move || merge_stack(job)).await;
        drop(mark);
        self.metrics.merge.observe(started.elapsed().as_secs_f64());
        drop(turn);
        match merged {
            Err(error) => Err(NotMerged::Failed(Coverage::failed(panic_message(error)))),
            Ok(Outcome::Failed(coverage)) => Err(NotMerged::Failed(coverage)),
            Ok(Outcome::Check(check)) => {
                if let Some(node) = self.fleet.call(move |fleet| fleet.start_check(stack, now())).await {
                    self.send(&node, v1::order::Order::Check(check)).await;
                }
                Err(NotMerged::Checking)
            }
            Ok(Outcome::Done(merged)) => {
                let _alone = self.stripe(&stack).lock().await;
                let summary = self.store.put_stack(&merged, now().unix).await?;
                let summary = self.match_merged(summary).await;
                let packages = summary.packages;
                // The stack's lock is still held, so that a later rematch reports its newer counts after these.
                self.fleet.call(move |fleet| fleet.merged(stack, Ok(summary))).await;
                Ok(packages)
            }
        }
    }
}

/// Waits until `instant`, if there is one.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(number: u32) -> MergeJob {
        MergeJob { stack: Digest::of(&number.to_le_bytes()), layers: Arc::default(), answers: None }
    }

    #[test]
    fn nodes_take_turns_and_a_job_of_several_nodes_belongs_to_the_least_busy_one() {
        let [a, b, c] = ["a", "b", "c"].map(Arc::<str>::from);
        let mut queue = Queue::default();
        for number in 0..10_000 {
            queue.push(job(number), std::slice::from_ref(&a));
        }
        queue.push(job(10_000), std::slice::from_ref(&b));
        queue.push(job(10_001), &[a.clone(), b.clone(), c]);
        queue.push(job(10_002), &[a, b]);
        // No node has it.
        queue.push(job(10_003), &[]);
        let order: Vec<Digest> = std::iter::from_fn(|| queue.pop()).map(|job| job.stack).collect();
        let expected = [0, 10_000, 10_001, 1, 10_002, 2, 3].map(|number| job(number).stack);
        assert_eq!((order.len(), &order[..7]), (10_003, &expected[..]));
        assert!(queue.is_empty() && queue.by_node.is_empty());
    }
}
