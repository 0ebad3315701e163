//! Reflectors: lists and watches that keep a [`Cluster`] in sync with the API server, also after the API server was not available.
//!
//! Lists are streamed if the server supports it (Kubernetes 1.32 by default), otherwise paged. An interrupted watch is resumed. If the server cannot
//! resume it (410), the objects are listed again, and those that are missing in the new list are removed. Except for pods and nodes, only metadata is
//! requested.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use kube::api::{Api, ApiResource};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use kube::{Client, Resource};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::ObjectMeta;
use super::connect::{error_message, metadata_only};
use super::objects::{KubeNode, KubeObject, KubePod, Marks};
use super::policy_file::PolicyFile;
use super::selection::Selection;
use super::state::{Cluster, PodTold, PolicyInput, Touched};
use crate::lock::lock;

/// Kinds that own pods, or the owners of pods: group, version, kind, plural. The last two are not part of every cluster.
const OWNERS: [(&str, &str, &str, &str); 9] = [
    ("", "v1", "ReplicationController", "replicationcontrollers"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
    ("apps.openshift.io", "v1", "DeploymentConfig", "deploymentconfigs"),
    ("argoproj.io", "v1alpha1", "Rollout", "rollouts"),
];

/// Time after which a kind that the server does not have is requested again.
const ABSENT: Duration = Duration::from_secs(300);

/// How long a problem is reported after the last error. A watch that still fails reports another error before that; a watch that was resumed
/// reports nothing by itself.
const TOLD: Duration = Duration::from_secs(75);

/// Time between two checks of the policy file for changes.
const RELOAD: Duration = Duration::from_secs(1);

/// Workloads for which the policy is evaluated before its decisions are applied.
const POLICY_BATCH: usize = 16;

/// Longest message of an error that is kept, in bytes.
const MAX_ERROR: usize = 500;

/// Number of objects in a page, if lists are paged.
const PAGE: u32 = 500;

/// The state of the watch of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Source {
    /// Whether the watch has to be synced before anything is known, unless it is forbidden: pods. The other kinds only add details.
    needed: bool,
    /// Whether the last attempt failed: a permission is missing, or the server of the kind is not available.
    failed: bool,
    /// Whether a complete list was received once.
    listed: bool,
    /// The last error, and when it occurred.
    problem: Option<(Instant, String)>,
}

/// The API server's objects, kept in sync.
#[derive(Debug)]
pub struct Watch {
    /// The watched namespaces; all if empty.
    namespaces: BTreeSet<String>,
    cluster: RwLock<Cluster>,
    sources: Mutex<BTreeMap<String, Source>>,
    policy: Option<Arc<PolicyFile>>,
    changes: Mutex<Changes>,
    changed: Notify,
    /// Grows with every change of the cluster.
    revision: AtomicU64,
    /// The policy has to be evaluated.
    undecided: Notify,
}

/// Changes of the cluster that concern what nodes have reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Containers whose pod or workload may have changed.
    pub touched: Touched,
    /// Nodes that were deleted.
    pub deleted_nodes: Vec<String>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.deleted_nodes.is_empty()
    }
}

impl From<Touched> for Changes {
    fn from(touched: Touched) -> Self {
        Self { touched, deleted_nodes: Vec::new() }
    }
}

/// A task that runs as long as the process.
pub type Task = BoxFuture<'static, ()>;

impl Watch {
    /// Creates a watch of all namespaces, or of those named. Nothing is watched until its [tasks](Self::tasks) run.
    pub fn new(selection: Selection, namespaces: &BTreeSet<String>) -> Arc<Self> {
        Arc::new(Self {
            namespaces: namespaces.clone(),
            policy: selection.policy.clone(),
            cluster: RwLock::new(Cluster::new(selection)),
            sources: Mutex::default(),
            changes: Mutex::default(),
            changed: Notify::new(),
            revision: AtomicU64::new(0),
            undecided: Notify::new(),
        })
    }

    /// Returns the tasks that keep it in step with the API server: one for each kind and namespace, and one that evaluates the policy. Where
    /// namespaces are named, nodes and namespaces themselves are not watched, since a Role cannot permit that.
    pub fn tasks(self: &Arc<Self>, client: &Client) -> Vec<Task> {
        let (watch, namespaces) = (self, &self.namespaces);
        let mut tasks: Vec<Task> = Vec::new();
        if let Some(policy) = &self.policy {
            tasks.push(Arc::clone(self).evaluate(Arc::clone(policy)).boxed());
        }
        let scopes: Vec<Option<&str>> = match namespaces.is_empty() {
            true => vec![None],
            false => namespaces.iter().map(|name| Some(name.as_str())).collect(),
        };
        let metadata = metadata_only(client);
        let resource = |(group, version, kind, plural): (&str, &str, &str, &str)| ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
            kind: kind.to_owned(),
            plural: plural.to_owned(),
        };
        for scope in &scopes {
            for owner in OWNERS {
                let api: Api<KubeObject> = match scope {
                    Some(namespace) => Api::namespaced_with(metadata.clone(), namespace, &resource(owner)),
                    None => Api::all_with(metadata.clone(), &resource(owner)),
                };
                let events = move |config| watcher(api.clone(), config).boxed();
                let steps = Steps { key: uid, read: parts, set: set_owner, remove: Cluster::remove_owner };
                tasks.push(watch.reflector(name(owner.3, *scope), false, events, steps));
            }
            let api: Api<KubePod> = match scope {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            let events = move |config| watcher(api.clone(), config).boxed();
            let steps = Steps { key: uid, read: PodTold::from, set: Cluster::set_pod, remove: Cluster::remove_pod };
            tasks.push(watch.reflector(name("pods", *scope), true, events, steps));
        }
        if namespaces.is_empty() {
            let api: Api<KubeObject> = Api::all_with(metadata, &resource(("", "v1", "Namespace", "namespaces")));
            let events = move |config| watcher(api.clone(), config).boxed();
            let steps = Steps { key: own_name, read: parts, set: set_namespace, remove: remove_namespace };
            tasks.push(watch.reflector(name("namespaces", None), false, events, steps));
            let api: Api<KubeNode> = Api::all(client.clone());
            let events = move |config| watcher(api.clone(), config).boxed();
            let steps = Steps { key: own_name, read: |node| node, set: set_node, remove: remove_node };
            tasks.push(watch.reflector(name("nodes", None), false, events, steps));
        }
        tasks
    }

    /// Evaluates the policy for new and changed workloads, and for all workloads after the policy file was reloaded. No lock is held meanwhile, so
    /// that nobody waits for it.
    async fn evaluate(self: Arc<Self>, file: Arc<PolicyFile>) {
        let mut checked = Instant::now();
        loop {
            if checked.elapsed() >= RELOAD {
                let refreshed = Arc::clone(&file);
                if blocking(move || refreshed.refresh()).await {
                    self.write().policy_replaced();
                }
                checked = Instant::now();
            }
            let undecided = self.undecided.notified();
            let has_undecided = self.cluster().has_undecided();
            let inputs = if has_undecided { self.write().take_undecided(POLICY_BATCH) } else { Vec::new() };
            if inputs.is_empty() {
                // The file is checked also when no object changes.
                let _ = tokio::time::timeout(RELOAD, undecided).await;
                continue;
            }
            let policy = file.policy();
            let decide = move || {
                let select = |input: PolicyInput| {
                    let selected = policy.selects(&input.workload, &input.marks, &input.namespace_marks);
                    (input, selected)
                };
                inputs.into_iter().map(select).collect()
            };
            let decided = blocking(decide).await;
            let touched = self.write().decide(decided);
            self.tell(touched.into());
        }
    }

    /// Returns the current state. It is locked while the guard lives.
    pub fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a number that has grown whenever [the cluster](Self::cluster) has changed since.
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Returns whether a namespace is watched.
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }

    /// Returns whether every kind that can be watched was listed completely once.
    pub fn is_synced(&self) -> bool {
        lock(&self.sources).values().all(|source| source.listed || source.failed)
    }

    /// Returns whether every kind was listed completely once: an object that is not known then does not exist.
    pub fn is_whole(&self) -> bool {
        lock(&self.sources).values().all(|source| source.listed)
    }

    /// Returns the current problems of watches, each with the kind that has it; kinds with the same error share one line, under the first.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, source) in lock(&self.sources).iter() {
            if let Some((_, problem)) = source.problem.as_ref().filter(|(at, _)| at.elapsed() < TOLD) {
                problems.entry(problem.clone()).or_default().push(name.clone());
            }
        }
        let line = |(problem, of): (String, Vec<String>)| {
            (of.first().cloned().unwrap_or_default(), format!("watching {}: {problem}", of.join(", ")))
        };
        problems.into_iter().map(line).collect()
    }

    /// Returns the current problems of the selection policy, each with a key.
    pub fn policy_problems(&self) -> Vec<(String, String)> {
        self.policy.iter().flat_map(|policy| policy.problems()).collect()
    }

    /// Waits for changes, and returns those since the last call.
    pub async fn changes(&self) -> Changes {
        loop {
            let changed = self.changed.notified();
            let changes = std::mem::take(&mut *lock(&self.changes));
            if !changes.is_empty() {
                return changes;
            }
            changed.await;
        }
    }

    /// Returns the task that keeps one kind in sync.
    fn reflector<K: Send + 'static, P: 'static>(
        self: &Arc<Self>,
        name: String,
        needed: bool,
        events: impl Fn(watcher::Config) -> BoxStream<'static, watcher::Result<Event<K>>> + Send + 'static,
        steps: Steps<K, P>,
    ) -> Task {
        lock(&self.sources).insert(name.clone(), Source { needed, ..Source::default() });
        let watch = Arc::clone(self);
        let task = async move {
            let mut reflector = Reflector { watch, name, steps, known: HashSet::new(), listing: None };
            let mut strategy = InitialListStrategy::StreamingList;
            loop {
                let config = watcher::Config {
                    initial_list_strategy: strategy.clone(),
                    page_size: Some(PAGE),
                    ..watcher::Config::default()
                };
                match reflector.follow(events(config).default_backoff()).await {
                    Next::Page => strategy = InitialListStrategy::ListWatch,
                    Next::Later => tokio::time::sleep(ABSENT).await,
                }
            }
        };
        task.boxed()
    }

    /// Applies a pod as the API server would send it.
    #[cfg(test)]
    pub(crate) fn set_pod(&self, pod: serde_json::Value) {
        let pod: KubePod = serde_json::from_value(pod).expect("a pod");
        let touched = self.write().set_pod(PodTold::from(pod));
        self.tell(touched.into());
        self.undecided.notify_one();
    }

    /// Removes a pod by its UID.
    #[cfg(test)]
    pub(crate) fn remove_pod(&self, uid: &str) {
        let touched = self.write().remove_pod(uid);
        self.tell(touched.into());
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cluster> {
        let cluster = self.cluster.write().unwrap_or_else(PoisonError::into_inner);
        // Below the lock: who reads the number first and then the cluster misses no change.
        self.revision.fetch_add(1, Ordering::Relaxed);
        cluster
    }

    fn tell(&self, new: Changes) {
        if !new.is_empty() {
            let mut changes = lock(&self.changes);
            changes.touched.extend(new.touched);
            changes.deleted_nodes.extend(new.deleted_nodes);
            drop(changes);
            self.changed.notify_one();
        }
    }

    fn note(&self, name: &str, change: impl FnOnce(&mut Source)) {
        change(lock(&self.sources).entry(name.to_owned()).or_default());
    }
}

/// Runs `function` on a thread that may block. A panic of the function is a panic of the calling task, so that its supervisor notices.
async fn blocking<T: Send + 'static>(function: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(function).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels it, which drops the calling task as well.
            Err(_) => std::future::pending().await,
        },
    }
}

/// What follows the end of a stream of events.
#[derive(Debug)]
enum Next {
    /// The server does not stream lists: start again, with pages.
    Page,
    /// The server does not have the kind: try again later.
    Later,
}

/// How objects of a kind are applied to the cluster.
struct Steps<K, P> {
    /// Returns the key of an object.
    key: fn(&K) -> String,
    /// Extracts the needed fields, before the cluster is locked.
    read: fn(K) -> P,
    /// Adds or updates an object.
    set: fn(&mut Cluster, P) -> Touched,
    /// Removes an object.
    remove: fn(&mut Cluster, &str) -> Touched,
}

/// Keeps one kind in sync.
struct Reflector<K, P> {
    watch: Arc<Watch>,
    name: String,
    steps: Steps<K, P>,
    /// Keys of the known objects.
    known: HashSet<String>,
    /// Keys that the current list has returned so far.
    listing: Option<HashSet<String>>,
}

impl<K, P> Reflector<K, P> {
    async fn follow(&mut self, events: impl Stream<Item = watcher::Result<Event<K>>>) -> Next {
        let mut events = std::pin::pin!(events);
        let mut listed = false;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    listed |= matches!(event, Event::InitDone);
                    self.apply(event);
                }
                Err(error) if status(&error) == Some(404) => {
                    // The API of the kind was removed, or never existed: there are no objects.
                    self.apply(Event::Init);
                    self.apply(Event::InitDone);
                    return Next::Later;
                }
                Err(error) if does_not_stream(&error, listed) => return Next::Page,
                Err(error) => self.failed(&error),
            }
        }
        Next::Later
    }

    /// Records an error of the watch. It is logged once, until the watch is restored.
    fn failed(&self, error: &watcher::Error) {
        let message = error_line(error);
        let is_forbidden = status(error) == Some(403);
        let mut is_new = false;
        self.watch.note(&self.name, |source| {
            source.failed = !source.needed || is_forbidden;
            is_new = source.problem.replace((Instant::now(), message.clone())).is_none();
        });
        match (is_new, is_forbidden) {
            (true, true) => warn!(resource = self.name, message, "watch forbidden"),
            (true, false) => warn!(resource = self.name, message, "watch lost"),
            (false, _) => debug!(resource = self.name, message, "watch failed again"),
        }
    }

    /// Records that the watch works.
    fn works(&self, listed: bool) {
        let (mut is_synced, mut is_restored) = (false, false);
        self.watch.note(&self.name, |source| {
            is_synced = listed && !source.listed;
            is_restored = source.problem.take().is_some();
            source.listed |= listed;
            source.failed = false;
        });
        if is_synced {
            info!(resource = self.name, objects = self.known.len(), "watch synced");
        } else if is_restored {
            info!(resource = self.name, "watch restored");
        }
    }

    fn apply(&mut self, event: Event<K>) {
        let mut changes = Changes::default();
        let is_listed = matches!(event, Event::InitDone);
        match event {
            Event::Init => self.listing = Some(HashSet::new()),
            Event::Apply(object) | Event::InitApply(object) => {
                let key = (self.steps.key)(&object);
                if let Some(listing) = &mut self.listing {
                    listing.insert(key.clone());
                }
                self.known.insert(key);
                let read = (self.steps.read)(object);
                let mut cluster = self.watch.write();
                changes.touched = (self.steps.set)(&mut cluster, read);
                changes.deleted_nodes = cluster.take_deleted_nodes();
            }
            Event::Delete(object) => {
                let key = (self.steps.key)(&object);
                self.known.remove(&key);
                let mut cluster = self.watch.write();
                changes.touched = (self.steps.remove)(&mut cluster, &key);
                changes.deleted_nodes = cluster.take_deleted_nodes();
            }
            Event::InitDone => {
                let listing = self.listing.take().unwrap_or_default();
                let gone: Vec<String> = self.known.difference(&listing).cloned().collect();
                let mut cluster = self.watch.write();
                for key in gone {
                    changes.touched.extend((self.steps.remove)(&mut cluster, &key));
                }
                changes.deleted_nodes = cluster.take_deleted_nodes();
                drop(cluster);
                self.known = listing;
            }
        }
        self.works(is_listed);
        self.watch.tell(changes);
        if self.watch.policy.is_some() {
            self.watch.undecided.notify_one();
        }
    }
}

/// Returns the HTTP status of an error.
fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Returns whether an error means that the server cannot stream lists. Servers before 1.32, and 1.33, reject the parameter. With an etcd that is too
/// old the request fails before anything is listed.
fn does_not_stream(error: &watcher::Error, listed: bool) -> bool {
    matches!(status(error), Some(400 | 422)) || (!listed && status(error) == Some(500))
}

/// Returns the message of an error in one line of bounded length.
fn error_line(error: &watcher::Error) -> String {
    let mut line = match error {
        watcher::Error::InitialListFailed(error) => format!("listing: {}", error_message(error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => error_message(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => error.to_string(),
    };
    line.truncate(line.floor_char_boundary(MAX_ERROR));
    line
}

fn name(plural: &str, namespace: Option<&str>) -> String {
    namespace.map_or_else(|| plural.to_owned(), |namespace| format!("{plural} of {namespace}"))
}

fn uid<K: Resource>(object: &K) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

fn own_name<K: Resource>(object: &K) -> String {
    object.meta().name.clone().unwrap_or_default()
}

fn parts(mut object: KubeObject) -> (Marks, ObjectMeta) {
    let marks = Marks::of(&mut object.metadata);
    (marks, object.metadata.into())
}

fn set_owner(cluster: &mut Cluster, (marks, meta): (Marks, ObjectMeta)) -> Touched {
    cluster.set_owner(marks, meta)
}

fn set_namespace(cluster: &mut Cluster, (marks, meta): (Marks, ObjectMeta)) -> Touched {
    cluster.set_namespace(meta.name, marks)
}

fn remove_namespace(cluster: &mut Cluster, name: &str) -> Touched {
    cluster.remove_namespace(name);
    Touched::new()
}

fn set_node(cluster: &mut Cluster, node: KubeNode) -> Touched {
    cluster.set_node(node);
    Touched::new()
}

fn remove_node(cluster: &mut Cluster, name: &str) -> Touched {
    cluster.remove_node(name);
    Touched::new()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::policy::Policy;
    use super::*;

    /// A watch whose policy selects all workloads except those labeled `hide: yes`, the policy, and the task that evaluates it.
    fn watch(dir: &Path) -> (Arc<Watch>, Arc<Policy>, Task) {
        write_policy(dir, "yes");
        open(dir)
    }

    fn open(dir: &Path) -> (Arc<Watch>, Arc<Policy>, Task) {
        let file = Arc::new(PolicyFile::open(&dir.join("policy.rego")).unwrap());
        let watch = Watch::new(Selection { policy: Some(Arc::clone(&file)), ..Selection::default() }, &BTreeSet::new());
        let policy = file.policy();
        let task = Arc::clone(&watch).evaluate(file).boxed();
        (watch, policy, task)
    }

    /// Writes a policy that selects all workloads except those with this value of the label `hide`.
    fn write_policy(dir: &Path, hidden: &str) {
        let rules =
            format!("workload_events {{ not hidden }}\nhidden {{ input.metadata.labels.hide == \"{hidden}\" }}");
        write_rules(dir, &rules);
    }

    fn write_rules(dir: &Path, rules: &str) {
        let new = dir.join("new");
        std::fs::write(&new, format!("package snyk\n{rules}\n")).unwrap();
        std::fs::rename(new, dir.join("policy.rego")).unwrap();
    }

    fn set_pod(watch: &Watch, name: &str, hide: &str) {
        watch.set_pod(json!({
            "metadata": { "name": name, "namespace": "shop", "uid": name, "labels": { "hide": hide } },
            "spec": { "nodeName": "a", "containers": [{ "name": "main" }] },
            "status": { "containerStatuses": [{ "name": "main", "containerID": format!("containerd://{name}") }] },
        }));
    }

    fn excluded(watch: &Watch, name: &str) -> Option<bool> {
        watch.cluster().place("a", name).map(|place| place.excluded.is_some())
    }

    /// Lets other tasks run until `met`.
    async fn until(met: impl Fn() -> bool) {
        let tries = async {
            while !met() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), tries).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[allow(clippy::await_holding_lock, reason = "the policy is slow as long as the test holds its lock")]
    async fn lists_answer_and_events_apply_while_the_policy_is_evaluated() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, policy, task) = watch(dir.path());
        let task = tokio::spawn(task);
        let held = policy.hold();
        set_pod(&watch, "first", "yes");
        // The evaluator has taken its input and waits within the policy.
        until(|| !watch.cluster().has_undecided()).await;
        assert!(watch.cluster.try_read().is_ok() && watch.cluster.try_write().is_ok(), "no lock is held meanwhile");
        set_pod(&watch, "second", "no");
        assert_eq!((excluded(&watch, "first"), excluded(&watch, "second")), (Some(false), Some(false)));
        drop(held);
        until(|| excluded(&watch, "first") == Some(true)).await;
        until(|| !watch.cluster().has_undecided()).await;
        assert_eq!(excluded(&watch, "second"), Some(false));
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[allow(clippy::await_holding_lock, reason = "the policy is slow as long as the test holds its lock")]
    async fn a_decision_about_what_a_workload_was_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, policy, task) = watch(dir.path());
        let task = tokio::spawn(task);
        let held = policy.hold();
        set_pod(&watch, "first", "yes");
        until(|| !watch.cluster().has_undecided()).await;
        // Its labels change while the policy looks at the old ones, and a second one goes.
        set_pod(&watch, "first", "no");
        set_pod(&watch, "second", "yes");
        watch.remove_pod("second");
        drop(held);
        // Whatever comes after the change has been decided, too.
        set_pod(&watch, "third", "yes");
        until(|| excluded(&watch, "third") == Some(true)).await;
        until(|| !watch.cluster().has_undecided()).await;
        assert_eq!((excluded(&watch, "first"), excluded(&watch, "second")), (Some(false), None));
        // A change takes effect in both directions.
        set_pod(&watch, "first", "yes");
        until(|| excluded(&watch, "first") == Some(true)).await;
        set_pod(&watch, "first", "no");
        until(|| excluded(&watch, "first") == Some(false)).await;
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[allow(clippy::await_holding_lock, reason = "the policy is slow as long as the test holds its lock")]
    async fn a_reloaded_policy_decides_again_about_every_workload_and_a_broken_one_about_none() {
        let dir = tempfile::tempdir().unwrap();
        let (watch, policy, task) = watch(dir.path());
        // Both are there before the evaluator is: it takes them together, so that it has decided about both when one is excluded.
        for (name, hide) in [("first", "yes"), ("second", "no")] {
            set_pod(&watch, name, hide);
        }
        let task = tokio::spawn(task);
        let is_excluded = |name| excluded(&watch, name) == Some(true);
        until(|| is_excluded("first") && !is_excluded("second")).await;
        until(|| !watch.cluster().has_undecided()).await;
        // The old policy is evaluated while the file is replaced: its decision must not outlive the new policy's.
        let held = policy.hold();
        set_pod(&watch, "third", "yes");
        until(|| !watch.cluster().has_undecided()).await;
        write_policy(dir.path(), "no");
        drop(held);
        until(|| is_excluded("second") && !is_excluded("first") && !is_excluded("third")).await;
        assert_eq!(watch.policy_problems(), []);

        std::fs::write(dir.path().join("policy.rego"), "package snyk\nworkload_events {").unwrap();
        until(|| !watch.policy_problems().is_empty()).await;
        let problems = watch.policy_problems();
        assert!(problems[0].1.contains("stays in use") && watch.problems().is_empty(), "{problems:?}");
        set_pod(&watch, "fourth", "no");
        until(|| is_excluded("fourth")).await;
        assert!(is_excluded("second") && !is_excluded("first"));
        write_policy(dir.path(), "yes");
        until(|| is_excluded("first") && !is_excluded("second") && watch.policy_problems().is_empty()).await;
        task.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_policy_reads_labels_and_annotations_of_the_namespace_and_follows_their_changes() {
        let dir = tempfile::tempdir().unwrap();
        write_rules(
            dir.path(),
            "workload_events { input.namespace.labels.tier == \"production\" }\n\
             workload_events { input.namespace.annotations.scan == \"yes\" }",
        );
        let (watch, _, task) = open(dir.path());
        let task = tokio::spawn(task);
        let marks =
            |of: &[(&str, &str)]| of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let set_namespace = |labels: &[(&str, &str)], annotations: &[(&str, &str)]| {
            let told = Marks { labels: marks(labels), annotations: marks(annotations), ..Marks::default() };
            let touched = watch.write().set_namespace("shop".to_owned(), told);
            watch.tell(touched.into());
            watch.undecided.notify_one();
        };
        set_pod(&watch, "first", "no");
        until(|| excluded(&watch, "first") == Some(true)).await;
        for (labels, annotations, is_excluded) in [
            (&[("tier", "production")][..], &[][..], false),
            (&[("tier", "test")], &[], true),
            (&[("tier", "test")], &[("scan", "yes")], false),
            (&[], &[("scan", "no")], true),
        ] {
            set_namespace(labels, annotations);
            until(|| excluded(&watch, "first") == Some(is_excluded)).await;
        }
        task.abort();
    }
}
