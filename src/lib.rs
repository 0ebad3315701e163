//! The command line and, later, the aggregator.

pub mod cli;
pub mod export;
