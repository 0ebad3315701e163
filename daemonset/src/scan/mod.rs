//! Scans a stack into its packages: known layers, layers to read, paths to check.
//!
//! A [`Scanner`] reads each layer once, however many stacks share it. Evidence that the inventories of single layers cannot decide is read on
//! the stack. Where opaque marks could not be read, a check of the container's mounted root shows which of the doubtful paths exist.

mod mounted;
mod place;
mod reader;

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use outcrop_proto::container::{Coverage, CoverageState};
use outcrop_proto::identity::LayerId;
use outcrop_proto::inventory::Inventory;
use outcrop_proto::merge::{Answers, Merged, merge};
use outcrop_proto::{Budget, OverBudget};
use overlayfs_reader::MarkNamespace;

pub(crate) use mounted::mount_points;
pub use mounted::mounted_root;
pub use place::{Place, Places, mounted};
pub use reader::{Doubt, StackReader};

use crate::catalog;
use crate::worker::{Cage, LayerReading, Program, WorkerError};

/// One layer of a stack and its root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerPlace {
    /// Identity; `None` for a directory that is not a layer of an image, which is read each time.
    pub id: Option<LayerId>,
    /// Its root directory.
    pub root: PathBuf,
}

/// A stack to scan, newest layer first.
#[derive(Clone, Debug)]
pub struct StackPlace {
    /// Its layers.
    pub layers: Vec<LayerPlace>,
    /// Namespace of the overlay marks.
    pub marks: MarkNamespace,
    /// The container's writable layer, if there is one. It is not scanned; it shows whether a missing path proves anything.
    pub upper: Option<PathBuf>,
    /// The container's mounted root, if this process can see it.
    pub mounted: Option<PathBuf>,
}

/// Result of scanning a stack.
#[derive(Clone, Debug)]
pub struct Scanned {
    /// Its packages.
    pub merged: Merged,
    /// `scanned`, or `partial` with the reason.
    pub coverage: Coverage,
    /// The weakest cage of the workers that read its layers; `None` for a stack without layers.
    pub cage: Option<Cage>,
    /// Whether overlay's marks could be read in every layer.
    pub marks: bool,
    /// Number of its layers that were read for this scan.
    pub layers_read: usize,
}

/// Reason why a stack could not be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A layer's root could not be opened.
    #[error("layer {path}: {source}", path = .path.display())]
    Open {
        /// The layer's root.
        path: PathBuf,
        /// Cause.
        source: overlayfs_reader::Error,
    },
    /// A layer could not be read.
    #[error("layer {path}: {source}", path = .path.display())]
    Layer {
        /// The layer's root.
        path: PathBuf,
        /// Cause.
        source: WorkerError,
    },
    /// Undecided evidence could not be read on the stack.
    #[error("reading the merged view: {0}")]
    Stack(#[source] WorkerError),
    /// Merging the layers needs more memory or work than it may have.
    #[error("merging the inventories of the layers {0}")]
    TooLarge(#[source] OverBudget),
}

/// Scans stacks, and keeps the inventories of the layers that it has read.
#[derive(Debug)]
pub struct Scanner {
    reader: StackReader,
    known: HashMap<LayerId, Known>,
    /// Memory of the known layers, in bytes.
    kept: usize,
}

/// A layer that was read, and what decoding its inventory took.
#[derive(Clone, Debug)]
struct Known {
    reading: Rc<LayerReading>,
    bytes: usize,
    steps: u64,
}

impl ScanError {
    /// Returns whether the reason lies on this node, and says nothing about the layer: storage is not visible, or no worker can be started.
    pub const fn is_of_node(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Layer { source: WorkerError::Start(_), .. })
    }

    /// Returns the coverage of a stack that was not scanned for this reason.
    pub fn coverage(&self) -> Coverage {
        let state = match self {
            Self::TooLarge(_) | Self::Layer { source: WorkerError::TooLarge(_), .. } => CoverageState::TooLarge,
            _ => CoverageState::Failed,
        };
        Coverage::new(state, self.to_string())
    }
}

impl Scanner {
    /// Creates a scanner that starts `program` for its workers.
    pub fn new(program: Program) -> Self {
        Self { reader: StackReader::new(program), known: HashMap::new(), kept: 0 }
    }

    /// Scans a stack.
    ///
    /// # Errors
    /// When a layer cannot be read at all. A layer that is read in part makes the coverage `partial` instead.
    pub fn scan(&mut self, stack: &StackPlace) -> Result<Scanned, ScanError> {
        let mut layers_read = 0;
        // The inventories of a stack are in memory together, so they and their merge have one budget, as in the aggregator.
        let mut budget = Budget::job();
        let mut readings = Vec::with_capacity(stack.layers.len());
        for place in &stack.layers {
            if let Some(known) = place.id.and_then(|id| self.known.get(&id)) {
                budget.reserve(known.bytes).and_then(|()| budget.step(known.steps)).map_err(ScanError::TooLarge)?;
                readings.push(Rc::clone(&known.reading));
                continue;
            }
            layers_read += 1;
            let before = budget;
            let reading = Rc::new(self.reader.layer(&place.root, stack.marks, &mut budget)?);
            readings.push(Rc::clone(&reading));
            if let Some(id) = place.id {
                let bytes = budget.bytes_reserved() - before.bytes_reserved();
                let steps = budget.steps_made() - before.steps_made();
                self.keep(id, Known { reading, bytes, steps });
            }
        }
        let inventories: Vec<&Inventory> = readings.iter().map(|reading| &reading.inventory).collect();
        // A single layer hides nothing below it.
        let marks = stack.layers.len() < 2 || readings.iter().all(|reading| reading.started.marks);
        let mut answers = Answers::default();
        // The first merge is over before the second one begins.
        let merge = |answers: &Answers, mut budget: Budget| merge(&inventories, catalog::KNOWN, answers, &mut budget);
        let mut merged = merge(&answers, budget).map_err(ScanError::TooLarge)?;
        let mut doubts = Vec::new();
        if !merged.unread.is_empty() {
            let paths: Vec<Vec<u8>> = merged.unread.iter().map(|unread| unread.path.clone()).collect();
            answers.facts = self.reader.stack(stack, &paths)?.into_iter().collect();
        }
        if !marks && !merged.doubtful.is_empty() {
            let doubt = self.reader.check(stack, &merged.doubtful);
            answers.hidden.extend(doubt.hidden);
            doubts = doubt.undecided;
        }
        if !answers.facts.is_empty() || !answers.hidden.is_empty() {
            drop(merged);
            merged = merge(&answers, budget).map_err(ScanError::TooLarge)?;
        }
        Ok(Scanned {
            coverage: merged.coverage(&doubts),
            merged,
            cage: readings.iter().map(|reading| reading.started.cage).min_by_key(|cage| cage.landlock),
            marks,
            layers_read,
        })
    }
    /// Keeps a layer for other stacks. All kept ones together have the memory of one stack; when they have more, they are dropped.
    fn keep(&mut self, id: LayerId, known: Known) {
        self.kept += known.bytes;
        if self.kept > Budget::job().bytes_left() {
            self.known.clear();
            self.kept = known.bytes;
        }
        self.known.insert(id, known);
    }
}
