//! The aggregator and the command line.

pub mod advisory;
pub mod aggregator;
mod authority;
pub mod cli;
pub mod cluster;
mod duration;
pub mod export;
mod lock;
mod stamp;
pub mod store;
mod token;
pub mod web;
