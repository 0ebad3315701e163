//! The state of the cluster, as the API server reports it: plain data, updated by reflectors.
//!
//! A container is joined to its pod by the container's ID on the pod's node, and by nothing else: names, labels and digests are chosen by images and
//! nodes. The workload of a pod, and whether it is excluded, are computed when an object changes, so that queries only look them up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use outcrop_proto::{Pod as PodName, Runtime};

use super::checks::{self, Issues};
use super::objects::{KubeNode, KubePod, Marks};
use super::selection::Selection;
use super::{ObjectMeta, Workload, workload};

/// The UID of an object.
pub type Uid = Arc<str>;

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
const MAX_IMAGE: usize = 1024;

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

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace, name and UID.
    pub name: Arc<PodName>,
    /// Node, once the pod was scheduled.
    pub node: Option<Arc<str>>,
    /// Whether it has ended: none of its containers runs or will run again.
    pub over: bool,
    /// Containers, in the order of the specification.
    pub containers: Vec<PodContainer>,
    /// Labels and annotations.
    pub marks: Marks,
    /// Configuration issues.
    pub issues: Arc<Issues>,
    /// Workload.
    pub workload: Arc<Workload>,
    /// Why it is excluded, if it is.
    pub excluded: Option<Arc<str>>,
    meta: ObjectMeta,
}

impl Pod {
    /// Returns the node and ID of each container.
    fn ids(&self) -> impl Iterator<Item = (Arc<str>, Arc<str>)> {
        let node = self.node.iter();
        node.flat_map(|node| {
            self.containers.iter().filter_map(|of| Some((Arc::clone(node), Arc::clone(of.id.as_ref()?))))
        })
    }

    /// Returns whether node, workload, exclusion and containers are the same as in another state of the pod.
    fn is_where(&self, other: &Self) -> bool {
        let of =
            |pod: &Self| (pod.node.clone(), Arc::clone(&pod.name), Arc::clone(&pod.workload), pod.excluded.clone());
        let has = |of: &PodContainer, other: &PodContainer| {
            (&of.id, &of.name, &of.image, &of.image_id) == (&other.id, &other.name, &other.image, &other.image_id)
        };
        of(self) == of(other)
            && self.containers.len() == other.containers.len()
            && self.containers.iter().zip(&other.containers).all(|(of, other)| has(of, other))
    }
}

/// The pods of a workload.
#[derive(Clone, Debug)]
pub struct Pods {
    /// The workload.
    pub workload: Arc<Workload>,
    /// UIDs of its pods.
    pub pods: BTreeSet<Uid>,
}

/// An object that may own pods, or their owners.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owner {
    meta: ObjectMeta,
    marks: Marks,
}

/// A node, as its kubelet reports it to the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// UID: a node that was deleted and comes back has another one.
    pub uid: String,
    /// Version of the kubelet.
    pub kubelet: String,
    /// Container runtime and its version: `containerd://2.1.4`.
    pub runtime: String,
    /// `linux` or `windows`.
    pub system: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// Name of the operating system.
    pub image: String,
    /// Version of the kernel.
    pub kernel: String,
    /// Why no agent can run on it, if none can.
    pub blind: Option<&'static str>,
}

/// The pod and the workload of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Pod.
    pub pod: Arc<PodName>,
    /// Name in the pod.
    pub name: Arc<str>,
    /// Image name, as the pod asks for it.
    pub image: Arc<str>,
    /// The image that the kubelet resolved that name to, usually `NAME@DIGEST`.
    pub image_id: Option<Arc<str>>,
    /// Workload.
    pub workload: Arc<Workload>,
    /// Why it is excluded, if it is.
    pub excluded: Option<Arc<str>>,
}

/// A pod as its reflector receives it, with everything computed that takes time, so that the lock of the cluster is held only briefly.
#[derive(Debug)]
pub(super) struct PodTold {
    meta: ObjectMeta,
    node: String,
    over: bool,
    containers: Vec<PodContainer>,
    marks: Marks,
    issues: Issues,
}

impl From<KubePod> for PodTold {
    fn from(mut kube: KubePod) -> Self {
        let containers = containers(&kube);
        let over = matches!(kube.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        // The checks read all annotations; fewer may be stored.
        let issues = checks::check(kube.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new()), &kube.spec);
        let marks = Marks::of(&mut kube.metadata);
        Self { meta: kube.metadata.into(), node: kube.spec.node_name, over, containers, marks, issues }
    }
}

/// What the policy is evaluated for: a workload, or a single pod whose owner is of a kind that is not watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Workload(Arc<Workload>),
    Pod(Uid),
}

/// What the policy decided about a subject.
#[derive(Debug)]
struct Decision {
    /// The version of the input that was evaluated: see [`Cluster::input_version`].
    version: u64,
    /// Whether the policy selects the subject; `None` where it could not be evaluated.
    selected: Option<bool>,
}

/// A snapshot of what the policy is evaluated on. It is evaluated without a lock, which takes up to 200 ms.
#[derive(Debug)]
pub(super) struct PolicyInput {
    subject: Subject,
    version: u64,
    /// The workload.
    pub(super) workload: Arc<Workload>,
    /// Its labels and annotations.
    pub(super) marks: Marks,
}

/// Why a workload is excluded that the policy does not select.
const NOT_SELECTED: &str = "the policy does not select it";

/// Containers whose pod or workload may have changed: their nodes and IDs.
pub type Touched = BTreeSet<(Arc<str>, Arc<str>)>;

/// The state of the cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    selection: Selection,
    pods: HashMap<Uid, Pod>,
    /// Pods by node and container ID: the report of a kubelet counts for its own node only.
    containers: HashMap<Arc<str>, HashMap<Arc<str>, Uid>>,
    owners: HashMap<Uid, Owner>,
    /// Pods and owners, by the UID of each of their owners.
    below: HashMap<Uid, BTreeSet<Uid>>,
    workloads: HashMap<Arc<Workload>, Pods>,
    namespaces: BTreeMap<String, Marks>,
    nodes: BTreeMap<String, Node>,
    /// Whether nodes are watched: one has been listed.
    knows_nodes: bool,
    /// Nodes that were deleted, or replaced by another one of the same name, since they were taken.
    deleted_nodes: Vec<String>,
    texts: HashSet<Arc<str>>,
    decisions: HashMap<Subject, Decision>,
    /// Subjects of which the policy has not decided, or which changed since it did.
    undecided: HashSet<Subject>,
    /// The number of times that the policy was replaced.
    policy_version: u64,
    /// Keys the hash of policy inputs, so that nobody can construct two inputs with the same version.
    hasher: RandomState,
}

impl Cluster {
    /// Creates the state of a cluster of which nothing is known yet.
    pub fn new(selection: Selection) -> Self {
        Self { selection, ..Self::default() }
    }

    /// Returns the pod and workload of the container with this ID on `node`; `None` if the API server knows of none there.
    pub fn place(&self, node: &str, id: &str) -> Option<Place> {
        let pod = self.pods.get(self.containers.get(node)?.get(id)?)?;
        let container = pod.containers.iter().find(|container| container.id.as_deref() == Some(id))?;
        Some(Place {
            pod: Arc::clone(&pod.name),
            name: Arc::clone(&container.name),
            image: Arc::clone(&container.image),
            image_id: container.image_id.clone(),
            workload: Arc::clone(&pod.workload),
            excluded: pod.excluded.clone(),
        })
    }

    /// Returns a pod by its UID.
    pub fn pod(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// Returns all pods.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Returns the workloads that have pods.
    pub fn workloads(&self) -> impl Iterator<Item = &Pods> {
        self.workloads.values()
    }

    /// Returns a node by its name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// Returns whether nodes are watched and none has this name: what runs there has ended, whatever its pods say.
    pub fn is_deleted_node(&self, name: &str) -> bool {
        self.knows_nodes && !self.nodes.contains_key(name)
    }

    /// Takes the names of the nodes that were deleted since the last call.
    pub(super) fn take_deleted_nodes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.deleted_nodes)
    }

    /// Returns the nodes with their names, sorted by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (name.as_str(), node))
    }

    /// Returns the names of the namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.keys().map(String::as_str)
    }

    /// Returns the labels and annotations of a workload, or those of one of its pods if its kind is not watched.
    pub fn marks(&self, of: &Pods) -> Option<&Marks> {
        let owner = self.owner(&of.workload.uid, Some(&of.workload.namespace)).map(|owner| &owner.marks);
        owner.or_else(|| of.pods.iter().filter_map(|pod| self.pods.get(pod)).map(|pod| &pod.marks).next())
    }

    /// Returns the labels and annotations of a namespace.
    pub fn namespace_marks(&self, name: &str) -> Option<&Marks> {
        self.namespaces.get(name)
    }

    /// Adds or updates a pod.
    pub(super) fn set_pod(&mut self, told: PodTold) -> Touched {
        let PodTold { meta, node, over, mut containers, marks, issues } = told;
        self.share_images(&meta, &mut containers);
        let node = (!node.is_empty()).then(|| self.text(&node));
        let uid: Uid = meta.uid.as_str().into();
        let issues = match self.pods.get(&uid) {
            Some(before) if *before.issues == issues => Arc::clone(&before.issues),
            _ => self.shared(&meta, issues),
        };
        let name = PodName {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
        };
        let before = self.take_pod(&uid);
        if let Some(node) = &node {
            for id in containers.iter().filter_map(|container| container.id.as_ref()) {
                self.containers.entry(Arc::clone(node)).or_default().insert(Arc::clone(id), Arc::clone(&uid));
            }
        }
        self.tie(&uid, &meta, true);
        let found = Arc::new(workload(&meta, |_| None));
        let pod =
            Pod { name: Arc::new(name), node, over, containers, marks, issues, workload: found, excluded: None, meta };
        self.pods.insert(Arc::clone(&uid), pod);
        self.assign(&uid);
        if let Some(before) = &before {
            self.forget_decision(&before.workload);
        }
        match (before, self.pods.get(&uid)) {
            (Some(before), Some(now)) if before.is_where(now) => Touched::new(),
            (before, now) => before.iter().chain(now).flat_map(Pod::ids).collect(),
        }
    }

    /// Adds or updates an object that may own others.
    pub(super) fn set_owner(&mut self, marks: Marks, meta: ObjectMeta) -> Touched {
        let uid: Uid = meta.uid.as_str().into();
        let owner = Owner { meta, marks };
        if self.owners.get(&uid) == Some(&owner) {
            return Touched::new();
        }
        if let Some(before) = self.owners.remove(&uid) {
            self.tie(&uid, &before.meta, false);
        }
        self.tie(&uid, &owner.meta, true);
        self.owners.insert(Arc::clone(&uid), owner);
        self.assign_below(&uid)
    }

    /// Adds or updates a namespace.
    pub(super) fn set_namespace(&mut self, name: String, marks: Marks) -> Touched {
        if self.namespaces.get(&name) == Some(&marks) {
            return Touched::new();
        }
        let pods = self.pods.iter().filter(|(_, pod)| pod.name.namespace == name);
        let pods: Vec<Uid> = pods.map(|(uid, _)| Arc::clone(uid)).collect();
        self.namespaces.insert(name, marks);
        self.assign_all(pods)
    }

    /// Adds or updates a node.
    pub(super) fn set_node(&mut self, kube: KubeNode) {
        let name = kube.metadata.name.clone().unwrap_or_default();
        let info = kube.status.node_info.clone().unwrap_or_default();
        let node = Node {
            uid: kube.metadata.uid.clone().unwrap_or_default(),
            blind: blind(&kube),
            kubelet: info.kubelet_version,
            runtime: info.container_runtime_version,
            system: info.operating_system,
            architecture: info.architecture,
            image: info.os_image,
            kernel: info.kernel_version,
        };
        self.knows_nodes = true;
        let uid = node.uid.clone();
        // The deletion of the former one may not have been watched.
        if self.nodes.insert(name.clone(), node).is_some_and(|former| former.uid != uid) {
            self.deleted_nodes.push(name);
        }
    }

    /// Removes a pod.
    pub(super) fn remove_pod(&mut self, uid: &str) -> Touched {
        let gone = self.take_pod(uid);
        if let Some(gone) = &gone {
            self.forget_decision(&gone.workload);
            let subject = Subject::Pod(uid.into());
            self.decisions.remove(&subject);
            self.undecided.remove(&subject);
        }
        if let Some(node) = gone.as_ref().and_then(|pod| pod.node.as_ref()) {
            // Two references are left: this one, and the one in `texts`. Anybody who may create pods may name nodes that do not exist.
            if Arc::strong_count(node) == 2 {
                self.texts.remove(node);
            }
        }
        gone.iter().flat_map(Pod::ids).collect()
    }

    fn take_pod(&mut self, uid: &str) -> Option<Pod> {
        let (uid, pod) = self.pods.remove_entry(uid)?;
        if let Some((node, on_node)) = pod.node.as_ref().and_then(|node| Some((node, self.containers.get_mut(node)?))) {
            for id in pod.containers.iter().filter_map(|container| container.id.as_ref()) {
                if on_node.get(id) == Some(&uid) {
                    on_node.remove(id);
                }
            }
            if on_node.is_empty() {
                self.containers.remove(node);
            }
        }
        self.tie(&uid, &pod.meta, false);
        self.dismiss(&uid, &pod.workload);
        Some(pod)
    }

    /// Removes an owner.
    pub(super) fn remove_owner(&mut self, uid: &str) -> Touched {
        let Some((uid, owner)) = self.owners.remove_entry(uid) else { return Touched::new() };
        self.tie(&uid, &owner.meta, false);
        self.assign_below(&uid)
    }

    /// Removes a namespace.
    pub(super) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Removes a node.
    pub(super) fn remove_node(&mut self, name: &str) {
        if let Some((name, _)) = self.nodes.remove_entry(name) {
            self.deleted_nodes.push(name);
        }
    }

    /// Returns the shared copy of a text.
    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }

    /// Returns the issues of another pod of the same owner if they are equal, so that a thousand replicas share one copy.
    fn shared(&self, meta: &ObjectMeta, issues: Issues) -> Arc<Issues> {
        let siblings = owners(meta).filter_map(|owner| self.below.get(owner)).flatten();
        let known = siblings.take(8).filter_map(|uid| self.pods.get(uid)).find(|pod| *pod.issues == issues);
        known.map_or_else(|| Arc::new(issues), |pod| Arc::clone(&pod.issues))
    }

    /// Uses the texts of a sibling's images where they are equal.
    fn share_images(&self, meta: &ObjectMeta, containers: &mut [PodContainer]) {
        let siblings = owners(meta).filter_map(|owner| self.below.get(owner)).flatten();
        let Some(sibling) = siblings.take(1).find_map(|uid| self.pods.get(uid)) else { return };
        for (container, known) in containers.iter_mut().zip(&sibling.containers) {
            if container.image == known.image {
                container.image = Arc::clone(&known.image);
            }
            if container.image_id == known.image_id {
                container.image_id.clone_from(&known.image_id);
            }
        }
    }

    /// Returns an owner in this namespace. An object in another namespace owns nothing here, whatever its UID.
    fn owner(&self, uid: &str, namespace: Option<&str>) -> Option<&Owner> {
        self.owners.get(uid).filter(|owner| owner.meta.namespace.as_deref() == namespace)
    }

    /// Records, or removes, the relation of an object to its owners.
    fn tie(&mut self, uid: &Uid, meta: &ObjectMeta, tied: bool) {
        for owner in owners(meta) {
            if tied {
                self.below.entry(owner.into()).or_default().insert(Arc::clone(uid));
            } else if let Some(below) = self.below.get_mut(owner) {
                below.remove(uid);
                if below.is_empty() {
                    self.below.remove(owner);
                }
            }
        }
    }

    /// Computes the workload of every pod below an owner again.
    fn assign_below(&mut self, owner: &Uid) -> Touched {
        let (mut pods, mut seen, mut waiting) = (Vec::new(), HashSet::new(), vec![Arc::clone(owner)]);
        while let Some(uid) = waiting.pop() {
            for below in self.below.get(&uid).into_iter().flatten() {
                // Owner references may form a cycle.
                if seen.insert(Arc::clone(below)) {
                    if self.pods.contains_key(below) {
                        pods.push(Arc::clone(below));
                    }
                    waiting.push(Arc::clone(below));
                }
            }
        }
        self.assign_all(pods)
    }

    fn assign_all(&mut self, pods: Vec<Uid>) -> Touched {
        let mut touched = Touched::new();
        for uid in pods {
            if self.assign(&uid) {
                touched.extend(self.pods.get(&uid).into_iter().flat_map(Pod::ids));
            }
        }
        touched
    }

    /// Assigns a pod to its workload, and determines whether that is excluded. Returns whether either has changed.
    ///
    /// The policy is not evaluated here, since the caller holds the lock of the cluster: a workload that it has not decided about stays included,
    /// one that has changed since keeps the decision about what it was, and both are queued for [`Self::take_undecided`].
    fn assign(&mut self, uid: &Uid) -> bool {
        let Some(pod) = self.pods.get(uid) else { return false };
        let namespace = pod.meta.namespace.as_deref();
        let found = workload(&pod.meta, |owner| self.owner(&owner.uid, namespace).map(|owner| &owner.meta));
        let owner = self.owner(&found.uid, namespace);
        let found = match self.workloads.get_key_value(&found) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::new(found),
        };
        let marks = owner.map_or(&pod.marks, |owner| &owner.marks);
        let mut excluded = self.selection.excluded(&found, marks, self.namespaces.get(&found.namespace));
        if excluded.is_none() && self.selection.policy.is_some() {
            let subject = match owner {
                Some(_) => Subject::Workload(Arc::clone(&found)),
                None => Subject::Pod(Arc::clone(uid)),
            };
            let decision = self.decisions.get(&subject);
            if decision.is_some_and(|decision| decision.selected == Some(false)) {
                excluded = Some(NOT_SELECTED.into());
            }
            if decision.is_none_or(|decision| decision.version != self.input_version(&found, marks)) {
                self.undecided.insert(subject);
            }
        }
        let changed = pod.workload != found || pod.excluded != excluded;
        let before = Arc::clone(&pod.workload);
        if before != found {
            self.dismiss(uid, &before);
        }
        let none = || Pods { workload: Arc::clone(&found), pods: BTreeSet::new() };
        self.workloads.entry(Arc::clone(&found)).or_insert_with(none).pods.insert(Arc::clone(uid));
        if let Some(pod) = self.pods.get_mut(uid) {
            (pod.workload, pod.excluded) = (found, excluded);
        }
        self.forget_decision(&before);
        changed
    }

    /// Queues every subject for the policy that replaced the previous one. The previous decisions stay in effect until the new ones are made.
    pub(super) fn policy_replaced(&mut self) {
        self.policy_version += 1;
        self.undecided.extend(self.decisions.keys().cloned());
    }

    /// Returns a number that changes whenever the policy, or its input for a workload, does.
    fn input_version(&self, workload: &Workload, marks: &Marks) -> u64 {
        self.hasher.hash_one((self.policy_version, workload, &marks.labels, &marks.annotations))
    }

    /// Removes the decision about a workload that has no pods.
    fn forget_decision(&mut self, workload: &Arc<Workload>) {
        if !self.workloads.contains_key(workload) && self.selection.policy.is_some() {
            let subject = Subject::Workload(Arc::clone(workload));
            self.decisions.remove(&subject);
            self.undecided.remove(&subject);
        }
    }

    /// Returns whether the policy has to be evaluated for something.
    pub(super) fn has_undecided(&self) -> bool {
        !self.undecided.is_empty()
    }

    /// Takes at most `limit` inputs from the queue of those for which the policy has to be evaluated.
    pub(super) fn take_undecided(&mut self, limit: usize) -> Vec<PolicyInput> {
        let subjects: Vec<Subject> = self.undecided.iter().take(limit).cloned().collect();
        for subject in &subjects {
            self.undecided.remove(subject);
        }
        subjects.into_iter().filter_map(|subject| self.policy_input(subject)).collect()
    }

    /// Returns the present input of the policy for a subject; `None` where it does not exist anymore.
    fn policy_input(&self, subject: Subject) -> Option<PolicyInput> {
        let (workload, marks) = match &subject {
            Subject::Workload(workload) => {
                let (workload, _) = self.workloads.get_key_value(workload)?;
                (workload, &self.owner(&workload.uid, Some(&workload.namespace))?.marks)
            }
            Subject::Pod(uid) => {
                let pod = self.pods.get(uid)?;
                (&pod.workload, &pod.marks)
            }
        };
        let version = self.input_version(workload, marks);
        Some(PolicyInput { workload: Arc::clone(workload), marks: marks.clone(), version, subject })
    }

    /// Applies decisions of the policy. One about a subject that has changed meanwhile is dropped, and the subject is queued again.
    pub(super) fn decide(&mut self, decided: Vec<(PolicyInput, Option<bool>)>) -> Touched {
        let mut touched = Touched::new();
        for (PolicyInput { subject, version, .. }, selected) in decided {
            match self.policy_input(subject.clone()) {
                Some(now) if now.version == version => {}
                Some(_) => {
                    self.undecided.insert(subject);
                    continue;
                }
                None => continue,
            }
            let pods = match &subject {
                Subject::Workload(workload) => {
                    self.workloads.get(workload).map(|of| of.pods.iter().cloned().collect()).unwrap_or_default()
                }
                Subject::Pod(uid) => vec![Arc::clone(uid)],
            };
            self.decisions.insert(subject, Decision { version, selected });
            touched.extend(self.assign_all(pods));
        }
        touched
    }

    /// Removes a pod from its workload.
    fn dismiss(&mut self, uid: &Uid, from: &Workload) {
        if let Some(entry) = self.workloads.get_mut(from) {
            entry.pods.remove(uid);
            if entry.pods.is_empty() {
                self.workloads.remove(from);
            }
        }
    }
}

/// Returns the UIDs of an object's owners.
fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    meta.owner_references.iter().flatten().map(|owner| owner.uid.as_str())
}

/// Returns the containers of a pod, with or without a status.
fn containers(kube: &KubePod) -> Vec<PodContainer> {
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
fn cut(reference: &str) -> &str {
    &reference[..reference.floor_char_boundary(MAX_IMAGE)]
}

/// Returns the reference in a status' `imageID`, without the scheme that some runtimes put before it (`docker-pullable://`).
fn image_id(text: &str) -> Option<Arc<str>> {
    let reference = text.split_once("://").map_or(text, |(_, reference)| reference);
    (!reference.is_empty()).then(|| cut(reference).into())
}

/// Returns why no agent can run on a node, if none can.
fn blind(kube: &KubeNode) -> Option<&'static str> {
    let labels = kube.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
    let info = kube.status.node_info.as_ref();
    let tainted = |key: &str| kube.spec.taints.iter().flatten().any(|taint| taint.key == key);
    if label("eks.amazonaws.com/compute-type") == Some("fargate") || tainted("eks.amazonaws.com/compute-type") {
        return Some("no agent can run on Fargate");
    }
    if label("type") == Some("virtual-kubelet") || tainted("virtual-kubelet.io/provider") {
        return Some("no agent can run on a virtual kubelet");
    }
    let windows = info.is_some_and(|info| info.operating_system == "windows");
    (windows || label("kubernetes.io/os") == Some("windows")).then_some("no agent can run on Windows")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, owner: Option<(&str, &str, &str)>) -> Value {
        let owners = owner.map(|(api, kind, name)| {
            json!([{ "apiVersion": api, "kind": kind, "name": name, "uid": format!("uid of {name}"), "controller": true }])
        });
        json!({
            "metadata": { "name": name, "namespace": "shop", "uid": format!("uid of {name}"), "ownerReferences": owners },
            "spec": {
                "nodeName": "a",
                "initContainers": [{ "name": "first" }, { "name": "proxy", "restartPolicy": "Always" }],
                "containers": [{ "name": "main", "env": [{ "name": "PASSWORD", "value": "secret" }], "args": ["secret"] }],
            },
            "status": {
                "phase": "Running",
                "initContainerStatuses": [
                    { "name": "first", "containerID": format!("containerd://{name}-first"), "state": { "terminated": {} } },
                    { "name": "proxy", "containerID": format!("containerd://{name}-proxy"), "state": { "running": {} } },
                ],
                "containerStatuses": [
                    { "name": "main", "containerID": format!("containerd://{name}-main"), "state": { "running": {} } },
                ],
            },
        })
    }

    fn set(cluster: &mut Cluster, pod: Value) -> Touched {
        cluster.set_pod(serde_json::from_value::<KubePod>(pod).unwrap().into())
    }

    fn owner(name: &str, above: Option<(&str, &str, &str)>) -> ObjectMeta {
        let value = pod(name, above);
        serde_json::from_value(value["metadata"].clone()).unwrap()
    }

    fn whose(cluster: &Cluster, id: &str) -> String {
        let place = cluster.place("a", id).unwrap();
        format!("{} {}", place.workload.kind, place.workload.name)
    }

    const REPLICAS: Option<(&str, &str, &str)> = Some(("apps/v1", "ReplicaSet", "web-5d"));
    const DEPLOYMENT: Option<(&str, &str, &str)> = Some(("apps/v1", "Deployment", "web"));

    #[test]
    fn a_container_is_joined_by_its_id_on_its_node_and_by_nothing_else() {
        let mut cluster = Cluster::default();
        let touched = set(&mut cluster, pod("web-1", None));
        assert_eq!(touched.len(), 3, "{touched:?}");
        let place = cluster.place("a", "web-1-main").unwrap();
        assert_eq!((place.pod.namespace.as_str(), &*place.pod.name, &*place.name), ("shop", "web-1", "main"));
        for (node, id) in [("b", "web-1-main"), ("a", "web-1"), ("a", "")] {
            assert_eq!(cluster.place(node, id), None);
        }
        let kinds: Vec<&str> = cluster.pods().next().unwrap().containers.iter().map(|of| of.kind.as_str()).collect();
        assert_eq!(kinds, ["init", "sidecar", "main"]);
        // A container that was made again has another ID, and the old one is nobody's.
        let mut again = pod("web-1", None);
        again["status"]["containerStatuses"][0]["containerID"] = json!("containerd://second");
        assert_eq!(set(&mut cluster, again).len(), 4, "the old and the new");
        assert!(cluster.place("a", "web-1-main").is_none() && cluster.place("a", "second").is_some());
        assert_eq!(cluster.remove_pod("uid of web-1").len(), 3);
        assert!(cluster.place("a", "second").is_none() && cluster.workloads().next().is_none());
        assert!(cluster.below.is_empty() && cluster.containers.is_empty());
    }

    #[test]
    fn an_image_has_the_name_that_its_pod_asks_for_and_the_digest_that_the_kubelet_resolved() {
        let long = "x".repeat(MAX_IMAGE + 1);
        for (asked, id, expected) in [
            ("web:1", "registry.example/web@sha256:aa", Some("registry.example/web@sha256:aa")),
            ("web:1", "docker-pullable://web@sha256:aa", Some("web@sha256:aa")),
            ("web:1", "sha256:cc", Some("sha256:cc")),
            ("web:1", "", None),
            (&long, &long, Some(&long[1..])),
        ] {
            let mut cluster = Cluster::default();
            let mut told = pod("web-1", None);
            told["spec"]["containers"][0]["image"] = json!(asked);
            // The runtime's name for the same image, by a tag that another pod asked for.
            told["status"]["containerStatuses"][0]["image"] = json!("docker.io/other/team:9");
            told["status"]["containerStatuses"][0]["imageID"] = json!(id);
            set(&mut cluster, told);
            let place = cluster.place("a", "web-1-main").unwrap();
            assert_eq!((&*place.image, place.image_id.as_deref()), (cut(asked), expected));
        }
    }

    #[test]
    fn whose_a_pod_is_follows_from_what_is_known_in_whatever_order_it_comes() {
        let mut cluster = Cluster::default();
        set(&mut cluster, pod("web-1", REPLICAS));
        assert_eq!(whose(&cluster, "web-1-main"), "ReplicaSet web-5d");
        let touched = cluster.set_owner(Marks::default(), owner("web-5d", DEPLOYMENT));
        assert_eq!((touched.len(), whose(&cluster, "web-1-main").as_str()), (3, "Deployment web"));
        assert_eq!(cluster.workloads().count(), 1);
        // The Deployment itself brings its labels, and no other name.
        let marks = Marks { labels: [("team".to_owned(), "shop".to_owned())].into(), ..Marks::default() };
        assert!(cluster.set_owner(marks.clone(), owner("web", None)).is_empty());
        assert_eq!(cluster.marks(cluster.workloads().next().unwrap()), Some(&marks));
        set(&mut cluster, pod("web-2", REPLICAS));
        assert_eq!(cluster.workloads().next().unwrap().pods.len(), 2);
        // Deleted without its pods.
        cluster.remove_owner("uid of web");
        assert_eq!(cluster.set_owner(Marks::default(), owner("web-5d", None)).len(), 6);
        assert_eq!(whose(&cluster, "web-2-main"), "ReplicaSet web-5d");
        assert_eq!(cluster.remove_owner("uid of web-5d").len(), 0, "its pods still name it");
    }

    #[test]
    fn what_is_in_another_namespace_owns_nothing_here() {
        let mut cluster = Cluster::default();
        set(&mut cluster, pod("web-1", REPLICAS));
        cluster.set_owner(Marks::default(), owner("web-5d", DEPLOYMENT));
        // Somebody elsewhere knows the identity of shop's Deployment, and says that it owns their pod.
        let mut foreign = pod("liar", Some(("x.example/v1", "Anything", "web")));
        foreign["metadata"]["namespace"] = json!("aaa");
        set(&mut cluster, foreign.clone());
        foreign["metadata"]["ownerReferences"] = pod("", REPLICAS)["metadata"]["ownerReferences"].clone();
        set(&mut cluster, foreign);
        let namespaces = |cluster: &Cluster| -> Vec<(String, String, usize)> {
            let all =
                cluster.workloads().map(|of| (of.workload.namespace.clone(), of.workload.kind.clone(), of.pods.len()));
            let mut all: Vec<_> = all.collect();
            all.sort();
            all
        };
        let [ours, theirs] =
            [("shop", "Deployment"), ("aaa", "ReplicaSet")].map(|(a, b)| (a.to_owned(), b.to_owned(), 1));
        assert_eq!(namespaces(&cluster), [theirs, ours]);
    }

    #[test]
    fn what_one_node_says_of_a_container_counts_on_that_node() {
        let mut cluster = Cluster::default();
        set(&mut cluster, pod("web-1", None));
        let mut liar = pod("liar", None);
        liar["spec"]["nodeName"] = json!("b");
        liar["status"]["containerStatuses"][0]["containerID"] = json!("containerd://web-1-main");
        set(&mut cluster, liar);
        assert_eq!(&*cluster.place("a", "web-1-main").unwrap().pod.name, "web-1");
        cluster.remove_pod("uid of liar");
        assert_eq!(&*cluster.place("a", "web-1-main").unwrap().pod.name, "web-1");
        cluster.remove_pod("uid of web-1");
        assert!(cluster.texts.is_empty() && cluster.containers.is_empty());
    }

    #[test]
    fn a_pod_whose_containers_stay_where_they_are_moves_none() {
        let mut cluster = Cluster::default();
        assert_eq!(set(&mut cluster, pod("web-1", None)).len(), 3);
        let mut labelled = pod("web-1", None);
        labelled["metadata"]["labels"] = json!({ "again": "1" });
        assert!(set(&mut cluster, labelled).is_empty());
        let mut moved = pod("web-1", REPLICAS);
        moved["metadata"]["labels"] = json!({ "again": "2" });
        assert_eq!(set(&mut cluster, moved).len(), 3);
    }

    #[test]
    fn a_container_that_runs_without_an_id_is_there_nevertheless() {
        let mut bare = pod("web-1", None);
        bare["status"]["containerStatuses"][0]["containerID"] = json!(null);
        let mut cluster = Cluster::default();
        set(&mut cluster, bare);
        let pod = cluster.pods().next().unwrap();
        assert_eq!(pod.containers[2].id.as_deref(), Some("uid of web-1/main"));
    }

    #[test]
    fn metadata_that_anybody_may_write_costs_nobody_a_list() {
        let mut odd = pod("web-1", None);
        odd["metadata"]["managedFields"] = json!([{ "time": "9999-12-31T23:59:59Z", "manager": "x" }]);
        odd["metadata"]["creationTimestamp"] = json!("2026-11-28T00:00:00Z");
        let owner = |number: usize| json!({ "apiVersion": "v1", "kind": "X".repeat(9_000), "name": "x", "uid": number.to_string() });
        odd["metadata"]["ownerReferences"] = (0..1_000).map(owner).collect();
        let told = PodTold::from(serde_json::from_value::<KubePod>(odd).unwrap());
        assert_eq!(told.marks.created, 1_795_824_000);
        let kept = told.meta.owner_references.unwrap();
        assert_eq!((kept.len(), kept[0].kind.len()), (1, 253));
    }

    #[test]
    fn what_is_out_of_view_is_so_as_soon_as_its_namespace_or_owner_says_it() {
        let selection = Selection { annotations_in: ["shop".to_owned()].into(), ..Selection::default() };
        let mut cluster = Cluster::new(selection);
        set(&mut cluster, pod("web-1", REPLICAS));
        let marked =
            Marks { annotations: [(super::super::EXCLUDE.to_owned(), "true".to_owned())].into(), ..Marks::default() };
        assert_eq!(cluster.set_namespace("shop".to_owned(), marked.clone()).len(), 3);
        assert!(cluster.place("a", "web-1-main").unwrap().excluded.is_some());
        assert_eq!(cluster.set_namespace("shop".to_owned(), Marks::default()).len(), 3);
        assert_eq!(cluster.place("a", "web-1-main").unwrap().excluded, None);
        assert_eq!(cluster.set_owner(marked, owner("web-5d", None)).len(), 3);
        assert!(cluster.place("a", "web-1-main").unwrap().excluded.is_some());
    }

    #[test]
    fn nodes_on_which_no_agent_can_run_are_known() {
        let cases = [
            (json!({ "metadata": { "labels": { "eks.amazonaws.com/compute-type": "fargate" } } }), Some("Fargate")),
            (json!({ "spec": { "taints": [{ "key": "virtual-kubelet.io/provider" }] } }), Some("virtual kubelet")),
            (json!({ "status": { "nodeInfo": { "operatingSystem": "windows" } } }), Some("Windows")),
            (json!({ "status": { "nodeInfo": { "operatingSystem": "linux" } } }), None),
            (json!({ "spec": { "taints": null }, "status": {} }), None),
        ];
        for (node, says) in cases {
            let blind = blind(&serde_json::from_value(node.clone()).unwrap());
            assert_eq!(blind.is_some(), says.is_some(), "{node}");
            assert!(blind.unwrap_or_default().contains(says.unwrap_or_default()), "{node}");
        }
    }
}
