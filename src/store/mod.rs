//! The store: the data that survives a restart.
//!
//! Layers have inventories. A stack is merged from its layers into a package set. Matching gives each package verdicts, and each
//! package set findings. Subjects (workload containers, plain containers, nodes) have package sets for a time: runs. Events go to
//! the outbox, and open findings are counted by day.
//!
//! One trait, [`Store`], in parts; [`Sqlite`] implements it in one file. Rules for every implementation, which
//! `tests/store` checks:
//! - A method that returned `Ok` has stored its rows: they survive a kill and a power loss. One that failed has stored nothing.
//! - Dropping the future of a write does not stop the write half way.
//! - Row ids come from the database, are never assigned twice, and are not visible before their transaction is committed.
//! - The store alone determines which stacks have to be merged or matched again: [`Summary::inputs`] and [`Summary::matched`].
//! - The store belongs to one cluster.

mod error;
mod health;
mod outbox;
mod row;
mod sqlite;
mod volume;

use std::collections::BTreeSet;

use async_trait::async_trait;
use jiff::civil::Date;
use outcrop_proto::{Digest, Distribution, LayerId, Package, SeverityCounts};
use prometheus_client::metrics::histogram::Histogram;

pub use error::{ErrorKind, StoreError};
pub use health::{HealthState, Outage, StoreHealth};
pub use outbox::{AuditOutcome, Condition, FindingEvent, IssueEvent, OUTBOX_VERSION, OutboxEvent, OutboxId, OutboxRow};
pub use row::{
    Backlog, BacklogLimit, Change, DeliveryId, DeliveryRow, DocumentRow, FindingChange, NewDelivery, PackageSetState,
    Portion, PortionLimit, Progress, Selects, SnapshotPlace, Target, TargetId, TargetSpec, Told,
};
pub use row::{
    Counts, DayCount, EndedRun, FindingName, FindingRow, FindingsFilter, FindingsOrder, FixedRow, HasRow, InventoryRow,
    Layer, LayerRow, ListedPackage, MergedPackage, MergedStack, PackageRef, PackageRow, PackageSetFindings,
    PackageSetId, PackagesFilter, PackagesOrder, RematchRow, Retention, Run, Seen, SeenFinding, StackId, SubjectKey,
    Summary, Verdict, VerdictId, VulnerabilityRow, WorkloadKey, inputs,
};
pub use row::{NoticeFilter, NoticeId, NoticeRow, NoticeScope, NoticeTotals, PendingNotices, ProblemNotice};
pub use sqlite::{Sqlite, adopt, back_up, needs_migration};
pub use volume::{NoRoom, Space, VolumeError, check_local, check_room, check_writable, free, is_own_entry};

/// The cluster that a store belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    /// UID of the namespace `kube-system`; outside Kubernetes the name given by `--cluster`.
    pub key: String,
    /// Display name.
    pub name: String,
}

impl std::fmt::Display for ClusterIdentity {
    /// Writes the name, and the UID where there is one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.name)?;
        if self.key == self.name { Ok(()) } else { write!(f, " with UID {:?}", self.key) }
    }
}

/// Options for opening a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster. Opening a store of another one fails.
    pub cluster: ClusterIdentity,
    /// Whether events are written to the outbox, because a target is configured.
    pub outbox: bool,
    /// Where the duration of each write transaction is observed, in seconds.
    pub write_duration: Option<Histogram>,
}

/// Room that the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Size of the store, bytes.
    pub used: u64,
    /// Room left, bytes; `None` where the store cannot know.
    pub free: Option<u64>,
}

/// Layers, and the nodes that read them.
#[async_trait]
pub trait Layers {
    /// Stores what a node read of a layer, and replaces what was stored before, including the nodes that verified it.
    async fn put_layer(&self, layer: LayerRow) -> Result<(), StoreError>;
    /// Returns every layer, without its inventory.
    async fn layers(&self) -> Result<Vec<Layer>, StoreError>;
    /// Returns the inventories of these layers in the same order; `None` if one is missing.
    async fn inventories(&self, ids: &[LayerId]) -> Result<Option<Vec<InventoryRow>>, StoreError>;
    /// Records that `node` read the same of a layer. Does nothing if the stored inventory has another digest.
    async fn verified(&self, layer: &LayerId, digest: &Digest, node: &str, at: i64) -> Result<(), StoreError>;
    /// Attributes a layer that the distrusted node `from` read to `to`, which read the same.
    async fn attribute(&self, layer: &LayerId, from: &str, to: &str) -> Result<(), StoreError>;
    /// Removes what `node` read of these layers. Layers that another node has read since then stay.
    async fn forget_layers(&self, ids: &[LayerId], node: &str) -> Result<(), StoreError>;
    /// Records that `by` distrusted a node at `at`, or trusts it again.
    async fn distrust(&self, node: &str, distrusted: bool, by: &str, at: i64) -> Result<(), StoreError>;
    /// Returns the distrusted nodes.
    async fn distrusted(&self) -> Result<Vec<String>, StoreError>;
}

/// Stacks.
#[async_trait]
pub trait Stacks {
    /// Stores the packages of a stack, and replaces those that were stored before. Its findings stay until it is matched, and are not
    /// complete for any database: [`Summary::matched`] is `None`.
    async fn put_stack(&self, stack: &MergedStack, at: i64) -> Result<Summary, StoreError>;
    /// Returns every stack.
    async fn stacks(&self) -> Result<Vec<Summary>, StoreError>;
    /// Returns the stacks whose findings are not complete for `database`, but for those whose packages were removed.
    async fn stacks_to_match(&self, database: &Digest) -> Result<Vec<Summary>, StoreError>;
    /// Returns the packages of a package set.
    async fn packages_of(&self, package_set: PackageSetId) -> Result<Vec<PackageRef>, StoreError>;
    /// Returns packages by row id, each with its distribution; in any order.
    async fn packages(&self, ids: &[i64]) -> Result<Vec<(i64, Package, Option<Distribution>)>, StoreError>;
}

/// Results of matching.
#[async_trait]
pub trait Findings {
    /// Stores verdicts and returns their row ids in the same order. Equal rows are not changed.
    async fn put_verdicts(&self, verdicts: &[Verdict], at: i64) -> Result<Vec<VerdictId>, StoreError>;
    /// Stores all open findings of a package set, which are complete for `database`: others close at `at`, new ones open. Returns the
    /// number of findings that opened and that closed.
    async fn put_findings(
        &self,
        findings: &PackageSetFindings,
        database: &Digest,
        at: i64,
    ) -> Result<(u64, u64), StoreError>;
    /// Records that matching everything against `database` begins.
    async fn begin_rematch(&self, database: &Digest, at: i64) -> Result<i64, StoreError>;
    /// Records that it ended.
    async fn end_rematch(&self, id: i64, outcome: &RematchRow) -> Result<(), StoreError>;
    /// Returns the database of the last rematch, and its result if it ended.
    async fn last_rematch(&self) -> Result<Option<(Digest, Option<RematchRow>)>, StoreError>;
}

/// Subjects, and which package sets they have and had.
#[async_trait]
pub trait History {
    /// Stores runs that began and runs that ended.
    async fn record_runs(&self, begun: &[Run], ended: &[Run]) -> Result<(), StoreError>;
    /// Returns runs that have not ended.
    async fn open_runs(&self) -> Result<Vec<Run>, StoreError>;
    /// Passes all runs of these subjects to `each`, by subject and oldest first, with the findings of these vulnerabilities, or all, in the package
    /// sets. There is one call for each finding of a run, or one without a finding.
    async fn seen(
        &self,
        subjects: &[SubjectKey],
        vulnerabilities: Option<&[String]>,
        each: &mut (dyn FnMut(Seen) + Send),
    ) -> Result<(), StoreError>;
    /// Returns findings that a subject had and does not have `now`, by name, behind `after`. A finding that another version of the package has is not
    /// fixed.
    async fn fixed(
        &self,
        subject: &SubjectKey,
        after: Option<&FindingName>,
        now: i64,
        limit: usize,
    ) -> Result<Vec<FixedRow>, StoreError>;
    /// Removes what is older than `retention` and what nothing refers to. `present` are stacks that a node has now.
    async fn tidy(&self, retention: &Retention, present: &[StackId]) -> Result<(), StoreError>;
    /// Stores the counts of one day, and replaces those that were stored before.
    async fn record_day(&self, day: Date, counts: &[DayCount]) -> Result<(), StoreError>;
    /// Returns the counts of all days since `from`, oldest first.
    async fn days(&self, from: Date) -> Result<Vec<DayCount>, StoreError>;
}

/// Questions over all package sets. A method that takes package sets looks at no others.
#[async_trait]
pub trait Questions {
    /// Returns open findings by severity (worst first), vulnerability, verdict and package set.
    async fn findings(&self, filter: &FindingsFilter<'_>) -> Result<Vec<FindingRow>, StoreError>;
    /// Counts the open findings of package sets by severity, each package set as often as it is given containers.
    async fn count_findings(&self, package_sets: &[(PackageSetId, u64)]) -> Result<SeverityCounts, StoreError>;
    /// Returns verdicts, open or not.
    async fn verdicts(&self, ids: &[VerdictId]) -> Result<Vec<FindingRow>, StoreError>;
    /// Returns packages by name, version and row id.
    async fn list_packages(&self, filter: &PackagesFilter<'_>) -> Result<Vec<PackageRow>, StoreError>;
    /// Returns packages of a package set by package URL, row id and place; behind `after` where there is one.
    async fn listed_packages(
        &self,
        package_set: PackageSetId,
        after: Option<(&str, i64, i64)>,
        limit: usize,
    ) -> Result<Vec<ListedPackage>, StoreError>;
    /// Returns packages of this name, whole or without what precedes its last `:` or `/`, by package set; without `package_sets` of all.
    async fn packages_named(
        &self,
        name: &str,
        package_sets: Option<&[PackageSetId]>,
    ) -> Result<Vec<HasRow>, StoreError>;
    /// Returns packages that have the vulnerability of this name, by package set; without `package_sets` of all.
    async fn packages_with(
        &self,
        vulnerability: &str,
        package_sets: Option<&[PackageSetId]>,
    ) -> Result<Vec<HasRow>, StoreError>;
    /// Returns subjects other than nodes that had one of these package sets and do not have it any more, by subject and package set; with
    /// `namespaces` only containers of workloads there. Continues behind a subject and a package set.
    async fn ended_runs(
        &self,
        package_sets: &[PackageSetId],
        namespaces: Option<&[String]>,
        after: (i64, PackageSetId),
        limit: usize,
    ) -> Result<Vec<EndedRun>, StoreError>;
    /// Returns verdicts of the vulnerability of this name, with the package sets in which they are open.
    async fn vulnerability(&self, name: &str) -> Result<Vec<VulnerabilityRow>, StoreError>;
}

/// Events for targets outside. See [`OutboxEvent`].
#[async_trait]
pub trait Outbox {
    /// Stores events that follow from no other write. The store remembers which [conditions](Condition) they began and did not end.
    async fn append(&self, events: &[OutboxEvent], at: i64) -> Result<(), StoreError>;
    /// Returns at most `limit` events with a row id above `after`, oldest first.
    async fn outbox(&self, after: OutboxId, limit: usize) -> Result<Vec<OutboxRow>, StoreError>;
    /// Returns the conditions of which an event told that they began, and none that they ended.
    async fn open_conditions(&self) -> Result<BTreeSet<Condition>, StoreError>;
}

/// Deliveries: what of the outbox, and of the state of everything, is sent to targets.
///
/// A target is told the state at the time when it is told, so that of several changes of one thing the sum is told: a finding that opened
/// and closed is not told at all.
#[async_trait]
pub trait Deliveries {
    /// Makes these the targets, and returns them in the same order. A new one, and one whose selection changed, gets a snapshot; others are
    /// removed with what waits for them.
    async fn set_targets(&self, targets: &[TargetSpec]) -> Result<Vec<Target>, StoreError>;
    /// Returns what a target is told next.
    async fn portion(
        &self,
        target: TargetId,
        selects: &dyn Selects,
        limit: PortionLimit,
    ) -> Result<Portion, StoreError>;
    /// Stores that a portion is in this delivery, or that there was nothing to deliver in it. Does nothing if a snapshot was requested since.
    async fn enqueue(
        &self,
        target: &Target,
        progress: Progress,
        delivery: Option<NewDelivery>,
    ) -> Result<(), StoreError>;
    /// Returns the oldest delivery that waits for the target, with its body.
    async fn next_delivery(&self, target: TargetId) -> Result<Option<(DeliveryRow, Vec<u8>)>, StoreError>;
    /// Removes a delivery that the target accepted at `at`.
    async fn delivered(&self, id: DeliveryId, at: i64) -> Result<(), StoreError>;
    /// Stores that the target refused a delivery: it waits for a person.
    async fn refuse(&self, id: DeliveryId, reason: &str, at: i64) -> Result<(), StoreError>;
    /// Returns deliveries behind `after`, oldest first.
    async fn deliveries(&self, after: DeliveryId, limit: usize) -> Result<Vec<DeliveryRow>, StoreError>;
    /// Returns a delivery with its body.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<(DeliveryRow, Vec<u8>)>, StoreError>;
    /// Has a refused delivery sent again, or removes it. Returns `false` if there is none.
    async fn settle_refused(&self, id: DeliveryId, again: bool) -> Result<bool, StoreError>;
    /// Has a target get a snapshot.
    async fn resync(&self, target: TargetId) -> Result<(), StoreError>;
    /// Returns what waits for a target.
    async fn backlog(&self, target: TargetId) -> Result<Backlog, StoreError>;
    /// Has no more wait for a target than the limit allows. Returns the number of events that the target is not told of.
    async fn limit_backlog(&self, target: TargetId, limit: BacklogLimit) -> Result<u64, StoreError>;
    /// Removes events that no target waits for, some thousands at a time. Returns whether there may be more.
    async fn remove_told(&self) -> Result<bool, StoreError>;
}

/// Notices: what notification targets tell people. A vulnerability of a workload, and a problem, is told once: over restarts, rollouts and rematches.
#[async_trait]
pub trait Notices {
    /// Stores the progress of a portion, as [`Deliveries::enqueue`] does, and which vulnerabilities of workloads and problems people were not told of
    /// yet. What the first snapshot contains is known to them, but for its summary. Does nothing if a snapshot was requested since.
    async fn note(&self, portion: Portion, filter: NoticeFilter, at: i64) -> Result<(), StoreError>;
    /// Returns what waits for a message.
    async fn pending_notices(&self, target: TargetId, at: i64) -> Result<PendingNotices, StoreError>;
    /// Removes notices that wait and whose workload does not have the vulnerability any more.
    async fn settle_notices(&self, target: TargetId) -> Result<(), StoreError>;
    /// Returns the sums over notices.
    async fn total_notices(&self, target: TargetId, scope: NoticeScope) -> Result<NoticeTotals, StoreError>;
    /// Passes the notices of the worst `vulnerabilities` to `each`: by severity, then number of workloads.
    async fn notices(
        &self,
        target: TargetId,
        scope: NoticeScope,
        vulnerabilities: usize,
        each: &mut (dyn FnMut(NoticeRow) + Send),
    ) -> Result<(), StoreError>;
    /// Returns problems that people were not told of, raised ones first.
    async fn problem_notices(&self, target: TargetId, limit: usize) -> Result<Vec<ProblemNotice>, StoreError>;
    /// Stores a message as a delivery, and that people were told of notices up to this one and of all problems.
    async fn tell_notices(&self, target: TargetId, up_to: NoticeId, delivery: NewDelivery) -> Result<(), StoreError>;
    /// Forgets vulnerabilities that workloads do not have since 7 days, so that people are told when they come back. To be called every hour.
    async fn forget_notices(&self, at: i64) -> Result<(), StoreError>;
}

/// The result of [`Upkeep::correct_times`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CorrectedTimes {
    /// Changed rows.
    pub rows: u64,
    /// The latest time that was stored, in seconds since 1970; 0 if none was changed.
    pub latest: i64,
}

/// Documents that targets keep, and what they are written from. "Told" is what the deliveries of a target contain so far: its filter is applied,
/// and while a snapshot is not complete, it is the part up to its place.
#[async_trait]
pub trait Documents {
    /// Returns a document that a target accepted.
    async fn document(&self, target: TargetId, name: &str) -> Result<Option<DocumentRow>, StoreError>;
    /// Returns documents that a target accepted, by name, behind the name `after`.
    async fn documents(&self, target: TargetId, after: &str, limit: usize) -> Result<Vec<DocumentRow>, StoreError>;
    /// Records that a target accepted documents, and that it removed others.
    async fn record_documents(
        &self,
        target: TargetId,
        accepted: &[DocumentRow],
        removed: &[String],
    ) -> Result<(), StoreError>;
    /// Forgets all documents of a target: it keeps them in another place now.
    async fn forget_documents(&self, target: TargetId) -> Result<(), StoreError>;
    /// Returns whether a target was told everything, so that no snapshot is pending.
    async fn is_complete(&self, target: TargetId) -> Result<bool, StoreError>;
    /// Returns a package set that a target was told of.
    async fn told_package_set(
        &self,
        target: TargetId,
        identity: &Digest,
    ) -> Result<Option<(PackageSetId, PackageSetState)>, StoreError>;
    /// Returns the identities of package sets that a target was told of, by row id, behind `after`.
    async fn told_package_sets(
        &self,
        target: TargetId,
        after: PackageSetId,
        limit: usize,
    ) -> Result<Vec<(PackageSetId, Digest)>, StoreError>;
    /// Returns subjects that a target was told of with their package sets, by row id, behind `after`.
    async fn told_subjects(
        &self,
        target: TargetId,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, SubjectKey, Vec<Digest>)>, StoreError>;
    /// Returns what a target was told of a subject and of the other containers of its workload, by container.
    async fn told_containers(
        &self,
        target: TargetId,
        subject: &SubjectKey,
    ) -> Result<Vec<(SubjectKey, Vec<Digest>)>, StoreError>;
    /// Returns open findings of a package set with the times when they opened (seconds since 1970), by verdict, behind `after`.
    async fn open_findings(
        &self,
        package_set: PackageSetId,
        after: VerdictId,
        limit: usize,
    ) -> Result<Vec<(FindingRow, i64)>, StoreError>;
}

/// The state of the store itself.
#[async_trait]
pub trait Upkeep {
    /// Returns whether the store accepts writes. While it does not, every write fails at once with [`ErrorKind::Paused`].
    fn health(&self) -> &StoreHealth;
    /// Tries a real write, and accepts writes again if it was committed and there is room.
    async fn probe(&self) -> Result<(), StoreError>;
    /// Sets times that are later than `now`, in seconds since 1970, to `now`: a clock that was ahead has written them. Of several generations of one
    /// finding or run that would begin at `now`, the last one stays.
    async fn correct_times(&self, now: i64) -> Result<CorrectedTimes, StoreError>;
    /// Returns the size of the store and the room that is left.
    async fn capacity(&self) -> Result<Capacity, StoreError>;
    /// Returns the cluster that the store belongs to.
    fn cluster(&self) -> &ClusterIdentity;
}

/// The store.
pub trait Store:
    Layers
    + Stacks
    + Findings
    + History
    + Questions
    + Outbox
    + Deliveries
    + Notices
    + Documents
    + Upkeep
    + std::fmt::Debug
    + Send
    + Sync
{
}

impl<T> Store for T where
    T: Layers
        + Stacks
        + Findings
        + History
        + Questions
        + Outbox
        + Deliveries
        + Notices
        + Documents
        + Upkeep
        + std::fmt::Debug
        + Send
        + Sync
{
}
