//! Supervised tasks: no background task ends unnoticed.
//!
//! A task that returns, fails or panics before the process is asked to stop ends the process with the task's name and the reason: a service
//! manager or Kubernetes then starts it again, and the store contains the remaining work. From the moment at which the first task ends,
//! [`Liveness`] reports it, so that readiness is never green while a part is missing.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, error, info_span, warn};

/// Maximum time for tasks to end after the stop token was canceled. Kubernetes waits 30 seconds before it kills the process; load balancers wait less.
const DRAIN: Duration = Duration::from_secs(4);

/// Why the process has to end: a supervised task ended that should run as long as the process.
#[derive(Debug, thiserror::Error)]
#[error("task {task} ended unexpectedly: {reason}")]
pub struct TaskEnded {
    /// The name of the task.
    pub task: &'static str,
    /// The error that it returned, or the panic.
    pub reason: String,
}

/// The state of all supervised tasks. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Liveness(Arc<OnceLock<&'static str>>);

impl Liveness {
    /// Returns the name of the first task that ended unexpectedly.
    pub fn ended(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// The tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    running: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
    /// Tasks that serve the others, and are not waited for.
    background: usize,
    stop: CancellationToken,
    liveness: Liveness,
}

impl Default for Tasks {
    fn default() -> Self {
        Self {
            running: JoinSet::new(),
            names: HashMap::new(),
            background: 0,
            stop: CancellationToken::new(),
            liveness: Liveness::default(),
        }
    }
}

impl Tasks {
    /// Returns the token that is canceled when tasks have to end.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Returns the state of all tasks.
    pub fn liveness(&self) -> Liveness {
        self.liveness.clone()
    }

    /// Starts a task that runs until the [stop token](Self::stop_token) is canceled. It may end earlier only with an error.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let guard = Guard { name, stop: self.stop.clone(), liveness: self.liveness.clone() };
        let supervised = async move {
            let _guard = guard;
            tokio::select! {
                ended = task => ended.map_err(|error| error.to_string()),
                never = injected_panic(name) => match never {},
            }
        };
        let handle = self.running.spawn(supervised.instrument(info_span!("task", name)));
        self.names.insert(handle.id(), name);
    }

    /// Starts a task that never returns by itself: it is dropped when the stop token is canceled.
    pub fn spawn_loop(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            tokio::select! {
                () = task => Err("it returned"),
                () = stop.cancelled() => Ok(()),
            }
        });
    }

    /// Starts a task that returns by itself soon after the stop token was canceled, and not before.
    pub fn spawn_until_stopped(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.spawn(name, async move {
            task.await;
            if stop.is_cancelled() { Ok(()) } else { Err("it returned") }
        });
    }

    /// Starts a task that the other tasks need while they stop: it runs as long as any of them, and never returns by itself.
    pub fn spawn_background(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.background += 1;
        self.spawn(name, async move {
            task.await;
            Err("it returned")
        });
    }

    /// Runs until `stop` resolves, then has all tasks end; those that take longer than four seconds are aborted.
    ///
    /// # Errors
    /// Resolves as soon as a task ends before the stop token was canceled.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), TaskEnded> {
        let first = tokio::select! {
            () = stop => None,
            ended = self.running.join_next_with_id() => ended,
        };
        let outcome = match first {
            Some(ended) => Err(self.describe(ended)),
            None => Ok(()),
        };
        if let Err(TaskEnded { task, reason }) = &outcome {
            error!(task, reason, "task ended unexpectedly");
        }
        self.stop.cancel();
        let drained = async {
            while self.running.len() > self.background
                && let Some(ended) = self.running.join_next_with_id().await
            {
                if let Ok((id, Ok(()))) = &ended {
                    debug!(task = self.names.get(id), "task stopped");
                    continue;
                }
                let TaskEnded { task, reason } = self.describe(ended);
                warn!(task, reason, "task failed while stopping");
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            let late: Vec<&str> = self.names.values().copied().collect();
            warn!(seconds = DRAIN.as_secs(), tasks = ?late, "tasks did not stop in time");
        }
        outcome
    }

    fn describe(&self, ended: Result<(Id, Result<(), String>), JoinError>) -> TaskEnded {
        let (id, reason) = match ended {
            Ok((id, Ok(()))) => (id, "it returned".to_owned()),
            Ok((id, Err(error))) => (id, error),
            Err(error) => (error.id(), panic_message(error)),
        };
        TaskEnded { task: self.names.get(&id).copied().unwrap_or("unknown"), reason }
    }
}

/// Returns the message of a task's panic.
pub fn panic_message(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was aborted".to_owned() };
    // `&**` looks into the box: the box itself is `Any`, too.
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("a value that is no text").to_owned();
    // A payload may panic when it is dropped.
    let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(panic)));
    format!("it panicked: {message}")
}

/// Records that a task ended before the stop token was canceled, also while it unwinds.
struct Guard {
    name: &'static str,
    stop: CancellationToken,
    liveness: Liveness,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            let _ = self.liveness.0.set(self.name);
        }
    }
}

/// Panics in the task that `OUTCROP_PANIC_TASK=NAME:MILLISECONDS` names, after that time, in debug builds only. Tests use it to show what a
/// panic in each task does.
async fn injected_panic(name: &str) -> std::convert::Infallible {
    if cfg!(debug_assertions)
        && let Ok(wanted) = std::env::var("OUTCROP_PANIC_TASK")
        && let Some((task, milliseconds)) = wanted.split_once(':')
        && task == name
        && let Ok(milliseconds) = milliseconds.parse()
    {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        panic!("injected by OUTCROP_PANIC_TASK");
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::pin::Pin;

    use super::*;

    async fn forever() -> Result<(), String> {
        pending().await
    }

    #[tokio::test]
    async fn a_task_that_panics_fails_or_returns_ends_all_with_its_name_and_reason() {
        type Ending = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
        async fn panics() -> Result<(), String> {
            panic!("at {}", 7)
        }
        let cases: [(&str, Ending, &str); 3] = [
            ("panics", Box::pin(panics()), "it panicked: at 7"),
            ("fails", Box::pin(ready(Err("no room".to_owned()))), "no room"),
            ("returns", Box::pin(ready(Ok(()))), "it returned"),
        ];
        for (name, task, reason) in cases {
            let mut tasks = Tasks::default();
            let liveness = tasks.liveness();
            let stop = tasks.stop_token();
            tasks.spawn_loop("another", pending());
            tasks.spawn(name, task);
            let ended = tasks.run(pending()).await.unwrap_err();
            assert_eq!((ended.task, ended.reason.as_str()), (name, reason));
            assert_eq!(liveness.ended(), Some(name));
            assert!(stop.is_cancelled(), "{name}");
        }
    }

    #[tokio::test]
    async fn tasks_that_stop_when_they_are_asked_to_are_no_failure() {
        let mut tasks = Tasks::default();
        let (liveness, stop) = (tasks.liveness(), tasks.stop_token());
        tasks.spawn_loop("loops", pending());
        tasks.spawn("drains", async move {
            stop.cancelled().await;
            Ok::<_, String>(())
        });
        tasks.run(ready(())).await.unwrap();
        assert_eq!(liveness.ended(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_stop_holds_nobody_up_for_longer_than_the_drain() {
        let mut tasks = Tasks::default();
        tasks.spawn("deaf", forever());
        let started = tokio::time::Instant::now();
        tasks.run(ready(())).await.unwrap();
        assert_eq!(started.elapsed(), DRAIN);
    }
}
