//! Outcrop's findings and packages in the words of others.

mod purl;

pub use purl::purl;
