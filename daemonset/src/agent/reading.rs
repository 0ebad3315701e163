//! The threads that have layers and stacks read by workers. The node decides afterwards whether a result counts; then the thread
//! sends it.

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
use super::supervised;
use super::uplink::Outbox;
use crate::catalog;
use crate::logging::safe;
use crate::runtime::Pin;
use crate::scan::{Doubt, ScanError, StackPlace, StackReader};
use crate::worker::{ReadStats, StackReading};

/// Compression level of zstd: a third of the default level's time for four percent more bytes.
const ZSTD_LEVEL: i32 = 1;

/// A task of a scan thread.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) what: What,
    /// The container that the task belongs to.
    pub(super) pin: Pin,
    /// Queue for the result.
    pub(super) outbox: Outbox,
}

#[derive(Debug)]
pub(super) enum What {
    Layer { wanted: Wanted, root: PathBuf, marks: MarkNamespace },
    Check { check: v1::Check, stack: StackPlace },
}

/// A finished task; the node decides whether its result counts.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) task: Task,
    /// Outcome of the task.
    pub(super) went: Went,
    /// Why the layer could not be read, if the reason lies on this node.
    pub(super) obstacle: Option<String>,
    /// The thread waits for the verdict. Without a verdict it discards the result.
    pub(super) verdict: mpsc::Sender<Verdict>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// The layer was read, and its root still exists.
    Read,
    /// The layer could not be read.
    Failed,
    /// The layer was read, and its root no longer exists.
    Vanished,
}

/// The node's verdict on a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The result counts: its layers still exist.
    Counts,
    /// The result is discarded: its layers no longer exist.
    Gone,
}

/// Starts `threads` that take tasks from the returned channel. Each tells the node when it becomes idle, also at the start.
pub(super) fn start(threads: usize, reader: &StackReader, commands: &Commands) -> io::Result<mpsc::Sender<Task>> {
    let (sender, tasks) = mpsc::channel::<Task>();
    let tasks = Arc::new(Mutex::new(tasks));
    for number in 0..threads {
        let (tasks, reader, commands) = (Arc::clone(&tasks), reader.clone(), commands.clone());
        let thread = commands.clone();
        supervised(format!("scan-{number}"), &thread, move || {
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

/// Result of a task.
enum Answer {
    Inventory(LayerId, Compressed, ReadStats),
    Digest(LayerId, Digesting, ReadStats),
    Unreadable(LayerId, ScanError),
    Stack(Vec<u8>, Result<StackReading, ScanError>, Vec<Vec<u8>>, Doubt),
}

fn perform(task: Task, reader: &StackReader, commands: &Commands) {
    let span = match &task.what {
        What::Layer { wanted, .. } => {
            tracing::info_span!("layer", id = %wanted.layer, purpose = wanted.purpose.as_str())
        }
        What::Check { .. } => tracing::info_span!("check"),
    };
    let _entered = span.enter();
    let (answer, went) = match &task.what {
        What::Layer { wanted, root, marks } => {
            let answer = match wanted.purpose {
                Purpose::Inventory => reader
                    .layer_into(root, Some(*marks))
                    .map(|(stats, inventory)| Answer::Inventory(wanted.layer, inventory, stats)),
                Purpose::Verification | Purpose::VerificationWithoutMarks => {
                    let marks = (wanted.purpose == Purpose::Verification).then_some(*marks);
                    reader.layer_into(root, marks).map(|(stats, digest)| Answer::Digest(wanted.layer, digest, stats))
                }
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
    let obstacle = match &answer {
        Answer::Unreadable(_, error) if error.is_of_node() => Some(error.to_string()),
        _ => None,
    };
    let outbox = task.outbox.clone();
    let (verdict, is_said) = mpsc::channel();
    if !commands.send(Command::Done(Box::new(Done { task, went, obstacle, verdict }))) {
        return;
    }
    if let Ok(verdict) = is_said.recv() {
        log(&answer, verdict);
        send(answer, verdict, &outbox);
    }
}

/// Logs the outcome of a task.
fn log(answer: &Answer, verdict: Verdict) {
    match (answer, verdict) {
        (_, Verdict::Gone) => tracing::info!("container gone, result discarded"),
        (Answer::Inventory(_, _, stats) | Answer::Digest(_, _, stats), Verdict::Counts) => {
            let v1::ReadCost { milliseconds, paths, evidence_files, evidence_bytes } = cost(stats);
            tracing::info!(milliseconds, paths, evidence_files, evidence_bytes, "layer read");
        }
        (Answer::Unreadable(_, error), Verdict::Counts) => {
            tracing::warn!(reason = %safe(&error.to_string()), "layer failed");
        }
        (Answer::Stack(_, Ok(read), _, doubt), Verdict::Counts) => {
            let (hidden, undecided) = (doubt.hidden.len(), doubt.undecided.len());
            tracing::debug!(read = read.len(), hidden, undecided, "stack checked");
        }
        (Answer::Stack(_, Err(error), ..), Verdict::Counts) => {
            tracing::warn!(reason = %safe(&error.to_string()), "check failed");
        }
    }
}

/// Sends a result. If the stream has ended meanwhile, the result is dropped.
fn send(answer: Answer, verdict: Verdict, outbox: &Outbox) {
    match (answer, verdict) {
        (Answer::Inventory(layer, ..) | Answer::Digest(layer, ..) | Answer::Unreadable(layer, _), Verdict::Gone) => {
            outbox.wait_and_send(gone(layer));
        }
        (Answer::Stack(..), Verdict::Gone) => {}
        (Answer::Inventory(layer, compressed, stats), Verdict::Counts) => match compressed.finish() {
            Ok(bytes) => outbox.deliver(layer, &bytes, &stats),
            Err(error) => {
                outbox.wait_and_send(unreadable(layer, format!("compressing the inventory: {error}"), "failed"));
            }
        },
        (Answer::Digest(layer, Digesting(hasher), stats), Verdict::Counts) => {
            outbox.wait_and_send(Report::Verified(v1::Verified {
                layer: Some(layer.into()),
                digest: hasher.finalize().to_vec(),
                catalogers: catalog::VERSION,
                cage: stats.started.cage.to_string(),
                marks: stats.started.marks,
                cost: Some(cost(&stats)),
            }));
        }
        (Answer::Unreadable(layer, error), Verdict::Counts) => {
            let coverage = error.coverage();
            outbox.wait_and_send(unreadable(layer, coverage.reason, coverage.state.as_str()));
        }
        (Answer::Stack(stack, read, unread, doubt), Verdict::Counts) => {
            outbox.wait_and_send(answers(stack, read, &unread, doubt));
        }
    }
}

/// Converts the statistics of a read for the wire.
pub(super) fn cost(stats: &ReadStats) -> v1::ReadCost {
    v1::ReadCost {
        milliseconds: stats.elapsed.as_millis().try_into().unwrap_or(u64::MAX),
        paths: stats.work.paths,
        evidence_files: stats.work.evidence_files,
        evidence_bytes: stats.work.evidence_bytes,
    }
}

fn unreadable(layer: LayerId, reason: String, state: &str) -> Report {
    Report::Unreadable(v1::Unreadable { layer: Some(layer.into()), reason, state: state.to_owned(), gone: false })
}

/// Reports a layer that is no longer on this node.
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

/// An inventory that is compressed while it arrives: it is never in memory as a whole.
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

/// Digest of an inventory that is not kept.
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
