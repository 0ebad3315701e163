//! Kubernetes objects, reduced to the fields that are used. Other fields are not stored; those of a pod are not even decoded.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference as KubeOwner, Time};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta as KubeMeta};
use serde::{Deserialize, Deserializer};

use super::checks::PodSpec;
use super::owners::manager;
use super::{ObjectMeta, OwnerReference};

/// The used fields of an object's metadata. Anybody who may write the object may write the other fields, such as `managedFields`, and a malformed
/// field of one object must not make the list unreadable.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Lenient {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

fn lenient<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KubeMeta, D::Error> {
    let meta = Lenient::deserialize(deserializer)?;
    // Only one owner is ever used, and an object may have tens of thousands.
    let owner = manager(meta.owner_references.as_deref().unwrap_or_default()).map(|owner| KubeOwner {
        api_version: cut(&owner.api_version),
        kind: cut(&owner.kind),
        name: cut(&owner.name),
        uid: cut(&owner.uid),
        controller: owner.controller,
        block_owner_deletion: None,
    });
    let created = meta.creation_timestamp.and_then(|text| text.parse::<Timestamp>().ok());
    Ok(KubeMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        creation_timestamp: created.map(Time),
        labels: meta.labels,
        annotations: meta.annotations,
        owner_references: owner.map(|owner| vec![owner]),
        ..KubeMeta::default()
    })
}

/// Truncates a text to the length of a name. Texts in owner references may be written by anybody.
fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(253)].to_owned()
}

/// The metadata of an object of any kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KubeObject {
    #[serde(deserialize_with = "lenient")]
    pub(super) metadata: KubeMeta,
}

impl Resource for KubeObject {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &KubeMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut KubeMeta {
        &mut self.metadata
    }
}

/// A `v1.Pod`. Environment, arguments and commands are never decoded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KubePod {
    #[serde(deserialize_with = "lenient")]
    pub(super) metadata: KubeMeta,
    pub(super) spec: PodSpec,
    pub(super) status: KubePodStatus,
}

/// `v1.PodStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KubePodStatus {
    pub(super) phase: Option<String>,
    pub(super) container_statuses: Option<Vec<KubeContainerStatus>>,
    pub(super) init_container_statuses: Option<Vec<KubeContainerStatus>>,
    pub(super) ephemeral_container_statuses: Option<Vec<KubeContainerStatus>>,
}

/// `v1.ContainerStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KubeContainerStatus {
    pub(super) name: String,
    pub(super) image: String,
    #[serde(rename = "imageID")]
    pub(super) image_id: String,
    #[serde(rename = "containerID")]
    pub(super) container_id: Option<String>,
    pub(super) state: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// Declares which resource of the core group a type represents.
macro_rules! resource {
    ($type:ident, $scope:ty, $kind:literal, $plural:literal) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> Cow<'_, str> {
                "".into()
            }

            fn version((): &()) -> Cow<'_, str> {
                "v1".into()
            }

            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &KubeMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut KubeMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(KubePod, NamespaceResourceScope, "Pod", "pods");
resource!(KubeNode, ClusterResourceScope, "Node", "nodes");

/// A `v1.Node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KubeNode {
    #[serde(deserialize_with = "lenient")]
    pub(super) metadata: KubeMeta,
    pub(super) spec: KubeNodeSpec,
    pub(super) status: KubeNodeStatus,
}

/// `v1.NodeSpec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KubeNodeSpec {
    pub(super) taints: Option<Vec<KubeTaint>>,
}

/// `v1.Taint`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct KubeTaint {
    pub(super) key: String,
}

/// `v1.NodeStatus`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KubeNodeStatus {
    pub(super) node_info: Option<KubeNodeInfo>,
}

/// `v1.NodeSystemInfo`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct KubeNodeInfo {
    pub(super) kubelet_version: String,
    pub(super) container_runtime_version: String,
    pub(super) operating_system: String,
    pub(super) architecture: String,
    pub(super) os_image: String,
    pub(super) kernel_version: String,
}

/// Largest size of a label or an annotation that is stored, in bytes. Longer ones are documents.
const MAX_VALUE: usize = 1024;

/// Largest size of all labels, and of all annotations, that are stored per object, in bytes. Labels have at most 381 bytes each.
const MAX_VALUES: usize = 32 << 10;

/// The annotation in which kubectl keeps the whole object, with its environment variables. It is never stored.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The annotation that excludes a workload or a namespace, with the value `"true"`.
pub const EXCLUDE: &str = "outcrop.dev/exclude";

/// Labels or annotations.
pub type Values = BTreeMap<String, String>;

/// The labels, annotations and age of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Labels.
    pub labels: Values,
    /// Annotations, without those that are documents.
    pub annotations: Values,
    /// Number of labels and annotations that are not stored, because they are too long or too many.
    pub dropped: u32,
    /// Creation time, in seconds since 1970; 0 if it is not known.
    pub created: i64,
}

/// Returns the labels or annotations that are stored, and the number of others. Where they exceed [`MAX_VALUES`], the short ones are stored: they name
/// teams and owners.
fn kept(values: Option<Values>) -> (Values, u32) {
    let mut values: Vec<(String, String)> =
        values.unwrap_or_default().into_iter().filter(|(key, _)| key != LAST_APPLIED).collect();
    let all = values.len();
    let size = |(key, value): &(String, String)| key.len() + value.len();
    values.retain(|pair| pair.0.len() <= MAX_VALUE && pair.1.len() <= MAX_VALUE);
    if values.iter().map(size).sum::<usize>() > MAX_VALUES {
        // The annotation that excludes is stored, whatever the size of others.
        values.sort_by_cached_key(|pair| (pair.0 != EXCLUDE, size(pair)));
        let mut total = 0;
        values.retain(|pair| {
            total += size(pair);
            total <= MAX_VALUES
        });
    }
    let dropped = u32::try_from(all - values.len()).unwrap_or(u32::MAX);
    (values.into_iter().collect(), dropped)
}

impl Marks {
    /// Takes the labels and annotations out of an object's metadata.
    pub(super) fn of(meta: &mut KubeMeta) -> Self {
        let (labels, dropped_labels) = kept(meta.labels.take());
        let (annotations, dropped_annotations) = kept(meta.annotations.take());
        Self {
            labels,
            annotations,
            dropped: dropped_labels.saturating_add(dropped_annotations),
            created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        }
    }
}

impl From<KubeMeta> for ObjectMeta {
    fn from(meta: KubeMeta) -> Self {
        let reference = |owner: KubeOwner| OwnerReference {
            api_version: owner.api_version,
            kind: owner.kind,
            name: owner.name,
            uid: owner.uid,
            controller: owner.controller,
        };
        Self {
            name: meta.name.unwrap_or_default(),
            namespace: meta.namespace,
            uid: meta.uid.unwrap_or_default(),
            owner_references: meta.owner_references.map(|owners| owners.into_iter().map(reference).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: impl IntoIterator<Item = (String, String)>) -> Option<Values> {
        Some(pairs.into_iter().collect())
    }

    #[test]
    fn all_labels_are_stored_and_documents_are_not() {
        let labels = || (0..80).map(|number| (format!("{number:03}.example/label"), "x".repeat(63)));
        assert_eq!(kept(values(labels())), (labels().collect(), 0));
        let documents = [
            (LAST_APPLIED.to_owned(), "{\"env\":[]}".to_owned()),
            ("example/document".to_owned(), "x".repeat(MAX_VALUE + 1)),
            ("example/team".to_owned(), "shop".to_owned()),
        ];
        let expected = Values::from([("example/team".to_owned(), "shop".to_owned())]);
        assert_eq!(kept(values(documents)), (expected, 1));
    }

    #[test]
    fn of_too_many_annotations_the_short_ones_and_the_exclusion_are_stored_and_the_others_counted() {
        let long = (0..100).map(|number| (format!("a{number}"), "x".repeat(1000)));
        let others = [("z.example/team".to_owned(), "shop".to_owned()), (EXCLUDE.to_owned(), "true".to_owned())];
        let (stored, dropped) = kept(values(long.chain(others)));
        assert!(stored.contains_key("z.example/team") && stored.contains_key(EXCLUDE));
        assert!((30..=34).contains(&stored.len()), "{}", stored.len());
        assert_eq!(usize::try_from(dropped).unwrap() + stored.len(), 102);
    }
}
