//! The merged view of a stack, from path tables alone: what overlayfs would show, without looking at a disk.
//!
//! For every path asked for, each layer either says nothing, shows something, or hides what older layers have: with a
//! whiteout at the path or above it, with an opaque directory above it, or with anything but a directory above it
//! ([overlayfs, whiteouts and opaque directories](https://docs.kernel.org/filesystems/overlayfs.html)). The newest layer that
//! does not stay silent decides. A view learns only the paths that are asked for, so that it stays small beside the tables.

use std::collections::HashMap;

use crate::inventory::Inventory;
use crate::paths::Node;

/// Most symbolic links followed for one path, as in the kernel (`MAXSYMLINKS`).
const MAX_HOPS: usize = 40;

/// What a layer has at a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Said {
    /// Nothing.
    #[default]
    Silent,
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

/// What a layer does to a path of the merged tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect<'a> {
    /// Nothing: older layers decide.
    Silent,
    /// Hides what older layers have, and shows nothing itself.
    Hides,
    /// Shows this.
    Shows(&'a Said),
}

/// Why a path leads to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadEnd {
    /// A name on the way is missing, or is no directory.
    Missing,
    /// More symbolic links than the kernel would follow.
    Loop,
}

/// The merged view of a stack, newest layer first.
#[derive(Debug)]
pub struct View<'a> {
    layers: &'a [&'a Inventory],
    /// Path → number, for the learned paths and all their ancestors.
    numbers: HashMap<Vec<u8>, usize>,
    /// Number of the parent directory, by number; the root's children have none.
    parents: Vec<Option<usize>>,
    /// What each layer has, by number and then by layer.
    said: Vec<Said>,
}

impl<'a> View<'a> {
    /// A view that has learned nothing yet.
    pub fn new(layers: &'a [&'a Inventory]) -> Self {
        Self { layers, numbers: HashMap::new(), parents: Vec::new(), said: Vec::new() }
    }

    /// Learns what every layer has at `paths` and their ancestors, in one pass over the tables.
    pub fn learn<'p>(&mut self, paths: impl IntoIterator<Item = &'p [u8]>) {
        let known = self.parents.len();
        for path in paths {
            self.number(path);
        }
        if self.parents.len() == known {
            return;
        }
        self.said.resize(self.parents.len() * self.layers.len(), Said::Silent);
        for (layer, inventory) in self.layers.iter().enumerate() {
            let mut entries = inventory.paths.iter();
            while let Some((path, node)) = entries.next_entry() {
                if let Some(number) = self.numbers.get(path).filter(|number| **number >= known) {
                    self.said[number * self.layers.len() + layer] = match node {
                        Node::File => Said::File,
                        Node::Dir { opaque } => Said::Dir { opaque },
                        Node::Symlink(target) => Said::Symlink(target.into()),
                        Node::Whiteout => Said::Whiteout,
                        Node::Other => Said::Other,
                    };
                }
            }
        }
    }

    fn number(&mut self, path: &[u8]) -> usize {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        // Ancestors first; a loop and not a recursion, since paths are as deep as an attacker likes.
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

    fn said(&self, layer: usize, number: usize) -> &Said {
        &self.said[number * self.layers.len() + layer]
    }

    /// What `layer` does to `path`, which has to be learned.
    pub fn effect(&self, layer: usize, path: &[u8]) -> Effect<'_> {
        let Some(number) = self.numbers.get(path).copied() else { return Effect::Silent };
        match self.said(layer, number) {
            Said::Silent => {}
            Said::Whiteout => return Effect::Hides,
            shown => return Effect::Shows(shown),
        }
        let mut ancestor = self.parents[number];
        while let Some(number) = ancestor {
            match self.said(layer, number) {
                Said::Silent | Said::Dir { opaque: false } => ancestor = self.parents[number],
                Said::Dir { opaque: true } | Said::File | Said::Symlink(_) | Said::Whiteout | Said::Other => {
                    return Effect::Hides;
                }
            }
        }
        Effect::Silent
    }

    /// What the merged tree shows at `path` and which layer it comes from. The path has to be learned.
    pub fn visible(&self, path: &[u8]) -> Option<(usize, &Said)> {
        for layer in 0..self.layers.len() {
            match self.effect(layer, path) {
                Effect::Silent => {}
                Effect::Hides => return None,
                Effect::Shows(said) => return Some((layer, said)),
            }
        }
        None
    }

    /// Whether a layer newer than `layer` has a directory above `path`: if that one's opaque mark could not be read, it
    /// may hide the path.
    pub fn lies_below_newer_directory(&self, layer: usize, path: &[u8]) -> bool {
        let mut ancestor = self.numbers.get(path).and_then(|number| self.parents[*number]);
        while let Some(number) = ancestor {
            if (0..layer).any(|newer| matches!(self.said(newer, number), Said::Dir { .. })) {
                return true;
            }
            ancestor = self.parents[number];
        }
        false
    }

    /// Where `path` leads once every symbolic link in it is followed, in the merged tree with its own root. Learns what it
    /// needs.
    ///
    /// # Errors
    /// Where the way ends.
    pub fn resolve(&mut self, path: &[u8]) -> Result<Vec<u8>, DeadEnd> {
        let mut pending: Vec<Vec<u8>> = split(path);
        let mut resolved: Vec<u8> = Vec::new();
        let mut hops = 0;
        while let Some(name) = pending.pop() {
            // Whatever is above a name is a directory, or the loop would have ended.
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
                Said::Symlink(target) => {
                    hops += 1;
                    if hops > MAX_HOPS {
                        return Err(DeadEnd::Loop);
                    }
                    if target.first() == Some(&b'/') {
                        resolved.clear();
                    }
                    pending.extend(split(target));
                }
                Said::Dir { .. } => resolved = next,
                _ if pending.is_empty() => resolved = next,
                _ => return Err(DeadEnd::Missing),
            }
        }
        Ok(resolved)
    }
}

/// The names of a path, last first. A trailing slash counts as `.`: it asks for a directory. Other empty names mean nothing.
fn split(path: &[u8]) -> Vec<Vec<u8>> {
    let name = |(at, name): (usize, &[u8])| match name {
        b"" if at == 0 => Some(b".".to_vec()),
        b"" => None,
        name => Some(name.to_vec()),
    };
    path.rsplit(|byte| *byte == b'/').enumerate().filter_map(name).collect()
}
