//! Vectors of questions: what each grammar admits, and what is refused.

use outcrop_proto::Ecosystem;
use outcrop_proto::PackageType::{self, Apk, Deb, Golang, Maven, Npm, Pypi, Rpm};
use outcrop_proto::ecosystem::RangeGrammar;
use proptest::prelude::*;

use super::*;

/// Returns whether a question asks for a package without a package URL of its own.
fn asks(question: &str, kind: PackageType, name: &str, version: &str) -> bool {
    let parsed = Question::parse(question).unwrap_or_else(|error| panic!("{error}"));
    parsed.package.matches(kind, name, version, "").unwrap_or_else(|error| panic!("{question}: {error}"))
}

/// Question, type, name, versions in the range, versions outside of it.
type Vector<'v> = (&'v str, PackageType, &'v str, &'v [&'v str], &'v [&'v str]);

#[test]
fn a_range_admits_the_versions_that_its_ecosystem_does() {
    let vectors: &[Vector<'_>] = &[
        // npm.
        (
            "pkg:npm/lodash@<4.17.21",
            Npm,
            "lodash",
            &["4.17.20", "4.9.0", "0.1.0", "4.17.21-rc.1"],
            &["4.17.21", "5.0.0"],
        ),
        ("lodash<4.17.21", Npm, "lodash", &["4.17.20"], &["4.17.21"]),
        ("lodash@<4.17.21", Npm, "lodash", &["4.17.20"], &["4.17.21"]),
        ("lodash < 4.17.21", Npm, "lodash", &["4.17.20"], &["4.17.21"]),
        ("pkg:npm/lodash@>4.17.0,<4.17.21", Npm, "lodash", &["4.17.1", "4.17.20"], &["4.17.0", "4.17.21"]),
        ("pkg:npm/lodash@>=1 <2", Npm, "lodash", &["1.0.0", "1.9.9"], &["0.9.0", "2.0.0", "2.0.0-beta"]),
        ("lodash>=1<2", Npm, "lodash", &["1.0.0", "1.9.9"], &["0.9.0", "2.0.0"]),
        ("pkg:npm/lodash@^4", Npm, "lodash", &["4.0.0", "4.17.21"], &["3.9.9", "5.0.0", "5.0.0-rc.1"]),
        ("pkg:npm/a@^1.2.3", Npm, "a", &["1.2.3", "1.9.0"], &["1.2.2", "2.0.0"]),
        ("pkg:npm/a@^0.2.3", Npm, "a", &["0.2.3", "0.2.9"], &["0.3.0", "0.2.2"]),
        ("pkg:npm/a@^0.0.3", Npm, "a", &["0.0.3"], &["0.0.4", "0.0.2"]),
        ("pkg:npm/a@^0.0", Npm, "a", &["0.0.9"], &["0.1.0"]),
        ("pkg:npm/a@^0", Npm, "a", &["0.9.9"], &["1.0.0"]),
        ("pkg:npm/a@^1.2.3-beta.2", Npm, "a", &["1.2.3-beta.2", "1.2.3", "1.3.0"], &["1.2.3-beta.1", "2.0.0"]),
        ("pkg:npm/a@~1.2", Npm, "a", &["1.2.0", "1.2.9"], &["1.3.0", "1.1.9"]),
        ("pkg:npm/a@~1.2.3", Npm, "a", &["1.2.3", "1.2.9"], &["1.3.0", "1.2.2"]),
        ("pkg:npm/a@~1", Npm, "a", &["1.9.0"], &["2.0.0"]),
        ("a~1.2", Npm, "a", &["1.2.5"], &["1.3.0"]),
        ("pkg:npm/a@1.x", Npm, "a", &["1.0.0", "1.9.9"], &["2.0.0", "0.9.9"]),
        ("pkg:npm/a@1.2.*", Npm, "a", &["1.2.7"], &["1.3.0"]),
        ("pkg:npm/a@*", Npm, "a", &["0.0.1", "9.9.9"], &[]),
        ("pkg:npm/a@4", Npm, "a", &["4.17.21"], &["5.0.0"]),
        ("pkg:npm/a@>1", Npm, "a", &["2.0.0"], &["1.9.9", "1.0.0"]),
        ("pkg:npm/a@<=1", Npm, "a", &["1.9.9"], &["2.0.0"]),
        ("pkg:npm/a@1.2.3 - 2.3.4", Npm, "a", &["1.2.3", "2.3.4"], &["1.2.2", "2.3.5"]),
        ("pkg:npm/a@1.2 - 2.3", Npm, "a", &["1.2.0", "2.3.9"], &["2.4.0"]),
        ("pkg:npm/a@<1.0.0 || >=2.0.0 <2.5.0", Npm, "a", &["0.9.0", "2.4.9"], &["1.5.0", "2.5.0"]),
        ("pkg:npm/a@<1.0.0||5.x", Npm, "a", &["0.9.0", "5.1.0"], &["4.0.0", "6.0.0"]),
        ("pkg:npm/a@=v1.2.3", Npm, "a", &["1.2.3", "v1.2.3", "1.2.3+build"], &["1.2.4"]),
        ("pkg:npm/a@1.2.3", Npm, "a", &["1.2.3"], &["1.2.30", "1.2.3-rc.1"]),
        ("pkg:npm/%40babel/core@7.0.0", Npm, "@babel/core", &["7.0.0"], &["7.0.1"]),
        ("pkg:npm/@babel/core@^7", Npm, "@babel/core", &["7.9.0"], &["8.0.0"]),
        ("@babel/core<7.1", Npm, "@babel/core", &["7.0.9"], &["7.1.0"]),
        // PEP 440.
        ("pkg:pypi/requests@<2,>=1", Pypi, "requests", &["1.0", "1.9"], &["2.0", "0.9", "2.0rc1"]),
        ("requests<2, >=1", Pypi, "requests", &["1.0"], &["2.0"]),
        ("requests~=2.2", Pypi, "requests", &["2.2", "2.9.1"], &["3.0", "2.1"]),
        ("pkg:pypi/a@~=1.4.5", Pypi, "a", &["1.4.5", "1.4.9"], &["1.5.0"]),
        ("requests==2.0", Pypi, "requests", &["2.0", "2.0.0", "2.0+local"], &["2.0.1"]),
        ("pkg:pypi/a@==1.*", Pypi, "a", &["1.0", "1.9"], &["2.0"]),
        ("a!=1.0", Pypi, "a", &["1.1", "0.9"], &["1.0", "1.0.0"]),
        ("pkg:pypi/a@!=1.*", Pypi, "a", &["2.0"], &["1.5"]),
        ("pkg:pypi/a@===1.0", Pypi, "a", &["1.0"], &["1.1"]),
        ("pkg:pypi/a@>1!2.0", Pypi, "a", &["1!2.1"], &["3.0", "1!2.0"]),
        ("pkg:pypi/a@<2", Pypi, "a", &["not a version", "1.0"], &["2.0"]),
        ("pkg:pypi/Foo_Bar@1.0", Pypi, "foo.bar", &["1.0"], &["1.1"]),
        // Maven.
        ("pkg:maven/g/a@[1.0,2.0)", Maven, "g:a", &["1.0", "1.9"], &["2.0", "0.9"]),
        ("log4j-core[2.0,2.15)", Maven, "org.apache.logging.log4j:log4j-core", &["2.14.1"], &["2.15", "1.2"]),
        ("pkg:maven/g/a@(,1.0]", Maven, "g:a", &["0.1", "1.0"], &["1.1"]),
        ("pkg:maven/g/a@(1.0,)", Maven, "g:a", &["1.1"], &["1.0"]),
        ("pkg:maven/g/a@[1.5]", Maven, "g:a", &["1.5", "1.5.0"], &["1.6"]),
        ("pkg:maven/g/a@(,1.0],[1.2,)", Maven, "g:a", &["0.9", "1.2"], &["1.1"]),
        ("log4j-core@<2.17.1", Maven, "org.apache.logging.log4j:log4j-core", &["2.17.1-rc1", "2.14.1"], &["2.17.1"]),
        ("org.apache:log4j:2.14.1", Maven, "org.apache:log4j", &["2.14.1"], &["2.14.2"]),
        ("pkg:maven/org.apache/log4j@>=2", Maven, "org.apache:log4j", &["2", "3.0"], &["1.9"]),
        ("pkg:maven/log4j@2.0", Maven, "org.apache:log4j", &["2.0"], &["2.1"]),
        // Go.
        ("pkg:golang/golang.org/x/net@<v0.7.0", Golang, "golang.org/x/net", &["v0.6.0"], &["v0.7.0"]),
        ("golang.org/x/net@<=0.7.0", Golang, "golang.org/x/net", &["v0.7.0"], &["v0.7.1"]),
        ("pkg:golang/a.b/c@v1.2", Golang, "a.b/c", &["v1.2.9"], &["v1.3.0"]),
        ("pkg:golang/a.b/c@>v1.2", Golang, "a.b/c", &["v1.2.1"], &["v1.2.0"]),
        ("pkg:golang/a.b/c@v2.0.0+incompatible", Golang, "a.b/c", &["v2.0.0+incompatible", "v2.0.0"], &["v2.0.1"]),
        ("git.sr.ht/~user/repo@v1.0.0", Golang, "git.sr.ht/~user/repo", &["v1.0.0"], &["v1.0.1"]),
        // Operating systems.
        ("pkg:deb/curl@<<7.88.1-10", Deb, "curl", &["7.88.1-9", "7.88.1-10~bpo1"], &["7.88.1-10", "1:1.0"]),
        ("pkg:deb/curl@>=1:2.0,<<1:3.0", Deb, "curl", &["1:2.5-1"], &["2.5-1", "1:3.0"]),
        ("curl@1.0~rc1", Deb, "curl", &["1.0~rc1"], &["1.0"]),
        ("pkg:deb/curl@1%3A2.0-1%2Bb1", Deb, "curl", &["1:2.0-1+b1"], &["2.0-1+b1"]),
        ("pkg:rpm/bash@<5.1-3", Rpm, "bash", &["5.1-2.el9"], &["5.1-3.el9", "1:1.0-1"]),
        ("pkg:rpm/bash@=5.1", Rpm, "bash", &["5.1-2.el9", "5.1-9"], &["5.2-1"]),
        ("pkg:rpm/bash@5.1-2.el9?epoch=1", Rpm, "bash", &["1:5.1-2.el9"], &["5.1-2.el9"]),
        ("pkg:apk/busybox@<1.36.1-r2", Apk, "busybox", &["1.36.1-r1", "1.36.1_rc1"], &["1.36.1-r2"]),
        ("pkg:apk/busybox@~1.36", Apk, "busybox", &["1.36", "1.36.1-r1"], &["1.37.0", "1.360"]),
        // VERS.
        ("pkg:npm/a@vers:npm/>=1.0.0|<1.2.3", Npm, "a", &["1.0.0", "1.2.2"], &["1.2.3", "0.9.0"]),
        ("a@vers:npm/1.0.0|>=2.0.0|<2.1.0|!=2.0.5", Npm, "a", &["1.0.0", "2.0.4"], &["1.0.1", "2.0.5", "2.1.0"]),
        ("pkg:pypi/a?vers=vers%3Apypi%2F%3C2.0%7C%3E%3D3.0", Pypi, "a", &["1.0", "3.1"], &["2.5"]),
        ("pkg:npm/a@vers:npm/<1.0.0|<2.0.0", Npm, "a", &["1.5.0"], &["2.0.0"]),
        ("pkg:npm/a@vers:npm/>=1.0.0|>=2.0.0", Npm, "a", &["1.5.0"], &["0.9.0"]),
        ("pkg:npm/a@vers:npm/!=1.0.0", Npm, "a", &["1.0.1"], &["1.0.0"]),
        ("pkg:npm/a@vers:npm/*", Npm, "a", &["1.0.1"], &[]),
        ("pkg:apk/a@vers:alpine/<1.2-r3", Apk, "a", &["1.2-r2"], &["1.2-r3"]),
    ];
    for (question, kind, name, inside, outside) in vectors {
        for version in *inside {
            assert!(asks(question, *kind, name, version), "{version} is in {question}");
        }
        for version in *outside {
            assert!(!asks(question, *kind, name, version), "{version} is not in {question}");
        }
    }
}

#[test]
fn each_ecosystem_of_a_table_row_reads_ranges_in_its_own_grammar() {
    // These ecosystems have no row yet; semver's order stands in for theirs.
    let row = |range_grammar| Ecosystem { range_grammar, ..*Npm.ecosystem() };
    for (grammar, text, inside, outside) in [
        (RangeGrammar::Gem, "~> 2.2", &["2.2.0", "2.9.9"][..], &["3.0.0", "2.1.0", "3.0.0-rc.1"][..]),
        (RangeGrammar::Gem, "~>2.2.0", &["2.2.5"], &["2.3.0"]),
        (RangeGrammar::Gem, "~> 1", &["1.0.0", "1.9.0"], &["2.0.0"]),
        (RangeGrammar::Gem, ">= 1.0, != 1.5, < 2", &["1.4.0"], &["1.5.0", "2.0.0"]),
        (RangeGrammar::Cargo, "^1.2", &["1.2.0", "1.9.0"], &["2.0.0"]),
        (RangeGrammar::Cargo, "1.2", &["1.2.0", "1.9.0"], &["2.0.0", "1.1.0"]),
        (RangeGrammar::Cargo, "1.2.3", &["1.2.3"], &["1.2.4"]),
        (RangeGrammar::Cargo, ">=1.2, <1.5", &["1.2.0", "1.4.9"], &["1.5.0"]),
        (RangeGrammar::Cargo, "1.*", &["1.2.0"], &["2.0.0"]),
        (RangeGrammar::Cargo, "~1.2.3", &["1.2.9"], &["1.3.0"]),
    ] {
        let range = Range::parse(&row(grammar), text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for version in inside {
            assert!(range.contains(version), "{version} is in {text}");
        }
        for version in outside {
            assert!(!range.contains(version), "{version} is not in {text}");
        }
    }
}

#[test]
fn a_name_means_its_package_and_no_other() {
    for (question, kind, name, asked) in [
        ("pkg:npm/lodash", Npm, "lodash", true),
        ("pkg:npm/lodash", Npm, "@types/lodash", false),
        ("lodash", Npm, "@types/lodash", false),
        ("lodash", Npm, "lodash", true),
        ("LODASH", Npm, "lodash", true),
        ("@types/lodash", Npm, "@types/lodash", true),
        ("lodash", Pypi, "lodash", true),
        ("pkg:npm/lodash", Pypi, "lodash", false),
        ("pkg:NPM/lodash", Npm, "lodash", true),
        ("PKG:npm/lodash", Npm, "lodash", true),
        ("pkg://npm/lodash", Npm, "lodash", true),
        ("log4j-core", Maven, "org.apache.logging.log4j:log4j-core", true),
        ("org.apache.logging.log4j:log4j-core", Maven, "org.apache.logging.log4j:log4j-core", true),
        ("pkg:maven/org.other/log4j-core", Maven, "org.apache.logging.log4j:log4j-core", false),
        ("net", Golang, "golang.org/x/net", true),
        ("pkg:golang/net", Golang, "golang.org/x/net", false),
        ("go-md2man", Golang, "github.com/cpuguy83/go-md2man", true),
        ("ruamel-yaml", Pypi, "ruamel.yaml", true),
        ("ruamel-yaml", Npm, "ruamel.yaml", false),
        ("libstdc++6", Deb, "libstdc++6", true),
    ] {
        assert_eq!(asks(question, kind, name, "1.0.0"), asked, "{question}: {kind} {name}");
    }
    let spellings = Question::parse("pkg:pypi/ruamel-yaml").unwrap().package.spellings();
    assert_eq!(spellings, ["ruamel-yaml", "ruamel.yaml", "ruamel_yaml"]);
}

#[test]
fn a_package_url_means_its_distribution_and_its_qualifiers() {
    let purl = "pkg:deb/debian/curl@7.88.1-10?arch=amd64&distro=debian-12";
    for (question, asked) in [
        (purl, true),
        ("pkg:deb/debian/curl", true),
        ("pkg:deb/curl", true),
        ("curl", true),
        ("pkg:deb/ubuntu/curl", false),
        ("pkg:deb/debian/curl?arch=arm64", false),
        ("pkg:deb/debian/curl?distro=debian-12", true),
        ("pkg:deb/debian/curl@<<8?distro=debian-11", false),
    ] {
        let parsed = Question::parse(question).unwrap();
        assert_eq!(parsed.package.matches(Deb, "curl", "7.88.1-10", purl), Ok(asked), "{question}");
    }
    let unknown = Question::parse("pkg:deb/debian/curl").unwrap();
    assert_eq!(unknown.package.matches(Deb, "curl", "1", "pkg:deb/curl@1"), Ok(false), "of an unknown distribution");
}

#[test]
fn ids_of_advisories_are_told_from_packages() {
    use AdvisoryForm::{Any, Publisher, Standard};
    for (question, expected) in [
        ("CVE-2021-44228", Some(("CVE-2021-44228", Standard))),
        ("cve-2021-44228", Some(("CVE-2021-44228", Standard))),
        ("ghsa-JFH8-c2jp-5v3q", Some(("GHSA-jfh8-c2jp-5v3q", Standard))),
        ("DSA-5686-1", Some(("DSA-5686-1", Publisher))),
        ("RHSA-2024:1234", Some(("RHSA-2024:1234", Publisher))),
        ("RUSTSEC-2024-0001", Some(("RUSTSEC-2024-0001", Publisher))),
        ("PyYAML", Some(("PyYAML", Any))),
        ("log4j-core", Some(("log4j-core", Any))),
        ("NetworkManager-libnm", Some(("NetworkManager-libnm", Any))),
        ("cve-bin-tool", Some(("cve-bin-tool", Any))),
        ("cvelib", Some(("cvelib", Any))),
        ("@babel/core", None),
        ("lodash<4", None),
        ("pkg:npm/lodash", None),
    ] {
        let advisory = Question::parse(question).unwrap().advisory;
        let advisory = advisory.as_ref().map(|advisory| (advisory.id.as_str(), advisory.form));
        assert_eq!(advisory, expected, "{question}");
    }
}

#[test]
fn what_has_no_meaning_is_refused_with_a_hint_in_one_line() {
    let long = "a".repeat(MAX_LENGTH + 1);
    let many = format!("a@{}", vec![">1"; MAX_COMPARATORS + 1].join(","));
    let alternatives = format!("pkg:npm/a@{}", vec!["1.x"; MAX_COMPARATORS + 1].join("||"));
    let intervals = format!("pkg:maven/g/a@{}", vec!["[1,2)"; MAX_COMPARATORS + 2].join(","));
    let constraints: Vec<String> = (0..=MAX_COMPARATORS).map(|number| number.to_string()).collect();
    let constraints = format!("a@vers:npm/{}", constraints.join("|"));
    for (question, expected) in [
        ("", "the query is empty"),
        (" \t", "the query is empty"),
        (&long, "1025 bytes; the maximum is 1024"),
        (&many, "more than 32 comparators"),
        (&alternatives, "more than 32 comparators"),
        (&intervals, "more than 32 comparators"),
        (&constraints, "more than 32 comparators"),
        ("CVE-2021", "invalid CVE ID"),
        ("cve-", "invalid CVE ID"),
        ("CVE-2021-", "invalid CVE ID"),
        ("CVE-21-44228", "invalid CVE ID"),
        ("CVE-2021-44228x", "invalid CVE ID"),
        ("CVE-2021-44228,CVE-2021-45046", "invalid CVE ID"),
        ("GHSA-jfh8-c2jp", "invalid GitHub advisory ID"),
        ("log4j*", "wildcards are not supported"),
        ("*", "wildcards are not supported"),
        ("pkg:npm/@types/*", "wildcards are not supported"),
        ("log4?", "wildcards are not supported"),
        ("two words", "unexpected character ' '"),
        ("log4j-core,lodash", "unexpected character ','"),
        ("https://example.com/x", "unexpected character ':'"),
        ("'lodash'", "unexpected character '\\''"),
        ("lodash;rm", "unexpected character ';'"),
        ("a\u{202e}b", "unexpected character '\\u{202e}'"),
        ("a\0b", "unexpected character '\\0'"),
        ("<4", "the name of the package is missing"),
        ("CVE", "invalid CVE ID"),
        ("CVE_2021_44228", "invalid CVE ID"),
        ("CVE202144228", "invalid CVE ID"),
        ("CVE 2021 44228", "invalid CVE ID"),
        ("cve-2021-", "invalid CVE ID"),
        ("GHSA", "invalid GitHub advisory ID"),
        ("log4j-core:2.14.1", "expected log4j-core@2.14.1"),
        ("openssl:3.0.22-1~deb12u2", "expected openssl@3.0.22-1~deb12u2"),
        ("golang.org/x/net:v0.17.0", "expected golang.org/x/net@v0.17.0"),
        ("vers:npm/>=4|<4.17.21", "a vers: range has no package"),
        ("lodash/", "a part of the name is missing"),
        ("/lodash", "a part of the name is missing"),
        ("@babel", "a part of the name is missing"),
        ("@babel/", "a part of the name is missing"),
        ("golang.org/x//net", "a part of the name is missing"),
        ("@", "the name of the package is missing"),
        ("pkg:", "expected pkg:TYPE/NAME"),
        ("pkg:npm", "expected pkg:TYPE/NAME"),
        ("pkg:npm/", "the name of the package is missing"),
        ("pkg:cargo/serde", "unknown package type \"cargo\"; expected one of deb, apk"),
        ("pkg:pypi/a/b", "packages of this type have no namespace"),
        ("pkg:deb/a/b/c", "expected pkg:TYPE/DISTRIBUTION/NAME"),
        ("pkg:npm/lodash#lib", "subpaths are not supported"),
        ("pkg:npm/lodash?checksum=1", "packages have no qualifier \"checksum\""),
        ("pkg:npm/lodash@%ff", "invalid percent-encoding"),
        ("pkg:npm/lodash@1?vers=vers:npm/1", "exclude each other"),
        ("pkg:rpm/bash@<5?epoch=1", "the qualifier epoch requires one version"),
        ("lodash@", "the version after \"@\" is missing"),
        ("lodash@<", "the version after \"<\" is missing"),
        ("lodash<", "the version after \"<\" is missing"),
        ("lodash@<1,", "a comparator is missing beside \",\""),
        ("lodash@<1,,>2", "a comparator is missing beside \",\""),
        ("lodash@,<1", "a comparator is missing beside \",\""),
        ("pkg:npm/lodash@<1 ||", "a comparator is missing beside \"||\""),
        ("lodash@latest", "\"latest\" is not a version of npm; expected a range as in ^4.17.0"),
        ("lodash<banana", "\"banana\" is not a version of npm"),
        ("pkg:npm/lodash@1.2.", "\"1.2.\" is not a version"),
        ("pkg:npm/lodash@1.x.3", "\"1.x.3\" is not a version"),
        ("pkg:npm/lodash@=<4", "unknown operator \"=<\" for npm versions; expected one of <, <="),
        ("pkg:npm/lodash@!=4.0.0", "unknown operator \"!=\" for npm"),
        ("pkg:golang/a.b/c@^1.0.0", "unknown operator \"^\" for Go"),
        ("pkg:deb/curl@~1.0", "unknown operator \"~\" for dpkg"),
        ("pkg:apk/a@><Q1abc", "unknown operator \"><\" for apk"),
        ("pkg:pypi/a@~=1", "\"1\" is not a version of Python"),
        ("pkg:pypi/a@<1.*", "\"1.*\" is not a version of Python"),
        ("pkg:maven/g/a@[1.0,2.0", "malformed interval"),
        ("pkg:maven/g/a@(1.0)", "malformed interval"),
        ("pkg:maven/g/a@[1,2,3]", "malformed interval"),
        ("pkg:maven/g/a@[1.0,2.0)x", "malformed interval"),
        ("log4j-core[2.0", "malformed interval"),
        ("pkg:maven/g/a@[2.0,1.0]", "no version is in the range"),
        ("pkg:npm/a@>2,<1", "no version is in the range"),
        ("pkg:npm/a@>1.0.0 <1.0.0", "no version is in the range"),
        ("a@>2,<1", "no version is in the range"),
        ("pkg:npm/a@<*", "\"*\" is not a version"),
        ("pkg:npm/a@99999999999999999999.0.0", "is not a version of npm"),
        ("a@vers:npm", "malformed vers range: the type is missing"),
        ("a@vers:cargo/1", "unknown type \"cargo\""),
        ("a@vers:npm/", "\"\" is not a version"),
        ("a@vers:npm/>=1|>=1", "the version \"1\" occurs twice"),
        ("a@vers:npm/^1", "\"^1\" is not a version"),
        ("pkg:npm/a@vers:pypi/1", "the range has another type than the package"),
    ] {
        let error = Question::parse(question).expect_err(question).to_string();
        assert!(error.contains(expected), "{question:?}: {error}");
        assert!(error.starts_with("invalid query \"") && error.lines().count() == 1, "{error}");
        assert!(error.len() < 600, "{error}");
    }
}

#[test]
fn a_package_whose_ecosystem_cannot_read_the_range_is_named_and_not_left_out() {
    let question = Question::parse("shop~=1.2").unwrap();
    assert_eq!(question.package.matches(Pypi, "shop", "1.3", ""), Ok(true));
    let error = question.package.matches(Maven, "org.example:shop", "1.3", "").unwrap_err().to_string();
    assert!(
        error.contains("\"org.example:shop\" is also a package of Java") && error.contains("pkg:TYPE/NAME"),
        "{error}"
    );
    // Another package does not matter.
    assert_eq!(question.package.matches(Maven, "org.example:bank", "1.3", ""), Ok(false));
}

proptest! {
    #[test]
    fn any_text_is_a_question_or_an_error_in_one_line(
        text in "(pkg:(npm|pypi|maven|deb|rpm|apk|golang)/)?[a-z@]{0,3}[@<>=!~^ ]{0,2}[0-9a-z.,|<>=!~^ *x:+%/?#()\\[\\]-]{0,24}",
        version in ".{0,20}",
    ) {
        match Question::parse(&text) {
            Ok(question) => for name in question.package.spellings() {
                for kind in PackageType::ALL {
                    if let Err(error) = question.package.matches(kind, &name, &version, "") {
                        prop_assert_eq!(error.to_string().lines().count(), 1);
                    }
                }
            },
            Err(error) => prop_assert!(error.to_string().lines().count() == 1, "{}", error),
        }
    }

    #[test]
    fn an_exact_version_is_in_its_own_range_and_not_below_itself(version in "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}") {
        for kind in PackageType::ALL {
            let admits = |range: String| Range::parse(kind.ecosystem(), &range).unwrap().contains(&version);
            for inside in [version.clone(), format!("={version}"), format!("<={version}"), format!(">={version}")] {
                prop_assert!(admits(inside.clone()), "{} {}", kind, inside);
            }
            for outside in [format!("<{version}"), format!(">{version}")] {
                prop_assert!(!admits(outside.clone()), "{} {}", kind, outside);
            }
        }
    }
}
