//! What of an image configuration counts: the diff IDs of its layers.

use serde::{Deserialize, Serialize};

/// Most layers of an image that are looked at; overlayfs takes at most 500 lower ones.
const MAX_LAYERS: usize = 1000;

/// An image configuration
/// ([OCI image configuration](https://github.com/opencontainers/image-spec/blob/main/config.md)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Diff IDs of the layers, base first, as they are written.
    pub diff_ids: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// Parses a configuration. Only a worker does so.
#[doc(hidden)]
pub fn parse_image_config(bytes: &[u8]) -> Result<ImageConfig, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| format!("not an image configuration: {error}"))?;
    let diff_ids = document.rootfs.diff_ids;
    if diff_ids.len() > MAX_LAYERS {
        return Err(format!("an image of {} layers, more than {MAX_LAYERS}", diff_ids.len()));
    }
    Ok(ImageConfig { diff_ids })
}
