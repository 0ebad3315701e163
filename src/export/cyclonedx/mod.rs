//! CycloneDX JSON: what a scan says, written; what an SBOM lists, read.

mod read;
mod write;

pub use read::{Listed, ReadError, read};
pub use write::{Affects, Bom, Component, Property, Rating, Vulnerability};
