//! Notices → one message: grouped by vulnerability and by owner, within bounds.

use std::collections::BTreeMap;

use outcrop_proto::Word as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::connection::Url;
use super::notification::{
    Entry, Fix, Notification, Occasion, Place, PlaceKind, Problem, SeverityCount, clean, counted,
};
use crate::store::{NoticeRow, NoticeTotals, ProblemNotice, WorkloadKey};

/// Places of a vulnerability that are named; the others are added up.
const PLACES: usize = 4;

/// Places of a vulnerability that are told apart while they are counted.
const MOST_PLACES: usize = 10_000;

/// Packages of a vulnerability that are named.
const PACKAGES: usize = 3;

/// Workloads of a place that are named.
const EXAMPLES: usize = 3;

/// Longest name from outside, in characters.
const NAME: usize = 120;

/// Longest text from outside, in characters.
const TEXT: usize = 300;

/// Collects notices, which come by vulnerability.
#[derive(Debug, Default)]
pub struct Composer {
    entries: Vec<Gathered>,
}

/// A vulnerability while its notices come.
#[derive(Debug)]
struct Gathered {
    entry: Entry,
    rank: u8,
    places: BTreeMap<(PlaceKind, String), (u64, Vec<String>)>,
}

impl Composer {
    /// Adds a notice of a workload with this owner.
    pub fn add(&mut self, row: NoticeRow, owner: Option<&str>) {
        let NoticeRow { vulnerability, severity, workload, package, summary } = row;
        let name = clean(&vulnerability, NAME);
        if self.entries.last().is_none_or(|last| last.entry.vulnerability != name) {
            let entry = Entry {
                vulnerability: name,
                severity: severity.word().to_owned(),
                summary: clean(&summary, TEXT),
                packages: Vec::new(),
                workloads: 0,
                places: Vec::new(),
                link: None,
            };
            self.entries.push(Gathered { entry, rank: severity.rank(), places: BTreeMap::new() });
        }
        let Some(Gathered { entry, rank, places }) = self.entries.last_mut() else { return };
        if severity.rank() < *rank {
            (*rank, entry.severity) = (severity.rank(), severity.word().to_owned());
        }
        entry.workloads += 1;
        if let Some((package, version, fixed)) = package {
            let fixed = fixed.map(|fixed| clean(&fixed, NAME));
            let fix = Fix { package: clean(&package, NAME), version: clean(&version, NAME), fixed };
            if entry.packages.len() < PACKAGES && !entry.packages.contains(&fix) {
                entry.packages.push(fix);
            }
        }
        let mut key = match owner {
            _ if is_node(&workload) => (PlaceKind::Nodes, String::new()),
            Some(owner) => (PlaceKind::Owner, clean(owner, NAME)),
            None => (PlaceKind::Namespace, clean(&workload.namespace, NAME)),
        };
        if places.len() >= MOST_PLACES && !places.contains_key(&key) {
            key = (PlaceKind::Others, String::new());
        }
        let (count, examples) = places.entry(key).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example(&workload));
        }
    }

    /// Returns the message.
    pub fn compose(
        self,
        mut message: Notification,
        totals: &NoticeTotals,
        problems: Vec<ProblemNotice>,
        base: Option<&Url>,
    ) -> Notification {
        let listed = self.entries.len() as u64;
        let all: u64 = totals.vulnerabilities.iter().map(|(_, count)| count).sum();
        message.vulnerabilities = self.entries.into_iter().map(|gathered| gathered.entry(base)).collect();
        message.more_vulnerabilities = all.saturating_sub(listed);
        let counted = |(severity, count): &(outcrop_proto::Severity, u64)| SeverityCount {
            severity: severity.word().to_owned(),
            vulnerabilities: *count,
        };
        message.severities = totals.vulnerabilities.iter().map(counted).collect();
        (message.workloads, message.is_incomplete) = (totals.workloads, totals.is_full);
        message.more_problems = totals.problems.saturating_sub(problems.len() as u64);
        let problem = |of: ProblemNotice| Problem {
            problem: clean(&of.problem, NAME),
            message: clean(&of.message, TEXT),
            at: of.at,
            is_raised: of.is_raised,
        };
        message.problems = problems.into_iter().map(problem).collect();
        message.link = base.map(|base| base.uri().to_string());
        message.title = title(&message, totals.problems);
        message
    }
}

impl Gathered {
    fn entry(self, base: Option<&Url>) -> Entry {
        let Self { mut entry, places, .. } = self;
        let place = |((kind, name), (workloads, examples))| Place { kind, name, workloads, examples };
        let mut places: Vec<Place> = places.into_iter().map(place).collect();
        // The others come last, however many they are.
        places.sort_by_key(|place| (place.kind == PlaceKind::Others, std::cmp::Reverse(place.workloads)));
        if places.len() > PLACES {
            let others = places.split_off(PLACES - 1).iter().map(|place| place.workloads).sum();
            let (kind, name, examples) = (PlaceKind::Others, String::new(), Vec::new());
            places.push(Place { kind, name, workloads: others, examples });
        }
        entry.link = base.map(|base| {
            let name = utf8_percent_encode(&entry.vulnerability, NON_ALPHANUMERIC);
            format!("{}/api/v1/findings?vulnerability={name}", base.uri().to_string().trim_end_matches('/'))
        });
        Entry { places, ..entry }
    }
}

fn is_node(workload: &WorkloadKey) -> bool {
    &*workload.kind == "Node" && workload.namespace.is_empty()
}

fn example(workload: &WorkloadKey) -> String {
    match is_node(workload) {
        true => clean(&workload.name, NAME),
        false => clean(&format!("{} {}/{}", workload.kind, workload.namespace, workload.name), NAME),
    }
}

fn title(message: &Notification, problems: u64) -> String {
    let cluster = &message.cluster;
    let severities: Vec<String> =
        message.severities.iter().map(|of| format!("{} {}", of.vulnerabilities, of.severity)).collect();
    let all: u64 = message.severities.iter().map(|of| of.vulnerabilities).sum();
    let noun = if all == 1 { "vulnerability" } else { "vulnerabilities" };
    let found = format!("{} {noun} in {}", severities.join(", "), counted(message.workloads, "workload"));
    let problems = (problems > 0).then(|| counted(problems, "change") + " of problems of Outcrop");
    let found = (all > 0).then_some(found);
    let what = [found, problems].into_iter().flatten().collect::<Vec<_>>().join("; ");
    match (message.occasion, what.as_str()) {
        (Occasion::Summary, "") => format!("Outcrop watches cluster {cluster}: no such vulnerability"),
        (Occasion::Summary, what) => format!("Outcrop watches cluster {cluster}: {what}"),
        (Occasion::Digest, what) => format!("Digest of cluster {cluster}: {what}"),
        (_, what) => format!("New in cluster {cluster}: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use outcrop_proto::Severity;

    use super::*;

    fn row(vulnerability: &str, severity: Severity, namespace: &str, name: &str) -> NoticeRow {
        NoticeRow {
            vulnerability: vulnerability.to_owned(),
            severity,
            workload: WorkloadKey {
                namespace: namespace.into(),
                group: "apps".into(),
                kind: if namespace.is_empty() { "Node" } else { "Deployment" }.into(),
                name: name.into(),
            },
            package: Some(("log4j-core".to_owned(), "2.14.0".to_owned(), Some("2.17.1".to_owned()))),
            summary: "remote code\nexecution".to_owned(),
        }
    }

    fn totals(critical: u64, workloads: u64) -> NoticeTotals {
        NoticeTotals { vulnerabilities: vec![(Severity::Critical, critical)], workloads, ..NoticeTotals::default() }
    }

    fn news() -> Notification {
        Notification::new(Occasion::News, "prod", "chat", 0)
    }

    #[test]
    fn workloads_are_grouped_by_vulnerability_and_owner() {
        let mut composer = Composer::default();
        for number in 0..12 {
            composer.add(row("CVE-1", Severity::Critical, "pay", &format!("api{number}")), Some("payments"));
        }
        composer.add(row("CVE-1", Severity::Critical, "shop", "web"), None);
        composer.add(row("CVE-1", Severity::Critical, "", "node-1"), Some("payments"));
        composer.add(row("CVE-2", Severity::Critical, "shop", "web"), None);
        let base = Url::try_from("https://outcrop.example/".to_owned()).unwrap();
        let message = composer.compose(news(), &totals(5, 14), Vec::new(), Some(&base));
        assert_eq!(message.title, "New in cluster prod: 5 critical vulnerabilities in 14 workloads");
        let [first, second] = message.vulnerabilities.as_slice() else { panic!("{message:?}") };
        let places: Vec<String> = first.places.iter().map(Place::text).collect();
        assert_eq!(places, ["in 12 workloads of payments", "in Deployment shop/web", "on node node-1"]);
        assert_eq!((first.fixed().as_str(), first.workloads), ("fixed in log4j-core 2.17.1", 14));
        assert_eq!(first.summary, "remote code execution");
        assert_eq!(second.link.as_deref(), Some("https://outcrop.example/api/v1/findings?vulnerability=CVE%2D2"));
        assert_eq!(message.remarks(), ["and 3 more vulnerabilities"]);
        let stored = serde_json::to_vec(&message).unwrap();
        assert_eq!(serde_json::from_slice::<Notification>(&stored).unwrap(), message);
    }

    #[test]
    fn a_message_is_small_however_many_workloads_and_owners_there_are() {
        let mut composer = Composer::default();
        let long = "x".repeat(5_000);
        for vulnerability in 0..25 {
            for number in 0..if vulnerability == 0 { 20_000 } else { 10 } {
                let owner = format!("owner {number} {}", &long[..200]);
                let name = format!("CVE-{vulnerability}");
                composer.add(row(&name, Severity::High, "shop", &number.to_string()), Some(&owner));
            }
        }
        let problem = ProblemNotice { problem: long.clone(), message: long.clone(), at: 0, is_raised: true };
        let message = composer.compose(news(), &totals(100_000, 20_000), vec![problem; 10], None);
        assert_eq!((message.vulnerabilities.len(), message.more_vulnerabilities), (25, 99_975));
        let places = &message.vulnerabilities[0].places;
        assert_eq!((places.len(), places[3].kind), (4, PlaceKind::Others));
        assert_eq!(places.iter().map(|place| place.workloads).sum::<u64>(), 20_000);
        assert!(serde_json::to_vec(&message).unwrap().len() < 100_000);
    }

    #[test]
    fn the_title_says_what_there_is() {
        let title = |occasion, totals: &NoticeTotals| {
            Composer::default().compose(Notification::new(occasion, "prod", "chat", 0), totals, Vec::new(), None).title
        };
        let none = NoticeTotals::default();
        let problems = NoticeTotals { problems: 2, ..NoticeTotals::default() };
        assert_eq!(title(Occasion::Summary, &none), "Outcrop watches cluster prod: no such vulnerability");
        assert_eq!(title(Occasion::News, &problems), "New in cluster prod: 2 changes of problems of Outcrop");
        assert_eq!(
            title(Occasion::Digest, &totals(1, 1)),
            "Digest of cluster prod: 1 critical vulnerability in 1 workload"
        );
    }
}
