//! Converts containerd's container record.
//!
//! Labels are not trusted: the CRI plugin and `ctr run` copy an image's labels into its container's labels, so an image could claim a pod
//! or pass for a sandbox. The CRI plugin writes its own data into an extension of the record, which no image can change.

use std::collections::HashMap;

use containerd_client::services::v1::Container as Wire;
use outcrop_proto::{Container, ContainerKey, Pod, Runtime, Status};
use serde::Deserialize;

const CONTAINER_EXTENSION: &str = "io.cri-containerd.container.metadata";
const SANDBOX_EXTENSION: &str = "io.cri-containerd.sandbox.metadata";

/// Maximum size of a name, bytes; longer ones are cut. Names of Kubernetes and containerd have at most 253 bytes, image references about 400.
const MAX_WORD: usize = 1024;

/// A record, and the sandbox that it belongs to.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) container: Container,
    /// Container ID of the sandbox, where the CRI plugin created this container.
    pub(super) sandbox_id: Option<String>,
    /// Number of the attempt: the kubelet counts the containers of one name in a sandbox, and keeps the last one that ended.
    pub(super) attempt: u32,
}

/// Reads the needed fields and drops the rest (the OCI specification with environment and arguments, labels). The status is
/// [`Status::Exited`] until a task is found.
pub(super) fn read(namespace: &str, wire: Wire) -> Record {
    let sandbox = wire.extensions.contains_key(SANDBOX_EXTENSION);
    let extension = [CONTAINER_EXTENSION, SANDBOX_EXTENSION].iter().find_map(|key| wire.extensions.get(*key));
    // A malformed extension costs the pod and the name, not the container.
    let metadata = extension
        .and_then(|any| serde_json::from_slice::<Versioned>(&any.value).ok())
        .map(|versioned| versioned.metadata)
        .unwrap_or_default();
    let pod = metadata.pod();
    let name = metadata.config.metadata.name.filter(|name| !name.is_empty()).unwrap_or_else(|| wire.id.clone());
    let image_ref = metadata.image_ref.filter(|digest| is_digest(digest));
    let container = Container {
        root_mount: format!("/io.containerd.runtime.v2.task/{namespace}/{}/rootfs", wire.id),
        key: ContainerKey { runtime: Runtime::Containerd, namespace: namespace.to_owned(), id: wire.id },
        name: short(name),
        pod,
        image: short(wire.image),
        image_ref,
        status: Status::Exited,
        sandbox,
        storage_driver: wire.snapshotter,
        storage_id: wire.snapshot_key,
        chain: Vec::new(),
        mounts: Vec::new(),
        configs: Vec::new(),
        size: 0,
        refused: None,
    };
    Record {
        container,
        attempt: metadata.config.metadata.attempt,
        sandbox_id: metadata.sandbox_id.filter(|id| !id.is_empty()),
    }
}

/// Cuts a name that is only displayed.
pub(super) fn short(mut word: String) -> String {
    word.truncate(word.floor_char_boundary(MAX_WORD));
    word
}

/// Returns whether a text is `sha256:` and 64 lower-case hexadecimal digits.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// The needed part of the CRI plugin's metadata of a container (containerd's `internal/cri/store/container`) or a sandbox
/// (`internal/cri/store/sandbox`). Both are `{"Version":"v1","Metadata":{…}}`.
#[derive(Debug, Deserialize)]
struct Versioned {
    #[serde(rename = "Metadata")]
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "SandboxID")]
    sandbox_id: Option<String>,
    #[serde(rename = "ImageRef")]
    image_ref: Option<String>,
    #[serde(rename = "Config")]
    config: Config,
}

/// The kubelet's configuration: for a container its name and labels, for a sandbox the pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    metadata: ConfigMetadata,
    labels: HashMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConfigMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    attempt: u32,
}

impl Metadata {
    fn pod(&self) -> Option<Pod> {
        let of_sandbox = &self.config.metadata;
        let word = |label: &str, field: &Option<String>| {
            let text = self.config.labels.get(label).or(field.as_ref()).filter(|text| !text.is_empty());
            text.cloned().map(short)
        };
        // A container's name is not its pod's name, so only a sandbox's metadata, which has a namespace, is used.
        let name_of_sandbox = if of_sandbox.namespace.is_some() { &of_sandbox.name } else { &None };
        Some(Pod {
            namespace: word("io.kubernetes.pod.namespace", &of_sandbox.namespace)?,
            name: word("io.kubernetes.pod.name", name_of_sandbox)?,
            uid: word("io.kubernetes.pod.uid", &of_sandbox.uid).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use containerd_client::services::v1::Container as Wire;

    use super::*;

    /// As containerd 1.6 writes it, with what must not be passed on.
    const CONTAINER: &str = r#"{"Version":"v1","Metadata":{"ID":"4f9c","Name":"web_shop-7d_shop_5a1e_0","SandboxID":"9b02",
        "Config":{"metadata":{"name":"web"},"image":{"image":"sha256:1111"},"envs":[{"key":"PASSWORD","value":"hunter2"}],
        "labels":{"io.kubernetes.container.name":"web","io.kubernetes.pod.name":"shop-7d","io.kubernetes.pod.namespace":"shop",
        "io.kubernetes.pod.uid":"5a1e"},"annotations":{"a":"b"},"linux":{"resources":{"cpu_shares":2}}},
        "ImageRef":"sha256:e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1e1","LogPath":"/var/log/x","StopSignal":"SIGTERM"}}"#;
    const SANDBOX: &str = r#"{"Version":"v1","Metadata":{"ID":"9b02","Name":"shop-7d_shop_5a1e_0",
        "Config":{"metadata":{"name":"shop-7d","uid":"5a1e","namespace":"shop"},"labels":{"app":"shop"}},"NetNSPath":"/x"}}"#;

    fn wire(id: &str, extension: Option<(&str, &str)>) -> Wire {
        let mut wire = Wire { id: id.into(), image: "docker.io/library/shop:1".into(), ..Default::default() };
        if let Some((key, json)) = extension {
            wire.extensions.entry(key.into()).or_default().value = json.into();
        }
        wire
    }

    fn shop() -> Pod {
        Pod { namespace: "shop".into(), name: "shop-7d".into(), uid: "5a1e".into() }
    }

    #[test]
    fn a_container_of_a_pod_has_names_from_the_kubelet_and_no_secrets() {
        let record = read("k8s.io", wire("4f9c", Some((CONTAINER_EXTENSION, CONTAINER))));
        let container = record.container;
        assert_eq!(container.pod, Some(shop()));
        assert_eq!((container.name.as_str(), container.sandbox), ("web", false));
        assert_eq!(container.image_ref.as_deref().map(is_digest), Some(true));
        assert_eq!(record.sandbox_id.as_deref(), Some("9b02"));
        assert!(!format!("{container:?}").contains("hunter2"));
    }

    #[test]
    fn a_sandbox_is_told_by_its_extension() {
        let container = read("k8s.io", wire("9b02", Some((SANDBOX_EXTENSION, SANDBOX)))).container;
        assert!(container.sandbox);
        assert_eq!(container.pod, Some(shop()));
    }

    #[test]
    fn an_image_cannot_label_itself_into_a_pod_or_hide_as_a_sandbox() {
        let mut wire = wire("c", None);
        for (key, value) in [
            ("io.cri-containerd.kind", "sandbox"),
            ("io.kubernetes.pod.name", "kube-apiserver"),
            ("io.kubernetes.pod.namespace", "kube-system"),
            ("io.kubernetes.container.name", "kube-apiserver"),
        ] {
            wire.labels.insert(key.into(), value.into());
        }
        let container = read("default", wire).container;
        assert_eq!((container.sandbox, container.pod, container.name.as_str()), (false, None, "c"));
    }

    #[test]
    fn an_extension_that_cannot_be_read_costs_the_names_only() {
        let deep = format!("{{\"Metadata\":{}", "[".repeat(100_000));
        for json in ["", "null", "[]", "{\"Metadata\":7}", "{\"Metadata\":{\"Config\":null}}", &deep] {
            let container = read("k8s.io", wire("c", Some((CONTAINER_EXTENSION, json)))).container;
            assert_eq!((container.pod, container.name.as_str()), (None, "c"), "{}", short(json.into()));
        }
    }

    #[test]
    fn an_image_ref_that_is_no_digest_is_not_asked_for() {
        for image_ref in ["", "sha256:12", "docker.io/library/x:1", &format!("sha256:{}", "G".repeat(64))] {
            let json = format!("{{\"Metadata\":{{\"ImageRef\":{image_ref:?}}}}}");
            assert_eq!(read("k8s.io", wire("c", Some((CONTAINER_EXTENSION, &json)))).container.image_ref, None);
        }
    }

    #[test]
    fn words_that_are_too_long_are_cut_at_a_character() {
        let mut wire = wire("c", None);
        wire.image = "é".repeat(MAX_WORD);
        assert_eq!(read("x", wire).container.image.len(), MAX_WORD);
    }
}
