//! Python distributions.

use outcrop_proto::Fact;

use super::{CatalogError, Cataloguer, Evidence, Want};

/// Reads Python distributions.
pub(super) struct Python;

impl Cataloguer for Python {
    fn name(&self) -> &'static str {
        "python"
    }

    fn wants(&self, _path: &[u8]) -> Want {
        Want::No
    }

    fn read(&self, _evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        Ok(Fact::default())
    }
}
