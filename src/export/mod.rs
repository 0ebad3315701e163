//! Findings and packages in formats of other tools.
//!
//! [`Exporter`] writes a [`Document`] piece by piece: it names what it needs next ([`Read`]), and the caller reads that from wherever it is
//! and hands it over. So the same writers serve a scan, whose report is in memory, and the API, which reads pages from the store.
//! Text from images and feeds is not trusted: every writer escapes it.

pub mod cyclonedx;
#[cfg(feature = "programs")]
mod document;
#[cfg(feature = "programs")]
mod exporter;
#[cfg(feature = "programs")]
mod format;
#[cfg(feature = "programs")]
mod openvex;
#[cfg(feature = "programs")]
mod out;
mod purl;
#[cfg(feature = "programs")]
mod report;
#[cfg(feature = "programs")]
mod sarif;
#[cfg(feature = "programs")]
mod spdx;
#[cfg(feature = "programs")]
mod table;

#[cfg(feature = "programs")]
pub use document::{Document, Finding, Image, Package, Place, Tested};
#[cfg(feature = "programs")]
pub use exporter::{Exporter, Read, Rows};
#[cfg(feature = "programs")]
pub use format::{Content, Format};
pub use purl::purl;
#[cfg(feature = "programs")]
pub use table::line as csv_line;
