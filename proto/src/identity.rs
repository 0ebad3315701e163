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

/// Whether `layers` (newest first) can be those of the stack whose identity is the chain ID `top`.
///
/// Where diff IDs are proved the chain ID follows from them, and no other layers have it. A layer known by its chain ID alone says
/// nothing of what lies below it: there a list can be wrong and not be found out; [`is_proved`] tells. The lowest one has no name but its
/// chain ID, so that nobody can have two lists for one stack.
pub fn fits(top: &Digest, layers: &[LayerId]) -> bool {
    let chain = layers.iter().rev().fold(None, |below: Option<Digest>, layer| match (below, layer) {
        (_, LayerId::Chain(chain)) => Some(*chain),
        (None, LayerId::Diff(_)) => None,
        (Some(below), LayerId::Diff(diff)) => Some(Digest::of(format!("{below} {diff}").as_bytes())),
    });
    chain.as_ref() == Some(top)
}

/// Whether the identity of a stack proves which layers (newest first) it has: all but the lowest have proved diff IDs.
pub fn is_proved(layers: &[LayerId]) -> bool {
    layers.iter().rev().skip(1).all(|layer| matches!(layer, LayerId::Diff(_)))
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
    fn a_stack_has_the_layers_that_its_identity_follows_from() {
        let diff_ids = digests(&["base", "app", "config"]);
        let mut chain = chain_ids(&diff_ids);
        chain.reverse();
        let (proved, chained) = (layer_ids(&chain, Some(&diff_ids)), layer_ids(&chain, None));
        assert!(fits(&chain[0], &proved) && is_proved(&proved));
        assert!(fits(&chain[0], &chained) && !is_proved(&chained));
        assert!(fits(&chain[2], &chained[2..]) && is_proved(&chained[2..]));
        assert!(!fits(&chain[2], &[LayerId::Diff(chain[2])]), "the lowest one has one name");
        // A layer more, less, or another one.
        let other = LayerId::Diff(Digest::of(b"other"));
        for wrong in [&proved[1..], &[proved[0], other, proved[2]], &[other, proved[0], proved[1], proved[2]], &[]] {
            assert!(!fits(&chain[0], wrong), "{wrong:?}");
        }
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
