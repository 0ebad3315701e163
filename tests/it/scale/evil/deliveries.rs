//! Hostile deliveries: inventories that declare a false size, exceed their budget, or are not inventories.

use std::io::Write as _;
use std::time::Duration;

use outcrop_agent::catalog;
use outcrop_proto::inventory::{EvidenceRecord, Inventory, compress};
use outcrop_proto::wire::Refusal;
use outcrop_proto::wire::Refusal::{Cluster, Malformed, TooLarge, Unasked};
use outcrop_proto::wire::v1;
use outcrop_proto::{Distribution, Fact, LayerId, Node, Package, PackageType, SourcePackage};
use serde_json::Value;
use tonic::Status;

use super::super::service::until;
use super::encodings::{self, EMPTY, TABLE, amplifying, inventory, large, list, number, one_package, text};
use super::messages::controls;
use super::table::Effect::{Accepted, Refused};
use super::table::Kind::{Inventory as Delivers, Run};
use super::table::{Attack, Effect, Sequence, attack};
use super::{Place, noise, own_layer};

/// Compressed so well that nothing but its decoder says how large it is.
fn packed(encoding: &[u8]) -> Vec<u8> {
    compress(encoding).unwrap()
}

/// The same with noise behind it, so that it unpacks to less than 256 times its size.
fn bulky(encoding: &[u8]) -> Vec<u8> {
    let noise = noise(encoding.len() / 200 + 5000, 7);
    packed(&[encoding, &number(1), &text(&noise)].concat())
}

fn empty() -> Inventory {
    Inventory { catalogers: catalog::VERSION, ..Inventory::default() }
}

/// A layer that the current catalogers have read.
pub(super) fn layer(paths: &[(Vec<u8>, Node<'_>)], evidence: &[Vec<u8>], fact: Fact) -> Inventory {
    Inventory { catalogers: catalog::VERSION, ..encodings::layer(paths, evidence, fact) }
}

/// An inventory of one file, which lists `packages`.
pub(super) fn of_packages(path: &str, cataloger: &str, packages: Vec<Package>) -> Inventory {
    let debian = Distribution { id: "debian".to_owned(), version_id: "12".to_owned(), ..Distribution::default() };
    let mut inventory = layer(&[(path.as_bytes().to_vec(), Node::File)], &[], Fact::default());
    let fact = inventory.add_fact(Fact { packages, distribution: Some(debian), ..Fact::default() });
    inventory.evidence.push(EvidenceRecord {
        path: path.as_bytes().to_vec(),
        cataloger: cataloger.to_owned(),
        database: path.ends_with("status"),
        fact,
        digest: None,
        companions: Vec::new(),
    });
    inventory
}

pub(super) fn all() -> Vec<Attack> {
    let mut all: Vec<Attack> = nonsense();
    // Beyond the length of a path, nothing is allocated in the first place.
    let is_short = |name| ["a long target", "deep evidence"].contains(&name);
    for (name, encoding) in amplifying(32 << 20) {
        let packed = packed(&encoding);
        let is_bomb = encoding.len() > (256 * packed.len()).max(1 << 20);
        let reason = if is_short(name) || is_bomb { Malformed } else { TooLarge };
        all.push(attack(name, Refused(reason), Delivers(packed)));
    }
    // So many that they exceed what a decoder may take, unless an item that is empty or a name that is too long comes first.
    let is_refused_at_once =
        |name| is_short(name) || ["empty evidence", "a table that shares a long name"].contains(&name);
    for (name, encoding) in amplifying(8 << 20) {
        let reason = if is_refused_at_once(name) { Malformed } else { TooLarge };
        all.push(attack(format!("{name}, and noise"), Refused(reason), Delivers(bulky(&encoding))));
    }
    all.extend(calls());
    all.extend(costly());
    all
}

fn nonsense() -> Vec<Attack> {
    let good = empty().encode();
    let plain = |parts: [&[u8]; 5]| packed(&inventory(parts));
    let record = |path: &[u8], fact: u8| [text(path), text(b"npm"), vec![0], vec![fact; 32], vec![0, 0]].concat();
    let evidence = |path: &[u8]| plain([TABLE, &list(1, &record(path, 0)), EMPTY, EMPTY, EMPTY]);
    let table =
        |entries: &[u8], count: usize| plain([&[number(count), text(entries)].concat(), EMPTY, EMPTY, EMPTY, EMPTY]);
    let entry = |path: &[u8]| [number(0), text(path), vec![0]].concat();
    let mut window = zstd::Encoder::new(Vec::new(), 1).unwrap();
    window.window_log(27).unwrap();
    window.include_contentsize(false).unwrap();
    window.write_all(&good).unwrap();
    let parts =
        |count: usize| (1..=count).map(|part| [number(part), text(b"later")].concat()).collect::<Vec<_>>().concat();
    let bomb = packed(&vec![0; 400 << 20]);
    [
        ("a bomb of 400 MiB", Refused(Malformed), bomb.clone()),
        ("a bomb in a bomb", Refused(Malformed), packed(&bomb)),
        ("noise as an inventory", Refused(Malformed), noise(100_000, 1)),
        ("an inventory of no bytes", Refused(Malformed), Vec::new()),
        ("a byte after the frame", Refused(Malformed), [packed(&good), vec![0]].concat()),
        ("two frames", Refused(Malformed), [packed(&good), packed(&good)].concat()),
        ("half a frame", Refused(Malformed), packed(&good)[..10].to_vec()),
        ("a window of 128 MiB", Refused(Malformed), window.finish().unwrap()),
        ("later catalogers", Refused(Malformed), packed(&Inventory { catalogers: 900, ..empty() }.encode())),
        ("no catalogers", Refused(Malformed), packed(&Inventory { catalogers: 0, ..empty() }.encode())),
        ("another format", Refused(Malformed), packed(&[b"outcrop.inventory.2\n", &good[20..]].concat())),
        ("half an inventory", Refused(Malformed), packed(&good[..good.len() - 2])),
        ("a number in a longer form", Refused(Malformed), packed(&[&good[..20], &[0x81, 0], &good[21..]].concat())),
        (
            "a list of 2^63 items",
            Refused(Malformed),
            plain([TABLE, &[[0xff; 9].as_slice(), &[0]].concat(), EMPTY, EMPTY, EMPTY]),
        ),
        ("evidence without its fact", Refused(Malformed), evidence(b"a")),
        ("evidence at an absolute path", Refused(Malformed), evidence(b"/etc/passwd")),
        ("evidence outside of the root", Refused(Malformed), evidence(b"../../etc/passwd")),
        ("an absolute path in the table", Refused(Malformed), table(&entry(b"/etc"), 1)),
        ("a path outside of the root in the table", Refused(Malformed), table(&entry(b"../etc"), 1)),
        ("a table in disorder", Refused(Malformed), table(&[entry(b"b"), entry(b"a")].concat(), 2)),
        ("fewer paths than the table says", Refused(Malformed), table(&entry(b"a"), 1000)),
        ("a thousand parts of a later version", Accepted, packed(&[good.clone(), parts(1000)].concat())),
    ]
    .map(|(name, effect, bytes): (&str, Effect, Vec<u8>)| attack(name, effect, Delivers(bytes)))
    .into()
}

/// The first part of a delivery, for the layer.
fn part(layer: Option<LayerId>, cluster: &str, bytes: Vec<u8>) -> v1::Piece {
    v1::Piece { cluster: cluster.to_owned(), layer: layer.map(Into::into), bytes, ..v1::Piece::default() }
}

/// Delivers these parts as `node`, and returns the status with which that is refused.
fn deliver(place: &Place, node: &str, parts: Vec<v1::Piece>) -> Vec<Status> {
    let stream = place.attach(node);
    place.runtime.block_on(stream.deliver(parts.into_iter())).err().into_iter().collect()
}

/// Calls that are refused whatever they deliver.
fn calls() -> Vec<Attack> {
    let of_honest: Sequence = |place, node| {
        let honest = place.fleet.world.image(0).ids[0];
        deliver(place, node, vec![part(Some(honest), "scale", packed(&empty().encode()))])
    };
    let of_nobody: Sequence = |place, node| {
        let stream = place.attach(node);
        let delivery = part(Some(own_layer(node).0), "scale", packed(&empty().encode()));
        // Twenty at a time, of which the node makes one after the other.
        place.runtime.block_on(async {
            let calls = (0..20).map(|_| stream.deliver(std::iter::once(delivery.clone())));
            let ended = futures_util::future::join_all(calls).await;
            ended.into_iter().filter_map(Result::err).collect()
        })
    };
    let all: [(&str, Refusal, Sequence); 6] = [
        ("a layer that is leased to another node", Unasked, of_honest),
        ("a layer of nobody, twenty times at once", Unasked, of_nobody),
        ("a delivery without parts", Malformed, |place, node| deliver(place, node, Vec::new())),
        ("a delivery without a layer", Malformed, |place, node| {
            deliver(place, node, vec![part(None, "scale", Vec::new())])
        }),
        ("a delivery to another cluster", Cluster, |place, node| {
            deliver(place, node, vec![part(Some(own_layer(node).0), "other", Vec::new())])
        }),
        ("a delivery of 1 GiB", TooLarge, |place, node| {
            place.deliver_own(node, std::iter::repeat_n(vec![0xa5; 1 << 20], 1024)).err().into_iter().collect()
        }),
    ];
    all.map(|(name, reason, run)| attack(name, Refused(reason), Run(run))).into()
}

/// Inventories that are valid, and cost whatever follows them.
fn costly() -> Vec<Attack> {
    let all: [(&str, Sequence); 4] = [
        ("10,000 packages below 10,000 paths", |place, node| {
            let evidence: Vec<Vec<u8>> = (0..10_000).map(|file| format!("w/{file}").into_bytes()).collect();
            let paths: Vec<_> = evidence.iter().map(|path| (path.clone(), Node::File)).collect();
            merged(place, node, &layer(&paths, &evidence, large(10_000)), "partial")
        }),
        ("500 versions of a package with many problems", |place, node| {
            let package = |number: usize| {
                let version = format!("0.{number}");
                let source = Some(SourcePackage { name: "imagemagick".to_owned(), version: version.clone() });
                Package { source, ..Package::new(PackageType::Deb, "imagemagick".to_owned(), version) }
            };
            let inventory = of_packages("var/lib/dpkg/status", "dpkg", (0..500).map(package).collect());
            merged(place, node, &inventory, "partial")
        }),
        ("packages with names of a megabyte of control characters", |place, node| {
            // Noise between them: what can be compressed more than honest text is refused.
            let long = |salt| {
                let noise = noise(1 << 18, salt);
                noise.chunks(8).map(|of| format!("{}{:02x}", controls(24), of[0])).collect::<String>()
            };
            let package = |number: u64| Package::new(PackageType::Npm, long(2 * number), long(2 * number + 1));
            merged(place, node, &of_packages("srv/package.json", "npm", (0..4).map(package).collect()), "scanned")
        }),
        ("a delivery byte by byte, and of empty parts", |place, node| {
            let compressed = packed(&layer(&[], &[], one_package()).encode());
            let parts = compressed.into_iter().map(|byte| vec![byte]).chain(std::iter::repeat_n(Vec::new(), 1000));
            place.deliver_own(node, parts).err().into_iter().collect()
        }),
    ];
    all.map(|(name, run)| attack(name, Accepted, Run(run))).into()
}

/// Delivers an inventory of a layer of its own, and waits until the container is in `state`.
fn merged(place: &Place, node: &str, inventory: &Inventory, state: &str) -> Vec<Status> {
    let compressed = packed(&inventory.encode());
    let ended = place.deliver_own(node, std::iter::once(compressed)).err().into_iter().collect();
    let mut last = Value::Null;
    until(&format!("the container of {node} to be {state}"), Duration::from_secs(120), || {
        let listed = place.service.all(&format!("/api/v1/containers?node={node}"));
        let coverage = listed.first().map(|container| container["coverage"].clone()).unwrap_or_default();
        if last != coverage {
            println!("  {node}: {coverage}");
            last = coverage;
        }
        last["state"] == state
    });
    ended
}
