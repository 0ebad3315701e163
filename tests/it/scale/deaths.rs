//! An inventory that ends the aggregator in spite of its budget does so once: it is set aside, and delays nothing else.

use std::time::Duration;

use outcrop_proto::Digest;

use super::TINY;
use super::load::{count, runtime, settle};
use super::node::{Fleet, node_name};
use super::service::{Service, until};
use super::world::World;

/// The containers in a state, by their image.
fn images(service: &Service, state: &str) -> Vec<String> {
    let items = service.all(&format!("/api/v1/containers?coverage={state}"));
    let mut images: Vec<String> = items.iter().map(|item| item["image"].as_str().unwrap().to_owned()).collect();
    images.sort();
    images.dedup();
    images
}

#[test]
fn an_inventory_that_ends_the_aggregator_does_so_once_and_is_tried_again_after_an_upgrade() {
    for work in ["deliver", "merge"] {
        let runtime = runtime();
        let mut service = Service::start((0..TINY.nodes).map(node_name), &[]);
        let world = World::new(TINY);
        let fleet = Fleet::new(world, &service);
        let world = &fleet.world;
        let [poison, ..] = world.image(0).layers[..] else { panic!("an image without layers") };
        let poisoned: Vec<String> = {
            let images = (0..TINY.images).map(|number| world.image(number));
            let mut names: Vec<String> =
                images.filter(|image| image.layers.contains(&poison)).map(|image| image.name.clone()).collect();
            names.sort();
            names
        };
        assert!(poisoned.len() < TINY.images, "every image has the layer");
        service.kill();
        service.abort = Some(format!("{work}:{}", Digest::of(&world.compressed(poison))));
        service.run();
        runtime.block_on(async { fleet.start() });
        until("the inventory to end the aggregator", Duration::from_secs(60), || service.has_ended());

        // The next process tries it in one of its own, and goes on without it. So does every later one.
        for _ in 0..2 {
            service.kill();
            fleet.next_life();
            service.run();
            let status = settle(&service, TINY, false);
            assert_eq!(images(&service, "failed"), poisoned, "{work}: {status:#}");
            assert_eq!(count(&status, "scanned") + count(&status, "failed"), TINY.containers as u64, "{status:#}");
            until("the problem that names it", Duration::from_secs(10), || {
                let status = service.status();
                let problems = status["problems"].as_array().unwrap();
                let mut merging = problems.iter().filter(|problem| problem["kind"] == "merging");
                merging.any(|problem| {
                    let message = problem["message"].as_str().unwrap();
                    message.contains("set aside") && message.contains("node-000") && message.contains("signal: 6")
                })
            });
            if work == "deliver" {
                assert!(status["reports"]["refused_by_reason"]["set-aside"].as_u64() >= Some(1), "{status:#}");
            }
            assert!(!service.has_ended(), "{work}: it ended again");
        }

        // A version without the fault needs nobody's help.
        service.kill();
        service.abort = None;
        fleet.next_life();
        service.run();
        let status = settle(&service, TINY, false);
        assert_eq!(count(&status, "scanned"), TINY.containers as u64, "{work}: {status:#}");
        until("no problem to be left", Duration::from_secs(10), || {
            service.status()["problems"].as_array().unwrap().iter().all(|problem| problem["kind"] != "merging")
        });
        fleet.stop();
    }
}
