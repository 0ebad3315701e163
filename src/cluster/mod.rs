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

#[cfg(not(fuzzing))]
mod connect;
#[cfg(not(fuzzing))]
mod identity;
#[cfg(not(fuzzing))]
mod policy;
#[cfg(not(fuzzing))]
mod policy_file;
#[cfg(not(fuzzing))]
mod publish;
#[cfg(not(fuzzing))]
mod reviews;
#[cfg(not(fuzzing))]
mod selection;
#[cfg(not(fuzzing))]
mod state;
#[cfg(not(fuzzing))]
mod watch;

#[cfg(not(fuzzing))]
pub use self::{
    connect::{api_server_port, connect, error_message, has_kubeconfig},
    identity::{IdentityError, cluster_uid},
    policy::PolicyError,
    policy_file::PolicyFile,
    publish::keep_published,
    reviews::{AUDIENCE, Access, GROUP, Identity, ReviewError, Reviews, review},
    selection::{NamespacePatterns, Selection},
    state::{Cluster, ContainerKind, Node, Place, Pod, PodContainer, Pods, Touched, Uid},
    watch::{Changes, Task, Watch},
};

#[cfg(all(test, not(fuzzing)))]
pub(crate) use reviews::fake;
