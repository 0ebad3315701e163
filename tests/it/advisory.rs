//! The advisory database: building it, matching with it, and limits on hostile feeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use outcrop::advisory::{Database, Matched, STALE_AFTER_DAYS, Subject, assess, build, match_packages};
use outcrop_proto::{AssessedState, Distribution, FindingStatus, Package, PackageType, Severity, SourcePackage};
use serde_json::{Value, json};

/// A folder for feeds and databases.
struct Workshop(tempfile::TempDir);

impl Workshop {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A database of these records.
    fn database(&self, records: &[Value]) -> Database {
        let feed = self.path("feed");
        fs::create_dir_all(&feed).unwrap();
        for record in records {
            self.put(&format!("feed/{}.json", record["id"].as_str().unwrap()), record.to_string());
        }
        build(&[feed], &self.path("db")).unwrap();
        Database::open(&self.path("db")).unwrap()
    }
}

/// A record about one package, fixed in a version, with whatever `more` says.
fn record(id: &str, ecosystem: &str, package: &str, fixed: &str, more: Value) -> Value {
    let mut record = json!({
        "id": id, "modified": "2026-11-01T00:00:00Z",
        "affected": [{ "package": { "ecosystem": ecosystem, "name": package },
            "ranges": [{ "type": "ECOSYSTEM", "events": [{ "introduced": "0" }, { "fixed": fixed }] }] }],
    });
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    record
}

fn distribution(id: &str, version: &str) -> Distribution {
    Distribution { id: id.to_owned(), version_id: version.to_owned(), ..Distribution::default() }
}

fn matched(database: &Database, system: &Distribution, packages: &[Package]) -> Matched {
    let subjects: Vec<Subject<'_>> = packages.iter().map(|package| Subject { package, owner: None }).collect();
    match_packages(database, Some(system), &subjects).unwrap()
}

/// What was found, as `id status fix`.
fn told(matched: &Matched) -> Vec<String> {
    let one = |finding: &outcrop::advisory::Finding| {
        format!("{} {} {}", finding.id, finding.status.as_str(), finding.fixed.as_deref().unwrap_or("-"))
    };
    matched.findings.iter().map(one).collect()
}

#[test]
fn the_same_records_give_the_same_bytes_in_whatever_order_they_come() {
    let shop = Workshop::new();
    for number in 0..50 {
        let text = record(&format!("X-{number}"), "npm", "a", "2", json!({})).to_string();
        shop.put(&format!("one/{number}.json"), &text);
        shop.put(&format!("other/{}.json", 99 - number), &text);
    }
    let (first, second) = (shop.path("one"), shop.path("other"));
    build(&[first.clone(), second.clone()], &shop.path("db1")).unwrap();
    build(&[second, first.clone()], &shop.path("db2")).unwrap();
    let report = build(&[first.clone(), first], &shop.path("db3")).unwrap();
    let bytes = |name: &str| fs::read(shop.path(name)).unwrap();
    assert!(bytes("db1") == bytes("db2"), "two databases of the same records differ");
    assert_eq!((report.records, report.superseded), (50, 50));
}

#[test]
fn a_record_that_cannot_be_used_is_named_and_costs_itself_only() {
    let shop = Workshop::new();
    shop.put("feed/good.json", record("GOOD", "npm", "a", "2", json!({})).to_string());
    shop.put("feed/good.yaml", "id: ALSO\nmodified: 2026-01-01T00:00:00Z\naffected:\n- package: {ecosystem: npm, name: b}\n  versions: ['1']\n");
    let deep = "[".repeat(100_000);
    let laughs: String = std::iter::once("a0: &a0 x\n".to_owned())
        .chain((1..40).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))))
        .collect();
    for (name, text, reason) in [
        ("text.json", "hello", "expected"),
        ("cut.json", "{\"id\":\"X\"", "EOF"),
        ("binary.json", "\u{0}\u{1}", "expected"),
        ("list.json", "[]", "not an OSV record"),
        ("nameless.json", "{\"id\":\"\"}", "id is empty"),
        ("deep.json", &deep, "not an OSV record"),
        ("deep-inside.json", &format!("{{\"id\":\"D\",\"x\":{deep}"), "EOF"),
        ("deep-word.json", &format!("{{\"id\":\"D\",\"database_specific\":{{\"severity\":{deep}"), "recursion limit"),
        ("deep.yaml", &deep, "not an OSV record"),
        ("laughs.yaml", &laughs, "not an OSV record"),
    ] {
        let path = shop.put(&format!("feed/{name}"), text);
        let report = build(&[shop.path("feed")], &shop.path("db")).unwrap();
        assert_eq!(report.records, 2, "{name}");
        let [complaint] = report.unusable.as_slice() else { panic!("{name}: {:?}", report.unusable) };
        assert_eq!(complaint.file, path.display().to_string());
        assert!(complaint.reason.contains(reason), "{name}: {}", complaint.reason);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_read_to_its_end_ends_the_build_and_writes_nothing() {
    let shop = Workshop::new();
    let records: Vec<String> =
        (0..500).map(|number| record(&format!("R{number}"), "npm", "a", "2", json!({})).to_string()).collect();
    let mut archive = tar::Builder::new(Vec::new());
    for (number, text) in records.iter().enumerate() {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("{number}.json"), text.as_bytes()).unwrap();
    }
    let whole = zstd::encode_all(&*archive.into_inner().unwrap(), 3).unwrap();
    shop.put("feed/good.json", &records[0]);
    for (name, bytes, reason) in [
        ("archive.zip", &b"PK\x03\x04 and no more"[..], "not a usable zip"),
        ("archive.tar.zst", b"neither", "not a usable .tar.zst"),
        ("archive.tar.zst", &whole[..whole.len() - 100], "not a usable .tar.zst"),
    ] {
        let path = shop.put(&format!("feed/{name}"), bytes);
        for input in [shop.path("feed"), path.clone()] {
            let error = build(&[input], &shop.path("db")).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(reason) && error.contains("nothing was written"), "{error}");
            assert!(!shop.path("db").exists(), "{name}");
        }
        fs::remove_file(path).unwrap();
    }
    shop.put("feed/archive.tar.zst", &whole);
    assert_eq!(build(&[shop.path("feed")], &shop.path("db")).unwrap().records, 500);
    let error = build(&[shop.path("feed")], &shop.path("feed")).unwrap_err().to_string();
    assert!(error.ends_with("it is a directory; pass the path of a file"), "{error}");
}

/// An archive of one entry, deflated or stored.
fn zip(shop: &Workshop, name: &str, entries: &[(&str, &[u8], bool)]) -> PathBuf {
    use rawzip::{CompressionMethod, ZipArchiveWriter, ZipDataWriter};
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (entry, bytes, deflated) in entries {
        let method = if *deflated { CompressionMethod::DEFLATE } else { CompressionMethod::STORE };
        let (mut file, config) = archive.new_file(entry).compression_method(method).start().unwrap();
        if *deflated {
            let encoder = flate2::write::DeflateEncoder::new(&mut file, flate2::Compression::default());
            let mut writer = config.wrap(encoder);
            writer.write_all(bytes).unwrap();
            let (encoder, descriptor) = writer.finish().unwrap();
            encoder.finish().unwrap();
            file.finish(descriptor).unwrap();
        } else {
            let mut writer: ZipDataWriter<_> = config.wrap(&mut file);
            writer.write_all(bytes).unwrap();
            let (_, descriptor) = writer.finish().unwrap();
            file.finish(descriptor).unwrap();
        }
    }
    shop.put(name, archive.finish().unwrap())
}

#[test]
fn an_archive_is_read_as_osv_publishes_it_and_a_bomb_in_it_costs_its_record() {
    let shop = Workshop::new();
    let good = record("GOOD", "npm", "a", "2", json!({})).to_string();
    let mut bomb = record("BOMB", "npm", "a", "2", json!({})).to_string().into_bytes();
    bomb.resize(64 << 20, b' ');
    let archive = zip(
        &shop,
        "npm/all.zip",
        &[
            ("bomb.json", &bomb, true),
            ("../../../etc/good.json", good.as_bytes(), true),
            ("stored.json", record("STORED", "npm", "a", "3", json!({})).to_string().as_bytes(), false),
            ("README.md", b"not a record", true),
        ],
    );
    assert!(fs::metadata(&archive).unwrap().len() < 200_000, "it is a bomb");
    let report = build(&[archive], &shop.path("db")).unwrap();
    assert_eq!(report.records, 2);
    let [complaint] = report.unusable.as_slice() else { panic!("{:?}", report.unusable) };
    assert!(complaint.file.ends_with("all.zip!/bomb.json"), "{}", complaint.file);
    assert!(complaint.reason.contains("larger than"), "{}", complaint.reason);
    assert!(!Path::new("/etc/good.json").exists());
    let sources = Database::open(&shop.path("db")).unwrap().sources().unwrap();
    assert_eq!((sources[0].ecosystem.as_str(), sources[0].origins.as_str()), ("npm", "all.zip"));
}

#[test]
fn nothing_usable_writes_nothing_and_keeps_what_was_there() {
    let shop = Workshop::new();
    let out = shop.put("db", "what was there");
    shop.put("feed/bad.json", "{");
    shop.put("feed/git.json", json!({ "id": "G", "affected": [{ "ranges": [{ "type": "GIT" }] }] }).to_string());
    let error = build(&[shop.path("feed")], &out).unwrap_err().to_string();
    assert!(error.contains("no usable OSV record"), "{error}");
    assert_eq!(fs::read(&out).unwrap(), b"what was there");
    assert_eq!(fs::read_dir(shop.0.path()).unwrap().count(), 2, "no temporary file stays");
    let error = build(&[shop.path("nowhere")], &out).unwrap_err().to_string();
    assert!(error.contains("nowhere") && error.contains("No such file"), "{error}");
}

#[test]
fn the_newest_copy_of_a_record_counts_and_a_withdrawn_one_does_not() {
    let shop = Workshop::new();
    let copy = |day: &str, fixed: &str| {
        record("X", "npm", "a", fixed, json!({ "modified": format!("2026-01-{day}T00:00:00Z") }))
    };
    shop.put("feed/1.json", copy("02", "1.2").to_string());
    shop.put("feed/2.json", copy("03", "1.3").to_string());
    shop.put("feed/3.json", copy("01", "1.1").to_string());
    let gone = record("GONE", "npm", "a", "9", json!({ "withdrawn": "2026-02-01T00:00:00Z" }));
    shop.put("feed/gone.json", gone.to_string());
    let report = build(&[shop.path("feed")], &shop.path("db")).unwrap();
    assert_eq!((report.records, report.superseded, report.withdrawn), (1, 2, 1));
    let database = Database::open(&shop.path("db")).unwrap();
    let found = matched(&database, &distribution("debian", "12"), &[Package::new(PackageType::Npm, "a", "1.0.0")]);
    assert_eq!(told(&found), ["X fixed 1.3"]);
}

#[test]
fn every_ecosystem_is_matched_by_its_own_names_and_order() {
    let from = |kind, name: &str, version: &str, source: Option<(&str, &str)>| Package {
        source: source.map(|(name, version)| SourcePackage { name: name.to_owned(), version: version.to_owned() }),
        ..Package::new(kind, name, version)
    };
    use PackageType::{Apk, Deb, Golang, Maven, Npm, Pypi, Rpm};
    let cases = [
        // Source package and its version, not the binary's.
        (
            "Debian:12",
            "glibc",
            "2.36-9+deb12u8",
            "debian 12",
            from(Deb, "libc6", "9", Some(("glibc", "2.36-9+deb12u7"))),
            true,
        ),
        (
            "Debian:12",
            "glibc",
            "2.36-9+deb12u8",
            "debian 12",
            from(Deb, "libc6", "1", Some(("glibc", "2.36-9+deb12u8"))),
            false,
        ),
        ("Debian:12", "bash", "5.2~rc2-1", "debian 12", from(Deb, "bash", "5.2~rc1-1", None), true),
        // Another release is another source.
        ("Debian:11", "bash", "6", "debian 12", from(Deb, "bash", "5", None), false),
        (
            "Ubuntu:22.04:LTS",
            "openssl",
            "3.0.2-0ubuntu1.9",
            "ubuntu 22.04",
            from(Deb, "openssl", "3.0.2-0ubuntu1.8", None),
            true,
        ),
        ("Ubuntu:24.10", "openssl", "3.3", "ubuntu 24.10", from(Deb, "openssl", "3.2", None), true),
        (
            "Alpine:v3.17",
            "openssl",
            "3.0.8-r0",
            "alpine 3.17.2",
            from(Apk, "libssl3", "3.0.7-r2", Some(("openssl", "3.0.7-r2"))),
            true,
        ),
        (
            "Alpine:v3.17",
            "openssl",
            "3.0.8-r0",
            "alpine 3.17.2",
            from(Apk, "libssl3", "3.0.8-r0", Some(("openssl", "3.0.8-r0"))),
            false,
        ),
        // RPM's advisories name binary packages; its epoch counts.
        (
            "AlmaLinux:9",
            "bind",
            "32:9.16.23-15.el9",
            "almalinux 9.3",
            from(Rpm, "bind", "32:9.16.23-14.el9", None),
            true,
        ),
        ("AlmaLinux:9", "bind", "32:9.16.23-15.el9", "almalinux 9.3", from(Rpm, "bind", "33:1-1.el9", None), false),
        ("Rocky Linux:8", "bash", "5-1", "rocky 8.9", from(Rpm, "bash", "4-1", None), true),
        ("PyPI", "Foo.Bar", "2.0", "debian 12", from(Pypi, "foo_bar", "2.0rc1", None), true),
        ("PyPI", "Foo.Bar", "2.0", "debian 12", from(Pypi, "foo_bar", "2.0.post1", None), false),
        ("npm", "@a/b", "1.2.3", "debian 12", from(Npm, "@a/b", "1.2.3-beta.1", None), true),
        ("npm", "@a/b", "1.2.3", "debian 12", from(Npm, "@a/b", "1.2.3+build", None), false),
        ("Maven", "g:a", "1.0", "debian 12", from(Maven, "g:a", "1.0-RC1", None), true),
        ("Maven", "g:a", "1.0", "debian 12", from(Maven, "g:a", "1.0.Final", None), false),
        ("Go", "stdlib", "1.22.3", "debian 12", from(Golang, "stdlib", "v1.22.2", None), true),
        ("Go", "m.example/x", "2.0.0", "debian 12", from(Golang, "m.example/x", "v1.9.9+incompatible", None), true),
    ];
    for (ecosystem, name, fixed, system, package, expected) in cases {
        let shop = Workshop::new();
        let database = shop.database(&[record("CVE-2026-1", ecosystem, name, fixed, json!({}))]);
        let (id, version) = system.split_once(' ').unwrap();
        let found = told(&matched(&database, &distribution(id, version), std::slice::from_ref(&package)));
        let expected: &[String] = if expected { &[format!("CVE-2026-1 fixed {fixed}")] } else { &[] };
        assert_eq!(found, expected, "{ecosystem} {name} {fixed} against {package:?}");
    }
}

#[test]
fn one_problem_is_one_finding_by_whatever_name_it_goes() {
    let shop = Workshop::new();
    let database = shop.database(&[
        record("GHSA-1", "PyPI", "a", "1.5", json!({ "aliases": ["CVE-2026-1", "PYSEC-1"], "summary": "of GHSA" })),
        record("PYSEC-1", "PyPI", "a", "1.6", json!({ "aliases": ["CVE-2026-1"], "details": "of PYSEC" })),
        // Two chains that only a third record joins.
        record("A-1", "PyPI", "a", "2", json!({ "aliases": ["B-1"] })),
        record("C-1", "PyPI", "a", "2", json!({ "aliases": ["D-1"] })),
        record("E-1", "PyPI", "a", "2", json!({ "aliases": ["B-1", "D-1"] })),
        // Related is not the same.
        record("GHSA-9", "PyPI", "a", "2", json!({ "related": ["CVE-2026-1"] })),
    ]);
    let found = matched(&database, &distribution("debian", "12"), &[Package::new(PackageType::Pypi, "a", "1")]);
    assert_eq!(told(&found), ["A-1 fixed 2", "CVE-2026-1 fixed 1.5", "GHSA-9 fixed 2"]);
    assert_eq!(found.findings[0].aliases, ["B-1", "C-1", "D-1", "E-1"]);
    assert_eq!(found.findings[1].aliases, ["GHSA-1", "PYSEC-1"]);
    assert_eq!(found.findings[1].summary, "of GHSA");
}

#[test]
fn an_erratum_is_told_by_the_problems_that_it_mends() {
    let shop = Workshop::new();
    let database = shop.database(&[
        record("ALSA-1", "AlmaLinux:9", "bash", "6", json!({ "related": ["CVE-2026-1", "CVE-2026-2"] })),
        record("ALSA-2", "AlmaLinux:9", "bash", "7", json!({ "related": ["CVE-2026-2"] })),
    ]);
    let found = matched(&database, &distribution("almalinux", "9"), &[Package::new(PackageType::Rpm, "bash", "5")]);
    assert_eq!(told(&found), ["CVE-2026-1 fixed 6", "CVE-2026-2 fixed 6"]);
    assert_eq!(found.findings[1].aliases, ["ALSA-1", "ALSA-2"]);
}

#[test]
fn the_status_is_what_the_record_says() {
    let unfixed = |id: &str, key: &str, word: &str| {
        json!({ "id": id, "modified": "2026-11-01T00:00:00Z", "affected": [{
            "package": { "ecosystem": "Debian:12", "name": "a" }, "ecosystem_specific": { key: word },
            "ranges": [{ "type": "ECOSYSTEM", "events": [{ "introduced": "0" }] }] }] })
    };
    let shop = Workshop::new();
    let database = shop.database(&[
        unfixed("CVE-1", "urgency", "unimportant"),
        unfixed("CVE-2", "urgency", "end-of-life"),
        unfixed("CVE-3", "status", "ignored"),
        unfixed("CVE-4", "status", "needs-triage"),
        record("CVE-5", "Debian:12", "a", "2", json!({})),
    ]);
    let found = matched(&database, &distribution("debian", "12"), &[Package::new(PackageType::Deb, "a", "1")]);
    let told: Vec<(FindingStatus, Severity)> =
        found.findings.iter().map(|finding| (finding.status, finding.rating.severity)).collect();
    assert_eq!(
        told,
        [
            (FindingStatus::Affected, Severity::Negligible),
            (FindingStatus::EndOfLife, Severity::Unknown),
            (FindingStatus::WillNotFix, Severity::Unknown),
            (FindingStatus::UnderInvestigation, Severity::Unknown),
            (FindingStatus::Fixed, Severity::Unknown),
        ]
    );
}

#[test]
fn an_owned_package_is_the_distributions_to_judge_where_it_does() {
    let shop = Workshop::new();
    let database = shop.database(&[
        record("CVE-2026-1", "PyPI", "requests", "3", json!({})),
        record("CVE-2026-2", "PyPI", "requests", "3", json!({})),
        // The distribution knows the first, and has mended it.
        record(
            "CVE-2026-1",
            "Debian:12",
            "requests",
            "2.28-1",
            json!({ "id": "DEBIAN-CVE-2026-1", "aliases": ["CVE-2026-1"] }),
        ),
    ]);
    let package = Package::new(PackageType::Pypi, "requests", "2.28");
    let owner = |name: &str| Package::new(PackageType::Deb, name, "2.28-1");
    let ask = |owner: &Package| {
        let subject = Subject { package: &package, owner: Some(owner) };
        match_packages(&database, Some(&distribution("debian", "12")), &[subject]).unwrap()
    };
    let found = ask(&Package {
        source: Some(SourcePackage { name: "requests".to_owned(), version: "2.28-1".to_owned() }),
        ..owner("python3-requests")
    });
    assert_eq!(told(&found), ["CVE-2026-2 fixed 3"]);
    assert!(found.findings[0].not_assessed_by_distribution);
    let withheld: Vec<(&str, &str)> =
        found.withheld.iter().map(|withheld| (withheld.finding.id.as_str(), withheld.owner.as_str())).collect();
    assert_eq!(withheld, [("CVE-2026-1", "python3-requests")]);
    // A vendor's own package, which the distribution's feed never names, takes nothing out of sight.
    let found = ask(&owner("acme-bundle"));
    assert_eq!((found.findings.len(), found.withheld.len()), (2, 0));
    assert!(!found.findings[0].not_assessed_by_distribution);
}

#[test]
fn every_ecosystem_says_whether_it_could_be_matched() {
    let shop = Workshop::new();
    let database = shop.database(&[
        record("1", "Debian:12", "a", "2", json!({})),
        record("2", "Debian:10", "a", "2", json!({})),
        record("3", "npm", "a", "2", json!({ "modified": "2026-01-01T00:00:00Z" })),
        record("4", "Go", "a", "2", json!({ "modified": "0001-01-01T00:00:00Z" })),
    ]);
    let now = jiff::civil::date(2026, 11, 20);
    let cases = [
        (PackageType::Deb, Some(("debian", "12")), "Debian:12", AssessedState::Matched, ""),
        (
            PackageType::Deb,
            Some(("debian", "10")),
            "Debian:10",
            AssessedState::Unmatched,
            "end of life since 2024-06-30",
        ),
        (PackageType::Deb, Some(("debian", "13")), "Debian:13", AssessedState::Unmatched, "no source"),
        (PackageType::Deb, Some(("debian", "")), "debian", AssessedState::Unmatched, "unknown release"),
        (
            PackageType::Rpm,
            Some(("opensuse-leap", "15.5")),
            "opensuse-leap",
            AssessedState::Unmatched,
            "no advisory source",
        ),
        (PackageType::Deb, None, "deb", AssessedState::Unmatched, "no os-release"),
        (PackageType::Npm, None, "npm", AssessedState::Stale, "323 days old"),
        (PackageType::Golang, None, "Go", AssessedState::Stale, "no modification date"),
        (PackageType::Pypi, None, "PyPI", AssessedState::Unmatched, "no source"),
    ];
    for (kind, system, ecosystem, state, reason) in cases {
        let system = system.map(|(id, version)| distribution(id, version));
        let package = Package::new(kind, "a", "1");
        let said = assess(&database.sources().unwrap(), system.as_ref(), [package.kind], now);
        let [assessed] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!((assessed.ecosystem.as_str(), assessed.state), (ecosystem, state), "{assessed:?}");
        assert!(assessed.reason.contains(reason), "{assessed:?}");
    }
    let day = |days: i64| {
        let package = Package::new(PackageType::Deb, "a", "1");
        let now = jiff::civil::date(2026, 11, 1).checked_add(jiff::Span::new().days(days)).unwrap();
        assess(&database.sources().unwrap(), Some(&distribution("debian", "12")), [package.kind], now)[0].state
    };
    assert_eq!((day(STALE_AFTER_DAYS), day(STALE_AFTER_DAYS + 1)), (AssessedState::Matched, AssessedState::Stale));
}

#[test]
fn a_file_that_is_no_database_says_what_it_is_and_what_to_do() {
    let shop = Workshop::new();
    shop.database(&[record("1", "npm", "a", "2", json!({}))]);
    let whole = fs::read(shop.path("db")).unwrap();
    let mut newer = whole.clone();
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    let mut foreign = whole.clone();
    foreign[68..72].copy_from_slice(&[0; 4]);
    let mut smashed = whole.clone();
    smashed[4096..].fill(0xff);
    for (name, bytes, reason) in [
        ("text", b"hello".to_vec(), "not an advisory database"),
        ("empty", Vec::new(), "not an advisory database"),
        ("foreign", foreign, "one of another program"),
        ("newer", newer, "unsupported format 99, expected 1"),
        ("smashed", smashed, "is damaged"),
    ] {
        let error = Database::open(&shop.put(name, bytes)).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("outcrop db build"), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
    for name in ["nowhere", "."] {
        let error = Database::open(&shop.path(name)).unwrap_err().to_string();
        assert!(error.contains("outcrop db build"), "{error}");
    }
    for length in (0..whole.len()).step_by(512) {
        let cut = shop.put("cut", &whole[..length]);
        assert!(Database::open(&cut).is_err(), "cut at {length}");
    }
}

#[test]
fn versions_of_a_hostile_record_are_bounded() {
    let shop = Workshop::new();
    let long = "1.".repeat(500_000);
    let database = shop.database(&[
        record("LONG", "npm", "a", &long, json!({})),
        record("GOOD", "npm", "a", "2", json!({ "summary": "x".repeat(1 << 20) })),
    ]);
    let found = matched(
        &database,
        &distribution("debian", "12"),
        &[Package::new(PackageType::Npm, "a", "1"), Package::new(PackageType::Npm, "a", &long)],
    );
    assert_eq!(told(&found), ["GOOD fixed 2", "GOOD fixed 2"]);
    assert!(found.findings[0].summary.len() < 1000);
}

#[test]
fn the_bundled_feed_has_no_record_that_cannot_be_used() {
    let shop = Workshop::new();
    let report = build(&[PathBuf::from("data/feed")], &shop.path("db")).unwrap();
    assert_eq!(report.unusable, []);
    assert!(report.records > 5000, "{report:?}");
    let sources = Database::open(&shop.path("db")).unwrap().sources().unwrap();
    for ecosystem in ["AlmaLinux:9", "Alpine:v3.17", "Debian:12", "Go", "Maven", "PyPI", "Ubuntu:22.04:LTS", "npm"] {
        assert!(sources.iter().any(|source| source.ecosystem == ecosystem), "{ecosystem} is in the feed");
    }
    // The day that the demo passes to --db-as-of.
    let day: jiff::civil::Date = std::fs::read_to_string("data/as-of").unwrap().trim().parse().unwrap();
    for ecosystem in ["Debian:12", "Go", "Maven", "PyPI", "npm"] {
        let source = sources.iter().find(|source| source.ecosystem == ecosystem).unwrap();
        assert!(source.age_days(day).unwrap() <= STALE_AFTER_DAYS, "{ecosystem} is stale on {day}");
    }
}

#[test]
fn the_bundled_feed_is_rated_and_has_no_withdrawn_record_and_no_fix_below_the_version_that_contains_it() {
    let shop = Workshop::new();
    let report = build(&[PathBuf::from("data/feed")], &shop.path("db")).unwrap();
    assert_eq!(report.withdrawn, 0);
    let database = rusqlite::Connection::open(shop.path("db")).unwrap();
    let count = |condition: &str| -> i64 {
        let query = format!("SELECT count(*) FROM advisory a JOIN affected f USING (number) WHERE {condition}");
        database.query_row(&query, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("a.summary LIKE '%withdrawn%'"), 0);
    let unrated = "a.severity = '[]' AND f.severity = '[]' AND a.rating IS NULL";
    // Nobody rates those of libssh2, an old version of which a test image contains.
    assert_eq!(count(&format!("{unrated} AND f.package != 'libssh2'")), 0);
    assert!(count(unrated) > 0);
    // A release's own version 1.3~deb12u1 contains what 1.3 fixes, and is lower.
    let mut fixes: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut rows =
        database.prepare("SELECT ecosystem, package, ranges FROM affected WHERE ecosystem LIKE 'Debian:%'").unwrap();
    let rows = rows.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get::<_, String>(2)?))).unwrap();
    for (package, ranges) in rows.map(Result::unwrap) {
        let ranges: Value = serde_json::from_str(&ranges).unwrap();
        let events = ranges.as_array().unwrap().iter().flat_map(|range| range["events"].as_array().unwrap());
        let fixed = events.filter_map(|event| event["fixed"].as_str()).map(ToOwned::to_owned);
        fixes.entry(package).or_default().extend(fixed);
    }
    assert!(fixes.len() > 70);
    for (package, fixed) in fixes {
        let below = fixed.iter().find(|fix| fixed.iter().any(|other| other.starts_with(&format!("{fix}~deb"))));
        assert_eq!(below, None, "{package:?}");
    }
}

#[test]
fn of_too_many_findings_the_worst_are_kept_and_the_others_counted() {
    let workshop = Workshop::new();
    let scored = |number: usize| {
        let vector = match number {
            0 => "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H",
            _ => "CVSS:3.1/AV:L/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N",
        };
        let severity = json!({ "severity": [{ "type": "CVSS_V3", "score": vector }] });
        record(&format!("CVE-2026-{number:04}"), "npm", "a", "9.0.0", severity)
    };
    let database = workshop.database(&(0..100).map(scored).collect::<Vec<_>>());
    let version = |number: usize| Package::new(PackageType::Npm, "a", format!("0.0.{number}"));
    let system = distribution("debian", "12");
    let found = matched(&database, &system, &(0..300).map(version).collect::<Vec<_>>());
    assert_eq!((found.findings.len(), found.dropped, found.unmatched), (10_000, 20_000, 0));
    assert_eq!(found.findings.iter().filter(|finding| finding.rating.severity == Severity::Critical).count(), 300);
    let found = matched(&database, &system, &(0..100).map(version).collect::<Vec<_>>());
    assert_eq!((found.findings.len(), found.dropped), (10_000, 0), "what fits is whole");

    // Versions that take long to compare: after a million advisories the rest is not matched, and counted.
    let long = |number: usize| Package::new(PackageType::Npm, "a", format!("0.0.{}{number}", "1".repeat(256 << 10)));
    let found = matched(&database, &system, &(0..15).map(long).collect::<Vec<_>>());
    assert_eq!(found.unmatched, 5);
}

/// Runs SQL in a database file.
fn alter(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn lists_and_texts_beyond_their_limits_are_refused_before_a_database_is_used() {
    let shop = Workshop::new();
    shop.database(&[record("1", "npm", "a", "2", json!({}))]);
    let whole = fs::read(shop.path("db")).unwrap();
    let list = |entry: &str, count: usize| format!("[{}]", vec![entry; count].join(","));
    let events = |event: &str, count: usize| format!(r#"[{{"type":"SEMVER","events":{}}}]"#, list(event, count));
    for (column, value, reason) in [
        ("affected SET versions", list("\"1\"", 100_000), None),
        ("affected SET versions", list("\"1\"", 100_001), Some("more entries than the limit of 100000")),
        ("affected SET versions", list("\"1.0.0-beta\"", 99_000), Some("larger than the limit of 1048576 bytes")),
        ("affected SET ranges", events("{}", 100_001), Some("an entry is longer than the limit")),
        (
            "affected SET ranges",
            events(&format!(r#"{{"fixed":"{}"}}"#, "1".repeat(1025)), 1),
            Some("an entry is longer"),
        ),
        ("affected SET status", "x".repeat(65), Some("longer than 64 characters")),
        ("advisory SET related", list("\"CVE-1\"", 1001), Some("more entries than the limit of 1000")),
        ("advisory SET aliases", list(&format!("{:?}", "x".repeat(257)), 1), Some("an entry is longer")),
        ("advisory SET summary", "x".repeat(302), Some("longer than 301 characters")),
    ] {
        let path = shop.put("altered", &whole);
        alter(&path, &format!("UPDATE {column} = '{value}'"));
        let checked = Database::open(&path).unwrap().check().map_err(|error| error.to_string());
        match reason {
            None => assert_eq!(checked, Ok(()), "{column}"),
            Some(reason) => {
                assert!(checked.as_ref().is_err_and(|error| error.contains(reason)), "{column}: {checked:?}")
            }
        }
    }
}

/// A record with as many long aliases as there may be, which weigh eight megabytes.
fn heavy(number: usize) -> Value {
    let aliases: Vec<String> = (0..1000).map(|alias| format!("{number}-{alias}-{}", "x".repeat(240))).collect();
    record(&format!("HEAVY-{number}"), "npm", "a", "2", json!({ "aliases": aliases }))
}

#[test]
fn advisories_about_one_package_that_weigh_too_much_together_are_refused_and_never_loaded() {
    let shop = Workshop::new();
    let database = shop.database(&[heavy(0), record("OTHER", "npm", "b", "2", json!({}))]);
    database.check().unwrap();
    let copies: String = (10..20)
        .map(|number| {
            format!(
                "INSERT INTO advisory SELECT {number}, id, modified, summary, severity, rating, aliases, upstream, related
                     FROM advisory WHERE number = 1;
                 INSERT INTO affected SELECT ecosystem, package, {number}, part, ranges, versions, severity, status
                     FROM affected WHERE number = 1;"
            )
        })
        .collect();
    alter(&shop.path("db"), &copies);
    let database = Database::open(&shop.path("db")).unwrap();
    let error = database.check().unwrap_err().to_string();
    assert!(error.contains("about the package \"a\" of npm take more memory than the limit"), "{error}");
    let ask = |name: &str| {
        let package = Package::new(PackageType::Npm, name, "1");
        match_packages(&database, None, &[Subject { package: &package, owner: None }])
    };
    assert_eq!(ask("a").unwrap_err().to_string(), error);
    assert_eq!(told(&ask("b").unwrap()), ["OTHER fixed 2"]);
}

#[test]
fn a_build_leaves_out_what_would_be_refused_and_names_it() {
    let shop = Workshop::new();
    for number in 0..10 {
        shop.put(&format!("feed/{number}.json"), heavy(number).to_string());
    }
    let listed = |id: &str, versions: Vec<String>| {
        json!({ "id": id, "modified": "2026-11-01T00:00:00Z",
            "affected": [{ "package": { "ecosystem": "npm", "name": "b" }, "versions": versions }] })
    };
    shop.put("feed/many.json", listed("MANY", vec!["1".to_owned(); 100_001]).to_string());
    shop.put("feed/long.json", listed("LONG", vec!["1".repeat(100); 20_000]).to_string());
    shop.put("feed/most.json", listed("MOST", vec!["1".to_owned(); 100_000]).to_string());
    let report = build(&[shop.path("feed")], &shop.path("db")).unwrap();
    let unusable: Vec<&str> = report.unusable.iter().map(|unusable| unusable.file.as_str()).collect();
    assert_eq!(unusable, ["feed: HEAVY-8", "feed: HEAVY-9", "feed: LONG", "feed: MANY"]);
    assert!(report.unusable[0].reason.contains("take more memory"), "{:?}", report.unusable);
    assert_eq!(report.records, 9);
    Database::open(&shop.path("db")).unwrap().check().unwrap();
}
