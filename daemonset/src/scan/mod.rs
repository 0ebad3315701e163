//! A stack → what it holds: what is known already, what to read, what to check.
//!
//! Each layer is read once in the life of a [`Scanner`], however many stacks share it. What the inventories of single layers
//! cannot decide is read on the stack; where opaque marks could not be read, a mounted root is asked which of the
//! doubtful paths are really there.

mod mounted;

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use outcrop_proto::container::{Coverage, CoverageState};
use outcrop_proto::identity::LayerId;
use outcrop_proto::inventory::Inventory;
use outcrop_proto::merge::{Answers, Merged, merge};
use overlayfs_reader::{Layer, MarkNamespace};

pub use mounted::mounted_root;

use crate::catalog;
use crate::worker::{Cage, LayerReading, Program, Survival, WorkerError};

/// One layer of a stack, and where its root lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    /// What it is known by; `None` for a directory that is no layer of an image, which is read anew each time.
    pub id: Option<LayerId>,
    /// Its root directory.
    pub root: PathBuf,
}

/// A stack to scan, newest layer first.
#[derive(Clone, Debug)]
pub struct StackPlace {
    /// Its layers.
    pub layers: Vec<LayerPlace>,
    /// Where overlay's marks lie in them.
    pub marks: MarkNamespace,
    /// The container's writable layer, if there is one. It is not scanned; it tells what a missing path proves.
    pub upper: Option<PathBuf>,
    /// The container's own mounted root, if it can be seen.
    pub mounted: Option<PathBuf>,
}

/// What a stack holds, and how well it could be read.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Its packages.
    pub merged: Merged,
    /// `scanned`, or `partial` with the reason.
    pub coverage: Coverage,
    /// The weakest cage that one of its layers was read in; `None` for a stack without layers.
    pub cage: Option<Cage>,
    /// Whether overlay's marks could be read in every layer.
    pub marks: bool,
    /// How many of its layers were read for it, rather than known already.
    pub layers_read: usize,
}

/// Why a stack could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A layer's root could not be opened.
    #[error("layer {path}: {source}", path = .path.display())]
    Open {
        /// The layer's root.
        path: PathBuf,
        /// Why not.
        source: overlayfs_reader::Error,
    },
    /// A layer could not be read.
    #[error("layer {path}: {source}", path = .path.display())]
    Layer {
        /// The layer's root.
        path: PathBuf,
        /// Why not.
        source: WorkerError,
    },
    /// What inventories cannot decide could not be read on the stack.
    #[error("reading the merged view: {0}")]
    Stack(#[source] WorkerError),
}

/// Scans stacks, and remembers the layers that it read.
#[derive(Debug)]
pub struct Scanner {
    program: Program,
    known: HashMap<LayerId, Rc<LayerReading>>,
}

impl Scanner {
    /// A scanner that starts `program` for its workers.
    pub fn new(program: Program) -> Self {
        Self { program, known: HashMap::new() }
    }

    /// Scans a stack.
    ///
    /// # Errors
    /// When a layer could not be read at all. What could be read in part makes the coverage `partial` instead.
    pub fn scan(&mut self, stack: &StackPlace) -> Result<Scanned, ScanError> {
        let mut layers_read = 0;
        let mut readings = Vec::with_capacity(stack.layers.len());
        for place in &stack.layers {
            readings.push(match place.id.and_then(|id| self.known.get(&id)) {
                Some(known) => Rc::clone(known),
                None => {
                    layers_read += 1;
                    let reading = Rc::new(self.read(place, stack.marks)?);
                    if let Some(id) = place.id {
                        self.known.insert(id, Rc::clone(&reading));
                    }
                    reading
                }
            });
        }
        let inventories: Vec<&Inventory> = readings.iter().map(|reading| &reading.inventory).collect();
        // A single layer hides nothing below it.
        let marks = stack.layers.len() < 2 || readings.iter().all(|reading| reading.started.marks);
        let mut answers = Answers::default();
        let mut merged = merge(&inventories, catalog::KNOWN, &answers);
        let mut doubts = Vec::new();
        if !merged.unread.is_empty() {
            answers.facts = self.read_on_stack(stack, &merged)?;
        }
        if !marks && !merged.doubtful.is_empty() {
            doubts = self.check(stack, &merged.doubtful, &mut answers);
        }
        if !answers.facts.is_empty() || !answers.hidden.is_empty() {
            merged = merge(&inventories, catalog::KNOWN, &answers);
        }
        Ok(Scanned {
            coverage: coverage(&merged, &doubts),
            merged,
            cage: readings.iter().map(|reading| reading.started.cage).min_by_key(|cage| cage.landlock),
            marks,
            layers_read,
        })
    }

    fn read(&self, place: &LayerPlace, marks: MarkNamespace) -> Result<LayerReading, ScanError> {
        let layer = open(&place.root)?;
        self.program
            .read_layer(layer.as_fd(), marks)
            .map_err(|source| ScanError::Layer { path: place.root.clone(), source })
    }

    /// Reads on the stack what its inventories cannot decide.
    fn read_on_stack(
        &self,
        stack: &StackPlace,
        merged: &Merged,
    ) -> Result<std::collections::BTreeMap<Vec<u8>, Result<outcrop_proto::Fact, String>>, ScanError> {
        let layers: Result<Vec<Layer>, ScanError> = stack.layers.iter().map(|place| open(&place.root)).collect();
        let layers = layers?;
        let handles: Vec<BorrowedFd<'_>> = layers.iter().map(|layer| layer.as_fd()).collect();
        let paths: Vec<Vec<u8>> = merged.unread.iter().map(|unread| unread.path.clone()).collect();
        let read = self.program.read_stack(&handles, stack.marks, &paths).map_err(ScanError::Stack)?;
        Ok(read.into_iter().collect())
    }

    /// Asks the container's mounted root for evidence that an unseen opaque directory may hide. Returns what stays in doubt.
    fn check(&self, stack: &StackPlace, doubtful: &[Vec<u8>], answers: &mut Answers) -> Vec<Vec<u8>> {
        let survivals = stack.mounted.as_deref().and_then(|root| self.survives(root, stack.upper.as_deref(), doubtful));
        let Some(survivals) = survivals else { return doubtful.to_vec() };
        let mut open = Vec::new();
        for (path, survival) in doubtful.iter().zip(survivals) {
            match survival {
                Survival::Present => {}
                Survival::Absent => {
                    answers.hidden.insert(path.clone());
                }
                Survival::Inconclusive => open.push(path.clone()),
            }
        }
        open
    }

    fn survives(&self, root: &Path, upper: Option<&Path>, paths: &[Vec<u8>]) -> Option<Vec<Survival>> {
        // The handles are held for the moment of the question only: an open one would make the node's umount fail.
        let root = open(root).ok()?;
        let upper = upper.map(open).transpose().ok()?;
        self.program.survives(root.as_fd(), upper.as_ref().map(|upper| upper.as_fd()), paths).ok()
    }
}

fn open(path: &Path) -> Result<Layer, ScanError> {
    Layer::open(path).map_err(|source| ScanError::Open { path: path.to_owned(), source })
}

/// How much of the stack was seen.
fn coverage(merged: &Merged, doubts: &[Vec<u8>]) -> Coverage {
    let path = |path: &[u8]| format!("/{}", path.escape_ascii());
    let more = |count: usize| if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    if let Some((first, reason)) = merged.failed.first() {
        return Coverage::new(
            CoverageState::Partial,
            format!("{}{} could not be read: {reason}", path(first), more(merged.failed.len())),
        );
    }
    if let Some(unread) = merged.unread.first() {
        return Coverage::new(
            CoverageState::Partial,
            format!("{} was not read: {}", path(&unread.path), unread.reason),
        );
    }
    if let Some(first) = doubts.first() {
        return Coverage::new(
            CoverageState::Partial,
            format!(
                "opaque marks could not be read (no CAP_SYS_ADMIN) and may hide {}{}",
                path(first),
                more(doubts.len())
            ),
        );
    }
    Coverage::new(CoverageState::Scanned, "")
}
