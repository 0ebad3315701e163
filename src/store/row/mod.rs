//! Types of the rows that go into the store and come out of it.

mod delivery;
mod document;
mod finding;
mod history;
mod layer;
mod notice;
mod query;
mod stack;
mod subject;

pub use delivery::{
    Backlog, BacklogLimit, Change, DeliveryId, DeliveryRow, FindingChange, NewDelivery, PackageSetState, Portion,
    PortionLimit, Progress, Selects, SnapshotPlace, Target, TargetId, TargetSpec, Told,
};
pub use document::DocumentRow;
pub use finding::{Counts, PackageSetFindings, RematchRow, Verdict, VerdictId};
pub use history::{DayCount, EndedRun, FindingName, FixedRow, Retention, Run, Seen, SeenFinding};
pub use layer::{InventoryRow, Layer, LayerRow};
pub use notice::{NoticeFilter, NoticeId, NoticeRow, NoticeScope, NoticeTotals, PendingNotices, ProblemNotice};
pub use query::{
    FindingRow, FindingsFilter, FindingsOrder, HasRow, ListedPackage, PackageRow, PackagesFilter, PackagesOrder,
    VulnerabilityRow,
};
pub use stack::{MergedPackage, MergedStack, PackageRef, PackageSetId, StackId, Summary, inputs};
pub use subject::{SubjectKey, WorkloadKey};
