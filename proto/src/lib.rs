//! The shared vocabulary of Outcrop as plain types, and the pure functions over them.
//!
//! This crate does no input or output, has no async code, and depends on neither containerd nor Kubernetes. `docs/architecture.md` defines
//! the terms.

pub mod budget;
pub mod clock;
mod codec;
pub mod container;
pub mod digest;
pub mod ecosystem;
pub mod escape;
pub mod fact;
#[cfg(feature = "grpc")]
pub mod frugal;
pub mod identity;
pub mod inventory;
pub mod merge;
pub mod package;
pub mod paths;
pub mod severity;
#[cfg(feature = "grpc")]
mod shape;
pub mod status;
pub mod view;
#[cfg(feature = "grpc")]
pub mod wire;
pub mod word;

pub use budget::{Budget, OverBudget};
pub use codec::{DecodeError, MAX_PATH};
pub use container::{Container, ContainerKey, ImageDetails, Mount, Pod, Runtime, Status, Step, Storage};
pub use digest::{Digest, hex};
pub use ecosystem::{Ecosystem, VersionOrder};
pub use fact::{Claim, Distribution, Fact, FileDigest, Unidentified};
pub use identity::LayerId;
pub use inventory::{EvidenceRecord, Inventory, Tombstone};
pub use merge::{Answers, KnownPath, Merged, Owner, StackPackage, Unread, merge};
pub use package::{Package, PackageType, SourcePackage};
pub use paths::{Node, PathTable, PathTableBuilder};
pub use severity::{Severity, SeverityCounts};
pub use status::{
    AssessedState, Coverage, CoverageState, FindingState, FindingStatus, LayerState, NodeState, SubjectKind,
};
pub use word::{UnknownWord, Word};
