//! Java's archives and Python's eggs.

use std::fs;

use super::INTACT;
use super::table::Said::{Nothing, Reason, Warning};
use super::table::{Row, check, row};
use crate::support::Method::{Deflated, Stored};
use crate::support::zip;

const JAR: &str = "srv/app.jar";
const AT: &str = "/srv/app.jar";
/// The name of the file of coordinates in an archive.
const POM: &str = "META-INF/maven/g/a/pom.properties";
/// Packages that are listed where the rest of the archive is wrong and the archive is read nevertheless.
const INNER: &[&str] = &["bash 5.2-1", "g:a 1.0.0", "good 1.0.0"];

fn pom() -> &'static [u8] {
    b"groupId=g\nartifactId=a\nversion=1.0.0\n"
}

/// An entry of an archive whose headers say whatever they say.
struct Entry<'a> {
    name: &'a str,
    flags: u16,
    method: u16,
    /// Sizes as the directory has them: compressed, and not.
    sizes: (u32, u32),
    /// Offset of the local header.
    offset: u32,
}

/// An archive of these local parts, whose directory lists `entries`.
fn crafted(local: &[u8], entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = local.to_vec();
    for Entry { name, flags, method, sizes, offset } in entries {
        bytes.extend(b"PK\x01\x02\x14\0\x14\0");
        bytes.extend([*flags, *method, 0, 0].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend([0, sizes.0, sizes.1].into_iter().flat_map(u32::to_le_bytes));
        bytes.extend([name.len() as u16, 0, 0, 0, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(offset.to_le_bytes());
        bytes.extend(name.bytes());
    }
    let size = (bytes.len() - local.len()) as u32;
    let count = entries.len() as u16;
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend([count, count].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend([size, local.len() as u32].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([0, 0]);
    bytes
}

/// The local part of a stored entry.
fn local(name: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend([content.len() as u32; 2].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([name.len() as u16, 0].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend(name.bytes());
    bytes.extend(content);
    bytes
}

/// An archive whose one entry is changed.
fn changed(change: fn(&mut Entry<'_>)) -> Vec<u8> {
    let mut entry =
        Entry { name: POM, flags: 0, method: 0, sizes: (pom().len() as u32, pom().len() as u32), offset: 0 };
    change(&mut entry);
    crafted(&local(POM, pom()), &[entry])
}

/// An archive whose directory has 20,000 names for one file of coordinates, of `length` times `byte` each; `number` tells it from others.
fn coordinates(byte: u8, length: usize, number: usize) -> Vec<u8> {
    let value = vec![byte; length];
    let content = [b"groupId=", &value[..], b"\nartifactId=", &value, b"\nversion=", &value, b"\n"].concat();
    let size = content.len() as u32;
    let names: Vec<String> =
        (0..20_000).map(|at| format!("{at}/{number}/{}/pom.properties", "n".repeat(300))).collect();
    let entry = |name| Entry { name, flags: 0, method: 0, sizes: (size, size), offset: 0 };
    crafted(&local("pom.properties", &content), &names.iter().map(|name| entry(name)).collect::<Vec<_>>())
}

/// An archive with the coordinates beside `others`.
fn beside(others: &[(&str, &[u8], crate::support::Method)]) -> Vec<u8> {
    let mut entries = vec![(POM, pom(), Deflated)];
    entries.extend(others);
    zip(&entries)
}

#[test]
fn archives_cost_themselves_and_nothing_else() {
    check(rows());
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("a manifest of 8 MiB", "scanned", Nothing, INNER, |image| {
            image.put(JAR, beside(&[("META-INF/MANIFEST.MF", &vec![b'a'; 8 << 20], Deflated)]));
        }),
        row("a manifest of 200,000 headers", "scanned", Nothing, INNER, |image| {
            image.put(JAR, beside(&[("META-INF/MANIFEST.MF", &b"A: b\n".repeat(200_000), Deflated)]));
        }),
        row("an archive of 33 MiB of zeros in an archive", "scanned", Warning(AT, "more bytes"), INNER, |image| {
            image.put(JAR, beside(&[("lib/a.jar", &vec![0; 33 << 20], Deflated)]));
        }),
        row("six archives of 2 MiB of zeros", "scanned", Warning(AT, ""), INNER, |image| {
            let zeros = vec![0; 2 << 20];
            let names: Vec<String> = (0..6).map(|number| format!("lib/{number}.jar")).collect();
            let inner: Vec<_> = names.iter().map(|name| (name.as_str(), zeros.as_slice(), Deflated)).collect();
            image.put(JAR, beside(&inner));
        }),
        row("forty archives in each other", "scanned", Warning(AT, ""), INNER, |image| {
            let mut jar = zip(&[("x.class", b"x", Stored)]);
            (0..40).for_each(|_| jar = zip(&[("in.jar", &jar, Deflated)]));
            image.put(JAR, beside(&[("in.jar", &jar, Deflated)]));
        }),
        row("sixteen copies in each of twenty levels", "scanned", Warning(AT, ""), INNER, |image| {
            let mut jar = zip(&[("x.class", b"x", Stored)]);
            for _ in 0..20 {
                let names: Vec<String> = (0..16).map(|copy| format!("{copy}.jar")).collect();
                let entries: Vec<_> = names.iter().map(|name| (name.as_str(), jar.as_slice(), Deflated)).collect();
                jar = zip(&entries);
            }
            image.put(JAR, beside(&[("in.jar", &jar, Deflated)]));
        }),
        row("30,000 coordinates", "scanned", Warning(AT, "nested archives and manifests"), INNER, |image| {
            let names: Vec<String> = (0..30_000).map(|number| format!("{number}/pom.properties")).collect();
            let others: Vec<_> = names.iter().map(|name| (name.as_str(), &b""[..], Stored)).collect();
            image.put(JAR, beside(&others));
        }),
        row(
            "nine archives of 20,000 coordinates that are no text",
            "scanned",
            Warning("/srv/8.jar", ""),
            &INTACT,
            |image| {
                (0..9).for_each(|number| image.put(&format!("srv/{number}.jar"), coordinates(0xff, 1024, number)));
            },
        ),
        row("20,000 coordinates of 3 KB", "scanned", Warning(AT, "bytes of packages in a fact"), &INTACT, |image| {
            image.put(JAR, coordinates(b'g', 1000, 0));
        }),
        row(
            "two archives of 17 MB of coordinates",
            "partial",
            Reason("1 file was not read: the evidence"),
            &INTACT,
            |image| {
                for archive in 0..2 {
                    let pom = |at: usize| {
                        let long = "l".repeat(990);
                        format!("groupId={long}{at}\nartifactId={long}{archive}\nversion={long}\n").into_bytes()
                    };
                    let poms: Vec<_> = (0..5_000).map(|at| (format!("{at}/pom.properties"), pom(at))).collect();
                    let entries: Vec<_> = poms.iter().map(|(name, pom)| (name.as_str(), &pom[..], Deflated)).collect();
                    image.put(&format!("srv/{archive}.jar"), zip(&entries));
                }
            },
        ),
        row("coordinates of a megabyte", "scanned", Warning(AT, "bytes of a field"), INNER, |image| {
            let long = format!("groupId={}\nartifactId=long\nversion=1\n", "g".repeat(1 << 20));
            image.put(JAR, beside(&[("x/pom.properties", long.as_bytes(), Deflated)]));
        }),
        row(
            "coordinates after a megabyte of comments",
            "scanned",
            Warning(AT, "bytes of pom.properties"),
            INNER,
            |image| {
                let late = format!("{}groupId=g\nartifactId=late\nversion=1\n", "# comment\n".repeat(100_000));
                image.put(JAR, beside(&[("x/pom.properties", late.as_bytes(), Deflated)]));
            },
        ),
        row("coordinates of control characters", "scanned", Nothing, INNER, |image| {
            let odd = "groupId=\x1b[2J\u{202e}\nartifactId=\x7f<b>\nversion=\x08\n";
            image.put(JAR, beside(&[("x/pom.properties", odd.as_bytes(), Deflated)]));
        }),
        row("an entry outside of the archive", "scanned", Nothing, INNER, |image| {
            image.put(JAR, beside(&[("../../../../etc/os-release", b"ID=evil", Stored)]));
        }),
        row("an entry that says that it has 4 GB", "scanned", Nothing, &INTACT, |image| {
            image.put(JAR, changed(|entry| entry.sizes = (u32::MAX - 1, u32::MAX - 1)));
        }),
        row("an entry beyond the end", "scanned", Warning(AT, ""), &INTACT, |image| {
            image.put(JAR, changed(|entry| entry.offset = 1 << 30));
        }),
        row("an encrypted entry", "scanned", Warning(AT, "encrypted"), &INTACT, |image| {
            image.put(JAR, changed(|entry| entry.flags = 1));
        }),
        row("an entry of another method", "scanned", Warning(AT, "neither stored nor deflated"), &INTACT, |image| {
            image.put(JAR, changed(|entry| entry.method = 99));
        }),
        row("stored bytes as a deflated entry", "scanned", Warning(AT, ""), &INTACT, |image| {
            image.put(JAR, changed(|entry| entry.method = 8));
        }),
        row("60,000 entries at one place", "scanned", Warning(AT, ""), &INTACT, |image| {
            let inner = zip(&[(POM, &vec![b'#'; 1 << 20], Stored)]);
            let entry = |_| Entry {
                name: "a.jar",
                flags: 0,
                method: 0,
                sizes: (inner.len() as u32, inner.len() as u32),
                offset: 0,
            };
            image.put(JAR, crafted(&local("a.jar", &inner), &(0..60_000).map(entry).collect::<Vec<_>>()));
        }),
        row("an archive that holds itself", "scanned", Warning(AT, ""), &INTACT, |image| {
            // The stored entry is the whole file.
            let name = "a.jar";
            let whole = crafted(&local(name, &[]), &[Entry { name, flags: 0, method: 0, sizes: (0, 0), offset: 0 }]);
            let size = whole.len() as u32;
            let entry = Entry { name, flags: 0, method: 0, sizes: (size, size), offset: 0 };
            image.put(JAR, crafted(&local(name, &[]), &[entry]));
        }),
        row("a comment with the end of another archive", "scanned", Nothing, &INTACT, |image| {
            let mut bytes = beside(&[]);
            let end = bytes.len();
            bytes[end - 2..].copy_from_slice(&60_000_u16.to_le_bytes());
            bytes.extend(b"PK\x05\x06".repeat(15_000));
            image.put(JAR, bytes);
        }),
        row("an archive cut in the middle", "scanned", Warning(AT, ""), &INTACT, |image| {
            let bytes = beside(&[("x.class", &vec![7; 10_000], Stored)]);
            image.put(JAR, &bytes[..bytes.len() / 2]);
        }),
        row("a directory of an archive that never ends", "scanned", Nothing, &INTACT, |image| {
            let mut bytes = crafted(&[], &[]);
            let end = bytes.len() - 22;
            bytes[end + 8..end + 12].fill(0xff);
            bytes[end + 12..end + 16].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
            image.put(JAR, bytes);
        }),
        row("six names of one slow archive", "scanned", Nothing, &INTACT, |image| {
            let zeros = vec![0; 4 << 20];
            let names: Vec<String> = (0..3).map(|number| format!("lib/{number}.jar")).collect();
            let inner: Vec<_> = names.iter().map(|name| (name.as_str(), zeros.as_slice(), Deflated)).collect();
            image.put(JAR, zip(&inner));
            (0..6).for_each(|link| fs::hard_link(image.at(JAR), image.at(&format!("srv/{link}.jar"))).unwrap());
        }),
        row("two thousand archives", "scanned", Nothing, INNER, |image| {
            let jar = beside(&[]);
            (0..2000).for_each(|number| image.put(&format!("srv/lib/{number}.jar"), &jar));
        }),
        row("an egg of 6 MB of headers", "scanned", Warning("/srv/a.egg", ""), &INTACT, |image| {
            image.put("srv/a.egg", zip(&[("EGG-INFO/PKG-INFO", &b"Keywords: x\n".repeat(500_000), Deflated)]));
        }),
        row("an egg of 30,000 descriptions", "scanned", Warning("/srv/a.egg", ""), &INTACT, |image| {
            let entries: Vec<_> = (0..30_000).map(|_| ("EGG-INFO/PKG-INFO", &b"Name: x\n"[..], Stored)).collect();
            image.put("srv/a.egg", zip(&entries));
        }),
        row("an egg that is no archive", "scanned", Warning("/srv/a.egg", "not a zip archive"), &INTACT, |image| {
            image.put("srv/a.egg", vec![0; 1 << 20]);
        }),
    ]
}
