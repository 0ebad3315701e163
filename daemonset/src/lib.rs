//! Everything of Outcrop that runs on a node.

pub mod agent;
pub mod arguments;
pub mod catalog;
pub mod doctor;
pub mod heartbeat;
pub mod logging;
pub mod role;
pub mod runtime;
pub mod scan;
pub mod selftest;
pub mod snapshot;
pub mod usage;
pub mod worker;
