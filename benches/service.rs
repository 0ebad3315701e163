//! `benches/service`: the service at full size, beside its bars. Ends with 1 where a bar is missed.
//!
//! Arguments name the parts to run (`load`, `crash`, `full`, `real`); without any, all of them.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a step that fails ends the run, in helpers too")]

#[path = "../tests/scale/load.rs"]
mod load;
#[path = "../tests/scale/node.rs"]
mod node;
#[path = "../tests/scale/service.rs"]
mod service;
#[path = "../tests/scale/table.rs"]
mod table;
#[path = "../tests/scale/world.rs"]
mod world;

use std::process::ExitCode;

use table::Table;
use world::Shape;

/// The fleet of the budget, or a smaller one: `OUTCROP_FLEET=NODES,CONTAINERS,IMAGES,LAYERS`.
fn shape() -> Shape {
    let Ok(numbers) = std::env::var("OUTCROP_FLEET") else { return Shape::WHOLE };
    let numbers: Vec<usize> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
    let [nodes, containers, images, layers] = numbers[..] else { panic!("OUTCROP_FLEET=NODES,CONTAINERS,IMAGES,LAYERS") };
    Shape { nodes, containers, images, layers, seed: 1 }
}

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let mut table = Table::default();
    if wanted("load") {
        load::whole(shape(), &mut table);
    }
    if table.finish() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
