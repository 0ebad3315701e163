//! Go programs.

use outcrop_proto::Fact;

use super::{CatalogError, Cataloguer, Evidence, Want};

/// Reads Go programs.
pub(super) struct Golang;

impl Cataloguer for Golang {
    fn name(&self) -> &'static str {
        "golang"
    }

    fn wants(&self, _path: &[u8]) -> Want {
        Want::No
    }

    fn read(&self, _evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        Ok(Fact::default())
    }
}
