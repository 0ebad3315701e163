//! Hostile evidence: it costs only itself, with an error or a warning, in bounded time and memory, and never a panic.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use outcrop_agent::catalog::{CatalogError, Source};

use super::golang::{MODULES, program, shapes};
use super::support::Method::{Deflated, Stored};
use super::support::{listed, read, zip};

/// Generous for a debug build on a busy machine; what it guards against takes hours.
const PATIENCE: Duration = Duration::from_secs(60);

fn pom(artifact: &str) -> String {
    format!("groupId=org.x\nartifactId={artifact}\nversion=1.0\n")
}

/// Says that it has `size` bytes; those beyond `head` are zero. Counts what is read of it.
struct Sparse<'h> {
    head: &'h [u8],
    size: u64,
    read: Cell<u64>,
}

impl Source for Sparse<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let count = buf.len().min(usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX));
        buf[..count].fill(0);
        let _ = self.head.read_at(offset, &mut buf[..count])?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

#[test]
fn a_source_of_a_tebibyte_is_hardly_read() {
    let elf = program(shapes().next().unwrap(), "go1.20", MODULES);
    for (name, path, head) in [
        ("python", "a.dist-info/METADATA", &b"Name: x\n"[..]),
        ("python", "a.egg-info", b""),
        ("python", "a.egg", b"PK"),
        ("npm", "package.json", b"{"),
        ("java", "a.jar", b"PK\x03\x04"),
        ("golang", "usr/bin/x", b"\x7fELF\x02\x01\x01"),
        ("golang", "usr/bin/x", &elf),
    ] {
        for size in [1 << 40, u64::MAX] {
            let source = Sparse { head, size, read: Cell::new(0) };
            let started = Instant::now();
            let _ = read(name, path, &source);
            assert!(source.read.get() <= 4 << 20, "{name} {path}: {} bytes", source.read.get());
            assert!(started.elapsed() < PATIENCE, "{name} {path}");
        }
    }
}

#[test]
fn a_source_that_shrank_since_it_was_opened_is_survived() {
    /// Has fewer bytes than it says.
    struct Shrunk<'b>(&'b [u8], u64);
    impl Source for Shrunk<'_> {
        fn size(&self) -> u64 {
            self.1
        }
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read_at(offset, buf)
        }
    }
    let jar = zip(&[("META-INF/maven/pom.properties", pom("a").as_bytes(), Stored), ("x.class", b"x", Stored)]);
    for (name, path, bytes) in [
        ("npm", "package.json", &br#"{"name":"a","version":"1"}"#[..]),
        ("python", "a.egg-info", b"Name: a\nVersion: 1\n"),
        ("java", "a.jar", &jar),
        ("golang", "a", &program(shapes().next().unwrap(), "go1.20", MODULES)),
    ] {
        for size in [bytes.len() as u64 + 1, 1 << 20] {
            for cut in [0, bytes.len() / 2, bytes.len()] {
                let _ = read(name, path, &Shrunk(&bytes[..cut], size));
            }
        }
    }
}

#[test]
fn an_archive_cut_short_anywhere_lists_nothing_that_it_does_not_hold() {
    let inner = zip(&[("META-INF/maven/pom.properties", pom("inner").as_bytes(), Deflated)]);
    let jar = zip(&[
        ("META-INF/MANIFEST.MF", b"Implementation-Version: 3\n", Deflated),
        ("META-INF/maven/pom.properties", pom("outer").as_bytes(), Deflated),
        ("lib/inner.jar", &inner, Stored),
        ("lib/inner2.jar", &inner, Deflated),
    ]);
    let whole = listed(&read("java", "app/outer.jar", &jar.as_slice()).unwrap());
    assert_eq!(whole, ["org.x:inner 1.0", "org.x:outer 1.0"]);
    for length in 0..jar.len() {
        if let Ok(fact) = read("java", "app/outer.jar", &&jar[..length]) {
            assert!(listed(&fact).iter().all(|package| whole.contains(package)), "{length}");
        }
    }
}

#[test]
fn any_byte_of_an_archive_may_lie() {
    let inner = zip(&[("META-INF/maven/pom.properties", pom("inner").as_bytes(), Deflated)]);
    let jar = zip(&[
        ("META-INF/MANIFEST.MF", b"Implementation-Version: 3\n", Deflated),
        ("lib/inner.jar", &inner, Stored),
        ("lib/inner2.jar", &inner, Deflated),
        ("x.class", b"x", Stored),
    ]);
    let egg = zip(&[("EGG-INFO/PKG-INFO", b"Name: a\nVersion: 1\n", Deflated)]);
    for (name, path, bytes) in [("java", "app/outer.jar", &jar), ("python", "a.egg", &egg)] {
        let mut bytes = bytes.clone();
        for at in 0..bytes.len() {
            let original = bytes[at];
            for lie in [0, 0x7f, 0xff, original ^ 1, original ^ 0x80] {
                bytes[at] = lie;
                let _ = read(name, path, &bytes.as_slice());
            }
            bytes[at] = original;
        }
    }
}

#[test]
fn any_byte_of_a_program_may_lie_and_any_be_missing() {
    for shape in shapes() {
        let mut bytes = program(shape, "go1.17.1", MODULES);
        for at in 0..bytes.len() {
            let original = bytes[at];
            for lie in [0, 0x7f, 0xff, original ^ 1] {
                bytes[at] = lie;
                let _ = read("golang", "usr/bin/x", &bytes.as_slice());
            }
            bytes[at] = original;
            let _ = read("golang", "usr/bin/x", &&bytes[..at]);
        }
    }
}

#[test]
fn a_bomb_is_neither_inflated_where_it_is_not_wanted_nor_beyond_the_bounds_where_it_is() {
    let zeros = vec![0; 33 << 20];
    let started = Instant::now();
    let jar = zip(&[
        ("big.bin", &zeros[..4 << 20], Deflated),
        ("META-INF/maven/pom.properties", &zeros[..4 << 20], Deflated),
        ("META-INF/MANIFEST.MF", &zeros[..4 << 20], Deflated),
        ("lib/bomb-1.0.jar", &zeros, Deflated),
        ("lib/fine.jar", &zip(&[("pom.properties", pom("fine").as_bytes(), Deflated)]), Deflated),
    ]);
    let fact = read("java", "app/x.jar", &jar.as_slice()).unwrap();
    assert_eq!(listed(&fact), ["bomb:bomb 1.0", "org.x:fine 1.0"], "what is too large is still named by its file");
    assert!(
        fact.warnings.iter().any(|warning| warning.starts_with("lib/bomb-1.0.jar: more bytes")),
        "{:?}",
        fact.warnings
    );
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn bombs_in_bombs_end_at_the_depth_and_at_the_work_for_one_evidence() {
    // Sixteen copies in each of twenty levels: 16^20 archives if nothing stopped it.
    let mut bomb = zip(&[("x.class", b"x", Stored)]);
    for _ in 0..20 {
        let names: Vec<_> = (0..16).map(|copy| format!("{copy}.jar")).collect();
        let entries: Vec<_> = names.iter().map(|name| (name.as_str(), bomb.as_slice(), Deflated)).collect();
        bomb = zip(&entries);
    }
    let started = Instant::now();
    let fact = read("java", "bomb.jar", &bomb.as_slice()).unwrap();
    assert!(fact.warnings.len() <= 51, "{}", fact.warnings.len());
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
}

#[test]
fn archives_nest_sixteen_deep_stored_or_deflated() {
    for method in [Stored, Deflated] {
        for (levels, found) in [(15, true), (16, false), (40, false)] {
            let mut jar = zip(&[("pom.properties", pom("deep").as_bytes(), Deflated)]);
            for _ in 0..levels {
                jar = zip(&[("in.jar", &jar, method)]);
            }
            let fact = read("java", "a.jar", &jar.as_slice()).unwrap();
            assert_eq!(listed(&fact).is_empty(), !found, "{levels} levels");
            assert_eq!(fact.warnings.is_empty(), found, "{:?}", fact.warnings);
        }
    }
}

#[test]
fn a_jar_without_identity_is_unidentified_by_the_digest_of_its_bytes() {
    let inner = zip(&[("x.class", b"x", Stored)]);
    let jar = zip(&[("lib/inner.jar", &inner, Deflated), ("y.class", b"y", Stored)]);
    let fact = read("java", "opt/app.jar", &jar.as_slice()).unwrap();
    assert!(fact.packages.is_empty());
    let mut unidentified: Vec<_> = fact.unidentified.iter().map(|one| (one.inner.as_str(), one.sha256)).collect();
    unidentified.sort();
    assert_eq!(unidentified, [("", sha256(&jar)), ("lib/inner.jar", sha256(&inner))]);
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

#[test]
fn counts_without_end_are_refused_or_cut() {
    let started = Instant::now();
    let many: Vec<_> = (0..30_000).map(|at| format!("{at}/pom.properties")).collect();
    let entries: Vec<_> = many.iter().map(|name| (name.as_str(), &b""[..], Stored)).collect();
    let fact = read("java", "a.jar", &zip(&entries).as_slice()).unwrap();
    assert!(
        fact.warnings.iter().any(|warning| warning.contains("nested archives and manifests")),
        "{:?}",
        fact.warnings
    );

    let mut modules = String::new();
    for at in 0..50_000 {
        writeln!(modules, "dep\ta.org/{at}\tv1").unwrap();
    }
    let program = program(shapes().last().unwrap(), "go1.20", &modules);
    assert!(listed(&read("golang", "x", &program.as_slice()).unwrap()).len() <= 20_001);

    let licenses = "\"MIT\",".repeat(100_000);
    let json = format!(r#"{{"name":"a","version":"1","license":[{licenses}"x"]}}"#);
    assert!(read("npm", "package.json", &json.as_bytes()).unwrap().packages[0].licenses.len() <= 16);
    assert!(started.elapsed() < PATIENCE);
}

#[test]
fn a_file_that_is_no_archive_is_malformed_where_its_name_promised_one() {
    for path in ["a.jar", "a.war", "a.hpi"] {
        let result = read("java", path, &&b"no archive"[..]);
        assert!(matches!(result, Err(CatalogError::Malformed { .. })), "{path}");
    }
    // RAR archives and others share these.
    for path in ["a.rar", "a.par", "a.zap"] {
        assert!(read("java", path, &&b"Rar!\x1a\x07"[..]).unwrap().is_empty(), "{path}");
    }
}
