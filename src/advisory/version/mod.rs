//! Version orders: one module for each [`VersionOrder`].
//!
//! Every order is total over all texts and takes time linear in their length, because versions come from images and advisories:
//! an invalid version must neither stop a scan nor sort at random. Each module documents where its order puts invalid versions.

mod apk;
mod digits;
mod dpkg;
mod maven;
mod pep440;
mod rpm;
mod semver;

use std::cmp::Ordering;

pub use outcrop_proto::VersionOrder;
pub(crate) use pep440::parse as parse_pep440;

/// A version, parsed once. Comparing versions of different orders is meaningless.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(Parsed);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Parsed {
    Dpkg(dpkg::Version),
    Apk(apk::Version),
    Rpm(rpm::Version),
    Pep440(pep440::Version),
    Semver(semver::Version),
    Maven(maven::Version),
}

impl Version {
    /// Parses any text.
    pub fn parse(order: VersionOrder, text: &str) -> Self {
        let text = text.trim();
        Self(match order {
            VersionOrder::Dpkg => Parsed::Dpkg(dpkg::Version::parse(text)),
            VersionOrder::Apk => Parsed::Apk(apk::Version::parse(text)),
            VersionOrder::Rpm => Parsed::Rpm(rpm::Version::parse(text)),
            VersionOrder::Pep440 => Parsed::Pep440(pep440::Version::parse(text)),
            VersionOrder::Semver => Parsed::Semver(semver::Version::parse(text)),
            VersionOrder::Maven => Parsed::Maven(maven::Version::parse(text)),
        })
    }
}

/// Compares two versions in an order.
pub fn compare(order: VersionOrder, a: &str, b: &str) -> Ordering {
    Version::parse(order, a).cmp(&Version::parse(order, b))
}
