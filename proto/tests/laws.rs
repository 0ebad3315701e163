//! Laws of encoding and merge, over random inventories.

use std::collections::{BTreeMap, BTreeSet};

use outcrop_proto::fact::{Claim, Distribution, Fact, FileDigest, Unidentified};
use outcrop_proto::inventory::{EvidenceRecord, Inventory, Tombstone, compress, decompress};
use outcrop_proto::merge::{Answers, KnownPath, merge};
use outcrop_proto::paths::{Node, PathTableBuilder, walk_order};
use outcrop_proto::view::{Entry, View};
use outcrop_proto::{Budget, Digest, Package, PackageType, SourcePackage};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn package() -> impl Strategy<Value = Package> {
    let text = "[a-c+.:~ü-]{1,4}";
    (
        prop::sample::select(&PackageType::ALL[..]),
        text,
        text,
        option::of(text),
        option::of((text, text)),
        vec(text, 0..2),
        option::of(text),
    )
        .prop_map(|(kind, name, version, arch, source, licenses, inner)| Package {
            arch,
            source: source.map(|(name, version)| SourcePackage { name, version }),
            licenses,
            inner,
            ..Package::new(kind, name, version)
        })
}

prop_compose! {
    fn fact()(
        packages in vec(package(), 0..4),
        claims in vec((vec(any::<u8>(), 0..6), "[ab]", option::of(any::<[u8; 16]>())), 0..4),
        distribution in option::of(("[a-z]{0,3}", "[0-9.]{0,4}")),
        unidentified in vec(("[a/!]{0,3}", any::<[u8; 32]>()), 0..2),
        warnings in vec("[a-c]{0,3}", 0..3),
    ) -> Fact {
        let mut fact = Fact {
            packages,
            distribution: distribution.map(|(id, version_id)| Distribution { id, version_id, ..Distribution::default() }),
            claims: claims
                .into_iter()
                .map(|(path, package, digest)| Claim { path, package, digest: digest.map(FileDigest::Md5) })
                .collect(),
            unidentified: unidentified.into_iter().map(|(inner, sha256)| Unidentified { inner, sha256 }).collect(),
            warnings,
            unknown: 0,
        };
        fact.normalize();
        fact
    }
}

/// What a random layer has at a path: a node, and the fact if it is evidence.
#[derive(Clone, Debug)]
enum Item {
    File(Option<Fact>),
    Dir { opaque: bool },
    Symlink(Vec<u8>),
    Whiteout,
    Other,
}

/// Layers over a handful of names, three levels deep, so that they collide often.
fn layer() -> impl Strategy<Value = BTreeMap<Vec<u8>, Item>> {
    let path =
        vec(prop::sample::select(vec!["a", "b", "c\u{ff}"]), 1..4).prop_map(|names| names.join("/").into_bytes());
    let item = prop_oneof![
        3 => option::of(fact()).prop_map(Item::File),
        3 => any::<bool>().prop_map(|opaque| Item::Dir { opaque }),
        1 => "[ab./]{1,4}".prop_map(|target| Item::Symlink(target.into_bytes())),
        1 => Just(Item::Whiteout),
        1 => Just(Item::Other),
    ];
    btree_map(path, item, 0..8).prop_map(|mut items| {
        // A layer on a disk has a directory above every entry.
        let paths: Vec<Vec<u8>> = items.keys().cloned().collect();
        for path in paths {
            for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                let ancestor = items.entry(path[..at].to_vec()).or_insert(Item::Dir { opaque: false });
                if !matches!(ancestor, Item::Dir { .. }) {
                    *ancestor = Item::Dir { opaque: false };
                }
            }
        }
        items
    })
}

fn inventory(items: &BTreeMap<Vec<u8>, Item>) -> Inventory {
    let mut sorted: Vec<_> = items.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| walk_order(a, b));
    let mut inventory = Inventory { catalogers: 1, ..Inventory::default() };
    let mut paths = PathTableBuilder::default();
    for (path, item) in sorted {
        let node = match item {
            Item::File(_) => Node::File,
            Item::Dir { opaque } => Node::Dir { opaque: *opaque },
            Item::Symlink(target) => Node::Symlink(target),
            Item::Whiteout => Node::Whiteout,
            Item::Other => Node::Other,
        };
        paths.push(path, &node);
        if let Item::File(Some(fact)) = item {
            let fact = inventory.add_fact(fact.clone());
            inventory.evidence.push(EvidenceRecord {
                path: path.clone(),
                cataloger: "test".to_owned(),
                database: false,
                fact,
                digest: None,
                companions: Vec::new(),
            });
        }
    }
    inventory.paths = paths.finish();
    inventory.normalize();
    inventory
}

/// The merged tree as applying the layers one after the other gives it, oldest first.
fn applied(layers: &[BTreeMap<Vec<u8>, Item>]) -> BTreeMap<Vec<u8>, (usize, Item)> {
    fn below<'a>(dir: &[u8], tree: &'a BTreeMap<Vec<u8>, (usize, Item)>) -> Vec<Vec<u8>> {
        let prefix = [dir, b"/"].concat();
        let inside: Vec<&'a Vec<u8>> = tree.keys().filter(|path| path.starts_with(&prefix)).collect();
        inside.into_iter().cloned().collect()
    }
    let mut tree: BTreeMap<Vec<u8>, (usize, Item)> = BTreeMap::new();
    for (layer, items) in layers.iter().enumerate().rev() {
        for (path, item) in items {
            let merges = matches!(item, Item::Dir { opaque: false })
                && matches!(tree.get(path), Some((_, Item::Dir { .. })) | None);
            if !merges {
                for gone in below(path, &tree) {
                    // Entries of this very layer came with it and stay.
                    if tree.get(&gone).is_some_and(|(from, _)| *from != layer) {
                        tree.remove(&gone);
                    }
                }
            }
            if matches!(item, Item::Whiteout) {
                tree.remove(path);
            } else {
                tree.insert(path.clone(), (layer, item.clone()));
            }
        }
    }
    tree
}

fn budget() -> Budget {
    Budget::job()
}

proptest! {
    #[test]
    fn a_fact_survives_encoding_and_has_one_form(fact in fact()) {
        let bytes = fact.encode();
        let (mut spent, takes) = (budget(), fact.decoded_bytes());
        prop_assert_eq!(Fact::decode(&bytes, &mut spent), Ok(fact));
        prop_assert_eq!(spent.bytes_reserved(), takes);
        for end in 0..bytes.len() {
            prop_assert!(Fact::decode(&bytes[..end], &mut budget()).is_err());
        }
    }

    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(layer in layer(), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..3)) {
        let mut bytes = inventory(&layer).encode();
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(decoded) = Inventory::decode(&bytes, &mut budget()) && decoded.unknown == 0 {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn an_inventory_survives_encoding_and_compression(layer in layer()) {
        let inventory = inventory(&layer);
        let bytes = inventory.encode();
        let packed = compress(&bytes).unwrap();
        prop_assert_eq!(decompress(&packed, &mut Budget::new(bytes.len(), 0)), Ok(bytes.clone()));
        prop_assert!(decompress(&packed, &mut Budget::new(bytes.len() - 1, 0)).is_err());
        prop_assert_eq!(Inventory::decode(&bytes, &mut budget()), Ok(inventory));
    }

    #[test]
    fn merging_path_tables_gives_the_tree_that_applying_the_layers_gives(layers in vec(layer(), 0..5)) {
        let expected = applied(&layers);
        let inventories: Vec<Inventory> = layers.iter().map(inventory).collect();
        let inventories: Vec<&Inventory> = inventories.iter().collect();
        let mut view = View::new(&inventories);
        let paths: BTreeSet<&Vec<u8>> = layers.iter().flat_map(BTreeMap::keys).collect();
        view.learn(paths.iter().map(|path| path.as_slice()), &mut budget()).unwrap();
        for path in paths {
            let found = view.visible(path);
            let same = match (found, expected.get(path)) {
                (None, None) => true,
                (Some((layer, said)), Some((from, item))) => layer == *from && matches!(
                    (said, item),
                    (Entry::File, Item::File(_)) | (Entry::Dir { .. }, Item::Dir { .. })
                        | (Entry::Symlink(_), Item::Symlink(_)) | (Entry::Other, Item::Other)
                ),
                _ => false,
            };
            prop_assert!(same, "{}: {:?}, applied {:?}", path.escape_ascii(), found, expected.get(path));
        }
    }

    #[test]
    fn merge_lists_the_visible_evidence_and_nothing_else(layers in vec(layer(), 0..5)) {
        let tree = applied(&layers);
        let expected: BTreeSet<_> = tree
            .values()
            .filter_map(|(_, item)| match item { Item::File(Some(fact)) => Some(fact), _ => None })
            .flat_map(|fact| &fact.packages)
            .map(|package| (package.kind, package.name.clone(), package.version.clone(), package.arch.clone()))
            .collect();
        let inventories: Vec<Inventory> = layers.iter().map(inventory).collect();
        let inventories: Vec<&Inventory> = inventories.iter().collect();
        let merged = merge(&inventories, &[], &Answers::default(), &mut budget()).unwrap();
        let found: BTreeSet<_> = merged
            .packages
            .iter()
            .map(|found| &found.package)
            .map(|package| (package.kind, package.name.clone(), package.version.clone(), package.arch.clone()))
            .collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn an_empty_layer_changes_nothing_but_the_count(layers in vec(layer(), 1..4), at in any::<prop::sample::Index>()) {
        let mut inventories: Vec<Inventory> = layers.iter().map(inventory).collect();
        let plain = merge(&inventories.iter().collect::<Vec<_>>(), &[], &Answers::default(), &mut budget()).unwrap();
        let at = at.index(inventories.len() + 1);
        inventories.insert(at, Inventory::default());
        let padded = merge(&inventories.iter().collect::<Vec<_>>(), &[], &Answers::default(), &mut budget()).unwrap();
        prop_assert_eq!(plain.packages.len(), padded.packages.len());
        for (a, b) in plain.packages.iter().zip(&padded.packages) {
            prop_assert_eq!(&a.package, &b.package);
            prop_assert_eq!(a.layer + usize::from(a.layer >= at), b.layer);
        }
    }
}

/// A layer made of files with facts, and other nodes.
fn stack(layers: &[&[(&str, Item)]]) -> Vec<Inventory> {
    layers
        .iter()
        .map(|items| {
            let mut all: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
            for (path, item) in *items {
                for (at, _) in path.match_indices('/') {
                    all.entry(path.as_bytes()[..at].to_vec()).or_insert(Item::Dir { opaque: false });
                }
                all.insert(path.as_bytes().to_vec(), item.clone());
            }
            inventory(&all)
        })
        .collect()
}

fn database(names: &[&str]) -> Item {
    let packages = names.iter().map(|name| Package::new(PackageType::Deb, *name, "1")).collect();
    Item::File(Some(Fact { packages, ..Fact::default() }))
}

fn layers_by_name(stack: &[Inventory]) -> BTreeMap<String, usize> {
    let merged =
        merge(&stack.iter().collect::<Vec<_>>(), &[], &Answers::default(), &mut budget()).expect("the budget suffices");
    merged.packages.into_iter().map(|package| (package.package.name, package.layer)).collect()
}

const STATUS: &str = "var/lib/dpkg/status";

#[test]
fn a_layer_that_rewrites_the_database_has_brought_only_what_is_new() {
    let stack = stack(&[
        &[(STATUS, database(&["bash", "curl"]))],
        &[("etc/motd", Item::File(None))],
        &[(STATUS, database(&["bash", "curl", "vim"]))],
        &[(STATUS, database(&["bash"]))],
    ]);
    assert_eq!(layers_by_name(&stack), BTreeMap::from([("bash".to_owned(), 3), ("curl".to_owned(), 2)]));
}

#[test]
fn a_package_that_went_and_came_back_is_attributed_to_its_return() {
    let back =
        stack(&[&[(STATUS, database(&["bash"]))], &[(STATUS, Item::Whiteout)], &[(STATUS, database(&["bash"]))]]);
    assert_eq!(layers_by_name(&back), BTreeMap::from([("bash".to_owned(), 0)]));
    let opaque = stack(&[
        &[("var/lib/dpkg", Item::Dir { opaque: true }), (STATUS, database(&["bash"]))],
        &[(STATUS, database(&["bash", "curl"]))],
    ]);
    assert_eq!(layers_by_name(&opaque), BTreeMap::from([("bash".to_owned(), 1)]));
}

#[test]
fn without_its_marks_a_layer_hides_nothing_but_what_it_replaces() {
    let mut stack = stack(&[
        &[("var", Item::Dir { opaque: true }), ("opt", Item::Dir { opaque: false })],
        &[("var/lib/dpkg", Item::Dir { opaque: false }), (STATUS, database(&["bash"]))],
    ]);
    assert_eq!(layers_by_name(&stack), BTreeMap::new());
    let (digest, mut unlimited) = (stack[0].digest(), budget());
    let as_others_see_it = stack[0].clone().digest_without_marks(digest, &mut unlimited).unwrap();
    stack[0].remove_marks(&mut budget()).unwrap();
    assert_eq!(stack[0].digest(), as_others_see_it);
    assert_eq!(layers_by_name(&stack), BTreeMap::from([("bash".to_owned(), 1)]));
}

#[test]
fn a_file_that_yielded_nothing_still_hides_an_older_database() {
    let mut stack = stack(&[&[(STATUS, Item::File(None))], &[(STATUS, database(&["bash"]))]]);
    stack[0].tombstones.push(Tombstone {
        path: STATUS.as_bytes().to_vec(),
        cataloger: "dpkg".to_owned(),
        database: true,
        reason: "not a valid status file".to_owned(),
    });
    let merged = merge(&stack.iter().collect::<Vec<_>>(), &[], &Answers::default(), &mut budget()).unwrap();
    assert!(merged.packages.is_empty());
    assert_eq!(merged.failed.len(), 1);
}

#[test]
fn evidence_behind_another_layers_symlink_is_unread_until_it_is_answered() {
    let known = [KnownPath { path: STATUS, cataloger: "dpkg", database: true }];
    let stack =
        stack(&[&[("var/lib/dpkg", Item::Symlink(b"/data/dpkg".to_vec()))], &[("data/dpkg/status", Item::File(None))]]);
    let layers: Vec<&Inventory> = stack.iter().collect();
    let merged = merge(&layers, &known, &Answers::default(), &mut budget()).unwrap();
    assert_eq!(merged.unread.len(), 1);
    assert_eq!(merged.unread[0].path, STATUS.as_bytes());
    let Item::File(Some(fact)) = database(&["bash"]) else { unreachable!() };
    let answers = Answers { facts: BTreeMap::from([(STATUS.into(), Ok(fact))]), ..Answers::default() };
    let merged = merge(&layers, &known, &answers, &mut budget()).unwrap();
    assert!(merged.unread.is_empty());
    assert_eq!(merged.packages[0].layer, 1);
}

#[test]
fn a_database_whose_log_lies_in_another_layer_is_unread() {
    let (db, wal) = ("var/lib/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite-wal");
    type Upper<'a> = &'a [(&'a str, Item)];
    let cases: [(Upper<'_>, bool, bool); 4] = [
        (&[], false, false),
        (&[(wal, Item::File(None))], false, true),
        (&[], true, false),
        (&[(wal, Item::Whiteout)], true, true),
    ];
    for (upper, with_log, unread) in cases {
        let mut base = vec![(db, database(&["bash"]))];
        if with_log {
            base.push((wal, Item::File(None)));
        }
        let mut stack = stack(&[upper, &base]);
        stack[1].evidence[0].companions = vec![(wal.into(), with_log)];
        let merged = merge(&stack.iter().collect::<Vec<_>>(), &[], &Answers::default(), &mut budget()).unwrap();
        assert_eq!(!merged.unread.is_empty(), unread, "{upper:?} {with_log}");
        assert_eq!(merged.packages.is_empty(), unread);
    }
}

#[test]
fn an_application_package_is_owned_only_while_its_evidence_is_what_the_database_recorded() {
    let metadata = "usr/lib/python3/dist-packages/requests-2.28.1.egg-info/PKG-INFO";
    let recorded = FileDigest::Md5([7; 16]);
    let app = |version: &str| {
        Item::File(Some(Fact {
            packages: vec![Package::new(PackageType::Pypi, "requests", version)],
            ..Fact::default()
        }))
    };
    let owner = Package::new(PackageType::Deb, "python3-requests", "2.28.1+dfsg-1");
    let claim = |digest: Option<&FileDigest>| {
        let claim = Claim { path: metadata.into(), package: owner.name.clone(), digest: digest.cloned() };
        Item::File(Some(Fact { packages: vec![owner.clone()], claims: vec![claim], ..Fact::default() }))
    };
    let cases = [
        (Some(&recorded), Some(FileDigest::Md5([7; 16])), "2.28.1", true),
        (Some(&recorded), Some(FileDigest::Md5([8; 16])), "2.28.1", false),
        (Some(&recorded), None, "2.28.1", true),
        (Some(&recorded), None, "2.31.0", false),
        (None, None, "2.28.1", true),
        (None, None, "2.28", false),
        (None, None, "2.31.0", false),
    ];
    for (claimed, found, version, owned) in cases {
        let mut stack = stack(&[&[(STATUS, claim(claimed)), (metadata, app(version))]]);
        let record = stack[0].evidence.iter_mut().find(|record| record.path == metadata.as_bytes()).unwrap();
        record.digest = found.clone();
        let merged = merge(&stack.iter().collect::<Vec<_>>(), &[], &Answers::default(), &mut budget()).unwrap();
        let app = merged.packages.iter().find(|package| package.package.kind == PackageType::Pypi).unwrap();
        assert_eq!(app.owner.is_some(), owned, "{claimed:?} {found:?} {version}");
    }
}

#[test]
fn the_encoding_is_settled() {
    // Changing this digest means that every stored inventory has to be read again: raise the number in the magic first.
    let inventory = stack(&[&[
        (STATUS, database(&["bash"])),
        ("bin", Item::Symlink(b"usr/bin".to_vec())),
        ("gone", Item::Whiteout),
        ("dev/null", Item::Other),
        ("opt", Item::Dir { opaque: true }),
    ]])
    .remove(0);
    assert_eq!(
        inventory.digest(),
        "sha256:72c130e8a9ab40b18dee7998bbc65589ed863a09545d7222b856137bf9160efe".parse().unwrap(),
    );
    assert_eq!(Digest::of(b"").to_string().len(), 71);
}
