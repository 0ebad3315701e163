//! The aggregator and the command line.
//!
//! Fuzz targets compile the parsers only (`cfg(fuzzing)`): the servers, clients and the store take many minutes with sanitizers, and no
//! target reaches them.

#![cfg_attr(fuzzing, allow(dead_code, reason = "parsers without those that call them"))]

pub mod advisory;
pub mod cluster;
pub mod export;
pub mod question;

#[cfg(not(fuzzing))]
pub mod aggregator;
#[cfg(not(fuzzing))]
mod authority;
#[cfg(not(fuzzing))]
pub mod cli;
#[cfg(not(fuzzing))]
mod duration;
#[cfg(not(fuzzing))]
mod lock;
#[cfg(not(fuzzing))]
pub mod metrics;
#[cfg(not(fuzzing))]
pub mod offline;
#[cfg(not(fuzzing))]
pub mod private;
#[cfg(not(fuzzing))]
pub mod problems;
#[cfg(not(fuzzing))]
mod stamp;
#[cfg(not(fuzzing))]
pub mod store;
#[cfg(not(fuzzing))]
pub mod supervise;
#[cfg(not(fuzzing))]
mod token;
#[cfg(not(fuzzing))]
pub mod trace;
#[cfg(not(fuzzing))]
pub mod web;
