//! Acknowledged data survives every crash of the aggregator and every failure of its volume.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::load::{count, runtime, sample, settle};
use super::node::{Counts, Fleet, node_name};
use super::rematch::{Contents, contents, differences, of_image};
use super::service::{Service, until};
use super::world::{Shape, World, mix};
use crate::volumes::{FileSystem, Volume};

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Inventories of which the aggregator said that it has them.
    pub(crate) acknowledged: usize,
    /// Those that it asked for again, or does not have in the end.
    pub(crate) lost: usize,
    /// How often the aggregator ended while inventories came in.
    pub(crate) kills_under_load: usize,
    /// What is wrong with containers.
    pub(crate) wrong: Vec<String>,
    /// How long after its last start all was right again.
    pub(crate) right_again: Duration,
    /// The longest that the process took to end on SIGTERM.
    pub(crate) slowest_end: Duration,
    /// Whether all containers were scanned in the end.
    pub(crate) complete: bool,
}

/// Acknowledged layers that the aggregator does not list as known.
fn missing(service: &Service, fleet: &Fleet) -> usize {
    let listed = service.all("/api/v1/layers?state=known");
    let listed: BTreeSet<&str> = listed.iter().filter_map(|layer| layer["id"].as_str()).collect();
    fleet.stored().iter().filter(|id| !listed.contains(id.to_string().as_str())).count()
}

/// Stacks that the aggregator shows as scanned with other packages or findings than they have.
fn scanned_wrongly(service: &Service, expected: &Contents) -> Vec<String> {
    let images = service.all("/api/v1/images");
    let scanned = images.iter().filter(|image| image["coverage"]["state"] == "scanned");
    let wrong = scanned.filter_map(|image| {
        let stack = image["stack"].as_str()?;
        let (reported, (expected, _)) = (of_image(image), expected.get(stack)?);
        (reported != *expected).then(|| format!("meanwhile: {stack} is {reported}, expected {expected}"))
    });
    wrong.collect()
}

/// What an aggregator reports of each stack that was never disturbed.
fn undisturbed(shape: Shape) -> Contents {
    let runtime = runtime();
    let service = Service::start((0..shape.nodes).map(node_name), &[]);
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, shape, false);
    let contents = contents(&service);
    fleet.stop();
    contents
}

/// Ends the aggregator `times` times at random, each time starting it again at once, while nodes attach, read and change: twice in
/// three by SIGKILL, else by SIGTERM.
pub(crate) fn kill_again_and_again(shape: Shape, times: u64, loud: bool) -> Outcome {
    let runtime = runtime();
    let mut service = Service::start((0..shape.nodes).map(node_name), &[]);
    let fleet = Fleet::new(World::new(shape), &service);
    // So slow that there is something to read until the end.
    let layers_of_a_node = shape.layers as f64 / shape.nodes as f64;
    fleet.reading(Duration::from_secs_f64(times as f64 * 2.0 / layers_of_a_node.max(1.0)).min(Duration::from_secs(20)));
    fleet.churn(Duration::from_secs(3));
    runtime.block_on(async { fleet.start() });
    let mut kills_under_load = 0;
    let mut slowest_end = Duration::ZERO;
    for turn in 0..times {
        let before = fleet.stored().len();
        std::thread::sleep(Duration::from_millis(300 + mix(&[shape.seed, 8, turn]) % 2_500));
        let stored = fleet.stored().len();
        kills_under_load += usize::from(stored > before && stored < shape.layers);
        if turn % 3 == 2 {
            slowest_end = slowest_end.max(service.terminate());
        } else {
            service.kill();
        }
        fleet.next_life();
        service.run();
        if loud && turn % 10 == 9 {
            println!("  {} kills, {} acknowledged, {} lost", turn + 1, stored, fleet.lost.lock().unwrap().len());
        }
    }
    let start = Instant::now();
    fleet.reading(Duration::ZERO);
    fleet.churn(Duration::ZERO);
    let status = settle(&service, shape, loud);
    let right_again = start.elapsed();
    let mut outcome = finish(&mut service, &fleet, &undisturbed(shape), &status, kills_under_load, right_again);
    outcome.slowest_end = slowest_end;
    outcome
}

fn finish(
    service: &mut Service,
    fleet: &Fleet,
    expected: &Contents,
    status: &serde_json::Value,
    kills_under_load: usize,
    right_again: Duration,
) -> Outcome {
    let shape = fleet.world.shape;
    let (_, mut wrong) = sample(service, fleet, 12);
    wrong.extend(differences("in the end", expected, &contents(service)));
    // Only what is in the store survives another restart.
    service.kill();
    fleet.next_life();
    service.run();
    settle(service, shape, false);
    wrong.extend(differences("after one more restart", expected, &contents(service)));
    let asked_again = fleet.lost.lock().unwrap().len();
    let outcome = Outcome {
        acknowledged: fleet.stored().len(),
        lost: asked_again + missing(service, fleet),
        kills_under_load,
        wrong,
        right_again,
        slowest_end: Duration::ZERO,
        complete: count(status, "scanned") == shape.containers as u64 && status["layers"]["known"] == shape.layers,
    };
    fleet.stop();
    outcome
}

/// Fills the aggregator's volume while inventories come in, looks what it answers, and frees it. `None` where nothing can be mounted.
pub(crate) fn fill_the_volume(shape: Shape, kind: FileSystem) -> Option<Outcome> {
    let dir = tempfile::tempdir().unwrap();
    let volume = Volume::mount(&dir.path().join("data"), kind, 256)?;
    let expected = undisturbed(shape);
    let runtime = runtime();
    let mut service = Service::start_on((0..shape.nodes).map(node_name), &[], Some(volume.path()));
    let fleet = Fleet::new(World::new(shape), &service);
    fleet.reading(Duration::from_millis(1500));
    runtime.block_on(async { fleet.start() });
    until("some inventories", Duration::from_secs(120), || fleet.stored().len() > 5);
    volume.fill();
    until("the full volume to be told of", Duration::from_secs(120), || {
        volume.fill();
        !service.status()["store_error"].is_null()
    });
    let (status, stored) = (service.status(), fleet.stored().len());
    println!("  {} of {} acknowledged, then {}", stored, shape.layers, status["store_error"]);
    // Reading goes on.
    assert_eq!(status["containers"], shape.containers, "{status:#}");
    assert_eq!(service.all("/api/v1/containers").len(), shape.containers);
    for question in ["/api/v1/who-has?q=openssl", "/api/v1/layers", "/api/v1/findings?limit=5", "/metrics", "/"] {
        assert_eq!(service.ask(question).unwrap().0, 200, "{question}");
    }
    assert!(stored < shape.layers, "it was full before all was read");
    let mut meanwhile = scanned_wrongly(&service, &expected);
    let start = Instant::now();
    volume.empty();
    fleet.reading(Duration::ZERO);
    let is_settled = AtomicBool::new(false);
    let status = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut wrong = Vec::new();
            while !is_settled.load(Ordering::Relaxed) {
                wrong.extend(scanned_wrongly(&service, &expected));
                std::thread::sleep(Duration::from_millis(200));
            }
            wrong
        });
        let status = settle(&service, shape, false);
        is_settled.store(true, Ordering::Relaxed);
        meanwhile.extend(watch.join().unwrap());
        status
    });
    until("the full volume to be forgotten", Duration::from_secs(120), || service.status()["store_error"].is_null());
    let right_again = start.elapsed();
    let failures = Counts::get(&fleet.counts.failures);
    let mut outcome = finish(&mut service, &fleet, &expected, &status, 0, right_again);
    outcome.wrong.append(&mut meanwhile);
    if failures > 0 {
        outcome.wrong.push(format!("{failures} streams ended"));
    }
    drop(service);
    Some(outcome)
}
