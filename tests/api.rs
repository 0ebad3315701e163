//! The API as callers meet it, over real connections and by the real `outcrop`; only what it answers is made up.

#![allow(clippy::unwrap_used, reason = "a step that fails is a failed test, in helpers too")]

#[path = "api/command_line.rs"]
mod command_line;
#[path = "api/connections.rs"]
mod connections;
#[path = "api/doctor.rs"]
mod doctor;
#[path = "api/document.rs"]
mod document;
#[path = "api/exposition.rs"]
mod exposition;
#[path = "api/fake.rs"]
mod fake;
#[path = "api/server.rs"]
mod server;
#[path = "api/sinks.rs"]
mod sinks;
#[path = "api/who.rs"]
mod who;
