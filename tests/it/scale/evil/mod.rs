//! Nodes that send false data, floods or nonsense: each is refused, disputed or made to wait, and no other node is affected.

mod budgets;
mod bytes;
mod deliveries;
#[allow(dead_code, reason = "the tests of outcrop-proto use the rest")]
#[path = "../../../../proto/tests/encodings/mod.rs"]
pub(crate) mod encodings;
#[allow(dead_code, reason = "benches/service measures")]
pub(crate) mod measured;
mod messages;
mod sequences;
mod table;
mod tenants;

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outcrop_agent::catalog;
use outcrop_proto::inventory::{Inventory, compress};
use outcrop_proto::wire::v1::order::Order;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{Seen, v1};
use outcrop_proto::{Coverage, Digest, LayerId};
use tokio::net::TcpSocket;
use tonic::{Code, Status};

use super::load::{count, runtime, sample, settle};
use super::node::{Counts, Fleet, Stream, endpoint, kubernetes_key, node_name, seen};
use super::service::{Service, until};
use super::world::{Shape, World, mix};
use crate::skip::skip;

/// The memory of the aggregator's control group, in a debug build and with everything that follows at once.
const LIMIT: u64 = 1 << 30;

/// Most that the aggregator's own memory may be; the limit of its control group holds its files as well.
const MEMORY: u64 = 700 << 20;

/// How many names there are for nodes that are not honest.
const NAMES: u32 = 2048;

fn evil_name(number: u32) -> String {
    format!("evil-{number:04}")
}

fn names(shape: Shape) -> impl Iterator<Item = String> {
    (0..shape.nodes).map(node_name).chain((0..NAMES).map(evil_name))
}

/// An aggregator with limited memory, honest nodes with containers that come and go, and names of others.
pub(crate) struct Place {
    pub(crate) service: Service,
    pub(crate) fleet: Arc<Fleet>,
    runtime: tokio::runtime::Runtime,
    used: AtomicU32,
    /// Connections and streams that stay open.
    held: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Place {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(Shape::SMALL, arguments)
    }

    fn start_with(shape: Shape, arguments: &[&str]) -> Self {
        let service = Service::start_within(names(shape), arguments, LIMIT);
        if service.group.is_none() {
            skip("root", "limiting the memory of the aggregator");
        }
        let fleet = Fleet::new(World::new(shape), &service);
        Self { service, fleet, runtime: runtime(), used: AtomicU32::new(0), held: Mutex::default() }
    }

    fn honest(&self) {
        self.runtime.block_on(async { self.fleet.start() });
    }

    /// A name that no attack of this round uses. Names come again after many rounds.
    fn name(&self) -> String {
        evil_name(self.used.fetch_add(1, Ordering::Relaxed) % NAMES)
    }

    fn attach(&self, name: &str) -> Stream {
        let endpoint = endpoint(&self.service);
        let mut stream = self.runtime.block_on(Stream::attach(&endpoint, name)).unwrap();
        assert!(matches!(self.runtime.block_on(stream.order()), Ok(Some(Order::Welcome(_)))));
        stream
    }

    /// Says something as `stream`, as long as it takes it within `within`; whether all was taken.
    fn say(&self, stream: &Stream, within: Duration, what: impl Iterator<Item = Report>) -> bool {
        self.runtime.block_on(async {
            let all = async {
                for what in what {
                    if stream.say(what).await.is_err() {
                        return false;
                    }
                }
                true
            };
            tokio::time::timeout(within, all).await.unwrap_or(false)
        })
    }

    /// Why the stream was ended.
    fn end(&self, stream: &mut Stream) -> Code {
        let ended = async {
            loop {
                match stream.order().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Code::Ok,
                    Err(status) => return status.code(),
                }
            }
        };
        let within = async { tokio::time::timeout(Duration::from_secs(60), ended).await };
        self.runtime.block_on(within).expect("the stream to be ended")
    }

    /// The next lease or cross-read that the stream is given.
    fn lease(&self, stream: &mut Stream) -> Vec<LayerId> {
        let lease = async {
            loop {
                if let Some(Order::Lease(lease)) = stream.order().await.unwrap() {
                    return lease.layers.iter().filter_map(|id| LayerId::try_from(id).ok()).collect();
                }
            }
        };
        let within = async { tokio::time::timeout(Duration::from_secs(60), lease).await };
        self.runtime.block_on(within).expect("a lease")
    }

    /// Sends hundreds of thousands of reports of each kind that cost something, for `time` each. The node waits for them, and nobody else.
    fn flood(&self, time: Duration) -> Vec<Stream> {
        let kinds: [fn(u64) -> Report; 3] = [
            |_| Report::Metrics(v1::Metrics::default()),
            |number| containers(number + 1, true, (0..500).map(|id| excluded(format!("{number}-{id:0>40}"))).collect()),
            |number| Report::Answers(v1::Answers { stack: noise(32, number), ..v1::Answers::default() }),
        ];
        let streams: Vec<Stream> = kinds.iter().map(|_| self.attach(&self.name())).collect();
        for (stream, kind) in streams.iter().zip(kinds) {
            assert!(!self.say(stream, time, (0..300_000).map(kind)), "a flood was taken as it came");
        }
        streams
    }

    /// Connects from an address that no honest node has: handshakes are limited by address.
    fn connect_elsewhere(&self) -> TcpStream {
        let connect = async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 66, 0, 1], 0))).unwrap();
            let connection = socket.connect(self.service.listen).await.unwrap().into_std().unwrap();
            connection.set_nonblocking(false).unwrap();
            connection
        };
        self.runtime.block_on(connect)
    }

    /// Keeps a connection or a stream open until everything is over.
    fn hold(&self, what: impl Any + Send) {
        self.held.lock().unwrap().push(Box::new(what));
    }

    /// Ends the reports of a stream, and waits until the aggregator has handled all of them.
    fn finish(&self, stream: &mut Stream) {
        stream.reports = tokio::sync::mpsc::channel(1).0;
        assert_eq!(self.end(stream), Code::Ok);
    }

    /// Attaches as `node`, with a layer that no other node has, and waits until the layer is leased to it.
    fn leased(&self, node: &str) -> (Stream, LayerId) {
        let mut stream = self.attach(node);
        let (layer, container) = own_layer(node);
        assert!(self.say(&stream, Duration::from_secs(20), std::iter::once(containers(1, true, vec![container]))));
        assert_eq!(self.lease(&mut stream), [layer]);
        (stream, layer)
    }

    /// Delivers these bytes, part by part, as the inventory of a layer that only `node` has.
    fn deliver_own(
        &self,
        node: &str,
        parts: impl Iterator<Item = Vec<u8>> + Send + 'static,
    ) -> Result<v1::Stored, Status> {
        let (stream, layer) = self.leased(node);
        self.runtime.block_on(stream.deliver(pieces(layer, parts)))
    }

    fn reports(&self, what: &str) -> u64 {
        self.service.status()["reports"][what].as_u64().unwrap()
    }

    /// Honest nodes were served all the while, and nothing of it is wrong.
    fn unharmed(&self) {
        self.fleet.churn(Duration::ZERO);
        std::thread::sleep(Duration::from_secs(1));
        let shape = self.fleet.world.shape;
        until("the honest nodes' containers to be scanned", Duration::from_secs(120), || {
            let honest = (0..shape.nodes).map(node_name).map(|node| {
                let containers = self.service.all(&format!("/api/v1/containers?node={node}&coverage=scanned"));
                containers.len()
            });
            honest.sum::<usize>() == shape.containers
        });
        assert_eq!(Counts::get(&self.fleet.counts.failures), 0, "streams of honest nodes ended");
        let (_, wrong) = sample(&self.service, &self.fleet, 8);
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(self.fleet.lost.lock().unwrap().is_empty());
        let peak = self.service.memory("VmHWM");
        println!("  the aggregator took {} MiB at most", peak >> 20);
        assert!(peak < MEMORY, "the aggregator took {} MiB", peak >> 20);
        assert_eq!(self.service.group.as_ref().map_or(0, crate::control_group::Group::kills), 0);
        self.fleet.stop();
    }
}

fn containers(sequence: u64, full: bool, containers: Vec<v1::Container>) -> Report {
    Report::Containers(v1::Containers { sequence, full, containers, ..v1::Containers::default() })
}

/// A container that is not looked into.
fn excluded(id: String) -> v1::Container {
    let seen = Seen {
        name: id.clone(),
        key: kubernetes_key(id),
        storage: None,
        pod: None,
        image: String::new(),
        stack: None,
        refused: Some(Coverage::unsupported("none")),
        steps: Vec::new(),
        details: None,
    };
    (&seen).into()
}

/// A container of one layer that nobody else has.
fn own_layer(name: &str) -> (LayerId, v1::Container) {
    let digest = Digest::of(name.as_bytes());
    let layer = LayerId::Chain(digest);
    let stack = Some((digest, vec![layer]));
    let seen = Seen { stack, refused: None, ..Seen::try_from(excluded(name.to_owned())).unwrap() };
    (layer, (&seen).into())
}

/// A layer's identity, and then these bytes.
fn pieces(layer: LayerId, bytes: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = v1::Piece> {
    let more = bytes.map(|bytes| v1::Piece { bytes, ..v1::Piece::default() });
    super::node::pieces(layer, &[]).chain(more)
}

fn noise(length: usize, salt: u64) -> Vec<u8> {
    (0..length.div_ceil(8) as u64).flat_map(|number| mix(&[salt, number]).to_le_bytes()).take(length).collect()
}

#[test]
fn floods_wait_and_lists_without_end_are_refused() {
    let place = Place::start(&[]);
    place.honest();
    place.fleet.churn(Duration::from_millis(500));
    let flooding = place.flood(Duration::from_secs(5));
    // More containers than a node can have: at once, and one after the other.
    for (lists, each) in [(1, 21_000), (50, 2_000)] {
        let mut stream = place.attach(&place.name());
        let list = |number: u64| (0..each).map(move |id| excluded(format!("{number}-{id:0>40}"))).collect();
        place.say(
            &stream,
            Duration::from_secs(60),
            (0..lists).map(|number| containers(number + 1, number == 0, list(number))),
        );
        assert_eq!(place.end(&mut stream), Code::ResourceExhausted, "{lists} lists");
    }
    until("both to be counted", Duration::from_secs(20), || place.reports("refused") == 2);
    drop(flooding);
    place.unharmed();
}

#[test]
fn many_streams_of_one_token_are_one_node() {
    let place = Place::start(&[]);
    place.honest();
    let name = place.name();
    let mut streams: Vec<Stream> = (0..200).map(|_| place.attach(&name)).collect();
    let nodes = place.fleet.world.shape.nodes + 1;
    until("one node", Duration::from_secs(60), || place.service.status()["nodes"]["attached"] == nodes);
    let last = streams.pop().unwrap();
    for mut stream in streams {
        // Whatever it is told: it is over.
        place.end(&mut stream);
    }
    assert!(place.say(&last, Duration::from_secs(5), std::iter::once(Report::Metrics(v1::Metrics::default()))));
    place.unharmed();
}

#[test]
fn lies_about_containers_of_others_change_nothing_of_theirs() {
    let place = Place::start(&[]);
    place.honest();
    place.fleet.churn(Duration::from_millis(500));
    settle(&place.service, place.fleet.world.shape, false);
    let stream = place.attach(&place.name());
    let world = &place.fleet.world;
    // It claims the containers of another node as its own, with another image, and then says that all are gone.
    let victims: BTreeMap<String, usize> = place.fleet.containers(0);
    let shape = world.shape;
    let lies = victims.iter().map(|(id, image)| seen(world, id, (image + 1) % shape.images)).collect();
    let key = |id: &String| -> v1::ContainerKey { (&kubernetes_key(id.clone())).into() };
    let gone = v1::Containers { sequence: 2, gone: victims.keys().map(key).collect(), ..v1::Containers::default() };
    assert!(place.say(
        &stream,
        Duration::from_secs(20),
        [containers(1, true, lies), Report::Containers(gone)].into_iter()
    ));
    // A stack whose layers are not those that its identity follows from.
    let mut liar = place.attach(&place.name());
    let mut lie = seen(world, "lie", 0);
    lie.layers.reverse();
    place.say(&liar, Duration::from_secs(20), std::iter::once(containers(1, true, vec![lie])));
    assert_eq!(place.end(&mut liar), Code::InvalidArgument);
    drop(stream);
    place.unharmed();
}

#[test]
fn an_empty_inventory_for_a_shared_base_is_disputed_and_put_right() {
    let arguments = ["--verify-share", "1", "--verify-containers", "1", "--verify-interval", "2s"];
    let place = Place::start(&arguments);
    // It comes first, has a container of each image, and says of every layer that nothing is in it.
    let mut evil = place.attach(&place.name());
    let world = Arc::clone(&place.fleet.world);
    let all = (0..world.shape.images).map(|image| seen(&world, &format!("evil-{image}"), image)).collect();
    assert!(place.say(&evil, Duration::from_secs(20), std::iter::once(containers(1, true, all))));
    let empty = compress(&Inventory { catalogers: catalog::VERSION, ..Inventory::default() }.encode()).unwrap();
    let mut lied = 0;
    while lied < 12 {
        for layer in place.lease(&mut evil) {
            lied += 1;
            let empty = std::iter::once(empty.clone());
            place.runtime.block_on(evil.deliver(pieces(layer, empty))).unwrap();
        }
    }
    until("the lies to be stored", Duration::from_secs(20), || place.reports("inventories") >= 12);
    place.honest();
    let mut disputed = 0;
    until("the lies to be contradicted", Duration::from_secs(60), || {
        let status = place.service.status();
        disputed = disputed.max(status["layers"]["disputed"].as_u64().unwrap());
        status["reports"]["contradicted"].as_u64().unwrap() >= 12
    });
    // What it holds leases on, others may read now.
    drop(evil);
    // A third node settles it: what everybody is told in the end is what the honest nodes read.
    until("every dispute to be settled", Duration::from_secs(120), || {
        let status = place.service.status();
        status["layers"]["disputed"] == 0 && count(&status, "pending") == 0
    });
    println!("  {disputed} layers were disputed at a time");
    place.unharmed();
}

#[test]
fn a_delivery_that_is_cut_off_at_any_moment_leaves_no_layer_waiting() {
    const LAYERS: u64 = 150;
    let place = Place::start(&[]);
    let mut stream = place.attach(&place.name());
    let all = (0..LAYERS).map(|number| own_layer(&format!("cut-{number}")).1).collect();
    assert!(place.say(&stream, Duration::from_secs(20), std::iter::once(containers(1, true, all))));
    let empty = compress(&Inventory { catalogers: catalog::VERSION, ..Inventory::default() }.encode()).unwrap();
    let mut cut = 0;
    place.runtime.block_on(async {
        // A lease that was given without its order would not come for two minutes.
        while let Ok(order) = tokio::time::timeout(Duration::from_secs(10), stream.order()).await {
            let Some(Order::Lease(lease)) = order.unwrap() else { continue };
            for layer in lease.layers.iter().filter_map(|id| LayerId::try_from(id).ok()) {
                let deliver = || stream.deliver(pieces(layer, std::iter::once(empty.clone())));
                // Each is cut off a little later than the one before; then it is delivered, unless it was stored nevertheless.
                cut += 1;
                let _ = tokio::time::timeout(Duration::from_micros(cut * 97 % 12_000), deliver()).await;
                let _ = deliver().await;
            }
        }
    });
    assert_eq!(place.service.status()["layers"]["known"], LAYERS, "{:#}", place.service.status()["layers"]);
}

#[test]
fn inventories_that_never_end_do_not_hold_up_those_of_others() {
    let place = Place::start(&[]);
    // Eight nodes each send the most of an inventory that may be sent, and then nothing more.
    let stalled: Vec<_> = (0..8)
        .map(|number| {
            let (stream, layer) = place.leased(&place.name());
            let bytes = noise(1 << 20, number);
            place.runtime.block_on(async {
                let (sender, delivery) = stream.begin();
                let all = async {
                    for piece in pieces(layer, (0..60).map(|_| bytes.clone())) {
                        let _ = sender.send(piece).await;
                    }
                };
                let _ = tokio::time::timeout(Duration::from_secs(10), all).await;
                (stream, sender, delivery)
            })
        })
        .collect();
    place.honest();
    until("the honest nodes' layers", Duration::from_secs(60), || {
        place.fleet.stored().len() == place.fleet.world.shape.layers
    });
    drop(stalled);
    place.unharmed();
}
