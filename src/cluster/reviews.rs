//! Reviews of tokens and permissions by the API server:
//! [TokenReview](https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-review-v1/) and
//! [SubjectAccessReview](https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/subject-access-review-v1/).

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::connect::error_message;

/// The audience of tokens for Outcrop. A token for the API server itself is refused: an attacker who breaks into Outcrop could use it there.
pub const AUDIENCE: &str = "outcrop";

/// The API group of Outcrop's permissions. It exists in RBAC rules only; no object is stored under it.
pub const GROUP: &str = "outcrop.dev";

/// What is said of a token that is none, or none for us. Why may quote its own claims, and is not said.
const NOT_OURS: &str = "the API server does not accept this token for the audience outcrop";

/// Longest token that is sent to the API server, in bytes.
const MAX_TOKEN: usize = 16 << 10;

/// The identity that a token belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `system:serviceaccount:NAMESPACE:NAME`, or a person's name.
    pub name: String,
    /// UID, if there is one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Additional attributes, such as the pod that the token is bound to.
    pub extra: BTreeMap<String, Vec<String>>,
    /// Expiry of the token, in seconds since 1970.
    pub expires: i64,
}

impl Identity {
    /// Returns the value of an additional attribute that has exactly one.
    pub fn extra(&self, key: &str) -> Option<&str> {
        match self.extra.get(key)?.as_slice() {
            [one] => Some(one),
            _ => None,
        }
    }
}

/// Why a review has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The token is not valid for Outcrop.
    #[error("{0}")]
    Unknown(String),
    /// The API server did not answer.
    #[error("requesting a review from the API server: {0}")]
    Unavailable(String),
}

/// Largest number of concurrent reviews. Anybody who can reach Outcrop can cause them, and the API server is shared.
const AT_ONCE: usize = 32;

/// A client for reviews.
#[derive(Clone)]
pub struct Reviews {
    client: Client,
    turns: Arc<Semaphore>,
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reviews")
    }
}

/// A verb on a resource of [`GROUP`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access<'a> {
    /// `list`, `create`, `update`
    pub verb: &'a str,
    /// `findings`, `workloads`, …
    pub resource: &'a str,
}

impl Reviews {
    /// Creates a client for reviews.
    pub fn new(client: Client) -> Self {
        Self { client, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Returns the identity that a token belongs to.
    ///
    /// # Errors
    /// When the token is invalid, has expired, is for another audience or is bound to a deleted object, or when the API server does not answer.
    pub async fn who(&self, token: &str) -> Result<Identity, ReviewError> {
        let unknown = |reason: &str| ReviewError::Unknown(reason.to_owned());
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(unknown("the token is empty"));
        }
        // A token whose own claims name another audience needs no review.
        let claims = Claims::of(token).filter(Claims::is_for_us);
        let claims = claims.ok_or_else(|| unknown(NOT_OURS))?;
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let status = self.ask(TokenReview { spec, ..TokenReview::default() }).await?.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(unknown(NOT_OURS));
        }
        // An API server that does not support audiences returns none, and the token is then one for the API server itself.
        if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
            return Err(unknown(
                "the token is not for the audience outcrop; create one with kubectl create token NAME --audience outcrop",
            ));
        }
        let UserInfo { username, uid, groups, extra } = status.user.unwrap_or_default();
        Ok(Identity {
            name: username.unwrap_or_default(),
            uid: uid.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            extra: extra.unwrap_or_default(),
            expires: claims.exp,
        })
    }

    /// Returns whether an identity is allowed an access in a namespace, or in all of them if none is given.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn may(&self, who: &Identity, access: Access<'_>, namespace: Option<&str>) -> Result<bool, ReviewError> {
        let attributes = ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some(access.resource.to_owned()),
            verb: Some(access.verb.to_owned()),
            namespace: namespace.map(ToOwned::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(who.name.clone()),
            uid: Some(who.uid.clone()),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = self.ask(SubjectAccessReview { spec, ..SubjectAccessReview::default() }).await?;
        let status = review.status.unwrap_or_default();
        Ok(status.allowed && status.denied != Some(true))
    }

    async fn ask<K>(&self, asked: K) -> Result<K, ReviewError>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        let turn = tokio::time::timeout(PATIENCE, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| ReviewError::Unavailable("too many reviews are in progress".to_owned()))?;
        review(&self.client, asked).await.map_err(ReviewError::Unavailable)
    }
}

/// Sends a review to the API server and returns it with its status.
///
/// # Errors
/// When the API server does not answer within ten seconds, or refuses the review; returns the message.
pub async fn review<K>(client: &Client, review: K) -> Result<K, String>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let created = tokio::time::timeout(PATIENCE, api.create(&PostParams::default(), &review)).await;
    created.map_err(|_| "no response in time".to_owned())?.map_err(|error| error_message(&error))
}

/// How long a review may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// The claims in a token. They are trusted only after the API server has verified the token, except to reject it.
#[derive(Debug, Deserialize)]
struct Claims {
    exp: i64,
    #[serde(default)]
    aud: Audiences,
}

/// One audience, or several ([RFC 7519](https://www.rfc-editor.org/rfc/rfc7519#section-4.1.3)).
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Claims {
    fn of(token: &str) -> Option<Self> {
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        serde_json::from_slice(&claims).ok()
    }

    fn is_for_us(&self) -> bool {
        match &self.aud {
            Audiences::One(audience) => audience == AUDIENCE,
            Audiences::Several(audiences) => audiences.iter().any(|audience| audience == AUDIENCE),
        }
    }
}

/// An API server that reviews tokens and permissions, within the process.
#[cfg(test)]
pub(crate) mod fake {
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tokio::sync::Semaphore;
    use tower::service_fn;

    use super::*;

    /// Returns a token for this pod of `outcrop-agent`, which expires in an hour. `number` makes it differ from others.
    pub(crate) fn token(pod: &str, number: usize) -> String {
        let expires = outcrop_proto::clock::timestamp().as_second() + 3600;
        let claims = json!({ "aud": ["outcrop"], "exp": expires, "pod": pod, "number": number });
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
    }

    /// What the server knows and has been asked.
    #[derive(Debug)]
    pub(crate) struct ApiServer {
        pub(crate) token_reviews: AtomicUsize,
        pub(crate) access_reviews: AtomicUsize,
        /// Tokens that are not authenticated anymore.
        pub(crate) revoked: Mutex<BTreeSet<String>>,
        /// Whether every request fails.
        pub(crate) is_down: AtomicBool,
        /// Permits to answer.
        pub(crate) gate: Semaphore,
    }

    impl ApiServer {
        pub(crate) fn start() -> (Arc<Self>, Reviews) {
            let server = Arc::new(Self {
                token_reviews: AtomicUsize::new(0),
                access_reviews: AtomicUsize::new(0),
                revoked: Mutex::default(),
                is_down: AtomicBool::new(false),
                gate: Semaphore::new(Semaphore::MAX_PERMITS),
            });
            let shared = Arc::clone(&server);
            let answer = move |request: Request<Body>| {
                let server = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            };
            (server, Reviews::new(Client::new(service_fn(answer), "default")))
        }

        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            let is_token = request.uri().path().ends_with("/tokenreviews");
            let counter = if is_token { &self.token_reviews } else { &self.access_reviews };
            counter.fetch_add(1, Ordering::SeqCst);
            let permit = self.gate.acquire().await;
            let body = request.into_body().collect_bytes().await.unwrap_or_default();
            drop(permit);
            let mut review: Value = serde_json::from_slice(&body).unwrap_or_default();
            let is_down = self.is_down.load(Ordering::SeqCst);
            let status = if is_down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED };
            review["status"] = if is_token { self.review(&review["spec"]) } else { json!({ "allowed": true }) };
            let answer = if is_down { Value::Null } else { review };
            let mut response = Response::new(Body::from(answer.to_string().into_bytes()));
            *response.status_mut() = status;
            response
        }

        fn review(&self, spec: &Value) -> Value {
            let token = spec["token"].as_str().unwrap_or_default();
            if self.revoked.lock().unwrap_or_else(PoisonError::into_inner).contains(token) {
                return json!({ "authenticated": false });
            }
            let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap_or_default()).unwrap_or_default();
            let claims: Value = serde_json::from_slice(&claims).unwrap_or_default();
            let pod = &claims["pod"];
            json!({
                "authenticated": true,
                "audiences": ["outcrop"],
                "user": {
                    "username": "system:serviceaccount:outcrop:outcrop-agent",
                    "extra": {
                        "authentication.kubernetes.io/pod-name": [pod],
                        "authentication.kubernetes.io/pod-uid": [pod],
                    },
                },
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_ends_and_whom_it_is_for() {
        let claims = |claims: &str| Claims::of(&format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims)));
        let ours = claims(r#"{"aud":["outcrop"],"exp":1800000000}"#).unwrap();
        assert!(ours.exp == 1_800_000_000 && ours.is_for_us());
        assert!(claims(r#"{"aud":"outcrop","exp":1}"#).unwrap().is_for_us());
        for other in [r#"{"aud":["https://kubernetes.default.svc"],"exp":1}"#, r#"{"exp":1}"#, r#"{"aud":"","exp":1}"#]
        {
            assert!(!claims(other).unwrap().is_for_us(), "{other}");
        }
        for none in ["{}", r#"{"aud":"outcrop","exp":"soon"}"#, "", "[]"] {
            assert!(claims(none).is_none(), "{none}");
        }
        for token in ["", "opaque", "a.b", "a..c"] {
            assert!(Claims::of(token).is_none(), "{token}");
        }
    }
}
