//! The merged view of overlayfs layers, read without mounting.
//!
//! An overlay mount stacks directories: an entry of a newer layer hides the same entry of older layers, directories of one path merge, a
//! *whiteout* removes an entry, and an *opaque* directory hides its content in older layers
//! ([kernel documentation](https://docs.kernel.org/filesystems/overlayfs.html)). This crate reads the layers in place:
//! [`LayerReader`] reads a single layer, with its whiteouts and opaque directories, and [`Stack`] reads the merged tree.
//!
//! Layers are not trusted. Every lookup starts at the handle of the layer's root, uses `openat2` beneath it, and follows no symbolic link;
//! this crate resolves symbolic links itself, in the merged tree with its own root. It opens a file with `O_PATH` first, checks its type,
//! and only then opens it for reading, so it never opens a FIFO, socket or device. After [`Layer::open`] no function accepts an absolute
//! path.
//!
//! Callers must check whether overlay's marks can be read: see [`Marks`].

mod error;
mod layer;
mod limits;
mod lowerdir;
mod marks;
mod stack;
mod survive;
mod sys;
mod walk;

pub use error::{Error, ErrorKind};
pub use layer::{Kind, Layer, LayerReader, Metadata, Options, Stub};
pub use limits::Limits;
pub use lowerdir::parse_lowerdir;
pub use marks::{MarkNamespace, Marks};
pub use stack::{Stack, StackEntry};
pub use survive::{Survival, survives};
pub use walk::{WalkEnd, WalkEntry};
