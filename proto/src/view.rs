//! The merged view of a stack, computed from path tables alone: what overlayfs would show, without reading a disk.
//!
//! For a requested path, each layer has nothing, shows something, or hides the path of older layers: with a whiteout at the path or above
//! it, with an opaque directory above it, or with anything but a directory above it
//! ([overlayfs, whiteouts and opaque directories](https://docs.kernel.org/filesystems/overlayfs.html)). The newest layer that has
//! something decides. A view loads only the requested paths, so it stays small compared with the tables.

use std::collections::HashMap;

use crate::inventory::Inventory;
use crate::paths::Node;

/// Maximum number of symbolic links followed for one path, as in the kernel (`MAXSYMLINKS`).
const MAX_HOPS: usize = 40;

/// Kind of a path in one layer of a view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Entry {
    /// The layer does not have the path.
    #[default]
    Absent,
    /// A regular file.
    File,
    /// A directory.
    Dir {
        /// Whether it is marked opaque.
        opaque: bool,
    },
    /// A symbolic link with its target.
    Symlink(Box<[u8]>),
    /// A whiteout.
    Whiteout,
    /// A device, FIFO or socket.
    Other,
}

/// Effect of a layer on a path of the merged tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// None: older layers decide.
    Absent,
    /// The layer hides the path of older layers and shows nothing.
    Hides,
    /// The layer shows this.
    Shows(&'a Entry),
}

/// Reason why a path cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadEnd {
    /// A component is missing or not a directory.
    Missing,
    /// More symbolic links than the kernel would follow.
    Loop,
}

/// The merged view of a stack, newest layer first.
#[derive(Debug)]
pub struct View<'a> {
    layers: &'a [&'a Inventory],
    /// Numbers of the loaded paths and all their ancestors.
    numbers: HashMap<Vec<u8>, usize>,
    /// Number of the parent directory, by number; the root's children have none.
    parents: Vec<Option<usize>>,
    /// Kind of each path in each layer, by number and then by layer.
    entries: Vec<Entry>,
}

impl<'a> View<'a> {
    /// Creates a view without loaded paths.
    pub fn new(layers: &'a [&'a Inventory]) -> Self {
        Self { layers, numbers: HashMap::new(), parents: Vec::new(), entries: Vec::new() }
    }

    /// Loads `paths` and their ancestors from every layer, in one pass over the tables.
    pub fn learn<'p>(&mut self, paths: impl IntoIterator<Item = &'p [u8]>) {
        let known = self.parents.len();
        for path in paths {
            self.number(path);
        }
        if self.parents.len() == known {
            return;
        }
        self.entries.resize(self.parents.len() * self.layers.len(), Entry::Absent);
        for (layer, inventory) in self.layers.iter().enumerate() {
            let mut entries = inventory.paths.iter();
            while let Some((path, node)) = entries.next_entry() {
                if let Some(number) = self.numbers.get(path).filter(|number| **number >= known) {
                    self.entries[number * self.layers.len() + layer] = match node {
                        Node::File => Entry::File,
                        Node::Dir { opaque } => Entry::Dir { opaque },
                        Node::Symlink(target) => Entry::Symlink(target.into()),
                        Node::Whiteout => Entry::Whiteout,
                        Node::Other => Entry::Other,
                    };
                }
            }
        }
    }

    fn number(&mut self, path: &[u8]) -> usize {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        // Ancestors first; a loop instead of a recursion, since an attacker chooses the depth of paths.
        let mut parent = None;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            let next = self.parents.len();
            let number = *self.numbers.entry(path[..end].to_vec()).or_insert(next);
            if number == next {
                self.parents.push(parent);
            }
            parent = Some(number);
        }
        parent.unwrap_or_default()
    }

    fn entry(&self, layer: usize, number: usize) -> &Entry {
        &self.entries[number * self.layers.len() + layer]
    }

    /// Returns the effect of `layer` on `path`, which must be loaded.
    pub fn effect(&self, layer: usize, path: &[u8]) -> Effect<'_> {
        let Some(number) = self.numbers.get(path).copied() else { return Effect::Absent };
        match self.entry(layer, number) {
            Entry::Absent => {}
            Entry::Whiteout => return Effect::Hides,
            shown => return Effect::Shows(shown),
        }
        let mut ancestor = self.parents[number];
        while let Some(number) = ancestor {
            match self.entry(layer, number) {
                Entry::Absent | Entry::Dir { opaque: false } => ancestor = self.parents[number],
                Entry::Dir { opaque: true } | Entry::File | Entry::Symlink(_) | Entry::Whiteout | Entry::Other => {
                    return Effect::Hides;
                }
            }
        }
        Effect::Absent
    }

    /// Returns what the merged tree shows at `path` and the layer that it comes from. The path must be loaded.
    pub fn visible(&self, path: &[u8]) -> Option<(usize, &Entry)> {
        for layer in 0..self.layers.len() {
            match self.effect(layer, path) {
                Effect::Absent => {}
                Effect::Hides => return None,
                Effect::Shows(entry) => return Some((layer, entry)),
            }
        }
        None
    }

    /// Returns whether a layer newer than `layer` has a directory above `path`: if the directory's opaque mark could not be read, the
    /// directory may hide the path.
    pub fn lies_below_newer_directory(&self, layer: usize, path: &[u8]) -> bool {
        let mut ancestor = self.numbers.get(path).and_then(|number| self.parents[*number]);
        while let Some(number) = ancestor {
            if (0..layer).any(|newer| matches!(self.entry(newer, number), Entry::Dir { .. })) {
                return true;
            }
            ancestor = self.parents[number];
        }
        false
    }

    /// Follows every symbolic link in `path`, in the merged tree with its own root, and returns the resulting path. Loads the paths that
    /// it needs.
    ///
    /// # Errors
    /// When a component is missing, or links form a loop.
    pub fn resolve(&mut self, path: &[u8]) -> Result<Vec<u8>, DeadEnd> {
        let mut pending: Vec<Vec<u8>> = split(path);
        let mut resolved: Vec<u8> = Vec::new();
        let mut hops = 0;
        while let Some(name) = pending.pop() {
            // Everything above a name is a directory, or the loop would have ended.
            if name == b"." {
                continue;
            }
            if name == b".." {
                resolved.truncate(resolved.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            let mut next = resolved.clone();
            if !next.is_empty() {
                next.push(b'/');
            }
            next.extend_from_slice(&name);
            self.learn([next.as_slice()]);
            match self.visible(&next).ok_or(DeadEnd::Missing)?.1 {
                Entry::Symlink(target) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Err(DeadEnd::Loop);
                    }
                    if target.first() == Some(&b'/') {
                        resolved.clear();
                    }
                    pending.extend(split(target));
                }
                Entry::Dir { .. } => resolved = next,
                _ if pending.is_empty() => resolved = next,
                _ => return Err(DeadEnd::Missing),
            }
        }
        Ok(resolved)
    }
}

/// Returns the components of a path, last first. A trailing slash counts as `.`, since it requires a directory. Other empty components
/// are skipped.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let name = |(at, name): (usize, &[u8])| match name {
        b"" if at == 0 => Some(b".".to_vec()),
        b"" => None,
        name => Some(name.to_vec()),
    };
    path.rsplit(|byte| *byte == b'/').enumerate().filter_map(name).collect()
}
