//! The merged view of a stack, computed from path tables alone: what overlayfs would show, without reading a disk.
//!
//! For a requested path, each layer has nothing, shows something, or hides the path of older layers: with a whiteout at the path or above
//! it, with an opaque directory above it, or with anything but a directory above it
//! ([overlayfs, whiteouts and opaque directories](https://docs.kernel.org/filesystems/overlayfs.html)). The newest layer that has
//! something decides. A view loads only the requested paths, so it stays small compared with the tables.
//!
//! An image chooses the paths, so the view is linear in them: a path is a node below its parent, of which only the name is stored; a node
//! has an entry for each layer that has the path, and none for the others; and what the directories above hide is computed once.

use std::collections::HashMap;
use std::rc::Rc;

use crate::budget::{ALLOCATION, Budget, OverBudget};
use crate::codec::MAX_PATH;
use crate::inventory::Inventory;
use crate::paths::Node;

/// Maximum number of symbolic links followed for one path, as in the kernel (`MAXSYMLINKS`).
const MAX_HOPS: usize = 40;

/// Kind of a path in one layer of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// A regular file.
    File,
    /// A directory.
    Dir {
        /// Whether it is marked opaque.
        opaque: bool,
    },
    /// A symbolic link with its target.
    Symlink(&'a [u8]),
    /// A whiteout.
    Whiteout,
    /// A device, FIFO or socket.
    Other,
}

impl Entry<'_> {
    /// Returns whether the entry hides older layers below its path.
    fn hides_below(&self) -> bool {
        !matches!(self, Self::Dir { opaque: false })
    }
}

/// Reason why a path cannot be resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadEnd {
    /// A component is missing or not a directory.
    Missing,
    /// More symbolic links than the kernel would follow.
    Loop,
}

/// Number of a path in a view. The root is 0, and a directory's number is smaller than those of its content.
pub(crate) type PathId = u32;

/// A path in a view.
#[derive(Debug)]
struct PathNode<'a> {
    parent: PathId,
    name: u32,
    /// The entries of layers at the path, newest layer first.
    entries: Vec<(u32, Entry<'a>)>,
    /// The newest layer of which a directory above the path hides what older layers have at the path.
    floor: Option<u32>,
    /// The newest layer that has a directory above the path.
    below_directory: Option<u32>,
}

/// The merged view of a stack, newest layer first.
#[derive(Debug)]
pub struct View<'a> {
    layers: &'a [&'a Inventory],
    /// Numbers of the names of all nodes.
    names: HashMap<Rc<[u8]>, u32>,
    /// The names by number.
    by_number: Vec<Rc<[u8]>>,
    children: HashMap<(PathId, u32), PathId>,
    nodes: Vec<PathNode<'a>>,
    /// Number of nodes whose entries are loaded; the others come behind them.
    loaded: usize,
}

/// Memory for a node, in bytes: the node, its place below its parent, and the place of its name.
const NODE: usize = size_of::<PathNode<'_>>() * 2 + 48 + 64;

impl<'a> View<'a> {
    /// Creates a view without loaded paths.
    pub fn new(layers: &'a [&'a Inventory]) -> Self {
        let root = PathNode { parent: 0, name: u32::MAX, entries: Vec::new(), floor: None, below_directory: None };
        Self {
            layers,
            names: HashMap::new(),
            by_number: Vec::new(),
            children: HashMap::new(),
            nodes: vec![root],
            loaded: 1,
        }
    }

    /// Loads `paths` and their ancestors from every layer, in one pass over the tables.
    ///
    /// # Errors
    /// When the paths or the pass exceed the budget.
    pub fn learn<'p>(
        &mut self,
        paths: impl IntoIterator<Item = &'p [u8]>,
        budget: &mut Budget,
    ) -> Result<(), OverBudget> {
        for path in paths {
            self.add(path, budget)?;
        }
        self.load(budget)
    }

    /// Adds a path and its ancestors, to be loaded.
    pub(crate) fn add(&mut self, path: &[u8], budget: &mut Budget) -> Result<PathId, OverBudget> {
        budget.step(1 + path.len() as u64 / 8)?;
        let mut at = 0;
        for name in path.split(|byte| *byte == b'/') {
            let name_id = match self.names.get(name) {
                Some(id) => *id,
                None => {
                    budget.reserve(2 * ALLOCATION + name.len())?;
                    let (id, name) = (self.by_number.len() as u32, Rc::<[u8]>::from(name));
                    self.by_number.push(Rc::clone(&name));
                    self.names.insert(name, id);
                    id
                }
            };
            at = match self.children.get(&(at, name_id)) {
                Some(child) => *child,
                None => {
                    budget.reserve(NODE)?;
                    let child = self.nodes.len() as PathId;
                    self.children.insert((at, name_id), child);
                    let node =
                        PathNode { parent: at, name: name_id, entries: Vec::new(), floor: None, below_directory: None };
                    self.nodes.push(node);
                    child
                }
            };
        }
        Ok(at)
    }

    /// Loads the nodes that were added.
    pub(crate) fn load(&mut self, budget: &mut Budget) -> Result<(), OverBudget> {
        let known = self.loaded;
        if self.nodes.len() == known {
            return Ok(());
        }
        // The components of the path at hand: where each ends, and its node if it has one.
        let mut components: Vec<(usize, Option<PathId>)> = Vec::new();
        let layers = self.layers;
        for (layer, inventory) in layers.iter().enumerate() {
            components.clear();
            let mut entries = inventory.paths.iter();
            while let Some((_, node)) = entries.next_entry() {
                let (shared, path) = (entries.shared(), entries.path());
                let is_kept = |end: usize| end < shared || (end == shared && path.get(end) == Some(&b'/'));
                while components.pop_if(|(end, _)| !is_kept(*end)).is_some() {}
                let (mut start, mut at) = match components.last() {
                    Some((end, at)) => (end + 1, *at),
                    None => (0, Some(0)),
                };
                budget.step(1 + (path.len() - start.min(path.len())) as u64 / 16)?;
                for name in path.get(start..).unwrap_or_default().split(|byte| *byte == b'/') {
                    // A directory that nobody requested has no content that somebody did.
                    at = at.and_then(|at| self.child(at, name));
                    start += name.len();
                    components.push((start, at));
                    start += 1;
                }
                let Some(node_id) = at.map(|at| at as usize).filter(|at| *at >= known) else { continue };
                // A list has room for four entries, and twice its length when it grows.
                let room = if self.nodes[node_id].entries.is_empty() { 4 } else { 2 };
                budget.reserve(room * size_of::<(u32, Entry<'_>)>())?;
                let entry = match node {
                    Node::File => Entry::File,
                    Node::Dir { opaque } => Entry::Dir { opaque },
                    Node::Symlink(target) => Entry::Symlink(target),
                    Node::Whiteout => Entry::Whiteout,
                    Node::Other => Entry::Other,
                };
                self.nodes[node_id].entries.push((layer as u32, entry));
            }
        }
        for number in known..self.nodes.len() {
            let parent = &self.nodes[self.nodes[number].parent as usize];
            let hiding = parent.entries.iter().find(|(_, entry)| entry.hides_below()).map(|(layer, _)| *layer);
            let directory = parent.entries.iter().find(|(_, entry)| matches!(entry, Entry::Dir { .. }));
            let floor = [parent.floor, hiding].into_iter().flatten().min();
            let below = [parent.below_directory, directory.map(|(layer, _)| *layer)].into_iter().flatten().min();
            self.nodes[number].floor = floor;
            self.nodes[number].below_directory = below;
        }
        self.loaded = self.nodes.len();
        Ok(())
    }

    fn child(&self, parent: PathId, name: &[u8]) -> Option<PathId> {
        self.children.get(&(parent, *self.names.get(name)?)).copied()
    }

    /// Returns the number of a path that was added.
    pub(crate) fn find(&self, path: &[u8]) -> Option<PathId> {
        path.split(|byte| *byte == b'/').try_fold(0, |at, name| self.child(at, name))
    }

    /// Returns what the merged tree shows at a path, and the layer that it comes from.
    pub(crate) fn visible_at(&self, path: PathId) -> Option<(usize, Entry<'a>)> {
        let node = &self.nodes[path as usize];
        let (layer, entry) = node.entries.first()?;
        // A directory of the same layer does not hide what the layer itself has.
        let hidden = node.floor.is_some_and(|floor| floor < *layer);
        (!hidden && *entry != Entry::Whiteout).then_some((*layer as usize, *entry))
    }

    /// Returns what layers older than `layer` have at a path, newest first, up to the first layer that hides the path and has nothing there.
    pub(crate) fn older(
        &self,
        path: PathId,
        layer: usize,
        budget: &mut Budget,
    ) -> Result<Vec<(usize, Entry<'a>)>, OverBudget> {
        let mut older = Vec::new();
        let mut last = layer as u32;
        for (layer, entry) in self.nodes[path as usize].entries.iter().filter(|(older, _)| *older as usize > layer) {
            if self.next_hiding(path, last, budget)?.is_some_and(|hiding| hiding < *layer) {
                break;
            }
            budget.reserve(2 * size_of::<(usize, Entry<'_>)>())?;
            older.push((*layer as usize, *entry));
            last = *layer;
        }
        Ok(older)
    }

    /// Returns the newest layer that is older than `layer` and hides the path by what it has above it.
    fn next_hiding(&self, path: PathId, layer: u32, budget: &mut Budget) -> Result<Option<u32>, OverBudget> {
        let mut found = None;
        let mut above = &self.nodes[path as usize];
        while above.parent != 0 {
            above = &self.nodes[above.parent as usize];
            budget.step(1 + above.entries.len() as u64)?;
            let hiding = above.entries.iter().find(|(older, entry)| *older > layer && entry.hides_below());
            found = [found, hiding.map(|(layer, _)| *layer)].into_iter().flatten().min();
        }
        Ok(found)
    }

    /// Returns whether a layer newer than `layer` hides the path, or has it as anything but a directory that hides nothing.
    pub(crate) fn is_replaced(&self, path: PathId, layer: usize) -> bool {
        let node = &self.nodes[path as usize];
        let own = node.entries.iter().find(|(_, entry)| entry.hides_below()).map(|(layer, _)| *layer);
        [node.floor, own].into_iter().flatten().any(|newer| (newer as usize) < layer)
    }

    /// Returns whether a layer newer than `layer` has a directory above the path: if the directory's opaque mark could not be read, the
    /// directory may hide the path.
    pub(crate) fn is_below_newer_directory(&self, path: PathId, layer: usize) -> bool {
        self.nodes[path as usize].below_directory.is_some_and(|directory| (directory as usize) < layer)
    }

    /// Returns what the merged tree shows at `path` and the layer that it comes from. The path must be loaded.
    pub fn visible(&self, path: &[u8]) -> Option<(usize, Entry<'a>)> {
        self.visible_at(self.find(path)?)
    }

    /// Follows every symbolic link in each of `paths`, in the merged tree with its own root, and returns the resulting paths. Loads the
    /// paths that it needs: all of them together take one pass over the tables for each link of the longest chain.
    ///
    /// # Errors
    /// When the links exceed the budget.
    pub(crate) fn resolve<'p>(
        &mut self,
        paths: &[&'p [u8]],
        budget: &mut Budget,
    ) -> Result<Vec<Result<PathId, DeadEnd>>, OverBudget>
    where
        'a: 'p,
    {
        let mut walks: Vec<Walk<'p>> = paths.iter().map(|path| Walk::new(path)).collect();
        loop {
            let mut wanted = Vec::new();
            for walk in &mut walks {
                if let Some(needed) = walk.proceed(self, budget)? {
                    wanted.push(needed);
                }
            }
            if wanted.is_empty() {
                return Ok(walks.into_iter().map(|walk| walk.ended.unwrap_or(Ok(walk.at))).collect());
            }
            self.learn(wanted.iter().map(Vec::as_slice), budget)?;
        }
    }

    /// Returns the path of a node.
    pub(crate) fn path(&self, node: PathId) -> Vec<u8> {
        let above = |at: &PathId| Some(self.nodes[*at as usize].parent);
        let nodes = std::iter::successors(Some(node), above).take_while(|at| *at != 0);
        let mut names: Vec<&[u8]> = nodes.map(|at| &*self.by_number[self.nodes[at as usize].name as usize]).collect();
        names.reverse();
        names.join(&b'/')
    }
}

/// A path on its way through symbolic links.
#[derive(Debug)]
struct Walk<'p> {
    /// Components that are left, last first.
    pending: Vec<&'p [u8]>,
    /// The directory that was reached.
    at: PathId,
    hops: usize,
    ended: Option<Result<PathId, DeadEnd>>,
}

impl<'p> Walk<'p> {
    fn new(path: &'p [u8]) -> Self {
        Self { pending: components(path).collect(), at: 0, hops: 0, ended: None }
    }

    /// Goes on as far as the view is loaded. Returns the path that has to be loaded first, if there is one.
    fn proceed<'a: 'p>(&mut self, view: &View<'a>, budget: &mut Budget) -> Result<Option<Vec<u8>>, OverBudget> {
        while self.ended.is_none() {
            let Some(name) = self.pending.last().copied() else {
                self.ended = Some(Ok(self.at));
                break;
            };
            budget.step(1 + name.len() as u64 / 8)?;
            // Everything above a name is a directory, or the walk would have ended.
            if matches!(name, b"." | b"..") {
                self.pending.pop();
                if name == b".." {
                    self.at = view.nodes[self.at as usize].parent;
                }
                continue;
            }
            let next = view.child(self.at, name).filter(|next| (*next as usize) < view.loaded);
            let Some(next) = next else {
                let wanted = self.literal(view);
                budget.step(wanted.len() as u64)?;
                if wanted.len() <= MAX_PATH {
                    return Ok(Some(wanted));
                }
                // The kernel follows no longer one either.
                self.ended = Some(Err(DeadEnd::Missing));
                break;
            };
            self.pending.pop();
            match view.visible_at(next) {
                Some((_, Entry::Symlink(target))) => {
                    self.hops += 1;
                    if self.hops > MAX_HOPS {
                        self.ended = Some(Err(DeadEnd::Loop));
                        break;
                    }
                    if target.first() == Some(&b'/') {
                        self.at = 0;
                    }
                    budget.reserve(size_of::<&[u8]>() * (2 + target.len() / 2))?;
                    self.pending.extend(components(target));
                }
                Some((_, Entry::Dir { .. })) => self.at = next,
                Some(_) if self.pending.is_empty() => self.at = next,
                _ => self.ended = Some(Err(DeadEnd::Missing)),
            }
        }
        Ok(None)
    }

    /// Returns the path that is left if no further link comes, as far as it is no longer than a path may be.
    fn literal(&self, view: &View<'_>) -> Vec<u8> {
        let mut path = view.path(self.at);
        let names = self.pending.iter().rev().take_while(|name| !matches!(**name, b"." | b".."));
        for (number, name) in names.enumerate() {
            if number > 0 && path.len() + 1 + name.len() > MAX_PATH {
                break;
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }
}

/// Returns the components of a path, last first. A trailing slash counts as `.`, since it requires a directory. Other empty components
/// are skipped.
fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.rsplit(|byte| *byte == b'/').enumerate().filter_map(|(at, name)| match name {
        b"" if at == 0 => Some(&b"."[..]),
        b"" => None,
        name => Some(name),
    })
}
