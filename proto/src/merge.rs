//! Merges the inventories of a stack into its packages.
//!
//! [`merge`] is a pure function: overlay rules on paths decide which evidence is visible, then the visible facts are joined
//! (distribution, owners, attribution). Evidence that inventories cannot decide is returned as [`Unread`]: the agent reads it on the stack,
//! and the caller merges again with the [`Answers`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::container::{Coverage, CoverageState};
use crate::fact::{Claim, Distribution, Fact, FileDigest, Unidentified};
use crate::inventory::{EvidenceRecord, Inventory};
use crate::package::Package;
use crate::view::{DeadEnd, Effect, Entry, View};

/// Start of the reason of a `partial` coverage that a check of the container's mounted root can complete.
pub const UNREAD_MARKS: &str = "opaque marks could not be read";

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
    /// Evidence that inventories cannot decide.
    pub unread: Vec<Unread>,
    /// Visible evidence that an opaque directory may hide, where opaque marks could not be read.
    pub doubtful: Vec<Vec<u8>>,
}

/// Visible evidence.
struct Visible<'a> {
    path: &'a [u8],
    layer: usize,
    fact: &'a Fact,
    record: Option<&'a EvidenceRecord>,
}

/// Identity of a package across versions of its database.
type PackageKey<'a> = (crate::PackageType, &'a str, &'a str, Option<&'a str>);

fn key(package: &Package) -> PackageKey<'_> {
    (package.kind, &package.name, &package.version, package.arch.as_deref())
}

/// Directories that distributions replaced with links into `/usr`, while their packages still claim files by the old paths.
const USR_MERGED: [&[u8]; 6] = [b"bin", b"sbin", b"lib", b"lib32", b"lib64", b"libx32"];

/// Merges the inventories of a stack, newest layer first.
pub fn merge(layers: &[&Inventory], known: &[KnownPath], answers: &Answers) -> Merged {
    let mut view = View::new(layers);
    let records: Vec<HashMap<&[u8], &EvidenceRecord>> = layers
        .iter()
        .map(|layer| layer.evidence.iter().map(|record| (record.path.as_slice(), record)).collect())
        .collect();
    let in_usr = USR_MERGED.map(|dir| [b"usr/", dir].concat());
    view.learn(
        layers
            .iter()
            .flat_map(|layer| {
                layer
                    .evidence
                    .iter()
                    .flat_map(|record| {
                        record.companions.iter().map(|(path, _)| path.as_slice()).chain([record.path.as_slice()])
                    })
                    .chain(layer.tombstones.iter().map(|tombstone| tombstone.path.as_slice()))
                    .chain(layer.unwalked.iter().map(|(path, _)| path.as_slice()))
            })
            // Load likely targets as well: a path that is loaded later costs another pass over every table.
            .chain(USR_MERGED)
            .chain(in_usr.iter().map(Vec::as_slice))
            .chain(known.iter().map(|known| known.path.as_bytes())),
    );

    let mut merged = Merged::default();
    let mut visible = Vec::new();
    let paths: BTreeSet<&[u8]> = records.iter().flat_map(HashMap::keys).copied().collect();
    for path in paths {
        if answers.hidden.contains(path) {
            continue;
        }
        let Some((layer, Entry::File)) = view.visible(path) else { continue };
        let Some(record) = records[layer].get(path).copied() else { continue };
        if view.lies_below_newer_directory(layer, path) {
            merged.doubtful.push(path.to_vec());
        }
        match answers.facts.get(path) {
            Some(Ok(fact)) => visible.push(Visible { path, layer, fact, record: None }),
            Some(Err(reason)) => merged.fail(path, record.database, reason.clone()),
            None if !group_is_whole(&view, layer, record) => merged.unread.push(Unread {
                path: path.to_vec(),
                database: record.database,
                reason: "the write-ahead log or another companion file comes from another layer".to_owned(),
            }),
            None => {
                if let Some(fact) = layers[layer].facts.get(&record.fact) {
                    visible.push(Visible { path, layer, fact, record: Some(record) });
                }
            }
        }
    }
    follow_links(&mut view, &records, known, answers, &mut merged, &mut visible);
    for (number, layer) in layers.iter().enumerate() {
        for tombstone in &layer.tombstones {
            let shown = matches!(view.visible(&tombstone.path), Some((shown, Entry::File)) if shown == number);
            if shown && !tombstone.reason.is_empty() && !answers.facts.contains_key(&tombstone.path) {
                merged.fail(&tombstone.path, tombstone.database, tombstone.reason.clone());
            }
        }
        for (path, reason) in &layer.unwalked {
            let newer = |newer| view.effect(newer, path);
            if (0..number)
                .all(|layer| matches!(newer(layer), Effect::Absent | Effect::Shows(Entry::Dir { opaque: false })))
            {
                merged.fail(path, true, format!("directory could not be walked: {reason}"));
            }
        }
    }
    for evidence in &visible {
        let path = evidence.path;
        merged.warnings.extend(evidence.fact.warnings.iter().map(|warning| (path.to_vec(), warning.clone())));
        merged.unidentified.extend(evidence.fact.unidentified.iter().map(|jar| (path.to_vec(), jar.clone())));
    }
    merged.distribution = distribution(&visible);
    merged.packages = join(&mut view, &records, layers, &visible);
    merged.warnings.sort();
    merged.warnings.dedup();
    merged
}

impl Merged {
    fn fail(&mut self, path: &[u8], database: bool, reason: String) {
        if database {
            self.failed.push((path.to_vec(), reason.clone()));
        }
        self.warnings.push((path.to_vec(), reason));
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
        if let Some(unread) = self.unread.first() {
            return Coverage::new(
                CoverageState::Partial,
                format!("{} was not read: {}", path(&unread.path), unread.reason),
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

/// Follows known paths through symbolic links of any layer to files that no cataloger wanted by their own names.
fn follow_links<'a>(
    view: &mut View<'a>,
    records: &[HashMap<&'a [u8], &'a EvidenceRecord>],
    known: &[KnownPath],
    answers: &'a Answers,
    merged: &mut Merged,
    visible: &mut Vec<Visible<'a>>,
) {
    for KnownPath { path, database } in known {
        let path = path.as_bytes();
        if answers.hidden.contains(path) {
            continue;
        }
        let target = match view.resolve(path) {
            Ok(target) => target,
            Err(DeadEnd::Missing) => continue,
            Err(DeadEnd::Loop) => {
                merged.fail(path, *database, "the symbolic links form a loop".to_owned());
                continue;
            }
        };
        let Some((layer, entry)) = view.visible(&target) else { continue };
        if *entry != Entry::File {
            merged.fail(path, *database, "not a regular file".to_owned());
            continue;
        }
        if target == path || records[layer].contains_key(target.as_slice()) {
            continue;
        }
        match answers.facts.get_key_value(path) {
            Some((path, Ok(fact))) => visible.push(Visible { path, layer, fact, record: None }),
            Some((path, Err(reason))) => merged.fail(path, *database, reason.clone()),
            None => merged.unread.push(Unread {
                path: path.to_vec(),
                database: *database,
                reason: format!("reached through a symbolic link, at {}", target.escape_ascii()),
            }),
        }
    }
}

/// Returns the distribution: `/etc/os-release` takes precedence, as os-release(5) says.
fn distribution(visible: &[Visible<'_>]) -> Option<Distribution> {
    let named = |evidence: &&Visible<'_>| evidence.fact.distribution.is_some();
    let by_path = |evidence: &&Visible<'_>| !evidence.path.starts_with(b"etc/");
    visible.iter().filter(named).min_by_key(by_path).and_then(|evidence| evidence.fact.distribution.clone())
}

/// Joins visible facts into packages with owners and attribution.
fn join(
    view: &mut View<'_>,
    records: &[HashMap<&[u8], &EvidenceRecord>],
    layers: &[&Inventory],
    visible: &[Visible<'_>],
) -> Vec<StackPackage> {
    let owners = Owners::gather(view, visible);
    let mut attribution = Attribution { view, records, layers, sets: HashMap::new() };
    let mut packages: BTreeMap<(PackageKey<'_>, Option<Owner>), StackPackage> = BTreeMap::new();
    for evidence in visible {
        for package in &evidence.fact.packages {
            let owner = if package.kind.is_os() { None } else { owners.of(evidence, package) };
            let layer = attribution.layer(evidence, package);
            let mut path = evidence.path.to_vec();
            if let Some(inner) = &package.inner {
                path.extend_from_slice(b"!/");
                path.extend_from_slice(inner.as_bytes());
            }
            let entry = packages.entry((key(package), owner.clone())).or_insert_with(|| StackPackage {
                package: Package { inner: None, ..package.clone() },
                evidence: Vec::new(),
                layer,
                owner,
            });
            entry.evidence.push(path);
            entry.layer = entry.layer.max(layer);
        }
    }
    packages
        .into_values()
        .map(|mut package| {
            package.evidence.sort();
            package.evidence.dedup();
            package
        })
        .collect()
}

/// Claims of the OS packages on files.
struct Owners<'a> {
    claims: HashMap<Vec<u8>, &'a Claim>,
    installed: HashMap<&'a str, &'a Package>,
}

impl<'a> Owners<'a> {
    fn gather(view: &mut View<'_>, visible: &[Visible<'a>]) -> Self {
        let installed = visible
            .iter()
            .flat_map(|evidence| &evidence.fact.packages)
            .filter(|package| package.kind.is_os())
            .map(|package| (package.name.as_str(), package))
            .collect();
        let moved: Vec<(&[u8], Vec<u8>)> = USR_MERGED
            .into_iter()
            .filter_map(|dir| Some((dir, view.resolve(dir).ok().filter(|target| target != dir)?)))
            .collect();
        let mut claims = HashMap::new();
        for claim in visible.iter().flat_map(|evidence| &evidence.fact.claims) {
            let first = claim.path.split(|byte| *byte == b'/').next().unwrap_or_default();
            let path = match moved.iter().find(|(dir, _)| *dir == first) {
                Some((dir, target)) => [target.as_slice(), &claim.path[dir.len()..]].concat(),
                None => claim.path.clone(),
            };
            claims.insert(path, claim);
        }
        Self { claims, installed }
    }

    /// Returns the OS package that installed `evidence` in its current form.
    fn of(&self, evidence: &Visible<'_>, package: &Package) -> Option<Owner> {
        let claim = self.claims.get(evidence.path)?;
        let owner = *self.installed.get(claim.package.as_str())?;
        let digest = evidence.record.and_then(|record| record.digest.as_ref());
        let unchanged = match (digest, &claim.digest) {
            (Some(FileDigest::Md5(found)), Some(FileDigest::Md5(claimed))) => found == claimed,
            (Some(FileDigest::Sha1(found)), Some(FileDigest::Sha1(claimed))) => found == claimed,
            (Some(FileDigest::Sha256(found)), Some(FileDigest::Sha256(claimed))) => found == claimed,
            _ => is_upstream_version(&owner.version, &package.version),
        };
        unchanged.then(|| Owner { package: owner.clone() })
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
struct Attribution<'a, 'v> {
    view: &'v View<'a>,
    records: &'v [HashMap<&'a [u8], &'a EvidenceRecord>],
    layers: &'v [&'a Inventory],
    /// Packages of each version of a piece of evidence.
    sets: HashMap<(usize, &'a [u8]), HashSet<PackageKey<'a>>>,
}

impl<'a> Attribution<'a, '_> {
    /// Returns the lowest layer since which every effective version of the evidence lists the package.
    fn layer(&mut self, evidence: &Visible<'_>, package: &Package) -> usize {
        let mut lowest = evidence.layer;
        for layer in evidence.layer + 1..self.layers.len() {
            match self.view.effect(layer, evidence.path) {
                Effect::Absent => {}
                Effect::Shows(Entry::File) if self.lists(layer, evidence.path, package) => lowest = layer,
                Effect::Shows(_) | Effect::Hides => break,
            }
        }
        lowest
    }

    fn lists(&mut self, layer: usize, path: &[u8], package: &Package) -> bool {
        let Some((path, record)) = self.records[layer].get_key_value(path) else { return false };
        let Some(fact) = self.layers[layer].facts.get(&record.fact) else { return false };
        self.sets
            .entry((layer, path))
            .or_insert_with(|| fact.packages.iter().map(key).collect())
            .contains(&key(package))
    }
}
