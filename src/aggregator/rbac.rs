//! Authorizes callers by Kubernetes RBAC: the API server reviews their tokens and determines the namespaces in which they have a permission.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use outcrop_proto::{Digest, clock};
use tokio::sync::Semaphore;

use crate::cluster::{Access, GROUP, Identity, ReviewError, Reviews, Watch};
use crate::web::{Admission, Authorizer, Caller, Denied, Permission, Right, Scope};

/// Time for which a review by the API server is cached.
const TTL: Duration = Duration::from_secs(60);

/// Largest number of concurrent reviews for one caller.
const CONCURRENT_REVIEWS: usize = 16;

/// Largest number of callers whose namespaces are reviewed at the same time. Others wait.
const CONCURRENT_CALLERS: usize = 8;

/// Maximum time of the reviews of one caller.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest number of cached identities.
const MAX_IDENTITIES: u64 = 10_000;

/// Largest number of cached scopes: each may list all namespaces.
const MAX_SCOPES: u64 = 2_000;

/// The part of an identity that differs between two tokens of the same caller and has no influence on their permissions.
const CREDENTIAL: &str = "authentication.kubernetes.io/credential-id";

/// Authorizes callers by RBAC. Concurrent reviews of the same token, or of the same permission of a caller, are joined.
#[derive(Debug)]
pub(super) struct Rbac {
    reviews: Reviews,
    watch: Arc<Watch>,
    identities: Cache<Digest, Arc<Identity>>,
    /// The namespaces in which a caller has a permission; `None` for none.
    scopes: Cache<(Digest, Permission), Option<Scope>>,
    turns: Semaphore,
}

/// Returns a key that is the same for every token of a caller.
fn key(who: &Identity) -> Digest {
    let extra: BTreeMap<_, _> = who.extra.iter().filter(|(key, _)| *key != CREDENTIAL).collect();
    Digest::of(format!("{:?}", (&who.name, &who.uid, &who.groups, extra)).as_bytes())
}

impl Rbac {
    pub(super) fn new(reviews: Reviews, watch: Arc<Watch>) -> Self {
        // The newest entry is always cached: with the default policy, a full cache would not admit new callers.
        let identities = Cache::builder().max_capacity(MAX_IDENTITIES).eviction_policy(EvictionPolicy::lru());
        let scopes = Cache::builder().max_capacity(MAX_SCOPES).eviction_policy(EvictionPolicy::lru());
        Self {
            reviews,
            watch,
            identities: identities.time_to_live(TTL).build(),
            scopes: scopes.time_to_live(TTL).build(),
            turns: Semaphore::new(CONCURRENT_CALLERS),
        }
    }

    async fn identity(&self, token: &str) -> Result<Arc<Identity>, Denied> {
        let digest = Digest::of(token.as_bytes());
        let has_expired = |who: &Identity| who.expires <= clock::timestamp().as_second();
        if self.identities.get(&digest).await.is_some_and(|who| has_expired(&who)) {
            self.identities.invalidate(&digest).await;
        }
        let review = async {
            self.reviews.who(token).await.map(Arc::new).map_err(|error| match error {
                ReviewError::Unknown(_) => Denied::Unknown,
                ReviewError::Unavailable(reason) => Denied::Unavailable(reason),
            })
        };
        self.identities.try_get_with(digest, review).await.map_err(|denied| (*denied).clone())
    }

    /// Returns the namespaces in which a caller has a permission, from the cache or from the API server.
    async fn scope_of(&self, who: &Identity, permission: Permission) -> Result<Option<Scope>, Denied> {
        let review = async {
            let _turn = self.turns.acquire().await;
            self.scope(who, permission).await.map_err(|error| Denied::Unavailable(error.to_string()))
        };
        self.scopes.try_get_with((key(who), permission), review).await.map_err(|denied| (*denied).clone())
    }

    /// Requests from the API server the namespaces in which a caller has a permission; `None` for none.
    async fn scope(&self, who: &Identity, permission: Permission) -> Result<Option<Scope>, ReviewError> {
        let access = Access { verb: permission.verb, resource: permission.resource };
        if self.reviews.may(who, access, None).await? {
            return Ok(Some(Scope::All));
        }
        // A change affects every namespace.
        if !permission.is_read() {
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
        let allowed: Vec<Option<String>> = answers.buffer_unordered(CONCURRENT_REVIEWS).try_collect().await?;
        let allowed: BTreeSet<String> = allowed.into_iter().flatten().collect();
        Ok((!allowed.is_empty()).then_some(Scope::Namespaces(allowed)))
    }
}

impl Authorizer for Rbac {
    fn authorize<'a>(&'a self, bearer: Option<&'a str>, permission: Permission) -> Admission<'a> {
        Box::pin(async move {
            let token = bearer.ok_or(Denied::Unknown)?;
            let who = self.identity(token).await?;
            let scope = tokio::time::timeout(TIMEOUT, self.scope_of(&who, permission)).await;
            let late = |_| Denied::Unavailable("the API server did not authorize the request in time".to_owned());
            let Some(scope) = scope.map_err(late)?? else {
                let Permission { verb, resource } = permission;
                let help = match permission.is_read() {
                    true => {
                        "grant it with a RoleBinding to the ClusterRole view, or to the chart's ClusterRole outcrop-view"
                    }
                    false => "grant it with a ClusterRoleBinding to the chart's ClusterRole outcrop-operate",
                };
                let detail =
                    format!("{} is not allowed to {verb} {resource}.{GROUP} in any namespace; {help}", who.name);
                return Err(Denied::Forbidden { name: who.name.clone(), detail });
            };
            let right = match permission.resource {
                "databases" => Right::PushDatabase,
                "targets" | "deliveries" if !permission.is_read() => Right::ManageDeliveries,
                "nodes" if !permission.is_read() => Right::ManageNodes,
                _ => Right::Read,
            };
            Ok(Caller::new(&who.name, &key(&who).0, scope, [right].into()))
        })
    }

    fn hint(&self) -> &'static str {
        "a token is required (Authorization: Bearer TOKEN); create one with kubectl create token NAME --audience outcrop"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::cluster::Selection;
    use crate::cluster::fake::{ApiServer, token};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn simultaneous_reviews_of_one_token_and_permission_are_one() {
        let (server, reviews) = ApiServer::start();
        let rbac = Rbac::new(reviews, Watch::new(Selection::default(), &BTreeSet::new()));
        let [first, second] = [token("a", 0), token("a", 1)];
        server.gate.forget_permits(Semaphore::MAX_PERMITS);
        let list = Permission::list("findings");
        let asked = futures_util::future::join_all((0..100).map(|_| rbac.authorize(Some(&first), list)));
        let open = async {
            while server.token_reviews.load(SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            server.gate.add_permits(1);
        };
        let (callers, ()) = tokio::join!(asked, open);
        assert!(callers.into_iter().all(|caller| caller.unwrap().scope == Scope::All));
        let counts = || (server.token_reviews.load(SeqCst), server.access_reviews.load(SeqCst));
        assert_eq!(counts(), (1, 1));
        // Another token of the same caller shares the scope; another permission has its own.
        rbac.authorize(Some(&second), list).await.unwrap();
        assert_eq!(counts(), (2, 1));
        rbac.authorize(Some(&second), Permission::get("status")).await.unwrap();
        assert_eq!(counts(), (2, 2));
    }
}
