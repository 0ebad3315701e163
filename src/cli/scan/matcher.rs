//! Matches packages and selects the findings to show.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use outcrop_proto::{AssessedState, Coverage, Distribution, FindingStatus, Severity, StackPackage, clock};

use crate::advisory::{self, Database, Finding, Subject};
use crate::cli::Fatal;
use crate::cli::report::{self, DatabaseInfo};
use crate::export::purl;

/// Selects the findings to show, and those that make the command fail.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FindingFilter {
    /// Minimum severity to show.
    pub(super) severity: Option<Severity>,
    /// Show only findings with a fix.
    pub(super) only_fixed: bool,
    /// Also show withheld findings.
    pub(super) owned: bool,
    /// Minimum severity that makes the command exit with code 2.
    pub(super) fail_on: Option<Severity>,
}

impl FindingFilter {
    fn shows(&self, finding: &Finding) -> bool {
        self.severity.is_none_or(|severity| advisory::is_at_least(finding, severity)) && self.counts(finding)
    }

    fn counts(&self, finding: &Finding) -> bool {
        !self.only_fixed || finding.status == FindingStatus::Fixed
    }

    /// Returns whether the finding makes the command fail. Findings that `--severity` hides still count.
    fn fails(&self, finding: &Finding) -> bool {
        self.counts(finding) && self.fail_on.is_some_and(|severity| advisory::is_at_least(finding, severity))
    }
}

/// Result of matching a target's packages.
#[derive(Debug, Default)]
pub(in crate::cli) struct MatchResult {
    pub(in crate::cli) assessed: Vec<advisory::Assessed>,
    pub(in crate::cli) findings: Vec<report::Finding>,
    /// Number of withheld findings.
    pub(in crate::cli) withheld: usize,
    /// Number of findings that `--severity` or `--only-fixed` hides.
    pub(in crate::cli) hidden: usize,
    /// Whether a finding, shown or hidden, reaches `--fail-on`.
    pub(in crate::cli) fails: bool,
    /// Why not all findings are listed, if so.
    pub(in crate::cli) cut: Option<String>,
}

impl MatchResult {
    /// Returns the coverage of what was matched: where findings were left out, a target is scanned in part only.
    pub(in crate::cli) fn limit(&self, coverage: Coverage) -> Coverage {
        match &self.cut {
            Some(reason) => coverage.but(reason),
            None => coverage,
        }
    }
}

/// Matches packages against a database; without one the result is empty.
#[derive(Debug)]
pub(in crate::cli) struct Matcher {
    database: Option<Database>,
    /// Day on which the age of the database is judged; `None` for today.
    as_of: Option<jiff::civil::Date>,
    filter: FindingFilter,
}

impl Matcher {
    /// Opens the database, whose age is judged on the day `as_of`, by default today. With `packages_only` none is required.
    pub(super) fn new(
        database: Option<PathBuf>,
        as_of: Option<jiff::civil::Date>,
        packages_only: bool,
        filter: FindingFilter,
    ) -> Result<Self, Fatal> {
        let database = match database {
            _ if packages_only => None,
            Some(path) => Some(open(&path)?),
            None => {
                return Err(Fatal::usage(
                    "no advisory database: pass --db FILE (or set OUTCROP_DB), build one with \
                     outcrop db build --from PATH --out FILE, or list packages only with --packages",
                ));
            }
        };
        Ok(Self { database, as_of, filter })
    }

    /// Returns the sources of the database, for the report.
    pub(super) fn database(&self) -> Result<Option<DatabaseInfo>, Fatal> {
        let Some(database) = &self.database else { return Ok(None) };
        let sources = database.sources().map_err(|error| Fatal::failed(error.to_string()))?;
        let as_of = self.as_of.map(|day| day.to_string());
        Ok(Some(DatabaseInfo { path: database.path().display().to_string(), as_of, sources }))
    }

    /// Matches `packages`.
    pub(in crate::cli) fn match_packages(
        &self,
        distribution: Option<&Distribution>,
        packages: &[StackPackage],
    ) -> Result<MatchResult, Fatal> {
        let Some(database) = &self.database else { return Ok(MatchResult::default()) };
        let fail = |error: advisory::DatabaseError| Fatal::failed(error.to_string());
        let sources = database.sources().map_err(fail)?;
        let kinds = packages.iter().map(|package| package.package.kind);
        let assessed = advisory::assess(&sources, distribution, kinds, self.as_of.unwrap_or_else(clock::today));
        let subjects: Vec<Subject<'_>> = packages.iter().map(Subject::from).collect();
        let matched = advisory::match_packages(database, distribution, &subjects).map_err(fail)?;
        let total = matched.findings.len() as u64 + matched.dropped;
        let cut = match (matched.dropped, matched.unmatched) {
            (0, 0) => None,
            (_, 0) => Some(advisory::too_many(total)),
            (_, unmatched) => Some(format!("{}; {unmatched} packages were not matched", advisory::too_many(total))),
        };
        let row = |finding: Finding, owner: Option<String>| -> Option<report::Finding> {
            let package = packages.get(finding.package)?;
            Some(report::Finding::new(finding, package, purl(&package.package, distribution), owner))
        };
        let fails = matched.findings.iter().any(|finding| self.filter.fails(finding));
        let (shown, hidden): (Vec<Finding>, Vec<Finding>) =
            matched.findings.into_iter().partition(|finding| self.filter.shows(finding));
        let mut findings: Vec<report::Finding> = shown.into_iter().filter_map(|finding| row(finding, None)).collect();
        let withheld = matched.withheld.len();
        if self.filter.owned {
            let shown = matched.withheld.into_iter().filter(|withheld| self.filter.shows(&withheld.finding));
            findings.extend(shown.filter_map(|withheld| row(withheld.finding, Some(withheld.owner))));
        }
        findings.sort_by(|a, b| {
            let key = |finding: &report::Finding| {
                (std::cmp::Reverse(finding.severity), finding.package.clone(), finding.id.clone())
            };
            key(a).cmp(&key(b))
        });
        Ok(MatchResult { assessed, findings, withheld, hidden: hidden.len(), fails, cut })
    }
}

fn open(path: &Path) -> Result<Database, Fatal> {
    Database::open(path).map_err(|error| Fatal::failed(error.to_string()))
}

/// Returns a warning if the database is stale, with every ecosystem for which it is.
pub(super) fn staleness(targets: &[report::Target]) -> Option<String> {
    let stale = targets.iter().flat_map(|target| &target.assessed);
    let stale = stale.filter(|assessed| assessed.state == AssessedState::Stale);
    // The hint is the same for all of them.
    let reasons = stale.map(|stale| {
        let reason = stale.reason.strip_suffix(advisory::REBUILD).unwrap_or(&stale.reason).trim_end_matches("; ");
        format!("{}: {reason}", stale.ecosystem)
    });
    let reasons: Vec<String> = reasons.collect::<BTreeSet<String>>().into_iter().collect();
    let rebuild = advisory::REBUILD;
    (!reasons.is_empty()).then(|| format!("the advisory database is stale: {}; {rebuild}", reasons.join(", ")))
}
