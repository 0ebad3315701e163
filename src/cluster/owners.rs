//! Finds the workload of a pod, by owner references.

use serde::Deserialize;

/// Largest number of owners that are followed. Pod, ReplicaSet, Deployment are three, and operators add one or two; a longer chain is a cycle or an attack.
const MAX_HOPS: usize = 20;

/// The fields that are read of an object's [`metadata`](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Name, unique among objects of the same kind in the namespace.
    pub name: String,
    /// Namespace; `None` for cluster-scoped objects.
    pub namespace: Option<String>,
    /// UID. An object that is created again under the same name has another one.
    pub uid: String,
    /// Owners.
    pub owner_references: Option<Vec<OwnerReference>>,
}

/// One [owner](https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/) of an object. It is in
/// the same namespace as the object, or cluster-scoped.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Group and version, such as `apps/v1`; the version alone for the core group.
    pub api_version: String,
    /// Kind, such as `ReplicaSet`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Whether this owner manages the object. At most one owner does.
    pub controller: Option<bool>,
}

/// The topmost owner of a pod: the object that people deploy, and under which findings are listed.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Workload {
    /// The namespace of the pod, and so of the workload.
    pub namespace: String,
    /// The API group, such as `apps`; empty for the core group.
    pub group: String,
    /// The kind, such as `Deployment`, or that of a custom resource.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The UID.
    pub uid: String,
}

/// Returns the workload of `pod`: the topmost owner that can be named.
///
/// `find` returns the metadata of the object that a reference names, in the pod's namespace, if it is known. An unknown owner (a custom resource
/// that is not watched, or an object that was just deleted) is named by the reference, and its own owners are not followed. If `find` returns an
/// object with another UID, the owner was deleted and created again; the new object did not own the pod and is ignored.
///
/// A static pod is owned by its node, which is not a workload. Such a pod, and a pod without an owner, is its own workload.
///
/// ```
/// use outcrop::cluster::{ObjectMeta, workload};
///
/// let pod = ObjectMeta { name: "bare".into(), namespace: Some("shop".into()), uid: "1".into(), owner_references: None };
/// assert_eq!(workload(&pod, |_| None).kind, "Pod");
/// ```
pub fn workload<'a>(pod: &'a ObjectMeta, find: impl Fn(&OwnerReference) -> Option<&'a ObjectMeta>) -> Workload {
    let mut top = Workload {
        namespace: pod.namespace.clone().unwrap_or_default(),
        group: String::new(),
        kind: "Pod".to_owned(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    };
    let mut at = Some(pod);
    for _ in 0..MAX_HOPS {
        let Some(owner) = at.and_then(|object| manager(object.owner_references.as_deref().unwrap_or_default())) else {
            break;
        };
        if owner.kind == "Node" && owner.api_version == "v1" {
            break;
        }
        top.group = owner.api_version.rsplit_once('/').map_or("", |(group, _)| group).to_owned();
        top.kind.clone_from(&owner.kind);
        top.name.clone_from(&owner.name);
        top.uid.clone_from(&owner.uid);
        at = find(owner).filter(|found| found.uid == owner.uid);
    }
    top
}

/// Returns the owner that manages an object, or the first one if none does.
pub(super) fn manager(owners: &[OwnerReference]) -> Option<&OwnerReference> {
    owners.iter().find(|owner| owner.controller == Some(true)).or(owners.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, owners: &[(&str, &str, &str, bool)]) -> ObjectMeta {
        let reference = |&(api_version, kind, name, controller): &(&str, &str, &str, bool)| OwnerReference {
            api_version: api_version.into(),
            kind: kind.into(),
            name: name.into(),
            uid: format!("uid of {name}"),
            controller: Some(controller),
        };
        ObjectMeta {
            name: name.into(),
            namespace: Some("shop".into()),
            uid: format!("uid of {name}"),
            owner_references: Some(owners.iter().map(reference).collect()),
        }
    }

    /// `kind name` of the workload of the first object, where all of them are known.
    fn top(objects: &[ObjectMeta]) -> String {
        let found = workload(&objects[0], |owner| objects.iter().find(|object| object.name == owner.name));
        format!("{}/{} {}", found.group, found.kind, found.name)
    }

    #[test]
    fn the_workload_is_the_topmost_owner_that_can_be_named() {
        let replicas = ("apps/v1", "ReplicaSet", "web-5d5f", true);
        let cases: &[(&[ObjectMeta], &str)] = &[
            (&[object("bare", &[])], "/Pod bare"),
            (&[object("static-b", &[("v1", "Node", "b", true)])], "/Pod static-b"),
            (
                &[object("web-1", &[replicas]), object("web-5d5f", &[("apps/v1", "Deployment", "web", true)])],
                "apps/Deployment web",
            ),
            // Its Deployment was deleted, and the ReplicaSet kept.
            (&[object("web-1", &[replicas]), object("web-5d5f", &[])], "apps/ReplicaSet web-5d5f"),
            // Not known yet, or any more.
            (&[object("web-1", &[replicas])], "apps/ReplicaSet web-5d5f"),
            (&[object("runner", &[("actions.example/v1", "Runner", "r", true)])], "actions.example/Runner r"),
            // The one that manages it, not the one that is named first.
            (&[object("two", &[("v1", "ConfigMap", "c", false), ("batch/v1", "Job", "j", true)])], "batch/Job j"),
            (&[object("none", &[("example/v1", "A", "a", false), ("example/v1", "B", "b", false)])], "example/A a"),
        ];
        for (objects, expected) in cases {
            assert_eq!(top(objects), *expected);
        }
    }

    #[test]
    fn owners_in_a_circle_come_to_an_end() {
        let circle = [object("a", &[("e/v1", "K", "b", true)]), object("b", &[("e/v1", "K", "a", true)])];
        assert_eq!(top(&circle), "e/K a");
    }

    #[test]
    fn an_owner_that_was_made_again_is_not_the_one_that_owned_the_pod() {
        let pod = object("web-1", &[("apps/v1", "ReplicaSet", "web-5d5f", true)]);
        let again =
            ObjectMeta { uid: "another".into(), ..object("web-5d5f", &[("apps/v1", "Deployment", "other", true)]) };
        let found = workload(&pod, |_| Some(&again));
        assert_eq!((found.kind.as_str(), found.uid.as_str()), ("ReplicaSet", "uid of web-5d5f"));
    }

    #[test]
    fn fields_that_are_null_or_absent_are_none() {
        let meta: ObjectMeta =
            serde_json::from_str(r#"{"name":"a","uid":"1","ownerReferences":null,"labels":{}}"#).unwrap();
        assert_eq!(workload(&meta, |_| None).name, "a");
    }
}
