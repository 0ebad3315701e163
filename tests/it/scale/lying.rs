//! One of five nodes sends false data, in each way that the interface allows. Nothing that it sends hides a package of the others' containers after
//! the verification interval, and distrusting the node undoes all of it.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use outcrop_proto::inventory::{Inventory, Tombstone, compress};
use outcrop_proto::paths::{Node, PathTableBuilder};
use outcrop_proto::wire::v1::order::Order;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{Seen, v1};
use outcrop_proto::{Digest, Fact, LayerId};
use serde_json::Value;
use tonic::Status;
use tonic::transport::Endpoint;

use super::load::runtime;
use super::node::{Fleet, Stream, endpoint, hello, node_name, pieces, seen};
use super::service::{OUTCROP, Service, encoded, until};
use super::world::{Shape, World};

/// How long anything may take; far beyond the interval.
const PATIENCE: Duration = Duration::from_secs(120);

/// Four honest nodes.
const HONEST: usize = 4;

/// What the liar does with a layer that it has to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    /// It delivers an inventory, or the digest of one.
    Something,
    /// It says that it cannot read the layer, which has this state.
    Not(&'static str),
    /// It says that the layer is gone.
    Gone,
}

/// A way to lie.
#[derive(Clone, Copy)]
struct Lie {
    name: &'static str,
    /// Whether the liar has the layers before the others run them.
    is_first: bool,
    /// What it says of its rights and catalogers, and of the rights with which it read a layer.
    hello: fn(&mut v1::Hello),
    read_marks: bool,
    reads: Reads,
    /// What it makes of an inventory.
    change: fn(&mut Inventory),
    /// What it answers to a check.
    answer: fn(&v1::Check) -> v1::Answers,
    /// What it says of a stack's layers.
    layers: fn(&mut Seen),
}

const HONESTLY: Lie = Lie {
    name: "",
    is_first: true,
    hello: |_| {},
    read_marks: true,
    reads: Reads::Something,
    change: |_| {},
    answer: |_| v1::Answers::default(),
    layers: |_| {},
};

/// All packages are gone.
fn empty(inventory: &mut Inventory) {
    *inventory = Inventory { catalogers: inventory.catalogers, ..Inventory::default() };
}

/// Changes each fact.
fn facts(inventory: &mut Inventory, change: impl Fn(&mut Fact)) {
    let facts = std::mem::take(&mut inventory.facts);
    for (id, mut fact) in facts {
        change(&mut fact);
        let new = inventory.add_fact(fact);
        inventory.evidence.iter_mut().filter(|record| record.fact == id).for_each(|record| record.fact = new);
    }
}

/// Whether the inventory is that of a layer of an application, above those of the distribution.
fn is_upper(inventory: &Inventory) -> bool {
    !inventory.evidence.iter().any(|record| record.database)
}

fn lies() -> Vec<Lie> {
    let empty_with = |name, hello, read_marks| Lie { name, hello, read_marks, change: empty, ..HONESTLY };
    vec![
        empty_with("nothing is in any layer", |_| {}, true),
        empty_with("nothing is in any layer, read by a node without marks", |hello| hello.marks = false, false),
        empty_with("nothing is in any layer, read without marks this once", |_| {}, false),
        empty_with(
            "nothing is in any layer, read with marks that the node cannot read",
            |hello| hello.marks = false,
            true,
        ),
        empty_with("nothing is in any layer, read by later catalogers", |hello| hello.catalogers = 900, true),
        empty_with("nothing is in any layer, read by earlier catalogers", |hello| hello.catalogers = 0, true),
        Lie {
            name: "one package of each database is missing",
            change: |inventory| facts(inventory, |fact| drop(fact.packages.pop())),
            ..HONESTLY
        },
        Lie {
            name: "every package is of a version without problems",
            change: |inventory| {
                facts(inventory, |fact| {
                    fact.packages.iter_mut().for_each(|package| package.version = "999".to_owned())
                });
            },
            ..HONESTLY
        },
        Lie {
            name: "the directories of upper layers are opaque",
            change: |inventory| {
                let mut table = PathTableBuilder::default();
                if is_upper(inventory) {
                    ["etc", "usr", "usr/lib", "var", "var/lib", "var/lib/dpkg"]
                        .iter()
                        .for_each(|path| table.push(path.as_bytes(), &Node::Dir { opaque: true }));
                    *inventory =
                        Inventory { catalogers: inventory.catalogers, paths: table.finish(), ..Default::default() };
                }
            },
            ..HONESTLY
        },
        Lie {
            name: "the database is removed by upper layers",
            change: |inventory| {
                let mut table = PathTableBuilder::default();
                if is_upper(inventory) {
                    ["var", "var/lib", "var/lib/dpkg"]
                        .iter()
                        .for_each(|path| table.push(path.as_bytes(), &Node::Dir { opaque: false }));
                    table.push(b"var/lib/dpkg/status", &Node::Whiteout);
                    *inventory =
                        Inventory { catalogers: inventory.catalogers, paths: table.finish(), ..Default::default() };
                }
            },
            ..HONESTLY
        },
        Lie {
            name: "nothing can be read",
            change: |inventory| {
                let evidence = std::mem::take(&mut inventory.evidence);
                let unread = evidence.into_iter().map(|record| Tombstone {
                    path: record.path,
                    cataloger: record.cataloger,
                    database: record.database,
                    reason: "bad sectors".to_owned(),
                });
                inventory.tombstones.extend(unread);
                inventory.facts.clear();
                inventory.normalize();
            },
            ..HONESTLY
        },
        Lie {
            name: "no directory was walked",
            change: |inventory| {
                empty(inventory);
                inventory.unwalked.push((Vec::new(), "bad sectors".to_owned()));
            },
            ..HONESTLY
        },
        Lie { name: "every layer is too large", reads: Reads::Not("too-large"), ..HONESTLY },
        Lie { name: "every layer is unreadable", reads: Reads::Not("failed"), ..HONESTLY },
        Lie { name: "every layer is gone", reads: Reads::Gone, ..HONESTLY },
        Lie {
            name: "everything that may be hidden is hidden",
            hello: |hello| hello.marks = false,
            read_marks: false,
            answer: |check| v1::Answers { hidden: check.doubtful.clone(), ..v1::Answers::default() },
            ..HONESTLY
        },
        Lie {
            name: "a stack is one layer, and nothing is in it",
            change: empty,
            layers: |seen| {
                if let Some((stack, layers)) = &mut seen.stack {
                    *layers = vec![LayerId::Chain(*stack)];
                }
            },
            ..HONESTLY
        },
        Lie { name: "what others read is wrong", is_first: false, change: empty, ..HONESTLY },
        Lie { name: "what others read is unreadable", is_first: false, reads: Reads::Not("failed"), ..HONESTLY },
        Lie {
            name: "what others read is gone, and it was read without marks",
            is_first: false,
            hello: |hello| hello.marks = false,
            read_marks: false,
            reads: Reads::Gone,
            ..HONESTLY
        },
    ]
}

/// A lie, the node that tells it, and the four that run the same images.
struct Scene {
    lie: Lie,
    liar: String,
    fleet: Arc<Fleet>,
    /// How many layers the liar was asked for and has lied about.
    told: Arc<AtomicU64>,
}

impl Scene {
    fn new(number: usize, lie: Lie, service: &Service) -> Self {
        let shape = Shape { nodes: HONEST, containers: 8, images: 2, layers: 8, seed: 100 + number as u64 };
        let fleet = Fleet::beside(World::new(shape), service, number * HONEST);
        Self { lie, liar: liar(number), fleet, told: Arc::default() }
    }

    /// What the liar says, until its stream ends.
    async fn tell(
        lie: Lie,
        liar: String,
        world: Arc<World>,
        endpoint: Endpoint,
        told: Arc<AtomicU64>,
    ) -> Result<(), Status> {
        let mut hello = hello(&liar);
        (lie.hello)(&mut hello);
        let catalogers = hello.catalogers;
        let mut stream = Stream::attach_with(&endpoint, hello).await?;
        let container = |image| {
            let mut seen = Seen::try_from(seen(&world, &format!("{liar}-{image}"), image)).unwrap();
            (lie.layers)(&mut seen);
            v1::Container::from(&seen)
        };
        let containers = (0..world.shape.images).map(container).collect();
        stream
            .say(Report::Containers(v1::Containers {
                sequence: 1,
                full: true,
                containers,
                ..v1::Containers::default()
            }))
            .await?;
        let inventory = |layer: &LayerId| {
            let made = world.layer(layer).map(|layer| world.inventory(layer)).unwrap_or_default();
            let mut inventory = Inventory { catalogers, ..made };
            (lie.change)(&mut inventory);
            inventory.encode()
        };
        let cannot_read = |layer: LayerId| {
            let state = if let Reads::Not(state) = lie.reads { state } else { "" };
            let gone = lie.reads == Reads::Gone;
            let reason = "bad sectors".to_owned();
            Report::Unreadable(v1::Unreadable { layer: Some(layer.into()), reason, state: state.to_owned(), gone })
        };
        while let Some(order) = stream.order().await? {
            let (layers, without_marks) = match order {
                Order::Lease(lease) => (lease.layers, None),
                Order::CrossRead(cross_read) => (cross_read.layers, Some(cross_read.without_marks)),
                Order::Check(check) => {
                    let answers = v1::Answers { stack: check.stack.clone(), ..(lie.answer)(&check) };
                    stream.say(Report::Answers(answers)).await?;
                    continue;
                }
                Order::Welcome(_) | Order::Resync(_) => continue,
            };
            for layer in layers.iter().map(|layer| LayerId::try_from(layer).unwrap()) {
                match without_marks {
                    _ if lie.reads != Reads::Something => stream.say(cannot_read(layer)).await?,
                    None => {
                        let compressed = compress(&inventory(&layer)).unwrap();
                        let parts: Vec<v1::Piece> = pieces(layer, &compressed)
                            .map(|part| v1::Piece { marks: lie.read_marks && part.layer.is_some(), ..part })
                            .collect();
                        // An aggregator that refuses it is right.
                        let _ = stream.deliver(parts.into_iter()).await;
                    }
                    Some(without_marks) => {
                        let verified = v1::Verified {
                            layer: Some(layer.into()),
                            digest: Digest::of(&inventory(&layer)).0.to_vec(),
                            catalogers,
                            marks: !without_marks,
                            ..v1::Verified::default()
                        };
                        stream.say(Report::Verified(verified)).await?;
                    }
                }
                told.fetch_add(1, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    /// What is wrong with the containers of the honest nodes, and whether a container that is called scanned lacks a package.
    fn wrong(&self, service: &Service) -> (Vec<String>, bool) {
        let world = &self.fleet.world;
        let (mut wrong, mut hidden) = (Vec::new(), false);
        let mut scanned = true;
        for node in 0..HONEST {
            let expected = self.fleet.containers(node);
            let listed = service.all(&format!("/api/v1/containers?node={}", node_name(node + self.first())));
            let is_scanned = |item: &&Value| item["coverage"]["state"] == "scanned";
            let count = listed.iter().filter(is_scanned).count();
            scanned &= count == listed.len();
            if count != expected.len() {
                let coverage = listed.iter().find(|item| !is_scanned(item)).map(|item| item["coverage"].to_string());
                wrong.push(format!("{}: {count} of {} are scanned, {coverage:?}", self.lie.name, expected.len()));
            }
        }
        for image in 0..world.shape.images {
            let stack = encoded(&world.image(image).stack.to_string());
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let line =
                |item: &Value| format!("{} {} {}", text(&item["type"]), text(&item["name"]), text(&item["version"]));
            let packages = service.all(&format!("/api/v1/packages?stack={stack}"));
            let packages: BTreeSet<String> = packages.iter().map(line).collect();
            if let Some(missing) = world.packages(image).difference(&packages).next() {
                wrong.push(format!("{}: {missing} is not among {} packages", self.lie.name, packages.len()));
                hidden = scanned;
            }
        }
        (wrong, hidden)
    }

    fn first(&self) -> usize {
        self.fleet.world.shape.seed as usize % 100 * HONEST
    }
}

fn liar(number: usize) -> String {
    format!("liar-{number:02}")
}

/// Waits until nothing is wrong in any scene.
fn until_right(what: &str, service: &Service, scenes: &[&Scene]) {
    let mut last: Vec<String> = Vec::new();
    let start = std::time::Instant::now();
    loop {
        last.clear();
        scenes.iter().for_each(|scene| last.extend(scene.wrong(service).0));
        if last.is_empty() && service.status()["layers"]["disputed"] == 0 {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {}, {:#}", last.join("\n"), service.status());
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Lets these lies be told, each in a scene of its own, and checks that nothing is hidden and that distrust leaves nothing of them.
fn nothing_is_hidden(lies: Vec<Lie>, arguments: &[&str]) {
    let nodes = (0..lies.len() * HONEST).map(node_name).chain((0..lies.len()).map(liar));
    // The interval is an hour unless it is configured.
    let service = Service::start(nodes, &[&["--verify-interval", "8s"], arguments].concat());
    let runtime = runtime();
    let scenes: Vec<Scene> =
        lies.into_iter().enumerate().map(|(number, lie)| Scene::new(number, lie, &service)).collect();
    println!("  {} lies", scenes.len());
    let begin = |scene: &Scene| {
        let (world, told) = (Arc::clone(&scene.fleet.world), Arc::clone(&scene.told));
        runtime.spawn(Scene::tell(scene.lie, scene.liar.clone(), world, endpoint(&service), told))
    };
    let (first, later): (Vec<&Scene>, Vec<&Scene>) = scenes.iter().partition(|scene| scene.lie.is_first);
    // Where one node has read all, only the liar can be asked to verify that.
    runtime.block_on(async { later.iter().for_each(|scene| scene.fleet.start_nodes(0..1)) });
    let mut streams: Vec<_> = first.iter().map(|scene| begin(scene)).collect();
    for scene in &first {
        // A layer of a stack that has one only; or all of its images' layers; or those that it has leases of.
        until(&format!("the lie that {} to be told", scene.lie.name), PATIENCE, || {
            scene.told.load(Ordering::SeqCst) >= 2
        });
    }
    for Scene { fleet, lie, .. } in &later {
        until(&format!("everything to be read before the lie that {}", lie.name), PATIENCE, || {
            fleet.stored().len() == fleet.world.shape.layers
        });
    }
    streams.extend(later.iter().map(|scene| begin(scene)));
    runtime.block_on(async { first.iter().for_each(|scene| scene.fleet.start()) });
    for scene in &later {
        until(&format!("the lie that {} to be told", scene.lie.name), PATIENCE, || {
            let (wrong, hidden) = scene.wrong(&service);
            assert!(!hidden, "{wrong:#?}");
            scene.told.load(Ordering::SeqCst) >= 1
        });
    }
    runtime.block_on(async { later.iter().for_each(|scene| scene.fleet.start_nodes(1..HONEST)) });
    until_right("after the interval", &service, &scenes.iter().collect::<Vec<_>>());

    let server = format!("http://{}", service.api);
    for scene in &scenes {
        let distrusted = Command::new(OUTCROP).args(["node", "distrust", &scene.liar, "--server", &server]).output();
        assert!(distrusted.unwrap().status.success());
    }
    until("nothing that the liars read to be left", PATIENCE, || {
        let layers = service.all("/api/v1/layers");
        layers.iter().all(|layer| layer["read_by"].as_str().is_none_or(|node| !node.starts_with("liar")))
    });
    until_right("after the liars were distrusted", &service, &scenes.iter().collect::<Vec<_>>());
    streams.iter().for_each(tokio::task::JoinHandle::abort);
    scenes.iter().for_each(|scene| scene.fleet.stop());
}

#[test]
fn a_node_that_reports_first_hides_nothing_of_four_others_for_longer_than_the_interval() {
    nothing_is_hidden(lies().into_iter().filter(|lie| lie.is_first).collect(), &[]);
}

#[test]
fn a_node_that_contradicts_four_others_hides_nothing() {
    // By default a part of the layers is verified.
    let every_layer = ["--verify-share", "1", "--verify-containers", "1"];
    nothing_is_hidden(lies().into_iter().filter(|lie| !lie.is_first).collect(), &every_layer);
}
