//! Reflectors: lists and watches that keep [`Cluster`] in step with the API server, through its absences.
//!
//! Lists are streamed where the server can (Kubernetes 1.32 by default), else paged. A watch that is cut goes on where it was; one that
//! the server cannot go on with (410) is listed anew, and what the new list lacks is gone. Of everything but pods and nodes only the
//! metadata is asked for.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use kube::api::{Api, ApiResource};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, InitialListStrategy, watcher};
use kube::{Client, Resource};
use tokio::sync::Notify;

use super::ObjectMeta;
use super::connect::{metadata_only, words};
use super::objects::{KubeNode, KubeObject, KubePod, Marks};
use super::selection::Selection;
use super::state::{Cluster, PodTold, Touched};
use crate::lock::lock;

/// Kinds that own pods, or own what owns them: group, version, kind, plural. A cluster need not have the last two.
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

/// When a kind that the server does not have is looked for again.
const ABSENT: Duration = Duration::from_secs(300);

/// How long a problem is told of that nothing more is heard of: what still fails fails again before that, and a watch that was taken up
/// again says nothing by itself.
const TOLD: Duration = Duration::from_secs(75);

/// Objects of a page, where lists are paged.
const PAGE: u32 = 500;

/// How a source of objects is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Source {
    /// Whether nothing can be said before it was listed, unless it may not be: without pods nobody is known, without the others less of them.
    needed: bool,
    /// Whether it was tried, and cannot be had at the moment: a right is missing, or what serves it is away.
    failed: bool,
    /// Whether it was listed whole, once.
    listed: bool,
    /// What went wrong last, and when.
    problem: Option<(Instant, String)>,
}

/// The API server's objects, kept in step.
#[derive(Debug)]
pub struct Watch {
    /// Those that are watched; all where none is named.
    namespaces: BTreeSet<String>,
    cluster: RwLock<Cluster>,
    sources: Mutex<BTreeMap<String, Source>>,
    touched: Mutex<Touched>,
    changed: Notify,
}

impl Watch {
    /// Begins to watch: all namespaces, or those named. In the latter case nodes and namespaces themselves are not asked for, since a Role
    /// cannot allow that.
    pub fn start(client: &Client, selection: Selection, namespaces: &BTreeSet<String>) -> Arc<Self> {
        let watch = Arc::new(Self {
            namespaces: namespaces.clone(),
            cluster: RwLock::new(Cluster::new(selection)),
            sources: Mutex::default(),
            touched: Mutex::default(),
            changed: Notify::new(),
        });
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
                watch.spawn(name(owner.3, *scope), false, events, steps);
            }
            let api: Api<KubePod> = match scope {
                Some(namespace) => Api::namespaced(client.clone(), namespace),
                None => Api::all(client.clone()),
            };
            let events = move |config| watcher(api.clone(), config).boxed();
            let steps = Steps { key: uid, read: PodTold::from, set: Cluster::set_pod, remove: Cluster::remove_pod };
            watch.spawn(name("pods", *scope), true, events, steps);
        }
        if namespaces.is_empty() {
            let api: Api<KubeObject> = Api::all_with(metadata, &resource(("", "v1", "Namespace", "namespaces")));
            let events = move |config| watcher(api.clone(), config).boxed();
            let steps = Steps { key: own_name, read: parts, set: set_namespace, remove: remove_namespace };
            watch.spawn(name("namespaces", None), false, events, steps);
            let api: Api<KubeNode> = Api::all(client.clone());
            let events = move |config| watcher(api.clone(), config).boxed();
            let steps = Steps { key: own_name, read: |node| node, set: set_node, remove: remove_node };
            watch.spawn(name("nodes", None), false, events, steps);
        }
        watch
    }

    /// What is known now.
    pub fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a namespace is among those that are watched.
    pub fn covers(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(namespace)
    }

    /// Whether everything that can be had was listed whole, once.
    pub fn is_synced(&self) -> bool {
        lock(&self.sources).values().all(|source| source.listed || source.failed)
    }

    /// Whether everything was listed whole, once: what is not there then is not there.
    pub fn is_whole(&self) -> bool {
        lock(&self.sources).values().all(|source| source.listed)
    }

    /// What goes wrong at the moment, one line for all that goes wrong in the same way.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, source) in lock(&self.sources).iter() {
            if let Some((_, problem)) = source.problem.as_ref().filter(|(at, _)| at.elapsed() < TOLD) {
                problems.entry(problem.clone()).or_default().push(name.clone());
            }
        }
        let policy = self.cluster().policy_problem();
        let lines = problems.into_iter().map(|(problem, of)| format!("watching {}: {problem}", of.join(", ")));
        lines.chain(policy).collect()
    }

    /// Waits until containers' places may have changed, and tells which.
    pub async fn touched(&self) -> Touched {
        loop {
            let changed = self.changed.notified();
            let touched = std::mem::take(&mut *lock(&self.touched));
            if !touched.is_empty() {
                return touched;
            }
            changed.await;
        }
    }

    /// Keeps one kind in step, in a task of its own.
    fn spawn<K: Send + 'static, P: 'static>(
        self: &Arc<Self>,
        name: String,
        needed: bool,
        events: impl Fn(watcher::Config) -> BoxStream<'static, watcher::Result<Event<K>>> + Send + 'static,
        steps: Steps<K, P>,
    ) {
        lock(&self.sources).insert(name.clone(), Source { needed, ..Source::default() });
        let watch = Arc::clone(self);
        tokio::spawn(async move {
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
        });
    }

    fn write(&self) -> RwLockWriteGuard<'_, Cluster> {
        self.cluster.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, touched: Touched) {
        if !touched.is_empty() {
            lock(&self.touched).extend(touched);
            self.changed.notify_one();
        }
    }

    fn note(&self, name: &str, change: impl FnOnce(&mut Source)) {
        change(lock(&self.sources).entry(name.to_owned()).or_default());
    }
}

/// What is to be done after a stream of events has come to its end.
#[derive(Debug)]
enum Next {
    /// The server does not stream lists: begin anew, with pages.
    Page,
    /// The server does not have the kind: look again later.
    Later,
}

/// What is done with objects of a kind.
struct Steps<K, P> {
    /// What tells them apart.
    key: fn(&K) -> String,
    /// Takes out what is needed, before the cluster is locked.
    read: fn(K) -> P,
    /// One is there, or is not as it was.
    set: fn(&mut Cluster, P) -> Touched,
    /// One is there no more.
    remove: fn(&mut Cluster, &str) -> Touched,
}

/// One kind, kept in step.
struct Reflector<K, P> {
    watch: Arc<Watch>,
    name: String,
    steps: Steps<K, P>,
    /// Keys of the objects that there are.
    known: HashSet<String>,
    /// Keys that a list has told so far, while it comes.
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
                    // Its API was removed, or never there: there is none of it.
                    self.apply(Event::Init);
                    self.apply(Event::InitDone);
                    return Next::Later;
                }
                Err(error) if does_not_stream(&error, listed) => return Next::Page,
                Err(error) => self.watch.note(&self.name, |source| {
                    source.failed = !source.needed || status(&error) == Some(403);
                    source.problem = Some((Instant::now(), told(&error)));
                }),
            }
        }
        Next::Later
    }

    fn apply(&mut self, event: Event<K>) {
        let mut touched = Touched::new();
        match event {
            Event::Init => self.listing = Some(HashSet::new()),
            Event::Apply(object) | Event::InitApply(object) => {
                let key = (self.steps.key)(&object);
                if let Some(listing) = &mut self.listing {
                    listing.insert(key.clone());
                }
                self.known.insert(key);
                let read = (self.steps.read)(object);
                touched = (self.steps.set)(&mut self.watch.write(), read);
            }
            Event::Delete(object) => {
                let key = (self.steps.key)(&object);
                self.known.remove(&key);
                touched = (self.steps.remove)(&mut self.watch.write(), &key);
            }
            Event::InitDone => {
                let listing = self.listing.take().unwrap_or_default();
                let gone: Vec<String> = self.known.difference(&listing).cloned().collect();
                let mut cluster = self.watch.write();
                for key in gone {
                    touched.extend((self.steps.remove)(&mut cluster, &key));
                }
                drop(cluster);
                self.known = listing;
                self.watch.note(&self.name, |source| source.listed = true);
            }
        }
        self.watch.note(&self.name, |source| (source.failed, source.problem) = (false, None));
        self.watch.tell(touched);
    }
}

/// The HTTP status that an error stands for.
fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Whether a server answers so that cannot stream a list: those before 1.32, and that of 1.33, refuse the parameter, also one that was
/// upgraded to it; and an etcd that is too old fails, where nothing was listed yet.
fn does_not_stream(error: &watcher::Error, listed: bool) -> bool {
    matches!(status(error), Some(400 | 422)) || (!listed && status(error) == Some(500))
}

/// An error in one line.
fn told(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) => format!("listing: {}", words(error)),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => words(error),
        watcher::Error::WatchError(status) => status.message.clone(),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
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
