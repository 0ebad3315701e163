//! Outcrop's findings and packages in the words of others.

pub mod cyclonedx;
mod purl;

pub use purl::purl;
