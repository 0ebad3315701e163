//! Reads layers and stacks with workers.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use outcrop_proto::inventory::Inventory;
use outcrop_proto::{Budget, DecodeError};
use overlayfs_reader::{Layer, MarkNamespace};

use super::{ScanError, StackPlace};
use crate::worker::{LayerReading, Program, ReadStats, StackReading, Survival, WorkerError};

/// Reads layers and stacks with workers, and keeps no results.
#[derive(Clone, Debug)]
pub struct StackReader {
    program: Program,
}

/// Result of a check of doubtful paths.
#[derive(Clone, Debug, Default)]
pub struct Doubt {
    /// Paths that an opaque directory hides.
    pub hidden: Vec<Vec<u8>>,
    /// Paths that could not be decided.
    pub undecided: Vec<Vec<u8>>,
}

impl StackReader {
    /// Creates a reader that starts `program` for its workers.
    pub fn new(program: Program) -> Self {
        Self { program }
    }

    /// Reads the layer at `root`. The memory and the work of decoding come from `budget`.
    ///
    /// # Errors
    /// When the layer cannot be read at all, or its inventory needs more than `budget`.
    pub fn layer(&self, root: &Path, marks: MarkNamespace, budget: &mut Budget) -> Result<LayerReading, ScanError> {
        let (stats, encoding) = self.layer_into::<Vec<u8>>(root, Some(marks))?;
        let malformed = |error: DecodeError| match error {
            DecodeError::OverBudget(error) => ScanError::TooLarge(error),
            error => ScanError::Layer { path: root.to_owned(), source: WorkerError::Answer(error.to_string()) },
        };
        budget.reserve(encoding.len()).map_err(ScanError::TooLarge)?;
        let inventory = Inventory::decode(&encoding, budget).map_err(malformed)?;
        budget.release(encoding.len());
        Ok(LayerReading { inventory, started: stats.started })
    }

    /// Like [`Self::layer`], without decoding: the canonical encoding is written into an `S` as it arrives. Without `marks` the layer is
    /// read as by a node that cannot read overlay's marks.
    ///
    /// # Errors
    /// When the layer cannot be read.
    pub fn layer_into<S: io::Write + Default>(
        &self,
        root: &Path,
        marks: Option<MarkNamespace>,
    ) -> Result<(ReadStats, S), ScanError> {
        let layer = open(root)?;
        let read = self.program.read_layer_into(layer.as_fd(), marks);
        read.map_err(|source| ScanError::Layer { path: root.to_owned(), source })
    }

    /// Returns whether a layer's root still exists. Snapshotters never reuse a path.
    pub fn is_there(&self, root: &Path) -> bool {
        open(root).is_ok()
    }

    /// Reads `paths` in the merged view, which the inventories of single layers cannot decide.
    ///
    /// # Errors
    /// When no path could be read.
    pub fn stack(&self, stack: &StackPlace, paths: &[Vec<u8>]) -> Result<StackReading, ScanError> {
        let layers: Result<Vec<Layer>, ScanError> = stack.layers.iter().map(|place| open(&place.root)).collect();
        let layers = layers?;
        let handles: Vec<BorrowedFd<'_>> = layers.iter().map(|layer| layer.as_fd()).collect();
        self.program.read_stack(&handles, stack.marks, paths).map_err(ScanError::Stack)
    }

    /// Checks in the container's mounted root which doubtful paths an opaque directory hides.
    pub fn check(&self, stack: &StackPlace, doubtful: &[Vec<u8>]) -> Doubt {
        let survivals = stack.mounted.as_deref().and_then(|root| self.survives(root, stack.upper.as_deref(), doubtful));
        let Some(survivals) = survivals else {
            return Doubt { hidden: Vec::new(), undecided: doubtful.to_vec() };
        };
        let mut doubt = Doubt::default();
        for (path, survival) in doubtful.iter().zip(survivals) {
            match survival {
                Survival::Present => {}
                Survival::Absent => doubt.hidden.push(path.clone()),
                Survival::Inconclusive => doubt.undecided.push(path.clone()),
            }
        }
        doubt
    }

    fn survives(&self, root: &Path, upper: Option<&Path>, paths: &[Vec<u8>]) -> Option<Vec<Survival>> {
        // The handles are open during the check only: an open handle makes the node's umount fail.
        let root = open(root).ok()?;
        let upper = upper.map(open).transpose().ok()?;
        self.program.survives(root.as_fd(), upper.as_ref().map(|upper| upper.as_fd()), paths).ok()
    }
}

fn open(path: &Path) -> Result<Layer, ScanError> {
    Layer::open(path).map_err(|source| ScanError::Open { path: path.to_owned(), source })
}
