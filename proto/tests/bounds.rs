//! The cost of decoding and merging, for inputs that an image or a node made to cost as much as possible: the rows of the table in
//! `docs/security-model.md`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use outcrop_proto::inventory::{compress, decompress};
use outcrop_proto::{
    Answers, Budget, CoverageState, DecodeError, EvidenceRecord, Fact, Inventory, KnownPath, Node, OverBudget, Package,
    PackageType, PathTableBuilder, SourcePackage, merge,
};

/// Counts what each thread has allocated.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    LIVE.set(LIVE.get() + bytes);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

#[allow(unsafe_code)]
// SAFETY: everything is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large blocks move without being held twice (mremap(2)).
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns what `work` returns, and the most bytes that it had allocated at a time.
fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let outcome = work();
    (outcome, (PEAK.get() - before) as usize)
}

/// Memory that the budget does not count, in bytes: buffers of fixed size.
const SLACK: usize = 1 << 20;

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [number(bytes.len()), bytes.to_vec()].concat()
}

/// `count` times `item`, as a list.
fn list(count: usize, item: &[u8]) -> Vec<u8> {
    [number(count), item.repeat(count)].concat()
}

const EMPTY: &[u8] = &[0];

/// An inventory of these encoded parts: table, evidence, facts, tombstones, directories that were not walked.
fn inventory([table, evidence, facts, tombstones, unwalked]: [&[u8]; 5]) -> Vec<u8> {
    [b"outcrop.inventory.1\n\x01", table, evidence, facts, tombstones, unwalked].concat()
}

/// A fact of these encoded parts: packages, claims, packages without a name, warnings.
fn fact([packages, claims, unidentified, warnings]: [&[u8]; 4]) -> Vec<u8> {
    [b"outcrop.fact.1\n", packages, EMPTY, claims, unidentified, warnings].concat()
}

/// `count` paths that share `shared` bytes, front-coded, each followed by `tail`.
fn sharing(shared: usize, count: usize, tail: &[u8]) -> Vec<u8> {
    let mut bytes = [number(0), number(shared + 4), vec![b'a'; shared], b"aaaa".to_vec(), tail.to_vec()].concat();
    let suffix = |at: usize| [17576, 676, 26, 1].map(|unit| b'a' + (at / unit % 26) as u8);
    for at in 1..count {
        let (before, this) = (suffix(at - 1), suffix(at));
        let same = before.iter().zip(&this).take_while(|(a, b)| a == b).count();
        bytes.extend([number(shared + same), text(&this[same..]), tail.to_vec()].concat());
    }
    bytes
}

const TABLE: &[u8] = &[0, 0];

#[test]
fn inventories_that_amplify_are_refused_within_the_budget() {
    let many = 32 << 20;
    let record = [text(b"a"), EMPTY.to_vec(), EMPTY.to_vec(), vec![0; 32], EMPTY.to_vec()].concat();
    let companions = [number(1), record, list(many, &[0, 0])].concat();
    let deb = [&[1, 0, 0, 0, 0][..]].concat();
    let licenses = fact([&[number(1), deb, list(many, EMPTY), vec![0, 0, 0]].concat(), EMPTY, EMPTY, EMPTY]);
    let claims = fact([EMPTY, &[number(100_000), sharing(20_000, 100_000, &[0, 0])].concat(), EMPTY, EMPTY]);
    let packages = fact([&list(4 << 20, &[1, 0, 0, 0, 0, 0, 0, 0, 0]), EMPTY, EMPTY, EMPTY]);
    let warnings = fact([EMPTY, EMPTY, EMPTY, &list(many, EMPTY)]);
    let one = |fact: &[u8]| inventory([TABLE, EMPTY, &[number(1), text(fact)].concat(), EMPTY, EMPTY]);
    let table = |entries: &[u8], count: usize| {
        inventory([&[number(count), text(entries)].concat(), EMPTY, EMPTY, EMPTY, EMPTY])
    };
    let deep = [b"a/".repeat(40_000), b"a".to_vec()].concat();
    let deep = [number(1), text(&deep), EMPTY.to_vec(), EMPTY.to_vec(), vec![0; 32], vec![0, 0]].concat();
    for (what, bytes) in [
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
    ] {
        let mut budget = Budget::job();
        let (decoded, peak) = peak(|| Inventory::decode(&bytes, &mut budget));
        assert!(decoded.is_err(), "{what}");
        assert!(peak <= budget.bytes_reserved() + SLACK, "{what}: {peak} bytes");
    }
}

#[test]
fn a_few_bytes_do_not_decompress_to_more_than_256_times_their_size() {
    for (plain, fits) in [(1 << 20, true), (2 << 20, false), (256 << 20, false)] {
        let packed = compress(&vec![0; plain]).unwrap();
        let mut budget = Budget::job();
        let (unpacked, peak) = peak(|| decompress(&packed, &mut budget).map(|bytes| bytes.len()));
        match unpacked {
            Ok(length) => assert!(fits && length == plain && budget.bytes_reserved() == plain),
            Err(error) => assert!(!fits, "{plain}: {error}"),
        }
        assert!(peak <= 8 << 20, "{} bytes became {peak}", packed.len());
    }
    // The budget bounds input that is less repetitive.
    let noise: Vec<u8> = (0..4_u32 << 20).flat_map(|at| (at.wrapping_mul(2_654_435_761) >> 8).to_le_bytes()).collect();
    let packed = compress(&noise).unwrap();
    let refused = decompress(&packed, &mut Budget::new(1 << 20, 0));
    assert_eq!(refused, Err(DecodeError::OverBudget(OverBudget::Bytes(1 << 20))));
}

#[test]
fn a_frame_that_needs_a_large_window_is_refused() {
    use std::io::Write as _;
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&[7; 1000]).unwrap();
    let packed = encoder.finish().unwrap();
    assert!(matches!(decompress(&packed, &mut Budget::job()), Err(DecodeError::Compression(_))));
}

/// A fact of many packages, as a large image has them.
fn large(packages: usize) -> Fact {
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

#[test]
fn what_an_honest_inventory_takes_was_reserved_before() {
    let mut inventory = Inventory { catalogers: 1, ..Inventory::default() };
    let fact = inventory.add_fact(large(20_000));
    let bytes = inventory.encode();
    let mut budget = Budget::job();
    let (decoded, peak) = peak(|| Inventory::decode(&bytes, &mut budget).unwrap());
    assert_eq!(decoded.facts[&fact].packages.len(), 20_000);
    let reserved = budget.bytes_reserved();
    assert!(peak <= reserved, "{peak} of {reserved} bytes");
    assert!(reserved < Budget::job().bytes_left() / 4, "twenty thousand packages take {reserved} bytes");
    assert!(budget.steps_made() < 100_000);
}

#[test]
fn packages_of_a_later_type_and_later_parts_are_skipped_and_counted() {
    let package = |kind: u8, name: &[u8]| [vec![kind], text(name), text(b"1"), vec![0, 0, 0, 0, 0, 0]].concat();
    let packages = [number(3), package(1, b"bash"), package(5, b"lodash"), package(99, b"later")].concat();
    let known = fact([&packages, EMPTY, EMPTY, EMPTY]);
    let decoded = Fact::decode(&known, &mut Budget::job()).unwrap();
    let names: Vec<&str> = decoded.packages.iter().map(|package| package.name.as_str()).collect();
    assert_eq!((names, decoded.unknown), (vec!["bash", "lodash"], 1));

    // Parts of a later version come behind the known ones, each with its number.
    let later = [known, vec![1], text(b"anything"), vec![4], text(b"")].concat();
    assert_eq!(Fact::decode(&later, &mut Budget::job()).unwrap().unknown, 3);
    let facts = [number(1), text(&later)].concat();
    let whole = [inventory([TABLE, EMPTY, &facts, EMPTY, EMPTY]), vec![2], text(b"x")].concat();
    let decoded = Inventory::decode(&whole, &mut Budget::job()).unwrap();
    assert_eq!(decoded.unknown, 4);
    for wrong in [vec![0, 0], vec![2, 0, 2, 0], vec![3, 0, 2, 0], vec![1, 5]] {
        let bytes = [fact([EMPTY; 4]), wrong.clone()].concat();
        assert!(Fact::decode(&bytes, &mut Budget::job()).is_err(), "{wrong:?}");
    }

    let merged = merge(&[&decoded], &[], &Answers::default(), &mut Budget::job()).unwrap();
    let coverage = merged.coverage(&[]);
    assert_eq!(coverage.state, CoverageState::Partial);
    assert!(coverage.reason.contains("4 parts"), "{}", coverage.reason);
}

/// The path table of these paths; each gets its directories.
fn table(paths: &[(Vec<u8>, Node<'_>)]) -> outcrop_proto::PathTable {
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
fn layer(paths: &[(Vec<u8>, Node<'_>)], evidence: &[Vec<u8>], fact: Fact) -> Inventory {
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

fn one_package() -> Fact {
    Fact { packages: vec![Package::new(PackageType::Npm, "a".to_owned(), "1".to_owned())], ..Fact::default() }
}

/// Merges, and returns what came of it, the steps, and the most bytes that were allocated.
fn measured(layers: &[Inventory], known: &[KnownPath]) -> (Result<outcrop_proto::Merged, OverBudget>, u64, usize) {
    let layers: Vec<&Inventory> = layers.iter().collect();
    let mut budget = Budget::job();
    let (merged, peak) = peak(|| merge(&layers, known, &Answers::default(), &mut budget));
    let reserved = budget.bytes_reserved();
    assert!(peak <= reserved + SLACK, "{peak} bytes, {reserved} were reserved");
    (merged, budget.steps_made(), peak)
}

#[test]
fn a_chain_of_links_through_deep_directories_is_followed_in_one_pass_for_each_link() {
    let deep = |hop: usize| [format!("q/{hop}/").into_bytes(), b"d/".repeat(390)].concat();
    let target = |hop: usize| [b"/".to_vec(), deep(hop), b"e".to_vec()].concat();
    let targets: Vec<Vec<u8>> = (0..39).map(target).collect();
    let known: [&'static str; 8] = ["a/0", "a/1", "a/2", "a/3", "a/4", "a/5", "a/6", "a/7"];
    let mut paths: Vec<(Vec<u8>, Node<'_>)> =
        known.iter().map(|path| (path.as_bytes().to_vec(), Node::Symlink(&targets[0]))).collect();
    for hop in 0..39 {
        let node = targets.get(hop + 1).map_or(Node::File, |target| Node::Symlink(target));
        paths.push(([deep(hop), b"e".to_vec()].concat(), node));
    }
    paths.extend((0..20_000).map(|file| (format!("z/{file}").into_bytes(), Node::File)));
    let layers = [layer(&paths, &[], Fact::default())];
    let known = known.map(|path| KnownPath { path, database: true });
    let (merged, steps, peak) = measured(&layers, &known);
    assert_eq!(merged.unwrap().unread.len(), known.len(), "each leads to the file at the end of the chain");
    // 36,000 paths in the table, 40 passes.
    assert!(steps < 40 * 36_000 * 3 && peak < 8 << 20, "{steps} steps, {peak} bytes");
}

#[test]
fn deep_evidence_takes_memory_for_each_directory_and_not_for_each_path() {
    let file = |chain: usize| {
        [format!("c/{chain:04}/").into_bytes(), b"nnnnnnnn/".repeat(395), b"package.json".to_vec()].concat()
    };
    let evidence: Vec<Vec<u8>> = (0..60).map(file).collect();
    let paths: Vec<_> = evidence.iter().map(|path| (path.clone(), Node::File)).collect();
    let (merged, _, peak) = measured(&[layer(&paths, &evidence, one_package())], &[]);
    assert_eq!(merged.unwrap().packages[0].evidence.len(), 60);
    // 23,700 directories.
    assert!(peak < 23_700 * 400, "{peak} bytes");
}

#[test]
fn evidence_in_one_of_many_layers_takes_no_memory_for_the_others() {
    let evidence: Vec<Vec<u8>> = (0..20_000).map(|file| format!("w/{file}.so").into_bytes()).collect();
    let paths: Vec<_> = evidence.iter().map(|path| (path.clone(), Node::File)).collect();
    let base = || layer(&paths, &evidence, one_package());
    let (merged, _, alone) = measured(&[base()], &[]);
    assert_eq!(merged.unwrap().packages[0].evidence.len(), 20_000);
    let mut layers: Vec<Inventory> = (0..120)
        .map(|number| layer(&[(format!("f{number}").into_bytes(), Node::File)], &[], Fact::default()))
        .collect();
    layers.push(base());
    let (merged, _, among) = measured(&layers, &[]);
    assert_eq!(merged.unwrap().packages[0].evidence.len(), 20_000);
    assert!(among < alone + alone / 4, "{among} bytes, alone {alone}");
}

#[test]
fn a_fact_of_many_packages_below_many_paths_exceeds_the_budget() {
    let evidence: Vec<Vec<u8>> = (0..10_000).map(|file| format!("w/{file}").into_bytes()).collect();
    let paths: Vec<_> = evidence.iter().map(|path| (path.clone(), Node::File)).collect();
    let (merged, ..) = measured(&[layer(&paths, &evidence, large(10_000))], &[]);
    assert!(merged.is_err());
    // And claims, which no package of the result shows.
    let claim = |at: usize| outcrop_proto::Claim {
        path: format!("w/{at}").into_bytes(),
        package: "p".to_owned(),
        digest: None,
    };
    let mut claims = Fact { claims: (0..50_000).map(claim).collect(), ..Fact::default() };
    claims.normalize();
    let (merged, ..) = measured(&[layer(&paths, &evidence, claims)], &[]);
    assert!(merged.is_err());
}

#[test]
fn a_database_that_every_layer_replaces_is_attributed_within_the_budget() {
    let status = b"var/lib/dpkg/status".to_vec();
    let layers: Vec<Inventory> =
        (0..120).map(|_| layer(&[(status.clone(), Node::File)], std::slice::from_ref(&status), large(400))).collect();
    let (merged, steps, _) = measured(&layers, &[]);
    let merged = merged.unwrap();
    assert_eq!((merged.packages.len(), merged.packages[0].layer), (400, 119));
    assert!(steps < 120 * 400 * 20, "{steps} steps");
}
