//! Rows of stacks and package sets.

use std::collections::BTreeSet;

use outcrop_proto::{Coverage, Digest, Distribution, LayerId, PackageType, StackPackage};

use super::Counts;

/// Row id of a package set: a stack's, or a node's own packages. The database assigns it and never assigns it again.
pub type PackageSetId = i64;

/// Row id of a stack, which is that of its package set.
pub type StackId = PackageSetId;

/// A stack that was merged.
#[derive(Clone, Debug)]
pub struct MergedStack {
    /// The stack's identity.
    pub chain: Digest,
    /// Its layers, newest first.
    pub layers: Vec<LayerId>,
    /// Digest of what it was merged from, see [`inputs`].
    pub inputs: Digest,
    /// Its coverage.
    pub coverage: Coverage,
    /// Its distribution, where it has one.
    pub distribution: Option<Distribution>,
    /// The oldest version of the catalogers that read one of its layers.
    pub catalogers: u32,
    /// Its packages.
    pub packages: Vec<MergedPackage>,
    /// Number of packages without a name or version.
    pub unidentified: usize,
    /// Nodes that decided paths which the inventories of the layers cannot decide.
    pub checked_by: Vec<String>,
}

/// A package of a stack that was merged.
#[derive(Clone, Debug)]
pub struct MergedPackage {
    /// The package.
    pub package: StackPackage,
    /// Its package URL.
    pub purl: String,
    /// The package URL of the package that owns it, if one does.
    pub owner_purl: Option<String>,
}

/// A stack without its packages and findings.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its row id.
    pub id: StackId,
    /// Its identity.
    pub chain: Digest,
    /// Its layers, newest first.
    pub layers: Vec<LayerId>,
    /// Digest of what it was merged from, see [`inputs`]; `None` where it has to be merged again: after a migration, and where its
    /// packages were removed because no container used it.
    pub inputs: Option<Digest>,
    /// The advisory database for which its findings are complete; `None` until it is matched.
    pub matched: Option<Digest>,
    /// Its coverage.
    pub coverage: Coverage,
    /// Its distribution, where it has one.
    pub distribution: Option<Distribution>,
    /// Types of its packages.
    pub types: Vec<PackageType>,
    /// The oldest version of the catalogers that read one of its layers; 0 where its packages were removed because no container used it.
    pub catalogers: u32,
    /// Number of packages.
    pub packages: u64,
    /// Number of packages without a name or version.
    pub unidentified: u64,
    /// Counts of its open findings.
    pub counts: Counts,
    /// Nodes that decided paths which the inventories of the layers cannot decide, all with the same answer.
    pub checked_by: Vec<String>,
}

impl Summary {
    /// Returns whether its packages depend on answers of these nodes only.
    pub fn is_decided_only_by(&self, nodes: &BTreeSet<String>) -> bool {
        !self.checked_by.is_empty() && self.checked_by.iter().all(|node| nodes.contains(node))
    }
}

/// A package of a package set, by row id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackageRef {
    /// The package.
    pub package: i64,
    /// The package that installed it, unchanged.
    pub owner: Option<i64>,
    /// Index into the stack's layers, newest first.
    pub layer: u32,
}

/// Returns the digest of what a stack is merged from: the digest of each layer's inventory and whether overlay's marks were read,
/// newest first. A stack whose [`Summary::inputs`] differ has to be merged again.
pub fn inputs<'a>(layers: impl IntoIterator<Item = (&'a Digest, bool)>) -> Digest {
    let mut bytes = Vec::new();
    for (digest, marks) in layers {
        bytes.extend_from_slice(&digest.0);
        bytes.push(u8::from(marks));
    }
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_tell_order_content_and_marks_apart() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let all = [
            inputs([]),
            inputs([(&a, true)]),
            inputs([(&a, false)]),
            inputs([(&a, true), (&b, true)]),
            inputs([(&b, true), (&a, true)]),
        ];
        let different: std::collections::BTreeSet<Digest> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
