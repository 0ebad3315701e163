//! Deliveries to a target at fault, while the aggregator is killed again and again.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::load;
use super::node::{Fleet, node_name};
use super::receiver::{Known, PATIENCE, Receiver, Reply, audited, audits, configuration, shown};
use super::service::{Service, until};
use super::world::{Shape, World, mix};

/// What came of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Events of which it is known that they happened.
    pub(crate) events: usize,
    /// Those that did not arrive.
    pub(crate) lost: usize,
    /// Events that arrived behind a later one.
    pub(crate) out_of_order: usize,
    /// Requests that the target saw, and those that it accepted.
    pub(crate) requests: (usize, usize),
    /// Deliveries that it accepted, each counted once.
    pub(crate) deliveries: usize,
    /// Subjects and findings that the API shows in the end, and those that the target knows.
    pub(crate) states: ((usize, u64), (usize, u64)),
}

impl Outcome {
    /// Whether nothing was lost, everything arrived in order, and faults were met.
    pub(crate) fn is_right(&self) -> bool {
        self.events > 0
            && self.lost == 0
            && self.out_of_order == 0
            && self.states.0 == self.states.1
            && self.states.1.1 > 0
            && self.requests.0 > self.requests.1
            && self.requests.1 >= self.deliveries
    }
}

/// Kills the aggregator `kills` times while containers of a small fleet come and go, people do what is audited, and the target, which speaks
/// TLS, fails at random.
pub(crate) fn kill_while_delivering(kills: u64, loud: bool) -> Outcome {
    let shape = Shape { nodes: 3, containers: 12, images: 4, layers: 20, seed: 1 };
    // In the end the target is sound, so that the end comes soon.
    let is_sound = Arc::new(AtomicBool::new(false));
    let sound = Arc::clone(&is_sound);
    let (receiver, certificate) = Receiver::start_with_tls(move |number| {
        match mix(&[7, number as u64]) % if sound.load(Ordering::SeqCst) { 1 } else { 10 } {
            1 => Reply::Status(500, ""),
            2 => Reply::Cut { early: false },
            3 => Reply::Slow,
            4 => Reply::Status(429, "Retry-After: 1\r\n"),
            5 => Reply::Cut { early: true },
            6 => Reply::Status(401, ""),
            7 => Reply::Stranger,
            _ => Reply::Status(200, ""),
        }
    });
    let (dir, path) = configuration(&format!(
        "targets:\n- name: central\n  http: {{ url: 'https://{}/' }}\n  tls: {{ caFile: DIR/ca.pem }}\n  batch: {{ wait: 0s, records: 20 }}\n",
        receiver.address
    ));
    fs::write(dir.path().join("ca.pem"), certificate).unwrap();
    let runtime = load::runtime();
    let mut service = Service::start((0..shape.nodes).map(node_name), &["--deliver", &path]);
    let fleet = Fleet::new(World::new(shape), &service);
    fleet.churn(Duration::from_millis(500));
    runtime.block_on(async { fleet.start() });
    let mut expected = Vec::new();
    for turn in 0..kills {
        expected.extend(audited(&service, expected.len(), 3));
        std::thread::sleep(Duration::from_millis(mix(&[shape.seed, 9, turn]) % 700));
        service.kill();
        fleet.next_life();
        service.run();
        if loud && turn % 10 == 9 {
            println!("  {} kills, {} requests accepted", turn + 1, receiver.accepted().len());
        }
    }
    fleet.churn(Duration::ZERO);
    is_sound.store(true, Ordering::SeqCst);
    load::settle(&service, shape, false);
    let states = Mutex::new(Default::default());
    let is_told = || {
        let known = Known::of(&receiver.records());
        *states.lock().unwrap() = (shown(&service), (known.subjects.len(), known.findings() as u64));
        let (shown, known) = *states.lock().unwrap();
        shown == known && audits(&receiver.records()).len() >= expected.len()
    };
    // What is not told after that is counted as lost.
    let start = std::time::Instant::now();
    while !is_told() && start.elapsed() < PATIENCE * 5 {
        std::thread::sleep(Duration::from_millis(200));
    }
    until("nothing to wait", PATIENCE, || service.status()["targets"][0]["waiting_deliveries"] == 0);
    fleet.stop();
    let arrived = audits(&receiver.records());
    let (accepted, seen) = (receiver.accepted().len(), receiver.seen.lock().unwrap().len());
    let keys: std::collections::BTreeSet<String> =
        receiver.accepted().iter().map(|request| request.headers["idempotency-key"].clone()).collect();
    Outcome {
        events: expected.len(),
        lost: expected.iter().filter(|name| !arrived.contains(name)).count(),
        out_of_order: arrived.windows(2).filter(|pair| pair[0] >= pair[1]).count(),
        requests: (seen, accepted),
        deliveries: keys.len(),
        states: states.into_inner().unwrap(),
    }
}
