//! Reads the merged tree of a stack of layers.

use std::collections::BTreeMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;

use rustix::fs::{AtFlags, FileType};

use crate::error::{Error, ErrorKind};
use crate::layer::{Kind, Layer, LayerReader, Metadata, Options};
use crate::marks::Marks;
use crate::walk::Listing;

/// An entry of the merged tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackEntry {
    /// Path from the root, without a leading slash.
    pub path: Vec<u8>,
    /// Kind of the entry; never a whiteout.
    pub kind: Kind,
    /// The newest layer that has the entry; 0 is the writable layer if there is one, otherwise the newest layer.
    pub layer: usize,
}

/// A path of the merged tree.
struct Found {
    metadata: Metadata,
    /// Layers that contribute to the path, newest first: one, except for a merged directory.
    layers: Vec<usize>,
}

/// A stack of layers, newest first, merged as overlayfs does.
#[derive(Debug)]
pub struct Stack {
    layers: Vec<LayerReader>,
    options: Options,
}

impl Stack {
    /// Creates a stack of `layers`, newest first, below the writable layer `upper` if one is given.
    pub fn new(layers: Vec<Layer>, upper: Option<Layer>, options: Options) -> Self {
        let upper = upper.map(|layer| LayerReader::writable(layer, options));
        let layers =
            upper.into_iter().chain(layers.into_iter().map(|layer| LayerReader::new(layer, options))).collect();
        Self { layers, options }
    }

    /// Returns whether opaque directories are recognized. Check this before everything else.
    pub fn marks(&self) -> Marks {
        self.options.marks
    }

    /// Returns the metadata of `path`, without following symbolic links: see [`Self::resolve`].
    ///
    /// # Errors
    /// When the path is not visible.
    pub fn metadata(&self, path: &[u8]) -> Result<Metadata, Error> {
        Ok(self.find(path)?.metadata)
    }

    /// Opens the regular file at `path`. No symbolic link is followed: see [`Self::resolve`].
    ///
    /// # Errors
    /// As [`LayerReader::open`].
    pub fn open(&self, path: &[u8]) -> Result<File, Error> {
        let found = self.find(path)?;
        self.newest(&found, path)?.open(path)
    }

    /// Returns the target of the symbolic link at `path`.
    ///
    /// # Errors
    /// When `path` is not a symbolic link.
    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let found = self.find(path)?;
        self.newest(&found, path)?.read_link(path)
    }

    /// Returns the entries of the directory at `path`, sorted by name.
    ///
    /// # Errors
    /// When `path` is not a directory.
    pub fn read_dir(&self, path: &[u8]) -> Result<Vec<StackEntry>, Error> {
        let found = self.find(path)?;
        if found.metadata.kind != Kind::Dir {
            return Err(Error::new(ErrorKind::WrongKind("a directory"), "listing", path));
        }
        let mut entries: BTreeMap<Vec<u8>, StackEntry> = BTreeMap::new();
        let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
        for layer in found.layers {
            let reader = self.reader(layer, path)?;
            let dir = reader.open_dir(path)?;
            let marks = reader.dir_marks(dir.as_fd(), path)?;
            let listing = Listing::read(dir.as_fd(), &mut buffer, self.options.limits.directory_entries, path)?;
            let mut at = 0;
            while let Some((name, file_type)) = listing.get(at) {
                at += 1;
                if entries.contains_key(name) {
                    continue;
                }
                let full = join(path, name);
                let kind = match file_type {
                    FileType::Directory => Kind::Dir,
                    FileType::RegularFile if marks.xwhiteouts && reader.is_xwhiteout(&full) => Kind::Whiteout,
                    FileType::RegularFile => Kind::File,
                    _ => {
                        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW);
                        Kind::of(&stat.map_err(|errno| Error::system(errno, "looking at", &full))?)
                    }
                };
                entries.insert(name.to_vec(), StackEntry { path: full, kind, layer });
            }
        }
        Ok(entries.into_values().filter(|entry| entry.kind != Kind::Whiteout).collect())
    }

    /// Visits every entry, a directory before its content, names in order of their bytes.
    ///
    /// # Errors
    /// When a directory cannot be read, or a limit is reached.
    pub fn walk(&self, visit: &mut dyn FnMut(&StackEntry) -> ControlFlow<()>) -> Result<(), Error> {
        let limits = &self.options.limits;
        let mut met = 0_u64;
        let mut pending = vec![self.read_dir(b"")?.into_iter()];
        while let Some(entries) = pending.last_mut() {
            let Some(entry) = entries.next() else {
                pending.pop();
                continue;
            };
            met += 1;
            if met > limits.entries {
                return Err(Error::new(ErrorKind::Limit("entries", limits.entries), "walking", &entry.path));
            }
            if visit(&entry).is_break() {
                return Ok(());
            }
            if entry.kind == Kind::Dir {
                if pending.len() >= limits.depth {
                    let limit = ErrorKind::Limit("directories above an entry", limits.depth as u64);
                    return Err(Error::new(limit, "walking", &entry.path));
                }
                pending.push(self.read_dir(&entry.path)?.into_iter());
            }
        }
        Ok(())
    }

    /// Follows every symbolic link in `path` and at its end, in the merged tree, and returns the resulting path. Absolute targets start at
    /// the tree's own root, and `..` does not leave it.
    ///
    /// # Errors
    /// When a component is missing or not a directory, or there are more than [`Limits::hops`](crate::Limits::hops) links.
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let limit = self.options.limits.hops;
        let mut pending = names(path);
        let mut resolved: Vec<u8> = Vec::new();
        let mut hops = 0;
        while let Some(name) = pending.pop() {
            // Every parent is a directory, otherwise the loop would have ended.
            if name == b"." {
                continue;
            }
            if name == b".." {
                resolved.truncate(resolved.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            let next = join(&resolved, &name);
            if next.len() > self.options.limits.path_bytes {
                let limit = ErrorKind::Limit("bytes of a path", self.options.limits.path_bytes as u64);
                return Err(Error::new(limit, "resolving", path));
            }
            let found = self.find(&next)?;
            match found.metadata.kind {
                Kind::Symlink => {
                    hops += 1;
                    if hops > limit {
                        return Err(Error::new(ErrorKind::Limit("symbolic links", limit as u64), "resolving", path));
                    }
                    let target = self.newest(&found, &next)?.read_link(&next)?;
                    if target.first() == Some(&b'/') {
                        resolved.clear();
                    }
                    pending.extend(names(&target));
                }
                Kind::Dir => resolved = next,
                _ if pending.is_empty() => resolved = next,
                _ => return Err(Error::new(ErrorKind::WrongKind("a directory"), "resolving", &next)),
            }
        }
        Ok(resolved)
    }

    fn reader(&self, layer: usize, path: &[u8]) -> Result<&LayerReader, Error> {
        self.layers.get(layer).ok_or_else(|| Error::not_found(path))
    }

    fn newest(&self, found: &Found, path: &[u8]) -> Result<&LayerReader, Error> {
        self.reader(found.layers.first().copied().unwrap_or(usize::MAX), path)
    }

    /// Looks up `path` as overlayfs does: from the root, each component in the layers of the directory above it.
    fn find(&self, path: &[u8]) -> Result<Found, Error> {
        if path.first() == Some(&b'/') || names(path).iter().any(|name| name == b"..") {
            return Err(Error::new(ErrorKind::InvalidPath, "looking up", path));
        }
        let mut layers: Vec<usize> = (0..self.layers.len()).collect();
        let mut metadata = Metadata::of(&self.reader(0, path)?.look(b"")?.1);
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain((!path.is_empty()).then_some(path.len())) {
            if metadata.kind != Kind::Dir {
                return Err(Error::new(ErrorKind::WrongKind("a directory"), "looking up", path));
            }
            (metadata, layers) = self.find_in(&layers, &path[..end])?;
        }
        Ok(Found { metadata, layers })
    }

    /// Looks up one component in the layers of the directory above it.
    fn find_in(&self, above: &[usize], path: &[u8]) -> Result<(Metadata, Vec<usize>), Error> {
        let mut found: Option<(Metadata, Vec<usize>)> = None;
        for layer in above {
            let reader = self.reader(*layer, path)?;
            let stat = match reader.look(path) {
                Ok((_, stat)) => stat,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let metadata = Metadata::of(&stat);
            let parent = &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
            if metadata.kind == Kind::Whiteout || self.is_xwhiteout(reader, parent, path, &metadata)? {
                break;
            }
            let dir = metadata.kind == Kind::Dir;
            match &mut found {
                None => found = Some((metadata, vec![*layer])),
                Some((_, layers)) if dir => layers.push(*layer),
                Some(_) => break,
            }
            if !dir || reader.dir_marks(reader.open_dir(path)?.as_fd(), path)?.opaque {
                break;
            }
        }
        found.ok_or_else(|| Error::not_found(path))
    }

    fn is_xwhiteout(
        &self,
        reader: &LayerReader,
        parent: &[u8],
        path: &[u8],
        metadata: &Metadata,
    ) -> Result<bool, Error> {
        if metadata.kind != Kind::File || metadata.size != 0 {
            return Ok(false);
        }
        let marks = reader.dir_marks(reader.open_dir(parent)?.as_fd(), parent)?;
        Ok(marks.xwhiteouts && reader.is_xwhiteout(path))
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

/// Returns the components of a path, last first. A trailing slash counts as `.`, since it requires a directory. Other empty components
/// are skipped.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let name = |(at, name): (usize, &[u8])| match name {
        b"" if at == 0 => Some(b".".to_vec()),
        b"" => None,
        name => Some(name.to_vec()),
    };
    path.rsplit(|byte| *byte == b'/').enumerate().filter_map(name).collect()
}
