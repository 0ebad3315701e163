//! Tries work on inventories in a process of its own: this program, started again, which reads the inventories from its standard input.
//!
//! Only suspects are tried ([`InFlight`](super::in_flight::InFlight)), so a process is started a few times after the aggregator was killed, and
//! otherwise never.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use outcrop_proto::wire::v1;
use outcrop_proto::{Digest, LayerId};
use prost::Message;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::merging::{Checked, Stack, check_inventory, merge_stack};
use crate::store::InventoryRow;

/// The argument that makes this program a trial.
pub(crate) const ARGUMENT: &str = "trial";

/// Maximum duration of a trial.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory of a trial, in bytes: the budget of a job, its input and the program.
const MAX_DATA: u64 = 512 << 20;

/// The work to try.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Trial {
    #[prost(message, repeated, tag = "1")]
    inventories: Vec<Tried>,
    /// A node's answers to a check of the stack.
    #[prost(message, optional, tag = "2")]
    answers: Option<v1::Answers>,
    /// Whether the answers may take packages away.
    #[prost(bool, tag = "3")]
    is_confirmed: bool,
    /// Whether the inventories are merged. Otherwise each is checked as when it is delivered.
    #[prost(bool, tag = "4")]
    is_merge: bool,
}

/// An inventory.
#[derive(Clone, PartialEq, Message)]
struct Tried {
    #[prost(bytes = "vec", tag = "1")]
    compressed: Vec<u8>,
    #[prost(bool, tag = "2")]
    marks: bool,
}

impl Trial {
    /// Tries to check a delivered inventory.
    pub(super) fn of_inventory(compressed: &[u8], marks: bool) -> Self {
        let inventories = vec![Tried { compressed: compressed.to_vec(), marks }];
        Self { inventories, ..Self::default() }
    }

    /// Tries to merge a stack.
    pub(super) fn of_stack(stack: &Stack) -> Self {
        let tried = |row: &InventoryRow| Tried { compressed: row.compressed.clone(), marks: row.marks };
        Self {
            inventories: stack.inventories.iter().map(tried).collect(),
            answers: stack.answers.as_ref().map(|checked| checked.answers.clone()),
            is_confirmed: stack.answers.as_ref().is_some_and(|checked| checked.is_confirmed),
            is_merge: true,
        }
    }

    /// Does the work in a process of its own.
    ///
    /// # Errors
    /// When that process did not end well: the reason.
    pub(super) async fn run(self) -> Result<(), String> {
        let spawned = Command::new("/proc/self/exe")
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|error| format!("starting a separate process for it: {error}"))?;
        let input = child.stdin.take();
        let input = async move {
            if let Some(mut input) = input {
                // A process that ends early reads no more: its status says why.
                let _ = input.write_all(&self.encode_to_vec()).await;
            }
        };
        let ended = async { tokio::join!(input, child.wait()).1 };
        match tokio::time::timeout(PATIENCE, ended).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(format!("a separate process that tried it ended, too: {status}")),
            Ok(Err(error)) => Err(format!("waiting for the separate process: {error}")),
            Err(_) => Err(format!("a separate process that tried it did not end within {} s", PATIENCE.as_secs())),
        }
    }
}

/// Does the work of a trial that is read from standard input. Only the survival of the process counts: an inventory that is refused
/// has done no harm.
///
/// # Errors
/// When there is no complete trial to read.
pub(crate) fn run() -> std::io::Result<()> {
    for (resource, value) in [(Resource::Data, MAX_DATA), (Resource::Cpu, PATIENCE.as_secs()), (Resource::Core, 0)] {
        let value = Some(value);
        setrlimit(resource, Rlimit { current: value, maximum: value })?;
    }
    let mut input = Vec::new();
    std::io::stdin().lock().read_to_end(&mut input)?;
    let trial = Trial::decode(&*input)?;
    drop(input);
    let is_confirmed = trial.is_confirmed;
    let inventories = trial.inventories.into_iter();
    if trial.is_merge {
        // Neither the identities nor the digests decide what a merge does.
        let row = |tried: Tried| {
            let (digest, size) = (Digest::of(&tried.compressed), tried.compressed.len());
            InventoryRow { digest, compressed: tried.compressed, size, marks: tried.marks }
        };
        let inventories: Vec<InventoryRow> = inventories.map(row).collect();
        let id = Digest::of(b"");
        let layers: Vec<LayerId> = inventories.iter().map(|row| LayerId::Diff(row.digest)).collect();
        let answers = trial.answers.map(|answers| Checked { answers, nodes: Vec::new(), is_confirmed });
        merge_stack(Stack { id, layers, inventories, answers });
    } else {
        inventories.for_each(|tried| _ = check_inventory(&tried.compressed, tried.marks));
    }
    Ok(())
}
