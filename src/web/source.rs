//! The trait by which the web module reads the aggregator's state, and its parameters.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::pin::Pin;

use super::model::{
    AdvisoryItem, ContainerItem, DeliveryChanged, DeliveryDetail, DeliveryItem, FindingItem, HasPage, ImageItem,
    IssueItem, LayerItem, NodeItem, PackageItem, Page, Pushed, Status, TargetItem, TargetTest, WorkloadDetail,
    WorkloadItem,
};
use crate::export::{Document, Image, Read, Rows};
use crate::store::StoreError;

/// The result of a [`Source`] method.
pub type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = Result<T, Failure>> + Send + 'a>>;

/// The containers that a caller may read. Every list, count, aggregate and cursor is computed over the scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All containers.
    All,
    /// Containers of pods in these Kubernetes namespaces.
    Namespaces(BTreeSet<String>),
}

impl Scope {
    /// Returns whether the scope contains the pods of `namespace`; `None` means containers without a pod.
    pub fn sees(&self, namespace: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(namespaces) => namespace.is_some_and(|namespace| namespaces.contains(namespace)),
        }
    }
}

/// The parameters of a list request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Filters, as pairs of field and value.
    pub filters: Vec<(String, String)>,
    /// The field to sort by; `None` for the resource's default order.
    pub sort: Option<String>,
    /// Whether the order is descending.
    pub descending: bool,
    /// Maximum number of items of the page.
    pub limit: usize,
    /// [`Page::next`] of the previous page.
    pub cursor: Option<String>,
}

/// A document that begins to be exported.
#[derive(Debug)]
pub struct Export {
    /// Its head.
    pub document: Document,
    /// Its images, each of which is in the scope.
    pub images: Vec<Image>,
    /// Reads packages and findings of these images.
    pub rows: Box<dyn RowSource>,
}

/// Reads rows of an export page by page.
pub trait RowSource: std::fmt::Debug + Send {
    /// Returns the next page of what `read` names; `None` after the last one. The next call begins anew.
    fn next(&mut self, read: Read) -> Future<'_, Option<Rows>>;
}

/// The state that the web module serves; the aggregator implements it.
///
/// Every method returns only what is in the scope. [`list`](super::list) documents the filters and sort orders of lists.
pub trait Source: Send + Sync {
    /// Returns the status.
    fn status<'a>(&'a self, scope: &'a Scope) -> Future<'a, Status>;
    /// Lists workloads.
    fn workloads<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<WorkloadItem>>;
    /// Returns the workload with this namespace, kind (in any form that kubectl accepts) and name.
    fn workload<'a>(&'a self, scope: &'a Scope, named: [&'a str; 3]) -> Future<'a, WorkloadDetail>;
    /// Lists configuration issues.
    fn issues<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<IssueItem>>;
    /// Lists nodes.
    fn nodes<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<NodeItem>>;
    /// Lists containers.
    fn containers<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<ContainerItem>>;
    /// Lists images.
    fn images<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<ImageItem>>;
    /// Lists layers.
    fn layers<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<LayerItem>>;
    /// Lists packages.
    fn packages<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<PackageItem>>;
    /// Lists findings.
    fn findings<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<FindingItem>>;
    /// Returns the vulnerability with this ID or alias, and the packages and containers that it affects.
    fn advisory<'a>(&'a self, scope: &'a Scope, id: &'a str) -> Future<'a, AdvisoryItem>;
    /// Lists the containers with a package or a vulnerability. Only `limit` and `cursor` of `list` are used.
    fn who_has<'a>(&'a self, scope: &'a Scope, question: &'a str, list: &'a List) -> Future<'a, HasPage>;
    /// Begins an export of the images of the containers that `list` selects.
    fn export<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Export>;
    /// Lists targets of deliveries.
    fn targets<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<TargetItem>>;
    /// Lists deliveries that wait or were refused.
    fn deliveries<'a>(&'a self, scope: &'a Scope, list: &'a List) -> Future<'a, Page<DeliveryItem>>;
    /// Returns a delivery with its content.
    fn delivery<'a>(&'a self, scope: &'a Scope, id: i64) -> Future<'a, DeliveryDetail>;
    /// Has a refused delivery sent again, or removes it.
    fn settle_delivery<'a>(&'a self, caller: &'a str, id: i64, again: bool) -> Future<'a, DeliveryChanged>;
    /// Has a target get a snapshot.
    fn resync_target<'a>(&'a self, caller: &'a str, name: &'a str) -> Future<'a, DeliveryChanged>;
    /// Sends a sample to a target, and returns its answer.
    fn test_target<'a>(&'a self, caller: &'a str, name: &'a str) -> Future<'a, TargetTest>;
    /// Stores the advisory database in `file`, which `caller` has pushed, and matches all packages against it. If the request had a
    /// signature, it is in `FILE.minisig`. The web module removes both files afterwards.
    fn push_database<'a>(&'a self, caller: &'a str, file: PathBuf, allow_shrink: bool) -> Future<'a, Pushed>;
    /// Distrusts a node, or trusts it again, on behalf of `caller`. Returns the number of layers that other nodes have to read again.
    fn distrust<'a>(&'a self, caller: &'a str, node: &'a str, distrusted: bool) -> Future<'a, u64>;
    /// Records that `caller` tried to change something and failed: for lack of a right (`denied`), or for another reason.
    fn audit_refused<'a>(&'a self, caller: &'a str, action: &'a str, target: &'a str, denied: bool) -> Future<'a, ()>;
}

/// Why a [`Source`] could not answer a request. Each variant contains the message for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request is invalid.
    Invalid(String),
    /// The object does not exist, or the caller may not read it.
    Missing(String),
    /// The change was refused.
    Refused(String),
    /// The store could not be read.
    Store(String),
    /// The change needs more room on disk than there is.
    NotStored(String),
    /// The change was started and is not complete yet.
    Unavailable(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
