//! From what a runtime says of a container to what can be scanned.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use outcrop_proto::container::{Container, Coverage, Status};
use outcrop_proto::digest::Digest;
use outcrop_proto::identity::{layer_ids, proves};
use overlayfs_reader::MarkNamespace;

use super::{LayerPlace, StackPlace, mounted_root};
use crate::snapshot::{self, Located};
use crate::worker::Program;

/// Where a container can be read.
#[derive(Clone, Debug)]
pub enum Place {
    /// It is not read, and why.
    Not(Coverage),
    /// Layers kept apart.
    Stack {
        /// Their roots and identities.
        stack: StackPlace,
        /// The names of its snapshots, newest first.
        chain: Vec<Digest>,
        /// The image's diff IDs, base first, where they are proved.
        diff_ids: Option<Vec<Digest>>,
    },
    /// One directory that holds everything.
    Merged {
        /// That directory, as a stack of one layer that is nobody else's.
        stack: StackPlace,
        /// The best coverage that reading it can give.
        best: Coverage,
    },
}

/// Finds places, and remembers the image configurations that it had parsed.
#[derive(Debug)]
pub struct Places {
    program: Program,
    configs: HashMap<Digest, Option<Vec<Digest>>>,
}

impl Places {
    /// Starts `program` for the workers that parse image configurations.
    pub fn new(program: Program) -> Self {
        Self { program, configs: HashMap::new() }
    }

    /// Where `container` can be read below `host`, the place where the host's root is seen.
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
                let diff_ids = self.proved(container, &chain);
                let mut ids = layer_ids(&chain, diff_ids.as_deref()).into_iter();
                let place = |layer: snapshot::Layer| LayerPlace { id: ids.next(), root: layer.root };
                let stack = StackPlace {
                    layers: stack.layers.into_iter().map(place).collect(),
                    marks: if stack.userxattr { MarkNamespace::User } else { MarkNamespace::Trusted },
                    upper: stack.upper,
                    mounted: mounted(container),
                };
                Place::Stack { stack, chain, diff_ids }
            }
        }
    }

    /// The diff IDs, base first, of the configuration that belongs to the container's chain (newest first): names move, so
    /// only a configuration whose chain IDs are the snapshots' own counts.
    fn proved(&mut self, container: &Container, chain: &[Digest]) -> Option<Vec<Digest>> {
        let base_first: Vec<Digest> = chain.iter().rev().copied().collect();
        container.configs.iter().find_map(|bytes| self.parse(bytes).filter(|diff_ids| proves(diff_ids, &base_first)))
    }

    fn parse(&mut self, bytes: &[u8]) -> Option<Vec<Digest>> {
        let program = &self.program;
        self.configs
            .entry(Digest::of(bytes))
            .or_insert_with(|| {
                let config = program.parse_config(bytes, false).ok()?;
                config.diff_ids.iter().map(|diff_id| diff_id.parse().ok()).collect()
            })
            .clone()
    }
}

/// Where the container's root is mounted, if it runs and this process can see that.
fn mounted(container: &Container) -> Option<PathBuf> {
    if container.status != Status::Running {
        return None;
    }
    let mountinfo = std::fs::read("/proc/self/mountinfo").ok()?;
    mounted_root(&mountinfo, &container.containerd_namespace, &container.id)
}
