//! Who may ask what, and what a browser may be lured into.

use std::fs;
use std::sync::Arc;

use outcrop::web::{Authorizer, Loopback};

use serde_json::Value;

use super::fake::Fake;
use super::server::Server;

/// Makes a token by `outcrop token new`; returns it.
pub(super) fn token(server: &Server, name: &str, rights: &str, namespaces: &str) -> String {
    let tokens = server.at("tokens").display().to_string();
    let mut arguments = vec!["token", "new", "--api", name, "--rights", rights, "--tokens", &tokens];
    if !namespaces.is_empty() {
        arguments.extend(["--namespaces", namespaces]);
    }
    server.told(&arguments).trim().to_owned()
}

#[test]
fn nobody_without_a_token_learns_anything() {
    let server = Server::with_tokens(Fake::new(2, 4));
    for target in ["/", "/metrics", "/api/v1/status", "/api/v1/openapi.json", "/api/v1/layers", "/nothing"] {
        for headers in [&[][..], &[("Authorization", "Bearer guess")], &[("Authorization", "Basic eDp4")]] {
            let answer = server.ask("GET", target, headers, b"");
            assert_eq!(answer.status, 401, "{target}: {answer:?}");
            assert!(answer.header("WWW-Authenticate").starts_with("Bearer"), "{answer:?}");
            assert_eq!(answer.header("Content-Type"), "application/problem+json");
        }
    }
    let json = [("Content-Type", "application/json")];
    assert_eq!(server.ask("POST", "/api/v1/database", &json, b"x").status, 401);
    // Who keeps the process alive needs none.
    assert_eq!((server.get("/healthz").status, server.get("/readyz").status), (200, 200));
    let told = server.outcrop(&["status"]);
    let told = (told.status.code(), String::from_utf8(told.stderr).unwrap());
    assert!(told.0 == Some(1) && told.1.contains("--token-file"), "{told:?}");
}

#[test]
fn a_caller_does_what_its_rights_say_and_sees_its_namespaces() {
    let server = Server::with_tokens(Fake::new(2, 10));
    let shop = token(&server, "shop", "read", "shop");
    let pusher = token(&server, "ci", "push-database", "");
    let admin = token(&server, "admin", "read,manage-nodes", "");
    let ask = |token: &str, method: &str, target: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        server.ask(method, target, &headers, if method == "POST" { b"same" } else { b"" })
    };
    for (token, method, target, status) in [
        (&shop, "GET", "/api/v1/status", 200),
        (&shop, "POST", "/api/v1/database", 403),
        (&shop, "POST", "/api/v1/nodes/node-1/distrust", 403),
        (&pusher, "GET", "/api/v1/status", 403),
        (&pusher, "POST", "/api/v1/database", 200),
        (&pusher, "POST", "/api/v1/nodes/node-1/trust", 403),
        (&admin, "GET", "/metrics", 200),
        (&admin, "POST", "/api/v1/database", 403),
        (&admin, "POST", "/api/v1/nodes/node-1/distrust", 200),
        (&admin, "POST", "/api/v1/nodes/node-1/trust", 200),
    ] {
        assert_eq!(ask(token, method, target).status, status, "{method} {target}");
    }
    // Lists, counts, pages and metrics are over what the caller sees; and a tag of one is none of the other.
    assert_eq!(ask(&shop, "GET", "/api/v1/containers").json()["items"].as_array().unwrap().len(), 5);
    assert_eq!(ask(&admin, "GET", "/api/v1/containers").json()["items"].as_array().unwrap().len(), 10);
    assert_eq!(ask(&shop, "GET", "/api/v1/status").json()["containers"], 5);
    assert!(ask(&shop, "GET", "/metrics").body.contains("outcrop_containers{coverage=\"scanned\"} 4\n"));
    let layers = |token: &str| ask(token, "GET", "/api/v1/layers");
    assert_eq!(layers(&shop).body, layers(&admin).body);
    assert_ne!(layers(&shop).header("ETag"), layers(&admin).header("ETag"));
    // A person's browser shows the token as a password, and that only reads.
    use base64::Engine as _;
    let basic =
        |token: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("me:{token}")));
    let page = server.ask("GET", "/", &[("Authorization", &basic(&shop))], b"");
    assert!(page.status == 200 && page.body.contains("5 containers"), "{page:?}");
    let headers = [("Authorization", &*basic(&pusher)), ("Content-Type", "application/json")];
    assert_eq!(server.ask("POST", "/api/v1/database", &headers, b"same").status, 401);
    // A token that is taken out of the file opens nothing from then on.
    fs::write(server.at("tokens"), "").unwrap();
    assert_eq!(ask(&admin, "GET", "/api/v1/status").status, 401);
}

#[test]
fn the_command_line_shows_its_token() {
    let server = Server::with_tokens(Fake::new(2, 10));
    for (name, rights) in [("reader", "read"), ("all", "read,push-database,manage-nodes")] {
        fs::write(server.at(name), token(&server, name, rights, "")).unwrap();
    }
    let [reader, all] = ["reader", "all"].map(|name| server.at(name).display().to_string());
    let status = server.told(&["status", "-o", "json", "--token-file", &reader]);
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["containers"], 10);
    let refused = server.outcrop(&["node", "distrust", "node-1", "--token-file", &reader]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(
        (refused.status.code(), told.as_str()),
        (Some(1), "outcrop: reader does not have the right manage-nodes\n")
    );
    let told = server.told(&["node", "distrust", "node-1", "--token-file", &all]);
    assert_eq!(told, "node-1 distrusted: 3 layers will be read again\n");
    for (arguments, code) in [
        (&["token", "new", "--api", "x", "--rights", "write", "--tokens", "/dev/null"][..], 64),
        (&["token", "new", "--api", "x y", "--tokens", "/dev/null"], 1),
        (&["token", "new", "--tokens", "/dev/null"], 64),
        (&["token", "new", "node-1", "--rights", "read", "--tokens", "/dev/null"], 64),
    ] {
        assert_eq!(server.outcrop(arguments).status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn no_name_that_somebody_points_at_loopback_is_answered() {
    let server = Server::open(Fake::new(2, 2));
    let port = server.address.port();
    for (host, status) in [
        (format!("localhost:{port}"), 200),
        ("LOCALHOST".to_owned(), 200),
        ("127.8.9.1:80".to_owned(), 200),
        ("[::1]:80".to_owned(), 200),
        ("outcrop.example".to_owned(), 200),
        ("evil.example".to_owned(), 421),
        ("127.0.0.1.evil.example".to_owned(), 421),
        ("localhost.evil.example".to_owned(), 421),
        ("192.0.2.1".to_owned(), 421),
        ("user@evil.example".to_owned(), 421),
        (String::new(), 421),
    ] {
        let answer = server.ask("GET", "/api/v1/status", &[("Host", &host)], b"");
        assert_eq!(answer.status, status, "{host}: {answer:?}");
    }
    assert_eq!(server.ask("GET", "/healthz", &[("Host", "10.1.2.3")], b"").status, 200);
}

#[test]
fn where_a_token_is_needed_any_name_will_do() {
    let access = |_: &std::path::Path| (Arc::new(Loopback) as Arc<dyn Authorizer>, None);
    let server = Server::start(Fake::new(2, 2), access, |config| config.loopback = false);
    for host in ["10.1.2.3:7480", "outcrop.cluster.example", "anything"] {
        assert_eq!(server.ask("GET", "/api/v1/status", &[("Host", host)], b"").status, 200, "{host}");
    }
}

#[test]
fn no_page_changes_anything_here() {
    let fake = Fake::new(2, 2);
    let pushed = Arc::clone(&fake.pushed);
    let server = Server::open(fake);
    let origin = ("Origin", "https://evil.example");
    for (headers, status) in [
        // What a form, a beacon or a fetch without asking can send.
        (&[("Content-Type", "text/plain")][..], 415),
        (&[("Content-Type", "application/x-www-form-urlencoded")], 415),
        (&[("Content-Type", "multipart/form-data; boundary=x")], 415),
        (&[], 415),
        (&[("Content-Type", "application/json"), origin], 403),
        (&[("Content-Type", "application/octet-stream"), ("Origin", "null")], 403),
    ] {
        for target in ["/api/v1/database", "/api/v1/nodes/node-1/distrust"] {
            assert_eq!(server.ask("POST", target, headers, b"same").status, status, "{target} {headers:?}");
        }
    }
    // A page that asks whether it may is not told that it may.
    let asks = [origin, ("Access-Control-Request-Method", "POST")];
    let answer = server.ask("OPTIONS", "/api/v1/database", &asks, b"");
    assert!(answer.status >= 400 && answer.header("Access-Control-Allow-Origin").is_empty(), "{answer:?}");
    assert!(pushed.lock().unwrap().is_empty());
}
