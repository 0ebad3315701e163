//! One hostile image, node and feed against every sink.

use std::collections::BTreeSet;

use outcrop_proto::escape::escape;
use serde_json::Value;

use super::exposition::parse;
use super::fake::{Fake, HOSTILE};
use super::server::Server;

#[test]
fn the_page_runs_nothing_and_shows_what_is_there() {
    let server = Server::open(Fake::new(12, 30));
    let page = server.get("/");
    assert_eq!((page.status, page.header("Content-Type").as_str()), (200, "text/html; charset=utf-8"));
    let policy = page.header("Content-Security-Policy");
    for part in ["default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("script"), "{policy}");
    assert_eq!(page.header("X-Content-Type-Options"), "nosniff");
    assert_eq!(page.header("Referrer-Policy"), "no-referrer");
    // The policy's hash is the style's.
    let style = page.body.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
    use base64::Engine as _;
    let hash = base64::engine::general_purpose::STANDARD.encode(outcrop_proto::Digest::of(style.as_bytes()).0);
    assert!(policy.contains(&format!("style-src 'sha256-{hash}'")), "{policy}");
    // Every tag is one of the page's own, with the attributes of the page's own, and no character misleads.
    let known = [
        "!doctype", "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "main", "section",
        "table", "thead", "tbody", "tr", "th", "td", "code", "a", "footer",
    ];
    for tag in page.body.split('<').skip(1) {
        let (inside, _) = tag.split_once('>').unwrap();
        let name = inside.trim_start_matches('/').split(' ').next().unwrap();
        assert!(known.contains(&name), "<{inside}>");
        assert!(!inside.contains("onerror") && !inside.contains("src="), "<{inside}>");
    }
    let misleads = |character: char| character != '\n' && outcrop::web::is_treacherous(character);
    assert!(!page.body.contains(misleads), "{:?}", page.body.chars().find(|character| misleads(*character)));
    for shown in [
        "&lt;script&gt;alert(1)&lt;/script&gt;",
        "30 containers, each with exactly one state",
        "12 known: 10 attached, 2 silent; 1 degraded, 1 with a weaker sandbox, 1 distrusted",
        "+12 −5 findings in 3 stacks, 1.2 s, 0 nodes rescanned",
        "Reports of nodes are not accepted",
        "Disputed layers: 1.",
        "href=\"/api/v1/layers?sort=-findings\"",
        "href=\"/api/v1/findings\"",
    ] {
        assert!(page.body.contains(shown), "{shown:?} is not in {}", page.body);
    }
}

#[test]
fn five_thousand_nodes_make_the_page_no_longer() {
    let small = Server::open(Fake::new(50, 3)).get("/").body.len();
    let large = Server::open(Fake::new(5_000, 3)).get("/");
    assert!(large.body.contains("5000 known: 4500 attached, 500 silent"));
    assert!(large.body.contains("href=\"/api/v1/nodes?attached=false\""));
    assert!(large.body.len() < small + 2_000, "{small} became {}", large.body.len());
}

#[test]
fn metrics_are_what_prometheus_reads_and_hold_the_whole_status() {
    let server = Server::open(Fake::new(1_234, 30));
    let answer = server.get("/metrics");
    assert_eq!(answer.header("Content-Type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let misleads = |character: char| character != '\n' && outcrop::web::is_treacherous(character);
    assert!(!answer.body.contains(misleads), "{:?}", answer.body.chars().find(|character| misleads(*character)));
    let series = parse(&answer.body).unwrap();
    let hostile = &*escape(HOSTILE);
    let value = |name: &str, labels: &[(&str, &str)]| {
        let wanted = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        *series.get(&(name.to_owned(), wanted)).unwrap_or_else(|| panic!("{name} {labels:?} is not in {series:#?}"))
    };
    for (name, labels, expected) in [
        ("outcrop_build_info", &[("cluster", hostile), ("version", "0.1.0")][..], 1.0),
        ("outcrop_nodes", &[("state", "attached")], 1110.0),
        ("outcrop_nodes", &[("state", "silent")], 124.0),
        ("outcrop_containers", &[("coverage", "scanned")], 29.0),
        ("outcrop_gaps", &[("kind", "containers-partial")], 1.0),
        ("outcrop_gaps", &[("kind", "containers-pending")], 0.0),
        ("outcrop_gaps", &[("kind", "containers-unreported")], 1.0),
        ("outcrop_gaps", &[("kind", "containers-stray")], 2.0),
        ("outcrop_gaps", &[("kind", "nodes-without-agent")], 2.0),
        ("outcrop_gaps", &[("kind", "nodes-silent")], 124.0),
        ("outcrop_gaps", &[("kind", "nodes-degraded")], 1.0),
        ("outcrop_gaps", &[("kind", "nodes-distrusted")], 1.0),
        ("outcrop_gaps", &[("kind", "nodes-weak-sandbox")], 1.0),
        ("outcrop_gaps", &[("kind", "layers-disputed")], 1.0),
        ("outcrop_gaps", &[("kind", "findings-withheld")], 5.0),
        ("outcrop_gaps", &[("kind", "assessments-stale")], 1.0),
        ("outcrop_gaps", &[("kind", "assessments-unmatched")], 1.0),
        ("outcrop_gaps", &[("kind", "database-refused")], 1.0),
        ("outcrop_gaps", &[("kind", "database-missing")], 0.0),
        ("outcrop_gaps", &[("kind", "store-not-writable")], 1.0),
        ("outcrop_refusals_total", &[("reason", "wire-version")], 1.0),
        ("outcrop_problems", &[("kind", "tokens")], 1.0),
        ("outcrop_problems", &[("kind", "store")], 0.0),
        ("outcrop_assessed_containers", &[("ecosystem", "Debian"), ("state", "stale")], 1.0),
        ("outcrop_layers", &[("state", "failed")], 3.0),
        ("outcrop_findings", &[("severity", "critical")], 1.0),
        ("outcrop_containers_seen_total", &[], 33.0),
        ("outcrop_containers_ended_total", &[("coverage", "failed")], 1.0),
        ("outcrop_inventories_total", &[], 10.0),
        ("outcrop_cross_reads_total", &[("outcome", "contradicted")], 1.0),
        ("outcrop_oldest_unscanned_seconds", &[], 77.0),
        ("outcrop_database_records", &[("ecosystem", "Debian")], 40_000.0),
        ("outcrop_rematch_duration_seconds", &[], 1.25),
        ("outcrop_rematch_findings", &[("change", "opened")], 12.0),
        ("outcrop_node_attached", &[("node", hostile)], 0.0),
        ("outcrop_node_degraded", &[("node", "node-2")], 1.0),
        ("outcrop_node_degraded", &[("node", "node-3")], 0.0),
        ("outcrop_node_same_version", &[("node", hostile)], 0.0),
        ("outcrop_node_same_version", &[("node", "node-2")], 1.0),
        ("outcrop_node_silent_seconds", &[("node", "node-1233")], 1.0),
        // Two workers of one agent are one series.
        ("outcrop_agent_resident_bytes", &[("node", "node-2"), ("role", "worker")], f64::from(12 << 20)),
        ("outcrop_agent_resident_bytes", &[("node", hostile), ("role", "other")], f64::from(7 << 20)),
        ("outcrop_agent_cpu_seconds_total", &[("node", "node-2"), ("role", "runtime")], 1.5),
        ("outcrop_agent_worker_deaths_total", &[("node", "node-2")], 1.0),
    ] {
        assert!((value(name, labels) - expected).abs() < 1e-9, "{name} {labels:?}: {}", value(name, labels));
    }
    let nodes = series.keys().filter(|(name, _)| name == "outcrop_node_attached").count();
    assert_eq!(nodes, 1_234, "every page of nodes was asked for");
    let age = value("outcrop_database_age_seconds", &[("ecosystem", "Debian")]);
    assert!(age >= 0.0);
    let sum: f64 = series.iter().filter(|((name, _), _)| name == "outcrop_containers").map(|(_, count)| count).sum();
    assert!((sum - 30.0).abs() < 1e-9, "the states add up");
}

#[test]
fn neither_what_nodes_and_images_say_nor_the_date_creates_a_series() {
    // What differs is text of images, agents and feeds, and counts; the nodes are the same.
    let series = |text: &str, count: u64| {
        let mut fake = Fake::new(20, 30);
        fake.words = Some((text.to_owned(), count));
        let body = Server::open(fake).get("/metrics").body;
        parse(&body).unwrap().into_keys().collect::<BTreeSet<_>>()
    };
    let one = series("sha256:1111 is disputed", 1);
    for (text, count) in [(HOSTILE, 0), ("modified 2026-11-01, which is 31 days ago", 7), ("", u64::from(u32::MAX))] {
        assert_eq!(series(text, count), one, "{text:?}");
    }
    let values = one.iter().flat_map(|(_, labels)| labels.values());
    assert!(values.clone().all(|value| !value.contains("1111") && !value.contains("Slackware")), "{one:?}");
}

#[test]
fn json_holds_every_word_unchanged() {
    let server = Server::open(Fake::new(2, 2));
    for (target, pointer) in [
        ("/api/v1/status", "/cluster"),
        ("/api/v1/nodes", "/items/0/name"),
        ("/api/v1/containers", "/items/0/image"),
        ("/api/v1/images", "/items/0/coverage/reason"),
        ("/api/v1/layers", "/items/0/step/keyword"),
        ("/api/v1/packages", "/items/0/version"),
        ("/api/v1/findings", "/items/0/summary"),
        ("/api/v1/advisories/CVE-2021-44228", "/summary"),
    ] {
        let answer = server.get(target);
        let bad = answer.body.chars().find(|character| outcrop::web::is_treacherous(*character));
        assert_eq!(bad, None, "{target}: the response itself misleads nobody");
        let answer = answer.json();
        assert_eq!(answer.pointer(pointer).and_then(Value::as_str), Some(HOSTILE), "{target}");
    }
}

#[test]
fn nothing_that_outcrop_prints_moves_the_cursor_or_is_a_formula() {
    let server = Server::open(Fake::new(2, 2));
    let kinds = ["nodes", "containers", "images", "layers", "packages", "findings"];
    let mut commands: Vec<Vec<&str>> = vec![vec!["status"], vec!["status", "-o", "yaml"], vec!["status", "-o", "json"]];
    for format in ["table", "wide", "json", "yaml", "csv"] {
        commands.extend(kinds.map(|kind| vec!["get", kind, "-o", format]));
        commands.push(vec!["who-has", HOSTILE, "-o", format]);
        if format != "csv" {
            commands.push(vec!["get", "advisory", "CVE-2021-44228", "-o", format]);
        }
    }
    for command in commands {
        let text = server.told(&command);
        // The end of a line of CSV is two characters.
        let text = if command.last() == Some(&"csv") { text.replace("\r\n", "\n") } else { text };
        let bad = text.chars().find(|character| *character != '\n' && outcrop::web::is_treacherous(*character));
        assert_eq!(bad, None, "{command:?}: {text:?}");
        assert!(text.contains("alert(1)"), "{command:?} leaves it out: {text}");
        match command.last() {
            Some(&"json") => assert!(
                serde_json::from_str::<Value>(&text)
                    .unwrap()
                    .to_string()
                    .contains(&*serde_json::to_string(HOSTILE).unwrap())
            ),
            Some(&"csv") => {
                let cells = text.lines().flat_map(|line| line.split("\",\"").flat_map(|part| part.split(',')));
                let formula =
                    cells.map(|cell| cell.trim_start_matches('"')).find(|cell| cell.starts_with(['=', '+', '@']));
                assert_eq!(formula, None, "{command:?}: {text}");
            }
            _ => (),
        }
    }
    // An error says the same word, escaped and unchanged.
    let missing = server.get("/api/v1/advisories/%1b%c2%9b31m%e2%80%ae");
    assert_eq!(missing.body.chars().find(|character| outcrop::web::is_treacherous(*character)), None, "{missing:?}");
    assert!(missing.json()["detail"].as_str().unwrap().contains("\u{1b}\u{9b}31m\u{202e}"), "{missing:?}");
    // Words of a problem go to the terminal too.
    let lost = server.outcrop(&["get", "advisory", HOSTILE]);
    let text = String::from_utf8(lost.stderr).unwrap();
    assert_eq!((lost.status.code(), text.lines().count()), (Some(1), 1), "{text:?}");
    assert!(text.contains("no advisory is known as =cmd") && !text.contains('\u{1b}'), "{text:?}");
    let distinct: BTreeSet<char> = text.chars().filter(|character| character.is_control()).collect();
    assert_eq!(distinct, ['\n'].into());
}
