//! Questions and lists of an aggregator with containers: ranges of versions, unknown vulnerabilities, orders and filters.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::Value;

use super::load::{rematch, runtime, settle, who_has, with_packages};
use super::node::{Fleet, node_name};
use super::service::{OUTCROP, Service, encoded};
use super::world::{Shape, World};

/// Runs `outcrop` against the aggregator.
fn outcrop(service: &Service, arguments: &[&str]) -> Output {
    Command::new(OUTCROP).args(arguments).args(["--server", &format!("http://{}", service.api)]).output().unwrap()
}

/// Standard output and standard error of `outcrop`, with its exit code.
fn told(service: &Service, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = outcrop(service, arguments);
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Severities, the worst first.
const SEVERITIES: [&str; 6] = ["critical", "high", "medium", "low", "negligible", "unknown"];

/// The counts of a field `findings`, the worst severity first.
fn counts(item: &Value) -> Vec<u64> {
    match &item["findings"] {
        Value::Number(count) => vec![count.as_u64().unwrap()],
        counts => SEVERITIES.iter().map(|severity| counts[severity].as_u64().unwrap_or_default()).collect(),
    }
}

#[test]
fn questions_and_lists_of_a_fleet_mean_what_they_say() {
    let shape = Shape::SMALL;
    let runtime = runtime();
    let service = Service::start((0..shape.nodes).map(node_name), &[]);
    let fleet = Fleet::new(World::new(shape), &service);
    runtime.block_on(async { fleet.start() });
    settle(&service, shape, false);
    rematch(&service);

    ranges_are_those_of_the_ecosystem(&service, &fleet);
    what_is_not_understood_or_not_known_is_said(&service);
    every_order_that_a_list_names_is_an_order(&service);
    severities_are_a_minimum_or_equal(&service);
    filters_that_select_nothing_are_named(&service);
    a_layer_is_found_by_what_the_table_shows(&service);
    fleet.stop();
}

fn ranges_are_those_of_the_ecosystem(service: &Service, fleet: &Fleet) {
    let old = with_packages(fleet, &["npm lodash 4.17.20"]);
    let all = with_packages(fleet, &["npm lodash 4.17.20", "npm lodash 4.17.21"]);
    let new = with_packages(fleet, &["npm lodash 4.17.21"]);
    let log4j = with_packages(fleet, &["maven org.apache.logging.log4j:log4j-core 2.14.1"]);
    assert!(!old.is_empty() && !new.is_empty() && !log4j.is_empty());
    for (question, expected) in [
        ("pkg:npm/lodash@<4.17.21", &old),
        ("lodash<4.17.21", &old),
        ("pkg:npm/lodash@>4.17.0,<4.17.21", &old),
        ("lodash@^4", &all),
        ("lodash", &all),
        ("pkg:npm/lodash@4.17.21 || 5.x", &new),
        ("lodash@vers:npm/>=4.17.21", &new),
        ("log4j-core[2.0,2.15)", &log4j),
        ("org.apache.logging.log4j:log4j-core:2.14.1", &log4j),
        ("CVE-2026-99999", &old),
        ("cve-2026-99999", &old),
        ("lodash<1", &BTreeSet::new()),
        ("pkg:pypi/lodash", &BTreeSet::new()),
    ] {
        assert_eq!(&who_has(service, question), expected, "{question}");
    }
    // `@types/lodash` and its like are other packages.
    let items = service.all(&format!("/api/v1/who-has?q={}", encoded("pkg:npm/lodash")));
    assert!(items.iter().all(|item| item["package"] == "lodash"), "{items:?}");
    let names = |name: &str| -> BTreeSet<String> {
        let items = service.all(&format!("/api/v1/packages?name={}", encoded(name)));
        items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("lodash"), ["lodash".to_owned()].into());
    let all = service.all("/api/v1/packages?type=npm");
    let scoped = all.iter().map(|item| item["name"].as_str().unwrap()).find(|name| name.starts_with('@')).unwrap();
    assert_eq!(names(scoped), [scoped.to_owned()].into());
    assert!(!names(scoped.split('/').next_back().unwrap()).contains(scoped), "{scoped}");
    assert_eq!(names("log4j-core"), ["org.apache.logging.log4j:log4j-core".to_owned()].into());
}

fn a_layer_is_found_by_what_the_table_shows(service: &Service) {
    let id = service.all("/api/v1/layers").remove(0)["id"].as_str().unwrap().to_owned();
    let (kind, digits) = id.split_once(":sha256:").unwrap();
    let short = &digits[..12];
    let by = |path: &str| -> Vec<String> {
        let items = service.all(path);
        items.iter().map(|item| item["id"].as_str().or(item["stack"].as_str()).unwrap().to_owned()).collect()
    };
    let images = by(&format!("/api/v1/images?layer={id}"));
    assert!(!images.is_empty());
    for text in [id.as_str(), &format!("{kind}:sha256:{short}"), &format!("sha256:{short}"), short, &digits[..40]] {
        assert_eq!(by(&format!("/api/v1/layers?id={text}")).as_slice(), std::slice::from_ref(&id), "{text}");
        assert_eq!(by(&format!("/api/v1/images?layer={text}")), images, "{text}");
    }
    let other = if kind == "diff" { "chain" } else { "diff" };
    assert_eq!(by(&format!("/api/v1/layers?id={other}:sha256:{digits}")), Vec::<String>::new());
    for text in [&digits[..11], "diff:", "sha256", &format!("{digits}0"), "diff:sha512:0123456789abcdef"] {
        let (status, body) = service.ask(&format!("/api/v1/layers?id={text}")).unwrap();
        assert!(status == 400 && body.contains("invalid layer identity"), "{text}: {status} {body}");
    }
    let (_, table, _) = told(service, &["get", "layers", &id]);
    let shown = table.lines().nth(1).unwrap().split_whitespace().last().unwrap();
    assert_eq!(shown, format!("{kind}:sha256:{short}"));
    assert_eq!(told(service, &["get", "layers", shown]).1, table);
    assert!(told(service, &["get", "layers", shown, "-o", "wide"]).1.contains(&id));
}

fn what_is_not_understood_or_not_known_is_said(service: &Service) {
    for question in ["log4j*", "CVE-2021", "lodash@<", "lodash<banana", "two words", "pkg:npm/a@>2,<1"] {
        let (status, body) = service.ask(&format!("/api/v1/who-has?q={}", encoded(question))).unwrap();
        assert!(status == 400 && body.contains("invalid query"), "{question}: {status} {body}");
        let (code, out, err) = told(service, &["who-has", question]);
        assert_eq!((code, out.as_str(), err.lines().count()), (64, "", 1), "{question}: {err}");
        assert!(err.starts_with("outcrop: invalid query"), "{err}");
    }
    // Who asks about what the database does not know is not told that nobody has it.
    for (question, is_known) in [("CVE-2026-99999", true), ("CVE-2099-12345", false), ("RUSTSEC-2099-0001", false)] {
        let answer = service.json(&format!("/api/v1/who-has?q={}", encoded(question)));
        let asked = &answer["vulnerability"];
        assert_eq!((&asked["id"], &asked["in_database"]), (&question.into(), &is_known.into()), "{answer}");
        let newest = asked["newest_record"].as_str().unwrap();
        let (code, out, err) = told(service, &["who-has", question]);
        if is_known {
            assert_eq!((code, err.as_str()), (0, ""), "{out}");
            continue;
        }
        assert_eq!(answer["items"], Value::Array(Vec::new()));
        let date = newest.split('T').next().unwrap();
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(&format!("{question} is not in the advisory database (newest record {date})")), "{err}");
        let (code, out, _) = told(service, &["who-has", question, "-o", "json"]);
        assert_eq!(
            (code, serde_json::from_str::<Value>(&out).unwrap()["items"].clone()),
            (1, Value::Array(Vec::new()))
        );
        let (code, _, err) = told(service, &["get", "advisory", question]);
        assert!(code == 1 && err.contains("is not in the advisory database"), "{err}");
    }
    // A package that no container has is nobody's: no database is asked.
    let (code, out, err) = told(service, &["who-has", "no-such-package"]);
    assert!(code == 0 && out.is_empty() && err.contains("no matches"), "{out}{err}");
    assert!(err.starts_with("no package has the name \"no-such-package\""), "{err}");
    assert!(service.json("/api/v1/who-has?q=no-such-package")["vulnerability"].is_null());
}

fn every_order_that_a_list_names_is_an_order(service: &Service) {
    let document = service.json("/api/v1/openapi.json");
    let mut orders = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let parameters = methods["get"]["parameters"].as_array().into_iter().flatten();
        let Some(sort) = parameters.into_iter().find(|parameter| parameter["name"] == "sort") else { continue };
        // Without an API server there are no workloads.
        if path.ends_with("workloads") || path.ends_with("issues") {
            continue;
        }
        let unordered = service.all(path);
        for word in sort["schema"]["enum"].as_array().unwrap() {
            let word = word.as_str().unwrap();
            let items = service.all(&format!("{path}?sort={word}"));
            assert_eq!(items.len(), unordered.len(), "{path} {word}: every item is on one page");
            let is_descending = word.starts_with('-');
            let field = word.trim_start_matches('-');
            let key = |item: &Value| -> Vec<u64> {
                match field {
                    "findings" => counts(item),
                    "containers" => vec![item["containers"].as_u64().unwrap()],
                    "severity" => {
                        let at = SEVERITIES.iter().position(|severity| item["severity"] == *severity);
                        vec![at.unwrap() as u64]
                    }
                    _ => Vec::new(),
                }
            };
            let name = |item: &Value| -> String {
                let name = match field {
                    "id" if path.ends_with("findings") => &item["id"],
                    "purl" => &item["name"],
                    _ => return String::new(),
                };
                name.as_str().unwrap().to_owned()
            };
            let mut keys: Vec<(Vec<u64>, String)> = items.iter().map(|item| (key(item), name(item))).collect();
            if is_descending {
                keys.reverse();
            }
            assert!(keys.is_sorted(), "{path} {word}");
            orders += 1;
        }
    }
    assert!(orders >= 20, "{orders}");
    let worst = service.all("/api/v1/images?sort=-findings");
    assert!(counts(&worst[0]) > counts(worst.last().unwrap()), "there is something to sort");
    let (code, out, err) = told(service, &["get", "findings", "--sort-by", "id", "--limit", "3", "--no-headers"]);
    assert_eq!((code, out.lines().count()), (0, 3), "{err}");
    assert_eq!(err, "--limit shows the first 3 items; there are more\n");
    for kind in ["images", "containers", "packages"] {
        let (code, _, err) = told(service, &["get", kind, "--sort-by", "-findings", "--limit", "1"]);
        assert!(code == 0 && err.contains("there are more"), "{kind}: {err}");
    }
    let (_, _, err) = told(service, &["get", "nodes", "--limit", "500"]);
    assert_eq!(err, "", "there is nothing beyond the limit");
}

fn severities_are_a_minimum_or_equal(service: &Service) {
    let all = service.all("/api/v1/findings");
    let with = |severities: &[&str]| {
        all.iter().filter(|item| severities.contains(&item["severity"].as_str().unwrap())).count()
    };
    let count = |arguments: &[&str]| {
        let (code, out, err) = told(service, &[&["get", "findings", "-o", "json"], arguments].concat());
        assert_eq!(code, 0, "{arguments:?}: {err}");
        serde_json::from_str::<Value>(&out).unwrap()["items"].as_array().unwrap().len()
    };
    for severity in SEVERITIES {
        assert_eq!(count(&["--field-selector", &format!("severity={severity}")]), with(&[severity]), "{severity}");
    }
    for (number, severity) in SEVERITIES.iter().enumerate().take(5) {
        let expected = with(&SEVERITIES[..=number]);
        assert_eq!(count(&["--severity", severity]), expected, "at least {severity}");
        assert_eq!(count(&["--severity", &severity.to_uppercase()]), expected, "at least {severity}, in upper case");
    }
    let distinct = SEVERITIES.iter().filter(|severity| with(&[severity]) > 0).count();
    assert!(distinct > 1, "there is something to tell apart");
    let (code, _, err) = told(service, &["get", "findings", "--severity", "Unknown"]);
    assert!(code == 64 && err.contains("--field-selector severity=unknown"), "{err}");
    let (code, _, err) = told(service, &["get", "findings", "--severity", "awful"]);
    assert!(code == 64 && err.contains("expected one of"), "{err}");
    assert_eq!(service.ask("/api/v1/findings?severity=unknown").unwrap().0, 400);
}

fn filters_that_select_nothing_are_named(service: &Service) {
    for (arguments, expected) in [
        (&["get", "findings", "-n", "typo"][..], "no container runs in namespace \"typo\""),
        (&["get", "findings", "--node", "nope"], "no node has the name \"nope\""),
        (&["get", "containers", "--node", "nope"], "no node has the name \"nope\""),
        (&["get", "findings", "--image", "nothing"], "no container runs image \"nothing\""),
        (&["get", "findings", "--field-selector", "package=no-such"], "no package has the name \"no-such\""),
        (&["get", "packages", "no-such"], "no package has the name \"no-such\""),
        (&["get", "findings", "lodash"], "\"lodash\" is not the ID of a vulnerability"),
    ] {
        let (code, out, err) = told(service, arguments);
        let lines: Vec<&str> = err.lines().collect();
        assert!(code == 0 && out.is_empty() && lines.len() == 2, "{arguments:?}: {out} {err}");
        assert!(lines[0].contains(expected) && lines[1].starts_with("no ") && lines[1].contains(" found;"), "{err}");
    }
    // Nobody knows what should be listed.
    let (code, out, err) = told(service, &["get", "findings", "CVE-2099-1234"]);
    let expected = "CVE-2099-1234 is not in the advisory database (newest record 2";
    assert!(code == 1 && out.is_empty() && err.contains(expected), "{out} {err}");
    // Both exist, and only together they select nothing.
    let node = node_name(0);
    let here: BTreeSet<String> = service
        .all(&format!("/api/v1/containers?node={node}"))
        .iter()
        .map(|item| item["namespace"].as_str().unwrap().to_owned())
        .collect();
    let elsewhere =
        service.all("/api/v1/containers").into_iter().map(|item| item["namespace"].as_str().unwrap().to_owned());
    let elsewhere = elsewhere.into_iter().find(|namespace| !here.contains(namespace)).unwrap();
    let (code, out, err) = told(service, &["get", "containers", "--node", &node, "-n", &elsewhere]);
    assert!(code == 0 && out.is_empty() && err.starts_with("no containers found"), "{out} {err}");
    for (arguments, expected) in [
        (&["get", "containers", "--field-selector", "coverage=scaned"][..], "expected one of scanned, partial"),
        (&["get", "images", "--field-selector", "coverage=scaned"], "expected one of scanned, partial"),
        (&["get", "layers", "--field-selector", "state=read"], "expected one of known"),
        (&["get", "packages", "--field-selector", "type=cargo"], "expected one of deb"),
        (&["get", "findings", "CVE-2021"], "expected CVE-YEAR-NUMBER"),
    ] {
        let (code, _, err) = told(service, arguments);
        assert!(code == 64 && err.contains(expected), "{arguments:?}: {code} {err}");
    }
}
