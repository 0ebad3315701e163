//! Results of the catalogers for operating systems' databases, compared with other tools' lists of the same databases.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use outcrop_agent::catalog::{self, CatalogError, Evidence, Source, Want};
use outcrop_proto::{Fact, Package};

use crate::skip::skip;

const CATALOGERS: [&str; 4] = ["os-release", "dpkg", "apk", "rpm"];

/// Everything that the catalogers read below a root, by path.
fn read_root(root: &Path) -> BTreeMap<String, Result<Fact, CatalogError>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut facts = BTreeMap::new();
    for (path, bytes) in &files {
        let path = path.as_bytes();
        let wanting = catalog::ALL.iter().find(|cataloger| cataloger.wants(path) != Want::No);
        let Some(cataloger) = wanting.filter(|cataloger| CATALOGERS.contains(&cataloger.name())) else { continue };
        let companions = cataloger.companions(path);
        let companions: Vec<_> = companions
            .iter()
            .filter_map(|path| Some((path.as_slice(), files.get(std::str::from_utf8(path).ok()?)?.as_slice())))
            .collect();
        let companions: Vec<_> = companions.iter().map(|(path, bytes)| (*path, bytes as &dyn Source)).collect();
        let evidence = Evidence { path, source: &bytes.as_slice(), companions: &companions };
        facts.insert(String::from_utf8(path.to_vec()).unwrap(), cataloger.read(&evidence));
    }
    facts
}

/// One line of a list. What a list does not say is empty, and then not compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    name: String,
    version: String,
    arch: String,
    source: String,
}

impl Row {
    fn of(package: &Package) -> Self {
        Self {
            name: package.name.clone(),
            version: package.version.clone(),
            arch: package.arch.clone().unwrap_or_default(),
            source: package.source.as_ref().map(|source| source.name.clone()).unwrap_or_default(),
        }
    }

    fn key(&self) -> String {
        format!("{} {}", self.name, self.version)
    }
}

/// The rows of a tab-separated list, without its comment.
fn rows(file: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(file).unwrap();
    let split = |line: &str| line.split('\t').map(|field| field.replace("(none)", "")).collect();
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(split).collect()
}

/// The name of a source package in the name of its file.
fn source_name(file: &str) -> String {
    file.rsplitn(3, '-').nth(2).unwrap_or_default().to_owned()
}

/// What one tool lists.
fn expected(file: &Path) -> Vec<Row> {
    let of_rpm = |row: Vec<String>| {
        let epoch = if matches!(row[1].as_str(), "" | "0") { String::new() } else { format!("{}:", row[1]) };
        let version = format!("{epoch}{}-{}", row[2], row[3]);
        Row { name: row[0].clone(), version, arch: row[4].clone(), source: source_name(&row[5]) }
    };
    let of_syft = |row: Vec<String>| {
        let source = if row[0] == "rpm" { source_name(&row[4]) } else { row[4].clone() };
        Row { name: row[1].clone(), version: row[2].clone(), arch: row[3].clone(), source }
    };
    let of_trivy = |row: Vec<String>| Row { name: row[0].clone(), version: row[1].clone(), ..Row::default() };
    match file.file_name().unwrap().to_str().unwrap() {
        RPM => rows(file).into_iter().map(of_rpm).collect(),
        SYFT => rows(file).into_iter().map(of_syft).collect(),
        TRIVY => rows(file).into_iter().map(of_trivy).collect(),
        PROVENANT => {
            let list: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let row = |package: &serde_json::Value| Row {
                name: text(&package["name"]),
                version: text(&package["version"]),
                source: text(&package["source_packages"][0]).rsplit('/').next().unwrap().to_owned(),
                ..Row::default()
            };
            list.as_array().unwrap().iter().map(row).collect()
        }
        other => panic!("{other}: who made this list?"),
    }
}

const RPM: &str = "expected.rpm-qa.tsv";
const PROVENANT: &str = "expected.provenant.json";
const SYFT: &str = "expected.syft-1.18.1.tsv";
const TRIVY: &str = "expected.trivy-0.74.tsv";

/// Where lists are known to differ.
struct Difference {
    case: &'static str,
    list: &'static str,
    /// What the list has and we have not.
    missing: &'static [&'static str],
    /// What we have and the list has not.
    more: &'static [&'static str],
    /// Why ours is right.
    #[expect(dead_code, reason = "for the reader")]
    reason: &'static str,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        case: "dpkg/trivy-valid",
        list: SYFT,
        missing: &["git 1:2.20.1-2+deb10u3"],
        more: &[],
        reason: "its Status is `deinstall ok config-files`: its files are gone, dpkg does not count it as installed",
    },
    Difference {
        case: "dpkg-status.d/syft-deinstall",
        list: SYFT,
        missing: &["linux-image-6.8.0-1029-aws 6.8.0-1029.31"],
        more: &[],
        reason: "its Status is `deinstall ok config-files`, as above",
    },
    Difference {
        case: "dpkg-status.d/syft-multiple",
        list: SYFT,
        missing: &["no-version UNKNOWN"],
        more: &[],
        reason: "a stanza without a version describes no installed package; it is told as a warning",
    },
    Difference {
        case: "apk/trivy-apk",
        list: SYFT,
        missing: &["invalidPackageWithoutAVersion UNKNOWN"],
        more: &[],
        reason: "a record without a version describes no installed package; it is told as a warning",
    },
    Difference {
        case: "apk/provenant-installed",
        list: PROVENANT,
        missing: &[],
        more: &[
            "alpine-baselayout 3.2.0-r22",
            "alpine-keys 2.4-r1",
            "apk-tools 2.12.9-r3",
            "busybox 1.35.0-r15",
            "ca-certificates-bundle 20211220-r0",
            "libc-utils 0.7.2-r3",
            "libcrypto1.1 1.1.1q-r0",
            "libssl1.1 1.1.1q-r0",
            "musl 1.2.3-r0",
            "musl-utils 1.2.3-r0",
            "scanelf 1.3.4-r0",
            "ssl_client 1.35.0-r15",
            "zlib 1.2.12-r1",
        ],
        reason: "the list is of the first record only; the database has these too, and syft and trivy list them",
    },
    Difference {
        case: "rpm-manifest/container-manifest-2",
        list: SYFT,
        missing: &["vim 45000:9.0-1.cm2"],
        more: &["vim 2:9.0-1.cm2"],
        reason: "45000 is the column SIZE; EPOCH and EPOCHNUM are both 2",
    },
    Difference {
        case: "rpm-manifest/container-manifest-2",
        list: TRIVY,
        missing: &[],
        more: &[
            "filesystem 1.1-9.cm2",
            "glibc 2.35-2.cm2",
            "mariner-release 2.0-12.cm2",
            "openssl-libs 1.1.1k-15.cm2",
            "vim 2:9.0-1.cm2",
        ],
        reason: "trivy 0.74 does not read this manifest",
    },
];

const BDB: &str = "a Berkeley DB database of RPM is not supported";

/// Cases whose database is refused, and what the error says. Their lists wait for a reader, or are empty.
const REFUSED: &[(&str, &str)] = &[
    ("rpm-bdb/dive-1pkg", BDB),
    ("rpm-bdb/hello-epoch", BDB),
    ("rpm-bdb/libuuid-1pkg", BDB),
    ("rpm-bdb/mariner2-headers-129pkg", BDB),
    ("dpkg-status.d/syft-corrupt", "not a valid dpkg database: none of 4 fields names a package"),
    ("dpkg-status.d/syft-empty", "not a valid dpkg database: none of 1 fields names a package"),
    ("rpm-ndb/fedora27-headers-114pkg", "an NDB database of RPM is not supported"),
];

/// Folders `FORMAT/CASE` of fixtures, or `None` where the shared data is not there.
fn cases(formats: &[&str]) -> Option<Vec<(String, PathBuf)>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var_os("OUTCROP_SHARED").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let fixtures = shared.join("data/fixtures");
    let mut cases = Vec::new();
    for format in formats {
        for case in std::fs::read_dir(fixtures.join(format)).ok()? {
            let path = case.unwrap().path();
            cases.push((format!("{format}/{}", path.file_name().unwrap().to_str().unwrap()), path));
        }
    }
    cases.sort();
    Some(cases)
}

fn compare(case: &str, file: &Path, found: &[Row]) {
    let list = file.file_name().unwrap().to_str().unwrap();
    let expected = expected(file);
    let keys = |rows: &[Row]| rows.iter().map(Row::key).collect::<BTreeSet<_>>();
    let (ours, theirs) = (keys(found), keys(&expected));
    let known = DIFFERENCES.iter().find(|known| known.case == case && known.list == list);
    let (missing, more) = known.map_or((&[][..], &[][..]), |known| (known.missing, known.more));
    assert_eq!(theirs.difference(&ours).collect::<Vec<_>>(), missing, "{case}: {list} has them and we have not");
    assert_eq!(ours.difference(&theirs).collect::<Vec<_>>(), more, "{case}: we have them and {list} has not");
    if known.is_none() {
        assert_eq!(found.len(), expected.len(), "{case}: {list}, counted");
    }
    for row in expected {
        for ours in found.iter().filter(|ours| ours.key() == row.key()) {
            if !row.arch.is_empty() {
                assert_eq!(ours.arch, row.arch, "{case}: {list}, architecture of {}", row.key());
            }
            if !row.source.is_empty() {
                assert_eq!(ours.source, row.source, "{case}: {list}, source of {}", row.key());
            }
        }
    }
}

#[test]
fn every_fixture_lists_what_the_databases_own_tool_lists() {
    let formats = ["dpkg", "dpkg-status.d", "apk", "rpm-sqlite", "rpm-bdb", "rpm-ndb", "rpm-manifest"];
    let Some(cases) = cases(&formats) else {
        skip("shared", "fixtures of operating systems");
        return;
    };
    for (case, folder) in &cases {
        let facts = read_root(&folder.join("root"));
        let distribution = facts["etc/os-release"].as_ref().unwrap().distribution.as_ref().unwrap();
        assert!(!distribution.id.is_empty() && !distribution.version_id.is_empty(), "{case}");

        let errors: Vec<_> = facts.values().filter_map(|fact| fact.as_ref().err()).map(ToString::to_string).collect();
        let refused = REFUSED.iter().find(|(refused, _)| refused == case).map(|(_, said)| *said);
        assert_eq!(errors, Vec::from_iter(refused), "{case}");
        if refused.is_some() {
            continue;
        }
        let found: Vec<_> = facts.values().flatten().flat_map(|fact| &fact.packages).map(Row::of).collect();
        // The database's own tool counts; others are second opinions where it is silent.
        let lists: &[_] = if folder.join(RPM).exists() { &[RPM] } else { &[PROVENANT, SYFT, TRIVY] };
        for list in lists.iter().map(|list| folder.join(list)).filter(|list| list.exists()) {
            compare(case, &list, &found);
        }
    }
    let missing: Vec<_> = DIFFERENCES
        .iter()
        .map(|difference| difference.case)
        .chain(REFUSED.iter().map(|(case, _)| *case))
        .filter(|known| !cases.iter().any(|(case, _)| case == known))
        .collect();
    assert_eq!(missing, [""; 0], "named here, but no such case");
}

/// Folders of `tests/data`, and what is listed there: `name version architecture source source-version`.
const OWN: &[(&str, &[&str])] = &[
    ("debian", &["adduser 3.134 all adduser 3.134", "libc6 2.36-9+deb12u9 amd64 glibc 2.36-9+deb12u9"]),
    (
        "alpine",
        &[
            "bash 5.2.21-r0 x86_64 bash 5.2.21-r0",
            "busybox-binsh 1.36.1-r15 x86_64 busybox 1.36.1-r15",
            "musl 1.2.4_git20230717-r4 x86_64 musl 1.2.4_git20230717-r4",
            "readline 8.2.1-r2 x86_64 readline 8.2.1-r2",
        ],
    ),
    ("distroless", &["libsqlite3-0 3.34.1-3 arm64 sqlite3 3.34.1-3"]),
    ("fedora", &["libgcc 13.1.1-2.fc38 x86_64 gcc 13.1.1-2.fc38"]),
];

#[test]
fn our_own_small_roots_list_their_packages() {
    for (case, expected) in OWN {
        let facts = read_root(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(case));
        let shown = |package: &Package| {
            let source = package.source.as_ref().unwrap();
            let arch = package.arch.as_deref().unwrap();
            format!("{} {} {arch} {} {}", package.name, package.version, source.name, source.version)
        };
        let mut listed = Vec::new();
        for (path, fact) in facts {
            let fact = fact.unwrap_or_else(|error| panic!("{case}: {path}: {error}"));
            assert_eq!(fact.warnings, [""; 0], "{case}: {path}");
            listed.extend(fact.packages.iter().map(shown));
        }
        assert_eq!(listed, *expected, "{case}");
    }
}
