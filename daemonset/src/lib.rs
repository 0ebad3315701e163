//! Everything of Outcrop that runs on a node.

pub mod catalog;
