//! the distribution's name.

use outcrop_proto::Fact;

use super::{CatalogError, Cataloguer, Evidence, Want};

/// Reads the distribution's name.
pub(super) struct OsRelease;

impl Cataloguer for OsRelease {
    fn name(&self) -> &'static str {
        "os_release"
    }

    fn wants(&self, _path: &[u8]) -> Want {
        Want::No
    }

    fn read(&self, _evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        Ok(Fact::default())
    }
}
