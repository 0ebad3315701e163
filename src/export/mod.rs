//! Findings and packages in formats of other tools.

pub mod cyclonedx;
mod purl;

pub use purl::purl;
