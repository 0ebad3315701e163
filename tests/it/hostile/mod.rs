//! Hostile images: every attack costs only the evidence that contains it.
//!
//! Each scan runs with half a gibibyte of address space and a minute of processor time for each of its processes, in a control
//! group with a memory limit, so that unbounded work fails and is not merely slow.

mod archives;
mod databases;
mod languages;
mod rpm;
mod table;
mod trees;

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::control_group::Group;
use crate::skip::skip;
use crate::support::Method::{Deflated, Stored};
use crate::support::zip;
use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use serde_json::Value;

const STATUS: &str = "var/lib/dpkg/status";

/// The memory of a scan's control group, bytes: for the program, its worker, and what the kernel keeps of their files.
const LIMIT: u64 = 640 << 20;

/// An image's tree with one Debian package and one of npm, which every scan must list. It may have further layers above.
struct Image {
    dir: tempfile::TempDir,
    /// Number of layers above the tree.
    upper: AtomicUsize,
}

impl Image {
    fn new() -> Self {
        let image = Self { dir: tempfile::tempdir().unwrap(), upper: AtomicUsize::new(0) };
        image.put("etc/os-release", "ID=debian\nVERSION_ID=12\n");
        image.put(STATUS, status("bash", "5.2-1"));
        image.put("srv/good/package.json", r#"{"name":"good","version":"1.0.0"}"#);
        image
    }

    /// The root of a new layer above all others.
    fn add_layer(&self) -> PathBuf {
        let root = self.dir.path().join(format!("layer-{}", self.upper.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&root).unwrap();
        root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        write(&self.at(path), bytes);
    }

    /// A file of a tebibyte that begins with `head` and is a hole to its last byte.
    fn sparse(&self, path: &str, head: &[u8]) {
        self.put(path, head);
        let file = File::options().write(true).open(self.at(path)).unwrap();
        file.write_all_at(b"x", (1 << 40) - 1).unwrap();
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What a scan says of it, after checking that what nobody tampered with is listed.
    fn scan(&self) -> Seen {
        let (seen, _) = self.measure(&["--packages"]);
        assert!(seen.packages().contains(&"good 1.0.0".to_owned()), "{:#}", seen.0);
        seen
    }

    /// Returns the report of a scan with these arguments, and the peak memory of the program itself, bytes.
    fn measure(&self, arguments: &[&str]) -> (Seen, u64) {
        let group = Group::new(LIMIT);
        if group.is_none() {
            static SKIPPED: OnceLock<()> = OnceLock::new();
            SKIPPED.get_or_init(|| skip("root", "limiting the memory of each scan in a control group"));
        }
        let out = self.dir.path().join("out");
        let said = self.dir.path().join("said");
        let mut command = group.as_ref().map_or_else(|| Command::new("prlimit"), |group| group.command("prlimit"));
        let outcrop = env!("CARGO_BIN_EXE_outcrop");
        command.args(["--as=536870912", "--cpu=60", outcrop, "scan", "--output", "json"]).args(arguments);
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&said).unwrap());
        let upper = self.upper.load(Ordering::Relaxed);
        if upper == 0 {
            command.arg("--rootfs").arg(self.at(""));
        } else {
            let mut layers: Vec<_> =
                (0..upper).rev().map(|number| self.dir.path().join(format!("layer-{number}"))).collect();
            layers.push(self.at(""));
            command.arg("--layers").arg(std::env::join_paths(layers).unwrap());
        }
        let mut child = command.spawn().unwrap();
        let (pid, mut peak) = (child.id(), 0);
        // The kernel forgets it with the process, and rusage counts the worker with it.
        let status = loop {
            peak = peak.max(memory(pid));
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let read = |path: &Path| {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        assert!(status.success(), "{status}: {}", read(&said));
        assert_eq!(group.as_ref().map_or(0, Group::kills), 0, "a process took too much memory");
        let report: Value = serde_json::from_str(&read(&out)).unwrap();
        (Seen(report["targets"][0].clone()), peak)
    }
}

/// The most memory that a process has had, bytes, since it became this program.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() << 10
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A target of the report.
struct Seen(Value);

impl Seen {
    /// `name version` of each package, sorted.
    fn packages(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = self.0["packages"].as_array().unwrap();
        let mut names: Vec<_> =
            list.iter().map(|package| format!("{} {}", text(&package["name"]), text(&package["version"]))).collect();
        names.sort();
        names
    }

    /// The messages about `path`.
    fn warnings(&self, path: &str) -> impl Iterator<Item = &str> {
        let about = self.0["warnings"].as_array().unwrap().iter().filter(move |warning| warning["path"] == path);
        about.map(|warning| warning["message"].as_str().unwrap())
    }

    /// The first message about `path`; panics where there is none.
    fn warning(&self, path: &str) -> &str {
        let first = self.warnings(path).next();
        first.unwrap_or_else(|| panic!("no warning about {path} in {:#?}", self.0["warnings"]))
    }

    fn assert_state(&self, state: &str) {
        assert_eq!(self.0["coverage"]["state"], state, "{}", self.0["coverage"]);
    }
}

fn status(name: &str, version: &str) -> String {
    format!("Package: {name}\nStatus: install ok installed\nVersion: {version}\n")
}

const INTACT: [&str; 2] = ["bash 5.2-1", "good 1.0.0"];

#[test]
fn symlinks_lead_nowhere_outside_of_the_root() {
    let image = Image::new();
    let outside = image.dir.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("status"), status("stolen", "1")).unwrap();
    fs::write(outside.join("package.json"), r#"{"name":"stolen","version":"1.0.0"}"#).unwrap();
    let up = "../".repeat(40);
    fs::remove_file(image.at(STATUS)).unwrap();
    symlink(format!("{up}{}", outside.join("status").display()), image.at(STATUS)).unwrap();
    fs::create_dir_all(image.at("srv/link")).unwrap();
    symlink(outside.join("package.json"), image.at("srv/link/package.json")).unwrap();
    symlink(&outside, image.at("srv/outside")).unwrap();
    symlink("../../outside", image.at("srv/beside")).unwrap();
    symlink("/proc/self/root", image.at("srv/proc")).unwrap();
    assert_eq!(image.scan().packages(), ["good 1.0.0"]);
}

#[test]
fn loops_of_symlinks_end() {
    let image = Image::new();
    fs::remove_file(image.at(STATUS)).unwrap();
    symlink("status-old", image.at(STATUS)).unwrap();
    symlink("status", image.at("var/lib/dpkg/status-old")).unwrap();
    symlink("/srv", image.at("srv/again")).unwrap();
    symlink(".", image.at("srv/self")).unwrap();
    let seen = image.scan();
    assert_eq!(seen.packages(), ["good 1.0.0"]);
    assert_eq!(seen.warning("/var/lib/dpkg/status"), "the symbolic links form a loop");
    seen.assert_state("partial");
}

#[test]
fn a_directory_of_a_hundred_thousand_entries_with_the_longest_names_is_walked() {
    let image = Image::new();
    fs::create_dir_all(image.at("srv/wide")).unwrap();
    for number in 0..100_000 {
        File::create(image.at("srv/wide").join(format!("{number:0>255}"))).unwrap();
    }
    let last = format!("srv/{}/package.json", "n".repeat(255));
    image.put(&last, r#"{"name":"last","version":"1.0.0"}"#);
    let seen = image.scan();
    assert_eq!(seen.packages(), ["bash 5.2-1", "good 1.0.0", "last 1.0.0"]);
    seen.assert_state("scanned");
}

#[test]
fn what_lies_deeper_than_path_max_is_read_or_said_not_to_be() {
    let image = Image::new();
    let directory = |at: &OwnedFd, name: &str| {
        mkdirat(at, name, Mode::RWXU).unwrap();
        openat(at, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let put = |at: &OwnedFd, name: &str| {
        let file = openat(at, "package.json", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RWXU).unwrap();
        let text = format!(r#"{{"name":"{name}","version":"1.0.0"}}"#);
        rustix::io::write(&file, text.as_bytes()).unwrap();
    };
    let mut at = openat(CWD, image.at("srv"), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let name = "d".repeat(200);
    for _ in 0..19 {
        at = directory(&at, &name);
    }
    put(&at, "almost");
    for _ in 0..3 {
        at = directory(&at, &name);
    }
    put(&at, "beyond");
    for _ in 0..2000 {
        at = directory(&at, "d");
    }
    put(&at, "abyss");
    let seen = image.scan();
    assert!(seen.packages().contains(&"almost 1.0.0".to_owned()), "{:?}", seen.packages());
    assert!(seen.packages().contains(&"bash 5.2-1".to_owned()), "{:?}", seen.packages());
    if seen.packages().len() < 5 {
        seen.assert_state("partial");
        assert!(!seen.0["warnings"].as_array().unwrap().is_empty());
    }
}

#[test]
fn names_inside_archives_may_be_longer_than_any_path() {
    let image = Image::new();
    let pom = b"groupId=g\nartifactId=inner\nversion=1.0.0\n";
    let long = format!("META-INF/maven/{}/pom.properties", "a/".repeat(30_000));
    let jar = zip(&[(&long, pom, Deflated), ("META-INF/maven/g/inner/pom.properties", pom, Deflated)]);
    let nested = format!("{}.jar", "j".repeat(60_000));
    let out = ("../../../../etc/os-release", &b"ID=evil"[..], Stored);
    image.put("srv/app.jar", zip(&[(&nested, &jar, Stored), out, ("lib/inner.jar", &jar, Stored)]));
    let seen = image.scan();
    assert_eq!(seen.packages(), ["bash 5.2-1", "g:inner 1.0.0", "good 1.0.0"]);
    assert!(seen.warning("/srv/app.jar").contains("bytes in a path"));
}

#[test]
fn evidence_of_a_tebibyte_is_refused_unread() {
    let image = Image::new();
    let magic = b"SQLite format 3\0\x10\0\x01\x01\0\x40\x20\x20";
    let evidence: [(&str, &[u8]); 7] = [
        ("var/lib/dpkg/status", b"Package: bash\nStatus: install ok installed\nVersion: 1\n"),
        ("lib/apk/db/installed", b"P:musl\nV:1\n\n"),
        ("var/lib/rpm/rpmdb.sqlite", magic),
        ("srv/package.json", b"{"),
        ("srv/x-1.dist-info/METADATA", b"Name: x\nVersion: 1\n"),
        ("srv/x.jar", b"PK\x03\x04"),
        ("usr/bin/program", b"\x7fELF\x02\x01\x01"),
    ];
    for (path, head) in evidence {
        image.sparse(path, head);
    }
    let seen = image.scan();
    for path in ["/var/lib/dpkg/status", "/lib/apk/db/installed", "/var/lib/rpm/rpmdb.sqlite", "/srv/package.json"] {
        assert!(!seen.warning(path).is_empty());
    }
    seen.assert_state("partial");
}

#[test]
fn lying_formats_cost_their_own_evidence() {
    let image = Image::new();
    // A status file of noise that has one field, and one package between.
    let noise: Vec<u8> = (0_u32..1 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
    image.put(STATUS, [&noise[..], b"\n\n", status("bash", "5.2-1").as_bytes(), b"\n", &noise[..1000]].concat());
    // Headers whose offsets and counts point beyond the file.
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    elf.extend([0xff; 40]);
    image.put("usr/bin/elf", &elf);
    fs::set_permissions(image.at("usr/bin/elf"), fs::Permissions::from_mode(0o755)).unwrap();
    let mut sqlite = b"SQLite format 3\0\x10\0\x01\x01\0\x40\x20\x20".to_vec();
    sqlite.extend([0xff; 5000]);
    image.put("var/lib/rpm/rpmdb.sqlite", &sqlite);
    // The end of a zip archive, of a directory at an offset and with a size and a count that are not there.
    let mut end = b"PK\x05\x06\0\0\0\0".to_vec();
    end.extend([0xff; 12]);
    end.extend([0, 0]);
    image.put("srv/lying.jar", &end);
    image.put("srv/deep/package.json", "[".repeat(100_000));
    image.put(
        "srv/deeper/package.json",
        format!(r#"{{"name":"deep","version":"1.0.0","x":{}"#, "{\"a\":".repeat(100_000)),
    );
    let seen = image.scan();
    assert!(INTACT.iter().all(|name| seen.packages().contains(&(*name).to_owned())), "{:?}", seen.packages());
    assert!(!seen.warning("/var/lib/rpm/rpmdb.sqlite").is_empty());
    assert!(!seen.warning("/srv/lying.jar").is_empty());
    seen.assert_state("partial");
}

#[test]
fn bombs_in_bombs_are_not_inflated() {
    let image = Image::new();
    let zeros = vec![0; 64 << 20];
    let mut bomb = zip(&[("META-INF/maven/g/a/pom.properties", &zeros, Deflated), ("a.jar", &zeros, Deflated)]);
    for _ in 0..8 {
        bomb = zip(&[("a.jar", &bomb, Deflated), ("b.jar", &bomb, Deflated), ("c.jar", &bomb, Deflated)]);
    }
    image.put("srv/bomb.jar", &bomb);
    let seen = image.scan();
    assert!(INTACT.iter().all(|name| seen.packages().contains(&(*name).to_owned())), "{:?}", seen.packages());
    assert!(!seen.warning("/srv/bomb.jar").is_empty());
}

#[test]
fn nothing_but_regular_files_is_opened() {
    for kind in [FileType::Fifo, FileType::Socket, FileType::CharacterDevice] {
        let image = Image::new();
        fs::remove_file(image.at(STATUS)).unwrap();
        // The device is /dev/zero, which a whiteout (device 0) is not.
        let device = if kind == FileType::CharacterDevice { rustix::fs::makedev(1, 5) } else { 0 };
        mknodat(CWD, image.at(STATUS), kind, Mode::RWXU, device).unwrap();
        fs::create_dir_all(image.at("srv/other")).unwrap();
        mknodat(CWD, image.at("srv/other/package.json"), kind, Mode::RWXU, device).unwrap();
        let seen = image.scan();
        assert_eq!(seen.packages(), ["good 1.0.0"], "{kind:?}");
        assert_eq!(seen.warning("/var/lib/dpkg/status"), "not a regular file");
        seen.assert_state("partial");
    }
}

#[test]
fn a_database_replaced_while_it_is_read_is_one_or_the_other_or_said_to_be_unread() {
    let image = Image::new();
    let many = |version: &str| (0..2000).map(|n| status(&format!("p{n}"), version) + "\n").collect::<String>();
    let texts = [many("1"), many("2")];
    image.put(STATUS, &texts[0]);
    image.put("var/lib/dpkg/status.d/torn", &texts[0]);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // By rename, as package managers do; and another file in place, as nobody should.
            for turn in 0_usize.. {
                let next = image.at("var/lib/dpkg/status-new");
                fs::write(&next, &texts[turn % 2]).unwrap();
                fs::rename(&next, image.at(STATUS)).unwrap();
                fs::write(image.at("var/lib/dpkg/status.d/torn"), &texts[turn % 2]).unwrap();
                if ended.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        for _ in 0..20 {
            let seen = image.scan();
            let whole = seen.0["packages"].as_array().unwrap().iter().filter(|package| {
                let evidence = package["evidence"].as_array().unwrap();
                evidence.iter().any(|path| path == "/var/lib/dpkg/status")
            });
            let versions: Vec<_> = whole.map(|package| package["version"].as_str().unwrap()).collect();
            assert_eq!(versions.len(), 2000);
            assert!(versions.iter().all(|version| *version == versions[0]), "a mixture of two databases");
        }
        ended.store(true, Ordering::Relaxed);
    });
}
