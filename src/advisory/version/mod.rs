//! Version orders, one for each way in which ecosystems compare.
//!
//! Every order is total over all strings and linear in their length: versions come out of images and advisories, and a
//! strange one must neither stop a scan nor end up in a random place. What is not a version in a scheme has a place of its
//! own, which that scheme's file tells.

mod apk;
mod digits;
mod dpkg;
mod maven;
mod pep440;
mod rpm;
mod semver;

use std::cmp::Ordering;

/// A way to compare versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Debian and Ubuntu.
    Dpkg,
    /// Alpine.
    Apk,
    /// The RPM distributions.
    Rpm,
    /// `PyPI`.
    Pep440,
    /// npm and Go.
    Semver,
    /// Maven.
    Maven,
}

/// A version, parsed once. Only versions of one scheme are worth comparing.
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
    /// Parses any string.
    pub fn parse(scheme: Scheme, text: &str) -> Self {
        let text = text.trim();
        Self(match scheme {
            Scheme::Dpkg => Parsed::Dpkg(dpkg::Version::parse(text)),
            Scheme::Apk => Parsed::Apk(apk::Version::parse(text)),
            Scheme::Rpm => Parsed::Rpm(rpm::Version::parse(text)),
            Scheme::Pep440 => Parsed::Pep440(pep440::Version::parse(text)),
            Scheme::Semver => Parsed::Semver(semver::Version::parse(text)),
            Scheme::Maven => Parsed::Maven(maven::Version::parse(text)),
        })
    }
}

/// The order of two texts in a scheme.
pub fn compare(scheme: Scheme, a: &str, b: &str) -> Ordering {
    Version::parse(scheme, a).cmp(&Version::parse(scheme, b))
}
