//! Properties of snapshotters, by name.

use outcrop_proto::Coverage;

/// Snapshotters that store whole layers on the node: a request for mounts reads their own tables only.
const LOCAL: &[&str] =
    &["overlayfs", "fuse-overlayfs", "native", "btrfs", "zfs", "devmapper", "blockfile", "erofs", "aufs"];

/// Snapshotters that fetch missing data on requests or reads; stargz does so in `Mounts` already.
const LAZY: &[(&str, &str)] = &[
    ("stargz", "eStargz lazy pulling"),
    ("soci", "AWS SOCI lazy loading"),
    ("nydus", "Nydus lazy loading"),
    ("nydus-overlayfs", "Nydus lazy loading"),
    ("gcfs", "GKE image streaming"),
    ("overlaybd", "OverlayBD accelerated images"),
    ("cvmfs-snapshotter", "CernVM-FS"),
    ("starlight", "Starlight delta loading"),
    ("nix", "the Nix store, filled on demand"),
];

/// Label of lazy snapshotters on snapshots whose layer was never unpacked on this node.
pub(super) const REMOTE_LABEL: &str = "containerd.io/snapshot/remote";

/// Checks whether a request for mounts is safe; if not, returns the container's coverage.
///
/// The name decides, before the request: the response may already have cost a request to a registry. An unknown snapshotter is assumed to be
/// lazy.
pub(super) fn may_ask(name: &str) -> Result<(), Coverage> {
    if LOCAL.contains(&name) {
        return Ok(());
    }
    let kind = LAZY.iter().find(|(lazy, _)| *lazy == name).map(|(_, kind)| kind);
    Err(match (name, kind) {
        ("", _) => {
            Coverage::unsupported("the record names no snapshotter: another program, such as Docker, keeps the storage")
        }
        (_, Some(kind)) => Coverage::unsupported(format!(
            "snapshotter {name:?} ({kind}) fetches layers from the registry while they are read, so nothing was requested or read"
        )),
        (_, None) => Coverage::unsupported(format!(
            "snapshotter {name:?} is not known and might fetch from a registry, so nothing was requested or read"
        )),
    })
}

/// Returns the coverage of a container whose snapshots were not unpacked on this node.
pub(super) fn remote(name: &str) -> Coverage {
    Coverage::unsupported(format!(
        "snapshotter {name:?} marks a layer as remote: reading the layer would fetch from the registry, so nothing was requested or read"
    ))
}

#[cfg(test)]
mod tests {
    use outcrop_proto::CoverageState;

    use super::*;

    #[test]
    fn only_snapshotters_known_to_be_local_are_asked() {
        for name in LOCAL {
            assert_eq!(may_ask(name), Ok(()), "{name}");
        }
        let lazy = LAZY.iter().map(|(name, _)| *name);
        for name in lazy.chain(["", "Overlayfs", "overlayfs2", "acme"]) {
            let refused = may_ask(name).unwrap_err();
            assert_eq!(refused.state, CoverageState::Unsupported, "{name}");
            assert!(!refused.reason.is_empty());
        }
        assert!(may_ask("stargz").unwrap_err().reason.contains("registry"));
        assert!(may_ask("").unwrap_err().reason.contains("Docker"));
    }
}
