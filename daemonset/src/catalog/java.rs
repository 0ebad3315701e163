//! Java archives.

use outcrop_proto::Fact;

use super::{CatalogError, Cataloguer, Evidence, Want};

/// Reads Java archives.
pub(super) struct Java;

impl Cataloguer for Java {
    fn name(&self) -> &'static str {
        "java"
    }

    fn wants(&self, _path: &[u8]) -> Want {
        Want::No
    }

    fn read(&self, _evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        Ok(Fact::default())
    }
}
