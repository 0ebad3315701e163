//! Integration tests of the `outcrop` package, in one program: 15 programs took minutes to link.
//!
//! `cargo test --workspace --test it NAME` runs the tests whose path contains `NAME`, for example `fleet::` or `api::sinks`.

#![allow(clippy::unwrap_used, reason = "a step that fails is a failed test, in helpers too")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests print figures and the reason why they skip")]

// Tests.
mod advisories;
mod advisory;
mod agent;
mod api;
mod cli;
mod containerd;
mod corpora;
mod degraded;
mod docs;
mod fleet;
mod hostile;
mod kubernetes;
mod on_cluster;
mod prerequisites;
mod probes;
mod readme;
mod scale;
mod starting;
mod store;
mod supervision;
mod toolchain;
mod version_vectors;

// Harnesses that several tests share.
mod agent_parts;
mod api_server;
mod control_group;
mod ports;
#[allow(dead_code, reason = "the tests of outcrop-agent use the rest")]
#[path = "../../daemonset/tests/it/runtime_parts/mod.rs"]
mod runtime_parts;
mod service_parts;
#[path = "../../overlayfs-reader/tests/it/skip.rs"]
mod skip;
#[allow(dead_code, reason = "the tests of outcrop-agent use the rest")]
#[path = "../../daemonset/tests/it/catalog_lang/support.rs"]
mod support;
mod volumes;
