//! What goes into the store and what comes out of it.

use std::collections::BTreeSet;

use outcrop_proto::{Coverage, Digest, Distribution, LayerId, PackageType, StackPackage};

/// A stack by its row's number.
pub type StackId = i64;

/// A verdict by its row's number.
pub type VerdictId = i64;

/// Severities as they are counted and ordered: a severity's rank is its place here, the worst first.
pub const RANKS: [&str; 6] = ["critical", "high", "medium", "low", "negligible", "unknown"];

/// What one node read of a layer.
#[derive(Clone, Debug)]
pub struct LayerRow {
    /// Everything but the inventory.
    pub layer: Layer,
    /// The canonical encoding, compressed.
    pub inventory: Vec<u8>,
}

/// A layer that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The layer.
    pub id: LayerId,
    /// Digest of the canonical encoding.
    pub digest: Digest,
    /// Bytes of the canonical encoding.
    pub size: usize,
    /// Version of the cataloguers that read it.
    pub cataloguers: u32,
    /// Who read it.
    pub node: String,
    /// In which cage.
    pub cage: String,
    /// Whether overlay's marks could be seen.
    pub marks: bool,
    /// When, in seconds since 1970.
    pub read_at: i64,
    /// Who came to the same.
    pub verified_by: BTreeSet<String>,
}

/// A stack that was merged.
#[derive(Clone, Debug)]
pub struct MergedStack {
    /// Its identity.
    pub chain: Digest,
    /// Its layers, newest first.
    pub layers: Vec<LayerId>,
    /// How far it was seen.
    pub coverage: Coverage,
    /// What it says that it is.
    pub distribution: Option<Distribution>,
    /// The oldest version of the cataloguers that read one of its layers.
    pub cataloguers: u32,
    /// What it holds.
    pub packages: Vec<MergedPackage>,
    /// How many packages name nothing.
    pub unidentified: usize,
}

/// A package of a stack that was merged.
#[derive(Clone, Debug)]
pub struct MergedPackage {
    /// The package.
    pub package: StackPackage,
    /// Its package URL.
    pub purl: String,
    /// That of the package that owns it, if one does.
    pub owner_purl: Option<String>,
}

/// What is known of a stack, without its packages and findings.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its number.
    pub id: StackId,
    /// Its identity.
    pub chain: Digest,
    /// Its layers, newest first.
    pub layers: Vec<LayerId>,
    /// How far it was seen.
    pub coverage: Coverage,
    /// What it says that it is.
    pub distribution: Option<Distribution>,
    /// Types of its packages.
    pub types: Vec<PackageType>,
    /// The oldest version of the cataloguers that read one of its layers; 0 where its packages were removed, since nobody ran it.
    pub cataloguers: u32,
    /// How many packages it has.
    pub packages: u64,
    /// How many packages name nothing.
    pub unidentified: u64,
    /// Its open findings, counted.
    pub counts: Counts,
}

/// Open findings of a stack, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By [rank](RANKS).
    pub severities: [u32; RANKS.len()],
    /// By the layer that brought the package, newest first.
    pub by_layer: Vec<u32>,
    /// Those that are left to the distribution; not among the others.
    pub withheld: u32,
}

/// A package of a stack, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackageRef {
    /// The package.
    pub package: i64,
    /// The package that installed it, unchanged; 0 for none.
    pub owner: i64,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
}

/// A problem of a package, whatever stack it is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The package.
    pub package: i64,
    /// The problem.
    pub problem: String,
    /// Whether the package's distribution, which owns it, has no word on it.
    pub unassessed: bool,
    /// How bad: a place in [`RANKS`].
    pub rank: u8,
    /// The score that this comes from.
    pub score: Option<f64>,
    /// The way out.
    pub status: &'static str,
    /// The version that mends it.
    pub fixed: Option<String>,
    /// What it is about.
    pub summary: String,
    /// Its other names.
    pub aliases: Vec<String>,
}

/// What was found in a stack.
#[derive(Clone, Debug)]
pub struct StackFindings {
    /// The stack.
    pub stack: StackId,
    /// Its verdicts, sorted and each once.
    pub verdicts: Vec<VerdictId>,
    /// Their counts.
    pub counts: Counts,
}

/// What matching everything came to.
#[derive(Clone, Debug, PartialEq)]
pub struct RematchRow {
    /// When it began, in seconds since 1970.
    pub at: i64,
    /// How long it took.
    pub seconds: f64,
    /// Stacks that were looked at.
    pub stacks: u64,
    /// Findings that appeared.
    pub appeared: u64,
    /// Findings that went.
    pub went: u64,
}

/// A subject runs a stack, since or until a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// Who: an opaque key.
    pub subject: String,
    /// Which stack.
    pub stack: StackId,
    /// Since when, or until when, in seconds since 1970.
    pub at: i64,
}

/// A subject had a finding while it ran a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who.
    pub subject: String,
    /// Since when it ran the stack.
    pub since: i64,
    /// Until when; `None` while it does.
    pub until: Option<i64>,
    /// The stack.
    pub stack: StackId,
    /// A finding of the stack, and since and until when matching said so; `None` for a run of a stack without any of those asked for.
    pub finding: Option<SeenFinding>,
}

/// A finding in the history of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenFinding {
    /// The problem.
    pub problem: String,
    /// Type and name of the package, without its version.
    pub package: (String, String),
    /// The verdict.
    pub verdict: VerdictId,
    /// Since when.
    pub opened: i64,
    /// Until when.
    pub closed: Option<i64>,
}

/// Which findings are asked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// In these stacks only.
    pub stacks: &'a [StackId],
    /// At least so bad: a rank.
    pub worst_to: u8,
    /// Of a problem of this name only.
    pub problem: Option<&'a str>,
    /// In packages of this name, whole or short, only.
    pub package: Option<&'a str>,
    /// With this way out only.
    pub status: Option<&'a str>,
    /// Behind this place: rank, problem, verdict, stack.
    pub after: Option<(u8, String, VerdictId, StackId)>,
    /// Whether the place itself belongs to it.
    pub inclusive: bool,
    /// Most rows.
    pub limit: usize,
}

/// A finding of a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct FindingRow {
    /// The stack; 0 where it is asked for of none.
    pub stack: StackId,
    /// The verdict.
    pub verdict: VerdictId,
    /// How bad: a place in [`RANKS`].
    pub rank: u8,
    /// The problem.
    pub problem: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The package's type.
    pub r#type: String,
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// The paths that list it, one a line.
    pub evidence: String,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
    /// The way out.
    pub status: String,
    /// The version that mends it.
    pub fixed: Option<String>,
    /// The score.
    pub score: Option<f64>,
    /// What it is about.
    pub summary: String,
}

/// Which packages are asked for.
#[derive(Clone, Debug)]
pub struct WantedPackages<'a> {
    /// In these stacks only, each with how many containers run it.
    pub stacks: &'a [(StackId, u64)],
    /// Of this type only.
    pub r#type: Option<&'a str>,
    /// Of this name, whole or short, only.
    pub name: Option<&'a str>,
    /// Of this version only.
    pub version: Option<&'a str>,
    /// By how many containers have it, the most first, instead of by name.
    pub by_containers: bool,
    /// Behind this place: containers (0 where it is by name), name, version, number.
    pub after: Option<(u64, String, String, i64)>,
    /// Most rows.
    pub limit: usize,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageRow {
    /// Its number.
    pub id: i64,
    /// As purl names it.
    pub r#type: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// How many of the stacks have it.
    pub stacks: u64,
    /// How many containers.
    pub containers: u64,
    /// Problems of it, by [rank](RANKS).
    pub severities: [u32; RANKS.len()],
}

/// A stack has a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HasRow {
    /// The stack.
    pub stack: StackId,
    /// The package's number.
    pub package: i64,
    /// As purl names it.
    pub r#type: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// The paths that list it, one a line.
    pub evidence: String,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
}

/// A verdict, and where it is open.
#[derive(Clone, Debug, PartialEq)]
pub struct ProblemRow {
    /// The problem.
    pub problem: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// How bad.
    pub rank: u8,
    /// What it is about.
    pub summary: String,
    /// The package's name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The package URL.
    pub purl: String,
    /// The way out.
    pub status: String,
    /// The version that mends it.
    pub fixed: Option<String>,
    /// Stacks in which it is open.
    pub stacks: Vec<StackId>,
}
