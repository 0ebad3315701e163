//! The merged view of overlayfs layers, read without mounting.
//!
//! An overlay mount stacks directories: an entry of a newer layer hides that of an older one, directories of one path merge, a
//! *whiteout* removes an entry, an *opaque* directory hides everything below it in older layers
//! ([kernel documentation](https://docs.kernel.org/filesystems/overlayfs.html)). This crate reads such layers where they lie:
//! [`LayerReader`] one layer alone, with its whiteouts and opaque directories, and [`Stack`] the merged tree.
//!
//! Layers may be hostile. Every lookup starts at the layer's root handle with `openat2` beneath it and follows no symbolic
//! link; symbolic links are resolved here, in the merged tree with its own root. A file is opened by handle first, looked
//! at, and only then opened for reading, so that no FIFO, socket or device ever is. No function takes an absolute path
//! after [`Layer::open`].
//!
//! Whether overlay's marks can be read at all is a property that callers have to look at: see [`Marks`].

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
