//! This node: what runs on it, and the reading of what is asked for. One thread, one thing at a time.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use outcrop_proto::LayerId;
use outcrop_proto::container::{Container, Coverage, CoverageState};
use outcrop_proto::inventory::compress;
use outcrop_proto::wire::{PIECE, Seen, digest, v1};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use tokio::sync::mpsc::Sender;

use super::{Config, say};
use crate::role;
use crate::runtime::{Error, Sibling};
use crate::scan::{Place, Places, StackPlace, StackReader};
use crate::worker::{Program, Started};

/// The pause before containerd is looked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// Something that the uplink tells.
#[derive(Debug)]
pub(super) enum Command {
    /// The aggregator listens: everything is told anew, there.
    Attached(Sender<v1::Report>, Sender<Vec<v1::Piece>>),
    /// It ordered something.
    Order(v1::order::Order),
}

/// The uplink's end of what it tells the node.
#[derive(Debug)]
pub(super) struct Commands {
    sender: mpsc::Sender<Command>,
    /// A byte for each command, since the node waits for containerd at the same time.
    bell: OwnedFd,
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
    Ok((Commands { sender, bell: theirs }, Inbox { commands, bell: ours }))
}

impl Commands {
    /// Tells the node something; `false` when it has ended.
    pub(super) fn send(&self, command: Command) -> bool {
        let sent = self.sender.send(command).is_ok();
        // A pipe that is full rings all the same.
        let _ = rustix::io::write(&self.bell, &[0]);
        sent
    }
}

type Key = (String, String);

/// Starts the process that holds containerd's socket.
fn sibling(socket: Option<&Path>) -> Result<Sibling, Error> {
    let mut sibling = Sibling::spawn(role::runtime_command(&Program::this(), socket))?;
    // Before anything is listed, so that nothing falls between.
    sibling.watch()?;
    Ok(sibling)
}

/// A container, and where it can be read.
#[derive(Debug)]
struct Known {
    container: Container,
    seen: Seen,
    stack: Option<StackPlace>,
}

pub(super) struct Node {
    cluster: String,
    host: PathBuf,
    socket: Option<PathBuf>,
    sibling: Sibling,
    places: Places,
    reader: StackReader,
    containers: BTreeMap<Key, Known>,
    sequence: u64,
    /// Where reports go; `None` while no aggregator listens.
    reports: Option<Sender<v1::Report>>,
    deliveries: Option<Sender<Vec<v1::Piece>>>,
}

impl Node {
    pub(super) fn start(config: &Config) -> Result<Self, Error> {
        let program = Program::this();
        Ok(Self {
            cluster: config.cluster.clone(),
            host: config.host.clone(),
            socket: config.containerd.clone(),
            sibling: sibling(config.containerd.as_deref())?,
            places: Places::new(program.clone()),
            reader: StackReader::new(program),
            containers: BTreeMap::new(),
            sequence: 0,
            reports: None,
            deliveries: None,
        })
    }

    /// Lists what runs whenever something starts or ends, and every `interval`; does what is ordered between.
    pub(super) fn run(mut self, inbox: &Inbox, interval: Duration) {
        let mut next = Instant::now();
        loop {
            if let Err(error) = self.turn(inbox, &mut next, interval) {
                // containerd restarts, and its containers live on: what was known stands until it says otherwise.
                say(&error.to_string());
                next = Instant::now();
                match sibling(self.socket.as_deref()) {
                    Ok(sibling) => self.sibling = sibling,
                    Err(error) => {
                        say(&error.to_string());
                        std::thread::sleep(PAUSE);
                    }
                }
            }
        }
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self, inbox: &Inbox, next: &mut Instant, interval: Duration) -> Result<(), Error> {
        let left = next.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        let mut ready = [PollFd::new(&self.sibling, PollFlags::IN), PollFd::new(&inbox.bell, PollFlags::IN)];
        // Interrupted or not, all of it is looked at.
        let _ = poll(&mut ready, Some(&timeout));
        let _ = rustix::io::read(&inbox.bell, &mut [0; 64]);
        while let Ok(command) = inbox.commands.try_recv() {
            match command {
                Command::Attached(reports, deliveries) => {
                    self.reports = Some(reports);
                    self.deliveries = Some(deliveries);
                    let listed = self.list();
                    self.tell_all();
                    listed?;
                }
                Command::Order(order) => self.obey(order)?,
            }
        }
        let due = *next <= Instant::now();
        if self.sibling.has_changed()? || due {
            *next = Instant::now() + interval;
            let (changed, gone) = self.list()?;
            // That nothing has changed is worth saying now and then: else silence would mean it.
            if due || !changed.is_empty() || !gone.is_empty() {
                self.tell(false, changed, gone);
            }
        }
        Ok(())
    }

    fn send(&mut self, report: v1::report::Report) {
        let report = v1::Report { cluster: self.cluster.clone(), report: Some(report) };
        // Where nobody listens any more, everything is told again at the next attach.
        if self.reports.as_ref().is_some_and(|reports| reports.blocking_send(report).is_err()) {
            self.reports = None;
        }
    }

    fn tell(&mut self, full: bool, containers: Vec<v1::Container>, gone: Vec<v1::ContainerKey>) {
        self.sequence += 1;
        let report = v1::Containers { sequence: self.sequence, full, containers, gone };
        self.send(v1::report::Report::Containers(report));
    }

    fn tell_all(&mut self) {
        let all = self.containers.values().map(|known| (&known.seen).into()).collect();
        self.tell(true, all, Vec::new());
    }

    /// Asks containerd what runs. Returns what is new or different since the last time, and what is gone.
    fn list(&mut self) -> Result<(Vec<v1::Container>, Vec<v1::ContainerKey>), Error> {
        let listed = self.sibling.list(&[])?;
        let mut containers = BTreeMap::new();
        let mut changed = Vec::new();
        for container in listed.into_iter().filter(|container| !container.sandbox) {
            let key = (container.containerd_namespace.clone(), container.id.clone());
            // A container never changes its snapshots: what is known of it stands.
            let known = self.containers.remove(&key).filter(|known| known.container == container);
            let known = known.unwrap_or_else(|| {
                let known = self.known(container);
                changed.push((&known.seen).into());
                known
            });
            containers.insert(key, known);
        }
        let gone = std::mem::replace(&mut self.containers, containers);
        let gone = gone.into_keys().filter(|key| !self.containers.contains_key(key));
        let gone = gone.map(|(containerd_namespace, id)| v1::ContainerKey { containerd_namespace, id }).collect();
        Ok((changed, gone))
    }

    fn known(&mut self, container: Container) -> Known {
        let (stack, identity, refused) = match self.places.find(&container, &self.host) {
            Place::Not(coverage) => (None, None, Some(coverage)),
            Place::Merged { .. } => {
                let reason = "its snapshotter keeps one merged tree, which agents do not read yet; outcrop scan does";
                (None, None, Some(Coverage::unsupported(reason)))
            }
            Place::Stack { stack, chain, .. } => {
                let layers: Option<Vec<LayerId>> = stack.layers.iter().map(|layer| layer.id).collect();
                match (layers, chain.first()) {
                    (Some(layers), _) if layers.is_empty() => {
                        (None, None, Some(Coverage::new(CoverageState::Scanned, "")))
                    }
                    (Some(layers), Some(top)) => (Some(stack), Some((*top, layers)), None),
                    _ => (None, None, Some(Coverage::unsupported("its snapshots have no names that identify them"))),
                }
            }
        };
        let seen = Seen {
            containerd_namespace: container.containerd_namespace.clone(),
            id: container.id.clone(),
            name: container.name.clone(),
            pod: container.pod.clone(),
            image: container.image.clone(),
            stack: identity,
            refused,
            steps: Vec::new(),
        };
        Known { container, seen, stack }
    }

    fn obey(&mut self, order: v1::order::Order) -> Result<(), Error> {
        match order {
            v1::order::Order::Resync(_) => self.tell_all(),
            v1::order::Order::Lease(lease) => {
                for id in lease.layers.iter().filter_map(|id| LayerId::try_from(id).ok()) {
                    self.read(id)?;
                }
            }
            v1::order::Order::Check(check) => self.check(&check)?,
            v1::order::Order::CrossRead(_) | v1::order::Order::Welcome(_) => {}
        }
        Ok(())
    }

    /// Reads a layer for the aggregator.
    fn read(&mut self, id: LayerId) -> Result<(), Error> {
        match self.compressed(id)? {
            Ok((compressed, started)) => {
                let pieces = compressed.chunks(PIECE).map(|bytes| v1::Piece {
                    cluster: self.cluster.clone(),
                    layer: Some(id.into()),
                    bytes: bytes.to_vec(),
                    cage: started.cage.to_string(),
                    marks: started.marks,
                });
                let pieces = pieces.collect();
                if let Some(deliveries) = &self.deliveries {
                    let _ = deliveries.blocking_send(pieces);
                }
            }
            Err(reason) => {
                self.send(v1::report::Report::Unreadable(v1::Unreadable {
                    layer: Some(id.into()),
                    reason,
                    state: String::new(),
                    gone: false,
                }));
            }
        }
        Ok(())
    }

    /// A layer's inventory, compressed, or why there is none. The outer error is containerd's.
    fn compressed(&mut self, id: LayerId) -> Result<Result<(Vec<u8>, Started), String>, Error> {
        let found = self.containers.values().find_map(|known| {
            let stack = known.stack.as_ref()?;
            let layer = stack.layers.iter().find(|layer| layer.id == Some(id))?;
            Some((&known.container, &layer.root, stack.marks))
        });
        let Some((container, root, marks)) = found else {
            return Ok(Err("no container of this node has it any more".to_owned()));
        };
        let reading = match self.reader.layer(root, marks) {
            Ok(reading) => reading,
            Err(error) => return Ok(Err(error.to_string())),
        };
        // What was read counts only if the container still stands on the same snapshots.
        if !self.sibling.recheck(container)? {
            return Ok(Err("its container was replaced or removed while it was read".to_owned()));
        }
        let compressed = compress(&reading.inventory.encode()).map_err(|error| error.to_string());
        Ok(compressed.map(|compressed| (compressed, reading.started)))
    }

    /// Decides for the aggregator what a stack's inventories leave open.
    fn check(&mut self, check: &v1::Check) -> Result<(), Error> {
        let Ok(id) = digest(&check.stack, "a stack's identity") else { return Ok(()) };
        let known =
            self.containers.values().find(|known| known.seen.stack.as_ref().is_some_and(|(stack, _)| *stack == id));
        let Some((known, stack)) = known.and_then(|known| Some((known, known.stack.clone()?))) else { return Ok(()) };
        let container = known.container.clone();
        let undecided = |path: &Vec<u8>, reason: &str| v1::Undecided { path: path.clone(), reason: reason.to_owned() };
        let read = self.reader.stack(&stack, &check.unread);
        let doubt = self.reader.check(&stack, &check.doubtful);
        if !self.sibling.recheck(&container)? {
            return Ok(());
        }
        let answers = match read {
            Ok(read) => read
                .into_iter()
                .map(|(path, fact)| {
                    let read = match fact {
                        Ok(fact) => v1::answer::Read::Fact(fact.encode()),
                        Err(reason) => v1::answer::Read::Error(reason),
                    };
                    v1::Answer { path, read: Some(read) }
                })
                .collect(),
            Err(error) => {
                let failed = |path: &Vec<u8>| v1::Answer {
                    path: path.clone(),
                    read: Some(v1::answer::Read::Error(error.to_string())),
                };
                check.unread.iter().map(failed).collect()
            }
        };
        let reason = "the container's mounted root tells nothing of it";
        self.send(v1::report::Report::Answers(v1::Answers {
            stack: check.stack.clone(),
            answers,
            hidden: doubt.hidden,
            undecided: doubt.undecided.iter().map(|path| undecided(path, reason)).collect(),
        }));
        Ok(())
    }
}
