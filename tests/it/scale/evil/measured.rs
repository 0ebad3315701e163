//! Effects of attacks on honest nodes and on API requests, measured.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::super::load::Poller;
use super::super::service::until;
use super::super::world::Shape;
use super::{Place, table};
use crate::control_group::Group;

/// Longest time that an honest node takes to read a layer, so that deliveries last as long as the attacks.
const READING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Measured {
    /// How long each delivery of an honest node took.
    pub(crate) deliveries: Vec<Duration>,
    /// How long each answer about the status took, and how many there were not.
    pub(crate) status: Vec<Duration>,
    pub(crate) failures: usize,
    /// Messages and sequences meanwhile, without the floods.
    pub(crate) attacks: usize,
    /// Most memory of the aggregator, bytes.
    pub(crate) peak: u64,
    /// How often the kernel killed a process in the aggregator's control group, if there is one.
    pub(crate) kills: Option<u64>,
}

/// Lets a fleet report and deliver all that it has, beside attackers or alone.
pub(crate) fn measure(shape: Shape, is_attacked: bool) -> Measured {
    let place = Place::start_with(shape, &[]);
    place.fleet.reading(READING);
    let stop = AtomicBool::new(false);
    let is_over = || stop.load(Ordering::Relaxed);
    let (status, failures, attacks) = std::thread::scope(|scope| {
        let attackers = scope.spawn(|| {
            let mut attacks = 0;
            while is_attacked && !is_over() {
                let all = table::all();
                attacks += all.len();
                // An attacker that loses its connection, for instance, starts over: only its effects on others are measured here.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| place.attack(all))).is_err() {
                    println!("  the attackers start over, after {} of the layers", place.fleet.stored().len());
                }
            }
            attacks
        });
        scope.spawn(|| {
            while is_attacked && !is_over() {
                place.flood(Duration::from_secs(2));
            }
        });
        std::thread::sleep(Duration::from_secs(2));
        let poller = Poller::start(&place.service);
        place.honest();
        until("the honest nodes' layers", Duration::from_secs(1800), || place.fleet.stored().len() == shape.layers);
        let (status, failures) = poller.finish();
        stop.store(true, Ordering::Relaxed);
        (status, failures, attackers.join().unwrap())
    });
    place.fleet.stop();
    Measured {
        deliveries: place.fleet.deliveries.lock().unwrap().clone(),
        status,
        failures,
        attacks,
        peak: place.service.memory("VmHWM"),
        kills: place.service.group.as_ref().map(Group::kills),
    }
}
