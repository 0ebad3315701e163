//! `outcrop scan` beside a real containerd: the machine's, or the one that `OUTCROP_CONTAINERD_BIN` names.
//!
//! Needs root, containerd with `ctr` and shim, runc, cc, tar, strace and setpriv; where containerd cannot be started each
//! test says so and passes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::runtime_parts::Containerd;
use crate::runtime_parts::image::{Image, Layer, build_with};
use serde_json::{Value, json};

const OUTCROP: &str = env!("CARGO_BIN_EXE_outcrop");

const OS_RELEASE: (&str, &str) = ("etc/os-release", "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian 12\"\n");

/// A base with a package database and two applications; layers above replace the database, remove one application with a
/// whiteout and empty the directory of the other with an opaque mark.
const BASE: Layer<'static> = &[
    OS_RELEASE,
    ("var/lib/dpkg/status", "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n"),
    ("srv/removed/package.json", r#"{"name":"removed","version":"1.0.0"}"#),
    ("srv/emptied/a/package.json", r#"{"name":"emptied","version":"1.0.0"}"#),
    ("srv/kept/package.json", r#"{"name":"kept","version":"1.0.0"}"#),
];
const MIDDLE: Layer<'static> = &[
    (
        "var/lib/dpkg/status",
        "Package: bash\nStatus: install ok installed\nVersion: 5.2-1\n\nPackage: curl\nStatus: install ok installed\nVersion: 8-1\n",
    ),
    ("srv/.wh.removed", ""),
];
const TOP: Layer<'static> =
    &[("srv/emptied/.wh..wh..opq", ""), ("srv/emptied/b/package.json", r#"{"name":"new","version":"2.0.0"}"#)];

/// What is seen of [`BASE`], [`MIDDLE`] and [`TOP`], with the index of the layer that brought it.
const SEEN: [(&str, u64); 4] = [("bash", 2), ("curl", 1), ("kept", 2), ("new", 0)];

fn scan(containerd: &Containerd, before: &[&str], more: &[&str]) -> Value {
    let (program, arguments) = before.split_first().map_or((OUTCROP, &[][..]), |(first, rest)| (*first, rest));
    let mut command = Command::new(program);
    command.args(arguments);
    if !before.is_empty() {
        command.arg(OUTCROP);
    }
    command.args(["scan", "--packages", "--output", "json", "--containerd"]).arg(containerd.socket()).args(more);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn target<'a>(report: &'a Value, id: &str) -> &'a Value {
    let targets = report["targets"].as_array().unwrap();
    targets.iter().find(|target| target["id"] == id).unwrap_or_else(|| panic!("{id} is not in {targets:#?}"))
}

/// Names of packages with the index of their layer.
fn packages(target: &Value) -> Vec<(&str, u64)> {
    let list = target["packages"].as_array().unwrap();
    list.iter().map(|package| (package["name"].as_str().unwrap(), package["layer"].as_u64().unwrap())).collect()
}

/// Diff IDs of a target, base first.
fn diff_ids(target: &Value) -> Vec<&str> {
    target["layers"].as_array().unwrap().iter().rev().map(|layer| layer["diff_id"].as_str().unwrap_or("-")).collect()
}

fn three_layers(containerd: &Containerd, name: &str) -> Image {
    build_with(containerd.dir(), name, &[BASE, MIDDLE, TOP])
}

#[test]
fn every_container_is_listed_with_its_proved_layers_and_what_overlay_would_show() {
    let Some(containerd) = Containerd::start() else { return };
    let whole = three_layers(&containerd, "whole:1");
    let short = build_with(containerd.dir(), "short:1", &[BASE, MIDDLE]);
    let single = build_with(containerd.dir(), "single:1", &[BASE]);
    for (image, namespace, id) in
        [(&whole, "k8s.io", "web"), (&short, "k8s.io", "worker"), (&single, "default", "lone")]
    {
        containerd.import(namespace, image);
        containerd.run(namespace, image, id);
    }
    let report = scan(&containerd, &[], &[]);
    assert_eq!(report["targets"].as_array().unwrap().len(), 3);
    for (id, image, seen) in [
        ("web", &whole, &SEEN[..]),
        ("worker", &short, &[("bash", 1), ("curl", 0), ("emptied", 1), ("kept", 1)]),
        ("lone", &single, &[("bash", 0), ("emptied", 0), ("kept", 0), ("removed", 0)]),
    ] {
        let target = target(&report, id);
        assert_eq!(target["coverage"], json!({ "state": "scanned", "reason": "" }), "{id}");
        assert_eq!(target["distro"], "Debian 12");
        assert_eq!(target["image"], image.name.as_str());
        assert_eq!(diff_ids(target), image.diff_ids, "{id}");
        assert_eq!(packages(target), seen, "{id}");
    }
    let one = scan(&containerd, &[], &["--namespace", "default"]);
    assert_eq!(one["targets"].as_array().unwrap().len(), 1);
    let one = scan(&containerd, &[], &["--container", "wor"]);
    assert_eq!(one["targets"][0]["id"], "worker");
}

#[test]
fn a_tag_that_moves_under_a_running_container_puts_nothing_under_a_wrong_identity() {
    let Some(containerd) = Containerd::start() else { return };
    let old = three_layers(&containerd, "app:1");
    containerd.import("k8s.io", &old);
    containerd.run("k8s.io", &old, "old");
    // The same name, as many layers, other bytes in each: what a mutable tag does.
    let impostor: Layer<'_> = &[("srv/impostor/package.json", r#"{"name":"impostor","version":"6.6.6"}"#)];
    let elsewhere = containerd.dir().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let new = build_with(&elsewhere, "app:1", &[impostor, TOP, &[OS_RELEASE]]);
    assert_eq!((new.name.as_str(), new.diff_ids.len()), (old.name.as_str(), old.diff_ids.len()));
    containerd.import("k8s.io", &new);
    containerd.run("k8s.io", &new, "new");
    // Whether the old image's own configuration is still there is the garbage collector's business: with the name gone
    // nothing holds either of them any more but the containers' snapshots.
    for collected in [false, true] {
        if collected {
            containerd.ctr("k8s.io", &["images", "rm", "--sync", &new.name]);
        }
        let report = scan(&containerd, &[], &[]);
        for (id, own, other, seen) in
            [("old", &old, &new, &SEEN[..]), ("new", &new, &old, &[("impostor", 2), ("new", 1)])]
        {
            let target = target(&report, id);
            assert_eq!(packages(target), seen, "{id}: the running container's own layers");
            let said = diff_ids(target);
            let proved = said == own.diff_ids;
            assert!(proved || said == ["-"; 3], "{id}, collected {collected}: {said:?} are not of {:?}", own.diff_ids);
            assert!(proved || collected || id == "old", "{id} has its own configuration at hand");
            let wrong = other.diff_ids.iter().filter(|id| !own.diff_ids.contains(id));
            assert_eq!(wrong.filter(|wrong| said.contains(&wrong.as_str())).count(), 0, "{id}: {said:?}");
        }
    }
}

/// Everything of a path that a reader could change: kind and mode, owner, size, times but that of access, attributes,
/// and for files the content.
type Stamp = (u32, u32, u32, u64, (i64, i64), (i64, i64), Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>);

fn stamps(root: &Path) -> BTreeMap<PathBuf, Stamp> {
    use sha2::Digest as _;
    let mut stamps = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mut attributes = Vec::new();
        if !metadata.is_symlink() {
            let mut names = vec![0; 65536];
            let length = rustix::fs::llistxattr(&path, &mut names).unwrap_or(0);
            for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
                let mut value = vec![0; 65536];
                let length = rustix::fs::lgetxattr(&path, std::ffi::OsStr::from_bytes(name), &mut value).unwrap_or(0);
                attributes.push((name.to_vec(), value[..length].to_vec()));
            }
            attributes.sort();
        }
        let content = metadata.is_file().then(|| sha2::Sha256::digest(fs::read(&path).unwrap()).to_vec());
        if metadata.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let times = ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
        let owner = (metadata.uid(), metadata.gid());
        let stamp = (metadata.mode(), owner.0, owner.1, metadata.len(), times.0, times.1, attributes, content);
        stamps.insert(path, stamp);
    }
    stamps
}

/// Runs a scan under strace, and returns what it did: calls by name with their line.
fn traced(containerd: &Containerd, calls: &str, more: &[&str]) -> Vec<String> {
    let log = containerd.dir().join("strace.log");
    let trace = format!("trace={calls}");
    let log_text = log.display().to_string();
    scan(containerd, &["strace", "-f", "-y", "-s", "256", "-o", &log_text, "-e", &trace], more);
    let lines = fs::read_to_string(&log).unwrap();
    fs::remove_file(log).unwrap();
    // "PID call(arguments) = result"
    lines.lines().filter_map(|line| line.split_once(' ')).map(|(_, call)| call.trim_start().to_owned()).collect()
}

#[test]
fn nothing_on_the_node_is_changed_by_a_scan() {
    let Some(containerd) = Containerd::start() else { return };
    let image = three_layers(&containerd, "whole:1");
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "web");
    scan(&containerd, &[], &[]);
    let before = (stamps(&containerd.dir().join("root")), containerd.everything("k8s.io"));
    let own_mounts = || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = mounts.lines().filter(|line| line.contains(&containerd.dir().display().to_string()));
        own.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let mounts = own_mounts();
    let calls = traced(&containerd, "all", &[]);
    let after = (stamps(&containerd.dir().join("root")), containerd.everything("k8s.io"));
    assert!(before.0.len() > 20, "the storage was found: {:?}", before.0.keys());
    for (path, stamp) in &before.0 {
        assert_eq!(after.0.get(path), Some(stamp), "{}", path.display());
    }
    assert_eq!(before.0.len(), after.0.len(), "new files in containerd's storage");
    assert_eq!(before.1, after.1);
    assert!(!mounts.is_empty());
    assert_eq!(own_mounts(), mounts, "mounts of the node");

    assert!(calls.iter().any(|call| call.starts_with("execve")), "strace saw nothing");
    let never = [
        "mount",
        "umount",
        "fsopen",
        "open_tree",
        "move_mount",
        "pivot_root",
        "chroot",
        "setns",
        "unshare",
        "creat",
        "mkdir",
        "rmdir",
        "unlink",
        "rename",
        "link(",
        "linkat",
        "symlink",
        "mknod",
        "chmod",
        "fchmod",
        "chown",
        "fchown",
        "lchown",
        "truncate",
        "ftruncate",
        "utime",
        "setxattr",
        "fsetxattr",
        "lsetxattr",
        "removexattr",
        "fremovexattr",
        "lremovexattr",
        "fallocate",
        "bind",
        "listen",
        "accept",
        "open_by_handle_at",
    ];
    let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_TMPFILE"];
    let mut connected = Vec::new();
    for call in &calls {
        let name = call.split('(').next().unwrap_or_default();
        assert!(!never.iter().any(|never| call.starts_with(never) || name == *never), "{call}");
        if name.starts_with("open") && writes.iter().any(|flag| call.contains(flag)) {
            assert!(call.contains("\"/dev/null\""), "{call}");
        }
        if name == "socket" {
            assert!(call.contains("AF_UNIX"), "{call}");
        }
        if name == "connect" {
            connected.push(call.clone());
        }
    }
    let socket = containerd.socket().display().to_string();
    assert!(!connected.is_empty() && connected.iter().all(|call| call.contains(&socket)), "{connected:?}");
}

#[test]
fn layers_that_were_read_in_this_run_are_not_opened_again() {
    let Some(containerd) = Containerd::start() else { return };
    let image = three_layers(&containerd, "whole:1");
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "a");
    let snapshots =
        containerd.dir().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots").display().to_string();
    let opened = || {
        let calls = traced(&containerd, "open,openat,openat2", &[]);
        let below: Vec<String> = calls.into_iter().filter(|call| call.contains(&snapshots)).collect();
        assert!(below.len() >= 10, "{below:?}");
        below.len()
    };
    let one = opened();
    for id in ["b", "c"] {
        containerd.run("k8s.io", &image, id);
    }
    assert_eq!(opened(), one, "files opened in storage for three containers of one image, as against one");
}

#[test]
fn without_sys_admin_marks_are_checked_where_the_container_is_mounted() {
    let Some(containerd) = Containerd::start() else { return };
    let image = three_layers(&containerd, "whole:1");
    containerd.import("k8s.io", &image);
    containerd.run("k8s.io", &image, "web");
    // What the container did to itself says nothing of its image.
    containerd.run("k8s.io", &image, "tampered");
    let tampered = containerd.dir().join("state/io.containerd.runtime.v2.task/k8s.io/tampered/rootfs/srv/kept");
    fs::remove_dir_all(tampered).unwrap();
    // setpriv: uid 0, and of its capabilities the one that the agent asks for.
    let weak = ["setpriv", "--bounding-set", "-all,+dac_read_search", "--inh-caps", "-all"];
    let report = scan(&containerd, &weak, &[]);
    let web = target(&report, "web");
    assert_eq!(web["marks"], "unreadable");
    assert_eq!(web["coverage"]["state"], "scanned", "{}", web["coverage"]);
    assert_eq!(packages(web), SEEN);
    let tampered = target(&report, "tampered");
    assert!(packages(tampered).contains(&("kept", 2)), "{tampered}");
    let report = scan(&containerd, &[], &[]);
    assert_eq!(target(&report, "web")["marks"], "readable");
    assert_eq!(packages(target(&report, "tampered")), SEEN);

    // Without a mounted root nothing is guessed: what an unseen mark could hide is listed, and said to be in doubt.
    let (base, top) = (containerd.dir().join("base"), containerd.dir().join("top"));
    fs::create_dir_all(base.join("srv/a")).unwrap();
    fs::write(base.join("srv/a/package.json"), r#"{"name":"doubtful","version":"1.0.0"}"#).unwrap();
    fs::create_dir_all(top.join("srv")).unwrap();
    rustix::fs::setxattr(top.join("srv"), "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    let layers = format!("{}:{}", top.display(), base.display());
    let look = |before: &[&str]| {
        let command = [before, &[OUTCROP, "scan", "--packages", "--output", "json", "--layers", &layers]].concat();
        let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let target = &report["targets"][0];
        (target["packages"].as_array().unwrap().len(), target["coverage"].clone())
    };
    let (found, coverage) = look(&weak);
    assert_eq!((found, &coverage["state"]), (1, &json!("partial")));
    let reason = coverage["reason"].as_str().unwrap();
    assert!(reason.contains("CAP_SYS_ADMIN") && reason.contains("srv/a/package.json"), "{reason}");
    assert_eq!(look(&[]), (0, json!({ "state": "scanned", "reason": "" })));
}

#[test]
fn nothing_that_runs_is_said_and_no_error() {
    let Some(containerd) = Containerd::start() else { return };
    let output =
        Command::new(OUTCROP).args(["scan", "--packages", "--containerd"]).arg(containerd.socket()).output().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no containers found") && said.contains("--rootfs DIR"), "{said}");
    let output = Command::new(OUTCROP)
        .args(["scan", "--packages", "--container", "nope", "--containerd"])
        .arg(containerd.socket())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("container \"nope\" not found"), "{said}");
}
