//! Whose layer is it?
//!
//! A path, a snapshotter's number or an image's name never identifies a layer: numbers are used again and names move.
//! What does is the chain of committed snapshots below a container, whose names containerd made from the layers' own
//! digests ([OCI image configuration, layer `ChainID`](https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid)).

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// What a layer is known by, wherever it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerId {
    /// The layer's own bytes are kept apart and its diff ID is proved.
    Diff(Digest),
    /// The chain ID of the layer and all below it: where the diff ID is not proved, for the bottom layer (containerd
    /// unpacks it without whiteouts, so that one diff ID can have two contents), and where only merged trees are kept.
    Chain(Digest),
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Diff(digest) => write!(f, "diff:{digest}"),
            Self::Chain(digest) => write!(f, "chain:{digest}"),
        }
    }
}

impl FromStr for LayerId {
    type Err = ParseLayerIdError;

    fn from_str(text: &str) -> Result<Self, ParseLayerIdError> {
        let (kind, digest) = text.split_once(':').ok_or(ParseLayerIdError)?;
        let digest = digest.parse().map_err(|_| ParseLayerIdError)?;
        match kind {
            "diff" => Ok(Self::Diff(digest)),
            "chain" => Ok(Self::Chain(digest)),
            _ => Err(ParseLayerIdError),
        }
    }
}

/// Not a layer's identity: `diff:` or `chain:`, and a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a layer's identity")]
pub struct ParseLayerIdError;

/// The chain IDs of an image's diff IDs, base first, as containerd's `identity.ChainIDs` computes them.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        });
    }
    chain
}

/// Whether `diff_ids` (base first) are those of a stack whose snapshots are named `chain` (base first): element by element.
pub fn proves(diff_ids: &[Digest], chain: &[Digest]) -> bool {
    !chain.is_empty() && chain_ids(diff_ids) == chain
}

/// The identities of a stack's layers, newest first.
///
/// `chain` holds the names of the snapshot parents, newest first, and `diff_ids` the image's diff IDs, base first, if
/// any image configuration was found; they count only when they are [proved](proves).
pub fn layer_ids(chain: &[Digest], diff_ids: Option<&[Digest]>) -> Vec<LayerId> {
    let base_first: Vec<Digest> = chain.iter().rev().copied().collect();
    let proved = diff_ids.filter(|diff_ids| proves(diff_ids, &base_first));
    let mut ids: Vec<LayerId> = base_first
        .iter()
        .enumerate()
        .map(|(height, chain_id)| match proved {
            Some(diff_ids) if height > 0 => LayerId::Diff(diff_ids[height]),
            _ => LayerId::Chain(*chain_id),
        })
        .collect();
    ids.reverse();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(names: &[&str]) -> Vec<Digest> {
        names.iter().map(|name| Digest::of(name.as_bytes())).collect()
    }

    #[test]
    fn text_form_survives_the_round_trip_and_nothing_else_is_accepted() {
        for id in [LayerId::Diff(Digest::of(b"a")), LayerId::Chain(Digest::of(b"b"))] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for text in ["", "diff", "diff:", "other:sha256:00", "sha256:00"] {
            assert_eq!(text.parse::<LayerId>(), Err(ParseLayerIdError), "{text}");
        }
    }

    #[test]
    fn chain_ids_are_containerds() {
        // ChainID(L0) = DiffID(L0); ChainID(L0|...|Ln) = Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln)).
        let diff_ids = digests(&["a", "b"]);
        let expected = Digest::of(format!("{} {}", diff_ids[0], diff_ids[1]).as_bytes());
        assert_eq!(chain_ids(&diff_ids), [diff_ids[0], expected]);
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn a_moved_tag_with_as_many_layers_gives_no_diff_identity() {
        let running = digests(&["base", "app", "config"]);
        let moved = digests(&["base", "other", "config"]);
        let mut chain = chain_ids(&running);
        chain.reverse();
        let chained: Vec<LayerId> = chain.iter().copied().map(LayerId::Chain).collect();

        assert_eq!(layer_ids(&chain, Some(&moved)), chained);
        assert_eq!(layer_ids(&chain, Some(&running[..2])), chained);
        assert_eq!(layer_ids(&chain, None), chained);
        assert_eq!(
            layer_ids(&chain, Some(&running)),
            [LayerId::Diff(running[2]), LayerId::Diff(running[1]), LayerId::Chain(running[0])]
        );
    }
}
