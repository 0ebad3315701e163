//! Rows of targets and deliveries, and what a target is told.

use std::collections::HashMap;

use outcrop_proto::{Coverage, Digest, Distribution};
use serde::{Deserialize, Serialize};

use super::{FindingRow, PackageSetId, SubjectKey, VerdictId};
use crate::store::{Condition, FindingEvent, OutboxEvent, OutboxId};

/// Row id of a target.
pub type TargetId = i64;

/// Row id of a delivery. It is never assigned again.
pub type DeliveryId = i64;

/// A target as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSpec {
    /// Its name.
    pub name: String,
    /// Digest of what selects its records: when it changes, the target gets a snapshot.
    pub selection: Digest,
}

/// A target, and how much it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its row id.
    pub id: TargetId,
    /// Its name.
    pub name: String,
    /// The last event that its deliveries contain, or that it need not be told.
    pub cursor: OutboxId,
    /// The place in a snapshot; `None` where it is complete.
    pub snapshot: Option<SnapshotPlace>,
    /// Grows whenever a snapshot is requested.
    pub revision: i64,
    /// Number of its last delivery.
    pub sequence: u64,
    /// Events that were dropped because too many waited.
    pub dropped: u64,
    /// When it last accepted a delivery, seconds since 1970.
    pub delivered_at: Option<i64>,
}

/// A place in a snapshot: the state of everything that the target is to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotPlace {
    /// Before its beginning.
    Begin,
    /// Behind the subject with this row id.
    Subjects(i64),
    /// Behind this open condition, in the order of their texts; the empty text precedes all.
    Conditions(String),
}

/// Selects what a target is told.
pub trait Selects: Send + Sync {
    /// Returns whether the target is told of a subject and the findings of its package sets.
    fn subject(&self, subject: &SubjectKey) -> bool;
    /// Returns whether the target is told of a finding in a package set that it is told of.
    fn finding(&self, finding: &FindingEvent) -> bool;
    /// Returns whether the target is told of an event that is about neither.
    fn event(&self, event: &OutboxEvent) -> bool;
}

/// A part of what a target is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When it happened, seconds since 1970; `None` in a snapshot.
    pub at: Option<i64>,
    /// The change.
    pub change: Change,
}

/// A change that a target is told of, with the state at the time when it is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A snapshot begins: what the target knows and the snapshot does not contain is gone when it ends.
    SnapshotBegins {
        /// The advisory database in use.
        database: Option<Digest>,
    },
    /// The snapshot is complete.
    SnapshotEnds,
    /// A package set.
    PackageSet {
        /// The package set.
        package_set: PackageSetState,
        /// Whether all of its findings follow.
        is_new: bool,
    },
    /// No subject that the target is told of has the package set any more.
    PackageSetGone {
        /// Its identity.
        package_set: Digest,
    },
    /// An open finding of a package set.
    Finding {
        /// How it came.
        change: FindingChange,
        /// Identity of the package set.
        package_set: Digest,
        /// The finding.
        finding: FindingRow,
        /// When it opened, seconds since 1970.
        opened: i64,
    },
    /// A finding closed, or is not selected any more.
    FindingClosed {
        /// Identity of the package set.
        package_set: Digest,
        /// The finding when it was last open.
        finding: FindingEvent,
    },
    /// The package sets of a subject, all of them.
    Subject {
        /// The subject.
        subject: SubjectKey,
        /// Identities of its package sets.
        package_sets: Vec<Digest>,
    },
    /// A subject has no package set any more, or is not selected any more.
    SubjectGone {
        /// The subject.
        subject: SubjectKey,
    },
    /// An open condition, in a snapshot.
    Condition(Condition),
    /// Another event.
    Event(OutboxEvent),
}

/// How a target comes to know an open finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingChange {
    /// It is in a package set that is told of as a whole.
    Present,
    /// It opened.
    Opened,
    /// Something about it changed.
    Changed,
}

/// The state of a package set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageSetState {
    /// Its identity: the chain ID of the stack.
    pub identity: Digest,
    /// Its distribution.
    pub distribution: Option<Distribution>,
    /// Number of packages.
    pub packages: u64,
    /// Its coverage.
    pub coverage: Coverage,
    /// The advisory database for which its findings are complete.
    pub matched: Option<Digest>,
}

/// What a target is told next, and the progress of which to take note with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Portion {
    /// The target.
    pub target: Target,
    /// What it is told, in this order; may be empty although there was progress.
    pub told: Vec<Told>,
    /// How far this goes; `None` where nothing waits.
    pub progress: Option<Progress>,
}

/// How far a portion goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub(in crate::store) cursor: OutboxId,
    pub(in crate::store) snapshot: Option<SnapshotPlace>,
    /// What the target knew is forgotten first.
    pub(in crate::store) begins: bool,
    /// Package sets, with the last event and the last verdict that the target was told of.
    pub(in crate::store) package_sets: Vec<(PackageSetId, Digest, OutboxId, Option<VerdictId>)>,
    pub(in crate::store) gone: Vec<PackageSetId>,
    /// Subjects by row id, with all of their package sets.
    pub(in crate::store) subjects: Vec<(i64, Vec<PackageSetId>)>,
    /// Items that wait for a later event, with the kind of the first.
    pub(in crate::store) pending: HashMap<String, String>,
    pub(in crate::store) settled: Vec<String>,
}

impl Progress {
    /// Returns the progress of a delivery that contains nothing new.
    pub fn none(target: &Target) -> Self {
        Self { cursor: target.cursor, snapshot: target.snapshot.clone(), ..Self::default() }
    }
}

/// Largest portion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortionLimit {
    /// Maximum number of changes.
    pub changes: usize,
    /// Size of texts after which no change is added, bytes.
    pub bytes: usize,
}

/// A delivery that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDelivery {
    /// Its idempotency key.
    pub key: String,
    /// Number of records.
    pub records: usize,
    /// As it is sent.
    pub body: Vec<u8>,
    /// When it was made, seconds since 1970.
    pub at: i64,
}

/// A stored delivery, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its row id.
    pub id: DeliveryId,
    /// Name of its target.
    pub target: String,
    /// Its idempotency key.
    pub key: String,
    /// Its number among the deliveries of the target.
    pub sequence: u64,
    /// When it was made, seconds since 1970.
    pub at: i64,
    /// Number of records.
    pub records: u64,
    /// Size of its body, bytes.
    pub bytes: u64,
    /// Why the target refused it, and when; `None` where it waits.
    pub refused: Option<(String, i64)>,
}

/// What waits for a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events that are in no delivery yet.
    pub events: u64,
    /// When the oldest of them happened, seconds since 1970.
    pub oldest_event: Option<i64>,
    /// The same, or when the oldest waiting delivery was made, if that was earlier.
    pub oldest: Option<i64>,
    /// Deliveries that wait.
    pub deliveries: u64,
    /// Deliveries that the target refused.
    pub refused: u64,
}

/// What happens when too much waits for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogLimit {
    /// Maximum number of events.
    pub events: u64,
    /// Events that happened before are too old, seconds since 1970.
    pub since: i64,
    /// Whether the oldest events are dropped; otherwise none waits any more, and the target gets a snapshot when it accepts deliveries again.
    pub drop_oldest: bool,
}
