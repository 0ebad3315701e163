//! Authenticates nodes by their agents' pods: a token is bound to a pod, the API server confirms to which one, and the token authenticates the node of that
//! pod.
//!
//! The name of the node comes from the API server, through the watch of pods, and never from the agent. Only a user who may create pods with the agents'
//! service account can report for a node, namely the node on which the pod runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use outcrop_proto::{Digest, clock};

use super::tokens::{Credential, Denied, Identified, Identify, Speaker};
use crate::cluster::{Identity, ReviewError, Reviews, Watch};
use crate::lock::lock;

/// Keys under which a TokenReview names the object that a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Time before its expiry from which on a token is refused, in seconds. The kubelet has replaced it by then.
const MARGIN: i64 = 60;

/// Time for which a review by the API server is cached.
const REVIEW_TTL: Duration = Duration::from_secs(300);

/// Largest number of tokens in each cache: several for each node.
const MAX_TOKENS: u64 = 50_000;

/// The pod and node that a token was issued for. Streams hold it, so that they do not depend on what the caches evict.
#[derive(Debug)]
pub(crate) struct Binding {
    node: String,
    /// UID of the pod.
    pod: String,
    /// Expiry of the token, in seconds since 1970.
    expires: i64,
    /// Whether a later review of the same token was refused.
    revoked: AtomicBool,
}

/// Keeps a binding until its token expires.
struct UntilExpiry;

impl Expiry<Digest, Arc<Binding>> for UntilExpiry {
    fn expire_after_create(&self, _: &Digest, binding: &Arc<Binding>, _: Instant) -> Option<Duration> {
        Some(Duration::from_secs(u64::try_from(binding.expires - now()).unwrap_or(0)))
    }

    fn expire_after_update(
        &self,
        key: &Digest,
        binding: &Arc<Binding>,
        at: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, binding, at)
    }
}

/// Identifies nodes by their agents' pods.
#[derive(Debug)]
pub(super) struct Pods {
    reviews: Reviews,
    watch: Arc<Watch>,
    /// The agents' service account, as the API server names it.
    account: String,
    /// Tokens that were reviewed a short time ago. Concurrent reviews of one token are joined here.
    reviewed: Cache<Digest, Arc<Binding>>,
    /// Tokens that were valid and have not expired. They stay valid while the API server is not available.
    known: Cache<Digest, Arc<Binding>>,
    /// Every binding that a cache or a stream still holds, to revoke it.
    issued: Mutex<HashMap<Digest, Weak<Binding>>>,
}

impl Pods {
    /// Creates a `Pods` that accepts the pods of the service account `name` in `namespace`.
    pub(super) fn new(reviews: Reviews, watch: Arc<Watch>, namespace: &str, name: &str) -> Self {
        let account = format!("system:serviceaccount:{namespace}:{name}");
        let cache = || Cache::builder().max_capacity(MAX_TOKENS).eviction_policy(EvictionPolicy::lru());
        Self {
            reviews,
            watch,
            account,
            reviewed: cache().time_to_live(REVIEW_TTL).build(),
            known: cache().expire_after(UntilExpiry).build(),
            issued: Mutex::default(),
        }
    }

    /// Requests a review of `token` from the API server, unless another call waits for it already.
    async fn reviewed(&self, digest: Digest, token: &str) -> Result<Arc<Binding>, Denied> {
        if let Some(binding) = self.reviewed.get(&digest).await {
            if self.is_current(&binding) {
                return Ok(binding);
            }
            self.reviewed.invalidate(&digest).await;
        }
        let review = async {
            match self.review(token).await {
                Ok(binding) => {
                    let binding = self.issue(digest, binding);
                    self.known.insert(digest, Arc::clone(&binding)).await;
                    Ok(binding)
                }
                Err(Denied::Unavailable(reason)) => Err(Denied::Unavailable(reason)),
                Err(denied) => {
                    self.known.invalidate(&digest).await;
                    self.revoke(&digest);
                    Err(denied)
                }
            }
        };
        self.reviewed.try_get_with(digest, review).await.map_err(|denied| (*denied).clone())
    }

    /// Returns the binding that a stream or a cache has for the token, otherwise `binding`.
    fn issue(&self, digest: Digest, binding: Binding) -> Arc<Binding> {
        let mut issued = lock(&self.issued);
        if let Some(held) = issued.get(&digest).and_then(Weak::upgrade) {
            return held;
        }
        let binding = Arc::new(binding);
        issued.insert(digest, Arc::downgrade(&binding));
        binding
    }

    /// Ends the streams that were opened with a token.
    fn revoke(&self, digest: &Digest) {
        if let Some(held) = lock(&self.issued).remove(digest).and_then(|held| held.upgrade()) {
            held.revoked.store(true, Ordering::Relaxed);
        }
    }

    async fn review(&self, token: &str) -> Result<Binding, Denied> {
        let who = self.reviews.who(token).await.map_err(|error| match error {
            ReviewError::Unknown(reason) => Denied::Refused(reason),
            ReviewError::Unavailable(reason) => Denied::Unavailable(reason),
        })?;
        if who.expires - now() < MARGIN {
            return Err(Denied::Refused("the token is about to expire; reload it from its file".to_owned()));
        }
        let (node, pod) = self.node_of(&who)?;
        Ok(Binding { node, pod, expires: who.expires, revoked: AtomicBool::new(false) })
    }

    /// Returns the node and the UID of the pod of an identity.
    fn node_of(&self, who: &Identity) -> Result<(String, String), Denied> {
        let refuse = |reason: String| Err(Denied::Refused(reason));
        if who.name != self.account {
            return refuse(format!("{} is not the agents' service account {}", who.name, self.account));
        }
        let (Some(name), Some(uid)) = (who.extra(POD_NAME), who.extra(POD_UID)) else {
            return refuse("the token is not bound to a pod".to_owned());
        };
        if !self.watch.is_synced() {
            return Err(Denied::Unavailable("the first list of the API server's objects is not complete".to_owned()));
        }
        let cluster = self.watch.cluster();
        let Some(pod) = cluster.pod(uid).filter(|pod| !pod.over) else {
            return Err(Denied::Unavailable(format!("pod {name} of the token is not known or has ended")));
        };
        let account_of = self.account.rsplit(':').nth(1);
        if pod.name.name != name || Some(pod.name.namespace.as_str()) != account_of {
            return refuse(format!("pod {name} of the token was replaced by another pod"));
        }
        let Some(node) = pod.node.as_deref() else {
            return Err(Denied::Unavailable(format!("pod {name} of the token is not scheduled yet")));
        };
        if cluster.is_deleted_node(node) {
            return Err(Denied::Unavailable(format!("node {node} of the token was deleted from the cluster")));
        }
        if who.extra(NODE_NAME).is_some_and(|named| named != node) {
            return refuse(format!("the token and pod {name} belong to different nodes"));
        }
        Ok((node.to_owned(), uid.to_owned()))
    }

    /// Returns whether a binding is still valid according to the watch of pods.
    fn is_current(&self, binding: &Binding) -> bool {
        let cluster = self.watch.cluster();
        let pod = cluster.pod(&binding.pod).filter(|pod| !pod.over && pod.node.as_deref() == Some(&binding.node));
        pod.is_some() && binding.expires - now() >= MARGIN / 2 && !binding.revoked.load(Ordering::Relaxed)
    }
}

fn now() -> i64 {
    clock::timestamp().as_second()
}

impl Identify for Pods {
    fn node<'a>(&'a self, token: &'a str) -> Identified<'a> {
        Box::pin(async move {
            let digest = Digest::of(token.as_bytes());
            let binding = match self.reviewed(digest, token).await {
                Ok(binding) => binding,
                Err(Denied::Unavailable(reason)) => {
                    // While the API server is not available, a token that was valid stays valid.
                    let known = self.known.get(&digest).await.filter(|binding| self.is_current(binding));
                    known.ok_or(Denied::Unavailable(reason))?
                }
                Err(denied) => return Err(denied),
            };
            Ok(Speaker { node: binding.node.clone(), credential: Credential::bound(digest, binding) })
        })
    }

    fn still_valid(&self, node: &str, credential: &Credential) -> bool {
        credential.binding().is_some_and(|binding| binding.node == node && self.is_current(binding))
    }

    fn refresh(&self) {
        lock(&self.issued).retain(|_, binding| binding.strong_count() > 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::Ordering::SeqCst;

    use futures_util::StreamExt as _;
    use serde_json::json;

    use super::*;
    use crate::cluster::Selection;
    use crate::cluster::fake::{ApiServer, token};

    /// Agents whose pods `first` and `second` run on the nodes `node-first` and `node-second`.
    fn pods() -> (Arc<ApiServer>, Arc<Watch>, Pods) {
        let (server, reviews) = ApiServer::start();
        let watch = Watch::new(Selection::default(), &BTreeSet::new());
        for name in ["first", "second"] {
            watch.set_pod(json!({
                "metadata": { "name": name, "namespace": "outcrop", "uid": name },
                "spec": { "nodeName": format!("node-{name}"), "containers": [] },
                "status": {},
            }));
        }
        let pods = Pods::new(reviews, Arc::clone(&watch), "outcrop", "outcrop-agent");
        (server, watch, pods)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hundred_simultaneous_reviews_of_one_token_are_one() {
        let (server, _, pods) = pods();
        let same = token("first", 0);
        server.gate.forget_permits(tokio::sync::Semaphore::MAX_PERMITS);
        let asked = futures_util::future::join_all((0..100).map(|_| pods.node(&same)));
        let open = async {
            while server.token_reviews.load(SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
            server.gate.add_permits(1);
        };
        let (speakers, ()) = tokio::join!(asked, open);
        assert!(speakers.into_iter().all(|speaker| speaker.unwrap().node == "node-first"));
        assert_eq!(server.token_reviews.load(SeqCst), 1);
        // Another token is another review.
        assert_eq!(pods.node(&token("second", 0)).await.unwrap().node, "node-second");
        assert_eq!(server.token_reviews.load(SeqCst), 2);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn beyond_the_bound_no_token_is_refused_and_no_stream_ends() {
        let (server, _, pods) = pods();
        let count = usize::try_from(MAX_TOKENS).unwrap() + 1;
        let first = token("first", 0);
        let stream = pods.node(&first).await.unwrap();
        let tokens: Vec<String> = (1..count).map(|number| token("second", number)).collect();
        let asked = futures_util::stream::iter(&tokens).map(|token| pods.node(token)).buffer_unordered(16);
        let refused = asked.filter(|speaker| std::future::ready(speaker.is_err())).count().await;
        assert_eq!((refused, server.token_reviews.load(SeqCst)), (0, count));
        pods.reviewed.run_pending_tasks().await;
        pods.known.run_pending_tasks().await;
        assert!(pods.reviewed.entry_count() <= MAX_TOKENS && pods.known.entry_count() <= MAX_TOKENS);
        pods.refresh();
        assert!(pods.still_valid("node-first", &stream.credential), "a stream does not depend on the cache");
        assert!(!pods.still_valid("node-second", &stream.credential));
        // One that is remembered is not reviewed again; one that was evicted is.
        let last = tokens.last().unwrap();
        assert_eq!(pods.node(last).await.unwrap().node, "node-second");
        assert_eq!(server.token_reviews.load(SeqCst), count);
        assert_eq!(pods.node(&first).await.unwrap().node, "node-first");
    }

    #[tokio::test]
    async fn a_stream_ends_with_its_pod_and_with_its_token() {
        let (server, watch, pods) = pods();
        let [first, second] = [token("first", 0), token("second", 0)];
        let (one, two) = (pods.node(&first).await.unwrap(), pods.node(&second).await.unwrap());
        // The token is reviewed again once its review is old, also if the caches have forgotten it.
        for cache in [&pods.reviewed, &pods.known] {
            cache.invalidate_all();
        }
        server.revoked.lock().unwrap().insert(first.clone());
        assert!(matches!(pods.node(&first).await, Err(Denied::Refused(_))));
        assert!(!pods.still_valid("node-first", &one.credential), "its streams end");
        assert!(pods.still_valid("node-second", &two.credential));
        watch.remove_pod("second");
        assert!(!pods.still_valid("node-second", &two.credential));
        assert!(matches!(pods.node(&second).await, Err(Denied::Unavailable(_))));
    }

    #[tokio::test]
    async fn while_the_api_server_is_down_a_token_that_was_valid_stays_valid() {
        let (server, _, pods) = pods();
        let [known, new] = [token("first", 0), token("first", 1)];
        pods.node(&known).await.unwrap();
        pods.reviewed.invalidate_all();
        server.is_down.store(true, SeqCst);
        assert_eq!(pods.node(&known).await.unwrap().node, "node-first");
        assert!(matches!(pods.node(&new).await, Err(Denied::Unavailable(_))));
        server.is_down.store(false, SeqCst);
        assert_eq!(pods.node(&new).await.unwrap().node, "node-first");
    }
}
