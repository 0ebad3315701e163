//! A message to people, as it is stored until it is sent. Each kind of target renders it in its own way.

use serde::{Deserialize, Serialize};

/// Version of the stored form. It grows when a field changes its meaning; new fields have defaults.
const VERSION: u32 = 1;

/// The occasion of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// The first message to a target: the sums of what there is.
    Summary,
    /// News since the last message.
    News,
    /// The same, at the time of a digest.
    Digest,
    /// `outcrop deliver test`.
    Test,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Version of this form.
    pub version: u32,
    /// Its occasion.
    pub occasion: Occasion,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the target.
    pub target: String,
    /// When it was composed, seconds since 1970.
    pub at: i64,
    /// One line.
    pub title: String,
    /// The web page, if its address is configured.
    pub link: Option<String>,
    /// Number of vulnerabilities of each severity, the most severe first.
    pub severities: Vec<SeverityCount>,
    /// Number of workloads.
    pub workloads: u64,
    /// The worst vulnerabilities.
    pub vulnerabilities: Vec<Entry>,
    /// Number of vulnerabilities that are not among them.
    pub more_vulnerabilities: u64,
    /// Problems of Outcrop itself that were raised or cleared.
    pub problems: Vec<Problem>,
    /// Number of problems that are not among them.
    pub more_problems: u64,
    /// Whether findings are missing, since the target has too many.
    pub is_incomplete: bool,
}

/// A number of vulnerabilities of one severity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeverityCount {
    /// The severity.
    pub severity: String,
    /// The number.
    pub vulnerabilities: u64,
}

/// A vulnerability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its identity.
    pub vulnerability: String,
    /// Its severity where it is worst.
    pub severity: String,
    /// What it is; empty where that is not known.
    pub summary: String,
    /// Packages that have it, some of them.
    pub packages: Vec<Fix>,
    /// Number of workloads that have it.
    pub workloads: u64,
    /// The places where these workloads are, the largest first.
    pub places: Vec<Place>,
    /// Its page, if the address is configured.
    pub link: Option<String>,
}

/// A package with a vulnerability.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fix {
    /// Name of the package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The version that fixes the vulnerability.
    pub fixed: Option<String>,
}

/// A kind of place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaceKind {
    /// Workloads of an owner.
    Owner,
    /// Workloads in a namespace that have no known owner.
    Namespace,
    /// Nodes, and their containers that belong to no workload.
    Nodes,
    /// The rest.
    Others,
}

/// Workloads that have a vulnerability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What joins them.
    pub kind: PlaceKind,
    /// Name of the owner or the namespace; empty for the others.
    pub name: String,
    /// Number of workloads, or of nodes.
    pub workloads: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// A problem of Outcrop itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Its key.
    pub problem: String,
    /// The message that people read; empty where it is not known.
    pub message: String,
    /// When it was raised or cleared, seconds since 1970.
    pub at: i64,
    /// Whether it is raised.
    pub is_raised: bool,
}

impl Notification {
    /// Returns an empty message.
    pub fn new(occasion: Occasion, cluster: &str, target: &str, at: i64) -> Self {
        Self {
            version: VERSION,
            occasion,
            cluster: clean(cluster, 100),
            target: target.to_owned(),
            at,
            title: String::new(),
            link: None,
            severities: Vec::new(),
            workloads: 0,
            vulnerabilities: Vec::new(),
            more_vulnerabilities: 0,
            problems: Vec::new(),
            more_problems: 0,
            is_incomplete: false,
        }
    }

    /// Returns a message that only shows that messages arrive. It is marked as a test, and names nothing that exists.
    pub fn test(cluster: &str, target: &str, at: i64) -> Self {
        let mut test = Self::new(Occasion::Test, cluster, target, at);
        test.title = format!("Test message of Outcrop in cluster {}", test.cluster);
        test.severities = vec![SeverityCount { severity: "critical".to_owned(), vulnerabilities: 1 }];
        test.workloads = 1;
        test.vulnerabilities = vec![Entry {
            vulnerability: "TEST-0000".to_owned(),
            severity: "critical".to_owned(),
            summary: "an example, nothing has it".to_owned(),
            packages: vec![Fix {
                package: "example".to_owned(),
                version: "1.0".to_owned(),
                fixed: Some("1.1".to_owned()),
            }],
            workloads: 1,
            places: vec![Place {
                kind: PlaceKind::Owner,
                name: "nobody".to_owned(),
                workloads: 1,
                examples: vec!["Deployment example/example".to_owned()],
            }],
            link: None,
        }];
        test
    }

    /// Returns the number of records that it counts for.
    pub fn records(&self) -> usize {
        (self.vulnerabilities.len() + self.problems.len()).max(1)
    }

    /// Returns it as plain text: the title, and a line for each item.
    pub fn plain(&self) -> String {
        let mut lines = vec![self.title.clone(), String::new()];
        for entry in &self.vulnerabilities {
            lines.push(format!("{} ({}), {}: {}", entry.vulnerability, entry.severity, entry.fixed(), entry.summary));
            lines.extend((!entry.packages.is_empty()).then(|| format!("  {}", entry.packages())));
            lines.extend(entry.places.iter().map(|place| format!("  {}", place.text())));
            lines.extend(entry.link.iter().map(|link| format!("  {link}")));
        }
        lines.extend(self.problems.iter().map(Problem::text));
        lines.extend(self.remarks());
        lines.extend(self.link.iter().map(|link| format!("\n{link}")));
        lines.join("\n") + "\n"
    }

    /// Returns lines that say how much is not listed.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if self.more_vulnerabilities > 0 {
            remarks.push(format!("and {}", counted(self.more_vulnerabilities, "more vulnerability")));
        }
        if self.more_problems > 0 {
            remarks.push(format!("and {}", counted(self.more_problems, "more problem")));
        }
        if self.is_incomplete {
            remarks.push("more findings are left out: the target has too many; raise filter.minSeverity".to_owned());
        }
        remarks
    }
}

impl Entry {
    /// Returns the versions that fix it, as a part of a sentence.
    pub fn fixed(&self) -> String {
        let mut fixes: Vec<String> = Vec::new();
        for Fix { package, fixed, .. } in &self.packages {
            let Some(fixed) = fixed else { continue };
            let fix = format!("{package} {fixed}");
            if !fixes.contains(&fix) {
                fixes.push(fix);
            }
        }
        if fixes.is_empty() { "no fixed version".to_owned() } else { format!("fixed in {}", fixes.join(", ")) }
    }

    /// Returns the packages that have it.
    pub fn packages(&self) -> String {
        let names: Vec<String> = self.packages.iter().map(|of| format!("{} {}", of.package, of.version)).collect();
        names.join(", ")
    }
}

impl Place {
    /// Returns where it is, as a part of a sentence.
    pub fn text(&self) -> String {
        let Self { kind, name, workloads, examples } = self;
        match (kind, examples.as_slice()) {
            (PlaceKind::Owner, [only]) if *workloads == 1 => format!("in {only} of {name}"),
            (PlaceKind::Namespace, [only]) if *workloads == 1 => format!("in {only}"),
            (PlaceKind::Nodes, [only]) if *workloads == 1 => format!("on node {only}"),
            (PlaceKind::Owner, _) => format!("in {} of {name}", counted(*workloads, "workload")),
            (PlaceKind::Namespace, _) => format!("in {} in namespace {name}", counted(*workloads, "workload")),
            (PlaceKind::Nodes, _) => format!("on {}", counted(*workloads, "node")),
            (PlaceKind::Others, _) => format!("in {} elsewhere", counted(*workloads, "workload")),
        }
    }
}

impl Problem {
    /// Returns it as one line.
    pub fn text(&self) -> String {
        let Self { problem, message, is_raised, .. } = self;
        match (is_raised, message.as_str()) {
            (false, _) => format!("over: {problem}"),
            (true, "") => problem.clone(),
            (true, message) => format!("{problem}: {message}"),
        }
    }
}

/// Returns a number with its noun.
pub(super) fn counted(number: u64, noun: &str) -> String {
    match (number, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}

/// Returns the beginning of a text from outside on one line, without characters that are invisible or reorder others.
pub(super) fn clean(text: &str, characters: usize) -> String {
    let is_hidden = |char: char| {
        char.is_control()
            || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    let clean: String =
        text.chars().take(characters.saturating_mul(2)).map(|char| if is_hidden(char) { ' ' } else { char }).collect();
    shorten(clean.trim(), characters)
}

/// Returns the beginning of a text, with an ellipsis where there is more.
pub(super) fn shorten(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_where_it_is_one_and_counted_where_they_are_many() {
        let place = |kind, workloads| Place {
            kind,
            name: "payments".to_owned(),
            workloads,
            examples: vec!["Deployment pay/api".to_owned()],
        };
        for (kind, one, many) in [
            (PlaceKind::Owner, "in Deployment pay/api of payments", "in 12 workloads of payments"),
            (PlaceKind::Namespace, "in Deployment pay/api", "in 12 workloads in namespace payments"),
            (PlaceKind::Nodes, "on node Deployment pay/api", "on 12 nodes"),
            (PlaceKind::Others, "in 1 workload elsewhere", "in 12 workloads elsewhere"),
        ] {
            assert_eq!((place(kind, 1).text().as_str(), place(kind, 12).text().as_str()), (one, many));
        }
        assert_eq!(counted(2, "more vulnerability"), "2 more vulnerabilities");
    }

    #[test]
    fn a_text_from_outside_is_one_line_that_shows_what_it_says() {
        assert_eq!(clean("a\r\nb\u{202e}c\u{200b}", 100), "a  b c");
        assert_eq!(clean(&"ä".repeat(1000), 3), "ää…");
        assert_eq!(shorten("abc", 3), "abc");
    }
}
