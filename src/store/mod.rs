//! What outlives a restart: inventories by layer, stacks merged once, findings by stack, and who ran which stack when.
//!
//! One trait, [`Store`], in five parts; [`Sqlite`] is it, embedded. Whatever a method acknowledged is on the disk: it survives a
//! kill and a power loss. Packages, verdicts and paths that list packages are kept once and known by their row's number, since
//! thousands of stacks share them.

mod row;
mod sqlite;
mod volume;

use async_trait::async_trait;
use outcrop_proto::{Digest, Distribution, LayerId, Package};

pub use row::{
    Counts, FindingRow, HasRow, Layer, LayerRow, MergedPackage, MergedStack, PackageRef, PackageRow, ProblemRow, RANKS,
    RematchRow, Run, Seen, SeenFinding, StackFindings, StackId, Summary, Verdict, VerdictId, Wanted, WantedPackages,
};
pub use sqlite::Sqlite;
pub use volume::{VolumeError, check_local, free};

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no.
    #[error("the store: {0}")]
    Database(sqlx::Error),
    /// Its volume takes nothing more: it is full, or it fails.
    #[error("the store's volume is full or failing; free some space, the aggregator resumes by itself")]
    Full,
    /// The file is of another version, or no store at all.
    #[error("migrating the store: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// A row holds what nobody wrote.
    #[error("the store is damaged: {0}")]
    Damaged(&'static str),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // SQLITE_FULL, SQLITE_IOERR_WRITE, _FSYNC, _DIR_FSYNC and _SHMSIZE: https://sqlite.org/rescode.html
        const FULL: [&str; 5] = ["13", "778", "1034", "1290", "4874"];
        match error.as_database_error().and_then(|error| error.code()) {
            Some(code) if FULL.contains(&code.as_ref()) => Self::Full,
            _ => Self::Database(error),
        }
    }
}

/// Layers, and who is believed about them.
#[async_trait]
pub trait Layers {
    /// Keeps what a node read of a layer, in place of what was kept before.
    async fn put_layer(&self, layer: &LayerRow) -> Result<(), StoreError>;
    /// Every layer, without its inventory.
    async fn layers(&self) -> Result<Vec<Layer>, StoreError>;
    /// The compressed inventories of these layers, each with its size when it is not compressed and whether overlay's marks could be
    /// seen. `None` where one is not there.
    async fn inventories(&self, ids: &[LayerId]) -> Result<Option<Vec<(Vec<u8>, usize, bool)>>, StoreError>;
    /// A node came to the same, an inventory with this digest.
    async fn verified(&self, layer: &LayerId, digest: &Digest, node: &str, at: i64) -> Result<(), StoreError>;
    /// A layer is the word of `to` now: `from`, who read it, is not believed, and that one came to the same.
    async fn attribute(&self, layer: &LayerId, from: &str, to: &str) -> Result<(), StoreError>;
    /// What `node` read of these is not believed, and is to be read again. What another one has read since then stays.
    async fn forget_layers(&self, ids: &[LayerId], node: &str) -> Result<(), StoreError>;
    /// What a node reads is believed no more, or again.
    async fn distrust(&self, node: &str, at: Option<i64>) -> Result<(), StoreError>;
    /// Nodes that are not believed.
    async fn distrusted(&self) -> Result<Vec<String>, StoreError>;
}

/// Stacks.
#[async_trait]
pub trait Stacks {
    /// Keeps what a stack holds, in place of what was kept before. Its findings stay as they are until it is matched.
    async fn put_stack(&self, stack: &MergedStack) -> Result<Summary, StoreError>;
    /// Every stack.
    async fn stacks(&self) -> Result<Vec<Summary>, StoreError>;
    /// The packages of a stack.
    async fn packages_of(&self, stack: StackId) -> Result<Vec<PackageRef>, StoreError>;
    /// Packages by number, each with the distribution that it is of; in any order.
    async fn packages(&self, ids: &[i64]) -> Result<Vec<(i64, Package, Option<Distribution>)>, StoreError>;
}

/// What matching found.
#[async_trait]
pub trait Findings {
    /// Keeps verdicts, and says under which numbers. One that is there already is only touched if it says something else.
    async fn put_verdicts(&self, verdicts: &[Verdict]) -> Result<Vec<VerdictId>, StoreError>;
    /// These are the stack's open findings now: others close, new ones open. Returns how many appeared and how many went.
    async fn put_findings(&self, findings: &StackFindings, at: i64) -> Result<(u64, u64), StoreError>;
    /// Matching everything against a database begins.
    async fn begin_rematch(&self, database: &Digest, at: i64) -> Result<i64, StoreError>;
    /// It has ended.
    async fn end_rematch(&self, id: i64, outcome: &RematchRow) -> Result<(), StoreError>;
    /// The last time, whether it has ended or not: its database, and what came of it.
    async fn last_rematch(&self) -> Result<Option<(Digest, Option<RematchRow>)>, StoreError>;
}

/// Who ran which stack when.
#[async_trait]
pub trait History {
    /// Runs that began, and runs that ended.
    async fn record_runs(&self, begun: &[Run], ended: &[Run]) -> Result<(), StoreError>;
    /// Runs that have not ended.
    async fn open_runs(&self) -> Result<Vec<Run>, StoreError>;
    /// All runs of these subjects, oldest first, with what was found of these problems, or of all, in the stacks that they ran: what
    /// first-seen and fixed-on follow from.
    async fn seen(&self, subjects: &[String], problems: Option<&[String]>) -> Result<Vec<Seen>, StoreError>;
    /// Removes runs that ended before `history`; packages and inventories of stacks that nobody has run since `unused`;
    /// and what nothing refers to any more. `present` are stacks that are there now.
    async fn tidy(&self, history: i64, unused: i64, present: &[StackId]) -> Result<(), StoreError>;
}

/// Questions over all stacks. Where one takes stacks, it looks at those only.
#[async_trait]
pub trait Questions {
    /// Open findings in the order of severity (the worst first), problem, verdict and stack, from behind `after`; those that `wanted`
    /// describes.
    async fn findings(&self, wanted: &Wanted<'_>) -> Result<Vec<FindingRow>, StoreError>;
    /// What these verdicts say, open or not; of no stack.
    async fn verdicts(&self, ids: &[VerdictId]) -> Result<Vec<FindingRow>, StoreError>;
    /// Packages by name, version and number, from behind `after`.
    async fn list_packages(&self, wanted: &WantedPackages<'_>) -> Result<Vec<PackageRow>, StoreError>;
    /// Packages of this name, whole or without what stands before its last `:` or `/`, by stack.
    async fn packages_named(&self, name: &str, stacks: &[StackId]) -> Result<Vec<HasRow>, StoreError>;
    /// Packages that have the problem of this name, by stack.
    async fn packages_with(&self, problem: &str, stacks: &[StackId]) -> Result<Vec<HasRow>, StoreError>;
    /// Verdicts that go by this name, with the stacks in which they are open.
    async fn problem(&self, name: &str) -> Result<Vec<ProblemRow>, StoreError>;
}

/// The store.
pub trait Store: Layers + Stacks + Findings + History + Questions + std::fmt::Debug + Send + Sync {}

impl<T: Layers + Stacks + Findings + History + Questions + std::fmt::Debug + Send + Sync> Store for T {}
