//! Version orders against the vectors of osv-scalibr, which come from the ecosystems' own tools.
//!
//! Every line passes but those of `ODD`. Small copies lie in `tests/data/vectors`; the whole sets, where `OUTCROP_SHARED`
//! (by default a folder `shared` beside the project) is there.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use outcrop::advisory::version::{Version, VersionOrder, compare};
use proptest::prelude::*;

use crate::skip::skip;

const FILES: &[(&str, VersionOrder)] = &[
    ("alpine-versions.tsv", VersionOrder::Apk),
    ("alpine-versions-generated.tsv", VersionOrder::Apk),
    ("debian-versions.tsv", VersionOrder::Dpkg),
    ("debian-versions-generated.tsv", VersionOrder::Dpkg),
    ("maven-versions.tsv", VersionOrder::Maven),
    ("maven-versions-generated.tsv", VersionOrder::Maven),
    ("pypi-versions.tsv", VersionOrder::Pep440),
    ("pypi-versions-generated.tsv", VersionOrder::Pep440),
    ("redhat-versions.tsv", VersionOrder::Rpm),
    ("semver-versions.tsv", VersionOrder::Semver),
];

/// The vectors come from an older Maven.
const NEWER: &str = "`ComparableVersion` of Maven 3.8.7 and 3.9.11 orders them as we do";
/// Maven compares what follows a dot and what follows a hyphen in two ways.
const SPECIFICATION: &str =
    "the specification says '.qualifier' = '-qualifier', and without that there is no total order";
/// What apk refuses.
const REFUSED: &str = "apk takes neither for a version; a total order tells them apart";
/// A version that ends in a hyphen has no release, as one without a hyphen.
const EMPTY: &str = "an empty release is none";

/// Lines that do not pass, with the reason why we are right: file, line, reason.
const ODD: &[(&str, &str, &str)] = &[
    ("alpine-versions.tsv", "1-r0-1\t=\t1-r-2", REFUSED),
    ("alpine-versions.tsv", "1-r0-1\t=\t1-r0-2", REFUSED),
    ("alpine-versions.tsv", "1-r0-ruff2\t=\t1-r0-ruff1", REFUSED),
    ("alpine-versions.tsv", "1-ruff2\t=\t1--ruff1", REFUSED),
    ("alpine-versions.tsv", "1-ruff2\t=\t1-ruff1", REFUSED),
    ("maven-versions-generated.tsv", "1.0.0-RC16\t<\t1.0.0.RC8-beta", NEWER),
    ("maven-versions-generated.tsv", "1.0.0-gradle-rework-beta3\t<\t1.0.0.RC7-3", NEWER),
    ("maven-versions-generated.tsv", "1.0.0rc0\t<\t1.0.beta8", NEWER),
    ("maven-versions-generated.tsv", "1.1.0-01-glassfish\t<\t1.1.0.Beta1", NEWER),
    ("maven-versions-generated.tsv", "1.1.31.sec10\t<\t1.1.31_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.1.34.sec10\t<\t1.1.34_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.1.46.sec10\t<\t1.1.46_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.31.sec10\t<\t1.2.31_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.48.sec10\t<\t1.2.48_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.50.sec10\t<\t1.2.50_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.54.sec10\t<\t1.2.54_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.57.sec10\t<\t1.2.57_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.60.sec10\t<\t1.2.60_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.67.sec10\t<\t1.2.67_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.2.8.sec10_noneautotype\t<\t1.2.8_noneautotype", NEWER),
    ("maven-versions-generated.tsv", "1.5.9.RC1\t<\t1.5.9-RC0", NEWER),
    ("maven-versions-generated.tsv", "2.9.0-1\t<\t2.9.0.RC1", NEWER),
    ("maven-versions-generated.tsv", "3.5.0-CR-2\t<\t3.5.0.Beta-1", SPECIFICATION),
    ("maven-versions-generated.tsv", "3.6.2.FL.20090615\t<\t3.6.2-FL-2009-05-11", SPECIFICATION),
    ("maven-versions-generated.tsv", "6.1.12.rc5\t<\t6.1.12rc1", NEWER),
    ("redhat-versions.tsv", "1\t<\t1-", EMPTY),
];

fn folders() -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = std::env::var_os("OUTCROP_SHARED").map_or_else(|| here.join("../shared"), PathBuf::from);
    vec![here.join("tests/data/vectors"), shared.join("data/vectors")]
}

#[test]
fn every_vector_is_ordered_as_its_ecosystems_own_tool_orders_it() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for folder in folders() {
        if !folder.is_dir() {
            skip("shared", format!("{} does not exist: only the small copies are tested", folder.display()));
            continue;
        }
        for (name, scheme) in FILES {
            let text = fs::read_to_string(folder.join(name)).unwrap();
            let (mut passed, mut lines) = (0, 0);
            for line in text.lines().filter(|line| !line.starts_with("# ") && !line.is_empty()) {
                let [a, sign, b] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{name}: {line:?}") };
                let expected = match sign {
                    "<" => Ordering::Less,
                    ">" => Ordering::Greater,
                    _ => Ordering::Equal,
                };
                lines += 1;
                let right = compare(*scheme, a, b) == expected && compare(*scheme, b, a) == expected.reverse();
                passed += usize::from(right);
                if let Some((_, _, reason)) = ODD.iter().find(|(file, odd, _)| file == name && *odd == line) {
                    assert!(!right, "{name}: {line:?} passes now: take it out of ODD");
                    eprintln!("{name}: {line:?}: {reason}");
                } else if !right {
                    wrong.push(format!("{name}: {line}"));
                }
            }
            eprintln!("{}/{name}: {passed} of {lines}", folder.display());
            seen += lines;
        }
    }
    assert!(seen > 0);
    let shown: Vec<&String> = wrong.iter().take(90).collect();
    assert!(wrong.is_empty(), "{} lines are ordered otherwise: {shown:#?}", wrong.len());
}

const SCHEMES: [VersionOrder; 6] = [
    VersionOrder::Dpkg,
    VersionOrder::Apk,
    VersionOrder::Rpm,
    VersionOrder::Pep440,
    VersionOrder::Semver,
    VersionOrder::Maven,
];

/// Strings that look like versions often enough to reach the corners.
fn version() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[0-9]{1,3}",
        2 => Just("0".to_owned()),
        4 => prop::sample::select(vec![".", "-", "_", "~", "^", "+", ":", "-r", "_p", "_rc", "!", "v"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec!["alpha", "beta", "rc", "a", "b", "m", "ga", "final", "sp", "dev", "post", "snapshot", "x"])
            .prop_map(str::to_owned),
        1 => "\\PC{0,3}",
    ];
    prop::collection::vec(part, 0..7).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn every_order_is_total(scheme in prop::sample::select(&SCHEMES[..]), a in version(), b in version(), c in version()) {
        let parsed = [&a, &b, &c].map(|text| Version::parse(scheme, text));
        let mut sorted = parsed.clone();
        sorted.sort();
        prop_assert!(sorted[0] <= sorted[1] && sorted[1] <= sorted[2] && sorted[0] <= sorted[2]);
        for x in &parsed {
            prop_assert_eq!(x.cmp(x), Ordering::Equal);
            for y in &parsed {
                prop_assert_eq!(x.cmp(y), y.cmp(x).reverse());
                prop_assert_eq!(x == y, x.cmp(y) == Ordering::Equal);
                for z in &parsed {
                    prop_assert!(!(x <= y && y <= z) || x <= z, "{:?}: {:?} {:?} {:?}", scheme, a, b, c);
                }
            }
        }
    }
}

#[test]
fn a_version_of_a_megabyte_is_compared_like_any_other() {
    for scheme in SCHEMES {
        for pattern in ["1", "1.", "a", "1a", "~", "-", "0", "_p1", "é"] {
            let long = pattern.repeat((1 << 20) / pattern.len());
            let parsed = Version::parse(scheme, &long);
            assert_eq!(parsed.cmp(&Version::parse(scheme, &long)), Ordering::Equal);
            assert_ne!(
                parsed.cmp(&Version::parse(scheme, &format!("{long}z9"))),
                Ordering::Equal,
                "{scheme:?} {pattern}"
            );
        }
    }
}
