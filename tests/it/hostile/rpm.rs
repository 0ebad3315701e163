//! RPM's databases.

use std::fs;
use std::os::unix::fs::symlink;

use rusqlite::Connection;

use super::table::Said::{Nothing, Reason, Warning};
use super::table::{Row, check, row};
use super::{INTACT, Image};

pub(super) const RPM: &str = "var/lib/rpm/rpmdb.sqlite";
const AT: &str = "/var/lib/rpm/rpmdb.sqlite";
const LISTED: &[&str] = &["bash 5.2-1", "good 1.0.0", "zlib 1-2"];

/// A header of a package: a name, a version, a release, and `padding` bytes that nobody reads.
fn header(name: &str, padding: usize) -> Vec<u8> {
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, text) in [(1000_u32, name), (1001, "1"), (1002, "2"), (9998, &"x".repeat(padding))] {
        index.extend([tag, 6, store.len() as u32, 1].into_iter().flat_map(u32::to_be_bytes));
        store.extend(text.bytes().chain([0]));
    }
    [&4_u32.to_be_bytes()[..], &(store.len() as u32).to_be_bytes(), &index, &store].concat()
}

/// Writes a database of these headers behind that of `zlib`.
pub(super) fn database(image: &Image, headers: impl Iterator<Item = Vec<u8>>) {
    image.put(RPM, []);
    let mut connection = Connection::open(image.at(RPM)).unwrap();
    connection
        .execute_batch("CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        .unwrap();
    let all = connection.transaction().unwrap();
    for blob in [header("zlib", 0)].into_iter().chain(headers) {
        all.execute("INSERT INTO Packages (blob) VALUES (?)", [blob]).unwrap();
    }
    all.commit().unwrap();
}

/// Writes a database of 200 packages, and changes its bytes.
fn changed(image: &Image, change: impl FnOnce(&mut Vec<u8>)) {
    database(image, (0..200).map(|number| header(&format!("p{number}"), 500)));
    let mut bytes = fs::read(image.at(RPM)).unwrap();
    change(&mut bytes);
    image.put(RPM, bytes);
}

#[test]
fn databases_of_rpm_cost_themselves_and_nothing_else() {
    check(rows());
}

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("one package of RPM 20,000 times", "scanned", Nothing, LISTED, |image| {
            database(image, (0..20_000).map(|_| header("zlib", 0)));
        }),
        row("150,000 packages of RPM", "partial", Warning(AT, "more bytes of packages"), &INTACT, |image| {
            database(image, (0..150_000).map(|number| header(&format!("p{number}"), 0)));
        }),
        row("a header of 40 MiB", "partial", Warning(AT, ""), LISTED, |image| {
            database(image, std::iter::once(header("long", 40 << 20)));
        }),
        row("a name of RPM of 20 KB", "partial", Warning(AT, "is left out"), LISTED, |image| {
            database(image, std::iter::once(header(&"n".repeat(20_000), 0)));
        }),
        row("a header that says that it has 4 GB", "partial", Warning(AT, ""), LISTED, |image| {
            let mut lying = header("lying", 0);
            lying[..8].fill(0xff);
            database(image, std::iter::once(lying));
        }),
        row("headers whose offsets lead nowhere", "partial", Warning(AT, ""), LISTED, |image| {
            let lying = |number: usize| {
                let mut lying = header("lying", 0);
                lying[8 + number % 64] ^= 0xff;
                lying
            };
            database(image, (0..64).map(lying));
        }),
        row("no valid header", "partial", Warning(AT, ""), &INTACT, |image| {
            image.put(RPM, []);
            let connection = Connection::open(image.at(RPM)).unwrap();
            connection.execute_batch("CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)").unwrap();
            for _ in 0..50 {
                connection.execute("INSERT INTO Packages (blob) VALUES (x'00ff')", []).unwrap();
            }
        }),
        row("a valid header and 99 of noise", "partial", Reason("99 of 100 packages"), LISTED, |image| {
            database(image, (0..99).map(|_| vec![0xff; 4096]));
        }),
        row("headers without names", "partial", Warning(AT, "5 of 5 packages"), &INTACT, |image| {
            database(image, std::iter::empty());
            let connection = Connection::open(image.at(RPM)).unwrap();
            connection.execute("DELETE FROM Packages", []).unwrap();
            for _ in 0..5 {
                connection.execute("INSERT INTO Packages (blob) VALUES (?)", [header("", 0)]).unwrap();
            }
        }),
        row("a database of RPM in a directory behind a link", "scanned", Nothing, LISTED, |image| {
            database(image, std::iter::empty());
            fs::create_dir_all(image.at("opt")).unwrap();
            fs::rename(image.at("var/lib/rpm"), image.at("opt/rpm")).unwrap();
            fs::create_dir_all(image.at("usr/share")).unwrap();
            symlink("/opt/rpm", image.at("usr/share/rpm")).unwrap();
        }),
        row("names of RPM of control characters", "scanned", Nothing, LISTED, |image| {
            database(image, (0..50).map(|number| header(&format!("\x1b[2J\u{202e}{number}"), 0)));
        }),
        row("half a database of RPM", "partial", Warning(AT, ""), &INTACT, |image| {
            changed(image, |bytes| bytes.truncate(bytes.len() / 2));
        }),
        row("pages of RPM that lead to themselves", "partial", Warning(AT, ""), &INTACT, |image| {
            changed(image, |bytes| {
                // The right-most child of each interior page of a table.
                for page in (4096..bytes.len()).step_by(4096).filter(|page| bytes[*page] == 5).collect::<Vec<_>>() {
                    let number = (page / 4096 + 1) as u32;
                    bytes[page + 8..page + 12].copy_from_slice(&number.to_be_bytes());
                }
            });
        }),
        row("pages of RPM of a size of one byte", "partial", Warning(AT, ""), &INTACT, |image| {
            changed(image, |bytes| bytes[16..18].copy_from_slice(&[0, 3]));
        }),
        row("a database of RPM of zeros", "partial", Warning(AT, ""), &INTACT, |image| {
            image.put(RPM, vec![0; 8 << 20])
        }),
        row("a log of noise", "scanned", Nothing, LISTED, |image| {
            database(image, std::iter::empty());
            let noise: Vec<u8> = (0_u32..1 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            image.put("var/lib/rpm/rpmdb.sqlite-wal", noise);
        }),
        row("a log of zeros of 300 MiB", "partial", Warning(AT, ""), &INTACT, |image| {
            database(image, std::iter::empty());
            image.put("var/lib/rpm/rpmdb.sqlite-wal", []);
            let log = fs::File::options().write(true).open(image.at("var/lib/rpm/rpmdb.sqlite-wal")).unwrap();
            log.set_len(300 << 20).unwrap();
        }),
        row("a database of Berkeley of noise", "partial", Warning("/var/lib/rpm/Packages", ""), &INTACT, |image| {
            image.put("var/lib/rpm/Packages", vec![0xa5; 1 << 20]);
        }),
        row("an NDB of noise", "partial", Warning("/var/lib/rpm/Packages.db", ""), &INTACT, |image| {
            image.put("var/lib/rpm/Packages.db", b"RpmP".repeat(1 << 18));
        }),
        row(
            "a manifest of 300,000 lines",
            "partial",
            Warning("/var/lib/rpmmanifest/container-manifest-2", ""),
            &INTACT,
            |image| {
                let line =
                    |number: usize| format!("p{number}\t1-1\t0\t0\tvendor\tepoch\t0\tx86_64\t0\tp-1-1.src.rpm\n");
                image.put("var/lib/rpmmanifest/container-manifest-2", (0..300_000).map(line).collect::<String>());
            },
        ),
    ]
}
