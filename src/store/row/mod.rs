//! Types of the rows that go into the store and come out of it.

mod finding;
mod history;
mod layer;
mod query;
mod stack;
mod subject;

pub use finding::{Counts, PackageSetFindings, RematchRow, Verdict, VerdictId};
pub use history::{DayCount, EndedRun, FindingName, FixedRow, Retention, Run, Seen, SeenFinding};
pub use layer::{InventoryRow, Layer, LayerRow};
pub use query::{
    FindingRow, FindingsFilter, FindingsOrder, HasRow, PackageRow, PackagesFilter, PackagesOrder, VulnerabilityRow,
};
pub use stack::{MergedPackage, MergedStack, PackageRef, PackageSetId, StackId, Summary, inputs};
pub use subject::{SubjectKey, WorkloadKey};
