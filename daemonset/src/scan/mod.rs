//! A stack → what it holds: what is known already, what to read, what to check.
//!
//! Each layer is read once in the life of a [`Scanner`], however many stacks share it. What the inventories of single layers
//! cannot decide is read on the stack; where opaque marks could not be read, a mounted root is asked which of the
//! doubtful paths are really there.

mod mounted;
mod place;
mod reader;

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use outcrop_proto::container::Coverage;
use outcrop_proto::identity::LayerId;
use outcrop_proto::inventory::Inventory;
use outcrop_proto::merge::{Answers, Merged, merge};
use overlayfs_reader::MarkNamespace;

pub(crate) use mounted::mount_points;
pub use mounted::mounted_root;
pub use place::{Place, Places, mounted};
pub use reader::{Doubt, StackReader};

use crate::catalog;
use crate::worker::{Cage, LayerReading, Program, WorkerError};

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
    reader: StackReader,
    known: HashMap<LayerId, Rc<LayerReading>>,
}

impl Scanner {
    /// A scanner that starts `program` for its workers.
    pub fn new(program: Program) -> Self {
        Self { reader: StackReader::new(program), known: HashMap::new() }
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
                    let reading = Rc::new(self.reader.layer(&place.root, stack.marks)?);
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
            let paths: Vec<Vec<u8>> = merged.unread.iter().map(|unread| unread.path.clone()).collect();
            answers.facts = self.reader.stack(stack, &paths)?.into_iter().collect();
        }
        if !marks && !merged.doubtful.is_empty() {
            let doubt = self.reader.check(stack, &merged.doubtful);
            answers.hidden.extend(doubt.hidden);
            doubts = doubt.undecided;
        }
        if !answers.facts.is_empty() || !answers.hidden.is_empty() {
            merged = merge(&inventories, catalog::KNOWN, &answers);
        }
        Ok(Scanned {
            coverage: merged.coverage(&doubts),
            merged,
            cage: readings.iter().map(|reading| reading.started.cage).min_by_key(|cage| cage.landlock),
            marks,
            layers_read,
        })
    }
}
