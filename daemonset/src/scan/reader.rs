//! What workers are asked about a stack.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use overlayfs_reader::{Layer, MarkNamespace};

use super::{ScanError, StackPlace};
use crate::worker::{LayerReading, Program, StackReading, Started, Survival};

/// Has layers and stacks read by workers, and keeps nothing of them.
#[derive(Clone, Debug)]
pub struct StackReader {
    program: Program,
}

/// Of doubtful paths, what a mounted root says.
#[derive(Clone, Debug, Default)]
pub struct Doubt {
    /// An opaque directory that could not be seen hides these.
    pub hidden: Vec<Vec<u8>>,
    /// Of these it says nothing.
    pub undecided: Vec<Vec<u8>>,
}

impl StackReader {
    /// A reader that starts `program` for its workers.
    pub fn new(program: Program) -> Self {
        Self { program }
    }

    /// Reads the layer at `root`.
    ///
    /// # Errors
    /// When no inventory could be made of it.
    pub fn layer(&self, root: &Path, marks: MarkNamespace) -> Result<LayerReading, ScanError> {
        let layer = open(root)?;
        let read = self.program.read_layer(layer.as_fd(), marks);
        read.map_err(|source| ScanError::Layer { path: root.to_owned(), source })
    }

    /// The same, not decoded: the canonical encoding goes into an `S` as it comes.
    ///
    /// # Errors
    /// When the worker could not do it.
    pub fn layer_into<S: io::Write + Default>(
        &self,
        root: &Path,
        marks: MarkNamespace,
    ) -> Result<(Started, S), ScanError> {
        let layer = open(root)?;
        let read = self.program.read_layer_into(layer.as_fd(), marks);
        read.map_err(|source| ScanError::Layer { path: root.to_owned(), source })
    }

    /// Whether a layer's root is where it was. Snapshotters never use a path twice.
    pub fn is_there(&self, root: &Path) -> bool {
        open(root).is_ok()
    }

    /// Reads `paths` in the merged view: what the inventories of single layers cannot decide.
    ///
    /// # Errors
    /// When the worker could not do it at all.
    pub fn stack(&self, stack: &StackPlace, paths: &[Vec<u8>]) -> Result<StackReading, ScanError> {
        let layers: Result<Vec<Layer>, ScanError> = stack.layers.iter().map(|place| open(&place.root)).collect();
        let layers = layers?;
        let handles: Vec<BorrowedFd<'_>> = layers.iter().map(|layer| layer.as_fd()).collect();
        self.program.read_stack(&handles, stack.marks, paths).map_err(ScanError::Stack)
    }

    /// Asks the container's mounted root for evidence that an unseen opaque directory may hide.
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
        // The handles are held for the moment of the question only: an open one would make the node's umount fail.
        let root = open(root).ok()?;
        let upper = upper.map(open).transpose().ok()?;
        self.program.survives(root.as_fd(), upper.as_ref().map(|upper| upper.as_fd()), paths).ok()
    }
}

fn open(path: &Path) -> Result<Layer, ScanError> {
    Layer::open(path).map_err(|source| ScanError::Open { path: path.to_owned(), source })
}
