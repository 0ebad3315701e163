//! Checks of the connection to the aggregator: token, CA certificate, name, connection, clocks.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use outcrop_proto::clock;
use outcrop_proto::wire::v1;
use outcrop_proto::wire::v1::collector_client::CollectorClient;
use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};

use super::Check;
use crate::agent::{AgentError, Aggregator};

/// Maximum time to connect.
const PATIENCE: Duration = Duration::from_secs(5);

/// Clocks that are further apart make certificates and tokens seem to have ended, or not to have begun.
const CLOCK_WARN: i64 = 30;
const CLOCK_FAIL: i64 = 300;

const AUDIENCE: &str = "outcrop";

/// Looks at everything between this node and its aggregator, in the order in which an agent needs it.
pub(super) async fn examine(aggregator: &Aggregator) -> Vec<Check> {
    let token = aggregator.token();
    let mut checks = vec![match &token {
        Ok(token) => judge_token(token, clock::timestamp().as_second()),
        Err(error) => Check::fail(
            "token",
            error.to_string(),
            "mount a projected token for the audience outcrop into the pod, or pass --token-file",
        ),
    }];
    let endpoint = match aggregator.endpoint() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let (name, hint) = match error {
                AgentError::Address { .. } => {
                    ("aggregator", "pass the address that the agent uses, as https://HOST:PORT")
                }
                _ => ("CA certificate", "pass --ca FILE with the certificate from the aggregator's ConfigMap …-ca"),
            };
            checks.push(Check::fail(name, error.to_string(), hint));
            return checks;
        }
    };
    if let Some(ca) = &aggregator.ca {
        checks.push(judge_authority(&ca.display().to_string(), &std::fs::read_to_string(ca).unwrap_or_default()));
    }
    let (host, port) = (endpoint.uri().host().unwrap_or_default(), endpoint.uri().port_u16().unwrap_or(443));
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let addresses: Vec<_> = match (host.as_str(), port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(error) => {
            checks.push(Check::fail(
                "name",
                format!("resolving {host}: {error}"),
                "check that DNS is reachable from this pod (networkPolicy.dnsPorts) and that the Service exists",
            ));
            return checks;
        }
    };
    let all: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    checks.push(Check::ok("name", format!("{host} resolves to {}", all.join(", "))));
    let connected = addresses.iter().map(|address| TcpStream::connect_timeout(address, PATIENCE));
    if let Some(Err(error)) = connected.reduce(std::result::Result::or) {
        checks.push(Check::fail(
            "connection",
            format!("connecting to {host}:{port}: {error}"),
            "check that the aggregator's pod is ready and that no NetworkPolicy blocks the connection",
        ));
        return checks;
    }
    let is_tls = endpoint.uri().scheme_str() == Some("https");
    let channel = match tokio::time::timeout(PATIENCE * 2, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            let cause = innermost(&error);
            checks.push(Check::fail("TLS", format!("{host}:{port}: {cause}"), advice(&cause)));
            return checks;
        }
        Err(_) => {
            checks.push(Check::fail(
                "TLS",
                format!("{host}:{port} did not respond in time"),
                "check that this is the aggregator's port for agents",
            ));
            return checks;
        }
    };
    checks.push(if is_tls {
        Check::ok("TLS", format!("the certificate of {host}:{port} is valid"))
    } else {
        Check::skipped("TLS", format!("the address of {host}:{port} is http://"))
    });
    if let Ok(token) = token {
        checks.extend(greet(channel, &token).await);
    }
    checks
}

/// Checks the token with an empty inventory. The aggregator refuses it in any case, and the code of the refusal shows whether it accepts the
/// token. A report would replace the stream of the running agent.
async fn greet(channel: tonic::transport::Channel, token: &str) -> Vec<Check> {
    let Ok(bearer) = format!("Bearer {token}").parse::<MetadataValue<Ascii>>() else { return Vec::new() };
    let mut request = Request::new(tokio_stream::empty::<v1::Piece>());
    request.metadata_mut().insert("authorization", bearer);
    request.set_timeout(PATIENCE);
    let sent = clock::machine();
    let Err(status) = CollectorClient::new(channel).deliver(request).await else { return Vec::new() };
    let mut checks = vec![judge_answer(&status)];
    let date = status.metadata().get("date").and_then(|date| date.to_str().ok());
    if let Some(skew) = date.and_then(|date| skew(date, sent)) {
        checks.push(judge_clock("clock", skew, "the aggregator's"));
    }
    checks
}

fn judge_authority(name: &str, pem: &str) -> Check {
    match pem.matches("-----BEGIN CERTIFICATE-----").count() {
        0 => Check::fail(
            "CA certificate",
            format!("{name} contains no PEM certificate"),
            "use the file that the aggregator publishes, or the Secret's ca.crt",
        ),
        1 => Check::ok("CA certificate", format!("one certificate in {name}")),
        more => Check::ok("CA certificate", format!("{more} certificates in {name}")),
    }
}

fn judge_answer(status: &Status) -> Check {
    const NAME: &str = "authentication";
    match status.code() {
        Code::InvalidArgument => Check::ok(NAME, "the aggregator accepts this token"),
        Code::Unauthenticated => Check::fail(
            NAME,
            format!("the aggregator refuses this token: {}", status.message()),
            "in a cluster, check that this pod's account is the aggregator's --agent-account; otherwise that the token's hash is in the file of --tokens",
        ),
        Code::Unavailable => Check::warn(
            NAME,
            format!("the aggregator cannot verify the token at the moment: {}", status.message()),
            "check that the aggregator can connect to the API server",
        ),
        code => Check::fail(
            NAME,
            format!("unexpected response {code:?}: {}", status.message()),
            "check that this is the aggregator's port for agents, and that the address begins with https:// unless the aggregator runs with --insecure",
        ),
    }
}

/// Returns a hint for a failed TLS handshake.
fn advice(cause: &str) -> &'static str {
    let cause = cause.to_ascii_lowercase();
    // An aggregator that lost its volume creates a new CA with the same name and another key: BadSignature.
    if ["unknownissuer", "unknown issuer", "badsignature"].iter().any(|word| cause.contains(word)) {
        "the certificate was issued by another CA: check that --ca is the file that the aggregator publishes now; the kubelet updates it within two minutes"
    } else if cause.contains("expired") || cause.contains("not valid yet") || cause.contains("notvalidyet") {
        "compare the clocks of this node and of the aggregator's node, then renew the certificate"
    } else if cause.contains("notvalidforname") || cause.contains("not valid for name") {
        "add the name to the certificate with --tls-name, or tls.extraNames in the chart"
    } else {
        "check that this is the aggregator's port for agents and that it uses TLS"
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// Seconds that this clock is ahead of the one that wrote `date` (RFC 9110).
pub fn skew(date: &str, here: Timestamp) -> Option<i64> {
    let there = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(here.as_second() - there.as_second())
}

/// Maximum difference between this clock and another one.
pub fn judge_clock(name: &str, ahead: i64, whose: &str) -> Check {
    let apart = ahead.abs();
    let found = match ahead {
        _ if apart <= 1 => format!("in sync with {whose}"),
        0.. => format!("{apart} s ahead of {whose}"),
        _ => format!("{apart} s behind {whose}"),
    };
    let todo = "synchronize the clocks with NTP (timedatectl status, chronyc tracking)";
    if apart <= CLOCK_WARN {
        Check::ok(name, found)
    } else if apart <= CLOCK_FAIL {
        Check::warn(name, found, todo)
    } else {
        Check::fail(name, found, todo)
    }
}

/// The claims of a token. They are not verified here; the aggregator verifies them.
#[derive(Deserialize)]
struct Claims {
    exp: Option<i64>,
    iat: Option<i64>,
    #[serde(default)]
    aud: Audience,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
    #[default]
    None,
}

fn judge_token(token: &str, now: i64) -> Check {
    const NAME: &str = "token";
    const RENEW: &str =
        "the kubelet renews the token: check the pod's volume token, the kubelet's log and this node's clock";
    if token.is_empty() {
        return Check::fail(
            NAME,
            "the file is empty",
            "create one with outcrop token new NODE; in a cluster the kubelet creates it",
        );
    }
    let claims = token.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let Some(claims) = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok()) else {
        return match token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Check::ok(NAME, "an Outcrop token, without expiry"),
            false => Check::fail(NAME, "the file does not contain a token", "create one with outcrop token new NODE"),
        };
    };
    let audiences = match claims.aud {
        Audience::One(one) => vec![one],
        Audience::Many(many) => many,
        Audience::None => Vec::new(),
    };
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Check::fail(
            NAME,
            format!("not for the audience {AUDIENCE}, but for {}", audiences.join(", ")),
            "mount a projected token for the audience outcrop, as the chart does",
        );
    }
    match (claims.exp, claims.iat) {
        (Some(exp), _) if exp <= now => Check::fail(NAME, format!("expired {} s ago", now - exp), RENEW),
        (_, Some(iat)) if iat > now + CLOCK_WARN => Check::warn(
            NAME,
            format!("issued {} s in the future", iat - now),
            "this node's clock is behind the API server's: synchronize it with NTP",
        ),
        (Some(exp), _) => Check::ok(NAME, format!("for the audience {AUDIENCE}, expires in {} s", exp - now)),
        (None, _) => Check::ok(NAME, format!("for the audience {AUDIENCE}, without expiry")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    fn jwt(claims: &str) -> String {
        format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn a_token_is_judged_and_never_printed() {
        for (token, result, says) in [
            (jwt(r#"{"aud":["outcrop"],"exp":2000,"iat":900}"#), Outcome::Ok, "expires in 1000 s"),
            (jwt(r#"{"aud":"outcrop","exp":2000}"#), Outcome::Ok, "expires in"),
            (jwt(r#"{"aud":["outcrop"],"exp":999}"#), Outcome::Fail, "expired 1 s ago"),
            (jwt(r#"{"aud":["outcrop"],"exp":9000,"iat":2000}"#), Outcome::Warn, "issued 1000 s in the future"),
            (jwt(r#"{"aud":["https://kubernetes.default.svc"],"exp":2000}"#), Outcome::Fail, "but for https://"),
            (jwt(r#"{"exp":2000}"#), Outcome::Fail, "not for the audience"),
            ("0123abcd".to_owned(), Outcome::Ok, "Outcrop token"),
            ("two words".to_owned(), Outcome::Fail, "does not contain"),
            (String::new(), Outcome::Fail, "empty"),
        ] {
            let check = judge_token(&token, 1000);
            assert_eq!(check.result, result, "{check:?}");
            assert!(check.found.contains(says), "{check:?}");
            assert!(token.is_empty() || !format!("{check:?}").contains(&token), "{check:?}");
        }
    }

    #[test]
    fn an_authority_is_a_certificate() {
        let one = "-----BEGIN CERTIFICATE-----\n…\n-----END CERTIFICATE-----\n";
        for (pem, result) in
            [(one.repeat(2), Outcome::Ok), (one.to_owned(), Outcome::Ok), (String::new(), Outcome::Fail)]
        {
            assert_eq!(judge_authority("ca.crt", &pem).result, result);
        }
    }

    #[test]
    fn clocks_may_be_a_little_apart() {
        for (ahead, result, says) in [
            (0, Outcome::Ok, "in sync"),
            (-30, Outcome::Ok, "30 s behind"),
            (31, Outcome::Warn, "31 s ahead"),
            (-301, Outcome::Fail, "301 s behind"),
        ] {
            let check = judge_clock("clock", ahead, "the aggregator's");
            assert_eq!((check.result, check.found.contains(says)), (result, true), "{check:?}");
        }
        let here: Timestamp = "1994-11-06T08:50:00Z".parse().unwrap();
        assert_eq!(skew("Sun, 06 Nov 1994 08:49:37 GMT", here), Some(23));
        assert_eq!(skew("yesterday", here), None);
    }

    #[test]
    fn how_a_token_is_refused_tells_what_to_do() {
        for (status, result) in [
            (Status::invalid_argument("the inventory has no parts"), Outcome::Ok),
            (Status::unauthenticated("unknown"), Outcome::Fail),
            (Status::unavailable("the API server"), Outcome::Warn),
            (Status::unimplemented(""), Outcome::Fail),
        ] {
            assert_eq!(judge_answer(&status).result, result, "{status:?}");
        }
        for (cause, says) in [
            ("invalid peer certificate: UnknownIssuer", "another CA"),
            ("invalid peer certificate: BadSignature", "another CA"),
            ("invalid peer certificate: certificate expired: …", "clocks"),
            ("invalid peer certificate: certificate not valid for name \"x\"", "add the name"),
            ("received corrupt message of type InvalidContentType", "uses TLS"),
        ] {
            assert!(advice(cause).contains(says), "{cause}");
        }
    }
}
