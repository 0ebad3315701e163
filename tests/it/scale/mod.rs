//! A small simulated fleet over the real protocol and TLS: the guarantees of the whole fleet, except for times. `benches/service`
//! runs the whole fleet.

#[allow(dead_code, reason = "the whole fleet's bars are benches/service's")]
mod crash;
mod deaths;
mod deleted;
mod delivering;
mod documents;
pub(crate) mod evil;
mod faults;
mod laws;
#[allow(dead_code, reason = "the whole fleet's bars are benches/service's")]
mod load;
mod lying;
mod node;
mod notifying;
mod outbox;
mod questions;
mod receiver;
#[allow(dead_code, reason = "the whole fleet's bars are benches/service's")]
mod rematch;
mod secrets;
#[allow(dead_code, reason = "the whole fleet's bars are benches/service's")]
mod service;
#[allow(dead_code, reason = "the whole fleet's bars are benches/service's")]
mod table;
#[allow(dead_code, reason = "the whole fleet's bars are benches/service's")]
mod world;

use load::{rematch, sample, settle, who_has, with_packages};
use node::{Counts, Fleet, READ_BYTES, READ_MILLISECONDS, node_name};
use service::Service;
use world::{Shape, World};

use crate::skip::skip;
use crate::volumes::FileSystem;

/// A fleet whose rematch has a few dozen writes.
const TINY: Shape = Shape { nodes: 3, containers: 12, images: 4, layers: 20, seed: 1 };

#[test]
fn a_fleet_is_known_in_full_with_each_layer_read_once() {
    let shape = Shape::SMALL;
    let runtime = load::runtime();
    let service = Service::start((0..shape.nodes).map(node_name), &[]);
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    let status = settle(&service, shape, false);
    assert_eq!(load::count(&status, "scanned"), shape.containers as u64, "{status:#}");
    assert_eq!(status["layers"]["known"], shape.layers, "{status:#}");
    assert_eq!(Counts::get(&fleet.counts.read), shape.layers as u64);
    assert_eq!(Counts::get(&fleet.counts.foreign), 0);
    let (_, wrong) = sample(&service, &fleet, shape.containers / 10);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (_, metrics) = service.ask("/metrics").unwrap();
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok()).unwrap_or_else(|| panic!("{name} is missing in:\n{metrics}"))
    };
    let (layers, images) = (shape.layers as f64, shape.images as f64);
    assert_eq!(value("outcrop_layer_read_duration_seconds_count"), layers);
    assert_eq!(value("outcrop_layer_read_duration_seconds_sum"), layers * READ_MILLISECONDS as f64 / 1000.0);
    assert_eq!(value("outcrop_layer_read_size_bytes_sum"), layers * READ_BYTES as f64);
    assert!(value("outcrop_stack_merge_duration_seconds_count") >= images);
    assert!(value("outcrop_stack_match_duration_seconds_count") >= images);
    assert!(value("outcrop_store_write_duration_seconds_count") >= layers + images);

    let (rematch, _) = rematch(&service);
    assert_eq!((&rematch["nodes_rescanned"], &rematch["stacks"]), (&0.into(), &shape.images.into()), "{rematch}");
    let has = with_packages(&fleet, &["npm lodash 4.17.20"]);
    assert!(!has.is_empty());
    assert_eq!(who_has(&service, "CVE-2026-99999"), has);
    assert!(fleet.lost.lock().unwrap().is_empty());
    fleet.stop();
}

#[test]
fn what_was_acknowledged_survives_kills_at_random_times() {
    let outcome = crash::kill_again_and_again(Shape::SMALL, 5, false);
    assert!(outcome.acknowledged > 0 && outcome.kills_under_load > 0, "{outcome:?}");
    assert!(outcome.lost == 0 && outcome.wrong.is_empty() && outcome.complete, "{outcome:?}");
}

#[test]
fn a_clock_that_was_ahead_delays_no_verification_and_no_finding_is_first_seen_in_the_future() {
    let shape = TINY;
    let runtime = load::runtime();
    let mut service = Service::start((0..shape.nodes).map(node_name), &["--verify-share", "1"]);
    service.kill();
    service.clock_offset = Some("400d");
    service.run();
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, shape, false);
    let today = outcrop_proto::clock::today().to_string();
    let first_seen = |service: &Service| -> Vec<String> {
        let findings = service.all("/api/v1/findings");
        findings.iter().map(|finding| finding["first_seen"].as_str().unwrap().to_owned()).collect()
    };
    assert!(first_seen(&service).iter().all(|seen| *seen > today), "the clock is ahead");
    service.terminate();

    service.clock_offset = None;
    service.arguments.extend(["--verify-interval", "0s"].map(str::to_owned));
    fleet.next_life();
    service.run();
    settle(&service, shape, false);
    let tomorrow = outcrop_proto::clock::today().tomorrow().unwrap().to_string();
    let seen = first_seen(&service);
    assert!(!seen.is_empty() && seen.iter().all(|seen| *seen < tomorrow), "{seen:?}");
    let log = std::fs::read_to_string(service.at("log")).unwrap();
    assert!(log.contains("times in the future corrected"), "{log}");
    service::until("layers to be verified", std::time::Duration::from_secs(120), || {
        service.status()["reports"]["verified"].as_u64().unwrap() > 0
    });
    fleet.stop();
}

#[test]
fn a_full_volume_refuses_inventories_answers_questions_and_recovers() {
    for kind in [FileSystem::Tmpfs, FileSystem::Ext4] {
        let Some(outcome) = crash::fill_the_volume(Shape::SMALL, kind) else {
            skip("root", "mounting a small volume");
            continue;
        };
        assert!(outcome.lost == 0 && outcome.wrong.is_empty() && outcome.complete, "{kind:?}: {outcome:?}");
    }
}

#[test]
fn a_first_reading_that_is_killed_at_any_write_is_completed() {
    let Some(outcome) = rematch::interrupt_first_readings(TINY, 6, false) else {
        skip("tools", "interrupting writes of the store");
        return;
    };
    assert!(outcome.interrupted * 2 > 6 && outcome.wrong.is_empty(), "{outcome:#?}");
}

#[test]
fn a_rematch_that_is_interrupted_at_any_write_is_completed() {
    for how in [rematch::Interruption::Kill, rematch::Interruption::Full] {
        let Some(outcome) = rematch::interrupt_rematches(TINY, 6, how, false) else {
            skip("tools", "interrupting writes of the store");
            return;
        };
        let enough = outcome.interrupted * 2 > outcome.writes.min(6);
        assert!(enough && outcome.wrong.is_empty(), "{how:?}: {outcome:#?}");
    }
}
