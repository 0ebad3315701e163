//! The aggregator and the command line.

pub mod advisory;
pub mod aggregator;
pub mod cli;
pub mod export;
mod stamp;
pub mod store;
pub mod web;
