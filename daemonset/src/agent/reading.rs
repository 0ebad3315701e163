//! The threads that have layers and stacks read. They speak to workers and to nobody else; the node tells them afterwards
//! whether what was read counts, and then they send it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use outcrop_proto::LayerId;
use outcrop_proto::wire::v1;
use outcrop_proto::wire::v1::report::Report;
use overlayfs_reader::MarkNamespace;
use sha2::{Digest as _, Sha256};

use super::node::{Command, Commands};
use super::queue::{Purpose, Wanted};
use super::uplink::Outbox;
use crate::catalog;
use crate::runtime::Pin;
use crate::scan::{Doubt, ScanError, StackPlace, StackReader};
use crate::worker::{StackReading, Started, WorkerError};

/// Compression level: a third of the time of zstd's default for four per cent more bytes.
const ZSTD_LEVEL: i32 = 1;

/// Something to read.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) what: What,
    /// The container that it is read for.
    pub(super) pin: Pin,
    /// Where the answer goes.
    pub(super) outbox: Outbox,
}

#[derive(Debug)]
pub(super) enum What {
    Layer { wanted: Wanted, root: PathBuf, marks: MarkNamespace },
    Check { check: v1::Check, stack: StackPlace },
}

/// What became of a task, and whether it counts is for the node to say.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) task: Task,
    /// How it went.
    pub(super) went: Went,
    /// The thread waits here. Without a verdict what was read is thrown away.
    pub(super) verdict: mpsc::Sender<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It was read, and its root is still where it was.
    Read,
    /// It could not be read.
    Failed,
    /// It was read, and its root is not there any more.
    Vanished,
}

/// What the node says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The snapshots that it was read from still stand.
    Counts,
    /// They do not: what was read says nothing.
    Gone,
}

/// Starts `threads` that take tasks from the channel that is returned. Each tells the node when it is idle, also at first.
pub(super) fn start(threads: usize, reader: &StackReader, commands: &Commands) -> io::Result<mpsc::Sender<Task>> {
    let (sender, tasks) = mpsc::channel::<Task>();
    let tasks = Arc::new(Mutex::new(tasks));
    for number in 0..threads {
        let (tasks, reader, commands) = (Arc::clone(&tasks), reader.clone(), commands.clone());
        let thread = std::thread::Builder::new().name(format!("scan-{number}"));
        thread.spawn(move || {
            loop {
                commands.send(Command::Idle);
                let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match task {
                    Ok(task) => perform(task, &reader, &commands),
                    Err(_) => return,
                }
            }
        })?;
    }
    Ok(sender)
}

/// What was read.
enum Answer {
    Inventory(LayerId, Compressed, Started),
    Digest(LayerId, Digesting, Started),
    Unreadable(LayerId, ScanError),
    Stack(Vec<u8>, Result<StackReading, ScanError>, Vec<Vec<u8>>, Doubt),
}

fn perform(task: Task, reader: &StackReader, commands: &Commands) {
    let (answer, went) = match &task.what {
        What::Layer { wanted, root, marks } => {
            let answer = match wanted.purpose {
                Purpose::Inventory => reader
                    .layer_into(root, *marks)
                    .map(|(started, inventory)| Answer::Inventory(wanted.layer, inventory, started)),
                Purpose::Verification => reader
                    .layer_into(root, *marks)
                    .map(|(started, digest)| Answer::Digest(wanted.layer, digest, started)),
            };
            let answer = answer.unwrap_or_else(|error| Answer::Unreadable(wanted.layer, error));
            let went = match &answer {
                Answer::Unreadable(..) => Went::Failed,
                _ if !reader.is_there(root) => Went::Vanished,
                _ => Went::Read,
            };
            (answer, went)
        }
        What::Check { check, stack } => {
            let read = if check.unread.is_empty() { Ok(Vec::new()) } else { reader.stack(stack, &check.unread) };
            let doubt = reader.check(stack, &check.doubtful);
            (Answer::Stack(check.stack.clone(), read, check.unread.clone(), doubt), Went::Read)
        }
    };
    let outbox = task.outbox.clone();
    let (verdict, is_said) = mpsc::channel();
    if !commands.send(Command::Done(Box::new(Done { task, went, verdict }))) {
        return;
    }
    if let Ok(verdict) = is_said.recv() {
        send(answer, verdict, &outbox);
    }
}

/// Sends what was read. Where the stream has ended meanwhile nobody waits for it.
fn send(answer: Answer, verdict: Verdict, outbox: &Outbox) {
    match (answer, verdict) {
        (Answer::Inventory(layer, ..) | Answer::Digest(layer, ..) | Answer::Unreadable(layer, _), Verdict::Gone) => {
            outbox.wait_and_send(gone(layer));
        }
        (Answer::Stack(..), Verdict::Gone) => {}
        (Answer::Inventory(layer, compressed, started), Verdict::Counts) => match compressed.finish() {
            Ok(bytes) => outbox.deliver(layer, &bytes, started),
            Err(error) => {
                outbox.wait_and_send(unreadable(layer, format!("compressing the inventory: {error}"), "failed"));
            }
        },
        (Answer::Digest(layer, Digesting(hasher), started), Verdict::Counts) => {
            outbox.wait_and_send(Report::Verified(v1::Verified {
                layer: Some(layer.into()),
                digest: hasher.finalize().to_vec(),
                cataloguers: catalog::VERSION,
                cage: started.cage.to_string(),
                marks: started.marks,
            }));
        }
        (Answer::Unreadable(layer, error), Verdict::Counts) => {
            let too_large = matches!(error, ScanError::Layer { source: WorkerError::TooLarge(_), .. });
            let state = if too_large { "too-large" } else { "failed" };
            outbox.wait_and_send(unreadable(layer, error.to_string(), state));
        }
        (Answer::Stack(stack, read, unread, doubt), Verdict::Counts) => {
            outbox.wait_and_send(answers(stack, read, &unread, doubt));
        }
    }
}

fn unreadable(layer: LayerId, reason: String, state: &str) -> Report {
    Report::Unreadable(v1::Unreadable { layer: Some(layer.into()), reason, state: state.to_owned(), gone: false })
}

/// A layer that is not on this node any more.
pub(super) fn gone(layer: LayerId) -> Report {
    let reason = "the container was replaced or removed, and no other container of this node has the layer".to_owned();
    Report::Unreadable(v1::Unreadable { layer: Some(layer.into()), reason, state: "failed".to_owned(), gone: true })
}

fn answers(stack: Vec<u8>, read: Result<StackReading, ScanError>, unread: &[Vec<u8>], doubt: Doubt) -> Report {
    let answer = |path: &[u8], read| v1::Answer { path: path.to_vec(), read: Some(read) };
    let answers = match read {
        Ok(read) => read
            .into_iter()
            .map(|(path, fact)| match fact {
                Ok(fact) => answer(&path, v1::answer::Read::Fact(fact.encode())),
                Err(reason) => answer(&path, v1::answer::Read::Error(reason)),
            })
            .collect(),
        Err(error) => unread.iter().map(|path| answer(path, v1::answer::Read::Error(error.to_string()))).collect(),
    };
    let reason = "the container's mounted root file system does not decide it";
    let undecided = doubt.undecided.into_iter().map(|path| v1::Undecided { path, reason: reason.to_owned() }).collect();
    Report::Answers(v1::Answers { stack, answers, hidden: doubt.hidden, undecided })
}

/// An inventory that is compressed as it comes: it is never in memory as a whole.
struct Compressed(io::Result<zstd::stream::write::Encoder<'static, Vec<u8>>>);

impl Default for Compressed {
    fn default() -> Self {
        Self(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL))
    }
}

impl Compressed {
    fn finish(self) -> io::Result<Vec<u8>> {
        self.0?.finish()
    }
}

impl Write for Compressed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Ok(encoder) => encoder.write(bytes),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An inventory of which only the digest is kept.
#[derive(Default)]
struct Digesting(Sha256);

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
