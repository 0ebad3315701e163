//! apk's database.

use outcrop_proto::Fact;

use super::{CatalogError, Cataloguer, Evidence, Want};

/// Reads apk's database.
pub(super) struct Apk;

impl Cataloguer for Apk {
    fn name(&self) -> &'static str {
        "apk"
    }

    fn wants(&self, _path: &[u8]) -> Want {
        Want::No
    }

    fn read(&self, _evidence: &Evidence<'_>) -> Result<Fact, CatalogError> {
        Ok(Fact::default())
    }
}
