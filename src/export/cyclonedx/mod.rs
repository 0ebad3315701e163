//! CycloneDX JSON: writes the report of a scan, and reads SBOMs.

mod read;
mod write;

pub use read::{Listed, ReadError, read};
pub use write::{Affects, Bom, Component, Property, Rating, Vulnerability};
