//! Encodings that an attacker would make: of values that the encoder never writes, and of layers that cost as much as possible.

use outcrop_proto::{
    EvidenceRecord, Fact, Inventory, Node, Package, PackageType, PathTable, PathTableBuilder, SourcePackage,
};

pub(crate) fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

pub(crate) fn text(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len()), bytes.to_vec()].concat()
}

/// `count` times `item`, as a list.
pub(crate) fn list(count: usize, item: &[u8]) -> Vec<u8> {
    [number(count), item.repeat(count)].concat()
}

pub(crate) const EMPTY: &[u8] = &[0];

/// An inventory of these encoded parts: table, evidence, facts, tombstones, directories that were not walked.
pub(crate) fn inventory([table, evidence, facts, tombstones, unwalked]: [&[u8]; 5]) -> Vec<u8> {
    [b"outcrop.inventory.1\n\x01", table, evidence, facts, tombstones, unwalked].concat()
}

/// A fact of these encoded parts: packages, claims, packages without a name, warnings.
pub(crate) fn fact([packages, claims, unidentified, warnings]: [&[u8]; 4]) -> Vec<u8> {
    [b"outcrop.fact.1\n", packages, EMPTY, claims, unidentified, warnings].concat()
}

/// `count` paths that share `shared` bytes, front-coded, each followed by `tail`.
pub(crate) fn sharing(shared: usize, count: usize, tail: &[u8]) -> Vec<u8> {
    let mut bytes = [number(0), number(shared + 4), vec![b'a'; shared], b"aaaa".to_vec(), tail.to_vec()].concat();
    let suffix = |at: usize| [17576, 676, 26, 1].map(|unit| b'a' + (at / unit % 26) as u8);
    for at in 1..count {
        let (before, this) = (suffix(at - 1), suffix(at));
        let same = before.iter().zip(&this).take_while(|(a, b)| a == b).count();
        bytes.extend([number(shared + same), text(&this[same..]), tail.to_vec()].concat());
    }
    bytes
}

pub(crate) const TABLE: &[u8] = &[0, 0];

/// Inventories of a few bytes, or of up to `many` items that repeat, which would take gigabytes if their decoder believed them.
pub(crate) fn amplifying(many: usize) -> impl Iterator<Item = (&'static str, Vec<u8>)> {
    let record = [text(b"a"), EMPTY.to_vec(), EMPTY.to_vec(), vec![0; 32], EMPTY.to_vec()].concat();
    let companions = [number(1), record, list(many, &[0, 0])].concat();
    let deb = [&[1, 0, 0, 0, 0][..]].concat();
    let licenses = fact([&[number(1), deb, list(many, EMPTY), vec![0, 0, 0]].concat(), EMPTY, EMPTY, EMPTY]);
    let claims = fact([EMPTY, &[number(100_000), sharing(20_000, 100_000, &[0, 0])].concat(), EMPTY, EMPTY]);
    let packages = fact([&list(many / 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0]), EMPTY, EMPTY, EMPTY]);
    let warnings = fact([EMPTY, EMPTY, EMPTY, &list(many, EMPTY)]);
    let one = |fact: &[u8]| inventory([TABLE, EMPTY, &[number(1), text(fact)].concat(), EMPTY, EMPTY]);
    let table = |entries: &[u8], count: usize| {
        inventory([&[number(count), text(entries)].concat(), EMPTY, EMPTY, EMPTY, EMPTY])
    };
    let deep = [b"a/".repeat(40_000), b"a".to_vec()].concat();
    let deep = [number(1), text(&deep), EMPTY.to_vec(), EMPTY.to_vec(), vec![0; 32], vec![0, 0]].concat();
    let encodings = [
        ("empty evidence", inventory([TABLE, &list(many, EMPTY), EMPTY, EMPTY, EMPTY])),
        ("empty companions", inventory([TABLE, &companions, EMPTY, EMPTY, EMPTY])),
        ("empty facts", inventory([TABLE, EMPTY, &list(many, EMPTY), EMPTY, EMPTY])),
        ("empty tombstones", inventory([TABLE, EMPTY, EMPTY, &list(many / 4, &[0, 0, 0, 0]), EMPTY])),
        ("directories not walked", inventory([TABLE, EMPTY, EMPTY, EMPTY, &list(many / 2, &[0, 0])])),
        ("empty licenses", one(&licenses)),
        ("claims that share a long path", one(&claims)),
        ("packages without a name", one(&packages)),
        ("empty warnings", one(&warnings)),
        ("a table that shares a long name", table(&sharing(1 << 20, 100_000, EMPTY), 100_000)),
        ("a long target", table(&[number(0), text(b"a"), vec![3], text(&[b'a'; 10_000])].concat(), 1)),
        ("deep evidence", inventory([TABLE, &deep, EMPTY, EMPTY, EMPTY])),
    ];
    encodings.into_iter()
}

/// A fact of many packages, as a large image has them.
pub(crate) fn large(packages: usize) -> Fact {
    let package = |at: usize| {
        let mut package = Package::new(PackageType::Deb, format!("library-{at}"), format!("{at}.1-2+deb12u3"));
        package.source = Some(SourcePackage { name: format!("source-{}", at / 3), version: format!("{at}.1-2") });
        package.arch = Some("amd64".to_owned());
        package
    };
    let mut fact = Fact { packages: (0..packages).map(package).collect(), ..Fact::default() };
    fact.normalize();
    fact
}

/// The path table of these paths; each gets its directories.
pub(crate) fn table(paths: &[(Vec<u8>, Node<'_>)]) -> PathTable {
    let mut all = std::collections::BTreeMap::new();
    for (path, node) in paths {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            all.entry(path[..at].to_vec()).or_insert(Node::Dir { opaque: false });
        }
        all.insert(path.clone(), node.clone());
    }
    let mut sorted: Vec<_> = all.into_iter().collect();
    sorted.sort_by(|a, b| outcrop_proto::paths::walk_order(&a.0, &b.0));
    let mut builder = PathTableBuilder::default();
    sorted.iter().for_each(|(path, node)| builder.push(path, node));
    builder.finish()
}

/// A layer of these paths, of which `evidence` lists one package each.
pub(crate) fn layer(paths: &[(Vec<u8>, Node<'_>)], evidence: &[Vec<u8>], fact: Fact) -> Inventory {
    let mut inventory = Inventory { catalogers: 1, paths: table(paths), ..Inventory::default() };
    if !evidence.is_empty() {
        let fact = inventory.add_fact(fact);
        inventory.evidence.extend(evidence.iter().map(|path| EvidenceRecord {
            path: path.clone(),
            cataloger: "npm".to_owned(),
            database: false,
            fact,
            digest: None,
            companions: Vec::new(),
        }));
    }
    inventory.normalize();
    inventory
}

pub(crate) fn one_package() -> Fact {
    Fact { packages: vec![Package::new(PackageType::Npm, "a".to_owned(), "1".to_owned())], ..Fact::default() }
}
