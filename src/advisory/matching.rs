//! Matches packages against advisories.
//!
//! Aliases join several records into one vulnerability. `upstream` and `related` expand an erratum into its CVEs and never join records.
//! Owned application packages are matched against the distribution's advisories: if the distribution's source knows a vulnerability, the
//! finding is withheld, otherwise it stays and is marked.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use outcrop_proto::ecosystem::{Origin, OwnerRule, by_osv_name};
use outcrop_proto::{Distribution, FindingStatus, Package, Severity, StackPackage};

use super::database::{Database, DatabaseError, Hit};
use super::osv::Range;
use super::range::{Installed, Verdict, evaluate};
use super::severity::{Rating, rate};
use super::worst::{MAX_COMPARED, MAX_FINDINGS, Worst};

/// Returns the status of a finding: `fixed` if there is a fixed version, otherwise the status that the record contains.
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

/// A vulnerability of a package.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Index of the package in the matched list.
    pub package: usize,
    /// The CVE if there is exactly one, otherwise the ID of a record.
    pub id: String,
    /// All other IDs of the vulnerability and the errata that fix it, sorted; at most a hundred.
    pub aliases: Vec<String>,
    /// The status.
    pub status: FindingStatus,
    /// The lowest fixed version in the records.
    pub fixed: Option<String>,
    /// The severity.
    pub rating: Rating,
    /// One line about the vulnerability.
    pub summary: String,
    /// Whether the package is owned, and the distribution's source has no record of the vulnerability.
    pub not_assessed_by_distribution: bool,
}

/// A finding that is hidden by default, because the distribution's advisories apply to the package.
#[derive(Clone, Debug, PartialEq)]
pub struct Withheld {
    /// The finding.
    pub finding: Finding,
    /// Name of the OS package that owns the evidence.
    pub owner: String,
}

/// A package to match, with its owner.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The package.
    pub package: &'a Package,
    /// The OS package that installed it, if it is unchanged since.
    pub owner: Option<&'a Package>,
}

impl<'a> From<&'a StackPackage> for Subject<'a> {
    fn from(package: &'a StackPackage) -> Self {
        Self { package: &package.package, owner: package.owner.as_ref().map(|owner| &owner.package) }
    }
}

/// The result of matching.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matched {
    /// Findings, sorted by package and ID.
    pub findings: Vec<Finding>,
    /// Withheld findings.
    pub withheld: Vec<Withheld>,
    /// Number of findings, withheld ones not among them, that are left out since there are too many.
    pub dropped: u64,
    /// Number of packages that were not matched, since the ones before them took all the work that may be spent.
    pub unmatched: usize,
}

/// Matches packages of one distribution. Of more than [`MAX_FINDINGS`] findings the worst are returned.
///
/// # Errors
/// When the database is damaged.
pub fn match_packages(
    database: &Database,
    distribution: Option<&Distribution>,
    subjects: &[Subject<'_>],
) -> Result<Matched, DatabaseError> {
    let mut matcher = Matcher::new(database)?;
    let (mut findings, mut withheld) = (Worst::new(MAX_FINDINGS), Worst::new(MAX_FINDINGS));
    let mut unmatched = 0;
    for (number, subject) in subjects.iter().enumerate() {
        if matcher.is_exhausted() {
            unmatched += 1;
            continue;
        }
        let matched = matcher.match_package(distribution, *subject)?;
        for finding in matched.findings {
            findings.push(finding.rating.severity, Finding { package: number, ..finding });
        }
        for Withheld { finding, owner } in matched.withheld {
            let severity = finding.rating.severity;
            withheld.push(severity, Withheld { finding: Finding { package: number, ..finding }, owner });
        }
    }
    let total = findings.total();
    let findings = findings.into_kept();
    Ok(Matched { dropped: total - findings.len() as u64, findings, withheld: withheld.into_kept(), unmatched })
}

/// Maximum number of vulnerabilities, and of sixteens of their IDs, in the cache. When there are more, the cache is cleared.
const MAX_CACHED: usize = 20_000;

/// Maximum number of other IDs that a finding lists.
const MAX_ALIASES: usize = 100;

/// Matches packages, and caches results, because several binary packages have the same source package and version.
#[derive(Debug)]
pub struct Matcher<'a> {
    database: &'a Database,
    present: BTreeSet<String>,
    /// Vulnerabilities by ecosystem, name and version.
    cache: HashMap<(String, String, String), Vec<Vulnerability>>,
    /// Number of vulnerabilities, and of sixteens of their IDs, in the cache.
    cached: usize,
    /// Advisories about the package that was matched last, because many versions of one package have the same.
    about: Option<(String, String, Vec<Hit>)>,
    /// Number of advisories that were compared with a package; a long one counts several times.
    compared: u64,
}

impl<'a> Matcher<'a> {
    /// Creates a matcher for `database`.
    ///
    /// # Errors
    /// When the database is damaged.
    pub fn new(database: &'a Database) -> Result<Self, DatabaseError> {
        let present = database.sources()?.into_iter().map(|source| source.ecosystem).collect();
        Ok(Self { database, present, cache: HashMap::new(), cached: 0, about: None, compared: 0 })
    }

    /// Returns whether the packages so far took all the work that a package set may take.
    pub fn is_exhausted(&self) -> bool {
        self.compared >= MAX_COMPARED
    }

    /// Matches one package of `distribution`. [`Finding::package`] is 0.
    ///
    /// # Errors
    /// When the database is damaged.
    pub fn match_package(
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
        for vulnerability in self.vulnerabilities(ecosystem, subject.package)? {
            let ids = vulnerability.ids.clone();
            let mut finding = vulnerability.clone().into_finding();
            match owner {
                None => matched.findings.push(finding),
                Some((owner, ecosystem)) if has_any_id(database, ecosystem, &ids)? => {
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

    fn vulnerabilities(&mut self, ecosystem: String, package: &Package) -> Result<&[Vulnerability], DatabaseError> {
        let (name, version) = package.advisory_name();
        let name = (package.kind.ecosystem().normalize_name)(name).into_owned();
        let key = (ecosystem, name, version.to_owned());
        if !self.cache.contains_key(&key) {
            let (ecosystem, name, version) = &key;
            let is_known = self.about.as_ref().is_some_and(|(other, about, _)| other == ecosystem && about == name);
            if !is_known {
                self.about = Some((ecosystem.clone(), name.clone(), self.database.advisories(ecosystem, name)?));
            }
            let hits = self.about.as_ref().map_or(&[][..], |(_, _, hits)| hits.as_slice());
            self.compared += hits.iter().map(|hit| cost(version, hit)).sum::<u64>();
            let found = vulnerabilities(ecosystem, version, hits)
                .map_err(|error| self.database.damaged(format!("invalid list: {error}")))?;
            let size: usize = found.iter().map(|one| 1 + (one.ids.len() + one.records.len()) / 16).sum();
            self.cached += size;
            if self.cached > MAX_CACHED {
                self.cache.clear();
                self.cached = size;
            }
            self.cache.insert(key.clone(), found);
        }
        Ok(self.cache.get(&key).map_or(&[][..], Vec::as_slice))
    }
}

/// Returns the cost of comparing a version with an advisory. Long versions and long advisories take longer.
fn cost(version: &str, hit: &Hit) -> u64 {
    (1 + version.len() / 256 + (hit.ranges.size() + hit.versions.size()) / 1024) as u64
}

/// Returns whether an OS package belongs to the distribution: its source package occurs in the distribution's feed or, for RPM, its vendor is
/// the distribution.
fn owns(database: &Database, ecosystem: &str, owner: &Package) -> Result<bool, DatabaseError> {
    match (owner.kind.ecosystem().origin, &owner.vendor) {
        (Origin::OperatingSystem { owner: OwnerRule::Vendor }, Some(vendor)) => {
            let distribution = ecosystem.split([':', ' ']).next().unwrap_or_default();
            Ok(vendor.to_lowercase().contains(&distribution.to_lowercase()))
        }
        _ => database.has_package(ecosystem, owner.advisory_name().0),
    }
}

fn has_any_id(database: &Database, ecosystem: &str, ids: &BTreeSet<String>) -> Result<bool, DatabaseError> {
    for id in ids {
        if database.has_id(ecosystem, id)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One vulnerability, joined from the records about it.
#[derive(Clone, Debug)]
struct Vulnerability {
    /// IDs of the vulnerability itself.
    ids: BTreeSet<String>,
    /// IDs of the records.
    records: BTreeSet<String>,
    fixed: Option<String>,
    status: Option<String>,
    rating: Rating,
    summary: String,
}

impl Vulnerability {
    fn into_finding(self) -> Finding {
        let cves: Vec<&String> = self.ids.iter().filter(|id| id.starts_with("CVE-")).collect();
        let id = match (cves.as_slice(), self.records.first().or(self.ids.first())) {
            ([only], _) => (*only).clone(),
            (_, Some(first)) => first.clone(),
            (_, None) => String::new(),
        };
        let aliases = self.ids.union(&self.records).filter(|alias| **alias != id).take(MAX_ALIASES).cloned().collect();
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

    /// Adds the data of another record about the same vulnerability.
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

/// Returns the vulnerabilities of one version of a package.
fn vulnerabilities(ecosystem: &str, version: &str, hits: &[Hit]) -> Result<Vec<Vulnerability>, serde_json::Error> {
    let Some(row) = by_osv_name(ecosystem) else { return Ok(Vec::new()) };
    let distribution = row.is_os();
    let version = Installed::parse(row.version_order, version);
    let mut found: Vec<Vulnerability> = Vec::new();
    for hit in hits {
        let ranges = hit.ranges.parse()?;
        let Verdict::Affected(fixed) = evaluate(&version, &ranges, &hit.versions.parse()?) else {
            continue;
        };
        if distribution && is_of_another_module(version.text(), &ranges) {
            continue;
        }
        let rating = rate(&hit.severity.parse()?, hit.rating.as_deref().or(hit.status.as_deref()), distribution);
        for ids in identities(hit, distribution)? {
            found.push(Vulnerability {
                ids,
                records: BTreeSet::from([hit.id.clone()]),
                fixed: fixed.clone(),
                status: hit.status.clone(),
                rating,
                summary: hit.summary.clone(),
            });
        }
    }
    Ok(join_by_id(found))
}

/// Returns whether only one of the erratum and the package is built for a module stream. Packages of module streams have versions of their own
/// (`…module_el8…`), which cannot be compared with others.
fn is_of_another_module(version: &str, ranges: &[Range]) -> bool {
    let is_module = |text: &str| text.contains(".module");
    let mut fixes = ranges.iter().flat_map(|range| &range.events).filter_map(|event| event.fixed.as_deref()).peekable();
    fixes.peek().is_some() && fixes.all(|fixed| is_module(fixed) != is_module(version))
}

/// Returns the IDs of each vulnerability that a record is about: one vulnerability with all its IDs or, for an erratum, one per CVE.
fn identities(hit: &Hit, distribution: bool) -> Result<Vec<BTreeSet<String>>, serde_json::Error> {
    let is_cve = |id: &&String| id.starts_with("CVE-");
    let (aliases, all_upstream, related) = (hit.aliases.parse()?, hit.upstream.parse()?, hit.related.parse()?);
    let own = |more: &[String]| {
        let ids = std::iter::once(&hit.id).chain(&aliases).chain(more);
        ids.cloned().collect::<BTreeSet<String>>()
    };
    if aliases.iter().any(|id| is_cve(&id)) || is_cve(&&hit.id) {
        return Ok(vec![own(&[])]);
    }
    let upstream: BTreeSet<&String> = all_upstream.iter().filter(is_cve).collect();
    if upstream.len() == 1 {
        return Ok(vec![own(&all_upstream)]);
    }
    let cves: BTreeSet<&String> =
        if distribution { upstream.into_iter().chain(related.iter().filter(is_cve)).collect() } else { upstream };
    if cves.is_empty() {
        return Ok(vec![own(&[])]);
    }
    Ok(cves.into_iter().map(|cve| BTreeSet::from([cve.clone()])).collect())
}

/// Joins vulnerabilities that share an ID.
fn join_by_id(found: Vec<Vulnerability>) -> Vec<Vulnerability> {
    let mut joined: Vec<Option<Vulnerability>> = Vec::new();
    let mut by_id: HashMap<String, usize> = HashMap::new();
    for mut vulnerability in found {
        let known: BTreeSet<usize> = vulnerability.ids.iter().filter_map(|id| by_id.get(id).copied()).collect();
        // The data of the first record takes precedence; later ones only add to it.
        let position = known.first().copied().unwrap_or(joined.len());
        for other in known.into_iter().rev() {
            if let Some(mut earlier) = joined.get_mut(other).and_then(Option::take) {
                earlier.join(vulnerability);
                vulnerability = earlier;
            }
        }
        by_id.extend(vulnerability.ids.iter().map(|id| (id.clone(), position)));
        if position == joined.len() {
            joined.push(Some(vulnerability));
        } else if let Some(slot) = joined.get_mut(position) {
            *slot = Some(vulnerability);
        }
    }
    let sorted: BTreeMap<BTreeSet<String>, Vulnerability> =
        joined.into_iter().flatten().map(|vulnerability| (vulnerability.ids.clone(), vulnerability)).collect();
    sorted.into_values().collect()
}

/// Returns whether a finding has at least this severity.
pub fn is_at_least(finding: &Finding, severity: Severity) -> bool {
    finding.rating.severity >= severity
}

#[cfg(test)]
mod tests {
    use rusqlite::types::{FromSql, ValueRef};

    use super::super::database::List;
    use super::*;

    fn list<T>(text: &str) -> List<T> {
        List::column_result(ValueRef::Text(text.as_bytes())).unwrap()
    }

    #[test]
    fn long_versions_and_long_advisories_cost_more() {
        let hit = |ranges: &str, versions: &str| Hit {
            id: "CVE-2026-1".to_owned(),
            summary: String::new(),
            severity: list("[]"),
            rating: None,
            aliases: list("[]"),
            upstream: list("[]"),
            related: list("[]"),
            ranges: list(ranges),
            versions: list(versions),
            status: None,
        };
        assert_eq!(cost("1.0", &hit("[]", "[]")), 1);
        assert_eq!(cost(&"1a".repeat(1280), &hit("[]", "[]")), 11);
        let long = format!("[{:?}]", "1a".repeat(5120));
        assert_eq!(cost("1.0", &hit(&long, "[]")), 11);
        assert_eq!(cost("1.0", &hit("[]", &long)), 11);
    }
}
