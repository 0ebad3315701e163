//! Integration tests of the `outcrop-agent` package, in one program.
//!
//! `cargo test --workspace --test it NAME` runs the tests whose path contains `NAME`, for example `worker::`.

#![allow(clippy::unwrap_used, reason = "a step that fails is a failed test, in helpers too")]
#![allow(clippy::print_stderr, reason = "tests print the reason why they skip")]

mod catalog_lang;
mod catalog_os;
mod law;
mod rpm_sqlite;
mod runtime;
mod worker;

#[allow(dead_code, reason = "the tests of the outcrop package use the rest")]
mod runtime_parts;
#[path = "../../../overlayfs-reader/tests/it/skip.rs"]
mod skip;
#[allow(dead_code, reason = "the tests of overlayfs-reader use the rest")]
#[path = "../../../overlayfs-reader/tests/it/stacks.rs"]
mod stacks;
