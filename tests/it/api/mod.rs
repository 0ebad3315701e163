//! The API, over real connections and with the real `outcrop`; only its data is made up.

mod command_line;
mod connections;
mod doctor;
mod document;
mod exports;
mod exposition;
mod fake;
mod server;
mod sinks;
mod who;
