//! Hostile trees and stacks of layers, which are merged outside of the sandbox.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use serde_json::Value;

use super::rpm::{self, RPM};
use super::table::Said::{Nothing, Reason};
use super::table::{Row, check, row};
use super::{INTACT, Image, STATUS, status, write};

const GOOD: &[&str] = &["good 1.0.0"];

#[test]
fn trees_and_stacks_cost_no_more_than_their_paths() {
    check(rows());
}

/// Makes `count` directories in each other, and returns the deepest.
fn deep(root: &Path, name: &str, count: usize) -> OwnedFd {
    let mut at = openat(CWD, root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    for _ in 0..count {
        mkdirat(&at, name, Mode::RWXU).unwrap();
        at = openat(&at, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    at
}

/// Puts a package of npm below 395 directories.
fn package_below(image: &Image, path: &str) {
    fs::create_dir_all(image.at(path)).unwrap();
    let end = deep(&image.at(path), "nnnnnnnn", 395);
    let file = openat(&end, "package.json", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RWXU).unwrap();
    rustix::io::write(&file, br#"{"name":"a","version":"1"}"#).unwrap();
}

#[test]
fn files_that_the_caller_left_open_are_not_open_in_a_worker() {
    let image = Image::new();
    package_below(&image, "c");
    // A worker may have 640 open files.
    let script = r#"for number in {3..620}; do eval "exec $number</dev/null"; done; exec "$@""#;
    let mut command = Command::new("bash");
    command.args(["-c", script, "bash", env!("CARGO_BIN_EXE_outcrop"), "scan", "--packages", "--output", "json"]);
    let output = command.arg("--rootfs").arg(image.at("")).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let coverage = &report["targets"][0]["coverage"];
    assert_eq!(coverage["state"], "scanned", "{coverage}");
}

fn whiteout(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

/// Leads `known` through `hops` links, each below `depth` directories, to a file of `content`.
fn chain(image: &Image, known: &str, name: &str, (hops, depth): (usize, usize), content: &str) {
    let below = |hop: usize| format!("{name}/{hop}/{}e", "d/".repeat(depth));
    let _ = fs::remove_file(image.at(known));
    fs::create_dir_all(image.at(known).parent().unwrap()).unwrap();
    symlink(format!("/{}", below(0)), image.at(known)).unwrap();
    for hop in 0..hops {
        if hop + 1 < hops {
            fs::create_dir_all(image.at(&below(hop)).parent().unwrap()).unwrap();
            symlink(format!("/{}", below(hop + 1)), image.at(&below(hop))).unwrap();
        } else {
            image.put(&below(hop), content);
        }
    }
}

/// Packages that a scan lists of [`databases`].
const THREE: [&str; 4] = ["bash 5.2-1", "good 1.0.0", "one 1-r0", "two 2-r0"];

/// Known paths of databases of operating systems, each with its content.
fn databases() -> [(&'static str, String); 3] {
    let apk = |name: &str, version: &str| format!("P:{name}\nV:{version}-r0\nA:x86_64\n\n");
    [
        (STATUS, status("bash", "5.2-1")),
        ("lib/apk/db/installed", apk("one", "1")),
        ("usr/lib/apk/db/installed", apk("two", "2")),
    ]
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("os-release through 39 links of 390 directories", "scanned", Nothing, &INTACT, |image| {
            (0..20_000).for_each(|number| drop(File::create(image.at(&format!("srv/{number}"))).unwrap()));
            chain(image, "etc/os-release", "q", (39, 390), "ID=debian\nVERSION_ID=12\n");
        }),
        row("three databases through 30 links of 390 directories", "scanned", Nothing, &THREE, |image| {
            for (number, (known, content)) in databases().into_iter().enumerate() {
                chain(image, known, &format!("q{number}"), (30, 390), &content);
            }
        }),
        row("every database through five links of 390 directories", "partial", Reason(""), GOOD, |image| {
            let all = [STATUS, "lib/apk/db/installed", "var/lib/rpm/rpmdb.sqlite", "usr/lib/sysimage/rpm/rpmdb.sqlite"];
            all.iter()
                .enumerate()
                .for_each(|(number, known)| chain(image, known, &format!("q{number}"), (5, 390), "P:x"));
        }),
        row("databases through links that go down and up again", "partial", Reason("lookups"), GOOD, |image| {
            deep(&image.at(""), "d", 390);
            let there = "d/".repeat(390);
            for (known, content) in databases() {
                image.put(&format!("{there}{}", known.replace('/', "-")), content);
                let _ = fs::remove_file(image.at(known));
                fs::create_dir_all(image.at(known).parent().unwrap()).unwrap();
                symlink(format!("/{there}{}{}", "../d/".repeat(600), known.replace('/', "-")), image.at(known))
                    .unwrap();
            }
        }),
        row(
            "three databases of 45,000 packages behind links",
            "partial",
            Reason("the evidence of the layer"),
            &["good 1.0.0", "zlib 1-2"],
            |image| {
                let apk = |at: usize| (0..45_000).map(|number| format!("P:{at}p{number}\nV:1\n\n")).collect::<String>();
                let dpkg = |number: usize| status(&format!("p{number}"), "1") + "\n";
                let dpkg = (0..45_000).map(dpkg).collect();
                let all = [(STATUS, dpkg), ("lib/apk/db/installed", apk(0)), ("usr/lib/apk/db/installed", apk(1))];
                for (number, (known, content)) in all.into_iter().enumerate() {
                    chain(image, known, &format!("q{number}"), (1, 1), &content);
                }
                rpm::database(image, std::iter::empty());
                fs::rename(image.at(RPM), image.at("q0/rpm")).unwrap();
                symlink("/q0/rpm", image.at(RPM)).unwrap();
            },
        ),
        row("a database through 41 links", "partial", Reason("dpkg"), GOOD, |image| {
            chain(image, STATUS, "q", (41, 3), &status("bash", "5.2-1"));
        }),
        row("ten chains of 395 directories", "scanned", Nothing, &["a 1", "bash 5.2-1", "good 1.0.0"], |image| {
            (0..10).for_each(|chain| package_below(image, &format!("c/{chain}")));
        }),
        row("20,000 files below sixty layers", "scanned", Nothing, &INTACT, |image| {
            (0..20_000).for_each(|number| drop(File::create(image.at(&format!("srv/{number}.so"))).unwrap()));
            (0..60).for_each(|number| write(&image.add_layer().join("f"), number.to_string()));
        }),
        row("twenty layers that each replace a database", "scanned", Nothing, &["good 1.0.0", "p999 19"], |image| {
            for layer in 0..20 {
                let all: String = (0..1000).map(|at| status(&format!("p{at}"), &layer.to_string()) + "\n").collect();
                write(&image.add_layer().join(STATUS), all);
            }
        }),
        row("20,000 whiteouts of nothing", "scanned", Nothing, &INTACT, |image| {
            let layer = image.add_layer();
            (0..20_000).for_each(|number| whiteout(&layer.join(format!("srv/none/{number}"))));
        }),
        row("a whiteout of a database", "scanned", Nothing, GOOD, |image| whiteout(&image.add_layer().join(STATUS))),
        row("a file where a directory of the layer below is", "scanned", Nothing, GOOD, |image| {
            write(&image.add_layer().join("var/lib/dpkg"), "no directory");
        }),
        row("a link out of the layers where a database belongs", "scanned", Nothing, GOOD, |image| {
            let outside = image.dir.path().join("outside");
            write(&outside.join("status"), status("stolen", "1"));
            let layer = image.add_layer();
            fs::create_dir_all(layer.join("var/lib")).unwrap();
            symlink(format!("{}{}", "../".repeat(30), outside.display()), layer.join("var/lib/dpkg")).unwrap();
        }),
        row("a database that another layer leads to", "scanned", Nothing, &INTACT, |image| {
            fs::create_dir_all(image.at("data")).unwrap();
            fs::rename(image.at("var/lib/dpkg"), image.at("data/dpkg")).unwrap();
            let layer = image.add_layer();
            fs::create_dir_all(layer.join("var/lib")).unwrap();
            symlink("/data/dpkg", layer.join("var/lib/dpkg")).unwrap();
        }),
        row("links of two layers that lead to each other", "partial", Reason(""), GOOD, |image| {
            fs::remove_file(image.at(STATUS)).unwrap();
            symlink("/other/status", image.at(STATUS)).unwrap();
            let layer = image.add_layer();
            fs::create_dir_all(layer.join("other")).unwrap();
            symlink(format!("/{STATUS}"), layer.join("other/status")).unwrap();
        }),
        row("50,000 links to one directory", "scanned", Nothing, &INTACT, |image| {
            fs::create_dir_all(image.at("srv/links")).unwrap();
            (0..50_000).for_each(|number| symlink("..", image.at(&format!("srv/links/{number}"))).unwrap());
        }),
        row("names that are no text", "scanned", Nothing, &["bash 5.2-1", "good 1.0.0", "odd 1"], |image| {
            use std::os::unix::ffi::OsStrExt as _;
            let name = std::ffi::OsStr::from_bytes(b"\xff\xfe\x1b[2J\n\r\x7f");
            write(&image.at("srv").join(name).join("package.json"), r#"{"name":"odd","version":"1"}"#);
        }),
        row("a pipe, a socket and a device for each kind of evidence", "scanned", Nothing, &INTACT, |image| {
            let kinds =
                [(FileType::Fifo, 0), (FileType::Socket, 0), (FileType::CharacterDevice, rustix::fs::makedev(1, 5))];
            for (kind, device) in kinds {
                for name in ["package.json", "a.jar", "a.egg", "a.egg-info", "program"] {
                    let path = image.at(&format!("srv/{kind:?}/{name}"));
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    mknodat(CWD, path, kind, Mode::RWXU, device).unwrap();
                }
            }
        }),
    ]
}
