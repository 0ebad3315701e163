//! Go programs: real ones, which the toolchain builds here, and constructed ones in formats that no available toolchain writes
//! any more.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::support::{listed, read};
use crate::skip::skip;

#[test]
fn a_program_that_go_builds_lists_its_modules() {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "app/go.mod",
        "module example.com/app\ngo 1.18\nrequire (\n\texample.com/lib v1.2.3\n\texample.com/deep v0.4.0\n)\n\
         replace (\n\texample.com/lib => ../lib\n\texample.com/deep => ../deep\n)\n",
    );
    let main = "package main\nimport _ \"example.com/lib\"\nvar version string\nfunc main() { println(version) }\n";
    write("app/main.go", main);
    write("lib/go.mod", "module example.com/lib\ngo 1.18\nrequire example.com/deep v0.4.0\n");
    write("lib/lib.go", "package lib\nimport _ \"example.com/deep\"\n");
    write("deep/go.mod", "module example.com/deep\ngo 1.18\n");
    write("deep/deep.go", "package deep\n");

    let Some(toolchain) = toolchain() else { return skip("tools", "Go programs: no go command") };
    let stdlib = format!("stdlib {toolchain}");
    let modules = ["example.com/deep (devel)", "example.com/lib (devel)", stdlib.as_str()];
    for (arch, flags, version) in [
        ("amd64", "", "(devel)"),
        ("amd64", "-s -w -X main.version=1.2.3", "v1.2.3"),
        ("386", "-s -w", "(devel)"),
        ("mips", "-s -w", "(devel)"),
        ("s390x", "", "(devel)"),
    ] {
        let app = format!("example.com/app {version}");
        let mut expected = vec![app.as_str()];
        expected.extend(modules);
        expected.sort_unstable();
        let mut program = build(&dir.path().join("app"), arch, flags);
        assert_eq!(listed(&read("golang", "usr/bin/app", &program.as_slice()).unwrap()), expected, "{arch} {flags}");
        // Without its section table, as after `sstrip`, it is found by its segments.
        let offsets: &[usize] = if program[4] == 2 { &[40, 60, 62] } else { &[32, 48, 50] };
        for &at in offsets {
            program[at..at + 2].fill(0);
        }
        let table = if program[4] == 2 { 40..48 } else { 32..36 };
        program[table].fill(0);
        assert_eq!(
            listed(&read("golang", "usr/bin/app", &program.as_slice()).unwrap()),
            expected,
            "{arch}, no sections"
        );
    }
}

fn toolchain() -> Option<String> {
    let output = Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.trim().split(' ').next()?.strip_prefix("go").map(str::to_owned)
}

fn build(dir: &Path, arch: &str, ldflags: &str) -> Vec<u8> {
    let output = Command::new("go")
        .args(["build", "-buildvcs=false", "-o", "program", "-ldflags", ldflags, "."])
        .current_dir(dir)
        .envs([("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")])
        .envs([("GOOS", "linux"), ("GOARCH", arch)])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(dir.join("program")).unwrap()
}

/// How a made program stores its build information.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    wide: bool,
    big_endian: bool,
    inline: bool,
    sections: bool,
}

/// Every way there is.
pub(crate) fn shapes() -> impl Iterator<Item = Shape> {
    (0..16).map(|bits| Shape {
        wide: bits & 1 != 0,
        big_endian: bits & 2 != 0,
        inline: bits & 4 != 0,
        sections: bits & 8 != 0,
    })
}

/// The smallest ELF program with build information: headers, one segment, and sections if asked for.
pub(crate) fn program(shape: Shape, toolchain: &str, modules: &str) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let word = if shape.wide { 8 } else { 4 };
    let number = |value: u64, size: usize| {
        let little = &value.to_le_bytes()[..size];
        if shape.big_endian { little.iter().rev().copied().collect() } else { little.to_vec() }
    };
    let modules = format!("{:16}{modules}{:16}", "", "");

    // Data: the build information, at offset 256 of the file.
    let data_at = 256_u64;
    let mut data = b"\xff Go buildinf:".to_vec();
    let flags = u8::from(shape.big_endian) | if shape.inline { 2 } else { 0 };
    data.extend([u8::try_from(word).unwrap(), flags]);
    if shape.inline {
        data.resize(32, 0);
        for text in [toolchain, &modules] {
            let mut length = text.len();
            while length >= 0x80 {
                data.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            data.push(u8::try_from(length).unwrap());
            data.extend(text.bytes());
        }
    } else {
        let address = |at: usize| BASE + data_at + at as u64;
        let pairs = 32;
        let first = pairs + 4 * word;
        let second = first + toolchain.len();
        for value in [address(pairs), address(pairs + 2 * word)] {
            data.extend::<Vec<u8>>(number(value, word));
        }
        data.resize(32, 0);
        for (at, text) in [(first, toolchain), (second, &modules)] {
            data.extend::<Vec<u8>>(number(address(at), word));
            data.extend::<Vec<u8>>(number(text.len() as u64, word));
        }
        data.extend(toolchain.bytes());
        data.extend(modules.bytes());
    }

    let names = b"\0.go.buildinfo\0.shstrtab\0";
    let names_at = data_at + data.len() as u64;
    let sections_at = names_at + names.len() as u64;
    let (header_size, segment_size, section_size) = if shape.wide { (64, 56, 64) } else { (52, 32, 40) };

    let mut elf = b"\x7fELF".to_vec();
    elf.extend([if shape.wide { 2 } else { 1 }, if shape.big_endian { 2 } else { 1 }, 1]);
    elf.resize(16, 0);
    let mut put = |values: &[(u64, usize)]| {
        for &(value, size) in values {
            elf.extend::<Vec<u8>>(number(value, size));
        }
    };
    let (table, count) = if shape.sections { (sections_at, 3) } else { (0, 0) };
    put(&[(2, 2), (62, 2), (1, 4), (0, word), (header_size, word), (table, word), (0, 4), (header_size, 2)]);
    put(&[(segment_size, 2), (1, 2), (section_size, 2), (count, 2), (2, 2)]);
    let size = data.len() as u64;
    let (offset, address) = ((data_at, word), (BASE + data_at, word));
    if shape.wide {
        put(&[(1, 4), (6, 4), offset, address, address, (size, word), (size, word), (16, word)]);
    } else {
        put(&[(1, 4), offset, address, address, (size, word), (size, word), (6, 4), (16, word)]);
    }
    elf.resize(256, 0);
    elf.extend(data);
    elf.extend(names);
    elf.resize(elf.len() + usize::try_from(section_size).unwrap(), 0);
    let mut section = |name: u64, at: u64, size: u64| {
        let fields = [(name, 4), (1, 4), (0, word), (BASE + at, word), (at, word), (size, word), (0, 4), (0, 4)];
        for (value, size) in fields.into_iter().chain([(0, word), (0, word)]) {
            elf.extend::<Vec<u8>>(number(value, size));
        }
    };
    section(1, data_at, size);
    section(15, names_at, names.len() as u64);
    elf
}

/// Modules of a made program.
pub(crate) const MODULES: &str =
    "path\ta.org/cmd\nmod\ta.org\tv1.0.0\th1:x=\ndep\tb.org/x\tv2.0.0\n=>\tc.org/y\tv3.0.0\th1:\n";

#[test]
fn build_information_is_read_in_every_shape() {
    for shape in shapes() {
        let program = program(shape, "go1.17.1", MODULES);
        let fact = read("golang", "usr/bin/app", &program.as_slice()).unwrap();
        assert_eq!(listed(&fact), ["a.org v1.0.0", "c.org/y v3.0.0", "stdlib 1.17.1"], "{shape:?}");
    }
}

#[test]
fn a_program_built_without_modules_has_its_standard_library() {
    let shape = shapes().last().unwrap();
    let fact = read("golang", "usr/bin/app", &program(shape, "go1.17.1", "").as_slice()).unwrap();
    assert_eq!(listed(&fact), ["stdlib 1.17.1"]);
}

#[test]
fn what_is_no_go_program_says_nothing() {
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    for bytes in [&b""[..], b"#!/bin/sh\n", b"\x7fELF", &[0x7f; 100], &own] {
        assert!(read("golang", "usr/bin/app", &bytes).unwrap().is_empty());
    }
}
