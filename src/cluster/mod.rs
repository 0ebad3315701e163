//! What the API server knows of containers: which pod and which workload they are part of.
//!
//! Pure functions over the few fields of Kubernetes' objects that are needed; nothing here speaks to an API server.

pub mod checks;
mod owners;

pub use owners::{ObjectMeta, OwnerReference, Workload, workload};
