//! The API as callers meet it, over real connections and by the real `outcrop`; only what it answers is made up.

mod command_line;
mod connections;
mod doctor;
mod document;
mod exposition;
mod fake;
mod server;
mod sinks;
mod who;
