//! Who can answer, what may be asked, and for whom.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;

use super::model::{
    AdvisoryItem, ContainerItem, FindingItem, HasItem, ImageItem, IssueItem, LayerItem, NodeItem, PackageItem, Page,
    Pushed, Status, WorkloadDetail, WorkloadItem,
};
use crate::store::StoreError;

/// An answer that takes time.
pub type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = Result<T, Failure>> + Send + 'a>>;

/// What a caller may see. Every list, count, aggregate and cursor is computed over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// Containers of pods in these Kubernetes namespaces.
    Namespaces(BTreeSet<String>),
}

impl Scope {
    /// Whether a container of a pod in `namespace` may be seen; `None` is a container without a pod.
    pub fn sees(&self, namespace: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(namespaces) => namespace.is_some_and(|namespace| namespaces.contains(namespace)),
        }
    }
}

/// What a list is asked for. A resource that does not know one of the filters says so, and answers nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Filters: name of the field, what it has to be.
    pub filters: Vec<(String, String)>,
    /// The field to sort by; the resource's own order without it.
    pub sort: Option<String>,
    /// From the greatest to the least.
    pub descending: bool,
    /// Most items of a page.
    pub limit: usize,
    /// Where to go on: a [`Page`]'s `next`.
    pub cursor: Option<String>,
}

/// Who can answer: the aggregator.
pub trait Source: Send + Sync {
    /// The state of everything.
    fn status<'a>(&'a self, scope: &'a Scope) -> Future<'a, Status>;
    /// Workloads. Sorts: `name`, `findings`.
    fn workloads<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<WorkloadItem>>;
    /// The workload of a namespace, by its kind, as people write it, and its name.
    fn workload<'a>(&'a self, scope: &'a Scope, named: [&'a str; 3]) -> Future<'a, WorkloadDetail>;
    /// Configuration issues of workloads.
    fn issues<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<IssueItem>>;
    /// Nodes. Filters: `name`, `attached`, `distrusted`.
    fn nodes<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<NodeItem>>;
    /// Containers. Filters: `node`, `namespace`, `pod`, `name`, `image`, `stack`, `coverage`.
    fn containers<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<ContainerItem>>;
    /// Images. Filters: `name`, `stack`, `layer`, `coverage`, `namespace`, `node`.
    fn images<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<ImageItem>>;
    /// Layers. Filters: `id`, `state`, `disputed`, `node`, `stack`. Sorts: `id`, `findings` (impact), `containers`.
    fn layers<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<LayerItem>>;
    /// Packages. Filters: `type`, `name`, `version`, `stack`, `namespace`, `node`. Sorts: `purl`, `containers`.
    fn packages<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<PackageItem>>;
    /// Findings. Filters: `id`, `package`, `severity` (at least), `status`, `node`, `namespace`, `container`, `image`, `stack`.
    /// Sorts: `severity`, `id`.
    fn findings<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<FindingItem>>;
    /// What a problem touches, by any of its names.
    fn advisory<'a>(&'a self, scope: &'a Scope, id: &'a str) -> Future<'a, AdvisoryItem>;
    /// Who has a package or a problem. `limit` and `cursor` as in a list.
    fn who_has<'a>(&'a self, scope: &'a Scope, question: &'a str, list: &'a List) -> Future<'a, Page<HasItem>>;
    /// Takes the advisory database in `file`, which `who` has pushed, and matches everything against it. A signature that came with it lies
    /// beside it, as `FILE.minisig`. What is still there afterwards is removed.
    fn push_database<'a>(&'a self, who: &'a str, file: PathBuf, allow_shrink: bool) -> Future<'a, Pushed>;
    /// Believes a node no more, or again. Returns how many layers have to be read again.
    fn distrust<'a>(&'a self, node: &'a str, distrusted: bool) -> Future<'a, u64>;
}

/// A question could not be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is none, and why.
    Question(String),
    /// There is no such thing, as far as the caller may see.
    Missing(String),
    /// What was offered was refused.
    Refused(String),
    /// The store could not be read.
    Store(String),
    /// It was begun, and is not complete yet.
    Unavailable(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
