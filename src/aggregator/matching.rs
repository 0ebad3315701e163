//! Matches the packages of stacks against the advisory database. Each package is matched once, however many stacks contain it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use outcrop_proto::{Digest, Distribution, Package, Severity};

use super::memory::in_background;
use crate::advisory::{Database, DatabaseError, Finding, Matcher, Subject};
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
        self.learn(store, &packages, at).await?;
        let findings = self.count(stack.id, &packages, stack.layers.len())?;
        let (appeared, went) = store.put_findings(&findings, &self.digest, at).await?;
        Ok(Matched { counts: findings.counts, appeared, went })
    }

    /// Matches the packages that are not in the cache yet.
    async fn learn(self: &Arc<Self>, store: &dyn Store, packages: &[PackageRef], at: i64) -> Result<(), MatchError> {
        let missing: Vec<Pair> = {
            let known = lock(&self.known);
            let pairs: BTreeSet<Pair> = packages.iter().map(|package| (package.package, package.owner)).collect();
            pairs.into_iter().filter(|pair| !known.contains_key(pair)).collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let ids: BTreeSet<i64> =
            missing.iter().flat_map(|(package, owner)| [Some(*package), *owner]).flatten().collect();
        let ids: Vec<i64> = ids.into_iter().collect();
        let details = store.packages(&ids).await?;
        let details = details.into_iter().map(|(id, package, distribution)| (id, (package, distribution))).collect();
        let matchmaker = Arc::clone(self);
        let judged = in_background(move || matchmaker.judge(&missing, &details)).await;
        let judged = judged.map_err(|error| MatchError::Ended(panic_message(error)))??;
        let verdicts: Vec<Verdict> = judged.iter().flat_map(|(_, verdicts, _)| verdicts.iter().cloned()).collect();
        let numbers = store.put_verdicts(&verdicts, at).await?;
        if numbers.len() != verdicts.len() {
            return Err(MatchError::Ended(format!("{} of {} verdicts have a row", numbers.len(), verdicts.len())));
        }
        let mut numbers = numbers.into_iter();
        let mut known = lock(&self.known);
        for (pair, verdicts, withheld) in judged {
            let severities = verdicts.iter().map(|verdict| verdict.severity);
            let verdicts = numbers.by_ref().take(verdicts.len()).zip(severities).collect();
            known.insert(pair, Arc::new(Judged { verdicts, withheld }));
        }
        Ok(())
    }

    fn judge(
        &self,
        pairs: &[Pair],
        details: &HashMap<i64, (Package, Option<Distribution>)>,
    ) -> Result<Vec<(Pair, Vec<Verdict>, u32)>, DatabaseError> {
        let database = lock(&self.database);
        let mut matcher = Matcher::new(&database)?;
        let mut judged = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let Some((package, own)) = details.get(&pair.0) else { continue };
            let owner = pair.1.and_then(|owner| details.get(&owner));
            // An application package has the distribution of the OS package that owns it.
            let distribution = own.as_ref().or_else(|| owner.and_then(|(_, distribution)| distribution.as_ref()));
            let subject = Subject { package, owner: owner.map(|(owner, _)| owner) };
            let matched = matcher.match_package(distribution, subject)?;
            let verdicts = matched.findings.into_iter().map(|finding| verdict(pair.0, finding)).collect();
            judged.push((*pair, verdicts, u32::try_from(matched.withheld.len()).unwrap_or(u32::MAX)));
        }
        Ok(judged)
    }

    fn count(&self, stack: StackId, packages: &[PackageRef], layers: usize) -> Result<PackageSetFindings, MatchError> {
        let known = lock(&self.known);
        let mut counts = Counts { by_layer: vec![0; layers], ..Counts::default() };
        let mut verdicts = BTreeSet::new();
        for package in packages {
            // Skipping the package would mark incomplete findings as complete.
            let judged = known
                .get(&(package.package, package.owner))
                .ok_or_else(|| MatchError::Ended(format!("package row {} was not matched", package.package)))?;
            counts.withheld += judged.withheld;
            for (verdict, severity) in &judged.verdicts {
                if !verdicts.insert(*verdict) {
                    continue;
                }
                counts.severities.add(*severity, 1);
                let layer = usize::try_from(package.layer).ok().and_then(|layer| counts.by_layer.get_mut(layer));
                if let Some(count) = layer {
                    *count += 1;
                }
            }
        }
        Ok(PackageSetFindings { package_set: stack, verdicts: verdicts.into_iter().collect(), counts })
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
