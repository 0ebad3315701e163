//! The API server's view of containers: the pod and the workload of each, whether the workload is excluded, and its configuration issues.
//!
//! [`Watch`] keeps a [`Cluster`] in sync with the API server. [`Reviews`] asks the API server about tokens and permissions. Everything else is pure
//! functions over the few fields of Kubernetes objects that are needed.

pub mod checks;
mod choice;
mod objects;
mod owners;

pub use choice::{Labels, LabelsError, is_kind, is_named};
pub use objects::{EXCLUDE, Marks, Values};
pub use owners::{ObjectMeta, OwnerReference, Workload, workload};

#[cfg(feature = "programs")]
mod connect;
#[cfg(feature = "programs")]
mod identity;
#[cfg(feature = "programs")]
mod policy;
#[cfg(feature = "programs")]
mod policy_file;
#[cfg(feature = "programs")]
mod publish;
#[cfg(feature = "programs")]
mod reviews;
#[cfg(feature = "programs")]
mod selection;
#[cfg(feature = "programs")]
mod state;
#[cfg(feature = "programs")]
mod watch;

#[cfg(feature = "programs")]
pub use self::{
    connect::{api_server_port, connect, error_message, has_kubeconfig},
    identity::{IdentityError, cluster_uid},
    policy::PolicyError,
    policy_file::PolicyFile,
    publish::keep_published,
    reviews::{AUDIENCE, Access, GROUP, Identity, ReviewError, Reviews, review},
    selection::Selection,
    state::{Cluster, ContainerKind, Node, Place, Pod, PodContainer, Pods, Touched, Uid},
    watch::{Changes, Task, Watch},
};

#[cfg(all(test, feature = "programs"))]
pub(crate) use reviews::fake;
