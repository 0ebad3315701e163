//! Package databases of text, and os-release.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::table::Said::{Nothing, Reason, Warning};
use super::table::{MORE, Row, check, row};
use super::{INTACT, Image, STATUS, status};

const AT: &str = "/var/lib/dpkg/status";
const APK: &str = "lib/apk/db/installed";
const GOOD: &[&str] = &["good 1.0.0"];

/// `count` stanzas after that of the intact image.
fn stanzas(image: &Image, count: usize, stanza: impl Fn(usize) -> String) {
    let mut text = status("bash", "5.2-1");
    (0..count).for_each(|number| write!(text, "\n{}", stanza(number)).unwrap());
    image.put(STATUS, text);
}

/// Characters that a terminal, a log or a page could obey.
const CONTROLS: &str = "\x1b[2J\u{202e}\u{7f}<script>&\"'";

/// The advisory database of the bundled feed.
fn database() -> &'static Path {
    static DATABASE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = DATABASE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("advisories.db");
        let mut build = Command::new(env!("CARGO_BIN_EXE_outcrop"));
        build.args(["db", "build", "--from"]).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/feed"));
        let built = build.arg("--out").arg(&path).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        (dir, path)
    });
    path
}

#[test]
fn the_worst_findings_of_too_many_are_reported_within_bounded_memory() {
    let database = database().to_str().unwrap();
    let intact = Image::new().measure(&["--db", database]).1;
    let image = Image::new();
    stanzas(&image, 1000, |number| status("imagemagick", &format!("0.{number}")));
    let (seen, peak) = image.measure(&["--db", database]);
    seen.assert_state("partial");
    assert!(
        seen.0["coverage"]["reason"].as_str().unwrap().starts_with("too many findings ("),
        "{}",
        seen.0["coverage"]
    );
    assert_eq!(seen.0["findings"].as_array().unwrap().len(), 10_000);
    assert!(peak < intact + MORE, "{} MiB, and {} MiB without the attack", peak >> 20, intact >> 20);
}

#[test]
fn the_distribution_is_known_however_large_the_databases_are() {
    let image = Image::new();
    // Some kilobytes of what a layer may have are left, and the words take 2 MB.
    image.put(APK, (0..63_500).map(|number| format!("P:p{number:06}\nV:1\n\n")).collect::<String>());
    image
        .put("etc/os-release", format!("ID=debian\nNAME=debian\nVERSION_ID=12\nID_LIKE=\"{}\"\n", "a ".repeat(30_000)));
    let seen = image.scan();
    assert_eq!(seen.0["distro"], "debian", "{:#}", seen.0["warnings"]);
    assert_eq!(seen.packages(), INTACT);
    seen.assert_state("partial");
}

#[test]
fn databases_of_text_cost_themselves_and_nothing_else() {
    check(rows());
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = dpkg();
    rows.extend(apk());
    rows.extend(os_release());
    rows
}

fn dpkg() -> Vec<Row> {
    vec![
        row("200,000 packages", "partial", Warning(AT, "more bytes of packages"), GOOD, |image| {
            stanzas(image, 200_000, |number| format!("Package: p{number}\nStatus: a b installed\nVersion: 1\n"));
        }),
        row("one package a hundred thousand times", "scanned", Nothing, &INTACT, |image| {
            stanzas(image, 100_000, |_| status("bash", "5.2-1"));
        }),
        row("a million empty stanzas", "scanned", Nothing, &INTACT, |image| {
            stanzas(image, 1, |_| "Package:\n\n".repeat(1_000_000));
        }),
        row("50,000 packages without a version", "partial", Reason("50000 of 50001 packages"), &INTACT, |image| {
            stanzas(image, 50_000, |number| format!("Package: p{number}\nStatus: install ok installed\n"));
        }),
        row("a name of 10 KB", "partial", Warning(AT, "is left out"), &INTACT, |image| {
            stanzas(image, 1, |_| status(&"n".repeat(10_000), "1"));
        }),
        row("a version of a megabyte", "partial", Reason("1 of 2 packages"), &INTACT, |image| {
            stanzas(image, 1, |_| status("long", &"1".repeat(1 << 20)));
        }),
        row("a line of 60 MiB", "scanned", Nothing, &INTACT, |image| {
            stanzas(image, 1, |_| format!("Description: {}\n", "x".repeat(60 << 20)));
        }),
        row("no package with a version", "partial", Warning(AT, "20 of 20 packages"), GOOD, |image| {
            let stanza = |number| format!("Package: p{number}\nStatus: install ok installed\n\n");
            image.put(STATUS, (0..20).map(stanza).collect::<String>());
        }),
        row("names of control characters", "scanned", Nothing, &INTACT, |image| {
            stanzas(image, 50, |number| status(&format!("{CONTROLS}{number}"), CONTROLS));
        }),
        row("a status file that ends within a stanza", "partial", Reason("1 of 2 packages"), &INTACT, |image| {
            stanzas(image, 1, |_| "Package: cut\nStatus: install ok installed\nVers".to_owned());
        }),
        row("a status file of another encoding", "partial", Warning(AT, ""), GOOD, |image| {
            let text: Vec<u8> = status("bash", "5.2-1").encode_utf16().flat_map(u16::to_le_bytes).collect();
            image.put(STATUS, text);
        }),
        row("a status file of zeros", "partial", Warning(AT, ""), GOOD, |image| image.put(STATUS, vec![0; 8 << 20])),
        row("a status file that is a directory", "partial", Warning(AT, "not a regular file"), GOOD, |image| {
            fs::remove_file(image.at(STATUS)).unwrap();
            image.put("var/lib/dpkg/status/status", status("bash", "5.2-1"));
        }),
        row("three files of 90,000 packages each", "partial", Reason("status.d/p"), &INTACT, |image| {
            for file in 0..3 {
                let mut text = String::new();
                (0..90_000).for_each(|number| write!(text, "Package: p{file}x{number}\nVersion: 1\n\n").unwrap());
                image.put(&format!("var/lib/dpkg/status.d/p{file}"), text);
            }
        }),
        row("two thousand files of one package each", "scanned", Nothing, &INTACT, |image| {
            for file in 0..2000 {
                image.put(&format!("var/lib/dpkg/status.d/p{file}"), format!("Package: p{file}\nVersion: 1\n"));
            }
        }),
        row("six hundred names of one file of packages", "scanned", Nothing, &INTACT, |image| {
            let mut text = String::new();
            (0..500).for_each(|number| write!(text, "Package: p{number}\nVersion: 1\n\n").unwrap());
            image.put("var/lib/dpkg/status.d/p", text);
            let first = image.at("var/lib/dpkg/status.d/p");
            (0..600)
                .for_each(|link| fs::hard_link(&first, image.at(&format!("var/lib/dpkg/status.d/l{link}"))).unwrap());
        }),
        row("file names of control characters", "scanned", Nothing, &["bash 5.2-1", "good 1.0.0", "odd 1"], |image| {
            image.put(&format!("var/lib/dpkg/status.d/\x1b[2J\r\n{}", "\u{202e}"), "Package: odd\nVersion: 1\n");
        }),
        row("200,000 files of one package", "partial", Reason("1 file was not read"), &INTACT, |image| {
            let mut text = String::new();
            for number in 0..200_000 {
                writeln!(text, "{number:032x}  srv/{number}/package.json").unwrap();
            }
            image.put("var/lib/dpkg/info/bash.md5sums", text);
        }),
        row("a package that claims the files of others", "scanned", Nothing, &INTACT, |image| {
            let claim = format!("{}  srv/good/package.json\n{}  ../../etc/passwd\n", "0".repeat(32), "f".repeat(32));
            image.put("var/lib/dpkg/info/bash.md5sums", claim);
        }),
    ]
}

fn apk() -> Vec<Row> {
    const APK_AT: &str = "/lib/apk/db/installed";
    vec![
        row("200,000 packages of apk", "partial", Warning(APK_AT, "more bytes of packages"), &INTACT, |image| {
            let mut text = String::new();
            (0..200_000).for_each(|number| write!(text, "P:p{number}\nV:1\n\n").unwrap());
            image.put(APK, text);
        }),
        row("noise as a database of apk", "partial", Warning(APK_AT, "no line is a field"), &INTACT, |image| {
            let noise: Vec<u8> = (0_u32..1 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
            image.put(APK, noise);
        }),
        row("a record of apk without end", "scanned", Nothing, &["bash 5.2-1", "good 1.0.0", "musl 1"], |image| {
            image.put(APK, format!("P:musl\nV:1\nT:{}\n", "x".repeat(20 << 20)));
        }),
        row("directories of 60 KB in a database of apk", "scanned", Nothing, &["good 1.0.0", "musl 1"], |image| {
            let folder = format!("F:{}\n", "d/".repeat(30_000));
            image.put(APK, format!("P:musl\nV:1\n{}", (folder + "R:package.json\n").repeat(200)));
        }),
        row(
            "400,000 files of apk that could be evidence",
            "partial",
            Warning(APK_AT, "the evidence of the layer"),
            &INTACT,
            |image| {
                let mut text = "P:musl\nV:1\nF:srv\n".to_owned();
                (0..400_000).for_each(|number| writeln!(text, "R:{number}.egg").unwrap());
                image.put(APK, text);
            },
        ),
        row("packages of apk without versions", "partial", Warning(APK_AT, "has no version"), &INTACT, |image| {
            image.put(APK, (0..20_000).map(|number| format!("P:p{number}\n\n")).collect::<String>());
        }),
        row("packages of apk without names", "partial", Warning(APK_AT, "100 of 100 packages"), &INTACT, |image| {
            image.put(APK, (0..100).map(|number| format!("V:{number}\n\n")).collect::<String>());
        }),
        row("a database of apk of an unknown field", "partial", Warning(APK_AT, "1 of 1 packages"), &INTACT, |image| {
            image.put(APK, "x: 1\n");
        }),
        row("a field of apk of a megabyte", "partial", Warning(APK_AT, "is left out"), &INTACT, |image| {
            image.put(APK, format!("P:{}\nV:1\n\n", "n".repeat(50_000)));
        }),
        row("a database of apk that leads to itself", "partial", Warning(APK_AT, "loop"), &INTACT, |image| {
            fs::create_dir_all(image.at("lib/apk/db")).unwrap();
            symlink("installed", image.at(APK)).unwrap();
        }),
        row("a database of apk at the end of 39 links", "scanned", Nothing, &["good 1.0.0", "musl 1"], |image| {
            image.put("l39", "P:musl\nV:1\n\n");
            fs::create_dir_all(image.at("lib/apk/db")).unwrap();
            (2..39).for_each(|link| symlink(format!("/l{}", link + 1), image.at(&format!("l{link}"))).unwrap());
            symlink("/l2", image.at(APK)).unwrap();
        }),
        row("names of apk of control characters", "scanned", Nothing, &INTACT, |image| {
            image.put(APK, format!("P:{CONTROLS}\0\nV:{CONTROLS}\n\n"));
        }),
    ]
}

fn os_release() -> Vec<Row> {
    vec![
        row("an os-release of a megabyte", "scanned", Warning("/etc/os-release", "bytes"), &INTACT, |image| {
            image.put("etc/os-release", "ID=debian\n".repeat(100_000));
        }),
        row("30,000 words in ID_LIKE", "scanned", Nothing, &INTACT, |image| {
            image.put(
                "etc/os-release",
                format!("ID=debian\nNAME=debian\nVERSION_ID=12\nID_LIKE=\"{}\"\n", "a ".repeat(30_000)),
            );
        }),
        row("a version of 60 KB", "scanned", Nothing, &INTACT, |image| {
            image.put("etc/os-release", format!("ID=debian\nVERSION_ID={}\n", "1".repeat(60_000)));
        }),
        row("a distribution of control characters", "scanned", Nothing, &INTACT, |image| {
            image.put("etc/os-release", format!("ID={CONTROLS}\nVERSION_ID={CONTROLS}\nPRETTY_NAME={CONTROLS}\n"));
        }),
        row("a quote without end", "scanned", Nothing, &INTACT, |image| {
            image.put("etc/os-release", format!("ID=debian\nVERSION_ID=\"12{}", "\\\"".repeat(30_000)));
        }),
        row("an os-release of zeros", "scanned", Nothing, &INTACT, |image| {
            image.put("etc/os-release", vec![0; 60_000])
        }),
    ]
}
