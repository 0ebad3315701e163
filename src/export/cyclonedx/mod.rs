//! CycloneDX JSON: writes and reads SBOMs.

mod read;
#[cfg(feature = "programs")]
mod write;

pub use read::{Listed, ReadError, read};
#[cfg(feature = "programs")]
pub(super) use write::CycloneDx;
