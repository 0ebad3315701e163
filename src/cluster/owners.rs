//! From a pod to its workload, by owner references.

use serde::Deserialize;

/// How many owners are followed. Pod, ReplicaSet, Deployment are three; operators add one or two. More is a circle, or an attempt.
const MAX_HOPS: usize = 20;

/// What is read of an object's [`metadata`](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectMeta {
    /// Its name, unique in its namespace among objects of its kind.
    pub name: String,
    /// Its namespace; none of objects that the whole cluster shares.
    pub namespace: Option<String>,
    /// Its identity: an object that is made again under the same name has another.
    pub uid: String,
    /// What it belongs to.
    pub owner_references: Option<Vec<OwnerReference>>,
}

/// One [owner](https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/) of an object. It lies in
/// the object's own namespace, or in none.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Its group and version, such as `apps/v1`; of the core group the version alone.
    pub api_version: String,
    /// Its kind, such as `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Whether it is the one that manages the object. At most one does.
    pub controller: Option<bool>,
}

/// The topmost owner of a pod: what people deploy, and what findings are listed under.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Workload {
    /// The namespace of the pod, and so of the workload.
    pub namespace: String,
    /// The API group, such as `apps`; empty for the core group.
    pub group: String,
    /// The kind, such as `Deployment`, or a custom resource's own.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The identity.
    pub uid: String,
}

/// The workload of `pod`: its owners are followed up to the topmost one that can be named.
///
/// `find` gives the metadata of what a reference names, in the pod's namespace, where it is known. An owner that is not (a custom
/// resource that nobody watches, one that was deleted a moment ago) is named by the reference to it, and ends the way. One that
/// `find` gives with another identity was made again since: it is not what owned the pod, and nothing is learnt from it.
///
/// A static pod is owned by its node, which is no workload; such a pod, and one without an owner, is its own.
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

/// The owner that manages an object; where none says so, the first one.
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
