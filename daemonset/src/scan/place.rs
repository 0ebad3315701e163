//! Converts a container of the runtime into a stack to scan.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use outcrop_proto::container::{Container, Coverage, ImageDetails, Status, Step};
use outcrop_proto::digest::Digest;
use outcrop_proto::identity::{layer_ids, proves};
use overlayfs_reader::MarkNamespace;

use super::{LayerPlace, StackPlace, mounted_root};
use crate::snapshot::{self, Located};
use crate::worker::Program;

/// The directories from which a container can be read.
#[derive(Clone, Debug)]
pub enum Place {
    /// It is not read, for this reason.
    Not(Coverage),
    /// One directory per layer.
    Stack {
        /// Their roots and identities.
        stack: StackPlace,
        /// The names of its snapshots, newest first.
        chain: Vec<Digest>,
        /// The image's diff IDs, base first, where they are proved.
        diff_ids: Option<Vec<Digest>>,
    },
    /// One directory with the merged content.
    Merged {
        /// The directory, as a stack of one layer that is not shared.
        stack: StackPlace,
        /// The best coverage that reading it can give.
        best: Coverage,
    },
}

/// Finds places, and caches the image configurations that were parsed last.
#[derive(Debug)]
pub struct Places {
    program: Program,
    texts: bool,
    /// Configurations requested since `older` was filled, and those requested before.
    newer: Configs,
    older: Configs,
}

type Configs = HashMap<Digest, Option<Rc<Config>>>;

/// Size of one of the two generations of cached image configurations.
const MAX_CONFIGS: usize = 128;

/// The cached part of an image configuration.
#[derive(Debug)]
struct Config {
    /// Base first.
    diff_ids: Vec<Digest>,
    /// One step per layer, or none.
    steps: Vec<Step>,
    details: ImageDetails,
}

impl Places {
    /// Creates a finder that starts `program` for the workers that parse image configurations.
    pub fn new(program: Program) -> Self {
        Self { program, texts: false, newer: HashMap::new(), older: HashMap::new() }
    }

    /// Sets whether the steps of an image's history keep their texts, which may contain secrets.
    #[must_use]
    pub fn with_history_texts(mut self, texts: bool) -> Self {
        self.texts = texts;
        self
    }

    /// Returns where `container` can be read; `host` is the directory at which the host's root is mounted.
    pub fn find(&mut self, container: &Container, host: &Path) -> Place {
        match snapshot::locate(container, host) {
            Located::Not(coverage) => Place::Not(coverage),
            Located::Merged(merged) => {
                let layers = vec![LayerPlace { id: None, root: merged.root }];
                let stack = StackPlace { layers, marks: MarkNamespace::Trusted, upper: None, mounted: None };
                Place::Merged { stack, best: merged.best }
            }
            Located::Stack(stack) => {
                let chain: Option<Vec<Digest>> = container.chain.iter().map(|name| name.parse().ok()).collect();
                let chain = chain.unwrap_or_default();
                let diff_ids = self.proved(container, &chain).map(|config| config.diff_ids.clone());
                let mut ids = layer_ids(&chain, diff_ids.as_deref()).into_iter();
                let place = |layer: snapshot::Layer| LayerPlace { id: ids.next(), root: layer.root };
                let stack = StackPlace {
                    layers: stack.layers.into_iter().map(place).collect(),
                    marks: if stack.userxattr { MarkNamespace::User } else { MarkNamespace::Trusted },
                    mounted: mounted(container, stack.upper.as_deref(), host),
                    upper: stack.upper,
                };
                Place::Stack { stack, chain, diff_ids }
            }
        }
    }

    /// Returns the build steps of a container's layers, newest first, one per layer, and the properties of its image. There are no
    /// steps if the history does not match the layers; `None` if no configuration is proved.
    pub fn image(&mut self, container: &Container) -> Option<(Vec<Step>, ImageDetails)> {
        let chain: Option<Vec<Digest>> = container.chain.iter().map(|name| name.parse().ok()).collect();
        let config = self.proved(container, &chain?)?;
        let details = ImageDetails { size: container.size, ..config.details.clone() };
        Some((config.steps.iter().rev().cloned().collect(), details))
    }

    /// Returns the configuration of the container's chain (newest first). Names move, so a configuration counts only if its chain IDs equal
    /// the snapshots' names.
    fn proved(&mut self, container: &Container, chain: &[Digest]) -> Option<Rc<Config>> {
        let base_first: Vec<Digest> = chain.iter().rev().copied().collect();
        let mut parsed = container.configs.iter().filter_map(|bytes| self.parse(bytes));
        parsed.find(|config| proves(&config.diff_ids, &base_first))
    }

    fn parse(&mut self, bytes: &[u8]) -> Option<Rc<Config>> {
        let digest = Digest::of(bytes);
        if let Some(known) = self.newer.get(&digest) {
            return known.clone();
        }
        let config = self.older.remove(&digest).unwrap_or_else(|| {
            let config = self.program.parse_config(bytes, self.texts).ok()?;
            let diff_ids: Option<Vec<Digest>> = config.diff_ids.iter().map(|diff_id| diff_id.parse().ok()).collect();
            Some(Rc::new(Config { diff_ids: diff_ids?, steps: config.steps, details: config.details }))
        });
        if self.newer.len() >= MAX_CONFIGS {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(digest, config.clone());
        config
    }
}

/// Returns the mounted root of a container, if it runs and this process can see the mount. `upper` is its writable layer below `host`.
pub fn mounted(container: &Container, upper: Option<&Path>, host: &Path) -> Option<PathBuf> {
    if container.status != Status::Running {
        return None;
    }
    let upper = upper.and_then(|upper| upper.strip_prefix(host).ok()).map(|upper| Path::new("/").join(upper));
    let upper = upper.as_ref().map(|upper| upper.as_os_str().as_bytes());
    let mountinfo = std::fs::read("/proc/self/mountinfo").ok()?;
    mounted_root(&mountinfo, &container.root_mount, upper)
}
