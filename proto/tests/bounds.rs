//! The cost of decoding and merging, for inputs that an image or a node made to cost as much as possible: the rows of the table in
//! `docs/security-model.md`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use outcrop_proto::inventory::{compress, decompress};
use outcrop_proto::merge::{LAYER_LIMIT, UNREADABLE_PACKAGES};
use outcrop_proto::{
    Answers, Budget, CoverageState, DecodeError, Fact, Inventory, KnownPath, Node, OverBudget, Tombstone, merge,
};

use encodings::{EMPTY, TABLE, amplifying, fact, inventory, large, layer, number, one_package, text};

mod encodings;

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

#[test]
fn inventories_that_amplify_are_refused_within_the_budget() {
    for (what, bytes) in amplifying(32 << 20) {
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
    let known = known.map(|path| KnownPath { path, cataloger: "dpkg", database: true });
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
fn what_many_paths_share_is_left_out_where_it_exceeds_the_budget_and_the_rest_is_merged() {
    let evidence: Vec<Vec<u8>> = (0..10_000).map(|file| format!("w/{file}").into_bytes()).collect();
    let paths: Vec<_> = evidence.iter().map(|path| (path.clone(), Node::File)).collect();
    let good = [b"good".to_vec(), b"w/good".to_vec()];
    let good_paths: Vec<_> = good.iter().map(|path| (path.clone(), Node::File)).collect();
    let good = || layer(&good_paths, &good, one_package());
    let name = |fact: Fact| fact.packages[0].name.clone();

    let (merged, ..) = measured(&[good(), layer(&paths, &evidence, large(10_000))], &[]);
    let merged = merged.unwrap();
    let listed = merged.packages.iter().find(|package| package.package.name == name(one_package())).unwrap();
    assert_eq!(listed.evidence.len(), 2, "evidence that costs little is merged, wherever it is");
    let coverage = merged.coverage(&[]);
    assert_eq!(coverage.state, CoverageState::Partial);
    let said = ["/w/", "the packages of this and of", "more files needs more than the limit of"];
    assert!(said.iter().all(|text| coverage.reason.contains(text)), "{}", coverage.reason);

    // Warnings and packages without a name as well.
    let warnings = (0..1000).map(|at| format!("the entry {at} is not valid")).collect();
    let (merged, ..) = measured(&[good(), layer(&paths, &evidence, Fact { warnings, ..Fact::default() })], &[]);
    let merged = merged.unwrap();
    assert_eq!((merged.packages.len(), merged.coverage(&[]).state), (1, CoverageState::Partial));

    // Claims cost once what many paths share.
    let claim = |at: usize| outcrop_proto::Claim {
        path: format!("w/{at}").into_bytes(),
        package: "p".to_owned(),
        digest: None,
    };
    let mut claims = Fact { claims: (0..50_000).map(claim).collect(), ..Fact::default() };
    claims.normalize();
    let (merged, steps, _) = measured(&[good(), layer(&paths, &evidence, claims)], &[]);
    assert_eq!(merged.unwrap().packages.len(), 1);
    assert!(steps < 2_000_000, "{steps} steps");

    // The path tables come before: without them nothing can be merged.
    let refused = merge(
        &[&layer(&paths, &evidence, one_package())],
        &[],
        &Answers::default(),
        &mut Budget::new(1 << 20, 1 << 20),
    );
    assert_eq!(refused.err(), Some(OverBudget::Bytes(1 << 20)));
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

#[test]
fn what_a_limit_of_the_layer_left_out_and_packages_that_were_not_read_make_the_container_partial() {
    let path = |file: usize| format!("srv/{file}/package.json").into_bytes();
    let status = b"var/lib/dpkg/status".to_vec();
    let paths: Vec<_> = (0..3).map(path).chain([status.clone()]).map(|path| (path, Node::File)).collect();
    let tombstone = |file: usize, reason: &str| Tombstone {
        path: path(file),
        cataloger: "npm".to_owned(),
        database: false,
        reason: reason.to_owned(),
    };
    let coverage =
        |layer: &Inventory| merge(&[layer], &[], &Answers::default(), &mut Budget::job()).unwrap().coverage(&[]);
    let warning = format!("3 of 4 {UNREADABLE_PACKAGES}");
    let fact = Fact { warnings: vec![warning.clone()], ..one_package() };
    let mut layer = layer(&paths, std::slice::from_ref(&status), fact);
    layer.tombstones = vec![tombstone(0, "not valid JSON")];
    assert_eq!(coverage(&layer).state, CoverageState::Scanned, "no database, and its own fault");

    layer.tombstones.extend([1, 2].map(|file| tombstone(file, &format!("{LAYER_LIMIT} is too large"))));
    let left_out = coverage(&layer);
    assert_eq!(left_out.state, CoverageState::Partial);
    assert_eq!(left_out.reason, "2 files were not read: the evidence of the layer is too large");

    layer.evidence[0].database = true;
    let incomplete = coverage(&layer);
    assert_eq!(incomplete.state, CoverageState::Partial);
    assert_eq!(incomplete.reason, format!("/var/lib/dpkg/status: {warning}"));
}

#[test]
fn a_database_behind_a_link_is_read_though_another_cataloger_has_read_the_file() {
    let known = [KnownPath { path: "var/lib/dpkg/status", cataloger: "dpkg", database: true }];
    let target = b"opt/a.egg-info".to_vec();
    let paths = [(b"var/lib/dpkg/status".to_vec(), Node::Symlink(b"/opt/a.egg-info")), (target.clone(), Node::File)];
    let mut layer = layer(&paths, &[target], one_package());
    for (cataloger, database, unread) in [("npm", false, 1), ("dpkg", false, 1), ("apk", true, 1), ("dpkg", true, 0)] {
        layer.evidence[0].cataloger = cataloger.to_owned();
        layer.evidence[0].database = database;
        let merged = merge(&[&layer], &known, &Answers::default(), &mut Budget::job()).unwrap();
        assert_eq!(merged.unread.len(), unread, "{cataloger} {database}");
    }
}
