//! Everything of Outcrop that runs on a node.

pub mod catalog;
pub mod runtime;
pub mod snapshot;
