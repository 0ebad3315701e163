//! Limits on data that nodes send: calls of each node, and memory of all nodes together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use outcrop_proto::wire::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tonic::Status;

use super::DECODED_AT_ONCE;
use crate::lock::lock;
use crate::web::listen::Counts;

/// How long a call waits for its turn, or stands still, before it ends.
pub(super) const STALLED: Duration = Duration::from_secs(30);

/// Largest compressed inventory, bytes; a table of a million paths has five MiB.
pub(super) const MAX_COMPRESSED: usize = 32 << 20;

/// Memory of compressed inventories on their way: the size up to which a delivery has room on a tier, bytes, and how many have it at a time.
///
/// A delivery climbs, and keeps what it has while it waits for the next tier. Those on the last tier wait for nothing, so a tier always
/// empties; and however many large deliveries wait, the small ones pass below them.
const TIERS: [(usize, usize); 3] = [(64 << 10, 512), (1 << 20, 32), (MAX_COMPRESSED, 2)];

/// Memory of answers that wait for their merge, bytes.
const MAX_ANSWERS: usize = 32 << 20;

/// Number of small reports that a node may send in a burst.
const BURST: f64 = 500.0;

/// Number of small reports per second that a node may send after a burst. An agent sends a few per second while it reads.
const RATE: f64 = 100.0;

/// Minimum time between two log events about the delay of one node's reports.
const NAMED: Duration = Duration::from_secs(60);

/// A kind of call that each node makes once at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Call {
    /// An attach whose Hello was not accepted yet.
    Attach,
    /// A delivery.
    Deliver,
}

/// What is on its way in.
#[derive(Debug)]
pub(super) struct Intake {
    tiers: [Arc<Semaphore>; TIERS.len()],
    answers: Arc<Semaphore>,
    decoding: Semaphore,
    calls: Mutex<HashMap<(String, Call), Weak<Semaphore>>>,
    /// Budgets by node, but for those that are complete.
    budgets: Mutex<HashMap<String, Budget>>,
    connections: OnceLock<Arc<Counts>>,
}

/// The budget for the reports of one node (a token bucket). It is the same for all streams of the node, however often it attaches.
#[derive(Debug)]
struct Budget {
    /// Number of small reports that are left; negative if the node has to wait.
    left: f64,
    at: Instant,
    /// When a delay of the node was logged last.
    named: Option<Instant>,
}

impl Budget {
    /// Returns the budget that is left now.
    fn left(&self, now: Instant) -> f64 {
        (self.left + now.duration_since(self.at).as_secs_f64() * RATE).min(BURST)
    }
}

/// A node has used up its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delay {
    /// Time until its next report is read.
    pub(super) delay: Duration,
    /// Set if no delay of the node was returned as new for a while.
    pub(super) is_new: bool,
}

/// The room of one delivery.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: usize,
    held: Vec<OwnedSemaphorePermit>,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            tiers: TIERS.map(|(_, slots)| Arc::new(Semaphore::new(slots))),
            answers: Arc::new(Semaphore::new(MAX_ANSWERS)),
            // One more than merges have, so that they never keep deliveries waiting.
            decoding: Semaphore::new(DECODED_AT_ONCE + 1),
            calls: Mutex::default(),
            budgets: Mutex::default(),
            connections: OnceLock::new(),
        }
    }
}

impl Intake {
    /// Records the counts of the connections of agents.
    pub(super) fn set_connections(&self, counts: Arc<Counts>) {
        let _ = self.connections.set(counts);
    }

    /// Returns the counts of the connections of agents; `None` before they are accepted.
    pub(super) fn connections(&self) -> Option<&Counts> {
        self.connections.get().map(|counts| &**counts)
    }

    /// Charges `node` for a report of this cost. Returns how long the node has to wait, if its budget is used up.
    pub(super) fn charge(&self, node: &str, cost: f64) -> Option<Delay> {
        let now = Instant::now();
        let mut budgets = lock(&self.budgets);
        if budgets.len() == budgets.capacity() {
            budgets.retain(|_, budget| budget.left(now) < BURST);
        }
        let budget = budgets.entry(node.to_owned()).or_insert(Budget { left: BURST, at: now, named: None });
        (budget.left, budget.at) = (budget.left(now) - cost, now);
        if budget.left >= 0.0 {
            return None;
        }
        let is_new = budget.named.is_none_or(|at| now.duration_since(at) >= NAMED);
        if is_new {
            budget.named = Some(now);
        }
        Some(Delay { delay: Duration::from_secs_f64(-budget.left / RATE), is_new })
    }

    /// Waits until the budget of `node` is not used up.
    pub(super) async fn afford(&self, node: &str) {
        let left = lock(&self.budgets).get(node).map_or(BURST, |budget| budget.left(Instant::now()));
        if left < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-left / RATE)).await;
        }
    }

    /// Waits until `node` makes no other call of this kind. Nothing is read of a call before its turn.
    pub(super) async fn enter(&self, node: &str, call: Call) -> Result<OwnedSemaphorePermit, Status> {
        let turns = {
            let mut calls = lock(&self.calls);
            if calls.len() == calls.capacity() {
                calls.retain(|_, turns| turns.strong_count() > 0);
            }
            let turns = calls.entry((node.to_owned(), call)).or_default();
            turns.upgrade().unwrap_or_else(|| {
                let new = Arc::new(Semaphore::new(1));
                *turns = Arc::downgrade(&new);
                new
            })
        };
        wait(turns.acquire_owned(), "the node has another call of this kind in progress; retry later").await
    }

    /// Makes room for `more` bytes of a delivery that has `held` so far.
    pub(super) async fn make_room(&self, room: &mut Room, held: usize, more: usize) -> Result<(), Status> {
        while held + more > room.bytes {
            let next = self.tiers.iter().zip(TIERS).nth(room.held.len());
            let Some((tier, (bytes, _))) = next else {
                return Err(Refusal::TooLarge
                    .status(format!("the inventory is larger than the limit of {MAX_COMPRESSED} bytes")));
            };
            let slot =
                wait(Arc::clone(tier).acquire_owned(), "too many inventories are in flight; retry later").await?;
            room.held.push(slot);
            room.bytes = bytes;
        }
        Ok(())
    }

    /// Makes room for answers of `bytes`, all at once.
    pub(super) async fn allow_answers(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        wait(Arc::clone(&self.answers).acquire_many_owned(permits), "too many answers are in flight; retry later").await
    }

    /// Waits for a turn to decode an inventory or to merge a stack: few at a time, since each may take the whole budget of a job.
    pub(super) async fn decode_turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Status> {
        self.decoding.acquire().await.map_err(|_| Status::unavailable("the aggregator is shutting down"))
    }
}

async fn wait<P, E>(turn: impl Future<Output = Result<P, E>>, late: &str) -> Result<P, Status> {
    let turn = tokio::time::timeout(STALLED, turn).await.map_err(|_| Status::unavailable(late))?;
    turn.map_err(|_| Status::unavailable("the aggregator is shutting down"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_large_deliveries_wait_a_small_one_passes() {
        let intake = Arc::new(Intake::default());
        // More of them than there is room for on any tier but the first, each with its largest size.
        let large: Vec<_> = (0..100)
            .map(|_| {
                let intake = Arc::clone(&intake);
                tokio::spawn(async move {
                    let mut room = Room::default();
                    for held in (0..MAX_COMPRESSED).step_by(32 << 10) {
                        intake.make_room(&mut room, held, 32 << 10).await?;
                    }
                    // It has everything that it may have, and stands still.
                    std::future::pending::<()>().await;
                    Ok::<_, Status>(room)
                })
            })
            .collect();
        tokio::task::yield_now().await;
        for _ in 0..400 {
            let started = tokio::time::Instant::now();
            let mut room = Room::default();
            intake.make_room(&mut room, 0, 64 << 10).await.unwrap();
            assert_eq!(started.elapsed(), Duration::ZERO, "a small delivery waited");
        }
        large.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn deliveries_of_the_largest_size_all_end() {
        let intake = Arc::new(Intake::default());
        let all: Vec<_> = (0..12)
            .map(|_| {
                let intake = Arc::clone(&intake);
                tokio::spawn(async move {
                    let mut room = Room::default();
                    for held in (0..MAX_COMPRESSED).step_by(1 << 20) {
                        intake.make_room(&mut room, held, 1 << 20).await?;
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    Ok::<_, Status>(())
                })
            })
            .collect();
        for delivery in all {
            delivery.await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_without_end_is_refused() {
        let intake = Intake::default();
        let mut room = Room::default();
        intake.make_room(&mut room, MAX_COMPRESSED - 1, 1).await.unwrap();
        let refused = intake.make_room(&mut room, MAX_COMPRESSED, 1).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_waits_for_its_own_calls_only() {
        let intake = Intake::default();
        let turn = intake.enter("a", Call::Deliver).await.unwrap();
        assert!(intake.enter("b", Call::Deliver).await.is_ok());
        assert!(intake.enter("a", Call::Attach).await.is_ok());
        assert_eq!(intake.enter("a", Call::Deliver).await.unwrap_err().code(), tonic::Code::Unavailable);
        drop(turn);
        assert!(intake.enter("a", Call::Deliver).await.is_ok());
        for node in 0..1000 {
            drop(intake.enter(&node.to_string(), Call::Deliver).await.unwrap());
        }
        assert!(lock(&intake.calls).len() < 100, "nodes without calls are forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_has_used_up_its_budget_waits_whatever_stream_it_uses_and_no_other_node_does() {
        let intake = Intake::default();
        assert_eq!(intake.charge("a", BURST), None);
        let second = Duration::from_secs(1);
        assert_eq!(intake.charge("a", RATE), Some(Delay { delay: second, is_new: true }));
        assert_eq!(intake.charge("a", RATE), Some(Delay { delay: 2 * second, is_new: false }));
        assert_eq!(intake.charge("b", RATE), None);
        for (node, expected) in [("b", Duration::ZERO), ("a", 2 * second), ("a", Duration::ZERO)] {
            let started = Instant::now();
            intake.afford(node).await;
            // The clock of tests is exact to a millisecond.
            assert!(started.elapsed().abs_diff(expected) <= Duration::from_millis(1), "{node}");
        }
        tokio::time::sleep(NAMED).await;
        assert_eq!(intake.charge("a", BURST + RATE), Some(Delay { delay: second, is_new: true }));
        tokio::time::sleep(NAMED).await;
        for node in 0..1000 {
            intake.charge(&node.to_string(), 0.0);
        }
        assert!(lock(&intake.budgets).len() < 100, "complete budgets use no memory");
    }
}
