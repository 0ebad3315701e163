//! Node.js packages.

use outcrop_proto::Fact;

use super::{CatalogError, Cataloguer, Evidence, Want};

/// Reads Node.js packages.
pub(super) struct Npm;

impl Cataloguer for Npm {
    fn name(&self) -> &'static str {
        "npm"
    }

    fn wants(&self, _path: &[u8]) -> Want {
        Want::No
    }

    fn read(&self, _evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        Ok(Fact::default())
    }
}
