//! The containers of a pod, as its specification and its status describe them.

use std::sync::Arc;

use outcrop_proto::Runtime;

use crate::cluster::objects::KubePod;

/// The purpose of a container in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    /// Runs to completion before the others start.
    Init,
    /// Starts before the others and keeps running.
    Sidecar,
    /// A regular container of the pod.
    Main,
    /// Added to a running pod for debugging.
    Ephemeral,
}

impl ContainerKind {
    /// Returns the word that users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Sidecar => "sidecar",
            Self::Main => "main",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// Longest image reference that is kept, in bytes: a name of 255 characters with a tag and a digest is shorter.
pub(super) const MAX_IMAGE: usize = 1024;

/// A container, as the API server reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodContainer {
    /// Name in the pod.
    pub name: Arc<str>,
    /// Image name, as the pod asks for it.
    pub image: Arc<str>,
    /// The image that the kubelet resolved that name to, usually `NAME@DIGEST`.
    pub image_id: Option<Arc<str>>,
    /// The runtime's ID, once the container was created.
    pub id: Option<Arc<str>>,
    /// The container runtime, as the kubelet names it before the ID.
    pub runtime: Runtime,
    /// Purpose.
    pub kind: ContainerKind,
    /// Whether the kubelet reports it as running.
    pub running: bool,
}

/// Returns the containers of a pod, with or without a status.
pub(super) fn containers(kube: &KubePod) -> Vec<PodContainer> {
    let (spec, status) = (&kube.spec, &kube.status);
    let mut all = Vec::new();
    for (of, statuses, kind) in [
        (&spec.init_containers, &status.init_container_statuses, ContainerKind::Init),
        (&spec.containers, &status.container_statuses, ContainerKind::Main),
        (&spec.ephemeral_containers, &status.ephemeral_container_statuses, ContainerKind::Ephemeral),
    ] {
        for container in of {
            let status = statuses.iter().flatten().find(|status| status.name == container.name);
            let running = status.and_then(|status| status.state.as_ref()).is_some_and(|of| of.contains_key("running"));
            // `containerd://ID`. A virtual kubelet may report none for a running container.
            let id = status.and_then(|status| status.container_id.as_deref()?.split_once("://"));
            let runtime = id.map_or(Runtime::Unknown, |(scheme, _)| Runtime::from_scheme(scheme));
            let id = id.map(|(_, id)| Arc::from(id)).filter(|id: &Arc<str>| !id.is_empty());
            let nameless = || format!("{}/{}", kube.metadata.uid.as_deref().unwrap_or_default(), container.name).into();
            let id = id.or_else(|| running.then(nameless));
            all.push(PodContainer {
                name: container.name.as_str().into(),
                image: cut(&container.image).into(),
                image_id: status.and_then(|status| image_id(&status.image_id)),
                id,
                runtime,
                kind: match kind {
                    ContainerKind::Init if container.restart_policy == "Always" => ContainerKind::Sidecar,
                    kind => kind,
                },
                running,
            });
        }
    }
    all
}

/// Truncates an image reference, which anybody who creates pods chooses.
pub(super) fn cut(reference: &str) -> &str {
    &reference[..reference.floor_char_boundary(MAX_IMAGE)]
}

/// Returns the reference in a status' `imageID`, without the scheme that some runtimes put before it (`docker-pullable://`).
fn image_id(text: &str) -> Option<Arc<str>> {
    let reference = text.split_once("://").map_or(text, |(_, reference)| reference);
    (!reference.is_empty()).then(|| cut(reference).into())
}
