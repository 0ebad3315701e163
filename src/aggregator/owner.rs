//! A task that owns a state: messages in, snapshots out.
//!
//! Every change of the state is a closure, and the owning task runs them one after the other. No reader sees a partial change, and a panic in a change
//! ends the process through [supervision](crate::supervise). Readers load the latest published snapshot without a lock.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

/// Maximum number of messages that wait for the owner. Further senders wait.
const QUEUE: usize = 1024;

/// Minimum time between two snapshots, so that many small changes do not cost a snapshot each.
const SNAPSHOT_INTERVAL: Duration = Duration::from_millis(20);

/// Minimum time between two snapshots, as a multiple of the time that the last one took: a snapshot of thousands of nodes takes milliseconds.
const SNAPSHOT_SHARE: u32 = 16;

/// Maximum time between a change and its snapshot.
const MAX_SNAPSHOT_INTERVAL: Duration = Duration::from_millis(200);

/// A state that one task owns.
pub(super) trait State: Send + 'static {
    /// The snapshot for readers.
    type Snapshot: Send + Sync + 'static;

    /// Returns a snapshot of the current state.
    fn snapshot(&self) -> Self::Snapshot;
}

/// A change of the state.
struct Change<S> {
    apply: Box<dyn FnOnce(&mut S) + Send>,
    /// Told when a snapshot that holds the change is published, if somebody waits for that.
    published: Option<oneshot::Sender<()>>,
}

/// A handle to a state and its snapshots. Clones refer to the same state.
pub(super) struct Handle<S: State> {
    changes: mpsc::Sender<Change<S>>,
    snapshot: Arc<ArcSwap<S::Snapshot>>,
}

impl<S: State> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { changes: self.changes.clone(), snapshot: Arc::clone(&self.snapshot) }
    }
}

impl<S: State> fmt::Debug for Handle<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handle").field("waiting", &(QUEUE - self.changes.capacity())).finish_non_exhaustive()
    }
}

/// The owner of a state. [`Owner::run`] is its task.
pub(super) struct Owner<S: State> {
    state: S,
    changes: mpsc::Receiver<Change<S>>,
    snapshot: Arc<ArcSwap<S::Snapshot>>,
    /// Those who wait until the changes since the last snapshot are published.
    waiting: Vec<oneshot::Sender<()>>,
}

impl<S: State> Owner<S> {
    /// Returns the owner of `state`, and a handle to it.
    pub(super) fn new(state: S) -> (Self, Handle<S>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let snapshot = Arc::new(ArcSwap::from_pointee(state.snapshot()));
        let handle = Handle { changes: sender, snapshot: Arc::clone(&snapshot) };
        (Self { state, changes: receiver, snapshot, waiting: Vec::new() }, handle)
    }

    /// Applies changes in the order in which they were sent, and publishes a snapshot of each within [`MAX_SNAPSHOT_INTERVAL`], mostly at once.
    /// Returns when there is no handle any more.
    pub(super) async fn run(mut self) {
        while let Some(change) = self.changes.recv().await {
            self.apply(change);
            let started = Instant::now();
            // Changes that wait already become part of the same snapshot.
            while let Ok(change) = self.changes.try_recv() {
                self.apply(change);
                if started.elapsed() >= SNAPSHOT_INTERVAL {
                    break;
                }
            }
            loop {
                let pause = self.publish();
                if !self.apply_for(pause).await {
                    break;
                }
            }
        }
    }

    /// Applies changes for this time. Returns whether there were any.
    async fn apply_for(&mut self, time: Duration) -> bool {
        let pause = tokio::time::sleep(time);
        tokio::pin!(pause);
        let mut is_dirty = false;
        loop {
            tokio::select! {
                () = &mut pause => return is_dirty,
                change = self.changes.recv() => {
                    let Some(change) = change else { return is_dirty };
                    self.apply(change);
                    is_dirty = true;
                }
            }
        }
    }

    fn apply(&mut self, change: Change<S>) {
        (change.apply)(&mut self.state);
        self.waiting.extend(change.published);
    }

    /// Publishes a snapshot. Returns the time until the next one.
    fn publish(&mut self) -> Duration {
        let started = Instant::now();
        // The previous snapshot is usually dropped here, which takes as long as making one.
        self.snapshot.store(Arc::new(self.state.snapshot()));
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(());
        }
        (started.elapsed() * SNAPSHOT_SHARE).clamp(SNAPSHOT_INTERVAL, MAX_SNAPSHOT_INTERVAL)
    }
}

impl<S: State> Handle<S> {
    /// Sends `change` to the owner, and returns its result. If the owner has ended, the process is about to end, and this call never returns.
    pub(super) async fn call<R: Send + 'static>(&self, change: impl FnOnce(&mut S) -> R + Send + 'static) -> R {
        self.send(change, None).await
    }

    /// Has the owner run `change`, and returns what it returns when a snapshot that holds the change is published, which is at most
    /// [`MAX_SNAPSHOT_INTERVAL`] later: for who reports something that others then look up in the snapshot.
    pub(super) async fn publish<R: Send + 'static>(&self, change: impl FnOnce(&mut S) -> R + Send + 'static) -> R {
        let (publish, published) = oneshot::channel();
        let answer = self.send(change, Some(publish)).await;
        match published.await {
            Ok(()) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    async fn send<R: Send + 'static>(
        &self,
        change: impl FnOnce(&mut S) -> R + Send + 'static,
        published: Option<oneshot::Sender<()>>,
    ) -> R {
        let (answer, answered) = oneshot::channel();
        let apply = Box::new(move |state: &mut S| {
            let _ = answer.send(change(state));
        });
        if self.changes.send(Change { apply, published }).await.is_ok()
            && let Ok(answer) = answered.await
        {
            return answer;
        }
        std::future::pending().await
    }

    /// Returns the latest snapshot.
    pub(super) fn snapshot(&self) -> Arc<S::Snapshot> {
        self.snapshot.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Log(Vec<u32>);

    impl State for Log {
        type Snapshot = Vec<u32>;

        fn snapshot(&self) -> Vec<u32> {
            self.0.clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_applied_in_order_and_published_soon() {
        let (owner, handle) = Owner::new(Log::default());
        let task = tokio::spawn(owner.run());
        for number in 0..100 {
            assert_eq!(
                handle
                    .call(move |log| {
                        log.0.push(number);
                        log.0.len()
                    })
                    .await,
                number as usize + 1
            );
        }
        tokio::time::sleep(2 * SNAPSHOT_INTERVAL).await;
        assert_eq!(*handle.snapshot(), (0..100).collect::<Vec<_>>());
        drop(handle);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_published_change_is_in_the_snapshot_also_where_others_follow_at_once() {
        let (owner, handle) = Owner::new(Log::default());
        tokio::spawn(owner.run());
        for number in 0..50 {
            // With others before and behind it, within the interval and after it.
            let [before, behind] = [handle.clone(), handle.clone()];
            let others = tokio::spawn(async move {
                before.call(|log| log.0.push(1_000)).await;
                behind.call(|log| log.0.push(1_000)).await;
            });
            let length = handle
                .publish(move |log| {
                    log.0.push(number);
                    log.0.len()
                })
                .await;
            assert_eq!(handle.snapshot().get(length - 1), Some(&number));
            others.await.unwrap();
        }
        assert!(
            tokio::time::timeout(Duration::from_secs(60), handle.publish(|_| ())).await.is_ok(),
            "without a change"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_stays_as_it_was_taken() {
        let (owner, handle) = Owner::new(Log::default());
        tokio::spawn(owner.run());
        let before = handle.snapshot();
        handle.call(|log| log.0.push(1)).await;
        tokio::time::sleep(2 * SNAPSHOT_INTERVAL).await;
        assert_eq!((before.len(), handle.snapshot().len()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_an_owner_that_ended_waits_for_the_end_of_the_process() {
        let (owner, handle) = Owner::new(Log::default());
        drop(owner);
        assert!(tokio::time::timeout(Duration::from_secs(60), handle.call(|log| log.0.len())).await.is_err());
        assert!(tokio::time::timeout(Duration::from_secs(60), handle.publish(|log| log.0.len())).await.is_err());
    }
}
