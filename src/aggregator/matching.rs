//! Matches the packages of stacks against the advisory database. Each package is matched once, however many stacks contain it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use outcrop_proto::{Digest, Distribution, Package, Severity};

use super::memory::in_background;
use crate::advisory::{Database, DatabaseError, Finding, MAX_FINDINGS, Matcher, Subject, Worst};
use crate::lock::lock;
use crate::store::{Counts, PackageRef, PackageSetFindings, StackId, Store, StoreError, Summary, Verdict, VerdictId};
use crate::supervise::panic_message;

/// Why a stack could not be matched.
#[derive(Debug, thiserror::Error)]
pub(super) enum MatchError {
    /// The database is damaged.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The matching thread panicked.
    #[error("the matcher failed: {0}")]
    Ended(String),
}

/// A package and the package that owns it, by row id.
type Pair = (i64, Option<i64>);

/// The verdicts of a package, which are the same in every stack.
#[derive(Debug)]
struct Judged {
    verdicts: Vec<(VerdictId, Severity)>,
    withheld: u32,
}

/// The result of judging packages.
#[derive(Debug, Default)]
struct Judgment {
    /// Packages with their verdicts, and the number of withheld findings.
    judged: Vec<(Pair, Vec<Verdict>, u32)>,
    /// Packages of which not all verdicts were kept.
    cut: HashSet<Pair>,
    /// Number of verdicts that were not kept, and of packages that were not judged.
    dropped: u64,
}

/// Packages of which not all verdicts were kept. They are valid for one stack only.
#[derive(Debug, Default)]
struct Cut {
    judged: HashMap<Pair, Arc<Judged>>,
    dropped: u64,
}

/// The result of matching a stack.
#[derive(Debug)]
pub(super) struct Matched {
    /// Counts of its open findings.
    pub(super) counts: Counts,
    /// Number of findings that opened.
    pub(super) appeared: u64,
    /// Number of findings that closed.
    pub(super) went: u64,
}

/// Matches packages against one advisory database, and caches the verdicts.
#[derive(Debug)]
pub(super) struct Matchmaker {
    /// The database's digest.
    pub(super) digest: Digest,
    database: Mutex<Database>,
    known: Mutex<HashMap<Pair, Arc<Judged>>>,
}

impl Matchmaker {
    pub(super) fn new(digest: Digest, database: Database) -> Self {
        Self { digest, database: Mutex::new(database), known: Mutex::default() }
    }

    /// Clears the cache, because row ids in the store have changed.
    pub(super) fn forget(&self) {
        lock(&self.known).clear();
    }

    /// Matches a stack and stores its findings, which are then complete for this database.
    pub(super) async fn match_stack(
        self: &Arc<Self>,
        store: &dyn Store,
        stack: &Summary,
        at: i64,
    ) -> Result<Matched, MatchError> {
        let packages = store.packages_of(stack.id).await?;
        let cut = self.learn(store, &packages, at).await?;
        let findings = self.count(stack.id, &packages, stack.layers.len(), &cut)?;
        let (appeared, went) = store.put_findings(&findings, &self.digest, at).await?;
        Ok(Matched { counts: findings.counts, appeared, went })
    }

    /// Matches the packages that are not in the cache yet. Of more than [`MAX_FINDINGS`] verdicts the worst are kept; packages that lost
    /// verdicts are returned instead of cached, because another stack may have room for all of them.
    async fn learn(self: &Arc<Self>, store: &dyn Store, packages: &[PackageRef], at: i64) -> Result<Cut, MatchError> {
        let missing: Vec<Pair> = {
            let known = lock(&self.known);
            let pairs: BTreeSet<Pair> = packages.iter().map(|package| (package.package, package.owner)).collect();
            pairs.into_iter().filter(|pair| !known.contains_key(pair)).collect()
        };
        if missing.is_empty() {
            return Ok(Cut::default());
        }
        let ids: BTreeSet<i64> =
            missing.iter().flat_map(|(package, owner)| [Some(*package), *owner]).flatten().collect();
        let ids: Vec<i64> = ids.into_iter().collect();
        let details = store.packages(&ids).await?;
        let details = details.into_iter().map(|(id, package, distribution)| (id, (package, distribution))).collect();
        let matchmaker = Arc::clone(self);
        let judged = in_background(move || matchmaker.judge(&missing, &details)).await;
        let Judgment { judged, cut, dropped } = judged.map_err(|error| MatchError::Ended(panic_message(error)))??;
        let verdicts: Vec<Verdict> = judged.iter().flat_map(|(_, verdicts, _)| verdicts.iter().cloned()).collect();
        let numbers = store.put_verdicts(&verdicts, at).await?;
        if numbers.len() != verdicts.len() {
            return Err(MatchError::Ended(format!("{} of {} verdicts have a row", numbers.len(), verdicts.len())));
        }
        let mut numbers = numbers.into_iter();
        let mut here = Cut { judged: HashMap::new(), dropped };
        let mut known = lock(&self.known);
        for (pair, verdicts, withheld) in judged {
            let severities = verdicts.iter().map(|verdict| verdict.severity);
            let verdicts = numbers.by_ref().take(verdicts.len()).zip(severities).collect();
            let to = if cut.contains(&pair) { &mut here.judged } else { &mut *known };
            to.insert(pair, Arc::new(Judged { verdicts, withheld }));
        }
        Ok(here)
    }

    fn judge(
        &self,
        pairs: &[Pair],
        details: &HashMap<i64, (Package, Option<Distribution>)>,
    ) -> Result<Judgment, DatabaseError> {
        let database = lock(&self.database);
        let mut matcher = Matcher::new(&database)?;
        let mut judgment = Judgment::default();
        let mut worst = Worst::new(MAX_FINDINGS);
        let mut listed = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let Some((package, own)) = details.get(&pair.0) else { continue };
            if matcher.is_exhausted() {
                judgment.dropped += 1;
                judgment.cut.insert(*pair);
                judgment.judged.push((*pair, Vec::new(), 0));
                listed.push(0);
                continue;
            }
            let owner = pair.1.and_then(|owner| details.get(&owner));
            // An application package has the distribution of the OS package that owns it.
            let distribution = own.as_ref().or_else(|| owner.and_then(|(_, distribution)| distribution.as_ref()));
            let subject = Subject { package, owner: owner.map(|(owner, _)| owner) };
            let matched = matcher.match_package(distribution, subject)?;
            listed.push(matched.findings.len());
            for finding in matched.findings {
                worst.push(finding.rating.severity, (judgment.judged.len(), verdict(pair.0, finding)));
            }
            let withheld = u32::try_from(matched.withheld.len()).unwrap_or(u32::MAX);
            judgment.judged.push((*pair, Vec::new(), withheld));
        }
        let total = worst.total();
        let kept = worst.into_kept();
        judgment.dropped += total - kept.len() as u64;
        for (place, verdict) in kept {
            if let Some((_, verdicts, _)) = judgment.judged.get_mut(place) {
                verdicts.push(verdict);
            }
        }
        let cut = judgment.judged.iter().zip(listed).filter(|((_, verdicts, _), listed)| verdicts.len() < *listed);
        judgment.cut.extend(cut.map(|((pair, ..), _)| *pair));
        Ok(judgment)
    }

    fn count(
        &self,
        stack: StackId,
        packages: &[PackageRef],
        layers: usize,
        cut: &Cut,
    ) -> Result<PackageSetFindings, MatchError> {
        let known = lock(&self.known);
        let mut counts = Counts { by_layer: vec![0; layers], ..Counts::default() };
        let mut verdicts = BTreeMap::new();
        for package in packages {
            let pair = (package.package, package.owner);
            // Skipping the package would mark incomplete findings as complete.
            let judged = known
                .get(&pair)
                .or_else(|| cut.judged.get(&pair))
                .ok_or_else(|| MatchError::Ended(format!("package row {} was not matched", package.package)))?;
            counts.withheld += judged.withheld;
            for (verdict, severity) in &judged.verdicts {
                verdicts.entry(*verdict).or_insert((*severity, package.layer));
            }
        }
        let mut verdicts: Vec<(VerdictId, (Severity, u32))> = verdicts.into_iter().collect();
        let mut dropped = cut.dropped;
        if verdicts.len() > MAX_FINDINGS {
            dropped += (verdicts.len() - MAX_FINDINGS) as u64;
            verdicts.sort_by_key(|(_, (severity, _))| Reverse(*severity));
            verdicts.truncate(MAX_FINDINGS);
            verdicts.sort_unstable();
        }
        counts.dropped = u32::try_from(dropped).unwrap_or(u32::MAX);
        for (_, (severity, layer)) in &verdicts {
            counts.severities.add(*severity, 1);
            let layer = usize::try_from(*layer).ok().and_then(|layer| counts.by_layer.get_mut(layer));
            if let Some(count) = layer {
                *count += 1;
            }
        }
        let verdicts = verdicts.into_iter().map(|(verdict, _)| verdict).collect();
        Ok(PackageSetFindings { package_set: stack, verdicts, counts })
    }
}

fn verdict(package: i64, finding: Finding) -> Verdict {
    Verdict {
        package,
        vulnerability: finding.id,
        unassessed: finding.not_assessed_by_distribution,
        severity: finding.rating.severity,
        score: finding.rating.score,
        status: finding.status,
        fixed: finding.fixed,
        summary: finding.summary,
        aliases: finding.aliases,
    }
}

#[cfg(test)]
mod tests {
    use outcrop_proto::{Coverage, CoverageState, LayerId, PackageType, StackPackage};

    use super::*;
    use crate::advisory::build;
    use crate::export::purl;
    use crate::store::{ClusterIdentity, MergedPackage, MergedStack, Options, Sqlite, Stacks as _};

    const ADVISORIES: usize = 50;

    fn stack(name: &str, versions: std::ops::Range<usize>) -> MergedStack {
        let digest = Digest::of(name.as_bytes());
        let package = |number: usize| {
            let package = Package::new(PackageType::Npm, "a", format!("0.0.{number}"));
            let purl = purl(&package, None);
            let package = StackPackage { package, evidence: vec![b"a".to_vec()], layer: 0, owner: None };
            MergedPackage { package, purl, owner_purl: None }
        };
        MergedStack {
            chain: digest,
            layers: vec![LayerId::Chain(digest)],
            inputs: digest,
            checked_by: Vec::new(),
            coverage: Coverage::new(CoverageState::Scanned, ""),
            packages: versions.map(package).collect(),
            distribution: None,
            catalogers: outcrop_agent::catalog::VERSION,
            unidentified: 0,
        }
    }

    #[tokio::test]
    async fn a_stack_with_too_many_findings_has_the_worst_and_takes_none_from_another() {
        let dir = tempfile::tempdir().unwrap();
        let feed = dir.path().join("feed");
        std::fs::create_dir(&feed).unwrap();
        for number in 0..ADVISORIES {
            let record = format!(
                r#"{{"id": "CVE-2026-{number:04}", "modified": "2026-11-01T00:00:00Z", "affected": [{{
                    "package": {{"ecosystem": "npm", "name": "a"}},
                    "ranges": [{{"type": "SEMVER", "events": [{{"introduced": "0"}}, {{"fixed": "9.0.0"}}]}}]}}]}}"#
            );
            std::fs::write(feed.join(format!("{number}.json")), record).unwrap();
        }
        let path = dir.path().join("db");
        build(&[feed], &path).unwrap();
        let cluster = ClusterIdentity { key: "c".to_owned(), name: "c".to_owned() };
        let store =
            Sqlite::open(&dir.path().join("store.db"), Options { cluster, outbox: false, write_duration: None })
                .await
                .unwrap();
        let matchmaker = Arc::new(Matchmaker::new(Digest::of(b"db"), Database::open(&path).unwrap()));
        let matched = async |stack: &MergedStack| {
            let summary = store.put_stack(stack, 1).await.unwrap();
            matchmaker.match_stack(&store, &summary, 1).await.unwrap().counts
        };
        let listed = |counts: &Counts| counts.severities.total() as usize;

        let versions = MAX_FINDINGS / ADVISORIES;
        let large = matched(&stack("large", 0..versions + 100)).await;
        assert_eq!((listed(&large), large.dropped as usize), (MAX_FINDINGS, 100 * ADVISORIES));
        // Each of its packages has all of its findings in a stack that has room for them.
        for start in [0, versions + 80] {
            let small = matched(&stack(&format!("small {start}"), start..start + 20)).await;
            assert_eq!((listed(&small), small.dropped), (20 * ADVISORIES, 0), "from version {start}");
        }
        let all = matched(&stack("all but one", 0..versions)).await;
        assert_eq!((listed(&all), all.dropped), (MAX_FINDINGS, 0));
        let again = matched(&stack("large", 0..versions + 100)).await;
        assert_eq!(again.dropped, large.dropped, "also where its packages are known from elsewhere");
        let stored = store.stacks().await.unwrap();
        assert!(stored.iter().any(|summary| summary.counts.dropped == large.dropped), "a restart knows");
    }
}
