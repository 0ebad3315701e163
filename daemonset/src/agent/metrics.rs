//! Metrics of the agent. It has no listener, so it reports them to the aggregator.

use outcrop_proto::clock;
use outcrop_proto::wire::v1;

use crate::usage::{self, OwnUsage, Usage};
use crate::worker::Program;

/// Counters of the agent.
#[derive(Debug)]
pub(super) struct Measures {
    own: OwnUsage,
    program: Program,
    started: i64,
    pub(super) layers_read: u64,
    pub(super) layers_verified: u64,
    pub(super) layers_failed: u64,
    pub(super) gone_before_reading: u64,
}

impl Measures {
    pub(super) fn new(program: Program) -> Self {
        Self {
            own: OwnUsage::open(),
            program,
            started: clock::timestamp().as_second(),
            layers_read: 0,
            layers_verified: 0,
            layers_failed: 0,
            gone_before_reading: 0,
        }
    }

    pub(super) fn report(&self, runtime: Usage, queue: u64, problems: Vec<v1::Problem>) -> v1::Metrics {
        let role = |name: &str, usage: Usage, starts| v1::Role {
            name: name.to_owned(),
            resident_bytes: usage.resident,
            cpu_milliseconds: usage.cpu_milliseconds,
            starts,
        };
        let workers = self.program.counters().now();
        let worker = Usage { resident: workers.peak, cpu_milliseconds: usage::ended_children() };
        v1::Metrics {
            roles: vec![
                role("runtime", runtime, 1),
                role("reader", self.own.now(), 1),
                role("worker", worker, workers.started),
            ],
            layers_read: self.layers_read,
            layers_verified: self.layers_verified,
            layers_failed: self.layers_failed,
            worker_deaths: workers.died,
            gone_before_reading: self.gone_before_reading,
            queue,
            started: self.started,
            problems,
        }
    }
}
