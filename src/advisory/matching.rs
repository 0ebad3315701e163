//! Which advisories is a package affected by?
//!
//! Aliases make one finding of several records; `related` takes an erratum apart into the CVEs that it is about and never
//! joins records. An application package that the distribution owns is the distribution's to judge: its findings are
//! withheld where the distribution's source knows the problem, and stay, marked, where it does not.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use outcrop_proto::ecosystem::{Origin, OwnerRule, by_osv_name};
use outcrop_proto::{Distribution, FindingStatus, Package, Severity, StackPackage};

use super::database::{Database, DatabaseError, Hit};
use super::range::{Verdict, evaluate};
use super::severity::{Rating, rate};

/// Returns the status of a finding: from its fix, else from the word of the record's source.
fn status(fixed: Option<&String>, word: Option<&str>) -> FindingStatus {
    match (fixed, word) {
        (Some(_), _) => FindingStatus::Fixed,
        (None, Some("end-of-life")) => FindingStatus::EndOfLife,
        (None, Some("deferred")) => FindingStatus::Deferred,
        (None, Some("ignored" | "wont-fix" | "will-not-fix")) => FindingStatus::WillNotFix,
        (None, Some("needs-triage" | "not yet assigned" | "under-investigation")) => FindingStatus::UnderInvestigation,
        (None, _) => FindingStatus::Affected,
    }
}

/// A problem of a package.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Index of the package in what was matched.
    pub package: usize,
    /// The CVE, where there is exactly one; else the id of the record.
    pub id: String,
    /// Every other identifier that it goes by, and the errata that mend it, sorted.
    pub aliases: Vec<String>,
    /// The way out.
    pub status: FindingStatus,
    /// The lowest version that mends it, of those the records name.
    pub fixed: Option<String>,
    /// How bad it is.
    pub rating: Rating,
    /// One line of what it is about.
    pub summary: String,
    /// An owned package's problem that its distribution's source has no record of.
    pub not_assessed_by_distribution: bool,
}

/// A finding that is not shown by default, since the package is the distribution's to judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Withheld {
    /// What would have been shown.
    pub finding: Finding,
    /// The operating-system package that owns the evidence.
    pub owner: String,
}

/// A package to match, and who owns it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The package.
    pub package: &'a Package,
    /// The operating-system package that installed it, unchanged.
    pub owner: Option<&'a Package>,
}

impl<'a> From<&'a StackPackage> for Subject<'a> {
    fn from(package: &'a StackPackage) -> Self {
        Self { package: &package.package, owner: package.owner.as_ref().map(|owner| &owner.package) }
    }
}

/// What matching found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched {
    /// Findings, by package and then identifier.
    pub findings: Vec<Finding>,
    /// Number of withheld findings.
    pub withheld: Vec<Withheld>,
}

/// Matches packages of one distribution.
///
/// # Errors
/// When the database is damaged.
pub fn match_packages(
    database: &Database,
    distribution: Option<&Distribution>,
    subjects: &[Subject<'_>],
) -> Result<Matched, DatabaseError> {
    let mut matcher = Matcher::new(database)?;
    let mut all = Matched::default();
    for (number, subject) in subjects.iter().enumerate() {
        let Matched { findings, withheld } = matcher.judge(distribution, *subject)?;
        all.findings.extend(findings.into_iter().map(|finding| Finding { package: number, ..finding }));
        all.withheld.extend(
            withheld
                .into_iter()
                .map(|Withheld { finding, owner }| Withheld { finding: Finding { package: number, ..finding }, owner }),
        );
    }
    Ok(all)
}

/// Matches one package after the other, and remembers what it found: several binary packages of one source ask the same.
#[derive(Debug)]
pub struct Matcher<'a> {
    database: &'a Database,
    present: BTreeSet<String>,
    /// Problems by ecosystem, name and version.
    cache: HashMap<(String, String, String), Vec<Problem>>,
}

impl<'a> Matcher<'a> {
    /// A matcher against `database`.
    ///
    /// # Errors
    /// When the database is damaged.
    pub fn new(database: &'a Database) -> Result<Self, DatabaseError> {
        let present = database.sources()?.into_iter().map(|source| source.ecosystem).collect();
        Ok(Self { database, present, cache: HashMap::new() })
    }

    /// What one package of `distribution` has; its index in the findings is 0.
    ///
    /// # Errors
    /// When the database is damaged.
    pub fn judge(
        &mut self,
        distribution: Option<&Distribution>,
        subject: Subject<'_>,
    ) -> Result<Matched, DatabaseError> {
        let mut matched = Matched::default();
        let candidates = distribution.and_then(Distribution::osv_ecosystems);
        let distribution = candidates.into_iter().flatten().find(|ecosystem| self.present.contains(ecosystem));
        let ecosystem = match subject.package.kind.ecosystem().osv() {
            Some(ecosystem) => Some(ecosystem.to_owned()),
            None => distribution.clone(),
        };
        let Some(ecosystem) = ecosystem else { return Ok(matched) };
        let database = self.database;
        let owner = match (subject.owner, &distribution) {
            (Some(owner), Some(ecosystem)) if owns(database, ecosystem, owner)? => Some((owner, ecosystem)),
            _ => None,
        };
        for problem in self.problems(ecosystem, subject.package)? {
            let ids = problem.ids.clone();
            let mut finding = problem.clone().into_finding();
            match owner {
                None => matched.findings.push(finding),
                Some((owner, ecosystem)) if knows_any(database, ecosystem, &ids)? => {
                    matched.withheld.push(Withheld { finding, owner: owner.name.clone() });
                }
                Some(_) => {
                    finding.not_assessed_by_distribution = true;
                    matched.findings.push(finding);
                }
            }
        }
        Ok(matched)
    }

    fn problems(&mut self, ecosystem: String, package: &Package) -> Result<&[Problem], DatabaseError> {
        let (name, version) = package.advisory_name();
        let name = (package.kind.ecosystem().normalize_name)(name).into_owned();
        Ok(match self.cache.entry((ecosystem, name, version.to_owned())) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(entry) => {
                let (ecosystem, name, version) = entry.key();
                let problems = problems(self.database, ecosystem, name, version)?;
                entry.insert(problems)
            }
        })
    }
}

/// Whether a package is the distribution's own: one whose source package its feed names; for RPM, by its vendor.
fn owns(database: &Database, ecosystem: &str, owner: &Package) -> Result<bool, DatabaseError> {
    match (owner.kind.ecosystem().origin, &owner.vendor) {
        (Origin::OperatingSystem { owner: OwnerRule::Vendor }, Some(vendor)) => {
            let distribution = ecosystem.split([':', ' ']).next().unwrap_or_default();
            Ok(vendor.to_lowercase().contains(&distribution.to_lowercase()))
        }
        _ => database.names(ecosystem, owner.advisory_name().0),
    }
}

fn knows_any(database: &Database, ecosystem: &str, ids: &BTreeSet<String>) -> Result<bool, DatabaseError> {
    for id in ids {
        if database.knows(ecosystem, id)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One problem, gathered from the records about it.
#[derive(Clone, Debug)]
struct Problem {
    /// Identifiers of the problem itself.
    ids: BTreeSet<String>,
    /// Records that say so.
    records: BTreeSet<String>,
    fixed: Option<String>,
    status: Option<String>,
    rating: Rating,
    summary: String,
}

impl Problem {
    fn into_finding(self) -> Finding {
        let cves: Vec<&String> = self.ids.iter().filter(|id| id.starts_with("CVE-")).collect();
        let id = match (cves.as_slice(), self.records.first().or(self.ids.first())) {
            ([only], _) => (*only).clone(),
            (_, Some(first)) => first.clone(),
            (_, None) => String::new(),
        };
        let aliases = self.ids.union(&self.records).filter(|alias| **alias != id).cloned().collect();
        Finding {
            package: 0,
            id,
            aliases,
            status: status(self.fixed.as_ref(), self.status.as_deref()),
            fixed: self.fixed,
            rating: self.rating,
            summary: self.summary,
            not_assessed_by_distribution: false,
        }
    }

    /// Takes up another record's word on the same problem.
    fn join(&mut self, other: Self) {
        self.ids.extend(other.ids);
        self.records.extend(other.records);
        self.fixed = self.fixed.take().or(other.fixed);
        self.status = self.status.take().or(other.status);
        let better = |rating: &Rating| (rating.score.is_some(), rating.severity);
        if better(&other.rating) > better(&self.rating) {
            self.rating = other.rating;
        }
        if self.summary.is_empty() {
            self.summary = other.summary;
        }
    }
}

/// The problems that one version of a package has.
fn problems(database: &Database, ecosystem: &str, name: &str, version: &str) -> Result<Vec<Problem>, DatabaseError> {
    let Some(row) = by_osv_name(ecosystem) else { return Ok(Vec::new()) };
    let distribution = row.is_os();
    let mut problems: Vec<Problem> = Vec::new();
    for hit in database.about(ecosystem, name)? {
        let Verdict::Affected(fixed) = evaluate(row.version_order, version, &hit.ranges, &hit.versions) else {
            continue;
        };
        if distribution && is_of_another_module(version, &hit) {
            continue;
        }
        for ids in identities(&hit, distribution) {
            problems.push(Problem {
                ids,
                records: BTreeSet::from([hit.id.clone()]),
                fixed: fixed.clone(),
                status: hit.status.clone(),
                rating: rate(&hit.severity, hit.rating.as_deref().or(hit.status.as_deref()), distribution),
                summary: hit.summary.clone(),
            });
        }
    }
    Ok(gather(problems))
}

/// Whether an erratum is about a module's build of a package and the package is not one, or the other way round: streams of
/// modules carry versions of their own (`…module_el8…`), and comparing across them means nothing.
fn is_of_another_module(version: &str, hit: &Hit) -> bool {
    let is_module = |text: &str| text.contains(".module");
    let mut fixes =
        hit.ranges.iter().flat_map(|range| &range.events).filter_map(|event| event.fixed.as_deref()).peekable();
    fixes.peek().is_some() && fixes.all(|fixed| is_module(fixed) != is_module(version))
}

/// The problems that a record is about: one, by all its names, or for an erratum each CVE by itself.
fn identities(hit: &Hit, distribution: bool) -> Vec<BTreeSet<String>> {
    let is_cve = |id: &&String| id.starts_with("CVE-");
    let own = |more: &[String]| {
        let ids = std::iter::once(&hit.id).chain(&hit.aliases).chain(more);
        ids.cloned().collect::<BTreeSet<String>>()
    };
    if hit.aliases.iter().any(|id| is_cve(&id)) || is_cve(&&hit.id) {
        return vec![own(&[])];
    }
    let upstream: BTreeSet<&String> = hit.upstream.iter().filter(is_cve).collect();
    if upstream.len() == 1 {
        return vec![own(&hit.upstream)];
    }
    let problems: BTreeSet<&String> =
        if distribution { upstream.into_iter().chain(hit.related.iter().filter(is_cve)).collect() } else { upstream };
    if problems.is_empty() {
        return vec![own(&[])];
    }
    problems.into_iter().map(|cve| BTreeSet::from([cve.clone()])).collect()
}

/// Joins problems that share an identifier.
fn gather(problems: Vec<Problem>) -> Vec<Problem> {
    let mut gathered: Vec<Option<Problem>> = Vec::new();
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for mut problem in problems {
        let known: BTreeSet<usize> = problem.ids.iter().filter_map(|id| by_id.get(id).copied()).collect();
        // The first record keeps its word; later ones add to it.
        let at = known.first().copied().unwrap_or(gathered.len());
        for other in known.into_iter().rev() {
            if let Some(mut earlier) = gathered.get_mut(other).and_then(Option::take) {
                earlier.join(problem);
                problem = earlier;
            }
        }
        by_id.extend(problem.ids.iter().map(|id| (id.clone(), at)));
        if at == gathered.len() {
            gathered.push(Some(problem));
        } else if let Some(slot) = gathered.get_mut(at) {
            *slot = Some(problem);
        }
    }
    let by_name: BTreeMap<BTreeSet<String>, Problem> =
        gathered.into_iter().flatten().map(|problem| (problem.ids.clone(), problem)).collect();
    by_name.into_values().collect()
}

/// Whether a finding is at least this bad.
pub fn is_at_least(finding: &Finding, severity: Severity) -> bool {
    finding.rating.severity >= severity
}
