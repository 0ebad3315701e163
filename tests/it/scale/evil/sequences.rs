//! Hostile sequences: connections and streams that wait, return again and again, or answer orders that were never sent.

use std::io::Write as _;
use std::time::Duration;

use outcrop_proto::identity::chain_ids;
use outcrop_proto::inventory::compress;
use outcrop_proto::wire::Refusal::{Malformed, Node as OtherNode, Replaced, TimedOut, Token, WireVersion};
use outcrop_proto::wire::v1::order::Order;
use outcrop_proto::wire::v1::report::Report;
use outcrop_proto::wire::{Seen, v1};
use outcrop_proto::{Digest, Inventory, LayerId, Node, Package, PackageType};

use tonic::Status;

use super::super::node::{Stream, endpoint, hello, node_name, pieces};
use super::super::service::{token, until};
use super::bytes::{RawCall, encoded, report_with};
use super::deliveries::{layer, of_packages};
use super::encodings::{EMPTY, fact, number, sharing};
use super::messages::controls;
use super::table::Effect::{Accepted, Anonymous, Dropped, Refused};
use super::table::Kind::{Run, Wait};
use super::table::{Attack, Sequence, Waiting, attack};
use super::{Place, containers, excluded, noise, own_layer};

pub(super) fn all() -> Vec<Attack> {
    let mut all = waiting();
    all.extend(identities());
    all.extend(repeated());
    all.extend(answers());
    all
}

/// What says nothing, at once or after a while.
fn waiting() -> Vec<Attack> {
    let wait: [(&str, Waiting); 2] = [
        ("a stream without a Hello", |place, node| {
            let call = RawCall { stays_open: true, ..RawCall::attach(node, Vec::new()) };
            place.runtime.spawn(call.run(endpoint(&place.service)))
        }),
        ("a delivery that stands still", |place, node| {
            let (stream, layer) = place.leased(node);
            let first = pieces(layer, &noise(100, 1)).next().unwrap();
            place.runtime.spawn(async move {
                let (parts, delivery) = stream.begin();
                parts.send(first).await.unwrap();
                let ended = delivery.await.unwrap().err();
                drop((parts, stream));
                ended
            })
        }),
    ];
    let run: [(&str, Sequence); 5] = [
        ("three hundred half-open connections", |place, _| {
            (0..300).for_each(|_| place.hold(place.connect_elsewhere()));
            Vec::new()
        }),
        ("handshakes that stop after five bytes", |place, _| {
            for _ in 0..100 {
                let mut connection = place.connect_elsewhere();
                connection.write_all(b"\x16\x03\x01\xff\xff").unwrap();
                place.hold(connection);
            }
            Vec::new()
        }),
        ("noise where a handshake belongs", |place, _| {
            for salt in 0..20 {
                let _ = place.connect_elsewhere().write_all(&noise(10_000, salt));
            }
            Vec::new()
        }),
        ("connections without a call", |place, _| {
            for _ in 0..50 {
                place.hold(place.runtime.block_on(endpoint(&place.service).connect()).unwrap());
            }
            Vec::new()
        }),
        ("a stream that says nothing after its Hello, and reads no orders", |place, node| {
            let mut stream = place.attach(node);
            // Each asks for everything again. The aggregator may end the stream before all are sent, since its queue of orders is full.
            let gaps = (0..400).map(|sequence| containers(7 * sequence, false, Vec::new()));
            assert!(place.say(&stream, Duration::from_secs(60), gaps) || place.end(&mut stream) != tonic::Code::Ok);
            place.hold(stream);
            Vec::new()
        }),
    ];
    let wait = wait.map(|(name, run)| attack(name, Refused(TimedOut), Wait(run)));
    wait.into_iter().chain(run.map(|(name, run)| attack(name, Accepted, Run(run)))).collect()
}

/// A call of `node` whose first message is this.
fn first(place: &Place, node: &str, message: Vec<u8>) -> Vec<Status> {
    let call = RawCall::attach(node, vec![message]);
    place.runtime.block_on(call.run(endpoint(&place.service))).into_iter().collect()
}

/// A Hello of `node`, changed.
fn hello_with(place: &Place, node: &str, change: fn(&mut v1::Hello)) -> Vec<Status> {
    let mut hello = hello(node);
    change(&mut hello);
    first(place, node, encoded(Report::Hello(hello)))
}

/// Who a node says that it is.
fn identities() -> Vec<Attack> {
    fn attach(place: &Place, node: &str, token: Option<String>, messages: Vec<Vec<u8>>) -> Vec<Status> {
        let call = RawCall { token, ..RawCall::attach(node, messages) };
        place.runtime.block_on(call.run(endpoint(&place.service))).into_iter().collect()
    }
    fn compressed(place: &Place, node: &str, message: Vec<u8>) -> Vec<Status> {
        let messages = vec![encoded(Report::Hello(hello(node))), message];
        let call = RawCall { is_compressed: true, ..RawCall::attach(node, messages) };
        place.runtime.block_on(call.run(endpoint(&place.service))).into_iter().collect()
    }
    let all: [(&str, _, Sequence); 13] = [
        ("a stream that ends before its Hello", Refused(Malformed), |place, node| {
            attach(place, node, Some(token(node)), Vec::new())
        }),
        ("no token", Anonymous(Token), |place, node| {
            attach(place, node, None, vec![encoded(Report::Hello(hello(node)))])
        }),
        ("a token of nobody", Anonymous(Token), |place, node| {
            attach(place, node, Some("0".repeat(64)), vec![encoded(Report::Hello(hello(node)))])
        }),
        ("a token of 4 KB", Anonymous(Token), |place, node| {
            attach(place, node, Some("x".repeat(4000)), vec![encoded(Report::Hello(hello(node)))])
        }),
        ("the name of an honest node", Refused(OtherNode), |place, node| {
            first(place, node, encoded(Report::Hello(hello(&node_name(0)))))
        }),
        ("wire version 0", Refused(WireVersion), |place, node| hello_with(place, node, |hello| hello.wire_version = 0)),
        ("the last wire version", Refused(WireVersion), |place, node| {
            hello_with(place, node, |hello| hello.wire_version = u32::MAX)
        }),
        ("a Hello of control characters", Accepted, |place, node| {
            hello_with(place, node, |hello| (hello.agent_version, hello.cage) = (controls(1000), controls(1000)))
        }),
        ("the last version of catalogers", Accepted, |place, node| {
            hello_with(place, node, |hello| hello.catalogers = u32::MAX)
        }),
        ("16 MiB of empty containers, compressed to 1.4 KB", Anonymous(Malformed), |place, node| {
            compressed(place, node, report_with(3, &[0x1a, 0].repeat(8 << 20)))
        }),
        ("16 MiB of empty roles, compressed", Anonymous(Malformed), |place, node| {
            compressed(place, node, report_with(8, &[0x0a, 0].repeat(8 << 20)))
        }),
        ("a small message, compressed", Anonymous(Malformed), |place, node| {
            compressed(place, node, encoded(Report::Metrics(v1::Metrics::default())))
        }),
        ("two agents with one name and token", Refused(Replaced), |place, node| {
            let agent = |instance| {
                let hello = v1::Hello { instance, ..hello(node) };
                RawCall::attach(node, vec![encoded(Report::Hello(hello))])
            };
            let former = RawCall { stays_open: true, ..agent(1) };
            let former = place.runtime.spawn(former.run(endpoint(&place.service)));
            until("the first agent to attach", Duration::from_secs(20), || {
                place.service.json(&format!("/api/v1/nodes?name={node}"))["items"][0]["attached"] == true
            });
            place.runtime.block_on(agent(2).run(endpoint(&place.service)));
            place.runtime.block_on(former).unwrap().into_iter().collect()
        }),
    ];
    all.map(|(name, effect, run)| attack(name, effect, Run(run))).into()
}

/// The same again and again.
fn repeated() -> Vec<Attack> {
    let all: [(&str, _, Sequence); 5] = [
        ("fifty streams of one agent", Accepted, |place, node| {
            (0..50).for_each(|_| place.hold(place.attach(node)));
            Vec::new()
        }),
        ("two hundred calls that are canceled as they begin", Accepted, |place, node| {
            let stream = place.attach(node);
            place.runtime.block_on(async {
                for _ in 0..200 {
                    let (_, delivery) = stream.begin();
                    tokio::task::yield_now().await;
                    delivery.abort();
                }
            });
            Vec::new()
        }),
        ("four hundred cross-reads that nobody asked for", Dropped(400), |place, node| {
            let verified =
                v1::Verified { layer: Some(own_layer(node).0.into()), digest: vec![1; 32], ..v1::Verified::default() };
            let mut stream = place.attach(node);
            assert!(place.say(&stream, Duration::from_secs(60), std::iter::repeat_n(Report::Verified(verified), 400)));
            place.finish(&mut stream);
            Vec::new()
        }),
        ("a flood of changes", Accepted, |place, node| {
            let mut stream = place.attach(node);
            let changes = (1..400).map(|number| containers(number, number == 1, vec![excluded(format!("c{number}"))]));
            assert!(place.say(&stream, Duration::from_secs(60), changes));
            place.finish(&mut stream);
            Vec::new()
        }),
        ("the layers of every image, and none of them delivered", Accepted, |place, node| {
            let world = &place.fleet.world;
            let seen = |image| super::super::node::seen(world, &format!("{node}-{image}"), image);
            let stream = place.attach(node);
            let all = (0..world.shape.images).map(seen).collect();
            assert!(place.say(&stream, Duration::from_secs(20), std::iter::once(containers(1, true, all))));
            place.hold(stream);
            Vec::new()
        }),
    ];
    all.map(|(name, effect, run)| attack(name, effect, Run(run))).into()
}

/// A stack of two layers that only this node has, whose paths cannot be decided without it: a package database that the upper layer may
/// hide, and one that it leads to.
fn asked(place: &Place, node: &str) -> (Stream, v1::Check) {
    let diffs = ["base", "app"].map(|layer| Digest::of(format!("{node} {layer}").as_bytes()));
    let chain = chain_ids(&diffs);
    let layers = [LayerId::Diff(diffs[1]), LayerId::Chain(chain[0])];
    let seen = Seen {
        stack: Some((chain[1], layers.to_vec())),
        refused: None,
        ..Seen::try_from(excluded(node.to_owned())).unwrap()
    };
    let bash = Package::new(PackageType::Deb, "bash".to_owned(), "5.2-1".to_owned());
    let base = of_packages("var/lib/dpkg/status", "dpkg", vec![bash]);
    let file = |path: &str| (path.as_bytes().to_vec(), Node::File);
    let base = Inventory {
        paths: super::encodings::table(&[file("data/apk/installed"), file("var/lib/dpkg/status")]),
        ..base
    };
    let link = (b"lib/apk/db".to_vec(), Node::Symlink(b"/data/apk"));
    let app = layer(&[file("var/lib/x"), link], &[], super::encodings::one_package());
    let mut stream = place.attach(node);
    assert!(place.say(&stream, Duration::from_secs(20), std::iter::once(containers(1, true, vec![(&seen).into()]))));
    // A node has one lease until its first delivery.
    for _ in 0..2 {
        let leased = place.lease(&mut stream);
        assert_eq!(leased.len(), 1);
        let inventory = if leased[0] == layers[0] { &app } else { &base };
        let compressed = compress(&inventory.encode()).unwrap();
        // Without overlay's marks, so that directories may be opaque.
        let parts = pieces(leased[0], &compressed).map(|part| v1::Piece { marks: false, ..part });
        place.runtime.block_on(stream.deliver(parts.collect::<Vec<_>>().into_iter())).unwrap();
    }
    let check = async {
        loop {
            if let Some(Order::Check(check)) = stream.order().await.unwrap() {
                return check;
            }
        }
    };
    let within = async { tokio::time::timeout(Duration::from_secs(60), check).await };
    let check = place.runtime.block_on(within).expect("a check");
    assert!(!check.unread.is_empty() && !check.doubtful.is_empty(), "{check:?}");
    (stream, check)
}

/// Answers a real check, and waits until the container has its final state.
fn answer(place: &Place, node: &str, say: impl FnOnce(&v1::Check) -> Vec<v1::Answers>) -> Vec<Status> {
    let (mut stream, check) = asked(place, node);
    let answers = say(&check).into_iter().map(|answers| v1::Answers { stack: check.stack.clone(), ..answers });
    assert!(place.say(&stream, Duration::from_secs(60), answers.map(Report::Answers)));
    until(&format!("the container of {node} to be decided"), Duration::from_secs(60), || {
        let listed = place.service.all(&format!("/api/v1/containers?node={node}"));
        // A second round of attacks by the same node begins without the containers of the first.
        listed.first().is_some_and(|container| container["coverage"]["state"] != "pending")
    });
    place.finish(&mut stream);
    Vec::new()
}

fn read(path: &[u8], fact: Vec<u8>) -> v1::Answer {
    v1::Answer { path: path.to_vec(), read: Some(v1::answer::Read::Fact(fact)) }
}

/// Answers to checks.
fn answers() -> Vec<Attack> {
    let all: [(&str, _, Sequence); 6] = [
        ("an answer with 20,000 facts that nobody asked for", Accepted, |place, node| {
            answer(place, node, |_| {
                let answers = (0..20_000).map(|path: u32| read(&path.to_le_bytes(), noise(8, path.into()))).collect();
                vec![v1::Answers { answers, ..v1::Answers::default() }]
            })
        }),
        ("an answer with 50,000 hidden paths that nobody doubts", Accepted, |place, node| {
            answer(place, node, |_| {
                let hidden = (0..50_000).map(|path| format!("var/lib/{path}").into_bytes()).collect();
                vec![v1::Answers { hidden, ..v1::Answers::default() }]
            })
        }),
        ("an answer with one path 20,000 times", Accepted, |place, node| {
            answer(place, node, |check| {
                let (answers, hidden) =
                    (vec![read(&check.unread[0], Vec::new()); 20_000], vec![check.doubtful[0].clone(); 20_000]);
                vec![v1::Answers { answers, hidden, ..v1::Answers::default() }]
            })
        }),
        ("a fact whose claims share a long path", Accepted, |place, node| {
            answer(place, node, |check| {
                let claims = [number(60_000), sharing(4000, 60_000, &[0, 0])].concat();
                let fact = fact([EMPTY, &claims, EMPTY, EMPTY]);
                vec![v1::Answers { answers: vec![read(&check.unread[0], fact)], ..v1::Answers::default() }]
            })
        }),
        ("undecided paths with reasons of a megabyte", Accepted, |place, node| {
            answer(place, node, |check| {
                let undecided = |path: &Vec<u8>| v1::Undecided { path: path.clone(), reason: controls(1 << 20) };
                vec![v1::Answers {
                    undecided: check.doubtful.iter().take(3).map(undecided).collect(),
                    ..Default::default()
                }]
            })
        }),
        ("an answer given a hundred times", Dropped(99), |place, node| {
            answer(place, node, |check| {
                let hidden = check.doubtful.clone();
                vec![v1::Answers { hidden, ..v1::Answers::default() }; 100]
            })
        }),
    ];
    all.map(|(name, effect, run)| attack(name, effect, Run(run))).into()
}
