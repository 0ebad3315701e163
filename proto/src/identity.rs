//! Identity of layers and stacks.
//!
//! A path, a snapshotter's number or an image name never identifies a layer: numbers are reused and names move. The chain of committed
//! snapshots below a container identifies its layers, since containerd derives the snapshots' names from the layers' digests
//! ([OCI image configuration, layer `ChainID`](https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid)).

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// Identity of a layer, the same on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LayerId {
    /// The diff ID, where the layer's own bytes are stored separately and the diff ID is proved.
    Diff(Digest),
    /// The chain ID of the layer and all layers below it: where the diff ID is not proved, for the bottom layer (containerd
    /// unpacks it without whiteouts, so one diff ID can have two contents), and where the storage keeps merged trees only.
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

/// A text that is not `diff:` or `chain:` and a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid layer identity: expected diff:sha256:… or chain:sha256:…")]
pub struct ParseLayerIdError;

/// Returns the chain IDs of an image's diff IDs, base first, as containerd's `identity.ChainIDs` computes them.
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

/// Returns whether the chain IDs of `diff_ids` (base first) equal the names of the snapshots `chain` (base first), element by element.
pub fn proves(diff_ids: &[Digest], chain: &[Digest]) -> bool {
    !chain.is_empty() && chain_ids(diff_ids) == chain
}

/// Returns the identities of a stack's layers, newest first.
///
/// `chain` holds the names of the snapshot parents, newest first. `diff_ids` holds the image's diff IDs, base first, if an image
/// configuration was found; they are used only if they are [proved](proves).
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

/// Returns whether `layers` (newest first) can be the layers of the stack whose identity is the chain ID `top`.
///
/// Where diff IDs are proved, the chain ID follows from them, and no other layers have it. A chain ID alone says nothing about the layers
/// below it, so a wrong list can pass there; [`is_proved`] tells the two cases apart. The lowest layer is always identified by its chain
/// ID, so one stack cannot have two lists.
pub fn fits(top: &Digest, layers: &[LayerId]) -> bool {
    let chain = layers.iter().rev().fold(None, |below: Option<Digest>, layer| match (below, layer) {
        (_, LayerId::Chain(chain)) => Some(*chain),
        (None, LayerId::Diff(_)) => None,
        (Some(below), LayerId::Diff(diff)) => Some(Digest::of(format!("{below} {diff}").as_bytes())),
    });
    chain.as_ref() == Some(top)
}

/// Returns whether the identity of a stack proves its `layers` (newest first): all but the lowest have proved diff IDs.
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
