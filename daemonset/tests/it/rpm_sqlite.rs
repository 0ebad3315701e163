//! The reader of RPM's SQLite database: compared with SQLite itself, and tested with hostile files.
//!
//! Databases are written by Python's `sqlite3`, where there is a Python.

use std::process::Command;
use std::time::{Duration, Instant};

use outcrop_agent::catalog::{self, CatalogError, Cataloger, Evidence, Source};
use outcrop_proto::{Fact, FileDigest};
use tempfile::TempDir;

use crate::skip::skip;

const PATH: &[u8] = b"var/lib/rpm/rpmdb.sqlite";
const WAL: &[u8] = b"var/lib/rpm/rpmdb.sqlite-wal";

fn rpm() -> &'static dyn Cataloger {
    *catalog::ALL.iter().find(|cataloger| cataloger.name() == "rpm").unwrap()
}

fn read_sources(main: &dyn Source, wal: Option<&dyn Source>) -> Result<Fact, CatalogError> {
    let companions: Vec<_> = wal.map(|wal| (WAL, wal)).into_iter().collect();
    rpm().read(&Evidence { path: PATH, source: main, companions: &companions })
}

fn read(main: &[u8], wal: Option<&[u8]>) -> Result<Fact, CatalogError> {
    read_sources(&main, wal.as_ref().map(|wal| wal as &dyn Source))
}

/// `name version` of every package.
fn listed(fact: &Fact) -> Vec<String> {
    fact.packages.iter().map(|package| format!("{} {}", package.name, package.version)).collect()
}

/// A header: strings by tag, then files as directory, base name and digest.
fn header(strings: &[(u32, &str)], files: &[(&str, &str, &str)]) -> Vec<u8> {
    let mut entries: Vec<(u32, u32, u32, Vec<u8>)> = Vec::new();
    let zero = |text: &str| [text.as_bytes(), b"\0"].concat();
    let list = |texts: Vec<&str>| texts.into_iter().flat_map(zero).collect::<Vec<_>>();
    let numbers = |numbers: Vec<u32>| numbers.into_iter().flat_map(u32::to_be_bytes).collect::<Vec<_>>();
    for (tag, text) in strings {
        match tag {
            1003 | 5011 => entries.push((*tag, 4, 1, numbers(vec![text.parse().unwrap()]))),
            _ => entries.push((*tag, 6, 1, zero(text))),
        }
    }
    let count = files.len() as u32;
    entries.push((1035, 8, count, list(files.iter().map(|(_, _, digest)| *digest).collect())));
    entries.push((1117, 8, count, list(files.iter().map(|(_, name, _)| *name).collect())));
    entries.push((1118, 8, count, list(files.iter().map(|(directory, ..)| *directory).collect())));
    let padding = 4 - entries.iter().map(|entry| entry.3.len()).sum::<usize>() % 4;
    entries.push((9999, 7, padding as u32, vec![0; padding]));
    entries.push((1116, 4, count, numbers((0..count).collect())));
    let (mut index, mut store) = (Vec::new(), Vec::new());
    for (tag, kind, count, bytes) in &entries {
        index.extend([*tag, *kind, store.len() as u32, *count].into_iter().flat_map(u32::to_be_bytes));
        store.extend_from_slice(bytes);
    }
    [&(entries.len() as u32).to_be_bytes()[..], &(store.len() as u32).to_be_bytes(), &index, &store].concat()
}

/// A package of nothing but a name and a version, and `padding` bytes that no one reads.
fn simple(name: &str, padding: usize) -> Vec<u8> {
    header(&[(1000, name), (1001, "1"), (1002, "2"), (9998, &"x".repeat(padding))], &[])
}

/// Runs a script that finds `db` (a path) and `blobs` (name to bytes), and must leave files in `folder`.
fn python(folder: &TempDir, blobs: &[(&str, Vec<u8>)], script: &str) -> Option<()> {
    let mut whole = String::from("import sqlite3, os, shutil, sys\nblobs = {}\n");
    for (name, bytes) in blobs {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        whole.push_str(&format!("blobs['{name}'] = bytes.fromhex('{digits}')\n"));
    }
    whole.push_str(
        "db = 'db'\n\
         def create(connection):\n    \
             connection.execute(\"CREATE TABLE 'Packages' (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)\")\n\
         def add(connection, blob, hnum=None):\n    \
             connection.execute('INSERT INTO Packages VALUES (?, ?)', (hnum, blob))\n",
    );
    whole.push_str(script);
    std::fs::write(folder.path().join("script.py"), whole).unwrap();
    let output = Command::new("python3").arg("script.py").current_dir(folder.path()).output();
    let Ok(output) = output else {
        skip("tools", "there is no python3 to write databases with");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("No module named '_sqlite3'") {
        skip("tools", "python3 has no sqlite3");
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(())
}

fn file(folder: &TempDir, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).unwrap()
}

#[test]
fn every_tag_of_a_header_finds_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let blob = header(
        &[
            (1000, "perl-libs"),
            (1001, "5.26.3"),
            (1002, "422.el8"),
            (1003, "4"),
            (1011, "AlmaLinux"),
            (1014, "GPL+ or Artistic"),
            (1022, "x86_64"),
            (1044, "perl-5.26.3-422.el8.src.rpm"),
            (5011, "8"),
            (5096, "perl:5.26:8030020200430:ab12"),
        ],
        &[("/etc/", "os-release", sha256), ("/usr/lib/", "os-release", ""), ("/usr/share/doc/", "x.txt", sha256)],
    );
    let script = "c = sqlite3.connect(db); create(c); add(c, blobs['perl']); c.commit(); c.close()";
    let Some(()) = python(&folder, &[("perl", blob)], script) else { return };
    let fact = read(&file(&folder, "db"), None).unwrap();
    let [package] = fact.packages.as_slice() else { panic!("{fact:?}") };
    assert_eq!((package.name.as_str(), package.version.as_str()), ("perl-libs", "4:5.26.3-422.el8"));
    assert_eq!((package.arch.as_deref(), package.vendor.as_deref()), (Some("x86_64"), Some("AlmaLinux")));
    assert_eq!(package.licenses, ["GPL+ or Artistic"]);
    assert_eq!(package.module.as_deref(), Some("perl:5.26:8030020200430:ab12"));
    let source = package.source.as_ref().unwrap();
    assert_eq!((source.name.as_str(), source.version.as_str()), ("perl", "4:5.26.3-422.el8"));
    let [with, without] = fact.claims.as_slice() else { panic!("{fact:?}") };
    assert_eq!((with.path.as_slice(), with.package.as_str()), (&b"etc/os-release"[..], "perl-libs"));
    assert!(matches!(with.digest, Some(FileDigest::Sha256([0xe3, 0xb0, ..]))), "{with:?}");
    assert_eq!((without.path.as_slice(), without.digest.as_ref()), (&b"usr/lib/os-release"[..], None));
    assert_eq!(fact.warnings, [""; 0]);
}

#[test]
fn trees_and_overflow_chains_of_every_page_size_are_walked_whole() {
    for page in [512, 1024, 4096, 16384, 65536] {
        let folder = tempfile::tempdir().unwrap();
        let script = format!(
            "c = sqlite3.connect(db); c.execute('pragma page_size={page}'); create(c)\n\
             for n in range(600): add(c, blobs['p'].replace(b'NNN', b'%03d' % n) + b'\\0' * (n * 7), n * 3 + 1)\n\
             add(c, blobs['large']); c.commit()\n\
             c.execute('delete from Packages where hnum % 4 = 0'); c.commit()\n\
             for n in range(100): add(c, blobs['p'].replace(b'NNN', b'n%02d' % n), n * 12 + 4)\n\
             c.commit()\n\
             c.close()\n"
        );
        let blobs = [("p", simple("pNNN", 100)), ("large", simple("large", 300_000))];
        let Some(()) = python(&folder, &blobs, &script) else { return };
        let fact = read(&file(&folder, "db"), None).unwrap();
        let mut expected: Vec<_> = (0..600).filter(|n| (n * 3 + 1) % 4 != 0).map(|n| format!("p{n:03} 1-2")).collect();
        expected.extend((0..100).map(|n| format!("pn{n:02} 1-2")));
        expected.push("large 1-2".into());
        expected.sort();
        assert_eq!(listed(&fact), expected, "pages of {page}");
    }
}

/// What a log holds, in stages: what was committed first, more than one page, overwritten, removed, and uncommitted.
const STAGES: &str = "
c = sqlite3.connect(db); c.execute('pragma page_size=1024'); c.execute('pragma journal_mode=wal')
create(c); add(c, blobs['first']); c.commit(); c.execute('pragma wal_checkpoint(truncate)')
c.execute('pragma wal_autocheckpoint=0')
add(c, blobs['second']); c.commit(); shutil.copy('db', 'db1'); shutil.copy('db-wal', 'wal1')
c.execute('delete from Packages where hnum = 1'); add(c, blobs['third']); c.commit()
shutil.copy('db', 'db2'); shutil.copy('db-wal', 'wal2')
c.execute('pragma wal_checkpoint(restart)'); add(c, blobs['fourth']); c.commit()
shutil.copy('db', 'db3'); shutil.copy('db-wal', 'wal3')
c.execute('pragma cache_size=1'); c.execute('pragma cache_spill=1')
c.execute('begin')
for n in range(300): add(c, blobs['second'])
c.execute('pragma cache_spill')
shutil.copy('db', 'db4'); shutil.copy('db-wal', 'wal4')
";

fn stages() -> Option<TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let blobs = ["first", "second", "third", "fourth"].map(|name| (name, simple(name, 3000)));
    python(&folder, &blobs, STAGES).map(|()| folder)
}

#[test]
fn the_log_counts_as_far_as_it_is_committed() {
    let Some(folder) = stages() else { return };
    for (stage, with, without) in [
        (1, &["first 1-2", "second 1-2"][..], &["first 1-2"][..]),
        (2, &["second 1-2", "third 1-2"], &["first 1-2"]),
        // The log began anew and holds old frames behind the new ones.
        (3, &["fourth 1-2", "second 1-2", "third 1-2"], &["second 1-2", "third 1-2"]),
        // A transaction that is not committed lies in the log.
        (4, &["fourth 1-2", "second 1-2", "third 1-2"], &["second 1-2", "third 1-2"]),
    ] {
        let (main, wal) = (file(&folder, &format!("db{stage}")), file(&folder, &format!("wal{stage}")));
        assert_eq!(listed(&read(&main, Some(&wal)).unwrap()), with, "stage {stage} with its log");
        assert_eq!(listed(&read(&main, None).unwrap()), without, "stage {stage} without");
        assert_eq!(listed(&read(&main, Some(&[])).unwrap()), without, "stage {stage} with an empty log");
    }
    assert!(file(&folder, "wal4").len() > file(&folder, "wal3").len() + 100_000, "nothing uncommitted was written");
}

#[test]
fn a_log_that_was_changed_counts_up_to_the_change() {
    let Some(folder) = stages() else { return };
    let (main, wal) = (file(&folder, "db2"), file(&folder, "wal2"));
    let allowed = [vec!["first 1-2"], vec!["first 1-2", "second 1-2"], vec!["second 1-2", "third 1-2"]];
    let mut seen = [0; 3];
    for at in (0..wal.len()).step_by(11) {
        let mut wal = wal.clone();
        wal[at] ^= 0x10;
        for wal in [&wal[..], &wal[..at]] {
            let found = listed(&read(&main, Some(wal)).unwrap());
            let which = allowed.iter().position(|list| *list == found);
            seen[which.unwrap_or_else(|| panic!("byte {at}: {found:?}"))] += 1;
        }
    }
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
}

#[test]
fn a_database_cut_short_anywhere_is_an_error_and_never_a_shorter_list() {
    let Some(folder) = stages() else { return };
    let main = file(&folder, "db3");
    let whole = listed(&read(&main, None).unwrap());
    for length in 1..main.len() {
        match read(&main[..length], None) {
            Ok(fact) => assert!(fact.warnings.is_empty() && listed(&fact) == whole, "{length}"),
            Err(CatalogError::Malformed { .. }) => {}
            Err(error) => panic!("{length}: {error}"),
        }
    }
    assert!(read(&[], None).unwrap().is_empty(), "an empty file is a database without tables");
}

#[test]
fn a_changed_byte_anywhere_neither_panics_nor_takes_long() {
    let Some(folder) = stages() else { return };
    let main = file(&folder, "db3");
    let start = Instant::now();
    for at in 0..main.len() {
        for change in [0xff, 0x01, 0x80] {
            let mut main = main.clone();
            main[at] ^= change;
            let _ = read(&main, None);
        }
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// A database of pages of 512 bytes, whose schema names page 2 as the root of `Packages`.
fn crafted(pages: &[[u8; 512]]) -> Vec<u8> {
    let mut first = [0; 512];
    first[..16].copy_from_slice(b"SQLite format 3\0");
    first[16..18].copy_from_slice(&[2, 0]);
    first[56..60].copy_from_slice(&[0, 0, 0, 1]);
    let record = b"\x06\x17\x1d\x1d\x01\x0dtablePackagesPackages\x02";
    let cell = [&[record.len() as u8, 1], &record[..]].concat();
    let at = 512 - cell.len();
    first[100] = 13;
    first[103..105].copy_from_slice(&[0, 1]);
    first[108..110].copy_from_slice(&(at as u16).to_be_bytes());
    first[at..].copy_from_slice(&cell);
    [&first[..], pages.as_flattened()].concat()
}

/// A page of a tree: its kind, its cells' offsets, its right child, and what else is on it.
fn page(kind: u8, offsets: &[u16], right: u32, content: &[(usize, &[u8])]) -> [u8; 512] {
    let mut page = [0; 512];
    page[0] = kind;
    page[3..5].copy_from_slice(&(offsets.len() as u16).to_be_bytes());
    let array = if kind == 5 {
        page[8..12].copy_from_slice(&right.to_be_bytes());
        12
    } else {
        8
    };
    for (number, offset) in offsets.iter().enumerate() {
        page[array + number * 2..][..2].copy_from_slice(&offset.to_be_bytes());
    }
    for (at, bytes) in content {
        page[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    page
}

#[test]
fn pages_that_refer_to_themselves_or_nowhere_are_errors() {
    // A record of 1,000 bytes: 39 of them here, the rest in the chain that begins at the page behind.
    let chained = |next: u32| page(13, &[400], 0, &[(400, &[0x87, 0x68, 1]), (403 + 39, &next.to_be_bytes())]);
    let link = |next: u32| page(0, &[], 0, &[(0, &next.to_be_bytes())]);
    for (what, pages, said) in [
        ("a tree that is its own child", vec![page(5, &[], 2, &[])], "used twice"),
        ("two trees that are each other's child", vec![page(5, &[], 3, &[]), page(5, &[], 2, &[])], "used twice"),
        ("the schema as a child", vec![page(5, &[], 1, &[])], "used twice"),
        ("a child twice", vec![page(5, &[500, 500], 3, &[(500, &[0, 0, 0, 4])]), [0; 512], [0; 512]], "used twice"),
        ("a child beyond the end", vec![page(5, &[], 99, &[])], "page 99 of 2"),
        ("no child", vec![page(5, &[], 0, &[])], "page 0 of 2"),
        ("a cell beyond the page", vec![page(13, &[600], 0, &[])], "is malformed"),
        ("more cells than fit", vec![page(13, &[], 0, &[(3, &[0xff, 0xff])])], "is malformed"),
        ("one cell many times", vec![page(13, &[300; 100], 0, &[(300, &[100, 1])])], "is malformed"),
        ("an index", vec![page(2, &[], 0, &[])], "not of a table"),
        ("nothing", vec![[0; 512]], "not of a table"),
        ("a chain into its own leaf", vec![chained(2)], "used twice"),
        ("a chain that is a ring", vec![chained(3), link(3)], "used twice"),
        ("a chain that ends too soon", vec![chained(3), link(0)], "page 0 of 3"),
    ] {
        let error = read(&crafted(&pages), None).expect_err(what).to_string();
        assert!(error.contains(said), "{what}: {error}");
    }
    assert!(read(&crafted(&[page(13, &[], 0, &[])]), None).unwrap().is_empty());
}

#[test]
fn a_header_too_large_is_a_package_that_was_not_read() {
    // A record said to have a gigabyte.
    let leaf = page(13, &[300], 0, &[(300, &[0x84, 0x80, 0x80, 0x80, 0x00, 1])]);
    let error = read(&crafted(&[leaf]), None).unwrap_err().to_string();
    let expected = "1 of 1 packages could not be read: a package's header has 1073741824 bytes, more than the limit";
    assert!(error.ends_with(expected), "{error}");
}

#[test]
fn a_database_without_one_valid_header_is_an_error() {
    // Rows of two bytes that are no header.
    let row = |number: u8| [5, number, 3, 0, 0x10, 0xaa, 0xbb];
    let leaf = page(13, &[300, 320], 0, &[(300, &row(1)), (320, &row(2))]);
    let error = read(&crafted(&[leaf]), None).unwrap_err().to_string();
    assert!(error.contains("2 of 2 packages could not be read: a package's header is not valid"), "{error}");
}

/// A file of zeros, but for its first bytes.
struct Sparse {
    size: u64,
    front: Vec<u8>,
}

impl Source for Sparse {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        let count = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(buf.len()).min(buf.len());
        buf[..count].fill(0);
        let front = usize::try_from(offset).ok().and_then(|offset| self.front.get(offset..)).unwrap_or_default();
        let front = &front[..front.len().min(count)];
        buf[..front.len()].copy_from_slice(front);
        Ok(count)
    }
}

#[test]
fn sparse_files_of_a_tebibyte_are_refused_at_once() {
    let start = Instant::now();
    let sparse = |size, front: &[u8]| Sparse { size, front: front.to_vec() };
    let database = crafted(&[page(5, &[], 3, &[])]);
    for path in [
        &b"var/lib/dpkg/status"[..],
        b"var/lib/dpkg/status.d/base",
        b"var/lib/dpkg/info/base.md5sums",
        b"lib/apk/db/installed",
        b"etc/os-release",
        b"var/lib/rpm/rpmdb.sqlite",
        b"var/lib/rpm/Packages",
        b"var/lib/rpm/Packages.db",
        b"var/lib/rpmmanifest/container-manifest-2",
    ] {
        for front in [&b""[..], b"Package: a\n", &database] {
            let source = sparse(1 << 40, front);
            let cataloger = catalog::ALL.iter().find(|cataloger| cataloger.wants(path) != catalog::Want::No).unwrap();
            let result = cataloger.read(&Evidence { path, source: &source, companions: &[] });
            assert!(result.is_err(), "{}", path.escape_ascii());
        }
    }
    let small = crafted(&[page(13, &[], 0, &[])]);
    let wal = sparse(1 << 40, b"");
    assert!(matches!(read_sources(&small.as_slice(), Some(&wal)), Err(CatalogError::TooLarge { .. })));
    // Within the limit it is read as far as it makes sense.
    assert!(matches!(read_sources(&sparse(1 << 30, &database), None), Err(CatalogError::Malformed { .. })));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn garbage_is_an_error() {
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for length in [1, 99, 100, 512, 4096, 100_000] {
        let mut bytes: Vec<_> = (0..length).map(|_| random()).collect();
        assert!(read(&bytes, Some(&bytes)).is_err(), "{length}");
        // With a header that is right, so that the rest is looked at.
        let valid = crafted(&[]);
        let count = bytes.len().min(100);
        bytes[..count].copy_from_slice(&valid[..count]);
        assert!(read(&bytes, None).is_err(), "{length}");
    }
}
