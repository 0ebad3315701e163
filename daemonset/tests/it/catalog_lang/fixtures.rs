//! Every Python, npm and Java case of the shared fixtures, compared with the best reference list available: that of the other
//! tool's own unit test, otherwise syft's. Differences are listed here with the reason why Outcrop's list is right.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::support::{catalogue, listed, shared};
use crate::skip::skip;

/// `(case, expected by the authority, listed by us, why)`; an empty string is nothing.
const DIFFERENCES: &[(&str, &str, &str, &str)] = &[
    (
        "java/trivy-test.jar",
        "org.springframework:Spring Framework 2.5.6.SEC03",
        "org.springframework.core:test 2.5.6.SEC03",
        "the jar has no coordinates. No artifact of Maven has a space in its name, so its title is none; the name of the file \
         is what syft takes, and with its true name (spring-core-2.5.6.SEC03.jar) it is org.springframework:spring-core",
    ),
    (
        "npm/trivy-package-json",
        "angular UNKNOWN",
        "",
        "a manifest without a version is not an installed package, and no advisory could match it",
    ),
];

#[test]
fn every_fixture_yields_exactly_the_expected_packages() {
    let Some(fixtures) = shared() else { return skip("shared", "fixtures of language ecosystems") };
    let mut cases = 0;
    for format in ["python", "npm", "java"] {
        for case in fs::read_dir(fixtures.join(format)).unwrap() {
            let case = case.unwrap();
            let name = format!("{format}/{}", case.file_name().to_str().unwrap());
            let mut expected = expectation(&case.path(), format);
            for (_, theirs, ours, _) in DIFFERENCES.iter().filter(|(case, ..)| *case == name) {
                assert!(theirs.is_empty() || expected.remove(*theirs), "{name}: {theirs} was never expected");
                expected.extend((!ours.is_empty()).then(|| (*ours).to_owned()));
            }
            assert_eq!(found(&case.path()), expected, "{name}");
            cases += 1;
        }
    }
    assert!(cases >= 14, "{cases} cases");
}

#[test]
fn the_fixtures_kept_here_yield_their_packages() {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/lang"));
    for (case, expected) in [
        ("python", &["distlib 0.3.1"][..]),
        ("npm", &["@actions/core 1.6.0"]),
        (
            "java",
            &[
                "com.some.anotherpackage:another-package-name 3.2.1",
                "com.some.package:package-name 1.2.3",
                "test:nested 0.0.1",
                "test:nested2 0.0.2",
                "test:nested3 0.0.3",
            ],
        ),
    ] {
        let found = found(&data.join(case));
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{case}");
    }
}

fn found(case: &Path) -> BTreeSet<String> {
    let facts = catalogue(&case.join("root"));
    facts.iter().filter_map(|(_, fact)| fact.as_ref().ok()).flat_map(listed).collect()
}

/// `name version` lines of the best list beside a fixture.
fn expectation(case: &Path, format: &str) -> BTreeSet<String> {
    let peer = case.join("expected.peer.tsv");
    let (file, columns) = if peer.exists() { (peer, (0, 1)) } else { (case.join("expected.syft-1.18.1.tsv"), (1, 2)) };
    let text = fs::read_to_string(file).unwrap();
    let rows = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let rows = rows.map(|line| line.split('\t').collect::<Vec<_>>());
    rows.map(|row| {
        assert!(row.len() > columns.1, "{format}: {row:?}");
        format!("{} {}", row[columns.0], row[columns.1])
    })
    .collect()
}
