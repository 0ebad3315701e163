//! Messages of a stream: first ones, and later ones.

use outcrop_proto::Digest;
use outcrop_proto::identity::{chain_ids, layer_ids};
use outcrop_proto::wire::Refusal::{Cluster, Malformed, Node, TooLarge};
use outcrop_proto::wire::v1;
use outcrop_proto::wire::v1::report::Report;
use prost::Message as _;

use super::super::node::{hello, node_name};
use super::bytes::{encoded, field, report_with};
use super::table::Effect::{Accepted, Dropped, Refused};
use super::table::Kind::{First, Later};
use super::table::{Attack, Effect, attack};
use super::{containers, excluded, noise, own_layer};

/// Characters that a terminal, a log or a page could obey, up to `length` bytes.
pub(super) fn controls(length: usize) -> String {
    "\x1b[2J\u{202e}\r\n\0<script>\u{7f}".chars().cycle().take(length / 2).collect()
}

/// Almost as much as a message may hold: `item` again and again after `before`.
fn repeated(number: u32, before: &[u8], item: &[u8]) -> Vec<u8> {
    report_with(number, &[before, &item.repeat(4_000_000 / item.len())].concat())
}

pub(super) fn all() -> Vec<Attack> {
    let mut all = first();
    all.extend(sizes());
    all.extend(of_containers());
    all.extend(of_layers());
    all
}

fn first() -> Vec<Attack> {
    let honest = || hello(&node_name(0));
    // The node's name is that of no attack: the token decides, and is checked first.
    let hello = |change: fn(&mut v1::Hello)| {
        let mut hello = honest();
        change(&mut hello);
        encoded(Report::Hello(hello))
    };
    let of_cluster = |cluster: &str, report| v1::Report { cluster: cluster.to_owned(), report }.encode_to_vec();
    let layer = v1::LayerId { id: Some(v1::layer_id::Id::Diff(vec![0; 32])) };
    [
        ("an empty message", Cluster, Vec::new()),
        ("a report without content", Malformed, of_cluster("scale", None)),
        ("a Hello of no cluster", Cluster, of_cluster("", Some(Report::Hello(honest())))),
        ("a Hello of another cluster", Cluster, of_cluster("other", Some(Report::Hello(honest())))),
        ("a Hello of another node", Node, hello(|_| {})),
        ("a Hello without a node", Node, hello(|hello| hello.node.clear())),
        ("a Hello of a node with a name of 3 KB", Node, hello(|hello| hello.node = "n".repeat(3000))),
        ("a Hello of 3 MB", TooLarge, hello(|hello| hello.agent_version = "v".repeat(3_000_000))),
        ("containers first", Malformed, encoded(containers(1, true, Vec::new()))),
        ("answers first", Malformed, encoded(Report::Answers(v1::Answers::default()))),
        ("metrics first", Malformed, encoded(Report::Metrics(v1::Metrics::default()))),
        ("a cross-read first", Malformed, encoded(Report::Verified(v1::Verified::default()))),
        (
            "an unreadable layer first",
            Malformed,
            encoded(Report::Unreadable(v1::Unreadable { layer: Some(layer), ..v1::Unreadable::default() })),
        ),
        ("four megabytes of empty containers first", TooLarge, repeated(3, &[], &[0x1a, 0])),
        ("two thousand empty containers first", Malformed, report_with(3, &[0x1a, 0].repeat(2000))),
        ("a Hello and empty containers in one", Malformed, [hello(|_| {}), field(3, &[0x1a, 0].repeat(1000))].concat()),
        ("noise first", Malformed, noise(1000, 3)),
        ("five megabytes first", TooLarge, vec![0; 5 << 20]),
    ]
    .map(|(name, reason, bytes)| attack(name, Refused(reason), First(bytes)))
    .into()
}

/// Messages that unpack to many times their size, or are larger than any may be, or are none.
fn sizes() -> Vec<Attack> {
    let stack = field(1, &[0; 32]);
    let container = |inner: &[u8]| field(3, &inner.repeat(4_000_000 / inner.len()));
    let good = encoded(containers(1, true, vec![own_layer("cut").1]));
    let wrong = |content: &[u8]| [&field(1, b"scale"), content].concat();
    [
        ("empty containers", TooLarge, repeated(3, &[], &[0x1a, 0])),
        ("empty keys that are gone", TooLarge, repeated(3, &[0x08, 1, 0x10, 1], &[0x22, 0])),
        ("empty layers of a container", TooLarge, report_with(3, &container(&[0x2a, 0]))),
        ("empty steps of a container", TooLarge, report_with(3, &container(&[0x42, 0]))),
        ("containers of one empty layer", TooLarge, repeated(3, &[], &[0x1a, 2, 0x2a, 0])),
        ("empty answers", TooLarge, repeated(6, &stack, &[0x12, 0])),
        ("empty paths that are hidden", TooLarge, repeated(6, &stack, &[0x1a, 0])),
        ("empty undecided paths", TooLarge, repeated(6, &stack, &[0x22, 0])),
        ("empty roles", TooLarge, repeated(8, &[], &[0x0a, 0])),
        ("five megabytes", TooLarge, vec![0; 5 << 20]),
        ("sixty-four megabytes", TooLarge, vec![0; 64 << 20]),
        ("noise", Malformed, noise(100_000, 4)),
        ("half a message", Malformed, good[..good.len() / 2].to_vec()),
        ("a length beyond the message", Malformed, wrong(&[0x1a, 0xff, 0xff, 0x7f, 0])),
        ("a length of eleven bytes", Malformed, wrong(&[[0x1a].as_slice(), &[0xff; 10], &[1]].concat())),
        ("a length of an unknown field beyond the message", Malformed, wrong(&[0xfa, 0x3f, 0xff, 0x7f, 0])),
        ("a group", Malformed, wrong(&[0x1b, 0x1c])),
        ("a number where containers belong", Malformed, wrong(&[0x18, 1])),
        ("a name that is no text", Malformed, report_with(3, &field(3, &field(2, &[0xff, 0xfe])))),
    ]
    .map(|(name, reason, bytes)| attack(name, Refused(reason), Later(bytes)))
    .into()
}

/// Reports of containers.
fn of_containers() -> Vec<Attack> {
    let one = |change: fn(&mut v1::Container)| {
        let mut container = own_layer("odd").1;
        change(&mut container);
        encoded(containers(1, true, vec![container]))
    };
    let layer = |bytes: usize| v1::LayerId { id: Some(v1::layer_id::Id::Chain(vec![7; bytes])) };
    let key = |id: usize| v1::ContainerKey { id: format!("gone-{id}"), ..v1::ContainerKey::default() };
    let gone = v1::Containers { sequence: 1, full: true, gone: (0..5_000).map(key).collect(), ..Default::default() };
    let large = |number: u8| {
        let top = Digest::of(&[number]);
        let chain =
            |at: u32| v1::LayerId { id: Some(v1::layer_id::Id::Chain(Digest::of(&at.to_le_bytes()).0.to_vec())) };
        let mut container = own_layer(&number.to_string()).1;
        container.layers = (0..500).map(chain).collect();
        container.layers[0] = v1::LayerId { id: Some(v1::layer_id::Id::Chain(top.0.to_vec())) };
        container.stack = top.0.to_vec();
        container
    };
    let many = |from: usize, number: usize| {
        let containers = (from..from + number).map(|id| excluded(format!("{id:0>40}"))).collect();
        v1::Containers { sequence: 1, full: true, containers, ..v1::Containers::default() }
    };
    let refused: Vec<(&str, Effect, Vec<u8>)> = vec![
        ("a container without a key", Refused(Malformed), one(|container| container.key = None)),
        ("a container without an ID", Refused(Malformed), one(|container| container.key = Some(Default::default()))),
        (
            "a container with an ID of 5 KB",
            Refused(Malformed),
            one(|container| container.key.as_mut().unwrap().id = "i".repeat(5000)),
        ),
        (
            "a container of 501 layers",
            Refused(Malformed),
            one(|container| container.layers = vec![container.layers[0].clone(); 501]),
        ),
        ("a stack of 31 bytes", Refused(Malformed), one(|container| container.stack.truncate(31))),
        ("a layer of no kind", Refused(Malformed), one(|container| container.layers[0].id = None)),
        ("neither layers nor a reason", Refused(Malformed), one(|container| container.stack.clear())),
        (
            "an unknown state",
            Refused(Malformed),
            one(|container| container.coverage = Some(v1::Coverage { state: "fine".to_owned(), ..Default::default() })),
        ),
        ("a layer of 33 bytes", Refused(Malformed), {
            let mut container = own_layer("odd").1;
            container.layers = vec![layer(33)];
            encoded(containers(1, true, vec![container]))
        }),
        ("layers of another stack", Refused(Malformed), {
            let diffs = [b"one", b"two"].map(|name| Digest::of(name));
            let mut chain = chain_ids(&diffs);
            chain.reverse();
            let mut layers: Vec<v1::LayerId> = layer_ids(&chain, Some(&diffs)).into_iter().map(Into::into).collect();
            layers.reverse();
            let container = v1::Container { layers, stack: chain[0].0.to_vec(), ..own_layer("odd").1 };
            encoded(containers(1, true, vec![container]))
        }),
        ("21,000 containers", Refused(TooLarge), encoded(Report::Containers(many(0, 21_000)))),
        ("50,000 layers", Refused(TooLarge), encoded(containers(1, true, (0..100).map(large).collect()))),
        (
            "a name of 3 MB of control characters",
            Accepted,
            one(|container| (container.name, container.image) = (controls(3_000_000), controls(900_000))),
        ),
        (
            "a pod of control characters",
            Accepted,
            one(|container| {
                let name = controls(4000);
                container.pod = Some(v1::Pod { namespace: name.clone(), name: name.clone(), uid: name });
            }),
        ),
        (
            "steps of no layer, with texts of a megabyte",
            Accepted,
            one(|container| {
                let text = controls(1 << 20);
                container.steps = vec![v1::Step { text, keyword: controls(4000), ..Default::default() }; 2];
            }),
        ),
        (
            "a runtime and a storage of another version",
            Accepted,
            one(|container| {
                container.storage = 99;
                container.key.as_mut().unwrap().runtime = -7;
            }),
        ),
        ("changes before a list", Accepted, encoded(containers(1, false, vec![own_layer("odd").1]))),
        ("the last sequence of all", Accepted, encoded(containers(u64::MAX, true, vec![own_layer("odd").1]))),
        ("5,000 containers that are gone", Accepted, encoded(Report::Containers(gone))),
        ("one container a thousand times", Accepted, { encoded(containers(1, true, vec![own_layer("odd").1; 1000])) }),
    ];
    refused.into_iter().map(|(name, effect, bytes)| attack(name, effect, Later(bytes))).collect()
}

/// Reports about layers and stacks, and the rest.
fn of_layers() -> Vec<Attack> {
    let id = |name: &str| Some(v1::LayerId::from(own_layer(name).0));
    let stack = Digest::of(b"of nobody").0.to_vec();
    let hidden = (0..100_000).map(|path| format!("var/lib/{path:06}").into_bytes()).collect();
    let fact = |path: u32| v1::Answer {
        path: format!("var/lib/{path}").into_bytes(),
        read: Some(v1::answer::Read::Fact(noise(100, path.into()))),
    };
    let unreadable = |state: &str, reason: String| {
        let state = state.to_owned();
        encoded(Report::Unreadable(v1::Unreadable { layer: id("of nobody"), reason, state, gone: false }))
    };
    let verified = |digest: usize| {
        let (layer, digest) = (id("of nobody"), vec![1; digest]);
        encoded(Report::Verified(v1::Verified { layer, digest, ..Default::default() }))
    };
    let other_cluster =
        v1::Report { cluster: "other".to_owned(), report: Some(Report::Metrics(v1::Metrics::default())) };
    let role = v1::Role { name: controls(200), resident_bytes: u64::MAX, cpu_milliseconds: u64::MAX, starts: u64::MAX };
    let metrics = |roles: usize| v1::Metrics {
        roles: vec![role.clone(); roles],
        layers_read: u64::MAX,
        layers_failed: u64::MAX,
        queue: u64::MAX,
        started: i64::MIN,
        ..Default::default()
    };
    let all: Vec<(&str, Effect, Vec<u8>)> = vec![
        ("a report of another cluster", Refused(Cluster), other_cluster.encode_to_vec()),
        ("a cross-read of no layer", Refused(Malformed), encoded(Report::Verified(v1::Verified::default()))),
        ("a cross-read with a digest of 31 bytes", Refused(Malformed), verified(31)),
        ("a cross-read that nobody asked for", Dropped(1), verified(32)),
        ("no layer is unreadable", Refused(Malformed), encoded(Report::Unreadable(v1::Unreadable::default()))),
        ("a layer of nobody is unreadable", Accepted, unreadable("failed", controls(3_000_000))),
        ("a layer of nobody is too large", Accepted, unreadable("too-large", controls(100))),
        (
            "answers about a stack of 31 bytes",
            Refused(Malformed),
            encoded(Report::Answers(v1::Answers { stack: vec![0; 31], ..Default::default() })),
        ),
        (
            "100,000 hidden paths that nobody asked for",
            Dropped(1),
            encoded(Report::Answers(v1::Answers { stack: stack.clone(), hidden, ..Default::default() })),
        ),
        (
            "10,000 facts that nobody asked for",
            Dropped(1),
            encoded(Report::Answers(v1::Answers {
                stack,
                answers: (0..10_000).map(fact).collect(),
                ..Default::default()
            })),
        ),
        ("metrics beyond all numbers", Accepted, encoded(Report::Metrics(metrics(3)))),
        ("metrics of 10,000 roles", Accepted, encoded(Report::Metrics(metrics(10_000)))),
        ("a second Hello, of another node", Accepted, encoded(Report::Hello(hello(&node_name(1))))),
        ("a report of another version", Accepted, report_with(99, &noise(1000, 5))),
        ("a report without content later", Accepted, field(1, b"scale")),
    ];
    all.into_iter().map(|(name, effect, bytes)| attack(name, effect, Later(bytes))).collect()
}
