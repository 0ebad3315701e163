//! Callers by RBAC: the API server says who shows a token, and in which namespaces they may list what they ask for.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use outcrop_proto::Digest;

use crate::cluster::{Access, GROUP, Identity, ReviewError, Reviews, Watch};
use crate::lock::lock;
use crate::web::{Admission, Asked, Authorizer, Caller, Denied, Right, Scope};

/// How long what the API server said is believed.
const BELIEVED: Duration = Duration::from_secs(60);

/// Questions that are asked of the API server at a time, of one caller.
const AT_ONCE: usize = 16;

/// Most tokens, and most answers, that are remembered.
const MAX_KNOWN: usize = 10_000;

/// What is remembered for a while.
#[derive(Debug)]
struct Memory<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: std::hash::Hash + Eq, V: Clone> Memory<K, V> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn get(&self, key: &K) -> Option<V> {
        lock(&self.0).get(key).filter(|(at, _)| at.elapsed() < BELIEVED).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut all = lock(&self.0);
        if all.len() >= MAX_KNOWN {
            all.retain(|_, (at, _)| at.elapsed() < BELIEVED);
        }
        // Nobody is let in by what is forgotten: they are asked for again.
        if all.len() < MAX_KNOWN {
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
}

impl Rbac {
    pub(super) fn new(reviews: Reviews, watch: Arc<Watch>) -> Self {
        Self { reviews, watch, people: Memory::new(), scopes: Memory::new() }
    }

    async fn who(&self, digest: Digest, token: &str) -> Result<Arc<Identity>, Denied> {
        let known = self.people.get(&digest);
        if let Some(who) = known.filter(|who| who.expires > jiff::Timestamp::now().as_second()) {
            return Ok(who);
        }
        let who = Arc::new(self.reviews.who(token).await.map_err(|error| match error {
            ReviewError::Unknown(_) => Denied::Unknown,
            ReviewError::Unavailable(reason) => Denied::Unavailable(reason),
        })?);
        self.people.put(digest, Arc::clone(&who));
        Ok(who)
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
            let scope = match self.scopes.get(&(digest, asked)) {
                Some(scope) => scope,
                None => {
                    let scope = self.scope(&who, asked).await;
                    let scope = scope.map_err(|error| Denied::Unavailable(error.to_string()))?;
                    self.scopes.put((digest, asked), scope.clone());
                    scope
                }
            };
            let Some(scope) = scope else {
                let Asked { verb, resource } = asked;
                let help = match asked.reads() {
                    true => "a RoleBinding to view, or to the chart's ClusterRole for it, allows that in a namespace",
                    false => {
                        "a ClusterRoleBinding to the chart's ClusterRole for operators allows that: outcrop-operate"
                    }
                };
                let reason = format!("{} may not {verb} {resource}.{GROUP} anywhere; {help}", who.name);
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
        "a token is needed: Authorization: Bearer TOKEN, as kubectl create token NAME --audience outcrop prints it"
    }
}
