//! The aggregator and the command line.
//!
//! Fuzz targets compile the parsers only (without the feature `programs`): the servers, clients and the store take many minutes with
//! sanitizers, and no target reaches them.

#![cfg_attr(not(feature = "programs"), allow(dead_code, reason = "parsers without those that call them"))]

pub mod advisory;
pub mod cluster;
pub mod export;
pub mod question;

#[cfg(feature = "programs")]
pub mod aggregator;
#[cfg(feature = "programs")]
mod authority;
#[cfg(feature = "programs")]
pub mod cli;
#[cfg(feature = "programs")]
pub mod deliver;
#[cfg(feature = "programs")]
mod duration;
#[cfg(feature = "programs")]
mod image;
#[cfg(feature = "programs")]
mod lock;
#[cfg(feature = "programs")]
pub mod metrics;
#[cfg(feature = "programs")]
pub mod offline;
#[cfg(feature = "programs")]
pub mod patterns;
#[cfg(feature = "programs")]
pub mod private;
#[cfg(feature = "programs")]
pub mod problems;
#[cfg(feature = "programs")]
mod stamp;
#[cfg(feature = "programs")]
pub mod store;
#[cfg(feature = "programs")]
pub mod supervise;
#[cfg(feature = "programs")]
mod token;
#[cfg(feature = "programs")]
pub mod trace;
#[cfg(feature = "programs")]
pub mod web;
