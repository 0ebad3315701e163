//! The OpenAPI document, compared with real responses.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fake::Fake;
use super::server::{Answer, Server};

/// The document, strict: what it does not tell of is not answered.
fn document(server: &Server) -> Value {
    let mut document = server.get("/api/v1/openapi.json").json();
    for schema in document["components"]["schemas"].as_object_mut().unwrap().values_mut() {
        close(schema);
    }
    document
}

fn close(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    if schema.contains_key("properties") && !schema.contains_key("additionalProperties") {
        schema.insert("additionalProperties".to_owned(), json!(false));
    }
    schema.values_mut().for_each(close);
}

/// Holds an answer against the schema that the document has for it.
fn check(document: &Value, path: &str, method: &str, answer: &Answer) {
    let told = &document["paths"][path][method]["responses"][answer.status.to_string()];
    let kind = answer.header("Content-Type");
    let schema = &told["content"][&kind]["schema"];
    assert!(schema.is_object(), "{method} {path} {} {kind} is not in the document: {told:#}", answer.status);
    let mut schema = schema.clone();
    schema["components"] = document["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let value = if kind.contains("csv") { Value::from(&*answer.body) } else { answer.json() };
    let errors: Vec<String> =
        validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{method} {path} {}: {errors:#?}", answer.status);
}

/// Where the path of the document leads, with something for each of its words.
fn target(path: &str) -> String {
    let question = if path.ends_with("who-has") { "?q=log4j-core" } else { "" };
    let path = path.replace("{namespace}/{kind}/{name}", "shop/deploy/web-2");
    // The one delivery that was refused, and a target.
    let id = if path.contains("/deliveries/") { "0" } else { "CVE-2021-44228" };
    let name = if path.contains("/targets/") { "central" } else { "node-1" };
    path.replace("{id}", id).replace("{name}", name) + question
}

#[test]
fn every_answer_is_what_the_document_says() {
    let server = Server::open(Fake::new(12, 30));
    let document = document(&server);
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document:#}");
    let json = [("Content-Type", "application/json")];
    for (path, methods) in document["paths"].as_object().unwrap() {
        let target = target(path);
        if methods.get("get").is_some() {
            let answer = server.get(&target);
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            check(&document, path, "get", &answer);
            let more = if target.contains('?') { '&' } else { '?' };
            let refused = server.get(&format!("{target}{more}unheard=of"));
            assert_eq!(refused.status, 400, "{path}: {refused:?}");
            check(&document, path, "get", &refused);
        }
        if methods.get("post").is_some() {
            let answer = server.ask("POST", &target, &json, b"same");
            assert_eq!(answer.status, 200, "{path}: {answer:?}");
            check(&document, path, "post", &answer);
            check(&document, path, "post", &server.ask("POST", &target, &[], b"same"));
            check(&document, path, "post", &server.ask("POST", &format!("{target}?unheard=of"), &json, b"same"));
        }
    }
    for id in ["panic", "store", "nothing"] {
        check(&document, "/api/v1/advisories/{id}", "get", &server.get(&format!("/api/v1/advisories/{id}")));
    }
    let push = |body: &[u8]| server.ask("POST", "/api/v1/database", &json, body);
    for (body, status) in [(&b"fresh"[..], 200), (b"shrunk", 409), (&vec![0; (1 << 20) + 1], 413)] {
        let answer = push(body);
        assert_eq!(answer.status, status);
        check(&document, "/api/v1/database", "post", &answer);
    }
}

#[test]
fn every_path_of_the_document_is_versioned_and_described() {
    let server = Server::open(Fake::new(2, 2));
    let document = document(&server);
    for (path, methods) in document["paths"].as_object().unwrap() {
        assert!(path.starts_with("/api/v1/"), "{path}");
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{method} {path}");
            let named: Vec<&str> =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            let parameters = operation["parameters"].as_array().unwrap().iter();
            let described: Vec<&str> = parameters
                .filter(|parameter| parameter["in"] == "path")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            assert_eq!(described, named, "{method} {path}");
        }
    }
    assert!(document["components"]["securitySchemes"]["token"].is_object(), "{document:#}");
}

#[test]
fn every_parameter_of_the_document_is_known_and_no_other() {
    let server = Server::open(Fake::new(2, 2));
    let document = document(&server);
    for (path, methods) in document["paths"].as_object().unwrap() {
        let Some(parameters) = methods["get"]["parameters"].as_array() else { continue };
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let words = parameter["schema"]["enum"]
                .as_array()
                .map(|words| words.iter().map(|word| word.as_str().unwrap()).collect());
            let words: Vec<&str> = words.unwrap_or_else(|| match name {
                "limit" => vec!["1", "1000"],
                "attached" | "distrusted" | "disputed" | "running" => vec!["true", "false"],
                _ => vec!["x"],
            });
            for word in words {
                let question = if path.ends_with("who-has") && name != "q" { "q=x&" } else { "" };
                let answer = server.get(&format!("{path}?{question}{name}={word}"));
                // What no page ended with is no cursor; everything else is understood.
                let expected = if name == "continue" { 400 } else { 200 };
                assert_eq!(answer.status, expected, "{path}?{name}={word}: {answer:?}");
                assert!(name != "continue" || answer.body.contains("invalid value for continue"), "{answer:?}");
            }
        }
    }
}

#[test]
fn what_cannot_be_answered_is_a_problem_with_words() {
    let server = Server::open(Fake::new(2, 2));
    let json = [("Content-Type", "application/json")];
    for (method, target, headers, status, says) in [
        (
            "GET",
            "/api/v1/layers?colour=red",
            &[][..],
            400,
            "expected one of id, state, disputed, node, stack, sort, limit, continue",
        ),
        ("GET", "/api/v1/layers?limit=1001", &[], 400, "from 1 to 1000"),
        ("GET", "/api/v1/layers?sort=colour", &[], 400, "expected one of id, findings, containers"),
        ("GET", "/api/v1/layers?continue=x", &[], 400, "invalid value for continue"),
        ("GET", "/api/v1/nodes?attached=maybe", &[], 400, "expected true or false"),
        ("GET", "/api/v1/who-has", &[], 400, "log4j-core"),
        ("GET", "/api/v1/who-has?q=!", &[], 400, "invalid question"),
        ("GET", "/api/v1/advisories/%ff", &[], 400, ""),
        ("GET", "/api/v1/advisories/CVE-1", &[], 404, "no advisory is known as CVE-1"),
        ("GET", "/api/v1/advisories/store", &[], 503, "the store is away"),
        ("GET", "/api/v1/advisories/panic", &[], 500, "internal error"),
        ("GET", "/api/v2/status", &[], 404, "path /api/v2/status not found"),
        ("GET", "/api/v1/database", &[], 405, "Allow"),
        ("DELETE", "/api/v1/status", &[], 405, "Allow"),
        ("POST", "/api/v1/nodes/nobody/distrust", &json, 404, "no node is called nobody"),
        ("POST", "/api/v1/database?allow-shrink=perhaps", &json, 400, "expected true or false"),
        ("POST", "/api/v1/database", &json, 400, "the request body is empty"),
    ] {
        let answer = server.ask(method, target, headers, b"");
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        assert_eq!(answer.header("Content-Type"), "application/problem+json", "{method} {target}");
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], "about:blank");
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert!(problem["detail"].as_str().unwrap().contains(says), "{method} {target}: {problem:#}");
        assert!(status != 405 || !answer.header("Allow").is_empty(), "{answer:?}");
        assert!(!answer.body.contains("as a test of what becomes of one"), "a panic's words are not told");
    }
}

#[test]
fn an_answer_that_the_caller_has_is_not_sent_again() {
    let server = Server::open(Fake::new(2, 2));
    let first = server.get("/api/v1/layers");
    let tag = first.header("ETag");
    assert!(tag.starts_with('"') && tag.len() == 66, "{tag}");
    assert_eq!(first.header("Cache-Control"), "no-cache, private");
    assert_eq!(first.header("Vary"), "Authorization");
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".to_owned()] {
        let again = server.ask("GET", "/api/v1/layers", &[("If-None-Match", &known)], b"");
        assert_eq!((again.status, again.body.as_str(), again.header("ETag")), (304, "", tag.clone()), "{known}");
    }
    let other = server.ask("GET", "/api/v1/layers?limit=1", &[("If-None-Match", &tag)], b"");
    assert_eq!(other.status, 200);
}

#[test]
fn the_end_of_a_page_is_where_the_next_begins() {
    let server = Server::open(Fake::new(2, 7));
    let mut target = "/api/v1/containers?limit=3".to_owned();
    let mut counts = Vec::new();
    let mut seen = BTreeSet::new();
    loop {
        let page = server.get(&target).json();
        let items = page["items"].as_array().unwrap();
        counts.push(items.len());
        seen.extend(items.iter().map(|item| item["id"].to_string()));
        let Some(next) = page["continue"].as_str() else { break };
        target = format!("/api/v1/containers?limit=3&continue={next}");
    }
    assert_eq!((counts, seen.len()), (vec![3, 3, 1], 7));
    // The end of a page of another list is none of this one.
    let layers = server.get("/api/v1/layers?limit=1").json();
    let next = layers["continue"].as_str().unwrap();
    assert_eq!(server.get(&format!("/api/v1/containers?continue={next}")).status, 400);
}
