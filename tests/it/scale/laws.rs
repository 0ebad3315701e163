//! Guarantees of the simulation itself.

use std::collections::BTreeSet;

use outcrop_agent::catalog;
use outcrop_proto::{Answers, Budget, Inventory, merge};

use super::world::{Shape, World};

#[test]
fn a_stack_merges_to_the_packages_that_the_world_says_it_has() {
    let world = World::new(Shape::SMALL);
    for image in 0..world.shape.images {
        let layers = &world.image(image).layers;
        let inventories: Vec<Inventory> = layers.iter().map(|layer| world.inventory(*layer)).collect();
        let merged =
            merge(&inventories.iter().collect::<Vec<_>>(), catalog::KNOWN, &Answers::default(), &mut Budget::job())
                .unwrap();
        let (unread, failed, warnings) = (&merged.unread, &merged.failed, &merged.warnings);
        assert!(unread.is_empty() && failed.is_empty() && warnings.is_empty(), "{unread:?} {failed:?} {warnings:?}");
        assert_eq!(merged.distribution.map(|found| found.id), Some("debian".to_owned()));
        let package = |found: &outcrop_proto::StackPackage| {
            let package = &found.package;
            format!("{} {} {}", package.kind, package.name, package.version)
        };
        let packages: BTreeSet<String> = merged.packages.iter().map(package).collect();
        assert_eq!(packages, world.packages(image), "image {image}");
    }
}

#[test]
fn an_inventory_is_the_same_each_time_and_decodes() {
    let (one, two) = (World::new(Shape::SMALL), World::new(Shape::SMALL));
    for layer in 0..one.shape.layers {
        let encoding = one.inventory(layer).encode();
        assert_eq!(Inventory::decode(&encoding, &mut Budget::job()).unwrap().digest(), two.digest(layer));
    }
}
