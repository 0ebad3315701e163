//! Callers by RBAC: the API server says who shows a token, and in which namespaces they may list what they ask for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use outcrop_proto::{Digest, clock};
use tokio::sync::Semaphore;

use crate::cluster::{Access, GROUP, Identity, ReviewError, Reviews, Watch};
use crate::lock::lock;
use crate::web::{Admission, Asked, Authorizer, Caller, Denied, Right, Scope};

/// How long what the API server said is believed.
const BELIEVED: Duration = Duration::from_secs(60);

/// Questions that are asked of the API server at a time, of one caller.
const AT_ONCE: usize = 16;

/// Callers of whom it is asked at a time where they may what. Others wait, and most find the answer there then.
const ASKED_OF: usize = 8;

/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Most tokens that are remembered.
const MAX_TOKENS: usize = 10_000;

/// Most answers that are remembered: each may name all namespaces.
const MAX_ANSWERS: usize = 2_000;

/// What tells two tokens of the same somebody apart, and says nothing of their rights.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// What is remembered for a while.
#[derive(Debug)]
struct Memory<K, V> {
    known: Mutex<HashMap<K, (Instant, V)>>,
    most: usize,
}

impl<K: std::hash::Hash + Eq, V: Clone> Memory<K, V> {
    fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most }
    }

    fn get(&self, key: &K) -> Option<V> {
        lock(&self.known).get(key).filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut all = lock(&self.known);
        all.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        // Nobody is let in by what is forgotten: they are asked for again.
        if all.len() < self.most {
            all.insert(key, (Instant::now(), value));
        }
    }
}

/// Callers by RBAC.
#[derive(Debug)]
pub(super) struct Rbac {
    reviews: Reviews,
    watch: Arc<Watch>,
    people: Memory<Digest, Arc<Identity>>,
    scopes: Memory<(Digest, Asked), Option<Scope>>,
    turns: Semaphore,
}

/// Somebody, whichever token they show.
fn key(who: &Identity) -> Digest {
    let extra: BTreeMap<_, _> = who.extra.iter().filter(|(key, _)| *key != CREDENTIAL).collect();
    Digest::of(format!("{:?}", (&who.name, &who.uid, &who.groups, extra)).as_bytes())
}

impl Rbac {
    pub(super) fn new(reviews: Reviews, watch: Arc<Watch>) -> Self {
        let (people, scopes) = (Memory::new(MAX_TOKENS), Memory::new(MAX_ANSWERS));
        Self { reviews, watch, people, scopes, turns: Semaphore::new(ASKED_OF) }
    }

    async fn who(&self, digest: Digest, token: &str) -> Result<Arc<Identity>, Denied> {
        let known = self.people.get(&digest);
        if let Some(who) = known.filter(|who| who.expires > clock::timestamp().as_second()) {
            return Ok(who);
        }
        let who = Arc::new(self.reviews.who(token).await.map_err(|error| match error {
            ReviewError::Unknown(_) => Denied::Unknown,
            ReviewError::Unavailable(reason) => Denied::Unavailable(reason),
        })?);
        self.people.put(digest, Arc::clone(&who));
        Ok(who)
    }

    /// Where somebody may do what is asked, by what is remembered or by asking.
    async fn scope_of(&self, who: &Identity, asked: Asked) -> Result<Option<Scope>, Denied> {
        let key = (key(who), asked);
        if let Some(scope) = self.scopes.get(&key) {
            return Ok(scope);
        }
        let _turn = self.turns.acquire().await;
        if let Some(scope) = self.scopes.get(&key) {
            return Ok(scope);
        }
        let scope = self.scope(who, asked).await.map_err(|error| Denied::Unavailable(error.to_string()))?;
        self.scopes.put(key, scope.clone());
        Ok(scope)
    }

    /// Where somebody may do what is asked; `None` is nowhere.
    async fn scope(&self, who: &Identity, asked: Asked) -> Result<Option<Scope>, ReviewError> {
        let access = Access { verb: asked.verb, resource: asked.resource };
        if self.reviews.may(who, access, None).await? {
            return Ok(Some(Scope::All));
        }
        // What changes something changes it for all.
        if !asked.reads() {
            return Ok(None);
        }
        let namespaces: BTreeSet<String> = {
            let cluster = self.watch.cluster();
            let of_pods = cluster.pods().map(|pod| pod.name.namespace.clone());
            cluster.namespaces().map(ToOwned::to_owned).chain(of_pods).collect()
        };
        let answers = futures_util::stream::iter(namespaces).map(|namespace| async move {
            let may = self.reviews.may(who, access, Some(&namespace)).await?;
            Ok::<_, ReviewError>(may.then_some(namespace))
        });
        let allowed: Vec<Option<String>> = answers.buffer_unordered(AT_ONCE).try_collect().await?;
        let allowed: BTreeSet<String> = allowed.into_iter().flatten().collect();
        Ok((!allowed.is_empty()).then_some(Scope::Namespaces(allowed)))
    }
}

impl Authorizer for Rbac {
    fn authorize<'a>(&'a self, bearer: Option<&'a str>, asked: Asked) -> Admission<'a> {
        Box::pin(async move {
            let token = bearer.ok_or(Denied::Unknown)?;
            let digest = Digest::of(token.as_bytes());
            let who = self.who(digest, token).await?;
            let scope = tokio::time::timeout(PATIENCE, self.scope_of(&who, asked)).await;
            let late = |_| Denied::Unavailable("the API server did not authorize the request in time".to_owned());
            let Some(scope) = scope.map_err(late)?? else {
                let Asked { verb, resource } = asked;
                let help = match asked.reads() {
                    true => {
                        "grant it with a RoleBinding to the ClusterRole view, or to the chart's ClusterRole outcrop-view"
                    }
                    false => "grant it with a ClusterRoleBinding to the chart's ClusterRole outcrop-operate",
                };
                let reason =
                    format!("{} is not allowed to {verb} {resource}.{GROUP} in any namespace; {help}", who.name);
                return Err(Denied::Forbidden(reason));
            };
            let right = match asked.resource {
                "databases" => Right::PushDatabase,
                "nodes" if !asked.reads() => Right::ManageNodes,
                _ => Right::Read,
            };
            Ok(Caller { name: who.name.clone(), scope, rights: [right].into() })
        })
    }

    fn hint(&self) -> &'static str {
        "a token is required (Authorization: Bearer TOKEN); create one with kubectl create token NAME --audience outcrop"
    }
}
