//! Workers: the cage stops every forbidden action, a parser's death costs one path, and the inventory of a layer matches its
//! content.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use outcrop_agent::scan::{LayerPlace, Scanner, StackPlace};
use outcrop_agent::worker::{Landlock, Program};
use outcrop_proto::CoverageState;
use overlayfs_reader::{Layer, MarkNamespace};

use crate::skip::skip;

fn program() -> Program {
    Program::at(env!("CARGO_BIN_EXE_outcrop-agent"))
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("root", "layers of root");
    }
    root
}

fn status(names: &[&str]) -> String {
    names.iter().map(|name| format!("Package: {name}\nStatus: install ok installed\nVersion: 1-1\n\n")).collect()
}

fn stack(layers: &[&Path]) -> StackPlace {
    StackPlace {
        layers: layers.iter().map(|root| LayerPlace { id: None, root: root.to_path_buf() }).collect(),
        marks: MarkNamespace::Trusted,
        upper: None,
        mounted: None,
    }
}

#[test]
fn every_forbidden_act_is_stopped_and_no_other_layer_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/file", "b/file", "upper/file", "bundle/config.json"] {
        write(dir.path(), name, "secret");
    }
    let outside = ["b/file", "upper/file", "bundle/config.json", "a/../b/file"]
        .map(|name| (name.to_owned(), dir.path().join(name).into_os_string().into_encoded_bytes()));
    let layer = Layer::open(&dir.path().join("a")).unwrap();
    let (started, attempts) = program().selftest(layer.as_fd(), outside.to_vec()).unwrap();
    if started.cage.landlock == Landlock::Missing {
        skip("kernel", "this kernel has no Landlock");
        return;
    }
    let passed: Vec<_> = attempts.iter().filter(|attempt| attempt.stopped_by.is_none()).collect();
    assert!(passed.is_empty(), "not stopped: {passed:?}");
    // Not by accident either: each by one of the barriers that are there for it.
    for attempt in &attempts {
        let by = attempt.stopped_by.as_deref().unwrap();
        let barriers = ["seccomp (EPERM)", "Landlock (EACCES)", "capabilities (EPERM)", "lookup beneath"];
        assert!(barriers.iter().any(|barrier| by.starts_with(barrier)), "{}: {by}", attempt.act);
    }
    assert!(attempts.len() > 45, "only {} acts were tried", attempts.len());
}

#[test]
fn a_layer_is_read_and_its_stack_merged_by_overlay_rules() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    write(&base, "usr/lib/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    fs::create_dir_all(base.join("etc")).unwrap();
    symlink("../usr/lib/os-release", base.join("etc/os-release")).unwrap();
    write(&base, "var/lib/dpkg/status", status(&["bash", "curl"]));
    write(&base, "srv/app/node_modules/x/package.json", r#"{"name":"x","version":"1.0.0"}"#);
    write(&top, "var/lib/dpkg/status", status(&["bash", "vim"]));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        {
            fs::create_dir_all(top.join("srv")).unwrap();
            top.join("srv/app")
        },
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        0,
    )
    .unwrap();
    let scanned = Scanner::new(program()).scan(&stack(&[&top, &base])).unwrap();
    assert_eq!(scanned.coverage.state, CoverageState::Scanned, "{:?}", scanned.coverage);
    assert_eq!(scanned.merged.distribution.unwrap().version_id, "12");
    let found: Vec<_> =
        scanned.merged.packages.iter().map(|package| (package.package.name.as_str(), package.layer)).collect();
    assert_eq!(found, [("bash", 1), ("vim", 0)]);
}

#[test]
fn a_database_reached_through_another_layers_symlink_is_read_on_the_stack() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    write(&base, "data/dpkg/status", status(&["bash"]));
    fs::create_dir_all(top.join("var/lib")).unwrap();
    symlink("/data/dpkg", top.join("var/lib/dpkg")).unwrap();
    let scanned = Scanner::new(program()).scan(&stack(&[&top, &base])).unwrap();
    assert_eq!(scanned.merged.packages.len(), 1, "{scanned:?}");
    assert_eq!(scanned.merged.packages[0].layer, 1);
}

#[test]
fn an_unreadable_database_makes_the_stack_partial_and_keeps_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "var/lib/dpkg/status", b"\x7fELF\x00 this is no status file");
    write(dir.path(), "app/package.json", r#"{"name":"x","version":"1.0.0"}"#);
    fs::set_permissions(dir.path().join("app"), fs::Permissions::from_mode(0o700)).unwrap();
    let scanned = Scanner::new(program()).scan(&stack(&[dir.path()])).unwrap();
    assert_eq!(scanned.coverage.state, CoverageState::Partial);
    assert!(scanned.coverage.reason.contains("/var/lib/dpkg/status"), "{}", scanned.coverage.reason);
    assert_eq!(scanned.merged.packages.len(), 1);
}

#[test]
fn evidence_of_too_many_packages_costs_itself_and_not_the_layer() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "var/lib/dpkg/status", status(&["bash"]));
    write(dir.path(), "app/package.json", r#"{"name":"x","version":"1.0.0"}"#);
    for file in 0..4 {
        let stanzas = (0..25_000).map(|number| format!("Package: p{file}x{number}\nVersion: 1\n\n"));
        write(dir.path(), &format!("var/lib/dpkg/status.d/p{file}"), stanzas.collect::<String>());
    }
    let scanned = Scanner::new(program()).scan(&stack(&[dir.path()])).unwrap();
    assert_eq!(scanned.coverage.state, CoverageState::Partial);
    assert!(scanned.coverage.reason.contains("status.d/p"), "{}", scanned.coverage.reason);
    let has = |name: &str| scanned.merged.packages.iter().any(|package| package.package.name == name);
    assert!(has("bash") && has("x"), "what is small is read");
    let read = (0..4).filter(|file| has(&format!("p{file}x0"))).count();
    assert_eq!((read, scanned.merged.failed.len()), (2, 2));
}

/// Pages of a file that are in the page cache.
fn cached_pages(path: &Path) -> u64 {
    let output = std::process::Command::new("fincore").args(["--noheadings", "--output", "PAGES"]).arg(path).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn reading_leaves_the_page_cache_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let big = status(&["bash"]) + &"x".repeat(1 << 20);
    for name in ["probe", "cold", "hot"] {
        write(dir.path(), &format!("{name}/var/lib/dpkg/status"), &big);
    }
    let at = |name: &str| dir.path().join(name).join("var/lib/dpkg/status");
    for name in ["cold", "hot", "probe"] {
        let file = fs::File::open(at(name)).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut bytes = [0; 16];
        let mut some = [std::io::IoSliceMut::new(&mut bytes)];
        let flag = rustix::io::ReadWriteFlags::from_bits_retain(0x80);
        if cached_pages(&at(name)) > 0 || name == "probe" && rustix::io::preadv2(&file, &mut some, 0, flag).is_err() {
            skip("kernel", "this kernel or filesystem does not know RWF_DONTCACHE");
            return;
        }
    }
    fs::read(at("hot")).unwrap();
    let hot = cached_pages(&at("hot"));
    assert!(hot >= 256, "{hot} pages of the hot file are cached");
    for name in ["cold", "hot"] {
        let scanned = Scanner::new(program()).scan(&stack(&[&dir.path().join(name)])).unwrap();
        assert_eq!(scanned.merged.packages.len(), 1, "{scanned:?}");
    }
    assert_eq!(cached_pages(&at("hot")), hot, "what was hot stays");
    assert!(cached_pages(&at("cold")) < 16, "{} pages of the cold file stay", cached_pages(&at("cold")));
}
