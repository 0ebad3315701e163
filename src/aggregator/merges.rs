//! The merging service: stacks whose layers are known become packages in the store.
//!
//! A merge is a job of its own. One that panics, since an inventory is hostile in a way that nobody foresaw, fails its stack and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use outcrop_proto::wire::v1;
use outcrop_proto::{Coverage, Digest, LayerId};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{Id, JoinSet};
use tracing::{Instrument as _, debug, info_span, warn};

use super::memory::in_background;
use super::merging::{Outcome, Stack, merge_stack};
use super::{Aggregator, DECODED_AT_ONCE, now};
use crate::store::{StoreError, Summary};
use crate::supervise::panic_message;

/// A stack to merge. There is at most one for each stack at a time: the fleet says which are ready.
#[derive(Debug)]
pub(super) struct MergeJob {
    /// The stack's identity.
    pub(super) stack: Digest,
    /// Its layers, newest first.
    pub(super) layers: Arc<[LayerId]>,
    /// What a node answered to what the layers leave open, with the memory that the answers take.
    pub(super) answers: Option<(v1::Answers, OwnedSemaphorePermit)>,
}

/// What came of a merge; `None` where a node was asked first.
type Merged = Option<Result<Summary, Coverage>>;

impl Aggregator {
    /// Has a stack merged.
    pub(super) fn merge(&self, job: MergeJob) {
        // Where nobody receives it, the process is about to end.
        let _ = self.merges.send(job);
    }

    /// Merges stacks, a few at a time, until there is no more sender.
    pub(super) async fn merge_stacks(self: Arc<Self>, mut jobs: mpsc::UnboundedReceiver<MergeJob>) {
        let mut running: JoinSet<Merged> = JoinSet::new();
        let mut stacks: HashMap<Id, Digest> = HashMap::new();
        loop {
            tokio::select! {
                Some(job) = jobs.recv(), if running.len() < DECODED_AT_ONCE => {
                    let (aggregator, stack) = (Arc::clone(&self), job.stack);
                    let span = info_span!("merge", %stack, layers = job.layers.len());
                    let handle = running.spawn(async move { aggregator.merge_now(job).await }.instrument(span));
                    stacks.insert(handle.id(), stack);
                }
                Some(ended) = running.join_next_with_id() => {
                    let (id, merged) = match ended {
                        Ok(ended) => ended,
                        Err(error) => (error.id(), Some(Err(Coverage::failed(panic_message(error))))),
                    };
                    let (Some(stack), Some(outcome)) = (stacks.remove(&id), merged) else { continue };
                    match &outcome {
                        Ok(summary) => debug!(%stack, packages = summary.packages, "stack merged"),
                        Err(coverage) => warn!(%stack, reason = coverage.reason, "stack not merged"),
                    }
                    self.fleet.call(move |fleet| fleet.merged(stack, outcome)).await;
                    self.merge_ready().await;
                }
                else => return,
            }
        }
    }

    async fn merge_now(&self, job: MergeJob) -> Merged {
        let MergeJob { stack, layers, answers } = job;
        let (answers, _memory) = answers.unzip();
        // The store must not give up rows that a merge is about to name.
        let _numbers = self.numbers.read().await;
        let failed = |error: StoreError| Some(Err(Coverage::failed(error.to_string())));
        let inventories = match self.store.inventories(&layers).await {
            Ok(Some(inventories)) => inventories,
            Ok(None) => return Some(Err(Coverage::failed("one of its layers is not in the store"))),
            Err(error) => return failed(error),
        };
        let job = Stack { id: stack, layers: layers.to_vec(), inventories, answers };
        match in_background(move || merge_stack(job)).await {
            Err(error) => Some(Err(Coverage::failed(panic_message(error)))),
            Ok(Outcome::Failed(coverage)) => Some(Err(coverage)),
            Ok(Outcome::Ask(check)) => {
                if let Some(node) = self.fleet.call(move |fleet| fleet.ask(stack, now())).await {
                    self.send(&node, v1::order::Order::Check(check)).await;
                }
                None
            }
            Ok(Outcome::Done(merged)) => {
                let _alone = self.stripe(&stack).lock().await;
                match self.store.put_stack(&merged, now().unix).await {
                    Ok(summary) => Some(Ok(self.match_merged(summary).await)),
                    Err(error) => failed(error),
                }
            }
        }
    }
}
