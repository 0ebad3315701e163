//! `benches/service`: the service at full size, beside its bars. Ends with 1 where a bar is missed.
//!
//! Arguments name the parts to run (`load`, `deliver`, `delivering-load`, `crash`, `interrupt`, `full`, `hostile`, `real`); without any, all of them. `migrate` runs only if it is named, with
//! the store of an earlier version: `OUTCROP_STORE=DIR`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a step that fails ends the run, in helpers too")]

#[allow(dead_code, reason = "it serves tests as well")]
#[path = "../../tests/it/control_group.rs"]
mod control_group;
#[path = "../../tests/it/scale/crash.rs"]
mod crash;
mod deliver;
#[allow(dead_code, unused_imports, reason = "the tests need more of it")]
#[path = "../../tests/it/scale/evil/mod.rs"]
mod evil;
#[path = "../../tests/it/scale/faults.rs"]
mod faults;
#[path = "../../tests/it/scale/load.rs"]
mod load;
#[allow(dead_code, reason = "the small fleet's tests need more of it")]
#[path = "../../tests/it/scale/node.rs"]
mod node;
#[allow(dead_code, reason = "the harness serves tests as well")]
#[path = "../../daemonset/tests/it/runtime_parts/mod.rs"]
mod parts;
#[path = "../../tests/it/ports.rs"]
mod ports;
mod real;
#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/it/scale/receiver.rs"]
mod receiver;
#[path = "../../tests/it/scale/rematch.rs"]
mod rematch;
#[allow(dead_code, reason = "the small fleet's tests need more of it")]
#[path = "../../tests/it/scale/service.rs"]
mod service;
#[path = "../../overlayfs-reader/tests/it/skip.rs"]
mod skip;
#[path = "../../tests/it/scale/table.rs"]
mod table;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../tests/it/volumes.rs"]
mod volumes;
#[allow(dead_code, reason = "the small fleet's tests need more of it")]
#[path = "../../tests/it/scale/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Duration;

use table::{Table, millis, seconds};
use world::Shape;

/// The fleet of the budget, or a smaller one: `OUTCROP_FLEET=NODES,CONTAINERS,IMAGES,LAYERS`.
fn shape() -> Shape {
    let Ok(numbers) = std::env::var("OUTCROP_FLEET") else { return Shape::WHOLE };
    let numbers: Vec<usize> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
    let [nodes, containers, images, layers] = numbers[..] else {
        panic!("OUTCROP_FLEET=NODES,CONTAINERS,IMAGES,LAYERS")
    };
    Shape { nodes, containers, images, layers, seed: 1 }
}

/// `kill -9`, 200 times, beside a fifth of the fleet: so that it comes back to work between two of them.
fn crash(table: &mut Table) {
    let whole = shape();
    let fifth = Shape {
        nodes: whole.nodes / 5,
        containers: whole.containers / 5,
        images: whole.images / 5,
        layers: whole.layers / 5,
        ..whole
    };
    let kills = std::env::var("OUTCROP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(200);
    let outcome = crash::kill_again_and_again(fifth, kills, true);
    outcome.wrong.iter().take(5).for_each(|wrong| println!("  {wrong}"));
    let what = format!(
        "kill -9 and SIGTERM of the aggregator, {kills} times ({} while inventories came)",
        outcome.kills_under_load
    );
    let measured = format!("{} of {} lost", outcome.lost, outcome.acknowledged);
    table.row(&what, measured, "0 lost", outcome.lost == 0 && outcome.kills_under_load > 0);
    let end = outcome.slowest_end;
    table.row("longest end on SIGTERM", seconds(end), "< 5 s", end < Duration::from_secs(5));
    let right = outcome.complete && outcome.wrong.is_empty();
    table.row("after the last of them: counts and a sample right again", seconds(outcome.right_again), "right", right);
}

/// A rematch that is killed, or whose volume is full, at each of its writes.
fn interrupt(table: &mut Table) {
    let shape = Shape { nodes: 6, containers: 60, images: 24, layers: 120, seed: 1 };
    let kills = std::env::var("OUTCROP_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(500);
    let tiny = Shape { nodes: 3, containers: 12, images: 4, layers: 20, seed: 1 };
    let Some(outcome) = rematch::interrupt_first_readings(tiny, kills / 5, true) else {
        table.row("a first reading killed", "SKIPPED: needs strace".to_owned(), "as undisturbed", false);
        return;
    };
    outcome.wrong.iter().take(10).for_each(|wrong| println!("  {wrong}"));
    let what = format!("first reading killed at its {} writes, restart", outcome.writes);
    let measured = format!("{} differences in {} runs", outcome.wrong.len(), outcome.interrupted);
    table.row(&what, measured, "0", outcome.wrong.is_empty() && outcome.interrupted * 10 >= kills / 5 * 9);
    for (how, times) in [(rematch::Interruption::Kill, kills), (rematch::Interruption::Full, kills / 5)] {
        let Some(outcome) = rematch::interrupt_rematches(shape, times, how, true) else {
            table.row("a rematch interrupted", "SKIPPED: needs strace".to_owned(), "as undisturbed", false);
            return;
        };
        outcome.wrong.iter().take(10).for_each(|wrong| println!("  {wrong}"));
        let what = format!("rematch interrupted by {how:?} at its {} writes, second rematch, restart", outcome.writes);
        let measured = format!("{} differences in {} runs", outcome.wrong.len(), outcome.interrupted);
        table.row(&what, measured, "0", outcome.wrong.is_empty() && outcome.interrupted * 10 >= times * 9);
    }
}

/// Volumes that become full while inventories come in, each time with another fleet.
fn full(table: &mut Table) {
    let times = std::env::var("OUTCROP_FILLS").ok().and_then(|fills| fills.parse().ok()).unwrap_or(20);
    for kind in [volumes::FileSystem::Tmpfs, volumes::FileSystem::Ext4] {
        let what = format!("the aggregator's volume ({kind:?}) full and back {times} times, reading goes on");
        let shape = |seed| Shape { nodes: 50, containers: 1_500, images: 200, layers: 1_000, seed };
        let outcomes: Option<Vec<crash::Outcome>> =
            (1..=times).map(|seed| crash::fill_the_volume(shape(seed), kind)).collect();
        let Some(outcomes) = outcomes else {
            table.row(&what, "SKIPPED: needs root".to_owned(), "0 lost, 0 wrong", false);
            continue;
        };
        let wrong: Vec<&String> = outcomes.iter().flat_map(|outcome| &outcome.wrong).collect();
        wrong.iter().take(5).for_each(|wrong| println!("  {wrong}"));
        let lost: usize = outcomes.iter().map(|outcome| outcome.lost).sum();
        let acknowledged: usize = outcomes.iter().map(|outcome| outcome.acknowledged).sum();
        let right = lost == 0 && wrong.is_empty() && outcomes.iter().all(|outcome| outcome.complete);
        let measured = format!("{lost} of {acknowledged} lost, {} wrong", wrong.len());
        table.row(&what, measured, "0 lost, 0 wrong", right);
        let slowest = outcomes.iter().map(|outcome| outcome.right_again).max().unwrap_or_default();
        table.note("from free space to everything right again, longest", seconds(slowest));
    }
}

/// Honest nodes beside all attacks that the tests know, and beside none.
fn hostile(table: &mut Table) {
    let whole = shape();
    let part = Shape {
        nodes: whole.nodes / 25,
        containers: whole.containers / 25,
        images: whole.images / 25,
        layers: whole.layers / 5,
        ..whole
    };
    for is_attacked in [false, true] {
        let measured = evil::measured::measure(part, is_attacked);
        let when = if is_attacked {
            format!("under {} attacks and floods", measured.attacks)
        } else {
            "undisturbed".to_owned()
        };
        let p99 = table::quantile(&measured.deliveries, 0.99);
        let what = format!("{} deliveries of honest nodes, {when}, p99", measured.deliveries.len());
        table.row(&what, millis(p99), "< 1 s", p99 < Duration::from_secs(1));
        let p99 = table::quantile(&measured.status, 0.99);
        table.row(&format!("status, {when}, p99"), millis(p99), "< 100 ms", p99 < Duration::from_millis(100));
        table.row(
            &format!("requests for the status that failed, {when}"),
            measured.failures.to_string(),
            "0",
            measured.failures == 0,
        );
        let what = format!("aggregator resident, most, {when}");
        table.row(&what, table::mib(measured.peak), "< 1 GiB", measured.peak < 1 << 30);
        match measured.kills {
            Some(kills) => {
                table.row(&format!("killed in a control group of 1 GiB, {when}"), kills.to_string(), "0", kills == 0)
            }
            None => table.row("a control group of 1 GiB", "SKIPPED: needs root".to_owned(), "0", false),
        }
    }
}

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let mut table = Table::default();
    if wanted("load") {
        load::whole(shape(), &[], &mut table);
    }
    if wanted("deliver") {
        deliver::whole(&mut table);
    }
    if wanted("delivering-load") {
        deliver::beside_load(shape(), &mut table);
    }
    if wanted("crash") {
        crash(&mut table);
    }
    if wanted("interrupt") {
        interrupt(&mut table);
    }
    if wanted("full") {
        full(&mut table);
    }
    if wanted("hostile") {
        hostile(&mut table);
    }
    if named.iter().any(|name| name == "migrate") {
        let kept = std::env::var("OUTCROP_STORE").expect("OUTCROP_STORE names the directory of a kept store");
        let then = std::env::var("OUTCROP_THEN").ok();
        load::migrate(shape(), std::path::Path::new(&kept), then.as_deref(), &mut table);
    }
    if wanted("real") {
        real::whole(&mut table);
    }
    if table.finish() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
