//! Targets of deliveries, and deliveries.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A target of deliveries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetItem {
    /// Name.
    pub name: String,
    /// Kind of the target: `http`.
    pub kind: String,
    /// Scheme, host and port. A path may be a secret.
    pub address: String,
    /// `ok`, `snapshot` while it is told everything, `retrying` after a failure, or `failing` after several in a row.
    pub state: String,
    /// Events that are in no delivery yet.
    pub waiting_events: u64,
    /// Deliveries that wait to be accepted.
    pub waiting_deliveries: u64,
    /// Age of the oldest of both; `null` if nothing waits.
    pub oldest_seconds: Option<u64>,
    /// Deliveries that the target refused; they wait for a person.
    pub refused: u64,
    /// Events that were dropped because too many waited.
    pub dropped: u64,
    /// Deliveries that the target accepted since the aggregator started.
    pub accepted: u64,
    /// Deliveries that the target refused since the aggregator started.
    pub refusals: u64,
    /// Attempts that failed since the aggregator started.
    pub failures: u64,
    /// Records of accepted deliveries since the aggregator started.
    pub records: u64,
    /// Bytes of accepted deliveries, as they were sent, since the aggregator started.
    pub bytes: u64,
    /// When the target last accepted a delivery; `null` before the first one.
    pub accepted_at: Option<String>,
    /// Why the last attempt failed; `null` after one that succeeded.
    pub error: Option<String>,
    /// Time until the next attempt, after a failure.
    pub next_attempt_seconds: Option<u64>,
}

/// A delivery that waits, or that its target refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryItem {
    /// Number by which it is replayed or dropped.
    pub id: i64,
    /// Name of its target.
    pub target: String,
    /// `waiting` or `refused`.
    pub state: String,
    /// Its idempotency key.
    pub key: String,
    /// Its number among the deliveries of the target.
    pub sequence: u64,
    /// When it was made.
    pub made_at: String,
    /// Number of records.
    pub records: u64,
    /// Size, as it is sent.
    pub bytes: u64,
    /// When the target refused it; `null` if it waits.
    pub refused_at: Option<String>,
    /// Why the target refused it; empty if it waits.
    pub reason: String,
}

/// A delivery with its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryDetail {
    /// The delivery.
    pub delivery: DeliveryItem,
    /// The beginning of its content, without the compression.
    pub content: String,
    /// Whether the content is longer.
    pub truncated: bool,
}

/// What was changed about a target or a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryChanged {
    /// Name of the target.
    pub target: String,
}

/// The answer of a target to a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TargetTest {
    /// Name of the target.
    pub target: String,
    /// Whether the target accepted the sample.
    pub accepted: bool,
    /// HTTP status of its answer; `null` if there was none.
    pub status: Option<u16>,
    /// The beginning of its answer, or why there was none.
    pub answer: String,
    /// Time until the answer.
    pub milliseconds: u64,
}
