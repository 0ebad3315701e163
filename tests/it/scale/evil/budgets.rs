//! Nodes that send more than their share, each within every limit: many layers, many images, many connections.

use std::time::{Duration, Instant};

use outcrop_proto::identity::chain_ids;
use outcrop_proto::inventory::compress;
use outcrop_proto::wire::v1::collector_client::CollectorClient;
use outcrop_proto::wire::{Refusal, Seen, v1};
use outcrop_proto::{Digest, LayerId, Package, PackageType};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::super::node::{Stream, endpoint};
use super::super::service::{token, until};
use super::deliveries::of_packages;
use super::{Place, containers, excluded, pieces};

/// A container of an image with these layers, oldest first.
fn container(id: String, diffs: &[Digest]) -> v1::Container {
    let chain = chain_ids(diffs);
    let upper = diffs[1..].iter().rev().map(|diff| LayerId::Diff(*diff));
    let layers = upper.chain([LayerId::Chain(chain[0])]).collect();
    let stack = Some((chain[diffs.len() - 1], layers));
    (&Seen { stack, refused: None, ..Seen::try_from(excluded(id)).unwrap() }).into()
}

fn digest(name: impl AsRef<[u8]>) -> Digest {
    Digest::of(name.as_ref())
}

/// Delivers inventories of a hundred packages for all layers that are leased to the stream, `count` of them.
fn deliver_all(place: &Place, stream: &mut Stream, count: usize) {
    let mut delivered = 0;
    while delivered < count {
        for layer in place.lease(stream) {
            let package = |number| Package::new(PackageType::Npm, format!("{layer}-{number}"), "1.0.0".to_owned());
            let inventory = of_packages("a/package.json", "node", (0..100).map(package).collect());
            let compressed = compress(&inventory.encode()).unwrap();
            place.runtime.block_on(stream.deliver(pieces(layer, std::iter::once(compressed)))).unwrap();
            delivered += 1;
        }
    }
}

#[test]
fn a_node_with_thousands_of_layers_in_each_report_waits_whatever_stream_it_uses() {
    let place = Place::start(&[]);
    place.honest();
    let name = place.name();
    let report = |sequence: u64| {
        let layers = |id: u64| (0..500).map(|layer| digest(format!("{sequence} {id} {layer}"))).collect::<Vec<_>>();
        containers(sequence, true, (0..60).map(|id| container(format!("{id}"), &layers(id))).collect())
    };
    let delayed = || {
        let (_, metrics) = place.service.ask("/metrics").unwrap();
        let count = metrics.lines().find_map(|line| line.strip_prefix("outcrop_reports_delayed_total "));
        count.unwrap().parse::<u64>().unwrap()
    };
    // The budget allows for two of them, and then for one in four seconds: a machine that takes as long for each needs more of them.
    let say_until_delayed = |stream: &Stream| {
        let before = delayed();
        for burst in 0..10 {
            let reports: Vec<_> = (1..=4).map(|number| report(burst * 4 + number)).collect();
            assert!(place.say(stream, Duration::from_secs(60), reports.into_iter()));
            if delayed() > before {
                return;
            }
        }
        panic!("forty reports were not delayed");
    };
    let start = Instant::now();
    let mut stream = place.attach(&name);
    say_until_delayed(&stream);
    place.finish(&mut stream);
    let mut again = place.attach(&name);
    say_until_delayed(&again);
    place.finish(&mut again);
    let log = std::fs::read_to_string(place.service.at("log")).unwrap();
    let named = log.lines().filter(|line| line.contains("reports delayed") && line.contains(&name)).count();
    let minutes = usize::try_from(start.elapsed().as_secs() / 60).unwrap();
    assert!((1..=1 + minutes).contains(&named), "it is named once a minute, not {named} times: {log}");
    place.unharmed();
}

#[test]
fn a_node_with_thousands_of_images_delays_the_images_of_others_by_a_few_merges_only() {
    const STACKS: usize = 2500;
    let place = Place::start(&[]);
    let mut evil = place.attach(&place.name());
    let diffs: Vec<Digest> = (0..8).map(|layer| digest(format!("evil layer {layer}"))).collect();
    assert!(place.say(
        &evil,
        Duration::from_secs(20),
        std::iter::once(containers(1, true, vec![container("all".into(), &diffs)]))
    ));
    deliver_all(&place, &mut evil, diffs.len());
    // Images of the same layers in every order, all of which can be merged at once.
    let order = |mut number: usize| {
        let mut rest = diffs[1..].to_vec();
        let mut stack = vec![diffs[0]];
        while !rest.is_empty() {
            stack.push(rest.remove(number % rest.len()));
            number /= rest.len() + 1;
        }
        stack
    };
    let all = (0..STACKS).map(|number| container(format!("evil-{number}"), &order(number))).collect();
    assert!(place.say(&evil, Duration::from_secs(60), std::iter::once(containers(2, true, all))));
    let pending = || {
        let coverage = place.service.status()["coverage"].clone();
        let pending = coverage.as_array().unwrap().iter().find(|count| count["state"] == "pending").cloned();
        pending.map_or(0, |count| count["containers"].as_u64().unwrap()) as usize
    };
    until("the images to wait", Duration::from_secs(60), || pending() > STACKS / 2);

    let name = place.name();
    let mut honest = place.attach(&name);
    let layer = digest("honest");
    assert!(place.say(
        &honest,
        Duration::from_secs(20),
        std::iter::once(containers(1, true, vec![container("honest".into(), &[layer])]))
    ));
    deliver_all(&place, &mut honest, 1);
    until("the honest image to be scanned", Duration::from_secs(20), || {
        let containers = place.service.all(&format!("/api/v1/containers?node={name}"));
        containers.first().is_some_and(|container| container["coverage"]["state"] == "scanned")
    });
    let waiting = pending();
    println!("  {waiting} images wait while the honest one is scanned");
    assert!(waiting > STACKS / 4, "the honest image waited for most others");
    // Images that nobody has any more are not merged.
    assert!(place.say(&evil, Duration::from_secs(20), std::iter::once(containers(3, true, Vec::new()))));
    let before = merges(&place);
    until("the containers to be gone", Duration::from_secs(20), || pending() == 0);
    std::thread::sleep(Duration::from_secs(3));
    let after = merges(&place);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(merges(&place), after, "merges go on");
    assert!(after - before < waiting as u64 / 2, "{} merges for images that nobody has", after - before);
    drop((evil, honest));
    place.honest();
    place.unharmed();
}

/// Number of merges so far.
fn merges(place: &Place) -> u64 {
    let (_, metrics) = place.service.ask("/metrics").unwrap();
    let count = metrics.lines().find_map(|line| line.strip_prefix("outcrop_stack_merge_duration_seconds_count "));
    count.unwrap().parse().unwrap()
}

/// Makes a call without content on a connection of its own. Returns the connection, and the status with which the call was refused.
async fn refused_call(place: &Place, name: &str) -> (Channel, Status) {
    let channel = endpoint(&place.service).connect().await.unwrap();
    let mut request = Request::new(tokio_stream::empty());
    request.metadata_mut().insert("authorization", format!("Bearer {}", token(name)).parse().unwrap());
    let refused = CollectorClient::new(channel.clone()).deliver(request).await;
    (channel, refused.unwrap_err())
}

#[test]
fn one_token_keeps_a_few_connections_open_and_each_closed_one_is_counted() {
    let place = Place::start(&[]);
    place.honest();
    let nodes = place.fleet.world.shape.nodes as u64;
    let name = place.name();
    for _ in 0..150 {
        // A call that is refused, after which the connection stays open.
        let (channel, refused) = place.runtime.block_on(refused_call(&place, &name));
        assert_eq!(Refusal::classify(&refused), Some(Refusal::Malformed));
        place.hold(channel);
    }
    let connections = |field: &str| place.service.status()["connections"][field].as_u64().unwrap();
    until("most connections to be closed", Duration::from_secs(20), || connections("open") <= nodes + 8);
    assert_eq!(connections("surplus"), 150 - 8);
    until("the node to be named", Duration::from_secs(20), || {
        let log = std::fs::read_to_string(place.service.at("log")).unwrap();
        log.lines().any(|line| line.contains("connections closed") && line.contains(&name))
    });
    let (_, metrics) = place.service.ask("/metrics").unwrap();
    assert!(metrics.contains("outcrop_connections_closed_total{reason=\"surplus\"} 142"), "{metrics}");
    // The others go as well, since they have no call.
    until("the connections without a call to be closed", Duration::from_secs(100), || connections("open") == nodes);
    assert_eq!(connections("unidentified"), 8);
    place.unharmed();
}
