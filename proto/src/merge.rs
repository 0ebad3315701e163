//! Merges the inventories of a stack into its packages.
//!
//! [`merge`] is a pure function: overlay rules on paths decide which evidence is visible, then the visible facts are joined
//! (distribution, owners, attribution). Evidence that inventories cannot decide is returned as [`Unread`]: the agent reads it on the stack,
//! and the caller merges again with the [`Answers`].
//!
//! An image or a node chose the inventories, so a merge spends a [`Budget`]: each loop counts its steps, and what grows with the input is
//! reserved. Work that the input could multiply, such as one fact of many packages that many paths refer to, ends there.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::budget::{ALLOCATION, Budget, OverBudget};
use crate::container::{Coverage, CoverageState};
use crate::fact::{Claim, Distribution, Fact, FileDigest, Unidentified};
use crate::inventory::{EvidenceRecord, Inventory};
use crate::package::Package;
use crate::view::{DeadEnd, Entry, PathId, View};

/// Start of the reason of a `partial` coverage that a check of the container's mounted root can complete.
pub const UNREAD_MARKS: &str = "opaque marks could not be read";

/// Start of the reason of a [tombstone](crate::Tombstone) of evidence that was left out because its layer exceeds a limit: the container is
/// `partial` without it. Other evidence than package databases that cannot be read costs itself only.
pub const LAYER_LIMIT: &str = "the evidence of the layer";

/// End of the warning of a package database with packages that could not be read: the container is `partial`.
pub const UNREADABLE_PACKAGES: &str = "packages could not be read";

/// Results of the checks that a first merge asked for.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    /// Facts that were read on the stack, by the path of the [`Unread`].
    pub facts: BTreeMap<Vec<u8>, Result<Fact, String>>,
    /// Evidence that the mounted root does not show: an opaque directory whose mark could not be read hides it.
    pub hidden: BTreeSet<Vec<u8>>,
}

/// Evidence that must be read on the stack, since the inventories of single layers do not contain it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Path to read on the stack.
    pub path: Vec<u8>,
    /// Whether it is a package database.
    pub database: bool,
    /// Reason why the inventories do not suffice.
    pub reason: String,
}

/// A path that is always evidence where it leads to a file: a package database or `os-release`.
#[derive(Clone, Copy, Debug)]
pub struct KnownPath {
    /// Path from the image's root, without a leading slash.
    pub path: &'static str,
    /// The cataloger that reads it.
    pub cataloger: &'static str,
    /// Whether it is a package database.
    pub database: bool,
}

/// The operating-system package that installed an application package's evidence, unchanged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The package that claims the evidence, as its own database lists it.
    pub package: Package,
}

/// A package of the merged stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackPackage {
    /// The package; `inner` is moved into [`Self::evidence`].
    pub package: Package,
    /// Every path that lists the package, with the path inside an archive after `!/`.
    pub evidence: Vec<Vec<u8>>,
    /// Attribution: the lowest layer since which every effective version of the evidence lists the package. The newest layer is 0.
    pub layer: usize,
    /// Owner of its evidence; an application package is owned only if all of its evidence is.
    pub owner: Option<Owner>,
}

/// Packages and distribution of a stack.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The distribution, if the stack names one.
    pub distribution: Option<Distribution>,
    /// Packages, sorted by type, name and version.
    pub packages: Vec<StackPackage>,
    /// Packages without a name: the path of the evidence and what is known.
    pub unidentified: Vec<(Vec<u8>, Unidentified)>,
    /// Evidence that could not be read, by path; the rest is valid.
    pub warnings: Vec<(Vec<u8>, String)>,
    /// Package databases and directories that could not be read: they make the container `partial`.
    pub failed: Vec<(Vec<u8>, String)>,
    /// Package databases with packages that could not be read, each with its warning: they make the container `partial`.
    pub incomplete: Vec<(Vec<u8>, String)>,
    /// Number of files that were left out because their layer [exceeds a limit](LAYER_LIMIT), and the first reason: they make the container
    /// `partial`.
    pub left_out: Option<(u64, String)>,
    /// Evidence that inventories cannot decide.
    pub unread: Vec<Unread>,
    /// Visible evidence that an opaque directory may hide, where opaque marks could not be read.
    pub doubtful: Vec<Vec<u8>>,
    /// Parts of the inventories that this version does not know.
    pub unknown: u64,
}

/// Visible evidence.
struct Visible<'a> {
    path: &'a [u8],
    id: PathId,
    layer: usize,
    fact: &'a Fact,
    record: Option<&'a EvidenceRecord>,
}

impl Visible<'_> {
    /// Returns whether it is a package database. Nothing else is read on the stack but `os-release`, which lists no packages.
    fn is_database(&self) -> bool {
        self.record.is_none_or(|record| record.database)
    }
}

/// Identity of a package across versions of its database.
type PackageKey<'a> = (crate::PackageType, &'a str, &'a str, Option<&'a str>);

fn key(package: &Package) -> PackageKey<'_> {
    (package.kind, &package.name, &package.version, package.arch.as_deref())
}

/// Directories that distributions replaced with links into `/usr`, while their packages still claim files by the old paths.
const USR_MERGED: [&[u8]; 6] = [b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32"];

/// One of these directories, and where it is.
type Moved = (&'static [u8], Vec<u8>);

/// Memory for a package of a stack without its texts, in bytes: the package, its place in the result, and a row for the store.
const PACKAGE: usize = 3 * size_of::<StackPackage>() + 12 * ALLOCATION;

/// Steps for a path of a package: it is looked up, stored, and written to each list of packages.
const EVIDENCE: u64 = 128;

/// Merges the inventories of a stack, newest layer first.
///
/// # Errors
/// When the merge needs more than `budget`.
pub fn merge(
    layers: &[&Inventory],
    known: &[KnownPath],
    answers: &Answers,
    budget: &mut Budget,
) -> Result<Merged, OverBudget> {
    let mut view = View::new(layers);
    let evidence = load(&mut view, layers, known, budget)?;
    let mut merged = Merged::default();
    let mut visible = Vec::new();
    for (path, id) in evidence {
        budget.step(1 + path.len() as u64 / 16)?;
        if answers.hidden.contains(path) {
            continue;
        }
        let Some((layer, Entry::File)) = view.visible_at(id) else { continue };
        let Some(record) = record(layers, layer, path) else { continue };
        if view.is_below_newer_directory(id, layer) {
            budget.reserve(2 * size_of::<Vec<u8>>() + ALLOCATION + path.len())?;
            merged.doubtful.push(path.to_vec());
        }
        budget.reserve(2 * size_of::<Visible<'_>>())?;
        budget.step(record.companions.iter().map(|(path, _)| 1 + path.len() as u64 / 16).sum())?;
        match answers.facts.get(path) {
            Some(Ok(fact)) => visible.push(Visible { path, id, layer, fact, record: None }),
            Some(Err(reason)) => merged.fail(path, record.database, reason, budget)?,
            None if !group_is_whole(&view, layer, record) => {
                let reason = "the write-ahead log or another companion file comes from another layer";
                merged.leave_unread(path, record.database, reason.to_owned(), budget)?;
            }
            None => {
                if let Some(fact) = layers[layer].facts.get(&record.fact) {
                    visible.push(Visible { path, id, layer, fact, record: Some(record) });
                }
            }
        }
    }
    let moved = follow_links(&mut view, layers, known, answers, &mut merged, &mut visible, budget)?;
    for (number, layer) in layers.iter().enumerate() {
        for tombstone in &layer.tombstones {
            budget.step(1 + tombstone.path.len() as u64 / 8)?;
            let shown = matches!(view.visible(&tombstone.path), Some((shown, Entry::File)) if shown == number);
            if shown && !tombstone.reason.is_empty() && !answers.facts.contains_key(&tombstone.path) {
                merged.fail(&tombstone.path, tombstone.database, &tombstone.reason, budget)?;
            }
        }
        for (path, reason) in &layer.unwalked {
            budget.step(1 + path.len() as u64 / 8)?;
            if !view.find(path).is_some_and(|path| view.is_replaced(path, number)) {
                merged.fail(path, true, &format!("directory could not be walked: {reason}"), budget)?;
            }
        }
    }
    merged.unknown = layers.iter().map(|layer| u64::from(layer.unknown)).sum();
    merged.distribution = distribution(&visible);
    join(&view, layers, &visible, &moved, &mut merged, budget)?;
    merged.incomplete.sort();
    merged.warnings.sort();
    merged.warnings.dedup();
    Ok(merged)
}

/// Loads every path that matters, and returns those of evidence, sorted.
fn load<'a>(
    view: &mut View<'a>,
    layers: &[&'a Inventory],
    known: &[KnownPath],
    budget: &mut Budget,
) -> Result<Vec<(&'a [u8], PathId)>, OverBudget> {
    let mut evidence: Vec<(&[u8], PathId)> = Vec::new();
    let mut bytes = 0;
    for layer in layers {
        for record in &layer.evidence {
            budget.reserve(2 * size_of::<(&[u8], PathId)>())?;
            evidence.push((record.path.as_slice(), view.add(&record.path, budget)?));
            bytes += 16 + record.path.len() as u64;
            for (path, _) in &record.companions {
                view.add(path, budget)?;
            }
        }
        let others = layer.tombstones.iter().map(|tombstone| &tombstone.path);
        for path in others.chain(layer.unwalked.iter().map(|(path, _)| path)) {
            view.add(path, budget)?;
        }
    }
    // Load likely targets as well: a path that is loaded later costs another pass over every table.
    let in_usr = USR_MERGED.map(|dir| [b"usr/", dir].concat());
    let likely = USR_MERGED.into_iter().chain(in_usr.iter().map(Vec::as_slice));
    for path in likely.chain(known.iter().map(|known| known.path.as_bytes())) {
        view.add(path, budget)?;
    }
    view.load(budget)?;
    // Sorting compares each path with some others.
    budget.step(bytes / 16 * u64::from(evidence.len().max(2).ilog2()))?;
    evidence.sort_unstable();
    evidence.dedup();
    Ok(evidence)
}

/// Returns what a layer recorded of the evidence at `path`.
fn record<'a>(layers: &[&'a Inventory], layer: usize, path: &[u8]) -> Option<&'a EvidenceRecord> {
    let evidence = &layers[layer].evidence;
    let found = evidence.binary_search_by(|record| record.path.as_slice().cmp(path));
    found.ok().map(|index| &evidence[index])
}

impl Merged {
    fn fail(&mut self, path: &[u8], database: bool, reason: &str, budget: &mut Budget) -> Result<(), OverBudget> {
        if database {
            self.reserve(path, reason, budget)?;
            self.failed.push((path.to_vec(), reason.to_owned()));
        } else if reason.starts_with(LAYER_LIMIT) {
            // Counted, because a layer may have half a million such files.
            self.left_out.get_or_insert_with(|| (0, reason.to_owned())).0 += 1;
        }
        self.warn(path, reason, budget)
    }

    fn warn(&mut self, path: &[u8], reason: &str, budget: &mut Budget) -> Result<(), OverBudget> {
        self.reserve(path, reason, budget)?;
        self.warnings.push((path.to_vec(), reason.to_owned()));
        Ok(())
    }

    /// Notes the warnings and the packages without a name of a piece of evidence.
    fn note(&mut self, evidence: &Visible<'_>, budget: &mut Budget) -> Result<(), OverBudget> {
        let (path, fact) = (evidence.path, evidence.fact);
        for warning in &fact.warnings {
            if evidence.is_database() && warning.ends_with(UNREADABLE_PACKAGES) {
                self.reserve(path, warning, budget)?;
                self.incomplete.push((path.to_vec(), warning.clone()));
            }
            self.warn(path, warning, budget)?;
        }
        for jar in &fact.unidentified {
            budget.step(1)?;
            budget.reserve(2 * size_of::<(Vec<u8>, Unidentified)>() + 2 * ALLOCATION + path.len() + jar.inner.len())?;
            self.unidentified.push((path.to_vec(), jar.clone()));
        }
        Ok(())
    }

    fn leave_unread(
        &mut self,
        path: &[u8],
        database: bool,
        reason: String,
        budget: &mut Budget,
    ) -> Result<(), OverBudget> {
        self.reserve(path, &reason, budget)?;
        self.unread.push(Unread { path: path.to_vec(), database, reason });
        Ok(())
    }

    /// Reserves what a path with a reason takes, sorted among others.
    fn reserve(&self, path: &[u8], reason: &str, budget: &mut Budget) -> Result<(), OverBudget> {
        budget.step(1 + (path.len() + reason.len()) as u64 / 8)?;
        budget.reserve(2 * size_of::<Unread>() + 2 * ALLOCATION + path.len() + reason.len())
    }

    /// Returns how much of the stack was read; `doubts` are the [doubtful](Self::doubtful) paths that could not be decided.
    pub fn coverage(&self, doubts: &[Vec<u8>]) -> Coverage {
        let path = |path: &[u8]| format!("/{}", path.escape_ascii());
        let more = |count: usize| if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        if let Some((first, reason)) = self.failed.first() {
            return Coverage::new(
                CoverageState::Partial,
                format!("{}{} could not be read: {reason}", path(first), more(self.failed.len())),
            );
        }
        if let Some((first, warning)) = self.incomplete.first() {
            return Coverage::new(
                CoverageState::Partial,
                format!("{}{}: {warning}", path(first), more(self.incomplete.len())),
            );
        }
        if let Some((count, reason)) = &self.left_out {
            let files = if *count == 1 { "1 file was".to_owned() } else { format!("{count} files were") };
            return Coverage::new(CoverageState::Partial, format!("{files} not read: {reason}"));
        }
        if let Some(unread) = self.unread.first() {
            return Coverage::new(
                CoverageState::Partial,
                format!("{} was not read: {}", path(&unread.path), unread.reason),
            );
        }
        if self.unknown > 0 {
            return Coverage::new(
                CoverageState::Partial,
                format!(
                    "a later version of the agent read {} parts that this version does not know; upgrade the aggregator",
                    self.unknown
                ),
            );
        }
        if let Some(first) = doubts.first() {
            return Coverage::new(
                CoverageState::Partial,
                format!("{UNREAD_MARKS} (no CAP_SYS_ADMIN) and may hide {}{}", path(first), more(doubts.len())),
            );
        }
        Coverage::new(CoverageState::Scanned, "")
    }
}

/// Returns whether the visible members of a group of files are exactly those that were read together.
fn group_is_whole(view: &View<'_>, layer: usize, record: &EvidenceRecord) -> bool {
    record.companions.iter().all(|(path, read)| match view.visible(path) {
        Some((shown, _)) => *read && shown == layer,
        None => !*read,
    })
}

/// Follows known paths through symbolic links of any layer to files that no cataloger wanted by their own names. Returns where the
/// [directories that moved](USR_MERGED) are.
fn follow_links<'a>(
    view: &mut View<'a>,
    layers: &[&'a Inventory],
    known: &[KnownPath],
    answers: &'a Answers,
    merged: &mut Merged,
    visible: &mut Vec<Visible<'a>>,
    budget: &mut Budget,
) -> Result<Vec<Moved>, OverBudget> {
    // All at once, since they share the passes over the tables.
    let paths: Vec<&[u8]> = known.iter().map(|known| known.path.as_bytes()).chain(USR_MERGED).collect();
    let mut ends = view.resolve(&paths, budget)?.into_iter();
    for (KnownPath { path, cataloger, database }, end) in known.iter().zip(ends.by_ref()) {
        let path = path.as_bytes();
        if answers.hidden.contains(path) {
            continue;
        }
        let id = match end {
            Ok(id) => id,
            Err(DeadEnd::Missing) => continue,
            Err(DeadEnd::Loop) => {
                merged.fail(path, *database, "the symbolic links form a loop", budget)?;
                continue;
            }
        };
        let Some((layer, entry)) = view.visible_at(id) else { continue };
        if entry != Entry::File {
            merged.fail(path, *database, "not a regular file", budget)?;
            continue;
        }
        let target = view.path(id);
        // Another cataloger, or this one by another name, may have read the file as something else.
        let is_read = |record: &EvidenceRecord| record.cataloger == *cataloger && record.database == *database;
        if target == path || record(layers, layer, &target).is_some_and(is_read) {
            continue;
        }
        match answers.facts.get_key_value(path) {
            Some((path, Ok(fact))) => visible.push(Visible { path, id, layer, fact, record: None }),
            Some((path, Err(reason))) => merged.fail(path, *database, reason, budget)?,
            None => {
                let reason = format!("reached through a symbolic link, at {}", target.escape_ascii());
                merged.leave_unread(path, *database, reason, budget)?;
            }
        }
    }
    let moved = USR_MERGED.into_iter().zip(ends).filter_map(|(dir, end)| Some((dir, view.path(end.ok()?))));
    Ok(moved.filter(|(dir, target)| *dir != target).collect())
}

/// Returns the distribution: `/etc/os-release` takes precedence, as os-release(5) says.
fn distribution(visible: &[Visible<'_>]) -> Option<Distribution> {
    let named = |evidence: &&Visible<'_>| evidence.fact.distribution.is_some();
    let by_path = |evidence: &&Visible<'_>| !evidence.path.starts_with(b"etc/");
    visible.iter().filter(named).min_by_key(by_path).and_then(|evidence| evidence.fact.distribution.clone())
}

/// Joins visible facts into packages with owners and attribution. What no longer fits into the budget is left out, with the reason.
fn join<'a>(
    view: &View<'_>,
    layers: &[&'a Inventory],
    visible: &[Visible<'a>],
    moved: &[Moved],
    merged: &mut Merged,
    budget: &mut Budget,
) -> Result<(), OverBudget> {
    let owners = Owners::gather(view, visible, moved, budget)?;
    let mut packages = Packages::new();
    let mut left_out: Vec<&[u8]> = Vec::new();
    let mut over = None;
    for evidence in cheapest_first(visible, budget)? {
        let added = Attribution::new(view, layers, evidence, budget)
            .and_then(|attribution| add(evidence, &owners, &attribution, &mut packages, budget))
            .and_then(|()| merged.note(evidence, budget));
        if let Err(error) = added {
            over.get_or_insert(error);
            left_out.push(evidence.path);
        }
    }
    if let (Some(first), Some(over)) = (left_out.iter().min(), over) {
        let more =
            if left_out.len() > 1 { format!(" and of {} more files", left_out.len() - 1) } else { String::new() };
        let reason = format!("merging the packages of this{more} {over}");
        merged.failed.push((first.to_vec(), reason.clone()));
        merged.warnings.push((first.to_vec(), reason));
    }
    merged.packages = packages
        .into_values()
        .map(|mut package| {
            package.evidence.sort();
            package.evidence.dedup();
            package
        })
        .collect();
    Ok(())
}

/// Returns databases first, then the evidence that costs little: what many paths share, such as the links of one large program, is the
/// last to be joined and the first to be left out.
fn cheapest_first<'v, 'a>(visible: &'v [Visible<'a>], budget: &mut Budget) -> Result<Vec<&'v Visible<'a>>, OverBudget> {
    budget.step(4 * visible.len() as u64 * u64::from(visible.len().max(2).ilog2()))?;
    // The list, and a table that is at least half full.
    budget.reserve(visible.len() * 8 * size_of::<usize>())?;
    let mut sharing: HashMap<*const Fact, usize> = HashMap::new();
    for evidence in visible {
        *sharing.entry(std::ptr::from_ref(evidence.fact)).or_default() += 1;
    }
    let mut sorted: Vec<&Visible<'_>> = visible.iter().collect();
    sorted.sort_by_key(|evidence| {
        let Fact { packages, unidentified, warnings, .. } = evidence.fact;
        let entries = packages.len() + unidentified.len() + warnings.len();
        (!evidence.is_database(), entries * sharing[&std::ptr::from_ref(evidence.fact)])
    });
    Ok(sorted)
}

/// Packages by identity and owner.
type Packages<'a> = BTreeMap<(PackageKey<'a>, Option<&'a Package>), StackPackage>;

/// Adds the packages of a piece of evidence.
fn add<'a>(
    evidence: &Visible<'a>,
    owners: &Owners<'a>,
    attribution: &Attribution<'a>,
    packages: &mut Packages<'a>,
    budget: &mut Budget,
) -> Result<(), OverBudget> {
    for package in &evidence.fact.packages {
        let inner = package.inner.as_ref().map_or(0, String::len);
        budget.step(EVIDENCE + attribution.versions.len() as u64)?;
        budget.reserve(2 * size_of::<Vec<u8>>() + ALLOCATION + evidence.path.len() + inner)?;
        let owner = if package.kind.is_os() { None } else { owners.of(evidence, package) };
        let layer = attribution.layer(evidence.layer, package);
        let mut path = evidence.path.to_vec();
        if let Some(inner) = &package.inner {
            path.extend_from_slice(b"!/");
            path.extend_from_slice(inner.as_bytes());
        }
        let entry = match packages.entry((key(package), owner)) {
            Slot::Occupied(entry) => entry.into_mut(),
            Slot::Vacant(entry) => {
                budget.reserve(PACKAGE + weight(package) + owner.map_or(0, weight))?;
                entry.insert(StackPackage {
                    package: Package { inner: None, ..package.clone() },
                    evidence: Vec::new(),
                    layer,
                    owner: owner.map(|owner| Owner { package: owner.clone() }),
                })
            }
        };
        entry.evidence.push(path);
        entry.layer = entry.layer.max(layer);
    }
    Ok(())
}

/// Returns the bytes of a package's texts.
fn weight(package: &Package) -> usize {
    let Package { kind: _, name, version, arch, source, licenses, inner, vendor, module } = package;
    let source = source.iter().flat_map(|source| [&source.name, &source.version]);
    let optional = [arch, inner, vendor, module].into_iter().flatten();
    let texts = [name, version].into_iter().chain(source).chain(optional).chain(licenses);
    // Twice: in the result, and in its row for the store.
    2 * texts.map(String::len).sum::<usize>()
}

/// Claims of the OS packages on files.
struct Owners<'a> {
    claims: HashMap<PathId, &'a Claim>,
    installed: HashMap<&'a str, &'a Package>,
}

impl<'a> Owners<'a> {
    fn gather(
        view: &View<'_>,
        visible: &[Visible<'a>],
        moved: &[Moved],
        budget: &mut Budget,
    ) -> Result<Self, OverBudget> {
        let (mut installed, mut claims) = (HashMap::new(), HashMap::new());
        let mut met: HashSet<*const Fact> = HashSet::new();
        for evidence in visible {
            budget.step(1)?;
            // Paths that share a fact say the same.
            if !met.insert(std::ptr::from_ref(evidence.fact)) {
                continue;
            }
            budget.reserve(4 * size_of::<usize>())?;
            for package in evidence.fact.packages.iter().filter(|package| package.kind.is_os()) {
                budget.step(4)?;
                budget.reserve(2 * size_of::<(&str, &Package)>())?;
                installed.insert(package.name.as_str(), package);
            }
            for claim in &evidence.fact.claims {
                budget.step(8 + claim.path.len() as u64 / 8)?;
                let first = claim.path.split(|byte| *byte == b'/').next().unwrap_or_default();
                let id = match moved.iter().find(|(dir, _)| *dir == first) {
                    Some((dir, target)) => view.find(&[target.as_slice(), &claim.path[dir.len()..]].concat()),
                    None => view.find(&claim.path),
                };
                // A claim on a path that nobody requested is a claim on no evidence.
                if let Some(id) = id {
                    budget.reserve(2 * size_of::<(PathId, &Claim)>())?;
                    claims.insert(id, claim);
                }
            }
        }
        Ok(Self { claims, installed })
    }

    /// Returns the OS package that installed `evidence` in its current form.
    fn of(&self, evidence: &Visible<'_>, package: &Package) -> Option<&'a Package> {
        let claim = self.claims.get(&evidence.id)?;
        let owner = *self.installed.get(claim.package.as_str())?;
        let digest = evidence.record.and_then(|record| record.digest.as_ref());
        let unchanged = match (digest, &claim.digest) {
            (Some(FileDigest::Md5(found)), Some(FileDigest::Md5(claimed))) => found == claimed,
            (Some(FileDigest::Sha1(found)), Some(FileDigest::Sha1(claimed))) => found == claimed,
            (Some(FileDigest::Sha256(found)), Some(FileDigest::Sha256(claimed))) => found == claimed,
            _ => is_upstream_version(&owner.version, &package.version),
        };
        unchanged.then_some(owner)
    }
}

/// Returns whether `version` is the upstream part of a distribution's version: `2.28.1` of `1:2.28.1+dfsg-1`.
fn is_upstream_version(distribution: &str, version: &str) -> bool {
    let without_epoch = distribution.split_once(':').map_or(distribution, |(_, rest)| rest);
    let upstream = without_epoch.rsplit_once('-').map_or(without_epoch, |(upstream, _)| upstream);
    let rest = upstream.strip_prefix(version);
    !version.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', '~']))
}

/// Computes the layer that introduced a package.
struct Attribution<'a> {
    /// Older versions of a piece of evidence, newest first: the layer of each, and its packages.
    versions: Vec<(usize, HashSet<PackageKey<'a>>)>,
}

impl<'a> Attribution<'a> {
    fn new(
        view: &View<'_>,
        layers: &[&'a Inventory],
        evidence: &Visible<'_>,
        budget: &mut Budget,
    ) -> Result<Self, OverBudget> {
        let mut versions = Vec::new();
        if evidence.fact.packages.is_empty() {
            return Ok(Self { versions });
        }
        for (layer, entry) in view.older(evidence.id, evidence.layer, budget)? {
            let fact = match (entry, record(layers, layer, evidence.path)) {
                (Entry::File, Some(record)) => layers[layer].facts.get(&record.fact),
                _ => None,
            };
            let Some(fact) = fact else { break };
            let count = fact.packages.len();
            budget.step(2 + 4 * count as u64)?;
            budget.reserve(2 * size_of::<PackageKey<'_>>() * (1 + count))?;
            versions.push((layer, fact.packages.iter().map(key).collect()));
        }
        Ok(Self { versions })
    }

    /// Returns the lowest layer since which every effective version of the evidence lists the package.
    fn layer(&self, newest: usize, package: &Package) -> usize {
        let key = key(package);
        let listing = self.versions.iter().take_while(|(_, packages)| packages.contains(&key));
        listing.last().map_or(newest, |(layer, _)| *layer)
    }
}
