//! Messages for tests of kinds that render them.

use crate::deliver::notification::{Entry, Fix, Notification, Occasion, Place, PlaceKind, Problem, SeverityCount};

/// A text that would be markup somewhere.
const HOSTILE: &str =
    "<!channel> <https://evil.example|x> & \" ' onmouseover=\"alert(1)\" <script>alert(1)</script> *_~`[a](b) {{ x }}";

fn entry(vulnerability: &str, text: &str, places: Vec<Place>) -> Entry {
    Entry {
        vulnerability: vulnerability.to_owned(),
        severity: "critical".to_owned(),
        summary: text.to_owned(),
        packages: vec![Fix {
            package: "log4j-core".to_owned(),
            version: "2.14.0".to_owned(),
            fixed: Some("2.17.1".to_owned()),
        }],
        workloads: places.iter().map(|place| place.workloads).sum(),
        places,
        link: Some("https://outcrop.example/api/v1/findings?vulnerability=CVE%2D1".to_owned()),
    }
}

fn place(kind: PlaceKind, name: &str) -> Place {
    let examples = vec!["Deployment pay/api".to_owned()];
    Place { kind, name: name.to_owned(), workloads: 12, examples }
}

/// Returns a message as it usually is.
pub(super) fn usual() -> Notification {
    let mut message = Notification::new(Occasion::News, "prod", "chat", 1_000);
    message.title = "New in cluster prod: 8 critical vulnerabilities in 14 workloads".to_owned();
    message.link = Some("https://outcrop.example/".to_owned());
    message.severities = vec![SeverityCount { severity: "critical".to_owned(), vulnerabilities: 8 }];
    message.workloads = 14;
    message.vulnerabilities = vec![entry("CVE-1", "remote code execution", vec![place(PlaceKind::Owner, "payments")])];
    message.more_vulnerabilities = 7;
    let problem = |problem: &str, message: &str, is_raised| Problem {
        problem: problem.to_owned(),
        message: message.to_owned(),
        at: 900,
        is_raised,
    };
    message.problems = vec![problem("delivery central", "503", true), problem("store", "", false)];
    message
}

/// Returns a message that is as large as one can be, of hostile texts.
pub(super) fn large() -> Notification {
    let mut message = usual();
    let long = |length: usize| HOSTILE.chars().cycle().take(length).collect::<String>();
    message.title = long(400);
    message.vulnerabilities = (0..25)
        .map(|number| {
            let kinds = [PlaceKind::Owner, PlaceKind::Namespace, PlaceKind::Nodes, PlaceKind::Others];
            let mut places: Vec<Place> = kinds.map(|kind| place(kind, &long(120))).into();
            places.iter_mut().for_each(|place| place.examples = vec![long(120); 3]);
            let mut entry = entry(&format!("CVE-9{number:03}{}", long(110)), &long(300), places);
            entry.packages = vec![Fix { package: long(120), version: long(120), fixed: Some(long(120)) }; 3];
            entry
        })
        .collect();
    message.problems = (0..20)
        .map(|number| Problem {
            problem: format!("{number}{}", long(110)),
            message: long(300),
            at: 900,
            is_raised: true,
        })
        .collect();
    message
}

/// Returns messages of every shape.
pub(super) fn all() -> Vec<Notification> {
    let mut small = Notification::new(Occasion::Summary, "prod", "chat", 1_000);
    small.title = "Outcrop watches cluster prod: no such vulnerability".to_owned();
    vec![small, usual(), large(), Notification::test("prod", "chat", 1_000)]
}
