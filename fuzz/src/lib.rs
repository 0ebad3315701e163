//! What each fuzz target does with its bytes.
//!
//! `fuzz_targets/NAME.rs` runs one under libFuzzer (`make fuzz`). `tests/it/corpora.rs` runs all of them on their corpora with the stable
//! toolchain, in every run of CI.

use std::cmp::Ordering;

use outcrop::advisory::trust::{PublicKey, Signature};
use outcrop::advisory::version::{Version, VersionOrder};
use outcrop::cluster::checks::{MAX_ISSUES, PodSpec, check, level};
use outcrop::question::{Question, QuestionError};
use outcrop_agent::catalog::{ALL, Evidence};
use outcrop_proto::{Budget, Fact, Inventory, PackageType};

/// A target: what it does with an input.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 21] = [
    ("apk", |data| catalogue("apk", b"lib/apk/db/installed", data)),
    ("dpkg", |data| catalogue("dpkg", b"var/lib/dpkg/status", data)),
    ("golang", |data| catalogue("golang", b"usr/bin/app", data)),
    ("image_config", |data| drop(outcrop_agent::worker::parse_image_config(data, true))),
    ("inventory", inventory),
    ("java", |data| catalogue("java", b"app/x-1.0.jar", data)),
    ("labels", labels),
    ("lowerdir", |data| drop(overlayfs_reader::parse_lowerdir(data))),
    ("minisign", minisign),
    ("mountinfo", |data| drop(outcrop_agent::scan::mounted_root(data, "k8s.io/1/rootfs", Some(b"/upper")))),
    ("npm", |data| catalogue("npm", b"app/node_modules/a/package.json", data)),
    ("os_release", |data| catalogue("os-release", b"etc/os-release", data)),
    ("osv", osv),
    ("pod", pod),
    ("python", |data| {
        catalogue("python", b"site-packages/a-1.0.dist-info/METADATA", data);
        catalogue("python", b"site-packages/a-1.0-py3.egg", data);
    }),
    ("question", question),
    ("report", |data| outcrop_proto::wire::check_report(data)),
    ("rpm", |data| catalogue("rpm", b"var/lib/rpm/rpmdb.sqlite", data)),
    ("sbom", |data| drop(outcrop::export::cyclonedx::read(data))),
    ("version", versions),
    ("worker", |data| outcrop_agent::worker::check_frames(data)),
];

/// Runs the target called `name` on `data`.
///
/// # Panics
/// When a guarantee of the target does not hold, or no target has that name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target of that name");
    target(data);
}

/// Hands `bytes` to the cataloger called `name` as the evidence at `path`. What it says must survive its own encoding.
///
/// # Panics
/// When it does not, or there is no such cataloger.
fn catalogue(name: &str, path: &[u8], bytes: &[u8]) {
    let cataloger = ALL.iter().find(|cataloger| cataloger.name() == name).expect("a cataloger of that name");
    if let Ok(mut fact) = cataloger.read(&Evidence { path, source: &bytes, companions: &[] }) {
        fact.normalize();
        assert_eq!(Fact::decode(&fact.encode(), &mut Budget::job()).expect("a fact decodes"), fact);
    }
}

/// Reads an OSV record in the format that the first byte names, and evaluates it.
fn osv(data: &[u8]) {
    if let Some((first, rest)) = data.split_first() {
        let _ = outcrop::advisory::check_record(first % 2 == 1, rest);
    }
}

/// Parses a question of `who-has`, and asks it of a package of every type.
///
/// # Panics
/// When an error has more than one line or is long.
fn question(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let check = |error: QuestionError| {
        let error = error.to_string();
        assert!(error.lines().count() == 1 && error.chars().count() < 1_000, "{error}");
    };
    let question = match Question::parse(text) {
        Ok(question) => question,
        Err(error) => return check(error),
    };
    for name in question.package.spellings() {
        for kind in PackageType::ALL {
            for version in ["1.2.3", "1:2.0~rc1-1", "v4.17.21-beta.1+build", "not a version", text] {
                question.package.matches(kind, &name, version, text).map_or_else(check, drop);
            }
        }
    }
}

/// Parses a label selector, and selects with it.
fn labels(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(labels) = outcrop::cluster::Labels::parse(text) {
        let values = [("app", "web"), ("tier", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        labels.select(&values.into());
    }
}

/// Checks a pod.
///
/// # Panics
/// When it has more issues than the bound.
fn pod(data: &[u8]) {
    if let Ok(pod) = serde_json::from_slice::<PodSpec>(data) {
        let annotation = ("container.apparmor.security.beta.kubernetes.io/a".to_owned(), "unconfined".to_owned());
        let issues = check(&[annotation].into(), &pod);
        assert!(issues.list.len() <= MAX_ISSUES);
        let _ = level(&issues.list);
    }
}

/// Compares three versions in the order that the first byte names.
///
/// # Panics
/// When the order is not total.
fn versions(data: &[u8]) {
    const SCHEMES: [VersionOrder; 6] = [
        VersionOrder::Dpkg,
        VersionOrder::Apk,
        VersionOrder::Rpm,
        VersionOrder::Pep440,
        VersionOrder::Semver,
        VersionOrder::Maven,
    ];
    let Some((first, rest)) = data.split_first() else { return };
    let scheme = SCHEMES[usize::from(*first) % SCHEMES.len()];
    let text = String::from_utf8_lossy(rest);
    let parsed: Vec<Version> = text.split('\n').take(3).map(|text| Version::parse(scheme, text)).collect();
    for a in &parsed {
        assert_eq!(a.cmp(a), Ordering::Equal);
        for b in &parsed {
            assert_eq!(a.cmp(b), b.cmp(a).reverse());
            for c in &parsed {
                assert!(!(a <= b && b <= c) || a <= c, "{a:?} <= {b:?} <= {c:?}");
            }
        }
    }
}

/// Decodes an inventory.
///
/// # Panics
/// When something decodes that is not canonical.
fn inventory(bytes: &[u8]) {
    if let Ok(inventory) = Inventory::decode(bytes, &mut Budget::job())
        && inventory.unknown == 0
    {
        assert_eq!(inventory.encode(), bytes);
    }
}

/// Reads a minisign key, and a signature that is then verified.
///
/// # Panics
/// When a signature holds that the key did not make.
fn minisign(bytes: &[u8]) {
    let _ = PublicKey::parse(&String::from_utf8_lossy(bytes));
    let Ok(signature) = Signature::parse(bytes) else { return };
    let key = PublicKey::parse(include_str!("../../tests/data/minisign/minisign.pub")).expect("the key of the tests");
    let mut signed: &[u8] = include_bytes!("../../tests/data/minisign/signed.txt");
    if let Ok(signed) = signature.verify(&mut signed, &[key]) {
        assert!(
            ["made for tests, prehashed", "made for tests, legacy"].contains(&signed.comment.as_str()),
            "{signed:?}"
        );
    }
}
