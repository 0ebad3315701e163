//! Mounts as containerd 1.6, 1.7, 2.1 and 2.4 return them, and mounts that none of them should return.

use std::path::{Path, PathBuf};

use outcrop_proto::{Container, ContainerKey, Coverage, CoverageState, Mount, Runtime, Status};

use super::{Located, Stack, locate};

const S: &str = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots";

fn chain(length: usize) -> Vec<String> {
    (0..length).rev().map(|n| format!("sha256:{n:064x}")).collect()
}

fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
    // "S/" stands for the snapshots directory, to keep the tables readable.
    let full = |text: &str| text.replace("S/", &format!("{S}/"));
    Mount {
        kind: kind.into(),
        source: full(source),
        target: String::new(),
        options: options.iter().map(|option| full(option)).collect(),
    }
}

fn container(snapshotter: &str, parents: usize, mounts: Vec<Mount>) -> Container {
    Container {
        key: ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".into(), id: "c1".into() },
        name: "web".into(),
        pod: None,
        image: "docker.io/library/web:1".into(),
        image_ref: None,
        status: Status::Running,
        sandbox: false,
        storage_driver: snapshotter.into(),
        storage_id: "c1".into(),
        root_mount: String::new(),
        chain: chain(parents),
        mounts,
        configs: Vec::new(),
        size: 0,
        refused: None,
    }
}

#[track_caller]
fn stack(parents: usize, mount: Mount) -> Stack {
    match locate(&container("overlayfs", parents, vec![mount]), Path::new("/")) {
        Located::Stack(stack) => stack,
        other => panic!("no stack: {other:?}"),
    }
}

#[track_caller]
fn refusal(container: &Container) -> Coverage {
    match locate(container, Path::new("/")) {
        Located::Not(coverage) => {
            assert!(!coverage.reason.is_empty());
            coverage
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Kind, source, options; parents; layers newest first; upper.
type Case<'a> = (&'a str, &'a str, &'a [&'a str], usize, &'a [&'a str], Option<&'a str>);

#[test]
fn every_shape_that_overlayfs_answers_with_is_a_stack_newest_first() {
    let four = &["S/8/fs", "S/7/fs", "S/6/fs", "S/1/fs"];
    let cases: &[Case<'_>] = &[
        // Active, 1.6 and 1.7.
        (
            "overlay",
            "overlay",
            &["index=off", "workdir=S/21/work", "upperdir=S/21/fs", "lowerdir=S/8/fs:S/7/fs:S/6/fs:S/1/fs"],
            4,
            four,
            Some("S/21/fs"),
        ),
        // Active, 2.1 and later: other order.
        (
            "overlay",
            "overlay",
            &["workdir=S/21/work", "upperdir=S/21/fs", "lowerdir=S/8/fs:S/7/fs:S/6/fs:S/1/fs", "index=off"],
            4,
            four,
            Some("S/21/fs"),
        ),
        // remap-ids with idmapped mounts: the layers themselves are untouched.
        (
            "overlay",
            "overlay",
            &[
                "uidmap=0:100000:65536",
                "gidmap=0:100000:65536",
                "workdir=S/3/work",
                "upperdir=S/3/fs",
                "lowerdir=S/1/fs",
            ],
            1,
            &["S/1/fs"],
            Some("S/3/fs"),
        ),
        // Active, one layer: an overlay as well.
        (
            "overlay",
            "overlay",
            &["index=off", "workdir=S/22/work", "upperdir=S/22/fs", "lowerdir=S/1/fs"],
            1,
            &["S/1/fs"],
            Some("S/22/fs"),
        ),
        // View of several.
        ("overlay", "overlay", &["index=off", "lowerdir=S/8/fs:S/7/fs:S/6/fs:S/1/fs"], 4, four, None),
        // View of one: the parent's directory.
        ("bind", "S/1/fs", &["ro", "rbind"], 1, &["S/1/fs"], None),
        // Image without layers.
        ("bind", "S/9/fs", &["rw", "rbind"], 0, &[], Some("S/9/fs")),
        ("bind", "S/9/fs", &["ro", "rbind"], 0, &[], None),
        // SELinux and an operator's own mount options.
        (
            "overlay",
            "overlay",
            &["context=\"system_u:object_r:container_file_t:s0:c1,c2\"", "volatile", "noatime", "lowerdir=S/1/fs"],
            1,
            &["S/1/fs"],
            None,
        ),
    ];
    for &(kind, source, options, parents, layers, upper) in cases {
        let found = stack(parents, mount(kind, source, options));
        let full = |text: &str| text.replace("S/", &format!("{S}/"));
        let roots: Vec<_> = found.layers.iter().map(|layer| layer.root.clone()).collect();
        assert_eq!(roots, layers.iter().map(|layer| PathBuf::from(full(layer))).collect::<Vec<_>>(), "{options:?}");
        assert_eq!(found.upper, upper.map(|path| full(path).into()), "{options:?}");
        let names: Vec<_> = found.layers.iter().map(|layer| layer.snapshot.clone()).collect();
        assert_eq!(names, chain(parents), "each layer stands beside its own snapshot");
        assert!(!found.userxattr);
    }
}

#[test]
fn userxattr_is_noted() {
    assert!(stack(1, mount("overlay", "overlay", &["userxattr", "lowerdir=S/1/fs"])).userxattr);
}

#[test]
fn a_host_prefix_stands_before_every_path() {
    let active = mount("overlay", "overlay", &["upperdir=S/2/fs", "lowerdir=S/1/fs"]);
    let Located::Stack(found) = locate(&container("overlayfs", 1, vec![active]), Path::new("/host")) else {
        panic!("no stack");
    };
    assert_eq!(found.layers[0].root, Path::new(&format!("/host{S}/1/fs")));
    assert_eq!(found.upper.as_deref(), Some(Path::new(&format!("/host{S}/2/fs"))));
}

#[test]
fn an_overlay_that_is_not_understood_is_refused_with_its_reason() {
    // Kind, source, options, parents, words of the reason.
    let cases: &[(&str, &str, &[&str], usize, &str)] = &[
        ("overlay", "overlay", &["lowerdir=S/2/fs:S/1/fs"], 1, "user namespace"),
        ("overlay", "overlay", &["lowerdir=S/2/fs:S/1/fs"], 3, "2 layers where the snapshot has 3 parents"),
        ("overlay", "overlay", &["lowerdir=S/2/fs:S/1/fs"], 0, "2 layers where the snapshot has 0 parents"),
        ("overlay", "overlay", &["lowerdir=S/1/fs:S/1/fs"], 2, "twice"),
        ("overlay", "overlay", &["lowerdir=S/1/fs", "lowerdir=S/1/fs"], 1, "twice"),
        ("overlay", "overlay", &["lowerdir=S/2/fs::S/1/fs"], 2, "data-only"),
        ("overlay", "overlay", &["lowerdir="], 0, "data-only"),
        ("overlay", "overlay", &["lowerdir+=S/1/fs"], 1, "unknown option \"lowerdir+\""),
        ("overlay", "overlay", &["datadir+=S/1/fs", "lowerdir=S/1/fs"], 1, "unknown option"),
        ("overlay", "overlay", &["verity=require", "lowerdir=S/1/fs"], 1, "unknown option"),
        ("overlay", "overlay", &["extraoption=eyJ", "lowerdir=S/1/fs"], 1, "unknown option"),
        ("overlay", "overlay", &["upperdir=S/2/fs"], 1, "no lowerdir"),
        ("overlay", "overlay", &["lowerdir"], 1, "unknown option"),
        ("overlay", "overlay", &["lowerdir=2/fs"], 1, "not absolute"),
        ("overlay", "overlay", &["lowerdir=S/../fs"], 1, "\"..\""),
        ("overlay", "overlay", &["lowerdir=S/./1/fs"], 1, "element"),
        ("overlay", "overlay", &["lowerdir=S//1/fs"], 1, "element"),
        ("overlay", "overlay", &["lowerdir=/"], 1, "element"),
        ("overlay", "overlay", &["lowerdir=S/1\\072/fs"], 1, "escape"),
        ("overlay", "overlay", &["lowerdir=/etc"], 1, "laid out"),
        ("overlay", "overlay", &["lowerdir=S/one/fs"], 1, "laid out"),
        ("overlay", "overlay", &["lowerdir=S/2/fs:/other/snapshots/1/fs"], 2, "different snapshotter roots"),
        (
            "overlay",
            "overlay",
            &["upperdir=/other/snapshots/3/fs", "lowerdir=S/1/fs"],
            1,
            "different snapshotter roots",
        ),
        ("bind", "S/1/fs", &["rw", "rbind"], 1, "writable"),
        ("bind", "S/1/fs", &["ro", "rbind"], 2, "1 layers where the snapshot has 2 parents"),
        ("bind", "S/1/fs", &["rbind"], 1, "neither"),
        ("bind", "S/1/fs", &["ro", "rw"], 1, "both"),
        ("bind", "S/1/fs", &["ro", "X-loop"], 1, "unknown option"),
        ("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 2 }}"], 3, "only containerd can take"),
        ("mkfs/ext4", "/x", &[], 1, "only containerd can take"),
        ("ext4", "/x", &["loop", "rw"], 1, "not known"),
        ("erofs", "S/1/layer.erofs", &["ro", "loop"], 1, "not known"),
        ("", "", &[], 0, "not known"),
    ];
    for &(kind, source, options, parents, words) in cases {
        let refused = refusal(&container("overlayfs", parents, vec![mount(kind, source, options)]));
        assert!(refused.reason.contains(words), "{kind} {options:?}: {:?} lacks {words:?}", refused.reason);
    }
}

#[test]
fn a_path_longer_than_the_kernel_takes_is_refused_by_its_length() {
    let long = format!("lowerdir=/{}", "a".repeat(5000));
    let refused = refusal(&container("overlayfs", 1, vec![mount("overlay", "overlay", &[&long])]));
    assert!(refused.reason.contains("5001 bytes"), "{}", refused.reason);
    assert!(refused.reason.len() < 200, "a reason does not repeat the path");
}

#[test]
fn more_layers_than_the_kernel_takes_are_refused() {
    let lower: Vec<String> = (0..501).map(|n| format!("S/{n}/fs")).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    let refused = refusal(&container("overlayfs", 501, vec![mount("overlay", "overlay", &[&options])]));
    assert_eq!(refused.state, CoverageState::Unsupported);
}

#[test]
fn a_copy_with_changed_owners_is_refused_and_not_called_corrupt() {
    let mut remapped = container("overlayfs", 1, vec![mount("overlay", "overlay", &["lowerdir=S/2/fs:S/1/fs"])]);
    remapped.chain.insert(0, format!("{}-100000-100000", remapped.chain[0]));
    let refused = refusal(&remapped);
    assert_eq!(refused.state, CoverageState::Unsupported);
    assert!(refused.reason.contains("user namespace"), "{}", refused.reason);
}

#[test]
fn several_mounts_or_none_are_refused() {
    let erofs = vec![
        mount("erofs", "S/1/layer.erofs", &["ro", "loop"]),
        mount("format/mkdir/overlay", "overlay", &["lowerdir={{ overlay 0 1 }}"]),
    ];
    assert!(refusal(&container("overlayfs", 1, erofs)).reason.contains("2 mounts"));
    assert_eq!(refusal(&container("overlayfs", 1, Vec::new())).state, CoverageState::Failed);
    let mut elsewhere = mount("bind", "S/1/fs", &["ro", "rbind"]);
    elsewhere.target = "/usr".into();
    assert!(refusal(&container("overlayfs", 1, vec![elsewhere])).reason.contains("place of its own"));
}

#[test]
fn a_native_copy_is_one_merged_tree_that_is_partial_at_best() {
    let root = "/var/lib/containerd/io.containerd.snapshotter.v1.native/snapshots/9";
    let active = container("native", 4, vec![mount("bind", root, &["rbind", "rw"])]);
    let Located::Merged(merged) = locate(&active, Path::new("/host")) else { panic!("not merged") };
    assert_eq!(merged.root, Path::new(&format!("/host{root}")));
    assert_eq!(merged.best.state, CoverageState::Partial);
    assert!(refusal(&container("native", 4, vec![mount("ext4", root, &["rw"])])).reason.contains("not known"));
}

#[test]
fn every_other_snapshotter_is_unsupported_in_words() {
    let cases = [
        ("btrfs", "subvolumes"),
        ("zfs", "datasets"),
        ("devmapper", "block devices"),
        ("blockfile", "block devices"),
        ("erofs", "EROFS"),
        ("fuse-overlayfs", ".wh."),
        ("", "names no snapshotter"),
        ("something-new", "nothing is known"),
    ];
    for (snapshotter, words) in cases {
        let overlay = mount("overlay", "overlay", &["lowerdir=S/1/fs"]);
        let refused = refusal(&container(snapshotter, 1, vec![overlay]));
        assert_eq!(refused.state, CoverageState::Unsupported, "{snapshotter}");
        assert!(refused.reason.contains(words), "{snapshotter}: {}", refused.reason);
    }
}

#[test]
fn what_was_refused_before_keeps_its_reason_and_a_sandbox_is_left_out() {
    let mut refused = container("overlayfs", 1, vec![mount("overlay", "overlay", &["lowerdir=S/1/fs"])]);
    refused.refused = Some(Coverage::unsupported("said before"));
    assert_eq!(refusal(&refused).reason, "said before");
    refused.sandbox = true;
    assert_eq!(refusal(&refused).state, CoverageState::Excluded);
}
