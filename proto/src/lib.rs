//! Outcrop's words as plain types, and the pure laws over them.
//!
//! This is the ground floor: no input or output, no async, nothing of containerd or Kubernetes.
//! What a word means is written in `docs/architecture.md`; its type lives here.

pub mod container;
pub mod fact;
pub mod package;

pub use container::{Container, Coverage, CoverageState, Mount, Pod, Status};
pub use fact::{Claim, Distribution, Fact, FileDigest, Unidentified};
pub use package::{Package, PackageType, SourcePackage};
