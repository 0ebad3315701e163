//! The path table of a layer: each of its paths with its kind, about five bytes per path after compression.

use std::cmp::Ordering;

use crate::budget::{ALLOCATION, Budget};
use crate::codec::{DecodeError, MAX_PATH, Reader, Writer};

/// Kind of a path in a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// A regular file.
    File,
    /// A directory; an opaque directory hides the content of the same directory in older layers.
    Dir {
        /// Whether it is marked opaque.
        opaque: bool,
    },
    /// A symbolic link, with its target.
    Symlink(&'a [u8]),
    /// The removal of this path from older layers.
    Whiteout,
    /// A device, FIFO or socket: never evidence, but it hides the same path of older layers as a file does.
    Other,
}

/// Compares two paths by the order of a walk: component by component, a directory before its content.
pub fn walk_order(a: &[u8], b: &[u8]) -> Ordering {
    // A slash sorts before every byte that a name can contain.
    let key = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(key).cmp(b.iter().map(key))
}

/// Every path of a layer, in [`walk_order`], front-coded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathTable {
    count: u64,
    entries: Vec<u8>,
}

impl PathTable {
    /// Returns the number of paths.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Returns the size of the table in memory, bytes.
    pub fn size(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Iterates over the paths. The table was checked when it was built or decoded, so this cannot fail.
    pub fn iter(&self) -> PathIter<'_> {
        PathIter { reader: Reader::new(&self.entries, Budget::new(0, 0)), path: Vec::new(), shared: 0 }
    }

    /// Returns the table as a node builds it that cannot read overlay's opaque marks, or `None` if it has no opaque directory.
    pub(crate) fn without_marks(&self) -> Option<Self> {
        let mut paths = self.iter();
        while !matches!(paths.next_entry()?, (_, Node::Dir { opaque: true })) {}
        let (mut builder, mut paths) = (PathTableBuilder::default(), self.iter());
        while let Some((path, node)) = paths.next_entry() {
            let node = if let Node::Dir { .. } = node { Node::Dir { opaque: false } } else { node };
            builder.push(path, &node);
        }
        Some(builder.finish())
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.number(self.count);
        w.bytes(&self.entries);
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = r.number()?;
        let entries = r.bytes()?;
        r.budget.reserve(ALLOCATION + entries.len())?;
        let mut reader = Reader::new(entries, Budget::new(0, 0));
        let mut path: Vec<u8> = Vec::new();
        let mut seen = 0;
        while !reader.is_at_end() {
            r.budget.step(1)?;
            // The shared part was checked with the path before.
            let (shared, rest) = reader.front_coded(&path)?;
            let ordered = seen == 0 || walk_order(&path[shared..], rest) == Ordering::Less;
            if shared + rest.len() > MAX_PATH {
                return Err(r.invalid("length of a path"));
            }
            path.truncate(shared);
            path.extend_from_slice(rest);
            let name = path[..shared].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
            // The work is that of the part that is new, and of the name that it continues.
            r.budget.step((path.len() - name) as u64 / 16)?;
            if !ordered || !is_relative(&path[name..]) {
                return Err(r.invalid("path table"));
            }
            read_node(&mut reader)?;
            seen += 1;
        }
        if seen != count {
            return Err(r.invalid("path table"));
        }
        Ok(Self { count, entries: entries.to_vec() })
    }
}

/// Returns whether `path` is relative and normalized: no leading slash, no empty name, no `.` or `..`.
pub fn is_relative(path: &[u8]) -> bool {
    !path.contains(&0) && path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}

/// Builds a [`PathTable`] from paths in [`walk_order`].
#[derive(Debug, Default)]
pub struct PathTableBuilder {
    count: u64,
    writer: Writer,
    previous: Vec<u8>,
}

impl PathTableBuilder {
    /// Appends a path.
    ///
    /// # Panics
    /// In debug builds, when `path` does not come after the path before it: the walk that feeds the builder is ordered.
    pub fn push(&mut self, path: &[u8], node: &Node<'_>) {
        debug_assert!(self.count == 0 || walk_order(&self.previous, path) == Ordering::Less);
        self.writer.front_coded(&self.previous, path);
        write_node(&mut self.writer, node);
        self.previous.clear();
        self.previous.extend_from_slice(path);
        self.count += 1;
    }

    /// Returns the size of the table so far, bytes.
    pub fn size(&self) -> usize {
        self.writer.0.len()
    }

    /// Returns the finished table.
    pub fn finish(self) -> PathTable {
        PathTable { count: self.count, entries: self.writer.0 }
    }
}

fn write_node(w: &mut Writer, node: &Node<'_>) {
    match node {
        Node::File => w.byte(0),
        Node::Dir { opaque: false } => w.byte(1),
        Node::Dir { opaque: true } => w.byte(2),
        Node::Symlink(target) => {
            w.byte(3);
            w.bytes(target);
        }
        Node::Whiteout => w.byte(4),
        Node::Other => w.byte(5),
    }
}

fn read_node<'a>(r: &mut Reader<'a>) -> Result<Node<'a>, DecodeError> {
    Ok(match r.byte()? {
        0 => Node::File,
        1 => Node::Dir { opaque: false },
        2 => Node::Dir { opaque: true },
        3 => {
            let target = r.bytes()?;
            if target.len() > MAX_PATH {
                return Err(r.invalid("length of a target"));
            }
            Node::Symlink(target)
        }
        4 => Node::Whiteout,
        5 => Node::Other,
        _ => return Err(r.invalid("kind")),
    })
}

/// Iterates over the paths of a table, lending one at a time.
#[derive(Debug)]
pub struct PathIter<'a> {
    reader: Reader<'a>,
    path: Vec<u8>,
    shared: usize,
}

impl<'a> PathIter<'a> {
    /// Returns the next path and its kind.
    pub fn next_entry(&mut self) -> Option<(&[u8], Node<'a>)> {
        if self.reader.is_at_end() {
            return None;
        }
        let (shared, rest) = self.reader.front_coded(&self.path).ok()?;
        self.path.truncate(shared);
        self.path.extend_from_slice(rest);
        self.shared = shared;
        let node = read_node(&mut self.reader).ok()?;
        Some((&self.path, node))
    }

    /// Returns how many bytes the path that was returned last shares with the one before it.
    pub fn shared(&self) -> usize {
        self.shared
    }

    /// Returns the path that was returned last.
    pub fn path(&self) -> &[u8] {
        &self.path
    }
}
