//! The node's main loop: it knows the running containers, reports them, and decides which layers are read. It never blocks: other
//! threads read layers and talk to the aggregator.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use outcrop_proto::container::Coverage;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{MAX_MESSAGE, Seen, digest, v1};
use outcrop_proto::{ContainerKey, CoverageState, LayerId};
use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use tokio_util::sync::CancellationToken;

use super::AgentError;
use super::containers::{Changes, Containers};
use super::metrics::Measures;
use super::problems::Problems;
use super::queue::{Purpose, Queue, Wanted};
use super::reading::{Done, Task, Verdict, Went, What, gone};
use super::uplink::{Outbox, Sent, jittered};
use crate::heartbeat;
use crate::logging::safe;
use crate::role::Signals;
use crate::runtime::{Error, Sibling};

/// The first pause before a retry of a runtime that does not answer; it doubles after each failure, up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The pause before a report is retried for which the queue had no room.
const ROOM: Duration = Duration::from_millis(500);

/// The pause before another list, after a container started that no list contained.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// Maximum interval of lists while the runtime does not answer a part of them.
const DEGRADED: Duration = Duration::from_secs(15);

/// Interval of metrics reports.
const METRICS: Duration = Duration::from_secs(30);

/// Maximum number of attempts to read a layer before it is reported as gone.
const MAX_TRIES: u32 = 3;

/// Maximum number of waiting checks of stacks.
const MAX_CHECKS: usize = 1024;

/// Maximum number of missed containers that are kept while no aggregator is attached.
const MAX_MISSED: usize = 1024;

/// Maximum size of a report of containers, bytes; the rest of the message needs some room.
const MAX_REPORT: usize = MAX_MESSAGE - (1 << 20);

/// A message of another thread.
#[derive(Debug)]
pub(super) enum Command {
    /// A stream to the aggregator has begun; all containers are reported there.
    Attached(Outbox),
    /// The stream has ended.
    Detached,
    /// The aggregator sent an order.
    Order(v1::order::Order),
    /// A scan thread has nothing to read.
    Idle,
    /// A scan thread has finished a task.
    Done(Box<Done>),
    /// A thread has ended.
    Ended {
        /// Its name.
        thread: String,
        /// Whether it panicked.
        panicked: bool,
    },
}

/// Sending end of the node's commands.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    sender: mpsc::Sender<Command>,
    /// One byte for each command, since the node polls the runtime's stream at the same time.
    bell: Arc<OwnedFd>,
}

/// Receiving end of the node's commands.
#[derive(Debug)]
pub(super) struct Inbox {
    commands: mpsc::Receiver<Command>,
    bell: OwnedFd,
}

/// Creates a channel of commands.
pub(super) fn commands() -> std::io::Result<(Commands, Inbox)> {
    let (sender, commands) = mpsc::channel();
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Commands { sender, bell: Arc::new(theirs) }, Inbox { commands, bell: ours }))
}

impl Commands {
    /// Sends a command; `false` when the node has ended.
    pub(super) fn send(&self, command: Command) -> bool {
        let sent = self.sender.send(command).is_ok();
        // A full pipe wakes the node as well.
        let _ = rustix::io::write(&*self.bell, &[0]);
        sent
    }
}

/// Why the node's thread ends.
enum End {
    /// The process that holds the runtime's socket is lost.
    Sibling(Error),
    /// A thread ended: its name, and whether it panicked.
    Thread(String, bool),
    /// A signal stopped the agent, and nothing is left to finish.
    Stopped,
}

/// Maximum time after a signal in which deliveries in progress are completed.
pub(super) const DRAIN: Duration = Duration::from_secs(4);

pub(super) struct Node {
    sibling: Sibling,
    containers: Containers,
    interval: Duration,
    sequence: u64,
    /// Queue of reports; `None` while no aggregator is attached.
    outbox: Option<Outbox>,
    /// Whether all containers must be reported, since a report was lost.
    full_report_due: bool,
    /// Missed containers that must still be reported.
    missed: VecDeque<Seen>,
    queue: Queue,
    checks: VecDeque<v1::Check>,
    tasks: mpsc::Sender<Task>,
    idle: usize,
    threads: usize,
    measures: Measures,
    problems: Problems,
    /// Ends the uplink, which first finishes its deliveries.
    stop: CancellationToken,
    /// Until when the agent finishes what it has begun; `None` until a signal stops it.
    draining: Option<Instant>,
    /// The pause before the next retry, while the runtime does not answer.
    retry_pause: Option<Duration>,
    next_list: Instant,
    next_metrics: Instant,
}

impl Node {
    pub(super) fn new(
        sibling: Sibling,
        containers: Containers,
        interval: Duration,
        tasks: mpsc::Sender<Task>,
        threads: usize,
        measures: Measures,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            sibling,
            containers,
            interval,
            sequence: 0,
            outbox: None,
            full_report_due: false,
            missed: VecDeque::new(),
            queue: Queue::default(),
            checks: VecDeque::new(),
            tasks,
            idle: 0,
            threads,
            measures,
            problems: Problems::default(),
            stop,
            draining: None,
            retry_pause: None,
            next_list: now,
            next_metrics: now,
        }
    }

    /// Lists containers after each event and periodically, and executes orders in between.
    ///
    /// # Errors
    /// When the process that holds the runtime's socket is lost, or a thread ends. Returns once a signal has stopped the agent.
    pub(super) fn run(mut self, inbox: &Inbox, signals: &Signals) -> Result<(), AgentError> {
        let signal = signals.defer();
        loop {
            heartbeat::beat();
            match self.step(inbox, signal) {
                Ok(()) => {}
                Err(End::Stopped) => return Ok(()),
                // The other container of the pod received the signal as well.
                Err(End::Sibling(_)) if self.draining.is_some() || readable(signal) => return Ok(()),
                Err(End::Sibling(error)) => return Err(error.into()),
                Err(End::Thread(name, panicked)) => return Err(AgentError::Thread(name, panicked)),
            }
        }
    }

    /// Waits for events, and handles them.
    fn step(&mut self, inbox: &Inbox, signal: &UnixStream) -> Result<(), End> {
        self.wait(inbox, signal);
        if self.draining.is_none() && readable(signal) {
            tracing::info!(reading = self.threads - self.idle, "stop requested");
            self.draining = Some(Instant::now() + DRAIN);
            self.queue.clear();
            self.checks.clear();
        }
        // The channel cannot be disconnected: the bell keeps a sender.
        while let Ok(command) = inbox.commands.try_recv() {
            self.handle(command)?;
        }
        let now = Instant::now();
        if let Some(until) = self.draining {
            if self.idle == self.threads {
                // The uplink finishes its deliveries and then ends, and with it the agent.
                self.stop.cancel();
            }
            return if now < until { Ok(()) } else { Err(End::Stopped) };
        }
        let due = self.next_list <= now;
        // The end of the runtime is a change as well; the runtime is retried when the pause is over.
        let changed = self.sibling.has_changed().map_err(End::Sibling)? && self.retry_pause.is_none();
        if changed || due {
            self.next_list = now + jittered(self.interval);
            let changes = self.list(due)?;
            if changes.as_ref().is_some_and(|changes| !changes.missed.is_empty()) {
                // If one of these runs after all, the next list finds it soon.
                self.next_list = self.next_list.min(now + SECOND_LOOK);
            }
            // A periodic report is sent even if nothing has changed, as a sign of life.
            if let Some(changes) = changes
                && (due || !changes.is_empty())
            {
                let (changed, gone, missed) = (changes.changed.len(), changes.gone.len(), changes.missed.len());
                tracing::debug!(changed, gone, missed, "containers listed");
                self.report_changes(changes);
            }
        }
        self.retry_reports();
        if self.outbox.is_some() && self.next_metrics <= now {
            self.next_metrics = now + METRICS;
            self.report_metrics()?;
        }
        self.assign_tasks();
        Ok(())
    }

    fn wait(&self, inbox: &Inbox, signal: &UnixStream) {
        let mut until = self.next_list.min(Instant::now() + heartbeat::BEAT);
        let mut ready = vec![PollFd::new(&inbox.bell, PollFlags::IN)];
        match self.draining {
            Some(end) => until = end,
            None => ready.extend([PollFd::new(&self.sibling, PollFlags::IN), PollFd::new(signal, PollFlags::IN)]),
        }
        if self.outbox.is_some() && self.draining.is_none() {
            until = until.min(self.next_metrics);
            if self.full_report_due || !self.missed.is_empty() {
                until = until.min(Instant::now() + ROOM);
            }
        }
        if self.sibling.knows_of_change() && self.retry_pause.is_none() && self.draining.is_none() {
            until = Instant::now();
        }
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        // All sources are checked afterwards, also after an interrupted poll.
        let _ = poll(&mut ready, Some(&timeout));
        let _ = rustix::io::read(&inbox.bell, &mut [0; 256]);
    }

    fn handle(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Attached(_) if self.draining.is_some() => {}
            Command::Attached(outbox) => {
                self.detach();
                self.outbox = Some(outbox);
                self.next_metrics = Instant::now();
                if let Some(changes) = self.list(false)? {
                    self.remember_missed(changes.missed);
                }
                self.full_report_due = true;
            }
            Command::Detached => self.detach(),
            Command::Order(order) => self.handle_order(order),
            Command::Idle => self.idle += 1,
            Command::Done(done) => self.conclude(*done)?,
            Command::Ended { .. } if self.stop.is_cancelled() => return Err(End::Stopped),
            Command::Ended { thread, panicked } => return Err(End::Thread(thread, panicked)),
        }
        Ok(())
    }

    /// Drops the orders of an ended stream, since nobody waits for their results.
    fn detach(&mut self) {
        self.outbox = None;
        self.queue.clear();
        self.checks.clear();
    }

    /// Lists containers; `None` when the runtime does not answer: it restarts, and its containers keep running.
    fn list(&mut self, again: bool) -> Result<Option<Changes>, End> {
        match self.containers.update(&mut self.sibling, again) {
            Ok(changes) => {
                self.problems.set_runtime(None);
                self.note_problems();
                if self.retry_pause.take().is_some() {
                    tracing::info!(version = %safe(self.sibling.version()), "runtime connected");
                    // Changes that were found before the failure were not reported.
                    self.full_report_due = true;
                }
                // The aggregator may know containers from before a restart that ended meanwhile.
                self.full_report_due |= changes.is_confirmed_again;
                if self.containers.postponed() > 0 {
                    self.next_list = Instant::now();
                } else if self.problems.has_gaps() {
                    self.next_list = self.next_list.min(Instant::now() + DEGRADED);
                }
                let missed = |seen: &&Seen| seen.refused.as_ref().is_some_and(|c| c.state == CoverageState::Failed);
                self.measures.gone_before_reading += changes.missed.iter().filter(missed).count() as u64;
                Ok(Some(changes))
            }
            Err(error) => self.runtime_failed(error).map(|()| None),
        }
    }

    /// Schedules a retry of a runtime that did not answer.
    ///
    /// # Errors
    /// When the process that holds the socket is lost.
    fn runtime_failed(&mut self, error: Error) -> Result<(), End> {
        if self.sibling.is_lost() {
            return Err(End::Sibling(error));
        }
        if self.retry_pause.is_none() {
            tracing::warn!(reason = %safe(&error.to_string()), "runtime lost");
        }
        self.problems.set_runtime(Some(error.to_string()));
        self.note_problems();
        let pause = self.retry_pause.map_or(PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        self.retry_pause = Some(pause);
        self.next_list = Instant::now() + jittered(pause);
        Ok(())
    }

    /// Reports the problems at once if they have changed.
    fn note_problems(&mut self) {
        if self.problems.update(&self.containers) {
            self.next_metrics = Instant::now();
        }
    }

    // Reports.

    fn report(&mut self, report: Report) -> Sent {
        let sent = self.outbox.as_ref().map_or(Sent::Ended, |outbox| outbox.send(report));
        if sent == Sent::Ended {
            // All containers are reported at the next attach.
            self.outbox = None;
        }
        sent
    }

    fn report_containers(&mut self, full: bool, containers: Vec<v1::Container>, gone: Vec<ContainerKey>) -> bool {
        let gone = gone.iter().map(Into::into).collect();
        let unconfirmed_namespaces = self.containers.unconfirmed().into_iter().collect();
        let mut report = v1::Containers { sequence: self.sequence + 1, full, containers, gone, unconfirmed_namespaces };
        fit(&mut report);
        let sent = self.report(Report::Containers(report)) == Sent::Yes;
        self.sequence += u64::from(sent);
        self.full_report_due |= !sent;
        sent
    }

    fn report_changes(&mut self, changes: Changes) {
        self.remember_missed(changes.missed);
        if self.outbox.is_some() && !self.full_report_due {
            self.report_containers(false, changes.changed.iter().map(Into::into).collect(), changes.gone);
        }
    }

    fn remember_missed(&mut self, missed: Vec<Seen>) {
        let room = MAX_MISSED.saturating_sub(self.missed.len());
        self.missed.extend(missed.into_iter().take(room));
    }

    /// Sends reports that had no room before, or no aggregator.
    fn retry_reports(&mut self) {
        // Before the first list, a report would end all containers that the aggregator knows from before.
        if self.outbox.is_none() || !self.containers.is_listed() {
            return;
        }
        if self.full_report_due {
            let all = self.containers.all().map(Into::into).collect();
            if !self.report_containers(true, all, Vec::new()) {
                return;
            }
            self.full_report_due = false;
        }
        if !self.missed.is_empty() {
            let missed: Vec<Seen> = self.missed.drain(..).collect();
            let keys = missed.iter().map(|seen| seen.key.clone()).collect();
            if self.report_containers(false, missed.iter().map(Into::into).collect(), Vec::new()) {
                // If there is no room for this report, the next report of all containers covers it.
                self.report_containers(false, Vec::new(), keys);
            } else {
                self.missed.extend(missed);
            }
        }
    }

    fn report_metrics(&mut self) -> Result<(), End> {
        let runtime = match self.sibling.usage() {
            Ok(usage) => usage,
            Err(error) => return self.runtime_failed(error),
        };
        let metrics = self.measures.report(runtime, self.queue.len() as u64, self.problems.report());
        self.report(Report::Metrics(metrics));
        Ok(())
    }

    // Orders.

    fn handle_order(&mut self, order: v1::order::Order) {
        if self.draining.is_some() {
            return;
        }
        match order {
            v1::order::Order::Resync(_) => self.full_report_due = true,
            v1::order::Order::Lease(lease) if lease.layers.is_empty() => {}
            v1::order::Order::Lease(lease) => {
                tracing::info!(layers = lease.layers.len(), seconds = lease.seconds, "lease received");
                self.enqueue(&lease.layers, lease.seconds, Purpose::Inventory);
            }
            v1::order::Order::CrossRead(read) => {
                tracing::info!(layers = read.layers.len(), seconds = read.seconds, "verification received");
                let purpose =
                    if read.without_marks { Purpose::VerificationWithoutMarks } else { Purpose::Verification };
                self.enqueue(&read.layers, read.seconds, purpose);
            }
            v1::order::Order::Check(check) if self.checks.len() < MAX_CHECKS => self.checks.push_back(check),
            // A welcome needs no action; further checks are dropped.
            _ => {}
        }
    }

    fn enqueue(&mut self, layers: &[v1::LayerId], seconds: u32, purpose: Purpose) {
        let until = (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds.into()));
        for layer in layers.iter().filter_map(|layer| LayerId::try_from(layer).ok()) {
            let namespaces = self.containers.namespaces(layer);
            self.queue.push(Wanted { layer, purpose, until, tries: 0 }, &namespaces);
        }
    }

    /// Assigns tasks to idle threads.
    fn assign_tasks(&mut self) {
        while self.idle > 0
            && self.retry_pause.is_none()
            && let Some(outbox) = self.outbox.clone()
        {
            let task = match self.checks.pop_front() {
                Some(check) => self.check(check, outbox),
                None => match self.queue.pop(Instant::now()) {
                    Some(wanted) => self.layer(wanted, outbox),
                    None => return,
                },
            };
            let Some(task) = task else { continue };
            if self.tasks.send(task).is_err() {
                return;
            }
            self.idle -= 1;
        }
    }

    fn layer(&mut self, wanted: Wanted, outbox: Outbox) -> Option<Task> {
        let Some((pin, root, marks)) = self.containers.layer(wanted.layer) else {
            // A container that is not listed yet may have it: then the lease expires.
            if self.containers.is_listed() && self.containers.unconfirmed().is_empty() {
                self.measures.gone_before_reading += self.containers.forget_unread(wanted.layer);
                // If there is no room for the report, the lease expires.
                self.report(gone(wanted.layer));
            }
            return None;
        };
        let what = What::Layer { wanted, root: root.to_owned(), marks };
        Some(Task { what, pin: pin.clone(), outbox })
    }

    fn check(&self, check: v1::Check, outbox: Outbox) -> Option<Task> {
        let id = digest(&check.stack, "a stack's identity").ok()?;
        let (pin, stack) = self.containers.stack(id)?;
        Some(Task { pin: pin.clone(), what: What::Check { check, stack }, outbox })
    }

    /// Decides whether a result counts: only if the layers that it was read from still exist.
    fn conclude(&mut self, done: Done) -> Result<(), End> {
        let Done { task, went, obstacle, verdict } = done;
        let stands = match &task.what {
            _ if went == Went::Vanished => Ok(false),
            // A mounted root belongs to its container.
            What::Check { .. } => self.sibling.recheck_pin(&task.pin),
            // A failure counts only while the container exists; otherwise the layer is gone.
            What::Layer { .. } if went == Went::Failed => self.sibling.recheck_pin(&task.pin),
            // A layer may outlive its container.
            What::Layer { .. } => match self.sibling.recheck_pin(&task.pin) {
                Ok(false) => self.sibling.stand(&task.pin),
                same => same,
            },
        };
        let stands = match stands {
            Ok(stands) => stands,
            Err(error) => {
                self.runtime_failed(error)?;
                return self.requeue(&task);
            }
        };
        let wanted = match task.what {
            What::Layer { wanted, .. } => wanted,
            What::Check { .. } => {
                let _ = verdict.send(if stands { Verdict::Counts } else { Verdict::Gone });
                return Ok(());
            }
        };
        if !stands {
            // Another container may have the layer at another path.
            let lost = self.containers.layer(wanted.layer).is_none_or(|(pin, ..)| *pin == task.pin);
            if !lost && wanted.tries < MAX_TRIES {
                return self.requeue(&task);
            }
            self.measures.gone_before_reading += self.containers.forget_unread(wanted.layer);
            let _ = verdict.send(Verdict::Gone);
            return Ok(());
        }
        if went == Went::Read || obstacle.is_some() {
            self.problems.set_reading(obstacle);
            self.note_problems();
        }
        match (went, wanted.purpose) {
            (Went::Failed | Went::Vanished, _) => self.measures.layers_failed += 1,
            (Went::Read, Purpose::Inventory) => self.measures.layers_read += 1,
            (Went::Read, Purpose::Verification | Purpose::VerificationWithoutMarks) => {
                self.measures.layers_read += 1;
                self.measures.layers_verified += 1;
            }
        }
        let _ = verdict.send(Verdict::Counts);
        Ok(())
    }

    /// Puts a layer back into the queue.
    fn requeue(&mut self, task: &Task) -> Result<(), End> {
        if let What::Layer { wanted, .. } = task.what
            && wanted.tries < MAX_TRIES
            && self.outbox.is_some()
        {
            let namespaces = self.containers.namespaces(wanted.layer);
            self.queue.push(Wanted { tries: wanted.tries + 1, ..wanted }, &namespaces);
        }
        Ok(())
    }
}

/// Returns whether a byte can be read without waiting.
fn readable(stream: &UnixStream) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Shrinks a report that is too large: first texts of steps, then steps and details of images, then layers.
fn fit(report: &mut v1::Containers) {
    if report.encoded_len() > MAX_REPORT {
        report.containers.iter_mut().flat_map(|container| &mut container.steps).for_each(|step| step.text.clear());
    }
    if report.encoded_len() > MAX_REPORT {
        for container in &mut report.containers {
            container.steps.clear();
            container.image_details = None;
        }
    }
    if report.encoded_len() > MAX_REPORT {
        let reason = "the node has more containers and layers than one report can contain";
        for container in &mut report.containers {
            container.layers.clear();
            container.stack.clear();
            container.coverage = Some((&Coverage::new(CoverageState::TooLarge, reason)).into());
        }
    }
}
