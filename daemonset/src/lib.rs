//! Everything of Outcrop that runs on a node.

pub mod catalog;
pub mod role;
pub mod scan;
pub mod worker;
