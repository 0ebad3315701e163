//! The interface between agents and the aggregator, `outcrop/v1/collector.proto`, and the way between its messages and the
//! plain types. Messages come from other machines: each is checked as it is turned into what it says.

use crate::container::{ContainerKey, Coverage, CoverageState, Pod, Runtime, Step, Storage};
use crate::digest::Digest;
use crate::identity::{LayerId, fits};

/// Messages, client and server as they are generated.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("outcrop.v1");
}

/// Most bytes of a message in either direction.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Most bytes of an inventory in one [`v1::Piece`] that we send: a stream keeps the memory of its longest message for as long as it lives.
pub const PIECE: usize = 64 << 10;

/// Most bytes of a compressed inventory, all pieces together; and of one that is not compressed.
pub const MAX_INVENTORY: usize = 256 << 20;

/// A message says what cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is missing or malformed")]
pub struct WireError {
    /// Which part of the message.
    pub what: &'static str,
}

const fn wrong(what: &'static str) -> WireError {
    WireError { what }
}

/// A SHA-256 digest.
///
/// # Errors
/// When there are not 32 bytes.
pub fn digest(bytes: &[u8], what: &'static str) -> Result<Digest, WireError> {
    bytes.try_into().map(Digest).map_err(|_| wrong(what))
}

impl From<LayerId> for v1::LayerId {
    fn from(id: LayerId) -> Self {
        let id = match id {
            LayerId::Diff(digest) => v1::layer_id::Id::Diff(digest.0.to_vec()),
            LayerId::Chain(digest) => v1::layer_id::Id::Chain(digest.0.to_vec()),
        };
        Self { id: Some(id) }
    }
}

impl TryFrom<&v1::LayerId> for LayerId {
    type Error = WireError;

    fn try_from(id: &v1::LayerId) -> Result<Self, WireError> {
        const WHAT: &str = "a layer's identity";
        match id.id.as_ref().ok_or(wrong(WHAT))? {
            v1::layer_id::Id::Diff(bytes) => digest(bytes, WHAT).map(Self::Diff),
            v1::layer_id::Id::Chain(bytes) => digest(bytes, WHAT).map(Self::Chain),
        }
    }
}

impl From<&Coverage> for v1::Coverage {
    fn from(coverage: &Coverage) -> Self {
        Self { state: coverage.state.as_str().to_owned(), reason: coverage.reason.clone() }
    }
}

impl TryFrom<&v1::Coverage> for Coverage {
    type Error = WireError;

    fn try_from(coverage: &v1::Coverage) -> Result<Self, WireError> {
        let state = CoverageState::ALL.into_iter().find(|state| state.as_str() == coverage.state);
        Ok(Self { state: state.ok_or(wrong("a coverage state"))?, reason: coverage.reason.clone() })
    }
}

impl From<&Pod> for v1::Pod {
    fn from(pod: &Pod) -> Self {
        Self { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
    }
}

/// A container as a node tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Identity on the node.
    pub key: ContainerKey,
    /// Its name in its pod, or its ID.
    pub name: String,
    /// Its pod.
    pub pod: Option<Pod>,
    /// The image's name as it was.
    pub image: String,
    /// How the runtime stores its files, where that is known.
    pub storage: Option<Storage>,
    /// The identity of its stack and its layers, newest first.
    pub stack: Option<(Digest, Vec<LayerId>)>,
    /// Why it is not looked into.
    pub refused: Option<Coverage>,
    /// The steps of the image's build that made its layers, one for each, newest first; empty where that is not known.
    pub steps: Vec<Step>,
}

/// Most bytes of a step's text, cut where it is longer.
const MAX_STEP_TEXT: usize = 1024;

/// Most layers of a stack: the kernel takes 500.
const MAX_LAYERS: usize = 500;

/// Most bytes of a name in a message.
const MAX_NAME: usize = 4096;

impl From<&Seen> for v1::Container {
    fn from(seen: &Seen) -> Self {
        let (stack, layers) = match &seen.stack {
            Some((stack, layers)) => (stack.0.to_vec(), layers.iter().map(|id| (*id).into()).collect()),
            None => (Vec::new(), Vec::new()),
        };
        Self {
            key: Some((&seen.key).into()),
            name: seen.name.clone(),
            pod: seen.pod.as_ref().map(Into::into),
            image: seen.image.clone(),
            layers,
            stack,
            coverage: seen.refused.as_ref().map(Into::into),
            steps: seen.steps.iter().map(Into::into).collect(),
            storage: seen.storage.map_or(v1::Storage::Unspecified, Into::into).into(),
        }
    }
}

impl From<&ContainerKey> for v1::ContainerKey {
    fn from(key: &ContainerKey) -> Self {
        let runtime = match key.runtime {
            Runtime::Containerd => v1::Runtime::Containerd,
            Runtime::CriO => v1::Runtime::CriO,
            Runtime::Podman => v1::Runtime::Podman,
            Runtime::Docker => v1::Runtime::Docker,
            Runtime::Unknown => v1::Runtime::Unspecified,
        };
        Self { namespace: key.namespace.clone(), id: key.id.clone(), runtime: runtime.into() }
    }
}

impl TryFrom<v1::ContainerKey> for ContainerKey {
    type Error = WireError;

    fn try_from(key: v1::ContainerKey) -> Result<Self, WireError> {
        // A runtime that a newer agent knows has a number that this version does not know.
        let runtime = match v1::Runtime::try_from(key.runtime).unwrap_or_default() {
            v1::Runtime::Containerd => Runtime::Containerd,
            v1::Runtime::CriO => Runtime::CriO,
            v1::Runtime::Podman => Runtime::Podman,
            v1::Runtime::Docker => Runtime::Docker,
            v1::Runtime::Unspecified => Runtime::Unknown,
        };
        if key.id.is_empty() || key.id.len() > MAX_NAME || key.namespace.len() > MAX_NAME {
            return Err(wrong("a container's key"));
        }
        Ok(Self { runtime, namespace: key.namespace, id: key.id })
    }
}

impl From<Storage> for v1::Storage {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::LayerDirectories => Self::LayerDirectories,
            Storage::MergedTree => Self::MergedTree,
            Storage::MountedRoot => Self::MountedRoot,
        }
    }
}

impl v1::Storage {
    const fn known(self) -> Option<Storage> {
        match self {
            Self::Unspecified => None,
            Self::LayerDirectories => Some(Storage::LayerDirectories),
            Self::MergedTree => Some(Storage::MergedTree),
            Self::MountedRoot => Some(Storage::MountedRoot),
        }
    }
}

impl From<&Step> for v1::Step {
    fn from(step: &Step) -> Self {
        Self { number: step.number, keyword: step.keyword.clone(), created: step.created, text: step.text.clone() }
    }
}

impl TryFrom<v1::Container> for Seen {
    type Error = WireError;

    fn try_from(container: v1::Container) -> Result<Self, WireError> {
        let key = ContainerKey::try_from(container.key.ok_or(wrong("a container's key"))?)?;
        if container.layers.len() > MAX_LAYERS {
            return Err(wrong("a container"));
        }
        let storage = v1::Storage::try_from(container.storage).unwrap_or_default().known();
        let stack = if container.stack.is_empty() {
            None
        } else {
            let layers = container.layers.iter().map(LayerId::try_from).collect::<Result<Vec<_>, _>>()?;
            let stack = digest(&container.stack, "a stack's identity")?;
            // Else a node could say of everybody's stack what lies in it.
            if !fits(&stack, &layers) {
                return Err(wrong("the layers that a stack's identity follows from"));
            }
            Some((stack, layers))
        };
        let refused = container.coverage.as_ref().map(Coverage::try_from).transpose()?;
        if stack.is_none() && refused.is_none() {
            return Err(wrong("a container's layers"));
        }
        let cut_to = |mut text: String, most: usize| {
            text.truncate(text.floor_char_boundary(most));
            text
        };
        let cut = |text: String| cut_to(text, MAX_NAME);
        let step = |step: v1::Step| Step {
            number: step.number,
            keyword: cut_to(step.keyword, 16),
            created: step.created,
            text: cut_to(step.text, MAX_STEP_TEXT),
        };
        // Steps explain layers: without a layer for each they explain nothing.
        let one_each = stack.as_ref().is_some_and(|(_, layers)| layers.len() == container.steps.len());
        let steps = if one_each { container.steps.into_iter().map(step).collect() } else { Vec::new() };
        Ok(Self {
            key,
            name: cut(container.name),
            pod: container.pod.map(|pod| Pod { namespace: cut(pod.namespace), name: cut(pod.name), uid: cut(pod.uid) }),
            image: cut(container.image),
            storage,
            stack,
            refused,
            steps,
        })
    }
}

/// Reads `bytes` as everything that a node may send, and throws it away. For the fuzz target.
#[doc(hidden)]
pub fn check_report(bytes: &[u8]) {
    let report = <v1::Report as prost::Message>::decode(bytes);
    match report.ok().and_then(|report| report.report) {
        Some(v1::report::Report::Containers(containers)) => {
            for container in containers.containers {
                if let Ok(seen) = Seen::try_from(container) {
                    // What was taken can be told again, and is the same.
                    assert!(Seen::try_from(v1::Container::from(&seen)).as_ref() == Ok(&seen));
                }
            }
        }
        Some(v1::report::Report::Answers(answers)) => {
            for answer in answers.answers {
                if let Some(v1::answer::Read::Fact(bytes)) = answer.read {
                    let _ = crate::Fact::decode(&bytes);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let base = Digest::of(b"base");
        let app = Digest::of(b"app");
        let stack = Digest::of(format!("{base} {app}").as_bytes());
        Seen {
            key: ContainerKey { runtime: Runtime::Containerd, namespace: "k8s.io".to_owned(), id: "abc".to_owned() },
            name: "web".to_owned(),
            pod: Some(Pod { namespace: "shop".to_owned(), name: "web-1".to_owned(), uid: "u".to_owned() }),
            image: "example.org/web:1".to_owned(),
            storage: Some(Storage::LayerDirectories),
            stack: Some((stack, vec![LayerId::Diff(app), LayerId::Chain(base)])),
            refused: None,
            steps: vec![
                Step { number: 3, keyword: "RUN".to_owned(), created: 7, text: String::new() },
                Step::default(),
            ],
        }
    }

    #[test]
    fn a_container_arrives_as_it_was_sent() {
        let refused =
            Seen { stack: None, refused: Some(Coverage::unsupported("devmapper")), steps: Vec::new(), ..seen() };
        for seen in [seen(), refused] {
            assert_eq!(Seen::try_from(v1::Container::from(&seen)), Ok(seen));
        }
    }

    #[test]
    fn every_runtime_and_storage_arrives_and_unknown_numbers_of_newer_agents_are_accepted() {
        for (runtime, storage) in Runtime::ALL.into_iter().zip(Storage::ALL.into_iter().map(Some).chain([None, None])) {
            let sent = Seen { key: ContainerKey { runtime, ..seen().key }, storage, ..seen() };
            assert_eq!(Seen::try_from(v1::Container::from(&sent)), Ok(sent));
        }
        let mut newer = v1::Container { storage: 900, ..v1::Container::from(&seen()) };
        newer.key.as_mut().unwrap().runtime = 900;
        let arrived = Seen::try_from(newer).unwrap();
        assert_eq!((arrived.key.runtime, arrived.storage), (Runtime::Unknown, None));
        assert_eq!((arrived.key.id, arrived.stack), (seen().key.id, seen().stack));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = v1::Container::from(&seen());
        let short = v1::Container { stack: vec![1; 31], ..good.clone() };
        let nameless = v1::Container { key: None, ..good.clone() };
        let nothing = v1::Container { stack: Vec::new(), ..good.clone() };
        let many = v1::Container { layers: vec![v1::LayerId { id: None }; 501], ..good.clone() };
        let state = v1::Coverage { state: "perfect".to_owned(), reason: String::new() };
        let unknown = v1::Container { coverage: Some(state), ..good.clone() };
        let foreign = v1::Container { layers: vec![LayerId::Diff(Digest::of(b"evil")).into()], ..good };
        for container in [short, nameless, nothing, many, unknown, foreign] {
            assert!(Seen::try_from(container).is_err());
        }
    }

    #[test]
    fn fields_and_reports_of_a_newer_agent_are_passed_over() {
        use prost::Message as _;
        let mut bytes = v1::Report { cluster: "c".to_owned(), report: None }.encode_to_vec();
        // Field 900, a report that this version does not know, and field 901, a number.
        bytes.extend_from_slice(&[0xa2, 0x38, 2, b'h', b'i', 0xa8, 0x38, 7]);
        let report = v1::Report::decode(bytes.as_slice()).unwrap();
        assert_eq!((report.cluster.as_str(), report.report), ("c", None));
    }
}
