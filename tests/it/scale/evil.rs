//! Nodes that lie, flood and send nonsense: each is refused, disputed or made to wait, and no other node notices.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outcrop_agent::catalog;
use outcrop_proto::inventory::{Inventory, compress};
use outcrop_proto::wire::v1::order::Order;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{Seen, VERSION, v1};
use outcrop_proto::{Coverage, Digest, LayerId};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use super::load::{count, runtime, sample, settle};
use super::node::{Counts, Fleet, Stream, endpoint, kubernetes_key, node_name, report, seen};
use super::service::{Service, token, until};
use super::world::{Shape, World, mix};

/// Most that the aggregator may take, in a debug build and with everything that follows at once.
const MEMORY: u64 = 700 << 20;

/// How many names there are for nodes that are not honest.
const NAMES: u32 = 64;

fn names(shape: Shape) -> impl Iterator<Item = String> {
    (0..shape.nodes).map(node_name).chain((0..NAMES).map(|number| format!("evil-{number}")))
}

/// An aggregator, honest nodes with containers that come and go, and names of others.
struct Place {
    service: Service,
    fleet: Arc<Fleet>,
    runtime: tokio::runtime::Runtime,
    used: AtomicU32,
}

impl Place {
    fn start(arguments: &[&str]) -> Self {
        let shape = Shape::SMALL;
        let service = Service::start(names(shape), arguments);
        let fleet = Fleet::new(World::new(shape), &service);
        Self { service, fleet, runtime: runtime(), used: AtomicU32::new(0) }
    }

    fn honest(&self) {
        self.runtime.block_on(async { self.fleet.start() });
    }

    /// A name that was not used yet.
    fn name(&self) -> String {
        format!("evil-{}", self.used.fetch_add(1, Ordering::Relaxed))
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
    // Hundreds of thousands of reports of each kind that cost something: the node waits for them, and nobody else.
    let flooding: Vec<Stream> = (0..3).map(|_| place.attach(&place.name())).collect();
    let kinds: [fn(u64) -> Report; 3] = [
        |_| Report::Metrics(v1::Metrics::default()),
        |number| containers(number + 1, true, (0..500).map(|id| excluded(format!("{number}-{id:0>40}"))).collect()),
        |number| Report::Answers(v1::Answers { stack: noise(32, number), ..v1::Answers::default() }),
    ];
    for (stream, kind) in flooding.iter().zip(kinds) {
        let all = place.say(stream, Duration::from_secs(5), (0..300_000).map(kind));
        assert!(!all, "a flood was taken as it came");
    }
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
fn inventories_without_end_bombs_and_nonsense_are_refused() {
    let place = Place::start(&[]);
    place.honest();
    place.fleet.churn(Duration::from_millis(500));
    let bomb = compress(&vec![0; 400 << 20]).unwrap();
    let nested = compress(&bomb).unwrap();
    let mut long = compress(&Inventory { catalogers: catalog::VERSION, ..Inventory::default() }.encode()).unwrap();
    long.push(0);
    let newer = compress(&Inventory { catalogers: 900, ..Inventory::default() }.encode()).unwrap();
    let cases = [
        ("1 GiB", Code::ResourceExhausted, vec![vec![0xa5; 1 << 20]; 1024]),
        ("a bomb", Code::InvalidArgument, vec![bomb]),
        ("a bomb in a bomb", Code::InvalidArgument, vec![nested]),
        ("noise", Code::InvalidArgument, vec![noise(100_000, 1)]),
        ("bytes after the end", Code::InvalidArgument, vec![long]),
        ("other catalogers", Code::InvalidArgument, vec![newer]),
        ("nothing", Code::InvalidArgument, vec![Vec::new()]),
    ];
    let number = cases.len() as u64;
    for (what, code, bytes) in cases {
        let mut stream = place.attach(&place.name());
        let (layer, container) = own_layer(what);
        assert!(place.say(&stream, Duration::from_secs(20), std::iter::once(containers(1, true, vec![container]))));
        assert_eq!(place.lease(&mut stream), [layer], "{what}");
        let refused = place.runtime.block_on(stream.deliver(pieces(layer, bytes.into_iter())));
        assert_eq!(refused.err().map(|status| status.code()), Some(code), "{what}");
    }
    until("all to be counted", Duration::from_secs(20), || place.reports("refused") == number);
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
            let name = place.name();
            let mut stream = place.attach(&name);
            let (layer, container) = own_layer(&name);
            assert!(place.say(&stream, Duration::from_secs(20), std::iter::once(containers(1, true, vec![container]))));
            assert_eq!(place.lease(&mut stream), [layer]);
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

/// Sends bytes as they are, where a message should be.
#[derive(Clone, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        use prost::bytes::BufMut as _;
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        use prost::bytes::Buf as _;
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

#[test]
fn bytes_that_are_no_messages_end_the_stream_and_nothing_else() {
    use prost::Message as _;
    let place = Place::start(&[]);
    place.honest();
    place.fleet.churn(Duration::from_millis(500));
    let name = place.name();
    let hello =
        v1::Hello { node: name.clone(), catalogers: catalog::VERSION, wire_version: VERSION, ..v1::Hello::default() };
    let hello = report(Report::Hello(hello)).encode_to_vec();
    let good = report(containers(1, true, vec![seen(&place.fleet.world, "x", 0)])).encode_to_vec();
    let mut nonsense: Vec<Vec<u8>> = (0..40).map(|salt| noise(1 + salt as usize * 37, salt)).collect();
    nonsense.extend((1..40).map(|cut| good[..good.len() * cut / 40].to_vec()));
    nonsense.extend((0..40).map(|flip| {
        let mut bytes = good.clone();
        let at = mix(&[9, flip]) as usize % bytes.len();
        bytes[at] ^= 1 << (flip % 8);
        bytes
    }));
    // More than a message may hold.
    nonsense.extend([vec![0; 20 << 20], vec![0; 64 << 20]]);
    // Fields of a report that repeat embedded messages without content: two bytes each, a struct each.
    let repeated = |number: u8, tag: u8| {
        let list = v1::Report { cluster: String::new(), report: None }.encode_to_vec();
        let items = [tag << 3 | 2, 0].repeat(1 << 20);
        let mut bytes = list;
        prost::encoding::encode_key(number.into(), prost::encoding::WireType::LengthDelimited, &mut bytes);
        prost::encoding::encode_varint(items.len() as u64, &mut bytes);
        bytes.extend(items);
        bytes
    };
    nonsense.extend([(3, 3), (3, 4), (6, 2), (6, 3), (6, 4), (8, 1)].map(|(number, tag)| repeated(number, tag)));
    let plain = nonsense.len();
    // Compressed messages are not accepted, whatever they hold.
    nonsense.extend([good, vec![0; 16 << 20], repeated(3, 3)]);
    let endpoint = endpoint(&place.service);
    for (number, bytes) in nonsense.into_iter().enumerate() {
        let (first, compressed) = (number.is_multiple_of(5), number >= plain);
        place.runtime.block_on(async {
            let channel = endpoint.connect().await.unwrap();
            let mut client = tonic::client::Grpc::new(channel).max_encoding_message_size(128 << 20);
            if compressed {
                client = client.send_compressed(CompressionEncoding::Zstd);
            }
            let (reports, outbox) = tokio::sync::mpsc::channel(4);
            if !first {
                reports.send(hello.clone()).await.unwrap();
            }
            reports.send(bytes).await.unwrap();
            drop(reports);
            let mut request = Request::new(ReceiverStream::new(outbox));
            request.metadata_mut().insert("authorization", format!("Bearer {}", token(&name)).parse().unwrap());
            client.ready().await.unwrap();
            let path = tonic::codegen::http::uri::PathAndQuery::from_static("/outcrop.v1.Collector/Attach");
            if let Ok(orders) = client.streaming(request, path, Raw).await {
                let mut orders = orders.into_inner();
                let end = async { while let Ok(Some(())) = orders.message().await {} };
                tokio::time::timeout(Duration::from_secs(60), end).await.expect("the stream to end");
            }
        });
    }
    assert!(place.reports("refused") >= 40, "{}", place.service.status());
    // And where TLS should be.
    for salt in 0..20 {
        let mut stream = TcpStream::connect(place.service.listen).unwrap();
        let _ = stream.write_all(&noise(10_000, salt));
    }
    place.unharmed();
}
