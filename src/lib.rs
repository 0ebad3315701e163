//! The command line and, later, the aggregator.

pub mod advisory;
pub mod cli;
pub mod export;
