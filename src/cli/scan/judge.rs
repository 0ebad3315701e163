//! From packages to findings: matching, and what the person wants to see of it.

use std::path::{Path, PathBuf};

use outcrop_proto::{Distribution, StackPackage, clock};

use crate::advisory::{self, Database, Finding, Severity, State, Status, Subject};
use crate::cli::Fatal;
use crate::cli::report::{self, DatabaseInfo};
use crate::export::purl;

/// Which findings are shown, and which make the command fail.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    /// The mildest that is shown.
    pub(super) severity: Option<Severity>,
    /// Only those with a fix.
    pub(super) only_fixed: bool,
    /// Also those that are left to the distribution.
    pub(super) owned: bool,
    /// The mildest that makes the command end with 2.
    pub(super) fail_on: Option<Severity>,
}

impl Wanted {
    fn shows(&self, finding: &Finding) -> bool {
        self.severity.is_none_or(|severity| advisory::is_at_least(finding, severity)) && self.counts(finding)
    }

    fn counts(&self, finding: &Finding) -> bool {
        !self.only_fixed || finding.status == Status::Fixed
    }

    /// Whether the command fails for it. What `--severity` leaves out of the table still counts.
    fn fails(&self, finding: &Finding) -> bool {
        self.counts(finding) && self.fail_on.is_some_and(|severity| advisory::is_at_least(finding, severity))
    }
}

/// What is said of a target's packages.
#[derive(Debug, Default)]
pub(in crate::cli) struct Judged {
    pub(in crate::cli) assessed: Vec<advisory::Assessed>,
    pub(in crate::cli) findings: Vec<report::Finding>,
    /// Findings left to the distribution.
    pub(in crate::cli) withheld: usize,
    /// Findings that the person did not want to see.
    pub(in crate::cli) hidden: usize,
    /// Whether one of them, shown or not, is as bad as `--fail-on` says.
    pub(in crate::cli) fails: bool,
}

/// Matches packages against a database; without one it says nothing.
#[derive(Debug)]
pub(in crate::cli) struct Judge {
    database: Option<Database>,
    now: jiff::civil::Date,
    wanted: Wanted,
}

impl Judge {
    /// A judge for what the command line asked: with `packages_only` no database is needed.
    pub(super) fn new(database: Option<PathBuf>, packages_only: bool, wanted: Wanted) -> Result<Self, Fatal> {
        let database = match database {
            _ if packages_only => None,
            Some(path) => Some(open(&path)?),
            None => {
                return Err(Fatal::usage(
                    "no advisory database: name one with --db FILE (or OUTCROP_DB), build one with \
                     outcrop db build --from PATH --out FILE, or list packages only with --packages",
                ));
            }
        };
        Ok(Self { database, now: clock::today(), wanted })
    }

    /// What the database holds, for the report.
    pub(super) fn database(&self) -> Result<Option<DatabaseInfo>, Fatal> {
        let Some(database) = &self.database else { return Ok(None) };
        let sources = database.sources().map_err(|error| Fatal::failed(error.to_string()))?;
        Ok(Some(DatabaseInfo { path: database.path().display().to_string(), sources }))
    }

    /// Says what is known of `packages`.
    pub(in crate::cli) fn judge(
        &self,
        distribution: Option<&Distribution>,
        packages: &[StackPackage],
    ) -> Result<Judged, Fatal> {
        let Some(database) = &self.database else { return Ok(Judged::default()) };
        let fail = |error: advisory::DatabaseError| Fatal::failed(error.to_string());
        let sources = database.sources().map_err(fail)?;
        let kinds = packages.iter().map(|package| package.package.kind);
        let assessed = advisory::assess(&sources, distribution, kinds, self.now);
        let subjects: Vec<Subject<'_>> = packages.iter().map(Subject::from).collect();
        let matched = advisory::match_packages(database, distribution, &subjects).map_err(fail)?;
        let row = |finding: Finding, owner: Option<String>| -> Option<report::Finding> {
            let package = packages.get(finding.package)?;
            Some(report::Finding::new(finding, package, purl(&package.package, distribution), owner))
        };
        let fails = matched.findings.iter().any(|finding| self.wanted.fails(finding));
        let (shown, hidden): (Vec<Finding>, Vec<Finding>) =
            matched.findings.into_iter().partition(|finding| self.wanted.shows(finding));
        let mut findings: Vec<report::Finding> = shown.into_iter().filter_map(|finding| row(finding, None)).collect();
        let withheld = matched.withheld.len();
        if self.wanted.owned {
            let shown = matched.withheld.into_iter().filter(|withheld| self.wanted.shows(&withheld.finding));
            findings.extend(shown.filter_map(|withheld| row(withheld.finding, Some(withheld.owner))));
        }
        findings.sort_by(|a, b| {
            let key = |finding: &report::Finding| {
                (std::cmp::Reverse(finding.severity), finding.package.clone(), finding.id.clone())
            };
            key(a).cmp(&key(b))
        });
        Ok(Judged { assessed, findings, withheld, hidden: hidden.len(), fails })
    }
}

fn open(path: &Path) -> Result<Database, Fatal> {
    Database::open(path).map_err(|error| Fatal::failed(error.to_string()))
}

/// A line for people whose database is old, if it is.
pub(super) fn staleness(targets: &[report::Target]) -> Option<String> {
    let stale = targets.iter().flat_map(|target| &target.assessed).find(|assessed| assessed.state == State::Stale)?;
    Some(format!("the advisory database is old: {}: {}", stale.ecosystem, stale.reason))
}
