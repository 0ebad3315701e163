//! The interface between agents and the aggregator, `outcrop/v1/collector.proto`, and the conversions between its messages and the plain
//! types. Messages come from other machines: each conversion validates its message.

use crate::container::{ContainerKey, Coverage, CoverageState, ImageDetails, Pod, Runtime, Step, Storage};
use crate::digest::Digest;
use crate::identity::{LayerId, fits};

/// Generated messages, client and server.
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

/// Version of this interface. An aggregator serves agents of the same version; a change that an older peer would misunderstand
/// takes the next number.
pub const VERSION: u32 = 1;

/// Metadata key of a gRPC status that names the [`Refusal`].
const REFUSAL_KEY: &str = "outcrop-refusal";

/// Why an aggregator refuses an agent's call. The metadata of the gRPC status carries the name, and a counter has it as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// The agent speaks another version of this interface.
    WireVersion,
    /// The token is unknown, expired or for another purpose.
    Token,
    /// The token belongs to another node than the agent reports for.
    Node,
    /// The agent belongs to another cluster than the aggregator.
    Cluster,
    /// A message contradicts the interface.
    Malformed,
    /// The node was not asked for what it delivered.
    Unasked,
    /// A message, or everything that the node reports together, is too large.
    TooLarge,
    /// The agent did not go on in time.
    TimedOut,
    /// Another agent attached as the same node.
    Replaced,
    /// The aggregator ended while it worked on the inventory, and so did a process that tried it again.
    SetAside,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 10] = [
        Self::WireVersion,
        Self::Token,
        Self::Node,
        Self::Cluster,
        Self::Malformed,
        Self::Unasked,
        Self::TooLarge,
        Self::TimedOut,
        Self::Replaced,
        Self::SetAside,
    ];

    /// Returns the name, as it stands in metadata and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WireVersion => "wire-version",
            Self::Token => "token",
            Self::Node => "node",
            Self::Cluster => "cluster",
            Self::Malformed => "malformed",
            Self::Unasked => "unasked",
            Self::TooLarge => "too-large",
            Self::TimedOut => "timed-out",
            Self::Replaced => "replaced",
            Self::SetAside => "set-aside",
        }
    }

    /// Returns the gRPC status that refuses a call for this reason.
    pub fn status(self, message: impl Into<String>) -> tonic::Status {
        let code = match self {
            Self::WireVersion => tonic::Code::Unimplemented,
            Self::Cluster | Self::Unasked => tonic::Code::FailedPrecondition,
            Self::Token => tonic::Code::Unauthenticated,
            Self::Node => tonic::Code::PermissionDenied,
            Self::Malformed | Self::SetAside => tonic::Code::InvalidArgument,
            Self::TooLarge => tonic::Code::ResourceExhausted,
            Self::TimedOut => tonic::Code::DeadlineExceeded,
            Self::Replaced => tonic::Code::Aborted,
        };
        let mut status = tonic::Status::new(code, message);
        status.metadata_mut().insert(REFUSAL_KEY, tonic::metadata::MetadataValue::from_static(self.as_str()));
        status
    }

    /// Returns the reason to count a failed call under: the one that its status names, else the one that its code implies. `None`
    /// where the call failed through no fault of the agent (`Unavailable`, `Cancelled`).
    pub fn classify(status: &tonic::Status) -> Option<Self> {
        Self::of(status).or(match status.code() {
            tonic::Code::Unimplemented => Some(Self::WireVersion),
            tonic::Code::Unauthenticated => Some(Self::Token),
            tonic::Code::PermissionDenied => Some(Self::Node),
            tonic::Code::FailedPrecondition => Some(Self::Unasked),
            // tonic refuses a message of more than MAX_MESSAGE with OutOfRange.
            tonic::Code::ResourceExhausted | tonic::Code::OutOfRange => Some(Self::TooLarge),
            tonic::Code::DeadlineExceeded => Some(Self::TimedOut),
            tonic::Code::InvalidArgument | tonic::Code::Internal => Some(Self::Malformed),
            _ => None,
        })
    }

    /// Returns why a call was refused; `None` when it failed for another reason, or for one that this version does not know.
    pub fn of(status: &tonic::Status) -> Option<Self> {
        let name = status.metadata().get(REFUSAL_KEY)?.to_str().ok()?;
        Self::ALL.into_iter().find(|refusal| refusal.as_str() == name)
    }
}

/// Checks that an agent speaks the version of this interface that this aggregator speaks.
///
/// # Errors
/// A status that names both versions and what the operator can do.
pub fn check_version(hello: &v1::Hello) -> Result<(), tonic::Status> {
    if hello.wire_version == VERSION {
        return Ok(());
    }
    let older = if hello.wire_version < VERSION { "agent" } else { "aggregator" };
    let mut agent = hello.agent_version.clone();
    agent.truncate(agent.floor_char_boundary(64));
    Err(Refusal::WireVersion.status(format!(
        "unsupported wire version {}: agent {agent:?} speaks {}, this aggregator ({}) speaks {VERSION}; upgrade the {older}",
        hello.wire_version,
        hello.wire_version,
        env!("CARGO_PKG_VERSION"),
    )))
}

/// Maximum size of a message in either direction, bytes. Messages are not compressed: inventories are, by themselves, and a message that
/// unpacks to a thousand times its size would cost its sender nothing.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Maximum size of the inventory bytes in one [`v1::Piece`] of the agent: a stream keeps the memory of its longest message while it lives.
pub const PIECE: usize = 64 << 10;

/// A message contradicts the interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is missing or malformed")]
pub struct WireError {
    /// Part of the message.
    pub what: &'static str,
}

const fn wrong(what: &'static str) -> WireError {
    WireError { what }
}

/// Reads a SHA-256 digest; `what` names it in the error.
///
/// # Errors
/// When `bytes` are not 32 bytes.
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

/// A container, as a node reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Identity on the node.
    pub key: ContainerKey,
    /// Name in the pod, or the ID.
    pub name: String,
    /// The pod, if it has one.
    pub pod: Option<Pod>,
    /// Name of the image when the container was created.
    pub image: String,
    /// How the runtime stores its files, where the agent knows it.
    pub storage: Option<Storage>,
    /// Identity of its stack, and its layers, newest first.
    pub stack: Option<(Digest, Vec<LayerId>)>,
    /// Reason why it is not read.
    pub refused: Option<Coverage>,
    /// Build steps of its layers, one per layer, newest first; empty where they are not known.
    pub steps: Vec<Step>,
    /// Properties of its image, where the configuration is proved.
    pub details: Option<ImageDetails>,
}

/// Maximum size of a step's text, bytes; longer texts are cut.
const MAX_STEP_TEXT: usize = 1024;

/// Maximum number of layers in a stack; overlayfs accepts 500.
const MAX_LAYERS: usize = 500;

/// Maximum size of a name in a message, bytes.
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
            image_details: seen.details.as_ref().map(Into::into),
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

impl From<&ImageDetails> for v1::ImageDetails {
    fn from(details: &ImageDetails) -> Self {
        let label = |(key, value): (&String, &String)| v1::Label { key: key.clone(), value: value.clone() };
        Self {
            created: details.created,
            platform: details.platform.clone(),
            user: details.user.clone(),
            labels: details.labels.iter().map(label).collect(),
            size: details.size,
        }
    }
}

impl From<v1::ImageDetails> for ImageDetails {
    /// Takes the labels of the allow-list, and cuts texts that are too long.
    fn from(details: v1::ImageDetails) -> Self {
        let cut = |text| cut_to(text, Self::MAX_TEXT);
        let labels = details.labels.into_iter().filter(|label| Self::LABELS.contains(&&*label.key));
        Self {
            created: details.created,
            platform: cut(details.platform),
            user: cut(details.user),
            labels: labels.map(|label| (label.key, cut(label.value))).collect(),
            size: details.size,
        }
    }
}

/// Cuts a text at a character.
fn cut_to(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
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
            // Otherwise a node could replace the layers of a stack that other nodes run.
            if !fits(&stack, &layers) {
                return Err(wrong("the layers that a stack's identity follows from"));
            }
            Some((stack, layers))
        };
        let refused = container.coverage.as_ref().map(Coverage::try_from).transpose()?;
        if stack.is_none() && refused.is_none() {
            return Err(wrong("a container's layers"));
        }
        let cut = |text: String| cut_to(text, MAX_NAME);
        let step = |step: v1::Step| Step {
            number: step.number,
            keyword: cut_to(step.keyword, 16),
            created: step.created,
            text: cut_to(step.text, MAX_STEP_TEXT),
        };
        // A step without its layer explains nothing.
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
            details: container.image_details.map(Into::into),
        })
    }
}

/// Decodes `bytes` as each message that a node may send, and discards the result. For the fuzz target.
#[doc(hidden)]
pub fn check_report(bytes: &[u8]) {
    if crate::shape::check::<v1::Report>(bytes).is_err() {
        return;
    }
    let report = <v1::Report as prost::Message>::decode(bytes);
    match report.ok().and_then(|report| report.report) {
        Some(v1::report::Report::Containers(containers)) => {
            for container in containers.containers {
                if let Ok(seen) = Seen::try_from(container) {
                    // An accepted container survives the round trip.
                    assert!(Seen::try_from(v1::Container::from(&seen)).as_ref() == Ok(&seen));
                }
            }
        }
        Some(v1::report::Report::Answers(answers)) => {
            for answer in answers.answers {
                if let Some(v1::answer::Read::Fact(bytes)) = answer.read {
                    let _ = crate::Fact::decode(&bytes, &mut crate::Budget::job());
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
            details: Some(ImageDetails {
                created: 7,
                platform: "linux/arm64/v8".to_owned(),
                user: "1000:1000".to_owned(),
                labels: ImageDetails::LABELS.map(|label| (label.to_owned(), "https://example.org".to_owned())).into(),
                size: 123_456_789,
            }),
        }
    }

    #[test]
    fn a_container_arrives_as_it_was_sent() {
        let refused = Seen {
            stack: None,
            refused: Some(Coverage::unsupported("devmapper")),
            steps: Vec::new(),
            details: None,
            ..seen()
        };
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
    fn a_refusal_arrives_by_name_and_says_which_side_to_upgrade() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::of(&refusal.status("no")), Some(refusal));
            assert_eq!(Refusal::classify(&refusal.status("no")), Some(refusal));
        }
        assert_eq!(Refusal::of(&tonic::Status::unauthenticated("no")), None);
        assert_eq!(Refusal::classify(&tonic::Status::unauthenticated("no")), Some(Refusal::Token));
        assert_eq!(Refusal::classify(&tonic::Status::out_of_range("no")), Some(Refusal::TooLarge));
        assert_eq!(Refusal::classify(&tonic::Status::unavailable("away")), None);
        let hello =
            |wire_version| v1::Hello { wire_version, agent_version: "9.9.9".to_owned(), ..v1::Hello::default() };
        assert!(check_version(&hello(VERSION)).is_ok());
        for (version, advice) in [(VERSION - 1, "upgrade the agent"), (VERSION + 1, "upgrade the aggregator")] {
            let status = check_version(&hello(version)).unwrap_err();
            assert_eq!(Refusal::of(&status), Some(Refusal::WireVersion));
            let words = [advice, "9.9.9", &format!("speaks {version}"), &format!("speaks {VERSION};")];
            for word in words {
                assert!(status.message().contains(word), "{word}: {}", status.message());
            }
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
