//! Merging the inventories of single layers gives the same tree and the same evidence as walking the merged view.
//!
//! `STACKS` is the number of random stacks (200), `SEED` the first seed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use crate::skip::skip;
use crate::stacks::{Features, Random, fill};
use outcrop_agent::catalog::{self, Evidence};
use outcrop_agent::worker::Program;
use outcrop_proto::inventory::Inventory;
use outcrop_proto::merge::{Answers, merge};
use outcrop_proto::view::{Entry, View};
use outcrop_proto::{Budget, Digest};
use overlayfs_reader::{Kind, Layer, MarkNamespace, Marks, Options, Stack};

/// What both sides know of an entry: its kind, and where a link leads.
type Tree = BTreeMap<Vec<u8>, (Kind, Vec<u8>)>;

/// Evidence path, name and version of every package, and the paths that could not be understood.
type Found = (BTreeSet<(Vec<u8>, String, String)>, BTreeSet<Vec<u8>>);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Layers of a seed, newest first.
fn make(seed: u64, base: &Path, features: Features) -> Vec<PathBuf> {
    let mut random = Random(seed);
    let count = 1 + random.below(5);
    let root = |number: usize| {
        let root = base.join(format!("l{number}"));
        fs::create_dir(&root).unwrap();
        fill(&mut random, &root, 0, features, number + 1 == count).unwrap();
        root
    };
    (0..count).map(root).collect()
}

fn walked(stack: &Stack) -> (Tree, Found) {
    let (mut tree, mut found) = (Tree::new(), Found::default());
    let mut paths = Vec::new();
    stack
        .walk(&mut |entry| {
            paths.push((entry.path.clone(), entry.kind));
            ControlFlow::Continue(())
        })
        .unwrap();
    for (path, kind) in paths {
        let target = if kind == Kind::Symlink { stack.read_link(&path).unwrap() } else { Vec::new() };
        let npm = catalog::ALL.iter().find(|cataloger| cataloger.name() == "npm").unwrap();
        if kind == Kind::File && path.ends_with(b"package.json") {
            let mut bytes = Vec::new();
            stack.open(&path).unwrap().read_to_end(&mut bytes).unwrap();
            match npm.read(&Evidence { path: &path, source: &bytes.as_slice(), companions: &[] }) {
                Ok(fact) => found
                    .0
                    .extend(fact.packages.into_iter().map(|package| (path.clone(), package.name, package.version))),
                Err(_) => drop(found.1.insert(path.clone())),
            }
        }
        tree.insert(path, (kind, target));
    }
    (tree, found)
}

fn merged(inventories: &[&Inventory]) -> (Tree, Found) {
    let mut paths = BTreeSet::new();
    for inventory in inventories {
        let mut entries = inventory.paths.iter();
        while let Some((path, _)) = entries.next_entry() {
            paths.insert(path.to_vec());
        }
    }
    let mut view = View::new(inventories);
    view.learn(paths.iter().map(Vec::as_slice), &mut Budget::job()).unwrap();
    let shown = |path: &Vec<u8>| {
        let entry = match view.visible(path)?.1 {
            Entry::File => (Kind::File, Vec::new()),
            Entry::Dir { .. } => (Kind::Dir, Vec::new()),
            Entry::Symlink(target) => (Kind::Symlink, target.to_vec()),
            Entry::Other => (Kind::CharDevice, Vec::new()),
            Entry::Whiteout => return None,
        };
        Some((path.clone(), entry))
    };
    let tree = paths.iter().filter_map(shown).collect();
    let merged = merge(inventories, catalog::KNOWN, &Answers::default(), &mut Budget::job()).unwrap();
    assert!(merged.unread.is_empty() && merged.failed.is_empty(), "{merged:?}");
    let packages = merged.packages.into_iter().flat_map(|package| {
        let (name, version) = (package.package.name, package.package.version);
        package.evidence.into_iter().map(move |path| (path, name.clone(), version.clone()))
    });
    (tree, (packages.collect(), merged.warnings.into_iter().map(|(path, _)| path).collect()))
}

#[test]
fn merging_inventories_is_walking_the_merged_view() {
    let namespace = if Marks::detect(MarkNamespace::Trusted) == Marks::Readable {
        MarkNamespace::Trusted
    } else {
        skip("root", "trusted marks need CAP_SYS_ADMIN; user marks are tested");
        MarkNamespace::User
    };
    let program = Program::at(env!("CARGO_BIN_EXE_outcrop-agent"));
    let mut packages = 0;
    let (stacks, first) = (number("STACKS", 200), number("SEED", 1));
    for seed in first..first + stacks {
        let dir = tempfile::tempdir().unwrap();
        // Marked regular files are whiteouts in lower layers only; here every layer is one.
        let roots = make(seed, dir.path(), Features { namespace, xwhiteouts: true });
        let layers: Vec<Layer> = roots.iter().map(|root| Layer::open(root).unwrap()).collect();
        let readings: Vec<Inventory> =
            layers.iter().map(|layer| program.read_layer(layer.as_fd(), namespace).unwrap().inventory).collect();
        let (tree, found) = merged(&readings.iter().collect::<Vec<_>>());
        let (mut their_tree, their_found) = walked(&Stack::new(layers, None, Options::detect(namespace)));
        for (kind, _) in their_tree.values_mut() {
            // An inventory does not tell devices, FIFOs and sockets apart: none of them is evidence.
            if !matches!(kind, Kind::File | Kind::Dir | Kind::Symlink) {
                *kind = Kind::CharDevice;
            }
        }
        assert_eq!(tree, their_tree, "SEED={seed} STACKS=1");
        assert_eq!(found, their_found, "SEED={seed} STACKS=1");
        packages += found.0.len();
    }
    assert!(packages > 0 || stacks < 50, "there was evidence to compare");
}

#[test]
fn the_digest_without_marks_is_that_of_a_reader_that_cannot_read_them() {
    if Marks::detect(MarkNamespace::Trusted) != Marks::Readable {
        return skip("root", "trusted marks need CAP_SYS_ADMIN");
    }
    let program = Program::at(env!("CARGO_BIN_EXE_outcrop-agent"));
    let (mut equal, mut different) = (0, 0);
    for seed in 1..20 {
        let dir = tempfile::tempdir().unwrap();
        let features = Features { namespace: MarkNamespace::Trusted, xwhiteouts: false };
        for root in make(seed, dir.path(), features) {
            let layer = Layer::open(&root).unwrap();
            let inventory = program.read_layer(layer.as_fd(), MarkNamespace::Trusted).unwrap().inventory;
            let (stats, encoding) = program.read_layer_into::<Vec<u8>>(layer.as_fd(), None).unwrap();
            assert!(!stats.started.marks);
            let with_marks = inventory.digest();
            let without_marks = inventory.digest_without_marks(with_marks, &mut Budget::job()).unwrap();
            assert_eq!(without_marks, Digest::of(&encoding), "SEED={seed}");
            if with_marks == without_marks { equal += 1 } else { different += 1 }
        }
    }
    assert!(equal > 0 && different > 0, "{equal} layers without an opaque directory, {different} with one");
}
