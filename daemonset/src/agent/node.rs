//! This node: the one thread that knows what runs, whom to tell, and what is to be read. It waits for nobody: threads of their
//! own read and speak to the aggregator.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use outcrop_proto::container::Coverage;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{MAX_MESSAGE, Seen, digest, v1};
use outcrop_proto::{ContainerKey, CoverageState, LayerId};
use prost::Message as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;

use super::containers::{Changes, Containers};
use super::metrics::Measures;
use super::queue::{Purpose, Queue, Wanted};
use super::reading::{Done, Task, Verdict, Went, What, gone};
use super::say;
use super::uplink::{Outbox, Sent, jittered};
use crate::heartbeat;
use crate::runtime::{Error, Sibling};

/// The first pause before containerd is asked again that did not answer; twice as long after each failure, up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The pause before something is told again that there was no room for.
const ROOM: Duration = Duration::from_millis(500);

/// The pause before a second look for containers that were told to have started and that were not there.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// How often the agent tells how it is.
const METRICS: Duration = Duration::from_secs(30);

/// How often a layer is begun to be read before it is said to be gone.
const MAX_TRIES: u32 = 3;

/// Most questions about stacks that wait.
const MAX_CHECKS: usize = 1024;

/// Most containers that are remembered to have been missed while nobody listened.
const MAX_MISSED: usize = 1024;

/// Room that a report of all containers leaves for what is around it.
const MAX_REPORT: usize = MAX_MESSAGE - (1 << 20);

/// Something that another thread tells.
#[derive(Debug)]
pub(super) enum Command {
    /// The aggregator listens: everything is told anew, there.
    Attached(Outbox),
    /// It listens no more.
    Detached,
    /// It ordered something.
    Order(v1::order::Order),
    /// A thread has nothing to read.
    Idle,
    /// A thread has read something.
    Done(Box<Done>),
    /// The thread that speaks to the aggregator has ended.
    Ended,
}

/// The other threads' end of what they tell the node.
#[derive(Clone, Debug)]
pub(super) struct Commands {
    sender: mpsc::Sender<Command>,
    /// A byte for each command, since the node waits for containerd at the same time.
    bell: Arc<OwnedFd>,
}

/// The node's end of it.
#[derive(Debug)]
pub(super) struct Inbox {
    commands: mpsc::Receiver<Command>,
    bell: OwnedFd,
}

/// Both ends of a channel of commands.
pub(super) fn commands() -> std::io::Result<(Commands, Inbox)> {
    let (sender, commands) = mpsc::channel();
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Commands { sender, bell: Arc::new(theirs) }, Inbox { commands, bell: ours }))
}

impl Commands {
    /// Tells the node something; `false` when it has ended.
    pub(super) fn send(&self, command: Command) -> bool {
        let sent = self.sender.send(command).is_ok();
        // A pipe that is full rings all the same.
        let _ = rustix::io::write(&*self.bell, &[0]);
        sent
    }
}

/// Why the node's thread ends.
enum End {
    /// The process that holds containerd's socket is lost.
    Sibling(Error),
    /// The way to the aggregator has ended for good.
    Uplink,
}

pub(super) struct Node {
    sibling: Sibling,
    containers: Containers,
    interval: Duration,
    sequence: u64,
    /// Where reports go; `None` while no aggregator listens.
    outbox: Option<Outbox>,
    /// There was no room for a report: all has to be told anew.
    untold: bool,
    /// Containers that are still to be told of, in vain to be looked for.
    missed: VecDeque<Seen>,
    queue: Queue,
    checks: VecDeque<v1::Check>,
    tasks: mpsc::Sender<Task>,
    idle: usize,
    measures: Measures,
    /// The pause before containerd is asked again, while it does not answer.
    away: Option<Duration>,
    next_list: Instant,
    next_metrics: Instant,
}

impl Node {
    pub(super) fn new(
        sibling: Sibling,
        containers: Containers,
        interval: Duration,
        tasks: mpsc::Sender<Task>,
        measures: Measures,
    ) -> Self {
        let now = Instant::now();
        Self {
            sibling,
            containers,
            interval,
            sequence: 0,
            outbox: None,
            untold: false,
            missed: VecDeque::new(),
            queue: Queue::default(),
            checks: VecDeque::new(),
            tasks,
            idle: 0,
            measures,
            away: None,
            next_list: now,
            next_metrics: now,
        }
    }

    /// Lists what runs whenever something starts or ends, and now and then; does what is ordered between.
    ///
    /// # Errors
    /// When the process that holds containerd's socket is lost. Returns when the way to the aggregator has ended for good.
    pub(super) fn run(mut self, inbox: &Inbox) -> Result<(), Error> {
        loop {
            heartbeat::beat();
            match self.turn(inbox) {
                Ok(()) => {}
                Err(End::Sibling(error)) => return Err(error),
                Err(End::Uplink) => return Ok(()),
            }
        }
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self, inbox: &Inbox) -> Result<(), End> {
        self.wait(inbox);
        loop {
            match inbox.commands.try_recv() {
                Ok(command) => self.take(command)?,
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return Err(End::Uplink),
            }
        }
        let now = Instant::now();
        let due = self.next_list <= now;
        // Where containerd is away, its end is the change: it is asked again when the pause is over.
        let changed = self.sibling.has_changed().map_err(End::Sibling)? && self.away.is_none();
        if changed || due {
            self.next_list = now + jittered(self.interval);
            let changes = self.list(due)?;
            if changes.as_ref().is_some_and(|changes| !changes.missed.is_empty()) {
                // Should one of these be running after all, it is found soon.
                self.next_list = self.next_list.min(now + SECOND_LOOK);
            }
            // That nothing has changed is worth saying now and then: else silence would mean it.
            if let Some(changes) = changes
                && (due || !changes.is_empty())
            {
                self.tell(changes);
            }
        }
        self.tell_again();
        if self.outbox.is_some() && self.next_metrics <= now {
            self.next_metrics = now + METRICS;
            self.tell_metrics()?;
        }
        self.hand_out();
        Ok(())
    }

    fn wait(&self, inbox: &Inbox) {
        let mut until = self.next_list.min(Instant::now() + heartbeat::BEAT);
        if self.outbox.is_some() {
            until = until.min(self.next_metrics);
            if self.untold || !self.missed.is_empty() {
                until = until.min(Instant::now() + ROOM);
            }
        }
        if self.sibling.knows_of_change() && self.away.is_none() {
            until = Instant::now();
        }
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let mut ready = [PollFd::new(&self.sibling, PollFlags::IN), PollFd::new(&inbox.bell, PollFlags::IN)];
        // Interrupted or not, all of it is looked at.
        let _ = poll(&mut ready, Some(&timeout));
        let _ = rustix::io::read(&inbox.bell, &mut [0; 256]);
    }

    fn take(&mut self, command: Command) -> Result<(), End> {
        match command {
            Command::Attached(outbox) => {
                self.detach();
                self.outbox = Some(outbox);
                self.next_metrics = Instant::now();
                if let Some(changes) = self.list(false)? {
                    self.remember_missed(changes.missed);
                }
                self.untold = true;
            }
            Command::Detached => self.detach(),
            Command::Order(order) => self.obey(order),
            Command::Idle => self.idle += 1,
            Command::Done(done) => self.judge(*done)?,
            Command::Ended => return Err(End::Uplink),
        }
        Ok(())
    }

    /// What a lost stream asked for, nobody waits for any more.
    fn detach(&mut self) {
        self.outbox = None;
        self.queue.clear();
        self.checks.clear();
    }

    /// Asks containerd what runs; `None` when it does not answer: it restarts, and its containers live on.
    fn list(&mut self, again: bool) -> Result<Option<Changes>, End> {
        match self.containers.update(&mut self.sibling, again) {
            Ok(changes) => {
                if self.away.take().is_some() {
                    say("containerd answers again");
                    // What was learned before it went away was not told.
                    self.untold = true;
                }
                let missed = |seen: &&Seen| seen.refused.as_ref().is_some_and(|c| c.state == CoverageState::Failed);
                self.measures.gone_before_reading += changes.missed.iter().filter(missed).count() as u64;
                Ok(Some(changes))
            }
            Err(error) => self.is_away(error).map(|()| None),
        }
    }

    /// containerd did not answer: it is asked again after a pause. Without the process that asks it, nothing is.
    fn is_away(&mut self, error: Error) -> Result<(), End> {
        if self.sibling.is_lost() {
            return Err(End::Sibling(error));
        }
        if self.away.is_none() {
            say(&error.to_string());
        }
        let pause = self.away.map_or(PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE));
        self.away = Some(pause);
        self.next_list = Instant::now() + jittered(pause);
        Ok(())
    }

    // What is told.

    fn report(&mut self, report: Report) -> Sent {
        let sent = self.outbox.as_ref().map_or(Sent::Ended, |outbox| outbox.send(report));
        if sent == Sent::Ended {
            // Everything is told again at the next attach.
            self.outbox = None;
        }
        sent
    }

    fn tell_containers(&mut self, full: bool, containers: Vec<v1::Container>, gone: Vec<ContainerKey>) -> bool {
        let gone = gone.iter().map(Into::into).collect();
        let mut report = v1::Containers { sequence: self.sequence + 1, full, containers, gone };
        fit(&mut report);
        let sent = self.report(Report::Containers(report)) == Sent::Yes;
        self.sequence += u64::from(sent);
        self.untold |= !sent;
        sent
    }

    fn tell(&mut self, changes: Changes) {
        self.remember_missed(changes.missed);
        if self.outbox.is_some() && !self.untold {
            self.tell_containers(false, changes.changed.iter().map(Into::into).collect(), changes.gone);
        }
    }

    fn remember_missed(&mut self, missed: Vec<Seen>) {
        let room = MAX_MISSED.saturating_sub(self.missed.len());
        self.missed.extend(missed.into_iter().take(room));
    }

    /// Tells what there was no room for, or nobody who listened.
    fn tell_again(&mut self) {
        if self.outbox.is_none() {
            return;
        }
        if self.untold {
            let all = self.containers.all().map(Into::into).collect();
            if !self.tell_containers(true, all, Vec::new()) {
                return;
            }
            self.untold = false;
        }
        if !self.missed.is_empty() {
            let missed: Vec<Seen> = self.missed.drain(..).collect();
            let keys = missed.iter().map(|seen| seen.key.clone()).collect();
            if self.tell_containers(false, missed.iter().map(Into::into).collect(), Vec::new()) {
                // Were there no room for this one, the report with all would say it.
                self.tell_containers(false, Vec::new(), keys);
            } else {
                self.missed.extend(missed);
            }
        }
    }

    fn tell_metrics(&mut self) -> Result<(), End> {
        let runtime = match self.sibling.usage() {
            Ok(usage) => usage,
            Err(error) => return self.is_away(error),
        };
        let metrics = self.measures.report(runtime, self.queue.len() as u64);
        self.report(Report::Metrics(metrics));
        Ok(())
    }

    // What is ordered.

    fn obey(&mut self, order: v1::order::Order) {
        match order {
            v1::order::Order::Resync(_) => self.untold = true,
            v1::order::Order::Lease(lease) => self.want(&lease.layers, lease.seconds, Purpose::Inventory),
            v1::order::Order::CrossRead(read) => self.want(&read.layers, read.seconds, Purpose::Verification),
            v1::order::Order::Check(check) if self.checks.len() < MAX_CHECKS => self.checks.push_back(check),
            // What needs no answer, and what is beyond what may wait.
            _ => {}
        }
    }

    fn want(&mut self, layers: &[v1::LayerId], seconds: u32, purpose: Purpose) {
        let until = (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds.into()));
        for layer in layers.iter().filter_map(|layer| LayerId::try_from(layer).ok()) {
            let namespaces = self.containers.namespaces(layer);
            self.queue.push(Wanted { layer, purpose, until, tries: 0 }, &namespaces);
        }
    }

    /// Gives threads that are idle something to read.
    fn hand_out(&mut self) {
        while self.idle > 0
            && self.away.is_none()
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
            self.measures.gone_before_reading += self.containers.forget_unread(wanted.layer);
            // Where there is no room for it, the lease ends by itself.
            self.report(gone(wanted.layer));
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

    /// Says whether what was read counts: only if it was read from what still stands.
    fn judge(&mut self, done: Done) -> Result<(), End> {
        let Done { task, went, verdict } = done;
        let stands = match &task.what {
            _ if went == Went::Vanished => Ok(false),
            // A mounted root is a container's own.
            What::Check { .. } => self.sibling.recheck_pin(&task.pin),
            // What cannot be opened below a container that is there is a failure; else it is only gone.
            What::Layer { .. } if went == Went::Failed => self.sibling.recheck_pin(&task.pin),
            // A layer outlives its container.
            What::Layer { .. } => match self.sibling.recheck_pin(&task.pin) {
                Ok(false) => self.sibling.stand(&task.pin),
                same => same,
            },
        };
        let stands = match stands {
            Ok(stands) => stands,
            Err(error) => {
                self.is_away(error)?;
                return self.read_again(&task);
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
            // Another container may have it elsewhere.
            let lost = self.containers.layer(wanted.layer).is_none_or(|(pin, ..)| *pin == task.pin);
            if !lost && wanted.tries < MAX_TRIES {
                return self.read_again(&task);
            }
            self.measures.gone_before_reading += self.containers.forget_unread(wanted.layer);
            let _ = verdict.send(Verdict::Gone);
            return Ok(());
        }
        match (went, wanted.purpose) {
            (Went::Failed | Went::Vanished, _) => self.measures.layers_failed += 1,
            (Went::Read, Purpose::Inventory) => self.measures.layers_read += 1,
            (Went::Read, Purpose::Verification) => {
                self.measures.layers_read += 1;
                self.measures.layers_verified += 1;
            }
        }
        let _ = verdict.send(Verdict::Counts);
        Ok(())
    }

    /// Puts a layer back that was read in vain.
    fn read_again(&mut self, task: &Task) -> Result<(), End> {
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

/// Leaves out of a report that would be too large what explains it.
fn fit(report: &mut v1::Containers) {
    if report.encoded_len() > MAX_REPORT {
        report.containers.iter_mut().flat_map(|container| &mut container.steps).for_each(|step| step.text.clear());
    }
    if report.encoded_len() > MAX_REPORT {
        report.containers.iter_mut().for_each(|container| container.steps.clear());
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
