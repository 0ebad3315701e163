//! npm, Python's metadata and Go's programs.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::table::Said::{Nothing, Reason, Warning};
use super::table::{Row, check, row};
use super::{INTACT, Image};
use crate::scale::evil::encodings::number;

const NPM: &str = "srv/a/package.json";
const NPM_AT: &str = "/srv/a/package.json";
const METADATA: &str = "srv/a-1.dist-info/METADATA";
const METADATA_AT: &str = "/srv/a-1.dist-info/METADATA";
const GO: &str = "usr/bin/a";
const GO_AT: &str = "/usr/bin/a";

/// The modules of a program.
const MODULES: &[u8] = b"path\texample.org/a\nmod\texample.org/a\tv1.0.0\ndep\texample.org/m\tv1.0.0\n";

#[test]
fn evidence_of_languages_costs_itself_and_nothing_else() {
    check(rows());
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = npm();
    rows.extend(python());
    rows.extend(golang());
    rows
}

fn npm() -> Vec<Row> {
    vec![
        row("a package.json of 9 MiB", "scanned", Warning(NPM_AT, "more than the limit"), &INTACT, |image| {
            image.put(NPM, format!(r#"{{"name":"a","version":"1","x":"{}"}}"#, "x".repeat(9 << 20)));
        }),
        row("a million dependencies", "scanned", Nothing, &["a 1.0.0", "bash 5.2-1", "good 1.0.0"], |image| {
            let mut text = r#"{"name":"a","version":"1.0.0","dependencies":{"#.to_owned();
            (0..400_000).for_each(|number| write!(text, r#""p{number}":"1","#).unwrap());
            image.put(NPM, text + r#""x":"1"}}"#);
        }),
        row("100,000 licenses", "scanned", Nothing, &["a 1.0.0", "good 1.0.0"], |image| {
            let licenses = r#""MIT","#.repeat(100_000);
            image.put(NPM, format!(r#"{{"name":"a","version":"1.0.0","license":[{licenses}"x"]}}"#));
        }),
        row("a name of a megabyte", "scanned", Warning(NPM_AT, "bytes of a field"), &INTACT, |image| {
            image.put(NPM, format!(r#"{{"name":"{}","version":"1.0.0"}}"#, "n".repeat(1 << 20)));
        }),
        row("names of escaped control characters", "scanned", Nothing, &INTACT, |image| {
            image.put(NPM, r#"{"name":"\u001b[2J\u202e\u0000","version":"\u0008\ud800"}"#);
        }),
        row("a name that is no text", "scanned", Warning(NPM_AT, ""), &INTACT, |image| {
            image.put(NPM, b"{\"name\":\"\xff\xfe\",\"version\":1e9999}");
        }),
        row("names that are lists", "scanned", Nothing, &INTACT, |image| {
            image.put(NPM, r#"{"name":["a"],"version":{"major":1}}"#);
        }),
        row("one key 400,000 times", "scanned", Nothing, &INTACT, |image| {
            image.put(NPM, format!(r#"{{{}"version":"1.0.0"}}"#, r#""name":"a","#.repeat(400_000)));
        }),
        row("lists in lists, 100,000 deep", "scanned", Warning(NPM_AT, ""), &INTACT, |image| {
            image.put(NPM, format!(r#"{{"name":"a","version":"1.0.0","x":{}"#, "[".repeat(100_000)));
        }),
        row("half a package.json", "scanned", Warning(NPM_AT, ""), &INTACT, |image| {
            image.put(NPM, r#"{"name":"a","vers"#);
        }),
        row("three thousand packages of npm", "scanned", Nothing, &["good 1.0.0", "p2999 1.0.0"], |image| {
            for number in 0..3000 {
                let text = format!(r#"{{"name":"p{number}","version":"1.0.0"}}"#);
                image.put(&format!("srv/node_modules/p{number}/package.json"), text);
            }
        }),
        row("six hundred names of one package.json", "scanned", Nothing, &["a 1.0.0", "good 1.0.0"], |image| {
            image.put(NPM, format!(r#"{{"name":"a","version":"1.0.0","x":"{}"}}"#, "x".repeat(100_000)));
            for link in 0..600 {
                fs::create_dir_all(image.at(&format!("srv/l{link}"))).unwrap();
                fs::hard_link(image.at(NPM), image.at(&format!("srv/l{link}/package.json"))).unwrap();
            }
        }),
    ]
}

fn python() -> Vec<Row> {
    vec![
        row("headers without end", "scanned", Warning(METADATA_AT, "metadata headers"), &INTACT, |image| {
            image.put(METADATA, b"Name: a\nVersion: 1\n".repeat(500_000));
        }),
        row("a header of half a megabyte", "scanned", Nothing, &["a 1", "good 1.0.0"], |image| {
            image.put(METADATA, format!("Name: a\nVersion: 1\nSummary: {}\n\n", "x".repeat(500_000)));
        }),
        row("40,000 classifiers", "scanned", Nothing, &["a 1", "good 1.0.0"], |image| {
            let classifiers = "Classifier: License :: X\n".repeat(40_000);
            image.put(METADATA, format!("Name: a\nVersion: 1\n{classifiers}\n"));
        }),
        row("a header of 100,000 lines", "scanned", Nothing, &["a 1", "good 1.0.0"], |image| {
            image.put(METADATA, format!("Name: a\nVersion: 1\nLicense: x\n{}\n", "  more\n".repeat(100_000)));
        }),
        row("a name of Python of 100 KB", "scanned", Warning(METADATA_AT, "bytes of a field"), &INTACT, |image| {
            image.put(METADATA, format!("Name: {}\nVersion: 1\n\n", "n".repeat(100_000)));
        }),
        row("metadata of control characters", "scanned", Nothing, &INTACT, |image| {
            image.put(METADATA, "Name: \x1b[2J\u{202e}\0\nVersion: \x08\x7f\n\n");
        }),
        row("metadata of zeros", "scanned", Warning(METADATA_AT, ""), &INTACT, |image| {
            image.put(METADATA, vec![0; 500_000]);
        }),
        row("a readme of 200 MB", "scanned", Nothing, &["a 1", "good 1.0.0"], |image| {
            let mut text = b"Name: a\nVersion: 1\n\n".to_vec();
            text.resize(200_000_000, b'x');
            image.put(METADATA, text);
        }),
    ]
}

/// A program with this build information: the version of Go, and the modules.
fn program(image: &Image, version: &[u8], modules: &[u8]) {
    let modules = [&[b' '; 16][..], modules, &[b' '; 16]].concat();
    let mut data = b"\xff Go buildinf:\x08\x02".to_vec();
    data.resize(32, 0);
    for text in [version, &modules] {
        data.extend(number(text.len()));
        data.extend(text);
    }
    // One writable segment, at offset 128.
    let size = data.len() as u64;
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    bytes.extend([0x40_0000_u64, 64, 0].into_iter().flat_map(u64::to_le_bytes));
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([1_u32, 6].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([128, 0x40_0080, 0x40_0080, size, size, 16].into_iter().flat_map(u64::to_le_bytes));
    bytes.resize(128, 0);
    bytes.extend(data);
    executable(image, &bytes);
}

fn executable(image: &Image, bytes: &[u8]) {
    image.put(GO, bytes);
    fs::set_permissions(image.at(GO), fs::Permissions::from_mode(0o755)).unwrap();
}

fn golang() -> Vec<Row> {
    const LISTED: &[&str] = &["bash 5.2-1", "example.org/m v1.0.0", "good 1.0.0"];
    vec![
        row("a program as it should be", "scanned", Nothing, LISTED, |image| program(image, b"go1.20", MODULES)),
        row("50,000 modules", "scanned", Warning(GO_AT, "30001 modules are left out"), LISTED, |image| {
            let mut modules = MODULES.to_vec();
            (0..50_000).for_each(|number| modules.extend(format!("dep\ta.org/{number}\tv1\n").bytes()));
            program(image, b"go1.20", &modules);
        }),
        row("modules of 8 MB", "scanned", Warning(GO_AT, "bytes of Go build information"), &INTACT, |image| {
            program(image, b"go1.20", &[MODULES, &b"dep\tm\tv1\n".repeat(1 << 20)].concat());
        }),
        row(
            "a module with a name of a megabyte",
            "scanned",
            Warning(GO_AT, "1 modules are left out"),
            LISTED,
            |image| {
                program(image, b"go1.20", &[MODULES, b"dep\t", &[b'm'; 1 << 20], b"\tv1\n"].concat());
            },
        ),
        row(
            "a version of Go of a megabyte",
            "scanned",
            Warning(GO_AT, "bytes of Go build information"),
            &INTACT,
            |image| program(image, &[b'g'; 1 << 20], MODULES),
        ),
        row("modules of control characters", "scanned", Nothing, LISTED, |image| {
            program(image, b"go1.20", &[MODULES, "dep\t\x1b[2J\u{202e}\t\x08\ndep\t\n\t\t\t\n".as_bytes()].concat());
        }),
        row("a program cut in the middle", "scanned", Nothing, &INTACT, |image| {
            program(image, b"go1.20", MODULES);
            let bytes = fs::read(image.at(GO)).unwrap();
            fs::write(image.at(GO), &bytes[..170]).unwrap();
        }),
        row("65,535 segments and sections", "scanned", Nothing, &INTACT, |image| {
            program(image, b"go1.20", MODULES);
            let mut bytes = fs::read(image.at(GO)).unwrap();
            bytes[40..48].copy_from_slice(&64_u64.to_le_bytes());
            bytes[54..62].fill(0xff);
            executable(image, &bytes);
        }),
        row("a segment of 2^63 bytes", "scanned", Nothing, &INTACT, |image| {
            program(image, b"go1.20", MODULES);
            let mut bytes = fs::read(image.at(GO)).unwrap();
            bytes[72..80].copy_from_slice(&(1_u64 << 62).to_le_bytes());
            bytes[96..112].fill(0x7f);
            executable(image, &bytes);
        }),
        row("six hundred names of one program", "scanned", Nothing, LISTED, |image| links(image, 50)),
        // Each name is evidence of each module.
        row(
            "six hundred names of one program of 5,000 modules",
            "partial",
            Reason("more files needs"),
            LISTED,
            |image| {
                links(image, 5000);
            },
        ),
    ]
}

/// A program of `modules` further modules, which has six hundred further names.
fn links(image: &Image, modules: usize) {
    let further: String = (0..modules).map(|number| format!("dep\ta.org/{number}\tv1\n")).collect();
    program(image, b"go1.20", &[MODULES, further.as_bytes()].concat());
    (0..600).for_each(|link| fs::hard_link(image.at(GO), image.at(&format!("usr/bin/l{link}"))).unwrap());
}
