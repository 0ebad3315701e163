//! The order of RPM (`rpmvercmp`, with epochs), from the `rpm-version` crate.

use std::cmp::Ordering;

use rpm_version::Evr;

#[derive(Clone, Debug)]
pub(super) struct Version(Box<str>);

impl Version {
    pub(super) fn parse(text: &str) -> Self {
        Self(text.into())
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        Evr::parse(&self.0).cmp(&Evr::parse(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version {}
