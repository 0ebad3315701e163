//! Authentication and authorization of callers, and requests that a web page could forge.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use outcrop::web::{Admission, Authorizer, Denied, Loopback, Permission, Probe, Probes};

use serde_json::Value;

use super::exposition::parse;
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
    for target in ["/", "/metrics", "/api/v1/status", "/api/v1/openapi.json", "/api/v1/layers"] {
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
    for probe in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(server.get(probe).status, 200, "{probe}");
    }
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
    let sender = token(&server, "sender", "read,manage-deliveries", "");
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
        (&admin, "POST", "/api/v1/targets/central/test", 403),
        (&shop, "GET", "/api/v1/deliveries/0", 404),
        (&sender, "GET", "/api/v1/deliveries/0", 200),
        (&sender, "POST", "/api/v1/deliveries/0/replay", 200),
        (&sender, "POST", "/api/v1/deliveries/0/drop", 200),
        (&sender, "POST", "/api/v1/targets/central/resync", 200),
        (&sender, "POST", "/api/v1/targets/nobody/resync", 404),
        (&sender, "POST", "/api/v1/nodes/node-1/trust", 403),
    ] {
        assert_eq!(ask(token, method, target).status, status, "{method} {target}");
    }
    // Lists, counts, pages and metrics are over what the caller sees; and a tag of one is none of the other.
    assert_eq!(ask(&shop, "GET", "/api/v1/containers").json()["items"].as_array().unwrap().len(), 5);
    assert_eq!(ask(&admin, "GET", "/api/v1/containers").json()["items"].as_array().unwrap().len(), 10);
    for (list, count) in [("targets", 2), ("deliveries", 3)] {
        let length = |token| ask(token, "GET", &format!("/api/v1/{list}")).json()["items"].as_array().unwrap().len();
        assert_eq!((length(&shop), length(&admin)), (0, count), "targets are told of all namespaces");
    }
    assert_eq!(ask(&shop, "GET", "/api/v1/status").json()["containers"], 5);
    assert!(ask(&shop, "GET", "/metrics").body.contains("outcrop_containers{coverage=\"scanned\"} 4.0\n"));
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
fn a_token_for_some_namespaces_changes_nothing_cluster_wide_whatever_its_rights_are() {
    let fake = Fake::new(2, 4);
    let (pushed, audited) = (Arc::clone(&fake.pushed), Arc::clone(&fake.audited));
    let server = Server::with_tokens(fake);
    let tokens = server.at("tokens").display().to_string();
    let made = server.outcrop(&[
        "token",
        "new",
        "--api",
        "shop",
        "--rights",
        "read,manage-nodes",
        "--namespaces",
        "shop",
        "--tokens",
        &tokens,
    ]);
    let told = String::from_utf8(made.stderr).unwrap();
    assert!(made.status.code() == Some(1) && told.contains("the right manage-nodes is cluster-wide"), "{told}");
    // A line that was written by hand.
    let shop = token(&server, "shop", "read,push-database,manage-nodes", "");
    let line = fs::read_to_string(&tokens).unwrap();
    fs::write(&tokens, format!("{} shop\n", line.trim_end())).unwrap();
    let bearer = format!("Bearer {shop}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    for target in ["/api/v1/database", "/api/v1/nodes/node-1/distrust", "/api/v1/nodes/nobody/trust"] {
        let answer = server.ask("POST", target, &headers, b"fresh");
        assert_eq!(answer.status, 403, "{target}: {answer:?}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("shop is limited to namespaces, and the right "), "{target}: {detail}");
        assert!(detail.contains(" is cluster-wide") && !detail.contains(|of: char| of.is_ascii_digit()), "{detail}");
    }
    assert!(pushed.lock().unwrap().is_empty());
    assert_eq!(audited.lock().unwrap().len(), 3);
    assert_eq!(server.ask("GET", "/api/v1/status", &headers, b"").status, 200, "the right to read is in effect");
}

#[test]
fn a_cursor_is_opaque_and_of_use_to_its_caller_only() {
    let server = Server::with_tokens(Fake::new(2, 10));
    let [shop, bank] = ["shop", "bank"].map(|name| token(&server, name, "read", name));
    let get = |token: &str, target: &str| {
        let bearer = format!("Bearer {token}");
        server.ask("GET", target, &[("Authorization", bearer.as_str())], b"")
    };
    for (list, other) in
        [("containers?limit=2", "findings?limit=2"), ("who-has?q=bash&limit=2", "who-has?q=sh&limit=2")]
    {
        let [list, other] = [list, other].map(|list| format!("/api/v1/{list}"));
        let next = get(&shop, &list).json()["continue"].as_str().unwrap().to_owned();
        assert_eq!(get(&shop, &list).json()["continue"], next.as_str(), "the ETag of a page does not change");
        let target = format!("{list}&continue={next}");
        assert_eq!(get(&shop, &target).status, 200);
        for refused in [
            get(&bank, &target),
            get(&shop, &format!("{other}&continue={next}")),
            get(&shop, &format!("{target}A")),
            get(&shop, &format!("{list}&continue={}", &next[..next.len() - 4])),
        ] {
            assert_eq!(refused.status, 400, "{refused:?}");
            assert!(refused.body.contains("does not belong to this caller"), "{refused:?}");
        }
    }
    assert_eq!(get(&shop, "/api/v1/containers?limit=2&node=node-1&continue=eyJ9").status, 400);
}

#[test]
fn a_caller_who_tries_to_change_something_and_cannot_is_audited() {
    let fake = Fake::new(2, 2);
    let audited = Arc::clone(&fake.audited);
    let server = Server::with_tokens(fake);
    let [ann, bob] = [("ann", "read"), ("bob", "manage-nodes")].map(|(name, right)| token(&server, name, right, ""));
    for (token, method, target, status, audit) in [
        (&ann, "POST", "/api/v1/nodes/node-1/distrust", 403, Some("ann distrust-node \"node-1\" true")),
        (&ann, "POST", "/api/v1/nodes/node-1/trust", 403, Some("ann trust-node \"node-1\" true")),
        (&ann, "POST", "/api/v1/database", 403, Some("ann push-database \"\" true")),
        (&bob, "POST", "/api/v1/nodes/nobody/distrust", 404, Some("bob distrust-node \"nobody\" false")),
        // What is done is recorded by who does it; nobody knows who shows a wrong token; and reading changes nothing.
        (&bob, "POST", "/api/v1/nodes/node-1/distrust", 200, None),
        (&"guess".to_owned(), "POST", "/api/v1/nodes/node-1/distrust", 401, None),
        (&bob, "GET", "/api/v1/status", 403, None),
    ] {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
        assert_eq!(server.ask(method, target, &headers, b"").status, status, "{method} {target}");
        assert_eq!(
            audited.lock().unwrap().drain(..).collect::<Vec<_>>().join(";"),
            audit.unwrap_or_default(),
            "{target}"
        );
    }
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
    assert_eq!(told, "node-1 distrusted: 3 layers are read again as soon as other nodes have them\n");
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

/// Denies every permission, and records which ones were requested.
#[derive(Default)]
struct Deny(Mutex<Vec<(&'static str, &'static str)>>);

impl Authorizer for Deny {
    fn authorize<'a>(&'a self, _: Option<&'a str>, permission: Permission) -> Admission<'a> {
        self.0.lock().unwrap().push((permission.verb, permission.resource));
        Box::pin(async {
            Err(Denied::Forbidden { name: "nobody".to_owned(), detail: "nothing is permitted".to_owned() })
        })
    }
}

#[test]
fn every_route_asks_for_its_own_permission_and_an_unknown_path_for_none() {
    let deny = Arc::new(Deny::default());
    let authorizer = Arc::clone(&deny);
    let server = Server::start(Fake::new(2, 2), |_| (authorizer as Arc<dyn Authorizer>, None), |_| ());
    // The document is read from an open server: here nobody may.
    let document = Server::open(Fake::new(1, 1)).get("/api/v1/openapi.json").json();
    let json = [("Content-Type", "application/json")];
    let mut requested = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let target = path.replace(['{', '}'], "");
            let answer = server.ask(&method.to_uppercase(), &target, &json, b"x");
            assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
            let permissions: Vec<_> = deny.0.lock().unwrap().drain(..).collect();
            let [permission] = permissions.as_slice() else { panic!("{method} {path}: {permissions:?}") };
            requested.insert(format!("{method} {path}"), format!("{} {}", permission.0, permission.1));
        }
    }
    let expected = [
        ("get /api/v1/advisories/{id}", "get findings"),
        ("get /api/v1/containers", "list containers"),
        ("get /api/v1/deliveries", "list deliveries"),
        ("get /api/v1/deliveries/{id}", "get deliveries"),
        ("get /api/v1/exports/findings", "get exports"),
        ("get /api/v1/exports/packages", "get exports"),
        ("get /api/v1/exports/report", "get exports"),
        ("get /api/v1/exports/sbom", "get exports"),
        ("get /api/v1/exports/vex", "get exports"),
        ("get /api/v1/findings", "list findings"),
        ("get /api/v1/images", "list images"),
        ("get /api/v1/issues", "list issues"),
        ("get /api/v1/layers", "list layers"),
        ("get /api/v1/nodes", "list nodes"),
        ("get /api/v1/openapi.json", "get status"),
        ("get /api/v1/packages", "list packages"),
        ("get /api/v1/status", "get status"),
        ("get /api/v1/targets", "list targets"),
        ("get /api/v1/who-has", "list packages"),
        ("get /api/v1/workloads", "list workloads"),
        ("get /api/v1/workloads/{namespace}/{kind}/{name}", "get workloads"),
        ("post /api/v1/database", "create databases"),
        ("post /api/v1/deliveries/{id}/drop", "update deliveries"),
        ("post /api/v1/deliveries/{id}/replay", "update deliveries"),
        ("post /api/v1/nodes/{name}/distrust", "update nodes"),
        ("post /api/v1/nodes/{name}/trust", "update nodes"),
        ("post /api/v1/targets/{name}/resync", "update targets"),
        ("post /api/v1/targets/{name}/test", "update targets"),
    ];
    let expected: BTreeMap<String, String> = expected.map(|(of, needs)| (of.to_owned(), needs.to_owned())).into();
    assert_eq!(requested, expected, "a new route is added here, with the permission that it needs");
    for page in ["/", "/metrics"] {
        assert_eq!(server.get(page).status, 403, "{page}");
    }
    assert_eq!(deny.0.lock().unwrap().drain(..).collect::<Vec<_>>(), [("get", "status"); 2]);
    for unknown in [
        "/nothing",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/statuses",
        "/api/v1/status/",
        "/api/v1/nodes/a/b",
        "/metrics/",
    ] {
        assert_eq!(server.get(unknown).status, 404, "{unknown}");
        assert!([404, 405].contains(&server.ask("POST", unknown, &json, b"x").status), "{unknown}");
    }
    assert_eq!(server.ask("DELETE", "/api/v1/status", &json, b"").status, 405);
    for probe in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(server.get(probe).status, 200, "{probe}");
    }
    assert_eq!(deny.0.lock().unwrap().len(), 0, "nobody is asked about what is not there");
}

#[test]
fn a_probe_says_which_check_failed_and_lists_all_of_them_where_asked() {
    let probes = Probes::default();
    let health = probes.health();
    let full = Arc::new(AtomicBool::new(false));
    let is_full = Arc::clone(&full);
    health.register("tasks", Probe::Live, || Ok(()));
    health.register("store", Probe::Ready, move || match is_full.load(Ordering::SeqCst) {
        true => Err("/secret/place is full".to_owned()),
        false => Ok(()),
    });
    let access = |_: &std::path::Path| (Arc::new(Loopback) as Arc<dyn Authorizer>, None);
    let server = Server::start(Fake::new(2, 2), access, |config| config.probes = probes.clone());
    let ask = |target: &str| {
        let answer = server.get(target);
        (answer.status, answer.body)
    };
    assert_eq!(ask("/readyz"), (200, "ok\n".to_owned()));
    let passed = "[+]tasks ok\n[+]store ok\n[+]api ok\nreadyz check passed\n";
    assert_eq!(ask("/readyz?verbose"), (200, passed.to_owned()));
    assert_eq!(ask("/livez?verbose"), (200, "[+]tasks ok\nlivez check passed\n".to_owned()));
    full.store(true, Ordering::SeqCst);
    let failed = "[+]tasks ok\n[-]store failed: reason withheld, see the log\n[+]api ok\nreadyz check failed\n";
    assert_eq!(ask("/readyz"), (503, failed.to_owned()));
    assert_eq!(ask("/livez"), (200, "ok\n".to_owned()));
    full.store(false, Ordering::SeqCst);
    assert_eq!(ask("/readyz"), (200, "ok\n".to_owned()));
}

#[test]
fn requests_are_counted_by_route_and_never_by_path() {
    let server = Server::open(Fake::new(2, 2));
    for target in ["/api/v1/status", "/api/v1/advisories/CVE-1", "/api/v1/advisories/CVE-2", "/no/such/path", "/other"]
    {
        server.get(target);
    }
    let series = parse(&server.get("/metrics").body).unwrap();
    let count = |route: &str, code: &str| {
        let labels = [("route", route), ("code", code)].map(|(key, value)| (key.to_owned(), value.to_owned()));
        series.get(&("outcrop_http_requests_total".to_owned(), labels.into())).copied().map(|count| format!("{count}"))
    };
    for (route, code, expected) in [
        ("/api/v1/status", "2xx", Some("1")),
        ("/api/v1/advisories/{id}", "4xx", Some("2")),
        ("unknown", "4xx", Some("2")),
        ("/no/such/path", "4xx", None),
    ] {
        assert_eq!(count(route, code).as_deref(), expected, "{route} {code}");
    }
    let duration = (
        "outcrop_http_request_duration_seconds_count".to_owned(),
        [("route".to_owned(), "/api/v1/advisories/{id}".to_owned())].into(),
    );
    assert_eq!(series.get(&duration).copied().map(|count| format!("{count}")).as_deref(), Some("2"));
}
