//! What the API server knows of containers: which pod and which workload they are part of, whether these are in view, and what their
//! specifications leave to be desired.
//!
//! [`Watch`] keeps a [`Cluster`] in step with the API server; everything else is pure functions over the few fields of Kubernetes' objects
//! that are needed.

pub mod checks;
mod choice;
mod connect;
mod objects;
mod owners;
mod policy;
mod publish;
mod reviews;
mod selection;
mod state;
mod watch;

pub use choice::{Labels, LabelsError, is_kind, is_named};
pub use connect::connect;
pub use objects::{Marks, Values};
pub use owners::{ObjectMeta, OwnerReference, Workload, workload};
pub use policy::{Policy, PolicyError};
pub use publish::keep_published;
pub use reviews::{AUDIENCE, Access, GROUP, Identity, ReviewError, Reviews};
pub use selection::{EXCLUDE, Selection};
pub use state::{Cluster, ContainerKind, Node, Place, Pod, PodContainer, Pods, Touched, Uid};
pub use watch::Watch;
