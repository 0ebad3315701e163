//! Nodes by their agents' pods: a token is bound to a pod, the API server says to which, and the pod's node is the one that it speaks for.
//!
//! The node's name is the API server's, by way of the reflector; nothing that an agent says of itself counts. Who may make pods with the
//! agents' service account may speak for the nodes that these run on, and nobody else may.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outcrop_proto::{Digest, clock};

use super::tokens::{Denied, Identified, Identify, Speaker};
use crate::cluster::{Identity, ReviewError, Reviews, Watch};
use crate::lock::lock;

/// What TokenReview calls what a token is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// How long before its end a token is not taken any more, seconds: by then the kubelet has put another in its place.
const MARGIN: i64 = 60;

/// After what time the API server is asked again of a token that it knew.
const AGAIN: Duration = Duration::from_secs(300);

/// Most tokens that are remembered: some for each node.
const MAX_KNOWN: usize = 50_000;

/// A token that the API server knew.
#[derive(Clone, Debug)]
struct Known {
    node: String,
    pod: String,
    expires: i64,
    reviewed: Instant,
}

/// Nodes by their agents' pods.
#[derive(Debug)]
pub(super) struct Pods {
    reviews: Reviews,
    watch: Arc<Watch>,
    /// The agents' service account, as the API server calls it.
    account: String,
    known: Mutex<HashMap<Digest, Known>>,
}

impl Pods {
    /// Agents are the pods of this service account.
    pub(super) fn new(reviews: Reviews, watch: Arc<Watch>, namespace: &str, name: &str) -> Self {
        let account = format!("system:serviceaccount:{namespace}:{name}");
        Self { reviews, watch, account, known: Mutex::default() }
    }

    async fn review(&self, token: &str) -> Result<Known, Denied> {
        let who = self.reviews.who(token).await.map_err(|error| match error {
            ReviewError::Unknown(reason) => Denied::Refused(reason),
            ReviewError::Unavailable(reason) => Denied::Unavailable(reason),
        })?;
        if who.expires - now() < MARGIN {
            return Err(Denied::Refused("the token is about to expire; reload it from its file".to_owned()));
        }
        let (node, pod) = self.node_of(&who)?;
        Ok(Known { node, pod, expires: who.expires, reviewed: Instant::now() })
    }

    /// The node, and the identity of the pod, that somebody is.
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
        if who.extra(NODE_NAME).is_some_and(|named| named != node) {
            return refuse(format!("the token and pod {name} belong to different nodes"));
        }
        Ok((node.to_owned(), uid.to_owned()))
    }

    /// Whether what was known of a token is so still, as far as that shows without asking.
    fn holds(&self, known: &Known) -> bool {
        let cluster = self.watch.cluster();
        let pod = cluster.pod(&known.pod).filter(|pod| !pod.over && pod.node.as_deref() == Some(&known.node));
        pod.is_some() && known.expires - now() >= MARGIN / 2
    }
}

fn now() -> i64 {
    clock::timestamp().as_second()
}

impl Identify for Pods {
    fn node<'a>(&'a self, token: &'a str) -> Identified<'a> {
        Box::pin(async move {
            let digest = Digest::of(token.as_bytes());
            let before = lock(&self.known).get(&digest).filter(|known| self.holds(known)).cloned();
            if let Some(known) = before.as_ref().filter(|known| known.reviewed.elapsed() < AGAIN) {
                return Ok(Speaker { node: known.node.clone(), token: digest });
            }
            let known = match (self.review(token).await, before) {
                (Ok(known), _) => known,
                // While the API server is away, who was known stays.
                (Err(Denied::Unavailable(_)), Some(known)) => known,
                (Err(denied), _) => {
                    lock(&self.known).remove(&digest);
                    return Err(denied);
                }
            };
            let node = known.node.clone();
            let mut all = lock(&self.known);
            if all.len() >= MAX_KNOWN {
                return Err(Denied::Unavailable("too many tokens are known".to_owned()));
            }
            all.insert(digest, known);
            Ok(Speaker { node, token: digest })
        })
    }

    fn still_valid(&self, node: &str, token: &Digest) -> bool {
        lock(&self.known).get(token).is_some_and(|known| known.node == node && self.holds(known))
    }

    fn refresh(&self) {
        let ended = now();
        lock(&self.known).retain(|_, known| known.expires > ended);
    }
}
