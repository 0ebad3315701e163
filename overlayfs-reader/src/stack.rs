//! Reads the merged tree of a stack of layers.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::layer::{Kind, Layer, LayerReader, Metadata, Options};
use crate::marks::{DirMarks, Marks};
use crate::sys;
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
    path: Vec<u8>,
    metadata: Metadata,
    /// The layers that contribute to the path, newest first: one, except for a merged directory.
    parts: Vec<Part>,
}

/// The entry of one layer at a path.
struct Part {
    layer: usize,
    /// Handle, from which names are looked up; none for the layer's root.
    handle: Option<OwnedFd>,
}

/// A stack of layers, newest first, merged as overlayfs does.
#[derive(Debug)]
pub struct Stack {
    layers: Vec<LayerReader>,
    options: Options,
    /// Lookups of [`Self::resolve`] so far.
    lookups: Cell<u64>,
}

impl Stack {
    /// Creates a stack of `layers`, newest first, below the writable layer `upper` if one is given.
    pub fn new(layers: Vec<Layer>, upper: Option<Layer>, options: Options) -> Self {
        let upper = upper.map(|layer| LayerReader::writable(layer, options));
        let layers =
            upper.into_iter().chain(layers.into_iter().map(|layer| LayerReader::new(layer, options))).collect();
        Self { layers, options, lookups: Cell::new(0) }
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
        self.newest(&found)?.open(path)
    }

    /// Returns the target of the symbolic link at `path`.
    ///
    /// # Errors
    /// When `path` is not a symbolic link.
    pub fn read_link(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let found = self.find(path)?;
        self.newest(&found)?.read_link(path)
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
        for part in found.parts {
            let (layer, reader) = (part.layer, self.reader(part.layer, path)?);
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
    /// When a component is missing or not a directory, there are more than [`Limits::hops`](crate::Limits::hops) links, or the stack has
    /// spent its [`Limits::lookups`](crate::Limits::lookups).
    pub fn resolve(&self, path: &[u8]) -> Result<Vec<u8>, Error> {
        let limit = self.options.limits.hops;
        let mut pending = names(path);
        let mut resolved: Vec<u8> = Vec::new();
        // The directory at `resolved`, while its handles are open.
        let mut at: Option<Found> = None;
        let mut hops = 0;
        while let Some(name) = pending.pop() {
            // Every parent is a directory, otherwise the loop would have ended.
            if name == b"." {
                continue;
            }
            if name == b".." {
                resolved.truncate(parent(&resolved).len());
                at = None;
                continue;
            }
            let above = match at.take() {
                Some(above) => above,
                None => self.descend(&resolved, &|above| self.count(above, path))?,
            };
            self.count(&above, path)?;
            let found = self.enter(above, &name)?;
            match found.metadata.kind {
                Kind::Symlink => {
                    hops += 1;
                    if hops > limit {
                        return Err(Error::new(ErrorKind::Limit("symbolic links", limit as u64), "resolving", path));
                    }
                    let target = self.newest(&found)?.read_link(&found.path)?;
                    if target.first() == Some(&b'/') {
                        resolved.clear();
                    }
                    pending.extend(names(&target));
                }
                Kind::Dir => {
                    resolved.clone_from(&found.path);
                    at = Some(found);
                }
                _ if pending.is_empty() => resolved = found.path,
                _ => return Err(Error::new(ErrorKind::WrongKind("a directory"), "resolving", &found.path)),
            }
        }
        Ok(resolved)
    }

    /// Counts the lookups of one name in the directory `above`, for the resolution of `path`.
    fn count(&self, above: &Found, path: &[u8]) -> Result<(), Error> {
        let limit = self.options.limits.lookups;
        self.lookups.set(self.lookups.get() + above.parts.len() as u64);
        if self.lookups.get() > limit {
            return Err(Error::new(ErrorKind::Limit("lookups in a stack of layers", limit), "resolving", path));
        }
        Ok(())
    }

    fn reader(&self, layer: usize, path: &[u8]) -> Result<&LayerReader, Error> {
        self.layers.get(layer).ok_or_else(|| Error::not_found(path))
    }

    /// Returns the reader of the newest layer that has the path.
    fn newest(&self, found: &Found) -> Result<&LayerReader, Error> {
        self.reader(found.parts.first().map_or(usize::MAX, |part| part.layer), &found.path)
    }

    /// Reads the marks of a layer's directory at `path`.
    fn marks_of(&self, part: &Part, path: &[u8]) -> Result<DirMarks, Error> {
        if self.options.marks == Marks::Unreadable {
            return Ok(DirMarks::default());
        }
        let reader = self.reader(part.layer, path)?;
        let dir = sys::open_beneath(reader.below(part.handle.as_ref()), b"", OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| Error::system(errno, "listing", path))?;
        reader.dir_marks(dir.as_fd(), path)
    }

    /// Looks up `path` as overlayfs does: from the root, each component in the layers of the directory above it.
    fn find(&self, path: &[u8]) -> Result<Found, Error> {
        if path.first() == Some(&b'/') || names(path).iter().any(|name| name == b"..") {
            return Err(Error::new(ErrorKind::InvalidPath, "looking up", path));
        }
        self.descend(path, &|_| Ok(()))
    }

    /// Looks up a `path` without `..`; `count` is called with each directory in which a name is looked up.
    fn descend(&self, path: &[u8], count: &dyn Fn(&Found) -> Result<(), Error>) -> Result<Found, Error> {
        let parts = (0..self.layers.len()).map(|layer| Part { layer, handle: None }).collect();
        let metadata = Metadata::of(&self.reader(0, path)?.look(b"")?.1);
        let mut found = Found { path: Vec::new(), metadata, parts };
        for name in path.split(|byte| *byte == b'/').filter(|_| !path.is_empty()) {
            if found.metadata.kind != Kind::Dir {
                return Err(Error::new(ErrorKind::WrongKind("a directory"), "looking up", path));
            }
            count(&found)?;
            found = self.enter(found, name)?;
        }
        Ok(found)
    }

    /// Looks up one name in the directory `above`, from its handles: a lookup from the root would cost the depth at each level. Each
    /// handle is closed once its layer is done, so that no more are open than there are layers.
    ///
    /// Handles serve lookups only. Contents are read from the layer's root, since a directory may be moved out of the layer while its handle
    /// is open.
    fn enter(&self, above: Found, name: &[u8]) -> Result<Found, Error> {
        let path = join(&above.path, name);
        let limit = self.options.limits.path_bytes;
        if path.len() > limit {
            return Err(Error::new(ErrorKind::Limit("bytes of a path", limit as u64), "looking up", &path));
        }
        let mut metadata = None;
        let mut parts = Vec::new();
        for part in above.parts {
            let reader = self.reader(part.layer, &path)?;
            let (handle, stat) = match sys::look(reader.below(part.handle.as_ref()), name) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(Error::system(errno, "looking up", &path)),
            };
            let here = Metadata::of(&stat);
            if here.kind == Kind::Whiteout || self.is_xwhiteout(reader, &part, &above.path, (&path, &here))? {
                break;
            }
            let dir = here.kind == Kind::Dir;
            // A file hides everything below it, and a directory hides a file below it.
            if !dir && metadata.is_some() {
                break;
            }
            metadata.get_or_insert(here);
            let part = Part { layer: part.layer, handle: Some(handle) };
            let ends = !dir || self.marks_of(&part, &path)?.opaque;
            parts.push(part);
            if ends {
                break;
            }
        }
        let metadata = metadata.ok_or_else(|| Error::not_found(&path))?;
        Ok(Found { path, metadata, parts })
    }

    /// Returns whether an entry of the directory `above` is a regular file that is marked as a whiteout.
    fn is_xwhiteout(
        &self,
        reader: &LayerReader,
        above: &Part,
        above_path: &[u8],
        (path, metadata): (&[u8], &Metadata),
    ) -> Result<bool, Error> {
        if metadata.kind != Kind::File || metadata.size != 0 {
            return Ok(false);
        }
        Ok(self.marks_of(above, above_path)?.xwhiteouts && reader.is_xwhiteout(path))
    }
}

/// Returns the path of the directory above `path`.
fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
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
