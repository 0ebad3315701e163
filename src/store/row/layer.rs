//! Rows of layers.

use std::collections::BTreeSet;

use outcrop_proto::{Digest, LayerId};

/// The inventory of a layer, and the node that read it.
#[derive(Clone, Debug)]
pub struct LayerRow {
    /// Everything but the inventory.
    pub layer: Layer,
    /// The inventory's canonical encoding, compressed.
    pub inventory: Vec<u8>,
}

/// A layer that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The layer's identity.
    pub id: LayerId,
    /// Digest of the inventory's canonical encoding.
    pub digest: Digest,
    /// Digest of the canonical encoding without overlay's opaque marks, as a node would report it that cannot read them; `None` for a layer
    /// with marks that an earlier version stored.
    pub without_marks: Option<Digest>,
    /// Size of the canonical encoding, bytes.
    pub size: usize,
    /// Version of the catalogers that read it.
    pub catalogers: u32,
    /// The node that read it.
    pub node: String,
    /// The sandbox in which the node read it.
    pub cage: String,
    /// Whether overlay's opaque marks could be read.
    pub marks: bool,
    /// When it was read, seconds since 1970.
    pub read_at: i64,
    /// Nodes that read the same, including overlay's opaque marks if the inventory has any.
    pub verified_by: BTreeSet<String>,
}

impl Layer {
    /// Returns whether overlay's opaque marks in the inventory hide what is below them.
    pub fn has_marks(&self) -> bool {
        self.marks && self.without_marks != Some(self.digest)
    }

    /// Returns whether only the node that read the layer has reported its opaque marks.
    pub fn has_unconfirmed_marks(&self) -> bool {
        self.has_marks() && self.verified_by.is_empty()
    }

    /// Returns the digest that another node should report that reads the layer with or without overlay's opaque marks; `None` if it cannot be
    /// told from this inventory.
    pub fn digest_with(&self, marks: bool) -> Option<Digest> {
        match (marks, self.marks) {
            (true, false) => None,
            (true, true) | (false, false) => Some(self.digest),
            (false, true) => self.without_marks,
        }
    }
}

/// An inventory, as it is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InventoryRow {
    /// Digest of the canonical encoding.
    pub digest: Digest,
    /// The canonical encoding, compressed.
    pub compressed: Vec<u8>,
    /// Size of the canonical encoding, bytes.
    pub size: usize,
    /// Whether overlay's opaque marks could be read.
    pub marks: bool,
}
